"""Attention whose weights are scalar products of features: work and memory linear in the length.

    O_i = Σ_j a_ij v_j / Σ_j a_ij,   a_ij = φ(q_i)·ψ(k_j)        j over all keys, or over those at or before query i (causal)       (1)
    Σ_j a_ij [v_j, 1] = φ(q_i)ᵀ S_i,     S_i = Σ_j ψ(k_j) [v_j, 1]ᵀ                                                                 (2)

The sum S over keys has r rows (features) and e + 1 columns, the last of which makes the denominator; it does not grow with the length.
Causal sums are taken chunk by chunk: within a chunk of C queries the C x C products a_ij are formed and those with j > i put out by selection;
everything before the chunk is in the running sum S. Features are made one chunk at a time too, so nothing of size (length x features),
(length x length) or (length x r x e) is ever held.

Backwards, with u_j = [v_j, 1] and g_i the cotangent of the i-th row of (2),

    φ̄_i = S_i g_i,     ψ̄_j = R_j u_j,     ū_j = R_jᵀ ψ_j,     R_j = Σ_i φ(q_i) g_iᵀ    i over the queries that see key j               (3)

R has the size of S, and its causal sum runs from the last query to the first. S is summed again from the first key on (not rebuilt from the last
by subtraction, in which small early sums would be lost), so the backward pass holds one S or R at a time, and no state of any position.

Numerators and denominators of (1) come back separately, because implementations differ in what they do to a denominator. What counts as
causal for fewer queries than keys is what `refimpl.attention.causal_mask` says: the queries are the last of the positions.

Reference: A. Katharopoulos et al., "Transformers are RNNs: fast autoregressive transformers with linear attention", arXiv 2006.16236,
eqs. (5), (6) and (9) to (12); (3) is its eqs. (13) to (15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError, ShapeError
from refimpl.gradients import Pullback, rule_of, summed_to, total, vjp_of, zeros
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

__all__ = [
    "MapRule",
    "check_key_mask",
    "checked_chunk",
    "linear_attention",
    "linear_attention_vjp",
    "map_rule",
    "sees_a_key",
    "spans",
    "swept",
    "weighted_mean",
    "weighted_mean_vjp",
]

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
    state = None
    for span in spans(0, stop, chunk):
        features, values = _keys(k, v, mask, span, k_map)
        state = total(state, namespace(features).matmul(_turned(features), values))
    return state


def _causal_pieces(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    chunk: int,
    q_map: FeatureMap | None,
    k_map: FeatureMap | None,
    state: Array | None,
) -> Iterator[Array]:  # -> pieces of (..., n, e + 1)
    """Σ_{j<=i} a_ij [v_j, 1] for each chunk of queries i: the running sum S, and the products within the chunk."""
    xp, first = namespace(q, k, v), k.shape[-2] - q.shape[-2]
    for span in spans(0, q.shape[-2], chunk):
        queries = q[..., span, :] if q_map is None else q_map(q[..., span, :])
        features, values = _keys(k, v, mask, slice(first + span.start, first + span.stop), k_map)
        turned, place = xp.matrix_transpose(features), xp.arange(span.stop - span.start, device=device_of(q))
        within = xp.where(place[None, :] <= place[:, None], xp.matmul(queries, turned), exact(0, q))
        piece = xp.matmul(within, values)
        yield piece if state is None else piece + xp.matmul(queries, state)
        state = total(state, xp.matmul(turned, values))


def _full_pieces(
    q: Array, chunk: int, q_map: FeatureMap | None, state: Array | None
) -> Iterator[Array]:  # -> pieces of (..., n, e + 1)
    """Σ_j a_ij [v_j, 1] over all keys for each chunk of queries i."""
    for span in spans(0, q.shape[-2], chunk):
        yield namespace(q).matmul(q[..., span, :] if q_map is None else q_map(q[..., span, :]), state)


def _summed(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    chunk: int,
    q_map: FeatureMap | None,
    k_map: FeatureMap | None,
    *,
    causal: bool,
) -> tuple[tuple[Array, Array], Array | None]:
    """Numerators and denominators, and S over the keys that every query sees."""
    common = k.shape[-2] - q.shape[-2] if causal else k.shape[-2]
    state = _state(k, v, mask, common, chunk, k_map)
    rows = _causal_pieces(q, k, v, mask, chunk, q_map, k_map, state) if causal else _full_pieces(q, chunk, q_map, state)
    pieces = list(rows)
    numerators, denominators = (
        namespace(q).concat([piece[..., part] for piece in pieces], axis=-2) for part in (slice(-1), slice(-1, None))
    )
    return (numerators, denominators), state


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
    chunk = _checked(q, k, v, causal, mask, chunk)
    return _summed(q, k, v, mask, chunk, q_map, k_map, causal=causal)[0]


def _checked(q: Array, k: Array, v: Array, causal: bool, mask: Array | None, chunk: int) -> int:
    """`chunk` as an int; raise unless the arguments fit together."""
    _check_shapes(q, k, v, causal=causal)
    chunk = checked_chunk("linear_attention", chunk)
    if mask is not None:
        check_key_mask("linear_attention", mask, k)
    return chunk


def sees_a_key(
    mask: Array, n_query: int, *, causal: bool
) -> Array:  # bool (..., m) -> bool (..., n, 1), or (..., 1, 1)
    """seen_i = (any key that query i may see is allowed by the key mask)."""
    xp = namespace(mask)
    if not causal:
        return xp.any(mask, axis=-1)[..., None, None]
    return (xp.cumulative_sum(xp.astype(mask, xp.int64), axis=-1) > 0)[..., mask.shape[-1] - n_query :, None]


@rounded_once
def weighted_mean(
    numerators: Array, denominators: Array, seen: Array | None = None
) -> Array:  # (..., n, e), (..., n, 1), bool (..., n, 1) -> (..., n, e)
    """O = N/D where the query sees a key (`sees_a_key`; None: every query does), and 0 elsewhere."""
    if seen is None:
        return numerators / denominators
    xp = namespace(numerators, denominators, seen)
    return xp.where(seen, numerators / xp.where(seen, denominators, exact(1, numerators)), exact(0, numerators))


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(weighted_mean, "numerators", "denominators")
def weighted_mean_vjp(
    numerators: Array, denominators: Array, seen: Array | None = None
) -> tuple[Array, Pullback]:  # (..., n, e), (..., n, 1), bool (..., n, 1) -> (..., n, e), pullback
    """N̄ = Ō/D and D̄ = -Σ_e O Ō/D where the query sees a key; exactly 0 elsewhere, whatever Ō holds there. Arguments as `weighted_mean`."""
    output, shapes = weighted_mean(numerators, denominators, seen), (numerators.shape, denominators.shape)

    def pullback(o_bar: Array) -> tuple[Array, Array]:  # (..., n, e) -> (..., n, e), (..., n, 1)
        n_bar = weighted_mean(o_bar, denominators, seen)
        d_bar = -namespace(output).sum(output * n_bar, axis=-1, keepdims=True)
        return summed_to(n_bar, shapes[0]), summed_to(d_bar, shapes[1])

    return output, pullback


class MapRule(NamedTuple):
    """A feature map and its rule.

    `vjp(rows)` is (map(rows), pullback), and pullback(φ̄) a tuple: the cotangent of the rows, and after it those of whatever else the map depends on
    (a projection, a shift), which are summed over the chunks.
    """

    map: FeatureMap  # None: the identity
    vjp: Any


def map_rule(given: FeatureMap | None, vjp: Any = None) -> MapRule:
    """A feature map with the rule given, or else the one that is registered for it; raises ConfigError where there is none."""
    if given is None and vjp is None:
        return MapRule(None, lambda rows: (rows, lambda bar: (bar,)))
    if given is None:
        what, expected = "a rule without its feature map", "the map, and its rule beside it"
        raise ConfigError(what, where="linear_attention_vjp", expected=expected, got="a rule alone")
    if vjp is None and not hasattr(given, "__qualname__"):
        what, remedy = (
            "no rule says how this feature map is differentiated",
            "give its rule: rows -> (features, pullback)",
        )
        raise ConfigError(what, where="linear_attention_vjp", got=repr(given), remedy=remedy)
    return MapRule(given, rule_of(given).function if vjp is None else vjp)


def swept(
    q: Array,
    k: Array,
    v: Array,
    q_rule: MapRule,
    k_rule: MapRule,
    *,
    causal: bool,
    mask: Array | None,
    chunk: int,
    added: float = 0.0,
) -> tuple[tuple[Array, Array], Pullback]:
    """φ̄_i = S_i g_i, ψ̄_j = R_j u_j and ū_j = R_jᵀ ψ_j of (3): `linear_attention_vjp` for maps that depend on more than their rows.

    Parameters
    ----------
    q, k, v, causal, mask, chunk : as `linear_attention`
    q_rule, k_rule : φ and ψ with their rules
    added : a number that is added to every entry of Σ_j ψ_j in a denominator that the caller makes, and of which D̄ is the cotangent: φ̄_i gets
        `added` D̄_i more

    Returns
    -------
    what `linear_attention` returns, and its pullback, which takes N̄ and D̄ and returns q̄, k̄, v̄ and two tuples: the cotangents of what else φ and ψ
        depend on, summed over the chunks

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        as `linear_attention`.
    """
    chunk = _checked(q, k, v, causal, mask, chunk)
    value, state = _summed(q, k, v, mask, chunk, q_rule.map, k_rule.map, causal=causal)
    xp = namespace(q, k, v)

    def pullback(n_bar: Array, d_bar: Array) -> tuple[Any, ...]:  # (..., n, e), (..., n, 1) -> q̄, k̄, v̄, (...), (...)
        bars = xp.concat([n_bar, d_bar], axis=-1)
        if mask is not None:
            bars = xp.where(sees_a_key(mask, q.shape[-2], causal=causal), bars, exact(0, bars))
        queries = _Queries(q, q_rule, bars, exact(added, q) if added else None)
        keys = _Keys(k, v, mask, k_rule)
        back = _causal_back if causal else _full_back
        (q_bars, q_rest), (k_bars, v_bars, k_rest) = back(queries, keys, state, chunk)
        return *(xp.concat(pieces, axis=-2) for pieces in (q_bars, k_bars, v_bars)), q_rest, k_rest

    return value, pullback


class _Queries(NamedTuple):
    """What the backward pass knows about queries."""

    q: Array  # (..., n, d)
    rule: MapRule
    bars: Array  # (..., n, e + 1): g_i = [N̄_i, D̄_i]
    added: Any  # a number that was added to the entries of Σ_j ψ_j in D, or None

    def features(self, span: slice) -> tuple[Array, Array]:  # -> (..., c, r), (..., c, e + 1)
        rows = self.q[..., span, :]
        return (rows if self.rule.map is None else self.rule.map(rows)), self.bars[..., span, :]

    def back(self, span: slice, cotangent: Any) -> tuple[Array, Array, tuple[Any, ...]]:
        """The features of a span, its part of q̄, and the rest; `cotangent` maps g to φ̄."""
        features, pullback = self.rule.vjp(self.q[..., span, :])
        bars = self.bars[..., span, :]
        bar = cotangent(bars) if self.added is None else cotangent(bars) + self.added * bars[..., -1:]
        q_bar, *rest = pullback(summed_to(bar, features.shape))
        return features, q_bar, tuple(rest)


class _Keys(NamedTuple):
    """What the backward pass knows about keys."""

    k: Array  # (..., m, d)
    v: Array  # (..., m, e)
    mask: Array | None
    rule: MapRule

    def features(self, span: slice) -> tuple[Array, Array]:  # -> (..., c, r), (..., c, e + 1)
        return _keys(self.k, self.v, self.mask, span, self.rule.map)

    def back(self, span: slice, cotangents: Any) -> tuple[Array, Array, tuple[Any, ...]]:
        """Parts of k̄ and v̄, exactly 0 at masked keys, and the rest; `cotangents` maps (ψ, u) to (ψ̄, ū)."""
        rows, values = _keys(self.k, self.v, self.mask, span, None)
        features, pullback = self.rule.vjp(rows)
        bar, values_bar = cotangents(features, values)
        k_bar, *rest = pullback(summed_to(bar, features.shape))
        v_bar = values_bar[..., :-1]
        if self.mask is not None:
            xp, allowed = namespace(k_bar), self.mask[..., span, None]
            k_bar, v_bar = xp.where(allowed, k_bar, exact(0, k_bar)), xp.where(allowed, v_bar, exact(0, v_bar))
        return k_bar, summed_to(v_bar, self.v[..., span, :].shape), tuple(rest)


def _rests(sums: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sums of the cotangents that are shared by chunks; None where there is none."""
    return tuple(total(*pair) for pair in zip(sums, more, strict=True)) if sums else more


