"""Decoding: recorded greedy and beam searches, the filters, and sampling as the exact inverse of the distribution function."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from typing import Any

import ml_dtypes
import models
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import TINY
from systems import HOST, NUMPY, System

from refimpl import decoding, errors, gpt2
from refimpl.softmax import masked_softmax, softmax
from validation import tolerance, truth


@pytest.fixture(scope="module")
def tiny(recorded_folder: Any) -> gpt2.CachedDecoder:
    return gpt2.CachedDecoder(*models.folder(recorded_folder("gpt2_tiny"), NUMPY))


def _decoder(system: System, dtype: str | None = None) -> gpt2.CachedDecoder:
    return gpt2.CachedDecoder(models.weights(TINY, system, dtype or system.dtypes[-1]), TINY)


class Fake:
    """A Decoder whose logits are given: after n tokens of a row, table[n]. Counts how often it is asked."""

    def __init__(self, table: Any, context: int = 100) -> None:
        self.table, self.context, self.calls = [np.asarray(row, np.float64) for row in table], context, 0

    def _logits(self, rows: int, n: int) -> Any:
        self.calls += 1
        return np.stack([self.table[n % len(self.table)]] * rows)

    def start(self, token_ids: Any, mask: Any = None) -> tuple[Any, int]:
        return self._logits(len(token_ids), 0), 1

    def advance(self, token_ids: Any, cache: int) -> tuple[Any, int]:
        return self._logits(len(token_ids), cache), cache + 1

    def select(self, cache: int, rows: list[int]) -> int:
        return cache


class Chosen:
    """A stand-in for a Generator that returns chosen uniforms."""

    def __init__(self, *uniforms: float) -> None:
        self.uniforms = list(uniforms)

    def random(self, size: int) -> Any:
        drawn, self.uniforms = self.uniforms[:size], self.uniforms[size:]
        return np.array(drawn)


def _rows(steps: Any) -> list[list[int | None]]:
    return [list(row) for row in zip(*steps, strict=True)]


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


# --- greedy -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(5))
def test_greedy_agrees_with_transformers(case: int, tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    prompt = answers[f"greedy{case}_prompt"].tolist()
    (row,) = _rows(decoding.generate(tiny, [prompt], max_new_tokens=12, temperature=0))
    assert prompt + row == answers[f"greedy{case}_sequence"].tolist()


def test_greedy_stops_where_transformers_does(tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    prompt, end = answers["greedy_eos_prompt"].tolist(), int(answers["greedy_eos_id"])
    (row,) = _rows(decoding.generate(tiny, [prompt], max_new_tokens=12, temperature=0, stop=[end]))
    assert prompt + row == answers["greedy_eos_sequence"].tolist()
    assert row[-1] == end
    assert end not in row[:-1]


def test_greedy_of_a_ragged_batch_agrees_with_transformers_and_with_single_rows(tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    pairs = zip(answers["greedy_batch_ids"], answers["greedy_batch_mask"], strict=True)
    prompts = [ids[mask == 1].tolist() for ids, mask in pairs]
    rows = _rows(decoding.generate(tiny, prompts, max_new_tokens=12, temperature=0))
    assert rows == answers["greedy_batch_sequences"][:, 20:].tolist()
    for prompt, row in zip(prompts, rows, strict=True):
        assert _rows(decoding.generate(tiny, [prompt], max_new_tokens=12, temperature=0)) == [row]


def test_rows_that_have_stopped_yield_none_until_all_have(tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    pairs = zip(answers["greedy_batch_ids"], answers["greedy_batch_mask"], strict=True)
    prompts = [ids[mask == 1].tolist() for ids, mask in pairs]
    end = int(answers["greedy_batch_eos_id"])
    rows = _rows(decoding.generate(tiny, prompts, max_new_tokens=12, temperature=0, stop=[end]))
    filled = [[end if token is None else token for token in row] for row in rows]
    assert filled == answers["greedy_batch_eos_sequences"][:, 20:].tolist()
    assert any(None in row for row in rows)
    for row in rows:
        if end in row:
            after = row[row.index(end) + 1 :]
            assert after == [None] * len(after)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    decoder = Fake([[1.0, 3.0, 3.0, 2.0]])
    assert _rows(decoding.generate(decoder, [[0]], max_new_tokens=2, temperature=0)) == [[1, 1]]


def test_greedy_is_the_same_on_every_system(floating_system: System) -> None:
    """The closest call of this model's greedy path is far wider than float32's error; so the ids must be the same."""
    expected = _rows(decoding.generate(_decoder(NUMPY, "float64"), [[1, 2], [3]], temperature=0, max_new_tokens=5))
    dtype = "float32"
    assert (
        _rows(decoding.generate(_decoder(floating_system, dtype), [[1, 2], [3]], temperature=0, max_new_tokens=5))
        == expected
    )


# --- streaming --------------------------------------------------------------------------------------------------------------


def test_tokens_are_yielded_before_the_next_is_computed() -> None:
    decoder = Fake([[0.0, 1.0]])
    steps = decoding.generate(decoder, [[0]], max_new_tokens=5, temperature=0)
    assert decoder.calls == 0
    for step in range(1, 6):
        assert next(steps) == [1]
        assert decoder.calls == step
    assert list(steps) == []
    assert decoder.calls == 5  # the last token is not read back for nothing


def test_generation_fills_the_context_and_not_more(tiny: Any) -> None:
    """n_positions is 32: a prompt of 30 leaves room for two, and one of 31 for one."""
    for length in (30, 31):
        (row,) = _rows(decoding.generate(tiny, [[1] * length], temperature=0))
        assert len(row) == 32 - length


def test_a_row_that_stops_at_once_ends_the_generation() -> None:
    decoder = Fake([[0.0, 1.0]])
    assert list(decoding.generate(decoder, [[0], [0, 0]], max_new_tokens=5, temperature=0, stop={1})) == [[1, 1]]
    assert decoder.calls == 1


# --- filters ----------------------------------------------------------------------------------------------------------------

OPTION = re.compile(r"warp_(temperature|top_k|top_p|chain)_([\d._]+)$")


def _warpers() -> list[tuple[str, dict[str, Any]]]:
    names = ["temperature_0.7", "top_k_1", "top_k_5", "top_k_61", "top_k_100", "top_p_0.1", "top_p_0.5", "top_p_0.9"]
    names += ["top_p_1", "chain_0.7_20_0.5", "chain_0.7_5_0.9"]
    cases = []
    for name in names:
        kind, *numbers = re.match(r"(temperature|top_k|top_p|chain)_(.*)", name).groups()
        values = numbers[0].split("_")
        keys = ("temperature", "top_k", "top_p") if kind == "chain" else (kind,)
        options = {k: int(v) if k == "top_k" else float(v) for k, v in zip(keys, values, strict=True)}
        cases.append((name, options))
    return cases


@pytest.mark.parametrize(("name", "options"), _warpers(), ids=[name for name, _ in _warpers()])
def test_filters_agree_with_transformers(name: str, options: Any, recorded: Any) -> None:
    """The same entries stay, and their probabilities agree within twice the proved budget of the softmax over them.

    Rows where the library split a tie by accident are compared after sorting (recorded/README.md).
    """
    answers = recorded("gpt2_tiny")
    logits, expected, defined = (answers[key] for key in ("warp_logits", f"warp_{name}", f"warp_{name}_defined"))
    found = decoding.sampling_probabilities(logits, **options)
    scale = options.get("temperature", 1.0)
    for row in range(len(logits)):
        mine, theirs = found[row : row + 1], expected[row : row + 1]
        if not defined[row]:
            mine, theirs = np.sort(mine), np.sort(theirs)
            assert np.array_equal(mine > 0, theirs > 0)
            assert np.allclose(
                mine, theirs, rtol=64 * tolerance.roundoff("float64"), atol=0
            )  # equal up to the sum of 61
            continue
        assert np.array_equal(mine > 0, theirs > 0)
        definition = lambda z, kept: masked_softmax(z / scale, kept)  # noqa: E731
        enclosure = truth.enclose(definition, logits[row : row + 1], theirs > 0)
        budget = tolerance.proved_budget(definition, logits[row : row + 1], theirs > 0, dtype="float64")
        for answer in (mine, theirs):
            verdict = tolerance.judge(answer, enclosure, budget, "float64")
            assert verdict.passed, (row, verdict)


small_logits = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.integers(-6, 6).map(lambda n: n / 2)
)


@given(small_logits, st.integers(1, 12))
def test_top_k_keeps_what_is_not_below_the_kth_largest(logits: Any, k: int) -> None:
    mask = decoding.top_k_mask(logits, k)
    for row, kept in zip(logits.tolist(), mask.tolist(), strict=True):
        better = [sum(other > value for other in row) for value in row]
        assert kept == [count < k for count in better]  # fewer than k entries are larger


def _quarters(rows: int = 2) -> Any:
    """Distributions whose masses are multiples of 1/64: every cumulative sum is exact in every dtype."""
    cuts = st.lists(st.integers(0, 64), min_size=1, max_size=8).map(sorted)

    def row(points: list[int]) -> list[float]:
        edges = [0, *points, 64]
        return [(b - a) / 64 for a, b in itertools.pairwise(edges)]

    return cuts.map(row)


@given(_quarters(), st.integers(1, 64).map(lambda n: n / 64))
@example([0.5, 0.25, 0.25], 0.5)
@example([0.25, 0.25, 0.5], 0.75)
@example([0.0, 1.0], 1.0)
def test_top_p_keeps_the_shortest_prefix_that_reaches_p(masses: list[float], p: float) -> None:
    mask = decoding.top_p_mask(np.array([masses]), p)[0].tolist()
    order = sorted(range(len(masses)), key=lambda i: (-masses[i], i))  # ties by token id
    kept, total = set(), Fraction(0)
    for i in order:
        if kept and total >= Fraction(p) and p != 1:
            break
        kept.add(i)
        total += Fraction(masses[i])
    assert mask == [i in kept for i in range(len(masses))]


def test_filters_on_every_system(floating_system: System) -> None:
    logits = np.array([[2.0, 1.0, 1.0, -1.0, 0.5], [0.0, 0.0, 4.0, 0.0, 0.0]])
    for dtype in set(floating_system.dtypes) - {"bfloat16"}:
        z = floating_system.floats(logits, dtype)
        expected_k = [[True, True, True, False, False], [True] * 5]
        assert floating_system.back(decoding.top_k_mask(z, 2)).tolist() == expected_k
        p = softmax(z)
        # masses: 0.47 0.17 0.17 0.02 0.10 and 0.93 then four of 0.017: the first two and, of the tie, the lower id
        assert floating_system.back(decoding.top_p_mask(p, 0.6)).tolist() == [
            [True, True, False, False, False],
            [False, False, True, False, False],
        ]
        filtered = decoding.sampling_probabilities(z, temperature=0.5, top_k=4, top_p=0.95)
        assert str(filtered.dtype).rpartition(".")[2] == dtype
        assert floating_system.back(filtered).tolist()[0][3] == 0
        drawn = decoding.sample(filtered, Chosen(0.0, 0.5))
        assert floating_system.back(drawn).tolist() == [0, 2]


def test_temperature_divides_the_logits() -> None:
    z = np.array([[1.0, 2.0, 4.0]])
    assert np.array_equal(decoding.sampling_probabilities(z, temperature=2.0), softmax(z / 2))
    assert np.array_equal(decoding.sampling_probabilities(z), softmax(z))


def test_top_p_counts_the_mass_that_top_k_leaves() -> None:
    """Masses 0.4 0.3 0.3: top-k 2 renormalizes to 0.57 0.43, so p = 0.5 keeps the first alone; without top-k it keeps two."""
    z = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    assert (decoding.sampling_probabilities(z, top_k=2, top_p=0.5) > 0).tolist() == [[True, False, False, False]]
    assert (decoding.sampling_probabilities(z, top_p=0.5) > 0).tolist() == [[True, True, False, False]]


def test_top_p_of_one_brings_nothing_back_that_top_k_removed() -> None:
    z = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    assert (decoding.sampling_probabilities(z, top_k=2, top_p=1.0) > 0).tolist() == [[True, True, False, False]]


# --- sampling ---------------------------------------------------------------------------------------------------------------

LAST = 1 - 2.0**-53
uniforms = st.integers(0, 2**53 - 1).map(lambda n: n / 2**53)


@given(_quarters(), uniforms)
@example([0.0, 1.0], 0.0)
@example([1.0, 0.0], LAST)
@example([0.0, 0.5, 0.0, 0.5, 0.0], 0.5)
@example([0.0, 0.5, 0.0, 0.5, 0.0], LAST)
def test_sample_inverts_the_distribution_function_exactly(masses: list[float], u: float) -> None:
    """The answer is the i with F(i-1) <= u < F(i), in rational arithmetic; so a token of probability 0 never comes."""
    answer = int(decoding.sample(np.array([masses]), Chosen(u))[0])
    below = sum(map(Fraction, masses[:answer]))
    assert below <= Fraction(u) < below + Fraction(masses[answer])
    assert masses[answer] > 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(st.data())
def test_sample_never_returns_a_token_of_probability_zero(dtype: str, data: Any) -> None:
    """Whatever rounds: also where u rounds to 1 in the dtype, and where the cumulative mass does."""
    masses = data.draw(
        hnp.arrays(dtype, st.integers(1, 9), elements=st.sampled_from([0.0, 0.125, 0.1, 1e-4, 0.9, 1.0]))
    )
    masses[data.draw(st.integers(0, len(masses) - 1))] = 0.5
    u = data.draw(uniforms | st.sampled_from([0.0, LAST, 1 - 2.0**-25]))
    assert masses[int(decoding.sample(masses[None, :], Chosen(u))[0])] > 0


def test_float16_sampling_reaches_every_part_of_a_flat_distribution() -> None:
    """2^13 equal masses: u = 7/8 must land at 7/8 of the vocabulary, give or take the rounding of the masses (none: 2^-13)."""
    masses = np.full((1, 2**13), 2.0**-13, np.float16)
    assert int(decoding.sample(masses, Chosen(0.875))[0]) == 7 * 2**10


@given(_quarters(), uniforms, st.sampled_from([2.0**-20, 0.25, 8.0]))
def test_sample_scales_u_by_the_total_mass(masses: list[float], u: float, scale: float) -> None:
    """Probabilities that do not sum to one are drawn in proportion: a power of two changes no rounding, so nothing at all."""
    one, other = (decoding.sample(np.array([masses]) * factor, Chosen(u)) for factor in (1.0, scale))
    assert one.tolist() == other.tolist()


def test_without_float64_a_uniform_that_rounds_to_one_draws_the_last_possible_token() -> None:
    """float32(1 - 2^-53) = 1, which is past the end of the distribution function."""
    system = HOST[6]
    assert system.dtypes == ("float32",)
    drawn = decoding.sample(system.floats([[0.25, 0.5, 0.25, 0.0]], "float32"), Chosen(LAST))
    assert system.back(drawn).tolist() == [2]


def test_each_row_has_its_own_draw_in_order() -> None:
    masses = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    assert decoding.sample(masses, Chosen(0.75, 0.25, 0.5)).tolist() == [1, 0, 1]


def test_a_seed_gives_the_same_tokens_again_and_another_seed_gives_others(tiny: Any) -> None:
    def run(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return _rows(decoding.generate(tiny, [[1, 2], [3]], max_new_tokens=20, rng=rng, top_k=20, temperature=2.0))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_seed_gives_the_same_tokens_on_every_system(floating_system: System) -> None:
    def run(system: System) -> Any:
        return _rows(
            decoding.generate(
                _decoder(system, "float32"), [[1, 2], [3]], max_new_tokens=6, rng=np.random.default_rng(5)
            )
        )

    assert run(floating_system) == run(HOST[0])


def test_generate_samples_with_its_filters() -> None:
    """u = 0.99 reaches the least probable token that is left."""
    table = [np.log([0.1, 0.4, 0.3, 0.2])]
    for options, expected in [({}, 3), ({"top_k": 2}, 2), ({"top_p": 0.6}, 2), ({"temperature": 1e-3}, 1)]:
        steps = decoding.generate(Fake(table), [[0]], max_new_tokens=1, rng=Chosen(0.99), **options)
        assert list(steps) == [[expected]], options


# --- beam search ------------------------------------------------------------------------------------------------------------

BEAMS = [(c, p, e) for c in range(4) for p in (0, 1, 2) for e in (False, True)]


def _expected(answers: Any, key: str, prompt: int, first: int = 0) -> tuple[list[list[int]], list[float]]:
    lengths, scores = answers[f"{key}_lengths"], answers[f"{key}_scores"]
    sequences = answers[f"{key}_sequences"]
    rows = range(first, first + 4)
    return [sequences[i, prompt : prompt + lengths[i]].tolist() for i in rows], [float(scores[i]) for i in rows]


@pytest.mark.parametrize(("case", "penalty", "early"), BEAMS)
def test_beam_search_agrees_with_transformers(case: int, penalty: int, early: bool, tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    prompt, end = answers[f"beam{case}_prompt"].tolist(), int(answers[f"beam{case}_eos_id"])
    found = decoding.beam_search(
        tiny, prompt, beams=4, max_new_tokens=8, length_penalty=penalty, stop=[end], early_stopping=early
    )
    ids, scores = _expected(answers, f"beam{case}_lp{penalty}_early_{str(early).lower()}", len(prompt))
    assert [hypothesis.ids for hypothesis in found] == ids
    # each of up to 8 log-probabilities is held to 1e-12 of the largest logit (below 10), like the logits they come from
    assert np.allclose([hypothesis.score for hypothesis in found], scores, rtol=0, atol=8 * 10 * 1e-12)


@pytest.mark.parametrize("early", [False, True])
def test_beam_search_of_a_padded_batch_is_that_of_each_prompt(early: bool, tiny: Any, recorded: Any) -> None:
    answers = recorded("gpt2_tiny")
    end = int(answers["beam_batch_eos_id"])
    for i, (row, mask) in enumerate(zip(answers["beam_batch_ids"], answers["beam_batch_mask"], strict=True)):
        found = decoding.beam_search(
            tiny, row[mask == 1].tolist(), beams=4, max_new_tokens=8, stop=[end], early_stopping=early
        )
        ids, scores = _expected(answers, f"beam_batch_lp1_early_{str(early).lower()}", 20, 4 * i)
        assert [hypothesis.ids for hypothesis in found] == ids
        assert np.allclose([hypothesis.score for hypothesis in found], scores, rtol=0, atol=8 * 10 * 1e-12)


def test_one_beam_without_penalty_is_greedy(tiny: Any) -> None:
    (best,) = decoding.beam_search(tiny, [5, 6], beams=1, max_new_tokens=10, length_penalty=0)
    (greedy,) = _rows(decoding.generate(tiny, [[5, 6]], max_new_tokens=10, temperature=0))
    assert best.ids == greedy


def test_enough_beams_search_everything() -> None:
    """Vocabulary 3, two steps: nine sequences, found in the order of their exact scores."""
    first, second = np.log([0.5, 0.3, 0.2]), np.log([0.6, 0.3, 0.1])
    found = decoding.beam_search(Fake([first, second]), [0], beams=9, max_new_tokens=2, length_penalty=2.0)
    every = sorted(
        ((a + b) / 2**2.0, [i, j]) for i, a in enumerate(first.tolist()) for j, b in enumerate(second.tolist())
    )[::-1]
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)
    assert np.allclose(scores, [score for score, _ in every], rtol=0, atol=16 * tolerance.roundoff("float64"))
    assert sorted(hypothesis.ids for hypothesis in found) == sorted(ids for _, ids in every)


def test_beam_search_runs_on_every_system(floating_system: System) -> None:
    reference = decoding.beam_search(_decoder(NUMPY, "float64"), [1, 2], beams=3, max_new_tokens=4)
    found = decoding.beam_search(_decoder(floating_system, "float32"), [1, 2], beams=3, max_new_tokens=4)
    assert [hypothesis.ids for hypothesis in found] == [hypothesis.ids for hypothesis in reference]


# --- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_an_empty_prompt_is_refused_at_the_call(prompts: Any, tiny: Any) -> None:
    with _refused(errors.TokenError, "the prompt is empty", "generate(prompts)", "at least one token", "bos_token_id"):
        decoding.generate(tiny, prompts, temperature=0)
    with _refused(errors.TokenError, "the prompt is empty", "got:      [0]"):
        decoding.beam_search(tiny, [], beams=2)


@pytest.mark.parametrize(("length", "asked"), [(32, None), (33, None), (30, 3), (5, 28)])
def test_more_tokens_than_the_table_holds_are_refused_at_the_call(length: int, asked: Any, tiny: Any) -> None:
    room = 32 - length
    words = (
        "runs past the position table",
        f"<= {room} after a prompt of {length} tokens (n_positions = 32)",
        "shorten the prompt",
    )
    with _refused(errors.TokenError, *words):
        decoding.generate(tiny, [[1] * length], max_new_tokens=asked, temperature=0)
    with _refused(errors.TokenError, *words):
        decoding.beam_search(tiny, [1] * length, beams=2, max_new_tokens=asked)


@pytest.mark.parametrize("asked", [0, -1])
def test_no_tokens_are_refused_in_other_words(asked: int, tiny: Any) -> None:
    with _refused(errors.TokenError, "nothing to generate", "1 <= max_new_tokens <= 31", f"got:      {asked}"):
        decoding.generate(tiny, [[1]], max_new_tokens=asked, temperature=0)


def test_sampling_without_a_generator_is_refused_at_the_call(tiny: Any) -> None:
    with _refused(errors.ConfigError, "needs a random generator", "rng=numpy.random.default_rng(seed)"):
        decoding.generate(tiny, [[1]])


@pytest.mark.parametrize("temperature", [-0.5, math.nan, math.inf])
def test_negative_and_infinite_temperatures_are_refused_at_the_call(temperature: float, tiny: Any) -> None:
    with _refused(errors.ConfigError, "temperature must not be negative", "temperature >= 0", repr(temperature)):
        decoding.generate(tiny, [[1]], temperature=temperature, rng=Chosen())


@pytest.mark.parametrize("option", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": math.inf}])
def test_options_out_of_range_are_refused_at_the_call(option: Any, tiny: Any) -> None:
    """The docstring: "options out of range ...: at the call, before any token"."""
    with pytest.raises(errors.ConfigError):
        decoding.generate(tiny, [[1]], rng=Chosen(0.5), **option)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_top_k_out_of_range_is_refused(k: Any) -> None:
    with _refused(errors.ConfigError, "top_k must be a whole number", "top_k >= 1", repr(k)):
        decoding.top_k_mask(np.zeros((1, 3)), k)


@pytest.mark.parametrize("p", [0, -0.1, 1.0000001, math.nan])
def test_top_p_out_of_range_is_refused(p: Any) -> None:
    with _refused(errors.ConfigError, "top_p must be a probability", "0 < top_p <= 1", repr(p)):
        decoding.top_p_mask(np.full((1, 3), 1 / 3), p)


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_probabilities_need_a_positive_finite_temperature(temperature: float) -> None:
    with _refused(errors.ConfigError, "temperature must", "temperature", repr(temperature)):
        decoding.sampling_probabilities(np.zeros((1, 3)), temperature=temperature)


@pytest.mark.parametrize("beams", [0, -1, 2.0, True])
def test_beams_out_of_range_are_refused(beams: Any, tiny: Any) -> None:
    with _refused(errors.ConfigError, "beams must be a whole number", "beams >= 1", repr(beams)):
        decoding.beam_search(tiny, [1], beams=beams)


@pytest.mark.parametrize("penalty", [math.nan, math.inf])
def test_length_penalties_must_be_finite(penalty: float, tiny: Any) -> None:
    with _refused(errors.ConfigError, "length_penalty must be finite", "0 ranks by"):
        decoding.beam_search(tiny, [1], beams=1, length_penalty=penalty)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_logits_from_which_no_token_can_be_chosen_are_refused(row: list[float]) -> None:
    words = (
        "the next token cannot be chosen",
        "logits of row 1",
        "finite logits",
        "a largest logit of",
        "weights for NaN",
    )

    class Second(Fake):
        def _logits(self, rows: int, n: int) -> Any:
            return np.array([[0.0, 0.0], row])

    for options in ({"temperature": 0}, {"rng": Chosen(0.5, 0.5)}):
        with _refused(errors.TokenError, *words):
            list(decoding.generate(Second([[0.0]]), [[0], [0]], max_new_tokens=1, **options))
    with _refused(errors.TokenError, "cannot be chosen", "logits of row 0"):
        decoding.beam_search(Fake([row]), [0], beams=1, max_new_tokens=1)


def test_tokens_ruled_out_by_minus_infinity_are_never_chosen() -> None:
    decoder = Fake([[-np.inf, 0.0, -np.inf]])
    assert _rows(decoding.generate(decoder, [[0]], max_new_tokens=2, rng=Chosen(0.0, LAST))) == [[1, 1]]


def test_probabilities_without_mass_are_refused() -> None:
    for masses in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with _refused(errors.TokenError, "no mass", "sample", "positive sum in every row", "temperature=0"):
            decoding.sample(np.array([[0.5, 0.5], masses]), Chosen(0.5, 0.5))


def test_balls_are_refused_because_they_have_no_order() -> None:
    balls = truth.balls(np.array([[0.25, 0.75]]))
    for call in (
        lambda: decoding.top_k_mask(balls, 1),
        lambda: decoding.top_p_mask(balls, 0.5),
        lambda: decoding.sampling_probabilities(balls, top_k=1),
        lambda: decoding.sampling_probabilities(balls, top_p=0.5),
    ):
        with _refused(errors.DtypeError, "undecided", "overlapping balls have no order", "validation.truth.midpoints"):
            call()


class _Ruled:
    """A decoder that allows token 0 alone, whatever has been read."""

    context = 8

    def start(self, token_ids, mask=None):
        return np.array([[0.0, -np.inf, -np.inf, -np.inf]]), None

    def advance(self, token_ids, cache):
        return np.tile(np.array([[0.0, -np.inf, -np.inf, -np.inf]]), (len(token_ids), 1)), None

    def select(self, cache, rows):
        return None


def test_beam_search_returns_no_token_that_is_ruled_out() -> None:
    found = decoding.beam_search(_Ruled(), [1], beams=3, max_new_tokens=2)
    assert [hypothesis.ids for hypothesis in found] == [[0, 0]]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_sampling_probabilities_keep_the_dtype_and_do_not_overflow(dtype) -> None:
    p = decoding.sampling_probabilities(np.array([700, 690, 0], dtype), temperature=0.01, top_k=2, top_p=0.9)
    assert p.dtype == dtype
    assert p.astype(np.float64).tolist() == [1, 0, 0]


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_undefined_logits_are_refused_by_every_way_of_choosing(row) -> None:
    with pytest.raises(errors.TokenError, match=r"cannot be chosen(.|\n)*row 0(.|\n)*check the model's weights"):
        decoding.sampling_probabilities(np.array([row]))
