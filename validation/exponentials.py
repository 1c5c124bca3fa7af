"""Exact algebra of sums c · exp(a w·x + b w·y + r |x|² + s x·y + t |y|²), and their expectations over w ~ N(0, I).

    E exp(w·z) = exp(z·z/2), for real and for imaginary z = a x + b y (a moment generating function, a characteristic function)

Sums are dictionaries from (a, b, r, s, t) to c. All numbers are complex with parts that are small dyadic fractions, on which Python's complex
arithmetic is exact. Exponentials of different exponents are linearly independent as functions of (|x|², x·y, |y|²), so two expectations are
the same function of x and y, in every dimension, exactly if their dictionaries are equal.
"""

from __future__ import annotations

import cmath
from typing import Any, TypeAlias

__all__ = ["Sum", "difference", "expectation", "exponential", "product", "scaled", "value"]

Key: TypeAlias = "tuple[complex, complex, complex, complex, complex]"
Sum: TypeAlias = "dict[Key, complex]"


def exponential(
    a: complex = 0, b: complex = 0, r: complex = 0, s: complex = 0, t: complex = 0, *, times: complex = 1
) -> Sum:
    """times · exp(a w·x + b w·y + r |x|² + s x·y + t |y|²)."""
    return {(complex(a), complex(b), complex(r), complex(s), complex(t)): complex(times)}


def _collected(terms: list[tuple[Key, complex]]) -> Sum:
    result: Sum = {}
    for key, factor in terms:
        result[key] = result.get(key, 0) + factor
    return {key: factor for key, factor in result.items() if factor != 0}


def product(*factors: Sum) -> Sum:
    """The product of sums, expanded."""
    total = exponential()
    for each in factors:
        total = _collected(
            [
                (tuple(i + j for i, j in zip(left, right, strict=True)), c * d)  # type: ignore[misc]
                for left, c in total.items()
                for right, d in each.items()
            ]
        )
    return total


def scaled(sum_: Sum, factor: complex) -> Sum:
    """factor · sum."""
    return {key: factor * c for key, c in sum_.items()}


def difference(left: Sum, *others: Sum) -> Sum:
    """left - others; the empty dictionary where they are equal."""
    return _collected([*left.items(), *((key, -c) for other in others for key, c in other.items())])


def expectation(sum_: Sum) -> Sum:
    """E over w ~ N(0, I): the exponent a w·x + b w·y becomes (a²|x|² + 2ab x·y + b²|y|²)/2."""
    return _collected([((0j, 0j, r + a * a / 2, s + a * b, t + b * b / 2), c) for (a, b, r, s, t), c in sum_.items()])


def value(sum_: Sum, xx: float, xy: float, yy: float) -> Any:
    """The number that an expectation has at |x|² = xx, x·y = xy, |y|² = yy."""
    return sum(c * cmath.exp(r * xx + s * xy + t * yy) for (_, _, r, s, t), c in sum_.items()).real
