"""The generator of SPACES: a BERT or NEZHA as sequence-to-sequence model (UniLM), whose masked-LM head says tokens and copy tags.

The model reads one sequence: the source (segment 0), then the target (segment 1). A source token sees the source, a target token the source and the
target up to itself. With x_L its last layer,

    v = LN(GELU(W x_L + b))          token logits = v Eᵀ + b_v          tag logits = v W_t + b_t,  of O, B, I                    (1)

so that the tags stand on the vectors that the token embedding is compared with (bert4keras' layer "MLM-Norm"). Position t says token t + 1 and its
tag.

Source and target both have their special tokens. bert4keras' tokenizer makes, with pattern "S*ES*E", which is what SPACES trains on,

    [CLS] source [SEP] [CLS] target [SEP]          segments 0 0 .. 0 1 1 .. 1                                                    (2)

and decoding begins with the target's [CLS], `start_token_id`, of segment 1, and ends with [SEP], `end_token_id`. That [CLS] is given, never said:
its own tag is no position's answer. The labels of the two dialects differ there. "published" has the target's [CLS] in the common subsequence, with
that of the source: where both texts begin alike, the first word's label is I, the continuation of a B that nothing is trained on, and that decoding
cannot choose, since it begins in state 0. "corrected" leaves the given token out (`training_labels`).

Training minimizes `refimpl.copying.spaces_loss` of (1). Decoding, `generate`, is beam search in which the tags say what may come (`copy_step`), and
of that the k largest logits alone are probabilities, as in the loss.

References: J. Su, "SPACES: extract-generate long text summarization", Scientific Spaces 8046 (2021), and github.com/bojone/SPACES at a545db3;
L. Dong et al., "UniLM", arXiv 1905.03197.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl import bert, copying
from refimpl.backend import generator
from refimpl.bert import BertConfig, BertWeights, KeyValueCache
from refimpl.copying import BEGIN, INSIDE, OUTSIDE, copy_labels, sequence_labels
from refimpl.decoding import beam_search, top_k_mask
from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import Pullback, vjp_of
from refimpl.inputs import check_mask, check_selected, check_token_ids
from refimpl.number_system import Array, device_of, namespace, whole_number
from refimpl.parameters import Linear, affine_vjp, check_weights, is_positive
from refimpl.spaces.published import published_search
from refimpl.trees import added

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from refimpl.copying import TaggedDecoder
    from refimpl.decoding import Decoder

__all__ = [
    "Generated",
    "Seq2SeqConfig",
    "Seq2SeqDecoder",
    "Seq2SeqWeights",
    "check_fits",
    "dialects",
    "generate",
    "initial_seq2seq",
    "logits",
    "logits_vjp",
    "loss",
    "loss_vjp",
    "places_of",
    "training_labels",
]

dialects = ("corrected", "published")
GROUPS = ("masked_lm", "output_embedding", "pooler", "next_sentence")  # what the BERT may have; the first it must
TAGS = ("tags.weight", "tags.bias")
KEPT = 10  # logits that the released decoding leaves
UNBOUNDED = 1 << 40  # positions of a NEZHA, which has no table


@dataclass(frozen=True)
class Seq2SeqConfig:
    """A BERT or NEZHA, and which tokens begin and end a target."""

    bert: BertConfig
    start_token_id: int  # [CLS]
    end_token_id: int  # [SEP]
    bert_dialect: str = "huggingface"  # of `refimpl.bert.dialects`

    def __post_init__(self) -> None:
        if isinstance(self.bert_dialect, bert.Dialect):
            expected = f"the name of one: {', '.join(bert.dialects)}"
            raise ConfigError("a configuration names its dialect", where="Seq2SeqConfig", expected=expected)
        bert.named_dialect(self.bert_dialect)
        for name in ("start_token_id", "end_token_id"):
            token = whole_number(getattr(self, name))
            if token is None or not 0 <= token < self.bert.vocab_size:
                expected, got = f"0 <= {name} < vocab_size = {self.bert.vocab_size}", repr(getattr(self, name))
                raise ConfigError("there is no such token", where="Seq2SeqConfig", expected=expected, got=got)
            object.__setattr__(self, name, token)
        if self.bert.position_offset:
            raise ConfigError(
                "a target's positions follow its source's",
                where="Seq2SeqConfig",
                expected="position_offset = 0",
                got=self.bert.position_offset,
            )
        if self.bert.type_vocab_size == 1:
            expected = "type_vocab_size 2 or more, or 0 for none"
            raise ConfigError("source and target need a segment each", where="Seq2SeqConfig", expected=expected, got=1)

    @property
    def context(self) -> int:
        """The longest sequence, source and target together."""
        rows = self.bert.max_position_embeddings
        return UNBOUNDED if rows is None else rows


class Seq2SeqWeights(NamedTuple):
    """All parameters: a BERT with a masked-LM head, and the tags'."""

    bert: BertWeights
    tags: Linear  # (d, 3), of O, B, I

    @staticmethod
    def shapes(config: Seq2SeqConfig, groups: Iterable[str] = ("masked_lm",)) -> dict[str, tuple[int, ...]]:
        """Every parameter's dotted name and shape: those of `BertWeights.shapes`, and "tags.weight" and "tags.bias"."""
        d = config.bert.hidden_size
        return BertWeights.shapes(config.bert, groups) | dict(zip(TAGS, ((d, 3), (3,)), strict=True))

    @classmethod
    def from_named(
        cls, arrays: Mapping[str, Array], config: Seq2SeqConfig, *, source: Mapping[str, str] | None = None
    ) -> Seq2SeqWeights:
        """Put named arrays (names as in `shapes`) in their places; raises ConfigError that lists all that do not fit, as `BertWeights.from_named`."""
        groups = {"masked_lm"} | {name.split(".")[0] for name in arrays}
        check_weights(arrays, cls.shapes(config, groups), source or {})
        rest = {name: array for name, array in arrays.items() if name not in TAGS}
        return cls(BertWeights.from_named(rest, config.bert, source=source), Linear.from_named(arrays, "tags."))

    def named(self) -> dict[str, Array]:
        """The arrays by their dotted names: the inverse of `from_named`."""
        return self.bert.named() | {f"tags.{field}": array for field, array in self.tags._asdict().items()}


