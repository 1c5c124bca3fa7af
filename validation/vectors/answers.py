"""Answers to frozen inputs: the truth, the tolerance and the margins of null answers. Nothing here depends on the machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from validation import components, nulls, tolerance, truth

if TYPE_CHECKING:
    from validation.vectors.files import Vector

__all__ = ["answered"]


def answered(vector: Vector, previous: Any = None) -> Vector:
    """The vector with its answer, its tolerance and, beside `previous` (the answer of the vector before), the margins of null answers."""
    known = truthful(vector, components.component(vector.id.rpartition("-")[0]))
    return dataclasses.replace(known, null_margins={dtype: _margins(known, dtype, previous) for dtype in known.dtypes})


def truthful(vector: Vector, subject: components.Component) -> Vector:
    """The vector with its answer and its tolerance: the largest amplification that is found at the precision of one of its dtypes."""
    arrays, params = vector.positional("float64"), vector.params("float64")
    expected = truth.double_double(subject.definition, *arrays, **params)
    levels = vector.dtypes[:1] if subject.sampled else vector.dtypes  # a sampled one is the same at every level
    found = [np.broadcast_to(subject.amplification(*arrays, dtype=dtype, **params), expected.shape) for dtype in levels]
    return dataclasses.replace(
        vector,
        expected=expected,
        amplification=_rounded_up(np.max(np.stack(found), axis=0)),
        underflow=0.0 if subject.sampled else tolerance.underflow(*arrays),
        word=subject.word,
    )


def _rounded_up(values: Any) -> Any:  # float64 (...) -> float64 (...)
    """Every value rounded up to 8 significant bits: a tolerance is not known any better."""
    fraction, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    return np.ldexp(np.ceil(fraction * 256) / 256, exponent)


def _margins(vector: Vector, dtype: str, previous: Any) -> dict[str, float]:
    right = vector.expected.high
    answers = nulls.null_answers(right, vector.positional(dtype), previous, dtype)
    return nulls.margins(lambda answer: vector.judge(answer, dtype), right, answers, dtype)
