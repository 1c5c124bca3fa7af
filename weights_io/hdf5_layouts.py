"""How an HDF5 dataset's bytes lie in the file: its layout message, its filters and its fill value.

    compact      in the object header itself
    contiguous   at one address; or nowhere yet, and then every element is the fill value
    chunked      in blocks of equal shape, found by one of six kinds of index (see `hdf5_chunks`)

Refused: external storage (bytes of other files) and virtual datasets (parts of other datasets, mostly of other files).

Reference: HDF5 File Format Specification, version 3.0, sections IV.A.2.e, f, h and i.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.hdf5_datatypes import read_dataspace, read_datatype
from weights_io.hdf5_filters import LEAVE_OUT, Filter, read_filters
from weights_io.hdf5_objects import (
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILL,
    FILTERS,
    LAYOUT,
    OLD_FILL,
    read_datatype_message,
)

if TYPE_CHECKING:
    from weights_io.hdf5_bytes import Fields, Space
    from weights_io.hdf5_datatypes import Datatype, Shape
    from weights_io.hdf5_objects import Header, Message

__all__ = ["RULES", "Chunks", "Dataset", "Layout", "read_dataset"]

RULES = {
    "hdf5.chunk-size": "A chunk takes at most the bytes of the file, plus an eighth of the spare of limits=.",
    "hdf5.external-storage": "The bytes of a dataset are in the file itself.",
    "hdf5.fill": "A fill value is one element, of a known use.",
    "hdf5.layout": "A dataset has a datatype, a dataspace and a layout that agree with each other.",
    "hdf5.virtual": "A dataset has bytes of its own: it is not made of others.",
}
COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
UNDEFINED = 0xFFFFFFFF  # bytes of a fill value that there is not
NEVER = 1  # when a fill value is written: then space that nobody wrote to has no value, and is zero here
NO_INDEX, SINGLE, IMPLICIT, FIXED, EXTENSIBLE, TREE = range(
    6
)  # kinds of chunk index; the first is the version 1 B-tree


class Chunks(NamedTuple):
    """The chunks of a dataset, and how they are found."""

    shape: tuple[int, ...]
    nbytes: int  # of one, unfiltered
    kind: int
    address: int | None  # of the index
    whole_edges: bool = False  # chunks that reach over the dataset's edge are not filtered
    width: int = 8  # bytes of a chunk's size in an index of filtered chunks
    parameters: tuple[int, ...] = ()  # of a fixed or extensible array, as in the layout message
    single: tuple[int, int] | None = None  # stored bytes and mask of a single filtered chunk

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The number of chunks along each axis of a dataset of that shape."""
        return tuple(-(-length // size) for length, size in zip(shape, self.shape, strict=True))


class Layout(NamedTuple):
    """Where the bytes are."""

    at: int | None = None  # the byte of the file at which those of a compact or contiguous dataset begin
    size: int = 0
    chunks: Chunks | None = None


class Dataset(NamedTuple):
    """All that there is to know of a dataset without its values."""

    datatype: Datatype
    space: Shape
    layout: Layout
    filters: tuple[Filter, ...]
    fill: bytes  # of one element; empty for zeros

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.space.elements * self.datatype.size

    @property
    def chunk_count(self) -> int:
        """The number of chunks that there can be; 0 where there is no index."""
        chunks = self.layout.chunks
        return math.prod(chunks.grid(self.space.shape)) if chunks and chunks.address is not None else 0

    @property
    def unpacked(self) -> int:
        """Bytes that reading all elements can unpack: chunks reach over the edges of the dataset."""
        chunks = self.layout.chunks
        return self.chunk_count * chunks.nbytes if chunks and self.filters else self.nbytes


def read_dataset(space: Space, header: Header, opaque: Any = None) -> Dataset:
    """The dataset that a header describes; `opaque` is the dtype of opaque elements, where something says it."""
    kind, shape, layout = (header.one(kind) for kind in (DATATYPE, DATASPACE, LAYOUT))
    if kind is None or shape is None or layout is None:
        at = space.base + header.address
        raise space.broken(
            "a dataset is not whole", "hdf5.layout", at, "dataset", "a datatype, a dataspace and a layout", "less"
        )
    _refuse_elsewhere(space, header, layout)
    datatype = _datatype(read_datatype_message(space, kind), opaque)
    dataspace = _shape(shape.fields(space), datatype)
    pipeline = header.one(FILTERS)
    filters = read_filters(pipeline.fields(space), datatype.size) if pipeline else ()
    found = _layout(layout.fields(space), datatype, dataspace, filters)
    return Dataset(datatype, dataspace, found, filters, _fill(space, header, datatype))


def _refuse_elsewhere(space: Space, header: Header, layout: Message) -> None:
    """Refuse datasets whose bytes are those of other files or of other datasets, whatever else is wrong with them."""
    external, fields = header.one(EXTERNAL), layout.fields(space)
    if external:
        fields = external.fields(space)
        raise fields.unread(
            "a dataset's bytes are in other files", "hdf5.external-storage", "bytes in this file", "others named"
        )
    if layout.raw[:1] > b"\2" and layout.raw[1:2] == bytes([VIRTUAL]):
        raise fields.unread("a dataset is made of others", "hdf5.virtual", "bytes of its own", "a virtual dataset")


def _datatype(fields: Fields, opaque: Any) -> Datatype:
    found = read_datatype(fields)
    if found.kind == "opaque" and opaque is not None and opaque.itemsize == found.size:
        return found._replace(kind="number", stored=np.dtype(f"<u{found.size}"), dtype=opaque)
    if found.stored is None:
        expected = "whole numbers, IEEE floats, bfloat16, float8 or booleans"
        what = "a dataset is of a type that is not read"
        raise fields.unread(what, "hdf5.datatype-kind", expected, found.kind, LEAVE_OUT)
    return found


def _shape(fields: Fields, datatype: Datatype) -> Shape:
    found = read_dataspace(fields)
    if found is None:
        raise fields.unread(
            "a dataset has no shape", "hdf5.null", "a scalar or an array", "a null dataspace", LEAVE_OUT
        )
    if math.prod(length or 1 for length in found.shape) * datatype.size >= 2**62:
        raise fields.broken("a dataspace is too large", "hdf5.dataspace", "less than 2^62 bytes", found.shape)
    return found


# --- layout -----------------------------------------------------------------------------------------------------------------


def _layout(fields: Fields, datatype: Datatype, shape: Shape, filters: tuple[Filter, ...]) -> Layout:
    version, kind = fields.version(3, 4, 5), fields.unsigned(1)
    if kind >= VIRTUAL or (kind != CHUNKED and filters):
        expected, got = "compact or contiguous without filters, or chunked", f"kind {kind} with {len(filters)} filters"
        raise fields.broken("a dataset's layout is wrong", "hdf5.layout", expected, got)
    if kind == CHUNKED:
        chunks = _chunks_3(fields, datatype) if version == 3 else _chunks_4(fields, datatype, shape, filters, version)
        return Layout(chunks=_checked(fields, chunks, shape))
    return _whole(fields, kind, shape.elements * datatype.size)


def _whole(fields: Fields, kind: int, nbytes: int) -> Layout:
    address = None if kind == COMPACT else fields.address()
    size = fields.unsigned(2) if kind == COMPACT else fields.length()
    if size != nbytes and (address is not None or kind == COMPACT):
        raise fields.broken("a dataset's size is wrong", "hdf5.layout", f"{nbytes} bytes", f"{size} bytes")
    if kind == COMPACT:
        at = fields.at
        fields.take(size)
        return Layout(at, size)
    if address is None or not nbytes:
        return Layout()
    fields.space.claim(address, size, "a dataset's bytes")
    return Layout(fields.space.base + address, size)


def _chunks_3(fields: Fields, datatype: Datatype) -> Chunks:
    axes, address = fields.unsigned(1), fields.address()
    return Chunks(*_chunk_shape(fields, axes, 4, datatype), NO_INDEX, address)


def _chunk_shape(fields: Fields, axes: int, width: int, datatype: Datatype) -> tuple[tuple[int, ...], int]:
    """The shape of a chunk, and its bytes: the last number is the size of an element."""
    sizes = tuple(fields.unsigned(width) for _ in range(axes))
    if axes < 2 or not all(sizes) or sizes[-1] != datatype.size:
        expected = f"axes of 1 or more, and then {datatype.size}, the size of an element"
        raise fields.broken("a chunk's shape is wrong", "hdf5.layout", expected, sizes)
    return sizes[:-1], math.prod(sizes)


def _chunks_4(fields: Fields, datatype: Datatype, shape: Shape, filters: tuple[Filter, ...], version: int) -> Chunks:
    flags, axes, width = fields.unsigned(1), fields.unsigned(1), fields.unsigned(1)
    if flags & ~3 or not 1 <= width <= 8:
        raise fields.broken(
            "a layout has unknown flags", "hdf5.flags", "at most 3, sizes of 1 to 8 bytes", f"{flags}, {width}"
        )
    chunk, nbytes = _chunk_shape(fields, axes, width, datatype)
    if width != (max(*chunk, datatype.size).bit_length() + 7) // 8:
        raise fields.broken("a chunk's shape is wrong", "hdf5.layout", "as few bytes as the longest axis needs", width)
    index = fields.unsigned(1)
    if not SINGLE <= index <= TREE or (flags & 2 and index != SINGLE):
        raise fields.broken("there is no such chunk index", "hdf5.layout", f"{SINGLE} to {TREE}", index)
    single = (fields.length(), fields.unsigned(4)) if flags & 2 else None
    parameters = tuple(fields.unsigned(1) for _ in range({FIXED: 1, EXTENSIBLE: 5}.get(index, 0)))
    fields.take(6 if index == TREE else 0)
    if bool(filters) != (single is not None) and index == SINGLE:
        raise fields.broken("a single chunk and its filters disagree", "hdf5.layout", bool(filters), single is not None)
    size = min(8, 1 + (nbytes.bit_length() + 7) // 8) if version == 4 else fields.space.length_size
    return Chunks(chunk, nbytes, index, fields.address(), bool(flags & 1), size, parameters, single)


def _checked(fields: Fields, chunks: Chunks, shape: Shape) -> Chunks:
    space = fields.space
    if len(chunks.shape) != len(shape.shape):
        raise fields.broken("chunks have another number of axes", "hdf5.layout", len(shape.shape), len(chunks.shape))
    most = space.source.size + space.limits.spare // 8  # reading takes memory for two chunks, beside the array
    if chunks.nbytes > most and chunks.address is not None:
        expected, got = f"at most {most} bytes; weights_io.Limits(spare=...) allows more", f"{chunks.nbytes} bytes"
        raise fields.broken("a chunk is far larger than the file", "hdf5.chunk-size", expected, got)
    if chunks.address is not None:
        space.claim(chunks.address, 1, "chunk index")  # no two datasets have one index
    return chunks


# --- fill value -------------------------------------------------------------------------------------------------------------


def _fill(space: Space, header: Header, datatype: Datatype) -> bytes:
    new, old = header.one(FILL), header.one(OLD_FILL)
    value = _new_fill(new, space) if new else b""
    if not new and old:
        fields = old.fields(space)
        value = fields.take(fields.unsigned(4))
    if value and len(value) != datatype.size:
        at = space.base + header.address
        raise space.broken("a fill value is wrong", "hdf5.fill", at, "fill value", f"{datatype.size} bytes", len(value))
    return value if any(value) else b""


def _new_fill(message: Message, space: Space) -> bytes:
    fields = message.fields(space)
    version = fields.version(1, 2, 3)
    allocated, written, defined = _fill_flags(fields) if version == 3 else (fields.unsigned(1) for _ in range(3))
    if allocated > 3 or written > 2 or defined > 1:
        got = f"allocation {allocated}, writing {written}, {defined}"
        raise fields.broken(
            "a fill value is of no known use", "hdf5.fill", "allocation to 3, writing to 2, 0 or 1", got
        )
    size = fields.unsigned(4) if defined or version == 1 else 0
    value = fields.take(size if size != UNDEFINED else 0)
    return b"" if written == NEVER else value


def _fill_flags(fields: Fields) -> tuple[int, int, int]:
    """When space is allocated, when the value is written, and whether it is there; 2 where the flags contradict each other."""
    flags = fields.unsigned(1)
    return flags & 3, flags >> 2 & 3, 2 if flags & 0xC0 or flags & 0x30 == 0x30 else flags >> 5 & 1
