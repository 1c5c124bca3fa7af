"""ROUGE on the held-out pairs: of baselines that need no model, and of a trained one with and without copying.

    python training/summaries/evaluate.py --work $WORK                                        # the baselines
    python training/summaries/evaluate.py --work $WORK --model $WORK/generator/seq2seq        # and the generator
    python training/summaries/evaluate.py --work $WORK --summarizer $WORK/summarizer          # and all of it

Units are lower-case words in English and characters in Chinese, blanks left out; the counting is that of rouge 1.0.1. Everything is the mean over
the texts of one language, in percent. Besides, of what a model writes:

* copied: how many of its tokens have the tag B or I;
* found: how many of these have a place in the source as part of their span (without a model's tags, of no token);
* right: how many of these are tokens of the reference;
* new: how many of its units are not in the whole text, and new 2: how many pairs of units side by side are not;
* units: how many there are.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pairs import (
    POSITIONS,
    TARGET,
    Pair,
    extracted,
    framed,
    generator,
    joined,
    read,
    score,
    sentences,
    tokenizer,
    units,
)

from refimpl.inference.unilm import Session as Reader
from refimpl.spaces.folder import load
from refimpl.spaces.seq2seq import generate
from refimpl.spaces.seq2seq_folder import load_seq2seq
from refimpl.spaces.summarizer import Summarizer


class Said(NamedTuple):
    """A summary, and of its tokens, where a model made it, (id, whether it is copied, whether it has a place in the source)."""

    text: str
    tokens: list[tuple[int | None, bool, bool]] | None = None


# --- without a model --------------------------------------------------------------------------------------------------------------------


def lead(pair: Pair) -> Said:
    return Said(sentences(pair.text)[0])


def beginning(pair: Pair, count: int) -> Said:
    """The first units of the text, as many as summaries have on average."""
    found, end = units(pair.text, pair.lang), 0
    lowered = pair.text.lower() if pair.lang == "en" else pair.text
    for unit in found[:count]:
        end = lowered.index(unit, end) + len(unit)
    return Said(pair.text[:end])


def best_sentence(pair: Pair) -> Said:
    """The sentence that is most like the summary: nobody can know which."""
    return Said(max(sentences(pair.text), key=lambda sentence: score(sentence, pair).main))


def oracle(pair: Pair) -> Said:
    """What the labels extract: nobody can know them."""
    return Said(joined(pair.text, sentences(pair.text), extracted(pair)))


def reference(pair: Pair) -> Said:
    return Said(pair.summary)


# --- with one -----------------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def opened(folder: Path) -> Any:
    weights, config = load_seq2seq(folder, backend="numpy")
    return weights, config, Reader(weights, config), tokenizer(folder)


def generated(
    pair: Pair, folder: Path, beams: int, copy: bool, k: int | None, penalty: float | None, source: str
) -> Said:
    """The generator's summary of the text from its beginning ("text"), or of the sentences of the labels ("labels")."""
    weights, config, reader, pieces = opened(folder)
    read_text = pair.text if source == "text" else joined(pair.text, sentences(pair.text), extracted(pair))
    ids = framed(pieces, pieces.encode(read_text), POSITIONS - TARGET)
    options: dict[str, Any] = {"beams": beams, "max_new_tokens": TARGET - 1, "copy": copy, "k": k}
    options["length_penalty"] = penalty
    best = generate(weights, config, ids, decoder=reader.reading(ids), **options)[0]
    each = zip(best.ids, best.tags, best.places, strict=True)
    tokens = [(token, tag > 0, place is not None) for token, tag, place in each if token != config.end_token_id]
    return Said(pieces.decode(best.ids), tokens)


@functools.lru_cache(maxsize=1)
def summarizer(folder: Path) -> Summarizer:
    return load(folder, backend="numpy")


def extracted_alone(pair: Pair, folder: Path) -> Said:
    """The sentence that the extractor finds most probable."""
    lines = sentences(pair.text)
    return Said(lines[int(np.argmax(summarizer(folder).probabilities(lines)))])


def summarized(pair: Pair, folder: Path, beams: int | None, penalty: float | None, copy: bool) -> Said:
    """What `refimpl summarize` says: generated from the sentences that the extractor chooses."""
    found = summarizer(folder).summarize(pair.text, beams=beams, length_penalty=penalty, copy=copy)
    return Said(found.text, [(None, token.tag != "O", token.place is not None) for token in found.tokens])


# --- figures --------------------------------------------------------------------------------------------------------------------------------


def ratio(parts: list[tuple[int, int]]) -> float | None:
    whole = sum(count for _, count in parts)
    return round(100 * sum(part for part, _ in parts) / whole, 2) if whole else None


