"""Mitchell's arithmetic: products and quotients by adding and subtracting approximate binary logarithms.

    |x| = 2^e (1 + f), |y| = 2^h (1 + g), 0 <= f, g < 1          log2 |x| ≈ e + f          2^z ≈ 2^⌊z⌋ (1 + z - ⌊z⌋)              (1)

    xy ≈ 2^(e+h) (1 + f + g) if f + g < 1, else 2^(e+h+1) (f + g)                                                                (2)
    x/y ≈ 2^(e-h) (1 + f - g) if f >= g, else 2^(e-h-1) (2 + f - g)                                                              (3)
    xy ≈ (2) + 2^(e+h) fg if f + g < 1, else (2) + 2^(e+h) (1 - f)(1 - g), both products by (2)                 corrected once   (4)

(2) and (3) need no rounding: f and g of p-bit numbers are multiples of 2^(1-p), and so are the sums. An answer is therefore *exactly* (2) or (3)
wherever that is a normal number, in every dtype and number system, and is rounded once where it is subnormal. (4) is rounded once, and a second time
where it is subnormal. On floats the fraction of a sum that reaches 1 carries into the exponent, so that (2) is the sum of two bit patterns less that
of 1.0, and (3) the difference plus that of 1.0 (claim MITCHELL-4): `multiply_bits`.

What (2) and (3) do not say are the edges, on which implementations differ. They are arguments with names, and `dialects` has the sets of them that
are in use; see docs/mitchell.md. Whole numbers of 8 to 64 bits have their own form, by shifts: (2) is a whole number there, (3) is floored.

Sums of products are part of the definition: k = 0, 1, ... in this order, beginning with the first product, in float32 (float64 of float64), never
reassociated. So `refimpl.inference.mitchell`, which is fast, gives the bits of `matmul`, in NumPy and on a GPU.

References: J. N. Mitchell, "Computer multiplication and division using binary logarithms", IRE Trans. Electronic Computers EC-11 (1962), 512-517,
eqs. (1) to (4); T. Mogami, "Deep neural network training without multiplications", arXiv 2012.03458 (bit patterns); A. Kosson and M. Jaggi,
"Multiplication-free transformer training via piecewise affine operations", arXiv 2305.17190 (the dialect "pam").
"""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refimpl import bits
from refimpl.bits import FORMATS, Format
from refimpl.errors import ConfigError, DtypeError, IntegerError, ShapeError
from refimpl.number_system import (
    Array,
    broadcasts,
    check_broadcast,
    check_floating,
    exact,
    is_ball,
    namespace,
    rounded_once,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Edges",
    "corrected_multiply",
    "dialects",
    "divide",
    "dot",
    "einsum",
    "exp2_approx",
    "log2_approx",
    "matmul",
    "multiply",
    "multiply_bits",
    "power",
    "square_root",
]


@dataclass(frozen=True)
class Edges:
    """What equations (2) and (3) do not say, by name.

    zeros : an answer of 0 is "signed" as IEEE 754 has it, or "positive"
    subnormals : operands that are subnormal are "kept", count as "zero", or are read as their "pattern" with a leading one, which is
        2^(emin-1) (1 + |x|/2^emin)
    underflow : answers below the smallest normal number are "gradual" (rounded to the nearest subnormal, ties to even), or "zero"; or an answer is
        zero where e + h < emin "before carry", or where the *exact* answer is below "1e-37"
    overflow : answers beyond the largest number are "infinity"; or they are infinity where e + h > emax "before carry", and NaN where only the
        carry overflows and f + g > 1; or they are NaN where the *exact* answer is not below "1e37"
    infinities : an infinite operand, or a division by zero, gives what "ieee" says, or "nan" wherever IEEE says infinity; or an infinite operand
        is the "number" 2^(emax+1)

    NaN operands give NaN. Balls have no smallest or largest exponent: there only "1e-37" and "1e37" take effect.
    """

    zeros: str = "signed"
    subnormals: str = "kept"
    underflow: str = "gradual"
    overflow: str = "infinity"
    infinities: str = "ieee"


_CHOICES = {
    "zeros": ("signed", "positive"),
    "subnormals": ("kept", "zero", "pattern"),
    "underflow": ("gradual", "zero", "before carry", "1e-37"),
    "overflow": ("infinity", "before carry", "1e37"),
    "infinities": ("ieee", "nan", "number"),
}
_OF_PRODUCTS = ("before carry", "number")  # choices that only products have

dialects: dict[str, Edges] = {
    "ieee": Edges(),
    "flush": Edges(subnormals="zero", underflow="zero"),
    "pam": Edges("positive", "pattern", "1e-37", "1e37", "nan"),
    "semimul": Edges("positive", "zero", "before carry", "before carry", "number"),
}


def _edges(dialect: str, given: dict[str, str | None], *, quotient: bool = False) -> Edges:
    """A dialect with the edges that are given in place of its own."""
    if dialect not in tuple(dialects):
        raise ConfigError("unknown dialect of Mitchell's arithmetic", expected=", ".join(dialects), got=repr(dialect))
    edges = dataclasses.replace(
        dialects[dialect], **{name: value for name, value in given.items() if value is not None}
    )
    for name, choices in _CHOICES.items():
        value = getattr(edges, name)
        allowed = [choice for choice in choices if not (quotient and choice in _OF_PRODUCTS)]
        if value not in allowed:
            where = f"{'divide' if quotient else 'multiply'}({name}=), dialect {dialect!r}"
            raise ConfigError("unknown rule at the edges", where=where, expected=", ".join(allowed), got=repr(value))
    return edges


def _is_whole(x: Array) -> bool:
    return "int" in str(x.dtype)


def _check_whole(dialect: str, given: dict[str, str | None]) -> None:
    """Raise ConfigError where whole numbers are given rules: they have no edges, and one form, that of hardware."""
    rules = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if dialect not in ("ieee", "hardware") or rules:
        raise ConfigError(
            "whole numbers have no edges to choose rules for",
            where="refimpl.mitchell",
            expected='the default, or dialect="hardware", which is the same',
            got=", ".join([f"dialect={dialect!r}", *rules]),
        )


