"""Tangent kernels, path kernels, and outputs taken apart by training example; parity with neural-tangents; what is refused."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import NUMPY

from refimpl import errors, mlp, path_kernel
from refimpl.activation import relu
from refimpl.parameters import Linear
from refimpl.trees import leaves, mapped
from validation import peers, truth
from validation.claims import path_kernel as claims

if TYPE_CHECKING:
    from systems import System

BILINEAR, LINEAR = claims.BILINEAR, claims.LINEAR
PERCEPTRON = path_kernel.read_out(mlp.perceptron_vjp)
ONE_STEP: dict[str, Any] = {"rate": 0.5, "batches": [[0, 1, 2]], "reduction": "sum"}
seeds = st.integers(0, 2**32 - 1)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _halves(rng: np.random.Generator, *shape: int) -> Any:
    """-1, -1/2, 0, 1/2 or 1: of few of them, products and sums are exact in float32."""
    return rng.integers(-2, 3, shape) / 2


def _problem(rng: np.random.Generator, n: int = 3) -> tuple[Any, ...]:
    """W_1 and W_2 of x W_1 W_2, examples, targets, and two other inputs."""
    return (_halves(rng, 2, 2), _halves(rng, 2, 2)), _halves(rng, n, 2), _halves(rng, n, 2), _halves(rng, 2, 2)


def _kernel(params: Any, x: Any, x2: Any, at: Any = None) -> Any:  # -> (n, m, 2, 2)
    """Of x W_1 W_2, in NumPy: x·x' W_2ᵀ W_2 + (x W_1)·(x' W_1) I, the gradients at x taken at other parameters."""
    one, two = params if at is None else at
    both = np.einsum("ni,mi,hk,hl->nmkl", x, x2, two, params[1])
    return both + np.einsum("nh,mh,kl->nmkl", x @ one, x2 @ params[0], np.eye(2))


# --- every number system ----------------------------------------------------------------------------------------------------------


def test_the_tangent_kernel_is_exact_on_every_number_system(system: System) -> None:
    """Products of halves are exact in float32; 16 bits are rounded once."""
    params, x, _, other = _problem(np.random.default_rng(0))
    expected = _kernel(params, other, x)
    for dtype in system.dtypes:
        given_ = mapped(lambda part, dtype=dtype: system.floats(part, dtype), (params, other, x))
        found = path_kernel.tangent_kernel(BILINEAR, *given_)
        assert found.dtype == given_[1].dtype
        assert np.array_equal(np.asarray(system.back(found), np.float64), expected)
        same = path_kernel.tangent_kernel(BILINEAR, *given_[:2])
        assert np.array_equal(np.asarray(system.back(same), np.float64), _kernel(params, other, other))


def test_one_step_adds_up_exactly_on_every_number_system(system: System) -> None:
    """Both forms of one step, whose numbers have at most 18 bits; the mean over the segment has one node, 1/2."""
    params, x, targets, other = _problem(np.random.default_rng(1))
    y = x @ params[0] @ params[1]
    slopes = (y - targets) / 2
    moved = params[0] - x.T @ slopes @ params[1].T, params[1] - (x @ params[0]).T @ slopes
    middle = tuple((a + b) / 2 for a, b in zip(params, moved, strict=True))
    for dtype in system.dtypes:
        if dtype not in ("float32", "float64"):
            continue
        p, a, t, z = mapped(lambda part, dtype=dtype: system.floats(part, dtype), (params, x, targets, other))
        for form, at in (("first-order", params), ("exact", middle)):
            (step,) = path_kernel.sgd_path(BILINEAR, p, a, t, path_kernel.squared_error, **ONE_STEP)
            for got, wanted in zip(step.after, moved, strict=True):
                assert np.array_equal(np.asarray(system.back(got), np.float64), wanted)
            kernel = path_kernel.path_kernel(BILINEAR, [step], z, a, form=form, nodes=1)
            assert np.array_equal(system.back(kernel), _kernel(params, other, x, at) / 2)
            found = path_kernel.reconstruct(BILINEAR, [step], z, a, form=form, nodes=1)
            parts = -np.einsum("mnkl,nl->nmk", _kernel(params, other, x, at), slopes)
            change = other @ moved[0] @ moved[1] - other @ params[0] @ params[1]
            assert np.array_equal(system.back(found.contributions), parts)
            assert np.array_equal(system.back(found.final) - system.back(found.initial), change)
            assert np.array_equal(system.back(found.residual), change - parts.sum(axis=0))
            assert (form == "exact") is bool(np.all(system.back(found.residual) == 0))


@given(seeds)
def test_products_need_no_kernel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    params, x, _, other = _problem(rng)
    v = _halves(rng, 3, 2)
    expected = np.einsum("nmkl,ml->nk", _kernel(params, other, x), v)
    assert np.array_equal(path_kernel.tangent_product(BILINEAR, params, other, x, v), expected)


def test_one_derivative_takes_the_place_of_many_pullbacks() -> None:
    complex_step = pytest.importorskip("refimpl.complex_step")
    rng = np.random.default_rng(2)
    params, x, _, other = _problem(rng)
    v, calls = _halves(rng, 3, 2), []

    def counted(weights: Any, x: Any) -> Any:
        y, pullback = BILINEAR(weights, x)
        return y, lambda bar: calls.append(bar.shape) or pullback(bar)

    found = path_kernel.tangent_product(counted, params, other, x, v, jvp=complex_step.jvp)
    assert np.array_equal(found, np.einsum("nmkl,ml->nk", _kernel(params, other, x), v))
    assert calls == [(3, 2)]


def test_gradients_are_those_of_each_number_of_each_output(system: System) -> None:
    params, x, _, _ = _problem(np.random.default_rng(3))
    p, a = mapped(lambda part: system.floats(part, system.dtypes[-1]), (params, x))
    first, second = (system.back(leaf) for leaf in path_kernel.output_gradients(BILINEAR, p, a))
    assert np.array_equal(first, np.einsum("ni,hk->nkih", x, params[1]))
    assert np.array_equal(second, np.einsum("nh,kl->nkhl", x @ params[0], np.eye(2)))


# --- paths ------------------------------------------------------------------------------------------------------------------------


def _perceptron(rng: np.random.Generator) -> tuple[Any, ...]:
    params = tuple(Linear(rng.normal(size=(a, b)), rng.normal(size=b)) for a, b in ((3, 4), (4, 2)))
    return params, rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.normal(size=(2, 3))


def _path(problem: tuple[Any, ...], **options: Any) -> Any:
    params, x, targets, _ = problem
    given_ = {"rate": 1 / 64, "batches": [[0, 1], [3], [2, 0, 1]], "reduction": "sum"} | options
    return path_kernel.sgd_path(PERCEPTRON, params, x, targets, path_kernel.squared_error, **given_)


def _same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@settings(max_examples=2)
@given(seeds)
def test_a_replayed_path_is_the_stored_one(seed: int) -> None:
    """Bit for bit, with minibatches; and steps taken apart one by one add up to the path within the rounding of the sums."""
    problem = _perceptron(np.random.default_rng(seed))
    stored = list(_path(problem))
    assert all(_same(one._asdict(), other._asdict()) for one, other in zip(stored, _path(problem), strict=True))
    assert all(_same(step.after, after.before) for step, after in itertools.pairwise(stored))
    whole = path_kernel.reconstruct(PERCEPTRON, stored, problem[3], problem[1])
    assert _same(whole, path_kernel.reconstruct(PERCEPTRON, _path(problem), problem[3], problem[1]))
    parts = [path_kernel.reconstruct(PERCEPTRON, [step], problem[3], problem[1]).contributions for step in stored]
    assert np.array_equal(whole.contributions, parts[0] + parts[1] + parts[2])


@given(seeds)
def test_the_mean_is_the_sum_at_a_smaller_rate(seed: int) -> None:
    """Batches of 1, 2 and 4 divide without rounding: bit for bit."""
    problem, batches = _perceptron(np.random.default_rng(seed)), [[0], [1, 2], [3, 0, 2, 1]]
    mean = list(_path(problem, reduction="mean", batches=batches))
    total = list(_path(problem, batches=batches, rate=[1 / 64, 1 / 128, Fraction(1, 256)]))
    assert all(_same(one._asdict(), other._asdict()) for one, other in zip(mean, total, strict=True))
    assert [step.rate for step in mean] == [1 / 64, 1 / 128, 1 / 256]
    assert not _same(mean[-1].after, list(_path(problem, batches=batches))[-1].after)


def test_a_step_is_gradient_descent_on_the_losses_it_reports(system: System) -> None:
    rng = np.random.default_rng(5)
    weight, x, targets = _halves(rng, 2, 2), _halves(rng, 4, 2), _halves(rng, 4, 2)
    w, a, t = mapped(lambda part: system.floats(part, system.dtypes[-1]), (weight, x, targets))
    (step,) = path_kernel.sgd_path(
        LINEAR, w, a, t, path_kernel.squared_error, rate=0.25, batches=[[3, 1]], reduction="sum"
    )
    gap = (x @ weight - targets)[[3, 1]]
    assert step.batch == (3, 1)
    assert np.array_equal(system.back(step.losses), (gap**2).sum(-1) / 2)
    assert np.array_equal(system.back(step.weights), gap / 4)
    assert np.array_equal(system.back(step.after), weight - x[[3, 1]].T @ gap / 4)


def test_the_first_order_form_is_what_the_exact_one_becomes_without_its_mean() -> None:
    problem = _perceptron(np.random.default_rng(6))
    stored = list(_path(problem))
    still = [step._replace(after=step.before) for step in stored]
    one = path_kernel.reconstruct(PERCEPTRON, stored, problem[3], problem[1], form="first-order")
    other = path_kernel.reconstruct(PERCEPTRON, still, problem[3], problem[1], nodes=1)
    assert np.array_equal(one.contributions, other.contributions)


def test_outputs_without_axes_have_kernels_without_them() -> None:
    problem = _perceptron(np.random.default_rng(7))
    first = path_kernel.read_out(mlp.perceptron_vjp, np.array([1.0, 0.0]))
    whole = path_kernel.tangent_kernel(PERCEPTRON, problem[0], problem[3], problem[1])
    alone = path_kernel.tangent_kernel(first, problem[0], problem[3], problem[1])
    assert alone.shape == (2, 4)
    assert np.max(np.abs(alone - whole[..., 0, 0])) <= 32 * 2.0**-53 * np.max(
        np.abs(whole)
    )  # 26 products a sum, one sum more


def test_another_model_of_the_same_parameters_can_be_taken_apart() -> None:
    """One output of two, which both were trained on: its contributions are those of it in the whole, within the rounding of sums of 26 products."""
    problem = _perceptron(np.random.default_rng(7))
    second = path_kernel.read_out(mlp.perceptron_vjp, np.array([0.0, 1.0]))
    stored = list(_path(problem))
    whole = path_kernel.reconstruct(PERCEPTRON, stored, problem[3], problem[1])
    alone = path_kernel.reconstruct(PERCEPTRON, stored, problem[3], problem[1], of=second)
    assert np.array_equal(alone.final, whole.final[:, 1])
    size = sum(np.max(np.abs(leaf)) for step in stored for leaf in leaves(step.after)) ** 2
    assert np.max(np.abs(alone.contributions - whole.contributions[..., 1])) <= 64 * 2.0**-53 * size
    assert np.max(np.abs(alone.residual)) <= 1e-9 * np.max(np.abs(alone.final - alone.initial))


# --- the nodes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 33, 64])
def test_legendre_rules_are_exact_to_the_degree_they_promise(count: int) -> None:
    """On balls to degree 2n - 1, and not beyond. Floats: n steps of a recurrence of five roundings, on numbers up to 1, and Newton's quotient."""
    with truth.precision(512):
        rule = path_kernel.legendre_rule(count, truth.balls(np.zeros(1)))
        for degree in range(2 * count):
            gap = sum(w * s**degree if degree else w for s, w in rule) - flint.arb(1) / (degree + 1)
            assert gap.contains(0)
            assert gap.abs_upper() < 1e-100
        beyond = sum(w * s ** (2 * count) for s, w in rule) - flint.arb(1) / (2 * count + 1)
        assert not beyond.contains(0)
        u = 2.0**-53
        for (s, w), (node, weight) in zip(rule, path_kernel.legendre_rule(count, np.zeros(1)), strict=True):
            assert abs(s - node) <= 6 * count * u
            assert abs(w - weight) <= 4 * count**3 * u * w


