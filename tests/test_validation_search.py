"""The search beyond the golden vectors: right implementations survive it, wrong ones are found, shrunk, and told so that they can be repeated."""

from __future__ import annotations

import random
from typing import Any

import hypothesis
import numpy as np
import pytest

from refimpl import errors, softmax
from validation import (
    components,
    conformance,
    extraction,
    mutants,
    scalar,
    search,
    shrinking,
    strategies,
    tolerance,
    truth,
    vectors,
)

NAMES = [name for name, subject in components.COMPONENTS.items() if subject.sampled is None]


def _bug(component: str, name: str) -> Any:
    return next(mutant.function for mutant in mutants.mutants(component) if mutant.name == name)


def _drawn(component: str, dtype: str, count: int = 60, dialect: str | None = None) -> list[components.Case]:
    cases: list[components.Case] = []
    with pytest.raises(hypothesis.errors.NoSuchExample):
        hypothesis.find(
            strategies.calls(component, dtype, dialect),
            lambda case: bool(cases.append(case)),
            settings=hypothesis.settings(max_examples=count, database=None, deadline=None),
            random=random.Random(0),
        )
    return cases


# --- what is drawn --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32"])
@pytest.mark.parametrize("name", NAMES)
def test_right_implementations_survive(name: str, dtype: str) -> None:
    for function in (mutants.TWINS[name], components.component(name).definition):
        outcome = search.examine(function, name, dtype=dtype, examples=8, seed=1)
        assert outcome.counterexample is None, str(outcome.counterexample)
        assert outcome.answered + sum(outcome.discarded.values()) == 8


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, d) for name in NAMES for d in ("bfloat16", "float64") if d == "float64" or not name.endswith(".vjp")],
)
def test_drawn_arrays_are_small_finite_and_of_the_dtype(name: str, dtype: str) -> None:
    names = set(components.component(name).trials(dtype, 0, None)[0].params)
    for case in _drawn(name, dtype, 15):
        assert set(case.params) == names
        for array in case.arrays:
            assert array.size <= 3 * 6 * 4
            if array.dtype.kind not in "biu":
                assert array.dtype == tolerance.DTYPES[dtype]
                assert np.all(np.isfinite(array.astype(np.float64)))


def test_hard_values_are_drawn() -> None:
    """Signed zeros, subnormals, ties, length 1, magnitudes at which exp overflows, differences near the last bit."""
    rows = [np.asarray(case.arrays[0], np.float64) for case in _drawn("softmax", "float32", 300)]
    assert any(np.any((x == 0) & np.signbit(x)) for x in rows)
    assert any(np.any((x != 0) & (np.abs(x) < 2.0**-126)) for x in rows)
    assert any(x.shape[-1] == 1 for x in rows)
    assert any(x.shape[-1] > 1 and len(np.unique(x)) == 1 for x in rows)
    assert any(np.max(x) > 100 for x in rows)
    assert any(0 < np.ptp(x) < 1e-5 * np.max(np.abs(x)) for x in rows)
    masks = [case.params["mask"] for case in _drawn("attention", "float32", 100)]
    assert any(mask is None for mask in masks)
    assert any(mask is not None and not np.all(mask.any(-1)) for mask in masks)


def test_a_dialect_is_kept() -> None:
    assert {case.params["approximate"] for case in _drawn("gelu", "float32", 20, "none")} == {"none"}
    assert {case.params["dialect"] for case in _drawn("favor_attention", "float32", 8, "google-jax")} == {"google-jax"}
    wrong = mutants.mutants("gelu")[0].function  # tanh for erf
    assert search.search(wrong, "gelu", dialect="tanh", dtype="float64", examples=30) is None
    assert search.search(wrong, "gelu", dialect="none", dtype="float64", examples=30) is not None


def test_a_component_without_a_strategy_is_searched_by_its_own_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(strategies._CALLS, "layer_norm")
    assert search.examine(mutants.TWINS["layer_norm"], "layer_norm", examples=10).counterexample is None
    assert search.search(_bug("layer_norm", "no bias"), "layer_norm", examples=10) is not None


# --- what is found --------------------------------------------------------------------------------------------------------------


def test_a_counterexample_is_small_and_says_everything() -> None:
    found = search.search(_bug("exp_taylor", "no constant term"), "exp_taylor", dtype="float64")
    assert found is not None
    assert found.vector.arguments["x"].shape == (1,)
    assert found.row.verdict.multiple > 1
    text = str(found)
    assert "# exp_taylor, float64: outside, " in text
    assert "x = np.array([0.0], dtype=np.float64)" in text
    assert "order = 2" in text
    assert "expected = np.array([1.0], dtype=np.float64)  # within" in text
    assert found.radius <= 1e-16
    assert found.again


