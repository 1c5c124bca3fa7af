"""Record residual attention, language-model masks and hierarchical positions of two versions of bert4keras, in float64.

    python -m pip install -r validation/oracles/requirements-tensorflow.txt
    python -m pip install --no-deps bert4keras==0.11.5
    python -m pip install --no-deps --target older bert4keras==0.9.8
    python validation/oracles/bert4keras_attention.py --out validation/recorded
    PYTHONPATH=older python validation/oracles/bert4keras_attention.py --out validation/recorded

The first run, with 0.11.5, writes a random BERT of four layers as a checkpoint into `bert4keras_attention/`, and its answers; the second, with
0.9.8, answers from that checkpoint and writes the provenance. Nothing of either version is edited; what must be set up before the import
is `prepare` of bert4keras_models.py. 0.11.5 has no answer of residual attention with the masks of language models: it raises TypeError.
0.9.8 has none of residual attention in a NEZHA, which is read from the same checkpoint, without such a mask: it raises IndexError.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bert4keras_models import BASE, CHECKPOINT, K, assign_random, prepare, tf
from tensorflow_recording import Arrays, write_arrays, write_provenance

COMMAND = "python validation/oracles/bert4keras_attention.py --out validation/recorded   (with 0.11.5, then with 0.9.8)"
PACKAGES = ("tensorflow-cpu", "keras", "numpy", "safetensors")
SEED = 20210112
NEWER, OLDER = "0.11.5", "0.9.8"
CONFIG = {**BASE, "num_hidden_layers": 4, "max_position_embeddings": 8, "type_vocab_size": 2}
LAST = "Transformer-3-FeedForward-Norm"
ATTENTION = "Transformer-%d-MultiHeadSelfAttention"
WHAT = {
    "ids, segments": "three texts of 8 tokens: row 0 has no id 0, row 1 ends in two, row 2 has one at position 3",
    "long_ids, long_segments": "two texts of 30 tokens without id 0, for hierarchical positions",
    "residual": "last hidden state with residual_attention_scores=True; compare where ids are not 0",
    "residual_unilm": "logits of words with residual_attention_scores=True, application='unilm' (0.9.8); compare where ids are not 0",
    "residual_scores": "scores that each layer hands on with residual_attention_scores=True (0.9.8), (layer, text, head, query, key)",
    "residual_nezha_unilm": "last hidden state of a NEZHA with residual_attention_scores=True, application='unilm' (0.9.8); compare where ids "
    "are not 0",
    "lm, unilm": "logits of words with application='lm', 'unilm'; of 0.9.8 compare where ids are not 0",
    "hierarchical": "last hidden state of the long texts with hierarchical_position=True, 30 positions from a table of 8",
    "answers_VERSION.safetensors": "by that version; inputs are in that of 0.11.5",
}
CONTEXT = {
    "masked_keys": "id 0 at positions other than 0; 0.9.8 also sets the output of attention to zero where a query is masked",
    "masks": "-1e12 in 0.9.8, minus infinity in 0.11.5",
    "layer_norm_epsilon": 1e-12,
    "head": "the logits are those of the layer MLM-Bias, before the softmax",
}


def built(folder: Path, floatx: str, **options: Any) -> Any:
    from bert4keras.models import build_transformer_model

    K.clear_session()
    K.set_floatx(floatx)
    options = {"model": "bert", "return_keras_model": False} | options
    return build_transformer_model(str(folder / "config.json"), **options)


def answer(folder: Path, layer: str, ids: Any, segments: Any, *, scores: bool = False, **options: Any) -> np.ndarray:
    transformer = built(folder, "float64", **options)
    transformer.load_weights_from_checkpoint(str(folder / CHECKPOINT))
    output = transformer.layers[layer].output
    model = tf.keras.Model(transformer.model.inputs, output[1] if scores else output)
    found = model.predict_on_batch([ids, segments])
    if found.dtype != np.float64 or not np.isfinite(found).all():
        raise RuntimeError(f"{options}: {found.dtype}, or not finite")
    return found


def inputs(rng: np.random.Generator) -> Arrays:
    ids, long_ids = (rng.integers(1, CONFIG["vocab_size"], shape) for shape in ((3, 8), (2, 30)))
    ids[1, -2:] = 0
    ids[2, 3] = 0
    found = {"ids": ids, "long_ids": long_ids}
    return found | {
        name.replace("ids", "segments"): np.sort(rng.integers(0, 2, a.shape), -1) for name, a in found.items()
    }


def write_model(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    transformer = built(folder, "float32", with_mlm=True)
    assign_random(transformer.model, rng)
    transformer.save_weights_as_checkpoint(str(folder / CHECKPOINT))
    for path in [folder / "checkpoint", *folder.glob("*.meta")]:
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives bert4keras_attention")
    folder: Path = parser.parse_args().out / "bert4keras_attention"
    prepare()
    current, rng = version("bert4keras"), np.random.default_rng(SEED)
    given = inputs(rng)
    if current == NEWER:
        write_model(folder, rng)
    texts, long_texts = (given["ids"], given["segments"]), (given["long_ids"], given["long_segments"])
    found = {
        "residual": answer(folder, LAST, *texts, residual_attention_scores=True),
        "hierarchical": answer(folder, LAST, *long_texts, hierarchical_position=True),
    }
    found |= {name: answer(folder, "MLM-Bias", *texts, with_mlm=True, application=name) for name in ("lm", "unilm")}
    if current == OLDER:
        options = {"scores": True, "residual_attention_scores": True}
        handed = [answer(folder, ATTENTION % layer, *texts, **options) for layer in range(CONFIG["num_hidden_layers"])]
        found["residual_scores"] = np.stack(handed)
        options = {"model": "nezha", "residual_attention_scores": True}
        found["residual_nezha_unilm"] = answer(folder, LAST, *texts, application="unilm", **options)
        try:
            answer(folder, LAST, *texts, **options)
        except IndexError:
            pass
        else:
            raise RuntimeError("residual attention of a NEZHA without a mask was expected to raise IndexError")
    options = {"with_mlm": True, "application": "unilm", "residual_attention_scores": True}
    try:
        found["residual_unilm"] = answer(folder, "MLM-Bias", *texts, **options)
    except TypeError:
        if current != NEWER:
            raise
    write_arrays(folder / f"answers_{current}.safetensors", {**(given if current == NEWER else {}), **found})
    if current == OLDER:
        facts = {
            "oracle": f"bert4keras {NEWER} and {OLDER}, float64, unedited",
            "seed": SEED,
            "what": WHAT,
            "context": CONTEXT,
        }
        write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
