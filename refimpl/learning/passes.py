"""What the fast sessions of training share: a transformer's passes over the tokens of one thread, in its own memory, and the threads.

The tokens of all rows are the rows of one matrix, so that every linear map is one product; attention alone goes by rows of equal length, in blocks
whose n × n weights stay in the cache, all heads in one call. A step is cut between rows into parts of about as many tokens, each computed by a thread
with its own memory; gradients are added in the parts' order: the same bits at every run with as many threads.

* of GELU(x) = x σ(2z), in the form "tanh", the logistic function is kept for the slope σ(2z)(1 + 2xz'(1 - σ(2z))); of xΦ(x) the normal distribution
  function, for Φ(x) + x exp(-x²/2)/√(2π);
* the cross-entropy goes in place over blocks of tokens, whose exponentials are not divided by their sums;
* rows of Σ_s P_is P̄_is are Σ_w y_iw ȳ_iw, which are shorter; embeddings get their cotangents by a sparse product.

Dropout multiplies by 0 or 1/(1 - p).
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError
from refimpl.inference.in_place import blocks, exact_gelu, heads_of, tanh_gelu
from refimpl.parameters import Linear
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from refimpl.inference.in_place import Memory
    from refimpl.trees import Tree

__all__ = [
    "HIDDEN",
    "SAFE",
    "TOKENS",
    "Passes",
    "added_in_order",
    "check_options",
    "cuts",
    "each_part",
    "exponentials",
    "gelu",
    "gelu_back",
    "normalized_back",
    "rows_summed",
]

TOKENS = 256  # whose logits are computed at a time
WEIGHTS = 131072  # attention weights of a block of rows
HIDDEN = 65536  # numbers of a block for GELU
SAFE = (
    40.0  # logits within ± this need no shift: exp(±40) are normal numbers in float32, and 2²³ of them finite together
)


# --- steps ----------------------------------------------------------------------------------------------------------------------------


def normalized_back(bar: Any, z: Any, scale: Any) -> Any:  # (tokens, d) -> (tokens, d), in place
    """x̄ = (z̄ - mean z̄ - z mean(z̄ z))/√(σ² + ε)."""
    along = np.einsum("ij,ij->i", bar, z)[:, None] / bar.dtype.type(bar.shape[-1])
    bar -= bar.mean(axis=-1, keepdims=True)
    bar -= z * along
    bar *= scale
    return bar


def _tanh_slope(bar: Any, x: Any, gate: Any, work: Any) -> None:  # (...); all but x written
    """bar · σ(2z) (1 + 2 x z' (1 - σ(2z))), with 2z' = 2√(2/π) (1 + 3 · 0.044715 x²)."""
    slope = 2 * math.sqrt(2 / math.pi)
    np.multiply(x, x, out=work)
    work *= slope * 3 * 0.044715
    work += slope
    work *= x
    bar *= gate
    np.subtract(1, gate, out=gate)
    work *= gate
    work += 1
    bar *= work


def _exact_slope(bar: Any, x: Any, gate: Any, work: Any) -> None:  # (...); bar and work are written
    """bar · (Φ(x) + x exp(-x²/2)/√(2π))."""
    np.multiply(x, x, out=work)
    work *= -0.5
    np.exp(work, out=work)
    work *= 1 / math.sqrt(2 * math.pi)
    work *= x
    work += gate
    bar *= work


_FORMS = {"tanh": (tanh_gelu, _tanh_slope), "none": (exact_gelu, _exact_slope)}


def gelu(form: str, x: Any, bias: Any, gate: Any, active: Any) -> None:  # (tokens, inner); all three written
    """x + bias, σ(2z) or Φ(x) of it, and GELU in place, block by block."""
    for block in blocks(len(x), x.shape[-1], HIDDEN):
        x[block] += bias
        _FORMS[form][0](x[block], gate[block], active[block])


def gelu_back(form: str, bar: Any, x: Any, gate: Any, work: Any) -> None:  # (tokens, inner); all but x written
    """x̄ = GELU'(x) ȳ in the place of ȳ, block by block."""
    for block in blocks(len(x), x.shape[-1], HIDDEN):
        rows = x[block]
        _FORMS[form][1](bar[block], rows, gate[block], work[: len(rows)])


def rows_summed(bar: Any, ids: Any, count: int) -> Any:  # (tokens, d), int (tokens,) -> (count, d)
    """Σ of the rows of each id: the product of a sparse matrix of ones."""
    from scipy.sparse import csr_array

    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(count + 1))
    return csr_array((np.ones(len(ids), bar.dtype), order, starts), shape=(count, len(ids))) @ bar


