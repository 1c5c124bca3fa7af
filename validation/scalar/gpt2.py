"""A second, independent GPT-2: scalars of mpmath, loops, and nothing of `refimpl`.

It exists so that an error in the definition does not certify itself: the ball evaluation of `refimpl.gpt2` must contain what this program
computes from the published equations. It knows nothing of arrays, masks, caches or batches, and reads the recorded model's file by itself.

Reference: A. Radford et al., "Language models are unsupervised multitask learners" (2019), and the released model code's equations.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from mpmath import mp, mpf

from validation.scalar.activation import gelu_tanh
from validation.scalar.attention import answer, score
from validation.scalar.files import RECORDED, safetensors
from validation.scalar.normalization import normalized
from validation.scalar.numbers import DIGITS, added, affine, dot, nested, scalar

__all__ = ["gpt2", "scalar_logits"]

Vector = list[Any]
Matrix = list[Vector]
MODEL = RECORDED / "gpt2_tiny" / "model"


def scalar_logits(arrays: dict[str, Any], layers: int, heads: int, eps: float, tokens: list[int]) -> Matrix:
    """Logits of one sequence, tokens x vocabulary, with `DIGITS` digits.

    Parameters
    ----------
    arrays : parameters by the dotted names of `refimpl.gpt2.GPT2Weights.shapes`, tied head
    layers, heads, eps : of the model
    tokens : ids of one sequence, at positions 0, 1, ...
    """
    with mp.workdps(DIGITS):
        return _logits({name: nested(values) for name, values in arrays.items()}, layers, heads, mpf(eps), tokens)


def _logits(p: dict[str, Any], layers: int, heads: int, eps: Any, tokens: list[int]) -> Matrix:
    width = len(p["token_embedding"][0])
    stream = [added(p["token_embedding"][token], p["position_embedding"][place]) for place, token in enumerate(tokens)]
    for i in range(layers):
        block = {name.split(".", 2)[2]: p[name] for name in p if name.startswith(f"blocks.{i}.")}
        stream = _layer(block, stream, heads, width, eps)
    final = [normalized(x, p["final_norm.scale"], p["final_norm.bias"], eps) for x in stream]
    return [[dot(x, row) for row in p["token_embedding"]] for x in final]


def _layer(p: dict[str, Any], stream: Matrix, heads: int, width: int, eps: Any) -> Matrix:
    normed = [normalized(x, p["attention_norm.scale"], p["attention_norm.bias"], eps) for x in stream]
    qkv = [affine(x, p["query_key_value.weight"], p["query_key_value.bias"]) for x in normed]
    size, after = width // heads, []
    for place, x in enumerate(stream):
        joined: Vector = []
        for head in range(heads):
            at = head * size
            keys = [row[width + at : width + at + size] for row in qkv[: place + 1]]
            values = [row[2 * width + at : 2 * width + at + size] for row in qkv[: place + 1]]
            query = qkv[place][at : at + size]
            joined += answer([score(query, key) for key in keys], values, size)
        x = added(x, affine(joined, p["attention_output.weight"], p["attention_output.bias"]))
        inner = affine(
            normalized(x, p["feed_forward_norm.scale"], p["feed_forward_norm.bias"], eps),
            p["feed_forward_in.weight"],
            p["feed_forward_in.bias"],
        )
        fed = affine([gelu_tanh(value) for value in inner], p["feed_forward_out.weight"], p["feed_forward_out.bias"])
        after.append(added(x, fed))
    return after


# --- the recorded model -------------------------------------------------------------------------------------------------------

_OUTSIDE = {
    "token_embedding": "wte.weight",
    "position_embedding": "wpe.weight",
    "final_norm.scale": "ln_f.weight",
    "final_norm.bias": "ln_f.bias",
}
_WITHIN = {
    "attention_norm.scale": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "query_key_value.weight": "attn.c_attn.weight",
    "query_key_value.bias": "attn.c_attn.bias",
    "attention_output.weight": "attn.c_proj.weight",
    "attention_output.bias": "attn.c_proj.bias",
    "feed_forward_norm.scale": "ln_2.weight",
    "feed_forward_norm.bias": "ln_2.bias",
    "feed_forward_in.weight": "mlp.c_fc.weight",
    "feed_forward_in.bias": "mlp.c_fc.bias",
    "feed_forward_out.weight": "mlp.c_proj.weight",
    "feed_forward_out.bias": "mlp.c_proj.bias",
}


@functools.cache
def _recorded() -> tuple[dict[str, Any], int, int, Any]:
    config, tensors = json.loads((MODEL / "config.json").read_text("utf-8")), safetensors(MODEL / "model.safetensors")
    arrays = {ours: tensors[f"transformer.{theirs}"] for ours, theirs in _OUTSIDE.items()}
    for i in range(config["n_layer"]):
        arrays |= {f"blocks.{i}.{ours}": tensors[f"transformer.h.{i}.{theirs}"] for ours, theirs in _WITHIN.items()}
    return arrays, config["n_layer"], config["n_head"], mpf(config["layer_norm_epsilon"])


@scalar
def gpt2(token_ids: Any, mask: Any) -> Any:
    """Logits of the recorded tiny model: each row's real tokens alone, at positions 0, 1, ..; zeros at padding."""
    arrays, layers, heads, eps = _recorded()
    answers = []
    for tokens, real in zip(token_ids, mask, strict=True):
        rows = iter(_logits(arrays, layers, heads, eps, [t for t, one in zip(tokens, real, strict=True) if one]))
        answers.append([next(rows) if one else [mpf(0)] * len(arrays["token_embedding"]) for one in real])
    return answers