def _check_operands(where: str, expected: str = "an array", **operands: Any) -> None:
    """Raise DtypeError unless all are floats of one dtype, balls, or whole numbers of one signedness."""
    names = bits.check_arrays(where, expected, **operands)
    for dtype, (name, x) in zip(names, operands.items(), strict=True):
        if "int" not in dtype and dtype not in FORMATS:
            check_floating(name, x, where)
    if len({name.rstrip("0123456789") if "int" in name else name for name in names}) > 1:
        raise DtypeError(
            "the operands must be of one kind",
            where=where,
            expected="one floating dtype, or signed or unsigned whole numbers of any widths",
            got=" and ".join(names),
            remedy="convert one of them first: which conversion is meant, nobody else can know",
        )


def _check_pairs(where: str, a: Array, b: Array) -> None:
    """`_check_operands`, and ShapeError unless the operands broadcast."""
    _check_operands(where, a=a, b=b)
    check_broadcast(where, a, b)


def _check_number(where: str, x: Array) -> None:
    """Raise DtypeError unless `x` is an array of floats of `FORMATS`, or of balls."""
    bits.check_arrays(where, x=x)
    check_floating("x", x, where)


# --- floats and balls -------------------------------------------------------------------------------------------------------------


def _is_zero(x: Array) -> Array:
    return namespace(x).astype(x == 0, bool) if is_ball(x) else x == 0


def _read(x: Array, edges: Edges, fmt: Format | None) -> tuple[Array, Array, Array]:
    """(e, f, whether it counts as zero) of an operand, by the rules for subnormals and infinities."""
    (e, f), zero = bits.split(x), _is_zero(x)
    if fmt is None:
        return e, f, zero
    xp, size = namespace(x), namespace(x).abs(x)
    subnormal = size < 2.0**fmt.lowest
    if edges.subnormals == "zero":
        zero = subnormal
    elif edges.subnormals == "pattern":
        e = xp.where(subnormal, fmt.lowest - 1.0, e)
        f = xp.where(subnormal, xp.where(subnormal, size, 0.0) * 2.0**-fmt.lowest, f)
    if edges.infinities == "number":
        e = xp.where(xp.isinf(x), fmt.highest + 1.0, e)
    return e, f, zero


def _bound(value: float, like: Array) -> Any:
    """The smallest number of the dtype that is not below `value`: x < value for a float is x < this."""
    fmt = bits.float_format(like)
    if fmt is None:
        return value
    m, e = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(m, fmt.digits)), e - fmt.digits)


def _bounded(size: Array, true: Array | None, edges: Edges) -> Array:
    """`size`, 0 where the exact answer `true` is below 1e-37 and NaN where it is not below 1e37, if those are the rules."""
    xp = namespace(size)
    if edges.underflow == "1e-37":
        size = xp.where(bits.below(true, _bound(1e-37, true)), exact(0.0, size), size)
    if edges.overflow == "1e37":
        size = xp.where(bits.below(true, _bound(1e37, true)), size, exact(math.nan, size))
    return size


def _ranged(size: Array, k: Array, edges: Edges, fmt: Format | None) -> Array:
    """`size`, which has the exponent k, by the dtype's range: 0 below it, if that is the rule, and infinity beyond."""
    if fmt is None:
        return size
    xp = namespace(size)
    if edges.underflow == "zero":
        size = xp.where(k < fmt.lowest, 0.0, size)
    return xp.where(k > fmt.highest, xp.inf, size)


def _before_carry(size: Array, k: Array, total: Array, edges: Edges, fmt: Format | None) -> Array:
    """`size` by the rules that look at k = e + h alone, before f + g = `total` carries."""
    if fmt is None:
        return size
    xp = namespace(size)
    if edges.overflow == "before carry":
        lost = (k == fmt.highest) & (total > 1)
        size = xp.where(k > fmt.highest, xp.inf, xp.where(lost, xp.nan, size))
    return xp.where(k < fmt.lowest, 0.0, size) if edges.underflow == "before carry" else size


def _signed(a: Array, b: Array, size: Array, edges: Edges) -> Array:
    """`size` with the product of the signs, NaN where an operand is."""
    xp = namespace(a, b)
    answer = xp.where(bits.negative(a) ^ bits.negative(b), -size, size)
    if edges.zeros == "positive":
        answer = xp.where(_is_zero(size), exact(0.0, size), answer)
    return answer if is_ball(a) else xp.where(xp.isnan(a) | xp.isnan(b), xp.nan, answer)


def _infinite(x: Array) -> Array:
    xp = namespace(x)
    return xp.zeros(x.shape, dtype=bool) if is_ball(x) else xp.isinf(x)


def _without_infinity(size: Array, zero: Array, infinite: Array, edges: Edges) -> Array:
    """`size`, but 0, infinity, or NaN where both are asked for."""
    xp = namespace(size)
    size = xp.where(zero, exact(0.0, size), size)
    if edges.infinities == "number":
        return size
    size = xp.where(infinite, exact(math.nan if edges.infinities == "nan" else math.inf, size), size)
    return xp.where(zero & infinite, exact(math.nan, size), size)


def _mantissa_of_product(f: Array, g: Array) -> tuple[Array, Array]:
    """(1 + f + g, 0), or (f + g, 1) where that carries: what (2) has in place of (1 + f)(1 + g)."""
    xp, total = namespace(f, g), f + g
    carry = ~bits.below(total, 1)
    return xp.where(carry, total, 1 + total), carry


@rounded_once
def _product(a: Array, b: Array, edges: Edges, fmt: Format | None) -> Array:  # (...), (...) -> (...)
    xp = namespace(a, b)
    (e, f, zero), (h, g, other) = _read(a, edges, fmt), _read(b, edges, fmt)
    m, carry = _mantissa_of_product(f, g)
    k = e + h
    size = _ranged(bits.scaled(m, xp.where(carry, k + 1, k)), xp.where(carry, k + 1, k), edges, fmt)
    size = _before_carry(size, k, f + g, edges, fmt)
    size = _bounded(size, _true_product(a, b) if "1e" in edges.underflow + edges.overflow else None, edges)
    size = _without_infinity(size, zero | other, _infinite(a) | _infinite(b), edges)
    return _signed(a, b, size, edges)


