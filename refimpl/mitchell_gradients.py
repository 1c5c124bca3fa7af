"""Surrogate gradients of Mitchell's arithmetic: what to learn by, where products are replaced by additions.

With |x| = 2^e (1 + f) and |y| = 2^h (1 + g), products and quotients of `refimpl.mitchell` are affine in each argument, piece by piece:

    ∂P/∂x = sgn(y) 2^(h + [f+g >= 1])                                                                                             (1)
    ∂Q/∂x = sgn(y) 2^(-h - [f<g])                   ∂Q/∂y = -sgn(x) 2^(e - 2h - [f<g])                                            (2)
    ∂log≈/∂x = 2^(-e)                                ∂exp≈/∂x = 2^⌊x⌋                                                              (3)

Three rules are in use, `SURROGATES`. All of them are surrogates: the functions have kinks wherever an argument passes a power of two, and where
f + g = 1 or f = g (the exponential: at whole numbers), and a derivative says nothing of what lies beyond the next kink.

"slope"             (1) to (3): the exact derivative inside a piece, and nowhere else. At a kink that of the piece farther from 0, but for a divisor
                    where f = g: the piece nearer to 0, and where f = g = 0 a number between the two. Multiplying by it is adding to an
                    exponent. It is off the true product's derivative by a factor from 1/2 to 2, and equal to it on average over a
                    binade: Σ slopes · widths = P(2^(e+1), y) - P(2^e, y) = 2^e y.
"approximate"       the derivatives of the true functions, in Mitchell's products and quotients: x̄ = P(c̄, y), Q(c̄, y), ... Not the derivative of
                    anything, but a backward pass of a linear layer is then made of the same products as the forward one.
"straight-through"  the derivatives of the true functions in exact products, as if the forward pass had been exact.

The edges of the dialects (what flushes, overflows or is NaN) have no part in slopes.

References: A. Kosson and M. Jaggi, "Multiplication-free transformer training via piecewise affine operations", arXiv 2305.17190, and its program,
github.com/epfml/piecewise-affine-multiplication at c351e8c, which has the first (its "exact", the default) and the second (its "approximate", which
the commands of its experiments ask for); Y. Bengio, N. Léonard and A. Courville, "Estimating or propagating gradients through stochastic
neurons", arXiv 1308.3432 (the name of the third).
"""

from __future__ import annotations

import math
from typing import Any

from refimpl import bits, mitchell
from refimpl.errors import ConfigError
from refimpl.gradients import Pullback, summed_to, vjp_of
from refimpl.gradients import zeros as nothing
from refimpl.number_system import Array, check_floating, exact, is_ball, namespace, rounded_once, sign_of

__all__ = ["SURROGATES", "divide_vjp", "exp2_approx_vjp", "log2_approx_vjp", "matmul_vjp", "multiply_vjp"]

SURROGATES = ("slope", "approximate", "straight-through")


def _check(where: str, surrogate: str, **operands: Array) -> None:
    """Raise unless the operands have derivatives, and there is such a surrogate."""
    if surrogate not in SURROGATES:
        raise ConfigError(
            "unknown surrogate gradient",
            where=f"{where}(surrogate=)",
            expected=", ".join(SURROGATES),
            got=repr(surrogate),
        )
    for name, x in operands.items():
        check_floating(name, x)


# --- powers of two --------------------------------------------------------------------------------------------------------------------


def _constant(value: Any, like: Array) -> Array:  # -> (...)
    """One number in every place of an array as `like`."""
    return nothing(like) + value


def _power(e: Array, like: Array) -> Array:  # whole (...) -> (...)
    """2^e, for whole numbers as `bits.split` gives them."""
    return bits.scaled(_constant(exact(1, like), like), e)


def _shifted(c: Array, n: Array) -> Array:  # (...), whole (...) -> (...)
    """c 2^n: in four steps of one direction, so that nothing under- or overflows on the way that does not in the end."""
    if is_ball(c):
        return bits.scaled(c, n)
    quarter = namespace(n).trunc(n / 4)
    step = _power(quarter, quarter)
    return c * step * step * step * _power(n - 3 * quarter, quarter)


