"""Backward passes of sparse softmax, positions, the error function, convolutions, the losses of SPACES and Mitchell's arithmetic.

Each rule is held to three things on every number system: its value is the definition's, bit for bit; its cotangents are within the budget that balls
derive for the same lines; and, in balls of 400 bits,
ȳᵀ (f(x + hv) - f(x - hv))/2h = x̄ᵀ v with h = 2^-60, to 2^-80 relative: what is left out is some h².
"""

from __future__ import annotations

import functools
import math
import re
import tracemalloc
from fractions import Fraction
from typing import Any, NamedTuple

import flint
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from systems import SYSTEMS, System, rounded

from refimpl import (
    activation,
    bert,
    complex_step,
    convolution,
    copying,
    errors,
    favor,
    gradients,
    mitchell,
    mitchell_gradients,
    normalization,
    positions,
    softmax,
    special,
)
from refimpl.number_system import narrowed
from refimpl.trees import leaves, mapped, named_leaves
from validation import tolerance, truth

SMALL_BERT = bert.BertConfig(3, 2, 1, 1, 2, max_position_embeddings=3)
STEP = flint.arb((1, -60))


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _same(one: Any, other: Any) -> bool:
    """Whether two answers hold the same bits, or balls of the same midpoint and radius."""
    if one.dtype != object:
        return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())
    pairs = zip(one.ravel(), other.ravel(), strict=True)
    return all((a.mid(), a.rad()) == (b.mid(), b.rad()) or (a.is_nan() and b.is_nan()) for a, b in pairs)


def _floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _given(system: System, value: Any, dtype: str) -> Any:
    """An argument of a definition on `system`: floats in `dtype`, other arrays as they are."""
    if not isinstance(value, np.ndarray):
        return value
    return system.floats(value, dtype) if _floating(value) else system.to(value)


def _bars(value: Any) -> Any:
    """A cotangent of both signs, none of it 0 or a power of two: numbers of 6 bits, whose fractions are odd multiples of 1/32."""
    rng = np.random.default_rng(7)
    sizes = rng.choice([37, 43, 51, 57], value.shape) * 2.0 ** rng.integers(-5, -2, value.shape)
    return np.asarray(sizes * np.where(rng.random(value.shape) < 0.5, 1.0, -1.0))


def check_rule(system: System, definition: Any, *args: Any, **options: Any) -> None:
    """The value is the definition's, and the cotangents are within their proved budget: in every dtype of NumPy and CuPy, in one elsewhere."""
    for dtype in system.dtypes if system.name in ("numpy", "cupy") else system.dtypes[-1:]:
        x = [_given(system, value, dtype) for value in args]
        named = {name: _given(system, value, dtype) for name, value in options.items()}
        value, pullback = gradients.vjp(definition, *x, **named)
        plain = {name: option for name, option in named.items() if name != "surrogate"}  # which rules alone have
        assert _same(np.asarray(system.back(definition(*x, **plain))), np.asarray(system.back(value)))
        bar = _bars(value)
        found = pullback(system.xp.reshape(system.floats(bar.reshape(-1), dtype), bar.shape))
        assert len(found) == len(gradients.rule_of(definition).arguments)
        answers = [np.asarray(system.back(got)).reshape(-1) for got in found if got is not None]
        known, budget = _proved(definition, args, options, bar, dtype)
        joined = np.concatenate([got.astype(tolerance.DTYPES[dtype]) for got in answers])
        verdict = tolerance.judge(joined, known, budget, dtype)
        assert verdict.passed, (definition.__qualname__, dtype, verdict)


_PROVED: dict[Any, Any] = {}  # number systems share rounded arguments, and so what is known of their cotangents


def _proved(definition: Any, args: Any, options: Any, bar: Any, dtype: str) -> tuple[Any, Any]:
    """All cotangents in balls, one after the other, for the arguments rounded to `dtype`; and the budget that balls derive for them."""
    wide = [rounded(value, dtype).astype(np.float64) if _floating(value) else value for value in args]
    at = [j for j, value in enumerate(wide) if _floating(value)]
    floats = [bar.reshape(-1), *(wide[j] for j in at)]

    def cotangents(*given: Any) -> Any:
        full = list(wide)
        for j, value in zip(at, given[1:], strict=True):
            full[j] = value
        found = gradients.vjp(definition, *full, **options)[1](given[0].reshape(bar.shape))
        return np.concatenate([got.reshape(-1) for got in found if got is not None])

    given = (*wide, *options.items())
    key = (definition.__qualname__, dtype, *(v.tobytes() if isinstance(v, np.ndarray) else repr(v) for v in given))
    if key not in _PROVED:
        with truth.precision(256):
            known = cotangents(*map(truth.balls, floats))
        _PROVED[key] = known, tolerance.proved_budget(cotangents, *floats, dtype=dtype)
    return _PROVED[key]


def check_slope(definition: Any, *args: Any, **options: Any) -> None:
    """ȳᵀ (f(x + hv) - f(x - hv))/2h = x̄ᵀ v in balls, v of small whole numbers along all arguments that have cotangents."""
    names = gradients.rule_of(definition).arguments
    rng = np.random.default_rng(3)
    with truth.precision(400):
        x = [truth.balls(value) if _floating(value) else value for value in args]
        named = {name: truth.balls(value) if _floating(value) else value for name, value in options.items()}
        value, pullback = gradients.vjp(definition, *x, **named)
        bar = truth.balls(_bars(value).reshape(-1)).reshape(value.shape)
        moving = [j for j, given in enumerate(args) if _floating(given)]
        assert len(moving) + sum(map(_floating, options.values())) == len(names)
        along = {j: truth.balls(rng.integers(1, 4, x[j].shape).astype(float)) for j in moving}
        ends = [
            definition(*(a + side * along[j] * STEP if j in along else a for j, a in enumerate(x)), **named)
            for side in (1, -1)
        ]
        quotient = np.sum((ends[0] - ends[1]) * bar) / (2 * STEP)
        bars = pullback(bar)
        total = sum(((bars[i] * along[j]).sum() for i, j in enumerate(moving)), flint.arb(0))
        size = sum((abs(b).sum() for b in bars if b is not None), flint.arb(1))
        assert abs(quotient - total).abs_upper() < size.abs_upper() * 2.0**-80, (quotient, total)


