"""The Taylor polynomials of exp at 0, positive for every even order, and the softmax they give.

    f_n(x) = Σ_{k<=n} x^k / k!  =  1/n! ∫₀^∞ (x + s)^n exp(-s) ds  =  Σ_i w_i (x + s_i)^n / n!                       (1)

The integral is the Gamma function's, term by term; the last form is Gauss-Laguerre quadrature with n//2 + 1 nodes s_i and weights
w_i > 0, which is exact for degree n. For even n every term is a square, so (1) is at once the proof that f_n is positive and an evaluation
whose rounding cannot make it negative. (Plain Horner does: in float32 at order 40, in float16 at order 16; see claim TAYLOR-5.)

Taylor softmax of even order n:  p_i = f_n(x_i) / Σ_j f_n(x_j).  At order 2, f_2(q·k) = φ(q)·φ(k) with  φ(x) = [1, x, (x ⊗ x)/√2].

Attention with these weights is linear attention, in work and memory linear in the length:

    O_i = Σ_j f_2(s_ij) v_j / Σ_j f_2(s_ij),  s_ij = q_i·k_j/√d                                                      (2)

Backwards, f_n' = f_{n-1}, evaluated by (1) too: with its own nodes, or term by term from those of f_n. For even n, f_{n-1} is negative left of its
one root r, so terms of both signs meet. In either form the sum of their absolute values left of 0 is at most 1.03 |f_{n-1}(x)| max(1, |x/(x - r)|)
(on grids, up to order 32), and near r the quotient is what an error in the last place of x does.

References: A. de Brébisson and P. Vincent, "An exploration of softmax alternatives belonging to the spherical loss family",
arXiv 1511.05042, section 3.2 (order 2); K. Banerjee et al., "Exploring alternatives to softmax function", arXiv 2011.11538 (even orders);
Abramowitz and Stegun, 25.4.45 (Gauss-Laguerre); A. Katharopoulos et al., "Transformers are RNNs", arXiv 2006.16236, section 3.2.1 (polynomial
kernels as features).
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

from refimpl.errors import ConfigError
from refimpl.gradients import Pullback, vjp_of, zeros
from refimpl.linear_attention import MapRule, linear_attention, sees_a_key, swept, weighted_mean, weighted_mean_vjp
from refimpl.number_system import (
    Array,
    check_floating,
    exact,
    is_ball,
    namespace,
    rounded_once,
    shift_for_exp,
    square_root,
    whole_number,
    whole_power,
)
from refimpl.softmax import deviations

__all__ = [
    "exp_taylor",
    "exp_taylor_vjp",
    "laguerre_nodes",
    "laguerre_rule",
    "taylor_attention",
    "taylor_attention_vjp",
    "taylor_features",
    "taylor_features_vjp",
    "taylor_softmax",
    "taylor_softmax_vjp",
]

_BITS = 320  # of the rational nodes; their certified radius is 2^-280, below every precision that balls are run at here
_RADIUS = Fraction(1, 2**280)
_HIGHEST_ORDER = 64


def _laguerre(count: int, x: Fraction) -> Fraction:
    """L_count(x) = Σ_k C(count, k) (-x)^k / k!, exactly: Horner's rule over one common denominator."""
    p, q, total = -x.numerator, x.denominator, 0
    for k in range(count, -1, -1):
        total = total * p + math.comb(count, k) * math.perm(count, count - k) * q ** (count - k)
    return Fraction(total, math.factorial(count) * q**count)


def _polish(count: int, start: float) -> Fraction:
    """The zero of L_count near `start`, certified by a change of sign to lie within 2^-280 of the rational returned."""
    x = Fraction(start)
    for _ in range(4):  # Newton doubles the correct bits: 45, 90, 180, 360
        value = _laguerre(count, x)
        slope = Fraction(count) * (value - _laguerre(count - 1, x)) / x
        x = Fraction(round((x - value / slope) * 2**_BITS), 2**_BITS)
    if _laguerre(count, x - _RADIUS) * _laguerre(count, x + _RADIUS) >= 0:
        msg = f"zero of the Laguerre polynomial L_{count} near {start} could not be certified"
        raise ArithmeticError(msg)
    return x


@functools.cache
def laguerre_nodes(count: int) -> tuple[Fraction, ...]:
    """The zeros of the Laguerre polynomial L_count: distinct, and each certified to lie within 2^-280 of the rational given."""
    from scipy.special import roots_laguerre

    nodes = tuple(_polish(count, float(start)) for start in roots_laguerre(count)[0])
    if any(right - left <= 2 * _RADIUS for left, right in itertools.pairwise(nodes)):
        msg = f"two zeros of the Laguerre polynomial L_{count} coincide"
        raise ArithmeticError(msg)
    return nodes


