"""The summarizer: what it says of a summary is true of the text; sources that are too long, sentences, settings, folders."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from summarizers import ALPHABET, tiny

import refimpl
from refimpl.errors import ConfigError, TextError
from refimpl.spaces import documents, folder, seq2seq
from refimpl.spaces.extractor import initial_extractor, sentence_probabilities, sentence_vectors
from refimpl.spaces.summarizer import OPTIONS, Settings, Summarizer
from refimpl.spaces.summary import Summary
from refimpl.spaces.words import WordTokenizer
from refimpl.text.sentences import split_document
from refimpl.trees import mapped

ROOT = Path(__file__).parent.parent
TEXT = "原告甲、乙。\n被告丙丁；侵权责任，\n\n法院判决：驳回请求。"


def _refused(kind: Any, *words: Any) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(str(word)) for word in words))


@pytest.fixture(scope="module")
def made() -> Summarizer:
    return tiny()


def _check(summary: Summary, text: str, published: bool = False, blanks: bool = False) -> None:
    """What a summary says of itself holds for the text."""
    assert all(text[slice(*each.place)] == each.text for each in summary.sentences)
    chosen = "".join(each.text for each in summary.sentences if each.chosen)
    assert chosen.startswith(summary.source) or (
        blanks and "".join(chosen.split()).startswith("".join(summary.source.split()))
    )
    assert "".join(token.text for token in summary.tokens) == summary.text
    assert all((token.tag == "O") == (token.place is None) for token in summary.tokens)
    for span in summary.spans:
        copied = summary.source[slice(*span.source)]
        assert "".join(text[slice(*place)] for place in span.text) == copied
        rest, written = iter(copied), summary.text[slice(*span.place)]
        assert written == copied or (published and all(character in rest for character in written.replace(" ", "")))
        assert copied
    assert Summary.from_json(json.loads(json.dumps(summary.as_json(), allow_nan=False))) == summary


# --- summaries ---------------------------------------------------------------------------------------------------------------------------

SUMMARIZERS = [
    tiny(),
    tiny(seed=1),
    tiny(nezha=True),
    tiny(dialect="published"),
    tiny(pieces=True),
    tiny(pieces=True, seed=1),
]


@given(
    st.text(ALPHABET + " !ab", min_size=1).filter(lambda text: set(text) & set(ALPHABET) - {"\n"}),
    st.sampled_from(SUMMARIZERS),
    st.sampled_from([0.0, 0.5, 0.9]),
)
@example(" ab a。b判决", SUMMARIZERS[-1], 0.0)
@settings(max_examples=25)
def test_what_a_summary_says_is_true_of_the_text(text: str, summarizer: Summarizer, threshold: float) -> None:
    published = (
        summarizer.settings.dialect == "published"
    )  # which leaves out what the vocabulary lacks, and has spaces of its own
    _check(summarizer.summarize(text, threshold=threshold), text, published)


@given(
    st.text(ALPHABET, min_size=1, max_size=60).filter(lambda text: set(text) & set("原告甲乙")),
    st.sampled_from([0.0, 0.5]),
)
@example(TEXT, 0.0)
@example(TEXT, 0.5)
@settings(max_examples=25, deadline=None)
def test_with_its_blanks_a_text_all_of_whose_sentences_are_chosen_is_the_source(text: str, threshold: float) -> None:
    summary = tiny(threshold=threshold, blanks=True).summarize(text)
    _check(summary, text, blanks=True)
    assert summary.source == summary.source.rstrip()
    if all(each.chosen for each in summary.sentences) and not any("cut after" in note for note in summary.notes):
        assert summary.source == text.strip()


def test_a_summary_is_made_of_the_parts_that_others_define(made: Summarizer) -> None:
    """Sentences, vectors, probabilities, choice and generation, each called as its own module has it."""
    sentences = split_document(TEXT)
    threshold = float(sorted(made.probabilities(sentences))[1])
    summary = made.summarize(TEXT, threshold=threshold)
    assert [each.text for each in summary.sentences] == sentences
    bert = (made.weights.bert, made.config.bert)
    vectors = [sentence_vectors(*bert, [[2, *made.tokenizer.encode(each), 3]])[0] for each in sentences]
    np.testing.assert_allclose(made.vectors(sentences), vectors, rtol=0, atol=2e-6)
    source = "".join(each.text for each in summary.sentences if each.probability > threshold)
    assert summary.source == source
    ids = [2, *made.tokenizer.encode(source), 3]
    best = seq2seq.generate(made.weights, made.config, ids, beams=2, max_new_tokens=12)[0]
    assert summary.score == pytest.approx(best.score, rel=1e-5)
    assert [token.tag for token in summary.tokens] == ["OBI"[tag] for tag in best.tags]
    assert [token.place for token in summary.tokens] == [
        None if place is None else (place - 1, place) for place in best.places
    ]
    assert summary.spans
    assert summary.source != "".join(sentences)
    assert summary.notes == ()


def test_arrays_of_another_library_on_another_device_give_the_same(made: Summarizer) -> None:
    """On the simulated GPU, which refuses what leaves it unasked; the definition reads there, where NumPy has the fast session."""
    strict = pytest.importorskip("array_api_strict", reason="needs the extra validation")

    def moved(array: Any) -> Any:
        return strict.asarray(array, device=strict.Device("device1"))

    parts = (mapped(moved, made.extractor_weights), made.extractor_config, made.settings)
    there = Summarizer(mapped(moved, made.weights), made.config, made.tokenizer, *parts)
    one, other = (each.summarize(TEXT, threshold=0.2) for each in (made, there))
    assert (other.tokens, other.spans, other.source) == (one.tokens, one.spans, one.source)
    assert other.score == pytest.approx(one.score, rel=1e-5)
    assert other.spans


@pytest.mark.parametrize(("liking", "ended", "length"), [(99.0, "stop", 0), (-99.0, "length", 5)])
def test_it_is_said_how_a_summary_ended(liking: float, ended: str, length: int) -> None:
    summarizer = tiny(max_new_tokens=5, tags=(9.0, 0.0, 0.0))
    summarizer.weights.bert.masked_lm.bias[3] = liking
    summary = summarizer.summarize(TEXT, threshold=0.0)
    assert (summary.ended, len(summary.tokens)) == (ended, max(length, 1))
    assert ("the summary is empty: the model ended at once" in summary.notes) == (not summary.text) == (not length)


def test_without_copying_there_are_no_spans(made: Summarizer) -> None:
    summary = made.summarize(TEXT, copy=False)
    assert (summary.spans, summary.copied) == ((), 0)
    assert {token.tag for token in summary.tokens} == {"O"}


def test_the_most_probable_sentence_is_taken_where_none_is_above_the_threshold(made: Summarizer) -> None:
    summary = made.summarize(TEXT, threshold=0.999)
    (chosen,) = (each for each in summary.sentences if each.chosen)
    assert chosen.probability == max(each.probability for each in summary.sentences)
    assert summary.source == chosen.text
    (note,) = summary.notes
    assert (
        f"no sentence has a probability above 0.999: the most probable one, {chosen.probability:.3g}, was taken" == note
    )
    _check(summary, TEXT)


def test_the_last_sentences_are_looked_at_where_there_are_too_many() -> None:
    summary = tiny(sentences=2, threshold=0.0).summarize(TEXT)
    assert [each.text for each in summary.sentences] == ["法院判决：", "驳回请求。"]
    assert "of 5 sentences the last 2 were looked at" in summary.notes
    _check(summary, TEXT)


def test_characters_that_the_vocabulary_lacks_are_copied_as_they_stand() -> None:
    """A model that copies everything: the unknown token stands for what was there."""
    copying = tiny(tags=(-99.0, 0.0, 50.0), max_new_tokens=4)
    copying.weights.bert.masked_lm.bias[:4] = [0, 50, 0, -50]  # the unknown token is best, the end worst
    text = "X甲Ⅷ乙鬱丙"
    summary = copying.summarize(text, threshold=0.0)
    assert summary.spans[0].place == (0, 4)
    assert summary.text in text
    assert set(summary.text) & set("XⅧ鬱")
    published = dataclasses.replace(copying.settings, dialect="published")
    names = ("weights", "config", "tokenizer", "extractor_weights", "extractor_config")
    made = Summarizer(*(getattr(copying, name) for name in names), published)
    assert not set(made.summarize(text, threshold=0.0).text) & set("XⅧ鬱")
    _check(summary, text)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_a_sentence_without_a_token_is_not_chosen(threshold: float) -> None:
    """Of lines with a space only, the splitting leaves empty sentences; here they are the most probable."""
    for seed in range(4):
        summary = tiny(seed=seed).summarize("\u200b，\n \n甲\n \n\u200d", threshold=threshold)
        assert not any(each.chosen for each in summary.sentences if each.text.strip("\u200b\u200d") == "")
        assert summary.source


@pytest.mark.parametrize(
    ("pieces", "text", "copied", "written", "spans"),
    [
        # the tokenizer of words knows no spaces, and not the second digit of a number: the source does
        (False, "原告30 12", [(1, 2), (2, 3), (2, 4)], "30 1", [((0, 4), (2, 6))]),
        (False, "原告30", [(1, 2), (2, 3), (1, 0)], "30原", [((0, 2), (2, 4)), ((2, 3), (0, 1))]),
        # pieces carry the space before them: it is of a span only between its tokens
        (
            True,
            "判决 ab a",
            [(1, 1), (2, 2), (1, 0), (1, 1)],
            "ab a判决 ab",
            [((0, 4), (3, 7)), ((4, 6), (0, 2)), ((7, 9), (3, 5))],
        ),
        # a space by itself, at the beginning, is not written
        (True, "判决 b", [(1, 1), (2, 2)], "b", [((0, 1), (3, 4))]),
        (True, "判决 b", [(1, 0), (2, 1), (2, 2)], "判决 b", [((0, 4), (0, 4))]),
    ],
)
def test_what_is_copied_is_written_as_it_stands(
    pieces: bool, text: str, copied: Any, written: str, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of the source by their numbers, each with its tag, in the place of what a model would generate."""
    summarizer = tiny(pieces=pieces)
    ids = summarizer.tokenizer.encode(text)

    def generate(*arguments: Any, **options: Any) -> Any:
        tags, places = zip(*copied, strict=True)
        said = [ids[place] for place in places] + [3]
        return [seq2seq.Generated(said, -1.0, [*tags, 0], [place + 1 for place in places] + [None])]

    monkeypatch.setattr(seq2seq, "generate", generate)
    summary = summarizer.summarize(text)
    assert summary.text == written
    assert [(span.place, span.source) for span in summary.spans] == spans
    _check(summary, text)


