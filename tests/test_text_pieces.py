"""Pieces that lose nothing: every text comes back, where tokens stand, a vocabulary made twice, files, and what is refused."""

from __future__ import annotations

import builtins
import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl import errors
from refimpl.text import open_tokenizer, pieces
from refimpl.text.pieces import PieceTokenizer, train_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = [
    "Library for reading foo-bar files (GNU/Linux), version 1.23; the library reads C++ files.",
    "本软件包提供共享库。本软件包包含了 Python 标准库提供的模块。",
    "libfoo-dev: the development files of libfoo\n\nthe reader of the files",
] * 4
TOKENIZER = train_vocabulary(CORPUS, 440)
FIXED = 5 + 256  # special tokens, bytes

texts = st.lists(
    st.sampled_from(
        [
            "library",
            "软件包",
            "libfoo-dev",
            "C++",
            "▁",
            " ",
            "  ",
            "\n",
            "<0x0A>",
            "[CLS]",
            "😀",
            "𠀀",
            "é",
            "\u0301",
            "１",
            "²",
            "\x00",
        ]
    )
    | st.text(max_size=3),
    max_size=10,
).map("".join)


def _tokens(text: str, tokenizer: PieceTokenizer = TOKENIZER) -> list[str]:
    return tokenizer.tokens(tokenizer.encode(text))


@given(texts)
@example("")
@example(" ")
@example(" 中")
@example("  a")
@example("\u2581a \u2581")
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(range(5))
    assert TOKENIZER.decode(TOKENIZER.framed(text).ids) == text


@given(texts)
def test_offsets_are_of_the_text_and_never_go_back(text: str) -> None:
    ids, offsets = TOKENIZER.encoded(text)
    assert len(ids) == len(offsets)
    assert all(0 <= begin <= end <= len(text) for begin, end in offsets)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(offsets))
    covered = {place for begin, end in offsets for place in range(begin, end)}
    assert [c for place, c in enumerate(text) if place not in covered and c != " "] == []
    for identity, (begin, end) in zip(ids, offsets, strict=True):
        token = TOKENIZER.tokens([identity])[0]
        if not token.startswith("<0x") and token != "▁":
            assert token.removeprefix("▁") == text[begin:end]
        elif end - begin == 1 and token.startswith("<0x"):
            assert bytes([int(token[3:5], 16)]) in text[begin:end].encode()


def test_the_longest_pieces_and_bytes_for_the_rest() -> None:
    assert _tokens("library files") == ["▁library", "▁files"]
    assert _tokens("(library") == ["▁(", "lib", "rary"]
    assert _tokens("é") == ["▁", "<0xC3>", "<0xA9>"]
    assert _tokens("\n") == ["▁", "<0x0A>"]
    assert _tokens("软件包龘") == ["软", "件", "包", "<0xE9>", "<0xBE>", "<0x98>"]
    assert _tokens("1.23")[-3:] == [".", "2", "3"]
    assert TOKENIZER.encoded("the 库").offsets == [(0, 3), (3, 4), (4, 5)]
    assert TOKENIZER.encoded("the library").offsets == [(0, 3), (4, 11)]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    first = TOKENIZER.encode("龘")[0]
    assert TOKENIZER.decode([first]) == "\ufffd"
    assert TOKENIZER.decode([first, *TOKENIZER.encode("库")]) == "\ufffd库"
    assert TOKENIZER.decode([2, first, 3]) == "\ufffd"


def test_what_was_cut_before_is_cut_alike_again() -> None:
    fresh = PieceTokenizer(TOKENIZER.vocabulary)
    for _ in range(2):
        assert fresh.encoded("the libfoo files the") == TOKENIZER.encoded("the libfoo files the")
    assert fresh.encode("q" * 100) == fresh.encode("q" * 100)


# --- making a vocabulary ------------------------------------------------------------------------------------------------------------------


def test_the_same_texts_make_the_same_vocabulary() -> None:
    again = train_vocabulary(CORPUS[::-1], 440)
    assert again.vocabulary == TOKENIZER.vocabulary
    assert list(again.vocabulary)[: FIXED + 1] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces.BYTES, "!"]
    assert (again.padding_id, again.unknown_id, again.start_id, again.end_id) == (0, 1, 2, 3)


def test_what_is_in_a_vocabulary() -> None:
    for options in ({}, {"longest": 4}, {"han": True}, {"rare": 9}):
        made = train_vocabulary(CORPUS, 420, **options)
        longest = options.get("longest", 16)
        found = [
            token
            for token in made.vocabulary
            if token not in (*pieces.BYTES, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        ]
        assert len(made) <= 420
        assert {chr(code) for code in range(33, 127)} <= set(found)
        assert max(map(len, found)) <= longest
        assert any(len(token) > 1 and "软" in token for token in found) == ("han" in options)
        assert ("库" in found) == (options.get("rare", 0) <= 8)  # it occurs eight times
        assert not any(" " in token or "\n" in token for token in found)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: train_vocabulary(CORPUS, 300),
            errors.ConfigError,
            r"no room for the characters(.|\n)*at least 3\d\d(.|\n)*got: +300",
        ),
        (
            lambda: PieceTokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}),
            errors.TokenizerError,
            r"lacks bytes(.|\n)*no <0x00>",
        ),
        (lambda: PieceTokenizer({"a": 0}), errors.TokenizerError, r"lacks special tokens"),
        (
            lambda: TOKENIZER.encode("a\ud800"),
            errors.TokenizerError,
            r"half a surrogate pair(.|\n)*text\[1\](.|\n)*U\+FFFD",
        ),
        (lambda: TOKENIZER.decode([440]), errors.TokenizerError, r"not in the vocabulary(.|\n)*id < \d+"),
        (lambda: TOKENIZER.decode([-1]), errors.TokenizerError, r"not in the vocabulary"),
    ],
)
def test_what_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_making_one_says_what_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.TokenizerError, match=r"needs the library `tokenizers`(.|\n)*pip install tokenizers"):
        train_vocabulary(CORPUS, 440)
    assert PieceTokenizer(TOKENIZER.vocabulary).encode("library")  # reading one does not


# --- files --------------------------------------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new")
    for after in (
        PieceTokenizer.load(tmp_path / "new"),
        open_tokenizer(tmp_path / "new"),
        pickle.loads(pickle.dumps(TOKENIZER)),
    ):
        assert isinstance(after, PieceTokenizer)
        assert after.vocabulary == TOKENIZER.vocabulary
        assert after.encode("a libfoo") == TOKENIZER.encode("a libfoo")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "a\na\n", r"a token is there twice(.|\n)*vocab.txt(.|\n)*'a'"),
        ("vocab.txt", "a\nb\n", r"lacks special tokens"),
        ("words.json", '{"format": 1, "kind": "words"}', r"of another kind(.|\n)*kind pieces"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(errors.TokenizerError, match=message):
        PieceTokenizer.load(tmp_path)


@pytest.mark.parametrize("token", ["x\ny", "\n"])
def test_a_token_that_would_be_two_cannot_be_written(tmp_path: Path, token: str) -> None:
    vocabulary = TOKENIZER.vocabulary
    with pytest.raises(errors.TokenizerError, match=rf"a token cannot be written\n  where: +token {len(vocabulary)}\n"):
        PieceTokenizer(vocabulary | {token: len(vocabulary)}).save(tmp_path)
    assert not any(tmp_path.iterdir())
