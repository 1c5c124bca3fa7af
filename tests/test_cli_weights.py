"""The commands `refimpl weights ...`, run as a person would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import weights_io
from refimpl import cli

RUNNER = CliRunner()
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
ROOT = Path(__file__).parent.parent
TINY = ROOT / "validation" / "recorded" / "gpt2_tiny" / "model"
SHARDS = ROOT / "validation" / "recorded" / "gpt2_tiny_sharded" / "model"
CPM = ROOT / "validation" / "recorded" / "cpm_megatron"


def _weights(*arguments: Any, code: int = 0) -> str:
    result = RUNNER.invoke(cli.app, ["weights", *map(str, arguments)], env=PLAIN)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def _lines(text: str) -> list[str]:
    return [
        " ".join(line.replace("│", " ").replace("└──", " ").replace("├──", " ").split()) for line in text.splitlines()
    ]


def test_inspect_shows_the_tree_with_layers_folded() -> None:
    lines = _lines(_weights("inspect", TINY))
    assert lines[0].startswith("safetensors: 52 tensors, ")
    assert "0 ... 3 4 alike" in lines
    assert "weight float32 24 x 72 6.91 kB" in lines
    assert sum("c_attn" in line for line in lines) == 1
    assert "names of hugging-face-gpt2: Hugging Face GPT-2" in lines
    assert sum("c_attn" in line for line in _lines(_weights("inspect", TINY, "--all"))) == 4


def test_inspect_names_no_scheme_that_leaves_something_open(tmp_path: Path) -> None:
    arrays = dict(weights_io.open(TINY))
    for tensors in ({"a": np.zeros(2)}, arrays | {"more": np.zeros(2)}, {n: arrays[n] for n in list(arrays)[1:]}):
        weights_io.save(tmp_path / "a.safetensors", tensors)
        assert "names of" not in _weights("inspect", tmp_path / "a.safetensors")
        assert json.loads(_weights("inspect", tmp_path / "a.safetensors", "--json"))["scheme"] is None


def test_inspect_as_json_has_every_tensor_and_its_place() -> None:
    found = json.loads(_weights("inspect", SHARDS, "--json", "--stats"))
    opened = weights_io.open(SHARDS)
    assert (found["format"], found["scheme"]) == ("safetensors (sharded)", "hugging-face-gpt2")
    assert {row["name"] for row in found["tensors"]} == set(opened)
    for row in found["tensors"]:
        info = opened.info(row["name"])
        assert (row["dtype"], tuple(row["shape"]), row["nbytes"], row["offset"]) == (
            info.dtype.name,
            info.shape,
            info.nbytes,
            info.offset,
        )
        assert row["file"] == str(info.file)
        assert row["statistics"]["nonfinite"] == 0
        assert row["statistics"]["maximum"] == float(opened[row["name"]].max())


def test_inspect_counts_what_is_not_finite_and_says_so_by_its_exit(tmp_path: Path) -> None:
    weights_io.save(
        tmp_path / "a.safetensors", {"x": np.array([1.0, np.nan, np.inf]), "y": np.ones((0, 2)), "s": np.float32(2)}
    )
    text = _weights("inspect", tmp_path / "a.safetensors", "--stats", code=1)
    assert "2 values are not finite" in text
    assert "0 x 2" in text
    assert "scalar" in text
    assert _weights("inspect", tmp_path / "a.safetensors").count("not finite") == 0
    json.loads(_weights("inspect", tmp_path / "a.safetensors", "--stats", "--json", code=1))


def test_inspect_escapes_what_a_file_calls_itself(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.safetensors", {"[bold]x[/bold]": np.ones(1)}, {"[red]k": "[/red]v"})
    text = _weights("inspect", tmp_path / "a.safetensors")
    assert "[bold]x[" in text  # the tree splits names at "/" and "."
    assert "metadata [red]k: [/red]v" in text


def test_convert_verify_and_back(tmp_path: Path) -> None:
    text = _weights("convert", SHARDS, tmp_path / "a.safetensors", "--dtype", "float64")
    assert "a.safetensors: 52 tensors, " in text
    assert "the same within atol 0, rtol 0: 52 tensors" in _weights(
        "verify", TINY, tmp_path / "a.safetensors", "--atol", 0
    )
    different = _weights("verify", TINY, tmp_path / "a.safetensors", code=1)
    assert "52 of 52 tensors differ" in different
    assert "float32 and float64" in different
    _weights("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--dtype", "float32")
    assert "the same bit for bit: 52 tensors" in _weights("verify", TINY, tmp_path / "b.safetensors")
    done = json.loads(_weights("convert", TINY, tmp_path / "c.safetensors", "--json"))
    assert done["tensors"] == 52
    assert json.loads(_weights("verify", TINY, tmp_path / "c.safetensors", "--json")) == {
        "tensors": 52,
        "differences": [],
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".ckpt"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_every_format_converts_to_every_other(suffix: str, dtype: str | None, tmp_path: Path) -> None:
    source = weights_io.open(TINY)
    options = [] if dtype is None else ["--dtype", dtype]
    _weights("convert", TINY, tmp_path / f"a{suffix}", *options)
    for other in (".safetensors", ".npz", ".pth", ".ckpt"):
        _weights("convert", tmp_path / f"a{suffix}", tmp_path / f"b{other}")
        found = weights_io.open(tmp_path / f"b{other}")
        assert set(found) == set(source)
        for name in source:
            wanted = source[name] if dtype is None else source[name].astype(found[name].dtype)
            assert found[name].dtype.name == (dtype or "float32")
            assert found[name].tobytes() == wanted.tobytes()


def test_convert_between_schemes_and_ranks(tmp_path: Path) -> None:
    """CPM's two shards to bert4keras's names, to Hugging Face's, and back to two, and to four, shards: bit for bit."""
    _weights("convert", CPM / "mp2", tmp_path / "a.ckpt", "--scheme", "tensorflow-gpt2")
    _weights("convert", tmp_path / "a.ckpt", tmp_path / "b.safetensors", "--scheme", "hugging-face-gpt2")
    for ranks in (1, 2, 4):
        _weights("convert", tmp_path / "b.safetensors", tmp_path / f"mp{ranks}", "--ranks", ranks)
        assert len(list((tmp_path / f"mp{ranks}").rglob("mp_rank_*_model_states.pt"))) == ranks
        assert "the same bit for bit" in _weights("verify", CPM / "mp2", tmp_path / f"mp{ranks}")
    assert "the same bit for bit" in _weights("verify", CPM / "mp2", tmp_path / "b.safetensors", "--by-scheme")


