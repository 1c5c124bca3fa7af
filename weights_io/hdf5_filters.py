"""HDF5's filters: deflate, shuffle and Fletcher-32, undone in reverse order; every other filter is refused when the file is opened.

A dataset's filter pipeline lists them in the order in which they were applied; each chunk has a mask of those that were left out for it.
The format lets a filter be applied many times over, and a few bytes deflated twice can become gigabytes: here each filter is there once at most.
Then what comes out of each filter has a size that is known before it is undone, and undoing takes memory for two chunks, no more.

Reference: HDF5 File Format Specification, version 3.0, section IV.A.2.l.
"""

from __future__ import annotations

import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.hdf5_bytes import fletcher32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weights_io.errors import FormatError
    from weights_io.hdf5_bytes import Fields, Space

__all__ = ["LEAVE_OUT", "RULES", "Filter", "read_filters", "unfiltered"]

RULES = {
    "hdf5.chunk-checksum": "The Fletcher-32 checksum of a chunk is that of its bytes.",
    "hdf5.deflate": "A compressed chunk is one whole zlib stream of a chunk's bytes.",
    "hdf5.filter": "A filter has the parameters that it needs.",
    "hdf5.filter-kind": "A chunk is filtered with deflate, shuffle and Fletcher-32 only, with each at most once.",
}
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
NAMES = {DEFLATE: "deflate", SHUFFLE: "shuffle", FLETCHER32: "Fletcher-32"}
OTHERS = {
    4: "szip",
    5: "nbit",
    6: "scale-offset",
    305: "LZO",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32026: "Blosc2",
}
MAX_FILTERS = 32
TAKEN = 1 << 16  # stored bytes that are inflated at a time
STEP = 1 << 20  # bytes that inflating gives at a time, at most
LEAVE_OUT = 'mode="compat" leaves such datasets out'  # and lists them in metadata["unread"]


class Filter(NamedTuple):
    """One filter of a pipeline."""

    kind: int
    size: int = 1  # of an element, for shuffle


def read_filters(fields: Fields, itemsize: int) -> tuple[Filter, ...]:
    """The pipeline that a message describes, in the order in which it was applied."""
    version, count = fields.version(1, 2), fields.unsigned(1)
    fields.take(6 if version == 1 else 0)
    if count > MAX_FILTERS:
        raise fields.broken("a dataset has too many filters", "hdf5.filter", f"at most {MAX_FILTERS}", count)
    found = tuple(_filter(fields, version, itemsize) for _ in range(count))
    for kind, times in Counter(one.kind for one in found).items():
        if times > 1:
            got = f"{NAMES[kind]} {times} times"
            raise fields.unread("a filter is applied more than once", "hdf5.filter-kind", "each once", got, LEAVE_OUT)
    return found


def _filter(fields: Fields, version: int, itemsize: int) -> Filter:
    kind = fields.unsigned(2)
    name_length = fields.unsigned(2) if version == 1 or kind >= 256 else 0
    fields.take(2)  # flags: a filter that was optional and failed is in each chunk's mask
    count = fields.unsigned(2)
    fields.take(name_length + (-name_length % 8 if version == 1 else 0))
    values = [fields.unsigned(4) for _ in range(count)]
    fields.take(4 if version == 1 and count % 2 else 0)
    if kind not in (DEFLATE, SHUFFLE, FLETCHER32):
        got = OTHERS.get(kind, f"filter {kind}")
        raise fields.unread("a filter is not read", "hdf5.filter-kind", "deflate, shuffle, Fletcher-32", got, LEAVE_OUT)
    if kind == SHUFFLE and values != [itemsize]:
        raise fields.broken("a shuffle filter is for another size", "hdf5.filter", [itemsize], values)
    if kind == DEFLATE and (len(values) != 1 or values[0] > 9):
        raise fields.broken("a deflate filter has a wrong level", "hdf5.filter", "a level of 0 to 9", values)
    return Filter(kind, itemsize if kind == SHUFFLE else 1)


def unfiltered(
    space: Space, raw: Any, filters: tuple[Filter, ...], mask: int, size: int, at: int, field: object
) -> Any:
    """The `size` bytes of a chunk that was stored as `raw`, both uint8; FormatError if it does not become that."""
    kept = [one for i, one in enumerate(filters) if not mask >> i & 1]
    for i, one in reversed(list(enumerate(kept))):
        if one.kind == DEFLATE:
            added = 4 * sum(before.kind == FLETCHER32 for before in kept[:i])
            raw = _inflated(space, raw, size + added, at, field)
        elif one.kind == FLETCHER32:
            raw = _verified(space, raw, at, field)
        else:
            raw = _unshuffled(raw, one.size)
    if len(raw) != size:
        raise space.broken("a chunk has a wrong size", "hdf5.deflate", at, field, f"{size} bytes", f"{len(raw)} bytes")
    return raw


def _inflated(space: Space, raw: Any, size: int, at: int, field: object) -> Any:
    """The `size` bytes, or fewer, of one zlib stream, unpacked into one array."""
    stream, found, done = zlib.decompressobj(), np.empty(size, np.uint8), 0
    try:
        for part in _parts(stream, memoryview(raw), min(STEP, size + 1)):
            if done + len(part) > size:
                raise _not_deflate(space, at, field, size, "more")
            found[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
    except zlib.error as error:
        raise space.broken("a chunk cannot be decompressed", "hdf5.deflate", at, field, None, error) from None
    if not stream.eof or stream.unused_data:
        after = len(stream.unused_data)
        raise _not_deflate(space, at, field, size, f"{done} bytes and {after} after the stream's end")
    return found[:done]


def _parts(stream: Any, raw: memoryview, step: int) -> Iterator[bytes]:
    """What a stream unpacks to, at most `step` bytes at a time; what comes after its end is left in `unused_data`, as much as was looked at."""
    for begin in range(0, len(raw), TAKEN):
        if stream.eof:
            stream.decompress(raw[begin : begin + TAKEN])
            return
        rest = raw[begin : begin + TAKEN]
        while len(rest) and not stream.eof:
            yield stream.decompress(rest, step)
            rest = stream.unconsumed_tail
    while not stream.eof and (part := stream.decompress(b"", step)):
        yield part


def _not_deflate(space: Space, at: int, field: object, size: int, got: str) -> FormatError:
    expected = f"at most {size} bytes, to its end"
    return space.broken("a chunk is not one zlib stream", "hdf5.deflate", at, field, expected, got)


def _verified(space: Space, raw: Any, at: int, field: object) -> Any:
    if len(raw) < 4:
        raise space.broken(
            "a chunk is too short for its checksum", "hdf5.chunk-checksum", at, field, "4 bytes", len(raw)
        )
    body, stored = raw[:-4], int.from_bytes(raw[-4:].tobytes(), "little")
    computed = fletcher32(body)
    if stored != computed:
        raise space.broken(
            "a chunk's checksum is wrong", "hdf5.chunk-checksum", at, field, f"{computed:#010x}", f"{stored:#010x}"
        )
    return body


def _unshuffled(raw: Any, size: int) -> Any:
    """The bytes of each element together again: first bytes, second bytes, ... -> elements; what is left over stays at the end."""
    count = len(raw) // size
    if size == 1 or count <= 1:
        return raw
    found, whole = np.empty(len(raw), np.uint8), count * size
    found[:whole].reshape(count, size)[...] = raw[:whole].reshape(size, count).T
    found[whole:] = raw[whole:]
    return found
