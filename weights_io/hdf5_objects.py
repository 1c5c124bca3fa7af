"""HDF5's superblock and object headers: where the root group is, and the messages that an object is made of.

    superblock -> root group's object header -> messages: links to other objects; or a dataset's dataspace, datatype, layout, filters, attributes

Object headers of version 1 have no checksum; those of version 2 have one for each block, which is verified. A header goes on in continuation
blocks; each block of each header is read once.

Reference: HDF5 File Format Specification, version 3.0, sections II.A-C and IV.A.1.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from weights_io.hdf5_bytes import Fields, Space
from weights_io.recognise import HDF5_MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "RULES",
    "Header",
    "Message",
    "commit_datatype",
    "read_datatype_message",
    "read_header",
    "read_shared_datatype",
    "read_superblock",
]

RULES = {
    "hdf5.base": "The base address is the byte at which the file's signature is.",
    "hdf5.cache-image": "The metadata is in its place, not in a cache image.",
    "hdf5.driver": "The file is whole: no driver has split it over several files.",
    "hdf5.end": "The file is at least as long as its superblock says.",
    "hdf5.flags": "The flags of a superblock or object header are ones that the format has.",
    "hdf5.in-use": "The program that wrote the file has closed it.",
    "hdf5.message": "A message of an object header is as long as its header says, and the header has as many as it says.",
    "hdf5.message-once": "An object has at most one message of a kind, except for links and attributes.",
    "hdf5.message-unknown": "A message that must be understood is understood.",
    "hdf5.shared": "A message is in its object header, or is a committed datatype.",
    "hdf5.superblock": "A superblock has no address where its version has none, and says of nodes that they have room for two entries.",
    "hdf5.sizes": "Addresses and lengths are 2, 4 or 8 bytes wide.",
}
DATASPACE, LINK_INFO, DATATYPE, OLD_FILL, FILL, LINK, EXTERNAL, LAYOUT = 1, 2, 3, 4, 5, 6, 7, 8
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, TREE_SIZES, DRIVER = 11, 12, 16, 17, 19, 20
ATTRIBUTE_INFO, CACHE_IMAGE = 21, 24
NAMES = {
    DATASPACE: "dataspace message",
    LINK_INFO: "link info message",
    DATATYPE: "datatype message",
    OLD_FILL: "old fill value message",
    FILL: "fill value message",
    LINK: "link message",
    EXTERNAL: "external files message",
    LAYOUT: "data layout message",
    FILTERS: "filter pipeline message",
    ATTRIBUTE: "attribute message",
    CONTINUATION: "continuation message",
    SYMBOL_TABLE: "symbol table message",
    TREE_SIZES: "B-tree K values message",
    DRIVER: "driver info message",
    ATTRIBUTE_INFO: "attribute info message",
    CACHE_IMAGE: "metadata cache image message",
}
PREFIX_1 = Struct("<BxH4xI")  # of an object header of version 1: version, number of messages, bytes of the first block
START_1, START_2 = Struct("<HHB3x"), Struct("<BHB")  # of a message: kind, length, flags
KNOWN = 25  # the kinds of message that the format has
REPEATED = (LINK, ATTRIBUTE)
SHAREABLE = (DATASPACE, DATATYPE, OLD_FILL, FILL, FILTERS, ATTRIBUTE)
MESSAGE_COST = 400  # bytes of objects that a message takes while its object is read


class Message(NamedTuple):
    """One message of an object header."""

    kind: int
    flags: int
    raw: bytes
    at: int  # the byte of the file at which it begins

    def fields(self, space: Space) -> Fields:
        """A cursor over the message."""
        fields = Fields(space, self.raw, self.at, NAMES[self.kind])
        if self.flags & 2:
            raise fields.unread(
                "a shared message is not read", "hdf5.shared", "the message itself", f"a shared {NAMES[self.kind]}"
            )
        return fields


class Header(NamedTuple):
    """The messages of one object."""

    address: int
    single: dict[int, Message]  # by kind
    repeated: list[Message]

    def one(self, kind: int) -> Message | None:
        """The message of that kind, if there is one."""
        return self.single.get(kind)

    def all(self, kind: int) -> list[Message]:
        """The messages of that kind, of which there can be several."""
        return [message for message in self.repeated if message.kind == kind]


# --- superblock -------------------------------------------------------------------------------------------------------------


def read_superblock(space: Space) -> int:
    """The address of the root group's object header; `space` learns sizes and end."""
    version = space.read(len(HDF5_MAGIC), 1, "superblock")[0]
    read: Callable[[Space], int] = _superblock_2 if version in (2, 3) else _superblock_0
    return read(space)


def _sizes(space: Space, fields: Fields) -> None:
    space.offset_size, space.length_size = fields.unsigned(1), fields.unsigned(1)
    if not {space.offset_size, space.length_size} <= {2, 4, 8}:
        got = f"{space.offset_size} and {space.length_size} bytes"
        raise fields.broken("the sizes of addresses and lengths are wrong", "hdf5.sizes", "2, 4 or 8 bytes each", got)


