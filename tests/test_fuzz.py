"""Fuzzing in small: the same mutants in every run, of every format; and that the harness sees what it is there to see."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import harness
from fuzz.formats import FORMATS, module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weights_io
from weights_io import safetensors

MUTANTS = 250


def _a_first_draw() -> None:
    """With it Hypothesis reads the constants of all modules that are loaded: while allocations are traced that takes three times as long."""

    @settings(max_examples=1, database=None)
    @given(st.integers())
    def draw(number: int) -> None:
        pass

    draw()


@pytest.fixture(scope="module", autouse=True)
def _traced() -> Any:
    import tracemalloc

    _a_first_draw()
    harness.prepare()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("form", FORMATS)
def test_good_files_are_accepted(form: str, tmp_path: Path) -> None:
    tally = harness.Tally()
    seeds = module(form).seeds()
    for files in seeds:
        harness.examine(files, tmp_path, tally)
    assert tally.accepted == len(seeds), tally.rules


@pytest.mark.parametrize("form", FORMATS)
def test_mutants_break_no_property(form: str) -> None:
    tally = harness.Tally()
    with harness.scratch() as folder:
        for files in itertools.islice(harness.mutants(module(form), seed=1), MUTANTS):
            harness.examine(files, folder, tally)
    assert tally.inputs == MUTANTS
    assert 0 < tally.accepted < MUTANTS  # a reader that refuses everything, or nothing, is not being tested


@pytest.mark.parametrize("form", FORMATS)
def test_structured_files_break_no_property(form: str) -> None:
    with harness.scratch() as folder:

        @settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
        @given(st.data())
        def examine(data: Any) -> None:
            harness.examine(data.draw(module(form).files()), folder, harness.Tally())

        examine()


# --- the harness itself -----------------------------------------------------------------------------------------------------


def _good() -> dict[str, bytes]:
    return module("safetensors").seeds()[0]


def _planted(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    original = safetensors.open_source

    def spoiled(source: Any, limits: Any, mode: str) -> Any:
        act(source)
        return original(source, limits, mode)

    monkeypatch.setattr(safetensors, "open_source", spoiled)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda _: {}["x"], "foreign exception KeyError"),
        (lambda _: np.zeros(40 << 20, np.uint8), "opening allocated"),
        (lambda _: Path(__file__).read_bytes(), "forbidden: .*open"),
        (lambda source: source.path.with_name("new").write_bytes(b""), "forbidden: .*open"),
        (lambda _: __import__("this"), "forbidden: .*import this"),
        (lambda _: eval("1"), "forbidden: .*compile"),
        (lambda _: safetensors.FormatError("no rule", rule="made.up").__traceback__, None),
    ],
)
def test_the_harness_sees_what_it_is_there_to_see(
    act: Any, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _planted(monkeypatch, act)
    if words is None:
        harness.examine(_good(), tmp_path, harness.Tally())
        return
    with pytest.raises(harness.BrokenPropertyError, match=words):
        harness.examine(_good(), tmp_path, harness.Tally())


def test_the_harness_wants_known_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise weights_io.FormatError("planted", rule="made.up")

    _planted(monkeypatch, refuse)
    with pytest.raises(harness.BrokenPropertyError, match="without a known rule"):
        harness.examine(_good(), tmp_path, harness.Tally())


def test_the_harness_compares_with_an_independent_reader(tmp_path: Path) -> None:
    for theirs in ({}, {"x": np.zeros(3)}):
        with pytest.raises(harness.BrokenPropertyError, match="independent reader"):
            harness.examine(_good(), tmp_path, harness.Tally(), lambda _, theirs=theirs: theirs)


def test_the_harness_counts_what_only_the_independent_reader_takes(tmp_path: Path) -> None:
    (name, content), *_ = _good().items()
    tally = harness.Tally()
    for taken in (True, False):
        harness.examine({name: content + b"more"}, tmp_path, tally, None, lambda _, taken=taken: taken)
    assert sum(tally.stricter.values()) == 1
    assert tally.rules == dict.fromkeys(tally.stricter, 2)


def test_every_change_changes_something_and_ends() -> None:
    rng = random.Random(0)
    for change in harness.CHANGES:
        results = []
        for _ in range(50):
            data = bytearray(range(64))
            change(data, rng, b"other bytes, of another file")
            results.append(bytes(data))
        assert any(result != bytes(range(64)) for result in results), change
        change(bytearray(), rng, b"")
