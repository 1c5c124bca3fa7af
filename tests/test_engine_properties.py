"""What holds for every input: identities by ball containment, exactness where it is exact, no NaN and no warning at the extremes.

An identity between two exact quantities is tested on balls: if f(x) = g(x) in exact arithmetic, enclosures of both must overlap, at
any precision; at 256 bits an overlap leaves no room for a formula that differs by more than 1e-60. Warnings are errors (pyproject.toml).
"""

from __future__ import annotations

import importlib
import math
import re
from fractions import Fraction
from typing import Any

import flint
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from systems import HOST, NUMPY, System, rounded

from refimpl import activation, attention, errors, normalization, number_system, softmax, taylor
from validation import tolerance, truth

DTYPES = ("float16", "float32", "float64")
moderate = st.floats(-40, 40)


def _arrays(elements: Any, *, rows: int = 2, most: int = 6) -> Any:
    shapes = st.tuples(st.integers(1, rows), st.integers(1, most))
    return hnp.arrays(np.float64, shapes, elements=elements)


def _any_finite(dtype: str) -> Any:
    width = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    extremes = st.sampled_from([s * float(np.finfo(dtype).max) for s in (1, -1, 0.5, -0.5)] + [0.0, -0.0])
    return hnp.arrays(dtype, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=finite | extremes)


def _balls(array: Any) -> Any:
    return truth.balls(np.asarray(array))


def _same(a: Any, b: Any, below: float = 1e-60) -> bool:
    """Whether enclosures overlap, and are too small to overlap by accident."""
    pairs = zip(a.ravel(), b.ravel(), strict=True)
    small = max(float(np.max(truth.radii(a))), float(np.max(truth.radii(b)))) < below
    return small and all(x.overlaps(y) for x, y in pairs)


@pytest.fixture(autouse=True)
def _bits() -> Any:
    with truth.precision(320):
        yield


# --- softmax ----------------------------------------------------------------------------------------------------------------


@given(_arrays(moderate), moderate)
def test_softmax_does_not_change_under_a_shift(x: Any, shift: float) -> None:
    ball = flint.arb(shift)
    assert _same(softmax.softmax(_balls(x)), softmax.softmax(_balls(x) + ball))
    assert _same(softmax.log_softmax(_balls(x)), softmax.log_softmax(_balls(x) + ball))
    assert _same(softmax.logsumexp(_balls(x)) + ball, softmax.logsumexp(_balls(x) + ball))


@given(_arrays(moderate))
def test_softmax_is_positive_and_sums_to_one(x: Any) -> None:
    for weights in (softmax.softmax(_balls(x)), taylor.taylor_softmax(_balls(x), 4)):
        assert all(ball > 0 for ball in weights.ravel())
        assert all(sum(row, flint.arb(0)).overlaps(flint.arb(1)) for row in weights)


@given(_arrays(moderate))
def test_log_softmax_is_the_logarithm_of_softmax_and_x_minus_logsumexp(x: Any) -> None:
    logarithm = np.frompyfunc(lambda ball: ball.log(), 1, 1)(softmax.softmax(_balls(x)))
    assert _same(softmax.log_softmax(_balls(x)), logarithm)
    assert _same(softmax.log_softmax(_balls(x)), _balls(x) - softmax.logsumexp(_balls(x))[:, None])


@given(_arrays(moderate), st.randoms(use_true_random=False))
def test_softmax_commutes_with_permutations(x: Any, random: Any) -> None:
    order = list(range(x.shape[1]))
    random.shuffle(order)
    assert _same(softmax.softmax(_balls(x))[:, order], softmax.softmax(_balls(x[:, order])))