def _bounds(space: Space, fields: Fields, base: int, end: int) -> None:
    if base != space.base:
        raise fields.broken("the base address is wrong", "hdf5.base", space.base, base)
    if end > space.source.size:
        got = f"{space.source.size} bytes in the file"
        raise fields.broken("the file is truncated", "hdf5.end", f"{end} bytes", got)
    space.end = end


def _superblock_0(space: Space) -> int:
    fields = Fields(space, space.read(0, 16, "superblock"), space.base, "superblock")
    fields.take(len(HDF5_MAGIC))
    version = fields.version(0, 1, 2, 3)
    for _ in range(2):
        fields.version(0)  # of free space and of the root group's entry
    fields.take(1)
    fields.version(0)  # of shared messages
    _sizes(space, fields)
    fields = space.fields(0, 48 + 4 * version + 5 * space.offset_size + space.length_size, "superblock")
    fields.take(16)
    space.leaf_k, space.internal_k, flags = fields.unsigned(2), fields.unsigned(2), fields.unsigned(4)
    if flags:
        raise fields.broken("the superblock has unknown flags", "hdf5.flags", 0, flags)
    if version:
        space.chunk_k = fields.unsigned(2)
        fields.take(2)
    base, free, end, driver = fields.defined(), fields.address(), fields.defined(), fields.address()
    _bounds(space, fields, base, end)
    if free is not None:
        raise fields.broken("the superblock leads to free space", "hdf5.superblock", "no address", free)
    if driver is not None:
        raise fields.unread(
            "the file is one of several", "hdf5.driver", "a file of its own", f"a driver's information at {driver}"
        )
    fields.take(space.length_size)
    root, kind = fields.defined(), fields.unsigned(4)
    if kind > 1:
        raise fields.broken("the entry of the root group is wrong", "hdf5.superblock", "kind 0 or 1", kind)
    _check_room(space, fields)
    return root


def _check_room(space: Space, fields: Fields) -> None:
    halves = (space.leaf_k, space.internal_k, space.chunk_k)
    if not all(halves):
        raise fields.broken("nodes have no room", "hdf5.superblock", "K of 1 or more", halves)


def _superblock_2(space: Space) -> int:
    fields = Fields(space, space.read(0, 12, "superblock"), space.base, "superblock")
    fields.take(len(HDF5_MAGIC))
    version = fields.version(2, 3)
    _sizes(space, fields)
    flags = fields.unsigned(1)
    fields = space.checked(0, 12 + 4 * space.offset_size + 4, "superblock")
    if version == 3 and flags & 5:
        raise fields.broken("the file was left open by the program that wrote it", "hdf5.in-use", "flags 0", flags)
    if flags:
        raise fields.broken("the superblock has unknown flags", "hdf5.flags", 0, flags)
    fields.take(12)
    base, extension, end = fields.defined(), fields.address(), fields.defined()
    _bounds(space, fields, base, end)
    if extension is not None:
        _extension(space, extension)
    return fields.defined()


def _extension(space: Space, address: int) -> None:
    """What the superblock's extension says; free space and tables of shared messages do not matter to a reader."""
    header = read_header(space, address, "superblock extension")
    for kind, what, rule in (
        (DRIVER, "the file is one of several", "hdf5.driver"),
        (CACHE_IMAGE, "the metadata lies in a cache image", "hdf5.cache-image"),
    ):
        message = header.one(kind)
        if message:
            raise message.fields(space).unread(what, rule, "no such message", NAMES[kind])
    sizes = header.one(TREE_SIZES)
    if sizes:
        fields = sizes.fields(space)
        fields.version(0)
        space.chunk_k, space.internal_k, space.leaf_k = fields.unsigned(2), fields.unsigned(2), fields.unsigned(2)
        _check_room(space, fields)


# --- object headers ---------------------------------------------------------------------------------------------------------


def read_header(space: Space, address: int, field: object) -> Header:
    """The messages of the object at `address`, continuation blocks included; those that do not matter to a reader are left out."""
    new = space.read(address, 4, field) == b"OHDR"
    header = Header(address, {}, [])
    for message in _messages_2(space, address, field) if new else _messages_1(space, address, field):
        if message.kind in REPEATED:
            header.repeated.append(message)
        elif message.kind in header.single:
            got = f"a second {NAMES[message.kind]}"
            raise space.broken("an object has a message twice", "hdf5.message-once", message.at, field, "one", got)
        else:
            header.single[message.kind] = message
    return header


