r"""PyTorch files as torch.save writes them since 1.6: a ZIP archive with a pickle, and one member for the bytes of every storage.

    ROOT/data.pkl                  the object; a storage in it is ("storage", class, key, location, count)
    ROOT/data/KEY                  the elements of the storage of that key, in decimal; they begin at a multiple of 64
    ROOT/byteorder                 "little" or "big"; little where it is missing
    ROOT/version                   of the container: 1 to 10, as torch.load takes them; or ROOT/.data/version
    ROOT/.format_version, ROOT/.storage_alignment, ROOT/.data/serialization_id      digits that reading does not need

ROOT is any name, the same for all members. The pickle is interpreted, never executed (`pickle_machine`); the names of the tensors
are those of `pytorch_tree`. Members named data/KEY that the pickle does not mention are listed in the metadata, as "unreferenced records".
Of deflated storages the one that was unpacked last is kept, for the next tensor that lies in it.
TorchScript archives are read for the tensors of their data.pkl; the code in them is not looked at, and constants.pkl is not read.

What `save_items` writes is one flat OrderedDict of tensors, as a state dictionary is, each with a storage of its own, in the same
records without .format_version, which would promise that nothing but torch's own writer made the file. Metadata is text in one more record, which
torch.load leaves alone: ROOT/.weights_io.json, {"metadata": {name: text}}.

Reference: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch 2.13.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from refimpl.files import replace_file
from weights_io import pickle_machine, pytorch_tensors, pytorch_tree
from weights_io.arrays import as_bytes
from weights_io.checksum import crc32
from weights_io.errors import FormatError, UnsupportedError, WeightsError
from weights_io.folders import unique_names
from weights_io.limits import OWN, Limits
from weights_io.pickle_machine import Machine, shown
from weights_io.pytorch_tensors import STORAGES, TORCH, Storage, same_storage, storage_of
from weights_io.pytorch_tree import MAX_DEPTH, Container, as_checkpoint, free_key
from weights_io.source import Source
from weights_io.writing import Pending, compare
from weights_io.zip_archive import DEFLATED, Archive, ZipWriter, read_archive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from weights_io.checkpoint import Checkpoint

__all__ = ["KEEPS_METADATA", "RULES", "open_archive", "open_source", "save_items"]

RULES = {
    **pickle_machine.RULES,
    **pytorch_tensors.RULES,
    **pytorch_tree.RULES,
    "pytorch.root": "All members lie in one folder, and data.pkl in it, once.",
    "pytorch.version": "The version of the container is there, once, and is one from 1 to 10.",
    "pytorch.byteorder": "The byte order is little or big.",
    "pytorch.record": "The records with settings are digits.",
    "pytorch.missing": "Every storage of the object has a member.",
    "pytorch.end": "The pickle ends where its member does.",
    "pytorch.metadata": "The metadata that was written beside the tensors is a JSON object of texts.",
}

KEEPS_METADATA = True
KEY = "[0-9]{1,20}"
SETTINGS = (".format_version", ".storage_alignment", ".data/serialization_id")
METADATA = ".weights_io.json"
SMALL = 1 << 16  # bytes of a storage that is read, not mapped
MEMBER_COST = 700  # bytes of objects that a member became
JSON_COST = 40  # bytes of objects that a byte of JSON can become


# --- Reading --------------------------------------------------------------------------------------------------------------------


class _Archive(Container):
    """An archive whose records were looked at."""

    form = "pytorch"

    def __init__(self, archive: Archive, limits: Limits) -> None:
        self.archive, self.limits, self.source = archive, limits, archive.source
        self.root = self._find_root()
        self.big = self._byteorder()
        self.storages: dict[str, Storage] = {}
        self.unpacked: tuple[str, Any] = ("", None)
        self._check_records()

    def refuse(self, rule: str, what: str, **more: Any) -> FormatError:
        """The error for a rule of this module."""
        return FormatError(what, rule=rule, where=self.source.path, **more)

    def _find_root(self) -> str:
        pickles = [name for name in self.archive.members if name.endswith("/data.pkl") and name.count("/") == 1]
        root = pickles[0][: -len("data.pkl")] if len(pickles) == 1 else ""
        outside = [name for name in self.archive.members if not name.startswith(root)]
        if root == "" or outside:
            got = f"{len(pickles)} of these; outside their folder: {outside[:4]}"
            raise self.refuse(
                "pytorch.root",
                "the members are not one checkpoint",
                expected="FOLDER/data.pkl, and all in FOLDER",
                got=got,
            )
        return root

    def has(self, record: str) -> bool:
        """Whether there is a record of that name."""
        return self.root + record in self.archive.members

    def read(self, record: str, most: int) -> bytes:
        """The bytes of a small record."""
        return self.archive.read(self.root + record, most)

    def _byteorder(self) -> bool:
        order = self.read("byteorder", 16) if self.has("byteorder") else b"little"
        if order not in (b"little", b"big"):
            raise self.refuse("pytorch.byteorder", "wrong byte order", expected="little or big", got=order)
        return order == b"big"

    def _check_records(self) -> None:
        versions = [name for name in ("version", ".data/version") if self.has(name)]
        text = self.read(versions[0], 16).strip() if len(versions) == 1 else b""
        if not (text.isdigit() and 1 <= int(text) <= 10):
            raise self.refuse(
                "pytorch.version",
                "wrong version of the container",
                expected="one record, 1 to 10",
                got=text or versions,
            )
        for name in SETTINGS:
            if self.has(name) and not self.read(name, 64).isdigit():
                raise self.refuse("pytorch.record", "a setting is no number", field=name, got=self.read(name, 64))

    def pickle(self, mode: str) -> tuple[Any, Machine]:
        """The object, and the machine that made it."""
        member = self.archive.members[self.root + "data.pkl"]
        cost = MEMBER_COST * len(self.archive.members) + member.size
        size = self.source.size
        self.limits.check_heap(cost, size, self.source.path, "data.pkl")
        machine = Machine(
            self.archive.array(self.root + "data.pkl"),
            self.source.path,
            member.offset,
            self.limits,
            size,
            TORCH,
            self._persistent,
            cost,
        )
        result = machine.run()
        if machine.position != member.size and mode == "strict":
            got = f"{member.size - machine.position} bytes more"
            raise self.refuse("pytorch.end", "bytes after the pickle", offset=member.offset + machine.position, got=got)
        machine.release()
        return result, machine

    def _persistent(self, machine: Machine, identity: Any) -> Storage:
        again = storage_of(machine, identity, 5, KEY)
        known = self.storages.get(again.key)
        if known is not None:
            return same_storage(machine, known, again)
        member = self.archive.members.get(f"{self.root}data/{again.key}")
        if member is None:
            machine.refuse("pytorch.missing", "a storage is missing", field=f"data/{again.key}", got=again)
        if member.size != again.nbytes:
            machine.refuse(
                "pytorch.storage",
                "a storage has another size",
                field=f"data/{again.key}",
                expected=f"{again.nbytes} bytes, {shown(again)}",
                got=f"{member.size} bytes",
            )
        self.storages[again.key] = again
        return again

    def unreferenced(self) -> list[str]:
        """The storages that the object does not mention."""
        begin = f"{self.root}data/"
        names = (name.removeprefix(begin) for name in self.archive.members if name.startswith(begin) and name != begin)
        return [name for name in names if name not in self.storages]

    def metadata(self) -> dict[str, Any]:
        """What `save_items` wrote beside the tensors, and the storages that the object does not mention."""
        lost = self.unreferenced()
        found: dict[str, Any] = {}
        if self.has(METADATA):
            size = self.archive.members[self.root + METADATA].size
            self.limits.check_heap(JSON_COST * size, self.source.size, self.source.path, METADATA)
            found |= self._texts(self.read(METADATA, size))
        if lost:
            found[free_key("unreferenced records", found)] = lost
        return found

    def _texts(self, raw: bytes) -> dict[str, str]:
        try:
            texts = json.loads(raw, object_pairs_hook=unique_names(self.source.path, "pytorch.metadata"))["metadata"]
            good = all(isinstance(text, str) for text in texts.values())
        except FormatError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            texts, good = f"{type(error).__name__}: {error}", False
        if not good:
            raise self.refuse(
                "pytorch.metadata",
                "this is no metadata",
                field=METADATA,
                expected='{"metadata": {name: text}}',
                got=texts,
            )
        return dict(texts)

    def place(self, storage: Storage) -> tuple[int, str]:
        """Where a storage begins."""
        member = self.archive.members[f"{self.root}data/{storage.key}"]
        return member.offset, "compressed" if member.method == DEFLATED else "contiguous"

    def raw(self, storage: Storage) -> Any:
        """The bytes of a storage, whose checksum was compared."""
        name = f"{self.root}data/{storage.key}"
        if storage.nbytes <= SMALL:
            return np.frombuffer(self.archive.read(name, SMALL), np.uint8)
        if self.archive.members[name].method != DEFLATED:
            return self.archive.array(name)
        if self.unpacked[0] != name:
            self.unpacked = ("", None)  # before the next one: two are never held
            self.unpacked = (name, self.archive.array(name))
        return self.unpacked[1]


def open_archive(archive: Archive, limits: Limits, mode: str) -> Checkpoint:
    """Open an archive whose directory was read; raises FormatError or UnsupportedError, and allocates nothing for the tensors."""
    container = _Archive(archive, limits)
    root, machine = container.pickle(mode)
    return as_checkpoint(container, machine, root, container.metadata(), limits, mode)


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open one file; see `open_archive`."""
    return open_archive(read_archive(source, limits, mode), limits, mode)