def _is_zero(x: Array) -> Array:  # (...) -> bool (...)
    return namespace(x).astype(x == 0, bool) if is_ball(x) else x == 0


def _finite(x: Array) -> Array:  # (...) -> bool (...)
    """Where x is a number; everywhere, on balls."""
    xp = namespace(x)
    return xp.ones(x.shape, dtype=bool) if is_ball(x) else xp.isfinite(x)


def _nan_unless(defined: Array, answer: Array) -> Array:
    return namespace(answer).where(defined, answer, exact(math.nan, answer))


def _ln2(like: Array) -> Any:
    """The logarithm of 2, as a scalar beside `like`."""
    return exact(2, like).log() if is_ball(like) else math.log(2)


# --- products and quotients -----------------------------------------------------------------------------------------------------------


def _product_slope(c_bar: Array, x: Array, y: Array) -> Array:  # (...), (...), (...) -> (...)
    """(1) times c̄; NaN where x or y is not finite. At x = 0, where P has no derivative, that of f = 0."""
    (_, f), (h, g) = bits.split(x), bits.split(y)
    slope = c_bar * sign_of(y) * _power(h, y)
    slope = namespace(slope).where(bits.below(f + g, 1), slope, 2 * slope)
    return _nan_unless(_finite(x) & _finite(y), slope)


def _quotient_slopes(c_bar: Array, x: Array, y: Array) -> tuple[Array, Array]:  # (...), (...), (...) -> (...), (...)
    """(2) times c̄; NaN where y is 0, or x or y not finite."""
    (e, f), (h, g) = bits.split(x), bits.split(y)
    below = h + namespace(f, g).where(bits.below(f - g, 0), 1 + 0 * h, 0 * h)
    defined = _finite(x) & _finite(y) & ~_is_zero(y)
    slopes = sign_of(y) * _shifted(c_bar, -below), -sign_of(x) * _shifted(c_bar, e - h - below)
    return _nan_unless(defined, slopes[0]), _nan_unless(defined, slopes[1])


@rounded_once
def _of_product(c_bar: Array, a: Array, b: Array, surrogate: str, edges: Any) -> Any:  # (...) -> as a, as b
    """The cotangents of the factors."""
    if surrogate == "slope":
        bars = _product_slope(c_bar, a, b), _product_slope(c_bar, b, a)
    elif surrogate == "approximate":
        bars = mitchell.multiply(c_bar, b, **edges), mitchell.multiply(c_bar, a, **edges)
    else:
        bars = c_bar * b, c_bar * a
    return summed_to(bars[0], a.shape), summed_to(bars[1], b.shape)


@rounded_once
def _of_quotient(c_bar: Array, a: Array, b: Array, surrogate: str, edges: Any) -> Any:  # (...) -> as a, as b
    """The cotangents of dividend and divisor."""
    if surrogate == "slope":
        a_bar, b_bar = _quotient_slopes(c_bar, a, b)
    elif surrogate == "approximate":
        by_square = mitchell.divide(mitchell.divide(a, b, **edges), b, **edges)
        a_bar, b_bar = mitchell.divide(c_bar, b, **edges), -mitchell.multiply(by_square, c_bar, **edges)
    else:
        a_bar = c_bar / b
        b_bar = -a_bar * (a / b)
    return summed_to(a_bar, a.shape), summed_to(b_bar, b.shape)


