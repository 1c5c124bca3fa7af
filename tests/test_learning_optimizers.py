"""Optimizers, clipping, schedules and the loss: closed forms, what torch.optim did, and every number system."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import ALL_DTYPES, FLOATING, System, rounded, unchanged

from refimpl import gradients, learning, softmax
from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.learning import optimizers
from refimpl.trees import leaves, mapped
from validation import tolerance, truth

ADAM: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8}
RATES = [0.05 * (1 + step % 4) for step in range(20)]
OPTIMIZERS: dict[str, tuple[Any, float | None]] = {  # as validation/oracles/torch_optimizers.py
    "sgd": (learning.SGD(), None),
    "momentum": (learning.Momentum(0.9), None),
    "nesterov": (learning.Momentum(0.9, nesterov=True), None),
    "adam": (learning.AdamW(**ADAM, decay=0.0), None),
    "adamw": (learning.AdamW(**ADAM, decay=0.3), None),
    "adamw_clipped": (learning.AdamW(**ADAM, decay=0.3), 0.2),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def _walk(name: str, weight: Any, bias: Any, by_weight: Any, by_bias: Any) -> tuple[list[Any], list[Any]]:
    """The weights and biases after each step, for gradients (steps, ...) of both."""
    (optimizer, limit), found = OPTIMIZERS[name], ([], [])
    parameters = {"weight": weight, "bias": bias}
    state = optimizer.start(parameters)
    for step in range(by_weight.shape[0]):
        slopes = {"weight": by_weight[step, ...], "bias": by_bias[step, ...]}
        if limit is not None:
            slopes, _ = optimizers.clipped(slopes, limit, eps=1e-6)  # PyTorch's
        parameters, state = optimizer.step(parameters, slopes, state, RATES[step])
        for places, part in zip(found, parameters.values(), strict=True):
            places.append(part)
    return found


@every_optimizer
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_twenty_steps_agree_with_torch(name: str, part: str, recorded: Any) -> None:
    """We and torch are each within the budget that balls of 53 bits prove for these steps, given the gradients that torch took."""
    answers = {key.removeprefix(f"{name}."): a for key, a in recorded("torch_optimizers").items() if f"{name}." in key}
    arrays = [answers[key] for key in ("weight_start", "bias_start", "weight_gradient", "bias_gradient")]

    def walk(*given: Any) -> Any:
        return np.stack(_walk(name, *given)[part == "bias"])

    enclosure, budget = truth.enclose(walk, *arrays), tolerance.proved_budget(walk, *arrays, dtype="float64")
    assert np.max(budget) < 1e-11
    for answer in (walk(*arrays), answers[part]):
        verdict = tolerance.judge(answer, enclosure, budget, "float64")
        assert verdict.passed, verdict


def test_the_norm_is_the_one_torch_returned(recorded: Any) -> None:
    answers = recorded("torch_optimizers")
    for step, theirs in enumerate(answers["adamw_clipped.norm"]):
        slopes = [answers["adamw_clipped.weight_gradient"][step], answers["adamw_clipped.bias_gradient"][step]]
        # 15 squares, their sum and a root: at most 15 + 1 roundings, halved by the root, and the root's; of both
        assert abs(learning.global_norm(slopes) - theirs) <= 20 * 2.0**-53 * theirs


# --- closed forms ---------------------------------------------------------------------------------------------------------------


def test_sgd_on_a_quadratic_shrinks_by_a_constant_factor() -> None:
    """θ_n = (1 - ηa)ⁿ θ₀ for the loss a θ²/2; with η a = 1/4 all of it is exact while 3ⁿ has at most 53 bits."""
    x = np.array([4.0**16, -(4.0**15)])
    for n in range(1, 30):
        x = optimizers.sgd(x, 2 * x, 0.125)
        assert x.tolist() == [3.0**n * 4.0 ** (16 - n), -(3.0**n) * 4.0 ** (15 - n)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_sums_old_gradients(nesterov: bool) -> None:
    """For a constant gradient g and μ = 1/2: m_n = (2 - 2^(1-n)) g; Nesterov takes the step that the heavy ball takes next."""
    g = np.array([1.0, -3.0])
    x, m = np.zeros(2), np.zeros(2)
    for n in range(1, 20):
        before = x
        x, m = optimizers.momentum(x, g, m, 0.25, 0.5, nesterov=nesterov)
        assert m.tolist() == ((2 - 2.0 ** (1 - n)) * g).tolist()
        step = (2 - 2.0 ** (1 - n - nesterov)) * g
        assert (before - x).tolist() == (0.25 * step).tolist()


def test_momentum_0_is_sgd() -> None:
    rng = np.random.default_rng(5)
    x, g = rng.standard_normal((2, 7))
    for nesterov in (False, True):
        assert unchanged(optimizers.momentum(x, g, 0 * x, 0.3, 0.0, nesterov=nesterov)[0], optimizers.sgd(x, g, 0.3))


@given(st.floats(1e-6, 1e6), st.booleans(), st.sampled_from([0.0, 1e-8, 1e-3]))
def test_adams_first_step_is_the_rate(size: float, positive: bool, eps: float) -> None:
    """Δ = -η g/(|g| + ε): m̂ = g and v̂ = g² whatever the betas. Ten roundings and those of β, 1 - β, which are 1 ulp of 0.05 at most."""
    g = np.array([size if positive else -size])
    zero = np.zeros(1)
    x, _, _ = optimizers.adamw(zero, g, zero, zero, 1, 0.125, (0.9, 0.95), eps, 0.0)
    meant = -0.125 * g / (size + eps)
    assert abs(x - meant) <= 30 * 2.0**-53 * abs(meant)


@every_optimizer
@given(rate=st.floats(1e-6, 1.0), decay=st.floats(1e-6, 1.0))
def test_decay_is_decoupled(name: str, rate: float, decay: float) -> None:
    """Without gradients what decays is multiplied by 1 - ηλ, exactly that number; what does not stays, bit for bit."""
    optimizer = dataclasses.replace(OPTIMIZERS[name][0], decay=decay)
    parameters = {"weight": np.array([[1.7, -3.1]]), "bias": np.array([0.3])}
    slopes = mapped(np.zeros_like, parameters)
    after, _ = optimizer.step(parameters, slopes, optimizer.start(parameters), rate)
    assert after["weight"].tolist() == ((1 - rate * decay) * parameters["weight"]).tolist()
    assert after["bias"].tolist() == parameters["bias"].tolist()


def test_decay_does_not_reach_the_moments() -> None:
    """With another decay the parameters differ, and the moments do not, in any bit."""
    parameters, slopes = {"w": np.array([[1.0, 2.0]])}, {"w": np.array([[0.5, -0.25]])}
    plain, decayed = learning.AdamW(decay=0.0), learning.AdamW(decay=0.1)
    one, two = (each.step(parameters, slopes, each.start(parameters), 0.1) for each in (plain, decayed))
    assert one[0]["w"].tolist() != two[0]["w"].tolist()
    assert all(unchanged(a, b) for a, b in zip(leaves(one[1])[1:], leaves(two[1])[1:], strict=True))


def test_what_decays_is_chosen_by_name() -> None:
    parameters = {"embedding": np.ones((2, 2)), "weight": np.ones((2, 2)), "scale": np.ones(2)}
    optimizer = learning.AdamW(decay=0.5, decays=lambda name, leaf: name == "weight")
    assert optimizer.described(parameters)["decayed"] == ["weight"]
    after, _ = optimizer.step(parameters, mapped(np.zeros_like, parameters), optimizer.start(parameters), 0.5)
    assert [leaf.ravel()[0] for leaf in leaves(after)] == [1.0, 0.75, 1.0]
    assert learning.AdamW(decay=0.5).described(parameters)["decayed"] == ["embedding", "weight"]


# --- clipping -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(1e-3, 1e4))
def test_clipping_keeps_the_direction_and_the_limit(values: list[float], limit: float) -> None:
    """g c/max(‖g‖, c): the same bits where ‖g‖ <= c; else of norm c, by a factor that all entries share."""
    slopes = {"a": np.array(values), "b": None, "c": (np.array([[0.5]]),)}
    after, norm = learning.clipped(slopes, limit)
    flat, cut = np.concatenate([a.ravel() for a in leaves(slopes)]), np.concatenate([a.ravel() for a in leaves(after)])
    unit = 2.0**-53
    assert abs(norm - math.sqrt(math.fsum(v * v for v in flat))) <= 10 * unit * norm
    if norm <= limit:
        assert unchanged(flat, cut)
    else:
        assert abs(math.sqrt(math.fsum(v * v for v in cut)) - limit) <= 14 * unit * limit
        assert np.all(np.abs(cut - flat * (limit / norm)) <= unit * np.abs(cut))


@pytest.mark.parametrize("floats", FLOATING)
def test_clipping_runs_on_every_array_library(floats: System) -> None:
    """To within the order of the sum: ten squares are added, in any order, and rooted."""
    given = [np.linspace(-1, 1, 6).reshape(2, 3), np.linspace(3, 4, 4)]
    for dtype in set(floats.dtypes) & {"float32", "float64"}:
        after, norm = learning.clipped([floats.floats(a, dtype) for a in given], 0.5)
        meant, exact_norm = learning.clipped([rounded(a, dtype).astype(np.float64) for a in given], 0.5)
        unit = 16 * tolerance.roundoff(dtype)
        assert abs(float(norm) - exact_norm) <= unit * exact_norm
        for a, b in zip(after, meant, strict=True):
            assert str(a.dtype).endswith(dtype)
            assert np.all(np.abs(floats.back(a) - b) <= unit * np.abs(b))


def test_an_infinite_limit_clips_nothing() -> None:
    given = [np.array([3.0, -4.0]), np.zeros(1)]
    after, norm = learning.clipped(given, math.inf)
    assert norm == 5
    assert all(unchanged(a, g) for a, g in zip(after, given, strict=True))
    balls, _ = learning.clipped([truth.balls(part) for part in given], math.inf)
    assert [float(ball.mid()) for part in balls for ball in part] == [3.0, -4.0, 0.0]
    assert learning.clipped([np.zeros(2)], math.inf)[0][0].tolist() == [0.0, 0.0]


def test_what_cannot_be_clipped_is_refused() -> None:
    for eps in (-1e-6, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"what is added to it[\s\S]*eps"):
            learning.clipped([np.ones(2)], 1.0, eps=eps)
    for limit in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match=r"clipped to that[\s\S]*> 0"):
            learning.clipped([np.ones(2)], limit)
    with pytest.raises(ShapeError, match="nothing to clip"):
        learning.clipped({}, 1.0)


# --- number systems -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw_clipped"])
@pytest.mark.parametrize("floats", FLOATING)
def test_on_every_array_library_the_bits_are_numpys(name: str, floats: System) -> None:
    """Sums, products, quotients and roots are correctly rounded everywhere, so the steps have the same bits; nothing given is changed."""
    rng = np.random.default_rng(3)
    given = [rng.standard_normal(shape) for shape in ((4, 3), (3,), (2, 4, 3), (2, 3))]
    for dtype in set(floats.dtypes) & {"float32", "float64"}:
        here = [floats.floats(a, dtype) for a in given]
        walked = _walk(name, *here)
        for ours, meant in zip(walked, _walk(name, *(rounded(a, dtype) for a in given)), strict=True):
            assert all(unchanged(np.asarray(b), floats.back(a)) for a, b in zip(ours, meant, strict=True))
        assert all(unchanged(rounded(a, dtype), floats.back(b)) for a, b in zip(given, here, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_optimizer
def test_16_bit_parameters_are_refused(name: str, dtype: str) -> None:
    with pytest.raises(DtypeError, match=r"16-bit parameters do not learn[\s\S]*weight[\s\S]*float32 or float64"):
        OPTIMIZERS[name][0].start({"weight": rounded(np.ones((2, 2)), dtype)})


def test_constants_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*AdamW[\s\S]*decay = -1"):
        learning.AdamW(decay=-1.0)
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*AdamW[\s\S]*beta2 = 1.0"):
        learning.AdamW(betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*eps > 0[\s\S]*eps = 0"):
        learning.AdamW(eps=0.0)
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*Momentum"):
        learning.Momentum(1.5)
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*SGD[\s\S]*decay = nan"):
        learning.SGD(decay=math.nan)
    with pytest.raises(ConfigError, match=r"two betas[\s\S]*AdamW[\s\S]*\(0\.9,\)"):
        learning.AdamW(betas=(0.9,))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"out of range[\s\S]*finite[\s\S]*eps = inf"):
        learning.AdamW(eps=math.inf)
    with pytest.raises(ShapeError, match="nothing to learn"):
        learning.SGD().start({})
    with pytest.raises(ShapeError, match="trees of different form"):
        learning.SGD().step({"a": np.ones(2)}, {"b": np.ones(2)}, None, 0.1)


# --- schedules ------------------------------------------------------------------------------------------------------------------


def test_schedules_have_their_values_at_the_corners() -> None:
    constant = learning.Schedule(2.0, warm_up=4)
    assert [constant(s) for s in (0, 1, 3, 4, 1000)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    linear = learning.Schedule(2.0, "linear", steps=12, warm_up=4, floor=0.25)
    assert [linear(s) for s in (0, 3, 4, 8, 12, 13)] == [0.5, 2.0, 2.0, 1.25, 0.5, 0.5]
    cosine = learning.Schedule(2.0, "cosine", steps=8, floor=0.5)
    assert [cosine(s) for s in (0, 8, 99)] == [2.0, 1.0, 1.0]
    assert abs(cosine(4) - 1.5) <= 2.0**-51
    falling = [cosine(s) for s in range(9)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        {"peak": 0.0},
        {"peak": math.nan},
        {"peak": math.inf},
        {"peak": 1.0, "warm_up": 2.5},
        {"peak": 1.0, "shape": "cosine", "steps": 9.5},
        {"peak": 1.0, "shape": "cosine"},
        {"peak": 1.0, "shape": "linear", "steps": 3, "warm_up": 3},
        {"peak": 1.0, "floor": 1.5},
        {"peak": 1.0, "warm_up": -1},
        {"peak": 1.0, "shape": "square"},
    ],
)
def test_schedules_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        learning.Schedule(**options)


# --- the loss -------------------------------------------------------------------------------------------------------------------


def _rows(dtype: str = "float64") -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(11)
    counted = np.array([[True, False, True], [True, True, False]])
    targets = np.where(counted, rng.integers(0, 5, (2, 3)), -100)
    return rounded(rng.standard_normal((2, 3, 5)), dtype), targets, counted


def test_the_mean_is_that_of_torch(recorded: Any) -> None:
    answers = recorded("torch_components")
    logits, targets = answers["cross_entropy_logits"], answers["cross_entropy_ignored_targets"]

    def mean(x: Any) -> Any:
        return np.asarray(learning.mean_cross_entropy(x, targets, targets >= 0))

    enclosure, budget = truth.enclose(mean, logits), tolerance.proved_budget(mean, logits, dtype="float64")
    for answer in (mean(logits), answers["cross_entropy_ignored_mean"]):
        assert tolerance.judge(answer, enclosure, budget, "float64").passed


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_what_does_not_count_has_no_influence_and_no_cotangent(dtype: str) -> None:
    logits, targets, counted = _rows(dtype)
    spoiled = np.where(counted[..., None], logits, rounded(np.nan, dtype))
    one = np.ones((), logits.dtype)
    (loss, back), (same, again) = (learning.mean_cross_entropy_vjp(x, targets, counted) for x in (logits, spoiled))
    assert unchanged(np.asarray(loss), np.asarray(same))
    assert unchanged(np.asarray(learning.mean_cross_entropy(logits, targets, counted)), np.asarray(loss))
    assert unchanged(back(one)[0], again(one)[0])
    assert np.all(again(one)[0][~counted] == 0)


def test_the_cotangent_is_that_of_each_row_divided_by_their_number() -> None:
    logits, targets, counted = _rows()
    _, back = learning.mean_cross_entropy_vjp(logits, targets, counted)
    _, each = softmax.cross_entropy_vjp(logits[counted], targets[counted])
    (bar,) = back(np.array(3.0))
    assert unchanged(bar[counted], each(np.full(4, 3.0 / 4))[0])
    assert gradients.vjp(learning.mean_cross_entropy, logits, targets, counted)[0] == learning.mean_cross_entropy(
        logits, targets, counted
    )


def test_pieces_add_up_to_the_whole() -> None:
    """With N given: the loss within the roundings of four losses, of log-sum-exps of 5 and a sum; the cotangents bit for bit."""
    logits, targets, counted = _rows()
    one = np.ones(())
    whole, back = learning.mean_cross_entropy_vjp(logits, targets, counted)
    pieces = [learning.mean_cross_entropy_vjp(logits[i], targets[i], counted[i], 4) for i in range(2)]
    assert abs(sum(loss for loss, _ in pieces) - whole) <= 8 * 2.0**-53 * whole
    assert unchanged(np.stack([pull(one)[0] for _, pull in pieces]), back(one)[0])


@pytest.mark.parametrize("floats", FLOATING)
def test_the_loss_runs_on_every_array_library(floats: System) -> None:
    logits, targets, counted = _rows()
    for dtype in floats.dtypes:
        x = floats.floats(logits, dtype)
        loss, back = learning.mean_cross_entropy_vjp(x, floats.to(np.maximum(targets, 0)), floats.to(counted))
        meant = learning.mean_cross_entropy(rounded(logits, dtype), targets, counted)
        error = abs(float(floats.back(loss)) - float(meant))
        assert error <= 64 * tolerance.roundoff(dtype) * abs(float(meant))  # log, exp and sums of others
        (bar,) = back(loss * 0 + 1)
        assert (bar.dtype, bar.shape) == (x.dtype, x.shape)


def test_losses_that_make_no_sense_are_refused() -> None:
    logits, targets, counted = _rows()
    with pytest.raises(ShapeError, match="no target counts"):
        learning.mean_cross_entropy(logits, targets, counted & False)
    with pytest.raises(ShapeError, match="do not fit"):
        learning.mean_cross_entropy(logits, targets[:1], counted)
    with pytest.raises(ConfigError, match=r"number of targets[\s\S]*total[\s\S]*2\.5"):
        learning.mean_cross_entropy(logits, targets, counted, 2.5)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="boolean"):
        learning.mean_cross_entropy(logits, targets, counted.astype(int))
