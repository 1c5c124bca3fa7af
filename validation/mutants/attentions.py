"""Mutants of attention with masks, with residual scores, and with relative positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, tf32, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _products(q: Any, k: Any) -> Any:
    return q @ np.swapaxes(k, -1, -2)


def _root(q: Any, k: Any) -> float:
    return math.sqrt(q.shape[-1])


def _same(given: Any) -> Any:
    return given


def _selected(scores: Any, mask: Any) -> Any:
    return scores if mask is None else np.where(mask, scores, -np.inf)


def _masked_softmax(scores: Any, mask: Any, *, hide: Any = _selected, axis: int = -1, base: Any = np.exp) -> Any:
    hidden = hide(scores, mask)
    highest = hidden.max(axis, keepdims=True)
    e = base(hidden - np.where(highest == -np.inf, 0, highest))
    total = e.sum(axis, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _added(number: float) -> Callable[[Any, Any], Any]:
    return lambda scores, mask: scores if mask is None else scores + np.where(mask, 0, number).astype(scores.dtype)


def _masked_by(hide: Any) -> Callable[[Any, Any], Any]:
    return lambda scores, mask: _masked_softmax(scores, mask, hide=hide)


def _zeroed(scores: Any, mask: Any) -> Any:
    return scores if mask is None else np.where(mask, scores, 0)


def _masked_afterwards(scores: Any, mask: Any) -> Any:
    weights = _masked_softmax(scores, None)
    return weights if mask is None else np.where(mask, weights, 0)


def _maximum_of_all(scores: Any, mask: Any) -> Any:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    e = e if mask is None else np.where(mask, e, 0)
    return e / e.sum(-1, keepdims=True)


def _unshifted(scores: Any, mask: Any) -> Any:
    e = np.exp(_selected(scores, mask))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _nan_for_nothing(scores: Any, mask: Any) -> Any:
    hidden = _selected(scores, mask)
    e = np.exp(hidden - hidden.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _uniform_for_nothing(scores: Any, mask: Any) -> Any:
    weights = _masked_softmax(scores, mask)
    return weights if mask is None else np.where(mask.any(-1, keepdims=True), weights, 1 / scores.shape[-1])


def _not_rescaled(scores: Any, mask: Any, block: int = 2) -> Any:
    """Blocks of two keys, whose sum so far should be multiplied by exp(old maximum - new maximum)."""
    hidden = _selected(scores, mask)
    highest, total = np.full_like(hidden[..., :1], -np.inf), np.zeros_like(hidden[..., :1])
    for start in range(0, hidden.shape[-1], block):
        part = hidden[..., start : start + block]
        highest = np.maximum(highest, part.max(-1, keepdims=True))
        total = total + np.exp(part - np.where(highest == -np.inf, 0, highest)).sum(-1, keepdims=True)
    return np.exp(hidden - np.where(highest == -np.inf, 0, highest)) / np.where(total == 0, 1, total)


def _whole_blocks(scores: Any, mask: Any, block: int = 4) -> Any:
    """Keys after the last whole block are not looked at, if there is one."""
    whole = scores.shape[-1] // block * block
    seen = np.arange(scores.shape[-1]) < (whole or scores.shape[-1])
    return _masked_softmax(scores, seen if mask is None else mask & seen)


def _one_more(mask: Any) -> Any:
    return mask | np.concatenate([mask[..., :1], mask[..., :-1]], axis=-1)


def _one_less(mask: Any) -> Any:
    return mask & np.concatenate([mask[..., 1:], np.zeros_like(mask[..., :1])], axis=-1)


def _of_queries(mask: Any) -> Any:
    """A mask of the keys, applied to the queries."""
    return np.swapaxes(mask, -1, -2) if mask.shape[-2] == 1 else mask


def _from_the_start(mask: Any) -> Any:
    """The lower triangle that starts at the first key, whichever positions the queries have."""
    return mask & np.tril(np.ones(mask.shape, bool)) if mask.ndim == 2 else mask


def _is_masked(case: Case) -> bool:
    return case.params["mask"] is not None


# --- attention ----------------------------------------------------------------------------------------------------------------


def _attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    *,
    products: Any = _products,
    divisor: Any = _root,
    given: Any = _same,
    weigh: Any = _masked_softmax,
    mix: Any = np.matmul,
    merge: Any = _same,
) -> Any:
    scores = products(q, k) / divisor(q, k)
    return merge(mix(weigh(scores, None if mask is None else given(mask)), v))


def _flat(k: Any) -> Any:
    """The matrix k, as if it lay in memory transposed."""
    return k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2])


def _not_turned_back(out: Any) -> Any:
    """The heads of each position side by side, read as if positions lay side by side."""
    return np.swapaxes(out, -3, -2).reshape(out.shape)


_of = family("attention", _attention)
_MASKS = (
    _of("one key too many", "mask-off-by-one", seen=_is_masked, given=_one_more),
    _of("one key too few", "mask-off-by-one", seen=_is_masked, given=_one_less),
    _of("rolled by one key", "mask-off-by-one", seen=_is_masked, given=lambda mask: np.roll(mask, 1, axis=-1)),
    _of("no mask", "mask-ignored", seen=_is_masked, given=lambda mask: np.ones_like(mask)),
    _of("true hides", "mask-inverted", seen=_is_masked, given=np.logical_not),
    _of("queries masked instead of keys", "mask-transposed", seen=_is_masked, given=_of_queries),
    _of("aligned to the first key", "mask-alignment", seen=_is_masked, given=_from_the_start),
    _of("-10⁴ added", "additive-mask", seen=_is_masked, weigh=_masked_by(_added(-1e4))),
    _of("-10⁹ added", "additive-mask", seen=_is_masked, weigh=_masked_by(_added(-1e9))),
    _of("-100 added", "additive-mask", seen=_is_masked, weigh=_masked_by(_added(-100))),
    _of("masked scores set to 0", "additive-mask", seen=_is_masked, weigh=_masked_by(_zeroed)),
    _of("weights masked, not renormalised", "mask-after-softmax", seen=_is_masked, weigh=_masked_afterwards),
    _of("masked scores in the maximum", "mask-in-maximum", seen=_is_masked, weigh=_maximum_of_all),
    _of("NaN where nothing is allowed", "fully-masked-row", seen=_is_masked, weigh=_nan_for_nothing),
    _of("mean where nothing is allowed", "fully-masked-row", seen=_is_masked, weigh=_uniform_for_nothing),
)
_ATTENTION = (
    *_MASKS,
    _of("missing 1/√d", "missing-scale", divisor=lambda q, k: 1),
    _of("1/d for 1/√d", "wrong-scale", divisor=lambda q, k: q.shape[-1]),
    _of("1/√(h d) for 1/√d", "wrong-scale", divisor=lambda q, k: math.sqrt(q.shape[-1] * q.shape[-3])),
    _of("1/√m for 1/√d", "wrong-scale", divisor=lambda q, k: math.sqrt(k.shape[-2])),
    _of("un-shifted", "unshifted-exp", weigh=_unshifted),
    _of("softmax over queries", "wrong-axis", weigh=lambda scores, mask: _masked_softmax(scores, mask, axis=-2)),
    _of("powers of two", "wrong-base", weigh=lambda scores, mask: _masked_softmax(scores, mask, base=np.exp2)),
    _of("keys read transposed", "transposed", products=lambda q, k: q @ _flat(k)),
    _of("keys of another head", "head-order", products=lambda q, k: _products(q, np.roll(k, 1, axis=-3))),
    _of("heads merged without turning back", "head-order", merge=_not_turned_back),
    _of("blocks of two keys, not rescaled", "not-rescaled", weigh=_not_rescaled),
    _of("whole blocks of four keys only", "ragged-tail", weigh=_whole_blocks),
    _of("weights in bfloat16", "low-precision", dtypes=LONG, mix=lambda weights, v: in_bfloat16(weights) @ v),
    _of("TF32 products", "low-precision", dtypes=LONG, products=lambda q, k: _products(tf32(q), tf32(k))),
    _of("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_attention)),
    _of("√d of type float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_attention)),
)


# --- with the scores of earlier layers ------------------------------------------------------------------------------------------


def _plus(scores: Any, previous: Any, mask: Any) -> Any:
    return scores + previous


def _residual(
    q: Any,
    k: Any,
    v: Any,
    previous: Any,
    mask: Any,
    mean_over: int,
    *,
    divisor: Any = _root,
    add: Any = _plus,
    mean: Any = np.divide,
    weigh: Any = _masked_softmax,
    given: Any = _same,
) -> Any:
    scores = add(_products(q, k) / divisor(q, k), previous, mask)
    return weigh(mean(scores, mean_over), None if mask is None else given(mask)) @ v


def _both_weighed(q: Any, k: Any, v: Any, previous: Any, mask: Any, mean_over: int) -> Any:
    """The weights of both, averaged, for the weights of the sum."""
    scores = _products(q, k) / _root(q, k)
    return (_masked_softmax(scores, mask) + _masked_softmax(previous / mean_over, mask)) / 2 @ v


def _turned(previous: Any) -> Any:
    return np.swapaxes(previous, -1, -2) if previous.shape[-1] == previous.shape[-2] else previous


def _deep(case: Case) -> bool:
    return bool(case.params["mean_over"] > 1)


_of_residual = family("residual_attention", _residual)
_RESIDUAL = (
    _of_residual("previous scores forgotten", "scores-not-accumulated", add=lambda s, previous, mask: s),
    _of_residual("only the previous scores", "scores-not-accumulated", add=lambda s, previous, mask: previous),
    _of_residual("weights averaged, not scores added", "scores-not-accumulated", function=_both_weighed),
    _of_residual(
        "added before 1/√d",
        "wrong-scale",
        function=lambda q, k, v, previous, mask, mean_over: _residual(q, k, v, previous / _root(q, k), mask, mean_over),
    ),
    _of_residual("added twice", "wrong-coefficient", add=lambda s, previous, mask: s + 2 * previous),
    _of_residual("subtracted", "sign", add=lambda s, previous, mask: s - previous),
    _of_residual("of another head", "head-order", add=lambda s, previous, mask: s + np.roll(previous, 1, axis=-3)),
    _of_residual("transposed", "transposed", add=lambda s, previous, mask: s + _turned(previous)),
    _of_residual("missing 1/√d", "missing-scale", divisor=lambda q, k: 1),
    _of_residual("sum for mean", "parameter-ignored", seen=_deep, mean=lambda s, count: s),
    _of_residual("mean over one layer less", "wrong-count", seen=_deep, mean=lambda s, count: s / max(count - 1, 1)),
    _of_residual("mean over one layer more", "wrong-count", mean=lambda s, count: s / (count + 1)),
    _of_residual(
        "only this layer's scores divided",
        "wrong-count",
        seen=_deep,
        function=lambda q, k, v, previous, mask, mean_over: _residual(q / mean_over, k, v, previous, mask, 1),
    ),
    _of_residual(
        "only the previous scores divided",
        "wrong-count",
        seen=_deep,
        function=lambda q, k, v, previous, mask, mean_over: _residual(q, k, v, previous / mean_over, mask, 1),
    ),
    _of_residual("no mask", "mask-ignored", seen=_is_masked, given=lambda mask: np.ones_like(mask)),
    _of_residual("one key too many", "mask-off-by-one", seen=_is_masked, given=_one_more),
    _of_residual(
        "masked with -10⁴, then added",
        "mask-before-sum",
        seen=_is_masked,
        add=lambda s, previous, mask: _added(-1e4)(s, mask) + previous,
        weigh=lambda s, mask: _masked_softmax(s, None),
    ),
    _of_residual(
        "masked with 0, then added",
        "mask-before-sum",
        seen=_is_masked,
        add=lambda s, previous, mask: _zeroed(s, mask) + previous,
        weigh=lambda s, mask: _masked_softmax(s, None),
    ),
    _of_residual("masked scores in the maximum", "mask-in-maximum", seen=_is_masked, weigh=_maximum_of_all),
    _of_residual("NaN where nothing is allowed", "fully-masked-row", seen=_is_masked, weigh=_nan_for_nothing),
    _of_residual("un-shifted", "unshifted-exp", weigh=_unshifted),
    _of_residual(
        "previous scores in bfloat16", "low-precision", dtypes=LONG, add=lambda s, p, mask: s + in_bfloat16(p)
    ),
    _of_residual("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_residual)),
)


# --- with relative positions ----------------------------------------------------------------------------------------------------


def _relative(
    q: Any,
    k: Any,
    v: Any,
    relative: Any,
    mask: Any,
    *,
    divisor: Any = _root,
    in_keys: Any = _same,
    in_values: Any = _same,
    given: Any = _same,
) -> Any:
    scores = (_products(q, k) + np.einsum("...id,ijd->...ij", q, in_keys(relative))) / divisor(q, k)
    weights = _masked_softmax(scores, None if mask is None else given(mask))
    return weights @ v + np.einsum("...ij,ijd->...id", weights, in_values(relative))


def _both(change: Any) -> dict[str, Any]:
    return {"in_keys": change, "in_values": change}


def _columns(relative: Any, column: Callable[[Any, Any], Any]) -> Any:
    """R_i,c(i, j) for a column c, limited to those there are; i + m - n is the query's own place."""
    n, m = relative.shape[:2]
    i, j = np.arange(n)[:, None], np.arange(m)[None, :]
    return relative[i, np.clip(column(i + m - n, j), 0, m - 1)]


