"""Mitchell's products, quotients, logarithms and powers as components: their hard places, and the budgets of what is legal.

Their definitions choose: which binade a number is in, whether f + g reaches 1, which whole number is below. On the exact inputs that is decided; on
inputs that are known to a rounding only, numbers at a boundary (powers of two, f + g = 1) have no choice. The functions of both sides of a boundary
meet there, so that rounding may choose either: the budget is that of the piece which the exact inputs choose (`*_chosen`).

Arrays are columns (n, 1), so that one flushed number is allowed for one product and not for each of a row. Inputs and answers are finite, but for
answers that overflow; infinities, NaN and the signs of zeros are judged by the components of bit patterns, whose answers have to be equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import bits, mitchell, mitchell_patterns
from refimpl.bits import FORMATS
from refimpl.number_system import namespace
from validation.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DIALECTS",
    "PRODUCTS",
    "WHOLE",
    "WORDS",
    "corrected_cases",
    "corrected_chosen",
    "divide",
    "divide_cases",
    "divide_chosen",
    "divide_patterns",
    "divide_patterns_cases",
    "divide_whole",
    "divide_whole_cases",
    "exp2_cases",
    "exp2_chosen",
    "log2_cases",
    "log2_chosen",
    "matmul",
    "matmul_cases",
    "matmul_chosen",
    "multiply",
    "multiply_cases",
    "multiply_chosen",
    "multiply_patterns",
    "multiply_patterns_cases",
    "multiply_whole",
    "multiply_whole_cases",
    "multiply_words",
    "multiply_words_cases",
    "power",
    "power_cases",
    "power_chosen",
    "square_root_cases",
    "square_root_chosen",
]

PRODUCTS = ("mitchell", "exact")  # what multiplies an exponent and a logarithm
DIALECTS = ("ieee", "pam")  # those that are defined without a dtype's range
Forms = tuple["Callable[..., Any]", ...]


def multiply(a: Any, b: Any, dialect: str) -> Any:
    """Mitchell's product."""
    return mitchell.multiply(a, b, dialect=dialect)


def divide(a: Any, b: Any, dialect: str) -> Any:
    """Mitchell's quotient."""
    return mitchell.divide(a, b, dialect=dialect)


# --- hard places -----------------------------------------------------------------------------------------------------------------


