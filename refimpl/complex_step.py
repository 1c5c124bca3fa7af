"""Derivatives by complex numbers, to which the hand-written ones of `refimpl.gradients` are held.

    f(x + i h t) = f(x) + i h f'(x) t + O(h²)        f'(x) t = Im f(x + i h t)/h + O(h²)                                              (1)

No subtraction, so nothing cancels, and h may be so small that h² is nothing beside 1. A definition takes its namespace from its arguments, so it
runs unchanged on a `ComplexArray`: NumPy's complex128, whose dtype says float64. What depends on the value alone is decided on the real part:
comparisons, maxima and minima, sorting, rounding, truth. What is linear is done to both parts. Of two equal entries a maximum has the
imaginary part of the first.

What is computed is (1) in the limit h -> 0. Products and quotients leave out the product of two imaginary parts, which h = 1e-200 lets underflow;
then nothing else depends on h, which is 1 here, and imaginary parts can neither underflow nor overflow where derivatives do not. The real part is
what NumPy computes in float64, by the same operations in the same order, so every branch is the one that is taken in float64. Functions of one
number take (1) itself, by NumPy's complex function, at h = 2^-80 (at h = 2^-40 |x| where the function is singular at 0): the
relative error of the step, h² f‴/6f', is below rounding. The derivatives of x^n and erf alone are written down here.

So each operation is exact to rounding, and `jvp` has the rounding errors of the definition in float64, of the same sizes, and no others.

Reference: W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40 (1998), 110-112;
J. R. R. A. Martins, P. Sturdza and J. J. Alonso, "The complex-step derivative approximation", ACM TOMS 29 (2003), 245-262.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any

import array_api_compat.numpy
import numpy as np

from refimpl.errors import DtypeError, NotBuiltYetError, ShapeError
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ComplexArray", "Namespace", "jvp", "plain"]

numpy_namespace: Any = array_api_compat.numpy


def plain(x: Any) -> Any:
    """The NumPy array of a `ComplexArray`, complex128 if it has floats; inside lists and tuples too. Everything else as it is."""
    if isinstance(x, ComplexArray):
        return x.array
    return type(x)(map(plain, x)) if type(x) in (list, tuple) else x


def _real(x: Any) -> Any:
    """The real parts, in the order in memory that `x` has; what is not complex as it is."""
    x = plain(x)
    return x.real.copy(order="K") if _is_complex(x) else x


def _imaginary(x: Any) -> Any:
    """The imaginary parts; None of what is not complex: a constant."""
    x = plain(x)
    return x.imag.copy(order="K") if _is_complex(x) else None


def _is_complex(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "c"


def _array(real: Any, imaginary: Any = None) -> ComplexArray:
    """real + i imaginary, of floats; what is complex, whole numbers and truth values as they are."""
    real = np.asarray(real)
    if real.dtype.kind in "biuc":
        return ComplexArray(real)
    if real.dtype != np.float64:
        expected, remedy = "float64", "convert it first: a derivative to 16 digits says nothing of narrower numbers"
        raise DtypeError(
            "complex steps are taken in float64", where="ComplexArray", expected=expected, got=real.dtype, remedy=remedy
        )
    array = real.astype(np.complex128)
    if imaginary is not None:
        array.imag = imaginary
    return ComplexArray(array)


# --- arrays ---------------------------------------------------------------------------------------------------------------------------


class ComplexArray:
    """An array of numbers x + i x', whose dtype says float64 and whose branches are those of x; or of whole numbers or truth values.

    Attributes
    ----------
    array : NumPy array, complex128, integer or bool
    """

    __array_ufunc__ = None  # NumPy's operators leave the answer to those here
    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return _NAMESPACE

    shape = property(lambda self: self.array.shape, doc="The array's own, as are the number of axes and the size.")
    ndim = property(lambda self: self.array.ndim, doc="The array's own.")
    size = property(lambda self: self.array.size, doc="The array's own.")
    device = property(lambda self: "cpu", doc="NumPy's.")

    @property
    def dtype(self) -> Any:
        """float64 where the numbers are complex."""
        return np.dtype(np.float64) if _is_complex(self.array) else self.array.dtype

    def __repr__(self) -> str:
        return f"{_real(self)!r} with tangent {_imaginary(self)!r}" if _is_complex(self.array) else repr(self.array)

    def __getitem__(self, key: Any) -> ComplexArray:
        return ComplexArray(np.asarray(self.array[plain(key)]))

    def __float__(self) -> float:
        if np.any(self.array.imag != 0):
            expected, where = "a number that does not depend on the arguments", "ComplexArray.__float__"
            raise NotBuiltYetError("a float has no derivative", where=where, expected=expected, got=repr(self))
        return float(_real(self))

    def __int__(self) -> int:
        return int(_real(self))

    def __index__(self) -> int:
        return operator.index(self.array)

    def __bool__(self) -> bool:
        return bool(_real(self))

    def __neg__(self) -> ComplexArray:
        return ComplexArray(-self.array)

    def __invert__(self) -> ComplexArray:
        return ComplexArray(~self.array)

    def __abs__(self) -> ComplexArray:
        return _NAMESPACE.abs(self)


def _operator(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    """An operator that is the namespace's function of that name. A bare array beside a ComplexArray is refused, as any two libraries are."""

    def method(self: ComplexArray, other: Any) -> Any:
        if not isinstance(other, int | float | ComplexArray):
            return NotImplemented
        function = getattr(_NAMESPACE, name)
        return function(other, self) if swapped else function(self, other)

    return method


