"""Pairs of source and target as steps of training, and the loss and gradients of a sequence-to-sequence model with copy tags.

A row is source + target, segments 0 and 1, as `refimpl.spaces.seq2seq` reads them. With *masking* p each of its tokens, special ones too, is with
probability p read as a token drawn evenly from the row; what is to be said stays. Labels are those of the source as it is read and of the target as
it is to be said: a token that was replaced in the source cannot be copied from there.

    L = 1/N Σ sparse cross-entropies + c/M Σ cross-entropies of tags,  N and M how many of each are trained in all rectangles of a step      (1)

Order and masking depend on the seed and on (epoch, position) alone: `numpy.random.default_rng([seed, epoch])` shuffles,
`default_rng([seed, epoch, position, 1])` draws sources and masks, row by row.

Reference: `random_masking` and `data_generator` of github.com/bojone/SPACES at a545db3, where p is 0.15.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from refimpl import bert
from refimpl.errors import ConfigError, TextError
from refimpl.number_system import Array, device_of, namespace, whole_number
from refimpl.spaces import seq2seq
from refimpl.trees import added

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights

__all__ = ["PairBatch", "PairCorpus", "Seq2SeqGradient", "fitted", "random_masking", "trained"]

Form = Literal["padded", "sorted"]
FORMS = ("padded", "sorted")
POOL = 32  # rectangles whose rows are sorted by length together


class PairBatch(NamedTuple):
    """One rectangle of rows source + target, padded with zeros on the right, as NumPy arrays."""

    ids: Any  # int64 (rows, n): as they are read, some of them replaced
    said: Any  # int64 (rows, n): as they are to be said
    segments: Any  # int64 (rows, n): 0 source, 1 target, 0 at padding
    labels: Any  # int64 (rows, n - 1): 0, 1, 2; 0 where nothing is trained
    real: Any  # bool (rows, n): false at padding

    @property
    def counted(self) -> Any:  # bool (rows, n - 1)
        """Where a token is trained: both it and the one before it are of the target."""
        return (self.segments[:, :-1] * self.segments[:, 1:]) > 0

    @property
    def tagged(self) -> Any:  # bool (rows, n - 1)
        """Where a tag is trained: before the last token of the target."""
        return np.flip(np.cumsum(np.flip(self.segments, 1), 1), 1)[:, 1:] > 0


def random_masking(ids: Sequence[int], rng: np.random.Generator, rate: float = 0.15) -> list[int]:
    """Each id with probability `rate` replaced by one drawn evenly from all of `ids`: by itself, sometimes."""
    given = np.asarray(ids, np.int64)
    replaced = rng.random(len(given)) <= rate
    drawn = given[rng.integers(0, len(given), len(given))]
    masked: list[int] = np.where(replaced, drawn, given).tolist()
    return masked


def fitted(source: Sequence[int], target: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Source and target of at most `length` tokens together: tokens before the last are left out, of the longer of the two, of equal ones the target.

    As bert4keras' tokenizer cuts with `maxlen`: each keeps its last token, [SEP].

    Raises
    ------
    ConfigError
        if `length` leaves no two tokens of each.
    """
    if (whole_number(length) or 0) < 4:
        raise ConfigError("no pair is that short", where="fitted(length=...)", expected="from 4", got=repr(length))
    one, other = list(source), list(target)
    while len(one) + len(other) > length:
        longer = one if len(one) > len(other) else other
        del longer[-2]
    return one, other


