"""Checkpoints without frameworks: open what was saved by somebody else, lazily, and treat every file as hostile.

This version reads and writes safetensors, single files and folders with a shard index. PyTorch archives, TensorFlow bundles, NumPy
archives and Keras HDF5 are recognised by their content and refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, UnsupportedError, WeightsError
from weights_io.safetensors import open_safetensors, save_safetensors, unique_names

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Checkpoint", "FormatError", "TensorInfo", "UnsupportedError", "WeightsError", "open", "save"]

MAGIC = {
    b"PK\x03\x04": "a zip archive (PyTorch or NumPy)",
    b"\x80\x02": "a Python pickle (PyTorch before 1.6)",
    b"\x89HDF": "HDF5 (Keras)",
    b"\x93NUM": "a NumPy array",
    b"GGUF": "GGUF",
}
BUNDLE_MAGIC = bytes.fromhex("57fb808b247547db")
INDEX = "model.safetensors.index.json"


def open(path: str | Path) -> Checkpoint:
    """Open a checkpoint: a .safetensors file, its shard index, or a folder that holds either.

    Parameters
    ----------
    path : file or folder

    Returns
    -------
    Checkpoint, a lazy read-only mapping of name to array, with `.format`, `.metadata` and `.info(name)`

    Raises
    ------
    WeightsError
        FormatError if the file breaks its format's rules, UnsupportedError if this version does not read the format,
        WeightsError if there is nothing to open.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise WeightsError("no such file or folder", where=path)
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    other = _other_format(path)
    if other:
        remedy = "convert it to safetensors where it was written"
        raise UnsupportedError(
            "this format is not read yet", where=path, expected="safetensors", got=other, remedy=remedy
        )
    return open_safetensors(path)


def _other_format(path: Path) -> str | None:
    """The name of the format that the file's first or last bytes announce, unless a safetensors header follows its length."""
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(max(0, path.stat().st_size - 8))
        end = file.read(8)
    if start[8:] == b"{":
        return None
    if end == BUNDLE_MAGIC:
        return "the index of a TensorFlow bundle"
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / INDEX).is_file():
        return _open_shards(folder / INDEX)
    files = sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors") in files:
        files = [folder / "model.safetensors"]
    if len(files) != 1:
        raise WeightsError(
            "no single checkpoint in the folder",
            where=folder,
            expected=f"model.safetensors or {INDEX}",
            got=", ".join(sorted(entry.name for entry in folder.iterdir())) or "an empty folder",
        )
    return open_safetensors(files[0])


def _weight_map(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        index = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=unique_names(path))
        shards, metadata = index["weight_map"], index.get("metadata", {})
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise FormatError("not a shard index", where=path, expected="JSON with weight_map", got=got) from None
    if not isinstance(metadata, dict):
        raise FormatError("metadata must be an object", where=path, got=type(metadata).__name__)
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise FormatError("weight_map must map tensor names to file names", where=path, got=type(shards).__name__)
    outside = sorted({file for file in shards.values() if file in ("", ".", "..") or set(file) & set("/\\\0")})
    if outside:
        raise FormatError("the index names a file outside its folder", where=path, expected="plain names", got=outside)
    return shards, metadata


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that the file system cannot hold
        return False


def _open_shards(path: Path) -> Checkpoint:
    shards, metadata = _weight_map(path)
    missing = sorted({file for file in shards.values() if not _is_file(path.parent / file)})
    if missing:
        raise WeightsError("shards are missing", where=path, got=", ".join(missing), remedy="fetch the whole folder")
    opened = {file: open_safetensors(path.parent / file) for file in sorted(set(shards.values()))}
    announced = {(file, name) for name, file in shards.items()}
    found = {(file, name) for file, checkpoint in opened.items() for name in checkpoint}
    if announced != found:
        raise FormatError(
            "index and shards disagree",
            where=path,
            expected="every tensor of every shard listed once",
            got=f"not in a shard: {sorted(announced - found)[:5]}; not in the index: {sorted(found - announced)[:5]}",
        )
    infos = {name: opened[file].info(name) for name, file in shards.items()}
    return Checkpoint("safetensors (sharded)", metadata, infos, lambda info: opened[info.file.name][info.name])


def save(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` to a .safetensors file: to a temporary name, read back, compared bit for bit, renamed.

    Raises UnsupportedError for another suffix, or for a dtype that the format does not have; WeightsError for a folder that is not there, or a
    name that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UnsupportedError("this format is not written yet", where=path, expected=".safetensors", got=path.suffix)
    if not path.parent.is_dir():
        raise WeightsError("the folder to write to does not exist", where=path.parent, remedy="make it first")
    save_safetensors(path, tensors, metadata)
