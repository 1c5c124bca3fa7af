"""Backward passes of Taylor softmax, linear attention and FAVOR+.

Every rule: value the definition's bit for bit, cotangents transposed to complex steps in every dialect, within the proved budget on every number
system. Then what is exact: the past of a causal answer, masked keys, queries that see nothing, chunks; memory, counted; ties, and what
implementations hold constant.
"""

from __future__ import annotations

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


@pytest.mark.parametrize("causal", [False, True])
def test_a_cotangent_that_is_left_out_is_zero(causal: bool) -> None:
    value, pullback = linear_attention.linear_attention_vjp(Q, K, V, causal=causal, mask=MASK[:, :1])
    numerators, denominators = _normal(60, *value[0].shape), _normal(61, *value[1].shape)
    for given, padded in (
        ((numerators,), (numerators, 0 * denominators)),
        ((None, denominators), (0 * numerators, denominators)),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(pullback(*given), pullback(*padded), strict=True))


@pytest.mark.parametrize("name", ["taylor", "paper-softmax", "google-jax-softmax"])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_change_rounding_only(name: str, causal: bool) -> None:
    """In balls of 160 bits: cotangents of every chunk size contain the same numbers, and are narrower than 1e-25."""
    case, bars = CASES[name], tuple(map(truth.balls, _bars(name)))
    with truth.precision(160):
        arguments = {n: truth.balls(a) if _floating(a) else a for n, a in case.arguments.items()}
        arguments |= {"causal": causal, "mask": MASK}
        first, *others = [_cotangents(case, arguments | {"chunk": chunk}, bars) for chunk in (128, 1, 2, 3)]
        assert all(np.max(truth.radii(bar)) < 1e-25 for bar in first.values())
        for other in others:
            for argument, bar in first.items():
                assert all(x.overlaps(y) for x, y in zip(bar.ravel(), other[argument].ravel(), strict=True))


# --- what is exact ----------------------------------------------------------------------------------------------------------------------

CAUSAL: dict[str, Any] = {
    "linear": linear_attention.linear_attention,
    "taylor": taylor.taylor_attention,
    "paper": functools.partial(favor.favor_attention_vjp, projection=W),
}


def _causal_pullback(name: str, *arrays: Any, **options: Any) -> Any:
    given = {"causal": True} | options
    return favor.favor_attention_vjp(*arrays, **given)[1] if name == "paper" else vjp(CAUSAL[name], *arrays, **given)[1]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_cotangents_of_keys_come_from_the_queries_at_or_after_them_exactly(name: str, chunk: int) -> None:
    """Cotangents of queries before position t changed: those of the keys from t on, and of the queries from t on, are the same bits."""
    q, k, v = _normal(1, 1, 5, 2), _normal(2, 1, 7, 2), _normal(3, 1, 7, 2)
    arrays = (q, k, v, W) if name == "paper" else (q, k, v)
    pullback = _causal_pullback(name, *arrays, chunk=chunk)
    shapes = ((1, 5, 2), (1, 5, 1)) if name == "linear" else ((1, 5, 2),)
    bars = [_normal(7 + i, *shape) for i, shape in enumerate(shapes)]
    plain = pullback(*bars)
    for t in range(1, 5):
        early = np.arange(5)[:, None] < t
        changed = pullback(*(np.where(early, 1e3 * bar - 1, bar) for bar in bars))
        assert np.array_equal(changed[0][:, t:], plain[0][:, t:])
        for i in (1, 2):
            assert np.array_equal(changed[i][:, 2 + t :], plain[i][:, 2 + t :])
            assert not np.array_equal(changed[i][:, : 2 + t], plain[i][:, : 2 + t])
        late = pullback(*(np.where(early, bar, 1e3 * bar - 1) for bar in bars))
        assert np.array_equal(late[0][:, :t], plain[0][:, :t])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["linear", "taylor", "paper-softmax", "google-jax-softmax", "tf-models-softmax"])
def test_masked_keys_have_cotangent_0_and_no_influence(name: str, causal: bool, junk: float) -> None:
    case, seen = CASES[name], np.broadcast_to(MASK, K.shape[:-1])[..., None]
    arguments = case.arguments | {"causal": causal, "mask": MASK}
    bars = _bars(name)
    plain = _cotangents(case, arguments, bars)
    spoilt = _cotangents(case, arguments | {n: np.where(seen, arguments[n], junk) for n in "kv"}, bars)
    assert all(np.array_equal(plain[n], spoilt[n]) for n in plain)
    assert all(np.all(plain[n][~np.broadcast_to(seen, plain[n].shape)] == 0) for n in "kv")
    assert all(np.any(plain[n] != 0) for n in "kv")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["linear", "taylor", "paper-softmax", "google-jax-softmax", "tf-models-softmax"])
