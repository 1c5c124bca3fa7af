"""Time and memory of `refimpl summarize` on a long judgment, with a model or with random weights of the embedded one's size.

    python benchmarks/summarize.py --model synopsis [--characters 20000] [--text FILE.jsonl]
    python benchmarks/summarize.py [--characters 20000] [--new-tokens 256] [--sentences 256]
        [--source-tokens 4096] [--beams 3] [--text FILE.jsonl]

A model is used with its own settings. The second form is the worst case of the given ones: every sentence is extracted, so that the source is as
long as it may be, and the end token is never said, so that the summary is too. Prints the time of each part and the peak of the process's memory;
exits with 1 over 10 s or 1 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from refimpl import bert
from refimpl.spaces import extractor, folder, seq2seq
from refimpl.spaces.documents import joined_sentences
from refimpl.spaces.summarizer import Settings, Summarizer
from refimpl.spaces.words import WordTokenizer

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS = 192, 4, 6, 8000, 512
SECONDS, BYTES = 10.0, 10**9


def summarizer(characters: str, new_tokens: int, sentences: int, source_tokens: int, beams: int) -> Summarizer:
    """Random weights; the tags never let the first sentence's end come, and the end token's logit is low."""
    rest = (chr(code) for code in range(0x4E00, 0x9FFF))
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(characters) - set(" \n\t　\xa0")), *rest])
    tokenizer = WordTokenizer({token: number for number, token in enumerate(list(tokens)[:VOCABULARY])})
    sizes = bert.BertConfig(VOCABULARY, WIDTH, LAYERS, HEADS, max_position_embeddings=POSITIONS)
    config = seq2seq.Seq2SeqConfig(sizes, tokenizer.start_id, tokenizer.end_id)
    weights = seq2seq.initial_seq2seq(config)
    weights.bert.masked_lm.bias[config.end_token_id] = -100.0
    weights.tags.bias[:] = (0.0, 0.0, 0.01)
    small = extractor.ExtractorConfig(WIDTH, WIDTH)
    settings = Settings(
        threshold=0.0, max_new_tokens=new_tokens, sentences=sentences, source_tokens=source_tokens, beams=beams
    )
    return Summarizer(weights, config, tokenizer, extractor.initial_extractor(small), small, settings)


def judgment(file: str | None, characters: int) -> str:
    """Judgments one after the other, or sentences drawn at random, of so many characters."""
    if file is not None:
        rows = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
        text = "\n".join(joined_sentences(row["text"], file) for row in rows)
    else:
        rng = np.random.default_rng(0)
        drawn = rng.integers(0x4E00, 0x6000, characters)
        marks = np.where(rng.random(characters) < 0.05, ord("，"), drawn)
        text = "".join(map(chr, marks.tolist()))
    return (text * (characters // len(text) + 1))[:characters]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name of an embedded summarizer, or the folder of one")
    parser.add_argument("--characters", type=int, default=20_000)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--source-tokens", type=int, default=4096)
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--text", help="JSON lines with the field text; without it, random characters")
    given = parser.parse_args()
    text = judgment(given.text, given.characters)
    if given.model is None:
        made = summarizer(text, given.new_tokens, given.sentences, given.source_tokens, given.beams)
    else:
        made = folder.load(given.model, backend="numpy")
    made.tokenizer.encode(text[:100])
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parts = {}
    for name in ("_sentences", "probabilities", "_source"):
        _time(made, name, parts)
    start, busy = time.perf_counter(), time.process_time()
    summary = made.summarize(text)
    whole, busy = time.perf_counter() - start, time.process_time() - busy
    parts["generation"] = whole - sum(parts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chosen = sum(sentence.chosen for sentence in summary.sentences)
    told = f"{len(summary.sentences)} sentences, {chosen} of them in the source of {len(summary.source)} characters"
    print(f"{len(text)} characters, {told}; {len(summary.tokens)} new tokens, {made.settings.beams} beams")
    for name, seconds in parts.items():
        print(f"  {name.strip('_'):<16}{seconds:8.2f} s")
    print(f"  {'all of it':<16}{whole:8.2f} s   allowed {SECONDS:.0f} s ({busy:.2f} s of processors)")
    print(
        f"  {'peak memory':<16}{peak / 1e6:8.0f} MB  allowed {BYTES / 1e6:.0f} MB ({began / 1e6:.0f} MB before the first summary)"
    )
    for note in summary.notes:
        print(f"  note: {note}")
    return int(whole > SECONDS or peak > BYTES)


def _time(made: Summarizer, name: str, parts: dict[str, float]) -> None:
    inner = getattr(made, name)

    def timed(*arguments: object) -> object:
        start = time.perf_counter()
        found = inner(*arguments)
        parts[name] = parts.get(name, 0.0) + time.perf_counter() - start
        return found

    setattr(made, name, timed)


if __name__ == "__main__":
    sys.exit(main())
