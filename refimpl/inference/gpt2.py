"""Reading texts with a GPT-2 fast, in NumPy: what `refimpl.gpt2.CachedDecoder` computes, arranged for speed and for little memory.

Nothing here defines anything. Ids, positions, masks and dialects are understood by the definition's own code. The same function, with other
roundings:

* keys and values are written in place, into arrays with room for what comes; nothing is joined token by token. A state knows how much of them is its
  own, so that an older state stays good: continuing it copies what it has, once;
* rows that were selected from one prompt, as in beam search, share the prompt's keys and values; only what was generated since is copied;
* a prompt goes through one layer after the other, in chunks of `TOKENS` tokens; attention in blocks of queries, against no later keys; the last layer
  and the head are computed for the last token alone where only its logits are asked for;
* arithmetic is done in place, GELU as x σ(2z), in blocks that stay in the cache;
* float16 weights stay as they are (in memory, or mapped from their file) and are widened exactly, a panel of columns at a time, into a buffer in the
  cache, where the product finds them: arithmetic is float32, and what passes through main memory are two bytes a parameter. Panels are shared out to
  threads.

A matrix is used in the memory order it has, (in, out) or (out, in): on OpenBLAS's kernels for AVX2 both are read equally fast.

The bits of an answer depend on the number of threads, and on nothing else that may vary from run to run.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import gpt2
from refimpl.activation import gelu
from refimpl.errors import ConfigError, DtypeError
from refimpl.inference.in_place import Memory, blocks, heads_of, normalized, softmax, tanh_gelu
from refimpl.inference.threads import blas_threads, products_on, usual_threads
from refimpl.inference.widening import shifted, widen
from refimpl.inputs import check_selected
from refimpl.number_system import whole_number
from refimpl.parameters import Linear, Norm, is_positive
from refimpl.trees import leaves, mapped

if TYPE_CHECKING:
    from refimpl.parameters import Block

__all__ = ["Session", "State"]

TOKENS = 1024  # that go through a layer at a time
SCORES = 1 << 20  # attention scores of a block of queries
HIDDEN = 65536  # numbers of a block for GELU
ROOM = 64  # tokens for which a new cache has room besides those it begins with
FEW = 16  # rows of a product from which on a panel may be large
PANEL = (
    1 << 20
)  # numbers of a widened panel: for the last cache, and few enough steps that threads seldom wait for Python's lock
LARGE = 1 << 21  # the same where there are many rows
COLUMNS = 64  # of a panel, at least, where they are not contiguous


class _Cache:
    """Keys and values of every layer, (batch, heads, capacity, w), the first `filled` of which are written."""

    def __init__(self, shape: tuple[int, int, int, int], layers: int, dtype: Any) -> None:
        self.keys, self.values = ([np.empty(shape, dtype) for _ in range(layers)] for _ in range(2))
        self.filled = 0

    @property
    def capacity(self) -> int:
        return int(self.keys[0].shape[2])

    def taken(self, rows: list[int] | slice, length: int, capacity: int) -> _Cache:
        """A copy of the first `length` places of some rows, with room for `capacity`."""
        batch = len(rows) if isinstance(rows, list) else self.keys[0].shape[0]
        _, heads, _, w = self.keys[0].shape
        copy = _Cache((batch, heads, capacity, w), len(self.keys), self.keys[0].dtype)
        for mine, its in zip([*self.keys, *self.values], [*copy.keys, *copy.values], strict=True):
            its[:, :, :length] = mine[rows, :, :length]
        copy.filled = length
        return copy


@dataclass(frozen=True)
class State:
    """What has been read: the cache and how much of it, what all rows share before it; `allowed` and `read` as in `refimpl.gpt2.KeyValueCache`."""

    cache: _Cache
    length: int
    allowed: Any  # bool (batch, all)
    read: Any  # int (batch, 1)
    shared: _Cache | None = None  # one row
    before: int = 0  # of its places


class Session:
    """A GPT-2 as `refimpl.decoding` wants it, on NumPy; also all logits of a text.

    One call at a time: calls from several threads at once would share its memory. What is returned is the caller's.

    Parameters
    ----------
    weights : NumPy arrays in any memory order: float32 or float64, computed with as they are; or float16, computed with in float32 (see the module),
        with a position table in float16 or float32. float16 matrices must be finite, as those of `refimpl.load` are, and this is not looked at:
        infinity and NaN would count as numbers from 65,536 on
    config, dialect : as in `refimpl.gpt2`
    threads : of products and of widening; None: as many as NumPy's products have now. The number is set while a call runs, and put back

    Raises
    ------
    ConfigError, DtypeError
        for weights of another array library or dtype, a number of threads that cannot be set.
    """

    def __init__(
        self,
        weights: gpt2.GPT2Weights,
        config: gpt2.GPT2Config,
        dialect: str | gpt2.Dialect = "openai",
        *,
        threads: int | None = None,
    ) -> None:
        _check(weights, threads)
        self.config, self.dialect = config, gpt2.named_dialect(dialect)
        self.threads = usual_threads() if threads is None else whole_number(threads)
        self.half = weights.token_embedding.dtype == np.float16
        self.dtype = np.dtype(np.float32) if self.half else weights.token_embedding.dtype
        self.weights = weights._replace(
            blocks=tuple(mapped(self._vector, layer) for layer in weights.blocks),
            final_norm=mapped(self._vector, weights.final_norm),
        )
        self._memory = Memory()
        self._parts = (self.threads or 1) if self.half else 1  # into which products are cut
        self._pool = ThreadPoolExecutor(self._parts) if self._parts > 1 else None

    def _vector(self, array: Any) -> Any:
        """Scales and biases in the dtype of the arithmetic; matrices as they are."""
        if not self.half or array.ndim > 1:
            return array
        wide = np.empty(array.shape, self.dtype)
        widen(array, wide)
        return wide

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self.config.n_positions

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Any, State]:  # -> (batch, vocab), state
        """Read left-padded prompts (batch, length); the logits of each row's next token. Errors as `refimpl.gpt2.CachedDecoder.start`."""
        real = gpt2.check_left_padded(token_ids, mask, self.config, self.weights.token_embedding)
        return self._last(self._reading(token_ids, real, None), None)

    def advance(self, token_ids: Any, cache: State) -> tuple[Any, State]:  # int (batch, n)
        """Read more tokens of every row; the logits of the next."""
        return self._last(self._reading(token_ids, None, cache), cache)

    def select(self, cache: State, rows: list[int]) -> State:
        """The state of the given rows, which may repeat; what they share is not copied. TokenError for a row there is not."""
        batch = len(cache.allowed)
        rows = check_selected(rows, batch)
        if rows == list(range(batch)):
            return cache
        allowed, read = cache.allowed[rows], cache.read[rows]
        if batch == 1 and cache.shared is None:
            empty = cache.cache.taken([0] * len(rows), 0, ROOM)
            return State(empty, 0, allowed, read, cache.cache, cache.length)
        taken = cache.cache.taken(rows, cache.length, self._room(cache.length, cache.before))
        return State(taken, cache.length, allowed, read, cache.shared, cache.before)

    def read(self, token_ids: Any, cache: State | None, mask: Any = None) -> tuple[Any, State]:
        """Read n more tokens a row (batch, n), padding where the mask is false; the logits after each, (batch, n, vocab)."""
        given = self._reading(token_ids, mask, cache)
        with self._running():
            x, state = self._read(given, cache, every=True)
            scores = self._head(x)
        return np.ascontiguousarray(scores.swapaxes(0, 1)), state

    def logits(self, token_ids: Any, mask: Any = None) -> Any:  # int (batch, length) -> (batch, length, vocab)
        """`refimpl.gpt2.logits` of whole texts, padded on either side."""
        return self.read(token_ids, None, mask)[0]

    # --- reading

    def _reading(self, token_ids: Any, mask: Any, state: State | None) -> Any:
        before = None if state is None else gpt2.KeyValueCache((), (), state.allowed, state.read)
        return gpt2.reading(self.weights, self.config, token_ids, None, mask, before, self.dialect)

    def _running(self) -> Any:
        """Products on the threads of this session; on one where Python's threads share out the panels."""
        return products_on(1 if self._pool else self.threads)

    def _last(self, given: Any, state: State | None) -> tuple[Any, State]:
        with self._running():
            x, state = self._read(given, state, every=False)
            return self._head(x)[0], state

    def _room(self, length: int, before: int) -> int:
        """Places of a cache that begins with `length` of them: half as many more, none that no position is left for."""
        return max(length, min(max(length + ROOM, length * 3 // 2), self.config.n_positions - before + 1))

    def _continued(self, state: State | None, batch: int, n: int) -> State:
        """The state to write to: one whose cache has room for n more, and holds nothing of another state there."""
        if state is None:
            d, heads = self.config.n_embd, self.config.n_head
            cache = _Cache((batch, heads, max(n, self._room(n, 0)), d // heads), self.config.n_layer, self.dtype)
            return State(cache, 0, None, None)
        cache, needed = state.cache, state.length + n
        if cache.filled != state.length or cache.capacity < needed:
            cache = cache.taken(slice(None), state.length, max(needed, self._room(needed, state.before)))
        return State(cache, state.length, state.allowed, state.read, state.shared, state.before)

    def _read(self, given: Any, state: State | None, *, every: bool) -> tuple[Any, State]:  # -> (n or 1, batch, d)
        """The final norm's output, tokens first, of all tokens or of the last; and the state that now includes them."""
        batch, n = given.ids.shape
        state = self._continued(state, batch, n)
        x = self._embedded(given)
        bias = _Bias(given.seen, self.dtype)
        for i, layer in enumerate(self.weights.blocks):
            last = not every and i == self.config.n_layer - 1
            x = self._layer(i, layer, x, state, bias, given.activation, last)
        state.cache.filled = state.length + n
        z = np.empty_like(x)
        self._norm(x, self.weights.final_norm, z)
        return z, State(state.cache, state.length + n, given.allowed, given.read, state.shared, state.before)

    def _embedded(self, given: Any) -> Any:  # -> (n, batch, d)
        """Token and position embeddings, tokens first."""
        x = self._rows(self.weights.token_embedding, given.ids)
        x += self._rows(self.weights.position_embedding, given.positions)
        return x

    def _rows(self, table: Any, ids: Any) -> Any:  # (rows, d), int (batch, n) -> (n, batch, d)
        found = np.take(table, ids.T, axis=0)
        if found.dtype == self.dtype:
            return found
        wide = np.empty(found.shape, self.dtype)
        widen(found.reshape(-1, found.shape[-1]), wide.reshape(-1, found.shape[-1]))
        return wide

    def _norm(self, x: Any, norm: Norm, z: Any) -> Any:  # (n, batch, d); z is written
        rows = z.reshape(-1, x.shape[-1])
        normalized(x.reshape(rows.shape), self.config.layer_norm_epsilon, rows)
        rows *= norm.scale
        rows += norm.bias
        return rows

    def _array(self, name: str, *shape: int) -> Any:
        return self._memory(name, shape, self.dtype)

    def _layer(
        self, i: int, layer: Block, x: Any, state: State, bias: _Bias, activation: str, last: bool
    ) -> Any:  # (n, batch, d), written; -> x, or its last token
        n, batch, d = x.shape
        for chunk in blocks(n, batch, TOKENS):
            part = x[chunk]
            tokens = len(part) * batch
            z = self._norm(part, layer.attention_norm, self._array("z", *part.shape))
            qkv = self._linear(z, layer.query_key_value, self._array("qkv", tokens, 3 * d))
            q, k, v = heads_of(qkv, len(part), batch, self.config.n_head, 3).swapaxes(1, 3)
            place = slice(state.length + chunk.start, state.length + chunk.stop)
            state.cache.keys[i][:, :, place], state.cache.values[i][:, :, place] = k, v
            if last:
                if chunk.stop < n:
                    continue
                part, q, chunk = part[-1:], q[:, :, -1:], slice(n - 1, n)
            mixed = self._attend(i, q, state, bias, chunk)
            self._branch(part, mixed, layer.attention_output)
            self._feed_forward(part, layer, activation)
        return x[-1:] if last else x

    def _linear(self, x: Any, linear: Linear, out: Any) -> Any:  # (tokens, in) -> (tokens, out), written
        self._product(x, linear.weight, out)
        out += linear.bias
        return out

    def _branch(self, x: Any, inputs: Any, linear: Linear) -> None:  # (n, batch, d) is written
        """x += the linear map of the inputs, (tokens, in)."""
        x += self._linear(inputs, linear, self._array("branch", len(inputs), x.shape[-1])).reshape(x.shape)

    def _feed_forward(self, x: Any, layer: Block, activation: str) -> None:  # (n, batch, d) is written
        z = self._norm(x, layer.feed_forward_norm, self._array("z", *x.shape))
        inner = self._array("inner", len(z), self.config.inner)
        self._product(z, layer.feed_forward_in.weight, inner)
        gate = self._array("gate", max(1, HIDDEN // self.config.inner), self.config.inner)
        with np.errstate(over="ignore"):  # of exp(-2z): a gate of 0
            for block in blocks(len(z), self.config.inner, HIDDEN):
                u = inner[block]
                u += layer.feed_forward_in.bias
                if activation == "tanh":
                    tanh_gelu(u, gate[: len(u)], u)
                else:
                    u[...] = gelu(u, "none")
        self._branch(x, inner, layer.feed_forward_out)

    # --- attention

    def _attend(
        self, i: int, q: Any, state: State, bias: _Bias, chunk: slice
    ) -> Any:  # (batch, heads, c, w) -> (tokens, d)
        """Σ_j p_j v_j for the queries of a chunk, block by block; tokens first."""
        batch, heads, count, w = q.shape
        q *= self.dtype.type(1 / math.sqrt(w))
        mixed = self._array("mixed", count * batch, heads * w)
        out = heads_of(mixed, count, batch, heads, 1).swapaxes(1, 3)[0]
        for block in blocks(count, batch * heads * (state.before + state.length + chunk.stop), SCORES):
            queries = slice(chunk.start + block.start, chunk.start + block.stop)
            end = state.length + queries.stop
            scores = self._array("scores", batch, heads, block.stop - block.start, state.before + end)
            keys, values = (each[i][:, :, :end] for each in (state.cache.keys, state.cache.values))
            np.matmul(q[:, :, block], keys.swapaxes(-1, -2), out=scores[..., state.before :])
            if state.shared is not None:
                self._shared_scores(
                    q[:, :, block], state.shared.keys[i][0, :, : state.before], scores[..., : state.before]
                )
            bias.add(scores, queries)
            softmax(scores)
            np.matmul(scores[..., state.before :], values, out=out[:, :, block])
            if state.shared is not None:
                out[:, :, block] += self._shared_values(
                    scores[..., : state.before], state.shared.values[i][0, :, : state.before]
                )
        return mixed

    def _shared_scores(
        self, q: Any, keys: Any, scores: Any
    ) -> None:  # (batch, heads, c, w), (heads, m, w); scores are written
        """Q Kᵀ with the keys of all rows, which are read once."""
        batch, heads, count, w = q.shape
        rows = q.swapaxes(0, 1).reshape(heads, batch * count, w)
        found = np.matmul(rows, keys.swapaxes(-1, -2))
        scores[...] = found.reshape(heads, batch, count, -1).swapaxes(0, 1)

    def _shared_values(self, p: Any, values: Any) -> Any:  # (batch, heads, c, m), (heads, m, w) -> (batch, heads, c, w)
        batch, heads, count, m = p.shape
        found = np.matmul(p.swapaxes(0, 1).reshape(heads, batch * count, m), values)
        return found.reshape(heads, batch, count, -1).swapaxes(0, 1)

    # --- products

    def _head(self, z: Any) -> Any:  # (n, batch, d) -> (n, batch, vocab)
        table = self.weights.token_embedding if self.weights.output_embedding is None else self.weights.output_embedding
        n, batch, d = z.shape
        out = np.empty((n * batch, len(table)), self.dtype)
        self._product(z.reshape(n * batch, d), table.T, out)
        return out.reshape(n, batch, -1)

    def _product(self, x: Any, weight: Any, out: Any) -> None:  # (tokens, in), (in, out) -> (tokens, out), written
        if not self.half:
            np.matmul(x, weight, out=out)
            return
        bounds = [weight.shape[1] * k // self._parts for k in range(self._parts + 1)]

        def part(k: int) -> None:
            self._widened(x, weight, out, bounds[k], bounds[k + 1], f"panel {k}")

        if self._pool is None:
            part(0)
            return
        running = [self._pool.submit(part, k) for k in range(self._parts)]
        try:
            for each in running:
                each.result()
        finally:
            wait(running)  # none goes on writing to memory that the next call will use

    def _widened(self, x: Any, weight: Any, out: Any, begin: int, end: int, name: str) -> None:
        """Some columns of the product with a float16 matrix, panel by panel."""
        inputs, turned = len(weight), weight.strides[0] < weight.strides[1]  # turned: it lies as (out, in)
        width = max(1 if turned else COLUMNS, (PANEL if len(x) < FEW else LARGE) // inputs)
        buffer = self._array(name, width * inputs)
        for a in range(begin, end, width):
            b = min(a + width, end)
            flat = buffer[: (b - a) * inputs]
            panel = flat.reshape(b - a, inputs).T if turned else flat.reshape(inputs, b - a)
            shifted(weight[:, a:b].T, panel.T) if turned else shifted(weight[:, a:b], panel)
            np.matmul(x, panel, out=out[:, a:b])


class _Bias:
    """0 where a query sees a key and -inf where not, made for the queries of a block."""

    def __init__(self, seen: Any, dtype: Any) -> None:  # bool (batch, 1, n, all)
        self.seen, self.dtype = seen, dtype
        self.nothing = bool(seen.all())

    def add(self, scores: Any, queries: slice) -> None:  # (batch, heads, c, m) is written
        """A query at padding, which sees nothing and whose answer means nothing, is let see all: NaN would go on from there."""
        if self.nothing:
            return
        seen = self.seen[:, :, queries, : scores.shape[-1]]
        bias = np.where(seen | ~seen.any(axis=-1, keepdims=True), self.dtype.type(0), self.dtype.type(-math.inf))
        scores += bias


def _check(weights: gpt2.GPT2Weights, threads: int | None) -> None:
    if threads is not None and not is_positive(threads):
        raise ConfigError("threads must be a whole number from 1", where="Session(threads=...)", got=repr(threads))
    if threads is not None and blas_threads() is None:
        remedy = "leave threads out, and set the number as that library wants it"
        raise ConfigError(
            "NumPy's products are not OpenBLAS's", where="Session(threads=...)", got=threads, remedy=remedy
        )
    arrays = leaves(weights)
    strangers = {type(array).__module__ for array in arrays if not isinstance(array, np.ndarray)}
    if strangers:
        remedy = "use refimpl.gpt2.CachedDecoder, which computes on any array library"
        raise ConfigError(
            "a session computes on NumPy", where="Session(weights)", got=", ".join(strangers), remedy=remedy
        )
    named = [_dtype_name(array) for array in leaves(weights._replace(position_embedding=None))]
    dtypes, positions = set(named), _dtype_name(weights.position_embedding)
    dtypes |= set() if (dtypes, positions) == ({"float16"}, "float32") else {positions}
    if len(dtypes) > 1 or not dtypes <= {"float16", "float32", "float64"}:
        expected = "float16, float32 or float64, all parameters the same"
        raise DtypeError("a session computes in float32 or float64", expected=expected, got=", ".join(sorted(dtypes)))


def _dtype_name(array: Any) -> str:
    return array.dtype.name if array.dtype.isnative else f"{array.dtype.name} in foreign byte order"
