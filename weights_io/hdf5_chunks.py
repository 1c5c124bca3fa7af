"""The chunks of an HDF5 dataset: where an index says they are, and the array that they make.

    version 1 B-tree    keys with offsets, stored bytes and mask (the only index of older files)
    single chunk        in the layout message itself
    implicit            one chunk after the other
    fixed array         FAHD -> FADB: one entry for each chunk that there can be
    extensible array    EAHD -> EAIB -> EADB, EASB -> EADB: the same along one axis without limit, in blocks that double
    version 2 B-tree    BTHD: records with offsets, where more than one axis has no limit

An index is walked only when its dataset is read. Chunks that no index has are the fill value; chunks outside the dataset's shape are left out.

Reference: HDF5 File Format Specification, version 3.0, sections III.A and VII; numbers of blocks in extensible arrays as the HDF5 library makes them.
"""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.hdf5_filters import unfiltered
from weights_io.hdf5_layouts import EXTENSIBLE, FIXED, IMPLICIT, NO_INDEX, SINGLE, TREE
from weights_io.hdf5_trees import children, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weights_io.errors import FormatError
    from weights_io.hdf5_bytes import Fields, Space
    from weights_io.hdf5_layouts import Chunks, Dataset

__all__ = ["RULES", "Stored", "filled", "locate", "read_chunks"]

RULES = {
    "hdf5.chunk-index": "An index of chunks has the kind, the entries and the size that the dataset needs.",
    "hdf5.chunk-place": "A chunk begins at a multiple of the shape of chunks.",
}
AT_A_TIME, BLOCKS_AT_A_TIME = 1 << 16, 1 << 12  # entries of an index, and blocks of them, that are looked at together
BATCH_COST = 600  # bytes of objects that those take, besides the entries
ENTRY_COST = 64  # bytes that a chunk's place takes while its dataset is read, besides 16 for each axis


class Stored(NamedTuple):
    """Where chunks are in the file and in the dataset."""

    addresses: Any  # uint64 (n,)
    sizes: Any  # uint64 (n,): stored bytes
    masks: Any  # uint64 (n,)
    places: Any  # uint64 (n, axes): offsets divided by the shape of chunks


class _Array(NamedTuple):
    """What the indexes in arrays have in common."""

    space: Space
    chunks: Chunks
    filtered: bool
    extent: tuple[int, ...]  # chunks along each axis, up to its maximum; 0 for the axis without limit

    @property
    def entry(self) -> int:
        """Bytes of an entry."""
        return self.space.offset_size + (self.chunks.width + 4 if self.filtered else 0)


# --- reading ----------------------------------------------------------------------------------------------------------------


def filled(dataset: Dataset) -> Any:  # -> stored dtype in native order (*shape)
    """A writable array of the fill value."""
    stored = dataset.datatype.stored
    if not dataset.fill:
        return np.zeros(dataset.space.shape, stored.newbyteorder("="))
    value = np.frombuffer(dataset.fill, stored).astype(stored.newbyteorder("="))[0]
    return np.full(dataset.space.shape, value)


def locate(space: Space, dataset: Dataset, chunks: Chunks, name: str) -> Stored:
    """The chunks that have a part in a dataset, none twice, each with bytes of its own in the file."""
    grid = chunks.grid(dataset.space.shape)
    stored = _inside(_located(space, dataset, chunks, grid), grid)
    space.check_heap((ENTRY_COST + 16 * len(grid)) * len(stored.addresses), name)
    space.claim_all(stored.addresses, stored.sizes, "chunk")
    space.check_disjoint()
    return stored


def read_chunks(space: Space, dataset: Dataset, chunks: Chunks, stored: Stored, name: str) -> Any:
    """The array of a chunked dataset, writable."""
    found, whole = filled(dataset), space.source.map(0, space.source.size, repr(name))
    for address, size, mask, place in zip(*stored, strict=True):
        at = space.base + int(address)
        raw = whole[at : at + int(size)]
        begin = [int(index) * length for index, length in zip(place, chunks.shape, strict=True)]
        _put(found, _decoded(space, dataset, chunks, raw, int(mask), begin, at, repr(name)), begin)
    return found


def _put(whole: Any, chunk: Any, begin: list[int]) -> None:
    lengths = [min(size, length - start) for size, length, start in zip(chunk.shape, whole.shape, begin, strict=True)]
    inside = tuple(slice(start, start + length) for start, length in zip(begin, lengths, strict=True))
    whole[inside] = chunk[tuple(slice(length) for length in lengths)]


