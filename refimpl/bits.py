"""Exponents, fractions and bit patterns of floating-point numbers, exactly; and whole numbers without floats.

    |x| = 2^e (1 + f),  e a whole number, 0 <= f < 1                                                              (1)

The array API standard reaches neither exponents nor bits, and floor(log2(x)) is no way around it: just below a power of two the logarithm rounds
up to it. So there is a form for each number system:

* NumPy and CuPy have `frexp` and `ldexp`, which are exact;
* an array of any other library, of float32 or float64, is compared with powers of two, each of which is a number of the dtype, and scaled by them.
  Both are exact, for subnormals too;
* on balls, the exponent is read from both ends of the ball. Where they differ it is undecided, and `UndecidedError` says so.

Bit patterns are reachable in NumPy and CuPy only (`pattern`, `from_pattern`). Whole numbers are handled as uint32 or uint64, where
`leading_one` finds the highest set bit by shifts: no float has 64 bits, and no shift here reaches the width of the type.

References: IEEE Std 754-2019, sections 3.4 and 5.3.3 (scaleB, logB); H. S. Warren, "Hacker's Delight", 2nd ed., section 5-3 (leading zeros).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat

from refimpl.errors import DtypeError, UndecidedError
from refimpl.number_system import Array, check_floating, exact, is_ball, namespace

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FORMATS",
    "Format",
    "below",
    "check_arrays",
    "float_format",
    "from_pattern",
    "leading_one",
    "negative",
    "pattern",
    "scaled",
    "split",
    "whole_part",
]


class Format(NamedTuple):
    """A binary floating-point format: significant bits, and the exponents of its smallest and largest normal numbers.

    The fields of its patterns, and patterns of some numbers, are Python ints, so that the type of the patterns beside them decides.
    """

    digits: int
    lowest: int
    highest: int

    @property
    def width(self) -> int:
        """Bits of a pattern: the sign, the exponent's and those of the fraction."""
        return self.digits + (self.highest + 1).bit_length()

    @property
    def shift(self) -> int:
        """Bits of the fraction, which are the lowest."""
        return self.digits - 1

    @property
    def hidden(self) -> int:
        """The one before the fraction, which patterns do not have: 2^shift, also the smallest normal number."""
        return 1 << self.shift

    @property
    def sign(self) -> int:
        """The sign bit, the highest: -0."""
        return 1 << (self.width - 1)

    @property
    def one(self) -> int:
        """The pattern of 1.0."""
        return self.highest << self.shift

    @property
    def infinity(self) -> int:
        """The pattern of infinity; those between it and the sign bit are NaN."""
        return (2 * self.highest + 1) << self.shift

    @property
    def nan(self) -> int:
        """The positive quiet NaN without a payload."""
        return self.infinity | (self.hidden >> 1)


FORMATS = {
    "float16": Format(11, -14, 15),
    "bfloat16": Format(8, -126, 127),
    "float32": Format(24, -126, 127),
    "float64": Format(53, -1022, 1023),
}
WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NATIVE = ("array_api_compat.numpy", "array_api_compat.cupy")


def check_arrays(where: str, expected: str = "an array", **operands: Any) -> list[str]:
    """The names of the operands' dtypes.

    Raises
    ------
    DtypeError
        for what is no array; for floats and whole numbers that are not of `FORMATS` and `WHOLE`, or of another byte order than the machine's.
    """
    return [_dtype_name(name, x, where, expected) for name, x in operands.items()]


def _dtype_name(name: str, x: Any, where: str, expected: str) -> str:
    where = f"{where}({name})"
    if not array_api_compat.is_array_api_obj(x):
        raise DtypeError(
            f"{name} is no array",
            where=where,
            expected=expected,
            got=type(x).__name__,
            remedy=f"make it one first, for instance xp.asarray({name})",
        )
    dtype = str(x.dtype).rpartition(".")[2]
    if not getattr(x.dtype, "isnative", True):
        raise DtypeError(
            f"{name} is of another byte order than this machine's",
            where=where,
            expected="a native dtype",
            got=dtype,
            remedy=f'convert it first: {name}.astype({name}.dtype.newbyteorder("="))',
        )
    what, known, other = ("width", WHOLE, "int64") if "int" in dtype else ("floating-point format", FORMATS, "float64")
    if ("int" in dtype or "float" in dtype) and dtype not in known:
        raise DtypeError(
            f"{name} is of an unknown {what}",
            where=where,
            expected=", ".join(known),
            got=dtype,
            remedy=f"convert it first, for instance xp.astype({name}, xp.{other})",
        )
    return dtype


