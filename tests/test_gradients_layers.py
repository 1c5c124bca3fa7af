"""Backward passes of linear maps, attention, layers, GPT-2, BERT and pooling.

Three statements about every rule: its value is the definition's, bit for bit, on every number system; its pullback is the transposed derivative, to
40 digits, of which the other side is a difference quotient of the definition alone in 512-bit balls; and its cotangents are within the proved
budget of the enclosure of the exact ones in every dtype. Then what masks, padding, causality and unused rows make exactly zero.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import array_api_compat
import flint
import models
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from systems import BALLS, NUMPY, SYSTEMS, System, rounded, unchanged

from refimpl import attention, bert, blocks, errors, gpt2, inputs, parameters, pooling
from refimpl.gradients import rule_of, vjp, zeros
from refimpl.spaces import seq2seq
from refimpl.trees import leaves, mapped
from validation import tolerance, truth

GPT2_IDS = np.array([[3, 0, 7, 10, 0], [1, 1, 9, 0, 5]])
GPT2_MASK = np.array([[False, False, True, True, True], [True] * 5])
BERT = bert.BertConfig(7, 4, 2, 2, 6, max_position_embeddings=6)
ROBERTA = dataclasses.replace(BERT, position_offset=2, pad_token_id=1, type_vocab_size=0, max_position_embeddings=9)
NEZHA = dataclasses.replace(BERT, max_position_embeddings=None, clip=2)
BERT_IDS, SEGMENTS = np.array([[3, 5, 1, 0], [6, 6, 4, 0]]), np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
BERT_MASK = np.array([[True] * 4, [True] * 3 + [False]])
FIRST_LAST = np.array([[True, False, True, True], [False, True, True, False]])


class Case(NamedTuple):
    name: str
    definition: Any
    arguments: dict[str, Any]  # by name; floating NumPy arrays, alone or in trees, are rounded to the dtype under test


def _random(shape: Any, seed: int, spread: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(0, spread, shape)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _layer(d: int = 4, inner: int = 6) -> parameters.Block:
    rng = np.random.default_rng(3)
    shapes = parameters.Block.shapes(d, inner)
    return parameters.Block.from_named(
        {name: rng.normal(float(name.endswith("scale")), 0.3, shape) for name, shape in shapes.items()}, ""
    )


def _bert(config: bert.BertConfig, groups: tuple[str, ...] = ()) -> bert.BertWeights:
    rng = np.random.default_rng(5)
    arrays = {
        name: rng.normal(1.0 if name.endswith("scale") else 0.0, 0.2 if "norm" in name else 0.5, shape)
        for name, shape in bert.BertWeights.shapes(config, groups).items()
    }
    return bert.BertWeights.from_named(arrays, config)


def _gpt2(config: gpt2.GPT2Config) -> gpt2.GPT2Weights:
    return gpt2.GPT2Weights.from_named(models.random_arrays(config), config)


def _attention_cases() -> list[Case]:
    q, k, v = _random((2, 2, 3, 4), 1), _random((2, 2, 5, 4), 2), _random((2, 2, 5, 2), 3)
    mask = np.random.default_rng(4).random((2, 1, 3, 5)) < 0.6
    mask[0, 0, 1], mask[:, :, :, 2] = False, False  # a query that sees nothing, a key that nobody sees
    previous, relative = _random((2, 2, 3, 5), 5), _random((3, 5, 4), 6)
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "mask": {"mask": mask},
        "previous-mean": {"previous_scores": previous, "mask": mask, "mean_over": 3},
        "previous-own": {"previous_scores": previous, "mask": mask, "mean_over": 3, "hand_on": "own"},
        "relative": {"relative": relative, "v": _random((2, 2, 5, 4), 7), "mask": mask[0, 0]},
    }
    narrow = {"q": q[:, :1], "k": k[0], "v": v[:1], "previous_scores": previous[:, :, :1, :1], "mask": mask[0, 0, 2]}
    wide = {"q": q[0, 0], "k": k[0, 0], "v": v[0, 1:], "previous_scores": previous, "hand_on": "own", "mask": mask}
    wide |= {"v": _random((5, 4), 8), "relative": relative}
    everything = [{"q": q, "k": k, "v": v} | more for more in options.values()] + [narrow, wide]
    names = [*options, "broadcast", "broadcast-relative"]
    definition = attention.scaled_dot_product_attention
    return [Case(f"attention-{name}", definition, given) for name, given in zip(names, everything, strict=True)]


def _layer_cases() -> list[Case]:
    layer, x, causal = _layer(), _random((2, 3, 4), 11), np.tri(3, dtype=bool)
    before = (_random((2, 2, 2, 2), 12), _random((2, 2, 2, 2), 13))
    seen = np.concatenate([np.ones((3, 2), dtype=bool), causal], axis=1)
    previous, relative = _random((2, 2, 3, 3), 14), _random((3, 3, 2), 15)
    form, common = blocks.Form(2, 1e-5, "tanh"), {"layer": layer, "x": x}
    residual = {"previous_scores": previous, "relative": relative, "mask": causal}
    return [
        Case("self_attention", blocks.self_attention, common | residual | {"heads": 2, "hand_on": "own"}),
        Case("self_attention-before", blocks.self_attention, common | {"heads": 2, "before": before, "mask": seen}),
        Case("feed_forward", blocks.feed_forward, common | {"activation": "none"}),
        Case("pre_ln", blocks.pre_ln, common | {"form": form, "mask": causal}),
        Case("pre_ln-before", blocks.pre_ln, common | {"form": form, "before": before, "mask": seen}),
        Case("post_ln", blocks.post_ln, common | {"form": form, "mask": causal, "relative": relative}),
        Case("realformer", blocks.realformer, common | residual | {"form": form, "mean_over": 2}),
        Case("realformer-before", blocks.realformer, common | {"form": form, "before": before, "mask": seen}),
        Case("realformer-own", blocks.realformer, common | residual | {"form": form, "hand_on": "own"}),
    ]


def _gpt2_cases() -> list[Case]:
    tied = models.TINY
    untied = dataclasses.replace(models.UNTIED, n_layer=1)
    common = {"token_ids": GPT2_IDS, "mask": GPT2_MASK}
    on_tied, on_untied = (common | {"weights": _gpt2(config), "config": config} for config in (tied, untied))
    return [
        Case("gpt2-states", gpt2.hidden_states, on_untied),
        Case("gpt2-tied", gpt2.logits, on_tied),
        Case("gpt2-untied", gpt2.logits, on_untied | {"positions": np.arange(2, 7), "mask": None}),
        Case("gpt2-bert4keras", gpt2.logits, on_tied | {"dialect": "bert4keras"}),
    ]


def _bert_cases() -> list[Case]:
    def case(name: str, config: bert.BertConfig, **more: Any) -> Case:
        weights = {"weights": _bert(config), "config": config}
        return Case(name, bert.encode, weights | {"token_ids": BERT_IDS, "mask": BERT_MASK} | more)

    heads, hidden = _bert(BERT, ("pooler", "next_sentence", "masked_lm")), _random((2, 3, 4), 21)
    untied = heads._replace(output_embedding=_random((7, 4), 22))
    words = {"config": BERT, "hidden": hidden}
    running = dataclasses.replace(NEZHA, residual_attention="mean")
    states = {"weights": _bert(running), "config": running, "token_ids": BERT_IDS, "mask": BERT_MASK}
    return [
        case("bert", BERT, segment_ids=SEGMENTS),
        case("bert-unilm", BERT, segment_ids=SEGMENTS, application="unilm", dialect="bert4keras-0.9"),
        case("roberta-lm", ROBERTA, application="lm", mask=None),
        case("nezha", NEZHA, dialect="bert4keras"),
        case("bert-realformer", dataclasses.replace(BERT, residual_attention="sum")),
        case(
            "bert-previous",
            dataclasses.replace(BERT, num_hidden_layers=3, residual_attention="sum"),
            dialect="bert4keras",
        ),
        Case("nezha-states", bert.hidden_states, states),
        Case("pooled", bert.pooled, {"weights": heads, "hidden": hidden}),
        Case("pooled-one", bert.pooled, {"weights": heads, "hidden": hidden[:, :1]}),
        Case("next_sentence", bert.next_sentence_logits, {"weights": heads, "hidden": hidden}),
        Case("masked_lm", bert.masked_lm_logits, words | {"weights": heads}),
        Case("masked_lm-untied", bert.masked_lm_logits, words | {"weights": untied, "dialect": "bert4keras"}),
        Case("masked_lm-vectors", bert.masked_lm_vectors, words | {"weights": heads}),
        Case("masked_lm-scores", bert.masked_lm_scores, {"weights": untied, "vectors": hidden}),
        Case("seq2seq", seq2seq.logits, _generator("huggingface", BERT)),
        Case(
            "seq2seq-loss",
            seq2seq.loss,
            _generator("bert4keras-0.9", NEZHA) | {"labels": np.array([[0, 1, 2]] * 2), "k": 3},
        ),
    ]


def _generator(dialect: str, config: bert.BertConfig) -> dict[str, Any]:
    """A generator of SPACES, and two rows of source and target."""
    whole = seq2seq.Seq2SeqConfig(dataclasses.replace(config, num_hidden_layers=1), 1, 2, dialect)
    shapes = seq2seq.Seq2SeqWeights.shapes(whole)
    tags = {name: _random(shapes[name], 41, 0.5) for name in seq2seq.TAGS}
    encoder = _bert(whole.bert, ("masked_lm",)).named()
    given = {"weights": seq2seq.Seq2SeqWeights.from_named(encoder | tags, whole), "config": whole}
    return given | {"token_ids": BERT_IDS, "segment_ids": SEGMENTS, "mask": BERT_MASK}


def _cases() -> list[Case]:
    x = _random((2, 4, 3), 31)
    linear = {"weight": _random((3, 5), 32), "bias": _random(5, 33)}
    return [
        Case("rows", inputs.rows, {"table": _random((5, 3), 34), "ids": np.array([[4, 0], [4, 2]])}),
        Case("affine", parameters.affine, {"x": x} | linear),
        Case("affine-one", parameters.affine, {"x": x[0, 0]} | linear),
        Case("product", parameters.product, {"x": x, "y": _random((3, 5), 35)}),
        Case("split_heads", attention.split_heads, {"x": _random((2, 3, 4), 36), "heads": 2}),
        Case("merge_heads", attention.merge_heads, {"x": _random((2, 3, 2, 2), 37)}),
        Case("mean_pooling", pooling.mean_pooling, {"hidden": x, "mask": FIRST_LAST}),
        Case("unit_length", pooling.unit_length, {"x": x}),
        *_attention_cases(),
        *_layer_cases(),
        *_gpt2_cases(),
        *_bert_cases(),
    ]


CASES = _cases()
LAYOUTS = ("numpy-read-only", "numpy-fortran", "numpy-strided")
PAIRS = [
    pytest.param(case, *system.values, id=f"{system.id}-{case.name}", marks=system.marks)
    for system in SYSTEMS
    for case in CASES
    if "weights" not in case.arguments or system.id not in LAYOUTS  # models are made of the parts
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


# --- trees of arrays ------------------------------------------------------------------------------------------------------------------


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in leaves(tree) if hasattr(leaf, "dtype")]


def _moved(tree: Any, system: System, dtype: str) -> Any:
    """The tree with its arrays on a system, those that are floating rounded."""

    def moved(leaf: Any) -> Any:
        if _is_floating(leaf):
            return system.floats(leaf, dtype)
        return system.to(leaf) if isinstance(leaf, np.ndarray) else leaf

    return mapped(moved, tree)


def _results(value: Any) -> tuple[Any, ...]:
    return value if type(value) is tuple else (value,)


@functools.cache
def _bars(name: str) -> tuple[Any, ...]:
    """Random cotangents of a case's results."""
    case = next(case for case in CASES if case.name == name)
    rng = np.random.default_rng(99)
    return mapped(lambda part: rng.normal(size=part.shape), _results(case.definition(**case.arguments)))


