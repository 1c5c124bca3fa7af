"""erf and erfc: the midpoint formula proved by balls over whole intervals, and its evaluation held to derived bounds.

A difference f - g of two analytic functions is enclosed on m ± r by Taylor's theorem: Σ_{k<N} c_k(m) (x-m)^k + c_N(m ± r) (x-m)^N, the
coefficients c_k by power-series arithmetic on balls. (Plain interval evaluation would need subintervals of the width of the bound.)
The nearest pole of a single term lies at ±i/4: with r = 1/256 below x = 1, r = 1/128 above it and N = 24, (r/√(x² + 1/16))^N is below 1e-43.
"""

from __future__ import annotations

import math
from typing import Any

import flint
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from systems import HOST, System

from refimpl import special
from validation import tolerance, truth

ORDER = 24
UNIT = tolerance.roundoff("float64")
STEP, NODES, CLAMP = 0.5, 13, 6.0  # as in refimpl.special; test_the_proof_is_about_the_code_in_use compares


@pytest.fixture(autouse=True)
def _length_of_series() -> Any:
    """flint cuts every series at `ctx.cap` terms, 10 unless told otherwise; the proofs need ORDER + 1."""
    before = flint.ctx.cap
    flint.ctx.cap = ORDER + 1
    yield
    flint.ctx.cap = before


def _series(*coefficients: Any) -> Any:
    return flint.arb_series(list(coefficients))


def _variable(centre: Any) -> Any:
    return _series(centre, 1)


def _exp(x: Any) -> Any:
    return x.exp()


def _sum_without_gaussian(x: Any) -> Any:
    """(2hx/π) Σ exp(-tₙ²)/(tₙ² + x²): `_midpoint_sum` times exp(x²), for a series or a ball x."""
    h = flint.arb(STEP)
    nodes = [(flint.arb(n) + flint.arb(1) / 2) * h for n in range(NODES)]
    total = sum(((-t * t).exp() * (x * x + t * t) ** -1 for t in nodes), 0 * x)
    return total * x * (2 * h / flint.arb.pi())


def _erf_error(x: Any) -> Any:
    """tanh(πx/h) - (2hx/π) exp(-x²) Σ … - erf(x), with tanh z = 1 - 2/(exp(2z) + 1)."""
    tanh = 1 - 2 * (_exp(x * (2 * flint.arb.pi() / STEP)) + 1) ** -1
    return tanh - _sum_without_gaussian(x) * _exp(-(x * x)) - x.erf()


def _scaled_erfc_error(x: Any, residue: str) -> Any:
    """exp(x²) (formula - erfc(x)), with the residue or with none."""
    gaussian = _exp(x * x)
    error = _sum_without_gaussian(x) - gaussian * x.erfc()
    if residue == "none":
        return error
    return error + gaussian * 2 * (1 + _exp(x * (2 * flint.arb.pi() / STEP))) ** -1


def _largest(error: Any, low: float, high: float, weight: Any = lambda _: 1) -> float:
    """A proved upper bound of |error(x)| · weight(interval) over [low, high]."""
    if low < 1 < high:
        return max(_largest(error, low, 1.0, weight), _largest(error, 1.0, high, weight))
    worst = 0.0
    half_width = flint.arb(1) / (256 if high <= 1 else 128)
    with truth.precision(256):
        step = flint.arb(0, half_width)
        for i in range(math.ceil((high - low) / float(2 * half_width))):
            centre = flint.arb(low) + (2 * i + 1) * half_width
            inner, outer = error(_variable(centre)), error(_variable(centre + step))
            assert inner.length() == outer.length() == ORDER + 1  # a missing coefficient would read as 0
            terms = [*(inner[k] for k in range(ORDER)), outer[ORDER]]
            taylor = sum((term * flint.arb(0, half_width**k) for k, term in enumerate(terms) if k), terms[0])
            bound = (taylor * weight(centre + step)).abs_upper()
            assert bound.is_finite()  # max(0, NaN) would be 0
            worst = max(worst, float(bound))
    return worst