def float_format(x: Array) -> Format | None:
    """The format of the numbers in `x`; None for balls, whose exponents have no bounds. Raises DtypeError for anything else."""
    (dtype,) = check_arrays("refimpl.bits", x=x)
    if dtype not in FORMATS:
        check_floating("x", x)
    return FORMATS.get(dtype)


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    """`function` of every ball (and what stands beside it), as an object array."""
    xp = namespace(*arrays)
    return xp.asarray(xp.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)


def _undecided(what: str, ball: Any) -> UndecidedError:
    return UndecidedError(
        f"undecided: {what}",
        where="refimpl.bits",
        expected="a ball on one side of every boundary",
        got=f"a ball around {ball.mid().str(15, radius=False)} of radius {ball.rad().str(3, radius=False)}",
        remedy="compute the inputs with more bits, or give their midpoints",
    )


def _exponent_of_ball(ball: Any) -> int:
    """e with 2^e <= |x| < 2^(e+1) for every x of the ball; 0 for the exact zero."""
    if ball.is_zero():
        return 0
    if not ball.is_finite() or ball.contains(0):
        raise _undecided("the exponent of a number that may be zero or infinite", ball)
    low, high = (sum((int(m).bit_length(), int(e), -1)) for m, e in (ball.abs_lower().man_exp(), _top(ball).man_exp()))
    if low != high:
        raise _undecided("the exponent of a number", ball)
    return low


def _top(ball: Any) -> Any:
    return ball.abs_lower() if ball.is_exact() else ball.abs_upper()


def _split_balls(x: Array) -> tuple[Array, Array]:
    ball_of = type(x.ravel()[0])
    e = _each(_exponent_of_ball, x)
    return e, _each(lambda ball, k: ball * 0 if ball.is_zero() else abs(ball) * ball_of((1, -k)) - 1, x, e)


def _steps(highest: int) -> list[int]:
    """The powers of two below the highest exponent + 1, from the largest: 512, 256, ..., 1 for float64."""
    return [1 << k for k in range(highest.bit_length() - 1, -1, -1)]


def _split_by_comparison(x: Array, fmt: Format) -> tuple[Array, Array]:
    """(1) for positive finite x: scaled into [1, 2) by powers of two. Subnormals need the largest step upwards twice."""
    xp = namespace(x)
    y, e, steps = x, 0 * x, _steps(fmt.highest)
    for s in steps:
        high = y >= 2.0**s
        y, e = xp.where(high, y * 2.0**-s, y), xp.where(high, e + s, e)
    for s in (steps[0], *steps):
        low = y < 2.0 ** (1 - s)
        y, e = xp.where(low, xp.where(low, y, 1.0) * 2.0**s, y), xp.where(low, e - s, e)
    return e, y - 1


def split(x: Array) -> tuple[Array, Array]:  # (...) -> (...), (...)
    """(e, f) with |x| = 2^e (1 + f), 0 <= f < 1, both exact; (0, 0) for zeros, infinities and NaN, which have no such form.

    Parameters
    ----------
    x : array, (...), float32, float64 or balls

    Returns
    -------
    two arrays, (...): the exponents, as whole numbers of the dtype of `x` (Python ints beside balls), and the fractions

    Raises
    ------
    DtypeError
        if `x` is not floating.
    UndecidedError
        if a ball meets two binades, or zero without being it.
    """
    fmt = float_format(x)
    if fmt is None:
        return _split_balls(x)
    xp = namespace(x)
    size = xp.abs(x)
    size = xp.where((size > 0) & xp.isfinite(size), size, 1.0)
    if xp.__name__ not in _NATIVE:
        return _split_by_comparison(size, fmt)
    m, e = xp.frexp(size)  # size = m 2^e, 1/2 <= m < 1
    return xp.astype(e - 1, x.dtype), 2 * m - 1


def _power_of_two(e: Array, fmt: Format) -> Array:
    """2^e for whole e of the format's normal range, by exact products."""
    xp = namespace(e)
    power, left = 0 * e + 1, xp.abs(e)
    for s in _steps(fmt.highest):
        power = xp.where(left >= s, xp.where(e < 0, power * 2.0**-s, power * 2.0**s), power)
        left = xp.where(left >= s, left - s, left)
    return power


