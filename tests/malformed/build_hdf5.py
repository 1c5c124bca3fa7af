"""Malformed HDF5 files, each a good file with one thing wrong; written here byte by byte with `struct`, by no HDF5 library.

Every field of the four good files has a name ("root.tree.entries"), and a case changes one of them; checksums are computed after the change, so that a
reader gets to the field that is wrong. `tests/fuzz/hdf5.py` changes many at once.
"""

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
    raw = b.u(f"{p}.version", 2, 1) + bytes([2, 0]) + b.u(f"{p}.defined", 1, 1)
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
    raw += b.u(f"{p}.axes", len(chunk) + 1, 1) + b.u(f"{p}.width", 1, 1)
    raw += b"".join(b.u(f"{p}.chunk{i}", n, 1) for i, n in enumerate((*chunk, size)))
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
        body += b.u(f"{p}.{name}.kind", kind, 2) + b.u(f"{p}.{name}.length", len(raw), 2)
        body += b.u(f"{p}.{name}.flags", 0, 1) + bytes(3) + raw
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
            b.u(f"{p}.{name}.kind", kind, 1)
            + b.u(f"{p}.{name}.length", len(raw), 2)
            + b.u(f"{p}.{name}.flags", 0, 1)
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


def superblock0(b: Builder, root: int, version: int = 0) -> None:
    """With nodes of group trees of at most four children, and of symbol tables of at most eight entries."""
    raw = b.pick("superblock.magic", b"\x89HDF\r\n\x1a\n") + b.u("superblock.version", version, 1)
    raw += b.u("superblock.free_version", 0, 1) + bytes(3)
    raw += b.u("superblock.offsets", 8, 1) + b.u("superblock.lengths", 8, 1) + bytes(1)
    raw += b.u("superblock.leaf_k", 4, 2) + b.u("superblock.internal_k", 2, 2) + bytes(4)
    raw += b.u("superblock.chunk_k", 2, 2) + bytes(2) if version else b""
    raw += b.u("superblock.base", b.base, 8) + b.u("superblock.free", NOWHERE, 8)
    raw += b.u("superblock.end", b.base + len(b.data), 8) + b.u("superblock.driver", NOWHERE, 8)
    raw += bytes(8) + b.u("superblock.root", root, 8) + bytes(24)
    b.put(0, raw)


def old_group(b: Builder, p: str, names: dict[bytes, int | bytes]) -> bytes:
    """A symbol table message, with the structures it leads to; an address is a hard link, bytes a soft one."""
    segment, offsets = bytearray(8), {}
    for text in [*sorted(names), *(target for target in names.values() if isinstance(target, bytes))]:
        offsets[text] = len(segment)
        segment += padded(b.pick(f"{p}.heap.{text.decode()}", text) + b"\0")
    start = b.add(bytes(segment))
    heap = b.pick(f"{p}.heap.signature", b"HEAP") + b.u(f"{p}.heap.version", 0, 1) + bytes(3)
    heap = b.add(
        heap + b.u(f"{p}.heap.size", len(segment), 8) + struct.pack("<Q", 1) + b.u(f"{p}.heap.address", start, 8)
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
    node = b.add((node + b.u(f"{p}.node.entries", len(names), 2) + entries).ljust(8 + 8 * 40, b"\0"))
    last = offsets[max(names)] if names else None
    return struct.pack("<QQ", old_tree(b, f"{p}.tree", node, last), heap)


def old_tree(b: Builder, p: str, node: int, last: int | None) -> int:
    """A group's tree with one leaf, or with a node between; or an empty one."""
    for level in range(b.pick(f"{p}.levels", 1)):
        own = len(b.data) + -len(b.data) % 8
        raw = b.pick(f"{p}.signature", b"TREE") + b.u(f"{p}.type", 0, 1) + b.u(f"{p}.level", level, 1)
        raw += b.u(f"{p}.entries", int(last is not None), 2) + struct.pack("<QQ", NOWHERE, NOWHERE)
        child = own if b.pick(f"{p}.cycle", False) else node
        raw += b.u(f"{p}.key0", 0, 8) + b.u(f"{p}.child", child, 8) + b.u(f"{p}.key1", last or 0, 8)
        node = b.add(raw.ljust(24 + 4 * 8 + 5 * 8, b"\0"))
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


def old(changes: dict[str, Any] | None = None, user_block: int = 0) -> Builder:
    """Superblock 0, headers 1: contiguous and compact, two groups, soft and hard links, a committed datatype."""
    b = Builder(changes)
    b.base = user_block
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
    named = header1(b, "t", [(3, "type", datatype(b, "t.type", "fixed", 2, 9))])
    twos = b.add(struct.pack(">2h", 258, -2))
    shared = b.u("d.type.shared_version", 2, 1) + b.u("d.type.shared_kind", 0, 1) + b.u("d.type.shared", named, 8)
    b.changes.setdefault("d.type.flags", 2)
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
    links: dict[bytes, int | bytes] = {b"a": first, b"b": flags, b"g": group, b"s": b"/g/d", b"t": named}
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
    """A heap of one direct block of 512 bytes, or of an indirect block with it; and the identifiers of the objects."""
    header = b.reserve(146)
    prefix, offsets, content = 21, [], b""
    for raw in objects:
        offsets.append(prefix + len(content))
        content += raw
    block = (
        b.pick(f"{p}.block.signature", b"FHDB") + b.u(f"{p}.block.version", 0, 1) + b.u(f"{p}.block.heap", header, 8)
    )
    block += b.u(f"{p}.block.offset", 0, 4)
    block = (block + bytes(4) + content).ljust(512, b"\0")
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
        + struct.pack("<4Q", 512, 512, 512, len(objects))
    )
    raw += bytes(32) + b.u(f"{p}.width", 4, 2) + b.u(f"{p}.start", 512, 8) + b.u(f"{p}.largest", 65536, 8)
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
    return Case(name, f"hdf5.{rule}", tuple(words.split("|")), {"a.h5": content}, "a.h5", read, why)


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
    """An attribute of one thousand times the same long text of the global heap."""
    b = Builder()
    b.reserve(96)
    length = 30000
    raw = struct.pack("<HHIQ", 1, 1, 0, length) + b"a" * length
    address = b.add(b"GCOL\1\0\0\0" + struct.pack("<Q", len(raw) + 16) + raw)
    value = struct.pack("<IQI", length, address, 1) * 1000
    kind, shape = datatype(b, "type", "variable", 16, 1), dataspace(b, "space", (1000,))
    names = attribute(b, "names", b"layer_names", kind, shape, value)
    superblock0(b, header1(b, "root", [(17, "table", old_group(b, "root", {})), (12, "names", names)]))
    return bytes(b.data)


