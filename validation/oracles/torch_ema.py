"""Record the exponential moving averages that PyTorch takes of a linear map's parameters in 20 steps, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/torch_ema.py --out validation/recorded

Writes `torch_ema/answers.safetensors` under `--out`: where the parameters were, and `AveragedModel` with `get_ema_multi_avg_fn` after each step. It
copies what it is first given: the parameters before the first step ("start"), or those after it ("first").
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from recording import deterministic, to_array, write_answers, write_provenance
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

COMMAND = "python validation/oracles/torch_ema.py --out validation/recorded"
PACKAGES = ("torch", "safetensors", "numpy")
SEED, STEPS, WIDTH, OUT = 20260712, 20, 4, 3
MOMENTA = {"fast": 0.9, "slow": 0.9999}
WHAT = {
    "weight, bias": "of a linear map before the first step and after each of 20: (21, 3, 4), (21, 3); a random walk",
    "K.weight, K.bias": "their average after each step: (20, 3, 4), (20, 3)",
    "K": "fast: momentum 0.9; slow: 0.9999; .start: the average was given the parameters before the first step too; .first: not",
}


def run(momentum: float, start: bool) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(SEED)
    model = torch.nn.Linear(WIDTH, OUT).double()
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("weight", "bias", "mean.weight", "mean.bias")}
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(momentum))
    with torch.no_grad():
        for step in range(STEPS + 1):
            for name, parameter in model.named_parameters():
                if step == 0:
                    parameter.zero_()
                parameter += torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
                found[name].append(parameter.clone())
            if step or start:
                averaged.update_parameters(model)
            if step:
                for name, parameter in averaged.module.named_parameters():
                    found[f"mean.{name}"].append(parameter.clone())
    return {name: torch.stack(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives torch_ema")
    folder: Path = parser.parse_args().out / "torch_ema"
    deterministic()
    tensors: dict[str, torch.Tensor] = {}
    for kind, momentum in MOMENTA.items():
        for when in ("start", "first"):
            for name, value in run(momentum, when == "start").items():
                whole, _, field = name.rpartition(".")
                tensors[f"{kind}.{when}.{field}" if whole else field] = value
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(folder, COMMAND, {"oracle": "PyTorch, CPU, float64", "seed": SEED, "what": WHAT}, PACKAGES)


if __name__ == "__main__":
    main()
