"""How embeddings of a long text, read through hierarchical positions without retraining, agree with those of its parts (HIERPOS-5).

    python benchmarks/hierarchical_minilm.py measure FOLDER results.json --seconds 40       # FOLDER: a folder of all-MiniLM-L6-v2
    python benchmarks/hierarchical_minilm.py report results.json --plot docs/hierarchical_minilm.svg
    python benchmarks/hierarchical_minilm.py record FOLDER validation/recorded/minilm        # what claim HIERPOS-5 measures again

`measure` begins nothing new after the seconds given, and continues where it stopped; all of it takes some ten minutes on one core. Needs the packages
tokenizers and, for the plot, matplotlib.

The texts are the five longest topics in `pydoc_data.topics`, the reference of the language that Python brings along: English prose with
some code. Of each, the first N - 2 tokens are read, between [CLS] and [SEP].

* The *parts* are the same tokens in ceil((N - 2)/510) stretches of nearly equal length, each read from position 0; their vectors
  have unit length, and the *mean* of a text is the mean of its parts' vectors, given unit length. All of it is within the 512
  positions that were trained.
* *hierarchical*: all N tokens at once, positions 0 to N - 1 from `refimpl.positions.extend`, alpha = 0.4.
* *repeated*: all N tokens at once, position t mod 512: a control, which tells what comes from reading long texts at all.
* *truncated*: the first 512 tokens: the baseline, which is what such models do.

Agreement is the cosine. "own" is that with the text's own mean; "rest" the average over its parts that begin after the truncated text's last token;
"other" the average over the means of the other texts; "found" how many texts have their own mean as the nearest of all means.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import pydoc_data.topics
import time
from pathlib import Path
from typing import Any

import numpy as np

import refimpl
from refimpl import bert
from refimpl.pooling import mean_pooling, unit_length

LENGTHS = (512, 768, 1024, 2048, 4096)
TEXTS = 5
TRAINED = 512
RECORDED = 640
WAYS = ("hierarchical", "repeated", "truncated")


def long_topics(model: Any) -> dict[str, list[int]]:
    """Topic -> its token ids, without special tokens, of the longest ones."""
    texts = sorted(pydoc_data.topics.topics.items(), key=lambda item: len(item[1]))[-2 * TEXTS :]
    ids = {name: model.tokenizer.encode(text) for name, text in texts}
    longest = sorted(ids, key=lambda name: -len(ids[name]))[:TEXTS]
    if len(ids[longest[-1]]) < LENGTHS[-1] - 2:
        raise SystemExit("the topics of this Python are too short")
    return {name: ids[name] for name in longest}


def vector(model: Any, content: list[int], positions: Any = None) -> Any:  # -> (d,)
    first, last = model.framed(["x"])[0].ids[:: len(model.framed(["x"])[0].ids) - 1]
    ids = [[first, *content, last]]
    hidden = bert.encode(model.weights, model.config, ids, positions=positions)
    return unit_length(mean_pooling(hidden, None))[0]


def parts_of(plain: Any, content: list[int]) -> dict[str, Any]:
    count = -(-len(content) // (TRAINED - 2))
    edges = [len(content) * k // count for k in range(count + 1)]
    parts = [vector(plain, content[a:b]).tolist() for a, b in itertools.pairwise(edges)]
    return {"edges": edges, "vectors": parts}


def measure(folder: str, file: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    plain = refimpl.load(folder, backend="numpy")
    longer = refimpl.load(folder, backend="numpy", positions=LENGTHS[-1])
    topics = long_topics(plain)
    source = hashlib.sha256(Path(pydoc_data.topics.__file__).read_bytes()).hexdigest()
    results = json.loads(file.read_text("utf-8")) if file.exists() else {}
    results |= {"python": platform.python_version(), "sha256": source}
    ways = {
        "parts": lambda content: parts_of(plain, content),
        "truncated": lambda content: vector(plain, content[: TRAINED - 2]).tolist(),
        "hierarchical": lambda content: vector(longer, content).tolist(),
        "repeated": lambda content: vector(plain, content, np.arange(len(content) + 2) % TRAINED).tolist(),
    }
    tasks = [(str(n), way, name) for n in LENGTHS for way in ways for name in topics]
    missing = [task for task in tasks if task[2] not in results.get(task[0], {}).get(task[1], {})]
    for n, way, name in missing:
        if time.monotonic() > end:
            break
        start = time.monotonic()
        results.setdefault(n, {}).setdefault(way, {})[name] = ways[way](topics[name][: int(n) - 2])
        file.write_text(json.dumps(results), "utf-8")
        missing = missing[1:]
        print(f"{n} {way} {name}: {time.monotonic() - start:.1f} s", flush=True)
    print(f"{len(missing)} of {len(tasks)} measurements are left")


def record(folder: str, place: Path) -> None:
    """The figures of `validation.claims.positions.agreement` on the beginning of the recorded text, in float64."""
    from validation.claims.positions import agreement

    plain = refimpl.load(folder, backend="numpy", dtype="float64")
    text = json.loads((place / "texts.json").read_text("utf-8"))["long"]
    content = plain.tokenizer.encode(text)[: RECORDED - 2]
    columns = ["with the mean of the parts", "with the last part"]
    result = {"text": "long, in texts.json", "tokens": RECORDED, "parts": -(-len(content) // (TRAINED - 2))}
    result |= {"dtype": "float64", "columns": columns, "cosines": agreement(plain, content)}
    (place / "hierarchical.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def agreement(results: dict[str, Any], way: str) -> dict[str, Any] | None:
    """The figures of one row of the table, for the texts that have been measured; `own` for every text. None where there is none."""
    parts, vectors = results.get("parts", {}), results.get(way, {})
    means = {name: unit(np.mean(each["vectors"], axis=0)) for name, each in parts.items()}
    names = [name for name in parts if name in vectors]
    if not names:
        return None
    cosines = {name: {of: float(unit(np.array(vectors[name])) @ mean) for of, mean in means.items()} for name in names}
    rest = [
        float(np.dot(vectors[name], part))
        for name in names
        for part, begins in zip(parts[name]["vectors"], parts[name]["edges"], strict=False)
        if begins >= TRAINED - 2
    ]
    return {
        "texts": len(names),
        "parts": len(parts[names[0]]["vectors"]),
        "own": np.array([cosines[name][name] for name in names]),
        "rest": np.mean(rest) if rest else np.nan,
        "other": np.mean([value for name in names for of, value in cosines[name].items() if of != name]),
        "found": sum(max(cosines[name], key=cosines[name].__getitem__) == name for name in names),
    }


def report(file: Path, plot: Path | None) -> None:
    results = json.loads(file.read_text("utf-8"))
    names = list(results[str(LENGTHS[0])]["parts"])
    print(f"{', '.join(names)}; Python {results['python']}, topics.py sha256 {results['sha256']}\n")
    print("| N | parts | way | own (least, largest) | rest | other | found |\n|---|---|---|---|---|---|---|")
    curves: dict[str, list[Any]] = {way: [] for way in WAYS}
    for n, way in itertools.product(LENGTHS, WAYS):
        row = agreement(results.get(str(n), {}), way)
        if row is None:
            continue
        curves[way].append((n, row))
        own = row["own"]
        rest = "-" if np.isnan(row["rest"]) else f"{row['rest']:.3f}"
        print(
            f"| {n:,} | {row['parts']} | {way} | {own.mean():.3f} ({own.min():.3f}, {own.max():.3f}) | {rest} "
            f"| {row['other']:.3f} | {row['found']} of {row['texts']} |"
        )
    if plot:
        draw(curves, plot)


def draw(curves: dict[str, list[Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refimpl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for way, style in zip(WAYS, ("o-", "s--", "^:"), strict=True):
        lengths, own = [n for n, _ in curves[way]], [row["own"] for _, row in curves[way]]
        (line,) = axes[0].plot(lengths, [each.mean() for each in own], style, label=way)
        low, high = [each.min() for each in own], [each.max() for each in own]
        axes[0].fill_between(lengths, low, high, color=line.get_color(), alpha=0.12)
        axes[1].plot(lengths, [row["rest"] for _, row in curves[way]], style, label=way)
    axes[0].set_title("with the mean of the text's parts")
    axes[1].set_title("with the parts after the first 512 tokens")
    axes[0].set_ylabel("cosine")
    for each in axes:
        each.set_xscale("log", base=2)
        each.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        each.set_xlabel("tokens")
        each.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("measure")
    first.add_argument("folder")
    first.add_argument("results", type=Path)
    first.add_argument("--seconds", type=float, default=float("inf"))
    second = commands.add_parser("report")
    second.add_argument("results", type=Path)
    second.add_argument("--plot", type=Path)
    third = commands.add_parser("record")
    third.add_argument("folder")
    third.add_argument("place", type=Path)
    options = parser.parse_args()
    if options.command == "record":
        record(options.folder, options.place)
    elif options.command == "measure":
        measure(options.folder, options.results, options.seconds)
    else:
        report(options.results, options.plot)


if __name__ == "__main__":
    main()
