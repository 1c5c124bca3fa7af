"""What a path means: a file, a prefix, a shard index, or a folder with one checkpoint in it."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from weights_io.checkpoint import Checkpoint
from weights_io.errors import FormatError, WeightsError
from weights_io.recognise import FORMATS, recognise
from weights_io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from weights_io.limits import Limits

__all__ = ["RULES", "open_file", "open_path", "unique_names"]

RULES = {
    "index.json": "A shard index is a JSON object with weight_map, which maps tensor names to file names.",
    "index.unique-names": "A name occurs once in a shard index.",
    "index.outside": "A shard index names files of its own folder only.",
    "index.agreement": "A shard index lists every tensor of every shard it names, once.",
}
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy", ".h5", ".hdf5")
DATA_FILE = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")
INDEX_COST = 20  # bytes of objects that a byte of JSON index can become


def open_path(path: Path, mode: str, limits: Limits) -> Checkpoint:
    """The checkpoint at a path; see `weights_io.open`."""
    if _is_folder(path):
        return _open_folder(path, mode, limits)
    data = DATA_FILE.fullmatch(path.name)
    data = None if data and data[1] == "." else data
    prefix = path.with_name(data[1]) if data else path
    if (data or not _is_file(path)) and _is_file(prefix.with_name(f"{prefix.name}.index")):
        return open_file(prefix.with_name(f"{prefix.name}.index"), mode, limits)
    if not _exists(path):
        raise WeightsError("no such file or folder", where=path)
    if path.name.endswith(".index.json"):
        return _open_shards(path, mode, limits)
    return open_file(path, mode, limits)


def open_file(path: Path, mode: str, limits: Limits) -> Checkpoint:
    """One file, in the format that its content shows; a suffix .safetensors asks for that format's own message."""
    source = Source(path)
    form = FORMATS["safetensors"] if _means_safetensors(source) else recognise(source)
    checkpoint: Checkpoint = importlib.import_module(form.module).open_source(source, limits, mode)
    return checkpoint


def _means_safetensors(source: Source) -> bool:
    """Whether a file is named .safetensors and shows no other format's first bytes: then its own reader says what is wrong."""
    if source.path.suffix != ".safetensors":
        return False
    try:
        return recognise(source) is FORMATS["safetensors"]
    except WeightsError:
        return True


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the file system cannot hold
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise WeightsError("the path cannot be looked at", where=path, got=f"{type(error).__name__}: {error}") from None


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise WeightsError(
            "the folder cannot be listed", where=folder, got=f"{type(error).__name__}: {error}"
        ) from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _open_folder(folder: Path, mode: str, limits: Limits) -> Checkpoint:
    for name in INDEX_NAMES:
        if _is_file(folder / name):
            return _open_shards(folder / name, mode, limits)
    for name in FILE_NAMES:
        if _is_file(folder / name):
            return open_file(folder / name, mode, limits)
    from weights_io import megatron, tensorbundle

    shards = megatron.find_shards(folder)
    if shards:
        return megatron.open_shards(shards, mode, limits)
    index = tensorbundle.folder_prefix(folder)
    return open_file(_single_file(folder) if index is None else index, mode, limits)


def _single_file(folder: Path) -> Path:
    """The one file of weights in a folder, by suffix."""
    files = [path for path in _entries(folder) if path.suffix in SUFFIXES and _is_file(path)]
    if len(files) != 1:
        raise WeightsError(
            "no single checkpoint in the folder",
            where=folder,
            expected=f"{', '.join(FILE_NAMES)}, {INDEX_NAMES[0]}, Megatron's mp_rank_00_model_states.pt, "
            "a TensorFlow checkpoint, or one file of weights",
            got=", ".join(entry.name for entry in _entries(folder)) or "an empty folder",
            remedy="name the file",
        )
    return files[0]


def unique_names(path: Path, rule: str) -> Any:
    """A hook for json.loads that refuses an object in which a name occurs twice."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = sorted(name for name, count in counts.items() if count > 1)
            raise FormatError("a name occurs twice", rule=rule, where=path, expected="unique names", got=twice)
        return result

    return build


def _weight_map(path: Path, limits: Limits) -> tuple[dict[str, str], dict[str, Any]]:
    source = Source(path)
    around = sum(entry.stat().st_size for entry in _entries(path.parent) if _is_file(entry))
    limits.check_heap(INDEX_COST * source.size, around, path)
    try:
        index = json.loads(
            source.read(0, source.size).decode("utf-8"), object_pairs_hook=unique_names(path, "index.unique-names")
        )
        shards, metadata = index["weight_map"], index.get("metadata", {})
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise FormatError(
            "not a shard index", rule="index.json", where=path, expected="JSON with weight_map", got=got
        ) from None
    finally:
        source.close()
    if not isinstance(metadata, dict):
        raise FormatError("metadata must be an object", rule="index.json", where=path, got=type(metadata).__name__)
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise FormatError(
            "weight_map must map tensor names to file names", rule="index.json", where=path, got=type(shards).__name__
        )
    outside = sorted({file for file in shards.values() if file in ("", ".", "..") or set(file) & set("/\\\0")})
    if outside:
        raise FormatError(
            "the index names a file outside its folder",
            rule="index.outside",
            where=path,
            expected="plain names",
            got=outside,
        )
    return shards, metadata


def _open_shards(path: Path, mode: str, limits: Limits) -> Checkpoint:
    shards, metadata = _weight_map(path, limits)
    missing = sorted({file for file in shards.values() if not _is_file(path.parent / file)})
    if missing:
        raise WeightsError("shards are missing", where=path, got=", ".join(missing), remedy="fetch the whole folder")
    opened = {file: open_file(path.parent / file, mode, limits) for file in sorted(set(shards.values()))}
    announced = {(file, name) for name, file in shards.items()}
    found = {(file, name) for file, checkpoint in opened.items() for name in checkpoint}
    if announced != found:
        raise FormatError(
            "index and shards disagree",
            rule="index.agreement",
            where=path,
            expected="every tensor of every shard listed once",
            got=f"not in a shard: {sorted(announced - found)[:5]}; not in the index: {sorted(found - announced)[:5]}",
        )
    infos = {name: opened[file].info(name) for name, file in shards.items()}
    forms = sorted({checkpoint.format for checkpoint in opened.values()}) or ["safetensors"]
    sources = [source for checkpoint in opened.values() for source in checkpoint._sources]
    return Checkpoint(
        f"{', '.join(forms)} (sharded)", metadata, infos, lambda info: opened[shards[info.name]][info.name], sources
    )
