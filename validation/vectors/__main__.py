"""`python -m validation.vectors`: freeze new cases, compute answers again, compare them with what was published."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from refimpl.console import err, out
from validation import components
from validation.vectors import answers, files, freeze

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Golden vectors: add cases, compute answers, compare."
)
Names = Annotated[list[str] | None, typer.Argument(help="Components; all without any.")]


@app.command("freeze")
def add(ops: Names = None) -> None:
    """Add a vector for every case of the components that has none; nothing that is there changes."""
    for op in ops or components.COMPONENTS:
        given = freeze.frozen(op)
        files.write(given, files.DATA)
        out.print(f"{op}: {len(given.vectors)} vectors")


@app.command()
def generate(
    ops: Names = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; compare with the files bit for bit.")] = False,
) -> None:
    """Compute every answer, tolerance and margin again from the frozen inputs."""
    different = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if check else files.DATA
        for op in ops or files.names():
            files.write(_again(files.read(op)), folder)
            same = not check or _same(folder, op)
            different += [] if same else [op]
            out.print(f"{op}: {'as published' if check and same else 'DIFFERENT' if not same else 'written'}")
    if different:
        err.print(f"answers differ from the published ones: {', '.join(different)}")
        sys.exit(1)


def _again(given: files.VectorSet) -> files.VectorSet:
    done: list[files.Vector] = []
    for vector in given.vectors:
        done.append(answers.answered(vector, done[-1].expected.high if done else None))
    return dataclasses.replace(given, vectors=tuple(done))


def _same(folder: Path, op: str) -> bool:
    return all(
        (folder / f"{op}{s}").read_bytes() == (files.DATA / f"{op}{s}").read_bytes() for s in (".json", ".safetensors")
    )


if __name__ == "__main__":
    app()
