"""Dilated gated convolutions: the layer of the DGCNN with which SPACES chooses sentences.

    y_t = b + Σ_{i<k} x_{t+ir-l} W_i,   l = ⌊(k-1) r/2⌋                     dilation r; x_s = 0 before the sequence and behind it          (1)
    GLU([a, g]) = a ⊙ σ(g)                                                                                                         (2)
    y = x P + α LN(GLU(conv(x)))                                            P = I where the widths are equal                          (3)

(1) has k taps that are r apart, and as many positions as x ("same" padding); it is a correlation, as in every framework: W is not flipped. Where
(k-1) r is odd there is one zero more behind than before. The gate g of (2) is the second half of the convolution's columns. In (3), x is zero at
padding, which therefore reaches no real position; α is one number for all channels and starts at 0, where the layer is x P. The gated part is
added, not mixed in: x has no weight 1 - σ(g).

References: J. Su, "SPACES: extract-generate long text summarization" (in Chinese), Scientific Spaces 8046 (2021), and the layer
ResidualGatedConv1D of github.com/bojone/SPACES at a545db3; J. Gehring et al., "Convolutional sequence to sequence learning", arXiv 1705.03122,
section 3.2; Y. N. Dauphin et al., "Language modeling with gated convolutional networks", arXiv 1612.08083, eq. (1); F. Yu and V. Koltun,
"Multi-scale context aggregation by dilated convolutions", arXiv 1511.07122, eq. (2).
"""

from __future__ import annotations

from typing import Any

from refimpl.activation import sigmoid
from refimpl.errors import ConfigError, ShapeError
from refimpl.gradients import Pullback, products_summed, summed_to, vjp_of
from refimpl.normalization import layer_norm, layer_norm_vjp
from refimpl.number_system import (
    Array,
    check_boolean,
    check_floating,
    device_of,
    exact,
    namespace,
    products_of,
    rounded_once,
    whole_number,
)

__all__ = [
    "dilated_convolution",
    "dilated_convolution_vjp",
    "gated_convolution",
    "gated_convolution_vjp",
    "gated_linear_unit",
    "gated_linear_unit_vjp",
]


def _check_convolution(x: Array, kernel: Array, bias: Array, dilation: Any) -> None:
    check_floating("x", x)
    whole, where = whole_number(dilation), "dilated_convolution"
    if whole is None or whole < 1:
        raise ConfigError("dilation must be a distance", where=where, expected="an int from 1", got=repr(dilation))
    fits = x.ndim > 1 and kernel.ndim == 3 and kernel.shape[0] > 0 and x.shape[-1] == kernel.shape[1]
    if not fits or tuple(bias.shape) != tuple(kernel.shape[2:]):
        expected = "x (..., n, in), kernel (k, in, out) with k >= 1, bias (out,)"
        got = f"x {tuple(x.shape)}, kernel {tuple(kernel.shape)}, bias {tuple(bias.shape)}"
        raise ShapeError("the shapes do not convolve", where=where, expected=expected, got=got)


def _padded(x: Array, before: int, behind: int) -> Array:  # (..., n, d) -> (..., before + n + behind, d)
    """x with zeros on both sides of its sequence."""
    xp, shape = namespace(x), tuple(x.shape)
    zeros = [
        xp.zeros((*shape[:-2], m, shape[-1]), dtype=x.dtype, device=device_of(x)) + exact(0, x)
        for m in (before, behind)
    ]
    return xp.concat([zeros[0], x, zeros[1]], axis=-2)


def _correlated(
    x: Array, kernel: Array, dilation: int, before: int
) -> Array:  # (..., n, in), (k, in, out) -> (..., n, out)
    """Σ_i x_{t+ir-before} W_i, the taps added up in their order."""
    xp, taps, n = namespace(x, kernel), kernel.shape[0], x.shape[-2]
    wide = _padded(x, before, (taps - 1) * dilation - before)
    total = xp.matmul(wide[..., :n, :], kernel[0, :, :])
    for i in range(1, taps):
        total = total + xp.matmul(wide[..., i * dilation : i * dilation + n, :], kernel[i, :, :])
    return total