def _true_product(a: Array, b: Array) -> Array:
    """|ab|, rounded as the dtype's product is where that is normal, and infinity where it is 2^emax or more."""
    (e, f), (h, g) = bits.split(a), bits.split(b)
    zero = _is_zero(a) | _is_zero(b)
    return namespace(a, b).where(zero, exact(0.0, f), bits.scaled((1 + f) * (1 + g) / 2, e + h + 1))


@rounded_once
def _quotient(a: Array, b: Array, edges: Edges, fmt: Format | None) -> Array:  # (...), (...) -> (...)
    xp = namespace(a, b)
    (e, f, zero), (h, g, divisor) = _read(a, edges, fmt), _read(b, edges, fmt)
    borrow = bits.below(f - g, 0)
    k = xp.where(borrow, e - h - 1, e - h)
    size = _ranged(bits.scaled(xp.where(borrow, 2 + (f - g), 1 + (f - g)), k), k, edges, fmt)
    size = _bounded(size, _true_quotient(a, b) if "1e" in edges.underflow + edges.overflow else None, edges)
    size = _without_infinity(size, zero | _infinite(b), _infinite(a) | divisor, edges)
    return _signed(a, b, size, edges)


def _true_quotient(a: Array, b: Array) -> Array:
    """|a/b| as `_true_product` has |ab|; what it is for zeros and infinities does not matter."""
    (e, f), (h, g) = bits.split(a), bits.split(b)
    return bits.scaled((1 + f) / (1 + g), e - h)


def multiply(
    a: Array,
    b: Array,
    *,
    dialect: str = "ieee",
    zeros: str | None = None,
    subnormals: str | None = None,
    underflow: str | None = None,
    overflow: str | None = None,
    infinities: str | None = None,
) -> Array:  # (...), (...) -> (...)
    """xy ≈ ± 2^(e+h) (1 + f + g) if f + g < 1, else ± 2^(e+h+1) (f + g), for |x| = 2^e (1 + f), |y| = 2^h (1 + g).

    Parameters
    ----------
    a, b : arrays that broadcast: floats of one dtype, balls, or whole numbers that are all signed or all unsigned
    dialect : which set of rules at the edges, of floats and balls: "ieee", "flush", "pam" or "semimul". Whole numbers have no edges, and one form:
        "hardware", which need not be named
    zeros, subnormals, underflow, overflow, infinities : single rules in place of the dialect's, see `Edges`; of floats and balls

    Returns
    -------
    array, (...): floats and balls as they were given, equation (2) exactly wherever it is a normal number. Of whole numbers, (2) as a whole number
    of twice the width of the wider operand, signed as they are; 64 bits give a pair (high, low) of arrays, the low words uint64

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the operands are not arrays of one kind, do not broadcast, or there is no such dialect or rule.
    UndecidedError
        if balls do not decide an exponent, the carry, or a rule.
    """
    _check_pairs("multiply", a, b)
    given = {"zeros": zeros, "subnormals": subnormals, "underflow": underflow, "overflow": overflow}
    if _is_whole(a):
        _check_whole(dialect, given | {"infinities": infinities})
        return _whole_product(a, b)
    return _product(a, b, _edges(dialect, given | {"infinities": infinities}), bits.float_format(a))


def divide(
    a: Array,
    b: Array,
    *,
    dialect: str = "ieee",
    zeros: str | None = None,
    subnormals: str | None = None,
    underflow: str | None = None,
    overflow: str | None = None,
    infinities: str | None = None,
) -> Array:  # (...), (...) -> (...)
    """x/y ≈ ± 2^(e-h) (1 + f - g) if f >= g, else ± 2^(e-h-1) (2 + f - g); of whole numbers, the floor of that.

    Parameters
    ----------
    a, b : as for `multiply`
    dialect : "ieee", "flush" or "pam" (which flushes and gives NaN by the exact quotient)
    zeros, subnormals, underflow, overflow, infinities : as for `multiply`; rules of the carry are not for quotients

    Returns
    -------
    array, (...): floats and balls as they were given, equation (3) exactly wherever it is a normal number. Of whole numbers, the largest whole
    number that is not above (3) with its sign, in the wider of the operands' dtypes

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as `multiply`.
    IntegerError
        if a whole divisor is 0, or the most negative number is divided by -1.
    """
    _check_pairs("divide", a, b)
    given = {"zeros": zeros, "subnormals": subnormals, "underflow": underflow, "overflow": overflow}
    if _is_whole(a):
        _check_whole(dialect, given | {"infinities": infinities})
        return _whole_quotient(a, b)
    return _quotient(a, b, _edges(dialect, given | {"infinities": infinities}, quotient=True), bits.float_format(a))


def corrected_multiply(a: Array, b: Array) -> Array:  # (...), (...) -> (...)
    """xy ≈ P(x, y) + 2^(e+h) P(f, g) if f + g < 1, else P(x, y) + 2^(e+h) P(1 - f, 1 - g), where P is `multiply`: one correction step.

    Parameters
    ----------
    a, b : as for `multiply`

    Returns
    -------
    array, (...), as `multiply` returns it. It never exceeds the exact product, and falls short by at most 1/121 of it (claim MITCHELL-7), but for
    the rounding of floats. Edges are those of "ieee"

    Raises
    ------
    DtypeError, ShapeError, UndecidedError
        as `multiply`; DtypeError for whole numbers of 64 bits too, which would need sums of two words.
    """
    _check_pairs("corrected_multiply", a, b)
    return _corrected_whole(a, b) if _is_whole(a) else _corrected(a, b, dialects["ieee"], bits.float_format(a))