@functools.cache
def _rational_rule(order: int) -> tuple[tuple[Fraction, Fraction, Fraction], ...]:
    """Node s, scale 2^e and weight w/(n! 2^{en}) >= 1 for each term of (1): w = s / ((N+1) L_{N+1}(s))^2, N = n//2 + 1."""
    count = order // 2 + 1
    rule = []
    for node in laguerre_nodes(count):
        coefficient = node / ((count + 1) * _laguerre(count + 1, node)) ** 2 / math.factorial(order)
        exponent = math.floor(math.log2(coefficient) / order) if order else 0
        scale = Fraction(2) ** exponent
        rule.append((node, scale, coefficient / scale**order))
    return tuple(rule)


def laguerre_rule(order: int, like: Array) -> list[tuple[Any, Any, Any]]:
    """Scalars (node, scale, weight) beside `like` with  f_order(x) = Σ weight · (scale · (x + node))^order.

    The scale is a power of two and the weight at least 1, so that no power overflows before its term does. On balls the scalars
    enclose the exact ones.
    """
    rule = _rational_rule(order)
    if not is_ball(like):
        return [(float(node), float(scale), float(weight)) for node, scale, weight in rule]
    return [_enclosed_term(node, scale, order, like) for node, scale, _ in rule]


def _enclosed_term(node: Fraction, scale: Fraction, order: int, like: Array) -> tuple[Any, Any, Any]:
    """One term of `laguerre_rule` as balls: the node with its certified radius, and the weight computed from that ball.

    They are computed with more bits than the nodes have and rounded to the working precision last, as constants of a float are.
    """
    import flint

    working, count, one = flint.ctx.prec, order // 2 + 1, exact(1, like)
    flint.ctx.prec = max(working, 2 * _BITS)
    try:
        s, factor = exact(node, like) + flint.arb(0, float(_RADIUS)), exact(scale, like)
        weight = s / ((count + 1) * s.laguerre_l(count + 1)) ** 2 / (math.factorial(order) * factor**order)
    finally:
        flint.ctx.prec = working
    return s * one, factor, weight * one


def _checked_order(order: int, *, even: bool) -> int:
    whole = whole_number(order)
    if whole is None or not 0 <= whole <= _HIGHEST_ORDER or (even and whole % 2):
        kind = "an even whole number" if even else "a whole number"
        raise ConfigError(
            f"order of the Taylor polynomial must be {kind}",
            expected=f"{kind} from 0 to {_HIGHEST_ORDER}",
            got=repr(order),
            remedy="odd orders are negative left of their root (TAYLOR-2), so they give no softmax" if even else None,
        )
    return whole


def _summed(terms: list[Array]) -> Array:
    return functools.reduce(lambda total, term: total + term, terms)


@rounded_once
def exp_taylor(x: Array, order: int) -> Array:  # (...) -> (...)
    """f_n(x) = Σ_{k<=n} x^k / k! = Σ_i w_i (x + s_i)^n / n!, elementwise; positive for even n.

    Parameters
    ----------
    x : array, (...), floating or balls
    order : int, 0 <= order <= 64

    Returns
    -------
    array, (...), the dtype of `x`, and +inf where f_n overflows. For even orders from 2 to 40 it is > 0 for every finite `x` (claim TAYLOR-5).
    (In float16, order 62 is the first whose smallest values, near 1e-8, round to 0.)

    Raises
    ------
    DtypeError, ConfigError
        if `x` is not floating, or `order` is not a whole number in the range.
    """
    check_floating("x", x)
    order = _checked_order(order, even=False)
    return _summed([weight * whole_power(scale * (x + node), order) for node, scale, weight in laguerre_rule(order, x)])


def _relative_factors(x: Array, rule: list[tuple[Any, Any, Any]], axis: int) -> tuple[list[Array], Array]:
    """scale (x + node)/c for each term of (1), and c: the row's largest factor."""
    xp, factors = namespace(x), [scale * (x + node) for node, scale, _ in rule]
    largest = functools.reduce(xp.maximum, [shift_for_exp(xp.abs(factor), axis) for factor in factors])
    return [factor / largest for factor in factors], largest


