"""Claims FAVOR-1 to FAVOR-12: random features for softmax attention, what they estimate and how well.

SM(x, y) = exp(x·y), v = |x + y|², m features. The mean squared errors are those of one estimate φ(x)·φ(y), paper's lemmas 1 and 2.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl import favor
from refimpl.linear_attention import linear_attention
from validation import counting, truth
from validation.claims.registry import Outcome, Setting, claim
from validation.exponentials import Sum, difference, expectation, exponential, product, scaled, value

if TYPE_CHECKING:
    from collections.abc import Callable

PAPER = "K. Choromanski et al., arXiv 2009.14794"
HALF = 0.5

# --- FAVOR-1 to 4: identities of Gaussian moment generating functions, and the source by quadrature -------------------------------

SM = exponential(s=1)
SUM_SQUARE = {"r": 1, "s": 2, "t": 1}  # |x + y|² as an exponent; |x - y|² below
DIFFERENCE_SQUARE = {"r": 1, "s": -2, "t": 1}
SHRINK = exponential(r=-HALF, t=-HALF)


def _wave(a: complex, b: complex) -> Sum:
    """The two exponentials of cos(w·z), z = a x + b y."""
    return {**exponential(1j * a, 1j * b, times=HALF), **exponential(-1j * a, -1j * b, times=HALF)}


def _sine(a: complex, b: complex) -> Sum:
    return {**exponential(1j * a, 1j * b, times=-0.5j), **exponential(-1j * a, -1j * b, times=0.5j)}


def _sum(*parts: Sum) -> Sum:
    return difference(parts[0], *(scaled(part, -1) for part in parts[1:]))


# One draw's share of φ(x)·φ(y), without the 1/m, written as the features are defined
ESTIMATES: dict[str, Sum] = {
    "trigonometric": product(
        exponential(r=HALF, t=HALF), _sum(product(_sine(1, 0), _sine(0, 1)), product(_wave(1, 0), _wave(0, 1)))
    ),
    "positive": product(exponential(a=1, r=-HALF), exponential(b=1, t=-HALF)),
    "hyperbolic": scaled(product(SHRINK, _sum(exponential(1, 1), exponential(-1, -1))), HALF),
}
VARIANCES = {
    name: difference(expectation(product(estimate, estimate)), product(SM, SM)) for name, estimate in ESTIMATES.items()
}
ONE_MINUS_SUM = difference(exponential(), exponential(r=-1, s=-2, t=-1))
ONE_MINUS_DIFFERENCE = difference(exponential(), exponential(r=-1, s=2, t=-1))
STATED = {
    "trigonometric": scaled(
        product(exponential(**SUM_SQUARE), exponential(s=-2), ONE_MINUS_DIFFERENCE, ONE_MINUS_DIFFERENCE), HALF
    ),
    "positive": product(exponential(**SUM_SQUARE), SM, SM, ONE_MINUS_SUM),
    "hyperbolic": scaled(product(ONE_MINUS_SUM, exponential(**SUM_SQUARE), SM, SM, ONE_MINUS_SUM), HALF),
}
SOURCES: dict[str, Callable[..., Any]] = {
    "trigonometric": favor.trigonometric_features,
    "positive": favor.positive_features,
    "hyperbolic": favor.hyperbolic_features,
}
POINTS = [
    (np.array([0.3, -0.2]), np.array([0.5, 0.4])),
    (np.array([1.0, 0.5]), np.array([-0.75, 0.25])),
    (np.array([-0.8, 0.6]), np.array([-0.5, 0.9])),
    (np.array([0.0, 0.0]), np.array([0.7, -1.1])),
]


@functools.cache
def _grid() -> tuple[Any, Any]:
    """80 x 80 Gauss-Hermite nodes and weights for N(0, I_2)."""
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    one, share = nodes * math.sqrt(2), weights / math.sqrt(math.pi)
    return np.stack(np.meshgrid(one, one, indexing="ij"), axis=-1).reshape(-1, 2), np.outer(share, share).ravel()


def _by_quadrature(name: str, x: Any, y: Any, power: int) -> tuple[float, float]:
    """E Z^power and E |Z|^power for one draw Z of the source's features, the projection being all the nodes at once."""
    nodes, weights = _grid()
    products = SOURCES[name](x[None], nodes)[0] * SOURCES[name](y[None], nodes)[0]
    each = len(nodes) * products.reshape(-1, len(nodes)).sum(axis=0)  # m Z_i/m, for the estimate is the mean of m draws
    return math.fsum(weights * each**power), math.fsum(weights * np.abs(each) ** power)


def _squares(x: Any, y: Any) -> tuple[float, float, float]:
    return float(x @ x), float(x @ y), float(y @ y)


def _mse_claim(name: str) -> Outcome:
    """The variance of one draw is the stated one: equal dictionaries; and the source's, by quadrature."""
    gap = difference(VARIANCES[name], STATED[name])
    if gap or not STATED[name]:
        return Outcome("refuted", 1, f"terms that differ: {gap}")
    worst = 0.0
    for count, (x, y) in enumerate(POINTS, 1):
        second, size = _by_quadrature(name, x, y, 2)
        error = abs(second - math.exp(2 * float(x @ y)) - value(STATED[name], *_squares(x, y))) / size
        worst = max(worst, error)
        if not error <= 1e-12:
            return Outcome("refuted", 1 + count, f"quadrature at x = {x}, y = {y}: {error:.1e} of E Z²")
    return Outcome("proved", 1 + len(POINTS), f"equal term by term; quadrature of the source: {worst:.1e} of E Z²")


METHOD = (
    "every x, y, d and m: exact expansion into exponentials, expectation by the Gaussian moment generating function, compared term by term; "
    "cross-check: the source by 80 x 80 Gauss-Hermite quadrature to 1e-12"
)


@claim(
    "FAVOR-1",
    "the trigonometric, positive and hyperbolic features are unbiased: E φ(x)·φ(y) = SM(x, y)",
    source=f"{PAPER}, section 2.3 and lemma 1",
    method=METHOD,
    expected="proved",
    cases=3 * (1 + len(POINTS)),
)
def _unbiased(setting: Setting) -> Outcome:
    cases, worst = 0, 0.0
    for name, estimate in ESTIMATES.items():
        cases += 1
        if difference(expectation(estimate), SM):
            return Outcome("refuted", cases, f"{name}: {expectation(estimate)}")
        for x, y in POINTS:
            cases += 1
            mean, size = _by_quadrature(name, x, y, 1)
            worst = max(worst, abs(mean - math.exp(float(x @ y))) / size)
            if not worst <= 1e-12:
                return Outcome("refuted", cases, f"{name}, x = {x}, y = {y}: E = {mean}")
    return Outcome("proved", cases, f"equal term by term; quadrature of the source: {worst:.1e} of E |Z|")


SMOOTHING = 0.5


def _gaussian_features(x: Any, projection: Any, smoothing: float) -> Any:  # (n, d), (m, d) -> (n, 2m + 1)
    """Sines and cosines without exp(h), and a constant: fast-transformers' RandomFourierFeatures and their smoothed form, cosines last."""
    h = np.sum(x * x, axis=-1, keepdims=True) / 2
    waves = favor.trigonometric_features(x, projection) * np.exp(-h)
    return np.concatenate([waves, np.full_like(h, smoothing)], axis=-1)


@claim(
    "FAVOR-1.gaussian",
    "trigonometric features without exp(|x|²/2) are unbiased for exp(-|x-y|²/2); a feature s appended to both sides adds s²",
    source="A. Rahimi and B. Recht, Random features for large-scale kernel machines; the constant: fast-transformers 2ad36b9",
    method=METHOD,
    expected="proved",
    cases=1 + len(POINTS),
)
def _gaussian(setting: Setting) -> Outcome:
    gap = difference(expectation(product(ESTIMATES["trigonometric"], SHRINK)), exponential(r=-HALF, s=1, t=-HALF))
    if gap:
        return Outcome("refuted", 1, f"terms that differ: {gap}")
    worst, (nodes, weights) = 0.0, _grid()
    for count, (x, y) in enumerate(POINTS, 1):
        one, other = (_gaussian_features(z[None], nodes, SMOOTHING)[0] for z in (x, y))
        waves = len(nodes) * (one * other)[:-1].reshape(-1, len(nodes)).sum(axis=0)
        mean = math.fsum(weights * waves) + float(one[-1] * other[-1])
        worst = max(worst, abs(mean - math.exp(-float((x - y) @ (x - y)) / 2) - SMOOTHING**2))
        if not worst <= 1e-12:
            return Outcome("refuted", 1 + count, f"quadrature at x = {x}, y = {y}: {worst:.1e}")
    return Outcome("proved", 1 + len(POINTS), f"equal term by term; quadrature of the source: {worst:.1e}")


