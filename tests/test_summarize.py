"""Documents to summaries: reading, order, failures, processes, resuming, the command, the report."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from summarizers import Beginnings, beginning, tiny
from typer.testing import CliRunner

from refimpl import cli, summarize_cli
from refimpl.errors import BackendError, ConfigError, RefimplError, TextError
from refimpl.spaces import documents, folder, running
from refimpl.spaces.documents import Document
from refimpl.spaces.journal import Journal
from refimpl.spaces.report import Report
from refimpl.spaces.running import Here, Processes, Result
from refimpl.spaces.showing import Run, sentence_runs
from refimpl.spaces.summarizer import Summarizer
from refimpl.spaces.summary import Sentence, SourceMap, Span, Summary, Token, located, spans_of

ROOT = Path(__file__).parent.parent
KEY = {"model": "m1", "options": {"beams": 3}}


def _refused(kind: Any, *words: Any) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(str(word)) for word in words))


def _documents(*texts: str) -> list[Document]:
    return [Document(i, f"{i}.txt", hashlib.sha256(t.encode()).hexdigest(), t) for i, t in enumerate(texts)]


# --- places ------------------------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_spans_name_the_characters_that_were_copied(data: st.DataObject) -> None:
    """Every span's characters are those of its source, and of its places in the text; together they are all that was copied."""
    text = data.draw(st.text("abc,", min_size=1, max_size=30))
    sentences = [part for part in re.split("(?<=,)", text) if part]
    places = located(text, sentences)
    assert [text[a:b] for a, b in places] == sentences
    chosen = [p for p in places if data.draw(st.booleans())]
    source = "".join(text[a:b] for a, b in chosen)
    where = SourceMap(chosen)
    drawn = st.tuples(st.sampled_from("OBI"), st.integers(0, max(0, len(source) - 1)))
    tokens = list[Token]()
    for tag, at in data.draw(st.lists(drawn, max_size=12)):
        if tag == "O" or not source:
            tokens.append(Token("xy", "O", None))
        else:
            after = tokens[-1].place if tokens else None
            goes_on = tag == "I" and after is not None and after[1] < len(source)
            at = after[1] if goes_on and after else at
            tokens.append(Token(source[at], "I" if goes_on else "B", (at, at + 1)))
    summary = "".join(token.text for token in tokens)
    spans = spans_of(tokens, where)
    for span in spans:
        a, b = span.place
        c, d = span.source
        assert summary[a:b] == source[c:d] == "".join(text[e:f] for e, f in span.text)
        assert all(f < g for (_, f), (g, _) in zip(span.text, span.text[1:], strict=False))
    assert sum(b - a for a, b in (span.place for span in spans)) == sum(token.place is not None for token in tokens)


def test_a_span_over_sentences_that_are_apart_has_two_places() -> None:
    where = SourceMap([(2, 5), (9, 12), (12, 14)])
    assert where.places((1, 8)) == ((3, 5), (9, 14))
    assert where.places((3, 6)) == ((9, 12),)
    with _refused(TextError, "a sentence is not in the text", "'b'"):
        located("ab", ["a", "b", "b"])


@given(st.data())
def test_runs_are_cut_where_spans_begin_and_end(data: st.DataObject) -> None:
    """Every character is in one run, with just the spans that it is of."""
    first, second, third = (data.draw(st.text("ab", max_size=6)) for _ in range(3))
    text = first + "|" + second + "|" + third
    place = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted).map(tuple)
    spans = tuple(Span((0, 0), (0, 0), tuple(data.draw(st.lists(place, max_size=2)))) for _ in range(3))
    sentence = Sentence(second, (len(first) + 1, len(first) + 1 + len(second)), 0.5, True)
    summary = Summary("", "", (sentence,), (), spans, 0.0, "stop")
    runs = sentence_runs(summary, sentence)
    assert "".join(run.text for run in runs) == second
    assert all(run.text for run in runs)
    each = [run.spans for run in runs for _ in run.text]
    for number in range(len(second)):
        at = sentence.place[0] + number
        covering = [any(a <= at < b for a, b in span.text) for span in spans]
        assert set(each[number]) == {span for span in range(3) if covering[span]}
    assert sentence_runs(summary, sentence._replace(chosen=False)) == ([Run(second, ())] if second else [])


