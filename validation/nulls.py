"""Null answers: what a program says that computes nothing. Every set of vectors has to fail each of them.

Zeros, a constant, the mean of the right answer, the input handed back, the previous case's answer, NaN. What is not a number fails every
case by itself; of the others, each case records by how many times its tolerance they are off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation import tolerance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["NULLS", "margins", "null_answers"]

CONSTANT = 12345.0
UNJUDGED = ("non-finite", "wrong shape or dtype")  # no margin is recorded of them
LARGEST = 1e300  # a margin beyond it is written as this
NULLS = ("zeros", "a constant", "the mean", "the input", "the previous answer", "NaN")


def null_answers(
    right: Any, inputs: Iterable[Any], previous: Any, dtype: str
) -> dict[str, Any]:  # name -> (...) of dtype
    """Every null answer to a case whose right answer is `right`; the input is the first floating one, the previous answer any array.

    Where answers are whole numbers or truth values, the input may be so too, and NaN is an answer of the wrong dtype.
    """
    kind, others = tolerance.ANSWERS[dtype], "" if dtype in tolerance.EXACT else "biu"
    floating = [a for a in inputs if isinstance(a, np.ndarray) and a.dtype.kind not in others and a.size]
    mean = math.fsum(right.ravel().tolist()) / max(right.size, 1) if np.all(np.isfinite(right)) else 0.0
    found = {
        "zeros": np.zeros(right.shape),
        "a constant": np.full(right.shape, CONSTANT),
        "the mean": np.full(right.shape, mean),
        "NaN": np.full(right.shape, np.nan),
    }
    found |= {"the input": np.resize(floating[0], right.shape)} if floating else {}
    found |= {"the previous answer": np.resize(previous, right.shape)} if previous is not None and previous.size else {}
    if dtype in tolerance.EXACT:
        return {name: answer if name == "NaN" else _whole(answer).astype(kind) for name, answer in found.items()}
    with np.errstate(over="ignore"):
        return {name: np.asarray(answer, dtype=np.float64).astype(kind) for name, answer in found.items()}


def _whole(answer: Any) -> Any:
    """An answer that whole numbers can be: the mean of large ones, within their range."""
    return answer if answer.dtype.kind in "biu" else np.clip(np.trunc(answer.astype(np.float64)), -(2.0**62), 2.0**62)


def margins(
    judge: Callable[[Any], tolerance.Verdict], right: Any, answers: dict[str, Any], dtype: str
) -> dict[str, float]:
    """Error over tolerance of each null answer that has one and is not the right answer to within two of the dtype's roundings."""
    found = {}
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = right.astype(tolerance.ANSWERS[dtype]).astype(np.float64)
        for name, answer in answers.items():
            gap = np.abs(answer.astype(np.float64) - rounded)
            if np.all(~(gap > 4 * tolerance.roundoff(dtype) * np.abs(rounded))) and name != "NaN":
                continue
            verdict = judge(answer)
            found |= {name: min(float(f"{verdict.multiple:.3g}"), LARGEST)} if verdict.word not in UNJUDGED else {}
    return found
