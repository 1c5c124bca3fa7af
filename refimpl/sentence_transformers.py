"""What a folder written by sentence-transformers says of pooling.

`modules.json` lists what comes after the encoder: pooling, whose own folder holds a config.json, and normalisation. `read_pooling` reads both, and
refuses what is not implemented here rather than leave it out. What they mean is in `refimpl.pooling`.

Reference: the files as written by sentence-transformers 2 to 5.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["POOLINGS", "SentencePooling", "read_pooling"]

POOLINGS = ("mean", "cls", "pooler", "none")
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}  # in config.json of the pooling


class SentencePooling(NamedTuple):
    """How a text's vectors become one, and whether that one is given unit length."""

    how: str  # one of POOLINGS
    normalize: bool


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("the file cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None


def _mode(path: Path) -> str:
    """The pooling that the config.json of a Pooling module asks for."""
    fields = _json(path)
    if not isinstance(fields, dict):
        raise ConfigError("the pooling's configuration is no object", where=path, got=type(fields).__name__)
    modes = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
    found = [MODES.get(name, name) for name in modes]
    if isinstance(fields.get("pooling_mode"), str):
        found.append(fields["pooling_mode"])
    if found not in (["mean"], ["cls"]):
        raise ConfigError(
            "the folder asks for a pooling that is not implemented",
            where=path,
            expected="mean or cls, alone",
            got=", ".join(found) or "none",
            remedy=f"choose one of {', '.join(POOLINGS)} yourself (pooling=)",
        )
    return str(found[0])


def read_pooling(folder: Path) -> SentencePooling | None:
    """What `modules.json` of a sentence-transformers folder says comes after the encoder; None where there is no such file.

    Raises
    ------
    ConfigError
        if it cannot be read, or names anything but an encoder, one pooling (mean or cls) and, perhaps, a normalisation, in this order.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = _json(path)
    good = isinstance(modules, list) and all(isinstance(each, dict) for each in modules)
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in modules] if good else []
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigError(
            "the folder asks for modules that are not implemented",
            where=path,
            expected="Transformer, Pooling, and perhaps Normalize",
            got=", ".join(kinds) or "no list of modules",
            remedy=f"choose one of {', '.join(POOLINGS)} yourself (pooling=)",
        )
    return SentencePooling(_mode(folder / str(modules[1].get("path", "")) / "config.json"), len(kinds) == 3)
