"""Record what Hugging Face transformers answers for the embedded character model on Tang verse, in float64.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/transformers_embedded.py --model refimpl/embedded/tang --out validation/recorded

`--model` is any Hugging Face GPT-2 folder with `tokenizer.json`; the weights, of whatever type, are widened to float64.
Writes `embedded_tang/answers.safetensors` and `embedded_tang/provenance.json` under `--out`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from recording import Arrays, deterministic, sha256, to_array, write_answers, write_provenance
from tokenizers import Tokenizer
from transformers import GenerationConfig, GPT2LMHeadModel
from transformers.utils import logging

COMMAND = "python validation/oracles/transformers_embedded.py --model refimpl/embedded/tang --out validation/recorded"
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
NEW_TOKENS = 24
TEXTS = (
    "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "朝辞白帝彩云间，千里江陵一日还。\n两岸猿声啼不住，轻舟已过万重山。",
    "白日依山尽，黄河入海流。\n欲穷千里目，",
    "春",
    "明月鿿光☃，",  # U+9FFF and a snowman: no character model of Tang verse knows them
)


def load(folder: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    model.generation_config = GenerationConfig()
    return model


def greedy(model: GPT2LMHeadModel, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the continuation of the row, never stopped by an end token, and the smallest gap of first to second."""
    smallest = float("inf")
    start = ids.shape[1]
    for _ in range(min(NEW_TOKENS, model.config.n_positions - start)):
        best = model(ids).logits[0, -1].topk(2)
        smallest = min(smallest, float(best.values[0] - best.values[1]))
        ids = torch.cat([ids, best.indices[None, :1]], dim=1)
    return ids[0, start:], smallest


def check_generate(model: GPT2LMHeadModel, ids: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse when the library's own greedy decoding, cached and choosing in float32, goes another way."""
    model.config.eos_token_id = model.config.bos_token_id = None
    config = GenerationConfig(do_sample=False, max_new_tokens=len(expected), pad_token_id=0)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :]
    if not torch.equal(found, expected):
        raise RuntimeError(f"greedy decoding in float64 gives {expected.tolist()}, generate gives {found.tolist()}")


def without_end(ids: list[int], eos: int | None) -> list[int]:
    """Return the ids without a final end token, which a tokenizer may add, so that the text can be continued."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids


def answer(model: GPT2LMHeadModel, ids: torch.Tensor, prompt: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    logits = model(ids).logits[0]
    chosen = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    answers = {"ids": ids[0], "log_probabilities": chosen, "last_logits": logits[-1]}
    if len(chosen):
        answers["mean_negative_log_likelihood"] = -chosen.mean()
    new, gap = greedy(model, prompt)
    check_generate(model, prompt, new)
    return answers | {"prompt_ids": prompt[0], "greedy": new}, gap


WHAT = {
    "textN_ids": "tokenizer.json applied to text N with add_special_tokens=True",
    "textN_log_probabilities": "log p(ids[i + 1] | ids[0..i]) for every i, one fewer than ids",
    "textN_mean_negative_log_likelihood": "minus the mean of the log-probabilities (absent when there are none)",
    "textN_last_logits": "logits after the last id of textN_ids",
    "textN_prompt_ids": "textN_ids without a final end token, if the tokenizer adds one",
    "textN_greedy": f"the {NEW_TOKENS} most probable next tokens after textN_prompt_ids, end tokens not stopping it",
}


def record(source: Path, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    model, single = load(source, torch.float64), load(source, torch.float32)
    eos = model.config.eos_token_id
    arrays: Arrays = {}
    texts: list[dict[str, Any]] = []
    for index, text in enumerate(TEXTS):
        encoded = tokenizer.encode(text, add_special_tokens=True)
        ids = torch.tensor([encoded.ids])
        prompt = torch.tensor([without_end(encoded.ids, eos)])
        answers, gap = answer(model, ids, prompt)
        arrays |= {f"text{index}_{name}": to_array(value) for name, value in answers.items()}
        distance = (single(ids).logits[0, -1].double() - answers["last_logits"]).abs().max()
        texts.append(
            {
                "text": text,
                "greedy_text": tokenizer.decode(answers["greedy"].tolist(), skip_special_tokens=False),
                "greedy_smallest_gap_between_best_and_second_logit": gap,
                "max_abs_float32_minus_float64_last_logits": float(distance),
            }
        )
    facts = {
        "oracle": "Hugging Face transformers, GPT2LMHeadModel, eager attention, weights widened to float64; tokenizers",
        "model_sha256": {
            path.name: sha256(path)
            for path in sorted(source.iterdir())
            if path.name in {"config.json", "tokenizer.json"} or path.suffix == ".safetensors"
        },
        "seed": "none: nothing is drawn",
        "what": WHAT,
        "texts": texts,
    }
    write_answers(folder, arrays)
    write_provenance(folder, COMMAND, facts, PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives embedded_tang")
    args = parser.parse_args()
    deterministic()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.no_grad():
        record(args.model, args.out / "embedded_tang")


if __name__ == "__main__":
    main()
