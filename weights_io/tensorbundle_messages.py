"""The messages in the index of a TensorBundle, read and written.

    BundleHeaderProto   1 num_shards   2 endianness (0 little, 1 big)   3 version {1 producer, 2 min_consumer, 3 bad_consumers}
    BundleEntryProto    1 dtype   2 shape {2 dim {1 size, 2 name}, 3 unknown_rank}   3 shard_id   4 offset   5 size
                        6 crc32c (masked, fixed32)   7 slices {1 extent {1 start, 2 length}}

Reference: TensorFlow, `tensor_bundle.proto`, `tensor_shape.proto`, `tensor_slice.proto` and `versions.proto`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from weights_io.protobuf import BYTES, FIXED32, Field, encoded, parsed, signed, varint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weights_io.leveldb_table import Budget
    from weights_io.protobuf import Place
    from weights_io.tensor_slices import Extents

__all__ = ["RULES", "Entry", "Header", "encoded_entry", "encoded_header", "entry", "header"]

RULES = {
    "tensorbundle.header": "The first key is empty; its value is a header with at least one shard and a known byte order.",
    "tensorbundle.version": "The header asks for no reader of a later version than 1.",
    "tensorbundle.shape": "A shape is at most 64 whole numbers, all of them known, whose product an array can have.",
}
HEADER = {1: Field("num_shards"), 2: Field("endianness"), 3: Field("version", BYTES)}
VERSION = {1: Field("producer"), 2: Field("min_consumer"), 3: Field("bad_consumers", BYTES)}
ENTRY = {
    1: Field("dtype"),
    2: Field("shape", BYTES),
    3: Field("shard_id"),
    4: Field("offset"),
    5: Field("size"),
    6: Field("crc32c", FIXED32),
    7: Field("slices", BYTES, repeated=True),
}
SHAPE = {2: Field("dim", BYTES, repeated=True), 3: Field("unknown_rank")}
DIM = {1: Field("size"), 2: Field("name", BYTES)}
SLICE = {1: Field("extent", BYTES, repeated=True)}
EXTENT = {1: Field("start"), 2: Field("length")}

CURRENT = 1  # the version of the format
MOST_AXES = 64
MESSAGE_COST = 64  # bytes of objects that a byte of message can become while it is parsed
ENTRY_COST, NAME_COST, AXIS_COST = 800, 6, 80  # ... that stay: for an entry, a byte of its name, an axis of its shape
SLICE_COST, EXTENT_COST = 500, 300  # ... and for a slice, an axis of it


class Header(NamedTuple):
    """What the index says of the whole bundle."""

    shards: int
    big: bool  # the data's byte order
    version: int


class Entry(NamedTuple):
    """What the index says of one key."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[Extents, ...]


def _number(message: Mapping[str, Any], name: str, bits: int, place: Place) -> int:
    """A signed number of a message; 0 if it is absent."""
    value: int = message.get(name, 0)
    if value >> bits - 1 == 0:
        return value
    value = signed(value)
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise place.broken(f"{name} is too large", "tensorbundle.proto", expected=f"a number of {bits} bits", got=value)
    return value


def header(raw: bytes, place: Place, budget: Budget) -> Header:
    """The header that the value of the empty key holds."""
    budget.need(MESSAGE_COST * len(raw), "header")
    message = parsed(raw, HEADER, place)
    shards, endianness = (_number(message, name, 32, place) for name in ("num_shards", "endianness"))
    if shards < 1 or endianness not in (0, 1):
        got = f"{shards} shards, byte order {endianness}"
        raise place.broken(
            "not a header", "tensorbundle.header", expected="1 shard or more, byte order 0 or 1", got=got
        )
    return Header(shards, endianness == 1, _version(message.get("version", b""), place))


def _version(raw: bytes, place: Place) -> int:
    message = parsed(raw, VERSION, place)
    producer, consumer = (_number(message, name, 32, place) for name in ("producer", "min_consumer"))
    bad, at, refused = message.get("bad_consumers", b""), 0, producer < 0 or consumer > CURRENT
    while at < len(bad):
        number, at = varint(bad, at, place)
        refused = refused or number == CURRENT
    if refused:
        got = f"producer {producer}, min_consumer {consumer}, bad_consumers {bad.hex() or 'none'}"
        expected = f"one for readers of version {CURRENT}"
        raise place.unsupported("a version that is not read", "tensorbundle.version", expected=expected, got=got)
    return producer


def entry(raw: bytes, place: Place, budget: Budget) -> Entry:
    """The entry that the value of any other key holds; what it and its key, the place's field, cost to keep is spent of the budget."""
    budget.need(MESSAGE_COST * len(raw), "entry")
    message = parsed(raw, ENTRY, place)
    shape, found = _shape(message.get("shape", b""), place), message.get("slices", ())
    name = NAME_COST * len(place.field or b"")
    each = SLICE_COST + name + EXTENT_COST * len(shape)
    budget.spend(ENTRY_COST + name + AXIS_COST * len(shape) + each * len(found), "entry")
    return Entry(
        _number(message, "dtype", 32, place),
        shape,
        _number(message, "shard_id", 32, place),
        _number(message, "offset", 64, place),
        _number(message, "size", 64, place),
        message.get("crc32c", 0),
        tuple(_extents(part, shape, place) for part in found),
    )


def _shape(raw: bytes, place: Place) -> tuple[int, ...]:
    message = parsed(raw, SHAPE, place)
    dims = message.get("dim", ())
    if message.get("unknown_rank") or len(dims) > MOST_AXES:
        got = "unknown rank" if message.get("unknown_rank") else f"{len(dims)} axes"
        raise place.broken("wrong shape", "tensorbundle.shape", expected=f"at most {MOST_AXES} axes", got=got)
    shape = tuple(_number(parsed(dim, DIM, place), "size", 64, place) for dim in dims)
    if any(size < 0 for size in shape):
        raise place.broken("wrong shape", "tensorbundle.shape", expected="whole numbers", got=shape)
    return shape


def _extents(raw: bytes, shape: tuple[int, ...], place: Place) -> Extents:
    """The extents of one slice; an axis without a length is whole."""
    parts = parsed(raw, SLICE, place).get("extent", ())
    if len(parts) != len(shape):
        raise place.broken(
            "a slice of another rank", "tensorbundle.slices", expected=f"{len(shape)} extents", got=len(parts)
        )
    messages = [parsed(part, EXTENT, place) for part in parts]
    return tuple(
        (_number(message, "start", 64, place), _number(message, "length", 64, place) if "length" in message else -1)
        for message in messages
    )


def encoded_header() -> bytes:
    """The header of a bundle with one shard, little endian."""
    return encoded(1, 1) + encoded(3, encoded(1, CURRENT))


def encoded_entry(dtype: int, shape: tuple[int, ...], offset: int, size: int, crc: int) -> bytes:
    """The entry of a tensor in the first shard."""
    dims = b"".join(encoded(2, encoded(1, extent)) for extent in shape)
    return encoded(1, dtype) + encoded(2, dims) + encoded(4, offset) + encoded(5, size) + encoded(6, crc, fixed32=True)
