"""Text cut into clauses: by hand, what is lost and how long pieces are, and that its claim can fail."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import backend
from refimpl.errors import ConfigError
from refimpl.text import sentences
from refimpl.text.sentences import split, split_document
from validation import checks
from validation.claims import CLAIMS, Setting

SETTING = Setting(backend.get("numpy"))
TEXTS = st.text("ab。；：，\n \u3000", max_size=40)


def _without_space(text):
    return re.sub(r"\s", "", text)


def test_every_mark_ends_a_clause_and_stays_with_it():
    assert split("原告称：货已付，款未收；请求支付。判决如下\n驳回。") == [
        *("原告称：", "货已付，", "款未收；", "请求支付。"),
        *("判决如下", "驳回。"),
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", [""]),
        (" \n ", [""]),
        ("a", ["a"]),
        ("。", ["。"]),
        ("a。。。b", ["a。。。", "b"]),
        ("。。a", ["。。", "a"]),
        ("a。，b", ["a。", "，", "b"]),
        ("a\n \nb", ["a", "", "b"]),
        ("a\n\n\nb", ["a", "b"]),
        ("a。 b ，c", ["a。", "b ，", "c"]),
    ],
)
def test_marks_side_by_side_and_white_space(text, pieces):
    assert split(text) == pieces


def test_short_parts_are_joined_up_to_the_length():
    text = "一二。三。四五六。七，八九十。"
    assert split(text, 5) == ["一二。三。", "四五六。", "七，", "八九十。"]
    assert split(text, 6, "。") == ["一二。三。", "四五六。", "七，八九十。"]
    assert split(text, 100) == [text]
    assert split("，a", 2) == ["，a"]  # as long as may be: not cut
    assert split("一二三，四，五六", 4) == ["一二三，", "四，", "五六"]  # the last part counts as if it had a mark
    assert split("甲，乙：丙丁戊", 4) == ["甲，乙：", "丙丁戊"]  # the colon is tried before the comma
    assert split(text, 1, "") == [text]


def test_strips_are_taken_from_both_ends_after_white_space():
    assert split("。a。b 。", 1, "。", "。") == ["a", "b"]
    assert split(" 。a。", 1, "", "。") == ["a"]
    assert split("。。", 1, "。", "。") == [""]


@given(TEXTS, st.integers(1, 12))
def test_nothing_is_lost_but_white_space(text, longest):
    pieces = split(text, longest)
    assert _without_space("".join(pieces)) == _without_space(text)
    assert pieces == [""] or all(piece == piece.strip() for piece in pieces)


@given(TEXTS, st.integers(1, 12))
def test_a_piece_is_short_or_cannot_be_cut(text, longest):
    for piece in split(text, longest):
        parts = [[part for part in piece.split(mark) if part.strip()] for mark in sentences.SEPARATORS]
        assert len(piece.rstrip(sentences.SEPARATORS + " \u3000")) <= longest or all(len(each) <= 1 for each in parts)


@given(TEXTS)
def test_clauses_are_cut_no_further(text):
    assert [again for piece in split(text) for again in split(piece)] == split(text)


@given(TEXTS, st.integers(1, 5))
def test_of_a_document_the_end_is_kept(text, limit):
    pieces = split_document(text, limit)
    assert pieces == split(text)[-limit:]
    assert len(pieces) == min(limit, len(split(text)))


def test_a_long_document_keeps_its_last_256():
    assert split_document("".join(f"{k}。" for k in range(300))) == [f"{k}。" for k in range(44, 300)]


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True])
def test_lengths_must_be_whole_and_positive(wrong):
    for call, name in ((lambda: split("a", wrong), "longest"), (lambda: split_document("a", wrong), "limit")):
        with pytest.raises(ConfigError, match=rf"`{name}` must be at least 1(.|\n)*got: +{wrong}"):
            call()


BUGS = [
    ("_split", lambda f, text, *rest: f(text.replace("，", ""), *rest)),
    ("_runs", lambda f, text, longest, mark: f(text, longest + 2, mark)),
    ("_runs", lambda f, text, longest, mark: (part for part in text.split(mark) if part)),
    (
        "_runs",
        lambda f, text, longest, mark: f(text, longest + 1, mark),
    ),  # no piece is too long by this: the recording knows it
]
NAMES = ["a mark lost", "two too long", "marks lost", "one too long"]


def _broken(monkeypatch, name, replacement):
    original = getattr(sentences, name)
    monkeypatch.setattr(sentences, name, lambda *a: replacement(original, *a))


@pytest.mark.parametrize(("name", "replacement"), BUGS[:3], ids=NAMES[:3])
def test_the_claim_can_fail(name, replacement, monkeypatch):
    _broken(monkeypatch, name, replacement)
    assert not CLAIMS["CUT-1"].holds(CLAIMS["CUT-1"].check(SETTING))


@pytest.mark.parametrize(("name", "replacement"), BUGS, ids=NAMES)
def test_the_parity_can_fail(name, replacement, monkeypatch):
    _broken(monkeypatch, name, replacement)
    assert checks._spaces_labels(SETTING).verdict == "differs"
