"""The truth: a definition run in ball arithmetic, with more and more bits, until the answer is known well enough.

A ball is a midpoint and a proved radius (`flint.arb`). Running a definition on balls gives, for every element, an interval that certainly
contains the exact answer for the exact (binary) inputs. Precision is doubled until every radius is below a target. What cannot be decided, because a
ball stays too wide or is not a number, is an error that says so, never a guess.

Reference: F. Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic", IEEE Trans. Comput. 66 (2017).
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl.errors import UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["UndecidedError", "balls", "enclose", "midpoints", "precision", "radii", "upper_distance"]


@contextlib.contextmanager
def precision(bits: int) -> Iterator[None]:
    """Run ball arithmetic with `bits` bits inside the block."""
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield
    finally:
        flint.ctx.prec = before


def balls(values: Any, relative_radius: float = 0.0) -> Any:  # (...) -> object (...)
    """Floating values as exact balls, or as balls of radius relative_radius · |value|."""
    array = np.asarray(values)
    wide = np.asarray(array, dtype=np.float64)

    def ball(value: float) -> Any:
        return flint.arb(value, abs(value) * relative_radius) if relative_radius else flint.arb(value)

    return np.frompyfunc(ball, 1, 1)(wide).astype(object).reshape(array.shape)


def midpoints(enclosure: Any) -> Any:  # object (...) -> float64 (...)
    """The midpoints, rounded to float64."""
    return np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(enclosure).astype(np.float64)


def _above(bound: Any) -> float:
    """A float that is not below a non-negative ball's midpoint, whichever way the conversion rounds; 0 only for 0."""
    return math.nextafter(float(bound) * (1 + 2**-50), math.inf) if bound > 0 else 0.0


def radii(enclosure: Any) -> Any:  # object (...) -> float64 (...)
    """Upper bounds of the radii in float64; infinity where a ball is not finite."""

    def radius(ball: Any) -> float:
        return _above(ball.rad().upper()) if ball.is_finite() else math.inf

    return np.frompyfunc(radius, 1, 1)(enclosure).astype(np.float64)


def upper_distance(enclosure: Any, values: Any) -> Any:  # object (...), floating (...) -> float64 (...)
    """A proved upper bound of |value - truth| for every element; infinity where the value is not finite."""

    def distance(ball: Any, value: float) -> float:
        gap = (ball - flint.arb(value)).abs_upper()
        return _above(gap) if gap.is_finite() else math.inf

    wide = np.asarray(values, dtype=np.float64)
    return np.frompyfunc(distance, 2, 1)(enclosure, wide).astype(np.float64)


def enclose(
    definition: Callable[..., Any],
    *arrays: Any,
    target: float = 1e-20,
    bits: int = 128,
    highest: int = 2048,
    **options: Any,
) -> Any:
    """Balls of radius <= `target` (absolute, or relative to the midpoint where that is larger) that contain the exact results.

    Parameters
    ----------
    definition : a function of arrays that is written for balls too
    arrays : its array arguments; floating ones become exact balls, all others are passed on
    target : the radius asked for
    bits, highest : the precision to begin with, and the one beyond which to give up
    options : passed on

    Raises
    ------
    UndecidedError
        if the target is not reached at the highest precision.
    """
    while True:
        with precision(bits):
            try:
                result = definition(*map(_exact, arrays), **options)
            except UndecidedError:
                if 2 * bits > highest:
                    raise
                bits *= 2
                continue
            widest = float(np.max(radii(result) / np.maximum(1.0, np.abs(midpoints(result))), initial=0.0))
        if widest <= target:
            return result
        if 2 * bits > highest:
            raise UndecidedError("undecided", expected=f"radius <= {target}", got=f"{widest} at {bits} bits")
        bits *= 2


def _exact(value: Any) -> Any:
    return balls(value) if isinstance(value, np.ndarray) and value.dtype.kind not in "biuO" else value