def test_what_was_copied_twice_is_linked_once_for_each_copy(tmp_path: Path) -> None:
    """Two spans from one place, and one from two sentences: every name in the page is there once, every link leads somewhere."""
    pytest.importorskip("jinja2", reason="needs the extra validation")
    sentences = (Sentence("甲乙。", (0, 3), 0.9, True), Sentence("丙丁。", (4, 7), 0.8, True))
    spans = (
        Span((0, 2), (0, 2), ((0, 2),)),
        Span((2, 4), (0, 2), ((0, 2),)),
        Span((4, 6), (2, 4), ((2, 3), (4, 5))),
    )
    summary = Summary("甲乙甲乙。丙x", "甲乙。丙丁。", sentences, (), spans, 0.0, "stop")
    page = Report(tmp_path, "model", {})
    for document in _documents("甲乙。\n丙丁。", "甲乙。\n丙丁。"):
        page.add(Result(document, summary))
    content = page.write().read_text("utf-8")
    names = re.findall(' id="([^"]*)"', content)
    assert len(names) == len(set(names))
    assert {f"{kind}{document}-{span}" for kind in "st" for document in (0, 1) for span in (0, 1)} <= set(names)
    assert {"s0-2", "t0-2", "t1-2"} <= set(names)
    assert set(re.findall('href="#([^"]*)"', content)) <= set(names)


def test_a_summary_is_read_back_from_its_json() -> None:
    made = beginning("甲乙。丙。")
    assert Summary.from_json(json.loads(json.dumps(made.as_json()))) == made
    assert made.copied == 3
    with _refused(TextError, "this is no summary", "KeyError: 'source'"):
        Summary.from_json({"summary": "x"})


# --- reading -----------------------------------------------------------------------------------------------------------------------------


def test_files_folders_and_lines_come_in_order_and_what_is_corrupt_is_in_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "x.txt").write_bytes("\ufeff乙\n\n丙".encode())
    (folder / ".hidden").write_text("no")
    (folder / "a.txt").write_text("甲", "utf-8")
    (folder / "c.txt").write_bytes(b"\xff\xfe")
    lines = tmp_path / "lines.jsonl"
    cail = {"text": [{"sentence": "一", "label": 1}, {"sentence": "二"}]}
    given = [{"text": "丁"}, cail, {"text": 3}, {"body": "x"}, {"text": "a\ud800"}]
    lines.write_text("\n\n".join(map(json.dumps, given)) + "\n{broken\n[1]\n")
    found = list(documents.read([str(folder), str(lines)]))
    assert [each.index for each in found] == list(range(10))
    assert [each.text for each in found] == ["甲", "乙\n\n丙", None, "丁", "一\n二", *[None] * 5]
    assert [Path(each.name).name for each in found][:4] == ["a.txt", "x.txt", "c.txt", "lines.jsonl:1"]
    errors = [each.error or "" for each in found if each.text is None]
    for error, words in zip(
        errors,
        ["the text is not UTF-8", "this is no text", "there is no text", "half a surrogate", "not JSON", "object with"],
        strict=True,
    ):
        assert words in error
    assert "lines.jsonl:5" in errors[1]
    assert "'body'" in errors[2]
    assert found[0].digest == hashlib.sha256("甲".encode()).hexdigest()
    assert documents.count([str(folder), str(lines)]) == 10
    assert documents.count(["-"]) is None


def test_standard_input_is_a_text_or_lines() -> None:
    def read(form: str) -> list[str | None]:
        stream = io.BytesIO(b'{"a": "x"}\n{"a": "y"}\n')
        return [each.text for each in documents.read(["-"], field="a", form=form, stdin=stream)]

    assert read("auto") == ['{"a": "x"}\n{"a": "y"}\n']
    assert read("jsonl") == ["x", "y"]


def test_files_that_cannot_be_read_and_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("甲", "utf-8")
    (tmp_path / "b.txt").write_text("乙", "utf-8")
    (tmp_path / "b.txt").chmod(0)
    found = list(documents.read([str(tmp_path)]))
    assert found[0].name.endswith("a\\udcff.txt")
    json.dumps(found[0].name, ensure_ascii=False).encode()
    if found[1].text is None:  # for the superuser, every file can be read
        assert "the file cannot be read" in (found[1].error or "")
        assert "PermissionError" in (found[1].error or "")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert documents.count([str(tmp_path / "pipe.jsonl")]) is None  # counting would take what is to be read
    assert documents.count([str(tmp_path)]) == 2


