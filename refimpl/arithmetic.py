"""Approximate arithmetic as one more number system: the models' own source, run with Mitchell's products in place of exact ones.

    ab -> P(a, b)     Σ_k a_ik b_kj -> Σ_k P(a_ik, b_kj)     a/b -> Q(a, b)     √a -> R(a)     mean_n -> Q(Σ, n)

P, Q and R are `refimpl.mitchell`'s product, quotient and square root. A definition takes its namespace from its arguments, so it runs unchanged on
an `ArithmeticArray`: a float array whose `*`, `/`, `@`, `**`, `sqrt` and `mean` are those, and whose sums are added up from the first term to the
last. Differences, comparisons, maxima and moving elements are the array library's own, and so are whole numbers (token ids, positions, masks) and
Python's numbers among each other: √d is worked out exactly, and what is divided by it is a quotient Q. Exponentials, logarithms, hyperbolic tangents
and the error function are no products. They stay exact unless the kind "exponential" is asked for, which has e^x and tanh. With these replaced too,
only additions, comparisons and whole numbers are left, and every array library gives the same bits.

Where a product is replaced, a *kind of layer* says: `number_system.products_of`, a line above each definition of a layer, names it.

    projection     x W of `parameters.Linear`: query, key and value, attention output, feed-forward
    head           the product with the table of embeddings that makes the scores of the vocabulary
    attention      Q Kᵀ, its division by √d, the division in softmax, and softmax(S) V
    activation     GELU's polynomial and its product with x
    normalization  means, squares, division by the root, product with the scale
    other          whatever is in none of these: nothing in a GPT-2; poolings of an encoder
    exponential    no products: e^x ≈ `exp2_approx`(P(x, log2 e)), wherever a layer has it, and tanh through it

References: those of `refimpl.mitchell`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import array_api_compat

from refimpl import mitchell, special
from refimpl.errors import ConfigError, DtypeError, NotBuiltYetError
from refimpl.inference import mitchell as inference
from refimpl.number_system import Array, device_of, is_ball, kind_of_products, namespace, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["FORMS", "KINDS", "PRODUCTS", "Arithmetic", "ArithmeticArray", "Namespace", "named_arithmetic", "plain"]

PRODUCTS = ("projection", "head", "attention", "activation", "normalization", "other")
KINDS = (*PRODUCTS, "exponential")
FORMS = ("exact", "mitchell", "mitchell-centred", "mitchell-corrected", "mitchell-refined")
CORRECTED = ("mitchell-corrected", "mitchell-refined")

# A sum of products is too small on average, since every product is. P(P(a, b), 1 + c) adds the fraction c to the approximate logarithm, which costs
# an addition; with this c the mean of P(P(a, b), 1 + c)/(ab) over uniform fractions is 1.
CENTRE = 1.0 + 0.0566


@dataclass(frozen=True)
class Arithmetic:
    """Which products are made how: those of the `kinds` by `form`, all others exactly.

    form : "exact"; "mitchell", equations (2) and (3) of `refimpl.mitchell`; "mitchell-centred", sums of products scaled so that
        they are right on average, all else as "mitchell"; "mitchell-corrected", products by (4), quotients and roots as "mitchell";
        "mitchell-refined", products by (4), quotients and roots refined by one step that is made of these
    kinds : of `KINDS`; all kinds of products, `PRODUCTS`, unless given
    """

    form: str = "mitchell"
    kinds: frozenset[str] = frozenset(PRODUCTS)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            expected = ", ".join(FORMS)
            raise ConfigError("unknown arithmetic", where="Arithmetic(form)", expected=expected, got=repr(self.form))
        object.__setattr__(self, "kinds", frozenset((self.kinds,) if isinstance(self.kinds, str) else self.kinds))
        unknown = sorted(map(repr, self.kinds - set(KINDS)))
        if unknown or not self.kinds:
            got = ", ".join(unknown) or "none at all"
            what = "unknown kind of product" if unknown else "nothing is approximated"
            raise ConfigError(what, where="Arithmetic(kinds)", expected=", ".join(KINDS), got=got)

    def __str__(self) -> str:
        """The form, and the kinds where they are not all products."""
        kinds = "" if self.kinds == set(PRODUCTS) else f" ({', '.join(k for k in KINDS if k in self.kinds)})"
        return self.form + kinds

    def replaces(self, kind: str) -> bool:
        """Whether products of this kind, or exponentials, are replaced."""
        return self.form != "exact" and kind in self.kinds

    def wrap(self, x: Any) -> Any:
        """An array in this arithmetic; of a tuple, named or not, every array in it. What is no array stays as it is."""
        if isinstance(x, tuple):
            parts = map(self.wrap, x)
            return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
        x = plain(x)
        if not hasattr(x, "dtype"):
            return x
        if is_ball(x):
            expected = "an array of NumPy, CuPy or array-api-strict"
            remedy = "call refimpl.mitchell's functions, which run on balls"
            where = "Arithmetic.wrap"
            raise DtypeError("balls have no such form", where=where, expected=expected, got="balls", remedy=remedy)
        return ArithmeticArray(x, self)


def named_arithmetic(arithmetic: str | Arithmetic, kinds: Iterable[str] | None = None) -> Arithmetic:
    """The arithmetic of that name, one of `FORMS`, or the one given; `kinds` in place of its own. Raises ConfigError for unknown names."""
    chosen = arithmetic if isinstance(arithmetic, Arithmetic) else Arithmetic(arithmetic)
    if kinds is None:
        return chosen
    return Arithmetic(chosen.form, frozenset((kinds,) if isinstance(kinds, str) else kinds))


def plain(x: Any) -> Any:
    """The array itself, of an `ArithmeticArray`; inside lists and tuples too. Everything else as it is."""
    if isinstance(x, ArithmeticArray):
        return x.array
    return type(x)(map(plain, x)) if type(x) in (list, tuple) else x


# --- products -------------------------------------------------------------------------------------------------------------------------


def _is_floating(x: Array) -> bool:
    return "float" in str(x.dtype)


FLUSH = "flush"  # bare additions of patterns with the usual guards, for products and quotients; corrected products have "ieee" alone


def _product(a: Array, b: Array, form: str) -> Array:
    """P(a, b)."""
    if form in CORRECTED:
        return inference.multiply(a, b, corrected=True)
    return inference.multiply(a, b, dialect=FLUSH)


def _quotient(a: Array, b: Array, form: str) -> Array:
    """Q(a, b), or q + Q(a - P(q, b), b) for q = Q(a, b)."""
    q = mitchell.divide(a, b, dialect=FLUSH)
    if form != "mitchell-refined":
        return q
    near = _finite(q)
    return _corrected(q, near, a - _product(near, b, form), b)


def _root(x: Array, form: str) -> Array:
    """R(x), or r + Q(x - P(r, r), 2r) for r = R(x): Newton's step."""
    r = mitchell.square_root(x)
    if form != "mitchell-refined":
        return r
    near = _finite(r)
    return _corrected(r, near, x - _product(near, near, form), near + near)