def check_complex_step(definition: Any, *args: Any, **options: Any) -> None:
    """ȳᵀ J v by complex numbers = x̄ᵀ v in float64, to 1e-12 of the sum of the sizes of the terms."""
    rng = np.random.default_rng(2)
    along = tuple(rng.normal(size=value.shape) if _floating(value) else None for value in args)
    value, pullback = gradients.vjp(definition, *args, **options)
    stepped, tangent = complex_step.jvp(definition, args, along, **options)
    assert np.array_equal(stepped, value)
    bar = _bars(value)
    terms = [(got * v).ravel() for got, v in zip(pullback(bar), (v for v in along if v is not None), strict=True)]
    forward = (bar * tangent).ravel()
    size = np.sum(abs(forward)) + np.sum(abs(np.concatenate(terms)))
    assert abs(np.sum(forward) - np.sum(np.concatenate(terms))) <= 1e-12 * size, definition.__qualname__


# --- sparse softmax -----------------------------------------------------------------------------------------------------------------

ROWS = np.array([[0.5, 2.0, -1.0, 1.25, 3.0], [1.0, 1.5, 0.75, -2.0, 0.0]])
ALLOWED = np.array([[True, False, True, True, True], [False] * 5])
TARGETS = np.array([2, 1])


@pytest.mark.parametrize("system", SYSTEMS)
def test_sparse_rules_on_every_number_system(system: System) -> None:
    for k, mask in ((2, None), (3, ALLOWED), (9, None)):
        check_rule(system, softmax.sparse_softmax, ROWS, k, mask=mask)
        check_rule(system, softmax.sparse_softmax_cross_entropy, ROWS, TARGETS, k, mask=mask)
    check_rule(system, softmax.sparse_softmax, ROWS.T, 2, 0)


def test_sparse_rules_are_derivatives() -> None:
    for k, mask in ((1, None), (2, None), (3, ALLOWED), (9, None)):
        check_slope(softmax.sparse_softmax, ROWS, k, mask=mask)
        check_slope(softmax.sparse_softmax_cross_entropy, ROWS, TARGETS, k, mask=mask)
        check_slope(softmax.sparse_softmax_cross_entropy, ROWS, np.array([4, 0]), k, mask=mask)


@pytest.mark.parametrize("system", SYSTEMS)
def test_of_equal_entries_those_of_lower_index_have_the_derivative(system: System) -> None:
    x, bar = (system.floats(values, system.dtypes[-1]) for values in ([[1.0, 2.0, 1.0, 1.0]], [[1.0, 2.0, 4.0, 8.0]]))
    (x_bar,) = softmax.sparse_softmax_vjp(x, 2)[1](bar)
    assert np.nonzero(np.asarray(system.back(x_bar), np.float64))[1].tolist() == [0, 1]
    targets = system.to(np.array([3]))
    (s_bar,) = softmax.sparse_softmax_cross_entropy_vjp(x, targets, 2)[1](bar[:, 0])
    assert np.nonzero(np.asarray(system.back(s_bar), np.float64))[1].tolist() == [0, 1, 3]


tied_rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=st.integers(-2, 2))


@given(tied_rows, st.integers(1, 7), st.data())
def test_a_subgradient_of_the_sparse_loss_at_ties(x: Any, k: int, data: Any) -> None:
    """loss(y) >= loss(x) + s̄ᵀ (y - x): the loss plus s_t is a largest of convex functions, so the chosen one's gradient lies below it, up to 8 u."""
    targets = np.array([data.draw(st.integers(0, x.shape[1] - 1)) for _ in x])
    y = x + data.draw(hnp.arrays(np.float64, x.shape, elements=st.integers(-8, 8))) / 4
    loss, pullback = softmax.sparse_softmax_cross_entropy_vjp(x, targets, k)
    (bar,) = pullback(np.ones(len(x)))
    above = softmax.sparse_softmax_cross_entropy(y, targets, k) - loss - (bar * (y - x)).sum(axis=-1)
    assert np.all(above >= -64 * 2.0**-53)
    kept = softmax.top_k_selection(x, k)
    assert np.array_equal(
        (bar != 0) | (np.arange(x.shape[1]) == targets[:, None]), kept | (np.arange(x.shape[1]) == targets[:, None])
    )
    assert np.all(abs(bar.sum(axis=-1)) <= 8 * 2.0**-53)  # a shift of all logits changes nothing


@given(tied_rows, st.integers(1, 7))
def test_the_rule_of_sparse_softmax_is_that_of_softmax_over_the_kept(x: Any, k: int) -> None:
    kept = softmax.top_k_selection(x, k)
    p, pullback = softmax.sparse_softmax_vjp(x, k)
    bar = _bars(x)
    (x_bar,) = pullback(np.where(kept, bar, np.nan))  # what p̄ holds outside has no influence
    assert np.all(x_bar[~kept] == 0)
    for row, chosen, b, got in zip(x, kept, bar, x_bar, strict=True):
        (dense,) = softmax.softmax_vjp(row[chosen])[1](b[chosen])
        assert np.all(abs(dense - got[chosen]) <= 64 * 2.0**-53)
    if k >= x.shape[1]:
        assert _same(x_bar, softmax.softmax_vjp(x)[1](bar)[0])
        assert _same(p, softmax.softmax(x))


def test_rows_without_an_allowed_entry_have_no_gradient_whatever_comes_in() -> None:
    junk = np.where(ALLOWED, ROWS, np.nan)
    x_bar = softmax.sparse_softmax_vjp(junk, 2, mask=ALLOWED)[1](np.full(ROWS.shape, np.nan))[0]
    assert np.all(x_bar[~ALLOWED] == 0)
    pullback = softmax.sparse_softmax_cross_entropy_vjp(junk, TARGETS, 2, mask=ALLOWED)[1]
    assert np.all(np.isfinite(pullback(np.array([1.0, np.nan]))[0]))
    (s_bar,) = pullback(np.array([np.nan, np.nan]))
    assert np.all(s_bar[~ALLOWED] == 0)
    (x_bar,) = softmax.masked_softmax_vjp(junk, ALLOWED)[1](np.full(ROWS.shape, np.nan))
    assert np.all(x_bar[~ALLOWED] == 0)


@pytest.mark.parametrize("gap", [30.0, 200.0])
def test_nothing_cancels_where_the_target_is_nearly_certain(gap: float) -> None:
    """p_t - 1 is -Σ of the other weights: right to some units in the last place where 1 - p_t is exp(-gap)."""
    logits, targets = np.array([[gap, 0.0, -1.0]]), np.array([0])
    others = math.exp(-gap) + math.exp(-gap - 1)
    for bar in (
        softmax.cross_entropy_vjp(logits, targets)[1](np.ones(1))[0],
        softmax.sparse_softmax_cross_entropy_vjp(logits, targets, 3)[1](np.ones(1))[0],
    ):
        assert abs(bar[0, 0] / (-others / (1 + others)) - 1) <= 16 * 2.0**-53


