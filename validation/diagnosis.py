"""Which known convention or bug explains wrong answers: candidates are run on the same inputs and compared with what was answered.

A *candidate* is a mutant of the component (`validation.mutants`), another of its dialects, or an answer that computes nothing. Let a be the
answer to a case, y the truth, t(y) the tolerance of the vector and c what the candidate says to the same inputs: in the dtype, and, where that
overflows or comes near, in float64 too (an implementation may compute in more bits than it answers in).

*Agreement.* The answer and the candidate's twin are two evaluations of one function, and may differ by their roundings. These are

    T = u (amplification + |c|) + s (underflow + 1) + 4 max_k |c_k - c|

the vector's own tolerance, its last rounding taken at c, and four times the largest change of c in three evaluations on inputs moved by at most
one unit in the last place, which is u |x| at least: a bug may amplify roundings more than the right function does, by a factor that no
derivation for the right one knows, and an operation may err by two units, 4u. The last term is computed only where |a - c| is above the first
two. The candidate agrees where |a - c| <= T everywhere and where NaN and the infinities of both are at the same places.

*Explanation.* A candidate explains a failing case if it agrees and the truth does not: at some place where |a - y| > t(y), also |c - y| > T. It
is contradicted by a passing case with which it does not agree. It is complete if it explains every failing case and no passing one contradicts
it.

*Coincidence.* Were the error of an unknown bug any number of the size E = |a - y| that it has, it would be within T of a given candidate's with
a chance of T/E at most, and as near as it is, within g = |a - c|, with one of g/E. Rows (along the last axis; of an array with one axis,
elements) are taken as independent, each by its largest E and its largest g, which is never taken to be below the last rounding, u |c|. For n
rows the chance of the first is p = Π T/E, and by Fisher's method, since g/E is uniform then, that of the second P(Γ_n >= -log Π g/E). Of R rows
in all cases, k have something that is not finite; were they any k, they would be the predicted ones with a chance of 1/C(R, k). So the chance
that any of N candidates fits by accident is taken as

    N · C(F, f) · C(R, k)^(-j/k) · 2 min(Π T/E, P(Γ_n >= -log Π g/E))

over the n + j rows that are wrong in the f cases explained of F that fail, j of them not finite; C(F, f) is the number of choices of those
cases, 1 for what is complete. Below 1e-3 a candidate *explains*, below 1e-1 it *may explain*,
beyond that it is not named.

Answers of another dtype or shape explain themselves; their numbers are then judged as if they had the right one. So do answers with fewer
significant bits than their dtype has. If nothing explains what was answered, that is the finding.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaincc

from refimpl.errors import VectorError
from validation import components, tolerance, truth, vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["COINCIDENCE", "Diagnosis", "Explanation", "Trial", "diagnose", "explain"]

COINCIDENCE = 1e-3  # what fits by accident with a larger chance is not said to explain
POSSIBLE = 1e-1  # and with one larger than this is not named
SHOWN = 6  # explanations that are printed
PARTIAL = 3  # partial ones that are kept
SCREEN = 12  # failing cases on which all candidates are tried
CLOSELY = 5  # candidates that are then tried on all cases, if none fits everywhere
NEARBY = 1e3  # how many tolerances off an answer may be for its sensitivity to rounding to be looked at
NOT_A_NUMBER = "NaN"  # the name of the answer that has no numbers
LOST = ("wrong-shape", "dtype-leak")  # flags of bugs that are no matter of numbers
SIGNIFICANT = {24: "float32", 11: "float16 or TF32", 8: "bfloat16"}


@dataclass(frozen=True)
class Explanation:
    """One known dialect or bug that gives the answers of `explains` of the failing cases."""

    kind: str  # "dialect" | "bug"
    name: str
    flag: str | None  # a name in `validation.mutants.FLAGS`
    explains: int
    failing: int
    description: str  # what the implementer did
    effect: str  # what the user sees
    contradicted: int = 0  # passing cases that it would have failed
    chance: float = 0.0  # a bound of the probability that it fits by accident

    @property
    def complete(self) -> bool:
        """Whether it explains every failing case, and no passing case speaks against it."""
        return self.explains == self.failing and not self.contradicted

    @property
    def sure(self) -> bool:
        """Whether it hardly fits by accident."""
        return self.chance <= COINCIDENCE

    def __str__(self) -> str:
        flag = f" [{self.flag}]" if self.flag else ""
        against = f", but {self.contradicted} that passed would have failed" if self.contradicted else ""
        of = f"all {self.failing}" if self.explains == self.failing else f"{self.explains} of {self.failing}"
        verb = "explains" if self.sure else "may explain"
        return f"{self.kind}: {self.name}{flag}, {verb} {of} failing cases{against}"


@dataclass(frozen=True)
class Diagnosis:
    """What explains the answers of a report that fails, best first."""

    component: str
    dtype: str
    failing: int
    cases: int
    explanations: tuple[Explanation, ...]
    remark: str = ""  # what the answers are good for, where nothing explains them

    @property
    def complete(self) -> tuple[Explanation, ...]:
        """The explanations that fit every case; if there are several, the answers do not tell them apart."""
        return tuple(each for each in self.explanations if each.complete)

    def __str__(self) -> str:
        found = self.complete
        if not self.explanations:
            return "\n".join(["diagnosis: nothing known explains it", *self._remark()])
        if len(found) > 1:
            same = len({each.flag for each in found}) == 1
            head = f"diagnosis: {len(found)} known causes, which cannot be told apart by these answers" + (
                f", all of the class {found[0].flag}:" if same and found[0].flag else ":"
            )
        else:
            head = "diagnosis:" if found else "diagnosis: nothing known explains all of it; in part:"
        lines = [head]
        for each in self.explanations[:SHOWN]:
            lines += [f"  {each}", f"    {each.description}; {each.effect}"]
        rest = len(self.explanations) - SHOWN
        return "\n".join([*lines, *([f"  and {rest} more"] if rest > 0 else []), *self._remark()])

    def _remark(self) -> list[str]:
        return [f"  {self.remark}"] if self.remark else []

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        told = [asdict(each) | {"complete": each.complete} for each in self.explanations]
        described = {"failing": self.failing, "cases": self.cases, "told_apart": len(self.complete) <= 1}
        return described | {"explanations": told, "remark": self.remark, "text": str(self)}


@dataclass(frozen=True)
class Trial:
    """One vector, what was answered to it, and whether that is right."""

    vector: vectors.Vector
    answer: Any  # an array
    verdict: tolerance.Verdict


@dataclass(frozen=True)
class _Candidate:
    kind: str
    name: str
    flag: str | None
    description: str
    effect: str
    says: Callable[[vectors.Vector, str], Any]  # its answer to the vector's inputs in a dtype
    scalable: bool = True  # whether it is a function, that may be evaluated in float64 and on inputs that are moved


# --- entry --------------------------------------------------------------------------------------------------------------------


def diagnose(component: str, dtype: str, answers: dict[str, Any], *, dialect: str | None = None) -> Diagnosis:
    """Which known dialect or bug explains answers to golden vectors.

    Parameters
    ----------
    component : a name in `validation.components.COMPONENTS`
    dtype : "float16", "bfloat16", "float32" or "float64"
    answers : arrays by the id of their golden vector; anything else counts as no answer
    dialect : only the vectors of this dialect

    Raises
    ------
    ConfigError
        for an unknown component, dtype or dialect.
    VectorError
        for ids that are not among the golden vectors of that dtype and dialect.
    """
    known = {vector.id: vector for vector in vectors.load(component).select(dtype, dialect)}
    strange = [name for name in answers if name not in known]
    if strange:
        expected = f"ids of {component} in {dtype}: {', '.join(list(known)[:2])}, ..."
        raise VectorError("an answer to a question that was not asked", expected=expected, got=", ".join(strange[:3]))
    arrays = {name: a for name, a in answers.items() if isinstance(a, np.ndarray | np.generic)}
    trials = [Trial(known[name], np.asarray(a), known[name].judge(a, dtype)) for name, a in arrays.items()]
    return explain(component, dtype, trials)


def explain(component: str, dtype: str, trials: Iterable[Trial]) -> Diagnosis:
    """Which known dialect or bug explains answers to vectors that need no number; what raised or was not given is left out."""
    given = list(trials)
    failing = sum(not trial.verdict.passed for trial in given)
    if not failing:
        return Diagnosis(component, dtype, 0, len(given), ())
    own, numbers = _formed(given, dtype, failing)
    judged = _judged(numbers, dtype)
    own += _few_bits(judged, dtype, failing)
    found = [] if all(case.passed for case in judged) else _explanations(component, judged, dtype, failing)
    ranked = _ranked([*own, *(each for each in found if each.chance <= POSSIBLE)])
    weak = [each.name for each in found if each.complete and each.chance > POSSIBLE]
    silent = any(each.complete for each in ranked) or not judged or len(numbers) < len(given)  # it is about all
    remark = "" if silent else _remark(judged, dtype, weak)
    return Diagnosis(component, dtype, failing, len(given), tuple(ranked), remark)


def _ranked(found: list[Explanation]) -> list[Explanation]:
    """Complete ones first, then by what they explain less what contradicts them; a few partial ones if there is no complete one."""
    ranked = sorted(
        found,
        key=lambda each: (
            not each.complete,
            not each.sure,
            each.contradicted - each.explains,
            each.kind != "dialect",
            each.chance,
        ),
    )
    complete = [each for each in ranked if each.complete]
    return complete or ranked[:PARTIAL]


# --- answers that are no matter of their numbers --------------------------------------------------------------------------------


def _formed(trials: Sequence[Trial], dtype: str, failing: int) -> tuple[list[Explanation], list[Trial]]:
    """What other dtypes and shapes explain, and the trials with the right ones where the numbers allow it."""
    formed, told = [], dict[tuple[str, str], list[bool]]()
    for trial in trials:
        if trial.verdict.word != "wrong shape or dtype":
            formed.append(trial)
            continue
        answer, shape, exact = trial.answer, trial.vector.expected.shape, trial.vector.exact
        kind, names = tolerance.ANSWERS[exact or dtype], []
        if answer.shape != shape and answer.size == math.prod(shape):
            names.append(("wrong-shape", f"the answer has the shape {_shape(answer, shape)}"))
        if answer.dtype != kind:
            due = f"{exact} is due" if exact else f"{dtype} was given"
            names.append(("dtype-leak", f"the answer is {answer.dtype} where {due}"))
        reshaped = None
        if answer.size == math.prod(shape) and (
            answer.dtype.kind in ("biu" if exact else "f") or answer.dtype == tolerance.DTYPES["bfloat16"]
        ):
            with np.errstate(over="ignore"):
                reshaped = answer.astype(kind).reshape(shape)
            formed.append(Trial(trial.vector, reshaped, trial.vector.judge(reshaped, dtype)))
        for name in names:
            told.setdefault(name, []).append(reshaped is not None and formed[-1].verdict.passed)
    return [_of_form(flag, name, right, failing) for (flag, name), right in told.items() if any(right)], formed


def _shape(answer: Any, shape: tuple[int, ...]) -> str:
    kept = tuple(size for size in answer.shape if size != 1) == tuple(size for size in shape if size != 1)
    if kept and answer.ndim > len(shape):
        return "with an axis of length 1 too many"
    return "with an axis too few" if answer.ndim < len(shape) else "of another order or number of axes"


def _of_form(flag: str, name: str, right: list[bool], failing: int) -> Explanation:
    described, effect = _flag(flag)
    return Explanation("bug", name, flag, sum(right), failing, described, effect)


def _flag(name: str) -> tuple[str, str]:
    from validation import mutants  # the catalogue is imported only once something fails

    return mutants.FLAGS[name].description, mutants.FLAGS[name].effect


# --- judged cases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """A case with what the comparison needs, in float64."""

    vector: vectors.Vector
    answer: Any
    error: Any  # |answer - truth|; infinity where the answer is not finite and the truth is
    allowed: Any  # the tolerance around the truth
    fixed: Any  # the part of a tolerance that does not depend on what it is around
    passed: bool

    @property
    def lost(self) -> Any:  # -> bool (rows)
        """The rows of which some element is not finite where the truth is."""
        return _of_rows(np.any, np.isinf(self.error))


def _of_rows(reduce: Callable[..., Any], values: Any) -> Any:  # (..., n) -> (...), or (n) -> (n)
    return reduce(values, axis=-1) if values.ndim > 1 else values


def _judged(trials: Sequence[Trial], dtype: str) -> list[_Judged]:
    judged = []
    for trial in trials:
        vector, answer = trial.vector, np.asarray(trial.answer).astype(np.float64)
        if not answer.size:
            continue
        fixed = np.broadcast_to(vector.budget(dtype), answer.shape) + _least(dtype)
        middle = truth.midpoints(vector.expected)
        error = truth.upper_distance(vector.expected, answer)
        error = np.where(np.isinf(answer) & (_rounded(middle, dtype) == answer), 0.0, error)
        allowed = fixed + _unit(vector, dtype) * np.abs(middle)
        judged.append(_Judged(vector, answer, error, allowed, fixed, trial.verdict.passed))
    return judged


def _unit(vector: vectors.Vector, dtype: str) -> float:
    """The last rounding of an answer, relative to it; of whole numbers, which have none, that of the float64 in which they are compared."""
    return tolerance.roundoff("float64" if vector.exact else dtype)


def _least(dtype: str) -> float:
    """The smallest number that is not flushed, once: what a budget of nothing is."""
    return float(tolerance.budget(0.0, 1.0, dtype))


def _rounded(values: Any, dtype: str) -> Any:  # (...) -> float64 (...)
    with np.errstate(all="ignore"):
        return np.asarray(values, np.float64).astype(tolerance.DTYPES[dtype]).astype(np.float64)


def _few_bits(cases: Sequence[_Judged], dtype: str, failing: int) -> list[Explanation]:
    """Answers that have fewer significant bits than their dtype, and are right to as many."""
    wrong = [case for case in cases if not (case.passed or case.vector.exact) and np.all(np.isfinite(case.answer))]
    for bits, name in sorted(SIGNIFICANT.items()):
        if bits >= tolerance.BITS[dtype] or not wrong:
            continue
        short = [
            case for case in wrong if _has_bits(case.answer, bits) and np.all(case.error <= _within(case, bits, dtype))
        ]
        spare = tolerance.BITS[dtype] - bits
        telling = spare * sum(int(np.sum(~_has_few(case.answer))) for case in short)
        if short and telling > -math.log2(COINCIDENCE):
            described, effect = (
                f"answers have {bits} significant bits, as those of {name} have",
                _flag("low-precision")[1],
            )
            title = f"rounded to {bits} bits ({name})"
            return [
                Explanation("bug", title, "low-precision", len(short), failing, described, effect, 0, 2.0**-telling)
            ]
    return []


def _has_bits(values: Any, bits: int) -> bool:
    fraction = np.frexp(values)[0] * 2.0**bits
    return bool(np.all(fraction == np.rint(fraction)))


def _has_few(values: Any) -> Any:  # (...) -> bool (...)
    """Numbers such as 0, 1 and 1/2, that have few bits in any dtype."""
    fraction = np.frexp(values)[0] * 8
    return fraction == np.rint(fraction)


def _within(case: _Judged, bits: int, dtype: str) -> Any:
    """The tolerance around the truth of arithmetic with `bits` significant bits and the range of `dtype`."""
    return case.allowed + (2.0**-bits - tolerance.roundoff(dtype)) * (
        case.vector.amplification + np.abs(truth.midpoints(case.vector.expected))
    )


def _remark(cases: Sequence[_Judged], dtype: str, weak: Sequence[str]) -> str:
    """What fits, but perhaps by accident; or else to how many bits all answers are right, if to some."""
    if weak:
        return (
            f"so few numbers are wrong, by so little, that what fits may do so by accident: {', '.join(weak[:PARTIAL])}"
        )
    for bits, name in SIGNIFICANT.items() if not any(case.vector.exact for case in cases) else ():
        if bits < tolerance.BITS[dtype] and all(np.all(case.error <= _within(case, bits, dtype)) for case in cases):
            return f"the answers are as right as arithmetic with {bits} significant bits ({name}) makes them"
    return ""


# --- candidates -----------------------------------------------------------------------------------------------------------------


def _candidates(component: str) -> list[_Candidate]:
    return [*_dialects(component), *_mutants(component), *_NULLS]


@functools.cache
def _mutants(component: str) -> tuple[_Candidate, ...]:
    from validation import mutants  # the catalogue is imported only once something fails

    def candidate(mutant: Any) -> _Candidate:
        flag = mutants.FLAGS[mutant.flag]
        return _Candidate("bug", mutant.name, flag.name, flag.description, flag.effect, _called(mutant.function))

    return tuple(candidate(mutant) for mutant in mutants.mutants(component) if mutant.flag not in LOST)


def _called(function: Callable[..., Any]) -> Callable[[vectors.Vector, str], Any]:
    return lambda vector, dtype: function(*vector.positional(dtype), **vector.params(dtype))


@functools.cache
def _dialects(component: str) -> tuple[_Candidate, ...]:
    """The definition with the conventions of each dialect, whichever a case asks for."""
    subject = components.component(component)

    def candidate(name: str) -> _Candidate:
        def says(vector: vectors.Vector, dtype: str) -> Any:
            asked = {
                p: name if v in subject.dialects else v for p, v in vector.params(dtype).items() if isinstance(v, str)
            }
            return subject.definition(*vector.positional(dtype), **(vector.params(dtype) | asked))

        others = f"the conventions of {name}, whichever were asked for"
        return _Candidate("dialect", name, "dialect", others, f"agrees with {name}, not with what was asked", says)

    return tuple(candidate(name) for name in subject.dialects)


def _same_as_input(vector: vectors.Vector, dtype: str) -> Any:
    floating = [a for a in vector.positional(dtype) if a.dtype.kind not in "biu" and a.size]
    return np.resize(floating[0], vector.expected.shape) if floating else np.full(vector.expected.shape, np.nan)


_NULLS = tuple(
    _Candidate("bug", name, None, described, "nothing was computed", says, scalable=False)
    for name, described, says in (
        ("zeros", "every answer is 0", lambda vector, dtype: np.zeros(vector.expected.shape)),
        (NOT_A_NUMBER, "every answer is NaN", lambda vector, dtype: np.full(vector.expected.shape, np.nan)),
        ("the input", "the first argument is handed back", _same_as_input),
    )
)


# --- agreement ------------------------------------------------------------------------------------------------------------------


def _explanations(component: str, cases: Sequence[_Judged], dtype: str, failing: int) -> list[Explanation]:
    """The complete explanations; without any, the partial ones among those that come nearest."""
    candidates = _candidates(component)
    wrong, right = ([case for case in cases if case.passed is passed] for passed in (False, True))
    rows, lost = (sum(int(count(case.lost)) for case in cases) for count in (np.size, np.count_nonzero))
    each_lost = math.log2(math.comb(rows, lost)) / max(lost, 1)
    near = _screened(candidates, wrong, dtype)

    @functools.cache
    def fit(place: int, case: int) -> _Fit | None:
        return _fit(near[place], wrong[case], dtype)

    @functools.cache
    def agrees(place: int, case: int) -> bool:
        return _agreement(near[place], right[case], dtype) is not None

    def everywhere(place: int) -> bool:
        return all(fit(place, i) for i in range(len(wrong))) and all(agrees(place, i) for i in range(len(right)))

    complete = [place for place in range(len(near)) if len(wrong) == failing and everywhere(place)]
    found = []
    for place in complete or range(min(len(near), CLOSELY)):
        fitting = [each for i in range(len(wrong)) if (each := fit(place, i)) is not None]
        chance = len(candidates) * math.comb(len(wrong), len(fitting)) * _chance(fitting, each_lost)
        if fitting and (complete or near[place].scalable):  # "every answer is 0" is not said of a part
            each, against = near[place], sum(not agrees(place, i) for i in range(len(right)))
            chance = 0.0 if each.name == NOT_A_NUMBER else chance  # that all are NaN is seen, not inferred
            told = (each.description, each.effect, against, chance)
            found.append(Explanation(each.kind, each.name, each.flag, len(fitting), failing, *told))
    return _once(found)


def _screened(candidates: Sequence[_Candidate], wrong: Sequence[_Judged], dtype: str) -> list[_Candidate]:
    """The candidates that come near the answers in some of a few failing cases, evenly chosen, nearest first: only they are looked at closely."""
    few = [wrong[i * len(wrong) // SCREEN] for i in range(SCREEN)] if len(wrong) > SCREEN else wrong
    scores = [(sum(_nearness(candidate, case, dtype) for case in few), candidate) for candidate in candidates]
    near = [(score, candidate) for score, candidate in scores if score > 0]
    return [candidate for _, candidate in sorted(near, key=lambda each: -each[0])]


def _nearness(candidate: _Candidate, case: _Judged, dtype: str) -> float:
    """2 for a case in which a candidate agrees, 1 for one in which it might."""
    found = [2.0 if np.all(gap <= bound) else 1.0 for _, bound, gap in _comparisons(candidate, case, dtype)]
    return max(found, default=0.0)


def _chance(fits: Sequence[_Fit], each_lost: float) -> float:
    """A bound of the probability that one candidate agrees so well by accident: the derivation is above."""
    rows, windows, gaps = (sum(getattr(fit, name) for fit in fits) for name in ("rows", "windows", "gaps"))
    near = float(gammaincc(rows, gaps * math.log(2))) if rows else 1.0
    return min(2 * min(2.0 ** -min(windows, 1000), near), 1.0) * 2.0 ** -min(
        each_lost * sum(fit.lost for fit in fits), 1000
    )


def _once(found: list[Explanation]) -> list[Explanation]:
    """Without the bugs that are a dialect said again: one that is taken for another explains the same cases under both names."""
    spoken = {(each.name, each.explains, each.contradicted) for each in found if each.kind == "dialect"}
    again = {
        each.name
        for each in found
        if each.kind == "bug"
        and any((name, each.explains, each.contradicted) in spoken for name in _spoken_by(each.name, each.flag))
    }
    flags = {each.flag for each in found if each.name in again}
    kept = [each for each in found if each.name not in again or each.kind == "dialect"]
    flag = flags.pop() if len(flags) == 1 else "dialect"
    return [each if each.kind == "bug" else Explanation(**(asdict(each) | {"flag": flag})) for each in kept]


def _spoken_by(name: str, flag: str | None) -> tuple[str, ...]:
    forms = {"tanh-for-erf": ("tanh",), "erf-for-tanh": ("none",)}
    return forms.get(flag or "", (name.removesuffix(" throughout"),))


@dataclass(frozen=True)
class _Fit:
    """How well a candidate explains a failing case: the wrong rows, Σ log2 E/T and Σ log2 E/g over them, and the rows that are not finite."""

    rows: int
    windows: float
    gaps: float
    lost: int


def _fit(candidate: _Candidate, case: _Judged, dtype: str) -> _Fit | None:
    """How well a candidate explains a failing case; None if it does not."""
    agreed = _agreement(candidate, case, dtype)
    if agreed is None:
        return None
    said, bound, gap = agreed
    finite = np.isfinite(case.answer) & np.isfinite(case.error)
    error, gap = np.where(finite, case.error, 0.0), np.where(finite, gap, 0.0)
    with np.errstate(all="ignore"):
        apart = finite & (case.error > case.allowed) & (np.abs(said - case.vector.expected.high) > bound)
        windows = _of_rows(np.max, np.log2(np.where(apart, np.maximum(error / bound, 1.0), 1.0)))
        least = np.where(finite, _unit(case.vector, dtype) * np.abs(said) + _least(dtype), 0.0)
        gaps = np.log2(_of_rows(np.max, error) / _of_rows(np.max, np.maximum(gap, least)))
    wrong = _of_rows(np.any, apart) & ~case.lost
    if not np.any(wrong | case.lost):
        return None
    return _Fit(
        int(np.sum(wrong)),
        float(np.sum(windows[wrong])),
        float(np.sum(np.maximum(gaps[wrong], 0))),
        int(np.sum(case.lost)),
    )


def _agreement(candidate: _Candidate, case: _Judged, dtype: str) -> tuple[Any, Any, Any] | None:
    """What the candidate says, T, and its distance from the answer, if it agrees with it; None if not."""
    for said, bound, gap in _comparisons(candidate, case, dtype):
        if np.all(gap <= bound):
            return said, bound, gap
        wider = bound + 4 * _sensitivity(candidate, case.vector, dtype, said)
        if np.all(gap <= wider):
            return said, wider, gap
    return None


def _comparisons(candidate: _Candidate, case: _Judged, dtype: str) -> Iterator[tuple[Any, Any, Any]]:
    """What the candidate says, T but for its sensitivity, and its distance from the answer, unless that is too far for any sensitivity."""
    for kind in dict.fromkeys((dtype, "float64")) if candidate.scalable else (dtype,):
        said = _said(candidate, case.vector, kind, dtype)
        if said is None or said.shape != case.answer.shape:
            return
        finite = np.isfinite(said)
        if _same_patterns(said, case.answer):
            number = np.where(finite, said, 0.0)
            gap = np.where(finite, np.abs(np.where(finite, case.answer, 0.0) - number), 0.0)
            bound = np.where(finite, case.fixed + _unit(case.vector, dtype) * np.abs(number), np.inf)
            nearer = case.passed or 2 * np.max(gap) <= np.max(case.error)  # than the truth is, or it explains nothing
            near = candidate.scalable and nearer and np.all(gap <= NEARBY * bound)
            if near or np.all(gap <= bound):
                yield said, bound, gap
            if not nearer:
                return
        elif np.all(finite):
            return  # what neither overflowed nor came near is no other matter in float64


def _same_patterns(one: Any, other: Any) -> bool:
    if np.all(np.isfinite(one)):
        return bool(np.all(np.isfinite(other)))
    return np.array_equal(np.isnan(one), np.isnan(other)) and all(
        np.array_equal(one == end, other == end) for end in (np.inf, -np.inf)
    )


def _said(candidate: _Candidate, vector: vectors.Vector, kind: str, dtype: str) -> Any:
    """The candidate's answer computed in `kind` and rounded to `dtype`, as float64; None where it raises."""
    try:
        with np.errstate(all="ignore"):
            said = np.asarray(candidate.says(vector, kind))
    except Exception:
        return None
    wide = said.astype(np.float64)
    beyond = np.isfinite(wide) & ~np.isfinite(_rounded(wide, dtype))
    return np.where(beyond, np.copysign(np.inf, wide), wide)


