"""Exhaustion: a run that is killed goes on and comes to the same; wrong answers are found and shown; states of different runs are never mixed."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from refimpl import backend, errors, mitchell
from validation import exhaustion, pairs
from validation.claims import Setting
from validation.claims import mitchell as claims

ROOT = Path(__file__).parent.parent
MULTIPLY, CORRECTED = mitchell.multiply, mitchell.corrected_multiply
KILLED = """
import os, pathlib, sys
from validation import exhaustion
exhaustion.SAVE_EVERY = 0
done = lambda state: len(state.done) == 6 and os.kill(os.getpid(), 9)
exhaustion.exhaust("MITCHELL-7", 8, pathlib.Path(sys.argv[1]), advance=done)
"""


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _whole(claim: str, path: Path, **options: Any) -> exhaustion.State:
    state, wrong = exhaustion.exhaust(claim, 8, path, **options)
    assert wrong is None
    assert state.complete
    return state


@pytest.mark.parametrize("claim", pairs.SUBJECTS)
def test_all_pairs_of_8_bits_are_right_and_sum_to_what_theory_says(claim: str, tmp_path: Path) -> None:
    state = _whole(claim, tmp_path / "state.json")
    assert exhaustion.differences(state) == []
    assert state.tally["pairs"] == 255 * 256 if claim == "MITCHELL-2.integer" else 256 * 256


def test_a_run_that_was_killed_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    path, told = tmp_path / "state.json", []
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    before = json.loads(path.read_text())
    assert before["done"] == [[0, 5]]
    computed: list[int] = []
    state = _whole("MITCHELL-7", path, notify=told.append, advance=lambda state: computed.append(len(state.done)))
    assert told == [f"going on from {path}: {computed[0]} of 16 batches are done"]
    assert computed[0] == 6
    assert state.starts == 2
    assert state.tally == _whole("MITCHELL-7", tmp_path / "other.json").tally
    assert _whole("MITCHELL-7", path).tally == state.tally  # nothing is left: nothing is added


def test_processes_come_to_the_same_and_an_interruption_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupt(state: exhaustion.State) -> None:
        if len(state.done) == 7:
            raise KeyboardInterrupt

    path = tmp_path / "state.json"
    with pytest.raises(KeyboardInterrupt):
        exhaustion.exhaust("MITCHELL-1", 8, path, jobs=2, advance=interrupt)
    assert sum(last - first + 1 for first, last in json.loads(path.read_text())["done"]) == 7
    state = _whole("MITCHELL-1", path, jobs=1)
    assert exhaustion.differences(state) == []


def test_a_worker_that_ends_is_told_and_what_is_done_is_kept(tmp_path: Path) -> None:
    def end_one(state: exhaustion.State) -> None:
        if len(state.done) == 3:
            multiprocessing.active_children()[0].kill()

    path = tmp_path / "state.json"
    with _refused(errors.BackendError, "a worker ended before it answered", str(path), "goes on from the state"):
        exhaustion.exhaust("MITCHELL-4", 12, path, jobs=2, advance=end_one)
    assert 3 <= sum(last - first + 1 for first, last in json.loads(path.read_text())["done"]) < 256


# --- wrong answers ----------------------------------------------------------------------------------------------------------------


def _at(original: Any, x: int, y: int, change: int) -> Any:
    def planted(a: Any, b: Any, **options: Any) -> Any:
        answer = original(a, b, **options).copy()
        words = answer.view(f"u{answer.dtype.itemsize}")
        there = (a.view(f"u{a.itemsize}") == x) & (b.view(f"u{b.itemsize}") == y)
        words[there] = words[there].astype(np.int64) + change
        return answer

    return planted


@pytest.mark.parametrize(
    ("claim", "name", "x", "y", "change", "told"),
    [
        ("MITCHELL-1", "multiply", 200, 77, 5000, "x = 200, y = 77: the answer is 19464; expected 15400, or less"),
        ("MITCHELL-1", "multiply", 64, 3, -1, "x = 64, y = 3: the answer is 191; expected 192, or less"),
        ("MITCHELL-1", "multiply", 6, 12, 1, "x = 6, y = 12: the answer is 65; expected 72, or less by at most 1/9"),
        ("MITCHELL-1", "multiply", 0, 9, 1, "x = 0, y = 9: the answer is 1; expected 0"),
        ("MITCHELL-2.integer", "divide", 255, 7, 5, "x = 255, y = 7: the answer is 44; expected 36 to 40"),
        ("MITCHELL-2.integer", "divide", 0, 1, 1, "x = 0, y = 1: the answer is 1; expected 0 to 0"),
        ("MITCHELL-4", "multiply_bits", 0x3E00, 0xBE00, 1, "x = 0x3e00, y = 0xbe00: the answer is 0xc000 flushed"),
        ("MITCHELL-4", "multiply", 0x3E00, 0xBE00, 1, "x = 0x3e00, y = 0xbe00: the answer is 0xc001 flushed"),
        ("MITCHELL-7", "corrected_multiply", 22, 11, 1, "x = 22, y = 11: the answer is 241; expected 242, or less"),
    ],
)
def test_a_planted_bug_is_found_with_its_operands(
    claim: str, name: str, x: int, y: int, change: int, told: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(mitchell, name, _at(getattr(mitchell, name), x, y, change))
    with pytest.raises(typer.Exit) as ended:
        exhaustion.main([claim], 8, 1, None, tmp_path, tmp_path / "record", as_json=False)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert "FAILS" in said
    assert told in said
    assert not (tmp_path / "record").exists()
    batch = (x if claim != "MITCHELL-4" else x >> 8) // 16
    assert json.loads((tmp_path / f"{claim}-8.json").read_text())["done"] == ([[0, batch - 1]] if batch else [])


def test_a_bug_without_flushing_is_found_too(tmp_path: Path, monkeypatch: Any) -> None:
    wrong = _at(mitchell.multiply, 0x3E00, 0xBE00, 1)
    monkeypatch.setattr(mitchell, "multiply", lambda a, b, **rules: (MULTIPLY if rules else wrong)(a, b, **rules))
    _, found = exhaustion.exhaust("MITCHELL-4", 8, tmp_path / "state.json")
    assert "x = 0x3e00, y = 0xbe00: the answer is 0xc000 flushed, 0xc001 not; expected 0xc000" in str(found)


@pytest.mark.parametrize(
    ("claim", "name", "wrong", "told"),
    [
        ("MITCHELL-1", "multiply", _at(MULTIPLY, 200, 77, -1), "errors is 39740910, in theory 39740909"),
        ("MITCHELL-2.integer", "divide", lambda a, b: a // b, "quotients is 170444, in theory 174829"),
        ("MITCHELL-7", "corrected_multiply", _at(CORRECTED, 85, 77, -2), "errors is 1447798, in theory 1447796"),
    ],
)
def test_a_wrong_answer_within_the_bounds_shows_in_the_sums(
    claim: str, name: str, wrong: Any, told: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(mitchell, name, wrong)
    with pytest.raises(typer.Exit) as ended:
        exhaustion.main([claim], 8, 1, None, tmp_path, as_json=True)
    assert ended.value.exit_code == 1
    assert json.loads(capsys.readouterr().out)[0]["holds"] is False
    assert told in exhaustion.differences(_whole(claim, tmp_path / f"{claim}-8.json"))


# --- states -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["definition", "version", "bits", "claim", "batches"])
def test_a_state_of_another_run_is_not_mixed_with_this_one(name: str, tmp_path: Path) -> None:
    path, told = tmp_path / "state.json", []
    state = _whole("MITCHELL-1", path)
    setattr(state, name, {"bits": 12, "batches": 300}.get(name, "another"))
    state.tally["pairs"] += 1
    state.save(path)
    assert _whole("MITCHELL-1", path, notify=told.append).tally["pairs"] == 256**2
    assert len(told) == 1
    assert "is of another run" in told[0]
    assert f"{name} " in told[0]
    assert "starting anew" in told[0]


def _with_another_helper(n: Any) -> Any:
    return mitchell.bits.leading_one(n)


def test_the_checksum_is_that_of_every_function_that_is_used(monkeypatch: Any) -> None:
    before = {claim: pairs.definition(chosen) for claim, chosen in pairs.SUBJECTS.items()}
    assert before == {claim: pairs.definition(chosen) for claim, chosen in pairs.SUBJECTS.items()}
    assert len(set(before.values())) == len(before)
    monkeypatch.setattr(mitchell, "square_root", _with_another_helper)  # nothing here uses it
    assert before == {claim: pairs.definition(chosen) for claim, chosen in pairs.SUBJECTS.items()}
    monkeypatch.setattr(mitchell, "_one_word", _with_another_helper)
    after = {claim: pairs.definition(chosen) for claim, chosen in pairs.SUBJECTS.items()}
    assert [claim for claim in before if before[claim] != after[claim]] == [
        "MITCHELL-1",
        "MITCHELL-4",
        "MITCHELL-4.float32",
        "MITCHELL-7",
    ]


def test_a_file_that_is_no_state_or_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    _whole("MITCHELL-1", path)
    path.write_text(path.read_text().replace("65536", "65537"))
    for text in (path.read_text(), "", "[]", '{"checksum": 1}'):
        path.write_text(text)
        with _refused(errors.ConfigError, "no state of an exhaustion", str(path), "--state"):
            exhaustion.exhaust("MITCHELL-1", 8, path)
    with _refused(errors.ConfigError, "cannot be written", "--state"):
        exhaustion.State("MITCHELL-1", 8, "", 16).save(path / "below" / "state.json")


# --- what is refused --------------------------------------------------------------------------------------------------------------


def test_bad_options_are_refused_in_words(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "state.json"
    with _refused(errors.ConfigError, "nothing to exhaust", "MITCHELL-1, MITCHELL-2.integer", "MITCHELL-9"):
        exhaustion.exhaust("MITCHELL-9", 8, path)
    with _refused(errors.ConfigError, "width of operands", "8, 12 or 16", "10"):
        exhaustion.exhaust("MITCHELL-1", 10, path)
    with _refused(errors.ConfigError, "too few processes", "--jobs", "-1"):
        exhaustion.exhaust("MITCHELL-1", 8, path, jobs=-1)
    with _refused(errors.ConfigError, "a worker has another definition", "definition 0123", "same version"):
        exhaustion._answered("MITCHELL-1", 8, 0, "0123")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with _refused(
        errors.ConfigError, "not installed", "--scheduler", "dask.distributed", 'pip install "refimpl[dask]"'
    ):
        exhaustion.exhaust("MITCHELL-1", 8, path, scheduler="tcp://nowhere:8786")
    assert not path.exists()


@pytest.mark.filterwarnings("ignore")
def test_workers_of_a_scheduler_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        state = _whole("MITCHELL-7", tmp_path / "state.json", scheduler=cluster.scheduler_address)
    assert exhaustion.differences(state) == []
    monkeypatch.setattr("refimpl.scheduler.PATIENCE", "300ms")
    with _refused(errors.ConfigError, "no scheduler answers", "tcp://127.0.0.1:9", "tcp://host:port"):
        exhaustion.exhaust("MITCHELL-7", 8, tmp_path / "other.json", scheduler="tcp://127.0.0.1:9")


# --- what was recorded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", pairs.SUBJECTS)
def test_the_recorded_runs_over_all_pairs_of_16_bits_came_to_what_theory_says(claim: str) -> None:
    record = pairs.recorded(claim)
    theory = pairs.SUBJECTS[claim].theory(16)
    assert record["theory"] == theory
    assert {name: record["tally"][name] for name in theory} == theory
    assert record["tally"]["pairs"] == 2**32 - (2**16 if claim == "MITCHELL-2.integer" else 0)


def test_a_claim_says_whether_its_record_is_of_this_definition(monkeypatch: Any) -> None:
    setting = Setting(backend.get("numpy"))
    monkeypatch.setattr(pairs, "tally", lambda chosen, bits, *given: (chosen.theory(bits), None))
    count, wrong, told = claims._exhausted(setting, "MITCHELL-1")
    assert (count, wrong) == (2**24, "")
    monkeypatch.setattr(pairs, "recorded", lambda claim: {"tally": {"pairs": 5}, "definition": "another"})
    assert claims._exhausted(setting, "MITCHELL-1")[2].endswith(
        "5 pairs of 16 bits, by an earlier text of the definition"
    )
    monkeypatch.setattr(pairs, "recorded", lambda claim: {})
    assert claims._exhausted(setting, "MITCHELL-1")[2] == "no record of 16 bits"
    assert told.startswith("recorded: all 4,294,967,296 pairs of 16 bits")
