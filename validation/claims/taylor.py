"""Claims TAYLOR-1 to TAYLOR-7: "the even-order Taylor expansion of exp at 0 is always positive", and what follows.

f_n(x) = Σ_{k<=n} x^k / k!
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

import flint
import ml_dtypes
import numpy as np

from refimpl import taylor
from validation import sturm, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim

EVEN, ODD = range(2, 41, 2), range(1, 40, 2)
SOURCE = (
    "A. de Brébisson and P. Vincent, arXiv 1511.05042 (order 2); K. Banerjee et al., arXiv 2011.11538 (even orders)"
)
POLYNOMIAL = functools.cache(sturm.taylor_polynomial)


def _ball(low: Fraction, high: Fraction) -> Any:
    """A ball that contains [low, high]."""
    ends = [flint.arb(end.numerator) / end.denominator for end in (low, high)]
    return ends[0].union(ends[1])


@functools.cache
def _minimum(order: int) -> tuple[Fraction, Fraction]:
    """An interval of width 2^-200 around the one root of f_{order-1}, the minimum of f_order, order even."""
    return sturm.isolate(POLYNOMIAL(order - 1), Fraction(-order), Fraction(0), Fraction(1, 2**200))


def _minimal_value(order: int) -> Any:
    """f_order at its minimum, as a ball."""
    return _ball(*_minimum(order)) ** order / math.factorial(order)


@claim(
    "TAYLOR-1",
    "f_n(x) > 0 for every real x when n is even",
    source=SOURCE,
    method="every even n: f_n -> +inf on both sides, and f_n' = f_n - x^n/n!, so f_n = x^n/n! > 0 at its minimum; "
    "independently, Sturm chains for n = 2..40 find no real root",
    expected="proved",
    cases=20,
)
def _positive(setting: Setting) -> Outcome:
    for n in EVEN:
        p = POLYNOMIAL(n)
        slope = (*sturm.derivative(p), Fraction(0))
        argument = all(
            a - b == (Fraction(1, math.factorial(n)) if k == n else 0)
            for k, (a, b) in enumerate(zip(p, slope, strict=True))
        )
        if not argument or sturm.count_roots(p) != 0 or sturm.evaluate(p, Fraction(0)) <= 0:
            return Outcome("refuted", EVEN.index(n) + 1, f"order {n}")
    return Outcome("proved", len(EVEN), f"closest to 0: min f_40 = {float(_minimal_value(40).mid()):.3g}")


@claim(
    "TAYLOR-2",
    "for odd n, f_n has exactly one real root, is increasing, and the root is negative",
    source=SOURCE,
    method="f_n' = f_{n-1} > 0 by TAYLOR-1; Sturm chains for n = 1..39 count one root, and it lies left of 0",
    expected="proved",
    cases=20,
)
def _one_root(setting: Setting) -> Outcome:
    for n in ODD:
        p = POLYNOMIAL(n)
        increasing = sturm.derivative(p) == POLYNOMIAL(n - 1) and sturm.count_roots(POLYNOMIAL(n - 1)) == 0
        if not increasing or sturm.count_roots(p) != 1 or sturm.count_roots(p, None, Fraction(0)) != 1:
            return Outcome("refuted", ODD.index(n) + 1, f"order {n}")
    root = float(sturm.isolate(POLYNOMIAL(39), Fraction(-39), Fraction(0), Fraction(1, 2**60))[0])
    return Outcome("proved", len(ODD), f"leftmost root: f_39({root:.6f}) = 0")


@claim(
    "TAYLOR-3",
    "for even n >= 2, f_n is strictly convex with one minimum x*, where f_n(x*) = x*^n/n!",
    source=SOURCE,
    method="f_n'' = f_{n-2} > 0; the one root of f_{n-1} isolated to 2^-200 exactly; both sides as balls there, n = 2..40",
    expected="proved",
    cases=20,
)
def _minimum_value(setting: Setting) -> Outcome:
    widest = 0.0
    with truth.precision(512):
        for n in EVEN:
            p = POLYNOMIAL(n)
            convex = (
                sturm.derivative(sturm.derivative(p)) == POLYNOMIAL(n - 2) and sturm.count_roots(POLYNOMIAL(n - 2)) == 0
            )
            one = sturm.derivative(p) == POLYNOMIAL(n - 1) and sturm.count_roots(POLYNOMIAL(n - 1)) == 1
            x = _ball(*_minimum(n))
            value = functools.reduce(
                lambda total, c, x=x: total * x + flint.arb(c.numerator) / c.denominator, reversed(p), flint.arb(0)
            )
            gap = value - _minimal_value(n)
            widest = max(widest, float(gap.abs_upper()))
            if not (convex and one and gap.contains(0) and float(gap.abs_upper()) < 1e-40):
                return Outcome("refuted", EVEN.index(n) + 1, f"order {n}: difference {gap}")
    return Outcome("proved", len(EVEN), f"both sides agree to {widest:.1e}")


def _remainder_is_dominated(n: int, terms: int) -> bool:
    """The two coefficient inequalities behind TAYLOR-4, exactly, for the first `terms` coefficients.

    e^x - f_n = x^{n+1}/(n+1)! · g(x), g(x) = Σ x^k (n+1)!/(n+1+k)!. For x >= 0: (n+1)!/(n+1+k)! <= 1/k!, so 0 < g <= e^x. For x = -t < 0: e^t g(-t)
    = Σ t^k/k! · (n+1)/(n+1+k), whose coefficients are positive and at most those of e^t, so 0 < g <= 1.
    """
    ratios = [Fraction(math.factorial(n + 1), math.factorial(n + 1 + k)) for k in range(terms)]
    for k in range(terms):
        product = sum((Fraction((-1) ** j, math.factorial(k - j)) * ratios[j] for j in range(k + 1)), Fraction(0))
        if not ratios[k] <= Fraction(1, math.factorial(k)) or product != Fraction(n + 1, n + 1 + k) / math.factorial(k):
            return False
    return True


@claim(
    "TAYLOR-4",
    "|f_n(x) - e^x| <= |x|^{n+1}/(n+1)! · max(1, e^x)",
    source="Taylor's theorem with Lagrange's remainder",
    method="every n and x: e^x - f_n = x^{n+1}/n! · the integral over [0, 1] of (1-s)^n e^{sx}, at most max(1, e^x)/(n+1); its series' "
    "coefficients checked exactly for n <= 40, k < 40; balls at 96 places in [-23.5, 23.5]",
    expected="proved",
    cases=41 * (40 + 96),
)
def _remainder(setting: Setting) -> Outcome:
    tightest, where, cases = 0.0, "", 0
    places = [sign * Fraction(j, 2) for j in range(1, 48) for sign in (1, -1)] + [Fraction(1, 1024), Fraction(-1, 1024)]
    with truth.precision(1024):
        for n in range(41):
            if not _remainder_is_dominated(n, 40):
                return Outcome("refuted", cases, f"coefficients of order {n}")
            cases += 40
            for x in places:
                exact = sturm.evaluate(POLYNOMIAL(n), x)
                point = flint.arb(x.numerator) / x.denominator
                error = abs(flint.arb(exact.numerator) / exact.denominator - point.exp())
                ratio = error / (
                    abs(point) ** (n + 1) / math.factorial(n + 1) * flint.arb.max(flint.arb(1), point.exp())
                )
                cases += 1
                if not ratio <= 1:
                    return Outcome("refuted", cases, f"order {n} at x = {x}: ratio {ratio}")
                if float(ratio) > tightest:
                    tightest, where = float(ratio), f"order {n} at x = {x}"
    return Outcome("proved", cases, f"{where}; the ratio tends to 1 as x -> 0", tightest)


def _all_values(dtype: Any) -> Any:
    """All finite values of a 16-bit dtype."""
    values = np.arange(2**16, dtype=np.uint16).view(dtype)
    return values[np.isfinite(values.astype(np.float32))]


def _floor_of_largest_term(order: int, dtype: str) -> Fraction:
    """A lower bound over all x of the largest factor scale·|x + node| of `exp_taylor`, with the constants that the dtype really uses.

    If two factors were both below δ = |s_i - s_j| / (1/c_i + 1/c_j), their nodes would be closer than they are.
    """
    kind = np.float32 if dtype == "float32" else np.float64
    like = np.zeros(1, kind)
    rule = [(Fraction(float(kind(node))), Fraction(scale)) for node, scale, _ in taylor.laguerre_rule(order, like)]
    return max(abs(s - t) / (1 / c + 1 / d) for (s, c), (t, d) in itertools.combinations(rule, 2))


@claim(
    "TAYLOR-5",
    "for even n = 2..40 the floating evaluation of f_n is > 0 for every finite x, in each dtype (+inf where it overflows)",
    source="this project: refimpl.taylor, eq. (1)",
    method="float16, bfloat16: all finite values, on NumPy; float32, float64: a sum of non-negative terms, the largest far above "
    "underflow (exact bound), given a pow that errs by less than half its value and is not negative for even powers",
    expected="proved",
    cases=20 * (63488 + 65280) + 40,
)
def _floating_positive(setting: Setting) -> Outcome:
    cases, smallest, least = 0, math.inf, math.inf
    for n in EVEN:
        for dtype in (np.float16, ml_dtypes.bfloat16):
            x = _all_values(dtype)
            with np.errstate(over="ignore"):
                y = taylor.exp_taylor(x, n).astype(np.float32)
            cases += x.size
            if not np.all(y > 0):
                return Outcome("refuted", cases, f"order {n}: f({x[~(y > 0)][0]}) = {y[~(y > 0)][0]}")
            smallest = min(smallest, float(y.min()))
        for dtype in ("float32", "float64"):
            # x + node errs by u, the product by a power of two not at all, pow by less than half; weights are >= 1, sums monotone
            u = Fraction(tolerance.roundoff(dtype))
            margin = (_floor_of_largest_term(n, dtype) * (1 - u)) ** n / 2 / Fraction(tolerance.smallest_normal(dtype))
            cases += 1
            if not margin > 1:
                return Outcome("refuted", cases, f"order {n} may underflow in {dtype}: margin {float(margin):.2g}")
            least = min(least, math.log10(margin.numerator) - math.log10(margin.denominator))
    return Outcome(
        "proved",
        cases,
        f"smallest 16-bit value {smallest:.3g}; largest term at least 1e{least:.0f} x the smallest normal",
    )


def _horner(x: Any, order: int) -> Any:
    """f_order(x) by Horner's rule in the dtype of x: 1 + x (1 + x/2 (1 + x/3 (...)))."""
    total = np.ones_like(x)
    for k in range(order, 0, -1):
        total = (1 + x / x.dtype.type(k) * total).astype(x.dtype)
    return total


