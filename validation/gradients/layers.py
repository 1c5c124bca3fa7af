"""Cases of linear maps, attention, layers, embeddings, positions, pooling and whole models."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import bert, blocks, convolution, gpt2, mlp, parameters  # noqa: F401 - importing them registers rules
from refimpl.activation import gelu
from refimpl.spaces import seq2seq
from validation.gradients.case import EVERY, Case, of
from validation.gradients.rows import SURE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WIDE = ("float32", "float64")


def _drawn(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Parameters of ordinary size: scales near 1, everything else near 0."""
    spread = {True: 0.2, False: 0.5}
    return {
        name: rng.normal(float(name.endswith("scale")), spread["norm" in name], shape) for name, shape in shapes.items()
    }


def _layer(rng: np.random.Generator, d: int = 4, inner: int = 6) -> parameters.Block:
    return parameters.Block.from_named(_drawn(rng, parameters.Block.shapes(d, inner)), "")


# --- linear maps ----------------------------------------------------------------------------------------------------------------------


@of("parameters.affine")
def _affine(rng: np.random.Generator) -> Iterator[Case]:
    for label, hard, rows in (
        ("rows", "two axes", (3,)),
        ("batch", "weights are summed over two axes", (2, 2)),
        ("vector", "one row, without an axis", ()),
    ):
        given = {"x": rng.normal(size=(*rows, 3)), "weight": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
        yield Case(label, hard, given, dtypes=EVERY if rows == (3,) else ())


@of("parameters.product")
def _product(rng: np.random.Generator) -> Iterator[Case]:
    for label, hard, rows in (("rows", "two axes", (3,)), ("batch", "the table is summed over", (2, 2))):
        given = {"x": rng.normal(size=(*rows, 3)), "y": rng.normal(size=(3, 4))}
        yield Case(label, hard, given, dtypes=EVERY if rows == (3,) else ())


@of("mlp.perceptron")
def _perceptron(rng: np.random.Generator) -> Iterator[Case]:
    layers = tuple(
        parameters.Linear(rng.normal(size=(a, b)), rng.normal(size=b)) for a, b in itertools.pairwise((3, 4, 2))
    )
    yield Case("tanh", "two axes", {"layers": layers, "x": rng.normal(size=(2, 2, 3))}, dtypes=WIDE, sampled=True)
    yield Case("gelu", "another activation", {"layers": layers, "x": rng.normal(size=(2, 3)), "activation": gelu})
    yield Case("linear", "one layer, no activation", {"layers": layers[:1], "x": rng.normal(size=(2, 3))})


@of("inputs.rows")
def _rows(rng: np.random.Generator) -> Iterator[Case]:
    table = rng.normal(size=(5, 3))
    ids = np.array([[0, 4, 4], [4, 2, 0]])
    yield Case("repeated", "a row taken three times, others never", {"table": table, "ids": ids}, dtypes=EVERY)
    yield Case("one", "one id", {"table": table, "ids": np.array([3])})


# --- convolutions ---------------------------------------------------------------------------------------------------------------------


def _convolved(rng: np.random.Generator, taps: int, into: int = 2, out: int = 4) -> dict[str, Any]:
    return {"kernel": rng.normal(size=(taps, into, out)), "bias": rng.normal(size=out)}


@of("convolution.dilated_convolution")
def _dilated(rng: np.random.Generator) -> Iterator[Case]:
    for taps, dilation, rows in ((3, 1, (4,)), (3, 2, (2, 5)), (2, 1, (3,)), (2, 3, (2,)), (1, 2, (2,))):
        given = {"x": rng.normal(size=(*rows, 2)), "dilation": dilation} | _convolved(rng, taps)
        hard = "padding on both sides" if taps == 3 else "more of it behind, or none"
        yield Case(f"{taps} taps, {dilation} apart", hard, given, dtypes=EVERY if rows == (4,) else ())


@of("convolution.gated_linear_unit")
def _gated_unit(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ordinary", "", {"x": rng.normal(size=(2, 6))}, dtypes=EVERY, terms=0.0)
    shut = {"x": np.array([1.0, -2, 3, 40, 2, -40, 800, -800, 0, 24])}
    yield Case("saturated", "gates that are shut or open", shut, terms=0.0)


@of("convolution.gated_convolution")
def _gated(rng: np.random.Generator) -> Iterator[Case]:
    norm = {"norm_scale": rng.normal(size=3), "norm_bias": rng.normal(size=3)}
    common = {"x": rng.normal(size=(2, 4, 3)), "alpha": np.array([0.7])} | _convolved(rng, 3, 3, 6) | norm
    mask = np.array([[True, True, True, False], [True, False, True, True]])
    yield Case("masked", "padding has no influence", common | {"mask": mask}, dtypes=("float32",))
    yield Case("no mask", "α = 0, with which training begins", common | {"alpha": np.zeros(1), "dilation": 2})
    wide = common | {"x": rng.normal(size=(3, 2)), "projection": rng.normal(size=(2, 3))} | _convolved(rng, 2, 2, 6)
    yield Case("projected", "another width", wide | {"eps": 1e-3})


# --- attention ------------------------------------------------------------------------------------------------------------------------


@of("attention.split_heads")
def _split(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("two heads", "", {"x": rng.normal(size=(2, 3, 4)), "heads": 2}, dtypes=EVERY)
    yield Case("one head", "", {"x": rng.normal(size=(1, 2, 3)), "heads": 1})


@of("attention.merge_heads")
def _merge(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("two heads", "", {"x": rng.normal(size=(2, 2, 3, 2))}, dtypes=EVERY)
    yield Case("one token", "", {"x": rng.normal(size=(1, 3, 1, 2))})


@of("attention.scaled_dot_product_attention")
def _attention(rng: np.random.Generator) -> Iterator[Case]:
    q, k, v, wide = (rng.normal(size=shape) for shape in ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 2), (2, 2, 5, 4)))
    mask = rng.random((2, 1, 3, 5)) < 0.6
    mask[0, 0, 1], mask[:, :, :, 2] = False, False
    previous, relative = rng.normal(size=(2, 2, 3, 5)), rng.normal(size=(3, 5, 4))
    blind = (np.broadcast_to(~mask.any(-1)[..., None], (2, 2, 3, 2)), None)
    common = {"q": q, "k": k, "v": v}
    small = {name: array[0, 0] for name, array in common.items()}
    yield Case("one head", "two axes", small | {"mask": mask[0, 0]}, dtypes=EVERY)
    yield Case("masked", "a query that sees nothing, a key that nobody sees", common | {"mask": mask}, unseen=blind)
    yield Case("mean", "residual scores, a running mean", common | {"previous_scores": previous, "mean_over": 3})
    own = {"previous_scores": previous, "hand_on": "own", "mask": mask}
    yield Case("own", "residual scores, its own handed on", common | own, unseen=blind)
    yield Case("relative", "relative positions", common | {"v": wide, "relative": relative, "mask": mask[0, 0]})
    broadcast = {"q": q[:, :1], "k": k[0], "v": v[:1], "previous_scores": previous[:, :, :1, :1]}
    yield Case("broadcast", "every argument is broadcast", broadcast | {"mask": mask[0, 0, 2]})
    large = {"q": 1e3 * q[0], "k": k[0], "v": v[0]}
    yield Case("large", "weights of 0 and 1: scores of thousands", large)
    apart = {"q": q[0], "k": k[0], "v": np.stack([v, -v])}
    yield Case("values apart", "values have an axis that the scores have not", apart)
    sure = {"q": np.ones((1, 1)), "k": np.array([[40.0], [0], [-1]]), "v": v[0, 0, :3]}
    yield Case("sure", "one weight is nearly 1", sure, **SURE)
    yield Case("one key", "one key: the weight is 1", {"q": q[0, 0], "k": k[0, 0, :1], "v": v[0, 0, :1]})


# --- layers ---------------------------------------------------------------------------------------------------------------------------


def _layered(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A layer and its input; keys and values before them; residual scores and relative positions."""
    causal = np.tri(3, dtype=bool)
    keys, values, previous = (rng.normal(size=(2, 2, *shape)) for shape in ((2, 2), (2, 2), (3, 3)))
    before = {"before": (keys, values), "mask": np.concatenate([np.ones((3, 2), bool), causal], axis=1)}
    residual = {"previous_scores": previous, "relative": rng.normal(size=(3, 3, 2)), "mask": causal}
    return {"layer": _layer(rng), "x": rng.normal(size=(2, 3, 4))}, before, residual


@of("blocks.self_attention")
def _self_attention(rng: np.random.Generator) -> Iterator[Case]:
    common, before, residual = _layered(rng)
    yield Case("plain", "no mask", common | {"heads": 2}, dtypes=WIDE)
    yield Case("before", "keys and values that precede", common | before | {"heads": 2})
    yield Case("residual", "scores, relative positions", common | residual | {"heads": 2, "hand_on": "own"})


@of("blocks.feed_forward")
def _feed_forward(rng: np.random.Generator) -> Iterator[Case]:
    common, _, _ = _layered(rng)
    for form in ("tanh", "none"):
        yield Case(form, "", common | {"activation": form}, dtypes=WIDE if form == "none" else ())


@of("blocks.pre_ln")
def _pre_ln(rng: np.random.Generator) -> Iterator[Case]:
    common, before, _ = _layered(rng)
    form = {"form": blocks.Form(2, 1e-5, "tanh")}
    yield Case("causal", "", common | form | {"mask": np.tri(3, dtype=bool)}, dtypes=("float32",), sampled=True)
    yield Case("before", "keys and values that precede", common | form | before)


@of("blocks.post_ln")
def _post_ln(rng: np.random.Generator) -> Iterator[Case]:
    common, _, residual = _layered(rng)
    form = {"form": blocks.Form(2, 1e-12)}
    yield Case("plain", "no mask", common | form)
    yield Case("causal", "", common | form | {"mask": np.tri(3, dtype=bool)})
    yield Case("relative", "relative positions", common | form | {"relative": residual["relative"]})


@of("blocks.realformer")
def _realformer(rng: np.random.Generator) -> Iterator[Case]:
    common, before, residual = _layered(rng)
    form = {"form": blocks.Form(2, 1e-5, "tanh")}
    yield Case("before", "keys and values that precede", common | form | before)
    yield Case("sum", "scores, relative positions", common | form | residual, dtypes=("float32",), sampled=True)
    yield Case("mean", "a running mean of scores", common | form | residual | {"mean_over": 2})
    yield Case("own", "its own scores handed on", common | form | residual | {"hand_on": "own"})


# --- positions, pooling ---------------------------------------------------------------------------------------------------------------


@of("positions.hierarchical_bases")
def _bases(rng: np.random.Generator) -> Iterator[Case]:
    for alpha in (0.4, 0.7, -1.0):
        given = {"table": rng.normal(size=(4, 3)), "alpha": alpha}
        yield Case(f"α = {alpha}", "", given, dtypes=EVERY if alpha == 0.4 else ())
    yield Case("one row", "a table of one row", {"table": rng.normal(size=(1, 3)), "alpha": 0.4})


@of("positions.hierarchical_positions")
def _hierarchical(rng: np.random.Generator) -> Iterator[Case]:
    table = rng.normal(size=(3, 2))
    near = {"table": table, "positions": np.arange(3)}
    every = {"table": table, "positions": np.arange(9)}
    yield Case("within", "positions of the table", near)
    yield Case("beyond", "all positions", every, dtypes=EVERY)
    yield Case(
        "repeated", "positions that occur several times, in two axes", near | {"positions": np.array([[0, 8, 8]])}
    )


@of("positions.extend")
def _extend(rng: np.random.Generator) -> Iterator[Case]:
    for config, label, options in (
        (bert.BertConfig(3, 2, 1, 1, 2, max_position_embeddings=3), "bert", {"to": 8}),
        (
            bert.BertConfig(3, 2, 1, 1, 2, max_position_embeddings=4, position_offset=2),
            "offset",
            {"to": 3, "offset": 2},
        ),
    ):
        weights = bert.BertWeights.from_named(_drawn(rng, bert.BertWeights.shapes(config, ())), config)
        yield Case(label, "all parameters are handed through", {"weights": weights} | options)


@of("pooling.mean_pooling")
def _mean(rng: np.random.Generator) -> Iterator[Case]:
    mask = np.array([[True, True, False], [False, True, False]])
    x = rng.normal(size=(2, 3, 3))
    yield Case("masked", "padding has no part", {"hidden": x, "mask": mask}, dtypes=EVERY)
    yield Case("whole", "no mask", {"hidden": x, "mask": None})


@of("pooling.unit_length")
def _unit(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("ordinary", "unit normal", {"x": rng.normal(size=(2, 4))}, dtypes=EVERY)
    for label, hard, size in (
        ("large", "squares overflow", 1e200),
        ("tiny", "squares vanish", 1e-200),
    ):
        yield Case(label, hard, {"x": size * rng.normal(size=(2, 3))})
    yield Case("ties", "several largest entries", {"x": np.array([[2.0, -2.0, 1.0], [1, 1, 1]])})
    yield Case("axis", "along an axis: what is orthogonal to x remains", {"x": np.array([[0.0, 3.0, 0.0]])})


# --- models ---------------------------------------------------------------------------------------------------------------------------

GPT2 = gpt2.GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=2, n_head=2, n_inner=6)
GPT2_INPUT: dict[str, Any] = {
    "token_ids": np.array([[3, 0, 6, 5], [1, 1, 0, 2]]),
    "mask": np.array([[False, True, True, True], [True] * 4]),
}


def _gpt2(rng: np.random.Generator, **changes: Any) -> dict[str, Any]:
    config = dataclasses.replace(GPT2, **changes)
    return {
        "weights": gpt2.GPT2Weights.from_named(_drawn(rng, gpt2.GPT2Weights.shapes(config)), config),
        "config": config,
    }


@of("gpt2.logits")
def _gpt2_logits(rng: np.random.Generator) -> Iterator[Case]:
    tied, one = _gpt2(rng), _gpt2(rng, n_layer=1) | {"token_ids": np.array([[3, 0, 3]])}
    yield Case("one layer", "", one, dtypes=("float32",), sampled=True)
    yield Case("tied", "padding on the left", tied | GPT2_INPUT)
    untied = _gpt2(rng, tie_word_embeddings=False, activation="none", n_layer=1)
    yield Case("untied", "positions given", untied | GPT2_INPUT | {"positions": np.arange(1, 5), "mask": None})
    yield Case("bert4keras", "token 0 is seen at position 0 alone", tied | GPT2_INPUT | {"dialect": "bert4keras"})


@of("gpt2.hidden_states")
def _gpt2_states(rng: np.random.Generator) -> Iterator[Case]:
    one = _gpt2(rng, n_layer=1) | {"token_ids": np.array([[3, 0, 3]])}
    yield Case("one layer", "a cotangent for each state", one)
    yield Case("two layers", "padding on the left", _gpt2(rng, tie_word_embeddings=False) | GPT2_INPUT)


BERT = bert.BertConfig(7, 4, 2, 2, 6, max_position_embeddings=6)
ROBERTA = dataclasses.replace(BERT, position_offset=2, pad_token_id=1, type_vocab_size=0, max_position_embeddings=9)
NEZHA = dataclasses.replace(BERT, max_position_embeddings=None, clip=2)
BERT_INPUT: dict[str, Any] = {
    "token_ids": np.array([[3, 5, 1, 0], [6, 6, 4, 0]]),
    "mask": np.array([[True] * 4, [True] * 3 + [False]]),
}
SEGMENTS = {"segment_ids": np.array([[0, 0, 1, 1], [0, 1, 1, 1]])}


def _bert(rng: np.random.Generator, config: bert.BertConfig, groups: tuple[str, ...] = ()) -> dict[str, Any]:
    arrays = _drawn(rng, bert.BertWeights.shapes(config, groups))
    return {"weights": bert.BertWeights.from_named(arrays, config), "config": config}


@of("bert.encode")
def _encode(rng: np.random.Generator) -> Iterator[Case]:
    plain = _bert(rng, BERT) | BERT_INPUT
    one = _bert(rng, dataclasses.replace(BERT, num_hidden_layers=1)) | {"token_ids": np.array([[3, 6, 3]])}
    yield Case("one layer", "", one, dtypes=("float32",), sampled=True)
    yield Case("encoder", "segments, padding", plain | SEGMENTS)
    unilm = {"application": "unilm", "dialect": "bert4keras-0.9"}
    yield Case("unilm", "a mask made of segments, a masked token id", plain | SEGMENTS | unilm)
    lm = (
        _bert(rng, dataclasses.replace(ROBERTA, num_hidden_layers=1)) | BERT_INPUT | {"application": "lm", "mask": None}
    )
    yield Case("lm", "positions counted, no segments", lm)
    yield Case("nezha", "relative positions", _bert(rng, NEZHA) | BERT_INPUT | {"dialect": "bert4keras"})
    three = dataclasses.replace(BERT, num_hidden_layers=3, residual_attention="sum")
    yield Case(
        "previous", "scores of the layer before alone", _bert(rng, three) | BERT_INPUT | {"dialect": "bert4keras"}
    )


@of("bert.hidden_states")
def _bert_states(rng: np.random.Generator) -> Iterator[Case]:
    one = _bert(rng, dataclasses.replace(BERT, num_hidden_layers=1)) | {"token_ids": np.array([[3, 6, 3]])}
    yield Case("one layer", "a cotangent for each state", one)
    for kind in ("sum", "mean"):
        config = dataclasses.replace(NEZHA, residual_attention=kind)
        yield Case(f"realformer, {kind}", "scores and states of all layers", _bert(rng, config) | BERT_INPUT)


@of("bert.pooled", "bert.next_sentence_logits")
def _sentence(rng: np.random.Generator) -> Iterator[Case]:
    weights = _bert(rng, BERT, ("pooler", "next_sentence"))["weights"]
    for tokens in (3, 1):
        given = {"weights": weights, "hidden": rng.normal(size=(2, tokens, 4))}
        yield Case(
            f"{tokens} tokens", "the first alone has a part", given, dtypes=WIDE if tokens == 3 else (), sampled=True
        )


@of("bert.masked_lm_vectors")
def _masked_lm_vectors(rng: np.random.Generator) -> Iterator[Case]:
    given = _bert(rng, BERT, ("masked_lm",)) | {"hidden": rng.normal(size=(2, 3, 4))}
    yield Case("plain", "a transform, GELU, and a norm", given)


@of("bert.masked_lm_scores")
def _masked_lm_scores(rng: np.random.Generator) -> Iterator[Case]:
    weights, vectors = _bert(rng, BERT, ("masked_lm",))["weights"], {"vectors": rng.normal(size=(2, 3, 4))}
    yield Case("tied", "the table is the embedding's", {"weights": weights} | vectors)
    untied = weights._replace(output_embedding=rng.normal(size=(7, 4)))
    yield Case("untied", "a table of its own", {"weights": untied} | vectors)


@of("bert.masked_lm_logits")
def _masked_lm(rng: np.random.Generator) -> Iterator[Case]:
    given = _bert(rng, BERT, ("masked_lm",)) | {"hidden": rng.normal(size=(2, 3, 4))}
    yield Case("tied", "the table is the embedding's", given, dtypes=WIDE)
    untied = given["weights"]._replace(output_embedding=rng.normal(size=(7, 4)))
    yield Case("untied", "a table of its own", given | {"weights": untied, "dialect": "bert4keras"})


# --- the generator of SPACES ----------------------------------------------------------------------------------------------------------


def _generator(
    rng: np.random.Generator, config: bert.BertConfig = BERT, dialect: str = "huggingface"
) -> dict[str, Any]:
    """A generator of one layer, and two rows of source and target, one of them padded."""
    whole = seq2seq.Seq2SeqConfig(dataclasses.replace(config, num_hidden_layers=1), 1, 2, dialect)
    weights = seq2seq.Seq2SeqWeights.from_named(_drawn(rng, seq2seq.Seq2SeqWeights.shapes(whole)), whole)
    segments = {"segment_ids": np.array([[0, 0, 1, 1], [0, 1, 1, 0]])}
    return {"weights": weights, "config": whole} | BERT_INPUT | segments


@of("spaces.seq2seq.logits")
def _seq2seq_logits(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("bert", "one table for three uses; tokens and tags on the same vectors", _generator(rng))
    yield Case("nezha", "relative positions, a masked token id", _generator(rng, NEZHA, "bert4keras-0.9"))


@of("spaces.seq2seq.loss")
def _seq2seq_loss(rng: np.random.Generator) -> Iterator[Case]:
    labels = {"labels": np.array([[0, 1, 2], [1, 2, 0]])}
    hidden = {"mask": np.array([[True, False, True, True], [True] * 3 + [False]])}  # a source token, and padding
    yield Case("corrected", "all tokens are compared", _generator(rng) | labels | hidden)
    masked = {"said": np.array([[3, 5, 1, 2], [6, 1, 4, 0]]), "k": 2, "copy_weight": 0.5, "dialect": "published"}
    yield Case("published", "two largest logits, other tokens said than read", _generator(rng) | labels | masked)
