"""Training the extractor: documents in steps, gradients beside the definition's, dropout, and going on after a stop."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import errors
from refimpl.gradients import vjp
from refimpl.learning import AdamW, Schedule, Training
from refimpl.learning.extractor import Documents, ExtractorGradient, SentenceBatch
from refimpl.spaces import extractor
from refimpl.spaces.extractor import ExtractorConfig
from refimpl.trees import leaves, mapped, named_leaves

if TYPE_CHECKING:
    from pathlib import Path

    from systems import System

CONFIG = ExtractorConfig(3, 4, dilations=(1, 2))
LENGTHS = (3, 1, 5, 3, 2, 5, 4)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _documents(lengths: Any = LENGTHS, dtype: str = "float64", seed: int = 0) -> list[tuple[Any, Any]]:
    """The first number of a document's vectors is its place in the list; sentences are to be kept by their second number."""
    rng, documents = np.random.default_rng(seed), []
    for place, n in enumerate(lengths):
        vectors = rng.normal(size=(n, 3))
        vectors[:, 0] = place
        documents.append((vectors.astype(dtype), vectors[:, 1] > 0))
    return documents


def _weights(dtype: str = "float64") -> extractor.ExtractorWeights:
    """First weights with gates that are open, so that every parameter has a gradient."""
    weights = extractor.initial_extractor(CONFIG, 1, dtype)
    return weights._replace(blocks=tuple(b._replace(alpha=b.alpha + np.asarray(0.5, dtype)) for b in weights.blocks))


# --- documents --------------------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=9),
    st.integers(1, 4),
    st.sampled_from(["grouped", "padded"]),
    st.integers(0, 3),
)
def test_an_epoch_has_every_document_once(lengths: list[int], rows: int, form: Any, epoch: int) -> None:
    """With its own labels, padded to the longest beside it; the same at every call; positions lead through all epochs."""
    documents = _documents(lengths)
    corpus = Documents(iter(documents), form=form, rows=rows, seed=5)
    seen: list[int] = []
    place = (epoch, 0)
    while place[0] == epoch:
        (batch,) = corpus.step(*place)
        assert all(np.array_equal(a, b) for a, b in zip(batch, corpus.step(*place)[0], strict=True))
        assert len(batch.vectors) <= rows
        assert batch.vectors.shape[1] == batch.counted.sum(axis=1).max()
        for vectors, labels, counted in zip(*batch, strict=True):
            seen.append(number := int(vectors[0, 0]))
            n = lengths[number]
            assert counted.tolist() == [True] * n + [False] * (len(counted) - n)
            assert np.array_equal(vectors[:n], documents[number][0])
            assert np.array_equal(labels[:n], documents[number][1])
            assert not np.any(vectors[n:])
            assert not np.any(labels[n:])
        place = corpus.after(*place)
    assert sorted(seen) == list(range(len(lengths)))
    assert place == (epoch + 1, 0)


def test_grouped_documents_are_padded_little() -> None:
    """In the order of their lengths, so that no other rectangles of as many documents have less padding."""
    corpus = Documents(_documents(range(1, 13)), rows=3)
    lengths = sorted(sorted(batch.counted.sum(axis=1).tolist()) for (batch,) in (corpus.step(2, i) for i in range(4)))
    assert lengths == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    orders = [[corpus.step(e, i)[0].vectors.shape[1] for i in range(4)] for e in range(6)]
    assert len({tuple(order) for order in orders}) > 1


