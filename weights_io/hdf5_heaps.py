"""HDF5's three heaps: local (the names of an old group), global (text of variable length), fractal (what a new group or object has much of).

    HEAP local heap: a data segment with names that end in NUL
    GCOL collection of the global heap: numbered objects, one after the other
    FRHP fractal heap: a doubling table of blocks; its objects are known by an identifier that has their offset and length

Reference: HDF5 File Format Specification, version 3.0, sections III.D, E and G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from weights_io.hdf5_bytes import Fields, Space, lookup3
from weights_io.hdf5_trees import records

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RULES", "FractalHeap", "LocalHeap", "global_object"]

RULES = {
    "hdf5.fractal-heap": "A fractal heap is a doubling table of blocks, and its objects lie in them.",
    "hdf5.fractal-heap-filters": "A fractal heap is not compressed.",
    "hdf5.global-heap": "A collection of the global heap has numbered objects, one after the other; text names one of its own length.",
    "hdf5.local-heap": "A name in a local heap ends with a NUL, after at most 65535 bytes; the list of free parts is in the heap.",
}
MAX_NAME = 65535  # bytes of a link's name
LEAST = 4096  # bytes of a collection of the global heap
OBJECT_COST = 200  # bytes of objects that the place of one heap object takes
CHILD_COST = 40  # bytes of objects that the address of one block takes


# --- local ------------------------------------------------------------------------------------------------------------------


class LocalHeap:
    """The names of an old group."""

    def __init__(self, space: Space, address: int) -> None:
        fields = space.fields(address, 8 + 2 * space.length_size + space.offset_size, "local heap")
        fields.signature(b"HEAP")
        fields.version(0)
        fields.take(3)
        size, free, start = fields.length(), fields.length(), fields.defined()
        self._segment = space.fields(start, size, "names of a local heap")
        self._raw = self._segment.take(size)  # all of it, which is no copy
        self._check_free(free, space.length_size)

    def _check_free(self, offset: int, width: int) -> None:
        """The list of free parts, of which each has the next one's offset and its own size, lies in the heap; 1 ends it."""
        left = len(self._raw) // (2 * width)
        while offset != 1:
            following = int.from_bytes(self._raw[offset : offset + width], "little")
            size = int.from_bytes(self._raw[offset + width : offset + 2 * width], "little")
            left -= 1
            if left < 0 or following == 0 or size < 2 * width or offset + size > len(self._raw):
                got = f"{size} bytes at {offset}, then {following}"
                raise self._segment.broken(
                    "a list of free space is wrong", "hdf5.local-heap", "parts within the heap", got
                )
            offset = following

    def name(self, offset: int) -> bytes:
        """The bytes from `offset` to the next NUL."""
        end = self._raw.find(b"\0", offset, offset + MAX_NAME + 1)
        if offset >= len(self._raw) or end < 0:
            expected = f"a NUL in {len(self._raw)} bytes of names, at most {MAX_NAME} after its begin"
            raise self._segment.broken(
                "a name is not in its heap", "hdf5.local-heap", expected, f"none after byte {offset}"
            )
        return self._raw[offset:end]


# --- global -----------------------------------------------------------------------------------------------------------------


def global_object(where: Fields, address: int | None, index: int, length: int) -> bytes:
    """The object of that number in the collection at `address`, which must have that length."""
    if address is None:
        raise where.broken("text is nowhere", "hdf5.global-heap", "an address", "all bits set")
    if address not in where.space.collections:
        where.space.collections[address] = _collection(where.space, address)
    raw, places = where.space.collections[address]
    begin, size = places.get(index, (0, None))
    if size != length:
        expected = f"object {index} of {length} bytes"
        got = "no such object" if size is None else f"{size} bytes"
        raise where.broken("text is not in the global heap", "hdf5.global-heap", expected, got)
    found: bytes = raw[begin : begin + length]
    return found