def initial_seq2seq(config: Seq2SeqConfig, seed: int = 0, dtype: str = "float32") -> Seq2SeqWeights:
    """Matrices ~ N(0, 0.02²), not truncated, biases 0, scales 1.

    Drawn by NumPy's default generator in float64, in the order of `shapes`, and rounded. BERT and bert4keras cut the distribution off at two
    deviations.

    Raises ConfigError unless the dtype is float32 or float64.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError("parameters cannot learn in that dtype", expected="float32 or float64", got=repr(dtype))
    rng, arrays = generator(seed), {}
    for name, shape in Seq2SeqWeights.shapes(config).items():
        drawn = rng.normal(0.0, 0.02, shape)
        arrays[name] = (drawn if len(shape) == 2 else 0 * drawn + float(name.endswith("scale"))).astype(dtype)
    return Seq2SeqWeights.from_named(arrays, config)


# --- the model ------------------------------------------------------------------------------------------------------------------------


def _said(
    weights: Seq2SeqWeights, config: Seq2SeqConfig, hidden: Array
) -> tuple[Array, Array]:  # (b, n, d) -> (b, n, vocab), (b, n, 3)
    """Equation (1), of x_L."""
    vectors = bert.masked_lm_vectors(weights.bert, config.bert, hidden, dialect=config.bert_dialect)
    return bert.masked_lm_scores(weights.bert, vectors), weights.tags(vectors)


def logits(
    weights: Seq2SeqWeights, config: Seq2SeqConfig, token_ids: Any, segment_ids: Any, mask: Any = None
) -> tuple[Array, Array]:  # int (b, n), int (b, n) -> (b, n, vocab), (b, n, 3)
    """v Eᵀ + b_v and v W_t + b_t, v = LN(GELU(W x_L + b)): scores of the token after t and of its tag, given the source and the target up to t.

    Parameters
    ----------
    weights, config : the model; the weights decide backend, device and dtype
    token_ids : int array or nested list, (b, n), sources and targets one after the other, with their special tokens
    segment_ids : int array or nested list, (b, n), 0 for the source, 1 for the target
    mask : bool array or nested list, (b, n), true at real tokens; None: all are real. What comes out at padding means nothing

    Returns
    -------
    (token logits, tag logits) : arrays, (b, n, vocab) and (b, n, 3), the dtype of the weights

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        as `refimpl.bert.encode`; if the weights have no masked-LM head.
    """
    options: dict[str, Any] = {"mask": mask, "application": "unilm", "dialect": config.bert_dialect}
    return _said(weights, config, bert.encode(weights.bert, config.bert, token_ids, segment_ids, **options))


def loss(
    weights: Seq2SeqWeights,
    config: Seq2SeqConfig,
    token_ids: Any,
    segment_ids: Any,
    labels: Any,
    mask: Any = None,
    *,
    said: Any = None,
    k: int = 10,
    copy_weight: float = 2.0,
    dialect: str = "corrected",
) -> Array:  # int (b, n), int (b, n), int (b, n-1) -> ()
    """L = sequence_loss(token logits) + 2 · copy_loss(tag logits): `refimpl.copying.spaces_loss` of `logits`.

    Parameters
    ----------
    weights, config, token_ids, segment_ids, mask : as `logits`: what is read
    labels : int, (b, n - 1), as `training_labels` gives them
    said : int, (b, n), the tokens to be predicted; None: `token_ids`, unless these are masked at random
    k, copy_weight : as `refimpl.copying.spaces_loss`
    dialect : "corrected", or "published", which keeps probabilities of tags 1e-7 from 0 and 1

    Returns
    -------
    array, (), the dtype of the weights

    Raises
    ------
    TokenError, ShapeError, DtypeError, ConfigError
        as `logits` and `refimpl.copying.spaces_loss`.
    """
    scores, tags = logits(weights, config, token_ids, segment_ids, mask)
    options: dict[str, Any] = {"k": k, "copy_weight": copy_weight, "dialect": _of_copying(dialect)}
    return copying.spaces_loss(scores, tags, token_ids if said is None else said, labels, segment_ids, **options)


def _of_copying(dialect: str) -> str:
    """What `refimpl.copying` calls a dialect."""
    if dialect not in dialects:
        raise ConfigError("unknown dialect", where="seq2seq", expected=", ".join(dialects), got=repr(dialect))
    return "corrected" if dialect == "corrected" else "bert4keras-spaces"


def training_labels(
    source: Any, target: Any, dialect: str = "corrected"
) -> list[int]:  # (n,), (m,) -> n + m - 1 labels
    """What each position of source + target is trained to say: its OWN label in the source, the NEXT token's in the target.

    Parameters
    ----------
    source, target : token ids as the model reads them, special tokens included; the target's first is given, not said
    dialect : "corrected": labels are those of the source and of the target without its first token; "published": of both as they are, with that
        token's label dropped (`refimpl.copying.sequence_labels`): a word right after it may be I

    Returns
    -------
    list of n + m - 1 labels 0, 1, 2 (O, B, I), for all positions but the last

    Raises
    ------
    TokenError, ConfigError
        for token ids that are not whole numbers, an empty target, another dialect.
    """
    if _of_copying(dialect) != "corrected" or not len(target):
        return sequence_labels(source, target)
    labels = copy_labels(source, target[1:])
    return [*labels.source, *labels.target]


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(logits, "weights")
def logits_vjp(
    weights: Seq2SeqWeights, config: Seq2SeqConfig, token_ids: Any, segment_ids: Any, mask: Any = None
) -> tuple[Any, Pullback]:  # int (b, n), int (b, n) -> ((b, n, vocab), (b, n, 3)), pullback
    """v̄ = s̄ E + z̄ W_tᵀ, W̄_t = Σ vᵀ z̄, b̄_t = Σ z̄, back through the head and `refimpl.bert.encode_vjp`; Ē is the sum of both uses.

    The pullback takes the cotangents of token and tag logits and returns `Seq2SeqWeights`. Arguments and errors as `logits`.
    """
    options: dict[str, Any] = {"mask": mask, "application": "unilm", "dialect": config.bert_dialect}
    hidden, to_encoder = bert.encode_vjp(weights.bert, config.bert, token_ids, segment_ids, **options)
    vectors, to_head = bert.masked_lm_vectors_vjp(weights.bert, config.bert, hidden, dialect=config.bert_dialect)
    scores, to_words = bert.masked_lm_scores_vjp(weights.bert, vectors)
    tags, to_tags = affine_vjp(vectors, *weights.tags)

    def pullback(scores_bar: Array | None, tags_bar: Array | None = None) -> tuple[Seq2SeqWeights]:
        words, by_words = to_words(0 * scores if scores_bar is None else scores_bar)
        by_tags, *tag_bars = to_tags(0 * tags if tags_bar is None else tags_bar)
        head, hidden_bar = to_head(by_words + by_tags)
        (inner,) = to_encoder(hidden_bar)
        return (Seq2SeqWeights(added(inner, added(words, head)), Linear(*tag_bars)),)

    return (scores, tags), pullback


@vjp_of(loss, "weights")
def loss_vjp(
    weights: Seq2SeqWeights,
    config: Seq2SeqConfig,
    token_ids: Any,
    segment_ids: Any,
    labels: Any,
    mask: Any = None,
    *,
    said: Any = None,
    k: int = 10,
    copy_weight: float = 2.0,
    dialect: str = "corrected",
) -> tuple[Array, Pullback]:  # int (b, n), int (b, n), int (b, n-1) -> (), pullback
    """The cotangents of `refimpl.copying.spaces_loss_vjp` through `logits_vjp`. Arguments and errors as `loss`."""
    (scores, tags), back = logits_vjp(weights, config, token_ids, segment_ids, mask)
    options: dict[str, Any] = {"k": k, "copy_weight": copy_weight, "dialect": _of_copying(dialect)}
    target = token_ids if said is None else said
    value, to_scores = copying.spaces_loss_vjp(scores, tags, target, labels, segment_ids, **options)
    return value, lambda loss_bar: back(*to_scores(loss_bar))


# --- decoding -------------------------------------------------------------------------------------------------------------------------


class Seq2SeqDecoder:
    """A `refimpl.copying.TaggedDecoder`: the source is read once, then target tokens one at a time, with cached keys and values.

    The same function as `logits` of source and target together, with other roundings.

    Parameters
    ----------
    weights, config : the model
    source_ids : token ids, (n,), special tokens included

    Raises
    ------
    TokenError, ConfigError, ShapeError
        for ids that do not exist, an empty source, one that is longer than the position table.
    """

    def __init__(self, weights: Seq2SeqWeights, config: Seq2SeqConfig, source_ids: Sequence[int]) -> None:
        self.weights, self.config = weights, config
        ids = check_token_ids([list(source_ids)], config.bert.vocab_size, weights.bert.token_embedding)
        self._length = int(ids.shape[1])
        check_fits(self._length, config)
        segments = namespace(ids).zeros_like(ids)
        self._source = bert.forward(weights.bert, config.bert, ids, segments, dialect=config.bert_dialect)[1]

    @property
    def context(self) -> int:
        """The longest target, its first token included: what the source leaves of the positions."""
        return self.config.context - self._length

    def start(self, token_ids: Any, mask: Any = None) -> tuple[tuple[Array, Array], KeyValueCache]:
        """Read the beginnings of targets, (batch, length), all of one length; ((logits, tag logits) of the next token, a state)."""
        ids = check_token_ids(token_ids, self.config.bert.vocab_size, self.weights.bert.token_embedding)
        if not bool(namespace(ids).all(check_mask(mask, ids))):
            expected, remedy = "prompts of one length", "read prompts of other lengths by themselves"
            raise ShapeError("a target has padding", where="start(mask)", expected=expected, remedy=remedy)
        return self.advance(ids, self.select(self._source, [0] * ids.shape[0]))

    def advance(self, token_ids: Any, cache: KeyValueCache) -> tuple[tuple[Array, Array], KeyValueCache]:
        """Read more tokens of every row, (batch, n); ((logits, tag logits) of the next, the state)."""
        weights, config = self.weights, self.config
        ids = check_token_ids(token_ids, config.bert.vocab_size, weights.bert.token_embedding)
        segments = namespace(ids).ones_like(ids) if config.bert.type_vocab_size else None
        options: dict[str, Any] = {"cache": cache, "dialect": config.bert_dialect}
        hidden, cache = bert.forward(weights.bert, config.bert, ids, segments, **options)
        scores, tags = _said(weights, config, hidden[:, -1:, :])
        return (scores[:, 0, :], tags[:, 0, :]), cache

    def select(self, cache: KeyValueCache, rows: list[int]) -> KeyValueCache:
        """The state of the given rows, which may repeat; TokenError for a row there is not."""
        xp, kept = namespace(cache.allowed), check_selected(rows, cache.allowed.shape[0])
        return cache.select(xp.asarray(kept, device=device_of(cache.allowed)))


def check_fits(length: int, config: Seq2SeqConfig) -> None:
    """Raise TokenError for a source of so many tokens after which there is no position left."""
    if length >= config.context:
        raise TokenError(
            "the source leaves no position for a target",
            where="seq2seq(source_ids)",
            expected=f"at most {config.context - 1} tokens, special ones included",
            got=length,
            remedy="shorten the source, or extend the position table hierarchically (refimpl.positions.extend)",
        )


class Generated(NamedTuple):
    """A generated target, without the token that began it."""

    ids: list[int]  # the end token that ended it included
    score: float
    tags: list[int]  # 0 (O), 1 (B) or 2 (I), of each token; of what was generated without copying all O
    places: list[int | None]  # in the source, of each token that was copied


def places_of(source: Sequence[int], ids: Sequence[int], tags: Sequence[int]) -> list[int | None]:
    """Where each token of a span B I I .. stands in the source: at the leftmost place where the whole span does; None outside spans.

    A span that is nowhere in the source, as the published decoding can make, has None too; and an I that no B precedes begins a span.
    """
    places: list[int | None] = [None] * len(ids)
    begin = 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and tags[end] == INSIDE and tags[end - 1] != OUTSIDE:
            continue
        span = list(ids[begin:end])
        starts = range(len(source) - len(span) + 1) if tags[begin] != OUTSIDE else ()
        first = next((i for i in starts if list(source[i : i + len(span)]) == span), None)
        if first is not None:
            places[begin:end] = range(first, first + len(span))
        begin = end
    return places


class _Noted(NamedTuple):
    """A state, and what has been generated in each of its rows."""

    state: Any
    rows: list[tuple[int, ...]]


class _Noting:
    """A `CopyDecoder` of which it is known afterwards which tag each token had; probabilities are of the k largest logits alone."""

    def __init__(self, decoder: Decoder, k: int | None) -> None:
        self._decoder, self._k, self.context = decoder, k, decoder.context
        self.spans: dict[tuple[int, ...], int] = {}  # what was generated -> the length of the span that the next ends

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, _Noted]:
        return self._noted(*self._decoder.start(token_ids, mask), [() for _ in token_ids])

    def advance(self, token_ids: Any, cache: _Noted) -> tuple[Array, _Noted]:
        rows = [(*row, int(token)) for row, (token,) in zip(cache.rows, token_ids, strict=True)]
        return self._noted(*self._decoder.advance(token_ids, cache.state), rows)

    def select(self, cache: _Noted, rows: list[int]) -> _Noted:
        return _Noted(self._decoder.select(cache.state, rows), [cache.rows[row] for row in rows])

    def _noted(self, scores: Array, state: Any, rows: list[tuple[int, ...]]) -> tuple[Array, _Noted]:
        if isinstance(state, copying.CopyState):
            self.spans |= {row: int(state.states[number]) for number, row in enumerate(rows)}
        if self._k is None or self._k >= scores.shape[1]:
            return scores, _Noted(state, rows)
        xp = namespace(scores)
        left = top_k_mask(scores, self._k) | (scores != scores)  # NaN too, which the search refuses
        return xp.where(left, scores, -xp.inf), _Noted(state, rows)

    def tags(self, ids: Sequence[int]) -> list[int]:
        """The tags of a hypothesis: a span of one token is B, of more I."""
        spans = (self.spans.get(tuple(ids[:place]), 0) for place in range(len(ids)))
        return [OUTSIDE if span == 0 else BEGIN if span == 1 else INSIDE for span in spans]


class _Untagged:
    """A decoder of the logits alone."""

    def __init__(self, decoder: TaggedDecoder) -> None:
        self._decoder, self.context, self.select = decoder, decoder.context, decoder.select

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Array, Any]:
        (scores, _), cache = self._decoder.start(token_ids, mask)
        return scores, cache

    def advance(self, token_ids: Any, cache: Any) -> tuple[Array, Any]:
        (scores, _), cache = self._decoder.advance(token_ids, cache)
        return scores, cache


def generate(
    weights: Seq2SeqWeights,
    config: Seq2SeqConfig,
    source_ids: Sequence[int],
    *,
    beams: int = 3,
    max_new_tokens: int | None = None,
    length_penalty: float | None = None,
    k: int | None = 10,
    copy: bool = True,
    dialect: str = "corrected",
    decoder: TaggedDecoder | None = None,
) -> list[Generated]:
    """Beam search for the targets of the largest Σ log p / n^α, in which the tags say what may be copied; best first.

    Parameters
    ----------
    weights, config : the model
    source_ids : token ids, special tokens included; what may be copied
    beams : int >= 1
    max_new_tokens : int, or None for as many as there are positions, which of a NEZHA there is no end
    length_penalty : α, as `refimpl.decoding.beam_search`; None: 1
    k : of the logits that a tag allows, the k largest (and their equals) alone are probabilities: those that training compared; None: all
    copy : False: without the tags
    dialect : "corrected": the state of a hypothesis goes where it goes (`refimpl.copying.CopyDecoder`). "published": what the released code does,
        which copies, has k = 10 and no length penalty, and returns one text (`refimpl.spaces.published`)
    decoder : what reads, a decoder of this very source; None: `Seq2SeqDecoder(weights, config, source_ids)`

    Returns
    -------
    list of at most `beams` `Generated`, best first

    Raises
    ------
    TokenError, ConfigError, ShapeError
        as `Seq2SeqDecoder` and `refimpl.decoding.beam_search`; for options out of range.
    """
    _check_options(config, max_new_tokens, length_penalty, k, copy, dialect)
    reading = Seq2SeqDecoder(weights, config, source_ids) if decoder is None else decoder
    source, start, end = [int(token) for token in source_ids], config.start_token_id, config.end_token_id
    if dialect == "published":
        most = reading.context - 1 if max_new_tokens is None else max_new_tokens
        _check_room(most, reading.context)
        one = published_search(reading, source, start=start, end=end, beams=beams, max_new_tokens=most)
        return [Generated(*one, places_of(source, one.ids, one.tags))]
    noting = _Noting(copying.CopyDecoder(reading, source) if copy else _Untagged(reading), k)
    penalty = 1.0 if length_penalty is None else length_penalty
    found = beam_search(
        noting, [start], beams=beams, max_new_tokens=max_new_tokens, length_penalty=penalty, stop=(end,)
    )
    tagged = [(hypothesis, noting.tags(hypothesis.ids)) for hypothesis in found]
    return [Generated(each.ids, each.score, tags, places_of(source, each.ids, tags)) for each, tags in tagged]


def _check_options(
    config: Seq2SeqConfig,
    max_new_tokens: int | None,
    length_penalty: float | None,
    k: int | None,
    copy: bool,
    dialect: str,
) -> None:
    """Raise ConfigError for options of `generate` that are out of range, or that the dialect does not have."""
    _of_copying(dialect)
    if k is not None and not is_positive(k):
        raise ConfigError("k must be a whole number", where="generate(k=...)", expected="from 1, or None", got=repr(k))
    if max_new_tokens is None and config.bert.max_position_embeddings is None:
        remedy = "say how many tokens there may be at most"
        raise ConfigError("a NEZHA has no last position", where="generate(max_new_tokens=...)", remedy=remedy)
    if dialect == "published" and (length_penalty is not None or k != KEPT or not copy):
        expected = f"k = {KEPT}, copy=True, no length_penalty"
        got = f"k = {k!r}, copy={copy!r}, length_penalty={length_penalty!r}"
        raise ConfigError("the released decoding has no such option", where="generate", expected=expected, got=got)


def _check_room(most: int, context: int) -> None:
    if not 1 <= most < context:
        raise TokenError(
            "the target runs past the position table",
            where="generate",
            expected=f"1 <= max_new_tokens <= {context - 1} after this source",
            got=most,
        )
