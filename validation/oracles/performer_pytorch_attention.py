"""Record the features and the attention of performer-pytorch, in float64.

    python -m pip install -r validation/oracles/requirements-attention.txt
    python validation/oracles/performer_pytorch_attention.py --out validation/recorded

Writes `performer_pytorch/answers.safetensors`. Nothing of the package is edited. Its modules are moved to float64 by
`.double()`, and the projection is one given here in place of the one they draw. Causal attention is the package's own
`causal_linear_attention_noncuda`, which it falls back to where the CUDA extension is missing.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from recording import deterministic, to_array, write_answers, write_provenance

warnings.filterwarnings("ignore")
from performer_pytorch.performer_pytorch import (  # noqa: E402
    FastAttention,
    SelfAttention,
    generalized_kernel,
    softmax_kernel,
)

COMMAND = "python validation/oracles/performer_pytorch_attention.py --out validation/recorded"
PACKAGES = ("performer-pytorch", "torch", "einops", "safetensors", "numpy")
SEED = 20201030
LENGTH, WIDTH, VALUE, FEATURES = 9, 8, 6, 12
SCALES = {"unit": 1.0, "big": 4.0}
WHAT = {
    "q, k, v, projection": "inputs, standard normal; queries and keys of the case 'big' are 4 q and 4 k, those of 'unit' are q and k",
    "CASE_KERNEL_query, CASE_KERNEL_key": "features before attention: softmax_kernel (is_query true, false), generalized_kernel with ReLU",
    "CASE_KERNEL_both, CASE_KERNEL_causal": "FastAttention, causal=False and causal=True",
    "layer_x, layer_mask": "inputs of SelfAttention(dim=8, heads=2, dim_head=4, nb_features=12); mask is 1 where a token is real",
    "layer_to_q, layer_to_k, layer_to_v, layer_to_out, layer_to_out_bias, layer_projection": "its parameters, (outputs, inputs)",
    "layer_DIRECTION, layer_DIRECTION_masked": "its output without and with the mask, DIRECTION both or causal",
}


def attention(causal: bool, kernel: str, projection: torch.Tensor) -> FastAttention:
    options = {"nb_features": FEATURES, "causal": causal, "generalized_attention": kernel == "relu"}
    module = FastAttention(WIDTH, **options).double()
    module.projection_matrix.copy_(projection)
    return module


def kernels(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    q, k = (torch.from_numpy(rng.standard_normal((2, 2, LENGTH, WIDTH))) for _ in range(2))
    v = torch.from_numpy(rng.standard_normal((2, 2, LENGTH, VALUE)))
    projection = torch.from_numpy(rng.standard_normal((FEATURES, WIDTH)))
    found = {"q": q, "k": k, "v": v, "projection": projection}
    for case, scale in SCALES.items():
        given = {"query": scale * q, "key": scale * k}
        for name, x in given.items():
            softmax = softmax_kernel(x, projection_matrix=projection, is_query=name == "query")
            found[f"{case}_softmax_{name}"] = softmax
            found[f"{case}_relu_{name}"] = generalized_kernel(x, projection_matrix=projection)
        for kernel in ("softmax", "relu"):
            for direction, causal in (("both", False), ("causal", True)):
                module = attention(causal, kernel, projection)
                found[f"{case}_{kernel}_{direction}"] = module(given["query"], given["key"], v.clone())
    return found


def layer(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    x = torch.from_numpy(rng.standard_normal((2, LENGTH, WIDTH)))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, 6:] = False
    torch.manual_seed(SEED)
    modules = {
        d: SelfAttention(WIDTH, causal=d == "causal", heads=2, dim_head=4, nb_features=FEATURES)
        for d in ("both", "causal")
    }
    modules["causal"].load_state_dict(modules["both"].state_dict())
    found = {"layer_x": x, "layer_mask": mask}
    for direction, module in modules.items():
        module.double().eval()
        found[f"layer_{direction}"] = module(x)
        found[f"layer_{direction}_masked"] = module(x, mask=mask)
    module = modules["both"]
    found |= {f"layer_{name}": getattr(module, name).weight for name in ("to_q", "to_k", "to_v", "to_out")}
    return found | {
        "layer_to_out_bias": module.to_out.bias,
        "layer_projection": module.fast_attention.projection_matrix,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives performer_pytorch")
    folder: Path = parser.parse_args().out / "performer_pytorch"
    deterministic()
    with torch.no_grad():
        tensors = kernels(np.random.default_rng([SEED, 0])) | layer(np.random.default_rng([SEED, 1]))
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    facts = {"oracle": "performer-pytorch, float64, CPU, unedited", "seed": SEED, "what": WHAT}
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
