"""Adapters to real implementations: what does not need them is tested everywhere, the rest where they are installed."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from refimpl.errors import ConfigError
from validation import components, conformance, mutants, targets, vectors
from validation.targets import NoSuchCallError, Target, Trial, routes
from validation.targets.text_routes import ON_HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(targets.__file__).parent.parent.parent
FINDINGS = ROOT / "docs" / "findings.md"
FRAMEWORKS = ("torch", "jax", "tensorflow", "transformers", "onnxruntime", "keras", "bert4keras")


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """Another Python, which imports from where this one does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """plant(trials) makes a target "planted" of them."""

    def plant(*trials: Trial) -> None:
        module = types.ModuleType("validation.targets.planted")
        module.trials = lambda: list(trials)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(targets.TARGETS, "planted", Target("planted", "planted", ("numpy",), "pip install numpy"))

    yield plant


# --- what there is, and what is missing ---------------------------------------------------------------------------------------------


def test_an_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown target") as caught:
        targets.run("torchh")
    assert "expected: torch, transformers, performer-pytorch" in str(caught.value)
    assert "got:      'torchh'" in str(caught.value)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_missing_package_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = targets.target(name)
    for module in list(sys.modules):
        if module.partition(".")[0] in FRAMEWORKS or module.startswith("validation.targets."):
            monkeypatch.delitem(sys.modules, module)

    class Missing:
        @staticmethod
        def find_spec(fullname: str, path: Any = None, target: Any = None) -> None:
            if fullname.partition(".")[0] in (*FRAMEWORKS, "performer_pytorch", "x_transformers", "entmax", "onnx"):
                msg = f"No module named {fullname!r}"
                raise ModuleNotFoundError(msg, name=fullname)

    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    with pytest.raises(ConfigError, match=f"the target {name} is not installed here") as caught:
        target.trials()
    text = str(caught.value)
    assert f"expected: {', '.join(target.packages)}" in text
    assert "got:      no module named " in text
    assert f"to do:    {target.install}" in text


def test_a_mistake_of_our_own_is_not_told_as_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "typo", Target("typo", "no_such_module", ("numpy",), "pip install numpy"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        targets.run("typo")


def test_requirement_files_of_the_targets_exist_and_are_pinned() -> None:
    for each in targets.TARGETS.values():
        for name in re.findall(r"-r (\S+)", each.install):
            lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
            assert lines, name
            assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), name


def test_listing_the_targets_imports_no_framework() -> None:
    code = f"import sys, validation.targets.__main__; print(*[n for n in {FRAMEWORKS!r} if n in sys.modules])"
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_target_has_a_module_that_describes_itself() -> None:
    for each in targets.TARGETS.values():
        source = (ROOT / "validation" / "targets" / f"{each.module}.py").read_text("utf-8")
        assert source.startswith('"""'), each.module
        assert "def trials() -> list[Trial]:" in source, each.module
        assert "from refimpl" not in source, f"{each.module}: an adapter calls the package, never this project's engine"


def test_the_findings_name_every_target_and_no_other() -> None:
    named = set(re.findall(r"python -m validation\.targets ([a-z][\w-]*)", FINDINGS.read_text("utf-8")))
    assert named == set(targets.TARGETS)


# --- trials -------------------------------------------------------------------------------------------------------------------------


def only_ties_refused(x: Any, k: int) -> Any:
    if k > x.shape[-1]:
        raise NoSuchCallError("no more entries can be kept than there are")
    return mutants.TWINS["sparse_softmax"](x, k=k)


def test_calls_that_cannot_be_made_are_left_out_and_told(planted: Any) -> None:
    planted(Trial("top_k", "sparse_softmax", only_ties_refused, ("float32",)))
    [outcome] = targets.run("planted")
    left = [v.id for v in vectors.load("sparse_softmax").select("float32") if v.arguments["k"] > v.expected.shape[-1]]
    assert outcome.word == "conforms"
    assert list(outcome.left_out) == left
    assert outcome.report.announced == len(vectors.load("sparse_softmax").select("float32")) - len(left)
    assert f"left out: {len(left)} cases, because no more entries can be kept than there are" in str(outcome)
    assert outcome.as_json()["left_out"] == outcome.left_out


def test_a_target_that_answers_nothing_does_not_conform(planted: Any) -> None:
    def refuse(x: Any) -> Any:
        raise NoSuchCallError("never")

    planted(Trial("nothing", "softmax", refuse, ("float32",)))
    [outcome] = targets.run("planted")
    assert outcome.word == "not comparable"
    assert not outcome.report.passed


def test_other_exceptions_count(planted: Any) -> None:
    planted(Trial("broken", "softmax", lambda x: 1 / 0, ("float32",)))
    [outcome] = targets.run("planted")
    assert outcome.word == "departs"
    assert outcome.left_out == {}


def test_what_is_not_checked_of_a_target_is_refused(planted: Any) -> None:
    planted(Trial("exp", "softmax", np.exp, ("float32",)), Trial("none", "no_such_component", np.exp))
    with pytest.raises(ConfigError, match="nothing of planted is checked there") as caught:
        targets.run("planted", component="gelu")
    assert "expected: softmax (float32)\n" in str(caught.value)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return process("-m", *words)


