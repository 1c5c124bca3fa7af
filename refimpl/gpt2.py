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
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.attention import causal_mask
from refimpl.blocks import Form, GELUForm, pre_ln, pre_ln_vjp
from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import Pullback, total, vjp_of, zeros
from refimpl.inputs import as_array, check_mask, check_positions, check_selected, check_token_ids, rows_vjp
from refimpl.inputs import rows as _rows
from refimpl.normalization import layer_norm, layer_norm_vjp
from refimpl.number_system import Array, device_of, namespace, whole_number
from refimpl.parameters import Block, Linear, Norm, check_weights, is_positive, product, product_vjp

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

__all__ = [
    "Block",
    "CachedDecoder",
    "Dialect",
    "GPT2Config",
    "GPT2Weights",
    "KeyValueCache",
    "Linear",
    "Norm",
    "Reading",
    "block",
    "check_left_padded",
    "check_token_ids",
    "dialects",
    "forward",
    "hidden_states",
    "hidden_states_vjp",
    "logits",
    "logits_vjp",
    "named_dialect",
    "reading",
]


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
        wrong = [f"{name} = {size!r}" for name, size in sizes.items() if not is_positive(size)]
        if self.n_inner is not None and not is_positive(self.n_inner):
            wrong.append(f"n_inner = {self.n_inner!r}")
        if wrong:
            raise ConfigError("a size is not a positive whole number", where="GPT2Config", got=", ".join(wrong))
        sizes |= {} if self.n_inner is None else {"n_inner": self.n_inner}
        for name, size in sizes.items():
            object.__setattr__(self, name, whole_number(size))
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
        layer = Block.shapes(d, inner)
        shapes: dict[str, tuple[int, ...]] = {
            "token_embedding": (config.vocab_size, d),
            "position_embedding": (config.n_positions, d),
        }
        shapes |= {f"blocks.{i}.{name}": shape for i in range(config.n_layer) for name, shape in layer.items()}
        shapes |= {"final_norm.scale": (d,), "final_norm.bias": (d,)}
        return shapes if config.tie_word_embeddings else shapes | {"output_embedding": (config.vocab_size, d)}

    @classmethod
    def from_named(
        cls,
        arrays: Mapping[str, Array],
        config: GPT2Config,
        *,
        source: Mapping[str, str] | None = None,
        finite: Container[str] = (),
    ) -> GPT2Weights:
        """Put named arrays (names as in `shapes`) in their places.

        Raises ConfigError that lists *all* missing, extra, misshaped and non-finite arrays at once; `source` gives the names that
        the arrays had in their file, for that message. Arrays that are named in `finite` are known to be, and are not looked at.
        """
        check_weights(arrays, cls.shapes(config), source or {}, finite)
        return cls.placed(arrays, config)

    @classmethod
    def placed(cls, arrays: Mapping[str, Array], config: GPT2Config) -> GPT2Weights:
        """Named arrays in their places, of whatever shapes: `from_named` checks them, and `refimpl.parallel` has other ones."""
        return cls(
            arrays["token_embedding"],
            arrays["position_embedding"],
            tuple(Block.from_named(arrays, f"blocks.{i}.") for i in range(config.n_layer)),
            Norm.from_named(arrays, "final_norm."),
            None if config.tie_word_embeddings else arrays["output_embedding"],
        )

    def named(self) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        named = {"token_embedding": self.token_embedding, "position_embedding": self.position_embedding}
        for i, layer in enumerate(self.blocks):
            named |= layer.named(f"blocks.{i}.")
        named |= {f"final_norm.{field}": array for field, array in self.final_norm._asdict().items()}
        return named if self.output_embedding is None else named | {"output_embedding": self.output_embedding}


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


def _positions(positions: Any, mask: Array, read: Array | int, config: GPT2Config) -> Array:  # -> int (batch, length)
    """The given positions, or the count of real tokens before each token; refused where the table ends."""
    xp = namespace(mask)
    if positions is None:
        counted = xp.cumulative_sum(xp.astype(mask, xp.int64), axis=-1) - 1 + read
        positions = xp.where(mask, counted, xp.zeros_like(counted))
    else:
        positions = as_array("positions", positions, mask)
    check_positions(positions, tuple(mask.shape))
    positions = xp.broadcast_to(xp.astype(positions, xp.int64), mask.shape)
    lowest, highest = int(xp.min(positions)), int(xp.max(positions))
    if lowest < 0 or highest >= config.n_positions:
        raise TokenError(
            "the sequence runs past the position table",
            where="positions",
            expected=f"0 <= position < n_positions = {config.n_positions}",
            got=f"positions from {lowest} to {highest}",
            remedy="shorten the prompt, generate fewer tokens, or extend the table hierarchically: refimpl.load(..., positions=N)",
        )
    return positions


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
    form = Form(config.n_head, config.layer_norm_epsilon, activation)
    x, seen = pre_ln(layer, x, form, mask=mask, before=before)
    return x, (seen.keys, seen.values)