@claim(
    "TAYLOR-5.horner",
    "plain Horner evaluation of an even-order f_n is positive in floating point too",
    source="common practice",
    method="float16, n = 16: all finite values; float32, n = 40: 2^16 values in [-16, -4]",
    expected="refuted",
    cases=63488 + 2**16,
)
def _horner_fails(setting: Setting) -> Outcome:
    found = []
    trials = [(16, _all_values(np.float16)), (40, np.linspace(-16, -4, 2**16, dtype=np.float32))]
    for order, x in trials:
        with np.errstate(over="ignore", invalid="ignore"):
            y = _horner(x, order)
        bad = y <= 0
        if not bad.any():
            return Outcome("not refuted", x.size, f"order {order}")
        first = int(np.argmin(np.where(bad, y, 0)))
        found.append(
            f"{x.dtype}, order {order}: Horner gives f({x[first]:.6g}) = {y[first]:.3g} ({int(bad.sum())} such x)"
        )
    return Outcome("refuted", sum(x.size for _, x in trials), "; ".join(found))


def _term_by_term(x: Any, order: int) -> Any:
    """f_order(x) as Σ x^k/k! from k = 0 on, in the dtype of x; the powers are rounded once."""
    total = np.ones_like(x)
    for k in range(1, order + 1):
        power = x.astype(np.float64) ** k
        total = (total + power.astype(x.dtype) / x.dtype.type(math.factorial(k))).astype(x.dtype)
    return total