@rounded_once
def _corrected(a: Array, b: Array, edges: Edges, fmt: Format | None) -> Array:  # (...), (...) -> (...)
    xp = namespace(a, b)
    (e, f, zero), (h, g, other) = _read(a, edges, fmt), _read(b, edges, fmt)
    m, carry = _mantissa_of_product(f, g)
    rest = _product(xp.where(carry, 1 - f, f), xp.where(carry, 1 - g, g), edges, None)
    m, k = m + xp.where(carry, rest / 2, rest), xp.where(carry, e + h + 1, e + h)
    two = ~bits.below(m, 2)
    size = bits.scaled(xp.where(two, m / 2, m), xp.where(two, k + 1, k))
    size = _without_infinity(size, zero | other, _infinite(a) | _infinite(b), edges)
    return _signed(a, b, size, edges)


# --- logarithm and power of two ----------------------------------------------------------------------------------------------------


@rounded_once
def log2_approx(x: Array) -> Array:  # (...) -> (...)
    """log2 x ≈ e + f for x = 2^e (1 + f), 0 <= f < 1: exact at powers of two, never above the logarithm, and continuous.

    Parameters
    ----------
    x : array, (...), floats or balls

    Returns
    -------
    array, (...), the dtype of `x`: e + f rounded once, which may carry it above the logarithm by less than a rounding; -infinity at 0, NaN below,
    infinity at infinity

    Raises
    ------
    DtypeError, UndecidedError
        if `x` is not floating; if a ball does not decide its exponent.
    """
    _check_number("log2_approx", x)
    xp, (e, f), zero = namespace(x), bits.split(x), _is_zero(x)
    answer = xp.where(zero, exact(-math.inf, x), e + f)
    answer = xp.where(bits.negative(x) & ~zero, exact(math.nan, x), answer)
    return answer if is_ball(x) else xp.where(xp.isnan(x), x, xp.where(x == xp.inf, x, answer))


@rounded_once
def exp2_approx(x: Array) -> Array:  # (...) -> (...)
    """2^x ≈ 2^⌊x⌋ (1 + x - ⌊x⌋): exact at whole numbers, never below the power, and the inverse of `log2_approx`.

    Parameters
    ----------
    x : array, (...), floats or balls

    Returns
    -------
    array, (...), the dtype of `x`, rounded once, which may carry it below the power by less than a rounding; infinity from emax + 1 on, 0 where it
    underflows

    Raises
    ------
    DtypeError, UndecidedError
        if `x` is not floating; if a ball does not decide its whole part.
    """
    _check_number("exp2_approx", x)
    xp, fmt = namespace(x), bits.float_format(x)
    if fmt is None:
        whole = bits.whole_part(x)
        return bits.scaled(1 + (x - whole), whole)
    near = xp.minimum(xp.maximum(x, 2.0 * fmt.lowest), fmt.highest + 1.0)  # NaN stays
    near = xp.where(xp.isnan(x), 0.0, near)
    whole = bits.whole_part(near)
    return xp.where(xp.isnan(x), x, bits.scaled(near - (whole - 1), whole))  # 1 + x - ⌊x⌋ with one rounding


@rounded_once
def square_root(x: Array) -> Array:  # (...) -> (...)
    """√x ≈ 2^(e/2) (1 + f/2) for even e, 2^((e-1)/2) (1 + (1 + f)/2) for odd e: the power of half the logarithm, for x = 2^e (1 + f).

    Parameters
    ----------
    x : array, (...), floats or balls

    Returns
    -------
    array, (...), the dtype of `x`, rounded once; but for that never below √x, and above it by at most the factor 3/(2√2) = 1.0607 (claim
    MITCHELL-2.root). ±0 at ±0, NaN below, infinity at infinity

    Raises
    ------
    DtypeError, UndecidedError
        if `x` is not floating; if a ball does not decide its exponent.
    """
    _check_number("square_root", x)
    xp, (e, f), zero = namespace(x), bits.split(x), _is_zero(x)
    half = e // 2
    answer = xp.where(zero, x, bits.scaled(1 + (f + (e - 2 * half)) / 2, half))
    answer = xp.where(bits.negative(x) & ~zero, exact(math.nan, x), answer)
    return answer if is_ball(x) else xp.where(xp.isnan(x), x, xp.where(x == xp.inf, x, answer))


def power(x: Array, y: Array | float, *, product: str = "mitchell") -> Array:  # (...), (...) or one number -> (...)
    """x^y ≈ 2^≈(yL), L = e + f for |x| = 2^e (1 + f): yL by additions for one whole y, else P(y, e) + P(y, f), P as `multiply`; 2^≈ as `exp2_approx`.

    Parameters
    ----------
    x : array, (...), floats or balls
    y : a Python number, or an array of the dtype of `x` that broadcasts with it. One whole Python number n (3 or 3.0, not an array of it) is n times
        added up, without rounding: x^n is then exactly the product of n numbers x by `multiply`, and x^-1 is `divide(1, x)`
    product : what else multiplies y and L, "mitchell" or "exact". y = ±2^k is exact in both, so that x^0.5 is `square_root(x)`

    Returns
    -------
    array, (...), the dtype of `x`; claim MITCHELL-2.power says how near x^y it is. x below 0 has the sign of x^n for one whole Python number n, and
    is NaN otherwise. 1 for y = 0. 0 at 0 and infinity at infinity, with the sign of x where n is odd; for y < 0 the other way round. NaN where x is
    NaN, or y is NaN or infinite

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` and `y` are not of one floating dtype, or do not broadcast; if there is no such product.
    UndecidedError
        if balls do not decide an exponent, a carry, or a whole part.
    """
    _check_number("power", x)
    times = {"mitchell": lambda a, b: _product(a, b, dialects["ieee"], bits.float_format(a)), "exact": operator.mul}
    if product not in tuple(times):
        raise ConfigError("unknown product", where="power(product=)", expected=", ".join(times), got=repr(product))
    if not isinstance(y, int | float):
        _check_operands("power", "a Python number, or an array", x=x, y=y)
        check_broadcast("power", x, y)
    return _power(x, y, times[product])


@rounded_once
def _power(
    x: Array, y: Array | float, times: Callable[[Array, Array], Array]
) -> Array:  # (...), (...) or one number -> (...)
    if isinstance(y, int | float):
        if isinstance(y, int) or (math.isfinite(y) and y == int(y)):
            return _whole_power(x, int(y))
        y = 0 * bits.split(x)[1] + exact(y, x)
    return _real_power(x, y, times)