@pytest.mark.parametrize(
    ("component", "name", "dtype"),
    [
        ("softmax", "un-shifted", "float32"),
        ("exp_taylor", "alternating signs", "bfloat16"),
        ("sparse_softmax_cross_entropy", "over all entries", "float16"),
        ("hierarchical_positions", "i and j exchanged", "float64"),
        ("softmax", "answers float64", "float32"),
    ],
)
def test_the_snippet_repeats_the_failure_and_lets_right_ones_pass(component: str, name: str, dtype: str) -> None:
    found = search.search(_bug(component, name), component, dtype=dtype)
    assert found is not None
    exec(str(found), {"f": mutants.TWINS[component]})
    exec(str(found), {"f": components.component(component).definition})
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        exec(str(found), {"f": _bug(component, name)})


def test_arrays_are_written_exactly() -> None:
    for dtype in tolerance.DTYPES:
        kind = tolerance.DTYPES[dtype]
        values = np.array([[0.1, -0.0, np.inf], [-np.inf, np.nan, 1e-7]]).astype(kind)
        again = eval(search._written(values, dtype), {"np": np, "ml_dtypes": __import__("ml_dtypes")})
        assert again.dtype == kind
        assert again.tobytes() == values.tobytes()
    assert eval(search._written(np.zeros((0, 3), bool), "float32"), {"np": np}).shape == (0, 3)
    assert search._written(np.array([1, 2]), "float32") == "np.array([1, 2], dtype=np.int64)"


def test_a_search_repeats_itself() -> None:
    first, second = (
        search.examine(_bug("log_softmax", "negated"), "log_softmax", examples=20, seed=4) for _ in range(2)
    )
    assert str(first.counterexample) == str(second.counterexample)
    assert first.answered == second.answered
    other = [case.arrays[0].tobytes() for case in _drawn("log_softmax", "float32", 20)]
    assert other == [case.arrays[0].tobytes() for case in _drawn("log_softmax", "float32", 20)]


def test_a_profile_of_the_suite_around_does_not_stop_a_search() -> None:
    """With the phase "explicit" alone Hypothesis draws nothing and raises SkipTest, which pytest takes for a skipped test."""
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.register_profile("only explicit", phases=[hypothesis.Phase.explicit])
    hypothesis.settings.load_profile("only explicit")
    try:
        outcome = search.examine(softmax.softmax, "softmax", examples=5)
    finally:
        hypothesis.settings.load_profile(before)
    assert outcome.answered == 5


def test_what_a_function_raises_is_found() -> None:
    found = search.search(lambda x: x[..., 3], "logsumexp", examples=50)
    assert found is not None
    assert "raised" in str(found)
    assert "IndexError" in str(found)


def test_a_function_that_does_not_repeat_itself_is_told() -> None:
    calls = iter(range(10**6))

    def sometimes(x: Any) -> Any:
        return softmax.softmax(x) if next(calls) != 5 else x + 7

    found = search.search(sometimes, "softmax", examples=20)
    assert found is not None
    assert not found.again
    assert "it is not deterministic" in str(found)


def test_shrinking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SHRINKING", 5)
    monkeypatch.setattr(search, "MINIMISING", 3)
    asked = []

    def wrong(x: Any) -> Any:
        asked.append(x)
        return x + 7

    found = search.search(wrong, "softmax", examples=20)
    assert found is not None
    assert found.minimal
    assert len(asked) <= 1 + 5 + 3 + 2  # the first, Hypothesis, the moves, and once more before and after them
    asked.clear()
    found = search.search(_bug("softmax", "the row's sum subtracted"), "softmax")
    assert found is not None
    assert not found.minimal
    assert "there may be a smaller one: shrinking was stopped" in str(found)


# --- what is found is minimal ---------------------------------------------------------------------------------------------------


def _fails(function: Any, component: str, dtype: str, case: components.Case) -> bool:
    vector = search._answered(search._Key(component, dtype, case))
    assert isinstance(vector, vectors.Vector)
    return not conformance.judged(function, component, vector, dtype, lambda array: array).verdict.passed


def _call(found: search.Counterexample) -> components.Case:
    return components.Case("", "", found.vector.positional(found.dtype), found.vector.params(found.dtype))


