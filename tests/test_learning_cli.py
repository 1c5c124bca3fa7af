"""`refimpl train` and the folders it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import refimpl
import weights_io
from refimpl import cli, gpt2, learning
from refimpl.errors import ConfigError, TextError
from refimpl.learning.folders import END, UNKNOWN
from refimpl.train_cli import read_texts

TEXTS = "To be, or not to be,\nthat is the question.\n\n\nWhether 'tis nobler in the mind\n\nto suffer"
SMALL = ["--width", "12", "--layers", "1", "--heads", "2", "--positions", "8", "--rows", "2", "--every", "4"]
ENV = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text(TEXTS, "utf-8")
    return path


def _train(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments), *SMALL], env=ENV)


def test_texts_in_a_model_out_that_can_be_used(texts: Path, tmp_path: Path) -> None:
    result = _train(texts, tmp_path / "model", "--steps", 6)
    assert result.exit_code == 0, result.output
    assert "refimpl generate" in result.stdout
    assert "step 4: loss" in result.stderr
    assert "step 6: loss" in result.stderr
    model = refimpl.load(tmp_path / "model", backend="numpy")
    assert model.config.n_embd == 12
    assert model.tokenizer is not None
    assert model.tokenizer.decode(model.tokenizer.encode("to be")) == "to be"
    assert model.generate("to b", max_new_tokens=2, seed=1).startswith("to b")


def test_a_resumed_training_writes_the_same_model(texts: Path, tmp_path: Path) -> None:
    """The checkpoint of step 4 of 6, put where a stopped training would have left it."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert _train(texts, straight, "--steps", 6, "--every", 2).exit_code == 0
    saved: list[bytes] = []
    write = learning.Training.save

    def kept(self: Any, path: Any, state: Any) -> None:
        write(self, path, state)
        saved.append(Path(path).read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning.Training, "save", kept)
        assert _train(texts, tmp_path / "other", "--steps", 6).exit_code == 0
    assert len(saved) == 2
    stopped.mkdir()
    (stopped / "training.safetensors").write_bytes(saved[0])
    assert _train(texts, stopped, "--steps", 6, "--resume").exit_code == 0
    assert (stopped / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume"], "there is no training to resume"),
        (["--backend", "cuda"], "unknown backend"),
        (["--heads", "5"], "does not divide into the heads"),
        (["--positions", "900"], "do not fill one step"),
        (["--dropout", "1"], "options out of range"),
        (["--vocabulary", "2"], "no room for a character"),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments: list[str], words: str, texts: Path, tmp_path: Path) -> None:
    options = [option for i, option in enumerate(SMALL) if SMALL[i - i % 2] not in arguments]
    result = CliRunner().invoke(cli.app, ["train", str(texts), str(tmp_path / "model"), *options, *arguments], env=ENV)
    assert isinstance(result.exception, refimpl.errors.RefimplError)
    assert words in str(result.exception)
    assert not (tmp_path / "model" / "training.safetensors").exists()


def test_a_training_is_not_begun_over_another(texts: Path, tmp_path: Path) -> None:
    assert _train(texts, tmp_path, "--steps", 2).exit_code == 0
    result = _train(texts, tmp_path, "--steps", 2)
    assert isinstance(result.exception, ConfigError)
    assert "--resume" in str(result.exception)
    result = _train(texts, tmp_path, "--steps", 3, "--resume")
    assert "schedule.steps: 2 in the checkpoint, 3 here" in str(result.exception)


def test_texts_are_read_from_files_and_folders(texts: Path, tmp_path: Path) -> None:
    parts = ["To be, or not to be,\nthat is the question.", "Whether 'tis nobler in the mind", "to suffer"]
    assert read_texts(texts) == parts
    (tmp_path / "a.txt").write_text("first", "utf-8")
    (tmp_path / "other.md").write_text("not read", "utf-8")
    assert read_texts(tmp_path) == ["first", *parts]
    (tmp_path / "a.txt").write_bytes(b"\xff\n")
    with pytest.raises(TextError, match=r"cannot be read[\s\S]*UnicodeDecodeError"):
        read_texts(tmp_path)
    (tmp_path / "a.txt").write_text(" \n\n", "utf-8")
    with pytest.raises(TextError, match="nothing to learn from"):
        read_texts(tmp_path / "a.txt")
    with pytest.raises(TextError, match="cannot be read"):
        read_texts(tmp_path / "absent")


def test_the_vocabulary_is_ordered_by_frequency() -> None:
    assert learning.character_vocabulary(["bac", "ab"]) == [END, UNKNOWN, "a", "b", "c"]
    assert learning.character_vocabulary(["bac", "ab"], 4) == [END, UNKNOWN, "a", "b"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_read_back_bit_for_bit(tied: bool, tmp_path: Path) -> None:
    config = gpt2.GPT2Config(4, 5, 6, 2, 3, n_inner=7, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0)
    weights = learning.initial_gpt2(config)
    learning.save_character_gpt2(tmp_path / "new", weights, config, [END, UNKNOWN, "a", "b"])
    model = refimpl.load(tmp_path / "new", backend="numpy")
    assert model.config == config
    for name, array in model.weights.named().items():
        assert np.array_equal(array, weights.named()[name])
    fields = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text("utf-8"))
    assert fields["unk_token"] == UNKNOWN
    assert weights_io.open(tmp_path / "new").metadata == {"format": "pt"}
    with pytest.raises(ConfigError, match="vocabulary is not the model's"):
        learning.save_character_gpt2(tmp_path / "other", weights, config, [END, UNKNOWN, "a", "a"])
    with pytest.raises(ConfigError, match="cannot be written"):
        learning.save_character_gpt2(
            tmp_path / "new" / "config.json", weights, dataclasses.replace(config), [END, UNKNOWN, "a", "b"]
        )
