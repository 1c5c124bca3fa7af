"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["replace_file"]


def replace_file(path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], None] | None = None) -> None:
    """Write to a temporary name beside `path`, flush to disk, check what was written, and only then rename it to `path`.

    On any error the temporary file is removed and `path` is left as it was. The file gets the permissions of any new file.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")  # a name of its own, which every file system can hold
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if check:
            check(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _flush_folder(folder: Path) -> None:
    """Have the operating system put the new name on the disk too, where it has a call for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
