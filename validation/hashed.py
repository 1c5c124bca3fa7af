"""Models without a network: scores are a hash of the text so far, and so the same wherever they are computed.

    h(text) = mix(.. mix(mix(case, t₀), t₁) ..)        u_p = the upper 24 bits of mix(h, p), divided by 2²⁴
    logit of token p = 6 (u_p - 1/2), of the end token 1 less        tag logit p = 4 (u_{vocabulary + p} - 1/2), of I `favoured` more

`validation/oracles/spaces_decoding.py` recorded what the released decoder of SPACES makes of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import weights_io
from validation import components

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Hashed", "Recorded", "mixed", "recorded"]

WORD = (1 << 64) - 1


def mixed(a: int, b: int) -> int:
    """splitmix64's mixing of a · 0x9E3779B97F4A7C15 + b + 1."""
    z = (a * 0x9E3779B97F4A7C15 + b + 1) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


class Hashed:
    """A `refimpl.copying.TaggedDecoder` of such a model; the end token is the last of the vocabulary, the start token the one before it.

    Parameters
    ----------
    case, vocabulary, favoured : as above
    asarray : which library's arrays it answers with
    """

    context = 1000

    def __init__(
        self, case: int, vocabulary: int, favoured: float = 0, asarray: Callable[[Any], Any] = np.asarray
    ) -> None:
        self.case, self.vocabulary, self.favoured, self._asarray = case, vocabulary, favoured, asarray

    def scores(self, text: Sequence[int]) -> tuple[Any, Any]:  # -> (vocab,), (3,)
        """Logits of tokens and of tags after a text, its start token first."""
        h = self.case
        for token in text:
            h = mixed(h, int(token))
        u = np.array([mixed(h, place) >> 40 for place in range(self.vocabulary + 3)]) / 2.0**24
        logits, tags = 6 * (u[: self.vocabulary] - 0.5), 4 * (u[self.vocabulary :] - 0.5)
        logits[-1] -= 1
        tags[2] += self.favoured
        return logits, tags

    def _said(self, rows: list[list[int]]) -> tuple[Any, Any]:
        logits, tags = zip(*map(self.scores, rows), strict=True)
        return (self._asarray(np.stack(logits)), self._asarray(np.stack(tags))), rows

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Any, Any]:
        """Read the beginnings of texts."""
        return self._said([list(map(int, row)) for row in token_ids])

    def advance(self, token_ids: Any, cache: Any) -> tuple[Any, Any]:
        """Read one more token a row."""
        return self._said([[*row, *map(int, new)] for row, new in zip(cache, token_ids, strict=True)])

    def select(self, cache: Any, rows: list[int]) -> Any:
        """The texts of the given rows."""
        return [cache[row] for row in rows]


class Recorded(NamedTuple):
    """One recorded search of the released decoder."""

    model: Hashed
    source: list[int]
    beams: int
    most: int  # tokens generated
    min_length: int
    min_ends: int
    text: list[int]  # what it found, without the start token


def recorded() -> list[Recorded]:
    """All of `validation/recorded/spaces_decoding`."""
    answers, found = weights_io.open(components.RECORDED / "spaces_decoding" / "answers.safetensors"), []
    rows = zip(*(answers[name].tolist() for name in ("source", "options", "output")), strict=True)
    for case, (source, options, output) in enumerate(rows):
        vocabulary, beams, most, min_length, min_ends, favoured = options
        tokens, text = ([token for token in row if token != 255] for row in (source, output))
        found.append(Recorded(Hashed(case, vocabulary, favoured), tokens, beams, most, min_length, min_ends, text[1:]))
    return found
