"""Texts that stop at a string: the rule itself, streams, batches, beams, whatever the tokens are."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from models import TINY
from systems import NUMPY

import refimpl
from refimpl import decoding, errors, gpt2
from refimpl import model as models_of_text
from refimpl.inference.gpt2 import Session
from refimpl.softmax import log_softmax
from refimpl.text import StopText
from refimpl.text.stopping import stop_strings

NUMPY_BACKEND = refimpl.backend.get("numpy")
ALPHABET = st.text("ab\n。", max_size=9)
STOPS = st.lists(st.text("ab\n。", min_size=1, max_size=3), min_size=1, max_size=3)


def _read(text: str, stops: list[str]) -> tuple[str, bool]:
    """The rule, character by character."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


# --- the rule -------------------------------------------------------------------------------------------------------------------------


@given(ALPHABET, STOPS)
@example("xab", ["abc", "b"])
@example("aab", ["ab", "aab"])
@example("abab", ["aba", "b"])
@example("a\n\nb", ["\n\n", "\n"])
def test_a_text_is_cut_where_reading_it_character_by_character_stops(text: str, stops: list[str]) -> None:
    assert tuple(StopText(stops).cut(text)) == _read(text, stops)


@given(ALPHABET, ALPHABET, STOPS)
@example("xa", "b", ["ab"])
@example("xaa", "b", ["aab"])
def test_what_is_settled_is_never_taken_back(text: str, more: str, stops: list[str]) -> None:
    rule = StopText(stops)
    if not rule.cut(text).stopped:
        assert rule.cut(text + more).text.startswith(rule.settled(text))


@given(ALPHABET, STOPS)
def test_no_more_is_held_back_than_may_be_a_stop(text: str, stops: list[str]) -> None:
    """There is a continuation that cuts the text exactly where it is settled."""
    rule = StopText(stops)
    if not rule.cut(text).stopped:
        settled = rule.settled(text)
        held = text[len(settled) :]
        assert not held or any(stop.startswith(held) and len(stop) > len(held) for stop in stops)


def test_half_a_character_is_held_back_and_one_string_stands_for_a_list() -> None:
    assert StopText("\n").settled("春\ufffd") == "春"
    assert StopText().settled("春\ufffd\ufffd") == "春"
    assert not StopText()
    assert stop_strings("ab") == ("ab",)
    assert stop_strings(["ab", "c", "ab"]) == ("ab", "c")


@pytest.mark.parametrize("wrong", ["", ["a", ""], [3], ["\ufffd"]])
def test_a_stop_text_that_makes_no_sense_is_refused_at_the_call(wrong: Any) -> None:
    message = r"a stop text must be a string of at least one character\n(.|\n)*stop_text(.|\n)*U\+FFFD(.|\n)*got: "
    for call in (_table().stream, _table().generate, _table().beam_search):
        with pytest.raises(errors.ConfigError, match=message):
            call("a", stop_text=wrong)
    for call in (_table().generate_batch, _table().continuations):
        with pytest.raises(errors.ConfigError, match=message):
            call(["a"], stop_text=wrong)
    with pytest.raises(errors.ConfigError, match=message):
        _table().generate_ids([[1]], stop_text=wrong)


# --- streams ----------------------------------------------------------------------------------------------------------------------------


class Pieces:
    """A tokenizer whose tokens are given pieces of text, or of bytes: newlines alone, within pieces, twice in one, spread over several."""

    def __init__(self, pieces: list[Any]) -> None:
        self.pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(character.encode()) for character in text]

    def decode(self, ids: Any) -> str:
        return b"".join(self.pieces[token] for token in ids).decode(errors="replace")


PIECES = ["a", "b", "\n", "a\n", "\n\n", "b\na", "。".encode()[:1], "。".encode()[1:], "xy", "x", "y"]


def _table(seed: int = 7, **changes: Any) -> refimpl.Model:
    """A random GPT-2 of eleven tokens, which are `PIECES`."""
    config = dataclasses.replace(TINY, n_positions=24, **changes)
    return refimpl.Model(models.weights(config, NUMPY, "float64", seed), config, NUMPY_BACKEND, Pieces(PIECES))


