"""A summary taken apart for showing: which characters were copied, by which span, in the summary and in the sentences."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from refimpl.spaces.summary import Place, Sentence, Summary

__all__ = ["Run", "sentence_runs", "summary_runs", "visible"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Run(NamedTuple):
    """Characters that belong together."""

    text: str
    spans: tuple[int, ...]  # numbers of the spans that they are of; none where they were not copied


def visible(text: str) -> str:
    """`text` with [U+001B] in the place of control characters and of what reorders text, which a terminal or a page would obey."""
    return _UNSEEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", text)


def summary_runs(summary: Summary) -> list[Run]:
    """The summary, cut where a span begins or ends."""
    return _runs(summary.text, 0, ((span.place, number) for number, span in enumerate(summary.spans)))


def sentence_runs(summary: Summary, sentence: Sentence) -> list[Run]:
    """A sentence, cut where a span that copied from it begins or ends; what two spans copied is of both."""
    marks = ((place, number) for number, span in enumerate(summary.spans) for place in span.text)
    return _runs(sentence.text, sentence.place[0], marks if sentence.chosen else ())


def _runs(text: str, start: int, marks: Iterable[tuple[Place, int]]) -> list[Run]:
    """The text, which stands at `start` in what the places are of, cut at all their ends."""
    inside = [
        (max(a - start, 0), min(b - start, len(text)), number)
        for (a, b), number in marks
        if a < start + len(text) and b > start and a < b
    ]
    cuts = sorted({0, len(text), *(end for a, b, _ in inside for end in (a, b))})
    return list(_between(text, cuts, inside))


def _between(text: str, cuts: list[int], inside: list[tuple[int, int, int]]) -> Iterator[Run]:
    for a, b in itertools.pairwise(cuts):
        yield Run(text[a:b], tuple(number for first, last, number in inside if first <= a and b <= last))
