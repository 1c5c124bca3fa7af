"""BERT, RoBERTa and NEZHA: post-LN encoders, with their heads; as language model and as sequence-to-sequence model; as RealFormer.

    x₀ = LN(E[token] + S[segment] + P[position])                               NEZHA has no P, but relative positions in every layer
    x_l = LN₂(y + FF(y)),  y = LN₁(x_{l-1} + SA(x_{l-1}))                      `refimpl.blocks.post_ln`, or `realformer`
    pooled = tanh(W x_L[0] + b)                       next sentence = W pooled + b
    masked LM = LN(GELU(W x_L + b)) Eᵀ + b_v          or Hᵀ where the head H is not tied to E

`application` says what a token may see: the whole text ("encoder"), what precedes it ("lm"), or the source whole and the target up to itself
("unilm", by segment). RoBERTa keeps `position_offset` = 2 rows before position 0, the second of them for padding.

Dialects name the conventions of known implementations:

* `"huggingface"`: `mask` says what is padding; the layer norms' eps is the configuration's.
* `"bert4keras"`: version 0.11.5. Token id 0 is masked as a key except at position 0. Eps is 1e-12; in NEZHA 1e-7, but 1e-12 in the masked-LM head.
  Residual attention adds the scores of the previous layer alone, not their sum (claim REALFORMER-1.bert4keras).
* `"bert4keras-0.9"`: versions before: eps 1e-12 throughout, and residual attention as in the paper.

References: J. Devlin et al., "BERT", arXiv 1810.04805, section 3, and the code released with it; Y. Liu et al., "RoBERTa", arXiv 1907.11692;
J. Wei et al., "NEZHA", arXiv 1909.00204; L. Dong et al., "UniLM", arXiv 1905.03197; R. He et al., "RealFormer", arXiv 2012.11747.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl.activation import gelu, gelu_vjp, tanh, tanh_vjp
from refimpl.attention import HandedOn, causal_mask, unilm_mask
from refimpl.blocks import Attended, Form, GELUForm, realformer, realformer_vjp
from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import Pullback, summed_to, total, vjp_of, zeros
from refimpl.inputs import as_array, check_mask, check_positions, check_some_token, check_token_ids, rows, rows_vjp
from refimpl.normalization import layer_norm, layer_norm_vjp
from refimpl.number_system import Array, device_of, namespace, whole_number
from refimpl.parameters import Block, Linear, Norm, affine_vjp, check_weights, is_positive, product, product_vjp
from refimpl.positions import relative_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Application",
    "BertConfig",
    "BertWeights",
    "Dialect",
    "KeyValueCache",
    "MaskedLM",
    "dialects",
    "encode",
    "encode_vjp",
    "forward",
    "head_eps",
    "hidden_states",
    "hidden_states_vjp",
    "layer_eps",
    "masked_lm_logits",
    "masked_lm_logits_vjp",
    "masked_lm_scores",
    "masked_lm_scores_vjp",
    "masked_lm_vectors",
    "masked_lm_vectors_vjp",
    "named_dialect",
    "next_sentence_logits",
    "next_sentence_logits_vjp",
    "pooled",
    "pooled_vjp",
]

Application = Literal["encoder", "lm", "unilm"]
APPLICATIONS = ("encoder", "lm", "unilm")
RESIDUALS = ("none", "sum", "mean")
HEADS = ("pooler", "masked_lm", "next_sentence")


@dataclass(frozen=True)
class BertConfig:
    """The sizes and constants of a BERT, under the names of Hugging Face's config.json where it has them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int | None = None  # width of the feed-forward layer; None: 4 hidden_size
    max_position_embeddings: int | None = (
        512  # rows of the position table, RoBERTa's first two among them; None: NEZHA, which has none
    )
    type_vocab_size: int = 2  # segments; 0: none
    layer_norm_eps: float = 1e-12
    activation: GELUForm = "none"
    position_offset: int = 0  # rows of the table before position 0
    pad_token_id: int | None = None  # where positions are counted: this id takes none. None: the position is the index
    residual_attention: Literal["none", "sum", "mean"] = "none"  # RealFormer, and its running mean
    clip: int = 64  # of NEZHA's relative positions

    def __post_init__(self) -> None:
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "clip")
        sizes = {name: getattr(self, name) for name in names}
        optional = {name: getattr(self, name) for name in ("intermediate_size", "max_position_embeddings")}
        sizes |= {name: size for name, size in optional.items() if size is not None}
        wrong = [f"{name} = {size!r}" for name, size in sizes.items() if not is_positive(size)]
        counts = {"type_vocab_size": self.type_vocab_size, "position_offset": self.position_offset}
        wrong += [
            f"{name} = {size!r}" for name, size in counts.items() if not (whole_number(size) == 0 or is_positive(size))
        ]
        if wrong:
            raise ConfigError("a size is not a positive whole number", where="BertConfig", got=", ".join(wrong))
        for name, size in (sizes | counts).items():
            object.__setattr__(self, name, whole_number(size))
        self._check_choices()

    def _check_choices(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                "the width does not divide into the heads",
                where="BertConfig",
                expected="hidden_size a multiple of num_attention_heads",
                got=f"hidden_size = {self.hidden_size}, num_attention_heads = {self.num_attention_heads}",
            )
        if isinstance(self.layer_norm_eps, str) or not self.layer_norm_eps >= 0:
            raise ConfigError("layer_norm_eps must not be negative", where="BertConfig", got=self.layer_norm_eps)
        for name, known in (("activation", ("tanh", "none")), ("residual_attention", RESIDUALS)):
            if getattr(self, name) not in known:
                got = repr(getattr(self, name))
                raise ConfigError(f"unknown {name}", where="BertConfig", expected=", ".join(known), got=got)
        if self.max_position_embeddings is not None and self.position_offset >= self.max_position_embeddings:
            raise ConfigError("position_offset leaves no positions", where="BertConfig", got=self.position_offset)

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size


