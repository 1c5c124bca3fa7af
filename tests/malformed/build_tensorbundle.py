"""Malformed TensorFlow bundles, from bytes: a sorted table of messages, and files of data. Shares no code with the reader or the writer."""

from __future__ import annotations

from typing import Any

from malformed.case import Case

INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"
MAGIC = bytes.fromhex("57fb808b247547db")

# --- checksums, numbers, messages -------------------------------------------------------------------------------------------


def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return found


TABLE = _table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C, bit-reflected, one byte at a time."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data: bytes, crc: int = 0) -> int:
    """The checksum as it is stored."""
    crc = crc32c(data, crc)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(content)) + content


def shaped(*sizes: int) -> bytes:
    return b"".join(message(2, number(1, size)) for size in sizes)


def entry(
    data: bytes = b"",
    dtype: int = 1,
    shape: bytes = shaped(2),
    shard: int = 0,
    offset: int = 0,
    size: int | None = None,
    **more: Any,
) -> bytes:
    """An entry for `data`; more: crc, or `after`, bytes of further fields."""
    crc = more["crc"] if "crc" in more else masked(data)
    fields = number(1, dtype) + message(2, shape) + number(3, shard) + number(4, offset)
    return fields + number(5, len(data) if size is None else size) + varint(53) + u32(crc) + more.get("after", b"")


HEADER = number(1, 1) + message(3, number(1, 1))

# --- tables -----------------------------------------------------------------------------------------------------------------


def row(key: bytes, value: bytes, shared: int = 0) -> bytes:
    """One entry of a block: the key without its first `shared` bytes."""
    return varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value


def block(rows: list[bytes], restarts: list[int] | None = None) -> bytes:
    """A block without trailer, one restart at its beginning unless they are given."""
    restarts = [0] if restarts is None else restarts
    return b"".join(rows) + b"".join(map(u32, restarts)) + u32(len(restarts))


def sealed(content: bytes, kind: int = 0, crc: int | None = None) -> bytes:
    """A block with its trailer."""
    content += bytes([kind])
    return content + u32(masked(content) if crc is None else crc)


EMPTY = sealed(block([]))


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def table(
    blocks: list[tuple[bytes, bytes]],
    meta: bytes = EMPTY,
    between: bytes = b"",
    more: bytes = b"",
    footer: bytes | None = None,
    fill: bytes = b"\0",
) -> bytes:
    """A table of sealed blocks, each with its key in the index; `between` lies after them, `more` after each handle."""
    body, rows = b"", []
    for key, content in blocks:
        rows.append(row(key, handle(len(body), len(content) - 5) + more))
        body += content
    body += between
    index = sealed(block(rows, [sum(map(len, rows[:at])) for at in range(len(rows))] or [0]))
    handles = handle(len(body), len(meta) - 5) + handle(len(body) + len(meta), len(index) - 5)
    footer = handles if footer is None else footer
    return body + meta + index + footer + fill * (40 - len(footer)) + MAGIC


def simple(rows: list[tuple[bytes, bytes]], **parts: Any) -> bytes:
    """A table of one block, where nothing is shared."""
    return table([(b"\xff\xff", sealed(block([row(key, value) for key, value in rows])))], **parts)


X = b"8 bytes."
GOOD = entry(X)


def files(index: bytes, *data: bytes) -> dict[str, bytes]:
    """The files of a bundle with so many shards."""
    data = data or (X,)
    return {INDEX: index} | {f"model.ckpt.data-{at:05}-of-{len(data):05}": content for at, content in enumerate(data)}


def bundle(
    *rows: tuple[bytes, bytes], data: tuple[bytes, ...] = (X,), header: bytes = HEADER, **parts: Any
) -> dict[str, bytes]:
    """A bundle of a header and these keys and values."""
    return files(simple([(b"", header), *rows], **parts), *data)


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: dict[str, bytes], why: str, read: str | None = None
) -> Case:
    words = (words,) if isinstance(words, str) else words
    return Case(name, rule if "." in rule else f"tensorbundle.{rule}", words, content, next(iter(content)), read, why)


def _one(
    name: str, rule: str, words: str | tuple[str, ...], value: bytes, why: str, data: bytes = X, read: str | None = None
) -> Case:
    """A bundle with one tensor, x."""
    return _case(name, rule, words, bundle((b"x", value), data=(data,)), why, read)


# --- the cases --------------------------------------------------------------------------------------------------------------