@vjp_of(mitchell.multiply, "a", "b", own_range=True)
def multiply_vjp(
    a: Array,
    b: Array,
    *,
    dialect: str = "ieee",
    zeros: str | None = None,
    subnormals: str | None = None,
    underflow: str | None = None,
    overflow: str | None = None,
    infinities: str | None = None,
    surrogate: str = "slope",
) -> tuple[Array, Pullback]:  # (...), (...) -> (...), pullback
    """ā = c̄ sgn(b) 2^(h + [f+g >= 1]), b̄ = c̄ sgn(a) 2^(e + [f+g >= 1]); or P(c̄, b), P(c̄, a); or c̄ b, c̄ a: a surrogate gradient.

    Parameters
    ----------
    a, b, dialect, zeros, subnormals, underflow, overflow, infinities : as `refimpl.mitchell.multiply`, of floats or balls
    surrogate : "slope", the exact derivative where the product has one; "approximate", by products in the same dialect; "straight-through"

    Returns
    -------
    value, pullback. Slopes are exact but where they under- or overflow, and NaN where an operand is not finite; at 0 a slope is that of f = 0

    Raises
    ------
    DtypeError, ConfigError, UndecidedError
        as `refimpl.mitchell.multiply`; DtypeError for whole numbers, ConfigError for another surrogate.
    """
    _check("multiply", surrogate, a=a, b=b)
    edges = {"dialect": dialect, "zeros": zeros, "subnormals": subnormals}
    edges |= {"underflow": underflow, "overflow": overflow, "infinities": infinities}

    def pullback(c_bar: Array) -> tuple[Array, Array]:  # (...) -> as a, as b
        return _of_product(c_bar, a, b, surrogate, edges)  # type: ignore[no-any-return]

    return mitchell.multiply(a, b, **edges), pullback  # type: ignore[arg-type]


@vjp_of(mitchell.divide, "a", "b", own_range=True)
def divide_vjp(
    a: Array,
    b: Array,
    *,
    dialect: str = "ieee",
    zeros: str | None = None,
    subnormals: str | None = None,
    underflow: str | None = None,
    overflow: str | None = None,
    infinities: str | None = None,
    surrogate: str = "slope",
) -> tuple[Array, Pullback]:  # (...), (...) -> (...), pullback
    """ā = c̄ sgn(b) 2^(-h - [f<g]), b̄ = -c̄ sgn(a) 2^(e - 2h - [f<g]); or Q(c̄, b), -P(Q(Q(a, b), b), c̄); or c̄/b, -c̄ a/b²: a surrogate gradient.

    Parameters
    ----------
    a, b, dialect, zeros, subnormals, underflow, overflow, infinities : as `refimpl.mitchell.divide`, of floats or balls
    surrogate : as `multiply_vjp`

    Returns
    -------
    value, pullback. Slopes are exact but where they under- or overflow, and NaN where b is 0 or an operand not finite

    Raises
    ------
    DtypeError, ConfigError, UndecidedError
        as `refimpl.mitchell.divide`; DtypeError for whole numbers, ConfigError for another surrogate.
    """
    _check("divide", surrogate, a=a, b=b)
    edges: dict[str, Any] = {"dialect": dialect, "zeros": zeros, "subnormals": subnormals}
    edges |= {"underflow": underflow, "overflow": overflow, "infinities": infinities}

    def pullback(c_bar: Array) -> tuple[Array, Array]:  # (...) -> as a, as b
        return _of_quotient(c_bar, a, b, surrogate, edges)  # type: ignore[no-any-return]

    return mitchell.divide(a, b, **edges), pullback


@vjp_of(mitchell.matmul, "a", "b")
def matmul_vjp(
    a: Array, b: Array, *, dialect: str = "ieee", corrected: bool = False, surrogate: str = "slope"
) -> tuple[Array, Pullback]:  # (..., n, k), (..., k, m) -> (..., n, m), pullback
    """ā_ik = Σ_j c̄_ij ∂P(a_ik, b_kj)/∂a, b̄_kj = Σ_i c̄_ij ∂P(a_ik, b_kj)/∂b; or C̄ Bᵀ, Aᵀ C̄, by `matmul` or exactly: a surrogate gradient.

    Parameters
    ----------
    a, b, dialect, corrected : as `refimpl.mitchell.matmul`, of floats or balls
    surrogate : "slope", not of corrected products; "approximate", by `matmul` in the same dialect, corrected as it is; "straight-through"

    Returns
    -------
    value, pullback. A slope is another for each product, so that slopes take a Python loop over k, as the value does

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as `refimpl.mitchell.matmul`; DtypeError for whole numbers, ConfigError for another surrogate, and for slopes of corrected products.
    """
    _check("matmul", surrogate, a=a, b=b)
    if corrected and surrogate == "slope":
        what, expected = "corrected products have no published slope", "approximate, straight-through"
        raise ConfigError(what, where="matmul(surrogate=)", expected=expected, got=repr(surrogate))

    def pullback(c_bar: Array) -> tuple[Array, Array]:  # (..., n, m) -> (..., n, k), (..., k, m)
        if surrogate == "slope":
            a_bar, b_bar = _slopes_of_sums(c_bar, a, b)
        else:
            xp = namespace(a, b)
            across, along = xp.matrix_transpose(b), xp.matrix_transpose(a)
            if surrogate == "approximate":
                a_bar = mitchell.matmul(c_bar, across, dialect=dialect, corrected=corrected)
                b_bar = mitchell.matmul(along, c_bar, dialect=dialect, corrected=corrected)
            else:
                a_bar, b_bar = xp.matmul(c_bar, across), xp.matmul(along, c_bar)
        return summed_to(a_bar, a.shape), summed_to(b_bar, b.shape)

    return mitchell.matmul(a, b, dialect=dialect, corrected=corrected), pullback


