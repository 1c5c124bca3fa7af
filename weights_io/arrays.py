"""Bytes to arrays and back, copying nothing that need not be copied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["as_array", "as_bytes", "native", "read_only"]


def read_only(array: Any) -> Any:
    """The same array, marked as not writable."""
    array.flags.writeable = False
    return array


def as_array(raw: Any, dtype: Any, shape: tuple[int, ...]) -> Any:  # uint8 (n,) -> dtype (*shape), read-only
    """The values that lie in `raw`: a view where it is aligned for the dtype, a copy otherwise; big-endian values in native order."""
    if math.prod(shape) == 0:
        return read_only(np.empty(shape, dtype=native(dtype)))
    aligned = raw.ctypes.data % dtype.alignment == 0
    array = (raw if aligned else raw.copy()).view(dtype).reshape(shape)
    return read_only(array if dtype == native(dtype) else array.astype(native(dtype)))


def native(dtype: Any) -> Any:
    """The dtype in this machine's byte order."""
    return np.dtype(dtype).newbyteorder("=")


def as_bytes(array: Any) -> memoryview:  # any dtype -> its bytes in C order, a view where the array lies so
    """The bytes of an array in C order, for `file.write`."""
    raw: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(raw)
