"""Tensor parallelism: a GPT-2 whose matrices are cut over R ranks, after Megatron-LM. Every rank runs the same lines on its share.

Rank r holds heads r·h/R to (r+1)·h/R - 1, as much of the inner width, and ⌈vocab/R⌉ rows of the token table, the last ones padded with zeros. With
y = LN(x):

    x₀ = Σ_r E_r[token] + P[position]                                    rows of E cut: E_r[token] = 0 where another rank has the row
    x  ← x + Σ_r Attention(y W_Q,r, y W_K,r, y W_V,r) W_o,r + b_o        columns of [W_Q, W_K, W_V] and b cut by heads, rows of W_o cut
    x  ← x + Σ_r GELU(y W_1,r + b_1,r) W_2,r + b_2                       columns of W_1 and b_1 cut, rows of W_2 cut
    logits = [LN(x_L) E_0ᵀ, .., LN(x_L) E_{R-1}ᵀ]                        joined, without the columns of the padding

A matrix whose columns are cut needs nothing from other ranks: it makes columns of the product. One whose rows are cut makes a term of a sum. So
each block has two sums over the ranks, Σ_r, of (batch, n, d) numbers; the embedding has one more, and the head joins (batch, n, vocab/R) from every
rank. Norms, positions and the biases after a sum are whole on every rank, and so is x: it is computed R times, never sent. Such a bias is added
once, after the sum. The keys and values of a rank are those of its own heads: the cache is cut by itself.

Both are made by a `Communicator`. A sum is made in the order of the ranks, ((0 + 1) + 2) + ..., on every rank, so that every rank has the same
bits, and every run. 16-bit floats are added up in float32 and rounded once, after the bias, as in one matrix product
(`number_system.rounded_once`).

*Rounding.* Let y = Σ_{k<n} x_k w_k + b in floating point with unit roundoff u, (n + 1) u < 1, without underflow or overflow: the products made
exactly or rounded, added in any order whatever, and then b. A product is rounded at most once itself, in at most n - 1 additions to the others,
and in that of b: n + 1 times; so |fl(y) - y| <= γ_{n+1} (Σ |x_k w_k| + |b|), γ_m = m u/(1 - m u) (Higham, section 3.1: a bound for all orders at
once). R ranks add the same n products in another order: partial sums, then these. Hence the layer on R ranks and on one differ by at most
2 γ_{n+1} (Σ |x_k w_k| + |b|): claim GPT2-5.sum. A layer whose columns are cut makes the same sums; a library may take another order for another
width, within the same bound. Nothing else differs: claim GPT2-5. (Where products underflow, one that is rounded and one that is not, as in a
fused multiplication and addition, may differ by more: half the least positive number for each product.)

The layers themselves are not defined again: `refimpl.gpt2.block` runs on the share, in which the two layers whose rows are cut are `SummedLinear`.

References: M. Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model parallelism", arXiv 1909.08053, section 3;
N. Higham, "Accuracy and stability of numerical algorithms", second edition (2002), section 3.1.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from refimpl import gpt2
from refimpl.errors import ConfigError
from refimpl.inputs import rows
from refimpl.number_system import Array, device_of, namespace, products_of, rounded_once
from refimpl.parameters import Block, is_positive, product

if TYPE_CHECKING:
    from collections.abc import Iterable

    from refimpl.gpt2 import Dialect, GPT2Config, GPT2Weights, KeyValueCache

__all__ = [
    "CUTS",
    "Communicator",
    "Cut",
    "SummedLinear",
    "check_ranks",
    "cut",
    "cut_of",
    "cut_shape",
    "embedding",
    "forward",
    "head",
    "logits",
    "shapes",
    "share",
    "summed",
    "summed_affine",
    "whole_shape",
]


class Communicator(Protocol):
    """How the ranks of one job exchange arrays. All ranks make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""

    @property
    def size(self) -> int:
        """The number of ranks."""

    def all_reduce(self, array: Array) -> Array:  # (...) -> (...)
        """Σ_r of the ranks' arrays, made in the order of the ranks: the same bits on every rank."""

    def all_gather(self, array: Array, axis: int) -> Array:  # (..., n, ...) -> (..., size n, ...)
        """The ranks' arrays side by side along `axis`, in the order of the ranks."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, made of numbers and lists on the host, on every rank."""

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's `value`, made of numbers and texts on the host, in the order of the ranks."""


def summed(parts: Iterable[Array]) -> Array:  # R times (...) -> (...)
    """((p₀ + p₁) + p₂) + ..: the one order in which a `Communicator` adds."""
    return functools.reduce(operator.add, parts)


# --- what a rank holds ----------------------------------------------------------------------------------------------------------------