# --- neural-tangents --------------------------------------------------------------------------------------------------------------


def _recorded(recorded: Any) -> tuple[dict[str, Any], tuple[Linear, ...]]:
    answers = recorded("neural_tangents")
    return answers, tuple(Linear(answers[f"weight_{i}"], answers[f"bias_{i}"]) for i in (1, 2, 3))


def _apart(found: Any, known: Any) -> float:
    return float(np.max(np.abs(found - known)) / np.max(np.abs(known)))


def test_kernels_are_those_of_neural_tangents(recorded: Any) -> None:
    answers, layers = _recorded(recorded)
    own = path_kernel.tangent_kernel(PERCEPTRON, layers, answers["x"])
    cross = path_kernel.tangent_kernel(PERCEPTRON, layers, answers["z"], answers["x"])
    assert _apart(PERCEPTRON(layers, answers["x"])[0], answers["fx"]) <= peers.RELATIVE
    assert _apart(own, answers["kernel_xx"]) <= peers.RELATIVE
    assert _apart(cross, answers["kernel_zx"]) <= peers.RELATIVE
    assert _apart(np.trace(own, axis1=2, axis2=3) / 2, answers["traced_xx"]) <= peers.RELATIVE


def _flow(kernel: Any, gap: Any, time: float) -> Any:  # (n, n, o, o), (n, o) -> (n, o)
    """exp(-K t) gap."""
    n, o = gap.shape
    values, vectors = np.linalg.eigh(np.moveaxis(kernel, 2, 1).reshape(n * o, n * o))
    return (vectors @ (np.exp(-values * time) * (vectors.T @ gap.ravel()))).reshape(n, o)


