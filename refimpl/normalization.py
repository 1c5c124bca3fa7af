"""Layer normalization.

    y = (x - μ)/√(σ² + ε) · scale + bias,   μ = mean(x),   σ² = mean((x - μ)²)      over the last axis

The variance is the biased one (divided by d), and ε is added inside the root.

Reference: J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", arXiv 1607.06450, section 3; ε as in every implementation.
"""

from __future__ import annotations

from refimpl.errors import ConfigError, ShapeError
from refimpl.gradients import Pullback, summed_to, vjp_of
from refimpl.number_system import Array, check_floating, exact, namespace, products_of, rounded_once

__all__ = ["layer_norm", "layer_norm_vjp"]


@rounded_once
@products_of("normalization")
def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:  # (..., d), (d,), (d,) -> (..., d)
    """y = (x - mean x)/√(mean (x - mean x)² + ε) · scale + bias, over the last axis.

    Parameters
    ----------
    x : array, (..., d), floating or balls
    scale, bias : array, (d,), the dtype of `x`
    eps : float, >= 0. On balls it is the binary double given. A constant row with eps = 0 is 0/0.

    Returns
    -------
    array, (..., d), the dtype of `x`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` is not floating, the widths differ, or eps is negative or not a number.
    """
    check_floating("x", x)
    if scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ShapeError(
            "layer norm's scale and bias must have the width of its input",
            expected=f"scale and bias of shape {tuple(x.shape[-1:])}",
            got=f"scale {tuple(scale.shape)}, bias {tuple(bias.shape)}, input {tuple(x.shape)}",
        )
    if not eps >= 0:
        raise ConfigError("layer norm's eps must not be negative", expected="eps >= 0", got=eps)
    xp = namespace(x, scale, bias)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    variance = xp.mean(centred * centred, axis=-1, keepdims=True)
    return centred / xp.sqrt(variance + exact(eps, x)) * scale + bias


@vjp_of(layer_norm, "x", "scale", "bias")
def layer_norm_vjp(
    x: Array, scale: Array, bias: Array, eps: float
) -> tuple[Array, Pullback]:  # (..., d), (d,), (d,) -> (..., d), pullback
    """x̄ = (g - mean g - z mean(g z))/√(σ² + ε) with z = (x - μ)/√(σ² + ε) and g = ȳ · scale; scalē = Σ ȳ z, bias̄ = Σ ȳ over the rows.

    Arguments and errors as `layer_norm`.
    """
    y, xp = layer_norm(x, scale, bias, eps), namespace(x, scale, bias)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    deviation = xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + exact(eps, x))
    z = centred / deviation

    def pullback(y_bar: Array) -> tuple[Array, Array, Array]:  # (..., d) -> (..., d), (d,), (d,)
        g = y_bar * scale
        along = xp.mean(g * z, axis=-1, keepdims=True)
        x_bar = (g - xp.mean(g, axis=-1, keepdims=True) - z * along) / deviation
        return x_bar, summed_to(y_bar * z, scale.shape), summed_to(y_bar, bias.shape)

    return y, pullback