def _decoded(
    space: Space, dataset: Dataset, chunks: Chunks, raw: Any, mask: int, begin: list[int], at: int, field: str
) -> Any:  # uint8 (stored bytes,) -> stored dtype (*shape of chunks)
    edge = any(s + c > n for s, c, n in zip(begin, chunks.shape, dataset.space.shape, strict=True))
    filters = () if edge and chunks.whole_edges else dataset.filters
    found = unfiltered(space, raw, filters, mask, chunks.nbytes, at, field)
    return np.ascontiguousarray(found).view(dataset.datatype.stored).reshape(chunks.shape)


def _inside(stored: Stored, grid: tuple[int, ...]) -> Stored:
    """The chunks that have a part in the dataset."""
    kept = (stored.places < np.array(grid, np.uint64)).all(axis=1)
    return Stored(*(part[kept] for part in stored))


def _located(space: Space, dataset: Dataset, chunks: Chunks, grid: tuple[int, ...]) -> Stored:
    axes, filtered = len(grid), bool(dataset.filters)
    if chunks.address is None or not all(grid):
        return _gathered([], axes)
    if chunks.kind == NO_INDEX:
        return _tree_1(space, chunks, filtered, grid)
    if chunks.kind == TREE:
        return _tree_2(space, chunks, filtered)
    if chunks.kind == SINGLE:
        return _single(space, chunks, grid)
    extent = tuple(
        0 if most is None else -(-most // size) for most, size in zip(dataset.space.maximum, chunks.shape, strict=True)
    )
    parts = _Array(space, chunks, filtered, extent)
    if extent.count(0) != (1 if chunks.kind == EXTENSIBLE else 0):
        raise _wrong(
            parts, "an index does not suit the dataset", "one axis without limit, or none", dataset.space.maximum
        )
    if chunks.kind == IMPLICIT:
        return _implicit(parts, grid)
    found = _fixed(parts) if chunks.kind == FIXED else _extensible(parts, grid)
    return _entries(parts, found)


def _wrong(parts: _Array, what: str, expected: object, got: object) -> FormatError:
    return parts.space.broken(
        what, "hdf5.chunk-index", parts.space.base + (parts.chunks.address or 0), "chunk index", expected, got
    )


def _gathered(found: Iterable[int], axes: int) -> Stored:
    """Address, size, mask and place of one chunk after the other as arrays."""
    rows = np.fromiter(found, np.uint64).reshape(-1, 3 + axes)
    return Stored(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:])


def _column(rows: Any, begin: int, width: int) -> Any:  # uint8 (n, bytes) -> uint64 (n,)
    wide = np.zeros((len(rows), 8), np.uint8)
    wide[:, :width] = rows[:, begin : begin + width]
    return wide.view("<u8").reshape(-1).astype(np.uint64)


# --- single, implicit, trees ------------------------------------------------------------------------------------------------


def _single(space: Space, chunks: Chunks, grid: tuple[int, ...]) -> Stored:
    if math.prod(grid) != 1:
        at = space.base + (chunks.address or 0)
        raise space.broken(
            "a dataset is more than its single chunk", "hdf5.chunk-index", at, "single chunk", 1, math.prod(grid)
        )
    size, mask = chunks.single or (chunks.nbytes, 0)
    return _gathered((chunks.address or 0, size, mask, *(0 for _ in grid)), len(grid))


def _implicit(parts: _Array, grid: tuple[int, ...]) -> Stored:
    count, allocated = math.prod(grid), math.prod(parts.extent) * parts.chunks.nbytes
    if parts.filtered or allocated > parts.space.end:
        expected = f"at most {parts.space.end} bytes, not filtered"
        raise _wrong(parts, "implicit chunks do not fit", expected, f"{allocated} bytes")
    parts.space.check_heap((ENTRY_COST + 16 * len(grid)) * count, "implicit chunks")
    places = np.stack([axis.reshape(-1) for axis in np.indices(grid, np.uint64)], axis=1)
    index = np.zeros(count, np.uint64)
    for axis, length in enumerate(parts.extent):
        index = index * np.uint64(length) + places[:, axis]
    sizes = np.full(count, parts.chunks.nbytes, np.uint64)
    addresses = index * np.uint64(parts.chunks.nbytes) + np.uint64(parts.chunks.address or 0)
    return Stored(addresses, sizes, np.zeros(count, np.uint64), places)


