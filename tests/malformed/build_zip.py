"""Malformed ZIP archives, from bytes: local headers and data, a central directory, end records; of NumPy arrays, so that only the archive is wrong.

Nothing here uses a compressor: deflated data is written bit by bit, so that the same files come out everywhere.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from malformed.case import Case

FILE = "arrays.npz"


def _layout(text: str) -> dict[str, str]:
    return dict(part.split(":") for part in text.split())


BOTH = "needs:H flags:H method:H time:H date:H crc:I stored:I size:I name:H extra:H"
LOCAL = _layout(f"signature:4s {BOTH}")
CENTRAL = _layout(f"signature:4s by:H {BOTH} comment:H disk:H inner:H outer:I offset:I")
END = _layout("signature:4s disk:H first:H here:H entries:H size:I offset:I comment:H")
END64 = _layout("signature:4s length:Q by:H needs:H disk:I first:I here:Q entries:Q size:Q offset:Q")
LOCATOR = _layout("signature:4s disk:I offset:Q disks:I")
ONES = 0xFFFFFFFF


def record(layout: dict[str, str], values: dict[str, Any]) -> bytes:
    """A record of the fields of `layout`, little endian; those without a value are zero."""
    return b"".join(
        struct.pack(f"<{code}", values.get(key, b"" if code == "4s" else 0)) for key, code in layout.items()
    )


def npy(data: bytes = b"1234", descr: str = "|u1", shape: str | None = None) -> bytes:
    """A .npy file, version 1.0."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape or f'({len(data)},)'}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def blocks(data: bytes, last: bool = True) -> bytes:
    """`data` as a deflate stream of one block that is stored."""
    return struct.pack("<BHH", last, len(data), len(data) ^ 0xFFFF) + data


def zeros(count: int) -> bytes:
    """A deflate block of 1 + 258 * count zero bytes, in a quarter byte for every 258: the code of that length, and of distance 1, are one bit."""
    bits = "1" + "01"  # the last block, with codes of its own
    bits += _number(286 - 257, 5) + _number(0, 5) + _number(18 - 4, 4)
    lengths = {18: 1, 1: 2, 2: 2}  # of the codes for lengths: 18 is 0, 1 is 10, 2 is 11
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    bits += "".join(_number(lengths.get(symbol, 0), 3) for symbol in order)
    skip = lambda n: "0" + _number(n - 11, 7)  # noqa: E731 - n codes that are not used
    bits += (
        "11" + skip(138) + skip(117) + "11" + skip(28) + "10" + "10"
    )  # 0: two bits, end: two, length 258: one; distance 1: one
    bits += "10" + "00" * count + "11"
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def _number(value: int, width: int) -> str:
    return f"{value:0{width}b}"[::-1]


@dataclass(frozen=True)
class Entry:
    """A member: what it holds, and what its headers say otherwise than they should."""

    name: bytes = b"x.npy"
    data: bytes = npy()
    method: int = 0
    packed: bytes | None = None  # the data as it is stored; None: as it is, or as one stored block
    flags: int = 0
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    local_extra: bytes = b""
    central_extra: bytes = b""
    descriptor: bytes = b""
    before: bytes = b""
    comment: bytes = b""

    @property
    def stored(self) -> bytes:
        return self.packed if self.packed is not None else blocks(self.data) if self.method == 8 else self.data

    def values(self) -> dict[str, Any]:
        """The fields that both headers have."""
        sizes = {"crc": zlib.crc32(self.data), "stored": len(self.stored), "size": len(self.data)}
        return {"needs": 20, "flags": self.flags, "method": self.method, "date": 0x21, "name": len(self.name)} | sizes


