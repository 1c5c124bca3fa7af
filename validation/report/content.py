"""What a report says, as plain data: the content of `report.json`, from which the page and `junit.xml` are made.

It is what `--json` prints, and more: of every case the error, the worst element in hexadecimal, its inputs and its histogram, and besides the
cases the diagnosis, the legal spread, and the growth of errors through networks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import refimpl
from validation import legal
from validation.conformance import Report
from validation.environment import environment
from validation.tolerance import ULP_BINS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from validation.conformance import Row
    from validation.report.growth import Growth
    from validation.run import Line, Validation

__all__ = ["FORMAT", "of"]

FORMAT = 1  # of report.json; what is added to it later does not change the number, what is changed or taken away does


def of(report: Report | Validation, growth: Iterable[Growth] = (), spread: Any = None) -> dict[str, Any]:
    """A report as plain data that JSON can say, as `schema.json` describes it."""
    told = _conformance(report, spread) if isinstance(report, Report) else _validation(report, growth)
    head = {"format": FORMAT, "refimpl": refimpl.__version__}
    return plain(head | told)


def plain(value: Any) -> Any:
    """Dictionaries, lists, text, truth values and numbers; numbers that JSON has no word for as "inf", "-inf", "nan"."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "__float__"):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)


# ------------------------------------------------------------------------------------------------------------- one component


def _conformance(report: Report, spread: Any) -> dict[str, Any]:
    plainly = report.as_json()
    told = [case | _more(row) for case, row in zip(plainly["cases"], report.rows, strict=True)]
    return {
        "kind": "conformance",
        **plainly,
        "failed": sum(not row.verdict.passed for row in report.rows),
        "worst": report.rows.index(report.worst) if report.rows else None,
        "cases": told,
        "suspects": _suspects(report),
        "diagnosis": plainly.get("diagnosis"),
        "spread": _spread(spread or legal.recorded(report.component, report.dtype)),
        "environment": environment(),
    }


def _more(row: Row) -> dict[str, Any]:
    """What `Report.as_json` leaves out of a case."""
    verdict = row.verdict
    return {
        "hard": row.hard,
        "error": verdict.error,
        "expected_hex": _hexadecimal(verdict.expected),
        "got_hex": _hexadecimal(verdict.got),
        "inputs": row.inputs.removeprefix(", where "),
        "ulps": list(verdict.ulps),
    }


def _hexadecimal(value: Any) -> str | None:
    """A finite number's significand and exponent; None for anything else."""
    return value.hex() if isinstance(value, float) and math.isfinite(value) else None


def _suspects(report: Report) -> list[str]:
    """The classes of bugs that some failing case is known to catch, and no passing one, which would have failed too; none if all fail."""
    if not any(row.verdict.passed for row in report.rows):
        return []
    passing = {flag for row in report.rows if row.verdict.passed for flag in row.flags}
    failing = [flag for row in report.rows if not row.verdict.passed for flag in row.flags]
    return [flag for flag in dict.fromkeys(failing) if flag not in passing]


def _spread(spread: Any) -> dict[str, Any] | None:
    """How far legal evaluations of the component differ, where that was measured."""
    if spread is None:
        return None
    told = [{"name": row.name, "multiple": row.multiple, "where": row.where, "ulps": row.ulps} for row in spread.rows]
    return {"rows": told, "widest": max((row.multiple for row in spread.rows), default=None)}


# ------------------------------------------------------------------------------------------------------- the engine as a whole


def _validation(result: Validation, growth: Iterable[Growth]) -> dict[str, Any]:
    told = result.as_json()
    checks = [each | {"peer": line.check.peer} for each, line in zip(told["checks"], result.lines, strict=True)]
    failing = [number for number, line in enumerate(result.lines) if not line.passed]
    return {
        "kind": "validation",
        **told,
        "failed": len(failing),
        "not_run": sum(line.finding.verdict == "not run" for line in result.lines),
        "worst": max(failing, key=lambda number: _weight(result.lines[number].finding.multiple), default=None),
        "nearest": max(
            (number for number, line in enumerate(result.lines) if line.passed and _is_error(line)),
            key=lambda number: _weight(result.lines[number].finding.multiple),
            default=None,
        ),
        "ulps": _ulps(result),
        "checks": checks,
        "growth": [dataclasses.asdict(each) for each in growth],
    }


def _ulps(result: Validation) -> dict[str, int]:
    """The histograms of all checks that have one, added up."""
    counts = [line.finding.ulps for line in result.lines if line.finding.ulps]
    return dict(zip(ULP_BINS, map(sum, zip(*counts, strict=True)), strict=True)) if counts else {}


def _is_error(line: Line) -> bool:
    """Whether the line's multiple is an error as a part of what is allowed; that of a claim says how tight its bound is."""
    return line.check.section != "claims" and line.finding.multiple is not None


def _weight(multiple: float | None) -> float:
    """The order of failures: by their multiple; what is not a number counts as infinite, what has none comes last."""
    if multiple is None:
        return -1.0
    return math.inf if math.isnan(multiple) else multiple
