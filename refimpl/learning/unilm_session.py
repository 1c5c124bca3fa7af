"""The loss and the gradients of a SPACES generator fast, in NumPy: what its gradient by the rules computes, arranged for speed.

    x = encoder of source and target (UniLM: `refimpl.bert`)        h = LN(GELU(W x + b))                                            (1)
    L = mean of log Σ_{j in T} exp(s_j) - s_next  over the target's places, s = h Eᵀ + b_v, T the k largest
        + 2 · mean of -log softmax(h V + c)[label]  over all places before the target's last                                         (2)

The same function as (1) and (2) by the rules, with other roundings. Tokens, attention, GELU, sums and threads are as `refimpl.learning.passes` says:
with `threads` > 1, start Python with OPENBLAS_NUM_THREADS=1. Besides,

* padding is left out before anything is computed, so that rows of any lengths may stand in one rectangle; rows of one length and one source are
  put together in a part, for attention;
* s is computed in the target's places alone. Of P̄ = (p - [next])/N only k + 1 numbers a row are not 0: x̄ = P̄ E and Ē = P̄ᵀ h are sparse products.
  With k from the vocabulary's size on, the loss is the cross-entropy, and they are those of `refimpl.learning.session`;
* 1/√w is folded into the queries' columns.

Dropout is that of BERT, but for none on the weights of attention: on the embeddings' norm and on both branches of each layer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl.bert import BertConfig, BertWeights, MaskedLM, named_dialect
from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import zeros
from refimpl.inference.in_place import Memory, blocks, normalized, softmax
from refimpl.inputs import check_token_ids
from refimpl.learning.optimizers import check_parameters
from refimpl.learning.passes import (
    HIDDEN,
    SAFE,
    TOKENS,
    Passes,
    added_in_order,
    check_options,
    cuts,
    each_part,
    exponentials,
    gelu,
    gelu_back,
    normalized_back,
    rows_summed,
)
from refimpl.number_system import whole_number
from refimpl.parameters import Block, Linear, Norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.learning.seq2seq import PairBatch
    from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights

__all__ = ["UniLMSession"]

REMEDY = "use the gradient by the rules, refimpl.spaces.seq2seq.loss_vjp"


class _Row(NamedTuple):
    """One text without its padding; what is not trained has target -1 or label -1."""

    ids: Any  # int64 (n,)
    segments: Any  # int64 (n,): 0 .. 0, 1 .. 1
    targets: Any  # int64 (n,): the next token where it is predicted
    labels: Any  # int64 (n,)


class _Part(NamedTuple):
    """What one thread computes: rows, their tokens side by side."""

    ids: Any  # int64 (tokens,)
    segments: Any
    places: Any  # int64 (tokens,): positions
    shapes: list[tuple[int, int, int]]  # of equal rows: their number, length, and length of the source
    said: Any  # int64 (m,): tokens whose next one is predicted
    targets: Any  # int64 (m,)
    tagged: Any  # int64 (t,): tokens whose tag is trained
    labels: Any  # int64 (t,)


class _Counts(NamedTuple):
    """Of how much a step's losses are means."""

    said: int
    tagged: int


class _Seen(NamedTuple):
    """What the backward pass of one layer needs."""

    x: Any  # (tokens, d): its input
    qkv: Any  # (tokens, 3d)
    weights: list[Any]  # of attention, of each rectangle (rows, heads, n, n)
    mixed: Any  # (tokens, d)
    z: Any  # (tokens, d): x + attention, normalized
    deviation: Any  # (tokens, 1): 1/√(σ² + ε)
    y: Any  # (tokens, d): z∘s + b
    inner: Any  # (tokens, inner): before GELU
    gate: Any  # (tokens, inner): σ(2z) of it
    active: Any  # (tokens, inner): GELU
    out: Any  # (tokens, d): y + feed-forward, normalized
    out_deviation: Any
    kept: tuple[Any, Any]  # of dropout, or None


