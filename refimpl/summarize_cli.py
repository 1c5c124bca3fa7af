"""The command `refimpl summarize`: documents in, summaries out, in their order; with what was extracted and what was copied from where."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from refimpl.console import cores, err, out
from refimpl.errors import ConfigError
from refimpl.spaces import documents, running
from refimpl.spaces.journal import Journal
from refimpl.spaces.showing import Run, sentence_runs, summary_runs, visible
from refimpl.spaces.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from refimpl.spaces.documents import Document
    from refimpl.spaces.folder import Opened
    from refimpl.spaces.report import Report
    from refimpl.spaces.running import Result, Workers

__all__ = ["summarize"]

PATIENCE = 2.0  # seconds before a bar is shown
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")


def summarize(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Text files, JSON lines, folders of them; - is standard input."),
    ],
    model: Annotated[
        str, typer.Option("--model", help="Name of an embedded summarizer, or the folder of one.")
    ] = "synopsis",
    field: Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")] = "text",
    form: Annotated[
        str, typer.Option("--format", help="text, jsonl, or auto: by the name, .json, .jsonl and .ndjson are lines.")
    ] = "auto",
    threshold: Annotated[
        float | None, typer.Option(help="Extract sentences of a larger probability; without it, the model's.")
    ] = None,
    beams: Annotated[int | None, typer.Option(help="Search with so many beams; without it, the model's.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a summary at most; without it, the model's.")
    ] = None,
    length_penalty: Annotated[float | None, typer.Option(help="The power of the length.")] = None,
    sentences: Annotated[
        int | None, typer.Option(help="Look at the last so many sentences; without it, the model's number.")
    ] = None,
    source_tokens: Annotated[
        int | None, typer.Option(help="Tokens of the extracted source at most; without it, the model's.")
    ] = None,
    copy: Annotated[
        bool | None, typer.Option("--copy/--no-copy", help="Whether tags decide what is copied; no: generate freely.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, with everything.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write those lines into this file, each as it is there.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the file of --output.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="With --resume: do the failures again.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show sentences, probabilities, and what was copied from where.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write index.html into this folder: new, or of an earlier report.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, each with the model.", min=1)] = 1,
    dask: Annotated[
        str | None, typer.Option("--dask", help="Address of a Dask scheduler, whose workers summarize instead.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="numpy, cupy or auto.")] = "auto",
) -> None:
    """Summarize documents: refimpl summarize notes.txt.

    Exits with 1 if a document failed; those after it are summarized all the same.
    """
    _check_options(output, resume, retry, as_json, explain, workers, dask)
    given = {"threshold": threshold, "beams": beams, "max_new_tokens": max_new_tokens, "copy": copy}
    given |= {"length_penalty": length_penalty, "sentences": sentences, "source_tokens": source_tokens}
    _check_apart(inputs, [("--output", output), ("--report", report)])
    found = documents.read(inputs, field=field, form=form)  # refused before the model is opened
    opened = _opened(model, backend, given)
    shown = _Shown(as_json, explain, output is not None and not (as_json or explain), _several(inputs, form))
    journal: Journal | None = None
    try:
        with ExitStack() as stack:
            page = _report(report, opened)
            if output is not None:
                journal = Journal(output, opened.key, resume=resume, retry=retry, notify=_note)
                stack.enter_context(journal)
            bar = stack.enter_context(_bar(documents.count(inputs, form=form) if err.is_terminal else None))
            run = stack.enter_context(_workers(opened, workers, dask))
            for result in running.run(found, run, lambda document: _known(journal, document)):
                with bar.paused():
                    _take(result, opened.key, journal, page, shown)
                bar.advance()
    except KeyboardInterrupt:
        _interrupted(shown, journal)
    if journal is not None:
        journal.check_end()
    _close(shown, output, page)
    raise typer.Exit(1 if shown.failed else 0)


def _check_options(
    output: Path | None, resume: bool, retry: bool, as_json: bool, explain: bool, workers: int, dask: str | None
) -> None:
    """Refuse options that contradict each other, or need another one."""
    wrong = [
        ("--resume goes on with a file", "--output FILE beside it", resume and output is None),
        ("--retry does failures of an earlier run again", "--resume beside it", retry and not resume),
        ("--explain is for reading, --json for programs", "one of them", as_json and explain),
        ("--dask has workers of its own", "one of --dask and --workers", dask is not None and workers > 1),
    ]
    for what, expected, contradicted in wrong:
        if contradicted:
            raise ConfigError(what, where="refimpl summarize", expected=expected)


def _check_apart(inputs: list[str], made: list[tuple[str, Path | None]]) -> None:
    """Refuse to write where is read: what is written would be a document."""
    for name, path in made:
        there = () if path is None else (path.resolve(), *path.resolve().parents)
        within = [given for given in inputs if given != "-" and Path(given).resolve() in there]
        if within:
            remedy = "name a place outside of what is read"
            raise ConfigError("what is written would be read", where=f"{name} {path}", got=within[0], remedy=remedy)


def _several(inputs: list[str], form: str) -> bool:
    """Whether there may be more documents than one: then each is shown with its name."""
    one = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    lines = form == "jsonl" or (form == "auto" and Path(inputs[0]).suffix.lower() in documents.LINES)
    return not one or lines


def _opened(model: str, backend: str, given: dict[str, Any]) -> Opened:
    from refimpl.spaces.folder import opened

    return opened(model, backend=backend, **given)


def _report(folder: Path | None, opened: Opened) -> Report | None:
    if folder is None:
        return None
    from refimpl.spaces.report import Report

    return Report(folder, opened.model, dict(opened.options))


@contextmanager
def _workers(opened: Opened, count: int, dask: str | None) -> Iterator[Workers]:
    """What summarizes: this process, several, or a scheduler's workers."""
    made: Workers
    if dask is not None:
        made = running.OnDask(opened, dask)
    elif count > 1:
        made = running.Processes(opened, count, cores())
    else:
        made = running.Here(opened())
    try:
        yield made
    finally:
        made.close()


