"""What all commands print with: the consoles, and the options they share."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["JsonOption", "err", "out", "print_json"]

WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120  # a pipe has no width of its own
out, err = Console(width=WIDTH), Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """Print the command's answer as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))  # noqa: T201 - the command's answer
