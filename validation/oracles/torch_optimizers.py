"""Record what PyTorch's optimizers do to a softmax regression in 20 steps, in float64, with a learning rate that changes.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_optimizers.py --out validation/recorded

Writes `torch_optimizers/answers.safetensors` under `--out`: for each optimizer the gradients that it was given at each step, before clipping, and the
parameters after it. The gradients are autograd's, of the mean cross-entropy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from recording import deterministic, to_array, write_answers, write_provenance

COMMAND = "python validation/oracles/torch_optimizers.py --out validation/recorded"
PACKAGES = ("torch", "safetensors", "numpy")
SEED, STEPS, ROWS, WIDTH, CLASSES = 20260711, 20, 12, 4, 3
RATES = [0.05 * (1 + step % 4) for step in range(STEPS)]
ADAM = {"betas": (0.9, 0.95), "eps": 1e-8}
SETTINGS = {
    "sgd": (torch.optim.SGD, {}, None),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, None),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, None),
    "adam": (torch.optim.AdamW, ADAM | {"weight_decay": 0.0}, None),
    "adamw": (torch.optim.AdamW, ADAM | {"weight_decay": 0.3}, None),
    "adamw_clipped": (torch.optim.AdamW, ADAM | {"weight_decay": 0.3}, 0.2),
}


def run(kind: type, options: dict, limit: float | None) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(SEED)
    x = torch.from_numpy(rng.standard_normal((ROWS, WIDTH)))
    targets = torch.from_numpy(rng.integers(0, CLASSES, ROWS))
    weight = torch.from_numpy(rng.standard_normal((WIDTH, CLASSES))).requires_grad_()
    bias = torch.from_numpy(rng.standard_normal(CLASSES)).requires_grad_()
    decay = options.get("weight_decay", 0.0)
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=1.0, foreach=False, **{k: v for k, v in options.items() if k != "weight_decay"})
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("weight", "bias", "weight_gradient", "bias_gradient")}
    norms = []
    for rate in RATES:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(x @ weight + bias, targets).backward()
        found["weight_gradient"].append(weight.grad.clone())
        found["bias_gradient"].append(bias.grad.clone())
        if limit is not None:
            norms.append(torch.nn.utils.clip_grad_norm_([weight, bias], limit))
        optimizer.step()
        found["weight"].append(weight.detach().clone())
        found["bias"].append(bias.detach().clone())
    stacked = {name: torch.stack(values) for name, values in found.items()}
    rng = np.random.default_rng(SEED)
    rng.standard_normal((ROWS, WIDTH)), rng.integers(0, CLASSES, ROWS)
    stacked |= {
        "weight_start": torch.from_numpy(rng.standard_normal((WIDTH, CLASSES))),
        "bias_start": torch.from_numpy(rng.standard_normal(CLASSES)),
    }
    return stacked | ({"norm": torch.stack(norms)} if norms else {})


WHAT = {
    "K.weight, K.bias": "of optimizer K after each of 20 steps: (20, 4, 3), (20, 3)",
    "K.weight_gradient, K.bias_gradient": "what the step was given, before clipping",
    "K.weight_start, K.bias_start": "before the first step",
    "K.norm": "what clip_grad_norm_ returned, where gradients are clipped to a norm of 0.2",
    "K": "torch.optim.SGD: sgd; momentum 0.9: momentum, and with nesterov=True: nesterov. torch.optim.AdamW, betas (0.9, 0.95), eps 1e-8: adam "
    "without decay, adamw with weight_decay 0.3 on the weight alone, adamw_clipped with clipping too",
    "rates": "0.05 (1 + step mod 4), step from 0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives torch_optimizers")
    folder: Path = parser.parse_args().out / "torch_optimizers"
    deterministic()
    tensors = {f"{name}.{key}": value for name, setting in SETTINGS.items() for key, value in run(*setting).items()}
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(folder, COMMAND, {"oracle": "PyTorch, CPU, float64", "seed": SEED, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