def exponentials(logits: Any, targets: Any, counted: Any) -> tuple[Any, float]:  # (tokens, v), int (tokens,), bool
    """exp(s - c) in the place of s, from the targets' places of which the row sums are taken off; the row sums; the sum of the losses that count."""
    rows = np.arange(len(logits))
    largest = logits.max(axis=-1, keepdims=True)
    if not np.abs(largest).max() <= SAFE:
        logits -= largest
    chosen = logits[rows, targets].astype(np.float64)
    np.exp(logits, out=logits)
    sums = logits.sum(axis=-1, keepdims=True)
    lost = float(np.sum((np.log(sums[:, 0].astype(np.float64)) - chosen)[counted]))
    logits[rows, targets] -= sums[:, 0]
    return sums, lost


# --- one thread -----------------------------------------------------------------------------------------------------------------------


class Passes:
    """The passes over one part, forwards and backwards, in one thread's memory; what belongs to one model is in the classes made of it.

    A part has `ids`, the tokens, and `shapes`, of each run of equal rows their number, their length, and what else `weigh` asks for.
    """

    part: Any

    def __init__(self, width: int, heads: int, memory: Memory, dropout: float) -> None:
        self.width, self.heads, self.memory, self.dropout = width, heads, memory, dropout
        self._after = np.empty((0, 0))

    def begin_part(self, part: Any, dtype: Any, rng: np.random.Generator | None) -> None:
        """What the passes to come go over, and what dropout is drawn from."""
        self.part, self.dtype, self.rng, self.tokens = part, dtype, rng, len(part.ids)

    def array(self, name: Any, *shape: int) -> Any:
        """Memory under that name."""
        return self.memory(name, shape, self.dtype)

    def kept(self, name: Any) -> Any:
        """0 where a number is dropped, 1/(1 - p) where it is kept; None without dropout."""
        if not self.dropout or self.rng is None:
            return None
        drawn = self.array(("kept", name), self.tokens, self.width)
        self.rng.random(out=drawn, dtype=self.dtype)
        np.greater_equal(drawn, self.dropout, out=drawn)
        drawn *= 1 / (1 - self.dropout)
        return drawn

    def branch(self, inputs: Any, linear: Linear, kept: Any) -> Any:  # (tokens, in) -> (tokens, d)
        """The linear map, dropped out."""
        out = np.matmul(inputs, linear.weight, out=self.array("branch", self.tokens, self.width))
        out += linear.bias
        if kept is not None:
            out *= kept
        return out

    def branch_back(self, bar: Any, inputs: Any, linear: Linear, kept: Any, name: str) -> tuple[Linear, Any]:
        """The cotangents of the linear map and of its inputs."""
        if kept is not None:
            bar = np.multiply(bar, kept, out=self.array("branch", *bar.shape))
        inputs_bar = np.matmul(bar, linear.weight.T, out=self.array(name, *inputs.shape))
        return Linear(inputs.T @ bar, bar.sum(axis=0)), inputs_bar

    def rectangles(self) -> Iterator[tuple[slice, int, tuple[int, ...]]]:
        """Blocks of equal rows: their tokens, their number, and their length with what else their shape says."""
        start = 0
        for rows, *shape in self.part.shapes:
            length = shape[0]
            for block in blocks(rows, self.heads * length * length, WEIGHTS):
                count = block.stop - block.start
                yield slice(start + block.start * length, start + block.stop * length), count, tuple(shape)
            start += rows * length

    def after(self, length: int) -> Any:  # -> (length, length)
        """-inf above the diagonal, 0 elsewhere."""
        if len(self._after) < length or self._after.dtype != self.dtype:
            self._after = np.triu(np.full((length, length), -np.inf, self.dtype), 1)
        return self._after[:length, :length]

    def weigh(self, scores: Any, *shape: int) -> None:  # (rows, heads, length, length), written
        """The weights of attention in rows of that shape: softmax over the keys that are seen."""
        raise NotImplementedError

    def attend(self, i: int, qkv: Any, mixed: Any) -> list[Any]:  # (tokens, 3d) -> (tokens, d), written
        """Attention with the queries as they are, and its weights of each rectangle."""
        found, heads = [], self.heads
        for number, (tokens, rows, shape) in enumerate(self.rectangles()):
            length = shape[0]
            q, k, v = heads_of(qkv[tokens], rows, length, heads, 3)
            weights = np.matmul(
                q, k.swapaxes(-1, -2), out=self.array((i, "weights", number), rows, heads, length, length)
            )
            self.weigh(weights, *shape)
            np.matmul(weights, v, out=heads_of(mixed[tokens], rows, length, heads, 1)[0])
            found.append(weights)
        return found

    def attend_back(self, each: list[Any], qkv: Any, mixed: Any, mixed_bar: Any, qkv_bar: Any) -> None:
        """The cotangents of queries, keys and values, written into `qkv_bar`, from the weights of each rectangle."""
        heads = self.heads
        for weights, (tokens, rows, (length, *_)) in zip(each, self.rectangles(), strict=True):
            q, k, v = heads_of(qkv[tokens], rows, length, heads, 3)
            q_bar, k_bar, v_bar = heads_of(qkv_bar[tokens], rows, length, heads, 3)
            y = heads_of(mixed[tokens], rows, length, heads, 1)[0]
            bar = heads_of(mixed_bar[tokens], rows, length, heads, 1)[0]
            np.matmul(weights.swapaxes(-1, -2), bar, out=v_bar)
            scores = np.matmul(bar, v.swapaxes(-1, -2), out=self.array("scores", *weights.shape))
            scores -= np.einsum("rhnw,rhnw->rhn", y, bar)[..., None]
            scores *= weights
            np.matmul(scores, k, out=q_bar)
            np.matmul(scores.swapaxes(-1, -2), q, out=k_bar)