@rounded_once
def taylor_softmax(x: Array, order: int = 2, axis: int = -1) -> Array:  # (..., n, ...) -> (..., n, ...)
    """p_i = f_n(x_i) / Σ_j f_n(x_j), the softmax in which exp is replaced by its Taylor polynomial of even order n.

    Positive and summing to one, but not order-preserving for x left of the minimum of f_n (claim TAYLOR-6). Every term of f_n is divided by
    the n-th power of the row's largest factor, which cancels in p and keeps large x from overflowing.

    Parameters
    ----------
    x : array, floating or balls
    order : int, even, 0 <= order <= 64
    axis : int, the axis along which the result sums to one

    Returns
    -------
    array, the shape and dtype of `x`; an entry near 2^order times the dtype's smallest number, or below, loses digits or comes out as 0

    Raises
    ------
    DtypeError, ConfigError
        if `x` is not floating, or `order` is not an even whole number in the range.
    """
    check_floating("x", x)
    order = _checked_order(order, even=True)
    if order == 0:
        return (x * 0 + exact(1, x)) / x.shape[axis]
    rule = laguerre_rule(order, x)
    factors, _ = _relative_factors(x, rule, axis)
    weights = _summed([weight * whole_power(f, order) for f, (_, _, weight) in zip(factors, rule, strict=True)])
    return weights / namespace(x).sum(weights, axis=axis, keepdims=True)


@rounded_once
def taylor_features(x: Array) -> Array:  # (..., d) -> (..., 1 + d + d²)
    """φ(x) = [1, x, (x ⊗ x)/√2], for which φ(q)·φ(k) = 1 + q·k + (q·k)²/2 = f_2(q·k) exactly (claim TAYLOR-7).

    Parameters
    ----------
    x : array, (..., d), floating or balls

    Returns
    -------
    array, (..., 1 + d + d²), the dtype of `x`

    Raises
    ------
    DtypeError
        if `x` is not floating.
    """
    check_floating("x", x)
    xp = namespace(x)
    products = xp.reshape(x[..., :, None] * x[..., None, :], (*x.shape[:-1], -1))
    return xp.concat([x[..., :1] * 0 + exact(1, x), x, products / square_root(2, x)], axis=-1)


def _scaled(q: Array, scale: float | Fraction | None) -> Array:
    """q/√d, or q · scale for a given finite number."""
    if scale is None:
        return q / square_root(q.shape[-1], q)
    whole = whole_number(scale)
    scale = scale if whole is None else whole
    if not isinstance(scale, int | float | Fraction) or isinstance(scale, bool) or not math.isfinite(scale):
        raise ConfigError(
            "the scale of the scores must be a finite number",
            where="taylor_attention",
            expected="an int, a float or a Fraction; None for 1/√d",
            got=repr(scale),
        )
    return q * exact(scale, q)


