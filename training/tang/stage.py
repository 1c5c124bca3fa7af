"""Record the stage that `refimpl explain` explains: 200 steps of plain gradient descent after the training, 8 poems a step.

    python training/tang/stage.py --work $WORK --model refimpl/embedded/tang

The poems are drawn from the training corpus without replacement. Everything is computed in float64 by the engine's own gradients, so the
losses that are written are those of the definition, to rounding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from refimpl import explaining, gpt2
from refimpl.softmax import cross_entropy

STEPS, POEMS, RATE, SEED, HELD_OUT = 200, 8, 0.005, 20, 809


def held_out_loss(model: refimpl.Model, weights: gpt2.GPT2Weights, texts: list[str]) -> float:
    """Nats a token on poems that were never trained on."""
    total, targets = 0.0, 0
    for text in texts:
        ids = np.asarray([explaining.text_ids(model, text)])
        losses = cross_entropy(gpt2.logits(weights, model.config, ids[:, :-1]), ids[:, 1:])
        counted = ids[:, 1:] != 1  # <unk>
        total, targets = total + float(np.sum(losses[counted])), targets + int(np.sum(counted))
    return total / targets


def lines(path: Path) -> tuple[list[str], str]:
    """The texts of a corpus, and its checksum."""
    data = path.read_bytes()
    return [json.loads(line) for line in data.decode().splitlines()], hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where prepare.py left train.jsonl and heldout.jsonl")
    parser.add_argument("--model", type=Path, default=Path("refimpl/embedded/tang"))
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    model = refimpl.load(given.model, dtype="float64", backend="numpy")
    corpus, checksum = lines(given.work / "train.jsonl")
    held_out = lines(given.work / "heldout.jsonl")[0][:HELD_OUT]
    drawn = np.random.default_rng(SEED).choice(len(corpus), given.steps * POEMS, replace=False)
    texts = tuple(corpus[number] for number in drawn)
    batches = tuple(tuple(range(t * POEMS, (t + 1) * POEMS)) for t in range(given.steps))
    stage = explaining.Stage(texts, batches, RATE, (0.0,) * (given.steps + 1))
    losses, last = [], None
    for last in explaining.replay(model, stage, recorded=False):
        losses.append(last.loss)
        print(f"{len(losses)}/{given.steps} {last.loss:.6f}", flush=True)
    assert last is not None
    losses.append(explaining.batch_loss(last.after, model, stage, given.steps))
    about: dict[str, Any] = {
        "what": "200 steps of plain gradient descent, which begin with the weights beside this file",
        "texts": "chinese-poetry 2.0.1 (MIT, copyright (c) 2016 JackeyGao), in simplified script, as PROVENANCE.md says",
        "corpus_sha256": checksum,
        "seed": SEED,
        "held_out_poems": len(held_out),
        "held_out_nats_before": round(held_out_loss(model, model.weights, held_out), 6),
        "held_out_nats_after": round(held_out_loss(model, last.after, held_out), 6),
    }
    record = {
        "about": about,
        "rate": RATE,
        "losses": [round(loss, 9) for loss in losses],
        "batches": batches,
        "texts": texts,
    }
    rows = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
    (given.model / "stage.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(about)


if __name__ == "__main__":
    main()
