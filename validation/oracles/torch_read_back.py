"""Read files that weights_io wrote with the packages they are meant for, and compare every bit.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_read_back.py FOLDER
    python validation/oracles/torch_read_back.py --self-test

FOLDER holds, for every case, a manifest CASE.json and one or more files CASE.pt, CASE.pth, CASE.bin, CASE.safetensors,
CASE.npz. The manifest names every tensor: `{name: {"dtype": "bfloat16", "shape": [2, 3], "sha256": ...}}`, the dtype as
torch and ml_dtypes write it, the hash over the little-endian bytes in C order. An entry may have `numpy_dtype`, the dtype
as which an .npz holds a tensor whose own dtype NumPy does not have.

* .pt, .pth, .bin: torch.load(weights_only=True), and once more with mmap=True where the file is a zip archive;
* .safetensors: load_file and safe_open of safetensors.torch, and load_file of safetensors.numpy unless a tensor has a dtype
  that it does not know;
* .npz: numpy.load(allow_pickle=False).

Names, dtypes, shapes and bits must all be equal. Writes FOLDER/read_back.json: versions, and for every file its SHA-256
and what each reader found. Exit status 1 on any difference, on a file without manifest, and if there is nothing to read.
The self-test writes such a folder with the packages themselves, expects success, damages it in seven ways, and expects
every one to be noticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from recording import sha256
from safetensors import safe_open
from torch_files import OWN_STORAGE, UNTYPED_STORAGE, random_bits, raw

REPORT = "read_back.json"
PICKLED = (".pt", ".pth", ".bin")
SUFFIXES = (*PICKLED, ".safetensors", ".npz")
NOT_IN_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
Found = dict[str, dict[str, Any]]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe_torch(tensors: Any) -> Found:
    """Return dtype, shape and hash of a flat dictionary of dense tensors; anything else is an error."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"expected a dictionary, got {type(tensors).__name__}")
    found: Found = {}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise TypeError(f"{name}: expected a dense tensor, got {type(value).__name__}")
        kind = str(value.dtype).removeprefix("torch.")
        found[name] = {"dtype": kind, "shape": list(value.shape), "sha256": digest(raw(value))}
    return found


def describe_numpy(arrays: Mapping[str, np.ndarray]) -> Found:
    found: Found = {}
    for name, value in arrays.items():
        little = value.astype(value.dtype.newbyteorder("<"), order="C", copy=True)
        found[name] = {"dtype": value.dtype.name, "shape": list(value.shape), "sha256": digest(little.tobytes())}
    return found