def _turned(x: Array) -> Array:
    return namespace(x).matrix_transpose(x)


def _full_back(queries: _Queries, keys: _Keys, state: Array, chunk: int) -> tuple[Any, Any]:
    """φ̄_i = S g_i and R = Σ_i φ_i g_iᵀ over all queries, then the keys with R."""
    xp, q_bars, q_rest, later = namespace(state), [], (), None
    for span in spans(0, queries.q.shape[-2], chunk):
        features, q_bar, rest = queries.back(span, lambda bars: xp.matmul(bars, _turned(state)))
        q_bars.append(q_bar)
        q_rest = _rests(q_rest, rest)
        later = total(later, xp.matmul(_turned(features), queries.bars[..., span, :]))
    return (q_bars, q_rest), _common_back(keys, later, keys.k.shape[-2], chunk)


def _common_back(keys: _Keys, later: Array, stop: int, chunk: int) -> tuple[list[Array], list[Array], tuple[Any, ...]]:
    """ψ̄_j = R u_j and ū_j = Rᵀ ψ_j for the first `stop` keys, which all queries see."""
    xp, k_bars, v_bars, k_rest = namespace(later), [], [], ()
    for span in spans(0, stop, chunk):
        k_bar, v_bar, rest = keys.back(
            span, lambda features, values: (xp.matmul(values, _turned(later)), xp.matmul(features, later))
        )
        k_bars.append(k_bar)
        v_bars.append(v_bar)
        k_rest = _rests(k_rest, rest)
    return k_bars, v_bars, k_rest


