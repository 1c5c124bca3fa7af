"""Summarizers that need no model, for processes that import them by name: the first characters of a text, and what goes wrong."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from refimpl.errors import ConfigError, TextError
from refimpl.inference.threads import blas_threads
from refimpl.spaces.summary import Sentence, SourceMap, Summary, Token, located, spans_of


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