def _column(values: Any) -> Any:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _ordinary(rng: np.random.Generator, count: int, dtype: str) -> Any:
    """Numbers of both signs over a few binades, away from 0."""
    spread = 3 if dtype == "float16" else 20
    signs = rng.choice([-1.0, 1.0], (count, 1))
    return signs * rng.uniform(1, 2, (count, 1)) * 2.0 ** rng.integers(-spread // 2, spread // 2, (count, 1))


def _far(rng: np.random.Generator, exponent: int, other: int) -> Any:
    """Eight numbers, of these exponents in turn."""
    return _column(rng.uniform(1, 2, (4, 2)) * 2.0 ** np.array([exponent, other]))


def _pairs(rng: np.random.Generator, dtype: str) -> dict[str, tuple[str, Any, Any]]:
    """Pairs that products and quotients share."""
    fmt = FORMATS[dtype]
    ulp = 2.0 ** (1 - fmt.digits)
    k = np.arange(1, 8) / 8
    two = 2.0 ** np.arange(-4, 4)
    far = fmt.highest // 2 - (1 if dtype == "float16" else 8)
    ends = np.array([1, 1 + ulp, 2 - ulp, 2 - 2 * ulp])
    return {
        "ordinary": ("a few binades, both signs", _ordinary(rng, 24, dtype), _ordinary(rng, 24, dtype)),
        "signs": ("all four pairs of signs", _column([1.25, -1.25, 1.25, -1.25]), _column([1.5, 1.5, -1.5, -1.5])),
        "halves": ("f = g = 1/2, where a product errs most", _column(1.5 * two), _column(1.5 * two[::-1] ** 2)),
        "one half": ("f = 0, g = 1/2, where a quotient errs most", _column(two), _column(1.5 * two[::-1])),
        "powers of two": ("f = g = 0: exact", _column(two), _column(-(two**2))),
        "last bits": ("fractions of all ones, and one", _column(np.repeat(ends, 4)), _column(np.tile(ends, 4))),
        "sum of 1": ("f + g = 1 exactly", _column(1 + k), _column((2 - k) * two[:7])),
        "equal fractions": ("f = g: a quotient is a power of two", _column(1 + k), _column((1 + k) * two[:7])),
        "far": ("large by small, and the reverse", _far(rng, far, -far), _far(rng, -far, far // 2)),
        "zeros": (
            "0 by a large number, a small one and an ordinary one",
            _column([0.0, 1.5, -0.0, 1.25 * 2.0 ** (2 * far // 3), 0.0, -1.75]),
            _column([1.5, 1.75, -1.25, 1.5, 1.0, 1.25]),
        ),
    }


def multiply_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Products: beside the pairs, one unit on either side of a carry, underflow, overflow, subnormals, and what "pam" flushes."""
    fmt, pairs = FORMATS[dtype], _pairs(rng, dtype)
    ulp, low, high = 2.0 ** (1 - fmt.digits), 2.0**fmt.lowest, 2.0 ** (fmt.highest // 2)
    k = np.arange(1, 8) / 8
    zero = _column([1.5, 0.0, 1.25, -0.0, 0.0, 1.25 * 2.0 ** (2 * fmt.highest // 3)])
    pairs |= {
        "below 1": ("f + g just below 1", _column(1 + k), _column(2 - k - ulp)),
        "above 1": ("f + g just above 1", _column(1 + k), _column(2 - k + ulp)),
        "zeros": (pairs["zeros"][0], zero[::-1], _column([0.0, 1.75, -1.25, 0.0, 1.5, 1.5])),
        "underflow": (
            "products far below the smallest number beside ordinary ones",
            _column([1.5, 1.25 * low, -1.5 * low, 1.75 * low, 1.75]),
            _column([1.25, 1.5 * low, 1.75 * low, -1.75 * low * 2, -1.5]),
        ),
    }
    if dtype == "float16":
        small = low * np.array([1, 3, 5, 7, 9]) / 1024 * 2.0 ** np.array([0, 3, 5, 6, 1])
        pairs["subnormals"] = (
            "operands below the smallest normal number",
            _column(small),
            _column([1536.0, 7, 9, -11, 13]),
        )
        pairs["subnormal answers"] = ("rounded to a subnormal", _column(1 + k), _column((1 + k[::-1]) * low / 4))
    if dtype != "float64":
        pairs["overflow"] = (
            "products beyond the largest number beside an ordinary one",
            _column([*high * (1 + k), 1.25]),
            _column([*-8 * high * (2 - k), -1.5]),
        )
    cases = [Case(name, hard, (a, b), {"dialect": "ieee"}) for name, (hard, a, b) in pairs.items()]
    return (
        cases
        + [Case("grid", "a column by a row", (_column(1 + k[:4]), _column(1 + k).T), {"dialect": "ieee"})]
        + [
            Case(f"{name}, pam", hard, (a, b), {"dialect": "pam"})
            for name, (hard, a, b) in (_flushed(1.0) | {name: pairs[name] for name in ("ordinary", "sum of 1")}).items()
            if name != "flushed" or dtype != "float16"
        ]
    )


def _flushed(sign: float) -> dict[str, tuple[str, Any, Any]]:
    small = np.array([1.3e-38, 3e-38, 6e-38, 9.4e-38, 1.06e-37, 1.5e-37, 1.0])
    hard = "exact answers below 1e-37, which are 0, and above"
    return {"flushed": (hard, _column(small), _column(np.array([1.0, 1, 1, 1, 1, 0.875, sign])))}


def divide_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Quotients: beside the pairs, one unit on either side of a borrow, underflow, overflow, and what "pam" flushes."""
    fmt, pairs = FORMATS[dtype], _pairs(rng, dtype)
    ulp, high = 2.0 ** (1 - fmt.digits), 2.0 ** (fmt.highest - 2)
    k = np.arange(1, 8) / 8
    pairs |= {
        "borrow": ("f just below g", _column(1 + k), _column(1 + k + ulp)),
        "no borrow": ("f just above g", _column(1 + k + ulp), _column(1 + k)),
        "underflow": (
            "quotients far below the smallest number beside ordinary ones",
            _column([1.5 * high, 1.25 / high, -1.5 / high, 1.75 * high]),
            _column([1.25 * high, 1.5 * high, 1.75 * high, -1.5 * high]),
        ),
    }
    if dtype != "float64":
        pairs["overflow"] = (
            "quotients beyond the largest number beside an ordinary one",
            _column([*high * (1 + k), 1.25]),
            _column([*(2 - k) / -64, -1.5]),
        )
    cases = [Case(name, hard, (a, b), {"dialect": "ieee"}) for name, (hard, a, b) in pairs.items()]
    return cases + [
        Case(f"{name}, pam", hard, (a, b), {"dialect": "pam"})
        for name, (hard, a, b) in (_flushed(-1.0) | {name: pairs[name] for name in ("ordinary", "borrow")}).items()
        if name != "flushed" or dtype != "float16"
    ]


def _every_binade(dtype: str) -> tuple[str, Any]:
    fmt = FORMATS[dtype]
    exponents = np.linspace(fmt.lowest, fmt.highest, 16).round()
    return "from the smallest normal number to the largest", 2.0**exponents * np.resize(1 + np.arange(1, 9) / 16, 16)


def _below_normal(dtype: str) -> dict[str, tuple[str, Any]]:
    """Subnormal numbers of float16; the other dtypes' are not judged."""
    some = np.array([1, 3, 6, 100, 513, 1023]) * 2.0**-24
    return {"subnormals": ("numbers below the smallest normal one", some)} if dtype == "float16" else {}


def log2_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Logarithms: every binade, powers of two and their neighbours, numbers near 1, the largest error."""
    ulp, k = 2.0 ** (1 - FORMATS[dtype].digits), np.arange(1, 9) / 8
    places = {
        "ordinary": ("a few binades", np.abs(_ordinary(rng, 24, dtype))),
        "binades": _every_binade(dtype),
        "powers of two": ("whole numbers, exactly", 2.0 ** np.arange(-8, 8)),
        "below powers of two": ("where floor(log2 x) is one too large", (2 - ulp) * 2.0 ** np.arange(-8, 8)),
        "near 1": ("on both sides of 1: f and f - 1", np.concatenate([1 + 16 * ulp * k, 1 - 16 * ulp * k])),
        "middle": ("f = 1/ln 2 - 1, where it errs most", 1.4426950408889634 * 2.0 ** np.arange(-4, 4)),
    }
    places |= _below_normal(dtype)
    return [Case(name, hard, (_column(x),)) for name, (hard, x) in places.items()]


def exp2_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Powers: both signs, whole numbers and their neighbours, numbers near 0, overflow and underflow."""
    fmt, k = FORMATS[dtype], np.arange(-6, 7)
    near = 2.0 ** (4 - fmt.digits)
    places = {
        "ordinary": ("-8 to 8", rng.uniform(-8, 8, 24)),
        "whole numbers": ("powers of two, exactly", k),
        "below whole numbers": ("the fraction is nearly 1", k - near),
        "above whole numbers": ("the fraction is nearly 0", k + near),
        "halves": ("between two powers of two", k + 0.5),
        "near 0": ("on both sides of 0: x and 1 + x", np.concatenate([2.0**-k, -(2.0**-k)]) * 2.0**-7),
        "far": (
            "towards the smallest and the largest normal numbers",
            [fmt.lowest + 0.25, fmt.lowest, fmt.highest - fmt.highest // 8 - 0.25, 0.75],
        ),
        "underflow": ("far below the smallest number, beside 1", [0.25, 8.0 * fmt.lowest, -0.25]),
    }
    if dtype != "float64":
        places["overflow"] = ("beyond the largest number, beside 1", np.array([1, 1.5, 4, -fmt.highest]) + fmt.highest)
    return [Case(name, hard, (_column(x),)) for name, (hard, x) in places.items()]


def corrected_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Corrected products: the pairs that other products have, both sides of a carry, and where the correction errs most."""
    pairs = _pairs(rng, dtype)
    ulp, k, two = 2.0 ** (1 - FORMATS[dtype].digits), np.arange(1, 8) / 8, 2.0 ** np.arange(-4, 4)
    kept = {name: pairs[name] for name in ("ordinary", "signs", "last bits", "far", "zeros")}
    kept |= {
        "worst": (
            "f = g = 3/8, where it errs most, and 5/8",
            _column(np.repeat([1.375, 1.625], 4) * two),
            _column(np.resize([1.375, 1.625], 8)),
        ),
        "no residue": (
            "f = 0 or g = 0: nothing to correct",
            _column(two),
            _column(np.resize([1.0, 1.375, -1.5, 1.75], 8)),
        ),
        "carries": (
            "f + g one unit on either side of 1, and at it",
            _column(np.resize(1 + k, 21)),
            _column(np.concatenate([2 - k - ulp, 2 - k, 2 - k + ulp])),
        ),
    }
    return [Case(name, hard, (a, b)) for name, (hard, a, b) in kept.items()]


def matmul(a: Any, b: Any, dialect: str) -> Any:
    """Mitchell's matrix product."""
    return mitchell.matmul(a, b, dialect=dialect)


def matmul_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Matrix products: cancellation, zeros, one term, sums so long that fewer bits stand still, underflow of single products."""
    long = 16 if dtype == "bfloat16" else 24
    low = 2.0 ** (FORMATS[dtype].lowest * 3 // 4)
    a, b = rng.normal(size=(4, 9)), rng.normal(size=(9, 3))
    holes = (np.where(rng.random((4, 9)) < 0.4, 0.0, a), np.where(rng.random((9, 3)) < 0.3, -0.0, b))
    places = {
        "ordinary": ("unit normal", a, b),
        "one term": ("k = 1: a column by a row", rng.normal(size=(5, 1)), rng.normal(size=(1, 4))),
        "zeros": ("zeros of both signs in either operand", *holes),
        "long": (
            f"{long} terms of one sign: sums in fewer bits lose some",
            rng.uniform(1, 2, (2, long)),
            rng.uniform(1, 2, (long, 2)),
        ),
        "halves": ("all errors of 1/9, of one sign", np.full((2, 6), 1.5), np.full((6, 2), -3.0)),
        "underflow": (
            "products far below the smallest number beside ordinary ones",
            np.array([[1.5, low], [low, 1.25]]),
            np.array([[1.25, low], [low, 1.75]]),
        ),
    }
    return [Case(name, hard, (x, y), {"dialect": "ieee"}) for name, (hard, x, y) in places.items()] + [
        Case("ordinary, pam", "unit normal", (b.T, a.T), {"dialect": "pam"})
    ]


def power(x: Any, y: Any, product: str) -> Any:
    """Mitchell's power."""
    return mitchell.power(x, y, product=product)


def power_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Powers of positive numbers: both signs of the exponent, squares, cubes, roots and reciprocals, numbers near 1, both ends of the range."""
    fmt = FORMATS[dtype]
    k, many = np.arange(1, 9) / 8, 0.25 * fmt.highest
    spread = 2.0 ** rng.integers(-2, 3, (16, 1))
    places = {
        "ordinary": (
            "a few binades, exponents of both signs",
            spread * rng.uniform(1, 2, (16, 1)),
            rng.uniform(-2, 2, (16, 1)),
        ),
        "small exponents": (
            "squares, cubes, roots, reciprocals",
            np.repeat(1 + k[:6], 6),
            np.tile([2, 3, 0.5, -1, -2, 1.5], 6),
        ),
        "large": (
            "towards both ends of the range",
            np.array([1.25, 2.75, 1.25, 2.75]),
            np.array([1, 0.5, -1, -0.5]) * many,
        ),
        "below 1": (
            "negative logarithms: the whole part is below",
            0.5 + k[:7] / 2,
            np.array([0.75, 1.5, 3, -0.75, -1.5, -3, 2.25]),
        ),
        "near 1": ("large exponents of small logarithms", 1 + 2.0 ** -np.arange(2, 7), 2.0 ** np.arange(1, 6) * 1.25),
    }
    return [
        Case(f"{name}, {product}", hard, (_column(x), _column(y)), {"product": product})
        for product in PRODUCTS
        for name, (hard, x, y) in places.items()
    ]


def square_root_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Square roots: even and odd exponents, every binade, powers of two and their neighbours, the largest error, zeros."""
    ulp = 2.0 ** (1 - FORMATS[dtype].digits)
    places = {
        "ordinary": ("a few binades", np.abs(_ordinary(rng, 24, dtype))),
        "binades": _every_binade(dtype),
        "powers of two": ("exact for even exponents, largest error for odd ones", 2.0 ** np.arange(-8, 8)),
        "below powers of two": ("fractions of all ones: the two pieces meet", (2 - ulp) * 2.0 ** np.arange(-8, 8)),
        "zeros": ("0 of both signs beside other numbers", np.array([0.0, 1.25, -0.0, 3.5])),
    }
    places |= _below_normal(dtype)
    return [Case(name, hard, (_column(x),)) for name, (hard, x) in places.items()]


# --- whole numbers ----------------------------------------------------------------------------------------------------------------

WHOLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32")  # dtypes of operands; their answers are given as int64


def _in(x: Any, kind: str) -> Any:
    xp = namespace(x)
    return xp.astype(x, getattr(xp, kind))


def multiply_whole(a: Any, b: Any, kind: str) -> Any:
    """xy ≈ ± 2^(e+h) (1 + f + g) if f + g < 1, else ± 2^(e+h+1) (f + g): a whole number for whole numbers."""
    return _in(mitchell.multiply(_in(a, kind), _in(b, kind)), "int64")


def divide_whole(a: Any, b: Any, kind: str) -> Any:
    """⌊x/y⌋ ≈ ⌊± 2^(e-h) (1 + f - g)⌋ if f >= g, else ⌊± 2^(e-h-1) (2 + f - g)⌋: the floor of the signed quotient."""
    return _in(mitchell.divide(_in(a, kind), _in(b, kind)), "int64")


def _whole_pairs(rng: np.random.Generator, kind: str) -> dict[str, tuple[str, Any, Any]]:
    """Operands of one dtype, of which products stay below 2^53."""
    info = np.iinfo(kind)
    size = min(info.bits - (info.min < 0), 26)
    low = -(2**size) if info.min < 0 else 0
    signs = np.array([1, -1, 1, 1]) if low else np.array([1])
    powers = 2 ** np.arange(size)
    top = 2**size - 1
    return {
        "ordinary": ("of every length", *(rng.integers(low, top + 1, 24) >> rng.integers(0, size, 24) for _ in "ab")),
        "powers of two": ("exact", powers, np.resize(signs, size) * powers[::-1]),
        "three halves": (
            "f = g = 1/2, where products err most",
            3 * powers[:-1] // 2 + (powers[:-1] == 1),
            3 * powers[-2::-1] // 2 + (powers[-2::-1] == 1),
        ),
        "all ones": (
            "the longest carry, and one less",
            np.array([top, top, top - 1, low + 1]),
            np.array([top, 1, top - 1, top]),
        ),
        "ends": (
            "the ends of the range, and zero",
            np.array([low, top, low, 0, 0, 1]),
            np.array([top, low, 1, top, low, 0]),
        ),
        "below powers of two": (
            "where a rounded logarithm is one too large",
            np.resize(signs, size) * (powers - (powers > 1)),
            powers + powers // 2,
        ),
    }


def multiply_whole_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Products of every width; the same whatever floating dtype is asked for."""
    rng = np.random.default_rng(1962)
    return [
        Case(f"{name}, {kind}", hard, (np.asarray(a, np.int64), np.asarray(b, np.int64)), {"kind": kind})
        for kind in WHOLE
        for name, (hard, a, b) in _whole_pairs(rng, kind).items()
    ]


def divide_whole_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """The same pairs as quotients, divisors of 0 replaced by 3."""
    return [
        Case(case.id, case.hard.replace("products", "quotients"), (a, np.where(b == 0, 3, b)), case.params)
        for case in multiply_whole_cases(rng, dtype)
        for a, b in (case.arrays,)
    ]


WORDS = ("uint64", "int64")  # dtypes of operands; of their products' two words the bits are given as int64


def multiply_words(a: Any, b: Any, kind: str) -> Any:  # int64 (n,), (n,) -> int64 (2, n)
    """xy ≈ ± 2^(e+h) (1 + f + g) if f + g < 1, else ± 2^(e+h+1) (f + g), in two words of 64 bits: first the high ones, then the low ones."""
    high, low = mitchell.multiply(_in(a, kind), _in(b, kind))
    return namespace(a, b).stack([_in(high, "int64"), _in(low, "int64")])


def multiply_words_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Products of 64 bits by 64 bits; the same whatever floating dtype is asked for."""
    rng = np.random.default_rng(1962)
    lengths = [rng.integers(0, 63, 20) for _ in "ab"]
    ends = [0, 1, -1, 2**62, -(2**63), 2**63 - 1, 3 << 61, -(2**62) - 1]
    pairs = np.array([(x, y) for i, x in enumerate(ends) for y in ends[i:]], np.int64).T
    places = {
        "ordinary": ("of every length", *(rng.integers(-(2**63), 2**63, 20) >> length for length in lengths)),
        "below powers of two": (
            "where a logarithm in floats is one too large",
            (1 << np.arange(48, 63)) - 1,
            (1 << np.arange(62, 47, -1)) - 1,
        ),
        "ends": ("the ends of the range, halves, all ones, zero and one", *pairs),
    }
    return [
        Case(f"{name}, {kind}", hard, (np.asarray(a, np.int64), np.asarray(b, np.int64)), {"kind": kind})
        for kind in WORDS
        for name, (hard, a, b) in places.items()
    ]


# --- bit patterns -----------------------------------------------------------------------------------------------------------------


def multiply_patterns(a: Any, b: Any, format: str, dialect: str) -> Any:
    """Mitchell's product of bit patterns."""
    return mitchell_patterns.multiply(a, b, format=format, dialect=dialect)


def divide_patterns(a: Any, b: Any, format: str, dialect: str) -> Any:
    """Mitchell's quotient of bit patterns."""
    return mitchell_patterns.divide(a, b, format=format, dialect=dialect)


def _pattern(signs: Any, fields: Any, fractions: Any, name: str) -> Any:  # whole (n,) three times -> int64 (n,)
    fmt = FORMATS[name]
    words = [
        (int(s) << (fmt.width - 1)) | (int(e) << (fmt.digits - 1)) | int(f)
        for s, e, f in zip(signs, fields, fractions, strict=True)
    ]
    return np.array(words, np.uint64).astype(np.int64)


def _special_patterns(name: str) -> Any:  # -> int64 (10,)
    """0, -0, subnormal numbers and normal ones at the ends, ones of both signs, infinity, NaN."""
    fmt = FORMATS[name]
    ones, top = (1 << (fmt.digits - 1)) - 1, 2 * fmt.highest + 1
    fields = [0, 0, 0, 0, 1, fmt.highest, fmt.highest, top - 1, top, top]
    fractions = [0, 0, 1, ones, 0, 0, (ones + 1) // 2, ones, 0, (ones + 1) // 2]
    return _pattern([0, 1, 1, 0, 0, 0, 1, 0, 0, 0], fields, fractions, name)


def _ties(name: str, sign: int) -> tuple[Any, Any]:  # -> int64 (4,) twice
    """Pairs whose product (sign 1) or quotient (-1) is half-way between two subnormal numbers, the lower one even, odd, even and 0."""
    fmt = FORMATS[name]
    wanted = fmt.lowest - fmt.digits + np.array([3, 3, 3, 0])
    first, eighth = wanted // 2, 1 << (fmt.digits - 4)
    fields = (first - fmt.lowest + 1, sign * (wanted - first) - fmt.lowest + 1)
    x, y = (
        _pattern([0, 1, 0, 0], field, f, name)
        for field, f in zip(fields, (eighth * np.array([1, 3, 5, 0]), np.zeros(4)), strict=True)
    )
    return x, y


def _near_ends(rng: np.random.Generator, name: str, sign: int) -> tuple[Any, Any]:  # -> int64 (26,) twice
    """Pairs whose product (sign 1) or quotient (-1) is near 1, at the largest number, and at the smallest, rounded or not."""
    fmt = FORMATS[name]
    low, high = fmt.lowest, fmt.highest
    below = [low - 2, low - 3, *(low - fmt.digits + j for j in (3, 2, 1, 0, -1))]
    wanted = np.array([*(0,) * 6, *(high - 1, high, high) * 3, *(low + 1, low, low, low - 1), *below])
    count = len(wanted)
    first = np.clip(wanted // 2 + rng.integers(-2, 3, count), low, high)
    second = np.clip(sign * (wanted - first), low, high)
    full = 1 << (fmt.digits - 1)
    eighths = rng.random(count) < 0.5  # fractions of three bits or of all
    fractions = [np.where(eighths, full // 8 * rng.integers(0, 8, count), rng.integers(0, full, count)) for _ in "ab"]
    signs = [rng.integers(0, 2, count) for _ in "ab"]
    x, y = (_pattern(s, e - low + 1, f, name) for s, e, f in zip(signs, (first, second), fractions, strict=True))
    return x, y


def _pattern_cases(sign: int, known: tuple[str, ...]) -> list[Case]:
    """One case for every format and dialect: special patterns with each other, and pairs at the ends of the range."""
    cases = []
    for name in FORMATS:
        special = _special_patterns(name)
        pairs = [(i, j) for i in range(len(special)) for j in range(i if sign > 0 else 0, len(special))]
        near, ties = _near_ends(np.random.default_rng(1962), name, sign), _ties(name, sign)
        chosen = (special[list(side)] for side in zip(*pairs, strict=True))
        a, b = (np.concatenate(parts) for parts in zip(chosen, near, ties, strict=True))
        hard = "zeros, subnormals, ends of the range, infinities and NaN with each other; results at both ends of the range"
        cases += [Case(f"{name}, {dialect}", hard, (a, b), {"format": name, "dialect": dialect}) for dialect in known]
    return cases


def multiply_patterns_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Products in every format and dialect; the same whatever floating dtype is asked for."""
    return _pattern_cases(1, mitchell_patterns.dialects)


def divide_patterns_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Quotients in every format, in the dialects that have them."""
    return _pattern_cases(-1, mitchell_patterns.dialects[:2])


# --- budgets ----------------------------------------------------------------------------------------------------------------------


def _fraction(x: Any, e: Any) -> Any:
    """F with |x| = 2^e (1 + f), for the e that is given."""
    return bits.scaled(np.abs(x), -e) - 1


def multiply_chosen(a: Any, b: Any, dialect: str) -> Forms:
    """(2) on the piece that the exact operands choose."""
    (e, f), (h, g) = bits.split(a), bits.split(b)
    carry, minus = f + g >= 1, np.signbit(a) ^ np.signbit(b)
    zero = (np.abs(a * b) < 1e-37) if dialect == "pam" else (a == 0) | (b == 0)

    def form(x: Any, y: Any, dialect: str) -> Any:
        total = _fraction(x, e) + _fraction(y, h)
        size = bits.scaled(np.where(carry, total, 1 + total), e + h + carry)
        return np.where(zero, size * 0, np.where(minus, -size, size))

    return (form,)


def divide_chosen(a: Any, b: Any, dialect: str) -> Forms:
    """(3) on the piece that the exact operands choose."""
    (e, f), (h, g) = bits.split(a), bits.split(b)
    borrow, minus = f < g, np.signbit(a) ^ np.signbit(b)
    zero = (np.abs(a / b) < 1e-37) if dialect == "pam" else a == 0

    def form(x: Any, y: Any, dialect: str) -> Any:
        gap = _fraction(x, e) - _fraction(y, h)
        size = bits.scaled(np.where(borrow, 2 + gap, 1 + gap), e - h - borrow)
        return np.where(zero, size * 0, np.where(minus, -size, size))

    return (form,)


def log2_chosen(x: Any) -> Forms:
    """The logarithm on the binades of the exact numbers, as e + f and as (e - 1) + (1 + f)."""
    e = bits.split(x)[0]
    return (lambda y: _fraction(y, e) + e, lambda y: bits.scaled(np.abs(y), -e) + (e - 1))


def exp2_chosen(x: Any) -> Forms:
    """The power on the intervals of the exact numbers, its significand as 1 + (x - n) and as x + (1 - n)."""
    whole = np.floor(x)
    return (lambda y: bits.scaled(1 + (y - whole), whole), lambda y: bits.scaled(y + (1 - whole), whole))


def power_chosen(x: Any, y: Any, product: str) -> Forms:
    """The power on the binade, the pieces of both products and the whole part of their sum that the exact operands choose."""
    e, f = bits.split(x)

    def exactly(a: Any, b: Any, dialect: str) -> Any:
        return a * b

    (first,), (second,) = (multiply_chosen(y, z, "ieee") if product == "mitchell" else (exactly,) for z in (e, f))
    whole = np.floor(first(y, e, "ieee"))
    carry = np.floor((first(y, e, "ieee") - whole) + second(y, f, "ieee"))

    def form(base: Any, exponent: Any, product: str) -> Any:
        rest = (first(exponent, e, "ieee") - whole) + second(exponent, _fraction(base, e), "ieee")
        return bits.scaled(1 + (rest - carry), whole + carry)

    return (form,)


def matmul_chosen(a: Any, b: Any, dialect: str) -> Forms:
    """Sums of the products on the pieces that the exact operands choose, from the first to the last and from the last to the first."""
    (product,) = multiply_chosen(a[:, :, None], b[None, :, :], dialect)

    def forwards(x: Any, y: Any, dialect: str) -> Any:
        return np.sum(product(x[:, :, None], y[None, :, :], dialect), axis=1)

    def backwards(x: Any, y: Any, dialect: str) -> Any:
        return np.sum(product(x[:, :, None], y[None, :, :], dialect)[:, ::-1], axis=1)

    return (forwards, backwards)


def _piece(total: Any, carry: Any) -> Any:
    return np.where(carry, total, 1 + total)


def corrected_chosen(a: Any, b: Any) -> Forms:
    """(4) on the pieces that the exact operands choose: of the product, and of the product of what it left out."""
    (e, f), (h, g) = bits.split(a), bits.split(b)
    carry, minus, zero = f + g >= 1, np.signbit(a) ^ np.signbit(b), (a == 0) | (b == 0)
    rests = [np.where(carry, 1 - r, r) for r in (f, g)]
    (i, u), (j, v) = map(bits.split, rests)
    again, nothing = u + v >= 1, (rests[0] == 0) | (rests[1] == 0)

    def form(x: Any, y: Any) -> Any:
        first, second = _fraction(x, e), _fraction(y, h)
        left, right = (np.where(carry, 1 - r, r) for r in (first, second))
        total = bits.scaled(_piece(_fraction(left, i) + _fraction(right, j), again), i + j + again - carry)
        size = bits.scaled(_piece(first + second, carry) + np.where(nothing, 0 * total, total), e + h + carry)
        return np.where(zero, size * 0, np.where(minus, -size, size))

    return (form,)


def square_root_chosen(x: Any) -> Forms:
    """The root on the binades of the exact numbers, as 1 + (f + odd)/2 and as (1 + m)/2 or 1 + m/4 for m = |x|/2^(e - odd)."""
    e = bits.split(x)[0]
    odd = e % 2
    half, zero = (e - odd) / 2, x == 0

    def by_fraction(y: Any) -> Any:
        return np.where(zero, 0 * y, bits.scaled(1 + (_fraction(y, e) + odd) / 2, half))

    def by_significand(y: Any) -> Any:
        m = bits.scaled(np.abs(y), -2 * half)
        return np.where(zero, 0 * y, bits.scaled(np.where(odd == 1, 1 + m / 4, (1 + m) / 2), half))

    return (by_fraction, by_significand)
