"""The kill matrix: every mutant is caught by a golden vector whose flags name it, and the page in docs says so truly."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from validation import components, mutants, tolerance, vectors
from validation.mutants import __main__ as command
from validation.mutants import matrix

PAGE = Path(__file__).parent.parent / "docs" / "kill_matrix.md"
TEXT = PAGE.read_text("utf-8")
PUBLISHED = matrix.published(TEXT)
SMALL = "taylor_softmax"


@pytest.mark.parametrize("op", components.COMPONENTS)
def test_every_mutant_is_caught_by_vectors_that_name_it_and_the_page_says_by_which(op: str) -> None:
    measured = matrix.measured(op)
    assert [one.row.name for one in measured] == [mutant.name for mutant in mutants.mutants(op)]
    for one in measured:
        assert one.row.ids, f"{one.row.name} is caught by no vector whose flags name it"
        assert all(multiple > 1 for multiple in one.largest.values()), f"{one.row.name} passes in some dtype"
    there = {row.name: row for row in PUBLISHED.get(op, ())}
    remade = [matrix.settled(one, there.get(one.row.name)) for one in measured]
    assert remade == list(PUBLISHED.get(op, ())), "python -m validation.mutants writes the page again"


def test_the_rest_of_the_page_is_what_its_rows_and_the_manifests_give() -> None:
    assert list(PUBLISHED) == list(components.COMPONENTS), "python -m validation.mutants writes the page again"
    assert matrix.rendered(PUBLISHED) == TEXT, "python -m validation.mutants writes the page again"
    flags = {vector.id: vector.flags for op in PUBLISHED for vector in vectors.load(op).vectors}
    for row in (row for rows in PUBLISHED.values() for row in rows):
        assert all(row.flag in flags[name] for name in row.ids), row


def test_the_catalogue_is_large_and_null_answers_fail_every_set() -> None:
    """Sixty mutants are asked for."""
    assert len(mutants.MUTANTS) == sum(map(len, PUBLISHED.values())) >= 60
    assert re.search(r"answers judged\. Every one is caught by a vector whose flags name its class\.", TEXT)
    table = TEXT.split("## What null answers are worth")[1].split("##")[0]
    margins = [float(margin) for margin in re.findall(r"([\d.e+]+) \(\d+\)", table)]
    assert len(margins) > 4 * len(components.COMPONENTS)
    assert min(margins) > 1


# --- what may differ between machines, and what may not ------------------------------------------------------------------------------

ROW = matrix.Row("softmax", "a bug", "sign", 3, 5, ("softmax-1", "softmax-4"), {"float32": 2, "float64": None})
HERE = matrix.Measured(
    ROW,
    {"softmax-1": 150.0, "softmax-2": 0.3, "softmax-3": 1.2, "softmax-4": 9.0, "softmax-5": 0.7},
    frozenset({"softmax-1", "softmax-3", "softmax-4", "softmax-5"}),
    {"float32": 150.0, "float64": float("inf")},
)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"killers": 2}, True),  # softmax-3 may pass elsewhere
        ({"killers": 4}, True),  # softmax-5 may fail elsewhere
        ({"killers": 1}, False),
        ({"killers": 5}, False),
        ({"ids": ("softmax-4", "softmax-1", "softmax-3")}, True),
        ({"ids": ("softmax-1", "softmax-2")}, False),  # does not fail
        ({"ids": ("softmax-1", "softmax-1")}, False),
        ({"ids": ("softmax-1",)}, False),  # two do for sure
        ({"ids": ("softmax-1", "softmax-9")}, False),  # does not exist
        ({"ids": ()}, False),
        ({"powers": {"float32": 1, "float64": None}}, True),
        ({"powers": {"float32": 3, "float64": 29}}, True),
        ({"powers": {"float32": 4, "float64": None}}, False),
        ({"powers": {"float32": 0, "float64": None}}, False),
        ({"powers": {"float32": None, "float64": None}}, False),
        ({"powers": {"float32": 2, "float64": 10}}, False),
        ({"powers": {"float32": 2}}, False),
        ({"flag": "overflow"}, False),
        ({"vectors": 6}, False),
    ],
)
def test_numbers_within_what_machines_differ_by_are_kept_and_others_are_not(changes: Any, holds: bool) -> None:
    there = dataclasses.replace(ROW, **changes)
    assert (matrix.settled(HERE, there) == there) == holds
    assert holds or matrix.settled(HERE, there) == ROW


def test_a_mutant_that_is_not_on_the_page_is_as_it_is_here() -> None:
    for there in (None, dataclasses.replace(ROW, name="another", killers=4)):
        assert matrix.settled(HERE, there) == ROW


def test_lines_are_read_as_they_are_written() -> None:
    odd = dataclasses.replace(ROW, name="|x|² for |x|²/2", ids=())
    for row in (ROW, odd):
        line = matrix._cells(*matrix._line(row))
        assert matrix._parsed("softmax", line) == row
    assert matrix._parsed("softmax", line.replace("1e2", "1f2")) is None
    assert matrix._parsed("softmax", line.replace("3 of 5", "three")) is None
    assert matrix._parsed("softmax", "| 1 | 2 |") is None


# --- the command --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_one(monkeypatch: Any) -> None:
    monkeypatch.setattr(components, "COMPONENTS", {SMALL: components.COMPONENTS[SMALL]})


def _run(*arguments: Any) -> Any:
    return CliRunner().invoke(command.app, [str(each) for each in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.usefixtures("only_one")
def test_the_command_writes_the_same_bytes_and_finds_every_edit(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert _run(page).exit_code == 0
    text = page.read_text("utf-8")
    assert matrix._section(SMALL, PUBLISHED[SMALL]) in text
    assert _run(page, "--check").exit_code == 0
    _run(page)
    assert page.read_text("utf-8") == text
    every = len(vectors.load(SMALL).vectors)
    row = next(line for line in text.splitlines() if f"| {every} of {every} |" in line)
    for edited, shown in [
        (text.replace(row, row.replace(f"{every} of {every}", f"{every // 2} of {every}")), "+" + row),
        (text.replace(row + "\n", ""), "+" + row),
        (text.replace(row, row + "\n" + row.replace("| ", "| no longer ", 1)), "-| no longer"),
        (text.replace("Every one is caught", "Nearly every one is caught"), "+1 components"),
        (text + "\n", "-"),
    ]:
        page.write_text(edited, "utf-8")
        done = _run(page, "--check")
        assert (done.exit_code, shown in done.stdout) == (1, True), done.stdout
        assert page.read_text("utf-8") == edited


@pytest.mark.usefixtures("only_one")
def test_a_mutant_that_nobody_catches_is_said_and_fails(tmp_path: Path, monkeypatch: Any) -> None:
    right = dataclasses.replace(mutants.mutants(SMALL)[0], name="right", function=mutants.TWINS[SMALL])
    matrix.measured.cache_clear()
    monkeypatch.setattr(mutants, "MUTANTS", (*mutants.mutants(SMALL), right))
    try:
        done = _run(tmp_path / "page.md")
    finally:
        matrix.measured.cache_clear()
    text = (tmp_path / "page.md").read_text("utf-8")
    assert done.exit_code == 1
    assert f"caught by nobody that names it: {SMALL}: right" in done.stderr
    assert f"| 0 of {len(vectors.load(SMALL).vectors)} | **nobody** |" in text
    assert "**Only 14** is caught" in text


def test_vectors_that_do_not_name_the_bug_are_not_named(monkeypatch: Any) -> None:
    (mutant, *_), given = mutants.mutants(SMALL), vectors.load(SMALL)
    bare = [dataclasses.replace(v, flags=() if n else (mutant.flag,)) for n, v in enumerate(given.vectors)]
    monkeypatch.setattr(vectors, "load", lambda op: dataclasses.replace(given, vectors=tuple(bare)))
    found = matrix._measured(mutant)
    assert found.row.ids == (bare[0].id,)
    assert found.row.killers > 1


def test_vectors_are_counted_in_the_dtypes_of_a_mutant() -> None:
    for one in matrix.measured(SMALL):
        mutant = next(m for m in mutants.mutants(SMALL) if m.name == one.row.name)
        expected = [v for v in vectors.load(SMALL).vectors if set(v.dtypes) & set(mutant.dtypes)]
        assert one.row.vectors == len(expected)
        assert set(one.row.powers) == set(mutant.dtypes) & set(tolerance.DTYPES)
