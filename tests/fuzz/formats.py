"""The formats that are fuzzed: one module each, with `seeds()`, `files()`, and where there are such `repair` and `differential`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import fuzz

OWN = {"formats", "harness", "__main__", "hdf5_oracle"}
FORMATS = sorted(found.name for found in pkgutil.iter_modules(fuzz.__path__) if found.name not in OWN)


def module(form: str) -> Any:
    """The module of a format; raises a plain ValueError that lists them for another name."""
    if form not in FORMATS:
        raise ValueError(f"no such format: {form}; there are {', '.join(FORMATS)}")
    return importlib.import_module(f"fuzz.{form}")
