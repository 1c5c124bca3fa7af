"""Record the residual attention of x-transformers, and its top-k attention, in float64.

    python -m pip install -r validation/oracles/requirements-attention.txt
    python validation/oracles/x_transformers_attention.py --out validation/recorded

Writes `x_transformers/answers.safetensors`. Nothing of the package is edited. Its attention computes softmax in float32
whatever it is given; a softmax in the dtype of its argument is set by its own option `attn_custom_attn_fn`. Both are recorded.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from recording import deterministic, to_array, write_answers, write_provenance
from x_transformers import Decoder, Encoder
from x_transformers.attend import Attend, sparse_topk_attn

COMMAND = "python validation/oracles/x_transformers_attention.py --out validation/recorded"
PACKAGES = ("x-transformers", "torch", "einops", "safetensors", "numpy")
SEED = 20201221
DIM, HEADS, DEPTH, LENGTH = 8, 2, 4, 7
OPTIONS = {
    "dim": DIM,
    "depth": DEPTH,
    "heads": HEADS,
    "attn_dim_head": DIM // HEADS,
    "ff_mult": 2,
    "pre_norm": False,
    "residual_attn": True,
}
WHAT = {
    "x, mask": "inputs of Encoder and Decoder; mask is 1 where a token is real",
    "layer_L_...": "of layer L, linear ones (outputs, inputs); attention and norms lack biases; a norm's scale is 1 + the parameter, eps 1e-5",
    "both, causal": "Encoder and Decoder, post-LN, residual_attn=True, softmax in float64, without a mask",
    "both_masked, causal_masked": "the same with the mask; compare where it is 1",
    "both_plain": "Encoder with residual_attn=False",
    "attend_q, attend_k, attend_v": "three layers of Attend, each with the pre_softmax_attn of the one before: inputs, (layer, batch, heads, n, w)",
    "attend_float32, attend_float64": "the three outputs without a mask, by its own float32 softmax and by one in float64",
    "attend_scores": "pre_softmax_attn of each, without a mask",
    "attend_after_mask": "the second layer without a mask, with the pre_softmax_attn of the first with attend_mask: what the package hands on",
    "attend_after_mask_clean": "the same with the first layer's qk_similarities, which it does not hand on",
    "topk_x, topk_3, topk_16": "sparse_topk_attn of the rows with 3 and with all 16; no ties in the first 6 rows",
}


def plain_softmax() -> partial:
    return partial(F.softmax, dim=-1)


def stacks(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    torch.manual_seed(SEED)
    modules = {"both": Encoder(**OPTIONS, attn_custom_attn_fn=plain_softmax())}
    modules["causal"] = Decoder(**OPTIONS, attn_custom_attn_fn=plain_softmax())
    modules["both_plain"] = Encoder(**(OPTIONS | {"residual_attn": False}), attn_custom_attn_fn=plain_softmax())
    state = {
        name: torch.from_numpy(rng.normal(0.0, 0.4, value.shape))
        for name, value in modules["both"].state_dict().items()
    }
    x = torch.from_numpy(rng.standard_normal((2, LENGTH, DIM)))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, 5:] = False
    found = {"x": x, "mask": mask}
    for name, module in modules.items():
        module.double().eval().load_state_dict(state)
        found[name] = module(x)
        if name != "both_plain":
            found[f"{name}_masked"] = module(x, mask=mask)
    for i, (norms, block, _) in enumerate(modules["both"].layers):
        kind, number = ("attention", "feed_forward")[i % 2], i // 2
        gammas = [norm.gamma for norm in norms if norm is not None]
        if len(gammas) != 1:
            raise ValueError("expected one norm, after the layer")
        found[f"layer_{number}_{kind}_norm"] = gammas[0]
        for name, value in block.state_dict().items():
            found[f"layer_{number}_{kind}_{name}"] = value
    return found


def attends(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    q, k, v = (torch.from_numpy(rng.standard_normal((3, 2, HEADS, LENGTH, 4))) for _ in range(3))
    found = {"attend_q": q, "attend_k": k, "attend_v": v}
    for name, module in {"float32": Attend(), "float64": Attend(custom_attn_fn=plain_softmax())}.items():
        before, outputs, scores = None, [], []
        for i in range(3):
            out, intermediate = module(q[i], k[i], v[i], prev_attn=before)
            before = intermediate.pre_softmax_attn
            outputs.append(out)
            scores.append(before)
        found[f"attend_{name}"] = torch.stack(outputs)
    seen = torch.ones(2, LENGTH, dtype=torch.bool)
    seen[:, 5:] = False
    _, first = module(q[0], k[0], v[0], mask=seen)
    leaked, _ = module(q[1], k[1], v[1], prev_attn=first.pre_softmax_attn)
    clean, _ = module(q[1], k[1], v[1], prev_attn=first.qk_similarities)
    found |= {"attend_mask": seen, "attend_after_mask": leaked, "attend_after_mask_clean": clean}
    return found | {"attend_scores": torch.stack(scores)}


def top_k(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    x = rng.standard_normal((9, 16))
    x[6:] = np.round(x[6:])
    x = torch.from_numpy(x)
    return {"topk_x": x, "topk_3": sparse_topk_attn(x, 3), "topk_16": sparse_topk_attn(x, 16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives x_transformers")
    folder: Path = parser.parse_args().out / "x_transformers"
    deterministic()
    streams = [np.random.default_rng([SEED, index]) for index in range(3)]
    with torch.no_grad():
        tensors = stacks(streams[0]) | attends(streams[1]) | top_k(streams[2])
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(
        folder, COMMAND, {"oracle": "x-transformers, float64, CPU, unedited", "seed": SEED, "what": WHAT}, PACKAGES
    )


if __name__ == "__main__":
    main()
