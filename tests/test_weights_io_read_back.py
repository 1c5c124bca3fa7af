"""What the frameworks read of the files that weights_io writes: recorded once, and tied to today's writers by the files' hashes.

validation/recorded/read_back/README.md says how the reports are made. A writer that writes other bytes fails here until its files have been read back
again by PyTorch, safetensors, NumPy and TensorFlow.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "validation" / "recorded" / "read_back"
READERS = {
    "pth": {"torch.load", "torch.load, mmap"},
    "safetensors": {"safetensors.torch.load_file", "safetensors.safe_open"},
    "npz": {"numpy.load"},
}


def _oracle() -> Any:
    spec = importlib.util.spec_from_file_location(
        "files_to_read_back", ROOT / "validation" / "oracles" / "files_to_read_back.py"
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


ORACLE = _oracle()
CASES = [(form, case) for form in ORACLE.HOLDS for case in ORACLE.cases(form)]


def _recorded(form: str, case: str) -> tuple[int, dict[str, str]]:
    """How many tensors the framework found right in a case, and the hashes of the files that it read."""
    if form == "tensorbundle":
        entry = json.loads((RECORDED / "tensorflow.json").read_text("utf-8"))["cases"][case]
        assert entry["agrees"] is True
        return entry["tensors"], {name: digest for name, digest in entry["sha256"].items() if name != "manifest.json"}
    name = f"{case}_{form}.{form}"
    entry = json.loads((RECORDED / "torch.json").read_text("utf-8"))["files"][name]
    assert set(entry["verdicts"].values()) == {"equal"}
    assert set(entry["verdicts"]) >= READERS[form]
    return entry["tensors"], {name: entry["sha256"]}


def _hashes(path: Path) -> dict[str, str]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(("form", "case"), CASES)
def test_what_is_written_today_is_what_the_framework_read(form: str, case: str, tmp_path: Path) -> None:
    import weights_io

    (tmp_path / "torch").mkdir()
    (tmp_path / "tensorflow").mkdir()
    path, _ = ORACLE.places(tmp_path, form, case)
    tensors = ORACLE.cases(form)[case]
    weights_io.save(path, tensors, format="tensorbundle" if form == "tensorbundle" else None)
    count, hashes = _recorded(form, case)
    assert _hashes(path) == hashes
    assert count == len(tensors) + (form == "npz" and len(ORACLE.record_of_dtypes(path)))
    found = weights_io.open(path)
    assert {name: (found[name].dtype, found[name].shape) for name in found} == {
        name: (array.dtype.newbyteorder("="), array.shape) for name, array in tensors.items()
    }
