"""Softmax, its logarithm, and softmax over the k largest, with boolean masks that need no infinities.

    softmax(x)_i = exp(x_i - c) / Σ_j exp(x_j - c)          logsumexp(x) = c + log Σ_j exp(x_j - c)                (any c; here c ≈ max x)

A mask says which entries take part. Entries that do not are excluded by selection, not by adding -1e10 or -inf: a masked row of float16
numbers stays finite, and a row that is masked entirely has weights that are all zero, by definition.

Sparse softmax keeps the set T of the k largest entries, for training as for inference:

    p_i = exp(x_i) / Σ_{j in T} exp(x_j) for i in T, 0 elsewhere          loss = log Σ_{j in T} exp(x_j) - x_t

Among equal entries the lower index is the larger, so that T has exactly k members (all of them, where there are fewer). The target t need not
be in T: the loss is the logarithm of a sum over the k largest, which is no less than the largest, minus one entry (claim SPARSE-2).

References: P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions",
IMA J. Numer. Anal. 41 (2021); J. Su, "SPACES: extract-generate summarization of long texts" (in Chinese), Scientific Spaces 8046 (2021),
section "Sparse softmax", and the loss of its program, github.com/bojone/SPACES.
"""

from __future__ import annotations

from typing import Any

from refimpl.bits import below
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError, UndecidedError
from refimpl.gradients import Pullback, summed_to, vjp_of
from refimpl.number_system import (
    Array,
    check_boolean,
    check_floating,
    device_of,
    exact,
    is_ball,
    namespace,
    rounded_once,
    shift_for_exp,
    whole_number,
)

__all__ = [
    "clipped_cross_entropy",
    "clipped_cross_entropy_vjp",
    "counted_mean",
    "cross_entropy",
    "cross_entropy_vjp",
    "deviations",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "masked_softmax",
    "masked_softmax_vjp",
    "softmax",
    "softmax_vjp",
    "sparse_softmax",
    "sparse_softmax_cross_entropy",
    "sparse_softmax_cross_entropy_vjp",
    "sparse_softmax_vjp",
    "top_k_selection",
]


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


@vjp_of(softmax, "x")
def softmax_vjp(x: Array, axis: int = -1) -> tuple[Array, Pullback]:  # (..., n, ...) -> (..., n, ...), pullback
    """x̄_i = p_i (p̄_i - Σ_j p_j p̄_j) for p = softmax(x). Arguments and errors as `softmax`."""
    p = softmax(x, axis)

    def pullback(p_bar: Array) -> tuple[Array]:  # (..., n, ...) -> (..., n, ...)
        return (_centred(p, p_bar, axis),)

    return p, pullback


def _centred(p: Array, p_bar: Array, axis: int) -> Array:
    """p_i (p̄_i - Σ_j p_j p̄_j)."""
    return p * deviations(p, p_bar, axis)


def _largest_weight(p: Array, axis: int) -> Array:  # (..., n, ...) -> bool (..., n, ...)
    """True at one entry of each row, the first of the largest; on balls by midpoints, for uses that any choice is right for."""
    xp = namespace(p)
    at = xp.argmax(_sorting_key(p), axis=axis, keepdims=True)
    places = xp.arange(p.shape[axis], dtype=at.dtype, device=device_of(at))
    return at == xp.reshape(places, tuple(-1 if i == axis % p.ndim else 1 for i in range(p.ndim)))


def deviations(p: Array, p_bar: Array, axis: int = -1) -> Array:  # (..., n, ...), (..., n, ...) -> (..., n, ...)
    """p̄_i - Σ_j p_j p̄_j for weights of sum one, as d_i - Σ_j p_j d_j with d = p̄ - p̄_m, m the largest weight.

    That of the largest weight is then -Σ_{j != m} p_j d_j: nothing cancels where it is nearly 1, and the others nearly 0.
    """
    xp, zero, largest = namespace(p, p_bar), exact(0, p), _largest_weight(p, axis)
    origin = xp.sum(xp.where(largest, p_bar, zero), axis=axis, keepdims=True)
    d = xp.where(largest, zero, p_bar - origin)
    return d - xp.sum(p * d, axis=axis, keepdims=True)


