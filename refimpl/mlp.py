"""The multilayer perceptron: the smallest network, on which statements about learning are tried first.

    x_l = φ(x_{l-1} W_l + b_l) for l < L,     y = x_{L-1} W_L + b_L

φ is any definition with a rule, applied to each number: `refimpl.activation.tanh`, `gelu`, `relu`, `sigmoid`.

Reference: D. E. Rumelhart, G. E. Hinton and R. J. Williams, "Learning representations by back-propagating errors", Nature 323 (1986), 533-536.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.activation import tanh
from refimpl.errors import ConfigError
from refimpl.gradients import Pullback, vjp, vjp_of
from refimpl.parameters import Linear, affine_vjp

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.number_system import Array

__all__ = ["perceptron", "perceptron_vjp"]


def perceptron(
    layers: tuple[Linear, ...], x: Array, activation: Callable[[Array], Array] = tanh
) -> Array:  # (..., in) -> (..., out)
    """y = φ(... φ(x W_1 + b_1) ...) W_L + b_L.

    Parameters
    ----------
    layers : L >= 1 linear maps, each as wide as what comes before it
    x : array, (..., in), floating or balls
    activation : φ, a definition

    Returns
    -------
    array, (..., out), the dtype of `x`

    Raises
    ------
    ConfigError
        if there are no layers.
    """
    if not layers:
        raise ConfigError("a perceptron has layers", where="layers", expected="at least one", got=0)
    for layer in layers[:-1]:
        x = activation(layer(x))
    return layers[-1](x)


@vjp_of(perceptron, "layers", "x")
def perceptron_vjp(
    layers: tuple[Linear, ...], x: Array, activation: Callable[[Array], Array] = tanh
) -> tuple[Array, Pullback]:  # (..., in) -> (..., out), pullback
    """x̄_{l-1} = (φ'(h_l) ∘ x̄_l) W_lᵀ with h_l = x_{l-1} W_l + b_l, W̄_l = Σ x_{l-1}ᵀ h̄_l, b̄_l = Σ h̄_l. Arguments as `perceptron`."""
    if not layers:
        return perceptron(layers, x, activation), None
    pullbacks: list[Pullback] = []
    for layer in layers[:-1]:
        h, through_layer = affine_vjp(x, *layer)
        x, through_activation = vjp(activation, h)
        pullbacks += [through_layer, through_activation]
    y, last = affine_vjp(x, *layers[-1])

    def pullback(y_bar: Array) -> tuple[tuple[Linear, ...], Array]:  # (..., out) -> layers, (..., in)
        x_bar, *linear = last(y_bar)
        bars: list[Any] = [Linear(*linear)]
        for through_layer, through_activation in zip(pullbacks[-2::-2], pullbacks[::-2], strict=True):
            x_bar, *linear = through_layer(*through_activation(x_bar))
            bars.insert(0, Linear(*linear))
        return tuple(bars), x_bar

    return y, pullback