def _multiple(e: Array, f: Array, n: int) -> tuple[Array, Array]:
    """(k, t) with n (e + f) = k + t, k whole, 0 <= t < 1, for n >= 0: by doubling and adding, exactly."""
    k, t = 0 * e, 0 * f
    for digit in f"{n:b}":
        k, t = _carried(k + k, t + t)
        if digit == "1":
            k, t = _carried(k + e, t + f)
    return k, t


def _carried(k: Array, t: Array) -> tuple[Array, Array]:
    """(k, t) with the whole part of t < 2 in k."""
    xp, carry = namespace(t), ~bits.below(t, 1)
    return xp.where(carry, k + 1, k), xp.where(carry, t - 1, t)


def _whole_power(x: Array, n: int) -> Array:
    (e, f), zero, edges, fmt = bits.split(x), _is_zero(x), dialects["ieee"], bits.float_format(x)
    times = abs(n) if fmt is None else min(abs(n), 4**fmt.digits)  # beyond every exponent, as in `_real_power`
    k, t = _multiple(e, f, times)
    size = bits.scaled(1 + t, k) if n >= 0 else bits.scaled(2 - t, -k - 1)
    if n:
        size = _without_infinity(size, *((zero, _infinite(x)) if n > 0 else (_infinite(x), zero)), edges)
    return _signed(x, namespace(x).abs(x) if n % 2 else x, size, edges)


def _real_power(x: Array, y: Array, times: Callable[[Array, Array], Array]) -> Array:
    xp, fmt, (e, f), none = namespace(x, y), bits.float_format(x), bits.split(x), _is_zero(y)
    finite, far = y, _infinite(y)
    if fmt is not None:  # 2^(2 digits) times the least logarithm, 2^(1 - digits), is beyond every exponent
        far, limit = far | xp.isnan(y), 4.0**fmt.digits
        finite = xp.minimum(xp.maximum(xp.where(far, 0.0, y), -limit), limit)
    if times is operator.mul:  # just below 1 both parts would cancel: L = f - 1 is one number, exactly
        below = e == -1
        e, f = xp.where(below, 0 * e, e), xp.where(below, f - 1, f)
    a, b = times(finite, e + 0 * f), times(finite, f)
    whole = bits.whole_part(a)
    rest = (a - whole) + b
    carry = bits.whole_part(rest)
    m = xp.where(_is_zero(rest - carry), exact(1.0, rest), rest - (carry - 1))  # 1 + rest - ⌊rest⌋ with one rounding
    size = bits.scaled(m, whole + carry)
    falls, zero, infinite = bits.negative(finite), _is_zero(x) & ~none, _infinite(x) & ~none
    vanishes, grows = (zero & ~falls) | (infinite & falls), (infinite & ~falls) | (zero & falls)
    size = _without_infinity(size, vanishes, grows, dialects["ieee"])
    size = xp.where(bits.negative(x) & ~_is_zero(x), exact(math.nan, x), size)
    return size if is_ball(x) else xp.where(xp.isnan(x) | far, xp.nan, size)


# --- bit patterns -------------------------------------------------------------------------------------------------------------------


def multiply_bits(a: Array, b: Array, *, dialect: str = "flush") -> Array:  # (...), (...) -> (...)
    """pattern(xy) ≈ pattern(|x|) + pattern(|y|) - pattern(1.0), with the exclusive or of the signs: (2), carry and all, in one addition.

    Parameters
    ----------
    a, b : arrays of NumPy or CuPy that broadcast, of one floating dtype
    dialect : "flush", "pam" or "semimul": the programs' own rules at the edges, which are decided on patterns. "pam" is for dtypes that have 1e37

    Returns
    -------
    array, (...), the dtype of `a`; what `multiply` gives in that dialect, bit for bit, unless an operand is NaN. NaN gives NaN, except in "semimul",
    whose program takes the exponent of NaN and infinity for a number's

    Raises
    ------
    DtypeError
        if the arrays have no bit patterns (the standard has none, nor have balls), are not of one floating dtype, or lack the range of "pam".
    ShapeError, ConfigError
        if they do not broadcast; if there is no such dialect on bits.
    """
    _check_pairs("multiply_bits", a, b)
    check_floating("a", a, "multiply_bits")
    rules = {"flush": _flush_bits, "pam": _pam_bits, "semimul": _semimul_bits}
    if dialect not in tuple(rules):
        raise ConfigError("this dialect has no form on bits", expected=", ".join(rules), got=repr(dialect))
    x, y, at = bits.pattern(a), bits.pattern(b), FORMATS[str(a.dtype)]
    if dialect == "pam" and at.highest < FORMATS["float32"].highest:
        raise DtypeError('the dialect "pam" needs a dtype that has 1e37', expected="float32 or wider", got=a.dtype)
    return bits.from_pattern(rules[dialect](a, b, x, y, at), a.dtype)


def _sum_of_patterns(x: Array, y: Array, at: Format) -> tuple[Array, Array, Array]:
    """The sum of the magnitudes, which the unsigned type holds; the answer without a rule, modulo that type; and its sign."""
    magnitude = (x & (at.sign - 1)) + (y & (at.sign - 1))
    answer = (
        namespace(x, y).where(magnitude < at.one, at.one, magnitude) - at.one
    )  # 0 for what is below every dialect's range
    return magnitude, answer & (at.sign - 1), (x ^ y) & at.sign


def _flush_bits(a: Array, b: Array, x: Array, y: Array, at: Format) -> Array:
    xp = namespace(a, b)
    magnitude, answer, sign = _sum_of_patterns(x, y, at)
    zero = ((x & (at.sign - 1)) < at.hidden) | ((y & (at.sign - 1)) < at.hidden)
    infinite = ((x & (at.sign - 1)) >= at.infinity) | ((y & (at.sign - 1)) >= at.infinity)
    answer = xp.where(
        magnitude < at.one + at.hidden, 0, xp.where(magnitude >= at.one + at.infinity, at.infinity, answer)
    )
    answer = xp.where(zero, 0, xp.where(infinite, at.infinity, answer))
    unclear = xp.isnan(a) | xp.isnan(b) | (zero & infinite)
    return xp.astype(xp.where(unclear, at.nan, answer | sign), x.dtype)


