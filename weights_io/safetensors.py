"""The safetensors format: a length, a JSON header, and the tensors' bytes without gap or overlap.

    [8 bytes: n, little endian] [n bytes of JSON: name -> {dtype, shape, data_offsets}] [data]

Everything is validated before anything is allocated, and more strictly than the reference reader does: the header must begin with
"{", keys must be unique, unknown fields are refused, and every byte of the data must belong to exactly one tensor. Arrays are views
of the mapped file where their offset is aligned for the dtype, and copies otherwise.

Reference: the format's description in the README of the safetensors project, version 0.8.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from refimpl.files import replace_file
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, UnsupportedError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["open_safetensors", "save_safetensors", "unique_names"]

MAX_HEADER = 100_000_000
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


def unique_names(path: Path) -> Any:
    """A hook for json.loads that refuses an object in which a name occurs twice."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise FormatError("a name occurs twice in the header", where=path, expected="unique names", got=twice)
        return result

    return build


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset at which the data begins."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, MAX_HEADER):
            raise FormatError(
                "not a safetensors file, or truncated",
                where=path,
                expected=f"a header of at most {max(0, min(size - 8, MAX_HEADER))} bytes",
                got=f"{length} bytes announced, {size} bytes in the file",
                remedy="fetch the file again and compare its checksum",
            )
        raw = file.read(length)
    if not raw.startswith(b"{"):
        raise FormatError("the header must begin with {", where=path, got=repr(raw[:16]))
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_names(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("the header is not JSON", where=path, got=f"{type(error).__name__}: {error}") from None
    return header, 8 + length


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _info(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        fields = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise FormatError("wrong fields", where=f"{path}, {name!r}", expected="dtype, shape, data_offsets", got=fields)
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise UnsupportedError(
            "unknown dtype", where=f"{path}, {name!r}", expected=", ".join(DTYPES), got=entry["dtype"]
        )
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], DTYPES[entry["dtype"]]
    if not _whole(shape) or len(shape) > 64 or math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
        expected = "at most 64 whole numbers that an array can have as axes"
        raise FormatError("wrong shape", where=f"{path}, {name!r}", expected=expected, got=shape)
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise FormatError(
            "the offsets do not match dtype and shape",
            where=f"{path}, {name!r}",
            expected=f"{math.prod(shape) * dtype.itemsize} bytes for {entry['dtype']} {shape}",
            got=f"data_offsets {offsets}",
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + offsets[0], offsets[1] - offsets[0])


def _check_tiling(path: Path, infos: list[TensorInfo], start: int, size: int) -> None:
    """Every byte from `start` to `size` belongs to exactly one tensor."""
    expected = start
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != expected:
            kind = "overlap" if info.offset < expected else "gap"
            raise FormatError(f"{kind} in the data", where=f"{path}, {info.name!r}", expected=expected, got=info.offset)
        expected += info.nbytes
    if expected != size:
        raise FormatError(
            "the tensors do not fill the file",
            where=path,
            expected=f"{expected} bytes",
            got=f"{size} bytes",
            remedy="the file is truncated or has something appended: fetch it again",
        )


def open_safetensors(path: Path) -> Checkpoint:
    """Open one .safetensors file; raises FormatError or UnsupportedError, and allocates nothing for the tensors."""
    size = path.stat().st_size
    header, start = _header(path, size)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("__metadata__ must map names to text", where=path, got=metadata)
    infos = {name: _info(path, name, entry, start) for name, entry in header.items()}
    _check_tiling(path, list(infos.values()), start, size)
    return Checkpoint("safetensors", metadata, infos, _read)


def _read(info: TensorInfo) -> Any:
    if info.nbytes == 0:
        empty = np.empty(info.shape, dtype=info.dtype)
        empty.flags.writeable = False
        return empty
    mapped = np.memmap(info.file, dtype=np.uint8, mode="r", offset=info.offset, shape=(info.nbytes,))
    raw = np.asarray(mapped)
    if info.dtype == np.bool_ and raw.max() > 1:
        raise FormatError("a BOOL byte is neither 0 nor 1", where=f"{info.file}, {info.name!r}", got=int(raw.max()))
    aligned = raw.ctypes.data % info.dtype.alignment == 0
    array = (raw if aligned else raw.copy()).view(info.dtype).reshape(info.shape)
    array.flags.writeable = False
    return array


def _check_names(tensors: Mapping[str, Any]) -> None:
    for name in tensors:
        try:
            good = isinstance(name, str) and name != "__metadata__" and name.encode() is not None
        except UnicodeEncodeError:
            good = False
        if not good:
            expected = "text that UTF-8 can write, other than __metadata__"
            raise WeightsError("a tensor's name cannot be written", where=repr(name), expected=expected)


def _entries(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Header entries and contiguous little-endian arrays, the most aligned dtypes first, so that all of them can be mapped."""
    _check_names(tensors)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    entries, data, offset = {}, [], 0
    for name in order:
        array = np.array(arrays[name], order="C", copy=None)
        array = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
        if array.dtype not in CODES:
            raise UnsupportedError(
                "dtype cannot be written", where=repr(name), expected=", ".join(DTYPES), got=array.dtype
            )
        end = offset + array.nbytes
        entries[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        data.append(array)
        offset = end
    return entries, data


def save_safetensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a new name, flush, read back and compare bit for bit, and only then rename to `path`."""
    entries, data = _entries(tensors)
    header = ({"__metadata__": dict(metadata)} if metadata else {}) | entries
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for array in data:
            file.write(array.tobytes())

    intended = dict(zip(entries, data, strict=True))
    replace_file(path, write, lambda temporary: _compare(open_safetensors(temporary), intended))


def _compare(written: Checkpoint, intended: Mapping[str, Any]) -> None:
    for name, array in intended.items():
        if written[name].tobytes() != array.tobytes():
            raise FormatError("what was written does not read back the same", where=repr(name))
