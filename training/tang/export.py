"""Export the trained checkpoint as a Hugging Face GPT-2 folder: float16 weights, plain tokenizer, configurations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

BOS, UNK = "<|endoftext|>", "<unk>"
NAMES = {
    "attn_proj": "attn.c_proj",
    "c_attn": "attn.c_attn",
    "c_fc": "mlp.c_fc",
    "mlp_proj": "mlp.c_proj",
}


def hugging_face_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under GPT-2 names; GPT-2 keeps its projection matrices as [in, out]."""
    renamed = {}
    for name, weight in state.items():
        parts = name.replace("blocks.", "h.").split(".")
        if parts[-2] in NAMES:
            weight = weight.T.contiguous() if weight.ndim == 2 else weight
            parts[-2] = NAMES[parts[-2]]
        renamed["transformer." + ".".join(parts)] = weight
    return renamed


def tokenizer_json(vocab: dict[str, int]) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos, text = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    pair = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[token], "content": token, **flags} for token in (BOS, UNK)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, pair],
            "special_tokens": {BOS: {"id": BOS, "ids": [vocab[BOS]], "tokens": [BOS]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": UNK},
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with checkpoint.pt and vocab.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()

    saved = torch.load(args.work / "checkpoint.pt", weights_only=True)
    vocab = json.loads((args.work / "vocab.json").read_text(encoding="utf-8"))
    shape = saved["shape"]
    config = GPT2Config(
        vocab_size=shape["vocab"],
        n_positions=shape["positions"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=vocab[BOS],
        eos_token_id=vocab[BOS],
    )
    model = GPT2LMHeadModel(config)
    missing, unexpected = model.load_state_dict(hugging_face_state(saved["model"]), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=vocab[BOS],
        eos_token_id=vocab[BOS],
        pad_token_id=vocab[BOS],
        do_sample=True,
        temperature=0.8,
        top_k=40,
        max_length=shape["positions"],
    )
    model.half().save_pretrained(args.out)  # the one rounding to float16
    (args.out / "model.safetensors").chmod(0o644)
    write_json(args.out / "tokenizer.json", tokenizer_json(vocab))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": BOS, "unk_token": UNK}
    settings |= {"model_max_length": shape["positions"], "clean_up_tokenization_spaces": False}
    write_json(args.out / "tokenizer_config.json", settings)


if __name__ == "__main__":
    main()
