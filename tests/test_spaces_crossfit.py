"""Extractors for all folds: vectors in a file, trainings that stop anywhere, and sources that no extractor chose of what it had seen."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import assert_mean, recorded_steps

from refimpl import learning
from refimpl.backend import Backend
from refimpl.backend import get as get_backend
from refimpl.errors import ConfigError, DtypeError, ShapeError
from refimpl.learning.extractor import Documents
from refimpl.spaces import extractor
from refimpl.spaces.crossfit import ExtractorOptions, Fold, pairs_of, sources, train_fold
from refimpl.spaces.data import Labelled, held_out, trained_on
from refimpl.spaces.extractor import ExtractorConfig
from refimpl.spaces.vectors import Vectors, make_vectors
from refimpl.text.rouge import main_metric
from refimpl.trees import leaves

WIDTH = 6
NUMPY = get_backend("numpy")
QUICK = ExtractorOptions(hidden_size=4, epochs=2, rows=3, rate=0.02, threshold=0.4, seed=5)


def on_host(a: Any) -> Any:
    """A strict array as NumPy's, as `get()` makes one of CuPy's."""
    return a if isinstance(a, np.ndarray) else np.asarray(a.to_device(type(a.device)("CPU_DEVICE")))


class Strict(Backend):
    """array-api-strict on a device that refuses the host's arrays."""

    def to_numpy(self, a: Any) -> Any:
        return on_host(a)


def _vector(sentence: str) -> Any:
    rng = np.random.default_rng(list(sentence.encode()))
    return rng.normal(size=WIDTH).astype(np.float32)


def embed(sentences: list[str]) -> Any:
    return np.stack([_vector(each) for each in sentences])


def documents(count: int = 7) -> list[Labelled]:
    rng, found = np.random.default_rng(3), []
    for i in range(count):
        sentences = [f"{'甲乙丙丁'[int(rng.integers(4))]}{i}{j}。" for j in range(int(rng.integers(1, 6)))]
        labels = sorted({int(rng.integers(len(sentences))) for _ in range(2)})
        found.append(Labelled(f"d{i}", sentences, labels, "".join(sentences[j] for j in labels), 1.0))
    return found


def vectors(of: list[Labelled]) -> Vectors:
    found = np.concatenate([embed(each.sentences) for each in of])
    return Vectors(found, [len(each.sentences) for each in of], hashlib.sha256(found.tobytes()).hexdigest())


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(each).tobytes() for each in leaves(tree)]


# --- vectors --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_are_those_of_the_encoder_rounded_once(dtype: str, tmp_path: Path) -> None:
    given = documents()
    found = make_vectors(given, embed, tmp_path / "v.npy", {"encoder": "x"}, width=WIDTH, dtype=dtype)
    assert len(found) == 7
    assert found.width == WIDTH
    for number, document in enumerate(given):
        assert np.array_equal(found[number], embed(document.sentences).astype(dtype))
    again = make_vectors(given, lambda _: 1 / 0, tmp_path / "v.npy", {"encoder": "x"}, width=WIDTH, dtype=dtype)
    assert again.sha256 == found.sha256 == hashlib.sha256((tmp_path / "v.npy").read_bytes()).hexdigest()
    assert {each.name for each in tmp_path.iterdir()} == {"v.npy", "v.npy.json"}
    with pytest.raises(ConfigError, match=r"other settings[\s\S]*encoder: 'x' there, 'y' here"):
        make_vectors(given, embed, tmp_path / "v.npy", {"encoder": "y"}, width=WIDTH, dtype=dtype)
    with pytest.raises(ConfigError, match="shape"):
        make_vectors(given[1:], embed, tmp_path / "v.npy", {"encoder": "x"}, width=WIDTH, dtype=dtype)


