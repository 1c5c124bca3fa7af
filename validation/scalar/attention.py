"""Attention, query by query and key by key: plain, with residual scores, with relative positions.

    s_j = q·k_j/√d + r_j        p_j = exp(s_j/t) / Σ_{j seen} exp(s_j/t)        o = Σ_{j seen} p_j v_j
    s_j = q·(k_j + a_j)/√d                                                     o = Σ_{j seen} p_j (v_j + a_j)

r are the scores of the layer before and t the number of layers they are the sum of (1: a plain sum); a_j is the embedding of the relative position
of key j. A key that the mask hides is left out; a query that sees no key gets zeros.

References: A. Vaswani et al., arXiv 1706.03762, eq. (1); R. He et al., "RealFormer", arXiv 2012.11747, section 3; J. Wei et al., "NEZHA",
arXiv 1909.00204, eqs. (4) and (5), after P. Shaw et al., arXiv 1803.02155, eqs. (3) and (4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf

from validation.scalar.numbers import depth, dot, scalar, visible

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["answer", "attention", "relative_attention", "residual_attention", "score"]

Vector = list[Any]


def score(query: Vector, key: Vector) -> Any:
    """The scalar product of query and key over √d."""
    return dot(query, key) / mp.sqrt(len(query))


def answer(scores: Vector, values: list[Vector], width: int) -> Vector:
    """The mean of the values with weights exp(score), zeros of that width where there are none."""
    if not values:
        return [mpf(0)] * width
    weights = [mp.exp(each) for each in scores]
    return [dot(weights, [value[e] for value in values]) / mp.fsum(weights) for e in range(width)]


def _heads(q: Any, k: Any, v: Any, one: Callable[..., Vector], place: tuple[int, ...] = ()) -> Any:
    """`one(query, keys, values, place)` of every query; the place is its batch, head, and so on, and its own number."""
    if depth(q) > 2:
        return [_heads(*parts, one, (*place, i)) for i, parts in enumerate(zip(q, k, v, strict=True))]
    return [one(query, k, v, (*place, i)) for i, query in enumerate(q)]


def _seen(mask: Any, place: tuple[int, ...], keys: list[Vector]) -> list[int]:
    return [j for j in range(len(keys)) if visible(mask, *place, j)]


@scalar
def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Scaled dot-product attention."""

    def one(query: Vector, keys: list[Vector], values: list[Vector], place: tuple[int, ...]) -> Vector:
        seen = _seen(mask, place, keys)
        return answer([score(query, keys[j]) for j in seen], [values[j] for j in seen], len(values[0]))

    return _heads(q, k, v, one)


@scalar
def residual_attention(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    """Attention of a RealFormer layer."""

    def one(query: Vector, keys: list[Vector], values: list[Vector], place: tuple[int, ...]) -> Vector:
        before = previous_scores
        for index in place:
            before = before[index]
        seen = _seen(mask, place, keys)
        scores = [(score(query, keys[j]) + before[j]) / mean_over for j in seen]
        return answer(scores, [values[j] for j in seen], len(values[0]))

    return _heads(q, k, v, one)


@scalar
def relative_attention(q: Any, k: Any, v: Any, relative: Any, mask: Any) -> Any:
    """Attention of a NEZHA layer, for embeddings given for each pair."""

    def moved(vector: Vector, by: Vector) -> Vector:
        return [a + b for a, b in zip(vector, by, strict=True)]

    def one(query: Vector, keys: list[Vector], values: list[Vector], place: tuple[int, ...]) -> Vector:
        towards, seen = relative[place[-1]], _seen(mask, place, keys)
        scores = [score(query, moved(keys[j], towards[j])) for j in seen]
        return answer(scores, [moved(values[j], towards[j]) for j in seen], len(values[0]))

    return _heads(q, k, v, one)
