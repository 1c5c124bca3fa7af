"""The loss and the gradients of a GPT-2 fast, in NumPy: what `refimpl.learning.models.GPT2Gradient` computes, arranged for speed.

Nothing here defines anything. The same function, with other roundings:

* the tokens of all rectangles are the rows of one matrix, so that every linear map is one product; attention alone goes rectangle by rectangle, in
  blocks of rows whose n × n weights stay in the cache, all heads in one call;
* scale and bias of a norm are folded into the linear map after it, (z∘s + b)W + c = z(s∘W) + (bW + c), and so is 1/√w into the queries' columns: what
  would go over all tokens goes over one matrix. With G = Zᵀȳ and σ = Σȳ, W̄ = s∘G + b σᵀ, s̄_j = Σ_k W_jk G_jk, b̄ = Wσ, c̄ = σ;
* GELU(x) = x σ(2z), whose logistic function is kept for the slope σ(2z)(1 + 2xz'(1 - σ(2z)));
* the cross-entropy goes over the vocabulary in blocks of tokens, in place. P = exp(s) is neither divided by its row sums r nor by N: with P_t - r in
  the targets' places, x̄ = (P E)∘(c/rN) and Ē = Pᵀ(x∘(c/rN)). Only where a logit is beyond ±40 is the row's maximum taken off before;
* rows of Σ_s P_is P̄_is are Σ_w y_iw ȳ_iw, which are shorter; embeddings get their cotangents by a sparse product.

The batch is cut into `threads` parts of about as many tokens, each computed by a thread with its own memory, whose gradients are added in order: the
same bits at every run with as many threads. NumPy's products have threads of their own: with `threads` > 1, start Python with OPENBLAS_NUM_THREADS=1.

Dropout, which definitions do not have, is that of GPT-2: on the sum of the embeddings and on both branches of each block, scaled by 1/(1 - p).
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl import gpt2
from refimpl.errors import ConfigError, ShapeError
from refimpl.inference.in_place import Memory, blocks, heads_of, normalized, softmax, tanh_gelu
from refimpl.inputs import check_token_ids
from refimpl.learning.models import counted_targets
from refimpl.learning.optimizers import check_parameters
from refimpl.parameters import Block, Linear, Norm
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from refimpl.learning.data import Batch

__all__ = ["Session"]

TOKENS = 256  # whose logits are computed at a time
WEIGHTS = 131072  # attention weights of a block of rows
HIDDEN = 65536  # numbers of a block for GELU
SAFE = 40.0  # logits within ± this need no shift: exp(40) · 2²³ tokens are finite in float32


class _Part(NamedTuple):
    """What one thread computes: rectangles, their tokens side by side."""

    ids: Any  # int64 (tokens,)
    targets: Any
    counted: Any
    shapes: list[tuple[int, int]]  # rows and length of each rectangle
    places: Any  # int64 (tokens,): positions


class _Folded(NamedTuple):
    """A norm and the linear map after it as one: z (s∘W∘f) + (bW + c)∘f, the columns multiplied by f."""

    weight: Any
    bias: Any


class _Seen(NamedTuple):
    """What the backward pass of one block needs."""

    z: Any  # (tokens, d): normalized input
    deviation: Any  # (tokens, 1): 1/√(σ² + ε)
    qkv: Any  # (tokens, 3d)
    weights: list[Any]  # of attention, of each block of rows (rows, heads, n, n)
    mixed: Any  # (tokens, d)
    y: Any  # (tokens, d): normalized input of the feed-forward layer
    y_deviation: Any
    x: Any  # (tokens, inner): before GELU
    gate: Any  # (tokens, inner): σ(2z) of it
    active: Any  # (tokens, inner): GELU
    kept: tuple[Any, Any]  # of dropout, or None


def _normalized_back(bar: Any, z: Any, scale: Any) -> Any:  # (tokens, d) -> (tokens, d), in place
    """x̄ = (z̄ - mean z̄ - z mean(z̄ z))/√(σ² + ε)."""
    along = np.einsum("ij,ij->i", bar, z)[:, None] / bar.dtype.type(bar.shape[-1])
    bar -= bar.mean(axis=-1, keepdims=True)
    bar -= z * along
    bar *= scale
    return bar


def _fold(norm: Norm, linear: Linear, columns: Any) -> _Folded:
    weight = linear.weight * norm.scale[:, None] * columns
    return _Folded(weight, (norm.bias @ linear.weight + linear.bias) * columns)


def _unfold(norm: Norm, linear: Linear, columns: Any, z: Any, bar: Any) -> tuple[Norm, Linear]:
    """The cotangents of norm and linear map from z and the cotangent of the folded map's result."""
    slopes, sums = z.T @ bar, bar.sum(axis=0)
    slopes *= columns
    sums *= columns
    scale_bar, bias_bar = np.einsum("jk,jk->j", linear.weight, slopes), linear.weight @ sums
    slopes *= norm.scale[:, None]
    slopes += norm.bias[:, None] * sums
    return Norm(scale_bar, bias_bar), Linear(slopes, sums)