def scaled(m: Array, e: Array) -> Array:  # (...), whole (...) -> (...)
    """m 2^e for 1 <= m <= 2, rounded once where it is subnormal or 0, infinity from e = emax + 1 on; exact on balls.

    Parameters
    ----------
    m : array, (...), float32, float64 or balls
    e : whole numbers, (...), as `split` gives them

    Returns
    -------
    array, (...), the dtype of `m`
    """
    xp, fmt = namespace(m), float_format(m)
    if fmt is None:
        return _each(lambda ball, k: ball * type(ball)((1, int(k))), m, e)
    over, lowest = e > fmt.highest, 2.0 * fmt.lowest  # from where on the answer is 0, whatever m is
    k = xp.where(over, 0.0, xp.where(e < lowest, lowest, e))
    if xp.__name__ in _NATIVE:
        number = xp.ldexp(m, xp.astype(k, xp.int32))
    else:
        first = xp.where(k < fmt.lowest, float(fmt.lowest), k)
        number = m * _power_of_two(first, fmt) * _power_of_two(k - first, fmt)  # only the last product may round
    return xp.where(over, xp.inf, number)


def below(x: Array, bound: Any) -> Array:  # (...) -> bool (...)
    """x < bound, for a number exactly representable beside `x`; raises UndecidedError on balls that meet it from both sides."""
    if not is_ball(x):
        return x < bound
    limit = exact(bound, x)

    def decided(ball: Any) -> bool:
        if not (ball < limit or ball >= limit):
            raise _undecided(f"whether a number is below {bound}", ball)
        return bool(ball < limit)

    return namespace(x).astype(_each(decided, x), bool)


def negative(x: Array) -> Array:  # (...) -> bool (...)
    """The sign bit: true for -0, and for NaN as it is; on balls x < 0, decided."""
    return below(x, 0) if is_ball(x) else namespace(x).signbit(x)


def whole_part(x: Array) -> Array:  # (...) -> whole (...)
    """floor(x), as whole numbers of the dtype of `x`, Python ints beside balls; raises UndecidedError on balls of two whole parts."""
    if not is_ball(x):
        return namespace(x).floor(x)

    def decided(ball: Any) -> int:
        whole = ball.floor().unique_fmpz() if ball.is_finite() else None
        if whole is None:
            raise _undecided("the whole part of a number", ball)
        return int(whole)

    return _each(decided, x)


# --- patterns -------------------------------------------------------------------------------------------------------------------


def pattern(x: Array) -> Array:  # float (...) -> uint (...)
    """The bit patterns of floats, as unsigned whole numbers of their width.

    Raises
    ------
    DtypeError
        if `x` is not floating, or its library has no bit patterns: the array API standard has none, nor have balls.
    """
    fmt = float_format(x)
    xp = namespace(x)
    if fmt is None or xp.__name__ not in _NATIVE:
        raise DtypeError(
            "bit patterns are out of reach",
            expected="a NumPy or CuPy array of floats",
            got=f"{x.dtype} of {xp.__name__}",
            remedy="use the arithmetic form, which runs on every array",
        )
    return x.view(getattr(xp, f"uint{fmt.width}"))


def from_pattern(bits: Array, dtype: Any) -> Array:  # uint (...) -> float (...)
    """The floats of `dtype` that have these bit patterns."""
    return bits.view(dtype)


# --- whole numbers ------------------------------------------------------------------------------------------------------------------


def leading_one(n: Array) -> Array:  # uint32 or uint64 (...) -> the same (...)
    """floor(log2(n)), the place of the highest set bit, by five or six comparisons; 0 for n = 0.

    Raises
    ------
    DtypeError
        if `n` is neither of these nor int64, of which numbers from 0 on have an answer.
    """
    (dtype,) = check_arrays("refimpl.bits.leading_one", n=n)
    if dtype not in ("uint32", "uint64", "int64"):
        what, expected = "a highest bit is that of whole numbers of 32 or 64 bits", "uint32 or uint64"
        raise DtypeError(what, where="refimpl.bits.leading_one(n)", expected=expected, got=dtype)
    xp, steps = namespace(n), (16, 8, 4, 2, 1) if dtype == "uint32" else (32, 16, 8, 4, 2, 1)
    place = n * 0
    for s in steps:
        above = n >> s
        place, n = xp.where(above != 0, place + s, place), xp.where(above != 0, above, n)
    return place
