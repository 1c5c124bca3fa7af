"""Mutants of Mitchell's product, quotient, logarithm and power."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

__all__ = ["MUTANTS", "TWINS"]

SHORT = ("float16", "bfloat16", "float32")
BEYOND_BFLOAT16 = ("float16", "float32", "float64")  # for bugs that its eight bits hide
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
    _of_quotient("fractions of four bits", "low-precision", dtypes=BEYOND_BFLOAT16, parts=_truncated),
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

# --- corrected products and square roots ---------------------------------------------------------------------------------------------


def _residues(f: Any, g: Any, carry: Any) -> tuple[Any, Any]:
    return np.where(carry, 1 - f, f), np.where(carry, 1 - g, g)


def _corrected_multiply(
    a: Any,
    b: Any,
    *,
    carried: Any = _carried,
    residues: Any = _residues,
    weight: float = 1.0,
    offset: int = 0,
    sign: Any = _signs,
    again: Any = _carried,
) -> Any:
    """The product, and 2^(e+h) times the product of what it left out."""
    (e, f), (h, g) = _parts(a), _parts(b)
    m, more = carried(f + g)
    (i, u), (j, v) = map(_parts, (rests := residues(f, g, f + g >= 1)))
    n, further = again(u + v)
    rest = np.where((rests[0] == 0) | (rests[1] == 0), 0, np.ldexp(n.astype(a.dtype), i + j + further))
    size = np.ldexp(m.astype(a.dtype), e + h + more) + weight * np.ldexp(rest.astype(a.dtype), e + h + offset)
    return np.where((a == 0) | (b == 0), 0, sign(a, b) * size).astype(a.dtype)


_of_corrected = family("mitchell_corrected", _corrected_multiply)
_CORRECTED = (
    _of_corrected("no correction", "missing-term", weight=0.0),
    _of_corrected("the correction subtracted", "sign", weight=-1.0),
    _of_corrected("half of the correction", "wrong-coefficient", weight=0.5, dtypes=BEYOND_BFLOAT16),
    _of_corrected("twice the correction", "off-by-one", offset=1),
    _of_corrected("fractions for residues after a carry", "carry", residues=lambda f, g, carry: (f, g)),
    _of_corrected("no carry", "carry", carried=lambda s: (1 + s, 0 * s.astype(int))),
    _of_corrected(
        "no carry in the correction", "carry", dtypes=BEYOND_BFLOAT16, again=lambda s: (1 + s, 0 * s.astype(int))
    ),
    _of_corrected(
        "no correction after a carry",
        "missing-term",
        dtypes=BEYOND_BFLOAT16,
        residues=lambda f, g, carry: (np.where(carry, 0, f), np.where(carry, 0, g)),
    ),
    _of_corrected("sign lost", "sign", sign=lambda a, b: 1),
    _of_corrected(
        "exact product", "exact-operation", dtypes=LONG, function=lambda a, b: np.where((a == 0) | (b == 0), 0, a * b)
    ),
    _of_corrected(
        "the correction multiplied exactly",
        "exact-operation",
        dtypes=LONG,
        function=lambda a, b: (
            _multiply(a, b, "ieee")
            + np.where((a == 0) | (b == 0), 0, _signs(a, b))
            * np.ldexp(
                np.prod(_residues(_parts(a)[1], _parts(b)[1], _parts(a)[1] + _parts(b)[1] >= 1), axis=0),
                _parts(a)[0] + _parts(b)[0],
            )
        ),
    ),
    _of_corrected(
        "zero as one",
        "zero-rule",
        function=lambda a, b: _corrected_multiply(np.where(a == 0, 1, a), np.where(b == 0, 1, b)),
    ),
    _of_corrected("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_corrected_multiply)),
    _of_corrected("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_corrected_multiply)),
)


def _raised(
    x: Any, y: Any, product: str, *, times: Any = None, parts: Any = _parts, anti: Any = _exp2, sign: int = 1
) -> Any:
    """2^(y e + y f), the whole parts apart."""
    e, f = parts(x)
    by = times or (lambda a, b: _multiply(a, b, "ieee") if product == "mitchell" else a * b)
    y = sign * y
    first, second = by(y, e.astype(x.dtype)), by(y, f.astype(x.dtype))
    whole = np.floor(first)
    size = anti(((first - whole) + second).astype(x.dtype))
    return np.ldexp(size, np.clip(whole, -4000, 4000).astype(int))


_of_raised = family("mitchell_power", _raised)
_RAISED = (
    _of_raised("exact power", "exact-operation", function=lambda x, y, product: np.power(x, y)),
    _of_raised("exact products throughout", "parameter-ignored", times=lambda a, b: a * b),
    _of_raised("Mitchell's products throughout", "parameter-ignored", times=lambda a, b: _multiply(a, b, "ieee")),
    _of_raised("minus", "sign", sign=-1),
    _of_raised("no fraction", "missing-term", parts=lambda x: (_parts(x)[0], 0 * x)),
    _of_raised("exponent one too large", "off-by-one", parts=lambda x: (_parts(x)[0] + 1, _parts(x)[1])),
    _of_raised("cut off towards zero", "off-by-one", anti=functools.partial(_exp2, whole=np.trunc)),
    _of_raised("no leading one", "missing-term", anti=functools.partial(_exp2, fraction=lambda f: f - 1)),
    _of_raised("operands exchanged", "exchanged", function=lambda x, y, product: _raised(np.abs(y), x, product)),
    _of_raised("exact power of two at the end", "exact-operation", anti=np.exp2),
    _of_raised(
        "exact logarithm",
        "exact-operation",
        function=lambda x, y, product: _exp2(
            (_multiply(y, np.log2(x), "ieee") if product == "mitchell" else y * np.log2(x)).astype(x.dtype)
        ),
    ),
    _of_raised(
        "one product with the whole logarithm",
        "dialect",
        function=lambda x, y, product: _exp2(
            (_multiply(y, _log2(x), "ieee") if product == "mitchell" else y * _log2(x)).astype(x.dtype)
        ),
    ),
    _of_raised("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_raised)),
    _of_raised("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_raised)),
)


def _matmul(a: Any, b: Any, dialect: str, *, product: Any = _multiply, added: Any = None) -> Any:
    terms = product(a[:, :, None], b[None, :, :], dialect).astype(a.dtype)
    return np.sum(terms, axis=1) if added is None else added(terms)


def _in_half(terms: Any, kind: Any = np.float16) -> Any:
    total = np.zeros((terms.shape[0], terms.shape[2]), kind)
    for k in range(terms.shape[1]):
        total = (total.astype(np.float32) + terms[:, k].astype(np.float32)).astype(kind)
    return total.astype(terms.dtype)


_of_matrices = family("mitchell_matmul", _matmul)
_MATRICES = (
    _of_matrices("exact products", "exact-operation", function=lambda a, b, dialect: a @ b),
    _of_matrices(
        "corrected products",
        "exact-operation",
        product=lambda x, y, dialect: _corrected(*np.broadcast_arrays(x, y), dialect),
    ),
    _of_matrices(
        "no carry", "carry", product=functools.partial(_multiply, carried=lambda s: (1 + s, 0 * s.astype(int)))
    ),
    _of_matrices("sign lost", "sign", product=functools.partial(_multiply, sign=lambda a, b: 1)),
    _of_matrices(
        "zero as one",
        "zero-rule",
        product=lambda x, y, dialect: _multiply(np.where(x == 0, 1, x), np.where(y == 0, 1, y), dialect),
    ),
    _of_matrices("the last term left out", "ragged-tail", added=lambda terms: np.sum(terms[:, :-1], axis=1)),
    _of_matrices("the mean of the terms", "wrong-count", added=lambda terms: np.mean(terms, axis=1)),
    _of_matrices("magnitudes added", "sign", added=lambda terms: np.sum(np.abs(terms), axis=1)),
    _of_matrices(
        "added up in bfloat16",
        "low-precision-accumulation",
        dtypes=LONG,
        added=functools.partial(_in_half, kind=ml_dtypes.bfloat16),
    ),
    _of_matrices("added up in float16", "low-precision-accumulation", dtypes=LONG, added=_in_half),
    _of_matrices(
        "the answer read in the other order",
        "transposed",
        function=lambda a, b, dialect: np.resize(_matmul(a, b, dialect).T, (a.shape[0], b.shape[1])),
    ),
    _of_matrices("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_matmul)),
    _of_matrices("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_matmul)),
)


def _square_root(x: Any, *, half: Any = np.floor_divide, fraction: Any = None, scale: Any = np.ldexp) -> Any:
    m, e = np.frexp(x)
    e, f = e - 1, 2 * m - 1
    n = half(e, 2)
    rest = e - 2 * n
    size = scale((1 + (f + rest) / 2 if fraction is None else fraction(f, rest)).astype(x.dtype), n)
    return np.where(x == 0, x, size)


_of_root = family("mitchell_square_root", _square_root)
_ROOTS = (
    _of_root("exact root", "exact-operation", function=np.sqrt),
    _of_root("the exponent cut off", "off-by-one", fraction=lambda f, rest: 1 + f / 2),
    _of_root(
        "exponents halved towards zero",
        "off-by-one",
        half=lambda e, two: (e / two).astype(int),
        fraction=lambda f, rest: 1 + (f + np.abs(rest)) / 2,
    ),
    _of_root("the fraction not halved", "wrong-coefficient", fraction=lambda f, rest: 1 + f + rest / 2),
    _of_root(
        "the odd exponent by a factor of √2",
        "exact-operation",
        fraction=lambda f, rest: (1 + f / 2) * np.where(rest, f.dtype.type(2) ** f.dtype.type(0.5), 1),
    ),
    _of_root("no fraction", "missing-term", fraction=lambda f, rest: 1 + (rest + 0 * f) / 2),
    _of_root("exponent one too large", "off-by-one", scale=lambda m, n: np.ldexp(m, n + 1)),
    _of_root(
        "exponents within 20", "clipped", dtypes=BEYOND_FLOAT16, scale=lambda m, n: np.ldexp(m, np.clip(n, -20, 20))
    ),
    _of_root("the square", "exchanged", function=lambda x: _multiply(x, x, "ieee")),
    _of_root(
        "the reciprocal",
        "exchanged",
        function=lambda x: np.where(x == 0, 0, _divide(np.ones_like(x), _square_root(np.where(x == 0, 1, x)), "ieee")),
    ),
    _of_root("zero as one", "zero-rule", function=lambda x: _square_root(np.where(x == 0, 1, x))),
    _of_root(
        "fractions of four bits",
        "low-precision",
        fraction=lambda f, rest: 1 + (np.floor(16 * f) / 16 + rest) / 2,
        dtypes=BEYOND_BFLOAT16,
    ),
    _of_root("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_square_root)),
    _of_root("answers in float64", "dtype-leak", dtypes=SHORT, entire=leaking(_square_root)),
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

# --- bit patterns ------------------------------------------------------------------------------------------------------------------

_KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def _numbers(pattern: Any, format: str) -> Any:
    """The numbers that patterns stand for, as float64, which has them all."""
    kind = np.dtype(_KINDS[format])
    return pattern.astype(f"uint{8 * kind.itemsize}").view(kind).astype(np.float64)


def _packed(numbers: Any, format: str) -> Any:
    """Their patterns again, rounded once; every NaN as the quiet one."""
    kind = np.dtype(_KINDS[format])
    words = numbers.astype(kind).view(f"uint{8 * kind.itemsize}").astype(np.int64)
    return np.where(np.isnan(numbers), _quiet(format), words)


def _quiet(format: str) -> Any:
    kind = np.dtype(_KINDS[format])
    return np.full((), np.nan, kind).view(f"uint{8 * kind.itemsize}").astype(np.int64) & ~np.int64(
        -1 << (8 * kind.itemsize - 1)
    )


def _ends(format: str) -> tuple[float, int]:
    """The smallest normal number, and the largest exponent."""
    info = ml_dtypes.finfo(_KINDS[format])
    return float(info.smallest_normal), int(info.maxexp) - 1


def _operand(x: Any, format: str, dialect: str) -> Any:
    """Subnormal operands as the dialect has them."""
    return x if dialect == "ieee" else np.where(np.abs(x) < _ends(format)[0], np.copysign(0, x), x)


def _split_number(x: Any, format: str, dialect: str) -> tuple[Any, Any]:
    m, e = np.frexp(np.where(np.isfinite(x) & (x != 0), np.abs(x), 1))
    beyond = np.isinf(x) if dialect == "semimul" else np.zeros(x.shape, bool)
    return np.where(beyond, _ends(format)[1] + 1, e - 1), 2 * m - 1


def _flushed(size: Any, format: str, dialect: str) -> Any:
    return size if dialect == "ieee" else np.where(size < _ends(format)[0], 0, size)


def _before_carry(size: Any, exponent: Any, total: Any, format: str, dialect: str) -> Any:
    if dialect != "semimul":
        return size
    highest = _ends(format)[1]
    size = np.where(exponent > highest, np.inf, np.where((exponent == highest) & (total > 1), np.nan, size))
    return np.where(np.ldexp(1.0, exponent) < _ends(format)[0], 0, size)


def _infinite_product(x: Any, y: Any, dialect: str) -> tuple[Any, Any]:
    """Where the answer is infinity, and where NaN, besides NaN operands."""
    infinite = (np.isinf(x) | np.isinf(y)) & (dialect != "semimul")
    return infinite, infinite & ((x == 0) | (y == 0))


def _sign_bits(x: Any, y: Any, size: Any, dialect: str) -> Any:
    minus = np.signbit(x) ^ np.signbit(y)
    return minus & (size != 0) if dialect == "semimul" else minus


def _nan_operand(x: Any, y: Any) -> Any:
    return np.isnan(x) | np.isnan(y)


def _with_edges(size: Any, infinite: Any, none: Any) -> Any:
    """The size, infinity, or NaN."""
    return np.where(none, np.nan, np.where(infinite, np.inf, size))


def _multiply_patterns(
    a: Any,
    b: Any,
    format: str,
    dialect: str,
    *,
    operand: Any = _operand,
    carried: Any = _carried,
    offset: int = 0,
    flushed: Any = _flushed,
    before: Any = _before_carry,
    infinite: Any = _infinite_product,
    sign: Any = _sign_bits,
    packed: Any = _packed,
    zero: Any = lambda x, y: (x == 0) | (y == 0),
    nan: Any = _nan_operand,
) -> Any:
    """The numbers taken out, multiplied in float64, which holds every step, and packed again."""
    with np.errstate(all="ignore"):
        x, y = (operand(_numbers(n, format), format, dialect) for n in (a, b))
        (e, f), (h, g) = (_split_number(n, format, dialect) for n in (x, y))
        m, more = carried(f + g)
        size = flushed(np.ldexp(m, e + h + more + offset), format, dialect)
        size = np.where(zero(x, y), 0, before(size, e + h, f + g, format, dialect))
        beyond, nothing = infinite(x, y, dialect)
        size = _with_edges(size, beyond, nothing | nan(x, y))
        return packed(np.where(sign(x, y, size, dialect), -size, size), format)


def _added(a: Any, b: Any, format: str, dialect: str) -> Any:
    """The bare sum of patterns, less that of 1, in the format's width."""
    kind = np.dtype(_KINDS[format])
    one = np.ones((), kind).view(f"int{8 * kind.itemsize}").astype(np.int64)
    with np.errstate(over="ignore"):
        total = a.view(np.uint64) + b.view(np.uint64) - one.astype(np.uint64)
    return (total & np.uint64(2 ** (8 * kind.itemsize) - 1)).view(np.int64)


