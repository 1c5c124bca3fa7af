"""safetensors: seeds, structure-aware files, and the reference reader where it is installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

CODES = {"F32": 4, "U8": 1, "BF16": 2, "F8_E4M3": 1, "BOOL": 1, "I64": 8, "C64": 8, "F16": 2}


def _file(header: Any, data: bytes) -> dict[str, bytes]:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return {"a.safetensors": len(text).to_bytes(8, "little") + text + data}


def seeds() -> list[dict[str, bytes]]:
    """Good files: one tensor, several dtypes with metadata, empty tensors, none."""
    data, header = b"", {"__metadata__": {"format": "np"}}
    for number, (code, size) in enumerate(CODES.items()):
        header[f"layer.{number}.weight"] = {
            "dtype": code,
            "shape": [2, 1],
            "data_offsets": [len(data), len(data) + 2 * size],
        }
        data += bytes(2 * size)
    one = {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    empty = {
        "x": {"dtype": "F32", "shape": [0, 9], "data_offsets": [0, 0]},
        "s": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
    }
    return [_file(one, bytes(range(12))), _file(header, data), _file(empty, b"\7"), _file({}, b"")]


numbers = (
    st.integers(0, 6) | st.sampled_from([-1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]) | st.floats() | st.booleans()
)
anything = st.recursive(
    st.none() | numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """Headers whose tensors follow one another, but for what is wrong with one or two fields."""
    header: dict[str, Any] = {}
    end = 0
    for _ in range(draw(st.integers(0, 4))):
        code = draw(st.sampled_from(list(CODES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        size = int(np.prod(shape, dtype=int)) * CODES[code]
        header[draw(st.text(max_size=3))] = {"dtype": code, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | anything)
    for name in draw(st.lists(st.sampled_from(list(header) or ["x"]), max_size=2)):
        if isinstance(header.get(name), dict):
            header[name] = header[name] | {
                draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"])): draw(anything)
            }
    spaces = b" " * draw(st.sampled_from([0, 0, 0, 1, 9]))
    data = draw(st.binary(min_size=end, max_size=end)) if end < 4096 else bytes(end)
    return _file(json.dumps(header).encode() + spaces, data + b"\0" * draw(st.sampled_from([0, 0, 0, 1])))


def repair(data: bytes) -> bytes:
    """The same bytes with a length that ends at the last brace."""
    end = data.rfind(b"}", 8) + 1
    return (end - 8).to_bytes(8, "little") + data[8:] if end > 8 else data


def accepts(path: Path) -> bool:
    """Whether the reference reader, which checks before it allocates, reads the file."""
    try:
        import safetensors
    except ImportError:
        return False
    try:
        return bool(safetensors.deserialize(path.read_bytes()) is not None)
    except safetensors.SafetensorError:
        return False


def differential(path: Path) -> dict[str, Any] | None:
    """What the reference reader reads, as raw bytes in the announced shape; None where it refuses or is not installed."""
    try:
        import safetensors
    except ImportError:
        return None
    import weights_io

    try:
        parts = dict(safetensors.deserialize(path.read_bytes()))
    except safetensors.SafetensorError:
        return None
    ours = weights_io.open(path)
    return {
        name: np.frombuffer(bytes(part["data"]), ours[name].dtype).reshape(part["shape"])
        for name, part in parts.items()
    }
