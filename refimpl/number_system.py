"""What a definition needs to know about the numbers it runs on, and nothing more.

A definition in this package is one source for four number systems: NumPy arrays, CuPy arrays, array-api-strict arrays,
and *balls* (NumPy object arrays of `flint.arb`, whose results are rigorous enclosures). This module holds the few
places where they differ:

* constants: `exact`, `square_root` and `pi` give a Python float beside floating arrays (so that the array's dtype
  decides, and NumPy's float64 scalars never leak in) and a ball beside balls. A Python `float` given to `exact` means
  that binary double, not the decimal it was written as; a `Fraction` means the exact rational;
* 16-bit floats: `rounded_once` computes float16 and bfloat16 in float32 and rounds the result once;
* `shift_for_exp`: a finite number close to the maximum, for softmax. Any shift is exact in exact arithmetic, so on balls it is the
  midpoint of the largest ball: choosing between overlapping balls is then no decision at all;
* `clamp`: limits the arguments of functions which are constant (to the last bit) beyond a bound;
* `products_of`: a line above a definition that says to which kind of layer its products belong, for number systems that replace some products
  and not others (`refimpl.arithmetic`). All others ignore it.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from contextvars import ContextVar
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import array_api_compat

from refimpl.errors import DtypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Array",
    "broadcasts",
    "check_boolean",
    "check_broadcast",
    "check_floating",
    "clamp",
    "device_of",
    "exact",
    "is_ball",
    "kind_of_products",
    "largest",
    "namespace",
    "narrowed",
    "pi",
    "products_of",
    "rounded_once",
    "shift_for_exp",
    "sign_of",
    "square_root",
    "whole_number",
    "whole_power",
    "widened",
]

Array: TypeAlias = Any
Function = TypeVar("Function", bound="Callable[..., Any]")
SIXTEEN_BITS = {"float16": 65520.0, "bfloat16": (2 - 2.0**-8) * 2.0**127}  # from here on, rounding gives infinity


def namespace(*arrays: Array) -> Any:
    """The array-API namespace that all the arrays belong to; raises TypeError if they do not share one."""
    return array_api_compat.array_namespace(*arrays)


def device_of(x: Array) -> Any:
    """The device that `x` lives on, in the form that its namespace's creation functions take."""
    return array_api_compat.device(x)


def is_ball(x: Array) -> bool:
    """Whether `x` is an array of balls: a NumPy array of dtype object."""
    return str(x.dtype) == "object"


def _ball_type(x: Array) -> Any:
    """The type of the balls in `x`: `flint.arb`, without importing it here."""
    kinds = {type(element) for element in x.ravel()[:1]}
    if [kind.__name__ for kind in kinds] != ["arb"]:
        raise DtypeError(
            "an object array must hold balls",
            expected="elements of type flint.arb, at least one",
            got=sorted(kind.__name__ for kind in kinds) or "an empty array",
            remedy="convert it with validation.truth.balls(array)",
        )
    return kinds.pop()


def check_floating(name: str, x: Array, where: str | None = None) -> None:
    """Raise DtypeError unless `x` is an array of real floating-point numbers or of balls."""
    if is_ball(x):
        _ball_type(x)
    elif "float" not in str(x.dtype):
        raise DtypeError(
            f"{name} must be real floating point",
            where=f"{where}({name})" if where else None,
            expected="float16, bfloat16, float32, float64, or an object array of flint.arb",
            got=x.dtype,
            remedy=f"convert it first, for instance xp.astype({name}, xp.float32)",
        )


def check_boolean(where: str, mask: Array) -> None:
    """Raise DtypeError unless `mask` is an array of truth values: numbers that are added, such as 0 and -1e9, mean the opposite."""
    if "bool" not in str(mask.dtype):
        raise DtypeError(
            "a mask must be boolean",
            where=where,
            expected="bool, true where allowed",
            got=mask.dtype,
            remedy="make it one: additive >= 0 for a mask of 0 and -1e9, ids != padding for tokens",
        )


def broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether these lengths of axes broadcast."""
    return all(n == m or 1 in (n, m) for n, m in zip(reversed(one), reversed(other), strict=False))


def check_broadcast(where: str, a: Array, b: Array) -> None:
    """Raise ShapeError unless the arrays broadcast."""
    if not broadcasts(a.shape, b.shape):
        raise ShapeError(
            "the shapes do not broadcast",
            where=where,
            expected="lengths that are equal or 1",
            got=f"{tuple(a.shape)}, {tuple(b.shape)}",
            remedy="add axes of length 1, or repeat what is too short",
        )


def whole_number(value: object) -> int | None:
    """`value` as an int, if it can be an index: an int, a NumPy integer, an integer array without axes; None for all else, and for truth values."""
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def exact(value: Any, like: Array) -> Any:
    """`value` as a scalar beside `like`: a Python float for floating arrays, an enclosing ball for balls."""
    if not is_ball(like):
        return float(value)
    ball = _ball_type(like)
    return ball(value.numerator) / value.denominator if isinstance(value, Fraction) else ball(value)


def square_root(value: Any, like: Array) -> Any:
    """√value as a scalar beside `like`: a rounded Python float for floating arrays, an enclosing ball for balls.

    `value` is a whole number, a float, a Fraction, or a scalar made by `exact` or `pi`.
    """
    return exact(value, like).sqrt() if is_ball(like) else math.sqrt(value)


def pi(like: Array) -> Any:
    """π as a scalar beside `like`."""
    return _ball_type(like).pi() if is_ball(like) else math.pi


def whole_power(x: Array, exponent: int) -> Array:  # (...) -> (...)
    """x^exponent for a whole exponent >= 0; on balls by repeated squaring, since `arb ** n` is undefined where a midpoint is 0."""
    if not is_ball(x):
        return x**exponent
    result, square = x * 0 + exact(1, x), x
    while exponent:
        result = result * square if exponent & 1 else result
        square, exponent = square * square, exponent >> 1
    return result


def shift_for_exp(x: Array, axis: int) -> Array:
    """A finite exact number for each row of `x`, within a ball's radius of max(x), the reduced axis kept.

    On floats: max(x). On balls: the midpoint of the ball that NumPy's comparisons happen to pick.
    """
    xp = namespace(x)
    largest = xp.max(x, axis=axis, keepdims=True)
    return xp.frompyfunc(lambda ball: ball.mid(), 1, 1)(largest) if is_ball(x) else largest


def largest(x: Array, axes: tuple[int, ...]) -> Array:
    """max(x) over `axes`, which are kept; on balls an enclosure of the maximum, whichever of overlapping balls it comes from."""
    xp = namespace(x)
    if not is_ball(x):
        return xp.max(x, axis=axes, keepdims=True)
    enclosing = xp.frompyfunc(lambda a, b: a.max(b), 2, 1)
    return functools.reduce(lambda array, axis: enclosing.reduce(array, axis=axis, keepdims=True), axes, x)


def sign_of(x: Array) -> Array:  # (...) -> (...)
    """1, -1, or 0 at 0; on a ball that straddles 0 all of [-1, 1]."""
    xp = namespace(x)
    return xp.asarray(xp.frompyfunc(lambda ball: ball.sgn(), 1, 1)(x), dtype=x.dtype) if is_ball(x) else xp.sign(x)


def clamp(x: Array, low: Array | float, high: Array | float) -> Array:
    """`x` limited to [low, high] on floats; `x` itself on balls.

    Only for functions that do not change beyond the limits by more than the last bit: floats are kept away from overflow there,
    and balls do not overflow.
    """
    xp = namespace(x)
    return x if is_ball(x) else xp.minimum(xp.maximum(x, low), high)


def widened(value: Any) -> Any:
    """A 16-bit array in float32; everything else as it is."""
    if str(getattr(value, "dtype", "")) not in SIXTEEN_BITS:
        return value
    xp = namespace(value)
    return xp.astype(value, xp.float32)


def narrowed(result: Array, dtype: Any) -> Array:
    """`result` rounded to a 16-bit dtype, infinity where it rounds beyond the dtype's largest number."""
    xp = namespace(result)
    limit = SIXTEEN_BITS[str(dtype)]
    result = xp.where(result >= limit, xp.inf, xp.where(result <= -limit, -xp.inf, result))
    return xp.astype(result, dtype)


def rounded_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function` compute 16-bit floats in float32 and round each floating result once, to the first argument's dtype.

    float16 and bfloat16 carry 11 and 8 significant bits and float16 overflows at 65504: squares and sums inside a layer norm
    leave its range on ordinary inputs. Everything else passes through unchanged.
    """
    leading = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        dtype = getattr(args[0] if args else kwargs.get(leading), "dtype", None)
        if str(dtype) not in SIXTEEN_BITS:
            return function(*args, **kwargs)
        result = function(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})
        if isinstance(result, tuple):
            return tuple(narrowed(part, dtype) for part in result)
        return narrowed(result, dtype)

    return wrapper


# --- kinds of products --------------------------------------------------------------------------------------------------------------

_KIND: ContextVar[str] = ContextVar("refimpl.kind_of_products", default="other")


def kind_of_products() -> str:
    """The kind of layer whose products are being computed in this thread: of the innermost `products_of`; "other" outside all of them."""
    return _KIND.get()


def products_of(kind: str) -> Callable[[Function], Function]:
    """Say that the products of a definition, and of what it calls, are those of this kind of layer, unless what it calls says otherwise.

    It changes no number, and costs half a microsecond a call.
    """

    def marked(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            before = _KIND.set(kind)
            try:
                return function(*args, **kwargs)
            finally:
                _KIND.reset(before)

        return cast("Function", wrapper)

    return marked
