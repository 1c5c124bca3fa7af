"""Real roots of rational polynomials, counted and isolated exactly by Sturm's theorem.

The chain p₀ = p, p₁ = p', p_{k+1} = -rem(p_{k-1}, p_k) has V(a) - V(b) distinct real roots of p in (a, b], V counting sign changes. All arithmetic is
over the integers (each member is scaled by a positive rational, which changes no sign).

Reference: S. Basu, R. Pollack and M.-F. Roy, "Algorithms in real algebraic geometry" (2006), theorem 2.50.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

__all__ = ["count_roots", "derivative", "evaluate", "isolate", "taylor_polynomial"]

Polynomial = tuple[Fraction, ...]  # coefficients, constant first


def taylor_polynomial(order: int) -> Polynomial:
    """The coefficients 1/k! of f_order."""
    return tuple(Fraction(1, math.factorial(k)) for k in range(order + 1))


def derivative(p: Polynomial) -> Polynomial:
    """p'."""
    return tuple(k * c for k, c in enumerate(p))[1:]


def evaluate(p: Polynomial, x: Fraction) -> Fraction:
    """p(x), exactly."""
    return functools.reduce(lambda total, c: total * x + c, reversed(p), Fraction(0))


def _scaled(p: list[Fraction]) -> Polynomial:
    """A positive multiple of p with coprime whole coefficients, leading zeros dropped."""
    while p and p[-1] == 0:
        p.pop()
    if not p:
        return ()
    common = math.lcm(*(c.denominator for c in p))
    whole = [int(c * common) for c in p]
    return tuple(Fraction(c, math.gcd(*whole)) for c in whole)


def _remainder(a: Polynomial, b: Polynomial) -> Polynomial:
    rest = list(a)
    while len(rest) >= len(b):
        factor = rest[-1] / b[-1]
        shift = len(rest) - len(b)
        rest = [c - factor * b[k - shift] if k >= shift else c for k, c in enumerate(rest)][:-1]
    return _scaled(rest)


@functools.cache
def _chain(p: Polynomial) -> tuple[Polynomial, ...]:
    chain = [_scaled(list(p)), _scaled(list(derivative(p)))]
    while len(chain[-1]) > 1:
        rest = _remainder(chain[-2], chain[-1])
        if not rest:
            break
        chain.append(tuple(-c for c in rest))
    return tuple(q for q in chain if q)


def _sign(p: Polynomial, x: Fraction | None, end: int) -> int:
    if x is None:  # ±infinity
        return (1 if p[-1] > 0 else -1) * (end if len(p) % 2 == 0 else 1)
    value = evaluate(p, x)
    return (value > 0) - (value < 0)


def _variations(p: Polynomial, x: Fraction | None, end: int) -> int:
    signs = [sign for q in _chain(p) if (sign := _sign(q, x, end))]
    return sum(a != b for a, b in itertools.pairwise(signs))


def count_roots(p: Polynomial, low: Fraction | None = None, high: Fraction | None = None) -> int:
    """The number of distinct real roots in (low, high]; None stands for minus or plus infinity."""
    return _variations(p, low, -1) - _variations(p, high, 1)


def isolate(p: Polynomial, low: Fraction, high: Fraction, width: Fraction) -> tuple[Fraction, Fraction]:
    """An interval of at most `width` in [low, high] on which p changes sign; p must have opposite signs at its ends."""
    if evaluate(p, low) * evaluate(p, high) >= 0:
        msg = "p must change sign between low and high"
        raise ValueError(msg)
    rising = evaluate(p, high) > 0
    while high - low > width:
        middle = (low + high) / 2
        below = (evaluate(p, middle) < 0) == rising
        low, high = (middle, high) if below else (low, middle)
    return low, high
