"""Truth, tolerance, dependence and perturbed arithmetic: enclosures contain, verdicts refuse, tags and noise behave."""

import math
from fractions import Fraction

import flint
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import errors, softmax
from refimpl.attention import causal_mask, scaled_dot_product_attention
from validation import dependence, perturbed, tolerance, truth

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(FINITE, min_size=1, max_size=5))
def test_balls_are_exact(values):
    enclosure = truth.balls(np.array(values))
    assert [Fraction(*map(int, _ratio(ball))) for ball in enclosure] == [Fraction(value) for value in values]
    assert np.array_equal(truth.midpoints(enclosure), np.array(values))
    assert not truth.radii(enclosure).any()


def _ratio(ball):
    mantissa, exponent = ball.mid().man_exp()
    mantissa, exponent = int(mantissa), int(exponent)
    return (mantissa * 2**exponent, 1) if exponent >= 0 else (mantissa, 2**-exponent)


@given(st.fractions(min_value=-4, max_value=4, max_denominator=64), st.floats(-4, 4))
def test_upper_distance_bounds_the_distance_from_above(middle, value):
    ball = flint.arb(middle.numerator) / middle.denominator
    bound = truth.upper_distance(np.array([ball], dtype=object), np.array([value]))[0]
    assert Fraction(bound) >= abs(Fraction(value) - middle)
    assert Fraction(bound) <= abs(Fraction(value) - middle) + Fraction(1, 2**48) * (
        1 + abs(middle) + abs(Fraction(value))
    )


def test_bounds_do_not_vanish_where_they_underflow():
    tiny = np.array([flint.arb(0, flint.arb("1e-400").abs_upper())], dtype=object)
    assert truth.radii(tiny)[0] > 0
    assert truth.upper_distance(np.array([flint.arb("1e-330")], dtype=object), np.zeros(1))[0] > 0


def test_distance_to_nan_is_infinite():
    assert truth.upper_distance(truth.balls(np.zeros(2)), np.array([np.nan, np.inf])).tolist() == [math.inf, math.inf]


def test_precision_is_restored_even_after_an_error():
    before = flint.ctx.prec
    with pytest.raises(ZeroDivisionError), truth.precision(777):
        assert flint.ctx.prec == 777
        raise ZeroDivisionError
    assert flint.ctx.prec == before


def test_enclose_raises_precision_until_the_target_and_contains_the_truth():
    seen = []

    def cancelling(x):
        seen.append(flint.ctx.prec)
        return (x + 1e30) - 1e30

    result = truth.enclose(cancelling, np.array([0.1]), target=1e-30)
    assert seen == [128, 256]
    assert result[0].contains(flint.arb(0.1))
    assert float(result[0].rad()) <= 1e-30


def test_one_number_is_enclosed_like_many():
    result = truth.enclose(softmax.logsumexp, np.array([0.0, 0.0]), target=1e-30)
    assert result.shape == ()
    assert truth.radii(result).dtype == truth.midpoints(result).dtype == np.float64
    assert truth.upper_distance(result, math.log(2)) < 1e-16
    assert tolerance.judge(np.array(math.log(2)), result, 0.0, "float64").word == "exact"


def test_enclose_says_undecided_instead_of_guessing():
    def straddling(x):
        return x - x + flint.arb(0, 1)

    with pytest.raises(truth.UndecidedError, match=r"undecided(.|\n)*radius <= 1e-20(.|\n)*at 256 bits"):
        truth.enclose(straddling, np.ones(1), highest=256)


# ------------------------------------------------------------------------------------------------------------- verdicts

EXACT = truth.balls(np.array([1.0, 2.0, 1 / 3]))
RIGHT = np.array([1.0, 2.0, 1 / 3])


def test_the_right_answer_is_exact_and_a_close_one_within_proof():
    assert tolerance.judge(RIGHT, EXACT, 0.0, "float64").word == "exact"
    close = np.nextafter(RIGHT, 3)
    assert tolerance.judge(close, EXACT, 1e-15, "float64").word == "within proof"
    assert tolerance.judge(close, EXACT, 1e-15, "float64", word="within sample").passed


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (np.array([1.0, 2.0, np.nan]), "non-finite"),
        (np.array([np.inf, 2.0, 1 / 3]), "non-finite"),
        (np.array([1.0, 2.001, 1 / 3]), "outside"),
        (np.zeros(3), "outside"),
        (RIGHT.astype(np.float32), "wrong shape or dtype"),
        (RIGHT[:2], "wrong shape or dtype"),
        (RIGHT[:, None], "wrong shape or dtype"),
    ],
)
def test_wrong_answers_do_not_pass(answer, word):
    verdict = tolerance.judge(answer, EXACT, 1e-9, "float64")
    assert verdict.word == word
    assert not verdict.passed
    assert verdict.multiple > 1


