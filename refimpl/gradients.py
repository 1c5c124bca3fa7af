"""Vector-Jacobian products: what the backward passes of all definitions have in common.

    y = f(x)        x̄ = Jᵀ ȳ,  J_ij = ∂y_i/∂x_j                                                                                     (1)

A *rule* stands below its definition: `softmax_vjp(x)` returns what `softmax(x)` returns, bit for bit, and its *pullback*, the linear map from the
cotangent ȳ of the result to the cotangents x̄ of the arguments. With ȳ = ∂L/∂y of a scalar L, x̄ is ∂L/∂x; the chain rule is calling pullbacks in
reverse. Rules are written by hand from the equation in their docstring, in the operations that definitions use, so that they run on every number
system: NumPy, CuPy, array-api-strict, and balls, where they enclose the exact cotangent.

Where a function has no derivative its rule gives one stated subgradient: ReLU has 0 at 0; of the k largest or a clipped value, what the value itself
was chosen by; of the maximum that FAVOR+ subtracts, equal shares for the entries that attain it.

Reference: A. Griewank and A. Walther, "Evaluating derivatives", 2nd ed., SIAM 2008, chapter 3 (the reverse mode; bars are its notation).
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.number_system import (
    SIXTEEN_BITS,
    Array,
    device_of,
    exact,
    is_ball,
    namespace,
    narrowed,
    rounded_once,
    widened,
)
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "RULES",
    "Pullback",
    "Rule",
    "filled",
    "products_summed",
    "rows_summed",
    "rule_of",
    "summed_to",
    "total",
    "vjp",
    "vjp_of",
    "zeros",
]

Pullback = Any  # Callable[..., tuple]: one cotangent for each result -> one for each differentiable argument
Function = TypeVar("Function", bound="Callable[..., Any]")


class Rule(NamedTuple):
    """How a definition is differentiated."""

    definition: Callable[..., Any]
    function: Callable[..., tuple[Any, Pullback]]  # the arguments of the definition -> its result, pullback
    arguments: tuple[str, ...]  # of the definition: those that get a cotangent, in the pullback's order


_ENTRIES = 2**22  # of a one-hot matrix that is held at a time: 32 MB in float64
RULES: dict[str, Rule] = {}  # by the definition's module and name, "softmax.softmax"


def _called(definition: Callable[..., Any]) -> str:
    return f"{definition.__module__.removeprefix('refimpl.')}.{definition.__qualname__}"


def vjp_of(definition: Callable[..., Any], *arguments: str, own_range: bool = False) -> Callable[[Function], Function]:
    """Say that a function is the rule of `definition`, and which of its arguments get cotangents.

    16-bit floats are computed in float32, and value and cotangents rounded once each, as `rounded_once` does to the definition: a cotangent to
    the dtype of its argument, which may be float32 beside a 16-bit first one. Where the definition asks for the range of the dtype (`own_range`),
    the rule is given 16-bit floats and rounds by itself. A cotangent that does not fit the result is refused.
    """

    def declared(function: Function) -> Function:
        signature = inspect.signature(function)
        leading = next(iter(signature.parameters))

        @functools.wraps(function)
        def rule(*args: Any, **options: Any) -> tuple[Any, Pullback]:
            dtype = getattr(args[0] if args else options.get(leading), "dtype", None)
            narrow, given = str(dtype) in SIXTEEN_BITS and not own_range, None
            if narrow:
                bound = signature.bind(*args, **options).arguments
                given = tuple(bound.get(name) for name in arguments)
                args, options = tuple(map(widened, args)), {name: widened(value) for name, value in options.items()}
            value, pullback = function(*args, **options)
            value = mapped(lambda part: narrowed(part, dtype), value) if narrow else value
            return value, _checked(pullback, value, _called(definition), given)

        RULES[_called(definition)] = Rule(definition, rule, arguments)
        return rule  # type: ignore[return-value]

    return declared


def _checked(pullback: Pullback, value: Any, where: str, given: tuple[Any, ...] | None) -> Pullback:
    """`pullback` that refuses cotangents which do not fit `value`, and computes 16-bit ones in float32, those of `given` (None: as they are)."""
    results = value if type(value) is tuple else (value,)

    def checked(*cotangents: Any) -> tuple[Any, ...]:
        if not 1 <= len(cotangents) <= len(results) or all(bar is None for bar in cotangents):
            expected = f"1 to {len(results)} of them, one for each result; None where a result has none"
            raise ConfigError("no cotangents for these results", where=where, expected=expected, got=len(cotangents))
        for result, bar in zip(results, cotangents, strict=False):
            _check_cotangents(result, bar, where)
        if given is None:
            return tuple(pullback(*cotangents))
        wide = pullback(*(mapped(widened, bar) for bar in cotangents))
        return tuple(None if bar is None else mapped(_as_given, bar, own) for bar, own in zip(wide, given, strict=True))

    return checked


def _as_given(bar: Array, argument: Any) -> Array:
    """A cotangent rounded to the dtype of its argument, if that has 16 bits."""
    return narrowed(bar, argument.dtype) if str(argument.dtype) in SIXTEEN_BITS else bar


def _check_cotangents(result: Any, cotangent: Any, where: str) -> None:
    """Raise unless a tree of cotangents fits a tree of results; None stands for a part that has none."""
    if cotangent is None:
        return
    if hasattr(result, "shape"):
        _check_cotangent(result, cotangent, where)
    elif not _has_form(cotangent, result):
        expected = f"{len(result)} cotangents, or None, in the form of the {type(result).__name__}"
        raise ShapeError("the cotangents do not fit a result of several parts", where=where, expected=expected)
    else:
        for part, bar in zip(result, cotangent, strict=True):
            _check_cotangents(part, bar, where)


def _has_form(cotangent: Any, result: Any) -> bool:
    """Whether the parts of a cotangent can stand for those of a result: by name, where the result's have names."""
    named = hasattr(result, "_fields") and type(cotangent) is not type(result)
    return isinstance(cotangent, list | tuple) and len(cotangent) == len(result) and not named


