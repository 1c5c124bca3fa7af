"""Running checks and reporting on them: what `refimpl validate` does."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from validation import report
from validation.checks import Check, Finding, all_checks
from validation.claims.registry import Setting
from validation.environment import environment
from validation.report.text import cut

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from refimpl.backend import Backend
    from validation.report.growth import Growth

__all__ = ["Line", "Validation", "validate"]


@dataclass(frozen=True)
class Line:
    """A check and what it found; `passed` is false too where fewer cases ran than were announced, or a figure is not a number."""

    check: Check
    finding: Finding
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the check holds, on no fewer cases than announced, with figures that are numbers."""
        if self.finding.verdict == "not run":
            return self.check.cases is None
        enough = self.finding.cases >= (self.check.cases or 1)
        number = self.finding.multiple is None or not math.isnan(self.finding.multiple)
        return self.finding.holds and enough and number


@dataclass(frozen=True)
class Validation:
    """The lines of one run, and what it was run on."""

    lines: tuple[Line, ...]
    announced: int  # checks
    backend: str
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether at least one check was announced, and every announced one ran and passed."""
        ran = [line for line in self.lines if line.finding.verdict != "not run"]
        return len(self.lines) == self.announced and bool(ran) and all(line.passed for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        lines = []
        for line in self.lines:
            described = {"id": line.check.id, "section": line.check.section, "statement": line.check.statement}
            figures = asdict(line.finding) | {
                "worst": cut(line.finding.worst),
                "announced": line.check.cases,
                "passed": line.passed,
                "seconds": round(line.seconds, 3),
            }
            lines.append(described | {key: _plain(value) for key, value in figures.items()})
        return {
            "passed": self.passed,
            "announced_checks": self.announced,
            "cases": sum(line.finding.cases for line in self.lines),
            "backend": self.backend,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "environment": environment(),
            "checks": lines,
        }

    def write(self, folder: str | os.PathLike[str], *, growth: Iterable[Growth] = ()) -> None:
        """Write index.html, report.json and junit.xml into `folder`, which is made if there is none (`validation.report.write`)."""
        report.write(self, folder, growth=growth)


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for, as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def validate(
    backend: Backend,
    *,
    only: list[str] | None = None,
    seed: int = 0,
    advance: Callable[[Check, int, int], None] | None = None,
) -> Validation:
    """Run the checks (all, or those that begin with a prefix in `only`); `advance(check, index, count)` is called before each.

    A check that raises becomes a failing line, never a missing one.
    """
    setting, began, lines = Setting(backend, seed), time.perf_counter(), []
    checks = all_checks(setting, only)
    for index, check in enumerate(checks):
        if advance:
            advance(check, index, len(checks))
        start = time.perf_counter()
        try:
            finding = check.run(setting)
        except Exception as error:
            finding = Finding(False, "raised", 0, f"{type(error).__name__}: {error}")
        lines.append(Line(check, finding, time.perf_counter() - start))
    return Validation(tuple(lines), len(checks), backend.name, seed, time.perf_counter() - began)