class Reading(NamedTuple):
    """What is read, checked, and how."""

    ids: Array  # int (batch, length)
    positions: Array  # int (batch, length)
    seen: Array  # bool (batch, 1, length, all): which keys each query may see
    allowed: Array  # bool (batch, all), as in the cache
    read: Array  # int (batch, 1), as in the cache
    activation: GELUForm


def reading(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Any,
    positions: Any,
    mask: Any,
    cache: KeyValueCache | None,
    dialect: str | Dialect,
) -> Reading:
    """What is asked, checked and understood: ids, positions, the keys that each query may see. Arguments as `logits`, and the cache."""
    convention = named_dialect(dialect)
    ids = check_token_ids(token_ids, config.vocab_size, weights.token_embedding)
    xp, real = namespace(weights.token_embedding, ids), check_mask(mask, ids)
    if cache is not None and cache.allowed.shape[0] != ids.shape[0]:
        expected, got = f"{cache.allowed.shape[0]} rows, as in the cache", f"{ids.shape[0]} rows"
        raise ShapeError("the cache holds another batch", where="token_ids", expected=expected, got=got)
    where = _positions(positions, real, 0 if cache is None else cache.read, config)
    allowed = real
    if convention.masked_key_id is not None:
        allowed = allowed & ((ids != convention.masked_key_id) | (where == 0))
    read = xp.sum(xp.astype(real, xp.int64), axis=-1, keepdims=True)
    if cache is not None:
        allowed, read = xp.concat([cache.allowed, allowed], axis=-1), cache.read + read
    seen = causal_mask(ids.shape[1], allowed.shape[1], xp=xp, device=device_of(ids)) & allowed[:, None, None, :]
    return Reading(ids, where, seen, allowed, read, convention.activation or config.activation)


def _read(
    weights: GPT2Weights, config: GPT2Config, given: Reading, cache: KeyValueCache | None
) -> tuple[list[Array], KeyValueCache]:
    """Embedding, every block's output and the final norm's, each (batch, length, d), and the cache that now includes the tokens."""
    x = _rows(weights.token_embedding, given.ids) + _rows(weights.position_embedding, given.positions)
    return _through(weights, config, x, given, cache)


def _through(
    weights: GPT2Weights, config: GPT2Config, x: Array, given: Reading, cache: KeyValueCache | None
) -> tuple[list[Array], KeyValueCache]:  # (batch, length, d) -> n_layer + 2 times (batch, length, d), cache
    """As `_read`, from the embedding on."""
    states, pairs = [x], []
    for i, layer in enumerate(weights.blocks):
        before = None if cache is None else (cache.keys[i], cache.values[i])
        options: dict[str, Any] = {"mask": given.seen, "before": before, "activation": given.activation}
        state, pair = block(layer, config, states[-1], **options)
        states.append(state)
        pairs.append(pair)
    states.append(layer_norm(states[-1], *weights.final_norm, config.layer_norm_epsilon))
    return states, KeyValueCache(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), given.allowed, given.read)


def _head(weights: GPT2Weights) -> Array:  # -> (d, vocab)
    """Eᵀ, or Hᵀ where the head is not tied."""
    table = weights.token_embedding if weights.output_embedding is None else weights.output_embedding
    return namespace(table).matrix_transpose(table)


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
    given = reading(weights, config, token_ids, positions, mask, cache, dialect)
    states, cache = _read(weights, config, given, cache)
    return product(states[-1], _head(weights)), cache


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
    return _read(weights, config, reading(weights, config, token_ids, positions, mask, None, dialect), None)[0]