@rounded_once
def masked_softmax(x: Array, mask: Array | None, axis: int = -1) -> Array:  # (..., n), bool (..., n) -> (..., n)
    """softmax over the entries where `mask` is true; exactly 0 elsewhere, and all 0 where no entry of a row is allowed.

    Parameters
    ----------
    x : array, floating or balls
    mask : boolean array that broadcasts with `x`, or None for no mask
    axis : int, the axis along which a row with at least one allowed entry sums to one

    Returns
    -------
    array, the dtype of `x` and the shape to which `x` and the mask broadcast: one row may have several masks. Masked entries have no influence,
        whatever they hold.

    Raises
    ------
    DtypeError
        if `x` is not real floating point, or the mask not boolean.
    """
    if mask is None:
        return softmax(x, axis=axis)
    check_floating("x", x)
    check_boolean("masked_softmax(mask)", mask)
    xp = namespace(x, mask)
    shift = shift_for_exp(xp.where(mask, x, _lowest(x)), axis)
    exponentials = xp.where(mask, xp.exp(_minus(xp.where(mask, x, shift), shift)), exact(0, x))
    total = xp.sum(exponentials, axis=axis, keepdims=True)
    return exponentials / xp.where(xp.any(mask, axis=axis, keepdims=True), total, exact(1, x))


@vjp_of(masked_softmax, "x")
def masked_softmax_vjp(
    x: Array, mask: Array | None, axis: int = -1
) -> tuple[Array, Pullback]:  # (..., n), bool (..., n) -> (..., n), pullback
    """x̄_i = p_i (p̄_i - Σ_j p_j p̄_j) over the allowed entries, exactly 0 elsewhere, whatever p̄ holds there. Arguments as `masked_softmax`."""
    if mask is None:
        return softmax_vjp(x, axis)
    p = masked_softmax(x, mask, axis)

    def pullback(p_bar: Array) -> tuple[Array]:  # (..., n) -> (..., n)
        xp, zero = namespace(p, mask), exact(0, p)
        x_bar = xp.where(mask, _centred(p, xp.where(mask, p_bar, zero), axis), zero)
        return (summed_to(x_bar, x.shape),)

    return p, pullback


@rounded_once
def logsumexp(x: Array, axis: int = -1) -> Array:  # (..., n, ...) -> (..., ...)
    """logsumexp(x) = max x + log Σ_j exp(x_j - max x), the axis reduced. Dtypes and errors as `softmax`."""
    check_floating("x", x)
    xp = namespace(x)
    shift = shift_for_exp(x, axis)
    total = xp.sum(xp.exp(_minus(x, shift)), axis=axis, keepdims=True)
    return xp.squeeze(shift + xp.log(total), axis=axis)


@vjp_of(logsumexp, "x")
def logsumexp_vjp(x: Array, axis: int = -1) -> tuple[Array, Pullback]:  # (..., n, ...) -> (..., ...), pullback
    """x̄ = softmax(x) ȳ. Arguments and errors as `logsumexp`."""

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., ...) -> (..., n, ...)
        return (softmax(x, axis) * namespace(x).expand_dims(y_bar, axis=axis),)

    return logsumexp(x, axis), pullback