def test_ties_of_balls_that_are_not_exact_are_undecided() -> None:
    wide = truth.balls(np.array([[1.0, 1.0, 0.0]]), 2.0**-20)
    with _refused(errors.UndecidedError, "undecided: which entries are the largest"):
        softmax.sparse_softmax_vjp(wide, 1)


def test_the_recorded_gradient_of_the_sparse_loss(shared: Any) -> None:
    """The mean over trained positions, against TensorFlow's gradient; the largest number is 1/15, and each is some ten roundings from the truth."""
    recorded = np.load(shared("spaces") / "loss.npz")
    real = (recorded["segment_ids"][:, :-1] * recorded["segment_ids"][:, 1:]).astype(bool)
    for key, k in (("", 10), ("_k1", 1), ("_k3", 3), ("_k30", 30)):
        rule = softmax.sparse_softmax_cross_entropy_vjp
        logits, targets = recorded["logits"][:, :-1], recorded["token_ids"][:, 1:]
        losses, pullback = rule(logits, targets, k, mask=real[..., None])
        (bar,) = pullback(np.full(losses.shape, 1 / real.sum()))
        assert np.max(abs(bar - recorded[f"dlogits{key}"][:, :-1])) < 32 * 2.0**-53


# --- positions ----------------------------------------------------------------------------------------------------------------------

TABLE = np.array([[0.5, -1.0], [2.0, 0.25], [-3.0, 1.5]])
AT = np.array([[0, 8, 2, 2], [3, 7, 1, 5]])


@pytest.mark.parametrize("system", SYSTEMS)
def test_rules_of_positions_on_every_number_system(system: System) -> None:
    for alpha in (0.4, Fraction(3, 4), 2):
        check_rule(system, positions.hierarchical_bases, TABLE, alpha)
        check_rule(system, positions.hierarchical_positions, TABLE, AT, alpha)
    check_rule(system, positions.hierarchical_bases, TABLE[:1])
    check_rule(system, positions.hierarchical_positions, TABLE[:1], np.array([0, 0]))


def test_rules_of_positions_are_derivatives() -> None:
    for alpha in (0.4, Fraction(3, 4), -1.5):
        check_slope(positions.hierarchical_bases, TABLE, alpha)
        check_slope(positions.hierarchical_positions, TABLE, AT, alpha)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_the_cotangent_of_positions_is_the_transposed_matrix(at: list[int]) -> None:
    """The map from the table to the positions is linear, so its matrix is what it makes of the unit vectors; α = 3/4 is exact, β = 3."""
    matrix = np.stack([positions.hierarchical_positions(unit[:, None], at, 0.75)[:, 0] for unit in np.eye(3)], axis=1)
    bar = np.arange(1.0, len(at) + 1)[:, None] * np.array([1.0, -2.0])
    (found,) = positions.hierarchical_positions_vjp(TABLE, at, 0.75)[1](bar)
    assert np.array_equal(found, matrix.T @ bar)


class _Weights(NamedTuple):
    token_embedding: Any
    position_embedding: Any


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_rule_of_extended_weights_on_every_number_system(system: System) -> None:
    for dtype in system.dtypes:
        words, table = (
            system.floats([[1.0, 2.0]], dtype),
            system.floats(np.concatenate([[[7.0, 7.0]] * 2, TABLE]), dtype),
        )
        longer, pullback = gradients.vjp(positions.extend, _Weights(words, table), to=8, offset=2)
        plain = positions.extend(_Weights(words, table), to=8, offset=2)
        for one, other in zip(leaves(longer), leaves(plain), strict=True):
            assert _same(np.asarray(system.back(one)), np.asarray(system.back(other)))
        bar = mapped(lambda part, kind=dtype: system.floats(_bars(part), kind), longer)
        (found,) = pullback(bar)
        later = positions.hierarchical_positions_vjp(table[2:, :], list(range(8)))[1](bar.position_embedding[2:, :])[0]
        assert _same(np.asarray(system.back(found.token_embedding)), np.asarray(system.back(bar.token_embedding)))
        got = np.asarray(system.back(found.position_embedding))
        assert _same(got[:2], np.asarray(system.back(bar.position_embedding))[:2])
        assert _same(got[2:], np.asarray(system.back(later)))


def test_relative_positions_have_no_rule() -> None:
    with _refused(errors.ConfigError, "no rule says how this is differentiated", "positions.relative_positions"):
        gradients.vjp(positions.relative_positions, 1, 1, 2, like=TABLE)


# --- the error function -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_rules_of_the_error_function_on_every_number_system(system: System) -> None:
    x = np.array([-4.0, -0.75, -0.0, 0.0, 1e-3, 1.5, 5.0])
    for definition in (special.erf, special.erfc):
        check_rule(system, definition, x)


def test_rules_of_the_error_function_are_derivatives_and_vanish_far_out() -> None:
    for definition in (special.erf, special.erfc):
        check_slope(definition, np.array([-4.0, -0.75, 0.0, 1.5, 9.0]))
        (bar,) = gradients.vjp(definition, np.array([-1e300, 1e200, np.inf, np.nan]))[1](np.ones(4))
        assert np.array_equal(bar[:3], np.zeros(3))
        assert np.isnan(bar[3])


# --- convolutions -------------------------------------------------------------------------------------------------------------------


def _layer(width: int = 2) -> tuple[Any, ...]:
    rng = np.random.default_rng(11)
    shapes = ((2, 5, 3), (3, 3, 2 * width), (2 * width,), (width,), (width,), (1,), (3, width))
    return tuple(rng.normal(size=shape) for shape in shapes)


PADDING = np.array([[True] * 5, [True] * 3 + [False] * 2])


@pytest.mark.parametrize("system", SYSTEMS)
def test_rules_of_convolutions_on_every_number_system(system: System) -> None:
    x, kernel, bias, *rest = _layer()
    check_rule(system, convolution.dilated_convolution, x, kernel, bias, 2)
    check_rule(system, convolution.gated_linear_unit, x[..., :2])
    check_rule(system, convolution.gated_convolution, x, kernel, bias, *rest, dilation=2, mask=PADDING)


def test_rules_of_convolutions_are_derivatives() -> None:
    x, kernel, bias, *rest = _layer()
    for taps, dilation in ((3, 1), (3, 2), (2, 1), (2, 3), (1, 4)):
        check_slope(convolution.dilated_convolution, x, kernel[:taps], bias, dilation)
    check_slope(convolution.gated_linear_unit, x[..., :2])
    check_slope(convolution.gated_convolution, x, kernel, bias, *rest, dilation=2, mask=PADDING)
    same = _layer(3)
    x_bar, *others = convolution.gated_convolution_vjp(*same[:6], dilation=2)[1](np.ones((2, 5, 3)))
    unit = convolution.gated_convolution_vjp(*same[:6], np.eye(3), dilation=2)[1](np.ones((2, 5, 3)))
    assert others[-1] is None
    assert all(np.array_equal(one, other) for one, other in zip((x_bar, *others[:-1]), unit[:-1], strict=True))


