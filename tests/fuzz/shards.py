"""Sharded checkpoints: an index that maps tensors to files, and the files; mutants of either."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import weights_io

INDEX = "model.safetensors.index.json"
SHARDS = ("a", "b")


@functools.cache
def shard(suffix: str, which: str) -> bytes:
    """One shard as this project writes it: tensors `a.x` and `a.y`, or `b.x` and `b.y`."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"shard{suffix}"
        weights_io.save(
            path, {f"{which}.x": np.arange(6, dtype=np.float32).reshape(2, 3), f"{which}.y": np.ones(2, np.int64)}
        )
        return path.read_bytes()


def _whole(suffix: str, index: Any, which: tuple[str, ...] = SHARDS) -> dict[str, bytes]:
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    return {INDEX: text, **{f"{name}{suffix}": shard(suffix, name) for name in which}}


def _map(suffix: str) -> dict[str, Any]:
    return {f"{name}.{part}": f"{name}{suffix}" for name in SHARDS for part in "xy"}


def seeds() -> list[dict[str, bytes]]:
    """Good ones, of safetensors and of PyTorch files, with and without metadata."""
    return [
        _whole(".safetensors", {"metadata": {"total_size": 80}, "weight_map": _map(".safetensors")}),
        _whole(".pth", {"weight_map": _map(".pth")}),
        _whole(".npz", {"metadata": {}, "weight_map": _map(".npz")}),
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    [
        "a.npz",
        "b.npz",
        "a.safetensors",
        INDEX,
        "../a.npz",
        "/etc/passwd",
        "",
        ".",
        "..",
        "a\0",
        "a\\b",
        "\ud800",
        "c.npz",
    ]
)


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """Indexes with a few entries that are wrong, and shards of which some are missing or of another format."""
    suffix = draw(st.sampled_from([".npz", ".safetensors", ".pth"]))
    index: Any = {"metadata": draw(st.just({}) | anything), "weight_map": _map(suffix)}
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(["a.x", "b.y", "c", "", "a/x"]))
        index["weight_map"][key] = draw(places | anything)
    if draw(st.integers(0, 5)) == 0:
        index = draw(anything)
    text = json.dumps(index).encode()
    if draw(st.integers(0, 5)) == 0:
        text = text.replace(b'"a.x"', b'"a.y"')  # a name twice
    made = _whole(suffix, text)
    if draw(st.integers(0, 3)) == 0:
        made[f"a{suffix}"] = shard(
            draw(st.sampled_from([".npz", ".safetensors", ".pth"])), draw(st.sampled_from(SHARDS))
        )
    return made
