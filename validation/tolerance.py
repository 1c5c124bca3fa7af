"""Tolerances with a derivation, and the verdicts that come of them.

*Proved.* For one component, the error budget of a dtype with p significant bits is the radius that the definition's own result has in ball
arithmetic of p - 2 bits on inputs known to p bits (radius u·|x|, u = 2^-p). A rounding at p - 2 bits adds at least two units in the last place of
a p-bit number to the radius, which is what the elementary functions of current libraries, on processors and GPUs, are documented to err by at most
(exp, log, tanh, erf); the inputs' share covers implementations that scale or reorder before they round. To it are added u·|truth| for the
last rounding and, since balls do not underflow and some hardware flushes, one smallest normal number for each input element, times the
largest input where that exceeds one. Where several published forms of a component round differently, the largest of their budgets counts.

*Sampled.* Through a whole network those radii explode, so the budget is six standard deviations of perturbed arithmetic
(`validation.perturbed`), with its confidence.

Comparison is `not (error <= tolerance)`, so that NaN fails; a tolerance that is NaN or negative is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from refimpl.errors import ConfigError
from validation import truth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BITS", "DTYPES", "Verdict", "judge", "proved_budget", "roundoff", "smallest_normal"]

DTYPES: dict[str, Any] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
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

    @property
    def passed(self) -> bool:
        """Whether the word is one of those that pass."""
        return self.word in ("exact", "within proof", "within sample")


def roundoff(dtype: str) -> float:
    """The unit roundoff u = 2^-p of a dtype with p significant bits."""
    return 2.0 ** -BITS[dtype]


def smallest_normal(dtype: str) -> float:
    """The smallest positive normal number."""
    return float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)


def proved_budget(definition: Callable[..., Any], *arrays: Any, dtype: str, **options: Any) -> Any:  # -> float64 (...)
    """The radius of the definition in (p-2)-bit balls on inputs known to p bits, and the allowance for underflow."""
    floating = [a for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind not in "biuO"]
    known = [truth.balls(a, roundoff(dtype)) if any(a is f for f in floating) else a for a in arrays]
    with truth.precision(BITS[dtype] - LIBRARY_BITS):
        radius = truth.radii(definition(*known, **options))
    largest = max([1.0, *(float(np.max(np.abs(a.astype(np.float64)), initial=0.0)) for a in floating)])
    return radius + smallest_normal(dtype) * largest * sum(a.size for a in floating)


def judge(got: Any, enclosure: Any, budget: Any, dtype: str, *, word: str = "within proof") -> Verdict:
    """Compare an answer with the balls that contain the truth.

    Parameters
    ----------
    got : the implementation's answer, converted to a NumPy array
    enclosure : object array of balls
    budget : float64 array or float, the error allowed besides the last rounding
    dtype : the dtype the answer should have
    word : what to call an answer within tolerance
    """
    answer = np.asarray(got)
    if answer.shape != enclosure.shape or answer.dtype != DTYPES[dtype]:
        expected = f"{DTYPES[dtype]} {enclosure.shape}"
        return Verdict("wrong shape or dtype", np.inf, np.inf, (), f"{answer.dtype} {answer.shape}", expected)
    if answer.size == 0:
        return Verdict("exact", 0.0, 0.0)
    middle = truth.midpoints(enclosure)
    tolerance = np.broadcast_to(budget, answer.shape) + roundoff(dtype) * np.abs(middle) + smallest_normal(dtype)
    if not np.all(tolerance >= 0):
        raise ConfigError("a tolerance must be a number that is not negative", got=float(np.min(tolerance)))
    with np.errstate(over="ignore"):
        rounded = middle.astype(DTYPES[dtype])
    overflows = np.isinf(rounded.astype(np.float64))  # there infinity is the correct answer, and the only one
    error = np.where(overflows & (answer == rounded), 0.0, truth.upper_distance(enclosure, answer))
    with np.errstate(invalid="ignore"):
        multiple = np.where(np.isfinite(error), error / tolerance, np.inf)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(multiple)), answer.shape))
    finding = (float(error[place]), float(multiple[place]), place, float(answer[place]), float(middle[place]))
    if not np.all(np.isfinite(answer.astype(np.float64)) | overflows):
        return Verdict("non-finite", *finding)
    if not np.all(error <= tolerance):
        return Verdict("outside", *finding)
    return Verdict("exact" if np.array_equal(answer, rounded) else word, *finding)
