"""What the report says of other implementations: comparisons hold, fail where engine or reason is wrong, and are what the page shows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from refimpl import backend, bert, blocks, cli, favor, softmax, taylor
from validation import checks, components, peers, run
from validation.claims.registry import Setting

SETTING = Setting(backend.get("numpy"))
PAGE = Path(__file__).parent.parent / "docs" / "peers.md"
INSIDE = [peer for peer in peers.PEERS if not peer.outside]
every_inside = pytest.mark.parametrize("peer", INSIDE, ids=lambda peer: peer.id)
every_outside = pytest.mark.parametrize("peer", [p for p in peers.PEERS if p.outside], ids=lambda peer: peer.id)


def _passed(name: str) -> bool:
    with np.errstate(all="ignore"):
        result = run.validate(SETTING.backend, only=[f"PARITY.{name}"])
    assert all(line.finding.verdict != "not run" for line in result.lines)
    return result.passed


@every_outside
def test_comparisons_with_answers_outside_hold_where_these_are(peer: Any, shared: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("REFIMPL_FIXTURES", str(shared(peer.folder).parent))
    assert _passed(peer.id)


@every_inside
def test_recorded_files_are_those_of_the_provenance(peer: Any) -> None:
    folder = components.RECORDED / peer.folder
    root = next(each for each in (folder, folder.parent) if (each / "provenance.json").is_file())
    hashes = json.loads((root / "provenance.json").read_text("utf-8"))["sha256"]
    files = list(folder.glob("answers*.safetensors"))
    assert files
    for path in files:
        assert hashes[path.relative_to(root).as_posix()] == hashlib.sha256(path.read_bytes()).hexdigest()


@every_inside
def test_bounds_are_narrow(peer: Any) -> None:
    """A bound that allows everything shows nothing: float32 ones stay below 1e-3 of the largest magnitude, but where denominators are tiny."""
    found = peers.compare(peer, SETTING)
    for answer in found.answers:
        assert np.median(answer.allowed) < 1e-3 * np.max(np.abs(answer.recorded))
    assert sum(np.ndim(answer.allowed) == 0 for answer in found.answers) >= len(found.answers) / 2


def _feature(name: str, kernel: str, **changed: Any) -> Any:
    return ("dialect", name, lambda: peers._without(name, kernel, changed))


def _convention(name: str, **changed: Any) -> Any:
    return ("dialect", name, lambda: dataclasses.replace(favor.dialects[name], **changed))


def _bert(name: str, **changed: Any) -> Any:
    return ("bert", name, lambda: dataclasses.replace(bert.dialects[name], **changed))


def _slightly(module: Any, name: str, factor: float = 1 + 1e-10) -> Any:
    original = getattr(module, name)
    return (module, name, lambda *args, **options: factor * original(*args, **options))


def _forgetful(layer: Any, x: Any, form: Any, **options: Any) -> Any:
    return ORIGINAL["realformer"](layer, x, form, **(options | {"previous_scores": None}))


def _rooted(features: Any, x: Any, projection: Any, shift: Any) -> Any:
    """ReLU without a projection, divided by the root of the width: what google-tf does with one, and not without."""
    given = x / np.sqrt(x.shape[-1]) if projection is None else x
    return favor._rectified(features, given, projection, shift)


def _one_more(x: Any, k: int, *args: Any, **options: Any) -> Any:
    return ORIGINAL["top_k_selection"](x, k + 1 if k < x.shape[-1] else k - 1, *args, **options)


ORIGINAL = {"realformer": blocks.realformer, "top_k_selection": softmax.top_k_selection, "unilm": bert.unilm_mask}
ORIGINAL |= {"taylor": taylor.taylor_softmax}
WRONG = [
    ("performer_pytorch", _feature("performer-pytorch", "softmax", epsilon=1.001e-4)),
    ("performer_pytorch", _feature("performer-pytorch", "softmax", key_shift="sequence")),
    ("performer_pytorch", _feature("performer-pytorch", "relu", scaled=False)),
    ("performer_pytorch", _convention("performer-pytorch", epsilon=2e-6)),
    ("performer_pytorch", _convention("performer-pytorch", causal_denominator="bare")),
    ("tf_models", _feature("tf-models", "softmax", query_shift="row")),
    ("tf_models", _feature("tf-models", "relu", epsilon=1.1e-3)),
    ("tf_models", _convention("tf-models", epsilon=1.01e-6)),
    ("tf_models", _slightly(favor, "_half_square")),
    ("google_tf", _feature("google-tf", "softmax", epsilon=1.01e-6)),
    ("google_tf", _feature("google-tf", "softmax", key_shift="sequence")),
    ("google_tf", _feature("google-tf", "relu", normalized=True)),
    ("google_tf", _convention("google-tf", denominator="guarded", causal_denominator="guarded", epsilon=1e-6)),
    ("google_tf", ("map", "relu", lambda: _rooted)),
    ("fast_transformers", _feature("fast-transformers", "softmax", map="positive")),
    ("fast_transformers", _feature("fast-transformers", "stabilized", key_shift="head")),
    ("fast_transformers", _feature("fast-transformers", "relu", epsilon=1e-9)),
    ("fast_transformers", _convention("fast-transformers", denominator="guarded")),
    ("fast_transformers", _convention("fast-transformers", causal_denominator="bare")),
    ("fast_transformers", ("map", "trigonometric", lambda: lambda *given: 1.001 * favor._trigonometric(*given))),
    ("x_transformers", (blocks, "realformer", _forgetful)),
    ("x_transformers", _slightly(blocks, "gelu")),
    ("x_transformers_top_k", (softmax, "top_k_selection", _one_more)),
    ("entmax", (softmax, "top_k_selection", _one_more)),
    ("jaketae_realformer", (blocks, "realformer", _forgetful)),
    ("jaketae_realformer", _slightly(blocks, "layer_norm")),
    ("pytorch_loss", (taylor, "taylor_softmax", lambda x, order: ORIGINAL["taylor"](x, order=order + 2))),
    ("transformers_bert", _slightly(blocks, "gelu")),
    ("transformers_bert", _slightly(bert, "layer_norm")),
    ("bert4keras_bert", _bert("bert4keras", masked_key_id=None)),
    ("bert4keras_bert", _bert("bert4keras", eps=1e-9)),
    ("bert4keras_nezha", _bert("bert4keras", relative_eps=1e-12)),
    ("bert4keras_nezha", _bert("bert4keras", head_eps=1e-7)),
    ("bert4keras_0.9.8", _bert("bert4keras-0.9", residual="previous")),
    ("bert4keras_0.9.8", _bert("bert4keras-0.9", masked_key_id=None)),
    ("bert4keras_0.9.8", _bert("bert4keras-0.9", relative_eps=1e-9)),
    ("bert4keras_0.9.8", _slightly(peers, "layer_norm")),
    ("bert4keras_0.9.8", (peers, "extend", functools.partial(peers.extend, alpha=0.41))),
    ("bert4keras_0.11.5", _bert("bert4keras", residual="all")),
    ("bert4keras_0.11.5", (bert, "unilm_mask", lambda segments: ORIGINAL["unilm"](0 * segments))),
    ("outside.performer_pytorch", _feature("performer-pytorch", "softmax", epsilon=1.001e-4)),
    ("outside.google_jax", _feature("google-jax", "softmax", epsilon=1.01e-6)),
    ("outside.google_jax", _convention("google-jax", epsilon=2e-6)),
    ("outside.google_jax", _feature("google-jax", "trigonometric", key_shift="none")),
    ("outside.realformer_0.9.8", _bert("bert4keras-0.9", residual="previous")),
    ("outside.realformer_0.11.5", _bert("bert4keras", residual="all")),
    ("outside.bert4keras_lm", (bert, "unilm_mask", lambda segments: ORIGINAL["unilm"](0 * segments))),
    ("outside.spaces_loss", (softmax, "top_k_selection", _one_more)),
]


@pytest.mark.parametrize(("name", "planted"), WRONG, ids=[f"{row[0]}-{i}" for i, row in enumerate(WRONG)])
def test_a_planted_error_fails(name: str, planted: Any, monkeypatch: Any, request: Any) -> None:
    peer = next(peer for peer in peers.PEERS if peer.id == name)
    if peer.outside:
        monkeypatch.setenv("REFIMPL_FIXTURES", str(request.getfixturevalue("shared")(peer.folder).parent))
    place, key, changed = planted
    if isinstance(place, str):
        table = {"dialect": favor.dialects, "bert": bert.dialects, "map": favor._MAPS}[place]
        monkeypatch.setitem(table, key, changed())
    else:
        monkeypatch.setattr(place, key, changed)
    assert not _passed(name)


def test_every_comparison_has_a_planted_error() -> None:
    assert {row[0] for row in WRONG} == {peer.id for peer in peers.PEERS}


@pytest.mark.parametrize("name", ["performer_pytorch", "tf_models", "google_tf", "fast_transformers"])
def test_a_reason_that_is_not_the_whole_reason_fails(name: str, monkeypatch: Any) -> None:
    """With the conventions left as they are where they should be taken back, the dialect is not the paper's."""
    monkeypatch.setattr(peers, "_without", lambda dialect, *args, **options: favor.dialects[dialect])
    [check] = [check for check in checks.parity_checks() if check.id == f"PARITY.{name}"]
    finding = check.run(SETTING)
    assert not finding.holds
    assert finding.worst.startswith("reason for ")


