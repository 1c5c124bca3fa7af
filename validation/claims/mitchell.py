"""Claims MITCHELL-1 to MITCHELL-7: products and quotients by adding and subtracting approximate logarithms.

x = 2^e (1 + f), y = 2^h (1 + g), 0 <= f, g < 1. Relative errors do not depend on e and h: dividing everything by 2^(e+h) leaves statements
about f and g in [0, 1). Each is proved by an identity between polynomials of degree at most 2 in each of two variables, of which the right-hand
side is a sum of terms of known sign; an identity of that degree holds everywhere if it holds on a grid of 3 x 3 points, where it is checked in
exact fractions. Beside the proof, the source's own answers are compared with exact whole numbers on all pairs of fractions of a dtype.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import flint
import ml_dtypes
import numpy as np

from refimpl import bits, mitchell
from validation import pairs, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "J. N. Mitchell, IRE Trans. Electronic Computers EC-11 (1962), 512-517"
GRID = [(Fraction(i), Fraction(j)) for i in range(3) for j in range(3)]
ROWS = 16  # of a block of pairs: what a processor's cache holds


def _identities(*sides: Callable[[Fraction, Fraction], tuple[Fraction, Fraction]]) -> bool:
    """Whether both sides agree at the nine points of the grid, each being of degree at most 2 in each variable."""
    return all(left == right for side in sides for left, right in (side(f, g) for f, g in GRID))


def _product_bound(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    s = f + g  # <= 1: both terms of the right-hand side are >= 0, and 0 together only at s = 1, f = g
    return (1 + f) * (1 + g) - 9 * f * g, (1 - s) * (1 + 2 * s) + 2 * (f - g) ** 2


def _product_bound_with_carry(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    p, q = 1 - f, 1 - g
    t = p + q  # <= 1
    return (1 + f) * (1 + g) - 9 * p * q, 2 * (1 - t) * (2 + t) + 2 * (p - q) ** 2


def _left_out(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    return (1 + f) * (1 + g) - (1 + f + g), f * g


def _left_out_with_carry(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    return (1 + f) * (1 + g) - 2 * (f + g), (1 - f) * (1 - g)


def _fractions(dtype: Any, digits: int) -> tuple[Any, Any]:
    """All numbers of [1, 2) of a dtype of so many bits, and as whole numbers in units of 2^(1-digits)."""
    whole = np.arange(1 << (digits - 1), 1 << digits, dtype=np.int64)
    return (whole / 2.0 ** (digits - 1)).astype(dtype), whole


def _on(setting: Setting, function: Callable[..., Any], x: Any, y: Any, **options: Any) -> Any:
    """The source on the setting's backend; bfloat16, which GPUs' arrays lack, on NumPy."""
    if x.dtype == np.dtype(ml_dtypes.bfloat16):
        return function(x, y, **options)
    return setting.backend.to_numpy(function(*map(setting.backend.asarray, (x, y)), **options))


def _pairs(setting: Setting, function: Callable[..., Any], x: Any, y: Any) -> Any:
    """Blocks (rows, their answers) of `function` on every pair of two vectors."""
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        yield rows, _on(setting, function, x[rows, None], y[None, :])


def _exhausted(setting: Setting, identifier: str) -> tuple[int, str, str]:
    """All pairs of 12 bits, in `validation.pairs`: how many, what is wrong, and what was recorded of all pairs of 16 bits."""
    chosen, record = pairs.subject(identifier, 12), pairs.recorded(identifier)
    functions = tuple(partial(_on, setting, getattr(mitchell, name)) for name in chosen.functions)
    found, wrong = pairs.tally(chosen, 12, 0, 1 << 12, functions)
    if wrong:
        return 0, f"12 bits: {wrong}", ""
    other = [f"12 bits: {name} is {found[name]}, not {n}" for name, n in chosen.theory(12).items() if found[name] != n]
    same = record.get("definition") == pairs.definition(chosen)
    told = f"recorded: all {record['tally']['pairs']:,} pairs of 16 bits" if record else "no record of 16 bits"
    return found["pairs"], "; ".join(other), told + ", by an earlier text of the definition" * bool(record and not same)


SIXTEEN = ((np.dtype(np.float16), 11), (np.dtype(ml_dtypes.bfloat16), 8))


@claim(
    "MITCHELL-1",
    "0 <= (xy - product)/(xy) <= 1/9; equality on the right exactly at f = g = 1/2; the error is zero exactly when f g = 0",
    source=SOURCE,
    method="xy - product is 2^(e+h) times fg, or (1-f)(1-g) after a carry; 1/9 by two identities of polynomials, e.g. (1+f)(1+g) - 9fg = "
    "(1-s)(1+2s) + 2(f-g)^2, s = f+g; the source on all pairs of fractions of float16 and bfloat16 and all pairs of 12-bit whole numbers",
    expected="proved",
    cases=4 * 9 + 2**20 + 2**14 + 2**24,
)
def _product_error(setting: Setting) -> Outcome:
    if not _identities(_left_out, _left_out_with_carry, _product_bound, _product_bound_with_carry):
        return Outcome("refuted", 0, "an identity of the proof")
    cases = 4 * len(GRID)
    for dtype, digits in SIXTEEN:
        x, whole = _fractions(dtype, digits)
        half, unit = 3 << (digits - 2), 1 << (digits - 1)
        for rows, answer in _pairs(setting, mitchell.multiply, x, x):
            exact = whole[rows, None] * whole
            error = exact - (answer.astype(np.float64) * unit**2).astype(np.int64)
            right = (error >= 0) & (9 * error <= exact)
            right &= ((9 * error == exact) == ((whole[rows, None] == half) & (whole == half))) & (
                (error == 0) == ((whole[rows, None] == unit) | (whole == unit))
            )
            cases += right.size
            if not right.all():
                i, j = (int(k[0]) for k in np.nonzero(~right))
                return Outcome("refuted", cases, f"{dtype}: {x[rows][i]} times {x[j]} gives {answer[i, j]}")
    whole, wrong, record = _exhausted(setting, "MITCHELL-1")
    if wrong:
        return Outcome("refuted", cases, wrong)
    return Outcome("proved", cases + whole, f"1/9 at 1.5 times 1.5, which gives 2 for 2.25; {record}", 1.0)


def _quotient_bound(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    """Where f >= g the error is g (f - g)/(1 + f)."""
    return 1 + f - 8 * g * (f - g), (1 - f) * (1 + 2 * f) + 2 * (f - 2 * g) ** 2


def _quotient_bound_with_borrow(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    """Where f < g the error is (g - f)(1 - g)/(2 (1 + f))."""
    return 1 + f - 4 * (g - f) * (1 - g), f * (3 - f) + (1 - f - 2 * (1 - g)) ** 2


def _exceeds(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    return (1 + f - g) * (1 + g) - (1 + f), g * (f - g)


def _exceeds_with_borrow(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    return (2 + f - g) * (1 + g) - 2 * (1 + f), (g - f) * (1 - g)


@claim(
    "MITCHELL-2",
    "the unrounded quotient never falls short of x/y; its relative error is at most 1/8, exactly at f = 0, g = 1/2, approached "
    "as f -> 1 at g = 1/2, and "
    "zero exactly where g = 0 or f = g",
    source=SOURCE,
    method="the error is g(f-g)/(1+f), or (g-f)(1-g)/(2(1+f)) after a borrow; 1/8 by two identities, e.g. 1 + f - 8g(f-g) = "
    "(1-f)(1+2f) + 2(f-2g)^2; the "
    "source on all pairs of fractions of float16 and bfloat16",
    expected="proved",
    cases=4 * 9 + 2**20 + 2**14,
)
def _quotient_error(setting: Setting) -> Outcome:
    if not _identities(_exceeds, _exceeds_with_borrow, _quotient_bound, _quotient_bound_with_borrow):
        return Outcome("refuted", 0, "an identity of the proof")
    cases, nearest = 4 * len(GRID), 0.0
    for dtype, digits in SIXTEEN:
        x, whole = _fractions(dtype, digits)
        unit = 1 << (digits - 1)
        for rows, answer in _pairs(setting, mitchell.divide, x, x):
            numerator = whole[rows, None]
            exact = 2 * unit * numerator
            found = (answer.astype(np.float64) * 2 * unit).astype(
                np.int64
            ) * whole  # q y beside x, in units of 1/(2 unit^2)
            right = (found >= exact) & (8 * found <= 9 * exact)
            right &= (8 * found == 9 * exact) == ((numerator == unit) & (whole == 3 * unit // 2))
            right &= (found == exact) == ((whole == unit) | (whole == numerator))
            cases += right.size
            if not right.all():
                i, j = (int(k[0]) for k in np.nonzero(~right))
                return Outcome("refuted", cases, f"{dtype}: {x[rows][i]} over {x[j]} gives {answer[i, j]}")
            last = (found / exact - 1)[-1, unit // 2] if rows.stop >= len(x) else 0.0
            nearest = max(nearest, float(last))
    return Outcome(
        "proved", cases, f"1/8 at 1 over 1.5, which gives 0.75; {nearest:.6f} at the largest f, g = 1/2", 1.0
    )


@claim(
    "MITCHELL-2.integer",
    "the quotient of whole numbers, which is floored, lies between the floor of x/y and that of 9x/(8y), both of which occur",
    source="MITCHELL-2; rounding down is monotone",
    method="x/y <= quotient <= 9x/(8y) before the floor; the source on all pairs of 12-bit whole numbers with divisors above 0, and both ends found; "
    "their sum is that of 2^12 - P(n, y) over products P(n, y) below 2^12, since the floor is the largest n with P(n, y) <= x",
    expected="proved",
    cases=2**12 * (2**12 - 1),
)
def _whole_quotient(setting: Setting) -> Outcome:
    eight = _on(setting, mitchell.divide, *(np.array([n], np.uint16) for n in (8, 3))).tolist()
    cases, wrong, record = _exhausted(setting, "MITCHELL-2.integer")
    if wrong or eight != [3]:
        return Outcome("refuted", cases, wrong or f"8 over 3 gives {eight}")
    return Outcome("proved", cases, f"8 over 3 gives 3, the floor of 9/8 of it; {record}")


ROOTS = (  # in f alone: the excess of (answer)²/x over 1, and what keeps it below 9/8, for even e and for odd e
    lambda f, g: (4 * (1 + f / 2) ** 2 - 4 * (1 + f), f * f),
    lambda f, g: (1 + f - 2 * f * f, (1 - f) * (1 + 2 * f)),
    lambda f, g: ((3 + f) ** 2 - 8 * (1 + f), (1 - f) ** 2),
    lambda f, g: (9 * (1 + f) - (3 + f) ** 2, f * (3 - f)),
)


@claim(
    "MITCHELL-2.root",
    "the unrounded square root by halving the logarithm never falls short of √x, and (answer)²/x is at most 9/8, exactly at x = 2^e with e odd",
    source=f"{SOURCE}, whose logarithm is halved; this project",
    method="(answer)²/x - 1 is f²/(4(1+f)), or (1-f)²/(8(1+f)) for odd e; both at most 1/8 by identities; the source on all fractions of float16 "
    "and bfloat16 and every 16th of float32 with both parities, computed in float64, in exact whole numbers",
    expected="proved",
    cases=4 * 9 + 2 * (2**10 + 2**7 + 2**19),
)
def _root_error(setting: Setting) -> Outcome:
    if not _identities(*ROOTS):
        return Outcome("refuted", 0, "an identity of the proof")
    cases = len(ROOTS) * len(GRID)
    for digits, step in ((11, 1), (8, 1), (24, 16)):
        whole = np.arange(1 << (digits - 1), 1 << digits, step, dtype=np.int64)
        for odd in (0, 1):
            x = whole * 2.0 ** (1 - digits + odd)
            answer = setting.backend.to_numpy(mitchell.square_root(setting.backend.asarray(x)))
            root = (answer * 2.0**digits).astype(np.int64)  # exactly: digits + 1 bits
            found, given = root * root, whole << (digits + 1 + odd)
            right = (found >= given) & (8 * found <= 9 * given) & (root == answer * 2.0**digits)
            right &= (8 * found == 9 * given) == ((whole == whole[0]) & (odd == 1))
            cases += right.size
            if not right.all():
                return Outcome("refuted", cases, f"{x[~right][0]!r} has the root {answer[~right][0]!r}")
    return Outcome("proved", cases, "9/8 at x = 2, which has the root 1.5", 1.0)


TWO = Fraction(2, 3)
CUBES = (  # in f alone, of degree 3: what the cube falls short of x³ by, and what it exceeds (27/32) x³ by, for f up to 1/3, 2/3 and 1
    lambda f: ((1 + f) ** 3 - (1 + 3 * f), f * f * (3 + f)),
    lambda f: ((1 + f) ** 3 - 6 * f, (1 - f) ** 3 + 2 * f**3),
    lambda f: ((1 + f) ** 3 - 4 * (3 * f - 1), (1 - f) ** 2 * (5 + f)),
    lambda f: (32 * (1 + 3 * f) - 27 * (1 + f) ** 3, (1 - 3 * f) * (5 + 30 * f + 9 * f * f)),
    lambda f: (32 * 6 * f - 27 * (1 + f) ** 3, (3 * f - 1) * (3 + (TWO - f) * (42 - 9 * (TWO - f)))),
    lambda f: (128 * (3 * f - 1) - 27 * (1 + f) ** 3, 3 + (f - TWO) * (159 - 135 * (f - TWO) - 27 * (f - TWO) ** 2)),
)


@claim(
    "MITCHELL-2.power",
    "x^y by the product y (e + f) is between x^y 2^(-yδ) and x^y 2^δ for y >= 0, between x^y and x^y 2^((1-y)δ) for y < 0, δ = 0.0860713...; by "
    "Mitchell's product the exponent is off by at most |y|(|e| + f)/9 more. x² is in [8/9, 1] x², x³ in [27/32, 1] x³; x² and x³ are products of "
    "numbers x, x^0.5 the square root, and x^-1 the quotient 1/x, bit for bit",
    source=f"{SOURCE}, whose logarithm is multiplied; this project",
    method="MITCHELL-3 for the logarithm and for its inverse, MITCHELL-1 for both parts of the product: 40 x 48 exact balls in both; squares "
    "by MITCHELL-1 and cubes by six identities of degree 3; the source on all positive float16 numbers",
    expected="proved",
    cases=6 * 4 + 2 * 40 * 48 + 5 * 31743,
)
def _power_error(setting: Setting) -> Outcome:
    if not all(left == right for side in CUBES for left, right in map(side, map(Fraction, range(4)))):
        return Outcome("refuted", 0, "an identity of the proof")
    cases, (wrong, worst) = len(CUBES) * 4 + 2 * 40 * 48, _powers_of_balls(setting)
    if wrong:
        return Outcome("refuted", cases, wrong)
    x = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16)
    power, product = (partial(_on_one, setting, f) for f in (mitchell.power, mitchell.multiply))
    same = {
        "x²": (power(x, 2), product(x, x)),
        "x³": (power(x, 3), product(product(x, x), x)),
        "√x": (power(x, 0.5), _on_one(setting, mitchell.square_root, x)),
        "1/x": (power(x, -1), _on_one(setting, mitchell.divide, np.ones_like(x), x)),
        "√x, exactly": (power(x, 0.5, product="exact"), _on_one(setting, mitchell.square_root, x)),
    }
    for name, (one, other) in same.items():
        differ = one.view(np.uint16) != other.view(np.uint16)
        if differ.any():
            return Outcome("refuted", cases, f"{name} of {x[differ][0]}: {one[differ][0]} and {other[differ][0]}")
    whole = np.arange(1024, 2048, dtype=np.int64)
    cubes = (power((whole / 1024.0).astype(np.float16), 3).astype(np.float64) * 1024).astype(np.int64) << 20
    if not ((32 * cubes >= 27 * whole**3) & (cubes <= whole**3)).all():
        return Outcome("refuted", cases, "a cube of a number from 1 to 2")
    least = (cubes / whole**3).min()
    return Outcome(
        "proved", cases + 5 * x.size, f"{worst:.3f} of a bound; x³ down to {least:.6f} x³, 27/32 = 0.84375", worst
    )


def _on_one(setting: Setting, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    moved = [setting.backend.asarray(x) if isinstance(x, np.ndarray) else x for x in given]
    with np.errstate(all="ignore"):
        return setting.backend.to_numpy(function(*moved, **options))


def _powers_of_balls(setting: Setting) -> tuple[str, float]:
    """What is wrong of powers of exact balls, and the largest share of a bound that was found."""
    rng, worst = np.random.default_rng(setting.seed), 0.0
    x = np.ldexp(1 + rng.integers(0, 1 << 20, 40) / 2.0**20, rng.integers(-20, 21, 40))
    y = np.concatenate(
        [rng.integers(-(1 << 14), 1 << 14, 36) / 2.0**12, [0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, -1.5, 0.25]]
    )
    e = np.floor(np.log2(x))
    with truth.precision(256):
        delta = 1 - (1 + flint.arb.const_log2().log()) / flint.arb.const_log2()
        for product in ("exact", "mitchell"):
            answers = mitchell.power(truth.balls(x)[:, None], truth.balls(y)[None, :], product=product)
            for (i, j), answer in np.ndenumerate(answers):
                off = (answer.log() - flint.arb(y[j]) * flint.arb(x[i]).log()) / flint.arb.const_log2()
                more = abs(y[j]) * (abs(e[i]) + x[i] / 2 ** e[i] - 1) / 9 if product == "mitchell" else 0.0
                low, high = (-y[j] * delta - more, delta + more) if y[j] >= 0 else (-more, (1 - y[j]) * delta + more)
                if not (off > low - 1e-60 and off < high + 1e-60):
                    return f"{x[i]} to the power {y[j]}, {product}: {answer.str(9)}", worst
                worst = max(worst, float(off / (high if off > 0 else low)) if off.abs_lower() > 1e-50 else 0.0)
    return "", worst


@claim(
    "MITCHELL-3",
    "0 <= log2(1 + f) - f <= 1 - (1 + ln ln 2)/ln 2 = 0.0860713320559..., attained at f = 1/ln 2 - 1 alone",
    source=SOURCE,
    method="0 at both ends; on balls the derivative 1/((1+f) ln 2) - 1 is positive left of 1/ln 2 - 1 and negative right of it "
    "(2,000 intervals, and exactly 0 "
    "in the middle one), the value there is the bound; the source on all positive float16 numbers, as float64",
    expected="proved",
    cases=2000 + 31743,
)
def _logarithm_error(setting: Setting) -> Outcome:
    cases, count, largest = 0, 2000, 0.0
    with truth.precision(256):
        ln2 = flint.arb.const_log2()
        peak, bound = 1 / ln2 - 1, 1 - (1 + ln2.log()) / ln2
        gap = (1 + peak).log() / ln2 - peak - bound
        if not (gap.contains(0) and gap.abs_upper() < 1e-60 and abs(bound - flint.arb("0.0860713320559")) < 1e-13):
            return Outcome("refuted", cases, f"the value at the peak: {gap}")
        for k in range(count):
            cell = flint.arb(2 * k + 1, 1) / (2 * count)
            slope, cases = 1 / ((1 + cell) * ln2) - 1, cases + 1
            if not (slope > 0 if cell < peak else slope < 0 if cell > peak else cell.contains(peak)):
                return Outcome("refuted", cases, f"the slope in {cell}: {slope}")
        values = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
        answers = setting.backend.to_numpy(mitchell.log2_approx(setting.backend.asarray(values)))
        for value, answer in zip(values.tolist(), answers.tolist(), strict=True):
            error, cases = flint.arb(value).log() / ln2 - flint.arb(answer), cases + 1
            if not (error > -1e-60 and error <= bound):
                return Outcome("refuted", cases, f"log2 {value}: {answer}")
            largest = max(largest, float(error))
    return Outcome(
        "proved", cases, f"bound {float(bound):.13f}; largest in float16 {largest:.10f}", largest / float(bound)
    )


def _is_normal(a: Any, b: Any) -> Any:
    """Whether (2) is a normal number of the dtype, before it is rounded (what is barely below may round to the smallest normal number)."""
    fmt, wide = mitchell.FORMATS[str(a.dtype)], np.float32 if a.dtype.itemsize == 2 else a.dtype
    (e, f), (h, g) = (bits.split(x.astype(wide)) for x in (a, b))
    k = e + h + (f + g >= 1)
    return (k >= fmt.lowest) & (k <= fmt.highest)


def _patterns(setting: Setting, a: Any, b: Any) -> tuple[int, str]:
    """How many pairs have a normal Mitchell product, and the first of those on which addition of patterns and arithmetic differ."""
    one, other = (_on(setting, function, a, b) for function in (mitchell.multiply, mitchell.multiply_bits))
    normal = _is_normal(a, b)
    kind = f"u{one.dtype.itemsize}"
    wrong = normal & (one.view(kind) != other.view(kind))
    where = tuple(int(k[0]) for k in np.nonzero(wrong)) if wrong.any() else ()
    shown = f"{one.dtype} at {where}: {one[where]} and {other[where]}" if where else ""
    return int(np.count_nonzero(normal)), shown


def _normal_numbers(rng: np.random.Generator, name: str, count: int) -> Any:
    """Normal numbers of a dtype with uniform patterns, half of them of exponents near 0, so that products are normal."""
    fmt = mitchell.FORMATS[name]
    exponents = np.where(
        rng.random(count) < 0.5,
        rng.integers(-fmt.highest // 2, fmt.highest // 2, count),
        rng.integers(fmt.lowest, fmt.highest + 1, count),
    )
    fractions = rng.integers(0, 2 ** (fmt.digits - 1), count)
    ends = rng.integers(0, 4, count)  # a quarter each of 0 and of all ones
    fractions = np.where(ends == 0, 0, np.where(ends == 1, 2 ** (fmt.digits - 1) - 1, fractions))
    words = (exponents + fmt.highest) * 2 ** (fmt.digits - 1) + fractions
    signs = rng.integers(0, 2, count).astype(np.uint64) << np.uint64(fmt.width - 1)
    return (words.astype(np.uint64) | signs).astype(f"u{fmt.width // 8}").view(tolerance.DTYPES[name])


@claim(
    "MITCHELL-4",
    "adding IEEE bit patterns, less that of 1.0, equals the arithmetic definition for every pair of normal numbers whose Mitchell product is normal",
    source="T. Mogami, arXiv 2012.03458; this project",
    method="(e + h + bias) 2^m + (f + g) 2^m: where f + g >= 1 the fraction carries one into the exponent and leaves f + g - 1, "
    "which is (2); float16: all pairs "
    "of fractions, and all pairs of exponents with 48 x 48 fractions; the other dtypes: 200,000 pairs each of normal numbers of every size; "
    "with rules at the edges all pairs of 4,096 patterns of float16, and 2^24 pairs of float32",
    expected="proved",
    cases=2**20 + 465 * 48**2 + 3 * 80_000 + 2 * 2**24,
)
def _addition_of_patterns(setting: Setting) -> Outcome:
    rng, cases = np.random.default_rng(setting.seed), 0
    x, _ = _fractions(np.float16, 11)
    chosen = x[np.unique(np.concatenate([rng.integers(0, 1024, 200)[:38], [0, 1, 2, 511, 512, 513, 1021, 1022, 1023]]))]
    chosen = np.resize(chosen, 48)
    scales = np.ldexp(np.float16(1), np.arange(-14, 16)).astype(np.float16)
    every = (scales[:, None] * chosen).astype(np.float16).ravel()
    trials = [(x[i : i + 128, None], x[None, :]) for i in range(0, 1024, 128)]
    trials += [(every[i : i + 144, None], every[None, :]) for i in range(0, every.size, 144)]
    trials += [tuple(_normal_numbers(rng, name, 200_000) for _ in "ab") for name in ("bfloat16", "float32", "float64")]
    for a, b in trials:
        count, shown = _patterns(setting, a, b)
        cases += count
        if shown:
            return Outcome("refuted", cases, shown)
    for identifier in ("MITCHELL-4", "MITCHELL-4.float32"):
        count, wrong, record = _exhausted(setting, identifier)
        cases += count
        if wrong:
            return Outcome("refuted", cases, f"{identifier}: {wrong}")
    return Outcome("proved", cases, f"all normal products have the same bits; {record}, of float16 and of float32")


@claim(
    "MITCHELL-4.any",
    "adding the bit patterns of any two normal numbers, less that of 1.0, gives a number near their product, without any rule for the edges",
    source="the bare addition, as it is often shown",
    method="float32 counterexamples: a product that underflows comes out enormous and negative, one that overflows negative and tiny",
    expected="refuted",
    cases=2,
)
def _bare_addition(setting: Setting) -> Outcome:
    shown = []
    for value in (2.0**-100, 2.0**100):
        word = int(np.float32(value).view(np.uint32))
        bare = float(np.uint32((2 * word - 0x3F800000) % 2**32).view(np.float32))
        if not bare < 0:
            return Outcome("not refuted", 2, f"{value}")
        shown.append(f"2^{round(math.log2(value))} squared gives {bare:.3g}")
    return Outcome("refuted", 2, "; ".join(shown))


@claim(
    "MITCHELL-4.floor",
    "the exponent of x is floor(log2 |x|), computed in floating point",
    source="github.com/epfml/piecewise-affine-multiplication, pam/native.py and the logarithm of its CUDA kernels",
    method="float32, with a logarithm that is correctly rounded: the largest numbers below 2^k, k = 2..127, whose logarithm rounds to k",
    expected="refuted",
    cases=126,
)
def _floor_of_the_logarithm(setting: Setting) -> Outcome:
    wrong, shown = 0, ""
    with truth.precision(128):
        for k in range(2, 128):
            value = float(np.nextafter(np.float32(2.0**k), np.float32(0)))
            logarithm = np.float32(float(flint.arb(value).log_base(2)))
            wrong += bool(np.floor(logarithm) != k - 1)
            shown = shown or (f"log2 {value!r} rounds to {logarithm}" if np.floor(logarithm) != k - 1 else "")
    right = setting.backend.to_numpy(mitchell.log2_approx(setting.backend.asarray(np.array([3.9999998], np.float32))))
    return Outcome(
        "refuted" if wrong and float(right[0]) < 2 else "not refuted",
        126,
        f"{shown}; {wrong} of 126 exponents one too large",
    )


LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)


def _errors_of_dots(setting: Setting, a: Any, b: Any) -> list[tuple[Fraction, Fraction, Fraction]]:
    """For each row: |dot - exact dot|, a ninth of the sum of exact magnitudes, and γ times the sum of Mitchell's, in exact fractions."""
    found, u = [], Fraction(1, 2**24)
    answers, products = _on(setting, mitchell.dot, a, b), _on(setting, mitchell.multiply, a, b)
    for row, other, answer, made in zip(*(x.tolist() for x in (a, b, answers, products)), strict=True):
        terms = [Fraction(x) * Fraction(y) for x, y in zip(row, other, strict=True)]
        gamma = len(terms) * u / (1 - len(terms) * u)
        magnitude, added = sum(map(abs, terms), Fraction(0)), sum(map(abs, map(Fraction, made)), Fraction(0))
        found.append((abs(sum(terms, -Fraction(answer))), magnitude / 9, gamma * added))
    return found


