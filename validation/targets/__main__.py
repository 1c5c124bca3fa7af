"""`python -m validation.targets TARGET`: try an installed implementation on the golden vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from refimpl.console import JsonOption, err, out, print_json
from refimpl.errors import RefimplError
from validation import targets

if TYPE_CHECKING:
    from validation.conformance import Report

FEW = 5
app = typer.Typer(add_completion=False, help="Real implementations, tried on the golden vectors.")


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="A target; without one, they are listed.")] = None,
    component: Annotated[str | None, typer.Option(help="Only this component.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16, float32 or float64.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="One line for each trial and dtype.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try everything of a target that is checked. Exits with 1 if anything departs, 2 if the target cannot be tried."""
    if name is None:
        for each in targets.TARGETS.values():
            out.print(f"{each.name:<20}{each.install}", highlight=False, soft_wrap=True)
        return
    try:
        outcomes = targets.run(name, component=component, dtype=dtype)
    except RefimplError as error:
        err.print(escape(str(error)), highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    versions = targets.target(name).versions()
    found = []
    for outcome in outcomes:
        found.append(outcome)
        if not as_json:
            out.print(escape(_line(outcome) if brief else f"{outcome}\n"), highlight=False, soft_wrap=True)
    departing = [f"{each.trial.name} in {each.report.dtype}" for each in found if each.word == "departs"]
    if as_json:
        print_json({"target": name, "versions": versions, "outcomes": [each.as_json() for each in found]})
    else:
        told = ", ".join(f"{package} {version}" for package, version in versions.items())
        rest = f"; outside: {'; '.join(departing)}" if departing else ""
        out.print(escape(f"{told}: {len(found)} checks{rest}"), highlight=False, soft_wrap=True)
    raise typer.Exit(1 if departing else 0)


def _line(outcome: targets.Outcome) -> str:
    """What was called, the component, the dtype, the outcome, the largest multiple of the tolerance."""
    report, trial = outcome.report, outcome.trial
    subject = f"{trial.component} ({trial.dialect})" if trial.dialect else trial.component
    line = f"{trial.name:<52} {subject:<32} {report.dtype:<9} {outcome.word:<15}"
    if not report.rows:
        return line
    good, worst = sum(row.verdict.passed for row in report.rows), report.worst
    left = f", {len(outcome.left_out)} left out" if outcome.left_out else ""
    return f"{line} {good} of {report.announced}{left}, {worst.verdict.multiple:.3g}{_failing(report)}"


def _failing(report: Report) -> str:
    """The hard places at which it failed, if they are few."""
    failing = dict.fromkeys(row.case for row in report.rows if not row.verdict.passed)
    told = f": {', '.join(failing)}" if 0 < len(failing) < FEW else ""
    words = dict.fromkeys(row.verdict.word for row in report.rows if not row.verdict.passed)
    return f"  {', '.join(words)}{told}".rstrip()


if __name__ == "__main__":
    app()