def open_lazily(path: Path) -> Found:
    with safe_open(path, framework="pt") as file:
        return describe_torch({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def load_npz(path: Path) -> Found:
    with np.load(path, allow_pickle=False) as file:
        return describe_numpy({name: file[name] for name in file.files})


def readers(path: Path, manifest: Found) -> dict[str, Callable[[], Found]]:
    """Return the readers of this kind of file by name."""
    if path.suffix in PICKLED:
        made = {"torch.load": lambda: describe_torch(torch.load(path, weights_only=True))}
        if zipfile.is_zipfile(path):
            made["torch.load, mmap"] = lambda: describe_torch(torch.load(path, weights_only=True, mmap=True))
        return made
    if path.suffix == ".npz":
        return {"numpy.load": lambda: load_npz(path)}
    made = {
        "safetensors.torch.load_file": lambda: describe_torch(safetensors.torch.load_file(path)),
        "safetensors.safe_open": lambda: open_lazily(path),
    }
    if not any(entry["dtype"] in NOT_IN_NUMPY for entry in manifest.values()):
        made["safetensors.numpy.load_file"] = lambda: describe_numpy(safetensors.numpy.load_file(path))
    return made


def differences(found: Found, manifest: Found) -> list[str]:
    lines = [f"{name}: in the manifest, not in the file" for name in sorted(manifest.keys() - found.keys())]
    lines += [f"{name}: in the file, not in the manifest" for name in sorted(found.keys() - manifest.keys())]
    for name in sorted(manifest.keys() & found.keys()):
        for key in ("dtype", "shape", "sha256"):
            if found[name][key] != manifest[name][key]:
                lines.append(f"{name}: {key} is {found[name][key]}, expected {manifest[name][key]}")
    return lines


def check_file(path: Path) -> dict[str, Any]:
    """Return the verdict of every reader on one file: "equal", or the list of differences."""
    source = path.with_suffix(".json")
    if not source.is_file():
        return {"sha256": sha256(path), "verdicts": {"manifest": [f"no {source.name} beside it"]}}
    manifest: Found = json.loads(source.read_text(encoding="utf-8"))
    if path.suffix == ".npz":
        manifest = {
            name: {**entry, "dtype": entry.get("numpy_dtype", entry["dtype"])} for name, entry in manifest.items()
        }
    verdicts: dict[str, Any] = {}
    for name, read in readers(path, manifest).items():
        try:
            verdicts[name] = differences(read(), manifest) or "equal"
        except Exception as error:  # whatever a reader refuses with
            verdicts[name] = [f"{type(error).__name__}: {error}"]
    return {"sha256": sha256(path), "tensors": len(manifest), "verdicts": verdicts}


def check_folder(folder: Path) -> bool:
    """Check every file, write the report, and return whether all is equal and there was something to read."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    files = {path.relative_to(folder).as_posix(): check_file(path) for path in paths}
    equal = bool(files) and all(
        verdict == "equal" for entry in files.values() for verdict in entry["verdicts"].values()
    )
    report = {
        "versions": {name: version(name) for name in ("torch", "safetensors", "numpy")},
        "equal": equal,
        "files": files,
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (folder / REPORT).write_text(text, encoding="utf-8")
    return equal


def write_example(folder: Path) -> None:
    """Write a folder with the packages themselves."""
    rng = np.random.default_rng(7)
    usual = [dtype for dtype in (*OWN_STORAGE, torch.uint16, torch.uint32, torch.uint64) if dtype != torch.complex128]
    cases = {
        "all": {str(dtype): random_bits(rng, dtype, (2, 3)) for dtype in (*OWN_STORAGE, *UNTYPED_STORAGE)},
        "usual": {str(dtype): random_bits(rng, dtype, (2, 3)) for dtype in usual},
        "plain": {"x": random_bits(rng, torch.float32, (4,)), "empty": torch.zeros(0, 2), "scalar": torch.tensor(3)},
    }
    cases["plain"]["transposed"] = cases["plain"]["x"].view(2, 2).T.contiguous()
    for case, tensors in cases.items():
        (folder / f"{case}.json").write_text(json.dumps(describe_torch(tensors)), encoding="utf-8")
        torch.save(tensors, folder / f"{case}.pt")
        if case != "all":
            safetensors.torch.save_file(tensors, folder / f"{case}.safetensors")
    torch.save(cases["plain"], folder / "plain.pth", _use_new_zipfile_serialization=False)
    np.savez(folder / "plain.npz", **{name: value.numpy() for name, value in cases["plain"].items()})


def self_test() -> None:
    """Expect success on a sound folder, and that every kind of damage is noticed."""

    def edit(folder: Path, change: Callable[[Found], Any]) -> None:
        manifest = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
        change(manifest)
        (folder / "plain.json").write_text(json.dumps(manifest), encoding="utf-8")

    def flip(folder: Path, name: str) -> None:
        data = (folder / name).read_bytes()
        place = data.index(random_bits_of_x)
        (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])

    def other_digit(entry: dict[str, Any]) -> None:
        entry["sha256"] = ("1" if entry["sha256"][0] == "0" else "0") + entry["sha256"][1:]

    damages: dict[str, Callable[[Path], Any]] = {
        "nothing": lambda folder: None,
        "a digit of a hash": lambda folder: edit(folder, lambda manifest: other_digit(manifest["x"])),
        "a dtype": lambda folder: edit(folder, lambda manifest: manifest["x"].update(dtype="int32")),
        "a shape": lambda folder: edit(folder, lambda manifest: manifest["empty"].update(shape=[2, 0])),
        "a name less": lambda folder: edit(folder, lambda manifest: manifest.pop("scalar")),
        "no manifest": lambda folder: (folder / "plain.json").unlink(),
        "a bit of plain.safetensors": lambda folder: flip(folder, "plain.safetensors"),
        "a bit of plain.pth": lambda folder: flip(folder, "plain.pth"),
    }
    wrong = []
    for damage, apply in damages.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_example(folder)
            random_bits_of_x = raw(torch.load(folder / "plain.pt")["x"])
            apply(folder)
            if check_folder(folder) != (damage == "nothing"):
                wrong.append(damage)
                print((folder / REPORT).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        if check_folder(Path(name)):
            wrong.append("an empty folder")
    if wrong:
        sys.exit(f"self-test: wrong answer for {wrong}")
    print(f"self-test: the sound folder is equal, and all of {len(damages) - 1} damages were noticed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="files and manifests; receives read_back.json")
    parser.add_argument(
        "--self-test", action="store_true", help="check this script on files of the packages themselves"
    )
    given = parser.parse_args()
    if given.self_test:
        self_test()
    elif given.folder is None:
        parser.error("a folder is needed")
    elif not check_folder(given.folder):
        sys.exit(f"not equal: see {given.folder / REPORT}")


if __name__ == "__main__":
    main()