def _causal_back(queries: _Queries, keys: _Keys, state: Array | None, chunk: int) -> tuple[Any, Any]:
    """q̄ with S running forward, then k̄ and v̄ with R running backward."""
    return _forward_sweep(queries, keys, state, chunk), _backward_sweep(queries, keys, chunk)


def _not_later(products: Array) -> Array:  # (..., c, c) -> (..., c, c)
    """The products of query i and key j of a chunk where j <= i, and 0 elsewhere."""
    xp, place = namespace(products), namespace(products).arange(products.shape[-1], device=device_of(products))
    return xp.where(place[None, :] <= place[:, None], products, exact(0, products))


def _forward_sweep(
    queries: _Queries, keys: _Keys, state: Array | None, chunk: int
) -> tuple[list[Array], tuple[Any, ...]]:
    """φ̄_i = S_i g_i = Σ_{j<=i} (g_i·u_j) ψ_j: S before the chunk, and the products within it."""
    xp, first = namespace(queries.q, keys.k), keys.k.shape[-2] - queries.q.shape[-2]
    q_bars, q_rest = [], ()
    for span in spans(0, queries.q.shape[-2], chunk):
        features, values = keys.features(slice(first + span.start, first + span.stop))

        def cotangent(bars: Array, features: Array = features, values: Array = values, state: Any = state) -> Array:
            within = xp.matmul(_not_later(xp.matmul(bars, _turned(values))), features)
            return within if state is None else within + xp.matmul(bars, _turned(state))

        _, q_bar, rest = queries.back(span, cotangent)
        q_bars.append(q_bar)
        q_rest = _rests(q_rest, rest)
        state = total(state, xp.matmul(_turned(features), values))
    return q_bars, q_rest


