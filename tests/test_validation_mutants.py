"""The catalogue of bugs: every one is found, in every dtype and dialect where it can be, and the twins beside them conform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import validation
from validation import components, mutants, tolerance, vectors

NAMES = list(components.COMPONENTS)
UNSHAPED = ("wrong-shape", "dtype-leak")  # bugs of the answer's shape or dtype, not of its numbers


def _verdicts(function: Any, component: str, dtype: str) -> list[tuple[components.Case, tolerance.Verdict]]:
    """The verdict on each golden vector; what the function raises is not caught."""
    verdicts = []
    for vector in vectors.load(component).select(dtype):
        case = components.Case(vector.name, vector.hard, vector.positional(dtype), vector.params(dtype))
        with np.errstate(all="ignore"):
            answer = function(*vector.positional(dtype), **vector.params(dtype))
        verdicts.append((case, vector.judge(answer, dtype)))
    return verdicts


def _speaks(case: components.Case, dialect: str) -> bool:
    return any(isinstance(value, str) and value == dialect for value in case.params.values())


def _in_dtypes(names: list[str]) -> list[tuple[str, str]]:
    return [
        (name, dtype) for name in names for dtype in (("float32",) if name in components.MODELS else tolerance.DTYPES)
    ]


def test_every_component_has_mutants_and_every_flag_is_used() -> None:
    assert set(mutants.TWINS) == set(NAMES) == {mutant.component for mutant in mutants.MUTANTS}
    for name in NAMES:
        called = [mutant.name for mutant in mutants.mutants(name)]
        assert len(set(called)) == len(called) >= 4, name
    assert {mutant.flag for mutant in mutants.MUTANTS} == set(mutants.FLAGS)
    assert all(name == flag.name and flag.description and flag.effect for name, flag in mutants.FLAGS.items())
    assert all(mutant.dtypes and set(mutant.dtypes) <= set(tolerance.DTYPES) for mutant in mutants.MUTANTS)
    assert len(mutants.mutants()) == len(mutants.MUTANTS) >= 100


@pytest.mark.parametrize(("name", "dtype"), _in_dtypes(NAMES))
def test_the_twin_of_the_mutants_conforms(name: str, dtype: str) -> None:
    """So what kills a mutant is the step that was replaced."""
    for case, verdict in _verdicts(mutants.TWINS[name], name, dtype):
        assert verdict.passed, (case.id, verdict)


@pytest.mark.parametrize(("name", "dtype"), [row for row in _in_dtypes(NAMES) if row[1] in ("bfloat16", "float32")])
def test_every_mutant_is_killed_by_its_numbers(name: str, dtype: str) -> None:
    """In the other dtypes too: the kill matrix. Not because it raises, nor by shape or dtype; and in no case where it is said to be right."""
    for mutant in mutants.mutants(name):
        verdicts = _verdicts(mutant.function, name, dtype)
        if dtype in mutant.dtypes:
            assert any(not verdict.passed for _, verdict in verdicts), mutant.name
        if mutant.flag not in UNSHAPED:
            assert {verdict.word for _, verdict in verdicts} <= {
                "exact",
                "within proof",
                "within sample",
                "outside",
                "non-finite",
            }
        if mutant.seen is not None:
            blamed = [case.id for case, verdict in verdicts if not verdict.passed and not mutant.seen(case)]
            assert not blamed, (mutant.name, blamed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gelu", "favor_attention"])
def test_every_mutant_is_killed_in_every_dialect_that_can_show_it(name: str, dtype: str) -> None:
    for mutant in mutants.mutants(name):
        verdicts = [(c, v) for c, v in _verdicts(mutant.function, name, dtype) if mutant.seen is None or mutant.seen(c)]
        for dialect in components.component(name).dialects:
            mine = [verdict for case, verdict in verdicts if _speaks(case, dialect)]
            if mine and dtype in mutant.dtypes:
                assert any(not verdict.passed for verdict in mine), (mutant.name, dialect)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in components.MODELS])
def test_check_says_the_same(name: str) -> None:
    """`validation.check` itself, for the first mutant of each component and for its twin."""
    assert validation.check(mutants.TWINS[name], name).passed
    assert not validation.check(mutants.mutants(name)[0].function, name).passed
