"""Mutants of Mitchell's product, quotient, logarithm and power."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

__all__ = ["MUTANTS", "TWINS"]

SHORT = ("float16", "bfloat16", "float32")
BEYOND_FLOAT16 = ("bfloat16", "float32", "float64")  # dtypes that have 1e-37


# --- products ---------------------------------------------------------------------------------------------------------------------


def _parts(x: Any) -> tuple[Any, Any]:
    """Exponent and fraction of |x|, (-1, -1) for 0."""
    m, e = np.frexp(np.abs(x))
    return e - 1, 2 * m - 1


def _truncated(x: Any) -> tuple[Any, Any]:
    """The fraction cut off after four bits, as narrow hardware does."""
    e, f = _parts(x)
    return e, np.floor(16 * f) / 16


def _pattern_of_zero(x: Any) -> tuple[Any, Any]:
    """Zero as the pattern of zeros: the smallest exponent less one, with a leading one."""
    e, f = _parts(x)
    zero = x == 0
    return np.where(zero, np.finfo(x.dtype).minexp - 1, e), np.where(zero, 0, f).astype(x.dtype)


def _carried(s: Any) -> tuple[Any, Any]:
    """The significand for f + g = s, and what is added to the exponent."""
    carry = s >= 1
    return np.where(carry, s, 1 + s), carry.astype(int)


def _signs(a: Any, b: Any) -> Any:
    return np.where(np.signbit(a) ^ np.signbit(b), -1, 1).astype(a.dtype)


def _is_zero(a: Any, b: Any, dialect: str) -> Any:
    return np.abs(a * b) < 1e-37 if dialect == "pam" else (a == 0) | (b == 0)


def _multiply(
    a: Any,
    b: Any,
    dialect: str,
    *,
    parts: Any = _parts,
    carried: Any = _carried,
    offset: Any = 0,
    sign: Any = _signs,
    zero: Any = _is_zero,
    scale: Any = np.ldexp,
) -> Any:
    (e, f), (h, g) = parts(a), parts(b)
    m, more = carried(f + g)
    return np.where(zero(a, b, dialect), 0, sign(a, b) * scale(m.astype(a.dtype), e + h + more + offset))


def _wrapping(m: Any, e: Any) -> Any:
    """The exponent modulo the number of exponents, as the addition of patterns leaves it."""
    info = np.finfo(m.dtype)
    return np.ldexp(m, (e - info.minexp) % (2 * info.maxexp) + info.minexp)


def _saturating(m: Any, e: Any) -> Any:
    return np.minimum(np.ldexp(m, e), np.finfo(m.dtype).max)


def _through_logarithms(a: Any, b: Any, dialect: str) -> Any:
    """Both logarithms e + f rounded to the dtype, then added."""
    (e, f), (h, g) = _parts(a), _parts(b)
    s = (e + f).astype(a.dtype) + (h + g).astype(a.dtype)
    n = np.floor(s)
    return np.where(_is_zero(a, b, dialect), 0, _signs(a, b) * np.ldexp(1 + (s - n), n.astype(int)))


def _corrected(a: Any, b: Any, dialect: str) -> Any:
    """With Mitchell's correction: what is left out is multiplied too."""
    (e, f), (h, g) = _parts(a), _parts(b)
    carry = f + g >= 1
    rest = np.ldexp(_multiply(np.where(carry, 1 - f, f), np.where(carry, 1 - g, g), "ieee"), e + h)
    return _multiply(a, b, dialect) + np.where(_is_zero(a, b, dialect), 0, _signs(a, b) * rest)


def _at_any_zero(a: Any, b: Any, dialect: str) -> Any:
    """One operand's zero forgotten."""
    return np.abs(a * b) < 1e-37 if dialect == "pam" else a == 0


def _compensated(s: Any) -> tuple[Any, Any]:
    """A constant added to the fraction so that errors are of both signs."""
    return _carried(s + s.dtype.type(0.0430))


