r"""NumPy's .npy files, each one array, and .npz archives of them.

    [\x93NUMPY] [version: 2 bytes] [n: 2 bytes, or 4 since version 2] [n bytes of header] [values]
    header: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } and spaces, and a newline

The header is a Python literal; here it is read by a fixed grammar: three keys, once each, a dtype as NumPy writes it, True or False, whole
numbers. The values are what dtype and shape need, and nothing follows. A .npy file opens as a checkpoint with one tensor, named "array"; the
tensors of an .npz archive are named as its members, without .npy.

NumPy does not write what bfloat16 and float8 are: it calls them voids of one or two bytes. So does `save_items`, so that `numpy.load` reads the
archive, and records the names beside them, in a last member `__weights_io__.npy`: the UTF-8 bytes, as uint8, of a JSON object

    {"dtypes": {"wte": "bfloat16"}, "metadata": {"made by": "..."}}

in which either key may be missing. It is written where there is something to record, and read back;
`numpy.load(path)["wte"].view(ml_dtypes.bfloat16)` is the same tensor.

Reference: "A simple file format for NumPy arrays" (NEP 1), and the documentation of numpy.lib.format, versions 1.0, 2.0 and 3.0.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from refimpl.files import replace_file
from weights_io import zip_archive
from weights_io.arrays import as_array, as_bytes, native
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, UnsupportedError, WeightsError, clipped
from weights_io.folders import unique_names
from weights_io.limits import OWN, Limits
from weights_io.source import Source
from weights_io.writing import Pending, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["KEEPS_METADATA", "RECORD", "RULES", "VOIDS", "open_archive", "open_source", "save_items"]

RULES = {
    "npy.magic": "An array begins with \\x93NUMPY.",
    "npy.version": "The version is 1.0, 2.0 or 3.0.",
    "npy.length": "The header's length is at most 10000 bytes and fits in the file.",
    "npy.header": "The header is {'descr': ..., 'fortran_order': ..., 'shape': ...}, each key once, then spaces and a newline.",
    "npy.shape": "A shape is at most 64 whole numbers whose product an array can have.",
    "npy.size": "The values are as many bytes as dtype and shape need, and nothing follows.",
    "npy.bool": "A byte of a bool is 0 or 1.",
    "npy.object": "An array holds numbers: Python objects are pickles, which are not executed.",
    "npy.structured": "An array holds one number per element, no records.",
    "npy.text": "An array holds numbers, no text.",
    "npy.date": "An array holds numbers, no dates.",
    "npy.void": "The dtype of bytes without a meaning (V) is recorded beside them.",
    "npy.longdouble": "A float has at most 64 bits: what long double is depends on the machine.",
    "npy.dtype": "A dtype is '<', '>' or, for single bytes, '|', and b1, i1 to i8, u1 to u8, f2 to f8, c8 or c16.",
    "npz.record": "__weights_io__.npy is a JSON object of dtypes, each of a void of its size, and of metadata, which is text.",
}

MAGIC = b"\x93NUMPY"
VERSIONS = {(1, 0): 2, (2, 0): 4, (3, 0): 4}  # to the bytes of the header's length
MAX_HEADER = 10_000  # as in NumPy
TENSOR_COST = 1200  # bytes of objects that a member becomes, besides
HEADER_COST = 24  # times the bytes of its header
NAME = "array"  # of the tensor in a .npy file: the content decides, not the file's name

KEEPS_METADATA = True  # text, of any name
RECORD = "__weights_io__"
MAX_RECORD = 4 << 20
RECORD_COST = 40  # bytes of objects that a byte of JSON can become
VOIDS = {  # the name in the record -> the dtype; NumPy writes them as V1 and V2
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}

MULTI, SINGLE = ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"), ("b1", "i1", "u1")
READ = {order + code for order in "<>" for code in MULTI} | {
    order + code for order in "<>|" for code in (*SINGLE, "V1", "V2")
}
DESCRS = {np.dtype(code): code for code in (*(f"<{code}" for code in MULTI), *(f"|{code}" for code in SINGLE))}
DESCRS |= {dtype: f"|V{dtype.itemsize}" for dtype in VOIDS.values()}

LOST = "NumPy loses the names of bfloat16 and float8: write it with weights_io.save, which records them, or as float32"
KINDS = {  # what is not read, by the letter of its dtype: rule, what it is, what to do
    "O": ("npy.object", "an array of Python objects is not read", "it is a pickle: save its arrays as numbers"),
    "V": ("npy.void", "an array of bytes without a meaning is not read", "save it as the numbers that it means"),
    "S": ("npy.text", "an array of text is not read", "leave it out of the archive"),
    "a": ("npy.text", "an array of text is not read", "leave it out of the archive"),
    "U": ("npy.text", "an array of text is not read", "leave it out of the archive"),
    "M": ("npy.date", "an array of dates is not read", "save it as int64"),
    "m": ("npy.date", "an array of time spans is not read", "save it as int64"),
}
KEY = re.compile(r" *+(['\"])(descr|fortran_order|shape)\1 *+: *+")
NUMBER = r"(?:0|[1-9][0-9]{0,19}+)L?+ *+"
VALUES = {
    "descr": re.compile(r"(['\"])([^'\"\\]*+)\1"),
    "fortran_order": re.compile(r"(True|False)()"),
    "shape": re.compile(rf"()(\( *+(?:{NUMBER}, *+(?:{NUMBER}, *+)*+(?:{NUMBER})?+)?+\))"),
}
COMMA, BRACE = re.compile(r" *+,"), re.compile(r" *+\} *+(\n?)")


class _Place(NamedTuple):
    """Where an array lies, for messages."""

    path: Path
    offset: int | None
    field: str | None

    def bad(self, rule: str, what: str, **details: Any) -> FormatError:
        return FormatError(what, rule=rule, where=self.path, offset=self.offset, field=self.field, **details)

    def unread(self, rule: str, what: str, **details: Any) -> UnsupportedError:
        return UnsupportedError(what, rule=rule, where=self.path, offset=self.offset, field=self.field, **details)


class _Header(NamedTuple):
    """What an array says of itself."""

    dtype: Any  # as it lies in the file: of either byte order, or a void
    shape: tuple[int, ...]
    fortran: bool
    begin: int  # of the values, from the start of the array's bytes

    @property
    def layout(self) -> str:
        return "strided" if self.fortran and len(self.shape) > 1 else "contiguous"


# --- the header -------------------------------------------------------------------------------------------------------------


def _header(head: Callable[[int], bytes], size: int, place: _Place, mode: str) -> _Header:
    """Read and validate the header of an array of `size` bytes, of which `head(n)` gives the first n."""
    start = head(min(size, 12))
    if start[:6] != MAGIC:
        raise place.bad("npy.magic", "no NumPy array", expected=repr(MAGIC), got=repr(start[:6]))
    width = VERSIONS.get((*start[6:8],), 2)
    if (*start[6:8],) not in VERSIONS and len(start) == 12:
        raise place.unread(
            "npy.version", "a version that is not read", expected="1.0, 2.0 or 3.0", got=repr(start[6:8])
        )
    length = int.from_bytes(start[8 : 8 + width], "little")
    begin = 8 + width + length
    if length > MAX_HEADER or begin > size:
        raise place.bad(
            "npy.length",
            "the header is too long",
            expected=f"at most {max(0, min(MAX_HEADER, size - 8 - width))} bytes",
            got=f"{length} bytes announced, {size} bytes in all",
        )
    text = head(begin)[8 + width :].decode("latin-1")
    header = _checked(_parsed(text, place, mode, start[6]), begin, place)
    needed = math.prod(header.shape) * header.dtype.itemsize
    if size - begin != needed:
        raise place.bad(
            "npy.size",
            "the values are not as many as dtype and shape need",
            expected=f"{needed} bytes for {header.dtype.str} {clipped(header.shape)}",
            got=f"{size - begin} bytes",
            remedy="the file is truncated, or holds more than one array"
            if size - begin > needed
            else "fetch the file again",
        )
    return header


def _parsed(text: str, place: _Place, mode: str, version: int) -> dict[str, str]:
    """The three values of a header, as text."""
    fields: dict[str, str] = {}
    at, more = 1 if text.startswith("{") else 0, text.startswith("{")
    while more and (key := KEY.match(text, at)) and key[2] not in fields:
        if key[2] == "descr" and text[key.end() : key.end() + 1] in ("[", "("):
            raise place.unread("npy.structured", "an array of records is not read", got=text[key.end() :].rstrip())
        value = VALUES[key[2]].match(text, key.end())
        if value is None:
            break
        fields[key[2]] = value[2] or value[1]
        comma = COMMA.match(text, value.end())
        at, more = (comma or value).end(), comma is not None
    brace = BRACE.match(text, at)
    whole = brace is not None and brace.end() == len(text) and (brace[1] != "" or mode == "compat")
    long = "L" in fields.get("shape", "")
    if len(fields) != 3 or not whole or (long and (mode == "strict" or version > 2)):
        raise place.bad(
            "npy.header",
            "the header is not what NumPy writes",
            expected="{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } and spaces, and a newline",
            got=repr(text[:200].rstrip(" ")),
            remedy='if Python 2 wrote it (numbers end in L), open it with mode="compat"' if long else None,
        )
    return fields


def _checked(fields: dict[str, str], begin: int, place: _Place) -> _Header:
    dtype = _dtype(fields["descr"], place)
    shape = tuple(int(number) for number in re.findall(r"[0-9]+", fields["shape"]))
    if len(shape) > 64 or math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        raise place.bad(
            "npy.shape",
            "a shape that no array can have",
            expected="at most 64 axes, and less than 2**63 bytes",
            got=fields["shape"],
        )
    return _Header(dtype, shape, fields["fortran_order"] == "True", begin)


def _dtype(descr: str, place: _Place) -> Any:
    """The dtype of a `descr`, from a closed table."""
    if descr not in READ:
        raise _not_read(descr, place)
    return np.dtype(descr)


def _not_read(descr: str, place: _Place) -> UnsupportedError:
    """The error for a dtype outside the table, by its name."""
    parts = re.fullmatch(r"[<>|=]?([A-Za-z])([0-9]{0,9})(?:\[\w*\])?", descr)
    kind, size = (parts[1], int(parts[2] or 0)) if parts else ("", 0)
    rule, what, remedy = KINDS.get(
        kind, ("npy.dtype", "a dtype that is not read", "save it as a dtype that every machine has")
    )
    if kind in ("f", "c") and size > 8:
        rule, what, remedy = "npy.longdouble", "long double is not read", "save it as float64 or complex128"
    elif kind == "f" and size == 1:
        rule, what, remedy = "npy.void", "a float8 that NumPy wrote is not read", LOST
    return place.unread(rule, what, got=repr(descr), remedy=remedy)


# --- one array --------------------------------------------------------------------------------------------------------------


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open one .npy file: a checkpoint with one tensor, "array"; an .npz archive goes to `zip_archive`."""
    if source.read(0, min(source.size, 2)) == b"PK":
        return zip_archive.open_source(source, limits, mode)
    place = _Place(source.path, 0, None)
    header = _header(lambda length: source.read(0, length), source.size, place, mode)
    _check_void(header, None, place)
    nbytes = source.size - header.begin
    info = TensorInfo(NAME, native(header.dtype), header.shape, source.path, header.begin, nbytes, header.layout)

    def read(info: TensorInfo) -> Any:
        raw = source.map(header.begin, nbytes, NAME)
        return _values(raw, header, info, mode, place._replace(field=NAME))

    return Checkpoint("npy", {}, {NAME: info}, read, [source])


