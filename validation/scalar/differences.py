"""Backward passes from the forward programs alone: central differences of the scalar programs, with digits to spare.

    L(x) = Σ_j ȳ_j f_j(x)        ∂L/∂x_i = (L(x + h e_i) - L(x - h e_i))/2h - h²/6 L'''(ξ),  |ξ - x_i| <= h

No rule of differentiation is used, so that none can be wrong. With h = 10^-50 and 140 digits the first part is good to 10^-85 of the largest ȳ f,
and the second to 10^-100 of a third derivative; what answers are compared to is 10^-50 (`ROUNDING`): third derivatives up to 10^49 are nothing. No
function here has a kink within h of a tiny case's inputs, but where equal numbers compete (sparse softmax); those inputs are not differentiated.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf

from validation.scalar.numbers import nested

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["backward"]

MORE = 140  # digits of the difference quotients
STEP = "1e-50"


def _numbers(values: Any) -> list[Any]:
    """The numbers of nested lists, in order."""
    return [each for part in values for each in _numbers(part)] if isinstance(values, list) else [values]


def _like(values: Any, numbers: Any) -> Any:
    """The next of the numbers in nested lists of the form of `values`."""
    return [_like(part, numbers) for part in values] if isinstance(values, list) else next(numbers)


def _pulled_back(
    program: Callable[..., Any], given: list[Any], params: dict[str, Any], place: int, cotangent: list[Any]
) -> Any:
    """Σ_j ȳ_j ∂f_j of every number of one argument."""
    numbers, step = _numbers(given[place]), mpf(STEP)

    def weighted(i: int, moved: Any) -> Any:
        shifted = [*numbers[:i], numbers[i] + moved, *numbers[i + 1 :]]
        arguments = [*given[:place], _like(given[place], iter(shifted)), *given[place + 1 :]]
        return mp.fdot(zip(cotangent, _numbers(program(*arguments, **params)), strict=True))

    quotients = [(weighted(i, step) - weighted(i, -step)) / (2 * step) for i in range(len(numbers))]
    return _like(given[place], iter(quotients))


def backward(program: Callable[..., Any], names: Sequence[str], arguments: Sequence[str]) -> Callable[..., Any]:
    """The backward pass of a scalar program as a function of its arrays and a cotangent: of one argument alone nested lists, of several a flat one.

    Parameters
    ----------
    program : a scalar program
    names : of its arrays, in order
    arguments : those of which cotangents are asked
    """

    def run(*arrays: Any, **params: Any) -> Any:
        *given, cotangent = arrays
        with mp.workdps(MORE):
            lists, bars = [nested(each) for each in given], _numbers(nested(cotangent))
            found = [_pulled_back(program, lists, params, list(names).index(name), bars) for name in arguments]
        return found[0] if len(found) == 1 else list(itertools.chain.from_iterable(map(_numbers, found)))

    return run
