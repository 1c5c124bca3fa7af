"""Scaled dot-product attention with boolean masks and optional residual scores.

    S = Q Kᵀ/√d + S_previous            O = softmax(S restricted to the mask) V

The scores that are returned, and that a RealFormer layer hands to the next, carry no mask; on request they are
Q Kᵀ/√d alone, which is what bert4keras 0.11.5 hands on. A query that may attend to nothing gets zeros.

With relative position embeddings R (NEZHA; `refimpl.positions.relative_positions`), which enter scores and values:

    S_ij = q_i·(k_j + R_ij)/√d + S_previous            o_i = Σ_j p_ij (v_j + R_ij)

References: A. Vaswani et al., "Attention is all you need", arXiv 1706.03762, eq. (1); R. He et al., "RealFormer", arXiv 2012.11747,
section 3; J. Wei et al., "NEZHA", arXiv 1909.00204, section 2.2; L. Dong et al., "Unified language model pre-training for natural language
understanding and generation", arXiv 1905.03197, section 2.3 (the sequence-to-sequence mask).
"""

from __future__ import annotations

from typing import Any, Literal

from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.number_system import (
    Array,
    check_floating,
    namespace,
    products_of,
    rounded_once,
    square_root,
    whole_number,
)
from refimpl.softmax import masked_softmax

__all__ = ["HandedOn", "causal_mask", "merge_heads", "scaled_dot_product_attention", "split_heads", "unilm_mask"]

HandedOn = Literal["sum", "own"]


def causal_mask(n_query: int, n_key: int, *, xp: Any, device: Any = None) -> Array:  # -> bool (n_query, n_key)
    """mask[i, j] = (j <= i + n_key - n_query): the queries are the last `n_query` of the `n_key` positions.

    Parameters
    ----------
    n_query, n_key : int, n_query <= n_key
    xp : array-API namespace in which the mask is made
    device : the namespace's device, or None for its default

    Raises
    ------
    ShapeError
        if there are more queries than keys.
    """
    if n_query > n_key:
        raise ShapeError("more queries than keys", where="causal_mask", expected=f"n_query <= {n_key}", got=n_query)
    query = xp.arange(n_query, device=device)[:, None] + (n_key - n_query)
    return xp.arange(n_key, device=device)[None, :] <= query


def unilm_mask(segment_ids: Array) -> Array:  # int (batch, n) -> bool (batch, 1, n, n)
    """mask[b, 0, i, j] = (c_j <= c_i) with c = cumsum(segment_ids): segment 0 sees itself whole, what follows sees what came before it.

    Where the zeros come first, as in a source (0) and its target (1), that is: a source token sees the source, a target token the source and the
    target up to itself. Zeros after the last non-zero id, where padding has them, share its c: it would see them, so hide padding with a mask.

    Parameters
    ----------
    segment_ids : int array, (batch, n), 0 or above

    Returns
    -------
    boolean array, (batch, 1, n, n)

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the ids are not whole numbers, do not have two axes, or one of them is negative.
    """
    if "int" not in str(segment_ids.dtype):
        expected, remedy = "an integer dtype", "0 for the source, 1 for the target"
        raise DtypeError("segment ids must be whole numbers", expected=expected, got=segment_ids.dtype, remedy=remedy)
    if segment_ids.ndim != 2:
        raise ShapeError("segment_ids must have two axes", expected="(batch, n)", got=tuple(segment_ids.shape))
    xp = namespace(segment_ids)
    if bool(xp.any(segment_ids < 0)):
        lowest = int(xp.min(segment_ids))
        raise ConfigError("a segment id is negative", where="unilm_mask", expected="0 or above", got=lowest)
    count = xp.cumulative_sum(segment_ids, axis=-1)  # of a narrow dtype, in the default one: so the standard says
    return (count[:, None, :] <= count[:, :, None])[:, None, :, :]


def split_heads(x: Array, heads: int) -> Array:  # (batch, length, heads * w) -> (batch, heads, length, w)
    """x[b, t, h w + j] -> x'[b, h, t, j]: the heads side by side become an axis.

    Raises
    ------
    ShapeError
        if the width is no multiple of `heads`.
    """
    xp = namespace(x)
    batch, length, width = x.shape
    if width % heads:
        raise ShapeError("the width does not divide into the heads", expected=f"a multiple of {heads}", got=width)
    return xp.permute_dims(xp.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


def merge_heads(x: Array) -> Array:  # (batch, heads, length, w) -> (batch, length, heads * w)
    """x[b, h, t, j] -> x'[b, t, h w + j]: the inverse of `split_heads`."""
    xp = namespace(x)
    batch, heads, length, width = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (batch, length, heads * width))