@claim(
    "MITCHELL-5",
    "where no product leaves the range of normal numbers, |dot - exact dot| <= (1/9) Σ|a_i b_i| + γ Σ|product_i|, γ = n u/(1 - n u); attained "
    "without the second term for f = g = 1/2 and equal signs",
    source="MITCHELL-1; products are exact, sums err by γ",
    method="triangle inequality over the terms; float32 dots of 1 to 34 terms in exact fractions, rows of all sizes and signs; "
    "equality on rows of 1.5 · 2^k",
    expected="proved",
    cases=8 * 18,
)
def _dot_error(setting: Setting) -> Outcome:
    rng, worst = np.random.default_rng(setting.seed), Fraction(0)
    for n in LENGTHS:
        a, b = ((rng.normal(size=(ROWS, n)) * 2.0 ** rng.integers(-9, 10, (ROWS, n))).astype(np.float32) for _ in "ab")
        b[::2] = np.copysign(b[::2], a[::2])
        for error, bound, rounding in _errors_of_dots(setting, a, b):
            worst = max(worst, error / (bound + rounding))
            if error > bound + rounding:
                return Outcome("refuted", 0, f"{n} terms: {float(error)} above {float(bound)}")
        a, b = (np.float32(1.5) * 2.0 ** rng.integers(-4, 5, (2, n)).astype(np.float32) for _ in "ab")
        if any(error != bound for error, bound, _ in _errors_of_dots(setting, a, b)):
            return Outcome("refuted", 0, f"{n} terms of 1.5 · 2^k: not the bound")
    cases, found = len(LENGTHS) * (ROWS + 2), f"largest share of the bound found at random {float(worst):.3f}"
    return Outcome("proved", cases, f"{found}; equality at 1.5 · 2^k", 1.0)