@claim(
    "FAVOR-1.smoothing",
    "the smoothed random Fourier features of fast-transformers implement K(x, y) = exp(-|x-y|²) + s",
    source="fast-transformers 2ad36b9, docstring of SmoothedRandomFourierFeatures, at its temperature 1",
    method="by FAVOR-1.gaussian they are unbiased for exp(-|x-y|²/2) + s²: at x = y, where nothing is random, the source gives 1 + s² to 1e-15 "
    "for s = 1/2, and at three pairs of points the two expectations differ",
    expected="refuted",
    cases=4,
)
def _documented_smoothing(setting: Setting) -> Outcome:
    x = np.zeros((1, 2))
    features = _gaussian_features(x, favor.gaussian(np.random.default_rng(setting.seed), 8, 2), SMOOTHING)
    same = float(features[0] @ features[0])
    gaps = []
    for x, y in POINTS[:3]:
        square = float((x - y) @ (x - y))
        gaps.append(math.exp(-square / 2) + SMOOTHING**2 - math.exp(-square) - SMOOTHING)
    if abs(same - 1 - SMOOTHING**2) > 1e-15 or not min(map(abs, gaps)) > 1e-2:
        return Outcome("not refuted", 4, f"K(0, 0) = {same}, gaps {gaps}")
    return Outcome("refuted", 4, f"K(0, 0) = {same:.2f} for s = 1/2, not 1.50")


@claim(
    "FAVOR-2",
    "MSE trig = 1/(2m) · exp(|x+y|²) SM⁻² (1 - exp(-|x-y|²))²",
    source=f"{PAPER}, lemma 2",
    method=METHOD,
    expected="proved",
    cases=1 + len(POINTS),
)
def _mse_trigonometric(setting: Setting) -> Outcome:
    return _mse_claim("trigonometric")


@claim(
    "FAVOR-3",
    "MSE pos = 1/m · exp(|x+y|²) SM² (1 - exp(-|x+y|²))",
    source=f"{PAPER}, lemma 2",
    method=METHOD,
    expected="proved",
    cases=1 + len(POINTS),
)
def _mse_positive(setting: Setting) -> Outcome:
    return _mse_claim("positive")


@claim(
    "FAVOR-4",
    "MSE hyp = 1/2 (1 - exp(-|x+y|²)) MSE pos, at the same number m of draws (2m features)",
    source=f"{PAPER}, lemma 2",
    method=METHOD,
    expected="proved",
    cases=1 + len(POINTS),
)
def _mse_hyperbolic(setting: Setting) -> Outcome:
    return _mse_claim("hyperbolic")


# --- FAVOR-5: the limits ----------------------------------------------------------------------------------------------------------


def _ball_value(sum_: Sum, xx: Any, xy: Any, yy: Any) -> Any:
    """`exponentials.value` in balls."""
    total = flint.arb(0)
    for (_, _, r, s, t), c in sum_.items():
        total += flint.arb(c.real) * (flint.arb(r.real) * xx + flint.arb(s.real) * xy + flint.arb(t.real) * yy).exp()
    return total


@claim(
    "FAVOR-5",
    "as SM -> 0: m MSE trig >= SM⁻² (1 - SM⁴)²/2 -> infinity; and m MSE pos <= exp(B²) SM² -> 0 wherever |x+y| <= B",
    source=f"{PAPER}, after lemma 2, with the condition that its second half needs",
    method="from FAVOR-2: exp(|x+y|²) >= 1, and |x-y|² = |x+y|² - 4 x·y >= -4 x·y, so 1 - exp(-|x-y|²) >= 1 - SM⁴ where x·y <= 0; from FAVOR-3: "
    "1 - exp(-|x+y|²) <= 1; both inequalities in balls at 4 x 16 points",
    expected="proved",
    cases=64,
)
def _limits(setting: Setting) -> Outcome:
    cases, tightest = 0, 0.0
    with truth.precision(1024):
        for gap in (Fraction(0), Fraction(1, 4), Fraction(1), Fraction(2)):  # |x + y|, along x = -y + gap · e
            for k in range(1, 17):
                side = flint.arb(gap.numerator) / gap.denominator
                x, y = flint.arb(k) / 2 + side, -flint.arb(k) / 2
                squares, small = (x * x, x * y, y * y), (x * y).exp()
                trig, pos = (_ball_value(STATED[name], *squares) for name in ("trigonometric", "positive"))
                floor = (1 - small**4) ** 2 / small**2 / 2
                ceiling = (side * side).exp() * small**2
                cases += 1
                if not (trig > floor * (1 - flint.arb(2) ** -900) and pos < ceiling):
                    return Outcome("refuted", cases, f"|x+y| = {gap}, x·y = {x * y}")
                tightest = max(tightest, float(floor / trig), float(pos / ceiling))
    return Outcome("proved", cases, "equality in the first at x = -y", min(tightest, 1.0))


@claim(
    "FAVOR-5.unbounded",
    "as SM -> 0, MSE pos -> 0, without a condition on |x+y|",
    source=f"{PAPER}, after lemma 2, as written",
    method="x = -e, y = t e: SM = exp(-t) and m MSE pos = exp((t-1)² - 2t)(1 - exp(-(t-1)²)), in balls for t = 4, 8, 16, 32",
    expected="refuted",
    cases=4,
)
def _unbounded(setting: Setting) -> Outcome:
    last = flint.arb(0)
    for count, t in enumerate((4, 8, 16, 32), 1):
        mse = _ball_value(STATED["positive"], flint.arb(1), flint.arb(-t), flint.arb(t * t))
        if not (mse > last and mse > 2 ** (count - 1)):
            return Outcome("not refuted", count, f"t = {t}: m MSE = {mse}")
        last = mse
    return Outcome("refuted", 4, f"x = -e, y = 32 e: SM = exp(-32), m MSE pos = exp({float(last.log()):.0f})")


@claim(
    "FAVOR-5.equal-norms",
    "as SM -> 0 with |x| = |y|, MSE pos -> 0",
    source="the condition |x| = |y| that is sometimes given for FAVOR-5.unbounded",
    method="|x| = |y| = r at an angle θ: m MSE pos = exp(2r²(1 + 2 cos θ))(1 - exp(-2r²(1 + cos θ))), which tends to 0 only for cos θ < "
    "-1/2; balls at "
    "cos θ = -1/3, where it tends to infinity, and at -1/2, where it tends to 1",
    expected="refuted",
    cases=8,
)
def _equal_norms(setting: Setting) -> Outcome:
    for cosine, floor in ((Fraction(-1, 3), 1.0), (Fraction(-1, 2), 0.95)):
        for square in (4, 16, 64, 256):
            inner = flint.arb(square) * cosine.numerator / cosine.denominator
            mse = _ball_value(STATED["positive"], flint.arb(square), inner, flint.arb(square))
            if not mse > floor:
                return Outcome("not refuted", 1, f"cos θ = {cosine}, r² = {square}: m MSE = {mse}")
    return Outcome(
        "refuted", 8, f"at 120°, r = 16: SM = exp(-128), m MSE pos = {float(mse):.6f}; at cos θ = -1/3 it grows"
    )


SECOND = (np.array([-0.3, 0.4, 0.1, 0.0]), np.array([0.1, 0.2, -0.5, 0.3]))  # |x+y|² near 1: no heavy tails to sample

# --- FAVOR-6: orthogonal draws -----------------------------------------------------------------------------------------------------


def _rising(a: Fraction, k: int) -> Fraction:
    """(a)_k = a (a+1) ... (a+k-1)."""
    return math.prod((a + j for j in range(k)), start=Fraction(1))


def _pair_coefficient(d: int, k: int) -> Fraction:
    """The coefficient of v^k in E exp((w_1 + w_2)·z), v = |z|², for orthogonal w_1, w_2 with independent chi norms.

    w_1 + w_2 has a uniform direction e and a squared length R² that is chi-squared with 2d degrees of freedom. So the coefficient is
    E R^{2k} E (e·z/|z|)^{2k} / (2k)! with E R^{2k} = 2^k (d)_k and E (e_1)^{2k} = (1/2)_k/(d/2)_k.
    """
    return (
        2**k * _rising(Fraction(d), k) * _rising(Fraction(1, 2), k) / _rising(Fraction(d, 2), k) / math.factorial(2 * k)
    )


def _orthogonal_mse(m: int, d: int, xx: Any, xy: Any, yy: Any) -> Any:
    """MSE ort+ in balls: MSE pos - (m-1)/m · exp(-|x|²-|y|²) (e^v - 1F1(d; d/2; v/2))."""
    v = xx + 2 * xy + yy
    drop = v.exp() - (v / 2).hypgeom_1f1(flint.arb(d), flint.arb(d) / 2)
    return _ball_value(STATED["positive"], xx, xy, yy) / m - flint.arb(m - 1) / m * (-xx - yy).exp() * drop