def _streamed(pieces: list[Any], stops: Any, ends: frozenset[int] = frozenset()) -> tuple[list[str], int]:
    """The pieces of a stream, and how many tokens it asked for."""
    model = refimpl.Model.__new__(refimpl.Model)
    model.tokenizer = Pieces(pieces)
    asked = itertools.count()
    steps = ([token] for token in range(len(pieces)) if next(asked) >= 0)
    found = list(model._pieces(steps, ends, StopText(stops)))
    return found, next(asked)


@given(ALPHABET, STOPS, st.lists(st.integers(0, 30), max_size=5))
@example("a。\nb", ["\n"], [2, 3, 4])
@example("ab", ["。"], [1])
def test_a_stream_stops_at_the_text_however_it_is_cut_into_tokens(text: str, stops: list[str], cuts: list[int]) -> None:
    encoded = text.encode()
    places = sorted({0, len(encoded), *(cut for cut in cuts if cut < len(encoded))})
    pieces = [encoded[a:b] for a, b in itertools.pairwise(places)]
    expected, stopped = _read(text, stops)
    found, asked = _streamed(pieces, stops)
    assert "".join(found) == expected
    assert all(found)
    if stopped:  # and no token after the one that completes the stop is asked for
        whole = next(
            n for n in range(1, len(pieces) + 1) if _read(b"".join(pieces[:n]).decode(errors="ignore"), stops)[1]
        )
        assert asked == whole


def test_held_text_is_shown_when_it_turns_out_to_be_no_stop() -> None:
    assert _streamed(["a", "\n", "b"], "\n\n")[0] == ["a", "\nb"]
    assert _streamed(["a", "\n"], "\n\n")[0] == ["a", "\n"]  # as many tokens as may be
    assert _streamed(["a", "\n", "!", "b"], "\n\n", frozenset({2}))[0] == ["a", "\n"]  # a stop token
    assert _streamed(["a", "\n\nb", "c"], "\n\n") == (["a"], 2)
    assert _streamed([b"a\n" + "春".encode()[:1], "b"], "\n") == (["a"], 1)


def test_a_cpm_like_tokenizer_stops_at_its_newline_piece_and_at_pieces_that_hold_one() -> None:
    """CPM-LM writes a newline as U+2583, which its decoding turns back: a piece of its own, or part of another."""

    class CPMLike(Pieces):
        def decode(self, ids: Any) -> str:
            return super().decode(ids).replace(" ", "").replace("\u2582", " ").replace("\u2583", "\n")

    model = refimpl.Model.__new__(refimpl.Model)
    model.tokenizer = CPMLike(["北京", "\u2583", " \u2583上", "\u2582", "海"])
    for tokens, expected in (([0, 1, 4], "北京"), ([0, 2, 4], "北京"), ([3, 4, 1, 0], " 海"), ([0, 4], "北京海")):
        assert "".join(model._pieces(([token] for token in tokens), frozenset(), StopText("\n"))) == expected


# --- models ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "stops", "options"),
    [
        (0, "\n", {"temperature": 0}),
        (1, ["ab", "\n\n"], {"seed": 3}),
        (2, "。", {"seed": 4, "temperature": 2.0}),
        (3, ["xy", "a"], {"seed": 1}),
        (2, "\n", {"seed": 2, "temperature": 2.0}),
    ],
)
def test_a_stop_text_cuts_what_is_generated_without_it(seed: int, stops: Any, options: Any) -> None:
    """Tokens are drawn as before: stopping takes nothing but the rest away. What the prompt holds does not count."""
    rule, model = StopText(stops), _table(seed)
    plain = model.generate("a\nab", **options)
    expected = "a\nab" + rule.cut(plain.removeprefix("a\nab")).text
    assert model.generate("a\nab", stop_text=stops, **options) == expected
    assert "a\nab" + "".join(model.stream("a\nab", stop_text=stops, **options)) == expected
    assert expected != plain or not rule.cut(plain.removeprefix("a\nab")).stopped


