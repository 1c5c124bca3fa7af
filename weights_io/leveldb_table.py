"""LevelDB's sorted tables, read and written: keys with values, prefix-compressed, in blocks with checksums.

    data block, ..., metaindex block (empty), index block, footer
    footer = handle of the metaindex, handle of the index, zeros up to 40 bytes, magic number (8 bytes)
    handle = varint offset, varint size (of the block without its trailer)
    block  = entry, ..., restart offset (4 bytes), ..., count of restarts (4 bytes);  trailer: compression (1 byte), masked CRC-32C (4 bytes)
    entry  = varint shared, varint unshared, varint size of value, unshared bytes of key, value

An entry's key is the first `shared` bytes of the key before it and its own. At a restart nothing is shared. The index block has an entry
for each data block: a key not below that block's last and below the next block's first, and its handle.

Everything is held to what the format's writers do: the blocks fill the file in order, keys increase, restarts are where entries are.

Reference: LevelDB, `doc/table_format.md`; TensorFlow, `tensorflow/core/lib/io/table_format.txt`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from weights_io import snappy
from weights_io.checksum import masked_crc32c
from weights_io.protobuf import Place, to_varint, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["MAGIC", "RULES", "Budget", "Handle", "Record", "records", "write_table"]

RULES = {
    "tensorbundle.footer": "The index ends with a footer of 48 bytes: two handles, zeros, and the magic number.",
    "tensorbundle.handle": "A handle is two varints and nothing else.",
    "tensorbundle.blocks": "The blocks fill the index in order, without gap or overlap, up to its footer.",
    "tensorbundle.block-checksum": "A block has the checksum that is stored with it.",
    "tensorbundle.compression": "A block is stored as it is, or compressed by Snappy.",
    "tensorbundle.restarts": "The restarts of a block are offsets of entries, in order, beginning with the first.",
    "tensorbundle.entry": "An entry shares at most the whole key before it, at a restart nothing, and ends within its block.",
    "tensorbundle.keys": "Keys increase, from byte to byte, through all blocks; those of the index lie between the blocks' own.",
    "tensorbundle.metaindex": "The metaindex is empty.",
}
RULES |= snappy.RULES
MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5
BLOCK_SIZE, RESTART_INTERVAL = 1 << 18, 16  # as TensorFlow writes them; an index block restarts at every entry
RESTART_COST = 48  # bytes of objects that one restart can become


class Budget:
    """Bytes of Python objects that a reader has built, held against what the files are large enough for."""

    def __init__(self, limits: Limits, source: Source) -> None:
        self._limits, self._path = limits, source.path
        self.size, self.spent = source.size, 0

    def need(self, cost: int, field: object = None) -> None:
        """Raise FormatError (budget.heap) unless `cost` bytes may be built now, to be dropped soon."""
        self._limits.check_heap(self.spent + cost, self.size, self._path, field)

    def spend(self, cost: int, field: object = None) -> None:
        """Raise FormatError (budget.heap) unless `cost` bytes may be built and kept."""
        self.need(cost, field)
        self.spent += cost


class Handle(NamedTuple):
    """Where a block lies, its trailer not counted."""

    offset: int
    size: int


class Record(NamedTuple):
    """A key and its value, and the offset of the block they lie in."""

    key: bytes
    value: bytes
    offset: int


def _handle(data: bytes, at: int, place: Place) -> tuple[Handle, int]:
    offset, at = varint(data, at, place)
    size, at = varint(data, at, place)
    return Handle(offset, size), at


def _footer(source: Source) -> tuple[Handle, Handle]:
    """The handles of the metaindex and of the index."""
    place = Place(source.path, "footer", max(0, source.size - FOOTER))
    raw = source.read(source.size - FOOTER, FOOTER, "footer")
    if raw[-8:] != MAGIC:
        raise place.broken(
            "no magic number at the end", "tensorbundle.footer", expected=MAGIC.hex(), got=raw[-8:].hex()
        )
    metaindex, at = _handle(raw, 0, place)
    index, at = _handle(raw, at, place)
    if any(raw[at:-8]):
        raise place.broken("the footer is not filled with zeros", "tensorbundle.footer", got=raw[at:-8].hex())
    return metaindex, index


def _contents(source: Source, handle: Handle, budget: Budget) -> bytes:
    """The bytes of a block, checked against its checksum, decompressed."""
    place = Place(source.path, "block", handle.offset)
    stored = source.map(handle.offset, handle.size + TRAILER, "block")
    crc = int.from_bytes(stored[-4:].tobytes(), "little")
    if masked_crc32c(stored[:-4]) != crc:
        raise place.broken(
            "wrong checksum of a block",
            "tensorbundle.block-checksum",
            expected=f"{crc:#010x}",
            remedy="fetch the file again",
        )
    kind, data = int(stored[-5]), stored[:-5].tobytes()
    if kind == 0:
        return data
    if kind == 1:
        budget.need(2 * snappy.announced(data, place)[0], "compressed block")
        return snappy.decompressed(data, place)
    what = "Zstandard" if kind == 2 else f"compression {kind}"
    raise place.unsupported("a compression of blocks that is not read", "tensorbundle.compression", got=what)


def _restarts(data: bytes, place: Place, budget: Budget) -> list[int]:
    """The offsets at which keys are whole; the entries end where their list begins."""
    count = int.from_bytes(data[-4:], "little")
    if len(data) < 8 or not 1 <= count <= len(data) // 4 - 1:
        raise place.broken(
            "wrong count of restarts", "tensorbundle.restarts", expected=f"1 to {len(data) // 4 - 1}", got=count
        )
    budget.need(RESTART_COST * count, "restarts")
    start = len(data) - 4 * count - 4
    found = [int.from_bytes(data[at : at + 4], "little") for at in range(start, len(data) - 4, 4)]
    if found[0] != 0 or any(left >= right for left, right in pairwise(found)):
        raise place.broken("restarts out of order", "tensorbundle.restarts", expected="0, and increasing", got=found)
    return found


def _lengths(data: bytes, at: int, place: Place) -> tuple[int, int, int, int]:
    """(shared, unshared, size of the value, where the key's own bytes begin)."""
    shared, at = varint(data, at, place)
    unshared, at = varint(data, at, place)
    size, at = varint(data, at, place)
    return shared, unshared, size, at


def _entries(data: bytes, place: Place, budget: Budget) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block."""
    restarts = [*_restarts(data, place, budget), len(data)]
    end, at, key, passed = len(data) - 4 * len(restarts), 0, b"", 0
    while at < end:
        begin = at
        shared, unshared, size, at = _lengths(data, at, place)
        most = 0 if begin == restarts[passed] else len(key)
        passed += begin == restarts[passed]
        if shared > most or unshared + size > end - at:
            expected = f"at most {most} bytes shared, {end - at} own and value"
            got = f"{shared}, {unshared} and {size} at byte {begin} of the block"
            raise place.broken("an entry does not fit", "tensorbundle.entry", expected=expected, got=got)
        budget.need(4 * (shared + unshared), "key")
        last, key = key, key[:shared] + data[at : at + unshared]
        if begin:
            _check_order(last, key, place)
        at += unshared + size
        yield key, data[at - size : at]
    if restarts[passed] != len(data) and (end or len(restarts) > 2):
        raise place.broken("a restart where no entry begins", "tensorbundle.restarts", got=restarts[passed])


def _check_order(last: bytes, key: bytes, place: Place) -> None:
    if key <= last:
        expected = f"above {last[:100]!r}"
        raise place.broken("keys do not increase", "tensorbundle.keys", expected=expected, got=key)


def _index(source: Source, budget: Budget) -> list[tuple[bytes, Handle]]:
    """The keys and handles of the data blocks; with the metaindex, the index and the footer they are shown to fill the file."""
    metaindex, index = _footer(source)
    place = Place(source.path, "index block", index.offset)
    _adjacent(place, "index block", Handle(index.offset, source.size - FOOTER - TRAILER - index.offset), index)
    found, end = [], 0
    for key, value in _entries(_contents(source, index, budget), place, budget):
        handle, at = _handle(value, 0, place)
        if at != len(value):
            raise place.broken("bytes after a handle", "tensorbundle.handle", got=value[at:])
        _adjacent(place, "data block", Handle(end, handle.size), handle)
        end += handle.size + TRAILER
        budget.spend(len(key) + 300, "index block")
        found.append((key, handle))
    _adjacent(place, "metaindex block", Handle(end, index.offset - TRAILER - end), metaindex)
    for key, _ in _entries(_contents(source, metaindex, budget), place, budget):
        raise place.unsupported("the metaindex has entries", "tensorbundle.metaindex", got=key)
    return found


def _adjacent(place: Place, what: str, expected: Handle, got: Handle) -> None:
    if got != expected:
        raise place.broken(
            f"the {what} is not where the one before ends", "tensorbundle.blocks", expected=expected, got=got
        )


def records(source: Source, budget: Budget) -> Iterator[Record]:
    """Every key of a table with its value, in order; FormatError or UnsupportedError where it is not as the module says."""
    last = None
    for separator, handle in _index(source, budget):
        place = Place(source.path, "data block", handle.offset)
        before, count = last, 0
        for key, value in _entries(_contents(source, handle, budget), place, budget):
            if count == 0 and before is not None:
                _check_order(before, key, place)
            count, last = count + 1, key
            yield Record(key, value, handle.offset)
        if count == 0 or last is None or separator < last:
            what = "a data block without entries" if count == 0 else "the index's key is below its block's"
            raise place.broken(what, "tensorbundle.keys", expected=last, got=separator)
        last = separator


# --- writing ----------------------------------------------------------------------------------------------------------------


class _Block:
    """A block being made."""

    def __init__(self, interval: int) -> None:
        self._interval, self._body, self._restarts = interval, bytearray(), [0]
        self._count, self._last = 0, b""

    def add(self, key: bytes, value: bytes) -> None:
        shared = _shared(self._last, key) if self._count < self._interval else 0
        if self._count == self._interval:
            self._restarts.append(len(self._body))
            self._count = 0
        self._body += to_varint(shared) + to_varint(len(key) - shared) + to_varint(len(value)) + key[shared:] + value
        self._count, self._last = self._count + 1, key

    @property
    def size(self) -> int:
        return len(self._body) + 4 * len(self._restarts) + 4

    def finished(self) -> bytes:
        """The block with its trailer."""
        numbers = [*self._restarts, len(self._restarts)]
        raw = bytes(self._body) + b"".join(number.to_bytes(4, "little") for number in numbers) + b"\0"
        return raw + masked_crc32c(raw).to_bytes(4, "little")


def _shared(left: bytes, right: bytes) -> int:
    """How many bytes two keys begin with in common."""
    shortest = min(len(left), len(right))
    return next((at for at in range(shortest) if left[at] != right[at]), shortest)


def _between(low: bytes, high: bytes) -> bytes:
    """A short key that is not below `low` and below `high`, as the format's own writers choose it."""
    at = _shared(low, high)
    if at < len(low) and at < len(high) and low[at] + 1 < high[at]:
        return low[:at] + bytes([low[at] + 1])
    return low


def _above(low: bytes) -> bytes:
    """A short key that is not below `low`."""
    at = next((at for at, byte in enumerate(low) if byte != 0xFF), None)
    return low if at is None else low[:at] + bytes([low[at] + 1])


def _blocks(items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[_Block, bytes, bytes | None]]:
    """Data blocks, each with its last key and the first key of the next, None for the last block."""
    block, last, full = _Block(RESTART_INTERVAL), None, False
    for key, value in items:
        if last is not None and (full or len(key) + len(value) >= 2 * BLOCK_SIZE):
            yield block, last, key
            block = _Block(RESTART_INTERVAL)
        block.add(key, value)
        last, full = key, block.size >= BLOCK_SIZE
    if last is not None:
        yield block, last, None


def write_table(file: BinaryIO, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a table of keys, which increase, and values: the bytes are those that TensorFlow writes for the same items."""
    index, offset = _Block(1), 0

    def put(raw: bytes) -> bytes:
        """Write a finished block; its handle."""
        nonlocal offset
        file.write(raw)
        handle = to_varint(offset) + to_varint(len(raw) - TRAILER)
        offset += len(raw)
        return handle

    for block, last, following in _blocks(items):
        handle = put(block.finished())
        index.add(_above(last) if following is None else _between(last, following), handle)
    footer = put(_Block(RESTART_INTERVAL).finished()) + put(index.finished())
    file.write(footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC)