def _pair_sample(seed: int, d: int, x: Any, y: Any, draw: Callable[..., Any]) -> tuple[float, float]:
    """E Z_i Z_j for two draws i, j of one block of m = d, Z the source's φ(x)·φ(y) for one draw: mean of 40,000 blocks and its standard error.

    An MSE is Var Z/m + (m-1)/m Cov(Z_i, Z_j), and Var Z is that of FAVOR-3: what the blocks change is this number.
    """
    projection = draw(np.random.default_rng(seed), 40_000 * d, d)
    options = {"normalized": False}
    each = favor.positive_features(x[None], projection, **options) * favor.positive_features(
        y[None], projection, **options
    )
    blocks = each.reshape(-1, d)
    pairs = (blocks.sum(axis=1) ** 2 - (blocks**2).sum(axis=1)) / (d * (d - 1))
    return float(pairs.mean()), float(pairs.std() / math.sqrt(len(pairs)))


ORTHOGONAL = sorted(  # d, m = 2 or d, |x|², cosine: a set, for m = 2 and m = d are one point at d = 2
    {
        (d, m, size, cosine)
        for d in (2, 3, 8, 64)
        for m in (2, d)
        for size in (Fraction(1, 64), Fraction(1), Fraction(4))
        for cosine in (Fraction(1, 3), Fraction(-3, 4))
    }
)


@claim(
    "FAVOR-6",
    "orthogonal draws with chi norms, m <= d: MSE ort+ = MSE pos - (m-1)/m exp(-|x|²-|y|²)(e^v - 1F1(d; d/2; v/2)) "
    "<= MSE pos - 2(m-1)/(m(d+2)) (SM - exp(-(|x|²+|y|²)/2))²",
    source=f"{PAPER}, theorem 2; the equality: this project",
    method="every d, m, x, y: coefficient by coefficient in v, by induction (see `_orthogonal`); its steps in exact rationals for d <= 40, k <= 60; "
    "balls at 42 points; 5 standard errors of 2 x 40,000 seeded blocks from the source (above 1 - 1e-6 each, by the normal approximation)",
    expected="proved",
    cases=40 * 60 + len(ORTHOGONAL) + 2,
)
def _orthogonal(setting: Setting) -> Outcome:
    """Proof of the bound.

    Let r_k = (d)_k / ((d/2)_k 2^k) = Π_{j<k} (d+j)/(d+2j). E exp((w_1+w_2)·z) = Σ r_k v^k/k! = 1F1(d; d/2; v/2), against e^v for
    independent draws, so the covariance of two orthogonal draws is -exp(-|x|²-|y|²) Σ (1 - r_k) v^k/k!. The bound's square is
    exp(-|x|²-|y|²)(e^{v/2} - 1)², whose coefficients of v^k/k! are 1 - 2^{1-k} for k >= 1 and 0 for k = 0. It remains to show
    1 - r_k >= 2/(d+2) · (1 - 2^{1-k}), that is r_k <= b_k = (d + 2^{2-k})/(d+2). For k = 1 both are 1. If it holds for k >= 1 then
    r_{k+1} = r_k (d+k)/(d+2k) <= b_k (d+k)/(d+2k) <= b_{k+1}, since (d + 2^{1-k})(d+2k) - (d + 2^{2-k})(d+k) = d (k - 2^{1-k}) >= 0.
    At k = 2 there is equality, r_2 = b_2 = (d+1)/(d+2): the constant is the best. For k = 0, r_0 = 1: both sides are 0.
    """
    cases, tightest = 0, 0.0
    for d in range(1, 41):
        for k in range(1, 61):
            r, bound = _pair_coefficient(d, k) * math.factorial(k), (d + Fraction(4, 2**k)) / (d + 2)
            named = _rising(Fraction(d), k) / _rising(Fraction(d, 2), k) / 2**k  # of 1F1(d; d/2; v/2)
            half = Fraction(2, 2**k)
            step = (d + half) * (d + 2 * k) - (d + 2 * half) * (d + k) == d * (k - half) and k >= half
            cases += 1
            if not (r == named and r <= bound and step and (k > 2 or r == bound)):
                return Outcome("refuted", cases, f"d = {d}, k = {k}: r = {r}, bound {bound}")
    with truth.precision(256):
        for d, m, size, cosine in ORTHOGONAL:
            xx = flint.arb(size.numerator) / size.denominator
            xy = xx * cosine.numerator / cosine.denominator
            drop = _ball_value(STATED["positive"], xx, xy, xx) / m - _orthogonal_mse(m, d, xx, xy, xx)
            stated = flint.arb(2 * (m - 1)) / (m * (d + 2)) * (xy.exp() - (-xx).exp()) ** 2
            cases += 1
            if not drop > stated:
                return Outcome("refuted", cases, f"d = {d}, m = {m}, |x|² = {size}, cosine {cosine}")
            tightest = max(tightest, float(stated / drop))
    d, worst = 4, 0.0
    for x, y in ((np.array([0.5, 0.2, 0, 0.1]), np.array([0.4, 0.3, 0.2, 0])), SECOND):
        mean, error = _pair_sample(setting.seed, d, x, y, favor.orthogonal_gaussian)
        xx, xy, yy = map(flint.arb, _squares(x, y))
        expected = float((-xx - yy).exp() * ((xx + 2 * xy + yy) / 2).hypgeom_1f1(flint.arb(d), flint.arb(d) / 2))
        worst, cases = max(worst, abs(mean - expected) / error), cases + 1
        if not worst <= 5:
            return Outcome("refuted", cases, f"sampled {mean:.5g} ± {error:.2g}, stated {expected:.5g}")
    return Outcome("proved", cases, f"equality at v²; sampling within {worst:.1f} standard errors", tightest)


# --- FAVOR-7 and 8: prefix sums, rows ----------------------------------------------------------------------------------------------

LINEAR = favor.Dialect({"relu": favor.Features("relu", scaled=False, epsilon=0.0, normalized=False)})


PREFIXES = (
    (24, 24, 8, 3),
    (16, 16, 3, 1),
    (1, 1, 8, 3),
    (1, 9, 5, 2),
    (2, 17, 4, 1),
    (5, 24, 8, 4),
    (17, 24, 1, 5),
    (7, 8, 17, 2),
)  # n, m, r, e


def _upper(balls: Any) -> float:
    """An upper bound of the largest magnitude in an array of balls."""
    return max(float(abs(ball).abs_upper()) for ball in np.asarray(balls, dtype=object).ravel())


def _chunks(n: int, m: int) -> list[int]:
    """One position at a time, two, all but one, all and one more than all queries, then keys; and more than there are."""
    return sorted({1, 2, max(n - 1, 1), n, n + 1, max(m - 1, 1), m, m + 1, 64})


@claim(
    "FAVOR-7",
    "causal attention by chunked prefix sums is masked attention with the explicit kernel matrix, whose n queries are the last of m positions; in "
    "floats, where nothing underflows or overflows and (2K+1)u < 1, |Ô - O| <= γ_{2K+1} Σ_j a_ij |v_j| / D_i, K = r + m + 1, γ_K = Ku/(1 - Ku), for "
    "r features, values of any width, and any chunk",
    source=f"{PAPER}, section 2.1 and appendix B.1; the bound: this project",
    method="distributivity: Σ_j (φ_i·φ_j) v_j = φ_iᵀ Σ_j φ_j v_jᵀ; on balls the two forms agree; every term φ_if ψ_jf v_j passes two products, at "
    "most r - 1 sums over features, m - 1 over keys, in whatever order and pieces, and one of what is before the chunk and in it: K roundings in "
    "N, no more in D, whose terms are not negative, and one in the division. n = m and n < m, one query, one key, r from 1 to 17, e from 1 to 5, "
    "chunks of 1, 2, n - 1, n, n + 1, m - 1, m, m + 1 and 64",
    expected="proved",
    cases=2 * 2 * sum(len(_chunks(n, m)) for n, m, _, _ in PREFIXES),
)
def _prefix_sums(setting: Setting) -> Outcome:
    rng, cases, worst, widest = np.random.default_rng(setting.seed), 0, 0.0, 0.0
    for (n, m, r, e), dtype, _ in itertools.product(PREFIXES, (np.float32, np.float64), range(2)):
        unit, steps = float(np.finfo(dtype).eps) / 2, 2 * (r + m + 1) + 1
        gamma = steps * unit / (1 - steps * unit)
        projection = favor.orthogonal_gaussian(rng, r, 4)
        queries, keys = (
            favor.positive_features(rng.normal(size=(rows, 4)), projection).astype(dtype) for rows in (n, m)
        )
        values = rng.normal(size=(m, e)).astype(dtype)
        with truth.precision(256):
            kernel = np.tril(np.matmul(truth.balls(queries), truth.balls(keys).T), m - n)
            total = kernel.sum(axis=-1, keepdims=True)
            exact = np.matmul(kernel, truth.balls(values)) / total
            reach = truth.midpoints(np.matmul(kernel, truth.balls(np.abs(values))) / total)
        for chunk in _chunks(n, m):
            options: dict[str, Any] = {"causal": True, "dialect": LINEAR, "kernel": "relu", "chunk": chunk}
            with truth.precision(256):
                ours = favor.favor_attention(*map(truth.balls, (queries, keys, values)), None, **options)
                widest = max(widest, _upper(ours - exact))
            arrays = map(setting.backend.asarray, (queries, keys, values))
            answer = setting.backend.to_numpy(favor.favor_attention(*arrays, None, **options))
            ratio = float(np.max(truth.upper_distance(exact, answer) / (gamma * reach)))
            worst, cases = max(worst, ratio), cases + 1
            if not (ratio <= 1 and widest < 1e-60):
                shape = f"n = {n}, m = {m}, r = {r}, e = {e}, {np.dtype(dtype)}, chunk {chunk}"
                return Outcome("refuted", cases, f"{shape}: {ratio:.2g} of the bound, balls {widest:.1e}")
    return Outcome("proved", cases, f"on balls the forms agree to {widest:.1e}", worst)


