"""Mitchell's arithmetic against exact rationals: every dtype, edge, dialect and width; bit patterns; whole numbers; parity with recorded hardware."""

from __future__ import annotations

import functools
import itertools
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from systems import HOST, SYSTEMS, rounded

from refimpl import bits, errors, mitchell
from validation import tolerance, truth

if TYPE_CHECKING:
    from systems import System

FLOATS = ("float16", "bfloat16", "float32", "float64")
WHOLES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
STRICT = [pytest.param(system, id=system.name) for system in HOST if system.name.startswith("strict")]


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


# --- exact arithmetic, written once more ------------------------------------------------------------------------------------------


def _split(x: Fraction) -> tuple[int, Fraction]:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    e -= Fraction(2) ** e > x
    return e, x / Fraction(2) ** e - 1


def _product(x: Fraction, y: Fraction) -> Fraction:
    (e, f), (h, g) = _split(x), _split(y)
    return Fraction(2) ** (e + h) * (1 + f + g) if f + g < 1 else Fraction(2) ** (e + h + 1) * (f + g)


def _quotient(x: Fraction, y: Fraction) -> Fraction:
    (e, f), (h, g) = _split(x), _split(y)
    return Fraction(2) ** (e - h) * (1 + f - g) if f >= g else Fraction(2) ** (e - h - 1) * (2 + f - g)


def _nearest(x: Fraction, fmt: bits.Format) -> Fraction | None:
    """The number of the format that is nearest to x > 0, ties to even; None for infinity."""
    unit = Fraction(2) ** (max(_split(x)[0], fmt.lowest) - fmt.digits + 1)
    value = round(x / unit) * unit
    return value if value < Fraction(2) ** (fmt.highest + 1) else None