def archive(
    *entries: Entry,
    end: dict[str, Any] | None = None,
    end64: dict[str, Any] | None = None,
    locator: dict[str, Any] | None = None,
    gap: bytes = b"",
    after: bytes = b"",
    comment: bytes = b"",
) -> bytes:
    """An archive of the entries; with `end64` or `locator`, one with ZIP64 end records."""
    content, directory = b"", b""
    for entry in entries:
        content += entry.before
        values = entry.values() | {"offset": len(content)}
        local = {"signature": b"PK\3\4", "extra": len(entry.local_extra)} | entry.local
        central = {
            "signature": b"PK\1\2",
            "extra": len(entry.central_extra),
            "comment": len(entry.comment),
        } | entry.central
        content += record(LOCAL, values | local) + entry.name + entry.local_extra + entry.stored + entry.descriptor
        directory += record(CENTRAL, values | central) + entry.name + entry.central_extra + entry.comment
    content += gap
    numbers = {"here": len(entries), "entries": len(entries), "size": len(directory), "offset": len(content)}
    content += directory + after
    if end64 is not None or locator is not None:
        place = {"signature": b"PK\6\7", "offset": len(content), "disks": 1} | (locator or {})
        content += record(
            END64, {"signature": b"PK\6\6", "length": 44, "by": 45, "needs": 45} | numbers | (end64 or {})
        )
        content += record(LOCATOR, place)
    return content + record(END, {"signature": b"PK\5\6", "comment": len(comment)} | numbers | (end or {})) + comment


def extra(kind: int, data: bytes) -> bytes:
    """An extra field."""
    return struct.pack("<HH", kind, len(data)) + data


def wide(*numbers: int) -> bytes:
    """A ZIP64 extra field."""
    return extra(1, struct.pack(f"<{len(numbers)}Q", *numbers))


def described(entry: Entry, sizes: str = "I", **fields: Any) -> Entry:
    """The entry with a descriptor after its data and nothing in its local header."""
    values = {"signature": b"PK\7\x08"} | {key: entry.values()[key] for key in ("crc", "stored", "size")} | fields
    layout = {"signature": "4s", "crc": "I", "stored": sizes, "size": sizes}
    empty = {"crc": 0, "stored": 0, "size": 0}
    return replace(entry, flags=entry.flags | 8, local=empty | entry.local, descriptor=record(layout, values))


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, read: str | None = None
) -> Case:
    words = (words,) if isinstance(words, str) else words
    return Case(name, rule if "." in rule else f"zip.{rule}", words, {FILE: content}, FILE, read, why)


ONE = Entry()
TWO = (Entry(b"a.npy", npy(b"first")), Entry(b"b.npy", npy(b"second")))
GOOD = archive(*TWO)


