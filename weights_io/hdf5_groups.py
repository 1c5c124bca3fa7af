"""The links of an HDF5 group, however it keeps them.

    old group   symbol table message -> B-tree (version 1) of symbol table nodes, names in a local heap
    new group   link messages in the object header; or, when there are many, a fractal heap of them, indexed by a B-tree (version 2)

A link is hard (an object's address) or soft (a path, which is listed and not followed). External links, which lead to other files, and links of
users' own kinds are refused.

Reference: HDF5 File Format Specification, version 3.0, sections III.B-D, IV.A.2.c, g and r.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from weights_io.hdf5_bytes import lookup3
from weights_io.hdf5_heaps import MAX_NAME, FractalHeap, LocalHeap
from weights_io.hdf5_objects import LINK, LINK_INFO, SYMBOL_TABLE
from weights_io.hdf5_trees import children, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weights_io.hdf5_bytes import Fields, Space
    from weights_io.hdf5_objects import Header
    from weights_io.hdf5_trees import Child

__all__ = ["RULES", "Link", "read_links"]

RULES = {
    "hdf5.external-link": "A link leads to an object of the same file.",
    "hdf5.link": "A link is hard or soft, and a group keeps its links in one place.",
    "hdf5.link-hash": "The index of a group has each link under the hash of its name, in order.",
    "hdf5.name": "A name is text in UTF-8 of 1 to 65535 bytes, without / and NUL, and is not a dot.",
    "hdf5.symbol-table": "A symbol table node has at most as many entries as the superblock allows, of known kinds.",
    "hdf5.unique-names": "The names of a group are in order where the format wants them so, and each occurs once.",
    "hdf5.user-link": "A link is of a kind that the format itself has.",
}
HARD, SOFT, EXTERNAL, FIRST_OF_USERS = 0, 1, 64, 65
RECORD = 11  # bytes of a link's record in the index of names: the hash of the name, the identifier in the heap
LINK_COST = 350  # bytes of objects that a link takes, besides its name


class Link(NamedTuple):
    """One link of a group."""

    name: str
    address: int  # of the object's header; 0 for a soft link
    target: str | None = None  # of a soft link
    order: int = 0  # of creation, where the group keeps it


def read_links(space: Space, header: Header) -> list[Link]:
    """The links of a group: in order of creation where it keeps that, otherwise by name."""
    table, info, own = header.one(SYMBOL_TABLE), header.one(LINK_INFO), header.all(LINK)
    found: list[Link] = []
    if table and (info or own):
        raise space.broken(
            "a group has both kinds of links", "hdf5.link", table.at, "group", "an old or a new group", "both"
        )
    fields = table.fields(space) if table else None
    links = _old(space, fields) if fields else _new(space, header)
    names: set[str] = set()
    for link in links:
        if link.name in names:
            at = space.base + header.address
            raise space.broken("a name occurs twice", "hdf5.unique-names", at, "group", "unique names", repr(link.name))
        names.add(link.name)
        found.append(link)
        space.charge(LINK_COST + 4 * len(link.name) + 4 * len(link.target or ""), "group")
    return sorted(found, key=lambda link: (link.order, link.name.encode()))


def _name(fields: Fields, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = ""
    if not name or len(raw) > MAX_NAME or name == "." or "/" in name or "\0" in name:
        expected = f"UTF-8, 1 to {MAX_NAME} bytes, no / nor NUL, no dot alone"
        raise fields.broken("a link's name is wrong", "hdf5.name", expected, repr(raw[:60]))
    return name


# --- old groups -------------------------------------------------------------------------------------------------------------


def _old(space: Space, fields: Fields) -> Iterator[Link]:
    tree, heap = fields.defined(), LocalHeap(space, fields.defined())
    for child in children(
        space,
        tree,
        0,
        space.length_size,
        space.internal_k,
        lambda key: heap.name(int.from_bytes(key, "little")),
    ):
        yield from _node(space, child, heap)


def _node(space: Space, child: Child, heap: LocalHeap) -> Iterator[Link]:
    """The links of a symbol table node: their names lie above the key at its left, and up to the one at its right."""
    size = space.length_size + space.offset_size + 24
    fields = space.fields(child.address, 8 + 2 * space.leaf_k * size, "symbol table node")
    fields.signature(b"SNOD")
    fields.version(1)
    fields.take(1)
    count = fields.unsigned(2)
    if count > 2 * space.leaf_k:
        raise fields.broken("a symbol table node has too many entries", "hdf5.symbol-table", 2 * space.leaf_k, count)
    last, most = (heap.name(int.from_bytes(key, "little")) for key in (child.low, child.high))
    for _ in range(count):
        at = fields.at
        raw, address, kind = heap.name(fields.length()), fields.address(), fields.unsigned(4)
        target = int.from_bytes(fields.take(20)[4:8], "little")
        if not last < raw <= most:
            expected = f"above {last[:60]!r}, up to {most[:60]!r}"
            raise space.broken(
                "the names of a group are out of order", "hdf5.unique-names", at, fields.field, expected, repr(raw[:60])
            )
        last = raw
        yield _entry(fields, raw, address, kind, heap, target)


def _entry(fields: Fields, raw: bytes, address: int | None, kind: int, heap: LocalHeap, target: int) -> Link:
    name = _name(fields, raw)
    if kind == 2:
        return Link(name, 0, _target(fields, heap.name(target)))
    if kind > 2 or address is None:
        got = f"kind {kind}, {'no address' if address is None else 'an address'}"
        raise fields.broken(
            "an entry of a symbol table is wrong", "hdf5.symbol-table", "kind 0, 1 or 2, and an address", got
        )
    return Link(name, address)


def _target(fields: Fields, raw: bytes) -> str:
    try:
        target = raw.decode()
    except UnicodeDecodeError:
        target = ""
    if not target:
        raise fields.broken("a soft link leads nowhere", "hdf5.link", "a path in UTF-8", repr(raw[:60]))
    return target


# --- new groups -------------------------------------------------------------------------------------------------------------


def _new(space: Space, header: Header) -> Iterator[Link]:
    info, own = header.one(LINK_INFO), header.all(LINK)
    heap, tree = _info(info.fields(space)) if info else (None, None)
    if heap is None:
        for message in own:
            yield _link(message.fields(space))[1]
        return
    if own or tree is None:
        at = space.base + header.address
        raise space.broken(
            "a group keeps its links in two places", "hdf5.link", at, "group", "a heap and its index", "messages too"
        )
    yield from _dense(space, FractalHeap(space, heap), tree)


def _info(fields: Fields) -> tuple[int | None, int | None]:
    """Where the heap and the index of names are; nowhere, if all links are in the header."""
    fields.version(0)
    flags = fields.unsigned(1)
    if flags & ~3:
        raise fields.broken("a group has unknown flags", "hdf5.flags", "at most 3", flags)
    fields.take(8 if flags & 1 else 0)
    return fields.address(), fields.address()


def _dense(space: Space, heap: FractalHeap, tree: int) -> Iterator[Link]:
    raw, last = records(space, tree, 5, RECORD), (-1, b"")
    for i in range(0, len(raw), RECORD):
        stored = int.from_bytes(raw[i : i + 4], "little")
        fields = heap.get(raw[i + 4 : i + RECORD], "link message")
        name, link = _link(fields)
        if stored != lookup3(name) or (stored, name) <= last:
            got = f"{stored:#010x} for {name[:60]!r}"
            raise fields.broken(
                "the index of a group is wrong", "hdf5.link-hash", f"{lookup3(name):#010x}, rising", got
            )
        last = (stored, name)
        yield link


def _link(fields: Fields) -> tuple[bytes, Link]:
    """The bytes of a link's name, and the link."""
    fields.version(1)
    flags = fields.unsigned(1)
    if flags & ~31:
        raise fields.broken("a link has unknown flags", "hdf5.flags", "at most 31", flags)
    kind = fields.unsigned(1) if flags & 8 else HARD
    order = fields.unsigned(8) if flags & 4 else 0
    charset = fields.unsigned(1) if flags & 16 else 0
    raw = fields.take(fields.unsigned(1 << (flags & 3)))
    name = _name(fields, raw)
    if charset > 1 or SOFT < kind < EXTERNAL:
        got = f"kind {kind}, character set {charset}"
        raise fields.broken("a link is of no known kind", "hdf5.link", "kind 0, 1 or 64, character set 0 or 1", got)
    _refuse(fields, kind, name)
    if kind == HARD:
        return raw, Link(name, fields.defined(), None, order)
    return raw, Link(name, 0, _target(fields, fields.take(fields.unsigned(2))), order)


def _refuse(fields: Fields, kind: int, name: str) -> None:
    if kind == EXTERNAL:
        raise fields.unread("a link leads to another file", "hdf5.external-link", "a link within the file", repr(name))
    if kind >= FIRST_OF_USERS:
        raise fields.unread(
            "a link is of a user's own kind", "hdf5.user-link", "a hard or soft link", f"kind {kind}: {name!r}"
        )