def _patterns(dtype: str, count: int, seed: int = 0) -> Any:
    """Floats of uniformly drawn bit patterns, half of them with an exponent near 0, and all the special ones."""
    rng, fmt, kind = np.random.default_rng(seed), bits.FORMATS[dtype], tolerance.DTYPES[dtype]
    words = rng.integers(0, 2**fmt.width, count, dtype=np.uint64, endpoint=False) if fmt.width < 64 else None
    words = rng.integers(0, 2**64, count, dtype=np.uint64) if words is None else words
    near = rounded(rng.normal(size=count) * 2.0 ** rng.integers(-4, 5, count), dtype)
    drawn = words.astype(f"u{fmt.width // 8}").view(kind)
    low, top = 2.0**fmt.lowest, (2 - 2.0 ** (1 - fmt.digits)) * 2.0**fmt.highest
    special = [
        0.0,
        np.inf,
        np.nan,
        1.0,
        1.5,
        1.25,
        low,
        1.5 * low,
        0.75 * low,
        2.0 ** (1 - fmt.digits) * low,
        top,
        top / 2,
    ]
    both = rounded([*special, *(-value for value in special)], dtype)
    return np.concatenate([drawn[: count // 2], near[: count // 2], both])


def _same(a: Any, b: Any) -> bool:
    """Equal bits, any NaN for any NaN."""
    with np.errstate(invalid="ignore"):
        nan = [np.isnan(x.astype(np.float64)) for x in (a, b)]
    kind = f"u{a.dtype.itemsize}"
    return a.dtype == b.dtype and bool(np.all((nan[0] & nan[1]) | (a.view(kind) == b.view(kind))))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("operation", "exact", "ieee"),
    [(mitchell.multiply, _product, np.multiply), (mitchell.divide, _quotient, np.divide)],
    ids=["product", "quotient"],
)
def test_answers_are_the_rational_ones_rounded_once_and_special_ones_those_of_ieee_754(
    dtype: str, operation: Any, exact: Any, ieee: Any
) -> None:
    x = _patterns(dtype, 60)
    a, b = (each.ravel() for each in np.meshgrid(x, x))
    with np.errstate(all="ignore"):
        answers, wide = operation(a, b), [each.astype(np.float64) for each in (a, b)]
        others = ieee(*wide)
    assert answers.dtype == a.dtype
    for u, v, got, other in zip(
        *(each.tolist() for each in wide), answers.astype(np.float64).tolist(), others.tolist(), strict=True
    ):
        if not (math.isfinite(u) and math.isfinite(v) and u and v):
            same = got == other and math.copysign(1, got) == math.copysign(1, other)
            assert same or (math.isnan(got) and math.isnan(other)), (u, v, got)
            continue
        wanted = _nearest(exact(abs(Fraction(u)), abs(Fraction(v))), bits.FORMATS[dtype])
        size = math.inf if wanted is None else float(wanted)
        assert abs(got) == size, (u, v, got)
        assert math.copysign(1, got) == math.copysign(1, u) * math.copysign(1, v), (u, v, got)


@pytest.mark.parametrize("system", STRICT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strict_arrays_give_the_bits_of_numpy(system: System, dtype: str) -> None:
    if dtype not in system.dtypes:
        pytest.skip("no such dtype there")
    a, b = _patterns(dtype, 40_000), _patterns(dtype, 40_000, seed=1)[::-1].copy()
    with np.errstate(all="ignore"):
        for function in (mitchell.multiply, mitchell.divide, mitchell.corrected_multiply):
            assert _same(system.back(function(system.to(a), system.to(b))), function(a, b)), function.__name__
        for dialect in ("flush", "pam", "semimul"):
            there = mitchell.multiply(system.to(a), system.to(b), dialect=dialect)
            assert _same(system.back(there), mitchell.multiply(a, b, dialect=dialect)), dialect
        for one in (mitchell.log2_approx, mitchell.exp2_approx):
            assert _same(system.back(one(system.to(a))), one(a)), one.__name__


# --- edges ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dialect", ["flush", "pam", "semimul"])
def test_addition_of_patterns_is_the_arithmetic_form_in_every_dialect(dtype: str, dialect: str) -> None:
    if (dialect, dtype) == ("pam", "float16"):
        pytest.skip("float16 has no 1e37")
    a, b = _patterns(dtype, 40_000), _patterns(dtype, 40_000, seed=1)
    with np.errstate(all="ignore"):
        numbers = ~(np.isnan(a.astype(np.float64)) | np.isnan(b.astype(np.float64)))
        one, other = (f(a, b, dialect=dialect)[numbers] for f in (mitchell.multiply, mitchell.multiply_bits))
        assert _same(one, other)


EDGES = [  # float32: operands, then what "ieee", "flush", "pam" and "semimul" answer; None: what "ieee" does
    (0.0, -1.5, -0.0, -0.0, 0.0, 0.0),
    (
        2.0**-130,
        2.0**20,
        2.0**-110,
        0.0,
        17 * 2.0**-111,
        0.0,
    ),  # a subnormal: kept, zero, its pattern 2^-127 (1 + 2^-4), zero
    (2.0**-63, -(2.0**-65), -(2.0**-128), -0.0, 0.0, 0.0),
    (1.5 * 2.0**-63, 1.75 * 2.0**-64, 1.25 * 2.0**-126, 1.25 * 2.0**-126, 0.0, 0.0),  # normal because of the carry
    (2.0**-61, 2.0**-61, 2.0**-122, 2.0**-122, 2.0**-122, 2.0**-122),
    (2.0**-62, 1.0625 * 2.0**-61, 1.0625 * 2.0**-123, 1.0625 * 2.0**-123, 0.0, 1.0625 * 2.0**-123),  # just below 1e-37
    (2.0**100, -(2.0**30), -np.inf, -np.inf, np.nan, -np.inf),
    (1.75 * 2.0**63, 1.75 * 2.0**64, np.inf, np.inf, np.nan, np.nan),  # beyond the range because of the carry
    (1.5 * 2.0**63, 1.5 * 2.0**64, np.inf, np.inf, np.nan, np.inf),  # the same, and f + g = 1
    (3e18, 4e18, None, None, np.nan, None),
    (np.inf, 0.0, np.nan, np.nan, np.nan, 0.0),
    (-np.inf, 2.0, -np.inf, -np.inf, np.nan, -np.inf),
    (np.inf, 2.0**-20, np.inf, np.inf, np.nan, 2.0**108),
    (np.nan, 1.0, np.nan, np.nan, np.nan, np.nan),
]


@pytest.mark.parametrize(("x", "y", "ieee", "flush", "pam", "semimul"), EDGES)
def test_the_table_of_edges(x: float, y: float, ieee: float, flush: float, pam: float, semimul: float) -> None:
    a, b = np.array([x], np.float32), np.array([y], np.float32)
    with np.errstate(all="ignore"):
        ordinary = mitchell.multiply(a, b)
        for dialect, wanted in (("ieee", ieee), ("flush", flush), ("pam", pam), ("semimul", semimul)):
            expected = ordinary if wanted is None else np.array([wanted], np.float32)
            for order in ((a, b), (b, a)):
                assert _same(mitchell.multiply(*order, dialect=dialect), expected), dialect


@pytest.mark.parametrize(
    ("x", "y", "ieee", "pam"),
    [
        (1.0, 0.0, np.inf, np.nan),
        (-1.0, 0.0, -np.inf, np.nan),
        (0.0, -0.0, np.nan, np.nan),
        (-0.0, 2.0, -0.0, 0.0),
        (np.inf, np.inf, np.nan, np.nan),
        (np.inf, -2.0, -np.inf, np.nan),
        (2.0, -np.inf, -0.0, 0.0),
        (2.0**-100, 2.0**24, 2.0**-124, 0.0),
        (2.0**100, 2.0**-24, 2.0**124, np.nan),
    ],
)
def test_the_edges_of_quotients(x: float, y: float, ieee: float, pam: float) -> None:
    a, b = np.array([x], np.float32), np.array([y], np.float32)
    assert _same(mitchell.divide(a, b), np.array([ieee], np.float32))
    assert _same(mitchell.divide(a, b, dialect="pam"), np.array([pam], np.float32))


def test_single_rules_replace_those_of_a_dialect(system: System) -> None:
    if system.is_ball or "float32" not in system.dtypes:
        pytest.skip("rules of a dtype's range")

    def answer(x: float, y: float, **rules: str) -> float:
        a, b = (system.to(np.array([v], np.float32)) for v in (x, y))
        return float(system.back(mitchell.multiply(a, b, **rules))[0])

    assert math.copysign(1, answer(-1.0, 0.0)) == -1
    assert math.copysign(1, answer(-1.0, 0.0, zeros="positive")) == 1
    assert answer(2.0**-130, 2.0**20, subnormals="zero") == 0
    assert answer(2.0**-130, 2.0**20, dialect="flush", subnormals="kept") == 2.0**-110
    assert answer(2.0**-63, 2.0**-65, underflow="zero") == 0
    assert answer(2.0**-63, 2.0**-65, dialect="flush", underflow="gradual") == 2.0**-128
    assert math.isnan(answer(2.0**100, 2.0**30, overflow="1e37"))
    assert math.isnan(answer(np.inf, 2.0, infinities="nan"))
    assert answer(np.inf, 2.0**-20, infinities="number") == 2.0**108


def test_thresholds_are_compared_as_the_program_does() -> None:
    """Its float32 product is compared with the double 1e-37, which lies between two float32 numbers: the lower is flushed, the higher is not."""
    below = np.float32(1e-37)
    below = below if float(below) < 1e-37 else np.nextafter(below, np.float32(0))
    x = np.array([below, np.nextafter(below, np.float32(1))])
    for function in (mitchell.multiply, mitchell.multiply_bits):
        assert function(x, np.ones(2, np.float32), dialect="pam").tolist() == [0.0, float(x[1])]


# --- balls ------------------------------------------------------------------------------------------------------------------------

FRACTIONS = st.integers(1, 2**24 - 1).map(lambda n: float(n) / 2**10)


@given(FRACTIONS, FRACTIONS, st.sampled_from([1, -1]))
def test_on_balls_the_product_is_the_power_of_the_sum_of_logarithms_exactly(x: float, y: float, sign: int) -> None:
    with truth.precision(256):
        a, b = truth.balls(np.array([sign * x])), truth.balls(np.array([y]))
        product, quotient = mitchell.multiply(a, b)[0], mitchell.divide(a, b)[0]
        logarithms = [mitchell.log2_approx(abs(z)) for z in (a, b)]
        assert product == sign * mitchell.exp2_approx(logarithms[0] + logarithms[1])[0]
        assert quotient == sign * mitchell.exp2_approx(logarithms[0] - logarithms[1])[0]
        assert product.is_exact()
        assert Fraction(float(product)) == sign * _product(Fraction(x), Fraction(y))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: mitchell.multiply(x(1, 0.1), x(1.5)), "the exponent of a number"),
        (lambda x: mitchell.multiply(x(0, 0.1), x(1.5)), "may be zero"),
        (lambda x: mitchell.multiply(x(1.5, 0.1), x(1.5)), "whether a number is below 1"),
        (lambda x: mitchell.divide(x(1.5, 0.1), x(1.5)), "whether a number is below 0"),
        (lambda x: mitchell.log2_approx(x(2, 0.1)), "the exponent of a number"),
        (lambda x: mitchell.exp2_approx(x(2, 0.1)), "the whole part of a number"),
        (lambda x: mitchell.multiply(x(1e-37, 1e-39), x(1), dialect="pam"), "below 1e-37"),
    ],
)
def test_balls_that_decide_nothing_are_undecided(call: Any, what: str) -> None:
    with _refused(errors.UndecidedError, "undecided", what, "one side", "more bits"):
        call(lambda *ball: np.array([flint.arb(*ball)], dtype=object))


