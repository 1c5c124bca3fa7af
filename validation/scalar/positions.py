"""Hierarchical positions from their formula, the first n rows too.

    u_i = (p_i - α p_1)/(1 - α)        q_{(i-1)n+j} = α u_i + (1 - α) u_j        i, j = 1 .. n

Reference: J. Su, "Hierarchical decomposition of position embeddings" (in Chinese), Scientific Spaces 7947 (2020); α is the binary number given.
"""

from __future__ import annotations

from typing import Any

from validation.scalar.numbers import scalar

__all__ = ["hierarchical_positions"]


@scalar
def hierarchical_positions(table: Any, positions: Any, alpha: Any) -> Any:
    """The row q of every position, counted from 0."""
    n, width = len(table), len(table[0])

    def base(i: int, c: int) -> Any:
        return (table[i - 1][c] - alpha * table[0][c]) / (1 - alpha)

    def row(position: Any) -> Any:
        if isinstance(position, list):
            return [row(each) for each in position]
        i = next(i for i in range(1, n + 1) if position < i * n)
        j = position + 1 - (i - 1) * n
        return [alpha * base(i, c) + (1 - alpha) * base(j, c) for c in range(width)]

    return row(positions)