def test_its_predictions_take_the_mean_over_all_numbers_of_the_targets(recorded: Any) -> None:
    """y + exp(-K t/(n o)) (f_0 - y): with two outputs its mean is over eight numbers, not over four examples, and not a sum."""
    answers, layers = _recorded(recorded)
    kernel = path_kernel.tangent_kernel(PERCEPTRON, layers, answers["x"])
    for name, outputs in (("predicted_x", 2), ("first_x", 1)):
        y, gap = answers["y"][:, :outputs], (answers["fx"] - answers["y"])[:, :outputs]
        for t, known in zip(answers["times"], answers[name], strict=True):
            found = {count: y + _flow(kernel[..., :outputs, :outputs], gap, t / count) for count in (1, 4, 8)}
            apart = {count: _apart(each, known) for count, each in found.items()}
            assert apart[4 * outputs] <= peers.RELATIVE
            assert min(far for count, far in apart.items() if count != 4 * outputs) > 1e-3


def test_descent_on_the_mean_tends_to_its_predictions_and_on_the_sum_to_others(recorded: Any) -> None:
    """The linearised model, whose kernel stays: the distance to the recorded flow halves with the step; twice, within what is left of O(η²)."""
    answers, layers = _recorded(recorded)
    rows = [
        np.concatenate([leaf[:, 0].reshape(len(leaf), -1) for leaf in leaves(gradients)], axis=1)
        for gradients in (path_kernel.output_gradients(PERCEPTRON, layers, answers[name]) for name in ("x", "z"))
    ]
    time, known = float(answers["times"][1]), answers["first_z"][1]

    def distance(reduction: Any, steps: int) -> float:
        targets = (answers["y"] - answers["fx"])[:, :1]
        path = path_kernel.sgd_path(
            LINEAR,
            np.zeros((rows[0].shape[1], 1)),
            rows[0],
            targets,
            path_kernel.squared_error,
            rate=time / steps,
            batches=[range(4)] * steps,
            reduction=reduction,
        )
        found = path_kernel.reconstruct(LINEAR, path, rows[1], rows[0], form="first-order")
        rounding = steps * 64 * 2.0**-53  # of a model that is linear no more is left
        assert np.max(np.abs(found.residual)) <= rounding
        return float(np.max(np.abs(answers["fz"][:, :1] + found.final - known)))

    far, near, nearer = (distance("mean", steps) for steps in (16, 32, 64))
    assert 1.8 < far / near < 2.2
    assert 1.9 < near / nearer < 2.1
    assert distance("sum", 64) > 50 * nearer