def test_what_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with _refused(TextError, "there is no such file or folder", "where:", "nowhere.txt"):
        documents.read([str(tmp_path), str(tmp_path / "nowhere.txt")])
    with _refused(ConfigError, "unknown form", "auto, text, jsonl", "'xml'"):
        documents.read(["-"], form="xml")
    with _refused(ConfigError, "standard input can be read once", "2 times"):
        documents.read(["-", "-"])
    with _refused(TextError, "there is no input"):
        documents.read([])


# --- running -----------------------------------------------------------------------------------------------------------------------------


def _told(results: Any) -> list[str]:
    return [each.summary.text if each.summary else f"{each.document.name}: {each.error}" for each in results]


def test_results_stream_in_order_with_failures_in_their_places() -> None:
    given = _documents("a。b。", "corrupt", "unforeseen", "", "c。")
    given.insert(1, Document(9, "lost", "", None, "not UTF-8"))
    seen = list[int]()

    def watched() -> Any:
        for document in given:
            seen.append(document.index)
            yield document

    results = running.run(watched(), Here(beginning))
    assert next(results).summary == beginning("a。b。")
    assert seen == [0]  # the second is not read before the first is answered
    lost, corrupt, unforeseen, empty, last = results
    assert (lost.error, lost.summary) == ("not UTF-8", None)
    assert "got:      corrupt" in (corrupt.error or "")
    assert "2.txt" in (unforeseen.error or "")
    assert "ZeroDivisionError: unforeseen" in (unforeseen.error or "")
    assert empty.error == "the text is empty"
    assert last.document == given[-1]


def test_what_is_known_is_not_done_again() -> None:
    given = _documents("a。", "b。", "die")  # which would end this process
    known = {2: Result(given[2], beginning("z。"), known=True)}
    assert _told(running.run(given, Here(beginning), lambda each: known.get(each.index))) == ["a。!", "b。!", "z。!"]


def test_processes_keep_the_order_and_outlive_a_worker_that_dies() -> None:
    """The slow ones come first, two workers die with their documents, and each worker has its part of the cores."""
    given = _documents("slow1。", "die", "2。", "exit", "3。", "corrupt", *(f"{i}。" for i in range(6, 14)), "threads")
    workers = Processes(Beginnings(), 2, 2)
    try:
        results = list(running.run(given, workers))
    finally:
        workers.close()
    assert [each.document.index for each in results] == list(range(15))
    assert results[0].summary is not None
    assert "the process that had the document ended" in (results[1].error or "")
    assert "1.txt" in (results[1].error or "")
    assert "signal SIGKILL" in (results[1].error or "")
    assert "exit status 7" in (results[3].error or "")
    assert [each.document.index for each in results if each.error] == [1, 3, 5]
    assert results[-1].summary is not None
    assert results[-1].summary.text in ("threads。!1", "threads。!None")


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("bad", ConfigError, ("the model does not fit", "where:    bad")),
        ("dies", BackendError, ("a process ended before it could begin", "exit status 3", "--workers")),
    ],
)
def test_a_model_that_does_not_load_is_one_error_and_not_one_for_each_document(
    model: str, kind: Any, words: Any
) -> None:
    workers = Processes(Beginnings(model), 1, 1)
    try:
        with _refused(kind, *words):
            list(running.run(_documents("a。", "b。"), workers))
    finally:
        workers.close()
    assert not workers._processes[0].process.is_alive()


# --- the file of results -----------------------------------------------------------------------------------------------------------------


def _line(document: Document, **more: Any) -> dict[str, Any]:
    head = {"index": document.index, "name": document.name, "sha256": document.digest, **KEY}
    return head | (more or {"summary": document.text})


def _write(path: Path, *lines: Any) -> None:
    with Journal(path, KEY) as journal:
        for line in lines:
            journal.write(line)


def test_a_file_goes_on_after_a_crash_with_its_torn_line_cut_off(tmp_path: Path) -> None:
    path, told, (a, b, c) = tmp_path / "out.jsonl", list[str](), _documents("甲", "乙", "丙")
    _write(path, _line(a), _line(b))
    whole = path.read_bytes()
    for length in range(whole.find(b"\n") + 1, len(whole), 12):
        path.write_bytes(whole[:length])
        with Journal(path, KEY, resume=True, notify=told.append) as journal:
            assert journal.recorded(a) == _line(a)
            assert journal.recorded(b) is None
            journal.write(_line(b))
            journal.check_end()
        assert path.read_bytes() == whole
    assert "1 documents are done" in told[0]
    assert "the last line was not whole; 12 bytes are cut off" in told[1]
    with Journal(path, KEY, resume=True) as journal:
        assert (journal.recorded(b), journal.recorded(c), len(journal)) == (_line(b), None, 2)
    with Journal(tmp_path / "new.jsonl", KEY, resume=True) as journal:
        assert len(journal) == 0