def _with_hidden_one(x: Any, format: str, dialect: str) -> Any:
    """Subnormal numbers read as 2^(emin-1) (1 + F/2^(p-1))."""
    tiny = _ends(format)[0]
    subnormal = (np.abs(x) < tiny) & (x != 0)
    return (
        np.where(subnormal, np.copysign(tiny / 2 + np.abs(x) / 2, x), x)
        if dialect == "ieee"
        else _operand(x, format, dialect)
    )


def _quantum(numbers: Any, format: str) -> Any:
    """The numbers in units of the smallest subnormal one."""
    return numbers / float(ml_dtypes.finfo(_KINDS[format]).smallest_subnormal)


def _packed_towards_zero(numbers: Any, format: str) -> Any:
    small = np.abs(numbers) < _ends(format)[0]
    units = np.trunc(_quantum(np.where(small, numbers, 0), format))
    return _packed(
        np.where(
            small, np.copysign(units * float(ml_dtypes.finfo(_KINDS[format]).smallest_subnormal), numbers), numbers
        ),
        format,
    )


def _packed_ties_away(numbers: Any, format: str) -> Any:
    small = np.abs(numbers) < _ends(format)[0]
    size = np.abs(_quantum(np.where(small, numbers, 0), format))
    units = np.floor(size) + (size - np.floor(size) >= 0.5)
    return _packed(
        np.where(
            small, np.copysign(units * float(ml_dtypes.finfo(_KINDS[format]).smallest_subnormal), numbers), numbers
        ),
        format,
    )