def _finite(x: Array) -> Array:
    """`x`, 0 where it is no number or infinite: nothing is added to infinity, which would be no number."""
    xp = namespace(x)
    return xp.where(xp.isfinite(x), x, 0.0)


def _corrected(answer: Array, near: Array, rest: Array, divisor: Array) -> Array:
    """near + Q(rest, divisor); where that is no number, as at 0 and infinity, the answer that was there."""
    xp, better = namespace(answer), near + mitchell.divide(rest, divisor, dialect=FLUSH)
    return xp.where(xp.isfinite(better), better, answer)


def _sums_of_products(a: Array, b: Array, form: str) -> Array:
    """Σ_k P(a_ik, b_kj), fast where that is possible, and the same bits either way."""
    matmul = inference.matmul if _has_fast_products(a, b) else mitchell.matmul
    if form in CORRECTED:
        return matmul(a, b, corrected=True)
    if form == "mitchell-centred":  # P(P(a, b), c) = P(P(a, c), b): one product an operand, not one a term
        a = _product(a, _number(CENTRE, a), form)
    return matmul(a, b, dialect=FLUSH)


def _has_fast_products(a: Array, b: Array) -> bool:
    library = namespace(a, b).__name__
    return library == "array_api_compat.numpy" or (library == "array_api_compat.cupy" and str(a.dtype) != "float64")


