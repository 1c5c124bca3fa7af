"""The loss and the gradients of a GPT-2 fast, in NumPy: what `refimpl.learning.models.GPT2Gradient` computes, arranged for speed.

Nothing here defines anything. The same function, with other roundings:

* tokens, attention, GELU, sums and threads are as `refimpl.learning.passes` says. NumPy's products have threads of their own: with `threads` > 1,
  start Python with OPENBLAS_NUM_THREADS=1;
* scale and bias of a norm are folded into the linear map after it, (z∘s + b)W + c = z(s∘W) + (bW + c), and so is 1/√w into the queries' columns: what
  would go over all tokens goes over one matrix. With G = Zᵀȳ and σ = Σȳ, W̄ = s∘G + b σᵀ, s̄_j = Σ_k W_jk G_jk, b̄ = Wσ, c̄ = σ;
* the cross-entropy goes over the vocabulary in blocks of tokens, in place. P = exp(s) is neither divided by its row sums r nor by N: with P_t - r in
  the targets' places, x̄ = (P E)∘(c/rN) and Ē = Pᵀ(x∘(c/rN)). Only where a logit is beyond ±40 is the row's maximum taken off before.

Dropout, which definitions do not have, is that of GPT-2: on the sum of the embeddings and on both branches of each block, scaled by 1/(1 - p).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl import gpt2
from refimpl.errors import ShapeError
from refimpl.inference.in_place import Memory, blocks, normalized, softmax
from refimpl.inputs import check_token_ids
from refimpl.learning.models import counted_targets
from refimpl.learning.optimizers import check_parameters
from refimpl.learning.passes import (
    HIDDEN,
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
from refimpl.parameters import Block, Linear, Norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from refimpl.learning.data import Batch

__all__ = ["Session"]


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


class _Run(Passes):
    """The passes of a GPT-2."""

    def __init__(self, config: gpt2.GPT2Config, memory: Memory, dropout: float) -> None:
        super().__init__(config.n_embd, config.n_head, memory, dropout)
        self.config = config
        d, w = config.n_embd, config.n_embd // config.n_head
        self.columns = np.concatenate([np.full(d, 1 / math.sqrt(w)), np.ones(2 * d)])
        self.ones = np.ones(config.inner)
        self.seen: list[_Seen] = []

    def begin(self, weights: gpt2.GPT2Weights, part: _Part, rng: np.random.Generator | None) -> None:
        self.begin_part(part, weights.token_embedding.dtype, rng)
        self.weights, self.seen = weights, []
        self.columns, self.ones = self.columns.astype(self.dtype), self.ones.astype(self.dtype)

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
        x += self.branch(mixed, layer.attention_output, kept[0])
        y_deviation = normalized(x, config.layer_norm_epsilon, y)
        folded = _fold(layer.feed_forward_norm, layer.feed_forward_in, self.ones)
        inner, gate, active = (self.array((i, name), tokens, config.inner) for name in ("inner", "gate", "active"))
        np.matmul(y, folded.weight, out=inner)
        gelu(config.activation, inner, folded.bias, gate, active)
        x += self.branch(active, layer.feed_forward_out, kept[1])
        self.seen.append(_Seen(z, deviation, qkv, attention, mixed, y, y_deviation, inner, gate, active, kept))

    def weigh(self, scores: Any, *shape: int) -> None:  # (rows, heads, length, length), written
        """Softmax over the keys up to the query."""
        scores += self.after(*shape)
        softmax(scores)

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
            logits = self.array("logits", len(inputs[block]), len(head))
            np.matmul(inputs[block], head.T, out=logits)
            sums, lost = exponentials(logits, self.part.targets[block], self.part.counted[block])
            losses += lost
            if gradients:
                factor = self.part.counted[block, None] / (sums * self.dtype.type(total))
                np.matmul(logits, head, out=bar[block])
                bar[block] *= factor
                inputs[block] *= factor
                head_bar += np.matmul(logits.T, inputs[block], out=piece)
        return losses, bar, head_bar

    # backwards

    def backward(self, bar: Any, head_bar: Any) -> gpt2.GPT2Weights:  # (tokens, d): of the head's inputs
        """All gradients; `bar` is written."""
        weights, layers = self.weights, []
        norm = Norm(np.einsum("ij,ij->j", bar, self.final), bar.sum(axis=0))
        bar *= weights.final_norm.scale
        normalized_back(bar, self.final, self.final_deviation)
        for layer, seen in zip(reversed(weights.blocks), reversed(self.seen), strict=True):
            layers.append(self.layer_back(layer, seen, bar))
        if self.kept_embedding is not None:
            bar *= self.kept_embedding
        table = rows_summed(bar, self.part.ids, len(weights.token_embedding))
        places = rows_summed(bar, self.part.places, len(weights.position_embedding))
        output = None
        if weights.output_embedding is None:
            table += head_bar
        else:
            output = head_bar
        return gpt2.GPT2Weights(table, places, tuple(reversed(layers)), norm, output)

    def layer_back(self, layer: Block, seen: _Seen, bar: Any) -> Block:  # bar is written
        work = self.array("gelu", max(1, HIDDEN // self.config.inner), self.config.inner)
        out, inner_bar = self.branch_back(bar, seen.active, layer.feed_forward_out, seen.kept[1], "inner")
        gelu_back(self.config.activation, inner_bar, seen.x, seen.gate, work)
        feed, into = self.norm_back(
            layer.feed_forward_norm, layer.feed_forward_in, self.ones, seen.y, seen.y_deviation, inner_bar, bar
        )
        projected, mixed_bar = self.branch_back(bar, seen.mixed, layer.attention_output, seen.kept[0], "mixed")
        qkv_bar = self.array("qkv", *seen.qkv.shape)
        self.attend_back(seen.weights, seen.qkv, seen.mixed, mixed_bar, qkv_bar)
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
        bar += normalized_back(z_bar, z, deviation)
        return found


class Session:
    """The gradient of a GPT-2's mean cross-entropy, for `refimpl.learning.Training`; its memory is used again at each call.

    One call at a time: calls from several threads at once would share it. What is returned is the caller's.

    Parameters
    ----------
    config : the model's sizes
    dropout : p, 0 <= p < 1: the part of the numbers that are dropped in training
    threads : parts in which a step is computed

    Raises
    ------
    ConfigError
        for options out of range.
    """

    def __init__(self, config: gpt2.GPT2Config, *, dropout: float = 0.0, threads: int = 1) -> None:
        check_options("Session", dropout, threads)
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
        return sum(losses for losses, _ in found) / total, added_in_order([bars for _, bars in found])

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
        return each_part(self._runs, self._parts(batches, weights), function, rng)

    def _parts(self, batches: Sequence[Batch], weights: gpt2.GPT2Weights) -> list[_Part]:
        """The rectangles, cut between rows into parts of about as many tokens."""
        for batch in batches:
            self._check(batch, weights)
        rows = [(batch, row) for batch in batches for row in range(len(batch.ids))]
        sizes = [batch.ids.shape[1] for batch, _ in rows]
        return [_part(rows[a:b]) for a, b in cuts(sizes, self.threads)]

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