class MaskedLM(NamedTuple):
    """The masked-LM head: LN(GELU(W x + b)) Eᵀ + bias."""

    transform: Linear  # (d, d)
    norm: Norm
    bias: Array  # (vocab,)


class BertWeights(NamedTuple):
    """All parameters of a BERT; heads that a file lacks are None."""

    token_embedding: Array  # (vocab, d)
    position_embedding: Array | None  # (positions, d); None: NEZHA
    segment_embedding: Array | None  # (segments, d)
    embedding_norm: Norm
    blocks: tuple[Block, ...]
    pooler: Linear | None  # (d, d)
    masked_lm: MaskedLM | None
    next_sentence: Linear | None  # (d, 2)
    output_embedding: Array | None  # (vocab, d), or None where the head is tied to the token embedding

    @staticmethod
    def shapes(config: BertConfig, groups: Iterable[str] = HEADS) -> dict[str, tuple[int, ...]]:
        """Every parameter's dotted name and shape, with the heads in `groups` ("pooler", "masked_lm", "next_sentence", "output_embedding")."""
        v, d = config.vocab_size, config.hidden_size
        heads: dict[str, dict[str, tuple[int, ...]]] = {
            "pooler": {"weight": (d, d), "bias": (d,)},
            "masked_lm": {
                "transform.weight": (d, d),
                "transform.bias": (d,),
                "norm.scale": (d,),
                "norm.bias": (d,),
                "bias": (v,),
            },
            "next_sentence": {"weight": (d, 2), "bias": (2,)},
        }
        shapes: dict[str, tuple[int, ...]] = {"token_embedding": (v, d)}
        if config.max_position_embeddings is not None:
            shapes["position_embedding"] = (config.max_position_embeddings, d)
        if config.type_vocab_size:
            shapes["segment_embedding"] = (config.type_vocab_size, d)
        shapes |= {"embedding_norm.scale": (d,), "embedding_norm.bias": (d,)}
        layer = Block.shapes(d, config.inner)
        shapes |= {f"blocks.{i}.{name}": s for i in range(config.num_hidden_layers) for name, s in layer.items()}
        wanted = [group for group in HEADS if group in groups]
        shapes |= {f"{group}.{name}": shape for group in wanted for name, shape in heads[group].items()}
        return shapes | {"output_embedding": (v, d)} if "output_embedding" in groups else shapes

    @classmethod
    def from_named(
        cls, arrays: Mapping[str, Array], config: BertConfig, *, source: Mapping[str, str] | None = None
    ) -> BertWeights:
        """Put named arrays (names as in `shapes`) in their places; a head is there as a whole or not at all.

        Raises ConfigError that lists *all* missing, extra, misshaped and non-finite arrays at once; `source` gives the names that
        the arrays had in their file, for that message.
        """
        groups = {name.split(".")[0] for name in arrays}
        check_weights(arrays, cls.shapes(config, groups), source or {})
        head = None
        if "masked_lm" in groups:
            transform, norm = (
                Linear.from_named(arrays, "masked_lm.transform."),
                Norm.from_named(arrays, "masked_lm.norm."),
            )
            head = MaskedLM(transform, norm, arrays["masked_lm.bias"])
        return cls(
            arrays["token_embedding"],
            arrays.get("position_embedding"),
            arrays.get("segment_embedding"),
            Norm.from_named(arrays, "embedding_norm."),
            tuple(Block.from_named(arrays, f"blocks.{i}.") for i in range(config.num_hidden_layers)),
            Linear.from_named(arrays, "pooler.") if "pooler" in groups else None,
            head,
            Linear.from_named(arrays, "next_sentence.") if "next_sentence" in groups else None,
            arrays.get("output_embedding"),
        )

    def named(self) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        found: dict[str, Array | None] = {
            name: getattr(self, name) for name in ("token_embedding", "position_embedding", "segment_embedding")
        }
        found |= {f"embedding_norm.{field}": array for field, array in self.embedding_norm._asdict().items()}
        for i, layer in enumerate(self.blocks):
            found |= layer.named(f"blocks.{i}.")
        for name in ("pooler", "next_sentence"):
            part = getattr(self, name)
            found |= {} if part is None else {f"{name}.{field}": array for field, array in part._asdict().items()}
        if self.masked_lm is not None:
            for part_name, part in (("transform", self.masked_lm.transform), ("norm", self.masked_lm.norm)):
                found |= {f"masked_lm.{part_name}.{field}": array for field, array in part._asdict().items()}
            found["masked_lm.bias"] = self.masked_lm.bias
        found["output_embedding"] = self.output_embedding
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class Dialect:
    """The conventions in which implementations of BERT differ; an eps of None is the configuration's."""

    eps: float | None = None
    relative_eps: float | None = None  # instead of it, where positions are relative (NEZHA)
    head_eps: float | None = None  # of the masked-LM head
    masked_key_id: int | None = None  # this token id is never attended to, except at position 0
    residual: Literal["all", "previous"] = (
        "all"  # whose scores residual attention adds: all layers' before, or the previous layer's alone
    )