def _check_void(header: _Header, dtype: Any, place: _Place) -> None:
    """A void must have a recorded dtype of its size."""
    if header.dtype.kind == "V" and dtype is None:
        raise place.unread(
            "npy.void",
            "an array of bytes without a meaning is not read",
            got=header.dtype.str,
            remedy=LOST,
        )


def _values(
    raw: Any, header: _Header, info: TensorInfo, mode: str, place: _Place
) -> Any:  # uint8 (n,) -> dtype (*shape)
    """The array that lies in `raw`, which is written to if it may be."""
    dtype = info.dtype if header.dtype.kind == "V" else header.dtype
    if dtype == np.bool_:
        raw = _bools(raw, mode, place)
    if raw.flags.writeable and dtype != native(dtype) and raw.ctypes.data % dtype.alignment == 0:
        raw.view(dtype).byteswap(inplace=True)
        dtype = native(dtype)
    return as_array(raw, dtype, info.shape[::-1]).T if header.fortran else as_array(raw, dtype, info.shape)


def _bools(raw: Any, mode: str, place: _Place) -> Any:  # uint8 (n,) -> 0 or 1, uint8 (n,)
    if raw.size == 0 or raw.max() <= 1:
        return raw
    if mode == "strict":
        raise place.bad("npy.bool", "a byte of a bool is neither 0 nor 1", got=int(raw.max()))
    return np.not_equal(raw, 0, out=raw.view(np.bool_) if raw.flags.writeable else None).view(np.uint8)