WHOLE = {
    "balls": lambda values: truth.balls(np.array(values, float)),
    "pairs": lambda values: truth.double_double(lambda x: x, np.array(values, float)),
    "a definition": lambda values: truth.double_double(lambda: np.array(values, np.int64)),
    "its enclosure": lambda values: truth.enclose(lambda: np.array(values, np.int64)),
}


@pytest.mark.parametrize("known", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize(
    ("answer", "word", "where"),
    [
        (np.array([3, 0, -2]), "exact", (0,)),
        (np.array([3, 0, -1]), "outside", (2,)),
        (np.array([4, 0, 2**62]), "outside", (2,)),
        (np.array([3, 0, -2], np.int32), "wrong shape or dtype", ()),
        (np.array([3.0, 0, -2]), "wrong shape or dtype", ()),
        (np.array([3, 0]), "wrong shape or dtype", ()),
    ],
)
def test_whole_numbers_have_no_tolerance(known, answer, word, where):
    verdict = tolerance.judge(answer, known([3, 0, -2]), 1e9, "int64")
    assert (verdict.word, verdict.where, verdict.passed) == (word, where, word == "exact")
    assert verdict.multiple == (0 if word == "exact" else np.inf)


def test_truth_values_have_no_tolerance():
    known = truth.enclose(lambda: np.array([True, False]))
    assert tolerance.judge(np.array([True, False]), known, 9.0, "bool").word == "exact"
    wrong = tolerance.judge(np.array([True, True]), known, 9.0, "bool")
    assert (wrong.word, wrong.where, wrong.got, wrong.expected) == ("outside", (1,), True, False)
    assert tolerance.judge(np.array([1, 0]), known, 9.0, "bool").word == "wrong shape or dtype"
    assert tolerance.judge(np.zeros(0, bool), truth.DoubleDouble(np.zeros(0), np.zeros(0)), 0.0, "bool").word == "exact"


def test_large_whole_numbers_survive_the_two_parts_of_a_pair():
    values = np.array([2**62 + 1, -(2**62) + 3, 2**53 + 1])
    known = truth.double_double(lambda: values)
    assert truth.whole_numbers(known).tolist() == values.tolist()
    assert tolerance.judge(values, known, 0.0, "int64").word == "exact"
    assert tolerance.judge(values + np.array([0, 0, 1]), known, 0.0, "int64").word == "outside"


def test_what_is_no_whole_number_cannot_be_asked_for_as_one():
    for known in (EXACT, truth.double_double(lambda x: x / 3, np.ones(3)), truth.balls(np.ones(3), 0.1)):
        with pytest.raises(errors.UndecidedError, match="whole numbers"):
            tolerance.judge(np.ones(3, np.int64), known, 0.0, "int64")


@pytest.mark.parametrize("budget", [np.nan, -1.0, np.inf])
def test_a_tolerance_must_be_a_number_that_is_not_negative(budget):
    with pytest.raises(errors.ConfigError, match="tolerance must be a number"):
        tolerance.judge(RIGHT, EXACT, budget, "float64")


def test_where_the_truth_overflows_infinity_is_the_only_right_answer():
    huge = truth.balls(np.array([70000.0, -70000.0, 1.0]))
    right = np.array([np.inf, -np.inf, 1], np.float16)
    assert tolerance.judge(right, huge, 1.0, "float16").word == "exact"
    assert tolerance.judge(np.array([np.inf, np.inf, 1], np.float16), huge, 1.0, "float16").word != "exact"
    assert not tolerance.judge(np.array([np.inf, 65504, 1], np.float16), huge, 1.0, "float16").passed
    assert not tolerance.judge(np.array([np.nan, -np.inf, 1], np.float16), huge, 1.0, "float16").passed


@pytest.mark.parametrize("dtype", list(tolerance.DTYPES))
def test_roundoff_and_smallest_normal_are_those_of_the_dtype(dtype):
    info = ml_dtypes.finfo(tolerance.DTYPES[dtype])
    assert tolerance.roundoff(dtype) == float(info.eps) / 2
    assert tolerance.smallest_normal(dtype) == float(info.smallest_normal)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_budget_covers_two_units_in_the_last_place_of_every_operation(dtype):
    """exp(x) with the argument wrong by u and the function wrong by 2 ulp: error <= (|x| u + 2·2^(1-p)) exp(x)."""
    x = np.array([-3.0, 0.3, 5.0])
    xp_exp = lambda a: np.exp(a)  # noqa: E731 - the definition under test is this one line
    budget, u = tolerance.proved_budget(xp_exp, x, dtype=dtype), tolerance.roundoff(dtype)
    assert np.all(budget >= (np.abs(x) * u + u) * np.exp(x))
    assert np.all(budget <= (np.abs(x) * u + 16 * u) * np.exp(x))


# ----------------------------------------------------------------------------------------------------------- dependence

BITS = (np.uint64(1) << np.arange(6, dtype=np.uint64)).reshape(2, 3)


def _traced(seed=0):
    return dependence.traced(np.random.default_rng(seed).normal(size=(2, 3)), BITS)


def test_reductions_join_and_selection_chooses():
    x = _traced()
    xp = x.__array_namespace__()
    assert xp.sum(x, axis=-1, keepdims=True).tags.tolist() == [[7], [56]]
    chosen = xp.where(np.array([[True, False, True]]), x, dependence.traced(np.zeros((2, 3))))
    assert chosen.tags.tolist() == [[1, 0, 4], [8, 0, 32]]


def test_products_with_structural_zeros_carry_nothing_but_others_do():
    x = _traced()
    xp = x.__array_namespace__()
    zero_one = dependence.traced(np.array([[0.0], [1.0], [0.0]]))
    assert xp.matmul(x, zero_one).tags.tolist() == [[2], [16]]
    tagged_zero = dependence.traced(np.array([[0.0], [1.0], [0.0]]), np.uint64(64))
    assert xp.matmul(x, tagged_zero).tags.tolist() == [[7 | 64], [56 | 64]]
    assert (x * dependence.traced(np.zeros((2, 3)))).tags.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_attention_depends_on_exactly_the_keys_its_mask_allows():
    tags = (np.uint64(1) << np.arange(4, dtype=np.uint64))[:, None]
    x = dependence.traced(np.random.default_rng(1).normal(size=(4, 3)), tags)
    output, _ = scaled_dot_product_attention(x, x, x, mask=causal_mask(4, 4, xp=x.__array_namespace__()))
    assert [int(row[0]) for row in output.tags] == [0b1, 0b11, 0b111, 0b1111]


def test_tags_are_sound_for_masked_softmax():
    """Changing an input whose tag an output lacks never changes that output."""
    rng = np.random.default_rng(2)
    x, mask = rng.normal(size=6), rng.random(6) < 0.6
    tags = np.uint64(1) << np.arange(6, dtype=np.uint64)
    traced = softmax.masked_softmax(dependence.traced(x, tags), dependence.traced(mask)).tags
    for i in range(6):
        y = x.copy()
        y[i] += 100
        moved = softmax.masked_softmax(y, mask) != softmax.masked_softmax(x, mask)
        assert not np.any(moved & (traced >> np.uint64(i) & np.uint64(1) == 0))


def test_a_tagged_choice_carries_the_tags_of_both_branches_and_of_all_rows():
    x = _traced()
    xp = x.__array_namespace__()
    choice = dependence.traced(np.array([[True, False, True]] * 2), np.uint64(64))
    chosen = xp.where(choice, x, dependence.traced(np.zeros((2, 3)), np.uint64(128)))
    assert chosen.tags.tolist() == [[1 | 192, 2 | 192, 4 | 192], [8 | 192, 16 | 192, 32 | 192]]
    gathered = xp.take(x, dependence.traced(np.array([0]), np.uint64(64)), axis=0)
    assert gathered.tags.tolist() == [[1 | 8 | 64, 2 | 16 | 64, 4 | 32 | 64]]


def test_python_branches_on_tagged_values_are_recorded():
    dependence.tagged_branches.clear()
    x = _traced().__array_namespace__().any(_traced())
    assert bool(x) is True
    assert bool(dependence.traced(np.array(True))) is True
    assert dependence.tagged_branches == [(True, 63)]
    assert int(dependence.traced(np.array(0), np.uint64(4))) == 0
    assert bool(dependence.traced(np.array(False), np.uint64(8))) is False
    assert dependence.tagged_branches == [(True, 63), (True, 4), (False, 8)]


def test_no_conversion_loses_tags():
    x = _traced()
    xp = x.__array_namespace__()
    assert np.array_equal(xp.asarray(x).tags, BITS)
    with pytest.raises(TypeError, match="their tags would be lost"):
        xp.asarray([x[0, 0], x[0, 1]])
    assert np.array_equal((np.ones((2, 3)) * x).tags, BITS)
    assert np.array_equal((np.float64(2) + x).tags, BITS)


def test_a_function_without_a_rule_is_refused():
    with pytest.raises(AttributeError, match="no rule for cumulative_prod"):
        _traced().__array_namespace__().cumulative_prod(_traced())


# ------------------------------------------------------------------------------------------------------------ perturbed


def test_perturbations_have_the_stated_size_and_never_leave_it():
    noise = perturbed.Noise(1e-3, np.random.default_rng(0))
    ones = (noise.wrap(np.ones(20000)) * 3).array / 3  # 3 itself is exact, the product is not
    assert np.max(np.abs(ones - 1)) <= 1e-3
    # the deviation of U(-1, 1) is 1/√3; over 20000 draws its estimate is within 3 % with certainty 1 - 1e-8
    assert abs(np.std(ones) / (1e-3 / math.sqrt(3)) - 1) < 0.03


def test_scaling_by_a_power_of_two_is_exact():
    x = perturbed.Noise(1e-3, np.random.default_rng(0)).wrap(np.array([0.1, 3.0]))
    for scaled, factor in ((x / 2, 0.5), (x * 4, 4), (0.25 * x, 0.25)):
        assert scaled.array.tolist() == [0.1 * factor, 3.0 * factor]
    assert (2 / x).array.tolist() != [20.0, 2 / 3]


def test_a_constant_errs_the_same_way_everywhere():
    noise = perturbed.Noise(1e-3, np.random.default_rng(0))
    tenths = [np.mean((noise.wrap(np.ones(4000)) * 0.1).array) for _ in range(200)]
    # the constant's own error, uniform in ±1e-3, survives averaging over 4000 elements: its deviation is 1e-4/√3, known to 10 % from 200
    assert abs(np.std(tenths) / (1e-4 / math.sqrt(3)) - 1) < 0.2


def test_an_array_of_constants_is_rounded_once_and_whole_numbers_are_not():
    noise = perturbed.Noise(1e-3, np.random.default_rng(0))
    made = noise.asarray([[0.1, 0.3]] * 4000).array
    # U(-1e-3, 1e-3) has the deviation 1e-3/√3; over 8000 draws its estimate is within 5 % with certainty 1 - 1e-8
    assert abs(np.std(made / np.array([0.1, 0.3])) / (1e-3 / math.sqrt(3)) - 1) < 0.05
    assert noise.asarray([[1, 2]]).array.tolist() == [[1, 2]]
    assert noise.asarray(np.array([0.1])).array.tolist() == [0.1]  # an array that is there already


@pytest.mark.parametrize("operation", ["sum", "matmul"])
def test_sums_walk_like_the_square_root_of_their_length(operation):
    noise = perturbed.Noise(1e-6, np.random.default_rng(0))
    x = noise.wrap(np.ones((4000, 64)))
    walked = noise.sum(x, axis=-1) if operation == "sum" else noise.matmul(x, np.ones((64, 1)))
    expected = 1e-6 * math.sqrt(64 / 2) * math.sqrt(64)
    assert abs(np.std(walked.array) / expected - 1) < 0.06  # five deviations of the estimate from 4000 draws


def test_sampled_deviation_covers_the_float32_error_of_a_softmax_chain():
    x = np.random.default_rng(3).normal(size=(16, 50))

    def chain(a, wrap=lambda b: b):
        return softmax.log_softmax(softmax.softmax(a) * 3.0)

    budget = perturbed.sigmas(800) * perturbed.sampled_deviation(
        lambda wrap: chain(wrap(x.astype(np.float32).astype(np.float64))), roundoff=2.0**-24
    )
    enclosure = truth.enclose(chain, x.astype(np.float32).astype(np.float64))
    verdict = tolerance.judge(chain(x.astype(np.float32)), enclosure, budget, "float32", word="within sample")
    assert verdict.passed, verdict
    assert np.median(budget) < 1e-5  # and it is a tolerance, not a licence: u = 6e-8, values near 4
