"""How fast checkpoints are opened and read, beside reading the same bytes with numpy.fromfile, in one run.

    python benchmarks/weights_io_reading.py [--gigabytes 1] [--repeat 5] [--json]

For each format: a file of one gigabyte (16 float32 tensors of random values, written by weights_io), then, in turn, R times each:

* copied: every tensor is read, checksums included where the format has them, and copied to memory of its own;
* mapped: every tensor is read in the same way and used where it is, a byte of every page;
* fromfile: the same file's bytes with numpy.fromfile, which allocates and copies them.

The ratio is between the medians of copied and of fromfile (the smaller is the better; the files are in the page cache for both). Then the
time and the memory that it takes a new process to open a file of five gigabytes, after the import.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import weights_io

SUFFIXES = {"safetensors": "a.safetensors", "npz": "a.npz", "pytorch": "a.pth", "tensorbundle": "a.ckpt"}
TARGETS = {"safetensors": 1.3, "npz": 1.5, "pytorch": 1.5, "tensorbundle": 2.0}
OPENING = """
import resource, sys, time
from pathlib import Path
import weights_io


def peak():
    status = Path("/proc/self/status")  # on Linux, ru_maxrss begins with the peak of the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


before, began = peak(), time.perf_counter()
if len(sys.argv) > 1:
    checkpoint = weights_io.open(sys.argv[1])
    assert len(checkpoint)
print(time.perf_counter() - began, peak() - before)
"""


def mapped(path: Path) -> int:
    """Every tensor is read and a byte of every page of it used: arrays stay views of the file where they can."""
    with weights_io.open(path) as checkpoint:
        return sum(int(checkpoint[name].reshape(-1).view(np.uint8)[::4096].sum(dtype=np.int64)) for name in checkpoint)


def copied(path: Path) -> int:
    """Every tensor is read and copied to memory of its own, all of them kept, as fromfile does."""
    with weights_io.open(path) as checkpoint:
        return len([np.array(checkpoint[name]) for name in checkpoint])


def fromfile(path: Path) -> int:
    """The bytes of the file, or of the largest file in a folder, copied to memory."""
    data = max(path.iterdir(), key=lambda file: file.stat().st_size) if path.is_dir() else path
    return int(np.fromfile(data, np.uint8)[-1])


def timed(action: Any, path: Path) -> float:
    began = time.perf_counter()
    action(path)
    return time.perf_counter() - began


def reading(folder: Path, form: str, gigabytes: float, repeat: int) -> dict[str, Any]:
    """Medians and their ratio for one format; the two are measured in turn."""
    path, rng = folder / SUFFIXES[form], np.random.default_rng(0)
    count = int(gigabytes * 1e9 / 16 / 4)
    weights_io.save(path, {f"layer.{i}": rng.random(count, np.float32) for i in range(16)})
    actions = (copied, mapped, fromfile)
    for action in actions:  # once each, so that none pays for the disk
        action(path)
    rounds = [[timed(action, path) for action in actions] for _ in range(repeat)]
    copy, view, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    subprocess.run(["rm", "-r", str(path)], check=True)
    row = {"format": form, "copied_s": copy, "mapped_s": view, "fromfile_s": theirs}
    return row | {"ratio": copy / theirs, "mapped_ratio": view / theirs, "target": TARGETS[form]}


def large(folder: Path, form: str, gigabytes: float) -> Path:
    """Zeros in 600 tensors: safetensors without room on the disk, the other formats converted from it."""
    size = int(gigabytes * 1e9 / 600 / 4) * 4
    header = {
        f"w{i}": {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]} for i in range(600)
    }
    text, path = json.dumps(header).encode(), folder / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 600 * size)
    if form != "safetensors":
        path = folder / f"large{Path(SUFFIXES[form]).suffix}"
        with weights_io.open(folder / "large.safetensors") as zeros:
            weights_io.save(path, zeros)
    return path


def opening(path: Path) -> dict[str, float]:
    """Seconds and bytes that opening takes in a new process, after the import."""
    found = subprocess.run(
        [sys.executable, "-c", OPENING, str(path)], check=True, capture_output=True, text=True
    ).stdout
    seconds, kilobytes = map(float, found.split())
    return {"open_s": seconds, "open_bytes": kilobytes * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--large", type=float, default=5.0, help="gigabytes of the file that is only opened")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written; best in memory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for form in SUFFIXES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            rows.append(reading(Path(name), form, arguments.gigabytes, arguments.repeat))
            rows[-1] |= opening(large(Path(name), form, arguments.large))
        row = rows[-1]
        if not arguments.json:
            print(
                f"{form:<13} copied {row['copied_s']:.3f} s  mapped {row['mapped_s']:.3f} s  fromfile {row['fromfile_s']:.3f} s  "
                f"ratio {row['ratio']:.2f} (target {row['target']}), mapped {row['mapped_ratio']:.2f}  "
                f"open {arguments.large:g} GB: {1000 * row['open_s']:.0f} ms, {row['open_bytes'] / 1e6:.1f} MB"
            )
    if arguments.json:
        print(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
