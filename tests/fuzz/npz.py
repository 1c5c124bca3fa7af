"""NumPy's .npz, and with it the ZIP reader: seeds, structure-aware archives, checksums put right, and NumPy itself."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st
from malformed.build_zip import ONES, Entry, archive, described, extra, wide

from fuzz import npy

if TYPE_CHECKING:
    from pathlib import Path

NAME = "a.npz"
RECORD = "__weights_io__"


def _deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def _entry(name: bytes, data: bytes, method: int = 0, **more: Any) -> Entry:
    return Entry(name, data, method, _deflated(data) if method == 8 else None, **more)


def _record(text: str) -> Entry:
    return _entry(
        f"{RECORD}.npy".encode(), npy.file(npy.header("|u1", shape=f"({len(text.encode())},)"), text.encode())
    )


def seeds() -> list[dict[str, bytes]]:
    """Good files: as NumPy writes them; with descriptors, ZIP64 fields, padding, a comment; with a record; empty."""
    x, y = (
        npy.file(npy.header("<f4", shape="(2,)"), b"12345678"),
        npy.file(npy.header("|b1", "True", "(2, 2)"), b"\0\1\1\0"),
    )
    void = npy.file(npy.header("|V2", shape="(2,)"), b"1234")
    size = {"stored": ONES, "size": ONES}
    contents = [
        archive(_entry(b"a.npy", x), _entry(b"b/c.npy", y)),
        archive(_entry(b"a.npy", x, 8), _entry(b"b.npy", npy.file(npy.header("<i8", shape="(200,)"), bytes(1600)), 8)),
        archive(described(_entry(b"a.npy", x)), described(_entry(b"b.npy", y, 8))),
        archive(
            _entry(b"a.npy", x, local_extra=wide(len(x), len(x)), local=size), _entry("é.npy".encode(), y, flags=0x800)
        ),
        archive(_entry(b"a.npy", void), _record('{"dtypes": {"a": "bfloat16"}, "metadata": {"b": "c"}}')),
        archive(_entry(b"a.npy", x, local_extra=extra(0x4246, bytes(9))), end64={}, comment=b"comment"),
        archive(),
        _by_numpy(np.savez),
        _by_numpy(np.savez_compressed),
    ]
    return [{NAME: content} for content in contents]


def _by_numpy(save: Any) -> bytes:
    file = io.BytesIO()
    save(file, a=np.arange(3.0), b=np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)))
    return file.getvalue()


odd = st.sampled_from([0, 1, 8, 0xFFFF]) | st.integers(0, 0xFFFF)
wider = odd | st.sampled_from([ONES, ONES - 1, 2**31])
FIELDS = {
    "flags": odd,
    "method": odd,
    "crc": wider,
    "stored": wider,
    "size": wider,
    "name": odd,
    "extra": odd,
    "needs": odd,
}
names = st.sampled_from(
    [b"a.npy", b"b/c.npy", b".npy", b"a.npy.npy", "权.npy".encode(), b"data.pkl", b"../a.npy", f"{RECORD}.npy".encode()]
)


@st.composite
def entries(draw: Any) -> Entry:
    """A member, most of its fields right."""
    data = draw(npy.contents())
    method = draw(st.sampled_from([0, 0, 8]))
    entry = _entry(
        draw(names | st.binary(min_size=1, max_size=8)), data, method, flags=draw(st.sampled_from([0, 0, 0x800, 2]))
    )
    form = draw(st.sampled_from(["plain"] * 6 + ["described", "zip64", "padded", "cut", "central"]))
    sizes = {"stored": ONES, "size": ONES}
    numbers = (len(entry.data), len(entry.stored))
    if form == "described":
        return described(entry, draw(st.sampled_from("IIQ")))
    if form == "zip64":
        return replace(entry, local=sizes, local_extra=wide(*numbers))
    if form == "central":
        return replace(entry, central=sizes, central_extra=wide(*numbers))
    if form == "padded":
        return replace(entry, local_extra=extra(draw(odd), draw(st.binary(max_size=40))))
    if form == "cut" and method == 8:
        return replace(entry, packed=draw(st.sampled_from([entry.stored[:-1], entry.stored + b"\0", b"", b"\3\0"])))
    return entry


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """Archives whose records agree, but for what is wrong with one or two fields."""
    members = draw(
        st.lists(entries(), max_size=4, unique_by=lambda entry: entry.name if draw(st.integers(0, 9)) else id(entry))
    )
    if draw(st.booleans()):
        members.append(_record(json.dumps(draw(npy.records))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        if members:
            place, field = draw(st.integers(0, len(members) - 1)), draw(st.sampled_from(sorted(FIELDS)))
            part = draw(st.sampled_from(["local", "central"]))
            members[place] = replace(
                members[place], **{part: getattr(members[place], part) | {field: draw(FIELDS[field])}}
            )
    more: dict[str, Any] = {}
    if draw(st.integers(0, 4)) == 0:
        more = {"end64": {}, "comment": draw(st.binary(max_size=30))}
    if draw(st.integers(0, 9)) == 0:
        more["end"] = {draw(st.sampled_from(["entries", "size", "offset", "here", "comment"])): draw(odd)}
    return {NAME: archive(*members, **more)}


def repair(data: bytes) -> bytes:
    """The same bytes with the offsets and the checksums put right, in the directory, in local headers, in descriptors and in the end record."""
    content = bytearray(data)
    directory, end = content.find(b"PK\1\2"), content.rfind(b"PK\5\6")
    if 0 <= directory < end <= len(content) - 22:
        size = content.rfind(b"PK\6\6", directory, end) if content[end - 20 : end - 16] == b"PK\6\7" else end
        struct.pack_into("<2I", content, end + 12, max(0, size - directory), directory)
    entries, locals_ = _places(content, b"PK\1\2", directory), _places(content[: max(0, directory)], b"PK\3\4", 0)
    for at, begin in zip(entries, locals_, strict=False):
        if at + 46 <= len(content) and begin + 30 <= directory:
            struct.pack_into("<I", content, at + 42, begin)
            _repair(content, at, begin)
    return bytes(content)


def _places(content: bytearray, what: bytes, start: int) -> list[int]:
    found = []
    while (start := content.find(what, start)) >= 0 and len(found) < 100:
        found.append(start)
        start += 4
    return found


def _repair(content: bytearray, at: int, begin: int) -> None:
    method, stored = content[at + 10], struct.unpack_from("<I", content, at + 20)[0]
    start = begin + 30 + sum(struct.unpack_from("<2H", content, begin + 26))
    raw = bytes(content[start : start + min(stored, 1 << 20)])
    try:
        crc = struct.pack("<I", zlib.crc32(zlib.decompressobj(-15).decompress(raw, 1 << 20) if method == 8 else raw))
    except zlib.error:
        return
    content[at + 16 : at + 20] = crc
    if not content[begin + 6] & 8:
        content[begin + 14 : begin + 18] = crc
    elif content[start + stored : start + stored + 4] == b"PK\7\x08":
        content[start + stored + 4 : start + stored + 8] = crc


def differential(path: Path) -> dict[str, Any] | None:
    """What NumPy reads, which must be able to; only for files that were accepted, since NumPy allocates whatever is declared."""
    with npy.readable(), np.load(path, allow_pickle=False) as arrays:
        return {name: npy.native(arrays[name]) for name in arrays.files if name != RECORD}
