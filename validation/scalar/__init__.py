"""The truth, doubted: every definition's enclosure against a second program for the same equations.

The truth of a component is its own definition run on balls, so a bug in the definition would certify itself. `SCALAR[name]` is another program
for that component, called alike as `SCALAR[name](*arrays, **params)`: numbers of mpmath and loops, written from the published equations that its
module cites, with nothing of `refimpl` and nothing of NumPy. It returns nested lists of `mpf`, computed with 75 digits. `cross_check` demands
that the enclosures contain its answers, on the tiny ones of a component's own cases and on `cases.own_cases`, which go through every option.

What it cannot find is one mistake made twice: in both programs, by the same misreading of a paper. The dialects of FAVOR+ are therefore compared
with recorded answers of their implementations too, the scalar programs as well as the definitions (tests/test_validation_scalar.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flint
import numpy as np

from refimpl.errors import ConfigError
from validation import backwards, components, truth
from validation.scalar import (
    activation,
    attention,
    beams,
    bert,
    blocks,
    cases,
    copying,
    differences,
    extraction,
    favor,
    gpt2,
    mitchell,
    normalization,
    pooling,
    positions,
    softmax,
    summarizing,
    taylor,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LARGEST", "RADIUS", "ROUNDING", "SCALAR", "CrossCheck", "cross_check", "tiny", "tiny_cases"]

SCALAR: dict[str, Callable[..., Any]] = {
    program.__name__: program
    for program in (
        softmax.softmax,
        softmax.log_softmax,
        softmax.logsumexp,
        softmax.sparse_softmax,
        softmax.sparse_softmax_cross_entropy,
        activation.gelu,
        normalization.layer_norm,
        attention.attention,
        attention.residual_attention,
        attention.relative_attention,
        positions.hierarchical_positions,
        pooling.mean_pooling,
        pooling.unit_length,
        taylor.exp_taylor,
        taylor.taylor_softmax,
        taylor.taylor_attention,
        mitchell.mitchell_multiply,
        mitchell.mitchell_divide,
        mitchell.mitchell_log2,
        mitchell.mitchell_exp2,
        mitchell.mitchell_multiply_integer,
        mitchell.mitchell_divide_integer,
        mitchell.mitchell_corrected,
        mitchell.mitchell_square_root,
        mitchell.mitchell_matmul,
        mitchell.mitchell_power,
        mitchell.mitchell_multiply_patterns,
        mitchell.mitchell_divide_patterns,
        mitchell.mitchell_multiply_words,
        copying.copy_labels,
        copying.copy_step,
        copying.copy_states,
        copying.copy_loss,
        beams.copy_beam_search,
        extraction.rouge,
        extraction.extend_embedding,
        extraction.match_sentences,
        extraction.split_sentences,
        favor.positive_features,
        favor.trigonometric_features,
        favor.hyperbolic_features,
        favor.relu_features,
        favor.favor_attention,
        blocks.gpt2_block,
        blocks.bert_block,
        summarizing.dgcnn,
        gpt2.gpt2,
        bert.bert,
        bert.nezha,
    )
}


def _of_backward(each: backwards.Backward) -> Callable[..., Any]:
    """The second program of a backward pass: the differences of the forward component's."""

    def forward(*arrays: Any, **params: Any) -> Any:
        return SCALAR[each.forward](*arrays, **params, **each.fixed(*arrays))

    return differences.backward(forward, each.given, each.arguments)


SCALAR |= {each.name: _of_backward(each) for each in backwards.BACKWARDS}
DTYPES = ("float64", "float32")  # that the cases are rounded to, before either program sees them
LARGEST = 400  # numbers in every argument, and in the answer, of a tiny case
DIFFERENCES = (
    40  # numbers of which cotangents are asked in a tiny case of a backward pass: each takes two runs of a program
)
OF_LAYERS = 60  # the same where it is a layer's backward pass
FEW = 8  # such cases
LONGEST = 100  # length of every axis of a tiny case's arguments
TOKENS = 6  # of a tiny case whose argument are a network's tokens: each has 61 logits or so
RADIUS = 1e-40  # of an enclosure, relative to max(1, |answer|), at most
ROUNDING = flint.arb("1e-50")  # of the scalar program, relative to max(1, |answer|); its digits are 75


@dataclass(frozen=True)
class CrossCheck:
    """What came of it: `widest` is the largest radius and `farthest` the largest distance of the two programs, both relative to max(1, |answer|)."""

    component: str
    holds: bool
    cases: int
    elements: int
    widest: float
    farthest: float
    multiple: float  # of what is allowed, the worst of either
    worst: str  # the first answer that is not contained, and its case; or "every answer contained"


