"""Claims REALFORMER-1 to REALFORMER-6: residual attention, and what pre-LN and post-LN do to the stream and to gradients.

S_l = Q_l K_lᵀ/√d + S_{l-1},  S_0 = 0,  out = softmax(S_l) V_l.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import flint
import numpy as np

import weights_io
from refimpl import bert, blocks, softmax
from refimpl.activation import gelu
from refimpl.attention import scaled_dot_product_attention, split_heads
from refimpl.normalization import layer_norm_vjp
from refimpl.parameters import Block, Linear, Norm
from validation import components, dependence, peers, tolerance, truth
from validation.claims.registry import Outcome, Setting, claim

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "R. He et al., RealFormer, arXiv 2012.11747, section 3"
LAYERS, N, M, D = 6, 5, 7, 8
RADIUS = 1e-20


def _qkv(rng: np.random.Generator, layers: int = LAYERS) -> list[tuple[Any, ...]]:
    return [tuple(rng.normal(size=(2, 2, length, D)) for length in (N, M, M)) for _ in range(layers)]


def _masks(rng: np.random.Generator) -> list[Any]:
    """None, causal, arbitrary with an empty row, and one that hides everything."""
    arbitrary = rng.random((2, 1, N, M)) < 0.5
    arbitrary[0, 0, 2] = False
    return [None, np.tri(N, M, M - N, dtype=bool), arbitrary, np.zeros((1, 1, N, M), bool)]


def _chain(layers: list[tuple[Any, ...]], mask: Any) -> Any:
    """S_L of attention alone, each layer with the same mask."""
    scores = None
    for q, k, v in layers:
        _, scores = scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=scores)
    return scores


def _raw(q: Any, k: Any) -> Any:
    """Q Kᵀ/√d as balls, without the definition."""
    q, k = (a if a.dtype == object else truth.balls(a) for a in (q, k))
    return np.matmul(q, np.swapaxes(k, -1, -2)) / flint.arb(q.shape[-1]).sqrt()


def _balls_of_a_stack(seed: int) -> tuple[Any, Any]:
    """S_L of three whole RealFormer layers under a mask, and the sum of the scores that their queries and keys give, as balls."""
    rng, d, heads = np.random.default_rng(seed), 8, 2
    layers = [_random_block(rng, d, 12, truth.balls) for _ in range(3)]
    x, form = truth.balls(rng.normal(size=(1, 4, d))), blocks.Form(heads, 1e-12)
    mask, scores, total = np.tri(4, dtype=bool), None, None
    for layer in layers:
        q, k = (split_heads(layer.query_key_value(x)[..., i * d : (i + 1) * d], heads) for i in range(2))
        total = _raw(q, k) if total is None else total + _raw(q, k)
        x, seen = blocks.realformer(layer, x, form, mask=mask, previous_scores=scores)
        scores = seen.scores
    return scores, total


def _random_block(rng: np.random.Generator, d: int, inner: int, place: Any) -> Block:
    shapes = Block.shapes(d, inner)
    arrays = {name: rng.normal(float(name.endswith("scale")), 0.4, shape) for name, shape in shapes.items()}
    return Block.from_named({name: place(array) for name, array in arrays.items()}, "")


MASK, CONTENT = np.uint64(1), np.uint64(2)  # tags of the mask's entries, and of queries, keys and values


def _mask_is_seen(layers: list[tuple[Any, ...]], mask: Any) -> tuple[bool, bool]:
    """Whether, by a trace, the scores that layers hand on or a branch may depend on an entry of the mask; and whether their outputs do."""
    dependence.tagged_branches.clear()
    scores, handed, outputs = None, False, True
    for q, k, v in layers:
        given = (dependence.traced(part, CONTENT) for part in (q, k, v))
        out, scores = scaled_dot_product_attention(*given, mask=dependence.traced(mask, MASK), previous_scores=scores)
        handed |= bool(np.any(scores.tags & MASK))
        outputs &= bool(np.all(out.tags & MASK))
    return handed or any(branch.tags & int(MASK) for branch in dependence.tagged_branches), outputs


@claim(
    "REALFORMER-1",
    "S_L = Σ_l Q_l K_lᵀ/√d, in floats within γ_{d+L+2} Σ_l |Q_l||K_l|ᵀ/√d of it where nothing under- or overflows, and no mask is in it",
    source=SOURCE,
    method="induction on L; every term q_if k_jf passes one product, at most d - 1 sums over f in whatever order, one division, by a root that is "
    "rounded to a double and to the dtype, and at most L - 1 sums over layers: d + L + 2 roundings, γ_K = Ku/(1 - Ku). Dependence traced through six "
    "layers of attention: no score handed on, and no branch, depends on an entry of the mask, while every output does. Checked besides: the bound "
    "in float32, float64, Σ enclosed; under four masks S_L is bitwise the same; three whole layers on balls: enclosures of radius < 1e-20 meet",
    expected="proved",
    cases=2 * 2 * 2 * N * M * 4 + 2 * 16 + 3 * LAYERS * 2 * 2 * N * M,
)
def _sum_of_scores(setting: Setting) -> Outcome:
    cases, worst, shown = 0, 0.0, ""
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(setting.seed)
        given = [tuple(part.astype(dtype) for part in layer) for layer in _qkv(rng)]
        kept = [tuple(map(setting.backend.asarray, layer)) for layer in given]
        masks = [mask if mask is None else setting.backend.asarray(mask) for mask in _masks(rng)]
        answers = [setting.backend.to_numpy(_chain(kept, mask)) for mask in masks]
        enclosure = truth.enclose(lambda given=given: sum(_raw(q, k) for q, k, _ in given), target=1e-25)
        sizes = sum(
            np.abs(q).astype(np.float64) @ np.swapaxes(np.abs(k), -1, -2).astype(np.float64) for q, k, _ in given
        ) / math.sqrt(D)
        operations = (D + LAYERS + 2) * tolerance.roundoff(dtype)
        multiple = float(np.max(truth.upper_distance(enclosure, answers[0]) / (operations / (1 - operations) * sizes)))
        cases += sum(answer.size for answer in answers)
        if not multiple <= 1 or any(answer.tobytes() != answers[0].tobytes() for answer in answers):
            return Outcome(
                "refuted", cases, f"{dtype}: {multiple:.2g} of the bound, or a mask left a trace in the scores"
            )
        if multiple > worst:
            worst, shown = multiple, f"{dtype}: {multiple:.2f} of the bound"
    with truth.precision(384):
        scores, total = _balls_of_a_stack(setting.seed)
        radius = float(max(truth.radii(scores).max(), truth.radii(total).max()))
        meet = all(a.overlaps(b) for a, b in zip(scores.ravel(), total.ravel(), strict=True))
    cases += scores.size
    if not meet or not radius < RADIUS:
        return Outcome("refuted", cases, f"three layers on balls: enclosures meet: {meet}, radius {radius:.1e}")
    rng = np.random.default_rng(setting.seed)
    layers = _qkv(rng)
    for mask in _masks(rng)[1:]:
        handed, seen = _mask_is_seen(layers, mask)
        cases += LAYERS * 2 * 2 * N * M
        if handed or not seen:
            return Outcome(
                "refuted", cases, f"the mask may enter scores: {handed}; the trace sees it in outputs: {seen}"
            )
    return Outcome("proved", cases, f"{shown}; balls meet within {radius:.0e}; no mask in any bit", worst)


@claim(
    "REALFORMER-1.mean",
    "the running mean M_l = S_l/l obeys M_l = (Q_l K_lᵀ/√d + (l-1) M_{l-1})/l: dividing the sum by the layers is a running mean",
    source="the code released with arXiv 2012.11747: the sum is handed on, the sum over the number of layers goes into softmax",
    method="l M_l = S_l = raw_l + S_{l-1} = raw_l + (l-1) M_{l-1}; exact rationals, 40 layers; "
    "softmax(S_l/l) V of the source against softmax of the recursion on balls, 6 layers",
    expected="proved",
    cases=40 + LAYERS * 2 * 2 * N * D,
)
def _running_mean(setting: Setting) -> Outcome:
    rng, total, mean = np.random.default_rng(setting.seed), Fraction(0), Fraction(0)
    for number in range(1, 41):
        raw = Fraction(int(rng.integers(-99, 99)), 7)
        total, mean = total + raw, (raw + (number - 1) * mean) / number
        if total / number != mean:
            return Outcome("refuted", number, f"layer {number}: {total / number} is not {mean}")
    cases, widest, scores, recursion = 40, 0.0, None, None
    with truth.precision(256):
        for number, layer in enumerate(_qkv(rng), 1):
            q, k, v = map(truth.balls, layer)
            out, scores = scaled_dot_product_attention(q, k, v, previous_scores=scores, mean_over=number)
            _, raw = scaled_dot_product_attention(q, k, v)
            recursion = raw if recursion is None else (raw + (number - 1) * recursion) / number
            expected, _ = scaled_dot_product_attention(q * 0, k, v, previous_scores=recursion)
            gaps = (out - expected).ravel()
            widest, cases = max(widest, *(float(gap.abs_upper()) for gap in gaps)), cases + out.size
            if not all(gap.contains(0) for gap in gaps) or not widest < RADIUS:
                return Outcome("refuted", cases, f"layer {number}: outputs {widest:.1e} apart")
    return Outcome("proved", cases, f"balls agree to {widest:.0e}")


class _OnlyAdded:
    """Scores of which nothing can be asked but their shape, and to be added to others; those are kept."""

    __array_ufunc__ = None

    def __init__(self, shape: tuple[int, ...], value: float) -> None:
        self.shape, self.value, self.added_to = shape, value, list[Any]()

    def __radd__(self, others: Any) -> Any:
        self.added_to.append(others)
        return others + np.full(self.shape, self.value)


def _enter_by_one_sum(q: Any, k: Any, v: Any, mask: Any) -> bool:
    """Whether previous scores enter attention by one sum, to Q Kᵀ/√d, and in no other way."""
    _, own = scaled_dot_product_attention(q, k, v, mask=mask)
    for zero in (0.0, -0.0):
        previous: Any = _OnlyAdded(own.shape, zero)
        try:
            scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=previous)
        except (TypeError, AttributeError):
            return False
        if [each.tobytes() for each in previous.added_to] != [own.tobytes()]:
            return False
    return True


def _patterns(dtype: str) -> Any:  # -> (65536 or 3 · 65536,)
    """All numbers of float16; of a wider dtype all signs, exponents and leading bits, with three endings."""
    size = np.dtype(dtype).itemsize * 8 - 16
    heads = np.arange(2**16, dtype=np.uint64) << np.uint64(size)
    endings = np.array(sorted({0, 2**size // 3, 2**size - 1}), dtype=np.uint64)
    numbers = (heads[:, None] | endings).ravel().astype(f"uint{size + 16}").view(dtype)
    return numbers[~np.isnan(numbers)]


def _zero_changes_nothing(dtype: str) -> tuple[int, bool]:
    """Whether s + 0 is s in every bit, but for the sign of a zero; and softmax of rows of three the same with every zero +0."""
    numbers, right = _patterns(dtype), True
    for zero in (0.0, -0.0):
        sums, kept = numbers + numbers.dtype.type(zero), numbers != 0
        right &= sums[kept].tobytes() == numbers[kept].tobytes() and bool(np.all(sums[~kept] == 0))
    info = np.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, info.smallest_subnormal, info.max, -info.max, -np.inf]
    rows = np.array(list(itertools.product(values, repeat=3)), dtype)
    unsigned = np.where(rows == 0, rows.dtype.type(0), rows)
    for mask in itertools.product((True, False), repeat=3):
        one, other = (softmax.masked_softmax(part, np.array(mask)) for part in (rows, unsigned))
        right &= one.tobytes() == other.tobytes()
    return 2 * numbers.size + 8 * len(rows), right


@claim(
    "REALFORMER-2",
    "with previous scores 0 it is ordinary attention, bit for bit where no score is NaN; a RealFormer layer is then a post-LN layer",
    source=SOURCE,
    method="every shape, if operations are functions of their arguments: previous scores enter by one sum, to Q Kᵀ/√d, as an array shows that can do "
    "no more; s + 0 is s in IEEE arithmetic, but a zero may lose its sign (all of float16, 196,000 numbers each of float32, float64); x - c is the "
    "same then but for the sign of a zero, of which exp is 1 (softmax of all rows of three out of eight numbers, every mask). Outputs of attention, "
    "four masks, and of a whole layer, float16, float32, float64, bit for bit",
    expected="proved",
    cases=3 * (4 * 2 * 2 * N * D + 2 * N * D) + 4 * 2 * 2 * N * M + 900_000,
)
def _ordinary(setting: Setting) -> Outcome:
    cases = 0
    for dtype in ("float16", "float32", "float64"):
        rng = np.random.default_rng(setting.seed)
        q, k, v = (setting.backend.asarray(part.astype(dtype)) for part in _qkv(rng, 1)[0])
        zeros = setting.backend.asarray(np.zeros((2, 2, N, M), dtype))
        layer = _random_block(rng, D, 12, lambda a, dtype=dtype: setting.backend.asarray(a.astype(dtype)))
        x = setting.backend.asarray(rng.normal(size=(2, N, D)).astype(dtype))
        pairs = []
        for mask in _masks(rng):
            kept = None if mask is None else setting.backend.asarray(mask)
            pairs.append(
                [scaled_dot_product_attention(q, k, v, mask=kept, previous_scores=s)[0] for s in (zeros, None)]
            )
        form = blocks.Form(2, 1e-5)
        residual, _ = blocks.realformer(layer, x, form, previous_scores=zeros[:, :, :, :N])
        pairs.append([residual, blocks.post_ln(layer, x, form)[0]])
        for pair in pairs:
            one, other = map(setting.backend.to_numpy, pair)
            cases += one.size
            if one.tobytes() != other.tobytes():
                return Outcome("refuted", cases, f"{dtype}: differ by {np.abs(one - other).max():.1e}")
        with np.errstate(all="ignore"):
            count, right = _zero_changes_nothing(dtype)
        cases += count
        if not right:
            return Outcome("refuted", cases, f"{dtype}: adding 0 changes a sum or a softmax")
    rng = np.random.default_rng(setting.seed)
    for mask in _masks(rng):
        cases += 2 * 2 * N * M
        if not _enter_by_one_sum(*_qkv(rng, 1)[0], mask):
            return Outcome("refuted", cases, "previous scores enter otherwise than by a sum")
    return Outcome("proved", cases, "no bit differs")


def _parameters(residual: Any, **sizes: int) -> int:
    config = bert.BertConfig(residual_attention=residual, **sizes)
    return sum(math.prod(shape) for shape in bert.BertWeights.shapes(config).values())


@claim(
    "REALFORMER-3",
    "residual attention adds no parameter",
    source=SOURCE,
    method="the table of parameters has no entry that depends on it; "
    "the parameters of 27 BERTs, and of BERT base with its heads (110,106,428), counted with and without it",
    expected="proved",
    cases=28,
)
def _no_parameter(setting: Setting) -> Outcome:
    base = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
    }
    sizes = [
        {
            "vocab_size": v,
            "hidden_size": d,
            "num_hidden_layers": n,
            "num_attention_heads": 2,
            "max_position_embeddings": 9,
        }
        for v, d, n in itertools.product((5, 60, 700), (2, 16, 64), (1, 4, 36))
    ]
    for done, each in enumerate([*sizes, base], 1):
        counts = [_parameters(residual, **each) for residual in ("none", "sum", "mean")]
        if len(set(counts)) != 1 or (each is base and counts[0] != 110_106_428):
            return Outcome("refuted", done, f"{each}: {counts}")
    return Outcome("proved", len(sizes) + 1, f"BERT base: {counts[0]:,} with and without")


@claim(
    "REALFORMER-4",
    "post-LN with independent branches of unit variance: the weight of x_0 after l of them is 2^{-l/2}",
    source="R. Xiong et al., arXiv 2002.04745; folklore",
    method="the model x_l = (x_{l-1} + f_l)/√2, a norm that divides by the population's deviation √2 of a sum of two independent variables of unit "
    "variance: each step halves every squared weight, and the squares add up to 1 again; in exact rationals for l <= 96",
    expected="proved",
    cases=96,
)
def _weight_in_the_model(setting: Setting) -> Outcome:
    squares = [Fraction(1)]  # of the weights of x_0, f_1, f_2, ...
    for number in range(1, 97):
        squares = [square / 2 for square in squares] + [Fraction(1, 2)]
        if squares[0] != Fraction(1, 2**number) or sum(squares) != 1:
            return Outcome("refuted", number, f"after {number}: {squares[0]}, variance {sum(squares)}")
    return Outcome("proved", 96, f"after the 24 branches of BERT base: 2^-12 = {2.0**-12:.2g}; the variance stays 1")


# --- Random networks: what is exact in expectation, and networks held to it ---------------------------------------------------------
#
# One token sees itself alone: a layer is x + h W twice, h = x̂ W_v or GELU(x̂ W_1), x̂ of mean square 1, and W has independent entries of zero
# mean, drawn apart from x and h. Hence, given all else, f = h W has zero mean, and E |f|² = |h|² rows' variance.
#
# Pre-LN. The cross term of |x + f|² = |x|² + 2 x·f + |f|² has expectation 0, and E |f|²/d = 1 by the variances that are chosen: E |x_l|²/d is
# |x_0|²/d + l, at every depth and width. It is the second moment, not the spread about the stream's own mean.
#
# Post-LN. f is N(0, σ² I) given all else, σ² = |h|²/d or |h|²/(4d E GELU²): turning it about x changes nothing, so that across x the expectation
# of x' = LN(x + f) is 0, and E[x'] = E c(σ²) x; σ² does not depend on where x points, so that E x_l·x_0/d is the product of the E c. In the
# m = d - 1 dimensions that LN leaves, by 1/r = π^{-1/2} times the integral of t^{-1/2} e^{-t r²} over t > 0,
#
#     c(s) = √(d/π) times the integral of w^{-1/2} (1 - 2sw)^{(m-1)/2} e^{-dw} over 0 < w < 1/(2s)
#          = √(d/(2πs)) B(1/2, (m+1)/2) 1F1(1/2; m/2+1; -d/(2s)),        c(0) = 1.
#
# Under the integral, c' <= 0 <= c'' and c''' <= 0 (d > 8). With E σ² = 1: E c >= c(1) (Jensen), and E c <= c(1) + K Var σ², where
# K = c(0) - c(1) + c'(1): the divided difference [1, 1, s] of c decreases in s, since [1, 1, s, s] is a value of c'''/6; at s = 0 it is K.

WIDTH, NETWORKS, DEPTH, SAMPLES = 192, 16, 6, 4
STATED = {192: (1.0032, 1.0063), 768: (1.0008, 1.0016)}
SEEN = 3  # layers of two branches after which the weight of x_0 stands out of what the networks scatter
LEVEL = 1e-3  # the chance of refuting a true statement, shared by the depths
SECOND = 1 / 3 + 1 / (2 * math.pi * math.sqrt(3))  # E GELU(z)²: enclosed by REALFORMER-5


def _moment_of_gelu(power: int) -> Any:
    """E GELU(z)^power for z ~ N(0, 1), power 2, 4 or 6, as a ball; |GELU(z)| <= |z|, and E z^power beyond 16 is below 10^power e^{-128}."""

    def weighed(z: Any, _: bool) -> Any:
        cumulative = (1 + (z / flint.arb(2).sqrt()).erf()) / 2
        return (z * cumulative) ** power * (-z * z / 2).exp() / (2 * flint.arb.pi()).sqrt()

    return flint.acb.integral(weighed, -16, 16).real + flint.arb(0, 10.0**power * math.exp(-128))


def _kummer(z: Any, a: Any, b: Any) -> Any:
    """1F1(b - a; b; -z) = e^{-z} 1F1(a; b; z), 0 < a < b, z > 0: all terms are positive, and the ratio of two is below z/k."""
    term, total, k = (-z).exp(), (-z).exp(), 0
    while not (k > 2 * z and term < flint.arb(2) ** -flint.ctx.prec):
        term, k = term * (a + k) * z / ((b + k) * (k + 1)), k + 1
        total += term
    return total + term * flint.arb(0.5, 0.5)  # what is left is less than the last term


def _kept(d: int, s: Any) -> Any:
    """c(s): how much of x is left in E LN(x + f), f of variance s."""
    m, s = flint.arb(d - 1), flint.arb(s)
    beta = flint.arb(0.5).gamma() * ((m + 1) / 2).gamma() / (m / 2 + 1).gamma()
    return (d / (2 * flint.arb.pi() * s)).sqrt() * beta * _kummer(d / (2 * s), m / 2 + flint.arb(0.5), m / 2 + 1)


def _kept_by_quadrature(d: int) -> Any:
    """The integral for c(1), d even, in y = √w, whose integrand has no root in it."""
    whole = flint.acb.integral(
        lambda y, _: 2 * (1 - 2 * y * y) ** (d // 2 - 1) * (-d * y * y).exp(), 0, 1 / flint.arb(2).sqrt()
    )
    return (d / flint.arb.pi()).sqrt() * whole.real


def _slope(d: int) -> Any:
    """c'(1)."""
    m = flint.arb(d - 1)
    beta = flint.arb(1.5).gamma() * ((m - 1) / 2).gamma() / (m / 2 + 1).gamma()
    of_integral = beta * _kummer(flint.arb(d) / 2, m / 2 - flint.arb(0.5), m / 2 + 1)
    return -(d / flint.arb.pi()).sqrt() * (m - 1) * of_integral / flint.arb(8).sqrt()