# --- the bar ---------------------------------------------------------------------------------------------------------------------------


class _Bar:
    """A bar on a terminal, once two seconds have gone by; it makes way for what is printed."""

    def __init__(self, total: int | None) -> None:
        columns = (TextColumn("summarizing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        options: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False, "transient": True}
        self._progress = Progress(*columns, console=err, **options)
        self._task = self._progress.add_task("", total=total)
        self._lock, self._due, self._shown = threading.Lock(), False, False
        self._timer = threading.Timer(PATIENCE, self._begin)
        self._timer.daemon = True
        if err.is_terminal:
            self._timer.start()

    def _begin(self) -> None:
        with self._lock:
            self._due = True
            self._show(True)

    def _show(self, shown: bool) -> None:
        if shown and self._due and not self._shown:
            self._progress.start()
            self._shown = True
        elif not shown and self._shown:
            self._progress.stop()
            self._shown = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without the bar on the screen."""
        with self._lock:
            self._show(False)
            try:
                yield
            finally:
                self._show(True)

    def advance(self) -> None:
        """One document more."""
        self._progress.advance(self._task)

    def stop(self) -> None:
        """Take it away for good."""
        self._timer.cancel()
        with self._lock:
            self._due = False
            self._show(False)


@contextmanager
def _bar(total: int | None) -> Iterator[_Bar]:
    bar = _Bar(total)
    try:
        yield bar
    finally:
        bar.stop()


# --- results ---------------------------------------------------------------------------------------------------------------------------


class _Shown:
    """How results are shown, and how many there were."""

    def __init__(self, as_json: bool, explain: bool, quiet: bool, several: bool) -> None:
        self.as_json, self.explain, self.quiet, self.several = as_json, explain, quiet, several
        self.done = self.failed = self.known = 0


def _known(journal: Journal | None, document: Document) -> Result | None:
    """What an earlier run made of a document."""
    record = None if journal is None else journal.recorded(document)
    if record is None:
        return None
    if "error" in record:
        return running.Result(document, None, record["error"], known=True)
    return running.Result(document, Summary.from_json(record), known=True)


def _record(result: Result, key: dict[str, Any]) -> dict[str, Any]:
    """The line of a result."""
    document = result.document
    head = {"index": document.index, "name": document.name, "sha256": document.digest, **key}
    return head | ({"error": result.error} if result.summary is None else result.summary.as_json())


def _take(result: Result, key: dict[str, Any], journal: Journal | None, page: Report | None, shown: _Shown) -> None:
    """Count a result, write it, and show it."""
    if journal is not None and not result.known:
        journal.write(_record(result, key))
    if page is not None:
        page.add(result)
    shown.known += result.known
    if result.summary is None:
        shown.failed += 1
        told = f"{visible(result.document.name)}: {visible(result.error or '')}"
        err.print(f"[bold red]error:[/bold red] {escape(told)}", highlight=False, soft_wrap=True)
    else:
        shown.done += 1
    if shown.as_json and not result.known:
        _print(json.dumps(_record(result, key), ensure_ascii=False, allow_nan=False))
    elif result.summary is not None and not result.known and not shown.quiet and not shown.as_json:
        _show(result.document.name, result.summary, shown)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's answer


def _show(name: str, summary: Summary, shown: _Shown) -> None:
    if shown.several:
        out.print(f"[bold]{escape(visible(name))}[/bold]", highlight=False, soft_wrap=True)
    if shown.explain:
        _explain(summary)
    else:
        _print(visible(summary.text) if out.is_terminal else summary.text)
        for note in summary.notes:
            err.print(f"note: {visible(name)}: {note}", markup=False, highlight=False, soft_wrap=True)
    if shown.several:
        _print("")


def _coloured(runs: list[Run], style: str = "") -> Text:
    text = Text()
    for run in runs:
        text.append(visible(run.text), f"bold {COLOURS[run.spans[0] % len(COLOURS)]}" if run.spans else style)
    return text


def _explain(summary: Summary) -> None:
    """Every sentence with its probability, the summary, its spans; what was copied has one colour here and there."""
    for sentence in summary.sentences:
        head = Text(
            f"{sentence.probability:6.3f} {'+' if sentence.chosen else ' '} ", "bold" if sentence.chosen else "dim"
        )
        out.print(head + _coloured(sentence_runs(summary, sentence), "" if sentence.chosen else "dim"), soft_wrap=True)
    out.print(Text("summary: ", "bold") + _coloured(summary_runs(summary)), soft_wrap=True)
    ended = "" if summary.ended == "stop" else "; ended by the limit of new tokens"
    chosen = sum(sentence.chosen for sentence in summary.sentences)
    told = f"copied: {summary.copied} of {len(summary.text)} characters; extracted: {chosen} of {len(summary.sentences)} sentences{ended}"
    out.print(told, highlight=False, soft_wrap=True)
    for span in summary.spans:
        places = ", ".join(f"{start} to {end}" for start, end in span.text)
        copied = Text("  ") + Text(visible(summary.text[slice(*span.place)]), "bold")
        out.print(copied + Text(f"  from {places}", "dim"), soft_wrap=True)
    for note in summary.notes:
        out.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _note(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def _interrupted(shown: _Shown, journal: Journal | None) -> None:
    """Say what stays, and end as an interrupted program does."""
    stays = "" if journal is None else f"; the same command with --resume goes on from {journal.path}"
    _note(f"interrupted after {shown.done + shown.failed} documents{stays}")
    raise typer.Exit(130)


def _close(shown: _Shown, output: Path | None, page: Report | None) -> None:
    """Where the results are, and how many failed."""
    if page is not None:
        out.print(
            f"Report: {escape(str(page.write()))}", highlight=False, soft_wrap=True
        ) if not shown.as_json else page.write()
    whole = shown.done + shown.failed
    if shown.failed or shown.several:
        failed = f", {shown.failed} failed" if shown.failed else ""
        known = f" ({shown.known} by an earlier run)" if shown.known else ""
        where = f" in {output}" if output is not None else ""
        _note(f"{shown.done} of {whole} documents summarized{where}{known}{failed}")
    sys.stdout.flush()