def test_rows_of_a_batch_stop_each_for_itself() -> None:
    model, prompts = _table(3), ["a", "b\na", "ab", "\n", "a"]
    options: dict[str, Any] = {"seed": 5, "temperature": 1.5, "max_new_tokens": 10}
    plain = model.generate_batch(prompts, **options)
    found = model.continuations(prompts, stop_text=["\n", "xy"], **options)
    rule = StopText(["\n", "xy"])
    for prompt, whole, each in zip(prompts, plain, found, strict=True):
        expected = rule.cut(whole.removeprefix(prompt))
        assert (each.text, each.ended) == (expected.text, "text" if expected.stopped else "length")
        assert expected.stopped or len(each.ids) == 10
    assert len({len(each.ids) for each in found}) > 2
    assert model.generate_batch(prompts, stop_text=["\n", "xy"], **options) == [
        prompt + each.text for prompt, each in zip(prompts, found, strict=True)
    ]


def test_ids_end_before_the_token_in_which_the_stop_begins() -> None:
    model, options = _table(3), {"seed": 5, "temperature": 1.5}
    prompts = [[0], [1, 5], [2, 2, 4]]
    plain, rule = model.generate_ids(prompts, **options), StopText(["\n", "xy"])
    found = model.generate_ids(prompts, stop_text=["\n", "xy"], **options)
    for whole, ids in zip(plain, found, strict=True):
        text, stopped = rule.cut(model.tokenizer.decode(whole))
        assert whole[: len(ids)] == ids
        assert text.startswith(model.tokenizer.decode(ids))
        if stopped:  # and one token more would reach into it, or past it
            assert len(model.tokenizer.decode(whole[: len(ids) + 1])) > len(text)
    assert rule.before(model.tokenizer, [0, 3, 1]) == [
        0
    ]  # "a", "a\n", "b": the token with the last "a" is left out whole
    assert rule.before(model.tokenizer, [0, 9, 10]) == [0]  # "a", "x", "y"
    assert rule.before(model.tokenizer, [0, 9, 0]) == [0, 9, 0]
    assert StopText("。").before(model.tokenizer, [0, 6, 7, 1]) == [0]


def test_a_stop_token_ends_a_row_beside_a_stop_text() -> None:
    model = _table(3)
    (plain,) = model.generate_ids([[0]], seed=5, stop=[])
    (each,) = model.continuations(["a"], seed=5, stop=[plain[2]], stop_text="never")
    place = plain.index(plain[2])
    assert (each.ids, each.ended) == (plain[:place], "token")
    assert each.text == model.tokenizer.decode(plain[:place])


def test_nothing_is_computed_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = _table(6), []
    original = gpt2.CachedDecoder.advance
    monkeypatch.setattr(gpt2.CachedDecoder, "advance", lambda self, *given: calls.append(0) or original(self, *given))
    (each,) = model.continuations(["a"], seed=1, stop_text="\n")
    assert (each.ended, len(calls)) == ("text", len(each.ids) - 1)
    assert len(each.ids) > 1
    calls.clear()
    assert "".join(model.stream("a", seed=1, stop_text="\n")) == each.text
    assert len(calls) == len(each.ids) - 1


# --- beams ------------------------------------------------------------------------------------------------------------------------------


def _naive_beams(model: Any, prompt: list[int], ended: Any, beams: int, limit: int, penalty: float, early: bool) -> Any:
    """The documented rules once more, from full logits and plain lists."""
    open_, complete = [([], 0.0)], []
    for n in range(1, limit + 1):
        ranked = []
        for number, (ids, total) in enumerate(open_):
            z = np.asarray(model.logits([prompt + ids]))[0, -1]
            log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
            ranked += [(-(total + p), number, token) for token, p in enumerate(log_p)]
        ranked = [([*open_[row][0], token], -minus) for minus, row, token in sorted(ranked)]
        over = [n == limit or ended(ids) for ids, _ in ranked]
        complete += [
            (ids, total / n**penalty) for (ids, total), end in list(zip(ranked, over, strict=True))[:beams] if end
        ]
        complete = sorted(complete, key=lambda each: -each[1])[:beams]
        open_ = [each for each, end in zip(ranked, over, strict=True) if not end][:beams]
        full = len(complete) == beams
        if not open_ or (full and (early or open_[0][1] / n**penalty <= complete[-1][1])):
            break
    return complete


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("stops", "beams", "penalty"), [("\n", 3, 1.0), (["xy", "。"], 4, 0.0), (["\n", "b"], 2, 2.0)])
def test_a_hypothesis_is_complete_with_the_token_that_completes_a_stop_text(
    stops: Any, beams: int, penalty: float, early: bool
) -> None:
    rule, ends = StopText(stops), 0
    for seed in (0, 4):
        model = _table(seed)
        found = model.beam_search(
            "ab", beams=beams, max_new_tokens=5, length_penalty=penalty, stop_text=stops, early_stopping=early
        )

        def ended(ids: list[int], decode: Any = model.tokenizer.decode) -> bool:
            return _read(decode(ids), [*rule.strings])[1]

        expected = _naive_beams(model, [0, 1], ended, beams, 5, penalty, early)
        assert [each.ids for each in found] == [ids for ids, _ in expected]
        np.testing.assert_allclose([each.score for each in found], [score for _, score in expected], rtol=1e-12)
        for each in found:
            text = model.hypothesis_text(each, stop_text=stops)
            assert text.text == _read(model.tokenizer.decode(each.ids), [*rule.strings])[0]
            assert text.ended == ("text" if ended(each.ids) else "length")
            assert not ended(each.ids[:-1])
            ends += text.ended == "text"
    assert ends


