"""Attention whose weights are scalar products of features: work and memory linear in the length.

    O_i = Σ_j a_ij v_j / Σ_j a_ij,   a_ij = φ(q_i)·ψ(k_j)        j over all keys, or over those at or before query i (causal)       (1)
    Σ_j a_ij [v_j, 1] = φ(q_i)ᵀ S_i,     S_i = Σ_j ψ(k_j) [v_j, 1]ᵀ                                                                 (2)

The sum S over keys has r rows (features) and e + 1 columns, the last of which makes the denominator; it does not grow with the length.
Causal sums are taken chunk by chunk: within a chunk of C queries the C x C products a_ij are formed and those with j > i put out by selection;
everything before the chunk is in the running sum S. Features are made one chunk at a time too, so nothing of size (length x features),
(length x length) or (length x r x e) is ever held.

Numerators and denominators of (1) come back separately, because implementations differ in what they do to a denominator. What counts as
causal for fewer queries than keys is what `refimpl.attention.causal_mask` says: the queries are the last of the positions.

Reference: A. Katharopoulos et al., "Transformers are RNNs: fast autoregressive transformers with linear attention", arXiv 2006.16236,
eqs. (5), (6) and (9) to (12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError, ShapeError
from refimpl.number_system import (
    Array,
    check_boolean,
    check_floating,
    device_of,
    exact,
    namespace,
    rounded_once,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["check_key_mask", "checked_chunk", "linear_attention", "sees_a_key", "spans", "weighted_mean"]

FeatureMap = Any  # Callable[[Array], Array]: (..., c, d) -> (..., c, r), of any number c of positions


def _check_shapes(q: Array, k: Array, v: Array, *, causal: bool) -> None:
    for name, array in (("q", q), ("k", k), ("v", v)):
        check_floating(name, array)
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            "query, key and value do not fit together",
            where="linear_attention",
            expected="q (..., n, d), k (..., m, d), v (..., m, e)",
            got=f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}",
        )
    if q.shape[-2] < 1:
        raise ShapeError(
            "there is no query", where="linear_attention", expected="q (..., n, d), n >= 1", got=tuple(q.shape)
        )
    if k.shape[-2] < 1 or (causal and q.shape[-2] > k.shape[-2]):
        expected = f"n_query <= {k.shape[-2]}" if k.shape[-2] else "at least one key"
        what = "more queries than keys" if k.shape[-2] else "there is no key to attend to"
        raise ShapeError(what, where="linear_attention", expected=expected, got=q.shape[-2] if k.shape[-2] else 0)


def checked_chunk(where: str, chunk: int) -> int:
    """`chunk` as an int; raise ConfigError unless it is a whole number from 1."""
    whole = whole_number(chunk)
    if whole is None or whole < 1:
        raise ConfigError("chunk must be a whole number", where=where, expected="chunk >= 1", got=repr(chunk))
    return whole


def check_key_mask(where: str, mask: Array, k: Array) -> None:
    """Raise unless `mask` is boolean, has every key, and broadcasts to the keys."""
    check_boolean(where, mask)
    expected = tuple(k.shape[:-1])
    fits = 1 <= mask.ndim <= len(expected) and mask.shape[-1] == expected[-1]
    if not fits or any(a not in (1, b) for a, b in zip(mask.shape[::-1], expected[::-1], strict=False)):
        raise ShapeError(
            "the mask does not fit the keys",
            where=where,
            expected=f"a shape that broadcasts to (..., m) = {expected}, with all m keys",
            got=tuple(mask.shape),
            remedy="there is no n x m mask here; give a mask of the keys, and causal=True for the triangle",
        )


def spans(start: int, stop: int, chunk: int) -> Iterator[slice]:
    """[start, stop) in pieces of at most `chunk`."""
    return (slice(low, min(low + chunk, stop)) for low in range(start, stop, chunk))


def _keys(k: Array, v: Array, mask: Array | None, span: slice, k_map: FeatureMap | None) -> tuple[Array, Array]:
    """ψ(k_j) and [v_j, 1] for the keys of one span; [0, 0] for masked keys, whose k is replaced by 0 beforehand."""
    xp, keys, values = namespace(k, v), k[..., span, :], v[..., span, :]
    values = xp.concat([values, xp.ones((*values.shape[:-1], 1), dtype=v.dtype, device=device_of(v))], axis=-1)
    if mask is not None:
        allowed = mask[..., span, None]
        keys, values = xp.where(allowed, keys, exact(0, k)), xp.where(allowed, values, exact(0, v))
    return keys if k_map is None else k_map(keys), values


def _state(k: Array, v: Array, mask: Array | None, stop: int, chunk: int, k_map: FeatureMap | None) -> Array | None:
    """S = Σ_j ψ(k_j) [v_j, 1]ᵀ over the first `stop` keys: (..., r, e + 1); None for no keys."""
    total = None
    for span in spans(0, stop, chunk):
        features, values = _keys(k, v, mask, span, k_map)
        total = _plus(total, namespace(features).matmul(namespace(features).matrix_transpose(features), values))
    return total


def _plus(total: Array | None, more: Array) -> Array:
    return more if total is None else total + more


def _causal_pieces(
    q: Array, k: Array, v: Array, mask: Array | None, chunk: int, q_map: FeatureMap | None, k_map: FeatureMap | None
) -> Iterator[Array]:  # -> pieces of (..., n, e + 1)
    """Σ_{j<=i} a_ij [v_j, 1] for each chunk of queries i: the running sum S, and the products within the chunk."""
    xp, first = namespace(q, k, v), k.shape[-2] - q.shape[-2]
    state = _state(k, v, mask, first, chunk, k_map)
    for span in spans(0, q.shape[-2], chunk):
        queries = q[..., span, :] if q_map is None else q_map(q[..., span, :])
        features, values = _keys(k, v, mask, slice(first + span.start, first + span.stop), k_map)
        turned, place = xp.matrix_transpose(features), xp.arange(span.stop - span.start, device=device_of(q))
        within = xp.where(place[None, :] <= place[:, None], xp.matmul(queries, turned), exact(0, q))
        piece = xp.matmul(within, values)
        yield piece if state is None else piece + xp.matmul(queries, state)
        state = _plus(state, xp.matmul(turned, values))


def _full_pieces(
    q: Array, k: Array, v: Array, mask: Array | None, chunk: int, q_map: FeatureMap | None, k_map: FeatureMap | None
) -> Iterator[Array]:  # -> pieces of (..., n, e + 1)
    """Σ_j a_ij [v_j, 1] over all keys for each chunk of queries i."""
    state = _state(k, v, mask, k.shape[-2], chunk, k_map)
    for span in spans(0, q.shape[-2], chunk):
        yield namespace(q).matmul(q[..., span, :] if q_map is None else q_map(q[..., span, :]), state)


@rounded_once
def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    q_map: Callable[[Array], Array] | None = None,
    k_map: Callable[[Array], Array] | None = None,
    causal: bool = False,
    mask: Array | None = None,
    chunk: int = 128,
) -> tuple[Array, Array]:  # (..., n, d), (..., m, d), (..., m, e) -> (..., n, e), (..., n, 1)
    """N_i = Σ_j a_ij v_j and D_i = Σ_j a_ij with a_ij = φ(q_i)·ψ(k_j): attention's output is N/D.

    Parameters
    ----------
    q, k, v : array, (..., n, d), (..., m, d), (..., m, e), floating or balls, one dtype. Without maps, q and k are features already (d = r).
        Values of width e = 0 give numerators without columns, and the same denominators (not on balls: an empty array holds none)
    q_map, k_map : φ and ψ, (..., c, d) -> (..., c, r), applied to chunks of c <= `chunk` positions; each position's features may depend on that
        position only. None: the identity
    causal : query i sees the keys up to its own position; the n <= m queries are the last n of the m positions
    mask : boolean array that broadcasts to (..., m), true where the key takes part, or None. Masked keys and values have no influence,
        whatever they hold. Values that are not masked must be finite, visible or not, since they are multiplied by 0
    chunk : int >= 1, positions that are handled at once; the answer depends on it by rounding only

    Returns
    -------
    numerators : array, (..., n, e); denominators : array, (..., n, 1). Both are exactly 0 for a query that sees no key: `weighted_mean`.
        float16 and bfloat16 are rounded once each: divide inside a definition that is itself `rounded_once`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if an argument is not floating, the mask not boolean, shapes do not fit, causal queries outnumber the keys, or chunk < 1.
    """
    _check_shapes(q, k, v, causal=causal)
    chunk = checked_chunk("linear_attention", chunk)
    if mask is not None:
        check_key_mask("linear_attention", mask, k)
    pieces = list((_causal_pieces if causal else _full_pieces)(q, k, v, mask, chunk, q_map, k_map))
    parts = [
        namespace(q).concat([piece[..., part] for piece in pieces], axis=-2) for part in (slice(-1), slice(-1, None))
    ]
    return parts[0], parts[1]


def sees_a_key(
    mask: Array, n_query: int, *, causal: bool
) -> Array:  # bool (..., m) -> bool (..., n, 1), or (..., 1, 1)
    """seen_i = (any key that query i may see is allowed by the key mask)."""
    xp = namespace(mask)
    if not causal:
        return xp.any(mask, axis=-1)[..., None, None]
    return (xp.cumulative_sum(xp.astype(mask, xp.int64), axis=-1) > 0)[..., mask.shape[-1] - n_query :, None]


def weighted_mean(
    numerators: Array, denominators: Array, seen: Array | None = None
) -> Array:  # (..., n, e), (..., n, 1), bool (..., n, 1) -> (..., n, e)
    """O = N/D where the query sees a key (`sees_a_key`; None: every query does), and 0 elsewhere."""
    if seen is None:
        return numerators / denominators
    xp = namespace(numerators, denominators, seen)
    return xp.where(seen, numerators / xp.where(seen, denominators, exact(1, numerators)), exact(0, numerators))