def _slopes_of_sums(c_bar: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Σ_j and Σ_i of c̄ times the slopes of each product, one k at a time."""
    xp, left, right = namespace(a, b), [], []
    for k in range(a.shape[-1]):
        column, row = a[..., :, k : k + 1], b[..., k : k + 1, :]
        left.append(xp.sum(_product_slope(c_bar, column, row), axis=-1, keepdims=True))
        right.append(xp.sum(_product_slope(c_bar, row, column), axis=-2, keepdims=True))
    return xp.concat(left, axis=-1), xp.concat(right, axis=-2)


# --- logarithm and power of two -------------------------------------------------------------------------------------------------------


@vjp_of(mitchell.log2_approx, "x")
def log2_approx_vjp(x: Array, *, surrogate: str = "slope") -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = 2^(-e) ȳ; or Q(Q(ȳ, x), ln 2); or ȳ/(x ln 2): a surrogate gradient. NaN where the value is not finite.

    Arguments and errors as `refimpl.mitchell.log2_approx`; `surrogate` as `multiply_vjp`. The slope is the exact derivative between powers of
    two, and at one that of the piece above it.
    """
    _check("log2_approx", surrogate, x=x)
    y, xp = mitchell.log2_approx(x), namespace(x)
    defined = _finite(x) & ~_is_zero(x) & ~bits.negative(x)

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        near = xp.where(defined, x, exact(1, x))
        if surrogate == "slope":
            x_bar = y_bar / _power(bits.split(near)[0], x)
        elif surrogate == "approximate":
            x_bar = mitchell.divide(mitchell.divide(y_bar, near), _constant(_ln2(x), x))
        else:
            x_bar = y_bar / near / _ln2(x)
        return (_nan_unless(defined, x_bar),)

    return y, pullback


@vjp_of(mitchell.exp2_approx, "x")
def exp2_approx_vjp(x: Array, *, surrogate: str = "slope") -> tuple[Array, Pullback]:  # (...) -> (...), pullback
    """x̄ = 2^⌊x⌋ ȳ; or P(P(y, ln 2), ȳ); or 2^x ln 2 ȳ: a surrogate gradient. NaN where the value is not finite.

    Arguments and errors as `refimpl.mitchell.exp2_approx`; `surrogate` as `multiply_vjp`. The slope is the exact derivative between whole
    numbers, and at one that of the piece above it; 0 where that underflows.
    """
    _check("exp2_approx", surrogate, x=x)
    y, xp = mitchell.exp2_approx(x), namespace(x)
    defined = _finite(y)

    def pullback(y_bar: Array) -> tuple[Array]:  # (...) -> (...)
        near = xp.where(defined, x, exact(0, x))
        if surrogate == "slope":
            x_bar = y_bar * _power(bits.whole_part(near), x)
        elif surrogate == "approximate":
            x_bar = mitchell.multiply(mitchell.multiply(y, _constant(_ln2(x), x)), y_bar)
        else:
            x_bar = y_bar * (xp.exp(near * _ln2(x)) * _ln2(x))
        return (_nan_unless(defined, x_bar),)

    return y, pullback