dialects: dict[str, Dialect] = {
    "huggingface": Dialect(),
    "bert4keras": Dialect(1e-12, 1e-7, 1e-12, masked_key_id=0, residual="previous"),
    "bert4keras-0.9": Dialect(1e-12, 1e-12, 1e-12, masked_key_id=0),
}


def named_dialect(dialect: str | Dialect) -> Dialect:
    """The dialect of that name, or the dialect given; raises ConfigError that lists the names there are."""
    if isinstance(dialect, Dialect):
        return dialect
    if not isinstance(dialect, str) or dialect not in dialects:
        raise ConfigError("unknown dialect", where="bert", expected=f"one of {', '.join(dialects)}", got=repr(dialect))
    return dialects[dialect]


def layer_eps(config: BertConfig, dialect: Dialect) -> float:
    """The eps of the layer norms in this dialect, but for the masked-LM head's."""
    chosen = dialect.relative_eps if config.max_position_embeddings is None else dialect.eps
    return config.layer_norm_eps if chosen is None else chosen


def _segments(segment_ids: Any, ids: Array, config: BertConfig) -> Array:  # -> int (batch, length)
    """The given segments, or 0 throughout; refused where there is no such segment."""
    xp = namespace(ids)
    if segment_ids is None:
        return xp.zeros_like(ids)
    given = as_array("segment_ids", segment_ids, ids)
    if tuple(given.shape) != tuple(ids.shape):
        what, got = "segment_ids must have the shape of token_ids", tuple(given.shape)
        raise ShapeError(what, expected=tuple(ids.shape), got=got)
    if "int" not in str(given.dtype):
        raise TokenError("segment ids must be whole numbers", expected="an integer dtype", got=given.dtype)
    given = xp.astype(given, xp.int64)
    lowest, highest, kinds = int(xp.min(given)), int(xp.max(given)), config.type_vocab_size
    if lowest < 0 or (kinds and highest >= kinds):
        raise TokenError(
            "segment id out of range",
            where="segment_ids",
            expected=f"0 <= segment < type_vocab_size = {kinds}",
            got=f"from {lowest} to {highest}",
        )
    return given