LEAKING = (
    ("performer-pytorch", "softmax"),
    ("google-jax", "softmax"),
    ("google-tf", "softmax"),
    ("tf-models", "softmax"),
    ("fast-transformers", "stabilized"),
)
TIGHT = (("paper", "softmax"), ("paper", "relu"), ("fast-transformers", "softmax"), ("google-tf", "relu"))


def _two_futures(setting: Setting, kept: int, n: int = 6) -> tuple[list[tuple[Any, ...]], Any]:
    """Queries, keys and values on balls, twice: the same at the first `kept` places, others and larger behind; and a projection."""
    rng = np.random.default_rng(setting.seed)
    given, other = (tuple(rng.normal(size=(1, 1, n, 4)) for _ in "qkv") for _ in range(2))
    changed = [
        np.concatenate([a[..., :kept, :], 3 * b[..., kept:, :]], axis=-2) for a, b in zip(given, other, strict=True)
    ]
    projection = truth.balls(favor.orthogonal_gaussian(rng, 8, 4))
    return [tuple(map(truth.balls, arrays)) for arrays in (given, changed)], projection


def _apart(x: Any, y: Any) -> tuple[float, float]:
    """Of two enclosures: how far apart some entry is at least, and every entry at most."""
    gaps = [abs(a - b) for a, b in zip(x.ravel(), y.ravel(), strict=True)]
    return max(float(gap.abs_lower()) for gap in gaps), max(float(gap.abs_upper()) for gap in gaps)


@claim(
    "FAVOR-7.future",
    "the output of causal attention at t does not depend on tokens after t, in every implementation",
    source="implied by calling it causal",
    method="two sequences of 6 tokens that differ in the last 3 alone; the first 3 outputs on balls: in performer-pytorch, google-jax, google-tf, "
    "tf-models and stabilized fast-transformers they differ, as the maximum is over the whole sequence and an epsilon is added below it; in the "
    "paper's dialect, with ReLU, and in fast-transformers without a maximum they do not",
    expected="refuted",
    cases=len(LEAKING) + len(TIGHT),
)
def _future(setting: Setting) -> Outcome:
    found = []
    with truth.precision(256):
        both, projection = _two_futures(setting, 3)
        for count, (dialect, kernel) in enumerate((*TIGHT, *LEAKING), 1):
            options: dict[str, Any] = {"causal": True, "dialect": dialect, "kernel": kernel}
            one, other = (favor.favor_attention(*arrays, projection, **options)[..., :3, :] for arrays in both)
            least, most = _apart(one, other)
            if count <= len(TIGHT):
                if not most < 1e-60:
                    return Outcome("not refuted", count, f"{dialect}, {kernel}: changes by {most:.1e} too")
                continue
            if not least > 1e-6:
                return Outcome("not refuted", count, f"{dialect}, {kernel}: changes by {most:.1e}")
            found.append(f"{dialect} {least:.1e}")
    return Outcome("refuted", len(LEAKING) + len(TIGHT), "the past changes by " + ", ".join(found))


def _maximum(kind: str, shift: str, x: Any, projection: Any) -> Any:
    """The maximum that a dialect's features subtract over the whole length, as a ball; 0 for one of each row alone, which no other token enters."""
    if shift == "row":
        return flint.arb(0)
    scaled = x / flint.arb(x.shape[-1]).sqrt().sqrt()
    measured = (scaled * scaled).sum(axis=-1) if kind == "hyperbolic" else np.matmul(scaled, projection.T)
    return functools.reduce(lambda a, b: a.max(b), measured.ravel())


def _from_the_past(q: Any, k: Any, v: Any, projection: Any, dialect: str, kernel: str, t: int) -> Any:
    """The output at t by the first t + 1 tokens alone, each ε multiplied by what the later tokens add to the exponents' maxima."""
    convention = favor.dialects[dialect]
    features, epsilon = convention.kernels[kernel], flint.arb(convention.epsilon)
    function = favor.hyperbolic_features if features.map == "hyperbolic" else favor.positive_features
    (of_q, by_q), (of_k, by_k) = (
        (
            function(x[..., : t + 1, :], projection, scaled=True, shift=shift),
            (
                _maximum(features.map, shift, x, projection)
                - _maximum(features.map, shift, x[..., : t + 1, :], projection)
            ).exp(),
        )
        for x, shift in ((q, features.query_shift), (k, features.key_shift))
    )
    root = flint.arb(projection.shape[0]).sqrt()
    query, keys = of_q[0, 0, t] + features.epsilon * by_q / root, of_k[0, 0] + features.epsilon * by_k / root
    weights = np.matmul(keys, query)
    total = weights.sum()
    if convention.causal_denominator == "keys":
        total = total + epsilon * by_k * query.sum()
    elif convention.causal_denominator == "added":
        total = total + epsilon * by_q * by_k
    elif convention.causal_denominator == "guarded" and total < epsilon * by_k:
        total = total + 2 * epsilon * by_k
    return np.matmul(weights, v[0, 0, : t + 1]) / total


@claim(
    "FAVOR-7.future-epsilon",
    "what the future does to the causal output at t is to multiply epsilons: it is the output of the tokens up to t alone with every epsilon that "
    "is added to features, and to denominators, times exp(C - C_t), C the maximum over the sequence and C_t over the tokens up to t",
    source="this project; FAVOR-7.future",
    method="exp(u-h-C) + ε = exp(C_t-C) (exp(u-h-C_t) + ε exp(C-C_t)), and a factor of all features of the keys cancels; the source on balls, "
    "five dialects, two sequences of 6 tokens, every t",
    expected="proved",
    cases=len(LEAKING) * 2 * 6,
)
def _future_epsilon(setting: Setting) -> Outcome:
    cases, widest = 0, 0.0
    with truth.precision(256):
        both, projection = _two_futures(setting, 3)
        for dialect, kernel in LEAKING:
            for arrays in both:
                outputs = favor.favor_attention(*arrays, projection, causal=True, dialect=dialect, kernel=kernel)[0, 0]
                for t, output in enumerate(outputs):
                    _, most = _apart(output, _from_the_past(*arrays, projection, dialect, kernel, t))
                    widest, cases = max(widest, most), cases + 1
                    if not most < 1e-60:
                        return Outcome("refuted", cases, f"{dialect}, {kernel}, t = {t}: {most:.1e} apart")
    return Outcome("proved", cases, f"balls agree to {widest:.1e}")


MASKED = ("performer-pytorch", "tf-models", "fast-transformers")


def _masked_as(dialect: str, q: Any, k: Any, v: Any, projection: Any, seen: Any) -> Any:
    """Attention with a mask as three implementations have it, which `favor.dialects` do not follow there."""
    if dialect == "performer-pytorch":  # values of hidden keys are zeroed
        return favor.favor_attention(q, k, v * seen[..., None], projection, dialect=dialect)
    function = favor.hyperbolic_features if dialect == "fast-transformers" else favor.positive_features
    shift: Any = "norm" if dialect == "fast-transformers" else "sequence"  # the maximum is taken of all keys
    of_q, of_k = (function(x, projection, scaled=True, shift=shift) for x in (q, k))
    options: dict[str, Any] = {"q_map": lambda x: x, "k_map": lambda x: x, "mask": seen}
    numerators, denominators = linear_attention(of_q, of_k, v, **options)
    return numerators / (denominators + flint.arb(favor.dialects[dialect].epsilon))