def _collection(space: Space, address: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """A collection's bytes, and where in them its objects are: number -> begin and length."""
    prefix = 8 + space.length_size + -space.length_size % 8  # of the collection, and of each object
    start = Fields(space, space.read(address, prefix, "global heap"), space.base + address, "global heap")
    start.signature(b"GCOL")
    start.version(1)
    start.take(3)
    size = start.length()
    if size < LEAST:
        raise start.broken(
            "a collection of the global heap is too small", "hdf5.global-heap", f"at least {LEAST} bytes", size
        )
    space.claim(address, size, "global heap")
    space.charge(size, "global heap")
    raw, places = space.read(address, size, "global heap"), {}
    fields = Fields(space, raw, space.base + address, "global heap")
    fields.skip(prefix)
    while fields.left >= prefix:
        index, _, length = fields.unsigned(2), fields.take(6), fields.length()
        fields.take(-space.length_size % 8)
        if index == 0:  # free space, to the end
            break
        if index in places:
            raise fields.broken(
                "two objects of a collection have one number", "hdf5.global-heap", "one", f"a second {index}"
            )
        places[index] = (size - fields.left, length)
        fields.skip(length + -length % 8)
        space.charge(OBJECT_COST, "global heap")
    return raw, places


# --- fractal ----------------------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """The doubling table: row 0 and 1 have blocks of `start` bytes, each later row blocks twice as large, `width` blocks a row."""

    width: int
    start: int
    largest: int  # bytes of the largest direct block
    bits: int  # of an offset in the heap

    @property
    def direct_rows(self) -> int:
        """Rows of direct blocks; later rows are of indirect ones."""
        return self.largest.bit_length() - self.start.bit_length() + 2

    def row(self, offset: int) -> tuple[int, int, int]:
        """The row in which `offset` lies, the size of its blocks, and where the row begins."""
        row = (offset // (self.start * self.width)).bit_length()
        size = self.start << max(row - 1, 0)
        return row, size, size * self.width if row else 0

    def rows(self, size: int) -> int:
        """Rows of an indirect block for `size` bytes of the heap."""
        return size.bit_length() - (self.start * self.width).bit_length() + 1


class FractalHeap:
    """The heap of a group's links or of an object's attributes."""

    def __init__(self, space: Space, address: int) -> None:
        self.space, self.address = space, address
        fields = space.checked(address, 22 + 12 * space.length_size + 3 * space.offset_size + 4, "fractal heap")
        fields.signature(b"FRHP")
        fields.version(0)
        self._id_length, filters, self._flags = fields.unsigned(2), fields.unsigned(2), fields.unsigned(1)
        if filters:
            raise fields.unread(
                "a fractal heap is compressed", "hdf5.fractal-heap-filters", "no filters", f"{filters} bytes of them"
            )
        self._most = fields.unsigned(4)
        fields.length()
        self._huge_tree = fields.address()
        fields.length()
        fields.address()
        self._managed_space = fields.length()
        for _ in range(7):
            fields.length()
        self._table, self._root, self._rows = self._read_table(fields)
        self._offset_size = (self._table.bits + 7) // 8
        largest = (self._table.largest.bit_length() - 1 + 7) // 8
        self._length_size = min(largest, (self._most.bit_length() - 1) // 8 + 1 if self._most else 1)
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._children: dict[tuple[int, int], list[int | None]] = {}
        self._huge: dict[int, tuple[int, int]] | None = None
        self._used = 0  # bytes of the managed objects that were read

    def _read_table(self, fields: Fields) -> tuple[_Table, int | None, int]:
        width, start, largest = fields.unsigned(2), fields.length(), fields.length()
        bits, _, root, rows = fields.unsigned(2), fields.unsigned(2), fields.address(), fields.unsigned(2)
        good = all(value and value & (value - 1) == 0 for value in (width, start, largest))
        if not good or start > largest or largest > 1 << 32 or bits > 64 or start * width > 1 << bits:
            got = f"{width} blocks of {start} to {largest} bytes, {bits} bits"
            raise fields.broken("a fractal heap's table is wrong", "hdf5.fractal-heap", "powers of two that fit", got)
        table = _Table(width, start, largest, bits)
        if rows > table.rows(1 << bits):
            raise fields.broken(
                "a fractal heap has too many rows", "hdf5.fractal-heap", f"at most {table.rows(1 << bits)}", rows
            )
        return table, root, rows

    def get(self, identifier: bytes, field: object) -> Fields:
        """A cursor over the object with that identifier."""
        fields = Fields(self.space, identifier, self.space.base + self.address, field)
        if len(identifier) != self._id_length:
            expected = f"identifiers of {len(identifier)} bytes"
            raise fields.broken("a fractal heap is of another kind", "hdf5.fractal-heap", expected, self._id_length)
        first = fields.unsigned(1)
        if first >> 6:
            raise fields.unread("a structure is of a version that is not read", "hdf5.version", "version 0", first >> 6)
        kind = first >> 4 & 3
        if kind == 0:
            return self._managed(fields)
        if kind == 1:
            return self._found_huge(fields)
        if kind == 2:
            return self._tiny(fields, first)
        raise fields.broken("a heap object is of no known kind", "hdf5.fractal-heap", "0, 1 or 2", kind)

    def _tiny(self, fields: Fields, first: int) -> Fields:
        """An object that is its own identifier."""
        length = first & 15
        if self._id_length > 18:
            length = length << 8 | fields.unsigned(1)
        return fields.part(length + 1)

    def _found_huge(self, fields: Fields) -> Fields:
        """An object that has a place of its own in the file."""
        width = self.space.offset_size + self.space.length_size
        if self._id_length - 1 >= width:
            return self.space.fields(fields.defined(), fields.length(), fields.field)
        if self._huge is None:
            self._huge = dict(self._huge_places(fields))
        key = fields.unsigned(min(8, self._id_length - 1))
        if key not in self._huge:
            raise fields.broken(
                "a large heap object is nowhere", "hdf5.fractal-heap", "a place in the heap's tree", f"none for {key}"
            )
        return self.space.fields(*self._huge[key], fields.field)

    def _huge_places(self, fields: Fields) -> Iterator[tuple[int, tuple[int, int]]]:
        if self._huge_tree is None:
            raise fields.broken(
                "a fractal heap has no tree of large objects", "hdf5.fractal-heap", "an address", "all bits set"
            )
        size = self.space.offset_size + 2 * self.space.length_size
        raw = records(self.space, self._huge_tree, 1, size)
        self.space.charge(OBJECT_COST * (len(raw) // size), "fractal heap")
        for i in range(0, len(raw), size):
            record = Fields(self.space, raw[i : i + size], self.space.base + self._huge_tree, "fractal heap")
            address, length, key = record.defined(), record.length(), record.length()
            yield key, (address, length)

    def _managed(self, fields: Fields) -> Fields:
        """An object in one of the heap's blocks."""
        offset, length = fields.unsigned(self._offset_size), fields.unsigned(self._length_size)
        if offset + length > self._managed_space:
            got = f"bytes {offset} to {offset + length}"
            raise fields.broken(
                "a heap object is after its heap", "hdf5.fractal-heap", f"{self._managed_space} bytes", got
            )
        self._used += length
        if self._used > self._managed_space:  # each is read once: names are unique
            got = f"{self._used} bytes or more"
            raise fields.broken(
                "the objects of a heap overlap", "hdf5.fractal-heap", f"at most {self._managed_space} bytes", got
            )
        address, size, begin = self._place(fields, offset)
        block = self._block(address, size, begin)
        header = 5 + self.space.offset_size + self._offset_size + (4 if self._flags & 2 else 0)
        inside = offset - begin
        if not 0 < length <= self._most or inside < header or inside + length > size:
            got = f"bytes {inside} to {inside + length}"
            raise fields.broken(
                "a heap object is not in its block", "hdf5.fractal-heap", f"within bytes {header} to {size}", got
            )
        return Fields(self.space, block[inside : inside + length], self.space.base + address + inside, fields.field)

    def _place(self, fields: Fields, offset: int) -> tuple[int, int, int]:
        """The direct block in which `offset` lies: its address, its size, and where in the heap it begins."""
        table, address, rows, begin = self._table, self._root, self._rows, 0
        if rows == 0 and address is not None and offset < table.start:
            return address, table.start, 0
        while address is not None and rows:
            row, size, row_begin = table.row(offset - begin)
            if row >= rows:
                break
            column = (offset - begin - row_begin) // size
            address = self._indirect(address, rows, begin)[row * table.width + column]
            begin += row_begin + column * size
            if row < table.direct_rows and address is not None:
                return address, size, begin
            rows = table.rows(size)
        raise fields.broken("a heap object is in no block", "hdf5.fractal-heap", "an offset within the blocks", offset)

    def _indirect(self, address: int, rows: int, begin: int) -> list[int | None]:
        """The addresses of the blocks that an indirect block has."""
        if (address, begin) not in self._children:
            space, count = self.space, rows * self._table.width
            size = 5 + space.offset_size + self._offset_size + count * space.offset_size + 4
            fields = space.checked(address, size, "indirect block of a fractal heap")
            self._prefix(fields, b"FHIB", begin)
            space.charge(OBJECT_COST + CHILD_COST * count, "fractal heap")
            self._children[address, begin] = [fields.address() for _ in range(count)]
        return self._children[address, begin]

    def _block(self, address: int, size: int, begin: int) -> bytes:
        """The bytes of a direct block."""
        if (address, begin) not in self._blocks:
            field, place = "direct block of a fractal heap", 5 + self.space.offset_size + self._offset_size
            self.space.claim(address, size, field)
            self.space.charge(OBJECT_COST + size, field)
            raw = self.space.read(address, size, field)
            fields = Fields(self.space, raw, self.space.base + address, field)
            self._prefix(fields, b"FHDB", begin)
            if self._flags & 2:  # the checksum is that of the block with zeros in its place
                zeroed = bytearray(raw)
                zeroed[place : place + 4] = bytes(4)
                fields.check_sum(lookup3(memoryview(zeroed)), int.from_bytes(raw[place : place + 4], "little"))
            self._blocks[address, begin] = raw
        return self._blocks[address, begin]

    def _prefix(self, fields: Fields, signature: bytes, begin: int) -> None:
        fields.signature(signature)
        fields.version(0)
        heap, offset = fields.address(), fields.unsigned(self._offset_size)
        if (heap, offset) != (self.address, begin):
            expected = f"heap {self.address}, offset {begin}"
            raise fields.broken(
                "a block belongs to another place", "hdf5.fractal-heap", expected, f"heap {heap}, offset {offset}"
            )