def _mean_error() -> Any:
    """4 ln²2 - 1 - 3J, J = ∫₀¹ ln(2 - f)/(1 + f) df = ln 2 ln 3 - Li₂(2/3) + Li₂(1/3)."""
    two, three = flint.arb(2).log(), flint.arb(3).log()
    j = two * three - (flint.arb(2) / 3).polylog(2) + (flint.arb(1) / 3).polylog(2)
    return 4 * two * two - 1 - 3 * j


def _integrated_mean() -> Any:
    """The mean of fg/((1+f)(1+g)) over f + g < 1 and of (1-f)(1-g)/((1+f)(1+g)) over the rest: inner integrals done, the outer one by quadrature."""
    one, two = flint.acb(1), flint.acb(2).log()

    def inner(f: Any, _: bool) -> Any:
        left = f / (1 + f) * (1 - f - (2 - f).log())  # ∫ g/(1+g) = g - ln(1+g), from 0 to 1 - f
        return left + (1 - f) / (1 + f) * (
            2 * two - f - 2 * (2 - f).log()
        )  # ∫ (1-g)/(1+g) = 2 ln(1+g) - g, from 1 - f to 1

    return flint.acb.integral(inner, one * 0, one).real


def _cell_bounds(count: int) -> tuple[float, float]:
    """Bounds of the mean by cells of a grid, on each of which the error's factors are monotone: no calculus, and 1e-9 for rounding."""
    edges = np.arange(count + 1) / count
    f0, f1, g0, g1 = edges[:-1, None], edges[1:, None], edges[None, :-1], edges[None, 1:]
    rising = [f / (1 + f) * (g / (1 + g)) for f, g in ((f0, g0), (f1, g1))]
    falling = [(1 - f) / (1 + f) * ((1 - g) / (1 + g)) for f, g in ((f1, g1), (f0, g0))]
    below, above = f1 + g1 <= 1 + 1e-12, f0 + g0 >= 1 - 1e-12
    low = np.where(below, rising[0], np.where(above, falling[0], np.minimum(rising[0], falling[0])))
    high = np.where(below, rising[1], np.where(above, falling[1], np.maximum(rising[1], falling[1])))
    return float(low.mean()) - 1e-9, float(high.mean()) + 1e-9


