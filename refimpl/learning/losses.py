"""What is learned: the mean cross-entropy of the tokens that count.

    L = 1/N Σ_i c_i (log Σ_j exp(s_ij) - s_it),     c_i = 1 where a target counts, else 0;     N = Σ_i c_i unless given              (1)

With N given, a batch that is computed in pieces has the sum of its pieces' losses, and the sum of their gradients: N is the count of all of them.

Reference: A. Radford et al., "Improving language understanding by generative pre-training" (2018), equation (1), as a mean and negated.
"""

from __future__ import annotations

from refimpl.errors import ConfigError, ShapeError
from refimpl.gradients import Pullback, vjp_of
from refimpl.number_system import Array, check_boolean, exact, namespace, rounded_once, whole_number
from refimpl.softmax import counted_mean, cross_entropy, cross_entropy_vjp

__all__ = ["mean_cross_entropy", "mean_cross_entropy_vjp"]


@rounded_once
def mean_cross_entropy(
    logits: Array, targets: Array, counted: Array, total: int | None = None
) -> Array:  # (..., n), int (...), bool (...) -> ()
    """L = 1/N Σ_i c_i (log Σ_j exp(s_ij) - s_it).

    Parameters
    ----------
    logits : array, (..., n), floating or balls
    targets : integer array, (...), 0 <= target < n where they count; others are not looked at
    counted : boolean array, (...), true where a target counts
    total : N; None counts the true ones

    Returns
    -------
    array, (), the dtype of `logits`. Logits where nothing counts have no influence, whatever they hold

    Raises
    ------
    ConfigError, DtypeError, ShapeError, TokenError
        as `cross_entropy`; ShapeError if the shapes differ or nothing counts; ConfigError if `total` is no whole number.
    """
    xp, n = namespace(logits, targets, counted), _total(logits, targets, counted, total)
    losses = cross_entropy(logits, xp.where(counted, targets, xp.zeros_like(targets)))
    return counted_mean(losses, counted, n)


@vjp_of(mean_cross_entropy, "logits")
def mean_cross_entropy_vjp(
    logits: Array, targets: Array, counted: Array, total: int | None = None
) -> tuple[Array, Pullback]:  # (..., n), int (...), bool (...) -> (), pullback
    """s̄_ij = c_i (softmax(s_i)_j - [j = t]) L̄/N, exactly 0 where nothing counts. Arguments and errors as `mean_cross_entropy`."""
    xp, n = namespace(logits, targets, counted), _total(logits, targets, counted, total)
    losses, back = cross_entropy_vjp(logits, xp.where(counted, targets, xp.zeros_like(targets)))

    def pullback(loss_bar: Array) -> tuple[Array]:  # () -> (..., n)
        (s_bar,) = back(xp.broadcast_to(loss_bar / exact(n, logits), counted.shape))
        return (xp.where(counted[..., None], s_bar, exact(0, logits)),)

    return counted_mean(losses, counted, n), pullback


def _total(logits: Array, targets: Array, counted: Array, total: int | None) -> int:
    """N, once everything fits."""
    check_boolean("mean_cross_entropy(counted)", counted)
    if not tuple(counted.shape) == tuple(targets.shape) == tuple(logits.shape[:-1]):
        raise ShapeError(
            "logits, targets and what counts do not fit",
            where="mean_cross_entropy",
            expected=f"targets and counted of shape {tuple(logits.shape[:-1])}",
            got=f"{tuple(targets.shape)} and {tuple(counted.shape)}",
        )
    xp = namespace(counted)
    n = whole_number(int(xp.sum(xp.astype(counted, xp.int64))) if total is None else total)
    if n is None:
        where, expected = "mean_cross_entropy(total)", "a whole number of targets, or None"
        raise ConfigError("a mean is over a number of targets", where=where, expected=expected, got=repr(total))
    if n < 1:
        raise ShapeError("no target counts", where="mean_cross_entropy", expected="at least one", got=n)
    return n
