"""Realistic bugs of every component: what a set of vectors must catch, and what may explain a wrong answer.

    for mutant in mutants("attention"):
        print(mutant.name, "-", FLAGS[mutant.flag].effect)
        assert not validation.check(mutant.function, "attention", dtype=mutant.dtypes[0]).passed

`MUTANTS` is the catalogue, `FLAGS` its classes of bugs, `TWINS` the right implementation beside which the mutants of a component stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.mutants import (
    attentions,
    backward_attentions,
    backward_blocks,
    backward_features,
    backward_maps,
    backwards,
    beams,
    blocks,
    copyings,
    dgcnns,
    encoders,
    extractions,
    favors,
    gpt2s,
    mitchells,
    pointwise,
    pooling,
    random_features,
    softmaxes,
    sparse,
    taylors,
)
from validation.mutants.catalogue import FLAGS, Flag, Mutant

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FLAGS", "MUTANTS", "TWINS", "Flag", "Mutant", "mutants"]

_FAMILIES: tuple[Any, ...] = (
    softmaxes,
    sparse,
    pointwise,
    pooling,
    attentions,
    taylors,
    mitchells,
    copyings,
    beams,
    extractions,
    random_features,
    favors,
    blocks,
    dgcnns,
    gpt2s,
    encoders,
    backwards,
    backward_attentions,
    backward_blocks,
    backward_features,
    backward_maps,
)

MUTANTS: tuple[Mutant, ...] = tuple(mutant for each in _FAMILIES for mutant in each.MUTANTS)
TWINS: dict[str, Callable[..., Any]] = {name: twin for each in _FAMILIES for name, twin in each.TWINS.items()}


def mutants(component: str | None = None) -> tuple[Mutant, ...]:
    """The mutants of one component, or all."""
    return tuple(mutant for mutant in MUTANTS if component in (None, mutant.component))
