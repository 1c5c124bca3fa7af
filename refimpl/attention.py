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
from refimpl.gradients import Pullback, summed_to, total, vjp_of, zeros
from refimpl.number_system import (
    Array,
    check_floating,
    exact,
    namespace,
    products_of,
    rounded_once,
    square_root,
    whole_number,
)
from refimpl.softmax import masked_softmax, masked_softmax_vjp

__all__ = [
    "HandedOn",
    "causal_mask",
    "merge_heads",
    "merge_heads_vjp",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_vjp",
    "split_heads",
    "split_heads_vjp",
    "unilm_mask",
]

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


def _scores(
    q: Array, k: Array, relative: Array | None, previous: Array | None, mask: Array | None
) -> tuple[Array, Array]:  # (..., n, d), (..., m, d) -> (..., n, m), (..., n, m)
    """Q Kᵀ/√d, with relative positions in the keys, and S; raise unless the previous scores and the mask fit them."""
    xp = namespace(q, k)
    products = xp.matmul(q, xp.matrix_transpose(k))
    if relative is not None:
        products = products + _rowwise(q, xp.matrix_transpose(relative))
    own = products / square_root(q.shape[-1], q)
    _check_pairs("previous_scores", previous, own)
    _check_pairs("mask", mask, own)
    return own, own if previous is None else own + previous


def _mixed(weights: Array, v: Array, relative: Array | None) -> Array:  # (..., n, m), (..., m, e) -> (..., n, e)
    """o_i = Σ_j p_ij (v_j + R_ij)."""
    output = namespace(weights, v).matmul(weights, v)
    return output if relative is None else output + _rowwise(weights, relative)


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
    own, scores = _scores(q, k, relative, previous_scores, mask)
    weights = masked_softmax(scores if layers == 1 else scores / layers, mask)
    return _mixed(weights, v, relative), scores if hand_on == "sum" else own


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(split_heads, "x")
def split_heads_vjp(x: Array, heads: int) -> tuple[Array, Pullback]:  # (batch, length, heads * w) -> ..., pullback
    """x̄ = merge_heads(ȳ). Arguments and errors as `split_heads`."""
    return split_heads(x, heads), lambda y_bar: (merge_heads(y_bar),)


@vjp_of(merge_heads, "x")
def merge_heads_vjp(x: Array) -> tuple[Array, Pullback]:  # (batch, heads, length, w) -> ..., pullback
    """x̄ = split_heads(ȳ). Arguments as `merge_heads`."""
    return merge_heads(x), lambda y_bar: (split_heads(y_bar, x.shape[1]),)


def _mixed_bars(
    weights: Array, v: Array, relative: Array | None, o_bar: Array
) -> tuple[Array, ...]:  # (..., n, m), (..., m, e), (n, m, e), (..., n, e) -> the shapes of the first three
    """P̄ = ō vᵀ, v̄ = Pᵀ ō; with R, P̄_ij gains ō_i·R_ij, and R̄_ij = Σ P_ij ō_i: the pullback of `_mixed`."""
    xp = namespace(weights, v, o_bar)
    weights_bar = xp.matmul(o_bar, xp.matrix_transpose(v))
    v_bar = xp.matmul(xp.matrix_transpose(weights), o_bar)
    if relative is None:
        return weights_bar, v_bar, None
    return weights_bar + _rowwise(o_bar, xp.matrix_transpose(relative)), v_bar, _rowwise_summed(weights, o_bar)


def _scores_bars(
    q: Array, k: Array, relative: Array | None, own_bar: Array
) -> tuple[Array, ...]:  # (..., n, d), (..., m, d), (n, m, d), (..., n, m) -> the shapes of the first three
    """q̄ = S̄ k/√d, k̄ = S̄ᵀ q/√d; with R, q̄_i gains Σ_j S̄_ij R_ij/√d, and R̄_ij = Σ S̄_ij q_i/√d: the pullback of `_scores` alone."""
    xp, products_bar = namespace(q, k, own_bar), own_bar / square_root(q.shape[-1], q)
    q_bar, k_bar = xp.matmul(products_bar, k), xp.matmul(xp.matrix_transpose(products_bar), q)
    if relative is not None:
        q_bar = q_bar + _rowwise(products_bar, relative)
    return q_bar, k_bar, None if relative is None else _rowwise_summed(products_bar, q)


