"""Mitchell's arithmetic on IEEE bit patterns, by whole numbers alone: what a circuit does.

A pattern of a format with p significant bits and exponents emin to emax has fields: sign s, exponent E, fraction F of p - 1 bits. It stands for

    (-1)^s 2^(E + emin - 1) (1 + F/2^(p-1)) if 0 < E < 2 emax + 1,     (-1)^s 2^emin F/2^(p-1) if E = 0                          (1)

and, for E = 2 emax + 1, for infinity if F = 0, else for NaN. A subnormal number (E = 0 < F) is normalised first: its leading one is shifted to where
the hidden one of a normal number is. Then with fractions F, G and exponents e, h of |x| and |y|, in units of 2^(1-p),

    xy: the significand 2^(p-1) + F + G and the exponent e + h, or F + G and e + h + 1 where F + G >= 2^(p-1)                     (2)
    x/y: the significand 2^(p-1) + F - G and e - h, or 2^p + F - G and e - h - 1 where F < G                                      (3)

and the answer is composed again: infinity beyond emax; below emin shifted right and rounded to the nearest subnormal, ties to even, or zero. No
float is made. The functions equal `refimpl.mitchell.multiply` and `divide` on the numbers that the patterns stand for, in the dialects "ieee",
"flush" and "semimul", bit for bit, but for NaN: here every NaN is the one positive quiet NaN without a payload. So they are defined wherever an
array library has int64, for float64 too, whose patterns are read as signed (negative for numbers with the sign bit).

References: IEEE Std 754-2019, section 3.4; J. N. Mitchell, IRE Trans. Electronic Computers EC-11 (1962), 512-517.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from refimpl import bits
from refimpl.bits import FORMATS
from refimpl.errors import ConfigError, DtypeError
from refimpl.number_system import Array, check_broadcast, namespace

if TYPE_CHECKING:
    from refimpl.bits import Format

__all__ = ["dialects", "divide", "multiply"]

dialects = ("ieee", "flush", "semimul")  # what they do at the edges: `refimpl.mitchell.dialects`


class _Operand(NamedTuple):
    """A pattern taken apart: sign, exponent, fraction, and what it is; of zeros, infinities and NaN, exponent and fraction mean nothing."""

    minus: Array
    exponent: Array
    fraction: Array
    zero: Array
    infinite: Array
    nan: Array


def _taken_apart(pattern: Array, at: Format, dialect: str) -> _Operand:  # int64 (...)
    xp, width = namespace(pattern), at.width
    minus, size = ((pattern >> (width - 1)) & 1) != 0, pattern & ((1 << (width - 1)) - 1)
    field, fraction = size >> at.shift, size & (at.hidden - 1)
    subnormal = (field == 0) & (fraction != 0)
    place = bits.leading_one(xp.where(subnormal, fraction, 1))
    exponent = xp.where(subnormal, at.lowest - at.shift + place, field + at.lowest - 1)
    fraction = xp.where(subnormal, (fraction << (at.shift - place)) & (at.hidden - 1), fraction)
    zero = (size == 0) if dialect == "ieee" else field == 0
    infinite = (size == at.infinity) & (dialect != "semimul")  # which takes it for 2^(emax+1)
    return _Operand(minus, exponent, fraction, zero, infinite, size > at.infinity)


def _composed(
    significand: Array, exponent: Array, at: Format, dialect: str
) -> Array:  # int64 (...) -> pattern without sign
    """The pattern of significand · 2^(exponent - shift), for a significand that has its leading one at `shift`."""
    xp = namespace(significand)
    normal = ((exponent - at.lowest + 1) << at.shift) + (significand - at.hidden)
    normal = xp.where(exponent > at.highest, at.infinity, normal)
    small = _rounded(significand, at.lowest - exponent, at) if dialect == "ieee" else 0 * significand
    return xp.where(exponent < at.lowest, small, normal)


def _rounded(significand: Array, places: Array, at: Format) -> Array:  # int64 (...) -> int64 (...)
    """significand / 2^places for places >= 1, to the nearest whole number, ties to even; 0 for what is far below."""
    xp = namespace(significand)
    places = xp.where(places < 1, 1, xp.where(places > at.shift + 2, at.shift + 2, places))
    whole, rest = significand >> places, significand & ((1 << places) - 1)
    half = (xp.zeros_like(places) + 1) << (places - 1)
    up = (rest > half) | ((rest == half) & ((whole & 1) != 0))
    return whole + xp.astype(up, xp.int64)


def _answer(size: Array, x: _Operand, y: _Operand, zero: Array, infinite: Array, at: Format, dialect: str) -> Array:
    """The pattern without sign where no edge is met, completed: 0, infinity, NaN, and the sign."""
    xp = namespace(size)
    size = xp.where(infinite, at.infinity, xp.where(zero, 0, size))
    minus = x.minus ^ y.minus
    if dialect == "semimul":
        minus = minus & (size != 0)  # its zeros are positive
    sign = -(2**63) if at.width == 64 else at.sign
    answer = xp.where(minus, size | sign, size)
    return xp.where(x.nan | y.nan | (zero & infinite) | (size == at.nan), at.nan, answer)


def _checked(a: Array, b: Array, format: str, known: tuple[str, ...], dialect: str, where: str) -> Format:
    """The format; raises DtypeError, ShapeError or ConfigError where the arguments are not those of a function on patterns."""
    for name, dtype in zip("ab", bits.check_arrays(where, "an array of int64", a=a, b=b), strict=True):
        if dtype != "int64":
            what = "patterns are given as int64"
            remedy = "the patterns of floats x are x.view(uint16), or of their width, converted to int64"
            raise DtypeError(what, where=f"{where}({name})", expected="int64", got=dtype, remedy=remedy)
    check_broadcast(where, a, b)
    if dialect not in known:
        raise ConfigError("no such dialect on patterns", where=where, expected=", ".join(known), got=repr(dialect))
    if format not in tuple(FORMATS):
        expected, got = ", ".join(FORMATS), repr(format)
        raise ConfigError("unknown floating-point format", where=where, expected=expected, got=got)
    at = FORMATS[format]
    _check_range(at.width, format, f"{where}(a)", a)
    _check_range(at.width, format, f"{where}(b)", b)
    return at


def _check_range(width: int, format: str, where: str, pattern: Array) -> None:
    """Raise ConfigError for numbers that are no patterns of the format; every int64 is one of 64 bits."""
    xp = namespace(pattern)
    if width == 64 or not bool(xp.any((pattern < 0) | (pattern >= 1 << width))):
        return
    least, most = int(xp.min(pattern)), int(xp.max(pattern))
    raise ConfigError(
        f"a number is no pattern of {format}",
        where=where,
        expected=f"0 <= pattern < 2^{width} = {1 << width}",
        got=least if least < 0 else most,
        remedy=f"read patterns as unsigned: x.view(uint{width}), then int64; or name the format that they are of",
    )


def multiply(a: Array, b: Array, *, format: str, dialect: str = "ieee") -> Array:  # int64 (...), (...) -> int64 (...)
    """pattern(xy) ≈ that of 2^(e+h) (1 + f + g) if f + g < 1, else of 2^(e+h+1) (f + g), for |x| = 2^e (1 + f), |y| = 2^h (1 + g).

    Parameters
    ----------
    a, b : int64 (...) that broadcast: bit patterns of the format, from 0 to 2^width - 1; of float64, as signed numbers of the same bits
    format : "float16", "bfloat16", "float32" or "float64"
    dialect : "ieee", "flush" or "semimul", as `refimpl.mitchell.dialects` has them

    Returns
    -------
    int64 (...): the pattern of the product, exactly (2) wherever that is a normal number; every NaN is the positive quiet one without payload

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the patterns are not arrays of int64, do not broadcast, or are beyond the format's width; if there is no such format or dialect.
    """
    at = _checked(a, b, format, dialects, dialect, "refimpl.mitchell_patterns.multiply")
    xp = namespace(a, b)
    x, y = _taken_apart(a, at, dialect), _taken_apart(b, at, dialect)
    total, exponent = x.fraction + y.fraction, x.exponent + y.exponent
    carry = total >= at.hidden
    significand = xp.where(carry, total, total + at.hidden)
    size = _composed(significand, exponent + xp.astype(carry, xp.int64), at, dialect)
    if dialect == "semimul":  # decides before the carry
        lost = (exponent == at.highest) & (total > at.hidden)
        size = xp.where(lost, at.nan, xp.where(exponent < at.lowest, 0, size))
    return _answer(size, x, y, x.zero | y.zero, x.infinite | y.infinite, at, dialect)


def divide(a: Array, b: Array, *, format: str, dialect: str = "ieee") -> Array:  # int64 (...), (...) -> int64 (...)
    """pattern(x/y) ≈ that of 2^(e-h) (1 + f - g) if f >= g, else of 2^(e-h-1) (2 + f - g). Parameters, result and errors as `multiply`.

    `dialect` is "ieee" or "flush": the program behind "semimul" has no quotient. x/0 is infinity, 0/0 and ∞/∞ are NaN.
    """
    at = _checked(a, b, format, dialects[:2], dialect, "refimpl.mitchell_patterns.divide")
    xp = namespace(a, b)
    x, y = _taken_apart(a, at, dialect), _taken_apart(b, at, dialect)
    gap, exponent = x.fraction - y.fraction, x.exponent - y.exponent
    borrow = gap < 0
    significand = xp.where(borrow, gap + 2 * at.hidden, gap + at.hidden)
    size = _composed(significand, exponent - xp.astype(borrow, xp.int64), at, dialect)
    return _answer(size, x, y, x.zero | y.infinite, x.infinite | y.zero, at, dialect)