def test_a_file_of_another_input_model_or_kind_is_refused(tmp_path: Path) -> None:
    path, (a, b) = tmp_path / "out.jsonl", _documents("甲", "乙")
    _write(path, _line(a), _line(b))
    with _refused(ConfigError, "the file is there already", "out.jsonl", "--resume"):
        Journal(path, KEY)
    with Journal(path, KEY, resume=True) as journal:
        with _refused(ConfigError, "the file is of another input", "document 0, 0.txt", "0.txt, another text"):
            journal.recorded(dataclasses.replace(a, digest=b.digest))
        journal.recorded(a)
        with _refused(ConfigError, "the file is of another input", "document 1, 1.txt, in the file alone"):
            journal.check_end()
    for key, words in [
        (KEY | {"model": "m2"}, ("the file is of another model", "line 1", "expected: m2", "got:      m1")),
        (KEY | {"options": {"beams": 4}}, ("the file is of other options", "beams = 4", "beams = 3", "--resume")),
    ]:
        with _refused(ConfigError, *words):
            Journal(path, key, resume=True)
    path.write_bytes(path.read_bytes() + b'{"index": 2}\n')
    with _refused(ConfigError, "this is no file of summaries", "line 3"):
        Journal(path, KEY, resume=True)


def test_failures_are_done_again_when_asked_for(tmp_path: Path) -> None:
    path, (a, b, c) = tmp_path / "out.jsonl", _documents("甲", "乙", "丙")
    _write(path, _line(a), _line(b, error="died"), _line(c))
    with Journal(path, KEY, resume=True) as journal:
        assert journal.recorded(b) == _line(b, error="died")
    with Journal(path, KEY, resume=True, retry=True) as journal:
        assert [journal.recorded(each) for each in (a, b, c)] == [_line(a), None, _line(c)]
        journal.write(_line(b))
    assert [json.loads(line)["index"] for line in path.read_text("utf-8").splitlines()] == [0, 2, 1]


# --- the command -------------------------------------------------------------------------------------------------------------------------

PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "REFIMPL_BACKEND": "numpy"}
SENTENCES = "原告甲乙。被告丙丁；侵权责任，法院判决：驳回请求。"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny summarizer."""
    path = tmp_path_factory.mktemp("model")
    folder.save(path, tiny(max_new_tokens=6))
    return path


def _run(*arguments: Any, text: Any = None, env: Any = PLAIN) -> Any:
    return CliRunner().invoke(cli.app, ["summarize", *map(str, arguments)], input=text, env=env)


def _refused_command(*arguments: Any) -> str:
    """What is refused as a whole, before anything is summarized."""
    found = _run(*arguments)
    assert found.exit_code == 1
    assert isinstance(found.exception, RefimplError)  # which `main` prints, and exits with 2
    assert found.stdout == ""
    return str(found.exception)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Seven documents as lines of JSON, the third of them corrupt."""
    path = tmp_path / "many.jsonl"
    lines = [json.dumps({"text": SENTENCES[number:]}) for number in range(7)]
    lines[2] = lines[2][:-1]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_text_file_and_standard_input_give_what_the_library_gives(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SENTENCES, "utf-8")
    expected = folder.load(model, backend="numpy").summarize(SENTENCES, beams=1)
    assert expected.text
    for name in (tmp_path / "a.txt", "-"):
        found = _run(name, "--model", model, "--beams", 1, text=SENTENCES.encode())
        assert (found.exit_code, found.stdout) == (0, expected.text + "\n"), found.output
    (line,) = _run("-", "--model", model, "--beams", 1, "--json", text=SENTENCES.encode()).stdout.splitlines()
    told = json.loads(line)
    assert Summary.from_json(told) == expected
    assert (told["index"], told["name"], told["options"]["beams"]) == (0, "-", 1)
    assert told["sha256"] == hashlib.sha256(SENTENCES.encode()).hexdigest()
    assert told["model"] == folder.fingerprint(model)