def _gelu(x: Any, bias: Any, gate: Any, active: Any) -> None:  # (tokens, inner); all three written
    """x + bias, σ(2z) and GELU in place, block by block."""
    for block in blocks(len(x), x.shape[-1], HIDDEN):
        x[block] += bias
        tanh_gelu(x[block], gate[block], active[block])


def _gelu_back(bar: Any, x: Any, gate: Any, work: Any) -> None:  # (tokens, inner); bar is multiplied by the slope
    """x̄ = σ(2z) (1 + 2 x z' (1 - σ(2z))) ȳ, with 2z' = 2√(2/π) (1 + 3 · 0.044715 x²)."""
    slope = 2 * math.sqrt(2 / math.pi)
    for block in blocks(len(x), x.shape[-1], HIDDEN):
        u, g, b = x[block], gate[block], bar[block]
        w = work[: len(u)]
        np.multiply(u, u, out=w)
        w *= slope * 3 * 0.044715
        w += slope
        w *= u
        b *= g
        np.subtract(1, g, out=g)
        w *= g
        w += 1
        b *= w


class _Run:
    """The passes over one part, forwards and backwards, in one thread's memory."""

    def __init__(self, config: gpt2.GPT2Config, memory: Memory, dropout: float) -> None:
        self.config, self.memory, self.dropout = config, memory, dropout
        d, w = config.n_embd, config.n_embd // config.n_head
        self.columns = np.concatenate([np.full(d, 1 / math.sqrt(w)), np.ones(2 * d)])
        self.hidden = np.ones(config.inner)
        self.seen: list[_Seen] = []

    def array(self, name: Any, *shape: int) -> Any:
        return self.memory(name, shape, self.dtype)

    def begin(self, weights: gpt2.GPT2Weights, part: _Part, rng: np.random.Generator | None) -> None:
        self.weights, self.part, self.rng = weights, part, rng
        self.dtype = weights.token_embedding.dtype
        self.columns, self.hidden = self.columns.astype(self.dtype), self.hidden.astype(self.dtype)
        self.seen, self.tokens = [], len(part.ids)

    def kept(self, name: Any) -> Any:
        """0 where a number is dropped, 1/(1 - p) where it is kept; None without dropout."""
        if not self.dropout or self.rng is None:
            return None
        drawn = self.array(("kept", name), self.tokens, self.config.n_embd)
        self.rng.random(out=drawn, dtype=self.dtype)
        np.greater_equal(drawn, self.dropout, out=drawn)
        drawn *= 1 / (1 - self.dropout)
        return drawn

    # forwards

    def forward(self) -> Any:  # -> (tokens, d), before the final norm
        x = self.array("x", self.tokens, self.config.n_embd)
        np.take(self.weights.token_embedding, self.part.ids, axis=0, out=x)
        x += self.weights.position_embedding[self.part.places]
        self.kept_embedding = self.kept("embedding")
        if self.kept_embedding is not None:
            x *= self.kept_embedding
        for i, layer in enumerate(self.weights.blocks):
            self.layer(i, layer, x)
        return x

    def layer(self, i: int, layer: Block, x: Any) -> None:  # x is written
        config, tokens, d = self.config, self.tokens, self.config.n_embd
        z, y = self.array((i, "z"), tokens, d), self.array((i, "y"), tokens, d)
        deviation = normalized(x, config.layer_norm_epsilon, z)
        folded = _fold(layer.attention_norm, layer.query_key_value, self.columns)
        qkv = np.matmul(z, folded.weight, out=self.array((i, "qkv"), tokens, 3 * d))
        qkv += folded.bias
        mixed = self.array((i, "mixed"), tokens, d)
        attention = self.attend(i, qkv, mixed)
        kept = self.kept((i, 0)), self.kept((i, 1))
        self.branch(x, mixed, layer.attention_output, kept[0])
        y_deviation = normalized(x, config.layer_norm_epsilon, y)
        folded = _fold(layer.feed_forward_norm, layer.feed_forward_in, self.hidden)
        inner, gate, active = (self.array((i, name), tokens, config.inner) for name in ("inner", "gate", "active"))
        np.matmul(y, folded.weight, out=inner)
        _gelu(inner, folded.bias, gate, active)
        self.branch(x, active, layer.feed_forward_out, kept[1])
        self.seen.append(_Seen(z, deviation, qkv, attention, mixed, y, y_deviation, inner, gate, active, kept))

    def branch(self, x: Any, inputs: Any, linear: Linear, kept: Any) -> None:  # x is written
        """x += the linear map, dropped out."""
        out = np.matmul(inputs, linear.weight, out=self.array("branch", self.tokens, self.config.n_embd))
        out += linear.bias
        if kept is not None:
            out *= kept
        x += out

    def rectangles(self) -> Iterator[tuple[slice, int, int]]:
        """Blocks of rows of the rectangles: their tokens, rows and length."""
        start = 0
        for rows, length in self.part.shapes:
            for block in blocks(rows, self.config.n_head * length * length, WEIGHTS):
                count = block.stop - block.start
                yield slice(start + block.start * length, start + block.stop * length), count, length
            start += rows * length

    def attend(self, i: int, qkv: Any, mixed: Any) -> list[Any]:  # (tokens, 3d) -> (tokens, d), written
        found, heads = [], self.config.n_head
        for number, (tokens, rows, length) in enumerate(self.rectangles()):
            q, k, v = heads_of(qkv[tokens], rows, length, heads, 3)
            weights = np.matmul(
                q, k.swapaxes(-1, -2), out=self.array((i, "weights", number), rows, heads, length, length)
            )
            weights += self.after(length)
            softmax(weights)
            np.matmul(weights, v, out=heads_of(mixed[tokens], rows, length, heads, 1)[0])
            found.append(weights)
        return found

    def after(self, length: int) -> Any:
        """-inf above the diagonal, 0 elsewhere."""
        return np.triu(np.full((length, length), -np.inf, self.dtype), 1)

    # the loss

    def loss(self, x: Any, total: int, gradients: bool) -> tuple[float, Any, Any]:  # -> sum of losses, x̄ of z, head's
        config, weights, d = self.config, self.weights, self.config.n_embd
        head = weights.token_embedding if weights.output_embedding is None else weights.output_embedding
        self.final = self.array("final", self.tokens, d)
        self.final_deviation = normalized(x, config.layer_norm_epsilon, self.final)
        inputs = np.multiply(self.final, weights.final_norm.scale, out=self.array("inputs", self.tokens, d))
        inputs += weights.final_norm.bias
        bar = self.array("bar", self.tokens, d)
        head_bar, piece = (np.zeros_like(head), self.array("head", *head.shape)) if gradients else (None, None)
        losses = 0.0
        for block in blocks(self.tokens, 1, TOKENS):
            logits, sums, lost = self.exponentials(inputs[block], head, block)
            losses += lost
            if gradients:
                factor = self.part.counted[block, None] / (sums * self.dtype.type(total))
                np.matmul(logits, head, out=bar[block])
                bar[block] *= factor
                inputs[block] *= factor
                head_bar += np.matmul(logits.T, inputs[block], out=piece)
        return losses, bar, head_bar

    def exponentials(self, inputs: Any, head: Any, block: slice) -> tuple[Any, Any, float]:
        """exp(s - c), from the targets' places of which the row sums are taken off; the row sums; the sum of the losses that count."""
        logits = np.matmul(inputs, head.T, out=self.array("logits", len(inputs), len(head)))
        rows, targets, counted = np.arange(len(inputs)), self.part.targets[block], self.part.counted[block]
        largest = logits.max(axis=-1, keepdims=True)
        if not np.abs(largest).max() <= SAFE:
            logits -= largest
        chosen = logits[rows, targets].astype(np.float64)
        np.exp(logits, out=logits)
        sums = logits.sum(axis=-1, keepdims=True)
        lost = float(np.sum((np.log(sums[:, 0].astype(np.float64)) - chosen)[counted]))
        logits[rows, targets] -= sums[:, 0]
        return logits, sums, lost

    # backwards

    def backward(self, bar: Any, head_bar: Any) -> gpt2.GPT2Weights:  # (tokens, d): of the head's inputs
        """All gradients; `bar` is written."""
        weights, layers = self.weights, []
        norm = Norm(np.einsum("ij,ij->j", bar, self.final), bar.sum(axis=0))
        bar *= weights.final_norm.scale
        _normalized_back(bar, self.final, self.final_deviation)
        for layer, seen in zip(reversed(weights.blocks), reversed(self.seen), strict=True):
            layers.append(self.layer_back(layer, seen, bar))
        if self.kept_embedding is not None:
            bar *= self.kept_embedding
        table = _rows_summed(bar, self.part.ids, len(weights.token_embedding))
        places = _rows_summed(bar, self.part.places, len(weights.position_embedding))
        output = None
        if weights.output_embedding is None:
            table += head_bar
        else:
            output = head_bar
        return gpt2.GPT2Weights(table, places, tuple(reversed(layers)), norm, output)

    def branch_back(self, bar: Any, inputs: Any, linear: Linear, kept: Any, name: str) -> tuple[Linear, Any]:
        """The cotangents of the linear map and of its inputs."""
        if kept is not None:
            bar = np.multiply(bar, kept, out=self.array("branch", *bar.shape))
        inputs_bar = np.matmul(bar, linear.weight.T, out=self.array(name, *inputs.shape))
        return Linear(inputs.T @ bar, bar.sum(axis=0)), inputs_bar

    def layer_back(self, layer: Block, seen: _Seen, bar: Any) -> Block:  # bar is written
        work = self.array("gelu", max(1, HIDDEN // self.config.inner), self.config.inner)
        out, inner_bar = self.branch_back(bar, seen.active, layer.feed_forward_out, seen.kept[1], "inner")
        _gelu_back(inner_bar, seen.x, seen.gate, work)
        feed, into = self.norm_back(
            layer.feed_forward_norm, layer.feed_forward_in, self.hidden, seen.y, seen.y_deviation, inner_bar, bar
        )
        projected, mixed_bar = self.branch_back(bar, seen.mixed, layer.attention_output, seen.kept[0], "mixed")
        qkv_bar = self.array("qkv", *seen.qkv.shape)
        self.attend_back(seen, mixed_bar, qkv_bar)
        norm, qkv = self.norm_back(
            layer.attention_norm, layer.query_key_value, self.columns, seen.z, seen.deviation, qkv_bar, bar
        )
        return Block(norm, qkv, projected, feed, into, out)

    def norm_back(
        self, norm: Norm, linear: Linear, columns: Any, z: Any, deviation: Any, out_bar: Any, bar: Any
    ) -> tuple[Norm, Linear]:
        """The cotangents of a norm and the linear map after it; that of the norm's input is added to `bar`."""
        folded = linear.weight * norm.scale[:, None] * columns
        z_bar = np.matmul(out_bar, folded.T, out=self.array("z", *z.shape))
        found = _unfold(norm, linear, columns, z, out_bar)
        bar += _normalized_back(z_bar, z, deviation)
        return found

    def attend_back(self, seen: _Seen, mixed_bar: Any, qkv_bar: Any) -> None:  # qkv_bar is written
        heads = self.config.n_head
        for weights, (tokens, rows, length) in zip(seen.weights, self.rectangles(), strict=True):
            q, k, v = heads_of(seen.qkv[tokens], rows, length, heads, 3)
            q_bar, k_bar, v_bar = heads_of(qkv_bar[tokens], rows, length, heads, 3)
            mixed = heads_of(seen.mixed[tokens], rows, length, heads, 1)[0]
            bar = heads_of(mixed_bar[tokens], rows, length, heads, 1)[0]
            np.matmul(weights.swapaxes(-1, -2), bar, out=v_bar)
            scores = np.matmul(bar, v.swapaxes(-1, -2), out=self.array("scores", *weights.shape))
            scores -= np.einsum("rhnw,rhnw->rhn", mixed, bar)[..., None]
            scores *= weights
            np.matmul(scores, k, out=q_bar)
            np.matmul(scores.swapaxes(-1, -2), q, out=k_bar)


def _rows_summed(bar: Any, ids: Any, count: int) -> Any:  # (tokens, d), int (tokens,) -> (count, d)
    """Σ of the rows of each id: the product of a sparse matrix of ones."""
    from scipy.sparse import csr_array

    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(count + 1))
    return csr_array((np.ones(len(ids), bar.dtype), order, starts), shape=(count, len(ids))) @ bar


class Session:
    """The gradient of a GPT-2's mean cross-entropy, for `refimpl.learning.Training`; its memory is used again at each call.

    One call at a time: calls from several threads at once would share it. What is returned is the caller's.

    Parameters
    ----------
    config : the model's sizes; the activation must be "tanh"
    dropout : p, 0 <= p < 1: the part of the numbers that are dropped in training
    threads : parts in which a step is computed

    Raises
    ------
    ConfigError
        for another activation, or options out of range.
    """

    def __init__(self, config: gpt2.GPT2Config, *, dropout: float = 0.0, threads: int = 1) -> None:
        if config.activation != "tanh":
            remedy = "use refimpl.learning.GPT2Gradient"
            raise ConfigError("a fast session has one GELU", expected='"tanh"', got=config.activation, remedy=remedy)
        if not (0 <= dropout < 1 and threads >= 1):
            got = f"dropout = {dropout!r}, threads = {threads!r}"
            raise ConfigError("options out of range", where="Session", expected="0 <= dropout < 1 <= threads", got=got)
        self.config, self.dropout, self.threads = config, dropout, threads
        self._runs = [_Run(config, Memory(), dropout) for _ in range(threads)]

    def described(self) -> dict[str, Any]:
        """What decides the bits of a step besides the configuration: for `Training.about`."""
        return {"dropout": self.dropout, "threads": self.threads}

    def __call__(
        self, weights: gpt2.GPT2Weights, batches: Sequence[Batch], rng: np.random.Generator | None = None
    ) -> tuple[float, gpt2.GPT2Weights]:
        """The loss and its gradients; without `rng` nothing is dropped.

        Raises
        ------
        ConfigError, ShapeError, TokenError, DtypeError
            for 16-bit weights, ids out of range, rows longer than the position table, padding that is not on the right.
        """
        total = counted_targets(tuple(batches))

        def one(run: _Run, part: _Part, drawn: np.random.Generator | None) -> tuple[float, gpt2.GPT2Weights]:
            run.begin(weights, part, drawn)
            losses, bar, head_bar = run.loss(run.forward(), total, True)
            return losses, run.backward(bar, head_bar)

        found = self._each(one, weights, batches, rng)
        gradients = found[0][1]
        for _, others in found[1:]:
            mapped(lambda a, b: np.add(a, b, out=a), gradients, others)
        return sum(losses for losses, _ in found) / total, gradients

    def loss(self, weights: gpt2.GPT2Weights, batches: Sequence[Batch]) -> float:
        """The loss alone, without dropout. Errors as a call."""
        total = counted_targets(tuple(batches))

        def one(run: _Run, part: _Part, drawn: np.random.Generator | None) -> float:
            run.begin(weights, part, None)
            return run.loss(run.forward(), total, False)[0]

        return float(sum(self._each(one, weights, batches, None))) / total

    def _each(self, function: Any, weights: Any, batches: Sequence[Batch], rng: Any) -> list[Any]:
        """The function's answer for each part, in order."""
        check_parameters(weights)
        parts = self._parts(batches, weights)
        drawn = [None] * len(parts) if rng is None else rng.spawn(len(parts))
        with np.errstate(over="ignore"):  # of exp(-2z): a gate of 0
            if len(parts) == 1:
                return [function(self._runs[0], parts[0], drawn[0])]
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(_quiet(function), self._runs, parts, drawn))

    def _parts(self, batches: Sequence[Batch], weights: gpt2.GPT2Weights) -> list[_Part]:
        """The rectangles, cut between rows into parts of about as many tokens."""
        for batch in batches:
            self._check(batch, weights)
        rows = [(batch, row) for batch in batches for row in range(len(batch.ids))]
        sizes = np.cumsum([batch.ids.shape[1] for batch, _ in rows])
        bounds = [round(sizes[-1] * i / self.threads) for i in range(1, self.threads)]
        cuts = [0, *(int(np.searchsorted(sizes, bound)) for bound in bounds), len(rows)]
        return [_part(rows[a:b]) for a, b in itertools.pairwise(cuts) if b > a]

    def _check(self, batch: Batch, weights: gpt2.GPT2Weights) -> None:
        check_token_ids(batch.ids, self.config.vocab_size, weights.token_embedding)
        if batch.ids.shape[1] > self.config.n_positions:
            expected, got = f"at most n_positions = {self.config.n_positions} tokens", batch.ids.shape[1]
            raise ShapeError("a row runs past the position table", where="batches", expected=expected, got=got)
        if np.any(batch.real[:, 1:] & ~batch.real[:, :-1]) or np.any(batch.counted & ~batch.real):
            expected, remedy = (
                "padding on the right alone, no target that counts there",
                "use refimpl.learning.GPT2Gradient",
            )
            raise ShapeError("a fast session reads no such batch", where="batches", expected=expected, remedy=remedy)


def _quiet(function: Any) -> Any:
    """The function without a warning of overflow: NumPy's settings are each thread's own."""

    def quiet(*args: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*args)

    return quiet


def _part(rows: list[tuple[Batch, int]]) -> _Part:
    """Rows of rectangles, those of one rectangle together, as one line of tokens."""
    ids, targets, counted = (
        np.concatenate([getattr(batch, name)[row] for batch, row in rows]) for name in ("ids", "targets", "counted")
    )
    shapes: list[tuple[int, int]] = []
    for batch, _ in rows:
        length = batch.ids.shape[1]
        if shapes and shapes[-1][1] == length:
            shapes[-1] = (shapes[-1][0] + 1, length)
        else:
            shapes.append((1, length))
    places = np.concatenate([np.tile(np.arange(length), count) for count, length in shapes])
    return _Part(ids, np.where(counted, targets, 0), counted, shapes, places)