# --- Writing --------------------------------------------------------------------------------------------------------------------

OWN_STORAGE = {np.dtype(name): kind for kind, name in STORAGES.items() if name in pytorch_tensors.DTYPES}
UNTYPED = {
    **{np.dtype(f"uint{bits}"): f"uint{bits}" for bits in (16, 32, 64)},
    **{
        np.dtype(getattr(ml_dtypes, name)): name
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    },
}


def _symbol(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(number: int) -> bytes:
    if number < 2**8:
        return struct.pack("<cB", b"K", number)
    if number < 2**31:
        return struct.pack("<ci", b"J", number)
    return struct.pack("<cBq", b"\x8a", 8, number)


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array in C order, as PyTorch counts them: an axis of length 0 steps as one of length 1 does."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def _tensor(item: Pending, key: int) -> bytes:
    """The opcodes that rebuild one tensor from the storage of that key."""
    own = OWN_STORAGE.get(item.dtype)
    count = item.nbytes // item.dtype.itemsize if own else item.nbytes
    kind = _symbol("torch", own) if own else _symbol("torch.storage", "UntypedStorage")
    storage = b"(" + _text("storage") + kind + _text(str(key)) + _text("cpu") + _whole(count) + b"tQ"
    hooks = b"\x89" + _symbol("collections", "OrderedDict") + b")R"  # requires_grad: False
    dtype = b"" if own else _symbol("torch", UNTYPED[item.dtype])
    place = storage + _whole(0) + _tuple(item.shape) + _tuple(_strides(item.shape))
    return _symbol("torch._utils", f"_rebuild_tensor_v{2 if own else 3}") + b"(" + place + hooks + dtype + b"tR"


def _pickled(items: list[Pending], nested: bool) -> bytes:
    """The pickle of an OrderedDict of tensors, or of dictionaries in dictionaries."""
    tree: dict[str, Any] = {}
    for key, item in enumerate(items):
        *folders, last = item.name.split("/", MAX_DEPTH // 2) if nested else [item.name]
        below = tree
        for folder in folders:
            below = below.setdefault(folder, {}) if isinstance(below, dict) else below
        if not isinstance(below, dict) or last in below:
            raise WeightsError("names cannot be nested", where=repr(item.name), expected="no name that begins another")
        below[last] = _tensor(item, key)
    return b"\x80\x02" + _dictionary(tree) + b"."


def _dictionary(tree: Mapping[str, Any]) -> bytes:
    parts = [_text(name) + (_dictionary(value) if isinstance(value, dict) else value) for name, value in tree.items()]
    return _symbol("collections", "OrderedDict") + b")R(" + b"".join(parts) + b"u"


def save_items(path: Path, items: list[Pending], metadata: Mapping[str, str], *, nested: bool = False) -> None:
    """Write tensors one by one to a new name, flush, read back and compare bit for bit, and only then rename to `path`.

    Parameters
    ----------
    path : the file
    items : the tensors
    metadata : text, in a record that torch.load leaves alone
    nested : write a name with "/" as dictionaries in dictionaries, not as one key; it reads back as the same name
    """
    for item in items:
        if item.dtype not in OWN_STORAGE and item.dtype not in UNTYPED:
            expected = ", ".join(str(dtype) for dtype in (*OWN_STORAGE, *UNTYPED))
            raise UnsupportedError("dtype cannot be written", where=repr(item.name), expected=expected, got=item.dtype)
    pickled = _pickled(items, nested)
    record = json.dumps({"metadata": dict(metadata)}, ensure_ascii=True).encode() if metadata else b""

    def write(file: BinaryIO) -> None:
        writer, crc = ZipWriter(file), 0
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), (METADATA, record)):
            if content:
                writer.add(f"archive/{name}", len(content), [content])
        for key, item in enumerate(items):
            raw = as_bytes(item.get())
            crc = crc32(raw, crc)
            writer.add(f"archive/data/{key}", item.nbytes, [raw])
        writer.add("archive/version", 2, [b"3\n"])
        number = f"{crc32(pickled):020d}{crc:020d}".encode()
        writer.add("archive/.data/serialization_id", len(number), [number])
        writer.close()

    def check(temporary: Path) -> None:
        with open_source(Source(temporary), OWN, "strict") as written:
            compare(written, items)

    replace_file(path, write, check)