def _table_rows(positions: Any, ids: Array, config: BertConfig) -> Array:  # -> int (batch, length)
    """The row of the position table for each token: offset + position, where padding that takes no position has the row before position 0."""
    xp, highest = namespace(ids), (config.max_position_embeddings or 0) - config.position_offset
    if positions is not None:
        given, lowest = as_array("positions", positions, ids), 0
        check_positions(given, tuple(ids.shape))
        where = xp.broadcast_to(xp.astype(given, xp.int64), ids.shape)
    elif config.pad_token_id is not None and config.position_offset:
        real = ids != config.pad_token_id
        counted = xp.cumulative_sum(xp.astype(real, xp.int64), axis=-1) - 1
        where, lowest = xp.where(real, counted, xp.full_like(counted, -1)), -1
    else:
        where, lowest = xp.broadcast_to(xp.arange(ids.shape[1], device=device_of(ids)), ids.shape), 0
    if int(xp.min(where)) < lowest or int(xp.max(where)) >= highest:
        raise TokenError(
            "the sequence runs past the position table",
            where="positions",
            expected=f"0 <= position < {highest}",
            got=f"positions from {int(xp.min(where))} to {int(xp.max(where))}",
            remedy="shorten the text, or extend the table (refimpl.positions.extend)",
        )
    return where + config.position_offset


def _seen(
    ids: Array, segments: Any, mask: Any, application: str, convention: Dialect
) -> Array:  # -> bool (batch, 1, 1 or n, n)
    """Which keys each query may see: what is no padding, and what the application allows."""
    xp, allowed = namespace(ids), check_mask(mask, ids)
    check_some_token(allowed)
    if convention.masked_key_id is not None:
        first = xp.arange(ids.shape[1], device=device_of(ids))[None, :] == 0
        allowed = allowed & ((ids != convention.masked_key_id) | first)
    keys = allowed[:, None, None, :]
    if application == "encoder":
        return keys
    if application == "lm":
        return keys & causal_mask(ids.shape[1], ids.shape[1], xp=xp, device=device_of(ids))
    return keys & unilm_mask(segments)


def _check_application(application: Any, segment_ids: Any) -> None:
    if application not in APPLICATIONS:
        expected = ", ".join(APPLICATIONS)
        raise ConfigError("unknown application", where="bert", expected=expected, got=repr(application))
    if application == "unilm" and segment_ids is None:
        remedy = "pass segment_ids=, 0 for the source and 1 for the target"
        raise ConfigError("segments say what is source and what is target", where='application="unilm"', remedy=remedy)


class _Reading(NamedTuple):
    """What is read, checked, and how."""

    rows: dict[str, Array]  # int (batch, n): the rows that are taken of each embedding table there is, by its name
    seen: Array  # bool (batch, 1, 1 or n, n): which keys each query may see
    form: Form
    hand_on: HandedOn


def _reading(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any,
    mask: Any,
    positions: Any,
    application: Application,
    dialect: str | Dialect,
) -> _Reading:
    convention, like = named_dialect(dialect), weights.token_embedding
    _check_application(application, segment_ids)
    ids = check_token_ids(token_ids, config.vocab_size, like)
    segments = _segments(segment_ids, ids, config)
    seen, eps = _seen(ids, segments, mask, application, convention), layer_eps(config, convention)
    rows_of = {"token_embedding": ids}
    if weights.segment_embedding is not None:
        rows_of["segment_embedding"] = segments
    if weights.position_embedding is not None:
        rows_of["position_embedding"] = _table_rows(positions, ids, config)
    form = Form(config.num_attention_heads, eps, config.activation)
    return _Reading(rows_of, seen, form, "sum" if convention.residual == "all" else "own")


def _embedded(weights: BertWeights, given: _Reading) -> Array:  # -> (batch, n, d)
    """x₀ = LN(E[token] + S[segment] + P[position])."""
    taken = [rows(getattr(weights, name), ids) for name, ids in given.rows.items()]
    return layer_norm(functools.reduce(operator.add, taken), *weights.embedding_norm, given.form.eps)


def _relative(
    config: BertConfig, x: Array, before: int = 0
) -> Array | None:  # (batch, n, d) -> (n, before + n, w), or None
    """NEZHA's relative positions, of tokens that follow `before` others; other models have none."""
    if config.max_position_embeddings is not None:
        return None
    n, w = x.shape[1], config.hidden_size // config.num_attention_heads
    return relative_positions(n, before + n, w, like=x, clip=config.clip)


def _residual(
    config: BertConfig, given: _Reading, relative: Array | None, number: int, handed: Array | None
) -> dict[str, Any]:
    """What the attention of layer `number`, from 1, is told, besides the layer, its input and its form."""
    return {
        "mask": given.seen,
        "relative": relative,
        "previous_scores": None if config.residual_attention == "none" else handed,
        "mean_over": number if config.residual_attention == "mean" else 1,
        "hand_on": given.hand_on,
    }