def _check_cotangent(result: Array, cotangent: Any, where: str) -> None:
    if not hasattr(cotangent, "dtype") or cotangent.dtype != result.dtype:
        expected, got = result.dtype, getattr(cotangent, "dtype", type(cotangent).__name__)
        raise DtypeError("a cotangent has the dtype of its result", where=where, expected=expected, got=got)
    if tuple(cotangent.shape) != tuple(result.shape):
        expected, got = tuple(result.shape), tuple(cotangent.shape)
        remedy = "the pullback maps the cotangent of the whole result: broadcast it first"
        raise ShapeError(
            "a cotangent has the shape of its result", where=where, expected=expected, got=got, remedy=remedy
        )


def rule_of(definition: Callable[..., Any]) -> Rule:
    """The rule of a definition; raises ConfigError where there is none, be it of another function by the same name."""
    named = hasattr(definition, "__qualname__") and hasattr(definition, "__module__")
    rule = RULES.get(_called(definition)) if named else None
    if rule is None or rule.definition is not definition:
        got = _called(definition) if named else repr(definition)
        got = got if rule is None else f"another function by the name of {got}"
        raise ConfigError("no rule says how this is differentiated", got=got, expected=", ".join(sorted(RULES)))
    return rule


def vjp(definition: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, Pullback]:
    """(f(x), ȳ -> Jᵀ ȳ) of a definition f, by its rule.

    Parameters
    ----------
    definition : a function of this package that has a rule (`RULES`)
    args, options : its arguments

    Returns
    -------
    value : what the definition returns, bit for bit
    pullback : takes one cotangent for each result (shape and dtype of the result; None, or left out at the end, for a result that has none) and
        returns a tuple with one cotangent for each argument that the rule names, in the argument's form; None for an argument that was None

    Raises
    ------
    ConfigError, DtypeError, ShapeError
        if there is no rule, and from the pullback, if cotangents do not fit the results; besides what the definition raises.
    """
    return rule_of(definition).function(*args, **options)


@rounded_once
def summed_to(x: Array, shape: tuple[int, ...]) -> Array:  # (..., n) -> shape
    """Σ over the axes along which an array of `shape` was broadcast to that of `x`: the pullback of broadcasting."""
    xp, extra = namespace(x), x.ndim - len(shape)
    if tuple(x.shape) == tuple(shape):
        return x
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1))
    return xp.reshape(xp.sum(x, axis=axes, keepdims=True), tuple(shape))


def zeros(tree: Any) -> Any:
    """The cotangent of what has no influence: 0 in the place of every number of a tree of arrays."""

    def zero(x: Array) -> Array:  # (...) -> (...)
        if is_ball(x) and x.size:
            return namespace(x).full(x.shape, exact(0, x), dtype=x.dtype)
        return namespace(x).zeros_like(x)

    return mapped(zero, tree)


def filled(cotangents: Any, tree: Any) -> Any:
    """The cotangents of a tree with 0 in the place of each None."""
    if cotangents is None:
        return zeros(tree)
    if not isinstance(cotangents, tuple | list):
        return cotangents
    parts = [filled(bar, part) for bar, part in zip(cotangents, tree, strict=True)]
    return type(cotangents)(*parts) if hasattr(cotangents, "_fields") else type(cotangents)(parts)


def total(*cotangents: Array | None) -> Array | None:
    """Σ of the cotangents of an array that is used several times; None stands for a use that has none."""
    return functools.reduce(lambda sum_, bar: sum_ if bar is None else bar if sum_ is None else sum_ + bar, cotangents)


@rounded_once
def rows_summed(cotangent: Array, ids: Array, count: int) -> Array:  # (..., d), int (...) -> (count, d)
    """T̄_r = Σ_{ids = r} ȳ: the pullback of taking rows `ids` of a table of `count` rows, as a product with the one-hot matrix of the ids.

    The matrix is made for as many rows of the table at a time as have `_ENTRIES` numbers, or for one. A cotangent that is not finite makes its
    column NaN in all rows, since it is multiplied by 0.
    """
    xp, d = namespace(cotangent, ids), cotangent.shape[-1]
    rows, flat = xp.reshape(cotangent, (-1, d)), xp.astype(xp.reshape(ids, (-1,)), xp.int64)
    step = max(_ENTRIES // max(rows.shape[0], 1), 1)
    parts = [_rows_between(rows, flat, first, min(first + step, count)) for first in range(0, max(count, 1), step)]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def _rows_between(rows: Array, ids: Array, first: int, last: int) -> Array:  # (n, d), int (n,) -> (last - first, d)
    """Rows `first` to `last` of `rows_summed`."""
    xp = namespace(rows, ids)
    chosen = ids[None, :] == xp.arange(first, last, dtype=ids.dtype, device=device_of(ids))[:, None]
    return xp.matmul(xp.where(chosen, xp.ones_like(rows[:, 0])[None, :], exact(0, rows)), rows)


@rounded_once
def products_summed(x: Array, y: Array) -> Array:  # (..., k), (..., m) -> (k, m)
    """W̄_ij = Σ x_i ȳ_j over the rows: the pullback of x W to W."""
    xp = namespace(x, y)
    rows_x, rows_y = (xp.reshape(part, (-1, part.shape[-1])) for part in (x, y))
    return xp.matmul(xp.matrix_transpose(rows_x), rows_y)