# --- sources that are too long -------------------------------------------------------------------------------------------------------------

LONG = "".join(f"原告甲乙{number}。" for number in range(40))


def test_positions_are_extended_and_it_is_said(made: Summarizer) -> None:
    summary = made.summarize(LONG, threshold=0.0)
    ids = [2, *made.tokenizer.encode(summary.source), 3]
    needed = len(ids) + 13
    assert needed > 48
    assert summary.notes == (f"the 48 positions were extended hierarchically: {needed} are needed",)
    weights = made.weights._replace(bert=refimpl.positions.extend(made.weights.bert, to=needed))
    longer = dataclasses.replace(made.config.bert, max_position_embeddings=needed)
    config = dataclasses.replace(made.config, bert=longer)
    best = seq2seq.generate(weights, config, ids, beams=2, max_new_tokens=12)[0]
    assert summary.score == pytest.approx(best.score, rel=1e-5)
    assert [token.place for token in summary.tokens] == [
        None if place is None else (place - 1, place) for place in best.places
    ]
    assert tiny(nezha=True, threshold=0.0).summarize(LONG).notes == ()
    _check(summary, LONG)


@pytest.mark.parametrize("room", [5, 12, 30, 60, 150])
@pytest.mark.parametrize("pieces", [False, True])
def test_the_most_probable_sentences_that_fit_are_the_source(pieces: bool, room: int) -> None:
    """Taken by probability: each that is left out had no room beside those that are more probable."""
    made = tiny(pieces=pieces)
    text = LONG + "原告" * 20 + "。" + LONG
    summary = made.summarize(text, threshold=0.0, source_tokens=room, max_new_tokens=4)
    assert len(made.tokenizer.encode(summary.source)) + 2 <= room
    left, ranked = room - 2, sorted(summary.sentences, key=lambda each: -each.probability)
    for number, each in enumerate(ranked):
        length = len(made.tokenizer.encode(each.text))
        assert each.chosen == (number == 0 or length <= left)
        left -= length * each.chosen
    others = sum(not each.chosen for each in summary.sentences)
    told = f"{others} of 81 chosen sentences were left out, the most probable that fit were kept: the source may have {room} tokens"
    assert told in summary.notes
    _check(summary, text)