def _inverse_scaled_erfc(x: Any) -> Any:
    """1/(exp(x²) erfc(x)) < √π (x + √(x² + 2))/2, for every x >= 0 (Abramowitz and Stegun 7.1.13)."""
    return flint.arb.pi().sqrt() * (x + (x * x + 2).abs_upper().sqrt()) / 2


def test_the_enclosing_method_can_tell_a_wrong_formula() -> None:
    """An offset, and a wiggle that vanishes at the centre of every subinterval, both show; so does a missing residue."""
    honest = _largest(_erf_error, 1.0, 1.25)
    offset = _largest(lambda x: _erf_error(x) + flint.arb(10) ** -15, 1.0, 1.25)
    wiggle = _largest(lambda x: _erf_error(x) + (x * 32 * flint.arb.pi()).cos() / 10**15, 1.0, 1.25)
    no_residue = _largest(lambda x: _scaled_erfc_error(x, "none"), 0.0, 1.0, _inverse_scaled_erfc)
    assert honest < 1e-17
    assert 0.99e-15 < offset < 1.01e-15
    assert 0.99e-15 < wiggle < 2e-15
    assert no_residue > 0.1


def test_the_proof_is_about_the_code_in_use() -> None:
    """The constants above are the module's, and the module's own lines, run on balls, give the formula that is proved."""
    assert special._STEP == STEP
    assert [(n + 0.5) * STEP for n in range(NODES)] == special._NODES
    x = truth.balls(np.array([0.01, 0.7, 3.0, 5.9]))
    with truth.precision(53):
        direct = special._midpoint_sum(x)
    with truth.precision(256):
        formula = np.array([_sum_without_gaussian(ball) * (-(ball * ball)).exp() for ball in x])
    # the module's constants are rounded to double: 2 roundings each for the weights and the leading factor
    allowed = 4 * UNIT * np.abs(truth.midpoints(formula)) + truth.radii(direct) + truth.radii(formula)
    assert np.all(truth.upper_distance(formula, truth.midpoints(direct)) <= allowed)


def test_erf_formula_is_within_1e_17_of_erf_on_the_whole_interval_where_it_is_used() -> None:
    """The bound in refimpl.special, over every real |x| <= 6 (both sides are odd). The proof gives 1e-19."""
    assert _largest(_erf_error, 0.0, CLAMP) <= 1e-17


def test_one_minus_erf_beyond_the_clamp_is_below_a_quarter_of_an_ulp_of_one() -> None:
    """Beyond 6 the answer is that at 6; erf lies between that and 1, and 1 - erf(6) < 2.3e-17 < 2^-55."""
    assert flint.arb(CLAMP).erfc() < flint.arb(2) ** -55


def test_erfc_formula_with_residue_is_within_a_roundoff_of_erfc_up_to_2pi() -> None:
    # the last interval ends beyond 6.284 > 2π: what is proved covers all 0 <= x <= 2π
    assert _largest(lambda x: _scaled_erfc_error(x, "exact"), 0.0, 6.284, _inverse_scaled_erfc) < UNIT


def test_erfc_formula_without_residue_is_within_a_roundoff_of_erfc_beyond_2pi() -> None:
    # the last interval begins at 6.28 < 2π: what is proved covers all x >= 2π
    assert _largest(lambda x: _scaled_erfc_error(x, "none"), 6.28, 27.5, _inverse_scaled_erfc) < UNIT


def test_residue_that_is_added_is_the_formulas_up_to_2pi() -> None:
    """erfc_midpoint(x) - _midpoint_sum(x) is exact (Sterbenz), so it is the residue but for the rounding of one addition."""
    x = np.linspace(6.0, 6.2831, 33)
    added = HOST[4].back(special.erfc_midpoint(_strict_array(x)) - special._midpoint_sum(_strict_array(x)))
    with truth.precision(256):
        residues = np.array([2 / (1 + (4 * flint.arb.pi() * flint.arb(value)).exp()) for value in x])
        size = np.array([float(flint.arb(value).erfc().upper()) for value in x])
    # one rounding of the sum, and at most one more for what the residue's own roundings leave of it
    assert np.all(truth.upper_distance(residues, added) <= 2 * UNIT * size)


def _strict_array(values: Any) -> Any:
    return HOST[4].to(np.asarray(values))


