"""Record what bert4keras' tokenizer behind jieba, its simplified vocabulary and its extended embedding make of made-up texts and of real judgments.

    python -m pip install -r validation/oracles/requirements-cpm-tokenizer.txt
    git clone https://github.com/bojone/bert4keras
    git -C bert4keras show v0.9.7:bert4keras/tokenizers.py > 0.9.7.py    (and v0.9.9:..., v0.9.7:bert4keras/models.py)
    python validation/oracles/spaces_words.py --tokenizers 0.9.7.py --later 0.9.9.py --models models.py \\
        --data shared/data/spaces --out validation/recorded

SPACES was run with bert4keras 0.9.7. `tokenizers.py` runs unedited; of `bert4keras.snippets`, which imports Keras, it needs four names that have
no content in Python 3, and they are given here. `load_embeddings` is taken out of the syntax tree of `models.py`. What `seq2seq_model.py` does with
them (a545db3, lines 53 to 72) is done in `extended`: special tokens first, then the words of the dictionaries that are not tokens yet.

Writes `spaces_words/`: `vocab.txt`, the characters that occur more than twice in the judgments, and pieces made up for the purpose; `sample.json`,
texts made up here with their ids under a dictionary made up here, and what decoding says; checksums of the ids of every sentence and summary of the
20 judgments under SPACES' own dictionaries; `answers.safetensors`, the rows by which an embedding and a bias are extended.
"""

from __future__ import annotations

import argparse
import ast
import collections
import hashlib
import json
import random
import shutil
import string
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from recording import write_answers, write_provenance

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jieba

COMMAND = (
    "python validation/oracles/spaces_words.py --tokenizers 0.9.7.py --later 0.9.9.py --models models.py --data shared/data/spaces "
    "--out validation/recorded"
)
PACKAGES = ("jieba", "numpy")
SEED, MADE_UP, PAIRS = 20201220, 120, 40
FIRST = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
DICTIONARY = ["买卖合同纠纷 2000 n", "原告方", "cad图纸 50", "诉讼请求 3000 n", "3d打印 7 n", "甲 9 n", "of the"]
WORDS = ["买卖合同纠纷", "原告", "被告", "诉讼请求", "cad图纸", "3d打印", "人民法院", "原告", "甲", "龘龘", "Logo"]
PHRASES = [
    *(
        "原告方诉称",
        "被告支付货款",
        "本案买卖合同纠纷",
        "，",
        "。",
        "《民法》",
        "第3条",
        "第１２条",
        "cad图纸",
        "3D打印",
        "of the",
        "人民法院",
        "诉讼请求",
    ),
    *(
        "3.5",
        "3. 5",
        "don't",
        "(",
        ")",
        "-",
        "+",
        "abc",
        "ABCDE",
        "x1y2z3",
        "é",
        "É",
        "naïve",
        "ﬀ",
        "…",
        "“",
        "”",
        "\u3000",
        "\u200b",
        "\x00",
        "\ufffd",
    ),
    *(
        "\u2028",
        "\x85",
        "\x1c",
        " ",
        "  ",
        "\n",
        "\t",
        "Ｃ",
        "😀",
        "𠀀",
        "豈",
        "각",
        "İ",
        "Σ",
        "ς",
        "a\u0316\u0301",
        "\u302e",
        "龘",
        "[UNK]",
        "[CLS]",
    ),
    *("##", "##人", "ab##cd", "a" * 205, "zq" * 101),
]
PIECES = [
    *("##" + c for c in string.ascii_lowercase + string.digits),
    "##人",
    "...",
    "20",
    "##16",
    "201",
    "##年",
    "cm",
    "ab",
    "##cd",
    "é",
    "##é",
]


def module(path: Path) -> Any:
    """`tokenizers.py`, unedited, beside what it imports."""
    snippets = types.ModuleType("bert4keras.snippets")
    given = {
        "is_string": lambda s: isinstance(s, str),
        "is_py2": False,
        "open": open,
        "convert_to_unicode": lambda s: s,
    }
    vars(snippets).update(given)
    sys.modules.update({"bert4keras": types.ModuleType("bert4keras"), "bert4keras.snippets": snippets})
    made = types.ModuleType(path.stem)
    exec(compile(path.read_text("utf-8"), path.name, "exec"), vars(made))
    return made


def cutting(lines: list[str]) -> jieba.Tokenizer:
    made = jieba.Tokenizer()
    made.load_userdict(line.encode() for line in lines)
    return made


def extended(theirs: Any, path: Path, words: list[str]) -> tuple[dict[str, int], list[int], list[list[int]]]:
    vocabulary, kept = theirs.load_vocab(dict_path=str(path), simplified=True, startswith=FIRST)
    pure = theirs.Tokenizer(vocabulary.copy(), do_lower_case=True)
    new = []
    for word in words:
        if word not in vocabulary:
            vocabulary[word] = len(vocabulary)
            new.append(word)
    return vocabulary, kept, [pure.encode(word)[0][1:-1] for word in new]


def checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def texts_of(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [text for row in rows for text in [row["summary"], *(part["sentence"] for part in row["text"])]]


def made_up() -> list[str]:
    drawn = random.Random(SEED)
    rows = ["", *PHRASES]
    return rows + ["".join(drawn.choices(PHRASES, k=drawn.randint(2, 9))) for _ in range(MADE_UP - len(rows))]


def decoded(tokenizer: Any, ids: list[int]) -> str | None:
    """What decode says, or None where it fails: on a first piece that is nothing but ##."""
    try:
        return tokenizer.decode(ids)
    except IndexError:
        return None


def lifted_embedding(path: Path) -> Any:
    """`load_embeddings` of models.py."""
    tree = ast.parse(path.read_text("utf-8"))
    (node,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "load_embeddings"]
    space: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([node], []), path.name, "exec"), space)
    return space["load_embeddings"]


def embeddings(load: Any, kept: list[int], consists: list[list[int]], size: int) -> dict[str, np.ndarray]:
    """The new rows of a table and a bias of multiples of 1/1024, 7919 k mod 2003 at place k; the rows that stay are checked by `kept` itself."""
    table = (np.arange(size * 3) * 7919 % 2003).reshape(size, 3) / 1024
    model = types.SimpleNamespace(keep_tokens=kept, compound_tokens=consists)
    given = {"table": table, "bias": table[:, 0].copy()}
    return {name: np.ascontiguousarray(load(model, array)[len(kept) :]) for name, array in given.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("tokenizers", "later", "models", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    theirs = {"bert4keras-0.9.7": module(arguments.tokenizers), "bert4keras-0.9.9": module(arguments.later)}
    judgments = texts_of(arguments.data / "train.json")
    dictionaries = [
        (arguments.data / name).read_text("utf-8").splitlines() for name in ("user_dict.txt", "user_dict_2.txt")
    ]
    folder = arguments.out / "spaces_words"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    counts = collections.Counter(character for text in judgments for character in text.lower() if character.strip())
    characters = sorted(character for character, count in counts.items() if count > 2)
    tokens = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *PIECES]
    tokens += [letter for letter in string.ascii_lowercase if letter not in characters]
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")

    rows: dict[str, Any] = {"dictionary": DICTIONARY, "words": WORDS, "texts": made_up(), "pairs": []}
    facts: dict[str, Any] = {"judgments": {"texts": len(judgments)}}
    for dialect, code in theirs.items():
        vocabulary, kept, consists = extended(code, path, WORDS)
        rows[dialect] = {
            "size": len(vocabulary),
            "kept": checksum(kept),
            "consists": consists,
            "ids": {},
            "decoded": {},
        }
        for name, words, lower in (("words", True, True), ("pieces", False, True), ("cased words", True, False)):
            cut = cutting(DICTIONARY)
            before = (lambda text, cut=cut: cut.cut(text, HMM=False)) if words else None
            tokenizer = code.Tokenizer(vocabulary, do_lower_case=lower, pre_tokenize=before)
            ids = [tokenizer.encode(text)[0][1:-1] for text in rows["texts"]]
            rows[dialect]["ids"][name] = ids if name == "words" else checksum(ids)
            answers = [decoded(tokenizer, row) for row in ids]
            rows[dialect]["decoded"][name] = answers if name == "words" and dialect.endswith("7") else checksum(answers)
            if name == "words" and dialect.endswith("7"):
                drawn = random.Random(SEED)
                for number in range(PAIRS):
                    pair = [
                        drawn.randrange(len(rows["texts"])),
                        drawn.randrange(len(rows["texts"])),
                        drawn.randint(4, 40),
                    ]
                    pattern = ("S*ES*E", "S*E*E")[number % 2]
                    first, second = (rows["texts"][index] for index in pair[:2])
                    rows["pairs"].append(
                        [*pair, pattern, checksum(tokenizer.encode(first, second, maxlen=pair[2], pattern=pattern))]
                    )
        real, real_kept, real_consists = extended(
            code, path, [line.split()[0] for lines in dictionaries for line in lines]
        )
        cut = cutting(dictionaries[0])
        tokenizer = code.Tokenizer(
            real, do_lower_case=True, pre_tokenize=lambda text, cut=cut: cut.cut(text, HMM=False)
        )
        ids = [tokenizer.encode(text)[0][1:-1] for text in judgments]
        facts["judgments"][dialect] = {
            "tokens": sum(map(len, ids)),
            "unknown": sum(row.count(real["[UNK]"]) for row in ids),
            "vocabulary": checksum(real),
            "kept": checksum(real_kept),
            "consists": checksum(real_consists),
            "ids": checksum(ids),
            "decoded": checksum([decoded(tokenizer, row) for row in ids]),
        }
        if dialect.endswith("7"):
            write_answers(folder, embeddings(lifted_embedding(arguments.models), kept, consists, len(tokens)))
    (folder / "sample.json").write_text(
        json.dumps(rows, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="ascii"
    )
    what = {
        "sample.json": "made-up texts; ids and decoded text of each tokenizer, or SHA-256 of them as JSON; pairs: two texts, maxlen, pattern",
        "judgments": "every summary and sentence in order, likewise; the words are those of both user dictionaries, jieba knows those of the first",
        "answers.safetensors": "the rows that load_embeddings adds to an embedding and a bias",
    }
    source = "Tokenizer of bert4keras 0.9.7 and 0.9.9 behind jieba.cut(HMM=False), unedited"
    write_provenance(folder, COMMAND, {"oracle": source, "seed": SEED, "what": what, **facts}, PACKAGES)


if __name__ == "__main__":
    main()