def _saturated(numbers: Any, format: str) -> Any:
    largest = float(ml_dtypes.finfo(_KINDS[format]).max)
    return _packed(np.where(np.isinf(numbers), np.copysign(largest, numbers), numbers), format)


def _of_patterns(component: str, twin: Any) -> Any:
    def of(name: str, flag: str, function: Any = None, **replaced: Any) -> Mutant:
        return Mutant(component, name, flag, function or functools.partial(twin, **replaced))

    return of


def _in_single(numbers: Any, format: str) -> Any:
    return _packed(numbers.astype(np.float32).astype(np.float64), format)


_of_pattern_product = _of_patterns("mitchell_multiply_patterns", _multiply_patterns)
_ON_PATTERNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("exponent one too large", "off-by-one", {"offset": 1}),
    ("exponent one too small", "off-by-one", {"offset": -1}),
    ("sign lost", "sign", {"sign": lambda x, y, size, dialect: np.zeros(size.shape, bool)}),
    ("zeros without sign", "sign", {"sign": lambda x, y, size, dialect: (np.signbit(x) ^ np.signbit(y)) & (size != 0)}),
    (
        "subnormal operands as zero throughout",
        "subnormals",
        {"operand": lambda x, format, dialect: _operand(x, format, "flush")},
    ),
    ("subnormal operands kept throughout", "subnormals", {"operand": lambda x, format, dialect: x}),
    ("subnormal operands with a hidden one", "subnormals", {"operand": _with_hidden_one}),
    (
        "subnormal answers as zero throughout",
        "subnormals",
        {"flushed": lambda size, format, dialect: _flushed(size, format, "flush")},
    ),
    ("subnormal answers kept throughout", "subnormals", {"flushed": lambda size, format, dialect: size}),
    ("subnormal answers rounded towards zero", "rounding", {"packed": _packed_towards_zero}),
    ("subnormal answers with ties away from zero", "rounding", {"packed": _packed_ties_away}),
    ("the largest number for infinity", "clipped", {"packed": _saturated}),
    ("in float32", "low-precision", {"packed": _in_single}),
    ("NaN taken for one", "special-values", {"nan": lambda x, y: np.zeros(np.broadcast(x, y).shape, bool)}),
    (
        "answers as unsigned numbers",
        "dtype-leak",
        {"packed": lambda numbers, format: _packed(numbers, format).astype(np.uint64)},
    ),
)
_PATTERN_PRODUCTS = (
    *(_of_pattern_product(name, flag, **replaced) for name, flag, replaced in _ON_PATTERNS),
    _of_pattern_product("no carry", "carry", carried=lambda s: (1 + s, 0 * s.astype(int))),
    _of_pattern_product("the bare sum of patterns", "wrap-around", _added),
    _of_pattern_product("zero taken for one", "zero-rule", zero=lambda x, y: np.zeros(np.broadcast(x, y).shape, bool)),
    _of_pattern_product(
        "infinity times zero is infinity",
        "special-values",
        infinite=lambda x, y, dialect: (_infinite_product(x, y, dialect)[0], False),
    ),
    _of_pattern_product(
        "infinity is a number throughout",
        "special-values",
        infinite=lambda x, y, dialect: (np.zeros(x.shape, bool), False),
    ),
    _of_pattern_product(
        "the carry looked at throughout", "dialect", before=lambda size, exponent, total, format, dialect: size
    ),
    _of_pattern_product(
        "exact product",
        "exact-operation",
        lambda a, b, format, dialect: _packed(
            _flushed_both_ways(
                np.prod([_operand(_numbers(n, format), format, dialect) for n in (a, b)], axis=0), format, dialect
            ),
            format,
        ),
    ),
)


