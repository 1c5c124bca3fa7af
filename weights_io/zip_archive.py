"""ZIP archives, as PyTorch and NumPy write them, read by a central-directory reader of our own.

    [local header, name, extra][data][descriptor] ... [central directory] [ZIP64 end record and locator] [end record, comment]

A ZIP archive says everything about a member twice, and readers differ in which they believe. Here both must agree, and every byte of the file must
belong to exactly one thing: nothing lies before, between or after the members. Members are stored or deflated; stored ones are mapped. The CRC-32 of
a member is checked when it is first read.

Reference: APPNOTE.TXT 6.3.10 of PKWARE (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT). What PyTorch's writer adds to it: an
extra field "FB" of padding, so that data begins at a multiple of 64, and, in members beyond 4 GiB, a local ZIP64 field that repeats their place.
"""

from __future__ import annotations

import importlib
import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.arrays import read_only
from weights_io.checksum import crc32
from weights_io.errors import FormatError, UnsupportedError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from weights_io.checkpoint import Checkpoint
    from weights_io.limits import Limits
    from weights_io.source import Source

__all__ = ["RULES", "Archive", "Member", "ZipWriter", "open_source", "read_archive"]

RULES = {
    "zip.end": "An archive ends with its end record and a comment as long as that says, in which no other end record begins.",
    "zip.disks": "An archive is one file, not one of several disks.",
    "zip.zip64": "The ZIP64 records and fields agree with those that they extend.",
    "zip.directory": "The central directory has as many entries as the end record counts and lies directly before it.",
    "zip.encryption": "Members are not encrypted.",
    "zip.flags": "Members use no flags but those for a descriptor, for UTF-8 names and for how hard deflate tried.",
    "zip.version": "Members need version 6.3 of the specification at most.",
    "zip.method": "Members are stored or deflated.",
    "zip.name": "A name is relative UTF-8 text without '..', backslash or NUL, and is marked as UTF-8 where it is not ASCII.",
    "zip.unique-names": "A name occurs once in an archive.",
    "zip.folder": "What the MS-DOS attributes call a folder has a folder's name: it ends with /.",
    "zip.extra": "Extra fields fill their space, occur once each, and give no second name.",
    "zip.sizes": "A stored member is as large as its data, a deflated one at most 1032 times as large, a folder empty.",
    "zip.tiling": "Members follow each other from the first byte to the central directory, without gap or overlap.",
    "zip.local": "A local header says what the central directory says.",
    "zip.descriptor": "A data descriptor says what the central directory says.",
    "zip.small": "A member that is read at once is not larger than its purpose needs.",
    "zip.deflate": "A deflated member is one stream that ends with its data and unpacks to its size.",
    "zip.crc": "A member has the CRC-32 that the directory says.",
    "zip.content": "An archive holds a PyTorch checkpoint (data.pkl) or NumPy arrays (.npy).",
}

END = struct.Struct("<4s4H2IH")  # signature, disk, disk of the directory, entries here, entries, size, offset, comment
LOCATOR = struct.Struct("<4sIQI")  # signature, disk, offset of the ZIP64 end record, disks
END64 = struct.Struct(
    "<4sQ2H2I4Q"
)  # signature, size, made by, needs, disk, disk of the directory, here, entries, size, offset
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
DESCRIPTOR = {False: struct.Struct("<4s3I"), True: struct.Struct("<4sI2Q")}
ONES16, ONES32 = 0xFFFF, 0xFFFFFFFF
VERSION = 63  # the latest that a member may need, times ten
DATE = 0x21  # 1980-01-01
UNIX, REGULAR = 3 << 8, 0o100644 << 16  # made by, and the rights of a plain file

FOLDER = 0x10  # of the MS-DOS attributes
STORED, DEFLATED = 0, 8
ENCRYPTED, DESCRIBED, UTF8 = 0x2041, 0x0008, 0x0800  # bits 0, 6 and 13; bit 3; bit 11
FLAGS = DESCRIBED | UTF8 | 0x0006  # bits 1 and 2: how hard deflate tried
ZIP64, PADDING, SECOND_NAME = 0x0001, 0x4246, 0x7075  # extra fields