def _number(value: Any, like: Array) -> Array:
    """A Python number as an array beside `like`, of its dtype."""
    return namespace(like).asarray(value, dtype=like.dtype, device=device_of(like))


# --- arrays ---------------------------------------------------------------------------------------------------------------------------


class ArithmeticArray:
    """An array whose products are made by an `Arithmetic`, where the kind of layer at work is one of its kinds.

    Attributes
    ----------
    array : the array itself, of any library
    arithmetic : Arithmetic
    """

    __array_ufunc__ = None  # NumPy's operators leave the answer to those here
    __slots__ = ("arithmetic", "array")

    def __init__(self, array: Array, arithmetic: Arithmetic) -> None:
        self.array = array
        self.arithmetic = arithmetic

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return Namespace(namespace(self.array), self.arithmetic)

    shape = property(
        lambda self: self.array.shape, doc="The array's own, as are the dtype, number of axes, size and device."
    )
    dtype = property(lambda self: self.array.dtype, doc="The array's own.")
    ndim = property(lambda self: self.array.ndim, doc="The array's own.")
    size = property(lambda self: self.array.size, doc="The array's own.")
    device = property(lambda self: device_of(self.array), doc="The array's own.")

    def __repr__(self) -> str:
        return f"{self.array!r} in {self.arithmetic}"

    def __getitem__(self, key: Any) -> ArithmeticArray:
        return ArithmeticArray(self.array[plain(key)], self.arithmetic)

    def __float__(self) -> float:
        return float(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __index__(self) -> int:
        return operator.index(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __neg__(self) -> ArithmeticArray:
        return ArithmeticArray(-self.array, self.arithmetic)

    def __invert__(self) -> ArithmeticArray:
        return ArithmeticArray(~self.array, self.arithmetic)

    def __abs__(self) -> ArithmeticArray:
        return ArithmeticArray(abs(self.array), self.arithmetic)


def _unchanged(operation: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    """An operator that is the array library's own."""

    def method(self: ArithmeticArray, other: Any) -> Any:
        if not _is_operand(self, other):
            return NotImplemented
        left, right = (plain(other), self.array) if swapped else (self.array, plain(other))
        return ArithmeticArray(operation(left, right), self.arithmetic)

    return method


def _replaced(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    """An operator that is the namespace's function of that name."""

    def method(self: ArithmeticArray, other: Any) -> Any:
        if not _is_operand(self, other):
            return NotImplemented
        function = getattr(self.__array_namespace__(), name)
        return function(other, self) if swapped else function(self, other)

    return method


def _is_operand(x: ArithmeticArray, other: Any) -> bool:
    """Whether `other` can stand beside `x`: a Python number or an array in the same arithmetic. A bare array has another one."""
    return isinstance(other, int | float) or (isinstance(other, ArithmeticArray) and other.arithmetic == x.arithmetic)


for _name in (
    "add",
    "sub",
    "and_",
    "or_",
    "xor",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "lshift",
    "rshift",
):
    setattr(ArithmeticArray, f"__{_name.rstrip('_')}__", _unchanged(getattr(operator, _name)))
for _name in ("add", "sub"):
    setattr(ArithmeticArray, f"__r{_name}__", _unchanged(getattr(operator, _name), swapped=True))
for _name, _function in (
    *(("mul", "multiply"), ("truediv", "divide"), ("pow", "pow"), ("matmul", "matmul")),
    *(("floordiv", "floor_divide"), ("mod", "remainder")),
):
    setattr(ArithmeticArray, f"__{_name}__", _replaced(_function))
for _name, _function in (("mul", "multiply"), ("truediv", "divide")):
    setattr(ArithmeticArray, f"__r{_name}__", _replaced(_function, swapped=True))


# --- functions ------------------------------------------------------------------------------------------------------------------------

# functions of the standard that multiply no floats, and so are the array library's own
_SAME = frozenset(
    (
        *("arange", "asarray", "astype", "broadcast_to", "concat", "expand_dims", "finfo", "flip", "full", "full_like"),
        *("iinfo", "isdtype", "matrix_transpose", "nonzero", "ones", "ones_like", "permute_dims", "reshape", "roll"),
        *("squeeze", "stack", "take", "take_along_axis", "where", "zeros", "zeros_like", "result_type"),
        *("all", "any", "argmax", "argmin", "argsort", "cumulative_sum", "max", "min", "sort"),
        *("abs", "add", "ceil", "clip", "equal", "floor", "greater", "greater_equal", "isfinite", "isinf", "isnan"),
        *("less", "less_equal", "logical_and", "logical_not", "logical_or", "maximum", "minimum", "negative"),
        *("not_equal", "round", "sign", "signbit", "subtract", "trunc"),
        *("cos", "log", "sin"),  # like exp and tanh, no products
    )
)


@dataclass(frozen=True)
class Namespace:
    """The array-API namespace of an `ArithmeticArray`: `inner`'s functions, with its own for what multiplies.

    A function that may multiply and has no form here is refused, so that no product passes unseen.
    """

    inner: Any
    arithmetic: Arithmetic

    @property
    def __name__(self) -> str:
        return f"refimpl.arithmetic: {self.arithmetic} over {self.inner.__name__}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.inner, name)
        if not callable(found) or isinstance(found, type):
            return found
        if name not in _SAME:
            raise NotBuiltYetError(
                f"{name} has no form in approximate arithmetic",
                where=self.__name__,
                expected="functions that multiply nothing; multiply, divide, matmul, pow, square, sqrt, mean, exp, tanh",
                got=name,
            )
        return self._same(found)

    def _same(self, found: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **options: Any) -> Any:
            result = found(*map(plain, args), **{key: plain(value) for key, value in options.items()})
            return self._made(result)

        return function

    def _made(self, result: Any) -> Any:
        """`result` in this arithmetic, if it is an array or a tuple of them."""
        if isinstance(result, tuple):
            return tuple(map(self._made, result))
        return ArithmeticArray(result, self.arithmetic) if array_api_compat.is_array_api_obj(result) else result

    def _form(self, *operands: Array) -> str:
        """How products of these operands are made here and now."""
        floating = any(_is_floating(x) for x in operands if hasattr(x, "dtype"))
        return self.arithmetic.form if floating and self.arithmetic.replaces(kind_of_products()) else "exact"

    def _seen(self, result: Array, name: str) -> Array:
        """The array library's own `result`, unless it has floats where their products are replaced: made of whole numbers, or by no form here."""
        if _is_floating(result) and self.arithmetic.replaces(kind_of_products()):
            raise NotBuiltYetError(
                f"{name} has no form in approximate arithmetic that makes floats of these operands",
                where=self.__name__,
                expected="whole numbers whose result is one; for floats multiply, divide, matmul, pow, square, sqrt, mean",
                got=f"a result of {result.dtype}",
                remedy="make floats of whole numbers first, with xp.astype, and xp.floor(x / y) of x // y",
            )
        return result

    def _by(self, name: str, exact: Callable[..., Any], approximate: Callable[..., Any], a: Any, b: Any) -> Array:
        """exact(a, b) or approximate(a, b, form), as the kind of layer has it; numbers become arrays beside the other operand."""
        a, b = plain(a), plain(b)
        form = self._form(a, b)
        if form == "exact":
            return self._made(self._seen(exact(a, b), name))
        like = a if hasattr(a, "dtype") else b
        a, b = (x if hasattr(x, "dtype") else _number(x, like) for x in (a, b))
        return self._made(approximate(a, b, form))

    def multiply(self, a: Any, b: Any) -> Array:  # (...), (...) -> (...)
        """P(a, b)."""
        return self._by("multiply", operator.mul, _product, a, b)

    def divide(self, a: Any, b: Any) -> Array:  # (...), (...) -> (...)
        """Q(a, b)."""
        return self._by("divide", operator.truediv, _quotient, a, b)

    def matmul(self, a: Any, b: Any) -> Array:  # (..., n, k), (..., k, m) -> (..., n, m)
        """Σ_k P(a_ik, b_kj), in the order of k."""
        return self._by("matmul", self.inner.matmul, _sums_of_products, a, b)

    def floor_divide(self, a: Any, b: Any) -> Array:  # whole (...), (...) -> whole (...)
        """⌊a/b⌋ of whole numbers; of floats only where products are exact."""
        return self._made(self._seen(plain(a) // plain(b), "floor_divide"))

    def remainder(self, a: Any, b: Any) -> Array:  # whole (...), (...) -> whole (...)
        """a - b ⌊a/b⌋ of whole numbers; of floats only where products are exact."""
        return self._made(self._seen(plain(a) % plain(b), "remainder"))

    def square(self, x: Any) -> Array:  # (...) -> (...)
        """P(x, x)."""
        return self.multiply(x, x)

    def pow(self, x: Any, exponent: Any) -> Array:  # (...), whole -> (...)
        """P(x, P(x, ...)), for a whole exponent from 1; other powers only where products are exact."""
        form, whole = self._form(plain(x)), whole_number(exponent)
        if form == "exact":
            return self._made(self._seen(plain(x) ** plain(exponent), "pow"))
        if whole is None or whole < 1:
            expected, where = "a whole number from 1", "pow(exponent)"
            raise NotBuiltYetError(
                "no such power in approximate arithmetic", where=where, expected=expected, got=exponent
            )
        answer = x
        for _ in range(whole - 1):
            answer = self.multiply(x, answer)
        return answer

    def sqrt(self, x: Any) -> Array:  # (...) -> (...)
        """R(x)."""
        array = plain(x)
        form = self._form(array)
        return self._made(self._seen(self.inner.sqrt(array), "sqrt") if form == "exact" else _root(array, form))

    def sum(self, x: Any, *, axis: int | None = None, keepdims: bool = False) -> Array:  # -> the axis reduced
        """Σ x: where products are replaced, from the first term to the last, so that the answer is the same for every layout and library."""
        array = plain(x)
        if self._form(array) == "exact" or axis is None or not array.shape[axis]:
            return self._made(self.inner.sum(array, axis=axis, keepdims=keepdims))
        before = (slice(None),) * (axis % array.ndim)
        total = array[(*before, slice(0, 1))]
        for k in range(1, array.shape[axis]):
            total = total + array[(*before, slice(k, k + 1))]
        return self._made(total if keepdims else self.inner.squeeze(total, axis=axis))

    def mean(self, x: Any, *, axis: int, keepdims: bool = False) -> Array:  # -> the axis reduced
        """Q(Σ x, n)."""
        array = plain(x)
        if self._form(array) == "exact":
            return self._made(self._seen(self.inner.mean(array, axis=axis, keepdims=keepdims), "mean"))
        return self.divide(self.sum(x, axis=axis, keepdims=keepdims), array.shape[axis])

    def exp(self, x: Any) -> Array:  # (...) -> (...)
        """e^x, or 2^P(x, log2 e) ≈ `exp2_approx`(P(x, log2 e)) where exponentials are replaced."""
        array = plain(x)
        if not self.arithmetic.replaces("exponential"):
            return self._made(self.inner.exp(array))
        power = _product(array, _number(math.log2(math.e), array), self.arithmetic.form)
        return self._made(mitchell.exp2_approx(power))

    def tanh(self, x: Any) -> Array:  # (...) -> (...)
        """tanh x, or ± (1 - Q(2, 1 + e^(2|x|))) where exponentials are replaced."""
        array = plain(x)
        if not self.arithmetic.replaces("exponential"):
            return self._made(self.inner.tanh(array))
        growing = 1 + self.exp(self._made(abs(array) + abs(array)))
        size = 1 - _quotient(_number(2.0, array), growing.array, self.arithmetic.form)
        return self._made(self.inner.where(array < 0, -size, size))

    @property
    def special(self) -> _Special:
        """Where `refimpl.special` finds the error function."""
        return _Special()


class _Special:
    """The error function of the array library below: like exp, it is no product."""

    def erf(self, x: ArithmeticArray) -> Any:
        return x.arithmetic.wrap(special.erf(x.array))

    def erfc(self, x: ArithmeticArray) -> Any:
        return x.arithmetic.wrap(special.erfc(x.array))