def test_wide_balls_within_one_piece_contain_the_answers_of_their_numbers() -> None:
    a, b = np.array([flint.arb(1.25, 0.124)], dtype=object), np.array([flint.arb(1.2, 0.1)], dtype=object)
    product = mitchell.multiply(a, b)[0]
    for x, y in itertools.product((1.13, 1.25, 1.37), (1.11, 1.2, 1.29)):
        assert product.contains(flint.arb(float(mitchell.multiply(np.array([x]), np.array([y]))[0])))


# --- logarithm and power ----------------------------------------------------------------------------------------------------------


def test_logarithm_and_power_are_exact_and_inverse_at_powers_of_two(system: System) -> None:
    for dtype in system.dtypes:
        exponents = np.arange(-14.0, 16.0)
        logarithm = mitchell.log2_approx(system.floats(2.0**exponents, dtype))
        assert np.asarray(system.back(logarithm), np.float64).tolist() == exponents.tolist()
        power = mitchell.exp2_approx(system.floats(exponents, dtype))
        assert np.asarray(system.back(power), np.float64).tolist() == (2.0**exponents).tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_arguments_of_logarithm_and_power(dtype: str) -> None:
    x = rounded([0.0, -0.0, -1.0, np.inf, np.nan], dtype)
    assert np.array_equal(
        mitchell.log2_approx(x).astype(float), [-np.inf, -np.inf, np.nan, np.inf, np.nan], equal_nan=True
    )
    top = bits.FORMATS[dtype].highest + 1.0
    x = rounded([np.inf, -np.inf, np.nan, top, -3 * top, -0.0], dtype)
    assert np.array_equal(mitchell.exp2_approx(x).astype(float), [np.inf, 0, np.nan, np.inf, 0, 1], equal_nan=True)


@example(-(2.0**-60))
@example(-1.4 * 2.0**-53)  # 1 + x and 2 + x rounded in turn give another number
@example(-1074.5)
@example(1023.9999)
@given(st.floats(-1100, 1024, exclude_max=True))
def test_the_power_is_rounded_once(x: float) -> None:
    n = math.floor(x)
    exact = Fraction(2) ** n * (1 + Fraction(x) - n)
    wanted = _nearest(exact, bits.FORMATS["float64"])
    assert mitchell.exp2_approx(np.array([x]))[0] == (math.inf if wanted is None else float(wanted))


@pytest.mark.parametrize("dtype", FLOATS)
def test_roots_are_powers_of_half_the_logarithm_rounded_once(dtype: str, system: System) -> None:
    if dtype not in system.dtypes:
        pytest.skip("no such dtype there")
    x = _patterns(dtype, 200)
    with np.errstate(invalid="ignore"):
        x = x[np.isfinite(x.astype(np.float64)) & (x.astype(np.float64) > 0)]
    with truth.precision(128):
        answers = np.asarray(system.back(mitchell.square_root(system.to(x))), np.float64)
    for value, got in zip(x.astype(np.float64).tolist(), answers.tolist(), strict=True):
        e, f = _split(Fraction(value))
        exact = Fraction(2) ** (e // 2) * (1 + (e % 2 + f) / 2)
        assert got == float(_nearest(exact, bits.FORMATS[dtype]) or math.inf)
    if not system.is_ball:
        special = system.floats([0.0, -0.0, -1.0, np.inf, np.nan], dtype)
        found = np.asarray(system.back(mitchell.square_root(special)), np.float64)
        assert np.array_equal(found, [0, 0, np.nan, np.inf, np.nan], equal_nan=True)
        assert np.signbit(found[:2]).tolist() == [False, True]


def _power(x: Fraction, n: int) -> Fraction:
    """2^≈(n (e + f)) in exact fractions."""
    e, f = _split(x)
    whole = math.floor(n * (e + f))
    return Fraction(2) ** whole * (1 + n * (e + f) - whole)


@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_powers_are_products_of_so_many_numbers_rounded_once(dtype: str, system: System) -> None:
    if dtype not in system.dtypes:
        pytest.skip("no such dtype there")
    x = _patterns(dtype, 60)
    x = x[np.isfinite(x.astype(np.float64)) & (x != 0)]
    x = x[np.abs(np.log2(np.abs(x.astype(np.float64)))) < 9]
    with truth.precision(128):
        for n in (3, -2) if system.name.startswith("strict") else (0, 1, 2, 3, 7, -1, -2, -5, 3.0):
            answers = np.asarray(system.back(mitchell.power(system.to(x), n)), np.float64)
            for value, got in zip(x.astype(np.float64).tolist(), answers.tolist(), strict=True):
                exact = _power(abs(Fraction(value)), int(n))
                wanted = _nearest(exact, bits.FORMATS[dtype])
                assert abs(got) == (math.inf if wanted is None else float(wanted)), (value, n)
                assert math.copysign(1, got) == math.copysign(1, value) ** n
    product = mitchell.multiply(mitchell.multiply(system.to(x), system.to(x)), system.to(x))
    if not system.is_ball and dtype == "float64":
        assert _same(system.back(mitchell.power(system.to(x), 3)), system.back(product))


@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_of_one_half_are_roots_and_those_of_minus_one_are_quotients(dtype: str, floating_system: System) -> None:
    system = floating_system
    if dtype not in system.dtypes:
        pytest.skip("no such dtype there")
    x = system.to(_patterns(dtype, 100))
    xp = system.xp
    with np.errstate(all="ignore"):
        ones, positive = xp.ones_like(x), x > 0
        for product in ("mitchell", "exact")[: 1 if system.name.startswith("strict") else 2]:
            halves = (
                mitchell.power(x, 0.5, product=product),
                mitchell.power(x, xp.astype(ones * 0.5, x.dtype), product=product),
            )
            root = xp.where(x == 0, xp.abs(x), mitchell.square_root(x))  # of -0 too
            assert all(_same(system.back(half), system.back(root)) for half in halves)
            inverse = mitchell.power(x, -ones, product=product)
            assert _same(system.back(inverse[positive]), system.back(mitchell.divide(ones, x)[positive]))
        assert _same(system.back(mitchell.power(x, -1)), system.back(mitchell.divide(ones, x)))


@pytest.mark.parametrize(
    ("y", "answers"),  # of 0, -0, infinity, -infinity, NaN, -2, 4
    [
        (3, [0.0, -0.0, np.inf, -np.inf, np.nan, -8.0, 64.0]),
        (2, [0.0, 0.0, np.inf, np.inf, np.nan, 4.0, 16.0]),
        (-3, [np.inf, -np.inf, 0.0, -0.0, np.nan, -0.125, 2.0**-6]),
        (0, [1.0, 1.0, 1.0, 1.0, np.nan, 1.0, 1.0]),
        (2**70 + 1, [0.0, -0.0, np.inf, -np.inf, np.nan, -np.inf, np.inf]),
        (-(2**70), [np.inf, np.inf, 0.0, 0.0, np.nan, 0.0, 0.0]),
        (1.5, [0.0, 0.0, np.inf, np.nan, np.nan, np.nan, 8.0]),
        (-1.5, [np.inf, np.inf, 0.0, np.nan, np.nan, np.nan, 0.125]),
        (1e300, [0.0, 0.0, np.inf, np.nan, np.nan, np.nan, np.inf]),
        (math.inf, [np.nan] * 7),
        (math.nan, [np.nan] * 7),
    ],
)
def test_the_edges_of_powers(y: float, answers: list[float]) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -2.0, 4.0])
    given = np.full(7, y) if isinstance(y, float) and not (math.isfinite(y) and abs(y) < 1e9) else y
    with np.errstate(all="ignore"):
        assert _same(mitchell.power(x, given), np.array(answers))
        if isinstance(y, float):
            assert _same(mitchell.power(x, np.full(7, y), product="exact"), np.array(answers))