def _backward_sweep(queries: _Queries, keys: _Keys, chunk: int) -> tuple[list[Array], list[Array], tuple[Any, ...]]:
    """ψ̄_j = Σ_{i>=j} (g_i·u_j) φ_i and ū_j = Σ_{i>=j} (φ_i·ψ_j) g_i: R after the chunk, and the products within it."""
    xp, first = namespace(queries.q, keys.k), keys.k.shape[-2] - queries.q.shape[-2]
    k_bars, v_bars, k_rest, later = [], [], (), None
    for span in reversed(list(spans(0, queries.q.shape[-2], chunk))):
        phi, bars = queries.features(span)

        def cotangents(
            features: Array, values: Array, phi: Array = phi, bars: Array = bars, later: Any = later
        ) -> tuple[Array, Array]:
            features_bar = xp.matmul(_turned(_not_later(xp.matmul(bars, _turned(values)))), phi)
            values_bar = xp.matmul(_turned(_not_later(xp.matmul(phi, _turned(features)))), bars)
            if later is None:
                return features_bar, values_bar
            return features_bar + xp.matmul(values, _turned(later)), values_bar + xp.matmul(features, later)

        k_bar, v_bar, rest = keys.back(slice(first + span.start, first + span.stop), cotangents)
        k_bars.append(k_bar)
        v_bars.append(v_bar)
        k_rest = _rests(k_rest, rest)
        later = total(later, xp.matmul(_turned(phi), bars))
    before = _common_back(keys, later, first, chunk)
    return before[0] + k_bars[::-1], before[1] + v_bars[::-1], _rests(before[2], k_rest)


