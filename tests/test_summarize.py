"""Documents to summaries: reading, order, failures, processes, resuming, the command, the report."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from summarizers import Beginnings, beginning

from refimpl.errors import BackendError, ConfigError, TextError
from refimpl.spaces import documents, running
from refimpl.spaces.documents import Document
from refimpl.spaces.journal import Journal
from refimpl.spaces.running import Here, Processes, Result
from refimpl.spaces.summary import SourceMap, Summary, Token, located, spans_of

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
            at = after[1] if tag == "I" and after and after[1] < len(source) else at
            tokens.append(Token(source[at], tag, (at, at + 1)))
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
