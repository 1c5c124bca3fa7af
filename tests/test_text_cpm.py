"""CPM-LM's tokenizer: jieba's words, the two published vocabularies, what survives, what is lost, and ids recorded from its own code."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import subprocess
import sys
import threading
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pieces
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl import errors
from refimpl.text import CPMTokenizer, cpm, open_tokenizer, segmentation
from refimpl.text.segmentation import segmenter
from weights_io import published

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "validation" / "recorded" / "cpm_tokenizer"
SPECIAL = {1, 2, 4, 5, 6, 7}  # <s>, </s>, <sep>, <pad>, <mask>, <eod>; 3 is the line feed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CPMTokenizer:
    return CPMTokenizer(pieces.written(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def real(shared: Any) -> CPMTokenizer:
    """The published vocabulary of 2020-11-22."""
    return CPMTokenizer(shared("../data/cpm"))


@pytest.fixture(scope="module")
def older(shared: Any) -> CPMTokenizer:
    """That of 2020-11-13."""
    return CPMTokenizer(shared("../data/cpm") / "chinese_vocab_2020-11-20.model")


# --- words ------------------------------------------------------------------------------------------------------------------

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jieba
    from jieba import finalseg


@pytest.fixture(scope="module")
def their_words() -> Any:
    """jieba.cut, with its own search and the dictionary that has been read already."""
    theirs = jieba.Tokenizer()
    theirs.FREQ, theirs.total, theirs.initialized = dict(segmenter().frequency), segmentation.OCCURRENCES, True
    return lambda text: list(theirs.cut(text, cut_all=False))


words = st.sampled_from(
    [
        "今天",
        "天气",
        "不错",
        "中华人民共和国",
        "的",
        "一",
        "了",
        "北京",
        "清华大学",
        "东西",
        "南北",
        "AT&T",
        "卡拉OK",
        "T恤",
        "鯕",
        "䶮",
        "𠀀",
    ]
)
others = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
separate = st.sampled_from(
    [" ", "\n", "\r\n", "\t", "　", "  ", "1.5%", "a-b", "#", "😀", "é", "▂", "▃", "▁", "\x85", "\x0b"]
)
texts = st.lists(words | others | separate, max_size=12).map("".join)


@given(text=texts)
@example(text="")
@example(text="的一了是我不在" * 3)
@example(text="不大\n不一 中大")  # in the dictionary, and two words are more probable: the second search is not asked
@example(text="小明硕士毕业于中国科学院计算所，后在日本京都大学深造")
def test_the_words_are_those_of_jieba(text: str, their_words: Any) -> None:
    found = list(segmenter().cut(text))
    assert found == their_words(text)
    assert "".join(found) == text


def test_long_runs_of_single_characters_are_the_words_of_jieba(their_words: Any) -> None:
    """What its second search decides, over runs long enough that ties and underflow would show."""
    for text in (
        "鯕" * 700,
        "的" * 700,
        "鯕龘" * 300,
        "".join(chr(0x4E00 + 37 * k % 20000) for k in range(1500)),
        "a" * 700,
    ):
        assert list(segmenter().cut(text)) == their_words(text)


def test_what_a_program_does_to_the_dictionary_of_jieba_changes_nothing(tiny: CPMTokenizer) -> None:
    text = "我们今天天气不错"
    before, kept = tiny.encode(text), dict(jieba.dt.__dict__)
    jieba.dt.FREQ, jieba.dt.total, jieba.dt.initialized = {text: 10**6}, 10**6, True
    finalseg.Force_Split_Words.add("今天")
    try:
        assert tiny.encode(text) == before
    finally:
        jieba.dt.__dict__.update(kept)
        finalseg.Force_Split_Words.clear()


def test_another_dictionary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dict.txt").write_text("今天 3 n\n天气 4 n\n", "utf-8")
    monkeypatch.setattr(jieba, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(errors.TokenizerError, match="not the one whose words CPM was trained on") as caught:
        segmentation._made.__wrapped__()
    for part in ("60101967", "got:      7", "jieba>=0.42.1"):
        assert part in str(caught.value)


def test_nothing_is_said_and_nothing_is_kept(tmp_path: Path) -> None:
    """jieba itself logs to standard error, warns at import, and keeps its dictionary in the folder for temporary files."""
    pieces.written(tmp_path, "a.model")
    (tmp_path / "temporary").mkdir()
    code = (
        f"from refimpl.text import CPMTokenizer; print(CPMTokenizer({str(tmp_path / 'a.model')!r}).encode('今天天气'))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(json.loads(done.stdout)) >= 1
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_jieba_warns_of_at_import_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its escapes are deprecated, and so is pkg_resources; here warnings are errors."""
    original = builtins.__import__

    def warning(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "jieba":
            warnings.warn("invalid escape sequence", DeprecationWarning, stacklevel=2)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", warning)
    assert segmentation._imported() == (jieba, finalseg)


def test_threads_and_copies_give_the_same_ids(tiny: CPMTokenizer) -> None:
    text, found = "今天 天气不错\n鯕鯕鯕 abc" * 5, []
    threads = [threading.Thread(target=lambda: found.append(tiny.encode(text))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copied = pickle.loads(pickle.dumps(tiny))
    assert [copied.encode(text)] * 6 == found
    assert (copied.size, copied.edition, copied.newline_id) == (tiny.size, tiny.edition, tiny.newline_id)


# --- there and back ---------------------------------------------------------------------------------------------------------


def _law(tokenizer: CPMTokenizer, text: str) -> str:
    """d(N(" ".join(e(w) for w in words)) without U+0020 and U+2581): what `decode(encode(text))` is where no piece is <unk>."""
    escaped = " ".join(word.replace(" ", "▂").replace("\n", "▃") for word in segmenter().cut(text))
    normal = str(tokenizer._pieces.normalize(escaped))
    return normal.replace(" ", "").replace("▁", "").replace("▂", " ").replace("▃", "\n")


known = st.lists(
    st.sampled_from(["中文", "天气", "不错", "今天", "的", "a", "ab", "c", "1", "2", " ", "\n", ","]), max_size=12
).map("".join)
compatible = st.lists(
    st.sampled_from([*"ａｂｃ１２中文天气①²", "\t", "\r\n", "　", "\x01", "\x00", "\u200b", "▁", "▂", "▃", " ", "\n"]),
    max_size=12,
).map("".join)


@given(text=known)
@example(text=" \n\n  中文 \n ")
def test_ordinary_text_comes_back(text: str, tiny: CPMTokenizer) -> None:
    ids = tiny.encode(text)
    assert tiny.unknown_id not in ids
    assert tiny.decode(ids) == text


@given(text=known | compatible | texts)
def test_what_decoding_gives_is_the_law(text: str, tiny: CPMTokenizer) -> None:
    ids = tiny.encode(text)
    assert all(type(identity) is int and 0 <= identity < tiny.size for identity in ids)
    back = tiny.decode(ids)
    if tiny.unknown_id not in ids:
        assert back == _law(tiny, text)
        assert tiny.decode(tiny.encode(back)) == back
    else:
        assert "⁇" in back


@given(text=texts | compatible)
def test_the_law_holds_for_the_published_vocabulary(text: str, real: CPMTokenizer, older: CPMTokenizer) -> None:
    ids = real.encode(text)
    assert older.encode(text) == ids
    assert SPECIAL.isdisjoint(ids)
    if 0 not in ids:
        assert real.decode(ids) == _law(real, text)


@given(left=st.lists(st.integers(0, 63), max_size=8), right=st.lists(st.integers(0, 63), max_size=8))
def test_decoding_joins(left: list[int], right: list[int], tiny: CPMTokenizer) -> None:
    """So a text can be shown token by token."""
    assert tiny.decode(left + right) == tiny.decode(left) + tiny.decode(right)


@given(left=known, right=st.sampled_from(["<eod>", "<s>", "</s>", "<sep>", "<pad>", "<mask>", "<cls>", "<unk>"]))
def test_no_text_becomes_a_special_token(left: str, right: str, tiny: CPMTokenizer) -> None:
    assert SPECIAL.isdisjoint(tiny.encode(left + right + left))


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("", ""),
        (" ", " "),
        ("  前后  ", "  前后  "),
        ("\n\n", "\n\n"),
        ("a\r\nb", "a\nb"),
        ("a\tb　c\u2028d", "abcd"),
        ("ＡＢ１２，。！（）", "AB12,。!()"),
        ("①ﬁ²㎏", "1fi2kg"),
        ("零\x01\x02宽\u200b", "零宽"),
        ("空\x00字", "空⁇字"),
        ("笑😀😀哭", "笑⁇⁇哭"),
        ("披袈裟", "披⁇"),
        ("鯕龘", "⁇⁇"),
        ("▁中▂文▃字", "中 文\n字"),
        ("⁇", "??"),
        ("<eod>", "<eod>"),
        ("cafe\u0301", "cafe\u0301"),  # no word joins them, and each is normalized by itself
    ],
)
def test_what_is_kept_and_lost_by_the_published_vocabulary(text: str, back: str, real: CPMTokenizer) -> None:
    assert real.decode(real.encode(text)) == back


def test_every_character_of_the_vocabulary_survives(real: CPMTokenizer) -> None:
    """The pieces of one character, which are all their own compatibility form but one, which SentencePiece's table leaves as it is."""
    found = [real._pieces.id_to_piece(k) for k in range(8, real.size)]
    single = [piece for piece in found if len(piece) == 1 and piece not in "▁▂▃"]
    assert len(single) == 5822
    assert {piece for piece in single if unicodedata.normalize("NFKC", piece) != piece} == {"～"}
    text = "".join(single)
    assert real.decode(real.encode(text)) == text


# --- ids of CPM's own code --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, list[int]]]:
    return [(row["text"], row["ids"]) for row in json.loads((RECORDED / "sample.json").read_text())]


def test_the_ids_are_those_of_the_code_of_cpm(sample: Any, real: CPMTokenizer, older: CPMTokenizer) -> None:
    assert len(sample) >= 160
    for text, ids in sample:
        assert real.encode(text) == ids
        assert older.encode(text) == ids
    assert real.encode("美国的首都是") == [356, 11, 6597, 15]


def test_every_line_of_the_recorded_comparison_was_the_same() -> None:
    """Provenance: the corpus, and one checksum over all ids, the same for both editions."""
    facts = json.loads((RECORDED / "provenance.json").read_text())
    assert facts["corpus"]["lines"] >= 100_000
    newer, first = (facts["editions"][edition] for edition in ("2020-11-22", "2020-11-13"))
    assert newer["sha256_of_ids"] == first["sha256_of_ids"]
    assert newer["lines"] == first["lines"] == facts["corpus"]["lines"]
    assert [newer["sha1_of_vocabulary"], first["sha1_of_vocabulary"]] == list(published.EDITIONS)
    assert first["bert4keras"]["different"] == 0  # token_translate finds <cls> in the older file,
    assert newer["bert4keras"]["different"] > 1000  # and not in the newer: line feeds become <unk>


# --- the published files ----------------------------------------------------------------------------------------------------


def test_the_published_files_are_recognised_and_one_becomes_the_other(real: CPMTokenizer, older: CPMTokenizer) -> None:
    assert (real.edition, older.edition) == ("2020-11-22", "2020-11-13")
    for each in (real, older):
        assert (each.size, each.unknown_id, each.newline_id, each.end_id) == (30000, 0, 3, 7)
        assert each.encode("\n")[-1] == 3
        assert each.edition in repr(each)
    data = older.path.read_bytes()
    assert cpm._as_newer(data) == real.path.read_bytes() == cpm._as_newer(real.path.read_bytes())
    assert data != real.path.read_bytes()


def test_an_unknown_vocabulary_in_the_form_of_the_older_is_handled_as_that_one(tiny: CPMTokenizer) -> None:
    assert (tiny.edition, tiny.size, tiny.newline_id, tiny.end_id, tiny.unknown_id) == (None, 64, 3, 7, 0)
    assert "not a published vocabulary" in repr(tiny)
    assert tiny.decode([3, 7, 1, 0]) == "\n<eod>⁇"


def test_a_vocabulary_of_ones_own_that_has_the_line_feed_keeps_its_other_pieces(tmp_path: Path) -> None:
    """With <cls> beside U+2583, of whatever score, there is nothing to put in its place."""
    own = CPMTokenizer(pieces.written(tmp_path, "spiece.model", user_defined_symbols=["\u2583"]))
    assert own._known("<cls>") == 4 if own.newline_id == 3 else own._known("<cls>") == 3
    assert own.decode(own.encode("中文\n天气")) == "中文\n天气"


def test_a_vocabulary_without_a_piece_for_the_line_feed_works_until_one_is_asked_for(tmp_path: Path) -> None:
    other = CPMTokenizer(pieces.written(tmp_path, "spiece.model", special=["<sep>", "<pad>"]))
    assert other.end_id is None
    assert other.decode(other.encode("中文 天气")) == "中文 天气"
    assert other.decode(other.encode("中文\n")) == "中文⁇"
    with pytest.raises(errors.TokenizerError, match="no piece for a line feed") as caught:
        _ = other.newline_id
    for part in ("U+2583", "64 pieces; a line feed becomes <unk>", "chinese_vocab.model", "spiece.model"):
        assert part in str(caught.value)


def test_where_a_vocabulary_is_found(tmp_path: Path) -> None:
    """In bpe_3w_new in the folder or beside 80000, in the folder itself, and as Hugging Face's conversion names it, before tokenizer.json."""
    model = pieces.trained()
    for place in ("bpe_3w_new/chinese_vocab.model", "chinese_vocab.model", "spiece.model"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(model)
        (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
        found = open_tokenizer(tmp_path)
        assert isinstance(found, CPMTokenizer)
        assert found.path == tmp_path / place
        assert CPMTokenizer(tmp_path).path == CPMTokenizer(tmp_path / place).path
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "80000").mkdir(exist_ok=True)
        beside = open_tokenizer(tmp_path / "80000")
        assert (beside is None) == (place == "spiece.model")
        (tmp_path / place).unlink()
    (tmp_path / "spiece.model").write_bytes(model)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert open_tokenizer(tmp_path) is None
    (tmp_path / "config.json").unlink()
    (tmp_path / "spiece.model").write_bytes(model.replace("▂".encode(), "▇".encode()))
    assert open_tokenizer(tmp_path) is None  # another model's file of that name


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_conversion_without_its_sentence_piece_model_is_refused(name: str, tmp_path: Path) -> None:
    """Its tokenizer.json could be read, and would give other ids."""
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    (tmp_path / name).write_text('{"model_type": "gpt2", "tokenizer_class": "CpmTokenizerFast"}')
    with pytest.raises(errors.TokenizerError, match="CPM's tokenizer is not here") as caught:
        open_tokenizer(tmp_path)
    for part in ("spiece.model or chinese_vocab.model", "tokenizer.json", "beside the weights"):
        assert part in str(caught.value)
    pieces.written(tmp_path, "spiece.model")
    assert isinstance(open_tokenizer(tmp_path), CPMTokenizer)


# --- errors -----------------------------------------------------------------------------------------------------------------


def test_half_a_surrogate_pair_is_no_text(tiny: CPMTokenizer) -> None:
    with pytest.raises(errors.TokenizerError, match="half a surrogate pair") as caught:
        tiny.encode("中文\ud83d")
    assert "text[2]" in str(caught.value)
    assert "'\\ud83d'" in str(caught.value)
    str(caught.value).encode()
    assert tiny.encode("中文\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")) == tiny.encode(
        "中文\ufffd"
    )


def test_ids_outside_the_vocabulary_are_refused(tiny: CPMTokenizer) -> None:
    with pytest.raises(errors.TokenizerError, match="not in the vocabulary") as caught:
        tiny.decode([3, 64, -1])
    assert "0 <= id < 64" in str(caught.value)
    assert "[64, -1]" in str(caught.value)
    with pytest.raises(TypeError):
        tiny.decode([1.5])  # type: ignore[list-item]


@pytest.mark.parametrize("keep", [0, 1, 100, 600])
def test_files_that_are_no_models_are_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "chinese_vocab.model"
    path.write_bytes(pieces.trained()[:keep])
    with pytest.raises(errors.TokenizerError, match="not a SentencePiece model") as caught:
        CPMTokenizer(path)
    assert str(path) in str(caught.value)
    assert f"{keep} bytes" in str(caught.value)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "a.model"):
        with pytest.raises(errors.TokenizerError, match="there is no SentencePiece model") as caught:
            CPMTokenizer(path)
        assert "bpe_3w_new/chinese_vocab.model" in str(caught.value)
        assert "does not come with the weights" in str(caught.value)


@pytest.mark.parametrize("missing", ["sentencepiece", "jieba"])
def test_a_missing_library_is_named(missing: str, tiny: CPMTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.TokenizerError, match=f"needs the library `{missing}`") as caught:
        segmentation._made.__wrapped__() if missing == "jieba" else CPMTokenizer(tiny.path)
    assert 'the extra "text"' in str(caught.value)