def _kept_by_a_layer(d: int) -> tuple[Any, Any]:
    """Balls below and above E c E c of the two branches: Var σ² is 2/d, and (E GELU⁴/(E GELU²)² - 1)/(4d)."""
    least, bend = _kept(d, 1), 1 - _kept(d, 1) + _slope(d)
    fourth = _moment_of_gelu(4) / _moment_of_gelu(2) ** 2
    return least**2, (least + bend * 2 / d) * (least + bend * (fourth - 1) / (4 * d))


def _unit_block(rng: np.random.Generator, d: int) -> Block:
    """A layer whose branches have unit variance on inputs of unit variance, where a token sees itself alone."""
    inner = 4 * d

    def linear(rows: int, columns: int, variance: float) -> Linear:
        return Linear(rng.normal(scale=math.sqrt(variance / rows), size=(rows, columns)), np.zeros(columns))

    norm = Norm(np.ones(d), np.zeros(d))
    return Block(norm, linear(d, 3 * d, 1), linear(d, d, 1), norm, linear(d, inner, 1), linear(inner, d, 1 / SECOND))


def _streams(seed: int, kind: Any) -> Any:  # -> (networks, depth + 1, samples, d)
    """x_0, x_2, x_4, ... of random networks of one kind of layer, each of two branches."""
    found = []
    for number in range(NETWORKS):
        rng = np.random.default_rng([seed, number])
        x = rng.normal(size=(SAMPLES, 1, WIDTH))
        x = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
        stream = [x[:, 0]]
        for _ in range(DEPTH):
            x, _ = kind(_unit_block(rng, WIDTH), x, blocks.Form(4, 0.0))
            stream.append(x[:, 0])
        found.append(stream)
    return np.array(found)