def hidden_states(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any = None,
    *,
    mask: Any = None,
    positions: Any = None,
    application: Application = "encoder",
    dialect: str | Dialect = "huggingface",
) -> list[Array]:  # int (batch, n) -> num_hidden_layers + 1 times (batch, n, d)
    """[x₀, x₁, .., x_L]: the embedding and each layer's output. Arguments as `encode`."""
    given = _reading(weights, config, token_ids, segment_ids, mask, positions, application, dialect)
    states, handed = [_embedded(weights, given)], None
    relative = _relative(config, states[0])
    for number, layer in enumerate(weights.blocks, 1):
        x, found = realformer(layer, states[-1], given.form, **_residual(config, given, relative, number, handed))
        states.append(x)
        handed = found.scores
    return states


def encode(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any = None,
    *,
    mask: Any = None,
    positions: Any = None,
    application: Application = "encoder",
    dialect: str | Dialect = "huggingface",
) -> Array:  # int (batch, n) -> (batch, n, d)
    """x_L[b, t]: the last layer's vector for every token.

    Parameters
    ----------
    weights, config : the model; the weights decide backend, device and dtype
    token_ids : int array or nested list, (batch, n); padding may hold any id of the vocabulary
    segment_ids : int array or nested list, (batch, n); None: 0 throughout
    mask : bool array or nested list, (batch, n), true at real tokens; None: all are real. What comes out at padding means nothing
    positions : int array, (batch, n) or (n,); None: the index, or with a `position_offset` and a `pad_token_id` the count of tokens before it that
        are no padding. Ignored where positions are relative
    application : "encoder", "lm" or "unilm"
    dialect : "huggingface", "bert4keras", "bert4keras-0.9" or a `Dialect`

    Returns
    -------
    array, (batch, n, d), the dtype of the weights

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        for ids or segments that do not exist, empty input, positions past the table, wrong shapes, a mask that is not true or false, or
        false in a whole row, an unknown application or dialect, "unilm" without segments.
    """
    return hidden_states(
        weights,
        config,
        token_ids,
        segment_ids,
        mask=mask,
        positions=positions,
        application=application,
        dialect=dialect,
    )[-1]


class KeyValueCache(NamedTuple):
    """What has been read so far: per layer keys and values (batch, heads, length, w), and which tokens may be attended to."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    allowed: Array  # bool (batch, length)

    def select(self, rows: Array) -> KeyValueCache:  # int (n,) -> cache of n rows
        """The cache of the given rows, which may repeat: what beam search needs."""
        xp = namespace(self.allowed)
        keys, values = (tuple(xp.take(array, rows, axis=0) for array in arrays) for arrays in (self.keys, self.values))
        return KeyValueCache(keys, values, xp.take(self.allowed, rows, axis=0))


def _continuing(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any,
    cache: KeyValueCache,
    dialect: str | Dialect,
) -> _Reading:
    """How tokens are read that follow those in the cache: each sees them, itself, and what stands between."""
    convention, ids = named_dialect(dialect), check_token_ids(token_ids, config.vocab_size, weights.token_embedding)
    xp, (rows_, n), before = namespace(ids), ids.shape, cache.allowed.shape[1]
    if cache.allowed.shape[0] != rows_:
        expected, got = f"{cache.allowed.shape[0]} rows, as in the cache", f"{rows_} rows"
        raise ShapeError("the cache holds another batch", where="token_ids", expected=expected, got=got)
    positions = xp.arange(before, before + n, device=device_of(ids))
    given = _reading(weights, config, ids, segment_ids, None, positions, "encoder", dialect)
    allowed = ids == ids if convention.masked_key_id is None else ids != convention.masked_key_id
    keys = xp.concat([cache.allowed, allowed], axis=1)[:, None, None, :]
    return given._replace(seen=keys & causal_mask(n, before + n, xp=xp, device=device_of(ids)))


def forward(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any = None,
    *,
    mask: Any = None,
    cache: KeyValueCache | None = None,
    dialect: str | Dialect = "huggingface",
) -> tuple[Array, KeyValueCache]:  # int (batch, n) -> (batch, n, d), cache
    """x_L of a source, whose tokens see each other; or, with a cache, of tokens that follow: what "unilm" computes, read in pieces.

    A token that follows sees all in the cache, itself, and what stands between, whatever its segment. Its position is how many tokens there are
    before it.

    Parameters
    ----------
    weights, config, dialect : as `encode`
    token_ids, segment_ids, mask : as `encode`; with a cache there is no mask
    cache : what this function returned for the tokens before; None: there are none

    Returns
    -------
    array, (batch, n, d), the dtype of the weights; and the cache that now includes the tokens

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        as `encode`; if the cache holds another number of rows, or there are both a cache and a mask.
    """
    if cache is None:
        given = _reading(weights, config, token_ids, segment_ids, mask, None, "encoder", dialect)
    elif mask is not None:
        remedy = "leave the mask out: rows of one length alone can be continued"
        raise ConfigError("tokens that follow a cache have no padding", where="bert.forward(mask=...)", remedy=remedy)
    else:
        given = _continuing(weights, config, token_ids, segment_ids, cache, dialect)
    x, handed, pairs = _embedded(weights, given), None, []
    relative = _relative(config, x, 0 if cache is None else cache.allowed.shape[1])
    for number, layer in enumerate(weights.blocks, 1):
        before = None if cache is None else (cache.keys[number - 1], cache.values[number - 1])
        options = _residual(config, given, relative, number, handed)
        x, found = realformer(layer, x, given.form, before=before, **options)
        pairs.append((found.keys, found.values))
        handed = found.scores
    keys, values = (tuple(pair[part] for pair in pairs) for part in (0, 1))
    return x, KeyValueCache(keys, values, given.seen[:, 0, -1, :])


def _head(part: Any, name: str) -> Any:
    if part is None:
        raise ConfigError("the weights lack this head", where=name, expected=f"parameters called {name}.*")
    return part


def pooled(weights: BertWeights, hidden: Array) -> Array:  # (batch, n, d) -> (batch, d)
    """tanh(W x_L[0] + b), of the last layer's vector for the first token. Raises ConfigError where the weights have no pooler."""
    return tanh(_head(weights.pooler, "pooler")(hidden[:, 0, :]))


