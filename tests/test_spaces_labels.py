"""Sentences of a text matched with those of a summary: by hand, properties, and the recorded mappings of real judgments."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import backend
from refimpl.errors import ConfigError
from refimpl.spaces import labels
from refimpl.spaces.labels import extractive_labels, match
from refimpl.text import rouge
from refimpl.text.segmentation import segmenter
from refimpl.text.sentences import split
from validation import checks
from validation.claims import CLAIMS, Setting
from validation.claims import rouge as claims

SETTING = Setting(backend.get("numpy"))
LISTS = st.lists(st.text("甲乙丙丁.，", max_size=8), max_size=12)
KEYS = ("rouge-1", "rouge-2", "rouge-l")


def test_a_sentence_can_be_matched_twice_and_order_is_kept():
    found = extractive_labels(
        "原告请求付款。天气晴。本院认为合同有效，应予支持。", "原告请求付款，合同有效，应予支持。"
    )
    assert found.texts == ["原告请求付款。", "天气晴。", "本院认为合同有效，", "应予支持。"]
    assert found.mapping == [(0, 0), (1, 2), (2, 3)]
    assert found.labels == [0, 2, 3]
    assert found.extracted == "原告请求付款。本院认为合同有效，应予支持。"
    assert found.score == rouge.main_metric(found.extracted, "原告请求付款，合同有效，应予支持。")
    twice = extractive_labels("甲乙丙丁戊己。天", "甲乙丙，丁戊己。")
    assert twice.mapping == [(0, 0), (1, 0)]
    assert twice.labels == [0]


def test_ties_go_to_the_first():
    assert match(["甲乙", "甲乙"], ["甲乙"]) == [(0, 0)]
    assert match(["甲", "乙"], ["甲", "乙"]) == [(0, 0), (1, 1)]
    assert match(["乙", "甲"], ["甲", "乙"]) == [
        (0, 1),
        (1, 1),
    ]  # the first of the summary is matched first, and bounds the second
    assert match(["丙", "丁"], ["甲"]) == [(0, 0)]
    metrics = [rouge.main_metric(x, "甲丙乙丙乙") for x in ("甲乙甲丙", "丙乙丙甲")]
    assert metrics[0] == metrics[1]  # the second has the larger bound, and is compared first
    assert match(["甲乙甲丙", "丙乙丙甲"], ["甲丙乙丙乙"]) == [(0, 0)]


def test_few_pairs_are_compared(monkeypatch):
    compared, original = [], rouge.compare
    monkeypatch.setattr(rouge, "compare", lambda *given: compared.append(given) or original(*given))
    texts = [f"第{k}条，{chr(0x4E00 + k) * 3}{chr(0x4F00 + 7 * k)}归原告所有" for k in range(200)]
    assert match(texts, [texts[k][3:] for k in (3, 77, 120)]) == [(0, 3), (1, 77), (2, 120)]
    assert len(compared) == 3


def test_nothing_is_matched_with_nothing():
    assert match([], ["甲"]) == match(["甲"], []) == match([], []) == []
    assert extractive_labels("", "甲，乙") == ([""], [0], [(0, 0), (1, 0)], 0.0)
    assert extractive_labels("甲，乙", "") == (["甲，", "乙"], [0], [(0, 0)], 0.0)


@given(LISTS, LISTS, st.sampled_from(rouge.dialects))
def test_the_matching_is_that_of_its_definition(texts, summaries, dialect):
    found = match(texts, summaries, dialect=dialect)
    assert claims._mismatched(texts, summaries, found) == ""
    assert found == claims._recursion(texts, summaries, functools.partial(rouge.main_metric, dialect=dialect))


@given(LISTS)
def test_a_summary_of_its_own_sentences_is_found(texts):
    """Different sentences, all of one length so that none is in another, each with units of its own: every second one is found again."""
    own = [f"{chr(0x4E00 + 2 * k)}{chr(0x4E01 + 2 * k)}，" for k in range(len(texts))]
    assert [j for _, j in match(own, own[::2])] == list(range(0, len(own), 2))


def test_a_long_summary_does_not_run_out_of_recursion():
    assert match(["甲", "乙"], ["甲"] * 1500 + ["乙"]) == [*((i, 0) for i in range(1500)), (1500, 1)]


def test_words_are_matched_where_they_are_asked_for():
    texts, summaries = ["原告请求支付货款", "被告原因"], ["原因"]
    assert match(texts, summaries, unit="word") == match(texts, summaries) == [(0, 1)]
    score = extractive_labels("原告请求支付货款", "原因", unit="word").score
    assert score == 0 < extractive_labels("原告请求支付货款", "原因").score


def test_what_is_asked_for_must_be_there():
    with pytest.raises(ConfigError, match=r"unknown dialect(.|\n)*'rouge-2'"):
        match(["甲"], ["甲"], dialect="rouge-2")
    with pytest.raises(ConfigError, match="`limit` must be at least 1"):
        extractive_labels("甲", "甲", limit=0)


def test_only_the_end_of_a_long_text_is_read():
    found = extractive_labels("甲乙，丙丁，戊己。", "甲乙。", limit=2)
    assert found.texts == ["丙丁，", "戊己。"]


# --- real judgments ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judgments(shared):
    """(text, summary, recorded answers) of twenty judgments."""
    folder = shared("spaces")
    data = folder.parent.parent / "data" / "spaces"
    if not data.is_dir():
        pytest.skip(f"the judgments are not here: {data}")
    lines = [json.loads(line) for line in (data / "train.json").read_text("utf-8").splitlines()]
    recorded = json.loads((folder / "matching_rouge1.0.1.json").read_text("utf-8"))["results"]
    texts = ["\n".join(part["sentence"] for part in line["text"]) for line in lines]
    return [(text, line["summary"], answer) for text, line, answer in zip(texts, lines, recorded, strict=True)]


@pytest.fixture(scope="module")
def dictionary(shared):
    """jieba's words and those of the first of the two user dictionaries: with the second one too, the recorded metrics do not come out."""
    path = shared("spaces").parent.parent / "data" / "spaces" / "user_dict.txt"
    if not path.is_file():
        pytest.skip(f"the dictionary is not here: {path}")
    return segmenter().with_words(path.read_text("utf-8").splitlines())


