"""GPT-2, and with it CPM-LM: a pre-LN decoder with learned positions.

    x₀ = E[token] + P[position]
    x  ← x + W_o Attention(LN(x)) + b_o                    softmax(Q Kᵀ/√d_head over keys at or before the query) V, per head
    x  ← x + W_2 GELU(W_1 LN(x) + b_1) + b_2
    logits = LN(x_L) Eᵀ                                    or LN(x_L) Hᵀ where the head H is not tied to E

Dialects name the conventions of known implementations:

* `"openai"`: GPT-2 as released, = Hugging Face `gelu_new`; the activation is the configuration's.
* `"cpm"`: CPM-LM's own code. It masks with -10⁴ where this source selects; the function is the same wherever scores stay above -10³.
* `"bert4keras"`: erf GELU unless told otherwise, and token id 0 is masked as a key except at position 0.

References: A. Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3, and the code released with it;
Z. Zhang et al., "CPM: a large-scale generative Chinese pre-trained language model", arXiv 2012.00413, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl.activation import gelu
from refimpl.attention import causal_mask, merge_heads, scaled_dot_product_attention, split_heads
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError
from refimpl.normalization import layer_norm
from refimpl.number_system import Array, device_of, is_ball, namespace, rounded_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Block",
    "CachedDecoder",
    "Dialect",
    "GPT2Config",
    "GPT2Weights",
    "KeyValueCache",
    "Linear",
    "Norm",
    "block",
    "check_token_ids",
    "dialects",
    "forward",
    "hidden_states",
    "logits",
    "named_dialect",
]

GELUForm = Literal["tanh", "none"]


@dataclass(frozen=True)
class GPT2Config:
    """The sizes and constants of a GPT-2, under the names of Hugging Face's config.json."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None = None  # width of the feed-forward layer; None: 4 n_embd
    layer_norm_epsilon: float = 1e-5
    activation: GELUForm = "tanh"
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
        wrong = [f"{name} = {size!r}" for name, size in sizes.items() if not _is_positive(size)]
        if self.n_inner is not None and not _is_positive(self.n_inner):
            wrong.append(f"n_inner = {self.n_inner!r}")
        if wrong:
            raise ConfigError("a size is not a positive whole number", where="GPT2Config", got=", ".join(wrong))
        if self.n_embd % self.n_head:
            raise ConfigError(
                "the width does not divide into the heads",
                where="GPT2Config",
                expected="n_embd a multiple of n_head",
                got=f"n_embd = {self.n_embd}, n_head = {self.n_head}",
            )
        if isinstance(self.layer_norm_epsilon, str) or not self.layer_norm_epsilon >= 0:
            raise ConfigError(
                "layer_norm_epsilon must not be negative", where="GPT2Config", got=self.layer_norm_epsilon
            )
        if self.activation not in ("tanh", "none"):
            raise ConfigError(
                "unknown activation", where="GPT2Config", expected='"tanh" or "none"', got=repr(self.activation)
            )

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


