"""How far legal evaluations of a component were measured to differ, for every report: the record that `python -m validation.spread` writes.

A tolerance is only worth its derivation if right implementations stay inside, and only sharp if they use some of it. `validation.spread` says which
evaluations are legal, and measures them; that takes seconds to a minute, so reports show what was recorded.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RECORD", "Legal", "Spread", "recorded"]

RECORD = Path(__file__).parent / "legal_spread.json"  # component -> dtype -> [[name, multiple, where], ..]


@dataclass(frozen=True)
class Legal:
    """One legal evaluation on all golden vectors: its largest error as a multiple of the tolerance, and where that is."""

    name: str
    multiple: float
    where: str
    ulps: dict[str, int] | None

    def __str__(self) -> str:
        return f"{self.name:<52} {self.multiple:8.3f}   {self.where}"


@dataclass(frozen=True)
class Spread:
    """How far the legal evaluations of a component are off, in one dtype."""

    component: str
    dtype: str
    rows: tuple[Legal, ...]

    @property
    def widest(self) -> Legal:
        """The evaluation that comes nearest to the tolerance, or goes beyond it."""
        return max(self.rows, key=lambda row: row.multiple)

    @property
    def contained(self) -> bool:
        """Whether the tolerance contains every evaluation."""
        return all(row.multiple <= 1 for row in self.rows)

    def __str__(self) -> str:
        head = f"{self.component}, {self.dtype}: {len(self.rows)} legal evaluations, the widest at {self.widest.multiple:.3f}"
        columns = f"{'evaluation':<52} {'error/tol':>9}   where"
        return "\n".join([f"{head} of its tolerance", columns, *map(str, self.rows)])

    def as_json(self) -> dict[str, Any]:
        """The spread as plain data."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        described = {"component": self.component, "dtype": self.dtype, "contained": self.contained}
        return described | {"widest": self.widest.multiple, "rows": rows}


@functools.cache
def _record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text("utf-8"))
    return found


def recorded(component: str, dtype: str) -> Spread | None:
    """What was measured of a component in a dtype, to two digits; None where nothing was."""
    rows = _record().get(component, {}).get(dtype)
    return Spread(component, dtype, tuple(Legal(*row, None) for row in rows)) if rows else None