def next_sentence_logits(weights: BertWeights, hidden: Array) -> Array:  # (batch, n, d) -> (batch, 2)
    """W pooled + b: the scores of "follows" and "is a random sentence". Raises ConfigError where the weights have no such head."""
    head = _head(weights.next_sentence, "next_sentence")
    return head(pooled(weights, hidden))


def masked_lm_logits(
    weights: BertWeights, config: BertConfig, hidden: Array, *, dialect: str | Dialect = "huggingface"
) -> Array:  # (batch, n, d) -> (batch, n, vocab)
    """LN(GELU(W x_L + b)) Eᵀ + b_v: the scores of the token at every place.

    Parameters
    ----------
    weights, config, dialect : as `encode`
    hidden : array, (batch, n, d), what `encode` returned

    Returns
    -------
    array, (batch, n, vocab)

    Raises
    ------
    ConfigError
        if the weights have no such head, or the dialect is unknown.
    """
    return masked_lm_scores(weights, masked_lm_vectors(weights, config, hidden, dialect=dialect))


def masked_lm_vectors(
    weights: BertWeights, config: BertConfig, hidden: Array, *, dialect: str | Dialect = "huggingface"
) -> Array:  # (batch, n, d) -> (batch, n, d)
    """LN(GELU(W x_L + b)): the vectors that the masked-LM head compares with the words'. Arguments and errors as `masked_lm_logits`."""
    head, eps = _head(weights.masked_lm, "masked_lm"), head_eps(config, named_dialect(dialect))
    return layer_norm(gelu(head.transform(hidden), config.activation), *head.norm, eps)


def masked_lm_scores(weights: BertWeights, vectors: Array) -> Array:  # (batch, n, d) -> (batch, n, vocab)
    """y Eᵀ + b_v, or y Hᵀ + b_v where the head is not tied, of `masked_lm_vectors`. Raises ConfigError where the weights have no such head."""
    return product(vectors, _output(weights)) + _head(weights.masked_lm, "masked_lm").bias


def head_eps(config: BertConfig, dialect: Dialect) -> float:
    """The eps of the masked-LM head's norm in this dialect."""
    return config.layer_norm_eps if dialect.head_eps is None else dialect.head_eps


def _output(weights: BertWeights) -> Array:  # -> (d, vocab)
    """Eᵀ, or Hᵀ where the head is not tied."""
    table = weights.token_embedding if weights.output_embedding is None else weights.output_embedding
    return namespace(table).matrix_transpose(table)


# --- backwards ------------------------------------------------------------------------------------------------------------------------


