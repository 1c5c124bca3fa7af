"""Writing any format tensor by tensor: to a new name, flushed, read back, compared bit for bit, and only then renamed.

A `Pending` tensor is one whose dtype and shape are known before its values are made, so that a conversion holds one tensor at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weights_io.checkpoint import Checkpoint
from weights_io.errors import FormatError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Pending", "check_names", "compare", "new_folder", "pending"]

BLOCK = 1 << 22  # bytes compared at a time


class Pending(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: Any  # numpy.dtype, little endian
    shape: tuple[int, ...]
    get: Callable[[], Any]  # () -> array of that dtype and shape, C order, little endian; may be called twice

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def _little(array: Any) -> Any:  # any array -> the same values, C order, little endian
    array = np.array(array, order="C", copy=None)
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def pending(tensors: Mapping[str, Any]) -> list[Pending]:
    """What is to be written of a mapping of arrays; of a Checkpoint, nothing is read before its turn."""
    check_names(tensors)
    if isinstance(tensors, Checkpoint):
        return [_from_checkpoint(tensors, name) for name in tensors]
    return [_from_array(name, _little(np.asarray(tensor))) for name, tensor in tensors.items()]


def _from_checkpoint(checkpoint: Checkpoint, name: str) -> Pending:
    info = checkpoint.info(name)
    return Pending(name, info.dtype.newbyteorder("<"), info.shape, lambda: _little(checkpoint[name]))


def _from_array(name: str, array: Any) -> Pending:
    return Pending(name, array.dtype, array.shape, lambda: array)


def check_names(names: Iterable[object]) -> None:
    """Raise WeightsError for a name that is not text, or not text that UTF-8 can write."""
    for name in names:
        try:
            good = isinstance(name, str) and name.encode() is not None
        except UnicodeEncodeError:
            good = False
        if not good:
            raise WeightsError(
                "a tensor's name cannot be written", where=repr(name), expected="text that UTF-8 can write"
            )


def _bytes(array: Any) -> Any:  # any dtype, C order -> uint8 (nbytes,), nothing copied
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def compare(written: Checkpoint, items: Iterable[Pending]) -> None:
    """Raise FormatError unless `written` holds exactly the tensors in `items`, bit for bit; one of them at a time."""
    items = list(items)
    if set(written) != {item.name for item in items}:
        raise FormatError(
            "what was written does not read back the same", rule="written.names", expected=len(items), got=len(written)
        )
    for item in items:
        if not _same(written[item.name], item.get()):
            raise FormatError(
                "what was written does not read back the same", rule="written.bits", field=repr(item.name)
            )


def _same(back: Any, meant: Any) -> bool:
    """Whether dtype, shape and bits are the same."""
    if back.dtype != meant.dtype or back.shape != meant.shape:
        return False
    left, right = _bytes(back), _bytes(meant)
    return all(np.array_equal(left[i : i + BLOCK], right[i : i + BLOCK]) for i in range(0, left.size, BLOCK))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to `path` when the block ends well and removed when it does not.

    Raises WeightsError if `path` exists: several files cannot be replaced at once.
    """
    if os.path.lexists(path):
        raise WeightsError(
            "outputs of several files are written to a new folder", where=path, got="something of that name exists"
        )
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.iterdir():
            _flush(entry)
        _flush(temporary)
        if os.path.lexists(path):
            raise WeightsError("the folder to write appeared meanwhile", where=path)
        temporary.rename(path)
        _flush(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """Have the operating system put a file or a folder on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
