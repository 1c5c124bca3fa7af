"""The fast session of a sequence-to-sequence BERT beside the gradient by the rules, dropout, ties, and training that stops and goes on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from systems import unchanged

from refimpl import learning
from refimpl.bert import BertConfig
from refimpl.errors import ConfigError, DtypeError, ShapeError, TokenError
from refimpl.learning.ema import EMA
from refimpl.learning.passes import added_in_order
from refimpl.learning.seq2seq import PairBatch, PairCorpus, Seq2SeqGradient
from refimpl.learning.unilm_session import UniLMSession, _largest
from refimpl.softmax import top_k_selection
from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights, initial_seq2seq
from refimpl.trees import leaves, mapped

if TYPE_CHECKING:
    from pathlib import Path


class _Nothing(NamedTuple):
    ids: list[int]


V = 23
BERT = BertConfig(V, 12, 2, 3, intermediate_size=20, max_position_embeddings=16, activation="tanh")
SMALL = Seq2SeqConfig(BERT, 1, 2)
EXACT = Seq2SeqConfig(dataclasses.replace(BERT, activation="none"), 1, 2)
KERAS = Seq2SeqConfig(dataclasses.replace(BERT, type_vocab_size=0, layer_norm_eps=0.5), 1, 2, bert_dialect="bert4keras")


def _weights(
    config: Seq2SeqConfig, dtype: str = "float64", groups: Any = ("masked_lm",), seed: int = 7
) -> Seq2SeqWeights:
    """Parameters of ordinary size: scales near 1, everything else normal with deviation 0.5."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(float(name.endswith("scale")), 0.2 if "norm" in name else 0.5, shape).astype(dtype)
        for name, shape in Seq2SeqWeights.shapes(config, groups).items()
    }
    return Seq2SeqWeights.from_named(arrays, config)


def _batch(sizes: list[tuple[int, int]], seed: int = 0, padding: int = 0) -> PairBatch:
    """Rows of those lengths of source and target, with other tokens to be said than are read here and there."""
    rng, n = np.random.default_rng(seed), max(a + b for a, b in sizes) + padding
    said = rng.integers(1, V, (len(sizes), n))
    ids = np.where(rng.random(said.shape) < 0.2, rng.integers(1, V, said.shape), said)
    places, ends = np.arange(n)[None, :], np.array(sizes)
    real = places < ends.sum(axis=1, keepdims=True)
    segments = ((places >= ends[:, :1]) & real).astype(np.int64)
    return PairBatch(ids * real, said * real, segments, rng.integers(0, 3, (len(sizes), n - 1)), real)


BATCHES = (_batch([(5, 4), (7, 6), (5, 4), (3, 1), (8, 2), (6, 0)], padding=1), _batch([(2, 3), (0, 5)], 1))


def _apart(ours: Any, meant: Any) -> float:
    """The largest difference in any leaf, as a part of the largest number of that leaf."""
    pairs = zip(leaves(ours), leaves(meant), strict=True)
    return max(float(np.max(np.abs(a.astype(np.float64) - b)) / max(np.max(np.abs(b)), 1e-300)) for a, b in pairs)


@pytest.mark.parametrize(
    ("config", "groups", "k", "threads"),
    [
        (SMALL, ("masked_lm",), 10, 1),
        (SMALL, ("masked_lm",), 1, 3),
        (SMALL, ("masked_lm", "output_embedding", "pooler", "next_sentence"), 22, 2),
        (SMALL, ("masked_lm",), 23, 2),
        (KERAS, ("masked_lm", "output_embedding"), 99, 1),
        (KERAS, ("masked_lm",), 3, 2),
        (EXACT, ("masked_lm",), 10, 2),
    ],
)
def test_the_session_has_the_gradients_of_the_rules(config: Any, groups: Any, k: int, threads: int) -> None:
    """In float64 within 1e-13 (7e-15 was seen); in float32 no further from those than four times the rules are, and one roundoff."""
    exact = _weights(config, groups=groups)
    narrow = mapped(lambda a: a.astype(np.float32), exact)
    rules, session = (
        Seq2SeqGradient(config, k=k, copy_weight=1.5),
        UniLMSession(config, k=k, copy_weight=1.5, threads=threads),
    )
    (loss, meant), (same, found) = rules(exact, BATCHES), session(exact, BATCHES)
    assert abs(loss - same) <= 1e-13 * loss
    assert _apart(found, meant) <= 1e-13
    wide = mapped(lambda a: a.astype(np.float64), narrow)
    (loss, meant), (ours, fast), (theirs, slow) = rules(wide, BATCHES), session(narrow, BATCHES), rules(narrow, BATCHES)
    assert abs(ours - loss) <= 4 * abs(theirs - loss) + 2.0**-21 * loss
    assert _apart(fast, meant) <= 4 * _apart(slow, meant) + 2.0**-24
    assert all(leaf.dtype == np.float32 for leaf in leaves(fast))