def _chance(values: Any, low: float, high: float) -> float:
    """P(|t| >= the distance of the mean from [low, high] in standard errors), Student's t: I_x(ν/2, 1/2) at x = ν/(ν + t²)."""
    mean, freedom = float(np.mean(values)), len(values) - 1
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    away, half = max(low - mean, mean - high, 0.0), flint.arb(0.5)
    if not away < 1e9 * error:  # no float tells such chances from 0
        return float(away == 0)
    squared = flint.arb(away / error) ** 2
    return float((freedom / (freedom + squared)).beta_lower(freedom * half, half, regularized=1))


def _signs(bits: int) -> Any:  # -> int (2^bits, bits)
    """All vectors of signs."""
    return 1 - 2 * (np.arange(2**bits)[:, None] >> np.arange(bits) & 1)


def _all_blocks_of_signs() -> Block:
    """All 4,096 layers of width 2 and inner width 1 whose weights are signs, scaled as in `_unit_block`, as one batch of balls."""
    signs, one = _signs(12), flint.arb(1)
    root, count = one / flint.arb(2).sqrt(), len(signs)
    two = np.array([flint.arb(2).sqrt(), -flint.arb(2).sqrt()], dtype=object)
    second = sum(value**2 for value in gelu(two, "none")) / 4  # x̂ W_1 is (±1 ±1)/√2

    def linear(at: int, shape: tuple[int, int], scale: Any) -> Linear:
        chosen = signs[:, at : at + shape[0] * shape[1]].reshape(count, *shape)
        return Linear(truth.balls(chosen.astype(np.float64)) * scale, truth.balls(np.zeros(shape[1])))

    norm = Norm(truth.balls(np.ones(2)), truth.balls(np.zeros(2)))
    value, output = linear(0, (2, 2), root), linear(4, (2, 2), root)
    mixing = Linear(np.concatenate([value.weight] * 3, axis=-1), truth.balls(np.zeros(6)))
    return Block(norm, mixing, output, norm, linear(8, (2, 1), root), linear(10, (1, 2), 1 / second.sqrt()))