@rounded_once
def log_softmax(x: Array, axis: int = -1) -> Array:  # (..., n, ...) -> (..., n, ...)
    """log softmax(x)_i = (x_i - max x) - log Σ_j exp(x_j - max x). Shapes, dtypes and errors as `softmax`."""
    check_floating("x", x)
    xp = namespace(x)
    shifted = _minus(x, shift_for_exp(x, axis))
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@vjp_of(log_softmax, "x")
def log_softmax_vjp(x: Array, axis: int = -1) -> tuple[Array, Pullback]:  # (..., n, ...) -> (..., n, ...), pullback
    """x̄ = ȳ - softmax(x) Σ_j ȳ_j. Arguments and errors as `log_softmax`.

    At the largest weight p_m this is ȳ_m Σ_{j != m} p_j - p_m Σ_{j != m} ȳ_j, in which 1 - p_m does not cancel.
    """

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., n, ...) -> (..., n, ...)
        p, xp, zero = softmax(x, axis), namespace(x), exact(0, x)
        largest = _largest_weight(p, axis)
        p_rest, y_rest = (
            xp.sum(xp.where(largest, zero, part), axis=axis, keepdims=True) for part in (p, y_bar)
        )  # Σ over all but the largest
        at_largest = y_bar * p_rest - p * y_rest
        return (xp.where(largest, at_largest, y_bar - p * xp.sum(y_bar, axis=axis, keepdims=True)),)

    return log_softmax(x, axis), pullback


@rounded_once
def cross_entropy(logits: Array, targets: Array) -> Array:  # (..., n), int (...) -> (...)
    """loss = -log softmax(s)_t = log Σ_j exp(s_j) - s_t, one for each row.

    Parameters
    ----------
    logits : array, (..., n), floating or balls
    targets : integer array, (...), 0 <= target < n. Rows that do not count, such as padding, are left out of what is made of the losses

    Returns
    -------
    array, (...), the dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError
        if `logits` are not floating, targets not whole numbers or not one for each row, or a target is out of range.
    """
    check_floating("logits", logits)
    _check_rows("cross_entropy", logits, -1, None)
    ids, _ = _check_targets(targets, logits, None)
    chosen = namespace(logits, targets).take_along_axis(log_softmax(logits), ids, axis=-1)
    return -namespace(logits).squeeze(chosen, axis=-1)


def counted_mean(losses: Array, counted: Array, n: int) -> Array:  # (...), bool (...) -> ()
    """L = 1/n Σ_i c_i ℓ_i: over what counts, whatever the others hold; an array without axes on every number system."""
    xp = namespace(losses, counted)
    kept = xp.reshape(xp.where(counted, losses, exact(0, losses)), (1, -1))
    return xp.reshape(xp.sum(kept, axis=1) / exact(n, losses), ())


@vjp_of(cross_entropy, "logits")
def cross_entropy_vjp(
    logits: Array, targets: Array
) -> tuple[Array, Pullback]:  # (..., n), int (...) -> (...), pullback
    """s̄_j = (softmax(s)_j - [j = t]) loss̄. Arguments and errors as `cross_entropy`."""
    losses, xp = cross_entropy(logits, targets), namespace(logits, targets)

    def pullback(losses_bar: Array) -> tuple[Array]:  # (...) -> (..., n)
        ids = xp.astype(targets, xp.int64)[..., None]
        return (_less_one_at(softmax(logits), ids) * losses_bar[..., None],)

    return losses, pullback


def _less_one_at(p: Array, ids: Array) -> Array:  # (..., n), int64 (..., 1) -> (..., n)
    """p_j - [j = t] for weights of sum one, that at t as -Σ_{j != t} p_j: nothing cancels where the target is nearly certain."""
    xp = namespace(p, ids)
    at = xp.arange(p.shape[-1], dtype=ids.dtype, device=device_of(ids)) == ids
    others = xp.where(at, exact(0, p), p)
    return xp.where(at, -xp.sum(others, axis=-1, keepdims=True), p)


def _checked_k(k: int) -> int:
    whole = whole_number(k)
    if whole is None:
        raise ConfigError("k must be a whole number", where="sparse softmax", expected="an int, k >= 1", got=repr(k))
    if whole < 1:
        raise ConfigError("k must be at least 1", where="sparse softmax", expected="k >= 1", got=k)
    return whole


