"""Train the generator: a small BERT that reads a source and says a summary of it, with copy tags; NumPy alone; resumable in every bit.

    OPENBLAS_NUM_THREADS=1 nice -n 19 python training/summaries/train.py --work $WORK --out $WORK/generator

goes on from `checkpoint.safetensors` of the folder where there is one. Now and then it writes the averaged weights (EMA), with which everything is
evaluated, to `seq2seq/` in the folder. To plan another number of steps while it runs, stop it and start it again with `--steps`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
from circuit import initial_copying
from pairs import POSITIONS, TARGET, Pair, copies, encode_all, framed, read, score, tokenizer

from refimpl import learning
from refimpl.bert import BertConfig
from refimpl.inference.unilm import Session as Reader
from refimpl.learning.ema import EMA
from refimpl.learning.seq2seq import PairCorpus
from refimpl.learning.unilm_session import UniLMSession
from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights, generate
from refimpl.spaces.seq2seq_folder import save_seq2seq

COLUMNS = ("step", "seconds", "pairs_a_second", "train_loss", "valid_sequence", "valid_copy", "rouge_en", "rouge_zh")
EQUAL = {"en": 1, "zh": 2}  # how often a pair of a language is in an epoch


def seq2seq_config(args: argparse.Namespace, size: int, start: int, end: int) -> Seq2SeqConfig:
    bert = BertConfig(
        size, args.width, args.layers, args.heads, 4 * args.width, POSITIONS, layer_norm_eps=1e-6, activation="tanh"
    )
    return Seq2SeqConfig(bert, start, end)


def prepared(args: argparse.Namespace, name: str) -> list[Any]:
    """The pairs as token ids, which are kept beside the texts for the next start."""
    path, folder = args.work / f"{name}.ids", args.work / "tokenizer"
    if not path.exists():
        pairs = read(args.work / f"{name}.jsonl")
        repeated = [pair for pair in pairs for _ in range(EQUAL[pair.lang] if name == "train" else 1)]
        path.write_bytes(pickle.dumps(encode_all(repeated, folder, args.processes)))
    return list(pickle.loads(path.read_bytes()))  # noqa: S301 (our own file)


def sampled_rouge(weights: Seq2SeqWeights, config: Seq2SeqConfig, pairs: list[Pair], args: argparse.Namespace) -> float:
    """The mean of the main metric over some texts, each read from its beginning; one hypothesis at a time."""
    pieces, reader = tokenizer(args.work / "tokenizer"), Reader(weights, config)
    scores = []
    for pair in pairs:
        source = framed(pieces, pieces.encode(pair.text), POSITIONS - TARGET)
        best = generate(weights, config, source, beams=1, max_new_tokens=TARGET - 1, decoder=reader.reading(source))[0]
        scores.append(score(pieces.decode(best.ids), pair).main)
    return float(np.mean(scores))


def copied(args: argparse.Namespace, config: Seq2SeqConfig, session: Any) -> Seq2SeqWeights:
    """The weights to begin with, after some steps of copying; kept for the next start."""
    weights, path = initial_copying(config, args.seed), args.out / "copying.safetensors"
    if not args.copying:
        return weights
    corpus = PairCorpus(
        copies(prepared(args, "train"), args.seed),
        length=POSITIONS,
        rows=args.rows,
        rectangles=args.rectangles,
        masking=0.0,
        seed=args.seed,
    )
    training = learning.Training(
        session,
        corpus,
        learning.AdamW((0.9, 0.98), 1e-8, args.decay),
        learning.Schedule(1e-3, "constant", args.copying, 100),
        clip=1.0,
        seed=args.seed,
    )
    losses: list[float] = []

    def watch(state: learning.State, taken: learning.Taken) -> None:
        losses.append(taken.loss)
        if taken.step % 50 == 0:
            print(f"copying {taken.step}: loss {np.mean(losses[-50:]):.4f}", flush=True)

    state = training.resume(path, weights) if path.exists() else training.start(weights)
    found: Seq2SeqWeights = training.run(state, args.copying, checkpoint=path, every=50, watch=watch).parameters
    return found


def rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= step]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py and vocabulary.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log and the weights")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--masking", type=float, default=0.05, help="how many tokens are read as others")
    parser.add_argument(
        "--k", type=int, default=8000, help="logits in the sequence loss; 8000, all of them, is cross-entropy"
    )
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rectangles", type=int, default=2)
    parser.add_argument("--copying", type=int, default=400, help="steps before, whose targets are runs of the source")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--peak", type=float, default=1.2e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9995, help="of the average")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="for preparing the token ids")
    parser.add_argument("--every", type=int, default=500, help="steps between rows of the log")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--samples", type=int, default=40, help="texts of a language that are summarized for a row")
    parser.add_argument("--limit", type=int, default=0, help="stop early, after this many steps of the plan")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    pieces = tokenizer(args.work / "tokenizer")
    config = seq2seq_config(args, len(pieces), pieces.start_id, pieces.end_id)
    corpus = PairCorpus(
        prepared(args, "train"),
        length=POSITIONS,
        rows=args.rows,
        rectangles=args.rectangles,
        masking=args.masking,
        seed=args.seed,
    )
    valid = PairCorpus(prepared(args, "valid"), length=POSITIONS, rows=32, masking=0.0, form="padded").batches()
    shown = read(args.work / "valid.jsonl")
    shown_of = {lang: [pair for pair in shown if pair.lang == lang][: args.samples] for lang in ("en", "zh")}
    session = UniLMSession(config, k=args.k, dropout=args.dropout, threads=args.threads)
    optimizer = EMA(learning.AdamW((0.9, 0.98), 1e-8, args.decay), args.momentum)
    training = learning.Training(
        session,
        corpus,
        optimizer,
        learning.Schedule(args.peak, "linear", args.steps, args.warmup, 0.01),
        clip=1.0,
        seed=args.seed,
        about={"config": dataclasses.asdict(config)} | session.described(),
    )
    first = copied(args, config, session)
    count = sum(leaf.size for leaf in first.named().values())
    print(
        f"{count:,} parameters, {len(corpus.pairs):,} pairs, {corpus.steps(0):,} steps an epoch, {args.steps:,} in all",
        flush=True,
    )

    checkpoint, running, log = (args.out / name for name in ("checkpoint.safetensors", "running.json", "log.csv"))
    state = training.resume(checkpoint, first, changed=["schedule"]) if checkpoint.exists() else training.start(first)
    seen = json.loads(running.read_text()) if running.exists() and state.step else {"losses": [], "seconds": 0.0}
    losses: list[list[float]] = [pair for pair in seen["losses"] if pair[0] <= state.step]
    rows, before = rows_until(log, state.step), seen["seconds"]
    began, tokens, since = time.monotonic(), 0, time.monotonic()

    def watch(state: learning.State, taken: learning.Taken) -> None:
        nonlocal losses, tokens, since
        losses.append([taken.step, taken.loss])
        tokens += args.rows * args.rectangles
        seconds = before + time.monotonic() - began
        if taken.step % args.save_every == 0 or taken.step == until:
            running.write_text(json.dumps({"losses": losses, "seconds": seconds}))
            speed = tokens / (time.monotonic() - since)
            mean = float(np.mean([loss for _, loss in losses[-args.save_every :]]))
            print(f"step {taken.step}: loss {mean:.4f}, {speed:.1f} pairs a second, rate {taken.rate:.2e}", flush=True)
        if taken.step % args.every == 0 or taken.step == args.steps:
            speed = tokens / (time.monotonic() - since)
            averaged = optimizer.averaged(state.parameters, state.moments)
            parts = [session.losses(averaged, [batch]) for batch in valid]
            rouge = [sampled_rouge(averaged, config, shown_of[lang], args) for lang in ("en", "zh")]
            mean = float(np.mean([loss for _, loss in losses]))
            numbers = (mean, *np.mean(parts, axis=0).tolist(), *rouge)
            values = (taken.step, round(seconds), round(speed, 1), *(f"{number:.4f}" for number in numbers))
            rows.append({name: str(value) for name, value in zip(COLUMNS, values, strict=True)})
            print(*rows[-1].values(), flush=True)
            with log.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            save_seq2seq(args.out / "seq2seq", averaged, config)
            pieces.save(args.out / "seq2seq")
            losses, tokens, since = [], 0, time.monotonic()

    until = min(args.steps, args.limit or args.steps)
    training.run(state, until, checkpoint=checkpoint, every=args.save_every, watch=watch)


if __name__ == "__main__":
    main()