@claim(
    "REALFORMER-4.width",
    "in random post-LN networks of width 192, one token each, Gaussian weights, every two branches multiply E x_l·x_0/d by 1/2 times a number from "
    "1.0032 to 1.0063; of width 768 by 1/2 times one from 1.0008 to 1.0016",
    source="this project",
    method="every l: branches are isotropic given all else, hence E x_l·x_0/d = Π E c(σ²) exactly; c is an integral and a 1F1, E c in "
    "[c(1), c(1) + K Var σ²], K = 1 - c(1) + c'(1), as c' <= 0 <= c'', c''' <= 0 (derivation: beside the claim, docs/realformer.md). Enclosed; "
    "the closed form against the integral, and the bound against c at 16 variances, at widths 24, 192 and 768",
    expected="proved",
    cases=3 * 17,
)
def _weight_in_expectation(setting: Setting) -> Outcome:
    cases, shown = 0, []
    with truth.precision(128):
        for d in (24, WIDTH, 768):
            least, bend = _kept(d, 1), 1 - _kept(d, 1) + _slope(d)
            gap, cases = least - _kept_by_quadrature(d), cases + 1
            if not (gap.contains(0) and gap.abs_upper() < 1e-20):
                return Outcome("refuted", cases, f"d = {d}: closed form and integral differ by {gap}")
            for step in range(1, 17):
                s, cases = flint.arb(step) / 8, cases + 1
                tangent = least + _slope(d) * (s - 1)
                if step != 8 and not tangent < _kept(d, s) < tangent + bend * (s - 1) ** 2:
                    return Outcome("refuted", cases, f"d = {d}, variance {step}/8: {_kept(d, s)} is not in the bound")
            low, high = _kept_by_a_layer(d)
            shown.append(f"d = {d}: {float((2 * low).lower()):.5f} to {float((2 * high).upper()):.5f}")
            if d in STATED and not (STATED[d][0] < 2 * low and 2 * high < STATED[d][1]):
                return Outcome("refuted", cases, shown[-1])
    return Outcome("proved", cases, "factor of two branches, in halves: " + "; ".join(shown))