def test_half_precision_is_widened_where_its_step_comes() -> None:
    documents = _documents(dtype="float16")
    corpus = Documents(documents)
    assert all(a is b for (a, _), (b, _) in zip(corpus.documents, documents, strict=True))
    (batch,), (wide,) = corpus.step(0, 0), Documents([(a.astype("float32"), b) for a, b in documents]).step(0, 0)
    assert batch.vectors.dtype == np.float32
    assert all(map(np.array_equal, batch, wide))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[float]:
        corpus = Documents(_documents([2] * 20), form="padded", rows=20, seed=seed)
        return corpus.step(epoch, 0)[0].vectors[:, 0, 0].tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_description_names_what_decides_a_step() -> None:
    base = Documents(_documents(), rows=np.int64(4)).described()  # type: ignore[arg-type]
    assert json.loads(json.dumps(base)) == base
    assert (base["documents"], base["width"], base["dtype"]) == (7, 3, "float64")
    flipped = [(vectors, ~labels) for vectors, labels in _documents()]
    for other in (
        Documents(_documents(), rows=3),
        Documents(_documents(), rows=4, seed=1),
        Documents(_documents(), rows=4, form="padded"),
        Documents(_documents(seed=1), rows=4),
        Documents(flipped, rows=4),
        Documents(_documents(dtype="float32"), rows=4),
    ):
        assert other.described() != base


