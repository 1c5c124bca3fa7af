"""Perturbed arithmetic: the same source, with every rounding replaced by a random one of the size a dtype would make.

A running-error bound composed through a network is useless (five orders too wide after one block), so the error that
a float implementation may have at the end of one is *sampled*: the definition runs in float64 on arrays whose every operation multiplies its
result by 1 + u·U(-1, 1), u the unit roundoff of the dtype in question. Sums and products of matrices get noise of the size of a
random walk over their n roundings, u·√(n/2)·√(Σ terms²); a sequential sum of many terms of one sign may err more. The
standard deviation over many runs says, element by element and conditioned on the data, what rounding can do. Scaling by a power of two is
exact; constants that are not whole numbers are perturbed too, once an operation (or once an array made of them): their rounding errs the same
way everywhere. A budget is so
many estimated deviations that, were the errors Gaussian, all of its elements together would exceed
it with probability below 1e-6: Student's t with 23 degrees of freedom, divided among the elements (`sigmas`).

Reference: D. S. Parker, B. Pierce and P. R. Eggert, "Monte Carlo arithmetic: how to gamble with floating point and win",
Computing in Science and Engineering 2 (2000).
"""

from __future__ import annotations

import functools
import math
import operator
from typing import TYPE_CHECKING, Any

import array_api_compat.numpy as xp
import flint
import numpy as np
from scipy.special import stdtrit

from validation.truth import precision

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAMILY", "PROBE", "RUNS", "Noise", "PerturbedArray", "ReproducibleNoise", "sampled_deviation", "sigmas"]

RUNS = 24
FAMILY = 1e-6  # the probability that some element of a right answer exceeds its budget, were its error Gaussian
PROBE = 2.0**-30
ELEMENTWISE = frozenset({"exp", "log", "sqrt", "tanh", "add", "subtract", "multiply", "divide", "pow"})
REDUCTIONS = frozenset({"sum", "mean", "cumulative_sum"})


class Noise:
    """A source of perturbations of relative size `roundoff`, and the array namespace that applies them."""

    __name__ = "perturbed"

    def __init__(self, roundoff: float, rng: np.random.Generator) -> None:
        self.roundoff = roundoff
        self.rng = rng

    def wrap(self, array: Any) -> PerturbedArray:
        """`array`, from now on perturbed by every operation."""
        return PerturbedArray(np.asarray(array), self)

    def rounded(self, exact: Any) -> Any:
        """exact · (1 + u·U(-1, 1)); a number at the very end of the range stays as it is."""
        with np.errstate(over="ignore"):
            moved = exact * (1 + self.roundoff * self.rng.uniform(-1, 1, np.shape(exact)))
        return np.where(np.isfinite(moved), moved, exact)

    def walked(self, exact: Any, square: Any, length: int) -> Any:
        """exact + u·√(length/2)·√square·U(-1, 1)·√3: a walk of `length` roundings."""
        size = self.roundoff * np.sqrt(3 * length / 2) * np.sqrt(square)
        return exact + size * self.rng.uniform(-1, 1, np.shape(exact))

    def matmul(self, a: Any, b: Any) -> PerturbedArray:
        """The matrix product, its sums perturbed as walks."""
        left, right = _bare(a), _bare(b)
        return self.wrap(self.walked(self._product(left, right), self._product(left**2, right**2), left.shape[-1]))

    def _product(self, left: Any, right: Any) -> Any:
        return left @ right

    def _reduction(self, name: str, bare: Any, **options: Any) -> Any:
        return getattr(xp, name)(bare, **options)

    def _reduce(self, name: str, x: Any, **options: Any) -> PerturbedArray:
        bare, axis = _bare(x), options.get("axis", -1)
        if bare.dtype.kind != "f":
            return self.wrap(getattr(xp, name)(bare, **options))
        result, axes = self._reduction(name, bare, **options), axis if isinstance(axis, tuple) else (axis,)
        length = math.prod(bare.shape[each] for each in axes)
        square = self._reduction(name, bare**2, **options) / (length if name == "mean" else 1)
        return self.wrap(self.walked(result, square, length))

    def _function(self, name: str) -> Any:
        return getattr(xp, name)

    def __getattr__(self, name: str) -> Any:
        found = self._function(name)
        if not callable(found) or isinstance(found, type):
            return found
        if name in REDUCTIONS:
            return lambda x, **options: self._reduce(name, x, **options)

        def function(*args: Any, **options: Any) -> Any:
            result = found(*map(_bare, args), **{key: _bare(value) for key, value in options.items()})
            if isinstance(result, tuple):
                return tuple(map(self.wrap, result))
            if not isinstance(result, (np.ndarray, np.generic)):
                return result
            made = name == "asarray" and isinstance(args[0], list | tuple) and result.dtype.kind == "f"  # of constants
            return self.wrap(self.rounded(result) if made or name in ELEMENTWISE else result)

        return function