# --- threads --------------------------------------------------------------------------------------------------------------------------


def check_options(where: str, dropout: float, threads: int) -> None:
    """Raise ConfigError for options out of range."""
    if not (0 <= dropout < 1 and threads >= 1):
        got = f"dropout = {dropout!r}, threads = {threads!r}"
        raise ConfigError("options out of range", where=where, expected="0 <= dropout < 1 <= threads", got=got)


def cuts(sizes: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Where rows of those sizes are cut into parts of about as many tokens: first and last row of each, the last not included."""
    ends = np.cumsum(sizes)
    bounds = [round(ends[-1] * i / parts) for i in range(1, parts)]
    places = [0, *(int(np.searchsorted(ends, bound)) for bound in bounds), len(sizes)]
    return [(a, b) for a, b in itertools.pairwise(places) if b > a]


def each_part(runs: Sequence[Any], parts: Sequence[Any], function: Callable[..., Any], rng: Any) -> list[Any]:
    """function(run, part, generator) for each part, in order: every part in a thread, with a generator that is spawned of `rng`."""
    drawn = [None] * len(parts) if rng is None else rng.spawn(len(parts))
    with np.errstate(over="ignore"):  # of exp(-2z): a gate of 0
        if len(parts) == 1:
            return [function(runs[0], parts[0], drawn[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(_quiet(function), runs, parts, drawn))


def _quiet(function: Any) -> Any:
    """The function without a warning of overflow: NumPy's settings are each thread's own."""

    def quiet(*args: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*args)

    return quiet


def added_in_order(each: Sequence[Tree]) -> Tree:
    """The sum of the parts' gradients, in the memory of the first."""
    for others in each[1:]:
        mapped(lambda a, b: np.add(a, b, out=a), each[0], others)
    return each[0]
