"""Taylor polynomials of exp as sums of powers, the softmax made of them, and attention made of the second, pair by pair.

    f_n(x) = Σ_{k<=n} x^k/k!        p_i = f_n(x_i) / Σ_j f_n(x_j)        o_i = Σ_j f_2(s_ij) v_j / Σ_j f_2(s_ij),   s_ij = q_i·k_j/√d

References: A. de Brébisson and P. Vincent, arXiv 1511.05042, section 3.2; K. Banerjee et al., arXiv 2011.11538, eq. (4); for the attention
A. Katharopoulos et al., arXiv 2006.16236, eq. (3), with f_2 as the similarity. Causal: query i of n sees the keys up to i + m - n.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from validation.scalar.attention import score
from validation.scalar.numbers import depth, dot, each_row, scalar, visible

__all__ = ["exp_taylor", "taylor_attention", "taylor_softmax"]


def _polynomial(x: Any, order: int) -> Any:
    return mp.fsum(x**k / mp.factorial(k) for k in range(order + 1))


@scalar
def exp_taylor(x: Any, order: int) -> Any:
    """Σ_{k<=order} x^k/k! of every number."""
    return each_row(lambda row: [_polynomial(value, order) for value in row], x)


@scalar
def taylor_softmax(x: Any, order: int) -> Any:
    """f_n(x_i) / Σ_j f_n(x_j)."""

    def of(row: list[Any]) -> list[Any]:
        weights = [_polynomial(value, order) for value in row]
        return [weight / mp.fsum(weights) for weight in weights]

    return each_row(of, x)


@scalar
def taylor_attention(q: Any, k: Any, v: Any, causal: bool, mask: Any = None) -> Any:
    """Attention with weights f_2; zeros for a query that sees no key."""

    def heads(q: Any, k: Any, v: Any, place: tuple[int, ...]) -> Any:
        if depth(q) > 2:
            return [heads(*parts, (*place, b)) for b, parts in enumerate(zip(q, k, v, strict=True))]
        return [one(query, i + len(k) - len(q), k, v, place) for i, query in enumerate(q)]

    def one(query: list[Any], last: int, keys: Any, values: Any, place: tuple[int, ...]) -> list[Any]:
        seen = [j for j in range(len(keys)) if visible(mask, *place, j) and (j <= last or not causal)]
        weights = [_polynomial(score(query, keys[j]), 2) for j in seen]
        if not seen:
            return [mpf(0)] * len(values[0])
        return [dot(weights, [values[j][e] for j in seen]) / mp.fsum(weights) for e in range(len(values[0]))]

    return heads(q, k, v, ())