def tiny(name: str, case: components.Case) -> bool:
    """Whether a case is small enough for loops over single numbers."""
    arrays = [a for a in case.arrays if a is not None]
    largest = TOKENS if name in components.MODELS else LARGEST
    backward = components.component(name).backward
    if backward:
        moved = sum(case.arrays[backward.given.index(each)].size for each in backward.arguments)
        if moved > (OF_LAYERS if components.component(name).sampled else DIFFERENCES):
            return False
    return all(a.size <= largest and max(a.shape, default=0) <= LONGEST for a in arrays)


def tiny_cases(name: str, seed: int = 0) -> list[components.Case]:
    """The tiny cases of a component: its own, rounded to float64 and to float32, and those made for this check, in float64.

    Of a backward pass, whose differences take seconds, `FEW` in float64 and one in float32; none at which there is no derivative.
    """
    subject = components.component(name)
    found = [
        components.Case(f"{case.id}, {dtype}", case.hard, case.arrays, case.params)
        for dtype in DTYPES
        for case in _own(subject, dtype, seed)
        if dtype == DTYPES[0]
        or any(a.dtype.kind == "f" for a in case.arrays)  # rounding leaves whole numbers as they are
    ]
    return [case for case in (*found, *cases.own_cases(name, np.random.default_rng(seed))) if tiny(name, case)]


def _own(subject: components.Component, dtype: str, seed: int) -> list[components.Case]:
    trials = subject.trials(dtype, seed, None)
    if not subject.backward:
        return trials
    smooth = [case for case in trials if case.id not in subject.backward.kinks and tiny(subject.name, case)]
    return smooth[: FEW if dtype == DTYPES[0] else 1]


def _ball(number: Any) -> Any:
    """An `mpf` as the exactly equal ball: at 512 bits, which hold all of its digits."""
    sign, mantissa, exponent, _ = number._mpf_
    if not mantissa and exponent:
        return flint.arb("nan")  # an infinity or no number
    return flint.arb((-1 if sign else 1) * int(mantissa)) * flint.arb(2) ** int(exponent)


def _flat(values: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """The numbers of nested lists in order; None where they do not have that shape."""
    if not shape:
        return None if isinstance(values, list) else [values]
    if not isinstance(values, list) or len(values) != shape[0]:
        return None
    parts = [_flat(part, shape[1:]) for part in values]
    return None if any(part is None for part in parts) else [each for part in parts for each in part or []]


def _one(name: str, case: components.Case) -> CrossCheck:
    """The comparison on one case."""
    definition = components.component(name).definition
    enclosure = truth.enclose(definition, *case.arrays, target=RADIUS / 2, bits=256, **case.params)
    answers = _flat(SCALAR[name](*case.arrays, **case.params), enclosure.shape)
    if answers is None:
        worst = f"{case.id}: an answer of another shape than {enclosure.shape}"
        return CrossCheck(name, False, 1, enclosure.size, math.inf, math.inf, math.inf, worst)
    widest, farthest, multiple, worst = 0.0, 0.0, 0.0, ""
    with truth.precision(512):
        for place, number in zip(np.ndindex(enclosure.shape), answers, strict=True):
            ball, other = enclosure[place], _ball(number)
            unit = max(flint.arb(1), abs(other))
            radius, distance = ball.rad() / unit, abs(ball.mid() - other) / unit
            if not (distance <= radius + ROUNDING and radius <= RADIUS):  # NaN is not <=
                worst = worst or f"{case.id}, at {list(place)}: {ball.str(20)} does not contain {other.str(20)}"
            share = (radius / RADIUS, distance / (radius + ROUNDING))
            widest, farthest = max(widest, _number(radius)), max(farthest, _number(distance))
            multiple = max(multiple, *map(_number, share))
    return CrossCheck(name, not worst, 1, enclosure.size, widest, farthest, multiple, worst)


def _number(ball: Any) -> float:
    return float(ball.upper()) if ball.is_finite() else math.inf


def cross_check(name: str, *given: components.Case, seed: int = 0) -> CrossCheck:
    """Whether |scalar - midpoint| <= radius + 10^-50 max(1, |scalar|) and radius <= 10^-40 max(1, |scalar|), for every number of every case.

    Parameters
    ----------
    name : a component that has a program in `SCALAR`
    given : the cases; without any, `tiny_cases(name, seed)`

    Raises
    ------
    ConfigError
        if there is no such component, or no program for it, or no case.
    """
    components.component(name)
    if name not in SCALAR:
        raise ConfigError(
            "no second program", where=f"validation.scalar.SCALAR[{name!r}]", expected=", ".join(SCALAR), got="none"
        )
    every = given or tuple(tiny_cases(name, seed))
    if not every:
        raise ConfigError("no tiny case", where=f"cross_check({name!r})", expected="one or more", got=0)
    found = [_one(name, case) for case in every]

    def largest(field: str) -> float:
        return max(getattr(each, field) for each in found)

    worst = next((each.worst for each in found if not each.holds), "every answer contained")
    figures = (largest("widest"), largest("farthest"), largest("multiple"))
    return CrossCheck(name, all(e.holds for e in found), len(every), sum(e.elements for e in found), *figures, worst)