def _footers() -> list[Case]:
    rows, good = [(b"", HEADER), (b"x", GOOD)], bundle((b"x", GOOD))[INDEX]
    where = len(good) - 48
    ten = b"\x80" * 9 + b"\x02"
    return [
        _case(
            "footer-not-filled-with-zeros",
            "footer",
            "not filled with zeros",
            files(simple(rows, fill=b"\1")),
            "40 bytes of handles, but no zeros",
        ),
        _case(
            "footer-of-another-magic",
            "format.unknown",
            "no checkpoint format",
            files(good[:-1] + b"\xda"),
            "one bit of the last byte",
        ),
        _case(
            "index-cut-by-one-byte",
            "format.unknown",
            "no checkpoint format",
            files(good[:-1]),
            "the magic number is cut",
        ),
        _case(
            "byte-after-the-footer",
            "format.unknown",
            "no checkpoint format",
            files(good + b"\0"),
            "the magic number is not at the end",
        ),
        _case(
            "only-a-footer",
            "blocks",
            ("index block", "not where"),
            files(handle(0, 8) + handle(13, 8) + bytes(36) + MAGIC),
            "handles of blocks that are not there",
        ),
        _case(
            "footer-without-handles",
            "varint",
            "not a varint",
            files(good[:where] + b"\xff" * 40 + MAGIC),
            "ten bytes that all say more follows",
        ),
        _case(
            "handle-of-65-bits",
            "varint",
            ("not a varint", "64 bits"),
            files(simple(rows, footer=ten + b"\0\0\0")),
            "the tenth byte of a varint is 2",
        ),
        _case(
            "handle-in-too-many-bytes",
            "varint",
            "not a varint",
            files(simple(rows, footer=b"\x80\0\0\0\0")),
            "a 0 in two bytes",
        ),
        _case(
            "index-block-beyond-the-file",
            "blocks",
            "index block",
            files(simple(rows, footer=handle(0, 8) + handle(2**40, 8))),
            "an offset of 2^40",
        ),
        _case(
            "index-block-of-2-to-the-63-bytes",
            "blocks",
            "index block",
            files(simple(rows, footer=handle(0, 8) + handle(0, 2**63))),
            "negative in a signed reader",
        ),
        _case(
            "bytes-before-the-metaindex",
            "blocks",
            "metaindex block",
            files(simple(rows, between=b"hidden")),
            "six bytes that no handle covers",
        ),
        _case(
            "trailing-bytes-in-the-index",
            "blocks",
            "index block",
            files(good[:where] + b"junk" + good[where:]),
            "four bytes between the index block and the footer",
        ),
    ]


def _handles() -> list[Case]:
    data = sealed(block([row(b"", HEADER), row(b"x", GOOD)]))
    rows = [row(b"\x01", handle(0, len(data) - 5)), row(b"\xfe", handle(0, len(data) - 5))]
    index = sealed(block(rows, [0, len(rows[0])]))
    twice = (
        data + EMPTY + index + (handle(len(data), 8) + handle(len(data) + 13, len(index) - 5)).ljust(40, b"\0") + MAGIC
    )
    return [
        _case(
            "bytes-after-a-handle",
            "handle",
            "bytes after a handle",
            files(table([(b"\xfe", data)], more=b"!")),
            "a third number in the index block",
        ),
        _case("same-block-twice", "blocks", "data block", files(twice), "two handles of one block: keys would repeat"),
        _case(
            "metaindex-with-an-entry",
            "metaindex",
            ("metaindex has entries", "filter."),
            files(table([(b"\xfe", data)], meta=sealed(block([row(b"filter.x", handle(0, 0))])))),
            "a filter block, which these tables do not have",
        ),
        _case("no-data-block", "header", "no header", files(table([])), "a table without any key"),
        _case(
            "empty-data-block",
            "keys",
            "without entries",
            files(table([(b"\x01", EMPTY), (b"\xfe", data)])),
            "a block without entries before the others",
        ),
    ]