def _embedded_vjp(weights: BertWeights, given: _Reading) -> tuple[Array, Pullback]:  # -> (batch, n, d), pullback
    """Every table's rows get the cotangents of the sum that the norm is taken of."""
    taken = {name: rows_vjp(getattr(weights, name), ids) for name, ids in given.rows.items()}
    x, norm_pullback = layer_norm_vjp(
        functools.reduce(operator.add, (found for found, _ in taken.values())), *weights.embedding_norm, given.form.eps
    )

    def pullback(x_bar: Array) -> tuple[dict[str, Any]]:  # (batch, n, d) -> fields of the weights
        sum_bar, *norm = norm_pullback(x_bar)
        tables = {name: table_pullback(sum_bar)[0] for name, (_, table_pullback) in taken.items()}
        return ({**tables, "embedding_norm": Norm(*norm)},)

    return x, pullback


@vjp_of(hidden_states, "weights")
def hidden_states_vjp(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any = None,
    *,
    mask: Any = None,
    positions: Any = None,
    application: Application = "encoder",
    dialect: str | Dialect = "huggingface",
) -> tuple[list[Array], Pullback]:  # int (batch, n) -> num_hidden_layers + 1 times (batch, n, d), pullback
    """x̄_{l-1} += layer_l*(x̄_l, S̄_l), which gives S̄_{l-1} too where scores are handed on; then LN* and the rows of the tables.

    The pullback takes a list of num_hidden_layers + 1 cotangents, None for a state that has none, and returns `BertWeights`, where the heads get 0.
    Arguments and errors as `hidden_states`.
    """
    given = _reading(weights, config, token_ids, segment_ids, mask, positions, application, dialect)
    embedded, embedding_pullback = _embedded_vjp(weights, given)
    states, pullbacks, handed = [embedded], [], None
    relative = _relative(config, embedded)
    for number, layer in enumerate(weights.blocks, 1):
        (x, found), pullback_of_layer = realformer_vjp(
            layer, states[-1], given.form, **_residual(config, given, relative, number, handed)
        )
        states.append(x)
        pullbacks.append(pullback_of_layer)
        handed = found.scores

    def pullback(states_bar: list[Array | None]) -> tuple[BertWeights]:
        *inner_bars, x_bar = states_bar
        blocks: list[Block] = []
        scores_bar = None
        for pullback_of_layer in reversed(pullbacks):
            layer_bar, x_bar, scores_bar, *_ = pullback_of_layer(x_bar, Attended(scores_bar, None, None))
            x_bar = total(x_bar, inner_bars.pop())
            blocks.insert(0, layer_bar)
        (embedding,) = embedding_pullback(x_bar)
        return (zeros(weights)._replace(blocks=tuple(blocks), **embedding),)

    return states, pullback


@vjp_of(encode, "weights")
def encode_vjp(
    weights: BertWeights,
    config: BertConfig,
    token_ids: Any,
    segment_ids: Any = None,
    *,
    mask: Any = None,
    positions: Any = None,
    application: Application = "encoder",
    dialect: str | Dialect = "huggingface",
) -> tuple[Array, Pullback]:  # int (batch, n) -> (batch, n, d), pullback
    """`hidden_states_vjp` with the cotangent of the last state. The pullback returns `BertWeights`. Arguments and errors as `encode`."""
    options: dict[str, Any] = {"mask": mask, "positions": positions, "application": application, "dialect": dialect}
    states, states_pullback = hidden_states_vjp(weights, config, token_ids, segment_ids, **options)
    return states[-1], lambda x_bar: states_pullback([*(None for _ in states[:-1]), x_bar])


@vjp_of(pooled, "weights", "hidden")
def pooled_vjp(weights: BertWeights, hidden: Array) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, d), pullback
    """x̄_L[0] = ((1 - y²) ∘ ȳ) Wᵀ, 0 for the other tokens; W̄ and b̄ of the pooler, 0 for all else. Arguments and errors as `pooled`."""
    xp, first = namespace(hidden), hidden[:, 0, :]
    inner, inner_pullback = affine_vjp(first, *_head(weights.pooler, "pooler"))
    y, tanh_pullback = tanh_vjp(inner)

    def pullback(y_bar: Array) -> tuple[BertWeights, Array]:  # (batch, d) -> weights, (batch, n, d)
        first_bar, *pooler = inner_pullback(*tanh_pullback(y_bar))
        hidden_bar = xp.concat([first_bar[:, None, :], zeros(hidden[:, 1:, :])], axis=1)
        return zeros(weights)._replace(pooler=Linear(*pooler)), hidden_bar

    return y, pullback


