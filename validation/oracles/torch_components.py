"""Record what PyTorch answers for the single components of a transformer, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_components.py --out validation/recorded

Writes `torch_components/answers.safetensors` under `--out`: every input stands next to its outputs, and the inputs are
chosen where implementations go wrong: magnitudes of 700 and 1e4 for the exponentials, large offsets and vanishing
variance for the layer norm, tails and neighbourhood of zero for the two GELUs, and four masks for the attention.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from recording import deterministic, to_array, write_answers, write_provenance
from torch.nn.attention import SDPBackend, sdpa_kernel

COMMAND = "python validation/oracles/torch_components.py --out validation/recorded"
PACKAGES = ("torch", "safetensors", "numpy")
SEED = 20201113
WIDTH = 16
Tensors = dict[str, torch.Tensor]


def softmax_rows(rng: np.random.Generator) -> torch.Tensor:
    """Rows 0, 1: plain; 2: wide; 3: near 700; 4: up to +-700; 5: up to +-1e4; 6: near -1e4; 7: equal; 8: 1e-8; 9: ties.

    Row 10: one at 40; row 11: near +-700 in turn.
    """
    normal = rng.standard_normal((12, WIDTH))
    normal[2] *= 10
    normal[3] += 700
    normal[4] = rng.uniform(-700, 700, WIDTH)
    normal[5] = rng.uniform(-1e4, 1e4, WIDTH)
    normal[6] -= 1e4
    normal[7] = 3.5
    normal[8] *= 1e-8
    normal[9] = np.round(normal[9])
    normal[10, 5] = 40.0
    normal[11] = np.where(np.arange(WIDTH) % 2, 700.0, -700.0) + normal[11]
    return torch.from_numpy(normal)


def softmax_answers(rng: np.random.Generator) -> Tensors:
    x = softmax_rows(rng)
    return {
        "softmax_input": x,
        "softmax": F.softmax(x, -1),
        "log_softmax": F.log_softmax(x, -1),
        "logsumexp": torch.logsumexp(x, -1),
    }


def gelu_answers() -> Tensors:
    extremes = np.array([-300.0, -40.0, -1e-8, 1e-8, 40.0, 300.0])
    x = torch.from_numpy(np.concatenate([np.linspace(-12.0, 12.0, 401), extremes]))
    return {"gelu_input": x, "gelu_tanh": F.gelu(x, approximate="tanh"), "gelu_none": F.gelu(x, approximate="none")}


def layer_norm_answers(rng: np.random.Generator) -> Tensors:
    """Rows: two plain, offset 1e3, offset 1e3 with spread 1e-3, equal, spread 1e-6, spread 1e4, one outlier of 1e3."""
    x = rng.standard_normal((8, 24))
    x[2] += 1e3
    x[3] = 1e3 + 1e-3 * x[3]
    x[4] = 3.0
    x[5] *= 1e-6
    x[6] *= 1e4
    x[7, 3] = 1e3
    given = torch.from_numpy(x)
    scale = torch.from_numpy(1 + 0.2 * rng.standard_normal(24))
    bias = torch.from_numpy(0.2 * rng.standard_normal(24))
    normed = {f"layer_norm_eps_{eps:g}": F.layer_norm(given, (24,), scale, bias, eps) for eps in (1e-5, 1e-12)}
    return {"layer_norm_input": given, "layer_norm_scale": scale, "layer_norm_bias": bias, **normed}


def attention_answers(rng: np.random.Generator) -> Tensors:
    """Masks are int64 with 1 where a query may see a key; every query sees at least one."""
    length, heads, width = 7, 3, 8
    q, k, v = (torch.from_numpy(rng.standard_normal((2, heads, length, width))) for _ in range(3))
    short = q[:, :, :5].contiguous()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    padding = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0]], dtype=torch.bool)[:, None, None, :]
    left = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)[:, None, None, :]
    attend = F.scaled_dot_product_attention
    with sdpa_kernel(SDPBackend.MATH):
        outputs = {
            "attention_none": attend(q, k, v),
            "attention_short_none": attend(short, k, v),
            "attention_causal": attend(q, k, v, attn_mask=causal),
            "attention_padding": attend(q, k, v, attn_mask=padding),
            "attention_causal_padding": attend(q, k, v, attn_mask=causal & left),
            "attention_sharp_causal": attend(50 * q, k, v, attn_mask=causal),
        }
    given = {"attention_q": q, "attention_k": k, "attention_v": v, "attention_short_q": short}
    masks = {"causal": causal, "padding": padding, "causal_padding": causal & left}
    return given | {f"attention_mask_{name}": mask for name, mask in masks.items()} | outputs


def cross_entropy_answers(rng: np.random.Generator) -> Tensors:
    logits = softmax_rows(rng)
    targets = torch.from_numpy(rng.integers(0, WIDTH, len(logits)))
    ignored = targets.clone()
    ignored[[1, 6, 10]] = -100
    return {
        "cross_entropy_logits": logits,
        "cross_entropy_targets": targets,
        "cross_entropy_each": F.cross_entropy(logits, targets, reduction="none"),
        "cross_entropy_mean": F.cross_entropy(logits, targets),
        "cross_entropy_ignored_targets": ignored,
        "cross_entropy_ignored_each": F.cross_entropy(logits, ignored, reduction="none", ignore_index=-100),
        "cross_entropy_ignored_mean": F.cross_entropy(logits, ignored, ignore_index=-100),
    }


WHAT = {
    "softmax, log_softmax, logsumexp": "of softmax_input along the last axis",
    "gelu_tanh, gelu_none": "torch gelu(approximate='tanh') and gelu(approximate='none') of gelu_input",
    "layer_norm_eps_E": "layer_norm(layer_norm_input, scale, bias), last axis, biased variance, eps E inside the root",
    "attention_M": (
        "scaled_dot_product_attention(attention_q, attention_k, attention_v), mask attention_mask_M (1 = may attend; "
        "M = none has no mask), scale 1 / sqrt(8), math backend"
    ),
    "attention_short_none": "queries attention_short_q (the first 5), no mask",
    "attention_sharp_causal": "queries 50 * attention_q, mask attention_mask_causal",
    "cross_entropy_each, cross_entropy_mean": "negative log-likelihood of each row, and their mean",
    "cross_entropy_ignored_each, cross_entropy_ignored_mean": "rows with target -100 give 0 and leave the mean",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives torch_components")
    folder: Path = parser.parse_args().out / "torch_components"
    deterministic()
    streams = [np.random.default_rng([SEED, index]) for index in range(4)]
    tensors = (
        softmax_answers(streams[0])
        | gelu_answers()
        | layer_norm_answers(streams[1])
        | attention_answers(streams[2])
        | cross_entropy_answers(streams[3])
    )
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(folder, COMMAND, {"oracle": "PyTorch, CPU, float64", "seed": SEED, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
