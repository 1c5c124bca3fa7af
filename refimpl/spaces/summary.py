"""A summary and how it came about: the sentences and their probabilities, the tokens, and where what was copied stands in the text.

Places are [start, end) in characters (code points, as Python counts them) of the text as it was given, of the source (the chosen sentences, joined in
their order), or of the summary. `as_json` and `from_json` are inverses; the JSON is what `refimpl summarize --json` prints.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import TextError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Place", "Sentence", "SourceMap", "Span", "Summary", "Token", "located", "spans_of"]

Place = tuple[int, int]  # [start, end)


class Sentence(NamedTuple):
    """One sentence that was looked at."""

    text: str
    place: Place  # in the text
    probability: float  # that it belongs to the source
    chosen: bool


class Token(NamedTuple):
    """One token of the summary."""

    text: str  # what it adds to the summary
    tag: str  # O: generated; B: copied, begins a span; I: copied, goes on with it
    place: Place | None  # in the source, of what was copied


class Span(NamedTuple):
    """Consecutive characters of the summary that were copied from consecutive ones of the source."""

    place: Place  # in the summary
    source: Place
    text: tuple[Place, ...]  # in the text: one place for each sentence that it touches


@dataclass(frozen=True)
class Summary:
    """A summary of one text."""

    text: str
    source: str  # the chosen sentences, joined
    sentences: tuple[Sentence, ...]
    tokens: tuple[Token, ...]
    spans: tuple[Span, ...]
    score: float  # of beam search: Σ log p / n^α
    ended: str  # "stop", by the model; "length", at the limit of new tokens
    notes: tuple[str, ...] = ()  # what was done that the text did not ask for: sentences left out, positions extended

    @property
    def copied(self) -> int:
        """How many characters of the summary were copied."""
        return sum(span.place[1] - span.place[0] for span in self.spans)

    def as_json(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        return {
            "summary": self.text,
            "source": self.source,
            "ended": self.ended,
            "score": self.score,
            "notes": list(self.notes),
            "spans": [
                {"place": list(span.place), "source": list(span.source), "text": [list(place) for place in span.text]}
                for span in self.spans
            ],
            "tokens": [
                {"text": token.text, "tag": token.tag, "place": None if token.place is None else list(token.place)}
                for token in self.tokens
            ],
            "sentences": [sentence._asdict() | {"place": list(sentence.place)} for sentence in self.sentences],
        }

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Summary:
        """The summary of such an object; keys that are not a summary's are passed over. Raises TextError for what is none."""
        try:
            return cls(
                given["summary"],
                given["source"],
                tuple(
                    Sentence(each["text"], _place(each["place"]), each["probability"], each["chosen"])
                    for each in given["sentences"]
                ),
                tuple(
                    Token(each["text"], each["tag"], None if each["place"] is None else _place(each["place"]))
                    for each in given["tokens"]
                ),
                tuple(
                    Span(_place(each["place"]), _place(each["source"]), tuple(map(_place, each["text"])))
                    for each in given["spans"]
                ),
                given["score"],
                given["ended"],
                tuple(given["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TextError("this is no summary", got=f"{type(error).__name__}: {error}") from None


def _place(pair: Sequence[int]) -> Place:
    start, end = pair
    return start, end


def located(text: str, sentences: Iterable[str]) -> list[Place]:
    """Where each sentence stands in the text from which they were cut, in order: the first place after the one before.

    Raises TextError for a sentence that is not there: it was not cut from this text.
    """
    places, after = list[Place](), 0
    for sentence in sentences:
        start = text.find(sentence, after)
        if start < 0:
            raise TextError("a sentence is not in the text", where="located", got=repr(sentence[:40]))
        after = start + len(sentence)
        places.append((start, after))
    return places


class SourceMap:
    """Where the characters of sentences that were joined came from.

    Parameters
    ----------
    places : of each sentence in the text, in the order of the joining
    """

    def __init__(self, places: Sequence[Place]) -> None:
        lengths = [end - start for start, end in places]
        ends = list(itertools.accumulate(lengths))
        self._parts = [(end - length, end, place[0]) for end, length, place in zip(ends, lengths, places, strict=True)]

    def places(self, source: Place) -> tuple[Place, ...]:
        """The places in the text of [start, end) in the joined sentences; what is side by side there becomes one."""
        found: list[Place] = []
        for first, last, origin in self._parts:
            start, end = max(source[0], first), min(source[1], last)
            if start >= end:
                continue
            here = (origin + start - first, origin + end - first)
            if found and found[-1][1] == here[0]:
                here = (found.pop()[0], here[1])
            found.append(here)
        return tuple(found)


def spans_of(tokens: Iterable[Token], source: SourceMap) -> tuple[Span, ...]:
    """The spans of the copied tokens: B begins one, and so does I where what is before it was not copied, or stands behind it in the source.

    White space at a span's beginning, which separates it from what was there, is not of it.
    """
    found: list[tuple[Place, Place]] = []
    at, last = 0, None
    for token in tokens:
        start, end = at, at + len(token.text)
        at, before, last = end, last, token.place
        if token.place is None:
            continue
        if before is not None and token.tag == "I" and token.place[0] >= before[0]:
            (first, _), (origin, _) = found[-1]
            found[-1] = ((first, end), (origin, token.place[1]))
        else:
            start += len(token.text) - len(token.text.lstrip() or token.text)
            found.append(((start, end), token.place))
    return tuple(Span(place, origin, source.places(origin)) for place, origin in found)