def test_large_powers_of_numbers_near_1_are_not_those_of_smaller_powers() -> None:
    x = np.array([1 - 2.0**-53, 1 + 2.0**-52])  # logarithms -2^-52 and 2^-52
    for product in ("mitchell", "exact"):
        assert mitchell.power(x, np.full(2, 2.0**60), product=product).tolist() == [2.0**-256, 2.0**256]
    assert mitchell.power(x, 2**60).tolist() == [2.0**-256, 2.0**256]


@given(FRACTIONS, st.integers(-64, 64).map(lambda n: n / 16))
def test_powers_of_balls_are_those_of_the_sum_of_both_products(x: float, y: float) -> None:
    with truth.precision(256):
        ball, e = truth.balls(np.array([x])), Fraction(_split(Fraction(x))[0])
        f = _split(Fraction(x))[1]
        product = mitchell.power(ball, truth.balls(np.array([y])))[0]
        parts = [Fraction(0) if not y * part else _product(abs(Fraction(y)), abs(part)) for part in (e, f)]
        total = (parts[0] if (e < 0) == (y < 0) else -parts[0]) + (parts[1] if y > 0 else -parts[1])
        whole = math.floor(total)
        assert Fraction(float(product)) == Fraction(2) ** whole * (1 + total - whole)


# --- bits -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_numbers_are_split_exactly(system: System) -> None:
    for dtype in system.dtypes:
        if dtype not in ("float32", "float64"):
            continue
        x = _patterns(dtype, 400)
        x = x[np.isfinite(x) & (x != 0)]
        e, f = bits.split(system.to(x))
        e = np.array([int(k) for k in e]) if system.is_ball else system.back(e)
        for value, k, fraction in zip(x.tolist(), e.tolist(), system.back(f).astype(float).tolist(), strict=True):
            assert (int(k), Fraction(fraction)) == _split(abs(Fraction(value)))


def test_whole_numbers_of_64_bits_have_a_leading_one(system: System) -> None:
    if system.is_ball:
        pytest.skip("no whole balls")
    n = [m for k in range(64) for m in (2**k, 2**k + 2 ** max(k - 1, 0) * (k > 0), 2 ** (k + 1) - 1)]
    place = system.back(bits.leading_one(system.to(np.array([*n, 0], np.uint64))))
    assert place.tolist() == [*(m.bit_length() - 1 for m in n), 0]


def test_patterns_go_there_and_back_and_are_refused_where_there_are_none(system: System) -> None:
    for dtype in system.dtypes:
        x = system.floats([1.0, -2.5, 0.0], dtype)
        if system.name.startswith(("numpy", "cupy")):
            assert system.back(bits.from_pattern(bits.pattern(x), x.dtype)).tolist() == system.back(x).tolist()
        else:
            with _refused(errors.DtypeError, "out of reach", "NumPy or CuPy", "arithmetic form"):
                mitchell.multiply_bits(x, x)


# --- whole numbers ------------------------------------------------------------------------------------------------------------------


def _whole_product(x: int, y: int) -> int:
    if not x or not y:
        return 0
    size = _product(Fraction(abs(x)), Fraction(abs(y)))
    assert size.denominator == 1
    return int(size) * (1 if (x < 0) == (y < 0) else -1)


def _whole_quotient(x: int, y: int) -> int:
    return math.floor((1 if (x < 0) == (y < 0) else -1) * _quotient(Fraction(abs(x)), Fraction(abs(y)))) if x else 0


