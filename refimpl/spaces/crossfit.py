"""Extractors for all folds, and what each chooses of the documents that it has not seen: the sources that a generator is trained on.

Fold f of K trains on the documents i with i mod K ≠ f and then chooses the sentences of those with i mod K = f (`refimpl.spaces.data`), so that every
document's `source_1` is chosen as that of a new document would be: it leaves out and lets in what an extractor leaves out and lets in. `source_2` is
of the labelled sentences.

Which weights of a fold are kept is said by `keep`:

* "best", as published: those after the epoch whose sentences of the held-out documents, above threshold + 0.1, had the highest mean main metric; of
  equal ones the last. The weights of no epoch have seen the held-out documents; which epoch it is, was chosen by them.
* "average": their exponential moving average at the end (`refimpl.learning.EMA`); the held-out documents have no part in it.
* "last": those at the end.

A training of all documents (a fold of None) holds nothing out, chooses nothing, and is for use; it keeps "average" or "last".

A fold's folder has training.safetensors, its checkpoint; epochs.json, the metrics; best.safetensors; and extractor.safetensors with extractor.json,
once it is done.

Reference: github.com/bojone/SPACES at a545db3, `extract_model.py`, `seq2seq_convert.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl import backend as backends
from refimpl.errors import ConfigError
from refimpl.files import replace_file
from refimpl.learning import AdamW, Schedule, Training
from refimpl.learning.checkpoints import check_same
from refimpl.learning.ema import EMA
from refimpl.learning.extractor import Documents, ExtractorGradient, rectangle
from refimpl.number_system import device_of, namespace, whole_number
from refimpl.spaces.data import Labelled, Pair, held_out, pair_of, trained_on
from refimpl.spaces.extractor import (
    THRESHOLD,
    ExtractorConfig,
    ExtractorWeights,
    choose,
    initial_extractor,
    sentence_probabilities,
)
from refimpl.spaces.extractor_file import load_extractor, save_extractor
from refimpl.text.rouge import DIALECT, main_metric
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from refimpl.backend import Backend
    from refimpl.learning import State
    from refimpl.spaces.vectors import Vectors

__all__ = ["ExtractorOptions", "Fold", "pairs_of", "sources", "train_fold"]

KEEPS = ("best", "average", "last")
CHECKPOINT, EPOCHS, BEST, WEIGHTS, ABOUT = (
    "training.safetensors",
    "epochs.json",
    "best.safetensors",
    "extractor.safetensors",
    "extractor.json",
)


@dataclass(frozen=True)
class ExtractorOptions:
    """How extractors are trained and what they choose; as published, unless told otherwise."""

    hidden_size: int = 384
    epochs: int = 20
    rows: int = 64  # documents of a step
    rate: float = 1e-3  # of Adam
    dropout: float = 0.1
    threshold: float = THRESHOLD
    margin: float = 0.1  # by which it is raised where epochs are compared
    otherwise: str = "best"  # of `refimpl.spaces.extractor.choose`; "none" as published
    keep: str = "best"
    momentum: float = 0.99  # of the average
    loss: str = "corrected"  # or "published": `refimpl.spaces.extractor.extractor_loss`
    rouge: str = DIALECT  # of the metric that compares epochs, by characters
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"hidden_size": 1, "epochs": 1, "rows": 1, "seed": 0}
        numbers = {name: whole_number(getattr(self, name)) for name in least}
        wrong = [f"{name} = {getattr(self, name)!r}" for name, n in numbers.items() if n is None or n < least[name]]
        wrong += [] if 0 <= self.threshold <= self.threshold + self.margin < 1 else [f"margin = {self.margin!r}"]
        wrong += [] if self.keep in KEEPS else [f"keep = {self.keep!r}"]
        if wrong:
            expected = f"sizes from 1, a seed from 0, 0 <= threshold + margin < 1, keep one of {', '.join(KEEPS)}"
            raise ConfigError("options out of range", where="ExtractorOptions", expected=expected, got=", ".join(wrong))


class Fold(NamedTuple):
    """A trained extractor."""

    weights: ExtractorWeights
    config: ExtractorConfig
    epochs: list[float]  # the metric of the held-out documents after each epoch; empty where there are none
    kept: int  # the epoch that the weights are of, from 1; the last where they are the average


# --- what is chosen -------------------------------------------------------------------------------------------------------------


def _examples(given: _Given, numbers: Sequence[int]) -> list[tuple[Any, Any]]:
    """The vectors of documents, and which of their sentences are labelled."""
    found = []
    for number in numbers:
        labels = np.zeros(len(given.documents[number].sentences), np.bool_)
        labels[given.documents[number].labels] = True
        found.append((given.vectors[number], labels))
    return found


class _Given(NamedTuple):
    """Everything that a fold is trained on, and how."""

    documents: Sequence[Labelled]
    vectors: Vectors
    config: ExtractorConfig
    options: ExtractorOptions
    backend: Backend


def _chosen(
    weights: ExtractorWeights, given: _Given, numbers: Sequence[int], threshold: float
) -> Iterator[tuple[int, list[int]]]:
    """The documents, and which of their sentences are chosen."""
    rows = given.options.rows
    for start in range(0, len(numbers), rows):
        part = numbers[start : start + rows]
        batch = rectangle(_examples(given, part))
        like = weights.projection
        xp, device = namespace(like), device_of(like)
        vectors = xp.astype(xp.asarray(batch.vectors, device=device), like.dtype)
        real = xp.asarray(batch.counted, device=device)
        p = given.backend.to_numpy(sentence_probabilities(weights, given.config, vectors, real))
        for row, number in enumerate(part):
            yield number, choose(p[row], threshold, otherwise=given.options.otherwise)  # of padding it is 0


def sources(
    fold: Fold,
    documents: Sequence[Labelled],
    vectors: Vectors,
    numbers: Sequence[int],
    options: ExtractorOptions,
    *,
    backend: Backend | None = None,
) -> dict[int, str]:
    """The chosen sentences of each document in `numbers`, joined: those with a probability above the threshold.

    Parameters
    ----------
    fold : the extractor
    documents, vectors : all of them
    numbers : which of them
    options : as in training; threshold and otherwise say what is chosen
    backend : where the weights are; None: NumPy
    """
    given = _Given(documents, vectors, fold.config, options, backend or backends.get("numpy"))
    found = _chosen(fold.weights, given, numbers, options.threshold)
    return {number: _joined(documents[number], chosen) for number, chosen in found}


def _joined(document: Labelled, chosen: Sequence[int]) -> str:
    return "".join(document.sentences[i] for i in chosen)


def pairs_of(documents: Sequence[Labelled], found: Mapping[int, str]) -> list[Pair]:
    """The pairs of all documents, in their order; `found` has the source that was chosen of each.

    Raises ConfigError where one is missing.
    """
    missing = [number for number in range(len(documents)) if number not in found]
    if missing:
        got = f"none for {len(missing)} of {len(documents)}, the first number {missing[0]}"
        raise ConfigError("there are documents without a source", where="pairs", expected="one for each", got=got)
    return [pair_of(each, found[number]) for number, each in enumerate(documents)]


def _metric(weights: ExtractorWeights, given: _Given, numbers: Sequence[int]) -> float:
    """The mean main metric, by characters, of what is chosen above threshold + margin."""
    options = given.options
    found = _chosen(weights, given, numbers, options.threshold + options.margin)
    scores = [
        main_metric(_joined(given.documents[i], chosen), given.documents[i].summary, dialect=options.rouge)
        for i, chosen in found
    ]
    return math.fsum(scores) / len(scores)


# --- training -------------------------------------------------------------------------------------------------------------------


def train_fold(
    documents: Sequence[Labelled],
    vectors: Vectors,
    folds: int,
    fold: int | None,
    folder: Path,
    options: ExtractorOptions | None = None,
    *,
    backend: Backend | None = None,
    every: int = 250,
    advance: Callable[[int, int, float], object] = lambda step, of, loss: None,
) -> Fold:
    """Train the extractor of one fold, or go on with the training that its folder has, or read what is done there.

    Parameters
    ----------
    documents, vectors : all of them, those that are held out too
    folds, fold : which are held out; a fold of None holds out none
    folder : of this fold; is made
    options : how
    backend : where it is computed; None: NumPy
    every : steps between checkpoints; there is one after each epoch too
    advance : called after each step, with steps taken, steps in all, and the loss

    Raises
    ------
    ConfigError, DivergenceError, weights_io.WeightsError
        if the fold is not there, keep is "best" where nothing is held out, the folder is of another training; as `refimpl.learning.Training`.
    """
    options, backend = options or ExtractorOptions(), backend or backends.get("numpy")
    numbers, held = trained_on(len(documents), folds, fold), held_out(len(documents), folds, fold)
    if not held and options.keep == "best":
        remedy = 'keep "average" or "last"'
        raise ConfigError("nothing is held out to find the best epoch by", where="fold", got=fold, remedy=remedy)
    given = _Given(documents, vectors, ExtractorConfig(vectors.width, options.hidden_size), options, backend)
    training = _training(given, numbers, held, folds, fold)
    folder.mkdir(parents=True, exist_ok=True)
    return _Run(given, training, held, folder, options.seed + (folds if fold is None else fold)).run(every, advance)


def _digest(given: _Given, numbers: Sequence[int]) -> str:
    """The SHA-256 of documents and their vectors."""
    found = hashlib.sha256()
    for number in numbers:
        found.update(
            json.dumps(given.documents[number]).encode() + np.ascontiguousarray(given.vectors[number]).tobytes()
        )
    return found.hexdigest()


def _deciding(options: ExtractorOptions) -> dict[str, Any]:
    """The options that decide the weights: what is chosen has a part in them where epochs are compared by it."""
    found = dataclasses.asdict(options)
    compared = ("threshold", "margin", "otherwise", "rouge")
    return {name: value for name, value in found.items() if options.keep == "best" or name not in compared}


def _training(given: _Given, numbers: Sequence[int], held: Sequence[int], folds: int, fold: int | None) -> Training:
    """The training of these documents, of which the others are known by a checksum: they decide the metrics."""
    options = given.options
    corpus: Any = Documents(_examples(given, numbers), rows=options.rows, seed=options.seed)
    optimizer: Any = AdamW(decay=0.0)
    if options.keep == "average":
        optimizer = EMA(optimizer, options.momentum)
    gradient: Any = ExtractorGradient(given.config, dropout=options.dropout, dialect=options.loss)
    about: dict[str, Any] = gradient.described() | {
        "config": dataclasses.asdict(given.config),
        "options": _deciding(options),
    }
    about |= {"backend": given.backend.name, "folds": folds, "fold": fold, "held_out": _digest(given, held)}
    schedule = Schedule(options.rate)
    return Training(gradient, corpus, optimizer, schedule, clip=None, seed=options.seed, about=about)


class _Run:
    """A training in its folder."""

    def __init__(self, given: _Given, training: Training, held: Sequence[int], folder: Path, seed: int) -> None:
        self.given, self.training, self.held, self.folder = given, training, held, folder
        self.first = self._placed(initial_extractor(given.config, seed))
        self.about = json.loads(json.dumps(training.described(self.first)))

    def run(self, every: int, advance: Callable[[int, int, float], object]) -> Fold:
        if (self.folder / ABOUT).exists():
            return self._done()
        checkpoint = self.folder / CHECKPOINT
        resume = checkpoint.exists()
        state = self.training.resume(checkpoint, self.first) if resume else self.training.start(self.first)
        epochs = self._epochs(state)
        corpus: Any = self.training.corpus
        a_round = corpus.steps(0)
        steps = a_round * self.given.options.epochs
        while True:
            if self.held and state.position == 0 and len(epochs) < state.epoch:
                self._end_epoch(state, epochs)
            if state.step >= steps:
                return self._finish(state, epochs)
            end = (state.epoch + 1) * a_round
            watch = lambda state, taken: advance(taken.step, steps, taken.loss)  # noqa: E731
            state = self.training.run(state, end, checkpoint=checkpoint, every=every, watch=watch)

    def _epochs(self, state: State) -> list[float]:
        """The metrics of the epochs that are over."""
        path = self.folder / EPOCHS
        if not path.exists():
            return []
        return [float(each) for each in json.loads(path.read_text("utf-8"))][: state.epoch]

    def _end_epoch(self, state: State, epochs: list[float]) -> None:
        """Measure the held-out documents; the weights are put down first where they are the best, then the metrics."""
        metric = _metric(self._current(state), self.given, self.held)
        if self.given.options.keep == "best" and metric >= max(epochs, default=0.0):
            self._write(BEST, state.parameters)
        epochs.append(metric)
        self._say(EPOCHS, epochs)

    def _finish(self, state: State, epochs: list[float]) -> Fold:
        """Write what is kept."""
        weights, kept = self._current(state), state.epoch
        if self.given.options.keep == "best":
            kept = max(range(len(epochs)), key=lambda i: (epochs[i], i)) + 1
            weights = self._read(BEST)
        self._write(WEIGHTS, weights)
        self._say(ABOUT, {"training": self.about, "epochs": epochs, "kept": kept})
        return Fold(weights, self.given.config, epochs, kept)

    def _current(self, state: State) -> Any:
        """The weights of a state, or their average."""
        if self.given.options.keep != "average":
            return state.parameters
        return self.training.optimizer.averaged(state.parameters, state.moments)  # type: ignore[attr-defined]

    def _done(self) -> Fold:
        """What was written, if it is of this training."""
        path = self.folder / ABOUT
        said = json.loads(path.read_text("utf-8"))
        check_same(path, said["training"], self.about)
        return Fold(self._read(WEIGHTS), self.given.config, said["epochs"], said["kept"])

    def _write(self, name: str, weights: ExtractorWeights) -> None:
        save_extractor(self.folder / name, weights, self.given.config)

    def _read(self, name: str) -> ExtractorWeights:
        weights, _ = load_extractor(self.folder / name)
        return self._placed(weights)

    def _placed(self, weights: ExtractorWeights) -> ExtractorWeights:
        """The weights on the backend."""
        found: ExtractorWeights = mapped(self.given.backend.asarray, weights)
        return found

    def _say(self, name: str, value: Any) -> None:
        data = (json.dumps(value, indent=1) + "\n").encode()
        replace_file(self.folder / name, lambda file: file.write(data))
