"""Record the checkpoints that bert4keras writes for small random models, and what it answers from them in float64.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python -m pip install --no-deps bert4keras==0.11.5
    python validation/oracles/bert4keras_models.py --out validation/recorded

Writes `bert4keras/` under `--out`, one folder a model: `gpt2` (the architecture of CPM-LM), `gpt` (with segments),
`gpt2_ml`, `bert` and `nezha` (both with pooler, next sentence and masked language model). Each holds

* `config.json`, as bert4keras reads it;
* `model.ckpt.index` and `model.ckpt.data-00000-of-00001`, written by `save_weights_as_checkpoint` in float32; of `gpt`
  also `model_float16.ckpt` (with `dtype="float16"`) and `model.h5` by `save_weights`. The `.meta` file with the graph and the
  file `checkpoint`, which names the folder of the run, are not kept;
* `variables.json`: the variables of the checkpoint, and for every layer the names of its weights in Keras beside those of
  the variables that hold them, `transposed` where the checkpoint does;
* `answers.safetensors`: token ids, segments, and float64 outputs of the model that `load_weights_from_checkpoint` makes
  of the recorded checkpoint: float32 weights widen exactly, and everything after that is float64.

Row 0 of the ids has no id 0, row 1 ends in two, row 2 has one inside and one at the front: bert4keras never lets id 0 be
seen as a key, except at position 0.

Three things must be set up for bert4keras under TensorFlow 2.15: `tf.keras.layers` must be touched before the import,
graph mode must be on, and `tf.Session` and `tf.train.Saver` are taken from `tf.compat.v1`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["TF_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import numpy as np
import tensorflow as tf
from keras_hdf5_answers import describe
from tensorflow_recording import ANSWERS, Arrays, write_arrays, write_json, write_provenance

K = tf.keras.backend
COMMAND = "python validation/oracles/bert4keras_models.py --out validation/recorded"
PACKAGES = ("bert4keras", "tensorflow-cpu", "keras", "h5py", "numpy", "safetensors")
SEED = 20210305
CHECKPOINT = "model.ckpt"
LENGTH = 8
BASE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": BASE,
    "gpt": {**BASE, "type_vocab_size": 3},
    "gpt2_ml": BASE,
    "bert": {**BASE, "type_vocab_size": 2},
    "nezha": {**BASE, "type_vocab_size": 2},
}
HEADS = {"with_pool": True, "with_nsp": True, "with_mlm": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"final_activation": "linear"},
    "gpt": {"final_activation": "linear"},
    "gpt2_ml": {"final_activation": "linear"},
    "bert": HEADS,
    "nezha": HEADS,
}


def prepare() -> None:
    """What bert4keras needs before it is imported."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.compat.v1.disable_eager_execution()
    tf.Session, tf.train.Saver = tf.compat.v1.Session, tf.compat.v1.train.Saver
    if not tf.keras.layers:
        raise RuntimeError("tf.keras has no layers")


def build(kind: str, config: Path, floatx: str, gelu: str = "erf") -> Any:
    from bert4keras.backend import set_gelu
    from bert4keras.models import build_transformer_model

    K.clear_session()
    K.set_floatx(floatx)
    set_gelu(gelu)
    return build_transformer_model(str(config), model=kind, return_keras_model=False, **OPTIONS[kind])


def assign_random(model: tf.keras.Model, rng: np.random.Generator) -> None:
    """Every weight is far from its initial value: none can be left out unnoticed."""
    pairs = []
    for weight in model.trainable_weights:
        drawn = rng.standard_normal(K.int_shape(weight))
        if "gamma" in weight.name:
            drawn = 1.0 + 0.2 * drawn
        elif "beta" in weight.name or "bias" in weight.name:
            drawn = 0.2 * drawn
        else:
            drawn = 0.3 * drawn
        pairs.append((weight, drawn.astype(np.float32)))
    K.batch_set_value(pairs)


