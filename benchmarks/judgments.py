"""A summarizer on documents with summaries of their own: ROUGE of what it writes, of what it extracts, and of the best that extraction could do.

    python benchmarks/judgments.py ../shared/data/spaces/train.json --model FOLDER [--unit word] [--json]

The file has an object a line, with `text` and `summary`, as CAIL's. Three numbers for each document, all 0.2 ROUGE-1 + 0.4 ROUGE-2 + 0.4 ROUGE-L:

* *ceiling*: the sentences that `refimpl.spaces.labels` takes because they match the summary, joined: what a perfect extractor, trained on these
  labels, would hand on. It is not the best of all extractions, which nobody computes.
* *extracted*: the sentences that the model chose, joined.
* *summary*: what the model wrote.

A document that fails is reported, and the command exits with 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from refimpl.errors import RefimplError
from refimpl.spaces import documents, folder
from refimpl.spaces.labels import extractive_labels
from refimpl.text.rouge import main_metric

COLUMNS = ("ceiling", "extracted", "summary")


def measured(summarizer: Any, text: str, reference: str, unit: str) -> dict[str, Any]:
    """The three numbers of a document, and how much there was of it."""
    start = time.perf_counter()
    made = summarizer.summarize(text)
    seconds = time.perf_counter() - start
    best = extractive_labels(text, reference)
    found = dict(zip(COLUMNS, (best.extracted, made.source, made.text), strict=True))
    scores = {name: main_metric(each, reference, unit) if each else 0.0 for name, each in found.items()}
    chosen = [sum(sentence.chosen for sentence in made.sentences), len(made.sentences)]
    copied = made.copied / len(made.text) if made.text else 0.0
    return scores | {"chosen": chosen, "best": len(best.labels), "copied": copied, "seconds": seconds}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True, help="folder of a summarizer")
    parser.add_argument("--unit", default="character", choices=("character", "word"))
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    given = parser.parse_args()
    summarizer, rows, failed = folder.load(given.model), list[dict[str, Any]](), 0
    references = [json.loads(line)["summary"] for line in given.file.read_bytes().splitlines() if line.strip()]
    if not given.json:
        print("document  ceiling  extracted  summary  copied  sentences chosen (ceiling's) of  seconds")
    for document, reference in zip(documents.read([str(given.file)], form="jsonl"), references, strict=True):
        try:
            if document.text is None:
                raise RefimplError(document.error or "")
            row = measured(summarizer, document.text, reference, given.unit)
        except RefimplError as error:
            failed += 1
            print(f"error: {document.name}: {error}", file=sys.stderr)
            continue
        rows.append(row)
        if given.json:
            print(json.dumps({"index": document.index, "name": document.name} | row))
        else:
            chosen, whole = row["chosen"]
            figures = "  ".join(f"{row[name]:>{len(name)}.4f}" for name in COLUMNS)
            counts = f"{chosen} ({row['best']}) of {whole}"
            print(f"{document.index + 1:>8}  {figures}  {row['copied']:>6.1%}  {counts:>31}  {row['seconds']:>7.2f}")
    means = {name: statistics.fmean(row[name] for row in rows) for name in COLUMNS} if rows else {}
    if means and not given.json:
        print(f"{'mean':>8}  " + "  ".join(f"{means[name]:>{len(name)}.4f}" for name in COLUMNS))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
