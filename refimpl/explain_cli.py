"""The command `refimpl explain`: which texts of the last stage of a model's training moved the next character that it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import refimpl
from refimpl import explaining
from refimpl.console import JsonOption, bar, out, print_json
from refimpl.model import EMBEDDED

if TYPE_CHECKING:
    from refimpl.explaining import Explanation, Stage

__all__ = ["explain"]


def explain(
    prompt: Annotated[str, typer.Argument(help="What the model reads.")],
    character: Annotated[
        str | None, typer.Option(help="What to explain; without it, what the model predicts before the stage.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="An embedded model, or a folder with a stage.json.")] = "tang",
    top: Annotated[int, typer.Option(help="How many texts to show: those that moved it most.", min=1)] = 10,
    steps: Annotated[
        int | None, typer.Option(help="Only so many steps of the stage, from its beginning.", min=1)
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    backend: Annotated[str, typer.Option("--backend", help="numpy, cupy or auto.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Explain the next character by the texts of the last stage of training: refimpl explain "春眠不觉晓，".

    Each text has a signed weight, by the exact path kernel; the weights add up to what the stage did to the character's logit.
    """
    stage = explaining.read_stage(EMBEDDED.get(model, model))
    loaded: Any = refimpl.load(model, backend=backend, dtype=dtype)
    with bar() as progress:
        task = progress.add_task("taking the steps again", total=steps or len(stage.batches))
        options: dict[str, Any] = {"character": character, "steps": steps, "advance": lambda: progress.advance(task)}
        found = explaining.explain(loaded, prompt, stage, **options)
    taken = steps or len(stage.batches)
    if as_json:
        print_json(_as_json(loaded, prompt, stage, taken, found))
    else:
        _show(loaded, prompt, stage, taken, found, top)


def _ordered(stage: Stage, steps: int, found: Explanation) -> list[int]:
    """The texts of the steps that were taken, those that moved the logit most first."""
    used = {number for batch in stage.batches[:steps] for number in batch}
    return sorted(used, key=lambda number: -abs(found.contributions[number]))


def _as_json(loaded: Any, prompt: str, stage: Stage, steps: int, found: Explanation) -> dict[str, Any]:
    characters = [loaded.tokenizer.decode([token]) for token in (found.token, *found.predicted)]
    weights = [
        {"weight": found.contributions[number], "number": number, "text": stage.texts[number]}
        for number in _ordered(stage, steps, found)
    ]
    return {
        "prompt": prompt,
        "character": characters[0],
        "steps": steps,
        "logit": {"before": found.initial, "after": found.final, "change": found.change},
        "sum_of_weights": sum(row["weight"] for row in weights),
        "residual": found.residual,
        "predicted": {"before": characters[1], "after": characters[2]},
        "texts": weights,
    }


def _show(loaded: Any, prompt: str, stage: Stage, steps: int, found: Explanation, top: int) -> None:
    name, before, after = (loaded.tokenizer.decode([token]) for token in (found.token, *found.predicted))
    moved = f"{found.initial:.4f} → {found.final:.4f} ({found.change:+.4f})"
    out.print(f"after {prompt!r}: logit of {name!r} {moved} in {steps} steps", highlight=False)
    out.print(f"predicted before the stage {before!r}, after it {after!r}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("weight", "share"):
        table.add_column(title, justify="right")
    table.add_column("text")
    order = _ordered(stage, steps, found)
    size = sum(abs(found.contributions[number]) for number in order)
    for number in order[:top]:
        weight, text = found.contributions[number], " ".join(stage.texts[number].splitlines())
        table.add_row(f"{weight:+.5f}", f"{abs(weight) / (size or 1.0):.1%}", escape(text))
    out.print(table)
    total = sum(found.contributions[number] for number in order)
    out.print(f"{len(order):,} texts: sum {total:+.6f}, residual {found.residual:+.1e}", highlight=False)
