"""Copied spans: labels, steps, states and the loss; on every number system, against other programs and recorded answers; and claims that can fail."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from systems import FLOATING, HOST, NUMPY, SYSTEMS, unchanged

from refimpl import backend, copying, decoding
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError, UndecidedError
from refimpl.softmax import softmax
from validation import checks, tolerance, truth
from validation.claims import CLAIMS, Setting
from validation.claims import copying as claims

SETTING = Setting(backend.get("numpy"))
SOURCE = [5, 1, 2, 3, 1, 2, 4, 2]
SCORES = np.array(
    [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.125, 0.25, 0.625], [0.125, 0.25, 0.625], [0, 0.25, 0.75]]
)
STATES, EMITTED = [2, 0, 2, 0, 1], [[1, 2], [1, 2], [1, 2], [1, 2], [3, 4]]
ALLOWED = [{0, 1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5}, {3, 4}, {1, 2, 3, 4, 5}, {2}]
AFTER = [0, 1, 3, 1, 2]
TOKENS = st.lists(st.integers(0, 3), max_size=9)


def _sets(allowed):
    return [set(np.flatnonzero(row).tolist()) for row in np.asarray(allowed)]


# --- labels -------------------------------------------------------------------------------------------------------------------------


def test_labels_of_an_example():
    labels = copying.copy_labels([7, 1, 2, 3, 4, 5, 6], [2, 3, 9, 5, 6])
    assert labels.source == [0, 0, 1, 2, 0, 1, 2]
    assert labels.target == [1, 2, 0, 1, 2]
    assert copying.sequence_labels([7, 1, 2, 3, 4, 5, 6], [2, 3, 9, 5, 6]) == [0, 0, 1, 2, 0, 1, 2, 2, 0, 1, 2]


def test_of_equal_lengths_the_source_loses_its_token():
    assert copying.longest_common_subsequence([1, 2], [2, 1]) == [(0, 1)]
    assert copying.longest_common_subsequence([1, 3, 1], [1]) == [(2, 0)]
    assert copying.longest_common_subsequence([1, 3, 1], [1, 4]) == [(0, 0)]


@given(TOKENS, TOKENS)
def test_labels_name_a_common_subsequence_whose_spans_are_in_the_source(source, target):
    assert claims._mislabelled(tuple(source), tuple(target)) == ""
    assert copying.copy_labels(np.array(source, int), np.array(target, int)) == copying.copy_labels(source, target)


@pytest.mark.parametrize("system", SYSTEMS)
def test_labels_of_arrays_of_any_library(system):
    source, target = system.to(np.array(SOURCE)), system.to(np.array([1, 2, 4]))
    assert copying.copy_labels(source, target) == copying.copy_labels(SOURCE, [1, 2, 4])


@given(TOKENS)
def test_a_text_copied_from_itself_is_one_span(tokens):
    labels = [1, *[2] * (len(tokens) - 1)] if tokens else []
    assert copying.copy_labels(tokens, tokens) == (labels, labels)


def test_a_long_source_does_not_run_out_of_recursion():
    rng = np.random.default_rng(0)
    source = rng.permutation(1200)
    target = np.concatenate([source[40:90], source[700:790]])
    assert copying.copy_labels(source, target).target == [1, *[2] * 49, 1, *[2] * 89]


def test_a_span_is_broken_where_its_end_occurs_again_before_the_next():
    """The walk comes from the end and takes the last 2 of the source; with the 2 after 1 there would be two spans, not three."""
    assert copying.copy_labels([1, 2, 5, 2, 6, 3], [1, 2, 3]) == ([1, 0, 0, 1, 0, 1], [1, 1, 1])


# --- steps --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_is_the_same_on_every_number_system(system):
    for dtype in system.dtypes:
        scores = system.floats(SCORES, dtype)
        before = np.array(system.back(scores))
        for dialect in copying.dialects:
            allowed, states = copying.copy_step(scores, STATES, SOURCE, EMITTED, vocab_size=7, dialect=dialect)
            assert _sets(system.back(allowed)) == ALLOWED
            assert system.back(states).tolist() == AFTER
            assert str(system.back(states).dtype) == "int64"
        given_arrays = [system.to(np.array(each)) for each in (STATES, SOURCE, EMITTED)]
        again, states = copying.copy_step(scores, *given_arrays, vocab_size=7)
        assert _sets(system.back(again)) == ALLOWED
        assert unchanged(before, np.array(system.back(scores)))
        assert [system.back(each).tolist() for each in given_arrays] == [STATES, SOURCE, EMITTED]


ROWS = st.integers(0, 5).flatmap(
    lambda t: st.lists(
        st.tuples(
            st.lists(st.integers(-2, 2), min_size=3, max_size=3),
            st.integers(0, t),
            st.lists(st.integers(0, 3), min_size=t, max_size=t),
        ),
        min_size=1,
        max_size=5,
    )
)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), ROWS)
def test_a_step_allows_what_comparing_substrings_allows(source, rows):
    scores, states, emitted = zip(*rows, strict=True)
    allowed, after = copying.copy_step(
        np.array(scores, float), list(states), source, [list(y) for y in emitted], vocab_size=5
    )
    expected = [claims._next(tuple(source), tuple(y), s, z) for z, s, y in rows]
    assert _sets(allowed) == [set(range(5)) if tokens == {-1} else tokens for tokens, _ in expected]
    assert after.tolist() == [state for _, state in expected]
    assert allowed.any(1).all()


@given(st.integers(0, 6))
def test_a_start_token_before_what_was_generated_does_not_matter(start):
    longer = copying.copy_step(SCORES, STATES, SOURCE, [[start, *y] for y in EMITTED], vocab_size=7)
    assert _sets(longer[0]) == ALLOWED
    assert longer[1].tolist() == AFTER


@given(st.permutations(range(5)))
def test_hypotheses_do_not_know_of_each_other(order):
    order = list(order)
    states = copying.select_states(np.array(STATES), order)
    allowed, after = copying.copy_step(SCORES[order], states, SOURCE, [EMITTED[r] for r in order], vocab_size=7)
    assert _sets(allowed) == [ALLOWED[r] for r in order]
    assert after.tolist() == [AFTER[r] for r in order]


@given(st.integers(0, 8), st.integers(1, 8))
def test_a_copied_source_goes_on_to_its_end_and_then_begins_anew(state, length):
    source, state = list(range(length)), min(state, length)
    allowed, after = copying.copy_step(np.array([[0, 0, 1.0]]), [state], source, [source[:state]], vocab_size=length)
    ended = state in (0, length)
    assert _sets(allowed) == [set(source) if ended else {state}]
    assert after.tolist() == [(1 if state else 0) if ended else state + 1] or state == 0


def test_overlapping_balls_are_undecided_and_equal_exact_ones_are_not():
    wide = truth.balls(np.array([[0.25, 0.25, 0.5]]), 2.0)
    with pytest.raises(UndecidedError, match="undecided"):
        copying.copy_step(wide, [1], [1, 2], [[1]], vocab_size=3)
    tie = truth.balls(np.array([[0.5, 0.5, 0.25]]))
    assert copying.copy_step(tie, [1], [1, 2], [[1]], vocab_size=3)[1].tolist() == [0]


def test_a_score_that_is_ruled_out_is_not_chosen():
    scores = np.array([[-np.inf, 0.0, -1.0], [0.0, -np.inf, -np.inf]])
    assert copying.copy_step(scores, [0, 1], [1, 2], [[1], [1]], vocab_size=3)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tag_scores": np.zeros((5, 2))}, ShapeError, r"three numbers a hypothesis(.|\n)*\(5, 2\)"),
        ({"tag_scores": np.zeros((5, 3), int)}, DtypeError, "tag_scores must be real floating point"),
        ({"tag_scores": SCORES * np.nan}, TokenError, r"next tag cannot be chosen(.|\n)*NaN"),
        ({"states": [0, 0]}, ShapeError, r"states does not fit(.|\n)*expected: \(5\)(.|\n)*\(2,\)"),
        ({"states": [0, 0, 3, 0, 0]}, TokenError, r"out of range(.|\n)*states\[2\](.|\n)*0 <= it < 3(.|\n)*got: +3"),
        ({"states": [0, 0, -1, 0, 0]}, TokenError, r"states\[2\](.|\n)*got: +-1"),
        ({"states": np.zeros(5)}, TokenError, r"states must be whole numbers(.|\n)*float64"),
        ({"source": []}, TokenError, r"nothing to copy from(.|\n)*allow everything"),
        ({"source": [1, 7]}, TokenError, r"source\[1\](.|\n)*0 <= it < 7(.|\n)*got: +7"),
        ({"source": [[1, 2]]}, ShapeError, r"source does not fit(.|\n)*\(any\)"),
        ({"emitted": [[1, 2]]}, ShapeError, r"emitted does not fit(.|\n)*\(5, any\)(.|\n)*\(1, 2\)"),
        ({"emitted": [[1, 2]] * 4 + [[1, -2]]}, TokenError, r"emitted\[4, 1\](.|\n)*got: +-2"),
        ({"dialect": "spaces"}, ConfigError, r"unknown dialect(.|\n)*corrected, bert4keras-spaces(.|\n)*'spaces'"),
    ],
)
def test_a_step_refuses(changes, error, message):
    arguments = {
        "tag_scores": SCORES,
        "states": STATES,
        "source": SOURCE,
        "emitted": EMITTED,
        "vocab_size": 7,
    } | changes
    with pytest.raises(error, match=message):
        copying.copy_step(**arguments)


def test_labels_refuse():
    with pytest.raises(TokenError, match=r"whole numbers(.|\n)*target\[1\](.|\n)*0\.5"):
        copying.copy_labels([1], [1, 0.5])
    with pytest.raises(TokenError, match=r"whole numbers(.|\n)*source\[0\](.|\n)*True"):
        copying.copy_labels([True], [1])
    with pytest.raises(TokenError, match=r"whole numbers(.|\n)*source(.|\n)*one axis(.|\n)*float64 \(2,\)"):
        copying.copy_labels(np.zeros(2), [1])
    with pytest.raises(TokenError, match="the target is empty"):
        copying.sequence_labels([1], [])
    with pytest.raises(TokenError, match=r"rows\[1\](.|\n)*0 <= it < 2"):
        copying.select_states(np.array([0, 1]), [0, 2])


def test_labels_and_steps_are_those_of_the_released_code():
    assert checks._spaces(SETTING).verdict == "equal"


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("longest_common_subsequence", lambda f, x, y: [(i, j) for j, i in f(y, x)]),
        ("_continues", lambda f, x, y, m: f(x, y, m - 1)),
        ("_tags", lambda f, scores, states, dialect: f(scores, states + 1, dialect)),
        ("masked_logits", lambda f, z, allowed, dialect: f(z, allowed)),
    ],
)
def test_that_comparison_can_fail(name, replacement, monkeypatch):
    original = getattr(copying, name)
    monkeypatch.setattr(copying, name, lambda *a, **k: replacement(original, *a, **k))
    assert checks._spaces(SETTING).verdict == "differs"


# --- masking ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", FLOATING)
def test_masked_logits_keep_their_dtype_and_are_ruled_out_elsewhere(system):
    logits, allowed = (
        np.array([[3.0, 1, 2, 0], [0, 0, 0, 9]]),
        np.array([[False, True, True, False], [True, False, True, False]]),
    )
    for dtype in system.dtypes:
        masked = system.back(copying.masked_logits(system.floats(logits, dtype), system.to(allowed)))
        assert masked.dtype == tolerance.DTYPES[dtype]
        assert np.array_equal(masked.astype(float), np.where(allowed, logits, -np.inf))


def test_the_published_mask_is_finite_and_leaves_ten():
    logits = np.arange(15.0)[None]
    masked = copying.masked_logits(logits, logits != 14, dialect="bert4keras-spaces")
    assert masked.tolist() == [[-1000.0] * 4 + list(map(float, range(4, 14))) + [-1000.0]]
    few = copying.masked_logits(logits, logits == 3, dialect="bert4keras-spaces")
    assert np.flatnonzero(few > -1000).tolist() == [3]
    assert softmax(few)[0, 3] == 1


def test_masking_refuses():
    logits, allowed = np.zeros((2, 3)), np.array([[True, False, True], [False, False, False]])
    with pytest.raises(TokenError, match=r"no token is allowed(.|\n)*a true in every row"):
        copying.masked_logits(logits, allowed)
    with pytest.raises(DtypeError, match="a mask must be boolean"):
        copying.masked_logits(logits, allowed.astype(int))
    with pytest.raises(ShapeError, match="allowed must have the shape of logits"):
        copying.masked_logits(logits, allowed[:1])


# --- loss ---------------------------------------------------------------------------------------------------------------------------


def test_the_recorded_loss_of_the_released_code(shared):
    """Its probabilities are handed over, of which it takes those that sum to one; all of them are far from what it clips at, 1e-7."""
    recorded = np.load(shared("spaces") / "loss.npz")
    assert recorded["bio"].min() > 1e-4
    loss = copying.copy_loss(np.log(recorded["bio"]), recorded["labels"], recorded["segment_ids"])
    assert abs(loss - recorded["copy_loss"]) <= 1e-12
    assert abs(recorded["seq2seq_loss"] + 2 * loss - recorded["total"]) <= 1e-12


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_is_within_its_budget_on_every_number_system(system):
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(2, 6, 3)), rng.integers(0, 3, (2, 5))
    segments = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
    for dtype in system.dtypes:
        x = system.floats(logits, dtype)
        wide = np.asarray(system.back(x), float)

        def definition(z):
            return copying.copy_loss(z, labels, segments).reshape(1)

        found = np.reshape(system.back(copying.copy_loss(x, system.to(labels), system.to(segments))), 1)
        budget = tolerance.proved_budget(definition, wide, dtype=dtype)
        assert tolerance.judge(
            found.astype(tolerance.DTYPES[dtype]), definition(truth.balls(wide)), budget, dtype
        ).passed


def test_what_is_not_trained_does_not_matter():
    rng = np.random.default_rng(1)
    logits, labels, segments = rng.normal(size=(1, 7, 3)), rng.integers(0, 3, (1, 6)), np.array([[0, 0, 0, 1, 1, 0, 0]])
    loss = copying.copy_loss(logits, labels, segments)
    changed, other = logits.copy(), labels.copy()
    changed[:, 4:], other[:, 4:] = 1e3, 0
    assert copying.copy_loss(changed, other, segments) == loss
    moved = logits.copy()
    moved[:, 3] += np.array([1.0, 0, 0])
    assert copying.copy_loss(moved, labels, segments) != loss


def test_the_labels_of_a_sequence_fit_its_loss():
    """A model that is sure of `sequence_labels` has no loss, and one that is sure of each token's own label in the target has some."""
    source, target = [1, 2, 3], [9, 2, 3, 1]
    labels, segments = copying.sequence_labels(source, target), np.array([[0, 0, 0, 1, 1, 1, 1]])
    sure = 100 * np.eye(3)[[*labels, 0]][None]
    assert copying.copy_loss(sure, [labels], segments) < 1e-40
    own = (
        100
        * np.eye(3)[[*copying.copy_labels(source, target).source, *copying.copy_labels(source, target).target]][None]
    )
    assert copying.copy_loss(own, [labels], segments) > 10


