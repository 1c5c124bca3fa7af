"""Tolerances with a derivation, and the verdicts that come of them.

*Proved.* For one component, the error budget of a dtype with p significant bits is the radius that the definition's own result has in ball
arithmetic of p - 2 bits on inputs known to p bits (radius u·|x|, u = 2^-p), taken to first order: the run is made with sixty bits more, and its
radius multiplied by 2^60, so that balls of few bits do not swallow each other, on midpoints of full length, so that the first operation on them
is not exact by accident. An inexact operation at p - 2 bits adds at least two units in the last
place of a p-bit number, which is what the elementary functions of current libraries, on processors and GPUs, are documented to err by at most
(exp, log, tanh, erf); the inputs' share covers implementations that scale or reorder before they round. To it are added u·|truth| for the
last rounding and, since balls do not underflow and hardware may flush, one smallest normal number (in float16, which nothing flushes, one
smallest subnormal) for each element that a result sums over, times the largest of the factors that it may be multiplied with.
Where several published forms of a component round differently, the largest of their budgets counts. After a first operation midpoints are short
again, and a sum of them may be exact, so that its rounding is not counted: 1e-3 + 2e-6 in relu features. The published vectors have been derived
so and stay as they are; answers that are proved on the spot (`validation.vectors.fresh`) also count a run whose midpoints stay long. What this
cannot see: a first-order model says nothing about roundings that do not happen in the definition's own form, and a wide budget of a 16-bit dtype
hides small bugs.

*Sampled.* Through a whole network those radii explode, so the budget is a number of standard deviations of perturbed arithmetic
(`validation.perturbed`), with its confidence.

*Exact.* An answer of whole numbers or truth values is right where it is equal, and has no tolerance.

Comparison is `not (error <= tolerance)`, so that NaN fails; a tolerance that is not finite, or negative, is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flint
import ml_dtypes
import numpy as np

from refimpl.errors import ConfigError
from validation import truth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ANSWERS",
    "BITS",
    "DTYPES",
    "EXACT",
    "FIRST_ORDER",
    "LENGTHENED",
    "ULP_BINS",
    "Verdict",
    "allowed",
    "amplification",
    "budget",
    "judge",
    "proved_budget",
    "roundoff",
    "smallest_normal",
    "underflow",
]

DTYPES: dict[str, Any] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
EXACT: dict[str, Any] = {"int64": np.dtype(np.int64), "bool": np.dtype(np.bool_)}  # of answers without a tolerance
ANSWERS = DTYPES | EXACT
BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
_ULP_EDGES = (0.5, 1.0, 2.0, 4.0, 16.0, 256.0, 65536.0)
ULP_BINS = ("<= 0.5", "<= 1", "<= 2", "<= 4", "<= 16", "<= 256", "<= 65536", "more")
FIRST_ORDER = 2.0**-60  # the size of the perturbations with which a budget is computed, beside those of the dtype
LENGTHENED = 20  # at which the distance of a midpoint from the input is 2^13 radii: 11 bits above the last place, and nothing to first order
LIBRARY_BITS = 2  # an operation may err by 2 units in the last place = 2^(2-p)


@dataclass(frozen=True)
class Verdict:
    """What a comparison found: the word, the largest error, and that error as a multiple of the tolerance at its place."""

    word: str  # exact | within proof | within sample | outside | non-finite | wrong shape or dtype | not run
    error: float
    multiple: float
    where: tuple[int, ...] = ()
    got: Any = None
    expected: Any = None
    ulps: tuple[int, ...] = ()  # how many elements are off by how many units in the last place, by ULP_BINS

    @property
    def passed(self) -> bool:
        """Whether the word is one of those that pass."""
        return self.word in ("exact", "within proof", "within sample")


def roundoff(dtype: str) -> float:
    """The unit roundoff u = 2^-p of a dtype with p significant bits; 0 for whole numbers."""
    return 0.0 if dtype in EXACT else 2.0 ** -BITS[dtype]


def smallest_normal(dtype: str) -> float:
    """The smallest positive normal number."""
    return float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)


def _flushed(dtype: str) -> float:
    """The largest number that an operation may return 0 for: the smallest normal one, in float16 the smallest subnormal."""
    info = ml_dtypes.finfo(DTYPES[dtype])
    return float(info.smallest_subnormal if dtype == "float16" else info.smallest_normal)


def _known(array: Any, relative: float, rng: np.random.Generator, lengthened: int) -> Any:  # (...) -> object (...)
    """Balls of radius relative · |value| around midpoints of full length, 2^-7 radii away or 2^lengthened times as far."""

    def ball(value: float, dither: int) -> Any:
        exact = flint.arb(value)
        moved = exact * (1 + flint.arb(dither) * relative * 2.0 ** (lengthened - 68))
        return moved + flint.arb(0, abs(value) * relative)

    wide = array.astype(np.float64)
    with truth.precision(400):
        dithered = np.frompyfunc(ball, 2, 1)(wide, rng.integers(2**61, 2**62, array.shape))
        return np.asarray(dithered, dtype=object).reshape(array.shape)  # one ball is no array


def amplification(
    definition: Callable[..., Any], *arrays: Any, dtype: str, lengthened: int = 0, **options: Any
) -> Any:  # -> float64 (...)
    """The first-order radius of the definition in (p-2)-bit balls on inputs known to p bits, in units of u = 2^-p.

    With `lengthened` = LENGTHENED, midpoints stay of full length after the first operation, which rounds away what is within a radius.
    """
    rng = np.random.default_rng(0)
    known = [_known(a, roundoff(dtype) * FIRST_ORDER, rng, lengthened) if _floating(a) else a for a in arrays]
    with truth.precision(BITS[dtype] - LIBRARY_BITS - round(math.log2(FIRST_ORDER))):
        return truth.radii(definition(*known, **options)) / (FIRST_ORDER * roundoff(dtype))


def underflow(*arrays: Any) -> float:
    """How many times the smallest number that is not flushed an answer may be off: terms in a sum, times the largest factor."""
    given = [np.asarray(a, dtype=np.float64) for a in arrays if _floating(a)]
    factor = max([1.0, *(float(np.max(np.abs(a), initial=0.0)) for a in given[1:])])
    return factor * max(a.shape[-1] if a.ndim else 1 for a in given)


def proved_budget(definition: Callable[..., Any], *arrays: Any, dtype: str, **options: Any) -> Any:  # -> float64 (...)
    """u times the amplification of rounding errors, and the allowance for underflow."""
    return budget(amplification(definition, *arrays, dtype=dtype, **options), underflow(*arrays), dtype)


def budget(amplified: Any, underflowed: float, dtype: str) -> Any:  # (...) -> float64 (...)
    """The error allowed besides the last rounding: u · amplification + underflow · the smallest number that is not flushed."""
    return np.asarray(amplified, dtype=np.float64) * roundoff(dtype) + _flushed(dtype) * underflowed


def allowed(middle: Any, budget: Any, dtype: str) -> Any:  # float64 (...) -> float64 (...)
    """The whole tolerance of an answer: its budget, the last rounding, and the smallest number that is not flushed."""
    return np.broadcast_to(budget, middle.shape) + roundoff(dtype) * np.abs(middle) + _flushed(dtype)


def _floating(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind not in "biuO"


def _ulp_histogram(error: Any, rounded: Any, dtype: str) -> tuple[int, ...]:
    """Counts of elements by error in units of the last place that the dtype has at the truth; at least its smallest subnormal."""
    size = np.abs(rounded.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.frexp(np.where(size > 0, size, 1.0))[1].astype(
            np.float64
        )  # exact, as a logarithm is not below powers of two
        ulp = np.maximum(2.0 ** (exponent - BITS[dtype]), float(ml_dtypes.finfo(DTYPES[dtype]).smallest_subnormal))
        ulps = np.where(
            np.isfinite(size) & np.isfinite(error),
            error / np.where(size > 0, ulp, _flushed(dtype)),
            np.where(error == 0, 0.0, np.inf),
        )
    bins = np.searchsorted(np.array(_ULP_EDGES), ulps.ravel(), side="left")
    return tuple(int(count) for count in np.bincount(bins, minlength=len(ULP_BINS)))


def judge(got: Any, known: Any, budget: Any, dtype: str, *, word: str = "within proof") -> Verdict:
    """Compare an answer with what contains the truth.

    Parameters
    ----------
    got : the implementation's answer, converted to a NumPy array
    known : object array of balls, or a `truth.DoubleDouble`
    budget : float64 array or float, the error allowed besides the last rounding
    dtype : the dtype the answer should have; one of `EXACT` has no tolerance, whatever the budget
    word : what to call an answer within tolerance
    """
    answer, kind = np.asarray(got), ANSWERS[dtype]
    if answer.shape != known.shape or answer.dtype != kind:
        expected = f"{kind} {known.shape}"
        return Verdict("wrong shape or dtype", np.inf, np.inf, (), f"{answer.dtype} {answer.shape}", expected)
    if answer.size == 0:
        return Verdict("exact", 0.0, 0.0)
    if dtype in EXACT:
        return _equal(answer, truth.whole_numbers(known))
    middle = truth.midpoints(known)
    tolerance = allowed(middle, budget, dtype)
    if not np.all((tolerance >= 0) & np.isfinite(tolerance)):
        raise ConfigError("a tolerance must be a number, finite and not negative", got=float(np.max(tolerance)))
    with np.errstate(over="ignore"):
        rounded = middle.astype(DTYPES[dtype])
        furthest = (middle + np.copysign(tolerance, middle)).astype(DTYPES[dtype])
    overflows = np.isinf(
        furthest.astype(np.float64)
    )  # what is within the tolerance rounds to infinity there: it is a right answer
    error = np.where(overflows & (answer == furthest), 0.0, truth.upper_distance(known, answer))
    with np.errstate(invalid="ignore", over="ignore"):
        multiple = np.where(np.isfinite(error), error / tolerance, np.inf)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(multiple)), answer.shape))
    histogram = _ulp_histogram(error, rounded, dtype)
    finding = (
        float(error[place]),
        float(multiple[place]),
        place,
        float(answer[place]),
        float(middle[place]),
        histogram,
    )
    if not np.all(np.isfinite(answer.astype(np.float64)) | overflows):
        return Verdict("non-finite", *finding)
    if not np.all(error <= tolerance):
        return Verdict("outside", *finding)
    return Verdict("exact" if np.array_equal(answer, rounded) else word, *finding)


def _equal(answer: Any, known: Any) -> Verdict:  # whole numbers or truth values (...), object (...)
    """`exact` where every element is equal, else `outside`, by infinitely many tolerances."""
    error = np.abs(answer.astype(object) - known)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), answer.shape))
    got, expected = answer[place].item(), type(answer[place].item())(known[place])
    if error[place] == 0:
        return Verdict("exact", 0.0, 0.0, place, got, expected)
    return Verdict("outside", float(error[place]), math.inf, place, got, expected)
