"""Texts as steps of training: an order that depends on the seed and the epoch alone, so that (epoch, position) says where one is.

A text is a row of token ids t₀ .. t_n; its inputs are t₀ .. t_{n-1}, its targets t₁ .. t_n. Three forms put texts into rectangles:

* "grouped": texts of equal length stand together, up to `rows` of them; nothing is padded, and no text sees another;
* "padded": `rows` texts as they come, padded on the right to the longest of them;
* "packed": the shuffled texts are one stream, cut into rows of `length` targets; a row may begin inside a text, and its texts see those before
  them in the row. No text is too long.

A step is as many rectangles as reach `targets` targets, or one. Its loss is the mean over all its targets that count, whatever the rectangles: that
is gradient accumulation. What is left at the end of an epoch and makes no whole step is left out; in the next epoch others are left.

The order comes from `numpy.random.default_rng([seed, epoch])`, whose streams have stayed the same through NumPy's versions but are not promised to;
`Corpus.described` has a checksum of the texts, not of the order.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from refimpl.errors import ConfigError, TextError
from refimpl.number_system import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Batch", "Corpus", "Form"]

Form = Literal["grouped", "padded", "packed"]
FORMS = ("grouped", "padded", "packed")


class Batch(NamedTuple):
    """One rectangle of texts, as NumPy arrays."""

    ids: Any  # int64 (rows, n)
    targets: Any  # int64 (rows, n): the token after each
    counted: Any  # bool (rows, n): whether the target counts in the loss
    real: Any  # bool (rows, n): false at padding


class Corpus:
    """Texts in steps; `step(epoch, position)` is a function of its arguments, so that training goes on from anywhere.

    Parameters
    ----------
    texts : rows of token ids, each of two at least, start and end tokens included
    length : targets in a row at most, or exactly where they are packed
    form : "grouped", "padded" or "packed"
    rows : texts in a rectangle at most
    targets : of a step at least; None: a step is one rectangle
    seed : of the order
    ignored : token ids that never count as targets, for instance the unknown token

    Raises
    ------
    ConfigError, TextError
        for options that make no sense, texts that are too short or too long, and a corpus too small for one step.
    """

    def __init__(
        self,
        texts: Sequence[Iterable[int]],
        *,
        length: int,
        form: Form = "grouped",
        rows: int = 8,
        targets: int | None = None,
        seed: int = 0,
        ignored: Iterable[int] = (),
    ) -> None:
        self.texts = [_token_ids(number, text) for number, text in enumerate(texts)]
        self.length, self.form, self.rows, self.targets, self.seed = length, form, rows, targets, seed
        self.ignored = _ignored(ignored)
        self._check()
        self.length, self.rows, self.seed = int(length), int(rows), int(seed)  # JSON has no integers of NumPy
        self.targets = None if targets is None else int(targets)
        self._order = functools.lru_cache(maxsize=2)(self._ordered)
        if not self._order(0):
            raise ConfigError(
                "the texts do not fill one step",
                where="Corpus",
                expected=f"at least {targets or 1} targets",
                got=f"{len(self.texts)} texts with {sum(len(text) - 1 for text in self.texts)} targets",
                remedy="ask for fewer targets a step, or shorter rows",
            )

    def _check(self) -> None:
        sizes = {"length": self.length, "rows": self.rows, "targets": 1 if self.targets is None else self.targets}
        wrong = [f"{name} = {size!r}" for name, size in sizes.items() if (whole_number(size) or 0) < 1]
        wrong += [] if whole_number(self.seed) is not None and self.seed >= 0 else [f"seed = {self.seed!r}"]
        wrong += [] if self.form in FORMS else [f"form = {self.form!r}"]
        if wrong:
            expected = f"sizes from 1, a seed from 0, a form of {', '.join(FORMS)}"
            raise ConfigError("the options make no sense", where="Corpus", expected=expected, got=", ".join(wrong))
        most = self.length + 1 if self.form != "packed" else None
        for number, text in enumerate(self.texts):
            if text.ndim != 1 or len(text) < 2 or (most is not None and len(text) > most):
                raise TextError(
                    "a text does not fit",
                    where=f"Corpus(texts), number {number}",
                    expected=f"2 to {most or 'any number of'} tokens",
                    got=f"{len(text) if text.ndim == 1 else tuple(text.shape)} tokens",
                    remedy='leave it out, cut it, or use form="packed"' if text.size > 2 else "leave it out",
                )

    def described(self) -> dict[str, Any]:
        """Everything that decides what a step holds, as JSON can say it; of the texts their number and checksum."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(len(text).to_bytes(8, "little") + text.astype("<i8").tobytes())
        options = {name: getattr(self, name) for name in ("length", "form", "rows", "targets", "seed")}
        return options | {"ignored": list(self.ignored), "texts": len(self.texts), "sha256": digest.hexdigest()}

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return len(self._order(epoch))

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the step after this one is: (epoch, position)."""
        return (epoch, position + 1) if position + 1 < self.steps(epoch) else (epoch + 1, 0)

    def step(self, epoch: int, position: int) -> tuple[Batch, ...]:
        """The rectangles of a step: 0 <= position < steps(epoch); ConfigError outside."""
        if (first := whole_number(epoch)) is None or first < 0:
            raise ConfigError("there is no such epoch", where="Corpus.step", expected="0, 1, 2, ...", got=repr(epoch))
        if (place := whole_number(position)) is None or not 0 <= place < self.steps(epoch):
            expected = f"from 0 to {self.steps(epoch) - 1}, the steps of epoch {epoch}"
            raise ConfigError("there is no such step", where="Corpus.step", expected=expected, got=repr(position))
        return tuple(self._batch(rows) for rows in self._order(epoch)[position])

    # An epoch is a list of steps, each of them rectangles, each of them rows of token ids.

    def _ordered(self, epoch: int) -> list[list[list[Any]]]:
        rng = np.random.default_rng([self.seed, epoch])
        texts = [self.texts[i] for i in rng.permutation(len(self.texts))]
        groups = self._grouped(texts, rng) if self.form == "grouped" else self._chunks(self._rows(texts))
        steps: list[list[list[Any]]] = []
        current: list[list[Any]] = []
        for group in groups:
            current.append(group)
            if sum(len(row) - 1 for part in current for row in part) >= (self.targets or 1):
                steps.append(current)
                current = []
        return steps

    def _grouped(self, texts: list[Any], rng: np.random.Generator) -> list[list[Any]]:
        """Chunks of one length, in shuffled order."""
        lengths: dict[int, list[Any]] = {}
        for text in texts:
            lengths.setdefault(len(text), []).append(text)
        groups = [chunk for _, same in sorted(lengths.items()) for chunk in self._chunks(same)]
        return [groups[i] for i in rng.permutation(len(groups))]

    def _rows(self, texts: list[Any]) -> list[Any]:
        """The texts; where they are packed, the rows of length + 1 into which their stream is cut, each beginning with the last target before."""
        if self.form == "padded" or not texts:
            return texts
        stream = np.concatenate(texts)
        return [stream[i : i + self.length + 1] for i in range(0, len(stream) - self.length, self.length)]

    def _chunks(self, rows: list[Any]) -> list[list[Any]]:
        return [rows[i : i + self.rows] for i in range(0, len(rows), self.rows)]

    def _batch(self, rows: list[Any]) -> Batch:
        """Rows side by side, padded on the right with zeros that do not count."""
        width = max(map(len, rows))
        ids, real = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.bool_)
        for place, row in enumerate(rows):
            ids[place, : len(row)], real[place, : len(row)] = row, True
        targets = ids[:, 1:]
        counted = real[:, 1:] & ~np.isin(targets, self.ignored)
        return Batch(ids[:, :-1], targets, counted, real[:, :-1] & real[:, 1:])


def _token_ids(number: int, text: Any) -> Any:
    """A text as an array of int64; TextError for what is not made of whole numbers from 0."""
    try:
        given = np.asarray(text if hasattr(text, "dtype") else list(text))
    except (TypeError, ValueError):  # not iterable, or rows of several lengths
        given = np.asarray(None)
    if given.size and (given.dtype.kind not in "iu" or given.min() < 0):
        raise TextError(
            "a text is no row of token ids",
            where=f"Corpus(texts), number {number}",
            expected="whole numbers from 0",
            got=repr(text) if len(repr(text)) < 80 else f"{repr(text)[:80]}...",
            remedy="encode it with the model's tokenizer",
        )
    return given.astype(np.int64)


def _ignored(ids: Iterable[int]) -> tuple[int, ...]:
    """Token ids in order, each once."""
    given = list(ids)
    whole = [each for each in map(whole_number, given) if each is not None]
    if len(whole) < len(given):
        expected = "token ids: whole numbers"
        raise ConfigError("that is no token id", where="Corpus(ignored)", expected=expected, got=repr(given))
    return tuple(sorted(set(whole)))
