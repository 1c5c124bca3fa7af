"""FAVOR+: parity with recorded implementations, every number system, masks, chunks, projections, memory, and what is refused.

The recorded answers (`../shared/fixtures/performer`) are float64 runs on float32 inputs. Arrays kept there as float32 were rounded once when
they were stored: they may differ from a float64 answer by u32 |value| besides the 1e-12 of the largest that two orders of summation may cost.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
from typing import Any

import array_api_compat
import flint
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import BALLS, System, rounded, unchanged

from refimpl import errors, favor
from validation import conformance, counting, exponentials, tolerance, truth, vectors

RELATIVE = 1e-12
UNIT32 = 2.0**-24


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


# --- parity -------------------------------------------------------------------------------------------------------------------


def _agrees(got: Any, recorded: Any) -> None:
    assert got.shape == recorded.shape
    stored = UNIT32 * np.abs(recorded.astype(np.float64)) if recorded.dtype == np.float32 else 0.0
    allowed = RELATIVE * np.max(np.abs(recorded)) + stored
    assert np.all(np.abs(got - recorded) <= allowed)


@pytest.fixture
def peers(shared: Any) -> Any:
    folder = shared("performer")
    return {name: np.load(folder / f"{name}.npz") for name in ("inputs", "performer_pytorch", "google_jax")}


def _inputs(peers: Any, case: str, dtype: str = "float64") -> tuple[Any, ...]:
    return tuple(peers["inputs"][f"{case}_{name}"].astype(dtype) for name in ("q", "k", "v", "proj"))


PYTORCH_RELU = {"scaled": True, "epsilon": 1e-3, "normalized": False}
JAX_RELU = {"epsilon": 1e-3, "normalized": False}
FEATURES = [
    ("performer_pytorch", "softmax", favor.positive_features, {"scaled": True, "epsilon": 1e-4}, ("row", "head")),
    ("performer_pytorch", "relu", favor.relu_features, PYTORCH_RELU, None),
    ("google_jax", "softmax", favor.positive_features, {"scaled": True, "epsilon": 1e-6}, ("row", "head")),
    ("google_jax", "relu_proj", favor.relu_features, JAX_RELU, None),
    ("google_jax", "relu_det", favor.relu_features, JAX_RELU, None),
    ("google_jax", "sincos", favor.trigonometric_features, {"scaled": True}, ("head", "head")),
]


@pytest.mark.parametrize(("peer", "name", "function", "options", "shifts"), FEATURES)
@pytest.mark.parametrize("case", ["unit", "big"])
def test_features_equal_the_recorded_ones(
    case: str, peer: str, name: str, function: Any, options: Any, shifts: Any, peers: Any
) -> None:
    q, k, _, projection = _inputs(peers, case)
    ran = 0
    for place, (x, end) in enumerate(((q, "qp"), (k, "kp"))):
        key = f"{case}_{name}_{end}"
        if key in peers[peer]:
            ran += 1
            shift = {"shift": shifts[place]} if shifts else {}
            got = function(x, None if name == "relu_det" else projection, **options, **shift)
            if name == "sincos":  # Google's order is [cos, sin]
                got = np.concatenate([got[..., 20:], got[..., :20]], axis=-1)
            _agrees(got, peers[peer][key])
    assert ran == (0 if case == "big" and name in ("relu_det", "sincos") else 2)


ATTENTION = [
    ("performer_pytorch", "performer-pytorch", "softmax", "softmax"),
    ("performer_pytorch", "performer-pytorch", "relu", "relu"),
    ("google_jax", "google-jax", "softmax", "softmax"),
    ("google_jax", "google-jax", "relu", "relu_proj"),
    ("google_jax", "google-jax", "relu", "relu_det"),
    ("google_jax", "google-jax", "trigonometric", "sincos"),
]


@pytest.mark.parametrize(("peer", "dialect", "kernel", "name"), ATTENTION)
@pytest.mark.parametrize("case", ["unit", "big"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_recorded_one(
    case: str, causal: bool, peer: str, dialect: str, kernel: str, name: str, peers: Any
) -> None:
    key = f"{case}_{name}_{'causal' if causal else 'bi'}"
    if key not in peers[peer]:
        assert case == "big"
        assert name in ("relu_det", "sincos")
        return
    q, k, v, projection = _inputs(peers, case)
    for chunk in (4, 128):
        got = favor.favor_attention(
            q,
            k,
            v,
            None if name == "relu_det" else projection,
            causal=causal,
            dialect=dialect,
            kernel=kernel,
            chunk=chunk,
        )
        _agrees(got, peers[peer][key])


@pytest.mark.parametrize("causal", [False, True])
def test_a_float32_peer_lies_within_twice_the_proved_float32_budget(causal: bool, peers: Any) -> None:
    """The long case was computed in float32. Its bound is the budget of `tolerance.proved_budget`: the first-order radius of this definition
    with every operation erring by two units in the last place, which also covers any order of summation; twice, as the peer's own form of
    the softmax features is scaled and shifted in another order.
    """
    q, k, v, projection = (a[:1, :1] if a.ndim == 4 else a for a in _inputs(peers, "long"))
    recorded = peers["google_jax"][f"long_softmax_{'causal' if causal else 'bi'}"][:1, :1]
    options: Any = {"causal": causal, "dialect": "google-jax"}
    budget = tolerance.proved_budget(favor.favor_attention, q, k, v, projection, dtype="float32", **options)
    got = favor.favor_attention(q, k, v, projection, **options)
    assert np.all(np.abs(got - recorded) <= 2 * budget + UNIT32 * np.abs(recorded))
    assert np.max(budget) < 0.1 * np.max(np.abs(recorded))  # a budget that allows everything shows nothing


def _table(dialect: str, kernel: str, x: Any, w: Any, *, query: bool) -> Any:
    """The features of the conventions table, written out a second time, in plain NumPy on (b, h, n, d)."""
    m, y = len(w), x * x.shape[-1] ** -0.25
    u, h = y @ w.T, (y**2).sum(-1, keepdims=True) / 2
    if kernel == "relu":
        bare, root = np.maximum(x @ w.T, 0), np.sqrt(m)
        return {
            "paper": (bare + 1e-3) / root,
            "performer-pytorch": np.maximum(u, 0) + 1e-3,
            "google-jax": bare + 1e-3,
            "google-tf": np.maximum(x @ w.T / root, 0) + 1e-3,
            "fast-transformers": bare,
            "tf-models": (np.maximum(u, 0) + 1e-3) / root,
        }[dialect]
    both = np.concatenate([u, -u], axis=-1)
    if kernel == "stabilized":
        return np.exp(both - h - (2 * h).max(axis=-2, keepdims=True)) / np.sqrt(2 * m)
    if kernel == "hyperbolic" or dialect == "fast-transformers":
        return np.exp(both - h) / np.sqrt(2 * m)
    if kernel == "trigonometric":
        top = h.max(axis=-2, keepdims=True) if dialect == "google-jax" else 0.0
        return np.exp(h - top) * np.concatenate([np.sin(u), np.cos(u)], axis=-1) / np.sqrt(m)
    over = (-3, -2, -1) if dialect == "tf-models" else (-1,) if query else (-2, -1)
    if dialect == "paper":
        return np.exp(u - h - (u - h).max(axis=over, keepdims=True)) / np.sqrt(m)
    epsilon = {"performer-pytorch": 1e-4, "google-jax": 1e-6, "google-tf": 1e-6}.get(dialect, 0.0)
    return (np.exp(u - h - u.max(axis=over, keepdims=True)) + epsilon) / np.sqrt(m)


@pytest.mark.parametrize("size", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("causal", [False, True])
def test_queries_and_keys_ten_times_as_large_leave_the_paper_dialect_finite(size: float, causal: bool) -> None:
    """|x'|²/2 is about 200: with maxima of u alone, float32 features of such rows are all 0."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 2, 24, 16)) for _ in range(3))
    given = [(size * a).astype(np.float32) for a in (q, q + 0.01 * k)] + [v.astype(np.float32)]
    projection = favor.orthogonal_gaussian(rng, 64, 16)
    got = favor.favor_attention(*given, projection.astype(np.float32), causal=causal)
    wide = favor.favor_attention(
        *(a.astype(np.float64) for a in given), projection.astype(np.float32).astype(np.float64), causal=causal
    )
    exponents = float(np.max(np.abs(given[0])) ** 2 * 16 * (1 + np.max(np.abs(projection))))
    assert np.all(np.isfinite(got))
    assert np.max(np.abs(got - wide)) <= 64 * UNIT32 * exponents * np.max(np.abs(v))