def check_left_padded(token_ids: Any, mask: Any, config: GPT2Config, like: Array) -> Array:  # -> bool (batch, length)
    """The mask of prompts that end in real tokens; ids and mask checked as by `logits`, and ShapeError for one that ends in padding."""
    real = check_mask(mask, check_token_ids(token_ids, config.vocab_size, like))
    if not bool(namespace(real).all(real[:, -1])):
        remedy = "move the padding to the left of each prompt"
        raise ShapeError("a prompt ends in padding", where="start(mask)", expected="left padding", remedy=remedy)
    return real


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
        real = check_left_padded(token_ids, mask, self.config, self.weights.token_embedding)
        scores, cache = forward(self.weights, self.config, token_ids, mask=real, dialect=self.dialect)
        return scores[:, -1, :], cache

    def advance(self, token_ids: Any, cache: KeyValueCache) -> tuple[Array, KeyValueCache]:  # int (batch, 1)
        """Read one more token a row (batch, 1); the logits of the next."""
        scores, cache = forward(self.weights, self.config, token_ids, cache=cache, dialect=self.dialect)
        return scores[:, -1, :], cache

    def read(self, token_ids: Any, cache: KeyValueCache, mask: Any = None) -> tuple[Array, KeyValueCache]:
        """Read n more tokens a row (batch, n), padding where the mask (batch, n) is false; the logits after each, (batch, n, vocab)."""
        return forward(self.weights, self.config, token_ids, mask=mask, cache=cache, dialect=self.dialect)

    def select(self, cache: KeyValueCache, rows: list[int]) -> KeyValueCache:
        """The cache of the given rows; TokenError for one that there is not."""
        xp, kept = namespace(cache.allowed), check_selected(rows, cache.allowed.shape[0])
        return cache.select(xp.asarray(kept, device=device_of(cache.allowed)))


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(hidden_states, "weights")
def hidden_states_vjp(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Sequence[Any] | Array,
    *,
    positions: Any = None,
    mask: Any = None,
    dialect: str | Dialect = "openai",
) -> tuple[list[Array], Pullback]:  # int (batch, length) -> n_layer + 2 times (batch, length, d), pullback
    """x̄_{l-1} += layer_l*(x̄_l), from x̄_L = LN*(its own) down to Ē_r = Σ x̄₀ where the token is r, P̄_r = Σ x̄₀ where the position is r.

    The pullback takes a list of n_layer + 2 cotangents, None for a state that has none, and returns `GPT2Weights`, in which an output embedding that
    is not tied gets 0. Arguments and errors as `hidden_states`.
    """
    given = reading(weights, config, token_ids, positions, mask, None, dialect)
    token, token_pullback = rows_vjp(weights.token_embedding, given.ids)
    position, position_pullback = rows_vjp(weights.position_embedding, given.positions)
    states, pullbacks = [token + position], []
    form = Form(config.n_head, config.layer_norm_epsilon, given.activation)
    for layer in weights.blocks:
        (state, _), pullback_of_layer = pre_ln_vjp(layer, states[-1], form, mask=given.seen)
        states.append(state)
        pullbacks.append(pullback_of_layer)
    final, norm_pullback = layer_norm_vjp(states[-1], *weights.final_norm, config.layer_norm_epsilon)
    states.append(final)

    def pullback(states_bar: list[Array | None]) -> tuple[GPT2Weights]:
        *inner_bars, final_bar = states_bar
        x_bar, *norm = norm_pullback(zeros(final) if final_bar is None else final_bar)
        blocks: list[Block] = []
        for pullback_of_layer in reversed(pullbacks):
            layer_bar, x_bar, _ = pullback_of_layer(total(x_bar, inner_bars.pop()))
            blocks.insert(0, layer_bar)
        x_bar = total(x_bar, inner_bars.pop())
        (token_bar,), (position_bar,) = token_pullback(x_bar), position_pullback(x_bar)
        return (GPT2Weights(token_bar, position_bar, tuple(blocks), Norm(*norm), zeros(weights.output_embedding)),)

    return states, pullback


@vjp_of(logits, "weights")
def logits_vjp(
    weights: GPT2Weights,
    config: GPT2Config,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    dialect: str | Dialect = "openai",
) -> tuple[Array, Pullback]:  # int (batch, length) -> (batch, length, vocab), pullback
    """x̄_final = ȳ E, back through `hidden_states_vjp`; Ē = Σ ȳᵀ x_final + what it gets as embedding, or H̄ = Σ ȳᵀ x_final where H is not tied.

    The pullback returns `GPT2Weights`. Logits at padding have cotangents too: give them 0. Arguments and errors as `logits`.
    """
    states, states_pullback = hidden_states_vjp(
        weights, config, token_ids, positions=positions, mask=mask, dialect=dialect
    )
    scores, head_pullback = product_vjp(states[-1], _head(weights))

    def pullback(scores_bar: Array) -> tuple[GPT2Weights]:  # (batch, length, vocab) -> weights
        final_bar, head_bar = head_pullback(scores_bar)
        (bars,) = states_pullback([*(None for _ in states[:-1]), final_bar])
        table_bar = namespace(head_bar).matrix_transpose(head_bar)
        if weights.output_embedding is None:
            return (bars._replace(token_embedding=bars.token_embedding + table_bar),)
        return (bars._replace(output_embedding=table_bar),)

    return scores, pullback
