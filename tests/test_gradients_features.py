"""Backward passes of Taylor softmax, linear attention and FAVOR+.

`refimpl validate` holds every rule, in every dialect, to complex steps and mean values. Here: batches, arrays that are broadcast, every number
system; what is exact: the past of a causal answer, masked keys, queries that see nothing, chunks; memory, counted; ties, and what implementations
hold constant.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

import array_api_compat
import flint
import numpy as np
import pytest
from systems import NUMPY, System, rounded, unchanged

from refimpl import errors, favor, linear_attention, softmax, taylor
from refimpl.complex_step import jvp
from refimpl.gradients import rule_of, vjp
from validation import counting, tolerance, truth
from validation.gradients import checking
from validation.gradients.case import Case, pulled


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


Q, K, V = _normal(1, 2, 2, 3, 2), _normal(2, 2, 2, 4, 2), _normal(3, 2, 2, 4, 2)
W = favor.orthogonal_gaussian(np.random.default_rng(4), 3, 2)
MASK = np.array(
    [[[False, True, True, False]], [[False, False, True, True]]]
)  # the first query of the second row sees nothing
FEATURES = {
    "positive": favor.positive_features,
    "trigonometric": favor.trigonometric_features,
    "hyperbolic": favor.hyperbolic_features,
}


def _case(name: str, arguments: dict[str, Any], **more: Any) -> Case:
    return Case(name, "", arguments, more=more)


def _attention_cases() -> dict[str, tuple[Any, Case]]:
    """Full form, and causal with a mask, with two axes of batches, on fewer queries than keys, in chunks that do not divide them."""
    linear, maps = linear_attention.linear_attention, {"q_map": softmax.softmax, "k_map": softmax.softmax}
    definitions: dict[str, tuple[Any, dict[str, Any]]] = {
        "linear": (linear, {}),
        "maps": (linear, maps),
        "taylor": (taylor.taylor_attention, {"scale": Fraction(-1, 3)}),
        "google-jax-bare": (favor.favor_attention, {"projection": None, "dialect": "google-jax", "kernel": "relu"}),
    }
    exponent = favor.Features("positive", query_shift="row", key_shift="head", epsilon=0.125, shift_of="exponent")
    own_dialect = {"projection": W, "dialect": favor.Dialect({"softmax": exponent})}
    definitions["exponent"] = (favor.favor_attention, own_dialect)
    guarded = favor.Dialect({"softmax": favor.dialects["paper"].kernels["softmax"]}, "guarded", "guarded", epsilon=0.5)
    definitions["guarded"] = (
        favor.favor_attention,
        {"projection": W, "dialect": guarded},
    )  # on both sides of the guard
    for dialect in favor.dialects:
        kernel = "stabilized" if dialect == "fast-transformers" else "softmax"
        definitions[dialect] = (favor.favor_attention, {"projection": W, "dialect": dialect, "kernel": kernel})
    cases = {}
    for name, (definition, more) in definitions.items():
        own = {"detached": False} if definition is favor.favor_attention else {}
        for causal in (False, True):
            given = {"q": Q, "k": K, "v": V, "causal": causal, "chunk": 2} | more | ({"mask": MASK} if causal else {})
            label = f"{name}{'-causal' * causal}"
            cases[label] = (definition, _case(label, given, **own))
    return cases


def _cases() -> dict[str, tuple[Any, Case]]:
    x = 2 * _normal(5, 2, 5)
    seen = np.array([[[True], [False], [True]], [[True], [True], [False]]])[:, None]
    one_head = {"q": Q, "k": K[:, :1], "v": V[0, 0], "chunk": 3}
    features = {"x": Q, "projection": W}
    given: dict[str, tuple[Any, dict[str, Any]]] = {
        "exp": (taylor.exp_taylor, {"x": x, "order": 5}),
        "softmax": (taylor.taylor_softmax, {"x": x, "order": 6}),
        "taylor_features": (taylor.taylor_features, {"x": x}),
        "mean": (
            linear_attention.weighted_mean,
            {"numerators": Q, "denominators": 1 + np.abs(K[..., :3, :1]), "seen": seen},
        ),
        "positive": (favor.positive_features, features | {"shift": "sequence", "scaled": True, "epsilon": 0.125}),
        "trigonometric": (favor.trigonometric_features, features | {"shift": "head", "normalized": False}),
        "hyperbolic": (favor.hyperbolic_features, features | {"shift": "head", "scaled": True}),
        "relu": (favor.relu_features, features | {"normalized": "inside"}),
        "one-head": (taylor.taylor_attention, one_head | {"causal": True, "mask": MASK[1]}),
        "one-head-favor": (favor.favor_attention, one_head | {"projection": W, "dialect": "google-tf"}),
    }
    return {name: (f, _case(name, arguments)) for name, (f, arguments) in given.items()} | _attention_cases()


CASES = _cases()
every_case = pytest.mark.parametrize("name", CASES)
ON_EVERY_SYSTEM = [
    *("exp", "softmax", "taylor_features", "mean", "positive", "trigonometric", "hyperbolic", "relu"),
    *("maps-causal", "taylor-causal", "google-jax-causal"),
]


# --- every rule -------------------------------------------------------------------------------------------------------------------------


def _floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _results(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@functools.cache
def _bars(name: str) -> tuple[Any, ...]:
    definition, case = CASES[name]
    return tuple(_normal(50 + i, *each.shape) for i, each in enumerate(_results(definition(**case.arguments))))


def _cotangents(name: str, bars: tuple[Any, ...], **changed: Any) -> dict[str, Any]:
    """By the names of the arguments, without those that were None."""
    definition, case = CASES[name]
    found = pulled(rule_of(definition), case.arguments | case.more | changed, bars)
    return {argument: bar for argument, bar in found.items() if bar is not None}


@every_case
def test_value_is_the_definitions_and_pullback_the_complex_steps(name: str) -> None:
    """As `refimpl validate` does, here with more axes and with arrays that are broadcast."""
    definition, case = CASES[name]
    found = checking.subject(rule_of(definition), case, 0)
    outcome = checking.complex_steps(found, np.random.default_rng(1))
    assert outcome.multiple <= 1, outcome.told


def _flat(name: str, *arrays: Any) -> Any:
    """All cotangents end to end, as a function of the floating arguments and the results' cotangents."""
    names = [each for each, value in CASES[name][1].arguments.items() if _floating(value)]
    found = _cotangents(name, arrays[len(names) :], **dict(zip(names, arrays, strict=False)))
    return np.concatenate([bar.ravel() for bar in found.values()])


