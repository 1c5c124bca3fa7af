"""Measure the exported folder: held-out perplexity against n-gram baselines, verse form, verbatim copying."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

EOT, UNK = 0, 1
MARKS = "，。！？；"
Poem = list[int]


def read_jsonl(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def targets_of(poems: list[Poem]) -> int:
    """Every character and the end token, without the unknown characters; the begin token is never a target."""
    return sum(token != UNK for poem in poems for token in poem[1:])


@torch.no_grad()
def model_nats(model: GPT2LMHeadModel, poems: list[Poem]) -> float:
    """Summed negative log-likelihood; unknown characters are seen as context and not scored."""
    total = 0.0
    for length in sorted({len(poem) for poem in poems}):
        same = [poem for poem in poems if len(poem) == length]
        for start in range(0, len(same), 32):
            ids = torch.tensor(same[start : start + 32])
            scores = model(ids[:, :-1]).logits.double().log_softmax(-1)
            picked = scores.gather(-1, ids[:, 1:, None])[..., 0]
            total -= float(picked[ids[:, 1:] != UNK].sum())
    return total


def unigram_nats(train: list[Poem], test: list[Poem], events: int) -> float:
    counts = Counter(token for poem in train for token in poem[1:] if token != UNK)
    size = sum(counts.values()) + events
    return -sum(math.log((counts[token] + 1) / size) for poem in test for token in poem[1:] if token != UNK)


def unique_sum(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, where = np.unique(keys, return_inverse=True)
    return found, np.bincount(where, weights)


def look_up(table: tuple[np.ndarray, np.ndarray], keys: np.ndarray) -> np.ndarray:
    found, values = table
    where = np.minimum(np.searchsorted(found, keys), len(found) - 1)
    return np.where(found[where] == keys, values[where], 0.0)


class KneserNey:
    """Interpolated modified Kneser-Ney of any order (Chen and Goodman 1998), ending in a uniform distribution.

    Three discounts an order, from the counts of counts. Below the highest order a count is the number of distinct
    tokens seen before the n-gram, except where the n-gram starts at the begin token, which nothing can precede.
    An n-gram is one integer, its token ids as digits; the begin token gets a digit of its own.
    """

    def __init__(self, poems: list[Poem], order: int, vocab: int) -> None:
        self.order, self.begin, self.base = order, vocab, vocab + 1
        grams = [unique_sum(keys, np.ones(len(keys))) for keys, _ in (self.grams(poems, n) for n in self.sizes())]
        self.levels = []
        for n, (keys, counts) in zip(self.sizes(), grams, strict=True):
            if n < order:
                longer, first = grams[n][0] % self.base**n, keys // self.base ** (n - 1) == self.begin
                pairs = np.concatenate([longer, keys[first]]), np.concatenate([np.ones(len(longer)), counts[first]])
                keys, counts = unique_sum(*pairs)
            n1, n2, n3, n4 = (np.sum(counts == k) for k in (1, 2, 3, 4))
            y = n1 / (n1 + 2 * n2)
            discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
            taken = discounts[np.minimum(counts, 3).astype(int)]
            contexts = keys // self.base
            totals, removed = unique_sum(contexts, counts), unique_sum(contexts, taken)
            self.levels.append(((keys, counts - taken), totals, removed))

    def sizes(self) -> range:
        return range(1, self.order + 1)

    def grams(self, poems: list[Poem], n: int) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams that end in a scored target, and the number of each one's target among all targets."""
        flat = np.array([token for poem in poems for token in (self.begin, *poem[1:])])
        place = np.concatenate([np.arange(len(poem)) for poem in poems])
        scored = (place > 0) & (flat != UNK)
        keep = np.flatnonzero(scored & (place >= n - 1))
        keys = sum(flat[keep - back] * self.base**back for back in range(n))
        return keys, (np.cumsum(scored) - 1)[keep]

    def probabilities(self, poems: list[Poem]) -> np.ndarray:
        """Of every scored target: each order's discounted estimate, plus the mass it freed times the order below."""
        p = np.full(targets_of(poems), 1.0 / (self.begin - 1))  # every token but the unknown one
        for n, (left, totals, removed) in zip(self.sizes(), self.levels, strict=True):
            keys, where = self.grams(poems, n)
            total = look_up(totals, keys // self.base)
            mixed = look_up(left, keys) + look_up(removed, keys // self.base) * p[where]
            p[where] = np.where(total > 0, mixed / np.maximum(total, 1), p[where])
        return p

    def nats(self, poems: list[Poem]) -> float:
        return -float(np.log(self.probabilities(poems)).sum())

    def check(self, poems: list[Poem]) -> None:
        """The probabilities of all tokens sum to one after a few contexts."""
        for poem in poems[:3]:
            for end in (1, 2, len(poem) // 2):
                every = [[*poem[:end], token] for token in range(self.begin) if token != UNK]
                before = targets_of([poem[:end]])
                last = self.probabilities(every)[before :: before + 1]
                assert abs(last.sum() - 1) < 1e-9


def openings(poems: list[str], count: int) -> list[str]:
    """Distinct first lines with their mark, half of five and half of seven characters, in the order of the file."""
    firsts = dict.fromkeys(re.match(f"[^{MARKS}]+[{MARKS}]", text)[0] for text in poems)
    return [line for n in (5, 7) for line in [first for first in firsts if len(first) == n + 1][: count // 2]]


@torch.no_grad()
def sample(model: GPT2LMHeadModel, tokenizer, prompts: list[str], seed: int, **how) -> list[Poem]:
    """One continuation a prompt (ids after the prompt, up to and with the end token)."""
    torch.manual_seed(seed)
    continuations = []
    for length in sorted({len(prompt) for prompt in prompts}):
        ids = tokenizer([prompt for prompt in prompts if len(prompt) == length], return_tensors="pt").input_ids
        mask = torch.ones_like(ids)
        made = model.generate(ids, attention_mask=mask, do_sample=True, max_new_tokens=100, max_length=None, **how)
        for row in made[:, ids.shape[1] :].tolist():
            continuations.append(row[: row.index(EOT) + 1] if EOT in row else row)
    return continuations


def complete_lines(tokens: list[str], ended: bool) -> list[list[str]]:
    """Pieces between punctuation and newlines; a last piece without its mark counts only when the poem ended."""
    lines, piece = [], []
    for token in tokens:
        if token in MARKS or token == "\n":
            lines.append(piece)
            piece = []
        else:
            piece.append(token)
    return [line for line in [*lines, *([piece] if ended else [])] if line]


def verse_form(prompts: list[str], made: list[Poem], names: dict[int, str], train: list[str]) -> dict[str, object]:
    known_lines = {line for text in train for line in re.split(f"[{MARKS}\n]+", text)}
    known_couplets = {text for poem in train for text in poem.split("\n")}
    lines = right = copied = couplets = copied_couplets = ended = regular = unknown = 0
    for prompt, ids in zip(prompts, made, strict=True):
        stops = ids[-1] == EOT
        tokens = [names[token] for token in (ids[:-1] if stops else ids)]
        found = complete_lines(tokens, stops)
        good = sum(len(line) == len(prompt) - 1 for line in found)
        lines, right, ended, unknown = lines + len(found), right + good, ended + stops, unknown + ids.count(UNK)
        shape = f"[^{MARKS}\n]{{{len(prompt) - 1}}}"
        body = rf"{shape}[{MARKS}](\n{shape}[{MARKS}]{shape}[{MARKS}])*"
        regular += bool(stops and re.fullmatch(body, "".join(tokens)))
        copied += sum("".join(line) in known_lines for line in found)
        whole = "".join(tokens).split("\n")[1:]  # couplets after the prompt's own
        couplets += len(whole)
        copied_couplets += sum(couplet in known_couplets for couplet in whole)
    return {
        "continuations": len(made),
        "complete_lines": lines,
        "right_length": right,
        "share_right_length": round(right / lines, 5),
        "share_ended": round(ended / len(made), 4),
        "share_wholly_regular_poems": round(regular / len(made), 4),
        "unk_sampled": unknown,
        "share_lines_in_training": round(copied / lines, 4),
        "couplets": couplets,
        "couplets_in_training": copied_couplets,
    }


def plot(log: Path, picture: Path) -> None:
    with log.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("train_loss", "training (mean since the last point)"), ("held_out_loss", "held-out")):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker=".", label=label)
    axes.set(xlabel="step", ylabel="nats per character", title="Character GPT-2 on Tang poems")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=100, metadata={"Software": None})


def training_record(work: Path, log: Path) -> dict[str, object]:
    """What the run says of itself: train_numpy.py's where its checkpoint is there, otherwise train.py's."""
    if (work / "checkpoint_numpy.safetensors").exists():
        with safe_open(work / "checkpoint_numpy.safetensors", "numpy") as checkpoint:
            said = json.loads(checkpoint.metadata()["refimpl.learning"])
        with log.open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert int(last["step"]) == said["step"] == said["training"]["schedule"]["steps"]
        settings = {name: value for name, value in said["training"].items() if name != "parameters"}
        losses = {"last_train_loss": float(last["train_loss"]), "last_held_out_loss": float(last["held_out_loss"])}
        return {"script": "train_numpy.py", "steps": said["step"], **losses, "settings": settings}
    saved = torch.load(work / "checkpoint.pt", weights_only=True)
    step, train_loss, held_out_loss, seconds = saved["rows"][-1]
    last = {"planned_steps": saved["steps"], "steps": step, "seconds": seconds}
    last |= {"last_train_loss": train_loss, "last_held_out_loss": held_out_loss}
    return {"model": saved["shape"], "arguments": saved["arguments"], **last, "optimizer": "AdamW, betas 0.9 and 0.95"}


def file_record(folder: Path) -> dict[str, object]:
    made = {".json", ".safetensors"}  # by the training; stage.json comes after it
    files = sorted(path for path in folder.iterdir() if path.suffix in made and path.name != "stage.json")
    return {f.name: {"bytes": f.stat().st_size, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--prompts", nargs="*", default=["春眠不觉晓，", "白日依山尽，", "故人西辞黄鹤楼，"])
    parser.add_argument("--hardware", default="not stated", help="words for the record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of loss.csv and record.json")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    texts = {part: read_jsonl(args.work / f"{part}.jsonl") for part in ("train", "heldout")}
    vocab = tokenizer.get_vocab()
    names = {index: token for token, index in vocab.items()}
    train, test = ([[EOT, *(vocab.get(c, UNK) for c in t), EOT] for t in texts[p]] for p in ("train", "heldout"))
    assert tokenizer("春眠不觉晓，").input_ids == [EOT, *(vocab[c] for c in "春眠不觉晓，")]
    for ids, text in zip(test, texts["heldout"], strict=True):
        assert UNK in ids or tokenizer.decode(ids, skip_special_tokens=True) == text

    count, events = targets_of(test), len(vocab) - 1
    nats = {"model": model_nats(model, test), "unigram_add_one": unigram_nats(train, test, events)}
    for order in (3, 5):
        baseline = KneserNey(train, order, len(vocab))
        baseline.check(test)
        nats[f"kneser_ney_{order}gram"] = baseline.nats(test)
    nats = {name: value / count for name, value in nats.items()}
    train_part = train[:: len(train) // len(test)]
    figures: dict[str, object] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_targets": count,
        "held_out_unk_targets_excluded": sum(poem.count(UNK) for poem in test),
        "nats_per_target": {name: round(value, 4) for name, value in nats.items()},
        "perplexity": {name: round(math.exp(value), 2) for name, value in nats.items()},
        "model_perplexity_on_a_training_part": round(
            math.exp(model_nats(model, train_part) / targets_of(train_part)), 2
        ),
    }
    print(json.dumps(figures, indent=2), flush=True)

    prompts, forms = openings(texts["heldout"], 200), {}
    for temperature in (0.7, 0.8, 1.0):
        made = sample(model, tokenizer, prompts, args.seed, temperature=temperature, top_k=40)
        forms[f"temperature {temperature}, top_k 40"] = verse_form(prompts, made, names, texts["train"])
    figures["verse_form_half_five_half_seven"] = [sum(len(p) == n + 1 for p in prompts) for n in (5, 7)]
    figures["verse_form"] = forms
    figures["verse_form_seed"] = args.seed
    figures["samples"] = {
        prompt: prompt + tokenizer.decode(sample(model, tokenizer, [prompt], seed, temperature=0.8, top_k=40)[0][:-1])
        for seed, prompt in enumerate(args.prompts)
    }
    record = {
        "corpus": json.loads((args.work / "prepare.json").read_text(encoding="utf-8")),
        "training": training_record(args.work, args.out / "loss.csv") | {"hardware": args.hardware},
        "files": file_record(args.model),
        "evaluation_of_the_float16_weights": figures,
    }
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (args.out / "record.json").write_text(text + "\n", encoding="utf-8")
    plot(args.out / "loss.csv", args.out / "loss.png")
    print(text)


if __name__ == "__main__":
    main()
