"""Softmax and its logarithm, with boolean masks that need no infinities.

    softmax(x)_i = exp(x_i - c) / Σ_j exp(x_j - c)          logsumexp(x) = c + log Σ_j exp(x_j - c)                (any c; here c ≈ max x)

A mask says which entries take part. Entries that do not are excluded by selection, not by adding -1e10 or -inf: a masked row of float16
numbers stays finite, and a row that is masked entirely has weights that are all zero, by definition.

Reference: P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions",
IMA J. Numer. Anal. 41 (2021).
"""

from __future__ import annotations

from refimpl.number_system import Array, check_floating, exact, is_ball, namespace, rounded_once, shift_for_exp

__all__ = ["log_softmax", "logsumexp", "masked_softmax", "softmax"]


def _lowest(like: Array) -> Array:
    """What no entry lies below: minus infinity beside balls, the most negative finite number beside floats."""
    return exact(float("-inf"), like) if is_ball(like) else float(namespace(like).finfo(like.dtype).min)


def _minus(x: Array, shift: Array) -> Array:
    """x - shift for shift >= x; -inf, without a floating-point exception, where that overflows or `x` is -inf."""
    if is_ball(x):
        return x - shift
    xp, limit = namespace(x), _lowest(x) / 2
    half = x / 2 - shift / 2  # which cannot overflow, and halving is exact
    return xp.where(half < limit, -xp.inf, 2 * xp.maximum(half, limit))


@rounded_once
def softmax(x: Array, axis: int = -1) -> Array:  # (..., n, ...) -> (..., n, ...)
    """softmax(x)_i = exp(x_i - max x) / Σ_j exp(x_j - max x).

    Parameters
    ----------
    x : array, floating or balls
    axis : int, the axis along which the result sums to one

    Returns
    -------
    array, the shape and dtype of `x`. A NaN or +inf anywhere in a row, or a row of -inf alone, gives NaN.

    Raises
    ------
    DtypeError
        if `x` is not real floating point.
    """
    check_floating("x", x)
    xp = namespace(x)
    exponentials = xp.exp(_minus(x, shift_for_exp(x, axis)))
    return exponentials / xp.sum(exponentials, axis=axis, keepdims=True)


@rounded_once
def masked_softmax(x: Array, mask: Array | None, axis: int = -1) -> Array:  # (..., n), bool (..., n) -> (..., n)
    """softmax over the entries where `mask` is true; exactly 0 elsewhere, and all 0 where no entry of a row is allowed.

    Parameters
    ----------
    x : array, floating or balls
    mask : boolean array that broadcasts to the shape of `x`, or None for no mask
    axis : int, the axis along which a row with at least one allowed entry sums to one

    Returns
    -------
    array, the shape and dtype of `x`. Masked entries have no influence, whatever they hold.

    Raises
    ------
    DtypeError
        if `x` is not real floating point.
    """
    if mask is None:
        return softmax(x, axis=axis)
    check_floating("x", x)
    xp = namespace(x, mask)
    shift = shift_for_exp(xp.where(mask, x, _lowest(x)), axis)
    exponentials = xp.where(mask, xp.exp(_minus(xp.where(mask, x, shift), shift)), exact(0, x))
    total = xp.sum(exponentials, axis=axis, keepdims=True)
    return exponentials / xp.where(xp.any(mask, axis=axis, keepdims=True), total, exact(1, x))


@rounded_once
def logsumexp(x: Array, axis: int = -1) -> Array:  # (..., n, ...) -> (..., ...)
    """logsumexp(x) = max x + log Σ_j exp(x_j - max x), the axis reduced. Dtypes and errors as `softmax`."""
    check_floating("x", x)
    xp = namespace(x)
    shift = shift_for_exp(x, axis)
    total = xp.sum(xp.exp(_minus(x, shift)), axis=axis, keepdims=True)
    return xp.squeeze(shift + xp.log(total), axis=axis)


@rounded_once
def log_softmax(x: Array, axis: int = -1) -> Array:  # (..., n, ...) -> (..., n, ...)
    """log softmax(x)_i = (x_i - max x) - log Σ_j exp(x_j - max x). Shapes, dtypes and errors as `softmax`."""
    check_floating("x", x)
    xp = namespace(x)
    shifted = _minus(x, shift_for_exp(x, axis))
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