@given(st.integers(0, 6))
def test_vectors_that_were_stopped_go_on_and_no_document_is_read_twice(stop: int) -> None:
    given, read = documents(), list[str]()

    def counting(sentences: list[str]) -> Any:
        read.extend(sentences)
        if len(read) > sum(len(each.sentences) for each in given[:stop]) and not resumed:
            raise KeyboardInterrupt
        return embed(sentences)

    with tempfile.TemporaryDirectory() as folder:
        path, resumed = Path(folder) / "v.npy", False
        with pytest.raises(KeyboardInterrupt):
            make_vectors(given, counting, path, {}, width=WIDTH)
        assert not path.exists()
        read, resumed = [], True
        found = make_vectors(given, counting, path, {}, width=WIDTH)
        assert read == [each for document in given[stop:] for each in document.sentences]
        assert np.array_equal(found.array, vectors(given).array.astype(np.float16))
        assert {each.name for each in Path(folder).iterdir()} == {"v.npy", "v.npy.json"}
        del found


def test_vectors_that_cannot_be_are_refused(tmp_path: Path) -> None:
    given = documents()
    with pytest.raises(DtypeError, match=r"not finite[\s\S]*float16[\s\S]*write float32"):
        make_vectors(given, lambda s: 1e5 * np.ones((len(s), 2)), tmp_path / "a", {}, width=2)
    (tmp_path / "b.part.json").write_text("left of a file of vectors that is gone")
    with pytest.raises(DtypeError, match="wrong with the encoder"):
        make_vectors(given, lambda s: np.nan * np.ones((len(s), 2)), tmp_path / "b", {}, width=2)
    with pytest.raises(ShapeError, match="each sentence a vector"):
        make_vectors(given, lambda s: np.ones((len(s), 3)), tmp_path / "c", {}, width=2)
    with pytest.raises(ConfigError, match="no such dtype"):
        make_vectors(given, embed, tmp_path / "d", {}, width=WIDTH, dtype="float64")
    with pytest.raises(ConfigError, match="cannot be read or written"):
        make_vectors(given, embed, tmp_path / "absent" / "d", {}, width=WIDTH)


# --- steps ----------------------------------------------------------------------------------------------------------------------


def _corpus(dtype: str, path: Path) -> Documents:
    given = documents()
    found = make_vectors(given, embed, path, {}, width=WIDTH, dtype=dtype)
    return Documents([(found[i], np.isin(np.arange(len(d.sentences)), d.labels)) for i, d in enumerate(given)], rows=3)


def test_steps_are_read_from_a_file_and_widened(tmp_path: Path) -> None:
    half, whole = _corpus("float16", tmp_path / "a"), _corpus("float32", tmp_path / "b")
    for position in range(3):
        ((one, *rest),), ((other, *same),) = half.step(1, position), whole.step(1, position)
        assert one.dtype == other.dtype == np.float32
        assert np.array_equal(one, other.astype(np.float16).astype(np.float32))
        assert bits(rest) == bits(same)
    assert half.described()["dtype"] == "float16"
    assert isinstance(half.documents[0][0].base, np.memmap)


def test_folds_are_trained_where_the_backend_is(tmp_path: Path, monkeypatch: Any) -> None:
    """A device that refuses the host's arrays: the metric and the sources of NumPy, but for rounding."""
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    backend = Strict("strict", strict, device)
    for module in ("learning.checkpoints", "spaces.extractor_file"):
        monkeypatch.setattr(f"refimpl.{module}.on_host", on_host)
    given = documents()
    options = dataclasses.replace(QUICK, epochs=1, keep="average")
    meant, found = (_trained(given, 1, tmp_path / each.name, options, backend=each) for each in (NUMPY, backend))
    assert all(each.device == device for each in leaves(found.weights))
    for one, other in zip(leaves(found.weights), leaves(meant.weights), strict=True):
        np.testing.assert_allclose(backend.to_numpy(one), other, rtol=1e-4, atol=1e-6)
    assert found.epochs == pytest.approx(meant.epochs)
    one, other = (
        sources(fold, given, vectors(given), held_out(7, 3, 1), options, backend=each)
        for fold, each in ((found, backend), (meant, NUMPY))
    )
    assert one == other


# --- folds ----------------------------------------------------------------------------------------------------------------------


def _trained(
    of: list[Labelled], fold: int | None, folder: Path, options: ExtractorOptions = QUICK, **more: Any
) -> Fold:
    return train_fold(of, vectors(of), 3, fold, folder, options, **more)