def test_one_key_is_its_value_however_far_it_is() -> None:
    for size in (1.0, 10.0, 10.25, 12.0):
        x = np.full((1, 1), size, np.float32)
        assert favor.favor_attention(x, -x, np.full((1, 1), 3, np.float32), np.ones((1, 1), np.float32)).item() == 3.0


@pytest.mark.parametrize(
    ("dialect", "kernel"), [(name, kernel) for name, each in favor.dialects.items() for kernel in each.kernels]
)
def test_features_inside_attention_are_those_of_the_table(dialect: str, kernel: str) -> None:
    a = _arrays(7)
    features = favor.dialects[dialect].kernels[kernel]
    for name, shift in (("q", features.query_shift), ("k", features.key_shift)):
        expected = _table(dialect, kernel, a[name], a["projection"], query=name == "q")
        got = favor._feature_map(features, shift, a[name], a["projection"], None, 2)(a[name])
        assert np.allclose(got, expected, rtol=1e-13, atol=1e-15)


def test_without_a_projection_nothing_is_divided_inside_relu() -> None:
    """Google's TensorFlow code divides the projected inputs by the root of m; inputs that are not projected it leaves as they are."""
    x = np.array([[3.0, -1.0, 0.5, 2.0]])
    inside = favor.relu_features(x, None, normalized="inside")
    assert np.array_equal(inside, np.array([[3.001, 0.001, 0.501, 2.001]]))
    assert np.array_equal(favor.relu_features(x, np.eye(4), normalized="inside"), np.maximum(x / 2, 0) + 1e-3)


