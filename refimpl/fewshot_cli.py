"""The commands `refimpl fewshot ...`: published prompts and one's own, answers written or chosen, and classification without examples."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from refimpl import fewshot, fewshot_classify
from refimpl.console import (
    JsonOption,
    LowMemoryOption,
    ParallelOption,
    TransportOption,
    bar,
    opened,
    out,
    print_json,
)
from refimpl.errors import ConfigError, TextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["app"]

app = typer.Typer(
    name="fewshot",
    help="Few-shot prompts and zero-shot classification, as published with CPM-LM.",
    no_args_is_help=True,
)
PromptArgument = Annotated[str, typer.Argument(help="A prompt's name (refimpl fewshot list), or a TOML file.")]
ModelOption = Annotated[str, typer.Option("--model", help="Name of an embedded model, or a model's folder or file.")]
DtypeOption = Annotated[str, typer.Option(help="float16, float32 or float64.")]
BackendOption = Annotated[str, typer.Option("--backend", help="numpy, cupy or auto.")]
PositionsOption = Annotated[
    int | None, typer.Option(help="Extend the position table hierarchically to so many positions.")
]


@app.command("list")
def list_prompts(as_json: JsonOption = False) -> None:
    """List the prompts and the classification tasks that come with this package."""
    prompts, tasks = fewshot.prompts(), fewshot_classify.tasks()
    if as_json:
        kinds = [(prompts, "prompt"), (tasks, "task")]
        print_json(
            [
                {"kind": kind, "name": each.name, "title": each.title, "source": each.source}
                for group, kind in kinds
                for each in group  # type: ignore[attr-defined]
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "command", "what"):
        table.add_column(title, no_wrap=title != "what")
    for prompt in prompts:
        table.add_row(prompt.name, "run", escape(prompt.title))
    for task in tasks:
        table.add_row(task.name, "classify", escape(task.title))
    out.print(table)


@app.command()
def show(name: PromptArgument, as_json: JsonOption = False) -> None:
    """Show a prompt: its text, its stop rule, its source, and the answers published with it."""
    prompt = fewshot.read(name)
    if as_json:
        print_json(
            {
                "name": prompt.name,
                "title": prompt.title,
                "source": prompt.source,
                "prompt": prompt.prompt,
                "stop": list(prompt.stop),
                "published": [each._asdict() for each in prompt.published],
                "options": dict(prompt.options),
            }
        )
        return
    options = ", ".join(f"{name} = {value}" for name, value in prompt.options.items()) or "none"
    for line in (
        f"[bold]{escape(prompt.title)}[/bold]",
        f"source:  {escape(prompt.source)}",
        f"stop:    {escape(', '.join(map(repr, prompt.stop)))}",
        f"options: {options}",
        "",
        f"{escape(prompt.prompt)}",
        "",
        *(f"published: {escape(each.query)} -> {escape(each.answer or '(no answer)')}" for each in prompt.published),
    ):
        out.print(line, highlight=False, soft_wrap=True)


@app.command()
def run(
    name: PromptArgument,
    query: Annotated[
        list[str] | None, typer.Argument(help="What {query} stands for; without any, the published ones.")
    ] = None,
    model: ModelOption = "tang",
    queries: Annotated[
        str | None, typer.Option("--queries", help="A UTF-8 file with a query a line; - is standard input.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers to each query.", min=1)] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer at most; without it, what the prompt says.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; without it, what the prompt says, or 1.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only so many of the most probable tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the fewest tokens with this probability together.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token: --temperature 0.")] = False,
    beams: Annotated[int | None, typer.Option(help="Search with so many beams instead, and show all.", min=1)] = None,
    length_penalty: Annotated[float, typer.Option(help="With --beams: the power of the length.")] = 1.0,
    choice: Annotated[
        list[str] | None, typer.Option(help="Score this answer instead of writing one; give two or more.")
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="With --choice: by the mean over tokens, not the sum.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0,
    rows: Annotated[int, typer.Option(help="Answers generated side by side, at most.", min=1)] = 16,
    positions: PositionsOption = None,
    dtype: DtypeOption = "float32",
    backend: BackendOption = "auto",
    low_memory: LowMemoryOption = False,
    parallel: ParallelOption = False,
    transport: TransportOption = "host",
    as_json: JsonOption = False,
) -> None:
    """Answer queries by a few-shot prompt: refimpl fewshot run word_translation 鱼 --model CPM."""
    prompt, asked = fewshot.read(name), [*(query or []), *(_lines(queries) if queries is not None else [])]
    asked = asked or [each.query for each in prompt.published]
    fewshot.texts(prompt, asked)
    way = _way(greedy, temperature, beams, samples, choice)
    with (
        opened(model, backend, dtype, None, parallel, transport, low_memory, positions) as loaded,
        _progress("answering", len(asked)) as advance,
    ):
        if way == "choose":
            found = [_chosen(loaded, prompt, each, choice or [], mean, advance) for each in asked]
        elif way == "beams":
            found = [
                _searched(loaded, prompt, each, beams or 1, length_penalty, max_new_tokens, advance) for each in asked
            ]
        else:
            options = {"max_new_tokens": max_new_tokens, "top_k": top_k, "top_p": top_p}
            answers = fewshot.complete(
                loaded,
                prompt,
                asked,
                samples=samples,
                seed=seed,
                rows=rows,
                advance=advance,
                temperature=0.0 if greedy else temperature,
                **options,
            )
            found = [
                [{"text": each.text, "ended": each.ended, "tokens": len(each.ids)} for each in row] for row in answers
            ]
    _print_answers(prompt, asked, found, as_json)


def _way(greedy: bool, temperature: float | None, beams: int | None, samples: int, choice: list[str] | None) -> str:
    """How answers are found; options that contradict each other are refused before anything is loaded."""
    ways = [
        ("--beams", beams is not None),
        ("--choice", bool(choice)),
        ("--greedy", greedy),
        ("--temperature", temperature is not None),
    ]
    given = [name for name, asked in ways if asked]
    if len(given) > 1:
        raise ConfigError(
            "options contradict each other", where="refimpl fewshot run", expected="one of them", got=", ".join(given)
        )
    if samples > 1 and given not in ([], ["--temperature"]):
        remedy = "leave out --samples"
        raise ConfigError(
            "only sampling has several samples", where="--samples", got=f"{samples} with {given[0]}", remedy=remedy
        )
    return {"--beams": "beams", "--choice": "choose"}.get(given[0], "sample") if given else "sample"


def _lines(file: str) -> list[str]:
    """The queries of a file, one a line, but for blank lines."""
    try:
        content = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError("the file cannot be read", where=file, got=f"{type(error).__name__}: {error}") from None
    lines = [line for line in content.split("\n") if line.strip()]
    if not lines:
        raise TextError("there is no query", where=file, expected="one query a line")
    return lines


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    with bar() as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _chosen(
    loaded: Any, prompt: fewshot.Prompt, query: str, choices: list[str], mean: bool, advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """The choices, best first, each scored with its end."""
    end = prompt.stop[0]
    found = fewshot.choose(loaded, prompt.text(query), choices, normalize="mean" if mean else "sum", end=end)
    advance()
    return [
        {"text": choices[index], "score": found.scores[index], "tokens": len(found.choices[index].ids)}
        for index in found.order
    ]


def _searched(
    loaded: Any,
    prompt: fewshot.Prompt,
    query: str,
    beams: int,
    length_penalty: float,
    max_new_tokens: int | None,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    found = fewshot.search(
        loaded, prompt, query, beams=beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens
    )
    advance()
    return [{"text": each.text, "score": score, "ended": each.ended, "tokens": len(each.ids)} for each, score in found]


def _print_answers(
    prompt: fewshot.Prompt, queries: list[str], found: list[list[dict[str, Any]]], as_json: bool
) -> None:
    published = {each.query: each.answer for each in prompt.published}
    if as_json:
        rows = [
            {"query": query, "answers": answers} | ({"published": published[query]} if published.get(query) else {})
            for query, answers in zip(queries, found, strict=True)
        ]
        print_json({"prompt": prompt.name, "queries": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    scored = any("score" in answer for answers in found for answer in answers)
    for title in (
        "query",
        *(["score"] if scored else []),
        "answer",
        *(["published"] if any(published.values()) else []),
    ):
        table.add_column(title, justify="right" if title == "score" else "left")
    for query, answers in zip(queries, found, strict=True):
        for number, answer in enumerate(answers):
            cells = [escape(_first(query)) if number == 0 else ""]
            cells += [f"{answer['score']:.4f}"] if scored else []
            cells += [escape(answer["text"]) + (" .." if answer.get("ended") == "length" else "")]
            cells += [escape(published.get(query) or "") if number == 0 else ""] if any(published.values()) else []
            table.add_row(*cells)
    out.print(table)


def _first(query: str) -> str:
    return query if len(query) <= 30 else query[:29] + "…"


@app.command()
def classify(
    task: Annotated[str, typer.Argument(help="tnews, iflytek, ocnli, or a TOML file.")],
    file: Annotated[str, typer.Argument(help="Examples, a JSON object a line, as CLUE's; - is standard input.")],
    model: ModelOption = "tang",
    labels: Annotated[Path | None, typer.Option(help="CLUE's labels.json, for its labels and their order.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="The true label and drawn ones, so many together; CPM's scripts use 4.", min=2)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of that drawing; without it, the script's.")] = None,
    chinese: Annotated[bool, typer.Option("--chinese", help="Chinese names of labels (TNEWS).")] = False,
    length: Annotated[int | None, typer.Option(help="Positions of a row; without it, the model's.", min=2)] = None,
    positions: PositionsOption = None,
    dtype: DtypeOption = "float32",
    backend: BackendOption = "auto",
    low_memory: LowMemoryOption = False,
    parallel: ParallelOption = False,
    transport: TransportOption = "host",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line, the last one a summary.")
    ] = False,
) -> None:
    """Classify texts by the label that makes them most likely: refimpl fewshot classify tnews dev.json --model CPM."""
    chosen = fewshot_classify.read_task(task)
    chosen = chosen if labels is None else fewshot_classify.with_labels(chosen, labels)
    given, total = _examples(file)
    options: dict[str, Any] = {"candidates": candidates, "seed": seed, "length": length}
    count = labelled = correct = ties = 0
    with (
        opened(model, backend, dtype, None, parallel, transport, low_memory, positions) as loaded,
        _progress(f"classifying {chosen.name}", total) as advance,
    ):
        found = fewshot_classify.classify(loaded, chosen, given, names="chinese" if chinese else "name", **options)
        for count, each in enumerate(found, 1):
            labelled, correct = labelled + (each.truth is not None), correct + (each.correct is True)
            ties += each.tied
            _print_prediction(count, each, as_json)
            advance()
    summary = {"task": chosen.name, "examples": count, "labelled": labelled, "correct": correct, "ties": ties}
    if as_json:
        accuracy = correct / labelled if labelled else None
        print(json.dumps(summary | {"accuracy": accuracy}, ensure_ascii=False))  # noqa: T201 - the command's answer
    else:
        told = f", {correct} of {labelled} right: {correct / labelled:.1%}" if labelled else ", none with a label"
        out.print(f"{count} examples{told}" + (f", {ties} tied" if ties else ""), highlight=False)


def _examples(file: str) -> tuple[Iterator[dict[str, Any]], int | None]:
    """The examples as they are read, and how many there are, where that is known."""
    if file == "-":
        return fewshot_classify.examples(sys.stdin), None
    return fewshot_classify.examples(Path(file)), sum(1 for _ in fewshot_classify.examples(Path(file)))


def _print_prediction(number: int, found: fewshot_classify.Prediction, as_json: bool) -> None:
    losses = {label.value: loss for label, loss in zip(found.candidates, found.losses, strict=True)}
    truth = None if found.truth is None else found.truth.value
    if as_json:
        line = {
            "example": number,
            "label": truth,
            "predicted": found.predicted.value,
            "name": found.predicted.name,
            "correct": found.correct,
            "tied": found.tied,
            "tokens": found.tokens,
            "losses": losses,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)  # noqa: T201 - the command's answer
        return
    mark = "" if found.correct is None else "  right" if found.correct else f"  wrong: {truth}"
    name = f"{found.predicted.value} {found.predicted.name}"
    out.print(f"{number}  {escape(name)}  loss {min(found.losses):.4f}{escape(mark)}", highlight=False)
