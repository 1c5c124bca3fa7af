"""One trial of a component."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """One trial: the arrays and parameters of the call, and why it is hard."""

    id: str
    hard: str
    arrays: tuple[Any, ...]
    params: dict[str, Any] = field(default_factory=dict)
