"""Mutants of the search for a text that copies: its steps, and what of a hypothesis goes where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from validation import beams
from validation.mutants.catalogue import Mutant

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


def _right(*arrays: Any, **params: Any) -> Any:
    return beams.Search()(*arrays, **params)


def _stay(states: list[int], origins: list[int]) -> list[int]:
    return [states[min(row, len(states) - 1)] for row in range(len(origins))]


def _go(states: list[int], origins: list[int]) -> list[int]:
    return [states[origin] for origin in origins]


def _logs(z: Any) -> Any:
    shifted = z - z.max()
    return shifted - np.log(np.exp(shifted).sum())


def _of_kept(count: int) -> Callable[[Any, Any], Any]:
    """The logarithms over that many of what is allowed."""

    def logs(z: Any, allowed: Any) -> Any:
        z = np.where(allowed, z, -np.inf)
        return _logs(np.where(z >= np.sort(z)[-min(count, len(z))], z, -np.inf))

    return logs


def _first_the_largest(z: Any, allowed: Any) -> Any:
    """The ten largest of all, then what is allowed of them."""
    kept = z >= np.sort(z)[-min(10, len(z))]
    return _logs(np.where(kept & allowed if np.any(kept & allowed) else allowed, z, -np.inf))


def _masked_after(z: Any, allowed: Any) -> Any:
    """Probabilities of all tokens, of which those not allowed are dropped."""
    return np.where(allowed, _logs(z), -np.inf)


def _any_tag(scores: Any, state: int) -> int:
    return int(np.argmax(scores))


def _one_dialect(name: str) -> Callable[[Case], bool]:
    return lambda case: case.params["dialect"] == name


def _of(name: str, flag: str, *, seen: Callable[[Case], bool] | None = None, **replaced: Any) -> Mutant:
    def function(*arrays: Any, **params: Any) -> Any:
        try:
            return beams.Search(**replaced)(*arrays, **params)
        except (beams.TokenError, ValueError):  # it has lost every hypothesis
            return np.full(len(arrays[0]), beams.PADDING, np.int64)

    return Mutant("copy_beam_search", name, flag, function, seen=seen)


_corrected, _published = map(_one_dialect, ("corrected", "published"))
MUTANTS: tuple[Mutant, ...] = (
    _of("states stay in their rows", "hypothesis-state", seen=_corrected, carried=_stay),
    _of("states go with their hypotheses", "hypothesis-state", seen=_published, carried=_go),
    _of("states never kept", "hypothesis-state", carried=lambda states, origins: [0] * len(origins)),
    _of("the other dialect", "dialect", other=True),
    _of("I after O", "tag-transition", tag=_any_tag),
    _of("I is never said", "tag-transition", tag=lambda scores, state: int(np.argmax(scores[:2]))),
    _of("O before the rest", "tag-transition", tag=lambda scores, state: 0),
    _of(
        "B and I exchanged",
        "exchanged",
        tag=lambda scores, state: int(np.argmax(scores[[0, 2, 1]] if state else scores[[0, 2]])),
    ),
    _of("the tags of the step before", "off-by-one", at=lambda step: max(step - 1, 0)),
    _of("everything where no continuation exists", "copied-span", lost=lambda x, span: (None, 0)),
    _of(
        "the first token of the source where no continuation exists",
        "copied-span",
        lost=lambda x, span: (set(x[:1]), 1),
    ),
    _of("I allows any token of the source", "copied-span", places=lambda x, span: list(range(len(x)))),
    _of("after the last token alone", "copied-span", span=lambda ids, state: ids[-1:]),
    _of(
        "the first continuation alone",
        "copied-span",
        places=lambda x, s: [i for i in range(len(s), len(x)) if x[i - len(s) : i] == s][:1],
    ),
    _of("the end token cannot be copied", "copied-span", read=lambda source: source[:-1]),
    _of("the first token of the source left out", "off-by-one", read=lambda source: source[1:]),
    _of("sums, not means", "not-normalised", seen=_corrected, penalty=0.0),
    _of("divided by the length's square", "wrong-count", seen=_corrected, penalty=2.0),
    _of("masked after the softmax", "mask-after-softmax", logs=_masked_after),
    _of("the ten largest before the mask", "mask-alignment", logs=_first_the_largest),
    _of("of what is allowed, all", "parameter-ignored", logs=_of_kept(1000)),
    _of("of what is allowed, two", "wrong-order", logs=_of_kept(2)),
    _of("nothing masked", "mask-ignored", logs=lambda z, allowed: _logs(z)),
    _of("logits, not their logarithms", "not-normalised", logs=lambda z, allowed: np.where(allowed, z, -np.inf)),
    _of("powers of 2", "wrong-base", logs=lambda z, allowed: _of_kept(10)(z * np.log(2), allowed)),
    _of("the best token each time", "approximate-function", width=lambda beams: 1),
    _of("one hypothesis more", "off-by-one", width=lambda beams: beams + 1),
    _of("one hypothesis less", "off-by-one", width=lambda beams: max(beams - 1, 1)),
    _of("ends with the first that ends", "approximate-function", seen=_corrected, early=True),
    _of(
        "rows in the order of their scores",
        "tie-rule",
        seen=_published,
        order=lambda flat, beams: sorted(range(len(flat)), key=lambda i: -flat[i])[:beams],
    ),
    _of("10⁻³ for 10⁻¹²", "wrong-eps", seen=_published, tiny=1e-3),
    _of("without its end token", "missing-term", shown=lambda ids: ids[:-1]),
    _of("the last token first", "transposed", shown=lambda ids: ids[::-1]),
    _of("0 behind the end", "exchanged", padding=0),
    _of("answers of 32 bits", "dtype-leak", kind=np.int32),
)
TWINS = {"copy_beam_search": _right}
