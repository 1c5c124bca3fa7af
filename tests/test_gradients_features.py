"""Backward passes of Taylor softmax, linear attention and FAVOR+.

Every rule: value the definition's bit for bit, cotangents transposed to complex steps in every dialect, within the proved budget on every number
system. Then what is exact: the past of a causal answer, masked keys, queries that see nothing, chunks; memory, counted; ties, and what
implementations hold constant.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from fractions import Fraction
from typing import Any, NamedTuple

import array_api_compat
import flint
import numpy as np
import pytest
from systems import NUMPY, System, rounded, unchanged

from refimpl import errors, favor, linear_attention, softmax, taylor
from refimpl.complex_step import jvp
from refimpl.gradients import rule_of, vjp
from validation import counting, tolerance, truth


class Case(NamedTuple):
    definition: Any
    arguments: dict[str, Any]  # by name; floating NumPy arrays are rounded to the dtype under test


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


Q, K, V = _normal(1, 2, 2, 3, 2), _normal(2, 2, 2, 4, 2), _normal(3, 2, 2, 4, 2)
W = favor.orthogonal_gaussian(np.random.default_rng(4), 3, 2)
MASK = np.array(
    [[[False, True, True, False]], [[False, False, True, True]]]
)  # the first query of the second row sees nothing
SHIFTS = {
    "positive": ("none", "row", "head", "sequence"),
    "trigonometric": ("row", "head"),
    "hyperbolic": ("head", "norm"),
}
FEATURES = {
    "positive": favor.positive_features,
    "trigonometric": favor.trigonometric_features,
    "hyperbolic": favor.hyperbolic_features,
}


def _attention_cases() -> dict[str, Case]:
    """Each definition in full form, and causal with a mask, on fewer queries than keys, in chunks that do not divide them."""
    definitions: dict[str, tuple[Any, dict[str, Any]]] = {
        "linear": (linear_attention.linear_attention, {}),
        "maps": (linear_attention.linear_attention, {"q_map": softmax.softmax, "k_map": softmax.softmax}),
        "taylor": (taylor.taylor_attention, {}),
        "taylor-scale": (taylor.taylor_attention, {"scale": Fraction(-1, 3)}),
    }
    cases = {}
    for dialect, convention in favor.dialects.items():
        for kernel in convention.kernels:
            more = {"projection": W, "dialect": dialect, "kernel": kernel, "detached": False}
            definitions[f"{dialect}-{kernel}"] = (favor.favor_attention, more)
    definitions["google-jax-bare"] = (
        favor.favor_attention,
        {"projection": None, "dialect": "google-jax", "kernel": "relu"},
    )
    for name, (definition, more) in definitions.items():
        positive = name == "fast-transformers-relu"  # bare ReLU features of random signs may all be 0
        arrays = {"q": Q, "k": K, "v": V} | more
        arrays |= {each: np.abs(arrays[each]) for each in ("q", "k", "projection") if positive}
        for causal in (False, True):
            for masked in (False, True) if name in ("linear", "taylor", "google-jax-softmax") else (causal,):
                given = arrays | {"causal": causal, "chunk": 2} | ({"mask": MASK} if masked else {})
                cases[f"{name}{'-causal' * causal}{'-masked' * masked}"] = Case(definition, given)
    return cases


def _cases() -> dict[str, Case]:
    x = 2 * _normal(5, 2, 5)
    cases = {f"exp-{n}": Case(taylor.exp_taylor, {"x": x, "order": n}) for n in (0, 1, 2, 5, 8)}
    cases |= {f"softmax-{n}": Case(taylor.taylor_softmax, {"x": x, "order": n}) for n in (0, 2, 6)}
    cases["softmax-axis"] = Case(taylor.taylor_softmax, {"x": x, "order": 4, "axis": 0})
    cases["taylor_features"] = Case(taylor.taylor_features, {"x": x})
    seen = np.array([[[True], [False], [True]], [[True], [True], [False]]])[:, None]
    mean = {"numerators": Q, "denominators": 1 + np.abs(K[..., :3, :1])}
    cases["mean"] = Case(linear_attention.weighted_mean, mean)
    cases["mean-seen"] = Case(linear_attention.weighted_mean, mean | {"seen": seen})
    for name, shifts in SHIFTS.items():
        for shift in shifts:
            options = {"shift": shift, "scaled": shift != "none", "normalized": shift != "head"}
            options |= {"epsilon": 0.125} if name == "positive" else {}
            cases[f"{name}-{shift}"] = Case(FEATURES[name], {"x": Q, "projection": W} | options)
    cases["positive-vector"] = Case(favor.positive_features, {"x": Q[0, 0, 0], "projection": W, "shift": "head"})
    for normalized in (False, True, "inside"):
        cases[f"relu-{normalized}"] = Case(favor.relu_features, {"x": Q, "projection": W, "normalized": normalized})
    cases["relu-bare"] = Case(favor.relu_features, {"x": Q, "projection": None})
    one_head = {"q": Q, "k": K[:, :1], "v": V[0, 0], "chunk": 3}
    cases["one-head"] = Case(taylor.taylor_attention, one_head | {"causal": True, "mask": MASK[1]})
    cases["one-head-favor"] = Case(favor.favor_attention, one_head | {"projection": W, "dialect": "google-tf"})
    return cases | _attention_cases()


CASES = _cases()
every_case = pytest.mark.parametrize("name", CASES)
ON_EVERY_SYSTEM = [
    *("exp-5", "softmax-6", "taylor_features", "mean-seen", "linear-causal-masked", "taylor-causal-masked"),
    *("positive-sequence", "trigonometric-head", "hyperbolic-norm", "relu-inside", "google-jax-softmax-causal-masked"),
]


# --- every rule -------------------------------------------------------------------------------------------------------------------------


def _floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _defined(case: Case, arguments: dict[str, Any]) -> tuple[Any, ...]:
    """What the definition returns; `detached` is the rule's alone."""
    value = case.definition(**{name: each for name, each in arguments.items() if name != "detached"})
    return value if isinstance(value, tuple) else (value,)