@given(_arrays(moderate))
def test_softmax_of_equal_entries_is_equal_bit_for_bit_and_order_is_kept(x: Any) -> None:
    """Floats: exp and division by one positive number are monotone, so x_i <= x_j gives p_i <= p_j, and equals stay equal."""
    for weights in (softmax.softmax(x), softmax.softmax(np.float32(x))):
        source = x if weights.dtype == np.float64 else np.float32(x)
        for entries, row in zip(source, weights, strict=True):
            order = np.argsort(entries)
            assert np.all(np.diff(row[order]) >= 0)
            assert len({p for e, p in zip(entries, row, strict=True) if e == entries[0]}) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_family_has_no_nan_and_no_warning_for_any_finite_input(dtype: str) -> None:
    @given(_any_finite(dtype))
    def check(x: Any) -> None:
        count = x.shape[-1]
        u = tolerance.roundoff(dtype)
        for weights in (softmax.softmax(x), softmax.masked_softmax(x, np.ones(x.shape, bool))):
            assert np.all(np.isfinite(weights))
            assert np.all((weights >= 0) & (weights <= 1))
            # each weight is rounded from a quotient by a sum of `count` terms (count - 1 roundings, one division, the last rounding)
            error = np.abs(weights.astype(np.float64).sum(-1) - 1)
            assert np.all(error <= (count + 2) * u + count * tolerance.smallest_normal(dtype))
        logarithms = softmax.log_softmax(x)  # -inf where the answer is below the dtype's lowest number
        assert np.all(logarithms <= 0)
        assert np.all(logarithms.max(axis=-1) >= -math.log(count) * (1 + 4 * u))
        half = softmax.logsumexp(x).astype(np.float64) / 2  # halves, so that this comparison does not overflow itself
        largest, range_ = np.max(x.astype(np.float64), axis=-1) / 2, math.log(count) / 2
        # max <= logsumexp <= max + log n, and three roundings of numbers that are at most that large
        slack = 3 * u * (np.abs(largest) + range_) + tolerance.smallest_normal(dtype)
        assert np.all((largest - slack <= half) & (half <= largest + range_ + slack))

    check()


def test_log_softmax_has_no_warning_for_any_finite_float16() -> None:
    result = softmax.log_softmax(np.array([-65504.0, 65504.0], np.float16))
    assert not np.any(np.isnan(result))
    assert result[1] == 0


@given(_any_finite("float16"))
@example(np.array([[65504.0, -65504.0]], np.float16))
def test_float16_softmax_has_no_nan_at_the_extremes(x: Any) -> None:
    assert np.all(np.isfinite(softmax.softmax(x)))
    assert np.all(np.isfinite(taylor.taylor_softmax(np.clip(x, -60, 60))))


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
def test_masked_entries_have_no_influence_whatever_they_hold(dtype: str, data: Any) -> None:
    """Bit for bit the same weights whatever is written where the mask is false: NaN, infinities, 1e4, the largest float."""
    x = data.draw(hnp.arrays(dtype, (2, 5), elements=st.floats(-100, 100, width=16)))
    mask = data.draw(hnp.arrays(bool, (2, 5)))
    junk = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e4, -1e4, float(np.finfo(dtype).max)]))
    clean, dirty = np.where(mask, x, np.zeros_like(x)), np.where(mask, x, np.asarray(junk, dtype))
    weights = softmax.masked_softmax(dirty, mask)
    assert np.array_equal(softmax.masked_softmax(clean, mask), weights)
    assert np.all(weights[~mask] == 0)
    assert np.all(np.isfinite(weights))
    for row, allowed, entries in zip(weights, mask, x, strict=True):
        if allowed.any():
            kept = softmax.softmax(entries[allowed])
            # both are within (n + 2) roundings and exp's 4 ulp of the exact weights: see the sum test above
            assert np.all(
                np.abs(row[allowed] - kept) <= 2 * (5 + 2 + 8) * tolerance.roundoff(dtype) * np.abs(kept) + 1e-7
            )
        else:
            assert np.all(row == 0)


def test_masked_entries_have_no_influence_on_any_system(system: System) -> None:
    x = np.array([[1.0, 2.0, -1.0, 3.0], [0.5, 0.25, 8.0, -4.0]], np.float32)
    mask = np.array([[True, False, True, True], [False, False, False, False]])
    junk = np.where(mask, x, np.float32(np.nan))
    answers = []
    for values in (x, junk):
        weights = system.back(softmax.masked_softmax(system.to(values), system.to(mask)))
        assert np.all(weights[1] == 0)
        assert weights[0, 1] == 0
        assert np.all(np.isfinite(weights))
        answers.append(weights)
    assert np.array_equal(*answers)


def test_masked_softmax_on_balls_equals_softmax_of_the_entries_that_are_left() -> None:
    x = _balls([[1.0, 2.0, -1.0, 300.0]])
    mask = np.array([[True, False, True, True]])
    left = softmax.masked_softmax(x, mask)
    assert _same(left[mask], softmax.softmax(x[:, mask[0]]).ravel())
    assert left[0, 1].is_zero()


def test_softmax_answers_nan_to_nan_and_to_infinite_maxima() -> None:
    """As promised: "A NaN or +inf anywhere in a row, or a row of -inf alone, gives NaN"; the other rows are untouched."""
    x = np.array([[1, np.nan], [1, np.inf], [-np.inf, -np.inf], [0, -np.inf]], np.float64)
    with np.errstate(invalid="ignore"):
        weights = softmax.softmax(x)
    assert np.all(np.isnan(weights[:3]).any(axis=1))
    assert weights[3].tolist() == [1.0, 0.0]


