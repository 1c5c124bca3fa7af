"""The truth: a definition run in ball arithmetic, with more and more bits, until the answer is known well enough.

A ball is a midpoint and a proved radius (`flint.arb`). Running a definition on balls gives, for every element, an interval that certainly
contains the exact answer for the exact (binary) inputs. Precision is doubled until every radius is below a target. What cannot be decided, because a
ball stays too wide or is not a number, is an error that says so, never a guess.

Reference: F. Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic", IEEE Trans. Comput. 66 (2017).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl.errors import UndecidedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "DoubleDouble",
    "UndecidedError",
    "balls",
    "double_double",
    "enclose",
    "midpoints",
    "precision",
    "radii",
    "rounded",
    "upper_distance",
    "whole_numbers",
]

HIGHEST = 4096  # bits: what is beyond this undecided has no sign that anybody could need
FURTHEST = 16384  # 2^-FURTHEST is nothing beside any float64, nor beside a radius at HIGHEST bits of one


@dataclass(frozen=True)
class DoubleDouble:
    """The truth rounded twice: `high` is the float64 nearest to it, high + low the nearest multiple of 2^-53 ulp(high).

    Both are decided by the truth alone, so that they are the same bits on every machine and with every version of every library.
    """

    high: Any  # float64 (...)
    low: Any  # float64 (...)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the answer."""
        return tuple(self.high.shape)

    @property
    def radii(self) -> Any:  # -> float64 (...)
        """|truth - (high + low)| is at most half of 2^-53 ulp(high), and never less than what a float64 can say."""
        return np.maximum(2.0**-54 * np.spacing(np.abs(self.high)), SMALLEST)


SMALLEST = 2.0**-1074


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

    return np.asarray(np.frompyfunc(ball, 1, 1)(wide), dtype=object).reshape(array.shape)  # one ball is no array


def midpoints(known: Any) -> Any:  # object (...) -> float64 (...)
    """The midpoints of balls, or of double-doubles, rounded to float64."""
    if isinstance(known, DoubleDouble):
        return known.high
    return np.asarray(np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(known), dtype=np.float64)


def _enclosing(result: Any) -> Any:  # balls, whole numbers or truth values (...) -> object (...)
    """What a definition returned, as balls: exact ones for whole numbers and truth values."""
    array = np.asarray(result)
    return np.frompyfunc(lambda value: flint.arb(int(value)), 1, 1)(array) if array.dtype.kind in "biu" else result


def whole_numbers(known: Any) -> Any:  # object (...) -> object (...)
    """The integers that exact balls or double-doubles are; raises UndecidedError for what is no whole number."""
    if isinstance(known, DoubleDouble):
        pairs = np.frompyfunc(lambda high, low: Fraction(high) + Fraction(low), 2, 1)(known.high, known.low)
    else:
        pairs = np.frompyfunc(lambda ball: _ends(ball)[0] if ball.is_exact() else Fraction(1, 2), 1, 1)(known)
    if any(value.denominator != 1 for value in np.ravel(pairs)):
        raise UndecidedError("undecided", expected="answers that are whole numbers", got="others, or wide balls")
    return np.asarray(np.frompyfunc(int, 1, 1)(pairs), dtype=object)


def _above(bound: Any) -> float:
    """A float that is not below a non-negative ball's midpoint, whichever way the conversion rounds; 0 only for 0."""
    return math.nextafter(float(bound) * (1 + 2**-50), math.inf) if bound > 0 else 0.0


def radii(enclosure: Any) -> Any:  # object (...) -> float64 (...)
    """Upper bounds of the radii in float64; infinity where a ball is not finite."""

    def radius(ball: Any) -> float:
        return _above(ball.rad().upper()) if ball.is_finite() else math.inf

    return np.asarray(np.frompyfunc(radius, 1, 1)(enclosure), dtype=np.float64)


def upper_distance(known: Any, values: Any) -> Any:  # (...), floating (...) -> float64 (...)
    """A proved upper bound of |value - truth| for every element, from balls or double-doubles; infinity where the value is not finite."""
    if isinstance(known, DoubleDouble):
        return _distance_to_pairs(known, np.asarray(values, dtype=np.float64))

    def distance(ball: Any, value: float) -> float:
        gap = (ball - flint.arb(value)).abs_upper()
        return _above(gap) if gap.is_finite() else math.inf

    wide = np.asarray(values, dtype=np.float64)
    return np.asarray(np.frompyfunc(distance, 2, 1)(known, wide), dtype=np.float64)


