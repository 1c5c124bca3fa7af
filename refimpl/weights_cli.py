"""The commands `refimpl weights ...`: look into checkpoints, convert them, compare them, list the naming schemes and the rules."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

import weights_io
from refimpl.console import JsonOption, bar, err, out, print_json
from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weights_io import schemes
    from weights_io.inspection import Node, Statistics

__all__ = ["app"]

app = typer.Typer(
    name="weights", help="Open, convert and compare checkpoints, without a framework.", no_args_is_help=True
)

PathArgument = Annotated[
    Path, typer.Argument(help="A checkpoint: a file, a prefix, a shard index or a folder.", show_default=False)
]
CompatOption = Annotated[
    bool, typer.Option("--compat", help="Tolerate what the format's own reader does, where that is safe.")
]
ExpansionOption = Annotated[int, typer.Option(help="How many times larger than the file its tensors may be.")]
NAMES = 10_000  # more than models have; others are not held to naming schemes
DEEPEST = 30  # levels of metadata that are shown
VERDICTS = {"verified": "[green]verified [/]", "other": "[bold red]other    [/]", "missing": "[yellow]missing  [/]"}
UNITS = ("B", "kB", "MB", "GB", "TB")


def _open(path: Path, compat: bool, expansion: int) -> weights_io.Checkpoint:
    return weights_io.open(path, mode="compat" if compat else "strict", limits=weights_io.Limits(expansion=expansion))


def _size(nbytes: float) -> str:
    unit = 0
    while nbytes >= 1000 and unit < len(UNITS) - 1:
        nbytes, unit = nbytes / 1000, unit + 1
    return f"{nbytes:.0f} B" if unit == 0 else f"{nbytes:.3g} {UNITS[unit]}"


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    return bar(*columns)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "scalar"


# --- inspect ----------------------------------------------------------------------------------------------------------------


@app.command()
def inspect(
    path: PathArgument,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read every tensor: extremes, mean, deviation, zeros, non-finite values.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every layer, not one for all that are alike.")
    ] = False,
    compat: CompatOption = False,
    expansion: ExpansionOption = weights_io.Limits.expansion,
    as_json: JsonOption = False,
) -> None:
    """Show what is in a checkpoint: names as a tree, dtypes, shapes, sizes; with --stats the values too.

    Exits with 1 if --stats finds a value that is not finite.
    """
    with _open(path, compat, expansion) as checkpoint:
        found = _statistics(checkpoint) if stats else {}
        if as_json:
            print_json(_inspection(checkpoint, found))
        elif stats:
            _show_statistics(checkpoint, found)
        else:
            _show_tree(checkpoint, fold=not everything)
    raise typer.Exit(1 if any(each.nonfinite for each in found.values()) else 0)


def _statistics(checkpoint: weights_io.Checkpoint) -> dict[str, Statistics]:
    from weights_io.inspection import statistics

    found = {}
    with _progress() as progress:
        task = progress.add_task("reading", total=_nbytes(checkpoint))
        for name in checkpoint:
            found[name] = statistics(checkpoint[name])
            progress.advance(task, checkpoint.info(name).nbytes)
    return found


def _nbytes(checkpoint: weights_io.Checkpoint) -> int:
    return sum(checkpoint.info(name).nbytes for name in checkpoint)


def _parameters(checkpoint: weights_io.Checkpoint) -> int:
    return sum(_count(checkpoint.info(name)) for name in checkpoint)


def _count(info: weights_io.TensorInfo) -> int:
    return info.nbytes // int(info.dtype.itemsize)


def _inspection(checkpoint: weights_io.Checkpoint, found: dict[str, Statistics]) -> dict[str, Any]:
    rows = []
    for name in checkpoint:
        info = checkpoint.info(name)
        row = {
            "name": name,
            "dtype": info.dtype.name,
            "shape": list(info.shape),
            "nbytes": info.nbytes,
            "layout": info.layout,
        }
        row |= {"file": str(info.file), "offset": info.offset}
        rows.append(row | ({"statistics": found[name]._asdict()} if name in found else {}))
    scheme = _known_names(checkpoint)
    about = {"format": checkpoint.format, "scheme": None if scheme is None else scheme.name, "tensors": rows}
    return about | {"shared": checkpoint.shared()} | {"metadata": _Plain()(checkpoint.metadata)}


class _Plain:
    """Metadata as JSON can say it, of at most `left` characters: a file may refer to one long text a thousand times."""

    def __init__(self, left: int = 1_000_000) -> None:
        self.left = left

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """Numbers, text and containers as they are, everything else as its representation, cut short."""
        self.left -= 8
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if self.left < 0 or depth > DEEPEST:
            return "..."
        if isinstance(value, dict):
            return self._items(value, depth)
        if isinstance(value, (list, tuple)):
            return [self(inner, depth + 1) for inner in itertools.islice(value, self.left // 8 + 1)]
        return self._text(value if isinstance(value, str) else repr(value)[:500])

    def _text(self, text: str) -> str:
        text = text[: max(0, self.left)].encode("utf-8", "backslashreplace").decode()
        self.left -= len(text)
        return text

    def _items(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for name, inner in itertools.islice(value.items(), self.left // 8 + 1):
            key = self._text(str(name))
            items[self._text(repr(name)) if key in items else key] = self(inner, depth + 1)
        return items


def _heading(checkpoint: weights_io.Checkpoint) -> str:
    return f"{checkpoint.format}: {len(checkpoint)} tensors, {_parameters(checkpoint):,} values, {_size(_nbytes(checkpoint))}"


def _show_tree(checkpoint: weights_io.Checkpoint, *, fold: bool) -> None:
    from weights_io.inspection import tree

    shown = Tree(f"[bold]{escape(_heading(checkpoint))}[/bold]")
    _grow(shown, tree(checkpoint, fold=fold))
    out.print(shown, highlight=False, soft_wrap=True)
    if (scheme := _known_names(checkpoint)) is not None:
        out.print(f"names of {scheme.name}: {escape(scheme.title)}", highlight=False, soft_wrap=True)
    for names in checkpoint.shared():
        out.print(f"stored once: {escape(', '.join(names))}", highlight=False, soft_wrap=True)
    for name, value in checkpoint.metadata.items():
        text = str(_Plain(2000)(value)).replace("\n", " ")
        out.print(
            f"metadata {escape(str(name))}: {escape(text[:200])}{' ...' if len(text) > 200 else ''}",
            highlight=False,
            soft_wrap=True,
        )


def _known_names(checkpoint: weights_io.Checkpoint) -> schemes.Scheme | None:
    """The naming scheme that has a place for every name, if there is one; no checkpoint of a model has more names than are looked at."""
    from weights_io import schemes

    try:
        scheme = schemes.detect(checkpoint) if len(checkpoint) <= NAMES else None
    except schemes.SchemeError:
        return None
    return None if scheme is None or schemes.explain(checkpoint, scheme).problems else scheme


def _label(node: Node) -> str:
    return " ... ".join(part.rstrip("./") or part for part in node.label.split(" ... "))


def _grow(tree: Tree, nodes: tuple[Node, ...]) -> None:
    for node in nodes:
        times = f"  [cyan]{node.alike} alike[/cyan]" if node.alike > 1 else ""
        if node.tensor is None:
            _grow(tree.add(f"{escape(_label(node))}{times}"), node.children)
        else:
            info = node.tensor
            layout = "" if info.layout == "contiguous" else f"  [yellow]{info.layout}[/yellow]"
            kind = f"[green]{info.dtype.name}[/green]  {_shape(info.shape)}  {_size(info.nbytes)}"
            tree.add(f"{escape(_label(node))}{times}  {kind}{layout}")


def _show_statistics(checkpoint: weights_io.Checkpoint, found: dict[str, Statistics]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", title=_heading(checkpoint), title_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("dtype")
    for title in ("shape", "min", "max", "mean", "deviation", "zeros", "not finite"):
        table.add_column(title, justify="right")
    for name, each in found.items():
        info = checkpoint.info(name)
        values = (
            "-" if value is None else f"{value:.4g}"
            for value in (each.minimum, each.maximum, each.mean, each.deviation)
        )
        bad = f"[bold red]{each.nonfinite}[/bold red]" if each.nonfinite else "0"
        table.add_row(escape(name), info.dtype.name, _shape(info.shape), *values, str(each.zeros), bad)
    out.print(table)
    total = sum(each.nonfinite for each in found.values())
    out.print(f"{'[bold red]' if total else '[green]'}{total} values are not finite[/]")


# --- convert ----------------------------------------------------------------------------------------------------------------


@app.command()
def convert(
    source: PathArgument,
    destination: Annotated[
        Path, typer.Argument(help="A file, or a new folder for .ckpt and for --ranks.", show_default=False)
    ],
    dtype: Annotated[
        str | None, typer.Option(help="Of floating-point tensors: float32, float16, bfloat16, ...; integers stay.")
    ] = None,
    scheme: Annotated[str | None, typer.Option(help="Names to write; see `refimpl weights schemes`.")] = None,
    from_scheme: Annotated[
        str | None, typer.Option(help="Names that are there; without it, they are detected.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Write so many Megatron shards.")] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads, which shards cannot cut; known for released widths.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="safetensors, npz, pytorch, tensorbundle; without it, by suffix.")
    ] = None,
    compat: CompatOption = False,
    expansion: ExpansionOption = weights_io.Limits.expansion,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in another format, dtype, naming scheme or number of shards, one tensor at a time."""
    from weights_io.conversion import convert as run

    with _open(source, compat, expansion) as checkpoint, _progress() as progress:
        task = progress.add_task("converting", total=2 * (ranks or 1) * _nbytes(checkpoint))
        done = run(
            checkpoint,
            destination,
            dtype=dtype,
            scheme=scheme,
            from_scheme=from_scheme,
            ranks=ranks,
            heads=heads,
            format=form,
            advance=lambda _, nbytes: progress.advance(task, nbytes),
        )
    if as_json:
        print_json(done._asdict())
        return
    out.print(
        f"{escape(str(destination))}: {done.tensors} tensors, {_size(done.nbytes)}", highlight=False, soft_wrap=True
    )
    if done.left_behind:
        names = escape(", ".join(done.left_behind))
        err.print(
            f"[yellow]left behind, for there is no place for it:[/yellow] {names}", highlight=False, soft_wrap=True
        )


