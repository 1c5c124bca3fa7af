"""Record the HDF5 files that Keras 3 writes, and what h5py reads from them.

    python -m pip install -r validation/oracles/requirements-keras3.txt
    python validation/oracles/keras_hdf5_keras3.py --out validation/recorded

Writes `keras_hdf5/keras_3/` under `--out`; `keras_hdf5_answers.py` says what stands beside each file:

* `model.weights.h5`: `save_weights` of a model with a nested model, a shared layer, a recurrent one, batch
  normalization, a layer without weights, and weights of float16, bfloat16, float32 and float64;
* `archive/model.weights.h5`: the member of that name of the archive that `save` writes for a compiled model, with its
  optimizer; the archive itself names the day on which it was written and is not kept;
* `sharded/`: `save_weights` of the first model with a limit for a file: `model.weights.json` and the files it names;
* `legacy_model.h5`: the compiled model in the old form, which `save` still writes to a name ending in `.h5`
  (`save_weights` refuses such names).

Every weight of the models is compared with a dataset of the file. The backend is JAX, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import h5py
import keras
import numpy as np
from keras import layers
from keras_hdf5_answers import describe, write_answers
from tensorflow_recording import ANSWERS_FORM, Arrays, bits, write_provenance

COMMAND = "python validation/oracles/keras_hdf5_keras3.py --out validation/recorded"
PACKAGES = ("keras", "jax", "h5py", "numpy", "ml_dtypes", "safetensors")
SEED = 20210303
SHARD_GB = 450 / 2**30


def nested_model() -> keras.Model:
    """Ids go through one shared Dense twice, a nested model, and layers of four precisions."""
    inner = keras.Sequential(
        [layers.Dense(5, name="first"), layers.LayerNormalization(name="norm"), layers.Dense(4, name="second")],
        name="inner",
    )
    ids = keras.Input((6,), name="ids")
    x = layers.Embedding(11, 4, name="embedding")(ids)
    shared = layers.Dense(4, name="shared")
    x = layers.Add(name="sum")([shared(x), shared(inner(x))])
    x = layers.BatchNormalization(name="batch_norm")(x)
    x = layers.LSTM(3, name="lstm")(x)
    x = layers.Dense(3, dtype="float16", name="half")(x)
    x = layers.Dense(3, dtype="bfloat16", name="brain")(x)
    x = layers.Dense(3, dtype="float64", name="double")(x)
    return keras.Model(ids, layers.Dense(2, name="end")(x), name="outer")


def compiled_model() -> keras.Model:
    given = keras.Input((4,), name="given")
    x = layers.Dense(3, activation="relu", name="hidden")(given)
    model = keras.Model(given, layers.Dense(2, name="out")(x), name="compiled")
    model.compile(keras.optimizers.Adam(1e-3), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model


def assign_random(variables: list[keras.Variable], rng: np.random.Generator) -> None:
    for variable in variables:
        if "float" in keras.backend.standardize_dtype(variable.dtype):
            variable.assign(rng.standard_normal(tuple(variable.shape)).astype(np.float32).astype(str(variable.dtype)))
        else:
            variable.assign(rng.integers(1, 1000, tuple(variable.shape)).astype(str(variable.dtype)))


def check(paths: list[Path], variables: list[keras.Variable]) -> None:
    """Every variable must be found in the files, bit for bit."""
    arrays: list[Arrays] = [describe(path)[1] for path in paths]
    found = {(value.shape, value.tobytes()) for each in arrays for value in map(bits, each.values())}
    for variable in variables:
        value = bits(np.asarray(variable.value))
        if (value.shape, value.tobytes()) not in found:
            raise RuntimeError(f"{paths[0].name}: {variable.path} is not there")


def record(work: Path) -> None:
    keras.utils.set_random_seed(SEED)
    nested, compiled = nested_model(), compiled_model()
    assign_random(nested.variables, np.random.default_rng([SEED, 0]))
    assign_random([*compiled.variables, *compiled.optimizer.variables], np.random.default_rng([SEED, 1]))

    nested.save_weights(work / "model.weights.h5")
    check([work / "model.weights.h5"], nested.weights)

    compiled.save(work / "model.keras")
    with zipfile.ZipFile(work / "model.keras") as archive:
        archive.extract("model.weights.h5", work / "archive")
    (work / "model.keras").unlink()
    check([work / "archive" / "model.weights.h5"], [*compiled.weights, *compiled.optimizer.variables])

    (work / "sharded").mkdir()
    nested.save_weights(work / "sharded" / "model.weights.json", max_shard_size=SHARD_GB)
    shards = sorted((work / "sharded").glob("*.h5"))
    if len(shards) < 2:
        raise RuntimeError(f"expected several files, got {shards}")
    check(shards, nested.weights)

    compiled.save(work / "legacy_model.h5")
    check([work / "legacy_model.h5"], [*compiled.weights, *compiled.optimizer.variables])


WHAT = {
    "model.weights.h5": "save_weights: nested model, shared layer, LSTM, batch normalization, four precisions",
    "archive/model.weights.h5": "the weights in the archive that save writes, with the optimizer's",
    "sharded": "the first model in several files",
    "legacy_model.h5": "the compiled model in the old form, written by Keras 3",
    "form": ANSWERS_FORM.replace("answers.", "NAME."),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives keras_hdf5/keras_3")
    folder: Path = parser.parse_args().out / "keras_hdf5" / "keras_3"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "keras_3"
        work.mkdir()
        record(work)
        for path in sorted(work.rglob("*.h5")):
            write_answers(path)
        shutil.copytree(work, folder, dirs_exist_ok=True)
    facts = {
        "oracle": "Keras 3 writes, h5py reads",
        "seed": SEED,
        "hdf5": h5py.version.hdf5_version,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