def external_file(b: Builder) -> bytes:
    """An external files message of version 1 with one file."""
    heap = b.add(b"HEAP" + bytes(4) + struct.pack("<QQQ", 24, 1, b.add(padded(b"\0" * 8 + b"/etc/passwd\0"))))
    return b"\1\0\0\0" + struct.pack("<HHQ", 1, 1, heap) + struct.pack("<QQQ", 8, 0, 24)


def _superblocks() -> list[Case]:
    return [
        bad("old", "superblock-version", "version", "version that is not read|0 or 1", "superblock 4 does not exist", {"superblock.version": 4}),
        bad("old", "free-space-version", "version", "version that is not read|version 0", "free space of version 1", {"superblock.free_version": 1}),
        bad("old", "sizes-of-addresses", "sizes", "sizes of addresses|3 and 8", "addresses of three bytes", {"superblock.offsets": 3}),
        bad("new", "sizes-of-lengths", "sizes", "sizes of addresses|8 and 16", "lengths of sixteen bytes", {"superblock.lengths": 16}),
        bad("old", "base-address", "base", "base address is wrong|512", "addresses count from a place where nothing is", {"superblock.base": 512}),
        bad("old", "end-after-file", "end", "truncated", "the superblock announces one byte more", {"superblock.end": plus(1)}),
        whole("truncated-by-one", "end", "truncated|2151 bytes", "the last byte is missing", cut("old", 2151)),
        whole("superblock-only", "end", "truncated", "nothing after the superblock", cut("new", 48)),
        bad("old", "driver", "driver", "one of several", "the file of a driver that splits files", {"superblock.driver": 96}),
        bad("old", "free-space-address", "superblock", "free space|96", "an address that old superblocks never had", {"superblock.free": 96}),
        bad("chunks", "no-room-in-nodes", "superblock", "no room|0", "chunk trees whose nodes have no entries", {"superblock.chunk_k": 0}),
        bad("old", "root-outside", "address", "out of the file", "the root group lies after the end", {"superblock.root": 1 << 40}),
        bad("old", "root-undefined", "address", "undefined", "there is no root group", {"superblock.root": NOWHERE}),
        bad("old", "root-is-superblock", "signature", "no object header|137", "the root group is the superblock", {"superblock.root": 0}),
        bad("old", "root-is-dataset", "object", "a group|none of them", "no", {"superblock.root": 0}),
        bad("new", "superblock-checksum", "checksum", "checksum is wrong", "a checksum that is one too large", {"superblock.checksum": plus(1)}),
        bad("new", "open-for-writing", "in-use", "left open", "the program that wrote it has not closed it", {"superblock.flags": 1}),
        bad("new", "unknown-flags", "flags", "unknown flags|64", "a flag that superblocks do not have", {"superblock.flags": 64}),
        bad("new", "driver-in-extension", "driver", "one of several|driver info", "a driver in the superblock's extension", {"extension.kind": 20}),
        bad("new", "cache-image", "cache-image", "cache image", "the metadata is elsewhere", {"extension.kind": 24}),
        bad("new", "extension-is-root", "overlap", "overlap", "the superblock's extension is the root group", {"superblock.extension": 448}),
    ]  # fmt: skip


def cases() -> list[Case]:
    """Files that break one rule each."""
    parts = (_superblocks,)
    return [case for part in parts for case in part()]


def good() -> list[Case]:
    """The files that the others are made of."""
    found = [Case(name, "", (), {"a.h5": bytes(build(None).data)}, "a.h5") for name, build in FILES.items()]
    return [*found, Case("user-block", "", (), {"a.h5": bytes(512) + bytes(old(None, 512).data)}, "a.h5")]