# --- archives ---------------------------------------------------------------------------------------------------------------


def open_archive(archive: zip_archive.Archive, limits: Limits, mode: str) -> Checkpoint:
    """Open an .npz archive: every member a .npy file, the tensor named as the member without .npy."""
    headers, cost, path = {}, len(archive.members) * zip_archive.MEMBER_COST, archive.source.path
    for name, member in archive.members.items():
        place = _Place(path, member.offset, repr(name))
        header = _header(functools.partial(archive.head, name), member.size, place, mode)
        headers[name.removesuffix(".npy")] = header
        cost += TENSOR_COST
        limits.check_heap(cost + HEADER_COST * header.begin, archive.source.size, path, "members")
    record = _record(archive, headers.pop(RECORD, None), limits)
    _check_record(record, headers, archive)
    infos = {name: _info(archive, name, header, record["dtypes"].get(name)) for name, header in headers.items()}
    return Checkpoint(
        "npz", record["metadata"], infos, lambda info: _read(archive, headers[info.name], info, mode), [archive.source]
    )


def _info(archive: zip_archive.Archive, name: str, header: _Header, dtype: str | None) -> TensorInfo:
    member = archive.members[f"{name}.npy"]
    known = VOIDS[dtype] if dtype is not None else None
    _check_void(header, known, _Place(archive.source.path, member.offset, repr(name)))
    deflated = member.method == zip_archive.DEFLATED
    offset, layout = (member.offset, "compressed") if deflated else (member.offset + header.begin, header.layout)
    nbytes = member.size - header.begin
    return TensorInfo(name, known or native(header.dtype), header.shape, archive.source.path, offset, nbytes, layout)