def _semimul_bits(a: Array, b: Array, x: Array, y: Array, at: Format) -> Array:
    xp = namespace(a, b)
    _, answer, sign = _sum_of_patterns(x, y, at)
    e, h = (x & (at.sign - 1)) >> at.shift, (y & (at.sign - 1)) >> at.shift
    bias, top = at.one >> at.shift, at.infinity >> at.shift
    answer = xp.where(e + h >= bias + top, at.infinity, answer) | sign
    return xp.astype(xp.where((e == 0) | (h == 0) | (e + h <= bias), 0, answer), x.dtype)


def _pam_bits(a: Array, b: Array, x: Array, y: Array, at: Format) -> Array:
    xp = namespace(a, b)
    _, answer, sign = _sum_of_patterns(x, y, at)
    true = _wide_true_product(a, b)
    answer = xp.where(true < _bound(1e37, true), answer | sign, at.nan)
    answer = xp.where(true < _bound(1e-37, true), 0, answer)
    unclear = xp.isnan(a) | xp.isnan(b) | xp.isinf(a) | xp.isinf(b)
    return xp.astype(xp.where(unclear, at.nan, answer), x.dtype)


def _wide_true_product(a: Array, b: Array) -> Array:
    xp = namespace(a, b)
    wide = [xp.astype(x, xp.float32) if str(x.dtype) == "bfloat16" else x for x in (a, b)]
    return _true_product(*wide)


# --- whole numbers ------------------------------------------------------------------------------------------------------------------


def _width(a: Array, b: Array) -> tuple[int, bool]:
    """Bits of the wider operand, and whether they are signed."""
    names = [str(x.dtype).rpartition(".")[2] for x in (a, b)]
    return max(int(name.removeprefix("u").removeprefix("int")) for name in names), names[0].startswith("int")


def _magnitude(x: Array, width: int) -> tuple[Array, Array]:
    """|x| in a word, which is uint32 for operands of up to 16 bits and uint64 for wider ones, also of the most negative number; and where x < 0."""
    xp, below, word = namespace(x), x < 0, 32 if width <= 16 else 64
    unsigned = getattr(xp, f"uint{word}")
    if "uint" in str(x.dtype):
        return xp.astype(x, unsigned), below
    wide = xp.astype(x, getattr(xp, f"int{word}"))
    size = xp.astype(xp.where(below, -(wide + 1), wide), unsigned)
    return xp.where(below, size + 1, size), below


def _normalised(n: Array) -> tuple[Array, Array, int]:
    """(e, F, t) with n = 2^e (1 + F/2^t) for n > 0, 2^t being the highest bit of the word; e = F = 0 for 0, as for 1."""
    t = 31 if str(n.dtype).endswith("uint32") else 63
    place, some = bits.leading_one(n), namespace(n).where(n == 0, 1, n)
    return place, (some << (t - place)) - (1 << t), t


def _one_word(a: Array, b: Array) -> Array:
    """(2) for magnitudes of half a word: M 2^(k-t), where M in [2^t, 2^(t+1)) holds every bit. f + g has bit t exactly where it carries."""
    (e, f, t), (h, g, _) = _normalised(a), _normalised(b)
    total = f + g
    size = (total | (1 << t)) >> (t - (e + h + (total >> t)))
    return namespace(a, b).where((a == 0) | (b == 0), 0, size)


def _two_words(a: Array, b: Array) -> tuple[Array, Array]:
    """(2) for the uint64 magnitudes a and b as high and low words: M 2^(k-63), as above."""
    xp = namespace(a, b)
    (e, f, t), (h, g, _) = _normalised(a), _normalised(b)
    total = f + g
    m, k = total | (1 << t), e + h + (total >> t)
    long = k > 63
    below, above = xp.where(long, 63, k), xp.where(long, k, 64)
    low = xp.where(long, (m << (above - 64)) << 1, m >> (63 - below))
    high = xp.where(long, m >> (127 - above), 0)
    zero = (a == 0) | (b == 0)
    return xp.where(zero, 0, high), xp.where(zero, 0, low)


def _whole_product(a: Array, b: Array) -> Array:
    xp, (width, signed) = namespace(a, b), _width(a, b)
    (x, minus), (y, other) = _magnitude(a, width), _magnitude(b, width)
    if width < 64:
        return _of_sign(_one_word(x, y), minus ^ other, 2 * width, signed)
    high, low = _two_words(x, y)
    if not signed:
        return high, low
    opposite = minus ^ other
    high, some = xp.astype(high, xp.int64), xp.astype(low != 0, xp.int64)  # high <= 2^62
    high = xp.where(opposite, -high - some, high)
    return high, xp.where(opposite & (low != 0), ~low + xp.astype(some, xp.uint64), low)


def _of_sign(size: Array, minus: Array, width: int, signed: bool) -> Array:
    """± size as a whole number of that width, which holds it."""
    xp = namespace(size)
    if not signed:
        return xp.astype(size, getattr(xp, f"uint{width}"), copy=False)
    value = xp.astype(size, xp.int64)
    return xp.astype(xp.where(minus, -value, value), getattr(xp, f"int{width}"))


def _whole_quotient(a: Array, b: Array) -> Array:
    xp, (width, signed) = namespace(a, b), _width(a, b)
    _check_divisible(a, b, width, signed)
    (x, minus), (y, other) = _magnitude(a, width), _magnitude(b, width)
    (e, f, t), (h, g, _) = _normalised(x), _normalised(y)
    rest = ((1 << t) + f) - g  # 1 + f - g, which has bit t exactly where nothing is borrowed; else 2 + f - g has it
    up, down, m = e + (rest >> t), h + 1, rest | (1 << t)  # the answer is m 2^(up-down-t): below 1 where up < down
    whole = (up >= down) & (x != 0)
    shift = t - (xp.where(whole, up, down) - down)
    size = xp.where(whole, m >> shift, 0)
    if signed:  # the floor of what is negative
        inexact = (x != 0) & (~whole | ((size << shift) != m))
        size = xp.where((minus ^ other) & inexact, size + 1, size)
    return _of_sign(size, minus ^ other, width, signed)