_of_product = family("mitchell_multiply", _multiply)
_PRODUCTS = (
    _of_product("no carry", "carry", carried=lambda s: (1 + s, 0 * s.astype(int))),
    _of_product("a leading one beside the carry", "carry", carried=lambda s: (1 + s, (s >= 1).astype(int))),
    _of_product(
        "the carry kept in the fraction only",
        "carry",
        carried=lambda s: (np.where(s >= 1, s, 1 + s), 0 * s.astype(int)),
    ),
    _of_product("always carried", "carry", carried=lambda s: (np.where(s > 0, s, 1), 1 + 0 * s.astype(int))),
    _of_product("exponent one too large", "off-by-one", offset=1),
    _of_product("exponent one too small", "off-by-one", offset=-1),
    _of_product(
        "significands in [1/2, 1) as fractions",
        "off-by-one",
        parts=lambda x: (_parts(x)[0] + 1, np.frexp(np.abs(x))[0]),
    ),
    _of_product("sign lost", "sign", sign=lambda a, b: 1),
    _of_product("sign of the first", "sign", sign=lambda a, b: np.sign(a)),
    _of_product(
        "zero by its pattern",
        "zero-rule",
        dtypes=BEYOND_FLOAT16,
        parts=_pattern_of_zero,
        zero=lambda a, b, dialect: a != a,
    ),
    _of_product(
        "zero as one", "zero-rule", parts=lambda x: _parts(np.where(x == 0, 1, x)), zero=lambda a, b, dialect: a != a
    ),
    _of_product(
        "zero of the first operand only", "zero-rule", parts=lambda x: _parts(np.where(x == 0, 1, x)), zero=_at_any_zero
    ),
    _of_product("exponents that wrap around", "wrap-around", dtypes=LONG, scale=_wrapping),
    _of_product("the largest number for infinity", "clipped", dtypes=("float32",), scale=_saturating),
    _of_product(
        "exact product", "exact-operation", function=lambda a, b, dialect: np.where(_is_zero(a, b, dialect), 0, a * b)
    ),
    _of_product("one correction step", "exact-operation", function=_corrected),
    _of_product("a constant that balances the errors", "dialect", carried=_compensated),
    _of_product("fractions of four bits", "low-precision", parts=_truncated),
    _of_product("through rounded logarithms", "low-precision", dtypes=LONG, function=_through_logarithms),
    _of_product(
        "nothing flushed",
        "parameter-ignored",
        dtypes=BEYOND_FLOAT16,
        function=lambda a, b, dialect: _multiply(a, b, "ieee"),
    ),
    _of_product(
        "products of answers flushed",
        "dialect",
        dtypes=BEYOND_FLOAT16,
        zero=lambda a, b, dialect: (np.abs(a * b) < 2e-37) if dialect == "pam" else (a == 0) | (b == 0),
    ),
    _of_product(
        "the quotient",
        "exchanged",
        function=lambda a, b, dialect: np.where(b == 0, 0, _divide(a, np.where(b == 0, 1, b), dialect)),
    ),
    _of_product(
        "in bfloat16",
        "low-precision",
        dtypes=LONG,
        function=lambda a, b, dialect: in_bfloat16(_multiply(a, b, dialect)),
    ),
    _of_product("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_multiply)),
    _of_product("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_multiply)),
)


# --- quotients ---------------------------------------------------------------------------------------------------------------------


def _borrowed(d: Any) -> tuple[Any, Any]:
    """The significand for f - g = d, and what is added to the exponent."""
    borrow = d < 0
    return np.where(borrow, 2 + d, 1 + d), -borrow.astype(int)


def _no_numerator(a: Any, b: Any, dialect: str) -> Any:
    return np.abs(a / b) < 1e-37 if dialect == "pam" else a == 0


def _divide(
    a: Any,
    b: Any,
    dialect: str,
    *,
    parts: Any = _parts,
    borrowed: Any = _borrowed,
    offset: Any = 0,
    sign: Any = _signs,
    zero: Any = _no_numerator,
    scale: Any = np.ldexp,
) -> Any:
    (e, f), (h, g) = parts(a), parts(b)
    m, more = borrowed(f - g)
    return np.where(zero(a, b, dialect), 0, sign(a, b) * scale(m.astype(a.dtype), e - h + more + offset))


def _by_reciprocal(a: Any, b: Any, dialect: str) -> Any:
    return _multiply(a, 1 / b, dialect)


def _whole_quotients(a: Any, b: Any, dialect: str) -> Any:
    return np.trunc(_divide(a, b, dialect))


_of_quotient = family("mitchell_divide", _divide)
_QUOTIENTS = (
    _of_quotient("no borrow", "carry", borrowed=lambda d: (1 + d, 0 * d.astype(int))),
    _of_quotient("a borrow that leaves the fraction", "carry", borrowed=lambda d: (1 + d, -(d < 0).astype(int))),
    _of_quotient("magnitude of the difference", "carry", borrowed=lambda d: (1 + np.abs(d), 0 * d.astype(int))),
    _of_quotient("exponent one too large", "off-by-one", offset=1),
    _of_quotient("exponent one too small", "off-by-one", offset=-1),
    _of_quotient("sign lost", "sign", sign=lambda a, b: 1),
    _of_quotient("sign of the numerator", "sign", sign=lambda a, b: np.sign(a)),
    _of_quotient(
        "zero by its pattern",
        "zero-rule",
        dtypes=BEYOND_FLOAT16,
        parts=_pattern_of_zero,
        zero=lambda a, b, dialect: a != a,
    ),
    _of_quotient(
        "zero as one", "zero-rule", parts=lambda x: _parts(np.where(x == 0, 1, x)), zero=lambda a, b, dialect: a != a
    ),
    _of_quotient("exponents that wrap around", "wrap-around", dtypes=LONG, scale=_wrapping),
    _of_quotient("the largest number for infinity", "clipped", dtypes=("float32",), scale=_saturating),
    _of_quotient(
        "exact quotient",
        "exact-operation",
        function=lambda a, b, dialect: np.where(_no_numerator(a, b, dialect), 0, a / b),
    ),
    _of_quotient("Mitchell's product with the exact reciprocal", "exact-operation", function=_by_reciprocal),
    _of_quotient(
        "operands exchanged",
        "exchanged",
        function=lambda a, b, dialect: np.where(a == 0, 0, _divide(b, np.where(a == 0, 1, a), dialect)),
    ),
    _of_quotient("the product", "exchanged", function=_multiply),
    _of_quotient("whole quotients", "low-precision", function=_whole_quotients),
    _of_quotient("fractions of four bits", "low-precision", dtypes=("float16", "float32", "float64"), parts=_truncated),
    _of_quotient(
        "nothing flushed",
        "parameter-ignored",
        dtypes=BEYOND_FLOAT16,
        function=lambda a, b, dialect: _divide(a, b, "ieee"),
    ),
    _of_quotient("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_divide)),
    _of_quotient("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_divide)),
)


# --- logarithm and power -------------------------------------------------------------------------------------------------------------


def _log2(x: Any, *, parts: Any = _parts, factor: float = 1.0, constant: float = 0.0) -> Any:
    e, f = parts(x)
    return ((e + f) * factor + constant).astype(x.dtype)


_of_log = family("mitchell_log2", _log2)
_LOGARITHMS = (
    _of_log("exact logarithm", "exact-operation", function=np.log2),
    _of_log("no fraction", "missing-term", parts=lambda x: (_parts(x)[0], 0 * x)),
    _of_log("the leading one kept", "missing-term", parts=lambda x: (_parts(x)[0], 1 + _parts(x)[1])),
    _of_log("exponent one too large", "off-by-one", parts=lambda x: (_parts(x)[0] + 1, _parts(x)[1])),
    _of_log("significands in [1/2, 1) as fractions", "off-by-one", parts=lambda x: np.frexp(x)[::-1]),
    _of_log("natural logarithm", "wrong-base", factor=float(np.log(2))),
    _of_log("a constant that balances the errors", "dialect", constant=0.0430),
    _of_log("minus", "sign", factor=-1.0),
    _of_log(
        "a second-order term",
        "exact-operation",
        parts=lambda x: (_parts(x)[0], _parts(x)[1] * (1 + 0.34 * (1 - _parts(x)[1]))),
    ),
    _of_log("fractions of four bits", "low-precision", parts=_truncated),
    _of_log("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_log2)),
    _of_log("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_log2)),
)


def _exp2(x: Any, *, whole: Any = np.floor, fraction: Any = None, scale: Any = np.ldexp) -> Any:
    near = np.clip(x, -3000, 3000)
    n = whole(near)
    f = near - n
    return scale((1 + (f if fraction is None else fraction(f))).astype(x.dtype), n.astype(int))


_of_power = family("mitchell_exp2", _exp2)
_POWERS = (
    _of_power("exact power", "exact-operation", function=np.exp2),
    _of_power("cut off towards zero", "off-by-one", whole=np.trunc),
    _of_power("the nearest whole number", "off-by-one", whole=np.rint),
    _of_power("exponent one too large", "off-by-one", scale=lambda m, n: np.ldexp(m, n + 1)),
    _of_power("no fraction", "missing-term", fraction=lambda f: 0 * f),
    _of_power("no leading one", "missing-term", fraction=lambda f: f - 1),
    _of_power("base e", "wrong-base", function=lambda x: _exp2(x * x.dtype.type(np.log2(np.e)))),
    _of_power("minus", "sign", function=lambda x: _exp2(-x)),
    _of_power("exponents within 20", "clipped", dtypes=BEYOND_FLOAT16, function=lambda x: _exp2(np.clip(x, -20, 20))),
    _of_power("the largest number for infinity", "clipped", dtypes=("float32",), scale=_saturating),
    _of_power("exponents that wrap around", "wrap-around", dtypes=LONG, scale=_wrapping),
    _of_power("a second-order term", "exact-operation", fraction=lambda f: f - f.dtype.type(0.34) * f * (1 - f)),
    _of_power("fractions of four bits", "low-precision", fraction=lambda f: np.floor(16 * f) / 16),
    _of_power("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_exp2)),
    _of_power("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_exp2)),
)

# --- whole numbers -----------------------------------------------------------------------------------------------------------------


def _length(n: Any) -> Any:
    """The place of the highest bit of n > 0, one bit after another."""
    place = np.zeros_like(n)
    for k in range(1, 63):
        place = np.where(n >> k, k, place)
    return place


def _rounded_length(n: Any) -> Any:
    return np.floor(np.log2(n.astype(np.float32)).astype(np.float32)).astype(np.int64)


def _sum_below(a: Any, b: Any, e: Any, h: Any) -> Any:
    """2^(e+h) (f + g) for the residues of a and b."""
    return ((a - (1 << e)) << h) + ((b - (1 << h)) << e)


def _with_carry(one: Any, rest: Any) -> Any:
    return np.where(rest < one, one + rest, 2 * rest)


def _multiply_whole(
    a: Any, b: Any, kind: str, *, length: Any = _length, join: Any = _with_carry, sign: Any = None
) -> Any:
    x, y = (np.abs(np.where(n == 0, 1, n)) for n in (a, b))
    e, h = length(x), length(y)
    size = join(np.int64(1) << (e + h), _sum_below(x, y, e, h))
    return np.where((a == 0) | (b == 0), 0, size * (np.sign(a) * np.sign(b) if sign is None else sign(a, b)))


def _wrapped(a: Any, b: Any, kind: str) -> Any:
    """In the operands' own width."""
    return _multiply_whole(a, b, kind).astype(kind).astype(np.int64)


def _whole_corrected(a: Any, b: Any, kind: str) -> Any:
    x, y = (np.abs(np.where(n == 0, 1, n)) for n in (a, b))
    e, h = _length(x), _length(y)
    carry = _sum_below(x, y, e, h) >= (np.int64(1) << (e + h))
    rests = [np.where(carry, (2 << k) - n, n - (1 << k)) for n, k in ((x, e), (y, h))]
    return _multiply_whole(a, b, kind) + np.sign(a) * np.sign(b) * _multiply_whole(*rests, kind)


def _of_whole_product(name: str, flag: str, function: Any = None, **replaced: Any) -> Mutant:
    return Mutant("mitchell_multiply_integer", name, flag, function or functools.partial(_multiply_whole, **replaced))


_WHOLE_PRODUCTS = (
    _of_whole_product("no carry", "carry", join=lambda one, rest: one + rest),
    _of_whole_product(
        "a leading one beside the carry",
        "carry",
        join=lambda one, rest: np.where(rest < one, one + rest, one + 2 * rest),
    ),
    _of_whole_product("always carried", "carry", join=lambda one, rest: 2 * rest),
    _of_whole_product("exact product", "exact-operation", lambda a, b, kind: a * b),
    _of_whole_product("one correction step", "exact-operation", _whole_corrected),
    _of_whole_product("wrapped to the operands' width", "wrap-around", _wrapped),
    _of_whole_product("the place of the highest bit by a float32 logarithm", "low-precision", length=_rounded_length),
    _of_whole_product("residues not added", "missing-term", join=lambda one, rest: one),
    _of_whole_product("sign lost", "sign", sign=lambda a, b: 1),
    _of_whole_product(
        "zero as one",
        "zero-rule",
        lambda a, b, kind: _multiply_whole(np.where(a == 0, 1, a), np.where(b == 0, 1, b), kind),
    ),
    _of_whole_product(
        "complement of one for negative numbers",
        "off-by-one",
        lambda a, b, kind: _multiply_whole(a ^ (a >> 63), b ^ (b >> 63), kind) * np.where((a < 0) ^ (b < 0), -1, 1),
    ),
)


def _floor(sign: Any, numerator: Any, shift: Any) -> Any:
    return (sign * numerator) >> shift


def _divide_whole(a: Any, b: Any, kind: str, *, length: Any = _length, join: Any = None, floor: Any = _floor) -> Any:
    """The quotient as a fraction over 2^(2h+1), floored."""
    x, y = np.abs(np.where(a == 0, 1, a)), np.abs(b)
    e, h = length(x), length(y)
    gap = ((x - (1 << e)) << h) - ((y - (1 << h)) << e)  # 2^(e+h) (f - g)
    one = np.int64(1) << (e + h)
    numerator = np.where(gap < 0, 2 * one + gap, 2 * (one + gap)) if join is None else join(one, gap)
    return np.where(a == 0, 0, floor(np.sign(a) * np.sign(b), numerator, 2 * h + 1))


def _of_whole_quotient(name: str, flag: str, function: Any = None, **replaced: Any) -> Mutant:
    return Mutant("mitchell_divide_integer", name, flag, function or functools.partial(_divide_whole, **replaced))


_WHOLE_QUOTIENTS = (
    _of_whole_quotient("no borrow", "carry", join=lambda one, gap: 2 * (one + gap)),
    _of_whole_quotient("magnitude of the difference", "carry", join=lambda one, gap: 2 * (one + np.abs(gap))),
    _of_whole_quotient("cut off towards zero", "sign", floor=lambda sign, n, shift: sign * (n >> shift)),
    _of_whole_quotient(
        "rounded to the nearest",
        "off-by-one",
        floor=lambda sign, n, shift: (2 * sign * n + (1 << shift)) >> (shift + 1),
    ),
    _of_whole_quotient("one too large", "off-by-one", floor=lambda sign, n, shift: ((sign * n) >> shift) + 1),
    _of_whole_quotient("sign lost", "sign", floor=lambda sign, n, shift: n >> shift),
    _of_whole_quotient("exact quotient", "exact-operation", lambda a, b, kind: a // b),
    _of_whole_quotient("powers of two alone", "missing-term", join=lambda one, gap: 2 * one),
    _of_whole_quotient(
        "operands exchanged",
        "exchanged",
        lambda a, b, kind: _divide_whole(np.where(a == 0, 0, b), np.where(a == 0, 1, a), kind),
    ),
    _of_whole_quotient("the product", "exchanged", _multiply_whole),
)

MUTANTS: tuple[Mutant, ...] = _PRODUCTS + _QUOTIENTS + _LOGARITHMS + _POWERS + _WHOLE_PRODUCTS + _WHOLE_QUOTIENTS
TWINS = {
    "mitchell_multiply": wide(_multiply),
    "mitchell_divide": wide(_divide),
    "mitchell_log2": wide(_log2),
    "mitchell_exp2": wide(_exp2),
    "mitchell_multiply_integer": _multiply_whole,
    "mitchell_divide_integer": _divide_whole,
}