AXIS: dict[str, Any] = {
    "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax,
    "taylor_softmax": taylor.taylor_softmax,
    "masked_softmax": lambda x, axis=-1: softmax.masked_softmax(x, x > -1, axis=axis),
    "logsumexp": lambda x, axis=-1: softmax.logsumexp(x, axis=axis)[None],  # the axis comes back, at the front
}


@pytest.mark.parametrize("name", AXIS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_an_axis_means_the_last_axis_of_the_array_turned(name: str, axis: int) -> None:
    x = np.random.default_rng(5).normal(0, 1, (2, 3, 4))
    direct = AXIS[name](_balls(x), axis=axis)
    turned = AXIS[name](_balls(np.moveaxis(x, axis, -1)))
    assert _same(direct, turned if name == "logsumexp" else np.moveaxis(turned, -1, axis))


# --- Taylor -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 5, 8, 16, 33, 40, 64])
def test_exp_taylor_encloses_the_exact_rational_sum(order: int) -> None:
    points = [Fraction(-7), Fraction(-5, 4), Fraction(0), Fraction(3, 8), Fraction(11, 2)]
    answers = taylor.exp_taylor(_balls([float(point) for point in points]), order)
    for point, ball in zip(points, answers, strict=True):
        exact = sum(point**k / math.factorial(k) for k in range(order + 1))
        assert ball.overlaps(flint.arb(exact.numerator) / exact.denominator)
        assert ball.rad() < 1e-40


@pytest.mark.parametrize("order", [1, 4, 9])
@pytest.mark.parametrize("radius", [0.0, 2.0**-8])
def test_exp_taylor_encloses_the_value_at_a_node(order: int, radius: float) -> None:
    """x = -s_i, the double next to it: at 53 bits the midpoint of x + s_i is 0."""
    x = -np.array([float(node) for node in taylor.laguerre_nodes(order // 2 + 1)])
    with truth.precision(53):
        answers = taylor.exp_taylor(truth.balls(x, radius), order)
    for value, ball in zip(x, answers, strict=True):
        exact = sum(Fraction(float(value)) ** k / math.factorial(k) for k in range(order + 1))
        assert ball.is_finite()
        assert ball.overlaps(flint.arb(exact.numerator) / exact.denominator)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [16, 40, 64])
def test_high_orders_do_not_overflow_on_the_way(order: int, dtype: str) -> None:
    """(x + s_i)^40 is beyond float32 at x = 0 already, where f_40(0) = 1."""
    x = rounded(np.linspace(-9, 9, 25), dtype)
    enclosure = truth.enclose(taylor.exp_taylor, x, order=order)
    budget = tolerance.proved_budget(taylor.exp_taylor, x, dtype=dtype, order=order)
    verdict = tolerance.judge(taylor.exp_taylor(x, order), enclosure, budget, dtype)
    assert verdict.passed, verdict


@given(_arrays(st.floats(-8, 8), most=4))
def test_taylor_features_make_the_order_2_kernel_a_scalar_product(x: Any) -> None:
    q, k = _balls(x), _balls(x[::-1] / 2 + 1)
    kernel = taylor.exp_taylor((q * k).sum(axis=-1, keepdims=True), 2)
    product = (taylor.taylor_features(q) * taylor.taylor_features(k)).sum(axis=-1, keepdims=True)
    assert _same(kernel, product, 1e-50)


@pytest.mark.parametrize("order", [2, 4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_even_taylor_is_positive_for_any_input_where_it_is_finite(dtype: str, order: int) -> None:
    @given(_any_finite(dtype))
    def check(x: Any) -> None:
        with np.errstate(over="ignore"):  # +inf where f_n overflows is what is promised
            assert np.all(taylor.exp_taylor(x, order) > 0)

    check()


# --- activations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["tanh", "none"])
def test_gelu_has_its_limits_at_the_tails_and_no_warning(dtype: str, form: Any) -> None:
    """|GELU(x) - relu(x)| = |x| Φ(-|x|) for erf; far out both forms are exactly relu: 1 ± tanh and erfc are 2 or 0 to the last bit."""
    largest = float(np.finfo(dtype).max)
    far = np.array([40.0, 1e3, 65504.0, largest / 2, largest], dtype)
    assert np.array_equal(activation.gelu(far, form), far)
    assert np.all(activation.gelu(-far, form) == 0)
    assert activation.gelu(np.array([0.0], dtype), form)[0] == 0


@pytest.mark.parametrize("form", ["tanh", "none"])
@given(st.floats(-60, 60))
def test_gelu_of_x_minus_gelu_of_minus_x_is_x(form: Any, x: float) -> None:
    """x Φ(x) + x Φ(-x) = x: both forms have an odd inner function."""
    ball = _balls([x])
    assert _same(activation.gelu(ball, form) - activation.gelu(-ball, form), ball)


def test_gelu_forms_enclose_their_textbook_formulas() -> None:
    x = _balls(np.linspace(-9, 9, 37))
    half, root2 = flint.arb(1) / 2, flint.arb(2).sqrt()
    normal = np.frompyfunc(lambda b: half * (1 + (b / root2).erf()), 1, 1)(x)
    assert _same(activation.gelu(x, "none"), x * normal)
    slope, cubic = (2 / flint.arb.pi()).sqrt(), flint.arb(44715) / 10**6
    inner = np.frompyfunc(lambda b: (slope * (b + cubic * b * b * b)).tanh(), 1, 1)(x)
    assert _same(activation.gelu(x, "tanh"), half * x * (1 + inner))


def test_gelu_forms_differ_by_up_to_4_7e_4_as_the_module_says() -> None:
    x = _balls(np.linspace(-4, 4, 1601))
    difference = np.abs(truth.midpoints(activation.gelu(x, "tanh") - activation.gelu(x, "none")))
    assert 4.65e-4 < difference.max() < 4.75e-4


@given(st.floats(-60, 60))
def test_sigmoid_is_the_logistic_function_and_reflects(x: float) -> None:
    ball = _balls([x])
    logistic = np.array([1 / (1 + (-ball[0]).exp())])
    assert _same(activation.sigmoid(ball), logistic)
    assert _same(activation.sigmoid(ball) + activation.sigmoid(-ball), _balls([1.0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_have_no_nan_and_no_warning_for_any_finite_input(dtype: str) -> None:
    @given(_any_finite(dtype))
    def check(x: Any) -> None:
        for result in (
            activation.relu(x),
            activation.sigmoid(x),
            activation.tanh(x),
            activation.gelu(x, "tanh"),
            activation.gelu(x, "none"),
        ):
            assert np.all(np.isfinite(result))
        assert np.array_equal(activation.relu(x), np.where(x > 0, x, np.zeros_like(x)))

    check()


def test_relu_on_a_ball_around_zero_encloses_both_branches() -> None:
    straddling = np.array([flint.arb(0.25, 1.0)])
    result = activation.relu(straddling)[0]
    assert result.contains(flint.arb(0))
    assert result.contains(flint.arb(1.25))
    assert activation.relu(_balls([-3.0]))[0].is_zero()
    assert activation.relu(_balls([3.0]))[0] == 3


# --- layer norm -------------------------------------------------------------------------------------------------------------


def _exact_layer_norm(row: list[Fraction], eps: Fraction) -> list[Any]:
    """(x - μ)/√(σ² + ε) from rationals: only the root is not exact."""
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    inside = variance + eps
    root = (flint.arb(inside.numerator) / inside.denominator).sqrt()
    return [flint.arb((value - mean).numerator) / (value - mean).denominator / root for value in row]


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6), st.sampled_from([1e-5, 1e-12, 0.25, 3.0]))
def test_layer_norm_has_a_biased_variance_and_eps_inside_the_root(row: list[float], eps: float) -> None:
    width = len(row)
    answer = normalization.layer_norm(_balls([row]), _balls(np.ones(width)), _balls(np.zeros(width)), eps)
    exact = np.array([_exact_layer_norm([Fraction(value) for value in row], Fraction(eps))], dtype=object)
    assert _same(answer, exact, 1e-50)


@given(_arrays(st.floats(-8, 8, width=32)), st.floats(-100, 100), st.sampled_from([0.5, 2.0, 16.0]))
def test_layer_norm_ignores_an_offset_and_a_scale_with_its_eps(x: Any, offset: float, factor: float) -> None:
    """LN(x + c) = LN(x), and LN(a x) with ε a² = LN(x) with ε, for a > 0."""
    one, zero = _balls(np.ones(x.shape[1])), _balls(np.zeros(x.shape[1]))
    plain = normalization.layer_norm(_balls(x), one, zero, 2.0**-10)
    assert _same(plain, normalization.layer_norm(_balls(x) + flint.arb(offset), one, zero, 2.0**-10), 1e-50)
    assert _same(plain, normalization.layer_norm(_balls(x) * flint.arb(factor), one, zero, 2.0**-10 * factor**2), 1e-50)


@given(_arrays(st.floats(-8, 8, width=32)))
def test_layer_norm_applies_scale_then_bias(x: Any) -> None:
    width = x.shape[1]
    scale, bias = _balls(np.arange(1.0, width + 1)), _balls(np.arange(width) - 2.5)
    plain = normalization.layer_norm(_balls(x), _balls(np.ones(width)), _balls(np.zeros(width)), 0.5)
    assert _same(normalization.layer_norm(_balls(x), scale, bias, 0.5), plain * scale + bias, 1e-50)


def test_layer_norm_does_not_overflow_in_float16() -> None:
    """65504² is no float16: 16-bit floats are computed in float32."""
    x = np.array([[65504.0, -65504.0, 0.0, 40000.0]], np.float16)
    answer = normalization.layer_norm(x, np.ones(4, np.float16), np.zeros(4, np.float16), 1e-5)
    enclosure = truth.enclose(normalization.layer_norm, x, np.ones(4), np.zeros(4), eps=1e-5)
    budget = tolerance.proved_budget(normalization.layer_norm, x, np.ones(4), np.zeros(4), dtype="float16", eps=1e-5)
    assert tolerance.judge(answer, enclosure, budget, "float16").passed


# --- attention --------------------------------------------------------------------------------------------------------------


def _qkv(seed: int, n: int = 4, m: int = 5) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (2, n, 3)), rng.normal(0, 1, (2, m, 3)), rng.normal(0, 1, (2, m, 2))


def test_scores_are_q_k_over_root_d_plus_previous_and_carry_no_mask(system: System) -> None:
    q, k, v = _qkv(1)
    mask = np.zeros((4, 5), bool)
    mask[:, 0] = True
    previous = np.full((2, 4, 5), 0.5)
    dtype = system.dtypes[-1]
    arrays = [system.floats(a, dtype) for a in (q, k, v)]
    _, free = attention.scaled_dot_product_attention(*arrays)
    _, masked = attention.scaled_dot_product_attention(*arrays, mask=system.to(mask))
    _, carried = attention.scaled_dot_product_attention(*arrays, previous_scores=system.floats(previous, dtype))
    assert np.array_equal(system.back(free), system.back(masked))
    if system.is_ball:
        exact = np.matmul(_balls(q), np.swapaxes(_balls(k), -1, -2)) / flint.arb(3).sqrt()
        assert _same(free, exact)
        assert _same(carried, exact + flint.arb(0.5))


def test_own_scores_are_those_without_the_previous_ones_bit_for_bit(system: System) -> None:
    """Not recovered from the sum: 2^15 + s keeps few bits of s."""
    for dtype in system.dtypes:
        q, k, v = (system.floats(a, dtype) for a in _qkv(1))
        mask, previous = system.to(np.tri(4, 5, 1, dtype=bool)), system.floats(np.full((2, 4, 5), 2.0**15), dtype)
        _, plain = attention.scaled_dot_product_attention(q, k, v)
        options = {"mask": mask, "previous_scores": previous, "mean_over": 2}
        runs = [attention.scaled_dot_product_attention(q, k, v, **options, hand_on=which) for which in ("own", "sum")]
        assert np.array_equal(system.back(runs[0][0]), system.back(runs[1][0]))
        assert np.array_equal(system.back(runs[0][1]), system.back(plain))
        assert np.all(system.back(runs[1][1]).astype(np.float64) > 2.0**14)


def test_a_query_that_sees_nothing_gets_zeros_and_one_that_sees_one_key_gets_its_value(system: System) -> None:
    q, k, v = _qkv(2)
    mask = np.zeros((4, 5), bool)
    mask[1, 3] = True
    dtype = system.dtypes[0]
    arrays = [system.floats(a, dtype) for a in (q, k, v)]
    output = system.back(attention.scaled_dot_product_attention(*arrays, mask=system.to(mask))[0])
    assert np.all(output[:, [0, 2, 3]] == 0)
    assert np.array_equal(output[:, 1], system.back(arrays[2])[:, 3])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e4, -1e4])
def test_masked_keys_and_scores_have_no_influence_whatever_they_hold(junk: float) -> None:
    q, k, v = _qkv(3)
    mask = np.ones((4, 5), bool)
    mask[:, 2] = False
    dirty, previous = k.copy(), np.zeros((2, 4, 5))
    dirty[:, 2] = junk
    previous[:, :, 2] = junk
    clean = attention.scaled_dot_product_attention(q, k, v, mask=mask)[0]
    with np.errstate(invalid="ignore"):  # inf · 0 in the scores themselves, which are returned as they are
        other = attention.scaled_dot_product_attention(q, dirty, v, mask=mask)[0]
    carried = attention.scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=previous)[0]
    assert np.array_equal(clean, other)
    assert np.array_equal(clean, carried)


@given(
    hnp.arrays(np.float16, (3, 2), elements=st.floats(-200, 200, width=16)), hnp.arrays(bool, (3, 3)), st.integers(0, 9)
)
def test_float16_attention_with_masks_has_no_nan(q: Any, mask: Any, seed: int) -> None:
    """Scores stay below 200² · 2/√2 = 56569 < 65504."""
    v = np.random.default_rng(seed).normal(0, 1, (3, 2)).astype(np.float16)
    output, scores = attention.scaled_dot_product_attention(q, q[::-1], v, mask=mask)
    assert output.dtype == scores.dtype == np.float16
    assert np.all(np.isfinite(output))
    assert np.all(np.isfinite(scores))
    assert np.all(output[~mask.any(axis=1)] == 0)


def test_attention_is_a_mean_of_values_on_balls() -> None:
    """Weights are positive and sum to one: constant values come out unchanged."""
    q, k, v = map(_balls, _qkv(4))
    constant = v * flint.arb(0) + flint.arb(7)
    output, _ = attention.scaled_dot_product_attention(q, k, constant)
    assert _same(output, constant[:, :4] if constant.shape[1] >= 4 else constant)


@pytest.mark.parametrize("name", ["none", "causal", "padding", "causal_padding"])
def test_attention_agrees_with_torch(name: str, recorded: Any) -> None:
    answers = recorded("torch_components")
    mask = answers.get(f"attention_mask_{name}")
    _agrees(
        lambda q, k, v, m: attention.scaled_dot_product_attention(q, k, v, mask=m)[0],
        [answers["attention_q"], answers["attention_k"], answers["attention_v"], None if mask is None else mask == 1],
        answers[f"attention_{name}"],
    )


def test_attention_with_fewer_queries_and_with_sharp_scores_agrees_with_torch(recorded: Any) -> None:
    answers = recorded("torch_components")
    k, v = answers["attention_k"], answers["attention_v"]
    output = lambda q, k, v, m: attention.scaled_dot_product_attention(q, k, v, mask=m)[0]  # noqa: E731
    _agrees(output, [answers["attention_short_q"], k, v, None], answers["attention_short_none"])
    causal = answers["attention_mask_causal"] == 1
    _agrees(output, [50 * answers["attention_q"], k, v, causal], answers["attention_sharp_causal"])


def _agrees(definition: Any, arrays: list[Any], recorded: Any) -> None:
    """We and the oracle are each within the budget of the truth, so within twice the budget of each other; and we of the truth."""
    enclosure = truth.enclose(definition, *arrays)
    budget = tolerance.proved_budget(definition, *arrays, dtype="float64")
    mine = tolerance.judge(definition(*arrays), enclosure, budget, "float64")
    theirs = tolerance.judge(recorded, enclosure, budget, "float64")
    assert mine.passed, mine
    assert theirs.passed, theirs


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax_family_agrees_with_torch(name: str, recorded: Any) -> None:
    answers = recorded("torch_components")
    _agrees(getattr(softmax, name), [answers["softmax_input"]], answers[name])


@pytest.mark.parametrize(("name", "form"), [("gelu_tanh", "tanh"), ("gelu_none", "none")])
def test_gelu_agrees_with_torch(name: str, form: Any, recorded: Any) -> None:
    """torch evaluates x/2 (1 + erf(x/√2)), whose 1 + … cancels: allow it one roundoff of |x| (recorded/README.md, tails of GELU)."""
    answers = recorded("torch_components")
    x = answers["gelu_input"]
    enclosure = truth.enclose(activation.gelu, x, approximate=form)
    budget = tolerance.proved_budget(activation.gelu, x, dtype="float64", approximate=form)
    mine = tolerance.judge(activation.gelu(x, form), enclosure, budget, "float64")
    theirs = tolerance.judge(answers[name], enclosure, budget + tolerance.roundoff("float64") * np.abs(x), "float64")
    assert mine.passed, mine
    assert theirs.passed, theirs


@pytest.mark.parametrize("eps", ["1e-05", "1e-12"])
def test_layer_norm_agrees_with_torch(eps: str, recorded: Any) -> None:
    answers = recorded("torch_components")
    arrays = [answers["layer_norm_input"], answers["layer_norm_scale"], answers["layer_norm_bias"]]
    _agrees(
        lambda x, scale, bias: normalization.layer_norm(x, scale, bias, float(eps)),
        arrays,
        answers[f"layer_norm_eps_{eps}"],
    )


# --- errors -----------------------------------------------------------------------------------------------------------------


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


@pytest.mark.parametrize(
    "function",
    [
        softmax.softmax,
        softmax.log_softmax,
        softmax.logsumexp,
        activation.gelu,
        activation.relu,
        activation.sigmoid,
        activation.tanh,
        taylor.taylor_softmax,
        taylor.taylor_features,
        lambda x: softmax.masked_softmax(x, x > 0),
        lambda x: taylor.exp_taylor(x, 2),
        lambda x: normalization.layer_norm(x, x[0, :], x[0, :], 1e-5),
        lambda x: attention.scaled_dot_product_attention(x, x, x),
    ],
)
def test_integers_are_refused_with_the_dtype_and_the_remedy(function: Any, floating_system: System) -> None:
    with _refused(
        errors.DtypeError, "must be real floating point", "float16, bfloat16, float32", "int64", "astype"
    ) as caught:
        function(floating_system.to(np.ones((2, 2), np.int64)))
    assert isinstance(caught.value, TypeError)


def test_an_object_array_without_balls_is_refused() -> None:
    with _refused(errors.DtypeError, "must hold balls", "flint.arb", "['float']", "balls(array)"):
        softmax.softmax(np.array([1.0, 2.0], dtype=object))
    with _refused(errors.DtypeError, "must hold balls", "flint.arb", "an empty array"):
        softmax.softmax(np.array([], dtype=object))


def test_the_remedy_for_objects_names_a_function_that_exists() -> None:
    with pytest.raises(errors.DtypeError) as caught:
        softmax.softmax(np.array([1.0], dtype=object))
    module, name = re.search(r"([\w.]+)\.(\w+)\(array\)", str(caught.value)).groups()
    assert callable(getattr(importlib.import_module(module), name))


def test_attention_shapes_that_do_not_fit_are_listed(floating_system: System) -> None:
    def zeros(*shape: int) -> Any:
        return floating_system.to(np.zeros(shape, np.float32))

    for q, k, v in [
        (zeros(2, 3), zeros(4, 5), zeros(4, 5)),
        (zeros(2, 3), zeros(4, 3), zeros(5, 3)),
        (zeros(3), zeros(4, 3), zeros(4, 3)),
    ]:
        with _refused(
            errors.ShapeError,
            "do not fit together",
            "scaled_dot_product_attention",
            "q (..., n, d), k (..., m, d), v (..., m, e)",
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}",
        ):
            attention.scaled_dot_product_attention(q, k, v)


def test_causal_mask_with_more_queries_than_keys_is_refused(system: System) -> None:
    with _refused(errors.ShapeError, "more queries than keys", "causal_mask", "n_query <= 2", "3"):
        attention.causal_mask(3, 2, xp=system.xp, device=system.device)


def test_layer_norm_names_the_shapes_and_refuses_bad_eps(floating_system: System) -> None:
    x, good, bad = (floating_system.to(np.ones(shape, np.float32)) for shape in ((2, 3), (3,), (2,)))
    for scale, bias in [(bad, good), (good, bad)]:
        got = f"scale {tuple(scale.shape)}, bias {tuple(bias.shape)}, input (2, 3)"
        with _refused(errors.ShapeError, "width of its input", "of shape (3,)", got):
            normalization.layer_norm(x, scale, bias, 1e-5)
    for eps in (-1e-5, math.nan):
        with _refused(errors.ConfigError, "eps must not be negative", "eps >= 0", str(eps)):
            normalization.layer_norm(x, good, good, eps)


def test_unknown_gelu_is_refused_by_name() -> None:
    with _refused(errors.ConfigError, "unknown form of GELU", "gelu(approximate=...)", '"tanh" or "none"', "'erf'"):
        activation.gelu(np.ones(2), "erf")  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [-1, 65, 2.0, True, "2"])
