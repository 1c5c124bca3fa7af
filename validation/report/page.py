"""`index.html`: the content of a report through `page.html.jinja`, with the plots that the content has numbers for.

Every text is escaped by jinja2 and made visible by `text.visible`; only the plots, which were made here, are let through as they are. Numbers that
can be compared stand in `<data value="...">` with all their digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from validation.report import plots
from validation.report.text import figure, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Figure", "render"]

PREFIXES = {
    "truth": "TRUTH.",
    "parity": "PARITY.",
    "number systems": "SYSTEMS.",
    "gradients": "VJP.",
}  # of identifiers, where the title says it
SECTIONS = (
    "truth",
    "parity",
    "number systems",
    "gradients",
)  # those whose multiple is an error as a part of what is allowed


@dataclass(frozen=True)
class Figure:
    """A plot in the page: its title, the caption that says how to read it, and the SVG."""

    title: str
    caption: str
    svg: Markup


def _finalize(value: Any) -> Any:
    """What jinja2 does with every value before it escapes it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(told: dict[str, Any]) -> bytes:
    """The page of a report's content (`content.of`)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    conformance = told["kind"] == "conformance"
    figures = _of_component(told) if conformance else _of_engine(told)
    rows = told["cases" if conformance else "checks"]
    order = sorted(range(len(rows)), key=lambda number: (rows[number]["passed"], _falling(rows[number])))
    given = {"told": told, "figures": figures, "order": order, "tables": _growth_tables(told)}
    return environment.get_template("page.html.jinja").render(given).encode("utf-8")


def _falling(row: dict[str, Any]) -> float:
    """Failing rows come in the order of their error; passing ones as they are."""
    return 0.0 if row["passed"] else -_number(row["multiple"])


def _number(value: Any) -> float:
    """A number of the content; what is not a number counts as infinite, what is absent as nothing."""
    if value is None:
        return -math.inf
    number = float(value)
    return math.inf if math.isnan(number) else number


def _figure(title: str, caption: str, make: Callable[..., str], *arguments: Any) -> Figure:
    """A figure whose identifiers in the page begin with the title's letters."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in title.lower())
    return Figure(title, caption, Markup(make(name, title, *arguments)))  # its texts were escaped when it was written


# ------------------------------------------------------------------------------------------------------------- one component


def _of_component(told: dict[str, Any]) -> list[Figure]:
    found = []
    if told["cases"]:
        caption = (
            "Each mark is a case; on the line, the error is all that the derivation allows. Crosses in the shaded half fail. "
            "∞: an answer that is not finite, of the wrong shape or dtype, or missing."
        )
        found.append(_figure("Error against budget", caption, plots.strip, [_case(row) for row in told["cases"]]))
    if any(told["ulps"].values()):
        caption = "All elements of all cases by their distance from the truth, in units in the last place of the dtype."
        found.append(_figure("Units in the last place", caption, plots.bars, told["ulps"]))
    if told["spread"] and told["spread"]["rows"]:
        caption = (
            "How far correct evaluations of this component differ from the truth: other orders of summation, fused operations, wider "
            "accumulators. All of them have to be within the tolerance."
        )
        marks = [_legal(row) for row in told["spread"]["rows"]]
        found.append(_figure("Legal spread", caption, plots.rows, marks, "error ÷ tolerance"))
    return found


def _case(row: dict[str, Any]) -> plots.Mark:
    label = row["id"] or row["case"]
    title = f"{label} ({row['case']}): {row['verdict']}, {figure(row['multiple'])} × tolerance"
    return plots.Mark(label, _number(row["multiple"]), row["passed"], title)


def _legal(row: dict[str, Any]) -> plots.Mark:
    value = _number(row["multiple"])
    return plots.Mark(row["name"], value, value <= 1, f"{row['name']}: {figure(row['multiple'])} × tolerance")


# ------------------------------------------------------------------------------------------------------- the engine as a whole


def _of_engine(told: dict[str, Any]) -> list[Figure]:
    found = []
    for section in SECTIONS:
        marks = _marks(told["checks"], section)
        if marks:
            caption = "The worst error of each check as a part of what is allowed; beyond 1 it fails."
            found.append(
                _figure(f"Error against budget: {section}", caption, plots.rows, marks, "worst error ÷ allowed")
            )
    if any(told["ulps"].values()):
        caption = (
            "All elements that the components answered in all number systems and dtypes, by their distance from the truth, in units in the "
            "last place of their dtype."
        )
        found.append(_figure("Units in the last place", caption, plots.bars, told["ulps"]))
    claims = _marks(told["checks"], "claims")
    if claims:
        caption = (
            "How near the worst case found comes to the bound that a claim states: at 1 the bound is attained, and no smaller one holds; "
            "beyond 1 the claim is false."
        )
        found.append(_figure("Claims: how tight their bounds are", caption, plots.rows, claims, "worst case ÷ bound"))
    for growth in told["growth"]:
        caption = (
            f"{growth['description']}, {growth['tokens']} tokens, {growth['dtype']}: distance of every layer's state from the ball that "
            "encloses the exact one, against the budget sampled in perturbed arithmetic, each at its largest."
        )
        found.append(_figure(f"Error growth: {growth['network']}", caption, plots.growth, growth["layers"]))
    return found


def _marks(checks: Sequence[dict[str, Any]], section: str) -> list[plots.Mark]:
    """The checks of a section that have a multiple."""
    chosen = [check for check in checks if check["section"] == section and check["multiple"] is not None]
    return [
        plots.Mark(
            check["id"].removeprefix(PREFIXES.get(section, "")),
            _number(check["multiple"]),
            check["passed"],
            f"{check['id']}: {figure(check['multiple'])}",
        )
        for check in chosen
    ]


def _growth_tables(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The networks, with the columns of their tables."""
    return list(told.get("growth", ()))
