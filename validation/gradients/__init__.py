"""Every rule of `refimpl.gradients` held to what was not derived by hand: complex steps, mean values in balls, budgets of every dtype.

`checking` says what is compared and what that proves; `rows`, `losses`, `layers`, `features`, `mitchell` and `extractor` have the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from refimpl.gradients import RULES
from validation.gradients import extractor, features, layers, losses, mitchell, rows
from validation.gradients.case import CASES, Case, cases_of
from validation.gradients.checking import NUMPY, Outcome, examine, planned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from validation.number_systems import NumberSystem

__all__ = [
    "CASES",
    "Case",
    "Found",
    "Outcome",
    "cases_of",
    "check",
    "count",
    "examine",
    "extractor",
    "features",
    "layers",
    "losses",
    "mitchell",
    "planned",
    "rows",
]


@dataclass(frozen=True)
class Found:
    """What was found of a rule: comparisons made, the worst error as a multiple of what is allowed, and that in words."""

    cases: int
    multiple: float
    worst: str


def count(name: str, seed: int = 0) -> int:
    """How many comparisons `check` makes if none of them fails."""
    return sum(planned(RULES[name], case) for case in cases_of(name, seed))


def check(name: str, *, seed: int = 0, systems: Iterable[NumberSystem] = NUMPY) -> Found:
    """A rule on all its cases; the first comparison that fails is the last one made."""
    made, worst, rule, systems = 0, Outcome(0.0, ""), RULES[name], tuple(systems)
    for case in cases_of(name, seed):
        outcomes = examine(rule, case, seed=seed, systems=systems)
        for each in outcomes:
            if not each.multiple <= 1:
                return Found(made, each.multiple, f"{case.label}: {each.told}")
            if each.multiple >= worst.multiple:
                worst = Outcome(each.multiple, f"{case.label}: {each.told}")
        made += planned(rule, case)
    return Found(made, worst.multiple, worst.told)