def _distance_to_pairs(known: DoubleDouble, values: Any) -> Any:  # float64 (...) -> float64 (...)
    """|(value - high) - low|, enlarged by what the three operations and `low` itself may be off."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs((values - known.high) - known.low)
        enlarged = error * (1 + 2.0**-50) + 2 * known.radii
    exact = (values == known.high) & (known.low == 0)
    return np.where(np.isfinite(values), np.where(exact, 0.0, enlarged), np.inf)


def _ends(ball: Any) -> tuple[Fraction, Fraction]:
    """The ends of a finite ball."""
    middle, radius = (_fraction(part) for part in (ball.mid(), ball.rad()))
    if middle is None or radius is None:  # below 2^-FURTHEST: 0, to within that
        middle, radius = middle or Fraction(0), (radius or Fraction(0)) + Fraction(1, 2**FURTHEST) * 2
    return middle - radius, middle + radius


def _fraction(number: Any) -> Fraction | None:
    """A number as a fraction, or None where it is too small to be written down: exp(-10^30) is not 0, but has 10^30 digits."""
    mantissa, exponent = map(int, number.man_exp())
    reach = exponent + mantissa.bit_length()
    if mantissa and reach < -FURTHEST:
        return None
    if reach > FURTHEST:
        raise OverflowError(f"an exact result of 2^{reach - 1} is beyond float64")
    return Fraction(mantissa) * Fraction(2) ** exponent


def _nearest(low: Fraction, high: Fraction, step: Fraction | None, *, settle: bool) -> float | None:
    """The float64 (the multiple of `step`) nearest to every number between two, or None where there is no such.

    With `settle`, a tie as far as the two can tell is one, and goes to the even multiple, as an exact tie does.
    """
    unit = step or Fraction(math.ulp(low.numerator / low.denominator))
    one, other = (round(end / unit) for end in (low, high))
    if one == other:
        return float(one * unit)
    return float((one if one % 2 == 0 else other) * unit) if settle and abs(one - other) == 1 else None


def _pair(ball: Any, settle: bool) -> tuple[float, float]:
    """(high, low) of one ball, NaN where a rounding is in doubt."""
    low, high = _ends(ball) if ball.is_finite() else (Fraction(0), Fraction(1))
    nearest = _nearest(low, high, None, settle=settle)
    if nearest is None:
        return math.nan, math.nan
    step = Fraction(math.ulp(nearest)) / 2**53
    rest = _nearest(low - Fraction(nearest), high - Fraction(nearest), step, settle=settle)
    return nearest, math.nan if rest is None else rest


def rounded(enclosure: Any, *, settle: bool = False) -> DoubleDouble | None:  # object (...)
    """The truth rounded to double-double, or None where balls are too wide to tell; `settle` takes what looks like a tie for one."""
    pairs = np.array([_pair(ball, settle) for ball in enclosure.ravel()], dtype=np.float64).reshape(*enclosure.shape, 2)
    high, low = np.ascontiguousarray(pairs[..., 0]), np.ascontiguousarray(pairs[..., 1])
    return None if np.isnan(high + low).any() else DoubleDouble(high, low)


def double_double(definition: Callable[..., Any], *arrays: Any, bits: int = 192, **options: Any) -> DoubleDouble:
    """The exact results, rounded to double-double; precision is doubled until no rounding is in doubt.

    Parameters as `enclose`. A result of 0 that balls do not show to be exact is decided once its radius is below 2^-1075. What still looks like a
    tie between two neighbours at `HIGHEST` bits goes to the even one, as a tie does.

    Raises
    ------
    UndecidedError
        if a branch is not decided, or balls are wide, at the highest precision.
    """
    while True:
        last = 2 * bits > HIGHEST
        with precision(bits):
            try:
                known = rounded(_enclosing(definition(*map(_exact, arrays), **options)), settle=last)
            except UndecidedError:
                if last:
                    raise
                known = None
        if known is not None:
            return known
        if last:
            raise UndecidedError(
                "undecided", expected="results of which every rounding is certain", got=f"doubt at {bits} bits"
            )
        bits *= 2


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
                result = _enclosing(definition(*map(_exact, arrays), **options))
                result = np.asarray(result, dtype=object)  # one ball is no array
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
