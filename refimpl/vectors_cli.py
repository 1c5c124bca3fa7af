"""The commands `refimpl vectors ...`: golden vectors for a program in any language, and the verdict on its answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from refimpl.console import JsonOption, ReportOption, err, out, print_json, validation_module
from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app"]

app = typer.Typer(
    name="vectors", help="Golden vectors: list them, emit them, check answers to them.", no_args_is_help=True
)

OpArgument = Annotated[
    str, typer.Argument(help="A component, as `refimpl vectors list` names them.", show_default=False)
]
DtypeOption = Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")]
DialectOption = Annotated[str | None, typer.Option(help="Only the vectors of this dialect.")]
StreamOption = Annotated[bool, typer.Option("--stream", help="Lines and bytes through a pipe (docs/vectors.md).")]


@app.command("list")
def list_vectors(as_json: JsonOption = False) -> None:
    """List the components: how many vectors each has, in which dtypes and dialects, and what it computes."""
    vectors = validation_module("vectors")
    sets = [vectors.load(name) for name in vectors.names()]
    if as_json:
        print_json([_described(each) for each in sets])
        return
    table = Table("component", "vectors", "dialects", "equation", box=None, pad_edge=False, header_style="bold")
    for each in sets:
        table.add_row(each.op, str(len(each.vectors)), ", ".join(each.dialects) or "-", escape(each.equation))
    out.print(table)


def _described(each: Any) -> dict[str, Any]:
    counts = {dtype: len(each.select(dtype)) for dtype in ("float16", "bfloat16", "float32", "float64")}
    described = {"op": each.op, "signature": each.signature, "equation": each.equation, "dialects": list(each.dialects)}
    return described | {"vectors": len(each.vectors), "by_dtype": counts}


@app.command()
def emit(
    op: OpArgument,
    dtype: DtypeOption = "float32",
    dialect: DialectOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="A new folder: cases.json and inputs.safetensors.")
    ] = None,
    stream: StreamOption = False,
) -> None:
    """Write the calls that a program is to answer, into a folder or to standard output."""
    if (folder is None) == (not stream):
        raise ConfigError("where to?", expected="--out FOLDER or --stream", got="both" if stream else "neither")
    chosen = _selected(op, dtype, dialect)
    protocol = validation_module("vectors.protocol")
    if folder is None:
        protocol.emit_stream(op, dtype, chosen, sys.stdout.buffer)
        return
    protocol.emit_folder(op, dtype, chosen, folder)
    err.print(
        f"{len(chosen)} calls of {op} in {folder}; write the answers to answers.safetensors there, a tensor named by each id"
    )


@app.command()
def check(
    subject: Annotated[str, typer.Argument(help="A folder that was emitted and answered; with --stream, a component.")],
    stream: StreamOption = False,
    dtype: DtypeOption = "float32",
    dialect: DialectOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge answers. Exits with 1 if any is wrong or missing."""
    protocol = validation_module("vectors.protocol")
    if report is not None:
        validation_module("report").prepare(report)  # refused before answers are read
    if stream:
        ids, op = [vector.id for vector in _selected(subject, dtype, dialect)], subject
        answers = protocol.read_stream(sys.stdin.buffer)
    else:
        op, dtype, ids, answers = protocol.read_folder(Path(subject))
    judged = validation_module("conformance").judge_answers(op, dtype, answers, ids)
    if report is not None:
        judged.write(report)
    if as_json:
        print_json(judged.as_json())
    else:
        out.print(escape(str(judged)), highlight=False, soft_wrap=True)
    if report is not None and not as_json:
        out.print(f"Report: {escape(str(report / 'index.html'))}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if judged.passed else 1)


@app.command()
def spread(
    op: Annotated[str | None, typer.Argument(help="A component; all without one.", show_default=False)] = None,
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """How far legal evaluations differ: orders of summation, FMA, other forms. Exits with 1 if a tolerance does not contain one."""
    module = validation_module("spread")
    every = validation_module("components").COMPONENTS
    names = [op] if op else [name for name in every if not every[name].exact]
    found = []
    for name in names:
        with err.status(f"{name}, {dtype}"):
            found.append(module.spread(name, dtype))
    if as_json:
        print_json([each.as_json() for each in found])
    elif op:
        out.print(escape(str(found[0])), highlight=False, soft_wrap=True)
    else:
        table = Table("component", "evaluations", "widest", "which", box=None, pad_edge=False, header_style="bold")
        for each in found:
            table.add_row(each.component, str(len(each.rows)), f"{each.widest.multiple:.3f}", escape(each.widest.name))
        out.print(table)
    raise typer.Exit(0 if all(each.contained for each in found) else 1)


def _selected(op: str, dtype: str, dialect: str | None) -> Sequence[Any]:
    chosen: Sequence[Any] = validation_module("vectors").load(op).select(dtype, dialect)
    return chosen