class _Head(NamedTuple):
    """What the backward pass of the masked-LM head needs."""

    inner: Any  # (tokens, d): before GELU
    gate: Any
    active: Any  # (tokens, d), normalized
    deviation: Any
    words: Any  # (tokens, d): what the two outputs read


class _Options(NamedTuple):
    """What is fixed of a loss and its gradients."""

    eps: float  # of the encoder's norms
    head_eps: float
    k: int
    copy_weight: float
    dropout: float


class _Run(Passes):
    """The passes of a BERT that reads source and target."""

    def __init__(self, config: BertConfig, memory: Memory, options: _Options) -> None:
        super().__init__(config.hidden_size, config.num_attention_heads, memory, options.dropout)
        self.config, self.options = config, options
        d, w = config.hidden_size, config.hidden_size // config.num_attention_heads
        self.seen: list[_Seen] = []
        self.columns = np.concatenate([np.full(d, 1 / math.sqrt(w)), np.ones(2 * d)])

    def begin(self, weights: BertWeights, tags: Linear, part: _Part, rng: np.random.Generator | None) -> None:
        self.begin_part(part, weights.token_embedding.dtype, rng)
        self.weights, self.tags = weights, tags
        self.columns, self.seen = self.columns.astype(self.dtype), []

    def named_arrays(self, i: Any, *names: str) -> list[Any]:
        """Memory (tokens, d) under each of the names."""
        return [self.array((i, name), self.tokens, self.width) for name in names]

    # forwards

    def forward(self) -> Any:  # -> (tokens, d)
        weights, part = self.weights, self.part
        z, x = self.named_arrays("embedding", "z", "x")
        np.take(weights.token_embedding, part.ids, axis=0, out=x)
        x += weights.position_embedding[part.places]  # type: ignore[index]
        if weights.segment_embedding is not None:
            x += weights.segment_embedding[part.segments]
        self.embedded = z, self.norm(x, weights.embedding_norm, z, x, self.options.eps)
        self.kept_embedding = self.kept("embedding")
        if self.kept_embedding is not None:
            x *= self.kept_embedding
        for i, layer in enumerate(weights.blocks):
            x = self.layer(i, layer, x)
        return x

    def norm(self, x: Any, norm: Norm, z: Any, y: Any, eps: float) -> Any:  # (tokens, d) -> (tokens, 1)
        """z is x normalized, y = z∘s + b, both written, and one may be x; returns 1/√(σ² + ε)."""
        deviation = normalized(x, eps, z)
        np.multiply(z, norm.scale, out=y)
        y += norm.bias
        return deviation

    def queries(self, linear: Linear) -> Linear:
        """The linear map to queries, keys and values, with 1/√w in the queries."""
        return Linear(linear.weight * self.columns, linear.bias * self.columns)

    def layer(self, i: int, layer: Block, x: Any) -> Any:  # (tokens, d) -> (tokens, d)
        tokens, d = self.tokens, self.width
        mixed, z, y, out, after = self.named_arrays(i, "mixed", "z", "y", "out", "after")
        folded = self.queries(layer.query_key_value)
        qkv = np.matmul(x, folded.weight, out=self.array((i, "qkv"), tokens, 3 * d))
        qkv += folded.bias
        attention = self.attend(i, qkv, mixed)
        kept = self.kept((i, 0)), self.kept((i, 1))
        added = self.branch(mixed, layer.attention_output, kept[0])
        added += x
        deviation = self.norm(added, layer.attention_norm, z, y, self.options.eps)
        inner, gate, active = (self.array((i, name), tokens, self.config.inner) for name in ("inner", "gate", "active"))
        np.matmul(y, layer.feed_forward_in.weight, out=inner)
        gelu(self.config.activation, inner, layer.feed_forward_in.bias, gate, active)
        added = self.branch(active, layer.feed_forward_out, kept[1])
        added += y
        out_deviation = self.norm(added, layer.feed_forward_norm, out, after, self.options.eps)
        self.seen.append(
            _Seen(x, qkv, attention, mixed, z, deviation, y, inner, gate, active, out, out_deviation, kept)
        )
        return after

    def weigh(self, scores: Any, *shape: int) -> None:  # (rows, heads, length, length), written
        """Softmax over the keys of the source and those up to the query; scores that are all within ±40 are not shifted."""
        length, source = shape
        safe = scores.max() <= SAFE and scores.min() >= -SAFE
        scores[..., :source, source:] = -np.inf
        scores[..., source:, source:] += self.after(length - source)
        if not safe:
            softmax(scores)
            return
        np.exp(scores, out=scores)
        scores *= 1 / (scores @ np.ones((length, 1), self.dtype))

    def head(self, x: Any) -> _Head:
        """h = LN(GELU(W x + b))."""
        inner, gate, active, words = self.named_arrays("head", "inner", "gate", "active", "words")
        head: MaskedLM = self.weights.masked_lm  # type: ignore[assignment]
        np.matmul(x, head.transform.weight, out=inner)
        gelu(self.config.activation, inner, head.transform.bias, gate, active)
        deviation = self.norm(active, head.norm, active, words, self.options.head_eps)
        return _Head(inner, gate, active, deviation, words)

    # the losses

    def table(self) -> Any:  # -> (vocab, d)
        output = self.weights.output_embedding
        return self.weights.token_embedding if output is None else output

    def said(self, words: Any, count: int, bar: Any) -> tuple[float, Any, Any]:
        """The sum of the sequence losses, and the cotangents of table and bias; that of `words` is added to `bar`, where there is one."""
        inputs = words[self.part.said]
        loss = self.over_all if self.options.k >= len(self.table()) else self.over_the_largest
        return loss(inputs, count, bar)

    def logits(self, inputs: Any) -> Any:  # (m, d) -> (m, vocab)
        table, head = self.table(), self.weights.masked_lm
        logits = np.matmul(inputs, table.T, out=self.array("logits", len(inputs), len(table)))
        logits += head.bias  # type: ignore[union-attr]
        return logits

    def over_the_largest(self, inputs: Any, count: int, bar: Any) -> tuple[float, Any, Any]:
        from scipy.sparse import csr_array

        table, targets, k, lost = self.table(), self.part.targets, self.options.k, 0.0
        columns = np.empty((len(inputs), k + 1), np.int64)
        values = np.empty((len(inputs), k + 1), self.dtype)
        for block in blocks(len(inputs), 1, TOKENS):
            logits = self.logits(inputs[block])
            columns[block, :-1], columns[block, -1] = _largest(logits, k), targets[block]
            found = np.take_along_axis(logits, columns[block], axis=1)
            found -= found[:, :-1].max(axis=1, keepdims=True)
            p = np.exp(found[:, :-1])
            sums = p.sum(axis=1, keepdims=True)
            lost += float(np.sum(np.log(sums[:, 0].astype(np.float64)) - found[:, -1]))
            np.divide(p, sums * self.dtype.type(count), out=values[block, :-1])
        if bar is None:
            return lost, None, None
        values[:, -1] = -1 / count
        starts = np.arange(0, columns.size + 1, k + 1)
        sparse = csr_array((values.ravel(), columns.ravel(), starts), shape=(len(inputs), len(table)))
        bar[self.part.said] += sparse @ table
        bias = np.bincount(columns.ravel(), values.ravel(), len(table)).astype(self.dtype)
        return lost, sparse.T @ inputs, bias

    def over_all(self, inputs: Any, count: int, bar: Any) -> tuple[float, Any, Any]:
        table, lost = self.table(), 0.0
        counted = np.ones(len(inputs), np.bool_)
        table_bar, bias = (None, None) if bar is None else (np.zeros_like(table), np.zeros_like(table[:, 0]))
        for block in blocks(len(inputs), 1, TOKENS):
            logits = self.logits(inputs[block])
            sums, found = exponentials(logits, self.part.targets[block], counted[block])
            lost += found
            if bar is not None:
                factor = 1 / (sums * self.dtype.type(count))
                bar[self.part.said[block]] += (logits @ table) * factor
                bias += factor[:, 0] @ logits
                table_bar += logits.T @ (inputs[block] * factor)
        return lost, table_bar, bias

    def tagged(self, words: Any, count: int, bar: Any) -> tuple[float, Linear | None]:
        """The sum of the copy losses, and the tag head's cotangents; that of `words` is added to `bar`, where there is one."""
        places, labels = self.part.tagged, self.part.labels
        scores = (words @ self.tags.weight + self.tags.bias)[places].T
        chosen = np.arange(len(places))
        scores -= scores.max(axis=0)
        right = scores[labels, chosen].astype(np.float64)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=0)
        lost = float(np.sum(np.log(sums.astype(np.float64)) - right))
        if bar is None:
            return lost, None
        scores /= sums
        scores[labels, chosen] -= 1
        scores *= self.dtype.type(self.options.copy_weight / count)
        spread = np.zeros((self.tokens, 3), self.dtype)
        spread[places] = scores.T
        bar += spread @ self.tags.weight.T
        return lost, Linear(words.T @ spread, spread.sum(axis=0))

    def losses(self, counts: _Counts) -> tuple[float, float]:
        """The sums of both losses."""
        words = self.head(self.forward()).words
        return self.said(words, counts.said, None)[0], self.tagged(words, counts.tagged, None)[0]

    # backwards

    def gradients(self, counts: _Counts) -> tuple[float, float, BertWeights, Linear]:
        """The sums of both losses, and their cotangents."""
        weights, layers = self.weights, []
        x = self.forward()
        head = self.head(x)
        (bar,) = self.named_arrays("back", "bar")
        bar[...] = 0
        lost, table, bias = self.said(head.words, counts.said, bar)
        copied, tags = self.tagged(head.words, counts.tagged, bar)
        transform, norm, bar = self.head_back(head, x, bar)
        for layer, seen in zip(reversed(weights.blocks), reversed(self.seen), strict=True):
            layers.append(self.layer_back(layer, seen, bar))
        tables = self.embedding_back(bar)
        if weights.output_embedding is None:
            tables["token_embedding"] += table
        else:
            tables["output_embedding"] = table
        head_bar = MaskedLM(transform, norm, bias)
        rest = {name: zeros(getattr(weights, name)) for name in ("pooler", "next_sentence")}
        each = {"output_embedding": None, "segment_embedding": None} | tables | rest
        return lost, copied, BertWeights(blocks=tuple(reversed(layers)), masked_lm=head_bar, **each), tags  # type: ignore[return-value]

    def norm_back(self, norm: Norm, z: Any, deviation: Any, bar: Any) -> Norm:  # (tokens, d), written
        """The cotangents of scale and bias; that of the norm's input takes the place of `bar`."""
        found = Norm(np.einsum("ij,ij->j", bar, z), bar.sum(axis=0))
        bar *= norm.scale
        normalized_back(bar, z, deviation)
        return found

    def work(self, width: int) -> Any:
        return self.array("gelu", max(1, HIDDEN // width), width)

    def head_back(self, head: _Head, x: Any, bar: Any) -> tuple[Linear, Norm, Any]:
        """The cotangents of the head's transform and norm, and of its input."""
        part: MaskedLM = self.weights.masked_lm  # type: ignore[assignment]
        norm = self.norm_back(part.norm, head.active, head.deviation, bar)
        gelu_back(self.config.activation, bar, head.inner, head.gate, self.work(self.width))
        (x_bar,) = self.named_arrays("back", "x")
        np.matmul(bar, part.transform.weight.T, out=x_bar)
        return Linear(x.T @ bar, bar.sum(axis=0)), norm, x_bar

    def layer_back(self, layer: Block, seen: _Seen, bar: Any) -> Block:  # bar is written
        norm = self.norm_back(layer.feed_forward_norm, seen.out, seen.out_deviation, bar)
        out, inner_bar = self.branch_back(bar, seen.active, layer.feed_forward_out, seen.kept[1], "inner")
        gelu_back(self.config.activation, inner_bar, seen.inner, seen.gate, self.work(self.config.inner))
        into = self.linear_back(layer.feed_forward_in.weight, seen.y, inner_bar, bar)
        attention_norm = self.norm_back(layer.attention_norm, seen.z, seen.deviation, bar)
        projected, mixed_bar = self.branch_back(bar, seen.mixed, layer.attention_output, seen.kept[0], "mixed")
        qkv_bar = self.array("qkv", *seen.qkv.shape)
        self.attend_back(seen.weights, seen.qkv, seen.mixed, mixed_bar, qkv_bar)
        folded = self.linear_back(self.queries(layer.query_key_value).weight, seen.x, qkv_bar, bar)
        return Block(attention_norm, self.queries(folded), projected, norm, into, out)

    def linear_back(self, weight: Any, inputs: Any, out_bar: Any, bar: Any) -> Linear:
        """The cotangents of a linear map; that of its inputs is added to `bar`."""
        bar += np.matmul(out_bar, weight.T, out=self.array("linear", *inputs.shape))
        return Linear(inputs.T @ out_bar, out_bar.sum(axis=0))

    def embedding_back(self, bar: Any) -> dict[str, Any]:
        """The cotangents of the tables and of the norm of their sum."""
        weights, part = self.weights, self.part
        if self.kept_embedding is not None:
            bar *= self.kept_embedding
        found: dict[str, Any] = {"embedding_norm": self.norm_back(weights.embedding_norm, *self.embedded, bar)}
        ids = {"token_embedding": part.ids, "position_embedding": part.places, "segment_embedding": part.segments}
        tables = {name: getattr(weights, name) for name in ids}
        return found | {
            name: rows_summed(bar, ids[name], len(table)) for name, table in tables.items() if table is not None
        }


def _largest(logits: Any, k: int) -> Any:  # (m, vocab) -> int64 (m, k)
    """The places of the k largest numbers of each row, rising; of equal ones those of lower index, NaN before all."""
    count, vocab = logits.shape
    least = np.partition(logits, vocab - k, axis=1)[:, vocab - k, None]
    found = np.flatnonzero(~(logits < least))
    if len(found) > count * k:
        rows = np.split(found, np.searchsorted(found, np.arange(1, count) * vocab))
        found = np.concatenate([_first(logits.ravel(), row, k) for row in rows])
    return (found % vocab).reshape(count, k)


def _first(logits: Any, places: Any, k: int) -> Any:  # (m · vocab,), int (c,) -> int (k,)
    key = np.where(np.isnan(logits[places]), np.inf, logits[places])
    return np.sort(places[np.argsort(-key, kind="stable")[:k]])


def _check_kind(config: BertConfig) -> None:
    """Raise ConfigError for a BERT that is not computed here."""
    wrong = [] if config.max_position_embeddings else ["relative positions (NEZHA)"]
    wrong += [] if config.residual_attention == "none" else ["residual attention"]
    if wrong:
        expected, got = "a BERT with a table of positions", ", ".join(wrong)
        raise ConfigError(
            "a fast session has no such BERT", where="UniLMSession", expected=expected, got=got, remedy=REMEDY
        )


class UniLMSession:
    """The gradient of a SPACES generator's loss, for `refimpl.learning.Training`; its memory is used again at each call.

    One call at a time: calls from several threads at once would share it. What is returned is the caller's.

    Parameters
    ----------
    config : the generator's (`refimpl.spaces.seq2seq.Seq2SeqConfig`): a position table, no residual attention
    k : how many logits of a token the sequence loss is taken over; from the vocabulary's size on it is the cross-entropy
    copy_weight : of the copy loss
    dropout : p, 0 <= p < 1: the part of the numbers that are dropped in training
    threads : parts in which a step is computed

    Raises
    ------
    ConfigError
        for another kind of BERT, or options out of range.
    """

    def __init__(
        self, config: Seq2SeqConfig, *, k: int = 10, copy_weight: float = 2.0, dropout: float = 0.0, threads: int = 1
    ) -> None:
        check_options("UniLMSession", dropout, threads)
        if (whole_number(k) or 0) < 1 or not math.isfinite(copy_weight):
            expected, got = "k >= 1, copy_weight finite", f"k = {k!r}, copy_weight = {copy_weight!r}"
            raise ConfigError("options out of range", where="UniLMSession", expected=expected, got=got)
        self.config, self.convention = config.bert, named_dialect(config.bert_dialect)
        _check_kind(self.config)
        self.k, self.copy_weight, self.dropout, self.threads = int(k), float(copy_weight), float(dropout), threads
        usual = self.config.layer_norm_eps
        eps, head_eps = (usual if each is None else each for each in (self.convention.eps, self.convention.head_eps))
        options = _Options(eps, head_eps, self.k, self.copy_weight, self.dropout)
        self._runs = [_Run(self.config, Memory(), options) for _ in range(threads)]

    def described(self) -> dict[str, Any]:
        """What decides the bits of a step besides the configuration: for `Training.about`."""
        return {name: getattr(self, name) for name in ("k", "copy_weight", "dropout", "threads")}

    def __call__(
        self, weights: Seq2SeqWeights, batches: Sequence[PairBatch], rng: np.random.Generator | None = None
    ) -> tuple[float, Seq2SeqWeights]:
        """The loss and its gradients; without `rng` nothing is dropped.

        Raises
        ------
        ConfigError, ShapeError, TokenError, DtypeError
            for 16-bit weights, ids, segments or labels out of range, rows longer than the position table, padding that is not on the right, a source
            that is not before its target, or nothing to train.
        """
        counts, parts = self._prepared(weights, batches)

        def one(run: _Run, part: _Part, drawn: np.random.Generator | None) -> tuple[float, float, BertWeights, Linear]:
            run.begin(weights.bert, weights.tags, part, drawn)
            return run.gradients(counts)

        found = each_part(self._runs, parts, one, rng)
        bert, tags = added_in_order([(bert, tags) for *_, bert, tags in found])
        return self._weighted([each[:2] for each in found], counts), weights._replace(bert=bert, tags=tags)

    def loss(self, weights: Seq2SeqWeights, batches: Sequence[PairBatch]) -> float:
        """The loss alone, without dropout. Errors as a call."""
        return self._weighted(*self._sums(weights, batches))

    def losses(self, weights: Seq2SeqWeights, batches: Sequence[PairBatch]) -> tuple[float, float]:
        """The sequence loss and the copy loss, not weighted, without dropout. Errors as a call."""
        found, counts = self._sums(weights, batches)
        return sum(a for a, _ in found) / counts.said, sum(b for _, b in found) / counts.tagged

    def _sums(self, weights: Seq2SeqWeights, batches: Sequence[PairBatch]) -> tuple[list[tuple[float, float]], _Counts]:
        counts, parts = self._prepared(weights, batches)

        def one(run: _Run, part: _Part, drawn: np.random.Generator | None) -> tuple[float, float]:
            run.begin(weights.bert, weights.tags, part, None)
            return run.losses(counts)

        return each_part(self._runs, parts, one, None), counts

    def _weighted(self, sums: list[tuple[float, float]], counts: _Counts) -> float:
        """Sequence loss + weight · copy loss."""
        said, copied = (sum(each[i] for each in sums) for i in range(2))
        return said / counts.said + self.copy_weight * copied / counts.tagged

    def _prepared(self, weights: Seq2SeqWeights, batches: Sequence[PairBatch]) -> tuple[_Counts, list[_Part]]:
        """The batches as parts, checked."""
        check_parameters(weights)
        rows = [row for batch in batches for row in self._rows(batch, weights.bert)]
        counts = _Counts(*(sum(int(np.sum(getattr(row, name) >= 0)) for row in rows) for name in ("targets", "labels")))
        if not min(counts):
            expected = "in some row, two tokens of segment 1 beside each other"
            raise TokenError("nothing is trained", where="batches", expected=expected)
        return counts, [_part(rows[a:b]) for a, b in cuts([len(row.ids) for row in rows], self.threads)]

    def _rows(self, batch: PairBatch, weights: BertWeights) -> list[_Row]:
        """The rows of a batch without their padding."""
        ids = check_token_ids(batch.ids, self.config.vocab_size, weights.token_embedding)
        self._check(ids, batch)
        targets, tags = np.full_like(ids, -1), np.full_like(ids, -1)
        targets[:, :-1] = np.where(batch.counted, batch.said[:, 1:], -1)
        tags[:, :-1] = np.where(batch.tagged, batch.labels, -1)
        lengths = batch.real.sum(axis=1)
        each = zip(ids, batch.segments, targets, tags, lengths, strict=True)
        return [_Row(*(a[:n] for a in row)) for *row, n in each]

    def _check(self, ids: Any, batch: PairBatch) -> None:
        """Raise for what does not fit, or what this session does not compute."""
        rows, length = ids.shape
        shapes = {
            "said": (rows, length),
            "segments": (rows, length),
            "labels": (rows, length - 1),
            "real": (rows, length),
        }
        for name, shape in shapes.items():
            array, below = getattr(batch, name), {"said": self.config.vocab_size, "labels": 3}.get(name, 2)
            if array.shape != shape:
                raise ShapeError(f"{name} does not fit", where="batches", expected=shape, got=array.shape)
            if array.dtype.kind not in "iub" or np.any((array < 0) | (array >= below)):
                expected, got = f"whole numbers from 0 to {below - 1}", f"{array.dtype} {array}"
                raise TokenError(f"{name} out of range", where="batches", expected=expected, got=got)
        segments, real = batch.segments, batch.real.astype(np.bool_)
        limit, longest = self.config.max_position_embeddings or 0, int(real.sum(axis=1).max())
        if longest > limit:
            expected = f"at most max_position_embeddings = {limit} tokens"
            raise ShapeError("a row runs past the position table", where="batches", expected=expected, got=longest)
        wrong = real[:, 1:] & (~real[:, :-1] | (segments[:, 1:] < segments[:, :-1]))
        if np.any(wrong) or not np.all(real[:, 0]) or np.any((segments > 0) & ~real):
            expected = "in each row a source (segment 0), then a target (1), then padding (0) that is not real"
            raise ShapeError("a fast session reads no such batch", where="batches", expected=expected, remedy=REMEDY)
        hidden = self.convention.masked_key_id
        if hidden is not None and np.any((ids == hidden)[:, 1:] & real[:, 1:]):
            expected = f"token {hidden}, which the dialect hides, at padding alone"
            raise TokenError("a fast session reads no such batch", where="batches", expected=expected, remedy=REMEDY)


def _part(rows: list[_Row]) -> _Part:
    """Rows as one line of tokens, those of one length and one source together."""
    sizes = [(len(row.ids), int(np.sum(row.segments == 0))) for row in rows]
    order = sorted(range(len(rows)), key=sizes.__getitem__)
    shapes: list[tuple[int, int, int]] = []
    for i in order:
        if shapes and shapes[-1][1:] == sizes[i]:
            shapes[-1] = (shapes[-1][0] + 1, *sizes[i])
        else:
            shapes.append((1, *sizes[i]))
    ids, segments, targets, labels = (np.concatenate(each) for each in zip(*(rows[i] for i in order), strict=True))
    places = np.concatenate([np.arange(sizes[i][0]) for i in order])
    said, tagged = np.flatnonzero(targets >= 0), np.flatnonzero(labels >= 0)
    return _Part(ids, segments, places, shapes, said, targets[said], tagged, labels[tagged])
