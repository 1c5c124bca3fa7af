"""The pairs that prepare.py writes, as the model reads them: sentences, which of them to extract, token ids.

A text is cut into sentences (`sentences`), and a summary is generated from the text, cut to what there is room for, or from those of its sentences
that are extracted (`joined`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.spaces.labels import match
from refimpl.text.pieces import PieceTokenizer
from refimpl.text.rouge import Rouge, rouge
from refimpl.text.sentences import split, split_document

SEPARATORS, LONGEST = "\n。！？；.!?;", 40  # short sentences are joined up to 40 characters: "e.g." ends none
POSITIONS, TARGET = 256, 40  # tokens of source and target together, and of a target at most
DIALECT = "rouge-1.0.1"


class Pair(NamedTuple):
    id: str
    lang: str
    source: str
    text: str
    summary: str


class Words:
    """English words in lower case, for `refimpl.text.rouge`."""

    def cut(self, text: str, *, hidden: bool = False) -> list[str]:
        return re.findall(r"\w+", text.lower())


WORDS = Words()


def read(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as lines:
        return [Pair(**json.loads(line)) for line in lines]


def units(text: str, lang: str) -> list[str]:
    """What ROUGE counts here: English words in lower case, Chinese characters and marks without blanks."""
    return WORDS.cut(text) if lang == "en" else [char for char in text if not char.isspace()]


def score(hypothesis: str, pair: Pair) -> Rouge:
    return rouge(units(hypothesis, pair.lang), units(pair.summary, pair.lang), dialect=DIALECT)


def sentences(text: str) -> list[str]:
    return [each for each in split_document(text, longest=LONGEST, separators=SEPARATORS) if each]


def extracted(pair: Pair) -> list[int]:
    """Which sentences are most like those of the summary: the labels of the extractor."""
    said = [each for each in split(pair.summary, LONGEST, SEPARATORS) if each]
    unit = {"unit": "word", "segmenter": WORDS} if pair.lang == "en" else {"unit": "character"}
    return sorted({j for _, j in match(sentences(pair.text), said, dialect=DIALECT, **unit)})


def joined(text: str, lines: list[str], kept: Iterable[int]) -> str:
    """The kept sentences, each with the blanks and new lines behind it: of all of them, the text."""
    begins, end = [], 0
    for line in lines:
        begins.append(text.index(line, end))
        end = begins[-1] + len(line)
    return "".join(
        text[slice(*place)] for i, place in enumerate(pairwise([*begins, len(text)])) if i in set(kept)
    ).rstrip()


def generator(*names: Any) -> np.random.Generator:
    """Random numbers that depend on these names alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "little"))


def chosen(count: int, labels: list[int], rng: np.random.Generator) -> list[int]:
    """The labelled sentences and about half of the others."""
    return sorted({*labels, *np.flatnonzero(rng.random(count) < 0.5).tolist()})


@functools.lru_cache(maxsize=1)
def tokenizer(folder: Path) -> PieceTokenizer:
    return PieceTokenizer.load(folder)


def framed(pieces: PieceTokenizer, ids: list[int], most: int | None = None) -> list[int]:
    """[CLS] ids [SEP], cut to so many."""
    kept = ids if most is None else ids[: most - 2]
    return [pieces.start_id, *kept, pieces.end_id]


def encoded(pair: Pair, folder: Path) -> tuple[tuple[list[int], ...], list[int]] | None:
    """Sources, of which training draws one, and the target; None where the target is too long.

    The first source is the text from its beginning; the second, of texts with more than three sentences, those to be extracted and half of the
    others.
    """
    pieces = tokenizer(folder)
    target = framed(pieces, pieces.encode(pair.summary))
    if len(target) > TARGET:
        return None
    lines = sentences(pair.text)
    room = POSITIONS - len(target)
    sources = [framed(pieces, pieces.encode(pair.text), room)]
    if len(lines) > 3:
        labels, rng = extracted(pair), generator("sources", pair.id)
        some = chosen(len(lines), labels, rng)
        while len(some) > len(labels) and sum(len(lines[i]) for i in some) > 4 * room:  # for certain too long
            some.remove(next(i for i in rng.permutation(some).tolist() if i not in labels))
        sources.append(framed(pieces, pieces.encode(joined(pair.text, lines, some)), room))
    return tuple(sources), target


def encode_all(pairs: list[Pair], folder: Path, processes: int) -> list[tuple[tuple[list[int], ...], list[int]]]:
    function = functools.partial(encoded, folder=folder)
    if processes <= 1:
        found = map(function, pairs)
    else:
        with ProcessPoolExecutor(processes) as pool:
            found = iter(list(pool.map(function, pairs, chunksize=256)))
    return [pair for pair in found if pair is not None]


def copies(pairs: list[Any], seed: int) -> list[Any]:
    """The first source of each pair, and as its target two runs of it of 3 to 16 tokens each."""
    rng, room, found = np.random.default_rng([seed, 3]), POSITIONS - TARGET, []
    for (source, *_), _ in pairs:
        start, *inside, end = source
        begins = rng.integers(0, max(1, len(inside) - 16), 2)
        runs = [inside[at : at + int(rng.integers(3, 17))] for at in begins]
        cut = source if len(source) <= room else [*source[: room - 1], end]
        found.append((cut, [start, *runs[0], *runs[1], end]))
    return found