# --- verify -----------------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    a: PathArgument,
    b: Annotated[
        Path | None,
        typer.Argument(help="The checkpoint to compare it with; none with --published.", show_default=False),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Compare the SHA-1 of CPM-LM's files in a folder with the published ones."),
    ] = False,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance; without rtol and atol, bit for bit.")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance.")] = None,
    by_scheme: Annotated[
        bool, typer.Option("--by-scheme", help="Compare under common names, each side's scheme being detected.")
    ] = False,
    compat: CompatOption = False,
    expansion: ExpansionOption = weights_io.Limits.expansion,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints: names, dtypes, shapes, and values bit for bit or within a tolerance. Exits with 1 if they differ.

    With --published, compare the files of one folder with those that were published: exits with 1 unless both shards and the vocabulary are.
    """
    from weights_io.verification import verify as run

    if published or b is None:
        if not published or b is not None or rtol is not None or atol is not None or by_scheme:
            what = "name two checkpoints, or one folder with --published and nothing that concerns two"
            raise ConfigError(what, where="refimpl weights verify", expected="A B, or --published FOLDER")
        _verify_published(a, as_json)
        return
    with _open(a, compat, expansion) as left, _open(b, compat, expansion) as right, _progress() as progress:
        pair = _canonical(left, right) if by_scheme else [left, right]
        task = progress.add_task("comparing", total=_nbytes(pair[0]))
        found = run(*pair, rtol=rtol, atol=atol, advance=lambda _, nbytes: progress.advance(task, nbytes))
        count = len(set(pair[0]) | set(pair[1]))
    if as_json:
        print_json({"tensors": count, "differences": [each._asdict() for each in found]})
    else:
        for each in found:
            out.print(
                f"[red]{each.kind:<9}[/red] {escape(each.name)}  {escape(each.detail)}", highlight=False, soft_wrap=True
            )
        how = "bit for bit" if rtol is None and atol is None else f"within atol {atol or 0:g}, rtol {rtol or 0:g}"
        verdict = (
            f"[bold red]{len(found)} of {count} tensors differ[/]"
            if found
            else f"[bold green]the same {how}[/]: {count} tensors"
        )
        out.print(verdict, highlight=False)
    raise typer.Exit(1 if found else 0)


def _verify_published(folder: Path, as_json: bool) -> None:
    from weights_io.published import CPM, ESSENTIAL, published, size

    with _progress() as progress:
        task = progress.add_task("SHA-1", total=size(folder))
        found = published(folder, lambda nbytes: progress.advance(task, nbytes))
    good = all(found[name].verdict == "verified" for name in ESSENTIAL)
    good = good and not any(each.verdict == "other" for each in found.values())
    if as_json:
        print_json({"published": good, "files": {name: each._asdict() for name, each in found.items()}})
    else:
        for name, each in found.items():
            out.print(f"{VERDICTS[each.verdict]} {escape(name)}", highlight=False, soft_wrap=True)
            if each.verdict == "verified":
                out.print(f"          {each.sha1}, published {each.edition}", highlight=False, soft_wrap=True)
            elif each.verdict == "other":
                expected = " or ".join(f"{sha1} ({day})" for sha1, day in CPM[name].items())
                out.print(f"          expected {expected}", highlight=False, soft_wrap=True)
                really = f": that is {each.really}" if each.really else ""
                out.print(f"          got      {each.sha1}{escape(really)}", highlight=False, soft_wrap=True)
        done = sum(each.verdict == "verified" for each in found.values())
        out.print(
            f"[bold {'green' if good else 'red'}]{done} of {len(found)} files are as published[/]", highlight=False
        )
    raise typer.Exit(0 if good else 1)


def _canonical(*checkpoints: weights_io.Checkpoint) -> list[weights_io.Checkpoint]:
    """Under common names; a head that only some of them store is the token embedding of the others."""
    from weights_io import schemes

    ours = [schemes.to_canonical(each, schemes.detect(each)) for each in checkpoints]
    names = {name for each in ours for name in each}
    return [schemes.with_tied(each, names) for each in ours]


# --- schemes, rules ---------------------------------------------------------------------------------------------------------


@app.command("schemes")
def list_schemes(
    name: Annotated[str | None, typer.Argument(help="Show the whole table of this scheme.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the naming schemes: how each framework calls the parameters of each model."""
    from weights_io import schemes

    rows: list[dict[str, Any]]
    if name is None:
        rows = [
            {"name": each.name, "architecture": each.architecture, "title": each.title}
            for each in schemes.SCHEMES.values()
        ]
    else:
        rows = [{**row} for row in schemes.describe(schemes.named(name))]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in rows[0]:
        table.add_column(title.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    out.print(table, highlight=False)


@app.command("rules")
def list_rules(
    only: Annotated[str, typer.Argument(help="Rules whose name begins with this, for instance safetensors.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the rules that a file is held to: the name that a refusal gives in brackets, and the sentence."""
    rules = {name: sentence for name, sentence in _sorted_rules() if name.startswith(only)}
    if as_json:
        print_json(rules)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("what a good file keeps", overflow="fold")
    for name, sentence in rules.items():
        table.add_row(name, escape(sentence))
    out.print(table, highlight=False)


def _sorted_rules() -> Iterator[tuple[str, str]]:
    yield from sorted(weights_io.rules().items())