def test_no_row_column_or_number_of_a_counterexample_can_go() -> None:
    """Counted out by hand, not by `shrinking.moves`."""
    bug = _bug("softmax", "the row's sum subtracted")
    found = search.search(bug, "softmax")
    assert found is not None
    assert found.minimal
    (x,) = _call(found).arrays
    smaller = [np.delete(x, i, axis) for axis in (0, 1) if x.shape[axis] > 1 for i in range(x.shape[axis])]
    for i in np.flatnonzero(x):
        for value in {0.0, 1.0} - {float(x.flat[i])}:
            smaller.append(x.copy())
            smaller[-1].flat[i] = value
    assert len(smaller) >= 3
    assert not any(_fails(bug, "softmax", "float32", components.Case("", "", (each,))) for each in smaller)


@pytest.mark.parametrize(
    ("component", "name", "sizes"),
    [
        ("attention", "one key too many", {"q": 1, "k": 2, "v": 2, "mask": 2}),
        ("copy_loss", "the mask not shifted", {"tag_logits": 9, "labels": 2, "segment_ids": 3}),
    ],
)
def test_no_move_leaves_a_failing_call(component: str, name: str, sizes: dict[str, int]) -> None:
    found = search.search(_bug(component, name), component)
    assert found is not None
    assert found.minimal
    assert {key: value.size for key, value in found.vector.arguments.items() if hasattr(value, "size")} == sizes
    near = list(shrinking.moves(component, _call(found)))
    assert near
    assert not any(_fails(_bug(component, name), component, "float32", case) for case in near)


@pytest.mark.parametrize("name", NAMES)
def test_every_move_makes_a_call_of_the_component(name: str) -> None:
    """One that a right implementation answers, and with the shape that the definition's answer has."""
    for case in _drawn(name, "float64", 4):
        for near in list(shrinking.moves(name, case))[::5]:
            with np.errstate(all="ignore"):
                said = mutants.TWINS[name](*near.arrays, **near.params)
                assert said.shape == components.component(name).definition(*near.arrays, **near.params).shape


def test_a_size_is_dropped_wherever_it_stands() -> None:
    q, k = np.arange(6.0).reshape(1, 1, 2, 3), np.arange(9.0).reshape(1, 1, 3, 3)
    padding = np.array([True, False, True]).reshape(1, 1, 1, 3)
    near = list(shrinking.moves("attention", components.Case("", "", (q, k, k), {"mask": padding})))
    drops = [
        case for case in near if case.params["mask"] is not None and case.arrays[0].size + case.arrays[1].size < 15
    ]
    assert len(drops) == 2 + 3 + 3  # queries, columns, keys
    fewer = [case for case in drops if case.arrays[1].shape[-2] == 2]
    assert [case.params["mask"].ravel().tolist() for case in fewer] == [[False, True], [True, True], [True, False]]
    assert np.array_equal(fewer[1].arrays[1], k[:, :, [0, 2]])
    assert np.array_equal(fewer[1].arrays[2], k[:, :, [0, 2]])
    assert all(case.arrays[0] is not None and np.array_equal(case.arrays[0], q) for case in fewer)
    assert any(case.params["mask"] is None for case in near)
    one = [case.params["mask"] for case in near if case.params["mask"] is not None and case.params["mask"].all()]
    assert len(one) == 1 + 1  # the hidden key dropped, and shown
    more = components.Case("", "", (q, k[:, :, :2], k[:, :, :2]), {"mask": None})
    assert all(
        case.arrays[1].shape[-2] == 2 for case in shrinking.moves("attention", more) if case.arrays[0].shape[2] == 2
    )


def test_pairs_and_sizes_less_one_are_dropped_as_such() -> None:
    rng = np.random.default_rng(0)
    q, relative = rng.normal(size=(1, 1, 1, 4)), rng.normal(size=(1, 1, 4))
    near = shrinking.moves("relative_attention", components.Case("", "", (q, q, q, relative), {"mask": None}))
    assert {case.arrays[3].shape[-1] for case in near} == {2, 4}
    logits, labels, segments = rng.normal(size=(1, 4, 3)), np.array([[0, 1, 2]]), np.array([[0, 0, 1, 1]])
    near = shrinking.moves("copy_loss", components.Case("", "", (logits, labels, segments)))
    dropped = [case for case in near if case.arrays[0].shape[1] == 3]
    assert [case.arrays[1].tolist() for case in dropped] == [[[1, 2]], [[0, 2]], [[0, 1]], [[0, 1]]]
    assert [case.arrays[2].tolist() for case in dropped] == [[[0, 1, 1]], [[0, 1, 1]], [[0, 0, 1]], [[0, 0, 1]]]


