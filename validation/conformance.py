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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import VectorError
from validation import components, exchange, tolerance, vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Report", "Row", "assert_conforms", "check", "check_on", "judge_answers", "live"]


WIDTH = 36  # of the column that names the case


@dataclass(frozen=True)
class Row:
    """One case and its verdict; `flags` are the classes of bugs that the case is known to catch."""

    case: str
    hard: str
    verdict: tolerance.Verdict
    id: str = ""
    flags: tuple[str, ...] = ()
    inputs: str = ""  # the inputs at the worst place, where they have one

    def __str__(self) -> str:
        verdict = self.verdict
        line = f"{f'{self.id} {self.case}'.strip():<{WIDTH}} {verdict.word:<14} {verdict.multiple:9.3g}"
        if verdict.passed:
            return line
        where = f"at [{', '.join(map(str, verdict.where))}] " if verdict.where else ""
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
    """The verdicts of all cases of one component. `str(report)` is the table, `report.passed` the answer."""

    component: str
    dialect: str | None
    dtype: str
    announced: int
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every announced case ran and passed; a report of no cases has not passed."""
        return len(self.rows) == self.announced > 0 and all(row.verdict.passed for row in self.rows)

    @property
    def worst(self) -> Row:
        """The row with the largest multiple of its tolerance."""
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
        return "\n".join([head, columns, *map(str, self.rows), *self._histogram()])

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
                "expected": str(row.verdict.expected),
                "got": str(row.verdict.got),
                "flags": list(row.flags),
            }
            for row in self.rows
        ]
        described = {"component": self.component, "dialect": self.dialect, "dtype": self.dtype, "passed": self.passed}
        return described | {"announced": self.announced, "ulps": self.ulps, "cases": rows}


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
    rows = tuple(
        _row(vector, _answer(function, vector, dtype, convert or (lambda array: array)), dtype) for vector in cases
    )
    return Report(component, dialect, dtype, len(cases), rows)


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
    strange = [name for name in (*asked, *answers) if name not in known or name not in asked]
    if strange:
        expected = f"ids of {component} in {dtype}: {', '.join(list(known)[:2])}, ..."
        raise VectorError("an answer to a question that was not asked", expected=expected, got=", ".join(strange[:3]))
    rows = tuple(_row(known[name], answers.get(name, "no answer was given"), dtype) for name in asked)
    return Report(component, None, dtype, len(asked), rows)


def live(component: str, dialect: str | None, dtype: str, seed: int) -> tuple[vectors.Vector, ...]:
    """New inputs of the component's kinds, with their answers."""
    return tuple(
        vectors.fresh(component, case, dtype) for case in components.component(component).trials(dtype, seed, dialect)
    )


def _answer(function: Callable[..., Any], vector: vectors.Vector, dtype: str, convert: Callable[[Any], Any]) -> Any:
    """What the function says, on the host; the exception where it raises one."""
    params = {
        name: convert(value) if isinstance(value, np.ndarray) else value for name, value in vector.params(dtype).items()
    }
    try:
        with np.errstate(all="ignore"):
            return exchange.to_numpy(function(*map(convert, vector.positional(dtype)), **params))
    except Exception as error:
        return error


def _row(vector: vectors.Vector, answer: Any, dtype: str) -> Row:
    if isinstance(answer, Exception):
        verdict = tolerance.Verdict("raised", np.inf, np.inf, (), f"{type(answer).__name__}: {answer}")
    elif isinstance(answer, str):
        verdict = tolerance.Verdict("not run", np.inf, np.inf, (), answer)
    else:
        verdict = vector.judge(answer, dtype)
    return Row(vector.name, vector.hard, verdict, vector.id, vector.flags, _inputs(vector, verdict.where, dtype))


def _inputs(vector: vectors.Vector, where: tuple[int, ...], dtype: str) -> str:
    """The inputs at a place, of arguments that have the answer's shape."""
    shape = vector.expected.shape
    arrays = zip(vector.arrays, vector.positional(dtype), strict=True)
    at = [
        f"{name} = {_told(float(a[where]))}"
        for name, a in arrays
        if where and a.shape == shape and a.dtype.kind not in "biu"
    ]
    return f", where {', '.join(at)}" if at else ""


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