def test_cotangents_of_queries_that_see_nothing_are_not_looked_at(name: str, causal: bool) -> None:
    """Even NaN: everything else is the same bits, and what such a query depends on gets exactly 0. In the first row no key is allowed."""
    mask = np.array([[[False] * 4], [[False, False, True, True]]])
    case, arguments = CASES[name], CASES[name].arguments | {"causal": causal, "mask": mask}
    seen = linear_attention.sees_a_key(mask, Q.shape[-2], causal=causal)
    plain = _cotangents(case, arguments, _bars(name))
    spoilt = _cotangents(case, arguments, tuple(np.where(seen, bar, np.nan) for bar in _bars(name)))
    assert all(np.array_equal(plain[n], spoilt[n]) for n in plain)
    assert all(np.all(plain[n][0] == 0) for n in "qkv")
    assert np.all(plain["q"][~np.broadcast_to(seen, Q.shape)] == 0)
    assert np.all(plain["q"][1, :, -1] != 0)


def _held(n: int, rule: Any, *more: Any, **options: Any) -> int:
    """The most bytes that are alive in a rule and its pullback, of n positions of width 4 in chunks of 8."""
    rng, counter = np.random.default_rng(0), counting.Counter()
    q, k, v, bar = (counter.array(rng.normal(size=(1, 1, n, 4))) for _ in range(4))
    kept = rule(q, k, v, *map(counter.array, more), chunk=8, **options)[1](bar)
    assert len(kept) == 3 + len(more)
    return counter.peak


def test_memory_grows_by_rows_of_q_k_v_and_cotangents_alone() -> None:
    """448 bytes a position, whatever the number of features: neither features nor states of positions are held, nor anything n x n.

    That is 14 arrays of width 4: q, k, v, the answer, cotangents in and out, and what is joined of chunks, twice.
    """
    rng = np.random.default_rng(0)
    few, many = (favor.orthogonal_gaussian(rng, m, 4) for m in (8, 16))
    jax = functools.partial(favor.favor_attention_vjp, dialect="google-jax")
    for rule, more, causal in ((jax, (few,), True), (jax, (many,), True), (jax, (few,), False)):
        assert _held(96, rule, *more, causal=causal) - _held(88, rule, *more, causal=causal) == 8 * 448
    lengths = [_held(n, taylor.taylor_attention_vjp, causal=True) for n in (88, 96, 104)]
    assert np.diff(lengths).tolist() == [8 * 448] * 2


# --- the maximum that is subtracted -----------------------------------------------------------------------------------------------------


def test_equal_entries_share_the_cotangent_of_their_maximum(system: System) -> None:
    """x = 0: all u are 0, and exp(u - h - c) = 1. So t = φ̄, and x̄ = Wᵀ (t - Σ t/m); on balls too, for the same number is decided."""
    dtype, bar = system.dtypes[-1], np.array([1.0, 2.0, 6.0])
    expected = W.T @ (bar - 3.0)
    x, projection, given = (system.floats(a, dtype) for a in (np.zeros(2), W, bar))
    got = favor.positive_features_vjp(x, projection, shift="row", normalized=False)[1](given)[0]
    assert np.allclose(system.back(got), expected, rtol=8 * tolerance.roundoff(dtype), atol=0)
    if system.is_ball:
        assert np.max(truth.radii(got)) < 1e-12
    # two equal rows of one feature: each has half of c̄ = -(t_1 + t_2), t_i = φ̄_i exp(-1/2)
    rows, ones, bars = (system.floats(a, dtype) for a in ([[1.0], [1.0], [0.5]], [[1.0]], [[1.0], [3.0], [0.0]]))
    both = favor.positive_features_vjp(rows, ones, shift="head", normalized=False)[1](bars)[0]
    assert np.allclose(system.back(both), np.exp(-0.5) * np.array([[-2.0], [-2.0], [0.0]]), rtol=1e-6, atol=1e-7)


def test_of_overlapping_balls_each_may_be_the_maximum() -> None:
    """Nothing is undecided: the cotangents contain those of every choice."""
    w, bar = truth.balls(np.array([[1.0]])), truth.balls(np.array([[1.0], [2.0]]))
    wide = np.array([[flint.arb(1, 0.1)], [flint.arb(1.05)]])
    rule = functools.partial(favor.positive_features_vjp, projection=w, shift="head")
    got = rule(wide)[1](bar)[0]
    for low in (0.9, 1.0, 1.04, 1.06, 1.1):
        exact = rule(np.array([[flint.arb(low)], [flint.arb(1.05)]]))[1](bar)[0]
        assert all(x.contains(y) for x, y in zip(got.ravel(), exact.ravel(), strict=True))