RATIO = 1032  # deflate: at most 258 bytes for two bits
MEMBER_COST = 700  # bytes of objects that an entry becomes
CHUNK, STEP = 1 << 16, 1 << 20  # bytes given to zlib, and got from it, at a time


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    method: int  # 0: stored, 8: deflated
    offset: int  # of the first byte of the data
    stored: int  # bytes in the archive
    size: int  # bytes unpacked
    crc: int  # CRC-32 of the unpacked bytes


class _End(NamedTuple):
    """What the end records say of the central directory."""

    entries: int
    size: int
    offset: int
    begin: int  # of the end records
    comment: bytes


class _Entry(NamedTuple):
    """One entry of the central directory."""

    name: str
    raw: bytes  # the name as it is in the file
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    header: int  # offset of the local header


def _bad(source: Source, rule: str, what: str, **details: Any) -> FormatError:
    return FormatError(what, rule=rule, where=source.path, **details)


def _unread(source: Source, rule: str, what: str, **details: Any) -> UnsupportedError:
    return UnsupportedError(what, rule=rule, where=source.path, **details)


# --- the end records --------------------------------------------------------------------------------------------------------


def _end_offset(source: Source) -> int:
    """Where the end record begins: 22 bytes before the end, or earlier by the length of its comment."""
    tail = source.read(max(0, source.size - END.size - ONES16), min(source.size, END.size + ONES16), "end record")
    at = len(tail) - END.size
    if not (tail[at : at + 4] == b"PK\x05\x06" and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail) or at + END.size + END.unpack_from(tail, at)[7] != len(tail):
        raise _bad(
            source,
            "zip.end",
            "the archive does not end with its end record",
            offset=source.size - len(tail) + max(at, 0),
            expected="a record PK 05 06, and a comment as long as it says, to the end of the file",
            got="none" if at < 0 else f"a record {len(tail) - at} bytes before the end",
            remedy="the file is truncated or has something appended: fetch it again",
        )
    return source.size - len(tail) + at


def _end(source: Source) -> _End:
    """The end record, and the ZIP64 end record where a locator says that there is one."""
    at = _end_offset(source)
    _, disk, first, here, entries, size, offset, length = END.unpack(source.read(at, END.size))
    comment = source.read(at + END.size, length, "comment")
    numbers: tuple[int, ...] = (disk, first, here, entries, size, offset)
    begin = at
    before = at - LOCATOR.size
    if before >= 0 and source.read(before, 4) == b"PK\x06\x07":
        begin = before - END64.size
        numbers = _end64(source, before, numbers)
    disk, first, here, entries, size, offset = numbers[:6]
    if disk or first or here != entries:
        raise _unread(
            source, "zip.disks", "an archive of several disks is not read", offset=at, got=f"disk {disk} from {first}"
        )
    return _End(entries, size, offset, begin, comment)


def _end64(source: Source, at: int, short: tuple[int, ...]) -> tuple[int, ...]:
    """The six numbers of the ZIP64 end record, which the locator at `at` must point to and the end record must not contradict."""
    _, disk, offset, disks = LOCATOR.unpack(source.read(at, LOCATOR.size))
    begin = at - END64.size
    record = END64.unpack(source.read(begin, END64.size, "ZIP64 end record")) if begin >= 0 else (b"", 0)
    if (disk, disks, offset) != (0, 1, begin) or record[:2] != (b"PK\x06\x06", END64.size - 12):
        raise _bad(
            source,
            "zip.zip64",
            "the ZIP64 end record is not where it must be",
            offset=at,
            expected=f"a record of {END64.size} bytes at {begin}, on disk 0 of 1",
            got=f"{record[0]!r} there; the locator says {offset}, on disk {disk} of {disks}",
        )
    long, most = record[4:], [ONES16] * 4 + [ONES32] * 2
    names = ("disk", "first disk", "entries here", "entries", "size", "offset")
    for name, low, high, ones in zip(names, short, long, most, strict=True):
        if low not in (high, ones):
            raise _bad(
                source, "zip.zip64", "the two end records disagree", offset=begin, field=name, expected=high, got=low
            )
    return long


# --- the central directory --------------------------------------------------------------------------------------------------


