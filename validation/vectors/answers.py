"""Answers to frozen inputs: the truth, the tolerance and the margins of null answers. Nothing here depends on the machine."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np

from validation import components, nulls, tolerance, truth
from validation.vectors.files import Vector

__all__ = ["HAND", "answered", "fresh", "truthful", "unanswered"]

HAND = "by hand"


def fresh(op: str, case: components.Case, dtype: str) -> Vector:
    """A case of today as a vector for one dtype, answered but not numbered.

    Its tolerance counts more than those of the published vectors, which stay as they are: a proved one runs of either kind of midpoints, a
    model's what rounding its parameters to the dtype moves the answer by.
    """
    subject = components.component(op)
    known = truthful(dataclasses.replace(unanswered(subject, case), dtypes=(dtype,)), subject)
    arrays, params = known.positional("float64"), known.params("float64")
    if op in components.MODELS:
        moved = components.parameter_rounding(op, dtype, *arrays, **params)
        return dataclasses.replace(known, amplification=_rounded_up(known.amplification + moved))
    if subject.sampled:
        return known
    long = subject.amplification(*arrays, dtype=dtype, lengthened=tolerance.LENGTHENED, **params)
    return dataclasses.replace(known, amplification=np.maximum(known.amplification, _rounded_up(long)))


def unanswered(subject: components.Component, case: components.Case) -> Vector:
    """A case as a vector without number, dtypes and answer."""
    named = [value for value in case.params.values() if isinstance(value, str) and value in subject.dialects]
    arguments = _arguments(subject, case)
    return Vector(
        id="",
        name=case.id,
        hard=case.hard,
        origin=HAND,
        dialect=named[0] if named else None,
        dtypes=(),
        arguments=arguments,
        arrays=tuple(list(arguments)[: len(case.arrays)]),
    )


def _arguments(subject: components.Component, case: components.Case) -> dict[str, Any]:
    """Every argument of the call by name; floating arrays as float64, whole numbers as int64."""
    names = list(inspect.signature(subject.definition).parameters)[: len(case.arrays)]
    return {name: _wide(value) for name, value in (dict(zip(names, case.arrays, strict=True)) | case.params).items()}


def _wide(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return value.astype({"b": np.bool_, "i": np.int64, "u": np.int64}.get(value.dtype.kind, np.float64))


def answered(vector: Vector, previous: Any = None) -> Vector:
    """The vector with its answer, its tolerance and, beside `previous` (the answer of the vector before), the margins of null answers."""
    known = truthful(vector, components.component(vector.id.rpartition("-")[0]))
    return dataclasses.replace(known, null_margins={dtype: _margins(known, dtype, previous) for dtype in known.dtypes})


def truthful(vector: Vector, subject: components.Component) -> Vector:
    """The vector with its answer and its tolerance: the largest amplification that is found at the precision of one of its dtypes."""
    arrays, params = vector.positional("float64"), vector.params("float64")
    expected = truth.double_double(subject.definition, *arrays, **params)
    one = subject.sampled or subject.exact  # a sampled one is the same at every level, and exact answers have none
    levels = vector.dtypes[:1] if one else vector.dtypes
    found = [np.broadcast_to(subject.amplification(*arrays, dtype=dtype, **params), expected.shape) for dtype in levels]
    return dataclasses.replace(
        vector,
        expected=expected,
        amplification=_rounded_up(np.max(np.stack(found), axis=0)),
        underflow=0.0 if one else tolerance.underflow(*arrays),
        word=subject.word,
        exact=subject.exact,
    )


def _rounded_up(values: Any) -> Any:  # float64 (...) -> float64 (...)
    """Every value rounded up to 8 significant bits: a tolerance is not known any better."""
    fraction, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    return np.ldexp(np.ceil(fraction * 256) / 256, exponent)


def _margins(vector: Vector, dtype: str, previous: Any) -> dict[str, float]:
    right = vector.expected.high
    kind = vector.exact or dtype
    answers = nulls.null_answers(right, vector.positional(dtype), previous, kind)
    return nulls.margins(lambda answer: vector.judge(answer, dtype), right, answers, kind)