@functools.cache
def _truth(name: str, dtype: str) -> tuple[Any, Any]:
    """The enclosure of the exact cotangents of the rounded arguments, and their proved budget."""
    arrays = [rounded(a, dtype) for a in (*CASES[name][1].arguments.values(), *_bars(name)) if _floating(a)]
    flat = functools.partial(_flat, name)
    return truth.enclose(flat, *arrays), tolerance.proved_budget(flat, *arrays, dtype=dtype)


def _same(one: Any, other: Any) -> bool:
    return (
        list(map(repr, one.ravel())) == list(map(repr, other.ravel())) if one.dtype == object else unchanged(one, other)
    )


@pytest.mark.parametrize("name", ON_EVERY_SYSTEM)
def test_value_bit_for_bit_and_cotangents_within_the_proved_budget(name: str, system: System) -> None:
    """In every dtype of NumPy, and the widest of every other system; nothing given is changed, and what comes out stays where the arguments are."""
    definition, case = CASES[name]
    for dtype in system.dtypes if system is NUMPY else system.dtypes[-1:]:

        def moved(value: Any, dtype: str = dtype) -> Any:
            return system.floats(value, dtype) if _floating(value) else system.to(value)

        arguments = {n: moved(a) if isinstance(a, np.ndarray) else a for n, a in case.arguments.items()}
        bars = tuple(map(moved, _bars(name)))
        given = [a for a in (*arguments.values(), *bars) if hasattr(a, "dtype")]
        before = [np.array(system.back(a)) for a in given]
        value = vjp(definition, **arguments, **case.more)[0]
        for ours, theirs in zip(_results(value), _results(definition(**arguments)), strict=True):
            assert _same(*(each if system.is_ball else system.back(each) for each in (ours, theirs)))
        found = _cotangents(name, bars, **arguments)
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


@pytest.mark.parametrize("name", ["taylor", "paper", "google-jax"])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_change_rounding_only(name: str, causal: bool) -> None:
    """In balls of 160 bits: cotangents of every chunk size contain the same numbers, and are narrower than 1e-25."""
    bars = tuple(map(truth.balls, _bars(name)))
    with truth.precision(160):
        arguments = {n: truth.balls(a) if _floating(a) else a for n, a in CASES[name][1].arguments.items()}
        arguments |= {"causal": causal, "mask": MASK}
        first, *others = [_cotangents(name, bars, **arguments | {"chunk": chunk}) for chunk in (128, 1, 2, 3)]
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
@pytest.mark.parametrize("name", ["linear", "taylor", "paper", "google-jax", "tf-models"])
def test_masked_keys_have_cotangent_0_and_no_influence(name: str, causal: bool, junk: float) -> None:
    seen, given = np.broadcast_to(MASK, K.shape[:-1])[..., None], CASES[name][1].arguments
    options: dict[str, Any] = {"causal": causal, "mask": MASK}
    plain = _cotangents(name, _bars(name), **options)
    spoilt = _cotangents(name, _bars(name), **options, **{n: np.where(seen, given[n], junk) for n in "kv"})
    assert all(np.array_equal(plain[n], spoilt[n]) for n in plain)
    assert all(np.all(plain[n][~np.broadcast_to(seen, plain[n].shape)] == 0) for n in "kv")
    assert all(np.any(plain[n] != 0) for n in "kv")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["linear", "taylor", "paper", "google-jax", "tf-models"])
