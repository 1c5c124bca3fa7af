"""The kill matrix: which golden vectors catch which bug, and what null answers are worth, as a page that anyone can make again.

    python -m validation.mutants                # writes docs/kill_matrix.md
    python -m validation.mutants --check        # says whether it is true here

A mutant is *caught* by a vector where its answer is outside the tolerance in some dtype that both are for. By how many vectors, and by how much,
depends a little on the machine: libraries differ in their last bits, which moves an error by part of a tolerance. So a page made elsewhere is
true here, where its counts are those of errors above one tolerance but for errors between 1/2 and 2, the vectors that are named catch the bug,
and powers of ten are right to one more or less (where errors are neither infinite nor beyond 1e30). All else has to be the same to the byte.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from validation import components, mutants, nulls, tolerance, vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from validation.mutants.catalogue import Mutant

__all__ = ["Measured", "Row", "measured", "published", "rendered", "settled"]

NAMED = 3  # vectors that a row names
BAND = 2.0  # errors between 1/BAND and BAND tolerances may fall on the other side elsewhere
BEYOND = 1e30  # errors above it may overflow elsewhere
WIDTH = 7  # components side by side in the summary


@dataclass(frozen=True)
class Row:
    """One line of the page: a mutant, and what catches it."""

    component: str
    name: str
    flag: str
    killers: int  # vectors that catch it
    vectors: int  # vectors for one of the dtypes
    ids: tuple[str, ...]  # the first that catch it and whose flags name it; those that do so clearly first
    powers: Mapping[
        str, int | None
    ]  # dtype -> p: the clearest wrong answer is off by 10^p tolerances; None: beyond 1e30, or not finite


@dataclass(frozen=True)
class Measured:
    """A row as it comes out here, with what is needed to judge one that was written elsewhere."""

    row: Row
    multiples: Mapping[str, float]  # id -> error over tolerance, in the dtype where that is largest
    flagged: frozenset[str]  # ids of the vectors whose flags name the bug
    largest: Mapping[str, float]  # dtype -> error over tolerance of the clearest wrong answer


def _multiple(vector: vectors.Vector, mutant: Mutant, dtype: str) -> float:
    """Error over tolerance, infinite for another shape or dtype, infinities and NaN."""
    with np.errstate(all="ignore"):
        verdict = vector.judge(mutant.function(*vector.positional(dtype), **vector.params(dtype)), dtype)
    return verdict.multiple if verdict.passed or verdict.multiple > 1 else math.inf


def _power(multiple: float) -> int | None:
    return math.floor(math.log10(multiple)) if 0 < multiple < BEYOND else None


def _measured(mutant: Mutant) -> Measured:
    given = vectors.load(mutant.component)
    found = {d: {v.id: _multiple(v, mutant, d) for v in given.select(d)} for d in mutant.dtypes}
    found = {dtype: found[dtype] for dtype in tolerance.DTYPES if found.get(dtype)}
    tried = [v for v in given.vectors if any(v.id in each for each in found.values())]
    multiples = {v.id: max(each.get(v.id, 0.0) for each in found.values()) for v in tried}
    flagged = [v.id for v in tried if mutant.flag in v.flags]
    clear, caught = ([i for i in flagged if multiples[i] > bound] for bound in (10 * BAND, 1))
    largest = {dtype: max(each.values()) for dtype, each in found.items()}
    row = Row(
        mutant.component,
        mutant.name,
        mutant.flag,
        sum(multiple > 1 for multiple in multiples.values()),
        len(tried),
        tuple(dict.fromkeys([*clear, *caught]))[:NAMED],
        {dtype: _power(multiple) for dtype, multiple in largest.items()},
    )
    return Measured(row, multiples, frozenset(flagged), largest)


@functools.cache
def measured(component: str) -> tuple[Measured, ...]:
    """Every mutant of a component on all of its vectors: seconds."""
    return tuple(_measured(mutant) for mutant in mutants.mutants(component))


def _holds(here: Measured, killers: int) -> bool:
    sure, possible = (sum(m > bound for m in here.multiples.values()) for bound in (BAND, 1 / BAND))
    return max(sure, 1) <= killers <= possible


def _names(here: Measured, ids: tuple[str, ...]) -> bool:
    caught = [here.multiples[i] for i in here.flagged]
    sure, possible = (min(NAMED, sum(m > bound for m in caught)) for bound in (BAND, 1 / BAND))
    each = all(i in here.flagged and here.multiples[i] > 1 for i in ids)
    return each and len({*ids}) == len(ids) and max(sure, 1) <= len(ids) <= possible


def _reaches(largest: float, power: int | None) -> bool:
    if power is None or largest >= BEYOND:
        return largest >= BEYOND / 10 and (power is None or power >= math.log10(BEYOND) - 1)
    return largest > 1 and power - 1 <= math.log10(largest) <= power + 2


def settled(here: Measured, there: Row | None) -> Row:
    """The row as it is here, but with the numbers of the row written `there` where they hold here too."""
    row = here.row
    if there is None or (there.component, there.name) != (row.component, row.name):
        return row

    def reached(dtype: str) -> bool:
        return dtype in there.powers and _reaches(here.largest[dtype], there.powers[dtype])

    return replace(
        row,
        killers=there.killers if _holds(here, there.killers) else row.killers,
        ids=there.ids if _names(here, there.ids) else row.ids,
        powers={d: there.powers[d] if reached(d) else power for d, power in row.powers.items()},
    )


# --- the page -----------------------------------------------------------------------------------------------------------------

HEAD = """# Kill matrix