def test_the_loss_refuses():
    logits, labels, segments = np.zeros((1, 4, 3)), [[0, 1, 2]], [[0, 0, 1, 1]]
    with pytest.raises(TokenError, match=r"nothing is trained(.|\n)*a 1 beyond the first"):
        copying.copy_loss(logits, labels, [[1, 0, 0, 0]])
    with pytest.raises(TokenError, match=r"labels\[0, 1\](.|\n)*0 <= it < 3(.|\n)*got: +3"):
        copying.copy_loss(logits, [[0, 3, 0]], segments)
    with pytest.raises(ShapeError, match=r"labels does not fit(.|\n)*\(1, 3\)(.|\n)*\(1, 4\)"):
        copying.copy_loss(logits, [[0, 1, 2, 0]], segments)
    with pytest.raises(ShapeError, match="three numbers a token"):
        copying.copy_loss(logits[0], labels, segments)


# --- decoding, and claims that can fail ---------------------------------------------------------------------------------------------


class _Copier:
    """A model that wants token 9 and the tags B I I ..., with the prompts it has read."""

    context = 32

    def _said(self, rows):
        tags = [[0, 1.0, 0] if len(row) == 1 else [0, 0, 1.0] for row in rows]
        return (np.tile(np.arange(10.0), (len(rows), 1)), np.array(tags)), rows

    def start(self, token_ids, mask=None):
        return self._said([list(row) for row in token_ids])

    def advance(self, token_ids, cache):
        return self._said([[*row, *new] for row, new in zip(cache, token_ids, strict=True)])

    def select(self, cache, rows):
        return [cache[row] for row in rows]


