"""Train the extractor on the vectors that the trained generator gives sentences, and put both into a summarizer's folder.

    OPENBLAS_NUM_THREADS=1 python training/summaries/extract.py --work $WORK --generator $WORK/generator/seq2seq --out $WORK/summarizer

A sentence's vector is the mean over its tokens of the generator's last layer; its label says whether it is one of those that are most like the
summary (`pairs.extracted`). The threshold is the largest of some with which the labelled sentences of the validation texts are chosen as often as
`--recall` says: what is left out cannot be copied, what is chosen too much is only read.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pairs import LONGEST, POSITIONS, SEPARATORS, TARGET, Pair, extracted, framed, generator, read, sentences, tokenizer

from refimpl import learning
from refimpl.learning.extractor import Documents, ExtractorGradient
from refimpl.spaces.extractor import (
    ExtractorConfig,
    ExtractorWeights,
    initial_extractor,
    sentence_probabilities,
    sentence_vectors,
)
from refimpl.spaces.folder import save
from refimpl.spaces.seq2seq_folder import load_seq2seq
from refimpl.spaces.summarizer import Settings, Summarizer

SENTENCES = 2048  # that are looked at: more than a text of 40,000 characters has
TOGETHER = 8192  # tokens of sentences that are read at once, padding included
THRESHOLDS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def vectors(model: Any, rows: list[list[int]]) -> Any:  # -> float32 (n, d)
    """The vectors of sentences, of which those of about one length are read together."""
    weights, config, pieces = model
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.empty((len(rows), config.bert.hidden_size), np.float32)
    while order:
        count = max(1, min(len(order), TOGETHER // len(rows[order[-1]])))
        chosen, order = order[-count:], order[:-count]
        longest = len(rows[chosen[-1]])
        ids = np.full((count, longest), pieces.padding_id)
        real = np.zeros((count, longest), np.bool_)
        for place, i in enumerate(chosen):
            ids[place, : len(rows[i])], real[place, : len(rows[i])] = rows[i], True
        found[chosen] = sentence_vectors(weights.bert, config.bert, ids, mask=real, dialect=config.bert_dialect)
    return found


def documents(model: Any, pairs: list[Pair], path: Path) -> list[tuple[Any, Any]]:
    """(vectors, labels) of each text, which are kept for the next start."""
    cut = [sentences(pair.text) for pair in pairs]
    labels = [np.isin(np.arange(len(lines)), extracted(pair)) for pair, lines in zip(pairs, cut, strict=True)]
    if not path.exists():
        pieces = model[2]
        rows = [framed(pieces, pieces.encode(line), POSITIONS) for lines in cut for line in lines]
        np.save(path, np.concatenate([vectors(model, rows[i : i + 4096]) for i in range(0, len(rows), 4096)]))
    ends = np.cumsum([len(lines) for lines in cut])
    return list(zip(np.split(np.load(path), ends[:-1]), labels, strict=True))


def probabilities(weights: ExtractorWeights, config: ExtractorConfig, held: list[tuple[Any, Any]]) -> list[Any]:
    return [sentence_probabilities(weights, config, each[None])[0] for each, _ in held]


def quality(found: list[Any], held: list[tuple[Any, Any]], threshold: float) -> dict[str, float]:
    """Of the labelled sentences those that are chosen, of all sentences too, and how often the most probable one is labelled."""
    chosen = [(p > threshold) | ((p == p.max()) & (p.max() <= threshold)) for p in found]
    return {
        "threshold": threshold,
        "recall": round(float(np.concatenate([c[y] for c, (_, y) in zip(chosen, held, strict=True)]).mean()), 4),
        "chosen": round(float(np.concatenate(chosen).mean()), 4),
        "best_is_labelled": round(float(np.mean([y[p.argmax()] for p, (_, y) in zip(found, held, strict=True)])), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py and vocabulary.py")
    parser.add_argument("--generator", type=Path, required=True, help="folder with the generator and its tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the summarizer")
    parser.add_argument("--english", type=int, default=20000, help="texts that are learned from")
    parser.add_argument("--chinese", type=int, default=20000, help="the same; there are fewer")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--beams", type=int, default=3, help="of the summarizer")
    parser.add_argument("--penalty", type=float, help="power of the length, of the summarizer")
    parser.add_argument("--k", type=int, default=10, help="logits that are probabilities while decoding; 0 for all")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--dtype", default="float16", help="of the weights in the folder")
    args = parser.parse_args()

    weights, config = load_seq2seq(args.generator, backend="numpy")
    model = weights, config, tokenizer(args.generator)
    every = {name: read(args.work / f"{name}.jsonl") for name in ("train", "valid")}
    order = sorted(every["train"], key=lambda pair: generator("extract", pair.id).random())
    each = {"en": args.english, "zh": args.chinese}
    drawn = [pair for lang, most in each.items() for pair in [pair for pair in order if pair.lang == lang][:most]]
    kept = args.out.with_name(f"{args.out.name}-vectors")
    kept.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    train = documents(model, drawn, kept / "train.npy")
    held = {
        lang: documents(model, [pair for pair in every["valid"] if pair.lang == lang], kept / f"{lang}.npy")
        for lang in ("en", "zh")
    }
    print(f"{len(train)} texts, vectors in {time.monotonic() - began:.0f} s", flush=True)

    sizes = ExtractorConfig(config.bert.hidden_size, args.hidden)
    corpus = Documents([pair for pair in train if len(pair[1]) > 1], rows=64, seed=args.seed)
    gradient = ExtractorGradient(sizes, dropout=args.dropout)
    steps = args.epochs * corpus.steps(0)
    training = learning.Training(
        gradient,
        corpus,
        learning.AdamW((0.9, 0.999), 1e-8, 0.01),
        learning.Schedule(args.peak, "linear", steps, steps // 20, 0.01),
        seed=args.seed,
        about={"config": dataclasses.asdict(sizes)} | gradient.described(),
    )
    losses: list[float] = []

    def watch(state: learning.State, taken: learning.Taken) -> None:
        losses.append(taken.loss)
        if taken.step % corpus.steps(0) == 0:
            print(f"epoch {state.epoch}: loss {np.mean(losses[-corpus.steps(0) :]):.4f}", flush=True)

    state = training.run(training.start(initial_extractor(sizes, args.seed)), steps, watch=watch)
    record: dict[str, Any] = {
        "texts": len(train),
        "steps": steps,
        "loss": round(float(np.mean(losses[-corpus.steps(0) :])), 4),
    }
    found = {lang: probabilities(state.parameters, sizes, pairs) for lang, pairs in held.items()}
    table = {lang: [quality(found[lang], pairs, t) for t in THRESHOLDS] for lang, pairs in held.items()}
    good = [t for i, t in enumerate(THRESHOLDS) if min(rows[i]["recall"] for rows in table.values()) >= args.recall]
    settings = Settings(
        threshold=max(good, default=THRESHOLDS[0]),
        separators=SEPARATORS,
        longest=LONGEST,
        blanks=True,
        sentences=SENTENCES,
        sentence_tokens=POSITIONS,
        source_tokens=POSITIONS - TARGET,
        max_new_tokens=TARGET - 1,
        beams=args.beams,
        k=args.k or None,
        length_penalty=args.penalty,
    )
    summarizer = Summarizer(*model, state.parameters, sizes, settings)
    save(args.out, summarizer, args.dtype)
    files = {
        path.relative_to(args.out).as_posix(): path.read_bytes()
        for path in sorted(args.out.rglob("*"))
        if path.is_file()
    }
    record |= {"validation": table, "settings": dataclasses.asdict(settings)}
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    record["bytes"] = sum(map(len, files.values()))
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (args.work / "extract.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
