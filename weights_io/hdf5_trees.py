"""HDF5's two kinds of B-tree: version 1 (names of an old group, chunks), version 2 (links, attributes, chunks).

Version 1 has no checksums; the keys between its children must be in order all the way down, so that looking a key up and reading the whole tree
are the same. Version 2 has a checksum for each node; the order of its records is for the caller to check, who knows what they mean.

Reference: HDF5 File Format Specification, version 3.0, section III.A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from weights_io.hdf5_bytes import Fields, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["RULES", "Child", "children", "records"]

RULES = {
    "hdf5.tree": "A B-tree has nodes of the kind and depth that its root says, none too full, none empty but the root.",
    "hdf5.tree-order": "The keys and records of a B-tree are in order, each once.",
}
MAX_DEPTH = 32  # levels of a tree: each has at least twice the nodes of the one above
PART_COST = 200  # bytes of objects that one child or record takes while a tree is walked


class Child(NamedTuple):
    """What a leaf of a version 1 tree points to, between two keys."""

    low: bytes
    high: bytes
    address: int


# --- version 1 --------------------------------------------------------------------------------------------------------------


def children(
    space: Space, address: int, kind: int, key_size: int, half: int, order: Callable[[bytes], Any]
) -> Iterator[Child]:
    """What the leaves point to, from left to right; `order` makes of a key's bytes something that can be compared."""
    stack: list[tuple[int, int | None, bytes, bytes]] = [(address, None, b"", b"")]
    while stack:
        address, level, low, high = stack.pop()
        fields, found, count = _node_1(space, address, kind, key_size, half, level)
        keys, parts = _parts_1(fields, count, key_size)
        _check_order(fields, keys if level is None or not count else [low, *keys, high], order, inner=level is not None)
        if found == 0:
            yield from (Child(*part) for part in zip(keys, keys[1:], parts, strict=False))
            continue
        space.check_heap(PART_COST * (len(stack) + count), "B-tree")
        stack += [(part, found - 1, keys[i], keys[i + 1]) for i, part in reversed(list(enumerate(parts)))]


def _check_order(fields: Fields, keys: list[bytes], order: Callable[[bytes], Any], inner: bool) -> None:
    """Raise unless the keys rise; the first and last of an inner node's, which its parent has, may be equal to their neighbours.

    What `order` makes of a key can be far longer than the key: two at a time are compared.
    """
    values = map(order, keys)
    last = next(values, None)
    for i, value in enumerate(values, 1):
        if value < last or (value == last and not (inner and i in (1, len(keys) - 1))):
            raise fields.broken("the keys of a tree are out of order", "hdf5.tree-order", "rising keys", repr(keys[:3]))
        last = value


def _node_1(
    space: Space, address: int, kind: int, key_size: int, half: int, level: int | None
) -> tuple[Fields, int, int]:
    """A node's fields from its first key on, its level and the number of its children."""
    size = 8 + 2 * space.offset_size + 2 * half * space.offset_size + (2 * half + 1) * key_size
    space.check_heap(PART_COST * 4 * half, "B-tree")
    fields = space.fields(address, size, "B-tree")
    fields.signature(b"TREE")
    got, found, count = fields.unsigned(1), fields.unsigned(1), fields.unsigned(2)
    fields.take(2 * space.offset_size)  # the nodes to the left and right, which nobody needs
    wrong = found >= MAX_DEPTH if level is None else found != level or count == 0
    if got != kind or wrong or count > 2 * half or (found and not count):
        expected = (
            f"type {kind}, level {'below ' + str(MAX_DEPTH) if level is None else level}, at most {2 * half} entries"
        )
        raise fields.broken(
            "a node of a tree is wrong", "hdf5.tree", expected, f"type {got}, level {found}, {count} entries"
        )
    return fields, found, count


def _parts_1(fields: Fields, count: int, key_size: int) -> tuple[list[bytes], list[int]]:
    keys, parts = [], []
    for _ in range(count):
        keys.append(fields.take(key_size))
        parts.append(fields.defined())
    return ([*keys, fields.take(key_size)] if count else []), parts


# --- version 2 --------------------------------------------------------------------------------------------------------------


class _Tree(NamedTuple):
    """What all nodes of a version 2 tree have in common."""

    kind: int
    node_size: int
    record_size: int
    most: list[int]  # records of a node, by its height
    total: list[int]  # records of a node and all below it, by its height

    def widths(self, height: int) -> tuple[int, int]:
        """Bytes of a child's number of records, and of the number of all below it, in a node of that height."""
        return _width(self.most[0]), _width(self.total[height - 1]) if height > 1 else 0


