"""The checks of one rule on one case: complex steps, mean values in balls, and every dtype.

A rule says that its pullback maps ȳ to x̄ = Jᵀ ȳ. Each check compares with something that was not derived by hand. All of them are about
<x̄, t> = <ȳ, J t> for directions t of the arguments, and errors are counted in units of the largest entry of each array's cotangent: t has the entry
τ/s where s is that largest entry, rounded down to a power of two, and |τ| <= 1. An array whose cotangent is less than a hundredth of the largest
of its argument counts as that: in a bias of keys, say, which softmax takes away again, it is 0 but for rounding. Where the rule answers 0 for a
whole argument, s is the largest |<ȳ, J t>| found with the entries of t in that argument alone, so that a 0 which should be any other number is
wrong by 1; and where that is 0 too, exactly, the two agree. So entries small beside the largest of their array, or arrays small beside the largest
of its argument, are not seen; but for functions of one number, see below.

*Complex steps* (`refimpl.complex_step`). J t is the imaginary part of the definition at x + i t, exact to rounding, so that <x̄, t> - <ȳ, J t> is the
error of x̄ along t, and rounding. Where the arguments have at most `COORDINATES` numbers, t is each unit vector in turn, and the largest error of an
entry is found as it is. Else t is one of `DIRECTIONS` vectors of random signs. For an error e (in these units) at least one of the two vectors that
differ in the sign of its largest entry has |<e, t>| >= max |e|, so that it is seen in each direction with probability >= 1/2, and missed in all of
them with 1/2^DIRECTIONS at most. (The seed is fixed: a check that passes, passes again.) Allowed is 1e-12.

*Mean values.* φ(s) = <ȳ, f(x + s t)> is differentiable on [-h, h], if no branch of f changes there; so there is a ξ, |ξ| < h, with

    (φ(h) - φ(-h))/(2h) = φ'(ξ) = <x̄(ξ), t>,    x̄(ξ) the exact cotangent at x + ξ t                                                   (1)

The left side is enclosed by running the definition in balls at the exact points x ± h t: call it Q. The rule, run in balls on the hull of these
points, gives a ball for each entry of the cotangent that contains the rule's exact value at every point of the hull, and so P, which contains
<x̄_rule(s), t> for all |s| <= h. If the rule is right, P and Q both contain (1): they meet. That is checked, and that their radii together are at
most `RADIUS` = 1e-20.
ξ depends on t: in another direction the mean value is taken at another point.

What this proves: <x̄_rule(s), t> of every s in [-h, h], that at x too, is within 2e-20 of the true derivative of φ at some point of the segment from
x - h t to x + h t, where h = 2^-STEP. All roundings are in it.

What it does not: that the derivative is the same at x as at that point. It is continuous where no branch changes, but nothing here bounds how fast it
moves. Nor is anything said about other directions. The entries τ of t are drawn from the 2^20 odd multiples of 2^-20 between -1 and 1: with all
others fixed, at most one choice of that of the largest error brings <e, t> within 2^-20 max |e| of 0, so that a rule which is wrong by more than
2^21 RADIUS in any entry is missed with probability 2^-20 at most.

On a hull that meets a branch the definition or the rule raises UndecidedError, and the check fails: cases are away from branches, but those that
say so. On these complex steps alone are taken: they differentiate the branch that float64 takes, to which the stated subgradient belongs. Where
complex steps take another branch, as on max(0, 0) in ReLU, the case has the stated slopes (`Case.slopes`), and x̄ must be slope · ȳ, exactly.

The same balls hold the rule in float64 to 1e-12 in every entry of the cotangent: complex steps share the rounding of the definition, balls do not.
Where float64 cannot reach 1e-12 the case says what it can, and why: its inputs are such that terms of the definition cancel.

For functions of one number, and where a cotangent is a product alone (`Case.terms`), each entry is also held to 1e-12 by itself: of its size, plus
|ȳ| times the sizes of the terms that the derivative adds up, where it has more than one: those of GELU' cancel near -0.75, those of the truncated
series at negative x. An error below (1 + max |ȳ|) 2^-1020 counts as none: numbers there have few digits or none.

*Dtypes.* The pullback as a function of arguments and cotangents, which are rounded to the dtype first: its answer in balls is the truth, its budget
the proved one of `validation.tolerance`, or for a network the sampled one of `validation.perturbed`. Judged are the answers of all number systems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl.complex_step import jvp
from refimpl.errors import ShapeError
from refimpl.number_system import namespace
from refimpl.trees import leaves, mapped
from validation import perturbed, tolerance, truth
from validation.gradients.case import Case, cotangents, exact_balls, floats_of, is_floating, pulled
from validation.number_systems import NumberSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from refimpl.gradients import Rule

__all__ = [
    "BITS",
    "COORDINATES",
    "DIRECTIONS",
    "NUMPY",
    "RADIUS",
    "STEP",
    "Outcome",
    "Subject",
    "complex_steps",
    "examine",
    "in_dtype",
    "mean_value",
    "planned",
    "stated_slopes",
    "subject",
]

COORDINATES = 32
DIRECTIONS = 6
RADIUS = 1e-20
STEP = 200  # h = 2^-STEP
BITS = 800  # at first: enough that x ± h t are numbers
SMALL = 0.01
COTANGENTS, TANGENTS = 1, 2  # streams of random numbers that are not those of the inputs
RUNS = 12  # in perturbed arithmetic
NUMPY = (NumberSystem("numpy", tuple(tolerance.DTYPES), lambda a: a, np.asarray),)

Tree = Any


@dataclass(frozen=True)
class Outcome:
    """What one comparison found: an error as a multiple of what is allowed, and in words."""

    multiple: float
    told: str


@dataclass(frozen=True)
class Subject:
    """A rule on a case, with the cotangents of the results that were drawn."""

    rule: Rule
    case: Case
    bars: tuple[Any, ...]
    arguments: dict[str, Tree]  # those named by the rule
    found: dict[str, Tree]  # their cotangents
    scales: dict[str, Tree]  # the unit of each array's errors, a power of two

    @property
    def size(self) -> int:
        """How many numbers have a cotangent."""
        return sum(leaf.size for leaf in floats_of(self.arguments))


def _scales(found: Tree, otherwise: Callable[[], float]) -> Tree:
    """For each array its largest entry, or a hundredth of the whole tree's, rounded down to a power of two; where all are 0, `otherwise`."""
    sizes = [float(np.max(np.abs(leaf), initial=0.0)) for leaf in leaves(found)]
    largest = max(sizes, default=0.0)
    least = SMALL * largest if largest != 0 or not sizes else otherwise()

    def power(leaf: Any) -> float:
        size = max(float(np.max(np.abs(leaf), initial=0.0)), least)
        return 2.0 ** math.floor(math.log2(size)) if 0 < size < math.inf else 1.0

    return mapped(power, found)