def _nearer(relative: Any) -> Any:
    """Distances limited to 2, where the table goes to 3."""
    return _columns(relative, lambda i, j: i + np.clip(j - i, -2, 2))


def _negated(relative: Any) -> Any:
    return _columns(relative, lambda i, j: 2 * i - j)


def _halves(relative: Any) -> Any:
    """The sines, then the cosines, where they alternate."""
    return np.concatenate([relative[..., 0::2], relative[..., 1::2]], axis=-1)


def _to_queries(q: Any, k: Any, v: Any, relative: Any, mask: Any) -> Any:
    """(q_i + R_ij)·k_j for q_i·(k_j + R_ij)."""
    scores = (_products(q, k) + np.einsum("...jd,ijd->...ij", k, relative)) / _root(q, k)
    weights = _masked_softmax(scores, mask)
    return weights @ v + np.einsum("...ij,ijd->...id", weights, relative)


def _fewer_queries(case: Case) -> bool:
    return case.arrays[0].shape[-2] < case.arrays[1].shape[-2]


_of_relative = family("relative_attention", _relative)
_RELATIVE = (
    _of_relative("not in the values", "relative-positions", in_values=np.zeros_like),
    _of_relative("not in the keys", "relative-positions", in_keys=np.zeros_like),
    _of_relative("not at all", "relative-positions", **_both(np.zeros_like)),
    _of_relative("added to queries, not to keys", "exchanged", function=_to_queries),
    _of_relative("i - j for j - i", "sign", **_both(_negated)),
    _of_relative("i - j for j - i in the values", "sign", in_values=_negated),
    _of_relative("one distance too far", "off-by-one", **_both(lambda r: _columns(r, lambda i, j: j + 1))),
    _of_relative("clipped one distance early", "off-by-one", **_both(_nearer)),
    _of_relative(
        "distances from the first query", "mask-alignment", **_both(lambda r: np.broadcast_to(r[:1], r.shape))
    ),
    _of_relative(
        "queries placed at the start",
        "positions",
        seen=_fewer_queries,
        **_both(lambda r: _columns(r, lambda i, j: j + r.shape[1] - r.shape[0])),
    ),
    _of_relative("sines before cosines", "interleaving", **_both(_halves)),
    _of_relative(
        "sines and cosines exchanged",
        "exchanged",
        **_both(lambda r: r.reshape(*r.shape[:-1], -1, 2)[..., ::-1].reshape(r.shape)),
    ),
    _of_relative(
        "added after 1/√d", "wrong-scale", dtypes=("float16", *LONG), in_keys=lambda r: r * math.sqrt(r.shape[-1])
    ),
    _of_relative("divided in the values too", "wrong-scale", in_values=lambda r: r / math.sqrt(r.shape[-1])),
    _of_relative("missing 1/√d", "missing-scale", divisor=lambda q, k: 1),
    _of_relative("no mask", "mask-ignored", seen=_is_masked, given=lambda mask: np.ones_like(mask)),
    _of_relative("one key too many", "mask-off-by-one", seen=_is_masked, given=_one_more),
    _of_relative("embeddings in bfloat16", "low-precision", dtypes=LONG, **_both(in_bfloat16)),
    _of_relative("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_relative)),
)

MUTANTS: tuple[Mutant, ...] = _ATTENTION + _RESIDUAL + _RELATIVE
TWINS = {"attention": wide(_attention), "residual_attention": wide(_residual), "relative_attention": wide(_relative)}
