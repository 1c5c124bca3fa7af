"""Mitchell's product, quotient, logarithm and power, from their formulas.

    x = 2^e (1 + f), 0 <= f < 1        log2 x is e + f        2^z is 2^n (1 + z - n), n <= z < n + 1

The product has the logarithm e + f + h + g, the quotient e + f - h - g. The dialect "pam" answers 0 where the exact product or quotient is below the
double that is written 1e-37.

References: J. N. Mitchell, IRE Trans. Electronic Computers EC-11 (1962); A. Kosson and M. Jaggi, arXiv 2305.17190.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmath import mpf

from validation.scalar.numbers import scalar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "mitchell_divide",
    "mitchell_divide_integer",
    "mitchell_exp2",
    "mitchell_log2",
    "mitchell_multiply",
    "mitchell_multiply_integer",
]


def _halvings(x: Any) -> tuple[int, Any]:
    """How often x > 0 is halved (doubled: negative) until it lies in [1, 2), and what it is then."""
    count = 0
    while x >= 2:
        x, count = x / 2, count + 1
    while x < 1:
        x, count = x * 2, count - 1
    return count, x


def _characteristic(z: Any) -> int:
    """The whole number n with n <= z < n + 1."""
    n = int(z)
    return n - 1 if n > z else n


def _anti(whole: int, z: Any) -> Any:
    """2^(whole + z) by Mitchell's rule; the exponent is apart, so that no digit of z is lost to it."""
    n = _characteristic(z)
    return mpf(2) ** (whole + n) * (1 + z - n)


def _pairwise(rule: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """`rule` of two nested lists; where one has a single entry it stands for all of the other's."""
    if not isinstance(a, list):
        return rule(a, b)
    count = max(len(a), len(b))
    return [_pairwise(rule, a[i if len(a) > 1 else 0], b[i if len(b) > 1 else 0]) for i in range(count)]


def _of_signs(x: Any, y: Any, size: Any) -> Any:
    return size if (x < 0) == (y < 0) else -size


@scalar
def mitchell_multiply(a: Any, b: Any, dialect: str) -> Any:
    """The number whose approximate logarithm is the sum of both."""

    def rule(x: Any, y: Any) -> Any:
        if x * y == 0 or (dialect == "pam" and abs(x * y) < mpf(1e-37)):
            return mpf(0)
        (e, m), (h, n) = _halvings(abs(x)), _halvings(abs(y))
        return _of_signs(x, y, _anti(e + h, m + n - 2))

    return _pairwise(rule, a, b)


@scalar
def mitchell_divide(a: Any, b: Any, dialect: str) -> Any:
    """The number whose approximate logarithm is the difference of both."""

    def rule(x: Any, y: Any) -> Any:
        if x == 0 or (dialect == "pam" and abs(x / y) < mpf(1e-37)):
            return mpf(0)
        (e, m), (h, n) = _halvings(abs(x)), _halvings(abs(y))
        return _of_signs(x, y, _anti(e - h, m - n))

    return _pairwise(rule, a, b)


def _each(rule: Callable[[Any], Any], x: Any) -> Any:
    return [_each(rule, part) for part in x] if isinstance(x, list) else rule(x)


@scalar
def mitchell_log2(x: Any) -> Any:
    """e + f."""
    return _each(lambda value: sum(_halvings(value), -1), x)


@scalar
def mitchell_exp2(x: Any) -> Any:
    """The power of two below, and the straight line to the next."""
    return _each(lambda value: _anti(0, value), x)


def _whole(x: int, y: int, sign: int) -> Any:
    """The product (1) or the quotient (-1) of whole numbers other than 0, before it is floored."""
    (e, m), (h, n) = _halvings(abs(mpf(x))), _halvings(abs(mpf(y)))
    return _of_signs(x, y, _anti(e + sign * h, m + n - 2 if sign == 1 else m - n))


@scalar
def mitchell_multiply_integer(a: Any, b: Any, kind: str) -> Any:
    """The product of whole numbers, which is a whole number."""
    return [mpf(0) if x * y == 0 else _whole(x, y, 1) for x, y in zip(a, b, strict=True)]


@scalar
def mitchell_divide_integer(a: Any, b: Any, kind: str) -> Any:
    """The largest whole number that is not above the quotient."""
    return [mpf(0) if x == 0 else mpf(_characteristic(_whole(x, y, -1))) for x, y in zip(a, b, strict=True)]
