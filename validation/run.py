"""Running checks and reporting on them: what `refimpl validate` does."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from refimpl.files import replace_file
from validation.checks import Check, Finding, all_checks
from validation.claims.registry import Setting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from refimpl.backend import Backend

__all__ = ["Line", "Validation", "validate"]

PACKAGES = ("numpy", "scipy", "array-api-compat", "array-api-strict", "python-flint", "mpmath", "cupy-cuda12x")


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
            "environment": _environment(),
            "checks": lines,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, to a temporary name first."""
        text = json.dumps(self.as_json(), ensure_ascii=False, indent=1, allow_nan=False)
        replace_file(path, lambda file: file.write(text.encode()))


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for, as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _environment() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()} | versions


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