@claim(
    "REALFORMER-4.network",
    "the post-LN networks of this package agree with it: the weight of x_0 after 2, 4, ... 12 branches has the expectation of REALFORMER-4.width",
    source="this project",
    method="16 networks, width 192, four samples of one token: their means are independent, and nearly normal; Student's t, 15 degrees of freedom, "
    "of their distance from the enclosed expectation: no chance below 1e-3/6 (of a true statement one run in 1,000 says otherwise); a weight of 0 "
    "is refuted up to six branches",
    expected="not refuted",
    cases=NETWORKS * DEPTH,
)
def _weight_in_networks(setting: Setting) -> Outcome:
    streams = _streams(setting.seed, blocks.post_ln)
    weights = (streams * streams[:, :1]).mean(axis=-1).mean(axis=-1)
    with truth.precision(128):
        low, high = (float(end) for end in _kept_by_a_layer(WIDTH))
        chances = [_chance(weights[:, i], low**i, high**i) for i in range(1, DEPTH + 1)]
        blind = max(_chance(weights[:, i], 0.0, 0.0) for i in range(1, SEEN + 1))
    shown = ", ".join(f"{2 * i}: {weights[:, i].mean():.3f}" for i in range(1, DEPTH + 1))
    verdict = "not refuted" if min(chances) >= LEVEL / DEPTH and blind < LEVEL / DEPTH else "refuted"
    return Outcome(verdict, NETWORKS * DEPTH, f"weights after branches {shown}; least chance {min(chances):.2g}")


@claim(
    "REALFORMER-5",
    "pre-LN: the second moment of the stream grows linearly in depth: E |x_l|²/d = |x_0|²/d + l exactly after l branches of unit second moment, "
    "each ending in a linear map with independent entries of zero mean",
    source="R. Xiong et al., arXiv 2002.04745, lemma 2",
    method="every l and d: given all else, the last map leaves E x·f = 0; that E |f|²/d is 1 for one token and Gaussian weights: |x̂|² = d, "
    "E GELU(z)² = 1/3 + 1/(2π√3), enclosed by quadrature. The source on balls: all 4,096 layers of width 2 and inner width 1 whose weights are "
    "signs (of the last map, two moments matter), averaged exactly, four x of several sizes",
    expected="proved",
    cases=4 * 4096 + 1,
)
def _second_moment_grows(setting: Setting) -> Outcome:
    cases, widest = 1, 0.0
    with truth.precision(128):
        gap = _moment_of_gelu(2) - (flint.arb(1) / 3 + 1 / (2 * flint.arb.pi() * flint.arb(3).sqrt()))
        if not (gap.contains(0) and gap.abs_upper() < 1e-20 and abs(SECOND - _moment_of_gelu(2)) < 1e-15):
            return Outcome("refuted", cases, f"E GELU(z)² is off by {gap}")
        layers = _all_blocks_of_signs()
        for x in ([1.25, -1.0], [3.0, 0.5], [-0.25, 0.125], [40.25, 41.0]):
            given = truth.balls(np.tile(np.array(x), (4096, 1, 1)))
            made, _ = blocks.pre_ln(layers, given, blocks.Form(1, 0.0))
            gap = (made**2).sum() / (2 * 4096) - sum(flint.arb(value) ** 2 for value in x) / 2 - 2
            widest, cases = max(widest, float(gap.abs_upper())), cases + 4096
            if not gap.is_finite() or not gap.contains(0) or not widest < RADIUS:
                return Outcome("refuted", cases, f"x = {x}: the mean of |x_2|²/d - |x_0|²/d - 2 is {gap}")
    return Outcome("proved", cases, f"all layers of signs, on the average: 2 for two branches, to {widest:.0e}")


@claim(
    "REALFORMER-5.network",
    "the pre-LN networks of this package agree with it: the mean square after 2, 4, ... 12 branches has the expectation 1 + l",
    source="this project; REALFORMER-5",
    method="16 networks, width 192, four samples of one token of mean square 1: Student's t of the 16 means, 15 degrees of freedom, about 1 + l "
    "itself: no chance below 1e-3/6 (of a true statement one run in 1,000 says otherwise)",
    expected="not refuted",
    cases=NETWORKS * DEPTH,
)
def _variance_in_networks(setting: Setting) -> Outcome:
    squares = (_streams(setting.seed, blocks.pre_ln) ** 2).mean(axis=-1).mean(axis=-1)
    chances = [_chance(squares[:, i], 1.0 + 2 * i, 1.0 + 2 * i) for i in range(1, DEPTH + 1)]
    shown = ", ".join(f"{2 * i}: {squares[:, i].mean():.2f}" for i in range(1, DEPTH + 1))
    verdict = "not refuted" if min(chances) >= LEVEL / DEPTH else "refuted"
    return Outcome(verdict, NETWORKS * DEPTH, f"mean squares after branches {shown}; least chance {min(chances):.2g}")