def _check_attention(q: Array, k: Array, v: Array) -> None:
    for name, array in (("q", q), ("k", k), ("v", v)):
        check_floating(name, array)
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            "query, key and value do not fit together",
            where="scaled_dot_product_attention",
            expected="q (..., n, d), k (..., m, d), v (..., m, e)",
            got=f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}",
        )


def _check_a_key(k: Array) -> None:
    if k.shape[-2] < 1:
        raise ShapeError(
            "there is no key to attend to",
            where="scaled_dot_product_attention",
            expected="k (..., m, d) with m >= 1",
            got=f"k {tuple(k.shape)}",
        )


def _check_pairs(name: str, array: Array | None, scores: Array) -> None:
    """Raise unless `array` broadcasts to the scores without making them larger."""
    pairs = tuple(scores.shape)
    fits = array is None or all(a in (1, b) for a, b in zip(array.shape[-1:-3:-1], pairs[-1:-3:-1], strict=False))
    if array is not None and not fits:
        raise ShapeError(
            f"{name} does not fit the pairs of queries and keys",
            where="scaled_dot_product_attention",
            expected=f"a shape that broadcasts to (..., n, m), here {pairs}",
            got=tuple(array.shape),
        )


def _checked_layers(q: Array, k: Array, v: Array, relative: Array | None, mean_over: int) -> int:
    """`mean_over` as an int; raise unless it counts layers, and relative positions fit."""
    pairs = (q.shape[-2], k.shape[-2], q.shape[-1])
    if relative is not None and (tuple(relative.shape) != pairs or v.shape[-1] != pairs[-1]):
        raise ShapeError(
            "relative positions must fit queries, keys and values",
            where="scaled_dot_product_attention(relative=...)",
            expected=f"(n, m, d) = {pairs}, and values of width {pairs[-1]}",
            got=f"relative {tuple(relative.shape)}, v {tuple(v.shape)}",
        )
    whole = whole_number(mean_over)
    if whole is None or whole < 1:
        where = "scaled_dot_product_attention(mean_over=...)"
        raise ConfigError("mean_over counts layers", where=where, expected="a whole number from 1", got=repr(mean_over))
    return whole


def _check_handed_on(hand_on: str) -> None:
    if hand_on not in ("sum", "own"):
        where = "scaled_dot_product_attention(hand_on=...)"
        raise ConfigError("unknown scores to hand on", where=where, expected="sum, own", got=repr(hand_on))


def _rowwise(x: Array, table: Array) -> Array:  # (..., n, k), (n, k, m) -> (..., n, m)
    """y_i = x_i T_i: a product with another matrix for every row."""
    return namespace(x, table).matmul(x[..., :, None, :], table)[..., 0, :]


@rounded_once
@products_of("attention")
def scaled_dot_product_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    previous_scores: Array | None = None,
    relative: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Array, Array]:  # (..., n, d), (..., m, d), (..., m, e) -> (..., n, e), (..., n, m)
    """O = softmax(S) V with S = Q Kᵀ/√d + S_previous, restricted to the allowed pairs.

    Parameters
    ----------
    q, k, v : array, (..., n, d), (..., m, d), (..., m, e), floating or balls, one dtype
    mask : boolean array that broadcasts to (..., n, m), true where query i may see key j; None allows all. Masked scores have no influence,
        whatever they hold; values must be finite, masked or not, since they are multiplied by 0
    previous_scores : array that broadcasts to (..., n, m), added to the scores (RealFormer), or None
    relative : array, (n, m, d), added to key and value j where query i looks at them (NEZHA), or None; then e = d
    mean_over : int, the number of layers whose scores S is the sum of: the weights are softmax(S/mean_over) (RealFormer's running mean)
    hand_on : which scores are returned: "sum", S as above; "own", Q Kᵀ/√d as it was before the previous ones were added. The output is the same

    Returns
    -------
    output : array, (..., n, e); zeros for a query that may see no key
    scores : array, (..., n, m), in which no mask has left a trace

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if an argument is not floating, the mask not boolean, the shapes do not fit together, mean_over is no number of layers, or
        hand_on is neither "sum" nor "own".
    """
    _check_attention(q, k, v)
    _check_a_key(k)
    layers = _checked_layers(q, k, v, relative, mean_over)
    _check_handed_on(hand_on)
    xp = namespace(q, k, v)
    products = xp.matmul(q, xp.matrix_transpose(k))
    if relative is not None:
        products = products + _rowwise(q, xp.matrix_transpose(relative))
    own = products / square_root(q.shape[-1], q)
    _check_pairs("previous_scores", previous_scores, own)
    _check_pairs("mask", mask, own)
    scores = own if previous_scores is None else own + previous_scores
    weights = masked_softmax(scores if layers == 1 else scores / layers, mask)
    output, handed = xp.matmul(weights, v), scores if hand_on == "sum" else own
    return output if relative is None else output + _rowwise(weights, relative), handed
