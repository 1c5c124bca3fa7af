"""Record what four programs called ROUGE answer to the same pairs of texts, and what SPACES cuts and matches with three of them.

Each version in an environment of its own (Python 3.11):

    for v in 1.0.1 1.0.0 0.3.2; do python -m venv rouge-$v && rouge-$v/bin/pip install rouge==$v numpy==2.4.6 six==1.17.0; done
    python -m venv rouge-score && rouge-score/bin/pip install rouge-score==0.1.2
    git clone https://github.com/bojone/SPACES && git -C SPACES checkout a545db3
    python -m pip download --no-deps --no-binary :all: bert4keras==0.11.5 && tar xf bert4keras-0.11.5.tar.gz
    python validation/oracles/rouge_packages.py --python rouge-1.0.1 rouge-1.0.0 rouge-0.3.2 rouge-score --spaces SPACES \\
        --snippets bert4keras-0.11.5/bert4keras/snippets.py --out validation/recorded

Writes `rouge`. Texts are made up here. The packages `rouge` are given units joined by spaces, as SPACES does; rouge-score a tokenizer that hands
over the units. SPACES loads models as it is imported, so that its functions are taken out of their modules' syntax trees, unedited:
`compute_rouge`, `compute_metrics`, `compute_main_metric`, `extract_matching` and `text_split`; and bert4keras' `text_segmentate`, which is the same
in 0.9.7 and 0.11.5.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

SEED = 20040725
DIALECTS = ("rouge-1.0.1", "rouge-1.0.0", "rouge-0.3.2", "rouge-score")
METRICS, STATS = ("rouge-1", "rouge-2", "rouge-l"), ("p", "r", "f")
COMMAND = (
    "python validation/oracles/rouge_packages.py --python rouge-1.0.1 rouge-1.0.0 rouge-0.3.2 rouge-score --spaces SPACES "
    "--snippets bert4keras-0.11.5/bert4keras/snippets.py --out validation/recorded"
)
WHAT = {
    "texts.json, pairs": "hypothesis and reference: a list of units, or a string, which is the list of its characters",
    "texts.json, cuts": "text, maxlen, seps and strips of text_segmentate, and the pieces it answers",
    "texts.json, documents": "text and summary",
    "texts.json, mappings": "by dialect, extract_matching of every document: its sentences (the last 256) with those of its summary",
    "texts.json, mains": "by dialect, compute_main_metric, by characters, of the extracted sentences and the summary",
    "values": "the numbers that were answered to the pairs, each once",
    "scores": "which of `values`, by dialect (the order of `dialects`), pair, metric (1, 2, l) and number (p, r, f); -1 where ValueError was raised",
}
CHINESE = (
    "原告请求判令被告支付货款3.5万元及利息，被告辩称货物有质量问题，不应支付全部货款。本院认为，双方的买卖合同合法有效；被告未能提供证据，其主张不予采纳。",
    "雨后的山谷里雾气很重，山路很滑，我们走走停停，走了两个半小时才到山顶。山顶的风很大，风里有松树的气味：松针、松脂、湿的泥土。",
    "图书馆每天早上8.30开门，晚上9点关门。周末开门晚一个小时，关门早一个小时；借书的人多，还书的人也多。",
)
ENGLISH = (
    "the cat sat on the mat and the dog sat on the log . the cat saw the dog .",
    "version 3.5 is 1.25 times as fast as version 3.4 . it needs 2.0 GB of memory , e.g. for long texts .",
    "to be or not to be that is the question . whether tis nobler in the mind to suffer .",
)
PARTS = (
    ("原告", "被告", "第三人", "本院", "保险公司", "双方", "该车驾驶人"),
    ("认为", "主张", "未能证明", "请求确认", "查明", "不予认可", "承认"),
    (
        "合同有效",
        "货款共计12.6万元",
        "事故责任在对方",
        "利息自2019年3月起算",
        "房屋已经交付",
        "证据不足",
        "上述事实",
        "损失2.5万元",
    ),
)


# --- texts ----------------------------------------------------------------------------------------------------------------------------


def edited(draw: random.Random, units: list[str]) -> list[str]:
    """A piece of the units, some of them dropped, some said twice, and now and then two halves exchanged."""
    begin = draw.randrange(len(units))
    piece = units[begin : begin + draw.randrange(2, 26)]
    made = [unit for unit in piece for _ in range(draw.choice((0, 1, 1, 1, 1, 2)))]
    half = draw.randrange(len(made) + 1) if draw.random() < 0.3 else 0
    return made[half:] + made[:half]


def as_text(units: list[str]) -> str | list[str]:
    return "".join(units) if units and all(len(unit) == 1 for unit in units) else units


def pairs() -> list[list[Any]]:
    draw = random.Random(SEED)
    found: list[tuple[list[str], list[str]]] = []
    for index in range(100):
        letters = "abcdef"[: draw.randrange(1, 7)] + "." * (index % 2) + " " * (index % 7 == 0)
        found.append(tuple([draw.choice(letters) for _ in range(draw.randrange(15))] for _ in range(2)))
    for index in range(50):
        whole = list(CHINESE[index % 3])
        found.append((edited(draw, whole), whole[:40] if index % 4 == 0 else edited(draw, whole)))
    for index in range(50):
        whole = ENGLISH[index % 3].split()
        pair = (edited(draw, whole), whole if index % 3 == 0 else edited(draw, whole))
        found.append(pair if index % 2 else pair[::-1])
    odd = ["", "a", ".", "..", " ", "\u3000", ". .", "a.", ".a", "a..a", "a. .a", "aa", "ab", "ba", "a\n.\tb"]
    found += [(list(x), list(y)) for x, y in zip(odd, odd[1:] + odd[:1], strict=True)] + [
        (list(x), list(x)) for x in odd
    ]
    found += [(["a b", "c"], ["a", "b c"]), (["3.5"], ["3.6"]), (["x"] * 30, ["x"]), (["x"], ["x"] * 30)]
    return [[as_text(x), as_text(y)] for x, y in found]


def cuts() -> list[list[Any]]:
    draw, found = random.Random(SEED + 1), []
    for index in range(96):
        text = "".join(draw.choice("ab。；，：\n \u3000") for _ in range(draw.randrange(24)))
        seps = ("\n。；：，", "\n。；：，", "，。", "")[index % 4]
        found.append([text, 1 if index % 2 else draw.randrange(1, 12), seps, (None, None, "。", "，b")[index // 4 % 4]])
    return found


def documents() -> list[list[str]]:
    draw, found = random.Random(SEED + 2), []
    for index in range(10):
        parts, count = (
            (PARTS, 5 + 3 * index) if index < 9 else (("甲乙丙丁", "买卖", "房车"), 270)
        )  # the last has more than 256 sentences
        clauses = ["".join(draw.choice(part) for part in parts) + draw.choice("，，。；：\n") for _ in range(count)]
        chosen = sorted(draw.sample(range(len(clauses)), 3 + index % 6))
        summary = "".join("".join(edited(draw, list(clauses[k]))) or "略" for k in chosen)
        found.append(["".join(clauses), summary + draw.choice(("。", ""))])
    return found


# --- answers, each in the environment of one program --------------------------------------------------------------------------------


def scores(dialect: str, given: list[list[Any]]) -> list[Any]:
    """[[p, r, f] of the three metrics], or None where ValueError was raised, of every pair."""
    if dialect == "rouge-score":
        from rouge_score.rouge_scorer import RougeScorer

        tokenizer = type("Units", (), {"tokenize": lambda self, text: json.loads(text)})()
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=tokenizer)
        answers = [scorer.score(json.dumps(list(y)), json.dumps(list(x))) for x, y in given]
        return [[list(map(float, answer[name])) for name in ("rouge1", "rouge2", "rougeL")] for answer in answers]
    from rouge import Rouge

    found: list[Any] = []
    for x, y in given:
        try:
            answer = Rouge().get_scores(hyps=" ".join(x), refs=" ".join(y))[0]
            found.append([[answer[metric][stat] for stat in STATS] for metric in METRICS])
        except ValueError:
            found.append(None)
    return found


def lifted(path: Path, names: tuple[str, ...], space: dict[str, Any]) -> None:
    """Put the functions of a module with those names, unedited, into `space`."""
    tree = ast.parse(path.read_text("utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    exec(compile(ast.Module(found, []), path.name, "exec"), space)


def released(folder: Path, snippets: Path) -> dict[str, Any]:
    import numpy as np
    from rouge import Rouge

    space: dict[str, Any] = {"np": np, "rouge": Rouge(), "maxlen": 256}
    lifted(snippets, ("text_segmentate",), space)
    lifted(folder / "snippets.py", ("compute_rouge", "compute_metrics", "compute_main_metric"), space)
    lifted(folder / "extract_convert.py", ("text_split", "extract_matching"), space)
    return space


def answer(dialect: str, folder: Path, snippets: Path) -> dict[str, Any]:
    from importlib.metadata import version

    said: dict[str, Any] = {"version": version(dialect.partition("-")[0] if dialect != "rouge-score" else dialect)}
    said["scores"] = scores(dialect, pairs())
    if dialect == "rouge-score":
        return said
    spaces = released(folder, snippets)
    said["cuts"] = [spaces["text_segmentate"](*given) for given in cuts()]
    said["mappings"], said["mains"] = [], []
    for text, summary in documents():
        texts = spaces["text_split"](text, True)
        mapping = spaces["extract_matching"](texts, spaces["text_split"](summary, False))
        said["mappings"].append([[int(i), int(j)] for i, j in mapping])
        extracted = "".join(texts[j] for j in sorted({j for _, j in mapping}))
        said["mains"].append(spaces["compute_main_metric"](extracted, summary, "char"))
    return said


# --- the recording ------------------------------------------------------------------------------------------------------------------


def record(out: Path, interpreters: list[Path], folder: Path, snippets: Path) -> None:
    import numpy as np
    from tensorflow_recording import sha256, write_arrays, write_json, write_provenance

    said: dict[str, Any] = {}
    for dialect, environment in zip(DIALECTS, interpreters, strict=True):
        command = [
            environment / "bin/python",
            __file__,
            "--answer",
            dialect,
            "--spaces",
            folder,
            "--snippets",
            snippets,
        ]
        said[dialect] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    every = [[row or [[None] * 3] * 3 for row in said[dialect]["scores"]] for dialect in DIALECTS]
    flat = [number for rows in every for row in rows for triple in row for number in triple]
    values = sorted({number for number in flat if number is not None})
    places = {number: place for place, number in enumerate(values)} | {None: -1}
    shape = (len(DIALECTS), len(pairs()), 3, 3)
    arrays = {"values": np.array(values), "scores": np.array([places[n] for n in flat], np.int16).reshape(shape)}
    first, three = said[DIALECTS[0]], DIALECTS[:3]
    if any(said[dialect]["cuts"] != first["cuts"] for dialect in three):
        raise ValueError("text_segmentate answers differently in another environment")
    texts = {
        "dialects": list(DIALECTS),
        "pairs": pairs(),
        "cuts": [[*given, pieces] for given, pieces in zip(cuts(), first["cuts"], strict=True)],
        "documents": documents(),
        "mappings": {dialect: said[dialect]["mappings"] for dialect in three},
        "mains": {dialect: said[dialect]["mains"] for dialect in three},
    }
    target = out / "rouge"
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "texts.json", texts)
    write_arrays(target / "answers.safetensors", arrays)
    read = (folder / "snippets.py", folder / "extract_convert.py", snippets)
    facts = {
        "oracle": "the packages rouge 1.0.1, 1.0.0 and 0.3.2 and rouge-score 0.1.2; bojone/SPACES a545db3 and bert4keras 0.11.5, functions unedited",
        "answered by": {dialect: said[dialect]["version"] for dialect in DIALECTS},
        "read": {f"{path.parent.name}/{path.name}": sha256(path.read_bytes()) for path in read},
        "seed": SEED,
        "what": WHAT,
    }
    write_provenance(target, COMMAND, facts, ("numpy", "safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", type=Path, nargs=4, help="environments of the four programs, in the order of the command above"
    )
    parser.add_argument("--spaces", type=Path, required=True, help="a checkout of SPACES")
    parser.add_argument("--snippets", type=Path, required=True, help="snippets.py of bert4keras")
    parser.add_argument("--out", type=Path, help="folder that receives rouge")
    parser.add_argument(
        "--answer", choices=DIALECTS, help="(used by the script itself) answer, as JSON, in this environment"
    )
    given = parser.parse_args()
    if given.answer:
        sys.stdout.write(json.dumps(answer(given.answer, given.spaces, given.snippets)))
    elif given.out and given.python:
        record(given.out, given.python, given.spaces, given.snippets)
    else:
        parser.error("either --out and --python, or --answer")


if __name__ == "__main__":
    main()