@claim(
    "MITCHELL-6",
    "the mean relative error of the product over uniform fractions is 4 ln²2 - 1 - 3 (ln 2 ln 3 - Li2(2/3) + Li2(1/3)) = 0.0384879...",
    source="this project",
    method="the inner integrals are elementary, the outer one gives dilogarithms; against rigorous quadrature on balls, bounds "
    "from 1024 x 1024 cells without "
    "calculus, and the source on all 2^20 pairs of midpoints of float32 fractions",
    expected="proved",
    cases=3,
)
def _mean(setting: Setting) -> Outcome:
    with truth.precision(128):
        value, quadrature = _mean_error(), _integrated_mean()
        gap = value - quadrature
    low, high = _cell_bounds(1024)
    middles = (1 + (np.arange(1024) + 0.5) / 1024).astype(np.float32)
    answer = _on(setting, mitchell.multiply, middles[:, None], middles[None, :]).astype(np.float64)
    exact = middles[:, None].astype(np.float64) * middles
    sampled = float(np.mean((exact - answer) / exact))
    # h = 1/1024: the midpoint rule errs by at most h²/24 (|∂ff| + |∂gg|) <= h²/3 where the error is smooth, and in the share h of the cells that the
    # diagonal f + g = 1 crosses by at most h/2 (|∂f| + |∂g|) <= 2h
    near = abs(sampled - float(value)) < 4 / 1024**2
    if not (gap.contains(0) and gap.abs_upper() < 1e-25 and low < float(value) < high and near):
        return Outcome("refuted", 3, f"{value}, {quadrature}, {low}, {high}, {sampled}")
    return Outcome("proved", 3, f"{value.str(15, radius=False)}; quadrature agrees to {float(gap.abs_upper()):.1e}")