@vjp_of(linear_attention, "q", "k", "v")
def linear_attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    *,
    q_map: Callable[[Array], Array] | None = None,
    k_map: Callable[[Array], Array] | None = None,
    causal: bool = False,
    mask: Array | None = None,
    chunk: int = 128,
    q_map_vjp: Any = None,
    k_map_vjp: Any = None,
) -> tuple[
    tuple[Array, Array], Pullback
]:  # (..., n, d), (..., m, d), (..., m, e) -> ((..., n, e), (..., n, 1)), pullback
    """q̄_i = φ'ᵀ S_i g_i, k̄_j = ψ'ᵀ R_j [v_j, 1], [v̄_j, ·] = R_jᵀ ψ(k_j) with g_i = [N̄_i, D̄_i], R_j = Σ_{i sees j} φ(q_i) g_iᵀ; masked keys 0.

    Work and memory are linear in the length: S and R are running sums, and no state of any position is kept.

    Parameters
    ----------
    q, k, v, q_map, k_map, causal, mask, chunk : as `linear_attention`
    q_map_vjp, k_map_vjp : rows -> (features, pullback), the rules of q_map and k_map; None for the rules that are registered for them, as
        `softmax_vjp` is for `softmax`. A map that closes over something cannot be registered, which is why its rule is an argument; cotangents of
        what it closes over are not returned (`swept` does)

    Returns
    -------
    (numerators, denominators) and their pullback, which takes N̄ and D̄, either of them None, and returns q̄, k̄, v̄. The cotangents of k_j and v_j
        depend on those of the queries that see the key only; the cotangents of queries that see no key are not looked at

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        as `linear_attention`, and for a map that has no rule.
    """
    rules = map_rule(q_map, q_map_vjp), map_rule(k_map, k_map_vjp)
    value, swept_back = swept(q, k, v, *rules, causal=causal, mask=mask, chunk=chunk)

    def pullback(n_bar: Array | None = None, d_bar: Array | None = None) -> tuple[Array, Array, Array]:
        given = zip((n_bar, d_bar), value, strict=True)
        q_bar, k_bar, v_bar, *_ = swept_back(*(zeros(part) if bar is None else bar for bar, part in given))
        return q_bar, k_bar, v_bar

    return value, pullback
