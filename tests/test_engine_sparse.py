"""Sparse softmax and its loss: which entries are kept, ties, masks, undecided balls, parity with SPACES, and what is refused."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl import errors, softmax
from validation import components, tolerance, truth

if TYPE_CHECKING:
    from systems import System

DTYPES = ("float16", "float32", "float64")
EXACT = [2.5, 2.5, 1.0, 2.5, -1.0]
rows_with_ties = hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=st.integers(-2, 2))


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _chosen(row: Any, k: int, allowed: Any = None) -> list[bool]:
    """The k largest allowed entries, by sorting pairs (value, index)."""
    indices = [i for i in range(len(row)) if allowed is None or allowed[i]]
    kept = set(sorted(indices, key=lambda i: (-row[i], i))[:k])
    return [i in kept for i in range(len(row))]


# --- which entries are kept -------------------------------------------------------------------------------------------------


def test_among_equal_entries_the_lower_index_is_kept(system: System) -> None:
    for dtype in system.dtypes:
        for k, kept in (
            (1, [0]),
            (2, [0, 1]),
            (3, [0, 1, 3]),
            (4, [0, 1, 2, 3]),
            (5, [0, 1, 2, 3, 4]),
            (9, [0, 1, 2, 3, 4]),
        ):
            x = system.floats(EXACT, dtype)
            selection = np.asarray(system.back(softmax.top_k_selection(x, k)))
            assert np.nonzero(selection)[0].tolist() == kept
            weights = system.back(softmax.sparse_softmax(x, k))
            assert np.nonzero(np.asarray(weights, np.float64))[0].tolist() == kept


@given(rows_with_ties, st.integers(1, 8), st.data())
def test_the_selection_is_that_of_a_sort_by_value_then_index(x: Any, k: int, data: Any) -> None:
    mask = data.draw(hnp.arrays(bool, x.shape))
    for array in (x, truth.balls(x), x.astype(np.float16)):
        assert softmax.top_k_selection(array, k).tolist() == [_chosen(row, k) for row in x]
        expected = [_chosen(*pair) for pair in zip(x, itertools.repeat(k), mask, strict=False)]
        assert softmax.top_k_selection(array, k, mask=mask).tolist() == expected
        turned = softmax.top_k_selection(array.T, k, 0, mask=mask.T)
        assert turned.T.tolist() == expected


def test_zeros_of_both_signs_are_equal_and_infinities_are_ordered() -> None:
    x = np.array([[-0.0, 0.0, -np.inf, 0.0], [-np.inf, -np.inf, 1.0, -np.inf]])
    assert softmax.top_k_selection(x, 2).tolist() == [[True, True, False, False], [True, False, True, False]]
    assert softmax.sparse_softmax(x, 2)[1].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300, -np.inf])
def test_masked_entries_are_never_kept_whatever_they_hold(junk: float) -> None:
    x = np.array([[1.0, junk, 3.0, 2.0, junk], [-np.inf, junk, -np.inf, 0.0, -5.0]])
    mask = np.array([[True, False, True, True, False], [True, False, True, False, False]])
    assert softmax.top_k_selection(x, 2, mask=mask).tolist() == [
        [False, False, True, True, False],
        [True, False, True, False, False],
    ]
    weights = softmax.sparse_softmax(x[:1], 2, mask=mask[:1])
    assert weights.tolist() == softmax.sparse_softmax(np.where(mask, x, 0.0)[:1], 2, mask=mask[:1]).tolist()
    targets = np.array([3])
    loss = softmax.sparse_softmax_cross_entropy(x[:1], targets, 2, mask=mask[:1])
    assert loss.tolist() == softmax.sparse_softmax_cross_entropy(x[:1, [0, 2, 3]], np.array([2]), 2).tolist()


def test_rows_in_which_nothing_is_allowed_are_zero_and_their_targets_are_not_looked_at(system: System) -> None:
    for dtype in system.dtypes:
        x = system.floats([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]], dtype)
        mask, targets = system.to(np.array([[False], [True]])), system.to(np.array([-100, 2]))
        assert np.asarray(system.back(softmax.sparse_softmax(x, 2, mask=mask)), np.float64)[0].tolist() == [0, 0, 0]
        loss = np.asarray(system.back(softmax.sparse_softmax_cross_entropy(x, targets, 1, mask=mask)), np.float64)
        assert loss.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [[np.nan, 1.0, 2.0], [np.inf, 1.0, 2.0], [-np.inf] * 3])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_nan_and_infinite_maxima_show(bad: list[float], k: int) -> None:
    for order in itertools.permutations(bad):
        x = np.array(order)
        with np.errstate(invalid="ignore", divide="ignore"):
            assert np.all(np.isnan(softmax.sparse_softmax(x, k)))
            assert np.isnan(softmax.sparse_softmax_cross_entropy(x, np.array(1), k))


# --- balls ------------------------------------------------------------------------------------------------------------------


def _ball(middle: float, radius: float = 0.0) -> Any:
    return flint.arb(middle, radius)


@pytest.mark.parametrize(
    ("row", "k", "kept"),
    [
        ([_ball(1), _ball(2), _ball(1)], 2, [0, 1]),  # exact and equal: the lower index
        ([_ball(1, 0.1), _ball(2, 0.1), _ball(3, 0.1)], 2, [1, 2]),
        ([_ball(1, 0.6), _ball(2, 0.6), _ball(5)], 1, [2]),  # those that overlap do not compete for the last place
        ([_ball(5, 1), _ball(5.5, 1), _ball(0)], 2, [0, 1]),
        ([_ball(1, 0.5), _ball(1, 0.5)], 2, [0, 1]),  # all are kept
        ([_ball(1, 0.5), _ball(1, 0.5)], 7, [0, 1]),
    ],
)
def test_balls_are_kept_where_their_order_is_certain(row: list[Any], k: int, kept: list[int]) -> None:
    selection = softmax.top_k_selection(np.array(row, dtype=object), k)
    assert np.nonzero(selection)[0].tolist() == kept


@pytest.mark.parametrize(
    ("row", "k"),
    [
        ([_ball(1, 0.6), _ball(2, 0.6)], 1),  # overlap
        ([_ball(1, 0.5), _ball(1, 0.5)], 1),  # equal balls are not equal numbers
        ([_ball(1, 0.5), _ball(2, 0.5)], 1),  # touch at 1.5: might be equal, and then the index decides
        ([_ball(2, 0.5), _ball(1.5)], 1),
        ([_ball(1.5), _ball(1, 0.5), _ball(0)], 1),
        ([_ball(0), _ball(9), _ball(math.nan)], 1),
        ([_ball(0), _ball(9), _ball(0, math.inf)], 2),
        ([_ball(math.nan), _ball(-math.inf)], 1),
    ],
)
def test_balls_that_compete_for_the_last_place_and_meet_are_undecided(row: list[Any], k: int) -> None:
    for order in itertools.permutations(row):
        x = np.array(order, dtype=object)
        words = ("undecided", "balls that overlap", "sparse softmax", "k-th largest", "more bits")
        with _refused(errors.UndecidedError, *words):
            softmax.sparse_softmax(x, k)
        with _refused(errors.UndecidedError, *words):
            softmax.sparse_softmax_cross_entropy(x, np.array(0), k)
        assert softmax.top_k_selection(x, k, mask=np.array([ball is row[0] for ball in order])).sum() == 1


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_an_exact_ball_at_the_end_of_a_wide_one_is_undecided(side: str) -> None:
    """They touch in one number, where the index would decide: the wide ball is kept (lower) or rejected (upper) by its midpoint."""
    wide = _ball(2, 0.5)
    end = getattr(wide, side)()
    for row in ([wide, end], [end, wide], [wide, end, _ball(-9)], [_ball(-9), end, wide]):
        with _refused(errors.UndecidedError, "undecided"):
            softmax.top_k_selection(np.array(row, dtype=object), 1)
    for row in ([end, end], [end, end, _ball(-9)]):
        assert softmax.top_k_selection(np.array(row, dtype=object), 1).tolist() == [True] + [False] * (len(row) - 1)


def test_nan_balls_matter_only_where_they_compete() -> None:
    nan = _ball(math.nan)
    for unknown in (nan, _ball(0, math.inf)):
        assert softmax.top_k_selection(np.array([unknown, _ball(1)], dtype=object), 2).tolist() == [True, True]
    values = [3.0, 1, 5, 2, 4]
    for place in range(6):
        row = [_ball(value) for value in values]
        row.insert(place, nan)
        mask = np.array([ball is not nan for ball in row])
        selection = softmax.top_k_selection(np.array(row, dtype=object), 2, mask=mask)
        assert [float(row[i]) for i in np.nonzero(selection)[0]] == [5, 4]


def test_the_undecided_error_is_one_class() -> None:
    assert truth.UndecidedError is errors.UndecidedError


# --- values -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
def test_k_from_n_on_is_softmax_bit_for_bit(dtype: str, data: Any) -> None:
    width = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    x = data.draw(hnp.arrays(dtype, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=finite))
    n, targets = x.shape[-1], data.draw(hnp.arrays(np.int64, x.shape[:1], elements=st.integers(0, x.shape[-1] - 1)))
    for k in (n, n + 1, 1000):
        assert softmax.sparse_softmax(x, k).tobytes() == softmax.softmax(x).tobytes()
        loss = softmax.sparse_softmax_cross_entropy(x, targets, k)
        picked = np.take_along_axis(softmax.log_softmax(x), targets[:, None], axis=-1)[:, 0]
        assert np.array_equal(loss, -picked)


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
def test_the_loss_is_not_negative_and_has_no_nan_for_any_finite_input(dtype: str, data: Any) -> None:
    width = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    largest = float(np.finfo(dtype).max)
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width) | st.sampled_from([largest, -largest, 0.0])
    x = data.draw(hnp.arrays(dtype, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=finite))
    targets = data.draw(hnp.arrays(np.int64, x.shape[:1], elements=st.integers(0, x.shape[-1] - 1)))
    k = data.draw(st.integers(1, 8))
    assert np.all(softmax.sparse_softmax_cross_entropy(x, targets, k) >= 0)


def test_the_loss_of_the_largest_logit_at_k_1_is_exactly_zero(system: System) -> None:
    x = system.floats([[0.1, 3.7, -2.0], [1e4, -1e4, 1e4]], system.dtypes[-1])
    loss = softmax.sparse_softmax_cross_entropy(x, system.to(np.array([1, 2])), 1)
    assert system.back(loss).tolist() == [0.0, 0.0]


@given(rows_with_ties, st.integers(1, 8), st.data())
def test_the_loss_is_the_published_difference_on_balls(x: Any, k: int, data: Any) -> None:
    targets = data.draw(hnp.arrays(np.int64, x.shape[:1], elements=st.integers(0, x.shape[-1] - 1)))
    with truth.precision(256):
        loss = softmax.sparse_softmax_cross_entropy(truth.balls(x), targets, k)
        for row, t, got in zip(x, targets, loss, strict=True):
            largest = sorted(row.tolist(), reverse=True)[:k]
            gap = got - (sum((flint.arb(s).exp() for s in largest), flint.arb(0)).log() - row[t])
            assert gap.contains(0)
            assert gap.abs_upper() < 1e-60


@example(np.array([[1.0, 1.0, 1.0]]), 2)
@given(rows_with_ties, st.integers(1, 8))
def test_a_shift_drops_out_of_weights_and_loss(x: Any, k: int) -> None:
    """Whole numbers and a shift of 1024: every difference is exact, so the bits are equal."""
    targets = np.zeros(x.shape[0], np.int64)
    assert np.array_equal(softmax.sparse_softmax(x + 1024, k), softmax.sparse_softmax(x, k))
    one, other = (softmax.sparse_softmax_cross_entropy(y, targets, k) for y in (x + 1024, x))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32", "uint64"])
def test_targets_of_every_integer_dtype_give_the_same_loss(kind: str, system: System) -> None:
    x = system.floats([[0.5, 1.0, -2.0], [3.0, 2.0, 1.0]], system.dtypes[-1])
    losses = [
        softmax.sparse_softmax_cross_entropy(x, system.to(np.array([2, 0], dtype)), 2) for dtype in (kind, "int64")
    ]
    assert system.back(losses[0]).tolist() == system.back(losses[1]).tolist()


def test_narrow_targets_may_point_into_any_width(system: System) -> None:
    x = system.floats(np.arange(300.0)[None, :] / 300, system.dtypes[-1])
    losses = [
        softmax.sparse_softmax_cross_entropy(x, system.to(np.array([200], kind)), 300) for kind in ("uint8", "int64")
    ]
    assert system.back(losses[0]).tolist() == system.back(losses[1]).tolist()


# --- parity -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "k"), [("", 10), ("_k1", 1), ("_k3", 3), ("_k30", 30)])
def test_loss_and_gradient_agree_with_spaces(key: str, k: int, shared: Any) -> None:
    """The mean over real positions of the loss, and its gradient (p - onehot)/positions, against the recorded TensorFlow float64 answers.

    Each position's loss is proved to the component's budget e plus u |loss| for its last rounding, twice (theirs and ours), and the mean of N of
    them adds at most (N - 1) u relative in each sum and u in each division. The gradient: a budget, a subtraction and a division.
    """
    recorded = np.load(shared("spaces") / "loss.npz")
    segments, u = recorded["segment_ids"], tolerance.roundoff("float64")
    real = (segments[:, :-1] * segments[:, 1:]).astype(bool)
    logits, targets = recorded["logits"][:, :-1], recorded["token_ids"][:, 1:]
    loss = softmax.sparse_softmax_cross_entropy(logits, targets, k, mask=real[..., None])
    assert np.all(loss[~real] == 0)
    count, used = int(real.sum()), (logits[real], targets[real])
    budget = components.component("sparse_softmax_cross_entropy").budget(*used, dtype="float64", k=k)
    mean = float(loss.sum()) / count
    allowed = 2 * (float(np.mean(budget)) + (count + 1) * u * mean)
    assert abs(mean - float(recorded[f"seq2seq_loss{key}"])) <= allowed < 1e-12

    p = softmax.sparse_softmax(logits, k, mask=real[..., None])
    one_hot = np.arange(logits.shape[-1]) == targets[..., None]
    gradient = np.where(real[..., None], p - one_hot, 0) / count
    weights = np.zeros(logits.shape)
    weights[real] = components.component("sparse_softmax").budget(used[0], dtype="float64", k=k)
    difference = np.abs(gradient - recorded[f"dlogits{key}"][:, :-1])
    assert np.all(difference <= 2 * (weights + 3 * u) / count)
    assert np.all(recorded[f"dlogits{key}"][:, -1] == 0)


# --- what is refused ----------------------------------------------------------------------------------------------------------


def test_k_is_refused_in_words(system: System) -> None:
    x, t = system.floats([[1.0, 2.0]], system.dtypes[-1]), system.to(np.array([0]))
    calls = (lambda k: softmax.sparse_softmax(x, k), lambda k: softmax.sparse_softmax_cross_entropy(x, t, k))
    for call in calls:
        for k in (0, -3):
            with _refused(errors.ConfigError, "k must be at least 1", "k >= 1", f"got:      {k}"):
                call(k)
        for odd in (1.5, 2.0, True, None, "3"):
            with _refused(errors.ConfigError, "k must be a whole number", "an int, k >= 1", repr(odd)):
                call(odd)


def test_targets_are_refused_in_words(system: System) -> None:
    x = system.floats([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5]], system.dtypes[-1])

    def loss(targets: Any, mask: Any = None) -> Any:
        mask = None if mask is None else system.to(np.array(mask))
        return softmax.sparse_softmax_cross_entropy(x, system.to(np.array(targets)), 2, mask=mask)

    for targets, row, got in (([0, 3], 1, 3), ([-1, 0], 0, -1), ([2**31, 7], 0, 2**31)):
        with _refused(
            errors.TokenError, "a target is out of range", f"targets[{row}]", "0 <= target < 3", f"got:      {got}"
        ):
            loss(targets)
    with _refused(errors.TokenError, "a target is masked", "targets[1]", "whose logit is allowed", "got:      2"):
        loss([0, 2], [True, True, False])
    with _refused(errors.ShapeError, "one entry for each row of logits", "(2,)", "(2, 1)"):
        loss([[0], [1]])
    with _refused(errors.ShapeError, "one entry for each row of logits", "(2,)", "()"):
        loss(1)
    with _refused(errors.DtypeError, "targets must be whole numbers", "an integer dtype", "bool"):
        loss([True, False])


def test_shapes_and_dtypes_are_refused_in_words(system: System) -> None:
    x = system.floats([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5]], system.dtypes[-1])
    for call in (softmax.sparse_softmax, softmax.top_k_selection):
        with _refused(errors.ShapeError, "the mask does not fit", "broadcasts to (2, 3)", "(2, 2)"):
            call(x, 1, mask=system.to(np.ones((2, 2), bool)))
        with _refused(errors.ShapeError, "the mask does not fit", "broadcasts to (2, 3)", "(1, 2, 3)"):
            call(x, 1, mask=system.to(np.ones((1, 2, 3), bool)))
        with _refused(errors.DtypeError, "a mask must be boolean", "true where allowed", "int64"):
            call(x, 1, mask=system.to(np.ones((2, 3), np.int64)))
        with _refused(errors.ShapeError, "nothing to choose from", "axis 2", "shape (2, 3)"):
            call(x, 1, 2)
        with _refused(errors.DtypeError, "x must be real floating point", "int64"):
            call(system.to(np.ones((2, 3), np.int64)), 1)
    if not system.is_ball:
        with _refused(errors.ShapeError, "nothing to choose from", "shape (2, 0)"):
            softmax.sparse_softmax(system.floats(np.ones((2, 0)), system.dtypes[-1]), 1)