class PairCorpus:
    """Pairs in steps; `step(epoch, position)` is a function of its arguments, so that training goes on from anywhere.

    Parameters
    ----------
    pairs : (source, target), token ids with their special tokens; a source may be a tuple of sources (lists), of which each step draws one
    length : tokens of a source and its target together, at most
    form : "padded": rows as they come; "sorted": rows of about one length together (the lengths of the shuffled rows of some rectangles are sorted)
    rows : in a rectangle at most
    rectangles : of a step
    masking : the probability with which a token is read as another of its row; 0.15 in SPACES, 0 for none
    seed : of the order and the masking
    dialect : of the labels, `refimpl.spaces.seq2seq.training_labels`

    Raises
    ------
    ConfigError, TextError
        for options that make no sense, rows that are too short or too long, and a corpus too small for one step.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Any, Sequence[int]]],
        *,
        length: int,
        form: Form = "sorted",
        rows: int = 8,
        rectangles: int = 1,
        masking: float = 0.15,
        seed: int = 0,
        dialect: str = "corrected",
    ) -> None:
        self.options = {"length": length, "rows": rows, "rectangles": rectangles, "seed": seed}
        self.form, self.masking, self.dialect = form, masking, dialect
        self._check()
        self.length, self.rows, self.rectangles, self.seed = (int(each) for each in self.options.values())
        self.pairs = [_pair(number, *pair, self.length) for number, pair in enumerate(pairs)]
        self._order = functools.lru_cache(maxsize=2)(self._ordered)
        if not self._order(0):
            expected, got = f"{self.rows * self.rectangles} pairs", f"{len(self.pairs)}"
            remedy = "ask for fewer rows or rectangles"
            raise ConfigError("too few for a step", where="PairCorpus", expected=expected, got=got, remedy=remedy)

    def _check(self) -> None:
        least = {"length": 4, "rows": 1, "rectangles": 1, "seed": 0}
        numbers = {name: whole_number(value) for name, value in self.options.items()}
        wrong = [
            f"{name} = {self.options[name]!r}"
            for name, value in numbers.items()
            if value is None or value < least[name]
        ]
        wrong += [] if self.form in FORMS else [f"form = {self.form!r}"]
        good = isinstance(self.masking, int | float) and not isinstance(self.masking, bool) and 0 <= self.masking < 1
        wrong += [] if good else [f"masking = {self.masking!r}"]
        wrong += [] if self.dialect in seq2seq.dialects else [f"dialect = {self.dialect!r}"]
        if wrong:
            expected = (
                f"a length from 4, rows and rectangles from 1, a seed from 0, a form of {', '.join(FORMS)}, "
                f"0 <= masking < 1, a dialect of {', '.join(seq2seq.dialects)}"
            )
            raise ConfigError("the options make no sense", where="PairCorpus", expected=expected, got=", ".join(wrong))

    def described(self) -> dict[str, Any]:
        """Everything that decides what a step holds, as JSON can say it; of the pairs their number and checksum."""
        options = {name: getattr(self, name) for name in (*self.options, "form", "masking", "dialect")}
        return options | {"pairs": len(self.pairs), "sha256": self._checksum}

    @functools.cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(json.dumps(pair).encode() + b"\n")
        return digest.hexdigest()

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return len(self._order(epoch))

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the step after this one is: (epoch, position)."""
        return (epoch, position + 1) if position + 1 < self.steps(epoch) else (epoch + 1, 0)

    def step(self, epoch: int, position: int) -> tuple[PairBatch, ...]:
        """The rectangles of a step: 0 <= position < steps(epoch); ConfigError outside."""
        if (first := whole_number(epoch)) is None or first < 0:
            raise ConfigError(
                "there is no such epoch", where="PairCorpus.step", expected="0, 1, 2, ...", got=repr(epoch)
            )
        if (place := whole_number(position)) is None or not 0 <= place < self.steps(epoch):
            expected = f"from 0 to {self.steps(epoch) - 1}, the steps of epoch {epoch}"
            raise ConfigError("there is no such step", where="PairCorpus.step", expected=expected, got=repr(position))
        rng = np.random.default_rng([self.seed, epoch, position, 1])
        return tuple(self._batch(numbers, rng) for numbers in self._order(epoch)[position])

    def batches(self, rows: int | None = None) -> list[PairBatch]:
        """All pairs in order, unmasked, with the first of their sources: to be evaluated on."""
        count = self.rows if rows is None else rows
        each = [self._row(sources[0], target, None) for sources, target in self.pairs]
        return [_rectangle(each[i : i + count]) for i in range(0, len(each), count)]

    # An epoch is a list of steps, each of them rectangles, each of them numbers of pairs.

    def _ordered(self, epoch: int) -> list[list[list[int]]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.pairs)).tolist()
        order = order[: len(order) - len(order) % self.rows]  # before they are sorted: or the longest would be left out
        if self.form == "sorted":
            pool = POOL * self.rows
            chunks = [order[i : i + pool] for i in range(0, len(order), pool)]
            order = [number for chunk in chunks for number in sorted(chunk, key=self._size)]
        found = [order[i : i + self.rows] for i in range(0, len(order), self.rows)]
        if self.form == "sorted":
            found = [found[i] for i in rng.permutation(len(found))]
        return [found[i : i + self.rectangles] for i in range(0, len(found) - self.rectangles + 1, self.rectangles)]

    def _size(self, number: int) -> int:
        sources, target = self.pairs[number]
        return max(map(len, sources)) + len(target)

    def _batch(self, numbers: Iterable[int], rng: np.random.Generator) -> PairBatch:
        rows = []
        for number in numbers:
            sources, target = self.pairs[number]
            chosen = sources[int(rng.integers(len(sources)))] if len(sources) > 1 else sources[0]
            rows.append(self._row(chosen, target, rng))
        return _rectangle(rows)

    def _row(self, source: list[int], target: list[int], rng: np.random.Generator | None) -> _Row:
        said = [*source, *target]
        ids = random_masking(said, rng, self.masking) if rng is not None and self.masking else said
        labels = seq2seq.training_labels(ids[: len(source)], target, self.dialect)
        return _Row(ids, said, [0] * len(source) + [1] * len(target), labels)