def _differentiable(case: Case) -> dict[str, Any]:
    """The arguments that get cotangents, by name, None where they are not given."""
    return {name: case.arguments.get(name) for name in rule_of(case.definition).arguments}


def _dot(a: Any, b: Any) -> Any:
    """Σ over all numbers of two trees of balls."""
    pairs = list(zip(_arrays(a), _arrays(b), strict=True))
    assert all(x.shape == y.shape for x, y in pairs)
    return sum((np.sum(x * y) for x, y in pairs), flint.arb(0))


def _exactly(tree: Any, number: float) -> bool:
    return all(np.all(array == number) for array in _arrays(tree))


# --- three statements about every rule ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _bits() -> Any:
    with truth.precision(256):
        yield


@every_case
def test_pullback_is_the_transposed_derivative(case: Case) -> None:
    """ȳ·(f(x + h t) - f(x - h t))/2h = x̄·t + O(h²), h = 2^-160, for a random t in all arguments at once, and in each of them."""
    step = flint.arb(2) ** -160
    with truth.precision(512):
        given, bars = _moved(case.arguments, BALLS, "float64"), _moved(_bars(case.name), BALLS, "float64")
        cotangents = vjp(case.definition, **given)[1](*bars)
        named = dict(zip(_differentiable(case), cotangents, strict=True))
        rng = np.random.default_rng(17)
        tangents = {n: mapped(lambda a: truth.balls(rng.normal(size=a.shape)), given.get(n)) for n in named}

        def along(names: Any, side: int) -> Any:
            moved = {n: mapped(lambda x, t: x + side * step * t, given[n], tangents[n]) for n in names if n in given}
            return _results(case.definition(**(given | moved)))

        for names in [[name] for name in named if named[name] is not None] + [list(named)]:
            slope = (_dot(bars, along(names, 1)) - _dot(bars, along(names, -1))) / (2 * step)
            found = sum((_dot(named[name], tangents[name]) for name in names), flint.arb(0))
            assert abs(slope - found) < flint.arb(10) ** -40 * (1 + abs(slope)), names


