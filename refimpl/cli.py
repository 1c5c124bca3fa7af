"""The command `refimpl`. Everything it does is a call that Python code can make too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import refimpl
from refimpl import backend as backends
from refimpl import comparison, explain_cli, fewshot_cli, summarize_cli, train_cli, vectors_cli, weights_cli
from refimpl.arithmetic import named_arithmetic
from refimpl.comparison_plot import svg
from refimpl.console import (
    JsonOption,
    LowMemoryOption,
    ParallelOption,
    ReportOption,
    TransportOption,
    bar,
    cores,
    err,
    opened,
    out,
    print_json,
    separated,
    validation_module,
)
from refimpl.errors import ConfigError, RefimplError, TextError
from refimpl.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.comparison import Variant

__all__ = ["app", "main"]

app = typer.Typer(
    name="refimpl",
    help="The reference implementations others are measured against: validate, generate, score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_cli.app)
app.add_typer(vectors_cli.app)
app.add_typer(fewshot_cli.app)
app.command()(train_cli.train)

BackendOption = Annotated[
    str, typer.Option("--backend", help="numpy, cupy or auto; auto reads REFIMPL_BACKEND and prints its choice.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of all random numbers.")]
ApproximateOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Replace only the products of this kind of layer: projection, head, attention, activation, normalization, other; "
        "or exponential. May be repeated; without it, all products."
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="Name of an embedded model, or a Hugging Face GPT-2 folder.")]


@app.command()
def validate(
    only: Annotated[
        list[str] | None, typer.Option(help="Only checks whose id begins with this; may be repeated.")
    ] = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
    seed: SeedOption = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Processes; without it, one for each core, and 1 on a GPU.", min=1)
    ] = None,
    report: ReportOption = None,
) -> None:
    """Check the engine: the claims, parity with other implementations, agreement of the number systems.

    Exits with 1 if anything fails, is not a number, or runs fewer cases than announced.
    """
    run = validation_module("run")
    if report is not None:
        validation_module("report").prepare(report)  # refused before anything runs
    chosen = backends.get(backend)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bar(*columns) as progress:
        task = progress.add_task("", total=None)

        def advance(check: Any, index: int, count: int) -> None:
            progress.update(task, description=check.id, completed=index, total=count)

        several = jobs or (cores() if chosen.name == "numpy" else 1)
        result = run.validate(chosen, only=only, seed=seed, jobs=several, advance=advance)
    if report is not None:
        grown = validation_module("report.growth").of_checks([line.check.id for line in result.lines], chosen)
        result.write(report, growth=grown)
    if as_json:
        print_json(result.as_json())
    else:
        _show(result, report)
    raise typer.Exit(0 if result.passed else 1)


COLUMNS = (("check", "left"), ("verdict", "left"), ("cases", "right"), ("of allowed", "right"), ("worst case", "left"))


def _table(result: Any) -> Table:
    """A line a check; where the terminal is narrow, only the worst case is cut short."""
    rows = [_cells(line) for line in result.lines]
    table = Table(box=None, pad_edge=False, header_style="bold")
    widths = [
        max(len(Text.from_markup(text)) for text in column)
        for column in zip([t for t, _ in COLUMNS], *rows, strict=True)
    ]
    widths[-1] = max(10, min(widths[-1], out.width - sum(widths[:-1]) - 2 * len(widths) + 1))
    for (title, justify), width in zip(COLUMNS, widths, strict=True):
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=width)  # type: ignore[arg-type]
    section = ""
    for line, row in zip(result.lines, rows, strict=True):
        if line.check.section != section:
            section = line.check.section
            table.add_row(f"[bold]{section}[/bold]")
        table.add_row(*row)
    return table


def _show(result: Any, report: Path | None) -> None:
    out.print(_table(result))
    told = [line for line in result.lines if line.check.peer and line.finding.verdict == "agrees"]
    for line in told:
        out.print(f"\n[bold]{escape(line.check.peer)}[/bold]  {escape(line.finding.worst)}", highlight=False)
    failed = [line for line in result.lines if not line.passed]
    for line in failed:
        out.print(
            f"\n[bold red]{line.check.id}[/bold red]  {escape(line.check.statement)}", highlight=False, soft_wrap=True
        )
        ran = f"{line.finding.verdict}, {line.finding.cases} cases of {line.check.cases or 0} announced"
        out.print(f"  {escape(ran)}: {escape(line.finding.worst)}", highlight=False, soft_wrap=True)
    skipped = [line.check.id for line in result.lines if line.finding.verdict == "not run"]
    count, cases = len(result.lines) - len(skipped), sum(line.finding.cases for line in result.lines)
    names = ", ".join(line.check.id for line in failed) or "nothing ran"
    head = "[bold green]All hold[/bold green]" if result.passed else f"[bold red]FAILED: {names}[/bold red]"
    rest = f"; not run: {', '.join(skipped)}" if skipped else ""
    out.print(
        f"\n{head}: {count} checks, {cases:,} cases, backend {result.backend}, {result.seconds:.0f} s{rest}",
        soft_wrap=True,
    )
    if report is not None:
        out.print(f"Report: {escape(str(report / 'index.html'))}", highlight=False, soft_wrap=True)


def _cells(line: Any) -> list[str]:
    """One row of the table: id, verdict, cases, multiple of what is allowed, worst case."""
    finding, colour = line.finding, "green" if line.passed else "bold red"
    if finding.verdict == "not run":
        colour = "yellow"
    declared = ", as declared" if line.check.section == "claims" and finding.verdict == "refuted" else ""
    verdict = f"{finding.verdict}{declared}" if line.passed else f"{finding.verdict}: FAILED"
    multiple = "" if finding.multiple is None else f"{finding.multiple:.2g}"
    multiple = ">0.99" if finding.multiple is not None and 0.99 < finding.multiple < 1 else multiple
    cases = "-" if finding.verdict == "not run" else f"{finding.cases:,}"
    return [f"  {line.check.id}", f"[{colour}]{escape(verdict)}[/{colour}]", cases, multiple, escape(finding.worst)]


@app.command()
def claims(
    only: Annotated[
        list[str] | None, typer.Argument(help="Identifiers or their beginnings, for instance TAYLOR.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Check them too.")] = False,
    backend: BackendOption = "numpy",
    as_json: JsonOption = False,
    seed: SeedOption = 0,
) -> None:
    """List the registered mathematical claims: statement, source, how each is decided, and the verdict declared."""
    registry = validation_module("claims")
    setting = registry.Setting(backends.get(backend), seed) if run else None
    rows, good = [], True
    for claim in registry.select(only):
        fields = ("id", "statement", "source", "method", "needs", "expected", "cases")
        row = {name: getattr(claim, name) for name in fields}
        if setting:
            outcome = claim.check(setting)
            holds = None if claim.excuses(outcome) else claim.holds(outcome)
            good = good and holds is not False
            row |= {"holds": holds, "verdict": outcome.verdict, "cases": outcome.cases}
            row |= {"worst": outcome.worst, "tightness": outcome.tightness}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            mark = (
                ""
                if row.get("holds") is None
                else "[green]holds[/green]: "
                if row["holds"]
                else "[bold red]FAILS[/bold red]: "
            )
            out.print(f"[bold]{row['id']}[/bold]  {mark}{row.get('verdict', row['expected'])}")
            for name in ("statement", "source", "method", "needs", "worst"):
                if row.get(name):
                    out.print(f"  {name:<10}{escape(str(row[name]))}", highlight=False, soft_wrap=True)
    ran = not run or any(row["holds"] is not None for row in rows)
    raise typer.Exit(0 if good and ran else 1)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    model: ModelOption = "tang",
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Limit; without it, until the end token or the position table's end.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; without it, the model's own default.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k most probable tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the fewest tokens whose mass reaches p.")] = None,
    seed: SeedOption = 0,
    samples: Annotated[int, typer.Option(help="How many continuations, with seeds seed, seed + 1, ...")] = 1,
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    backend: BackendOption = "auto",
    arithmetic: Annotated[
        str | None,
        typer.Option(help="mitchell, mitchell-centred, -corrected or -refined, or exact: how products are made."),
    ] = None,
    approximate: ApproximateOption = None,
    low_memory: LowMemoryOption = False,
    parallel: ParallelOption = False,
    transport: TransportOption = "host",
) -> None:
    """Continue a text, streaming: refimpl generate "春眠不觉晓，"."""
    numbers = None if arithmetic is None else named_arithmetic(arithmetic, approximate or None)
    _check_approximate(approximate, arithmetic is not None)
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    with opened(model, backend, dtype, numbers, parallel, transport, low_memory) as loaded:
        for number in range(samples):
            pieces = loaded.stream(text, seed=seed + number, **options)
            sys.stdout.write(text)
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n" if number == samples - 1 else "\n\n")


def _check_approximate(kinds: list[str] | None, arithmetic: bool) -> None:
    """Raise ConfigError for kinds without an arithmetic that would replace them."""
    if kinds and not arithmetic:
        expected, got = "--arithmetic mitchell, or another", f"--approximate {' '.join(kinds)} alone"
        raise ConfigError("in which arithmetic?", where="--approximate", expected=expected, got=got)


def _texts(file: str, *, whole_file: bool = False) -> list[str]:
    """The texts of a file, separated by blank lines, or the whole of it as one."""
    try:
        whole = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError("the file cannot be read", where=file, got=f"{type(error).__name__}: {error}") from None
    texts = [part for part in ([whole.strip("\n")] if whole_file else separated(whole)) if part.strip()]
    if not texts:
        raise TextError("nothing to read", where=file, expected="at least one text; blank lines separate texts")
    return texts


@app.command()
def score(
    file: Annotated[str, typer.Argument(help="A UTF-8 text file; - is standard input. Blank lines separate texts.")],
    model: ModelOption = "tang",
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    backend: BackendOption = "auto",
    arithmetic: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare with exact arithmetic: mitchell, mitchell-centred, -corrected, -refined, or exact; may be repeated."
        ),
    ] = None,
    approximate: ApproximateOption = None,
    by_kind: Annotated[
        bool, typer.Option("--by-kind", help="Each kind of layer alone, and all but each, in that arithmetic.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write arithmetic.json and arithmetic.svg into this folder.")
    ] = None,
    low_memory: LowMemoryOption = False,
    as_json: JsonOption = False,
    parallel: ParallelOption = False,
    transport: TransportOption = "host",
) -> None:
    """Print the perplexity of each text in a file, and of all together; with --arithmetic, and its divergence from exact arithmetic."""
    _check_approximate(approximate, bool(arithmetic))
    variants = _variants(arithmetic or [], approximate, by_kind, report)
    with opened(
        model,
        backend,
        dtype,
        variants[0].arithmetic if parallel and variants else None,
        parallel,
        transport,
        low_memory,
    ) as loaded:
        texts = _texts(file)
        if variants:
            _compare(loaded, texts, variants, report, as_json)
            return
        with bar() as progress:
            scores = [loaded.score(text) for text in progress.track(texts, description="scoring")]
    _print_scores(texts, scores, as_json)


def _print_scores(texts: list[str], scores: list[refimpl.Score], as_json: bool) -> None:
    """Perplexity, tokens and unknown ones of each text, and of all together."""
    tokens, total = sum(each.tokens for each in scores), sum(each.negative_log_likelihood for each in scores)
    whole = refimpl.Score(tokens, sum(each.unknown for each in scores), total, [])
    if as_json:
        rows = [
            {"text": text, "perplexity": each.perplexity}
            | {k: v for k, v in each._asdict().items() if k != "log_probabilities"}
            for text, each in zip(texts, scores, strict=True)
        ]
        print_json({"perplexity": whole.perplexity, "tokens": tokens, "unknown": whole.unknown, "texts": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("perplexity", "tokens", "unknown"):
        table.add_column(title, justify="right")
    table.add_column("text")
    for text, each in zip(texts, scores, strict=True):
        first = text.splitlines()[0]
        table.add_row(f"{each.perplexity:.2f}", str(each.tokens), str(each.unknown), escape(first[:40]))
    table.add_row(
        f"[bold]{whole.perplexity:.2f}", f"[bold]{tokens}", f"[bold]{whole.unknown}", f"[bold]all {len(texts)} texts"
    )
    out.print(table)


def _variants(forms: list[str], kinds: list[str] | None, by_kind: bool, report: Path | None) -> list[Variant]:
    """The arithmetics to compare with the exact one; what makes no sense is refused before anything is computed."""
    alone = [name for name, given in (("--by-kind", by_kind), ("--report", report is not None)) if given and not forms]
    if alone:
        expected = "--arithmetic mitchell, or another"
        raise ConfigError("in which arithmetic?", where=", ".join(alone), expected=expected, got="none")
    if by_kind and kinds:
        expected = "one of the two"
        raise ConfigError("--by-kind goes through all kinds", where="--approximate", expected=expected, got="both")
    if report is not None and report.exists() and not report.is_dir():
        raise ConfigError("the report needs a folder", where="--report", expected="a folder, or no file", got=report)
    if by_kind:
        return [variant for form in dict.fromkeys(forms) for variant in comparison.by_kind(form)]
    chosen = [named_arithmetic(form, kinds or None) for form in dict.fromkeys(forms)]
    return [comparison.Variant(", ".join(kinds) if kinds else "all products", each) for each in chosen]


def _compare(loaded: Any, texts: list[str], variants: list[Variant], report: Path | None, as_json: bool) -> None:
    """Compare arithmetics on the texts, print the figures, and write the report if there is to be one."""
    with bar() as progress:
        task = progress.add_task("comparing", total=len(texts) * len(variants))
        arithmetics = [variant.arithmetic for variant in variants]
        found = comparison.compare(loaded, texts, arithmetics, advance=lambda: progress.advance(task))
    whole = [comparison.together(parts) for parts in found]
    answer = comparison.as_json(loaded, texts, variants, found)
    if report is not None:
        _write_comparison(report, json.dumps(answer, ensure_ascii=False, indent=1) + "\n", svg(variants, whole))
    if as_json:
        print_json(answer)
        return
    out.print(f"exact: perplexity {whole[0].exact_perplexity:.2f}, {whole[0].tokens} tokens", highlight=False)
    if len(variants) == 1:
        first = [escape(text.splitlines()[0][:40]) for text in texts]
        out.print(_divergence_table("text", [*zip(first, found[0], strict=True)]))
    names = [f"{variant.arithmetic.form}: {variant.label}" for variant in variants]
    out.print(_divergence_table("arithmetic", [*zip(names, whole, strict=True)]))
    if report is not None:
        out.print(f"Report: {escape(str(report / 'arithmetic.svg'))}", highlight=False, soft_wrap=True)


def _divergence_table(what: str, rows: list[tuple[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("perplexity", "exact", "KL mean", "KL max", "same best", "tokens"):
        table.add_column(title, justify="right")
    table.add_column(what)
    for name, each in rows:
        same = f"{each.agreeing / each.tokens:.1%}"
        figures = [f"{each.perplexity:.2f}", f"{each.exact_perplexity:.2f}", f"{each.mean:.5f}", f"{each.largest:.4f}"]
        table.add_row(*figures, same, str(each.tokens), name)
    return table


def _write_comparison(folder: Path, data: str, plot: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("arithmetic.json", data), ("arithmetic.svg", plot)):
            replace_file(folder / name, lambda file, content=content: file.write(content.encode()))  # type: ignore[misc]
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the report cannot be written", where=folder, got=got) from None


app.command()(explain_cli.explain)
app.command()(summarize_cli.summarize)


@app.command()
def encode(
    model: Annotated[str, typer.Argument(help="Folder of a BERT, RoBERTa or NEZHA.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts to encode.")] = None,
    file: Annotated[
        str | None, typer.Option(help="A UTF-8 text file; - is standard input. Blank lines separate texts.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="The file is one text, blank lines and all.")] = False,
    pooling: Annotated[
        str | None, typer.Option(help="mean, cls, pooler or none; without it, what the model's folder says.")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option(help="Whether vectors get unit length; without it, what the folder says.")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut texts longer than the position table; they are refused otherwise.")
    ] = False,
    positions: Annotated[
        int | None, typer.Option(help="Extend the position table hierarchically to so many positions.")
    ] = None,
    residual_attention: Annotated[
        str | None,
        typer.Option(help="none, sum or mean: how a RealFormer was trained; without it, what config.json says."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the vectors to FILE.npy or FILE.safetensors.")] = None,
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Encode texts as vectors: refimpl encode FOLDER "A text." "Another."."""
    texts = [*(text or []), *(_texts(file, whole_file=whole) if file is not None else [])]
    write = _writer(output)
    if not texts:
        raise TextError("there is no text", where="refimpl encode", remedy="give texts after the model, or --file")
    loaded: Any = refimpl.load(
        model, backend=backend, dtype=dtype, positions=positions, residual_attention=residual_attention
    )
    vectors = loaded.embed(texts, pooling=pooling, normalize=normalize, truncate=truncate)
    rows = loaded.framed(texts, truncate=truncate)
    arrays = [loaded.backend.to_numpy(vector) for vector in (vectors if isinstance(vectors, list) else [vectors])]
    write(arrays)
    each = arrays if isinstance(vectors, list) else list(arrays[0])
    if as_json:
        answers = zip(texts, rows, each, strict=True)
        print_json(
            [
                {"text": t, "tokens": len(r.ids), "cut": r.whole - len(r.ids), "embedding": e.tolist()}
                for t, r, e in answers
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("tokens", "cut", "shape", "length"):
        table.add_column(title, justify="right")
    table.add_column("vector")
    table.add_column("text")
    for row, vector, one in zip(rows, each, texts, strict=True):
        shape, norm = "×".join(map(str, vector.shape)), float((vector.astype("float64") ** 2).sum() ** 0.5)
        first = " ".join(f"{value:.4f}" for value in vector.ravel()[:4]) + " ..."
        table.add_row(
            str(len(row.ids)),
            str(row.whole - len(row.ids)),
            shape,
            f"{norm:.4f}",
            first,
            escape(one.splitlines()[0][:40]),
        )
    out.print(table)


def _save_array(path: Path, array: Any) -> None:
    import numpy as np

    try:
        replace_file(path, lambda file: np.save(file, array, allow_pickle=False))
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the file cannot be written", where=path, got=got) from None


def _writer(path: Path | None) -> Callable[[list[Any]], None]:
    """What writes vectors to a file of that name, so that a name that will not do is refused before anything is computed."""
    import weights_io

    if path is None:
        return lambda arrays: None
    if path.suffix not in (".npy", ".safetensors"):
        got, what = path.name, "unknown kind of file"
        raise ConfigError(what, where="--output", expected="a name that ends in .npy or .safetensors", got=got)

    def write(arrays: list[Any]) -> None:
        if path.suffix == ".npy" and len(arrays) > 1:
            remedy = "write .safetensors, or pool them"
            what = "texts of different lengths make no one array"
            raise ConfigError(what, where="--output", got=f"{len(arrays)} texts without pooling", remedy=remedy)
        if path.suffix == ".npy":
            _save_array(path, arrays[0])
        elif len(arrays) == 1:
            weights_io.save(path, {"embeddings": arrays[0]})
        else:
            weights_io.save(path, {f"embeddings.{number}": array for number, array in enumerate(arrays)})

    return write


@app.command("backends")
def list_backends(as_json: JsonOption = False) -> None:
    """Diagnose the array libraries: compile one kernel, run one product, and say what to install."""
    rungs = backends.diagnose()
    usable = rungs[-1].ok
    if as_json:
        print_json({"numpy": True, "cupy": usable, "ladder": [vars(rung) for rung in rungs]})
        return
    out.print("[green]numpy[/green]  always works")
    out.print(
        f"{'[green]cupy[/green] ' if usable else '[yellow]cupy[/yellow] '}  {'works' if usable else 'does not work:'}"
    )
    for rung in rungs:
        mark = "[green]ok[/green]    " if rung.ok else "[yellow]broken[/yellow]"
        out.print(f"  {mark} {rung.step}: {escape(rung.detail)}", highlight=False)
        if not rung.ok:
            out.print(f"         to do: {escape(rung.remedy)}", highlight=False)


def _version(value: bool) -> None:
    if value:
        print(f"refimpl {refimpl.__version__}")  # noqa: T201 - the command's answer
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; errors of this project are printed as they are, without a traceback, and exit with 2."""
    try:
        app()
    except RefimplError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from None
