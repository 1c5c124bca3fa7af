"""Dilated convolutions and the gated layer: against sums written out, plain convolutions, shifts, padding, and the recorded DGCNN of SPACES."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import weights_io
from refimpl import convolution, errors
from refimpl.activation import sigmoid
from refimpl.normalization import layer_norm
from refimpl.number_system import exact, namespace
from refimpl.trees import mapped
from validation import perturbed, tolerance, truth

if TYPE_CHECKING:
    from systems import System


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _whole(seed: int, *shape: int) -> Any:
    """Whole numbers as floats: sums of their products are exact in every order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(float)


def _written_out(x: Any, kernel: Any, bias: Any, dilation: int) -> Any:
    """Equation (1), one term at a time."""
    y = np.zeros((*x.shape[:-1], kernel.shape[-1])) + bias
    for t in range(x.shape[-2]):
        for i in range(len(kernel)):
            s = t + i * dilation - (len(kernel) - 1) * dilation // 2
            if 0 <= s < x.shape[-2]:
                y[..., t, :] += x[..., s, :] @ kernel[i]
    return y


lengths, taps, dilations, seeds = st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)


@example(1, 1, 1, 0)
@example(9, 4, 3, 0)  # (k-1) r is odd: one zero more behind
@given(lengths, taps, dilations, seeds)
def test_a_convolution_is_the_sum_written_out(n: int, k: int, r: int, seed: int) -> None:
    x, kernel, bias = _whole(seed, 2, n, 3), _whole(seed + 1, k, 3, 2), _whole(seed + 2, 2)
    assert np.array_equal(convolution.dilated_convolution(x, kernel, bias, r), _written_out(x, kernel, bias, r))


@given(lengths, st.sampled_from([1, 3, 5]), dilations, seeds)
def test_dilation_is_plain_convolution_of_every_rth_position(n: int, k: int, r: int, seed: int) -> None:
    """Of an odd number of taps, borders included: position t sees none but those of its own residue modulo r."""
    x, kernel, bias = _whole(seed, n, 3), _whole(seed + 1, k, 3, 2), _whole(seed + 2, 2)
    dilated = convolution.dilated_convolution(x, kernel, bias, r)
    for first in range(min(r, n)):
        assert np.array_equal(dilated[first::r], convolution.dilated_convolution(x[first::r], kernel, bias))


@given(taps, dilations, st.integers(0, 6), seeds)
def test_away_from_the_borders_a_shift_of_the_input_is_one_of_the_output(k: int, r: int, by: int, seed: int) -> None:
    x, kernel, bias = _whole(seed, 30, 2), _whole(seed + 1, k, 2, 2), _whole(seed + 2, 2)
    y, moved = (convolution.dilated_convolution(z, kernel, bias, r) for z in (x, np.roll(x, by, axis=0)))
    reach = (k - 1) * r
    inner = slice(reach + by, 30 - reach)
    assert np.array_equal(np.roll(y, by, axis=0)[inner], moved[inner])
    assert inner.start < inner.stop or 2 * reach + by >= 30


def test_each_number_system_has_its_budget(system: System) -> None:
    rng = np.random.default_rng(1)
    x, kernel, rest = rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 3, 4)), rng.normal(size=11)
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    bias, scale, shift, alpha, projection = rest[:4], rest[4:6], rest[6:8], rest[8:9], rng.normal(size=(3, 2))
    for definition, arrays, options in (
        (convolution.dilated_convolution, (x, kernel, bias), {"dilation": 2}),
        (convolution.gated_linear_unit, (x @ kernel[0],), {}),
        (
            convolution.gated_convolution,
            (x, kernel, bias, scale, shift, alpha, projection),
            {"mask": mask, "dilation": 2},
        ),
    ):
        for dtype in system.dtypes:
            given = [system.floats(a, dtype) for a in arrays]
            kept = {name: system.to(v) if name == "mask" else v for name, v in options.items()}
            wide = [np.asarray(system.back(a), np.float64) for a in given]
            answer = np.asarray(system.back(definition(*given, **kept))).astype(tolerance.DTYPES[dtype])
            budget = tolerance.proved_budget(definition, *wide, dtype=dtype, **options)
            with truth.precision(256):
                known = definition(*map(truth.balls, wide), **options)
            verdict = tolerance.judge(answer, known, budget, dtype)
            assert verdict.passed, (definition.__name__, dtype, verdict)


