"""ROUGE: by hand, its longest common subsequences, words, errors; and that its claims and its parity can fail."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import validation
from refimpl import backend, copying
from refimpl.errors import ConfigError, TextError
from refimpl.text import rouge
from validation import checks
from validation.claims import CLAIMS, Setting
from validation.claims import rouge as claims

ROOT = Path(__file__).parent.parent
SETTING = Setting(backend.get("numpy"))
UNITS = st.lists(st.sampled_from(["a", "b", "c", "3.5", " ", ".", "法", "院"]), max_size=30)
DIALECTS = st.sampled_from(rouge.dialects)
every_dialect = pytest.mark.parametrize("dialect", rouge.dialects)


def _counts(hypothesis, reference, dialect):
    """The three scores as precisions and recalls, by which the numbers of the packages can be checked on paper."""
    return [score[:2] for score in rouge.rouge(hypothesis, reference, dialect=dialect)]


# --- by hand ---------------------------------------------------------------------------------------------------------------------------


def test_sets_and_multiplicities():
    """Of a a b a and a b b: kinds a, b; pairs aa, ab, ba and ab, bb; the longest common subsequence that is found is a b."""
    once = [(2 / 2, 2 / 2), (1 / 3, 1 / 2), (2 / 2, 2 / 2)]
    assert _counts("aaba", "abb", "rouge-1.0.1") == once
    assert _counts("aaba", "abb", "rouge-0.3.2") == once
    assert _counts("aaba", "abb", "rouge-1.0.0") == [(2 / 4, 2 / 3), (1 / 3, 1 / 2), (1, 1)]
    assert _counts("aaba", "abb", "rouge-score") == [(2 / 4, 2 / 3), (1 / 3, 1 / 2), (2 / 4, 2 / 3)]


def test_scores_conform_to_the_golden_vectors_with_an_epsilon_of_their_own():
    """The vectors' ε is 10⁻⁸ rounded to float32; in float64 that shows in nobody's scores."""

    def scores(hypothesis, reference, epsilon, dialect):
        return np.array(rouge.rouge(*("".join(map(chr, each)) for each in (hypothesis, reference)), dialect=dialect))

    validation.assert_conforms(scores, "rouge", dtype="float64")
    validation.assert_conforms(scores, "rouge", dtype="float64", seed=3)


def test_overlaps_are_the_counts_of_the_quotients():
    """Kinds a, b of a a b a and of a b b; pairs aa, ab, ba and ab, bb; a b in common."""
    for dialect, expected in (
        ("rouge-1.0.1", ((2, 2, 2), (1, 3, 2), (2, 2, 2))),
        ("rouge-1.0.0", ((2, 4, 3), (1, 3, 2), (2, 2, 2))),
        ("rouge-score", ((2, 4, 3), (1, 3, 2), (2, 4, 3))),
    ):
        assert rouge.overlaps(*(rouge.count(text, dialect=dialect) for text in ("aaba", "abb"))) == expected
    two = [rouge.count("a", dialect=dialect) for dialect in rouge.dialects[:2]]
    for function in (rouge.overlaps, rouge.compare):
        with pytest.raises(ConfigError, match=r"counted in two dialects(.|\n)*got: +rouge-1\.0\.1, rouge-1\.0\.0"):
            function(*two)


def test_f_of_each_dialect():
    p, r = 2 / 3, 2 / 5  # of a b x against a b c d e
    expected = dict.fromkeys(rouge.dialects[:2], 2 * (p * r / (p + r + 1e-08)))
    beta = p / (r + 1e-12)
    expected["rouge-0.3.2"] = (1 + beta**2) * r * p / (r + beta**2 * p + 1e-12)
    expected["rouge-score"] = 2 * p * r / (p + r)
    for dialect, f in expected.items():
        found = rouge.rouge("abx", "abcde", dialect=dialect)
        assert found.rouge_l == rouge.Score(p, r, f)
        assert found.rouge_1.f == (expected["rouge-1.0.1"] if dialect == "rouge-0.3.2" else f)
    assert expected["rouge-0.3.2"] < expected["rouge-1.0.1"] - 0.05  # β weighs the smaller of p and r, whichever it is


def test_the_main_metric_has_its_weights():
    found = rouge.rouge("法院认为", "法院查明")
    one, two, longest = (score.f for score in found)
    assert len({one, two}) == 2
    assert rouge.main_metric("法院认为", "法院查明") == found.main == one * 0.2 + two * 0.4 + longest * 0.4


@pytest.mark.parametrize("dialect", rouge.dialects[:3])
def test_a_point_ends_a_sentence_wherever_it_stands(dialect):
    """3.5 is 3 and 5 in two sentences; n-grams go across them, a common subsequence does not."""
    assert _counts(["3.5", "万"], ["3", "5", "万"], dialect) == [(1, 1), (1, 1), (1, 1)]
    one = rouge.rouge(["a", ".", "b"], ["b", "a"], dialect=dialect).rouge_l
    assert one[:2] == (1, 1)
    assert rouge.rouge("ab", "ba", dialect=dialect).rouge_l[:2] == (1 / 2, 1 / 2)
    assert rouge.rouge(["3.5"], ["3.5"], dialect="rouge-score").rouge_1 == (1, 1, 1)


@pytest.mark.parametrize("dialect", rouge.dialects[:3])
def test_white_space_is_no_unit_and_nothing_between_two_points_is_one(dialect):
    assert rouge.rouge(["a", " ", "\u3000", "b"], ["a b"], dialect=dialect) == rouge.rouge("ab", "ab", dialect=dialect)
    assert rouge.count(["a", ".", ".", "b"], dialect=dialect).sentences == (("a",), ("",), ("b",))
    assert rouge.count(["a", "..", "b."], dialect=dialect).sentences == (("a",), ("b",))


@every_dialect
@pytest.mark.parametrize("empty", [[], [""], "", ".", [".."]])
def test_nothing_scores_nothing(dialect, empty):
    for one, other in ((empty, "ab"), ("ab", empty)):
        assert rouge.rouge(one, other, dialect=dialect) == ((0, 0, 0),) * 3
    assert rouge.main_metric("", "法院", dialect=dialect) == 0


# --- properties -----------------------------------------------------------------------------------------------------------------------


@given(UNITS, UNITS, DIALECTS)
def test_scores_are_between_0_and_1_and_f_between_p_and_r(hypothesis, reference, dialect):
    for p, r, f in rouge.rouge(hypothesis, reference, dialect=dialect):
        assert 0 <= f <= 1
        assert 0 <= min(p, r) <= max(p, r) <= 1
        assert min(p, r) - 2e-8 <= f <= max(p, r) + 1e-15


@given(UNITS, UNITS)
def test_f_is_the_harmonic_mean(hypothesis, reference):
    for p, r, f in rouge.rouge(hypothesis, reference, dialect="rouge-score"):
        assert f == pytest.approx(2 / (1 / p + 1 / r), rel=1e-14) if p else f == 0


@given(UNITS, UNITS)
def test_the_found_subsequence_is_that_of_the_plain_walk(hypothesis, reference):
    """The bits against the table of `refimpl.copying`, in its units and its length."""
    numbers = {unit: place for place, unit in enumerate(dict.fromkeys(hypothesis + reference))}
    pairs = copying.longest_common_subsequence([numbers[u] for u in hypothesis], [numbers[u] for u in reference])
    assert rouge._common_units(hypothesis, reference) == {hypothesis[i] for i, _ in pairs}
    score = rouge.rouge(hypothesis, reference, dialect="rouge-score").rouge_l
    assert score[:2] == ((len(pairs) / len(hypothesis), len(pairs) / len(reference)) if pairs else (0, 0))


def test_long_texts_have_no_limit():
    """More units than a machine word has bits, and than Python recurses; twice the alphabet in two orders."""
    letters = [chr(0x4E00 + k) for k in range(3000)]
    turned = letters[1000:] + letters[:1000]
    assert rouge.rouge(turned, letters).rouge_l[:2] == (2 / 3, 2 / 3)
    assert rouge.rouge(turned, letters, dialect="rouge-score").rouge_l[:2] == (2 / 3, 2 / 3)


@given(UNITS, UNITS, DIALECTS)
def test_what_is_counted_once_is_compared_often(hypothesis, reference, dialect):
    one, other = (rouge.count(units, dialect=dialect) for units in (hypothesis, reference))
    assert rouge.compare(one, other) == rouge.rouge(hypothesis, reference, dialect=dialect)
    assert rouge.compare(one, other).main <= rouge.at_most(one, other)


# --- units ----------------------------------------------------------------------------------------------------------------------------

SENTENCE = "原告李某与被告担保物权纠纷一案，本院于2019年3月5日立案。"


def test_units_are_characters_or_words_and_join_to_the_text():
    words = rouge.units(SENTENCE, "word")
    assert "".join(words) == SENTENCE
    assert words[:4] == ["原告", "李", "某", "与"]
    assert rouge.units(SENTENCE) == list(SENTENCE)


def test_words_of_ones_own_change_words_and_not_those_of_others():
    from refimpl.text.segmentation import segmenter

    before = rouge.units(SENTENCE, "word")
    own = rouge.units(SENTENCE, "word", segmenter().with_words(["担保物权纠纷 2000 n", ""]))
    assert own != before
    assert "担保物权纠纷" in own
    assert rouge.units(SENTENCE, "word") == before
    assert rouge.main_metric(SENTENCE, "物权纠纷", "word") != rouge.main_metric(SENTENCE, "物权纠纷")


def test_characters_need_no_jieba():
    code = (
        "import sys; from refimpl.spaces import labels; labels.extractive_labels('甲。乙', '乙')\n"
        "assert 'jieba' not in sys.modules and 'refimpl.text.segmentation' not in labels.rouge.__dict__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rouge.rouge("a", "b", dialect="rouge"),
            r"unknown dialect(.|\n)*rouge-1\.0\.1, rouge-1\.0\.0(.|\n)*'rouge'",
        ),
        (lambda: rouge.units("a", "letter"), r"no such unit(.|\n)*character or word(.|\n)*'letter'"),
        (
            lambda: rouge.compare(rouge.count("a"), rouge.count("a", dialect="rouge-score")),
            r"two dialects(.|\n)*rouge-1\.0\.1, rouge-score",
        ),
    ],
)
def test_rouge_refuses(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@every_dialect
def test_token_ids_are_no_units(dialect):
    with pytest.raises(TextError, match=r"units must be strings(.|\n)*a sequence of str(.|\n)*got: +7"):
        rouge.rouge("ab", ["a", 7], dialect=dialect)


# --- claims and parity ------------------------------------------------------------------------------------------------------------------


def _walk_of_the_other(f, h, y):
    return f(y, h)


def _without_epsilon(f, k, n, m, epsilon, weighed=False):
    return f(k, n, m, 0.0, weighed)


def _plain_f(f, k, n, m, epsilon, weighed=False):
    return f(k, n, m, epsilon)


BUGS = [
    ("ROUGE-1", "_numbered", lambda f, grams, once: f(grams, not once)),
    ("ROUGE-1", "_numbered", lambda f, grams, once: f(grams, True)),
    ("ROUGE-1", "_common_units", _walk_of_the_other),
    ("ROUGE-1", "_sentences", lambda f, units: (tuple(units),)),
    ("ROUGE-1", "_sentences", lambda f, units: tuple(each for each in f(units) if each != ("",))),
    ("ROUGE-1", "_score", _without_epsilon),
    ("ROUGE-1", "_score", _plain_f),
    ("ROUGE-1", "_common", lambda f, h, y: len(h.kinds & y.kinds)),
    ("ROUGE-2", "_rows", lambda f, h, y: f(h, y) if len(h) < len(y) else [*f(h, y), (1 << len(h)) - 1]),
    ("ROUGE-2.published", "_common", lambda f, h, y: len(h.kinds & y.kinds)),
    ("ROUGE-3", "_common", lambda f, h, y: max(f(h, y) - 1, 0)),
    ("ROUGE-3.sentences", "_common", lambda f, h, y: len(h.kinds & y.kinds)),
    ("ROUGE-4", "_numbered", lambda f, grams, once: frozenset(list(f(grams, once))[:1])),
    ("ROUGE-4.published", "_common", lambda f, h, y: len(h.kinds & y.kinds)),
    ("ROUGE-5", "_score", lambda f, k, n, m, *rest: f(k, n, m + 1, *rest)),
    ("ROUGE-6", "at_most", lambda f, h, y: f(h, y) * (1 - 1e-15)),
]
CACHES = ("_all_counted", "_wrong_score")


@pytest.fixture
def fresh():
    for name in CACHES:
        getattr(claims, name).cache_clear()
    yield
    for name in CACHES:
        getattr(claims, name).cache_clear()


@pytest.mark.parametrize(
    ("identifier", "name", "replacement"), BUGS, ids=[f"{c}: {n} {i}" for i, (c, n, _) in enumerate(BUGS)]
)
@pytest.mark.usefixtures("fresh")
def test_the_claims_can_fail(identifier, name, replacement, monkeypatch):
    original = getattr(rouge, name)
    monkeypatch.setattr(rouge, name, lambda *a, **k: replacement(original, *a, **k))
    assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))


@pytest.mark.parametrize(
    ("name", "replacement"),
    [(name, replacement) for _, name, replacement in BUGS[:7]],
)
def test_the_parity_can_fail(name, replacement, monkeypatch):
    original = getattr(rouge, name)
    monkeypatch.setattr(rouge, name, lambda *a, **k: replacement(original, *a, **k))
    assert checks._rouge(SETTING).verdict == "differs"


def test_the_enumerations_that_claims_are_held_to():
    assert claims._sentences(("a", ".", ".", "b", ".")) == [("a",), ("",), ("b",)]
    assert claims._sentences((".", ".")) == [("",)]
    assert claims._overlap("aab", "abb", once=True) == 2
    assert claims._overlap("aab", "aba", once=False) == 3
    assert claims._subsequence(tuple("aab"), tuple("aba")) == ("a", "a")


def test_the_recording_is_that_of_the_provenance():
    folder = ROOT / "validation" / "recorded" / "rouge"
    hashes = json.loads((folder / "provenance.json").read_text("utf-8"))["sha256"]
    files = {path.name: path for path in folder.iterdir() if path.name != "provenance.json"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == hashes


def test_a_length_needs_no_table() -> None:
    """The rows of two texts of 3,000 units are 1.1 MB; of rouge-score the last is looked at alone."""
    one, other = (list(map(str, range(first, first + 3000))) for first in (0, 1))
    counted = [rouge.count(units, dialect="rouge-score") for units in (one, other)]
    tracemalloc.start()
    found = rouge.compare(*counted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rouge_l.precision == 2999 / 3000
    assert peak < 1.4e6  # 0.8, for where each unit stands; 2.1 with all rows