def test_hyperbolic_features_subtract_the_largest_absolute_value() -> None:
    x, w = np.array([[[1.0], [-3.0]]]), np.array([[2.0]])
    got = favor.hyperbolic_features(x, w, shift="head", normalized=False)
    assert np.allclose(got, np.exp([[[2 - 0.5 - 6, -2 - 0.5 - 6], [-6 - 4.5 - 6, 6 - 4.5 - 6]]]), rtol=1e-14)


def test_the_paper_is_the_default() -> None:
    a = _arrays()
    arrays = [a[name] for name in ("q", "k", "v", "projection")]
    assert np.array_equal(favor.favor_attention(*arrays), favor.favor_attention(*arrays, dialect="paper"))
    assert not np.array_equal(favor.favor_attention(*arrays), favor.favor_attention(*arrays, dialect="google-tf"))


def test_the_dialects_differ_by_what_their_conventions_say(peers: Any) -> None:
    """The figures that make dialects necessary, from the recorded inputs."""
    q, k, v, projection = _inputs(peers, "unit")
    unit = {name: favor.favor_attention(q, k, v, projection, dialect=name) for name in favor.dialects}
    assert 5e-3 < np.max(np.abs(unit["performer-pytorch"] - unit["google-jax"])) < 5e-2
    q, k, v, projection = _inputs(peers, "big")
    big = {n: favor.favor_attention(q, k, v, projection, dialect=n) for n in ("google-jax", "google-tf")}
    assert np.max(np.abs(big["google-jax"] - big["google-tf"])) > 0.5


# --- every number system ------------------------------------------------------------------------------------------------------