def _width(number: int) -> int:
    return (number.bit_length() - 1) // 8 + 1


def records(space: Space, address: int, kind: int, record_size: int) -> bytes:
    """All records of a tree in its order, one after the other."""
    fields = space.checked(address, 16 + space.offset_size + 2 + space.length_size + 4, "B-tree")
    fields.signature(b"BTHD")
    fields.version(0)
    got, node_size, size, depth = fields.unsigned(1), fields.unsigned(4), fields.unsigned(2), fields.unsigned(2)
    fields.take(2)
    root, count, total = fields.address(), fields.unsigned(2), fields.length()
    if got != kind or size != record_size or depth >= MAX_DEPTH or node_size < 10 + record_size:
        expected = f"type {kind}, records of {record_size} bytes, depth below {MAX_DEPTH}"
        raise fields.broken(
            "a tree is of another kind", "hdf5.tree", expected, f"type {got}, {size} bytes, depth {depth}"
        )
    found = b""
    if root is not None:
        tree = _shape(space, fields, _Tree(kind, node_size, record_size, [], []), depth)
        found = b"".join(_walk(space, tree, root, count, depth))
    if len(found) != total * record_size:
        raise fields.broken("a tree has another number of records", "hdf5.tree", total, len(found) // record_size)
    return found


def _shape(space: Space, fields: Fields, tree: _Tree, depth: int) -> _Tree:
    """The tree with how much a node of each height can hold."""
    most = [(tree.node_size - 10) // tree.record_size]
    total = [most[0]]
    for height in range(1, depth + 1):
        pointer = space.offset_size + _width(most[0]) + (_width(total[-1]) if height > 1 else 0)
        most.append((tree.node_size - 10 - pointer) // (tree.record_size + pointer))
        total.append((most[-1] + 1) * total[-1] + most[-1])
        if most[-1] < 1:
            raise fields.broken(
                "the nodes of a tree are too small", "hdf5.tree", "room for a record", f"{tree.node_size} bytes"
            )
    return tree._replace(most=most, total=total)


def _walk(space: Space, tree: _Tree, root: int, count: int, depth: int) -> Iterator[bytes]:
    """Records from left to right: nodes and the records between them wait on a stack."""
    stack: list[bytes | tuple[int, int, int]] = [(root, count, depth)]
    while stack:
        item = stack.pop()
        if isinstance(item, bytes):
            yield item
            continue
        address, count, height = item
        fields = _node_2(space, tree, address, count, height)
        if height == 0:
            yield fields.take(count * tree.record_size)
            continue
        space.check_heap(PART_COST * (len(stack) + 2 * count), "B-tree")
        between = [fields.take(tree.record_size) for _ in range(count)]
        below = [(fields.defined(), *_counts(fields, tree, height)) for _ in range(count + 1)]
        mixed: list[bytes | tuple[int, int, int]] = [(*below[-1], height - 1)]
        for record, node in zip(reversed(between), reversed(below[:-1]), strict=True):
            mixed += [record, (*node, height - 1)]
        stack += mixed


def _counts(fields: Fields, tree: _Tree, height: int) -> tuple[int]:
    own, all_below = tree.widths(height)
    count = fields.unsigned(own)
    fields.take(all_below)
    return (count,)


def _node_2(space: Space, tree: _Tree, address: int, count: int, height: int) -> Fields:
    """A node's fields from its first record on; the node is claimed whole, and its checksum follows what it uses."""
    if not 0 < count <= tree.most[height]:
        expected = f"1 to {tree.most[height]} records"
        raise space.broken("a node of a tree is wrong", "hdf5.tree", space.base + address, "B-tree", expected, count)
    used = 6 + count * tree.record_size
    if height:
        used += (count + 1) * (space.offset_size + sum(tree.widths(height)))
    space.claim(address, tree.node_size, "B-tree")
    fields = Fields(space, space.read(address, used + 4, "B-tree"), space.base + address, "B-tree").checked()
    fields.signature(b"BTIN" if height else b"BTLF")
    fields.version(0)
    got = fields.unsigned(1)
    if got != tree.kind:
        raise fields.broken("a node of a tree is wrong", "hdf5.tree", f"type {tree.kind}", f"type {got}")
    return fields