def test_the_recorded_mappings_of_twenty_judgments(judgments):
    assert len(judgments) == 20
    for text, summary, recorded in judgments:
        found = extractive_labels(text, summary)
        assert [list(pair) for pair in found.mapping] == recorded["mapping"]
        assert found.labels == recorded["labels"]
        assert [len(each) for each in found.texts] == recorded["text_lens"]
        assert hashlib.sha256("\0".join(found.texts).encode()).hexdigest() == recorded["texts_sha"]
        assert len(split(summary)) == recorded["n_summaries"]
        assert recorded["summaries"] in (None, split(summary))


@pytest.mark.parametrize("unit", rouge.UNITS)
def test_their_recorded_metrics(judgments, dictionary, unit):
    worst = 0.0
    for text, summary, recorded in judgments:
        found = extractive_labels(text, summary, unit=unit, segmenter=dictionary)
        expected = recorded["metrics" if unit == "word" else "metrics_char"]
        scores = rouge.rouge(*(rouge.units(each, unit, dictionary) for each in (found.extracted, summary)))
        pairs = [(score.f, expected[key]) for score, key in zip(scores, KEYS, strict=True)]
        worst = max(worst, *(abs(a - b) for a, b in [*pairs, (found.score, expected["main"])]))
    assert worst == 0


def test_the_second_dictionary_takes_no_part_in_them(judgments, shared, dictionary):
    path = shared("spaces").parent.parent / "data" / "spaces" / "user_dict_2.txt"
    both, changed = dictionary.with_words(path.read_text("utf-8").splitlines()), 0
    for text, summary, recorded in judgments:
        changed += extractive_labels(text, summary, unit="word", segmenter=both).score != recorded["metrics"]["main"]
    assert changed == 18


CHANGED = {"rouge-1.0.1": 0, "rouge-1.0.0": 5, "rouge-0.3.2": 11, "rouge-score": 7}
MAINS = {  # by dialect, of matching and of metric: the mean in words, and in characters
    "rouge-1.0.1": (0.6116, 0.7016),
    "rouge-1.0.0": (0.5905, 0.6785),
    "rouge-0.3.2": (0.6096, 0.6981),
    "rouge-score": (0.5722, 0.6451),
}


@pytest.mark.parametrize("dialect", rouge.dialects)
def test_how_many_mappings_another_dialect_changes(judgments, dictionary, dialect):
    changed, words, characters = 0, 0.0, 0.0
    for text, summary, recorded in judgments:
        found = extractive_labels(text, summary, unit="word", segmenter=dictionary, dialect=dialect)
        changed += [list(pair) for pair in found.mapping] != recorded["mapping"]
        words += found.score / 20
        characters += rouge.main_metric(found.extracted, summary, dialect=dialect) / 20
    assert changed == CHANGED[dialect]
    assert (round(words, 4), round(characters, 4)) == MAINS[dialect]


# --- that they can fail ----------------------------------------------------------------------------------------------------------------


def _last_of_equals(f, x, where, y):
    metrics = {j: rouge.compare(x[j], y).main for j in where}
    return max(where, key=lambda j: (metrics[j], j))


BUGS = [
    ("MATCH-1", labels, "_closest", _last_of_equals),
    ("MATCH-1", labels, "_closest", lambda f, x, where, y: max(where, key=lambda j: rouge.at_most(x[j], y))),
    (
        "MATCH-1",
        labels,
        "sorted",
        lambda f, found, **options: f(found, **options)[::-1] if not options else f(found, **options),
    ),
    ("MATCH-2", labels, "extractive_labels", lambda f, *given: f(*given)._replace(score=1.0)),
]


@pytest.mark.parametrize(("identifier", "module", "name", "replacement"), BUGS)
def test_the_claims_can_fail(identifier, module, name, replacement, monkeypatch):
    original = getattr(module, name, sorted)
    monkeypatch.setattr(module, name, lambda *a, **k: replacement(original, *a, **k), raising=False)
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


@pytest.mark.parametrize(("identifier", "module", "name", "replacement"), BUGS[::2])
def test_the_parity_can_fail(identifier, module, name, replacement, monkeypatch):
    original = getattr(module, name, sorted)
    monkeypatch.setattr(module, name, lambda *a, **k: replacement(original, *a, **k), raising=False)
    assert checks._spaces_labels(SETTING).verdict == "differs"


def test_the_recursion_that_claims_are_held_to():
    assert claims._recursion(["ab", "cd"], ["cd", "x"], rouge.main_metric) == [(0, 1), (1, 1)]
    assert claims._mismatched(["a", "b"], ["a", "b"], [(0, 1), (1, 0)]) == "[(0, 1), (1, 0)] goes back"
    assert claims._mismatched(["a"], ["a", "b"], [(0, 0)]) != ""
    assert sum(1 for _ in itertools.product(claims.LISTS, repeat=2)) == 1600