def test_documents_are_read_once_for_their_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint has it, and they may be gigabytes in a file."""
    documents = Documents(_documents())
    first = documents.described()
    monkeypatch.setattr(hashlib, "sha256", None)
    assert documents.described() == first


def test_documents_refuse_in_words() -> None:
    good = _documents()
    for options in ({"rows": 0}, {"rows": 1.5}, {"seed": -1}, {"seed": None}, {"form": "packed"}):
        ((name, value),) = options.items()
        with _refused(errors.ConfigError, "options make no sense", "grouped, padded", f"{name} = {value!r}"):
            Documents(good, **options)  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "no documents"):
        Documents([])
    vectors, labels = good[1]
    for wrong in (
        (vectors.astype("float16"), labels),
        (vectors.astype("float32"), labels),
        (vectors[:, :2], labels),
        (vectors[0], labels),
        (vectors[:0], labels[:0]),
        (vectors, labels.astype(int)),
        (vectors, np.array([0, 1], bool)),
    ):
        with _refused(errors.TextError, "does not fit", "number 1", "float64 (n, 3)", str(wrong[1].shape)):
            Documents([good[0], wrong])
    with _refused(errors.TextError, "does not fit", "number 0", "float16, float32 or float64 (n, in)"):
        Documents([(vectors.astype("int64"), labels)])
    with _refused(errors.TextError, "not finite", "number 1"):
        Documents([good[0], (np.full((1, 3), np.nan), labels)])
    corpus = Documents(good, rows=4)
    for epoch, position in ((0, 2), (0, -1), (0, 0.5)):
        with _refused(errors.ConfigError, "no such step", "from 0 to 1", repr(position)):
            corpus.step(epoch, position)  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "no such epoch", "-1"):
        corpus.step(-1, 0)


# --- gradients --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", extractor.dialects)
def test_the_gradient_is_that_of_the_definitions(dialect: str, floating_system: System) -> None:
    """Of one rectangle; on every library, moved there from the host."""
    dtype = floating_system.dtypes[-1]
    (batch,) = Documents(_documents()).step(0, 0)
    weights = _weights(dtype)
    z, back = vjp(extractor.sentence_logits, weights, CONFIG, batch.vectors.astype(dtype), batch.counted)
    loss, back_of_loss = vjp(extractor.extractor_loss, z, batch.labels, batch.counted, dialect=dialect)
    known = back(*back_of_loss(np.ones((), dtype)))[0]
    there = mapped(lambda a: floating_system.floats(a, dtype), weights)
    gradient = ExtractorGradient(CONFIG, dialect=dialect)
    found, bars = gradient(there, (batch,))
    at = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(float(found), loss, rtol=at)
    for name, bar in named_leaves(bars).items():
        host = np.asarray(floating_system.back(bar))
        assert str(host.dtype) == dtype
        np.testing.assert_allclose(host, named_leaves(known)[name], rtol=0, atol=at, err_msg=name)


@pytest.mark.parametrize("dialect", extractor.dialects)
def test_a_step_in_pieces_is_the_step(dialect: str) -> None:
    (whole,) = Documents(_documents([4] * 6)).step(0, 0)
    gradient, weights = ExtractorGradient(CONFIG, dialect=dialect), _weights()
    pieces = tuple(SentenceBatch(*(part[rows] for part in whole)) for rows in (slice(2), slice(2, 3), slice(3, 6)))
    one, other = (gradient(weights, batches) for batches in ((whole,), pieces))
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_dropout_is_drawn_from_the_generator_given() -> None:
    batches, weights = Documents(_documents(dtype="float32")).step(0, 0), _weights("float32")
    gradient = ExtractorGradient(CONFIG, dropout=0.5)

    def run(with_: ExtractorGradient, seed: int | None) -> list[Any]:
        return leaves(with_(weights, batches, None if seed is None else np.random.default_rng(seed)))

    assert all(map(np.array_equal, run(gradient, 1), run(gradient, 1)))
    assert not np.array_equal(run(gradient, 1)[0], run(gradient, 2)[0])
    for other in (run(gradient, None), run(ExtractorGradient(CONFIG, dropout=0.0), 1)):
        assert all(map(np.array_equal, other, run(ExtractorGradient(CONFIG), None)))
    assert gradient.described() == {"dropout": 0.5, "dialect": "corrected"}


def test_dropout_keeps_the_mean_at_every_place() -> None:
    """Before the projection, behind it, behind every layer: zeros at the rate, the rest 1/(1 - p); each within 5 deviations."""
    batch = SentenceBatch(np.zeros((40, 50, 3)), np.zeros((40, 50), bool), np.ones((40, 50), bool))
    factors = ExtractorGradient(CONFIG, dropout=0.2)._factors(batch, "float64", np.random.default_rng(0))
    assert [factor.shape for factor in factors] == [(40, 50, 3)] + [(40, 50, 4)] * 3
    for factor in factors:
        assert set(np.unique(factor)) == {0, 1 / (1 - 0.2)}
        deviation = (0.2 * 0.8 / factor.size) ** 0.5
        assert abs(np.mean(factor == 0) - 0.2) < 5 * deviation


def test_gradients_refuse_in_words() -> None:
    for rate in (1.0, -0.1, float("nan"), True, "0.1"):
        with _refused(errors.ConfigError, "rate of dropout", "0 <= dropout < 1", repr(rate)):
            ExtractorGradient(CONFIG, dropout=rate)  # type: ignore[arg-type]
    with _refused(errors.ConfigError, "unknown dialect", "corrected, published"):
        ExtractorGradient(CONFIG, dialect="keras")
    (batch,) = Documents(_documents()).step(0, 0)
    with _refused(errors.ConfigError, "no target of the step counts"):
        ExtractorGradient(CONFIG)(_weights(), (batch._replace(counted=np.zeros_like(batch.counted)),))


# --- training ---------------------------------------------------------------------------------------------------------------------------


def test_training_learns_stops_and_goes_on(tmp_path: Path) -> None:
    """Sentences whose neighbour before them is positive: a linear network cannot tell; and the checkpoint's steps are the others, bit for bit."""
    rng, documents = np.random.default_rng(0), []
    for _ in range(24):
        vectors = rng.normal(size=(int(rng.integers(4, 9)), 3)).astype(np.float32)
        documents.append((vectors, np.concatenate([[False], vectors[:-1, 0] > 0])))
    config = ExtractorConfig(3, 8, dilations=(1,))

    def training() -> Training:
        gradient, corpus = ExtractorGradient(config), Documents(documents, rows=8)
        about = gradient.described()
        return Training(gradient, corpus, AdamW(decay=0), Schedule(0.03), about=about)

    first, losses = extractor.initial_extractor(config), []
    one = training()
    state = one.run(one.start(first), 60, watch=lambda _, taken: losses.append(taken.loss))
    assert np.mean(losses[-3:]) < 0.35 < 0.6 < np.mean(losses[:3])
    path, two = tmp_path / "checkpoint.safetensors", training()
    two.run(two.start(first), 25, checkpoint=path)
    three = training()
    again = three.run(three.resume(path, first), 60)
    assert (again.step, again.epoch, again.position) == (60, 20, 0)
    assert all(map(np.array_equal, leaves(again.parameters), leaves(state.parameters)))