def _blocks() -> list[Case]:
    rows = [row(b"", HEADER), row(b"x", GOOD)]
    content, at = block(rows), len(rows[0])
    flipped = bytearray(sealed(content))
    flipped[3] ^= 1

    def case(name: str, rule: str, words: str | tuple[str, ...], sealed_block: bytes, why: str) -> Case:
        return _case(name, rule, words, files(table([(b"\xfe", sealed_block)])), why)

    def restarts(*found: int) -> bytes:
        return sealed(block(rows, list(found)))

    def entries(*found: bytes) -> bytes:
        return sealed(block([rows[0], *found]))

    return [
        case(
            "block-with-a-wrong-checksum",
            "block-checksum",
            "wrong checksum of a block",
            sealed(content, crc=0),
            "0 for a checksum",
        ),
        case(
            "block-with-a-flipped-bit",
            "block-checksum",
            "wrong checksum of a block",
            bytes(flipped),
            "one bit of the header's value",
        ),
        case(
            "block-with-an-unmasked-checksum",
            "block-checksum",
            "wrong checksum of a block",
            sealed(content, crc=crc32c(content + b"\0")),
            "the plain CRC-32C",
        ),
        case(
            "block-of-zstandard",
            "compression",
            ("compression", "Zstandard"),
            sealed(content, 2),
            "type 2, which LevelDB has since 1.23",
        ),
        case(
            "block-of-unknown-compression",
            "compression",
            ("compression", "7"),
            sealed(content, 7),
            "a type that means nothing",
        ),
        case(
            "block-of-three-bytes",
            "restarts",
            "count of restarts",
            sealed(b"\1\0\0"),
            "too short for the count of restarts",
        ),
        case("no-restarts", "restarts", "count of restarts", restarts(), "a count of 0: such a block reads as empty"),
        case(
            "more-restarts-than-bytes",
            "restarts",
            "count of restarts",
            sealed(content[:-4] + u32(2**30)),
            "a count whose list has 4 GiB",
        ),
        case(
            "first-restart-not-0", "restarts", "restarts out of order", restarts(at), "the first entry cannot be found"
        ),
        case(
            "restarts-that-decrease", "restarts", "restarts out of order", restarts(0, at, at), "the same restart twice"
        ),
        case(
            "restart-inside-an-entry",
            "restarts",
            "no entry begins",
            restarts(0, at + 1),
            "a byte after an entry's beginning",
        ),
        case(
            "restart-that-shares",
            "entry",
            ("does not fit", "at most 0 bytes shared"),
            sealed(block([rows[0], row(b"x", GOOD), row(b"xy", GOOD, 1)], [0, at + len(rows[1])])),
            "an entry at a restart shares a byte",
        ),
        case(
            "shares-more-than-the-key-before",
            "entry",
            ("does not fit", "at most 1 bytes shared"),
            entries(row(b"x", GOOD), b"\2" + row(b"xyz", GOOD, 2)[1:]),
            "2 bytes of a key of 1",
        ),
        case("key-beyond-its-block", "entry", "does not fit", entries(b"\0" + varint(2**32) + b"\0x"), "4 GiB of key"),
        case(
            "value-beyond-its-block",
            "entry",
            "does not fit",
            entries(b"\0\1" + varint(200) + b"x"),
            "200 bytes of value, none there",
        ),
        case(
            "entry-cut-after-its-first-length",
            "entry",
            "does not fit",
            sealed(block([b"\0"])),
            "its other lengths would be those of the restarts",
        ),
        case(
            "keys-that-decrease",
            "keys",
            "keys do not increase",
            entries(row(b"y", GOOD), row(b"x", GOOD)),
            "y before x",
        ),
        case(
            "the-same-key-twice",
            "keys",
            "keys do not increase",
            entries(row(b"x", GOOD), row(b"x", GOOD)),
            "readers that search find either",
        ),
        case(
            "key-that-ends-where-the-one-before-goes-on",
            "keys",
            "keys do not increase",
            entries(row(b"xy", GOOD), row(b"x", GOOD)),
            "a prefix after what it is a prefix of",
        ),
        _case(
            "index-key-below-its-block",
            "keys",
            ("below its block's", "got:      b'a'"),
            files(table([(b"a", sealed(content))])),
            "a search for x would end before its block",
        ),
        _case(
            "index-key-above-the-next-block",
            "keys",
            "keys do not increase",
            files(table([(b"y", sealed(block(rows[:1]))), (b"\xfe", sealed(block(rows[1:])))])),
            "a search for x would end in the wrong block",
        ),
    ]


def snappy(content: bytes) -> bytes:
    """Compressed without finding anything to compress: one literal."""
    return varint(len(content)) + b"\xf4" + (len(content) - 1).to_bytes(2, "little") + content


def copying(content: bytes) -> bytes:
    """Compressed by Snappy: copies of four bytes or more that came before, each kind of copy in turn, and literals of one byte."""
    out, at, turn = varint(len(content)), 0, 0
    while at < len(content):
        size = 0
        for length in range(min(11, len(content) - at), 3, -1):
            found = content.find(content[at : at + length], 0, at + length - 1)
            if 0 <= found < at and at - found < 2048:
                size = length
                break
        if size:
            back, turn = at - found, (turn + 1) % 3
            if turn == 0:
                out += bytes([1 | (size - 4) << 2 | back >> 8 << 5, back & 255])
            else:
                out += bytes([1 + turn | (size - 1) << 2]) + back.to_bytes(2 * turn, "little")
        else:
            out += b"\0" + content[at : at + 1]
            size = 1
        at += size
    return out