@rounded_once
def taylor_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | Fraction | None = None,
    chunk: int = 128,
) -> Array:  # (..., n, d), (..., m, d), (..., m, e) -> (..., n, e)
    """O_i = Σ_j f_2(s_ij) v_j / Σ_j f_2(s_ij) with s_ij = q_i·k_j/√d, computed as φ(q_i/√d)ᵀ Σ_j φ(k_j) [v_j, 1]ᵀ.

    Attention in which softmax is replaced by `taylor_softmax` of order 2: positive weights that sum to one. The scale enters q before φ. No
    array of size (n, m) or (n, 1 + d + d²) is made: both features and causal sums go chunk by chunk.

    Parameters
    ----------
    q, k, v : array, (..., n, d), (..., m, d), (..., m, e), floating or balls, one dtype
    causal : query i sees the keys up to its own position; the n <= m queries are the last n of the m positions
    mask : boolean array that broadcasts to (..., m), true where the key takes part, or None. Masked keys and values have no influence,
        whatever they hold. Values that are not masked must be finite, visible or not, since they are multiplied by 0
    scale : the factor of q·k; None for 1/√d. On balls a float is the binary double given, a Fraction the exact rational
    chunk : int >= 1, positions that are handled at once; the answer depends on it by rounding only

    Returns
    -------
    array, (..., n, e), the dtype of `q`; zeros for a query that sees no key. The weight f_2(s_ij) >= 1/2 is a sum of terms whose absolute values add
    up to f_2(a_ij), a_ij = Σ_r |q_ir k_jr|/√d: a float errs in proportion to that, and where it reaches 1/u a denominator may lose its sign

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        as `linear_attention`, and for a scale that is not a finite number.
    """
    check_floating("q", q)

    def q_map(queries: Array) -> Array:
        return taylor_features(_scaled(queries, scale))

    numerators, denominators = linear_attention(
        q, k, v, q_map=q_map, k_map=taylor_features, causal=causal, mask=mask, chunk=chunk
    )
    return weighted_mean(
        numerators, denominators, None if mask is None else sees_a_key(mask, q.shape[-2], causal=causal)
    )


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(exp_taylor, "x")
def exp_taylor_vjp(x: Array, order: int) -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = f_{n-1}(x) ȳ, and 0 for order 0. Arguments and errors as `exp_taylor`."""
    y = exp_taylor(x, order)

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        return (exp_taylor(x, order - 1) * y_bar if order else zeros(x),)

    return y, pullback


@vjp_of(taylor_softmax, "x")
def taylor_softmax_vjp(
    x: Array, order: int = 2, axis: int = -1
) -> tuple[Array, Pullback]:  # (..., n, ...) -> (..., n, ...), pullback
    """x̄_i = f_{n-1}(x_i)/Σ_j f_n(x_j) · (p̄_i - Σ_j p_j p̄_j) for p = taylor_softmax(x). Arguments and errors as `taylor_softmax`.

    The quotient is made of the forward pass's terms, divided by the n-th power of the row's largest factor above and below: large x do not
    overflow. Left of the minimum of f_n it is negative.
    """
    p = taylor_softmax(x, order, axis)

    def pullback(p_bar: Array) -> tuple[Array]:  # (..., n, ...) -> (..., n, ...)
        return (_slopes(x, order, axis) * deviations(p, p_bar, axis) if order else zeros(x),)

    return p, pullback


def _slopes(x: Array, order: int, axis: int) -> Array:  # (..., n, ...) -> (..., n, ...)
    """f_n'(x_i)/Σ_j f_n(x_j) = (n/c) Σ_t w_t s_t (y_ti)^{n-1} / Σ_j Σ_t w_t (y_tj)^n, c the row's largest factor, y = s (x + node)/c."""
    order, rule = whole_number(order) or 0, laguerre_rule(order, x)
    factors, largest = _relative_factors(x, rule, axis)
    powers = [weight * whole_power(f, order - 1) for f, (_, _, weight) in zip(factors, rule, strict=True)]
    total = namespace(x).sum(_summed([p * f for p, f in zip(powers, factors, strict=True)]), axis=axis, keepdims=True)
    return _summed([order * scale * p for p, (_, scale, _) in zip(powers, rule, strict=True)]) / total / largest


@vjp_of(taylor_features, "x")
def taylor_features_vjp(x: Array) -> tuple[Array, Pullback]:  # (..., d) -> (..., 1 + d + d²), pullback
    """x̄ = ȳ_x + (Ȳ + Ȳᵀ) x/√2, with ȳ = [·, ȳ_x, Ȳ] and Ȳ the d² last entries as a matrix. Arguments and errors as `taylor_features`."""
    y = taylor_features(x)

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., 1 + d + d²) -> (..., d)
        xp, d = namespace(x), x.shape[-1]
        products = xp.reshape(y_bar[..., 1 + d :], (*x.shape, d))
        doubled = xp.sum((products + xp.matrix_transpose(products)) * x[..., None, :], axis=-1)
        return (y_bar[..., 1 : 1 + d] + doubled / square_root(2, x),)

    return y, pullback


@vjp_of(taylor_attention, "q", "k", "v")
def taylor_attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | Fraction | None = None,
    chunk: int = 128,
) -> tuple[Array, Pullback]:  # (..., n, d), (..., m, d), (..., m, e) -> (..., n, e), pullback
    """q̄, k̄, v̄ by chunks: `weighted_mean_vjp`, then `linear_attention_vjp` with the maps φ(q/√d) and φ(k); masked keys exactly 0.

    Work and memory are linear in the length. Arguments and errors as `taylor_attention`; the scale is a number, and gets no cotangent.
    """
    check_floating("q", q)

    def q_map_vjp(queries: Array) -> tuple[Array, Pullback]:
        features, pullback = taylor_features_vjp(_scaled(queries, scale))
        return features, lambda bar: (_scaled(pullback(bar)[0], scale),)

    q_rule = MapRule(lambda queries: taylor_features(_scaled(queries, scale)), q_map_vjp)
    k_rule = MapRule(taylor_features, taylor_features_vjp)
    (numerators, denominators), swept_back = swept(q, k, v, q_rule, k_rule, causal=causal, mask=mask, chunk=chunk)
    seen = None if mask is None else sees_a_key(mask, q.shape[-2], causal=causal)
    output, mean_back = weighted_mean_vjp(numerators, denominators, seen)
    return output, lambda o_bar: swept_back(*mean_back(o_bar))[:3]