def given(kind: str, rng: np.random.Generator) -> Arrays:
    ids = rng.integers(1, BASE["vocab_size"], (3, LENGTH))
    ids[1, -2:] = 0
    ids[2, [0, 3]] = 0
    inputs: Arrays = {"ids": ids.astype(np.int64)}
    if segments := CONFIGS[kind].get("type_vocab_size"):
        inputs["segments"] = np.sort(rng.integers(0, segments, (3, LENGTH)), -1).astype(np.int64)
    return inputs


def outputs_of(kind: str, transformer: Any) -> dict[str, Any]:
    """Name of the answer -> tensor of the graph."""

    def layer(name: str) -> Any:
        return transformer.layers[name].output

    last = BASE["num_hidden_layers"] - 1
    if kind not in ("bert", "nezha"):
        return {"logits": transformer.model.output}
    return {
        "embeddings": layer("Embedding-Norm"),
        **{f"layer_{index}": layer(f"Transformer-{index}-FeedForward-Norm") for index in range(last)},
        "encoder": layer(f"Transformer-{last}-FeedForward-Norm"),
        "pooled": layer("Pooler-Dense"),
        "nsp_probabilities": layer("NSP-Proba"),
        "mlm_logits": layer("MLM-Bias"),
        "mlm_probabilities": layer("MLM-Activation"),
    }


def answer(kind: str, transformer: Any, inputs: Arrays) -> Arrays:
    wanted = outputs_of(kind, transformer)
    model = tf.keras.Model(transformer.model.inputs, list(wanted.values()))
    results = model.predict_on_batch([inputs[name] for name in inputs])
    return dict(zip(wanted, results if isinstance(results, list) else [results], strict=True))


def variables(folder: Path, transformer: Any) -> dict[str, Any]:
    """The checkpoint's variables, and which weight of which layer each holds, checked value by value."""
    reader = tf.train.load_checkpoint(str(folder / CHECKPOINT))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    layers: dict[str, Any] = {}
    for name, stored in transformer.variable_mapping().items():
        if name not in transformer.layers:
            continue
        weights = transformer.layers[name].trainable_weights
        layers[name] = []
        for weight, variable in zip(weights, stored, strict=True):
            value, found = K.get_value(weight), reader.get_tensor(variable)
            transposed = not (found.shape == value.shape and np.array_equal(found, value))
            if transposed and not np.array_equal(found.T, value):
                raise RuntimeError(f"{variable} does not hold {weight.name}")
            layers[name].append({"weight": weight.name, "variable": variable, "transposed": transposed})
    held = {entry["variable"] for entries in layers.values() for entry in entries}
    if held != set(shapes):
        raise RuntimeError(f"variables without a layer: {set(shapes) - held}")
    described = {name: {"dtype": tf.as_dtype(dtypes[name]).name, "shape": shapes[name]} for name in sorted(shapes)}
    return {"variables": described, "layers": layers}


def write_model(folder: Path, kind: str, rng: np.random.Generator, inputs: Arrays) -> Arrays:
    """Write config and checkpoint of a random float32 model; return what the float32 model answers."""
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind], indent=2) + "\n", encoding="utf-8")
    transformer = build(kind, folder / "config.json", "float32")
    assign_random(transformer.model, rng)
    transformer.save_weights_as_checkpoint(str(folder / CHECKPOINT))
    record = variables(folder, transformer)
    if kind == "gpt":
        transformer.save_weights_as_checkpoint(str(folder / "model_float16.ckpt"), dtype="float16")
        transformer.model.save_weights(str(folder / "model.h5"))
        record |= {"hdf5": hdf5_names(folder / "model.h5", transformer, record["layers"])}
    for path in [folder / "checkpoint", *folder.glob("*.meta")]:
        path.unlink()
    write_json(folder / "variables.json", record)
    return answer(kind, transformer, inputs)


