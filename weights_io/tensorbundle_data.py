"""The tensors of a TensorBundle, read from its files of data, each verified by the checksum of its entry.

Numbers lie as they do in memory, in the byte order that the header names. The bytes of a string tensor are

    the varint length of each element; the masked checksum of the lengths; the elements

For checksums, lengths count as 4 bytes each, or 8 where they need them, in the header's byte order: the first is of the lengths; the entry's
is of the lengths, the first, and the elements.

Reference: TensorFlow, `tensorflow/core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from weights_io.arrays import as_array, read_only
from weights_io.checksum import crc32c, masked, masked_crc32c
from weights_io.protobuf import Place, varint
from weights_io.tensorbundle_index import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weights_io.leveldb_table import Budget
    from weights_io.source import Source
    from weights_io.tensor_slices import Box
    from weights_io.tensorbundle_messages import Entry

__all__ = ["RULES", "Data"]

RULES = {
    "tensorbundle.checksum": "The bytes of a tensor have the checksum that its entry has.",
    "tensorbundle.strings": "A string tensor is the lengths, their checksum and the bytes of its elements, and nothing else.",
    "tensorbundle.bits": "A byte of bool is 0 or 1; that of a number with fewer than 8 bits has zeros in the others.",
}
LARGEST = {DTYPES[code]: byte for code, byte in {10: 1, 29: 15, 30: 15, 31: 3, 32: 3, 33: 15}.items()}
STRING_COST = 60  # bytes of objects for an element of a string tensor, besides twice its own
LIST_COST = 80  # bytes of objects for a list of them


class Data:
    """The files of data of one bundle."""

    def __init__(self, sources: Sequence[Source], *, big: bool, strict: bool) -> None:
        self.sources, self._big, self._strict = sources, big, strict

    def place(self, entry: Entry, name: str) -> Place:
        """Where the bytes of a tensor are."""
        return Place(self.sources[entry.shard].path, repr(name), entry.offset)

    def array(self, entry: Entry, name: str) -> Any:
        """The numbers of one entry: a view of the mapped file where they are aligned, in this machine's byte order."""
        raw, dtype, place = self._mapped(entry, name), DTYPES[entry.dtype], self.place(entry, name)
        _check_sum(masked_crc32c(raw), entry.crc, place)
        if raw.size and dtype in LARGEST and raw.max() > LARGEST[dtype]:
            raw = self._cleared(raw, dtype, place)
        if self._big != (sys.byteorder == "big"):
            raw = _swapped(raw, dtype)
        return as_array(raw, dtype, entry.shape)

    def assembled(self, entry: Entry, parts: list[tuple[Box, Entry]], name: str) -> Any:
        """The numbers of a partitioned tensor; of its slices one at a time is in memory besides."""
        array = np.empty(entry.shape, dtype=DTYPES[entry.dtype])
        for box, part in parts:
            array[tuple(slice(start, start + length) for start, length in box)] = self.array(part, name)
        return read_only(array)

    def _mapped(self, entry: Entry, name: str) -> Any:  # uint8 (size,)
        return self.sources[entry.shard].map(entry.offset, entry.size, repr(name))

    def _cleared(self, raw: Any, dtype: np.dtype[Any], place: Place) -> Any:  # uint8 (n,) -> uint8 (n,)
        """The bytes without the bits that their dtype does not use; any bit of a bool makes it true."""
        if self._strict:
            expected, got = f"at most {LARGEST[dtype]} in a byte of {dtype}", int(raw.max())
            raise place.broken(
                "a byte has bits that its dtype does not", "tensorbundle.bits", expected=expected, got=got
            )
        return (raw != 0).view(np.uint8) if dtype == np.bool_ else raw & LARGEST[dtype]

    def strings(self, entry: Entry, name: str, budget: Budget) -> Any:
        """The elements of a string tensor: bytes for a scalar, otherwise lists of them in lists, as the shape is."""
        place, count = self.place(entry, name), math.prod(entry.shape)
        lists = sum(math.prod(entry.shape[:axis]) for axis in range(len(entry.shape)))
        budget.spend(2 * entry.size + STRING_COST * min(count, entry.size) + LIST_COST * lists, place.field)
        if entry.size == 0 and count == 0:
            _check_sum(masked(0), entry.crc, place)
            return _nested(iter(()), entry.shape)
        if count > entry.size - 4:
            expected, got = f"{count} lengths and 4 bytes, or more", f"{entry.size} bytes"
            raise place.broken("too few bytes for so many strings", "tensorbundle.strings", expected=expected, got=got)
        return _nested(self._elements(self._mapped(entry, name).tobytes(), count, entry.crc, place), entry.shape)

    def _elements(self, raw: bytes, count: int, crc: int, place: Place) -> Iterator[bytes]:
        lengths, at = [], 0
        for _ in range(count):
            length, at = varint(raw, at, place)
            lengths.append(length)
        if at + 4 + sum(lengths) != len(raw):
            expected, got = f"{len(raw)} bytes", f"{at} of lengths, 4, and {sum(lengths)} of elements"
            raise place.broken(
                "the strings do not fill their bytes", "tensorbundle.strings", expected=expected, got=got
            )
        found, stored = (
            crc32c(_fixed(lengths, self._big)),
            int.from_bytes(raw[at : at + 4], "big" if self._big else "little"),
        )
        if masked(found) != stored:
            expected, got = f"{stored:#010x}", f"{masked(found):#010x}"
            raise place.broken("wrong checksum of the lengths", "tensorbundle.strings", expected=expected, got=got)
        _check_sum(masked(crc32c(memoryview(raw)[at:], found)), crc, place)
        return _split(raw, at + 4, lengths)


def _check_sum(found: int, stored: int, place: Place) -> None:
    if found != stored:
        expected, got, remedy = f"{stored:#010x}", f"{found:#010x}", "the data are damaged: fetch the file again"
        raise place.broken(
            "wrong checksum of a tensor", "tensorbundle.checksum", expected=expected, got=got, remedy=remedy
        )


def _swapped(raw: Any, dtype: np.dtype[Any]) -> Any:  # uint8 (n,) -> uint8 (n,)
    """The bytes of each number in reverse; the two of a complex number each for itself."""
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(-1)


def _fixed(lengths: list[int], big: bool) -> bytes:
    """The lengths as they are checksummed."""
    if max(lengths, default=0) >> 32 == 0:
        return np.array(lengths, ">u4" if big else "<u4").tobytes()
    return b"".join(length.to_bytes(8 if length >> 32 else 4, "big" if big else "little") for length in lengths)


def _split(raw: bytes, at: int, lengths: list[int]) -> Iterator[bytes]:
    for length in lengths:
        yield raw[at : at + length]
        at += length


def _nested(elements: Iterator[bytes], shape: tuple[int, ...]) -> Any:
    """The elements, in C order, as lists in lists; the one of a scalar itself."""
    if not shape:
        return next(elements)
    return [_nested(elements, shape[1:]) for _ in range(shape[0])]
