"""Malformed HDF5 files, each a good file with one thing wrong; written here byte by byte with `struct`, by no HDF5 library.

Every field of the four good files has a name ("root.tree.entries"), and a case changes one of them; checksums are computed after the change, so that
a reader gets to the field that is wrong. `tests/fuzz/hdf5.py` changes many at once.
"""

# ruff: noqa: E501 - the tables of cases, one a line

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from malformed.case import Case

__all__ = ["FILES", "Builder", "cases", "good"]

NOWHERE = 0xFFFFFFFFFFFFFFFF
F4 = [1.5, -2.0, 3.25, 0.0, 1e-40, 7.0]


# --- checksums, in their textbook form --------------------------------------------------------------------------------------


def rot(x: int, k: int) -> int:
    return (x << k | x >> 32 - k) & 0xFFFFFFFF


def lookup3(data: bytes) -> int:
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    words = struct.unpack(f"<{len(data) // 12 * 3 + 3}I", data.ljust(len(data) // 12 * 12 + 12, b"\0"))
    last = 12 * ((len(data) - 1) // 12) if data else 0
    for i in range(0, last // 4, 3):
        a, b, c = (a + words[i]) & 0xFFFFFFFF, (b + words[i + 1]) & 0xFFFFFFFF, (c + words[i + 2]) & 0xFFFFFFFF
        for shift in (4, 6, 8, 16, 19, 4):
            a, c = (a - c) & 0xFFFFFFFF ^ rot(c, shift), (c + b) & 0xFFFFFFFF
            a, b, c = b, c, a  # each step is the one before, with the letters turned
    if not data:
        return c
    a, b, c = ((x + y) & 0xFFFFFFFF for x, y in zip((a, b, c), words[last // 4 : last // 4 + 3], strict=True))
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rot(b, shift)) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b


def fletcher32(data: bytes) -> int:
    first = second = 0
    for i in range(0, len(data), 2):
        first = (first + int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")) % 65535
        second = (second + first) % 65535
    if any(data):  # the library's sums are 65535 where a sum is a multiple of it
        first, second = first or 65535, second or 65535
    return second << 16 | first


# --- fields -----------------------------------------------------------------------------------------------------------------


class Builder:
    """The bytes of one file; `changes` maps names of fields to other values, or to functions of the good value."""

    def __init__(self, changes: dict[str, Any] | None = None) -> None:
        self.changes, self.fields, self.data = dict(changes or {}), {}, bytearray()
        self.base = 0

    def pick(self, name: str, value: Any) -> Any:
        self.fields[name] = value
        change = self.changes.get(name, value)
        return change(value) if isinstance(change, Callable) else change  # type: ignore[arg-type]

    def u(self, name: str, value: int, width: int) -> bytes:
        return (self.pick(name, value) % (1 << 8 * width)).to_bytes(width, "little")

    def sealed(self, name: str, raw: bytes) -> bytes:
        return raw + self.u(f"{name}.checksum", lookup3(raw), 4)

    def reserve(self, size: int) -> int:
        address = len(self.data) + -len(self.data) % 8
        self.data += bytes(address + size - len(self.data))
        return address

    def add(self, raw: bytes) -> int:
        address = self.reserve(len(raw))
        self.put(address, raw)
        return address

    def put(self, address: int, raw: bytes) -> None:
        self.data[address : address + len(raw)] = raw


def padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 8)


# --- messages ---------------------------------------------------------------------------------------------------------------


def dataspace(
    b: Builder, p: str, shape: tuple[int, ...], most: tuple[int, ...] | None = None, version: int = 1
) -> bytes:
    raw = (
        b.u(f"{p}.version", version, 1) + b.u(f"{p}.axes", len(shape), 1) + b.u(f"{p}.flags", int(most is not None), 1)
    )
    raw += bytes(5) if version == 1 else b.u(f"{p}.type", 1 if shape else 0, 1)
    raw += b"".join(b.u(f"{p}.axis{i}", length, 8) for i, length in enumerate(shape))
    return raw + b"".join(b.u(f"{p}.most{i}", length, 8) for i, length in enumerate(most or ()))


def datatype(b: Builder, p: str, kind: str, size: int, bits: int = 0) -> bytes:
    """Versions 1; kinds: fixed, float, text, opaque, compound, variable."""
    number = {"fixed": 0, "float": 1, "text": 3, "opaque": 5, "compound": 6, "reference": 7, "variable": 9}[kind]
    raw = b.u(f"{p}.class", 0x10 | number, 1) + b.u(f"{p}.bits", bits, 3) + b.u(f"{p}.size", size, 4)
    if kind in ("fixed", "float"):
        raw += b.u(f"{p}.offset", 0, 2) + b.u(f"{p}.precision", 8 * size, 2)
    if kind == "float":
        layout = {2: (10, 5, 0, 10, 15), 4: (23, 8, 0, 23, 127), 8: (52, 11, 0, 52, 1023)}[size]
        raw += (
            bytes(layout[:2]) + b.u(f"{p}.mantissa", layout[2], 1) + bytes([layout[3]]) + b.u(f"{p}.bias", layout[4], 4)
        )
    if kind == "variable":
        raw += struct.pack("<B3sIHH", 0x13, b"\0\0\0", 1, 0, 0)[:8]
    return raw


def f4(b: Builder, p: str) -> bytes:
    return datatype(b, p, "float", 4, 0x1F20)


def boolean(b: Builder, p: str) -> bytes:
    raw = b.u(f"{p}.class", 0x18, 1) + b.u(f"{p}.members", 2, 3) + b.u(f"{p}.size", 1, 4)
    raw += (
        struct.pack("<B3sIHH", 0x10, b"\x08\0\0", 1, 0, 8)
        if b.pick(f"{p}.base", 1)
        else struct.pack("<B3sIHH", 0x10, b"", 2, 0, 16)
    )
    return raw + padded(b"FALSE\0") + padded(b.pick(f"{p}.second", b"TRUE\0")) + bytes([0, 1])


def fill(b: Builder, p: str, value: bytes) -> bytes:
    raw = b.u(f"{p}.version", 2, 1) + bytes([2]) + b.u(f"{p}.written", 0, 1) + b.u(f"{p}.defined", 1, 1)
    return raw + b.u(f"{p}.size", len(value), 4) + value


def contiguous(b: Builder, p: str, address: int, size: int) -> bytes:
    return (
        b.u(f"{p}.version", 3, 1)
        + b.u(f"{p}.class", 1, 1)
        + b.u(f"{p}.address", address, 8)
        + b.u(f"{p}.size", size, 8)
    )


def compact(b: Builder, p: str, raw: bytes) -> bytes:
    return b.u(f"{p}.version", 3, 1) + b.u(f"{p}.class", 0, 1) + b.u(f"{p}.size", len(raw), 2) + raw


def chunked(b: Builder, p: str, address: int, chunk: tuple[int, ...], size: int) -> bytes:
    raw = b.u(f"{p}.version", 3, 1) + b.u(f"{p}.class", 2, 1) + b.u(f"{p}.axes", len(chunk) + 1, 1)
    raw += b.u(f"{p}.address", address, 8) + b"".join(b.u(f"{p}.chunk{i}", n, 4) for i, n in enumerate(chunk))
    return raw + b.u(f"{p}.element", size, 4)


def indexed(
    b: Builder, p: str, address: int, chunk: tuple[int, ...], size: int, kind: int, more: bytes = b"", flags: int = 0
) -> bytes:
    """Layout of version 4, with an index of that kind and its parameters."""
    raw = b.u(f"{p}.version", 4, 1) + b.u(f"{p}.class", 2, 1) + b.u(f"{p}.flags", flags, 1)
    raw += b.u(f"{p}.axes", len(chunk) + 1, 1) + bytes([b.pick(f"{p}.width", 1)])
    raw += b"".join(b.u(f"{p}.chunk{i}", n, b.pick(f"{p}.width", 1)) for i, n in enumerate((*chunk, size)))
    return raw + b.u(f"{p}.index", kind, 1) + more + b.u(f"{p}.address", address, 8)


def filters(b: Builder, p: str, size: int, kinds: tuple[int, ...] = (2, 1, 3)) -> bytes:
    """Version 1."""
    raw = b.u(f"{p}.version", 1, 1) + b.u(f"{p}.count", len(kinds), 1) + bytes(6)
    for i, kind in enumerate(kinds):
        values = {1: [6], 2: [size]}.get(kind, [])
        raw += b.u(f"{p}.filter{i}", kind, 2) + bytes(4) + struct.pack("<H", len(values))
        raw += b"".join(b.u(f"{p}.filter{i}.value", value, 4) for value in values) + bytes(4 * (len(values) % 2))
    return raw


def attribute(b: Builder, p: str, name: bytes, kind: bytes, space: bytes, value: bytes, version: int = 1) -> bytes:
    name = b.pick(f"{p}.name", name + b"\0")
    raw = b.u(f"{p}.version", version, 1) + b.u(f"{p}.flags", 0, 1)
    raw += b.u(f"{p}.name_size", len(name), 2) + struct.pack("<HH", len(kind), len(space)) + bytes(version == 3)
    parts = [name, kind, space] if version == 3 else [padded(name), padded(kind), padded(space)]
    return raw + b"".join(parts) + value


def link(b: Builder, p: str, name: bytes, address: int | None, target: bytes = b"") -> bytes:
    kind = b.pick(f"{p}.kind", 0 if address is not None else 1)
    name = b.pick(f"{p}.name", name)
    raw = b.u(f"{p}.version", 1, 1) + b.u(f"{p}.flags", 0x18, 1) + bytes([kind]) + b.u(f"{p}.charset", 1, 1)
    raw += b.u(f"{p}.length", len(name), 1) + name
    return raw + (b.u(f"{p}.address", address or 0, 8) if kind == 0 else struct.pack("<H", len(target)) + target)


# --- object headers ---------------------------------------------------------------------------------------------------------

Messages = list[tuple[int, str, bytes]]


def header1(b: Builder, p: str, messages: Messages, address: int | None = None, room: int = 0) -> int:
    """A header of version 1, at `address` or at the end."""
    body = b""
    for kind, name, raw in messages:
        raw = padded(raw)
        body += b.u(f"{p}.{name}.message", kind, 2) + b.u(f"{p}.{name}.message_length", len(raw), 2)
        body += b.u(f"{p}.{name}.message_flags", 0, 1) + bytes(3) + raw
    raw = b.u(f"{p}.version", 1, 1) + bytes(1) + b.u(f"{p}.count", len(messages), 2) + struct.pack("<I", 1)
    raw += b.u(f"{p}.size", len(body), 4) + bytes(4) + body
    assert not room or len(raw) <= room
    if address is None:
        return b.add(raw)
    b.put(address, raw)
    return address


def messages2(b: Builder, p: str, messages: Messages) -> bytes:
    body = b""
    for kind, name, raw in messages:
        body += (
            b.u(f"{p}.{name}.message", kind, 1)
            + b.u(f"{p}.{name}.message_length", len(raw), 2)
            + b.u(f"{p}.{name}.message_flags", 0, 1)
            + raw
        )
    return body


def header2(b: Builder, p: str, messages: Messages, address: int | None = None) -> int:
    """A header of version 2, with a size of four bytes."""
    body = messages2(b, p, messages)
    raw = (
        b.pick(f"{p}.signature", b"OHDR")
        + b.u(f"{p}.version", 2, 1)
        + b.u(f"{p}.flags", 2, 1)
        + b.u(f"{p}.size", len(body), 4)
        + body
    )
    raw = b.sealed(p, raw)
    if address is None:
        return b.add(raw)
    b.put(address, raw)
    return address


# --- old groups and superblock ----------------------------------------------------------------------------------------------


def superblock0(b: Builder, root: int, version: int = 0, leaf: int = 3, internal: int = 2) -> None:
    """With nodes of group trees of `internal` times two children, and of symbol tables of `leaf` times two entries."""
    raw = b.pick("superblock.magic", b"\x89HDF\r\n\x1a\n") + b.u("superblock.version", version, 1)
    raw += b.u("superblock.free_version", 0, 1) + bytes(3)
    raw += b.u("superblock.offsets", 8, 1) + b.u("superblock.lengths", 8, 1) + bytes(1)
    raw += b.u("superblock.leaf_k", leaf, 2) + b.u("superblock.internal_k", internal, 2) + bytes(4)
    raw += b.u("superblock.chunk_k", 2, 2) + bytes(2) if version else b""
    raw += b.u("superblock.base", b.base, 8) + b.u("superblock.free", NOWHERE, 8)
    raw += b.u("superblock.end", b.base + len(b.data), 8) + b.u("superblock.driver", NOWHERE, 8)
    raw += bytes(8) + b.u("superblock.root", root, 8) + bytes(24)
    b.put(0, raw)


def old_group(b: Builder, p: str, names: dict[bytes, int | bytes], leaf: int = 3, internal: int = 2) -> bytes:
    """A symbol table message, with the structures it leads to; an address is a hard link, bytes a soft one."""
    segment, offsets = bytearray(8), {}
    for text in [*sorted(names), *(target for target in names.values() if isinstance(target, bytes))]:
        offsets[text] = len(segment)
        segment += padded(b.pick(f"{p}.heap.{text.decode()}", text) + b"\0")
    start = b.add(bytes(segment))
    heap = b.pick(f"{p}.heap.signature", b"HEAP") + b.u(f"{p}.heap.version", 0, 1) + bytes(3)
    heap = b.add(
        heap + b.u(f"{p}.heap.size", len(segment), 8) + b.u(f"{p}.heap.free", 1, 8) + b.u(f"{p}.heap.address", start, 8)
    )
    entries = b""
    for name, target in sorted(names.items()):
        e, soft = f"{p}.{name.decode()}", isinstance(target, bytes)
        entries += b.u(f"{e}.name", offsets[name], 8) + b.u(
            f"{e}.address", NOWHERE if isinstance(target, bytes) else target, 8
        )
        entries += b.u(f"{e}.cache", 2 if soft else 0, 4) + bytes(4)
        entries += (b.u(f"{e}.target", offsets[target], 4) + bytes(12)) if isinstance(target, bytes) else bytes(16)
    node = b.pick(f"{p}.node.signature", b"SNOD") + b.u(f"{p}.node.version", 1, 1) + bytes(1)
    node = b.add((node + b.u(f"{p}.node.entries", len(names), 2) + entries).ljust(8 + 2 * leaf * 40, b"\0"))
    last = offsets[max(names)] if names else None
    return struct.pack("<QQ", old_tree(b, f"{p}.tree", node, last, internal), heap)


def old_tree(b: Builder, p: str, node: int, last: int | None, half: int) -> int:
    """A group's tree with one leaf, or with a node between; or an empty one."""
    for level in range(b.pick(f"{p}.levels", 1)):
        p, own = (p if level == 0 else f"{p}.upper"), len(b.data) + -len(b.data) % 8
        raw = b.pick(f"{p}.signature", b"TREE") + b.u(f"{p}.type", 0, 1) + b.u(f"{p}.level", level, 1)
        raw += b.u(f"{p}.entries", int(last is not None), 2) + struct.pack("<QQ", NOWHERE, NOWHERE)
        child = own if b.pick(f"{p}.cycle", False) else node
        raw += b.u(f"{p}.key0", 0, 8) + b.u(f"{p}.child", child, 8) + b.u(f"{p}.key1", last or 0, 8)
        node = b.add(raw.ljust(24 + 2 * half * 8 + (2 * half + 1) * 8, b"\0"))
    return node


def chunk_tree(b: Builder, p: str, chunks: list[tuple[int, int, int]], step: int, half: int = 32) -> int:
    """A chunk tree of one axis: (offset, bytes, address)."""
    raw = b.pick(f"{p}.signature", b"TREE") + b.u(f"{p}.type", 1, 1) + b.u(f"{p}.level", 0, 1)
    raw += b.u(f"{p}.entries", len(chunks), 2) + struct.pack("<QQ", NOWHERE, NOWHERE)
    for i, (offset, size, address) in enumerate(chunks):
        raw += b.u(f"{p}.size{i}", size, 4) + b.u(f"{p}.mask{i}", 0, 4) + b.u(f"{p}.offset{i}", offset, 8)
        raw += b.u(f"{p}.element{i}", 0, 8) + b.u(f"{p}.address{i}", address, 8)
    raw += struct.pack("<IIQQ", 0, 0, chunks[-1][0] + step, 0)
    return b.add(raw.ljust(24 + 2 * half * 8 + (2 * half + 1) * 24, b"\0"))


def heap_collection(b: Builder, p: str, texts: list[bytes]) -> int:
    raw = b""
    for i, text in enumerate(texts, 1):
        raw += b.u(f"{p}.index{i}", i, 2) + struct.pack("<HI", 1, 0) + b.u(f"{p}.size{i}", len(text), 8) + padded(text)
    raw += struct.pack("<HHIQ", 0, 0, 0, 4080 - len(raw)) + bytes(4064 - len(raw))
    prefix = b.pick(f"{p}.signature", b"GCOL") + b.u(f"{p}.version", 1, 1) + bytes(3)
    return b.add(prefix + b.u(f"{p}.size", len(raw) + 16, 8) + raw)


def compressed(b: Builder, p: str, raw: bytes, size: int) -> bytes:
    """Shuffled, deflated, with a Fletcher-32 checksum."""
    raw = b"".join(raw[i::size] for i in range(size))
    raw = b.pick(f"{p}.stream", zlib.compress(raw, 6))
    return raw + b.u(f"{p}.checksum", fletcher32(raw), 4)


def plain(changes: dict[str, Any] | None = None) -> Builder:
    """Superblock 0, headers 1: a contiguous and a compact dataset, in nodes as small as there can be."""
    b = Builder(changes)
    b.reserve(96)
    values = b.add(struct.pack("<6f", *F4))
    a: Messages = [
        (1, "space", dataspace(b, "a.space", (2, 3))),
        (3, "type", f4(b, "a.type")),
        (5, "fill", fill(b, "a.fill", b"")),
        (8, "layout", contiguous(b, "a.layout", values, 24)),
    ]
    a += [(kind, f"extra{i}", raw) for i, (kind, raw) in enumerate(b.pick("a.extra", []))]
    first = header1(b, "a", [message for message in a if message[1] not in b.pick("a.without", ())])
    flags = header1(b, "b", [
        (1, "space", dataspace(b, "b.space", (3,))),
        (3, "type", boolean(b, "b.type")),
        (8, "layout", compact(b, "b.layout", b.pick("b.values", b"\1\0\1"))),
    ])  # fmt: skip
    kind, shape = datatype(b, "root.names.type", "text", 2, 1), dataspace(b, "root.names.space", (2,))
    names = attribute(b, "root.names", b"names", kind, shape, b"a\0b\0")
    table = old_group(b, "root", {b"a": first, b"b": flags}, 1, 1)
    superblock0(b, header1(b, "root", [(17, "table", table), (12, "names", names)]), leaf=1, internal=1)
    return b


def old(changes: dict[str, Any] | None = None, user_block: int = 0) -> Builder:
    """Superblock 0, headers 1: contiguous datasets, two groups, soft and hard links, a committed datatype."""
    b = Builder(changes)
    b.base = user_block
    b.reserve(96)
    values = b.add(struct.pack("<6f", *F4))
    first = header1(b, "a", [
        (1, "space", dataspace(b, "a.space", (2, 3))),
        (3, "type", f4(b, "a.type")),
        (8, "layout", contiguous(b, "a.layout", values, 24)),
    ])  # fmt: skip
    named = header1(b, "t", [(3, "type", datatype(b, "t.type", "fixed", 2, 9))])
    twos = b.add(struct.pack(">2h", 258, -2))
    shared = b.u("d.type.shared_version", 2, 1) + b.u("d.type.shared_kind", 0, 1) + b.u("d.type.shared", named, 8)
    b.changes.setdefault("d.type.message_flags", 2)
    fourth = header1(b, "d", [
        (1, "space", dataspace(b, "d.space", (2,))),
        (3, "type", shared),
        (8, "layout", contiguous(b, "d.layout", twos, 4)),
    ])  # fmt: skip
    weight_names = attribute(
        b,
        "g.names",
        b"weight_names",
        datatype(b, "g.names.type", "text", 2, 1),
        dataspace(b, "g.names.space", (2,)),
        b"d\0e\0",
    )
    inner = {b"d": fourth, b"e": first}
    group = b.reserve(400)
    inner |= {b.pick("g.back_name", b"z"): group} if b.pick("g.back", False) else {}
    header1(b, "g", [(17, "table", old_group(b, "g", inner)), (12, "names", weight_names)], group, 400)
    layers = attribute(
        b,
        "root.names",
        b"layer_names",
        datatype(b, "root.names.type", "text", 1, 1),
        dataspace(b, "root.names.space", (1,)),
        b"g",
    )
    links: dict[bytes, int | bytes] = {b"a": first, b"g": group, b"s": b"/g/d", b"t": named}
    links |= b.pick("root.more", {})
    continued = b.reserve(200)
    table = (17, "table", old_group(b, "root", links))
    raw = padded(layers)
    tail = struct.pack("<HHBBH", 12, len(raw), 0, 0, 0) + raw
    b.put(continued, tail)
    where = b.u("root.continuation.address", continued, 8) + b.u("root.continuation.size", len(tail), 8)
    b.changes.setdefault("root.count", lambda count: count + 1)
    root = header1(b, "root", [table, (16, "continuation", where)])
    superblock0(b, root)
    return b


def chunks(changes: dict[str, Any] | None = None) -> Builder:
    """Superblock 1: a chunked dataset of six values, filtered, of which one chunk is missing, and the last reaches over the edge."""
    b = Builder(changes)
    b.reserve(100)
    parts = [compressed(b, f"c.chunk{i}", struct.pack("<2f", *F4[2 * i : 2 * i + 2]), 4) for i in range(3)]
    places = [(2 * i, len(raw), b.add(raw)) for i, raw in enumerate(parts) if i != 1]
    tree = chunk_tree(b, "c.tree", places, 2, 2)
    third = header1(b, "c", [
        (1, "space", dataspace(b, "c.space", (5,), (9,))),
        (3, "type", f4(b, "c.type")),
        (5, "fill", fill(b, "c.fill", struct.pack("<f", 2.5))),
        (8, "layout", chunked(b, "c.layout", tree, (2,), 4)),
        (11, "filters", filters(b, "c.filters", 4)),
    ])  # fmt: skip
    superblock0(b, header1(b, "root", [(17, "table", old_group(b, "root", {b"c": third}))]), 1)
    return b


def text(changes: dict[str, Any] | None = None) -> Builder:
    """An attribute of text of variable length, as Keras writes its lists of names."""
    b = Builder(changes)
    b.reserve(96)
    texts = heap_collection(b, "heap", [b"first", b"the second"])
    value = b"".join(
        b.u(f"names.length{i}", length, 4) + b.u(f"names.address{i}", texts, 8) + b.u(f"names.index{i}", i + 1, 4)
        for i, length in enumerate((5, 10))
    )
    kind, shape = datatype(b, "names.type", "variable", 16, 1), dataspace(b, "names.space", (2,))
    names = attribute(b, "names", b"layer_names", kind, shape, value)
    superblock0(b, header1(b, "root", [(17, "table", old_group(b, "root", {})), (12, "names", names)]))
    return b


# --- new groups, superblock 2 and 3 -----------------------------------------------------------------------------------------


def superblock2(b: Builder, root: int, extension: int = NOWHERE, version: int = 3) -> None:
    raw = b"\x89HDF\r\n\x1a\n" + b.u("superblock.version", version, 1)
    raw += b.u("superblock.offsets", 8, 1) + b.u("superblock.lengths", 8, 1) + b.u("superblock.flags", 0, 1)
    raw += b.u("superblock.base", b.base, 8) + b.u("superblock.extension", extension, 8)
    raw += b.u("superblock.end", b.base + len(b.data), 8) + b.u("superblock.root", root, 8)
    b.put(0, b.sealed("superblock", raw))


def link_info(b: Builder, p: str, heap: int = NOWHERE, tree: int = NOWHERE) -> bytes:
    return b.u(f"{p}.version", 0, 1) + b.u(f"{p}.flags", 0, 1) + b.u(f"{p}.heap", heap, 8) + b.u(f"{p}.tree", tree, 8)


def dataset2(b: Builder, p: str, values: bytes, shape: tuple[int, ...], more: Messages | None = None) -> int:
    """A contiguous f4 dataset under a header of version 2."""
    address = b.add(values)
    return header2(b, p, [
        (1, "space", dataspace(b, f"{p}.space", shape, version=2)),
        (3, "type", f4(b, f"{p}.type")),
        (8, "layout", contiguous(b, f"{p}.layout", address, len(values))),
        *(more or []),
    ])  # fmt: skip


def new(changes: dict[str, Any] | None = None) -> Builder:
    """Superblock 3, headers 2 with a continuation block, link messages, an attribute of version 3, a superblock extension."""
    b = Builder(changes)
    b.reserve(48)
    says = attribute(
        b,
        "a.says",
        b"name",
        datatype(b, "a.says.type", "text", 5, 1),
        dataspace(b, "a.says.space", (), version=2),
        b"first",
        3,
    )
    first = dataset2(b, "a", struct.pack("<6f", *F4), (2, 3), [(12, "says", says)])
    raw = compressed(b, "c.chunk", struct.pack("<4f", *F4[:4]), 4)
    address = b.add(raw)
    single = b.u("c.layout.stored", len(raw), 8) + b.u("c.layout.mask", 0, 4)
    pipeline = (
        b.u("c.filters.version", 2, 1)
        + bytes([3])
        + struct.pack("<HHHI", 2, 0, 1, 4)
        + struct.pack("<HHHI", 1, 0, 1, 6)
    )
    third = header2(b, "c", [
        (1, "space", dataspace(b, "c.space", (3,), (4,), version=2)),
        (3, "type", f4(b, "c.type")),
        (8, "layout", indexed(b, "c.layout", address, (4,), 4, 1, single, 2)),
        (11, "filters", pipeline + struct.pack("<HHH", 3, 0, 0)),
    ])  # fmt: skip
    group = header2(b, "g", [(2, "info", link_info(b, "g.info")), (6, "d", link(b, "g.d", b"d", first))])
    block = b.pick("root.block.signature", b"OCHK") + messages2(b, "root.block", [
        (6, "c", link(b, "root.c", b"c", third)),
        (6, "g", link(b, "root.g", b"g", group)),
        (6, "s", link(b, "root.s", b"s", None, b"nowhere/at/all")),
    ])  # fmt: skip
    block = b.sealed("root.block", block)
    continued = b.add(block)
    where = b.u("root.continuation.address", continued, 8) + b.u("root.continuation.size", len(block), 8)
    root = header2(b, "root", [
        (2, "info", link_info(b, "root.info")),
        (6, "a", link(b, "root.a", b"a", first)),
        (16, "continuation", where),
        (b.pick("root.odd.kind", 10), "odd", b"\0\0"),
    ])  # fmt: skip
    sizes = b.u("extension.sizes.version", 0, 1) + struct.pack("<HHH", 32, 16, 4)
    extension = header2(b, "extension", [(b.pick("extension.kind", 19), "sizes", sizes)])
    superblock2(b, root, extension)
    return b


def tree2(b: Builder, p: str, kind: int, records: list[bytes], node: int = 128) -> int:
    """A version 2 tree: one leaf, or a root with one record between two leaves where a leaf holds fewer than there are."""
    size = len(records[0])
    most = (node - 10) // size

    def leaf(name: str, some: list[bytes]) -> int:
        raw = (
            b.pick(f"{name}.signature", b"BTLF")
            + b.u(f"{name}.version", 0, 1)
            + b.u(f"{name}.type", kind, 1)
            + b"".join(some)
        )
        return b.add(b.sealed(name, raw).ljust(node, b"\0"))

    if len(records) <= most:
        root, count, depth = leaf(f"{p}.leaf", records), len(records), 0
    else:
        half, depth, count = len(records) // 2, 1, 1
        sides = [
            (leaf(f"{p}.left", records[:half]), half),
            (leaf(f"{p}.right", records[half + 1 :]), len(records) - half - 1),
        ]
        raw = b"BTIN" + bytes([0, kind]) + records[half]
        for i, (address, number) in enumerate(sides):
            raw += b.u(f"{p}.child{i}", address, 8) + b.u(f"{p}.child{i}.records", number, 1)
        root = b.add(b.sealed(f"{p}.root", raw).ljust(node, b"\0"))
    raw = b.pick(f"{p}.signature", b"BTHD") + b.u(f"{p}.version", 0, 1) + b.u(f"{p}.type", kind, 1)
    raw += (
        b.u(f"{p}.node_size", node, 4)
        + b.u(f"{p}.record_size", size, 2)
        + b.u(f"{p}.depth", depth, 2)
        + bytes([100, 40])
    )
    raw += b.u(f"{p}.root", root, 8) + b.u(f"{p}.records", count, 2) + b.u(f"{p}.total", len(records), 8)
    return b.add(b.sealed(p, raw))


def fractal_heap(b: Builder, p: str, objects: list[bytes], width: int, nested: bool = False) -> tuple[int, list[bytes]]:
    """A heap of one direct block of 128 bytes, or of an indirect block with it; and the identifiers of the objects."""
    header = b.reserve(146)
    prefix, offsets, content = 21, [], b""
    for raw in objects:
        offsets.append(prefix + len(content))
        content += raw
    block = (
        b.pick(f"{p}.block.signature", b"FHDB") + b.u(f"{p}.block.version", 0, 1) + b.u(f"{p}.block.heap", header, 8)
    )
    block += b.u(f"{p}.block.offset", 0, 4)
    block = (block + bytes(4) + content).ljust(128, b"\0")
    block = block[:17] + b.u(f"{p}.block.checksum", lookup3(block), 4) + block[21:]
    root, rows = b.add(block), 0
    if nested:
        raw = b.pick(f"{p}.indirect.signature", b"FHIB") + bytes(1) + struct.pack("<Q", header) + bytes(4)
        raw += b.u(f"{p}.indirect.child", root, 8) + struct.pack("<3Q", NOWHERE, NOWHERE, NOWHERE)
        root, rows = b.add(b.sealed(f"{p}.indirect", raw)), 1
    raw = b.pick(f"{p}.signature", b"FRHP") + b.u(f"{p}.version", 0, 1) + b.u(f"{p}.id_length", width, 2)
    raw += b.u(f"{p}.filters", 0, 2) + b.u(f"{p}.flags", 2, 1) + b.u(f"{p}.most", 4096, 4)
    raw += (
        bytes(8)
        + b.u(f"{p}.huge_tree", NOWHERE, 8)
        + bytes(8)
        + struct.pack("<Q", NOWHERE)
        + b.u(f"{p}.managed", 128, 8)
        + struct.pack("<3Q", 128, 128, len(objects))
    )
    raw += bytes(32) + b.u(f"{p}.width", 4, 2) + b.u(f"{p}.start", 128, 8) + b.u(f"{p}.largest", 65536, 8)
    raw += b.u(f"{p}.bits", 32, 2) + struct.pack("<H", 1) + b.u(f"{p}.root", root, 8) + b.u(f"{p}.rows", rows, 2)
    b.put(header, b.sealed(p, raw))
    identifiers = []
    for i, (offset, raw) in enumerate(zip(offsets, objects, strict=True)):
        place = b.u(f"{p}.object{i}.offset", offset, 4) + b.u(f"{p}.object{i}.length", len(raw), 2)
        identifiers.append((b.u(f"{p}.object{i}.kind", 0, 1) + place).ljust(width, b"\0"))
    return header, identifiers


def dense(changes: dict[str, Any] | None = None) -> Builder:
    """Superblock 2: a group whose links are in a heap, and a dataset whose attributes are, with an indirect block in between."""
    b = Builder(changes)
    b.reserve(48)
    values = [
        attribute(
            b, f"v{i}", b"n%d" % i, datatype(b, f"v{i}.type", "fixed", 4, 8), dataspace(b, f"v{i}.space", (), version=2),
            struct.pack("<i", i), 3,
        )
        for i in range(3)
    ]  # fmt: skip
    heap, identifiers = fractal_heap(b, "values", values, 8, nested=True)
    records = []
    for i in sorted(range(3), key=lambda i: lookup3(b"n%d" % i)):
        record = identifiers[i] + b.u(f"v{i}.record.flags", 0, 1) + struct.pack("<I", i)
        records.append(record + b.u(f"v{i}.record.hash", lookup3(b"n%d" % i), 4))
    tree = tree2(b, "values.tree", 8, b.pick("values.records", records))
    info = (
        b.u("a.info.version", 0, 1)
        + b.u("a.info.flags", 0, 1)
        + b.u("a.info.heap", heap, 8)
        + b.u("a.info.tree", tree, 8)
    )
    first = dataset2(b, "a", struct.pack("<6f", *F4), (2, 3), [(21, "info", info)])
    names = [b"x", b"y", b"z", b"w", b"v", b"u"]
    links = [link(b, f"root.{name.decode()}", name, first) for name in names]
    heap, identifiers = fractal_heap(b, "links", links, 7)
    order = sorted(range(6), key=lambda i: lookup3(names[i]))
    records = [b.u(f"root.{names[i].decode()}.hash", lookup3(names[i]), 4) + identifiers[i] for i in order]
    tree = tree2(b, "links.tree", 5, b.pick("links.records", records), 64)
    messages = [(2, "info", link_info(b, "root.info", heap, tree))]
    messages += [(6, f"extra{i}", raw) for i, raw in enumerate(b.pick("root.extra", []))]
    root = header2(b, "root", messages)
    superblock2(b, root, version=2)
    return b


# --- chunk indexes ----------------------------------------------------------------------------------------------------------


def chunk_values(count: int) -> list[bytes]:
    return [struct.pack("<2H", 2 * i, 2 * i + 1) for i in range(count)]


def implicit_index(b: Builder, p: str, count: int) -> int:
    return b.add(b"".join(chunk_values(count)))


def fixed_array(b: Builder, p: str, count: int, bits: int) -> int:
    """Chunks of four bytes, not filtered; in pages where there are more than fit in one."""
    entries = [b.u(f"{p}.entry{i}", b.add(raw), 8) for i, raw in enumerate(chunk_values(count))]
    header, page = b.reserve(28), 1 << bits
    block = b.pick(f"{p}.block.signature", b"FADB") + b.u(f"{p}.block.version", 0, 1) + b.u(f"{p}.block.client", 0, 1)
    block += b.u(f"{p}.block.header", header, 8)
    if count <= page:
        block = b.sealed(f"{p}.block", block + b"".join(entries))
    else:
        pages = [entries[i : i + page] for i in range(0, count, page)]
        block = b.sealed(f"{p}.block", block + b.u(f"{p}.block.pages", 0xFF00 >> len(pages) & 0xFF, 1))
        block += b"".join(b.sealed(f"{p}.page{i}", b"".join(some)) for i, some in enumerate(pages))
    raw = (
        b.pick(f"{p}.signature", b"FAHD")
        + b.u(f"{p}.version", 0, 1)
        + b.u(f"{p}.client", 0, 1)
        + b.u(f"{p}.entry", 8, 1)
    )
    raw += b.u(f"{p}.bits", bits, 1) + b.u(f"{p}.entries", count, 8) + b.u(f"{p}.address", b.add(block), 8)
    b.put(header, b.sealed(p, raw))
    return header


GROWTH = (
    16,
    1,
    2,
    2,
    2,
)  # bits, entries in the index block, data blocks of the least second-level block, entries of a block, page bits


def extensible_array(b: Builder, p: str, count: int) -> int:
    """Entry 0 in the index block; 1-2, 3-6 in its data blocks; 7-10, 11-14 under the first second-level block; 15-22 and 23-30, in
    pages of four, under the next."""
    chunks = [b.add(raw) for raw in chunk_values(count)]
    entries = [b.u(f"{p}.entry{i}", chunks[i] if i < count else NOWHERE, 8) for i in range(31)]
    header = b.reserve(72)

    def data(name: str, first: int, number: int) -> int:
        raw = (
            b.pick(f"{name}.signature", b"EADB")
            + b.u(f"{name}.version", 0, 1)
            + bytes(1)
            + b.u(f"{name}.header", header, 8)
        )
        raw += struct.pack("<H", first - 1)
        if number <= 4:
            return b.add(b.sealed(name, raw + b"".join(entries[first : first + number])))
        pages = [b"".join(entries[i : i + 4]) for i in range(first, first + number, 4)]
        return b.add(b.sealed(name, raw) + b"".join(b.sealed(f"{name}.page{i}", page) for i, page in enumerate(pages)))

    def second(name: str, first: int, number: int) -> int:
        blocks = [data(f"{name}.data{i}", first + i * number, number) for i in range(2)]
        raw = (
            b.pick(f"{name}.signature", b"EASB")
            + bytes(2)
            + b.u(f"{name}.header", header, 8)
            + b.u(f"{name}.offset", first - 1, 2)
        )
        raw += b.u(f"{name}.pages", 0x00F0, 2) if number > 4 else b""
        return b.add(b.sealed(name, raw + b"".join(b.u(f"{name}.data{i}.address", a, 8) for i, a in enumerate(blocks))))

    raw = b.pick(f"{p}.index.signature", b"EAIB") + bytes(2) + b.u(f"{p}.index.header", header, 8) + entries[0]
    raw += struct.pack("<QQ", data(f"{p}.near0", 1, 2), data(f"{p}.near1", 3, 4))
    raw += struct.pack("<QQ", second(f"{p}.far0", 7, 4), second(f"{p}.far1", 15, 8)) + b"\xff" * 8 * 12
    index = b.add(b.sealed(f"{p}.index", raw))
    raw = (
        b.pick(f"{p}.signature", b"EAHD")
        + b.u(f"{p}.version", 0, 1)
        + b.u(f"{p}.client", 0, 1)
        + b.u(f"{p}.entry", 8, 1)
    )
    growth = (GROWTH[0], GROWTH[1], GROWTH[3], GROWTH[2], GROWTH[4])
    raw += b"".join(b.u(f"{p}.growth{i}", value, 1) for i, value in enumerate(growth))
    raw += struct.pack("<6Q", 2, 0, 6, 0, count, count) + b.u(f"{p}.address", index, 8)
    b.put(header, b.sealed(p, raw))
    return header


def chunk_tree2(b: Builder, p: str, count: int) -> int:
    """Chunks of four bytes in rows of two, in a tree of depth 1."""
    records = [
        struct.pack("<Q", b.add(raw)) + b.u(f"{p}.row{i}", i // 2, 8) + b.u(f"{p}.column{i}", i % 2, 8)
        for i, raw in enumerate(chunk_values(count))
    ]
    return tree2(b, p, 10, records, 160)


def arrays(changes: dict[str, Any] | None = None) -> Builder:
    """Superblock 3, layout 4: datasets of u2 with each index of chunks that newer files have."""
    b = Builder(changes)
    b.reserve(48)
    forever = NOWHERE
    kinds: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, bytes, int]] = {
        "extensible": ((60,), (forever,), (2,), 4, bytes(GROWTH), extensible_array(b, "extensible", 30)),
        "fixed": ((6,), (6,), (2,), 3, b"\x02", fixed_array(b, "fixed", 3, 2)),
        "implicit": ((6,), (6,), (2,), 2, b"", implicit_index(b, "implicit", 3)),
        "paged": ((9,), (10,), (2,), 3, b"\x01", fixed_array(b, "paged", 5, 1)),
        "tree": ((5, 4), (forever, forever), (1, 2), 5, struct.pack("<IBB", 160, 100, 40), chunk_tree2(b, "tree", 10)),
    }
    links: Messages = []
    for name, (shape, most, chunk, kind, more, address) in kinds.items():
        p = f"{name}.set"
        header = header2(b, p, [
            (1, "space", dataspace(b, f"{p}.space", shape, most, version=2)),
            (3, "type", datatype(b, f"{p}.type", "fixed", 2, 0)),
            (8, "layout", indexed(b, f"{p}.layout", address, chunk, 2, kind, b.pick(f"{p}.layout.more", more))),
            *b.pick(f"{p}.extra", []),
        ])  # fmt: skip
        links.append((6, name, link(b, f"root.{name}", name.encode(), header)))
    superblock2(b, header2(b, "root", [(2, "info", link_info(b, "root.info")), *links]))
    return b


FILES: dict[str, Callable[[dict[str, Any] | None], Builder]] = {
    "plain": plain,
    "old": old,
    "chunks": chunks,
    "text": text,
    "new": new,
    "dense": dense,
    "arrays": arrays,
}


# --- the corpus -------------------------------------------------------------------------------------------------------------


def plus(number: int) -> Callable[[int], int]:
    return lambda value: value + number


def bad(
    file: str, name: str, rule: str, words: str, why: str, changes: dict[str, Any], read: str | None = None
) -> Case:
    """A good file with changes; `words` are separated by bars."""
    content = bytes(FILES[file](changes).data)
    rule = rule if rule.startswith("budget.") else f"hdf5.{rule}"
    return Case(name, rule, tuple(words.split("|")), {"a.h5": content}, "a.h5", read, why)


def cut(file: str, size: int) -> bytes:
    return bytes(FILES[file](None).data[:size])


def whole(name: str, rule: str, words: str, why: str, content: bytes, read: str | None = None) -> Case:
    rule = rule if rule.startswith("budget.") else f"hdf5.{rule}"
    return Case(name, rule, tuple(words.split("|")), {"a.h5": content}, "a.h5", read, why)


def nested(depth: int) -> bytes:
    """Groups in each other."""
    b = Builder()
    b.reserve(48)
    address = header2(b, "last", [(2, "info", link_info(b, "last.info"))])
    for _ in range(depth):
        address = header2(b, "g", [(2, "info", link_info(b, "i")), (6, "l", link(b, "l", b"g", address))])
    superblock2(b, address)
    return bytes(b.data)


def many_texts() -> bytes:
    """An attribute of 640 times the same long text of the global heap."""
    b = Builder()
    b.reserve(96)
    length = 10000
    raw = struct.pack("<HHIQ", 1, 1, 0, length) + b"a" * length
    address = b.add(b"GCOL\1\0\0\0" + struct.pack("<Q", len(raw) + 16) + raw)
    value = struct.pack("<IQI", length, address, 1) * 640
    kind, shape = datatype(b, "type", "variable", 16, 1), dataspace(b, "space", (640,))
    names = attribute(b, "names", b"layer_names", kind, shape, value)
    superblock0(b, header1(b, "root", [(17, "table", old_group(b, "root", {})), (12, "names", names)]))
    return bytes(b.data)


def over_the_edge() -> bytes:
    """64 rows of one byte, in chunks that are far wider."""
    b, size = Builder({"layout.width": 3}), 1 << 21
    b.reserve(48)
    stream = zlib.compress(bytes(size), 9)
    record = struct.pack("<Q", b.add(stream)) + struct.pack("<II2Q", len(stream), 0, 0, 0)
    address = tree2(b, "tree", 11, [record])
    messages = [
        (1, "space", dataspace(b, "space", (64, 1), (NOWHERE, NOWHERE), version=2)),
        (3, "type", datatype(b, "type", "fixed", 1)),
        (8, "layout", indexed(b, "layout", address, (1, size), 1, 5, struct.pack("<IBB", 128, 100, 40))),
        (11, "filters", filters(b, "filters", 1, (1,))),
    ]
    x = header2(b, "x", messages)
    superblock2(b, header2(b, "root", [(2, "info", link_info(b, "info")), (6, "x", link(b, "x", b"x", x))]))
    return bytes(b.data)


def external_file(b: Builder) -> bytes:
    """An external files message of version 1 with one file."""
    heap = b.add(b"HEAP" + bytes(4) + struct.pack("<QQQ", 24, 1, b.add(padded(b"\0" * 8 + b"/etc/passwd\0"))))
    return b"\1\0\0\0" + struct.pack("<HHQ", 1, 1, heap) + struct.pack("<QQQ", 8, 0, 24)


def _superblocks() -> list[Case]:
    return [
        bad("plain", "superblock-version", "version", "version that is not read|0 or 1", "superblock 4 does not exist", {"superblock.version": 4}),
        bad("plain", "free-space-version", "version", "version that is not read|version 0", "free space of version 1", {"superblock.free_version": 1}),
        bad("plain", "addresses-of-3-bytes", "sizes", "sizes of addresses|3 and 8", "addresses of three bytes", {"superblock.offsets": 3}),
        bad("new", "lengths-of-16-bytes", "sizes", "sizes of addresses|8 and 16", "lengths of sixteen bytes", {"superblock.lengths": 16}),
        bad("plain", "base-address", "base", "base address is wrong|512", "addresses count from another place", {"superblock.base": 512}),
        bad("plain", "end-after-file", "end", "truncated", "the superblock announces one byte more", {"superblock.end": plus(1)}),
        whole("truncated-by-one", "end", "truncated|656 bytes|655 bytes", "the last byte is missing", cut("plain", 655)),
        whole("superblock-alone", "end", "truncated|48 bytes", "nothing after the superblock", cut("new", 48)),
        whole("superblock-cut", "address", "out of the file|superblock", "half a superblock", cut("new", 20)),
        bad("plain", "driver", "driver", "one of several", "the file of a driver that splits files", {"superblock.driver": 96}),
        bad("plain", "free-space-address", "superblock", "free space|96", "an address that was never used", {"superblock.free": 96}),
        bad("chunks", "no-room-in-nodes", "superblock", "no room|0", "chunk trees without entries", {"superblock.chunk_k": 0}),
        bad("plain", "root-outside", "address", "out of the file", "the root group lies after the end", {"superblock.root": 1 << 40}),
        bad("plain", "root-undefined", "address", "undefined", "there is no root group", {"superblock.root": NOWHERE}),
        bad("plain", "root-at-superblock", "signature", "no object header|137", "the root group is the superblock", {"superblock.root": 0}),
        bad("plain", "end-within", "address", "out of the file", "the file ends before its last structure", {"superblock.end": 648}),
        bad("new", "superblock-checksum", "checksum", "checksum is wrong|superblock", "one too large", {"superblock.checksum": plus(1)}),
        bad("new", "left-open", "in-use", "left open|flags 0", "the program that wrote it has not closed it", {"superblock.flags": 1}),
        bad("new", "superblock-flags", "flags", "unknown flags|64", "a flag that superblocks do not have", {"superblock.flags": 64}),
        bad("new", "extension-driver", "driver", "one of several|driver info", "a driver in the superblock's extension", {"extension.kind": 20}),
        bad("new", "cache-image", "cache-image", "cache image", "the metadata is elsewhere", {"extension.kind": 24}),
        bad("new", "extension-is-root", "overlap", "overlap", "the extension is the root group", {"superblock.extension": 472}),
    ]  # fmt: skip


def _headers() -> list[Case]:
    def twice(b: dict[str, Any]) -> dict[str, Any]:
        return {"a.extra": [(1, dataspace(Builder(), "s", (2, 3)))]} | b

    return [
        bad("plain", "header-version", "signature", "no object header|3", "object header 3 does not exist", {"a.version": 3}),
        bad("new", "header-version-3", "version", "version that is not read|version 2", "a header of version 3", {"a.version": 3}),
        bad("new", "header-flags", "flags", "unknown flags|130", "a flag that object headers do not have", {"a.flags": 130}),
        bad("new", "header-checksum", "checksum", "checksum is wrong", "the checksum of another header", {"a.checksum": 1}),
        bad("new", "header-longer", "checksum", "checksum is wrong", "a header that goes on in what follows", {"a.size": plus(8)}),
        bad("plain", "header-too-long", "address", "out of the file", "a header longer than the file", {"root.size": 4000}),
        bad("plain", "message-count", "message", "another number of messages|5|4", "one message is missing", {"a.count": 5}),
        bad("plain", "message-unaligned", "message", "length is wrong|multiple of 8|23", "a message of 23 bytes", {"a.type.message_length": 23}),
        bad("plain", "message-too-long", "message", "longer than its header|65528", "a message longer than all", {"a.type.message_length": 65528}),
        bad("new", "message-too-long-2", "message", "longer than its header|65535", "the same in a new header", {"a.says.message_length": 65535}),
        bad("plain", "message-cut", "short", "ends before its fields|datatype", "a datatype of eight bytes", {"a.without": ("type",), "a.extra": [(3, bytes([0x11, 0x20, 0x1F, 0, 4, 0, 0, 0]))]}),
        bad("plain", "message-twice", "message-once", "twice|second dataspace", "two dataspaces", twice({})),
        bad("new", "message-must-be-known", "message-unknown", "must be understood|200", "a kind that nobody knows", {"root.odd.kind": 200, "root.odd.message_flags": 128}),
        bad("plain", "message-flags", "flags", "wrong flags|6", "a message that is shared and must not be", {"a.type.message_flags": 6}),
        bad("old", "continuation-outside", "address", "out of the file", "a header goes on after the file", {"root.continuation.address": 1 << 32}),
        bad("old", "continuation-cycle", "overlap", "overlap", "a header goes on in itself", {"root.continuation.address": 1816, "root.continuation.size": 48}),
        bad("old", "continuation-huge", "address", "out of the file", "a continuation of 2^63 bytes", {"root.continuation.size": 1 << 63}),
        bad("new", "continuation-signature", "signature", "wrong signature|OCHK", "a continuation block without OCHK", {"root.block.signature": b"OCHX"}),
        bad("new", "continuation-checksum", "checksum", "checksum is wrong", "its checksum", {"root.block.checksum": 0}),
        bad("new", "continuation-cycle-2", "checksum", "checksum is wrong", "a header goes on in its beginning", {"root.continuation.address": 472}),
        bad("plain", "shared-dataspace", "shared", "shared message|dataspace", "a dataspace that is elsewhere", {"a.space.message_flags": 2}),
        bad("old", "shared-heap", "shared", "shared message|shared as 1", "a datatype in the heap of shared messages", {"d.type.shared_version": 3, "d.type.shared_kind": 1}),
        bad("old", "shared-not-a-datatype", "shared", "no committed datatype", "a datatype that is a group", {"d.type.shared": 376}),
        bad("old", "shared-is-itself", "shared", "shared message is not read", "a datatype that is shared with itself", {"d.type.shared": 280}),
        bad("plain", "no-object", "object", "not what it should be|none of them", "an object without messages that tell", {"b.type.message": 0, "b.space.message": 0, "b.layout.message": 0}),
        bad("plain", "two-objects", "object", "not what it should be|two of them", "a group and a dataset", {"a.extra": [(17, bytes(16))]}),
        bad("plain", "no-layout", "layout", "not whole", "a dataset without a layout", {"a.without": ("layout",)}),
        bad("plain", "no-dataspace", "layout", "not whole", "a dataset without a dataspace", {"a.without": ("space",)}),
    ]  # fmt: skip


def _groups() -> list[Case]:
    return [
        bad("old", "heap-signature", "signature", "wrong signature|HEAP", "a local heap without HEAP", {"root.heap.signature": b"HEAQ"}),
        bad("old", "heap-version", "version", "version that is not read|9", "a local heap of version 9", {"root.heap.version": 9}),
        bad("old", "heap-names-outside", "address", "out of the file|names", "names after the file", {"root.heap.address": 2 << 20}),
        bad("old", "heap-too-long", "address", "out of the file|names", "names longer than the file", {"root.heap.size": 1 << 50}),
        bad("old", "name-outside", "local-heap", "not in its heap|byte 56", "a name after the heap", {"root.t.name": 56}),
        bad("old", "free-list", "local-heap", "free space|bytes at 8", "a list of free space that leads nowhere", {"root.heap.free": 8}),
        bad("old", "free-list-cycle", "local-heap", "free space", "a list of free space in a circle", {"g.heap.free": 8, "g.heap.d": struct.pack("<QB", 8, 16)}),
        bad("old", "name-with-slash", "name", "name is wrong|a/", "a name with a slash", {"root.heap.a": b"a/"}),
        bad("old", "name-is-dot", "name", "name is wrong|'.'", "a dot alone", {"root.heap.a": b"."}),
        bad("old", "name-not-utf-8", "name", "name is wrong|xff", "bytes that are no text", {"g.heap.e": b"\xff"}),
        bad("old", "names-out-of-order", "unique-names", "out of order|b'g'", "names are not sorted", {"root.heap.a": b"h"}),
        bad("old", "name-twice", "unique-names", "out of order|b'g'", "two entries of one name", {"root.a.name": 16}),
        bad("old", "name-above-key", "unique-names", "out of order|up to b'g'", "a name that no search finds", {"root.tree.key1": 16}),
        bad("old", "node-signature", "signature", "wrong signature|SNOD", "a symbol table node without SNOD", {"root.node.signature": b"SNOT"}),
        bad("old", "node-version", "version", "version that is not read|2", "a symbol table node of version 2", {"root.node.version": 2}),
        bad("old", "node-too-full", "symbol-table", "too many entries|6|9", "nine entries where six fit", {"root.node.entries": 9}),
        bad("old", "entry-kind", "symbol-table", "entry of a symbol table|kind 3", "an entry of no known kind", {"root.a.cache": 3}),
        bad("old", "entry-without-address", "symbol-table", "entry of a symbol table|no address", "a hard link to nothing", {"root.a.address": NOWHERE}),
        bad("old", "soft-link-outside", "local-heap", "not in its heap", "the target of a soft link after the heap", {"root.s.target": 4000}),
        bad("old", "soft-link-empty", "link", "leads nowhere", "a soft link to no path", {"root.s.target": 5}),
        bad("old", "soft-link-not-utf-8", "link", "leads nowhere|xfe", "a target that is no text", {"root.heap./g/d": b"\xfe"}),
        bad("old", "tree-signature", "signature", "wrong signature|TREE", "a tree without TREE", {"g.tree.signature": b"TREX"}),
        bad("old", "tree-of-chunks", "tree", "node of a tree|type 1", "the tree of a group that is one of chunks", {"g.tree.type": 1}),
        bad("old", "tree-too-full", "tree", "node of a tree|5 entries", "five children where four fit", {"g.tree.entries": 5}),
        bad("old", "tree-too-high", "tree", "node of a tree|level 200", "a root of level 200", {"g.tree.level": 200}),
        bad("old", "tree-leaf-is-node", "signature", "wrong signature|SNOD|TREE", "a child of a leaf is a tree", {"g.tree.levels": 2, "g.tree.upper.level": 0}),
        bad("old", "tree-cycle", "tree", "node of a tree|level 0", "a node is its own child", {"g.tree.level": 1, "g.tree.cycle": True}),
        bad("old", "tree-keys", "tree-order", "keys of a tree", "the key at the left is above the one at the right", {"g.tree.key0": 16, "g.tree.key1": 8}),
        bad("old", "tree-keys-of-parent", "tree-order", "keys of a tree", "a node with keys above those of its parent", {"g.tree.levels": 2, "g.tree.upper.key1": 8}),
        bad("old", "tree-child-outside", "address", "out of the file", "a child after the file", {"g.tree.child": 1 << 20}),
        bad("old", "tree-child-undefined", "address", "undefined", "no child", {"g.tree.child": NOWHERE}),
        bad("old", "group-cycle", "one-path", "two hard links|g/z", "a group holds itself", {"g.back": True}),
        bad("old", "two-paths", "one-path", "two hard links|'h'", "a group has two names", {"root.more": {b"h": 376}}),
        whole("too-deep", "depth", "nested too deep|64", "sixty-six groups in each other", nested(65)),
        bad("new", "external-link", "external-link", "another file|'c'", "a link to another file", {"root.c.kind": 64}),
        bad("new", "user-link", "user-link", "user's own kind|kind 65", "a link of a user's own kind", {"root.c.kind": 65}),
        bad("new", "reserved-link", "link", "no known kind|kind 2", "a link of a kind that is reserved", {"root.c.kind": 2}),
        bad("new", "link-version", "version", "version that is not read|2", "a link message of version 2", {"root.c.version": 2}),
        bad("new", "link-flags", "flags", "unknown flags|56", "a flag that links do not have", {"root.c.flags": 56}),
        bad("new", "link-charset", "link", "no known kind|character set 2", "a character set that links do not have", {"root.c.charset": 2}),
        bad("new", "link-name-too-long", "short", "ends before its fields|200 bytes", "a name longer than its message", {"root.c.length": 200}),
        bad("new", "link-name-empty", "name", "name is wrong", "a link without a name", {"root.c.name": b""}),
        bad("new", "link-name-nul", "name", "name is wrong", "a name with a NUL", {"root.c.name": b"\0"}),
        bad("new", "link-twice", "unique-names", "occurs twice|'a'", "two links of one name", {"root.c.name": b"a"}),
        bad("new", "link-nowhere", "address", "undefined", "a hard link to nothing", {"root.c.address": NOWHERE}),
        bad("new", "link-info-version", "version", "version that is not read|1", "link info of version 1", {"root.info.version": 1}),
        bad("new", "link-info-flags", "flags", "unknown flags|4", "a flag that groups do not have", {"root.info.flags": 4}),
        bad("new", "link-heap-without-index", "link", "two places", "a heap of links without an index", {"g.info.heap": 48}),
        bad("new", "both-kinds-of-group", "link", "both kinds", "an old group with link info", {"root.odd.kind": 17}),
        bad("dense", "both-heap-and-messages", "link", "two places|messages too", "links in the header and in a heap", {"root.extra": [link(Builder(), "l", b"q", 576)]}),
    ]  # fmt: skip


def _dense() -> list[Case]:
    def without(names: str) -> Callable[[list[bytes]], list[bytes]]:
        return lambda records: [records[int(i)] for i in names]

    return [
        bad("dense", "fractal-signature", "signature", "wrong signature|FRHP", "a fractal heap without FRHP", {"links.signature": b"FRHQ"}),
        bad("dense", "fractal-version", "version", "version that is not read|1", "a fractal heap of version 1", {"links.version": 1}),
        bad("dense", "fractal-checksum", "checksum", "checksum is wrong|fractal heap", "its checksum", {"links.checksum": plus(1)}),
        bad("dense", "fractal-filters", "fractal-heap-filters", "compressed|8 bytes", "a compressed fractal heap", {"links.filters": 8}),
        bad("dense", "fractal-identifiers", "fractal-heap", "another kind|7 bytes|9", "identifiers of another length", {"links.id_length": 9}),
        bad("dense", "fractal-width", "fractal-heap", "table is wrong|3 blocks", "three blocks a row", {"links.width": 3}),
        bad("dense", "fractal-width-zero", "fractal-heap", "table is wrong|0 blocks", "no blocks in a row", {"links.width": 0}),
        bad("dense", "fractal-bits", "fractal-heap", "table is wrong|5 bits", "a heap smaller than its first row", {"links.bits": 5}),
        bad("dense", "fractal-rows", "fractal-heap", "too many rows|4000", "four thousand rows", {"values.rows": 4000}),
        bad("dense", "fractal-root-outside", "address", "out of the file", "its block lies after the file", {"links.root": 1 << 33}),
        bad("dense", "fractal-block-huge", "address", "out of the file", "a block longer than the file", {"links.start": 32768}),
        bad("dense", "block-signature", "signature", "wrong signature|FHDB", "a direct block without FHDB", {"links.block.signature": b"FHDC"}),
        bad("dense", "block-version", "version", "version that is not read|7", "a direct block of version 7", {"links.block.version": 7}),
        bad("dense", "block-of-another-heap", "fractal-heap", "another place|heap 48", "a block of another heap", {"links.block.heap": 48}),
        bad("dense", "block-offset", "fractal-heap", "another place|offset 512", "a block that belongs elsewhere", {"links.block.offset": 512}),
        bad("dense", "block-checksum", "checksum", "checksum is wrong|direct block", "its checksum", {"links.block.checksum": plus(1)}),
        bad("dense", "indirect-signature", "signature", "wrong signature|FHIB", "an indirect block without FHIB", {"values.indirect.signature": b"FHIC"}),
        bad("dense", "indirect-checksum", "checksum", "checksum is wrong|indirect block", "its checksum", {"values.indirect.checksum": 5}),
        bad("dense", "indirect-without-child", "fractal-heap", "in no block|21", "the block of an object is missing", {"values.indirect.child": NOWHERE}),
        bad("dense", "indirect-cycle", "signature", "wrong signature|FHDB|FHIB", "an indirect block is its own child", {"values.indirect.child": 328}),
        bad("dense", "object-outside-block", "fractal-heap", "not in its block|bytes 120 to 134", "an object longer than its block", {"links.object0.offset": 120, "links.managed": 512}),
        bad("dense", "object-in-prefix", "fractal-heap", "not in its block|bytes 20 to", "an object in the block's prefix", {"links.object0.offset": 20}),
        bad("dense", "object-outside-heap", "fractal-heap", "in no block|16777216", "an object after the blocks", {"links.object0.offset": 1 << 24, "links.managed": 1 << 30}),
        bad("dense", "object-too-long", "fractal-heap", "not in its block", "an object longer than the heap says", {"links.most": 8}),
        bad("dense", "object-version", "version", "version that is not read|1", "an identifier of version 1", {"links.object0.kind": 64}),
        bad("dense", "object-kind", "fractal-heap", "no known kind|3", "an identifier of no kind", {"links.object0.kind": 48}),
        bad("dense", "object-huge", "fractal-heap", "no tree of large", "a large object without a tree of them", {"links.object0.kind": 16}),
        bad("dense", "object-tiny", "version", "version that is not read", "an object in its identifier that is no link", {"links.object0.kind": 32}),
        bad("dense", "tree-2-signature", "signature", "wrong signature|BTHD", "a tree without BTHD", {"links.tree.signature": b"BTHE"}),
        bad("dense", "tree-2-version", "version", "version that is not read|1", "a tree of version 1 in one of version 2", {"links.tree.version": 1}),
        bad("dense", "tree-2-checksum", "checksum", "checksum is wrong|B-tree", "its checksum", {"links.tree.checksum": plus(1)}),
        bad("dense", "tree-2-type", "tree", "another kind|type 6", "a tree of creation orders", {"links.tree.type": 6}),
        bad("dense", "tree-2-records", "tree", "another kind|12 bytes", "records of another length", {"links.tree.record_size": 12}),
        bad("dense", "tree-2-depth", "tree", "another kind|depth 60000", "a tree of sixty thousand levels", {"links.tree.depth": 60000}),
        bad("dense", "tree-2-small-nodes", "tree", "too small|24 bytes", "inner nodes without room for a record", {"links.tree.node_size": 24}),
        bad("dense", "tree-2-total", "tree", "another number of records|7|6", "a record fewer than announced", {"links.tree.total": 7}),
        bad("dense", "tree-2-node-too-full", "tree", "node of a tree|1 to 4 records|9", "a leaf with nine records where four fit", {"links.tree.child0.records": 9}),
        bad("dense", "tree-2-node-empty", "tree", "node of a tree|1 to 4 records|0", "a leaf without records", {"links.tree.child0.records": 0}),
        bad("dense", "tree-2-leaf-checksum", "checksum", "checksum is wrong", "the checksum of a leaf", {"links.tree.left.checksum": plus(1)}),
        bad("dense", "tree-2-root-checksum", "checksum", "checksum is wrong", "the checksum of the root", {"links.tree.root.checksum": plus(1)}),
        bad("dense", "tree-2-leaf-type", "tree", "node of a tree|type 5|type 8", "a leaf of another tree", {"links.tree.left.type": 8}),
        bad("dense", "tree-2-leaf-signature", "signature", "wrong signature|BTLF", "a leaf without BTLF", {"links.tree.left.signature": b"BTLG"}),
        bad("dense", "tree-2-two-parents", "link-hash", "index of a group", "both children are the same leaf", {"links.tree.child1": 968, "links.tree.child1.records": 3, "links.tree.total": 7}),
        bad("dense", "tree-2-cycle", "checksum", "checksum is wrong", "a node is its own child", {"links.tree.child0": 1096, "links.tree.child0.records": 1}),
        bad("dense", "link-hash", "link-hash", "index of a group|rising", "a link under a wrong hash", {"root.y.hash": plus(1)}),
        bad("dense", "links-out-of-order", "link-hash", "index of a group", "the index is not sorted", {"links.records": without("102345")}),
        bad("dense", "link-indexed-twice", "link-hash", "index of a group", "a link twice in the index", {"links.records": without("000123")}),
        bad("dense", "attribute-hash", "attribute-index", "index of attributes|n0", "an attribute under a wrong hash", {"v0.record.hash": plus(1)}),
        bad("dense", "attributes-out-of-order", "attribute-index", "index of attributes", "the index is not sorted", {"values.records": without("021")}),
        bad("dense", "attribute-indexed-twice", "attribute-index", "occurs twice|'n0'", "an attribute twice in the index", {"values.records": without("001")}),
        bad("dense", "attribute-shared", "shared", "shared message|attribute", "an attribute in the heap of shared messages", {"v0.record.flags": 2}),
        bad("dense", "attribute-info-flags", "flags", "unknown flags|8", "a flag that objects do not have", {"a.info.flags": 8}),
        bad("dense", "attribute-info-without-index", "attribute-index", "two places", "a heap of attributes without an index", {"a.info.tree": NOWHERE}),
        bad("dense", "heap-of-attributes", "fractal-heap", "another kind|7 bytes|8", "the heap of links is that of attributes", {"root.info.heap": 48}),
    ]  # fmt: skip


def _datasets() -> list[Case]:
    return [
        bad("plain", "dataspace-version", "version", "version that is not read|3", "a dataspace of version 3", {"a.space.version": 3}),
        bad("plain", "dataspace-axes", "dataspace", "dataspace is wrong|33 axes", "thirty-three axes", {"a.space.axes": 33}),
        bad("new", "dataspace-type", "dataspace", "dataspace is wrong|type 0", "a scalar with axes", {"a.space.type": 0}),
        bad("plain", "dataspace-permuted", "dataspace", "dataspace is wrong|flags 2", "a permutation, which never was", {"a.space.flags": 2}),
        bad("new", "null-dataspace", "null", "no shape|null", "a dataset without elements", {"a.space.type": 2, "a.space.axes": 0}),
        bad("chunks", "above-maximum", "dataspace", "longer than its maximum", "an axis longer than it can be", {"c.space.most0": 4}),
        bad("plain", "axis-huge", "dataspace", "too large", "2^62 times 3 elements", {"a.space.axis0": 1 << 62}),
        bad("plain", "too-many-bytes", "layout", "size is wrong|24 bytes", "a shape larger than its bytes", {"a.space.axis0": 3}),
        bad("plain", "datatype-version", "version", "version that is not read|0", "a datatype of version 0", {"a.type.class": 0x01}),
        bad("plain", "datatype-class", "datatype", "no such class|15", "a class that does not exist", {"a.type.class": 0x1F}),
        bad("plain", "datatype-size-zero", "datatype", "no bytes", "elements of no bytes", {"a.type.size": 0}),
        bad("old", "whole-number-bits", "datatype", "does not fit|17 bits", "seventeen bits in two bytes", {"t.type.precision": 17}),
        bad("old", "twelve-bits", "datatype-kind", "type that is not read|12 bits", "whole numbers of twelve bits", {"t.type.precision": 12}),
        bad("plain", "odd-float", "datatype-kind", "type that is not read|float of 4 bytes", "floats with another bias", {"a.type.bias": 128}),
        bad("plain", "vax-float", "datatype-kind", "type that is not read|float of 4 bytes", "floats in the VAX's byte order", {"a.type.bits": 0x1F61}),
        bad("plain", "float-without-hidden-bit", "datatype-kind", "type that is not read", "floats whose first bit is stored", {"a.type.bits": 0x1F00}),
        *(
            bad("plain", name, "datatype-kind", f"type that is not read|{name.split('-')[-1]}", f"elements of class {number}", {"a.type.class": 0x10 | number})
            for name, number in {
                "time": 2, "bit-field": 4, "opaque": 5, "compound": 6, "reference": 7, "sequence": 9, "array": 10, "complex": 11,
            }.items()
        ),
        bad("plain", "text-dataset", "datatype-kind", "type that is not read|text", "elements of text", {"a.type.class": 0x13, "a.type.bits": 1}),
        bad("plain", "text-padding", "datatype", "no known way", "text that is padded with something else", {"root.names.type.bits": 3}),
        bad("plain", "other-enumeration", "datatype-kind", "type that is not read|enumeration", "an enumeration of other names", {"b.type.second": b"TRUTH\0"}),
        bad("plain", "enumeration-size", "datatype", "differ in size", "an enumeration and its numbers differ", {"b.type.base": 0}),
        bad("plain", "bool-two", "bool", "neither 0 nor 1|2", "a boolean of 2", {"b.values": b"\1\0\2"}, "b"),
        bad("plain", "layout-version", "version", "version that is not read|3 or 4 or 5", "a layout of HDF5 1.4", {"a.layout.version": 1}),
        bad("plain", "layout-class", "layout", "layout is wrong|kind 4", "a layout that does not exist", {"a.layout.class": 4}),
        bad("plain", "virtual", "virtual", "made of others", "a virtual dataset", {"a.layout.class": 3, "a.layout.version": 4}),
        bad("plain", "external-storage", "external-storage", "in other files", "a dataset whose bytes are those of /etc/passwd", {"a.extra": [(7, external_file(Builder()))]}),
        bad("plain", "layout-size", "layout", "size is wrong|24 bytes|32 bytes", "more bytes than the shape needs", {"a.layout.size": 32}),
        bad("plain", "compact-size", "layout", "size is wrong|3 bytes|2 bytes", "fewer bytes than the shape needs", {"b.layout.size": 2}),
        bad("plain", "data-outside", "address", "out of the file", "a tensor after the file", {"a.layout.address": 1 << 31}),
        bad("plain", "data-over-the-end", "address", "out of the file", "the end of a tensor after the file", {"a.layout.address": 2130}),
        bad("plain", "data-wraps", "address", "out of the file", "an address near 2^64", {"a.layout.address": NOWHERE - 8}),
        bad("plain", "data-in-structure", "overlap", "overlap", "a tensor in an object header", {"a.layout.address": 248}),
        bad("old", "data-shared", "overlap", "overlap", "two tensors of the same bytes", {"d.layout.address": 96}),
        bad("plain", "object-in-data", "signature", "no object header", "an object header in a tensor", {"root.a.address": 96}),
        bad("plain", "attribute-version", "version", "version that is not read|4", "an attribute of version 4", {"root.names.version": 4}),
        bad("plain", "attribute-name", "attribute", "name is wrong|NUL", "a name without its NUL", {"root.names.name": b"names"}),
        bad("plain", "attribute-name-empty", "attribute", "name is wrong", "an attribute without a name", {"root.names.name": b"\0"}),
        bad("new", "attribute-name-not-utf-8", "attribute", "name is wrong|UTF-8", "a name that is no text", {"a.says.name": b"\xc3\x28\0"}),
        bad("new", "attribute-flags", "flags", "unknown flags|4", "a flag that attributes do not have", {"a.says.flags": 4}),
        bad("new", "attribute-shared-dataspace", "shared", "shared message|dataspace", "an attribute whose dataspace is elsewhere", {"a.says.flags": 2}),
        bad("plain", "attribute-too-short", "attribute", "too short|200000 bytes", "more values than bytes", {"root.names.space.axis0": 100000}),
        bad("plain", "attribute-name-long", "short", "ends before its fields|60000", "a name longer than the attribute", {"root.names.name_size": 60000}),
        bad("plain", "attribute-twice", "attribute-index", "occurs twice|'x'", "two attributes of one name", {"a.extra": [
            (12, attribute(Builder(), "x", b"x", datatype(Builder(), "t", "fixed", 4), dataspace(Builder(), "s", ()), b"1234")) for _ in range(2)
        ]}),
        bad("plain", "fill-size", "fill", "fill value is wrong|4 bytes|2", "a fill value of two bytes", {"a.extra": [(4, struct.pack("<IH", 2, 7))], "a.without": ("fill",)}),
        bad("plain", "fill-written", "fill", "no known use|writing 3", "a time of writing that does not exist", {"a.fill.written": 3}),
        bad("plain", "fill-version", "version", "version that is not read|9", "a fill value of version 9", {"a.fill.version": 9}),
        bad("plain", "fill-too-long", "short", "ends before its fields|fill value", "a fill value longer than its message", {"a.fill.size": 1 << 31}),
        bad("text", "collection-signature", "signature", "wrong signature|GCOL", "a collection without GCOL", {"heap.signature": b"GCOM"}),
        bad("text", "collection-small", "global-heap", "too small|4096|4088", "a collection that is too small", {"heap.size": 4088}),
        bad("text", "collection-outside", "address", "out of the file", "a collection longer than the file", {"heap.size": 1 << 40}),
        bad("text", "text-nowhere", "global-heap", "text is nowhere", "text at no address", {"names.address0": NOWHERE}),
        bad("text", "text-index", "global-heap", "not in the global heap|object 7|no such", "text that the heap does not have", {"names.index0": 7}),
        bad("text", "text-length", "global-heap", "not in the global heap|6 bytes|5 bytes", "text longer than in the heap", {"names.length0": 6}),
        bad("text", "object-numbers", "global-heap", "one number|second 1", "two texts of one number", {"heap.index2": 1}),
        bad("text", "text-longer-than-collection", "short", "ends before its fields", "a text longer than its collection", {"heap.size1": 5000}),
        bad("text", "text-type-size", "datatype", "of a wrong type", "text of variable length in 24 bytes", {"names.type.size": 24}),
        whole("text-repeated", "budget.heap", "more than its size allows", "one text of the heap, 640 times", many_texts()),
    ]  # fmt: skip


def _chunks() -> list[Case]:
    c = "chunks"
    bomb = zlib.compress(bytes(1 << 20), 9)
    return [
        bad(c, "chunk-shape-zero", "layout", "shape is wrong|(0, 4)", "chunks of no elements", {"c.layout.chunk0": 0}),
        bad(c, "chunk-element", "layout", "shape is wrong|(2, 8)", "chunks of larger elements", {"c.layout.element": 8}),
        bad(c, "chunk-huge", "chunk-size", "far larger than the file", "chunks of 16 GB", {"c.layout.chunk0": NOWHERE >> 32}),
        bad(c, "index-outside", "address", "out of the file|chunk index", "an index after the file", {"c.layout.address": 1 << 40}),
        bad(c, "expansion", "budget.expansion", "far larger than the file", "a terabyte of fill values", {"c.space.axis0": 1 << 38, "c.space.most0": 1 << 38}),
        bad(c, "filter-version", "version", "version that is not read|3", "a pipeline of version 3", {"c.filters.version": 3}),
        bad(c, "filter-count", "filter", "too many filters|200", "two hundred filters", {"c.filters.count": 200}),
        *(
            bad(c, f"filter-{name.lower()}", "filter-kind", f"filter is not read|{name}", f"the filter {name}", {"c.filters.filter1": kind})
            for name, kind in {"szip": 4, "nbit": 5, "scale-offset": 6, "LZF": 32000, "Zstandard": 32015}.items()
        ),
        bad(c, "shuffle-size", "filter", "another size|[4]|[8]", "shuffle for elements of 8 bytes", {"c.filters.filter0.value": 8}),
        bad(c, "deflate-level", "filter", "wrong level|[10]", "deflate of level 10", {"c.filters.filter1.value": 10}),
        bad("plain", "filters-contiguous", "layout", "layout is wrong|1 filters", "filters without chunks", {"a.extra": [(11, filters(Builder(), "f", 4, (3,)))]}),
        bad(c, "chunk-tree-signature", "signature", "wrong signature|TREE", "an index without TREE", {"c.tree.signature": b"TREF"}, "c"),
        bad(c, "chunk-tree-of-group", "tree", "node of a tree|type 0", "an index that is a group's", {"c.tree.type": 0}, "c"),
        bad(c, "chunk-tree-too-full", "tree", "node of a tree|5 entries", "five chunks where four fit", {"c.tree.entries": 5}, "c"),
        bad(c, "chunk-place", "chunk-place", "out of place|(5, 0)", "a chunk that begins within another", {"c.tree.offset1": 5}, "c"),
        bad(c, "chunk-order", "tree-order", "keys of a tree", "a chunk twice in the index", {"c.tree.offset1": 0}, "c"),
        bad(c, "chunk-element-offset", "chunk-index", "key is wrong", "a chunk that begins within an element", {"c.tree.element0": 4, "c.tree.offset0": 0}, "c"),
        bad(c, "chunk-outside", "address", "out of the file|chunk", "a chunk after the file", {"c.tree.address0": 1 << 41}, "c"),
        bad(c, "chunk-size-huge", "address", "out of the file|chunk", "a chunk of 4 GB", {"c.tree.size0": (1 << 32) - 1}, "c"),
        bad(c, "chunks-overlap", "overlap", "overlap", "two chunks of the same bytes", {"c.tree.address1": 104}, "c"),
        bad(c, "chunk-in-index", "overlap", "overlap", "a chunk in its own index", {"c.tree.address1": 160}, "c"),
        bad(c, "chunk-checksum", "chunk-checksum", "checksum is wrong", "one bit of a Fletcher-32 checksum", {"c.chunk0.checksum": lambda value: value ^ 1}, "c"),
        bad(c, "chunk-too-short", "chunk-checksum", "too short|3", "a chunk shorter than its checksum", {"c.tree.size0": 3}, "c"),
        bad(c, "stream-broken", "deflate", "cannot be decompressed", "bytes that are no zlib stream", {"c.chunk0.stream": b"\x78\x9cno stream at all"}, "c"),
        bad(c, "stream-cut", "deflate", "not one zlib stream", "half a zlib stream", {"c.chunk0.stream": lambda raw: raw[:-6]}, "c"),
        bad(c, "stream-and-more", "deflate", "not one zlib stream|after the stream's end", "bytes after a zlib stream", {"c.chunk0.stream": lambda raw: raw + b"more"}, "c"),
        bad(c, "stream-too-long", "deflate", "not one zlib stream|more", "a megabyte of zeros for eight bytes", {"c.chunk0.stream": bomb}, "c"),
        bad(c, "stream-too-short", "deflate", "wrong size|8 bytes|4 bytes", "four bytes for eight", {"c.chunk0.stream": zlib.compress(b"four")}, "c"),
        bad(c, "chunk-unfiltered-size", "deflate", "wrong size|8 bytes|16 bytes", "a chunk that says that nothing was done", {"c.tree.mask0": 7 & ~4, "c.tree.size0": 20}, "c"),
        bad("new", "single-chunk-small", "chunk-index", "more than its single chunk|2", "a dataset of two chunks in a single one", {"c.space.axis0": 5, "c.space.most0": 5}, "c"),
        bad("new", "single-chunk-outside", "address", "out of the file", "a chunk longer than the file", {"c.layout.stored": 1 << 40}, "c"),
        bad("new", "layout-flags", "flags", "unknown flags", "a flag that layouts do not have", {"c.layout.flags": 6}),
        bad("new", "layout-index", "layout", "no such chunk index|6", "an index that does not exist", {"c.layout.index": 6}),
        bad("new", "layout-width", "layout", "shape is wrong|as few bytes", "sizes of two bytes where one is enough", {"c.layout.width": 2}),
    ]  # fmt: skip


def _arrays() -> list[Case]:
    a = "arrays"
    return [
        bad(a, "implicit-filtered", "chunk-index", "implicit chunks|not filtered", "implicit chunks with a filter", {"implicit.set.extra": [(11, "filters", filters(Builder(), "f", 2, (3,)))]}, "implicit"),
        bad(a, "implicit-outside", "chunk-index", "implicit chunks|bytes", "more implicit chunks than bytes", {"implicit.set.space.axis0": 4000, "implicit.set.space.most0": 4000}, "implicit"),
        bad(a, "implicit-without-limit", "chunk-index", "does not suit", "implicit chunks along an axis without limit", {"implicit.set.space.most0": NOWHERE}, "implicit"),
        bad(a, "fixed-signature", "signature", "wrong signature|FAHD", "a fixed array without FAHD", {"fixed.signature": b"FAHE"}, "fixed"),
        bad(a, "fixed-checksum", "checksum", "checksum is wrong", "its checksum", {"fixed.checksum": plus(1)}, "fixed"),
        bad(a, "fixed-client", "chunk-index", "other chunks|client 1", "a fixed array for filtered chunks", {"fixed.client": 1}, "fixed"),
        bad(a, "fixed-entry", "chunk-index", "other chunks|16 bytes", "entries of sixteen bytes", {"fixed.entry": 16}, "fixed"),
        bad(a, "fixed-entries", "chunk-index", "wrong number of entries|3|4", "an entry too many", {"fixed.entries": 4}, "fixed"),
        bad(a, "fixed-bits", "chunk-index", "wrong number of entries", "pages of 2^200 entries", {"fixed.bits": 200}, "fixed"),
        bad(a, "fixed-block-signature", "signature", "wrong signature|FADB", "a block without FADB", {"fixed.block.signature": b"FADC"}, "fixed"),
        bad(a, "fixed-block-of-another", "chunk-index", "belongs to another", "a block of another array", {"fixed.block.header": 1160}, "fixed"),
        bad(a, "fixed-outside", "address", "out of the file", "a chunk after the file", {"fixed.entry1": 1 << 33}, "fixed"),
        bad(a, "fixed-overlap", "overlap", "overlap", "two entries of one chunk", {"fixed.entry1": 1000}, "fixed"),
        bad(a, "fixed-along-no-limit", "chunk-index", "does not suit", "a fixed array along an axis without limit", {"fixed.set.space.most0": NOWHERE}, "fixed"),
        bad(a, "page-checksum", "checksum", "checksum is wrong|page", "the checksum of a page", {"paged.page1.checksum": plus(1)}, "paged"),
        bad(a, "extensible-signature", "signature", "wrong signature|EAHD", "an extensible array without EAHD", {"extensible.signature": b"EAHE"}, "extensible"),
        bad(a, "extensible-growth", "chunk-index", "cannot grow", "data blocks of other sizes", {"extensible.growth2": 4}, "extensible"),
        bad(a, "extensible-growth-zero", "chunk-index", "cannot grow", "data blocks of no entries", {"extensible.growth2": 0, "extensible.set.layout.more": bytes([16, 1, 2, 0, 2])}, "extensible"),
        bad(a, "extensible-along-limit", "chunk-index", "does not suit", "an extensible array along an axis with a limit", {"extensible.set.space.most0": 60}, "extensible"),
        bad(a, "index-block-signature", "signature", "wrong signature|EAIB", "an index block without EAIB", {"extensible.index.signature": b"EAIC"}, "extensible"),
        bad(a, "index-block-of-another", "chunk-index", "belongs to another", "an index block of another array", {"extensible.index.header": 0}, "extensible"),
        bad(a, "data-block-signature", "signature", "wrong signature|EADB", "a data block without EADB", {"extensible.near1.signature": b"EADC"}, "extensible"),
        bad(a, "data-block-checksum", "checksum", "checksum is wrong", "the checksum of a data block", {"extensible.near1.checksum": plus(1)}, "extensible"),
        bad(a, "data-block-page-checksum", "checksum", "checksum is wrong|page", "the checksum of its page", {"extensible.far1.data0.page1.checksum": plus(1)}, "extensible"),
        bad(a, "second-level-signature", "signature", "wrong signature|EASB", "a block of the second level without EASB", {"extensible.far1.signature": b"EASC"}, "extensible"),
        bad(a, "second-level-offset", "chunk-index", "another place|14|15", "a block that belongs elsewhere", {"extensible.far1.offset": 15}, "extensible"),
        bad(a, "second-level-twice", "overlap", "overlap", "two data blocks in one place", {"extensible.far0.data1.address": 456}, "extensible"),
        bad(a, "chunk-tree-2-total", "tree", "another number of records|11|10", "a chunk fewer than announced", {"tree.total": 11}, "tree"),
        bad(a, "chunk-tree-2-type", "tree", "another kind|type 11", "a tree of filtered chunks", {"tree.type": 11}, "tree"),
        bad(a, "chunk-tree-2-order", "tree-order", "out of order", "chunks that are not sorted", {"tree.row3": 0}, "tree"),
    ]  # fmt: skip


def _later() -> list[Case]:
    a = "arrays"
    return [
        bad(a, "extensible-pointers-zero", "chunk-index", "cannot grow", "a second level of no blocks", {"extensible.growth3": 0, "extensible.set.layout.more": bytes([16, 1, 0, 2, 2])}, "extensible"),
        bad(a, "extensible-direct", "chunk-index", "not what the dataset says", "more entries in the index block than announced", {"extensible.growth1": 2}, "extensible"),
        bad("chunks", "filter-twice", "filter-kind", "more than once|deflate 2 times", "a chunk deflated twice", {"c.filters.filter0": 1}),
        whole("chunks-over-the-edge", "budget.expansion", "far larger than the file", "64 rows of a byte, each in a chunk of 2 MB", over_the_edge()),
        bad("dense", "objects-overlap", "fractal-heap", "objects of a heap overlap|128 bytes", "six links of sixty bytes in a heap of 128", {f"links.object{i}.length": 60 - 14 * max(0, i - 1) for i in range(6)}),
        bad(a, "index-shared", "overlap", "overlap", "two datasets with one index", {"paged.set.layout.address": 1024}),
        bad("dense", "object-after-heap", "fractal-heap", "after its heap|128 bytes", "an object after the managed space", {"links.object0.offset": 120}),
    ]  # fmt: skip


def cases() -> list[Case]:
    """Files that break one rule each."""
    parts = (_superblocks, _headers, _groups, _dense, _datasets, _chunks, _arrays, _later)
    return [case for part in parts for case in part()]


def good() -> list[Case]:
    """The files that the others are made of."""
    found = [Case(name, "", (), {"a.h5": bytes(build(None).data)}, "a.h5") for name, build in FILES.items()]
    return [*found, Case("user-block", "", (), {"a.h5": bytes(512) + bytes(old(None, 512).data)}, "a.h5")]