def hdf5_names(path: Path, transformer: Any, layers: dict[str, Any]) -> dict[str, str]:
    """Path of every dataset in the HDF5 file -> variable of the checkpoint with the same values."""
    arrays = describe(path)[1]
    with h5py.File(path) as file:
        names = {layer: [as_text(name) for name in file[layer].attrs["weight_names"]] for layer in layers}
    found = {}
    for layer, entries in layers.items():
        weights = transformer.layers[layer].trainable_weights
        for name, entry, weight in zip(names[layer], entries, weights, strict=True):
            if not np.array_equal(arrays[f"{layer}/{name}"], K.get_value(weight)):
                raise RuntimeError(f"{name}: other values in {path.name}")
            found[f"{layer}/{name}"] = entry["variable"]
    if set(found) != set(arrays):
        raise RuntimeError(f"{path.name}: datasets without a variable: {set(arrays) - set(found)}")
    return found


def as_text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def exact_answers(folder: Path, kind: str, inputs: Arrays) -> Arrays:
    """What the model in float64 answers from the checkpoint; GPT-2 also with the other GELU."""
    answers: Arrays = {}
    for gelu, ending in (("erf", ""), ("tanh", "_gelu_tanh")):
        if gelu == "tanh" and kind != "gpt2":
            continue
        transformer = build(kind, folder / "config.json", "float64", gelu)
        transformer.load_weights_from_checkpoint(str(folder / CHECKPOINT))
        answers |= {name + ending: value for name, value in answer(kind, transformer, inputs).items()}
    return answers


def record(folder: Path, kind: str, index: int) -> float:
    """Record one model; return the largest distance of its float32 answers from the float64 ones."""
    folder.mkdir()
    rng = np.random.default_rng([SEED, index])
    inputs = given(kind, rng)
    rough = write_model(folder, kind, rng, inputs)
    exact = exact_answers(folder, kind, inputs)
    for name, value in exact.items():
        if value.dtype != np.float64 or not np.isfinite(value).all():
            raise RuntimeError(f"{kind}: {name} is {value.dtype}, or not finite")
    write_arrays(folder / ANSWERS, {**inputs, **exact})
    apart = max(float(np.abs(rough[name] - exact[name]).max()) for name in rough)
    if not apart < 1e-4:
        raise RuntimeError(f"{kind}: float32 and float64 answers are {apart} apart")
    return apart


WHAT = {
    "ids, segments": "inputs, int64; row 1 ends in two ids 0, row 2 has ids 0 at positions 0 and 3",
    "logits": "of gpt2, gpt, gpt2_ml: before the softmax, for every position",
    "logits_gelu_tanh": "of gpt2 after set_gelu('tanh'), which is what CPM-LM was trained with; the default is erf",
    "embeddings, layer_0, encoder": "of bert, nezha: after the layer norm of the embeddings, of block 0 and of block 1",
    "pooled, nsp_probabilities": "tanh of the pooler's dense layer on position 0, and the softmax over two classes",
    "mlm_logits, mlm_probabilities": "masked language model, for every position",
    "variables.json": (
        "variables: name -> dtype, shape; layers: layer -> weights in Keras and their variables; hdf5 (of gpt): "
        "dataset of model.h5 -> variable"
    ),
}
CONTEXT = {
    "layer_norm_epsilon": {
        "gpt2, gpt2_ml": 1e-5,
        "gpt, bert": 1e-12,
        "nezha": "1e-7, but 1e-12 in the norm of the masked language model",
    },
    "masked_keys": "id 0 at positions other than 0, in all models, by minus infinity",
    "nezha": "the relative positions are a fixed sinusoid, which the checkpoint does not hold",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives bert4keras")
    folder: Path = parser.parse_args().out / "bert4keras"
    prepare()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "bert4keras"
        work.mkdir()
        apart = {kind: record(work / kind, kind, index) for index, kind in enumerate(CONFIGS)}
        for path in work.rglob("*"):
            if path.is_file() and temporary.encode() in path.read_bytes():
                raise RuntimeError(f"{path.name} holds the name of the temporary folder")
        shutil.copytree(work, folder, dirs_exist_ok=True)
    context = {**CONTEXT, "largest_distance_of_float32_answers": apart}
    facts = {"oracle": "bert4keras, float64", "seed": SEED, "what": WHAT, "context": context}
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
