"""Put the figures of all steps into record.json.

python training/summaries/record.py --work $WORK
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

PARTS = {
    "corpus": "prepare.json",
    "vocabulary": "vocabulary.json",
    "extractor": "extract.json",
    "evaluation": "evaluation.json",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that the other steps wrote to")
    parser.add_argument("--generator", type=Path, help="folder of the training, $WORK/generator if not given")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("record.json"))
    args = parser.parse_args()
    found = {part: args.work / name for part, name in PARTS.items()}
    record: dict[str, Any] = {
        part: json.loads(path.read_text(encoding="utf-8")) for part, path in found.items() if path.exists()
    }
    log = (args.generator or args.work / "generator") / "log.csv"
    if log.exists():
        with log.open(newline="", encoding="utf-8") as file:
            record["training"] = list(csv.DictReader(file))[-1]
    args.out.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
