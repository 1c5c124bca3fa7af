"""HDF5's bytes: addresses within the file, cursors over structures, checksums, and the ledger of what has been read.

Addresses in an HDF5 file count from its base address, and are as wide as its superblock says; all bits set means "nowhere". Every structure is
read through a `Space`, which refuses what lies outside the file and enters the rest in a ledger: structures never overlap, so none is read
twice, cycles end, and all of them together are no longer than the file.

Reference: HDF5 File Format Specification, version 3.0, sections II and V; the checksums are Bob Jenkins' lookup3 and HDF5's Fletcher-32.
"""

from __future__ import annotations

from array import array
from struct import unpack
from typing import TYPE_CHECKING, Any

import numpy as np

from weights_io.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from struct import Struct

    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["RULES", "Fields", "Space", "fletcher32", "lookup3"]

RULES = {
    "hdf5.address": "Every address lies before the end of the file that the superblock announces.",
    "hdf5.checksum": "The checksum of a structure is that of its bytes.",
    "hdf5.overlap": "No two structures share bytes.",
    "hdf5.short": "A structure holds all of its fields.",
    "hdf5.signature": "A structure begins with its signature.",
    "hdf5.version": "A structure is of a version that is read.",
}
MASK = 0xFFFFFFFF
BLOCK = 12 << 10  # bytes that a checksum takes at a time


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & MASK