def _wholes(dtype: str, count: int, seed: int) -> Any:
    """Numbers of every length, and the ends of the type."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    drawn = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True) >> rng.integers(
        0, info.bits, count
    ).astype(dtype)
    return np.concatenate([drawn.astype(dtype), np.array([info.min, info.max, 0, 1, 2, 3, info.max // 2 + 1], dtype)])


def _as_ints(answer: Any, system: System) -> list[int]:
    if isinstance(answer, tuple):
        return [(int(h) << 64) + int(w) for h, w in zip(*(system.back(part).tolist() for part in answer), strict=True)]
    return [int(value) for value in system.back(answer).tolist()]


@pytest.mark.parametrize("dtype", WHOLES)
def test_whole_products_are_exact_and_of_twice_the_width(dtype: str, floating_system: System) -> None:
    system, x, y = floating_system, _wholes(dtype, 150, 0), _wholes(dtype, 150, 1)
    a, b = np.concatenate([x, x]), np.concatenate([y, x])
    answer = mitchell.multiply(system.to(a), system.to(b))
    assert _as_ints(answer, system) == [_whole_product(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    kind, width = dtype.rstrip("0123456789"), np.iinfo(dtype).bits
    names = [str(part.dtype).rpartition(".")[2] for part in (answer if isinstance(answer, tuple) else (answer,))]
    assert names == ([f"{kind}64", "uint64"] if width == 64 else [f"{kind}{2 * width}"])


@pytest.mark.parametrize("dtype", WHOLES)
def test_whole_quotients_are_floored_in_the_same_dtype(dtype: str, floating_system: System) -> None:
    system, info = floating_system, np.iinfo(dtype)
    a, b = (each.ravel() for each in np.meshgrid(_wholes(dtype, 20, 0), _wholes(dtype, 20, 1)))
    keep = (b != 0) & ~((a == info.min) & (b == info.max * 0 - (info.min < 0)))
    a, b = a[keep], b[keep]
    answer = mitchell.divide(system.to(a), system.to(b))
    assert _as_ints(answer, system) == [_whole_quotient(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert str(answer.dtype).rpartition(".")[2] == dtype


@pytest.mark.parametrize("dtype", WHOLES[:6])
def test_one_correction_lies_between_the_product_and_the_exact_one(dtype: str, floating_system: System) -> None:
    system, x = floating_system, _wholes(dtype, 20, 0)
    a, b = (each.ravel() for each in np.meshgrid(x, x))
    answers = _as_ints(mitchell.corrected_multiply(system.to(a), system.to(b)), system)
    for u, v, got in zip(a.tolist(), b.tolist(), answers, strict=True):
        exact, plain = abs(u * v), abs(_whole_product(u, v))
        assert plain <= abs(got) <= exact <= Fraction(121, 120) * abs(got)
        assert got * u * v >= 0


def test_the_correction_of_floats_is_that_of_whole_numbers(system: System) -> None:
    """Numbers of 11 bits and both signs, moved to other binades: the corrected product has at most 22 bits, and is rounded once."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-2047, 2048, 300, dtype=np.int16) for _ in "ab")
    exact = mitchell.corrected_multiply(a, b).astype(np.float64)
    for dtype in system.dtypes:
        if dtype == "bfloat16":
            continue  # has no room for the operands
        x, y = system.floats(a / 2.0**10, dtype), system.floats(b / 2.0**5, dtype)
        found = system.back(mitchell.corrected_multiply(x, y))
        assert np.array_equal(found, rounded(exact / 2.0**15, dtype))


def test_mixed_widths_are_those_of_the_wider_and_views_are_fine(floating_system: System) -> None:
    system = floating_system
    narrow, wide = np.array([200, 3, 255], np.uint8), np.array([60000, 7, 65535], np.uint16)
    answer = mitchell.multiply(system.to(narrow), system.to(wide))
    assert str(answer.dtype).endswith("uint32")
    assert _as_ints(answer, system) == [
        _whole_product(*pair) for pair in zip(narrow.tolist(), wide.tolist(), strict=True)
    ]
    grid = system.to(np.arange(1, 25, dtype=np.int16).reshape(4, 6))
    answer = mitchell.multiply(grid[::2, ::-3], grid[1::2, ::3])
    sliced = system.back(grid)
    expected = [
        _whole_product(int(u), int(v))
        for u, v in zip(sliced[::2, ::-3].ravel(), sliced[1::2, ::3].ravel(), strict=True)
    ]
    assert [int(v) for v in system.back(answer).ravel()] == expected


def test_all_8_bit_products_are_those_of_the_recorded_hardware(shared: Any, floating_system: System) -> None:
    """65,536 products of a Verilog multiplier, and 2,000 of 16 bits, as Icarus Verilog answered them."""
    recorded, system = np.load(shared("mitchell") / "hdl.npz"), floating_system
    n = np.arange(256, dtype=np.uint8)
    answer = system.back(mitchell.multiply(system.to(n[:, None].copy()), system.to(n[None, :].copy())))
    assert answer.dtype == recorded["table8"].dtype
    assert np.array_equal(answer, recorded["table8"])
    a, b = (system.to(recorded["pairs16"][:, k].astype(np.uint16)) for k in (0, 1))
    assert np.array_equal(system.back(mitchell.multiply(a, b)), recorded["pairs16"][:, 2])


def test_every_pattern_is_that_of_the_programs_that_add_patterns(recorded: Any) -> None:
    """1,024 pairs, a quarter of them special, a quarter near the thresholds: piecewise affine multiplication and division, and semiMul."""
    answers = {name: words.astype(np.uint32) for name, words in recorded("mitchell_programs").items()}
    a, b = (answers[name].view(np.float32) for name in "ab")
    with np.errstate(all="ignore"):
        for function in (mitchell.multiply, mitchell.multiply_bits):
            assert _same(function(a, b, dialect="pam"), answers["pam"].view(np.float32)), function.__name__
        assert _same(mitchell.divide(a, b, dialect="pam"), answers["pad"].view(np.float32))
        assert np.array_equal(mitchell.multiply_bits(a, b, dialect="semimul").view(np.uint32), answers["semimul"])
        numbers = ~(np.isnan(a) | np.isnan(b))
        arithmetic = mitchell.multiply(a, b, dialect="semimul")[numbers]
    assert _same(arithmetic, answers["semimul"].view(np.float32)[numbers])
    assert len(a) == 1024
    assert all(0.1 < np.mean(np.isnan(answers[name].view(np.float32))) < 0.6 for name in ("pam", "pad"))


# --- sums ---------------------------------------------------------------------------------------------------------------------------


def test_products_are_added_up_in_order_in_float32() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 5, 40), (40, 4)))
    total = np.zeros((3, 5, 4), np.float32)
    for k in range(40):
        total = total + mitchell.multiply(a[:, :, k, None], b[k])
    assert np.array_equal(mitchell.matmul(a, b), total)
    assert not np.array_equal(mitchell.matmul(a[..., ::-1], b[::-1]), total)
    assert np.array_equal(mitchell.dot(a[0], b[:, 0]), total[0, :, 0])
    half = a.astype(np.float16), b.astype(np.float16)
    wide = mitchell.matmul(*(x.astype(np.float32) for x in half))
    assert np.array_equal(mitchell.matmul(*half), wide.astype(np.float16))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_whole_products_are_added_up_in_64_bits(dtype: str, floating_system: System) -> None:
    system = floating_system
    a, b = _wholes(dtype, 23, 0).reshape(2, 15), _wholes(dtype, 38, 1).reshape(15, 3)
    answer = mitchell.matmul(system.to(a), system.to(b))
    expected = [
        [sum(_whole_product(int(u), int(v)) for u, v in zip(row, column, strict=True)) for column in b.T] for row in a
    ]
    assert system.back(answer).tolist() == expected
    assert str(answer.dtype).endswith("uint64" if dtype[0] == "u" else "int64")