def _flushed_both_ways(x: Any, format: str, dialect: str) -> Any:
    return np.where(np.abs(_flushed(np.abs(x), format, dialect)) == 0, np.copysign(0, x), x)


def _infinite_quotient(x: Any, y: Any) -> tuple[Any, Any]:
    return np.isinf(x) | (y == 0), (np.isinf(x) & np.isinf(y)) | ((x == 0) & (y == 0))


def _divide_patterns(
    a: Any,
    b: Any,
    format: str,
    dialect: str,
    *,
    operand: Any = _operand,
    borrowed: Any = _borrowed,
    offset: int = 0,
    flushed: Any = _flushed,
    infinite: Any = _infinite_quotient,
    sign: Any = _sign_bits,
    packed: Any = _packed,
    nan: Any = _nan_operand,
) -> Any:
    with np.errstate(all="ignore"):
        x, y = (operand(_numbers(n, format), format, dialect) for n in (a, b))
        (e, f), (h, g) = (_split_number(n, format, dialect) for n in (x, y))
        m, more = borrowed(f - g)
        size = flushed(np.ldexp(m, e - h + more + offset), format, dialect)
        size = np.where((x == 0) | np.isinf(y), 0, size)
        beyond, nothing = infinite(x, y)
        size = _with_edges(size, beyond, nothing | nan(x, y))
        return packed(np.where(sign(x, y, size, dialect), -size, size), format)