def _read(archive: zip_archive.Archive, header: _Header, info: TensorInfo, mode: str) -> Any:
    member = archive.members[f"{info.name}.npy"]
    deflated = member.method == zip_archive.DEFLATED
    raw = archive.unpacked(member.name, header.begin) if deflated else archive.array(member.name)
    return _values(raw[header.begin :], header, info, mode, _Place(info.file, info.offset, repr(info.name)))


def _record(archive: zip_archive.Archive, header: _Header | None, limits: Limits) -> dict[str, dict[str, str]]:
    """What is recorded beside the arrays: dtypes and metadata, both empty where there is no record."""
    empty: dict[str, dict[str, str]] = {"dtypes": {}, "metadata": {}}
    if header is None:
        return empty
    member, path = archive.members[f"{RECORD}.npy"], archive.source.path
    raw = archive.read(member.name, MAX_RECORD)[header.begin :]
    limits.check_heap(RECORD_COST * len(raw), archive.source.size, path, repr(member.name))
    found = _json(raw, path) if header.dtype == np.uint8 else header.dtype.str
    if not isinstance(found, dict) or set(found) - set(empty) or not all(_is_text(part) for part in found.values()):
        raise _Place(path, member.offset, repr(member.name)).bad(
            "npz.record",
            "a wrong record",
            expected="UTF-8 JSON in uint8: dtypes and metadata, each names to text",
            got=sorted(found) if isinstance(found, dict) else found,
        )
    return empty | found


