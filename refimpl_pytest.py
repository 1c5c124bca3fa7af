"""The plugin for pytest: the fixture `conforms`, the mark `golden_vectors`, and a summary of what was checked.

    def test_mine(conforms):
        conforms(my_softmax, "softmax", dtype="float32", search=100)

    @pytest.mark.golden_vectors("softmax", dtype=["float32", "float16"])
    def test_each(golden_vector):
        golden_vector.judge(my_softmax(*golden_vector.arrays, **golden_vector.params))

pytest imports this module in every run where the package is installed: nothing is imported here but pytest and the standard library, and nothing
is done before a test asks for it; it is a module of its own, since a project may have a package `validation` itself. `-p no:refimpl` leaves it out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from validation.conformance import Report, Row
    from validation.search import Outcome
    from validation.tolerance import Verdict
    from validation.vectors import Vector

__all__ = ["Conforms", "GoldenVector"]

MARK, ARGUMENT, PROPERTY = "golden_vectors", "golden_vector", "conforms"
_SEED_OF_SEARCH = 0
_HELP = (
    f'{MARK}(component, dtype="float32", dialect=None): run the test once for each golden vector of a component, in each dtype of a '
    f"list; the vector is the argument `{ARGUMENT}` (refimpl)"
)


# --- the fixture --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conforms:
    """What the fixture `conforms` is: call it with a function and a component."""

    properties: list[tuple[str, object]]

    def __call__(
        self,
        function: Callable[..., Any],
        component: str,
        *,
        dialect: str | None = None,
        dtype: str | Iterable[str] = "float32",
        seed: int | None = None,
        convert: Callable[[Any], Any] | None = None,
        search: int = 0,
    ) -> None:
        """Raise AssertionError with the whole report unless `function` conforms; then search `search` calls for one that fails.

        The other arguments are those of `validation.check`; of several dtypes each is checked, and all reports are raised at once.
        """
        __tracebackhide__ = True
        failures = []
        for each in _several(dtype):
            report = _check(function, component, dialect, each, seed, convert)
            self._record(component, dialect, each, report.rows, report.announced)
            failures += [] if report.passed else [str(report)]
        if failures:
            raise AssertionError("\n\n".join(failures))
        for each in _several(dtype) if search else ():
            self.search(function, component, dialect=dialect, dtype=each, seed=seed, convert=convert, examples=search)

    def search(
        self,
        function: Callable[..., Any],
        component: str,
        *,
        dialect: str | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        convert: Callable[[Any], Any] | None = None,
        examples: int = 100,
    ) -> None:
        """Raise AssertionError with the smallest failing call that a search finds (`validation.search`)."""
        __tracebackhide__ = True
        found = _examine(function, component, dialect, dtype, seed, convert, examples)
        described = _described(component, dialect, dtype) | {"searched": found.answered, "discarded": found.discarded}
        _add(self.properties, described | {"passed": found.counterexample is None})
        if found.counterexample is not None:
            raise AssertionError(f"a search found a failing call ({found}):\n\n{found.counterexample}")

    def _record(self, component: str, dialect: str | None, dtype: str, rows: tuple[Row, ...], announced: int) -> None:
        passed = sum(row.verdict.passed for row in rows)
        figures: dict[str, Any] = {
            "cases": len(rows),
            "announced": announced,
            "passed": passed == announced > 0,
            "failed": len(rows) - passed,
        }
        if rows:
            worst = max(rows, key=lambda row: (not row.verdict.passed, row.verdict.multiple))
            figures |= {"worst": _number(worst.verdict.multiple), "worst_case": worst.id or worst.case}
        _add(self.properties, _described(component, dialect, dtype) | figures)


def _several(dtype: str | Iterable[str]) -> tuple[str, ...]:
    """The dtypes that are asked for; none is an error, for nothing would be checked."""
    several = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    if not several:
        from refimpl.errors import ConfigError

        raise ConfigError(
            "no dtype is asked for", expected='one, or a list such as ["float32", "float16"]', got=repr(dtype)
        )
    return several


def _check(function: Any, component: str, dialect: Any, dtype: str, seed: Any, convert: Any) -> Report:
    from validation import conformance

    return conformance.check(function, component, dialect=dialect, dtype=dtype, seed=seed, convert=convert)


def _examine(
    function: Any, component: str, dialect: Any, dtype: str, seed: Any, convert: Any, examples: int
) -> Outcome:
    from validation import search

    start = _SEED_OF_SEARCH if seed is None else seed
    return search.examine(
        function, component, dialect=dialect, dtype=dtype, seed=start, convert=convert, examples=examples
    )


def _described(component: str, dialect: str | None, dtype: str) -> dict[str, Any]:
    return {"component": component, "dialect": dialect, "dtype": dtype}


def _number(value: float) -> float | str:
    """A number that JSON has, of three digits."""
    return float(f"{value:.3g}") if math.isfinite(value) else str(value)


def _add(properties: list[tuple[str, object]], figures: dict[str, Any]) -> None:
    """Record what was checked as a property of the test: it goes into `--junit-xml`, and from workers to the summary."""
    properties.append((PROPERTY, json.dumps(figures)))


@pytest.fixture
def conforms(request: pytest.FixtureRequest) -> Conforms:
    """conforms(function, component, dtype=..., dialect=..., seed=..., convert=..., search=...): raise the report unless it conforms."""
    return Conforms(request.node.user_properties)


# --- the mark -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class GoldenVector:
    """One golden vector in one dtype: the call, and `judge` for the answer."""

    vector: Vector
    component: str
    dtype: str
    announced: int  # how many there are beside it
    dialect: str | None = None  # the one that was asked for
    judged: bool = False
    properties: list[tuple[str, object]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The number of the vector: "softmax-7"."""
        return self.vector.id

    @property
    def key(self) -> str:
        """The name of its test: "softmax-7-float32"."""
        return f"{self.id}-{self.dtype}"

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the call, floating ones in the dtype: fresh copies."""
        return self.vector.positional(self.dtype)

    @property
    def params(self) -> dict[str, Any]:
        """The other arguments, by name."""
        return self.vector.params(self.dtype)

    @property
    def hard(self) -> str:
        """Why the vector is hard."""
        return self.vector.hard

    def judge(self, answer: Any) -> Verdict:
        """The verdict on an answer (an array of any library); raises AssertionError with the place and the numbers if it is wrong."""
        __tracebackhide__ = True
        return self._verdict(lambda *arrays, **params: answer, None)

    def check(self, function: Callable[..., Any], convert: Callable[[Any], Any] | None = None) -> Verdict:
        """Call `function` with the arguments of the vector, arrays through `convert`, and judge what it returns or raises."""
        __tracebackhide__ = True
        return self._verdict(function, convert)

    def _verdict(self, function: Callable[..., Any], convert: Callable[[Any], Any] | None) -> Verdict:
        __tracebackhide__ = True
        from validation import conformance

        row = conformance.judged(function, self.component, self.vector, self.dtype, convert or (lambda array: array))
        self.judged = True
        figures: dict[str, Any] = {"cases": 1, "announced": self.announced, "passed": row.verdict.passed}
        figures |= {
            "failed": int(not row.verdict.passed),
            "worst": _number(row.verdict.multiple),
            "worst_case": self.id,
        }
        _add(self.properties, _described(self.component, self.dialect, self.dtype) | figures)
        if not row.verdict.passed:
            raise AssertionError(f"{self.component}, {self.dtype}: the answer is wrong\n{row}")
        return row.verdict


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, for suites with strict markers, and begin the summary."""
    config.addinivalue_line("markers", _HELP)
    config.pluginmanager.register(_Summary(), "refimpl-summary")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each golden vector that a mark `golden_vectors` asks for."""
    marks = list(metafunc.definition.iter_markers(MARK))
    if not marks:
        return
    try:
        found = [each for mark in marks for each in _asked(metafunc, *mark.args, **mark.kwargs)]
    except Exception as error:
        told = f"it takes {_HELP.partition(':')[0]}: {error}" if isinstance(error, TypeError) else error
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: @pytest.mark.{MARK}: {told}") from error
    metafunc.parametrize(ARGUMENT, found, ids=[each.key for each in found], indirect=True)
    announced = metafunc.config.stash.setdefault(_ANNOUNCED, {})
    announced[metafunc.definition.nodeid] = {each.key for each in found}


_ANNOUNCED = pytest.StashKey[dict[str, set[str]]]()
_DESELECTED = pytest.StashKey[dict[str, set[str]]]()
_VANISHED = pytest.StashKey[dict[str, list[str]]]()


def _asked(
    metafunc: pytest.Metafunc, component: str, *, dtype: str | Iterable[str] = "float32", dialect: str | None = None
) -> list[GoldenVector]:
    """The vectors of a component in its dtypes."""
    from refimpl.errors import ConfigError
    from validation import vectors

    if ARGUMENT not in metafunc.fixturenames:
        raise ConfigError(
            "the vectors have nowhere to go",
            expected=f"a test with an argument {ARGUMENT}",
            got=f"arguments {', '.join(metafunc.fixturenames) or 'none'}",
            remedy=f"def test({ARGUMENT}): {ARGUMENT}.judge(f(*{ARGUMENT}.arrays, **{ARGUMENT}.params))",
        )
    found = []
    for each in _several(dtype):
        chosen = vectors.load(component).select(each, dialect)
        if not chosen:
            raise ConfigError("there are no such vectors", expected="at least one", got=f"{component} in {each}")
        found += [GoldenVector(vector, component, each, len(chosen), dialect) for vector in chosen]
    return found


@pytest.fixture
def golden_vector(request: pytest.FixtureRequest) -> Iterator[GoldenVector]:
    """The golden vector of a test with the mark `golden_vectors`."""
    given = getattr(request, "param", None)
    if not isinstance(given, GoldenVector):
        pytest.fail(f'{ARGUMENT} needs the mark: @pytest.mark.{MARK}("softmax", dtype="float32")', pytrace=False)
    given.judged, given.properties = False, request.node.user_properties
    yield given
    given.properties = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that passes without having judged its vector: it has checked nothing."""
    yield
    given = getattr(item, "funcargs", {}).get(ARGUMENT)
    if isinstance(given, GoldenVector) and not given.judged:
        pytest.fail(f"{given.id}: no answer was judged; call {ARGUMENT}.judge(answer)", pytrace=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Refuse a collection from which golden vectors have vanished without having been deselected."""
    before = _vectors_of(items)
    yield
    chosen = any("::" in each for each in config.args) or config.getoption(
        "lf", False
    )  # which leave out without a word
    wanted = before if chosen else config.stash.get(_ANNOUNCED, {})
    after, dropped = _vectors_of(items), config.stash.get(_DESELECTED, {})
    for name, keys in wanted.items():
        lost = keys - after.get(name, set()) - dropped.get(name, set())
        if lost:
            told = (
                f"{name}: golden vectors were lost while tests were collected\n"
                f"  expected: {len(keys)} vectors, each to be run or reported as deselected\n"
                f"  got:      {len(keys - lost)}; {min(lost)} is missing"
            )
            if not hasattr(config, "workerinput"):
                raise pytest.UsageError(told)
            items.append(_Lost.from_parent(session, name=f"golden vectors of {name}", told=told))


class _Lost(pytest.Item):
    """A test that fails: a worker of pytest-xdist cannot say an error of collection, it only breaks."""

    def __init__(self, *, told: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.told = told

    def runtest(self) -> None:
        """Fail with what was lost."""
        pytest.fail(self.told, pytrace=False)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note what was deselected openly."""
    for name, keys in _vectors_of(items).items():
        items[0].config.stash.setdefault(_DESELECTED, {}).setdefault(name, set()).update(keys)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> Iterator[None]:
    """Note the vectors that are taken away when the collection is over, which nobody reports: the summary says so."""
    before = _vectors_of(session.items)
    yield
    after = _vectors_of(session.items)
    vanished = {name: sorted(keys - after.get(name, set())) for name, keys in before.items()}
    session.config.stash[_VANISHED] = {name: keys for name, keys in vanished.items() if keys}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports what vanished in a worker of pytest-xdist."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told[PROPERTY] = session.config.stash.get(_VANISHED, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker told; each has collected the same."""
    node.config.stash.setdefault(_VANISHED, {}).update(getattr(node, "workeroutput", {}).get(PROPERTY, {}))


def _vectors_of(items: Iterable[pytest.Item]) -> dict[str, set[str]]:
    """The vectors that each test has."""
    found: dict[str, set[str]] = {}
    for item in items:
        given = (
            item.callspec.params.get(ARGUMENT)
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if isinstance(given, GoldenVector):
            found.setdefault(f"{item.parent.nodeid}::{item.originalname}", set()).add(given.key)
    return found


# --- the summary --------------------------------------------------------------------------------------------------------------


@dataclass
class _Total:
    """What was checked of one component in one dtype, over all tests."""

    cases: int = 0
    announced: int = 0  # how many golden vectors there are
    failed: int = 0
    searched: int = 0
    discarded: int = 0
    found: int = 0
    worst: float = -1.0
    worst_case: str = ""

    def add(self, figures: dict[str, Any]) -> None:
        self.cases += figures.get("cases", 0)
        self.announced = max(self.announced, figures.get("announced", 0))
        self.failed += figures.get("failed", 0)
        self.searched += figures.get("searched", 0)
        self.discarded += sum(figures.get("discarded", {}).values())
        self.found += int("searched" in figures and not figures["passed"])
        worst = float(figures.get("worst", -1.0))
        if not worst <= self.worst:
            self.worst, self.worst_case = worst, figures["worst_case"]

    def __str__(self) -> str:
        few = f" of {self.announced}" if self.cases < self.announced else ""  # chosen, skipped, or stopped
        said = [f"{self.cases}{few} cases" + (f", {self.failed} FAILED" if self.failed else "")] if self.cases else []
        if self.cases:
            said.append(f"worst {self.worst:.3g} of the tolerance ({self.worst_case})")
        if self.searched:
            left = f", {self.discarded} without a proved answer" if self.discarded else ""
            said.append(f"{self.searched} calls searched{left}" + (", A FAILING ONE FOUND" if self.found else ""))
        return ", ".join(said)


class _Summary:
    """Adds up the properties of finished tests: in the process that reports, whichever process ran them."""

    def __init__(self) -> None:
        self.totals: dict[str, _Total] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read the properties once, when the test is over."""
        if report.when == "teardown":
            for name, value in report.user_properties:
                figures = _read(value) if name == PROPERTY else None
                if figures:
                    dialect = f" ({figures['dialect']})" if figures["dialect"] else ""
                    key = f"{figures['component']}{dialect}, {figures['dtype']}"
                    self.totals.setdefault(key, _Total()).add(figures)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """A line for each component and dtype, and for each test whose vectors vanished; nothing where nothing was checked."""
        vanished = config.stash.get(_VANISHED, {})
        if self.totals or vanished:
            terminalreporter.section("conformance")
            for name, total in self.totals.items():
                terminalreporter.line(f"{name}: {total}")
            for name, keys in vanished.items():
                few = f"{', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
                terminalreporter.line(
                    f"{name}: NOT RUN, taken away after the collection: {len(keys)} of the vectors ({few})"
                )


def _read(value: object) -> dict[str, Any] | None:
    """The figures of a property; None for one of the same name that is somebody else's."""
    try:
        figures = json.loads(str(value))
    except ValueError:
        return None
    return figures if isinstance(figures, dict) and {"component", "dialect", "dtype"} <= figures.keys() else None
