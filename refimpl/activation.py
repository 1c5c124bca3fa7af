"""Activation functions.

    GELU(x) = x Φ(x) = x/2 · erfc(-x/√2)                                  "none": the exact form, Φ the normal distribution function
    GELU(x) ≈ x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))                  "tanh": the form of GPT-2, CPM and Hugging Face's gelu_new

They differ by up to 4.7e-4: a model trained with one and run with the other is quietly wrong.

Reference: D. Hendrycks and K. Gimpel, "Gaussian error linear units (GELUs)", arXiv 1606.08415, section 2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from refimpl.bits import below
from refimpl.errors import ConfigError
from refimpl.gradients import Pullback, vjp_of
from refimpl.number_system import (
    Array,
    check_floating,
    clamp,
    exact,
    is_ball,
    namespace,
    pi,
    products_of,
    rounded_once,
    square_root,
)
from refimpl.special import erfc

__all__ = ["gelu", "gelu_vjp", "relu", "relu_vjp", "sigmoid", "sigmoid_vjp", "tanh", "tanh_vjp"]


@rounded_once
@products_of("activation")
def gelu(x: Array, approximate: Literal["tanh", "none"] = "tanh") -> Array:  # (...) -> (...)
    """GELU(x) = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) for "tanh", or x/2 · erfc(-x/√2) for "none".

    Parameters
    ----------
    x : array, (...), floating or balls
    approximate : "tanh" or "none"

    Returns
    -------
    array, (...), the dtype of `x`

    Raises
    ------
    DtypeError, ConfigError
        if `x` is not floating, or `approximate` is neither name.
    """
    check_floating("x", x)
    if approximate == "tanh":
        cubic = exact(Fraction(44715, 1_000_000), x)
        near = clamp(x, -32.0, 32.0)  # beyond, tanh is ±1 in every dtype, and x³ might overflow
        slope = square_root(2 / pi(x), x)
        return x / 2 * (1 + namespace(x).tanh(slope * (near + cubic * near * near * near)))
    if approximate == "none":
        return x / 2 * erfc(-x / square_root(2, x))
    raise ConfigError(
        "unknown form of GELU", where="gelu(approximate=...)", expected='"tanh" or "none"', got=repr(approximate)
    )


@rounded_once
@products_of("activation")
def relu(x: Array) -> Array:  # (...) -> (...)
    """relu(x) = max(x, 0), elementwise. On a ball that straddles 0 this is (x + |x|)/2, which encloses both branches."""
    check_floating("x", x)
    xp = namespace(x)
    return (x + xp.abs(x)) / 2 if is_ball(x) else xp.maximum(x, 0.0)


@rounded_once
@products_of("activation")
def sigmoid(x: Array) -> Array:  # (...) -> (...)
    """σ(x) = 1/(1 + exp(-x)), elementwise; on floats as exp(x)/(1 + exp(x)) for x < 0. Dtypes and errors as `gelu`."""
    check_floating("x", x)
    xp = namespace(x)
    if is_ball(x):
        return 1 / (1 + xp.exp(-x))
    decaying = xp.exp(-xp.abs(x))
    return xp.where(x < 0, decaying, xp.ones_like(x)) / (1 + decaying)


@rounded_once
@products_of("activation")
def tanh(x: Array) -> Array:  # (...) -> (...)
    """tanh(x), elementwise. Dtypes and errors as `gelu`."""
    check_floating("x", x)
    return namespace(x).tanh(x)


# --- backwards ------------------------------------------------------------------------------------------------------------------------


def _gelu_slope(x: Array, approximate: str) -> Array:  # (...) -> (...)
    """GELU'(x) = σ(2z) (1 + 2 x z' σ(-2z)) with z = √(2/π) (x + 0.044715 x³) for "tanh", Φ(x) + x exp(-x²/2)/√(2π) for "none"."""
    xp, pi_ = namespace(x), pi(x)
    if approximate == "none":
        near = clamp(x, -40.0, 40.0)  # beyond, exp(-x²/2) is 0 in every dtype, and x² might overflow
        return erfc(-x / square_root(2, x)) / 2 + near * xp.exp(-near * near / 2) / square_root(2 * pi_, x)
    cubic, near, slope = exact(Fraction(44715, 1_000_000), x), clamp(x, -32.0, 32.0), square_root(2 / pi_, x)
    z = slope * (near + cubic * near * near * near)
    return sigmoid(2 * z) * (1 + 2 * near * slope * (1 + 3 * cubic * near * near) * sigmoid(-2 * z))


@vjp_of(gelu, "x")
def gelu_vjp(
    x: Array, approximate: Literal["tanh", "none"] = "tanh"
) -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = GELU'(x) ȳ, of the form that is run: the two have different derivatives. Arguments and errors as `gelu`.

    GELU' = σ(2z) (1 + 2 x z' σ(-2z)) with z = √(2/π) (x + 0.044715 x³) for "tanh", and Φ(x) + x exp(-x²/2)/√(2π) for "none".
    """

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        return (_gelu_slope(x, approximate) * y_bar,)

    return gelu(x, approximate), pullback


@vjp_of(relu, "x")
def relu_vjp(x: Array) -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = ȳ where x > 0, and 0 elsewhere: at 0 the subgradient 0 of [0, 1]. UndecidedError where a ball holds 0 and a number above."""

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        return (namespace(x).where(below(-x, 0), y_bar, exact(0, x)),)

    return relu(x), pullback


@vjp_of(sigmoid, "x")
def sigmoid_vjp(x: Array) -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = σ(x) σ(-x) ȳ, in which nothing cancels. Arguments and errors as `sigmoid`."""
    y = sigmoid(x)

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        return (y * sigmoid(-x) * y_bar,)

    return y, pullback


@vjp_of(tanh, "x")
def tanh_vjp(x: Array) -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = (1 - tanh² x) ȳ = 4 σ(2x) σ(-2x) ȳ, in which nothing cancels. Arguments and errors as `tanh`."""

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        near = clamp(x, -400.0, 400.0)  # beyond, the slope is 0 in every dtype, and 2x might overflow
        return (4 * sigmoid(2 * near) * sigmoid(-2 * near) * y_bar,)

    return tanh(x), pullback
