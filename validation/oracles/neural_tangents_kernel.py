"""Record empirical tangent kernels and predictions of the package neural-tangents, in float64, on a small perceptron.

    python -m pip install -r validation/oracles/requirements-neural-tangents.txt
    python -m pip install --no-deps tf2jax==0.3.6 neural-tangents==0.6.5
    python validation/oracles/neural_tangents_kernel.py --out validation/recorded

Writes `neural_tangents/answers.safetensors`. Nothing of the package is edited. JAX 0.10 lacks what this version imports.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from tensorflow_recording import write_arrays, write_provenance

COMMAND = "python validation/oracles/neural_tangents_kernel.py --out validation/recorded"
PACKAGES = ("neural-tangents", "jax", "jaxlib", "numpy", "safetensors")
SEED, SIZES, TIMES = 20201201, (3, 5, 4, 2), (0.25, 1.0, 4.0)
WHAT = {
    "weight_L, bias_L": "a perceptron 3 -> 5 -> 4 -> 2: x W + b, tanh after all but the last",
    "x, z, y": "4 examples, 2 other inputs, targets of the examples",
    "fx, fz": "outputs of both",
    "kernel_xx, kernel_zx": "empirical_ntk_fn(f, trace_axes=()): (n, m, 2, 2)",
    "traced_xx": "empirical_ntk_fn(f), which takes the mean over the outputs: (4, 4)",
    "times": "t of the predictions: learning rate times steps",
    "predicted_x, predicted_z": "gradient_descent_mse(kernel_xx, y, trace_axes=()) at these times, from fx, fz: (3, n, 2)",
    "first_x, first_z": "the same of the first output alone: (3, n, 1)",
}


def perceptron(layers, x):
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def predicted(kernels, y, fx, fz, trace_axes=()):
    predict = nt.predict.gradient_descent_mse(kernels[0], y, trace_axes=trace_axes)
    return [np.stack(part) for part in zip(*(predict(t, fx, fz, kernels[1]) for t in TIMES), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives neural_tangents")
    folder: Path = parser.parse_args().out / "neural_tangents"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(SEED)
    layers = [(rng.normal(size=(a, b)) / np.sqrt(a), rng.normal(size=b) / 4) for a, b in itertools.pairwise(SIZES)]
    x, z, y = rng.normal(size=(4, 3)), rng.normal(size=(2, 3)), rng.normal(size=(4, 2))
    fx, fz = perceptron(layers, x), perceptron(layers, z)
    kernel = nt.empirical_ntk_fn(perceptron, trace_axes=())
    kernels = kernel(x, None, layers), kernel(z, x, layers)
    answers = {"x": x, "z": z, "y": y, "fx": fx, "fz": fz, "kernel_xx": kernels[0], "kernel_zx": kernels[1]}
    for number, (weight, bias) in enumerate(layers, 1):
        answers |= {f"weight_{number}": weight, f"bias_{number}": bias}
    answers |= {"traced_xx": nt.empirical_ntk_fn(perceptron)(x, None, layers), "times": np.array(TIMES)}
    answers |= zip(("predicted_x", "predicted_z"), predicted(kernels, y, fx, fz), strict=True)
    first = [each[:, :, :1, :1] for each in kernels]
    answers |= zip(("first_x", "first_z"), predicted(first, y[:, :1], fx[:, :1], fz[:, :1]), strict=True)
    write_arrays(folder / "answers.safetensors", {name: np.asarray(value) for name, value in answers.items()})
    write_provenance(
        folder, COMMAND, {"oracle": "neural-tangents, float64, CPU, unedited", "seed": SEED, "what": WHAT}, PACKAGES
    )


if __name__ == "__main__":
    main()