def test_the_command_lists_and_refuses() -> None:
    listed = command("validation.targets")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(targets.TARGETS)
    refused = command("validation.targets", "nobody")
    assert refused.returncode == 2
    assert refused.stderr.startswith("unknown target\n")
    assert refused.stdout == ""


# --- the three routes --------------------------------------------------------------------------------------------------------------


def test_every_component_is_written_out_for_the_other_libraries() -> None:
    written = set(routes.written_out(np, lambda array: array))
    assert written == set(components.COMPONENTS) == set(mutants.TWINS) == set(vectors.names())


_FORMS = (*ON_HOST, "extend_embedding")


@pytest.mark.parametrize("name", [n for n, each in components.COMPONENTS.items() if each.exact or n in _FORMS])
def test_forms_of_whole_numbers_and_for_texts_pass_in_numpy_too(name: str) -> None:
    """What torch and JAX run, where neither is installed; on new inputs too."""
    function = routes.written_out(np, lambda array: array)[name]
    for seed in (None, 5):
        report = conformance.check(function, name, seed=seed)
        assert report.passed, str(report)


@pytest.mark.parametrize("name", ["softmax", "gelu"])
def test_the_numpy_route_passes(name: str) -> None:
    done = command("validation.targets.routes", "numpy", "--component", name)
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(rf"{name} +passes +\d+ +0\.\d+  \S+", done.stdout.strip())


def test_an_unknown_route_is_refused() -> None:
    done = command("validation.targets.routes", "fortran")
    assert done.returncode == 2
    assert "expected: numpy, torch, jax" in done.stderr


@pytest.mark.parametrize("name", vectors.names())
def test_the_torch_route_passes(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    functions, move = routes.ROUTES["torch"]()
    report = importlib.import_module("validation").check(functions[name], name, convert=move)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    "name", ["softmax", "sparse_softmax", "taylor_softmax", "copy_step", "mitchell_divide_integer", "rouge"]
)
def test_the_jax_route_passes(name: str) -> None:
    """All of it takes minutes, because each shape is compiled: python -m validation.targets.routes jax."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    before = jax.config.jax_enable_x64
    try:
        functions, move = routes.ROUTES["jax"]()
        report = importlib.import_module("validation").check(functions[name], name, convert=move)
    finally:
        jax.config.update("jax_enable_x64", before)
    assert report.passed, str(report)


# --- the frameworks, where they are installed ---------------------------------------------------------------------------------------


def test_torch_conforms_everywhere() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    outcomes = list(targets.run("torch"))
    assert {outcome.report.dtype for outcome in outcomes} == {"float16", "bfloat16", "float32", "float64"}
    assert [f"{each.trial.name}, {each.report.dtype}" for each in outcomes if each.word != "conforms"] == []


def test_the_command_tells_versions_and_outcomes() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    done = command("validation.targets", "torch", "--component", "gelu", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["target"] == "torch"
    assert told["versions"]["torch"][0].isdigit()
    assert {each["outcome"] for each in told["outcomes"]} == {"conforms"}


def departures(name: str, **chosen: Any) -> dict[tuple[str, str], set[str]]:
    """Trial and dtype -> the cases that depart."""
    return {
        (each.trial.name, each.report.dtype): {row.case for row in each.report.rows if not row.verdict.passed}
        for each in targets.run(name, **chosen)
        if each.word == "departs"
    }


def test_transformers_eager_attention_departs_where_nothing_may_be_seen_alone() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    found = departures("transformers", component="attention", dtype="float32")
    names = [f"eager_attention_forward of {model}" for model in ("GPT-2", "BERT")]
    assert found == {(name, "float32"): {"empty row"} for name in names}


def test_performer_pytorch_is_its_own_dialect_but_for_hidden_keys() -> None:
    pytest.importorskip("performer_pytorch", reason="performer-pytorch is not installed")
    found = departures("performer-pytorch", component="favor_attention", dtype="float64")
    assert found[("SelfAttention", "float64")] > {"loud padding-paper"}
    [own] = [
        each
        for each in targets.run("performer-pytorch", component="favor_attention", dtype="float64")
        if (each.trial.name, each.trial.dialect) == ("SelfAttention", "performer-pytorch")
    ]
    assert {row.case for row in own.report.rows if not row.verdict.passed} == {"loud padding-performer-pytorch"}


def test_onnxruntime_departs_in_float64_alone_but_for_quick_gelu() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    assert {name for name, dtype in departures("onnxruntime") if dtype != "float64"} == {"com.microsoft.QuickGelu"}


def test_bert4keras_hands_on_the_scores_that_realformer_needs_in_0_9_alone() -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    pytest.importorskip("tf_keras", reason="tf-keras is not installed")
    package = pytest.importorskip("bert4keras", reason="bert4keras is not installed")
    found = departures("bert4keras", component="residual_attention")
    handed = {name for name, _ in found}
    assert handed == (
        {"layers.MultiHeadAttention, scores handed on"} if package.__version__.startswith("0.11") else set()
    )