def _check_divisible(a: Array, b: Array, width: int, signed: bool) -> None:
    """Raise IntegerError where the quotient of whole numbers has no answer."""
    xp, lowest = namespace(a, b), -(2 ** (width - 1))
    if bool(xp.any(b == 0)):
        raise IntegerError(
            "division of whole numbers by zero",
            where="divide(b)",
            expected="divisors other than 0",
            got=0,
            remedy="choose the answer with xp.where, or divide floats, which have infinities",
        )
    if signed and bool(xp.any((xp.astype(a, xp.int64) == lowest) & (b == -1))):
        expected = f"a quotient below {-lowest}"
        raise IntegerError("the quotient is beyond the dtype", where="divide", expected=expected, got=f"{lowest} / -1")


def _corrected_whole(a: Array, b: Array) -> Array:
    """(4): what (2) leaves out is the product of the residues x - 2^e, y - 2^h, or of 2^(e+1) - x, 2^(h+1) - y where f + g >= 1."""
    xp, (width, signed) = namespace(a, b), _width(a, b)
    if width > 32:
        expected = "8 to 32 bits"
        raise DtypeError("no correction for wider numbers", where="corrected_multiply", expected=expected, got=a.dtype)
    (x, minus), (y, other) = _magnitude(a, width), _magnitude(b, width)
    (e, f, t), (h, g, _) = _normalised(x), _normalised(y)
    below, above = [], []
    for n, place in ((x, e), (y, h)):
        lead, some = xp.ones_like(n) << place, xp.where(n == 0, 1, n)
        below.append(some - lead)
        above.append(2 * lead - some)
    rest = xp.where(f + g >= (1 << t), _one_word(*above), _one_word(*below))
    return _of_sign(_one_word(x, y) + rest, minus ^ other, 2 * width, signed)


# --- sums of products ---------------------------------------------------------------------------------------------------------------


def _accumulable(where: str, a: Array, b: Array) -> tuple[Array, Array]:
    """The operands as they are multiplied and added up: 16-bit floats as float32; whole numbers whose products have room in 64 bits."""
    _check_operands(where, a=a, b=b)
    if _is_whole(a) and _width(a, b)[0] > 16:
        raise DtypeError(
            "sums of products of wide whole numbers overflow",
            where="refimpl.mitchell",
            expected="whole numbers of 8 or 16 bits, whose products are added up in 64",
            got=a.dtype,
            remedy="convert to a narrower dtype, or to floats",
        )
    return a, b


def _check_corrected(dialect: str, corrected: bool) -> None:
    """Raise ConfigError where corrected products are given another dialect than theirs."""
    if corrected and dialect != "ieee":
        what = "corrected products have one set of edges"
        raise ConfigError(what, where="refimpl.mitchell", expected='dialect="ieee"', got=repr(dialect))


def _term(a: Array, b: Array, dialect: str, corrected: bool) -> Array:
    """One product as it is added up."""
    _check_corrected(dialect, corrected)
    xp, product = namespace(a, b), corrected_multiply(a, b) if corrected else multiply(a, b, dialect=dialect)
    return product if not _is_whole(a) else xp.astype(product, xp.uint64 if "uint" in str(a.dtype) else xp.int64)


def dot(a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False) -> Array:  # (..., n), (..., n) -> (...)
    """Σ_k P(a_k, b_k), P as `multiply` or `corrected_multiply`: added up for k = 0, 1, ..., n - 1 in this order.

    Parameters
    ----------
    a, b : arrays, (..., n), n >= 1, whose other axes broadcast: floats, balls, or whole numbers of 8 or 16 bits
    dialect : as for `multiply`
    corrected : whether P is `corrected_multiply`, which has the dialect "ieee" alone

    Returns
    -------
    array, (...): float16, bfloat16 and float32 are multiplied and added up in float32 and rounded once to their dtype, float64 in float64; whole
    numbers in int64 or uint64, which hold the sum of 2^32 products

    Raises
    ------
    DtypeError, ConfigError, UndecidedError
        as `multiply`; DtypeError for wider whole numbers.
    ShapeError
        if the last axes differ in length, or are empty; if the other axes do not broadcast.
    """
    a, b = _accumulable("dot", a, b)
    fits = a.ndim and b.ndim and a.shape[-1] == b.shape[-1] > 0
    if not (fits and broadcasts(a.shape[:-1], b.shape[:-1])):
        _refuse_shapes("dot", "(..., n), (..., n), n >= 1", a, b)
    return _dot(a, b, dialect, corrected)


@rounded_once
def _dot(a: Array, b: Array, dialect: str, corrected: bool) -> Array:  # (..., n), (..., n) -> (...)
    total = _term(a[..., :1], b[..., :1], dialect, corrected)
    for k in range(1, a.shape[-1]):
        total = total + _term(a[..., k : k + 1], b[..., k : k + 1], dialect, corrected)
    return namespace(total).squeeze(total, axis=-1)


def matmul(
    a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False
) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
    """C_ij = Σ_k P(a_ik, b_kj), P as for `dot`: added up for k = 0, 1, ... in this order. Dtypes, errors and options as `dot`."""
    a, b = _accumulable("matmul", a, b)
    _check_matrices(a, b)
    return _matmul(a, b, dialect, corrected)


@rounded_once
def _matmul(a: Array, b: Array, dialect: str, corrected: bool) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
    total = _term(a[..., :, :1], b[..., :1, :], dialect, corrected)
    for k in range(1, a.shape[-1]):
        total = total + _term(a[..., :, k : k + 1], b[..., k : k + 1, :], dialect, corrected)
    return total