def test_moves_keep_what_calls_of_a_component_keep() -> None:
    """A token in every row that is pooled; a target without holes; no division by zero; keys for every query."""

    def made(component: str, *arrays: Any, **params: Any) -> list[components.Case]:
        return list(shrinking.moves(component, components.Case("", "", arrays, params)))

    pooled = made("mean_pooling", np.ones((1, 2, 1)), np.array([[True, False]]))
    assert [case.arrays[1].tolist() for case in pooled if case.arrays[1].size == 1] == [[[True]]]
    losses = made("copy_loss", np.ones((1, 4, 3)), np.zeros((1, 3), int), np.array([[0, 1, 1, 1]]))
    assert {tuple(case.arrays[2][0]) for case in losses} == {(0, 1, 1), (0, 0, 1, 1), (0, 1, 1, 0), (0, 1, 1, 1)}
    assert all(
        np.all(case.arrays[1] != 0) for case in made("mitchell_divide_integer", np.ones(2), np.ones(2), kind="int8")
    )
    assert all(np.all(case.arrays[0] > 0) for case in made("mitchell_log2", np.array([[-0.0], [3.0]]) + 1))
    own = extraction.epsilon_of("rouge-1.0.1")
    assert all(
        case.arrays[2] == own for case in made("rouge", np.array([7]), np.array([7]), own, dialect="rouge-1.0.1")
    )
    rows = made("extend_embedding", np.ones((3, 1)), np.array([2, 0]), np.array([[1, 0, -1]]))
    assert {case.arrays[2].shape[1] for case in rows} == {2, 3}
    assert all(np.all(case.arrays[2] < case.arrays[1].size) and case.arrays[2][0, 0] >= 0 for case in rows)
    given = np.array([[98, -1, -1]]), np.array([[97, 98, 99]])
    texts = [case.arrays[0].tolist() for case in made("match_sentences", *given, dialect="rouge-score")]
    assert [[98, 0, -1]] in texts
    assert [[98, -1, 0]] not in texts


def test_sentences_that_only_rounding_tells_apart_are_no_call() -> None:
    """0.2 · 1/2 + 0.4 · 1/4 = 0.2 · 1/3 + 0.4 · 1/3, but in float64 the second is larger: the definition chooses it, exact numbers the first."""
    texts, summary = extraction.padded(["cca", "a"]), extraction.padded(["bbadc"])
    assert not extraction.are_decided(texts, summary, "rouge-score")
    assert extraction.match_sentences(texts, summary, "rouge-score").tolist() == [[0, 1]]
    assert scalar.SCALAR["match_sentences"](texts, summary, "rouge-score") == [[0, 0]]
    drawn = _drawn("match_sentences", "float32", 300, "rouge-score")
    assert all(extraction.are_decided(*case.arrays, **case.params) for case in drawn)
    alike = extraction.padded(["ab", "ab", "cd"]), extraction.padded(["ab"])
    assert extraction.are_decided(*alike, "rouge-1.0.1")


@pytest.mark.parametrize(
    ("value", "simpler"),
    [
        (0.0, []),
        (-0.0, [0.0]),
        (1.0, [0.0]),
        (-1.0, [0.0, 1.0]),
        (1.75, [0.0, 1.0]),
        (-0.8125, [0.0, 1.0, 0.8125, -0.75]),
        (2.0**-149, [0.0, 1.0]),
        (89.0, [0.0, 1.0, 80.0]),
    ],
)
def test_simpler_numbers(value: float, simpler: list[float]) -> None:
    found = [float(each) for each in shrinking._simpler(np.float32(value))]
    assert found == simpler
    assert all(np.float32(each) == each for each in found)


def test_calls_of_shrinking_are_counted_apart() -> None:
    asked = []

    def wrong(x: Any) -> Any:
        asked.append(x)
        return softmax.softmax(x) if len(asked) < 7 else x + 7

    outcome = search.examine(wrong, "softmax")
    assert outcome.answered == 7
    assert outcome.shrinking == len(asked) - 7 - 2
    assert str(outcome) == f"7 calls answered; then {outcome.shrinking} to shrink the failing one"
    assert str(search.examine(softmax.softmax, "softmax", examples=9)) == "9 calls answered"


def test_without_known_shapes_nothing_is_said_to_be_minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(shrinking.SHAPES) == set(NAMES)
    monkeypatch.delitem(shrinking.SHAPES, "softmax")
    found = search.search(_bug("softmax", "answers float64"), "softmax")
    assert found is not None
    assert not found.minimal