def subject(rule: Rule, case: Case, seed: int) -> Subject:
    """The rule's cotangents, after what they must be whatever they hold: of the arguments' forms, shapes and dtypes."""
    value, (again, pullback) = rule.definition(**case.arguments), rule.function(**case.arguments, **case.more)
    if not _same_bits(value, again):
        raise ShapeError("the rule's value is not the definition's, bit for bit", where=case.label)
    bars = cotangents(value, np.random.default_rng((seed, COTANGENTS)))
    found = dict(zip(rule.arguments, pullback(*bars), strict=True))
    arguments = {name: case.arguments.get(name) for name in rule.arguments}
    _check_form(arguments, found, case.label)
    for seen in _unseen(bars, case.unseen):
        if not _same_bits(found, dict(zip(rule.arguments, pullback(*seen), strict=True))):
            raise ShapeError("the pullback depends on cotangents that it must not look at", where=case.label)
    made = Subject(rule, case, bars, arguments, found, {})
    scales = {name: _scales(tree, lambda name=name: _pushed_size(made, name)) for name, tree in found.items()}  # type: ignore[misc]
    return replace(made, scales=scales)


def _pushed_size(found: Subject, name: str) -> float:
    """The largest |<ȳ, J t>| over unit vectors, or vectors of signs, of one argument."""
    argument = found.arguments[name]
    alone = replace(found, arguments={name: argument}, scales={name: mapped(lambda leaf: 1.0, argument)})
    directions = _directions(alone, np.random.default_rng(TANGENTS))
    return max((abs(_pairing(found.bars, _pushed(alone, t))) for t in directions), default=0.0)