def _check_matrices(a: Array, b: Array) -> None:
    """Raise ShapeError unless the operands are stacks of matrices that have a product."""
    fits = a.ndim > 1 and b.ndim > 1 and a.shape[-1] == b.shape[-2] > 0
    if not (fits and broadcasts(a.shape[:-2], b.shape[:-2])):
        _refuse_shapes("matmul", "(..., n, k), (..., k, m), k >= 1", a, b)


def _refuse_shapes(where: str, expected: str, a: Array, b: Array) -> None:
    got = f"{tuple(a.shape)}, {tuple(b.shape)}"
    raise ShapeError("the shapes do not contract", where=where, expected=expected, got=got)


def einsum(
    subscripts: str, a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False
) -> Array:  # any shapes -> those of the output's indices
    """C_out = Σ P(a_.., b_..), P as `multiply`, over all indices that are not in the output: as one `matmul` of transposed and reshaped operands.

    Parameters
    ----------
    subscripts : as NumPy has them for two operands, "bij,bjk->bik": a letter for each axis. One that an operand has twice takes its diagonal. Without
        an arrow the output has the letters that occur once, in alphabetical order
    a, b : as for `matmul`
    dialect, corrected : as for `dot`

    Returns
    -------
    array, as `matmul` returns it. Terms are added up in row-major order of the summed indices, which are ordered as they first occur. An index of one
    operand alone that is summed counts too: the sum is of products, P(a_ij, b_k) over j, not a product of sums. It costs a Python loop over
    all values of the summed indices, whose every step makes arrays as large as the output; `refimpl.inference.mitchell.matmul` is for speed

    Raises
    ------
    ConfigError, ShapeError
        if the subscripts cannot be read, or do not fit the shapes; if a summed index has length 0. Lengths are never broadcast.
    DtypeError, UndecidedError
        as `matmul`.
    """
    left, right, out = _subscripts(subscripts)
    _check_operands("einsum", a=a, b=b)
    summed = [index for index in dict.fromkeys(left + right) if index not in out]  # before diagonals move them
    (left, x), (right, y) = (_diagonals(letters, x, subscripts) for letters, x in ((left, a), (right, b)))
    lengths = dict(zip(left, x.shape, strict=True)) | dict(zip(right, y.shape, strict=True))
    if any(lengths[index] != n for index, n in zip(left + right, (*x.shape, *y.shape), strict=True)):
        _refuse_shapes(f"einsum({subscripts!r})", "one length for each index", a, b)
    for index in summed:
        if not lengths[index]:
            _refuse_shapes(f"einsum({subscripts!r})", f"a length from 1 for {index!r}, which is summed", a, b)
    batch = [index for index in out if index in left and index in right]
    rows, columns = ([index for index in out if index in one and index not in batch] for one in (left, right))
    x = _arranged(x, left, (batch, rows, summed), lengths)
    y = _arranged(y, right, (batch, summed, columns), lengths)
    order = [*batch, *rows, *columns]
    answer = namespace(a, b).reshape(
        matmul(x, y, dialect=dialect, corrected=corrected), tuple(lengths[index] for index in order)
    )
    return namespace(a, b).permute_dims(answer, tuple(order.index(index) for index in out))


def _subscripts(given: str) -> tuple[str, str, str]:
    """The letters of both operands and of the output."""
    if not isinstance(given, str):
        expected, remedy = 'one text, such as "ij,jk->ik"', "join the operands' letters by a comma"
        got = f"{type(given).__name__}: {given!r}"
        raise ConfigError("subscripts are text", where="einsum(subscripts)", expected=expected, got=got, remedy=remedy)
    inputs, arrow, out = given.replace(" ", "").partition("->")
    operands = inputs.split(",")
    letters = inputs.replace(",", "")
    if not arrow:
        out = "".join(sorted(index for index in set(letters) if letters.count(index) == 1))
    wrong = {
        "an ellipsis is not supported": "..." in given,
        "subscripts have letters, one comma, and at most one arrow": not (letters + out + "a").isalpha(),
        "subscripts of two operands are needed": len(operands) != 2,
        "an index of the output occurs in no operand": not set(out) <= set(letters),
        "an index occurs twice in the output": len(set(out)) < len(out),
    }
    for what, so in wrong.items():
        if so:
            raise ConfigError(what, where="einsum(subscripts)", expected='such as "ij,jk->ik"', got=repr(given))
    return operands[0], operands[1], out


def _diagonals(letters: str, x: Array, subscripts: str) -> tuple[str, Array]:
    """The operand with each index once: of two axes with one index, the diagonal, as every (n + 1)th element of n x n."""
    xp = namespace(x)
    if len(letters) != x.ndim:
        expected = f"{len(letters)} axes for {letters!r}"
        raise ShapeError(
            "subscripts do not fit", where=f"einsum({subscripts!r})", expected=expected, got=tuple(x.shape)
        )
    for index in dict.fromkeys(letters):
        while letters.count(index) > 1:
            i, j = [k for k, other in enumerate(letters) if other == index][:2]
            if x.shape[i] != x.shape[j]:
                _refuse_shapes(f"einsum({subscripts!r})", f"one length for {index!r}", x, x)
            x = xp.permute_dims(x, (*(k for k in range(x.ndim) if k not in (i, j)), i, j))
            x = xp.reshape(x, (*x.shape[:-2], x.shape[-1] ** 2))[..., :: x.shape[-1] + 1]
            letters = letters[:i] + letters[i + 1 : j] + letters[j + 1 :] + index
    return letters, x


def _arranged(x: Array, letters: str, groups: Iterable[list[str]], lengths: dict[str, int]) -> Array:
    """`x` with one axis for each group of indices, in row-major order; repeated along indices that it lacks."""
    xp, groups = namespace(x), list(groups)
    order = [index for group in groups for index in group]
    x = xp.permute_dims(x, tuple(letters.index(index) for index in order if index in letters))
    x = xp.reshape(x, tuple(lengths[index] if index in letters else 1 for index in order))
    x = xp.broadcast_to(x, tuple(lengths[index] for index in order))
    return xp.reshape(x, tuple(math.prod(lengths[index] for index in group) for group in groups))