def test_where_rows_and_padding_stand_does_not_matter() -> None:
    """One rectangle, its rows one by one, or in another order: the same loss and gradients to the order of sums."""
    model, session = _weights(SMALL), UniLMSession(SMALL)
    (batch, *_), order = BATCHES, [3, 1, 5, 0, 4, 2]
    loss, meant = session(model, [batch])
    single = [PairBatch(*(part[row : row + 1] for part in batch)) for row in order]
    wide = PairBatch(*(np.pad(part[order], ((0, 0), (0, 9))) for part in batch))
    for others in (single, [wide]):
        same, found = session(model, others)
        assert abs(loss - same) <= 1e-13 * loss
        assert _apart(found, meant) <= 1e-13


def test_a_thread_may_have_no_target() -> None:
    """The source of one row is one thread's part, the other row another's."""
    model, batches = _weights(SMALL), [_batch([(8, 0), (4, 4)])]
    (loss, meant), (same, found) = (UniLMSession(SMALL, threads=n)(model, batches) for n in (1, 2))
    assert abs(loss - same) <= 1e-13 * loss
    assert _apart(found, meant) <= 1e-13


def test_the_session_has_the_same_bits_at_every_call_and_changes_nothing() -> None:
    model, session = _weights(SMALL, "float32"), UniLMSession(SMALL, dropout=0.1, threads=2)
    before = [a.copy() for a in leaves(model)]
    (loss, first), _, (again, second) = (
        session(model, part, np.random.default_rng(3)) for part in (BATCHES, BATCHES[1:], BATCHES)
    )
    assert loss == again
    assert all(unchanged(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))
    assert all(unchanged(a, b) for a, b in zip(before, leaves(model), strict=True))
    assert session.loss(model, BATCHES) == session(model, BATCHES)[0]
    said, copied = session.losses(model, BATCHES)
    assert abs(said + 2 * copied - session.loss(model, BATCHES)) <= 1e-13 * loss


def test_of_equal_logits_those_of_lower_index_are_kept() -> None:
    """As the definition chooses, with many ties, infinities and NaN."""
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (40, 12)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = np.inf
    logits[:10][rng.random((10, 12)) < 0.2] = np.nan
    for k in (1, 3, 11):
        kept = top_k_selection(logits, k)
        assert np.array_equal(_largest(logits, k), np.nonzero(kept)[1].reshape(40, k))
    flat = _weights(SMALL)
    flat = flat._replace(bert=flat.bert._replace(token_embedding=0 * flat.bert.token_embedding))
    (loss, meant), (same, found) = Seq2SeqGradient(SMALL)(flat, BATCHES), UniLMSession(SMALL)(flat, BATCHES)
    assert abs(loss - same) <= 1e-13 * loss
    assert _apart(found, meant) <= 1e-13


