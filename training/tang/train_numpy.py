"""Train the model of train.py with refimpl.learning: the same corpus, recipe and log, NumPy alone; resumable in every bit.

    OPENBLAS_NUM_THREADS=1 python training/tang/train_numpy.py --work $WORK --log loss_numpy.csv

The differences to train.py: the first parameters, the order of the poems and what is dropped come from other random numbers of the same
distributions, and an epoch's last steps are its own (there each epoch has as many steps as the first). NumPy's products have threads of their own:
the two threads here are parts of a step, so keep OpenBLAS to one.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path

from refimpl import gpt2, learning

EOT, UNK = 0, 1


def load_poems(path: Path, vocab: dict[str, int]) -> list[list[int]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[EOT, *(vocab.get(char, UNK) for char in json.loads(line)), EOT] for line in lines]


def evaluate(session: learning.Session, weights: gpt2.GPT2Weights, corpus: learning.Corpus) -> float:
    """Nats a target of the held-out poems, all of them, 32 of one length at a time."""
    total, count = 0.0, 0
    for position in range(corpus.steps(0)):
        batches = corpus.step(0, position)
        targets = sum(int(batch.counted.sum()) for batch in batches)
        total, count = total + session.loss(weights, batches) * targets, count + targets
    return total / count


def read_log(path: Path, step: int) -> list[tuple[str, ...]]:
    """The rows of a log up to a step."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:] if int(row[0]) <= step]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder written by prepare.py; the checkpoint goes here"
    )
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder to write the model to when the plan is done")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=2048, help="least number of targets in a step")
    parser.add_argument("--group", type=int, default=8, help="poems of one length kept together")
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations and rows of the log")
    parser.add_argument("--save-every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--limit", type=int, default=0, help="stop early, after this many steps of the plan")
    args = parser.parse_args()

    vocab = json.loads((args.work / "vocab.json").read_text(encoding="utf-8"))
    train, test = (load_poems(args.work / name, vocab) for name in ("train.jsonl", "heldout.jsonl"))
    common = {"length": args.positions, "ignored": [UNK], "seed": args.seed}
    corpus = learning.Corpus(train, rows=args.group, targets=args.tokens, **common)
    held_out = learning.Corpus(test, rows=32, **common)
    config = gpt2.GPT2Config(
        len(vocab), args.positions, args.width, args.layers, args.heads, bos_token_id=EOT, eos_token_id=EOT
    )
    steps = int(args.epochs * corpus.steps(0))
    session = learning.Session(config, dropout=args.dropout, threads=args.threads)
    training = learning.Training(
        session,
        corpus,
        learning.AdamW((0.9, 0.95), 1e-8, args.decay),
        learning.Schedule(args.peak, "cosine", steps, args.warmup, 0.005),
        clip=1.0,
        seed=args.seed,
        about={"config": dataclasses.asdict(config)} | session.described(),
    )
    first = learning.initial_gpt2(config, args.seed)
    print(
        f"{sum(leaf.size for leaf in first.named().values()):,} parameters, {corpus.steps(0)} steps an epoch, {steps} in all"
    )

    checkpoint, running = args.work / "checkpoint_numpy.safetensors", args.work / "running_numpy.json"
    state = training.resume(checkpoint, first) if checkpoint.exists() else training.start(first)
    losses = json.loads(running.read_text()) if running.exists() and state.step else []
    losses = [pair for pair in losses if pair[0] <= state.step]
    rows, began, seen = read_log(args.log, state.step), time.monotonic(), 0

    def watch(state: learning.State, taken: learning.Taken) -> None:
        nonlocal losses, rows, began, seen
        losses.append((taken.step, taken.loss))
        seen += taken.targets
        if taken.step % args.save_every == 0 or taken.step == until:
            running.write_text(json.dumps(losses))
            speed, mean = seen / (time.monotonic() - began), sum(loss for _, loss in losses) / len(losses)
            print(f"step {taken.step}: loss {mean:.4f} since the last row, {speed:.0f} characters a second", flush=True)
        if taken.step % args.every == 0 or taken.step == steps:
            mean = sum(loss for _, loss in losses) / len(losses)
            rows.append((str(taken.step), f"{mean:.4f}", f"{evaluate(session, state.parameters, held_out):.4f}"))
            print(*rows[-1], flush=True)
            losses, began, seen = [], time.monotonic(), 0
            with args.log.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("step", "train_loss", "held_out_loss"), *rows])

    until = min(steps, args.limit or steps)
    state = training.run(state, until, checkpoint=checkpoint, every=args.save_every, watch=watch)
    if args.out and state.step == steps:
        characters = sorted(vocab, key=vocab.__getitem__)
        learning.save_character_gpt2(args.out, state.parameters, config, characters, unknown=characters[UNK])


if __name__ == "__main__":
    main()