def _compressed() -> list[Case]:
    content = block([row(b"", HEADER), row(b"x", GOOD)])

    def case(name: str, words: str | tuple[str, ...], raw: bytes, why: str) -> Case:
        return _case(name, "snappy", words, files(table([(b"\xfe", sealed(raw, 1))])), why)

    return [
        case("snappy-of-5-gib", "too large", varint(5 << 30) + b"\0x", "a length that no block can have"),
        case(
            "snappy-shorter-than-announced",
            "not the announced length",
            varint(len(content) + 1) + snappy(content)[1:],
            "one byte less than announced",
        ),
        case(
            "snappy-longer-than-announced",
            "not the announced length",
            varint(len(content) - 1) + snappy(content)[1:],
            "one byte more than announced",
        ),
        case("snappy-literal-cut-off", "a literal is cut off", snappy(content)[:-1], "the last byte is missing"),
        case(
            "snappy-copy-from-before-the-beginning",
            ("copy from outside", "1 to 1"),
            varint(9) + b"\0x" + b"\1\2",
            "2 bytes back after 1",
        ),
        case(
            "snappy-copy-from-nowhere",
            ("copy from outside", "got:      0"),
            varint(9) + b"\0x" + b"\1\0",
            "0 bytes back",
        ),
        case(
            "snappy-copy-cut-off",
            "an element is cut off",
            varint(9) + b"\0x" + b"\3\1\0",
            "two bytes of an offset of four",
        ),
    ]


def _headers() -> list[Case]:
    row_x = (b"x", GOOD)

    def case(name: str, rule: str, words: str | tuple[str, ...], header: bytes, why: str) -> Case:
        return _case(name, rule, words, bundle(row_x, header=header), why)

    return [
        _case("no-header", "header", ("no header", "got:      b'x'"), files(simple([row_x])), "the first key is x"),
        case("no-shards", "header", "0 shards", number(1, 0), "a count of 0"),
        case("negative-shards", "header", "-1 shards", number(1, -1), "a count of -1"),
        case("byte-order-2", "header", "byte order 2", HEADER + number(2, 2), "neither little nor big endian"),
        case(
            "header-of-a-later-version",
            "version",
            ("version", "min_consumer 2"),
            number(1, 1) + message(3, number(1, 9) + number(2, 2)),
            "readers of version 1 are to refuse it",
        ),
        case(
            "header-for-all-but-version-1",
            "version",
            ("version", "bad_consumers 0501"),
            number(1, 1) + message(3, number(1, 1) + message(3, b"\5\1")),
            "version 1 is listed as a bad consumer",
        ),
        case("header-cut-off", "proto", "longer than its message", HEADER[:-1], "the last byte is missing"),
        case(
            "header-of-2-to-the-40-shards",
            "proto",
            "num_shards is too large",
            number(1, 2**40 + 1),
            "1 in a reader that keeps 32 bits",
        ),
        _case(
            "no-file-of-data",
            "files",
            ("missing", "data-00000-of-00002"),
            bundle(row_x, header=number(1, 2)),
            "two shards, but a file named for one",
        ),
        _case(
            "second-shard-missing",
            "files",
            ("missing", "data-00001-of-00002"),
            {INDEX: bundle(row_x, header=number(1, 2))[INDEX], "model.ckpt.data-00000-of-00002": X},
            "one of two files",
        ),
        _case(
            "index-of-another-name",
            "files",
            "not named so",
            {"model.meta": bundle(row_x)[INDEX], DATA: X},
            "PREFIX cannot be told",
        ),
    ]


def _messages() -> list[Case]:
    return [
        _one("entry-cut-off", "proto", "longer than its message", GOOD[:-1], "the checksum has three bytes"),
        _one("field-number-0", "proto", ("not the number of a field", "0"), GOOD + b"\0\0", "numbers begin with 1"),
        _one(
            "group",
            "proto",
            ("not a kind of field", "a group"),
            GOOD + b"\x5b\x5c",
            "field 11 as a group, which is skipped by nesting",
        ),
        _one("kind-7", "proto", ("not a kind of field", "7"), GOOD + b"\x5f", "a kind that does not exist"),
        _one(
            "dtype-as-bytes",
            "proto",
            "wrong kind of field dtype",
            GOOD[2:] + message(1, b"\1"),
            "a number in a field of bytes",
        ),
        _one(
            "dtype-twice",
            "proto",
            "field dtype occurs twice",
            GOOD + number(1, 3),
            "readers that take the first and the last differ",
        ),
        _one(
            "shape-twice",
            "proto",
            "field shape occurs twice",
            GOOD + message(2, shaped(1)),
            "readers that merge see two axes",
        ),
        _one(
            "field-of-2-to-the-62-bytes",
            "proto",
            "longer than its message",
            GOOD + varint(98) + varint(2**62),
            "an unknown field longer than the file",
        ),
        _one(
            "tag-of-40-bits",
            "proto",
            "not the number of a field",
            GOOD + varint(2**40) + b"\0",
            "a field number above 2^29",
        ),
        _one(
            "size-in-eleven-bytes",
            "varint",
            "not a varint",
            GOOD[:-7] + b"\x28" + b"\x88" + b"\x80" * 9 + b"\0",
            "more bytes than 64 bits need",
        ),
        _one(
            "dtype-of-33-bits",
            "proto",
            "dtype is too large",
            entry(X, 2**32 + 1),
            "float32 in a reader that keeps 32 bits",
        ),
        _one("empty-entry", "dtype", "no dtype", b"", "all fields absent"),
    ]


