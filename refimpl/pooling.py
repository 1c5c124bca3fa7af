"""One vector for a text: mean over its tokens, and unit length.

    m[b] = Σ_t mask[b, t] x[b, t] / Σ_t mask[b, t]                  `mean_pooling`
    y = x / √(Σ x²)                                                 `unit_length`

The squares are those of x/max |x|, which has the same direction, so that they neither overflow nor vanish.

Reference: N. Reimers and I. Gurevych, "Sentence-BERT", arXiv 1908.10084, section 3.
"""

from __future__ import annotations

from refimpl.errors import ShapeError, TokenError
from refimpl.gradients import Pullback, vjp_of
from refimpl.inputs import check_mask
from refimpl.number_system import Array, check_floating, exact, namespace, rounded_once, shift_for_exp

__all__ = ["mean_pooling", "mean_pooling_vjp", "unit_length", "unit_length_vjp"]


@rounded_once
def mean_pooling(hidden: Array, mask: Array) -> Array:  # (batch, n, d), bool (batch, n) -> (batch, d)
    """m[b] = Σ_t mask[b, t] x[b, t] / Σ_t mask[b, t].

    Parameters
    ----------
    hidden : array, (batch, n, d), floating or balls
    mask : bool array or nested list, (batch, n), true at real tokens; None: all are real

    Returns
    -------
    array, (batch, d), the dtype of `hidden`

    Raises
    ------
    DtypeError, ShapeError, TokenError
        if `hidden` is not floating or has not three axes, the mask does not fit, or a row has no token.
    """
    seen, count = _tokens(hidden, mask)
    xp = namespace(hidden)
    return xp.sum(xp.where(seen, hidden, exact(0, hidden)), axis=1) / xp.astype(count, hidden.dtype)


def _tokens(hidden: Array, mask: Array) -> tuple[Array, Array]:  # -> bool (batch, n, 1), int (batch, 1)
    """Which tokens are real, and how many of them each row has, which must not be 0."""
    check_floating("hidden", hidden)
    if hidden.ndim != 3:
        raise ShapeError("hidden must have three axes", expected="(batch, n, d)", got=tuple(hidden.shape))
    xp = namespace(hidden)
    seen = check_mask(mask, hidden[:, :, 0])[:, :, None]
    count = xp.sum(xp.astype(seen, xp.int64), axis=1)
    if bool(xp.any(count == 0)):
        raise TokenError("a row without tokens has no mean", where="mean_pooling(mask)", expected="a true in every row")
    return seen, count


@rounded_once
def unit_length(x: Array) -> Array:  # (..., d) -> (..., d)
    """y = x/√(Σ x²), over the last axis.

    Parameters
    ----------
    x : array, (..., d), floating or balls

    Returns
    -------
    array, (..., d), the dtype of `x`; NaN, or balls that are not finite, in a row that is all zeros: it has no direction

    Raises
    ------
    DtypeError
        if `x` is not floating.
    """
    check_floating("x", x)
    xp = namespace(x)
    scaled = x / shift_for_exp(xp.abs(x), -1)
    return scaled / xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(mean_pooling, "hidden")
def mean_pooling_vjp(
    hidden: Array, mask: Array
) -> tuple[Array, Pullback]:  # (batch, n, d), bool (batch, n) -> (batch, d), pullback
    """x̄[b, t] = m̄[b] / Σ_t mask[b, t] at real tokens, exactly 0 at others. Arguments and errors as `mean_pooling`."""
    seen, count = _tokens(hidden, mask)

    def pullback(mean_bar: Array) -> tuple[Array]:  # (batch, d) -> (batch, n, d)
        xp = namespace(hidden)
        return (xp.where(seen, (mean_bar / xp.astype(count, hidden.dtype))[:, None, :], exact(0, hidden)),)

    return mean_pooling(hidden, mask), pullback


@vjp_of(unit_length, "x")
def unit_length_vjp(x: Array) -> tuple[Array, Pullback]:  # (..., d) -> (..., d), pullback
    """x̄ = (ȳ - y Σ y ȳ)/√(Σ x²): the part of ȳ that is orthogonal to y. Arguments and errors as `unit_length`."""
    y, xp = unit_length(x), namespace(x)
    largest = shift_for_exp(xp.abs(x), -1)
    scaled = x / largest
    length = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., d) -> (..., d)
        across = y_bar - y * xp.sum(y * y_bar, axis=-1, keepdims=True)
        return (across / length / largest,)

    return y, pullback
