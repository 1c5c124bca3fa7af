"""Record the zero-shot classification of CPM-1-Generate, by its own zero-shot-cls.py on the model of `cpm_megatron/mp1`.

    python -m pip install -r validation/oracles/requirements-transformers.txt
    python validation/oracles/cpm_zero_shot.py PATH_TO_CPM_CODE --out validation/recorded

PATH_TO_CPM_CODE is a checkout of TsinghuaAI/CPM-1-Generate at commit 3f816d1; nothing of it is copied. `--out` holds `cpm_megatron` (see the
script of that name, whose stand-ins are used here too). Writes `cpm_zero_shot/`: made-up examples in the form of CLUE's files, and what the
script's `load_*_data` and `evaluate*` make of them: token ids, loss masks, the losses that they compare, and the counts that they print.

Beside the stand-ins of `cpm_megatron.py`: command-line arguments are given here, the tokenizer maps each character to 10 + its code point
modulo 54, `configure_data`, which the classification never calls, is empty, and NumPy gets its old names back. The losses that the script
gathers from its processes are caught where it gathers them. It converts logits to float32; recorded are the losses with `Tensor.float`
read as `Tensor.double`, and those of the unedited script.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpm_megatron import COMMIT, ITERATION, PACKAGES, POSITIONS, build, run
from recording import to_array, write_answers, write_provenance

COMMAND = "python validation/oracles/cpm_zero_shot.py PATH_TO_CPM_CODE --out validation/recorded"
SEED = 20201230
BATCH = 4
CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
TOPICS = ("故事", "文化", "娱乐", "体育", "财经", "房产", "汽车", "教育")
KINDS = ("打车", "地图导航", "免费WIFI", "租车", "K歌", "语言(非英语)")
SCRIPTS_SEEDS = {"tnews": 1234, "iflytek": 5}  # the script's default, and scripts/zero-shot-iflytek.sh


class CharacterTokenizer:
    """Stands in for the script's tokenizer."""

    encoder = {"<pad>": 5, "<eod>": 7}

    def encode(self, text: str) -> list[int]:
        return [10 + ord(character) % 54 for character in text]


