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
    "mitchell_corrected",
    "mitchell_divide",
    "mitchell_divide_integer",
    "mitchell_divide_patterns",
    "mitchell_exp2",
    "mitchell_log2",
    "mitchell_matmul",
    "mitchell_multiply",
    "mitchell_multiply_integer",
    "mitchell_multiply_patterns",
    "mitchell_multiply_words",
    "mitchell_power",
    "mitchell_square_root",
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


# --- corrected products and square roots -------------------------------------------------------------------------------------------


@scalar
def mitchell_corrected(a: Any, b: Any) -> Any:
    """The product, and the product of what it leaves out: of the residues, or of the distances to the next powers of two."""

    def rule(x: Any, y: Any) -> Any:
        if x * y == 0:
            return mpf(0)
        (e, m), (h, n) = _halvings(abs(x)), _halvings(abs(y))
        left, right = (m - 1, n - 1) if m + n < 3 else (2 - m, 2 - n)
        rest = mpf(0)
        if left * right != 0:
            (i, u), (j, v) = _halvings(left), _halvings(right)
            rest = _anti(e + h + i + j, u + v - 2)
        return _of_signs(x, y, _anti(e + h, m + n - 2) + rest)

    return _pairwise(rule, a, b)


def _times(x: Any, y: Any) -> Any:
    """The product of two numbers by their logarithms."""
    if x * y == 0:
        return mpf(0)
    (e, m), (h, n) = _halvings(abs(x)), _halvings(abs(y))
    return _of_signs(x, y, _anti(e + h, m + n - 2))


@scalar
def mitchell_power(x: Any, y: Any, product: str) -> Any:
    """The number whose approximate logarithm is that of x, in its two parts, by y."""

    def rule(base: Any, exponent: Any) -> Any:
        e, m = _halvings(base)
        parts = (
            [exponent * e, exponent * (m - 1)]
            if product == "exact"
            else [_times(exponent, mpf(e)), _times(exponent, m - 1)]
        )
        return _anti(0, sum(parts))

    return _pairwise(rule, x, y)


@scalar
def mitchell_matmul(a: Any, b: Any, dialect: str) -> Any:
    """Sums of products, each by its logarithm."""

    def entry(row: list[Any], column: int) -> Any:
        pairs = [
            mitchell_multiply.__wrapped__([x], [other[column]], dialect)[0] for x, other in zip(row, b, strict=True)
        ]
        return sum(pairs, mpf(0))

    return [[entry(row, column) for column in range(len(b[0]))] for row in a]


@scalar
def mitchell_square_root(x: Any) -> Any:
    """The number whose approximate logarithm is half that of x."""

    def rule(value: Any) -> Any:
        if value == 0:
            return mpf(0)
        e, m = _halvings(value)
        return _anti(0, (e + m - 1) / 2)

    return _each(rule, x)


# --- bit patterns and words ----------------------------------------------------------------------------------------------------------

_FORMATS = {
    "float16": (5, 10),
    "bfloat16": (8, 7),
    "float32": (8, 23),
    "float64": (11, 52),
}  # bits of the exponent and of the fraction
_INFINITE, _NAN = "infinite", "no number"


def _meaning(pattern: int, format: str, flush: bool) -> tuple[bool, Any]:
    """Whether the sign bit is set, and the size: a number, or a word."""
    exponents, digits = _FORMATS[format]
    minus, pattern = bool(pattern >> (exponents + digits) & 1), pattern % 2 ** (exponents + digits)
    field, fraction = divmod(pattern, 2**digits)
    if field == 2**exponents - 1:
        return minus, _NAN if fraction else _INFINITE
    if field == 0:
        return minus, mpf(0) if flush else mpf(fraction) * mpf(2) ** (2 - 2 ** (exponents - 1) - digits)
    return minus, (1 + mpf(fraction) / 2**digits) * mpf(2) ** (field - 2 ** (exponents - 1) + 1)