SHAPES = {"i": 2, "j": 3, "k": 4, "l": 2, "m": 3}


@st.composite
def _subscripts(draw: Any) -> str:
    """Subscripts of two operands of up to four indices, some twice in one operand, with and without an output."""
    left, right = ("".join(draw(st.lists(st.sampled_from("ijklm"), max_size=4))) for _ in "ab")
    out = "".join(draw(st.lists(st.sampled_from(sorted(set(left + right))), unique=True))) if left + right else ""
    return f"{left},{right}" + draw(st.sampled_from([f"->{out}", f" -> {out}", ""]))


@example("ij,jk->ik")
@example("bij,bjk->kbi")
@example("bij,bjk")
@example("ii,jj->ij")
@example("iij,kkj->ik")
@example("i,i->")
@example("ij,k->i")
@example("i,j->ji")
@example(",->")
@given(_subscripts())
def test_indices_are_those_of_numpy_where_every_product_and_sum_is_exact(subscripts: str) -> None:
    rng, shapes = np.random.default_rng(len(subscripts)), SHAPES | {"b": 2}
    left, right = subscripts.replace(" ", "").partition("->")[0].split(",")
    a, b = (np.ldexp(1.0, rng.integers(-8, 9, [shapes[index] for index in each])) for each in (left, right))
    found = mitchell.einsum(subscripts, a, b)
    assert np.array_equal(found, np.einsum(subscripts, a, b))
    assert found.shape == np.einsum(subscripts, a, b).shape


def test_einsum_is_matmul_in_order_and_products_are_summed_not_multiplied_sums(system: System) -> None:
    rng = np.random.default_rng(0)
    a, b = (system.floats(rng.normal(size=(2, 2, 3)), "float32" if not system.is_ball else "float64") for _ in "ab")
    plain = mitchell.matmul(a, system.xp.permute_dims(b, (0, 2, 1)))

    def same(one: Any, other: Any) -> bool:
        return bool(np.array_equal(system.back(one), system.back(other)))

    assert same(mitchell.einsum("bik,bjk->bij", a, b), plain)
    assert same(mitchell.einsum("bik,bjk->jbi", a, b), system.xp.permute_dims(plain, (2, 0, 1)))
    row, column = a[0, 0, :], b[0, :, 0]
    terms = mitchell.multiply(row[:, None], column[None, :])
    expected = 0 * terms[:1, :1]
    for k in range(3):
        for j in range(2):
            expected = expected + terms[k : k + 1, j : j + 1]
    assert same(mitchell.einsum("k,j->", row, column), system.xp.reshape(expected, ()))


@pytest.mark.parametrize("rules", [{}, {"dialect": "flush"}, {"dialect": "pam"}, {"corrected": True}], ids=str)
def test_dot_and_einsum_are_matmul_bit_for_bit(rules: Any, system: System) -> None:
    """So the golden vectors of `matmul` are theirs too. Patterns of all kinds, but on balls, where infinities and wide ranges have no place."""
    if system.name.startswith("strict") and rules:
        pytest.skip("one of the rules is enough where it is slow")
    xp = system.xp
    for dtype in system.dtypes[: 1 if system.name.startswith("strict") else 4]:
        drawn = [_patterns(dtype, 12, seed).reshape(2, 3, -1)[..., :5] for seed in (0, 1)]
        plain = [np.arange(1, 31).reshape(2, 3, 5) * c for c in (0.75, -1.25)]
        a, b = (system.floats(x, dtype) for x in plain) if system.is_ball else map(system.to, drawn)
        column = xp.permute_dims(b, (0, 2, 1))
        with np.errstate(all="ignore"), truth.precision(128):
            matrices = mitchell.matmul(a, column, **rules)
            found = (
                mitchell.dot(a[:, :, None, :], b[:, None, :, :], **rules),
                mitchell.einsum("bik,bjk->bij", a, b, **rules),
                xp.permute_dims(mitchell.einsum("kbi,bjk->jib", xp.permute_dims(a, (2, 0, 1)), b, **rules), (2, 1, 0)),
            )
        for each in found:
            one, other = (system.back(x) for x in (each, matrices))
            assert np.array_equal(one, other) if system.is_ball else _same(one, np.ascontiguousarray(other)), dtype


def test_a_diagonal_does_not_change_the_order_of_the_sum() -> None:
    """1 + 2^24 = 2^24 in float32: row by row the sum is 0, and column by column 2."""
    rows = np.array([[1, 2.0**24], [1, -(2.0**24)]], np.float32)
    cube, ones = np.zeros((2, 2, 2), np.float32), np.ones((2, 2), np.float32)
    cube[[0, 1], [0, 1]] = rows
    for subscripts, a, b in (
        ("ij,ij->", rows, ones),
        ("iij,ij->", cube, ones),
        ("iji,ij->", np.transpose(cube, (0, 2, 1)), ones),
        ("ij,iij->", ones, cube),
        ("iij,jji->", cube, cube * 0 + 1),
    ):
        assert mitchell.einsum(subscripts, a, b) == 0, subscripts


def test_einsum_of_whole_numbers_and_dialects() -> None:
    a, b = np.array([[200, 3], [7, 255]], np.uint8), np.array([5, 60], np.uint8)
    found = mitchell.einsum("ii,i->i", a, b)
    assert found.tolist() == [_whole_product(200, 5), _whole_product(255, 60)]
    assert found.dtype == np.uint64
    tiny = np.array([2.0**-130], np.float32)
    assert mitchell.einsum("i,i", tiny, 2.0**20 + 0 * tiny, dialect="flush") == 0


