"""Record what bert4keras makes of CPM-LM's shards: the author's own convert.py on the recorded small shards, then the model of his example.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python -m pip install --no-deps bert4keras==0.11.5
    python -m pip install torch==2.13.0
    python validation/oracles/bert4keras_cpm.py CONVERT --shards validation/recorded/cpm_megatron/mp2 --out validation/recorded

CONVERT is `convert.py` of bojone/CPM_LM_bert4keras at 13acbd5; nothing of it is copied. It is run as it is but for four constants, which are those
of the released model: the width of a rank's queries (1280, here 12), the number of layers (32, here 2), and the two paths. Writes
`bert4keras_cpm/` under `--out`:

* `config.json`, in the form that his README gives; `model.ckpt.index` and `.data-00000-of-00001`, as convert.py wrote them, without graph;
* `answers.safetensors`: token ids, and the float64 logits of `build_transformer_model(..., model="gpt2")` with these weights, with the GELU that
  his example leaves in place (erf) and with the one that the model was trained with (`set_gelu("tanh")`).

Row 0 of the ids has no id 0 after position 0, row 1 ends in two, row 2 has some inside: <unk>, which bert4keras never lets be seen as a key.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

os.environ["TF_KERAS"] = "1"

import bert4keras_models
import numpy as np
import tensorflow as tf
import torch
from tensorflow_recording import ANSWERS, Arrays, write_arrays, write_json, write_provenance

COMMAND = "python validation/oracles/bert4keras_cpm.py CONVERT --shards validation/recorded/cpm_megatron/mp2 --out validation/recorded"
PACKAGES = ("bert4keras", "tensorflow-cpu", "keras", "torch", "numpy", "safetensors")
SEED, LENGTH = 20201120, 32
CONFIG = {
    "vocab_size": 64,
    "hidden_size": 24,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
WHAT = {
    "model.ckpt": "the shards of cpm_megatron/mp2, by the author's convert.py with other sizes and paths",
    "ids": "int64 (3, 32); row 1 ends in two ids 0, row 2 has some inside",
    "logits": "float64, before the softmax: bert4keras' GELU as it is (erf), id 0 masked as a key except at position 0",
    "logits_gelu_tanh": "the same after set_gelu('tanh')",
}


def run_convert(source: Path, shards: Path, target: Path) -> None:
    """convert.py, with the sizes and paths at hand; what it imports as keras is TensorFlow's."""
    text = source.read_text("utf-8")
    for old, new in (
        ("1280", "12"),
        ("num_hidden_layers = 32", "num_hidden_layers = 2"),
        ("/root/kg/bert/CPM_LM_2.6B_TF/model.ckpt", str(target)),
        ("./model-v1", str(shards)),
    ):
        if old not in text:
            raise RuntimeError(f"convert.py has no {old}")
        text = text.replace(old, new)
    modules = {"keras": tf.keras, "keras.backend": tf.keras.backend, "tqdm": types.SimpleNamespace(tqdm=iter)}
    kept = {name: sys.modules.get(name) for name in modules}
    load = torch.load
    sys.modules |= modules
    torch.load = lambda path, **options: load(path, weights_only=False, **options)  # the default of its time
    try:
        exec(compile(text, str(source), "exec"), {"__name__": "convert"})
    finally:
        torch.load = load
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def answers_of(folder: Path, ids: np.ndarray) -> Arrays:
    answers: Arrays = {"ids": ids}
    for gelu, name in (("erf", "logits"), ("tanh", "logits_gelu_tanh")):
        transformer = bert4keras_models.build("gpt2", folder / "config.json", "float64", gelu)
        transformer.load_weights_from_checkpoint(str(folder / "model.ckpt"))
        found = bert4keras_models.answer("gpt2", transformer, {"ids": ids})
        answers[name] = found["logits"]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convert", type=Path)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    bert4keras_models.prepare()
    rng = np.random.default_rng(SEED)
    ids = rng.integers(1, CONFIG["vocab_size"], (3, LENGTH)).astype(np.int64)
    ids[1, -2:] = 0
    ids[2, [0, 5, 6, 20]] = 0
    folder = arguments.out / "bert4keras_cpm"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "bert4keras_cpm"
        work.mkdir()
        write_json(work / "config.json", CONFIG)
        run_convert(arguments.convert, arguments.shards, work / "model.ckpt")
        for name in ("model.ckpt.meta", "checkpoint"):
            (work / name).unlink()
        write_arrays(work / ANSWERS, answers_of(work, ids))
        shutil.copytree(work, folder, dirs_exist_ok=True)
    facts = {"oracle": "convert.py of CPM_LM_bert4keras 13acbd5, bert4keras in float64", "seed": SEED, "what": WHAT}
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
