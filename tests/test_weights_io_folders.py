"""Folders and shard indexes: which file is opened, and what is refused: traversal, missing shards, disagreement, other formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weights_io

ROOT = Path(__file__).parent.parent
INDEX = "model.safetensors.index.json"


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _shards(folder: Path, weight_map: Any = None, **more: Any) -> Path:
    """Two shards, a and b in the first, c in the second; and the index, or another one."""
    weights_io.save(folder / "m-1.safetensors", {"a": np.ones(2), "b": np.zeros((2, 3), np.float16)})
    weights_io.save(folder / "m-2.safetensors", {"c": np.arange(4)})
    right = {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": right if weight_map is None else weight_map} | more))
    return folder


def test_a_sharded_checkpoint_is_one_mapping(tmp_path: Path) -> None:
    _shards(tmp_path, metadata={"total_size": 60})
    for path in (tmp_path, tmp_path / INDEX, str(tmp_path)):
        opened = weights_io.open(path)
        assert sorted(opened) == ["a", "b", "c"]
        assert opened["c"].tolist() == [0, 1, 2, 3]
        assert opened["b"].shape == opened.info("b").shape == (2, 3)
        assert opened.info("c").file.name == "m-2.safetensors"
        assert opened.metadata == {"total_size": 60}
        assert opened.format == "safetensors (sharded)"
        assert not opened["a"].flags.writeable


def test_recorded_shards_hold_the_model_of_one_file() -> None:
    recorded = ROOT / "validation" / "recorded"
    whole, parts = (weights_io.open(recorded / name / "model") for name in ("gpt2_tiny", "gpt2_tiny_sharded"))
    assert set(whole) == set(parts)
    assert len({parts.info(name).file for name in parts}) == 4
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


@pytest.mark.parametrize(
    "outside", ["../m-1.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ".", "", "a\\b", "a\0b"]
)
def test_an_index_may_not_leave_its_folder(outside: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    weights_io.save(tmp_path / "m-1.safetensors", {"a": np.ones(2)})
    _shards(folder, {"a": outside})
    with _refused(weights_io.FormatError, "outside its folder", INDEX, "plain names", repr(outside)):
        weights_io.open(folder)


def test_missing_shards_are_all_listed(tmp_path: Path) -> None:
    _shards(tmp_path, {"a": "x.safetensors", "b": "m-1.safetensors", "c": "y.safetensors"})
    with _refused(weights_io.WeightsError, "shards are missing", INDEX, "x.safetensors, y.safetensors", "whole folder"):
        weights_io.open(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    one, two = "m-1.safetensors", "m-2.safetensors"
    for weight_map, words in [
        ({"a": one, "b": one}, ()),  # the second shard is never looked at, so nothing is wrong
        ({"a": one, "b": one, "c": two, "d": two}, ("not in a shard: [('m-2.safetensors', 'd')]",)),
        ({"a": one, "c": two}, ("not in the index: [('m-1.safetensors', 'b')]",)),
        ({"a": one, "b": two, "c": two}, ("not in a shard: [('m-2.safetensors', 'b')]", "[('m-1.safetensors', 'b')]")),
    ]:
        _shards(tmp_path, weight_map)
        if words:
            with _refused(weights_io.FormatError, "index and shards disagree", INDEX, "listed once", *words):
                weights_io.open(tmp_path)
        else:
            assert sorted(weights_io.open(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"weight_map": '],
)
def test_an_index_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with _refused(weights_io.FormatError, "not a shard index", INDEX, "JSON with weight_map"):
        weights_io.open(tmp_path)


@pytest.mark.parametrize("weight_map", [[], 3, None, "a", {"a": 1}, {"a": None}, {"a": ["m-1.safetensors"]}])
def test_a_weight_map_must_map_names_to_file_names(weight_map: Any, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with _refused(weights_io.FormatError, "weight_map must map tensor names to file names", INDEX):
        weights_io.open(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    _shards(tmp_path)
    (tmp_path / "m-2.safetensors").write_bytes(b"short")
    with _refused(weights_io.FormatError, "truncated", "m-2.safetensors"):
        weights_io.open(tmp_path)


@pytest.mark.parametrize("metadata", [3, "text", None, [1]])
def test_metadata_of_an_index_must_be_an_object(metadata: Any, tmp_path: Path) -> None:
    with pytest.raises(weights_io.FormatError):
        weights_io.open(_shards(tmp_path, metadata=metadata))


def test_a_shard_name_too_long_for_the_file_system_is_missing(tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError):
        weights_io.open(_shards(tmp_path, {"a": "x" * 5000}))


def test_a_name_that_occurs_twice_in_an_index_is_refused(tmp_path: Path) -> None:
    _shards(tmp_path)
    one = '"m-1.safetensors"'
    (tmp_path / INDEX).write_text(f'{{"weight_map": {{"a": "m-2.safetensors", "a": {one}, "b": {one}}}}}')
    with pytest.raises(weights_io.FormatError):
        weights_io.open(tmp_path)


# --- folders ----------------------------------------------------------------------------------------------------------------


def test_a_folder_with_one_file_opens_it(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "any-name.safetensors", {"a": np.ones(2)})
    (tmp_path / "config.json").write_text("{}")
    assert list(weights_io.open(tmp_path)) == ["a"]


def test_model_safetensors_is_preferred_and_the_index_before_it(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a-first.safetensors", {"a": np.ones(2)})
    weights_io.save(tmp_path / "model.safetensors", {"m": np.ones(2)})
    assert list(weights_io.open(tmp_path)) == ["m"]
    _shards(tmp_path)
    assert sorted(weights_io.open(tmp_path)) == ["a", "b", "c"]


def test_a_folder_that_leaves_a_choice_or_none_is_refused(tmp_path: Path) -> None:
    with _refused(
        weights_io.WeightsError,
        "no single checkpoint",
        str(tmp_path),
        "model.safetensors",
        INDEX,
        "an empty folder",
    ):
        weights_io.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with _refused(weights_io.WeightsError, "no single checkpoint", "config.json"):
        weights_io.open(tmp_path)
    for name in ("x", "y"):
        weights_io.save(tmp_path / f"{name}.safetensors", {name: np.ones(2)})
    with _refused(weights_io.WeightsError, "no single checkpoint", "config.json, x.safetensors, y.safetensors"):
        weights_io.open(tmp_path)


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "no such file or folder", str(tmp_path / "nothing")):
        weights_io.open(tmp_path / "nothing")


# --- other formats ----------------------------------------------------------------------------------------------------------

OTHERS = {
    "gguf": (b"GGUF\x03\0\0\0 etc", "GGUF"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0 etc", "gzip"),
    "zstd": (b"(\xb5/\xfd etc etc", "Zstandard"),
    "tar": (
        b"a".ljust(257, b"\0") + b"ustar\0" + b"00".ljust(300, b"\0"),
        "a tar archive: PyTorch's form before 0.1.10",
    ),
    "pickle": (b"\x80\x04\x95 a pickle", "a plain Python pickle"),
    "text": (b"hello, world", "12 bytes that begin with b'hello, world'"),
    "empty": (b"", "an empty file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_recognised_by_their_content_and_refused_by_name(name: str, tmp_path: Path) -> None:
    content, called = OTHERS[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with _refused(weights_io.UnsupportedError, "[format.unknown]", str(path), "safetensors, PyTorch", called) as caught:
        weights_io.open(path)
    assert caught.value.rule == "format.unknown"


def test_a_header_of_any_length_is_read(tmp_path: Path) -> None:
    for length in (632, 640, 648, 640 + 65536):
        raw = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + raw + b"8bytes..")
        assert weights_io.open(tmp_path / "a.safetensors")["x"].shape == (2,)