def test_taylor_orders_out_of_range_are_refused(order: Any) -> None:
    with _refused(errors.ConfigError, "order of the Taylor polynomial", "a whole number from 0 to 64", repr(order)):
        taylor.exp_taylor(np.ones(2), order)


def test_odd_orders_give_no_softmax_and_the_message_says_why() -> None:
    with _refused(errors.ConfigError, "must be an even whole number", "got:      3", "TAYLOR-2"):
        taylor.taylor_softmax(np.ones(2), 3)


def test_arrays_of_two_libraries_are_not_mixed() -> None:
    q = HOST[4].to(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="ultiple namespaces"):
        attention.scaled_dot_product_attention(q, NUMPY.to(np.ones((2, 2), np.float32)), q)


# --- what the 16-bit wrapper and the shifts promise ---------------------------------------------------------------------------


def test_arrays_may_be_passed_by_name() -> None:
    x = np.array([[0.5, 2.0]], np.float16)
    assert np.array_equal(softmax.softmax(x=x), softmax.softmax(x))
    assert softmax.softmax(x=x).dtype == np.float16
    output, scores = attention.scaled_dot_product_attention(q=x, k=x, v=x)
    assert output.dtype == scores.dtype == np.float16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_results_round_to_infinity_from_half_an_ulp_beyond_the_largest_number(dtype: str) -> None:
    """No warning, and infinity exactly where round-to-nearest-even says: at max + ulp/2."""
    largest = float(_finfo(dtype).max)
    half_ulp = largest * 2.0 ** -(tolerance.BITS[dtype]) / (2 - 2.0 ** (1 - tolerance.BITS[dtype]))
    x = np.array([largest, largest, -largest], np.float32)
    shift = np.array([half_ulp * (1 - 2.0**-9), half_ulp, -half_ulp], np.float32)

    @number_system.rounded_once
    def add(first: Any, other: Any) -> Any:
        return first + other

    answer = add(x.astype(tolerance.DTYPES[dtype]), shift)
    assert answer.astype(np.float64).tolist() == [largest, np.inf, -np.inf]