def test_a_tied_head_may_be_stored_on_one_side_only(tmp_path: Path) -> None:
    _weights("convert", CPM / "mp2", tmp_path / "a.safetensors", "--scheme", "hugging-face-gpt2")
    without = weights_io.open(tmp_path / "a.safetensors")
    assert "lm_head.weight" not in without
    for name, change in (("tied", 0.0), ("untied", 1.0)):
        head = {"lm_head.weight": without["transformer.wte.weight"] + np.float16(change)}
        weights_io.save(tmp_path / f"{name}.safetensors", dict(without) | head)
        for pair in ((CPM / "mp2", tmp_path / f"{name}.safetensors"), (tmp_path / f"{name}.safetensors", CPM / "mp2")):
            arguments = ["weights", "verify", *map(str, pair), "--by-scheme"]
            result = RUNNER.invoke(cli.app, arguments, env=PLAIN)
            assert result.exit_code == (0 if name == "tied" else 1)
            assert ("output_embedding" in result.stdout) == (name == "untied")


def test_what_a_scheme_has_no_place_for_is_said(tmp_path: Path) -> None:
    source = ROOT / "validation" / "recorded" / "hugging_face_bert" / "model_bin_old"
    done = json.loads(_weights("convert", source, tmp_path / "a.safetensors", "--scheme", "tensorflow-bert", "--json"))
    assert any("position_ids" in each for each in done["left_behind"])
    assert not any("position_ids" in name for name in weights_io.open(tmp_path / "a.safetensors"))


def test_heads_that_ranks_would_cut_are_refused(tmp_path: Path) -> None:
    arguments = ["weights", "convert", str(CPM / "mp2"), str(tmp_path / "mp"), "--ranks", "8", "--heads", "4"]
    result = RUNNER.invoke(cli.app, arguments, env=PLAIN)
    assert isinstance(result.exception, weights_io.WeightsError)
    assert "heads" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_keep_is_said(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.safetensors", {"x": np.ones(1)}, {"author": "me"})
    result = RUNNER.invoke(
        cli.app, ["weights", "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.ckpt")], env=PLAIN
    )
    assert result.exit_code == 0
    kept = weights_io.open(tmp_path / "b.ckpt").metadata
    assert ("author" in str(kept)) != ("no place for it: author" in result.stderr.replace("\n", " "))


def test_schemes_are_listed_and_shown() -> None:
    rows = json.loads(_weights("schemes", "--json"))
    names = {row["name"] for row in rows}
    assert {
        "hugging-face-gpt2",
        "hugging-face-bert",
        "megatron-cpm",
        "tensorflow-gpt2",
        "tensorflow-bert",
        "tensorflow-nezha",
    } <= names
    assert {"tensorflow-gpt", "tensorflow-gpt2-ml"} <= names
    table = json.loads(_weights("schemes", "megatron-cpm", "--json"))
    assert any("query_key_value" in str(row) for row in table)
    assert "query_key_value" in _weights("schemes", "megatron-cpm")
    assert "megatron-cpm" in _weights("schemes")


def test_rules_are_listed() -> None:
    rules = json.loads(_weights("rules", "--json"))
    assert rules == weights_io.rules()
    assert "safetensors.tiling" in _weights("rules", "safetensors")
    assert "hdf5." not in _weights("rules", "safetensors")


def test_errors_are_printed_as_they_are_and_exit_with_2(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"short")
    for arguments in (
        ["inspect", tmp_path / "a.safetensors"],
        ["convert", TINY, tmp_path / "a.gguf"],
        ["schemes", "nothing"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "refimpl", "weights", *map(str, arguments)], capture_output=True, text=True, env=os.environ | PLAIN, check=False
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
    assert "compat" in _weights("inspect", "--help")


def test_compat_and_expansion_reach_the_reader(tmp_path: Path) -> None:
    corpus = ROOT / "tests" / "malformed" / "safetensors"
    (path,) = corpus.glob("*-leading-space.safetensors")
    assert "1 tensors" in _weights("inspect", path, "--compat")
    (tmp_path / "z.npz").parent.mkdir(exist_ok=True)
    np.savez_compressed(tmp_path / "z.npz", x=np.zeros(200 << 20, np.uint8))
    result = RUNNER.invoke(cli.app, ["weights", "inspect", str(tmp_path / "z.npz")], env=PLAIN)
    assert isinstance(result.exception, weights_io.FormatError)
    assert result.exception.rule == "budget.expansion"
    assert "210 MB" in _weights("inspect", tmp_path / "z.npz", "--expansion", 1100)