whole_shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))


@given(whole_shapes, st.integers(1, 4))
def test_the_cotangents_of_a_convolution_are_its_adjoints(shape: tuple[int, ...], taps: int) -> None:
    """ȳᵀ conv(v, W) = x̄ᵀ v and ȳᵀ conv(x, V) = W̄ᵀ V, exactly, in whole numbers."""
    batch, n, dilation, width, seed = shape
    rng = np.random.default_rng(seed)

    def whole(*sizes: int) -> Any:
        return rng.integers(-9, 10, sizes).astype(float)

    x, v, kernel, other, bias = whole(batch, n, width), whole(batch, n, width), *whole(2, taps, width, 2), whole(2)
    y, pullback = convolution.dilated_convolution_vjp(x, kernel, bias, dilation)
    bar = whole(*y.shape)
    x_bar, kernel_bar, bias_bar = pullback(bar)
    nothing = np.zeros(2)
    assert np.sum(bar * convolution.dilated_convolution(v, kernel, nothing, dilation)) == np.sum(x_bar * v)
    assert np.sum(bar * convolution.dilated_convolution(x, other, nothing, dilation)) == np.sum(kernel_bar * other)
    assert np.array_equal(bias_bar, bar.sum(axis=(0, 1)))


def test_padding_has_no_gradient_whatever_it_holds() -> None:
    x, *rest = _layer()
    junk = np.where(PADDING[..., None], x, np.nan)
    bars = [
        convolution.gated_convolution_vjp(z, *rest, dilation=2, mask=PADDING)[1](np.ones((2, 5, 2)))
        for z in (junk, np.where(PADDING[..., None], x, 0.0))
    ]
    assert all(np.array_equal(one, other) for one, other in zip(*bars, strict=True))
    assert np.all(bars[0][0][~PADDING] == 0)
    through = convolution.gated_convolution_vjp(junk, *rest, mask=PADDING)[1](np.full((2, 5, 2), np.nan))[0]
    assert np.all(through[~PADDING] == 0)


def test_the_weight_of_the_gated_part_leaves_zero_by_what_the_norm_gives() -> None:
    """At α = 0, where it begins, the layer's input has the cotangent of its projection alone, and only α moves."""
    x, kernel, bias, scale, shift, _, projection = _layer()
    weights = kernel, bias, scale, shift, np.zeros(1), projection
    bar = np.ones((2, 5, 2))
    x_bar, kernel_bar, bias_bar, scale_bar, shift_bar, alpha_bar, _ = convolution.gated_convolution_vjp(x, *weights)[1](
        bar
    )
    assert np.array_equal(x_bar, bar @ projection.T)
    assert not any(np.any(part) for part in (kernel_bar, bias_bar, scale_bar, shift_bar))
    assert alpha_bar != 0


# --- losses -------------------------------------------------------------------------------------------------------------------------

SEGMENTS = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
LABELS = np.array([[0, 1, 2, 0, 1], [2, 1, 0, 0, 2]])
SAID = np.array([[3, 0, 2, 1, 0, 0], [1, 1, 2, 0, 3, 2]])


def _logits(*shape: int) -> Any:
    """Multiples of 1/256 between -4 and 4, of which no two in a row are equal."""
    rng = np.random.default_rng(5)
    rows = [rng.choice(2048, shape[-1], replace=False) for _ in range(math.prod(shape[:-1]))]
    return (np.reshape(rows, shape) - 1024) / 256


@pytest.mark.parametrize("system", SYSTEMS)
def test_rules_of_the_losses_on_every_number_system(system: System) -> None:
    tags, logits = _logits(2, 6, 3), _logits(2, 6, 4)
    check_rule(system, copying.copy_loss, tags, LABELS, SEGMENTS)
    check_rule(system, copying.copy_loss, tags, LABELS, SEGMENTS, clip=0.02)
    check_rule(system, copying.sequence_loss, logits, SAID, SEGMENTS, 2)
    check_rule(system, copying.spaces_loss, logits, tags, SAID, LABELS, SEGMENTS, k=2)
    check_rule(system, softmax.clipped_cross_entropy, logits, SAID, 0.05)


def test_rules_of_the_losses_are_derivatives() -> None:
    tags, logits = _logits(2, 6, 3), _logits(2, 6, 4)
    for dialect in copying.dialects:
        check_slope(copying.copy_loss, tags, LABELS, SEGMENTS, dialect=dialect)
    check_slope(copying.copy_loss, tags, LABELS, SEGMENTS, clip=0.02)
    check_slope(copying.sequence_loss, logits, SAID, SEGMENTS, 2)
    check_slope(copying.spaces_loss, logits, tags, SAID, LABELS, SEGMENTS, k=2, copy_weight=0.75, clip=0.02)
    for clip in (1e-7, 0.05, 0.2, 0.49):
        check_slope(softmax.clipped_cross_entropy, 3 * logits, SAID, clip)


@example(np.array([[23.0, -14.0, 7.0, -14.0], [-14.0] * 4]), 1e-7)  # the target is clipped, and far below the others
@given(hnp.arrays(np.float64, (2, 4), elements=st.floats(-30, 30)), st.sampled_from([1e-7, 0.01, 0.2]))
def test_a_clipped_loss_is_that_of_clipped_probabilities(logits: Any, clip: float) -> None:
    """Bounded by log((1 + (n-2) c)/c), with cotangents that add up to 0; where nothing is clipped, the plain loss."""
    targets = np.array([1, 3])
    loss, pullback = softmax.clipped_cross_entropy_vjp(logits, targets, clip)
    q = np.clip(softmax.softmax(logits), clip, 1 - clip)
    assert np.array_equal(loss, np.log(q.sum(axis=-1) / q[[0, 1], targets]))
    assert np.all(loss <= math.log((1 + 2 * clip) / clip) + 1e-14)
    (bar,) = pullback(np.ones(2))
    assert np.all(abs(bar.sum(axis=-1)) <= 16 * 2.0**-53)
    assert np.all(bar[[0, 1], targets] <= 0)
    plain, to_logits = softmax.cross_entropy_vjp(logits, targets)
    for i, row in enumerate(softmax.softmax(logits)):
        if np.all((row >= clip) & (row <= 1 - clip)):
            assert abs(loss[i] - plain[i]) <= 32 * 2.0**-53 * (1 + plain[i])
            assert np.max(abs(bar[i] - to_logits(np.ones(2))[0][i])) <= 32 * 2.0**-53