def _arrays(seed: int = 0, n: int = 5, m: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = np.ones((2, 1, m), bool)
    mask[0, 0, [0, 3]] = False
    return {
        "q": rng.normal(0, 1, (2, 2, n, 4)),
        "k": rng.normal(0, 1, (2, 2, m, 4)),
        "v": rng.normal(0, 1, (2, 2, m, 3)),
        "projection": favor.orthogonal_gaussian(rng, 6, 4),
        "mask": mask,
    }


def _features_case(function: Any, **options: Any) -> Any:
    return lambda a: function(a["q"], a["projection"], **options)


def _attention_case(masked: bool = False, **options: Any) -> Any:
    def run(a: dict[str, Any]) -> Any:
        mask = {"mask": a["mask"]} if masked else {}
        return favor.favor_attention(a["q"], a["k"], a["v"], a["projection"], **mask, **options)

    return run


CASES: dict[str, Any] = {
    "positive": _features_case(favor.positive_features),
    "positive-row": _features_case(favor.positive_features, shift="row", epsilon=1e-4, scaled=True),
    "positive-head": _features_case(favor.positive_features, shift="head", normalized=False),
    "positive-sequence": _features_case(favor.positive_features, shift="sequence", scaled=True),
    "hyperbolic": _features_case(favor.hyperbolic_features),
    "hyperbolic-norm": _features_case(favor.hyperbolic_features, shift="norm"),
    "hyperbolic-head": _features_case(favor.hyperbolic_features, shift="head", normalized=False),
    "trigonometric": _features_case(favor.trigonometric_features),
    "trigonometric-head": _features_case(favor.trigonometric_features, shift="head", scaled=True),
    "relu": _features_case(favor.relu_features),
    "relu-inside": _features_case(favor.relu_features, normalized="inside"),
    "relu-bare": _features_case(favor.relu_features, normalized=False, epsilon=0.0),
    **{
        f"{dialect}-{kernel}-{'causal' if causal else 'full'}{'-masked' * masked}": _attention_case(
            masked, dialect=dialect, kernel=kernel, causal=causal, chunk=2
        )
        for dialect in favor.dialects
        for kernel in favor.dialects[dialect].kernels
        # a quotient by a denominator near 0 has no useful budget: signed features are tried by themselves, above
        if favor.dialects[dialect].kernels[kernel].map != "trigonometric"
        # bare relu features may be all zero, and then 0/0
        and not (dialect == "fast-transformers" and kernel == "relu")
        for causal in (False, True)
        for masked in (False, True)
    },
}


def _given(system: System, dtype: str) -> dict[str, Any]:
    return {
        name: system.to(array if array.dtype == bool else rounded(array, dtype)) for name, array in _arrays().items()
    }


@functools.cache
def _truth(name: str, dtype: str) -> tuple[Any, Any]:
    arrays = {key: array if array.dtype == bool else rounded(array, dtype) for key, array in _arrays().items()}

    def definition(*values: Any) -> Any:
        return CASES[name](dict(zip(arrays, values, strict=True)))

    return truth.enclose(definition, *arrays.values()), tolerance.proved_budget(
        definition, *arrays.values(), dtype=dtype
    )


@pytest.mark.parametrize("name", CASES)
def test_answers_are_within_the_proved_budget_and_keep_dtype_namespace_device_and_inputs(
    name: str, system: System
) -> None:
    for dtype in system.dtypes:
        enclosure, budget = _truth(name, dtype)
        arrays = _given(system, dtype)
        look = (lambda a: a.copy()) if system.is_ball else (lambda a: system.back(a).copy())
        before = {key: look(array) for key, array in arrays.items()}
        answer = CASES[name](arrays)
        assert all(unchanged(before[key], look(array)) for key, array in arrays.items())
        assert str(answer.dtype).rpartition(".")[2] == ("object" if system.is_ball else dtype)
        assert array_api_compat.array_namespace(answer) is system.xp
        assert array_api_compat.device(answer) == system.device
        if system.is_ball:
            assert answer.shape == enclosure.shape
            assert all(x.overlaps(y) for x, y in zip(answer.ravel(), enclosure.ravel(), strict=True))
        else:
            verdict = tolerance.judge(system.back(answer), enclosure, budget, dtype)
            assert verdict.passed, (dtype, verdict)


def test_ball_radius_of_features_at_width_16_is_below_1e_20() -> None:
    rng = np.random.default_rng(16)
    x, projection = rng.normal(size=(1, 4, 16)), favor.orthogonal_gaussian(rng, 32, 16)
    for function in (favor.positive_features, favor.trigonometric_features, favor.hyperbolic_features):
        with truth.precision(128):
            assert np.max(truth.radii(function(truth.balls(x), truth.balls(projection)))) < 1e-20


def test_sixteen_bit_inputs_may_have_a_float32_projection() -> None:
    a = _arrays()
    q, k, v = (a[name].astype(np.float16) for name in "qkv")
    assert favor.favor_attention(q, k, v, a["projection"].astype(np.float32)).dtype == np.float16


# --- what holds for every input -----------------------------------------------------------------------------------------------


def _explicit(a: dict[str, Any], dialect: str, kernel: str, *, causal: bool) -> Any:
    """Attention with the kernel matrix written out, from the public feature functions, for any dialect, on balls."""
    convention = favor.dialects[dialect]
    f = convention.kernels[kernel]
    functions: Any = {
        "positive": favor.positive_features,
        "hyperbolic": favor.hyperbolic_features,
        "trigonometric": favor.trigonometric_features,
        "relu": favor.relu_features,
    }
    options: Any = {"scaled": f.scaled, "normalized": f.normalized}
    options |= {"epsilon": f.epsilon} if f.map in ("positive", "relu") else {}
    shifts = [{}, {}] if f.map == "relu" else [{"shift": f.query_shift}, {"shift": f.key_shift}]
    queries, keys = (
        functions[f.map](a[name], a["projection"], **options, **shift) for name, shift in zip("qk", shifts, strict=True)
    )
    kernel_matrix = np.matmul(queries, np.swapaxes(keys, -1, -2))
    n, m = kernel_matrix.shape[-2:]
    if causal:
        kernel_matrix = np.where(np.tril(np.ones((n, m), bool), m - n), kernel_matrix, flint.arb(0))
    total = kernel_matrix.sum(axis=-1, keepdims=True)
    rule, epsilon = convention.causal_denominator if causal else convention.denominator, flint.arb(convention.epsilon)
    if rule == "added":
        total = total + epsilon
    elif rule == "keys":
        total = total + epsilon * queries.sum(axis=-1, keepdims=True)
    elif rule == "guarded":
        total = total + 2 * epsilon * (abs(total) <= epsilon)
    return np.matmul(kernel_matrix, a["v"]) / total


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 7), (1, 4)])
def test_chunked_sums_equal_the_explicit_kernel_matrix_in_every_dialect(causal: bool, n: int, m: int) -> None:
    a = {name: BALLS.to(array) for name, array in _arrays(3, n, m).items() if array.dtype != bool}
    with truth.precision(320):
        for dialect, convention in favor.dialects.items():
            for kernel in convention.kernels:
                explicit = _explicit(a, dialect, kernel, causal=causal)
                for chunk in (1, 3, 64):
                    options: Any = {"causal": causal, "dialect": dialect, "kernel": kernel, "chunk": chunk}
                    got = favor.favor_attention(a["q"], a["k"], a["v"], a["projection"], **options)
                    gap = got - explicit
                    finite = np.frompyfunc(lambda ball: ball.is_finite(), 1, 1)(explicit).astype(bool)
                    assert finite.all() or (dialect, kernel) == ("fast-transformers", "relu")
                    assert all(ball.contains(0) and float(ball.abs_upper()) < 1e-60 for ball in gap[finite])


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(list(favor.dialects)))
def test_masked_keys_have_no_influence_whatever_they_hold(seed: int, causal: bool, dialect: str) -> None:
    """Bit for bit: other contents of masked places change nothing. And the answer is that without those keys, up to rounding."""
    a = _arrays(seed)
    rng = np.random.default_rng(seed)
    mask = rng.random((2, 1, 5)) < 0.6
    run = functools.partial(favor.favor_attention, causal=causal, dialect=dialect, chunk=2)
    plain = run(a["q"], a["k"], a["v"], a["projection"], mask=mask)
    hidden = np.broadcast_to(~mask, (2, 2, 5))
    for junk in (np.nan, 1e4, np.inf):
        k, v = a["k"].copy(), a["v"].copy()
        k[hidden], v[hidden] = junk, junk
        assert np.array_equal(run(a["q"], k, v, a["projection"], mask=mask), plain)
    if not causal:
        for row in range(2):
            kept = mask[row, 0]
            if kept.any():
                one = slice(row, row + 1)
                fewer = run(a["q"][one], a["k"][one][:, :, kept], a["v"][one][:, :, kept], a["projection"])
                assert np.allclose(fewer[0], plain[row], rtol=0, atol=1e-12 * np.max(np.abs(a["v"])))
            else:
                assert np.all(plain[row] == 0)