def test_without_weight_the_layer_is_its_input_and_with_it_the_norm_is_added() -> None:
    x, kernel, bias, scale, shift = (_whole(i, *s) for i, s in enumerate([(4, 2), (3, 2, 4), (4,), (2,), (2,)]))
    zero, one = np.zeros(1), np.ones(1)
    assert np.array_equal(convolution.gated_convolution(x, kernel, bias, scale, shift, zero), x)
    halves = convolution.dilated_convolution(x, kernel, bias)
    gated = halves[:, :2] * sigmoid(halves[:, 2:])
    added = convolution.gated_convolution(x, kernel, bias, scale, shift, one)
    assert np.array_equal(added, x + layer_norm(gated, scale, shift, 1e-12))
    mapped = convolution.gated_convolution(x, kernel, bias, scale, shift, zero, np.array([[0.0, 1.0], [2.0, 0.0]]))
    assert np.array_equal(mapped, x[:, ::-1] * np.array([2.0, 1.0]))


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e308])
def test_what_padding_holds_has_no_influence_and_reaches_no_token(junk: float, system: System) -> None:
    mask = np.array([[True] * 4 + [False] * 3])
    x, dtype = _whole(0, 1, 7, 2), system.dtypes[-1]
    if abs(junk) > 1e300 and dtype == "float32":
        junk = np.inf
    weights = [system.floats(_whole(9 + i, *s), dtype) for i, s in enumerate([(3, 2, 4), (4,), (2,), (2,), (1,)])]
    given = [system.floats(np.where(mask[..., None], x, value), dtype) for value in (junk, 0.0)]
    one, other = (
        np.asarray(
            system.back(convolution.gated_convolution(z, *weights, dilation=2, mask=system.to(mask))), np.float64
        )
        for z in given
    )
    assert np.array_equal(one, other)
    alone = convolution.gated_convolution(given[1][:, :4, :], *weights, dilation=2)
    near = np.asarray(system.back(alone), np.float64)
    assert np.allclose(one[:, :4], near, rtol=0, atol=64 * tolerance.roundoff(dtype) * abs(near).max())


def _network(x: Any, mask: Any, weights: Any, eps: float) -> Any:
    """The extractor of SPACES: a dense layer, six gated ones, a dense one and a sigmoid."""
    first, layers, last = weights
    xp = namespace(x)
    x = xp.matmul(xp.where(mask[..., None], x, exact(0, x)), first)
    for parts, dilation in zip(layers, (1, 2, 4, 8, 1, 1), strict=True):
        x = convolution.gated_convolution(x, *parts, dilation=dilation, mask=mask, eps=eps)
    return sigmoid(xp.matmul(x, last[0]) + last[1])


def _weights_of_spaces(file: Any) -> Any:
    """The network's weights as float64, by the names that Keras wrote."""

    def arrays(*names: str) -> Any:
        return tuple(np.asarray(file[f"{name}:0"], np.float64) for name in names)

    layers = []
    for i in range(6):
        end = f"_{i}" if i else ""
        at = f"residual_gated_conv1d{end}/residual_gated_conv1d{end}"
        parts = f"conv1d{end}/kernel", f"conv1d{end}/bias"
        norm = (f"layer_normalization{end}/{name}" for name in ("gamma", "beta"))
        layers.append(arrays(*(f"{at}/{name}" for name in (*parts, *norm, "alpha"))))
    return arrays("dense/dense/kernel")[0], layers, arrays("dense_1/dense_1/kernel", "dense_1/dense_1/bias")