def _is_positive(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0


class Linear(NamedTuple):
    """x @ weight + bias, with weight (in, out) and bias (out,)."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:  # (..., in) -> (..., out)
        """x @ weight + bias."""
        return _affine(x, self.weight, self.bias)


@rounded_once
def _product(x: Array, y: Array) -> Array:  # (..., n, k), (k, m) -> (..., n, m)
    return namespace(x, y).matmul(x, y)


@rounded_once
def _affine(x: Array, weight: Array, bias: Array) -> Array:  # (..., in), (in, out), (out,) -> (..., out)
    return namespace(x, weight).matmul(x, weight) + bias


class Norm(NamedTuple):
    """The scale and bias of a layer norm, both (width,)."""

    scale: Array
    bias: Array


class Block(NamedTuple):
    """One layer's parameters, in the order in which the layer uses them."""

    attention_norm: Norm
    query_key_value: Linear  # (d, 3d): the columns are Q, then K, then V, each with the heads side by side
    attention_output: Linear  # (d, d)
    feed_forward_norm: Norm
    feed_forward_in: Linear  # (d, inner)
    feed_forward_out: Linear  # (inner, d)


class GPT2Weights(NamedTuple):
    """All parameters of a GPT-2."""

    token_embedding: Array  # (vocab, d)
    position_embedding: Array  # (positions, d)
    blocks: tuple[Block, ...]
    final_norm: Norm
    output_embedding: Array | None  # (vocab, d), or None where the head is tied to the token embedding

    @staticmethod
    def shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
        """Every parameter's dotted name and shape, for instance "blocks.0.attention_norm.scale": (768,)."""
        d, inner = config.n_embd, config.inner
        layer: dict[str, tuple[int, ...]] = {
            "attention_norm.scale": (d,),
            "attention_norm.bias": (d,),
            "query_key_value.weight": (d, 3 * d),
            "query_key_value.bias": (3 * d,),
            "attention_output.weight": (d, d),
            "attention_output.bias": (d,),
            "feed_forward_norm.scale": (d,),
            "feed_forward_norm.bias": (d,),
            "feed_forward_in.weight": (d, inner),
            "feed_forward_in.bias": (inner,),
            "feed_forward_out.weight": (inner, d),
            "feed_forward_out.bias": (d,),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "token_embedding": (config.vocab_size, d),
            "position_embedding": (config.n_positions, d),
        }
        shapes |= {f"blocks.{i}.{name}": shape for i in range(config.n_layer) for name, shape in layer.items()}
        shapes |= {"final_norm.scale": (d,), "final_norm.bias": (d,)}
        return shapes if config.tie_word_embeddings else shapes | {"output_embedding": (config.vocab_size, d)}

    @classmethod
    def from_named(
        cls, arrays: Mapping[str, Array], config: GPT2Config, *, source: Mapping[str, str] | None = None
    ) -> GPT2Weights:
        """Put named arrays (names as in `shapes`) in their places.

        Raises ConfigError that lists *all* missing, extra, misshaped and non-finite arrays at once; `source` gives the names that
        the arrays had in their file, for that message.
        """
        _check_weights(arrays, cls.shapes(config), source or {})

        def layer(i: int) -> Block:
            def pair(name: str, first: str, kind: Any) -> Any:
                return kind(arrays[f"blocks.{i}.{name}.{first}"], arrays[f"blocks.{i}.{name}.bias"])

            return Block(
                pair("attention_norm", "scale", Norm),
                pair("query_key_value", "weight", Linear),
                pair("attention_output", "weight", Linear),
                pair("feed_forward_norm", "scale", Norm),
                pair("feed_forward_in", "weight", Linear),
                pair("feed_forward_out", "weight", Linear),
            )

        return cls(
            arrays["token_embedding"],
            arrays["position_embedding"],
            tuple(layer(i) for i in range(config.n_layer)),
            Norm(arrays["final_norm.scale"], arrays["final_norm.bias"]),
            None if config.tie_word_embeddings else arrays["output_embedding"],
        )

    def named(self) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        named = {"token_embedding": self.token_embedding, "position_embedding": self.position_embedding}
        for i, layer in enumerate(self.blocks):
            for name, part in layer._asdict().items():
                named |= {f"blocks.{i}.{name}.{field}": array for field, array in part._asdict().items()}
        named |= {f"final_norm.{field}": array for field, array in self.final_norm._asdict().items()}
        return named if self.output_embedding is None else named | {"output_embedding": self.output_embedding}


def _is_finite(array: Array) -> bool:
    if is_ball(array):
        return all(ball.is_finite() for ball in array.ravel())
    xp = namespace(array)
    wide = xp.astype(array, xp.float32) if str(array.dtype) == "bfloat16" else array
    return bool(xp.all(xp.isfinite(wide)))


def _check_weights(
    arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], source: Mapping[str, str]
) -> None:
    def called(name: str) -> str:
        return f"{source[name]} ({name})" if name in source else name

    found = {name: tuple(array.shape) for name, array in arrays.items()}
    right = [name for name in shapes if found.get(name) == shapes[name]]
    problems = [f"missing: {called(name)} {shapes[name]}" for name in shapes if name not in found]
    problems += [f"unexpected: {called(name)} {shape}" for name, shape in found.items() if name not in shapes]
    problems += [
        f"wrong shape: {called(name)} expected {shapes[name]}, got {shape}"
        for name, shape in found.items()
        if name in shapes and name not in right
    ]
    kinds = sorted({str(array.dtype) for name, array in arrays.items() if name in shapes})
    problems += [f"mixed dtypes: {', '.join(kinds)}"] if len(kinds) > 1 else []
    problems += [f"not finite: {called(name)} holds NaN or infinity" for name in right if not _is_finite(arrays[name])]
    if problems:
        raise ConfigError(
            f"the weights do not fit the configuration ({len(problems)} problems)",
            got="\n    ".join(["", *problems]),
            remedy="check that config.json belongs to these weights (n_layer, n_embd, n_positions, vocab_size, n_inner, tied head)",
        )


