"""Record the random features and the linear attention of fast-transformers, in float64, and in float32 as it is.

    python -m pip install -r validation/oracles/requirements-attention.txt
    git clone https://github.com/idiap/fast-transformers && git -C fast-transformers checkout 2ad36b97e64cb93862937bd21fcc9568d989561f
    python validation/oracles/fast_transformers_attention.py --source fast-transformers --out validation/recorded

Writes `fast_transformers/answers.safetensors`. Of its extensions in C++ only the causal product is compiled, which takes a compiler and a
minute, and the package's `__init__` files, which want the others, are not run. Python runs unedited: modules are moved to float64 by
`.double()`, with float64 as torch's default where they make arrays of their own, and `omega` is one given here in place of the one they draw.
The causal product knows float only: for float64 the word `float` in it is `double`. The float32 answers come from it as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import re
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import deterministic, to_array, write_answers, write_provenance
from torch.utils import cpp_extension

COMMAND = (
    "python validation/oracles/fast_transformers_attention.py --source fast-transformers --out validation/recorded"
)
PACKAGES = ("torch", "ninja", "safetensors", "numpy")
SEED = 20200803
LENGTH, WIDTH, VALUE, FEATURES = 9, 8, 6, 8
SCALES = {"unit": 1.0, "big": 4.0}
FILES = (
    "feature_maps/base.py",
    "feature_maps/fourier_features.py",
    "attention/linear_attention.py",
    "attention/causal_linear_attention.py",
    "causal_product/__init__.py",
    "causal_product/causal_product_cpu.cpp",
    "masking.py",
)
FLAGS = ["-fopenmp", "-ffast-math"]  # those of its setup.py
WHAT = {
    "q, k, v, projection": "inputs, standard normal; queries and keys of the case 'big' are 4 q and 4 k, those of 'unit' are q and k; "
    "omega is the projection transposed",
    "CASE_KERNEL_query, CASE_KERNEL_key": "features before attention: softmax is Favor, stabilized is Favor(stabilize=True), relu is "
    "GeneralizedRandomFeatures",
    "CASE_KERNEL_both, CASE_KERNEL_causal": "LinearAttention and CausalLinearAttention",
    "mask": "of keys, 1 where a key takes part, as LengthMask has it",
    "unit_KERNEL_DIRECTION_masked": "attention with that mask",
    "rff_key, smoothed_key": "RandomFourierFeatures, and SmoothedRandomFourierFeatures with smoothing 0.5, of k[:1]",
    "float32_...": "in float32, the causal product unedited, on inputs rounded to float32; row 0 of the batch",
}


def package(name: str, path: Path) -> None:
    """A package whose `__init__` is not run."""
    made = types.ModuleType(name)
    made.__path__ = [str(path)]
    sys.modules[name] = made


def causal_product(source: Path, dtype: str) -> Any:
    text = source.read_text("utf-8")
    text = re.sub(r"\bfloat\b", "double", text) if dtype == "float64" else text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"causal_product_{dtype}.cpp"
        path.write_text(text, "utf-8")
        return cpp_extension.load(path.stem, [str(path)], FLAGS, build_directory=folder, extra_ldflags=["-fopenmp"])


def loaded(root: Path, product: Any) -> Any:
    """Its modules, by name, on the causal product given."""
    for name in [name for name in sys.modules if name.startswith("fast_transformers")]:
        del sys.modules[name]
    package("fast_transformers", root)
    package("fast_transformers.attention", root / "attention")
    sys.modules["fast_transformers.causal_product.causal_product_cpu"] = product
    names = ("attention.linear_attention", "attention.causal_linear_attention", "feature_maps", "masking")
    return types.SimpleNamespace(**{n.split(".")[-1]: importlib.import_module(f"fast_transformers.{n}") for n in names})


def turned(x: torch.Tensor) -> torch.Tensor:  # (batch, heads, length, width) <-> (batch, length, heads, width)
    return x.transpose(1, 2).contiguous()


def feature_map(modules: Any, kernel: str, projection: torch.Tensor) -> Any:
    maps, options = modules.feature_maps, {"deterministic_eval": True}
    made = {
        "softmax": lambda: maps.Favor(WIDTH, n_dims=2 * FEATURES, **options),
        "stabilized": lambda: maps.Favor(WIDTH, n_dims=2 * FEATURES, stabilize=True, **options),
        "relu": lambda: maps.GeneralizedRandomFeatures(WIDTH, n_dims=FEATURES, **options),
        "rff": lambda: maps.RandomFourierFeatures(WIDTH, n_dims=2 * FEATURES, **options),
        "smoothed": lambda: maps.SmoothedRandomFourierFeatures(
            WIDTH, n_dims=2 * FEATURES + 1, smoothing=0.5, **options
        ),
    }[kernel]()
    made.omega.copy_(projection.T)
    return made.to(projection.dtype).eval()


def attention(
    modules: Any, kernel: str, causal: bool, arrays: dict[str, torch.Tensor], lengths: torch.Tensor
) -> torch.Tensor:
    layers = (modules.linear_attention.LinearAttention, modules.causal_linear_attention.CausalLinearAttention)
    made = layers[causal](WIDTH, feature_map=lambda width: feature_map(modules, kernel, arrays["projection"])).eval()
    masks = modules.masking
    seen = masks.TriangularCausalMask(LENGTH) if causal else masks.FullMask(LENGTH)
    every = masks.LengthMask(torch.full((2,), LENGTH))
    given = (turned(arrays[name]) for name in "qkv")
    return turned(made(*given, seen, every, masks.LengthMask(lengths, max_len=LENGTH)))


def answers(modules: Any, a: dict[str, torch.Tensor], cases: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found = {}
    for case in cases:
        scaled = a | {name: SCALES[case] * a[name] for name in "qk"}
        for kernel in ("softmax", "stabilized", "relu"):
            made = feature_map(modules, kernel, a["projection"])
            for name, key in (("query", "q"), ("key", "k")):
                found[f"{case}_{kernel}_{name}"] = turned(made(turned(scaled[key])))
            for direction in ("both", "causal"):
                key, causal = f"{case}_{kernel}_{direction}", direction == "causal"
                found[key] = attention(modules, kernel, causal, scaled, torch.full((2,), LENGTH))
                if case == "unit" and kernel != "relu":
                    found[f"{key}_masked"] = attention(modules, kernel, causal, scaled, torch.tensor([LENGTH, 6]))
    for kernel in ("rff", "smoothed"):
        found[f"{kernel}_key"] = turned(feature_map(modules, kernel, a["projection"])(turned(a["k"][:1])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of idiap/fast-transformers at 2ad36b9")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives fast_transformers")
    given = parser.parse_args()
    root = given.source / "fast_transformers"
    deterministic()
    warnings.simplefilter("error")
    rng = np.random.default_rng(SEED)
    shapes = {"q": (2, 2, LENGTH, WIDTH), "k": (2, 2, LENGTH, WIDTH), "v": (2, 2, LENGTH, VALUE)}
    a = {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in shapes.items()}
    a["projection"] = torch.from_numpy(rng.standard_normal((FEATURES, WIDTH)))
    found = dict(a) | {"mask": torch.arange(LENGTH)[None] < torch.tensor([[LENGTH], [6]])}
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            name = str(dtype).split(".")[1]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                modules = loaded(root, causal_product(root / "causal_product/causal_product_cpu.cpp", name))
            cast = {key: value.to(dtype) for key, value in a.items()}
            if name == "float64":
                found |= answers(modules, cast, tuple(SCALES))
            else:
                keep = re.compile(r"unit_\w+_(both|causal)")
                rounded = answers(modules, cast, ("unit",))
                found |= {f"float32_{key}": value[:1] for key, value in rounded.items() if keep.fullmatch(key)}
    for key, value in found.items():
        if value.is_floating_point() and value.dtype != (torch.float32 if "float32" in key else torch.float64):
            raise TypeError(f"{key}: {value.dtype}")
    folder = given.out / "fast_transformers"
    write_answers(folder, {name: to_array(value) for name, value in found.items()})
    facts = {
        "oracle": "fast-transformers, CPU; float64 with `double` for `float` in the causal product, float32 unedited",
        "source": "github.com/idiap/fast-transformers, commit 2ad36b97e64cb93862937bd21fcc9568d989561f",
        "source_sha256": {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in FILES},
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
