"""Reading sources and saying targets with a generator of SPACES fast, in NumPy: what `refimpl.spaces.seq2seq.Seq2SeqDecoder` computes.

Nothing here defines anything. The same function, with other roundings:

* the source is read once, all its tokens in one product for each linear map, attention in blocks of queries; its keys and values are shared by all
  hypotheses, which are never copied: the queries of all rows meet them in one product;
* keys and values of targets are written in place, into arrays with room for what comes; an older state stays good;
* of a NEZHA, a query meets the 2c + 1 vectors of relative positions once, q_i·e_t, of which each key takes its own; weights are added up by
  distance before they meet them again: Σ_j p_ij R_ij = Σ_t (Σ_{j at distance t} p_ij) e_t;
* norms and GELU are computed in place.

The bits of an answer depend on the number of threads, and on nothing else that may vary from run to run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import bert
from refimpl.activation import gelu
from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.inference.in_place import blocks, normalized, softmax, tanh_gelu
from refimpl.inputs import check_mask, check_selected, check_token_ids
from refimpl.positions import relative_positions
from refimpl.spaces.seq2seq import check_fits
from refimpl.trees import leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.parameters import Block, Linear, Norm
    from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights

__all__ = ["Reading", "Session", "State"]

SCORES = 1 << 20  # attention scores of a block of queries
HIDDEN = 65536  # numbers of a block for GELU
ROOM = 64  # tokens for which a new cache has room


class _Cache:
    """Keys and values of every layer, (layers, batch, heads, capacity, w), the first `filled` of which are written."""

    def __init__(self, layers: int, batch: int, heads: int, capacity: int, w: int, dtype: Any) -> None:
        self.keys, self.values = (np.empty((layers, batch, heads, capacity, w), dtype) for _ in range(2))
        self.filled = 0

    def taken(self, rows: Any, length: int, capacity: int) -> _Cache:
        """A copy of the first `length` places of some rows, with room for `capacity`."""
        layers, batch, heads, _, w = self.keys.shape
        copy = _Cache(layers, batch if isinstance(rows, slice) else len(rows), heads, capacity, w, self.keys.dtype)
        for mine, its in ((self.keys, copy.keys), (self.values, copy.values)):
            its[:, :, :, :length] = mine[:, rows, :, :length]
        copy.filled = length
        return copy


@dataclass(frozen=True)
class State:
    """What has been read of the targets: the cache and how much of it, and which tokens may be attended to."""

    cache: _Cache
    length: int
    allowed: Any  # bool (batch, length)


class Session:
    """A generator prepared for reading sources, on NumPy.

    Threads may read with it at once: they share the weights and nothing else.

    Parameters
    ----------
    weights : NumPy arrays, float32 or float64, computed with as they are
    config : the model's sizes

    Raises
    ------
    ConfigError, DtypeError
        for weights of another array library or dtype, without a masked-LM head, or not those of the configuration.
    """

    def __init__(self, weights: Seq2SeqWeights, config: Seq2SeqConfig) -> None:
        _check(weights, config)
        self.weights, self.config, self.inner = weights, config, config.bert
        self.dtype = weights.tags.weight.dtype
        dialect = bert.named_dialect(config.bert_dialect)
        self.eps, self.head_eps = bert.layer_eps(self.inner, dialect), bert.head_eps(self.inner, dialect)
        self.masked_id, self.hands_on_sum = dialect.masked_key_id, dialect.residual == "all"
        self.heads, self.w = self.inner.num_attention_heads, self.inner.hidden_size // self.inner.num_attention_heads
        self.scale = self.dtype.type(1 / math.sqrt(self.w))
        self.distances = None  # (2c + 1, w): e_t
        if self.inner.max_position_embeddings is None:
            clip = self.inner.clip
            like = np.empty(0, self.dtype)
            every = relative_positions(1, clip + 1, self.w, like=like, clip=clip)[0]  # -c .. 0
            after = relative_positions(clip + 1, clip + 1, self.w, like=like, clip=clip)[0]  # 0 .. c
            self.distances = np.concatenate([every, after[1:]])

    def reading(self, source_ids: Sequence[int]) -> Reading:
        """A `refimpl.copying.TaggedDecoder` that has read this source. Errors as `refimpl.spaces.seq2seq.Seq2SeqDecoder`."""
        return Reading(self, source_ids)

    # --- steps of a layer, on rows of tokens (tokens, d)

    def embedded(self, ids: Any, segment: int, first: int) -> Any:  # int (batch, n) -> (batch n, d)
        """LN(E[token] + S[segment] + P[first ..])."""
        inner = self.weights.bert
        x = np.take(inner.token_embedding, ids, axis=0)
        if inner.segment_embedding is not None:
            x += inner.segment_embedding[segment]
        if inner.position_embedding is not None:
            x += inner.position_embedding[first : first + ids.shape[1]]
        return self.normed(x.reshape(-1, x.shape[-1]), inner.embedding_norm, self.eps)

    def normed(self, x: Any, norm: Norm, eps: float) -> Any:  # (tokens, d), written
        """LN(x)."""
        normalized(x, eps, x)
        x *= norm.scale
        x += norm.bias
        return x

    def heads_of(self, layer: Block, x: Any, batch: int) -> Any:  # (tokens, d) -> 3 times (batch, heads, n, w)
        """Queries divided by √w, keys and values."""
        qkv = _linear(x, layer.query_key_value)
        q, k, v = qkv.reshape(batch, -1, 3, self.heads, self.w).transpose(2, 0, 3, 1, 4)
        return q * self.scale, k, v

    def after_attention(self, layer: Block, x: Any, mixed: Any) -> Any:  # (tokens, d), (tokens, d) -> (tokens, d)
        """y = LN₁(x + W_o mixed + b_o), LN₂(y + FF(y))."""
        y = _linear(mixed, layer.attention_output)
        y += x
        y = self.normed(y, layer.attention_norm, self.eps)
        z = _linear(self.active(_linear(y, layer.feed_forward_in)), layer.feed_forward_out)
        z += y
        return self.normed(z, layer.feed_forward_norm, self.eps)

    def active(self, x: Any) -> Any:  # (tokens, inner), written
        """GELU(x), block by block."""
        gate = np.empty((max(1, HIDDEN // x.shape[1]), x.shape[1]), x.dtype)
        with np.errstate(over="ignore"):  # of exp(-2z): a gate of 0
            for block in blocks(len(x), x.shape[1], HIDDEN):
                u = x[block]
                if self.inner.activation == "tanh":
                    tanh_gelu(u, gate[: len(u)], u)
                else:
                    u[...] = gelu(u, "none")
        return x

    def said(self, x: Any) -> tuple[Any, Any]:  # (rows, d) -> (rows, vocab), (rows, 3)
        """Token and tag logits of x_L."""
        inner = self.weights.bert
        head = inner.masked_lm
        vectors = self.normed(self.active(_linear(x, head.transform)), head.norm, self.head_eps)  # type: ignore[union-attr]
        table = inner.token_embedding if inner.output_embedding is None else inner.output_embedding
        scores = vectors @ table.T
        scores += head.bias  # type: ignore[union-attr]
        return scores, _linear(vectors, self.weights.tags)

    # --- attention

    def with_distances(self, q: Any, scores: Any, first: int) -> None:  # (.., n, w), (.., n, m), written
        """scores_ij += q_i·e_{clip(j - i)}, the queries standing at first, first + 1, ..."""
        if self.distances is not None:
            places = self.places(first, scores.shape[-2], scores.shape[-1])
            met = q @ self.distances.T
            scores += np.take_along_axis(met, np.broadcast_to(places, (*met.shape[:-1], places.shape[-1])), axis=-1)

    def distant_values(self, p: Any, first: int) -> Any:  # (.., n, m) -> (.., n, w)
        """Σ_t (Σ_{j at distance t from i} p_ij) e_t."""
        clip, (n, m) = self.inner.clip, p.shape[-2:]
        places = self.places(first, n, m)
        at = np.arange(first, first + n)[:, None] + np.arange(1 - clip, clip)[None, :]  # the one key at each distance
        there = (at >= 0) & (at < m)
        index = np.broadcast_to(np.where(there, at, 0), (*p.shape[:-1], at.shape[-1]))
        by_distance = np.empty((*p.shape[:-1], 2 * clip + 1), p.dtype)
        by_distance[..., 1:-1] = np.take_along_axis(p, index, axis=-1) * there
        by_distance[..., 0] = (p * (places == 0)).sum(-1)
        by_distance[..., -1] = (p * (places == 2 * clip)).sum(-1)
        return by_distance @ self.distances

    def places(self, first: int, n: int, m: int) -> Any:  # -> int (n, m)
        """clip(j - i, -c, c) + c."""
        clip = self.inner.clip
        return np.clip(np.arange(m)[None, :] - np.arange(first, first + n)[:, None], -clip, clip) + clip

    def weighed(self, own: Any, handed: Any, number: int, hidden: Any) -> tuple[Any, Any]:  # (.., n, m) -> the same
        """softmax of the scores where keys are not hidden, and the scores to hand on; `number` is that of the layer, from 1."""
        kind = self.inner.residual_attention
        scores = own if kind == "none" or handed is None else own + handed
        on = None if kind == "none" else (scores if self.hands_on_sum else own).copy()
        if kind == "mean" and number > 1:
            scores = scores * own.dtype.type(1 / number)
        if hidden is not None:
            scores = np.where(hidden, own.dtype.type(-math.inf), scores)
        softmax(scores)
        return scores, on

    def hidden_keys(self, ids: Any, first: bool) -> Any:  # int (batch, n) -> bool (batch, n)
        """Which keys the dialect hides: a token id, unless it stands at position 0."""
        hidden = np.zeros(ids.shape, np.bool_) if self.masked_id is None else ids == self.masked_id
        if first:
            hidden[:, 0] = False
        return hidden


class Reading:
    """A `refimpl.copying.TaggedDecoder` of one source, which is read when this is made. Parameters and errors as `Session.reading`."""

    def __init__(self, session: Session, source_ids: Sequence[int]) -> None:
        self._session, inner = session, session.inner
        table = session.weights.bert.token_embedding
        ids = check_token_ids([list(source_ids)], inner.vocab_size, table)
        self._length = int(ids.shape[1])
        check_fits(self._length, session.config)
        self._hidden = session.hidden_keys(ids, first=True)[0]
        shape = (inner.num_hidden_layers, session.heads, self._length, session.w)
        self._keys, self._values = (np.empty(shape, session.dtype) for _ in range(2))
        x, handed = session.embedded(ids, 0, 0), None
        for i, layer in enumerate(session.weights.bert.blocks):
            q, k, v = session.heads_of(layer, x, 1)
            self._keys[i], self._values[i] = k[0], v[0]
            if i + 1 < inner.num_hidden_layers:  # of the last layer, keys and values alone are needed
                mixed, handed = self._attend(i, q[0], handed)
                x = session.after_attention(layer, x, mixed)

    def _attend(self, i: int, q: Any, handed: Any) -> tuple[Any, Any]:  # (heads, n, w) -> (n, d), (heads, n, n)
        """Attention of the source to itself, a block of queries at a time; all at once where scores are handed on."""
        session, (heads, n, w) = self._session, q.shape
        mixed = np.empty((n, heads * w), session.dtype)
        keys, values = self._keys[i], self._values[i]
        hidden = self._hidden if self._hidden.any() else None
        limit = SCORES if session.inner.residual_attention == "none" else n * n * heads
        for block in blocks(n, n * heads, limit):
            own = q[:, block] @ keys.swapaxes(-1, -2)
            session.with_distances(q[:, block], own, block.start)
            p, on = session.weighed(own, handed, i + 1, hidden)
            out = p @ values
            if session.distances is not None:
                out += session.distant_values(p, block.start)
            mixed[block] = out.swapaxes(0, 1).reshape(-1, heads * w)
        return mixed, on

    @property
    def context(self) -> int:
        """The longest target, its first token included: what the source leaves of the positions."""
        return self._session.config.context - self._length

    def start(self, token_ids: Any, mask: Any = None) -> tuple[tuple[Any, Any], State]:
        """Read the beginnings of targets, (batch, length), all of one length; ((logits, tag logits) of the next token, a state)."""
        session = self._session
        ids = check_token_ids(token_ids, session.inner.vocab_size, session.weights.bert.token_embedding)
        if not check_mask(mask, ids).all():
            expected, remedy = "prompts of one length", "read prompts of other lengths by themselves"
            raise ShapeError("a target has padding", where="start(mask)", expected=expected, remedy=remedy)
        batch = len(ids)
        cache = _Cache(session.inner.num_hidden_layers, batch, session.heads, ROOM, session.w, session.dtype)
        return self.advance(ids, State(cache, 0, np.ones((batch, 0), np.bool_)))

    def advance(self, token_ids: Any, cache: State) -> tuple[tuple[Any, Any], State]:
        """Read more tokens of every row, (batch, n); ((logits, tag logits) of the next, the state)."""
        session = self._session
        ids = check_token_ids(token_ids, session.inner.vocab_size, session.weights.bert.token_embedding)
        batch, n = ids.shape
        if batch != len(cache.allowed):
            expected, got = f"{len(cache.allowed)} rows, as in the state", f"{batch} rows"
            raise ShapeError("the state holds another batch", where="token_ids", expected=expected, got=got)
        _check_room(cache.length + n, self.context)
        kept, length = self._continued(cache, n), cache.length
        allowed = np.concatenate([cache.allowed, ~session.hidden_keys(ids, first=False)], axis=1)
        hidden = self._hidden_pairs(allowed, length, n)
        x, handed = session.embedded(ids, 1, self._length + length), None
        for i, layer in enumerate(session.weights.bert.blocks):
            q, k, v = session.heads_of(layer, x, batch)
            kept.keys[i, :, :, length : length + n], kept.values[i, :, :, length : length + n] = k, v
            mixed, handed = self._attend_target(i, q, kept, length + n, hidden, handed)
            x = session.after_attention(layer, x, mixed)
        kept.filled = length + n
        return session.said(x.reshape(batch, n, -1)[:, -1]), State(kept, length + n, allowed)

    def _continued(self, state: State, n: int) -> _Cache:
        """A cache that has room for n more, and holds nothing of another state there."""
        cache, needed = state.cache, state.length + n
        if cache.filled == state.length and cache.keys.shape[3] >= needed:
            return cache
        return cache.taken(slice(None), state.length, max(needed + ROOM, 3 * needed // 2))

    def _hidden_pairs(self, allowed: Any, length: int, n: int) -> Any:  # -> bool (batch, 1, n, source + all), or None
        """Which keys a query does not see: those hidden by the dialect, and what comes after it."""
        after = np.arange(length + n)[None, :] > np.arange(length, length + n)[:, None]
        if not after.any() and allowed.all() and not self._hidden.any():
            return None
        own = ~allowed[:, None, None, :] | after
        before = np.broadcast_to(self._hidden, (*own.shape[:3], self._length))
        return np.concatenate([before, own], axis=-1)

    def _attend_target(
        self, i: int, q: Any, cache: _Cache, end: int, hidden: Any, handed: Any
    ) -> tuple[Any, Any]:  # (batch, heads, n, w) -> (batch n, d), (batch, heads, n, source + end)
        """Attention of targets to the source, which all rows meet in one product, and to themselves."""
        session, (batch, heads, n, w), before = self._session, q.shape, self._length
        own = np.empty((batch, heads, n, before + end), session.dtype)
        rows = q.swapaxes(0, 1).reshape(heads, batch * n, w)
        met = rows @ self._keys[i].swapaxes(-1, -2)
        own[..., :before] = met.reshape(heads, batch, n, before).swapaxes(0, 1)
        np.matmul(q, cache.keys[i, :, :, :end].swapaxes(-1, -2), out=own[..., before:])
        session.with_distances(q, own, before + end - n)
        p, on = session.weighed(own, handed, i + 1, hidden)
        shared = p[..., :before].swapaxes(0, 1).reshape(heads, batch * n, before) @ self._values[i]
        out = shared.reshape(heads, batch, n, w).swapaxes(0, 1) + p[..., before:] @ cache.values[i, :, :, :end]
        if session.distances is not None:
            out += session.distant_values(p, before + end - n)
        return out.swapaxes(1, 2).reshape(batch * n, heads * w), on

    def select(self, cache: State, rows: list[int]) -> State:
        """The state of the given rows, which may repeat; TokenError for a row there is not."""
        rows = check_selected(rows, len(cache.allowed))
        if rows == list(range(len(cache.allowed))):
            return cache
        taken = cache.cache.taken(rows, cache.length, max(cache.length + ROOM, 3 * cache.length // 2))
        return State(taken, cache.length, cache.allowed[rows])


def _linear(x: Any, linear: Linear) -> Any:  # (tokens, in) -> (tokens, out)
    y = x @ linear.weight
    y += linear.bias
    return y


def _check_room(length: int, context: int) -> None:
    if length > context:
        expected, got = f"at most {context} tokens after this source", length
        raise ShapeError("the target runs past the position table", where="advance", expected=expected, got=got)


def _check(weights: Seq2SeqWeights, config: Seq2SeqConfig) -> None:
    if weights.bert.masked_lm is None:
        raise ConfigError("the weights lack this head", where="masked_lm", expected="parameters called masked_lm.*")
    arrays = leaves(weights)
    strangers = {type(array).__module__ for array in arrays if not isinstance(array, np.ndarray)}
    if strangers:
        remedy = "use refimpl.spaces.seq2seq.Seq2SeqDecoder, which computes on any array library"
        got = ", ".join(sorted(strangers))
        raise ConfigError("a session computes on NumPy", where="Session(weights)", got=got, remedy=remedy)
    kinds = {array.dtype.name for array in arrays}
    if len(kinds) > 1 or not kinds <= {"float32", "float64"}:
        expected, got = "float32 or float64, all parameters the same", ", ".join(sorted(kinds))
        raise DtypeError("a session computes in float32 or float64", expected=expected, got=got)
    type(weights).from_named(weights.named(), config)
