"""A long piece of work as a file that grows by a line for each part done, so that whoever is stopped goes on behind the last whole line.

The first line is {"format": 1, "settings": {...}}: everything that decides what the other lines are. A line that was cut off while it was written is
taken off at the next opening; a file of other settings is refused, with every difference.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

__all__ = ["Begun", "check_settings"]

FORMAT = 1


def check_settings(path: Path, theirs: Any, ours: Mapping[str, Any]) -> None:
    """Raise ConfigError that lists every setting in which what was begun at `path` differs from what goes on."""
    ours = json.loads(json.dumps(ours))
    theirs = theirs if isinstance(theirs, dict) else {}
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    if names:
        lines = [f"\n    {name}: {theirs.get(name)!r} there, {ours.get(name)!r} here" for name in names]
        raise ConfigError(
            "what was begun had other settings",
            where=path,
            got="".join(lines),
            remedy="go on with the same settings, or remove the file to begin anew",
        )


class Begun:
    """The lines of a file that are whole, as JSON, and where the next go.

    Parameters
    ----------
    path : the file; its folder is there
    settings : of the work, as JSON can say them
    resume : whether to go on with a file that is there; without it such a file is refused, and with it one that is not there

    Attributes
    ----------
    done : the records that were there

    Raises
    ------
    ConfigError
        for a file that is there and should not be, or is not there and should; of other settings; or one that cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path, self.done = path, []
        try:
            self._check(path, resume)
            if resume:
                self.done = self._read(settings)
            self.file: BinaryIO = path.open("r+b" if resume else "xb")
        except OSError as error:
            got = f"{type(error).__name__}: {error}"
            raise ConfigError("the file cannot be read or written", where=path, got=got) from None
        if resume:
            self.file.truncate(self.end)
            self.file.seek(self.end)
        else:
            self._line({"format": FORMAT, "settings": settings})

    @staticmethod
    def _check(path: Path, resume: bool) -> None:
        if resume and not path.is_file():
            raise ConfigError("there is nothing to resume", where=path, remedy="leave out --resume to begin")
        if not resume and path.exists():
            remedy = "add --resume to go on, or remove the file to begin anew"
            raise ConfigError("this was begun before", where=path, remedy=remedy)

    def _read(self, settings: Mapping[str, Any]) -> list[Any]:
        content = self.path.read_bytes()
        self.end = content.rfind(b"\n") + 1
        try:
            first, *records = [json.loads(line) for line in content[: self.end].splitlines()]
            good = first["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            expected = f'a first line {{"format": {FORMAT}, "settings": ...}}, and JSON in all others'
            raise ConfigError("this file is not one that was begun here", where=self.path, expected=expected)
        check_settings(self.path, first["settings"], settings)
        return records

    def _line(self, record: Any) -> None:
        self.file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self.file.flush()

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one more line."""
        self._line(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()