# --- functions ------------------------------------------------------------------------------------------------------------------------

STEP = 2.0**-80


def _slope(function: Callable[..., Any], x: Any, step: Any) -> Any:
    """Im f(x + i h)/h, equation (1)."""
    return np.asarray(function(x + 1j * step)).imag / step


def _of_one(value: Any, slope: Callable[[], Any], x: Any) -> ComplexArray:
    """f(x) + i f'(x) x'; where x' is 0, so is the product, though f' may be infinite."""
    tangent = _imaginary(x)
    if tangent is None:
        return _array(value)
    return _array(value, np.where(tangent == 0, 0.0, slope() * tangent))


class Namespace:
    """The array-API namespace of a `ComplexArray`. A function that has no form here is refused, so that no derivative is lost unseen."""

    __name__ = "refimpl.complex_step"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._found(name)
        setattr(self, name, found)  # made once
        return found

    def _found(self, name: str) -> Any:
        found = getattr(numpy_namespace, name)
        if not callable(found) or isinstance(found, type) or name in ("finfo", "iinfo", "isdtype"):
            return found
        made = _FORMS.get(name)
        if made is None:
            raise NotBuiltYetError(
                f"{name} has no form in complex steps",
                where=self.__name__,
                expected=", ".join(sorted(_FORMS)),
                got=name,
            )
        return made(found)

    def asarray(self, x: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> ComplexArray:
        """The array; a float's tangent stays where the dtype is float64, and is 0 where there was none."""
        if _is_complex(array := plain(x)):
            return self.astype(x, dtype if dtype is not None else np.float64)
        return _array(numpy_namespace.asarray(array, dtype=dtype, copy=copy))

    def astype(self, x: Any, dtype: Any, *, copy: bool = True, device: Any = None) -> ComplexArray:
        """Of floats: themselves, or the real part as whole numbers or truth values."""
        array = plain(x)
        if _is_complex(array) and np.dtype(dtype) == np.float64:
            return ComplexArray(array.copy(order="K") if copy else array)
        return _array(_real(array).astype(dtype))

    def result_type(self, *arrays: Any) -> Any:
        """NumPy's, in which complex numbers count as float64."""
        return numpy_namespace.result_type(*(getattr(x, "dtype", x) for x in arrays))

    def multiply(self, a: Any, b: Any) -> ComplexArray:  # (...), (...) -> (...)
        """ab + i (a' b + a b')."""
        return _product(operator.mul, a, b)

    def matmul(self, a: Any, b: Any) -> ComplexArray:  # (..., n, k), (..., k, m) -> (..., n, m)
        """AB + i (A' B + A B')."""
        return _product(np.matmul, a, b)

    def square(self, x: Any) -> ComplexArray:  # (...) -> (...)
        """x² + 2 i x x'."""
        return _product(operator.mul, x, x)

    def divide(self, a: Any, b: Any) -> ComplexArray:  # (...), (...) -> (...)
        """q + i (a' - q b')/b with q = a/b."""
        top, a_dot = _real(a), _imaginary(a)
        under, b_dot = _real(b), _imaginary(b)
        quotient = np.true_divide(top, under)
        rest = (0.0 if a_dot is None else a_dot) - (0.0 if b_dot is None else quotient * b_dot)
        return _array(quotient, rest / under)

    def floor_divide(self, a: Any, b: Any) -> ComplexArray:  # whole (...), (...) -> whole (...)
        """⌊a/b⌋, of whole numbers."""
        return _array(_whole(a, "floor_divide") // _whole(b, "floor_divide"))

    def remainder(self, a: Any, b: Any) -> ComplexArray:  # whole (...), (...) -> whole (...)
        """a - b ⌊a/b⌋, of whole numbers."""
        return _array(_whole(a, "remainder") % _whole(b, "remainder"))

    def pow(self, x: Any, exponent: Any) -> ComplexArray:  # (...), a Python number -> (...)
        """x^n + i n x^(n-1) x', for a Python number n."""
        if not isinstance(exponent, int | float):
            where, expected = "pow(exponent)", "a Python number"
            raise NotBuiltYetError("no such power in complex steps", where=where, expected=expected, got=repr(exponent))
        base = _real(x)
        return _of_one(base**exponent, lambda: exponent * base ** (exponent - 1), x)

    def abs(self, x: Any) -> ComplexArray:  # (...) -> (...)
        """|x| + i sign(x) x'; at 0 the slope is 1."""
        base = _real(x)
        return _of_one(np.abs(base), lambda: np.where(base < 0, -1.0, 1.0), x)

    def maximum(self, a: Any, b: Any) -> ComplexArray:  # (...), (...) -> (...)
        """The larger; of equals, the first."""
        return _chosen(np.maximum, operator.ge, a, b)

    def minimum(self, a: Any, b: Any) -> ComplexArray:  # (...), (...) -> (...)
        """The smaller; of equals, the first."""
        return _chosen(np.minimum, operator.le, a, b)

    def clip(self, x: Any, min: Any = None, max: Any = None) -> ComplexArray:
        """`x` within [min, max]; at the limits, the slope is 1."""
        x = x if min is None else self.maximum(x, min)
        return x if max is None else self.minimum(x, max)

    def max(self, x: Any, *, axis: Any = None, keepdims: bool = False) -> ComplexArray:  # -> the axes reduced
        """The largest; of equals, the first."""
        return _picked(np.argmax, x, axis, keepdims=keepdims)

    def min(self, x: Any, *, axis: Any = None, keepdims: bool = False) -> ComplexArray:  # -> the axes reduced
        """The smallest; of equals, the first."""
        return _picked(np.argmin, x, axis, keepdims=keepdims)

    def sort(self, x: Any, *, axis: int = -1, descending: bool = False, stable: bool = True) -> ComplexArray:
        """In the order of the real parts; equals as they stand."""
        order = numpy_namespace.argsort(_real(x), axis=axis, descending=descending, stable=True)
        return ComplexArray(np.take_along_axis(plain(x), order, axis=axis))

    @property
    def special(self) -> _Special:
        """Where `refimpl.special` finds the error function."""
        return _Special()


class _Special:
    """SciPy's error function. Its derivative for complex numbers is off by x² u, and so is not taken."""

    def erf(self, x: ComplexArray) -> ComplexArray:
        import scipy.special

        base = _real(x)
        return _of_one(scipy.special.erf(base), lambda: _bell(base), x)

    def erfc(self, x: ComplexArray) -> ComplexArray:
        import scipy.special

        base = _real(x)
        return _of_one(scipy.special.erfc(base), lambda: -_bell(base), x)


def _bell(x: Any) -> Any:
    """erf'(x) = 2/√π exp(-x²), as exp(-n²) exp(-(x - n)(x + n)) with n so near x that n² is exact and the second exponent small."""
    x = np.clip(x, -30.0, 30.0)  # exp(-900) is 0
    near = np.round(x * 2.0**20) * 2.0**-20
    return 2.0 / np.sqrt(np.pi) * np.exp(-near * near) * np.exp(-(x - near) * (x + near))


_NAMESPACE = Namespace()
for _name, _function in (
    *(("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide"), ("matmul", "matmul")),
    *(("pow", "pow"), ("floordiv", "floor_divide"), ("mod", "remainder")),
    *(("lt", "less"), ("le", "less_equal"), ("gt", "greater"), ("ge", "greater_equal")),
    *(("eq", "equal"), ("ne", "not_equal"), ("and", "bitwise_and"), ("or", "bitwise_or"), ("xor", "bitwise_xor")),
    *(("lshift", "bitwise_left_shift"), ("rshift", "bitwise_right_shift")),
):
    setattr(ComplexArray, f"__{_name}__", _operator(_function))
for _name, _function in (("add", "add"), ("sub", "subtract"), ("mul", "multiply"), ("truediv", "divide")):
    setattr(ComplexArray, f"__r{_name}__", _operator(_function, swapped=True))


def _made(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return type(result)(map(_made, result))
    return _array(result) if isinstance(result, np.ndarray | np.generic) else result


def _same(found: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        return _made(found(*map(plain, args), **{name: plain(value) for name, value in options.items()}))

    return function


def _decided(found: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        return _made(found(*map(_real, args), **{name: _real(value) for name, value in options.items()}))

    return function


def _linear(found: Callable[..., Any]) -> Callable[..., Any]:
    def function(x: Any, **options: Any) -> ComplexArray:
        tangent = _imaginary(x)
        return _array(found(_real(x), **options), None if tangent is None else found(tangent, **options))

    return function


def _entire(found: Callable[..., Any]) -> Callable[..., Any]:
    def function(x: Any) -> ComplexArray:
        base = _real(x)
        return _of_one(found(base), lambda: _slope(found, base, STEP), x)

    return function


def _singular(found: Callable[..., Any], edge: float = 0.0) -> Callable[..., Any]:
    """A function of numbers above `edge`, where its slope is infinite: its step is a fraction of the distance from there."""

    def function(x: Any) -> ComplexArray:
        base = _real(x)
        inside, outside = base > edge, np.where(base == edge, np.inf, np.nan)
        at = np.where(inside, base, edge + 1)
        return _of_one(found(base), lambda: np.where(inside, _slope(found, at, STEP**0.5 * (at - edge)), outside), x)

    return function


def _product(product: Callable[..., Any], a: Any, b: Any) -> ComplexArray:
    """a b + i (a' b + a b'), of any product that is linear in each."""
    left, a_dot, right, b_dot = _real(a), _imaginary(a), _real(b), _imaginary(b)
    value = product(left, right)
    parts = [product(a_dot, right)] if a_dot is not None else []
    parts += [product(left, b_dot)] if b_dot is not None else []
    return _array(value, sum(parts) if parts else None)


def _chosen(choice: Callable[..., Any], first: Callable[..., Any], a: Any, b: Any) -> ComplexArray:
    left, right = _real(a), _real(b)
    a_dot, b_dot = (0.0 if bar is None else bar for bar in (_imaginary(a), _imaginary(b)))
    return _array(choice(left, right), np.where(first(left, right), a_dot, b_dot))


def _picked(place: Callable[..., Any], x: Any, axis: Any, *, keepdims: bool) -> ComplexArray:
    array = plain(x)
    axes = tuple(range(array.ndim)) if axis is None else tuple(np.atleast_1d(axis) % array.ndim)
    last = np.moveaxis(array, axes, range(-len(axes), 0)).reshape(
        (*(n for i, n in enumerate(array.shape) if i not in axes), -1)
    )
    found = np.take_along_axis(last, place(_real(last), axis=-1)[..., None], axis=-1)[..., 0]
    return ComplexArray(np.expand_dims(found, sorted(axes)) if keepdims else found)


def _whole(x: Any, name: str) -> Any:
    array = plain(x)
    if _is_complex(array) or isinstance(array, float):
        raise NotBuiltYetError(f"{name} of floats has no form in complex steps", where=name, expected="whole numbers")
    return array


# functions of the standard, and how each is made of NumPy's
_FORMS: dict[str, Callable[..., Any]] = {}
for _form, _names in (
    # what moves or makes numbers, or adds and subtracts them one by one, is NumPy's own on complex128
    (
        _same,
        "add arange broadcast_to concat expand_dims flip full full_like matrix_transpose moveaxis negative ones ones_like",
    ),
    (
        _same,
        "permute_dims positive repeat reshape roll squeeze stack subtract take take_along_axis tile tril triu unstack",
    ),
    (_same, "where zeros zeros_like"),
    # what depends on the real part alone is no float, or piecewise constant
    (
        _decided,
        "all any argmax argmin argsort equal greater greater_equal isfinite isinf isnan less less_equal not_equal",
    ),
    (
        _decided,
        "logical_and logical_not logical_or logical_xor nonzero searchsorted signbit ceil floor round sign trunc",
    ),
    (_decided, "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift bitwise_invert"),
    # of each part by itself: NumPy adds complex numbers up in another order
    (_linear, "cumulative_sum mean sum"),
    (_entire, "exp expm1 sin cos sinh cosh tanh"),
    (_singular, "log sqrt"),
    (functools.partial(_singular, edge=-1.0), "log1p"),
):
    _FORMS |= dict.fromkeys(_names.split(), _form)


# --- derivatives ----------------------------------------------------------------------------------------------------------------------


def _stepped(argument: Any, tangent: Any) -> Any:
    """The tree `argument` with its arrays as ComplexArrays, whose imaginary parts are the tree `tangent`'s; None has none."""
    if isinstance(argument, dict):
        return {name: _stepped(part, None if tangent is None else tangent[name]) for name, part in argument.items()}
    if isinstance(argument, tuple | list):
        tangents = [None] * len(argument) if tangent is None else tangent
        if len(tangents) != len(argument):
            raise _misfit("a tree of the argument's form", f"{len(argument)} parts", f"{len(tangents)} parts")
        parts = [_stepped(part, bar) for part, bar in zip(argument, tangents, strict=True)]
        return type(argument)(*parts) if hasattr(argument, "_fields") else type(argument)(parts)
    if not isinstance(argument, np.ndarray | np.generic):
        return argument
    return _array(argument, None if tangent is None else _fitting(argument, tangent))


def _fitting(argument: Any, tangent: Any) -> Any:
    if argument.dtype.kind in "biu":
        raise _misfit("None", f"None for an argument of {argument.dtype}", "an array")
    if np.shape(tangent) != np.shape(argument):
        raise _misfit("the shape of its argument", np.shape(argument), np.shape(tangent))
    return np.asarray(tangent, dtype=np.float64)


def _misfit(what: str, expected: Any, got: Any) -> ShapeError:
    return ShapeError(f"a tangent has {what}", where="complex_step.jvp(tangents)", expected=expected, got=got)


def jvp(
    function: Callable[..., Any], arguments: tuple[Any, ...], tangents: tuple[Any, ...], **options: Any
) -> tuple[Any, Any]:
    """(f(x), f'(x) t) = (Re, Im/h) f(x + i h t), h -> 0.

    Parameters
    ----------
    function : a definition, or anything that computes in its arguments' namespace
    arguments : tuple of the arguments by place: NumPy arrays, of float64 if floating, trees of them (`refimpl.trees`), or anything else
    tangents : tuple of as many: for each argument an array of its shape or a tree of its form, or None, anywhere in it, for no tangent
    options : the arguments by name; arrays in them have no tangent

    Returns
    -------
    value : what the function returns in float64: an array, or a tree of them
    tangent : its derivative along the tangents, in the same form; None for what is no array of floats

    Raises
    ------
    ShapeError, DtypeError
        if a tangent does not fit its argument, or an argument has floats of another width.
    NotBuiltYetError
        from a function of the namespace that has no form here.
    """
    if len(arguments) != len(tangents):
        raise _misfit("its argument", f"{len(arguments)} tangents", len(tangents))
    stepped = _stepped(tuple(arguments), tuple(tangents))
    with np.errstate(all="ignore"):
        result = function(*stepped, **{name: _stepped(value, None) for name, value in options.items()})
    return mapped(_real, result), mapped(_imaginary, result)
