"""Tokenizers: one id a character, the recognition of character-level files, and the library behind the same two methods."""

from __future__ import annotations

import builtins
import json
import re
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from refimpl import errors, text

VOCABULARY = {"<unk>": 0, "<s>": 1, "</s>": 2, "春": 3, "眠": 4, "不": 5, "觉": 6, "晓": 7, "，": 8, "a": 9, "\n": 10}
SPECIAL = ("<unk>", "<s>", "</s>")
PATTERN = "[\\s\\S]"


def _character(prepare: Any = None) -> text.CharacterTokenizer:
    return text.CharacterTokenizer(VOCABULARY, SPECIAL, "<unk>", prepare)


def _description(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json as the `tokenizers` library writes it for a character model."""
    splitter = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    added = [
        {
            "id": i,
            "content": name,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, name in enumerate(SPECIAL)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<unk>"},
    } | changes


def _write(folder: Any, description: Any) -> Any:
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


characters = st.text(alphabet="春眠不觉晓，a\n")


@given(characters)
def test_known_characters_come_back(written: str) -> None:
    ids = _character().encode(written)
    assert len(ids) == len(written)
    assert _character().decode(ids) == written


@given(st.text(max_size=20))
def test_every_character_has_one_id_and_unknown_ones_that_of_unknown(written: str) -> None:
    ids = _character().encode(written)
    assert ids == [VOCABULARY.get(c, 0) for c in written]
    shown = _character().decode(ids)
    assert shown == "".join(c if c in VOCABULARY else "<unk>" for c in written)


def test_special_tokens_written_out_are_characters_like_any_others() -> None:
    assert _character().encode("<s>a") == [0, 0, 0, 9]


def test_decoding_leaves_special_tokens_out_and_shows_unknown() -> None:
    assert _character().decode([1, 3, 0, 4, 2]) == "春<unk>眠"


def test_prepare_is_applied_before_encoding() -> None:
    assert _character(str.lower).encode("A") == [9]
    assert _character().encode("A") == [0]


def test_simplify_turns_traditional_script_into_simplified() -> None:
    assert text.simplify("春眠不覺曉，處處聞啼鳥。") == "春眠不觉晓，处处闻啼鸟。"
    assert text.simplify("头发") == "头发"
    assert _character(text.simplify).encode("春眠不覺曉，") == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "pattern",
    [
        PATTERN,
        "[\\S\\s]",
        ".|\\n",
        "\\n|.",
        "(.|\\n)",
    ],
)
@pytest.mark.parametrize("written", ["春眠不觉晓，", "a\na", "x春 y", "", "\r\n"])
def test_character_reader_agrees_with_the_library_on_every_pattern_it_accepts(
    pattern: str, written: str, tmp_path: Any
) -> None:
    splitter = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    folder = _write(tmp_path, _description(pre_tokenizer=splitter))
    ours = text.open_tokenizer(folder)
    assert isinstance(ours, text.CharacterTokenizer)
    library = text.LibraryTokenizer.open(folder)
    assert ours.encode(written) == library.encode(written)
    assert ours.special == SPECIAL


SPLIT = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": SPLIT | {"behavior": "Removed"}},
        {"pre_tokenizer": SPLIT | {"pattern": {"Regex": "."}}},  # does not match a newline
        {"pre_tokenizer": SPLIT | {"pattern": {"String": PATTERN}}},
        {
            "pre_tokenizer": SPLIT | {"pattern": {"Regex": "(?s)."}}
        },  # Oniguruma spells it (?m): the library cannot read it either
        {"model": {"type": "WordPiece", "vocab": VOCABULARY, "unk_token": "<unk>"}},
    ],
)
def test_anything_else_is_not_a_character_tokenizer(changes: dict[str, Any], tmp_path: Any) -> None:
    folder = _write(tmp_path, _description(**changes))
    with pytest.raises(errors.TokenizerError, match=r"(?s)not a character tokenizer.*tokenizer\.json.*WordLevel"):
        text.CharacterTokenizer.from_json(folder / "tokenizer.json")
    unreadable = changes.get("model", {}).get("type") == "WordPiece" or "(?s)" in json.dumps(changes)
    if not unreadable:
        assert isinstance(text.open_tokenizer(folder), text.LibraryTokenizer)
        return
    with pytest.raises(errors.TokenizerError, match=r"(?s)tokenizer cannot be read.*Exception"):
        text.open_tokenizer(folder)


def test_a_folder_without_tokenizer_has_none(tmp_path: Any) -> None:
    assert text.open_tokenizer(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert text.open_tokenizer(tmp_path) is None  # merges.txt is missing


@pytest.mark.parametrize("content", ["{", "", '"a"'.encode("utf-16")])
def test_a_tokenizer_that_is_not_json_is_refused(content: Any, tmp_path: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(errors.TokenizerError, match=r"(?s)tokenizer.json"):
        text.open_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"model": 3}, None])
def test_a_tokenizer_without_a_model_is_refused(content: Any, tmp_path: Any) -> None:
    _write(tmp_path, content)
    with pytest.raises(errors.TokenizerError, match=r"(?s)describes no model.*tokenizer.json"):
        text.open_tokenizer(tmp_path)


CORPUS = ["the cat sat on the mat", "the hat of the cat", "春眠不觉晓，处处闻啼鸟"] * 4


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: Any) -> Any:
    """The folder of a byte-level BPE tokenizer, made here, saved as tokenizer.json."""
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(
        CORPUS, vocab_size=280, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False
    )
    folder = tmp_path_factory.mktemp("byte-level")
    library.save(str(folder / "tokenizer.json"))
    return folder


@given(st.text(max_size=15))
def test_library_tokenizer_comes_back(byte_level: Any, written: str) -> None:
    tokenizer = text.LibraryTokenizer.open(byte_level)
    assert tokenizer.decode(tokenizer.encode(written)) == written


def test_library_tokenizer_is_the_library(byte_level: Any) -> None:
    ours = text.open_tokenizer(byte_level)
    assert isinstance(ours, text.LibraryTokenizer)
    library = tokenizers.Tokenizer.from_file(str(byte_level / "tokenizer.json"))
    for line in CORPUS[:3]:
        assert ours.encode(line) == library.encode(line).ids
    end = library.token_to_id("<|endoftext|>")
    assert ours.decode([end, *ours.encode("the cat"), end]) == "the cat"


def test_the_older_pair_of_files_is_read(tmp_path: Any, byte_level: Any) -> None:
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(CORPUS, vocab_size=280, min_frequency=2, show_progress=False)
    library.save_model(str(tmp_path))
    ours = text.open_tokenizer(tmp_path)
    assert isinstance(ours, text.LibraryTokenizer)
    assert ours.encode("the cat sat") == library.encode("the cat sat").ids
    assert ours.decode(ours.encode("the hat")) == "the hat"
    del byte_level


def test_special_tokens_are_not_added(tmp_path: Any) -> None:
    """A post-processor that would put a start token first is not asked for it."""
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="<unk>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    library.save(str(tmp_path / "tokenizer.json"))
    assert library.encode("a").ids == [1, 9]
    assert text.LibraryTokenizer.open(tmp_path).encode("a") == [9]


def test_without_the_library_the_message_says_what_to_install(
    byte_level: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    original = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "tokenizers":
            msg = "No module named 'tokenizers'"
            raise ModuleNotFoundError(msg)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    parts = ("needs the library `tokenizers`", str(byte_level), "pip install tokenizers")
    with pytest.raises(errors.TokenizerError, match="(?s)" + ".*".join(map(re.escape, parts))):
        text.open_tokenizer(byte_level)
    assert text.open_tokenizer(_write(tmp_path, _description())).encode("春") == [3]  # needs no library


@pytest.mark.parametrize(
    "description",
    [
        _description(pre_tokenizer=SPLIT | {"pattern": "x"}),
        _description(model={"type": "WordLevel", "vocab": VOCABULARY}),
        _description(model={"type": "WordLevel", "unk_token": "<unk>"}),
        _description(model={"type": "BPE"}),
    ],
)
def test_damaged_descriptions_are_tokenizer_errors(description: Any, tmp_path: Any) -> None:
    with pytest.raises(errors.TokenizerError):
        text.open_tokenizer(_write(tmp_path, description))


def test_an_id_outside_the_vocabulary_is_refused_by_decoding() -> None:
    with pytest.raises(errors.TokenizerError, match=r"an id is not in the vocabulary(.|\n)*\[999\]"):
        _character().decode([3, 999])
