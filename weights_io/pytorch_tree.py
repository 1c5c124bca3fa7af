"""The object that a pickle describes, as a checkpoint: the tensors in it under names, and everything else as metadata.

A tensor's name is the keys on the way to it, joined by "/": texts as they are, integers in decimal, places in lists from 0, attributes of
placeholders by their names; what a placeholder was called with lies under "args". A flat state dictionary keeps its own keys. Attributes of
dictionaries and tensors (`_metadata` of a state dictionary) count as further items of theirs; a key that is a long tuple, or has a placeholder
in it, is named by its place, as "#0". A tensor that occurs several times has every one of these names. A container that occurs several times
is walked once, at its shortest path, of equally short ones the first in the file; elsewhere stands a `Reference` to that path, so that neither
cycles nor sharing can make the tree larger than the file. Containers of at most eight plain values are repeated instead. Keys, and elements
of sets, are not searched for tensors.

The metadata is the same tree with the tensors taken out: of dictionaries their items go; in lists, tuples and arguments a `Reference` stands in
their place. A tensor with attributes leaves these. If the object is no dictionary, it is the metadata's item "root"; a tensor that is
the whole object is named "tensor", and its attributes are an item of that name. Nothing replaces anything: an attribute NAME of a dictionary that
has such an item is "NAME (2)", or the next number that is free; so are, in the metadata as a whole, what the container says and the
dictionary says as well. Attributes that two dictionaries share are, in the second, a `Reference` named "attributes" to the path of the first.
"""

from __future__ import annotations

from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from weights_io.arrays import native, read_only
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, clipped
from weights_io.pickle_machine import PAIR, Inert, Items, Machine, Node, Symbol, shown
from weights_io.pytorch_tensors import (
    NOWHERE,
    UNREAD,
    Array,
    NumpyDtype,
    Storage,
    Stored,
    check_bool,
    dtype_of,
    read_array,
    read_stored,
    refuse_dtype,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["RULES", "Container", "Reference", "as_checkpoint", "free_key", "walk"]

RULES = {
    "pytorch.names": "Every tensor has names of its own: no two lie under the same keys joined by '/', and names are text that UTF-8 can write.",
    "pytorch.depth": "Containers are at most 256 deep, on the shortest way.",
}
MAX_DEPTH = 256
MAX_KEY_TEXT = 1000  # characters of the texts in a tuple that is a key and named as itself
SMALL = 8  # plain values in a container that is repeated where it occurs again
NAME_COST, EDGE_COST, CONTAINER_COST = 700, 180, 600
HERE = Symbol("", "")  # the key of a part that has no name of its own
PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, set, frozenset, Symbol)


