"""PyTorch files as torch.save wrote them before 1.6, and still does on request: pickles one after the other, and then the storages.

    [magic number] [protocol version: 1001] [{protocol_version, little_endian, type_sizes}] [the object] [keys]
    [count: 8 bytes] [elements of the first key's storage] [count] [elements of the second] ...

A storage in the object is ("storage", class, key, location, count, view), where view is None, or (key, offset, count) of a part of it; the class
of a module is ("module", class, file, source text), of which nothing is kept but the name. Counts are in elements, and elements are
little-endian on every machine, whatever little_endian says. Nothing is aligned: what does not happen to be is copied when it is read.

Every storage of the object must have a key, every key a storage, and the last one ends the file.

Reference: _legacy_save and _legacy_load in torch/serialization.py of PyTorch 2.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from weights_io.errors import FormatError
from weights_io.pickle_machine import Machine, Symbol, shown
from weights_io.pytorch_tensors import TORCH, Storage, same_storage, storage_of
from weights_io.pytorch_tree import Container, as_checkpoint

if TYPE_CHECKING:
    from weights_io.checkpoint import Checkpoint
    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["RULES", "open_source"]

RULES = {
    "legacy.magic": "The first pickle is the magic number, and the second the protocol version 1001.",
    "legacy.system": "The third pickle is a dictionary about the machine.",
    "legacy.view": "A view of a storage is (key, offset, count) and lies within it.",
    "legacy.keys": "The fifth pickle is a list of texts, each once: the keys of the storages of the object, all of them.",
    "legacy.count": "The count before a storage is the one that the object says.",
    "legacy.end": "The file ends with the last storage.",
}

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KEY = r"\w{1,64}"
SMALL = 1 << 16  # bytes of a storage that is read, not mapped


class _Stream(Container):
    """One file, and where its storages are."""

    form = "pytorch-legacy"

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.data: Any = source.map(0, source.size)
        self.position = self.cost = 0
        self.storages: dict[str, Storage] = {}
        self.views: dict[str, Storage] = {}
        self.offsets: dict[str, int] = {}

    def refuse(self, rule: str, what: str, **more: Any) -> FormatError:
        """The error for a rule of this module."""
        more.setdefault("offset", self.position)
        return FormatError(what, rule=rule, where=self.source.path, **more)

    def pickle(self) -> tuple[Any, Machine]:
        """The next object, and the machine that made it."""
        machine = Machine(
            self.data,
            self.source.path,
            0,
            self.limits,
            self.source.size,
            TORCH,
            self._persistent,
            self.cost,
            self.position,
        )
        result = machine.run()
        self.position, self.cost = machine.position, machine.cost
        return result, machine

    def _persistent(self, machine: Machine, identity: Any) -> Any:
        if (
            type(identity) is tuple
            and len(identity) == 4
            and identity[0] == "module"
            and isinstance(identity[1], Symbol)
        ):
            return identity[1]
        view = identity[5] if type(identity) is tuple and len(identity) == 6 else None
        again = storage_of(machine, identity, 6, KEY)
        known = same_storage(machine, self.storages.setdefault(again.key, again), again)
        return known if view is None else self._view(machine, known, view)

    def _view(self, machine: Machine, whole: Storage, view: Any) -> Storage:
        good = type(view) is tuple and len(view) == 3 and type(view[0]) is str
        good = good and all(type(part) is int and part >= 0 for part in view[1:]) and view[1] + view[2] <= whole.count
        if not good:
            machine.refuse(
                "legacy.view", "this is no view of a storage", expected=f"a part of {whole}", got=shown(view)
            )
        key, offset, count = view
        again = Storage(whole.key, whole.dtype, count, offset * whole.itemsize)
        return same_storage(machine, self.views.setdefault(key, again), again)

    def find(self, keys: Any) -> None:
        """Where every storage is, which the keys say."""
        if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) != len(keys):
            raise self.refuse("legacy.keys", "this is no list of keys", expected="texts, each once", got=shown(keys))
        if set(keys) != set(self.storages):
            got = f"without a storage: {sorted(set(keys) - set(self.storages))[:4]}; without a key: {sorted(set(self.storages) - set(keys))[:4]}"
            raise self.refuse("legacy.keys", "the keys are not those of the object's storages", got=got)
        for key in keys:
            self._find(self.storages[key])

    def _find(self, storage: Storage) -> None:
        begin = self.position + 8
        count = int.from_bytes(bytes(self.data[self.position : begin]), "little", signed=True)
        if begin <= self.source.size and count != storage.count:
            raise self.refuse(
                "legacy.count", "a storage has another count", field=storage.key, expected=storage.count, got=count
            )
        if begin + storage.nbytes > self.source.size:
            raise FormatError(
                "the file is too short for its storages",
                rule="file.truncated",
                where=self.source.path,
                offset=self.position,
                field=f"storage {storage.key}",
                expected=f"{8 + storage.nbytes} bytes",
                got=f"{self.source.size - self.position} bytes to the end of the file",
                remedy="fetch the file again and compare its checksum",
            )
        self.offsets[storage.key] = begin
        self.position = begin + storage.nbytes

    def place(self, storage: Storage) -> tuple[int, str]:
        """Where a storage begins."""
        return self.offsets[storage.key] + storage.first, "contiguous"

    def raw(self, storage: Storage) -> Any:
        """The bytes of a storage."""
        take = self.source.read if storage.nbytes <= SMALL else self.source.map
        return np.frombuffer(take(self.place(storage)[0], storage.nbytes, f"storage {storage.key}"), np.uint8)


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open one file; raises FormatError or UnsupportedError, and allocates nothing for the tensors."""
    stream = _Stream(source, limits)
    for meant, name in ((MAGIC, "magic number"), (VERSION, "protocol version")):
        found, _ = stream.pickle()
        if type(found) is not int or found != meant:
            raise stream.refuse("legacy.magic", f"wrong {name}", offset=0, expected=meant, got=shown(found))
    system, _ = stream.pickle()
    if type(system) is not dict or not isinstance(system.get("little_endian"), bool):
        raise stream.refuse(
            "legacy.system",
            "this is nothing about the machine",
            expected="little_endian: True or False",
            got=shown(system),
        )
    root, machine = stream.pickle()
    keys, _ = stream.pickle()
    stream.find(keys)
    if stream.position != source.size and mode == "strict":
        expected = f"{stream.position} bytes"
        raise stream.refuse("legacy.end", "bytes after the last storage", expected=expected, got=f"{source.size} bytes")
    stream.data, machine.cost = None, stream.cost
    machine.release()
    return as_checkpoint(stream, machine, root, {}, limits, mode)