@dataclass(frozen=True)
class Dialect:
    """The conventions in which implementations of GPT-2 differ."""

    activation: GELUForm | None = None  # None: what the configuration says
    masked_key_id: int | None = None  # this token id is never attended to, except at position 0


dialects: dict[str, Dialect] = {
    "openai": Dialect(),
    "cpm": Dialect(activation="tanh"),
    "bert4keras": Dialect(activation="none", masked_key_id=0),
}


def named_dialect(dialect: str | Dialect) -> Dialect:
    """The dialect of that name, or the dialect given; raises ConfigError that lists the names there are."""
    if isinstance(dialect, Dialect):
        return dialect
    if dialect not in dialects:
        raise ConfigError("unknown dialect", where="gpt2", expected=f"one of {', '.join(dialects)}", got=repr(dialect))
    return dialects[dialect]


class KeyValueCache(NamedTuple):
    """What has been read so far: per layer keys and values (batch, heads, length, d_head), and which positions are real."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    allowed: Array  # bool (batch, length): may be attended to
    read: Array  # int (batch, 1): real tokens read so far; the next token's position, where positions are counted

    def select(self, rows: Array) -> KeyValueCache:  # int (n,) -> cache of n rows
        """The cache of the given rows, which may repeat: what beam search needs."""
        xp = namespace(self.allowed)

        def taken(array: Array) -> Array:
            return xp.take(array, rows, axis=0)

        return KeyValueCache(
            tuple(map(taken, self.keys)), tuple(map(taken, self.values)), taken(self.allowed), taken(self.read)
        )


def _as_array(name: str, values: Any, like: Array) -> Array:
    """`values`, converted beside `like` unless it is an array already."""
    if hasattr(values, "dtype"):
        return values
    try:
        return namespace(like).asarray(values, device=device_of(like))
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"{name} is not a rectangular array of whole numbers",
            where=name,
            got=str(error),
            remedy="pad the rows to one length and pass mask=, true at the real tokens",
        ) from None


def check_token_ids(token_ids: Any, vocab_size: int, like: Array) -> Array:  # -> int (batch, length)
    """`token_ids` as an integer array beside `like`, refused before any gather if one of them is outside the vocabulary.

    The comparison matters on every backend: NumPy counts negative ids from the end, and a GPU wraps ids that are too large.
    """
    xp = namespace(like)
    ids = _as_array("token_ids", token_ids, like)
    if ids.ndim != 2:
        remedy = "for a single sequence pass token_ids[None, :]"
        raise ShapeError(
            "token_ids must have two axes", expected="(batch, length)", got=tuple(ids.shape), remedy=remedy
        )
    if 0 in ids.shape:
        raise TokenError(
            "the prompt is empty", where="token_ids", expected="at least one token a row", got=tuple(ids.shape)
        )
    if "int" not in str(ids.dtype):
        raise TokenError(
            "token ids must be whole numbers", where="token_ids", expected="an integer dtype", got=ids.dtype
        )
    ids = xp.astype(ids, xp.int64)  # a narrow dtype may not hold the vocabulary's size
    outside = (ids < 0) | (ids >= vocab_size)
    if bool(xp.any(outside)):
        row, column = (int(axis[0]) for axis in xp.nonzero(outside))
        raise TokenError(
            "token id out of range",
            where=f"token_ids[{row}, {column}]",
            expected=f"0 <= id < {vocab_size}",
            got=int(ids[row, column]),
            remedy="encode the text with this model's own tokenizer",
        )
    return ids


def _check_mask(mask: Any, ids: Array) -> Array:  # -> bool (batch, length)
    xp = namespace(ids)
    if mask is None:
        return xp.ones(ids.shape, dtype=xp.bool, device=device_of(ids))
    mask = _as_array("mask", mask, ids)
    if tuple(mask.shape) != tuple(ids.shape):
        raise ShapeError("the mask must have the shape of token_ids", expected=tuple(ids.shape), got=tuple(mask.shape))
    if "bool" not in str(mask.dtype) and ("int" not in str(mask.dtype) or bool(xp.any((mask != 0) & (mask != 1)))):
        raise DtypeError(
            "the mask must say true or false",
            expected="booleans, or whole numbers 0 and 1; true (1) at real tokens",
            got=mask.dtype,
            remedy="an additive mask of 0 and -inf is the opposite: pass additive_mask == 0",
        )
    return xp.astype(mask, xp.bool)


def _check_positions(positions: Array, mask: Array) -> None:
    if "int" not in str(positions.dtype):
        raise TokenError(
            "positions must be whole numbers", where="positions", expected="an integer dtype", got=positions.dtype
        )
    if tuple(positions.shape) not in (tuple(mask.shape), tuple(mask.shape[-1:]), (1, mask.shape[-1])):
        raise ShapeError(
            "positions must fit token_ids",
            where="positions",
            expected=f"{tuple(mask.shape)} or {tuple(mask.shape[-1:])}",
            got=tuple(positions.shape),
        )


def _positions(positions: Any, mask: Array, read: Array | int, config: GPT2Config) -> Array:  # -> int (batch, length)
    """The given positions, or the count of real tokens before each token; refused where the table ends."""
    xp = namespace(mask)
    if positions is None:
        counted = xp.cumulative_sum(xp.astype(mask, xp.int64), axis=-1) - 1 + read
        positions = xp.where(mask, counted, xp.zeros_like(counted))
    else:
        positions = _as_array("positions", positions, mask)
    _check_positions(positions, mask)
    positions = xp.broadcast_to(positions, mask.shape)
    lowest, highest = int(xp.min(positions)), int(xp.max(positions))
    if lowest < 0 or highest >= config.n_positions:
        raise TokenError(
            "the sequence runs past the position table",
            where="positions",
            expected=f"0 <= position < n_positions = {config.n_positions}",
            got=f"positions from {lowest} to {highest}",
            remedy="shorten the prompt or generate fewer tokens",
        )
    return positions


def _rows(table: Array, ids: Array) -> Array:  # (n, d), int (batch, length) -> (batch, length, d)
    xp = namespace(table, ids)
    return xp.reshape(xp.take(table, xp.reshape(ids, (-1,)), axis=0), (*ids.shape, table.shape[-1]))


def block(
    layer: Block,
    config: GPT2Config,
    x: Array,
    *,
    mask: Array,
    before: tuple[Array, Array] | None = None,
    activation: GELUForm = "tanh",
) -> tuple[Array, tuple[Array, Array]]:  # (batch, n, d), bool (..., n, m) -> (batch, n, d), keys and values
    """x + Attention(LN(x)), then x + FeedForward(LN(x)): one pre-LN layer.

    Parameters
    ----------
    layer, config : the layer's parameters, the model's sizes
    x : array, (batch, n, d)
    mask : boolean array that broadcasts to (batch, heads, n, m), true where a query may see a key
    before : keys and values, each (batch, heads, m - n, d_head), that precede those of `x`; or None
    activation : "tanh" or "none"

    Returns
    -------
    array (batch, n, d), and all m keys and values
    """
    xp = namespace(x)
    eps, d = config.layer_norm_epsilon, config.n_embd
    qkv = layer.query_key_value(layer_norm(x, *layer.attention_norm, eps))
    q, k, v = (split_heads(qkv[..., i * d : (i + 1) * d], config.n_head) for i in range(3))
    if before is not None:
        k, v = xp.concat([before[0], k], axis=2), xp.concat([before[1], v], axis=2)
    x = x + layer.attention_output(merge_heads(scaled_dot_product_attention(q, k, v, mask=mask)[0]))
    inner = gelu(layer.feed_forward_in(layer_norm(x, *layer.feed_forward_norm, eps)), activation)
    return x + layer.feed_forward_out(inner), (k, v)


def _read(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Any,
    positions: Any,
    mask: Any,
    cache: KeyValueCache | None,
    dialect: str | Dialect,
) -> tuple[list[Array], KeyValueCache]:
    """Embedding, every block's output and the final norm's, each (batch, length, d), and the cache that now includes the tokens."""
    convention = named_dialect(dialect)
    ids = check_token_ids(token_ids, config.vocab_size, weights.token_embedding)
    xp, real = namespace(weights.token_embedding, ids), _check_mask(mask, ids)
    if cache is not None and cache.allowed.shape[0] != ids.shape[0]:
        expected, got = f"{cache.allowed.shape[0]} rows, as in the cache", f"{ids.shape[0]} rows"
        raise ShapeError("the cache holds another batch", where="token_ids", expected=expected, got=got)
    where = _positions(positions, real, 0 if cache is None else cache.read, config)
    states = [_rows(weights.token_embedding, ids) + _rows(weights.position_embedding, where)]
    allowed = real
    if convention.masked_key_id is not None:
        allowed = allowed & ((ids != convention.masked_key_id) | (where == 0))
    read = xp.sum(xp.astype(real, xp.int64), axis=-1, keepdims=True)
    if cache is not None:
        allowed, read = xp.concat([cache.allowed, allowed], axis=-1), cache.read + read
    seen = causal_mask(ids.shape[1], allowed.shape[1], xp=xp, device=device_of(ids)) & allowed[:, None, None, :]
    pairs = []
    for i, layer in enumerate(weights.blocks):
        before = None if cache is None else (cache.keys[i], cache.values[i])
        activation = convention.activation or config.activation
        state, pair = block(layer, config, states[-1], mask=seen, before=before, activation=activation)
        states.append(state)
        pairs.append(pair)
    states.append(layer_norm(states[-1], *weights.final_norm, config.layer_norm_epsilon))
    return states, KeyValueCache(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), allowed, read)


def forward(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    cache: KeyValueCache | None = None,
    dialect: str | Dialect = "openai",
) -> tuple[Array, KeyValueCache]:  # int (batch, length) -> (batch, length, vocab), cache
    """Logits of the tokens given, which follow those in `cache`, and the cache that holds both. Arguments as `logits`."""
    states, cache = _read(weights, config, token_ids, positions, mask, cache, dialect)
    head = weights.token_embedding if weights.output_embedding is None else weights.output_embedding
    return _product(states[-1], namespace(head).matrix_transpose(head)), cache


def logits(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    dialect: str | Dialect = "openai",
) -> Array:  # int (batch, length) -> (batch, length, vocab)
    """logits[b, t] = LN(x_L[b, t]) Eᵀ: the scores of the token after t, given tokens 0..t of row b.

    Parameters
    ----------
    weights, config : the model; the weights decide backend, device and dtype
    token_ids : int array or nested list, (batch, length); padding may hold any id of the vocabulary
    positions : int array, (batch, length) or (length,); None counts the real tokens of each row from 0
    mask : bool array or nested list, (batch, length), true at real tokens; None: all are real. Padding may lie on either side, and the logits at
        padding mean nothing
    dialect : "openai", "cpm", "bert4keras" or a `Dialect`

    Returns
    -------
    array, (batch, length, vocab), the dtype of the weights

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        for ids outside the vocabulary, an empty prompt, positions past the table, wrong shapes, a mask that is not true or false,
        an unknown dialect.
    """
    return forward(weights, config, token_ids, positions=positions, mask=mask, dialect=dialect)[0]


def hidden_states(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Sequence[Any] | Array,
    *,
    positions: Any = None,
    mask: Any = None,
    dialect: str | Dialect = "openai",
) -> list[Array]:  # int (batch, length) -> n_layer + 2 times (batch, length, d)
    """[x₀, x₁, .., x_L, LN(x_L)]: the embedding, each block's output, the final norm's. Arguments as `logits`."""
    return _read(weights, config, token_ids, positions, mask, None, dialect)[0]


@dataclass(frozen=True)
class CachedDecoder:
    """A GPT-2 as `refimpl.decoding` wants it: read a prompt once, then one token at a time."""

    weights: GPT2Weights
    config: GPT2Config
    dialect: str | Dialect = "openai"

    @property
    def context(self) -> int:
        """The longest sequence, prompt included."""
        return self.config.n_positions

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, KeyValueCache]:  # -> (batch, vocab), cache
        """Read left-padded prompts (batch, length); the logits of each row's next token."""
        ids = check_token_ids(token_ids, self.config.vocab_size, self.weights.token_embedding)
        real = _check_mask(mask, ids)
        if not bool(namespace(real).all(real[:, -1])):
            remedy = "move the padding to the left of each prompt"
            raise ShapeError(
                "a prompt ends in padding", where="CachedDecoder.start(mask)", expected="left padding", remedy=remedy
            )
        scores, cache = forward(self.weights, self.config, ids, mask=real, dialect=self.dialect)
        return scores[:, -1, :], cache

    def advance(self, token_ids: Any, cache: KeyValueCache) -> tuple[Array, KeyValueCache]:  # int (batch, 1)
        """Read one more token a row (batch, 1); the logits of the next."""
        scores, cache = forward(self.weights, self.config, token_ids, cache=cache, dialect=self.dialect)
        return scores[:, -1, :], cache

    def select(self, cache: KeyValueCache, rows: list[int]) -> KeyValueCache:
        """The cache of the given rows."""
        xp = namespace(cache.allowed)
        return cache.select(xp.asarray(rows, device=device_of(cache.allowed)))