def examples() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Made-up data in the form of CLUE's: texts shorter and longer than the script's cut, and labels of every kind."""
    rng = np.random.default_rng(SEED)

    def text(length: int) -> str:
        return "".join(rng.choice(list(CHARACTERS), length))

    news = [{"label": str(100 + i), "label_desc": name} for i, name in enumerate(TOPICS)]
    kinds = [{"label": str(i), "label_des": name} for i, name in enumerate(KINDS)]
    told = (
        "entailment",
        "-",
        "neutral",
        "contradiction",
        "other",
        "entailment",
        "-",
        "neutral",
        "contradiction",
        "neutral",
    )
    return {
        "tnews": {
            "labels": news,
            "dev": [
                {"label": news[i % 8]["label"], "sentence": text(n)}
                for i, n in zip((7, 0, 3, 3, 5, 1, 6, 2), range(6, 22, 2), strict=True)
            ],
        },
        "iflytek": {
            "labels": kinds,
            "dev": [{**kinds[i], "sentence": text(n)} for i, n in zip((5, 0, 2, 4), (5, 11, 12, 40), strict=True)],
        },
        "ocnli": {
            "dev": [
                {"sentence1": text(4 + i), "sentence2": text(13 - i), "label": label} for i, label in enumerate(told)
            ]
        },
    }


def script(code: Path, args: argparse.Namespace) -> types.ModuleType:
    """The unedited zero-shot-cls.py as a module, after `build` has put the stand-ins in place."""
    for name, names in (
        ("data_utils.tokenization_gpt2", {"GPT2Tokenizer": None}),
        ("configure_data", {"configure_data": None}),
    ):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(names)
    np.float = float  # noqa: NPY001 - a name of its time
    spec = importlib.util.spec_from_file_location("zero_shot_cls", code / "zero-shot-cls.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.get_args = lambda: args
    return made


def classify_rank(
    rank: int, world: int, code: Path, meeting: str, folder: Path, data: Path, double: bool, out: Path
) -> None:
    """One process: load the model, let the script classify, and keep what it gathers and prints."""
    made, utils = build(code, rank, world, meeting)
    if utils.load_checkpoint_model(made, argparse.Namespace(load=str(folder))) != ITERATION:
        raise RuntimeError(f"{folder.name}: another iteration")
    made = made.double() if double else made.float()
    args = argparse.Namespace(
        seq_length=POSITIONS,
        batch_size=BATCH,
        num_workers=0,
        eod_token=7,
        reset_position_ids=False,
        reset_attention_mask=False,
    )
    theirs, tokenizer, found = script(code, args), CharacterTokenizer(), {}
    gathered, printed = [], []
    original, gather = torch.Tensor.float, torch.distributed.all_gather
    theirs.print = lambda *words, **_: printed.append(words)
    theirs.tqdm = types.SimpleNamespace(tqdm=lambda loader: loader)
    masks_and_positions = theirs.get_masks_and_position_ids

    def in_model_dtype(*given: Any) -> Any:
        mask, loss_mask, positions = masks_and_positions(*given)
        return mask.double() if double else mask, loss_mask, positions

    def caught(tensors: Any, tensor: torch.Tensor, *rest: Any) -> None:
        gathered.append(tensor.clone())
        gather(tensors, tensor, *rest)

    theirs.get_masks_and_position_ids = in_model_dtype
    torch.distributed.all_gather = caught
    if double:
        torch.Tensor.float = torch.Tensor.double
    for task in ("tnews", "iflytek"):
        for sampled in (True, False):
            random.seed(SCRIPTS_SEEDS[task])
            loader, labels = getattr(theirs, f"load_{task}_data")(str(data / task), "dev", tokenizer, sampled)
            gathered.clear()
            theirs.evaluate(made, loader, labels, "cpu", args)
            key, (tokens, masks) = f"{task}_{'sampled' if sampled else 'all'}", loader.dataset.tensors
            found |= {f"{key}_tokens": tokens, f"{key}_masks": masks.long(), f"{key}_labels": torch.tensor(labels)}
            found |= {f"{key}_losses": torch.cat(gathered), f"{key}_printed": torch.tensor(printed[-1][1:])}
    loader = theirs.load_ocnli_data(str(data / "ocnli"), "dev", tokenizer)
    gathered.clear()
    theirs.evaluate_ocnli(made, loader, "cpu", args)
    *rows, labels = loader.dataset.tensors
    found |= {
        "ocnli_tokens": torch.stack(rows[0::2], 1),
        "ocnli_masks": torch.stack(rows[1::2], 1).long(),
        "ocnli_labels": labels[:, 0],
    }
    columns = [torch.cat(gathered[which::4]) for which in range(3)]  # three losses and the labels, a batch
    found |= {"ocnli_losses": torch.stack(columns, 1), "ocnli_printed": torch.tensor([int(n) for n in printed[-1][1:]])}
    torch.Tensor.float = original
    torch.save(found, out)
    torch.distributed.destroy_process_group()


WHAT = {
    "tnews, iflytek, ocnli": "folders with made-up examples (dev.json) and labels (labels.json) in the form of CLUE's",
    "TASK_tokens": "what the script's loader makes: one row a candidate, padded with 5; of ocnli (examples, 3, 32)",
    "TASK_masks": "the script's loss mask: 1 where the loss of the next token counts",
    "TASK_losses": "float64: what the script compares, one a row; of ocnli (examples, 3)",
    "TASK_losses_float32": "the same of the unedited script, in float32, widened",
    "TASK_labels": "index of the true label among the candidates, as the script has it",
    "TASK_printed": "right answers and examples, as the script prints them",
    "tnews_sampled, iflytek_sampled": "four candidates: three drawn after random.seed(1234) and random.seed(5), and the true label",
    "tnews_all, iflytek_all": "all labels of labels.json",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path, help="checkout of CPM-1-Generate at commit 3f816d1")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that holds cpm_megatron and receives cpm_zero_shot"
    )
    given = parser.parse_args()
    code, model = given.code.resolve(), given.out.resolve() / "cpm_megatron" / "mp1"
    folder = given.out.resolve() / "cpm_zero_shot"
    shutil.rmtree(folder, ignore_errors=True)
    for task, files in examples().items():
        (folder / task).mkdir(parents=True)
        for name, lines in files.items():
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (folder / task / f"{name}.json").write_text(content, encoding="utf-8")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for double in (True, False):
            out = Path(name) / "answers.pt"
            run(classify_rank, 1, code, Path(name), model, folder, double, out)
            answers = torch.load(out)
            found |= answers if double else {f"{k}_float32": v for k, v in answers.items() if k.endswith("_losses")}
    write_answers(folder, {key: to_array(value) for key, value in found.items()})
    worst = max(
        float((found[key] - found[f"{key}_float32"].double()).abs().max()) for key in found if key.endswith("_losses")
    )
    facts = {
        "oracle": f"CPM-1-Generate at {COMMIT}, its own zero-shot-cls.py and model, CPU, gloo, one process",
        "stand_ins": "those of cpm_megatron; arguments; a tokenizer of 10 + code point modulo 54; configure_data",
        "seed": SEED,
        "model": "cpm_megatron/mp1",
        "what": WHAT,
        "context": {"float32 losses differ by at most": worst},
    }
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
