"""Numbers of mpmath in nested lists: what the scalar programs are given, and the few things that all of them do with lists.

An array becomes nested lists through its own `tolist`; a float becomes the `mpf` of exactly its value, and booleans, whole numbers and words stay
what they are. Programs run with 75 digits. They round at most some 10^5 times, on numbers below 10^5 in units of the answer, and no answer of the
tiny cases loses more than ten digits by cancellation: what remains is good to 10^-55 of max(1, |answer|).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DIGITS", "added", "affine", "depth", "dot", "each_row", "nested", "scalar", "visible"]

DIGITS = 75


def nested(value: Any) -> Any:
    """An array as nested lists, floats as exactly equal `mpf`; booleans, whole numbers, words and None as they are."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [nested(part) for part in value]
    return value if value is None or isinstance(value, bool | int | str | mpf) else mpf(float(value))


def scalar(program: Callable[..., Any]) -> Callable[..., Any]:
    """A program of nested lists as a function of arrays, run with `DIGITS` digits, or with the caller's if those are more."""

    @functools.wraps(program)
    def run(*arrays: Any, **params: Any) -> Any:
        with mp.workdps(max(DIGITS, mp.dps)):
            return program(*map(nested, arrays), **{name: nested(value) for name, value in params.items()})

    return run


def depth(values: Any) -> int:
    """How many lists stand around a number."""
    return 1 + depth(values[0]) if isinstance(values, list) else 0


def dot(a: list[Any], b: list[Any]) -> Any:
    """Σ_i a_i b_i of two lists of one length."""
    return mp.fdot(zip(a, b, strict=True))


def added(a: list[Any], b: list[Any]) -> list[Any]:
    """The sum of two vectors."""
    return [x + y for x, y in zip(a, b, strict=True)]


def affine(x: list[Any], weight: list[Any], bias: list[Any]) -> list[Any]:
    """Σ_i x_i W_ij + b_j of one vector, for a weight (in, out)."""
    return [dot(x, [row[j] for row in weight]) + bias[j] for j in range(len(bias))]


def each_row(program: Callable[..., Any], values: Any, *others: Any) -> Any:
    """`program` of every innermost list of `values`, with what stands at the same place in the others."""
    if depth(values) == 1:
        return program(values, *others)
    return [each_row(program, *parts) for parts in zip(values, *others, strict=True)]


def visible(mask: Any, *place: int) -> bool:
    """What a mask says of a place. The last index is the mask's last axis; an axis of one entry holds for all; None lets everything be seen."""
    if mask is None:
        return True
    for index in place[len(place) - depth(mask) :]:
        mask = mask[index if len(mask) > 1 else 0]
    return bool(mask)
