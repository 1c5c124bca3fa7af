"""Record a small random BertForPreTraining of Hugging Face transformers: its files, and what it answers in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/transformers_bert.py --out validation/recorded

Writes `hugging_face_bert/` under `--out`:

* `model/`: `config.json` and `model.safetensors` of save_pretrained, float32;
* `model_bin/`: the same state dictionary saved by torch.save as `pytorch_model.bin`, tied tensors under both names;
* `model_bin_old/`: the same again as files of 2019 have it: `LayerNorm.gamma` and `LayerNorm.beta` for weight and bias,
  no `cls.predictions.decoder.bias`, and the buffer `bert.embeddings.position_ids`;
* `answers.safetensors`, `README.md` (names and shapes).

The library loads all three folders, and all parameters must be the same bit by bit. The answers are computed from the
float32 weights widened to float64, with eager attention. Segment ids and padding masks are part of the input.
"""

from __future__ import annotations

import argparse
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from recording import deterministic, to_array, write_answers, write_provenance
from transformers import BertConfig, BertForPreTraining
from transformers.utils import logging

COMMAND = "python validation/oracles/transformers_bert.py --out validation/recorded"
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
SEED = 20201116
SETTINGS = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
LENGTH, SHORT = 16, 11
NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
DECODER_BIAS = "cls.predictions.decoder.bias"


def random_model(rng: np.random.Generator) -> BertForPreTraining:
    """Return a model whose every parameter is far from its initial value: none can be left out unnoticed."""
    model = BertForPreTraining(BertConfig(**SETTINGS))
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = rng.standard_normal(tuple(weight.shape))
            if "LayerNorm.weight" in name:
                value = 1.0 + 0.2 * drawn
            else:
                value = (0.2 if name.endswith("bias") else 0.3) * drawn
            weight.copy_(torch.from_numpy(value.astype(np.float32)))
    return model.eval()


def old_name(name: str) -> str:
    for new, old in NAMES.items():
        name = name.replace(new, old)
    return name


def write_models(folder: Path, model: BertForPreTraining) -> dict[str, torch.Tensor]:
    """Write the three folders and check that the library reads the same parameters from each."""
    model.save_pretrained(folder / "model")
    state = model.state_dict()
    old = OrderedDict((old_name(name), value) for name, value in state.items() if name != DECODER_BIAS)
    old["bert.embeddings.position_ids"] = torch.arange(SETTINGS["max_position_embeddings"])[None]
    for name, tensors in (("model_bin", state), ("model_bin_old", old)):
        (folder / name).mkdir()
        shutil.copy(folder / "model" / "config.json", folder / name)
        torch.save(tensors, folder / name / "pytorch_model.bin")
    for name in ("model", "model_bin", "model_bin_old"):
        back, report = BertForPreTraining.from_pretrained(folder / name, dtype=torch.float32, output_loading_info=True)
        missing = {key for key in report["missing_keys"] if key != DECODER_BIAS}
        if missing or not all(torch.equal(value, state[key]) for key, value in back.state_dict().items()):
            raise RuntimeError(f"{name}: the library reads other parameters from it; missing {sorted(missing)}")
    return state


def answers(folder: Path, rng: np.random.Generator) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return inputs and float64 outputs, and how far the library's own float32 run is from them."""
    ids = torch.from_numpy(rng.integers(1, SETTINGS["vocab_size"], (2, LENGTH)))
    segments = (torch.arange(LENGTH) >= 7).long()[None].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, SHORT:] = 0
    ids[1, SHORT:] = segments[1, SHORT:] = 0
    tensors = {"ids": ids, "segments": segments, "mask": mask}
    distances = {}
    for dtype in (torch.float64, torch.float32):
        model = BertForPreTraining.from_pretrained(folder / "model", dtype=dtype, attn_implementation="eager").eval()
        for prefix, given in (("", mask), ("unmasked_", None)):
            output = model(ids, attention_mask=given, token_type_ids=segments, output_hidden_states=True)
            body = model.bert(ids, attention_mask=given, token_type_ids=segments)
            found = {
                f"{prefix}hidden": output.hidden_states[-1],
                f"{prefix}pooled": body.pooler_output,
                f"{prefix}mlm_logits": output.prediction_logits,
                f"{prefix}nsp_logits": output.seq_relationship_logits,
            }
            if not prefix:
                found |= {f"hidden_{index}": value for index, value in enumerate(output.hidden_states[:-1])}
            if dtype == torch.float64:
                tensors |= found
            else:
                distances |= {
                    name: float((value.double() - tensors[name]).abs().max()) for name, value in found.items()
                }
    return tensors, distances


def write_readme(folder: Path, state: dict[str, torch.Tensor]) -> None:
    tied = {"cls.predictions.decoder.weight": "the word embeddings", DECODER_BIAS: "`cls.predictions.bias`"}
    lines = [
        "# BertForPreTraining of Hugging Face transformers",
        "",
        "Written by `validation/oracles/transformers_bert.py`. Weights of linear layers are (outputs, inputs).",
        "",
        "`model.safetensors` leaves out the tensors marked as tied; `model_bin/pytorch_model.bin` has both names, which share",
        "a storage; `model_bin_old/pytorch_model.bin` has `gamma` and `beta`, no `cls.predictions.decoder.bias`, and",
        f"`bert.embeddings.position_ids`, int64 [1, {SETTINGS['max_position_embeddings']}].",
        "",
        "| name | shape | old name, or tied to |",
        "|---|---|---|",
    ]
    for name, value in state.items():
        other = f"tied to {tied[name]}" if name in tied else f"`{old_name(name)}`" if old_name(name) != name else ""
        lines.append(f"| `{name}` | {list(value.shape)} | {other} |")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


WHAT = {
    "ids, segments, mask": f"two rows of {LENGTH} tokens; row 1 has {SHORT} and is padded on the right (mask 0)",
    "hidden_0": "after the embeddings' layer norm, with the mask",
    "hidden_1": "after block 0, with the mask",
    "hidden": "after the last block, with the mask; compare where mask is 1",
    "pooled": "tanh of the pooler's dense layer at token 0",
    "mlm_logits": "logits of the masked-token head; compare where mask is 1",
    "nsp_logits": "logits of the next-sentence head",
    "unmasked_...": "the same without a mask: all 16 tokens of row 1 are seen",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives hugging_face_bert")
    folder: Path = parser.parse_args().out / "hugging_face_bert"
    shutil.rmtree(folder, ignore_errors=True)
    deterministic()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.no_grad():
        state = write_models(folder, random_model(np.random.default_rng([SEED, 0])))
        tensors, distances = answers(folder, np.random.default_rng([SEED, 1]))
    write_readme(folder, state)
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    facts = {
        "oracle": "Hugging Face transformers, BertForPreTraining, eager attention, weights widened to float64",
        "seed": SEED,
        "what": WHAT,
        "context": {"max_abs_float32_minus_float64": distances},
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