def test_subscripts_that_make_no_sense_are_refused_in_words() -> None:
    a, b = np.ones((2, 3)), np.ones((3, 4))
    for subscripts, what in [
        ("...ij,jk", "an ellipsis is not supported"),
        ("ij", "two operands"),
        ("ij,jk,kl", "two operands"),
        ("i1,1k->ik", "letters, one comma, and at most one arrow"),
        ("ij,jk->ik->i", "at most one arrow"),
        ("ij,jk->iz", "an index of the output occurs in no operand"),
        ("ij,jk->ii", "an index occurs twice in the output"),
    ]:
        with _refused(errors.ConfigError, what, "einsum(subscripts)", '"ij,jk->ik"', repr(subscripts)):
            mitchell.einsum(subscripts, a, b)
    with _refused(errors.ShapeError, "subscripts do not fit", "einsum('ijk,jk')", "3 axes for 'ijk'", "(2, 3)"):
        mitchell.einsum("ijk,jk", a, b)
    with _refused(errors.ShapeError, "do not contract", "one length for each index", "(2, 3), (3, 4)"):
        mitchell.einsum("ij,ik->jk", a, b)
    with _refused(errors.ShapeError, "do not contract", "one length for 'i'", "(2, 3)"):
        mitchell.einsum("ii,jk->ik", a, b)
    with _refused(errors.DtypeError, "of one kind"):
        mitchell.einsum("ij,jk", a, b.astype(np.int8))
    with _refused(errors.ShapeError, "einsum('ij,jk->ik')", "from 1 for 'j', which is summed", "(2, 0), (0, 4)"):
        mitchell.einsum("ij,jk->ik", a[:, :0], b[:0])
    with _refused(errors.ShapeError, "einsum('iij,k->j')", "from 1 for 'i', which is summed", "(0, 0, 4), (3,)"):
        mitchell.einsum("iij,k->j", np.ones((0, 0, 4)), b[:, 0])
    assert mitchell.einsum("ij,jk->ik", a[:0], b).shape == (0, 4)
    for subscripts in (["i", "j"], None, b"ij,jk"):
        with _refused(errors.ConfigError, "are text", "einsum(subscripts)", '"ij,jk->ik"', repr(subscripts), "comma"):
            mitchell.einsum(subscripts, a, b)  # type: ignore[arg-type]


# --- what is refused ----------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_words() -> None:
    floats, wholes = np.ones(2, np.float32), np.ones(2, np.int8)
    with _refused(errors.DtypeError, "of one kind", "float32 and int8", "convert one"):
        mitchell.multiply(floats, wholes)
    with _refused(errors.DtypeError, "of one kind", "float32 and float64"):
        mitchell.divide(floats, floats.astype(np.float64))
    with _refused(errors.DtypeError, "of one kind", "uint8 and int8"):
        mitchell.multiply(wholes.astype(np.uint8), wholes)
    with _refused(errors.DtypeError, "a must be real floating point", "bool"):
        mitchell.multiply(wholes > 0, wholes > 0)
    with _refused(errors.DtypeError, "x must be real floating point", "int8"):
        mitchell.log2_approx(wholes)
    with _refused(errors.ConfigError, "unknown dialect", "ieee, flush, pam, semimul", "'mogami'"):
        mitchell.multiply(floats, floats, dialect="mogami")
    with _refused(errors.ConfigError, "unknown dialect", "ieee, flush, pam, semimul", "['ieee']"):
        mitchell.multiply(floats, floats, dialect=["ieee"])  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "unknown rule", "multiply(zeros=)", "signed, positive", "''"):
        mitchell.multiply(floats, floats, zeros="")
    with _refused(errors.ConfigError, "unknown rule", "multiply(zeros=)", "signed, positive", "'none'"):
        mitchell.multiply(floats, floats, zeros="none")
    with _refused(errors.ConfigError, "unknown rule", "divide(underflow=), dialect 'semimul'", "'before carry'"):
        mitchell.divide(floats, floats, dialect="semimul")
    for options in ({"dialect": "pam"}, {"zeros": "positive"}, {"dialect": "hardware", "underflow": "zero"}):
        for operation in (mitchell.multiply, mitchell.divide):
            with _refused(
                errors.ConfigError, "whole numbers have no edges", '"hardware"', next(iter(options.values()))
            ):
                operation(wholes, wholes, **options)
    assert mitchell.multiply(wholes, wholes, dialect="hardware").tolist() == [1, 1]
    with _refused(errors.ConfigError, "unknown dialect", "'hardware'"):
        mitchell.multiply(floats, floats, dialect="hardware")
    with _refused(errors.ConfigError, "no form on bits", "flush, pam, semimul", "'ieee'"):
        mitchell.multiply_bits(floats, floats, dialect="ieee")
    with _refused(errors.DtypeError, "1e37", "float32 or wider", "float16"):
        mitchell.multiply_bits(floats.astype(np.float16), floats.astype(np.float16), dialect="pam")


PAIRS = {
    name: getattr(mitchell, name)
    for name in ("multiply", "divide", "corrected_multiply", "multiply_bits", "dot", "matmul")
} | {"einsum": functools.partial(mitchell.einsum, "ij,jk")}
SINGLES = {name: getattr(mitchell, name) for name in ("log2_approx", "exp2_approx", "square_root")} | {
    "power": functools.partial(mitchell.power, y=2)
}


@pytest.mark.parametrize("name", [*PAIRS, *SINGLES])
def test_what_is_no_array_of_known_numbers_is_refused_in_words(name: str) -> None:
    x = np.ones((2, 2), np.float32)
    both = {"a": lambda other: PAIRS[name](other, x), "b": lambda other: PAIRS[name](x, other)}
    for which, call in both.items() if name in PAIRS else {"x": SINGLES[name]}.items():
        where = f"{name}({which})"
        for other in (1.5, [[1.0]], None, "1"):
            kind = f"{type(other).__name__}\n"
            with _refused(errors.DtypeError, f"{which} is no array", where, "got", kind, f"xp.asarray({which})"):
                call(other)
        for dtype, what, expected, remedy in (
            (np.longdouble, "is of an unknown floating-point format", "bfloat16, float32", "xp.float64"),
            (ml_dtypes.float8_e4m3fn, "is of an unknown floating-point format", "bfloat16, float32", "xp.float64"),
            (ml_dtypes.int4, "is of an unknown width", "int8, int16", "xp.int64"),
            (np.dtype(np.float32).newbyteorder("S"), "is of another byte order", "native", "newbyteorder"),
            (np.dtype(np.int16).newbyteorder("S"), "is of another byte order", "native", "newbyteorder"),
            (np.complex64, "must be real floating point", "float64, or an object array", "xp.float32"),
            (bool, "must be real floating point", "float64, or an object array", "xp.float32"),
        ):
            other = np.ones((2, 2), dtype)
            with _refused(errors.DtypeError, f"{which} {what}", where, expected, str(other.dtype), which, remedy):
                call(other)


