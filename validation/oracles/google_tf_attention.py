"""Record the features and the attention of Google's Performer in TensorFlow, in float64, and in float32 as it is.

    python -m pip install -r validation/oracles/requirements-tf-models.txt
    git clone https://github.com/danipozo/performer && git -C performer checkout 994bc738f17eddca2e21904db630cd3399d9f0e8
    python validation/oracles/google_tf_attention.py --source performer/fast_attention.py --out validation/recorded

Writes `google_tf/answers.safetensors`. The source is google-research's performer/fast_attention/tensorflow/fast_attention.py, in a
repository that copies this folder alone; bwa2116/performergoogle at 7ee468c has the same file but for the year of its copyright and
the path of one import. That import, `performer.util`, holds the dense layers of a module that is not run, and is an empty module here.
For float64 the file is edited in two places: `tf.float32`, to which it casts sizes before it takes their roots, is `tf.float64`, and the
ones that it sums keys with have their dtype. The float32 answers come from the file as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the file asks tf.keras.backend for a number of axes

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow_recording import write_arrays, write_provenance  # noqa: E402

COMMAND = (
    "python validation/oracles/google_tf_attention.py --source performer/fast_attention.py --out validation/recorded"
)
PACKAGES = ("tensorflow-cpu", "tf-keras", "safetensors", "numpy")
SEED = 20210930
LENGTH, WIDTH, VALUE, FEATURES = 9, 8, 6, 12
EDITS = (("tf.float32", "tf.float64", 4), ("tf.ones([ks.shape[0]])", "tf.ones([ks.shape[0]], ks.dtype)", 1))
KERNELS = {"softmax": "softmax_kernel_transformation", "relu": "relu_kernel_transformation"}
WHAT = {
    "q, k, v, projection": "inputs, standard normal; queries and keys of the case 'big' are 4 q and 4 k, those of 'unit' are q and k",
    "CASE_KERNEL_query, CASE_KERNEL_key": "features before attention: KERNEL_kernel_transformation, is_query True and False",
    "CASE_KERNEL_both, CASE_KERNEL_causal": "favor_attention with causal False and True",
    "CASE_bare_...": "the same of relu_kernel_transformation without a projection, as its layer has it unless told otherwise",
    "float32_...": "in float32 by the unedited file, on inputs rounded to float32",
}


def loaded(source: str, name: str) -> types.ModuleType:
    package = types.ModuleType("performer")
    package.util = types.ModuleType("performer.util")
    sys.modules.update({"performer": package, "performer.util": package.util})
    module = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def edited(source: str) -> str:
    for old, new, count in EDITS:
        if source.count(old) != count:
            raise ValueError(
                f"fast_attention.py is not the file that this script edits: {old} is not there {count} times"
            )
        source = source.replace(old, new)
    return source


def turned(x: np.ndarray) -> np.ndarray:  # (batch, heads, length, width) <-> (batch, length, heads, width)
    return np.ascontiguousarray(np.swapaxes(x, 1, 2))


def run(module: types.ModuleType, a: dict[str, np.ndarray], case: str, kernel: str, dtype: str) -> dict[str, Any]:
    scale = {"unit": 1.0, "big": 4.0}[case]
    q, k, v = (tf.constant(turned(size * a[name]), dtype) for name, size in (("q", scale), ("k", scale), ("v", 1.0)))
    projection = None if kernel == "bare" else tf.constant(a["projection"], dtype)
    transformation = getattr(module, KERNELS["relu" if kernel == "bare" else kernel])
    found = {"query": transformation(q, True, projection), "key": transformation(k, False, projection)}
    for direction in ("both", "causal"):
        found[direction] = module.favor_attention(q, k, v, transformation, direction == "causal", projection)
    return {f"{case}_{kernel}_{name}": turned(each.numpy()) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="fast_attention.py of danipozo/performer at 994bc73")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives google_tf")
    given = parser.parse_args()
    folder, source = given.out / "google_tf", given.source.read_text("utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    plain, wide = loaded(source, "plain"), loaded(edited(source), "wide")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(SEED)
    a = {name: rng.standard_normal((2, 2, LENGTH, WIDTH)) for name in ("q", "k")}
    a |= {"v": rng.standard_normal((2, 2, LENGTH, VALUE)), "projection": rng.standard_normal((FEATURES, WIDTH))}
    found = dict(a)
    for case in ("unit", "big"):
        for kernel in ("softmax", "relu", "bare"):
            found |= run(wide, a, case, kernel, "float64")
    for kernel in ("softmax", "relu"):
        answers = run(plain, a, "unit", kernel, "float32")
        found |= {f"float32_{name}": each for name, each in answers.items() if name.endswith(("both", "causal"))}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: not finite")
        if array.dtype != ("float32" if name.startswith("float32") else "float64"):
            raise TypeError(f"{name}: {array.dtype}")
    write_arrays(folder / "answers.safetensors", found)
    facts = {
        "oracle": "google-research performer, TensorFlow, fast_attention.py, CPU; float64 with two edits, float32 without",
        "source": "github.com/danipozo/performer, commit 994bc738f17eddca2e21904db630cd3399d9f0e8, fast_attention.py",
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "edits": [list(each) for each in EDITS],
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
