"""Search beyond the golden vectors: Hypothesis draws calls, their answers are proved on the spot, and a failing one is shrunk to a minimal one.

    found = validation.search.search(my_softmax, "softmax", dtype="float32")
    print(found)                    # None, or the smallest failing call as a snippet of Python

Every drawn call is answered as a golden vector is (`validation.vectors.fresh`): a definition in ball arithmetic, and a derived tolerance. Some
calls have no answer: a branch that stays undecided, a result or a tolerance that float64 cannot hold. They are counted in the outcome, and a search
in which no call could be answered is an error, not a success. A failing call is shrunk by Hypothesis first, then by single moves until none is
left that still fails (`validation.shrinking`); calls that are answered on the way are counted apart. The draws depend on `seed`,
the version of Hypothesis, and the constants in the source of the project around, which Hypothesis mixes in: while those stay, what a search found it
finds again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError, RefimplError, UndecidedError
from validation import components, conformance, shrinking, tolerance, vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["EXAMPLES", "Counterexample", "Outcome", "examine", "search"]

EXAMPLES = 100
SHRINKING = 60  # calls that Hypothesis may ask for after the first failing one, to find a smaller one
MINIMISING = 400  # calls that are answered after that, to make it minimal
_HELD = 4096  # answered calls that are kept, for the next search of the same component


@dataclass(frozen=True)
class Counterexample:
    """The smallest failing call that was found; `str` is a snippet of Python that repeats it."""

    component: str
    dialect: str | None
    dtype: str
    vector: vectors.Vector  # with its answer and its tolerance
    row: conformance.Row
    again: bool = True  # whether the function fails on it every time
    minimal: bool = True  # whether no single move (`validation.shrinking`) leaves a call that fails

    @property
    def tolerance(self) -> Any:  # -> float64 (...)
        """The error that is allowed, element by element."""
        return tolerance.allowed(self.vector.expected.high, self.vector.budget(self.dtype), self.dtype)

    @property
    def radius(self) -> float:
        """No truth is further than this from the float64 nearest to it, which is what the snippet expects."""
        known = self.vector.expected
        return float(np.max(np.abs(known.low) + known.radii, initial=0.0) * (1 + 2**-50))

    def __str__(self) -> str:
        verdict = self.row.verdict
        name = self.component + (f" ({self.vector.dialect})" if self.vector.dialect else "")
        lines = [f"# {name}, {self.dtype}: {verdict.word}, {verdict.multiple:.3g} times the tolerance", *self._got()]
        if not self.again:
            lines.append("# the function does not fail on this input every time: it is not deterministic")
        elif not self.minimal:
            lines.append("# there may be a smaller one: shrinking was stopped")
        return "\n".join([*lines, *self._snippet()])

    def _got(self) -> list[str]:
        verdict = self.row.verdict
        if not verdict.where:
            return [f"# got {verdict.got}{f', expected {verdict.expected}' if verdict.expected else ''}"]
        return [f"# at {list(verdict.where)} got {verdict.got!r}, expected {verdict.expected!r}"]

    def _snippet(self) -> list[str]:
        vector, named = self.vector, "import ml_dtypes\n" if self.dtype == "bfloat16" else ""
        call = ", ".join(
            [*vector.arrays, *(f"{name}={name}" for name in vector.arguments if name not in vector.arrays)]
        )
        return [
            f"{named}import numpy as np",
            "",
            *(f"{name} = {_written(value, self.dtype)}" for name, value in vector.arguments.items()),
            f"expected = {_written(vector.expected.high, 'float64')}  # within {self.radius:.2g} of the truth, proved",
            f"tolerance = {_written(self.tolerance, 'float64')}",
            "",
            f"got = np.asarray(f({call}))",
            f"assert got.dtype == {_dtype(self.dtype)} and got.shape == expected.shape",
            "wrong = ~(np.abs(got.astype(np.float64) - expected) <= tolerance)",
            "assert not np.any(wrong & (got != expected.astype(got.dtype))), got",
        ]


@dataclass(frozen=True)
class Outcome:
    """What a search found, how many drawn calls it answered, and how many it could not answer, by reason."""

    counterexample: Counterexample | None
    answered: int  # of the calls that were drawn, up to the first failing one
    discarded: dict[str, int] = field(default_factory=dict)
    shrinking: int = 0  # calls that were answered after it, to find a smaller one

    def __str__(self) -> str:
        dropped = "".join(f", {count} {reason}" for reason, count in self.discarded.items())
        shrunk = f"; then {self.shrinking} to shrink the failing one" if self.counterexample else ""
        return f"{self.answered} calls answered{dropped}{shrunk}"


def _dtype(dtype: str) -> str:
    return "ml_dtypes.bfloat16" if dtype == "bfloat16" else f"np.{dtype}"


def _written(value: Any, dtype: str) -> str:
    """A value as Python that gives exactly it again: `repr` of a float64 is exact, and a number of a shorter dtype is a float64 too."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    text = repr(value.tolist()).replace("inf", "np.inf").replace("nan", "np.nan")
    kind = {"b": "bool", "i": "np.int64"}.get(value.dtype.kind, _dtype(dtype))
    size = "" if value.size else f".reshape({value.shape})"
    return f"np.array({text}, dtype={kind}){size}"


