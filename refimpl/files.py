"""Writing files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

__all__ = ["replace_file"]


def replace_file(path: Path, write: Callable[[BinaryIO], None], check: Callable[[Path], None] | None = None) -> None:
    """Write to a temporary name beside `path`, flush to disk, check what was written, and only then rename it to `path`.

    On any error the temporary file is removed and `path` is left as it was. The file gets the permissions of any new file.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name[:64], suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if check:
            check(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _umask() -> int:
    """The process's mask for new files; the system only tells it when it is set."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
