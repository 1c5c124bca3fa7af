"""The bytes of one file, as every reader sees them: nothing is read, mapped or allocated that does not exist.

A `Source` keeps its file open, so that a file that is replaced by another while a checkpoint is in use stays the one that was validated; one that
is changed in place is refused (rule `file.changed`). Headers are read with `read`; tensors are mapped with `map`.

A file that is cut short while an array of it is in use takes the array's pages with it: the operating system then ends the process (SIGBUS), as it
does for every mapped file. Copy what has to outlive the file.
"""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from weights_io.errors import FormatError, WeightsError

__all__ = ["RULES", "Source"]

RULES = {
    "file.truncated": "Every byte that a field announces exists in the file.",
    "file.changed": "A file stays as it was when it was opened.",
}

SHARE = 1 << 28  # bytes that a mapping serves: each takes a file descriptor


class Source:
    """A regular file, open for reading.

    Attributes
    ----------
    path : Path
    size : bytes in the file when it was opened
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(
                self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                "the file cannot be opened", where=path, got=f"{type(error).__name__}: {error}"
            ) from None
        self._close = weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self._close()
            raise WeightsError("not a regular file", where=path)
        self.size, self._modified = status.st_size, status.st_mtime_ns
        self._mapping: weakref.ref[mmap.mmap] | None = None
        self._served = 0  # bytes of arrays that were made from it

    def close(self) -> None:
        """Close the file; arrays that were mapped from it stay valid, and nothing more can be read."""
        self._close()

    def __repr__(self) -> str:
        return f"<Source {self.path}: {self.size} bytes>"

    def _check(self, offset: int, length: int, field: object) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                "the file is too short for what it announces",
                rule="file.truncated",
                where=self.path,
                offset=offset,
                field=field,
                expected=f"{length} bytes",
                got=f"{max(0, self.size - max(0, offset))} bytes to the end of the file",
                remedy="fetch the file again and compare its checksum",
            )

    def _unchanged(self) -> None:
        if not self._close.alive:
            raise WeightsError("the checkpoint was closed", where=self.path, remedy="open it again")
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise FormatError(
                "the file was changed after it was opened",
                rule="file.changed",
                where=self.path,
                expected=f"{self.size} bytes",
                got=f"{status.st_size} bytes, or a later modification",
                remedy="open it again when nobody writes to it",
            )

    def read(self, offset: int, length: int, field: object = None) -> bytes:
        """`length` bytes from `offset`, copied; FormatError (file.truncated) if the file does not have them."""
        self._check(offset, length, field)
        self._unchanged()
        parts, got = [], 0
        while got < length:
            part = self._pread(min(length - got, 1 << 30), offset + got)
            if not part:
                self._unchanged()
                raise FormatError("the file ended early", rule="file.changed", where=self.path, offset=offset + got)
            parts.append(part)
            got += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise WeightsError("the file cannot be read", where=self.path, offset=offset, got=error) from None

    def map(self, offset: int, length: int, field: object = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """uint8 (length,): a read-only view of the mapped file, nothing copied; FormatError (file.truncated) as `read`.

        Arrays that are in use share mappings of the file; when the last array of one goes, it goes too, and the pages that were read through it.
        A mapping serves `SHARE` bytes, or a 64th of the file: who reads a large file by several arrays at a time never lets go of the last.
        """
        self._check(offset, length, field)
        self._unchanged()
        if length == 0:
            empty = np.empty(0, np.uint8)
            empty.flags.writeable = False
            return empty
        return np.frombuffer(self._mapped(length), np.uint8, length, offset)

    def _mapped(self, length: int) -> mmap.mmap:
        mapped = self._mapping() if self._mapping else None
        self._served += length
        if mapped is None or self._served > max(SHARE, self.size // 64):
            try:
                mapped = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: the file has become shorter
                got = f"{type(error).__name__}: {error}"
                raise WeightsError("the file cannot be mapped", where=self.path, got=got) from None
            self._mapping, self._served = weakref.ref(mapped), length
        return mapped

    def integer(self, offset: int, width: int, field: object = None, *, signed: bool = False) -> int:
        """The little-endian integer of `width` bytes at `offset`."""
        return int.from_bytes(self.read(offset, width, field), "little", signed=signed)