@pytest.mark.parametrize("keep", ["best", "average", "last"])
def test_a_fold_does_not_depend_on_what_it_holds_out(keep: str, tmp_path: Path) -> None:
    """Every held-out document replaced by another: the same weights, in every bit, after each epoch; the training ones replaced: others."""
    options, fold = dataclasses.replace(QUICK, keep=keep), 1
    given, others = documents(), documents(14)[7:]
    mixed = [others[i] if i % 3 == fold else each for i, each in enumerate(given)]
    seen: list[list[list[bytes]]] = []
    for number, each in enumerate((given, mixed, others)):
        weights: list[list[bytes]] = []
        step = learning.Training.step

        def taken(self: Any, state: Any, step: Any = step, weights: Any = weights) -> Any:
            found = step(self, state)
            weights.append(bits(found[0].parameters))
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(learning.Training, "step", taken)
            result = _trained(each, fold, tmp_path / str(number), options)
        seen.append(weights)
        if keep == "best":
            assert bits(result.weights) == weights[2 * result.kept - 1]
        else:
            weights.append(bits(result.weights))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


def test_no_source_is_of_an_extractor_that_saw_the_document(tmp_path: Path) -> None:
    """All pairs, in the order of the documents; each as the one extractor chooses that held it out."""
    given, found = documents(), dict[int, str]()
    folds = [_trained(given, fold, tmp_path / str(fold)) for fold in range(3)]
    for fold in (2, 0, 1):
        found |= sources(folds[fold], given, vectors(given), held_out(7, 3, fold), QUICK)
    pairs = pairs_of(given, found)
    assert [each.id for each in pairs] == [each.id for each in given]
    for number, (pair, document) in enumerate(zip(pairs, given, strict=True)):
        assert number not in trained_on(7, 3, number % 3)
        fold = folds[number % 3]
        p = extractor.sentence_probabilities(fold.weights, fold.config, embed(document.sentences)[None])[0]
        chosen = [s for s, each in zip(document.sentences, p, strict=True) if each > 0.4]
        assert pair.source_1 == "".join(chosen or [document.sentences[int(np.argmax(p))]])
        assert pair.source_2 == pair.target == document.summary
    assert len({each.source_1 == each.source_2 for each in pairs}) == 2
    with pytest.raises(ConfigError, match="none for 1 of 7, the first number 4"):
        pairs_of(given, {i: text for i, text in found.items() if i != 4})


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """Of equal ones the last; measured above threshold + margin."""
    given, options = documents(), dataclasses.replace(QUICK, epochs=5, rate=0.05)
    (tmp_path / "epochs.json").write_text("[1, 1]")  # of a training that is gone
    fold = _trained(given, 0, tmp_path, options)
    assert len(fold.epochs) == 5
    assert fold.kept == 1 + max(i for i, each in enumerate(fold.epochs) if each == max(fold.epochs))
    held = held_out(7, 3, 0)
    raised = dataclasses.replace(options, threshold=0.5, margin=0.0)
    texts = sources(fold, given, vectors(given), held, raised)
    metric = np.mean([main_metric(texts[i], given[i].summary) for i in held])
    assert max(fold.epochs) == pytest.approx(float(metric), abs=1e-15)
    assert len(set(fold.epochs)) > 1