class Reference(Node):
    """What stands in the metadata for a tensor, or for a container that was met before: its path."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name

    def __repr__(self) -> str:
        return f"<{self.kind} {shown(self.name)}>"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Stored, Storage)) or (isinstance(value, Array) and value.array is not None)


def _is_container(value: Any) -> bool:
    if isinstance(value, Inert):
        return not isinstance(value, NumpyDtype) and not _is_tensor(value)
    return isinstance(value, (dict, list)) or type(value) is tuple


def _is_plain(node: Any) -> bool:
    """Whether a list, tuple or dictionary holds plain values only."""
    if isinstance(node, dict):
        state = node.state if isinstance(node, Items) else None
        return state is None and all(type(value) in PLAIN for value in node.values())
    return isinstance(node, (list, tuple)) and all(type(value) in PLAIN for value in node)


def _is_small(node: Any) -> bool:
    return not isinstance(node, Inert) and len(node) <= SMALL and _is_plain(node)


def _parts(node: Any) -> Iterator[tuple[Any, Any]]:
    """The keys and children of a container; parts that have no name of their own are `HERE`."""
    if isinstance(node, Inert):
        named: list[tuple[Any, Any]] = [("function", node.function)] if isinstance(node.function, Inert) else []
        named += [("args", node.args)] if node.args else []
        parts = (node.kwargs, node.slots, node.items or None, node.pairs or None)
        state = (HERE if isinstance(node.state, dict) else "state", node.state)
        return chain(
            named, ((HERE, part) for part in parts if part is not None), [state] if node.state is not None else []
        )
    if isinstance(node, Items):
        return chain(node.items(), [(HERE, node.state)] if node.state is not None else [])
    return iter(node.items()) if isinstance(node, dict) else iter(enumerate(node))


def _edges(node: Any) -> Iterator[tuple[int, Any, Any]]:
    """Every part of a container, numbered, and the attributes of tensors after them, with the same key."""
    for index, (key, child) in enumerate(_parts(node)):
        yield 2 * index, key, child
        if isinstance(child, Stored) and child.state is not None:
            yield 2 * index + 1, key, child.state


class _Walk:
    """One walk over the object of a pickle."""

    def __init__(self, machine: Machine, root: Any) -> None:
        self.machine, self.root = machine, root
        self.homes: dict[int, tuple[int, int]] = {}  # container -> the part of a container that it is first
        self.again: set[int] = set()  # containers that occur several times
        self.paths: dict[int, str] = {}  # of these
        self.references: list[tuple[Reference, int]] = []
        self.tensors: dict[str, Any] = {}

    def _refuse(self, rule: str, what: str, **more: Any) -> FormatError:
        return FormatError(what, rule=rule, where=self.machine.where, **more)

    def find_homes(self) -> None:
        """Visit every container once, level by level, so that the shortest path to each is known."""
        level = [self.root] if _is_container(self.root) else []
        self.homes = {id(self.root): (0, 0)}
        for _ in range(MAX_DEPTH + 1):
            level = [child for node in level for child in self._new_containers(node)]
            if not level:
                return
        raise self._refuse("pytorch.depth", "the containers are too deep", expected=f"at most {MAX_DEPTH}")

    def _new_containers(self, node: Any) -> Iterator[Any]:
        for index, _, child in _edges(node):
            if not _is_container(child) or _is_small(child):
                continue
            if id(child) in self.homes:
                self.again.add(id(child))
            else:
                self.machine.spend(CONTAINER_COST)
                self.homes[id(child)] = (id(node), index)
                yield child

    def run(self) -> Any:
        """The metadata; the tensors are in `tensors` then."""
        self.find_homes()
        if not _is_container(self.root):
            return self._leaf(self.root, "tensor")
        if _is_plain(self.root):
            return self._copied(self.root)
        value, frames = None, [_Frame(HERE, self.root, None)]
        while frames:
            opened = self._advance(frames[-1])
            if opened is not None:
                frames.append(opened)
                continue
            done = frames.pop()
            value = done.assembled(self.machine)
            if frames:
                frames[-1].parts.append((done.key, value))
        for reference, node in self.references:
            reference.name = self.paths.get(node, "")
        return value

    def _advance(self, frame: _Frame) -> _Frame | None:
        """Take parts of a container until one of them is a container to be walked; None when all are taken."""
        for index, key, child in frame.edges:
            self.machine.spend(EDGE_COST)
            path = frame.path if key is HERE else self._joined(frame.path, key, index // 2)
            if not _is_container(child):
                value = self._leaf(child, path or "")
            elif _is_small(child):
                value = self._copied(child)
            elif self.homes.get(id(child)) == (id(frame.node), index):
                if id(child) in self.again:
                    self.paths[id(child)] = path or ""
                if not _is_plain(child):
                    return _Frame(key, child, path)
                value = self._copied(child)
            else:
                value = Reference("same as", "")
                self.references.append((value, id(child)))
            frame.parts.append((key, value))
        return None

    def _joined(self, path: str | None, key: Any, index: int) -> str:
        self.machine.spend(4 * len(key) if isinstance(key, bytes) else 0)
        text = _key_text(key, index)
        length = len(text) + (0 if path is None else len(path) + 1)
        self.machine.spend((1 if text.isascii() and (path is None or path.isascii()) else 4) * length)
        return text if path is None else f"{path}/{text}"

    def _copied(self, node: Any) -> Any:
        """A container of plain values, by itself."""
        self.machine.spend(64 + (PAIR if isinstance(node, dict) else 8) * len(node))
        return node if type(node) is tuple else dict(node) if isinstance(node, dict) else list(node)

    def _leaf(self, child: Any, path: str) -> Any:
        if isinstance(child, NumpyDtype):
            return child if child.resolved() is None else child.resolved()
        if not _is_tensor(child):
            return child
        if isinstance(child, Array) and (child.state or child.slots or child.items or child.pairs):
            raise self._refuse("pickle.build", "an array has no attributes and no items", got=repr(clipped(path)))
        self.machine.spend(NAME_COST)
        if path in self.tensors:
            raise self._refuse("pytorch.names", "two tensors have the same name", got=repr(clipped(path)))
        try:
            path.encode()
        except UnicodeEncodeError:
            raise self._refuse(
                "pytorch.names", "a name is not text that UTF-8 can write", got=ascii(clipped(path))
            ) from None
        self.tensors[path] = child
        return Reference("tensor", path)


class _Frame:
    """A container that is being walked."""

    __slots__ = ("edges", "key", "node", "parts", "path")

    def __init__(self, key: Any, node: Any, path: str | None) -> None:
        self.key, self.node, self.path = key, node, path
        self.edges = _edges(node)
        self.parts: list[tuple[Any, Any]] = []

    def assembled(self, machine: Machine) -> Any:
        """The container without the tensors."""
        if isinstance(self.node, Inert):
            return self._assembled_inert(self.node)
        if isinstance(self.node, dict):
            kept = [(key, value) for key, value in self.parts if not _is_reference_to_tensor(value)]
            return _with_attributes(
                machine,
                {key: value for key, value in kept if key is not HERE},
                [value for key, value in kept if key is HERE],
            )
        kind = type(self.node)
        return kind(dict(self.parts).values())

    def _assembled_inert(self, node: Inert) -> Inert:
        parts = iter(self.parts)
        function = next(parts)[1] if isinstance(node.function, Inert) else node.function
        args = next(parts)[1] if node.args else ()
        result = Inert(function, args if type(args) is tuple else (args,))
        for name in ("kwargs", "slots", "items", "pairs", "state"):
            if getattr(node, name) is not None and (getattr(node, name) or name not in ("items", "pairs")):
                setattr(result, name, next(parts)[1])
        if node.state is not None:
            result.state = self.parts[-1][1]  # of a tensor that is the state, its attributes
        return result


def _with_attributes(machine: Machine, items: dict[Any, Any], states: list[Any]) -> dict[Any, Any]:
    """A dictionary with its attributes as further items, beside those that have their keys."""
    for state in states:
        for key, value in state.items() if isinstance(state, dict) else [("attributes", state)]:
            if key in items:
                machine.spend(100 + 4 * len(key) if isinstance(key, (str, bytes)) else 1000)
            items[free_key(key, items)] = value
    return items


def free_key(key: Any, taken: Mapping[Any, Any]) -> Any:
    """The key, if it is not taken; a text with a number after it otherwise."""
    if key not in taken:
        return key
    text = key if isinstance(key, str) else shown(key)
    return next(new for number in count(2) if (new := f"{text} ({number})") not in taken)


def _is_reference_to_tensor(value: Any) -> bool:
    return isinstance(value, Reference) and value.kind == "tensor"


def _key_text(key: Any, index: int) -> str:
    """A key as part of a name."""
    if type(key) is str:
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    if isinstance(key, (Node, frozenset)) or (type(key) is tuple and not _is_short(key)):
        return f"#{index}"
    return repr(key)


def _is_short(key: tuple[Any, ...]) -> bool:
    """Whether a tuple can be shown as it is: it has few parts, but these may be long."""
    pending, length = list(key), 0
    while pending:
        part = pending.pop()
        if isinstance(part, (tuple, frozenset)):
            pending.extend(part)
        length += len(part) if isinstance(part, (str, bytes, Symbol)) else 0
        if isinstance(part, (Node, frozenset)) or length > MAX_KEY_TEXT:
            return False
    return True


def walk(machine: Machine, root: Any) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The tensors in an object by their names, and the metadata; see the module."""
    if isinstance(root, Stored) and root.state is not None:
        root = {"tensor": root}
    steps = _Walk(machine, root)
    value = steps.run()
    if isinstance(root, dict):
        return steps.tensors, value
    return steps.tensors, {} if _is_reference_to_tensor(value) else {"root": value}


