"""Backward passes as components: what a person hands in, what is told when it is wrong, and that differences differentiate."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf
from typer.testing import CliRunner

import validation
import weights_io
from refimpl import errors, gradients, normalization, softmax
from refimpl.cli import app
from validation import backwards, components, conformance, mutants, vectors
from validation.scalar import differences, numbers
from validation.targets import routes
from validation.vectors import protocol

BACKWARD = [name for name, each in components.COMPONENTS.items() if each.backward]


def norm_backward(x: Any, scale: Any, bias: Any, cotangent: Any, eps: float) -> tuple[Any, ...]:
    """As a person writes it: a tuple, in the dtype that is given."""
    kind = x.dtype
    x, scale, bar = (a.astype(np.float64) for a in (x, scale, cotangent))
    d, rows = x.shape[-1], tuple(range(x.ndim - 1))
    root = np.sqrt(x.var(-1, keepdims=True) + eps)
    z, g = (x - x.mean(-1, keepdims=True)) / root, bar * scale
    x_bar = (d * g - g.sum(-1, keepdims=True) - z * (g * z).sum(-1, keepdims=True)) / (d * root)
    return tuple(a.astype(kind) for a in (x_bar, (bar * z).sum(rows), bar.sum(rows)))


# --- what may be handed in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_tuple_of_cotangents_is_judged_as_if_they_were_joined(dtype: str) -> None:
    for handed in (norm_backward, lambda *a, **p: list(norm_backward(*a, **p))):
        report = validation.check(handed, "layer_norm.vjp", dtype=dtype)
        assert report.passed, str(report)
    flat = validation.check(lambda *a, **p: backwards.joined(norm_backward(*a, **p)), "layer_norm.vjp", dtype=dtype)
    assert [row.verdict.multiple for row in flat.rows] == [row.verdict.multiple for row in report.rows]


def test_one_cotangent_is_an_array_or_a_tuple_of_one() -> None:
    twin = mutants.TWINS["softmax.vjp"]
    assert validation.check(twin, "softmax.vjp").passed
    assert validation.check(lambda x, cotangent: (twin(x, cotangent),), "softmax.vjp").passed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, s, b: (x, s), "2 cotangents for 3 arguments: x, scale, bias"),
        (lambda x, s, b: (x, s[None], b), "scale: float32 (1, 8), not float32 (8,)"),
        (lambda x, s, b: (x, s, b.astype(np.float64)), "bias: float64 (8,), not float32 (8,)"),
    ],
)
def test_parts_that_do_not_fit_their_arguments_are_told_by_name(change: Any, told: str) -> None:
    report = validation.check(lambda *a, **p: change(*norm_backward(*a, **p)), "layer_norm.vjp")
    assert {row.verdict.word for row in report.rows} == {"wrong shape or dtype"}
    assert told in str(report.rows[0])


def test_the_place_of_an_error_is_told_in_the_argument() -> None:
    def off(*arrays: Any, **params: Any) -> Any:
        x_bar, scale_bar, bias_bar = norm_backward(*arrays, **params)
        scale_bar[5] += 1
        return x_bar, scale_bar, bias_bar

    row = validation.check(off, "layer_norm.vjp").rows[0]
    assert row.place == "cotangent of scale at [5]"
    assert "(cotangent of scale at [5])" in str(row)


def test_files_hold_the_joined_answer_or_each_cotangent(tmp_path: Any) -> None:
    run, emitted = CliRunner(), tmp_path / "run"
    assert run.invoke(app, ["vectors", "emit", "layer_norm.vjp", "--out", str(emitted)]).exit_code == 0
    chosen = vectors.load("layer_norm.vjp").select("float32")
    answers = {v.id: norm_backward(*v.positional("float32"), **v.params("float32")) for v in chosen}
    parts = {
        f"{i}.{name}": a for i, each in answers.items() for name, a in zip(("x", "scale", "bias"), each, strict=True)
    }
    for given, code in (
        ({i: backwards.joined(each) for i, each in answers.items()}, 0),
        (parts, 0),
        ({name: a for name, a in parts.items() if name != "layer_norm.vjp-1.bias"}, 1),
    ):
        weights_io.save(emitted / "answers.safetensors", given)
        done = run.invoke(app, ["vectors", "check", str(emitted)])
        assert done.exit_code == code, done.stdout
    assert "no answer layer_norm.vjp-1.bias" in done.stdout
    with pytest.raises(errors.VectorError, match=r"layer_norm\.vjp-1\.mean"):
        conformance.judge_answers(
            "layer_norm.vjp", "float32", parts | {"layer_norm.vjp-1.mean": np.zeros(1)}, [v.id for v in chosen]
        )


def test_the_stream_takes_joined_answers() -> None:
    out, chosen = io.BytesIO(), vectors.load("attention.vjp").select("float32")
    protocol.emit_stream("attention.vjp", "float32", chosen, out)
    assert out.getvalue().startswith(b"refimpl-vectors 1 attention.vjp float32 ")
    replies = b""
    for vector in chosen:
        answer = mutants.TWINS["attention.vjp"](*vector.positional("float32"), **vector.params("float32"))
        replies += f"answer {vector.id} float32 1 {answer.size}\n".encode() + answer.tobytes()
    answers = protocol.read_stream(io.BytesIO(replies))
    assert conformance.judge_answers("attention.vjp", "float32", answers, [v.id for v in chosen]).passed


# --- what they are ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKWARD)
def test_a_backward_pass_is_called_as_the_forward_one_with_a_cotangent_of_its_answer(name: str) -> None:
    subject = components.component(name)
    each, forward = subject.backward, components.component(subject.backward.forward)
    assert set(each.arguments) <= set(each.given)
    assert subject.equation == (gradients.RULES and (each.rule.__doc__ or "").partition("\n")[0])
    for case in subject.trials("float64", 0, None):
        *arrays, cotangent = case.arrays
        params = case.params | each.fixed(*arrays)
        answer = forward.definition(*arrays, **params)
        assert cotangent.shape == answer.shape
        parts = backwards.separate(
            each, subject.definition(*case.arrays, **case.params), dict(zip(each.given, arrays, strict=False))
        )
        assert {key: part.shape for key, part in parts.items()} == {
            key: arrays[each.given.index(key)].shape for key in each.arguments
        }


@pytest.mark.parametrize("name", BACKWARD)
def test_zeros_go_back_as_zeros_and_twice_the_cotangent_as_twice(name: str) -> None:
    """Of the definition, bit for bit: a pullback is linear, and doubling is exact."""
    subject = components.component(name)
    for case in subject.trials("float64", 1, None)[:4]:
        *arrays, cotangent = case.arrays
        once, twice, never = (
            subject.definition(*arrays, factor * cotangent, **case.params) for factor in (1.0, 2.0, 0.0)
        )
        assert np.array_equal(twice, 2 * once)
        assert not np.any(never)


def test_cases_have_hard_cotangents() -> None:
    cotangents = [case.arrays[-1] for case in components.component("softmax.vjp").trials("float64", 0, None)]
    rows = np.concatenate([each.reshape(-1, each.shape[-1])[:, :4] for each in cotangents if each.shape[-1] >= 4])
    assert any(not np.any(row) for row in rows)
    assert any(len(np.unique(row)) == 1 and np.any(row) for row in rows)
    assert np.max(np.abs(rows)) > 1000
    assert np.any(np.min(np.abs(rows), -1) > 60)


# --- diagnosis: wrong passes that no mutant's code made -------------------------------------------------------------------------------


def softmax_by_its_jacobians_diagonal(x: Any, cotangent: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return cotangent * p - cotangent * p * p


def norm_with_a_constant_variance(x: Any, scale: Any, bias: Any, cotangent: Any, eps: float) -> Any:
    _, scale_bar, bias_bar = norm_backward(x, scale, bias, cotangent, eps)
    d = np.sqrt(x.var(-1, keepdims=True) + eps)
    g = cotangent * scale
    return ((g - g.mean(-1, keepdims=True)) / d).astype(x.dtype), scale_bar, bias_bar


def loss_averaged(logits: Any, targets: Any, cotangent: Any) -> Any:
    e = np.exp(logits - np.amax(logits, -1)[:, None])
    bar = e / e.sum(-1)[:, None]
    bar[np.arange(len(targets)), targets] -= 1
    return (bar * cotangent[:, None] / len(targets)).astype(logits.dtype)


@pytest.mark.parametrize(
    ("function", "name", "bug"),
    [
        (softmax_by_its_jacobians_diagonal, "softmax.vjp", "diagonal of the Jacobian only"),
        (norm_with_a_constant_variance, "layer_norm.vjp", "projection left out: the variance is a constant"),
        (loss_averaged, "cross_entropy.vjp", "averaged over the batch"),
    ],
)
def test_a_wrong_backward_pass_is_told_by_its_bug(function: Any, name: str, bug: str) -> None:
    report = validation.check(function, name)
    assert not report.passed
    assert report.diagnosis.explanations[0].name == bug, str(report.diagnosis)


# --- differences ------------------------------------------------------------------------------------------------------------------------


def test_a_difference_quotient_is_off_by_its_truncation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of x³ it is 3x² + h²: the very error that the bound names, with a step at which rounding is smaller."""
    monkeypatch.setattr(differences, "STEP", "1e-20")
    backward = differences.backward(numbers.scalar(lambda x: [each**3 for each in x]), ("x",), ("x",))
    [first, second] = backward(np.array([2.0, -1.0]), np.array([1.0, 3.0]))
    with mp.workdps(differences.MORE):
        for found, exact, weight in ((first, 12, 1), (second, 9, 3)):
            assert abs(found - exact - weight * mpf("1e-40")) < mpf("1e-100")


def test_several_arguments_are_flattened_in_the_order_asked_for() -> None:
    backward = differences.backward(
        numbers.scalar(lambda a, b: [x * y for x, y in zip(a, b, strict=True)]), ("a", "b"), ("b", "a")
    )
    got = backward(np.array([2.0, 3.0]), np.array([5.0, 7.0]), np.array([1.0, 10.0]))
    assert [round(float(each), 20) for each in got] == [2.0, 30.0, 5.0, 70.0]


# --- what is refused ------------------------------------------------------------------------------------------------------------------------


def test_a_library_without_differentiation_has_no_backward_route() -> None:
    function = routes.written_out(np, lambda array: array)["softmax.vjp"]
    with pytest.raises(errors.ConfigError, match="without differentiation"):
        function(np.zeros((1, 2)), np.zeros((1, 2)))


def test_the_forward_component_is_not_its_backward_pass() -> None:
    assert not validation.check(lambda x, cotangent: softmax.softmax(x), "softmax.vjp").passed
    assert not validation.check(lambda x, s, b, bar, eps: (bar, s, b), "layer_norm.vjp").passed
    assert components.component("layer_norm.vjp").backward.rule is normalization.layer_norm_vjp
