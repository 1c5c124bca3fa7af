"""Write the malformed-file corpus: `python -m tests.malformed.generate`, or `--check`, which writes nothing and compares.

    tests/malformed/FORMAT/NNN-name/...   the files of one case; one file where a case has one: NNN-name.SUFFIX
    tests/malformed/index.json            for every case: format, number, name, files, which is opened, which tensor is read, rule, message, why

The corpus is a product of its own: any reader can be run over it. A case with the rule "" is well formed and must open. Numbers are
never reused; cases are only appended.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))

import malformed  # noqa: E402 - tests/ has to be on the path first

if TYPE_CHECKING:
    from malformed.case import Case


def formats() -> list[str]:
    """The formats that have a builder."""
    names = [module.name for module in pkgutil.iter_modules(malformed.__path__)]
    return sorted(name.removeprefix("build_") for name in names if name.startswith("build_"))


def cases(form: str) -> list[tuple[str, Case]]:
    """(NNN-name, case) of a format: the good ones are numbered from 900."""
    builder: Any = importlib.import_module(f"malformed.build_{form}")
    bad = [(f"{number:03}-{case.name}", case) for number, case in enumerate(builder.cases(), 1)]
    good = [(f"{number:03}-{case.name}", case) for number, case in enumerate(builder.good(), 900)]
    return bad + good


def paths(form: str, label: str, case: Case) -> dict[str, bytes]:
    """Where each file of a case goes, below the corpus's folder."""
    if len(case.files) == 1:
        suffix = Path(case.open).suffix
        return {f"{form}/{label}{suffix}": case.files[case.open]}
    return {f"{form}/{label}/{name}": content for name, content in case.files.items()}


def _entry(form: str, label: str, case: Case) -> dict[str, Any]:
    files = sorted(paths(form, label, case))
    opened = next(file for file in files if len(files) == 1 or Path(file).name == case.open)
    entry: dict[str, Any] = {"format": form, "id": label, "open": opened, "rule": case.rule, "why": case.why}
    entry |= {"message": list(case.words)} if case.words else {}
    entry |= {"read": case.read} if case.read is not None else {}
    return entry | ({"files": files} if len(files) > 1 else {})


def corpus() -> tuple[dict[str, bytes], str]:
    """Every file of the corpus, and its index as text."""
    files: dict[str, bytes] = {}
    entries = []
    for form in formats():
        for label, case in cases(form):
            files |= paths(form, label, case)
            entries.append(_entry(form, label, case))
    about = "Files that break one rule each. rule: see weights_io.rules(); empty: the file is well formed."
    return files, json.dumps({"about": about, "cases": entries}, ensure_ascii=False, indent=1) + "\n"


def on_disk() -> dict[str, bytes]:
    """What the corpus's folder holds now, without its index."""
    folders = [ROOT / form for form in formats()]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in found}


def main(check: bool = False) -> None:
    """Write the corpus, or with --check compare it with what is there."""
    files, index = corpus()
    there = on_disk()
    if check:
        same = there == files and (ROOT / "index.json").read_text("utf-8") == index
        raise typer.Exit(0 if same else 1)
    for name in set(there) - set(files):
        (ROOT / name).unlink()
    for name, content in files.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if there.get(name) != content:
            path.write_bytes(content)
    (ROOT / "index.json").write_text(index, "utf-8")
    print(f"{len(files)} files of {len(formats())} formats, {sum(map(len, files.values())):,} bytes")  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
