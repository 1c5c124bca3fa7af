"""What is in a checkpoint: statistics of a tensor, computed in blocks, and a tree of names in which layers that are alike are one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weights_io.checkpoint import Checkpoint, TensorInfo

__all__ = ["Node", "Statistics", "statistics", "tree"]

BLOCK = 1 << 20  # values at a time
DEEPEST = 24  # levels of a tree of names


class Statistics(NamedTuple):
    """Of the finite values of a tensor; all are None where there is none. Complex values count as two real ones."""

    values: int  # how many, the non-finite ones too
    nonfinite: int  # NaN and infinities
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None  # standard deviation, sqrt(mean (x - mean)^2)

    def __add__(self, other: Statistics) -> Statistics:  # type: ignore[override]
        """Of both sets of values together, by the exact identity for means and sums of squares (Chan, Golub, LeVeque 1979)."""
        mean, deviation = _joined(
            *((part.values - part.nonfinite, part.mean, part.deviation) for part in (self, other))
        )
        lows, highs = (self.minimum, other.minimum), (self.maximum, other.maximum)
        return Statistics(
            self.values + other.values,
            self.nonfinite + other.nonfinite,
            self.zeros + other.zeros,
            min((low for low in lows if low is not None), default=None),
            max((high for high in highs if high is not None), default=None),
            mean,
            deviation,
        )


Moments = tuple[int, float | None, float | None]  # how many values, their mean and deviation


def _joined(first: Moments, second: Moments) -> tuple[float | None, float | None]:
    """Mean and deviation of two sets together; nothing overflows that is not infinite itself, since all weights are at most 1."""
    (n, a, da), (m, b, db) = first, second
    if a is None or b is None or da is None or db is None:
        return (b, db) if a is None else (a, da)
    p, q = n / (n + m), m / (n + m)
    between = (b / 2 - a / 2) * math.sqrt(p) * math.sqrt(q)
    return a * p + b * q, 2 * math.hypot(da / 2 * math.sqrt(p), db / 2 * math.sqrt(q), between)


def _moments(values: Any) -> tuple[float, float]:  # float64 (n,), finite, n >= 1
    """Mean and standard deviation, of values scaled by a power of two so that no square overflows or vanishes."""
    exponent = int(np.frexp(np.abs(values).max())[1])
    scaled = np.ldexp(values, -exponent)
    return float(np.ldexp(scaled.mean(), exponent)), float(np.ldexp(scaled.std(), exponent))


def _blocks(array: Any) -> Iterator[Any]:  # any shape -> float64 (at most BLOCK,), one after the other
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        block = block.view(block.real.dtype) if block.dtype.kind == "c" else block
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            yield block.astype(np.float64)


def statistics(array: Any) -> Statistics:  # any shape, any numeric dtype
    """Count, non-finite values, zeros, extremes, mean and standard deviation; holds one block of float64 at a time.

    Integers beyond 2**53 are rounded to float64, as everything here is.
    """
    total = Statistics(0, 0, 0, None, None, None, None)
    for block in _blocks(array):
        good = block[np.isfinite(block)]
        few: tuple[float | None, ...] = (None, None, None, None)
        if good.size:
            few = (float(good.min()), float(good.max()), *_moments(good))
        total += Statistics(block.size, block.size - good.size, int((good == 0).sum()), *few)
    return total


class Node(NamedTuple):
    """A part of a name: what lies below it, or the tensor of that name."""

    label: str  # "attn", or "0 ... 11" for layers that are alike
    alike: int  # how many parts of the tree this one stands for
    tensor: TensorInfo | None  # of the first of them
    children: tuple[Node, ...]


def tree(checkpoint: Checkpoint, *, fold: bool = True) -> tuple[Node, ...]:
    """The names as a tree, split at the first `DEEPEST` "/" and "."; with `fold`, numbered parts of the same content are one node.

    The content of a part is the names, dtypes and shapes below it.
    """
    root: dict[str, Any] = {}
    for name in checkpoint:
        *parts, last = _parts(name)
        below = root
        for part in parts:
            below = below.setdefault(part, {})
            if not isinstance(below, Mapping):  # a tensor whose name is the beginning of another's, with its separator
                break
        if isinstance(below, dict) and not isinstance(below.get(last), dict):
            below[last] = checkpoint.info(name)
        else:
            root[name] = checkpoint.info(name)
    return tuple(node for node, _ in _nodes(root, {}, fold))


def _parts(name: str) -> list[str]:
    """The parts of a name with their separators, "a.", "b/" and "c" of "a.b/c"; what lies deeper than `DEEPEST` stays in one piece."""
    parts = [part for part in re.split(r"(?<=[./])", name) if part] or [""]
    return [*parts[:DEEPEST], "".join(parts[DEEPEST:])] if len(parts) > DEEPEST else parts


def _nodes(below: Mapping[str, Any], seen: dict[Any, int], fold: bool) -> list[tuple[Node, int]]:
    """Each part with a number for its content: equal contents have equal numbers, which `seen` gives out."""
    result: list[tuple[Node, int]] = []
    for label, entry in below.items():
        inner = _nodes(entry, seen, fold) if isinstance(entry, dict) else []
        info = None if isinstance(entry, dict) else entry
        kind = None if info is None else (info.dtype, info.shape)
        content = seen.setdefault((kind, tuple((node.label, node.alike, key) for node, key in inner)), len(seen))
        node = Node(label, 1, info, tuple(child for child, _ in inner))
        numbered = fold and re.fullmatch(r"\d+[./]?", label) is not None
        last = result[-1] if result else None
        if numbered and last is not None and last[1] == content and last[0].label[0].isdigit():
            first = last[0].label.partition(" ")[0]
            result[-1] = last[0]._replace(label=f"{first} ... {label}", alike=last[0].alike + 1), content
        else:
            result.append((node, content))
    return result
