"""The sentence vectors of a whole file of labelled documents, in a file that is read where it is needed.

NAME is a NumPy array file, (sentences of all documents one after another, width), float16 or float32; NAME.json says of what it is: the SHA-256
of the labels and of the encoder, and its own. While it is made, NAME.part has the vectors and NAME.part.json how many documents are done, so
that a stopped run goes on behind them.

In float16, which halves the file and is what a GPU would read, a vector is rounded once, by 2⁻¹¹ of each number at most; the extractor computes in
float32 or float64.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.errors import ConfigError, DtypeError, RefimplError, ShapeError
from refimpl.files import replace_file
from refimpl.spaces.resuming import Begun, check_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from refimpl.spaces.data import Labelled

__all__ = ["Vectors", "make_vectors"]

DTYPES = ("float16", "float32")
PIECE = 1 << 24  # bytes that are read at a time for a checksum


class Vectors:
    """The vectors of each document: `vectors[i]` is (sentences of document i, width), in the file's dtype.

    Parameters
    ----------
    array : (sentences of all documents, width)
    counts : sentences of each document
    sha256 : of the file
    """

    def __init__(self, array: Any, counts: Sequence[int], sha256: str) -> None:
        self.array, self.sha256 = array, sha256
        self.starts = [0, *np.cumsum(counts).tolist()]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, document: int) -> Any:
        return self.array[self.starts[document] : self.starts[document + 1]]

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.array.shape[1])


def make_vectors(
    documents: Sequence[Labelled],
    embed: Callable[[list[str]], Any],
    path: Path,
    about: Mapping[str, Any],
    *,
    width: int,
    dtype: str = "float16",
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Vectors:
    """The vectors of `path` where they are there, of the same documents and encoder; otherwise they are made, or gone on with.

    Parameters
    ----------
    documents : whose sentences have vectors
    embed : sentences to a NumPy array (sentences, width)
    path : of the file
    about : what the vectors depend on, as JSON can say it: the labels' and the encoder's SHA-256
    width : numbers of a vector
    dtype : "float16" or "float32", of the file
    advance : called with the number of documents done and their number in all

    Raises
    ------
    ConfigError
        for a file of other documents or another encoder, one that cannot be read or written, another dtype.
    DtypeError, ShapeError
        if a vector is not finite in that dtype, or of another shape.
    """
    if dtype not in DTYPES:
        raise ConfigError("no such dtype of vectors", where="vectors", expected=" or ".join(DTYPES), got=repr(dtype))
    counts = [len(each.sentences) for each in documents]
    settings = {**about, "documents": len(counts), "shape": [sum(counts), width], "dtype": dtype}
    record = path.with_name(path.name + ".json")
    try:
        if not path.exists():
            _write(documents, embed, path, settings, advance)
            _finish(path, settings, record)
        said = json.loads(record.read_text("utf-8"))
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except RefimplError:
        raise
    except (OSError, ValueError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the vectors cannot be read or written", where=path, got=got) from None
    check_settings(record, {name: value for name, value in said.items() if name != "sha256"}, settings)
    if [*array.shape] != settings["shape"] or array.dtype != dtype:
        expected, got = f"{dtype} {settings['shape']}", f"{array.dtype} {[*array.shape]}"
        raise ConfigError("the vectors are not what their record says", where=path, expected=expected, got=got)
    return Vectors(array, counts, said["sha256"])


def _write(documents: Any, embed: Any, path: Path, settings: dict[str, Any], advance: Any) -> None:
    """NAME.part, from where it was left; flushed before the count of documents is."""
    part, shape = path.with_name(path.name + ".part"), tuple(settings["shape"])
    record = path.with_name(path.name + ".part.json")
    resume = part.exists() and record.exists()
    if not part.exists():  # a record without vectors is of nothing
        record.unlink(missing_ok=True)
    with Begun(record, settings, resume=resume) as begun:
        done = begun.done[-1] if begun.done else {"documents": 0, "sentences": 0}
        mode = "r+" if resume else "w+"
        array = np.lib.format.open_memmap(part, mode, settings["dtype"], None if resume else shape)
        at = done["sentences"]
        for number, document in enumerate(documents[done["documents"] :], done["documents"] + 1):
            end = at + len(document.sentences)
            array[at:end] = _checked(embed(document.sentences), (end - at, shape[1]), array.dtype, document.id)
            at = end
            array.flush()
            begun.add({"documents": number, "sentences": at})
            advance(number, len(documents))


def _checked(vectors: Any, shape: tuple[int, int], dtype: Any, name: str) -> Any:
    """The vectors in the file's dtype."""
    if tuple(vectors.shape) != shape:
        where = f"the vectors of document {name}"
        raise ShapeError("an encoder gives each sentence a vector", where=where, expected=shape, got=vectors.shape)
    with np.errstate(over="ignore"):
        rounded = vectors.astype(dtype)
    if not np.all(np.isfinite(rounded)):
        remedy = "write float32 vectors" if np.all(np.isfinite(vectors)) else "look for what is wrong with the encoder"
        raise DtypeError("a vector is not finite", where=f"document {name}", expected=str(dtype), remedy=remedy)
    return rounded


def _finish(path: Path, settings: dict[str, Any], record: Path) -> None:
    """The record, then the vectors' own name; what was kept for going on is removed."""
    part = path.with_name(path.name + ".part")
    data = json.dumps({**settings, "sha256": _digest(part)}, indent=1).encode() + b"\n"
    replace_file(record, lambda file: file.write(data))
    part.replace(path)
    path.with_name(path.name + ".part.json").unlink()


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()