def _check_rows(name: str, x: Array, axis: int, mask: Array | None) -> None:
    """Raise unless `x` has at least one entry along `axis` and `mask`, if there is one, is boolean and broadcasts to `x`."""
    shape = tuple(x.shape)
    if not -x.ndim <= axis < x.ndim or shape[axis] < 1:
        expected = f"an array with an axis {axis} of at least one entry"
        raise ShapeError("there is nothing to choose from", where=name, expected=expected, got=f"shape {shape}")
    if mask is None:
        return
    check_boolean(name, mask)
    if mask.ndim > x.ndim or any(a not in (1, b) for a, b in zip(mask.shape[::-1], shape[::-1], strict=False)):
        got = tuple(mask.shape)
        raise ShapeError("the mask does not fit", where=name, expected=f"a shape that broadcasts to {shape}", got=got)


def _sorting_key(x: Array) -> Array:
    """What the largest entries are sorted by: NaN as +inf, which any selection therefore shows; balls by their midpoints."""
    xp = namespace(x)
    return xp.frompyfunc(lambda ball: ball.mid(), 1, 1)(x) if is_ball(x) else xp.where(xp.isnan(x), xp.inf, x)


def _check_decided(x: Array, kept: Array, rejected: Array, axis: int) -> None:
    """Raise UndecidedError unless every kept ball lies above every rejected one, or touches it only where both are the same number."""
    xp = namespace(x)
    low = xp.frompyfunc(lambda ball, use: _end(ball, -1) if use else exact(float("inf"), x), 2, 1)(x, kept)
    high = xp.frompyfunc(lambda ball, use: _end(ball, 1) if use else exact(float("-inf"), x), 2, 1)(x, rejected)
    floor, ceiling = xp.min(low, axis=axis, keepdims=True), xp.max(high, axis=axis, keepdims=True)
    wide = xp.astype(xp.frompyfunc(lambda ball: ball.is_nan() or not ball.is_exact(), 1, 1)(x), bool)
    touching = wide & ((kept & (low == ceiling)) | (rejected & (high == floor)))
    decided = (floor > ceiling) | ((floor == ceiling) & ~xp.any(touching, axis=axis, keepdims=True))
    if not xp.all(decided | ~xp.any(rejected, axis=axis, keepdims=True)):
        raise UndecidedError(
            "undecided: which entries are the largest depends on balls that overlap",
            where="sparse softmax",
            expected="the k-th largest ball above the next one, or both exact",
            got="balls that meet",
            remedy="compute the inputs with more bits, or choose from their midpoints",
        )


def _end(ball: Any, side: int) -> Any:
    """The lower (-1) or upper (1) end of a ball, itself where it is one number; the whole line for NaN."""
    if ball.is_nan():
        return ball.__class__(side * float("inf"))
    return ball if ball.is_exact() else (ball.upper() if side > 0 else ball.lower())


def top_k_selection(
    x: Array, k: int, axis: int = -1, *, mask: Array | None = None
) -> Array:  # (..., n, ...) -> bool (..., n, ...)
    """kept_i = (fewer than k allowed entries come before x_i), where larger ones come before, and equal ones of lower index.

    Parameters
    ----------
    x : array, floating or balls
    k : int >= 1; from the number of allowed entries on, all of them are kept
    axis : int, the axis along which entries compete
    mask : boolean array that broadcasts to the shape of `x`, true at entries that are allowed, or None. Others are never kept, whatever they hold

    Returns
    -------
    boolean array, the shape of `x`; min(k, allowed entries) are true in each row. NaN counts as +inf.

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` is not floating or the mask not boolean, the shapes do not fit, or k is not a whole number >= 1.
    UndecidedError
        if `x` are balls, and those that compete for the last place overlap. Balls that are exact and equal are decided by index.
    """
    check_floating("x", x)
    _check_rows("top_k_selection", x, axis, mask)
    k, xp = _checked_k(k), namespace(x)
    allowed = xp.ones(x.shape, dtype=xp.bool, device=device_of(x))
    allowed = allowed if mask is None else allowed & mask
    order = xp.argsort(_sorting_key(xp.where(allowed, x, exact(0, x))), axis=axis, descending=True, stable=True)
    ordered = xp.take_along_axis(allowed, order, axis=axis)
    among_k = ordered & (xp.cumulative_sum(xp.astype(ordered, xp.int64), axis=axis) <= k)
    kept = xp.take_along_axis(among_k, xp.argsort(order, axis=axis, stable=True), axis=axis)
    if is_ball(x):
        _check_decided(x, kept, allowed & ~kept, axis)
    return kept


