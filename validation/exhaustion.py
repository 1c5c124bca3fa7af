"""`python -m validation.exhaustion`: statements about Mitchell's arithmetic on all pairs of operands of 16 bits (`validation.pairs`).

    python -m validation.exhaustion --claim MITCHELL-1 --bits 16 --jobs 2
    python -m validation.exhaustion --scheduler tcp://host:8786          the workers of a Dask scheduler

The 2^32 pairs are answered in 256 batches of rows, each in blocks that a processor's second cache holds, by processes or by the workers of a
scheduler, in any order. Every second the tally so far is written to a state file, in one piece: a run that is interrupted, killed too, goes on from
there and loses that second and the batches under way. A state names the version, the parameters, and a checksum of the source of every function
that the answers come from; if one of them is another now, the run starts anew. No symmetry is used: every pair is computed.

It exits with 1 if a pair is wrong, which is printed, or if counts and sums are not those of theory.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib
import itertools
import json
import multiprocessing
import platform
import time
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import refimpl
from refimpl import mitchell
from refimpl.console import JsonOption, bar, cores, err, out, print_json
from refimpl.errors import BackendError, ConfigError, RefimplError
from refimpl.files import replace_file
from refimpl.scheduler import connected, end_with_the_parent
from validation import pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from validation.pairs import Counterexample, Tally

__all__ = ["State", "differences", "exhaust", "main", "means", "start"]

SAVE_EVERY = 1.0  # seconds


# --- the state ------------------------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """How far a run is: batches that are done, and what they came to."""

    claim: str
    bits: int
    definition: str
    batches: int
    version: str = refimpl.__version__
    done: set[int] = field(default_factory=set)
    tally: Tally = field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    starts: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What a run must have in common with an earlier one to go on from it."""
        return {name: getattr(self, name) for name in ("claim", "bits", "definition", "version", "batches")}

    @property
    def complete(self) -> bool:
        """Whether all batches are done."""
        return len(self.done) == self.batches

    def as_json(self) -> dict[str, Any]:
        """The whole of it, with a checksum."""
        body = {**vars(self), "done": _runs(self.done)}
        return body | {"checksum": _checksum(body)}

    def save(self, path: Path) -> None:
        """Write it in one piece: a reader sees the old one or the new one."""
        text = json.dumps(self.as_json(), indent=1) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file: file.write(text.encode()))
        except OSError as error:
            got = f"{type(error).__name__}: {error}"
            remedy = "name a folder that can be written with --state"
            raise ConfigError("the state cannot be written", where=path, got=got, remedy=remedy) from None


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """[first, last] of each run of consecutive numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _loaded(path: Path) -> State | None:
    """The state in a file; None where there is none. Raises ConfigError for a file that is no state, or was changed."""
    try:
        body = json.loads(path.read_text("utf-8"))
        checksum = body.pop("checksum")
        if checksum != _checksum(body):
            raise ValueError("its checksum is another")
        done = {number for first, last in body["done"] for number in range(first, last + 1)}
        return State(**{**body, "done": done})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "remove the file, or name another folder with --state"
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("this is no state of an exhaustion", where=path, got=got, remedy=remedy) from None


def _opened(path: Path, fresh: State, notify: Callable[[str], None]) -> State:
    """The state to go on from: that of the file if it is of the same definition and parameters, or a fresh one."""
    state = _loaded(path)
    if state is None:
        return fresh
    other = [
        f"{name} {state.key[name]} is now {value}" for name, value in fresh.key.items() if state.key[name] != value
    ]
    if other:
        notify(f"{path} is of another run ({'; '.join(other)}): starting anew")
        return fresh
    if state.done:
        notify(f"going on from {path}: {len(state.done)} of {state.batches} batches are done")
    return state


def _batches(bits: int) -> int:
    """In how many parts the first operands are answered: of 16 numbers and more."""
    return 1 << min(8, bits - 4)


# --- running ----------------------------------------------------------------------------------------------------------------------------


@cache
def _definition(claim: str, functions: tuple[Callable[..., Any], ...]) -> str:
    """`pairs.definition`, once for each set of functions in a process."""
    return pairs.definition(pairs.SUBJECTS[claim])


def _definition_here(claim: str) -> str:
    return _definition(claim, tuple(getattr(mitchell, name) for name in pairs.SUBJECTS[claim].functions))


def _answered(claim: str, bits: int, batch: int, expected: str) -> tuple[Tally, Counterexample | None, float]:
    """One batch: its tally, what is wrong, and processor seconds. Runs in a worker, which must have the same definition."""
    if _definition_here(claim) != expected:
        raise ConfigError(
            "a worker has another definition",
            where=platform.node(),
            expected=f"refimpl {refimpl.__version__}, definition {expected[:12]}",
            got=_definition_here(claim)[:12],
            remedy="install the same version of refimpl on every machine",
        )
    began = time.thread_time()
    chosen, rows = pairs.subject(claim, bits), (1 << bits) // _batches(bits)
    found, wrong = pairs.tally(chosen, bits, batch * rows, (batch + 1) * rows)
    return found, wrong, time.thread_time() - began


def _dask(address: str) -> tuple[Any, concurrent.futures.Executor, int]:
    """A client, its executor and how many batches to have under way. Raises ConfigError where there is no Dask, or nobody at the address."""
    client, threads = connected(address, "--scheduler")
    return client, client.get_executor(pure=False), 2 * threads


def _results(
    batches: list[int], work: Callable[..., Any], executor: concurrent.futures.Executor | None, window: int
) -> Generator[tuple[int, Any]]:
    """(batch, result) as they come, with at most `window` under way; one after the other, here, without an executor."""
    if executor is None:
        yield from ((batch, work(batch)) for batch in batches)
        return
    left, waiting = iter(batches), {}
    try:
        while True:
            for batch in itertools.islice(left, window - len(waiting)):
                waiting[executor.submit(work, batch)] = batch
            if not waiting:
                return
            for each in concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED).done:
                yield waiting.pop(each), each.result()
    finally:
        for each in waiting:
            each.cancel()


@dataclass(frozen=True)
class _Work:
    """`_answered` of a batch: what can be sent to another process or machine."""

    claim: str
    bits: int
    definition: str

    def __call__(self, batch: int) -> tuple[Tally, Counterexample | None, float]:
        return _answered(self.claim, self.bits, batch, self.definition)


def exhaust(
    claim: str,
    bits: int,
    path: Path,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    advance: Callable[[State], None] = lambda state: None,
    notify: Callable[[str], None] = lambda text: None,
) -> tuple[State, Counterexample | None]:
    """Go through the pairs that are left, saving the state as it goes; the final state, or that before a pair that is wrong.

    Parameters
    ----------
    claim, bits : what, as `validation.pairs.subject` has it
    path : the state file; its folder is made
    jobs : processes; 1 computes in this one
    scheduler : address of a Dask scheduler, whose workers answer instead
    advance : called with the state at the beginning and after each batch
    notify : called with a line on where a run goes on, or why it starts anew

    Raises
    ------
    ConfigError
        if there is nothing of that name, the file is no state or cannot be written, there is no such scheduler, or a worker has another definition.
    BackendError
        if a process ends before it answers.
    """
    chosen = pairs.subject(claim, bits)
    if jobs < 1:
        raise ConfigError("too few processes", where="--jobs", expected="1 or more", got=jobs)
    state = _opened(path, State(claim, bits, _definition_here(chosen.claim), _batches(bits)), notify)
    left = [batch for batch in range(state.batches) if batch not in state.done]
    advance(state)
    if not left:
        return state, None
    client, executor, window = None, None, 1
    if scheduler is not None:
        client, executor, window = _dask(scheduler)
    elif jobs > 1:
        spawn = multiprocessing.get_context("spawn")
        executor = concurrent.futures.ProcessPoolExecutor(jobs, spawn, end_with_the_parent)
        window = 2 * jobs
    state.starts += 1
    last = saved = time.monotonic()
    results = _results(left, _Work(claim, bits, state.definition), executor, window)
    try:
        for batch, (found, wrong, seconds) in results:
            if wrong is not None:
                return state, wrong
            now = time.monotonic()
            state.done.add(batch)
            state.tally = pairs.added(state.tally, found)
            state.cpu_seconds, state.wall_seconds = state.cpu_seconds + seconds, state.wall_seconds + now - last
            last = now
            if now - saved > SAVE_EVERY:
                state.save(path)
                saved = now
            advance(state)
    except concurrent.futures.BrokenExecutor as error:
        remedy = "the same command goes on from the state; give fewer --jobs if memory ran out"
        raise BackendError("a worker ended before it answered", where=path, got=error, remedy=remedy) from None
    finally:
        state.save(path)
        results.close()
        if executor is not None:
            executor.shutdown()
        if client is not None:
            client.close()
    return state, None


# --- what came out ------------------------------------------------------------------------------------------------------------------------


def differences(state: State) -> list[str]:
    """Counts and sums that are not those of theory."""
    expected = pairs.subject(state.claim, state.bits).theory(state.bits)
    return [
        f"{name} is {state.tally.get(name)}, in theory {value}"
        for name, value in expected.items()
        if state.tally.get(name) != value
    ]


def means(tally: Tally) -> dict[str, Fraction]:
    """The mean error, the share of all errors in all products, and the mean relative error (known to 2^-35); of quotients likewise."""
    found, count = {}, tally.get("pairs", 0)
    if "errors" in tally:
        found["mean error"] = Fraction(tally["errors"], count)
        found["errors over products"] = Fraction(tally["errors"], tally["products"])
        found["mean relative error"] = Fraction(tally["relative"], count << pairs.SCALE)
    if "quotients" in tally:
        found["mean excess over the floor"] = Fraction(tally["quotients"] - tally["floors"], count)
        found["quotients over floors"] = Fraction(tally["quotients"], tally["floors"])
    return found


def _record(state: State, command: str) -> dict[str, Any]:
    """What is kept of a complete run."""
    versions = {"refimpl": state.version, "numpy": np.__version__, "python": platform.python_version()}
    return {
        "claim": state.claim,
        "statement": pairs.subject(state.claim, state.bits).statement,
        "bits": state.bits,
        "tally": state.tally,
        "theory": pairs.subject(state.claim, state.bits).theory(state.bits),
        "means": {name: f"{value} = {float(value):.12g}" for name, value in means(state.tally).items()},
        "definition": state.definition,
        "command": command,
        "starts": state.starts,
        "cpu_seconds": round(state.cpu_seconds, 1),
        "wall_seconds": round(state.wall_seconds, 1),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _shown(state: State) -> None:
    out.print(f"[bold]{state.claim}[/bold], {state.bits} bits: {escape(pairs.SUBJECTS[state.claim].statement)}")
    for name, count in state.tally.items():
        out.print(f"  {name:<28}{count:>28,}", highlight=False)
    for name, value in means(state.tally).items():
        out.print(f"  {name:<28}{float(value):>28.12f}  = {value}", highlight=False, soft_wrap=True)
    seconds = f"{state.cpu_seconds:.1f} s of processors, {state.wall_seconds:.1f} s by the clock, {state.starts} starts"
    out.print(f"  {seconds}", highlight=False)


def _run(claim: str, bits: int, path: Path, jobs: int, scheduler: str | None) -> tuple[State, Counterexample | None]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    described = TextColumn("{task.description}")
    with bar(described, *columns) as progress:
        task = progress.add_task(f"{claim}, {bits} bits", total=None)
        return exhaust(
            claim,
            bits,
            path,
            jobs=jobs,
            scheduler=scheduler,
            advance=lambda state: progress.update(task, completed=len(state.done), total=state.batches),
            notify=lambda text: err.print(text, markup=False, highlight=False, soft_wrap=True),
        )


def main(
    claim: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(pairs.SUBJECTS)}; all without any. May be repeated.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Width of the operands: 8, 12 or 16.")] = 16,
    jobs: Annotated[int, typer.Option(help="Processes; without it, as many as there are cores to use.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:port, whose workers answer instead.")
    ] = None,
    state: Annotated[Path, typer.Option(help="Folder of the state files.")] = Path("exhaustion"),
    record: Annotated[Path | None, typer.Option(help="Write what came out into this folder too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check statements about Mitchell's arithmetic on all pairs of operands; the same command again goes on where one was interrupted."""
    rows: list[dict[str, Any]] = []
    good = True
    for name in claim or list(pairs.SUBJECTS):
        pairs.subject(name, bits)
        path = state / f"{name}-{bits}.json"
        try:
            done, wrong = _run(name, bits, path, jobs or cores(), scheduler)
        except KeyboardInterrupt:
            err.print(f"interrupted; the same command goes on from {path}", markup=False, highlight=False)
            raise typer.Exit(130) from None
        other = [] if wrong else differences(done)
        good = good and not wrong and not other
        command = f"python -m validation.exhaustion --claim {name} --bits {bits}"
        rows.append(_record(done, command) | {"holds": not wrong and not other, "wrong": wrong and vars(wrong)})
        if record is not None and rows[-1]["holds"]:
            text = json.dumps(_record(done, command), indent=1, ensure_ascii=False) + "\n"
            record.mkdir(parents=True, exist_ok=True)
            replace_file(record / f"{name}.json", lambda file, text=text: file.write(text.encode()))
        if not as_json:
            _shown(done)
            verdict = "[bold green]holds[/bold green] for all pairs; counts and sums are those of theory"
            if wrong:
                verdict = f"[bold red]FAILS[/bold red]: {escape(str(wrong))}"
            elif other:
                verdict = f"[bold red]FAILS[/bold red]: {escape('; '.join(other))}"
            out.print(f"  {verdict}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(rows)
    raise typer.Exit(0 if good else 1)


def start() -> None:
    """Run the command; errors of this project are printed as they are, without a traceback, and exit with 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except RefimplError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    importlib.import_module(
        "validation.exhaustion"
    ).start()  # under its own name, by which other machines know what they get
