"""The safetensors format: a length, a JSON header, and the tensors' bytes without gap or overlap.

    [8 bytes: n, little endian] [n bytes of JSON: name -> {dtype, shape, data_offsets}] [data]

Everything is validated before anything is allocated. Strict mode keeps to the specification where the format's own reader (0.8.0) does not; compat
mode tolerates what that reader does: white space before the header, a name twice (the last counts), more fields than three, null for
__metadata__, and BOOL bytes other than 0 and 1, which are true. Neither takes an entry that is a list of the three fields, a shape that no array
can have (65 axes, or an axis of 2**62 beside an empty one), or values of half a byte, which that reader hands on.

Arrays are views of the mapped file where their offset is aligned for the dtype, and copies otherwise.

Reference: the format's description in the README of the safetensors project, version 0.8.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from refimpl.files import replace_file
from weights_io.arrays import as_array, as_bytes, read_only
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, UnsupportedError, WeightsError, clipped
from weights_io.folders import unique_names
from weights_io.limits import OWN, Limits
from weights_io.source import Source
from weights_io.writing import Pending, compare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["DTYPES", "RULES", "open_source", "save_items"]

RULES = {
    "safetensors.length": "The header's length is at most 100 MB and fits in the file.",
    "safetensors.begin": "The header begins with {.",
    "safetensors.json": "The header is one JSON object in UTF-8.",
    "safetensors.unique-names": "A name occurs once in an object of the header.",
    "safetensors.fields": "A tensor has dtype, shape and data_offsets, and nothing else.",
    "safetensors.dtype": "A dtype is one that NumPy or ml_dtypes can hold, a whole number of bytes each.",
    "safetensors.shape": "A shape is at most 64 whole numbers whose product an array can have.",
    "safetensors.offsets": "The data offsets are two whole numbers as far apart as dtype and shape need.",
    "safetensors.tiling": "The tensors cover the data without gap or overlap, to the end of the file.",
    "safetensors.metadata": "__metadata__ maps names to text.",
    "safetensors.bool": "A BOOL byte is 0 or 1.",
}

FIELDS = {"dtype", "shape", "data_offsets"}
KEEPS_METADATA = True  # text, of any name
MAX_HEADER = 100_000_000
HEADER_COST = 36  # bytes of objects that a byte of JSON header can become: 32 for [[]], and 4 for the text itself
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def _strict_int(text: str) -> int | float:
    """A JSON integer; "-0", which is no whole number to the format's own reader, becomes a float, which no field takes."""
    return float(text) if text == "-0" else int(text)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _last_wins(path: Path) -> Any:
    """The hook for compat mode: of two names the last counts, as to the format's own reader; but fields and __metadata__ are unique to it too."""
    strict = unique_names(path, "safetensors.unique-names")

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = [
            name for name, value in pairs if name == "__metadata__" or (name in FIELDS and not isinstance(value, dict))
        ]
        return strict(pairs) if len(set(fields)) != len(fields) else dict(pairs)

    return build