def test_of_a_hundred_documents_with_one_corrupt_99_are_summarized(model: Path, tmp_path: Path) -> None:
    for number in range(100):
        content = b"\xff\xfe" if number == 41 else SENTENCES[number % 7 :].encode()
        (tmp_path / f"{number:03}.txt").write_bytes(content)
    found = _run(tmp_path, "--model", model, "--beams", 1, "--max-new-tokens", 2, "--json")
    assert found.exit_code == 1
    told = [json.loads(line) for line in found.stdout.splitlines()]
    assert [each["index"] for each in told] == list(range(100))
    assert [each["index"] for each in told if "error" in each] == [41]
    assert sum("summary" in each for each in told) == 99
    assert found.stderr.count("error: ") == 1
    for words in ("error: ", "041.txt: the text is not UTF-8", "to do:    write it as UTF-8", "99 of 100", "1 failed"):
        assert words in found.stderr


def test_the_documents_are_shown_with_their_names_as_they_come(model: Path, many: Path) -> None:
    found = _run(many, "--model", model, "--beams", 1)
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert [line for line in lines[::3] if line] == [f"{many}:{number}" for number in (1, 2, 4, 5, 6, 7)]
    assert lines[1] == folder.load(model, backend="numpy").summarize(SENTENCES, beams=1).text
    assert "many.jsonl:3: the line is not JSON" in found.stderr
    assert "6 of 7 documents summarized, 1 failed" in found.stderr


