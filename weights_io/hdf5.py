"""Keras weights in HDF5: a declared subset of the format, read without the HDF5 library.

    superblock -> root group -> links -> groups and datasets; names are paths without the first slash ("dense/dense/kernel:0")

What is read: superblocks of version 0 to 3; old and new groups, also with many links; datasets that are compact, contiguous (mapped, not copied) or
chunked with any index of the format, filtered with deflate, shuffle and Fletcher-32; whole numbers, IEEE floats, bfloat16, float8, h5py's booleans;
numbers and text in attributes. What is refused, by name: anything that leads to another file (external storage, external links, virtual datasets,
files split by a driver), users' own links, shared messages, other filters, and datasets of other types; `mode` "compat" leaves datasets with other
filters or of other types out, and says so in `metadata["unread"]`. Soft links are listed, not followed.

Every structure that has a checksum in the format has it verified. The format has none for most data: without a Fletcher-32 filter, bytes of a
tensor that were changed are read as they are, and so are those of older files' structures.

`metadata["attributes"]` maps the paths of groups and datasets to their attributes ("" is the root); lists of names that Keras splits over several
attributes are also there under their own name. `metadata["links"]` maps soft links to their targets, and `metadata["keras"]` maps each layer
that Keras lists to its weights, as names of this checkpoint, both in Keras' order.

Reference: HDF5 File Format Specification, version 3.0. Keras' conventions as in `keras.src.legacy.saving.legacy_h5_format`.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from weights_io import (
    hdf5_bytes,
    hdf5_chunks,
    hdf5_datatypes,
    hdf5_filters,
    hdf5_groups,
    hdf5_heaps,
    hdf5_layouts,
    hdf5_objects,
    hdf5_trees,
)
from weights_io.arrays import as_array, read_only
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import UnsupportedError
from weights_io.hdf5_bytes import Space
from weights_io.hdf5_chunks import filled, locate, read_chunks
from weights_io.hdf5_datatypes import OPAQUE, read_attribute
from weights_io.hdf5_groups import read_links
from weights_io.hdf5_heaps import FractalHeap
from weights_io.hdf5_layouts import read_dataset
from weights_io.hdf5_objects import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    DATASPACE,
    DATATYPE,
    LAYOUT,
    LINK_INFO,
    SYMBOL_TABLE,
    Header,
    commit_datatype,
    read_header,
    read_superblock,
)
from weights_io.hdf5_trees import records
from weights_io.recognise import _user_block

if TYPE_CHECKING:
    from weights_io.hdf5_bytes import Fields
    from weights_io.hdf5_chunks import Stored
    from weights_io.hdf5_layouts import Chunks, Dataset
    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["RULES", "open_source"]

RULES = {
    "hdf5.attribute-index": "The index of an object's attributes has each attribute under the hash of its name, in order, each once.",
    "hdf5.bool": "A boolean is 0 or 1.",
    "hdf5.depth": "Groups are nested at most 64 deep.",
    "hdf5.object": "An object is a group, a dataset or a committed datatype.",
    "hdf5.one-path": "One hard link leads to a group: groups are a tree, without cycles.",
    **hdf5_bytes.RULES,
    **hdf5_chunks.RULES,
    **hdf5_datatypes.RULES,
    **hdf5_filters.RULES,
    **hdf5_groups.RULES,
    **hdf5_heaps.RULES,
    **hdf5_layouts.RULES,
    **hdf5_objects.RULES,
    **hdf5_trees.RULES,
}
LEFT_OUT = ("hdf5.datatype-kind", "hdf5.filter-kind", "hdf5.null")  # rules for which "compat" leaves a dataset out
MAX_DEPTH = 64
RECORD = 17  # bytes of an attribute in the index of names: identifier in the heap, flags, order of creation, hash
CHUNK_WORK = 4096  # bytes that could be read in the time that finding and placing one chunk takes
TENSOR_COST = 300  # bytes of objects that a tensor takes, besides its name
DATASET_COST = 300  # bytes of objects that a dataset's description takes, besides its axes
SPLIT = ("layer_names", "weight_names")  # lists that Keras splits where they are longer than an attribute may be


class _Walk:
    """Everything that the groups of a file lead to."""

    def __init__(self, space: Space, mode: str) -> None:
        self.space, self.mode = space, mode
        self.infos: dict[str, TensorInfo] = {}
        self.datasets: dict[str, Dataset] = {}  # of the tensors; hard links share one
        self.attributes: dict[str, dict[str, Any]] = {}
        self.links: dict[str, str] = {}
        self.unread: dict[str, str] = {}  # why datasets were left out
        self._first: dict[int, str] = {}  # the first name of each dataset
        self._groups: set[int] = set()
        self._declared = 0

    def run(self, root: int) -> None:
        """Visit every object once, groups before what is in them."""
        stack = [("", root, 0)]
        while stack:
            path, address, depth = stack.pop()
            if address in self._first:
                self._again(path, address)
            elif address not in self.space.committed:
                stack += reversed(self._visit(path, address, depth))
        self.space.check_disjoint()

    def _visit(self, path: str, address: int, depth: int) -> list[tuple[str, int, int]]:
        """What is in a group; a dataset is entered."""
        at = self.space.base + address
        if address in self._groups:
            raise self.space.broken("two hard links lead to a group", "hdf5.one-path", at, path, "one", repr(path))
        if depth > MAX_DEPTH:
            raise self.space.broken("groups are nested too deep", "hdf5.depth", at, path, MAX_DEPTH, repr(path))
        header = read_header(self.space, address, path or "root group")
        if _is_group(self.space, header, path):
            self._groups.add(address)
            self._describe(header, path)
            return self._inside(header, path, depth)
        if header.one(DATASPACE) or header.one(LAYOUT) or path == "":
            self._dataset(header, path)
        else:
            commit_datatype(self.space, header)
        return []

    def _inside(self, header: Header, path: str, depth: int) -> list[tuple[str, int, int]]:
        found = []
        for link in read_links(self.space, header):
            name = f"{path}/{link.name}" if path else link.name
            self.space.charge(4 * len(name), name)
            if link.target is not None:
                self.links[name] = link.target
            else:
                found.append((name, link.address, depth + 1))
        return found

    def _describe(self, header: Header, path: str) -> dict[str, Any]:
        attributes = _attributes(self.space, header)
        if attributes:
            self.attributes[path] = attributes
        return attributes

    def _dataset(self, header: Header, path: str) -> None:
        says = self._describe(header, path).get("dtype")
        self._first[header.address] = path
        try:
            dataset = read_dataset(self.space, header, OPAQUE.get(says) if isinstance(says, str) else None)
        except UnsupportedError as error:
            if self.mode != "compat" or error.rule not in LEFT_OUT:
                raise
            self._leave_out(path, str(error))
            return
        self.space.charge(DATASET_COST + 80 * len(dataset.space.shape), path)
        self._enter(path, _info(self.space, path, header, dataset), dataset)

    def _again(self, path: str, address: int) -> None:
        """A dataset under another name."""
        first = self._first[address]
        if first in self.attributes:
            self.attributes[path] = self.attributes[first]
        if first in self.infos:
            self._declared += self.datasets[first].chunk_count * CHUNK_WORK
            self._enter(path, self.infos[first]._replace(name=path), self.datasets[first])
        else:
            self._leave_out(path, self.unread[first])

    def _leave_out(self, path: str, why: str) -> None:
        self.space.charge(TENSOR_COST + len(why), path)
        self.unread[path] = why

    def _enter(self, path: str, info: TensorInfo, dataset: Dataset) -> None:
        self.space.charge(TENSOR_COST + 40 * len(info.shape), path)
        self._declared += max(dataset.nbytes, dataset.unpacked)
        self.space.limits.check_expansion(self._declared, self.space.source.size, self.space.source.path, path)
        self.infos[path], self.datasets[path] = info, dataset


def _is_group(space: Space, header: Header, path: str) -> bool:
    group = bool(header.one(SYMBOL_TABLE) or header.one(LINK_INFO))
    if group == bool(header.one(LAYOUT) or header.one(DATATYPE)):
        expected = "a group, a dataset or a datatype"
        got = "two of them" if group else "none of them"
        raise space.broken(
            "an object is not what it should be", "hdf5.object", space.base + header.address, path, expected, got
        )
    return group


def _info(space: Space, path: str, header: Header, dataset: Dataset) -> TensorInfo:
    datatype, layout, chunks = dataset.datatype, dataset.layout, dataset.layout.chunks
    kind = "contiguous" if layout.at is not None or not dataset.nbytes else "filled"
    offset = layout.at if layout.at is not None else space.base + header.address
    if chunks and chunks.address is not None:
        kind, offset = ("compressed" if dataset.filters else "chunked"), space.base + chunks.address
    return TensorInfo(path, datatype.dtype, dataset.space.shape, space.source.path, offset, dataset.nbytes, kind)


# --- attributes -------------------------------------------------------------------------------------------------------------


def _attributes(space: Space, header: Header) -> dict[str, Any]:
    """The attributes of an object, in its header and in its heap."""
    found: dict[str, Any] = {}
    for message in header.all(ATTRIBUTE):
        fields = message.fields(space)
        _add(fields, found)
    info = header.one(ATTRIBUTE_INFO)
    if info:
        _dense(space, info.fields(space), found)
    return found


def _add(fields: Fields, found: dict[str, Any]) -> str:
    name, value = read_attribute(fields)
    if name in found:
        raise fields.broken("an attribute occurs twice", "hdf5.attribute-index", "unique names", repr(name))
    found[name] = value
    return name


def _dense(space: Space, fields: Fields, found: dict[str, Any]) -> None:
    fields.version(0)
    flags = fields.unsigned(1)
    if flags & ~3:
        raise fields.broken("an object has unknown flags", "hdf5.flags", "at most 3", flags)
    fields.take(2 if flags & 1 else 0)
    address, tree = fields.address(), fields.address()
    if address is None:
        return
    if tree is None or found:
        expected = "a heap and its index, or messages"
        raise fields.broken(
            "an object keeps its attributes in two places", "hdf5.attribute-index", expected, "both, or half"
        )
    heap, raw, last = FractalHeap(space, address), records(space, tree, 8, RECORD), (-1, b"")
    for i in range(0, len(raw), RECORD):
        last = _indexed(heap, raw[i : i + RECORD], found, last)


def _indexed(heap: FractalHeap, record: bytes, found: dict[str, Any], last: tuple[int, bytes]) -> tuple[int, bytes]:
    """Enter one attribute of a heap; its hash and name, which must come after `last`."""
    fields = heap.get(record[:8], "attribute message")
    if record[8] & 2:
        raise fields.unread("a shared message is not read", "hdf5.shared", "the attribute itself", "a shared attribute")
    name, stored = _add(fields, found).encode(), int.from_bytes(record[13:], "little")
    computed = hdf5_bytes.lookup3(name)
    if stored != computed or (stored, name) <= last:
        got = f"{stored:#010x} for {name[:60]!r}"
        raise fields.broken(
            "the index of attributes is wrong", "hdf5.attribute-index", f"{computed:#010x}, rising", got
        )
    return stored, name


# --- Keras' view ------------------------------------------------------------------------------------------------------------


def _join_split(attributes: dict[str, Any]) -> None:
    """Enter layer_names and weight_names where Keras has split them: as layer_names0, layer_names1 and so on."""
    for name in SPLIT:
        parts: list[Any] = []
        while isinstance(attributes.get(f"{name}{len(parts)}"), list):
            parts.append(attributes[f"{name}{len(parts)}"])
        if parts and name not in attributes:
            attributes[name] = [text for part in parts for text in part]


def _keras(walk: _Walk) -> dict[str, list[str]]:
    """The weights of each layer that Keras lists, in its order, as names of tensors; empty where Keras lists none."""
    for attributes in {id(each): each for each in walk.attributes.values()}.values():  # hard links share them
        _join_split(attributes)
    base = "model_weights" if "layer_names" in walk.attributes.get("model_weights", {}) else ""
    found: dict[str, list[str]] = {}
    for layer in _texts(walk.attributes.get(base, {}).get("layer_names")):
        if layer not in found:
            path = f"{base}/{layer}" if base else layer
            weights = _texts(walk.attributes.get(path, {}).get("weight_names"))
            walk.space.charge(100 + sum(64 + 4 * (len(path) + len(name)) for name in weights), path)
            names = [f"{path}/{name}" for name in weights]
            found[layer] = [name for name in names if name in walk.infos]
    return found


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


# --- opening and reading ----------------------------------------------------------------------------------------------------


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open one HDF5 file; every group, attribute and dataset's description is read and checked, no dataset's values are.

    `mode` "compat" leaves datasets of types and filters that are not read out, and takes a boolean that is neither 0 nor 1 as true.
    """
    space = Space(source, limits, _user_block(source) or 0)
    walk = _Walk(space, mode)
    walk.run(read_superblock(space))
    keras = _keras(walk)
    metadata = {"attributes": walk.attributes, "links": walk.links, "keras": keras, "unread": walk.unread}
    return Checkpoint("hdf5", metadata, walk.infos, _Reader(space.again(), walk.datasets, mode), [source])