def _header(source: Source, limits: Limits, mode: str) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset at which the data begins."""
    length = source.integer(0, min(8, source.size))
    if source.size < 8 or length > min(source.size - 8, MAX_HEADER):
        raise FormatError(
            "not a safetensors file, or truncated",
            rule="safetensors.length",
            where=source.path,
            offset=0,
            expected=f"a header of at most {max(0, min(source.size - 8, MAX_HEADER))} bytes",
            got=f"{length} bytes announced, {source.size} bytes in the file",
            remedy="fetch the file again and compare its checksum",
        )
    limits.check_heap(HEADER_COST * length, source.size, source.path, "header")
    raw = source.read(8, length, "header")
    if not raw.startswith(b"{") and not (mode == "compat" and raw.lstrip(b" \t\r\n").startswith(b"{")):
        raise FormatError(
            "the header must begin with {", rule="safetensors.begin", where=source.path, offset=8, got=repr(raw[:16])
        )
    return _parse(raw, source, mode), 8 + length


def _parse(raw: bytes, source: Source, mode: str) -> dict[str, Any]:
    pairs = _last_wins(source.path) if mode == "compat" else unique_names(source.path, "safetensors.unique-names")
    try:
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=pairs, parse_int=_strict_int, parse_constant=_no_constant
        )
        json.dumps(list(header), ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        got = f"{type(error).__name__}: {error}"
        raise FormatError(
            "the header is not JSON", rule="safetensors.json", where=source.path, offset=8, got=got
        ) from None
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object", rule="safetensors.json", where=source.path, offset=8)
    return header


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _info(source: Source, name: str, entry: Any, start: int, mode: str) -> TensorInfo:
    path = source.path
    if not isinstance(entry, dict) or not set(entry) >= FIELDS or (mode == "strict" and set(entry) != FIELDS):
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise FormatError(
            "wrong fields",
            rule="safetensors.fields",
            where=path,
            field=repr(name),
            expected="dtype, shape, data_offsets",
            got=found,
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise UnsupportedError(
            "unknown dtype",
            rule="safetensors.dtype",
            where=path,
            field=repr(name),
            expected=", ".join(DTYPES),
            got=entry["dtype"],
        )
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], DTYPES[entry["dtype"]]
    if not _whole(shape) or len(shape) > 64 or math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        raise FormatError(
            "wrong shape",
            rule="safetensors.shape",
            where=path,
            field=repr(name),
            expected="at most 64 whole numbers that an array can have as axes",
            got=shape,
        )
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise FormatError(
            "the offsets do not match dtype and shape",
            rule="safetensors.offsets",
            where=path,
            field=repr(name),
            expected=f"{math.prod(shape) * dtype.itemsize} bytes for {entry['dtype']} {clipped(shape)}",
            got=f"data_offsets {clipped(offsets)}",
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + offsets[0], offsets[1] - offsets[0])


def _check_tiling(source: Source, infos: list[TensorInfo], start: int) -> None:
    """Every byte from `start` to the end belongs to exactly one tensor."""
    expected = start
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != expected:
            kind = "overlap" if info.offset < expected else "gap"
            raise FormatError(
                f"{kind} in the data",
                rule="safetensors.tiling",
                where=source.path,
                offset=info.offset,
                field=repr(info.name),
                expected=expected,
                got=info.offset,
            )
        expected += info.nbytes
    if expected != source.size:
        raise FormatError(
            "the tensors do not fill the file",
            rule="safetensors.tiling",
            where=source.path,
            expected=f"{expected} bytes",
            got=f"{source.size} bytes",
            remedy="the file is truncated or has something appended: fetch it again",
        )


def open_source(source: Source, limits: Limits, mode: str) -> Checkpoint:
    """Open one .safetensors file; raises FormatError or UnsupportedError, and allocates nothing for the tensors."""
    header, start = _header(source, limits, mode)
    metadata = header.pop("__metadata__", {})
    metadata = {} if metadata is None and mode == "compat" else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(
            "__metadata__ must map names to text", rule="safetensors.metadata", where=source.path, got=metadata
        )
    infos = {name: _info(source, name, entry, start, mode) for name, entry in header.items()}
    _check_tiling(source, list(infos.values()), start)
    return Checkpoint("safetensors", metadata, infos, lambda info: _read(source, info, mode), [source])


def _read(source: Source, info: TensorInfo, mode: str) -> Any:
    if info.nbytes == 0:
        return read_only(np.empty(info.shape, dtype=info.dtype))
    raw = source.map(info.offset, info.nbytes, repr(info.name))
    if info.dtype == np.bool_ and raw.max() > 1:
        if mode == "compat":
            return read_only((raw != 0).reshape(info.shape))
        raise FormatError(
            "a BOOL byte is neither 0 nor 1",
            rule="safetensors.bool",
            where=source.path,
            offset=info.offset,
            field=repr(info.name),
            got=int(raw.max()),
        )
    return as_array(raw, info.dtype, info.shape)


def _laid_out(items: list[Pending]) -> tuple[dict[str, Any], list[Pending]]:
    """Header entries, and the items in the order of their bytes: the most aligned dtypes first, so that all of them can be mapped."""
    order = sorted(items, key=lambda item: (-item.dtype.itemsize, item.name))
    entries, offset = {}, 0
    for item in order:
        if item.name == "__metadata__":
            raise WeightsError(
                "a tensor's name cannot be written",
                where=repr(item.name),
                expected="text that UTF-8 can write, other than __metadata__",
            )
        if item.dtype not in CODES:
            raise UnsupportedError(
                "dtype cannot be written", where=repr(item.name), expected=", ".join(DTYPES), got=item.dtype
            )
        end = offset + item.nbytes
        entries[item.name] = {"dtype": CODES[item.dtype], "shape": list(item.shape), "data_offsets": [offset, end]}
        offset = end
    return entries, order


def save_items(path: Path, items: list[Pending], metadata: Mapping[str, str]) -> None:
    """Write tensors one by one to a new name, flush, read back and compare bit for bit, and only then rename to `path`."""
    entries, order = _laid_out(items)
    header = ({"__metadata__": dict(metadata)} if metadata else {}) | entries
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for item in order:
            file.write(as_bytes(item.get()))

    def check(temporary: Path) -> None:
        with open_source(Source(temporary), OWN, "strict") as written:
            compare(written, order)

    replace_file(path, write, check)
