"""The corpus of malformed files: every file is refused by its rule, with its message; every rule has a file; good files open."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from malformed import generate

import weights_io

ROOT = Path(generate.__file__).parent
INDEX: list[dict[str, Any]] = json.loads((ROOT / "index.json").read_text("utf-8"))["cases"]
BINARY = {"hdf5", "numpy", "pytorch", "pytorch_legacy", "safetensors", "tensorbundle", "zip"}


def _read(entry: dict[str, Any]) -> None:
    with weights_io.open(ROOT / entry["open"]) as checkpoint:
        for name in checkpoint if entry.get("read") is None else [entry["read"]]:
            array = checkpoint[name]
            assert (array.shape, array.dtype) == (checkpoint.info(name).shape, checkpoint.info(name).dtype)
            assert not array.flags.writeable


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: f"{entry['format']}-{entry['id']}")
def test_every_file_is_refused_by_its_rule_or_opens(entry: dict[str, Any]) -> None:
    if not entry["rule"]:
        _read(entry)
        return
    words = "(?s)" + ".*".join(re.escape(word) for word in entry.get("message", []))
    if entry.get("read") is not None:  # what only reading can tell, opening does not
        weights_io.open(ROOT / entry["open"]).close()
    with pytest.raises(weights_io.WeightsError, match=words) as caught:
        _read(entry)
    assert caught.value.rule == entry["rule"]
    assert isinstance(caught.value, weights_io.FormatError | weights_io.UnsupportedError)


def test_the_corpus_is_what_its_generator_writes() -> None:
    """Compared as a whole: a difference of megabytes is not worth showing."""
    files, index = generate.corpus()
    there = generate.on_disk()
    different = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
    assert different == [], "run: python -m tests.malformed.generate"
    same = (ROOT / "index.json").read_text("utf-8") == index
    assert same, "run: python -m tests.malformed.generate"


def test_every_rule_of_a_format_has_a_file() -> None:
    broken = {entry["rule"] for entry in INDEX}
    elsewhere = {
        "written.names",
        "written.bits",
        "file.changed",
    }  # not of a file's content: tested where files are written and changed
    elsewhere |= {
        rule for rule in weights_io.rules() if rule.startswith(("index.", "megatron.", "scheme."))
    }  # of several files, or of names: tested there
    assert set(weights_io.rules()) - broken - elsewhere == set()
    assert broken - set(weights_io.rules()) == {""}


def test_every_binary_format_has_at_least_forty_kinds() -> None:
    counts = Counter(entry["format"] for entry in INDEX if entry["rule"])
    assert {form: counts[form] for form in BINARY if counts[form] < 40} == {}


def test_no_two_files_are_the_same() -> None:
    contents = Counter(
        tuple(sorted(case.files.items())) for form in generate.formats() for _, case in generate.cases(form)
    )
    assert max(contents.values()) == 1


def test_every_rule_that_the_code_names_is_declared_and_every_declared_rule_is_named() -> None:
    sources = Path(weights_io.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text("utf-8") for path in sources)
    named = set(re.findall(r'rule="([a-z0-9.-]+)"', text))
    assert named - set(weights_io.rules()) == set()
    literals = set(
        re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)*\.[a-z0-9-]+)"', re.sub(r"(?s)\nRULES = \{.*?\n\}\n", "", text))
    )
    assert set(weights_io.rules()) - literals == set()
