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
from systems import BALLS, NUMPY, System, rounded, unchanged

from refimpl import attention, bert, blocks, gpt2, inputs, parameters, pooling
from refimpl.gradients import rule_of, vjp, zeros
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
    ]


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
    return sum((np.sum(x * y) for x, y in zip(_arrays(a), _arrays(b), strict=True)), flint.arb(0))


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
        tangents = {name: mapped(lambda a: truth.balls(rng.normal(size=a.shape)), bar) for name, bar in named.items()}

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


@every_case
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
