"""Averages of parameters: closed forms, a plain recurrence, every number system, and training that stops and goes on."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import FLOATING, System, unchanged

from refimpl import learning
from refimpl.errors import ConfigError, DtypeError
from refimpl.learning.ema import EMA, EMAState, moving_average
from refimpl.trees import leaves
from validation import truth

if TYPE_CHECKING:
    from pathlib import Path

momenta = st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999])


class Moving:
    """An optimizer whose steps are given: θ_s = θ_{s-1} - g, no state."""

    def start(self, parameters: Any) -> Any:
        return learning.SGD().start(parameters)

    def step(self, parameters: Any, gradients: Any, state: Any, rate: float) -> tuple[Any, Any]:
        return learning.SGD().step(parameters, gradients, state, 1.0)

    def described(self, parameters: Any) -> dict[str, Any]:
        return {"kind": "Moving"}


def _walked(ema: EMA, start: Any, points: list[Any]) -> tuple[Any, EMAState]:
    """The average after going through the points, each an array."""
    parameters, state = {"w": start}, ema.start({"w": start})
    for point in points:
        gradients = {"w": parameters["w"] - point}
        _, state = ema.step(parameters, gradients, state, 0.1)
        parameters = {"w": point}
    return ema.averaged(parameters, state)["w"], state


def _weights(momentum: float, steps: int) -> list[Fraction]:
    """β^(s-r) (1 - β)/(1 - β^s), r = 1 .. s."""
    beta = Fraction(momentum)
    each = [beta ** (steps - r) for r in range(1, steps + 1)]
    return [weight / sum(each) for weight in each]


@given(momenta, st.integers(1, 60), st.integers(0, 2**32))
def test_the_average_is_the_weighted_mean_of_the_points(momentum: float, steps: int, seed: int) -> None:
    """Σ β^(s-r) θ_r/Σ β^(s-r) in exact arithmetic, of points within 1: a sum's s roundings, and those of 1 - βˢ, of which little may be left."""
    points = np.random.default_rng(seed).uniform(-1, 1, (steps, 3))
    found, state = _walked(EMA(Moving(), momentum), np.full(3, 7.0), list(points))
    meant = [
        float(sum(w * Fraction(x) for w, x in zip(_weights(momentum, steps), column, strict=True)))
        for column in points.T
    ]
    left = 1 - momentum**steps
    assert state.steps == steps
    assert np.max(np.abs(found - meant)) <= (4 * steps + 4 / left) * 2.0**-53


@given(st.integers(1, 40), st.integers(-1000, 1000))
def test_the_average_of_one_point_is_that_point(steps: int, point: int) -> None:
    """Exactly for β = 1/2, where every number on the way has at most 53 bits; whatever the start was."""
    found, _ = _walked(EMA(Moving(), 0.5), np.array([3.25]), [np.array([float(point)])] * steps)
    assert found.tolist() == [float(point)]


@given(momenta, st.integers(1, 300))
def test_on_a_line_the_average_lags_by_a_constant(momentum: float, steps: int) -> None:
    """θ_r = r: the average is s - β/(1 - β) + s βˢ/(1 - βˢ), between the points."""
    found, _ = _walked(EMA(Moving(), momentum), np.zeros(1), [np.array([float(r)]) for r in range(1, steps + 1)])
    beta = Fraction(momentum)
    meant = steps - beta / (1 - beta) + steps * beta**steps / (1 - beta**steps)
    assert 1 <= meant <= steps
    assert abs(Fraction(found[0]) - meant) <= Fraction((4 * steps + 4 / (1 - momentum**steps)) * steps * 2.0**-53)


@pytest.mark.parametrize("corrected", [True, False])
def test_every_bit_is_that_of_the_recurrence(corrected: bool) -> None:
    """a ← β a + (1 - β) θ in float64, from 0 or from the first parameters; the steps are the optimizer's own."""
    rng = np.random.default_rng(3)
    start, slopes = {"w": rng.standard_normal((4, 3))}, rng.standard_normal((20, 4, 3))
    ema = EMA(learning.AdamW(decay=0.1), 0.97, corrected)
    ours, state = start, ema.start(start)
    theirs, moments = start, ema.optimizer.start(start)
    plain = 0 * start["w"] if corrected else start["w"]
    for step, slope in enumerate(slopes, 1):
        ours, state = ema.step(ours, {"w": slope}, state, 0.01)
        theirs, moments = ema.optimizer.step(theirs, {"w": slope}, moments, 0.01)
        plain = 0.97 * plain + (1 - 0.97) * theirs["w"]
        assert unchanged(ours["w"], theirs["w"])
        assert unchanged(ema.averaged(ours, state)["w"], plain / (1 - 0.97**step) if corrected else plain)
    assert all(unchanged(a, b) for a, b in zip(leaves(state.optimizer)[1:], leaves(moments)[1:], strict=True))


def test_without_the_correction_the_start_weighs_as_much_as_is_left() -> None:
    """βˢ θ_0 + (1 - βˢ) of the corrected one."""
    rng, start = np.random.default_rng(1), np.array([5.0, -3.0])
    points = list(rng.standard_normal((30, 2)))
    plain, corrected = (_walked(EMA(Moving(), 0.9, way), start, points)[0] for way in (False, True))
    assert np.max(np.abs(plain - (0.9**30 * start + (1 - 0.9**30) * corrected))) <= 1e-14


