"""Documents to summarize: text files, lines of JSON, folders of both, standard input; read one after the other.

A document that cannot be read is a document too, with what is wrong in the place of its text: it is reported, and those after it are read.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError, RefimplError, TextError, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["FORMS", "Document", "count", "joined_sentences", "read"]

FORMS = ("auto", "text", "jsonl")
LINES = (".jsonl", ".ndjson", ".json")  # names of files with an object a line
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """One text, or why there is none."""

    index: int  # from 0, over all inputs
    name: str  # of the file, with the number of the line where it has several
    digest: str  # SHA-256 of the text; of the bytes where there is no text
    text: str | None
    error: str | None = None


class _Raw(NamedTuple):
    name: str
    content: bytes
    line: bool  # whether it is a line of JSON, or a text
    error: str | None = None


def read(inputs: Sequence[str], *, field: str = "text", form: str = "auto", stdin: Any = None) -> Iterator[Document]:
    """The documents of all inputs, in their order.

    Parameters
    ----------
    inputs : names of files and folders; "-" is standard input. Of a folder all files are read, those of its folders too, in the order of their
        names, but for what begins with a dot
    field : which field of an object holds the text: a string, or a list of {"sentence": string}, as CAIL's data have it
    form : "text", each file is one text; "jsonl", each line is an object; "auto": "jsonl" where the name ends in .jsonl, .ndjson or .json
    stdin : a binary stream to read instead of standard input

    Raises
    ------
    TextError, ConfigError
        at the call, for an input that is not there, standard input named twice, and an unknown form. What is wrong with one document is its `error`.
    """
    if form not in FORMS:
        raise ConfigError("unknown form of the input", where="--format", expected=", ".join(FORMS), got=repr(form))
    if not inputs:
        raise TextError("there is no input", where="inputs", expected="files, folders, or - for standard input")
    if sum(name == "-" for name in inputs) > 1:
        raise ConfigError("standard input can be read once", where="-", got=f"it {inputs.count('-')} times")
    missing = [name for name in inputs if name != "-" and not Path(name).exists()]
    if missing:
        raise TextError("there is no such file or folder", where=", ".join(missing))
    return (_document(index, raw, field) for index, raw in enumerate(_raw(inputs, form, stdin)))


def count(inputs: Sequence[str], *, form: str = "auto") -> int | None:
    """How many documents there are; None where standard input or a pipe is among them, which is read once."""
    once = any(name == "-" or not (Path(name).is_file() or Path(name).is_dir()) for name in inputs)
    return None if once else sum(1 for _ in _raw(inputs, form, None))


def _raw(inputs: Iterable[str], form: str, stdin: Any) -> Iterator[_Raw]:
    for name in inputs:
        if name == "-":
            stream = sys.stdin.buffer if stdin is None else stdin
            yield from _lines("-", stream) if form == "jsonl" else [_Raw("-", stream.read(), False)]
            continue
        for path in _files(Path(name)):
            yield from _of_file(path, form)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = [found for found in path.rglob("*") if found.is_file()]
    return sorted(found for found in inside if not any(part.startswith(".") for part in found.relative_to(path).parts))


def _of_file(path: Path, form: str) -> Iterator[_Raw]:
    lines = form == "jsonl" or (form == "auto" and path.suffix.lower() in LINES)
    name = str(path).encode("utf-8", "backslashreplace").decode()  # a file's name may be no text
    try:
        if not lines:
            yield _Raw(name, path.read_bytes(), False)
            return
        with path.open("rb") as file:
            yield from _lines(name, file)
    except OSError as error:
        got = f"{type(error).__name__}: {error.strerror}"
        yield _Raw(name, b"", lines, explain("the file cannot be read", where=name, got=got))


def _lines(name: str, stream: Iterable[bytes]) -> Iterator[_Raw]:
    """The lines that are not blank, named by their number from 1."""
    for number, line in enumerate(stream, 1):
        content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if content.strip():
            yield _Raw(f"{name}:{number}", content, True)


def _document(index: int, raw: _Raw, field: str) -> Document:
    try:
        if raw.error is not None:
            return Document(index, raw.name, hashlib.sha256(raw.content).hexdigest(), None, raw.error)
        text = _text(raw, field)
    except RefimplError as error:
        return Document(index, raw.name, hashlib.sha256(raw.content).hexdigest(), None, str(error))
    return Document(index, raw.name, hashlib.sha256(text.encode()).hexdigest(), text)


def _text(raw: _Raw, field: str) -> str:
    try:
        content = raw.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "write it as UTF-8"
        raise TextError("the text is not UTF-8", where=raw.name, got=str(error), remedy=remedy) from None
    text = _field(raw.name, content, field) if raw.line else content
    if _HALF.search(text):
        got = ascii(_HALF.findall(text)[0])
        raise TextError("the text holds half a surrogate pair", where=raw.name, expected="characters", got=got)
    return text


def _field(name: str, line: str, field: str) -> str:
    """The text in an object's field."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"
        raise TextError("the line is not JSON", where=name, expected="one object a line", got=got) from None
    if not isinstance(found, dict) or field not in found:
        got = f"an object with {', '.join(map(repr, found)) or 'none'}" if isinstance(found, dict) else repr(found)[:60]
        remedy = "name the field of the text with --field"
        raise TextError("there is no text", where=name, expected=f"an object with {field!r}", got=got, remedy=remedy)
    return found[field] if isinstance(found[field], str) else joined_sentences(found[field], f"{name}, {field}")


def joined_sentences(value: Any, where: str) -> str:
    """The sentences of CAIL's form, [{"sentence": string}, ..], with a line end between them; raises TextError for anything else."""
    good = isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("sentence"), str) for each in value
    )
    if not good:
        expected = 'a string, or a list of {"sentence": string}'
        raise TextError("this is no text", where=where, expected=expected, got=repr(value)[:60])
    return "\n".join(each["sentence"] for each in value)