def _tree_1(space: Space, chunks: Chunks, filtered: bool, grid: tuple[int, ...]) -> Stored:
    """The chunks of the grid that a version 1 tree has; a key is stored bytes, mask, offsets, and 0 for the element itself."""
    axes, address = len(chunks.shape), chunks.address or 0
    layout = struct.Struct(f"<II{axes + 1}Q")
    element = chunks.nbytes // math.prod(chunks.shape)

    def order(key: bytes) -> tuple[int, ...]:
        offsets = layout.unpack(key)[2:]
        steps = (*chunks.shape, element)
        if any(offset % step for offset, step in zip(offsets, steps, strict=True)):
            at = space.base + address
            raise space.broken(
                "a chunk is out of place", "hdf5.chunk-place", at, "chunk index", f"multiples of {steps}", offsets
            )
        return tuple(offset // step for offset, step in zip(offsets, steps, strict=True))

    found = array("Q")
    for child in children(space, address, 1, layout.size, space.chunk_k, order):
        size, mask, *_ = layout.unpack(child.low)
        place = order(child.low)
        if place[-1] or (not filtered and (size, mask) != (chunks.nbytes, 0)):
            at = space.base + child.address
            expected = f"{chunks.nbytes} bytes at a whole element" if not filtered else "a whole element"
            raise space.broken("a chunk's key is wrong", "hdf5.chunk-index", at, "chunk", expected, (size, mask, place))
        if all(index < most for index, most in zip(place, grid, strict=False)):
            found.extend((child.address, size, mask, *place[:-1]))
            space.check_heap(2 * len(found) * found.itemsize, "chunk index")
    return _gathered(found, axes)


def _tree_2(space: Space, chunks: Chunks, filtered: bool) -> Stored:
    axes, address, start = (
        len(chunks.shape),
        chunks.address or 0,
        space.offset_size + (chunks.width + 4 if filtered else 0),
    )
    size = start + 8 * axes
    raw = records(space, address, 11 if filtered else 10, size)
    rows = np.frombuffer(raw, np.uint8).reshape(-1, size)
    space.check_heap((ENTRY_COST + 16 * axes) * len(rows), "chunk index")
    places = np.stack([_column(rows, start + 8 * axis, 8) for axis in range(axes)], axis=1)
    if not _rising(places):
        at = space.base + address
        raise space.broken(
            "the chunks of a tree are out of order", "hdf5.tree-order", at, "chunk index", "rising offsets", "others"
        )
    return Stored(*_places(space, chunks, rows, filtered), places)


def _rising(rows: Any) -> bool:  # uint64 (n, axes)
    """Whether each row comes after the one before, compared from the first column on."""
    left, right = rows[:-1], rows[1:]
    first = (left != right).argmax(axis=1)
    picked = np.arange(len(first))
    return bool((left[picked, first] < right[picked, first]).all())


def _places(space: Space, chunks: Chunks, rows: Any, filtered: bool) -> tuple[Any, Any, Any]:
    """Addresses, stored bytes and masks of the entries of an index, which begin with them."""
    addresses = _column(rows, 0, space.offset_size)
    if not filtered:
        return addresses, np.full(len(rows), chunks.nbytes, np.uint64), np.zeros(len(rows), np.uint64)
    begin = space.offset_size
    return addresses, _column(rows, begin, chunks.width), _column(rows, begin + chunks.width, 4)


# --- arrays -----------------------------------------------------------------------------------------------------------------


def _entries(parts: _Array, found: Iterator[tuple[int, bytes]]) -> Stored:
    """The chunks of blocks of entries, each with the number of its first entry."""
    undefined = (1 << 8 * parts.space.offset_size) - 1
    blocks = [_gathered([], len(parts.extent))]
    for numbers, raw in _batches(found, parts.entry):
        rows = np.frombuffer(raw, np.uint8).reshape(-1, parts.entry)
        addresses, sizes, masks = _places(parts.space, parts.chunks, rows, parts.filtered)
        kept = np.flatnonzero(addresses != undefined)
        if len(kept):
            parts.space.charge(BATCH_COST + (ENTRY_COST + 16 * len(parts.extent)) * len(kept), "chunk index")
            places = _unravelled(parts, numbers[kept])
            blocks.append(Stored(addresses[kept], sizes[kept], masks[kept], places))
    return Stored(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _batches(found: Iterator[tuple[int, bytes]], entry: int) -> Iterator[tuple[Any, bytes]]:
    """The same entries, small blocks together and large ones in parts, with the number of each: uint64 (n,)."""
    firsts, parts, count = [], list[memoryview](), 0
    for first, raw in found:
        view = memoryview(raw)
        for begin in range(0, len(raw) // entry, AT_A_TIME):
            firsts.append(first + begin)
            parts.append(view[begin * entry : (begin + AT_A_TIME) * entry])
            count += len(parts[-1]) // entry
            if count >= AT_A_TIME or len(parts) == BLOCKS_AT_A_TIME:
                yield _numbered(firsts, parts, entry), b"".join(parts)
                firsts, parts, count = [], [], 0
    if parts:
        yield _numbered(firsts, parts, entry), b"".join(parts)


def _numbered(firsts: list[int], parts: list[memoryview], entry: int) -> Any:  # -> uint64 (n,)
    """The numbers of entries in blocks whose first has the number given."""
    counts = np.array([len(part) // entry for part in parts])
    ends = np.cumsum(counts)
    within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    return np.repeat(np.array(firsts, np.uint64), counts) + within.astype(np.uint64)


def _unravelled(parts: _Array, index: Any) -> Any:  # uint64 (n,) -> uint64 (n, axes)
    """Places from numbers of chunks; the axis without limit, if there is one, changes slowest."""
    axes = sorted(range(len(parts.extent)), key=lambda axis: (parts.extent[axis] != 0, axis))
    places = np.zeros((len(index), len(axes)), np.uint64)
    for axis in reversed(axes[1:]):
        index, places[:, axis] = np.divmod(index, np.uint64(parts.extent[axis]))
    places[:, axes[0]] = index
    return places


def _header(parts: _Array, signature: bytes, size: int) -> tuple[Fields, int]:
    """The header of an array, up to its own fields."""
    fields = parts.space.checked(parts.chunks.address or 0, size, "chunk index")
    fields.signature(signature)
    fields.version(0)
    client, entry = fields.unsigned(1), fields.unsigned(1)
    if client != parts.filtered or entry != parts.entry:
        expected = f"client {int(parts.filtered)}, entries of {parts.entry} bytes"
        raise _wrong(parts, "an index is for other chunks", expected, f"client {client}, {entry} bytes")
    return fields, entry


def _block(parts: _Array, fields: Fields, signature: bytes) -> None:
    """The start of a block of an array, which must belong to this one."""
    fields.signature(signature)
    fields.version(0)
    client, owner = fields.unsigned(1), fields.address()
    if client != parts.filtered or owner != parts.chunks.address:
        expected = f"client {int(parts.filtered)}, header at {parts.chunks.address}"
        raise _wrong(parts, "a block belongs to another index", expected, f"client {client}, header {owner}")


def _pages(
    parts: _Array, address: int, count: int, page: int, bits: bytes, skip: int = 0
) -> Iterator[tuple[int, bytes]]:
    """The entries of a block's pages that are in use, each page with its checksum; the block's first bit is number `skip`."""
    for i in _set_bits(bits, skip, -(-count // page)):
        length = min(page, count - i * page) * parts.entry
        fields = parts.space.checked(address + i * (page * parts.entry + 4), length + 4, "page of a chunk index")
        yield i * page, fields.take(length)


def _set_bits(bits: bytes, skip: int, count: int) -> Iterator[int]:
    """Which of `count` bits from `skip` on are set, counted from there; the first bit of a byte is the highest."""
    end = -(-(skip + count) // 8)
    for start in range(skip // 8, end, 4096):
        block = np.unpackbits(np.frombuffer(bits, np.uint8, min(4096, end - start), start))
        for i in np.flatnonzero(block).tolist():
            if skip <= start * 8 + i < skip + count:
                yield start * 8 + i - skip


def _fixed(parts: _Array) -> Iterator[tuple[int, bytes]]:
    space = parts.space
    fields, entry = _header(parts, b"FAHD", 8 + space.length_size + space.offset_size + 4)
    bits, count, address = fields.unsigned(1), fields.length(), fields.address()
    if count != math.prod(parts.extent) or bits > 32:
        raise _wrong(parts, "a fixed array has a wrong number of entries", math.prod(parts.extent), count)
    if address is None:
        return
    prefix, page = 6 + space.offset_size, 1 << bits
    if count <= page:
        block = space.checked(address, prefix + count * entry + 4, "chunk index")
        _block(parts, block, b"FADB")
        yield 0, block.take(count * entry)
        return
    mapped = (-(-count // page) + 7) // 8
    block = space.checked(address, prefix + mapped + 4, "chunk index")
    _block(parts, block, b"FADB")
    yield from _pages(parts, address + prefix + mapped + 4, count, page, block.take(mapped))


class _Growth(NamedTuple):
    """How an extensible array grows: block u of the second level has 2^(u/2) data blocks of 2^((u+1)/2) times the least entries."""

    bits: int  # of the number of an entry
    direct: int  # entries in the index block itself
    least: int  # entries of a data block
    pointers: int  # data blocks of the first second-level block that is not in the index block
    page: int  # bits of the number of an entry in a page

    @property
    def inner(self) -> int:
        """Blocks of the second level whose data blocks the index block has itself."""
        return 2 * (self.pointers.bit_length() - 1)

    @property
    def levels(self) -> int:
        """Blocks of the second level, in all."""
        return 1 + self.bits - (self.least.bit_length() - 1)

    def blocks(self, level: int) -> tuple[int, int]:
        """Data blocks of a second-level block, and entries of each."""
        return 1 << level // 2, self.least << (level + 1) // 2


def _growth(parts: _Array, fields: Fields) -> _Growth:
    bits, direct, least, pointers, page = (fields.unsigned(1) for _ in range(5))
    growth = _Growth(bits, direct, least, pointers, page)
    powers = all(value and value & (value - 1) == 0 for value in (least, pointers))
    if not powers or bits > 63 or least > 1 << bits or least << growth.inner // 2 > 1 << page:
        raise _wrong(parts, "an extensible array cannot grow like that", "powers of two that fit", tuple(growth))
    if (bits, direct, pointers, least, page) != parts.chunks.parameters:
        raise _wrong(parts, "an extensible array is not what the dataset says", parts.chunks.parameters, tuple(growth))
    return growth


def _extensible(parts: _Array, grid: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    space = parts.space
    fields, entry = _header(parts, b"EAHD", 12 + 6 * space.length_size + space.offset_size + 4)
    growth = _growth(parts, fields)
    for _ in range(6):
        fields.length()
    address = fields.address()
    if address is None:
        return
    near, far = 2 * (growth.pointers - 1), max(0, growth.levels - growth.inner)
    size = 6 + space.offset_size + growth.direct * entry + (near + far) * space.offset_size + 4
    index = space.checked(address, size, "chunk index")
    _block(parts, index, b"EAIB")
    yield 0, index.take(growth.direct * entry)
    needed = math.prod(length for length, most in zip(grid, parts.extent, strict=True) if not most) * math.prod(
        most for most in parts.extent if most
    )
    first = growth.direct
    for level in range(growth.levels):
        count, entries = growth.blocks(level)
        if first >= needed:
            return
        if level < growth.inner:
            for _ in range(count):
                yield from _data_block(parts, growth, index.address(), first, entries)
                first += entries
        else:
            yield from _second_level(parts, growth, index.address(), first, count, entries)
            first += count * entries


def _second_level(
    parts: _Array, growth: _Growth, address: int | None, first: int, count: int, entries: int
) -> Iterator[tuple[int, bytes]]:
    if address is None:
        return
    space, width = parts.space, (growth.bits + 7) // 8
    pages = entries >> growth.page if entries > 1 << growth.page else 0
    mapped = (pages + 7) // 8
    size = 6 + space.offset_size + width + count * mapped + count * space.offset_size + 4
    fields = space.checked(address, size, "chunk index")
    _block(parts, fields, b"EASB")
    begin = fields.unsigned(width)
    if begin != first - growth.direct:
        raise _wrong(parts, "a block belongs to another place", first - growth.direct, begin)
    bits = (
        fields.take(count * mapped) if mapped else None
    )  # whole bytes for each block, but the bits follow one another
    for i in range(count):
        yield from _data_block(parts, growth, fields.address(), first, entries, bits, i * pages)
        first += entries


def _data_block(
    parts: _Array,
    growth: _Growth,
    address: int | None,
    first: int,
    entries: int,
    bits: bytes | None = None,
    skip: int = 0,
) -> Iterator[tuple[int, bytes]]:
    if address is None:
        return
    space, width = parts.space, (growth.bits + 7) // 8
    prefix = 6 + space.offset_size + width
    length = 0 if bits is not None else entries * parts.entry
    fields = space.checked(address, prefix + length + 4, "chunk index")
    _block(parts, fields, b"EADB")
    fields.take(
        width
    )  # where the block begins: the HDF5 library writes another number where the index block has the address
    if bits is None:
        yield first, fields.take(length)
        return
    for start, raw in _pages(parts, address + prefix + 4, entries, 1 << growth.page, bits, skip):
        yield first + start, raw
