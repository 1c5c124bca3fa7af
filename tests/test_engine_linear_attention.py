"""Linear attention and the order-2 Taylor attention: equal to the attention with explicit weights, in fractions and on every number system."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from systems import BALLS

from refimpl import attention, errors, favor, linear_attention, taylor
from validation import tolerance, truth

if TYPE_CHECKING:
    from systems import System

ATTENTIONS = (linear_attention.linear_attention, taylor.taylor_attention)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _visible(n: int, m: int, causal: bool, mask: Any) -> list[list[bool]]:
    """visible[i][j]: whether query i, at position m - n + i, sees key j."""
    return [[bool(mask[j]) and (not causal or j <= m - n + i) for j in range(m)] for i in range(n)]


def _explicit(q: Any, k: Any, v: Any, visible: list[list[bool]], scale: Fraction) -> list[list[Fraction]]:
    """O_i = Σ_j f_2(s_ij) v_j / Σ_j f_2(s_ij) in fractions, s_ij = scale · q_i·k_j; zeros for a query that sees no key."""
    exact = [[[Fraction(float(a)) for a in row] for row in array] for array in (q, k, v)]
    rows = []
    for query, sees in zip(exact[0], visible, strict=True):
        scores = [scale * sum((a * b for a, b in zip(query, key, strict=True)), Fraction(0)) for key in exact[1]]
        weights = [(1 + s + s * s / 2) * see for s, see in zip(scores, sees, strict=True)]
        columns = zip(*exact[2], strict=True)
        sums = [sum((w * a for w, a in zip(weights, column, strict=True)), Fraction(0)) for column in columns]
        rows.append([total / sum(weights) if any(sees) else Fraction(0) for total in sums])
    return rows


def _contains(balls: Any, exact: list[list[Fraction]], below: float = 1e-60) -> bool:
    """Whether each ball contains its fraction and is no wider than `below`."""
    pairs = zip(balls.ravel(), itertools.chain.from_iterable(exact), strict=True)
    gaps = [ball - flint.arb(value.numerator) / value.denominator for ball, value in pairs]
    return all(gap.contains(0) and bool(gap.abs_upper() < below) for gap in gaps)


def _eighths(*shape: int) -> Any:
    return hnp.arrays(np.float64, shape, elements=st.integers(-40, 40).map(lambda i: i / 8))


# --- the identity -----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_taylor_attention_is_the_attention_with_weights_f_2_of_the_scores_in_fractions(data: Any) -> None:
    """Exact inputs, exact fractions on one side, 256-bit balls on the other: what is left for a difference is 1e-60."""
    n, d, e = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 4])), data.draw(st.integers(1, 2))
    m, causal, chunk = data.draw(st.integers(n, 6)), data.draw(st.booleans()), data.draw(st.integers(1, 7))
    scale = data.draw(st.sampled_from([None, Fraction(1, 3), Fraction(-2, 7), 1, 0.375]))
    q, k, v = (data.draw(_eighths(*shape)) for shape in ((n, d), (m, d), (m, e)))
    mask = data.draw(st.none() | hnp.arrays(bool, (m,)))
    root = {1: 1, 4: 2}[d]
    exact = Fraction(1, root) if scale is None else Fraction(scale)
    wanted = _explicit(q, k, v, _visible(n, m, causal, np.ones(m, bool) if mask is None else mask), exact)
    with truth.precision(256):
        moved = [truth.balls(a) for a in (q, k, v)]
        got = taylor.taylor_attention(*moved, causal=causal, mask=mask, scale=scale, chunk=chunk)
        assert _contains(got, wanted)


@given(st.data())
def test_linear_attention_is_the_attention_with_weights_of_features_in_fractions(data: Any) -> None:
    n, r, e = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    m, causal, chunk = data.draw(st.integers(n, 6)), data.draw(st.booleans()), data.draw(st.integers(1, 7))
    q, k, v = (data.draw(_eighths(*shape)) for shape in ((n, r), (m, r), (m, e)))
    mask = data.draw(hnp.arrays(bool, (m,)))
    numerators, denominators = linear_attention.linear_attention(
        *(truth.balls(a) for a in (q, k, v)), causal=causal, mask=mask, chunk=chunk
    )
    visible = np.array(_visible(n, m, causal, mask))
    weights = np.where(visible, q @ k.T, 0)  # whole 64ths below 2^20: exact in doubles
    assert np.array_equal(truth.midpoints(denominators)[:, 0], weights.sum(-1))
    assert np.array_equal(truth.midpoints(numerators), weights @ v)
    seen = linear_attention.sees_a_key(mask, n, causal=causal)
    assert np.array_equal(np.broadcast_to(seen, (n, 1))[:, 0], visible.any(-1))
    floats = linear_attention.linear_attention(q, k, v, causal=causal, mask=mask, chunk=chunk)
    assert np.array_equal(floats[0], weights @ v)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_floats_stay_within_the_bound_that_counts_their_roundings(dtype: str, causal: bool, size: float) -> None:
    """Each product φ_r(q) ψ_r(k) v goes through at most K roundings, whatever the order of the sums.

    φ_r(q/√d) takes 4 for the scale (√d and the division, twice in a square), 1 for the product and 2 for √2; φ_r(k) takes 3; two products; fewer than
    r sums over features, m over keys of a chunk, and one for each chunk. So |ΔN| <= γ_K Σ_j f_2(a_ij) |v_j|, where a_ij = Σ |q_a k_a|/√d makes every
    term positive, and |ΔD| likewise with 1 for v: the quotient errs by (|ΔN| + |O| |ΔD|)/(D - |ΔD|), and one rounding more.
    """
    n, d, chunk, u = 40, 3, 7, tolerance.roundoff(dtype)
    rng = np.random.default_rng(11)
    q, k, v = ((factor * rng.normal(size=(n, width))).astype(dtype) for factor, width in ((size, d), (1, d), (1, 2)))
    roundings = (4 + 1 + 2) + (1 + 2) + 2 + (1 + d + d * d) + n + (n // chunk + 2)
    gamma = roundings * u / (1 - roundings * u)
    with truth.precision(256):
        exact = [truth.balls(a) for a in (q, k, v)]
        seen = np.array(_visible(n, n, causal, [True] * n))

        def sums(queries: Any, keys: Any, values: Any) -> tuple[Any, Any]:
            weights = taylor.exp_taylor(queries @ keys.T / flint.arb(d).sqrt(), 2) * seen
            return weights @ values, weights.sum(axis=-1, keepdims=True)

        numerators, denominators = sums(*exact)
        wanted = numerators / denominators
        largest, terms = (truth.midpoints(a) for a in sums(*(truth.balls(np.abs(a)) for a in (q, k, v))))
    got = taylor.taylor_attention(q, k, v, causal=causal, chunk=chunk)
    middle, total = truth.midpoints(wanted), truth.midpoints(denominators)
    allowed = gamma * (largest + np.abs(middle) * terms) / (total - gamma * terms)
    assert np.all(allowed > 0)
    assert np.all(truth.upper_distance(wanted, got) <= allowed * (1 + u) + u * np.abs(middle))


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_positive_and_sum_to_one(causal: bool) -> None:
    """With the identity for values the output is the matrix of weights."""
    rng = np.random.default_rng(5)
    q, k, eye = (
        truth.balls(5 * rng.normal(size=(6, 3))),
        truth.balls(5 * rng.normal(size=(6, 3))),
        truth.balls(np.eye(6)),
    )
    with truth.precision(256):
        weights = taylor.taylor_attention(q, k, eye, causal=causal, chunk=4)
        for row, sees in zip(weights, _visible(6, 6, causal, [True] * 6), strict=True):
            assert all(bool(ball > 0) if see else ball.contains(0) for ball, see in zip(row, sees, strict=True))
            assert abs(sum(row, flint.arb(0)) - 1).abs_upper() < 1e-60


def test_equal_values_come_back_and_scale_zero_is_the_mean(system: System) -> None:
    q, k = (
        system.floats(np.arange(12.0).reshape(1, 4, 3) / 8 - i, "float64" if system.is_ball else "float32")
        for i in (0, 1)
    )
    v = np.array([[[1.0, 2], [3, 4], [5, 6], [7, 8]]])
    moved = system.floats(v, "float64" if system.is_ball else "float32")
    assert system.back(taylor.taylor_attention(q, k, moved, scale=0)).tolist() == [[[4.0, 5.0]] * 4]
    assert system.back(taylor.taylor_attention(q, k, moved, scale=0, causal=True)).tolist() == [
        [[1, 2], [2, 3], [3, 4], [4, 5]]
    ]


# --- causality and masks: exact, by selection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 4, 128])
def test_the_future_has_no_influence_on_a_bit(chunk: int, system: System) -> None:
    dtype, rng = system.dtypes[-1], np.random.default_rng(1)
    q, k, v = (rng.normal(size=(2, 8, 2)) for _ in range(3))
    moved = [system.floats(a, dtype) for a in (q, k, v)]
    plain = system.back(taylor.taylor_attention(*moved, causal=True, chunk=chunk))
    for t in (1, 3, 7):
        later = [np.where(np.arange(8)[:, None] < t, a, 1e3) for a in (q, k, v)]
        changed = system.back(
            taylor.taylor_attention(*(system.floats(a, dtype) for a in later), causal=True, chunk=chunk)
        )
        assert np.array_equal(changed[:, :t], plain[:, :t])
        assert not np.array_equal(changed[:, t:], plain[:, t:])


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_keys_of_the_future_have_no_influence_even_if_they_are_nan(chunk: int) -> None:
    q, k, v = np.random.default_rng(4).normal(size=(3, 8, 2))
    plain = taylor.taylor_attention(q, k, v, causal=True, chunk=chunk)
    for t in range(1, 8):
        later = np.where(np.arange(8)[:, None] < t, k, np.nan)
        assert np.array_equal(taylor.taylor_attention(q, later, v, causal=True, chunk=chunk)[:t], plain[:t])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("causal", [False, True])
def test_masked_keys_and_values_have_no_influence_whatever_they_hold(junk: float, causal: bool) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.normal(size=(2, 6, 3)) for _ in range(3))
    mask = np.array([[True, False, True, True, False, True], [False, False, True, False, True, True]])
    spoilt = [np.where(mask[..., None], a, junk) for a in (k, v)]
    for function in ATTENTIONS:
        answers = [function(q, *kv, causal=causal, mask=mask, chunk=2) for kv in ((k, v), spoilt)]
        pairs = zip(*answers, strict=True) if isinstance(answers[0], tuple) else [answers]
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_an_infinite_value_does_not_reach_the_denominator_or_its_neighbours() -> None:
    q, k, v = np.ones((2, 1)), np.ones((3, 1)), np.array([[np.inf, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert taylor.taylor_attention(q, k, v).tolist() == [[np.inf, 2.0]] * 2


def test_a_query_that_sees_no_key_gets_zeros(system: System) -> None:
    for dtype in system.dtypes:
        q, k, v = (system.floats(np.ones((2, 3, 2)), dtype) for _ in range(3))
        mask = system.to(np.array([[False, True, True], [False, False, False]]))
        causal = np.asarray(system.back(taylor.taylor_attention(q, k, v, causal=True, mask=mask)), np.float64)
        assert causal.tolist() == [[[0, 0], [1, 1], [1, 1]], [[0, 0]] * 3]
        full = np.asarray(system.back(taylor.taylor_attention(q, k, v, mask=mask)), np.float64)
        assert full.tolist() == [[[1, 1]] * 3, [[0, 0]] * 3]


def test_a_causal_mask_means_what_it_means_in_ordinary_attention() -> None:
    """Fewer queries than keys: taylor weights through `causal_mask` and through prefix sums."""
    rng = np.random.default_rng(3)
    q, k, v = (truth.balls(rng.normal(size=size)) for size in ((3, 4), (7, 4), (7, 2)))
    with truth.precision(256):
        seen = attention.causal_mask(3, 7, xp=BALLS.xp)
        weights = taylor.exp_taylor(q @ k.T / 2, 2) * seen
        wanted = weights @ v / weights.sum(axis=-1, keepdims=True)
        gaps = (taylor.taylor_attention(q, k, v, causal=True, chunk=2) - wanted).ravel()
        assert all(gap.contains(0) and bool(gap.abs_upper() < 1e-60) for gap in gaps)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_values_without_columns_give_answers_without_columns_and_the_same_denominators(
    causal: bool, masked: bool, floating_system: System
) -> None:
    """As in ordinary attention. Small whole numbers, so that sums are exact. An empty array of balls is refused: it does not say what it holds."""
    for dtype in floating_system.dtypes:
        rng = np.random.default_rng(3)
        q, k, v, w = (
            floating_system.floats(rng.integers(1, 4, shape), dtype)
            for shape in ((2, 3, 4), (2, 5, 4), (2, 5, 2), (6, 4))
        )
        mask = {"mask": floating_system.to(np.array([True, False, True, True, False]))} if masked else {}
        empty, options = v[..., :0], {"causal": causal, "chunk": 2, **mask}
        numerators, denominators = linear_attention.linear_attention(q, k, empty, **options)
        assert tuple(numerators.shape) == (2, 3, 0)
        expected = linear_attention.linear_attention(q, k, v, **options)[1]
        assert np.array_equal(floating_system.back(denominators), floating_system.back(expected))
        for answer in (
            numerators,
            taylor.taylor_attention(q, k, empty, **options),
            favor.favor_attention(q, k, empty, w, **options),
            attention.scaled_dot_product_attention(q, k, empty)[0],
        ):
            assert tuple(answer.shape) == (2, 3, 0)
            assert answer.dtype == q.dtype
    with _refused(errors.DtypeError, "an object array must hold balls", "an empty array"):
        linear_attention.linear_attention(*(truth.balls(np.ones(shape)) for shape in ((2, 3), (4, 3), (4, 0))))


# --- memory -------------------------------------------------------------------------------------------------------------------


def _peak(n: int, causal: bool) -> int:
    """The most bytes held at once above the arguments."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, n, 8))
    tracemalloc.start()
    try:
        taylor.taylor_attention(q, k, v, causal=causal, chunk=64)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_by_the_output_alone(causal: bool) -> None:
    """Pieces and their joined form: 2 n (e + 1) doubles, here 144 bytes a position, and what does not depend on n. Features would take 584 more."""
    _peak(64, causal)  # imports and caches
    small, large = _peak(4096, causal), _peak(8192, causal)
    assert large - small <= 1.1 * 4096 * 2 * 9 * 8


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ATTENTIONS)
def test_shapes_are_refused_in_words(function: Any, system: System) -> None:
    def call(*shapes: tuple[int, ...], **options: Any) -> Any:
        return function(*(system.floats(np.ones(shape), system.dtypes[-1]) for shape in shapes), **options)

    with _refused(errors.ShapeError, "do not fit together", "k (..., m, d)", "k (2, 3)"):
        call((2, 2), (2, 3), (2, 2))
    with _refused(errors.ShapeError, "do not fit together", "v (..., m, e)", "v (3, 2)"):
        call((2, 2), (2, 2), (3, 2))
    with _refused(errors.ShapeError, "do not fit together", "q (2,)"):
        call((2,), (2, 2), (2, 2))
    with _refused(errors.ShapeError, "more queries than keys", "n_query <= 2", "got:      3"):
        call((3, 2), (2, 2), (2, 2), causal=True)
    assert call((3, 2), (2, 2), (2, 2)) is not None
    for mask, words in (
        (np.ones(3, bool), ("the mask does not fit the keys", "(..., m) = (2,)", "(3,)")),
        (np.ones(1, bool), ("the mask does not fit the keys", "with all m keys", "(1,)")),
        (np.ones((2, 2), bool), ("the mask does not fit the keys", "(2, 2)")),
    ):
        with _refused(errors.ShapeError, *words):
            call((2, 2), (2, 2), (2, 2), mask=system.to(mask))
    with _refused(errors.DtypeError, "a mask must be boolean", "true where allowed", "int64"):
        call((2, 2), (2, 2), (2, 2), mask=system.to(np.ones(2, np.int64)))
    for chunk in (0, -1, 1.5, True):
        with _refused(errors.ConfigError, "chunk must be a whole number", "chunk >= 1", repr(chunk)):
            call((2, 2), (2, 2), (2, 2), chunk=chunk)
    with _refused(errors.DtypeError, "must be real floating point", "int64"):
        function(*(system.to(np.ones((2, 2), np.int64)) for _ in range(3)))


def test_no_keys_are_refused() -> None:
    with _refused(errors.ShapeError, "no key to attend to", "at least one key"):
        taylor.taylor_attention(np.ones((2, 2)), np.ones((0, 2)), np.ones((0, 2)))


@pytest.mark.parametrize("scale", [np.nan, np.inf, "1", True, [1.0]])
def test_scales_that_are_no_finite_numbers_are_refused(scale: Any, system: System) -> None:
    x = system.floats(np.ones((2, 2)), system.dtypes[-1])
    with _refused(errors.ConfigError, "scale of the scores must be a finite number", "None for 1/√d", repr(scale)):
        taylor.taylor_attention(x, x, x, scale=scale)