@claim(
    "TAYLOR-5.terms",
    "adding up x^k/k!, from k = 0 on, gives a positive number for every even order in floating point too",
    source="CoinCheung/pytorch-loss 67d0158, taylor_softmax_v1, which takes any even n",
    method="float32, n = 30: 2^16 values in [-16, -4], whose powers are finite and err by one rounding at most",
    expected="refuted",
    cases=2**16,
)
def _terms_fail(setting: Setting) -> Outcome:
    x = np.linspace(-16, -4, 2**16, dtype=np.float32)
    y = _term_by_term(x, 30)
    bad = y <= 0
    if not bad.any():
        return Outcome("not refuted", x.size, f"least value {y.min()}")
    least = int(np.argmin(y))
    return Outcome(
        "refuted", x.size, f"float32, order 30: f({x[least]:.6g}) = {y[least]:.3g} ({int(bad.sum())} such x)"
    )


@claim(
    "TAYLOR-6",
    "Taylor softmax of even order is positive and sums to 1 (in floats: not negative, and to 1 within γ_n)",
    source=SOURCE,
    method="exact arithmetic: p_i = f_n(x_i)/Σ f_n(x_j) with f_n > 0 by TAYLOR-1, checked on 20 orders x 16 rational vectors; "
    "floats: γ_n = n u/(1 - n u) for any order of summation, searched on the same vectors",
    expected="proved",
    cases=20 * 16 * 3,
)
def _distribution(setting: Setting) -> Outcome:
    rng, cases, worst, shown = np.random.default_rng(setting.seed), 0, 0.0, ""
    for order in EVEN:
        for _ in range(16):
            x = rng.integers(-200, 200, 12) / 16
            values = [sturm.evaluate(POLYNOMIAL(order), Fraction(float(v))) for v in x]
            total = sum(values, Fraction(0))
            exact = all(v > 0 for v in values) and sum((v / total for v in values), Fraction(0)) == 1
            for dtype in (np.float32, np.float64):
                p = setting.backend.to_numpy(taylor.taylor_softmax(setting.backend.asarray(x.astype(dtype)), order))
                # (n-1) u from the sum in the denominator and u from each division, in any order of summation
                bound = x.size * float(np.finfo(dtype).eps) / 2 / (1 - x.size * float(np.finfo(dtype).eps) / 2)
                ratio = abs(math.fsum(p.tolist()) - 1) / bound
                if ratio > worst:
                    worst, shown = ratio, f"order {order}, {np.dtype(dtype)}: |Σp - 1| = {ratio * bound:.2g}"
                if not (exact and ratio <= 1 and np.all(p >= 0)):
                    return Outcome("refuted", cases, f"order {order}, x = {x.tolist()}")
            cases += 3
    return Outcome("proved", cases, shown, worst)


