"""Fuzz the readers: `python -m tests.fuzz FORMAT --seconds N`; FORMAT is one of those in this folder, or all.

Mutants of good files, one in twenty a file that a structure-aware strategy builds. Prints what came of them as JSON; an input for which a
property does not hold is kept, and the command exits with 1. An interruption (SIGINT or SIGTERM) stops it with the tally so far.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parent.parent))

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

import fuzz
from fuzz import harness
from fuzz.formats import FORMATS, module


def structured(form: str, count: int, seed: int) -> list[dict[str, bytes]]:
    """`count` files of the format's structure-aware strategy."""
    found: list[dict[str, bytes]] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(module(form).files())
    def collect(files: dict[str, bytes]) -> None:
        found.append(files)

    collect()
    return found


def run(
    form: str, seconds: float, seed: int, keep: Path, differential: bool, limit: int | None, advance: Any
) -> dict[str, Any]:
    """Fuzz one format for some seconds or until interrupted; the tally, with the inputs for which a property did not hold."""
    subject, tally, broken = module(form), harness.Tally(), []
    library, accepts = (getattr(subject, name, None) if differential else None for name in ("differential", "accepts"))
    stream, rng = harness.mutants(subject, seed), random.Random(seed)
    pool: list[dict[str, bytes]] = []
    began, last, interrupted = time.monotonic(), 0.0, True
    with harness.scratch() as folder, suppress(KeyboardInterrupt):
        while (spent := time.monotonic() - began) < seconds and (limit is None or tally.inputs < limit):
            if tally.inputs % 1000 == 0:
                pool = structured(form, 50, rng.randrange(2**32))
            files = pool.pop() if pool and rng.random() < 0.05 else next(stream)
            try:
                harness.examine(files, folder, tally, library, accepts)
            except harness.BrokenPropertyError as error:
                broken.append(str(error)[:300])
                _keep(keep / f"{form}-{seed}-{tally.inputs}", files, str(error))
            if spent - last > 0.2:
                advance(spent, tally.inputs)
                last = spent
        interrupted = False
    return {
        "format": form,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "interrupted": interrupted,
        "broken": broken,
    } | tally.as_json()


def _keep(folder: Path, files: dict[str, bytes], why: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "WHY.txt").write_text(why, "utf-8")


def main(
    form: Annotated[str, typer.Argument(help=f"One of {', '.join(FORMATS)}; or all.")],
    seconds: Annotated[float, typer.Option(help="For each format.")] = 60,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    keep: Annotated[Path, typer.Option(help="Where inputs are kept for which a property does not hold.")] = Path(
        "fuzz-found"
    ),
    differential: Annotated[bool, typer.Option(help="Compare what is accepted with an independent library.")] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after so many inputs.")] = None,
) -> None:
    """Fuzz the readers of `weights_io`."""
    warnings.simplefilter("error")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    harness.prepare()
    bad = False
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for each in FORMATS if form == "all" else [form]:
            task = progress.add_task(each, total=seconds)
            result = run(
                each, seconds, seed, keep, differential, limit,
                lambda spent, count, task=task, each=each: progress.update(task, completed=spent, description=f"{each}: {count:,} inputs"),
            )  # fmt: skip
            bad = bad or bool(result["broken"])
            print(json.dumps(result), flush=True)  # noqa: T201
            if result["interrupted"]:
                break
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    assert fuzz
    typer.run(main)