@claim(
    "FAVOR-8.mask",
    "a masked key has no influence, in every implementation that has masks",
    source="implied by calling it a mask",
    method="two sequences that differ in a masked key and its value alone; outputs on balls: performer-pytorch 1.1.4 (zeroes masked values, leaves "
    "the keys in the denominator), tf-models and stabilized fast-transformers (their maximum is of masked keys too, and 1e-6 is added "
    "below it) as `validation.peers` holds them to recorded answers; `favor_attention` with a mask, every dialect: nothing changes",
    expected="refuted",
    cases=len(MASKED) + len(favor.dialects),
)
def _masked_keys(setting: Setting) -> Outcome:
    found, seen = [], np.array([[[True, True, True, True, False]]])
    with truth.precision(256):
        both, projection = _two_futures(setting, 4, 5)
        both[1] = (both[0][0], *both[1][1:])
        for count, dialect in enumerate(favor.dialects, 1):
            one, other = (favor.favor_attention(*a, projection, mask=seen, dialect=dialect) for a in both)
            if not _apart(one, other)[1] < 1e-60:
                return Outcome("not refuted", count, f"{dialect}: the mask of favor_attention leaks too")
        for dialect in MASKED:
            least, most = _apart(*(_masked_as(dialect, *a, projection, seen) for a in both))
            if not least > 1e-6:
                return Outcome("not refuted", len(favor.dialects) + 1, f"{dialect}: changes by {most:.1e}")
            found.append(f"{dialect} {least:.1e}")
    return Outcome("refuted", len(MASKED) + len(favor.dialects), "outputs change by " + ", ".join(found))


def _given_rows(setting: Setting, spread: float, n: int) -> tuple[Any, Any, Any]:
    """Queries, keys and a projection, on balls."""
    rng = np.random.default_rng(setting.seed)
    q, k = (truth.balls(spread * rng.normal(size=(1, 1, n, 4))) for _ in "qk")
    return q, k, truth.balls(favor.orthogonal_gaussian(rng, 8, 4))


def _rows(setting: Setting, dialect: str, causal: bool, spread: float, n: int = 6) -> tuple[Any, Any]:
    """The attention matrix (the output for values I) and its row sums, on balls."""
    q, k, projection = _given_rows(setting, spread, n)
    values = truth.balls(np.eye(n))[None, None]
    weights = favor.favor_attention(q, k, values, projection, causal=causal, dialect=dialect)[0, 0]
    return weights, weights.sum(axis=-1)


@claim(
    "FAVOR-8",
    "in exact arithmetic, with positive features the attention weights are positive and each row sums to one, where the denominator is bare",
    source=f"{PAPER}, section 2.3",
    method="φ > 0 gives Â_ij > 0, and the weights are Â_ij/Σ_j Â_ij; the source on balls: paper and google-tf, full and causal, three scales",
    expected="proved",
    cases=2 * 2 * 3 * 6,
)
def _stochastic(setting: Setting) -> Outcome:
    cases, widest = 0, 0.0
    with truth.precision(256):
        for dialect in ("paper", "google-tf"):
            for causal in (False, True):
                for spread in (0.5, 1.0, 4.0):
                    weights, sums = _rows(setting, dialect, causal, spread)
                    for i, row in enumerate(weights):
                        seen = row[: i + 1] if causal else row
                        gap = float(abs(sums[i] - 1).abs_upper())
                        widest, cases = max(widest, gap), cases + 1
                        if not (all(w > 0 for w in seen) and sums[i].contains(1) and gap < 1e-60):
                            return Outcome("refuted", cases, f"{dialect}, causal {causal}, row {i}: sum {sums[i]}")
    return Outcome("proved", cases, f"sums are 1 to {widest:.1e}")


@claim(
    "FAVOR-8.stabilised",
    "the rows of the attention matrix sum to one in every implementation",
    source="implied by calling it attention",
    method="row sums D/(D + ...) on balls: fast-transformers and tf-models add 1e-6, google-jax adds 2e-6 to what it guards, performer-pytorch's "
    "causal sums "
    "carry 1e-6; inputs of scale 4, on which the sums of the paper's dialect and of google-tf are 1",
    expected="refuted",
    cases=2 + 4,
)
def _not_stochastic(setting: Setting) -> Outcome:
    found, cases = [], 2
    with truth.precision(256):
        for dialect in ("paper", "google-tf"):
            _, sums = _rows(setting, dialect, True, 4.0)
            if not max(float(abs(total - 1).abs_upper()) for total in sums) < 1e-60:
                return Outcome("not refuted", cases, f"{dialect}: row sums {sums}")
        for dialect in ADDING:
            _, sums = _rows(setting, dialect, True, 4.0)
            least = min(sums, key=float)
            cases += 1
            if not least < 1:
                return Outcome("not refuted", cases, f"{dialect}: least row sum {least}")
            found.append(f"{dialect} {float(least):.3g}")
    return Outcome("refuted", cases, "least row sums: " + ", ".join(found))


ADDING = ("google-jax", "performer-pytorch", "fast-transformers", "tf-models")


def _denominators(setting: Setting, dialect: str, causal: bool, spread: float, n: int = 6) -> tuple[Any, Any]:
    """D, and what the dialect should divide by instead, from its features, on the inputs of `_rows`."""
    q, k, projection = _given_rows(setting, spread, n)
    convention = favor.dialects[dialect]
    features, epsilon = convention.kernels["softmax"], flint.arb(convention.epsilon)
    function: Any = favor.hyperbolic_features
    if features.map == "positive":
        function = functools.partial(favor.positive_features, epsilon=features.epsilon)
    of_q = function(q, projection, scaled=True, shift=features.query_shift)[0, 0]
    of_k = function(k, projection, scaled=True, shift=features.key_shift)[0, 0]
    kernel = np.matmul(of_q, of_k.T)
    d = (np.tril(kernel) if causal else kernel).sum(axis=-1)
    if dialect == "google-jax":
        return d, np.array([each + 2 * epsilon if each <= epsilon else each for each in d])
    if dialect == "performer-pytorch":
        return d, d + epsilon * of_q.sum(axis=-1) if causal else d
    return d, d + epsilon


@claim(
    "FAVOR-8.sums",
    "with D_i the sum of row i before division, rows sum to D/(D + 1e-6) in fast-transformers and tf-models; to D/(D + 1e-6 Σ_f φ_f) in causal, "
    "and to 1 in bidirectional performer-pytorch; in google-jax to 1 where D > 1e-6, else to D/(D + 2e-6), which is at most 1/3",
    source="this project; FAVOR-8.stabilised",
    method="the weights are Â_ij over what is divided by; D <= ε gives D/(D + 2ε) <= 1/3; the source on balls, scales 1 and 4, full and causal",
    expected="proved",
    cases=len(ADDING) * 2 * 2 * 6,
)
def _row_sums(setting: Setting) -> Outcome:
    cases, widest, guarded, third = 0, 0.0, 0, flint.arb(1) / 3
    with truth.precision(256):
        for dialect in ADDING:
            for causal in (False, True):
                for spread in (1.0, 4.0):
                    _, sums = _rows(setting, dialect, causal, spread)
                    d, divisor = _denominators(setting, dialect, causal, spread)
                    gap, cases = _apart(sums, d / divisor)[1], cases + len(sums)
                    low = [total < third for total in sums]
                    split = dialect != "google-jax" or all(
                        below or abs(total - 1) < 1e-60 for below, total in zip(low, sums, strict=True)
                    )
                    guarded, widest = guarded + sum(low) * (dialect == "google-jax"), max(widest, gap)
                    if not (gap < 1e-60 and split):
                        return Outcome("refuted", cases, f"{dialect}, causal {causal}, scale {spread}: {sums}")
    if not 0 < guarded < 24:
        return Outcome("refuted", cases, f"{guarded} of 24 rows of google-jax are guarded: both kinds are wanted")
    return Outcome("proved", cases, f"sums agree to {widest:.1e}; {guarded} of 24 rows of google-jax are guarded")


# --- FAVOR-9 and 10: what it costs, what it gives -----------------------------------------------------------------------------------