def test_recorded_searches_of_one_beam_keep_to_what_is_allowed_and_some_of_several_do_not():
    """What tells them apart is the bookkeeping of beams, not the reading of tags: one beam has nothing to re-order, and no second choice."""
    searches = claims._searches()
    assert [sum(width == w for width, _ in searches) for w in (1, 2, 3, 4)] == [15] * 4
    assert all(right for width, right in searches if width == 1)
    assert sum(not right for _, right in searches) == 9


def test_a_model_that_copies_can_only_say_its_source():
    decoder = copying.CopyDecoder(_Copier(), [3, 8, 2, 8, 4])
    assert decoder.context == 32
    greedy = list(decoding.generate(decoder, [[0]], max_new_tokens=4, temperature=0))
    assert greedy == [[8], [4], [8], [4]]  # nothing continues 8 4, the end of the source: begun anew
    for hypothesis in decoding.beam_search(decoder, [0], beams=3, max_new_tokens=2):
        assert tuple(hypothesis.ids) in {(3, 8), (8, 2), (2, 8), (8, 4), (4, 8)}


@pytest.mark.parametrize("system", HOST[3:])
def test_decoding_on_strict_arrays_says_the_same(system):
    class Elsewhere(_Copier):
        def _said(self, rows):
            (logits, tags), cache = super()._said(rows)
            return (system.floats(logits, "float32"), system.floats(tags, "float32")), cache

    decoder = copying.CopyDecoder(Elsewhere(), [3, 8, 2, 8, 4])
    found = [(h.ids, h.score) for h in decoding.beam_search(decoder, [0], beams=3, max_new_tokens=3)]
    host = [
        (h.ids, h.score)
        for h in decoding.beam_search(copying.CopyDecoder(_Copier(), [3, 8, 2, 8, 4]), [0], beams=3, max_new_tokens=3)
    ]
    assert [ids for ids, _ in found] == [ids for ids, _ in host]
    assert NUMPY.name == "numpy"


