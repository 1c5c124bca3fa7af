"""How near extraction can come to the summaries of a file: ROUGE of the matched sentences, in every dialect, beside simple choices.

    python benchmarks/oracle_extraction.py FILE [--dictionary WORDS] [--search] [--json]

FILE has a JSON object with `text` and `summary` on every line; a text is a string, or a list of objects with `sentence`, which are joined by line
feeds, and perhaps `label`, 1 for those that somebody has marked. WORDS is a user dictionary of jieba for the metric in words.

Every figure is a mean of 0.2 f_1 + 0.4 f_2 + 0.4 f_L over the documents. `matched`: `refimpl.spaces.labels`, matching and metric in the same dialect;
`changed`: how many documents have another mapping than in the first dialect; `compared`: of how many pairs of sentences a metric was computed, of
all that the matching takes an argmax over. `lead`: from the beginning until it is as long as the summary; `marked`: the marked sentences; `all`:
every sentence. --search: what is found from the matched sentences, and from none, by adding or dropping the one sentence that raises the metric
most, while one does; the larger of the two (first dialect; a minute). What differs from it by one sentence is not better; something else may be.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refimpl.spaces import labels
from refimpl.text import rouge
from refimpl.text.segmentation import segmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from refimpl.text.segmentation import Segmenter


def read(path: Path) -> list[tuple[str, str, str | None]]:
    """(text, summary, marked sentences) of every document."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        document = json.loads(line)
        text, marked = document["text"], None
        if not isinstance(text, str):
            if any("label" in part for part in text):
                marked = "".join(part["sentence"] for part in text if part.get("label"))
            text = "\n".join(part["sentence"] for part in text)
        found.append((text, document["summary"], marked))
    return found


def counting(name: str) -> list[int]:
    """How often a function of `rouge` is called from now on, as the one element of a list."""
    calls, original = [0], getattr(rouge, name)

    def called(*given: Any) -> Any:
        calls[0] += 1
        return original(*given)

    setattr(rouge, name, called)
    return calls


def lead(extraction: labels.Extraction, summary: str) -> str:
    text = ""
    for sentence in extraction.texts:
        if len(text) >= len(summary):
            break
        text += sentence
    return text


def search(extraction: labels.Extraction, summary: str, unit: str, words: Segmenter) -> float:
    """The larger of the metrics that two climbs end with."""
    units = [rouge.units(sentence, unit, words) for sentence in extraction.texts]
    reference = rouge.count(rouge.units(summary, unit, words))

    def metric(chosen: frozenset[int]) -> float:
        return rouge.compare(rouge.count([u for j in sorted(chosen) for u in units[j]]), reference).main

    def climb(chosen: frozenset[int]) -> float:
        best = metric(chosen)
        while True:
            found, more = max((metric(chosen ^ {j}), j) for j in range(len(units)))
            if found <= best + 1e-12:
                return best
            best, chosen = found, chosen ^ {more}

    return max(climb(frozenset(extraction.labels)), climb(frozenset()))


def mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--dictionary", type=Path)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    documents = read(given.file)
    words = segmenter().with_words(given.dictionary.read_text("utf-8").splitlines() if given.dictionary else ())
    compared, pairs = counting("compare"), counting("at_most")
    rows: list[dict[str, Any]] = []
    first: list[Any] = []
    for dialect in rouge.dialects:
        compared[0] = pairs[0] = 0
        found = [labels.extractive_labels(text, summary, dialect=dialect) for text, summary, _ in documents]
        mappings = [each.mapping for each in found]
        first = first or mappings
        row: dict[str, Any] = {"dialect": dialect, "compared": compared[0] - len(found), "pairs": pairs[0]}
        row["changed"] = sum(a != b for a, b in zip(first, mappings, strict=True))
        row["sentences"] = mean(len(each.labels) for each in found)
        choices: dict[str, Callable[[int], str | None]] = {
            "matched": lambda k, found=found: found[k].extracted,
            "lead": lambda k, found=found: lead(found[k], documents[k][1]),
            "marked": lambda k: documents[k][2],
            "all": lambda k, found=found: "".join(found[k].texts),
        }
        for unit in rouge.UNITS:
            for name, choose in choices.items():
                chosen = [(choose(k), summary) for k, (_, summary, _) in enumerate(documents)]
                if all(text is not None for text, _ in chosen):
                    row[f"{name}, {unit}s"] = mean(
                        rouge.main_metric(t or "", s, unit, dialect, words) for t, s in chosen
                    )
            if given.search and dialect == rouge.DIALECT:
                row[f"searched, {unit}s"] = mean(
                    search(each, summary, unit, words) for each, (_, summary, _) in zip(found, documents, strict=True)
                )
        rows.append(row)
        if not given.json:
            print(
                *(
                    f"{key}: {value:.4f}" if isinstance(value, float) else f"{key}: {value}"
                    for key, value in row.items()
                ),
                sep="\n  ",
            )
    if given.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