def _pattern_of(minus: bool, size: Any, format: str, flush: bool) -> Any:
    """The pattern of the number of the format that is nearest to the size, of even fraction where two are; what is subnormal is 0 if flushed."""
    exponents, digits = _FORMATS[format]
    top = (2**exponents - 1) * 2**digits
    if size == _NAN:
        return mpf(top + 2 ** (digits - 1))
    code = top
    if size != _INFINITE and size < mpf(2) ** 2 ** (exponents - 1):
        least = 2 - 2 ** (exponents - 1)
        place = max(_halvings(size)[0], least) if size > 0 else least
        units = size / mpf(2) ** (place - digits)
        whole = int(units)
        whole += units - whole > mpf("0.5") or (units - whole == mpf("0.5") and whole % 2 == 1)
        code = 0 if flush and size < mpf(2) ** least else (place - least) * 2**digits + whole
    width = 1 + exponents + digits
    return mpf(code + (minus and (-(2**63) if width == 64 else 2 ** (width - 1))))


def _lost_in_the_carry(e: int, m: Any, h: int, n: Any, format: str) -> Any:
    """What the dialect "semimul" says for exponents that leave the range before the carry: a size, a word, or None for all others."""
    highest = 2 ** (_FORMATS[format][0] - 1) - 1
    if e + h < 1 - highest:
        return mpf(0)
    if e + h > highest:
        return _INFINITE
    return _NAN if e + h == highest and m + n > 3 else None


@scalar
def mitchell_multiply_patterns(a: Any, b: Any, format: str, dialect: str) -> Any:
    """Patterns read as numbers, multiplied, and written again."""
    flush = dialect != "ieee"

    def size(x: Any, y: Any) -> Any:
        if _NAN in (x, y) or (_INFINITE in (x, y) and 0 in (x, y) and dialect != "semimul"):
            return _NAN
        if dialect == "semimul":
            x, y = (mpf(2) ** 2 ** (_FORMATS[format][0] - 1) if z == _INFINITE else z for z in (x, y))
        if 0 in (x, y):
            return mpf(0)
        if _INFINITE in (x, y):
            return _INFINITE
        (e, m), (h, n) = _halvings(x), _halvings(y)
        lost = _lost_in_the_carry(e, m, h, n, format) if dialect == "semimul" else None
        return _anti(e + h, m + n - 2) if lost is None else lost

    def rule(p: int, q: int) -> Any:
        (minus, x), (other, y) = _meaning(p, format, flush), _meaning(q, format, flush)
        answer = size(x, y)
        unsigned = (
            dialect == "semimul" and answer not in (_INFINITE, _NAN) and _pattern_of(False, answer, format, flush) == 0
        )
        return _pattern_of(minus != other and not unsigned, answer, format, flush)

    return [rule(p, q) for p, q in zip(a, b, strict=True)]


@scalar
def mitchell_divide_patterns(a: Any, b: Any, format: str, dialect: str) -> Any:
    """Patterns read as numbers, divided, and written again."""
    flush = dialect == "flush"

    def size(x: Any, y: Any) -> Any:
        if _NAN in (x, y) or x == y == _INFINITE or (x == 0 and y == 0):
            return _NAN
        if x == _INFINITE or y == 0:
            return _INFINITE
        if x == 0 or y == _INFINITE:
            return mpf(0)
        (e, m), (h, n) = _halvings(x), _halvings(y)
        return _anti(e - h, m - n)

    def rule(p: int, q: int) -> Any:
        (minus, x), (other, y) = _meaning(p, format, flush), _meaning(q, format, flush)
        return _pattern_of(minus != other, size(x, y), format, flush)

    return [rule(p, q) for p, q in zip(a, b, strict=True)]


@scalar
def mitchell_multiply_words(a: Any, b: Any, kind: str) -> Any:
    """The product in base 2^64, each digit as the signed number of the same bits."""

    def signed(n: int) -> Any:
        return mpf(n - 2**64 if n >= 2**63 else n)

    products = []
    for x, y in zip(a, b, strict=True):
        x, y = (n % 2**64 if kind == "uint64" else n for n in (x, y))
        products.append(0 if x * y == 0 else int(_whole(x, y, 1)))
    return [[signed(n >> 64 & 2**64 - 1) for n in products], [signed(n & 2**64 - 1) for n in products]]