def _slopes(seed: int, scale: float, sizes: tuple[int, ...], draws: int) -> tuple[float, float]:
    """Slope of log root mean square error of the output against log m: its mean over 12 repetitions, half of Student's 99.9% interval."""
    slopes = []
    for repetition in range(12):
        rng = np.random.default_rng([seed, repetition])
        q, k, v = (size * rng.normal(size=(16, 8)) for size in (scale, scale, 1.0))
        weights = np.exp(q @ k.T / math.sqrt(8))
        exact = weights / weights.sum(axis=-1, keepdims=True) @ v
        errors = []
        for m in sizes:
            outputs = [favor.favor_attention(q, k, v, favor.orthogonal_gaussian(rng, m, 8)) for _ in range(draws)]
            errors.append(math.sqrt(np.mean([(output - exact) ** 2 for output in outputs])))
        slopes.append(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]))
    return float(np.mean(slopes)), 4.437 * float(np.std(slopes, ddof=1)) / math.sqrt(12)  # t(11), two-sided 99.9%


@claim(
    "FAVOR-9",
    "the error of the attention output falls as 1/√m, once m is large beside exp(|q+k|²/√d)",
    source=f"{PAPER}, section 4.2 and theorem 4",
    method="seeded: root mean square error over 24 orthogonal projections at m = 64, 256, 1024, 4096, d = 8, n = 16, inputs of scale 0.3; "
    "slope of log error against "
    "log m in 12 independent repetitions; -1/2 must lie in Student's 99.9% interval, and the interval be narrower than 0.2",
    expected="not refuted",
    cases=12 * 4 * 24,
)
def _slope(setting: Setting) -> Outcome:
    mean, half = _slopes(setting.seed, 0.3, (64, 256, 1024, 4096), 24)
    return Outcome(
        "not refuted" if abs(mean + 0.5) <= half < 0.1 else "refuted", 12 * 4 * 24, f"slope {mean:.3f} ± {half:.3f}"
    )


@claim(
    "FAVOR-9.unit-scale",
    "with inputs of unit variance, width 8, the error falls as 1/√m between m = 64 and m = 4096",
    source="FAVOR-9 read without its condition",
    method="as FAVOR-9 at scale 1, m = 64 and 4096, 8 projections each; refuted if the whole interval is above -1/2, so that the "
    "error falls more slowly: the variance of one weight is about "
    "exp(|q+k|²/√d)/m of its square, and a few pairs need m above 10⁵",
    expected="refuted",
    cases=12 * 2 * 8,
)
def _slope_at_unit_scale(setting: Setting) -> Outcome:
    mean, half = _slopes(setting.seed, 1.0, (64, 4096), 8)
    return Outcome("refuted" if mean - half > -0.5 else "not refuted", 12 * 2 * 8, f"slope {mean:.3f} ± {half:.3f}")


def _counts(n: int, dialect: str, causal: bool, rng: np.random.Generator) -> tuple[int, int]:
    """Operations and peak bytes of attention over n positions, chunk 8, d = 4, m = 8."""
    counter = counting.Counter()
    arrays = [counter.array(rng.normal(size=(1, 1, n, 4))) for _ in range(3)]
    projection = counter.array(favor.orthogonal_gaussian(rng, 8, 4))
    favor.favor_attention(*arrays, projection, causal=causal, dialect=dialect, chunk=8)
    return counter.operations, counter.peak


@claim(
    "FAVOR-10",
    "work and memory are linear in n: operations and peak bytes are exactly affine in n, over multiples of the chunk (bytes: from some length "
    "on, here 48 chunks)",
    source=f"{PAPER}, section 2.2",
    method="every chunk does the same work, and the peak is the larger of two phases that are affine in n; the source on arrays that count "
    "operations and live bytes, four lengths, every dialect, full and causal, d = e = 4, m = 8, chunk 8: second differences are 0; "
    "counting exact attention the same way, they are not",
    expected="proved",
    cases=6 * 2 * 4 + 4,
)
def _linear(setting: Setting) -> Outcome:
    rng, lengths, cases, shown = np.random.default_rng(setting.seed), range(384, 384 + 4 * 32, 32), 0, ""
    for dialect in favor.dialects:
        for causal in (False, True):
            counts = np.array([_counts(n, dialect, causal, rng) for n in lengths])
            cases += len(lengths)
            if np.any(np.diff(counts, 2, axis=0)) or np.any(np.diff(counts, axis=0) <= 0):
                return Outcome("refuted", cases, f"{dialect}, causal {causal}: {counts.tolist()}")
            each = np.diff(counts, axis=0)[0] / 32
            shown = (
                shown
                or f"{dialect}: {each[0]:g} operations and {each[1]:g} bytes a position (d = e = 4, m = 8, chunk 8)"
            )
    quadratic = []
    for n in lengths:
        counter = counting.Counter()
        q, k, v = (counter.array(rng.normal(size=(1, n, 4))) for _ in "qkv")
        _exact_attention(q, k, v)
        quadratic.append((counter.operations, counter.peak))
    if not np.all(np.diff(quadratic, 2, axis=0) > 0):
        return Outcome("refuted", cases, "the counter does not see that exact attention is quadratic")
    return Outcome("proved", cases + len(lengths), shown)


def _exact_attention(q: Any, k: Any, v: Any) -> Any:
    from refimpl.attention import scaled_dot_product_attention

    return scaled_dot_product_attention(q, k, v)[0]


# --- FAVOR-11: simplices -----------------------------------------------------------------------------------------------------------


@functools.cache
def _chi_moment(d: int, p: int) -> Any:
    """E a^p for a chi-distributed with d degrees of freedom: 2^{p/2} Γ((d+p)/2)/Γ(d/2), as a ball (of the precision it is first asked in)."""
    return flint.arb(2) ** (flint.arb(p) / 2) * (flint.arb(d + p) / 2).gamma() / (flint.arb(d) / 2).gamma()


def _pair_moment(d: int, k: int, coupling: Fraction) -> Any:
    """E |w_1 + w_2|^{2k} = E (a² + b² + 2 c a b)^k for chi norms a, b and cosine c between the directions, as a ball."""
    total = flint.arb(0)
    for i in range(k + 1):
        for j in range(k + 1 - i):  # a^{2i} b^{2j} (2cab)^l
            rest = k - i - j
            ways = math.comb(k, i) * math.comb(k - i, j)
            factor = flint.arb((ways * (2 * coupling) ** rest).numerator) / (ways * (2 * coupling) ** rest).denominator
            total += factor * _chi_moment(d, 2 * i + rest) * _chi_moment(d, 2 * j + rest)
    return total


def _pair_series(d: int, v: Any, coupling: Fraction, terms: int, sign: int = 1) -> Any:
    """Σ_k (sign v)^k E|w_1+w_2|^{2k} / (4^k k! (d/2)_k): E exp((w_1+w_2)·z), or of cos with sign -1; v = |z|²."""
    total = flint.arb(0)
    for k in range(terms):
        scale = Fraction(sign**k, 4**k * math.factorial(k)) / _rising(Fraction(d, 2), k)
        total += v**k * _pair_moment(d, k, coupling) * flint.arb(scale.numerator) / scale.denominator
    return total


@claim(
    "FAVOR-11",
    "simplex draws with chi norms have, for positive features and m <= d, an MSE no larger than orthogonal ones; smaller for m >= 2 unless x = -y",
    source="I. Reid et al., arXiv 2301.13856, section 3",
    method="every d >= 2, x, y: E exp((w_1+w_2)·z) = Σ v^k E|w_1+w_2|^{2k}/(4^k k! (d/2)_k), and |w_1+w_2|² = a² + b² - 2ab/(d-1) <= a² + "
    "b² for every pair of norms; moments in "
    "balls for d <= 12, k <= 12; 5 standard errors of 2 x 40,000 seeded blocks from the source",
    expected="proved",
    cases=11 * 12 + 2,
)
def _simplex(setting: Setting) -> Outcome:
    cases, tightest, worst = 0, 0.0, 0.0
    with truth.precision(256):
        for d in range(2, 13):
            for k in range(1, 13):
                simplex, orthogonal = (_pair_moment(d, k, c) for c in (Fraction(-1, d - 1), Fraction(0)))
                stated = 2**k * _rising(Fraction(d), k)
                cases += 1
                if not (0 < simplex < orthogonal and (orthogonal - stated.numerator).contains(0)):
                    return Outcome("refuted", cases, f"d = {d}, k = {k}: {simplex} against {orthogonal}")
                tightest = max(tightest, float(simplex / orthogonal))
        d = 4
        for x, y in ((np.array([0.5, 0.2, 0, 0.1]), np.array([0.4, 0.3, 0.2, 0])), SECOND):
            xx, xy, yy = map(flint.arb, _squares(x, y))
            v = xx + 2 * xy + yy
            expected = float((-xx - yy).exp() * _pair_series(d, v, Fraction(-1, d - 1), 24))
            mean, error = _pair_sample(setting.seed, d, x, y, favor.simplex_gaussian)
            worst, cases = max(worst, abs(mean - expected) / error), cases + 1
            if not worst <= 5:
                return Outcome("refuted", cases, f"sampled {mean:.5g} ± {error:.2g}, series {expected:.5g}")
    return Outcome("proved", cases, f"sampling within {worst:.1f} standard errors of the series", tightest)