@rounded_once
def sparse_softmax(
    x: Array, k: int, axis: int = -1, *, mask: Array | None = None
) -> Array:  # (..., n, ...) -> (..., n, ...)
    """p_i = exp(x_i) / Σ_{j in T} exp(x_j) for i in T, the k largest allowed entries; exactly 0 elsewhere.

    Parameters
    ----------
    x : array, floating or balls
    k : int >= 1, how many entries are kept. From n on the result is `softmax`, bit for bit; for k = 1 it is the one-hot vector of the maximum
    axis : int, the axis along which the result sums to one
    mask : boolean array that broadcasts to the shape of `x`, true at entries that are allowed, or None. Others are never among the k largest,
        whatever they hold; a row in which nothing is allowed is 0

    Returns
    -------
    array, the shape and dtype of `x`. Among equal entries those of lower index are kept. A NaN or +inf among
    the allowed entries of a row, or nothing but -inf, gives NaN for the row.

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as `top_k_selection`.
    """
    return masked_softmax(x, top_k_selection(x, k, axis, mask=mask), axis=axis)


@vjp_of(sparse_softmax, "x")
def sparse_softmax_vjp(
    x: Array, k: int, axis: int = -1, *, mask: Array | None = None
) -> tuple[Array, Pullback]:  # (..., n, ...) -> (..., n, ...), pullback
    """x̄_i = p_i (p̄_i - Σ_{j in T} p_j p̄_j) for i in T, exactly 0 elsewhere, whatever p̄ holds there. Arguments and errors as `sparse_softmax`.

    T are the k entries that the value was made of. Where the last of them ties with one outside, p jumps, and this is the derivative with T held:
    of equal entries those of lower index. On balls a tie that is not exact is undecided.
    """
    return masked_softmax_vjp(x, top_k_selection(x, k, axis, mask=mask), axis)


def _check_targets(targets: Array, logits: Array, mask: Array | None) -> tuple[Array, Array]:
    """The targets as int64 (..., 1), 0 in rows where nothing is allowed, and which rows those are not: bool (..., 1)."""
    xp, shape = namespace(logits, targets), tuple(logits.shape)
    if tuple(targets.shape) != shape[:-1]:
        raise ShapeError(
            "targets must have one entry for each row of logits", expected=shape[:-1], got=tuple(targets.shape)
        )
    if "int" not in str(targets.dtype):
        raise DtypeError(
            "targets must be whole numbers", where="targets", expected="an integer dtype", got=targets.dtype
        )
    allowed = xp.ones(shape, dtype=xp.bool, device=device_of(logits))
    allowed = allowed if mask is None else allowed & mask
    given = xp.any(allowed, axis=-1, keepdims=True)
    ids = xp.where(given, xp.astype(targets, xp.int64)[..., None], 0)
    _refuse_target("a target is out of range", (ids < 0) | (ids >= shape[-1]), f"0 <= target < {shape[-1]}", ids)
    masked = given & ~xp.take_along_axis(allowed, ids, axis=-1)
    _refuse_target("a target is masked", masked, "a target whose logit is allowed", ids)
    return ids, given