def test_a_long_sentence_does_not_keep_shorter_ones_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny()
    text = "原告。" + "原告" * 50 + "。被告。" + "判决。"
    monkeypatch.setattr(Summarizer, "probabilities", lambda self, sentences: np.asarray([0.9, 0.8, 0.3, 0.7]))
    summary = made.summarize(text, threshold=0.0, source_tokens=12, max_new_tokens=4)
    assert [each.chosen for each in summary.sentences] == [True, False, True, True]
    assert summary.source == "原告。被告。判决。"


def test_a_source_is_cut_where_that_is_asked_for_and_where_one_sentence_is_too_long(made: Summarizer) -> None:
    summary = tiny(overlong="cut", threshold=0.0).summarize(LONG, source_tokens=22)
    assert len(made.tokenizer.encode(summary.source)) == 20
    total = len(made.tokenizer.encode("".join(each.text for each in summary.sentences)))
    assert f"the source was cut after 20 of its {total} tokens" in summary.notes
    assert [each.text for each in summary.sentences if each.chosen] == [f"原告甲乙{number}。" for number in range(4)]
    _check(summary, LONG)
    one = "甲" * 100
    summary = made.summarize(one, source_tokens=22)
    assert summary.source == "甲" * 20
    _check(summary, one)


def test_options_that_leave_no_room_are_refused() -> None:
    with _refused(ConfigError, "the source has no room", "9 positions", "max_new_tokens = 12"):
        tiny(positions=3).summarize(TEXT)
    summary = tiny(positions=5, max_new_tokens=12).summarize(TEXT)  # 5² = 25 positions, 12 of them for the source
    assert len(summary.source) <= 10
    with _refused(ConfigError, "a setting is out of range", "beams = 0"):
        tiny().summarize(TEXT, beams=0)
    with _refused(ConfigError, "a setting is out of range", "threshold = 1"):
        tiny().summarize(TEXT, threshold=1)