def search(
    function: Callable[..., Any],
    component: str,
    *,
    dtype: str = "float32",
    dialect: str | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
    convert: Callable[[Any], Any] | None = None,
) -> Counterexample | None:
    """Look for a call that `function` answers wrongly; None if none was found. Parameters and errors as `examine`."""
    return examine(
        function, component, dtype=dtype, dialect=dialect, examples=examples, seed=seed, convert=convert
    ).counterexample


def examine(
    function: Callable[..., Any],
    component: str,
    *,
    dtype: str = "float32",
    dialect: str | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
    convert: Callable[[Any], Any] | None = None,
) -> Outcome:
    """Draw calls until one is answered wrongly, and shrink that until no single move leaves a failing call.

    Parameters
    ----------
    function, component, dialect, dtype, convert : as `validation.check`
    examples : how many calls are drawn, those that have no proved answer included; shrinking asks for more
    seed : of the draws, which depend on it, on the version of Hypothesis, and on the constants in the modules of the project that are loaded

    Raises
    ------
    ConfigError
        for an unknown component, dialect or dtype; for a component whose answers take seconds each; if not one drawn call could be answered.
    """
    vectors.check_dtype(dtype)
    _check(component, dialect, examples)
    trial = _Trial(function, component, dialect, dtype, convert or (lambda array: array), left=SHRINKING)
    found = _smallest(trial, examples, seed)
    if not trial.answered:
        reasons = ", ".join(f"{count} {reason}" for reason, count in trial.discarded.items())
        raise ConfigError(
            "a search that answered nothing has shown nothing",
            where=f"search of {component} in {dtype}",
            expected="at least one call with a proved answer",
            got=reasons or "no calls",
        )
    return Outcome(found, trial.answered, trial.discarded, trial.shrinking)


def _check(component: str, dialect: str | None, examples: int) -> None:
    subject = components.component(component)
    if dialect is not None and dialect not in subject.dialects:
        known = ", ".join(subject.dialects) or "none"
        raise ConfigError(f"{component} has no such dialect", expected=known, got=repr(dialect))
    if subject.sampled:
        raise ConfigError(
            f"{component} cannot be searched",
            expected="a component whose tolerance is proved",
            got="one whose tolerance is sampled, which takes seconds for every call and would take hours for a search",
            remedy="check it on the golden vectors, or with seed= on new inputs",
        )
    if examples < 1:
        raise ConfigError("a search needs examples", expected="examples >= 1", got=examples)


class _EnoughError(BaseException):
    """The counterexample is small enough. Not an Exception, which Hypothesis would take for what the call does."""