class Cut(Enum):
    """How a parameter lies over the ranks."""

    WHOLE = "the same on every rank"
    VOCABULARY = "rows cut, padded with rows of zeros"
    ROWS = "rows cut"
    COLUMNS = "columns cut"
    THIRDS = "the columns of each third cut"  # of Q, of K, of V


CUTS: dict[str, Cut] = {  # the end of a parameter's name -> its cut; all others are whole
    "token_embedding": Cut.VOCABULARY,
    "output_embedding": Cut.VOCABULARY,
    "query_key_value.weight": Cut.THIRDS,
    "query_key_value.bias": Cut.THIRDS,
    "attention_output.weight": Cut.ROWS,
    "feed_forward_in.weight": Cut.COLUMNS,
    "feed_forward_in.bias": Cut.COLUMNS,
    "feed_forward_out.weight": Cut.ROWS,
}


def cut_of(name: str) -> Cut:
    """How the parameter of that dotted name lies over the ranks."""
    return CUTS.get(".".join(name.split(".")[-2:]), Cut.WHOLE)


def check_ranks(config: GPT2Config, ranks: int) -> None:
    """Raise ConfigError unless `ranks` is a whole number >= 1 that divides the heads and the inner width; the vocabulary is padded."""
    if not is_positive(ranks):
        raise ConfigError("the number of ranks must be a whole number from 1", where="parallel", got=repr(ranks))
    sizes = {"heads": config.n_head, "columns of the feed-forward layer": config.inner}
    wrong = [f"{size} {what}" for what, size in sizes.items() if size % ranks]
    if wrong:
        fit = [n for n in range(1, config.n_head + 1) if config.n_head % n == 0 and config.inner % n == 0]
        raise ConfigError(
            f"the model does not divide into {ranks} ranks",
            where="parallel",
            expected=f"a number of ranks that divides both: {', '.join(map(str, fit))}",
            got=", ".join(wrong),
            remedy=f"mpiexec -n {max(n for n in fit if n <= ranks)}",
        )