def _same_bits(one: Tree, other: Tree) -> bool:
    """Whether shapes, dtypes and bits are the same."""

    def bits(leaf: Any) -> tuple[Any, ...]:
        array = np.asarray(leaf)
        return array.shape, array.dtype, array.tobytes()

    return all(bits(a) == bits(b) for a, b in zip(leaves(one), leaves(other), strict=True))


def _check_form(arguments: Tree, found: Tree, where: str) -> None:
    def check(argument: Any, bar: Any) -> None:
        if is_floating(argument) and (bar.dtype, bar.shape) != (argument.dtype, argument.shape):
            expected, got = f"{argument.dtype} {argument.shape}", f"{bar.dtype} {bar.shape}"
            raise ShapeError("a cotangent does not fit its argument", where=where, expected=expected, got=got)

    mapped(check, arguments, found)


def _unseen(bars: tuple[Any, ...], unseen: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The cotangents with NaN where they are not looked at."""
    if unseen:
        yield tuple(
            bar if where is None else np.where(where, np.nan, bar) for bar, where in zip(bars, unseen, strict=True)
        )


# --- directions -----------------------------------------------------------------------------------------------------------------------


def _direction(found: Subject, entry: Callable[[Any], Any]) -> dict[str, Tree]:
    """entry(array)/s for every array that has a cotangent, None for the rest."""

    def scaled(argument: Any, scale: float) -> Any:
        return np.asarray(entry(argument)) / scale if is_floating(argument) else None

    return {name: mapped(scaled, found.arguments[name], found.scales[name]) for name in found.arguments}


def _units(found: Subject) -> Iterator[dict[str, Tree]]:
    """Every unit vector."""
    for chosen in range(found.size):
        start = 0

        def entry(argument: Any, chosen: int = chosen) -> Any:
            nonlocal start
            flat = np.zeros(argument.size)
            if 0 <= chosen - start < argument.size:
                flat[chosen - start] = 1.0
            start += argument.size
            return flat.reshape(argument.shape)

        yield _direction(found, entry)


def _signs(found: Subject, rng: np.random.Generator) -> Iterator[dict[str, Tree]]:
    for _ in range(DIRECTIONS):
        yield _direction(found, lambda argument: rng.choice((-1.0, 1.0), argument.shape))


def _directions(found: Subject, rng: np.random.Generator) -> Iterator[dict[str, Tree]]:
    """Every unit vector where there are few, else vectors of signs."""
    return _units(found) if found.size <= COORDINATES else _signs(found, rng)


def _generic(found: Subject, rng: np.random.Generator) -> dict[str, Tree]:
    return _direction(found, lambda argument: rng.integers(-(2**19), 2**19, argument.shape) * 2.0**-19 + 2.0**-20)


def _pairing(one: Tree, other: Tree) -> Any:
    """Σ over all arrays of their products; arrays that one tree lacks count as 0."""
    products: list[Any] = []

    def multiply(a: Any, b: Any) -> None:
        products.extend(np.asarray(np.asarray(a) * np.asarray(b)).ravel().tolist())

    _both(multiply, one, other)
    if products and isinstance(products[0], flint.arb):
        return sum(products, flint.arb(0))
    return math.fsum(products) if all(map(math.isfinite, products)) else math.nan


def _both(function: Callable[[Any, Any], None], one: Tree, other: Tree) -> None:
    """function(a, b) of the leaves that both trees have."""
    if one is None or other is None:
        return
    if isinstance(one, dict):
        for name, part in one.items():
            _both(function, part, other[name])
    elif isinstance(one, tuple | list):
        for part, beside in zip(one, other, strict=True):
            _both(function, part, beside)
    else:
        function(one, other)


# --- complex steps ------------------------------------------------------------------------------------------------------------------


def _pushed(found: Subject, tangents: dict[str, Tree]) -> tuple[Any, ...]:
    """J t, one tangent for each result."""
    names = list(found.case.arguments)

    def definition(*values: Any) -> Any:
        return found.rule.definition(**dict(zip(names, values, strict=True)))

    given = tuple(found.case.arguments.values())
    _, tangent = jvp(definition, given, tuple(tangents.get(name) for name in names))
    return tangent if type(tangent) is tuple else (tangent,)


def complex_steps(found: Subject, rng: np.random.Generator) -> Outcome:
    """The largest |<x̄, t> - <ȳ, J t>| over the directions."""
    errors = [abs(_pairing(found.found, t) - _pairing(found.bars, _pushed(found, t))) for t in _directions(found, rng)]
    worst = max(errors, default=0.0) if not any(map(math.isnan, errors)) else math.nan
    over = "coordinates" if found.size <= COORDINATES else "directions"
    return Outcome(worst / found.case.complex_step, f"complex step {worst:.1e} over {len(errors)} {over}")


def stated_slopes(found: Subject) -> Outcome:
    """Whether x̄ of a function of one number is ȳ times the slopes stated, exactly."""
    (bar,) = found.found.values()
    wrong = int(np.sum(bar != found.case.slopes * found.bars[0]))
    return Outcome(math.inf if wrong else 0.0, f"stated slopes, {wrong} of {bar.size} wrong")


# --- mean values in balls -------------------------------------------------------------------------------------------------------------


def _moved(found: Subject, tangents: dict[str, Tree], place: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The call's arguments in balls, those that have a tangent by place(x, h t)."""

    def one(argument: Any, tangent: Any) -> Any:
        if not is_floating(argument):
            return argument
        moved = np.frompyfunc(
            lambda x, t: place(flint.arb(float(x)), flint.arb(float(t)) * flint.arb(2) ** -STEP), 2, 1
        )
        return np.asarray(moved(argument, tangent), dtype=object).reshape(argument.shape)

    arguments = {name: exact_balls(value) for name, value in found.case.arguments.items()}
    return arguments | {name: _with_tangents(one, found.arguments[name], tangents[name]) for name in found.arguments}


def _with_tangents(one: Callable[[Any, Any], Any], tree: Tree, tangents: Tree) -> Tree:
    """`mapped` in which whole numbers have None for a tangent."""
    if isinstance(tree, dict):
        return {name: _with_tangents(one, part, tangents[name]) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_with_tangents(one, part, bar) for part, bar in zip(tree, tangents, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree if tree is None or tangents is None else one(tree, tangents)


def _phi(found: Subject, bars: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    value = found.rule.definition(**arguments)
    return _pairing(bars, value if type(value) is tuple else (value,))


def mean_value(found: Subject, rng: np.random.Generator) -> Outcome:
    """Whether P and Q of (1) meet, their radii, and the rule in float64 against the enclosure of its exact cotangent."""
    tangents, bits = _generic(found, rng), BITS
    while not _exact_ends(found, tangents, bits):
        bits *= 2
    with truth.precision(bits):
        bars, h = tuple(map(exact_balls, found.bars)), flint.arb(2) ** -STEP
        upper, lower = (_phi(found, bars, end) for end in _ends(found, tangents))
        quotient = (upper - lower) / (2 * h)
        ball = _moved(found, tangents, lambda x, t: x + flint.arb(0, abs(t).upper()))
        hull = pulled(found.rule, ball | found.case.more, bars)
        pairing = _pairing(hull, mapped(_balls_or_none, tangents))
        radius = float((quotient.rad() + pairing.rad()).upper())
        apart = float(abs(quotient - pairing).lower())
        entries = _entry_errors(found, hull)
    met = bool(pairing.overlaps(quotient)) and math.isfinite(radius)
    multiple = max(radius / RADIUS if met else math.inf, entries / found.case.float64)
    told = f"mean value within {radius:.0e}" if met else f"mean value off by {apart:.1e}"
    return Outcome(multiple, f"{told}; float64 within {entries:.1e}")


def _ends(found: Subject, tangents: dict[str, Tree]) -> list[dict[str, Any]]:
    """x + h t and x - h t."""
    return [_moved(found, tangents, lambda x, t: x + t), _moved(found, tangents, lambda x, t: x - t)]


def _exact_ends(found: Subject, tangents: dict[str, Tree], bits: int) -> bool:
    with truth.precision(bits):
        ends = _ends(found, tangents)
    return all(ball.is_exact() for end in ends for leaf in floats_of(end) for ball in leaf.ravel())


def _balls_or_none(leaf: Any) -> Any:
    return None if leaf is None else truth.balls(leaf)


def _entry_errors(found: Subject, hull: dict[str, Tree]) -> float:
    """The largest error of an entry of the rule's cotangents in float64, in their units."""
    errors = [0.0]

    def compare(name: str) -> None:
        def one(bar: Any, known: Any, scale: float) -> None:
            if is_floating(known):
                error = truth.upper_distance(known, bar)
                errors.append(float(np.max(error, initial=0.0)) / scale)
                if found.case.terms is not None:
                    errors.append(float(np.max(error / _own_sizes(found, known), initial=0.0)))

        mapped(one, found.found[name], hull[name], found.scales[name])

    for name in found.found:
        compare(name)
    return max(errors)


def _own_sizes(found: Subject, known: Any) -> Any:
    """Of `Case.terms`: what each entry's error is counted in; where that is below the normal numbers, 1e-12 of it is 2^-1020."""
    size, terms = np.abs(found.bars[0]), found.case.terms
    own = np.vectorize(lambda ball: float(abs(ball).lower()), otypes=[float])(known)
    return own + (size * terms if np.any(terms) else 0.0) + (1 + np.max(size)) * 2.0**-1020 / found.case.float64


# --- dtypes and number systems ------------------------------------------------------------------------------------------------------


def _flattened(found: Subject, system: NumberSystem | None = None) -> tuple[Callable[..., Any], list[Any]]:
    """The pullback as a function of arrays, and these: the floats of the arguments and of the cotangents; its answers end to end."""
    given = {"arguments": dict(found.case.arguments), "bars": found.bars}

    def moved(leaf: Any) -> Any:
        return system.to(leaf) if system and isinstance(leaf, np.ndarray) else leaf

    def function(*numbers: Any) -> Any:
        left = iter(numbers)
        filled = mapped(lambda leaf: moved(next(left) if is_floating(leaf) else leaf), given)
        parts = leaves(pulled(found.rule, filled["arguments"] | found.case.more, filled["bars"]))
        xp = namespace(*parts)
        joined = xp.concat([xp.reshape(part, (-1,)) for part in parts])
        return system.back(joined) if system else joined

    return function, floats_of(given)


def in_dtype(found: Subject, dtype: str, systems: Iterable[NumberSystem]) -> Outcome:
    """The pullback in `dtype`, in every number system that has it, against its enclosure, in units of its budget."""
    function, doubles = _flattened(found)
    arrays = [array.astype(tolerance.DTYPES[dtype]) for array in doubles]
    known, budget = truth.enclose(function, *arrays), _budget(found, function, arrays, dtype)
    worst = Outcome(-1.0, "")
    for system in systems:
        if dtype in system.dtypes:
            verdict = tolerance.judge(_flattened(found, system)[0](*arrays), known, budget, dtype)
            told = f"{system.name} {dtype} {verdict.multiple:.2g} of its tolerance"
            worst = max(
                worst, Outcome(verdict.multiple if verdict.passed else math.inf, told), key=lambda o: o.multiple
            )
    return worst


def _budget(found: Subject, function: Callable[..., Any], arrays: list[Any], dtype: str) -> Any:
    if not found.case.sampled:
        return tolerance.proved_budget(function, *arrays, dtype=dtype)
    wide = [array.astype(np.float64) for array in arrays]

    def run(wrap: Callable[[Any], Any]) -> Any:
        return _flattened(found, NumberSystem("perturbed", (), wrap, lambda array: array))[0](*wide)

    deviation = perturbed.sampled_deviation(run, roundoff=tolerance.roundoff(dtype), runs=RUNS)
    return perturbed.sigmas(deviation.size, RUNS) * deviation


# --- all of them ----------------------------------------------------------------------------------------------------------------------


def planned(rule: Rule, case: Case) -> int:
    """How many comparisons `examine` makes."""
    if case.slopes is not None:
        return 1
    size = sum(leaf.size for name in rule.arguments for leaf in floats_of(case.arguments.get(name)))
    return (size if size <= COORDINATES else DIRECTIONS) + (not case.steps_only) + len(case.dtypes)


def examine(rule: Rule, case: Case, *, seed: int = 0, systems: Iterable[NumberSystem] = NUMPY) -> list[Outcome]:
    """Every comparison of a rule on a case, those of dtypes in each of the number systems."""
    found, rng = subject(rule, case, seed), np.random.default_rng((seed, TANGENTS))
    if case.slopes is not None:
        return [stated_slopes(found)]
    outcomes = [complex_steps(found, rng)]
    if not case.steps_only:
        outcomes.append(mean_value(found, rng))
    return outcomes + [in_dtype(found, dtype, systems) for dtype in case.dtypes]
