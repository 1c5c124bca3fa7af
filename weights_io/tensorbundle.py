"""TensorBundle, the checkpoints of TensorFlow: an index and one or more files of data, read and written without TensorFlow.

    PREFIX.index                   a sorted table (`leveldb_table`) of messages (`tensorbundle_messages`): name -> entry, empty name -> header
    PREFIX.data-NNNNN-of-NNNNN     for each shard, the bytes of its tensors (`tensorbundle_data`)

An entry has dtype, shape, shard, offset, size and the checksum of the bytes; one with slices is a partitioned tensor, and each slice has an
entry of its own. All that the index says is validated when the bundle is opened (`tensorbundle_index`), the checksum of a tensor when it
is read, on the mapped bytes, nothing copied.

Reference: TensorFlow, `tensorflow/core/protobuf/tensor_bundle.proto` and `tensorflow/core/util/tensor_bundle/tensor_bundle.h`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from weights_io import leveldb_table, protobuf, tensorbundle_data, tensorbundle_index
from weights_io import tensorbundle_messages as messages
from weights_io.arrays import as_bytes
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.checksum import masked_crc32c
from weights_io.errors import UnsupportedError, WeightsError
from weights_io.leveldb_table import MAGIC, Budget
from weights_io.limits import OWN, Limits
from weights_io.protobuf import Place
from weights_io.source import Source
from weights_io.tensorbundle_data import Data
from weights_io.tensorbundle_index import CODES, DTYPES, OPAQUE, STRING, Index
from weights_io.writing import Pending, compare, new_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from weights_io.tensorbundle_messages import Entry, Header

__all__ = ["RULES", "folder_prefix", "open_source", "save_items"]

RULES = {
    "tensorbundle.files": "A bundle is PREFIX.index and all its files PREFIX.data-NNNNN-of-NNNNN, in one folder.",
    "index.checkpoint-file": "The file `checkpoint` of a folder names an index in the same folder.",
}
RULES |= leveldb_table.RULES | protobuf.RULES | messages.RULES | tensorbundle_index.RULES | tensorbundle_data.RULES

INDEX, DATA, STATE = "model.ckpt.index", "model.ckpt.data-00000-of-00001", "checkpoint"
MOST_STATE = 1 << 20  # bytes of a file `checkpoint`
NAMED = re.compile(rb"""^[ \t]*model_checkpoint_path[ \t]*:[ \t]*(["'])((?:[^"'\\\n]|\\.)*)\1[ \t\r]*$""", re.MULTILINE)
ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open a bundle by its index; the files of data are those beside it. Raises FormatError or UnsupportedError.

    String tensors are in `metadata["strings"]`: name -> bytes for a scalar, nested lists of bytes otherwise. With mode "compat" tensors may
    share bytes, data may hold bytes of no tensor and shards without any, unused bits may be set, and tensors whose values are neither
    numbers nor strings are listed in `metadata["unread"]`, name -> dtype, instead of refused.
    """
    budget, strict = Budget(limits, source), mode == "strict"
    records = leveldb_table.records(source, budget)
    header = _header(next(records, None), source.path, budget)
    sources = _data_files(source, header.shards)
    budget.size += sum(data.size for data in sources)
    places = ((record, Place(source.path, record.key, record.offset)) for record in records)
    entries = {record.key: messages.entry(record.value, place, budget) for record, place in places}
    index = Index(source.path, entries, budget)
    limits.check_expansion(index.check(sources, strict), budget.size, source.path)
    data = Data(sources, big=header.big, strict=strict)
    infos = {name: _info(name, entry, index, data) for name, entry in index.named() if entry.dtype in DTYPES}

    def read(info: TensorInfo) -> Any:
        key = index.names[info.name]
        entry, parts = index.entries[key], index.parts.get(key)
        return data.array(entry, info.name) if parts is None else data.assembled(entry, parts, info.name)

    return Checkpoint("tensorbundle", _metadata(header, index, data, budget), infos, read, [source, *sources])


def _header(record: leveldb_table.Record | None, path: Path, budget: Budget) -> Header:
    place = Place(path, "header")
    if record is None or record.key != b"":
        got = "an empty table" if record is None else record.key
        raise place.broken("no header", "tensorbundle.header", expected="an empty key", got=got)
    return messages.header(record.value, place, budget)


def _data_files(source: Source, shards: int) -> list[Source]:
    """The files of data, which lie beside the index and are named after it."""
    place, prefix = Place(source.path), source.path.name.removesuffix(".index")
    if prefix == source.path.name:
        raise place.broken("an index that is not named so", "tensorbundle.files", expected="PREFIX.index")
    found = []
    for shard in range(shards):
        path = source.path.with_name(f"{prefix}.data-{shard:05}-of-{shards:05}")
        if not _is_file(path):
            remedy = "fetch all files of the checkpoint into one folder"
            raise place.broken("a file of data is missing", "tensorbundle.files", expected=path.name, remedy=remedy)
        found.append(Source(path))
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that the file system cannot hold
        return False


def _info(name: str, entry: Entry, index: Index, data: Data) -> TensorInfo:
    """What is known of an array; the place of a partitioned one is that of its first slice with any bytes."""
    dtype, layout, first = DTYPES[entry.dtype], "contiguous", entry
    if entry.slices:
        parts = [part for _, part in index.parts[index.names[name]]]
        layout, first = "partitioned", next((part for part in parts if part.size), parts[0])
    path, nbytes = data.sources[first.shard].path, math.prod(entry.shape) * dtype.itemsize
    return TensorInfo(name, dtype, entry.shape, path, first.offset, nbytes, layout)


def _metadata(header: Header, index: Index, data: Data, budget: Budget) -> dict[str, Any]:
    strings = {name: data.strings(entry, name, budget) for name, entry in index.named() if entry.dtype == STRING}
    unread = {name: OPAQUE[entry.dtype] for name, entry in index.named() if entry.dtype in OPAQUE}
    about = {
        "version": header.version,
        "num_shards": header.shards,
        "endianness": "big" if header.big else "little",
        "strings": strings,
    }
    return about | ({"unread": unread} if unread else {})


# --- writing ----------------------------------------------------------------------------------------------------------------


def save_items(path: Path, items: list[Pending], metadata: Mapping[str, str]) -> None:
    """Write a bundle into a new folder `path`, read back and compared bit for bit before the folder gets its name.

    The files are those of TensorFlow's own writer, to the byte: `model.ckpt.index`, `model.ckpt.data-00000-of-00001`, where the tensors lie
    in the order of their names without padding, and `checkpoint`, so that the folder is found to hold the checkpoint `model.ckpt`.
    """
    if metadata:
        remedy = "leave it out, or save as safetensors"
        raise UnsupportedError(
            "a bundle holds no metadata", where=path, got=", ".join(map(repr, metadata)), remedy=remedy
        )
    for item in items:
        _check_item(item)
    items = sorted(items, key=lambda item: item.name.encode("utf-8"))
    with new_folder(path) as folder:
        with (folder / DATA).open("xb") as data, (folder / INDEX).open("xb") as index:
            leveldb_table.write_table(index, [(b"", messages.encoded_header()), *_written(data, items)])
        prefix = INDEX.removesuffix(".index")
        state = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
        (folder / STATE).write_bytes(state.encode())
        with open_source(Source(folder / INDEX), OWN, "strict") as written:
            compare(written, items)


def _check_item(item: Pending) -> None:
    if item.name[:1] in ("", "\0"):
        raise WeightsError(
            "a tensor's name cannot be written", where=repr(item.name), expected="no zero byte first, not empty"
        )
    if item.dtype not in CODES:
        expected = ", ".join(map(str, CODES))
        raise UnsupportedError("dtype cannot be written", where=repr(item.name), expected=expected, got=item.dtype)


def _written(file: BinaryIO, items: list[Pending]) -> Iterator[tuple[bytes, bytes]]:
    """Write the tensors one after the other; the key and the entry of each."""
    offset = 0
    for item in items:
        crc = _put(file, as_bytes(item.get()))
        yield item.name.encode("utf-8"), messages.encoded_entry(CODES[item.dtype], item.shape, offset, item.nbytes, crc)
        offset += item.nbytes


def _put(file: BinaryIO, raw: memoryview) -> int:
    """Write bytes; their checksum."""
    file.write(raw)
    return masked_crc32c(raw)


# --- folders ----------------------------------------------------------------------------------------------------------------


def folder_prefix(folder: Path) -> Path | None:
    """The index that a folder's file `checkpoint` names, or the only one there is; None if there is none.

    Only an index in the folder itself is taken: a path to somewhere else is refused, however `checkpoint` says it.
    """
    named = _named(folder / STATE)
    if named is not None:
        return _beside(folder / STATE, named)
    found = sorted(path for path in folder.glob("*.index") if _is_file(path) and _has_magic(path))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WeightsError(
            "several checkpoints in the folder", where=folder, got=names, remedy="open one of them by its prefix"
        )
    return found[0] if found else None


def _named(path: Path) -> str | None:
    """What a file `checkpoint` names; None if there is no such file, or none that TensorFlow wrote."""
    if not _is_file(path):
        return None
    source = Source(path)
    try:
        found = NAMED.search(source.read(0, source.size)) if source.size <= MOST_STATE else None
    finally:
        source.close()
    return None if found is None else ESCAPE.sub(_unescaped, found[2]).decode("utf-8", "replace")


def _unescaped(found: re.Match[bytes]) -> bytes:
    """A character of a quoted string from its escape: octal, or one of a few letters, or itself."""
    code = found[1]
    if code[:1] in b"01234567":
        return bytes([int(code, 8) & 0xFF])
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(code, code)


def _beside(state: Path, prefix: str) -> Path:
    index = state.with_name(f"{prefix}.index") if prefix and not set(prefix) & set("/\\\0\n") else None
    if index is None or not _is_file(index):
        raise Place(state).broken(
            "the file names no checkpoint beside it",
            "index.checkpoint-file",
            expected="the prefix of an index in the same folder",
            got=repr(prefix),
            remedy="open the checkpoint by its prefix or its .index file",
        )
    return index


def _has_magic(path: Path) -> bool:
    source = Source(path)
    try:
        return source.size >= len(MAGIC) and source.read(source.size - len(MAGIC), len(MAGIC)) == MAGIC
    finally:
        source.close()