def test_a_hopeless_target_is_hardly_learned_where_probabilities_are_clipped() -> None:
    logits, targets = np.array([[15.0, -5.0, 2.0], [20.0, 0.0, 0.0]]), np.array([1, 1])
    (clipped,) = softmax.clipped_cross_entropy_vjp(logits, targets)[1](np.ones(2))
    (plain,) = softmax.cross_entropy_vjp(logits, targets)[1](np.ones(2))
    assert plain[:, 1] == pytest.approx(-1)
    assert -1e-7 < clipped[0, 1] < 0
    assert np.all(clipped[1] == 0)  # all three are clipped


def test_what_is_not_trained_has_no_gradient_whatever_it_holds() -> None:
    tags, logits, trained = _logits(2, 6, 3), _logits(2, 6, 4), np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
    predicted = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool)
    for clip in (0.0, 1e-7):
        loss, pullback = copying.copy_loss_vjp(np.where(trained[..., None], tags, np.nan), LABELS, SEGMENTS, clip=clip)
        (bar,) = pullback(np.asarray(1.0))
        assert np.isfinite(loss)
        assert np.array_equal(np.any(bar != 0, axis=-1), trained)
    loss, pullback = copying.sequence_loss_vjp(np.where(predicted[..., None], logits, np.nan), SAID, SEGMENTS, 2)
    (bar,) = pullback(np.asarray(1.0))
    assert np.isfinite(loss)
    assert np.array_equal(np.any(bar != 0, axis=-1), predicted)


def test_the_recorded_losses_and_gradients_of_spaces(shared: Any) -> None:
    """Of the released code in TensorFlow, float64. It is handed probabilities p; with z = log p, p̄ = z̄/p.

    The bounds are some tens of roundings of the largest number: 8.4, 1 and, for p̄, 29.3.
    """
    recorded = np.load(shared("spaces") / "loss.npz")
    names = ("logits", "bio", "token_ids", "labels", "segment_ids")
    logits, bio, said, labels, segments = (recorded[name] for name in names)
    for dialect in copying.dialects:
        for k, key in ((10, ""), (1, "_k1"), (3, "_k3"), (30, "_k30")):
            loss, pullback = copying.sequence_loss_vjp(logits, said, segments, k)
            assert abs(loss - recorded[f"seq2seq_loss{key}"]) <= 64 * 2.0**-53
            assert np.max(abs(pullback(np.asarray(1.0))[0] - recorded[f"dlogits{key}"])) <= 32 * 2.0**-53
        loss, pullback = copying.copy_loss_vjp(np.log(bio), labels, segments, dialect=dialect)
        assert abs(loss - recorded["copy_loss"]) <= 64 * 2.0**-53
        difference = pullback(np.asarray(1.0))[0] / bio - recorded["dbio"]
        assert np.max(abs(difference)) <= 64 * 2.0**-53 * np.max(abs(recorded["dbio"]))
        whole = copying.spaces_loss(logits, np.log(bio), said, labels, segments, dialect=dialect)
        assert abs(whole - recorded["total"]) <= 64 * 2.0**-53 * recorded["total"]


def test_the_losses_refuse_in_words() -> None:
    tags, logits = np.zeros((1, 3, 3)), np.zeros((1, 3, 4))
    labels, segments, said = [[0, 1]], [[0, 1, 1]], [[3, 2, 1]]
    for clip in (-0.1, 0.5, math.nan, True, "1e-7"):
        with _refused(errors.ConfigError, "there is no such clip", "0 <= clip < 1/2", repr(clip)):
            copying.copy_loss(tags, labels, segments, clip=clip)
    with _refused(errors.ConfigError, "unknown dialect", "copying", "corrected, bert4keras-spaces", "'spaces'"):
        copying.copy_loss(tags, labels, segments, dialect="spaces")
    for clip in (0.0, 0.5, 1, None):
        with _refused(errors.ConfigError, "cannot be clipped by this", "0 < clip < 1/2", repr(clip)):
            softmax.clipped_cross_entropy(tags, np.zeros((1, 3), int), clip)
    with _refused(errors.TokenError, "nothing is trained", "sequence_loss(segment_ids)", "two 1 beside each other"):
        copying.sequence_loss(logits, said, [[0, 1, 0]])
    with _refused(errors.ShapeError, "logits must have three axes", "(batch, n, vocab)", "(3, 4)"):
        copying.sequence_loss(logits[0], said, segments)
    with _refused(errors.TokenError, "out of range", "token_ids[0, 0]", "0 <= it < 4", "4"):
        copying.sequence_loss(logits, [[4, 2, 1]], segments)
    for weight in (math.inf, True, "2"):
        with _refused(errors.ConfigError, "the weight of the copy loss", "copy_weight", repr(weight)):
            copying.spaces_loss(logits, tags, said, labels, segments, copy_weight=weight)
    wide = truth.balls(np.array([[1.0, 0.0]]), 2.0**-20)
    with _refused(errors.UndecidedError, "undecided"):
        softmax.clipped_cross_entropy(wide, np.array([0]), float(softmax.softmax(np.array([1.0, 0.0]))[1]))


# --- Mitchell's arithmetic ----------------------------------------------------------------------------------------------------------

FACTORS = np.array([1.25, -3.5, 0.40625, 100.0, -0.875, 5.5])  # fractions are multiples of 1/16
OTHERS = (
    np.array([-354.0, 141.0, 1592.0, -20.125, -924.0, 153.0]) / 128
)  # odd ones of 1/128: no sum or difference is a kink


@pytest.mark.parametrize("system", SYSTEMS)
def test_surrogate_rules_on_every_number_system(system: System) -> None:
    """Slopes on all of them; what else a rule does is done by definitions, which are tested elsewhere."""
    for surrogate in mitchell_gradients.SURROGATES if system.name in ("numpy", "cupy", "balls") else ("slope",):
        check_rule(system, mitchell.multiply, FACTORS, OTHERS[:3, None], surrogate=surrogate)
        check_rule(system, mitchell.divide, FACTORS, OTHERS, surrogate=surrogate)
        check_rule(system, mitchell.matmul, FACTORS[:4].reshape(2, 2), OTHERS[:2, None], surrogate=surrogate)
        check_rule(system, mitchell.log2_approx, abs(FACTORS), surrogate=surrogate)
        check_rule(system, mitchell.exp2_approx, OTHERS, surrogate=surrogate)