# --- Gradients at initialisation --------------------------------------------------------------------------------------------------------
#
# L = r·LN(x), r ~ N(0, I), x = y + h W_2 what the last norm gets: of post-LN and RealFormer its own, of pre-LN the one behind all layers. The
# gradient by W_2 is hᵀ δ, δ = J r with J = (I - 11ᵀ/d - zzᵀ/d)/σ, whose trace of J Jᵀ is (d-2)/σ²: given all else E |hᵀ δ|² = |h|² (d-2)/σ².
#
# All branches are N(0, s_i I) given what was before, s_i = |h_i|² times the variance of W: of mean 1, and drawn apart from the stream, since |x̂|²
# is d. So x is a + √S g across the ones, g ~ N(0, I) in m = d - 1 dimensions, |a|² = d, with S = s_1 + ... + s_2L in pre-LN of one token, a = x_0,
# and S = s_2L in post-LN and RealFormer of any number of tokens and any attention, a the output of the first norm. |h|² = 4d E GELU² s_2L, hence
#
#     E |∂L/∂W_2|² = 4 d² (d-2) E GELU² · E s_2L u(S),     u(S) = E 1/|a + √S g|² = e^{-λ} 1F1(m/2-1; m/2; λ)/(S (m-2)),  λ = d/(2S).
#
# E s v(s) = E v(s*), where s* is s with one of its 4d terms w/4d, E w = 1, replaced by one whose density is w times that of w. S* is S with s* in it,
# of mean μ and variance V. By the heat equation u' = -(m-4) E |x|^-4 <= 0, u'' = 2 (m-4)(m-6) E |x|^-6 >= 0, and the third derivative is not
# positive (m > 8): u(μ) <= E u(S*) <= u(μ) + K V, K = (u(0) - u(μ) + μ u'(μ))/μ², u(0) = 1/d, as for c above.

GRADIENT_WIDTHS, TOP = (32, 64), 6
KINDS = ("pre-LN", "post-LN", "RealFormer")


def _inverse_power(d: int, s: Any, power: int = 2) -> Any:
    """E |a + √s g|^-power, power 2 or 4, as a ball."""
    m, s, half = flint.arb(d - 1), flint.arb(s), power // 2
    under = s * (m - 2) if power == 2 else s**2 * (m - 2) * (m - 4)
    return _kummer(d / (2 * s), m / 2 - half, m / 2) / under


def _inverse_power_by_quadrature(d: int, s: Any) -> Any:
    """The integral of E exp(-t |x|²) = (1 + 2ts)^(-m/2) exp(-td/(1 + 2ts)) over t > 0, in w = (1 + 2ts)^(-1/2)."""
    rate = d / (2 * flint.arb(s))
    return flint.acb.integral(lambda w, _: w ** (d - 4) * (-(1 - w * w) * rate).exp(), 0, 1).real / s


class _Top(NamedTuple):
    """E |∂L/∂W_2|² of the last layer is between two balls; and what they are made of."""

    low: Any
    high: Any
    mean: Any  # E S*
    bend: Any  # K


def _squared_gradient(d: int, layers: int) -> _Top:
    """Of `layers` pre-LN layers; with 0, of post-LN and of RealFormer."""
    second, fourth, sixth = (_moment_of_gelu(power) for power in (2, 4, 6))
    spread, terms = fourth / second**2 - 1, 4 * d  # Var w; w has the second moment 1 + Var w
    biased = sixth / second**3 - (1 + spread) ** 2  # the variance of w*
    mean = max(2 * layers, 1) + spread / terms
    others = layers * flint.arb(2) / d + max(layers - 1, 0) * spread / terms
    variance = others + spread * (terms - 1) / terms**2 + biased / terms**2
    least = _inverse_power(d, mean)
    bend = (flint.arb(1) / d - least - mean * (d - 5) * _inverse_power(d, mean, 4)) / mean**2
    size = 4 * flint.arb(d) ** 2 * (d - 2) * second
    return _Top(size * least, size * (least + bend * variance), mean, bend)


def _squares(seed: int, kind: str, d: int) -> Any:  # -> (networks, TOP)
    """|∂L/∂W_2|² of the last of 1, 2, ... TOP layers: the mean over samples, each with a read-out of its own, at one token."""
    found, tokens = [], 1 if kind == "pre-LN" else 3
    for number in range(NETWORKS):
        rng = np.random.default_rng([seed, number, d])
        x = rng.normal(size=(SAMPLES, tokens, d))
        x = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
        r = np.concatenate([rng.normal(size=(SAMPLES, 1, d)), np.zeros((SAMPLES, tokens - 1, d))], axis=1)
        found.append([float(np.sum(gradient**2)) / SAMPLES for gradient in _top_gradients(rng, kind, x, r)])
    return np.array(found)


def _top_gradients(rng: np.random.Generator, kind: str, x: Any, r: Any) -> Iterator[Any]:  # -> (4d, d), TOP times
    """∂(r·LN(x_L))/∂W_2 of the last layer, for L = 1, 2, ... TOP."""
    d, form, scores = x.shape[-1], blocks.Form(4, 0.0), None
    for _ in range(TOP):
        layer, bar = _unit_block(rng, d), r
        if kind == "pre-LN":
            (x, _), pullback = blocks.pre_ln_vjp(layer, x, form)
            bar = layer_norm_vjp(x, np.ones(d), np.zeros(d), 0.0)[1](r)[0]
        else:
            (x, seen), pullback = blocks.realformer_vjp(layer, x, form, previous_scores=scores)
            scores = seen.scores if kind == "RealFormer" else None
        yield pullback(bar)[0].feed_forward_out.weight


LAYERS_STATED = (1, 2, 3, 6, 12, 24, 48, 96)
STATED_GRADIENTS = {  # by width: E |∂L/∂W_2|²/d² of post-LN; and of pre-LN, times 1 + 2L
    192: ((0.847, 0.8504), (1.7, 1.7253)),
    768: ((0.8495, 0.8505), (1.7, 1.7070)),
}


