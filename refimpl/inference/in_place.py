"""Steps of a transformer in NumPy that write where they are told: what the fast sessions of training and of inference are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Memory", "blocks", "exact_gelu", "heads_of", "normalized", "softmax", "tanh_gelu"]


class Memory:
    """Arrays that are used again; each name has as much memory as it ever needed."""

    def __init__(self) -> None:
        self._arrays: dict[Any, Any] = {}

    def __call__(self, name: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of that shape under that name; what it held is lost."""
        size = math.prod(shape)
        held = self._arrays.get(name)
        if held is None or held.size < size or held.dtype != dtype:
            held = self._arrays[name] = np.empty(size, dtype)
        return held[:size].reshape(shape)


def blocks(rows: int, size: int, limit: int) -> Iterator[slice]:
    """Slices of rows of `size` numbers, each of at most `limit` numbers, or one row."""
    step = max(1, limit // size)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def heads_of(array: Any, rows: int, length: int, heads: int, parts: int) -> Any:  # (tokens, parts d) -> parts of views
    """(rows, heads, n, w) views of the queries, keys and values (parts = 3), or of one of them (parts = 1)."""
    return array.reshape(rows, length, parts, heads, -1).transpose(2, 0, 3, 1, 4)


def normalized(x: Any, eps: float, z: Any) -> Any:  # (tokens, d) -> (tokens, 1); z is written
    """z = (x - μ)/√(σ² + ε); returns 1/√(σ² + ε)."""
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=z)
    variance = np.einsum("ij,ij->i", z, z)[:, None] / x.dtype.type(x.shape[-1])
    scale = 1 / np.sqrt(variance + x.dtype.type(eps))
    z *= scale
    return scale


def softmax(scores: Any) -> None:  # (..., n), written; -inf where nothing is seen
    """p_j = exp(s_j - max s)/Σ exp(s - max s), over the last axis."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores *= 1 / scores.sum(axis=-1, keepdims=True)


def exact_gelu(x: Any, gate: Any, active: Any) -> None:  # (...); gate and active are written, which may be x
    """gate = Φ(x), the normal distribution function, and active = x Φ(x): GELU in the form "none"."""
    from scipy.special import ndtr

    np.multiply(x, ndtr(x, out=gate), out=active)


def tanh_gelu(x: Any, gate: Any, active: Any) -> None:  # (...); gate and active are written, which may be x
    """gate = σ(2z) and active = x σ(2z), where 2z = 2√(2/π) (x + 0.044715 x³): GELU in the form "tanh".

    exp(-2z) may overflow, to a gate of 0: with NumPy's warnings of overflow off.
    """
    slope = 2 * math.sqrt(2 / math.pi)
    np.multiply(x, x, out=gate)
    gate *= -slope * 0.044715
    gate -= slope
    gate *= x
    np.exp(gate, out=gate)
    gate += 1
    np.reciprocal(gate, out=gate)
    np.multiply(x, gate, out=active)