@pytest.mark.parametrize(("kind", "momentum"), [("fast", 0.9), ("slow", 0.9999)])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_twenty_steps_agree_with_torch(kind: str, momentum: float, name: str, recorded: Any) -> None:
    """torch.optim.swa_utils, whose average begins at what it is first given; ours is the same without the correction, from there.

    Both have fewer than 4 roundings a step, of numbers within 20: 20 · 8 · 20 units. Corrected, it is theirs less what the start weighs.
    """
    answers = recorded("torch_ema")
    points, whole, later = answers[name], answers[f"{kind}.start.{name}"], answers[f"{kind}.first.{name}"]
    assert np.max(np.abs(points)) < 20
    for steps in range(1, 21):
        found, _ = _walked(EMA(Moving(), momentum, corrected=False), points[0], list(points[1 : steps + 1]))
        assert np.max(np.abs(found - whole[steps - 1])) <= 3200 * 2.0**-53
        found, _ = _walked(EMA(Moving(), momentum, corrected=False), points[1], list(points[2 : steps + 1]))
        assert np.max(np.abs(found - later[steps - 1])) <= 3200 * 2.0**-53
        left, (found, _) = momentum**steps, _walked(EMA(Moving(), momentum), points[0], list(points[1 : steps + 1]))
        assert np.max(np.abs((1 - left) * found + left * points[0] - whole[steps - 1])) <= 4800 * 2.0**-53


@pytest.mark.parametrize("floats", FLOATING)
def test_it_runs_on_every_array_library(floats: System) -> None:
    """The average is in float64 and rounded once to the parameters' dtype: within half a unit of it of NumPy's float64."""
    points = [np.array([[0.5, -1.25, 3.0]]) * (1 + step / 7) for step in range(9)]
    for dtype in set(floats.dtypes) & {"float32", "float64"}:
        wide, given_ = "float64" in floats.dtypes, [floats.floats(point, dtype) for point in points]
        found, state = _walked(EMA(Moving(), 0.99, wide=wide), given_[0], given_)
        doubles = [floats.back(point).astype(np.float64) for point in given_]
        meant, _ = _walked(EMA(Moving(), 0.99), doubles[0], doubles)
        assert str(found.dtype).endswith(dtype)
        assert str(state.average["w"].dtype).endswith("float64" if wide else dtype)
        unit = 2.0**-44 if dtype == "float64" else 2.0**-24 if wide else 2.0**-18
        assert np.max(np.abs(floats.back(found) - meant) / np.abs(meant)) <= unit


def test_balls_enclose_the_mean() -> None:
    points = [np.array([float(r), 1.0]) for r in range(1, 6)]
    found, _ = _walked(EMA(Moving(), 0.75), truth.balls(points[0]), [truth.balls(point) for point in points])
    meant = [float(sum(w * r for r, w in enumerate(_weights(0.75, 5), 1))), 1.0]
    assert all(abs(float(ball.mid()) - value) <= 1e-15 for ball, value in zip(found, meant, strict=True))


def test_a_slow_average_of_float32_parameters_still_moves() -> None:
    """θ apart from a by 1 in 10,000, β = 0.9999: in float32 β a + (1 - β) θ would be a again; half of the way is gone in log 2/10⁻⁴ steps."""
    start, there = np.ones(1, np.float32), np.full(1, 1.0001, np.float32)
    narrow = np.float32(0.9999) * start + np.float32(1 - 0.9999) * there
    assert narrow == start
    average = start.astype(np.float64)
    for _ in range(round(math.log(2) / 1e-4)):
        average = moving_average(average, there, 0.9999)
    assert abs((average[0] - 1) / (there[0] - 1) - 0.5) < 1e-3


def _training(**options: Any) -> learning.Training:
    def gradient(parameters: Any, batches: Any, rng: np.random.Generator) -> tuple[float, Any]:
        noise = {name: rng.standard_normal(leaf.shape).astype(leaf.dtype) for name, leaf in parameters.items()}
        return 1.0, noise

    corpus = learning.Corpus([[1, 2, 3], [3, 4, 5]], length=2, rows=1)
    ema = EMA(learning.AdamW(), **options)
    return learning.Training(gradient, corpus, ema, learning.Schedule(0.1))


def test_training_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    first, path = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}, tmp_path / "training.safetensors"
    training = _training(momentum=0.9)
    whole = training.run(training.start(first), 9)
    training.run(training.start(first), 4, checkpoint=path)
    again = _training(momentum=0.9)
    resumed = again.run(again.resume(path, first), 9)
    same = zip(leaves(whole), leaves(resumed), strict=True)
    assert all(unchanged(a, b) if hasattr(a, "dtype") else a == b for a, b in same)
    ema: Any = training.optimizer
    found = ema.averaged(whole.parameters, whole.moments)
    assert found["w"].dtype == np.float32
    assert found["w"].tolist() != whole.parameters["w"].tolist()
    with pytest.raises(ConfigError, match=r"another training[\s\S]*momentum: 0\.9 in the checkpoint, 0\.99 here"):
        _training(momentum=0.99).resume(path, first)


def test_nothing_is_mutated() -> None:
    ema, start = EMA(learning.SGD(), 0.5, corrected=False), {"w": np.ones(2)}
    state = ema.start(start)
    after, moved = ema.step(start, {"w": np.ones(2)}, state, 0.5)
    ema.averaged(after, moved)
    assert [leaf.tolist() for leaf in (start["w"], state.average["w"])] == [[1.0, 1.0], [1.0, 1.0]]
    assert moved.average["w"].tolist() == [0.75, 0.75]


def test_what_cannot_be_averaged_is_refused() -> None:
    for momentum in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match=r"no such average[\s\S]*0 <= momentum < 1"):
            EMA(learning.SGD(), momentum)
    start = {"w": np.ones(2)}
    with pytest.raises(ConfigError, match=r"nothing to average[\s\S]*take a step"):
        EMA(learning.SGD()).averaged(start, EMA(learning.SGD()).start(start))
    with pytest.raises(DtypeError, match="16-bit"):
        EMA(learning.SGD()).start({"w": np.ones(2, np.float16)})