@claim(
    "MITCHELL-6.hardware",
    "over all 255 x 255 pairs of positive 8-bit whole numbers: mean relative error 0.037878, largest 1/9, wrong for 0.930923 of all 65,536",
    source="exhaustion of the 8-bit multiplier of github.com/albertodbg/log-arithmetic, fcf586d",
    method="exact fractions of the source's answers",
    expected="measured",
    cases=255**2,
)
def _hardware(setting: Setting) -> Outcome:
    n = np.arange(1, 256, dtype=np.uint8)
    answer = _on(setting, mitchell.multiply, n[:, None], n[None, :]).astype(np.int64)
    exact = n[:, None].astype(np.int64) * n
    errors = [Fraction(int(e), int(x)) for e, x in zip((exact - answer).ravel(), exact.ravel(), strict=True)]
    mean = math.fsum(map(float, errors)) / len(errors)
    wrong = sum(e != 0 for e in errors) / 256**2
    figures = f"mean {mean:.6f}, largest {max(errors)}, wrong {wrong:.6f}"
    right = figures == "mean 0.037878, largest 1/9, wrong 0.930923"
    return Outcome("measured" if right else "refuted", len(errors), figures)


def _corrected(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    s = f + g
    return (5 + f) * (5 + g) - 121 * f * g, 5 * (1 - s) * (5 + 6 * s) + 30 * (f - g) ** 2


def _corrected_with_carry(f: Fraction, g: Fraction) -> tuple[Fraction, Fraction]:
    p, q = 1 - f, 1 - g
    t = p + q
    return (5 + f) * (5 + g) - 121 * p * q, 6 * (1 - t) * (6 + 5 * t) + 30 * (p - q) ** 2


def _first_octave(u: Fraction, v: Fraction) -> tuple[Fraction, Fraction]:
    """Residues in [1/2, 1) and [1/4, 1/2): 2u + v <= 1, so that uv <= 1/8 and 120 uv <= 15."""
    return Fraction(1, 8) - u * (1 - 2 * u), 2 * (u - Fraction(1, 4)) ** 2


def _wide_apart(u: Fraction, v: Fraction) -> tuple[Fraction, Fraction]:
    s, d = u + v, u - v
    return (3 + u) * (9 + v) - 121 * u * v, 27 + 6 * s - 30 * s * s + 30 * (d + Fraction(1, 20)) ** 2 - Fraction(3, 40)


def _wide_apart_with_carry(u: Fraction, v: Fraction) -> tuple[Fraction, Fraction]:
    p, q = 1 - u, 1 - v
    t, d = p + q, p - q
    return (
        (3 + u) * (9 + v) - 121 * p * q,
        40 - 7 * t - 30 * t * t + 30 * (d - Fraction(1, 20)) ** 2 - Fraction(3, 40),
    )


def _complements(p: Fraction, q: Fraction) -> tuple[Fraction, Fraction]:
    """Where p + q <= 1, what is left out after a carry is no larger, in proportion, than what is left out without one."""
    return (2 - p) * (2 - q) - (1 + p) * (1 + q), 3 * (1 - p - q)


@claim(
    "MITCHELL-7",
    "with one correction step (P(f, g) is added, or P(1-f, 1-g) after a carry) the relative error is in [0, 1/121], and 1/121 exactly at f = g = 3/8",
    source=f"the correction: {SOURCE}, section on error reduction; the bound: this project",
    method="the residues are 2^-i (1+u) and 2^-j (1+v): for each pair (i, j) a polynomial inequality, by six identities "
    "(docs/mitchell.md) and the signs of two concave ones at their ends; the source on all pairs of fractions of float16 and bfloat16, and on "
    "all pairs of 12-bit whole numbers, whose errors sum to those of the products of the residues",
    expected="proved",
    cases=6 * 9 + 2**20 + 2**14 + 2**24,
)
def _corrected_error(setting: Setting) -> Outcome:
    sides = (_corrected, _corrected_with_carry, _first_octave, _wide_apart, _wide_apart_with_carry, _complements)
    ends = [
        k - Fraction(3, 40) + m * s - 30 * s * s for k, m in ((27, 6), (40, -7)) for s in (0, 1)
    ]  # concave: positive between
    if not _identities(*sides) or min(ends) <= 0:
        return Outcome("refuted", 0, "an identity or a sign of the proof")
    fractions, wrong = _corrected_fractions(setting)
    whole, other, record = _exhausted(setting, "MITCHELL-7")
    cases = 6 * len(GRID) + fractions + whole
    if wrong or other:
        return Outcome("refuted", cases, wrong or other)
    return Outcome("proved", cases, f"1/121 at 11 times 11, which gives 120; {record}", 1.0)


def _corrected_fractions(setting: Setting) -> tuple[int, str]:
    """The source on all pairs of fractions of 16 bits: in float64, where it is exact, and in their own dtype, the same rounded once."""
    cases = 0
    for dtype, digits in SIXTEEN:
        x, whole = _fractions(dtype, digits)
        unit, worst = 1 << (digits - 1), 11 << (digits - 4)
        wide = x.astype(np.float64)
        for rows, answer in _pairs(setting, mitchell.corrected_multiply, wide, wide):
            exact, scaled = whole[rows, None] * whole, answer * unit**2
            error = exact - scaled.astype(np.int64)
            right = (scaled == np.rint(scaled)) & (error >= 0) & (121 * error <= exact)
            right &= (121 * error == exact) == ((whole[rows, None] == worst) & (whole == worst))
            right &= _on(setting, mitchell.corrected_multiply, x[rows, None], x[None, :]) == answer.astype(dtype)
            cases += right.size
            if not right.all():
                i, j = (int(k[0]) for k in np.nonzero(~right))
                return cases, f"{dtype}: {x[rows][i]} times {x[j]} gives {answer[i, j]}"
    return cases, ""