def figures(pairs: list[Pair], found: list[Said], pieces: Any) -> dict[str, Any]:
    rouge = [score(said.text, pair) for said, pair in zip(found, pairs, strict=True)]
    row: dict[str, Any] = {
        name: round(100 * float(np.mean([getattr(each, name).f for each in rouge])), 2)
        for name in ("rouge_1", "rouge_2", "rouge_l")
    }
    row["main"] = round(100 * float(np.mean([each.main for each in rouge])), 2)
    new, double, copied, placed, right = [], [], [], [], []
    for pair, said in zip(pairs, found, strict=True):
        text, output = units(pair.text, pair.lang), units(said.text, pair.lang)
        new.append((sum(unit not in set(text) for unit in output), len(output)))
        twos = list(itertools.pairwise(output))
        double.append((len([two for two in twos if two not in set(itertools.pairwise(text))]), len(twos)))
        if said.tokens is not None:
            wanted = set(pieces.encode(pair.summary))
            tagged = [(token, place) for token, copy, place in said.tokens if copy]
            copied.append((len(tagged), len(said.tokens)))
            placed.append((sum(place for _, place in tagged), len(tagged)))
            known = [token for token, _ in tagged if token is not None]
            right.append((sum(token in wanted for token in known), len(known)))
    row |= {
        "new": ratio(new),
        "new_2": ratio(double),
        "copied": ratio(copied),
        "found": ratio(placed),
        "right": ratio(right),
    }
    row["units"] = round(float(np.mean([count for _, count in new])), 2)
    return row


def sampled(pairs: list[Pair], count: int) -> list[Pair]:
    """So many of them, in their order; 0 for all."""
    order = sorted(range(len(pairs)), key=lambda i: generator("sample", pairs[i].id).random())
    return [pairs[i] for i in sorted(order[: count or None])]


def systems(args: argparse.Namespace, lang: str) -> dict[str, Callable[[Pair], Said]]:
    train = json.loads((args.work / "prepare.json").read_text(encoding="utf-8"))["train"][lang]
    found: dict[str, Callable[[Pair], Said]] = {}
    if not args.only_model:
        found |= {
            "lead sentence": lead,
            "beginning": functools.partial(beginning, count=round(train["summary_units"]["0.5"])),
            "best single sentence (oracle)": best_sentence,
            "oracle extraction": oracle,
            "reference": reference,
        }
    if args.model:
        common: dict[str, Any] = {"folder": args.model, "beams": args.beams or 1, "k": args.k or None}
        common["penalty"] = args.penalty
        found["generated, without copying"] = functools.partial(generated, copy=False, source="text", **common)
        found["generated"] = functools.partial(generated, copy=True, source="text", **common)
        found["generated from the labels' sentences"] = functools.partial(
            generated, copy=True, source="labels", **common
        )
    if args.summarizer:
        found["extracted alone"] = functools.partial(extracted_alone, folder=args.summarizer)
        whole = functools.partial(summarized, folder=args.summarizer, beams=args.beams, penalty=args.penalty)
        found["extracted, generated without copying"] = functools.partial(whole, copy=False)
        found["extracted and generated"] = functools.partial(whole, copy=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py and vocabulary.py")
    parser.add_argument("--model", type=Path, help="folder with a generator and its tokenizer")
    parser.add_argument("--summarizer", type=Path, help="folder that extract.py wrote")
    parser.add_argument("--part", default="test", choices=("valid", "test"))
    parser.add_argument("--samples", type=int, default=0, help="texts of a language; 0 for all")
    parser.add_argument("--beams", type=int, help="without it, the summarizer's; of the generator alone, 1")
    parser.add_argument("--penalty", type=float, help="power of the length by which scores are divided; the same")
    parser.add_argument("--k", type=int, default=10, help="logits that are probabilities while decoding; 0 for all")
    parser.add_argument("--only-model", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the figures; what was written goes beside it as JSON lines")
    args = parser.parse_args()
    every = read(args.work / f"{args.part}.jsonl")
    pieces = tokenizer(args.model or args.work / "tokenizer")
    record: dict[str, Any] = {"part": args.part, "beams": args.beams, "penalty": args.penalty, "k": args.k}
    written: list[dict[str, Any]] = []
    for lang in ("en", "zh"):
        pairs = sampled([pair for pair in every if pair.lang == lang], args.samples)
        record[lang] = {"texts": len(pairs), "systems": {}}
        for name, system in systems(args, lang).items():
            began = time.monotonic()
            with ProcessPoolExecutor(args.processes) as pool:
                found = list(pool.map(system, pairs, chunksize=16))
            row = figures(pairs, found, pieces) | {"seconds": round(time.monotonic() - began, 1)}
            record[lang]["systems"][name] = row
            print(lang, f"{name:40}", *(f"{key} {value}" for key, value in row.items()), flush=True)
            if found[0].tokens is not None:
                written += [
                    {"system": name, "id": pair.id, "said": said.text} for pair, said in zip(pairs, found, strict=True)
                ]
    if args.out:
        args.out.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in written)
        args.out.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
