"""Which inputs can a result depend on? Found by running the definition once, for all inputs of those shapes that do not overflow.

A `TracedArray` carries, beside its values, a set of tags for each element (a 64-bit mask). Every array operation joins the tags of what
it reads; selection by an untagged mask takes the tags of the branch selected (by a tagged one, of both); a product, conjunction or quotient
of a structural zero (a zero or False that depends on nothing, as masked attention weights are) carries nothing over. Python branches on
tagged values are recorded in `tagged_branches`, with the tags that were looked at: where they are all refusals that did not happen, the tags
found on one run hold for all inputs of the same shapes that are not refused, as long as no intermediate value overflows and nothing is divided
by 0 (0 · inf and 0/0 are not 0). What has no tag of an input cannot depend on it. This is abstract interpretation, hence a proof, about the
source that is run. It does not see sizes: code may still do something else for arrays of another shape.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import array_api_compat.numpy as xp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Branch", "TracedArray", "tagged_branches", "traced"]


class Branch(NamedTuple):
    """A tagged value that Python code looked at: the truth value, True for a number; and what it may depend on."""

    taken: bool
    tags: int


tagged_branches: list[Branch] = []  # since the list was last cleared

SHAPING = frozenset({"reshape", "permute_dims", "broadcast_to", "matrix_transpose", "expand_dims", "squeeze"})
REDUCING = frozenset({"sum", "mean", "max", "min", "any", "all"})
ELEMENTWISE = frozenset({"clip", "exp", "log", "sqrt", "tanh", "abs", "maximum", "minimum", "isfinite"})
NOTHING = np.uint64(0)


def traced(values: Any, tags: Any = NOTHING) -> TracedArray:
    """`values`, every element tagged with the bits of `tags` (broadcast)."""
    array = np.asarray(values)
    return TracedArray(array, np.broadcast_to(np.asarray(tags, np.uint64), array.shape))


def _split(value: Any) -> tuple[Any, Any]:
    if isinstance(value, TracedArray):
        return value.array, value.tags
    return value, NOTHING


class _Namespace:
    """The array functions that the definitions use, each with its rule for tags; any other raises AttributeError."""

    __name__ = "traced"

    def where(self, condition: Any, yes: Any, no: Any) -> TracedArray:
        (choice, choice_tags), (left, left_tags), (right, right_tags) = map(_split, (condition, yes, no))
        chosen = np.where(choice_tags == 0, np.where(choice, left_tags, right_tags), left_tags | right_tags)
        return TracedArray(xp.where(choice, left, right), chosen | choice_tags)

    def matmul(self, a: Any, b: Any) -> TracedArray:
        (left, left_tags), (right, right_tags) = map(_split, (a, b))
        live_left = ~((left == 0) & (left_tags == 0))[..., :, :, None]
        live_right = ~((right == 0) & (right_tags == 0))[..., None, :, :]
        tags = np.where(live_left & live_right, left_tags[..., :, :, None] | right_tags[..., None, :, :], NOTHING)
        return TracedArray(left @ right, np.bitwise_or.reduce(tags, axis=-2))

    def take(self, x: Any, indices: Any, *, axis: int) -> TracedArray:
        (array, tags), (index, index_tags) = map(_split, (x, indices))
        axis = axis % array.ndim
        shape = [1] * array.ndim
        shape[axis] = -1
        index_tags = np.broadcast_to(index_tags, np.shape(index)).reshape(shape)
        along = (slice(None),) * axis  # np.take would copy tags that are broadcast
        gathered = tags[(*along, np.asarray(index))]
        if np.any(index_tags):  # a tagged index may choose any of them, which are one where the tags are broadcast
            anywhere = (
                tags[(*along, slice(1))]
                if tags.strides[axis] == 0
                else np.bitwise_or.reduce(tags, axis=axis, keepdims=True)
            )
            gathered = np.where(index_tags == 0, gathered, anywhere)
        return TracedArray(xp.take(array, index, axis=axis), gathered | index_tags)

    def concat(self, arrays: Any, *, axis: int) -> TracedArray:
        values, tags = zip(*map(_split, arrays), strict=True)
        return TracedArray(xp.concat(list(values), axis=axis), np.concatenate(tags, axis=axis))

    def cumulative_sum(self, x: Any, *, axis: int) -> TracedArray:
        array, tags = _split(x)
        return TracedArray(xp.cumulative_sum(array, axis=axis), np.bitwise_or.accumulate(tags, axis=axis))

    def astype(self, x: Any, dtype: Any) -> TracedArray:
        return TracedArray(x.array.astype(dtype), x.tags)

    def asarray(self, x: Any, **options: Any) -> TracedArray:
        array, tags = _split(x)
        made = xp.asarray(array, **options)
        if made.dtype == object:
            msg = "validation.dependence has no rule for asarray of a list of traced arrays: their tags would be lost"
            raise TypeError(msg)
        return TracedArray(made, np.broadcast_to(tags, made.shape))

    def zeros_like(self, x: Any) -> TracedArray:
        return traced(np.zeros_like(x.array))

    def _reduce(self, name: str, x: Any, axis: Any = None, keepdims: bool = False) -> TracedArray:
        axes = tuple(range(x.ndim)) if axis is None else axis
        tags = np.bitwise_or.reduce(x.tags, axis=axes, keepdims=keepdims)
        return TracedArray(np.asarray(getattr(xp, name)(x.array, axis=axis, keepdims=keepdims)), np.asarray(tags))

    def __getattr__(self, name: str) -> Any:
        if name in REDUCING:
            return lambda x, **options: self._reduce(name, x, **options)
        found = getattr(xp, name)
        if name in SHAPING:
            return lambda x, *rest, **options: TracedArray(
                found(x.array, *rest, **options), found(x.tags, *rest, **options)
            )
        if name in ELEMENTWISE:
            return lambda *args: _elementwise(found, *args)
        if name in ("arange", "ones", "zeros"):
            return lambda *args, **options: traced(found(*args, **options))
        if not callable(found) or isinstance(found, type) or name == "finfo":
            return found
        msg = f"validation.dependence has no rule for {name}"
        raise AttributeError(msg)


def _elementwise(function: Callable[..., Any], *args: Any) -> TracedArray:
    values, tags = zip(*map(_split, args), strict=True)
    result = np.asarray(function(*values))
    joined = NOTHING
    for each in tags:
        joined = joined | each
    return TracedArray(result, np.broadcast_to(joined, result.shape))


class TracedArray:
    """Values, and for each the set of tags that it may depend on."""

    __array_ufunc__ = (
        None  # so that NumPy leaves `array * traced` to the rules below, instead of taking it for an object
    )

    def __init__(self, array: Any, tags: Any) -> None:
        self.array = array
        self.tags = tags

    def __array_namespace__(self, *, api_version: str | None = None) -> _Namespace:
        return _NAMESPACE

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    device = property(lambda self: "cpu")

    def __getitem__(self, key: Any) -> TracedArray:
        return TracedArray(self.array[key], self.tags[key])

    def __bool__(self) -> bool:
        if self.tags:
            tagged_branches.append(Branch(bool(self.array), int(self.tags)))
        return bool(self.array)

    def __int__(self) -> int:
        if self.tags:
            tagged_branches.append(
                Branch(True, int(self.tags))
            )  # whatever the number is, code that looks at it may go anywhere
        return int(self.array)

    def __neg__(self) -> TracedArray:
        return TracedArray(-self.array, self.tags)

    def __invert__(self) -> TracedArray:
        return TracedArray(~self.array, self.tags)


_NAMESPACE = _Namespace()


def _operator(operation: Callable[..., Any], *, swapped: bool) -> Callable[..., Any]:
    def method(self: TracedArray, other: Any) -> TracedArray:
        return _elementwise(operation, other, self) if swapped else _elementwise(operation, self, other)

    return method


def _absorbing(operation: Callable[..., Any], *, right_too: bool = True) -> Callable[..., Any]:
    """A product, conjunction or quotient: a structural zero (or False), in a quotient on the left, makes the result one."""

    def method(self: TracedArray, other: Any) -> TracedArray:
        result = _elementwise(operation, self, other)
        (left, left_tags), (right, right_tags) = _split(self), _split(other)
        dead = (left == 0) & (left_tags == 0)
        if right_too:
            dead = dead | ((np.asarray(right) == 0) & (right_tags == 0))
        return TracedArray(result.array, np.where(dead, NOTHING, result.tags))

    return method


for _name in ("add", "sub", "pow"):
    setattr(TracedArray, f"__{_name}__", _operator(getattr(operator, _name), swapped=False))
    setattr(TracedArray, f"__r{_name}__", _operator(getattr(operator, _name), swapped=True))
TracedArray.__rtruediv__ = _operator(operator.truediv, swapped=True)  # type: ignore[attr-defined]
TracedArray.__mul__ = TracedArray.__rmul__ = _absorbing(operator.mul)  # type: ignore[attr-defined]
TracedArray.__and__ = _absorbing(operator.and_)  # type: ignore[attr-defined]
TracedArray.__truediv__ = _absorbing(operator.truediv, right_too=False)  # type: ignore[attr-defined]
for _name in ("or_", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(TracedArray, f"__{_name.rstrip('_')}__", _operator(getattr(operator, _name), swapped=False))