@claim(
    "TAYLOR-6.order",
    "Taylor softmax of even order preserves order: x_1 < x_2 gives p_1 < p_2",
    source="implied wherever it replaces softmax",
    method="exact counterexample for every n = 2..40, both points left of the minimum of f_n",
    expected="refuted",
    cases=20,
)
def _order_reversed(setting: Setting) -> Outcome:
    shown = ""
    for n in EVEN:
        low, high = Fraction(-n - 1), Fraction(math.floor(_minimum(n)[0]))
        values = [sturm.evaluate(POLYNOMIAL(n), x) for x in (low, high)]
        if not (low < high and values[0] > values[1]):
            return Outcome("not refuted", EVEN.index(n) + 1, f"order {n}")
        shown = shown or f"order {n}: f({low}) = {values[0]} > f({high}) = {values[1]}"
    return Outcome("refuted", len(EVEN), shown)


@claim(
    "TAYLOR-7",
    "1 + q·k + (q·k)²/2 = φ(q)·φ(k) with φ(x) = [1, x, (x ⊗ x)/√2]: order-2 Taylor attention is linear attention",
    source="A. Katharopoulos et al., arXiv 2006.16236, section 3.2.1, for polynomial kernels",
    method="every d: Σ_ij q_i q_j k_i k_j = (q·k)² by distributivity; exactly on {0,1,2}^{2d}, d = 1..3, which proves an identity of "
    "degree 2 in each variable; the source on balls, d = 1..8",
    expected="proved",
    cases=9 + 81 + 729 + 8,
)
def _linear_attention(setting: Setting) -> Outcome:
    cases = 0
    for d in (1, 2, 3):
        for point in itertools.product(range(3), repeat=2 * d):
            q, k = point[:d], point[d:]
            dot = sum(a * b for a, b in zip(q, k, strict=True))
            pairs = sum(q[i] * q[j] * k[i] * k[j] for i in range(d) for j in range(d))  # (1/√2)² = 1/2 factors out
            cases += 1
            if Fraction(1) + dot + Fraction(pairs, 2) != 1 + dot + Fraction(dot * dot, 2):
                return Outcome("refuted", cases, f"q = {q}, k = {k}")
    rng, widest = np.random.default_rng(setting.seed), 0.0
    for d in range(1, 9):
        q, k = rng.normal(size=(2, 1, d))
        with truth.precision(256):
            left = (taylor.taylor_features(truth.balls(q)) * taylor.taylor_features(truth.balls(k))).sum(axis=-1)[0]
            dot = (truth.balls(q) * truth.balls(k)).sum(axis=-1)[0]
            gap = left - (1 + dot + dot * dot / 2)
        cases += 1
        widest = max(widest, float(gap.abs_upper()))
        if not gap.contains(0) or widest > 1e-60:
            return Outcome("refuted", cases, f"width {d}: difference {gap}")
    return Outcome("proved", cases, f"on balls both sides agree to {widest:.1e}")