def test_what_is_compared_must_fit_and_be_numbers() -> None:
    ones = np.ones((2, 3))
    assert not peers.Comparison((peers.Answer("", ones[:1], ones),)).multiple <= 1
    poisoned = np.where(np.arange(3) == 1, np.nan, ones)
    found = peers.Comparison((peers.Answer("fine", ones, ones), peers.Answer("poisoned", poisoned, ones)))
    assert not found.multiple <= 1
    assert found.worst == "poisoned"
    departure = peers.Departure("case", "a reason", 2 * ones, ones, poisoned)
    assert not peers.Comparison((peers.Answer("", ones, ones),), (departure,)).multiple <= 1


@pytest.mark.parametrize(("off", "holds"), [(0.9e-12, True), (1.1e-12, False), (np.nan, False)])
def test_the_check_fails_from_the_bound_on(off: float, holds: bool, monkeypatch: Any) -> None:
    ones = np.ones(5)
    monkeypatch.setattr(peers, "compare", lambda *_: peers.Comparison((peers.Answer("one", ones + off, ones),)))
    [check] = [check for check in checks.parity_checks() if check.id == "PARITY.entmax"]
    assert check.run(SETTING).holds is holds


def test_the_line_says_what_equals_what_departs_and_why() -> None:
    ones = np.ones((2, 3))
    answer = peers.Answer("", ones * (1 + 2**-50), ones)
    apart = peers.Departure("unit", "eps is 1e-4", 1.03 * ones, ones, ones)
    nothing = peers.Departure("none", "nothing", ones, ones, ones)
    assert peers.Comparison((answer,), (apart, nothing)).line("dialect X") == (
        "equals dialect X to 8.9e-16; departs from the paper by 3.0e-02 (unit) because eps is 1e-4"
    )
    assert peers.Comparison((answer,)).line("X").endswith("departs from the paper in nothing that was recorded")