def test_slopes_are_derivatives_inside_a_piece() -> None:
    check_slope(mitchell.multiply, FACTORS, OTHERS[:, None])
    check_slope(mitchell.divide, FACTORS, OTHERS[:, None])
    check_slope(mitchell.matmul, FACTORS.reshape(2, 3), OTHERS.reshape(3, 2))
    check_slope(mitchell.log2_approx, abs(FACTORS))
    check_slope(mitchell.exp2_approx, OTHERS)


whole_mantissas, exponents, signs = st.integers(64, 127), st.integers(-20, 20), st.sampled_from([-1.0, 1.0])


@example(96, 96, 3, -2, 1.0, -1.0)  # f + g = 1, f = g
@example(64, 64, 0, 0, -1.0, 1.0)  # powers of two
@given(whole_mantissas, whole_mantissas, exponents, exponents, signs, signs)
def test_a_slope_is_what_a_step_away_from_zero_makes(m: int, n: int, e: int, h: int, s: float, t: float) -> None:
    """f(x + d) - f(x) = slope · d, without rounding, for a d that reaches no kink; where f = g the divisor's is that behind it."""
    x, y = np.array([s * m * 2.0 ** (e - 6)]), np.array([t * n * 2.0 ** (h - 6)])
    one, d = np.ones(1), s * 2.0 ** (e - 8)
    product, to_factors = mitchell_gradients.multiply_vjp(x, y)
    assert mitchell.multiply(x + d, y) - product == to_factors(one)[0] * d
    quotient, to_both = mitchell_gradients.divide_vjp(x, y)
    assert mitchell.divide(x + d, y) - quotient == to_both(one)[0] * d
    d = t * 2.0 ** (h - 8)
    ahead, behind = ((mitchell.divide(x, y + step) - quotient) / step for step in (d, -d))
    if m != n:
        assert to_both(one)[1] == ahead
    elif m > 64:
        assert to_both(one)[1] == behind
    else:  # of neither piece, and between them
        assert abs(ahead) < abs(to_both(one)[1]) < abs(behind)
    logarithm, to_argument = mitchell_gradients.log2_approx_vjp(abs(x))
    assert mitchell.log2_approx(abs(x) + 2.0 ** (e - 8)) - logarithm == to_argument(one)[0] * 2.0 ** (e - 8)
    z = s * np.array([m / 8])
    power, to_exponent = mitchell_gradients.exp2_approx_vjp(z)
    assert mitchell.exp2_approx(z + 2.0**-8) - power == to_exponent(one)[0] * 2.0**-8


@given(whole_mantissas, exponents)
def test_over_a_binade_the_mean_slope_of_a_product_is_the_other_factor(n: int, h: int) -> None:
    """And of a logarithm's the true one's: what one octave adds, 1, over its length. Slopes of the 64 numbers from 1, each up to the next."""
    x, y = np.arange(64, 128) / 64, n * 2.0 ** (h - 6)
    (slopes, _) = mitchell_gradients.multiply_vjp(x, np.full(64, y))[1](np.ones(64))
    assert np.mean(slopes) == y
    assert set(slopes) <= {2.0**h, 2.0 ** (h + 1)}


@given(
    whole_mantissas, whole_mantissas, whole_mantissas, exponents, exponents, st.sampled_from(list(mitchell.dialects))
)
def test_the_approximate_rule_is_made_of_the_same_products(
    m: int, n: int, c: int, e: int, h: int, dialect: str
) -> None:
    """-Q(P(a, c̄), P(b, b)) is the other published form of the divisor's, and the same number, since logarithms only add up."""
    x, y, bar = (np.array([k * 2.0 ** (i - 6)]) for k, i in ((m, e), (n, h), (c, 2)))
    found = mitchell_gradients.multiply_vjp(x, y, dialect=dialect, surrogate="approximate")[1](bar)
    assert found == (mitchell.multiply(bar, y), mitchell.multiply(bar, x))
    if dialect != "semimul":
        found = mitchell_gradients.divide_vjp(x, y, dialect=dialect, surrogate="approximate")[1](bar)
        square = mitchell.multiply(y, y)
        assert found == (mitchell.divide(bar, y), -mitchell.divide(mitchell.multiply(x, bar), square))
    true = mitchell_gradients.multiply_vjp(x, y, dialect=dialect, surrogate="straight-through")[1](bar)
    assert true == (bar * y, bar * x)
    assert 8 / 9 <= mitchell.multiply(bar, y)[0] / true[0][0] <= 1


def test_the_formulas_that_are_no_derivatives() -> None:
    x, bar, ln2 = abs(FACTORS), np.full(6, 1.75), np.full(6, math.log(2))

    def found(definition: Any, surrogate: str, *args: Any) -> Any:
        return gradients.vjp(definition, *args, surrogate=surrogate)[1](bar)

    logarithm = mitchell.divide(mitchell.divide(bar, x), ln2)
    assert np.array_equal(found(mitchell.log2_approx, "approximate", x)[0], logarithm)
    power = mitchell.multiply(mitchell.multiply(mitchell.exp2_approx(OTHERS), ln2), bar)
    assert np.array_equal(found(mitchell.exp2_approx, "approximate", OTHERS)[0], power)
    for answer, true in (
        (found(mitchell.log2_approx, "straight-through", x)[0], bar / (x * ln2)),
        (found(mitchell.exp2_approx, "straight-through", OTHERS)[0], bar * ln2 * 2.0**OTHERS),
        (found(mitchell.divide, "straight-through", x, OTHERS)[0], bar / OTHERS),
        (found(mitchell.divide, "straight-through", x, OTHERS)[1], -bar * x / OTHERS**2),
    ):
        assert np.max(abs(answer / true - 1)) <= 64 * 2.0**-53


def test_values_and_approximate_rules_have_the_edges_of_their_dialect() -> None:
    """16-bit values by the range of their dtype: float16 has no normal number below 2^-14, float32 has."""
    x, y = np.array([2.0**-15, 2.0**-8], np.float16), np.array([4.0, 2.0**-9], np.float16)
    for dialect in ("ieee", "flush"):
        assert _same(
            mitchell_gradients.multiply_vjp(x, y, dialect=dialect)[0], mitchell.multiply(x, y, dialect=dialect)
        )
        assert _same(mitchell_gradients.divide_vjp(x, y, dialect=dialect)[0], mitchell.divide(x, y, dialect=dialect))
    one, tiny = np.ones(1), np.array([1e-30])
    bars = mitchell_gradients.multiply_vjp(one, tiny, dialect="pam", surrogate="approximate")[1](tiny)
    assert [float(bar[0]) > 0 for bar in bars] == [False, True]
    bars = mitchell_gradients.divide_vjp(one, 1 / tiny, dialect="pam", surrogate="approximate")[1](tiny)
    assert [float(bar[0]) for bar in bars] == [0, 0]
    assert mitchell_gradients.divide_vjp(one, 1 / tiny, surrogate="approximate")[1](tiny)[0] > 0


