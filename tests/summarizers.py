"""Summarizers that need no model, for processes that import them by name: the first characters of a text, and what goes wrong."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

import numpy as np

from refimpl import bert
from refimpl.errors import ConfigError, TextError
from refimpl.inference.threads import blas_threads
from refimpl.spaces import extractor, seq2seq
from refimpl.spaces.summarizer import Settings, Summarizer
from refimpl.spaces.summary import Sentence, SourceMap, Summary, Token, located, spans_of
from refimpl.spaces.words import WordTokenizer
from refimpl.text.pieces import BYTES, SPACE, PieceTokenizer


def beginning(text: str) -> Summary:
    """The first sentence, copied, and an exclamation mark; a text may ask for what goes wrong."""
    if not text.strip():
        raise TextError("the text is empty")
    if "corrupt" in text:
        raise TextError("the text cannot be summarized", got="corrupt")
    if "unforeseen" in text:
        raise ZeroDivisionError("unforeseen")
    if "slow" in text:
        time.sleep(0.2)
    if "die" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in text:
        os._exit(7)
    sentences = [part + "。" for part in text.split("。") if part]
    places = located(text.rstrip("。") + "。", sentences)
    first = sentences[0]
    tokens = [Token(c, "I" if i else "B", (i, i + 1)) for i, c in enumerate(first)]
    tokens.append(Token(f"!{blas_threads()}" if "threads" in text else "!", "O", None))
    said = [Sentence(s, p, 0.9 if i == 0 else 0.1, i == 0) for i, (s, p) in enumerate(zip(sentences, places))]  # noqa: B905
    spans = spans_of(tokens, SourceMap(places[:1]))
    return Summary("".join(t.text for t in tokens), first, tuple(said), tuple(tokens), spans, -1.0, "stop")


class Beginnings(NamedTuple):
    """A factory; a model of the wrong name does not load."""

    model: str = "good"

    def __call__(self):
        if self.model == "bad":
            raise ConfigError("the model does not fit", where="bad")
        if self.model == "dies":
            os._exit(3)
        return beginning


ALPHABET = "甲乙丙丁原告被判决根据法院，。；：\n0123456789的一不是在人有我他这民事侵权责任赔偿诉讼请求驳回"


def tiny(positions=48, seed=0, nezha=False, tags=(0.0, 3.0, 4.0), pieces=False, **settings):
    """A summarizer of random weights that knows some characters, and prefers to copy."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(ALPHABET) - {"\n"})]
    if pieces:
        tokens += ["[MASK]", *BYTES, SPACE, "a", "b", f"{SPACE}a", f"{SPACE}ab", f"{SPACE}。", "判决"]
    kind = PieceTokenizer if pieces else WordTokenizer
    tokenizer = kind({token: number for number, token in enumerate(tokens)})
    sizes = bert.BertConfig(len(tokens), 12, 1, 2, max_position_embeddings=None if nezha else positions)
    config, small = seq2seq.Seq2SeqConfig(sizes, 2, 3), extractor.ExtractorConfig(12, 6, 3, (1, 2))
    rng = np.random.default_rng(seed)
    shapes = [seq2seq.Seq2SeqWeights.shapes(config), extractor.ExtractorWeights.shapes(small)]
    drawn = [
        {name: rng.normal(float(name.endswith("scale")), 0.5, shape).astype("float32") for name, shape in each.items()}
        for each in shapes
    ]
    drawn[0]["masked_lm.bias"][3] -= 2  # the end
    drawn[0]["tags.bias"] = np.asarray(tags, "float32")
    weights = seq2seq.Seq2SeqWeights.from_named(drawn[0], config)
    given = {"max_new_tokens": 12, "beams": 2, "threshold": 0.5} | settings
    parts = extractor.ExtractorWeights.from_named(drawn[1], small), small, Settings(**given)
    return Summarizer(weights, config, tokenizer, *parts)
