"""Mitchell's arithmetic on bit patterns and on words of 64 bits, written out for torch and JAX: array operations on int64.

In another form than the definitions and the NumPy route: a pattern without its sign *is* a logarithm, e + f in units of the last place and above a
bias; that of a subnormal number is found by shifting its leading one into the exponent, below 1. Logarithms are added or subtracted whole, and what
comes out is a pattern again, or is shifted back where its exponent is below 1. Products of words are sums of shifted words with carries by hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["divide", "multiply", "multiply_words"]

_FIELDS = {
    "float16": (5, 10),
    "bfloat16": (8, 7),
    "float32": (8, 23),
    "float64": (11, 52),
}  # bits of exponent and fraction


class _Known(NamedTuple):
    """What is known of an operand: its sign bit, its logarithm, and what it is."""

    minus: Any
    logarithm: Any
    zero: Any
    infinite: Any
    nan: Any


def _exponent(x: Any, xp: Any) -> Any:
    """The place of the highest bit of whole numbers from 1 to 2^63 - 1; 0 for 0."""
    powers = 2 ** xp.arange(63, dtype=xp.int64)
    return xp.sum(xp.astype(x[..., None] >= powers[1:], xp.int64), axis=-1)


def _known(pattern: Any, format: str, dialect: str, xp: Any) -> _Known:
    exponents, digits = _FIELDS[format]
    size = pattern & ((1 << (exponents + digits)) - 1)
    infinity = ((1 << exponents) - 1) << digits
    places = digits - _exponent(xp.where(size >= (1 << digits), xp.zeros_like(size), size), xp)
    subnormal = (size < (1 << digits)) & (size > 0)
    shifted = (size << xp.where(subnormal, places, xp.zeros_like(places))) - (places << digits)
    zero = size == 0 if dialect == "ieee" else size < (1 << digits)
    minus = ((pattern >> (exponents + digits)) & 1) != 0
    return _Known(minus, xp.where(subnormal, shifted, size), zero, size == infinity, size > infinity)


def _back(logarithm: Any, format: str, dialect: str, xp: Any) -> Any:
    """The pattern without sign of a logarithm: infinity, the logarithm itself, or a subnormal number, rounded to even, or 0."""
    exponents, digits = _FIELDS[format]
    infinity, hidden = ((1 << exponents) - 1) << digits, 1 << digits
    zero = xp.zeros_like(logarithm)
    field = logarithm >> digits
    below = xp.where(field > 0, zero + 1, xp.where(field < -digits - 1, zero + digits + 2, 1 - field))
    significand = (logarithm & (hidden - 1)) + hidden
    half = (zero + 1) << (below - 1)
    whole = significand >> below
    rest = significand - (whole << below)
    whole = whole + xp.where((rest > half) | ((rest == half) & (whole % 2 == 1)), zero + 1, zero)
    small = whole if dialect == "ieee" else zero
    return xp.where(field < 1, small, xp.where(logarithm >= infinity, zero + infinity, logarithm))


def _joined(size: Any, x: _Known, y: _Known, nan: Any, format: str, xp: Any, *, positive_zero: bool = False) -> Any:
    exponents, digits = _FIELDS[format]
    width = 1 + exponents + digits
    sign = -(2**63) if width == 64 else 1 << (width - 1)
    minus = x.minus ^ y.minus
    minus = minus & (size != 0) if positive_zero else minus
    quiet = (((1 << exponents) - 1) << digits) | (1 << (digits - 1))
    return xp.where(x.nan | y.nan | nan, quiet + xp.zeros_like(size), xp.where(minus, size | sign, size))


def multiply(a: Any, b: Any, format: str, dialect: str, *, xp: Any) -> Any:  # int64 (n,), (n,) -> int64 (n,)
    """The sum of the logarithms, less that of 1."""
    exponents, digits = _FIELDS[format]
    x, y = _known(a, format, dialect, xp), _known(b, format, dialect, xp)
    bias, hidden = (1 << (exponents - 1)) - 1, 1 << digits
    field, zero = (x.logarithm >> digits) + (y.logarithm >> digits) - bias, xp.zeros_like(x.logarithm + y.logarithm)
    infinity = zero + (2 * bias + 1) * hidden
    total = xp.where(
        field > 2 * bias, infinity, x.logarithm - bias * hidden + y.logarithm
    )  # of float64, more has no room
    size = _back(total, format, dialect, xp)
    if dialect != "semimul":
        size = xp.where(x.infinite | y.infinite, infinity, xp.where(x.zero | y.zero, zero, size))
        return _joined(size, x, y, (x.infinite | y.infinite) & (x.zero | y.zero), format, xp)
    fraction = (x.logarithm & (hidden - 1)) + (y.logarithm & (hidden - 1))
    size = xp.where(field > 2 * bias, infinity, xp.where(field < 1, zero, size))
    gone = x.zero | y.zero
    lost = (field == 2 * bias) & (fraction > hidden) & ~gone
    return _joined(xp.where(gone, zero, size), x, y, lost, format, xp, positive_zero=True)


def divide(a: Any, b: Any, format: str, dialect: str, *, xp: Any) -> Any:  # int64 (n,), (n,) -> int64 (n,)
    """The difference of the logarithms, and that of 1."""
    exponents, digits = _FIELDS[format]
    x, y = _known(a, format, dialect, xp), _known(b, format, dialect, xp)
    bias, hidden = (1 << (exponents - 1)) - 1, 1 << digits
    field, zero = (x.logarithm >> digits) - (y.logarithm >> digits) + bias, xp.zeros_like(x.logarithm - y.logarithm)
    infinity = zero + (2 * bias + 1) * hidden
    total = xp.where(field > 2 * bias + 1, infinity, x.logarithm - (y.logarithm - bias * hidden))
    size = _back(total, format, dialect, xp)
    size = xp.where(x.infinite | y.zero, infinity, xp.where(x.zero | y.infinite, zero, size))
    return _joined(size, x, y, (x.infinite & y.infinite) | (x.zero & y.zero), format, xp)


# --- words -----------------------------------------------------------------------------------------------------------------------


def _shifted(x: Any, places: Any, xp: Any) -> tuple[Any, Any]:
    """x 2^places in two words, for 0 <= x < 2^63 and places from 0 to 63: the high word, and the low one."""
    none = places == 0
    high = x >> xp.where(none, 63 + xp.zeros_like(places), 64 - places)
    return xp.where(none, xp.zeros_like(x), high), x << places


def _unsigned_less(x: Any, y: Any) -> Any:
    return (x ^ -(2**63)) < (y ^ -(2**63))


def _place(x: Any, xp: Any) -> Any:
    """The place of the highest bit of words that are read as unsigned."""
    return xp.where(x < 0, 63 + xp.zeros_like(x), _exponent(xp.where(x < 0, xp.zeros_like(x), x), xp))


def multiply_words(a: Any, b: Any, kind: str, *, xp: Any) -> Any:  # int64 (n,), (n,) -> int64 (2, n)
    """r 2^h + s 2^e in two words, doubled where that has the bit e + h, which else is set."""
    zero = xp.zeros_like(a)
    x, y = (xp.where(n < 0, -n, n) for n in (a, b)) if kind == "int64" else (a, b)
    e, h = _place(x, xp), _place(y, xp)
    r, s = x ^ ((zero + 1) << e), y ^ ((zero + 1) << h)  # without their highest bits
    (high, low), (other, more) = _shifted(r, h, xp), _shifted(s, e, xp)
    total = low + more
    high = high + other + xp.where(_unsigned_less(total, low), zero + 1, zero)
    place = e + h
    upper = place > 63
    bit = (zero + 1) << (place % 64)
    carried = (xp.where(upper, high, total) & bit) != 0
    top = (total >> 63) & 1
    high = xp.where(carried, (high << 1) | top, xp.where(upper, high | bit, high))
    low = xp.where(carried, total << 1, xp.where(upper, total, total | bit))
    minus = ((a < 0) != (b < 0)) & (kind == "int64")
    high = xp.where(minus, xp.where(low == 0, -high, -high - 1), high)
    low = xp.where(minus, -low, low)
    gone = (a == 0) | (b == 0)
    return xp.stack([xp.where(gone, zero, high), xp.where(gone, zero, low)])
