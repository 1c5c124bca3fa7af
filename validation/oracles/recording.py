"""What the recording scripts share: deterministic settings, writing arrays with a read-back, and provenance.

Imported by the scripts of this folder only. A recording is a folder with `answers.safetensors` (float64 and int64
arrays, C-contiguous, because the NumPy writer of safetensors 0.8.0 silently corrupts anything else) and
`provenance.json`, which holds the meaning of every array, the versions, the seed and the SHA-256 of every other file.
Nothing in it depends on the day, the folder or the user, so that a second run on the same kind of machine gives the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Arrays = dict[str, np.ndarray]
ANSWERS = "answers.safetensors"
PROVENANCE = "provenance.json"


def deterministic() -> None:
    """One thread and deterministic kernels: the same sums in the same order on every run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a C-contiguous float64 or int64 copy of a tensor, with its shape (also the empty one) unchanged."""
    array = tensor.detach().cpu().numpy()
    return np.array(array, dtype=np.float64 if array.dtype.kind == "f" else np.int64, order="C")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_answers(folder: Path, arrays: Arrays) -> None:
    """Write the arrays, refuse what is not finite, and read the file back bit for bit."""
    for name, array in arrays.items():
        if array.dtype not in (np.float64, np.int64) or not array.flags.c_contiguous:
            raise TypeError(f"{name}: expected a C-contiguous float64 or int64 array, got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: not finite")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(arrays.items())), folder / ANSWERS)
    back = load_file(folder / ANSWERS)
    for name, array in arrays.items():
        found = back[name]
        if (found.shape, found.dtype, found.tobytes()) != (array.shape, array.dtype, array.tobytes()):
            raise ValueError(f"{name}: read back differently from {ANSWERS}")


def write_provenance(folder: Path, command: str, facts: Mapping[str, Any], packages: tuple[str, ...]) -> None:
    """Write provenance.json: `facts`, versions, platform, command, and the hash of every other file of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != PROVENANCE)
    for path in files:
        path.chmod(0o644)  # safetensors writes for the owner only, and packages keep the mode
    record = {
        **facts,
        "command": command,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / PROVENANCE).write_text(text, encoding="utf-8")
