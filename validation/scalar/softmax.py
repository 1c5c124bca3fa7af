"""Softmax, its logarithm, log-sum-exp, and sparse softmax with its loss, from their formulas: no maximum is subtracted from anything.

    p_i = exp(x_i) / Σ_j exp(x_j)        log p_i = x_i - log Σ_j exp(x_j)
    p_i = exp(x_i) / Σ_{j in T} exp(x_j) for i in T, else 0        loss = log Σ_{j in T} exp(x_j) - x_t

T are the k largest: entry i is of them if fewer than k entries go before it, which the larger ones do, and of the equal ones those to its left.

References: P. Blanchard, D. J. Higham and N. J. Higham, IMA J. Numer. Anal. 41 (2021), eqs. (1.1) to (1.3); J. Su, Scientific Spaces 8046 (2021),
section "Sparse softmax".
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from validation.scalar.numbers import each_row, scalar

__all__ = ["log_softmax", "logsumexp", "softmax", "sparse_softmax", "sparse_softmax_cross_entropy"]

Row = list[Any]


def _total(row: Row) -> Any:
    return mp.fsum(mp.exp(x) for x in row)


def _first(row: Row, k: int) -> list[int]:
    """The places of the k largest entries."""

    def before(j: int, i: int) -> bool:
        return bool(row[j] > row[i]) or (bool(row[j] == row[i]) and j < i)

    return [i for i in range(len(row)) if sum(before(j, i) for j in range(len(row)) if j != i) < k]


@scalar
def softmax(x: Any) -> Any:
    """exp(x_i) / Σ_j exp(x_j)."""

    def of(row: Row) -> Row:
        total = _total(row)
        return [mp.exp(each) / total for each in row]

    return each_row(of, x)


@scalar
def log_softmax(x: Any) -> Any:
    """x_i - log Σ_j exp(x_j)."""

    def of(row: Row) -> Row:
        logarithm = mp.log(_total(row))
        return [each - logarithm for each in row]

    return each_row(of, x)


@scalar
def logsumexp(x: Any) -> Any:
    """The logarithm of Σ_j exp(x_j)."""
    return each_row(lambda row: mp.log(_total(row)), x)


@scalar
def sparse_softmax(x: Any, k: int) -> Any:
    """exp(x_i) / Σ_T exp(x_j) within the k largest, 0 outside."""

    def of(row: Row) -> Row:
        kept = _first(row, k)
        total = _total([row[i] for i in kept])
        return [mp.exp(row[i]) / total if i in kept else mpf(0) for i in range(len(row))]

    return each_row(of, x)


@scalar
def sparse_softmax_cross_entropy(logits: Any, targets: Any, k: int) -> Any:
    """The logarithm of Σ_T exp(s_j), minus s_t."""

    def of(row: Row, target: int) -> Any:
        return mp.log(_total([row[i] for i in _first(row, k)])) - row[target]

    return each_row(of, logits, targets)
