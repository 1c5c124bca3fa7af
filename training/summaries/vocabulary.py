"""Make the vocabulary of the model: English pieces, Chinese characters, bytes for everything else.

    python training/summaries/vocabulary.py --work $WORK

Chinese counts twice and summaries count twice, for there is less of both. Of Han characters no runs are kept: a copied span may begin and end at
any character.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
from pairs import Pair, read

from refimpl.text.pieces import BYTES, HAN, PieceTokenizer, train_vocabulary

RUN = re.compile(f"[{HAN}]")
MOST = 1500  # characters of a text that are counted, so that a few long ones do not decide


def counted(pairs: list[Pair]) -> list[str]:
    texts = []
    for pair in pairs:
        texts += [pair.text[:MOST], pair.summary, pair.summary] * (1 if pair.lang == "en" else 2)
    return texts


def figures(pieces: PieceTokenizer, pairs: list[Pair]) -> dict[str, object]:
    """How long texts are in tokens, and what of the summaries is in them."""
    spelled = {pieces.vocabulary[byte] for byte in BYTES} - {pieces.vocabulary["<0x0A>"]}
    texts, said = ([pieces.encode(getattr(pair, name)) for pair in pairs] for name in ("text", "summary"))
    return {
        "text_tokens": [float(q) for q in np.quantile([len(ids) for ids in texts], (0.1, 0.5, 0.9, 0.99))],
        "summary_tokens": [float(q) for q in np.quantile([len(ids) for ids in said], (0.1, 0.5, 0.9, 0.99))],
        "texts_in_bytes": round(sum(i in spelled for ids in texts for i in ids) / sum(map(len, texts)), 5),
        "summaries_in_bytes": round(sum(i in spelled for ids in said for i in ids) / sum(map(len, said)), 5),
        "summary_tokens_in_text": round(
            float(np.mean([np.mean([i in set(x) for i in y]) for x, y in zip(texts, said, strict=True)])), 4
        ),
        "summaries_wholly_of_tokens_in_text": round(
            float(np.mean([set(y) <= set(x) for x, y in zip(texts, said, strict=True)])), 4
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--rare", type=int, default=10, help="characters that occur less often are spelled by bytes")
    args = parser.parse_args()
    trained = train_vocabulary(counted(read(args.work / "train.jsonl")), args.size + 1500, rare=args.rare)
    kept = [token for token in trained.vocabulary if len(token) == 1 or not RUN.search(token)]
    if len(kept) < args.size:
        raise SystemExit(f"{len(kept)} tokens are left, fewer than {args.size}")
    pieces = PieceTokenizer({token: number for number, token in enumerate(kept[: args.size])})
    folder = args.work / "tokenizer"
    pieces.save(folder)
    test = read(args.work / "test.jsonl")
    record = {
        "size": len(pieces),
        "rare": args.rare,
        "han_characters": sum(1 for token in pieces.vocabulary if RUN.fullmatch(token)),
        "sha256": hashlib.sha256((folder / "vocab.txt").read_bytes()).hexdigest(),
        "test": {lang: figures(pieces, [pair for pair in test if pair.lang == lang]) for lang in ("en", "zh")},
    }
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (args.work / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