def test_exponents_that_are_no_arrays_of_known_numbers_are_refused_in_words() -> None:
    x = np.ones((2, 2), np.float32)
    for other in ([2.0], None, "2", 2j):
        with _refused(errors.DtypeError, "y is no array", "power(y)", "a Python number, or", type(other).__name__):
            mitchell.power(x, other)  # type: ignore[arg-type]
    with _refused(errors.DtypeError, "y is of an unknown", "power(y)", "float64", "xp.astype(y, xp.float64)"):
        mitchell.power(x, x.astype(np.longdouble))
    with _refused(errors.DtypeError, "y must be real floating point", "power(y)", "bool"):
        mitchell.power(x, x > 0)


@pytest.mark.parametrize("name", ["multiply", "divide", "corrected_multiply", "multiply_bits", "power"])
def test_shapes_that_do_not_broadcast_are_refused_in_words(name: str, floating_system: System) -> None:
    function = getattr(mitchell, name)
    for one, other in (((2, 3), (3, 2)), ((2,), (0,)), ((0, 3), (2, 1, 2))):
        a, b = (floating_system.to(np.ones(shape, np.float32)) for shape in (one, other))
        with _refused(errors.ShapeError, "do not broadcast", name, "equal or 1", f"{one}, {other}", "axes of length 1"):
            function(a, b)


def test_the_highest_bit_of_what_has_none_is_refused_in_words() -> None:
    for dtype in (np.float64, np.uint16, np.int32):
        with _refused(errors.DtypeError, "32 or 64 bits", "leading_one(n)", "uint32 or uint64", np.dtype(dtype).name):
            bits.leading_one(np.ones(2, dtype))
    with _refused(errors.DtypeError, "x is of an unknown floating-point format", "refimpl.bits(x)", "float64"):
        bits.split(np.ones(2, np.longdouble))


@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_powers_beyond_every_float_are_those_of_ten_to_the_forty(dtype: str) -> None:
    values = [1.5, -1.5, 0.75, -0.75, 1.0, -1.0, 0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-14]
    expected = [math.inf, math.inf, 0, 0, 1, 1, 0, 0, math.inf, math.inf, math.nan, 0]
    digits = bits.FORMATS[dtype].digits
    x = rounded([*values, 1 + 2.0 ** (1 - digits), 1 - 2.0**-digits], dtype)  # the last two are beside 1
    for exponent in (10**40, 10**400, 10**40 + 1, 10**400 + 1):
        odd = (-1.0 if exponent % 2 else 1.0) ** np.signbit(x.astype(float))
        found = mitchell.power(x, exponent)
        assert found.dtype == x.dtype
        assert _same(found, rounded([*expected, math.inf, 0] * odd, dtype))
        inverse = rounded([0, 0, math.inf, math.inf, 1, 1, math.inf, math.inf, 0, 0, math.nan, math.inf], dtype)
        assert _same(mitchell.power(x, -exponent)[:12], inverse * odd[:12].astype(x.dtype))


def test_bad_powers_are_refused_in_words() -> None:
    x = np.ones(2, np.float32)
    with _refused(errors.ConfigError, "unknown product", "power(product=)", "mitchell, exact", "'true'"):
        mitchell.power(x, 2.5, product="true")
    with _refused(errors.DtypeError, "x must be real floating point", "int8"):
        mitchell.power(x.astype(np.int8), 2)
    with _refused(errors.DtypeError, "of one kind", "float32 and float64"):
        mitchell.power(x, np.ones(2))
    with _refused(errors.DtypeError, "of one kind", "float32 and int64"):
        mitchell.power(x, np.ones(2, np.int64))


def test_whole_numbers_without_an_answer_are_refused_in_words() -> None:
    n = np.array([5, -128], np.int8)
    with _refused(errors.IntegerError, "by zero", "divide(b)", "other than 0", "xp.where"):
        mitchell.divide(n, np.array([1, 0], np.int8))
    with _refused(errors.IntegerError, "beyond the dtype", "below 128", "-128 / -1"):
        mitchell.divide(n, np.array([-1, -1], np.int8))
    assert mitchell.divide(n, np.array([-1, 1], np.int8)).tolist() == [-5, -128]
    with _refused(errors.DtypeError, "no correction", "8 to 32 bits", "int64"):
        mitchell.corrected_multiply(n.astype(np.int64), n.astype(np.int64))
    with _refused(errors.DtypeError, "overflow", "8 or 16 bits", "int32"):
        mitchell.dot(n.astype(np.int32), n.astype(np.int32))
    with _refused(errors.ShapeError, "do not contract", "matmul", "(2,), (2,)"):
        mitchell.matmul(n, n)
    with _refused(errors.ShapeError, "do not contract", "dot", "(2,), (3,)"):
        mitchell.dot(n, np.ones(3, np.int8))
    for function, where in ((mitchell.dot, "dot"), (mitchell.matmul, "matmul")):
        with _refused(errors.ShapeError, "do not contract", where, "(2, 3, 3), (4, 3, 3)"):
            function(np.ones((2, 3, 3)), np.ones((4, 3, 3)))
    with _refused(errors.ShapeError, "do not contract", "(2, 0), (0, 2)"):
        mitchell.matmul(np.ones((2, 0)), np.ones((0, 2)))


@pytest.mark.parametrize("function", [mitchell.dot, mitchell.matmul, mitchell.power, mitchell.multiply])
@pytest.mark.parametrize("pair", [("float16", "float32"), ("float32", "float16"), ("float64", "float32")])
def test_operands_of_two_dtypes_are_refused_though_16_bits_are_widened(function, pair):
    a, b = (np.ones((2, 2), kind) for kind in pair)
    with pytest.raises(errors.DtypeError, match=rf"the operands must be of one kind(.|\n)*{pair[0]} and {pair[1]}"):
        function(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_powers_of_numbers_just_below_1_lose_nothing_to_cancellation(dtype):
    """z = y (f - 1) with relative errors of a rounding or two, and 2^z with |z| of those: against exact fractions."""
    kind = np.dtype(dtype).type
    u = Fraction(1, 2 ** np.finfo(dtype).nmant)
    for k in (1, 3, 1000, 123457):
        x = kind(1) - kind(k) * kind(u) / 2
        for y in (kind(25081938), kind(799836160), kind(3) / kind(u)):
            z = Fraction(float(y)) * (2 * Fraction(float(x)) - 2)  # f - 1, with x = (1 + f)/2
            if not -90 < z < -1:
                continue
            whole = z.__floor__()
            exact = (1 + z - whole) * Fraction(2) ** whole
            answer = Fraction(float(mitchell.power(np.array([x]), np.array([y]), product="exact")[0]))
            assert abs(answer - exact) <= (2 * abs(z) + 2) * u * exact
