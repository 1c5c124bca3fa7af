"""The recorded models' files, read without any of the project's readers: float32 numbers as nested lists of `mpf`.

A safetensors file is a length of eight bytes, so much JSON, then the numbers. A TensorFlow checkpoint's data file holds its tensors one after the
other in the order of their names; names and shapes are listed in the variables.json that was recorded beside it.
"""

from __future__ import annotations

import array
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

from validation.scalar.numbers import nested

__all__ = ["RECORDED", "safetensors", "tensorflow_data"]

RECORDED = Path(__file__).parent.parent / "recorded"


def _numbers(content: bytes, shape: list[int]) -> Any:
    """Little-endian float32 numbers as a list, or as a list of rows."""
    values = array.array("f", content)
    if sys.byteorder == "big":
        values.byteswap()
    flat, width = nested(values.tolist()), shape[-1]
    return flat if len(shape) == 1 else [flat[at : at + width] for at in range(0, len(flat), width)]


def safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name; all float32, of one or two axes."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    entries = {name: entry for name, entry in json.loads(content[8 : 8 + size]).items() if name != "__metadata__"}
    found = {}
    for name, entry in entries.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        found[name] = _numbers(content[begin:end], entry["shape"])
    return found


def tensorflow_data(folder: Path) -> dict[str, Any]:
    """The tensors of model.ckpt in that folder by name; all float32, of one or two axes."""
    content = (folder / "model.ckpt.data-00000-of-00001").read_bytes()
    variables = json.loads((folder / "variables.json").read_text("utf-8"))["variables"]
    found, at = {}, 0
    for name in sorted(variables):
        shape = variables[name]["shape"]
        found[name] = _numbers(content[at : at + 4 * math.prod(shape)], shape)
        at += 4 * math.prod(shape)
    if at != len(content):
        message = f"{folder}: {len(content)} bytes, of which the listed tensors are {at}"
        raise ValueError(message)
    return found
