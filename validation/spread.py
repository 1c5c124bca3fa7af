"""How far legal evaluations of a component differ, as a multiple of the tolerance: all of them must be inside, and the largest says by what margin.

What is *legal* is what the derivation of the tolerances grants (`validation.tolerance`): every operation may err by two units in the last place,
in any order of summation, and a published form that rounds differently counts too. Two families of evaluations are made.

*Another arithmetic under the same source.* The definition runs on arrays whose operations are those of the dtype, carried out in another way:
sums and matrix products forward, backward, in pairs, in four lanes, or in random orders; with products fused into sums (FMA, rounded once); with
sums in more bits; exp, log, tanh, sin, cos and erf between one and two units in the last place above or below their value, but exact where every
library is (exp 0 = 1, log 1 = 0: annex F of the C standard); quotients as products with reciprocals; numbers below the smallest normal one
flushed to 0. Sixteen-bit dtypes are evaluated in float32 and rounded once, and with every operation rounded to their 8 or 11 bits. The latter
has the range of float32 for float16 too: what the tolerances grant is fewer bits, not that squares and sums above 65504 overflow.

*Other forms of the same function*: one pass over blocks with rescaling, powers of two, the logarithm's exponential, Welford's recurrence, the
sigmoid form of GELU, scores of scaled queries, explicit weights for prefix sums.

FMA is exact: a·b is exact in twice the precision (float64 for float32 and 16 bits; an error-free product for float64), its sum with c is rounded
to odd, and rounding that once more to the dtype is the rounding of the exact value, since two extra bits suffice (Boldo and Melquiond). +, -, ·
and / of 8- and 11-bit numbers are rounded through float64, where a second rounding is harmless as 53 >= 2·11 + 2 (Figueroa).

`python -m validation.spread` measures all components in all dtypes and records what `validation.legal` hands to every report.

References: S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans.
Comput. 57 (2008); S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30 (1995).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import array_api_compat.numpy as xp
import ml_dtypes
import numpy as np
import scipy.special
import typer

from refimpl.console import out
from refimpl.errors import ConfigError
from refimpl.files import replace_file
from validation import components, tolerance, vectors
from validation.legal import RECORD, Legal, Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Arithmetic", "Legal", "Spread", "fused_multiply_add", "main", "spread"]

LANES = 4


# --- correctly rounded operations ---------------------------------------------------------------------------------------------------


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:  # (...) -> (...)
    """a·b + c, rounded once, of float32 or float64 arrays.

    Of float64, where an intermediate result overflows (a factor from 2^996 on), rounded as usual, and where the error of the product is below the
    smallest subnormal (|a b| < 2^-968) perhaps a neighbour.
    """
    with np.errstate(all="ignore"):
        if np.result_type(a, b, c) == np.float32:
            wide = [np.asarray(each, np.float64) for each in (a, b, c)]
            return _to_odd(*_two_sum(wide[0] * wide[1], wide[2])).astype(np.float32)
        high, low = _two_product(a, b)
        top, rest = _two_sum(c, low)
        total, error = _two_sum(high, top)
        fused = total + _to_odd(*_two_sum(rest, error))
        return np.where(np.isfinite(fused), fused, a * b + c)


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and its error, exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded product and its error, exactly, unless it is near the ends of the range."""
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    return product, a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _split(a: Any) -> tuple[Any, Any]:
    large = a * 134217729.0
    high = large - (large - a)
    return high, a - high


def _to_odd(rounded: Any, error: Any) -> Any:
    """The sum of a float64 and what rounding took from it, rounded to odd: the odd one of the two neighbours where it is not exact."""
    rounded = np.asarray(rounded, np.float64)
    even = np.ascontiguousarray(rounded).view(np.int64) % 2 == 0
    nudged = np.nextafter(rounded, np.where(error > 0, np.inf, -np.inf))
    return np.where(np.isfinite(error) & (error != 0) & even, nudged, rounded)


def _quantum(x: Any, dtype: str) -> Any:  # (...) -> float64 (...)
    """The unit in the last place of float64 numbers in a 16-bit dtype; for float16 with as many bits everywhere, as if its range had no end."""
    lowest = math.frexp(tolerance.smallest_normal("bfloat16"))[1]
    exponent = np.maximum(np.where(x == 0, lowest, np.frexp(x)[1]), lowest)
    return np.exp2(exponent - float(tolerance.BITS[dtype]))