@pytest.mark.parametrize("surrogate", mitchell_gradients.SURROGATES)
def test_the_rule_of_sums_is_the_sum_of_the_rules(surrogate: str) -> None:
    """Cotangents of whole numbers and powers of two, whose sums are exact; approximate sums by `matmul`, straight ones by the library's."""
    a, b = FACTORS.reshape(1, 2, 3), np.stack([OTHERS, OTHERS[::-1]]).reshape(2, 3, 2)
    bar = np.arange(1.0, 9.0).reshape(2, 2, 2)
    found = mitchell_gradients.matmul_vjp(a, b, surrogate=surrogate)[1](bar)
    pairs = mitchell_gradients.multiply_vjp(a[..., None], b[:, None], surrogate=surrogate)[1](
        np.broadcast_to(bar[:, :, None, :], (2, 2, 3, 2))
    )
    assert np.array_equal(found[0], pairs[0][..., 0])
    assert np.array_equal(found[1], pairs[1][:, 0])


def test_slopes_at_zeros_and_what_is_not_finite() -> None:
    nan, inf = math.nan, math.inf
    x, y = np.array([0.0, 3.0, -0.0, inf, 1.0, nan]), np.array([3.0, 0.0, -3.0, 1.0, -inf, 1.0])
    bars = mitchell_gradients.multiply_vjp(x, y)[1](np.ones(6))
    assert np.array_equal(bars, [[2, 0, -2, nan, nan, nan], [0, 2, 0, nan, nan, nan]], equal_nan=True)
    bars = mitchell_gradients.divide_vjp(x, y)[1](np.ones(6))
    assert np.array_equal(bars, [[0.25, nan, -0.25, nan, nan, nan], [0, nan, 0, nan, nan, nan]], equal_nan=True)
    x = np.array([0.0, -1.0, inf, nan, 5e-324, 1.5])
    (bar,) = mitchell_gradients.log2_approx_vjp(x)[1](np.full(6, 2.0**-60))
    assert np.array_equal(bar, [nan, nan, nan, nan, 2.0**1014, 2.0**-60], equal_nan=True)
    x = np.array([-inf, -1e300, -1080.5, 1023.5, 1024.0, nan])
    for surrogate in mitchell_gradients.SURROGATES:
        (bar,) = mitchell_gradients.exp2_approx_vjp(x, surrogate=surrogate)[1](np.ones(6))
        assert np.array_equal(np.isnan(bar), [False] * 4 + [True] * 2)
        assert np.array_equal(bar[:3], [0, 0, 0])


def test_surrogates_are_refused_in_words() -> None:
    x, whole = np.ones((2, 2)), np.ones((2, 2), np.int8)
    for definition in (mitchell.multiply, mitchell.divide, mitchell.matmul):
        with _refused(errors.ConfigError, "unknown surrogate", definition.__name__, "slope, approximate", "'exact'"):
            gradients.vjp(definition, x, x, surrogate="exact")
        with _refused(errors.DtypeError, "a must be real floating point", "int8"):
            gradients.vjp(definition, whole, whole)
    with _refused(errors.ConfigError, "corrected products have no published slope", "approximate, straight-through"):
        gradients.vjp(mitchell.matmul, x, x, corrected=True)
    x = FACTORS[:4].reshape(2, 2)
    bars = gradients.vjp(mitchell.matmul, x, x, corrected=True, surrogate="approximate")[1](x)
    for bar, pair in zip(bars, ((x, x.T), (x.T, x)), strict=True):
        assert np.array_equal(bar, mitchell.matmul(*pair, corrected=True))
    wide = truth.balls(np.array([1.0]), 2.0**-20)
    with _refused(errors.UndecidedError, "undecided"):
        gradients.vjp(mitchell.multiply, wide, wide)


# --- complex steps ------------------------------------------------------------------------------------------------------------------


def test_every_rule_agrees_with_complex_steps() -> None:
    x, kernel, bias, *rest = _layer()
    tags, logits = _logits(2, 6, 3), _logits(2, 6, 4)
    check_complex_step(softmax.sparse_softmax, ROWS, 2, mask=ALLOWED)
    check_complex_step(softmax.sparse_softmax_cross_entropy, ROWS, TARGETS, 2)
    check_complex_step(softmax.clipped_cross_entropy, logits, SAID, 0.05)
    check_complex_step(positions.hierarchical_bases, TABLE)
    check_complex_step(positions.hierarchical_positions, TABLE, AT)
    check_complex_step(special.erf, FACTORS / 20)
    check_complex_step(special.erfc, FACTORS / 20)
    check_complex_step(convolution.dilated_convolution, x, kernel, bias, 2)
    check_complex_step(convolution.gated_linear_unit, x[..., :2])
    check_complex_step(convolution.gated_convolution, x, kernel, bias, *rest, dilation=2, mask=PADDING)
    check_complex_step(copying.copy_loss, tags, LABELS, SEGMENTS)
    check_complex_step(copying.sequence_loss, logits, SAID, SEGMENTS, 2)
    check_complex_step(copying.spaces_loss, logits, tags, SAID, LABELS, SEGMENTS, k=2, clip=0.02)
    check_complex_step(mitchell.multiply, FACTORS, OTHERS[:, None])
    check_complex_step(mitchell.divide, FACTORS, OTHERS)
    check_complex_step(mitchell.matmul, FACTORS.reshape(2, 3), OTHERS.reshape(3, 2))
    check_complex_step(mitchell.log2_approx, abs(FACTORS))
    check_complex_step(mitchell.exp2_approx, OTHERS)


# --- what all rules have in common ------------------------------------------------------------------------------------------------------


def test_ids_of_eight_bits_reach_rows_beyond_255() -> None:
    bar, ids = np.ones((2, 1)), np.array([3, 255], dtype=np.uint8)
    assert np.flatnonzero(gradients.rows_summed(bar, ids, 300)[:, 0]).tolist() == [3, 255]