def test_the_recorded_network_of_spaces(shared: Any) -> None:
    """TensorFlow's float64 answers, with the layer norms of bert4keras 0.9 and of 0.11.5: 3.5e-7 apart.

    This package and TensorFlow are each within the sampled budget of what rounding can do in the whole network, and so within twice of each other.
    """
    recorded = np.load(shared("spaces") / "dgcnn.npz")
    weights = _weights_of_spaces(weights_io.open(shared("spaces") / "dgcnn_weights.h5"))
    x = np.asarray(recorded["x"], np.float64)
    mask = np.any(x != 0, axis=-1)
    assert mask.sum(axis=1).tolist() == [25, 18, 4]

    def run(wrap: Any) -> Any:
        return _network(wrap(x), wrap(mask), mapped(wrap, weights), 1e-12)

    deviation = perturbed.sampled_deviation(run, roundoff=tolerance.roundoff("float64"))
    budget = perturbed.sigmas(deviation.size) * deviation + tolerance.roundoff("float64")
    assert np.max(budget) < 1e-13
    for key, eps in (("y", 1e-12), ("y0115", 1e-7)):
        assert np.all(abs(_network(x, mask, weights, eps) - recorded[key]) <= 2 * budget)


# --- what is refused ------------------------------------------------------------------------------------------------------------------


def test_convolutions_refuse_in_words(system: System) -> None:
    def zeros(*shape: int) -> Any:
        return system.floats(np.zeros(shape), system.dtypes[-1])

    x, kernel, bias = zeros(1, 4, 3), zeros(2, 3, 4), zeros(4)
    for dilation in (0, -1, 1.5, True, None):
        with _refused(errors.ConfigError, "dilation must be a distance", "an int from 1", repr(dilation)):
            convolution.dilated_convolution(x, kernel, bias, dilation)
    for arrays in ((x, zeros(2, 2, 4), bias), (x, kernel, zeros(3)), (zeros(3), kernel, bias), (x, zeros(3, 4), bias)):
        with _refused(
            errors.ShapeError, "the shapes do not convolve", "kernel (k, in, out)", str(tuple(arrays[1].shape))
        ):
            convolution.dilated_convolution(*arrays)
    with _refused(errors.DtypeError, "x must be real floating point", "int64"):
        convolution.dilated_convolution(system.to(np.zeros((4, 3), np.int64)), kernel, bias)
    for shape in ((2, 3), (2, 0), ()):
        if shape == (2, 3) or not system.is_ball:
            with _refused(errors.ShapeError, "there are no two halves", "(..., 2w)", str(shape)):
                convolution.gated_linear_unit(zeros(*shape))


def test_the_gated_layer_refuses_in_words(system: System) -> None:
    def zeros(*shape: int) -> Any:
        return system.floats(np.zeros(shape), system.dtypes[-1])

    def layer(x: Any, alpha: Any, projection: Any = None, mask: Any = None) -> Any:
        weights = zeros(3, 3, 4), zeros(4), zeros(2), zeros(2)
        return convolution.gated_convolution(x, *weights, alpha, projection, mask=mask)

    x, alpha, projection = zeros(1, 4, 3), zeros(1), zeros(3, 2)
    with _refused(errors.ShapeError, "alpha is one number", "(1,)", "(2,)"):
        layer(x, zeros(2), projection)
    with _refused(errors.ShapeError, "the widths differ", "an input of width 2", "(1, 4, 3)", "give projection="):
        layer(x, alpha)
    with _refused(errors.ShapeError, "the projection does not fit", "(3, 2)", "(2, 3)"):
        layer(x, alpha, zeros(2, 3))
    with _refused(errors.DtypeError, "a mask must be boolean", "gated_convolution", "int64"):
        layer(x, alpha, projection, system.to(np.ones((1, 4), np.int64)))
    with _refused(errors.ShapeError, "one entry for each position", "(1, 4)", "(4,)"):
        layer(x, alpha, projection, system.to(np.ones(4, bool)))
