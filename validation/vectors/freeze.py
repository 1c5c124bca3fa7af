"""Adding vectors: cases of the components, once chosen, are frozen with the dtypes that represent their inputs exactly.

Inputs are drawn for each dtype in turn, rounded to it, and kept as float64. Those drawn for bfloat16 have eight significant bits and serve
all dtypes whose range they are in; those drawn for float64 serve only that, and tell an implementation that computes in float32. A vector that
is there stays as it is: only cases with other inputs are added, under new numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from validation import components, found, mutants, tolerance
from validation.vectors import answers, files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["frozen", "kills"]

SEARCH = "by search"
WIDER = {
    "bfloat16": ("bfloat16", "float16", "float32", "float64"),
    "float16": ("float16", "float32", "float64"),
    "float32": ("float32", "float64"),
    "float64": ("float64",),
}


def frozen(op: str, folder: Path = files.DATA, *, seed: int = 0) -> files.VectorSet:
    """The set of a component's vectors, those in `folder` first and unchanged, with a new vector for every case that is not among them."""
    subject = components.component(op)
    kept = list(files.read(op, folder).vectors) if op in files.names(folder) else []
    seen = {_key(vector.arguments) for vector in kept}
    number = max((int(vector.id.rpartition("-")[2]) for vector in kept), default=0)
    for vector in _candidates(subject, seed):
        if _key(vector.arguments) not in seen:
            seen.add(_key(vector.arguments))
            telling = _telling(dataclasses.replace(vector, id=f"{op}-{number + 1}"), kept)
            kept += [telling] if telling.dtypes else []
            number += bool(telling.dtypes)
    named = {name: mutants.FLAGS[name] for name in sorted({flag for vector in kept for flag in vector.flags})}
    flags = {name: {"description": flag.description, "effect": flag.effect} for name, flag in named.items()}
    return files.VectorSet(op, " ".join(subject.signature.split()), subject.equation, tuple(kept), flags)


def _telling(vector: files.Vector, before: list[files.Vector]) -> files.Vector:
    """The vector answered, for those of its dtypes in which no null answer passes (in 16 bits, zeros can be near enough to small answers)."""
    previous = before[-1].expected.high if before else None
    known = answers.answered(vector, previous)
    dtypes = tuple(dtype for dtype, found in known.null_margins.items() if all(margin > 1 for margin in found.values()))
    if dtypes in ((), vector.dtypes):
        return dataclasses.replace(known, dtypes=dtypes, flags=_caught(known))
    return _telling(dataclasses.replace(vector, dtypes=dtypes), before)


def _caught(vector: files.Vector) -> tuple[str, ...]:
    """The classes of bugs of which some mutant fails on this vector."""
    return tuple(sorted({m.flag for m in mutants.mutants(vector.id.rpartition("-")[0]) if kills(vector, m)}))


def kills(vector: files.Vector, mutant: mutants.Mutant) -> bool:
    """Whether a mutant's answer is wrong, by its numbers or by its shape or dtype, in some dtype that both are for."""
    verdicts = []
    for dtype in set(vector.dtypes) & set(mutant.dtypes):
        with np.errstate(all="ignore"):
            verdicts.append(vector.judge(mutant.function(*vector.positional(dtype), **vector.params(dtype)), dtype))
    return not all(verdict.passed for verdict in verdicts)


def _candidates(subject: components.Component, seed: int) -> Iterator[files.Vector]:
    """The component's own cases, drawn for each dtype, and what the search found."""
    for family, dtypes in ((name, WIDER[name]) for name in WIDER if name in subject.families):
        for case in subject.trials(family, seed, None):
            vector = answers.unanswered(subject, case)
            exact = [d for d in dtypes if all(_represents(d, value) for value in vector.arguments.values())]
            yield dataclasses.replace(vector, dtypes=tuple(dtype for dtype in tolerance.DTYPES if dtype in exact))
    yield from _found(subject)


def _found(subject: components.Component) -> Iterator[files.Vector]:
    """The inputs that the search found, for every dtype that has their numbers."""
    for name, mutant, arguments in found.FOUND.get(subject.name, ()):
        given = {key: np.asarray(value) if isinstance(value, list) else value for key, value in arguments.items()}
        params = {
            key: value for key, value in given.items() if not isinstance(value, np.ndarray) or value.dtype == bool
        }
        arrays = tuple(value for key, value in given.items() if key not in params)  # a mask is no array by position
        vector = answers.unanswered(subject, components.Case(name, f"found by search, for: {mutant}", arrays, params))
        exact = [d for d in tolerance.DTYPES if all(_represents(d, value) for value in vector.arguments.values())]
        yield dataclasses.replace(vector, origin=SEARCH, dtypes=tuple(exact))


def _represents(dtype: str, value: Any) -> bool:
    """Whether a dtype has every number of a floating array; anything else is the same in all."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return True
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(tolerance.DTYPES[dtype]).astype(np.float64), value))


def _key(arguments: dict[str, Any]) -> str:
    """What makes a call the same call."""
    text = [
        (name, files.digest(v), v.shape) if isinstance(v, np.ndarray) else (name, v) for name, v in arguments.items()
    ]
    return hashlib.sha256(repr(text).encode()).hexdigest()