@pytest.mark.parametrize("system", SYSTEMS)
def test_blocks_of_a_table_have_the_rows_of_the_whole_bit_for_bit(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighths are added exactly, whatever the order; an id that comes twice, and rows that nothing asks for."""
    ids = np.array([[5, 0, 5, 6], [2, 6, 5, 1]])
    bar = np.arange(8.0).reshape(2, 4, 1) / 8 + [0.0, -2.0, 1.0]
    expected = np.zeros((7, 3))
    np.add.at(expected, ids.reshape(-1), bar.reshape(-1, 3))
    for entries in (2**22, 24, 8, 1):  # all seven rows at a time, three, one, and never less than one
        monkeypatch.setattr(gradients, "_ENTRIES", entries)
        found = gradients.rows_summed(system.floats(bar, "float32"), system.to(ids), 7)
        assert np.array_equal(system.back(found), expected), entries


def test_memory_for_the_cotangent_of_a_table_is_bounded() -> None:
    """Of 50 000 rows and 1024 ids the whole one-hot matrix would have 400 MB, one block has 32; half as much for products and masks."""
    bar, ids = np.ones((1024, 2)), np.arange(1024) * 48
    tracemalloc.start()
    try:
        found = gradients.rows_summed(bar, ids, 50_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(np.flatnonzero(found[:, 0]), ids)
    assert peak < 50_000_000


@pytest.mark.parametrize("sixteen", [np.float16, ml_dtypes.bfloat16])
def test_a_cotangent_has_the_dtype_of_its_argument_beside_one_of_16_bits(sixteen: Any) -> None:
    """Of a float32 projection it is the float32 number, not that rounded to 16 bits; likewise of the scale of a layer norm."""
    x, w, scale = (array.astype(kind) for array, kind in ((TABLE, sixteen), (TABLE[:2] / 3, "f4"), (TABLE[0], "f4")))
    bar = (np.arange(2 * len(x)).reshape(-1, 2) / 7).astype(sixteen)
    wide = [array.astype(np.float32) for array in (x, bar)]
    for definition, cotangents, arguments, options in (
        (favor.positive_features, (bar, wide[1]), (w,), {"shift": "row", "epsilon": 1e-4}),
        (favor.relu_features, (bar, wide[1]), (w,), {}),
        (normalization.layer_norm, (x, wide[0]), (scale, scale), {"eps": 1e-5}),
    ):
        value, pullback = gradients.vjp(definition, x, *arguments, **options)
        found, exactly = (
            pullback(cotangents[0]),
            gradients.vjp(definition, wide[0], *arguments, **options)[1](cotangents[1]),
        )
        assert value.dtype == found[0].dtype == sixteen
        assert np.array_equal(found[0], narrowed(exactly[0], np.dtype(sixteen)))
        for bar_of_other, other in zip(found[1:], exactly[1:], strict=True):
            assert bar_of_other.dtype == np.float32
            assert np.array_equal(bar_of_other, other)
    _, pullback = gradients.vjp(favor.relu_features, projection=w, x=x)
    assert pullback(bar)[1].dtype == np.float32


def test_a_function_by_the_name_of_a_definition_has_no_rule() -> None:
    def other(x: Any) -> Any:
        return 2 * x

    other.__module__, other.__qualname__ = softmax.softmax.__module__, softmax.softmax.__qualname__
    for function, told in (
        (other, "another function by the name of softmax.softmax"),
        (functools.partial(other), "partial"),
    ):
        with _refused(errors.ConfigError, "no rule says", told):
            gradients.vjp(function, np.ones(2))


def test_leaves_of_one_name_are_refused_by_name_and_none_is_lost() -> None:
    tree = {"a.b": 1, "a": {"b": 2}}
    assert leaves(tree) == [1, 2]
    with _refused(errors.ConfigError, "two leaves of a tree have one name", "a.b"):
        named_leaves(tree)


def test_weights_without_a_cotangent_have_cotangent_0() -> None:
    weights = bert.BertWeights.from_named(
        {name: np.ones(shape) for name, shape in bert.BertWeights.shapes(SMALL_BERT, ()).items()}, SMALL_BERT
    )
    longer, pullback = positions.extend_vjp(weights, to=8)
    only = mapped(lambda leaf: None, longer)._replace(blocks=longer.blocks)
    (bar,) = pullback(only)
    assert not np.any(bar.position_embedding)
    assert bar.position_embedding.shape == weights.position_embedding.shape
    assert all(map(_same, leaves(bar.blocks), leaves(longer.blocks)))
    mapped(lambda a, b: None, weights, bar)  # of one form


@pytest.mark.parametrize("gap", [40.0, 200.0])
def test_nothing_cancels_where_one_weight_is_nearly_one(gap: float) -> None:
    """x̄ = (q_1 + q_2, -q_1, -q_2)/(1 + q_1 + q_2)² with q = exp(-gap), exp(-gap - 1); the largest is the first entry."""
    x, bar, mask = np.array([gap, 0.0, -1.0]), np.array([1.0, 0, 0]), np.ones(3, bool)
    q = np.exp([-gap, -gap - 1])
    rights = np.array([q.sum(), *-q]) / (1 + q.sum()) ** 2
    pullbacks = [
        softmax.softmax_vjp(x)[1],
        softmax.masked_softmax_vjp(x, mask)[1],
        softmax.sparse_softmax_vjp(x, 3)[1],
    ]
    for pullback in pullbacks:
        np.testing.assert_allclose(pullback(bar)[0], rights, rtol=32 * 2.0**-53)
        np.testing.assert_allclose(pullback(bar + 5)[0], rights, rtol=32 * 2.0**-53)
    logs = np.array([q.sum(), *-q]) / (1 + q.sum())
    np.testing.assert_allclose(softmax.log_softmax_vjp(x)[1](bar)[0], logs, rtol=32 * 2.0**-53)


def test_a_row_with_several_masks_has_one_cotangent() -> None:
    x, mask = np.array([1.0, 2, 3]), np.array([[True, True, False], [False, True, True]])
    p, pullback = softmax.masked_softmax_vjp(x, mask)
    bar = np.arange(6.0).reshape(2, 3)
    apart = softmax.masked_softmax_vjp(np.stack([x, x]), mask)[1](bar)[0]
    assert p.shape == (2, 3)
    assert _same(pullback(bar)[0], apart[0] + apart[1])


def test_the_slope_of_tanh_far_out_is_0_without_a_warning() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert not np.any(activation.tanh_vjp(np.array([1.79e308, -1.79e308]))[1](np.ones(2))[0])


def test_a_slope_keeps_its_digits_where_what_it_is_made_of_is_subnormal() -> None:
    c = 2.0**-600 * (1 + 2.0**-52)
    assert mitchell_gradients.divide_vjp(np.array(2.0**900), np.array(2.0**450))[1](np.array(c))[1] == -c
    assert mitchell_gradients.divide_vjp(np.array(2.0**-1074), np.array(2.0**-20))[1](np.array(c * 2.0**600))[1] == (
        -c * 2.0 ** (600 - 1034)
    )
