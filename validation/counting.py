"""Arrays that count: every elementary operation on their elements, and the bytes that are alive.

`Counter.array(a)` wraps a NumPy array. Definitions take their namespace from their arguments, so they run on wrapped arrays unchanged, and
afterwards the counter knows how much work was done and how much memory was held at the worst moment. What is counted:

* elementwise functions and operators: one operation for each element of the result;
* reductions: one for each element of the argument; matmul (r, s) x (s, t): r s t multiplications;
* memory: each buffer once, from when it is made until the last array that uses it is gone, views not at all, inputs included.

Moving elements (slices, concat, reshape, where) is memory, not work. Nothing here measures time.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import array_api_compat.numpy as numpy_namespace
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Counted", "Counter"]

_MOVES = {"concat", "where", "reshape", "permute_dims", "matrix_transpose", "astype", "arange", "squeeze", "zeros"}
_REDUCTIONS = {"sum", "max", "min", "mean", "any", "all", "cumulative_sum"}


@dataclass
class Counter:
    """Operations done so far, bytes alive now, and the most that ever were."""

    operations: int = 0
    alive: int = 0
    peak: int = 0
    _buffers: set[int] = field(default_factory=set)

    def array(self, values: Any) -> Counted:
        """`values` as an array that reports here."""
        array = np.asarray(values)
        buffer = array
        while isinstance(buffer.base, np.ndarray):
            buffer = buffer.base
        if id(buffer) not in self._buffers:
            self._buffers.add(id(buffer))
            self.alive += buffer.nbytes
            self.peak = max(self.peak, self.alive)
            weakref.finalize(buffer, self._freed, id(buffer), buffer.nbytes)
        return Counted(array, self)

    def _freed(self, identity: int, size: int) -> None:
        self._buffers.discard(identity)
        self.alive -= size

    def apply(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one function on unwrapped arrays, count it, wrap what comes back."""
        plain = [_unwrapped(value) for value in args]
        result = function(*plain, **{key: _unwrapped(value) for key, value in kwargs.items()})
        if not isinstance(result, np.ndarray | np.generic):
            return result
        if name == "matmul":
            self.operations += int(result.size) * plain[0].shape[-1]
        elif name in _REDUCTIONS:
            self.operations += int(plain[0].size)
        elif name not in _MOVES:
            self.operations += int(result.size)
        return self.array(result)


def _unwrapped(value: Any) -> Any:
    if isinstance(value, Counted):
        return value.array
    return type(value)(_unwrapped(each) for each in value) if isinstance(value, list | tuple) else value


class _Namespace:
    """NumPy's array-API namespace, whose functions report to a counter."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def __getattr__(self, name: str) -> Any:
        member = getattr(numpy_namespace, name)
        if not callable(member) or isinstance(member, type) or name in ("finfo", "iinfo"):
            return member

        def counted(*args: Any, **kwargs: Any) -> Any:
            return self.counter.apply(name, member, *args, **kwargs)

        return counted


class Counted:
    """A NumPy array whose operations are counted. `array` is the NumPy array."""

    def __init__(self, array: Any, counter: Counter) -> None:
        self.array, self.counter = array, counter

    dtype = property(lambda self: self.array.dtype)
    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    size = property(lambda self: self.array.size)
    device = "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _Namespace(self.counter)

    def __getitem__(self, key: Any) -> Counted:
        return self.counter.array(self.array[key])


def _operator(name: str) -> Callable[..., Any]:
    def method(self: Counted, *others: Any) -> Any:
        return self.counter.apply(name, getattr(np.ndarray, name), self, *others)

    return method


for _name in ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne", "and", "or"):
    setattr(Counted, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Counted, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in ("neg", "invert", "abs"):
    setattr(Counted, f"__{_name}__", _operator(f"__{_name}__"))