class Container:
    """What holds the pickle and the storages: a ZIP archive, or a legacy stream."""

    form: str
    source: Source
    big = False  # whether storages are big-endian

    def place(self, storage: Storage) -> tuple[int, str]:
        """Where a storage begins in the file, and how it lies there: "contiguous", or "compressed"."""
        raise NotImplementedError

    def raw(self, storage: Storage) -> Any:
        """uint8 (nbytes,): its bytes."""
        raise NotImplementedError


def as_checkpoint(
    container: Container, machine: Machine, root: Any, more: Mapping[str, Any], limits: Limits, mode: str
) -> Checkpoint:
    """The checkpoint that an object is; `more` is metadata besides it, which replaces nothing of the object's."""
    tensors, metadata = walk(machine, root)
    for key, value in more.items():
        metadata[free_key(key, metadata)] = value
    tensors = {name: _viewed(machine, tensor) for name, tensor in tensors.items()}
    infos = {name: _info(container, name, tensor) for name, tensor in tensors.items()}
    source = container.source
    limits.check_expansion(sum(info.nbytes for info in infos.values()), source.size, source.path)
    return Checkpoint(
        container.form,
        metadata,
        infos,
        lambda info: _read(container, info, tensors[info.name], mode),
        [source],
    )


def _viewed(machine: Machine, tensor: Any) -> Any:
    """A bare storage as a tensor of one axis."""
    if not isinstance(tensor, Storage):
        return tensor
    return stored(machine, tensor, 0, (tensor.count,), (1,), "uint8" if tensor.dtype == "untyped" else None)


