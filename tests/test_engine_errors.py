"""What GPT-2 refuses, on every number system, by the text of the message: what, where, expected, got, what to do."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import models
import numpy as np
import pytest
from models import TINY, UNTIED
from systems import BALLS, NUMPY, System

from refimpl import attention, bert, decoding, errors, favor, gpt2, linear_attention, positions, softmax, taylor
from refimpl.number_system import device_of, namespace


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


@pytest.fixture
def model(system: System) -> gpt2.GPT2Weights:
    return models.weights(TINY, system, system.dtypes[-1])


@pytest.mark.parametrize(
    ("ids", "row", "column", "got"),
    [
        ([[0, 11, 2]], 0, 1, 11),
        ([[0, 1], [2, -1]], 1, 1, -1),
        ([[-12, 1]], 0, 0, -12),
        ([[1, 2**31]], 0, 1, 2**31),
        ([[1, 99], [-5, 0]], 0, 1, 99),
    ],
)
def test_ids_out_of_range_are_refused_before_any_gather(
    ids: Any, row: int, column: int, got: int, model: Any, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(*_: Any) -> Any:
        pytest.fail("a table was read with unchecked ids")

    monkeypatch.setattr(gpt2, "_rows", gathered)
    for given in (ids, system.to(np.array(ids))):
        with _refused(
            errors.TokenError,
            "token id out of range",
            f"token_ids[{row}, {column}]",
            "0 <= id < 11",
            f"got:      {got}",
            "this model's own tokenizer",
        ):
            gpt2.logits(model, TINY, given)


def test_the_last_id_of_the_vocabulary_is_accepted(model: Any, system: System) -> None:
    assert gpt2.logits(model, TINY, system.to(np.array([[0, 10]]))).shape == (1, 2, 11)


@pytest.mark.parametrize("ids", [[[1, 2], [3]], [["a"]], [[None]]])
def test_ragged_lists_are_refused_with_the_remedy(ids: Any, model: Any) -> None:
    with _refused(errors.RefimplError, "token") as caught:
        gpt2.logits(model, TINY, ids)
    if ids == [[1, 2], [3]]:
        text = str(caught.value)
        assert "not a rectangular array of whole numbers" in text
        assert "pad the rows to one length and pass mask=" in text


@pytest.mark.parametrize("ids", [[1, 2], 3, [[[1]]]])
def test_ids_without_two_axes_are_refused(ids: Any, model: Any, system: System) -> None:
    shape = str(np.shape(ids))
    for given in (ids, system.to(np.array(ids))):
        with _refused(errors.ShapeError, "two axes", "(batch, length)", shape, "token_ids[None, :]"):
            gpt2.logits(model, TINY, given)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (0, 0)])
def test_an_empty_prompt_is_refused(shape: tuple[int, int], model: Any, system: System) -> None:
    with _refused(errors.TokenError, "the prompt is empty", "token_ids", "at least one token a row", str(shape)):
        gpt2.logits(model, TINY, system.to(np.zeros(shape, np.int64)))
    with _refused(errors.TokenError, "the prompt is empty"):
        gpt2.logits(model, TINY, [[]])


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_ids_that_are_not_integers_are_refused(dtype: str, model: Any, system: System) -> None:
    if system.is_ball and dtype == "float32":
        given: Any = np.ones((1, 2), np.float32)
    else:
        given = system.to(np.ones((1, 2), dtype))
    with _refused(errors.TokenError, "must be whole numbers", "an integer dtype", dtype):
        gpt2.logits(model, TINY, given)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint64"])
def test_ids_of_every_integer_dtype_give_the_same_logits(dtype: str, model: Any, system: System) -> None:
    ids = np.array([[1, 10, 0]])
    expected = system.back(gpt2.logits(model, TINY, system.to(ids)))
    assert np.array_equal(system.back(gpt2.logits(model, TINY, system.to(ids.astype(dtype)))), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_narrow_and_unsigned_ids_may_index_any_vocabulary(dtype: str, system: System) -> None:
    """A vocabulary of 300 or 70000 is no uint8 or uint16: the comparison must not need it to be."""
    ids, table = np.array([[1, 200]], dtype), system.floats(np.ones(1), system.dtypes[-1])
    for size in (201, 300, 70_000):
        assert system.back(gpt2.check_token_ids(system.to(ids), size, table)).tolist() == [[1, 200]]
    with _refused(errors.TokenError, "token_ids[0, 1]", "0 <= id < 200", "got:      200"):
        gpt2.check_token_ids(system.to(ids), 200, table)


def test_sequences_past_the_position_table_are_refused(model: Any, system: System) -> None:
    words = ("runs past the position table", "0 <= position < n_positions = 8", "positions from 0 to 8", "shorten")
    with _refused(errors.TokenError, *words):
        gpt2.logits(model, TINY, system.to(np.zeros((1, 9), np.int64)))
    assert gpt2.logits(model, TINY, system.to(np.zeros((1, 8), np.int64))).shape == (1, 8, 11)
    with _refused(errors.TokenError, "position table", "positions from 8 to 9"):
        gpt2.logits(model, TINY, system.to(np.zeros((1, 2), np.int64)), positions=system.to(np.array([[8, 9]])))
    with _refused(errors.TokenError, "position table", "positions from -1 to 0"):
        gpt2.logits(model, TINY, [[1, 1]], positions=[[-1, 0]])


def test_sequences_past_the_position_table_are_refused_through_the_cache_too(model: Any, system: System) -> None:
    _, cache = gpt2.forward(model, TINY, system.to(np.zeros((2, 7), np.int64)))
    _, cache = gpt2.forward(model, TINY, system.to(np.zeros((2, 1), np.int64)), cache=cache)
    with _refused(errors.TokenError, "runs past the position table", "n_positions = 8", "positions from 8 to 8"):
        gpt2.forward(model, TINY, system.to(np.zeros((2, 1), np.int64)), cache=cache)


def test_padding_takes_no_position(model: Any, system: System) -> None:
    """Ten columns of which eight are real fit a table of eight."""
    mask = np.array([[False, False] + [True] * 8])
    logits = gpt2.logits(model, TINY, system.to(np.zeros((1, 10), np.int64)), mask=system.to(mask))
    assert logits.shape == (1, 10, 11)


def test_masks_of_another_shape_are_refused(model: Any, system: System) -> None:
    ids = system.to(np.zeros((2, 3), np.int64))
    for mask in (system.to(np.ones((2, 2), bool)), [[True] * 3], system.to(np.ones(3, bool))):
        shape = str(np.shape(mask)) if isinstance(mask, list) else str(tuple(mask.shape))
        with _refused(errors.ShapeError, "shape of token_ids", "(2, 3)", shape):
            gpt2.logits(model, TINY, ids, mask=mask)


@pytest.mark.parametrize("options", [{"mask": [[True, False], [True]]}])
def test_ragged_masks_are_refused_in_words(options: Any) -> None:
    """The docstring of `logits` lists ShapeError for "wrong shapes"."""
    with pytest.raises(errors.ShapeError):
        gpt2.logits(models.weights(TINY, NUMPY, "float64"), TINY, [[1, 2], [3, 4]], **options)


def test_unknown_dialects_are_refused_with_the_known_ones(model: Any) -> None:
    with _refused(errors.ConfigError, "unknown dialect", "gpt2", "openai, cpm, bert4keras", "'gpt3'"):
        gpt2.logits(model, TINY, [[1]], dialect="gpt3")


# --- weights ----------------------------------------------------------------------------------------------------------------


def test_all_problems_of_the_weights_are_listed_at_once(system: System) -> None:
    arrays = {n: system.floats(a, system.dtypes[-1]) for n, a in models.random_arrays(TINY).items()}
    del arrays["final_norm.bias"], arrays["blocks.1.feed_forward_in.weight"]
    arrays["extra.one"] = system.floats(np.ones((2, 3)), system.dtypes[-1])
    arrays["blocks.0.query_key_value.weight"] = system.floats(np.ones((18, 6)), system.dtypes[-1])
    bad = np.ones((8, 6))
    for value in (np.nan, np.inf, -np.inf):
        bad[3, 2] = value
        arrays["position_embedding"] = system.floats(bad, system.dtypes[-1])
        with pytest.raises(errors.ConfigError) as caught:
            gpt2.GPT2Weights.from_named(arrays, TINY, source={"position_embedding": "transformer.wpe.weight"})
        text = str(caught.value)
        for line in (
            "the weights do not fit the configuration (5 problems)",
            "missing: final_norm.bias (6,)",
            "missing: blocks.1.feed_forward_in.weight (6, 10)",
            "unexpected: extra.one (2, 3)",
            "wrong shape: blocks.0.query_key_value.weight expected (6, 18), got (18, 6)",
            "not finite: transformer.wpe.weight (position_embedding) holds NaN or infinity",
            "check that config.json belongs to these weights",
        ):
            assert line in text
        assert text.count("\n    ") == 5


def test_16_bit_weights_that_are_not_finite_are_found() -> None:
    for dtype in ("float16", "bfloat16"):
        arrays = {n: NUMPY.floats(a, dtype) for n, a in models.random_arrays(TINY).items()}
        gpt2.GPT2Weights.from_named(arrays, TINY)
        arrays["final_norm.scale"] = NUMPY.floats([1, 2, np.inf, 0, 0, 0], dtype)
        with _refused(errors.ConfigError, "(1 problems)", "not finite: final_norm.scale"):
            gpt2.GPT2Weights.from_named(arrays, TINY)


def test_balls_that_are_not_finite_are_found() -> None:
    arrays = {n: BALLS.to(a) for n, a in models.random_arrays(TINY).items()}
    arrays["final_norm.bias"] = BALLS.to(np.array([0, 0, 0, 0, 0, np.nan]))
    with _refused(errors.ConfigError, "not finite: final_norm.bias"):
        gpt2.GPT2Weights.from_named(arrays, TINY)


def test_a_head_of_its_own_is_needed_exactly_when_it_is_not_tied() -> None:
    arrays = models.random_arrays(UNTIED)
    with _refused(errors.ConfigError, "unexpected: output_embedding (11, 6)"):
        gpt2.GPT2Weights.from_named(arrays, dataclasses.replace(UNTIED, tie_word_embeddings=True))
    del arrays["output_embedding"]
    with _refused(errors.ConfigError, "missing: output_embedding (11, 6)", "tied head"):
        gpt2.GPT2Weights.from_named(arrays, UNTIED)


# --- configuration ----------------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"vocab_size": 11, "n_positions": 8, "n_embd": 6, "n_layer": 2, "n_head": 2}


@pytest.mark.parametrize("name", [*SIZES, "n_inner"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "6", None])
def test_sizes_that_are_not_positive_whole_numbers_are_named(name: str, value: Any) -> None:
    if name == "n_inner" and value is None:
        assert gpt2.GPT2Config(**SIZES, n_inner=None).inner == 24
        return
    with _refused(errors.ConfigError, "not a positive whole number", "GPT2Config", f"{name} = {value!r}"):
        gpt2.GPT2Config(**SIZES | {name: value})


def test_all_wrong_sizes_are_named_at_once() -> None:
    with _refused(errors.ConfigError, "vocab_size = 0, n_layer = -2, n_inner = 1.5"):
        gpt2.GPT2Config(**SIZES | {"vocab_size": 0, "n_layer": -2, "n_inner": 1.5})


def test_a_width_that_does_not_divide_into_the_heads_is_refused() -> None:
    with _refused(errors.ConfigError, "does not divide", "a multiple of n_head", "n_embd = 6, n_head = 4"):
        gpt2.GPT2Config(**SIZES | {"n_head": 4})


@pytest.mark.parametrize("eps", [-1e-5, float("nan")])
def test_a_negative_epsilon_is_refused(eps: float) -> None:
    with _refused(errors.ConfigError, "layer_norm_epsilon must not be negative", "GPT2Config", str(eps)):
        gpt2.GPT2Config(**SIZES, layer_norm_epsilon=eps)


def test_an_unknown_activation_is_refused() -> None:
    with _refused(errors.ConfigError, "unknown activation", "GPT2Config", '"tanh" or "none"', "'relu'"):
        gpt2.GPT2Config(**SIZES, activation="relu")  # type: ignore[arg-type]


# --- the family -------------------------------------------------------------------------------------------------------------


def test_explain_lays_out_what_is_known_and_nothing_else() -> None:
    text = errors.explain("wrong", where="here", expected=1, got=0, remedy="do")
    assert text == "wrong\n  where:    here\n  expected: 1\n  got:      0\n  to do:    do"
    assert errors.explain("wrong") == "wrong"
    assert errors.explain("wrong", got=0) == "wrong\n  got:      0"


def test_every_error_is_of_the_family_and_of_a_builtin_kind() -> None:
    kinds = {name: getattr(errors, name) for name in errors.__all__ if name.endswith("Error")}
    assert len(kinds) >= 9
    for name, kind in kinds.items():
        assert issubclass(kind, errors.RefimplError), name
        builtins = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        assert builtins[0] is not Exception or kind is errors.RefimplError, name


# --- masks, positions and caches that do not mean what they seem to ---------------------------------------------------------


@pytest.mark.parametrize("mask", [[[0.0, 1.0]], [[2, 1]], [[-1, 0]]])
def test_masks_that_are_not_true_or_false_are_refused(mask: Any, model: Any, system: System) -> None:
    ids = system.to(np.array([[1, 2]]))
    given = (
        mask
        if system.is_ball or isinstance(mask[0][0], int)
        else system.xp.asarray(mask, dtype=system.xp.float32, device=system.device)
    )
    with _refused(errors.DtypeError, "must say true or false", "0 and 1", "additive mask", "additive_mask == 0"):
        gpt2.logits(model, TINY, ids, mask=given)


def test_masks_of_zeros_and_ones_are_booleans(model: Any, system: System) -> None:
    ids = system.to(np.array([[1, 2, 3]]))
    answers = [
        system.back(gpt2.logits(model, TINY, ids, mask=system.to(np.array([[0, 1, 1]], dtype))))
        for dtype in (bool, np.int64, np.uint8)
    ]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_positions_that_do_not_fit_are_refused(model: Any, system: System) -> None:
    ids = system.to(np.array([[1, 2], [3, 4]]))
    for wrong in ([0, 1, 2], [0], [[0], [1]], 0, [[[0, 1], [0, 1]]]):
        given = system.to(np.array(wrong))
        with _refused(errors.ShapeError, "positions must fit", "positions", "(2, 2) or (2,)", str(tuple(given.shape))):
            gpt2.logits(model, TINY, ids, positions=given)
    with _refused(errors.TokenError, "positions must be whole numbers", "an integer dtype", "float32"):
        floats = system.xp.asarray([0.0, 1.0], dtype=system.xp.float32, device=system.device)
        gpt2.logits(model, TINY, ids, positions=floats)


def test_a_cache_of_another_batch_is_refused(model: Any, system: System) -> None:
    _, cache = gpt2.forward(model, TINY, system.to(np.array([[1, 2], [3, 4]])))
    with _refused(errors.ShapeError, "the cache holds another batch", "2 rows, as in the cache", "1 rows"):
        gpt2.forward(model, TINY, system.to(np.array([[5]])), cache=cache)


def test_a_prompt_that_ends_in_padding_is_refused_by_the_decoder(model: Any, system: System) -> None:
    decoder, ids = gpt2.CachedDecoder(model, TINY), system.to(np.array([[1, 2], [3, 4]]))
    with _refused(errors.ShapeError, "ends in padding", "start(mask)", "left padding", "to the left"):
        decoder.start(ids, system.to(np.array([[True, True], [True, False]])))
    scores, _ = decoder.start(ids, system.to(np.array([[True, True], [False, True]])))
    assert scores.shape == (2, 11)


def test_weights_of_mixed_dtypes_are_listed() -> None:
    arrays = {n: NUMPY.floats(a, "float32") for n, a in models.random_arrays(TINY).items()}
    arrays["final_norm.bias"] = NUMPY.floats(np.zeros(6), "float64")
    with _refused(errors.ConfigError, "(1 problems)", "mixed dtypes: float32, float64"):
        gpt2.GPT2Weights.from_named(arrays, TINY)


@pytest.mark.parametrize("name", ["mask", "previous_scores"])
def test_attention_refuses_what_would_make_the_scores_larger(name: str) -> None:
    q, k = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    wide = {"mask": np.ones((7, 5), bool), "previous_scores": np.ones((7, 5))}[name]
    with pytest.raises(errors.ShapeError, match=rf"{name} does not fit[\s\S]*\(2, 3, 5\)[\s\S]*\(7, 5\)"):
        attention.scaled_dot_product_attention(q, k, k, **{name: wide})
    with pytest.raises(errors.ShapeError, match="query, key and value do not fit"):
        attention.scaled_dot_product_attention(q, k[0, 0], k)


def test_attention_refuses_unknown_scores_to_hand_on() -> None:
    q, k = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    for wrong in ("previous", None):
        with _refused(errors.ConfigError, "unknown scores to hand on", "hand_on=", "sum, own", repr(wrong)):
            attention.scaled_dot_product_attention(q, k, k, hand_on=wrong)  # type: ignore[arg-type]


def test_a_mask_of_numbers_is_refused_rather_than_turned_round() -> None:
    with pytest.raises(errors.DtypeError, match=r"a mask must be boolean[\s\S]*float64[\s\S]*additive >= 0"):
        softmax.masked_softmax(np.array([1.0, 2, 3]), np.array([0.0, 0, -1e9]))
    with pytest.raises(errors.DtypeError, match="a mask must be boolean"):
        attention.scaled_dot_product_attention(*(np.ones((1, 2)),) * 3, mask=np.zeros((1, 1)))


def test_attention_without_a_key_or_a_query_says_so() -> None:
    some, none = np.ones((1, 3, 4)), np.ones((1, 0, 4))
    with pytest.raises(errors.ShapeError, match=r"there is no key to attend to[\s\S]*\(1, 0, 4\)"):
        attention.scaled_dot_product_attention(some, none, none)
    with pytest.raises(errors.ShapeError, match=r"there is no query[\s\S]*\(1, 0, 4\)"):
        linear_attention.linear_attention(none, some, some)


def test_favor_wants_one_dtype() -> None:
    x, projection = np.ones((1, 3, 4), np.float32), np.ones((2, 4), np.float32)
    with pytest.raises(
        errors.DtypeError, match=r"must have one dtype[\s\S]*favor_attention\(v\)[\s\S]*float32[\s\S]*float64"
    ):
        favor.favor_attention(x, x, x.astype(np.float64), projection)


WHOLE = {
    "k": lambda ten, two: softmax.top_k_selection(ten, two),
    "loss": lambda ten, two: softmax.sparse_softmax_cross_entropy(
        ten, namespace(ten).asarray([1], device=device_of(ten)), two
    ),
    "order": lambda ten, two: taylor.taylor_softmax(ten, two),
    "scale": lambda ten, two: taylor.taylor_attention(ten, ten, ten, scale=two),
    "mean_over": lambda ten, two: attention.scaled_dot_product_attention(ten, ten, ten, mean_over=two)[0],
    "chunk": lambda ten, two: linear_attention.linear_attention(ten * ten, ten * ten, ten, chunk=two)[0],
    "clip": lambda ten, two: positions.relative_positions(1, 3, 4, like=ten, clip=two),
    "alpha": lambda ten, two: positions.hierarchical_positions(namespace(ten).reshape(ten, (2, 5)), [0, 3], two),
    "bases": lambda ten, two: positions.hierarchical_bases(namespace(ten).reshape(ten, (2, 5)), two),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_a_whole_number_of_any_kind_is_one(name: str, kind: Any, system: System) -> None:
    """The answer is that of the int, and has its dtype: a NumPy integer beside an array of float32 would widen it."""
    ten = system.to(np.arange(1, 11, dtype=np.float32)[None, :])
    wanted, found = WHOLE[name](ten, 2), WHOLE[name](ten, kind(2))
    assert found.dtype == wanted.dtype
    assert str(found) == str(wanted)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [True, np.True_, np.array(True), np.array([2]), "2", None])
def test_what_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    if value is None and name == "scale":
        pytest.skip("None is the scale 1/√d")
    ten = np.arange(1.0, 11.0)[None, :]
    with pytest.raises(errors.ConfigError):
        WHOLE[name](ten, value)


@pytest.mark.parametrize("kind", [np.int32, np.array])
def test_sizes_may_be_of_any_kind_and_become_ints(kind: Any) -> None:
    gpt = gpt2.GPT2Config(kind(11), kind(7), kind(8), kind(2), kind(2), n_inner=kind(12))
    encoder = bert.BertConfig(kind(11), kind(8), kind(2), kind(2), max_position_embeddings=kind(7), clip=kind(3))
    for value in (gpt.vocab_size, gpt.n_inner, encoder.hidden_size, encoder.clip, encoder.type_vocab_size):
        assert type(value) is int
    assert gpt == gpt2.GPT2Config(11, 7, 8, 2, 2, n_inner=12)
    for wrong in (True, np.True_, 2.0):
        with pytest.raises(errors.ConfigError, match="not a positive whole number"):
            gpt2.GPT2Config(11, 7, 8, 2, wrong)
        with pytest.raises(errors.ConfigError, match="not a positive whole number"):
            bert.BertConfig(11, 8, wrong, 2)
    with pytest.raises(errors.ConfigError, match="not a positive whole number"):
        bert.BertConfig(11, 8, 2, 2, type_vocab_size=False)


def test_features_beams_and_tokens_kept_may_be_of_any_kind() -> None:
    for wrong in (True, np.True_, 2.0):
        with pytest.raises(errors.ConfigError, match="whole number"):
            favor.gaussian(np.random.default_rng(0), wrong, 3)
        with pytest.raises(errors.ConfigError, match="whole number"):
            decoding.top_k_mask(np.ones(3), wrong)
        with pytest.raises(errors.ConfigError, match="whole number"):
            decoding._check_beams(wrong, 1.0)
    assert favor.gaussian(np.random.default_rng(0), np.array(2), np.int8(3)).shape == (2, 3)
    assert decoding.top_k_mask(np.arange(3.0), np.int64(2)).tolist() == [False, True, True]
    decoding._check_beams(np.int64(2), 1.0)
