"""Scaled dot-product attention with boolean masks and optional residual scores.

    S = Q Kᵀ/√d + S_previous            O = softmax(S restricted to the mask) V

The scores that are returned, and that a RealFormer layer hands to the next, carry no mask. A query that may attend to nothing gets zeros.

References: A. Vaswani et al., "Attention is all you need", arXiv 1706.03762, eq. (1); R. He et al., "RealFormer", arXiv 2012.11747,
section 3.
"""

from __future__ import annotations

from typing import Any

from refimpl.errors import ShapeError
from refimpl.number_system import Array, check_floating, namespace, rounded_once, square_root
from refimpl.softmax import masked_softmax

__all__ = ["causal_mask", "merge_heads", "scaled_dot_product_attention", "split_heads"]


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
    if q.ndim < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            "query, key and value do not fit together",
            where="scaled_dot_product_attention",
            expected="q (..., n, d), k (..., m, d), v (..., m, e)",
            got=f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}",
        )


@rounded_once
def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, previous_scores: Array | None = None
) -> tuple[Array, Array]:  # (..., n, d), (..., m, d), (..., m, e) -> (..., n, e), (..., n, m)
    """O = softmax(S) V with S = Q Kᵀ/√d + S_previous, restricted to the allowed pairs.

    Parameters
    ----------
    q, k, v : array, (..., n, d), (..., m, d), (..., m, e), floating or balls, one dtype
    mask : boolean array that broadcasts to (..., n, m), true where query i may see key j; None allows all. Masked scores have no influence,
        whatever they hold; values must be finite, masked or not, since they are multiplied by 0
    previous_scores : array that broadcasts to (..., n, m), added to the scores (RealFormer), or None

    Returns
    -------
    output : array, (..., n, e); zeros for a query that may see no key
    scores : array, (..., n, m); S, in which no mask has left a trace

    Raises
    ------
    DtypeError, ShapeError
        if an argument is not floating, or the shapes do not fit together.
    """
    _check_attention(q, k, v)
    xp = namespace(q, k, v)
    scores = xp.matmul(q, xp.matrix_transpose(k)) / square_root(q.shape[-1], q)
    if previous_scores is not None:
        scores = scores + previous_scores
    return xp.matmul(masked_softmax(scores, mask), v), scores