def _sensitivity(candidate: _Candidate, vector: vectors.Vector, dtype: str, said: Any) -> Any:  # -> float64 (...)
    """max_k |c_k - c| over three evaluations on inputs moved by at most a unit in the last place; infinity where one is not finite."""
    moved = [_said(candidate, _Moved(vector, seed), dtype, dtype) for seed in range(3)]
    with np.errstate(invalid="ignore"):
        changes = [np.abs(each - said) for each in moved if each is not None and each.shape == said.shape]
    if len(changes) < 3:
        return np.full(said.shape, np.inf)
    largest = functools.reduce(np.maximum, changes)
    return np.where(np.isfinite(largest), largest, np.where(np.isfinite(said), np.inf, 0.0))


class _Moved:
    """A vector whose floating arguments are moved by -1, 0 or 1 unit in the last place."""

    def __init__(self, vector: vectors.Vector, seed: int) -> None:
        self.vector = vector
        self.rng = np.random.default_rng(seed)
        self.expected = vector.expected

    def _move(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind in "biu":
            return value
        bits = value.view({2: np.int16, 4: np.int32, 8: np.int64}[value.dtype.itemsize])
        steps = self.rng.integers(-1, 2, value.shape).astype(bits.dtype)
        movable = np.isfinite(value.astype(np.float64)) & (value.astype(np.float64) != 0)
        moved = (bits + np.where(movable, steps, 0).astype(bits.dtype)).view(value.dtype)
        return np.where(np.isfinite(moved.astype(np.float64)), moved, value)

    def positional(self, dtype: str) -> tuple[Any, ...]:
        """The arrays, moved."""
        return tuple(map(self._move, self.vector.positional(dtype)))

    def params(self, dtype: str) -> dict[str, Any]:
        """The other arguments, arrays moved."""
        return {name: self._move(value) for name, value in self.vector.params(dtype).items()}