@pytest.mark.parametrize(
    ("dialect", "kernel"), [(name, kernel) for name, each in favor.dialects.items() for kernel in each.kernels]
)
def test_only_one_implementation_holds_its_maximum_and_the_papers_cancels(dialect: str, kernel: str) -> None:
    if (dialect, kernel) == ("fast-transformers", "relu"):
        return  # 0/0 on these inputs; no maximum
    own, true, held = (
        favor.favor_attention_vjp(Q, K, V, W, dialect=dialect, kernel=kernel, detached=detached)[1](
            _normal(8, *Q.shape)
        )
        for detached in (None, False, True)
    )

    def same(one: Any, other: Any) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    holds = (dialect, kernel) == ("performer-pytorch", "softmax")
    features = favor.dialects[dialect].kernels[kernel]
    matters = features.key_shift != "none" and dialect != "paper"
    assert same(own, held if holds else true)
    assert same(true, held) is not matters


@pytest.mark.parametrize("name", FEATURES)
def test_a_maximum_that_is_held_is_a_constant(name: str) -> None:
    """Held to complex steps through the feature map with the maximum as a number."""
    features = favor.Features(name, scaled=True, key_shift="head", epsilon=0.125 if name == "positive" else 0.0)
    options = {"scaled": True, "shift": "head"} | ({"epsilon": 0.125} if name == "positive" else {})
    phi, pullback = vjp(FEATURES[name], Q, W, **options, detached=True)
    bar, t = _normal(9, *phi.shape), _normal(10, *Q.shape)
    shift = favor._shift(features, "head", Q, W)
    _, pushed = jvp(lambda x, w, c: favor._mapped(features, x, w, c), (Q, W, shift), (t, None, None))
    terms = bar * pushed
    assert abs(np.sum(terms) - np.sum(pullback(bar)[0] * t)) <= 2e-14 * np.sum(np.abs(terms))


# --- feature maps and their rules -------------------------------------------------------------------------------------------------------


def _doubled_vjp(rows: Any) -> Any:
    return 2 * rows, lambda bar: (2 * bar,)


def test_a_map_without_a_registered_rule_brings_its_own() -> None:
    options: dict[str, Any] = {"causal": True, "chunk": 2}
    bars = _bars("linear")
    plain = vjp(linear_attention.linear_attention, 2 * Q, K, V, **options)[1](*bars)
    got = vjp(linear_attention.linear_attention, Q, K, V, q_map=lambda x: 2 * x, q_map_vjp=_doubled_vjp, **options)[1](
        *bars
    )
    assert np.array_equal(got[0], 2 * plain[0])
    assert all(np.array_equal(a, b) for a, b in zip(got[1:], plain[1:], strict=True))


def test_maps_without_rules_are_refused_in_words() -> None:
    rule = linear_attention.linear_attention_vjp
    with _refused(errors.ConfigError, "no rule says how this is differentiated", "softmax.softmax", "<lambda>"):
        rule(Q, K, V, k_map=lambda x: 2 * x)
    with _refused(
        errors.ConfigError, "no rule says how this feature map", "functools.partial", "rows -> (features, pullback)"
    ):
        rule(Q, K, V, k_map=functools.partial(softmax.softmax, axis=-1))
    with _refused(errors.ConfigError, "a rule without its feature map", "linear_attention_vjp"):
        rule(Q, K, V, q_map_vjp=_doubled_vjp)


def test_a_ball_on_both_sides_of_a_kink_is_undecided() -> None:
    x = np.array([flint.arb(0, 1), flint.arb(1)])
    pullback = favor.relu_features_vjp(x, None)[1]
    with _refused(errors.UndecidedError, "undecided", "below 0"):
        pullback(truth.balls(np.ones(2)))


# --- the slope of the Taylor polynomials ------------------------------------------------------------------------------------------------


def _horner(x: Any, order: int) -> Any:
    """f_n(x) in balls."""
    return functools.reduce(lambda total, k: total * x / k + 1, range(order, 0, -1), flint.arb(1))


def _root(order: int) -> Any:
    """The root of f_n, n odd, by bisection."""
    low, high = flint.arb(-order - 1), flint.arb(0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _horner(middle, order) > 0 else (middle, high)
    return high


@pytest.mark.parametrize("order", [1, 2, 3, 9, 20, 63])
def test_slope_of_the_polynomial_cancels_no_more_than_its_root_demands(order: int) -> None:
    """Σ |terms| <= 1.03 |x/(x - r)| |f_n(x)| left of the root r of f_n, and 1.03 |f_n(x)| elsewhere, below and above: for f_n by its own nodes
    (1), and for f_{n+1}' by those of f_{n+1}. For even n all terms of the first are positive.
    """
    with truth.precision(400):
        root = _root(order) if order % 2 else None
        for nodes, slope in ((order, 1), (order + 1, order + 1)):
            rule = taylor.laguerre_rule(nodes, truth.balls(np.zeros(1)))
            for x in (flint.arb(-k * (order + 2)) / 16 for k in range(1, 49)):
                terms = sum(abs(w * slope * s ** (nodes - order) * (s * (x + node)) ** order) for node, s, w in rule)
                room = 1 if root is None else max(1, abs(x / (x - root)))
                assert terms <= flint.arb(1.03) * room * abs(_horner(x, order)), float(x)
