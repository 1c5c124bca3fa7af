"""What the index of a TensorBundle says, held to all that can be known of it without reading a tensor.

A key is the name of a tensor, or of a slice of one (`tensor_slices`). Each tensor has a dtype that is read, a shape that an array can have,
as many bytes as they need, in a file that has them; no two share a byte, and none is left over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from weights_io import tensor_slices
from weights_io.protobuf import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from weights_io.leveldb_table import Budget
    from weights_io.source import Source
    from weights_io.tensor_slices import Box, Extents
    from weights_io.tensorbundle_messages import Entry

__all__ = ["CODES", "DTYPES", "OPAQUE", "RULES", "STRING", "Index"]

RULES = {
    "tensorbundle.name": "A name is UTF-8.",
    "tensorbundle.dtype": "A dtype is one whose values are numbers or strings; strings are not partitioned.",
    "tensorbundle.shard": "A tensor lies in one of the shards that the header counts.",
    "tensorbundle.unused-shard": "Every shard holds a tensor.",
    "tensorbundle.size": "A tensor has as many bytes as its dtype and shape need.",
    "tensorbundle.array": "The axes of a tensor that are not 0, multiplied with the bytes of an element, are less than 2^63.",
    "tensorbundle.range": "A tensor lies within its file of data.",
    "tensorbundle.overlap": "No byte of data belongs to two tensors.",
    "tensorbundle.gap": "Bytes of data that belong to no tensor are zeros, fewer than 4096 between two tensors or after the last.",
    "tensorbundle.slices": "A slice is a part of its tensor, listed once, and stored under the key made of its name and extents, as no name is.",
    "tensorbundle.tiling": "The slices of a tensor cover each of its elements once; they split it along at most 8 axes.",
}

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    8: np.dtype(np.complex64),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(np.uint16),
    18: np.dtype(np.complex128),
    19: np.dtype(np.float16),
    22: np.dtype(np.uint32),
    23: np.dtype(np.uint64),
    24: np.dtype(ml_dtypes.float8_e5m2),
    25: np.dtype(ml_dtypes.float8_e4m3fn),
    26: np.dtype(ml_dtypes.float8_e4m3fnuz),
    27: np.dtype(ml_dtypes.float8_e4m3b11fnuz),
    28: np.dtype(ml_dtypes.float8_e5m2fnuz),
    29: np.dtype(ml_dtypes.int4),  # 29 to 33: one number in the low bits of each byte, as in memory
    30: np.dtype(ml_dtypes.uint4),
    31: np.dtype(ml_dtypes.int2),
    32: np.dtype(ml_dtypes.uint2),
    33: np.dtype(ml_dtypes.float4_e2m1fn),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
# Quantized numbers are the integers they are stored as: what they stand for is in other tensors, if anywhere.
DTYPES |= {code: np.dtype(name) for code, name in {11: "i1", 12: "u1", 13: "i4", 15: "i2", 16: "u2"}.items()}
STRING, OPAQUE = 7, {20: "resource", 21: "variant"}
REFERENCE = 100  # more than a dtype: a reference to a variable of it
PADDING = 4096
CORNER_COST = 200  # bytes of objects for a corner of a slice, while they are counted


class Index:
    """The entries of a bundle.

    Attributes
    ----------
    entries : key -> entry
    names : the names of the tensors -> keys; the slices of partitioned ones have none
    parts : the keys of partitioned tensors -> their slices, each with the entry it is stored under
    """

    def __init__(self, path: Path, entries: Mapping[bytes, Entry], budget: Budget) -> None:
        self.path, self.entries, self._budget = path, entries, budget
        self._slices: set[bytes] = set()
        self.parts = {key: self._parts(key, entry) for key, entry in entries.items() if entry.slices}
        self.names = {self._name(key): key for key in entries if key not in self._slices}

    def named(self) -> Iterator[tuple[str, Entry]]:
        """The names of the tensors, and their entries."""
        return ((name, self.entries[key]) for name, key in self.names.items())

    def _parts(self, key: bytes, entry: Entry) -> list[tuple[Box, Entry]]:
        found = [self._part(key, entry, extents) for extents in entry.slices]
        boxes, place = [box for box, _ in found], Place(self.path, key)
        split = tensor_slices.split_axes(boxes, entry.shape)
        if len(split) > tensor_slices.MOST_SPLIT:
            expected = f"at most {tensor_slices.MOST_SPLIT}"
            raise place.unsupported(
                "a tensor split along many axes", "tensorbundle.tiling", expected=expected, got=len(split)
            )
        self._budget.need(CORNER_COST * len(boxes) << len(split), "slices")
        misfit = tensor_slices.misfit(boxes, entry.shape)
        if misfit is not None:
            expected = f"each element of {entry.shape} once"
            raise place.broken(f"{misfit} between the slices", "tensorbundle.tiling", expected=expected)
        return found

    def _part(self, key: bytes, entry: Entry, extents: Extents) -> tuple[Box, Entry]:
        place, box = Place(self.path, key), tensor_slices.box(extents, entry.shape)
        if box is None:
            expected = f"a part of shape {entry.shape}: (start, length) for each axis"
            raise place.broken("not a slice of its tensor", "tensorbundle.slices", expected=expected, got=extents)
        name = tensor_slices.key(key, extents)
        stored = self.entries.get(name)
        if stored is None or name in self._slices:
            what = "a slice is not stored" if stored is None else "a slice is listed twice"
            raise place.broken(what, "tensorbundle.slices", expected=name, got=extents)
        meant, found = (entry.dtype, tuple(length for _, length in box)), (stored.dtype, stored.shape)
        if stored.slices or meant != found:
            what, expected = "a slice is stored as something else", f"dtype, shape {meant}"
            raise place.broken(what, "tensorbundle.slices", expected=expected, got=found)
        self._slices.add(name)
        return box, stored

    def _name(self, key: bytes) -> str:
        if key[:1] == b"\0":
            what = "a slice of no tensor, or a name that begins with zero"
            raise Place(self.path).broken(what, "tensorbundle.slices", got=key)
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            raise Place(self.path).broken("a name is not UTF-8", "tensorbundle.name", got=key) from None

    def check(self, data: Sequence[Source], strict: bool) -> int:
        """Raise FormatError or UnsupportedError unless all tensors are as the module says; the bytes of all arrays together.

        Where it is not strict, dtypes may be opaque, and data may have bytes that belong to no tensor, or to several.
        """
        declared = 0
        for key, entry in self.entries.items():
            place = Place(self.path, key)
            _check_dtype(entry, place, strict)
            size = _array_size(entry, place) if entry.dtype in DTYPES else 0
            declared += 0 if key in self._slices else size
            if not entry.slices:
                _check_range(entry, data, place)
        if strict:
            self._check_coverage(data)
        return declared

    def _check_coverage(self, data: Sequence[Source]) -> None:
        stored: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
        for key, entry in self.entries.items():
            if not entry.slices:
                stored[entry.shard].append((entry.offset, entry.size, key))
        for shard, source in enumerate(data):
            if shard not in stored and (self.entries or shard):
                got = f"{source.size} bytes"
                raise Place(source.path).broken("a shard without tensors", "tensorbundle.unused-shard", got=got)
            _check_adjacent(sorted(stored[shard]), source)


def _check_dtype(entry: Entry, place: Place, strict: bool) -> None:
    code, whole = entry.dtype, not entry.slices
    if code in DTYPES or (whole and (code == STRING or (code in OPAQUE and not strict))):
        return
    kind = {0: "no dtype", STRING: "a partitioned tensor of strings"} | OPAQUE
    got = f"a reference to dtype {code - REFERENCE}" if code > REFERENCE else kind.get(code, f"dtype {code}")
    remedy = 'mode="compat" reads the other tensors' if whole and code in OPAQUE else None
    raise place.unsupported(
        "a dtype that is not read", "tensorbundle.dtype", expected="numbers or strings", got=got, remedy=remedy
    )


def _array_size(entry: Entry, place: Place) -> int:
    """The bytes of an array; its entry has as many, if it is not partitioned."""
    itemsize = DTYPES[entry.dtype].itemsize
    if math.prod(extent for extent in entry.shape if extent) * itemsize >= 1 << 63:
        raise place.broken(
            "no array has this shape", "tensorbundle.array", expected="less than 2^63 bytes", got=entry.shape
        )
    size = math.prod(entry.shape) * itemsize
    if not entry.slices and size != entry.size:
        expected = f"{size} bytes for shape {entry.shape}, {itemsize} bytes each"
        raise place.broken(
            "the size does not match dtype and shape", "tensorbundle.size", expected=expected, got=entry.size
        )
    return size


def _check_range(entry: Entry, data: Sequence[Source], place: Place) -> None:
    if not 0 <= entry.shard < len(data):
        raise place.broken("no such shard", "tensorbundle.shard", expected=f"0 to {len(data) - 1}", got=entry.shard)
    source = data[entry.shard]
    if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > source.size:
        expected, got = f"within {source.size} bytes", f"{entry.size} bytes from {entry.offset}"
        remedy = "the file is truncated, or of another checkpoint: fetch it again"
        place = Place(source.path, place.field, entry.offset)
        raise place.broken(
            "a tensor reaches beyond its data", "tensorbundle.range", expected=expected, got=got, remedy=remedy
        )


def _check_adjacent(stored: list[tuple[int, int, bytes]], source: Source) -> None:
    """What is stored in a shard lies side by side, but for what aligns it."""
    end = 0
    for offset, size, key in stored:
        if size == 0:
            continue
        if offset < end:
            place = Place(source.path, key, offset)
            raise place.broken("two tensors overlap", "tensorbundle.overlap", expected=f"{end} or more", got=offset)
        _check_gap(end, offset, source)
        end = offset + size
    _check_gap(end, source.size, source)


def _check_gap(start: int, end: int, source: Source) -> None:
    if start < end and (end - start >= PADDING or any(source.read(start, end - start))):
        expected, got = f"nothing, or fewer than {PADDING} zeros", f"{end - start} bytes"
        raise Place(source.path, None, start).broken(
            "bytes of no tensor", "tensorbundle.gap", expected=expected, got=got
        )
