"""Files of documents: what is read, in what order, which fold holds what, and labels of a whole file, stopped and gone on with."""

from __future__ import annotations

import concurrent.futures
import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.errors import ConfigError, TextError
from refimpl.spaces import labelling
from refimpl.spaces.data import (
    Document,
    Failure,
    Labelled,
    Pair,
    held_out,
    read_documents,
    read_labelled,
    read_pairs,
    shuffled,
    trained_on,
    write_lines,
)
from refimpl.spaces.labelling import LabelOptions, label_document, label_file
from refimpl.spaces.labels import extractive_labels
from refimpl.spaces.resuming import Begun

ROOT = Path(__file__).parent.parent
JUDGMENTS = ROOT.parent / "shared" / "data" / "spaces" / "train.json"


def _texts(number: int) -> tuple[str, str]:
    """A text of a few sentences, and a summary made of some of them."""
    words = [f"{'甲乙丙丁戊己庚辛'[(number + i) % 8]}说第{i}件事" for i in range(5)]
    return "。".join(words) + "。", f"{words[number % 5]}，{words[(number + 2) % 5][1:]}。"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Seven documents, and two lines that are none."""
    path = tmp_path / "data.jsonl"
    lines = [json.dumps(dict(zip(("text", "summary"), _texts(i), strict=True)), ensure_ascii=False) for i in range(7)]
    lines[3:3] = ['{"text": "cut off', ""]
    lines.append('{"text": "no summary"}')
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


# --- order and folds ------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.data())
def test_every_document_is_held_out_once_and_trains_all_other_folds(count: int, data: Any) -> None:
    folds = data.draw(st.integers(2, count))
    held = [held_out(count, folds, fold) for fold in range(folds)]
    assert sorted(i for each in held for i in each) == list(range(count))
    for fold in range(folds):
        assert sorted(held[fold] + trained_on(count, folds, fold)) == list(range(count))
        assert all(i % folds == fold for i in held[fold])
    assert trained_on(count, folds, None) == list(range(count))
    assert held_out(count, folds, None) == []


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (6, 0), (3, 3), (3, -1), (2.5, 0), (True, 0)])
def test_a_fold_that_is_not_there_is_refused(folds: Any, fold: Any) -> None:
    with pytest.raises(ConfigError, match=r"no such fold[\s\S]*2 to 5 folds"):
        held_out(5, folds, fold)


@given(st.integers(0, 30), st.integers(0, 5))
def test_the_order_is_a_permutation_that_depends_on_the_seed_alone(count: int, seed: int) -> None:
    assert sorted(shuffled(count, seed)) == list(range(count))
    assert shuffled(count, seed) == shuffled(count, seed)
    assert count < 25 or shuffled(count, seed) != shuffled(count, seed + 1)


# --- files ----------------------------------------------------------------------------------------------------------------------


def test_documents_are_read_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    judgment = {
        "id": "x1",
        "summary": "s",
        "text": [{"sentence": "一。", "label": 1}, {"sentence": ""}, {"sentence": "二"}],
    }
    plain = {"text": "a\u2028b", "summary": "c", "more": 1}
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, [judgment, plain])).encode())
    documents, failures = read_documents(path)
    assert documents == [Document(1, "x1", "一。\n\n二", "s"), Document(2, "2", "a\u2028b", "c")]
    assert failures == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "a", ', "JSONDecodeError"),
        (b'{"text": "\xff", "summary": "b"}', "UnicodeDecodeError"),
        (b'["a", "b"]', "not a JSON object, but list"),
        (b'{"text": "a"}', "no 'summary'"),
        (b'{"text": "a", "summary": 3}', "'summary' is not a text, but int"),
        (b'{"text": " ", "summary": "b"}', "'text' is empty"),
        (b'{"text": [{"sentence": 1}], "summary": "b"}', "'sentence' is not a text"),
        (b'{"text": [], "summary": "b"}', "'text' is empty"),
        (b'{"text": "\\ud800", "summary": "b"}', "surrogates not allowed"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_is_no_document_is_reported_with_its_number(line: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a", "summary": "b"}\n\n' + line + b'\n{"text": "c", "summary": "d"}')
    documents, failures = read_documents(path)
    assert [each.line for each in documents] == [1, 4]
    assert [each.line for each in failures] == [3]
    assert words in failures[0].error


def test_a_file_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"cannot be read[\s\S]*FileNotFoundError"):
        read_documents(tmp_path / "absent")
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(TextError, match="there is no document"):
        read_documents(tmp_path / "empty")


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    labelled = [Labelled("a", ["一。", "二\n"], [1], "二", 0.1 + 0.2), Labelled("b", ["x"], [], "y", 0.0)]
    pairs = [Pair("a", "", "二", "二"), Pair("b", "x\u2028", "x", "y")]
    write_lines(tmp_path / "labels", labelled)
    write_lines(tmp_path / "pairs", pairs)
    assert read_labelled(tmp_path / "labels") == labelled
    assert read_pairs(tmp_path / "pairs") == pairs
    assert read_pairs(tmp_path / "labels") == [Pair("a", "二\n", "二\n", "二"), Pair("b", "", "", "y")]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_lines(tmp_path / "absent" / "pairs", pairs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sentences": []}, "'sentences' are not texts, one at least"),
        ({"labels": [1, 0]}, "not rising places in 2 sentences"),
        ({"labels": [2]}, "not rising places"),
        ({"labels": [True]}, "not rising places"),
        ({"labels": None}, "not rising places"),
        ({"score": "high"}, "'score' is not a number"),
        ({"summary": ""}, "'summary' is empty"),
    ],
)
def test_labels_of_another_form_are_refused_with_their_lines(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    good = Labelled("a", ["x", "y"], [0], "z", 0.5)._asdict()
    lines = [json.dumps(good), *[json.dumps(good | change)] * 7]
    (tmp_path / "labels").write_text("\n".join(lines))
    with pytest.raises(TextError, match="another form") as error:
        read_labelled(tmp_path / "labels")
    assert f"line 2: {words}" in str(error.value) or words in str(error.value)
    assert "line 6" in str(error.value)
    assert "and 2 more" in str(error.value)


# --- what goes on after a stop --------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=4), st.integers(0, 200))
def test_a_file_that_was_cut_off_anywhere_goes_on_behind_its_last_whole_line(texts: list[str], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, settings = Path(folder) / "part", {"seed": 1}
        with Begun(path, settings) as begun:
            for text in texts:
                begun.add({"text": text})
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        path.write_bytes(whole[: max(first, len(whole) - cut)] + b"torn" * cut)
        with Begun(path, settings, resume=True) as begun:
            done = [each["text"] for each in begun.done]
            assert done == texts[: len(done)]
            for text in texts[len(done) :]:
                begun.add({"text": text})
        assert path.read_bytes() == whole


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with pytest.raises(ConfigError, match="nothing to resume"):
        Begun(path, {}, resume=True)
    with Begun(path, {"seed": 1, "limit": 2}):
        pass
    with pytest.raises(ConfigError, match=r"begun before[\s\S]*--resume"):
        Begun(path, {"seed": 1, "limit": 2})
    with pytest.raises(ConfigError, match=r"other settings[\s\S]*seed: 1 there, 2 here"):
        Begun(path, {"seed": 2, "limit": 2}, resume=True)
    path.write_text("[]\n")
    with pytest.raises(ConfigError, match="not one that was begun here"):
        Begun(path, {}, resume=True)
    with pytest.raises(ConfigError, match="cannot be read or written"):
        Begun(tmp_path / "absent" / "part", {})


# --- labels ---------------------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_definition_in_the_order_of_the_seed(source: Path, tmp_path: Path) -> None:
    found = label_file(source, tmp_path / "labels.jsonl", seed=3)
    records = read_labelled(tmp_path / "labels.jsonl")
    documents, _ = read_documents(source)
    planned = [documents[i] for i in shuffled(7, 3)]
    assert [each.id for each in records] == [each.id for each in planned]
    for record, document in zip(records, planned, strict=True):
        meant = extractive_labels(document.text, document.summary)
        assert record == Labelled(document.id, meant.texts, meant.labels, document.summary, meant.score)
        assert record.labels
    assert found.documents == 7
    assert found.score == pytest.approx(sum(each.score for each in records) / 7)
    assert [each.line for each in found.failures] == [4, 10]
    said = json.loads((tmp_path / "labels.jsonl.json").read_text("utf-8"))
    assert said["seed"] == 3
    assert said["failures"][1] == {"line": 10, "error": "no 'summary'"}
    assert not (tmp_path / "labels.jsonl.part").exists()
    with pytest.raises(ConfigError, match="there already"):
        label_file(source, tmp_path / "labels.jsonl")


def test_a_stopped_labelling_goes_on_and_writes_the_same(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped at every document, by what is raised there; among them one that fails, and is not lost."""
    definition = labelling.extractive_labels

    def failing(text: str, *rest: Any, **options: Any) -> Any:
        if text == _texts(2)[0]:
            raise TextError("planted")
        return definition(text, *rest, **options)

    monkeypatch.setattr(labelling, "extractive_labels", failing)
    straight = label_file(source, tmp_path / "straight", seed=1)
    assert [each.line for each in straight.failures] == [3, 4, 10]
    part, at_start = tmp_path / "stopped.part", []

    def stop(done: int, of: int) -> None:
        at_start.append(done)
        if len(at_start) % 3 == 0:  # two documents after every start
            raise KeyboardInterrupt

    for resume in (False, True, True):
        with pytest.raises(KeyboardInterrupt):
            label_file(source, tmp_path / "stopped", seed=1, resume=resume, advance=stop)
        part.write_bytes(part.read_bytes() + b'{"line')  # torn
    assert at_start == [0, 1, 2, 2, 3, 4, 4, 5, 6]
    assert not (tmp_path / "stopped").exists()
    assert label_file(source, tmp_path / "stopped", seed=1, resume=True) == straight
    for name in ("stopped", "stopped.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("stopped", "straight")).read_bytes()


def test_a_part_of_another_order_is_refused(source: Path, tmp_path: Path) -> None:
    part = tmp_path / "labels.part"
    options: dict[str, Any] = {"seed": 1}
    settings = labelling._settings(source, 1, LabelOptions())
    with Begun(part, settings) as begun:
        begun.add({"line": 99, "error": "x"})
    with pytest.raises(ConfigError, match="results in the order of the seed"):
        label_file(source, tmp_path / "labels", resume=True, **options)
    with pytest.raises(ConfigError, match="limit: 256 there, 5 here"):
        label_file(source, tmp_path / "labels", LabelOptions(limit=5), resume=True, **options)


def test_processes_give_the_same_file(source: Path, tmp_path: Path) -> None:
    alone = label_file(source, tmp_path / "alone", seed=2)
    assert label_file(source, tmp_path / "two", seed=2, jobs=2) == alone
    assert (tmp_path / "two").read_bytes() == (tmp_path / "alone").read_bytes()
    with pytest.raises(ConfigError, match="too few processes"):
        label_file(source, tmp_path / "none", jobs=0)


def test_a_process_that_ends_is_told_and_what_was_done_stays(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    class Pool:
        """The third document ends its process."""

        def __init__(self, jobs: int, context: Any) -> None:
            self.submitted = 0

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def submit(self, function: Any, document: Document, options: LabelOptions) -> Any:
            self.submitted += 1
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            if self.submitted > 2:
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(function(document, options))
            return future

        def shutdown(self, cancel_futures: bool) -> None:
            assert cancel_futures

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    with pytest.raises(ConfigError, match=r"ended before its work[\s\S]*--resume and fewer --jobs"):
        label_file(source, tmp_path / "stopped", jobs=2)
    monkeypatch.undo()
    assert len((tmp_path / "stopped.part").read_text("utf-8").splitlines()) == 3
    assert label_file(source, tmp_path / "stopped", resume=True) == label_file(source, tmp_path / "straight")
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "straight").read_bytes()


def test_options_that_fail_every_document_are_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    for options, words in ((LabelOptions(limit=0), "at least 1"), (LabelOptions(unit="byte"), "no such unit")):
        with pytest.raises(ConfigError, match=words):
            label_file(source, tmp_path / "labels", options)
    assert [each.name for each in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_document_that_cannot_be_labelled_is_a_failure(monkeypatch: Any) -> None:
    monkeypatch.setattr(labelling, "extractive_labels", lambda *rest, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # nobody foresaw it: it is no fault of the document
        label_document(Document(7, "x", "a", "b"), LabelOptions())
    found = label_document(Document(7, "x", "a", "b"), LabelOptions(limit=0)) if monkeypatch.undo() is None else None
    assert isinstance(found, Failure)
    assert found.line == 7
    assert "at least 1" in found.error