def _everything(function, tokens, chosen, vocab_size):
    return function(tokens, chosen | True, vocab_size)


def _shorter(function, source, emitted, lengths):
    return function(source, emitted, lengths - 1)


def _unbarred(function, scores, states, dialect):
    return function(scores, states + 1, dialect)


BUGS = [
    ("COPY-1.spans", "longest_common_subsequence", lambda f, x, y: list(zip((0, 1, 5), (0, 1, 2), strict=True))),
    ("COPY-1", "_common_lengths", lambda f, x, y: f(x, [*y[:-1], -1])),
    ("COPY-1", "CopyLabels", lambda f, x, y: f([0 * each + 1 for each in x], y)),
    ("COPY-1", "longest_common_subsequence", lambda f, x, y: [(i, j) for j, i in f(y, x)]),
    (
        "COPY-2",
        "select_states",
        lambda f, states, rows: states[: len(rows)] if len(rows) <= len(states) else f(states, rows),
    ),
    ("COPY-2", "_continues", _shorter),
    ("COPY-2", "_among", _everything),
    ("COPY-2.steps", "_continues", _shorter),
    ("COPY-2.steps", "_among", _everything),
    ("COPY-2.steps", "_tags", _unbarred),
    ("COPY-2.published", "_continues", lambda f, x, y, m: f(x, y, 0 * m + 3)),
    ("COPY-3", "_tags", _unbarred),
    (
        "COPY-3.published",
        "_tags",
        lambda f, scores, states, dialect: f(scores, states + (dialect != "corrected"), dialect),
    ),
    ("COPY-4", "_continues", _shorter),
    ("COPY-4", "_continues", lambda f, x, y, m: f(x, y[:, ::-1], m)),
    ("COPY-4", "_among", _everything),
    ("COPY-4", "_tags", _unbarred),
    ("COPY-5", "masked_logits", lambda f, z, allowed, **options: np.where(allowed, z, -1e4)),
    ("COPY-5", "masked_logits", lambda f, z, allowed, **options: f(z, ~allowed | allowed)),
    ("COPY-5.published", "masked_logits", lambda f, z, allowed, **options: f(z, allowed)),
]


@pytest.mark.parametrize(
    ("identifier", "name", "replacement"), BUGS, ids=[f"{c}: {n} {i}" for i, (c, n, _) in enumerate(BUGS)]
)
def test_the_claims_can_fail(identifier, name, replacement, monkeypatch):
    original = getattr(copying, name)
    monkeypatch.setattr(copying, name, lambda *a, **k: replacement(original, *a, **k))
    claims._generated.cache_clear()
    try:
        assert not CLAIMS[identifier].holds(CLAIMS[identifier].check(SETTING))
    finally:
        claims._generated.cache_clear()


def test_the_enumerations_that_claims_are_held_to():
    assert claims._longest((1, 2, 1), (2, 1, 2)) == (1, 2)
    assert claims._spans([0, 1, 2, 1, 2, 2, 0], tuple("abcdefg")) == [("b", "c"), ("d", "e", "f")]
    assert claims._spans([2, 0, 2], tuple("abc")) == [("a",), ("c",)]
    assert len(claims._weak_orders()) == 13
    assert sum(1 for _ in itertools.chain.from_iterable(rows for _, rows in claims._steps(2, 1, 1))) == 2 * (
        3 + 2 * 2 * 3
    )