@every_case
def test_a_cotangent_that_is_left_out_is_zero_and_pullbacks_add_up(case: Case) -> None:
    bars = _moved(_bars(case.name), BALLS, "float64")
    pullback = vjp(case.definition, **_moved(case.arguments, BALLS, "float64"))[1]
    together, parts = pullback(*bars), []
    for i, bar in enumerate(bars):
        alone = [None if j != i else bar for j in range(len(bars))]
        parts.append(pullback(*alone))
        padded = pullback(*(zeros(other) if j != i else bar for j, other in enumerate(bars)))
        for a, b in zip(_arrays(parts[-1]), _arrays(padded), strict=True):
            assert all(x.overlaps(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    added = functools.reduce(lambda a, b: mapped(lambda x, y: x + y, a, b), parts)
    for a, b in zip(_arrays(together), _arrays(added), strict=True):
        assert all(x.overlaps(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
        assert np.max(truth.radii(a)) < 1e-50


def _flat(case: Case, *arrays: Any) -> Any:
    """All cotangents in one row, as a function of all floating arrays of the arguments and the results' cotangents."""
    given = iter(arrays)
    arguments, bars = (
        mapped(lambda leaf: next(given) if _is_floating(leaf) else leaf, tree)
        for tree in (case.arguments, _bars(case.name))
    )
    cotangents = _arrays(vjp(case.definition, **arguments)[1](*bars))
    return array_api_compat.array_namespace(cotangents[0]).concat([bar.reshape(-1) for bar in cotangents])


@functools.cache
def _truth(name: str, dtype: str) -> tuple[Any, Any]:
    """The enclosure of the exact cotangents for the rounded arguments, and their proved budget."""
    case = next(case for case in CASES if case.name == name)
    arrays = [rounded(a, dtype) for a in leaves((case.arguments, _bars(name))) if _is_floating(a)]
    flat = functools.partial(_flat, case)
    return flat(*map(truth.balls, arrays)), tolerance.proved_budget(flat, *arrays, dtype=dtype)


@pytest.mark.parametrize(("case", "system"), PAIRS)
def test_value_bit_for_bit_and_cotangents_within_the_proved_budget(case: Case, system: System) -> None:
    """In every dtype of NumPy, and the widest of every other system; nothing given is changed, and what comes out stays where the arguments are.

    Of whole models in 16 bits the value and the form of the cotangents are looked at, not their accuracy.
    """
    for dtype in system.dtypes if system is NUMPY else system.dtypes[-1:]:
        arguments, bars = _moved(case.arguments, system, dtype), _moved(_bars(case.name), system, dtype)
        given = _arrays((arguments, bars))
        before = [np.array(system.back(a)) for a in given]
        value, pullback = vjp(case.definition, **arguments)
        expected = case.definition(**arguments)
        same = (lambda a, b: list(map(repr, a.ravel())) == list(map(repr, b.ravel()))) if system.is_ball else unchanged
        for ours, theirs in zip(_arrays(value), _arrays(expected), strict=True):
            assert same(*(x if system.is_ball else system.back(x) for x in (ours, theirs)))
        cotangents = pullback(*bars)
        for name, bar in zip(_differentiable(case), cotangents, strict=True):
            assert [a.shape for a in _arrays(bar)] == [a.shape for a in _arrays(arguments.get(name))]
        assert all(array_api_compat.array_namespace(a) is system.xp for a in _arrays(cotangents))
        assert all(array_api_compat.device(a) == system.device for a in _arrays(cotangents))
        assert all(np.array_equal(old, system.back(a)) for old, a in zip(before, given, strict=True))
        if "16" in dtype and "weights" in case.arguments:
            continue
        flat = np.concatenate([(a if system.is_ball else system.back(a)).reshape(-1) for a in _arrays(cotangents)])
        enclosure, budget = _truth(case.name, dtype)
        if system.is_ball:
            assert all(x.overlaps(y) for x, y in zip(flat, enclosure, strict=True))
        else:
            verdict = tolerance.judge(flat, enclosure, budget, dtype)
            assert verdict.passed, (dtype, verdict)


# --- what is exactly zero -------------------------------------------------------------------------------------------------------------


@st.composite
def _masks(draw: Any) -> Any:
    """A mask of pairs (3, 4) in which some queries see nothing and some keys are seen by nobody."""
    flags = st.lists(st.booleans(), min_size=12, max_size=12)
    queries, keys = (draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in (3, 4))
    return np.reshape(draw(flags), (3, 4)) & np.array(queries)[:, None] & np.array(keys)[None, :]


@drawn(_masks())
def test_what_is_masked_gets_zero_and_has_no_influence_whatever_it_holds(mask: Any) -> None:
    """NaN in the keys, queries, scores and cotangents that the forward pass does not look at: the same bits as with numbers there."""
    q, k, v, previous = (_random(shape, 40 + i) for i, shape in enumerate([(3, 2), (4, 2), (4, 5), (3, 4)]))
    bar, blind, hidden = _random((3, 5), 50), ~mask.any(axis=1), ~mask.any(axis=0)

    def cotangents(hole: float) -> Any:
        holed = [a.copy() for a in (q, k, previous, bar)]
        for array, place in zip(holed, (blind, hidden, ~mask, blind), strict=True):
            array[place] = hole
        rule = attention.scaled_dot_product_attention_vjp
        return rule(holed[0], holed[1], v, mask=mask, previous_scores=holed[2])[1](holed[3])

    found = cotangents(np.nan)
    assert all(unchanged(a, b) for a, b in zip(found[:4], cotangents(1.5)[:4], strict=True))
    q_bar, k_bar, v_bar, previous_bar, _ = found
    for array, place in ((q_bar, blind), (k_bar, hidden), (v_bar, hidden), (previous_bar, ~mask)):
        assert np.all(array[place] == 0)
    assert np.all(np.isfinite(np.concatenate([a.ravel() for a in found[:4]])))


def test_scores_that_are_handed_on_reach_masked_pairs() -> None:
    """They carry no mask: their cotangent goes to the queries and keys of all pairs."""
    q, k, v, bar = (_random(shape, 60 + i) for i, shape in enumerate([(2, 3), (2, 3), (2, 3), (2, 2)]))
    nothing = np.zeros((2, 2), dtype=bool)
    rule = attention.scaled_dot_product_attention_vjp
    q_bar, k_bar, v_bar, *_ = rule(q, k, v, mask=nothing)[1](None, bar)
    assert np.array_equal(q_bar, (bar / np.sqrt(3)) @ k)
    assert np.array_equal(k_bar, (bar / np.sqrt(3)).T @ q)
    assert _exactly(v_bar, 0)


def test_gpt2_is_causal_backwards() -> None:
    """The cotangent of the logits at place t reaches the tokens and positions up to t, and no embedding else; the head's table is apart."""
    config = models.UNTIED
    weights, t = _gpt2(config), 2
    value, pullback = gpt2.logits_vjp(weights, config, GPT2_IDS)
    bar = np.zeros_like(value)
    bar[0, t] = _random(config.vocab_size, 70)
    (bars,) = pullback(bar)
    reached = np.isin(np.arange(config.vocab_size), GPT2_IDS[0, : t + 1])
    assert np.array_equal(bars.token_embedding.any(axis=1), reached)
    assert np.array_equal(bars.position_embedding.any(axis=1), np.arange(config.n_positions) <= t)
    assert all(np.any(leaf != 0) for leaf in leaves(bars))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_gets_nothing_where_its_logits_get_nothing(side: str) -> None:
    """The cotangents of all parameters are those of the text without padding; the padding's own row of the table is exactly 0."""
    config, text = models.UNTIED, np.array([[3, 7, 10]])
    weights, pad = _gpt2(config), np.array([[5, 5]])
    padded = np.concatenate([pad, text] if side == "left" else [text, pad], axis=1)
    real = padded != 5
    bar = _random((1, 3, config.vocab_size), 71)
    (plain,) = gpt2.logits_vjp(weights, config, text)[1](bar)
    wide = np.zeros((1, 5, config.vocab_size))
    wide[real] = bar[0]
    (bars,) = gpt2.logits_vjp(weights, config, padded, mask=real)[1](wide)
    assert np.all(bars.token_embedding[5] == 0)
    for a, b in zip(leaves(bars), leaves(plain), strict=True):
        assert np.max(np.abs(a - b)) <= 1e-12 * np.max(np.abs(b))


def test_bert_rows_that_are_not_read_get_zero() -> None:
    weights = _bert(ROBERTA)
    value, pullback = bert.encode_vjp(weights, ROBERTA, BERT_IDS)
    (bars,) = pullback(_random(value.shape, 72))
    assert np.array_equal(bars.token_embedding.any(axis=1), np.isin(np.arange(7), BERT_IDS))
    # position 0 is row 2; id 1 is padding, which has row 1; the other row has five tokens, the first has three
    assert np.array_equal(bars.position_embedding.any(axis=1), np.isin(np.arange(9), [1, 2, 3, 4, 5]))
    assert bars.segment_embedding is None
    assert bars.pooler is None


def test_heads_give_zero_to_all_other_parameters() -> None:
    """So that the cotangents of a head and of the encoder have one form, and are added leaf by leaf."""
    weights, hidden = _bert(BERT, ("pooler", "next_sentence", "masked_lm")), _random((2, 3, 4), 73)
    bars, hidden_bar = bert.next_sentence_logits_vjp(weights, hidden)[1](_random((2, 2), 74))
    assert np.any(bars.pooler.weight)
    assert np.any(bars.next_sentence.bias)
    assert np.any(hidden_bar[:, 0])
    assert np.all(hidden_bar[:, 1:] == 0)
    assert _exactly(bars._replace(pooler=None, next_sentence=None), 0)
    words, _ = bert.masked_lm_logits_vjp(weights, BERT, hidden)[1](_random((2, 3, 7), 75))
    assert np.any(words.token_embedding)
    assert _exactly(words._replace(masked_lm=None, token_embedding=None), 0)


def test_unit_length_moves_at_right_angles_and_not_with_the_length() -> None:
    """x·x̄ = 0, and at 2^k x the cotangent is 2^-k times as long, bit for bit, at both ends of the range."""
    x, bar = _random((4, 3), 76), _random((4, 3), 77)
    (x_bar,) = pooling.unit_length_vjp(x)[1](bar)
    assert np.max(np.abs(np.sum(x * x_bar, axis=-1))) < 1e-14
    for k in (-900, 900):
        assert np.array_equal(pooling.unit_length_vjp(x * 2.0**k)[1](bar)[0], x_bar * 2.0**-k)


# --- refusals -------------------------------------------------------------------------------------------------------------------------


def test_cotangents_of_parts_are_checked_one_by_one() -> None:
    states, pullback = gpt2.hidden_states_vjp(_gpt2(models.TINY), models.TINY, GPT2_IDS)
    with _refused(errors.ShapeError, "of several parts", "gpt2.hidden_states", "4 cotangents, or None"):
        pullback(states[:2])
    with _refused(errors.ShapeError, "shape of its result", "(2, 5, 6)", "(5, 6)"):
        pullback([None, states[1][0], None, None])
    with _refused(errors.DtypeError, "float64", "float32"):
        pullback([None, None, None, states[3].astype(np.float32)])
    (value, seen), pullback = blocks.pre_ln_vjp(_layer(), _random((1, 3, 4), 80), blocks.Form(2, 1e-5))
    with _refused(errors.ShapeError, "shape of its result", "(1, 2, 3, 3)"):
        pullback(value, seen._replace(scores=value, keys=None))
    with _refused(errors.ShapeError, "3 cotangents, or None, in the form of the Attended"):
        pullback(value, seen.scores)
    with _refused(errors.ConfigError, "pooler"):
        bert.pooled_vjp(_bert(BERT), value)
    with _refused(errors.ShapeError, "3 cotangents, or None, in the form of the Attended"):
        pullback(value, (None, None, seen.scores))


def test_positions_of_eight_bits_are_positions() -> None:
    config, at = dataclasses.replace(models.TINY, n_positions=300), np.arange(GPT2_IDS.shape[1])
    weights = _gpt2(config)
    bars = []
    for dtype in (np.int64, np.uint8):
        states, pullback = gpt2.hidden_states_vjp(weights, config, GPT2_IDS, positions=at.astype(dtype))
        bars.append(leaves(pullback(list(states))))
    assert all(map(np.array_equal, *bars))


def test_values_may_have_axes_that_the_scores_have_not() -> None:
    q, k, v, bar = (_random(shape, 90 + i) for i, shape in enumerate(((3, 4), (5, 4), (2, 5, 4), (2, 3, 4))))
    bars = attention.scaled_dot_product_attention_vjp(q, k, v)[1](bar)
    apart = [attention.scaled_dot_product_attention_vjp(q, k, v[i])[1](bar[i]) for i in range(2)]
    for i in range(2):
        np.testing.assert_allclose(bars[i], apart[0][i] + apart[1][i], rtol=1e-13)
