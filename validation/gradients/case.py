"""One input on which a rule is checked, and the trees of numbers that go in and come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError
from refimpl.trees import leaves, mapped
from validation import truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from refimpl.gradients import Rule

__all__ = [
    "ALLOWED",
    "CASES",
    "EVERY",
    "Case",
    "cases_of",
    "cotangents",
    "exact_balls",
    "floats_of",
    "is_floating",
    "of",
    "pulled",
]


ALLOWED = 1e-12
EVERY = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Case:
    """One call of a definition that has a rule.

    arguments : of the definition by name; NumPy arrays, floating ones of float64, trees of them (`refimpl.trees`), or anything else
    hard : why it is there, in a few words
    more : arguments that the rule has and the definition has not
    steps_only : why complex steps alone are taken, if they are: the derivative jumps at this input, so that no mean value holds, or there is no ball
    dtypes : those in which the pullback is held to its budget, in every number system
    sampled : whether its budget in them is sampled (a network) or proved
    terms : for a function of one number, the sizes of the terms that are added in its derivative at each entry; 0 where there is one alone, for
        others too, if each entry of the cotangent is a product. Then each entry of it is checked by itself; None: beside the largest of its array
    slopes : for a function of one number, the stated slope at each entry, some of which have no derivative: that alone is then checked
    unseen : for each result, where its cotangent is not looked at (bool arrays), or None
    complex_step, float64 : what the rule's error may be beside complex steps, and in float64 beside the exact cotangent, in units of the largest
        entry; more than 1e-12 only for a `reason`, from which the figure is derived
    """

    label: str
    hard: str
    arguments: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    steps_only: str = ""
    dtypes: tuple[str, ...] = ()
    sampled: bool = False
    terms: Any = None
    slopes: Any = None
    unseen: tuple[Any, ...] = ()
    complex_step: float = ALLOWED
    float64: float = ALLOWED
    reason: str = ""


CASES: dict[str, Callable[[np.random.Generator], Iterator[Case]]] = {}  # by the names of `refimpl.gradients.RULES`


def of(*rules: str) -> Callable[[Any], Any]:
    """The decorated function makes the cases of these rules: small, so that balls and every coordinate are affordable, away from branches."""

    def declared(function: Any) -> Any:
        for rule in rules:
            if rule in CASES:
                raise ConfigError("a rule has its cases twice", where=function.__module__, got=rule)
            CASES[rule] = function
        return function

    return declared


def cases_of(rule: str, seed: int = 0) -> list[Case]:
    """The cases of a rule; raises ConfigError where it has none."""
    if rule not in CASES:
        raise ConfigError("a rule has no cases on which it is checked", got=rule, expected=", ".join(sorted(CASES)))
    return list(CASES[rule](np.random.default_rng(seed)))


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of floats, of any width, or of balls."""
    return isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "biu"


def floats_of(tree: Any) -> list[Any]:
    """The arrays of floats in a tree."""
    return [leaf for leaf in leaves(tree) if is_floating(leaf)]


def exact_balls(tree: Any) -> Any:
    """A tree's floats as exact balls; the rest as it is."""
    return mapped(lambda leaf: truth.balls(leaf) if is_floating(leaf) else leaf, tree)


def pulled(rule: Rule, arguments: dict[str, Any], bars: tuple[Any, ...]) -> dict[str, Any]:
    """The cotangents of the arguments that the rule names, by name."""
    _, pullback = rule.function(**arguments)
    return dict(zip(rule.arguments, pullback(*bars), strict=True))


def cotangents(value: Any, rng: np.random.Generator) -> tuple[Any, ...]:
    """A cotangent for each result: normal numbers of float64 for floats, None for the rest."""
    results = value if type(value) is tuple else (value,)

    def drawn(leaf: Any) -> Any:
        return rng.standard_normal(np.shape(leaf)) if is_floating(leaf) else None

    return tuple(mapped(drawn, result) for result in results)