def lookup3(data: bytes | memoryview) -> int:
    """The checksum of HDF5's metadata: Bob Jenkins' lookup3 ("hashlittle") of `data`, begun with 0."""
    tail = len(data) - ((len(data) - 1) // 12) * 12 if data else 0
    state = ((0xDEADBEEF + len(data)) & MASK,) * 3
    for start in range(0, len(data) - tail, BLOCK):
        state = _mixed(*state, _words(data[start : min(start + BLOCK, len(data) - tail)]))
    return _finished(*state, bytes(data[len(data) - tail :]))


def _words(data: bytes | memoryview) -> tuple[int, ...]:
    """Little-endian numbers of four bytes."""
    return unpack(f"<{len(data) // 4}I", data)


def _mixed(a: int, b: int, c: int, words: tuple[int, ...]) -> tuple[int, int, int]:
    """lookup3's state after some words, three at a time."""
    for i in range(0, len(words), 3):
        a, b, c = (a + words[i]) & MASK, (b + words[i + 1]) & MASK, (c + words[i + 2]) & MASK
        a = ((a - c) ^ (c << 4 | c >> 28)) & MASK
        c = (c + b) & MASK
        b = ((b - a) ^ (a << 6 | a >> 26)) & MASK
        a = (a + c) & MASK
        c = ((c - b) ^ (b << 8 | b >> 24)) & MASK
        b = (b + a) & MASK
        a = ((a - c) ^ (c << 16 | c >> 16)) & MASK
        c = (c + b) & MASK
        b = ((b - a) ^ (a << 19 | a >> 13)) & MASK
        a = (a + c) & MASK
        c = ((c - b) ^ (b << 4 | b >> 28)) & MASK
        b = (b + a) & MASK
    return a, b, c


def _finished(a: int, b: int, c: int, tail: bytes) -> int:
    """lookup3's last step: at most twelve bytes, padded with zeros."""
    if not tail:
        return c
    words = _words(tail.ljust(12, b"\0"))
    a, b, c = (a + words[0]) & MASK, (b + words[1]) & MASK, (c + words[2]) & MASK
    c = ((c ^ b) - _rotated(b, 14)) & MASK
    a = ((a ^ c) - _rotated(c, 11)) & MASK
    b = ((b ^ a) - _rotated(a, 25)) & MASK
    c = ((c ^ b) - _rotated(b, 16)) & MASK
    a = ((a ^ c) - _rotated(c, 4)) & MASK
    b = ((b ^ a) - _rotated(a, 14)) & MASK
    return ((c ^ b) - _rotated(b, 24)) & MASK


def _folded(total: int) -> int:
    """`total` modulo 65535, where only 0 itself is 0."""
    return (total - 1) % 65535 + 1 if total else 0


def fletcher32(data: Any) -> int:  # uint8 (n,)
    """HDF5's Fletcher-32: sums of big-endian 16-bit words modulo 65535; an odd last byte is the upper half of a word."""
    first = second = 0
    for start in range(0, len(data), 1 << 16):  # 2^15 words: the weighted sum stays below 2^46
        block = np.asarray(data[start : start + (1 << 16)], np.uint8)
        words = np.concatenate([block, np.zeros(len(block) % 2, np.uint8)]).view(">u2").astype(np.int64)
        second += len(words) * first + int(words @ np.arange(len(words), 0, -1))
        first += int(words.sum())
    return _folded(second) << 16 | _folded(first)


class Space:
    """The address space of an HDF5 file, and the ledger of the structures that were read from it.

    Attributes
    ----------
    base : where addresses count from, a byte of the file
    end : the first byte of the file that belongs to it no more
    offset_size, length_size : bytes of an address, and of a length
    leaf_k, internal_k, chunk_k : half the most entries of a symbol table node, of a group's tree node and of a chunk tree's node
    """

    def __init__(self, source: Source, limits: Limits, base: int = 0) -> None:
        self.source, self.limits, self.base, self.end = source, limits, base, source.size
        self.offset_size = self.length_size = 8
        self.leaf_k, self.internal_k, self.chunk_k = 4, 16, 32
        self._starts, self._lengths, self._claimed, self._cost = array("Q"), array("Q"), 0, 0
        self.collections: dict[int, Any] = {}  # global heap collections that were read, by address
        self.committed: dict[int, Any] = {}  # committed datatypes that were read, by address

    @property
    def claimed(self) -> int:
        """Bytes of the structures in the ledger."""
        return self._claimed

    def again(self, claimed: int = 0) -> Space:
        """The same space with an empty ledger, of which `claimed` bytes are taken already: to read one object once more."""
        space = Space(self.source, self.limits, self.base)
        space.end, space.offset_size, space.length_size = self.end, self.offset_size, self.length_size
        space.leaf_k, space.internal_k, space.chunk_k = self.leaf_k, self.internal_k, self.chunk_k
        space._claimed = claimed
        return space

    def broken(
        self, what: str, rule: str, at: int, field: object, expected: object = None, got: object = None
    ) -> FormatError:
        """A FormatError at byte `at` of the file."""
        return FormatError(what, rule=rule, where=self.source.path, offset=at, field=field, expected=expected, got=got)

    def check(self, address: int, length: int, field: object) -> None:
        """Raise FormatError unless `length` bytes at `address` are within the file."""
        begin = self.base + address
        if begin + length > self.end:
            end = f"at most byte {self.end}, where the file ends"
            raise self.broken(
                "an address leads out of the file", "hdf5.address", begin, field, end, f"up to byte {begin + length}"
            )

    def claim(self, address: int, length: int, field: object) -> None:
        """Enter a structure in the ledger; FormatError if all of them are longer than the file, and so overlap."""
        self.check(address, length, field)
        self._starts.append(self.base + address)
        self._lengths.append(length)
        self._claimed += length
        if self._claimed > self.end:
            got = f"{self._claimed} bytes or more"
            raise self.broken(
                "structures overlap",
                "hdf5.overlap",
                self.base + address,
                field,
                f"at most {self.end} bytes of structures",
                got,
            )

    def claim_all(self, addresses: Any, lengths: Any, field: object) -> None:  # uint64 (n,), uint64 (n,)
        """`claim` for many structures at once."""
        if not len(addresses):
            return
        for i in (int(addresses.argmax()), int(lengths.argmax())):
            self.check(int(addresses[i]), int(lengths[i]), field)
        i = int((addresses + lengths).argmax())
        self.claim(int(addresses[i]), int(lengths[i]), field)
        others = np.arange(len(addresses)) != i
        self._starts.frombytes((addresses[others] + np.uint64(self.base)).tobytes())
        self._lengths.frombytes(lengths[others].tobytes())
        self._claimed += int(lengths[others].sum())
        self.claim(0, 0, field)

    def check_disjoint(self) -> None:
        """Raise FormatError if any two structures of the ledger share a byte."""
        starts, lengths = np.frombuffer(self._starts, np.uint64), np.frombuffer(self._lengths, np.uint64)
        order = np.argsort(starts[lengths > 0], kind="stable")
        starts, lengths = starts[lengths > 0][order], lengths[lengths > 0][order]
        wrong = np.flatnonzero(starts[:-1] + lengths[:-1] > starts[1:])
        if wrong.size:
            left, right, length = (int(value[wrong[0] + i]) for value, i in ((starts, 0), (starts, 1), (lengths, 0)))
            raise self.broken(
                "structures overlap",
                "hdf5.overlap",
                right,
                None,
                f"nothing before byte {left + length}",
                f"byte {right}",
            )

    def charge(self, cost: int, field: object) -> None:
        """Count `cost` bytes of objects that stay; FormatError (budget.heap) if they become too many."""
        self._cost += cost
        self.limits.check_heap(self._cost, self.source.size, self.source.path, field)

    def check_heap(self, cost: int, field: object) -> None:
        """Raise FormatError (budget.heap) if there is no room for `cost` bytes of objects that go again."""
        self.limits.check_heap(self._cost + cost, self.source.size, self.source.path, field)

    def read(self, address: int, length: int, field: object) -> bytes:
        """`length` bytes at `address`, not entered in the ledger."""
        self.check(address, length, field)
        self.check_heap(length, field)
        return self.source.read(self.base + address, length, field)

    def fields(self, address: int, length: int, field: object) -> Fields:
        """A cursor over a structure of `length` bytes."""
        self.claim(address, length, field)
        return Fields(self, self.read(address, length, field), self.base + address, field)

    def checked(self, address: int, length: int, field: object) -> Fields:
        """A cursor over a structure of `length` bytes whose last four are the checksum of the others, which is verified."""
        fields = self.fields(address, max(length, 4), field)
        return fields.checked()


class Fields:
    """A cursor over the bytes of one structure: every field is there, or the file is refused.

    Attributes
    ----------
    space : the file's address space
    field : what the structure is, for messages
    """

    __slots__ = ("_end", "_place", "_raw", "_start", "field", "space")

    def __init__(self, space: Space, raw: bytes, start: int, field: object, end: int | None = None) -> None:
        self.space, self._raw, self._start, self._place, self.field = space, raw, start, 0, field
        self._end = len(raw) if end is None else end

    @property
    def at(self) -> int:
        """The byte of the file at which the next field begins."""
        return self._start + self._place

    @property
    def size(self) -> int:
        """Bytes of the structure."""
        return len(self._raw)

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self._end - self._place

    def broken(self, what: str, rule: str, expected: object = None, got: object = None) -> FormatError:
        """A FormatError at this place."""
        return self.space.broken(what, rule, self.at, self.field, expected, got)

    def unread(
        self, what: str, rule: str, expected: object = None, got: object = None, remedy: str | None = None
    ) -> UnsupportedError:
        """An UnsupportedError at this place."""
        return UnsupportedError(
            what,
            rule=rule,
            where=self.space.source.path,
            offset=self.at,
            field=self.field,
            expected=expected,
            got=got,
            remedy=remedy,
        )

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        begin = self.skip(length)
        return self._raw[begin : self._place]

    def view(self, length: int) -> memoryview:
        """The next `length` bytes, not copied."""
        begin = self.skip(length)
        return memoryview(self._raw)[begin : self._place]

    def skip(self, length: int) -> int:
        """Leave out the next `length` bytes; where among the structure's they begin."""
        begin = self._place
        if begin + length > self._end:
            raise self.broken(
                "a structure ends before its fields do", "hdf5.short", f"{length} bytes", f"{self.left} bytes"
            )
        self._place = begin + length
        return begin

    def unsigned(self, width: int) -> int:
        """The next `width` bytes as a number."""
        return int.from_bytes(self.take(width), "little")

    def numbers(self, form: Struct) -> tuple[int, ...]:
        """The next numbers, as `form` packs them."""
        return form.unpack_from(self._raw, self.skip(form.size))

    def length(self) -> int:
        """The next number of the width of lengths."""
        return self.unsigned(self.space.length_size)

    def address(self) -> int | None:
        """The next address; None for the one that is nowhere."""
        width = self.space.offset_size
        value = self.unsigned(width)
        return None if value == (1 << 8 * width) - 1 else value

    def defined(self) -> int:
        """The next address, which must be somewhere."""
        address = self.address()
        if address is None:
            raise self.broken(
                "an address is undefined where one is needed", "hdf5.address", "an address", "all bits set"
            )
        return address

    def signature(self, expected: bytes) -> None:
        """The next four bytes must be `expected`."""
        got = self.take(len(expected))
        if got != expected:
            raise self.broken("a structure has a wrong signature", "hdf5.signature", repr(expected), repr(got))

    def version(self, *known: int) -> int:
        """The next byte, which must be one of `known`."""
        got = self.unsigned(1)
        if got not in known:
            expected = f"version {' or '.join(map(str, known))}"
            raise self.unread("a structure is of a version that is not read", "hdf5.version", expected, got)
        return got

    def checked(self) -> Fields:
        """The same bytes without their last four, which must be the checksum of the others."""
        stored = int.from_bytes(self._raw[-4:], "little")
        self.check_sum(lookup3(memoryview(self._raw)[:-4]), stored)
        return Fields(self.space, self._raw, self._start, self.field, len(self._raw) - 4)

    def check_sum(self, computed: int, stored: int) -> None:
        """Raise FormatError unless the checksum that is stored is the computed one."""
        if computed != stored:
            got = f"{stored:#010x}"
            raise self.broken("a structure's checksum is wrong", "hdf5.checksum", f"{computed:#010x}", got)

    def part(self, length: int) -> Fields:
        """A cursor over the next `length` bytes."""
        start = self.at
        return Fields(self.space, self.take(length), start, self.field)
