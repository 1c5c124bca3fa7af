"""Checkpoints without frameworks: open what was saved by somebody else, lazily, and treat every file as hostile.

    with weights_io.open("model.ckpt") as checkpoint:          # any format: its content decides
        array = checkpoint["bert/embeddings/word_embeddings"]  # read now, mapped where the layout allows

Nothing in a file is ever executed or imported; everything is validated before anything is allocated for it; what is refused is refused by a rule
with a name, which `rules()` explains.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weights_io import limits as _limits
from weights_io.checkpoint import Checkpoint, TensorInfo
from weights_io.errors import FormatError, MissingTensorError, UnsupportedError, WeightsError
from weights_io.limits import Limits
from weights_io.recognise import FORMATS
from weights_io.writing import pending

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Checkpoint",
    "FormatError",
    "Limits",
    "MissingTensorError",
    "TensorInfo",
    "UnsupportedError",
    "WeightsError",
    "open",
    "rules",
    "save",
    "writer",
]

RULES = {
    "format.unknown": "A file is in one of the formats that are read, by its content.",
    "written.names": "What was written holds the names that were meant.",
    "written.bits": "What was written reads back bit for bit.",
}


def open(
    path: str | Path, *, mode: Literal["strict", "compat"] = "strict", limits: Limits = _limits.DEFAULT
) -> Checkpoint:
    """Open a checkpoint of any format; the content decides which, never the name.

    Parameters
    ----------
    path : a file; a shard index (.index.json); the prefix, index or data file of a TensorFlow bundle; or a folder with one checkpoint
    mode : "strict" holds files to their format's specification; "compat" tolerates what the format's own reader does, where
        that is safe: see `docs/weights.md` for what that is
    limits : budgets for what a file may declare

    Returns
    -------
    Checkpoint, a lazy read-only mapping of name to array, with `.format`, `.metadata` and `.info(name)`

    Raises
    ------
    WeightsError
        FormatError if the file breaks its format's rules, UnsupportedError if the format or a feature is not read,
        WeightsError if there is nothing to open.
    """
    from weights_io import folders

    if mode not in ("strict", "compat"):
        raise WeightsError(
            "unknown mode", where="weights_io.open(mode=...)", expected="strict or compat", got=repr(mode)
        )
    return folders.open_path(Path(path), mode, limits)


def save(
    path: str | Path,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    format: str | None = None,
) -> None:
    """Write `tensors` to a temporary name, read back, compare bit for bit, and only then rename to `path`.

    Parameters
    ----------
    path : a file; for a TensorFlow bundle a new folder
    tensors : name -> array; a Checkpoint is written tensor by tensor, never whole in memory
    metadata : text to keep beside the tensors, where the format can
    format : "safetensors", "npz", "pytorch" or "tensorbundle"; None takes it from the suffix (.safetensors; .npz; .pt, .pth, .bin; .ckpt)

    Raises
    ------
    UnsupportedError
        for another suffix or format, or a dtype or metadata that the format does not have.
    WeightsError
        for a folder that is not there, or a name that cannot be written.
    """
    path = Path(path)
    chosen = writer(path, format)
    importlib.import_module(FORMATS[chosen].module).save_items(path, pending(tensors), dict(metadata or {}))


def writer(path: Path, format: str | None = None) -> str:
    """The format that `save` writes at a path: the one asked for, or the one of the suffix; errors as `save`."""
    written = {name: known for name, known in FORMATS.items() if known.suffixes}
    if format is not None and format not in written:
        raise UnsupportedError("this format is not written", where=path, expected=", ".join(written), got=repr(format))
    chosen = format or next((name for name, known in written.items() if path.suffix in known.suffixes), None)
    if chosen is None:
        raise UnsupportedError(
            "no format is written with this suffix",
            where=path,
            expected=", ".join(suffix for known in written.values() for suffix in known.suffixes),
            got=path.suffix or "no suffix",
            remedy="or pass format=",
        )
    if "\0" in str(path) or len(os.fsencode(path.name)) > 255:
        raise WeightsError("no file can have that name", where=path, expected="at most 255 bytes, none of them NUL")
    if not path.parent.is_dir():
        raise WeightsError("the folder to write to does not exist", where=path.parent, remedy="make it first")
    if path.is_dir():
        raise WeightsError("a folder of that name exists", where=path, remedy="choose another name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WeightsError("the folder cannot be written to", where=path.parent)
    return chosen


def rules() -> dict[str, str]:
    """Every rule that a refusal can name: identifier -> the sentence that the file does not keep."""
    return dict(_all_rules())


@functools.cache
def _all_rules() -> dict[str, str]:
    found = dict(RULES)
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(importlib.import_module(f"weights_io.{module.name}"), "RULES", {})
    return found
