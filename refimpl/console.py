"""What all commands share: the consoles, options, and the way to the optional package `validation`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refimpl.errors import ConfigError
from refimpl.model import load

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.progress import ProgressColumn

    from refimpl.model import Model

__all__ = [
    "JsonOption",
    "LowMemoryOption",
    "ParallelOption",
    "ReportOption",
    "TransportOption",
    "bar",
    "cores",
    "err",
    "opened",
    "out",
    "print_json",
    "separated",
    "validation_module",
]

WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120  # a pipe has no width of its own
out, err = Console(width=WIDTH), Console(stderr=True)

ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report", help="Write index.html, report.json and junit.xml into this folder: new, or of an earlier report."
    ),
]
ParallelOption = Annotated[
    bool,
    typer.Option(
        "--parallel", help="On all the ranks that mpiexec started, the model cut among them: see docs/parallel.md."
    ),
]
TransportOption = Annotated[
    str, typer.Option("--transport", help="How ranks on GPUs exchange arrays: host, cuda-aware or nccl.")
]
LowMemoryOption = Annotated[
    bool, typer.Option("--low-memory", help="Keep the float16 weights of a file, and widen them where they are used.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def bar(*columns: ProgressColumn, remaining: bool = False) -> Progress:
    """A progress bar on standard error, where that is a terminal; what is printed meanwhile goes where standard output goes.

    Rich would otherwise take what is printed onto the bar's console, past a pipe or a file that standard output is.
    """
    shown = columns or (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown += (TimeRemainingColumn(),) if remaining else ()
    together = sys.stdout.isatty()
    return Progress(*shown, console=err, transient=True, disable=not err.is_terminal, redirect_stdout=together)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def separated(content: str) -> list[str]:
    """The texts of a file, which blank lines separate."""
    return [part.strip("\n") for part in content.split("\n\n") if part.strip()]


def print_json(value: Any) -> None:
    """Print the command's answer as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))  # noqa: T201 - the command's answer


def validation_module(name: str) -> Any:
    """The module `validation.<name>`; raises ConfigError that says what to install where its packages are missing."""
    try:
        return importlib.import_module(f"validation.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("flint", "mpmath", "array_api_strict"):
            raise ConfigError(
                "validation needs packages that are not installed",
                expected="python-flint, mpmath, array-api-strict",
                got=f"no module named {error.name}",
                remedy='pip install python-flint mpmath array-api-strict   (the extra "validation")',
            ) from None
        raise


def opened(
    model: str,
    backend: str,
    dtype: str,
    arithmetic: Any = None,
    parallel: bool = False,
    transport: str = "host",
    low_memory: bool = False,
    positions: int | None = None,
) -> AbstractContextManager[Model]:
    """The model, on this process alone or as rank 0 of the job that mpiexec started; the other ranks compute along and end."""
    if parallel:
        from refimpl import parallel_job

        if positions is not None:
            raise ConfigError("a model that is cut keeps its position table", where="--positions", got=positions)
        return parallel_job.opened(
            model, backend=backend, dtype=dtype, arithmetic=arithmetic, transport=transport, low_memory=low_memory
        )
    if transport != "host":
        raise ConfigError("there is nobody to exchange with", where="--transport", expected="--parallel beside it")
    options: dict[str, Any] = {"arithmetic": arithmetic, "low_memory": low_memory, "positions": positions}
    return nullcontext(load(model, backend=backend, dtype=dtype, **options))