def _entries(source: Source, end: _End, limits: Limits) -> list[_Entry]:
    if end.offset + end.size != end.begin or end.entries * CENTRAL.size > end.size:
        raise _bad(
            source,
            "zip.directory",
            "the central directory is not where the end record says",
            offset=end.begin,
            expected=f"{end.entries} entries of at least {CENTRAL.size} bytes that end at {end.begin}",
            got=f"{end.size} bytes from {end.offset}",
            remedy="the file is truncated, or has something before or after the archive",
        )
    limits.check_heap(end.size + end.entries * MEMBER_COST, source.size, source.path, "central directory")
    raw, at, found = source.read(end.offset, end.size, "central directory"), 0, []
    for _ in range(end.entries):
        entry, at = _entry(source, raw, at, end.offset)
        found.append(entry)
    if at != len(raw):
        raise _bad(
            source,
            "zip.directory",
            "bytes after the last entry",
            offset=end.offset + at,
            expected=f"{end.entries} entries",
            got=f"{len(raw) - at} bytes more",
        )
    return found


def _entry(source: Source, raw: bytes, at: int, begin: int) -> tuple[_Entry, int]:
    """The entry at `at`, and where the next one begins."""
    where = begin + at
    if len(raw) - at < CENTRAL.size or raw[at : at + 4] != b"PK\x01\x02":
        raise _bad(
            source,
            "zip.directory",
            "no entry of the central directory",
            offset=where,
            expected="PK 01 02",
            got=repr(raw[at : at + 4]),
        )
    fields = CENTRAL.unpack_from(raw, at)
    flags, method, (crc, stored, size) = fields[3], fields[4], fields[7:10]
    lengths, disk, header = fields[10:13], fields[13], fields[16]
    name_at = at + CENTRAL.size
    extra_at, after = name_at + lengths[0], name_at + sum(lengths)
    if after > len(raw):
        raise _bad(
            source,
            "zip.directory",
            "an entry goes beyond the directory",
            offset=where,
            expected=f"at most {len(raw) - at} bytes",
            got=after - at,
        )
    name = _name(source, raw[name_at:extra_at], flags, where)
    _check_features(source, name, fields[2:5], disk, where)
    _check_folder(source, name, fields[15], where)
    extras = _extras(source, raw[extra_at : extra_at + lengths[1]], name, where)
    size, stored, header = _extended(source, extras, (size, stored, header), name, where)
    _check_sizes(source, name, method, stored, size, where)
    return _Entry(name, raw[name_at:extra_at], flags, method, crc, stored, size, header), after