def _tensors() -> list[Case]:
    def dtype(name: str, code: int, got: str, why: str) -> Case:
        return _one(name, "dtype", ("dtype that is not read", got), entry(X, code), why)

    def shape(name: str, rule: str, words: str | tuple[str, ...], raw: bytes, why: str, **more: Any) -> Case:
        return _one(name, rule, words, entry(X, shape=raw, **more), why)

    return [
        dtype("dtype-resource", 20, "resource", "a handle to something outside the file"),
        dtype("dtype-variant", 21, "variant", "an object of a registered class"),
        dtype("dtype-reference", 101, "a reference to dtype 1", "a reference to float32"),
        dtype("dtype-99", 99, "dtype 99", "a number without meaning"),
        dtype("dtype-negative", -1, "dtype -1", "a number without meaning"),
        shape("axis-negative", "shape", "wrong shape", shaped(-2), "minus two"),
        shape("axes-negative-twice", "shape", "wrong shape", shaped(-1, -2), "their product is right"),
        shape("rank-unknown", "shape", "unknown rank", number(3, 1), "a shape that is not known"),
        shape("axes-65", "shape", "65 axes", shaped(2, *[1] * 64), "one more than an array can have"),
        shape(
            "axis-2-to-the-62",
            "array",
            "no array has this shape",
            shaped(2**62, 0),
            "no elements, but strides that overflow",
            size=0,
        ),
        shape(
            "axes-that-overflow",
            "array",
            "no array has this shape",
            shaped(2**32, 2**32),
            "2^64 elements are 0 in 64 bits",
            size=0,
        ),
        shape("size-too-small", "size", ("does not match", "12 bytes"), shaped(3), "three elements in 8 bytes"),
        shape("size-too-large", "size", ("does not match", "4 bytes"), shaped(1), "one element in 8 bytes"),
        shape("size-negative", "size", ("does not match", "-8"), shaped(2), "minus eight", size=-8),
        shape("scalar-of-8-bytes", "size", ("does not match", "4 bytes"), b"", "a scalar of float32"),
        _one("shard-1-of-1", "shard", ("no such shard", "got:      1"), entry(X, shard=1), "the first after the last"),
        _one(
            "shard-negative", "shard", ("no such shard", "got:      -1"), entry(X, shard=-1), "the last one in Python"
        ),
        _one(
            "offset-beyond-the-data",
            "range",
            ("reaches beyond", "from 1"),
            entry(X, offset=1),
            "one byte of it is not there",
        ),
        _one("offset-negative", "range", ("reaches beyond", "from -1"), entry(X, offset=-1), "before the beginning"),
        _one(
            "offset-2-to-the-63-minus-1",
            "range",
            "reaches beyond",
            entry(X, offset=2**63 - 1),
            "wraps when the size is added",
        ),
        _one(
            "data-cut-by-one-byte",
            "range",
            ("data-00000-of-00001, byte 0", "within 7 bytes"),
            GOOD,
            "the last byte is missing",
            X[:-1],
        ),
        _one(
            "empty-tensor-beyond-the-data",
            "range",
            "reaches beyond",
            entry(b"", shape=shaped(0), offset=9),
            "no bytes, but not there",
        ),
        _one("one-byte-after-the-data", "gap", "bytes of no tensor", GOOD, "a byte that is not 0", X + b"!"),
        _one(
            "a-page-of-zeros-after-the-data",
            "gap",
            ("bytes of no tensor", "4096"),
            GOOD,
            "more than alignment needs",
            X + bytes(4096),
        ),
        _case(
            "bytes-between-tensors",
            "gap",
            ("bytes of no tensor", "byte 8"),
            bundle((b"x", GOOD), (b"y", entry(X, offset=10)), data=(X + b"??" + X,)),
            "two bytes that are not 0",
        ),
        _case(
            "overlapping-tensors",
            "overlap",
            ("overlap", "byte 4", "'y'"),
            bundle((b"x", GOOD), (b"y", entry(X[4:] + X[:4], offset=4)), data=(X + X[:4],)),
            "the second begins in the first",
        ),
        _case(
            "the-same-bytes-twice",
            "overlap",
            "two tensors overlap",
            bundle((b"x", GOOD), (b"y", GOOD)),
            "two names for the same bytes: many names for one would expand",
        ),
        _case(
            "shard-that-nothing-is-in",
            "unused-shard",
            ("without tensors", "5 bytes"),
            bundle((b"x", GOOD), header=number(1, 2), data=(X, b"5 byt")),
            "a second file that no entry names",
        ),
        _case("name-not-utf-8", "name", "not UTF-8", bundle((b"\xff", GOOD)), "a byte that no text has"),
        _case("name-that-is-half-a-character", "name", "not UTF-8", bundle((b"\xe8\x8b", GOOD)), "two bytes of three"),
    ]


