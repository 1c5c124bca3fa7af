"""Layers of a transformer in plain NumPy, whose steps the mutants of whole networks replace: right ones, and common wrong ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "attend",
    "causal",
    "erf_gelu",
    "every",
    "gelu",
    "keys",
    "linear",
    "merge",
    "norm",
    "parts",
    "parts_by_head",
    "root",
    "split",
    "split_innermost",
    "transposed_output",
    "without_bias",
]

Names = dict[str, Any]


def gelu(x: Any) -> Any:
    """GELU by the tanh form."""
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def erf_gelu(x: Any) -> Any:
    """GELU by the error function."""
    return x / 2 * (1 + scipy.special.erf(x / math.sqrt(2)))


def norm(
    x: Any, scale: Any, bias: Any, eps: float, *, used: float | None = None, ddof: int = 0, outside: bool = False
) -> Any:
    """Layer norm; `used` stands in for eps, `ddof` and `outside` are common mistakes."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).sum(-1, keepdims=True) / (x.shape[-1] - ddof)
    eps = eps if used is None else used
    return centred / (np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)) * scale + bias


def linear(x: Any, weights: Names, name: str) -> Any:
    """x W + b."""
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def without_bias(*names: str) -> Callable[..., Any]:
    """`linear` that forgets the bias of these layers."""
    return lambda x, w, name: x @ w[f"{name}.weight"] if name.endswith(names) else linear(x, w, name)


def transposed_output(x: Any, weights: Names, name: str) -> Any:
    """The output weight of attention read in the other order."""
    weight = weights[f"{name}.weight"]
    return x @ (weight.T if name.endswith("attention_output") else weight) + weights[f"{name}.bias"]


def split(x: Any, heads: int) -> Any:  # (b, n, d) -> (b, h, n, w)
    """Heads apart."""
    return np.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)


def merge(x: Any) -> Any:  # (b, h, n, w) -> (b, n, d)
    """Heads together again."""
    return np.moveaxis(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)


def split_innermost(x: Any, heads: int) -> Any:
    """Heads as the last axis of the width, not the first."""
    return np.moveaxis(x.reshape(*x.shape[:2], -1, heads), 3, 1)


def parts(qkv: Any, heads: int) -> Any:
    """Q, K and V of their common product."""
    return np.split(qkv, 3, axis=-1)


def parts_by_head(qkv: Any, heads: int) -> Any:
    """Columns as some trainers store them: for each head its q, its k and its v."""
    by_head = qkv.reshape(*qkv.shape[:-1], heads, 3, -1)
    return [by_head[..., i, :].reshape(*qkv.shape[:-1], -1) for i in range(3)]


def root(width: int, heads: int) -> float:
    """√w."""
    return math.sqrt(width // heads)


def causal(n: int) -> Any:  # -> bool (n, n)
    """Keys at or before the query."""
    return np.tril(np.ones((n, n), bool))


def every(n: int) -> Any:  # -> bool (n, n)
    """All keys."""
    return np.ones((n, n), bool)


def keys(mask: Any) -> Any:  # bool (b, n) -> bool (b, 1, 1, n)
    """Keys that are no padding."""
    return mask[:, None, None, :]


def attend(q: Any, k: Any, v: Any, seen: Any, divisor: float) -> Any:
    """softmax(Q Kᵀ/divisor) V over the keys seen; zeros where none is."""
    scores = np.where(seen, q @ np.swapaxes(k, -1, -2) / divisor, -np.inf)
    highest = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total) @ v