@dataclass
class _Trial:
    """The predicate of the search, which counts: whether a call is answered wrongly."""

    function: Callable[..., Any]
    component: str
    dialect: str | None
    dtype: str
    convert: Callable[[Any], Any]
    answered: int = 0
    discarded: dict[str, int] = field(default_factory=dict)
    shrinking: int = 0
    last: Counterexample | None = None
    left: int = 0  # calls that shrinking may still ask for
    known: dict[_Key, bool] = field(default_factory=dict)  # what shrinking has asked for
    case: Any = None  # the call of `last`

    def __call__(self, case: Case) -> bool:
        """Of a drawn call; after the first failing one, of one that Hypothesis makes of it."""
        if self.last is not None:
            self.left -= 1
            if self.left < 0:
                raise _EnoughError
        return self._fails(_Key(self.component, self.dtype, case))

    def smaller(self, case: Case) -> bool | None:
        """Of a call that a move made, each asked for once; None if no more may be asked for."""
        key = _Key(self.component, self.dtype, case)
        if key not in self.known:
            self.left -= 1
            if self.left < 0:
                return None
            try:
                self.known[key] = self._fails(key)
            except RefimplError:  # the component has no such call
                self.known[key] = False
        return self.known[key]

    def _fails(self, key: _Key) -> bool:
        vector, drawn = _answered(key), self.last is None
        if isinstance(vector, str):
            if drawn:
                self.discarded[vector] = self.discarded.get(vector, 0) + 1
            return False
        self.answered, self.shrinking = self.answered + drawn, self.shrinking + (not drawn)
        row = self.judged(vector)
        if row.verdict.passed:
            return False
        self.last = Counterexample(self.component, self.dialect, self.dtype, vector, row)
        self.case = key.case
        return True

    def judged(self, vector: vectors.Vector) -> conformance.Row:
        """What the function says to a call."""
        return conformance.judged(self.function, self.component, vector, self.dtype, self.convert)


@dataclass(frozen=True)
class _Key:
    """A call that is the same as another if all its bits are."""

    component: str
    dtype: str
    case: Case = field(compare=False)
    bits: str = ""

    def __post_init__(self) -> None:
        given = [*self.case.arrays, *self.case.params.items()]
        object.__setattr__(self, "bits", repr([_bits(each) for each in given]))


def _bits(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_bits, value))
    return (value.tobytes(), value.shape) if isinstance(value, np.ndarray) else value


@functools.lru_cache(maxsize=_HELD)
def _answered(key: _Key) -> vectors.Vector | str:
    """The call with its proved answer and tolerance, or in a word why it has none."""
    try:
        with np.errstate(over="ignore"):
            vector = vectors.fresh(key.component, key.case, key.dtype)
    except UndecidedError:
        return "undecided"
    except OverflowError:
        return "beyond float64"
    if not np.all(np.isfinite(vector.amplification)):
        return "without a finite tolerance"
    return vector


def _smallest(trial: _Trial, examples: int, seed: int) -> Counterexample | None:
    """The failing call that shrinking ends at, or the last one that failed if the function does not repeat itself."""
    try:
        import hypothesis
        from hypothesis import errors

        from validation import strategies
    except ImportError as missing:
        raise ConfigError(
            "a search needs Hypothesis", got=str(missing), remedy="pip install 'refimpl[validation]'"
        ) from missing
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)  # whatever profile the suite around has loaded
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        verbosity=hypothesis.Verbosity.quiet,
        phases=phases,
        report_multiple_bugs=False,  # nothing is drawn after the first failing call
    )
    drawn = strategies.calls(trial.component, trial.dtype, trial.dialect)
    with contextlib.suppress(errors.NoSuchExample, errors.Flaky, _EnoughError):
        hypothesis.find(drawn, trial, settings=settings, random=random.Random(seed))
    return trial.last and _minimal(trial, trial.last)


def _minimal(trial: _Trial, found: Counterexample) -> Counterexample:
    """The counterexample that moves lead to, with what the function says to it when it is asked again."""
    if trial.judged(found.vector).verdict.passed:
        return dataclasses.replace(found, again=False, minimal=False)
    trial.left = MINIMISING
    minimal = shrinking.smallest(trial.component, trial.case, trial.smaller)
    last = trial.last or found
    return dataclasses.replace(last, again=not trial.judged(last.vector).verdict.passed, minimal=minimal)