def _info(container: Container, name: str, tensor: Any) -> TensorInfo:
    path = container.source.path
    if isinstance(tensor, Array):
        dtype = np.dtype(tensor.cast or native(tensor.array.dtype))
        return TensorInfo(
            name, dtype, tensor.array.shape, path, tensor.place, tensor.array.size * dtype.itemsize, "pickled"
        )
    dtype = dtype_of(tensor.dtype)
    begin, layout = (0, "contiguous") if tensor.storage is NOWHERE else container.place(tensor.storage)
    layout = "strided" if layout == "contiguous" and not tensor.contiguous else layout
    offset = begin + tensor.offset * dtype.itemsize
    return TensorInfo(name, dtype, tensor.shape, path, offset, tensor.nbytes, layout)


def _read(container: Container, info: TensorInfo, tensor: Any, mode: str) -> Any:
    path = container.source.path
    if isinstance(tensor, Array):
        array = read_array(tensor)
    elif tensor.dtype in UNREAD:
        refuse_dtype(path, info.name, tensor.dtype)
    else:
        array = read_stored(tensor, container.raw(tensor.storage) if info.nbytes else EMPTY, container.big)
        if info.layout == "compressed" and 2 * info.nbytes < tensor.storage.nbytes:
            array = read_only(array.copy())  # so that a small view does not hold all that was unpacked
    return check_bool(array, path, info.name, mode) if array.dtype == np.bool_ else array


EMPTY: Any = np.empty(0, np.uint8)
