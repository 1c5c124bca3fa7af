"""Data, the loop and its checkpoints: order, rectangles, and a training that was stopped is the one that was not, in every bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bigram import TEXTS, bigram, made_corpus, made_parameters, made_training
from hypothesis import given
from hypothesis import strategies as st

import weights_io
from refimpl import learning
from refimpl.errors import ConfigError, DivergenceError, DtypeError, TextError
from refimpl.learning.checkpoints import check_same
from refimpl.trees import leaves, named_leaves

ROOT = Path(__file__).parent.parent
FORMS: Any = ("grouped", "padded", "packed")
every_form = pytest.mark.parametrize("form", FORMS)


def _steps(corpus: learning.Corpus, epoch: int) -> list[tuple[learning.Batch, ...]]:
    return [corpus.step(epoch, position) for position in range(corpus.steps(epoch))]


def _bits(tree: Any) -> list[Any]:
    return [(a.dtype, a.shape, a.tobytes()) if hasattr(a, "dtype") else a for a in leaves(tree)]


# --- data -----------------------------------------------------------------------------------------------------------------------


@every_form
def test_order_depends_on_seed_and_epoch_alone(form: Any) -> None:
    """Whatever was asked before: the same bits; and another epoch or seed has another order."""
    corpus, other = made_corpus(form), made_corpus(form)
    later = [_bits(step) for step in _steps(corpus, 3)]
    assert [_bits(step) for step in _steps(corpus, 0)] != later
    assert [_bits(step) for step in _steps(other, 3)] == later
    assert [_bits(step) for step in _steps(made_corpus(form, seed=5), 3)] != later


@every_form
def test_a_step_has_the_targets_asked_for_and_no_rectangle_more(form: Any) -> None:
    corpus = made_corpus(form)
    for step in _steps(corpus, 1):
        counts = [int(batch.real.sum()) for batch in step]
        assert sum(counts) >= 9 > sum(counts[:-1])
        assert all(len(batch.ids) <= 2 for batch in step)
    single = made_corpus(form, targets=None)
    assert all(len(step) == 1 for step in _steps(single, 0))


@pytest.mark.parametrize("form", ["grouped", "padded"])
def test_every_text_comes_once_and_its_targets_are_its_next_tokens(form: Any) -> None:
    corpus = made_corpus(form, targets=None, ignored=[2])
    found = []
    for (batch,) in _steps(corpus, 2):
        assert form != "grouped" or batch.real.all()
        for ids, targets, counted, real in zip(*batch, strict=True):
            assert ids[real][1:].tolist() == targets[real][:-1].tolist()
            assert counted.tolist() == (real & (targets != 2)).tolist()
            found.append([*ids[real].tolist(), int(targets[real][-1])])
    assert sorted(found) == sorted(TEXTS)


@given(st.integers(1, 9), st.integers(0, 3))
def test_packed_rows_are_one_stream(length: int, epoch: int) -> None:
    """All rows have `length` targets; together they are the texts one after another, but for a rest shorter than a row."""
    corpus = learning.Corpus(TEXTS, length=length, form="packed", rows=3, seed=1)
    batches = [batch for step in _steps(corpus, epoch) for batch in step]
    stream = np.concatenate([batch.targets.ravel() for batch in batches])
    order = np.random.default_rng([1, epoch]).permutation(len(TEXTS))
    meant = np.concatenate([TEXTS[i] for i in order])[1:]
    assert stream.tolist() == meant[: len(stream)].tolist()
    assert 0 <= len(meant) - len(stream) < length
    assert all(batch.real.all() and batch.ids.shape[1] == length for batch in batches)


def test_after_goes_through_epochs() -> None:
    corpus, place, found = made_corpus(), (0, 0), []
    for _ in range(2 * corpus.steps(0) + corpus.steps(2)):
        found.append(place)
        place = corpus.after(*place)
    assert found[:2] == [(0, 0), (0, 1)]
    assert found[corpus.steps(0)] == (1, 0)
    assert len(set(found)) == len(found)


def test_texts_and_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TextError, match=r"does not fit[\s\S]*number 1[\s\S]*2 to 4 tokens[\s\S]*5 tokens[\s\S]*packed"):
        learning.Corpus([[1, 2], [1, 2, 3, 4, 5]], length=3)
    with pytest.raises(TextError, match=r"number 0[\s\S]*1 tokens"):
        learning.Corpus([[1]], length=3)
    with pytest.raises(ConfigError, match=r"do not fill one step[\s\S]*1 texts with 2 targets"):
        learning.Corpus([[1, 2, 3]], length=3, targets=3)
    with pytest.raises(ConfigError, match=r"length = 0, seed = -1, form = 'other'"):
        learning.Corpus([[1, 2]], length=0, seed=-1, form="other")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [[0.9, 1.7], "123", [True, False], [1, -1], [[1, 2], [3]], 5, np.array([0.5, 1.5])])
def test_texts_are_rows_of_whole_numbers(text: Any) -> None:
    with pytest.raises(
        TextError, match=r"no row of token ids[\s\S]*number 1[\s\S]*whole numbers from 0[\s\S]*tokenizer"
    ):
        learning.Corpus([[1, 2], text], length=3)


def test_other_words_for_a_corpus_that_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no token id[\s\S]*ignored[\s\S]*\['a'\]"):
        made_corpus(ignored=["a"])
    corpus = made_corpus()
    for position in (-1, corpus.steps(0), 0.5):
        with pytest.raises(ConfigError, match=r"no such step[\s\S]*from 0 to"):
            corpus.step(0, position)
    with pytest.raises(ConfigError, match=r"no such epoch[\s\S]*-1"):
        corpus.step(-1, 0)


# --- the loop -------------------------------------------------------------------------------------------------------------------


OPTIMIZERS = [learning.SGD(), learning.Momentum(0.9, nesterov=True), learning.AdamW(decay=0.1)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stopping_anywhere_changes_no_bit(optimizer: Any, dtype: Any, tmp_path: Path) -> None:
    """Over the end of an epoch, with dropout: k steps, a checkpoint, n - k steps, for every k."""
    training, steps = made_training(optimizer), made_corpus().steps(0) + 3
    straight = training.run(training.start(made_parameters(dtype)), steps)
    assert straight.epoch >= 1
    for k in (1, 4, steps - 1):
        path = tmp_path / f"{k}.safetensors"
        training.run(training.start(made_parameters(dtype)), k, checkpoint=path)
        resumed = training.resume(path, made_parameters(dtype))
        assert resumed.step == k
        assert _bits(training.run(resumed, steps)) == _bits(straight)


PROGRAM = """
import sys
sys.path[:0] = ["tests"]
from pathlib import Path
from bigram import made_parameters, made_training
training = made_training()
state = training.resume(sys.argv[1], made_parameters())
training.run(state, 11, checkpoint=Path(sys.argv[2]))
"""


def test_a_fresh_process_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    training, half, end = made_training(), tmp_path / "half.safetensors", tmp_path / "end.safetensors"
    straight = training.run(training.start(made_parameters()), 5, checkpoint=half)
    straight = training.run(straight, 11)
    subprocess.run([sys.executable, "-c", PROGRAM, half, end], cwd=ROOT, check=True)
    assert _bits(training.resume(end, made_parameters())) == _bits(straight)


def test_it_learns_and_says_what_it_saw() -> None:
    """The loss falls; every step is told, with its rate and the norm before clipping; what was given stays as it was."""
    training, seen, parameters = made_training(clip=0.5), [], made_parameters()
    before = _bits(parameters)
    state = training.run(training.start(parameters), 30, watch=lambda state, taken: seen.append(taken))
    assert [taken.step for taken in seen] == list(range(1, 31))
    assert [taken.rate for taken in seen] == [training.schedule(step) for step in range(30)]
    assert max(taken.norm for taken in seen) > 0.5
    assert np.mean([taken.loss for taken in seen[-5:]]) < np.mean([taken.loss for taken in seen[:5]]) - 0.2
    assert state.step == 30
    assert _bits(parameters) == before


def test_pieces_of_a_step_have_the_gradient_of_the_whole() -> None:
    """Accumulation: the rectangles of a step, one by one with the whole step's N, add up to the gradient of all at once."""
    corpus, parameters = made_corpus("padded", targets=20), made_parameters(np.float64)

    class Keep:
        def random(self, shape: Any) -> Any:
            return np.zeros(shape)

    batches = corpus.step(0, 0)
    assert len(batches) > 1
    width = max(batch.ids.shape[1] for batch in batches)
    wide = [[np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in batch] for batch in batches]
    whole = learning.Batch(*(np.concatenate(parts) for parts in zip(*wide, strict=True)))
    (loss, slopes), (same, others) = bigram(parameters, batches, Keep()), bigram(parameters, (whole,), Keep())
    assert abs(loss - same) <= 64 * 2.0**-53 * abs(loss)
    for a, b in zip(leaves(slopes), leaves(others), strict=True):  # sums of at most 30 numbers below 1
        assert np.max(np.abs(a - b)) <= 64 * 2.0**-53