@rounded_once
@products_of("projection")
def dilated_convolution(
    x: Array, kernel: Array, bias: Array, dilation: int = 1
) -> Array:  # (..., n, in), (k, in, out), (out,) -> (..., n, out)
    """y_t = b + Σ_{i<k} x_{t+ir-l} W_i, l = ⌊(k-1) r/2⌋, x_s = 0 outside the sequence.

    Parameters
    ----------
    x : array, (..., n, in), floating or balls
    kernel : array, (k, in, out), the dtype of `x`
    bias : array, (out,), the dtype of `x`
    dilation : int from 1: r, how far apart the taps are

    Returns
    -------
    array, (..., n, out), the dtype of `x`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` is not floating, the shapes do not fit, or the dilation is no distance.
    """
    _check_convolution(x, kernel, bias, dilation)
    return _correlated(x, kernel, dilation, (kernel.shape[0] - 1) * dilation // 2) + bias


@rounded_once
@products_of("activation")
def gated_linear_unit(x: Array) -> Array:  # (..., 2w) -> (..., w)
    """GLU([a, g]) = a σ(g), a and g the two halves of the last axis.

    Parameters
    ----------
    x : array, (..., 2w), floating or balls

    Returns
    -------
    array, (..., w), the dtype of `x`

    Raises
    ------
    DtypeError, ShapeError
        if `x` is not floating, or its last axis has no two halves.
    """
    a, gate = _halves(x)
    return a * sigmoid(gate)


def _halves(x: Array) -> tuple[Array, Array]:
    check_floating("x", x)
    width = x.shape[-1] if x.ndim else 0
    if width < 2 or width % 2:
        expected, got = "(..., 2w): values, then gates", tuple(x.shape)
        raise ShapeError("there are no two halves", where="gated_linear_unit", expected=expected, got=got)
    return x[..., : width // 2], x[..., width // 2 :]


def _check_layer(x: Array, kernel: Array, alpha: Array, projection: Array | None, mask: Array | None) -> None:
    """Raise unless what `gated_convolution` adds up has one width, α is one number, and the mask has one entry for each position."""
    check_floating("x", x)
    where, into, width = "gated_convolution", x.shape[-1], kernel.shape[-1] // 2
    if tuple(alpha.shape) != (1,):
        raise ShapeError("alpha is one number", where=where, expected="(1,)", got=tuple(alpha.shape))
    if projection is None and into != width:
        expected, remedy = f"an input of width {width}, half the kernel's", "give projection=, of shape (in, w)"
        raise ShapeError("the widths differ", where=where, expected=expected, got=tuple(x.shape), remedy=remedy)
    if projection is not None and tuple(projection.shape) != (into, width):
        got = tuple(projection.shape)
        raise ShapeError("the projection does not fit", where=where, expected=(into, width), got=got)
    if mask is None:
        return
    check_boolean(where, mask)
    if tuple(mask.shape) != tuple(x.shape[:-1]):
        what, got = "the mask has one entry for each position", tuple(mask.shape)
        raise ShapeError(what, where=where, expected=tuple(x.shape[:-1]), got=got)


def _unpadded(x: Array, mask: Array | None) -> Array:  # (..., n, d), bool (..., n) -> (..., n, d)
    """x, 0 at padding."""
    return x if mask is None else namespace(x, mask).where(mask[..., None], x, exact(0, x))


@products_of("projection")
def _projected(x: Array, projection: Array | None) -> Array:  # (..., n, in), (in, w) -> (..., n, w)
    return x if projection is None else namespace(x, projection).matmul(x, projection)


@rounded_once
def gated_convolution(
    x: Array,
    kernel: Array,
    bias: Array,
    norm_scale: Array,
    norm_bias: Array,
    alpha: Array,
    projection: Array | None = None,
    *,
    dilation: int = 1,
    mask: Array | None = None,
    eps: float = 1e-12,
) -> Array:  # (..., n, in), (k, in, 2w), (2w,), (w,), (w,), (1,), (in, w) -> (..., n, w)
    """y = x P + α LN(GLU(conv(x))), x zero at padding.

    Parameters
    ----------
    x : array, (..., n, in), floating or balls
    kernel, bias, dilation : as `dilated_convolution`; the last w columns are the gates
    norm_scale, norm_bias : array, (w,), of the layer norm
    alpha : array, (1,), the weight of the gated part
    projection : array, (in, w): P; None where in = w, for the identity
    mask : boolean array, (..., n), true at tokens and false at padding, or None. What x holds at padding has no influence. The result there is α LN
        of what reaches it from the tokens, which the mask of the next layer has to hide
    eps : float, that of the layer norm: 1e-12 in bert4keras 0.9, 1e-7 in 0.11.5

    Returns
    -------
    array, (..., n, w), the dtype of `x`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` is not floating or the mask not boolean, shapes do not fit, the dilation is no distance, or eps is negative.
    """
    _check_layer(x, kernel, alpha, projection, mask)
    given = _unpadded(x, mask)
    gated = gated_linear_unit(dilated_convolution(given, kernel, bias, dilation))
    return _projected(given, projection) + alpha * layer_norm(gated, norm_scale, norm_bias, eps)


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(dilated_convolution, "x", "kernel", "bias")
def dilated_convolution_vjp(
    x: Array, kernel: Array, bias: Array, dilation: int = 1
) -> tuple[Array, Pullback]:  # (..., n, in), (k, in, out), (out,) -> (..., n, out), pullback
    """x̄_s = Σ_i ȳ_{s-ir+l} W_iᵀ, W̄_i = Σ_t x_{t+ir-l}ᵀ ȳ_t, b̄ = Σ_t ȳ_t. Arguments and errors as `dilated_convolution`.

    x̄ is a dilated convolution of ȳ with the taps in reverse, each transposed, and the padding before and behind exchanged.
    """
    y, xp, reach = (
        dilated_convolution(x, kernel, bias, dilation),
        namespace(x, kernel),
        (kernel.shape[0] - 1) * dilation,
    )

    def pullback(y_bar: Array) -> tuple[Array, Array, Array]:  # (..., n, out) -> (..., n, in), (k, in, out), (out,)
        n, wide = x.shape[-2], _padded(x, reach // 2, reach - reach // 2)
        x_bar = _correlated(y_bar, xp.flip(xp.matrix_transpose(kernel), axis=0), dilation, reach - reach // 2)
        starts = range(0, reach + 1, dilation)
        kernel_bar = xp.stack([products_summed(wide[..., s : s + n, :], y_bar) for s in starts], axis=0)
        return x_bar, kernel_bar, summed_to(y_bar, bias.shape)

    return y, pullback


@vjp_of(gated_linear_unit, "x")
def gated_linear_unit_vjp(x: Array) -> tuple[Array, Pullback]:  # (..., 2w) -> (..., w), pullback
    """[ā, ḡ] = [ȳ σ(g), ȳ a σ(g) σ(-g)], in which nothing cancels. Arguments and errors as `gated_linear_unit`."""
    a, gate = _halves(x)
    weight = sigmoid(gate)

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., w) -> (..., 2w)
        through = y_bar * weight
        return (namespace(x).concat([through, through * a * sigmoid(-gate)], axis=-1),)

    return a * weight, pullback


@vjp_of(gated_convolution, "x", "kernel", "bias", "norm_scale", "norm_bias", "alpha", "projection")
def gated_convolution_vjp(
    x: Array,
    kernel: Array,
    bias: Array,
    norm_scale: Array,
    norm_bias: Array,
    alpha: Array,
    projection: Array | None = None,
    *,
    dilation: int = 1,
    mask: Array | None = None,
    eps: float = 1e-12,
) -> tuple[Array, Pullback]:  # as `gated_convolution` -> (..., n, w), pullback
    """x̄ = ȳ Pᵀ + convᵀ GLUᵀ LNᵀ (α ȳ), 0 at padding; ᾱ = Σ ȳ LN(GLU(conv(x))), P̄ = Σ_t x_tᵀ ȳ_t. Arguments and errors as `gated_convolution`.

    ȳ at padding counts, as the result there does: a model that does not use it has ȳ = 0 there.
    """
    _check_layer(x, kernel, alpha, projection, mask)
    given = _unpadded(x, mask)
    convolved, to_input = dilated_convolution_vjp(given, kernel, bias, dilation)
    gated, to_convolved = gated_linear_unit_vjp(convolved)
    normed, to_gated = layer_norm_vjp(gated, norm_scale, norm_bias, eps)

    def pullback(y_bar: Array) -> tuple[Array | None, ...]:  # (..., n, w) -> the shapes of the arguments
        gated_bar, *norm_bars = to_gated(alpha * y_bar)
        x_bar, *kernel_bars = to_input(*to_convolved(gated_bar))
        through = None if projection is None else namespace(projection).matrix_transpose(projection)
        x_bar = _unpadded(x_bar + _projected(y_bar, through), mask)
        projection_bar = None if projection is None else products_summed(given, y_bar)
        return x_bar, *kernel_bars, *norm_bars, summed_to(y_bar * normed, alpha.shape), projection_bar

    return _projected(given, projection) + alpha * normed, pullback