_of_pattern_quotient = _of_patterns("mitchell_divide_patterns", _divide_patterns)
_PATTERN_QUOTIENTS = (
    *(_of_pattern_quotient(name, flag, **replaced) for name, flag, replaced in _ON_PATTERNS),
    _of_pattern_quotient("no borrow", "carry", borrowed=lambda d: (1 + d, 0 * d.astype(int))),
    _of_pattern_quotient("the product", "exchanged", _multiply_patterns),
    _of_pattern_quotient(
        "operands exchanged", "exchanged", lambda a, b, format, dialect: _divide_patterns(b, a, format, dialect)
    ),
    _of_pattern_quotient(
        "zero over zero is infinity", "special-values", infinite=lambda x, y: (_infinite_quotient(x, y)[0], False)
    ),
    _of_pattern_quotient(
        "a number over zero is NaN",
        "special-values",
        infinite=lambda x, y: (np.isinf(x), _infinite_quotient(x, y)[1] | (y == 0)),
    ),
    _of_pattern_quotient(
        "exact quotient",
        "exact-operation",
        lambda a, b, format, dialect: _packed(
            _flushed_both_ways(
                np.divide(*(_operand(_numbers(n, format), format, dialect) for n in (a, b))), format, dialect
            ),
            format,
        ),
    ),
)