@functools.cache
def _bars(name: str) -> tuple[Any, ...]:
    values = _defined(CASES[name], CASES[name].arguments)
    return tuple(_normal(50 + i, *value.shape) for i, value in enumerate(values))


def _cotangents(case: Case, arguments: dict[str, Any], bars: tuple[Any, ...]) -> dict[str, Any]:
    """By the names of the arguments, without those that were None."""
    found = zip(rule_of(case.definition).arguments, vjp(case.definition, **arguments)[1](*bars), strict=True)
    return {name: bar for name, bar in found if bar is not None}


@every_case
def test_pullback_is_transposed_to_complex_steps(name: str) -> None:
    """<ȳ, J t> = <x̄, t> for random t in each argument, to 2e-14 of the sums of their terms' absolute values: some hundred roundings."""
    case, bars, rng = CASES[name], _bars(name), np.random.default_rng(6)
    value = vjp(case.definition, **case.arguments)[0]
    assert all(map(unchanged, value if isinstance(value, tuple) else (value,), _defined(case, case.arguments)))
    found = _cotangents(case, case.arguments, bars)
    names = list(case.arguments)
    for argument, cotangent in found.items():
        assert cotangent.shape == case.arguments[argument].shape
        t = rng.normal(size=cotangent.shape)

        def definition(*values: Any) -> Any:
            return _defined(case, dict(zip(names, values, strict=True)))

        _, tangents = jvp(
            definition, tuple(case.arguments.values()), tuple(t if each == argument else None for each in names)
        )
        pushed = [bar * tangent for bar, tangent in zip(bars, tangents, strict=True)]
        size = sum(np.sum(np.abs(part)) for part in [*pushed, cotangent * t])
        assert abs(sum(map(np.sum, pushed)) - np.sum(cotangent * t)) <= 2e-14 * size, argument


def _flat(case: Case, *arrays: Any) -> Any:
    """All cotangents end to end, as a function of the floating arguments and the results' cotangents."""
    names = [name for name, value in case.arguments.items() if _floating(value)]
    given = case.arguments | dict(zip(names, arrays, strict=False))
    found = _cotangents(case, given, arrays[len(names) :])
    return np.concatenate([bar.ravel() for bar in found.values()])


@functools.cache
def _truth(name: str, dtype: str) -> tuple[Any, Any]:
    """The enclosure of the exact cotangents of the rounded arguments, and their proved budget."""
    case = CASES[name]
    arrays = [rounded(a, dtype) for a in (*case.arguments.values(), *_bars(name)) if _floating(a)]
    flat = functools.partial(_flat, case)
    return truth.enclose(flat, *arrays), tolerance.proved_budget(flat, *arrays, dtype=dtype)


def _same(one: Any, other: Any) -> bool:
    return (
        list(map(repr, one.ravel())) == list(map(repr, other.ravel())) if one.dtype == object else unchanged(one, other)
    )


@pytest.mark.parametrize("name", ON_EVERY_SYSTEM)
def test_value_bit_for_bit_and_cotangents_within_the_proved_budget(name: str, system: System) -> None:
    """In every dtype of NumPy, and the widest of every other system; nothing given is changed, and what comes out stays where the arguments are."""
    case = CASES[name]
    for dtype in system.dtypes if system is NUMPY else system.dtypes[-1:]:

        def moved(value: Any, dtype: str = dtype) -> Any:
            return system.floats(value, dtype) if _floating(value) else system.to(value)

        arguments = {n: moved(a) if isinstance(a, np.ndarray) else a for n, a in case.arguments.items()}
        bars = tuple(map(moved, _bars(name)))
        given = [a for a in (*arguments.values(), *bars) if hasattr(a, "dtype")]
        before = [np.array(system.back(a)) for a in given]
        value = vjp(case.definition, **arguments)[0]
        for ours, theirs in zip(
            value if isinstance(value, tuple) else (value,), _defined(case, arguments), strict=True
        ):
            assert _same(*(each if system.is_ball else system.back(each) for each in (ours, theirs)))
        found = _cotangents(case, arguments, bars)
        for argument, bar in found.items():
            assert bar.shape == arguments[argument].shape
            assert bar.dtype == arguments[argument].dtype
            assert array_api_compat.array_namespace(bar) is system.xp
            assert array_api_compat.device(bar) == system.device
        assert all(np.array_equal(old, system.back(a)) for old, a in zip(before, given, strict=True))
        enclosure, budget = _truth(name, dtype)
        flat = np.concatenate([(b if system.is_ball else system.back(b)).ravel() for b in found.values()])
        if system.is_ball:
            assert all(x.overlaps(y) for x, y in zip(flat, enclosure, strict=True))
        else:
            verdict = tolerance.judge(flat, enclosure, budget, dtype)
            assert verdict.passed, (dtype, verdict)