# --- the perceptron ---------------------------------------------------------------------------------------------------------------


def test_the_perceptron_on_every_number_system(system: System) -> None:
    """With ReLU and halves everything is exact: value, and both cotangents, against the chain rule written out."""
    rng = np.random.default_rng(8)
    layers = tuple(Linear(_halves(rng, a, b), _halves(rng, b)) for a, b in ((2, 3), (3, 2)))
    x, bar = _halves(rng, 4, 2), _halves(rng, 4, 2)
    h = x @ layers[0].weight + layers[0].bias
    h_bar = (bar @ layers[1].weight.T) * (h > 0)
    for dtype in system.dtypes:
        given_ = mapped(lambda part, dtype=dtype: system.floats(part, dtype), (layers, x, bar))
        y, pullback = mlp.perceptron_vjp(*given_[:2], relu)
        ((first, second), x_bar) = pullback(given_[2])
        assert np.array_equal(
            np.asarray(system.back(y), np.float64), np.maximum(h, 0) @ layers[1].weight + layers[1].bias
        )
        expected = (x.T @ h_bar, h_bar.sum(0), np.maximum(h, 0).T @ bar, bar.sum(0), h_bar @ layers[0].weight.T)
        for got, wanted in zip((*first, *second, x_bar), expected, strict=True):
            assert np.array_equal(np.asarray(system.back(got), np.float64), wanted)


