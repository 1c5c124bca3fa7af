"""The mean of a text's vectors, and unit length, from their formulas.

    m = 1/|T| Σ_{t in T} x_t,  T the real tokens        x_i / √(Σ_j x_j²)

Reference: N. Reimers and I. Gurevych, "Sentence-BERT", arXiv 1908.10084, section 3.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp

from validation.scalar.numbers import dot, each_row, scalar

__all__ = ["mean_pooling", "unit_length"]


@scalar
def mean_pooling(hidden: Any, mask: Any) -> Any:
    """The mean of each row's real tokens."""
    means = []
    for vectors, real in zip(hidden, mask, strict=True):
        kept = [vector for vector, one in zip(vectors, real, strict=True) if one]
        means.append([mp.fsum(column) / len(kept) for column in zip(*kept, strict=True)])
    return means


@scalar
def unit_length(x: Any) -> Any:
    """Every vector over its length."""

    def of(row: list[Any]) -> list[Any]:
        length = mp.sqrt(dot(row, row))
        return [value / length for value in row]

    return each_row(of, x)
