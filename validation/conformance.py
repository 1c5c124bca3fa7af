"""Check one implementation of one component: `check` reports, `assert_conforms` raises.

    def my_softmax(x):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)

    print(validation.check(my_softmax, "softmax", dtype="float32"))

Every case gets a verdict: `exact` (everywhere the truth, rounded to double and then to the dtype), `within proof`, `within sample`,
`outside`, `non-finite`, `wrong shape or dtype`, or `raised`. The error is measured against balls that contain the truth and given as a
multiple of the derived tolerance at its place: above one, it is outside what the derivation allows (`validation.tolerance` says what
that is). It needs no trust
in this project's own floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError
from validation import components, tolerance, truth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Report", "Row", "assert_conforms", "check"]


@dataclass(frozen=True)
class Row:
    """One case and its verdict."""

    case: str
    hard: str
    verdict: tolerance.Verdict

    def __str__(self) -> str:
        verdict, where = self.verdict, ", ".join(map(str, self.verdict.where))
        line = f"{self.case:<16} {verdict.word:<14} {verdict.multiple:9.3g}"
        if verdict.passed:
            return line
        return f"{line}   at [{where}] expected {verdict.expected}, got {verdict.got}\n{'':<17}{self.hard}"


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

    def __str__(self) -> str:
        good = sum(row.verdict.passed for row in self.rows)
        name = self.component + (f" ({self.dialect})" if self.dialect else "")
        head = f"{name}, {self.dtype}: {'conforms' if self.passed else 'DOES NOT CONFORM'}, {good} of {self.announced} cases"
        columns = f"{'case':<16} {'verdict':<14} {'error/tol':>9}"
        return "\n".join([head, columns, *map(str, self.rows)])


def check(
    function: Callable[..., Any], component: str, *, dialect: str | None = None, dtype: str = "float32", seed: int = 0
) -> Report:
    """Try `function` on every case of a component and judge the answers against proved enclosures.

    Parameters
    ----------
    function : called as the component's signature says (`validation.components.COMPONENTS[name].signature`), with NumPy arrays
        of `dtype`; returns an array of that dtype, on the host (`numpy.asarray` is applied to it)
    component : a name in COMPONENTS
    dialect : which form of the component, where it has several ("tanh" or "none" for gelu); None checks all
    dtype : "float16", "bfloat16", "float32" or "float64"
    seed : of the random inputs

    Raises
    ------
    ConfigError
        for an unknown component, dialect or dtype. What the function itself raises becomes a failing row.
    """
    if dtype not in tolerance.DTYPES:
        raise ConfigError("unknown dtype", expected=", ".join(tolerance.DTYPES), got=repr(dtype))
    subject = components.component(component)
    cases = subject.trials(dtype, seed, dialect)
    rows = tuple(Row(case.id, case.hard, _verdict(function, subject, case, dtype)) for case in cases)
    return Report(component, dialect, dtype, len(cases), rows)


def _verdict(
    function: Callable[..., Any], subject: components.Component, case: components.Case, dtype: str
) -> tolerance.Verdict:
    try:
        with np.errstate(all="ignore"):
            got = np.asarray(function(*(a.copy() for a in case.arrays), **case.params))
    except Exception as error:
        return tolerance.Verdict("raised", np.inf, np.inf, (), f"{type(error).__name__}: {error}")
    wide = tuple(a.astype(np.float64) if a.dtype.kind not in "biu" else a for a in case.arrays)
    enclosure = truth.enclose(subject.definition, *wide, target=1e-25, **case.params)
    return tolerance.judge(got, enclosure, subject.budget(*wide, dtype=dtype, **case.params), dtype, word=subject.word)


def assert_conforms(
    function: Callable[..., Any], component: str, *, dialect: str | None = None, dtype: str = "float32", seed: int = 0
) -> None:
    """Raise AssertionError with the whole report unless `function` conforms; arguments as `check`. For any test suite."""
    report = check(function, component, dialect=dialect, dtype=dtype, seed=seed)
    if not report.passed:
        raise AssertionError(str(report))