def _refuse_target(what: str, wrong: Array, expected: str, ids: Array) -> None:
    """Raise TokenError that names the first row in which `wrong` is true."""
    xp = namespace(wrong)
    if bool(xp.any(wrong)):
        place = tuple(int(axis[0]) for axis in xp.nonzero(wrong))
        raise TokenError(what, where=f"targets{list(place[:-1])}", expected=expected, got=int(ids[place]))


@rounded_once
def sparse_softmax_cross_entropy(
    logits: Array, targets: Array, k: int, *, mask: Array | None = None
) -> Array:  # (..., n), int (...) -> (...)
    """loss = log Σ_{j in T} exp(s_j) - s_t = log Σ_{j in T} exp(s_j - c) + (c - s_t), T the k largest allowed logits, c their maximum.

    Both terms are >= 0 in floating point too: the sum has a term that is 1, and no allowed s_t is above c.

    Parameters
    ----------
    logits : array, (..., n), floating or balls
    targets : integer array, (...), 0 <= target < n; a target outside the k largest is legal
    k : int >= 1. From n on the loss is minus `log_softmax` at the target, bit for bit
    mask : boolean array that broadcasts to (..., n), true at logits that are allowed, or None. Others have no influence, whatever they hold. Where
        nothing is allowed the loss is 0 and the target is not looked at: positions are masked by `mask[..., None]`

    Returns
    -------
    array, (...), the dtype of `logits`; +inf where it overflows

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as `top_k_selection`, and for targets that are not whole numbers or not one for each row.
    TokenError
        if a target is out of range, or is itself masked.
    """
    return _loss_over(logits, targets, top_k_selection(logits, k, mask=mask), mask)


def _loss_over(logits: Array, targets: Array, kept: Array, mask: Array | None) -> Array:
    """log Σ_{j in T} exp(s_j) - s_t, T the entries that are `kept`; 0 in rows where nothing is allowed."""
    xp, (ids, given) = namespace(logits, targets), _check_targets(targets, logits, mask)
    shift = shift_for_exp(xp.where(kept, logits, _lowest(logits)), -1)
    chosen = xp.where(
        given, _minus(xp.where(given, xp.take_along_axis(logits, ids, axis=-1), shift), shift), exact(0, logits)
    )
    exponentials = xp.where(kept, xp.exp(_minus(xp.where(kept, logits, shift), shift)), exact(0, logits))
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    return xp.squeeze(xp.log(xp.where(given, total, exact(1, logits))) - chosen, axis=-1)


@vjp_of(sparse_softmax_cross_entropy, "logits")
def sparse_softmax_cross_entropy_vjp(
    logits: Array, targets: Array, k: int, *, mask: Array | None = None
) -> tuple[Array, Pullback]:  # (..., n), int (...) -> (...), pullback
    """s̄_j = (p_j - [j = t]) loss̄ with p = sparse_softmax(s), also for t outside the k largest; 0 where nothing is allowed. Arguments as the loss.

    The loss is the largest over sets T of k entries of log Σ_{j in T} exp(s_j), minus s_t, so it is continuous. Where entries tie, this is the one of
    its subgradients that belongs to T as the value chose it, of equal entries those of lower index.
    """
    xp, kept = namespace(logits, targets), top_k_selection(logits, k, mask=mask)
    losses = _loss_over(logits, targets, kept, mask)

    def pullback(losses_bar: Array) -> tuple[Array]:  # (...) -> (..., n)
        ids, given = _check_targets(targets, logits, mask)
        s_bar = _less_one_at(masked_softmax(logits, kept), ids) * losses_bar[..., None]
        return (xp.where(given if mask is None else given & mask, s_bar, exact(0, logits)),)

    return losses, pullback


# --- probabilities that are clipped -----------------------------------------------------------------------------------------------------


