"""Check one implementation of one component: `check` reports, `assert_conforms` raises.

    def my_softmax(x):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)

    print(validation.check(my_softmax, "softmax", dtype="float32"))

By default it is tried on the golden vectors (`validation.vectors`), whose answers are proved; `seed=` draws new inputs of the same kinds
instead and proves their answers now. Every case gets a verdict: `exact` (everywhere the truth, rounded to double and then to the dtype),
`within proof`, `within sample`, `outside`, `non-finite`, `wrong shape or dtype`, `raised`, or `not run`. The error is measured against the truth and
given as a multiple of the derived tolerance at its place: above one, it is outside what the derivation allows (`validation.tolerance` says what
that is). It needs no trust in this project's own floats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError, VectorError
from validation import backwards, components, diagnosis, exchange, legal, report, tolerance, vectors
from validation.report.text import cut

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Report", "Row", "assert_conforms", "check", "check_on", "judge_answers", "judged", "live"]


WIDTH = 36  # of the column that names the case
_ATTENTION = ("attention", "residual_attention", "relative_attention", "taylor_attention", "favor_attention")
AXES = dict.fromkeys(_ATTENTION, ("batch", "head", "query", "column")) | {"gpt2": ("sequence", "position", "token")}
SHOWN = 6  # numbers of a row that are printed


@dataclass(frozen=True)
class Row:
    """One case and its verdict; `flags` are the classes of bugs that the case is known to catch."""

    case: str
    hard: str
    verdict: tolerance.Verdict
    id: str = ""
    flags: tuple[str, ...] = ()
    inputs: str = ""  # the inputs at the worst place, where they have one
    place: str = ""  # the worst place in words, where its axes have names

    def __str__(self) -> str:
        verdict = self.verdict
        line = f"{f'{self.id} {self.case}'.strip():<{WIDTH}} {verdict.word:<14} {verdict.multiple:9.3g}"
        if verdict.passed:
            return line
        named = f" ({self.place})" if self.place else ""
        where = f"at [{', '.join(map(str, verdict.where))}]{named} " if verdict.where else ""
        lines = [
            f"{line}   {where}expected {_told(verdict.expected)}, got {_told(verdict.got)}{self.inputs}",
            self.hard,
        ]
        return f"\n{'':<{WIDTH + 1}}".join(lines)


def _told(value: Any) -> str:
    """A number as a decimal and as significand and exponent in binary."""
    return f"{value!r} ({value.hex()})" if isinstance(value, float) and np.isfinite(value) else str(value)


@dataclass(frozen=True)
class Report:
    """The verdicts of all cases of one component. `str(report)` is the table, `report.passed` the answer.

    Raises ConfigError for a case that comes twice, which would stand for one that is missing.
    """

    component: str
    dialect: str | None
    dtype: str
    announced: int
    rows: tuple[Row, ...]
    diagnosis: diagnosis.Diagnosis | None = None  # what explains the answers, where they are wrong

    def __post_init__(self) -> None:
        names = [row.id or row.case for row in self.rows]
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            raise ConfigError(
                "a case comes twice",
                where=f"a report of {self.component} in {self.dtype}",
                expected=f"{len(names)} different cases",
                got=f"{twice}, {names.count(twice)} times",
            )

    @property
    def passed(self) -> bool:
        """Whether every announced case ran and passed; a report of no cases has not passed."""
        return len(self.rows) == self.announced > 0 and all(row.verdict.passed for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest multiple of its tolerance, a failing one if there is one; raises ConfigError where there are no rows."""
        if not self.rows:
            raise ConfigError(
                "a report of no cases has no worst one",
                where=f"a report of {self.component} in {self.dtype}",
                expected="a row at least",
                got=f"none of {self.announced} announced",
            )
        return max(self.rows, key=lambda row: (not row.verdict.passed, row.verdict.multiple))

    @property
    def ulps(self) -> dict[str, int]:
        """How many elements are off by how many units in the last place, over all cases."""
        counts = [row.verdict.ulps for row in self.rows if row.verdict.ulps]
        return (
            dict(zip(tolerance.ULP_BINS, (sum(column) for column in zip(*counts, strict=True)), strict=True))
            if counts
            else {}
        )

    def __str__(self) -> str:
        good = sum(row.verdict.passed for row in self.rows)
        name = self.component + (f" ({self.dialect})" if self.dialect else "")
        head = f"{name}, {self.dtype}: {'conforms' if self.passed else 'DOES NOT CONFORM'}, {good} of {self.announced} cases"
        columns = f"{'case':<{WIDTH}} {'verdict':<14} {'error/tol':>9}"
        told = [str(self.diagnosis)] if self.diagnosis else []
        return "\n".join([head, columns, *map(str, self.rows), *self._histogram(), *self._legal(), *told])

    def _legal(self) -> list[str]:
        spread = legal.recorded(self.component, self.dtype)
        if spread is None:
            return []
        widest = f"{spread.widest.multiple:g} of the tolerance ({spread.widest.name})"
        return [f"legal evaluations: {len(spread.rows)} were measured on the golden vectors, and use up to {widest}"]

    def _histogram(self) -> list[str]:
        found = {name: count for name, count in self.ulps.items() if count}
        return (
            [f"units in the last place: {', '.join(f'{name}: {count}' for name, count in found.items())}"]
            if found
            else []
        )

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        rows = [
            {
                "id": row.id,
                "case": row.case,
                "verdict": row.verdict.word,
                "passed": row.verdict.passed,
                "multiple": row.verdict.multiple if np.isfinite(row.verdict.multiple) else str(row.verdict.multiple),
                "where": list(row.verdict.where),
                "place": row.place,
                "expected": str(row.verdict.expected),
                "got": str(row.verdict.got),
                "binary": [_told(row.verdict.expected), _told(row.verdict.got)],
                "inputs": row.inputs.removeprefix(", where "),
                "flags": list(row.flags),
            }
            for row in self.rows
        ]
        described = {"component": self.component, "dialect": self.dialect, "dtype": self.dtype, "passed": self.passed}
        told = self.diagnosis.as_json() if self.diagnosis else None
        return described | {"announced": self.announced, "ulps": self.ulps, "cases": rows, "diagnosis": told}

    def write(self, folder: str | os.PathLike[str], *, spread: Any = None) -> None:
        """Write index.html, report.json and junit.xml into `folder`, which is made if there is none (`validation.report.write`)."""
        report.write(self, folder, spread=spread)