def test_erfc_is_zero_beyond_27_point_5_in_every_dtype() -> None:
    """erfc(27.5) is below half the smallest subnormal double, so the clamp at 27.5 changes no answer."""
    assert flint.arb(27.5).erfc() < flint.arb(2) ** -1075


# --- the evaluation, in float64 and float32 ---------------------------------------------------------------------------------


def _evaluation_budget(name: str, values: Any, dtype: str) -> Any:
    """Radius of the array-API formula in p-bit balls on inputs known to p bits, and NumPy's exp and tanh.

    A ball operation rounds once, to u relative. NumPy validates its exp and tanh to 4 ulp <= 8 u
    (numpy/_core/tests/test_umath_accuracy.py), so each contributes at most 8 u more: exp(-x²) in the sum S, and tanh or the
    residue R beside it: 8 u (|S| + |T|), where for erf  T = tanh(πx/h) and S = T - erf(x), and for erfc  |S| + |R| = erfc(|x|).
    """
    values = np.clip(values, -28, 28)  # beyond its clamp, at 6 or 27.5, the code computes what it computes there
    balls = truth.balls(values)
    formula = special.erf_midpoint if name == "erf" else special.erfc_midpoint
    budget = tolerance.proved_budget(formula, values, dtype=dtype)
    with truth.precision(128):
        if name == "erf":
            sizes = [2 * (ball * (2 * flint.arb.pi())).tanh().abs_upper() for ball in balls]
        if name == "erfc":
            sizes = [abs(ball).erfc() for ball in balls]
    return budget + 8 * tolerance.roundoff(dtype) * truth.midpoints(np.array(sizes, dtype=object))


def _check_evaluation(name: str, values: Any, system: System, dtype: str) -> None:
    definition = getattr(special, name)
    answer = system.back(definition(system.to(values)))
    verdict = tolerance.judge(answer, truth.enclose(definition, values), _evaluation_budget(name, values, dtype), dtype)
    assert verdict.passed, (name, dtype, verdict, values[verdict.where] if verdict.where else None)


SWEEP = np.concatenate([np.linspace(-28, 28, 1201), 10.0 ** np.linspace(-300, 1, 300), [0.0, 6.0, 6.28, 6.29, 27.4]])


@pytest.mark.parametrize("name", ["erf", "erfc"])
def test_evaluation_is_within_the_derived_budget(name: str, floating_system: System) -> None:
    for dtype in set(floating_system.dtypes) & {"float32", "float64"}:
        with np.errstate(under="ignore"):
            values = SWEEP.astype(dtype)
        _check_evaluation(name, values, floating_system, dtype)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
@example([1e308, -1e308, 5e-324])
def test_strict_evaluation_is_within_the_derived_budget_for_every_finite_double(values: list[float]) -> None:
    for name in ("erf", "erfc"):
        _check_evaluation(name, np.array(values), HOST[4], "float64")


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_erf_is_odd_and_bounded_by_one_bit_for_bit(values: list[float]) -> None:
    x = _strict_array(values)
    left, right = HOST[4].back(special.erf_midpoint(-x)), HOST[4].back(special.erf_midpoint(x))
    assert np.array_equal(left, -right)
    assert np.all(np.abs(right) <= 1)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_erfc_reflects_at_zero_bit_for_bit(values: list[float]) -> None:
    """erfc(-x) = 2 - erfc(x): the module computes the negative side just so."""
    x = np.abs(np.array(values)) + 1e-9
    positive = HOST[4].back(special.erfc_midpoint(_strict_array(x)))
    negative = HOST[4].back(special.erfc_midpoint(_strict_array(-x)))
    assert np.array_equal(negative, 2.0 - positive)


def test_nan_stays_nan_and_infinities_give_the_limits(floating_system: System) -> None:
    x = floating_system.to(np.array([np.nan, np.inf, -np.inf], dtype=np.float32))
    assert np.array_equal(floating_system.back(special.erf(x)), [np.nan, 1, -1], equal_nan=True)
    assert np.array_equal(floating_system.back(special.erfc(x)), [np.nan, 0, 2], equal_nan=True)
