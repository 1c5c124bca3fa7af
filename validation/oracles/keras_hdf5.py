"""Record the HDF5 files that Keras 2 (tf.keras) writes, and what h5py reads from them.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python validation/oracles/keras_hdf5.py --out validation/recorded

Writes `keras_hdf5/keras_2/` under `--out`; `keras_hdf5_answers.py` says what stands beside each file:

* `weights.h5`: `save_weights` of a model with a nested model, a shared layer, a recurrent one, batch normalization,
  a layer without weights, and weights of float16, float32 and float64;
* `model.h5`: `save` of a compiled model after its optimizer was built: configuration, weights, and the optimizer's;
* `long_names.h5`: `save_weights` of a model whose layer names are so long together that Keras splits the attribute
  `layer_names` into `layer_names0` and `layer_names1`.

Every weight of the models is compared with a dataset of the file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import numpy as np
import tensorflow as tf
from keras_hdf5_answers import describe, write_answers
from tensorflow_recording import ANSWERS_FORM, write_provenance

COMMAND = "python validation/oracles/keras_hdf5.py --out validation/recorded"
PACKAGES = ("tensorflow-cpu", "keras", "h5py", "numpy", "safetensors")
SEED = 20210302
layers = tf.keras.layers


def nested_model() -> tf.keras.Model:
    """Ids go through one shared Dense twice, a nested model, and layers of three precisions."""
    inner = tf.keras.Sequential(
        [layers.Dense(5, name="first"), layers.LayerNormalization(name="norm"), layers.Dense(4, name="second")],
        name="inner",
    )
    ids = tf.keras.Input((6,), name="ids")
    x = layers.Embedding(11, 4, name="embedding")(ids)
    shared = layers.Dense(4, name="shared")
    x = layers.Add(name="sum")([shared(x), shared(inner(x))])
    x = layers.BatchNormalization(name="batch_norm")(x)
    x = layers.LSTM(3, name="lstm")(x)
    x = layers.Dense(3, dtype="float16", name="half")(x)
    x = layers.Dense(3, dtype="float64", name="double")(x)
    return tf.keras.Model(ids, layers.Dense(2, name="scope/with/slashes")(x), name="outer")


def compiled_model() -> tf.keras.Model:
    given = tf.keras.Input((4,), name="given")
    x = layers.Dense(3, activation="relu", name="hidden")(given)
    model = tf.keras.Model(given, layers.Dense(2, name="out")(x), name="compiled")
    model.compile(tf.keras.optimizers.Adam(1e-3), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model


def long_named_model() -> tf.keras.Model:
    """One name of 21,600 letters: in an array of strings of fixed length every name takes as much."""
    names = ["layer_" + "long" * 5400, "short"]
    return tf.keras.Sequential([layers.Activation("relu", name=name) for name in names] + [layers.Dense(2, name="end")])


def assign_random(variables: list[tf.Variable], rng: np.random.Generator) -> None:
    for variable in variables:
        if variable.dtype.is_floating:
            variable.assign(rng.standard_normal(variable.shape).astype(variable.dtype.as_numpy_dtype))
        else:
            variable.assign(int(rng.integers(1, 1000)))


def check(path: Path, variables: list[tf.Variable]) -> None:
    """Every variable must be found in the file, bit for bit."""
    found = {array.dtype.str + str(array.shape) + array.tobytes().hex() for array in describe(path)[1].values()}
    for variable in variables:
        value = np.asarray(variable.numpy())
        if value.dtype.str + str(value.shape) + value.tobytes().hex() not in found:
            raise RuntimeError(f"{path.name}: {variable.name} is not there")


WHAT = {
    "weights.h5": "save_weights: nested model, shared layer, LSTM, batch normalization, three precisions",
    "model.h5": "save of a compiled model: attributes model_config and training_config, model_weights, optimizer_weights",
    "long_names.h5": "save_weights: the attribute layer_names is split in two",
    "form": ANSWERS_FORM.replace("answers.", "NAME."),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives keras_hdf5/keras_2")
    folder: Path = parser.parse_args().out / "keras_hdf5" / "keras_2"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "keras_2"
        work.mkdir()
        for index, (name, make) in enumerate(
            (("weights.h5", nested_model), ("model.h5", compiled_model), ("long_names.h5", long_named_model))
        ):
            tf.keras.backend.clear_session()
            model = make()
            if not model.built:
                model.build((None, 3))
            variables = [*model.variables, *(model.optimizer.variables if name == "model.h5" else [])]
            assign_random(variables, np.random.default_rng([SEED, index]))
            model.save(work / name) if name == "model.h5" else model.save_weights(work / name)
            check(work / name, variables)
            write_answers(work / name)
        shutil.copytree(work, folder, dirs_exist_ok=True)
    facts = {
        "oracle": "tf.keras writes, h5py reads",
        "seed": SEED,
        "hdf5": h5py.version.hdf5_version,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