@pytest.mark.parametrize("penalty", [400.0, -400.0])
def test_a_length_penalty_whose_power_is_no_number_is_refused(penalty: float) -> None:
    """8^400 is beyond float64, and 8^-400 is 0, by which nothing is divided."""
    with pytest.raises(errors.ConfigError, match=r"length_penalty is too large(.|\n)*at most 341 either way: 8 to the"):
        _table().beam_search("a", beams=2, max_new_tokens=8, length_penalty=penalty)
    assert len(_table().beam_search("a", beams=2, max_new_tokens=8, length_penalty=penalty / 2)) == 2


def test_a_stop_text_of_one_token_is_that_stop_token() -> None:
    """Where only one token holds the newline: the two ways give the same hypotheses, and so do greedy searches."""
    model = _table(2)
    model.tokenizer = Pieces(["a", "b", "\n", *(f"{n}" for n in range(8))])
    for beams in (1, 3):
        by_text = model.beam_search("ab", beams=beams, max_new_tokens=8, stop_text="\n")
        assert by_text == model.beam_search("ab", beams=beams, max_new_tokens=8, stop=[2])


class _Rows:
    """A decoder with random logits for every prefix, so that ties and orders of all kinds occur."""

    context = 50

    def __init__(self, seed: int, vocabulary: int) -> None:
        self.seed, self.vocabulary = seed, vocabulary

    def _logits(self, prefixes: list[tuple[int, ...]]) -> Any:
        return np.stack(
            [np.random.default_rng([self.seed, *row]).integers(-2, 3, self.vocabulary) * 0.5 for row in prefixes]
        ).astype(float)

    def start(self, token_ids: Any, mask: Any = None) -> Any:
        prefixes = [tuple(row) for row in token_ids]
        return self._logits(prefixes), prefixes

    def advance(self, token_ids: Any, cache: Any) -> Any:
        prefixes = [(*row, token) for row, (token,) in zip(cache, token_ids, strict=True)]
        return self._logits(prefixes), prefixes

    def select(self, cache: Any, rows: list[int]) -> Any:
        return [cache[row] for row in rows]