@pytest.mark.parametrize("dialect", favor.dialects)
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_sees_no_key_gets_exact_zeros(dialect: str, causal: bool, system: System) -> None:
    arrays = _given(system, system.dtypes[-1])
    mask = np.array([[[False, False, True, True, False]], [[False] * 5]])
    arrays["mask"] = system.to(mask)
    got = system.back(_attention_case(True, dialect=dialect, causal=causal)(arrays))
    assert np.all(got[1] == 0)
    assert np.all(np.isfinite(got))
    assert np.all((got[0, :, :2] == 0) == causal)


def test_the_exponent_of_a_masked_key_does_not_overflow() -> None:
    """All u of the allowed keys lie below -1000: a masked key, replaced by 0, would have exp(0 + 1000)."""
    q = np.full((1, 2, 1), 1.0)
    k = np.array([[[1.0], [1e3]]])
    got = favor.favor_attention(
        q, k, np.array([[[2.0], [np.nan]]]), np.array([[-1000.0]]), mask=np.array([[True, False]])
    )
    assert np.all(got == 2.0)


@given(st.integers(0, 2**32))
def test_shifts_cancel_exactly_where_no_epsilon_is_added(seed: int) -> None:
    a = {name: BALLS.to(array) for name, array in _arrays(seed).items() if array.dtype != bool}
    plain = favor.Dialect({"softmax": favor.Features("positive")})
    answers = []
    with truth.precision(256):
        for query_shift, key_shift in [("none", "none"), ("row", "head"), ("sequence", "sequence"), ("head", "none")]:
            shifted = dataclasses.replace(
                plain.kernels["softmax"], query_shift=query_shift, key_shift=key_shift, normalized=key_shift == "none"
            )
            dialect = dataclasses.replace(plain, kernels={"softmax": shifted})
            answers.append(favor.favor_attention(a["q"], a["k"], a["v"], a["projection"], dialect=dialect))
    for other in answers[1:]:
        assert all(gap.contains(0) and float(gap.abs_upper()) < 1e-50 for gap in (other - answers[0]).ravel())