# --- what is refused --------------------------------------------------------------------------------------------------------------


def _toy() -> tuple[Any, ...]:
    return _problem(np.random.default_rng(9))


def _steps(**options: Any) -> Any:
    params, x, targets, _ = _toy()
    return list(path_kernel.sgd_path(BILINEAR, params, x, targets, path_kernel.squared_error, **(ONE_STEP | options)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": [[0], []]}, ("no such batch", "batches[1]", "from 0 to 2", "()")),
        ({"batches": [[0, 3]]}, ("no such batch", "batches[0]", "(0, 3)")),
        ({"batches": [[-1]]}, ("no such batch", "(-1,)")),
        ({"batches": [[0.5]]}, ("no such batch", "(0.5,)")),
        ({"batches": [[0], [1]], "rate": [0.5]}, ("too few rates", "2 or more", "1")),
        ({"reduction": "average"}, ("a sum or a mean", "reduction", "'average'")),
        ({"batches": [0, 1]}, ("no single number", "batches[0]", "[[0, 1], [2]]")),
        ({"rate": math.nan}, ("no such rate", "step 0", "a finite number", "nan")),
        ({"batches": [[0], [1]], "rate": np.array([0.5, math.inf])}, ("no such rate", "step 1", "inf")),
    ],
)
def test_what_is_no_path(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with _refused(errors.ConfigError, *words):
        _steps(**options)


def test_rates_are_numbers_or_sequences_of_them() -> None:
    given: tuple[Any, ...] = (np.float64(0.5), np.array(0.5), Fraction(1, 2), (0.5, 9.0), np.array([0.5, 9.0]))
    (known,) = _steps(rate=0.5)
    for rate in given:
        (found,) = _steps(rate=rate)
        assert all(np.array_equal(*pair) for pair in zip(leaves(found.after), leaves(known.after), strict=True))


def test_losses_and_pullbacks_of_another_shape_are_refused() -> None:
    """None of these may be stretched to fit."""
    params, x, targets, _ = _toy()

    def path(model: Any, loss: Any) -> Any:
        return next(path_kernel.sgd_path(model, params, x, targets, loss, **ONE_STEP))

    with _refused(errors.ShapeError, "outputs and targets do not fit", "(3, 1)", "(3,)"):
        path_kernel.squared_error(np.zeros((3, 1)), np.zeros(3))
    for cut in (lambda losses, slopes: (losses.sum(), slopes), lambda losses, slopes: (losses, slopes[:1])):
        with _refused(errors.ShapeError, "the loss does not fit the outputs"):
            path(BILINEAR, lambda y, t, cut=cut: cut(*path_kernel.squared_error(y, t)))

    def broadcast(params: Any, x: Any) -> Any:
        y, pullback = BILINEAR(params, x)
        return y, lambda bar: mapped(lambda leaf: leaf[None], pullback(bar))

    with _refused(errors.ShapeError, "the pullback does not fit the parameters"):
        path(broadcast, path_kernel.squared_error)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_parameters_have_tangent_kernels_and_no_paths(dtype: str) -> None:
    params, x, targets, _ = mapped(lambda part: NUMPY.floats(part, dtype), _toy())
    with _refused(errors.DtypeError, "no path of 16-bit parameters", dtype, "keep the parameters in float32"):
        next(path_kernel.sgd_path(BILINEAR, params, x, targets, path_kernel.squared_error, **ONE_STEP))


def test_what_is_refused_along_a_path() -> None:
    params, x, _, other = _toy()
    path = path_kernel.sgd_path(BILINEAR, params, x, x, path_kernel.squared_error, **ONE_STEP)
    path_kernel.path_kernel(BILINEAR, path, other)
    for function in (path_kernel.reconstruct, path_kernel.path_kernel):
        with _refused(errors.ConfigError, "the path has no steps", "used up"):
            function(BILINEAR, path, other, x)
        with _refused(errors.ConfigError, "unknown form", "'second-order'"):
            function(BILINEAR, _steps(), other, x, form="second-order")
        for nodes in (0, 65, 1.5, True):
            with _refused(errors.ConfigError, "no such number of nodes", "from 1 to 64", repr(nodes)):
                function(BILINEAR, _steps(), other, x, nodes=nodes)
    with _refused(errors.ConfigError, "no such batch", "from 0 to 1", "(0, 1, 2)"):
        path_kernel.reconstruct(BILINEAR, _steps(), other, x[:2])


def test_what_is_no_batch_of_examples() -> None:
    params, x, _, _ = _toy()
    for bad in (x[:0], (), {"a": x, "b": x[:2]}, np.array(1.0)):
        with _refused(errors.ShapeError, "the first axis counts the examples", "one length, at least 1"):
            path_kernel.tangent_kernel(BILINEAR, params, bad)
    for result in (lambda y: y[:0], lambda y: y.sum()):
        with _refused(errors.ShapeError, "outputs do not fit the examples", "(1, ...)"):
            path_kernel.tangent_kernel(lambda p, x, result=result: (result(BILINEAR(p, x)[0]), None), params, x)
    with _refused(errors.ShapeError, "a cotangent has the shape of its result"):
        path_kernel.tangent_product(BILINEAR, params, x, x, np.zeros((3, 1)))


def test_a_perceptron_has_layers() -> None:
    for function in (mlp.perceptron, mlp.perceptron_vjp):
        with _refused(errors.ConfigError, "a perceptron has layers", "at least one"):
            function((), np.zeros((1, 2)))


def test_everything_that_steps_hold_is_finite_where_the_examples_of_their_batches_are() -> None:
    problem = list(_perceptron(np.random.default_rng(10)))
    problem[1][2] = math.nan
    stored = list(_path(tuple(problem), batches=[[0, 1], [3]]))
    found = path_kernel.reconstruct(PERCEPTRON, stored, problem[3], problem[1])
    assert all(np.all(np.isfinite(part)) for part in found)
    assert np.all(found.contributions[2] == 0)
