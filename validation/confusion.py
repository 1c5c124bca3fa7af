"""`python -m validation.confusion`: what the diagnosis says of every mutant, when its answers are judged like anybody's.

A mutant is *named alone* if it, or nothing of another class, is the one complete explanation; *tied* if others fit its answers as well;
*suspected* if what fits may do so by accident; *missed* if its class is not named at all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from refimpl.console import out
from validation import components, conformance, mutants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.diagnosis import Diagnosis

__all__ = ["WORDS", "Named", "confusion", "word"]

WORDS = ("named alone", "tied, same class", "tied, other classes", "suspected", "missed")


@dataclass(frozen=True)
class Named:
    """What the diagnosis says of one mutant."""

    mutant: mutants.Mutant
    word: str  # one of WORDS
    diagnosis: Diagnosis


def word(mutant: mutants.Mutant, found: Diagnosis) -> str:
    """How well a diagnosis names a mutant."""
    complete = found.complete
    flags = {each.flag for each in complete}
    if mutant.flag in flags:
        sure = any(each.sure for each in complete if each.flag == mutant.flag)
        tied = WORDS[0] if len(complete) == 1 else WORDS[1] if len(flags) == 1 else WORDS[2]
        return tied if sure else WORDS[3]
    return WORDS[3] if mutant.name in found.remark else WORDS[4]


def confusion(component: str, dtype: str | None = None) -> Iterator[Named]:
    """The diagnosis of every mutant of a component that shows in a dtype; without one, in float32, or in what it shows in if not there."""
    for mutant in mutants.mutants(component):
        chosen = dtype or ("float32" if "float32" in mutant.dtypes else mutant.dtypes[0])
        if chosen in mutant.dtypes:
            found = conformance.check(mutant.function, component, dtype=chosen).diagnosis
            if found is not None:
                yield Named(mutant, word(mutant, found), found)


def main(
    ops: Annotated[list[str] | None, typer.Argument(help="Components; all without any.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="The mutants of one dtype; without it, each in float32 or in what it shows in.")
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Show every mutant that is not named alone.")] = False,
) -> None:
    """Count how the diagnosis names the mutants."""
    table, total = Table("component", "mutants", *WORDS, box=None, pad_edge=False, header_style="bold"), Counter[str]()
    for op in ops or components.COMPONENTS:
        named = list(confusion(op, dtype))
        counts = Counter(each.word for each in named)
        total += counts
        table.add_row(op, str(len(named)), *(str(counts[each]) for each in WORDS))
        for each in named if verbose else ():
            if each.word != WORDS[0]:
                told = ", ".join(other.name for other in each.diagnosis.explanations) or each.diagnosis.remark
                out.print(
                    f"{op}: {each.mutant.name} [{each.word}]: {told}", markup=False, highlight=False, soft_wrap=True
                )
    table.add_row("all", str(total.total()), *(str(total[each]) for each in WORDS))
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