def _clipped(logits: Array, clip: float) -> tuple[Array, Array, Array]:
    """(p, q, which p are within the limits): p = softmax(s), q = min(max(p, c), 1 - c)."""
    if not (isinstance(clip, float) and 0 < clip < 0.5):
        what, expected = "probabilities cannot be clipped by this", "a float, 0 < clip < 1/2"
        raise ConfigError(what, where="clipped_cross_entropy(clip)", expected=expected, got=repr(clip))
    p, xp = softmax(logits), namespace(logits)
    low, high = below(p, clip), below(-p, clip - 1)
    return p, xp.where(low, exact(clip, p), xp.where(high, exact(1 - clip, p), p)), ~(low | high)


def _clipped_loss(q: Array, ids: Array) -> Array:
    """log(Σ q / q_t)."""
    xp = namespace(q, ids)
    return xp.squeeze(xp.log(xp.sum(q, axis=-1, keepdims=True) / xp.take_along_axis(q, ids, axis=-1)), axis=-1)


@rounded_once
def clipped_cross_entropy(logits: Array, targets: Array, clip: float = 1e-7) -> Array:  # (..., n), int (...) -> (...)
    """loss = -log(q_t / Σ_j q_j), q_j = min(max(softmax(s)_j, c), 1 - c): the cross-entropy of Keras, which is handed probabilities.

    No loss is above log((1 + (n - 2) c)/c), 16.12 for c = 1e-7. A target less probable than c is hardly learned: its derivative is -p_t or less in
    size, not -1; and nothing is, where all probabilities are clipped.

    Parameters
    ----------
    logits : array, (..., n), floating or balls
    targets : integer array, (...), 0 <= target < n
    clip : float, 0 < clip < 1/2: c, and 1 - c rounded to a double

    Returns
    -------
    array, (...), the dtype of `logits`

    Raises
    ------
    DtypeError, ShapeError, TokenError, ConfigError
        as `cross_entropy`, and for a clip that is none.
    UndecidedError
        if balls do not decide which probabilities are clipped.
    """
    check_floating("logits", logits)
    _check_rows("clipped_cross_entropy", logits, -1, None)
    ids, _ = _check_targets(targets, logits, None)
    return _clipped_loss(_clipped(logits, clip)[1], ids)


@vjp_of(clipped_cross_entropy, "logits")
def clipped_cross_entropy_vjp(
    logits: Array, targets: Array, clip: float = 1e-7
) -> tuple[Array, Pullback]:  # (..., n), int (...) -> (...), pullback
    """s̄_j = (p_j ([j in I] - Σ_{i in I} q_i + [t in I] Σ q)/Σ q - [j = t in I]) loss̄, I the entries with c <= p_j <= 1 - c. Arguments as the loss.

    Elsewhere q is constant; at the limits, the derivative is that of the inside. The cotangents of a row add up to 0, and differences of
    sums are taken as sums of what one has and the other has not, so that nothing cancels.
    """
    check_floating("logits", logits)
    _check_rows("clipped_cross_entropy", logits, -1, None)
    ids, _ = _check_targets(targets, logits, None)
    (p, q, inside), xp, zero = _clipped(logits, clip), namespace(logits, targets), exact(0, logits)

    def pullback(losses_bar: Array) -> tuple[Array]:  # (...) -> (..., n)
        within, outside, beyond = (
            xp.sum(xp.where(which, part, zero), axis=-1, keepdims=True)
            for which, part in ((inside, p), (~inside, p), (~inside, q))
        )
        learned = xp.take_along_axis(inside, ids, axis=-1)
        slopes = xp.where(learned, xp.where(inside, 1 + beyond, beyond), xp.where(inside, outside, -within))
        s_bar = p * slopes / (within + beyond)
        return (xp.where(learned, _less_one_at(s_bar, ids), s_bar) * losses_bar[..., None],)

    return _clipped_loss(q, ids), pullback