def _ends() -> list[Case]:
    missing = "does not end with its end record"
    inner = record(END, {"signature": b"PK\5\6", "comment": 9})
    whole = record(END, {"signature": b"PK\5\6"})
    return [
        _case("one-local-header", "end", (missing, "none"), GOOD[:60], "cut in the first member"),
        _case("cut-in-half", "end", (missing, "none"), GOOD[: len(GOOD) // 2], "half of the file"),
        _case("cut-by-a-byte", "end", (missing, "21 bytes before the end"), GOOD[:-1], "the last byte is missing"),
        _case("appended-byte", "end", (missing, "fetch it again"), GOOD + b"\0", "a byte after the archive"),
        _case(
            "appended-64-kilobytes",
            "end",
            (missing, "none"),
            GOOD + bytes(65536),
            "the end record is too far from the end",
        ),
        _case(
            "comment-longer-than-said",
            "end",
            missing,
            archive(ONE, comment=b"four", end={"comment": 3}),
            "a byte after the comment",
        ),
        _case(
            "comment-shorter-than-said",
            "end",
            missing,
            archive(ONE, comment=b"four", end={"comment": 5}),
            "a comment that is cut",
        ),
        _case(
            "comment-with-an-end-record",
            "end",
            missing,
            archive(ONE, comment=inner),
            "two end records: readers differ in which they take",
        ),
        _case(
            "comment-that-is-an-end-record",
            "directory",
            ("central directory is not where", "0 entries"),
            archive(ONE, comment=whole),
            "the last one counts no entries",
        ),
        _case(
            "archive-after-an-archive",
            "directory",
            ("central directory is not where", "before or after"),
            GOOD + archive(ONE),
            "two archives in one file",
        ),
        _case("disk-1", "disks", "several disks", archive(ONE, end={"disk": 1}), "the second of two disks"),
        _case(
            "directory-on-disk-1",
            "disks",
            "several disks",
            archive(ONE, end={"first": 1}),
            "the directory begins on another disk",
        ),
        _case(
            "entries-on-other-disks",
            "disks",
            "several disks",
            archive(*TWO, end={"here": 1}),
            "one of two entries is here",
        ),
        _case(
            "member-on-disk-1",
            "disks",
            ("several disks", "x.npy", "disk 1"),
            archive(replace(ONE, central={"disk": 1})),
            "a member on another disk",
        ),
    ]


def _zip64_ends() -> list[Case]:
    lost, differ = "ZIP64 end record is not where it must be", "the two end records disagree"
    return [
        _case(
            "locator-offset-zero",
            "zip64",
            lost,
            archive(ONE, locator={"offset": 0}),
            "the locator points to the first member",
        ),
        _case(
            "locator-offset-all-ones",
            "zip64",
            lost,
            archive(ONE, locator={"offset": 2**64 - 1}),
            "the locator points out of the file",
        ),
        _case(
            "locator-two-disks",
            "zip64",
            (lost, "of 2"),
            archive(ONE, locator={"disks": 2}),
            "the locator counts two disks",
        ),
        _case(
            "locator-disk-1",
            "zip64",
            (lost, "on disk 1"),
            archive(ONE, locator={"disk": 1}),
            "the record lies on another disk",
        ),
        _case(
            "locator-without-record",
            "zip64",
            lost,
            archive(ONE, after=bytes(56) + record(LOCATOR, {"signature": b"PK\6\7", "disks": 1})),
            "no record before the locator",
        ),
        _case(
            "record-with-more-data",
            "zip64",
            lost,
            archive(ONE, end64={"length": 45}),
            "the record says that it is longer",
        ),
        _case(
            "record-disk-1", "zip64", (differ, "disk"), archive(ONE, end64={"disk": 1}), "one says disk 0, the other 1"
        ),
        _case(
            "entries-in-one-record-only",
            "zip64",
            (differ, "entries here"),
            archive(ONE, end64={"here": 0, "entries": 0}),
            "one counts one entry, the other none",
        ),
        _case(
            "offsets-that-differ",
            "zip64",
            (differ, "offset"),
            archive(ONE, end64={"offset": 0}),
            "two directories: readers differ in which they take",
        ),
        _case(
            "both-point-elsewhere",
            "directory",
            "central directory is not where",
            archive(ONE, end64={"size": 2**63}, end={"size": ONES}),
            "a directory of 2^63 bytes",
        ),
    ]


def _directories() -> list[Case]:
    lost, no_entry = "central directory is not where", "no entry of the central directory"
    return [
        _case(
            "directory-offset-too-large",
            "directory",
            lost,
            archive(ONE, end={"offset": len(archive(ONE))}),
            "it begins after the end record",
        ),
        _case(
            "directory-offset-too-small",
            "directory",
            lost,
            archive(ONE, end={"offset": 0}),
            "it begins at the first member",
        ),
        _case(
            "bytes-after-the-directory",
            "directory",
            lost,
            archive(ONE, after=b"more"),
            "four bytes before the end record",
        ),
        _case(
            "entries-65535",
            "directory",
            (lost, "65535 entries"),
            archive(ONE, end={"entries": 65535, "here": 65535}),
            "far more entries than fit",
        ),
        _case(
            "entries-one-too-few",
            "directory",
            ("bytes after the last entry", "1 entries"),
            archive(*TWO, end={"entries": 1, "here": 1}),
            "a member that is not listed by the count",
        ),
        _case(
            "entry-cut-by-the-end",
            "directory",
            "an entry goes beyond the directory",
            archive(replace(ONE, central={"comment": 1})),
            "its comment would lie in the end record",
        ),
        _case(
            "entry-name-beyond-the-directory",
            "directory",
            "an entry goes beyond the directory",
            archive(replace(ONE, central={"name": 65535})),
            "a name of 65535 bytes",
        ),
        _case(
            "entry-signature",
            "directory",
            no_entry,
            archive(replace(ONE, central={"signature": b"PK\1\3"})),
            "another record where an entry should be",
        ),
        _case(
            "entry-swallows-the-next",
            "directory",
            no_entry,
            archive(replace(TWO[0], comment=bytes(60)), TWO[1], end={"entries": 3, "here": 3}),
            "a third entry where the directory ends",
        ),
    ]


def _features() -> list[Case]:
    def flags(name: str, rule: str, words: str, value: int, why: str) -> Case:
        return _case(name, rule, words, archive(replace(ONE, flags=value)), why)

    def method(name: str, value: int, why: str) -> Case:
        return _case(
            name,
            "method",
            ("a compression that is not read", str(value)),
            archive(replace(ONE, method=value, packed=b"?")),
            why,
        )

    return [
        flags("encrypted", "encryption", "encrypted member", 0x0001, "the classic encryption"),
        flags("strongly-encrypted", "encryption", "encrypted member", 0x0041, "strong encryption"),
        flags("masked-headers", "encryption", "encrypted member", 0x2000, "an encrypted directory"),
        flags("flag-patched", "flags", "0x0020", 0x0020, "a member that is a patch"),
        flags("flag-enhanced-deflate", "flags", "0x0010", 0x0010, "reserved for deflate64"),
        _case(
            "version-6-4", "version", "a later version", archive(replace(ONE, central={"needs": 64})), "of the future"
        ),
        flags("flag-15", "flags", "0x8000", 0x8000, "reserved"),
        method("method-deflate64", 9, "deflate64"),
        method("method-bzip2", 12, "bzip2"),
        method("method-lzma", 14, "LZMA"),
        method("method-zstandard", 93, "Zstandard"),
        method("method-aes", 99, "the method that AES encryption hides behind"),
    ]


def _names() -> list[Case]:
    def named(name: str, raw: bytes, why: str, flags: int = 0) -> Case:
        return _case(name, "name", "a name that no member may have", archive(replace(ONE, name=raw, flags=flags)), why)

    return [
        named("name-absolute", b"/etc/x.npy", "an absolute path"),
        named("name-of-a-parent", b"../x.npy", "out of the folder"),
        named("name-through-a-parent", b"a/../../x.npy", "out of the folder, later"),
        named("name-with-backslash", b"..\\x.npy", "a path elsewhere"),
        named("name-with-nul", b"x.npy\0.txt", "some readers stop at the NUL"),
        named("name-empty", b"", "no name"),
        named("name-not-utf-8", b"\xff.npy", "a byte that UTF-8 does not have", 0x0800),
        named("name-without-an-encoding", b"\x81.npy", "not ASCII, not marked: an umlaut in one code page"),
        named("name-utf-8-not-marked", "é.npy".encode(), "two letters of one code page, or one of another"),
        named("name-overlong-utf-8", b"\xc0\xae\xc0\xae/x.npy", "two dots, in two bytes each", 0x0800),
        _case(
            "name-twice",
            "unique-names",
            ("a name occurs twice", "a.npy"),
            archive(TWO[0], replace(TWO[1], name=b"a.npy")),
            "readers differ in which they take",
        ),
        _case("name-twice-the-same", "unique-names", "a name occurs twice", archive(ONE, ONE), "the same member twice"),
    ]


def _extras() -> list[Case]:
    def central(name: str, rule: str, words: str, raw: bytes, why: str, **fields: Any) -> Case:
        return _case(name, rule, words, archive(replace(ONE, central_extra=raw, central=fields)), why)

    wrong, size = "a wrong extra field", len(ONE.data)
    return [
        central("extra-cut", "extra", wrong, b"\1\0\x08\0", "a field without its data"),
        central("extra-of-three-bytes", "extra", wrong, b"\0\0\0", "no room for an identifier and a length"),
        central("extra-twice", "extra", wrong, extra(0x5455, b"\0") * 2, "the same field twice"),
        central(
            "extra-second-name",
            "extra",
            wrong,
            extra(0x7075, b"\1" + bytes(4) + b"y.npy"),
            "a Unicode path that some readers prefer to the name",
        ),
        central("zip64-not-needed", "zip64", "a wrong ZIP64 field", wide(size), "a size that is in the entry too"),
        central(
            "zip64-missing",
            "zip64",
            "a wrong ZIP64 field",
            b"",
            "a size of all ones, and no field that has it",
            size=ONES,
        ),
        central(
            "zip64-too-short",
            "zip64",
            "a wrong ZIP64 field",
            wide(size),
            "two sizes of all ones, and one number",
            size=ONES,
            stored=ONES,
        ),
        central(
            "zip64-too-long",
            "zip64",
            "a wrong ZIP64 field",
            wide(size, size, 0),
            "a third number",
            size=ONES,
            stored=ONES,
        ),
        central("zip64-seven-bytes", "zip64", "a wrong ZIP64 field", extra(1, bytes(7)), "no whole number", size=ONES),
        central(
            "zip64-size-2-to-the-63", "sizes", "sizes that cannot be", wide(2**63), "a member of 2^63 bytes", size=ONES
        ),
        central(
            "zip64-both-sizes-2-to-the-62",
            "local",
            "the local header disagrees with the directory",
            wide(2**62, 2**62),
            "stored and unpacked, beyond the file",
            size=ONES,
            stored=ONES,
        ),
        central(
            "zip64-offset-2-to-the-63",
            "tiling",
            "bytes before the first member",
            wide(2**63),
            "a member beyond the file",
            offset=ONES,
        ),
        _case(
            "local-extra-cut",
            "extra",
            wrong,
            archive(replace(ONE, local_extra=b"FB\xff\xff")),
            "padding that would reach into the data",
        ),
        _case(
            "local-extra-twice",
            "extra",
            wrong,
            archive(replace(ONE, local_extra=extra(0x4246, b"Z") * 2)),
            "padding twice",
        ),
    ]


def _sizes() -> list[Case]:
    cannot = "sizes that cannot be"
    return [
        _case(
            "stored-and-larger",
            "sizes",
            cannot,
            archive(replace(ONE, central={"size": len(ONE.data) + 1}, local={"size": len(ONE.data) + 1})),
            "a stored member of two sizes",
        ),
        _case(
            "stored-and-smaller",
            "sizes",
            cannot,
            archive(replace(ONE, central={"size": 0}, local={"size": 0})),
            "a stored member that hides its data",
        ),
        _case(
            "deflated-4-gigabytes",
            "sizes",
            (cannot, "at most"),
            archive(replace(ONE, method=8, central={"size": ONES - 1}, local={"size": ONES - 1})),
            "more than deflate can make of so few bytes",
        ),
        _case(
            "deflated-nothing-to-something",
            "sizes",
            (cannot, "at most 0"),
            archive(replace(ONE, method=8, packed=b"")),
            "bytes from none",
        ),
        _case(
            "folder-with-content",
            "sizes",
            (cannot, "exactly 0"),
            archive(replace(ONE, name=b"x.npy/")),
            "a folder that is a file",
        ),
        _case(
            "bomb",
            "budget.expansion",
            "far larger than the file",
            archive(_zeros(80 << 20)),
            "80 MiB of zeros in 81 kB: within deflate's ratio, beyond the budget",
        ),
    ]


def _zeros(size: int, name: bytes = b"x.npy") -> Entry:
    """A member of about `size` zeros, packed as far as deflate goes."""
    count = size // 258
    head = npy(b"", shape=f"({1 + 258 * count},)")
    return Entry(name, head + bytes(1 + 258 * count), 8, blocks(head, last=False) + zeros(count))


def _tiling() -> list[Case]:
    overlap, gap = "members overlap", "bytes that belong to no member"
    hidden = record(LOCAL, {"signature": b"PK\3\4"} | ONE.values()) + ONE.name + ONE.data
    shared = archive(ONE, replace(ONE, central={"offset": 0}))
    return [
        _case(
            "300-names-for-one-member",
            "local",
            "the local header is not that",
            _overlapping(300),
            "every entry has the same local header: 300 times the data",
        ),
        _case(
            "two-entries-for-one-member", "tiling", overlap, shared, "the second entry points to the first local header"
        ),
        _case("member-in-a-member", "tiling", overlap, _nested(), "the second member lies in the data of the first"),
        _case(
            "byte-between-members",
            "tiling",
            gap,
            archive(TWO[0], replace(TWO[1], before=b"\0")),
            "room for what no reader checks",
        ),
        _case(
            "hidden-member",
            "tiling",
            gap,
            archive(ONE, gap=hidden.replace(b"x.npy", b"h.npy")),
            "a member that only streaming readers see",
        ),
        _case(
            "hidden-first-member",
            "tiling",
            "bytes before the first member",
            hidden.replace(b"x.npy", b"h.npy") + _shifted(len(hidden)),
            "the directory leaves out the first",
        ),
        _case("gap-before-the-directory", "tiling", gap, archive(ONE, gap=bytes(16)), "16 bytes before the directory"),
        _case(
            "offset-in-the-directory",
            "tiling",
            "bytes before the first member",
            archive(replace(ONE, central={"offset": len(archive(ONE)) - 60})),
            "a local header in the directory",
        ),
        _case(
            "second-offset-beyond-the-file",
            "tiling",
            gap,
            archive(TWO[0], replace(TWO[1], central={"offset": 2**31})),
            "a member after the end",
        ),
        _case(
            "local-extra-beyond-the-file",
            "file.truncated",
            ("too short", "65535 bytes"),
            archive(replace(ONE, local={"extra": 65535})),
            "extra fields that the end of the file cuts",
        ),
    ]


def _nested() -> bytes:
    """A member whose data is another member, and entries for both."""
    inner = Entry(b"b.npy", npy(b"inner"))
    raw = record(LOCAL, {"signature": b"PK\3\4"} | inner.values()) + inner.name + inner.data
    outer = Entry(b"a.npy", npy(raw))
    at = 30 + len(outer.name) + len(outer.data) - len(raw)
    entries = [(outer, 0), (inner, at)]
    content = record(LOCAL, {"signature": b"PK\3\4"} | outer.values()) + outer.name + outer.data
    return content + _directory(
        len(content), [(entry.name, entry.values() | {"offset": offset}) for entry, offset in entries]
    )


def _directory(offset: int, entries: list[tuple[bytes, dict[str, Any]]]) -> bytes:
    """A central directory and the end record."""
    directory = b"".join(record(CENTRAL, values | {"signature": b"PK\1\2"}) + name for name, values in entries)
    count = len(entries)
    numbers = {"here": count, "entries": count, "size": len(directory), "offset": offset}
    return directory + record(END, {"signature": b"PK\5\6"} | numbers)


def _shifted(by: int) -> bytes:
    """An archive whose offsets count from `by` bytes before it."""
    content = archive(replace(ONE, central={"offset": by}))
    start = by + len(ONE.data) + 30 + len(ONE.name)
    return content[:-6] + struct.pack("<I", start) + content[-2:]


def _overlapping(count: int) -> bytes:
    """One local header, and entries of different names that all point to it."""
    content = record(LOCAL, {"signature": b"PK\3\4"} | ONE.values()) + ONE.name + ONE.data
    return content + _directory(len(content), [(f"{number:05}".encode(), ONE.values()) for number in range(count)])


def _locals() -> list[Case]:
    other, differs = "the local header is not that of the directory", "the local header disagrees with the directory"
    size = len(ONE.data)
    renamed = archive(ONE).replace(b"x.npy", b"y.npy", 1)

    def local(label: str, words: str, why: str, **fields: Any) -> Case:
        return _case(label, "local", words, archive(replace(ONE, local=fields)), why)

    def extended(name: str, raw: bytes, why: str, **fields: Any) -> Case:
        return _case(name, "local", differs, archive(replace(ONE, local_extra=raw, local=fields)), why)

    return [
        _case(
            "local-signature",
            "local",
            other,
            archive(TWO[0], replace(TWO[1], local={"signature": b"PK\3\5"})),
            "no local header where the directory says",
        ),
        _case("local-name", "local", (other, "y.npy"), renamed, "readers differ in which name they take"),
        local("local-name-length", other, "a shorter name, so that the data begins earlier", name=4),
        local("local-method", other, "deflated here, stored there", method=8),
        local("local-flags", other, "encrypted here, plain there", flags=1),
        local("local-crc", differs, "another checksum", crc=1),
        local("local-crc-zero", differs, "no checksum, and no descriptor", crc=0),
        local("local-sizes", differs, "other sizes", stored=1, size=1),
        local("local-sizes-zero", differs, "no sizes, and no descriptor", stored=0, size=0),
        extended("local-zip64-sizes", wide(size + 1, size), "another size in the ZIP64 field", stored=ONES, size=ONES),
        extended("local-zip64-one-size", wide(size), "one number for two", stored=ONES, size=ONES),
        extended("local-zip64-more", wide(size, size, size), "a number too many", stored=ONES, size=ONES),
        extended("local-zip64-without-need", wide(size, size), "a field for numbers that are there"),
        extended("local-zip64-half-a-number", extra(1, bytes(4)), "no whole number"),
        _case(
            "local-sizes-beside-a-descriptor",
            "local",
            differs,
            archive(described(replace(ONE, local={"size": 7}))),
            "a wrong size, although a descriptor follows",
        ),
    ]


def _descriptors() -> list[Case]:
    differs = "the data descriptor disagrees with the directory"

    def case(name: str, why: str, entry: Entry, rule: str = "descriptor", words: str = differs) -> Case:
        return _case(name, rule, words, archive(entry), why)

    return [
        case("descriptor-crc", "another checksum", described(ONE, crc=1)),
        case("descriptor-size", "another size", described(ONE, size=1)),
        case("descriptor-signature", "no descriptor's signature", described(ONE, signature=b"PK\7\7")),
        case("descriptor-missing", "the directory where it should be", replace(described(ONE), descriptor=b"")),
        case("descriptor-too-wide", "sizes of eight bytes without a ZIP64 field", described(ONE, "Q")),
        case(
            "descriptor-too-narrow",
            "sizes of four bytes with a ZIP64 field",
            described(replace(ONE, local_extra=wide(0, 0))),
        ),
        case(
            "descriptor-not-announced",
            "a descriptor without its flag",
            replace(ONE, descriptor=described(ONE).descriptor),
            "tiling",
            "bytes that belong to no member",
        ),
    ]


def _contents() -> list[Case]:
    def packed(
        name: str,
        why: str,
        content: bytes,
        data: bytes = ONE.data,
        words: str | tuple[str, ...] = "does not unpack",
        read: str | None = "x",
    ) -> Case:
        return _case(name, "deflate", words, archive(Entry(b"x.npy", data, 8, content)), why, read)

    stream, data = blocks(ONE.data), ONE.data
    flipped = archive(ONE).replace(b"1234", b"1235")
    return [
        packed("stream-cut", "the last byte is missing", stream[:-1], words=("does not unpack", "does not end")),
        packed("stream-without-a-last-block", "another block should follow", blocks(data, last=False)),
        packed("stream-of-no-type", "a block of the reserved type", blocks(data, last=False) + b"\x07"),
        packed(
            "stream-with-a-wrong-length",
            "a stored block whose two lengths disagree",
            stream[:3] + b"\0" + stream[4:],
            read=None,
        ),
        packed("stream-too-long", "a byte more than the directory says", blocks(data + b"5")),
        packed("stream-too-short", "a byte less than the directory says", blocks(data[:-1])),
        packed("stream-and-more", "bytes after the end of the stream", stream + b"more"),
        packed("stream-and-another", "a second stream", stream + stream),
        packed(
            "stream-that-looks-back-too-far",
            "a distance before the first byte",
            b"\x03\x02\x00" + stream,
            words="does not unpack",
            read=None,
        ),
        _case(
            "zeros-for-ever",
            "deflate",
            ("does not unpack", "more than"),
            archive(Entry(b"x.npy", npy(bytes(40000)), 8, blocks(npy(bytes(40000))[:128], last=False) + zeros(4000))),
            "a megabyte where 40 kB are announced",
            "x",
        ),
        _case("value-flipped", "crc", ("the checksum is wrong", "fetch it again"), flipped, "a bit of the values", "x"),
        _case(
            "value-flipped-in-a-stream",
            "crc",
            "the checksum is wrong",
            archive(Entry(b"x.npy", npy(b"1234"), 8, blocks(npy(b"1235")))),
            "a bit of the values, deflated",
            "x",
        ),
        _case(
            "crc-zero",
            "crc",
            "the checksum is wrong",
            archive(replace(ONE, central={"crc": 0}, local={"crc": 0})),
            "no checksum",
            "x",
        ),
        _case(
            "record-of-5-megabytes",
            "small",
            "a member is too large",
            archive(ONE, _zeros(5 << 20, b"__weights_io__.npy")),
            "a record of dtypes as large as a layer",
        ),
        _case(
            "keras-archive",
            "content",
            ("Keras", "model.weights.h5"),
            archive(Entry(b"config.json", b"{}"), Entry(b"model.weights.h5", b"\x89HDF")),
            "a .keras archive",
        ),
        _case(
            "plain-archive",
            "content",
            ("no checkpoint", "readme.txt"),
            archive(Entry(b"readme.txt", b"hello")),
            "a text in an archive",
        ),
        _case(
            "arrays-and-a-text",
            "content",
            "no checkpoint",
            archive(ONE, Entry(b"readme.txt", b"hello")),
            "NumPy would give the text as bytes",
        ),
        _case(
            "arrays-in-a-folder-entry",
            "content",
            "no checkpoint",
            archive(Entry(b"a/", b""), replace(ONE, name=b"a/x.npy")),
            "an entry for the folder",
        ),
    ]


def _later() -> list[Case]:
    """Cases that came after the others: the numbers of files do not change."""
    marked = archive(replace(ONE, central={"outer": 0x65726430 | 0x10}))
    return [
        _case(
            "folder-by-attribute", "folder", "marked as a folder", marked, "an array that some readers skip as a folder"
        )
    ]


def cases() -> list[Case]:
    """Archives that break one rule each."""
    parts = (
        _ends,
        _zip64_ends,
        _directories,
        _features,
        _names,
        _extras,
        _sizes,
        _tiling,
        _locals,
        _descriptors,
        _contents,
        _later,
    )
    return [case for part in parts for case in part()]


def good() -> list[Case]:
    """Archives that keep all rules, by the same builder."""
    size = len(ONE.data)
    sizes = {"stored": ONES, "size": ONES}
    shorts = {"here": 0xFFFF, "entries": 0xFFFF, "size": ONES, "offset": ONES}
    contents = {
        "two-members": GOOD,
        "empty": archive(),
        "deflated": archive(replace(ONE, method=8)),
        "deflated-zeros": archive(_zeros(1 << 16)),
        "comment": archive(ONE, comment=b"made by hand"),
        "comment-of-a-member": archive(replace(ONE, comment=b"made by hand")),
        "utf-8-name": archive(replace(ONE, name="权重.npy".encode(), flags=0x0800)),
        "padding": archive(replace(ONE, local_extra=extra(0x4246, b"Z" * 29))),
        "times-in-extra-fields": archive(
            replace(ONE, local_extra=extra(0x5455, bytes(9)), central_extra=extra(0x5455, bytes(5)))
        ),
        "descriptor": archive(described(ONE)),
        "descriptor-beside-sizes": archive(
            described(replace(ONE, local={key: ONE.values()[key] for key in ("crc", "stored", "size")}))
        ),
        "descriptor-zip64": archive(described(replace(ONE, local_extra=wide(0, 0), local=sizes), "Q")),
        "descriptor-zip64-as-pytorch": archive(
            ONE, described(replace(ONE, name=b"y.npy", local_extra=wide(30 + 5 + size)), "Q")
        ),
        "zip64-as-numpy": archive(replace(ONE, local_extra=wide(size, size), local=sizes)),
        "zip64-in-the-directory": archive(
            replace(ONE, central_extra=wide(size, size, 0), central=sizes | {"offset": ONES})
        ),
        "zip64-end": archive(ONE, end64={}),
        "zip64-end-all-ones": archive(ONE, end64={}, end=shorts),
        "directory-in-another-order": _swapped(),
    }
    return [Case(name, "", (), {FILE: content}, FILE) for name, content in contents.items()]


def _swapped() -> bytes:
    """The second member is listed first."""
    start = GOOD.index(b"PK\1\2")
    first = slice(start, start + 46 + 5)
    return GOOD[:start] + GOOD[first.stop : first.stop + 51] + GOOD[first] + GOOD[first.stop + 51 :]
