"""Summaries written to a file as they come, a JSON object a line, so that a run that was stopped can go on.

Every line names its document by index and SHA-256, and the model and options that it was made with. What a stopped run may leave is a last line
that is not whole: it is cut off. Everything else that does not fit is refused: the file is somebody's results.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError
from refimpl.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from refimpl.spaces.documents import Document

__all__ = ["Journal"]

OTHER = "name another file, or begin anew without --resume after removing this one"


class _Line(NamedTuple):
    start: int  # offset in the file
    length: int
    digest: str
    name: str
    failed: bool


class Journal:
    """A file of results that is open for more of them.

    Parameters
    ----------
    path : the file; made if there is none
    key : what every line must have in common: {"model": .., "options": ..}
    resume : go on with the file as it is; without it, a file that is there is refused
    retry : take failures out of the file, so that their documents are done again
    notify : told what was done to the file, in a line

    Raises
    ------
    ConfigError
        for a file that is there and must not be, is no such file, is of another model or of other options, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        key: dict[str, Any],
        *,
        resume: bool = False,
        retry: bool = False,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self._key = path, key
        self._lines: dict[int, _Line] = {}
        self._unseen: set[int] = set()
        try:
            if path.exists() and not resume:
                remedy = "add --resume to go on with it, or name another file"
                raise ConfigError("the file is there already", where=path, remedy=remedy)
            if path.exists():
                self._read(retry, notify)
            self._file = path.open("ab")
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> ConfigError:
        return ConfigError("the file cannot be written", where=self.path, got=f"{type(error).__name__}: {error}")

    def _read(self, retry: bool, notify: Callable[[str], None]) -> None:
        kept = self.path.read_bytes()
        whole = kept[: kept.rfind(b"\n") + 1]
        if len(whole) < len(kept):
            notify(f"{self.path}: the last line was not whole; {len(kept) - len(whole)} bytes are cut off")
        lines = whole.split(b"\n")[:-1]
        found = [self._parsed(number, line) for number, line in enumerate(lines, 1)]
        if retry:
            lines = [line for line, each in zip(lines, found, strict=True) if "error" not in each]
            found = [each for each in found if "error" not in each]
        made = b"".join(line + b"\n" for line in lines)
        if made != kept:
            replace_file(self.path, lambda file: file.write(made))
        at = 0
        for line, each in zip(lines, found, strict=True):
            self._lines[each["index"]] = _Line(at, len(line), each["sha256"], each["name"], "error" in each)
            at += len(line) + 1
        self._unseen = set(self._lines)
        if self._lines:
            notify(f"going on with {self.path}: {len(self._lines)} documents are done")

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        """One line, if it is a result of this model with these options."""
        where = f"{self.path}, line {number}"
        try:
            found: dict[str, Any] = json.loads(line)
            good = isinstance(found["index"], int) and all(isinstance(found[each], str) for each in ("sha256", "name"))
            good = good and ("summary" in found) != ("error" in found)
        except (ValueError, KeyError, TypeError, RecursionError):
            good = False
        if not good:
            expected = "a line that `refimpl summarize --output` wrote"
            raise ConfigError("this is no file of summaries", where=where, expected=expected, remedy=OTHER)
        for name, value in self._key.items():
            if found.get(name) != value:
                what = "the file is of another model" if name == "model" else f"the file is of other {name}"
                raise ConfigError(what, where=where, expected=_told(value), got=_told(found.get(name)), remedy=OTHER)
        return found

    def __len__(self) -> int:
        return len(self._lines)

    def recorded(self, document: Document) -> dict[str, Any] | None:
        """The line of a document that was done; None where it was not. Raises ConfigError if the line is of another text."""
        line = self._lines.get(document.index)
        if line is None:
            return None
        if line.digest != document.digest:
            expected, got = f"document {document.index}, {line.name}, as it was", f"{document.name}, another text"
            raise ConfigError("the file is of another input", where=self.path, expected=expected, got=got, remedy=OTHER)
        self._unseen.discard(document.index)
        with self.path.open("rb") as file:
            file.seek(line.start)
            found: dict[str, Any] = json.loads(file.read(line.length))
        return found

    def write(self, record: dict[str, Any]) -> None:
        """Add a line, and hand it to the operating system at once."""
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot(error) from None

    def check_end(self) -> None:
        """Raise ConfigError if the file has documents that the input, read to its end, has not."""
        if self._unseen:
            first = min(self._unseen)
            got = f"document {first}, {self._lines[first].name}, in the file alone"
            raise ConfigError("the file is of another input", where=self.path, got=got, remedy=OTHER)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _told(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} = {each}" for name, each in value.items())