def cut_shape(name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:  # whole -> a rank's
    """The shape of a rank's part of a parameter."""
    kind = cut_of(name)
    if kind is Cut.WHOLE:
        return shape
    if kind in (Cut.ROWS, Cut.VOCABULARY):
        return (-(-shape[0] // ranks), *shape[1:])
    return (*shape[:-1], shape[-1] // ranks)


def whole_shape(name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:  # a rank's -> whole
    """The shape of the parameter of which a rank has this much, the padding of a vocabulary included."""
    kind = cut_of(name)
    if kind is Cut.WHOLE or not shape:
        return shape
    if kind in (Cut.ROWS, Cut.VOCABULARY):
        return (shape[0] * ranks, *shape[1:])
    return (*shape[:-1], shape[-1] * ranks)


def shapes(config: GPT2Config, ranks: int) -> dict[str, tuple[int, ...]]:
    """Every parameter's dotted name, and the shape of a rank's part of it."""
    return {name: cut_shape(name, shape, ranks) for name, shape in gpt2.GPT2Weights.shapes(config).items()}


def cut(name: str, array: Array, rank: int, ranks: int) -> Array:  # whole -> a rank's part
    """The part of a parameter that rank `rank` of `ranks` holds; for [Q, K, V] the columns [Q_r, K_r, V_r]."""
    kind, xp = cut_of(name), namespace(array)
    if kind is Cut.WHOLE or ranks == 1:
        return array
    if kind is Cut.THIRDS:
        third = array.shape[-1] // 3
        parts = [array[..., i * third : (i + 1) * third][..., _own(third, rank, ranks)] for i in range(3)]
        return xp.concat(parts, axis=-1)
    if kind is Cut.COLUMNS:
        return array[..., _own(array.shape[-1], rank, ranks)]
    held = array[_own(array.shape[0], rank, ranks), ...]
    short = -(-array.shape[0] // ranks) - held.shape[0]
    if not short:
        return held
    padding = xp.zeros((short, *array.shape[1:]), dtype=array.dtype, device=device_of(array))
    return xp.concat([held, padding], axis=0)


def _own(length: int, rank: int, ranks: int) -> slice:
    """Which of `length` rows or columns a rank holds: ⌈length/ranks⌉ each, the last ones what is left."""
    most = -(-length // ranks)
    return slice(min(rank * most, length), min((rank + 1) * most, length))


def share(weights: GPT2Weights, config: GPT2Config, rank: int, ranks: int) -> GPT2Weights:
    """What rank `rank` of `ranks` holds of a model.

    Raises ConfigError, as `check_ranks`, for a number of ranks that does not divide the model.
    """
    check_ranks(config, ranks)
    named = {name: cut(name, array, rank, ranks) for name, array in weights.named().items()}
    return gpt2.GPT2Weights.placed(named, config)


# --- what a rank computes -------------------------------------------------------------------------------------------------------------


@rounded_once
@products_of("projection")
def summed_affine(
    x: Array, weight: Array, bias: Array, communicator: Communicator
) -> Array:  # (..., in/R), (in/R, out), (out,) -> (..., out)
    """y = Σ_r x_r W_r + b: `parameters.affine` with the rows of W cut over the ranks, and the bias added once."""
    return communicator.all_reduce(namespace(x, weight).matmul(x, weight)) + bias


class SummedLinear(NamedTuple):
    """A `parameters.Linear` whose rows are cut over the ranks: each makes a term, and the terms are summed."""

    weight: Array  # (in/R, out)
    bias: Array  # (out,), whole
    communicator: Communicator

    def __call__(self, x: Array) -> Array:  # (..., in/R) -> (..., out)
        """Σ_r x_r W_r + b."""
        return summed_affine(x, self.weight, self.bias, self.communicator)


def _summing(layer: Block, communicator: Communicator) -> Block:
    """The layer of a rank, its two products whose rows are cut summed over the ranks."""
    attended: Any = SummedLinear(*layer.attention_output, communicator)
    fed: Any = SummedLinear(*layer.feed_forward_out, communicator)
    return layer._replace(attention_output=attended, feed_forward_out=fed)


def embedding(table: Array, ids: Array, communicator: Communicator) -> Array:  # (v, d), int (...) -> (..., d)
    """x[t] = Σ_r E_r[ids[t] - r v] where that row is rank r's, 0 elsewhere: exact, since all terms but one are 0."""
    xp = namespace(table, ids)
    own = ids - communicator.rank * table.shape[0]
    mine = (own >= 0) & (own < table.shape[0])
    found = rows(table, xp.where(mine, own, xp.zeros_like(own)))
    return communicator.all_reduce(xp.where(mine[..., None], found, xp.zeros_like(found)))


def head(
    x: Array, table: Array, vocab_size: int, communicator: Communicator
) -> Array:  # (..., d), (v, d) -> (..., vocab)
    """z = [x E_0ᵀ, .., x E_{R-1}ᵀ], without the columns of the padding."""
    part = product(x, namespace(table).matrix_transpose(table))
    return communicator.all_gather(part, -1)[..., :vocab_size]


def forward(
    weights: GPT2Weights,
    config: GPT2Config,
    communicator: Communicator,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    cache: KeyValueCache | None = None,
    dialect: str | Dialect = "openai",
    last: bool = False,
) -> tuple[Array, KeyValueCache]:  # int (batch, length) -> (batch, length or 1, vocab), cache
    """Logits of the tokens given, which follow those in `cache`, on every rank, and the cache of this rank's heads.

    Parameters
    ----------
    weights : this rank's share
    config : of the whole model
    communicator : which joins the ranks; all call this function with the same arguments but their own share and cache
    token_ids, positions, mask, cache, dialect : as `refimpl.gpt2.forward`
    last : whether only the logits of the last position are made, which spares the head, and what it joins, the others

    Raises
    ------
    As `refimpl.gpt2.logits`, on every rank alike and before anything is exchanged; ConfigError, as `check_ranks`.
    """
    ranks = communicator.size
    check_ranks(config, ranks)
    given = gpt2.reading(weights, config, token_ids, positions, mask, cache, dialect)
    own = dataclasses.replace(config, n_head=config.n_head // ranks, n_inner=config.inner // ranks)
    blocks = tuple(_summing(layer, communicator) for layer in weights.blocks)
    x = embedding(weights.token_embedding, given.ids, communicator) + rows(weights.position_embedding, given.positions)
    states, cache = gpt2._through(weights._replace(blocks=blocks), own, x, given, cache)
    table = weights.token_embedding if weights.output_embedding is None else weights.output_embedding
    return head(states[-1][:, -1:, :] if last else states[-1], table, config.vocab_size, communicator), cache


def logits(
    weights: GPT2Weights,
    config: GPT2Config,
    communicator: Communicator,
    token_ids: Any,
    *,
    positions: Any = None,
    mask: Any = None,
    dialect: str | Dialect = "openai",
) -> Array:  # int (batch, length) -> (batch, length, vocab)
    """logits[b, t] = [LN(x_L[b, t]) E_0ᵀ, .., LN(x_L[b, t]) E_{R-1}ᵀ], on every rank. Arguments and errors as `forward`."""
    return forward(weights, config, communicator, token_ids, positions=positions, mask=mask, dialect=dialect)[0]
