"""BERT, RoBERTa and NEZHA: recorded answers, every number system, what each token may see, RealFormer, and the words of refusals."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest
from systems import NUMPY, System, rounded

import weights_io
from refimpl import bert, blocks, errors
from refimpl.attention import scaled_dot_product_attention
from refimpl.positions import extend
from refimpl.softmax import softmax
from validation import perturbed, tolerance, truth
from weights_io.schemes import detect, to_canonical

RECORDED = Path(__file__).parent.parent / "validation" / "recorded"
RELATIVE = 1e-12  # of the largest magnitude: what float64 answers are held to
TINY = bert.BertConfig(11, 6, 2, 2, 10, max_position_embeddings=8)
NEZHA = dataclasses.replace(TINY, max_position_embeddings=None, clip=3, num_attention_heads=3)
ROBERTA = dataclasses.replace(TINY, position_offset=2, pad_token_id=1, type_vocab_size=1, max_position_embeddings=10)
IDS = np.array([[3, 7, 1, 0, 10, 2], [5, 5, 9, 4, 8, 6]])
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
MASK = np.array([[True] * 6, [True] * 4 + [False] * 2])


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _arrays(config: bert.BertConfig, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = bert.BertWeights.shapes(config)
    return {
        name: rng.normal(1.0 if name.endswith("scale") else 0.0, 0.2 if "norm" in name else 0.5, shape)
        for name, shape in shapes.items()
    }


def _weights(config: bert.BertConfig, system: System, dtype: str, arrays: Any = None) -> bert.BertWeights:
    given = _arrays(config) if arrays is None else arrays
    return bert.BertWeights.from_named({name: system.floats(a, dtype) for name, a in given.items()}, config)


def _opened(path: Path, heads: int, **options: Any) -> tuple[bert.BertWeights, bert.BertConfig]:
    """A recorded checkpoint in float64, and the configuration that its shapes show."""
    with weights_io.open(path) as checkpoint:
        canonical = to_canonical(checkpoint, detect(checkpoint))
        arrays = {name: array.astype(np.float64) for name, array in canonical.items()}
    positions = arrays["position_embedding"].shape[0] if "position_embedding" in arrays else None
    layers = sum(name.endswith("query_key_value.bias") for name in arrays)
    config = bert.BertConfig(
        *arrays["token_embedding"].shape,
        layers,
        heads,
        arrays["blocks.0.feed_forward_in.bias"].shape[0],
        positions,
        **options,
    )
    return bert.BertWeights.from_named(arrays, config), config


def _relative(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


# --- parity -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["model", "model_bin", "model_bin_old"])
def test_transformers_answers(folder: str, recorded: Any) -> None:
    answers = recorded("hugging_face_bert")
    weights, config = _opened(RECORDED / "hugging_face_bert" / folder, 4)
    for mask, prefix, real in ((answers["mask"], "", answers["mask"] == 1), (None, "unmasked_", answers["mask"] >= 0)):
        states = bert.hidden_states(weights, config, answers["ids"], answers["segments"], mask=mask)
        hidden = states[-1]
        if not prefix:
            for i in range(2):
                assert _relative(states[i][real], answers[f"hidden_{i}"][real]) <= RELATIVE
        assert _relative(hidden[real], answers[f"{prefix}hidden"][real]) <= RELATIVE
        assert _relative(bert.pooled(weights, hidden), answers[f"{prefix}pooled"]) <= RELATIVE
        assert _relative(bert.next_sentence_logits(weights, hidden), answers[f"{prefix}nsp_logits"]) <= RELATIVE
        words = bert.masked_lm_logits(weights, config, hidden)
        assert _relative(words[real], answers[f"{prefix}mlm_logits"][real]) <= RELATIVE


@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_bert4keras_answers(kind: str, recorded: Any) -> None:
    answers = recorded(f"bert4keras/{kind}")
    weights, config = _opened(RECORDED / "bert4keras" / kind / "model.ckpt", 2)
    states = bert.hidden_states(weights, config, answers["ids"], answers["segments"], dialect="bert4keras")
    for state, name in zip(states, ("embeddings", "layer_0", "encoder"), strict=True):
        assert _relative(state, answers[name]) <= RELATIVE
    assert _relative(bert.pooled(weights, states[-1]), answers["pooled"]) <= RELATIVE
    assert _relative(softmax(bert.next_sentence_logits(weights, states[-1])), answers["nsp_probabilities"]) <= RELATIVE
    words = bert.masked_lm_logits(weights, config, states[-1], dialect="bert4keras")
    assert _relative(words, answers["mlm_logits"]) <= RELATIVE
    # NEZHA's eps of 1e-7 is seen: the dialect without it is 1e-7 apart, and exactly the eps is what differs
    older = bert.encode(weights, config, answers["ids"], answers["segments"], dialect="bert4keras-0.9")
    assert (_relative(older, answers["encoder"]) > 1e-8) == (kind == "nezha")


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_bert4keras_answers_as_language_model(application: Any, shared: Any) -> None:
    folder = shared("b4k_bert")
    weights, config = _opened(folder / "model.ckpt", 4)
    with np.load(folder / "io.npz") as io:
        ids, segments = io[f"{application}_ids"], io[f"{application}_segments"]
        hidden = bert.encode(weights, config, ids, segments, application=application, dialect="bert4keras")
        found = softmax(bert.masked_lm_logits(weights, config, hidden, dialect="bert4keras"))
        assert _relative(found, io[f"{application}_probs"]) <= RELATIVE
        plain = bert.encode(weights, config, ids, segments, dialect="bert4keras")
        assert _relative(plain, hidden) > 1e-3


def test_bert4keras_answers_as_encoder(shared: Any) -> None:
    folder = shared("b4k_bert")
    weights, config = _opened(folder / "model.ckpt", 4)
    with np.load(folder / "io.npz") as io:
        hidden = bert.encode(weights, config, io["mlm_ids"], io["mlm_segments"], dialect="bert4keras")
        assert _relative(softmax(bert.next_sentence_logits(weights, hidden)), io["mlm_nsp"]) <= RELATIVE
        found = softmax(bert.masked_lm_logits(weights, config, hidden, dialect="bert4keras"))
        # recorded in float32: each number within its own rounding
        assert np.all(np.abs(found - io["mlm_probs"]) <= 2**-24 * io["mlm_probs"] + RELATIVE)


def test_realformer_of_two_versions_of_bert4keras(shared: Any) -> None:
    """0.9.8 accumulates, 0.11.5 adds the previous layer alone: each equals its dialect, and neither the other."""
    folder = shared("b4k_realformer")
    weights, config = _opened(folder / "model.ckpt", 4, residual_attention="sum")
    with np.load(folder / "io.npz") as io:
        real = io["ids"] != 0  # 0.9.8 sets the attention output of masked queries to zero
        theirs = {"bert4keras-0.9": io["hidden_cumulative_098"], "bert4keras": io["hidden_noncumulative_0115"]}
        for dialect, answer in theirs.items():
            hidden = bert.encode(weights, config, io["ids"], io["segments"], dialect=dialect)
            assert _relative(hidden[real], answer[real]) <= RELATIVE
            for other, expected in theirs.items():
                assert (_relative(hidden[real], expected[real]) > 0.1) == (other != dialect)
        ids = io["unilm_ids"]
        hidden = bert.encode(weights, config, ids, io["unilm_segments"], application="unilm", dialect="bert4keras-0.9")
        found = softmax(bert.masked_lm_logits(weights, config, hidden, dialect="bert4keras-0.9"))
        assert _relative(found[ids != 0], io["unilm_probs_098"][ids != 0]) <= RELATIVE


def test_the_scores_that_realformer_hands_on(shared: Any) -> None:
    """Layer by layer, against recorded float32 numbers: within the rounding of each, of the largest score."""
    folder = shared("b4k_realformer")
    weights, config = _opened(folder / "model.ckpt", 4, residual_attention="sum")
    with np.load(folder / "io.npz") as io:
        x = bert.hidden_states(weights, config, io["ids"][:1], io["segments"][:1], dialect="bert4keras-0.9")[0]
        assert _relative(x[0], io["emb_norm_row0"]) <= RELATIVE
        scores = None
        for i, layer in enumerate(weights.blocks):
            x, seen = blocks.realformer(layer, x, blocks.Form(4, 1e-12), previous_scores=scores)
            scores = seen.scores
            recorded = io[f"scores_cum_{i}"]
            assert np.all(np.abs(scores[0] - recorded) <= 2**-24 * np.abs(recorded) + RELATIVE * np.abs(recorded).max())


# --- number systems ---------------------------------------------------------------------------------------------------------

VARIANTS = {
    "bert": (TINY, {}),
    "nezha": (NEZHA, {}),
    "roberta": (ROBERTA, {"segment_ids": None}),
    "realformer": (dataclasses.replace(TINY, residual_attention="sum"), {}),
    "realformer-mean": (dataclasses.replace(NEZHA, residual_attention="mean"), {}),
    "lm": (TINY, {"application": "lm"}),
    "unilm": (TINY, {"application": "unilm"}),
    "bert4keras": (dataclasses.replace(TINY, residual_attention="sum"), {"dialect": "bert4keras"}),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def _run(weights: bert.BertWeights, config: bert.BertConfig, name: str, place: Any) -> list[Any]:
    options = {"segment_ids": SEGMENTS} | VARIANTS[name][1]
    segments = options.pop("segment_ids")
    given = None if segments is None else place(segments)
    hidden = bert.encode(weights, config, place(IDS), given, mask=place(MASK), **options)
    dialect = options.get("dialect", "huggingface")
    words = bert.masked_lm_logits(weights, config, hidden, dialect=dialect)
    return [hidden, bert.pooled(weights, hidden), bert.next_sentence_logits(weights, hidden), words]


@functools.cache
def _truth(name: str, dtype: str) -> tuple[list[Any], Any]:
    """The enclosures of all answers for the weights rounded to `dtype`, and the sampled budget of the masked-LM logits."""
    config = VARIANTS[name][0]
    arrays = {key: rounded(a, dtype) for key, a in _arrays(config).items()}
    exact = bert.BertWeights.from_named({key: truth.balls(a) for key, a in arrays.items()}, config)
    with truth.precision(256):
        enclosure = _run(exact, config, name, lambda array: array)

    def run(wrap: Any) -> Any:
        kept = {key: wrap(a.astype(np.float64)) for key, a in arrays.items()}
        return _run(bert.BertWeights.from_named(kept, config), config, name, wrap)[3]

    deviation = perturbed.sampled_deviation(run, roundoff=1.0, seed=0)
    return enclosure, perturbed.sigmas(deviation.size) * deviation * tolerance.roundoff(dtype)


@every_variant
def test_every_number_system_gives_the_answer_of_balls(name: str, floating_system: System) -> None:
    """Floats within the sampled budget of the enclosure, whose radius is below 1e-20."""
    system, config = floating_system, VARIANTS[name][0]
    for dtype in sorted({"float32", "float64"} & set(system.dtypes)):
        enclosure, budget = _truth(name, dtype)
        assert max(truth.radii(part).max() for part in enclosure) < 1e-20
        answer = _run(_weights(config, system, dtype), config, name, system.to)
        for part in answer:
            assert str(part.dtype).rpartition(".")[2] == dtype
            assert array_api_compat.device(part) == system.device
        verdict = tolerance.judge(system.back(answer[3]), enclosure[3], budget, dtype, word="within sample")
        assert verdict.passed, verdict


@every_variant
def test_balls_of_a_layer_of_width_16_are_below_1e_20_at_128_bits(name: str) -> None:
    small = VARIANTS[name][0]
    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = dataclasses.replace(small, **sizes)
    weights = bert.BertWeights.from_named({key: truth.balls(a) for key, a in _arrays(config).items()}, config)
    with truth.precision(128):
        answers = _run(weights, config, name, lambda array: array)
    assert answers[0].shape[-1] == 16
    assert 0 < max(truth.radii(part).max() for part in answers) < 1e-20


@every_variant
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_stay_sixteen_bits(name: str, dtype: str) -> None:
    config = VARIANTS[name][0]
    answers = _run(_weights(config, NUMPY, dtype), config, name, np.array)
    wide = _run(_weights(config, NUMPY, "float64"), config, name, np.array)
    for part, expected in zip(answers, wide, strict=True):
        assert part.dtype == tolerance.DTYPES[dtype]
        assert np.all(np.isfinite(part.astype(np.float64)))
        assert (
            np.abs(part.astype(np.float64) - expected).max() < 64 * tolerance.roundoff(dtype) * np.abs(expected).max()
        )


def test_variants_differ_so_that_the_agreement_above_means_something() -> None:
    hidden = {}
    for name, (config, _) in VARIANTS.items():
        hidden[name] = _run(_weights(config, NUMPY, "float64"), config, name, np.array)[0]
    same_weights = [hidden[name] for name in ("bert", "realformer", "lm", "unilm", "bert4keras")]
    for i, one in enumerate(same_weights):
        assert all(np.abs(one - other)[0].max() > 1e-4 for other in same_weights[:i])


# --- what a token may see ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "nezha", "realformer", "lm", "unilm"])
def test_padding_does_not_matter(name: str) -> None:
    """What stands at padding, and how much of it there is, changes no bit of what is real where lengths are equal."""
    config, options = VARIANTS[name]
    weights, application = _weights(config, NUMPY, "float64"), options.get("application", "encoder")
    other = np.where(MASK, IDS, (IDS + 4) % 11)
    one, two = (bert.encode(weights, config, ids, SEGMENTS, mask=MASK, application=application) for ids in (IDS, other))
    assert np.array_equal(one[MASK], two[MASK])
    alone = bert.encode(weights, config, IDS[1:, :4], SEGMENTS[1:, :4], application=application)
    assert np.abs(alone[0] - one[1, :4]).max() < 1e-13 * np.abs(alone).max()
    assert np.abs(one[1, 4:] - two[1, 4:]).max() > 1e-3


@pytest.mark.parametrize("application", ["encoder", "lm", "unilm"])
def test_changing_a_token_changes_what_sees_it_and_nothing_else(application: Any) -> None:
    weights = _weights(TINY, NUMPY, "float64")
    before = bert.encode(weights, TINY, IDS[:1], SEGMENTS[:1], application=application)[0]
    for j in range(6):
        ids = IDS[:1].copy()
        ids[0, j] = (ids[0, j] + 3) % 11
        changed = bert.encode(weights, TINY, ids, SEGMENTS[:1], application=application)[0]
        found = np.abs(changed - before).max(axis=-1) > 0
        sees = {
            "encoder": np.ones(6, bool),
            "lm": np.arange(6) >= j,
            "unilm": np.ones(6, bool) if j < 3 else np.arange(6) >= j,
        }[application]
        assert found.tolist() == sees.tolist()


def test_id_0_is_no_key_in_bert4keras_except_at_the_front() -> None:
    weights = _weights(TINY, NUMPY, "float64")
    ids = np.array([[0, 4, 0, 2, 3, 5]])
    keys = (ids != 0) | (np.arange(6) == 0)
    dialect = bert.Dialect(masked_key_id=0)
    assert np.array_equal(bert.encode(weights, TINY, ids, dialect=dialect), bert.encode(weights, TINY, ids, mask=keys))


def test_roberta_counts_from_two_and_padding_takes_no_position() -> None:
    weights = _weights(ROBERTA, NUMPY, "float64")
    ids = np.array([[1, 1, 3, 4, 5, 2], [3, 4, 5, 2, 1, 1]])
    given = np.array([[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 0, 0]])
    real = ids != 1
    counted = bert.encode(weights, ROBERTA, ids, mask=real)
    explicit = bert.encode(weights, ROBERTA, ids, mask=real, positions=given)
    assert np.array_equal(counted[real], explicit[real])
    assert np.abs(counted[0][real[0]] - counted[1][real[1]]).max() < 1e-13
    plain = _arrays(ROBERTA)
    moved = plain | {
        "position_embedding": np.concatenate([plain["position_embedding"][:2] * 9, plain["position_embedding"][2:]])
    }
    other = bert.encode(_weights(ROBERTA, NUMPY, "float64", moved), ROBERTA, ids, mask=real)
    assert np.array_equal(counted[real], other[real])  # rows 0 and 1 belong to no token that is seen
    assert bert.encode(weights, ROBERTA, np.full((1, 8), 4)).shape == (1, 8, 6)
    with _refused(
        errors.TokenError, "runs past the position table", "0 <= position < 8", "positions from 0 to 8", "extend"
    ):
        bert.encode(weights, ROBERTA, np.full((1, 9), 4))


def test_tables_are_extended_with_their_offset() -> None:
    for config in (TINY, ROBERTA):
        weights, offset = _weights(config, NUMPY, "float64"), config.position_offset
        longer = extend(weights, to=30, offset=offset)
        wide = dataclasses.replace(config, max_position_embeddings=30 + offset)
        ids = IDS[:, [0, 1, 4, 5, 0, 1]] + (IDS[:, [0, 1, 4, 5, 0, 1]] == 1)
        assert np.array_equal(bert.encode(weights, config, ids), bert.encode(longer, wide, ids))
        assert bert.encode(longer, wide, np.full((1, 30), 4)).shape == (1, 30, 6)
    with _refused(errors.ConfigError, "no learned position table"):
        extend(_weights(NEZHA, NUMPY, "float64"), to=30)


def test_nezha_has_no_limit_of_length() -> None:
    weights = _weights(NEZHA, NUMPY, "float64")
    assert np.all(np.isfinite(bert.encode(weights, NEZHA, np.full((1, 90), 4))))


# --- RealFormer -------------------------------------------------------------------------------------------------------------


def test_one_layer_of_realformer_is_post_ln_and_two_are_not() -> None:
    for layers in (1, 2):
        config = dataclasses.replace(TINY, num_hidden_layers=layers)
        weights = _weights(config, NUMPY, "float64")
        runs = [
            bert.encode(weights, dataclasses.replace(config, residual_attention=kind), IDS, SEGMENTS)
            for kind in ("none", "sum", "mean")
        ]
        apart = [float(np.abs(runs[0] - other).max()) for other in runs[1:]]
        assert (apart == [0, 0]) == (layers == 1)
        assert layers == 1 or np.abs(runs[1] - runs[2]).max() > 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bert4keras_adds_the_scores_of_the_previous_layer_as_they_were_computed(dtype: str) -> None:
    """Bit for bit, layer by layer; scores of some 10³ lose bits where they are recovered from a sum."""
    config = dataclasses.replace(TINY, num_hidden_layers=4, residual_attention="sum")
    arrays = {n: a * (40 if "query_key_value" in n else 1) for n, a in _arrays(config).items()}
    weights = _weights(config, NUMPY, dtype, arrays)
    convention = dataclasses.replace(bert.dialects["bert4keras"], eps=None, masked_key_id=None)
    states = bert.hidden_states(weights, config, IDS, SEGMENTS, dialect=convention)
    form, mask, before = (
        blocks.Form(config.num_attention_heads, config.layer_norm_eps),
        np.ones((1, 1, 1, IDS.shape[1]), bool),
        None,
    )
    for layer, x, after in zip(weights.blocks, states, states[1:], strict=False):
        found, _ = blocks.realformer(layer, x, form, mask=mask, previous_scores=before)
        assert np.array_equal(found, after)
        before = blocks.self_attention(layer, x, form.heads)[1].scores


def test_the_layers_are_what_their_equations_say(system: System) -> None:
    """Each against attention, norms and feed-forward written out once more, in the same operations."""
    dtype = system.dtypes[-1]
    layer = _weights(TINY, system, dtype).blocks[0]
    x = system.floats(np.random.default_rng(2).normal(size=(1, 3, 6)), dtype)
    previous = system.floats(np.random.default_rng(3).normal(size=(1, 2, 3, 3)), dtype)
    form = blocks.Form(2, 1e-5, "tanh")

    def norm(values: Any, which: Any) -> Any:
        return blocks.layer_norm(values, *which, 1e-5)

    def attend(values: Any, before: Any = None) -> Any:
        qkv = layer.query_key_value(values)
        q, k, v = (blocks.split_heads(qkv[..., 6 * i : 6 * i + 6], 2) for i in range(3))
        mixed, _ = scaled_dot_product_attention(q, k, v, previous_scores=before)
        return layer.attention_output(blocks.merge_heads(mixed))

    def feed(values: Any) -> Any:
        return layer.feed_forward_out(blocks.gelu(layer.feed_forward_in(values), "tanh"))

    y = x + attend(norm(x, layer.attention_norm))
    expected = {"pre_ln": y + feed(norm(y, layer.feed_forward_norm))}
    for name, before in (("post_ln", None), ("realformer", previous)):
        y = norm(x + attend(x, before), layer.attention_norm)
        expected[name] = norm(y + feed(y), layer.feed_forward_norm)
    for name, answer in expected.items():
        options = {"previous_scores": previous} if name == "realformer" else {}
        found, seen = getattr(blocks, name)(layer, x, form, **options)
        assert np.array_equal(system.back(found), system.back(answer))
        assert seen.scores.shape == (1, 2, 3, 3)


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_inputs_that_cannot_be_are_refused(system: System) -> None:
    weights = _weights(TINY, system, system.dtypes[-1])
    for segments in ([[0, 2]], [[-1, 0]]):
        with _refused(errors.TokenError, "segment id out of range", "0 <= segment < type_vocab_size = 2", "from"):
            bert.encode(weights, TINY, [[1, 2]], segments)
    with _refused(errors.ShapeError, "segment_ids must have the shape of token_ids", "(1, 2)", "(1, 3)"):
        bert.encode(weights, TINY, [[1, 2]], [[0, 0, 0]])
    with _refused(errors.TokenError, "segment ids must be whole numbers", "integer dtype"):
        bert.encode(weights, TINY, [[1, 2]], system.to(np.zeros((1, 2), bool)))
    with _refused(errors.TokenError, "token id out of range", "token_ids[0, 1]", "0 <= id < 11", "11"):
        bert.encode(weights, TINY, [[1, 11]])
    with _refused(errors.TokenError, "runs past the position table", "0 <= position < 8", "0 to 8"):
        bert.encode(weights, TINY, system.to(np.zeros((1, 9), np.int64)))
    with _refused(errors.TokenError, "runs past the position table", "-1 to 0"):
        bert.encode(weights, TINY, [[1, 2]], positions=[[-1, 0]])
    with _refused(errors.ShapeError, "positions must fit token_ids", "(1, 2) or (2,)", "(3,)"):
        bert.encode(weights, TINY, [[1, 2]], positions=[0, 1, 2])
    with _refused(errors.ShapeError, "the mask must have the shape of token_ids"):
        bert.encode(weights, TINY, [[1, 2]], mask=[[True]])
    with _refused(errors.TokenError, "without a token", "mask[1]", "a true in every row", "leave the row out"):
        bert.encode(weights, TINY, [[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    with _refused(errors.ConfigError, "unknown application", "encoder, lm, unilm", "'seq2seq'"):
        bert.encode(weights, TINY, [[1, 2]], application="seq2seq")  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "what is source and what is target", "unilm", "segment_ids="):
        bert.encode(weights, TINY, [[1, 2]], application="unilm")
    with _refused(errors.ConfigError, "unknown dialect", "bert", "huggingface, bert4keras, bert4keras-0.9", "'keras'"):
        bert.encode(weights, TINY, [[1, 2]], dialect="keras")


def test_heads_that_are_not_there_are_named() -> None:
    arrays = {name: a for name, a in _arrays(TINY).items() if name.split(".")[0] not in bert.HEADS}
    weights = _weights(TINY, NUMPY, "float64", arrays)
    hidden = bert.encode(weights, TINY, IDS)
    for call, name in (
        (lambda: bert.pooled(weights, hidden), "pooler"),
        (lambda: bert.next_sentence_logits(weights, hidden), "next_sentence"),
        (lambda: bert.masked_lm_logits(weights, TINY, hidden), "masked_lm"),
    ):
        with _refused(errors.ConfigError, "the weights lack this head", name, f"parameters called {name}.*"):
            call()


def test_weights_that_do_not_fit_are_listed() -> None:
    arrays = _arrays(TINY)
    assert set(_weights(TINY, NUMPY, "float64").named()) == set(arrays)
    untied = arrays | {"output_embedding": 2 * arrays["token_embedding"]}
    weights = _weights(TINY, NUMPY, "float64", untied)
    assert set(weights.named()) == set(untied)
    hidden = bert.encode(weights, TINY, IDS)
    tied = bert.masked_lm_logits(_weights(TINY, NUMPY, "float64"), TINY, hidden)
    words, bias = bert.masked_lm_logits(weights, TINY, hidden), arrays["masked_lm.bias"]
    assert np.abs(words - bias - 2 * (tied - bias)).max() < 1e-12
    wrong = {name: a for name, a in arrays.items() if name not in ("pooler.bias", "blocks.1.attention_norm.scale")}
    wrong |= {"gate": np.ones(1), "position_embedding": np.ones((7, 6)), "masked_lm.bias": np.full(11, np.nan)}
    with _refused(errors.ConfigError, "(5 problems)") as caught:
        _weights(TINY, NUMPY, "float64", wrong)
    for line in (
        "missing: pooler.bias (6,)",
        "missing: blocks.1.attention_norm.scale (6,)",
        "unexpected: gate (1,)",
        "wrong shape: position_embedding expected (8, 6), got (7, 6)",
        "not finite: masked_lm.bias",
    ):
        assert line in str(caught.value)
    with _refused(errors.ConfigError, "unexpected: position_embedding"):
        _weights(NEZHA, NUMPY, "float64", arrays)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 0}, ("not a positive whole number", "hidden_size = 0")),
        ({"num_hidden_layers": True}, ("not a positive whole number", "num_hidden_layers = True")),
        ({"type_vocab_size": -1}, ("not a positive whole number", "type_vocab_size = -1")),
        ({"intermediate_size": 1.5}, ("not a positive whole number", "intermediate_size = 1.5")),
        ({"num_attention_heads": 4}, ("does not divide into the heads", "hidden_size = 6, num_attention_heads = 4")),
        ({"layer_norm_eps": float("nan")}, ("layer_norm_eps must not be negative", "nan")),
        ({"activation": "relu"}, ("unknown activation", "tanh, none", "'relu'")),
        ({"residual_attention": "previous"}, ("unknown residual_attention", "none, sum, mean", "'previous'")),
        ({"position_offset": 8}, ("position_offset leaves no positions", "8")),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes: Any, words: Any) -> None:
    with _refused(errors.ConfigError, *words):
        dataclasses.replace(TINY, **changes)