def _seen_rows(x: Array, mask: Array | None, axis: int) -> Array:  # (..., n, d), bool (..., n, m) -> (..., n, d)
    """The rows of `x` for which the mask has a true along `axis`, 0 for the others, whatever they hold."""
    if mask is None:
        return x
    xp = namespace(x, mask)
    return xp.where(xp.any(mask, axis=axis)[..., None], x, exact(0, x))


def _ever(mask: Array, shape: tuple[int, ...]) -> Array:  # bool (..., n, m) -> bool, of that shape
    """Whether a pair is allowed anywhere along the axes along which an array of `shape` was broadcast to the mask's."""
    xp = namespace(mask)
    return summed_to(xp.astype(mask, xp.int64), shape) > 0


def _rowwise_summed(x: Array, y: Array) -> Array:  # (..., n, k), (..., n, m) -> (n, k, m)
    """T̄_i = Σ x_iᵀ ȳ_i over what stands before the row i: the pullback of `_rowwise` to its table."""
    xp = namespace(x, y)
    before = xp.broadcast_arrays(x[..., :1], y[..., :1])[0].shape[:-2]
    rows = (xp.reshape(xp.broadcast_to(a, (*before, *a.shape[-2:])), (-1, *a.shape[-2:])) for a in (x, y))
    left, right = (xp.permute_dims(a, (1, 0, 2)) for a in rows)
    return xp.matmul(xp.matrix_transpose(left), right)


@vjp_of(scaled_dot_product_attention, "q", "k", "v", "previous_scores", "relative")
@products_of("attention")
def scaled_dot_product_attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    previous_scores: Array | None = None,
    relative: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Any, Pullback]:  # (..., n, d), (..., m, d), (..., m, e) -> ((..., n, e), (..., n, m)), pullback
    """v̄ = Pᵀ ō, P̄ = ō vᵀ, S̄ = P (P̄ - Σ_j P P̄), q̄ = S̄ k/√d, k̄ = S̄ᵀ q/√d, S̄_previous = S̄; S̄ is 0 where masked.

    The cotangent of the scores that are handed on is added to S̄ or, where they are Q Kᵀ/√d alone, to the S̄ that reaches q and k only.
    With mean_over = l the softmax's part of S̄ is divided by l. With R, P̄_ij gains ō_i·R_ij, q̄_i gains Σ_j S̄_ij R_ij/√d, and
    R̄_ij = Σ (S̄_ij q_i/√d + P_ij ō_i), over all axes but these.

    A query that may see no key has no influence, nor has its output's cotangent; and where the scores have no cotangent, neither has a key that no
    query may see: whatever they hold. Arguments and errors as `scaled_dot_product_attention`.
    """
    _check_attention(q, k, v)
    _check_a_key(k)
    layers = _checked_layers(q, k, v, relative, mean_over)
    _check_handed_on(hand_on)
    own, scores = _scores(q, k, relative, previous_scores, mask)
    weights, softmax_pullback = masked_softmax_vjp(scores if layers == 1 else scores / layers, mask)
    output = _mixed(weights, v, relative)
    seen = None if mask is None else namespace(mask).broadcast_to(mask, weights.shape)

    def pullback(output_bar: Array | None, handed_bar: Array | None = None) -> tuple[Array | None, ...]:
        o_bar = _seen_rows(zeros(output) if output_bar is None else output_bar, seen, -1)
        weights_bar, v_bar, values_bar = _mixed_bars(weights, v, relative, o_bar)
        (softmax_bar,) = softmax_pullback(summed_to(weights_bar, weights.shape))
        scores_bar = summed_to(softmax_bar if layers == 1 else softmax_bar / layers, scores.shape)
        scores_bar = total(scores_bar, handed_bar if hand_on == "sum" else None)
        own_bar = total(summed_to(scores_bar, own.shape), handed_bar if hand_on == "own" else None)
        pairs = None if seen is None or handed_bar is not None else _ever(seen, own.shape)
        q_bar, k_bar, keys_bar = _scores_bars(_seen_rows(q, pairs, -1), _seen_rows(k, pairs, -2), relative, own_bar)
        q_bar, k_bar, v_bar = (summed_to(bar, x.shape) for bar, x in ((q_bar, q), (k_bar, k), (v_bar, v)))
        previous_bar = None if previous_scores is None else summed_to(scores_bar, previous_scores.shape)
        return q_bar, k_bar, v_bar, previous_bar, total(keys_bar, values_bar)

    return (output, scores if hand_on == "sum" else own), pullback