class _Found:
    """The messages of one header so far, the blocks that are still to be read, and what both cost."""

    def __init__(self, space: Space, field: object) -> None:
        self.space, self.field = space, field
        self.messages: list[Message] = []
        self.blocks: deque[tuple[int, int]] = deque()
        self._cost = 0

    def enter(self, fields: Fields, kind: int, flags: int, length: int) -> None:
        """Note one message: a continuation as a block, one that matters as itself."""
        _check_message(fields, kind, flags, length)
        if kind not in NAMES:
            fields.skip(length)
            return
        message = Message(kind, flags, fields.take(length), fields.at - length)
        self._cost += MESSAGE_COST + length
        self.space.check_heap(self._cost + fields.size, self.field)
        if kind != CONTINUATION:
            self.messages.append(message)
            return
        place = message.fields(self.space)
        self.blocks.append((place.defined(), place.length()))


def _messages_1(space: Space, address: int, field: object) -> list[Message]:
    prefix = space.fields(address, 16, field)
    version, announced, size = prefix.numbers(PREFIX_1)
    if version != 1:
        raise prefix.broken("there is no object header", "hdf5.signature", "version 1, or OHDR", version)
    found, count = _Found(space, field), 0
    found.blocks.append((address + 16, size))
    while found.blocks:
        fields = space.fields(*found.blocks.popleft(), field)
        while fields.left:
            count += 1
            kind, length, flags = fields.numbers(START_1)
            if length % 8:
                raise fields.broken("a message's length is wrong", "hdf5.message", "a multiple of 8", length)
            found.enter(fields, kind, flags, length)
    if count != announced:
        raise prefix.broken("an object header has another number of messages", "hdf5.message", announced, count)
    return found.messages


def _messages_2(space: Space, address: int, field: object) -> list[Message]:
    start = Fields(space, space.read(address, 6, field), space.base + address, field)
    start.take(4)
    start.version(2)
    flags = start.unsigned(1)
    if flags & 0xC0:
        raise start.broken("an object header has unknown flags", "hdf5.flags", "at most 63", flags)
    before, width = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0), 1 << (flags & 3)
    size = int.from_bytes(space.read(address + before, width, field), "little")
    first = space.checked(address, before + width + size + 4, field)
    first.take(before + width)
    found = _Found(space, field)
    _block_2(first, flags, found)
    while found.blocks:
        block = space.checked(*found.blocks.popleft(), field)
        block.signature(b"OCHK")
        _block_2(block, flags, found)
    return found.messages


def _block_2(fields: Fields, flags: int, found: _Found) -> None:
    ordered = 2 if flags & 4 else 0
    while fields.left >= 4 + ordered:  # less is a gap, which the format allows
        kind, length, message_flags = fields.numbers(START_2)
        fields.take(ordered)
        found.enter(fields, kind, message_flags, length)


def _check_message(fields: Fields, kind: int, flags: int, length: int) -> None:
    """Raise unless a message fits, its flags go together, and it is known if it must be."""
    if length > fields.left:
        raise fields.broken(
            "a message is longer than its header", "hdf5.message", f"{length} bytes", f"{fields.left} bytes"
        )
    bad = flags & 6 == 6 or (flags & 32 and (flags & 8 or not flags & 16)) or (flags & 66 and kind not in SHAREABLE)
    if bad and kind < KNOWN:
        raise fields.broken("a message has wrong flags", "hdf5.flags", "flags that go together", flags)
    if kind >= KNOWN and flags & 0x80:
        raise fields.unread(
            "a message must be understood, and is unknown", "hdf5.message-unknown", f"below {KNOWN}", kind
        )


# --- committed datatypes ----------------------------------------------------------------------------------------------------


def read_datatype_message(space: Space, message: Message) -> Fields:
    """A cursor over a datatype message, or over the committed datatype that it points to."""
    if not message.flags & 2:
        return message.fields(space)
    return read_shared_datatype(space, Fields(space, message.raw, message.at, "shared datatype message"))


def read_shared_datatype(space: Space, fields: Fields) -> Fields:
    """A cursor over the committed datatype at the address that `fields` has."""
    version = fields.version(1, 2, 3)
    kind = fields.unsigned(1)
    fields.take(6 if version == 1 else 0)
    if kind not in ((2,) if version == 3 else (0, 2)):
        raise fields.unread(
            "a shared message is not read", "hdf5.shared", "a committed datatype", f"a message shared as {kind}"
        )
    address = fields.defined()
    if address not in space.committed:
        commit_datatype(space, read_header(space, address, "committed datatype"))
    found: Message = space.committed[address]
    return found.fields(space)


def commit_datatype(space: Space, header: Header) -> None:
    """Note the datatype of an object, for the datasets and attributes that point to it."""
    message = header.one(DATATYPE)
    if message is None:
        at = space.base + header.address
        raise space.broken(
            "there is no committed datatype", "hdf5.shared", at, "committed datatype", "a datatype message", "none"
        )
    space.charge(MESSAGE_COST + len(message.raw), "committed datatype")
    space.committed[header.address] = message