def test_large_logits_do_not_overflow() -> None:
    """Logits and scores of attention of hundreds, whose exponentials are beyond float32."""
    model = _weights(SMALL, "float32")
    head = model.bert.masked_lm
    assert head is not None
    sharp = model._replace(
        bert=model.bert._replace(masked_lm=head._replace(norm=head.norm._replace(scale=head.norm.scale * 100)))
    )
    wide = mapped(lambda a: a.astype(np.float64), sharp)
    steep = mapped(lambda a: a * np.float32(30 if a.shape == (12, 36) else 1), model)
    exact = mapped(lambda a: a.astype(np.float64), steep)
    (loss, meant), (same, found) = Seq2SeqGradient(SMALL)(exact, BATCHES), UniLMSession(SMALL)(exact, BATCHES)
    assert abs(loss - same) <= 1e-12 * loss
    assert _apart(found, meant) <= 1e-10
    assert np.isfinite(UniLMSession(SMALL)(steep, BATCHES)[0])
    for k in (10, V):
        loss, meant = Seq2SeqGradient(SMALL, k=k)(wide, BATCHES)
        same, found = UniLMSession(SMALL, k=k)(sharp, BATCHES)
        assert loss > 100
        assert abs(loss - same) <= 1e-5 * loss
        assert _apart(found, meant) <= 1e-3  # logits of hundreds are known to 2^-16 of 1


@pytest.mark.parametrize("shift", [0, 39, -39, 200, -200])
def test_weights_of_attention_do_not_depend_on_what_all_scores_have_more(shift: float) -> None:
    """A source of 4 and a target of 3 tokens: what is not seen has weight 0, and the others' sum is 1 and is that of no shift to 2⁻¹⁶."""
    run = UniLMSession(SMALL)._runs[0]
    run.begin_part(_Nothing([]), np.dtype(np.float32), None)
    scores = np.random.default_rng(0).normal(0, 1, (2, 3, 7, 7)).astype(np.float32)
    plain, found = scores.copy(), scores + np.float32(shift)
    run.weigh(plain, 7, 4)
    run.weigh(found, 7, 4)
    seen = np.tril(np.ones((7, 7), np.bool_))
    seen[:4, :4] = True
    assert np.all(found[..., ~seen] == 0)
    assert np.all(found[..., seen] > 0)
    assert np.max(np.abs(found.sum(axis=-1) - 1)) <= 2.0**-20
    assert np.max(np.abs(found - plain)) <= 2.0**-16  # a score near 200 is known to 2⁻¹⁷


def test_with_dropout_the_gradient_is_that_of_the_loss_with_what_was_dropped() -> None:
    """The derivative along a direction, by central differences with the same draws: h² |L'''|, 10⁻⁸ and less, and the roundoff of L over h, 10⁻¹⁰."""
    model, h = _weights(SMALL), 3e-6
    session, along = UniLMSession(SMALL, k=V, dropout=0.3, threads=2), _weights(SMALL, seed=8)

    def at(by: float) -> float:
        moved = mapped(lambda a, v: a + by * v, model, along)
        return session(moved, BATCHES, np.random.default_rng(7))[0]

    _, slopes = session(model, BATCHES, np.random.default_rng(7))
    meant = sum(float(np.sum(a * b)) for a, b in zip(leaves(slopes), leaves(along), strict=True))
    assert abs((at(h) - at(-h)) / (2 * h) - meant) <= 1e-7 * abs(meant)
    assert at(0) != session(model, BATCHES)[0]
    assert at(0) != session(model, BATCHES, np.random.default_rng(8))[0]


def _copying(threads: int = 2) -> tuple[learning.Training, Seq2SeqWeights]:
    """Targets that are a span of their source: what the tags and the tokens are to find."""
    rng, pairs = np.random.default_rng(5), []
    for _ in range(96):
        words = rng.integers(4, 20, 8)
        pairs.append(([1, *words, 2], [1, *words[:4], 2]))
    config = dataclasses.replace(SMALL, bert=BertConfig(V, 32, 1, 4, max_position_embeddings=16, activation="tanh"))
    session = UniLMSession(config, dropout=0.02, threads=threads)
    corpus = PairCorpus(pairs, length=16, rows=16, masking=0.05, seed=2)
    schedule = learning.Schedule(5e-3, "linear", steps=160, warm_up=10)
    about = {"config": dataclasses.asdict(config)} | session.described()
    optimizer = EMA(learning.AdamW((0.9, 0.98), decay=0.01), 0.9)
    first = mapped(lambda a: a * np.float32(5 if a.ndim == 2 else 1), initial_seq2seq(config, seed=3))
    return learning.Training(session, corpus, optimizer, schedule, about=about), first