class _Reader:
    """Reads the tensors of an open file."""

    def __init__(self, space: Space, datasets: dict[str, Dataset], mode: str) -> None:
        self._space, self._datasets, self._mode = space, datasets, mode
        named = Counter(id(dataset) for dataset in datasets.values())
        self._linked = {id(dataset) for dataset in datasets.values() if named[id(dataset)] > 1}
        self._located: dict[int, int] = {}  # bytes of an index and of its chunks, by the index's address
        self._total = 0  # of those
        self._locating = threading.Lock()  # tensors may be read at the same time, and none may lose another's bytes
        self._kept: dict[int, Stored] = {}  # the chunks of datasets with several names, by the index's address

    def __call__(self, info: TensorInfo) -> Any:
        """The array of a tensor, read-only."""
        dataset = self._datasets[info.name]
        layout, stored = dataset.layout, dataset.datatype.stored
        if dataset.nbytes and layout.chunks:
            array = read_only(self._chunked(dataset, layout.chunks, info.name))
        elif dataset.nbytes and layout.at is not None:
            array = as_array(self._space.source.map(layout.at, layout.size, repr(info.name)), stored, info.shape)
        else:
            array = read_only(filled(dataset))
        return _booleans(self._space, info, array, self._mode) if info.dtype == np.bool_ else array.view(info.dtype)

    def _chunked(self, dataset: Dataset, chunks: Chunks, name: str) -> Any:
        """The array of a chunked dataset."""
        stored = self._kept.get(chunks.address or 0)
        if stored is None:
            stored = self._locate(dataset, chunks, name)
            if id(dataset) in self._linked:
                self._kept[chunks.address or 0] = stored
        return read_chunks(self._space, dataset, chunks, stored, name)

    def _locate(self, dataset: Dataset, chunks: Chunks, name: str) -> Stored:
        """The chunks of a dataset; what all datasets have in the file is disjoint, so together it is not more than the file."""
        address = chunks.address or 0
        with self._locating:
            others = self._total - self._located.get(address, 0)
            space = self._space.again(others)
            stored = locate(space, dataset, chunks, name)
            self._total, self._located[address] = space.claimed, space.claimed - others
        return stored


def _booleans(space: Space, info: TensorInfo, array: Any, mode: str) -> Any:
    if array.size and array.max() > 1:
        if mode == "compat":
            return read_only(array != 0)
        raise space.broken(
            "a boolean is neither 0 nor 1", "hdf5.bool", info.offset, repr(info.name), "0 or 1", int(array.max())
        )
    return array.view(np.bool_)