def _json(raw: bytes, path: Path) -> Any:
    """The parsed JSON, or the text of what is wrong with it."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=unique_names(path, "npz.record"))
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        return f"{type(error).__name__}: {error}"
    return found


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(value, str) for value in part.values())


def _check_record(record: dict[str, dict[str, str]], headers: dict[str, _Header], archive: zip_archive.Archive) -> None:
    """Every recorded dtype is known, and is that of a void of its size."""
    for name, dtype in record["dtypes"].items():
        header = headers.get(name)
        if header is None or dtype not in VOIDS or header.dtype != np.dtype(f"V{VOIDS[dtype].itemsize}"):
            place = _Place(archive.source.path, None, repr(name))
            raise place.bad(
                "npz.record",
                "a recorded dtype does not fit",
                expected=f"an array of voids, recorded as one of {', '.join(VOIDS)}",
                got=f"{dtype!r} for {header.dtype.str if header else 'no array'}",
            )


# --- writing ----------------------------------------------------------------------------------------------------------------


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Magic, version, length and header, as NumPy writes them: a multiple of 64 bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    length = len(text) + 1 + -(len(text) + 11) % 64
    return MAGIC + b"\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


def _with_record(items: list[Pending], metadata: Mapping[str, str]) -> list[Pending]:
    """The items, and after them the record of what the arrays do not say, where there is any."""
    for item in items:
        if item.name == RECORD:
            raise WeightsError("a tensor's name cannot be written", where=repr(item.name), expected="another name")
        if item.dtype not in DESCRS:
            expected = ", ".join(str(dtype) for dtype in DESCRS)
            raise UnsupportedError("dtype cannot be written", where=repr(item.name), expected=expected, got=item.dtype)
    dtypes = {item.name: item.dtype.name for item in items if item.dtype.name in VOIDS}
    record = {key: part for key, part in (("dtypes", dtypes), ("metadata", dict(metadata))) if part}
    raw = np.frombuffer(_encoded(record), np.uint8)
    return [*items, Pending(RECORD, raw.dtype, raw.shape, lambda: raw)] if record else items


def _encoded(record: dict[str, dict[str, str]]) -> bytes:
    try:
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise WeightsError("metadata cannot be written", expected="text to text, in UTF-8", got=error) from None


def _chunks(header: bytes, item: Pending) -> Iterator[Any]:
    yield header
    yield as_bytes(item.get())


def save_items(path: Path, items: list[Pending], metadata: Mapping[str, str]) -> None:
    """Write an .npz archive tensor by tensor, stored and aligned, read it back and compare, and only then rename it to `path`."""
    members = _with_record(items, metadata)

    def write(file: BinaryIO) -> None:
        writer = zip_archive.ZipWriter(file)
        for item in members:
            header = _npy_header(DESCRS[item.dtype], item.shape)
            writer.add(f"{item.name}.npy", len(header) + item.nbytes, _chunks(header, item))
        writer.close()

    def check(temporary: Path) -> None:
        with zip_archive.open_source(Source(temporary), OWN, "strict") as written:
            compare(written, items)

    replace_file(path, write, check)