@claim(
    "FAVOR-11.trigonometric",
    "simplex draws have an MSE no larger than orthogonal ones for trigonometric features too",
    source="FAVOR-11 without the word positive",
    method="E cos(w_1·z) cos(w_2·z) is even in the cosine c between w_1 and w_2; with z = x - y its coefficient of |z|⁴ contains E (2cab)² "
    "> 0: the series "
    "in balls at |z|² = 1/4, d = 2, 3, 6, with 24 terms; as |w_1+w_2|² <= 2(a² + b²), terms are at most (2|z|²)^k/k!, the rest of each "
    "series below 3e-31",
    expected="refuted",
    cases=3,
)
def _simplex_trigonometric(setting: Setting) -> Outcome:
    found = ""
    with truth.precision(256):
        for count, d in enumerate((2, 3, 6), 1):
            v, c = flint.arb(1) / 4, Fraction(1, d - 1)
            pairs = [_pair_series(d, v, cosine, 24, -1) for cosine in (c, -c, Fraction(0))]
            gap = (pairs[0] + pairs[1]) / 2 - pairs[2]
            if not gap > 1e-30:  # the rests of three series are below 9e-31
                return Outcome("not refuted", count, f"d = {d}: difference of covariances {gap}")
            found = (
                found or f"d = {d}, |x-y|² = 1/4: covariance of two draws larger by exp(|x|²+|y|²) · {float(gap):.3g}"
            )
    return Outcome("refuted", 3, found)


# --- FAVOR-12: stabilisation --------------------------------------------------------------------------------------------------------


FORMS = ((6, 6, False, False), (4, 7, False, True), (6, 6, True, False), (4, 7, True, True))  # n, keys, causal, masked


def _compared(
    q: Any, k: Any, v: Any, projection: Any, epsilon: float, mask: Any, *, causal: bool
) -> tuple[Any, Any, Any, Any, Any]:
    """The source's output without shifts and ε, with both; the shifted features and the values of the keys that are not masked; all balls.

    The features are made of those keys alone, for masked keys enter no maximum.
    """
    q, k, v, projection = map(truth.balls, (q, k, v, projection))
    plain = favor.Dialect({"softmax": favor.Features("positive")})
    moved = favor.Dialect({"softmax": favor.Features("positive", query_shift="row", key_shift="head", epsilon=epsilon)})
    options: dict[str, Any] = {"causal": causal, "mask": None if mask.all() else mask, "chunk": 3}
    exact, ours = (favor.favor_attention(q, k, v, projection, dialect=each, **options) for each in (plain, moved))
    shifted: dict[str, Any] = {"scaled": True, "normalized": False}
    phi = favor.positive_features(q, projection, shift="row", **shifted)
    return exact, ours, phi, favor.positive_features(k[mask], projection, shift="head", **shifted), v[mask]


def _epsilon_bound(epsilon: float, phi: Any, psi: Any, values: Any, output: Any) -> float:
    """ρ/(1+ρ) max_j |v_j - O| for one query's features φ (m,) and output O, and the features and values of the keys that count."""
    added = epsilon * (len(psi) * phi.sum() + psi.sum()) + flint.arb(psi.size) * epsilon * epsilon
    ratio = added / np.matmul(psi, phi).sum()
    return float((ratio / (1 + ratio)).abs_upper()) * _upper(values - output) * (1 + 1e-9) + 1e-100


@claim(
    "FAVOR-12",
    "where D is bare, subtracting maxima changes nothing; adding ε to the shifted features changes output i by at most "
    "ρ_i/(1+ρ_i) max_j |v_j - O_i|, ρ_i = Σ_j (ε Σ_f (φ_if + ψ_jf) + m ε²)/Σ_j Σ_f φ_if ψ_jf with the shifted features φ, ψ, in [0, 1]; every sum "
    "and maximum over j is over the keys that query i sees: those not masked, and in the causal form of these the ones up to its own position",
    source=f"{PAPER}, appendix; the bound: this project",
    method="any set of visible keys: shifts are common factors of N and D, even a key maximum that comes from a key the query does not see; "
    "Ã = A + E with E >= 0, so Õ - O = Σ_j E_ij (v_j - O_i)/Σ_j Ã_ij over the visible j; "
    "the source on balls, full and causal, as many queries as keys and fewer, with a mask and without, ε = 0, 1e-6, 1e-4, scales 0.5, 1, 2",
    expected="proved",
    cases=2 * 9 * (6 + 4),
)
def _stabilised(setting: Setting) -> Outcome:
    rng, cases, tightest, shown = np.random.default_rng(setting.seed), 0, 0.0, ""
    for (n, m, causal, masked), spread, epsilon in itertools.product(FORMS, (0.5, 1.0, 2.0), (0.0, 1e-6, 1e-4)):
        q, k, v = (size * rng.normal(size=(rows, 4)) for size, rows in ((spread, n), (spread, m), (1.0, m)))
        mask = np.arange(m) % 5 != 2 if masked else np.ones(m, bool)
        seen = np.tri(n, m, m - n if causal else m, dtype=bool)[:, mask]
        with truth.precision(512):
            projection = favor.orthogonal_gaussian(rng, 8, 4)
            exact, ours, phi, psi, values = _compared(q, k, v, projection, epsilon, mask, causal=causal)
            for i, row in enumerate(seen):
                weights, gap = np.matmul(psi[row], phi[i]), _upper(ours[i] - exact[i])
                bound = _epsilon_bound(epsilon, phi[i], psi[row], values[row], exact[i])
                apart = _upper(np.matmul(weights, values[row]) / weights.sum() - exact[i])
                what = f"n = {n}, keys {m}, causal {causal}, masked {masked}, scale {spread}, ε = {epsilon}, query {i}"
                cases += 1
                if not (gap <= bound and apart < 1e-60):
                    return Outcome("refuted", cases, f"{what}: {gap:.3g} > {bound:.3g}, or forms apart by {apart:.1e}")
                if gap / bound > tightest and epsilon:
                    tightest, shown = gap / bound, f"{what}: off by {gap:.2g}"
    return Outcome("proved", cases, shown, tightest)


WIDE, DRAWN = 16, 4  # so that d^-1/4 and m^-1/2 are 1/2
RELU: dict[
    str, tuple[Fraction, Fraction, float, float, str, str]
] = {  # a, b, ε, δ and what is done with δ, full and causal
    "paper": (Fraction(1), Fraction(1, 2), 1e-3, 0.0, "bare", "bare"),
    "performer-pytorch": (Fraction(1, 2), Fraction(1), 1e-3, 1e-6, "bare", "keys"),
    "google-jax": (Fraction(1), Fraction(1), 1e-3, 1e-6, "guarded", "guarded"),
    "google-tf": (Fraction(1, 2), Fraction(1), 1e-3, 0.0, "bare", "bare"),
    "fast-transformers": (Fraction(1), Fraction(1), 0.0, 1e-6, "added", "added"),
    "tf-models": (Fraction(1, 2), Fraction(1, 2), 1e-3, 1e-6, "added", "added"),
}


def _integers(seed: int) -> tuple[Any, ...]:
    """Queries, keys, values and a projection in small integers; every query shares an active feature with the first key."""
    rng = np.random.default_rng(seed)
    q, k, projection = (rng.integers(-2, 3, size=(length, WIDE)) for length in (4, 4, DRAWN))
    q[:, 0], k[0, 0], projection[0, 0] = 9, 9, 9
    return q, k, rng.integers(-5, 6, size=(4, 3)), projection


def _relu_attention(
    given: tuple[Any, ...], a: Fraction, b: Fraction, epsilon: Fraction, delta: Fraction, rule: str, causal: bool
) -> list[list[Fraction]]:
    """Attention with features b (relu(a u) + ε), in rational numbers, as the equations say it."""
    q, k, v, projection = ([[Fraction(int(x)) for x in row] for row in array] for array in given)

    def features(x: list[Fraction]) -> list[Fraction]:
        us = [sum((p * y for p, y in zip(w, x, strict=True)), Fraction(0)) for w in projection]
        return [b * (max(a * u, Fraction(0)) + epsilon) for u in us]

    of_q, of_k, rows = [features(x) for x in q], [features(x) for x in k], []
    for i, phi in enumerate(of_q):
        last = i + 1 if causal else len(of_k)
        weights = [sum((x * y for x, y in zip(phi, psi, strict=True)), Fraction(0)) for psi in of_k[:last]]
        d = sum(weights, Fraction(0))
        added = {"added": delta, "keys": delta * sum(phi), "guarded": 2 * delta if d <= delta else 0}.get(rule, 0)
        mixed = zip(*(tuple(w * x for x in row) for w, row in zip(weights, v, strict=False)), strict=True)
        rows.append([sum(column, Fraction(0)) / (d + added) for column in mixed])
    return rows