@pytest.mark.parametrize(
    ("text", "words"), [(" \n\u3000", ("the text is empty",)), ("\u200b\u200d", ("the text has no token", "'\\u200b"))]
)
def test_a_text_without_characters_is_refused(made: Summarizer, text: str, words: Any) -> None:
    with _refused(TextError, *words):
        made.summarize(text)


# --- settings and folders ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({"threshold": value} for value in (-0.1, 1.0, "0.2", True, float("nan"))),
        *({"beams": 2.0}, {"k": 0}, {"copy": 1}, {"overlong": "trim"}, {"dialect": "x"}, {"separators": None}),
        *({"sentences": 0}, {"source_tokens": -1}, {"length_penalty": float("inf")}, {"strips": 3}, {"blanks": 1}),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with _refused(ConfigError, "a setting is out of range", f"{name} = {value!r}"):
        Settings(**wrong)


def test_options_are_the_settings_unless_given() -> None:
    found = Settings(beams=5).options(threshold=0.3, copy=False)
    assert list(found) == list(OPTIONS)
    assert (found["beams"], found["threshold"], found["copy"]) == (5, 0.3, False)
    with _refused(ConfigError, "the published decoding has no such option", "copy = False"):
        Settings(dialect="published").options(copy=False)
    with _refused(ConfigError, "unknown options", "beam"):
        Settings().options(beam=3)


def test_parts_that_do_not_fit_are_refused(made: Summarizer) -> None:
    vocabulary = made.tokenizer.vocabulary
    for part, value, words in [
        (
            "tokenizer",
            WordTokenizer(vocabulary | {"x": len(vocabulary)}),
            ("tokens of the vocabulary", len(vocabulary)),
        ),
        (
            "config",
            dataclasses.replace(made.config, end_token_id=1),
            ("the token that ends", "expected: 1", "got:      3"),
        ),
        (
            "extractor_config",
            dataclasses.replace(made.extractor_config, input_size=9),
            ("width of a sentence", "9", "12"),
        ),
        ("settings", Settings(encoder="own"), ("the settings and the encoder disagree", "'own', None")),
    ]:
        names = ("weights", "config", "tokenizer", "extractor_weights", "extractor_config", "settings")
        parts = {name: getattr(made, name) for name in names} | {part: value}
        with _refused(ConfigError, *words):
            Summarizer(**parts)


def test_a_folder_is_read_back_and_summarizes_alike(made: Summarizer, tmp_path: Path) -> None:
    folder.save(tmp_path / "a", made)
    again = folder.load(tmp_path / "a", backend="numpy")
    assert again.settings == made.settings == folder.read_settings(tmp_path / "a")
    one, other = made.summarize(TEXT), again.summarize(TEXT)
    assert (other.text, other.tokens, other.spans, other.notes) == (one.text, one.tokens, one.spans, one.notes)
    assert other.score == pytest.approx(one.score, rel=1e-5)  # products of arrays in another memory order
    first = folder.fingerprint(tmp_path / "a")
    folder.save(tmp_path / "b", again)
    assert folder.fingerprint(tmp_path / "b") == first
    (tmp_path / "b" / ".note").write_text("")
    assert folder.fingerprint(tmp_path / "b") == first
    folder.save(tmp_path / "b", made, dtype="float16")
    assert folder.fingerprint(tmp_path / "b") != first
    halved = folder.load(tmp_path / "b", backend="numpy")
    assert halved.weights.tags.weight.dtype == "float32"
    rounded = made.weights.tags.weight.astype("float16")
    assert (halved.weights.tags.weight == rounded).all()
    _check(halved.summarize(TEXT), TEXT)


