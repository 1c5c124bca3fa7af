"""What the scripts that record checkpoint files share: writing answers with a read-back, and provenance.

Imports NumPy and safetensors and no framework, so that every environment of these scripts can use it. Two files stand
beside a recorded checkpoint:

* `answers.safetensors`: every numeric tensor that the framework read back. Types that safetensors cannot say or that
  NumPy lacks (bfloat16, float8, int4, complex) are held as the bits of their elements in unsigned integers; complex
  numbers are two of them, in a last axis of length 2. Integers and IEEE floats are held as themselves, little-endian.
* `answers.json`: `tensors`, the framework's own name of the dtype and the shape of every tensor; `strings`, the elements
  of every string tensor in C order, in hexadecimal; and what the script adds.

Nothing depends on the day, the folder or the user: a second run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Arrays = dict[str, np.ndarray]
ANSWERS = "answers.safetensors"
ANSWERS_JSON = "answers.json"
PROVENANCE = "provenance.json"
NATIVE = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split())
ANSWERS_FORM = (
    "answers.safetensors: numeric tensors, those of dtypes other than bool, (u)int8..64 and float16..64 as the bits of "
    "their elements in unsigned integers, complex numbers as two of them in a last axis of length 2; answers.json: dtype "
    "and shape of every tensor, and the elements of string tensors in C order in hexadecimal"
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def little_endian(array: np.ndarray) -> np.ndarray:
    """The same values, C-contiguous and little-endian, with the shape (also the empty one) unchanged."""
    order = array.dtype.newbyteorder("<") if array.dtype.kind in "iufc" else array.dtype
    return np.array(array, dtype=order, order="C", copy=True)


def bits(array: np.ndarray) -> np.ndarray:
    """The elements' bits as unsigned integers; complex numbers become two, in a last axis of length 2."""
    array = little_endian(array)
    parts = 2 if array.dtype.kind == "c" else 1
    unsigned = np.dtype(f"<u{array.dtype.itemsize // parts}")
    return np.frombuffer(array.tobytes(), unsigned).reshape(array.shape + (2,) * (parts - 1)).copy()


def as_recorded(array: np.ndarray) -> np.ndarray:
    return little_endian(array) if array.dtype.name in NATIVE else bits(array)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """JSON with a line for every member of the outer object, and for every member of those that are objects."""
    members = []
    for name, member in value.items():
        text = dumps(member)
        if isinstance(member, dict) and member:
            inner = ",\n".join(f"  {dumps(key)}: {dumps(item)}" for key, item in member.items())
            text = f"{{\n{inner}\n }}"
        members.append(f" {dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(members) + "\n}\n", encoding="utf-8")
    if json.loads(path.read_text(encoding="utf-8")) != value:
        raise ValueError(f"{path.name}: read back differently")


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays, sorted by name, and read the file back bit for bit."""
    recorded = {name: as_recorded(arrays[name]) for name in sorted(arrays)}
    save_file(recorded, path)
    back = load_file(path)
    for name, array in recorded.items():
        found = back[name]
        if (found.shape, found.dtype, found.tobytes()) != (array.shape, array.dtype, array.tobytes()):
            raise ValueError(f"{name}: read back differently from {path.name}")


def write_provenance(folder: Path, command: str, facts: Mapping[str, Any], packages: tuple[str, ...]) -> None:
    """Write provenance.json: `facts`, versions, platform, command, and the hash of every other file but README.md."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (PROVENANCE, "README.md"))
    for path in files:
        path.chmod(0o644)
    record = {
        **facts,
        "command": command,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": {"system": platform.system(), "machine": platform.machine()},
        "sha256": {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in files},
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / PROVENANCE).write_text(text, encoding="utf-8")
