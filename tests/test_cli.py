"""The command `refimpl`, run as a person would run it."""

import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import refimpl
from refimpl import cli
from validation import installed, run
from validation.checks import Check, Finding

RUNNER = CliRunner()
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "REFIMPL_BACKEND": "numpy"}


def _command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "refimpl", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | PLAIN,
        check=False,
        **options,
    )


def _invoke(*arguments, text=None):
    return RUNNER.invoke(cli.app, [str(each) for each in arguments], input=text, env=PLAIN)


def test_generate_streams_verse_that_begins_with_the_prompt():
    result = _command("generate", "春眠不觉晓，", "--seed", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("春眠不觉晓，")
    assert len(result.stdout) > 20
    assert "backend auto chose numpy" not in result.stdout


def test_generate_is_reproducible_and_equals_the_library_call():
    first = _invoke("generate", "春眠不觉晓，", "--seed", 5, "--backend", "numpy")
    model = refimpl.load("tang", backend="numpy")
    assert first.stdout == model.generate("春眠不觉晓，", seed=5) + "\n"
    assert _invoke("generate", "春眠不觉晓，", "--seed", 6, "--backend", "numpy").stdout != first.stdout


def test_low_memory_is_that_of_the_library(tmp_path):
    made = _invoke("generate", "春眠不觉晓，", "--low-memory", "--max-new-tokens", 12)
    model = refimpl.load("tang", low_memory=True)
    assert made.stdout == model.generate("春眠不觉晓，", max_new_tokens=12) + "\n"
    (tmp_path / "poem.txt").write_text("春眠不觉晓，处处闻啼鸟。", "utf-8")
    scored = json.loads(_invoke("score", tmp_path / "poem.txt", "--low-memory", "--json").stdout)
    assert scored["perplexity"] == model.score("春眠不觉晓，处处闻啼鸟。").perplexity
    ordinary = refimpl.load("tang", backend="numpy").score("春眠不觉晓，处处闻啼鸟。").perplexity
    assert scored["perplexity"] != ordinary
    assert abs(scored["perplexity"] / ordinary - 1) < 1e-4


def test_generate_reads_standard_input_and_draws_several_samples():
    result = _invoke("generate", "-", "--samples", 2, "--max-new-tokens", 4, text="白日依山尽，\n")
    parts = result.stdout.rstrip("\n").split("\n\n")
    assert len(parts) == 2
    assert all(part.startswith("白日依山尽，") for part in parts)


def test_traditional_and_simplified_prompts_continue_alike():
    simplified = _invoke("generate", "春眠不觉晓，", "--temperature", 0, "--max-new-tokens", 8).stdout
    traditional = _invoke("generate", "春眠不覺曉，", "--temperature", 0, "--max-new-tokens", 8).stdout
    assert traditional == simplified.replace("觉晓", "覺曉", 1)


def test_score_prints_a_perplexity_for_each_text_and_all(tmp_path):
    file = tmp_path / "poems.txt"
    file.write_text("春眠不觉晓，处处闻啼鸟。\n\n白日依山尽，黄河入海流。\n", "utf-8")
    answer = json.loads(_invoke("score", file, "--json").stdout)
    model = refimpl.load("tang", backend="numpy")
    scores = [model.score(text) for text in ("春眠不觉晓，处处闻啼鸟。", "白日依山尽，黄河入海流。")]
    assert [row["perplexity"] for row in answer["texts"]] == [score.perplexity for score in scores]
    assert answer["tokens"] == 24
    table = _invoke("score", file).stdout
    assert f"{answer['perplexity']:.2f}" in table
    assert "all 2 texts" in table


def test_claims_that_were_not_run_are_no_success(monkeypatch):
    """As in `refimpl validate`: where nothing ran, nothing holds."""

    def absent(name):
        raise installed.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installed.metadata, "distribution", absent)
    nothing = _invoke("claims", "HIERPOS-5", "--run", "--json")
    assert (json.loads(nothing.stdout)[0]["holds"], nothing.exit_code) == (None, 1)
    some = _invoke("claims", "HIERPOS-5", "HIERPOS-3", "--run", "--json")
    assert (len(json.loads(some.stdout)), some.exit_code) == (3, 0)
    assert _invoke("claims", "HIERPOS-5").exit_code == 0