def test_divergence_is_an_error_and_leaves_the_last_state() -> None:
    training = learning.Training(lambda p, b, r: (np.nan, p), made_corpus(), learning.SGD(), learning.Schedule(0.1))
    state = training.start(made_parameters())
    with pytest.raises(DivergenceError, match=r"diverged[\s\S]*step 1[\s\S]*loss nan[\s\S]*lower learning rate"):
        training.step(state)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss and the norm are finite, the step of 1e310 is not."""
    path, slopes = tmp_path / "training.safetensors", {"w": np.full((2, 2), 1e10), "b": np.ones(2)}
    training = learning.Training(
        lambda p, b, r: (1.0, slopes), made_corpus(), learning.SGD(), learning.Schedule(1e300), clip=None
    )
    with np.errstate(over="ignore"), pytest.raises(DivergenceError, match=r"step 1[\s\S]*not finite in w\n"):
        training.run(training.start({"w": np.zeros((2, 2)), "b": np.zeros(2)}), 1, checkpoint=path)
    assert not path.exists()


def test_fortran_order_does_not_survive_the_start() -> None:
    """A checkpoint is read in C order: products of arrays in another order may differ in their last bits."""
    training = made_training()
    state = training.start({"w": np.asfortranarray(made_parameters()["w"]), "b": np.zeros(10, np.float32)})
    assert all(leaf.flags.c_contiguous for leaf in leaves((state.parameters, state.moments)) if hasattr(leaf, "flags"))


# --- checkpoints ----------------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_saved(tmp_path: Path) -> None:
    corpus = made_corpus(
        length=np.int64(8), rows=np.int64(2), targets=np.int64(9), seed=np.int64(4), ignored=np.arange(1)
    )
    third, ten = np.float32(0.25), np.int64(10)
    optimizers = (
        learning.SGD(third),  # type: ignore[arg-type]
        learning.Momentum(third, np.True_, third),  # type: ignore[arg-type]
        learning.AdamW((third, third), third, third),  # type: ignore[arg-type]
    )
    schedule = learning.Schedule(np.float32(1e-2), "cosine", ten, np.int64(1), third)  # type: ignore[arg-type]
    for optimizer in optimizers:
        training = learning.Training(bigram, corpus, optimizer, schedule, third, np.int64(3))  # type: ignore[arg-type]
        _saved(tmp_path, training, 1)
    assert schedule.peak == np.float32(1e-2)


def test_a_name_is_refused_before_the_first_step(tmp_path: Path) -> None:
    training, seen = made_training(), []
    with pytest.raises(ConfigError, match="safetensors files"):
        training.run(
            training.start(made_parameters()), 2, checkpoint=tmp_path / "a.npz", watch=lambda *a: seen.append(a)
        )
    assert not seen
    with pytest.raises(ConfigError, match="no seed"):
        made_training(seed=-1)


def _saved(tmp_path: Path, training: learning.Training, steps: int = 3) -> Path:
    path = tmp_path / "training.safetensors"
    training.run(training.start(made_parameters()), steps, checkpoint=path)
    return path


def test_a_checkpoint_is_one_safetensors_file_with_everything(tmp_path: Path) -> None:
    path = _saved(tmp_path, made_training())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with weights_io.open(path) as checkpoint:
        assert set(checkpoint) == {f"{a}.{b}" for a in ("parameters", "moments.mean", "moments.square") for b in "bw"}
        said = json.loads(checkpoint.metadata["refimpl.learning"])
    assert said["step"] == 3
    assert said["numbers"] == {"moments.step": 3}
    assert set(said["training"]) == {"about", "optimizer", "schedule", "corpus", "clip", "seed", "parameters"}


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": ({"optimizer": learning.SGD()}, "optimizer.kind: 'AdamW' in the checkpoint, 'SGD' here"),
    "decay": ({"optimizer": learning.AdamW(decay=0.2)}, "optimizer.decay: 0.1 in the checkpoint, 0.2 here"),
    "what decays": (
        {"optimizer": learning.AdamW(decay=0.1, decays=lambda name, leaf: True)},
        r"optimizer.decayed: \['w'\] in the checkpoint, \['w', 'b'\] here",
    ),
    "seed": ({"seed": 9}, "seed: 8 in the checkpoint, 9 here"),
    "clip": ({"clip": None}, "clip: 1.0 in the checkpoint, None here"),
    "about": ({"about": {"kind": "trigram"}}, "about.kind: 'bigram' in the checkpoint, 'trigram' here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_training_is_refused(name: str, tmp_path: Path) -> None:
    options, words = OTHERS[name]
    path = _saved(tmp_path, made_training())
    with pytest.raises(ConfigError, match=rf"of another training[\s\S]*{words}[\s\S]*changed="):
        made_training(**options).resume(path, made_parameters())


def test_what_may_change_is_named(tmp_path: Path) -> None:
    path = _saved(tmp_path, made_training())
    assert made_training(seed=9).resume(path, made_parameters(), changed=["seed"]).step == 3
    with pytest.raises(ConfigError, match=r"seed: 8"):
        made_training(seed=9).resume(path, made_parameters(), changed=["schedule"])
    with pytest.raises(ConfigError, match=r"another form[\s\S]*moments.square.w[\s\S]*moments.step: .*number"):
        made_training(learning.SGD()).resume(path, made_parameters(), changed=["optimizer"])


def test_other_texts_shapes_and_dtypes_are_refused(tmp_path: Path) -> None:
    path, training = _saved(tmp_path, made_training()), made_training()
    with pytest.raises(
        ConfigError, match=r"parameters.w: \[10, 10, 'float32'\] in the checkpoint, \[10, 10, 'float64'\] here"
    ):
        training.resume(path, made_parameters(np.float64))
    other = learning.Training(
        bigram, made_corpus(length=9), training.optimizer, training.schedule, seed=8, about={"kind": "bigram"}
    )
    with pytest.raises(ConfigError, match=r"corpus.length: 8 in the checkpoint, 9 here"):
        other.resume(path, made_parameters())
    with pytest.raises(DtypeError, match="16-bit"):
        training.resume(path, made_parameters(np.float16))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for metadata in ({}, {"refimpl.learning": "["}, {"refimpl.learning": '{"version": 2}'}):
        weights_io.save(path, made_parameters(), metadata)
        with pytest.raises(ConfigError, match="no checkpoint of a training"):
            made_training().resume(path, made_parameters())
    with pytest.raises(weights_io.WeightsError):
        made_training().resume(tmp_path / "nothing.safetensors", made_parameters())
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        made_training().save(tmp_path / "training.npz", made_training().start(made_parameters()))
    with pytest.raises(ConfigError, match="distance"):
        made_training().run(made_training().start(made_parameters()), 3, every=0)


def test_descriptions_are_compared_as_json_says_them(tmp_path: Path) -> None:
    check_same(tmp_path, {"betas": [0.9, 0.95]}, {"betas": (0.9, 0.95)})


KILLED = """
import sys
sys.path[:0] = ["tests"]
import os
from pathlib import Path
from bigram import made_parameters, made_training
import refimpl.files as files
training, path = made_training(), Path(sys.argv[1])
state = training.resume(path, made_parameters())
os.fsync = lambda descriptor: (print("writing", flush=True), sys.stdin.read())  # as long as the disk takes
training.run(state, 7, checkpoint=path)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_writing_the_old_checkpoint_stays(tmp_path: Path) -> None:
    """SIGKILL once all bytes of the new file are written and none is on the disk for sure."""
    path = _saved(tmp_path, made_training())
    before = path.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert len(list(tmp_path.glob(".*.part"))) == 1
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert path.read_bytes() == before
    assert made_training().resume(path, made_parameters()).step == 3
    assert set(named_leaves(made_training().resume(path, made_parameters()).parameters)) == {"w", "b"}