def _rounder(dtype: str) -> Callable[[Any], Any]:
    """The rounding of float64 numbers to the bits of a 16-bit dtype, in float64."""
    largest = float(ml_dtypes.finfo(tolerance.DTYPES["bfloat16"]).max)

    def rounded(x: Any) -> Any:
        finite = np.where(np.isfinite(x), x, 0)
        quantum = _quantum(finite, dtype)
        near = np.where(np.isfinite(x), np.rint(finite / quantum) * quantum, x)
        return np.where(np.abs(near) > largest, np.copysign(np.inf, near), near)

    return rounded


# --- another arithmetic under the same source ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arithmetic:
    """How operations are carried out; the array namespace of `_Number`."""

    order: str = "library"  # of sums: library | forward | backward | pairs | lanes | random | fixed (random, but once for each length)
    seed: int = 0
    fused: bool = False  # products that are added at once are not rounded
    wide: bool = False  # sums are made in more bits
    ulps: int | None = 0  # what functions err by: up, down, or at random
    reciprocal: bool = False  # a/b is a·(1/b)
    flush: float = 0.0  # smaller numbers become 0
    grid: str | None = None  # a 16-bit dtype, to which every operation is rounded, carried by float64

    __name__ = "array_api_compat.numpy"

    def wrap(self, array: Any) -> Any:
        """`array`, from now on computed with by this arithmetic."""
        return _Number(np.asarray(array), self)

    @functools.cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @functools.cached_property
    def _round(self) -> Callable[[Any], Any]:
        return _rounder(self.grid) if self.grid else lambda x: x

    def settle(self, result: Any) -> Any:
        """A result of one operation as the arithmetic has it: rounded, and flushed."""
        result = np.asarray(result)
        if result.dtype.kind != "f":
            return result
        result = self._round(result)
        return (
            np.where(np.abs(result) < self.flush, np.copysign(np.zeros_like(result), result), result)
            if self.flush
            else result
        )

    def divide(self, a: Any, b: Any) -> Any:
        """a/b, or a·(1/b)."""
        quotient = self.settle(np.true_divide(a, b))
        if not self.reciprocal or quotient.dtype.kind != "f":
            return quotient
        inverse = self.settle(np.true_divide(quotient.dtype.type(1), b))
        return np.where(np.isfinite(inverse), self.settle(a * inverse), quotient)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a·b + c rounded once."""
        if not self.grid:
            return self.settle(fused_multiply_add(*np.broadcast_arrays(a, b, c)))
        return self.settle(_to_odd(*_two_sum(a * b, c)))  # a product of 11-bit numbers is exact in float64

    # sums

    def _added(self, terms: Any) -> Any:  # (n, ...) -> (...)
        """The sum over the first axis, in this arithmetic's order."""
        if self.order == "pairs":
            while len(terms) > 1:
                half = len(terms) // 2
                terms = np.concatenate(
                    [self.settle(terms[: 2 * half : 2] + terms[1 : 2 * half : 2]), terms[2 * half :]]
                )
            return terms[0]
        if self.order == "lanes" and len(terms) > LANES:
            whole = len(terms) // LANES * LANES
            rest = [self._folded(terms[lane:whole:LANES]) for lane in range(LANES)]
            return self._folded([*rest, *terms[whole:]])
        return self._folded(terms[slice(None, None, -1) if self.order == "backward" else self._places(len(terms))])

    def _places(self, count: int) -> Any:
        """The order of so many terms: another at random for every sum, or always the same, or as they lie."""
        fixed = np.random.default_rng((self.seed, count)) if self.order == "fixed" else self._rng
        return fixed.permutation(count) if self.order in ("random", "fixed") else np.arange(count)

    def _folded(self, terms: Any) -> Any:
        return functools.reduce(lambda total, term: self.settle(total + term), terms)

    def _total(self, terms: Any, axis: Any, keepdims: bool, library: Callable[..., Any]) -> Any:
        if terms.dtype.kind != "f":
            return library(terms, axis=axis, keepdims=keepdims)
        if not terms.shape[axis]:
            return np.sum(terms, axis=axis, keepdims=keepdims)
        if self.wide:
            total = _sum_of_more_bits(np.moveaxis(terms, axis, -1)).astype(terms.dtype)
        elif self.order == "library":
            return self.settle(library(terms, axis=axis, keepdims=keepdims))
        else:
            total = self._added(np.moveaxis(terms, axis, 0))
        total = self.settle(total)
        return np.expand_dims(total, axis) if keepdims else total

    def sum(self, x: Any, *, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
        """Sums, in order; of all elements, in the order in which they lie."""
        bare = _bare(x)
        if axis is None and not keepdims:
            bare, axis = bare.reshape(-1), -1
        if isinstance(axis, tuple) or axis is None or bare.dtype.kind != "f":
            return self.wrap(self.settle(xp.sum(bare, axis=axis, keepdims=keepdims, dtype=dtype)))
        return self.wrap(self._total(bare, axis, keepdims, np.sum))

    def mean(self, x: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
        """The sum, divided."""
        bare = _bare(x)
        return self.wrap(self.divide(self._total(bare, axis, keepdims, np.sum), bare.dtype.type(bare.shape[axis])))

    def cumulative_sum(self, x: Any, *, axis: int = -1, dtype: Any = None) -> Any:
        """Running sums, one after the other."""
        bare = _bare(x)
        if bare.dtype.kind != "f":
            return self.wrap(xp.cumulative_sum(bare, axis=axis, dtype=dtype))
        terms, running = np.moveaxis(bare, axis, 0), []
        for term in terms:
            running.append(self.settle(running[-1] + term) if running else term)
        return self.wrap(np.moveaxis(np.stack(running), 0, axis))

    def matmul(self, a: Any, b: Any) -> Any:
        """Matrix products, their sums in order, their products rounded or fused."""
        left, right = _bare(a), _bare(b)
        if (
            left.dtype.kind != "f"
            or min(left.ndim, right.ndim) < 2
            or (self.order == "library" and not (self.wide or self.fused))
        ):
            return self.wrap(self.settle(left @ right))
        rank = max(left.ndim, right.ndim)
        left, right = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (left, right))
        factors = [np.moveaxis(left, -1, 0)[..., :, None], np.moveaxis(right, -2, 0)[..., None, :]]
        if self.wide:
            shape = np.broadcast_shapes(*(f.shape[1:] for f in factors))
            terms = _exact_products(*(np.broadcast_to(f, (len(f), *shape)) for f in factors))
            return self.wrap(self.settle(_sum_of_more_bits(np.moveaxis(terms, 0, -1)).astype(left.dtype)))
        if self.fused:
            total: Any = left.dtype.type(0)
            for i in self._places(left.shape[-1]):
                total = self.fma(factors[0][i], factors[1][i], total)
            return self.wrap(total)
        return self.wrap(self._added(self.settle(factors[0] * factors[1])))

    # everything else

    def apply(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A function of the array library, its result rounded, and off by what functions may err by."""
        if name == "divide":
            return self.wrap(self.divide(*map(_bare, args)))
        bare, options = [_bare(a) for a in args], {key: _bare(value) for key, value in options.items()}
        if name in _FUNCTIONS and bare[0].dtype.kind == "f":
            return self.wrap(self.settle(self._off(function, bare[0])))
        with np.errstate(all="ignore"):
            result = function(*bare, **options)
        if isinstance(result, tuple):
            return tuple(map(self.wrap, result))
        return self.wrap(self.settle(result)) if isinstance(result, np.ndarray | np.generic) else result

    def _off(self, function: Callable[..., Any], x: Any) -> Any:
        """f(x), one unit in the last place beyond where rounding up, or down, puts it; in float64 beside what the library says."""
        exact = np.asarray(function(x.astype(np.float64)))
        rounded = self._round(exact) if self.grid else exact.astype(x.dtype)
        settled = (x == 0) | (
            np.isin(exact, (0, 1)) & (x == 1)
        )  # exp 0 = 1, log 1 = 0 and their like are exact in every library
        steps = self._rng.integers(-1, 2, x.shape) if self.ulps is None else np.full(x.shape, self.ulps)
        towards = np.where(steps > 0, np.inf, -np.inf)
        for short in (steps * (exact - rounded) > 0, steps != 0):  # to the directed rounding first, then one further
            further = self._next(rounded, towards)
            within = np.abs(further.astype(np.float64)) <= np.exp2(
                np.frexp(exact)[1].astype(np.float64)
            )  # beyond, units are larger
            rounded = np.where(short & ~settled & within, further, rounded)
        return rounded

    def _next(self, x: Any, towards: Any) -> Any:
        if not self.grid:
            return np.nextafter(x, towards.astype(x.dtype))
        away = np.sign(towards) == np.where(x == 0, np.sign(towards), np.sign(x))
        quantum = np.where(np.isfinite(x), _quantum(np.where(np.isfinite(x), x, 0), self.grid), 0)
        below = np.abs(np.frexp(x)[0]) == 0.5  # towards 0, the neighbour of a power of two is half as far
        return x + np.sign(towards) * np.where(below & ~away, quantum / 2, quantum)

    def __getattr__(self, name: str) -> Any:
        found = getattr(xp, name)
        if not callable(found) or isinstance(found, type) or name in ("finfo", "iinfo", "isdtype", "result_type"):
            return found
        return functools.partial(self.apply, name, found)


_FUNCTIONS = frozenset({"exp", "log", "tanh", "sin", "cos", "erf", "erfc"})


def _exact_products(a: Any, b: Any) -> Any:  # -> longer by one axis of two where one float64 does not hold a product
    if a.dtype == np.float32:
        return a.astype(np.float64) * b.astype(np.float64)
    high, low = _two_product(a, b)
    return np.concatenate([high, low])


def _sum_of_more_bits(terms: Any) -> Any:  # (..., n) -> (...)
    """The sum over the last axis, of float32 in float64, of float64 exactly."""
    if terms.dtype == np.float32:
        return terms.astype(np.float64).sum(-1)
    flat = terms.reshape(-1, terms.shape[-1])
    sums = [math.fsum(row) if np.all(np.isfinite(row)) else float(np.sum(row)) for row in flat]
    return np.array(sums).reshape(terms.shape[:-1])


def _bare(value: Any) -> Any:
    if isinstance(value, _Number):
        return value.array
    return type(value)(map(_bare, value)) if isinstance(value, list | tuple) else value


class _Number:
    """An array whose operations are carried out by an `Arithmetic`."""

    __array_priority__ = 100

    def __init__(self, array: Any, arithmetic: Arithmetic, factors: tuple[Any, Any] | None = None) -> None:
        self.array = array
        self.arithmetic = arithmetic
        self.factors = factors  # of a product, for the sum it may be fused into

    def __array_namespace__(self, *, api_version: str | None = None) -> Arithmetic:
        return self.arithmetic

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return self.arithmetic.apply(ufunc.__name__, ufunc, *inputs, **options)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    size = property(lambda self: self.array.size)
    device = property(lambda self: "cpu")

    def __getitem__(self, key: Any) -> _Number:
        return _Number(self.array[_bare(key)], self.arithmetic)

    def __float__(self) -> float:
        return float(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __neg__(self) -> _Number:
        factors = (-self.factors[0], self.factors[1]) if self.factors else None
        return _Number(-self.array, self.arithmetic, factors)

    def __invert__(self) -> _Number:
        return _Number(~self.array, self.arithmetic)


def _operator(operation: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    def method(self: _Number, other: Any) -> _Number:
        bare = (
            self.array.dtype.type(other)
            if self.array.dtype.kind == "f" and isinstance(other, int | float)
            else _bare(other)
        )
        bare = self.arithmetic.settle(bare) if self.arithmetic.grid and np.asarray(bare).dtype.kind == "f" else bare
        left, right = (bare, self.array) if swapped else (self.array, bare)
        fused = _fused(self, other, bare, operation, swapped)
        if fused is not None:
            return _Number(fused, self.arithmetic)
        with np.errstate(all="ignore"):
            if operation is operator.truediv:
                return _Number(self.arithmetic.divide(left, right), self.arithmetic)
            result = self.arithmetic.settle(operation(left, right))
        floating = operation is operator.mul and result.dtype.kind == "f" and left.dtype == right.dtype
        return _Number(result, self.arithmetic, (left, right) if floating else None)

    return method


def _fused(number: _Number, other: Any, bare: Any, operation: Any, swapped: bool) -> Any:
    """The sum or difference of a product and something else, rounded once; None where nothing is to be fused."""
    if not number.arithmetic.fused or operation not in (operator.add, operator.sub):
        return None
    one = -1 if operation is operator.sub else 1
    theirs = getattr(other, "factors", None)
    if number.factors:
        sign, rest = (one, bare) if swapped else (1, one * bare)
        return number.arithmetic.fma(sign * number.factors[0], number.factors[1], rest)
    if theirs:
        return number.arithmetic.fma(one * theirs[0], theirs[1], number.array)
    return None


for _name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod"):
    setattr(_Number, f"__{_name}__", _operator(getattr(operator, _name)))
    setattr(_Number, f"__r{_name}__", _operator(getattr(operator, _name), swapped=True))
for _name in ("and_", "or_", "xor", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(_Number, f"__{_name.rstrip('_')}__", _operator(getattr(operator, _name)))
_Number.__matmul__ = lambda self, other: self.arithmetic.matmul(self, other)  # type: ignore[attr-defined]


# --- which evaluations there are ------------------------------------------------------------------------------------------------------


def _arithmetics(flush: float) -> dict[str, Arithmetic]:
    """Legal ways to carry out the operations of one source."""
    return {
        "as written": Arithmetic(),
        "sums forward": Arithmetic("forward"),
        "sums backward": Arithmetic("backward"),
        "sums in pairs": Arithmetic("pairs"),
        "sums in four lanes": Arithmetic("lanes"),
        "sums in a random order": Arithmetic("random", seed=1),
        "sums in another random order": Arithmetic("random", seed=2),
        "sums in more bits": Arithmetic(wide=True),
        "FMA": Arithmetic("forward", fused=True),
        "functions a unit above": Arithmetic(ulps=1),
        "functions a unit below": Arithmetic(ulps=-1),
        "functions off at random": Arithmetic(ulps=None, seed=3),
        "products with reciprocals": Arithmetic(reciprocal=True),
        "FMA, random order, functions off, reciprocals": Arithmetic("random", 4, True, False, None, True, flush),
        "backward, functions above, reciprocals, flushed": Arithmetic("backward", 5, False, False, 1, True, flush),
    }


def _evaluations(component: str, dtype: str) -> dict[str, Callable[..., Any]]:
    """Every legal evaluation of a component in a dtype, as functions of arrays and parameters."""
    kind, found = tolerance.DTYPES[dtype], dict[str, Any]()
    flush = 0.0 if dtype == "float16" else tolerance.smallest_normal(dtype)
    if kind.itemsize == 2:
        chosen = {
            name: each for name, each in _arithmetics(0.0).items() if name in ("as written", "sums forward", "FMA")
        }
        found |= {f"float32: {name}": _under(component, each, np.float32) for name, each in chosen.items()}
        throughout = f"{tolerance.BITS[dtype]} bits throughout"
        every = {name: dataclasses.replace(each, grid=dtype) for name, each in _arithmetics(flush).items()}
        found |= {
            f"{throughout}: {name}": _under(component, each, np.float64)
            for name, each in every.items()
            if not each.wide
        }
    else:
        found |= {name: _under(component, each, kind) for name, each in _arithmetics(flush).items()}
    forms = {name: _once_rounded(form) for name, form in _FORMS.get(component, {}).items()}
    return found | (forms if component not in components.MODELS else {})


# their backward passes compute exponents twice, and look the second time for those that attained the maximum of the first: sums of one product have
# to come out the same twice, as they do in a library that is asked twice
_TWICE = ("positive_features.vjp", "trigonometric_features.vjp", "hyperbolic_features.vjp", "favor_attention.vjp")


def _under(component: str, arithmetic: Arithmetic, carrier: Any) -> Callable[..., Any]:
    """The definition under an arithmetic, on arrays of `carrier`; the answer in the dtype of the inputs."""
    of_model = component in components.MODELS
    definition = _model(component, carrier, arithmetic) if of_model else components.component(component).definition

    def evaluate(*arrays: Any, kind: Any, **params: Any) -> Any:
        own = dataclasses.replace(arithmetic)  # its random numbers begin anew with every case
        if component in _TWICE and own.order == "random":
            own = dataclasses.replace(own, order="fixed")

        def given(value: Any) -> Any:
            return (
                own.wrap(value.astype(carrier) if _is_floating(value) else value)
                if isinstance(value, np.ndarray)
                else value
            )

        answer = _bare(definition(*map(given, arrays), **{name: given(value) for name, value in params.items()}))
        with np.errstate(over="ignore"):
            return answer.astype(kind)

    return evaluate


def _model(component: str, carrier: Any, arithmetic: Arithmetic) -> Callable[..., Any]:
    config, arrays = components.recorded_model(component)
    rounded = {name: arithmetic.settle(a.astype(carrier)) for name, a in arrays.items()}

    def logits(*inputs: Any, **params: Any) -> Any:
        own = inputs[0].arithmetic
        return components.model_logits(
            component, config, {name: own.wrap(a) for name, a in rounded.items()}, *inputs, **params
        )

    return logits


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "biuO"


def _once_rounded(form: Callable[..., Any]) -> Callable[..., Any]:
    """A form on arrays of at least float32, its answer rounded once."""

    def evaluate(*arrays: Any, kind: Any, **params: Any) -> Any:
        def given(value: Any) -> Any:
            return value.astype(np.float32) if _is_floating(value) and value.dtype.itemsize == 2 else value

        with np.errstate(all="ignore"):
            return form(*map(given, arrays), **{name: given(value) for name, value in params.items()}).astype(kind)

    return evaluate


# --- other forms of the same function ---------------------------------------------------------------------------------------------------


def _online_softmax(x: Any, block: int = 4) -> Any:
    """One pass over blocks; the sum so far is rescaled when the maximum grows."""
    highest, total = np.full_like(x[..., :1], -np.inf), np.zeros_like(x[..., :1])
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]
        higher = np.maximum(highest, part.max(-1, keepdims=True))
        total = total * np.exp(highest - higher) + np.exp(part - higher).sum(-1, keepdims=True)
        highest = higher
    return np.exp(x - highest) / total


def _softmax_by_twos(x: Any) -> Any:
    e = np.exp2((x - x.max(-1, keepdims=True)) * x.dtype.type(math.log2(math.e)))
    return e / e.sum(-1, keepdims=True)


def _log_sum(x: Any) -> Any:
    c = x.max(-1, keepdims=True)
    return c + np.log(np.exp(x - c).sum(-1, keepdims=True))


def _welford(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    """Mean and variance in one pass, by Welford's recurrence; multiplied by the inverse root."""
    mean, squares = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for j in range(x.shape[-1]):
        away = x[..., j : j + 1] - mean
        mean = mean + away / (j + 1)
        squares = squares + away * (x[..., j : j + 1] - mean)
    return (x - mean) * (1 / np.sqrt(squares / x.shape[-1] + x.dtype.type(eps))) * scale + bias


def _gelu_forms(x: Any, approximate: str, *, by_sigmoid: bool) -> Any:
    if approximate == "none":
        return x / 2 * (1 + scipy.special.erf(x / math.sqrt(2)))
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return x / (1 + np.exp(-2 * inner)) if by_sigmoid else x / 2 * (1 + np.tanh(inner))


def _flash(
    q: Any, k: Any, v: Any, mask: Any, *, scaled: Any = None, added: Any = 0, divisor: int = 1, block: int = 2
) -> Any:
    """Attention in one pass over blocks of keys, with scaled queries, sums and answers rescaled when the maximum grows."""
    given = (q / math.sqrt(q.shape[-1])) @ np.swapaxes(k, -1, -2) if scaled is None else scaled
    scores = (given + added) / divisor
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    highest, total = np.full_like(scores[..., :1], -np.inf), np.zeros_like(scores[..., :1])
    out = np.zeros((*scores.shape[:-1], v.shape[-1]), q.dtype)
    for start in range(0, scores.shape[-1], block):
        part = scores[..., start : start + block]
        higher = np.maximum(highest, part.max(-1, keepdims=True))
        finite = np.where(higher == -np.inf, 0, higher)
        e, back = np.exp(part - finite), np.exp(highest - finite)
        total, out = total * back + e.sum(-1, keepdims=True), out * back + e @ v[..., start : start + block, :]
        highest = higher
    return out / np.where(total == 0, 1, total)


def _residual_flash(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    return _flash(q, k, v, mask, added=previous_scores, divisor=mean_over)


def _roots_on_both(q: Any, k: Any, v: Any, mask: Any) -> Any:
    root = math.sqrt(math.sqrt(q.shape[-1]))
    return _flash(q, k, v, mask, scaled=(q / root) @ np.swapaxes(k / root, -1, -2), block=k.shape[-2])


def _twin(component: str) -> Callable[..., Any]:
    """The right implementation beside the mutants, which is another form of many components."""

    def call(*arrays: Any, **params: Any) -> Any:
        from validation import mutants  # the catalogue is imported where it is used

        return mutants.TWINS[component](*arrays, **params)

    return call


_OF_EACH: dict[str, dict[str, Callable[..., Any]]] = {
    "softmax": {
        "one pass over blocks, rescaled": _online_softmax,
        "powers of two": _softmax_by_twos,
        "exp(x - log-sum-exp)": lambda x: np.exp(x - _log_sum(x)),
    },
    "log_softmax": {"x - log-sum-exp": lambda x: x - _log_sum(x)},
    "layer_norm": {"Welford's recurrence, inverse root": _welford},
    "gelu": {
        "x/2 (1 + erf), x/2 (1 + tanh)": functools.partial(_gelu_forms, by_sigmoid=False),
        "x/2 (1 + erf), x sigmoid": functools.partial(_gelu_forms, by_sigmoid=True),
    },
    "attention": {"one pass over blocks, scaled queries": _flash, "d^-1/4 on queries and keys": _roots_on_both},
    "residual_attention": {"one pass over blocks, scaled queries": _residual_flash},
}
_FORMS = {name: {"explicit, in NumPy": _twin(name)} | _OF_EACH.get(name, {}) for name in components.COMPONENTS}


# --- measuring ----------------------------------------------------------------------------------------------------------------------


@functools.cache
def spread(component: str, dtype: str = "float32") -> Spread:
    """How far every legal evaluation of a component is from the truth, on all golden vectors, as a multiple of the tolerance.

    Raises
    ------
    ConfigError
        for an unknown component or dtype, or one whose answers are exact.
    """
    if components.component(component).exact:
        expected = "a component whose answers have a tolerance"
        raise ConfigError("no evaluation differs from another", expected=expected, got=f"{component}: exact answers")
    cases = vectors.load(component).select(dtype)
    return Spread(
        component, dtype, tuple(_measured(name, f, cases, dtype) for name, f in _evaluations(component, dtype).items())
    )


def _measured(name: str, function: Callable[..., Any], cases: Sequence[vectors.Vector], dtype: str) -> Legal:
    verdicts = []
    for vector in cases:
        with np.errstate(all="ignore"):
            answer = function(*vector.positional(dtype), kind=tolerance.DTYPES[dtype], **vector.params(dtype))
        verdicts.append((vector.judge(answer, dtype), vector))
    worst, vector = max(verdicts, key=lambda each: (not each[0].passed, each[0].multiple))
    place = f" [{', '.join(map(str, worst.where))}]" if worst.where else ""
    counts = [sum(column) for column in zip(*(verdict.ulps for verdict, _ in verdicts if verdict.ulps), strict=True)]
    ulps = dict(zip(tolerance.ULP_BINS, counts, strict=True)) if counts else None
    return Legal(name, worst.multiple, f"{vector.id} {vector.name}{place}", ulps)


def main(
    ops: Annotated[list[str] | None, typer.Argument(help="Components; all without any.")] = None,
) -> None:
    """Measure the legal spread in every dtype, and record it for the reports."""
    kept = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    for op in ops or [name for name, component in components.COMPONENTS.items() if not component.exact]:
        kept[op] = {}
        for dtype in tolerance.DTYPES:
            found = spread(op, dtype)
            kept[op][dtype] = [[row.name, float(f"{row.multiple:.2g}"), row.where] for row in found.rows]
            out.print(f"{op}, {dtype}: {found.widest}", markup=False, highlight=False, soft_wrap=True)
    rows = {op: kept[op] for op in components.COMPONENTS if op in kept}
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    replace_file(RECORD, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    typer.run(main)