def test_the_command_prints_the_lines_in_full(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["validate", "--only", "PARITY.entmax", "--report", str(tmp_path)])
    assert result.exit_code == 0
    line = json.loads((tmp_path / "report.json").read_text("utf-8"))["checks"][0]["worst"]
    assert "departs from the paper by 2.9e-01 (sparsemax, unit scale)" in line
    assert line in " ".join(result.output.split())


FIGURE = re.compile(r"\d\.\de[+-]\d\d")


def test_the_page_shows_the_table(monkeypatch: Any, request: Any) -> None:
    """The same rows and words; departures to the digits shown, and distances from the dialect, which are rounding, below 1e-12."""
    shown = {row.split("|")[1].strip(): row for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| ")}
    monkeypatch.delenv("REFIMPL_FIXTURES", raising=False)
    outside = peers.components.RECORDED.parent.parent.parent / "shared" / "fixtures"
    if outside.is_dir():
        monkeypatch.setenv("REFIMPL_FIXTURES", str(outside))
    for row in peers.markdown(SETTING).splitlines()[2:]:
        page = shown[row.split("|")[1].strip()]
        if "not run" in row:
            continue
        assert FIGURE.sub("#", page) == FIGURE.sub("#", row)
        (page_equals, *page_apart), (equals, *apart) = FIGURE.findall(page), FIGURE.findall(row)
        assert float(page_equals) <= peers.RELATIVE
        assert float(equals) <= peers.RELATIVE
        for a, b in zip(page_apart, apart, strict=True):
            assert abs(float(a) - float(b)) <= 0.11 * 10 ** np.floor(np.log10(float(a)))


def test_the_page_names_every_implementation() -> None:
    page = PAGE.read_text("utf-8")
    assert [peer.name for peer in peers.PEERS if f"| {peer.name} |" not in page] == []
