"""Megatron's model-parallel shards: mutants of one rank's file, and ranks that do not fit together."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from malformed import build_pytorch as build

from fuzz import pytorch
from weights_io import megatron

NAME = "mp_rank_{:02d}_model_states.pt"
SHAPES = {  # one tensor of each layout; `merge` does not ask for a whole model
    "word_embeddings.weight": (8, 4),
    "position_embeddings.weight": (5, 4),
    "transformer.layers.0.attention.query_key_value.weight": (12, 4),
    "transformer.layers.0.attention.query_key_value.bias": (12,),
    "transformer.layers.0.mlp.dense_4h_to_h.weight": (4, 16),
    "transformer.final_layernorm.bias": (4,),
}
KINDS = {"float16": "Half", "float32": "Float", "float64": "Double", "int8": "Char"}
repair = pytorch.repair


@functools.cache
def _ranks(count: int, dtype: str = "float16") -> tuple[dict[str, Any], ...]:
    """What each of `count` ranks holds."""
    rng = np.random.default_rng(0)
    whole = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    return tuple({name: np.array(part[name]) for name in part} for part in megatron.split(whole, count))


def _written(ranks: list[dict[str, Any]]) -> dict[str, bytes]:
    """Each rank's file, as torch.save writes it."""
    return {NAME.format(rank): _file(tensors) for rank, tensors in enumerate(ranks)}


def _file(tensors: dict[str, Any]) -> bytes:
    pairs, storages = [], {}
    for key, (name, array) in enumerate(tensors.items()):
        storages[str(key)] = array.tobytes()
        strides = [int(np.prod(array.shape[axis + 1 :], dtype=int)) for axis in range(array.ndim)]
        place = build.storage(str(key), f"{KINDS[array.dtype.name]}Storage", array.size)
        value = build.tensor(place, build.whole(0), build.wholes(*array.shape), build.wholes(*strides))
        pairs.append((build.text(name), value))
    return build.file(build.state(("module", build.dictionary(*pairs))), storages=storages)


@functools.cache
def _seeds() -> tuple[dict[str, bytes], ...]:
    return tuple(_written(list(_ranks(count))) for count in (1, 2))


def seeds() -> list[dict[str, bytes]]:
    """One rank, and two."""
    return list(_seeds())


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """Ranks of which one lacks a tensor, or has another shape, dtype or value."""
    ranks = [dict(part) for part in _ranks(draw(st.sampled_from([1, 2, 4])))]
    for _ in range(draw(st.integers(0, 2))):
        rank, name = draw(st.sampled_from(ranks)), draw(st.sampled_from(list(SHAPES)))
        change = draw(st.sampled_from(["drop", "dtype", "shape", "value", "name", "other"]))
        old = rank.pop(name, np.zeros(3))
        if change == "dtype":
            rank[name] = old.astype(draw(st.sampled_from(["float32", "int8", "float64"])))
        elif change == "shape":
            rank[name] = np.zeros(draw(st.lists(st.integers(0, 5), max_size=3)), old.dtype)
        elif change == "value":
            rank[name] = old + 1
        elif change == "name":
            rank[name.replace("layers.0", f"layers.{draw(st.sampled_from([1, 2, 999, 1000]))}")] = old
        elif change == "other":
            rank["optimizer.step"] = np.ones(1)
    made = _written(ranks)
    kept = list(made)[draw(st.sampled_from([0, 0, 0, 1])) :] or list(made)
    return {name: made[name] for name in kept}