def _bytes_of_tensors() -> list[Case]:
    return [
        _one(
            "tensor-with-a-flipped-bit",
            "checksum",
            "wrong checksum of a tensor",
            GOOD,
            "one bit of the data",
            b"9" + X[1:],
            "x",
        ),
        _one(
            "tensor-with-an-unmasked-checksum",
            "checksum",
            "wrong checksum of a tensor",
            entry(X, crc=crc32c(X)),
            "the plain CRC-32C",
            X,
            "x",
        ),
        _one(
            "tensor-without-a-checksum",
            "checksum",
            ("wrong checksum", "0x00000000"),
            GOOD[:-5],
            "an absent field is 0",
            X,
            "x",
        ),
        _one(
            "empty-tensor-with-a-wrong-checksum",
            "checksum",
            ("wrong checksum", "got:      0xa282ead8"),
            entry(b"", shape=shaped(0), crc=1),
            "that of nothing is known",
            b"",
            "x",
        ),
        _one(
            "bool-of-2",
            "bits",
            ("bits that its dtype does not", "bool", "2"),
            entry(b"\0\1\2", 10, shaped(3)),
            "neither true nor false",
            b"\0\1\2",
            "x",
        ),
        _one(
            "int4-of-16",
            "bits",
            ("bits that its dtype does not", "int4", "16"),
            entry(b"\x0f\x10", 29, shaped(2)),
            "a fifth bit",
            b"\x0f\x10",
            "x",
        ),
    ]


def strings(*parts: bytes, lengths: bytes | None = None, crc: int | None = None) -> tuple[bytes, int]:
    """(the bytes of a string tensor, its checksum)."""
    fixed = b"".join(u32(len(part)) for part in parts)
    mid = u32(masked(fixed) if crc is None else crc)
    written = b"".join(varint(len(part)) for part in parts) if lengths is None else lengths
    return written + mid + b"".join(parts), masked(fixed + mid + b"".join(parts))


def _strings() -> list[Case]:
    def case(
        name: str, rule: str, words: str | tuple[str, ...], made: tuple[bytes, int], why: str, shape: bytes = shaped(2)
    ) -> Case:
        data, crc = made
        return _one(name, rule, words, entry(data, 7, shape, crc=crc), why, data)

    good, crc = strings(b"one", b"three")
    empty = entry(b"", shape=shaped(2), dtype=7)
    return [
        case(
            "strings-with-a-wrong-checksum-of-lengths",
            "strings",
            "checksum of the lengths",
            strings(b"one", b"three", crc=0),
            "0 for a checksum",
        ),
        case(
            "strings-with-a-wrong-checksum", "checksum", "wrong checksum of a tensor", (good, crc ^ 1), "one bit of it"
        ),
        case(
            "strings-that-do-not-fill-their-bytes",
            "strings",
            ("do not fill", "15 bytes"),
            (good + b"!", crc),
            "a byte after the last element",
        ),
        case("strings-longer-than-their-bytes", "strings", "do not fill", (good[:-1], crc), "the last element is cut"),
        case(
            "strings-of-2-to-the-63-bytes",
            "strings",
            "do not fill",
            strings(b"one", lengths=varint(2**63) + varint(2**63)),
            "lengths whose sum is 0 in 64 bits",
        ),
        case(
            "more-strings-than-bytes",
            "strings",
            "too few bytes for so many strings",
            (good, crc),
            "2^40 elements",
            shaped(2**40),
        ),
        case("string-length-cut-off", "varint", "not a varint", (b"\x80" * 6, 0), "lengths without an end"),
        _one(
            "strings-without-bytes",
            "strings",
            "too few bytes for so many strings",
            empty,
            "two elements, no lengths",
            b"",
        ),
        case(
            "empty-lists-without-end",
            "budget.heap",
            "more than its size allows",
            strings(),
            "2^40 lists of no strings",
            shaped(2**40, 0),
        ),
    ]


# --- partitioned tensors ----------------------------------------------------------------------------------------------------


def ordered(value: int) -> bytes:
    """A signed number below 64, or below 8192, as keys of slices hold it."""
    return bytes([0x80 ^ value & 0xFF]) if -64 <= value < 64 else (0xC000 ^ value).to_bytes(2, "big")


def slice_key(name: bytes, *extents: tuple[int, int]) -> bytes:
    escaped = name.replace(b"\0", b"\0\xff")
    return (
        b"\0" + escaped + b"\0\1\1" + bytes([len(extents)]) + b"".join(ordered(n) for extent in extents for n in extent)
    )


def extents(*found: tuple[int, int] | None) -> bytes:
    """A slice: start and length of each axis, None for a whole one."""
    return message(
        7,
        b"".join(
            message(1, b"" if extent is None else number(1, extent[0]) + number(2, extent[1])) for extent in found
        ),
    )


