"""Write with weights_io, in every format it writes, the files that the frameworks are to read back.

    python validation/oracles/files_to_read_back.py FOLDER

FOLDER/torch gets CASE.json and CASE.pth, CASE.safetensors, CASE.npz for torch_read_back.py; FOLDER/tensorflow gets CASE/ with a bundle
and manifest.json for tensorflow_read_back.py. The files are the same bytes in every run, so that the hashes in the frameworks' reports
(validation/recorded/read_back/) say for good which files they read.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import weights_io

NATIVE = [
    "bool",
    *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
]
COMPLEX = ["complex64", "complex128"]
NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
RARE = ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
HOLDS = {
    "pth": NATIVE + COMPLEX + NARROW + RARE,
    "safetensors": NATIVE + COMPLEX[:1] + NARROW + RARE[2:],
    "npz": NATIVE + COMPLEX + NARROW + RARE,
    "tensorbundle": NATIVE + COMPLEX + NARROW,
}
SHAPES = {"vector": (5,), "matrix": (3, 4), "scalar": (), "empty": (0, 3), "five": (1, 2, 1, 3, 2)}


def values(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    """Random bits of a dtype, NaN payloads and subnormals among them; truth values are 0 or 1."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = int(np.prod(shape, dtype=int)) * kind.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, count, dtype=np.uint8)
    return raw.view(kind).reshape(shape)


def cases(form: str) -> dict[str, dict[str, Any]]:
    """Case -> name -> array."""
    kinds = HOLDS[form]
    dtypes = {}
    for seed, (dtype, (name, shape)) in enumerate(itertools.product(kinds, SHAPES.items())):
        dtypes[f"{dtype}/{name}"] = values(dtype, shape, seed)
    layouts = {
        "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "strided": np.arange(10, dtype=np.int16)[::2],
        "big_endian": np.arange(6, dtype=">f8"),
        "a.name.with.dots": np.ones(3, np.float32),
        "层/注意力.weight": np.full((2, 2), 0.5, np.float64),
        "large": values("float32", (300, 400), 99),
    }
    many = {f"model/layer_{i:03}/kernel": np.full(3, i, np.float32) for i in range(700)}
    return {"dtypes": dtypes, "layouts": layouts, "many": many}


def described(tensors: dict[str, Any], form: str) -> dict[str, Any]:
    """The manifest: what the framework has to find."""

    def entry(array: Any) -> dict[str, Any]:
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
        found = {
            "dtype": little.dtype.name,
            "shape": list(array.shape),
            "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
        }
        exotic = form == "npz" and little.dtype.name in NARROW + RARE
        return found | ({"numpy_dtype": f"void{8 * little.dtype.itemsize}"} if exotic else {})

    return {name: entry(array) for name, array in tensors.items()}


def record_of_dtypes(path: Path) -> dict[str, Any]:
    """The member in which an .npz keeps the names of dtypes that NumPy does not have, where there is one."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files if name == "__weights_io__"}


def places(folder: Path, form: str, case: str) -> tuple[Path, Path]:
    """Where a case is written, and its manifest."""
    if form == "tensorbundle":
        return folder / "tensorflow" / case, folder / "tensorflow" / case / "manifest.json"
    return folder / "torch" / f"{case}_{form}.{form}", folder / "torch" / f"{case}_{form}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "torch").mkdir(parents=True)
    (folder / "tensorflow").mkdir()
    for form in HOLDS:
        for case, tensors in cases(form).items():
            path, manifest = places(folder, form, case)
            weights_io.save(path, tensors, format="tensorbundle" if form == "tensorbundle" else None)
            tensors |= record_of_dtypes(path) if form == "npz" else {}
            manifest.write_text(json.dumps(described(tensors, form), indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