def test_a_run_that_stopped_goes_on_to_the_same_file(
    model: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after four documents, then a torn line: what is written stays, and only the rest is done."""
    straight, stopped = tmp_path / "straight.jsonl", tmp_path / "stopped.jsonl"
    options = (many, "--model", model, "--beams", 1)
    assert _run(*options, "--output", straight).exit_code == 1
    whole, done = straight.read_bytes(), list[str]()
    inner = Summarizer.summarize

    def interrupted(self: Any, text: str, **given: Any) -> Any:
        done.append(text)
        if len(done) == 4:
            raise KeyboardInterrupt
        return inner(self, text, **given)

    monkeypatch.setattr(Summarizer, "summarize", interrupted)
    found = _run(*options, "--output", stopped)
    assert (found.exit_code, found.stdout) == (130, "")
    assert "interrupted after 4 documents" in found.stderr
    assert f"the same command with --resume goes on from {stopped}" in found.stderr
    assert stopped.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    stopped.write_bytes(stopped.read_bytes()[:-5])
    found = _run(*options, "--output", stopped, "--resume")
    assert found.exit_code == 1
    assert stopped.read_bytes() == whole
    assert len(done) == 4 + 4
    assert "the last line was not whole" in found.stderr
    assert "3 documents are done" in found.stderr
    assert "many.jsonl:3: the line is not JSON" in found.stderr  # a failure is said again
    assert "6 of 7 documents summarized in" in found.stderr
    assert "(3 by an earlier run), 1 failed" in found.stderr


def test_failures_are_tried_again_once_what_was_wrong_is_repaired(model: Path, many: Path, tmp_path: Path) -> None:
    options = (many, "--model", model, "--beams", 1, "--output", tmp_path / "out.jsonl")
    assert _run(*options).exit_code == 1
    assert "of another input" in _refused_command(*options, "--resume", "--field", "body")
    lines = many.read_text("utf-8").splitlines()
    lines[2] += "}"
    many.write_text("\n".join(lines) + "\n", "utf-8")
    assert "of another input" in _refused_command(*options, "--resume")
    found = _run(*options, "--resume", "--retry")
    assert found.exit_code == 0, found.output
    assert "7 of 7 documents summarized" in found.stderr
    many.write_text("\n".join(lines[:4]) + "\n", "utf-8")
    error = _run(*options, "--resume").exception
    assert "document 4" in str(error)
    assert "in the file alone" in str(error)


def test_a_file_of_other_options_or_of_another_model_is_refused(model: Path, many: Path, tmp_path: Path) -> None:
    options = (many, "--model", model, "--output", tmp_path / "out.jsonl")
    assert _run(*options, "--beams", 1).exit_code == 1
    assert "the file is there already" in _refused_command(*options, "--beams", 1)
    assert "the file is of other options" in _refused_command(*options, "--resume")
    other = tmp_path / "other"
    folder.save(other, tiny(max_new_tokens=6, seed=1))
    arguments = (many, "--model", other, "--output", tmp_path / "out.jsonl", "--beams", 1, "--resume")
    assert "the file is of another model" in _refused_command(*arguments)


def test_processes_write_the_same_file_as_one(model: Path, many: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        found = _run(many, "--model", model, "--output", tmp_path / name, "--workers", workers)
        assert found.exit_code == 1
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.count(b"\n") == 7


def test_it_is_explained_what_was_extracted_and_copied(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SENTENCES + "\x1b[31m", "utf-8")
    told = _run(tmp_path / "a.txt", "--model", model, "--explain", "--threshold", 0.2)
    assert told.exit_code == 0
    summary = folder.load(model, backend="numpy").summarize(SENTENCES + "\x1b[31m", threshold=0.2)
    assert summary.spans
    assert f"summary: {summary.text}\n" in told.stdout
    for sentence in summary.sentences:
        head = f"{sentence.probability:6.3f} {'+' if sentence.chosen else ' '} "
        assert f"{head}{sentence.text.replace(chr(27), '[U+001B]')}\n" in told.stdout
    assert "\x1b" not in told.stdout
    assert f"copied: {summary.copied} of {len(summary.text)} characters" in told.stdout
    for span in summary.spans:
        (start, end), *_ = span.text
        assert f"  {summary.text[slice(*span.place)]}  from {start} to {end}" in told.stdout


def test_a_bar_is_shown_where_it_takes_long_and_makes_way(
    model: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, here one that is written down, whose two seconds are over at once; standard output has the results alone."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=80)
    monkeypatch.setattr(summarize_cli, "err", terminal)
    begin = summarize_cli._Bar.paused

    def late(self: Any) -> Any:
        if not self._due:
            self._begin()
        return begin(self)

    monkeypatch.setattr(summarize_cli._Bar, "paused", late)
    found = _run(many, "--model", model, "--beams", 1, "--json", env=PLAIN | {"TERM": "xterm"})
    assert [json.loads(line)["index"] for line in found.stdout.splitlines()] == list(range(7))
    assert "summarizing" in written.getvalue()
    assert "0/7" in written.getvalue()
    assert written.getvalue().rstrip().endswith("6 of 7 documents summarized, 1 failed")
    assert "summarizing" not in written.getvalue()[written.getvalue().rindex("\x1b[2K") :]


def test_the_page_shows_every_document_and_obeys_none(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra validation")
    given = tmp_path / "given.jsonl"
    hostile = "<script>甲</script>。\u202e\x1b[2J乙&amp;丙"
    given.write_text(json.dumps({"text": SENTENCES}) + "\n" + json.dumps({"text": hostile}) + "\n{<b>\n", "utf-8")
    options = (given, "--model", model, "--threshold", 0.2, "--report", tmp_path / "page")
    found = _run(*options, "--output", tmp_path / "out.jsonl")
    assert (found.exit_code, found.stdout) == (1, f"Report: {tmp_path / 'page' / 'index.html'}\n"), found.output
    page = (tmp_path / "page" / "index.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "[U+202E]" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]|https?:|<b>", page)
    summary = folder.load(model, backend="numpy").summarize(SENTENCES, threshold=0.2)
    plain = html.unescape(re.sub("<[^>]*>", "", page))
    assert f"\n{summary.text}\n" in plain
    assert f"{summary.copied} of {len(summary.text)} characters copied" in plain
    for sentence in summary.sentences:
        assert f"{sentence.probability:.3f}{sentence.text}\n" in plain
    names = re.findall(' id="([^"]*)"', page)
    assert len(names) == len(set(names))
    linked = re.findall('href="#([^"]*)"', page)
    assert linked
    assert set(linked) <= set(names)
    again = _run(*options, "--output", tmp_path / "out.jsonl", "--resume")  # from the file
    assert again.exit_code == 1
    assert (tmp_path / "page" / "index.html").read_text("utf-8") == page
    (tmp_path / "page" / "notes.txt").write_text("mine")
    assert "the folder holds something else" in _refused_command(*options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], ("--resume goes on with a file", "--output FILE")),
        (["--output", "x", "--retry"], ("--retry", "--resume beside it")),
        (["--json", "--explain"], ("one of them",)),
        (["--dask", "tcp://127.0.0.1:9", "--workers", "2"], ("--dask has workers of its own",)),
        (["--model", "nowhere"], ("there is no such folder", "nowhere")),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(tmp_path: Path, options: Any, words: Any) -> None:
    (tmp_path / "a.txt").write_text("甲")
    told = _refused_command(tmp_path / "a.txt", *options)
    for each in words:
        assert each in told


def test_what_is_written_is_not_read(model: Path, many: Path, tmp_path: Path) -> None:
    for read, option, path in [
        (many, "--output", many),
        (tmp_path, "--output", tmp_path / "out.jsonl"),
        (tmp_path, "--report", tmp_path / "a" / "page"),
    ]:
        told = _refused_command(read, "--model", model, option, path)
        assert "what is written would be read" in told
        assert f"{option} {path}" in told
    assert [path.name for path in tmp_path.iterdir()] == ["many.jsonl"]


def test_the_command_itself_exits_with_1_for_a_document_and_with_2_for_all(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    for arguments, code, words in [
        ((tmp_path / "a.txt", "--model", model), 1, "a.txt: the text is empty"),
        ((tmp_path / "a.txt", "--model", "nowhere"), 2, "error: there is no such folder"),
    ]:
        command = [sys.executable, "-m", "refimpl", "summarize", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | PLAIN, check=False)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_that_is_killed_leaves_a_file_that_goes_on(model: Path, many: Path, tmp_path: Path) -> None:
    """In a process of its own, which ends as soon as it has written the fourth line."""
    code = """
import os, sys
from refimpl import cli
from refimpl.spaces import journal
write = journal.Journal.write
def killed(self, record):
    write(self, record)
    if record["index"] == 3:
        os.kill(os.getpid(), 9)
journal.Journal.write = killed
cli.main()
"""
    out, straight = tmp_path / "out.jsonl", tmp_path / "straight.jsonl"
    arguments = [str(each) for each in (many, "--model", model, "--beams", 1, "--output", out)]
    command = [sys.executable, "-c", code, "summarize", *arguments]
    assert subprocess.run(command, cwd=ROOT, env=os.environ | PLAIN, capture_output=True, check=False).returncode == -9
    assert _run(*arguments[:-1], straight).exit_code == 1
    lines = straight.read_bytes().splitlines(keepends=True)
    assert out.read_bytes() == b"".join(lines[:4])
    out.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    told = _run(*arguments, "--resume", "--explain")
    assert told.exit_code == 1
    assert out.read_bytes() == straight.read_bytes()
    shown = [line for line in told.stdout.splitlines() if line.startswith(str(many))]
    assert shown == [f"{many}:{number}" for number in (5, 6, 7)]  # what was done before is not shown again


@pytest.mark.usefixtures("kept_environment")
def test_the_workers_of_a_scheduler_come_to_the_same_and_one_that_dies_takes_one_document(
    model: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    monkeypatch.setattr("refimpl.scheduler.PATIENCE", "300ms")
    with _refused(ConfigError, "no scheduler answers", "tcp://127.0.0.1:9", "tcp://host:port"):
        running.OnDask(Beginnings(), "tcp://127.0.0.1:9")
    monkeypatch.setattr("refimpl.scheduler.PATIENCE", "5s")
    assert _run(many, "--model", model, "--output", tmp_path / "one").exit_code == 1
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        address = cluster.scheduler_address
        found = _run(many, "--model", model, "--output", tmp_path / "two", "--dask", address)
        assert found.exit_code == 1, found.output
        with _refused(ConfigError, "a worker cannot begin", "the model does not fit", "on every worker"):
            running.OnDask(Beginnings("bad"), address)
        workers = running.OnDask(Beginnings(), address)
        try:
            given = [*_documents("slow1。", "corrupt", "2。"), Document(3, "lost", "", None, "not UTF-8")]
            results = list(running.run(given, workers))
            for document in (Document(4, "4.txt", "", "exit"), Document(5, "5.txt", "", "5。")):
                results += running.run([document], workers)
        finally:
            workers.close()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert [each.error is None for each in results] == [True, False, True, False, False, True]
    assert "the worker that had the document ended" in (results[4].error or "")
    assert "4.txt" in (results[4].error or "")


def test_a_missing_dask_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with _refused(ConfigError, "not installed", "--dask", "dask.distributed", 'pip install "refimpl[dask]"'):
        running.OnDask(Beginnings(), "tcp://nowhere:8786")