# --- products of two words ----------------------------------------------------------------------------------------------------------


def _place(n: int) -> int:
    return n.bit_length() - 1


def _rounded_place(n: int) -> int:
    return int(np.floor(np.log2(np.float64(n))))


def _product_of_whole(x: int, y: int, *, place: Any = _place, carry: bool = True) -> int:
    """Mitchell's product of whole numbers, which Python does not bound."""
    if x == 0 or y == 0:
        return 0
    e, h = place(abs(x)), place(abs(y))
    one, rest = 1 << (e + h), ((abs(x) - (1 << e)) << h) + ((abs(y) - (1 << h)) << e)
    size = one + rest if rest < one or not carry else 2 * rest
    return size if (x < 0) == (y < 0) else -size


def _two_words(number: int) -> tuple[int, int]:
    low, high = number & (2**64 - 1), (number >> 64) & (2**64 - 1)
    return high, low


def _multiply_words(a: Any, b: Any, kind: str, *, words: Any = _two_words, read: Any = None, **how: Any) -> Any:
    def number(n: int) -> int:
        return n + 2**64 if kind == "uint64" and n < 0 else n

    pairs = [
        words(_product_of_whole(*map(read or number, pair), **how)) for pair in zip(a.tolist(), b.tolist(), strict=True)
    ]
    return np.array(pairs, np.uint64).T.astype(np.int64)