def test_a_guard_that_cannot_be_decided_says_so() -> None:
    """One key of feature 1, one query of feature exactly ε: |D| = ε lies in the ball, and neither answer is certain."""
    one = truth.balls(np.ones((1, 1)))
    features = favor.Features("relu", scaled=False, epsilon=0.0, normalized=False)
    dialect = favor.Dialect({"relu": features}, denominator="guarded", epsilon=1.0)
    wide = np.array([[flint.arb(1, 1e-9)]], dtype=object)
    with _refused(errors.UndecidedError, "undecided", "favor_attention", "more bits"):
        favor.favor_attention(wide, one, one, None, dialect=dialect, kernel="relu")
    assert favor.favor_attention(one, one, one, None, dialect=dialect, kernel="relu")[0, 0].overlaps(flint.arb(1) / 3)


# --- conformance --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", favor.dialects)
def test_each_dialect_conforms_to_itself_and_to_no_other(dialect: str) -> None:
    """The component's cases tell every pair of dialects apart, so a report can name the one that an implementation follows."""
    for other in favor.dialects:

        def implementation(*arrays: Any, other: str = other, **params: Any) -> Any:
            return favor.favor_attention(*arrays, **{**params, "dialect": other})

        report = conformance.check(implementation, "favor_attention", dialect=dialect, dtype="float64")
        assert report.announced == len(vectors.load("favor_attention").select("float64", dialect)) > 0
        assert report.passed == (other == dialect), (other, str(report))


# --- instruments of the claims ------------------------------------------------------------------------------------------------


def test_the_counter_counts_what_it_says() -> None:
    counter = counting.Counter()
    x, y = counter.array(np.ones((3, 4))), counter.array(np.ones((4, 5)))
    assert (counter.operations, counter.alive, counter.peak) == (0, 96 + 160, 96 + 160)
    xp = x.__array_namespace__()
    product = xp.matmul(x, y)
    assert counter.operations == 3 * 4 * 5
    assert counter.alive == 96 + 160 + 120
    part = product[:2, :]  # a view holds its buffer, and counts once
    del product
    assert counter.alive == 96 + 160 + 120
    assert np.array_equal((part + 1).array, np.full((2, 5), 5.0))
    assert counter.operations == 60 + 10
    assert counter.peak == 96 + 160 + 120 + 80
    del part
    assert counter.alive == 96 + 160
    assert float(xp.sum(x).array) == 12
    assert counter.operations == 70 + 12


def test_counted_arrays_give_the_same_answer() -> None:
    a = _arrays()
    counter = counting.Counter()
    wrapped = [counter.array(a[name]) for name in ("q", "k", "v", "projection")]
    for dialect in favor.dialects:
        got = favor.favor_attention(*wrapped, mask=counter.array(a["mask"]), causal=True, dialect=dialect)
        plain = favor.favor_attention(*(w.array for w in wrapped), mask=a["mask"], causal=True, dialect=dialect)
        assert np.array_equal(got.array, plain)


def test_expectations_of_exponentials() -> None:
    """E exp(w·x) = exp(|x|²/2); E cos(w·x) = exp(-|x|²/2); E sin² = (1 - exp(-2|x|²))/2."""
    e = exponentials
    assert e.expectation(e.exponential(1)) == e.exponential(r=0.5)
    wave = {**e.exponential(1j, times=0.5), **e.exponential(-1j, times=0.5)}
    assert e.expectation(wave) == e.exponential(r=-0.5)
    sine = {**e.exponential(1j, times=-0.5j), **e.exponential(-1j, times=0.5j)}
    square = e.expectation(e.product(sine, sine))
    assert e.difference(square, e.exponential(times=0.5), e.exponential(r=-2, times=-0.5)) == {}
    assert e.difference(square, e.exponential(times=0.5)) != {}
    assert abs(e.value(square, 0.3, 9.0, 9.0) - (1 - np.exp(-0.6)) / 2) < 1e-15


