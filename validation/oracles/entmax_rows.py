"""Record sparsemax and 1.5-entmax of the package entmax, in float64: other functions than the sparse softmax, for contrast.

    python -m pip install -r validation/oracles/requirements-attention.txt
    python validation/oracles/entmax_rows.py --out validation/recorded

Writes `entmax/answers.safetensors`. Nothing of the package is edited.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from entmax import entmax15, sparsemax
from recording import deterministic, to_array, write_answers, write_provenance

COMMAND = "python validation/oracles/entmax_rows.py --out validation/recorded"
PACKAGES = ("entmax", "torch", "safetensors", "numpy")
SEED = 20190514
WHAT = {
    "unit": "inputs, standard normal, (12, 16); those of 'big' are 4 times as large",
    "CASE_sparsemax, CASE_entmax15": "sparsemax and entmax15 of the rows",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives entmax")
    folder: Path = parser.parse_args().out / "entmax"
    deterministic()
    x = torch.from_numpy(np.random.default_rng(SEED).standard_normal((12, 16)))
    tensors = {"unit": x}
    for case, scale in (("unit", 1.0), ("big", 4.0)):
        tensors |= {f"{case}_sparsemax": sparsemax(scale * x, dim=-1), f"{case}_entmax15": entmax15(scale * x, dim=-1)}
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    write_provenance(
        folder, COMMAND, {"oracle": "entmax, float64, CPU, unedited", "seed": SEED, "what": WHAT}, PACKAGES
    )


if __name__ == "__main__":
    main()