@vjp_of(next_sentence_logits, "weights", "hidden")
def next_sentence_logits_vjp(
    weights: BertWeights, hidden: Array
) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, 2), pullback
    """pooled̅ = ȳ Wᵀ, back through `pooled_vjp`. Arguments and errors as `next_sentence_logits`."""
    head = _head(weights.next_sentence, "next_sentence")
    vectors, pooled_pullback = pooled_vjp(weights, hidden)
    y, head_pullback = affine_vjp(vectors, *head)

    def pullback(y_bar: Array) -> tuple[BertWeights, Array]:  # (batch, 2) -> weights, (batch, n, d)
        vectors_bar, *bars = head_pullback(y_bar)
        weights_bar, hidden_bar = pooled_pullback(vectors_bar)
        return weights_bar._replace(next_sentence=Linear(*bars)), hidden_bar

    return y, pullback


@vjp_of(masked_lm_logits, "weights", "hidden")
def masked_lm_logits_vjp(
    weights: BertWeights, config: BertConfig, hidden: Array, *, dialect: str | Dialect = "huggingface"
) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, n, vocab), pullback
    """x̄_L = (GELU'(h) ∘ LN*(ȳ E)) Wᵀ with h = W x_L + b, Ē = Σ ȳᵀ LN(GELU(h)), b̄_v = Σ ȳ; 0 for all else. Arguments as `masked_lm_logits`."""
    words, words_pullback = masked_lm_vectors_vjp(weights, config, hidden, dialect=dialect)
    scores, scores_pullback = masked_lm_scores_vjp(weights, words)

    def pullback(y_bar: Array) -> tuple[BertWeights, Array]:  # (batch, n, vocab) -> weights, (batch, n, d)
        table_bar, words_bar = scores_pullback(y_bar)
        inner_bar, hidden_bar = words_pullback(words_bar)
        head_bar = inner_bar.masked_lm._replace(bias=table_bar.masked_lm.bias)
        return table_bar._replace(masked_lm=head_bar), hidden_bar

    return scores, pullback


@vjp_of(masked_lm_vectors, "weights", "hidden")
def masked_lm_vectors_vjp(
    weights: BertWeights, config: BertConfig, hidden: Array, *, dialect: str | Dialect = "huggingface"
) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, n, d), pullback
    """x̄_L = (GELU'(h) ∘ LN*(ȳ)) Wᵀ with h = W x_L + b; 0 for all but the transform and the norm. Arguments as `masked_lm_vectors`."""
    head: MaskedLM = _head(weights.masked_lm, "masked_lm")
    eps = head_eps(config, named_dialect(dialect))
    inner, inner_pullback = affine_vjp(hidden, *head.transform)
    active, gelu_pullback = gelu_vjp(inner, config.activation)
    words, norm_pullback = layer_norm_vjp(active, *head.norm, eps)

    def pullback(words_bar: Array) -> tuple[BertWeights, Array]:  # (batch, n, d) -> weights, (batch, n, d)
        active_bar, *norm = norm_pullback(words_bar)
        hidden_bar, *transform = inner_pullback(*gelu_pullback(active_bar))
        head_bar = MaskedLM(Linear(*transform), Norm(*norm), zeros(head.bias))
        return zeros(weights)._replace(masked_lm=head_bar), hidden_bar

    return words, pullback


@vjp_of(masked_lm_scores, "weights", "vectors")
def masked_lm_scores_vjp(
    weights: BertWeights, vectors: Array
) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, n, vocab), pullback
    """v̄ = ȳ E, Ē = Σ ȳᵀ v, b̄_v = Σ ȳ; 0 for all else. Arguments and errors as `masked_lm_scores`."""
    head: MaskedLM = _head(weights.masked_lm, "masked_lm")
    scores, product_pullback = product_vjp(vectors, _output(weights))
    tied = weights.output_embedding is None

    def pullback(y_bar: Array) -> tuple[BertWeights, Array]:  # (batch, n, vocab) -> weights, (batch, n, d)
        vectors_bar, output_bar = product_pullback(y_bar)
        head_bar = zeros(head)._replace(bias=summed_to(y_bar, head.bias.shape))
        table = {"token_embedding" if tied else "output_embedding": namespace(output_bar).matrix_transpose(output_bar)}
        return zeros(weights)._replace(masked_lm=head_bar, **table), vectors_bar

    return scores + head.bias, pullback