def test_claims_lists_and_runs():
    listed = _invoke("claims", "TAYLOR-1")
    assert "TAYLOR-1  proved" in listed.stdout
    assert "f_n(x) > 0 for every real x when n is even" in listed.stdout
    checked = json.loads(_invoke("claims", "TAYLOR-1", "--run", "--json").stdout)
    assert checked[0]["holds"] is True
    assert checked[0]["cases"] == 20


def test_backends_says_what_is_missing():
    result = _invoke("backends")
    assert result.exit_code == 0
    assert "numpy  always works" in result.stdout
    ladder = json.loads(_invoke("backends", "--json").stdout)["ladder"]
    assert ladder[0]["step"] == "import of CuPy"
    if not ladder[-1]["ok"]:
        assert "".join(ladder[-1]["remedy"].split()) in "".join(result.stdout.split())  # however the terminal wraps it


def test_version():
    assert _invoke("--version").stdout == f"refimpl {refimpl.__version__}\n"


def test_validate_prints_a_table_writes_the_report_and_exits_zero(tmp_path):
    result = _invoke("validate", "--only", "TAYLOR-1", "--only", "SYSTEMS.copy_labels", "--report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert re.search(r"TAYLOR-1 +proved +20", result.stdout)
    assert "All hold: 2 checks" in result.stdout
    assert json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))["passed"] is True
    assert f"Report: {tmp_path / 'r' / 'index.html'}" in result.stdout


def _broken(finding):
    return lambda setting, only: [Check("X-1", "claims", "", 3, lambda setting: finding)]


@pytest.mark.parametrize(
    "finding",
    [
        Finding(False, "refuted", 3, "a counterexample"),
        Finding(True, "proved", 2, "one case fewer than announced"),
        Finding(True, "proved", 3, "not a number", float("nan")),
    ],
    ids=lambda finding: finding.worst,
)
def test_validate_exits_with_one_on_failure(finding, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "all_checks", _broken(finding))
    result = _invoke("validate", "--report", tmp_path / "r")
    assert result.exit_code == 1
    assert "FAILED: X-1" in result.stdout
    assert finding.worst in result.stdout
    assert json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))["passed"] is False


def test_validate_in_json_prints_the_report(tmp_path):
    result = _command("validate", "--only", "TAYLOR-2", "--json", "--report", str(tmp_path / "r"))
    printed, written = json.loads(result.stdout), json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    assert {name: written[name] for name in printed if name != "checks"} | {"checks": printed["checks"]} == printed
    told = [{name: row[name] for name in printed["checks"][0]} for row in written["checks"]]
    assert told == printed["checks"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "春", "--model", "nowhere"), "no such model"),
        (("generate", "春", "--backend", "tpu"), "numpy | cupy | auto"),
        (("generate", "春" * 200), "runs past the position table"),
        (("generate", "春", "--temperature", "-1"), "temperature must not be negative"),
        (("generate", "春", "--top-p", "2"), "top_p must be a probability"),
        (("generate", "春", "--dtype", "float8"), "float16, float32, float64"),
        (("score", "nowhere.txt"), "the file cannot be read"),
        (("validate", "--only", "NOPE"), "no such check"),
        (("claims", "NOPE"), "no such claim"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_are_messages_not_tracebacks(arguments, message, tmp_path):
    result = _command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_what_is_printed_beside_a_bar_goes_into_the_pipe() -> None:
    """Standard error is a terminal and standard output is none: the bar is shown, and takes nothing with it."""
    import pty

    ours, theirs = pty.openpty()
    code = "from refimpl.console import bar\nwith bar() as b:\n b.add_task('working', total=2)\n print('an answer')"
    environment = os.environ | {"TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == "an answer\n"
    assert "working" in shown
    assert "an answer" not in shown