def test_cotangents_of_queries_that_see_nothing_are_not_looked_at(name: str, causal: bool) -> None:
    """Even NaN: everything else is the same bits, and what such a query depends on gets exactly 0. In the first row no key is allowed."""
    mask = np.array([[[False] * 4], [[False, False, True, True]]])
    options: dict[str, Any] = {"causal": causal, "mask": mask}
    seen = linear_attention.sees_a_key(mask, Q.shape[-2], causal=causal)
    plain = _cotangents(name, _bars(name), **options)
    spoilt = _cotangents(name, tuple(np.where(seen, bar, np.nan) for bar in _bars(name)), **options)
    assert all(np.array_equal(plain[n], spoilt[n]) for n in plain)
    assert all(np.all(plain[n][0] == 0) for n in "qkv")
    assert np.all(plain["q"][~np.broadcast_to(seen, Q.shape)] == 0)
    assert np.all(plain["q"][1, :, -1] != 0)


def test_early_sums_are_not_rebuilt_from_late_ones() -> None:
    """Subtracting keys from S, from the last to the first, would leave 2^30 + 1 - 2^30 = 0 of the first key in float32."""
    q, k = np.ones((4, 1), np.float32), np.array([[1.0], [1.0], [2.0**30], [2.0**30]], np.float32)
    bar = np.array([[1.0], [1.0], [0.0], [0.0]], np.float32)
    for chunk in (1, 2, 128):
        _, pullback = linear_attention.linear_attention_vjp(q, k, np.ones((4, 1), np.float32), causal=True, chunk=chunk)
        assert pullback(bar)[0].ravel().tolist() == [1, 2, 0, 0]


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


def test_a_masked_key_does_not_share_in_a_maximum_of_0() -> None:
    """A key of zeros holds the maximum, u = 0, and the masked one is replaced by zeros: cotangents are those without the masked key."""
    k, w = np.array([[0.0], [-2.0], [7.0]]), np.array([[1.0], [0.5]])
    q, v, bar = _normal(1, 2, 1), _normal(2, 3, 1), _normal(3, 2, 1)
    rule = functools.partial(favor.favor_attention_vjp, projection=w, dialect="google-tf")
    masked = rule(q, k, v, mask=np.array([True, True, False]))[1](bar)
    without = rule(q, k[:2], v[:2])[1](bar)
    for one, other in zip(masked, without, strict=True):
        assert np.allclose(one[: len(other)], other, rtol=1e-13, atol=0)
    assert masked[1][2] == masked[2][2] == 0


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


@pytest.mark.parametrize("order", [1, 2, 3, 9, 20, 31])
def test_slope_of_the_polynomial_cancels_no_more_than_its_root_demands(order: int) -> None:
    """Σ |terms| <= 1.03 |x/(x - r)| |f_n(x)| left of the root r of f_n, and 1.03 |f_n(x)| elsewhere, below and above: for f_n by its own nodes
    (1), and for f_{n+1}' by those of f_{n+1}. For even n all terms of the first are positive.
    """
    with truth.precision(256):
        root = _root(order) if order % 2 else None
        for nodes, slope in ((order, 1), (order + 1, order + 1)):
            rule = taylor.laguerre_rule(nodes, truth.balls(np.zeros(1)))
            for x in (flint.arb(-k * (order + 2)) / 5 for k in range(1, 14)):
                terms = sum(abs(w * slope * s ** (nodes - order) * (s * (x + node)) ** order) for node, s, w in rule)
                room = 1 if root is None else max(1, abs(x / (x - root)))
                assert terms <= flint.arb(1.03) * room * abs(_horner(x, order)), float(x)


def test_slopes_of_a_taylor_softmax_do_not_vanish_far_out() -> None:
    """x̄ = n p/x (p̄ - Σ p p̄) to n/x relative, where f_n is its highest power."""
    for dtype, size, order in ((np.float64, 1e307, 8), (np.float32, 10.0**27.75, 40)):
        x, bar = np.array([size, -size], dtype=dtype), np.array([1, 0], dtype=dtype)
        (x_bar,) = taylor.taylor_softmax_vjp(x, order)[1](bar)
        right = order / size / 4
        np.testing.assert_allclose(x_bar.astype(np.float64) / right, [1, 1], rtol=1e-4)
