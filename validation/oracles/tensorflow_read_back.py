"""Let TensorFlow read the TensorBundles that another program wrote, and compare them with what was meant.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python validation/oracles/tensorflow_read_back.py FOLDER

`FOLDER/<case>/` holds one bundle (`<prefix>.index` and its data files) and `manifest.json`:

    {"<name>": {"dtype": "<TensorFlow's name, such as bfloat16>", "shape": [2, 3], "sha256": "<of the elements' bytes>"}}

The bytes are those of the elements in C order, little-endian; of a tensor of dtype `string`, each element is its length
as eight bytes, little-endian, followed by itself. The tensors that `tf.train.load_checkpoint` finds must be exactly
those of the manifest, with the same dtype, shape and bytes; NaN and the sign of zero count.

Writes `FOLDER/read_back.json`: versions, and for every case its verdict, the number of tensors, the differences and the
SHA-256 of every file. The exit status is 1 if anything differs, cannot be read, or if there is no case at all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow_recording import little_endian, sha256, write_json

REPORT = "read_back.json"
MANIFEST = "manifest.json"
PACKAGES = ("tensorflow-cpu", "numpy", "ml-dtypes")


def element_bytes(value: Any) -> bytes:
    """The bytes that the manifest's SHA-256 is of; `value` is what TensorFlow's reader returns."""
    elements = [value] if isinstance(value, bytes) else np.asarray(value)
    if isinstance(elements, list) or elements.dtype == object:
        each = elements if isinstance(elements, list) else elements.reshape(-1).tolist()
        return b"".join(len(element).to_bytes(8, "little") + element for element in each)
    return little_endian(elements).tobytes()


def describe(prefix: Path) -> dict[str, dict[str, Any]]:
    """The manifest that fits what TensorFlow reads at `prefix`."""
    reader = tf.train.load_checkpoint(str(prefix))
    dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    return {
        name: {
            "dtype": tf.as_dtype(dtypes[name]).name,
            "shape": list(shapes[name]),
            "sha256": sha256(element_bytes(reader.get_tensor(name))),
        }
        for name in sorted(shapes)
    }


def differences(meant: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = [f"{name}: in the manifest, not in the bundle" for name in sorted(set(meant) - set(found))]
    lines += [f"{name}: in the bundle, not in the manifest" for name in sorted(set(found) - set(meant))]
    for name in sorted(set(meant) & set(found)):
        for key in ("dtype", "shape", "sha256"):
            if meant[name][key] != found[name][key]:
                lines.append(f"{name}: {key} meant {meant[name][key]}, found {found[name][key]}")
    return lines


def read_case(folder: Path) -> dict[str, Any]:
    """Verdict, number of tensors, differences, and the hash of every file of one case."""
    lines, found = [], {}
    try:
        (index,) = folder.glob("*.index")
        meant = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = describe(index.with_suffix(""))
        lines = differences(meant, found)
    except Exception as error:  # whatever TensorFlow or the manifest raises is a verdict on this case, not the end
        lines = [f"cannot be read: {type(error).__name__}: {error}".replace(str(folder), folder.name)]
    hashes = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in files_of(folder)}
    return {"agrees": not lines, "tensors": len(found), "differences": lines, "sha256": hashes}


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of cases; receives read_back.json")
    folder: Path = parser.parse_args().folder
    cases = {case.name: read_case(case) for case in sorted(folder.iterdir()) if case.is_dir()}
    agrees = bool(cases) and all(case["agrees"] for case in cases.values())
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    write_json(folder / REPORT, {"agrees": agrees, "versions": versions, "cases": cases})
    for name, case in cases.items():
        print(f"{name}: {case['tensors']} tensors, {'agrees' if case['agrees'] else 'DIFFERS'}")
        for line in case["differences"]:
            print(f"    {line}")
    print("all agree" if agrees else "FAILED" if cases else "FAILED: no case found")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