@pytest.mark.parametrize("keep", ["best", "average", "last"])
def test_a_stopped_fold_is_the_one_that_was_not(keep: str, tmp_path: Path) -> None:
    """Stopped after every step, and where an epoch ends after its checkpoint, after its weights, and after its metric."""
    given, options = documents(), dataclasses.replace(QUICK, keep=keep, epochs=3, rows=2)
    straight = _trained(given, 1, tmp_path / "straight", options)
    places = [f"refimpl.spaces.crossfit.{name}" for name in ("_metric", "_Run._write", "_Run._say")]
    checkpoint, before, left = tmp_path / "stopped" / "training.safetensors", b"", list[str]()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for stops in range(40):  # noqa: B007 - used after it
        if checkpoint.exists() and checkpoint.read_bytes() != before:
            before, left = checkpoint.read_bytes(), [*places]
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            if left:
                patch.setattr(left.pop(), stop)
            found = _trained(given, 1, tmp_path / "stopped", options, every=1, advance=stop)
            break
    assert stops >= 13
    assert found.epochs == straight.epochs
    assert found.kept == straight.kept
    assert bits(found.weights) == bits(straight.weights)
    for name in ("extractor.safetensors", "extractor.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_fold_goes_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    """Of the first epoch, beside the files of the last."""
    given, options, kept = documents(), dataclasses.replace(QUICK, epochs=3), list[bytes]()
    checkpoint = tmp_path / "training.safetensors"

    def keep(step: int, of: int, loss: float) -> None:
        if step == 3:
            kept.append(checkpoint.read_bytes())

    straight = _trained(given, 1, tmp_path, options, advance=keep)
    about = (tmp_path / "extractor.json").read_bytes()
    checkpoint.write_bytes(kept[0])
    (tmp_path / "extractor.json").unlink()
    again = _trained(given, 1, tmp_path, options)
    assert bits(again.weights) == bits(straight.weights)
    assert (tmp_path / "extractor.json").read_bytes() == about


def test_a_fold_begins_with_weights_of_its_own_and_is_trained_as_told(tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, epochs=1, rate=1e-30, keep="last", loss="published", dropout=0.25)
    for fold, seed in ((0, 5), (2, 7), (None, 8)):
        found = _trained(documents(), fold, tmp_path / str(fold), options).weights.projection
        assert np.array_equal(found, extractor.initial_extractor(ExtractorConfig(WIDTH, 4), seed).projection)
    said = json.loads((tmp_path / "2" / "extractor.json").read_text())["training"]
    assert (said["about"]["dropout"], said["about"]["dialect"], said["seed"]) == (0.25, "published", 5)
    assert (said["optimizer"]["decay"], said["schedule"]["peak"], said["corpus"]["rows"]) == (0.0, 1e-30, 3)


def test_the_average_is_that_of_all_steps(tmp_path: Path) -> None:
    with recorded_steps() as states:
        fold = _trained(documents(), 0, tmp_path, dataclasses.replace(QUICK, keep="average", momentum=0.5))
    assert len(states) > 1
    assert_mean(fold.weights, states, 0.5)


def test_a_fold_that_is_done_is_read_and_that_of_another_training_refused(tmp_path: Path) -> None:
    given = documents()
    fold = _trained(given, 1, tmp_path)
    again = _trained(given, 1, tmp_path, advance=lambda *_: 1 / 0)
    assert again.epochs == fold.epochs
    assert bits(again.weights) == bits(fold.weights)
    with pytest.raises(ConfigError, match=r"about.fold: 1 in the checkpoint, 2 here"):
        _trained(given, 2, tmp_path)
    with pytest.raises(ConfigError, match=r"about.options.seed: 5 in the checkpoint, 6 here"):
        _trained(given, 1, tmp_path, dataclasses.replace(QUICK, seed=6))
    other = [*given[:4], given[4]._replace(summary="other"), *given[5:]]
    with pytest.raises(ConfigError, match=r"got:\s+about.held_out: [^\n]*\n  to do"):
        _trained(other, 1, tmp_path)
    (tmp_path / "extractor.json").unlink()
    with pytest.raises(ConfigError, match=r"corpus.sha256"):
        _trained(given[::-1], 1, tmp_path)


def test_an_extractor_of_all_documents_holds_none_out(tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, keep="average")
    fold = _trained(documents(), None, tmp_path / "all", options)
    assert fold.epochs == []
    assert fold.kept == 2
    assert json.loads((tmp_path / "all" / "extractor.json").read_text())["training"]["corpus"]["documents"] == 7
    with pytest.raises(ConfigError, match="nothing is held out"):
        _trained(documents(), None, tmp_path / "best")
    changed = dataclasses.replace(options, threshold=0.7)  # what is chosen has no part in the weights
    assert bits(_trained(documents(), None, tmp_path / "all", changed).weights) == bits(fold.weights)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"rows": 1.5}, {"keep": "first"}, {"threshold": 0.95}, {"seed": -1}, {"threshold": -0.1}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="options out of range"):
        ExtractorOptions(**options)