def _kept_beams(decoder: _Rows, beams: int, limit: int, ends: set[int]) -> Any:
    """The rules as transformers has them: of the first (1 + E)·B extensions, E the number of stop tokens."""
    alive, complete = [((), 0.0)], []
    for n in range(1, limit + 1):
        log_p = log_softmax(decoder._logits([(0, *ids) for ids, _ in alive]))
        flat = (log_p + np.array([[total] for _, total in alive])).ravel()
        best = [int(i) for i in np.argsort(-flat, stable=True)[: (1 + len(ends)) * beams]]
        ranked = [((*alive[i // decoder.vocabulary][0], i % decoder.vocabulary), float(flat[i])) for i in best]
        ending = [(ids, total / n) for ids, total in ranked[:beams] if ids[-1] in ends or n == limit]
        complete = sorted(complete + ending, key=lambda each: -each[1])[:beams]
        alive = [each for each in ranked if each[0][-1] not in ends][:beams] if n < limit else []
        if not alive or (len(complete) == beams and alive[0][1] / n <= complete[-1][1]):
            return complete
    return complete


@given(st.integers(0, 10_000), st.integers(1, 4), st.sets(st.integers(0, 5), max_size=3), st.integers(1, 4))
def test_walking_down_the_ranking_keeps_what_1_plus_e_times_b_extensions_keep(
    seed: int, beams: int, ends: set[int], limit: int
) -> None:
    decoder = _Rows(seed, 6)
    found = decoding.beam_search(decoder, [0], beams=beams, max_new_tokens=limit, stop=ends)
    again = decoding.beam_search(decoder, [0], beams=beams, max_new_tokens=limit, stop=lambda ids: ids[-1] in ends)
    expected = _kept_beams(decoder, beams, limit, ends)
    assert found == again
    assert [tuple(each.ids) for each in found] == [ids for ids, _ in expected]


def test_generate_takes_a_function_of_each_rows_own_ids() -> None:
    seen: list[list[int]] = []

    def ended(ids: list[int]) -> bool:
        seen.append(list(ids))
        return len(ids) == 2

    rows = list(decoding.generate(_Rows(1, 6), [[0], [3]], max_new_tokens=5, temperature=0, stop=ended))
    assert len(rows) == 2
    assert [len(ids) for ids in seen] == [1, 1, 2, 2]


# --- reading once -----------------------------------------------------------------------------------------------------------------------


class _Counting:
    """A decoder that counts the tokens that it reads."""

    def __init__(self, decoder: Any, *, reads: bool = True) -> None:
        self.decoder, self.count, self.context = decoder, 0, decoder.context
        if reads:
            self.read = self._read

    def start(self, token_ids: Any, mask: Any = None) -> Any:
        self.count += sum(map(len, token_ids))
        return self.decoder.start(token_ids, mask)

    def _read(self, token_ids: Any, cache: Any, mask: Any = None) -> Any:
        self.count += sum(map(len, token_ids))
        return self.decoder.read(token_ids, cache, mask)

    def advance(self, token_ids: Any, cache: Any) -> Any:
        return self.decoder.advance(token_ids, cache)

    def select(self, cache: Any, rows: list[int]) -> Any:
        return self.decoder.select(cache, rows)


@pytest.mark.parametrize("made", [gpt2.CachedDecoder, Session])
@pytest.mark.parametrize("dialect", ["openai", "bert4keras"])  # the second masks id 0, which also pads
@pytest.mark.parametrize(
    ("prompts", "with_read", "without"),
    [
        ([[1, 2, 3, 4]] * 3, 4, 4),
        ([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 4]], 2 + 4, 8),
        ([[1, 0, 0, 4], [1, 0, 3, 0, 2]], 2 + 6, 10),
        ([[1], [1, 2]], 4, 4),
        ([[3, 1], [1, 3]], 4, 4),
    ],
)
def test_what_prompts_have_in_common_is_read_once(
    made: Any, dialect: str, prompts: Any, with_read: int, without: int
) -> None:
    config = dataclasses.replace(TINY, n_positions=24)
    plain, other = (
        kind(models.weights(config, NUMPY, "float64"), config, dialect) for kind in (gpt2.CachedDecoder, made)
    )
    for reads, count in ((True, with_read), (False, without)):
        counting = _Counting(other, reads=reads)
        once = decoding.ReadOnce(counting)
        ids, mask = decoding._left_padded(prompts)
        logits, state = once.start(ids, mask)
        expected, theirs = plain.start(ids, mask)
        assert counting.count == count
        np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
        for token in (5, 7):  # and the state goes on as the other does
            tokens = [[token]] * len(prompts)
            (logits, state), (expected, theirs) = once.advance(tokens, state), plain.advance(tokens, theirs)
            np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)


def test_the_plain_decoder_of_an_arithmetic_reads_on_too() -> None:
    model = _table()
    decoder, exact = model._decoder(), model.with_arithmetic("exact")._decoder()
    assert isinstance(exact, models_of_text.PlainDecoder)
    for each in (decoder, exact):
        _, state = each.start([[1, 2]])
        scores, _ = each.read([[3, 4, 0]], state, [[True, True, False]])
        np.testing.assert_allclose(scores[:, :2], model.logits([[1, 2, 3, 4]])[:, 2:], rtol=1e-12, atol=1e-12)
