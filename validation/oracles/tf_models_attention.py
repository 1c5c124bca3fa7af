"""Record the attention of KernelAttention in tf-models-official, in float64, and in float32 as it is.

    python -m pip install -r validation/oracles/requirements-tf-models.txt
    python -m pip download --no-deps tf-models-official==2.20.0
    unzip -j tf_models_official-2.20.0-py2.py3-none-any.whl official/nlp/modeling/layers/kernel_attention.py
    python validation/oracles/tf_models_attention.py --source kernel_attention.py --out validation/recorded

Writes `tf_models/answers.safetensors`. One file of the package runs, without the rest: `official.modeling.tf_utils`, which only
the transform `expplus` uses, is an empty module here. For float64 one word of it is edited, where the number of features is cast
to float32 before its root is taken, and the scale that the layer holds is given as a float64 tensor. The float32 answers come
from the file as it is. What runs is the layer's own `_compute_attention`, on given queries, keys and values of (batch, length,
heads, width), with a projection given here in place of the one it draws.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_recording import write_arrays, write_provenance

COMMAND = "python validation/oracles/tf_models_attention.py --source kernel_attention.py --out validation/recorded"
PACKAGES = ("tensorflow-cpu", "tf-keras", "safetensors", "numpy")
SEED = 20210915
LENGTH, WIDTH, VALUE, FEATURES = 9, 8, 6, 12
EDIT = ("tf.cast(tf.shape(projection_matrix)[0], tf.float32))", "tf.cast(tf.shape(projection_matrix)[0], x.dtype))")
WHAT = {
    "q, k, v, projection": "inputs, standard normal; queries and keys of the case 'big' are 4 q and 4 k, those of 'unit' are q and k",
    "CASE_KERNEL_query, CASE_KERNEL_key": "features before attention: feature_transform KERNEL of q d^-1/4 and k d^-1/4; softmax is its 'exp'",
    "CASE_KERNEL_both": "attention over all keys",
    "CASE_KERNEL_causal": "use_causal_windowed=True, chunk length 1, window length 9: the causal triangle",
    "mask_low, mask_high": "of keys, 1 where a key takes part; low leaves the largest exponent of each row of the batch in, high takes it out",
    "unit_softmax_both_mask_low, unit_softmax_both_mask_high": "attention with these masks",
    "float32_...": "in float32 by the unedited file, on inputs rounded to float32",
}


def loaded(source: str, name: str) -> types.ModuleType:
    official, modeling = types.ModuleType("official"), types.ModuleType("official.modeling")
    modeling.tf_utils = types.ModuleType("official.modeling.tf_utils")
    sys.modules.update({"official": official, "official.modeling": modeling})
    module = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def layer(module: types.ModuleType, projection: np.ndarray, causal: bool, dtype: str) -> object:
    windowed = {"use_causal_windowed": True, "causal_chunk_length": 1, "causal_window_length": LENGTH} if causal else {}
    made = module.KernelAttention("exp", FEATURES, num_heads=2, key_dim=WIDTH, **windowed)
    made._projection_matrix = tf.constant(projection, dtype)
    if dtype == "float64":
        made._scale = tf.constant(1 / np.sqrt(WIDTH), dtype)
    return made


def turned(x: np.ndarray) -> np.ndarray:  # (batch, heads, length, width) <-> (batch, length, heads, width)
    return np.ascontiguousarray(np.swapaxes(x, 1, 2))


def run(
    module: types.ModuleType,
    a: dict[str, np.ndarray],
    kernel: str,
    causal: bool,
    dtype: str,
    scale: float,
    mask: object = None,
) -> np.ndarray:
    made = layer(module, a["projection"], causal, dtype)
    q, k, v = (
        tf.constant(turned(factor * a[name]), dtype) for name, factor in (("q", scale), ("k", scale), ("v", 1.0))
    )
    seen = None if mask is None else tf.constant(mask, dtype)
    return turned(made._compute_attention(q, k, v, kernel, False, attention_mask=seen).numpy())


def masks(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two keys hidden in each row of the batch: those with the lowest largest exponent, and those with the highest."""
    order = np.argsort(np.max(a["k"] @ a["projection"].T, axis=(1, 3)), axis=-1)
    found = {"mask_low": np.ones((2, LENGTH), np.int64), "mask_high": np.ones((2, LENGTH), np.int64)}
    np.put_along_axis(found["mask_low"], order[:, :2], 0, axis=-1)
    np.put_along_axis(found["mask_high"], order[:, -2:], 0, axis=-1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="kernel_attention.py of tf-models-official 2.20.0")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives tf_models")
    given = parser.parse_args()
    folder, source = given.out / "tf_models", given.source.read_text("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    if source.count(EDIT[0]) != 1:
        raise ValueError("kernel_attention.py is not the file that this script edits")
    plain, wide = loaded(source, "plain"), loaded(source.replace(*EDIT), "wide")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(SEED)
    a = {name: rng.standard_normal((2, 2, LENGTH, WIDTH)) for name in ("q", "k")}
    a |= {"v": rng.standard_normal((2, 2, LENGTH, VALUE)), "projection": rng.standard_normal((FEATURES, WIDTH))}
    found = dict(a)
    for case, scale in (("unit", 1.0), ("big", 4.0)):
        for ours, theirs in (("softmax", "exp"), ("relu", "relu")):
            for name, key in (("query", "q"), ("key", "k")):
                x = tf.constant(turned(scale * a[key])) * tf.math.sqrt(tf.constant(1 / np.sqrt(WIDTH), "float64"))
                features = wide._TRANSFORM_MAP[theirs](x, None, name == "query", tf.constant(a["projection"]))
                found[f"{case}_{ours}_{name}"] = turned(features.numpy())
            for direction in ("both", "causal"):
                key = f"{case}_{ours}_{direction}"
                found[key] = run(wide, a, theirs, direction == "causal", "float64", scale)
                if case == "unit":
                    found[f"float32_{key}"] = run(plain, a, theirs, direction == "causal", "float32", scale)
    for name, mask in masks(a).items():
        found[name] = mask
        found[f"unit_softmax_both_{name}"] = run(wide, a, "exp", False, "float64", 1.0, mask)
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: not finite")
    write_arrays(folder / "answers.safetensors", found)
    facts = {
        "oracle": "tf-models-official 2.20.0, official/nlp/modeling/layers/kernel_attention.py, CPU; float64 with one edit, float32 without",
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "edit": list(EDIT),
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