class ReproducibleNoise(Noise):
    """Noise whose results are the same bits on every machine: sums are made one term after the other, functions rounded correctly.

    What remains are additions, products, quotients and square roots, which IEEE 754 defines, and the generator's integers.
    """

    def _product(self, left: Any, right: Any) -> Any:
        total = left[..., :, :1] * right[..., :1, :]
        for i in range(1, left.shape[-1]):
            total = total + left[..., :, i : i + 1] * right[..., i : i + 1, :]
        return total

    def _reduction(self, name: str, bare: Any, *, axis: int | tuple[int, ...] = -1, keepdims: bool = False) -> Any:
        if isinstance(axis, tuple):  # one sum over all of them, in C order
            last = np.moveaxis(bare, axis, range(-len(axis), 0))
            total = self._reduction(name, last.reshape(*last.shape[: bare.ndim - len(axis)], -1))
            return np.expand_dims(total, axis) if keepdims else total
        running = np.add.accumulate(bare, axis=axis)
        if name == "cumulative_sum":
            return running
        total = np.take(running, [-1], axis=axis) / (bare.shape[axis] if name == "mean" else 1)
        return total if keepdims else np.squeeze(total, axis=axis)

    def _function(self, name: str) -> Any:
        return _CORRECT.get(name) or super()._function(name)


def _correctly_rounded(name: str) -> Callable[[Any], Any]:
    """A function of arrays that is the nearest float64 everywhere (but for a tie that 128 bits do not tell, once in 2^75)."""

    def one(value: float) -> float:
        result = getattr(flint.arb(value), name)()
        return float(result.mid()) if result.is_finite() else math.inf

    def function(x: Any) -> Any:
        with precision(128):
            return np.frompyfunc(one, 1, 1)(np.asarray(x)).astype(np.float64)

    return function


_CORRECT = {name: _correctly_rounded(name) for name in ("exp", "log", "tanh")}


def _bare(value: Any) -> Any:
    if isinstance(value, PerturbedArray):
        return value.array
    return type(value)(map(_bare, value)) if isinstance(value, list | tuple) else value


class PerturbedArray:
    """An array whose arithmetic is perturbed by its `Noise`."""

    def __init__(self, array: Any, noise: Noise) -> None:
        self.array = array
        self.noise = noise

    def __array_namespace__(self, *, api_version: str | None = None) -> Noise:
        return self.noise

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    device = property(lambda self: "cpu")

    def __getitem__(self, key: Any) -> PerturbedArray:
        return self.noise.wrap(self.array[key])

    def __float__(self) -> float:
        return float(self.array)

    def __int__(self) -> int:
        return int(self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __neg__(self) -> PerturbedArray:
        return self.noise.wrap(-self.array)

    def __invert__(self) -> PerturbedArray:
        return self.noise.wrap(~self.array)


def _is_power_of_two(value: Any) -> bool:
    return isinstance(value, int | float) and abs(math.frexp(value)[0]) == 0.5


def _operator(operation: Callable[..., Any], *, rounds: bool, swapped: bool = False) -> Callable[..., Any]:
    scales = operation in (operator.mul, operator.truediv) and not (swapped and operation is operator.truediv)

    def method(self: PerturbedArray, other: Any) -> PerturbedArray:
        exact = not rounds or (scales and _is_power_of_two(other))
        if not exact and isinstance(other, float) and not other.is_integer():
            other = float(self.noise.rounded(other))
        left, right = (_bare(other), self.array) if swapped else (self.array, _bare(other))
        result = operation(left, right)
        floating = not exact and np.asarray(result).dtype.kind == "f"
        return self.noise.wrap(self.noise.rounded(result) if floating else result)

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(PerturbedArray, f"__{_name}__", _operator(getattr(operator, _name), rounds=True))
    setattr(PerturbedArray, f"__r{_name}__", _operator(getattr(operator, _name), rounds=True, swapped=True))
for _name in ("and_", "or_", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(PerturbedArray, f"__{_name.rstrip('_')}__", _operator(getattr(operator, _name), rounds=False))


def sigmas(elements: int, runs: int = RUNS) -> float:
    """The number t of deviations, each estimated from `runs` runs, with  elements · P(|error| > t) = FAMILY  for Gaussian errors; rounded up."""
    return math.ceil(-float(stdtrit(runs - 1, FAMILY / (2 * elements))) * 64) / 64


def sampled_deviation(
    run: Callable[[Callable[[Any], PerturbedArray]], Any],
    *,
    roundoff: float,
    seed: int = 0,
    runs: int = RUNS,
    noise: type[Noise] = Noise,
) -> Any:  # -> float64 (...)
    """The standard deviation, element by element, of `run(wrap)` over `runs` runs in perturbed arithmetic.

    The runs are made with perturbations of size 2^-30, large beside the roundings of the float64 arithmetic that carries them and small
    enough that their effect is linear; the deviation is then scaled to the roundoff asked for.

    Parameters
    ----------
    run : called with a function that wraps arrays; returns a PerturbedArray
    roundoff : the unit roundoff u of the dtype that is modelled
    seed : of the perturbations
    noise : ReproducibleNoise for the same bits on every machine, which is slow
    runs : how many; the answer's own relative uncertainty is 1/√(2 runs - 2)
    """
    results = [_bare(run(noise(PROBE, rng).wrap)) for rng in np.random.default_rng(seed).spawn(runs)]
    mean = functools.reduce(operator.add, results) / runs
    variance = functools.reduce(operator.add, [(result - mean) ** 2 for result in results]) / (runs - 1)
    return np.sqrt(variance) * (roundoff / PROBE)
