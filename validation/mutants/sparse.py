"""Mutants of sparse softmax and of its cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, wide

__all__ = ["MUTANTS", "TWINS"]


# --- which entries are kept, right and wrong ------------------------------------------------------------------------------------


def _lower_first(x: Any, k: int) -> Any:
    """The k largest, among equal ones those of lower index."""
    kept = np.zeros(x.shape, bool)
    np.put_along_axis(kept, np.argsort(-x, axis=-1, kind="stable")[..., :k], True, axis=-1)
    return kept


def _higher_first(x: Any, k: int) -> Any:
    return _lower_first(x[..., ::-1], k)[..., ::-1]


def _every_tie(x: Any, k: int) -> Any:
    return x >= np.sort(x, axis=-1)[..., ::-1][..., min(k, x.shape[-1]) - 1][..., None]


def _above_the_last(x: Any, k: int) -> Any:
    """Those above the k-th largest, and the largest."""
    return (x > np.sort(x, axis=-1)[..., ::-1][..., min(k, x.shape[-1]) - 1][..., None]) | _lower_first(x, 1)


def _row_maximum(x: Any) -> Any:
    return x.max(-1, keepdims=True)


def _sparse(x: Any, k: int, *, kept: Any = _lower_first, shift: Any = _row_maximum, total: Any = None) -> Any:
    e = np.exp(x - shift(x))
    e = np.where(chosen := kept(x, k), e, 0)
    return e / (e if total is None else total(x, e, chosen)).sum(-1, keepdims=True)


def _fixed(x: Any, k: int) -> Any:
    return _lower_first(x, 10)


def _sparsemax(x: Any, k: int) -> Any:
    """The projection onto the simplex, another sparse softmax."""
    ordered = np.sort(x - x.max(-1, keepdims=True), axis=-1)[..., ::-1]
    counts = np.arange(1, x.shape[-1] + 1)
    sums = np.cumsum(ordered, axis=-1)
    support = (1 + counts * ordered > sums).sum(-1, keepdims=True)
    threshold = (np.take_along_axis(sums, support - 1, axis=-1) - 1) / support.astype(x.dtype)
    return np.maximum(x - x.max(-1, keepdims=True) - threshold, 0)


_of_weights = family("sparse_softmax", _sparse)
_WEIGHTS = (
    _of_weights("every tie with the last is kept", "tie-rule", kept=_every_tie),
    _of_weights("higher index first", "tie-rule", kept=_higher_first),
    _of_weights("ties with the last are lost", "tie-rule", kept=_above_the_last),
    _of_weights("one too many", "off-by-one", kept=lambda x, k: _lower_first(x, k + 1)),
    _of_weights("one too few", "off-by-one", kept=lambda x, k: _lower_first(x, max(k - 1, 1))),
    _of_weights("the k smallest", "sign", kept=lambda x, k: _lower_first(-x, k)),
    _of_weights("divided by the sum of all", "not-normalised", total=lambda x, e, chosen: np.exp(x - _row_maximum(x))),
    _of_weights("softmax", "parameter-ignored", kept=lambda x, k: np.ones(x.shape, bool)),
    _of_weights("k = 10 throughout", "parameter-ignored", kept=_fixed),
    _of_weights("sparsemax", "dialect", function=_sparsemax),
    _of_weights("un-shifted", "unshifted-exp", shift=lambda x: 0),
    _of_weights(
        "others kept as 0 before exp",
        "missing-term",
        function=lambda x, k: _sparse(np.where(_lower_first(x, k), x, 0), x.shape[-1]),
    ),
    _of_weights("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_sparse)),
)


# --- the loss -----------------------------------------------------------------------------------------------------------------


def _largest(x: Any, k: int) -> Any:
    return np.sort(x, axis=-1)[..., ::-1][..., :k]


def _log_sum(x: Any) -> Any:
    c = x.max(-1)
    return c + np.log(np.exp(x - c[..., None]).sum(-1))


def _at(x: Any, targets: Any) -> Any:
    return np.take_along_axis(x, targets[..., None], axis=-1)[..., 0]


def _loss(x: Any, targets: Any, k: int, *, among: Any = _largest, log_sum: Any = _log_sum, at: Any = _at) -> Any:
    return log_sum(among(x, k)) - at(x, targets)


def _clamped(x: Any, targets: Any, k: int) -> Any:
    largest = _largest(x, k)
    return np.maximum(_log_sum(largest) - np.maximum(_at(x, targets), largest[..., -1]), 0)


def _joined(x: Any, targets: Any, k: int) -> Any:
    """As if the target were one more of the largest, whether it is among them or not."""
    return _log_sum(np.concatenate([_largest(x, k), _at(x, targets)[..., None]], -1)) - _at(x, targets)


def _ignored(x: Any, targets: Any, k: int) -> Any:
    inside = _at(_lower_first(x, k), targets)
    return np.where(inside, _loss(x, targets, k), 0)


def _sum_in_bfloat16(x: Any) -> Any:
    c, total = x.max(-1), np.zeros_like(x[..., 0])
    for j in range(x.shape[-1]):
        total = in_bfloat16(total + np.exp(x[..., j] - c))
    return c + np.log(total)


_of_loss = family("sparse_softmax_cross_entropy", _loss)
_LOSSES = (
    _of_loss("target clamped to the k-th largest", "target-outside", function=_clamped),
    _of_loss("target added to the largest", "target-outside", function=_joined),
    _of_loss("no loss where the target is not kept", "target-outside", function=_ignored),
    _of_loss(
        "logarithm of the sparse softmax", "log-of-softmax", function=lambda x, t, k: -np.log(_at(_sparse(x, k), t))
    ),
    _of_loss(
        "logarithm of the sparse softmax + 1e-9",
        "log-of-softmax",
        function=lambda x, t, k: -np.log(_at(_sparse(x, k), t) + 1e-9),
    ),
    _of_loss("over all entries", "parameter-ignored", among=lambda x, k: x),
    _of_loss("k = 10 throughout", "parameter-ignored", among=lambda x, k: _largest(x, 10)),
    _of_loss("one too many", "off-by-one", among=lambda x, k: _largest(x, k + 1)),
    _of_loss("one too few", "off-by-one", among=lambda x, k: _largest(x, max(k - 1, 1))),
    _of_loss("target one too high", "off-by-one", at=lambda x, t: _at(x, (t + 1) % x.shape[-1])),
    _of_loss("the k smallest", "sign", among=lambda x, k: -_largest(-x, k)),
    _of_loss("un-shifted", "unshifted-exp", log_sum=lambda x: np.log(np.exp(x).sum(-1))),
    _of_loss("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, log_sum=_sum_in_bfloat16),
    _of_loss("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_loss)),
)

MUTANTS: tuple[Mutant, ...] = _WEIGHTS + _LOSSES
TWINS = {"sparse_softmax": wide(_sparse), "sparse_softmax_cross_entropy": wide(_loss)}
