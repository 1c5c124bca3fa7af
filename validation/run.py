"""Running checks and reporting on them: what `refimpl validate` does."""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from refimpl import backend as backends
from refimpl.errors import ConfigError
from validation import report
from validation.checks import Check, Finding, all_checks
from validation.claims.registry import Setting
from validation.environment import environment
from validation.report.text import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from refimpl.backend import Backend
    from validation.report.growth import Growth

__all__ = ["Line", "Validation", "validate"]


@dataclass(frozen=True)
class Line:
    """A check and what it found; `passed` is false too where fewer cases ran than were announced, or a figure is not a number."""

    check: Check
    finding: Finding
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the check holds, on no fewer cases than announced, with figures that are numbers."""
        if self.finding.verdict == "not run":
            return self.check.cases is None
        enough = self.finding.cases >= (self.check.cases or 1)
        number = self.finding.multiple is None or not math.isnan(self.finding.multiple)
        return self.finding.holds and enough and number


@dataclass(frozen=True)
class Validation:
    """The lines of one run, and what it was run on."""

    lines: tuple[Line, ...]
    announced: int  # checks
    backend: str
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether at least one check was announced, and every announced one ran and passed."""
        ran = [line for line in self.lines if line.finding.verdict != "not run"]
        return len(self.lines) == self.announced and bool(ran) and all(line.passed for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        lines = []
        for line in self.lines:
            described = {"id": line.check.id, "section": line.check.section, "statement": line.check.statement}
            figures = asdict(line.finding) | {
                "worst": cut(line.finding.worst),
                "announced": line.check.cases,
                "passed": line.passed,
                "seconds": round(line.seconds, 3),
            }
            lines.append(described | {key: _plain(value) for key, value in figures.items()})
        return {
            "passed": self.passed,
            "announced_checks": self.announced,
            "cases": sum(line.finding.cases for line in self.lines),
            "backend": self.backend,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "environment": environment(),
            "checks": lines,
        }

    def write(self, folder: str | os.PathLike[str], *, growth: Iterable[Growth] = ()) -> None:
        """Write index.html, report.json and junit.xml into `folder`, which is made if there is none (`validation.report.write`)."""
        report.write(self, folder, growth=growth)


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for, as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def validate(
    backend: Backend,
    *,
    only: list[str] | None = None,
    seed: int = 0,
    jobs: int = 1,
    advance: Callable[[Check, int, int], None] | None = None,
) -> Validation:
    """Run the checks (all, or those that begin with a prefix in `only`); `advance(check, index, count)` is called before each is waited for.

    A check that raises becomes a failing line, never a missing one. With `jobs` processes the findings are the same, sooner: a check depends on
    nothing but the setting. Raises ConfigError for `jobs` below 1, and above 1 for a backend that other processes cannot get by its name.
    """
    setting, began, lines = Setting(backend, seed), time.perf_counter(), []
    checks = all_checks(setting, only)
    with _answers(checks, setting, min(jobs, max(1, len(checks)))) as answers:
        for index, check in enumerate(checks):
            if advance:
                advance(check, index, len(checks))
            finding, seconds = answers[index]()
            lines.append(Line(check, finding, seconds))
    return Validation(tuple(lines), len(checks), backend.name, seed, time.perf_counter() - began)


def _answer(check: Check, setting: Setting) -> tuple[Finding, float]:
    """What a check finds, and in how many seconds; an exception is a finding that does not hold."""
    start = time.perf_counter()
    try:
        finding = check.run(setting)
    except Exception as error:
        finding = _raised(error)
    return finding, time.perf_counter() - start


def _raised(error: BaseException) -> Finding:
    return Finding(False, "raised", 0, f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _answers(checks: list[Check], setting: Setting, jobs: int) -> Iterator[list[Callable[[], tuple[Finding, float]]]]:
    """A function for each check that runs it, or waits for the process that does."""
    if jobs == 1:
        yield [functools.partial(_answer, check, setting) for check in checks]
        return
    if jobs < 1 or setting.backend.name != "numpy":
        expected = "jobs >= 1; 1 on a backend other than numpy, where processes would share one device"
        raise ConfigError("not so many processes", where="validate(jobs=)", expected=expected, got=jobs)
    context = multiprocessing.get_context("spawn")
    with _single_threaded(), ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(_answer_here, check.id, setting.seed) for check in checks]
        try:
            yield [functools.partial(_waited, future) for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def _waited(future: Future[tuple[Finding, float]]) -> tuple[Finding, float]:
    try:
        return future.result()
    except BrokenProcessPool as error:  # a process was killed, by the system for want of memory for one
        return _raised(error), 0.0


@functools.cache
def _checks_here(seed: int) -> dict[str, Check]:
    return {check.id: check for check in all_checks(Setting(backends.get("numpy"), seed))}


def _answer_here(identifier: str, seed: int) -> tuple[Finding, float]:
    """What a check finds in this process."""
    return _answer(_checks_here(seed)[identifier], Setting(backends.get("numpy"), seed))


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes that start now use a BLAS thread each, unless the user has said how many."""
    names = [name for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