@claim(
    "REALFORMER-6",
    "at initialisation the gradient of a Gaussian read-out by the last layer's W_2 has a norm of the order d in post-LN and RealFormer, at every "
    "depth, and d/√L in pre-LN, without √ln d: E |∂L/∂W_2|² of width 192 is 0.847 to 0.8504 d², and 1.7 to 1.7253 d²/(1 + 2L); of width 768 "
    "0.8495 to 0.8505 d², and 1.7 to 1.707 d²/(1 + 2L), for L = 1, 2, 3, 6, 12, 24, 48 and 96 layers",
    source="R. Xiong et al., arXiv 2002.04745, theorem 1: O(d √ln d) in post-LN, O(d √(ln d/L)) in pre-LN, for cross-entropy",
    method="Gaussian weights, branches of unit variance, one token (post-LN and RealFormer: any number): given all else a branch is N(0, s I) and "
    "E |∂L/∂W_2|² is |W_2's input|² (d-2)/σ², hence 4 d² (d-2) E GELU² · E s u(S) with u(S) = E 1/|a + √S g|²; it is between u at the mean of S* and "
    "that + K Var S*, as u falls, is convex, and its third derivative is not positive (derivation: beside the claim, docs/realformer.md). Enclosed; "
    "closed form against the integral, bound against u at 16 places, widths 24, 192, 768",
    expected="proved",
    cases=3 * 17 + 2 * 9,
)
def _gradient_in_expectation(setting: Setting) -> Outcome:
    cases, shown = 0, ""
    with truth.precision(128):
        for d in (24, WIDTH, 768):
            top, cases = _squared_gradient(d, 2), cases + 1
            least, slope = _inverse_power(d, top.mean), -(d - 5) * _inverse_power(d, top.mean, 4)
            gap = least - _inverse_power_by_quadrature(d, top.mean)
            if not (gap.contains(0) and gap.abs_upper() < 1e-20):
                return Outcome("refuted", cases, f"d = {d}: closed form and integral differ by {float(gap.mid()):.1e}")
            for step in range(1, 17):
                s, cases = flint.arb(step) / 2, cases + 1
                tangent = least + slope * (s - top.mean)
                if not tangent < _inverse_power(d, s) < tangent + top.bend * (s - top.mean) ** 2:
                    return Outcome("refuted", cases, f"d = {d}, S = {step}/2 is not in the bound")
        for d, (last, sums) in STATED_GRADIENTS.items():
            for layers, (least, most) in ((0, last), *((layers, sums) for layers in LAYERS_STATED)):
                top, cases = _squared_gradient(d, layers), cases + 1
                unit = flint.arb(d) ** 2 / (1 + 2 * layers)
                low, high = float((top.low / unit).lower()), float((top.high / unit).upper())
                shown = f"{low:.4f} to {high:.4f}"
                if not least < low <= high < most:
                    return Outcome("refuted", cases, f"d = {d}, {layers} layers: {shown}")
    return Outcome("proved", cases, f"d = 768, 96 layers of pre-LN: {shown} d²/(1 + 2L)")


@claim(
    "REALFORMER-6.network",
    "the layers of this package agree with it: |∂L/∂W_2|² of the last of 1, 2, ... 6 layers, pre-LN, post-LN and RealFormer, width 32 and 64, by the "
    "gradients of refimpl.blocks",
    source="this project; REALFORMER-6",
    method="16 networks, four samples of one token, of three where the layers are post-LN or RealFormer: Student's t, 15 degrees of freedom, of the "
    "distance of their means from the enclosed expectation: no chance below 1e-3/36 (of a true statement one run in 1,000 says otherwise); that six "
    "layers are like one is refuted of pre-LN, and that six are like pre-LN of the others",
    expected="not refuted",
    cases=2 * 3 * NETWORKS * TOP,
)
def _gradient_in_networks(setting: Setting) -> Outcome:
    level, least, shown, cases = LEVEL / (len(GRADIENT_WIDTHS) * len(KINDS) * TOP), 1.0, list[str](), 0
    with truth.precision(128):
        for d, kind in itertools.product(GRADIENT_WIDTHS, KINDS):
            expected = [[float(end) for end in _squared_gradient(d, layers)[:2]] for layers in range(TOP + 1)]
            squares, pre = _squares(setting.seed, kind, d), kind == "pre-LN"
            chance = min(_chance(squares[:, i], *expected[i + 1 if pre else 0]) for i in range(TOP))
            blind = _chance(squares[:, -1], *expected[1 if pre else TOP])
            least, cases = min(least, chance), cases + squares.size
            shown.append(f"{kind} {squares[:, 0].mean() / d**2:.2f} to {squares[:, -1].mean() / d**2:.2f}")
            if not chance >= level > blind:
                return Outcome("refuted", cases, f"width {d}: {shown[-1]} d²; chance {chance:.2g}, blind {blind:.2g}")
    told = f"in d², 1 to 6 layers of width 64: {', '.join(shown[-len(KINDS) :])}; least chance {least:.2g}"
    return Outcome("not refuted", cases, told)


@claim(
    "REALFORMER-1.bert4keras",
    "residual attention as bert4keras 0.11.5 has it (residual_attention_scores=True) is RealFormer's",
    source="bert4keras 0.11.5, since commit 20a4694 (2023-03-06); 0.9.8, 0.10.6 and 0.11.3 do accumulate",
    method='its rule, S_l = raw_l + raw_{l-1} (dialect "bert4keras", which reproduces its recorded answers), against S_l = raw_l + S_{l-1}: '
    "exact numbers, and a random BERT of four layers: two agree bit for bit, the third cannot",
    expected="refuted",
    cases=3 + 4,
)
def _previous_layer_alone(setting: Setting) -> Outcome:
    raw = [Fraction(1), Fraction(2), Fraction(4)]
    paper = list(itertools.accumulate(raw))
    theirs = [score + (raw[i - 1] if i else 0) for i, score in enumerate(raw)]
    config = bert.BertConfig(11, 8, 4, 2, max_position_embeddings=6, residual_attention="sum")
    rng = np.random.default_rng(setting.seed)
    arrays = {
        name: setting.backend.asarray(rng.normal(float(name.endswith("scale")), 0.5, shape))
        for name, shape in bert.BertWeights.shapes(config).items()
    }
    weights, ids = bert.BertWeights.from_named(arrays, config), setting.backend.asarray(rng.integers(1, 11, (2, 6)))
    runs = [
        [setting.backend.to_numpy(x) for x in bert.hidden_states(weights, config, ids, dialect=name)]
        for name in ("bert4keras-0.9", "bert4keras")
    ]
    apart = [float(np.max(np.abs(a - b))) for a, b in zip(*runs, strict=True)][1:]
    if paper[:2] != theirs[:2] or paper[2] == theirs[2] or apart[:2] != [0.0, 0.0] or not min(apart[2:]) > 1e-3:
        return Outcome("not refuted", 7, f"{paper}, {theirs}; layers differ by {apart}")
    shown = f"raw scores 1, 2, 4: S_3 = {paper[2]}, in 0.11.5 {theirs[2]}"
    return Outcome(
        "refuted", 7, f"{shown}; hidden states of layers 1 to 4 differ by {', '.join(f'{x:.2g}' for x in apart)}"
    )