def _of_dialect(
    given: tuple[Any, ...], dialect: str, causal: bool, epsilon: float | None = None
) -> list[list[Fraction]]:
    a, b, own, delta, full, prefix = RELU[dialect]
    stabiliser = Fraction(own if epsilon is None else epsilon)
    return _relu_attention(given, a, b, stabiliser, Fraction(delta), prefix if causal else full, causal)


@claim(
    "FAVOR-12.relu",
    "ReLU features b (relu(a u) + ε), with δ added to D, give the attention of relu(u) + ε/a with δ/(ab)² (with δ/(ab) where it is added to the "
    "sum of keys): b cancels unless something is added to the denominator, and a does too if ε = 0 besides",
    source="this project; conventions of six implementations",
    method="relu(a u) + ε = a (relu(u) + ε/a), and (ab)² is common to N and D; exact rationals, d = 16 and m = 4, six dialects, full and causal; "
    "the source on balls encloses each of these numbers",
    expected="proved",
    cases=len(RELU) * 2 * 12,
)
def _relu_factors(setting: Setting) -> Outcome:
    given, cases, widest = _integers(setting.seed), 0, 0.0
    with truth.precision(256):
        arrays = [truth.balls(array.astype(np.float64)) for array in given]
        for dialect, (a, b, epsilon, delta, *rules) in RELU.items():
            for causal in (False, True):
                rule = rules[causal]
                exact = _of_dialect(given, dialect, causal)
                smaller = Fraction(delta) / (a * b) ** (1 if rule == "keys" else 2)
                plain = _relu_attention(given, Fraction(1), Fraction(1), Fraction(epsilon) / a, smaller, rule, causal)
                found = favor.favor_attention(*arrays, causal=causal, dialect=dialect, kernel="relu")
                wanted = np.array([[flint.arb(x.numerator) / x.denominator for x in row] for row in exact])
                most, cases = _apart(found, wanted)[1], cases + found.size
                widest = max(widest, most)
                if exact != plain or not most < 1e-60:
                    return Outcome("refuted", cases, f"{dialect}, causal {causal}: source {most:.1e} from the formula")
    return Outcome("proved", cases, f"equal rationals; the source encloses them to {widest:.1e}")


@claim(
    "FAVOR-12.relu-scale",
    "scaling the inputs of ReLU (by d^-1/4 in performer-pytorch and tf-models, by m^-1/2 in google-tf) changes nothing, ReLU being homogeneous",
    source="implied by implementations that do and do not, under one name",
    method="exact rationals, d = 16 and m = 4: google-jax, which lacks d^-1/4 and m^-1/2, equals the paper; the three that scale do not, and "
    "would, by FAVOR-12.relu, with ε = 0 and nothing added to the denominator; the dialects on balls show the same",
    expected="refuted",
    cases=4,
)
def _relu_scale(setting: Setting) -> Outcome:
    given, found = _integers(setting.seed), []
    paper = _of_dialect(given, "paper", False)
    with truth.precision(256):
        arrays = [truth.balls(array.astype(np.float64)) for array in given]
        ours = {name: favor.favor_attention(*arrays, dialect=name, kernel="relu") for name in RELU}
        if _of_dialect(given, "google-jax", False) != paper or not _apart(ours["google-jax"], ours["paper"])[1] < 1e-60:
            return Outcome("not refuted", 1, "google-jax differs from the paper too")
        for count, dialect in enumerate(("performer-pytorch", "google-tf", "tf-models"), 2):
            theirs = _of_dialect(given, dialect, False)
            homogeneous = _relu_attention(given, *RELU[dialect][:2], Fraction(0), Fraction(0), "bare", False)
            least = _apart(ours[dialect], ours["paper"])[0]
            if theirs == paper or homogeneous != _of_dialect(given, "paper", False, 0.0) or not least > 1e-6:
                return Outcome("not refuted", count, f"{dialect}: {theirs[0]}")
            found.append(f"{dialect} {least:.1e}")
    return Outcome("refuted", 4, "away from the paper by " + ", ".join(found) + "; by 0 with ε = 0")


@claim(
    "FAVOR-12.norm",
    "subtracting the largest |x'|² of the length makes every hyperbolic feature smaller than 1",
    source="fast-transformers 2ad36b9, Favor(stabilize=True): 'in order to ensure that exp_u1 and exp_u2 will be <1'",
    method="one draw ω in one dimension, one token x = ω/3: the feature is exp(ω²/6)/√2, on balls for ω = 3, 6, 12; with the largest |u| "
    "subtracted instead it is below 1",
    expected="refuted",
    cases=3,
)
def _norm(setting: Setting) -> Outcome:
    shown = ""
    with truth.precision(256):
        for count, omega in enumerate((3, 6, 12), 1):
            x, w = (truth.balls(np.array([[float(value)]])) for value in (omega // 3, omega))
            theirs = favor.hyperbolic_features(x, w, scaled=True, shift="norm")[0, 0]
            ours = favor.hyperbolic_features(x, w, scaled=True, shift="head")[0, 0]
            if not (theirs > 1 and ours < 1):
                return Outcome("not refuted", count, f"ω = {omega}: {theirs}, with the largest |u|: {ours}")
            shown = f"ω = {omega}, x = {omega // 3}: {float(theirs):.3g}"
    return Outcome("refuted", 3, shown)


@claim(
    "FAVOR-12.norm-bound",
    "subtracting the largest |x'|² of the length makes every hyperbolic feature at most exp(|ω|²/6)/√(2m), ω its draw, with equality at x' = ±ω/3",
    source="this project; FAVOR-12.norm",
    method="u - |x'|²/2 - max |x'|² <= u - 3|x'|²/2 = |ω|²/6 - 3|x' - ω/3|²/2; the source on balls at 3 sequences of 8 tokens with 12 draws of width "
    "4, and at ω/3 for each draw",
    expected="proved",
    cases=3 * 8 * 24 + 12,
)
def _norm_bound(setting: Setting) -> Outcome:
    rng, cases, tightest = np.random.default_rng(setting.seed), 0, 0.0
    with truth.precision(256):
        projection = truth.balls(favor.gaussian(rng, 12, 4))
        bounds = np.array([((w * w).sum() / 6).exp() / flint.arb(24).sqrt() for w in projection])
        both, root = np.concatenate([bounds, bounds]), flint.arb(4).sqrt().sqrt()
        for spread in (0.5, 1.0, 4.0):
            x = truth.balls(spread * rng.normal(size=(8, 4)))
            found = favor.hyperbolic_features(x, projection, scaled=True, shift="norm")
            cases += found.size
            tightest = max(tightest, max(float(ratio.abs_upper()) for ratio in (found / both).ravel()))
            if not tightest < 1:
                return Outcome("refuted", cases, f"scale {spread}: {tightest:.3g} of the bound")
        for number, w in enumerate(projection):
            feature = favor.hyperbolic_features((w * root / 3)[None], projection, scaled=True, shift="norm")[0, number]
            cases += 1
            if not float(abs(feature / bounds[number] - 1).abs_upper()) < 1e-60:
                return Outcome("refuted", cases, f"at ω/3: {feature} against {bounds[number]}")
    return Outcome("proved", cases, "equality at ω/3", tightest)


@claim(
    "FAVOR-12.all-keys",
    "in the causal form, too, the bound of FAVOR-12 holds with sums and maximum over all keys",
    source="FAVOR-12 read without saying which keys count",
    method="a key of the future that is large beside those which are seen makes Σ_j A_ij large, hence ρ small, and its maximum makes their features "
    "small beside ε: d = m = 1, w = 1, q = 0, k = -4, -2, 1, v = 1, 0, 0, ε = 1e-4, the second query, on balls",
    expected="refuted",
    cases=1,
)
def _stabilised_by_all_keys(setting: Setting) -> Outcome:
    q, k, v, one = (np.array([column], dtype=float).T for column in ([0, 0, 0], [-4, -2, 1], [1, 0, 0], [1]))
    with truth.precision(256):
        exact, ours, phi, psi, values = _compared(q, k, v, one, 1e-4, np.ones(3, bool), causal=True)
        bounds = [_epsilon_bound(1e-4, phi[1], psi[:seen], values[:seen], exact[1]) for seen in (3, 2)]
        gap = float(abs(ours[1, 0] - exact[1, 0]).abs_lower())
    shown = f"off by {gap:.2g}; {bounds[0]:.2g} with all three keys, {bounds[1]:.2g} with the two that are seen"
    return Outcome("refuted" if bounds[0] < gap <= bounds[1] else "not refuted", 1, shown)