def test_an_encoder_of_its_own_makes_the_vectors(made: Summarizer, tmp_path: Path) -> None:
    """The recorded BERT in a sub-folder, with a vocabulary of characters, beside the generator."""
    shutil.copytree(ROOT / "validation" / "recorded" / "hugging_face_bert" / "model", tmp_path / "own")
    size = json.loads((tmp_path / "own" / "config.json").read_text())["vocab_size"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(ALPHABET) - {"\n"})]
    tokens += [f"[unused{number}]" for number in range(size)]
    (tmp_path / "own" / "vocab.txt").write_text("\n".join(tokens[:size]) + "\n", "utf-8")
    encoder: Any = refimpl.load(tmp_path / "own", backend="numpy")
    sizes = dataclasses.replace(made.extractor_config, input_size=encoder.config.hidden_size)
    chosen = dataclasses.replace(made.settings, encoder="own", sentence_tokens=6)
    parts = (made.weights, made.config, made.tokenizer, initial_extractor(sizes, 1), sizes, chosen)
    folder.save(tmp_path, Summarizer(*parts, encoder))
    again = folder.load(tmp_path, backend="numpy")
    sentences = ["原告", "被告甲乙丙丁"]
    found = again.probabilities(sentences)
    vectors = encoder.embed(["原告", "被告甲乙"], pooling="mean")  # four tokens and two special ones
    expected = sentence_probabilities(parts[3], sizes, vectors[None])[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    _check(again.summarize(TEXT), TEXT)
    shutil.rmtree(tmp_path / "own")
    with _refused(Exception, "own"):
        folder.load(tmp_path, backend="numpy")


def _edited(path: Path, change: Any) -> None:
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(format=2), ("the summarizer is not as expected", "spaces.json", "format 1", "format 2")),
        (lambda v: v.pop("settings"), ("the summarizer is not as expected", "settings", "got:      format; format 1")),
        (lambda v: v["settings"].update(beam=3), ("unknown settings", "spaces.json", "['beam']")),
        (lambda v: v["settings"].update(beams=0), ("a setting is out of range", "beams = 0")),
        (lambda v: v["settings"].update(encoder="../x"), ("an encoder is in a sub-folder", "../x")),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(made: Summarizer, tmp_path: Path, change: Any, words: Any) -> None:
    folder.save(tmp_path, made)
    _edited(tmp_path / "spaces.json", change)
    with _refused(ConfigError, *words):
        folder.load(tmp_path, backend="numpy")


def test_what_is_no_folder_of_a_summarizer_is_refused(made: Summarizer, tmp_path: Path) -> None:
    with _refused(ConfigError, "there is no such folder", "nowhere", "docs/summarize.md", "synopsis"):
        folder.load(tmp_path / "nowhere")
    with _refused(ConfigError, "the summarizer cannot be read", "spaces.json", "FileNotFoundError"):
        folder.load(tmp_path)
    folder.save(tmp_path, made)
    (tmp_path / "seq2seq" / "words.json").unlink()
    (tmp_path / "seq2seq" / "vocab.txt").unlink()
    with _refused(ConfigError, "the summarizer has no tokenizer", "seq2seq", "words.json"):
        folder.load(tmp_path, backend="numpy")
    found = folder.opened(tmp_path, beams=1)
    assert dict(found.options)["beams"] == 1
    (tmp_path / "more").write_text("")
    with _refused(ConfigError, "this is another model", tmp_path, found.model[:12]):
        found()


# --- real judgments ------------------------------------------------------------------------------------------------------------------------


def test_real_judgments_run_end_to_end(shared: Any, made: Summarizer) -> None:
    """Two of the twenty here. All of them: refimpl summarize ../shared/data/spaces/train.json --model FOLDER."""
    path = shared("spaces").parent.parent / "data" / "spaces" / "train.json"
    if not path.is_file():
        pytest.skip(f"real judgments are not here: {path}")
    read = list(documents.read([str(path)]))
    assert len(read) == 20
    for document in read[:2]:
        text = document.text or ""
        summary = made.summarize(text, threshold=0.45)
        assert len(summary.sentences) > 50
        assert summary.text
        _check(summary, text)