def _finfo(dtype: str) -> Any:
    return ml_dtypes.finfo(tolerance.DTYPES[dtype])


def test_minus_infinity_is_an_entry_of_weight_zero() -> None:
    x = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, 2.0]])
    weights = softmax.softmax(x)
    assert np.all(weights[x == -np.inf] == 0)
    assert weights[1, 2] == 1
    assert np.all(softmax.log_softmax(x)[x == -np.inf] == -np.inf)
    assert softmax.logsumexp(x)[1] == 2.0


@pytest.mark.parametrize("order", [0, 2, 4, 16, 40])
@given(_arrays(moderate))
def test_taylor_softmax_is_the_polynomial_over_its_sum(order: int, x: Any) -> None:
    polynomial = taylor.exp_taylor(_balls(x), order)
    assert _same(taylor.taylor_softmax(_balls(x), order), polynomial / polynomial.sum(axis=-1, keepdims=True), 1e-40)


@pytest.mark.parametrize("order", [2, 4, 16, 40])
def test_taylor_softmax_is_defined_where_one_term_vanishes(order: int) -> None:
    """A row that lies at a zero of one of the squares: the others carry it."""
    for node in taylor.laguerre_nodes(order // 2 + 1):
        assert taylor.taylor_softmax(np.full((1, 2), -float(node)), order).tolist() == [[0.5, 0.5]]


@given(_arrays(st.floats(-1e300, 1e300)), st.sampled_from([2, 4, 16, 40]))
def test_taylor_softmax_has_no_overflow_and_sums_to_one(x: Any, order: int) -> None:
    weights = taylor.taylor_softmax(x, order)
    assert np.all(np.isfinite(weights))
    assert np.all(weights >= 0)
    # a sum of n quotients by one sum: (n + 2) roundings, as for softmax
    assert np.all(np.abs(weights.sum(-1) - 1) <= (x.shape[-1] + 2) * tolerance.roundoff("float64"))


@given(st.floats(-700, 700))
def test_sigmoid_is_accurate_relative_to_itself(x: float) -> None:
    """Four operations of at most 4 ulp = 8 u each: exp, sum, quotient, rounding; no cancellation on the left."""
    exact = activation.sigmoid(_balls([x]))
    error = truth.upper_distance(exact, activation.sigmoid(np.array([x])))
    assert np.all(error <= 32 * tolerance.roundoff("float64") * truth.midpoints(exact))


@pytest.mark.parametrize("ulps", [0.5, 1.5, 2.5, 3.5, 5.5, 2**23])
def test_a_shift_that_ties_with_the_last_bit_of_the_range_overflows_nowhere(ulps: float) -> None:
    low = float(np.finfo(np.float32).min)
    x = np.array([ulps * 2.0**104, low, -np.inf], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert softmax.softmax(x).tolist() == [1, 0, 0]
        assert softmax.log_softmax(x)[0] == 0
        assert softmax.logsumexp(x) == x[0]


def test_taylor_softmax_of_order_0_is_uniform_even_where_a_node_is_hit() -> None:
    assert taylor.taylor_softmax(np.array([-1.0, -1.0, 3.0, 0.0]), 0).tolist() == [0.25] * 4
    assert all(ball == 0.25 for ball in taylor.taylor_softmax(truth.balls(np.array([-1.0, -1.0, 3.0, 0.0])), 0))