def _name(source: Source, raw: bytes, flags: int, where: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        name = ""
    if not _is_name(name):
        raise _bad(
            source,
            "zip.name",
            "a name that no member may have",
            offset=where,
            expected="relative text without '..', backslash or NUL; UTF-8, and marked so where it is not ASCII",
            got=repr(raw),
        )
    return name


def _is_name(name: str) -> bool:
    return name != "" and not name.startswith("/") and ".." not in name.split("/") and not set(name) & set("\\\0")


def _check_features(source: Source, name: str, features: tuple[int, ...], disk: int, where: int) -> None:
    needs, flags, method = features
    if needs & 0xFF > VERSION:
        raise _unread(
            source,
            "zip.version",
            "a later version is not read",
            offset=where,
            field=repr(name),
            expected=VERSION,
            got=needs,
        )
    if flags & ENCRYPTED:
        raise _unread(
            source,
            "zip.encryption",
            "an encrypted member is not read",
            offset=where,
            field=repr(name),
            remedy="decrypt the archive first",
        )
    if flags & ~FLAGS:
        raise _unread(
            source, "zip.flags", "a flag that is not read", offset=where, field=repr(name), got=f"{flags:#06x}"
        )
    if method not in (STORED, DEFLATED):
        raise _unread(
            source,
            "zip.method",
            "a compression that is not read",
            offset=where,
            field=repr(name),
            expected="0 (stored) or 8 (deflate)",
            got=method,
        )
    if disk:
        raise _unread(
            source,
            "zip.disks",
            "an archive of several disks is not read",
            offset=where,
            field=repr(name),
            got=f"disk {disk}",
        )


def _extras(source: Source, raw: bytes, name: str, where: int) -> dict[int, bytes]:
    """The extra fields by their identifiers."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        kind, length = int.from_bytes(raw[at : at + 2], "little"), int.from_bytes(raw[at + 2 : at + 4], "little")
        if at + 4 + length > len(raw) or kind in found or kind == SECOND_NAME:
            raise _bad(
                source,
                "zip.extra",
                "a wrong extra field",
                offset=where,
                field=repr(name),
                expected=f"fields that fill {len(raw)} bytes, once each, and no second name",
                got=f"field {kind:#06x} of {length} bytes at {at}",
            )
        found[kind] = raw[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _extended(source: Source, extras: dict[int, bytes], short: tuple[int, ...], name: str, where: int) -> list[int]:
    """The numbers of a header, those that are all ones taken from its ZIP64 field, which holds these and nothing else."""
    wide = extras.get(ZIP64, b"")
    if len(wide) != 8 * short.count(ONES32):
        raise _bad(
            source,
            "zip.zip64",
            "a wrong ZIP64 field",
            offset=where,
            field=repr(name),
            expected=f"{8 * short.count(ONES32)} bytes, for the numbers that do not fit",
            got=f"{len(wide)} bytes",
        )
    values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide))
    return [next(values) if number == ONES32 else number for number in short]


def _check_folder(source: Source, name: str, attributes: int, where: int) -> None:
    """Refuse a member with data that some readers take for a folder: torch.load then gives memory that nobody wrote to."""
    if attributes & FOLDER and not name.endswith("/"):
        raise _bad(
            source,
            "zip.folder",
            "a member is marked as a folder",
            offset=where,
            field=repr(name),
            expected=f"MS-DOS attributes without {FOLDER:#x}",
            got=f"{attributes & 0xFF:#x}",
        )


def _check_sizes(source: Source, name: str, method: int, stored: int, size: int, where: int) -> None:
    most = 0 if name.endswith("/") else stored if method == STORED else RATIO * stored
    if size > most or (method == STORED and size != stored):
        raise _bad(
            source,
            "zip.sizes",
            "sizes that cannot be",
            offset=where,
            field=repr(name),
            expected=f"{'exactly' if method == STORED else 'at most'} {most} bytes for {stored} in the archive",
            got=size,
        )


# --- the members ------------------------------------------------------------------------------------------------------------


def _member(source: Source, entry: _Entry, after: int) -> Member:
    """The member of an entry; `after` is where the next member or the directory begins."""
    raw = source.read(entry.header, LOCAL.size + len(entry.raw), repr(entry.name))
    fields = LOCAL.unpack_from(raw)
    found = (fields[0], fields[2], fields[3], fields[9], raw[LOCAL.size :])
    expected = (b"PK\x03\x04", entry.flags, entry.method, len(entry.raw), entry.raw)
    if found != expected:
        raise _bad(
            source,
            "zip.local",
            "the local header is not that of the directory",
            offset=entry.header,
            field=repr(entry.name),
            expected=f"signature, flags, method, length of the name, name: {expected}",
            got=f"{found}",
        )
    extra = source.read(entry.header + len(raw), fields[10], repr(entry.name))
    wide = _check_local(source, entry, fields[6:9], _extras(source, extra, entry.name, entry.header))
    begin = entry.header + len(raw) + len(extra)
    end = begin + entry.stored
    if entry.flags & DESCRIBED:
        end = _check_descriptor(source, entry, end, wide)
    _check_next(source, entry.name, end, after)
    return Member(entry.name, entry.method, begin, entry.stored, entry.size, entry.crc)


def _check_local(source: Source, entry: _Entry, short: tuple[int, ...], extras: dict[int, bytes]) -> bool:
    """Compare checksum and sizes, which may be zero if a descriptor follows; True if a ZIP64 field makes the sizes in that wide."""
    wide = extras.get(ZIP64, b"")
    numbers = struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8])
    later = bool(entry.flags & DESCRIBED)
    taken = iter(numbers)
    size, stored = (next(taken, None) if number == ONES32 else number for number in short[:0:-1])
    meant = [(short[0], entry.crc), (stored, entry.stored), (size, entry.size)]
    agree = all(number == right or (later and number == 0) for number, right in meant)
    spare = {0, entry.size, entry.stored, entry.header} if later else set()  # what PyTorch repeats there
    if not agree or len(wide) % 8 or not set(taken) <= spare:
        raise _bad(
            source,
            "zip.local",
            "the local header disagrees with the directory",
            offset=entry.header,
            field=repr(entry.name),
            expected=f"crc {entry.crc:#010x}, {entry.stored} bytes for {entry.size}",
            got=f"crc {short[0]:#010x}, {stored} bytes for {size}, ZIP64 field {numbers}",
        )
    return ZIP64 in extras


def _check_descriptor(source: Source, entry: _Entry, at: int, wide: bool) -> int:
    """Compare the descriptor at `at`, and return where it ends."""
    layout = DESCRIPTOR[wide]
    found = layout.unpack(source.read(at, layout.size, repr(entry.name)))
    expected = (b"PK\x07\x08", entry.crc, entry.stored, entry.size)
    if found != expected:
        raise _bad(
            source,
            "zip.descriptor",
            "the data descriptor disagrees with the directory",
            offset=at,
            field=repr(entry.name),
            expected=f"{expected}",
            got=f"{found}",
        )
    return at + layout.size


def _check_next(source: Source, name: str, end: int, after: int) -> None:
    if end != after:
        raise _bad(
            source,
            "zip.tiling",
            "members overlap" if end > after else "bytes that belong to no member",
            offset=min(end, after),
            field=repr(name),
            expected=f"the next member at {end}",
            got=f"at {after}",
            remedy="the file is damaged, or made to be read in two ways",
        )


class Archive:
    """An archive whose directory was validated; nothing of the members was read.

    Attributes
    ----------
    source : the file
    members : name -> Member, in the order of the directory
    comment : the archive's comment
    mode : "strict", or "compat": a CRC-32 of zero is taken for none, which PyTorch can be told to write
    """

    def __init__(self, source: Source, members: dict[str, Member], comment: bytes, mode: str = "strict") -> None:
        self.source, self.members, self.comment = source, members, comment
        self.mode = mode
        self._verified: set[str] = set()

    def __repr__(self) -> str:
        return f"<Archive {self.source.path}: {len(self.members)} members>"

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise WeightsError("no member of that name", where=self.source.path, got=repr(name))
        return self.members[name]

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a small member, checked; FormatError (zip.small) if there are more than `most`."""
        member = self._member(name)
        if member.size > most:
            raise _bad(
                self.source,
                "zip.small",
                "a member is too large",
                field=repr(name),
                expected=f"at most {most} bytes",
                got=member.size,
            )
        return bytes(self.array(name))

    def array(self, name: str, *, verify: bool = True, aligned: int = 0) -> Any:
        """uint8 (size,), read-only: the bytes of a member, mapped if stored, unpacked if deflated.

        Parameters
        ----------
        name : of the member
        verify : check the CRC-32, unless it was checked before; a deflated member's is always checked
        aligned : the byte that is to lie at a multiple of 64 in memory, where the member is deflated
        """
        member = self._member(name)
        if member.method == DEFLATED:
            return read_only(self.unpacked(name, aligned))
        array: Any = self.source.map(member.offset, member.size, repr(name))
        if verify and name not in self._verified:
            self._check(member, crc32(array))
        return array

    def head(self, name: str, length: int) -> bytes:
        """The first `length` bytes of a member, or all if it has fewer; the CRC-32 is not checked, which needs all of them."""
        member = self._member(name)
        length = min(length, member.size)
        if member.method == STORED:
            return self.source.read(member.offset, length, repr(name))
        parts, got = [], 0
        for part in self._inflate(member, length):
            parts.append(part)
            got += len(part)
            if got >= length:
                break
        return b"".join(parts)[:length]

    def unpacked(self, name: str, aligned: int = 0) -> Any:
        """uint8 (size,), writable: a deflated member unpacked into memory of its own; see `array`."""
        member = self._member(name)
        base = self._room(member)
        shift = -(base.ctypes.data + aligned) % 64
        array: Any = base[shift : shift + member.size]
        at = crc = 0
        for part in self._inflate(member, member.size):
            if at + len(part) > member.size:
                raise self._not_deflate(member, f"more than {member.size} bytes")
            array[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at, crc = at + len(part), crc32(part, crc)
        if at != member.size:
            raise self._not_deflate(member, f"{at} bytes")
        self._check(member, crc)
        return array

    def _room(self, member: Member) -> Any:
        try:
            return np.empty(member.size + 64, np.uint8)
        except MemoryError:
            raise WeightsError(
                "no memory for a deflated member",
                where=self.source.path,
                field=repr(member.name),
                got=f"{member.size} bytes",
            ) from None

    def _inflate(self, member: Member, most: int) -> Iterator[bytes]:
        """The unpacked bytes, at most `STEP` at a time and not many more than `most` in all; the stream must end with the data."""
        stream, at, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
        while not stream.eof:
            take = min(CHUNK, member.stored - at) if not rest else 0
            rest = rest or self.source.read(member.offset + at, take, repr(member.name))
            at += take
            try:
                part = stream.decompress(rest, max(1, min(STEP, most + 1)))
            except zlib.error as error:
                raise self._not_deflate(member, str(error)) from None
            if not (part or rest or stream.eof):
                raise self._not_deflate(member, "a stream that does not end")
            rest = stream.unconsumed_tail
            yield part
        if stream.unused_data or at != member.stored:
            raise self._not_deflate(member, "bytes after the end of the stream")

    def _not_deflate(self, member: Member, got: str) -> FormatError:
        return _bad(
            self.source,
            "zip.deflate",
            "a deflated member does not unpack to what the directory says",
            offset=member.offset,
            field=repr(member.name),
            expected=f"one stream in {member.stored} bytes that unpacks to {member.size}",
            got=got,
        )

    def _check(self, member: Member, crc: int) -> None:
        """Compare a checksum."""
        if crc != member.crc and not (member.crc == 0 and self.mode == "compat"):
            raise _bad(
                self.source,
                "zip.crc",
                "the checksum is wrong",
                offset=member.offset,
                field=repr(member.name),
                expected=f"CRC-32 {member.crc:#010x}",
                got=f"{crc:#010x}",
                remedy='if PyTorch wrote it without checksums (zero), open it with mode="compat"'
                if member.crc == 0
                else "the file is damaged: fetch it again",
            )
        self._verified.add(member.name)


def read_archive(source: Source, limits: Limits, mode: str = "strict") -> Archive:
    """The directory of an archive, validated against every local header; for `mode` see `Archive`."""
    end = _end(source)
    entries = _entries(source, end, limits)
    order = sorted(range(len(entries)), key=lambda i: entries[i].header)
    begins = [*(entries[i].header for i in order), end.offset]
    if begins[0] != 0:
        raise _bad(
            source,
            "zip.tiling",
            "bytes before the first member",
            offset=0,
            expected="a member at 0",
            got=f"at {begins[0]}",
        )
    found = {i: _member(source, entries[i], after) for i, (_, after) in zip(order, pairwise(begins), strict=True)}
    limits.check_expansion(sum(entry.size for entry in entries), source.size, source.path)
    members: dict[str, Member] = {}
    for i in range(len(entries)):
        if members.setdefault(entries[i].name, found[i]) is not found[i]:
            raise _bad(
                source, "zip.unique-names", "a name occurs twice", offset=entries[i].header, got=repr(entries[i].name)
            )
    return Archive(source, members, end.comment, mode)


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open a ZIP archive as what its members make it: a PyTorch checkpoint, or NumPy arrays."""
    archive = read_archive(source, limits)
    names = list(archive.members)
    pytorch = any(name.split("/")[-1] == "data.pkl" and name.count("/") <= 1 for name in names)
    if pytorch or all(name.endswith(".npy") for name in names):
        archive.mode = mode if pytorch else "strict"
        reader = importlib.import_module(f"weights_io.{'pytorch' if pytorch else 'numpy_files'}")
        checkpoint: Checkpoint = reader.open_archive(archive, limits, mode)
        return checkpoint
    keras = "model.weights.h5" in names
    raise _unread(
        source,
        "zip.content",
        "a Keras archive is not read as such" if keras else "no checkpoint that is read",
        expected="data.pkl, as PyTorch writes it, or members that all end in .npy, as NumPy does",
        got=sorted(names),
        remedy="unpack it and open the model.weights.h5 in it" if keras else "unpack it and open what is in it",
    )


# --- writing ----------------------------------------------------------------------------------------------------------------


class ZipWriter:
    """Writes stored members one after the other, each aligned, the same bytes for the same input.

    The file must be seekable: checksums are put into the headers after the data, so that no descriptors are needed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self._directory: list[bytes] = []
        self._names: set[str] = set()

    def add(self, name: str, size: int, chunks: Iterable[Any], align: int = 64) -> None:
        """Write a member of `size` bytes, given in chunks, so that its data begins at a multiple of `align`."""
        raw = self._check_name(name)
        begin = self._at
        wide = struct.pack("<2H2Q", ZIP64, 16, size, size) if size >= ONES32 else b""
        extra = wide + _padding(begin + LOCAL.size + len(raw) + len(wide), align)
        short = min(size, ONES32)
        self._write(self._local(0, short, raw, extra, begin) + raw + extra)
        crc, written = 0, 0
        for chunk in chunks:
            crc, written = crc32(chunk, crc), written + memoryview(chunk).nbytes
            self._write(chunk)
        if written != size:
            raise WeightsError("a member has another size than announced", where=repr(name), expected=size, got=written)
        self._file.seek(begin)
        self._file.write(self._local(crc, short, raw, extra, begin))
        self._file.seek(self._at)
        self._directory.append(_central(raw, crc, size, begin))

    def close(self) -> None:
        """Write the central directory and the end records; the file stays open."""
        begin, entries = self._at, len(self._directory)
        self._write(b"".join(self._directory))
        size, at = self._at - begin, self._at
        if entries >= ONES16 or max(begin, size) >= ONES32:
            record = END64.pack(b"PK\x06\x06", END64.size - 12, 45, 45, 0, 0, entries, entries, size, begin)
            self._write(record + LOCATOR.pack(b"PK\x06\x07", 0, at, 1))
        count = min(entries, ONES16)
        self._write(END.pack(b"PK\x05\x06", 0, 0, count, count, min(size, ONES32), min(begin, ONES32), 0))

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._at += memoryview(data).nbytes

    def _check_name(self, name: str) -> bytes:
        """The name as it is written; WeightsError for one that `read_archive` would refuse."""
        raw = name.encode()
        if not _is_name(name) or name in self._names or len(raw) > 60_000:
            expected = "a relative name of at most 60000 bytes, given once, without '..', backslash or NUL"
            raise WeightsError("a member cannot have this name", where=repr(name), expected=expected)
        self._names.add(name)
        return raw

    @staticmethod
    def _local(crc: int, short: int, raw: bytes, extra: bytes, begin: int) -> bytes:
        needs = _needs(short, begin)
        return LOCAL.pack(b"PK\x03\x04", needs, UTF8, STORED, 0, DATE, crc, short, short, len(raw), len(extra))


def _needs(size: int, begin: int) -> int:  # the version of the specification that a reader must know
    return 45 if max(size, begin) >= ONES32 else 20


def _padding(at: int, align: int) -> bytes:
    """An extra field that begins at `at` and ends at a multiple of `align`; nothing where nothing is needed."""
    length = -at % align
    if length == 0:
        return b""
    while length < 4:
        length += align
    return struct.pack("<2H", PADDING, length - 4).ljust(length, b"Z")


def _central(raw: bytes, crc: int, size: int, begin: int) -> bytes:
    wide = [number for number in (size, size, begin) if number >= ONES32]
    extra = struct.pack(f"<2H{len(wide)}Q", ZIP64, 8 * len(wide), *wide) if wide else b""
    needs, short = _needs(size, begin), min(size, ONES32)
    head = CENTRAL.pack(
        b"PK\x01\x02",
        UNIX | needs,
        needs,
        UTF8,
        STORED,
        0,
        DATE,
        crc,
        short,
        short,
        len(raw),
        len(extra),
        0,
        0,
        0,
        REGULAR,
        min(begin, ONES32),
    )
    return head + raw + extra