def check(
    function: Callable[..., Any],
    component: str,
    *,
    dialect: str | None = None,
    dtype: str = "float32",
    seed: int | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Report:
    """Try `function` on every case of a component and judge the answers against what is proved.

    Parameters
    ----------
    function : called as the component's signature says (`validation.components.COMPONENTS[name].signature`) with arrays of `dtype`; returns an
        array of that dtype (of int64 or bool, where answers have no tolerance: `Component.exact`), of any library that speaks DLPack or
        `__array__` (NumPy, CuPy, PyTorch, JAX, TensorFlow)
    component : a name in COMPONENTS
    dialect : which form of the component, where it has several ("tanh" or "none" for gelu); None checks all
    dtype : "float16", "bfloat16", "float32" or "float64"
    seed : None tries the golden vectors; a number draws new inputs, whose answers are proved on the spot
    convert : applied to every NumPy array of the call before it is handed over, such as `torch.from_numpy`

    Raises
    ------
    ConfigError
        for an unknown component, dialect or dtype. What the function itself raises becomes a failing row.
    """
    vectors.check_dtype(dtype)
    components.component(component)
    cases = vectors.load(component).select(dtype, dialect) if seed is None else live(component, dialect, dtype, seed)
    return check_on(cases, function, component, dialect=dialect, dtype=dtype, convert=convert)


def check_on(
    cases: tuple[vectors.Vector, ...],
    function: Callable[..., Any],
    component: str,
    *,
    dialect: str | None = None,
    dtype: str = "float32",
    convert: Callable[[Any], Any] | None = None,
) -> Report:
    """`check` on vectors that are there already; arguments as there."""
    answers = [_answer(function, component, vector, dtype, convert or (lambda array: array)) for vector in cases]
    return _report(component, dialect, dtype, cases, answers)


def judge_answers(component: str, dtype: str, answers: dict[str, Any], ids: Iterable[str]) -> Report:
    """Judge answers that were given elsewhere: arrays by the id of their golden vector, or in words why there is none.

    Raises
    ------
    ConfigError
        for an unknown component or dtype.
    VectorError
        for ids that are not among the golden vectors of that dtype, in the answers or in what was asked.
    """
    known, asked = {vector.id: vector for vector in vectors.load(component).select(dtype)}, tuple(ids)
    backward = components.component(component).backward
    parts = {f"{name}.{each}" for name in asked for each in (backward.arguments if backward else ())}
    strange = [name for name in (*asked, *answers) if name not in parts and (name not in known or name not in asked)]
    if strange:
        expected = f"ids of {component} in {dtype}: {', '.join(list(known)[:2])}, ..."
        raise VectorError("an answer to a question that was not asked", expected=expected, got=", ".join(strange[:3]))
    given = [_given(component, known[name], answers, dtype) for name in asked]
    return _report(component, None, dtype, [known[name] for name in asked], given)


def _given(component: str, vector: vectors.Vector, answers: dict[str, Any], dtype: str) -> Any:
    """The answer of this id, joined where each cotangent was given under ID.ARGUMENT; in words why there is none."""
    backward = components.component(component).backward
    names = [f"{vector.id}.{each}" for each in backward.arguments] if backward else []
    if vector.id in answers or not any(name in answers for name in names):
        return answers.get(vector.id, "no answer was given")
    lost = [name for name in names if name not in answers]
    return f"no answer {', '.join(lost)}" if lost else _joined(backward, [answers[n] for n in names], vector, dtype)


def _report(
    component: str, dialect: str | None, dtype: str, cases: Sequence[vectors.Vector], answers: Sequence[Any]
) -> Report:
    """The verdicts, and what explains the answers if some are wrong."""
    rows = tuple(_row(component, vector, answer, dtype) for vector, answer in zip(cases, answers, strict=True))
    report = Report(component, dialect, dtype, len(cases), rows)
    if report.passed:
        return report
    trials = [
        diagnosis.Trial(vector, np.asarray(answer), row.verdict)
        for vector, answer, row in zip(cases, answers, rows, strict=True)
        if not isinstance(answer, Exception | str | tolerance.Verdict)
    ]
    return replace(report, diagnosis=diagnosis.explain(component, dtype, trials))


def judged(
    function: Callable[..., Any], component: str, vector: vectors.Vector, dtype: str, convert: Callable[[Any], Any]
) -> Row:
    """What `function` says to one vector, and the verdict; what it raises is a verdict too."""
    return _row(component, vector, _answer(function, component, vector, dtype, convert), dtype)


def live(component: str, dialect: str | None, dtype: str, seed: int) -> tuple[vectors.Vector, ...]:
    """New inputs of the component's kinds, with their answers."""
    return tuple(
        vectors.fresh(component, case, dtype) for case in components.component(component).trials(dtype, seed, dialect)
    )


def _answer(
    function: Callable[..., Any], component: str, vector: vectors.Vector, dtype: str, convert: Callable[[Any], Any]
) -> Any:
    """What the function says, on the host, as a copy: it may answer every call in one buffer. The exception where it raises one."""
    params = {
        name: convert(value) if isinstance(value, np.ndarray) else value for name, value in vector.params(dtype).items()
    }
    try:
        with np.errstate(all="ignore"):
            answer = function(*map(convert, vector.positional(dtype)), **params)
            backward = components.component(component).backward
            if backward and isinstance(answer, list | tuple):
                return _joined(backward, answer, vector, dtype)
            return np.array(exchange.to_numpy(answer))
    except Exception as error:
        return error


def _joined(backward: Any, answer: Sequence[Any], vector: vectors.Vector, dtype: str) -> Any:
    """The cotangents that a function returned, joined as the answer is; a verdict where they do not fit their arguments."""
    parts = [np.array(exchange.to_numpy(part)) for part in answer]
    given = dict(zip(vector.arrays, vector.positional(dtype), strict=True))
    wrong = backwards.wrong_part(backward, parts, given)
    expected = ", ".join(f"{name} {given[name].shape}" for name in backward.arguments)
    if wrong:
        return tolerance.Verdict("wrong shape or dtype", np.inf, np.inf, (), cut(wrong), expected)
    return backwards.joined(parts)


def _row(component: str, vector: vectors.Vector, answer: Any, dtype: str) -> Row:
    if isinstance(answer, Exception):
        verdict = tolerance.Verdict("raised", np.inf, np.inf, (), cut(f"{type(answer).__name__}: {answer}"))
    elif isinstance(answer, str):
        verdict = tolerance.Verdict("not run", np.inf, np.inf, (), cut(answer))
    elif isinstance(answer, tolerance.Verdict):
        verdict = answer
    else:
        verdict = vector.judge(answer, dtype)
    inputs = _inputs(component, vector, verdict.where, dtype) if verdict.where else ""
    place = ", ".join(map(" ".join, zip(AXES.get(component, ()), map(str, verdict.where), strict=False)))
    backward = components.component(component).backward
    place = backwards.place(backward, verdict.where, vector.arguments) if backward else place
    return Row(vector.name, vector.hard, verdict, vector.id, vector.flags, inputs, place)


def _inputs(component: str, vector: vectors.Vector, where: tuple[int, ...], dtype: str) -> str:
    """The inputs at a place: the query and the keys it may see, the tokens so far, or the elements of arguments that have the answer's axes."""
    given = dict(zip(vector.arrays, vector.positional(dtype), strict=True)) | vector.params(dtype)
    if component in _ATTENTION:
        mask, n = given.get("mask"), given["k"].shape[-2]
        row = where[:-1]
        at = [f"q[{', '.join(map(str, row))}] = {_row_told(given['q'][row])}"]
        if mask is not None and component != "favor_attention":  # whose mask has no axis of queries
            seen = np.broadcast_to(mask, (*vector.expected.shape[:-1], n))[row]
            at.append(f"keys {_row_told(np.flatnonzero(seen))} of {n} are allowed")
    elif component == "gpt2":
        at = [f"token_ids[{where[0]}, :{where[1] + 1}] = {_row_told(given['token_ids'][where[0], : where[1] + 1])}"]
    else:
        shape = vector.expected.shape
        floating = {name: a for name, a in given.items() if isinstance(a, np.ndarray) and a.dtype.kind not in "biu"}
        at = [f"{name} = {_told(float(a[where]))}" for name, a in floating.items() if a.shape == shape]
        at += [
            f"{name} = {_told(float(a[where[-1]]))}" for name, a in floating.items() if a.shape == shape[-1:] != shape
        ]
    return f", where {', '.join(at)}" if at else ""


def _row_told(row: Any) -> str:
    """A row of numbers, its first ones if it is long."""
    few = ", ".join(str(value) for value in row[:SHOWN].tolist())
    return f"[{few}{', ...' if len(row) > SHOWN else ''}]"


def assert_conforms(
    function: Callable[..., Any],
    component: str,
    *,
    dialect: str | None = None,
    dtype: str = "float32",
    seed: int | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> None:
    """Raise AssertionError with the whole report unless `function` conforms; arguments as `check`. For any test suite."""
    report = check(function, component, dialect=dialect, dtype=dtype, seed=seed, convert=convert)
    if not report.passed:
        raise AssertionError(str(report))
