"""Small GPT-2s for the tests: the recorded ones, and a random one of two layers that runs on balls in a tenth of a second."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from systems import System, rounded

import weights_io
from refimpl import gpt2
from weights_io.schemes import hugging_face_gpt2 as scheme

TINY = gpt2.GPT2Config(vocab_size=11, n_positions=8, n_embd=6, n_layer=2, n_head=2, n_inner=10)
UNTIED = dataclasses.replace(TINY, tie_word_embeddings=False, activation="none")


def random_arrays(config: gpt2.GPT2Config, seed: int = 7) -> dict[str, Any]:
    """float64 parameters of ordinary size: scales near 1, everything else normal with deviation 0.5."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(1.0 if name.endswith("scale") else 0.0, 0.2 if "norm" in name else 0.5, shape)
        for name, shape in gpt2.GPT2Weights.shapes(config).items()
    }


def weights(config: gpt2.GPT2Config, system: System, dtype: str, seed: int = 7) -> gpt2.GPT2Weights:
    """The random model on a number system, its parameters rounded to `dtype`."""
    arrays = random_arrays(config, seed)
    return gpt2.GPT2Weights.from_named({name: system.floats(a, dtype) for name, a in arrays.items()}, config)


def mapped(function: Any, model: gpt2.GPT2Weights, config: gpt2.GPT2Config) -> gpt2.GPT2Weights:
    """The model with `function` applied to every array."""
    return gpt2.GPT2Weights.from_named({name: function(a) for name, a in model.named().items()}, config)


def folder(path: Any, system: System, dtype: str = "float64") -> tuple[gpt2.GPT2Weights, gpt2.GPT2Config]:
    """The model in a Hugging Face folder (or a file in one), moved to a system."""
    config = scheme.read_config((path if path.is_dir() else path.parent) / "config.json")
    checkpoint = weights_io.open(path)
    names = scheme.file_names(checkpoint)
    arrays = {ours: system.to(rounded(checkpoint[theirs], dtype)) for ours, theirs in names.items()}
    return gpt2.GPT2Weights.from_named(arrays, config), config