def partitioned(shape: tuple[int, ...], *slices: tuple[Any, ...], dtype: int = 1, **more: Any) -> dict[str, bytes]:
    """A float32 tensor x in slices of (start, length) or None for each axis; more: rows to replace or, if None, to leave out."""
    rows, data = {}, b""
    for part in slices:
        sizes = [size if extent is None else extent[1] for extent, size in zip(part, shape, strict=False)]
        count = 4
        for size in sizes:
            count *= max(size, 0)
        content = bytes(at % 251 for at in range(count))
        key = slice_key(b"x", *((0, -1) if extent is None else extent for extent in part))
        rows[key] = entry(content, dtype, shaped(*sizes), offset=len(data))
        data += content
    full = number(1, dtype) + message(2, shaped(*shape)) + b"".join(extents(*part) for part in slices)
    rows |= {b"x": full} | more.get("rows", {})
    kept = sorted((key, value) for key, value in rows.items() if value is not None)
    return bundle(*kept, data=(data,))


def _slices() -> list[Case]:
    two = ((0, 2), None), ((2, 1), None)
    first, second = slice_key(b"x", (0, 2), (0, -1)), slice_key(b"x", (2, 1), (0, -1))
    pinwheel = ((0, 2), (0, 1)), ((2, 1), (0, 2)), ((1, 2), (2, 1)), ((0, 1), (1, 2))

    def case(name: str, rule: str, words: str | tuple[str, ...], content: dict[str, bytes], why: str) -> Case:
        return _case(name, rule, words, content, why)

    nested = {first: number(1, 1) + message(2, shaped(2, 2)) + extents((0, 1), None) + extents((1, 1), None)}
    for at in range(2):
        nested[slice_key(first, (at, 1), (0, -1))] = entry(
            bytes(range(8 * at, 8 * at + 8)), 1, shaped(1, 2), offset=8 * at
        )
    many = [tuple((1, 1) if at == axis else (0, 1) if at < axis else None for at in range(9)) for axis in range(9)]
    return [
        case("slices-with-a-hole", "tiling", "a hole", partitioned((4, 2), *two), "the last row is in no slice"),
        case(
            "slices-that-overlap",
            "tiling",
            "an overlap between",
            partitioned((3, 2), ((0, 2), None), ((1, 2), None)),
            "the second row is in both",
        ),
        case(
            "slices-with-a-hole-and-an-overlap",
            "tiling",
            "an overlap and a hole",
            partitioned((4, 2), ((0, 2), None), ((1, 2), None)),
            "as many elements as the whole has",
        ),
        case(
            "pinwheel-without-its-middle",
            "tiling",
            "a hole",
            partitioned((3, 3), *pinwheel),
            "four slices around an element that none has",
        ),
        case(
            "slices-along-nine-axes",
            "tiling",
            "split along many axes",
            partitioned((2,) * 9, *many, tuple((0, 1) for _ in range(9))),
            "each axis doubles the corners to be counted",
        ),
        case(
            "slice-beyond-its-tensor",
            "slices",
            "not a slice of its tensor",
            partitioned((3, 2), *two, ((3, 1), None)),
            "a fourth row of three",
        ),
        case(
            "slice-that-begins-before-its-tensor",
            "slices",
            "not a slice of its tensor",
            partitioned((3, 2), ((-1, 3), None), ((2, 1), None)),
            "a start of -1",
        ),
        case(
            "slice-of-length-minus-2",
            "slices",
            "not a slice of its tensor",
            partitioned((3, 2), *two, ((0, -2), None), rows={slice_key(b"x", (0, -2), (0, -1)): None}),
            "less than the -1 that means all",
        ),
        case(
            "slice-of-another-rank", "slices", "another rank", partitioned((3, 2), ((0, 3),)), "one extent for two axes"
        ),
        case(
            "slice-that-is-the-whole",
            "slices",
            "not a slice of its tensor",
            partitioned((3, 2), (None, None)),
            "no extent has a length",
        ),
        case("slice-of-a-scalar", "slices", "not a slice of its tensor", partitioned((), ()), "a tensor without axes"),
        case(
            "slice-not-stored",
            "slices",
            "a slice is not stored",
            partitioned((3, 2), *two, rows={second: None}),
            "no key for the second",
        ),
        case(
            "slice-listed-twice",
            "slices",
            "a slice is listed twice",
            partitioned((3, 2), *two, two[1]),
            "the same slice again",
        ),
        case(
            "slice-without-elements",
            "slices",
            "not a slice of its tensor",
            partitioned((3, 2), *two, ((1, 0), None)),
            "no row between two slices",
        ),
        case(
            "slice-of-another-dtype",
            "slices",
            ("stored as something else", "(3, (1, 2))"),
            partitioned(
                (3, 2), *two, rows={second: entry(bytes(at % 251 for at in range(8)), 3, shaped(1, 2), offset=16)}
            ),
            "int32 for float32",
        ),
        case(
            "slice-of-another-shape",
            "slices",
            ("stored as something else", "(1, (2, 1))"),
            partitioned(
                (3, 2), *two, rows={second: entry(bytes(at % 251 for at in range(8)), 1, shaped(2, 1), offset=16)}
            ),
            "turned, with as many elements",
        ),
        case(
            "slice-in-slices",
            "slices",
            "stored as something else",
            partitioned((3, 2), *two, rows=nested),
            "a slice that is partitioned itself",
        ),
        case(
            "slice-of-no-tensor",
            "slices",
            "a slice of no tensor",
            partitioned((3, 2), *two, rows={b"x": None}),
            "the entry of the whole is missing",
        ),
        case(
            "name-that-begins-with-zero",
            "slices",
            "begins with zero",
            bundle((b"\0x", GOOD)),
            "it would sort among the slices",
        ),
        case(
            "strings-in-slices",
            "dtype",
            "partitioned tensor of strings",
            partitioned((2,), ((0, 1),), ((1, 1),), dtype=7),
            "strings are never partitioned",
        ),
    ]


