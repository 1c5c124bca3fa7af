"""Record two modules that are on no package index, in float64: jaketae's RealFormer and CoinCheung's Taylor softmax.

    python -m pip install -r validation/oracles/requirements-attention.txt
    python validation/oracles/fetched_torch_modules.py --realformer core.py --taylor taylor_softmax.py --out validation/recorded

Writes `jaketae_realformer` and `pytorch_loss`. The sources are realformer/core.py of github.com/jaketae/realformer at be26f18, and
pytorch_loss/taylor_softmax.py of github.com/CoinCheung/pytorch-loss at 67d0158, both as they are. The second imports an extension that its version
for GPUs needs and the recorded one does not: an empty module stands in for it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import types
from pathlib import Path

import torch
from recording import deterministic, to_array, write_answers, write_provenance

COMMAND = (
    "python validation/oracles/fetched_torch_modules.py --realformer core.py --taylor taylor_softmax.py "
    "--out validation/recorded"
)
PACKAGES = ("torch", "safetensors", "numpy")
SEED = 20201221
WIDTH, HEADS, LAYERS, FACTOR = 8, 2, 4, 3
ORDERS = (2, 4, 6, 8)
REALFORMER = {
    "x": "input, (2, 7, 8)",
    "layers.I.*": "parameters by the names of the module; kqv_proj holds key, query and value in this order",
    "hidden_I": "the output of layer I",
    "scores_I": "the scores that layer I hands on, (2, heads, 7, 7)",
    "output": "the output of the whole encoder",
}
TAYLOR = {
    "unit": "inputs, standard normal, (12, 16); those of 'big' are 4 times as large",
    "CASE_N": "TaylorSoftmaxV1(dim=1, n=N) of them",
    "CASE_N_log": "LogTaylorSoftmaxV1(dim=1, n=N) of them",
}


def loaded(path: Path, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(path.read_text("utf-8"), path.name, "exec"), module.__dict__)
    return module


def realformer(source: Path) -> dict[str, torch.Tensor]:
    module, generator = loaded(source, "realformer_core"), torch.Generator().manual_seed(SEED)
    encoder = module.RealFormerEncoder(WIDTH, HEADS, FACTOR, dropout=0.5, num_layers=LAYERS).double().eval()
    tensors = {}
    for name, parameter in encoder.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scale = "norm" in name and name.endswith("weight")
        parameter.data = 1 + 0.2 * drawn if scale else 0.5 * drawn
        tensors[name] = parameter
    x = torch.randn(2, 7, WIDTH, generator=generator, dtype=torch.float64)
    tensors |= {"x": x, "output": encoder(x)}
    previous = None
    for i, layer in enumerate(encoder.layers):
        x, previous = layer(x, previous)
        tensors |= {f"hidden_{i}": x, f"scores_{i}": previous}
    if not torch.equal(x, tensors["output"]):
        raise ValueError("layer by layer is not the encoder")
    return tensors


def taylor(source: Path) -> dict[str, torch.Tensor]:
    sys.modules["taylor_softmax_cpp"] = types.ModuleType("taylor_softmax_cpp")
    module = loaded(source, "taylor_softmax")
    unit = torch.randn(12, 16, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    tensors = {"unit": unit}
    for case, scale in (("unit", 1.0), ("big", 4.0)):
        for n in ORDERS:
            tensors[f"{case}_{n}"] = module.TaylorSoftmaxV1(dim=1, n=n)(scale * unit)
            tensors[f"{case}_{n}_log"] = module.LogTaylorSoftmaxV1(dim=1, n=n)(scale * unit)
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realformer", type=Path, required=True, help="realformer/core.py of jaketae/realformer")
    parser.add_argument("--taylor", type=Path, required=True, help="pytorch_loss/taylor_softmax.py of pytorch-loss")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives both")
    given = parser.parse_args()
    deterministic()
    for folder, name, source, record, what in (
        (
            "jaketae_realformer",
            "github.com/jaketae/realformer, commit be26f18",
            given.realformer,
            realformer,
            REALFORMER,
        ),
        ("pytorch_loss", "github.com/CoinCheung/pytorch-loss, commit 67d0158", given.taylor, taylor, TAYLOR),
    ):
        write_answers(given.out / folder, {key: to_array(value) for key, value in record(source).items()})
        facts = {
            "oracle": f"{name}, {source.name}, float64, CPU, unedited",
            "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "seed": SEED,
            "what": what,
        }
        write_provenance(given.out / folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