def test_a_small_model_learns_to_copy_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """In 160 steps both losses fall, and those of the averaged parameters; from a checkpoint after 120 the end is the same in every bit."""
    (training, first), path, half = _copying(), tmp_path / "all.safetensors", tmp_path / "half.safetensors"
    losses = []

    def watch(state: learning.State, taken: learning.Taken) -> None:
        losses.append(taken.loss)
        if taken.step == 120:
            half.write_bytes(path.read_bytes())

    state = training.run(training.start(first), 160, checkpoint=path, every=120, watch=watch)
    again, _ = _copying()
    resumed = again.run(again.resume(half, first), 160)
    same = zip(leaves(state), leaves(resumed), strict=True)
    assert all(unchanged(a, b) if hasattr(a, "dtype") else a == b for a, b in same)
    session, optimizer = training.gradient, training.optimizer
    assert isinstance(session, UniLMSession)
    assert isinstance(optimizer, EMA)
    batches = training.corpus.batches()
    before, after = session.losses(first, batches), session.losses(optimizer.averaged(*state[:2]), batches)
    assert np.mean(losses[-10:]) < losses[0] / 2
    assert all(b < a / 2 for a, b in zip(before, after, strict=True))


def test_what_a_session_does_not_compute_is_refused() -> None:
    session, model, (batch, *_) = UniLMSession(SMALL), _weights(SMALL), BATCHES
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_position_embeddings": None}, r"no such BERT[\s\S]*NEZHA"),
        ({"residual_attention": "sum"}, r"no such BERT[\s\S]*residual attention"),
    )
    for change, said in changes:
        with pytest.raises(ConfigError, match=said):
            UniLMSession(dataclasses.replace(SMALL, bert=dataclasses.replace(BERT, **change)))
    wrong_options: tuple[dict[str, Any], ...] = (
        {"dropout": 1.0},
        {"k": 0},
        {"copy_weight": float("nan")},
        {"threads": 0},
    )
    for options in wrong_options:
        with pytest.raises(ConfigError, match=next(iter(options))):
            UniLMSession(SMALL, **options)
    for name, more in (("ids", 30), ("said", 30), ("segments", 2), ("labels", 3), ("labels", -3)):
        with pytest.raises(TokenError, match=r"out of range"):
            session(model, [batch._replace(**{name: getattr(batch, name) + more})])
    with pytest.raises(ShapeError, match=r"labels does not fit[\s\S]*\(6, 13\)"):
        session(model, [batch._replace(labels=batch.segments)])
    flipped = batch._replace(real=batch.real[:, ::-1], segments=0 * batch.segments)
    back = batch._replace(segments=batch.real - batch.segments)
    places, untold = np.arange(batch.real.shape[1]), 0 * batch.segments
    hole = batch._replace(real=batch.real & (places != 9), segments=untold)
    short = batch._replace(real=batch.real & (places < 5))
    empty = batch._replace(real=batch.real & (np.arange(6) != 2)[:, None], segments=untold)
    for wrong in (flipped, back, hole, short, empty):
        with pytest.raises(ShapeError, match=r"reads no such batch[\s\S]*a source \(segment 0\), then a target"):
            session(model, [wrong])
    for nothing in (batch._replace(segments=0 * batch.segments), _batch([(4, 1), (3, 1)])):
        with pytest.raises(TokenError, match="nothing is trained"):
            session(model, [nothing])
    with pytest.raises(ShapeError, match=r"position table[\s\S]*max_position_embeddings = 16"):
        session(model, [_batch([(13, 4)])])
    with pytest.raises(TokenError, match=r"token 0, which the dialect hides"):
        UniLMSession(KERAS)(_weights(KERAS), [batch._replace(ids=0 * batch.ids)])
    with pytest.raises(DtypeError, match="16-bit"):
        session(_weights(SMALL, "float16"), [batch])


def test_gradients_are_added_in_the_parts_order() -> None:
    """(1 + u) + u differs from 1 + (u + u) in the last bit, for u of half a unit."""
    unit = 2.0**-53
    assert added_in_order([{"a": np.array([x])} for x in (1.0, unit, unit)])["a"].tolist() == [1.0]
    assert added_in_order([{"a": np.array([x])} for x in (unit, unit, 1.0)])["a"].tolist() == [1 + 2 * unit]