def _layer_of(rule: str, q: Any, k: Any, v: Any, mask: Any, before: Any) -> tuple[Any, Any]:
    """A layer's output and the scores it hands on: at masked keys the lowest number (x-transformers), or 10¹² less (bert4keras 0.9.8)."""
    out, scores = scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=before)
    if rule == "paper" or mask is None:
        return out, scores
    least = np.finfo(scores.dtype).min if rule == "x-transformers" else scores - scores.dtype.type(1e12)
    handed = np.where(mask, scores, least)
    return np.matmul(softmax.softmax(handed), v), handed


def _outputs(rule: str, layers: list[tuple[Any, ...]], masks: list[Any]) -> list[Any]:
    outputs, before = [], None
    for (q, k, v), mask in zip(layers, masks, strict=True):
        out, before = _layer_of(rule, q, k, v, mask, before)
        outputs.append(out)
    return outputs


RULES = ("x-transformers", "bert4keras-0.9")


@claim(
    "REALFORMER-1.handed-mask",
    "a mask that is in the scores that are handed on changes nothing for queries that see a key, where no later layer has a mask that hides less",
    source="this project; REALFORMER-1.x-transformers and REALFORMER-1.bert4keras-0.9",
    method="the later mask hides again what the earlier one left in the scores, and exp of what remains is 0 either way: outputs of six layers by "
    "both rules bit for bit the paper's, one mask for all layers and masks that hide more in each, float32 and float64",
    expected="not refuted",
    cases=2 * 2 * 2 * LAYERS * 2 * N,
)
def _same_mask(setting: Setting) -> Outcome:
    cases = 0
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(setting.seed)
        layers = [tuple(part.astype(dtype) for part in layer) for layer in _qkv(rng)]
        drawn = [rng.random((2, 1, N, M)) < 0.8 for _ in layers]
        for masks in ([drawn[0]] * LAYERS, list(itertools.accumulate(drawn, np.logical_and))):
            paper = _outputs("paper", layers, masks)
            for rule in RULES:
                for number, (one, other) in enumerate(zip(paper, _outputs(rule, layers, masks), strict=True), 1):
                    seen = np.broadcast_to(masks[number - 1].any(axis=-1), one.shape[:-1])
                    cases += 2 * N
                    if one[seen].tobytes() != other[seen].tobytes():
                        return Outcome("refuted", cases, f"{rule}, {dtype}, layer {number}: outputs differ")
    return Outcome("not refuted", cases, "no bit differs")


@claim(
    "REALFORMER-1.x-transformers",
    "residual attention as x-transformers 2.31.10 has it (residual_attn=True) is RealFormer's: the mask is not part of what is carried",
    source="x-transformers 2.31.10, whose pre_softmax_attn is taken after masking",
    method="a layer with a mask, then one without, on recorded queries, keys and values: its rule, the lowest number at masked keys, gives what the "
    "package answered to 1e-12; the paper's gives what it answers where the first layer's scores are handed on clean. By its rule a query that saw "
    "no key in the first layer then averages all values",
    expected="refuted",
    cases=2 * 2 * 2 * 7 * 4 + 7,
)
def _mask_is_carried(setting: Setting) -> Outcome:
    a = dict(weights_io.open(components.RECORDED / "x_transformers" / "answers.safetensors"))
    layers = [tuple(a[f"attend_{name}"][number] for name in "qkv") for number in range(2)]
    masks = [a["attend_mask"].astype(bool)[:, None, None, :], None]
    theirs, paper = _outputs("x-transformers", layers, masks)[1], _outputs("paper", layers, masks)[1]
    unmasked = _outputs("paper", layers, [None, None])[1]
    pairs = ((theirs, a["attend_after_mask"]), (paper, a["attend_after_mask_clean"]))
    off = max(float(np.max(np.abs(got - recorded))) for got, recorded in pairs)
    apart = float(np.max(np.abs(theirs - paper)) / np.max(np.abs(paper)))
    blind = [np.arange(7)[:, None] != 3, None]  # the fourth query sees no key
    mean = np.mean(layers[1][2], axis=-2)
    averaged = float(np.max(np.abs(_outputs("x-transformers", layers, blind)[1][:, :, 3] - mean)))
    normal = _outputs("paper", layers, blind)[1].tobytes() == unmasked.tobytes() == paper.tobytes()
    cases = theirs.size + paper.size + 7
    if not (off <= 1e-12 and apart > 0.1 and averaged <= 1e-12 and normal):
        return Outcome("not refuted", cases, f"recorded answers {off:.1e} off; rules {apart:.1e} apart")
    return Outcome("refuted", cases, f"outputs of the layer without a mask are {apart:.2g} of the largest apart")


@claim(
    "REALFORMER-1.bert4keras-0.9",
    "no mask is in the scores that a layer of bert4keras 0.9.8 hands on",
    source="bert4keras 0.9.8, whose MultiHeadAttention returns its scores after `sequence_masking`",
    method="the recorded scores of four layers (three texts, two with masked keys) against S_l of the definition: at keys that are seen they are "
    "S_l to 1e-12 of the largest, at masked ones S_l - l 10¹² to 1e-12 of that",
    expected="refuted",
    cases=4 * 3 * 2 * 8 * 8,
)
def _mask_accumulates(setting: Setting) -> Outcome:
    folder, cases = components.RECORDED / "bert4keras_attention", 0
    recorded = weights_io.open(folder / "answers_0.9.8.safetensors")["residual_scores"]
    carried, masked = peers.carried_scores(setting, folder)
    for number, (theirs, ours) in enumerate(zip(recorded, carried, strict=True), 1):
        gaps, size, cases = theirs - ours, float(np.max(np.abs(ours))), cases + ours.size
        clean = float(np.max(np.abs(gaps[~masked]))) / size
        added = float(np.max(np.abs(gaps[masked] / (number * 1e12) + 1)))
        if not (clean <= 1e-12 and added <= 1e-12 and size < 1e3):
            return Outcome(
                "not refuted", cases, f"layer {number}: {clean:.1e} at seen keys, {added:.1e} at masked ones"
            )
    shown = ", ".join(f"{x:.0e}" for x in recorded[:, 1, 0, 0, -1])
    return Outcome("refuted", cases, f"handed on at a masked key by layers 1 to 4: {shown}")