# --- projections --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 5, 16])
@pytest.mark.parametrize("n_features", [1, 4, 16, 37])
def test_blocks_are_orthogonal_or_simplices(n_features: int, width: int) -> None:
    rng = np.random.default_rng(width)
    for projection, cosine in (
        (favor.orthogonal_gaussian(rng, n_features, width), 0.0),
        (favor.orthogonal_gaussian(rng, n_features, width, norms="sqrt"), 0.0),
        (favor.simplex_gaussian(rng, n_features, width), -1 / max(width - 1, 1)),
    ):
        assert projection.shape == (n_features, width)
        assert projection.dtype == np.float64
        unit = projection / np.linalg.norm(projection, axis=1, keepdims=True)
        for start in range(0, n_features, width):
            block = unit[start : start + width]
            expected = np.where(np.eye(len(block), dtype=bool), 1.0, cosine)
            assert np.allclose(block @ block.T, expected, rtol=0, atol=1e-13 * width)
    norms = np.linalg.norm(favor.orthogonal_gaussian(rng, n_features, width, norms="sqrt"), axis=1)
    assert np.allclose(norms, np.sqrt(width), rtol=1e-13)


@pytest.mark.parametrize("draw", [favor.gaussian, favor.orthogonal_gaussian, favor.simplex_gaussian])
def test_every_row_is_standard_normal(draw: Any) -> None:
    """Moments of 40,000 rows of width 4, held to 5 standard errors: mean 0, variance 1, fourth moment 3, E w_1² w_2² = 1.

    Rows of one block are dependent, at most 4 of them: standard errors are doubled. Without the sign correction of QR the diagonal of Q is
    biased, and the first moments show it.
    """
    w = draw(np.random.default_rng(5), 40_000, 4)
    error = 2 * 5 / np.sqrt(len(w))
    blocks = w.reshape(-1, 4, 4)
    for place in range(4):
        rows = blocks[:, place]
        several = 5 / np.sqrt(len(rows))
        assert np.all(np.abs(rows.mean(axis=0)) < several)
        assert np.all(np.abs((rows**2).mean(axis=0) - 1) < several * np.sqrt(2))
    assert np.all(np.abs((w**4).mean(axis=0) - 3) < error * np.sqrt(96))
    assert abs((w[:, 0] ** 2 * w[:, 1] ** 2).mean() - 1) < error * np.sqrt(8)


def test_a_seed_gives_the_same_projection_and_a_redraw_another() -> None:
    first = favor.orthogonal_gaussian(np.random.default_rng(3), 6, 4)
    rng = np.random.default_rng(3)
    again = favor.orthogonal_gaussian(rng, 6, 4)
    assert np.array_equal(first, again)
    other = favor.redraw(rng, again)
    assert other.shape == again.shape
    assert not np.any(other == again)
    assert favor.redraw(rng, again, favor.simplex_gaussian).shape == again.shape


# --- memory -------------------------------------------------------------------------------------------------------------------

PROGRAM = """
import tracemalloc, sys
import numpy as np
from refimpl import favor
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 1, 65536, 64), dtype=np.float32) for _ in range(3))
projection = favor.orthogonal_gaussian(rng, 256, 64).astype(np.float32)
tracemalloc.start()
out = favor.favor_attention(q, k, v, projection, causal=True)
print(tracemalloc.get_traced_memory()[1] - out.nbytes, np.isfinite(out).all())
"""


def test_causal_attention_of_65536_positions_needs_less_than_50_megabytes_beside_inputs_and_output() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    peak, finite = done.stdout.split()
    assert finite == "True"
    assert int(peak) < 50_000_000


# --- what is refused ----------------------------------------------------------------------------------------------------------


def test_a_projection_of_the_wrong_width_is_refused(system: System) -> None:
    arrays = _given(system, system.dtypes[-1])
    narrow = arrays["projection"][:, :3]
    with _refused(errors.ShapeError, "projection has the wrong width", "(m, 4)", "(6, 3)", "orthogonal_gaussian"):
        favor.positive_features(arrays["q"], narrow)
    with _refused(errors.ShapeError, "projection has the wrong width", "(m, 4)", "(6, 3)"):
        favor.favor_attention(arrays["q"], arrays["k"], arrays["v"], narrow)
    with _refused(errors.ShapeError, "no rows", "m >= 1"):
        favor.positive_features(arrays["q"], arrays["projection"][:0, :])


def test_a_projection_of_another_dtype_is_refused() -> None:
    a = _arrays()
    q, k, v = (a[name].astype(np.float32) for name in "qkv")
    with _refused(errors.DtypeError, "dtype of what it projects", "float32", "float64", "when it is moved"):
        favor.favor_attention(q, k, v, a["projection"])
    with _refused(errors.DtypeError, "real floating point"):
        favor.positive_features(np.arange(8).reshape(2, 4), a["projection"])