<!-- Made by `python -m validation.mutants`; the tests run `--check` of it. Do not edit. -->

A set of [golden vectors](vectors.md) is worth what it catches. `validation.mutants` is a catalogue of realistic bugs: each *mutant* is a right
implementation with one step replaced, so that what fails is that step. This page says which vectors catch which mutant.

{totals}

    python -m validation.mutants                # measure again and write this page
    python -m validation.mutants --check        # measure again and compare: exits with 1 and the difference

## What null answers are worth

A program that computes nothing must fail. For each set: in how many cases (a vector in one of its dtypes) a null answer is judged, and the smallest
multiple of the tolerance by which it is off. Cases are left out in which the null answer is the right one (softmax over one element is 1) or leaves
the range of the dtype. An answer of NaN fails every case.

{nulls}

## Classes of bugs

How many mutants of each class there are, by component; all are caught unless it says otherwise.

{summary}

## Mutants

*Caught by*: how many vectors it fails in at least one of its dtypes, of those that are for one of them. *Named by*: the numbers of the first
vectors that it fails and whose flags name its class of bugs (n is the id COMPONENT-n). Then, for each of its dtypes, by how many tolerances
the clearest of its wrong answers is off, at least: a power of ten; `> 1e30` also stands for infinity, NaN and another shape or dtype.
Where a bug has no figure it is not listed for that dtype: the rounding of the inputs hides it, or the set has no answer that tells.
"""
COLUMNS = ("mutant", "class of bugs", "caught by", "named by", *tolerance.DTYPES)
BEYOND_ALL, NOBODY = "> 1e30", "**nobody**"


def _cells(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    given = [*head]
    return "\n".join([_cells(*given), "|---" * len(given) + "|", *(_cells(*row) for row in rows)])


def _available(component: str) -> tuple[str, ...]:
    return tuple(d for d in tolerance.DTYPES if vectors.load(component).select(d))


def _numbers(ids: tuple[str, ...]) -> str:
    return ", ".join(each.rpartition("-")[2] for each in ids) or NOBODY


def _line(row: Row) -> tuple[object, ...]:
    told = {dtype: BEYOND_ALL if power is None else f"1e{power}" for dtype, power in row.powers.items()}
    found = (told.get(dtype, "") for dtype in tolerance.DTYPES)
    return row.name, row.flag, f"{row.killers} of {row.vectors}", _numbers(row.ids), *found


def _section(component: str, rows: tuple[Row, ...]) -> str:
    given = vectors.load(component)
    told = f"{len(rows)} mutants, {len(given.vectors)} vectors, in {', '.join(_available(component))}."
    table = _table(COLUMNS, map(_line, rows))
    return f"### {component}\n\n`{given.signature}`\n\n{told}\n\n{table}\n"


def _margins(component: str) -> Iterator[str]:
    """One line of the table of null answers, from what the manifest holds."""
    given = vectors.load(component)
    cases = [found for vector in given.vectors for found in vector.null_margins.values()]
    yield component
    yield str(len(cases))
    for name in nulls.NULLS[:-1]:
        found = [margins[name] for margins in cases if name in margins]
        yield f"{min(found):.3g} ({len(found)})" if found else "-"


def _summary(rows: Mapping[str, tuple[Row, ...]]) -> str:
    tables, names = [], [*rows]
    for group in (names[i : i + WIDTH] for i in range(0, len(names), WIDTH)):
        lines = []
        for flag in mutants.FLAGS:
            cells = [_count([row for row in rows[name] if row.flag == flag]) for name in group]
            lines += [(flag, *cells)] if any(cells) else []
        tables.append(_table(("class of bugs", *group), lines))
    return "\n\n".join(tables)


def _count(found: list[Row]) -> str:
    caught = sum(bool(row.ids) for row in found)
    return "" if not found else str(caught) if caught == len(found) else f"**{caught} of {len(found)}**"


def _totals(rows: Mapping[str, tuple[Row, ...]]) -> str:
    every = [row for group in rows.values() for row in group]
    judged = sum(len(vectors.load(row.component).select(d)) for row in every for d in row.powers)
    caught, flags = sum(bool(row.ids) for row in every), {row.flag for row in every}
    count = sum(len(vectors.load(name).vectors) for name in rows)
    share = "Every one" if caught == len(every) else f"**Only {caught:,}**"
    return (
        f"{len(rows)} components, {count:,} vectors; {len(every):,} mutants of {len(flags)} classes, {judged:,} answers judged. "
        f"{share} is caught by a vector whose flags name its class."
    )


def rendered(rows: Mapping[str, tuple[Row, ...]]) -> str:
    """The page. It says nothing that is not in the rows, the catalogue or the manifests."""
    margins = _table(("component", "cases", *nulls.NULLS[:-1]), map(_margins, rows))
    head = HEAD.format(totals=_totals(rows), nulls=margins, summary=_summary(rows))
    told = {row.flag for group in rows.values() for row in group}
    classes = [(name, flag.description, flag.effect) for name, flag in mutants.FLAGS.items() if name in told]
    glossary = "## What the classes are\n\n" + _table(("class of bugs", "what was done", "what comes of it"), classes)
    return "\n".join([head, *(_section(name, group) for name, group in rows.items()), glossary, ""])


def _parsed(component: str, line: str) -> Row | None:
    """One line of a section's table; None for anything else."""
    cells = [cell.replace("\\|", "|") for cell in re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |"))]
    if len(cells) != len(COLUMNS):
        return None
    count, powers = re.fullmatch(r"(\d+) of (\d+)", cells[2]), {}
    for dtype, cell in zip(tolerance.DTYPES, cells[4:], strict=True):
        found = re.fullmatch(rf"1e(-?\d+)|{BEYOND_ALL}|", cell)
        if not found:
            return None
        powers |= {dtype: None if found[1] is None else int(found[1])} if cell else {}
    if not count:
        return None
    ids = () if cells[3] == NOBODY else tuple(f"{component}-{number}" for number in cells[3].split(", "))
    return Row(component, cells[0], cells[1], int(count[1]), int(count[2]), ids, powers)


def published(text: str) -> dict[str, tuple[Row, ...]]:
    """The rows of a page by component, as far as it can be read; components that there are not any more are left out."""
    rows: dict[str, list[Row]] = {}
    component = ""
    for line in text.splitlines():
        component = line.removeprefix("### ") if line.startswith("### ") else component
        row = _parsed(component, line) if component in components.COMPONENTS else None
        if row:
            rows.setdefault(component, []).append(row)
    return {name: tuple(found) for name, found in rows.items()}