def _of_words(name: str, flag: str, function: Any = None, **replaced: Any) -> Mutant:
    return Mutant("mitchell_multiply_words", name, flag, function or functools.partial(_multiply_words, **replaced))


def _low_words_alone(number: int) -> tuple[int, int]:
    return 0, number & (2**64 - 1)


def _negated_apart(number: int) -> tuple[int, int]:
    """Both words of the magnitude negated, each by itself."""
    high, low = _two_words(abs(number))
    return ((-high) % 2**64, (-low) % 2**64) if number < 0 else (high, low)


_WORD_PRODUCTS = (
    _of_words("no carry", "carry", carry=False),
    _of_words("the place of the highest bit by a float64 logarithm", "low-precision", place=_rounded_place),
    _of_words("the low word alone", "word-carry", words=_low_words_alone),
    _of_words("both words negated apart", "word-carry", words=_negated_apart),
    _of_words("words exchanged", "exchanged", words=lambda number: _two_words(number)[::-1]),
    _of_words("signed throughout", "sign", read=lambda n: n),
    _of_words("unsigned throughout", "sign", read=lambda n: n % 2**64),
    _of_words(
        "exact product",
        "exact-operation",
        lambda a, b, kind: np.array(
            [
                _two_words((x % 2**64 if kind == "uint64" else x) * (y % 2**64 if kind == "uint64" else y))
                for x, y in zip(a.tolist(), b.tolist(), strict=True)
            ],
            np.uint64,
        ).T.astype(np.int64),
    ),
    _of_words(
        "answers as unsigned numbers", "dtype-leak", lambda a, b, kind: _multiply_words(a, b, kind).astype(np.uint64)
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_PRODUCTS,
    *_QUOTIENTS,
    *_LOGARITHMS,
    *_POWERS,
    *_CORRECTED,
    *_RAISED,
    *_MATRICES,
    *_ROOTS,
    *_WHOLE_PRODUCTS,
    *_WHOLE_QUOTIENTS,
    *_PATTERN_PRODUCTS,
    *_PATTERN_QUOTIENTS,
    *_WORD_PRODUCTS,
)
TWINS = {
    "mitchell_multiply": wide(_multiply),
    "mitchell_divide": wide(_divide),
    "mitchell_log2": wide(_log2),
    "mitchell_exp2": wide(_exp2),
    "mitchell_corrected": wide(_corrected_multiply),
    "mitchell_power": wide(_raised),
    "mitchell_matmul": wide(_matmul),
    "mitchell_square_root": wide(_square_root),
    "mitchell_multiply_integer": _multiply_whole,
    "mitchell_divide_integer": _divide_whole,
    "mitchell_multiply_patterns": _multiply_patterns,
    "mitchell_divide_patterns": _divide_patterns,
    "mitchell_multiply_words": _multiply_words,
}