@pytest.mark.parametrize("draw", [favor.gaussian, favor.orthogonal_gaussian, favor.simplex_gaussian])
def test_sizes_below_one_are_refused(draw: Any) -> None:
    rng = np.random.default_rng(0)
    for bad in (0, -3, 2.5, True, None):
        with _refused(errors.ConfigError, "n_features must be a whole number", "n_features >= 1", repr(bad)):
            draw(rng, bad, 4)
        with _refused(errors.ConfigError, "width must be a whole number", "width >= 1", repr(bad)):
            draw(rng, 4, bad)


def test_a_maximum_over_heads_of_three_axes_is_refused(system: System) -> None:
    """(batch, length, width) or (heads, length, width)? Taken for heads, the members of a batch would share a maximum."""
    arrays = _given(system, system.dtypes[-1])
    q, k, v, projection = (arrays[name] for name in ("q", "k", "v", "projection"))
    words = ("a maximum over the heads needs an axis", 'shift "sequence"', "(..., heads, length, width)", "(2, 5, 4)")
    one = [x[:, 0, :, :] for x in (q, k, v)]
    for function in (favor.positive_features, favor.trigonometric_features, favor.hyperbolic_features):
        with _refused(errors.ShapeError, *words, "x[:, None, :, :]", "x[None, :, :, :]"):
            function(one[0], projection, shift="sequence")
        assert function(one[0], projection, shift="head").shape[:-1] == (2, 5)
        assert function(q[0, 0, :, :], projection, shift="sequence").shape[:-1] == (5,)
    for causal in (False, True):
        with _refused(errors.ShapeError, *words):
            favor.favor_attention(*one, projection, dialect="tf-models", causal=causal)
        assert favor.favor_attention(*one, projection, dialect="tf-models", kernel="relu", causal=causal).shape == (
            2,
            5,
            3,
        )


@pytest.mark.parametrize("shift", ["none", "row", "head", "sequence"])
def test_a_shift_of_one_sequence_does_not_depend_on_its_neighbours_in_the_batch(shift: Any) -> None:
    a = _arrays()
    q, projection = a["q"], a["projection"]
    both = favor.positive_features(q, projection, shift=shift)
    loud = favor.positive_features(np.stack([q[0], 9 * q[1]]), projection, shift=shift)
    assert np.array_equal(both[0], loud[0])


def test_unknown_names_are_refused() -> None:
    a = _arrays()
    q, k, v, projection = (a[name] for name in ("q", "k", "v", "projection"))
    with _refused(errors.ConfigError, "unknown dialect", "paper, performer-pytorch", "'torch'"):
        favor.favor_attention(q, k, v, projection, dialect="torch")
    with _refused(errors.ConfigError, "no such kernel", "softmax, relu", "'sincos'"):
        favor.favor_attention(q, k, v, projection, kernel="sincos", dialect="google-tf")
    with _refused(errors.ConfigError, "needs a projection", "relu"):
        favor.favor_attention(q, k, v, None)
    with _refused(errors.ConfigError, "unknown shift", "positive", "none, row, head, sequence", "'norm'"):
        favor.positive_features(q, projection, shift="norm")
    with _refused(errors.ConfigError, "unknown norms", "chi", "'unit'"):
        favor.orthogonal_gaussian(np.random.default_rng(0), 4, 4, norms="unit")  # type: ignore[arg-type]
    for chunk in (0, -1, 1.5, True):
        with _refused(errors.ConfigError, "chunk must be a whole number", "chunk >= 1", repr(chunk)):
            favor.favor_attention(q, k, v, projection, chunk=chunk)  # type: ignore[arg-type]


def test_masks_and_arrays_that_do_not_fit_are_refused(system: System) -> None:
    arrays = _given(system, system.dtypes[-1])
    q, k, v, projection = (arrays[name] for name in ("q", "k", "v", "projection"))
    for shape in [(2, 1, 4), (5, 5), (1,), (2, 2, 5, 5), (3, 1, 5)]:
        mask = system.to(np.ones(shape, bool))
        with _refused(errors.ShapeError, "mask does not fit the keys", "(2, 2, 5)", str(shape), "causal=True"):
            favor.favor_attention(q, k, v, projection, mask=mask)
    with _refused(errors.DtypeError, "mask must be boolean", "int64"):
        favor.favor_attention(q, k, v, projection, mask=system.to(np.ones((2, 1, 5), np.int64)))
    with _refused(errors.ShapeError, "do not fit together", "(2, 2, 4, 4)"):
        favor.favor_attention(q, k[..., :4, :], v, projection)
    with _refused(errors.ShapeError, "more queries than keys"):
        favor.favor_attention(q, k[..., :4, :], v[..., :4, :], projection, causal=True)