class _Row(NamedTuple):
    ids: list[int]
    said: list[int]
    segments: list[int]
    labels: list[int]  # one less than the others


def _pair(number: int, source: Any, target: Any, length: int) -> tuple[list[list[int]], list[int]]:
    """The sources and the target; TextError for what is no token ids, or too short or too long."""
    where = f"PairCorpus(pairs), number {number}"
    sources = (
        [list(each) for each in source]
        if isinstance(source, tuple) and source and not _is_id(source[0])
        else [list(source)]
    )
    for ids in (*sources, list(target)):
        if not all(map(_is_id, ids)):
            raise TextError("a pair is not of token ids", where=where, expected="whole numbers from 0")
    found, total = (
        ([list(map(int, each)) for each in sources], list(map(int, target))),
        max(map(len, sources)) + len(target),
    )
    if min(map(len, sources)) < 1 or len(target) < 2 or total > length:
        raise TextError(
            "a pair does not fit",
            where=where,
            expected=f"a source of a token, a target of two, {length} together at most",
            got=f"{', '.join(str(len(each)) for each in sources)} and {len(target)} tokens",
            remedy="leave it out, or cut it (refimpl.learning.seq2seq.fitted)" if total > length else "leave it out",
        )
    return found


def _is_id(token: Any) -> bool:
    return (whole_number(token) if not isinstance(token, list | tuple) else None) is not None and token >= 0


def _rectangle(rows: list[_Row]) -> PairBatch:
    """Rows side by side, padded on the right with zeros."""
    n = max(len(row.ids) for row in rows)

    def padded(name: str, width: int) -> Any:
        array = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            values = getattr(row, name)
            array[place, : len(values)] = values
        return array

    ids, said, segments = (padded(name, n) for name in ("ids", "said", "segments"))
    real = np.arange(n)[None, :] < np.array([len(row.ids) for row in rows])[:, None]
    return PairBatch(ids, said, segments, padded("labels", n - 1), real)


def trained(batches: Iterable[PairBatch]) -> tuple[int, int]:
    """N and M: how many tokens, and how many tags, are trained in the rectangles of a step."""
    given = list(batches)
    return sum(int(np.sum(each.counted)) for each in given), sum(int(np.sum(each.tagged)) for each in given)


class Seq2SeqGradient:
    """Equation (1) and its gradients, by the rules of `refimpl.spaces.seq2seq`; on any array library.

    Parameters
    ----------
    config : the model's sizes
    k, copy_weight, dialect : as `refimpl.spaces.seq2seq.loss`

    Raises
    ------
    ConfigError
        for another dialect.
    """

    def __init__(
        self, config: Seq2SeqConfig, *, k: int = 10, copy_weight: float = 2.0, dialect: str = "corrected"
    ) -> None:
        if dialect not in seq2seq.dialects:
            expected, got = ", ".join(seq2seq.dialects), repr(dialect)
            raise ConfigError("unknown dialect", where="Seq2SeqGradient", expected=expected, got=got)
        self.config, self.k, self.copy_weight, self.dialect = config, k, copy_weight, dialect
        bert.named_dialect(config.bert_dialect)

    def described(self) -> dict[str, Any]:
        """What decides the loss besides the configuration: for `Training.about`."""
        return {"k": self.k, "copy_weight": self.copy_weight, "dialect": self.dialect}

    def __call__(
        self, weights: Seq2SeqWeights, batches: tuple[PairBatch, ...], rng: np.random.Generator | None = None
    ) -> tuple[Array, Seq2SeqWeights]:
        """The loss, and its gradients in the form of the weights; a rectangle at a time, whose gradients are added."""
        totals = trained(batches)
        found = [self._of(weights, batch, totals) for batch in batches]
        value, gradients = found[0]
        for part, bars in found[1:]:
            value, gradients = value + part, added(gradients, bars)
        return value, gradients

    def _of(self, weights: Seq2SeqWeights, batch: PairBatch, totals: tuple[int, int]) -> tuple[Array, Seq2SeqWeights]:
        """A rectangle's part n/N of the sequence loss and m/M of the copy loss."""
        table = weights.bert.token_embedding
        xp, device = namespace(table), device_of(table)
        ids, said, segments, labels, real = (xp.asarray(part, device=device) for part in batch)
        tokens, tags = trained([batch])
        share = tokens / totals[0]
        weight = self.copy_weight * tags / totals[1] / share
        options: dict[str, Any] = {"said": said, "k": self.k, "copy_weight": weight, "dialect": self.dialect}
        value, back = seq2seq.loss_vjp(weights, self.config, ids, segments, labels, real, **options)
        part = value * share
        return part, back(xp.full_like(value, share))[0]