def _budgets() -> list[Case]:
    none, long = entry(b"", shape=shaped(0)), b"n" * 20000
    sharing = [row(long + b"%03d" % at, none, len(long)) for at in range(240)]
    numbered = [row(b"%05d" % at, b"", 0 if at % 10 == 0 else 4) for at in range(40000)]

    def case(name: str, key: bytes, rows: list[bytes], why: str) -> Case:
        return _case(
            name, "budget.heap", "more than its size allows", files(table([(key, sealed(block(rows)))]), b""), why
        )

    return [
        case(
            "names-that-expand",
            b"o",
            [row(b"", HEADER), row(long, none), *sharing],
            "240 names of 20003 bytes, of which each holds three",
        ),
        case("names-without-end", b"9", [row(b"", HEADER), *numbered], "40000 names in four or eight bytes each"),
        _one(
            "slices-without-end",
            "budget.heap",
            "more than its size allows",
            entry(b"", shape=b"", after=b"\x3a\0" * 70000),
            "70000 slices of two bytes",
        ),
    ]


def cases() -> list[Case]:
    """Malformed bundles; append only, the numbers of the corpus go by the order."""
    made = [
        _footers,
        _handles,
        _blocks,
        _compressed,
        _headers,
        _messages,
        _tensors,
        _bytes_of_tensors,
        _strings,
        _slices,
        _budgets,
    ]
    return [case for make in made for case in make()]


def good() -> list[Case]:
    """Well-formed bundles of the same builder."""
    content = block([row(b"", HEADER), row(b"x", GOOD)])
    big = bundle((b"x", entry(X, 4, shaped(8))), header=HEADER + number(2, 1))
    tensors = [(b"", HEADER), *((b"layer/%02d/kernel" % at, entry(X, offset=8 * at)) for at in range(12))]
    packed = block([row(key, value) for key, value in tensors])
    made = {
        "one-tensor": bundle((b"x", GOOD)),
        "no-tensors": bundle(data=(b"",)),
        "header-of-version-0": bundle((b"x", GOOD), header=number(1, 1)),
        "big-endian": big,
        "unknown-fields": bundle(
            (b"x", GOOD + number(9, 7) + message(10, b"more") + varint(93) + b"1234" + varint(97) + b"12345678")
        ),
        "two-blocks": files(
            table([(b"a", sealed(block([row(b"", HEADER)]))), (b"\xfe", sealed(block([row(b"x", GOOD)])))])
        ),
        "snappy": files(table([(b"\xfe", sealed(snappy(content), 1))])),
        "aligned-tensors": bundle((b"x", GOOD), (b"y", entry(X, offset=64)), data=(X + bytes(56) + X + bytes(56),)),
        "strings": bundle(
            (b"x", entry(strings(b"one", b"")[0], 7, shaped(2), crc=strings(b"one", b"")[1])),
            data=(strings(b"one", b"")[0],),
        ),
        "slices": partitioned((3, 2), ((0, 2), None), ((2, 1), None)),
        "pinwheel": partitioned(
            (3, 3), ((0, 2), (0, 1)), ((2, 1), (0, 2)), ((1, 2), (2, 1)), ((0, 1), (1, 2)), ((1, 1), (1, 1))
        ),
        "two-shards": bundle((b"x", GOOD), (b"y", entry(X, shard=1)), header=number(1, 2), data=(X, X)),
        "snappy-with-copies": files(table([(b"m", sealed(copying(packed), 1))]), X * 12),
    }
    return [Case(name, "", (), content, INDEX) for name, content in made.items()]
