"""Mutants of the backward passes of sparse softmax and its loss, Taylor softmax, hierarchical positions, random features and pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.backwards import joined
from validation.mutants.backward_attentions import FINER, NARROW, Features
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- sparse softmax and its loss --------------------------------------------------------------------------------------------------


def _kept(x: Any, k: int) -> Any:
    """The k largest; of equal ones the first."""
    places = np.argsort(-x, axis=-1, kind="stable")[..., : min(k, x.shape[-1])]
    kept = np.zeros(x.shape, bool)
    np.put_along_axis(kept, places, True, axis=-1)
    return kept


def _last_first(x: Any, k: int) -> Any:
    return np.flip(_kept(np.flip(x, -1), k), -1)


def _and_equals(x: Any, k: int) -> Any:
    kept = _kept(x, k)
    return x >= np.where(kept, x, np.inf).min(-1, keepdims=True)


def _everything(x: Any, k: int) -> Any:
    return np.ones(x.shape, bool)


def _weights(x: Any, kept: Any, *, shift: bool = True) -> Any:
    e = np.where(kept, np.exp(x - x.max(-1, keepdims=True) if shift else x), 0)
    return e / e.sum(-1, keepdims=True)


def _of_sparse(
    x: Any,
    cotangent: Any,
    k: int,
    *,
    chosen: Any = _kept,
    weights: Any = _weights,
    inner: Any = None,
    masked: bool = True,
) -> Any:
    kept = chosen(x, k)
    p = weights(x, kept)
    centred = cotangent - (inner(p, cotangent) if inner else (p * cotangent).sum(-1, keepdims=True))
    return p * centred if masked else np.where(kept, p * centred, centred)


def _selective(case: Case) -> bool:
    return bool(case.params["k"] < case.arrays[0].shape[-1])


_sparse_bug = family("sparse_softmax.vjp", _of_sparse)
_SPARSE = (
    _sparse_bug("of softmax: everything is kept", "parameter-ignored", seen=_selective, chosen=_everything),
    _sparse_bug("of equal entries the last", "tie-rule", seen=_selective, chosen=_last_first),
    _sparse_bug("all equal entries", "tie-rule", seen=_selective, chosen=_and_equals),
    _sparse_bug("k - 1 entries", "off-by-one", chosen=lambda x, k: _kept(x, max(k - 1, 1))),
    _sparse_bug("k + 1 entries", "off-by-one", seen=_selective, chosen=lambda x, k: _kept(x, k + 1)),
    _sparse_bug("dropped entries get the centred cotangent", "mask-ignored", seen=_selective, masked=False),
    _sparse_bug("Σ p p̄ left out", "missing-term", inner=lambda p, bar: 0),
    _sparse_bug("Σ p̄ without weights", "chain-rule", inner=lambda p, bar: bar.sum(-1, keepdims=True)),
    _sparse_bug("Σ p p̄ added", "sign", inner=lambda p, bar: -(p * bar).sum(-1, keepdims=True)),
    _sparse_bug(
        "p kept in bfloat16", "low-precision", dtypes=LONG, weights=lambda x, kept: in_bfloat16(_weights(x, kept))
    ),
    _sparse_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_sparse)),
    _sparse_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_sparse)),
)


def _one_hot(s: Any, targets: Any, off: int = 0) -> Any:
    return np.arange(s.shape[-1]) == targets[..., None] + off


def _of_loss(
    logits: Any,
    targets: Any,
    cotangent: Any,
    k: int,
    *,
    chosen: Any = _kept,
    said: Any = _one_hot,
    weights: Any = _weights,
    factor: Any = None,
    inside: bool = False,
) -> Any:
    kept = chosen(logits, k)
    bar = weights(logits, kept) - said(logits, targets)
    bar = np.where(kept, bar, 0) if inside else bar
    return bar * (factor(cotangent) if factor else cotangent[..., None])


_loss_bug = family("sparse_softmax_cross_entropy.vjp", _of_loss)
_LOSS = (
    _loss_bug("over all entries", "parameter-ignored", seen=_selective, chosen=_everything),
    _loss_bug("of equal entries the last", "tie-rule", seen=_selective, chosen=_last_first),
    _loss_bug("k - 1 entries", "off-by-one", chosen=lambda x, k: _kept(x, max(k - 1, 1))),
    _loss_bug("a target outside gets nothing", "target-outside", seen=_selective, inside=True),
    _loss_bug("one-hot one place on", "off-by-one", said=lambda s, t: _one_hot(s, t, 1)),
    _loss_bug("one-hot left out", "missing-term", said=lambda s, t: 0),
    _loss_bug("one-hot minus softmax", "sign", factor=lambda bar: -bar[..., None]),
    _loss_bug("averaged over the batch", "wrong-count", factor=lambda bar: bar[..., None] / (2 * bar.size)),
    _loss_bug("cotangent ignored", "chain-rule", factor=lambda bar: 1),
    _loss_bug(
        "p kept in bfloat16", "low-precision", dtypes=LONG, weights=lambda x, kept: in_bfloat16(_weights(x, kept))
    ),
    _loss_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_loss)),
    _loss_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_loss)),
)


# --- Taylor softmax -----------------------------------------------------------------------------------------------------------------


def _polynomial(x: Any, order: int) -> Any:
    """Σ x^k/k!, of float64, since terms cancel left of 0; rounded once."""
    wide_x = x.astype(np.longdouble)
    return sum(wide_x**k / math.factorial(k) for k in range(order + 1))


def _of_taylor(x: Any, cotangent: Any, order: int, *, slope: Any = None, inner: Any = None, total: bool = True) -> Any:
    f = _polynomial(x, order)
    p = f / f.sum(-1, keepdims=True)
    steep = slope(x, order, f) if slope else _polynomial(x, order - 1)
    centred = cotangent - (inner(p, cotangent) if inner else (p * cotangent).sum(-1, keepdims=True))
    return (steep / (f.sum(-1, keepdims=True) if total else 1) * centred).astype(x.dtype)


_taylor_bug = family("taylor_softmax.vjp", _of_taylor)
_TAYLOR = (
    _taylor_bug("of softmax: f' = f", "chain-rule", dtypes=FINER, slope=lambda x, order, f: f),
    _taylor_bug("f' two orders below", "off-by-one", dtypes=FINER, slope=lambda x, order, f: _polynomial(x, order - 2)),
    _taylor_bug("|f'|", "sign", slope=lambda x, order, f: np.abs(_polynomial(x, order - 1))),
    _taylor_bug(
        "f' cut off left of its zero",
        "clipped",
        dtypes=FINER,
        slope=lambda x, order, f: np.maximum(_polynomial(x, order - 1), 0),
    ),
    _taylor_bug("sum a constant", "gradient-dropped", dtypes=FINER, inner=lambda p, bar: 0),
    _taylor_bug(
        "centred by the mean of p̄", "chain-rule", dtypes=FINER, inner=lambda p, bar: bar.mean(-1, keepdims=True)
    ),
    _taylor_bug("not divided by the sum", "not-normalised", total=False),
    _taylor_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_taylor)),
    _taylor_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_taylor)),
)


# --- hierarchical positions -----------------------------------------------------------------------------------------------------------


def _of_positions(
    table: Any,
    positions: Any,
    cotangent: Any,
    alpha: float,
    *,
    split: Any = lambda t, n: (t // n, t % n),
    first: bool = True,
    factor: Any = lambda alpha: alpha / (1 - alpha),
    sums: bool = True,
    coarse: bool = True,
    direct: bool = True,
) -> Any:
    n, bar = len(table), np.zeros_like(table)
    rows, at = cotangent.reshape(-1, table.shape[-1]), positions.reshape(-1)
    beta = factor(alpha)
    for row, t in zip(rows, at, strict=True):
        i, j = split(int(t), n)
        for place, amount in (
            (j, 1.0 if direct else 1 - alpha),
            (i, beta if coarse and t >= n else 0),
            (0, -beta if first and t >= n else 0),
        ):
            share = (amount * row).astype(table.dtype)
            if sums or place == 0:
                bar[place] += share
            else:
                bar[place] = share
    return bar


def _longer(case: Case) -> bool:
    return bool(np.max(case.arrays[1]) >= len(case.arrays[0]))


_position_bug = family("hierarchical_positions.vjp", _of_positions)
_POSITIONS = (
    _position_bug("the last of equal positions alone", "not-summed", sums=False),
    _position_bug("nothing to i", "gradient-dropped", seen=_longer, coarse=False),
    _position_bug("nothing through p₁", "gradient-dropped", seen=_longer, first=False),
    _position_bug("i and j exchanged", "exchanged", split=lambda t, n: (t % n, t // n)),
    _position_bug("alpha for alpha/(1 - alpha)", "missing-scale", seen=_longer, factor=lambda alpha: alpha),
    _position_bug("j gets 1 - alpha", "wrong-coefficient", direct=False),
    _position_bug("i one too large", "off-by-one", seen=_longer, split=lambda t, n: (min(t // n + 1, n - 1), t % n)),
    _position_bug(
        "alpha 0.4 throughout",
        "parameter-ignored",
        seen=lambda case: case.params["alpha"] != 0.4,
        factor=lambda alpha: 0.4 / 0.6,
    ),
    _position_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_positions)),
    _position_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_positions)),
)


# --- positive random features -----------------------------------------------------------------------------------------------------------


_AXES = {"none": None, "row": (-1,), "head": (-2, -1)}


def _of_features(
    x: Any, projection: Any, cotangent: Any, scaled: bool, shift: str, epsilon: float, normalized: bool, **options: Any
) -> Any:
    finish, scaling = options.pop("finish", None), options.pop("scaling", scaled)
    made = Features(x, projection, _AXES[shift], epsilon, None, doubled=False, scaled=scaling)
    bars = made.back(cotangent if normalized else cotangent * math.sqrt(len(projection)), **options)
    return joined(finish(*bars) if finish else bars)


def _shifted(case: Case) -> bool:
    return bool(case.params["shift"] != "none")


def _is_scaled(case: Case) -> bool:
    return bool(case.params["scaled"])


_feature_bug = family("positive_features.vjp", _of_features)
_FEATURES = (
    _feature_bug("maxima held constant", "gradient-dropped", dtypes=FINER, seen=_shifted, largest=False),
    _feature_bug("nothing through |x|²/2", "gradient-dropped", half=False),
    _feature_bug("d^-1/4 left out of x̄", "missing-scale", dtypes=FINER, seen=_is_scaled, outward=False),
    _feature_bug("x not scaled", "missing-scale", dtypes=FINER, seen=_is_scaled, scaling=False),
    _feature_bug("|x|² for |x|²/2", "missing-half-square", twice=True),
    _feature_bug("projection gets nothing", "gradient-dropped", finish=lambda x, w: (x, 0 * w)),
    _feature_bug("x gets nothing", "gradient-dropped", finish=lambda x, w: (0 * x, w)),
    _feature_bug("cotangent of epsilon too", "eps-outside-bracket", dtypes=LONG, seen=_shifted, with_epsilon=True),
    _feature_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_features)),
    _feature_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_features)),
)


# --- pooling ----------------------------------------------------------------------------------------------------------------------


def _of_mean(hidden: Any, mask: Any, cotangent: Any, *, count: Any = None, allowed: Any = None) -> Any:
    counted = (count or _tokens)(mask).reshape(-1, 1).astype(hidden.dtype)
    return np.where((allowed(mask) if allowed else mask)[..., None], (cotangent / counted)[:, None, :], 0)


def _tokens(mask: Any) -> Any:
    return mask.sum(-1)


def _first_token(mask: Any) -> Any:
    return mask & (np.cumsum(mask, -1) == 1)


def _padded(case: Case) -> bool:
    return not bool(np.all(case.arrays[1]))


def _long(case: Case) -> bool:
    return bool(case.arrays[1].shape[-1] > 1)


_mean_bug = family("mean_pooling.vjp", _of_mean)
_MEAN = (
    _mean_bug("padding gets a share", "mask-ignored", seen=_padded, allowed=np.ones_like),
    _mean_bug(
        "divided by the length", "wrong-count", seen=_padded, count=lambda mask: np.full(len(mask), mask.shape[-1])
    ),
    _mean_bug("not divided", "missing-scale", seen=_padded, count=lambda mask: np.ones(len(mask))),
    _mean_bug("one too many", "off-by-one", count=lambda mask: mask.sum(-1) + 1),
    _mean_bug("padding instead of tokens", "mask-inverted", allowed=np.logical_not),
    _mean_bug("to the first token alone", "gradient-dropped", seen=_long, allowed=_first_token),
    _mean_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_mean)),
    _mean_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_mean)),
)


def _of_unit(x: Any, cotangent: Any, *, inner: Any = None, power: int = 1, eps: float = 0.0) -> Any:
    largest = np.abs(x).max(-1, keepdims=True)
    small = x / largest
    length = np.sqrt((small**2).sum(-1, keepdims=True) + eps)
    y = small / length
    along = inner(y, cotangent) if inner else (y * cotangent).sum(-1, keepdims=True)
    return (cotangent - y * along) / (length * largest) ** power


_unit_bug = family("unit_length.vjp", _of_unit)
_UNIT = (
    _unit_bug("length a constant", "gradient-dropped", inner=lambda y, bar: 0),
    _unit_bug("projection added", "sign", inner=lambda y, bar: -(y * bar).sum(-1, keepdims=True)),
    _unit_bug("projected on ȳ's sum", "chain-rule", inner=lambda y, bar: bar.sum(-1, keepdims=True)),
    _unit_bug("not divided by the length", "missing-scale", power=0),
    _unit_bug("divided by its square", "wrong-order", power=2),
    _unit_bug("eps 1e-3 in the root", "wrong-eps", dtypes=LONG, eps=1e-3),
    _unit_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_unit)),
    _unit_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_unit)),
)


MUTANTS: tuple[Mutant, ...] = _SPARSE + _LOSS + _TAYLOR + _POSITIONS + _FEATURES + _MEAN + _UNIT
TWINS: dict[str, Callable[..., Any]] = {
    "sparse_softmax.vjp": wide(_of_sparse),
    "sparse_softmax_cross_entropy.vjp": wide(_of_loss),
    "taylor_softmax.vjp": wide(_of_taylor),
    "hierarchical_positions.vjp": wide(_of_positions),
    "positive_features.vjp": wide(_of_features),
    "mean_pooling.vjp": wide(_of_mean),
    "unit_length.vjp": wide(_of_unit),
}
