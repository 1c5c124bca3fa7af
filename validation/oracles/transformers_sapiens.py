"""Record the masked-LM logits of the two antibody RoBERTas in the package sapiens, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python -m pip download --no-deps sapiens==1.0.3
    python -m zipfile -e sapiens-1.0.3-py3-none-any.whl unpacked
    python validation/oracles/transformers_sapiens.py --models unpacked/sapiens/models/v1 --out validation/recorded

Writes `sapiens/` under `--out`: `answers.safetensors` and `provenance.json`. The weights are not copied. They were
trained by fairseq 0.10.2, which does not install on current Pythons; here torch reads the checkpoint, every class it
does not know replaced by an empty one, and RobertaForMaskedLM of Hugging Face transformers computes with them, in
float64 and with eager attention. Beyond 144 positions (the light model has 128) the library is given a table made here, row by row.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import types
from pathlib import Path

import numpy as np
import torch
from recording import deterministic, sha256, to_array, write_answers, write_provenance
from transformers import RobertaConfig, RobertaForMaskedLM
from transformers.utils import logging

COMMAND = (
    "python validation/oracles/transformers_sapiens.py --models unpacked/sapiens/models/v1 --out validation/recorded"
)
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
SEED, LENGTH, SHORT, LONG, ALPHA = 20201103, 120, 97, 300, 0.4
KNOWN = ("torch", "collections", "argparse", "numpy", "builtins", "_codecs")
NAMES = {
    "sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}
LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
WHAT = {
    "ids": f"int64 [2, {LENGTH}], rows of {LENGTH} and {SHORT} tokens: 0, residues 4..23 with some masks 24, 2; then padding 1",
    "vh_logits": "float64 [2, n, 25], heavy chains' model",
    "vl_logits": "float64 [2, n, 25], light chains' model",
    "long_ids": f"int64 [1, {LONG}]",
    "long_logits": f"float64 [1, {LONG}, 25], heavy chains' model with {LONG} positions made with alpha = {ALPHA}",
}


class Empty:
    """What stands for a class of fairseq."""

    def __init__(self, *args: object, **options: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if module.partition(".")[0] in KNOWN:
            return super().find_class(module, name)
        return type(name, (Empty,), {"__module__": module})


def read(path: Path) -> tuple[dict[str, torch.Tensor], argparse.Namespace]:
    module = types.SimpleNamespace(
        Unpickler=Unpickler, load=lambda file, **o: Unpickler(file, **o).load(), __name__="pickle"
    )
    saved = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    return saved["model"], saved["args"]


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in state.items():
        short = name.removeprefix("decoder.")
        if short in ("lm_head.weight", "lm_head.bias"):
            found[{"lm_head.weight": "lm_head.decoder.weight", "lm_head.bias": "lm_head.bias"}[short]] = value
            continue
        place, _, kind = short.rpartition(".")
        if place.startswith("sentence_encoder.layers."):
            _, _, number, rest = place.split(".", 3)
            found[f"roberta.encoder.layer.{number}.{LAYER[rest]}.{kind}"] = value
        else:
            found[f"{NAMES[place]}.{kind}"] = value
    return found


def model_of(path: Path) -> RobertaForMaskedLM:
    state, settings = read(path)
    if settings.activation_fn != "gelu":
        raise RuntimeError(f"the checkpoint's activation is {settings.activation_fn}")
    vocab, width = state["decoder.sentence_encoder.embed_tokens.weight"].shape
    config = RobertaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=settings.encoder_layers,
        num_attention_heads=settings.encoder_attention_heads,
        intermediate_size=settings.encoder_ffn_embed_dim,
        max_position_embeddings=len(state["decoder.sentence_encoder.embed_positions.weight"]),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_act="gelu",
        attn_implementation="eager",
    )
    model = RobertaForMaskedLM(config)
    tensors = renamed(state)
    tensors["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, width)
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
    report = model.load_state_dict(tensors, strict=False)
    left = [name for name in report.missing_keys if not name.endswith(("position_ids", "token_type_ids"))]
    if left or report.unexpected_keys:
        raise RuntimeError(f"missing {left}, unexpected {report.unexpected_keys}")
    return model.double().eval()


def extend(model: RobertaForMaskedLM, to: int) -> None:
    """Rows 0 and 1 stay; row 2 + (i - 1) n + j is alpha u[i] + (1 - alpha) u[j]."""
    embeddings = model.roberta.embeddings
    head, table = embeddings.position_embeddings.weight[:2], embeddings.position_embeddings.weight[2:]
    rows = []
    for t in range(to):
        u_i, u_j = ((table[k] - ALPHA * table[0]) / (1 - ALPHA) for k in divmod(t, len(table)))
        rows.append(ALPHA * u_i + (1 - ALPHA) * u_j)
    embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(
        torch.cat([head, torch.stack(rows)]), padding_idx=1
    )
    embeddings.position_ids = torch.arange(to + 2)[None]
    embeddings.token_type_ids = torch.zeros(1, to + 2, dtype=torch.int64)


def draw(rng: np.random.Generator, length: int) -> list[int]:
    residues = rng.integers(4, 24, length - 2)
    residues[rng.random(length - 2) < 0.1] = 24
    return [0, *residues.tolist(), 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder models/v1 of the wheel")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives sapiens")
    options = parser.parse_args()
    folder: Path = options.out / "sapiens"
    shutil.rmtree(folder, ignore_errors=True)
    deterministic()
    logging.set_verbosity_error()
    rng = np.random.default_rng(SEED)
    rows = [draw(rng, LENGTH), draw(rng, SHORT) + [1] * (LENGTH - SHORT)]
    tensors = {"ids": torch.tensor(rows), "long_ids": torch.tensor([draw(rng, LONG)])}
    with torch.no_grad():
        for chain in ("vl", "vh"):
            model = model_of(options.models / f"checkpoint_{chain}.pt")
            mask = (tensors["ids"] != 1).long()
            tensors[f"{chain}_logits"] = model(
                tensors["ids"], attention_mask=mask, token_type_ids=torch.zeros_like(mask)
            ).logits
        extend(model, LONG)
        tensors["long_logits"] = model(tensors["long_ids"], token_type_ids=torch.zeros_like(tensors["long_ids"])).logits
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    files = [f"checkpoint_{chain}.pt" for chain in ("vh", "vl")]
    facts = {
        "oracle": "Hugging Face transformers, RobertaForMaskedLM, eager attention, weights widened to float64",
        "model": {"package": "sapiens 1.0.3", "sha256": {name: sha256(options.models / name) for name in files}},
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
