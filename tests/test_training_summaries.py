"""The recipe of the embedded summarizer: how texts are read, what counts as alike, and on which side of the split it comes."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import bert
from refimpl.bert import BertConfig
from refimpl.spaces import seq2seq

FOLDER = Path(__file__).parents[1] / "training" / "summaries"


def opened(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"training_summaries_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare, pairs, circuit = opened("prepare"), opened("pairs"), opened("circuit")


def pair(text: str, name: str = "a", lang: str = "en", group: str | None = None, summary: str = "a tool") -> Any:
    return prepare.Pair(name, lang, "debian-en", group or name, text, summary)


def test_a_description_becomes_paragraphs_and_items():
    lines = [" A tool", " for this.", " .", " It has:", "  * one", "    thing", "  - another", " .", " The end."]
    assert prepare.described(lines) == "A tool for this.\nIt has:\n- one thing\n- another\nThe end."


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(["一个", "工具"], "一个工具"), (["用 X", "的"], "用 X 的"), (["一 ，", "二"], "一，二"), (["a", "b"], "a b")],
)
def test_lines_are_joined_with_a_blank_but_for_chinese(lines, expected):
    assert prepare.joined(lines) == expected


def test_an_index_is_read_record_by_record():
    text = "Package: a\nDescription-en: A tool\n Text.\n .\n More.\n\nPackage: b\nDescription-en: B\n T\n"
    found = list(prepare.paragraphs(text))
    assert [fields["Package"] for fields in found] == [["a"], ["b"]]
    assert found[0]["Description-en"] == ["A tool", " Text.", " .", " More."]


def test_sections_of_html_are_nested_and_without_code_figures_and_numbers(tmp_path):
    (tmp_path / "a.html").write_text(
        "<body><div class='navheader'>next</div><h1>1.2. Title</h1><p>One<br>two</p><pre>code</pre>"
        "<h2>Part</h2><p>Three <b>bold</b></p><div class='switch'><span>first</span><span>second</span></div><h1>Other</h1><p>Four</p></body>",
        "utf-8",
    )
    found = [(title, text) for _, title, text in prepare.html_sections(tmp_path / "a.html")]
    assert found == [("Title", "One\ntwo\nPart\nThree bold\nfirst"), ("Part", "Three bold\nfirst"), ("Other", "Four")]


def test_sections_of_restructured_text_are_prose(tmp_path):
    text = (
        "标题\n====\n\n.. note::\n\n   no\n\n第一段，\n见 :ref:`那里 <x>`::\n\n    code\n\n小节\n----\n\n- 甲\n- 乙\n"
    )
    (tmp_path / "a.rst.gz").write_bytes(gzip.compress(text.encode()))
    found = [(title, text) for _, title, text in prepare.rst_sections(tmp_path / "a.rst.gz")]
    assert found[1] == ("小节", "- 甲\n- 乙")
    assert found[0][0] == "标题" and "code" not in found[0][1] and "第一段" in found[0][1] and "那里" in found[0][1]


def test_a_manual_page_gives_its_description_and_what_its_name_says(tmp_path):
    text = '.TH A 1\n.SH 名称\na \\- 列出\\fB目录\\fP\n.SH "描述"\n第一段\n.PP\n.B 粗\n第二段\n.nf\ncode\n.fi\n.SH 选项\nno\n'
    (tmp_path / "a.1.gz").write_bytes(gzip.compress(text.encode()))
    assert list(prepare.manual_sections(tmp_path / "a.1.gz")) == [("0", "列出目录", "第一段\n粗第二段")]


def test_texts_that_share_half_of_their_runs_are_one_group_whatever_they_came_from():
    words = [f"word{i}" for i in range(40)]
    texts = [" ".join(words[:20]), " ".join([*words[:16], "and", "so", "on"]), " ".join(words[20:])]
    found = [pair(text, name) for text, name in zip(texts, "abc", strict=True)]
    near = prepare.alike([prepare.shingles(each) for each in found])
    assert [(i, j) for i, j, _ in near] == [(0, 1)] and near[0][2] == 12 / 15
    groups = prepare.grouped(found, near)
    assert groups[0] == groups[1] != groups[2]


def test_of_many_twins_three_are_kept():
    found = [pair("the same words over and over again", f"n{i}") for i in range(8)]
    near = [(i, j, 1.0) for i in range(8) for j in range(i)]
    dropped = prepare.Counter()
    assert len(prepare.without_twins(found, near, dropped)) == prepare.TWINS + 1 == 3
    assert dropped["twin"] == 5


def test_the_split_is_by_the_group_and_a_group_with_chinese_is_held_out_more_often():
    names = [f"g{i}" for i in range(4000)]
    sides = {langs: [prepare.side(name, set(langs.split())) for name in names] for langs in ("en", "en zh")}
    assert sides["en"].count("test") == pytest.approx(4000 / 40, rel=0.3)
    assert sides["en zh"].count("test") == pytest.approx(4000 / 16, rel=0.3)
    assert all(b == "test" for a, b in zip(sides["en"], sides["en zh"], strict=True) if a == "test")


def test_what_training_has_seen_of_a_text():
    seen = prepare.Seen([pair("one two three four five six", summary="Said"), pair("seven eight nine ten eleven")])
    assert seen.of(pair("one two three four five seven eight nine ten eleven")) == (2 / 6, 1 / 6)
    assert seen.leak([pair("x y z", summary="said")])["summaries_also_of_a_training_text"] == 1


@pytest.mark.parametrize(
    ("given_pair", "reason"),
    [
        (pair("A tool that does something for everyone who has a need of such a tool."), None),
        (pair("A" * 50), "text_too_short"),
        (pair("A" * 100, summary="b" * 80), "text_too_short"),
        (pair("A" * 80, summary="transitional package"), "names_another_package"),
        (pair("A" * 80, summary="x"), "summary_too_short_or_long"),
        (pair("文" * 80, lang="zh"), "summary_not_chinese"),
        (pair("text " * 40 + "文", lang="zh", summary="一个标题"), "text_not_chinese"),
        (pair("This metapackage enables feature x" + " " * 40 + "y", summary="feature x"), "says_only_its_name"),
    ],
)
def test_what_is_dropped_and_why(given_pair, reason):
    assert prepare.reject(given_pair) == reason


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab 。.\n；", max_size=200))
def test_all_sentences_joined_are_the_text(text):
    lines = pairs.sentences(text)
    assert pairs.joined(text, lines, range(len(lines))) == text.strip()


def test_some_sentences_keep_the_blanks_behind_them():
    text = (
        "The first sentence, which is longer than forty characters. The second one, which is as long as that is. 第三句很长"
        + "长" * 40
    )
    lines = pairs.sentences(text)
    assert len(lines) == 3
    assert pairs.joined(text, lines, [0, 2]) == f"{lines[0]} {lines[2]}"
    assert pairs.joined(text, lines, [1]) == lines[1]


def test_the_sentences_like_a_summary_are_found_by_words_in_english():
    text = (
        "A record of what reacted, decreed and traced there. The color of this one is not red but that one has a cat."
    )
    assert pairs.extracted(pairs.Pair("a", "en", "s", text, "Red cat")) == [1]


# --- weights that copy already ------------------------------------------------------------------------------------------------------------

SPEEDS = np.geomspace(circuit.FASTEST, circuit.SLOWEST, 16)


def test_of_all_places_the_one_before_is_attended_to_most():
    """Σ_f cos(ω_f (i - 1 - j)) depends on i - j alone: all 511 differences of 256 places."""
    away = np.arange(-256, 256)
    sums = np.cos(np.outer(away, SPEEDS)).sum(axis=1)
    assert sums[away == 0] == 16
    assert sums[away != 0].max() < 8.2


def test_the_waves_of_a_place_turned_back_are_those_of_the_place_before():
    waves = circuit.waves(256, SPEEDS)
    assert np.allclose(waves[1:] @ circuit.back(SPEEDS), waves[:-1], rtol=0, atol=256 * 3.0 * 2.0**-52)


@pytest.mark.parametrize("count", [20, 100, 200])
def test_an_induction_circuit_finds_the_token_behind(count):
    """Of a source of different tokens and a run of it as target, in the first two layers alone; without the random segments."""
    config = seq2seq.Seq2SeqConfig(BertConfig(2000, 192, 2, 6, 768, 256), 1, 2)
    named = circuit.initial_copying(config, count).named()
    named["segment_embedding"] = 0 * named["segment_embedding"]
    rng = np.random.default_rng(count)
    source, begin = rng.permutation(np.arange(3, 2000))[:count], int(rng.integers(0, count - 16))
    ids = [1, *source.tolist(), 2, 1, *source[begin : begin + 15].tolist()]
    segments = [0] * (count + 2) + [1] * 16
    weights = seq2seq.Seq2SeqWeights.from_named(named, config)
    states = bert.hidden_states(weights.bert, config.bert, [ids], segment_ids=[segments], application="unilm")
    block = weights.bert.blocks[1].query_key_value
    query, key = ((states[1][0] @ block.weight)[:, i * 192 :][:, :32] for i in (0, 1))
    found = (query[count + 3 : -1] @ key[: count + 2].T).argmax(axis=1)
    assert found.tolist() == list(range(begin + 2, begin + 16))


def test_what_is_copied_first_are_runs_of_the_source():
    given_pairs = [(([1, *range(10, 10 + n), 2], [1, 2]), [1, 5, 2]) for n in (1, 5, 40, 400)]
    for (source, target), ((given_source, _), _) in zip(pairs.copies(given_pairs, 8), given_pairs, strict=True):
        assert len(source) + len(target) <= pairs.POSITIONS
        assert source[:-1] == given_source[: len(source) - 1]
        inside = target[1:-1]
        breaks = [i for i in range(1, len(inside)) if inside[i] != inside[i - 1] + 1]
        assert len(breaks) <= 1
        assert set(inside) <= set(given_source)
    assert pairs.copies(given_pairs, 8) == pairs.copies(given_pairs, 8) != pairs.copies(given_pairs, 9)