# --- what cannot be answered is counted -----------------------------------------------------------------------------------------


def test_discarded_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = vectors.fresh, []

    def undecided_at_times(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) % 3 == 1:
            raise errors.UndecidedError("undecided")
        if len(asked) % 3 == 2:
            raise OverflowError("beyond")
        return real(*arguments)

    search._answered.cache_clear()
    monkeypatch.setattr(vectors, "fresh", undecided_at_times)
    outcome = search.examine(softmax.softmax, "softmax", examples=30)
    search._answered.cache_clear()
    assert outcome.discarded["undecided"] >= 9
    assert outcome.discarded["beyond float64"] >= 9
    assert outcome.answered + sum(outcome.discarded.values()) == 30
    assert " calls answered, " in str(outcome)
    assert " undecided, " in str(outcome)


def test_a_search_that_answers_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> Any:
        raise errors.UndecidedError("undecided")

    search._answered.cache_clear()
    monkeypatch.setattr(vectors, "fresh", never)
    with pytest.raises(
        errors.ConfigError, match=r"answered nothing has shown nothing(.|\n)*softmax in float32(.|\n)*5 undecided"
    ):
        search.search(softmax.softmax, "softmax", examples=5)
    search._answered.cache_clear()


def test_a_tolerance_that_is_not_finite_is_no_answer() -> None:
    huge = components.Case("", "", (np.array([[1e308, -1e308]]),))
    with np.errstate(over="ignore"):
        found = search._answered(search._Key("softmax", "float64", huge))
    assert isinstance(found, vectors.Vector) or found == "without a finite tolerance"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "sofmax"}, r"unknown component(.|\n)*softmax, log_softmax(.|\n)*'sofmax'"),
        ({"component": "softmax", "dtype": "float8"}, r"unknown dtype(.|\n)*'float8'"),
        ({"component": "gelu", "dialect": "erf"}, r"gelu has no such dialect(.|\n)*tanh, none(.|\n)*'erf'"),
        ({"component": "gpt2"}, r"gpt2 cannot be searched(.|\n)*sampled, which takes seconds(.|\n)*golden vectors"),
        ({"component": "softmax", "examples": 0}, r"a search needs examples(.|\n)*got: +0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        search.search(softmax.softmax, **arguments)


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "hypothesis", None)
    with pytest.raises(errors.ConfigError, match=r"a search needs Hypothesis(.|\n)*refimpl\[validation\]"):
        search.search(softmax.softmax, "softmax")


# --- what the search has found out about the checks themselves ------------------------------------------------------------------


def test_sums_of_short_midpoints_are_counted_in_answers_of_today() -> None:
    """relu(x w) + 1e-3 with x w = 2e-6: the sum of two short midpoints is exact in 82 bits, so its rounding was not allowed."""
    case = components.Case(
        "",
        "",
        (np.array([[[1.0]]], np.float32), np.array([[2e-6]], np.float32)),
        {"scaled": False, "epsilon": 1e-3, "normalized": True},
    )
    answer = mutants.TWINS["relu_features"](*case.arrays, **case.params)
    vector = vectors.fresh("relu_features", case, "float32")
    assert vector.judge(answer, "float32").passed
    shorter = components.component("relu_features").budget(
        *vector.positional("float64"), dtype="float32", **case.params
    )
    assert not tolerance.judge(answer, vector.expected, shorter, "float32").passed


def test_infinity_is_right_where_the_tolerance_reaches_it() -> None:
    largest = float(np.finfo(np.float16).max)
    known = truth.balls(np.array([65519.0, -65519.0, 65519.0, 60000.0]))
    for index, given, passed in ((0, np.inf, True), (1, -np.inf, True), (2, largest, True), (3, np.inf, False)):
        answer = np.array([given], np.float16)
        assert tolerance.judge(answer, known[index : index + 1], 0.0, "float16").passed is passed
    assert not tolerance.judge(np.array([-np.inf], np.float16), known[:1], 0.0, "float16").passed


def test_results_with_exponents_that_nobody_can_write_down_are_zero_or_refused() -> None:
    found = truth.double_double(softmax.softmax, np.array([[0.0, -1e30]]))
    assert found.high.tolist() == [[1.0, 0.0]]
    with pytest.raises(OverflowError, match="beyond float64"):
        truth.double_double(lambda x: np.frompyfunc(lambda ball: ball.exp(), 1, 1)(x), np.array([1e30]))
