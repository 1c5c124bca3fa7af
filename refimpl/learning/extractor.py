"""Training the extractor of SPACES: documents in steps, and the gradient of their loss, with dropout.

    L = 1/N Σ over the rectangles of a step of log(1 + exp(-m_s))                             `refimpl.spaces.extractor.extractor_loss`    (1)
    x ← x ∘ d,   d = 0 with probability p, else 1/(1 - p)              at the vectors, at x_0, and behind every gated layer: p = 0.1       (2)

A document is its sentences' vectors, in order, and which of them are to be kept. Two forms put documents into rectangles, padded to the longest:

* "grouped": documents of similar length stand together: in the order of their lengths, equal ones shuffled, cut into `rows`, and these shuffled;
* "padded": `rows` documents as they come, in shuffled order.

No document is left out: the last rectangle of an epoch has what is left. d is drawn on the host in float32, so that a seed means the same on every
library, dtype and device.

Reference: extract_model.py of github.com/bojone/SPACES at a545db3: 20 epochs of 64 documents, Adam at 1e-3, dropout of 0.1 at these places, all
documents padded to the longest there is.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from refimpl.errors import ConfigError, TextError
from refimpl.learning.models import counted_targets
from refimpl.number_system import Array, device_of, namespace, whole_number
from refimpl.spaces.extractor import (
    ExtractorConfig,
    ExtractorWeights,
    check_dialect,
    extractor_loss_vjp,
    sentence_logits_vjp,
)
from refimpl.trees import added

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DocumentForm", "Documents", "ExtractorGradient", "SentenceBatch", "rectangle"]

DocumentForm = Literal["grouped", "padded"]
FORMS = ("grouped", "padded")


class SentenceBatch(NamedTuple):
    """One rectangle of documents, as NumPy arrays."""

    vectors: Any  # float (rows, n, in), 0 at padding
    labels: Any  # bool (rows, n): sentences to be kept; false at padding
    counted: Any  # bool (rows, n): false at padding


class Documents:
    """Documents in steps of one rectangle; `step(epoch, position)` is a function of its arguments, so that training goes on from anywhere.

    Parameters
    ----------
    documents : (vectors, labels) of each: float16, float32 or float64 (n, in) and bool (n,) with n from 1; they are kept as they are, not copied,
        so that they may lie in a file; float16 is widened to float32 where its step comes
    form : "grouped" or "padded"
    rows : documents in a rectangle at most
    seed : of the order

    Raises
    ------
    ConfigError, TextError
        for options that make no sense, no documents, and documents that do not fit one another or are not finite.
    """

    def __init__(
        self, documents: Iterable[tuple[Any, Any]], *, form: DocumentForm = "grouped", rows: int = 64, seed: int = 0
    ) -> None:
        self.documents = [(np.asarray(vectors), np.asarray(labels)) for vectors, labels in documents]
        sizes = {"rows": (whole_number(rows) or 0) > 0, "seed": (-1 if whole_number(seed) is None else seed) >= 0}
        wrong = [f"{name} = {value!r}" for name, value in (("rows", rows), ("seed", seed)) if not sizes[name]]
        wrong += [] if form in FORMS else [f"form = {form!r}"]
        wrong += [] if self.documents else ["no documents"]
        if wrong:
            expected = f"documents, rows from 1, a seed from 0, a form of {', '.join(FORMS)}"
            raise ConfigError("the options make no sense", where="Documents", expected=expected, got=", ".join(wrong))
        self.form, self.rows, self.seed = form, int(rows), int(seed)  # JSON has no integers of NumPy
        for number in range(len(self.documents)):
            self._check(number)
        self._order = functools.lru_cache(maxsize=2)(self._ordered)

    def _check(self, number: int) -> None:
        (vectors, labels), (first, _) = self.documents[number], self.documents[0]
        floating = str(vectors.dtype) in ("float16", "float32", "float64") and vectors.dtype == first.dtype
        fits = floating and vectors.ndim == 2 and len(vectors) > 0 and vectors.shape[1:] == first.shape[1:]
        if not fits or labels.dtype != np.bool_ or labels.shape != vectors.shape[:1]:
            kind = f"{first.dtype} (n, {first.shape[1]})" if number else "float16, float32 or float64 (n, in)"
            raise TextError(
                "a document does not fit",
                where=f"Documents(documents), number {number}",
                expected=f"vectors {kind}, labels bool (n,), n from 1",
                got=f"{vectors.dtype} {vectors.shape}, {labels.dtype} {labels.shape}",
            )
        if not np.all(np.isfinite(vectors)):
            where, expected = f"Documents(documents), number {number}", "finite numbers"
            raise TextError("a vector is not finite", where=where, expected=expected, got="NaN or infinity")

    def described(self) -> dict[str, Any]:
        """Everything that decides what a step holds, as JSON can say it; of the documents their number, width, dtype and checksum."""
        first = self.documents[0][0]
        options = {"form": self.form, "rows": self.rows, "seed": self.seed, "documents": len(self.documents)}
        return options | {"width": first.shape[1], "dtype": str(first.dtype), "sha256": self._checksum}

    @functools.cached_property
    def _checksum(self) -> str:
        """Read once, not at every checkpoint: the documents may be gigabytes in a file."""
        digest = hashlib.sha256()
        for vectors, labels in self.documents:
            digest.update(
                len(labels).to_bytes(8, "little") + labels.tobytes() + np.ascontiguousarray(vectors).tobytes()
            )
        return digest.hexdigest()

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has: as many for every epoch."""
        return -(-len(self.documents) // self.rows)

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the step after this one is: (epoch, position)."""
        return (epoch, position + 1) if position + 1 < self.steps(epoch) else (epoch + 1, 0)

    def step(self, epoch: int, position: int) -> tuple[SentenceBatch, ...]:
        """The rectangle of a step: 0 <= position < steps(epoch); ConfigError outside."""
        if (first := whole_number(epoch)) is None or first < 0:
            raise ConfigError("there is no such epoch", where="Documents.step", expected="0, 1, ...", got=repr(epoch))
        if (place := whole_number(position)) is None or not 0 <= place < self.steps(epoch):
            expected = f"from 0 to {self.steps(epoch) - 1}, the steps of epoch {epoch}"
            raise ConfigError("there is no such step", where="Documents.step", expected=expected, got=repr(position))
        return (rectangle([self.documents[i] for i in self._order(first)[place]]),)

    def _ordered(self, epoch: int) -> list[list[int]]:
        """The documents of each step of an epoch, by their numbers."""
        rng = np.random.default_rng([self.seed, epoch])
        order = [int(i) for i in rng.permutation(len(self.documents))]
        if self.form == "grouped":
            order.sort(key=lambda i: len(self.documents[i][1]))
        chunks = [order[i : i + self.rows] for i in range(0, len(order), self.rows)]
        return [chunks[i] for i in rng.permutation(len(chunks))] if self.form == "grouped" else chunks


def rectangle(documents: Sequence[tuple[Any, Any]]) -> SentenceBatch:
    """Documents (vectors, labels) side by side, padded behind with zeros that do not count."""
    first, n = documents[0][0], max(len(labels) for _, labels in documents)
    vectors = np.zeros((len(documents), n, first.shape[1]), np.result_type(first.dtype, np.float32))
    labels, counted = np.zeros((len(documents), n), np.bool_), np.zeros((len(documents), n), np.bool_)
    for place, (rows, kept) in enumerate(documents):
        vectors[place, : len(kept)], labels[place, : len(kept)], counted[place, : len(kept)] = rows, kept, True
    return SentenceBatch(vectors, labels, counted)


class ExtractorGradient:
    """Equation (1) and its gradients, by the rules of `refimpl.spaces.extractor`, with dropout (2); on any array library.

    Parameters
    ----------
    config : the extractor's sizes
    dropout : p, 0 <= p < 1
    dialect : as `refimpl.spaces.extractor.extractor_loss`

    Raises
    ------
    ConfigError
        for options out of range.
    """

    def __init__(self, config: ExtractorConfig, *, dropout: float = 0.1, dialect: str = "corrected") -> None:
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            where, expected = "ExtractorGradient", "0 <= dropout < 1"
            raise ConfigError("the rate of dropout is out of range", where=where, expected=expected, got=repr(dropout))
        check_dialect(dialect)
        self.config, self.dropout, self.dialect = config, float(dropout), dialect

    def described(self) -> dict[str, Any]:
        """What decides a step besides the configuration: for `Training.about`."""
        return {"dropout": self.dropout, "dialect": self.dialect}

    def __call__(
        self, weights: ExtractorWeights, batches: tuple[SentenceBatch, ...], rng: np.random.Generator | None = None
    ) -> tuple[Array, ExtractorWeights]:
        """The loss, and its gradients in the form of the weights; without `rng` nothing is dropped. ConfigError where no sentence counts."""
        total = counted_targets(batches)  # type: ignore[arg-type]  # of a batch, it looks at what counts alone
        if self.dialect == "published":
            total = sum(batch.counted.size for batch in batches)
        loss, gradients = self._of(weights, batches[0], total, rng)
        for batch in batches[1:]:
            part, bars = self._of(weights, batch, total, rng)
            loss, gradients = loss + part, added(gradients, bars)
        return loss, gradients

    def _of(
        self, weights: ExtractorWeights, batch: SentenceBatch, total: int, rng: np.random.Generator | None
    ) -> tuple[Array, ExtractorWeights]:
        xp, device = namespace(weights.projection), device_of(weights.projection)
        dtype = str(weights.projection.dtype).rpartition(".")[2]  # the host rounds to it, then arrays are moved
        host = [batch.vectors.astype(dtype), batch.labels, batch.counted, *self._factors(batch, dtype, rng)]
        vectors, labels, counted, *dropout = (xp.asarray(part, device=device) for part in host)
        z, back = sentence_logits_vjp(weights, self.config, vectors, counted, dropout=dropout or None)
        loss, back_of_loss = extractor_loss_vjp(z, labels, counted, total=total)
        return loss, back(*back_of_loss(xp.ones_like(loss)))[0]

    def _factors(self, batch: SentenceBatch, dtype: str, rng: np.random.Generator | None) -> list[Any]:
        """Equation (2)'s d for every place, as NumPy arrays; none where nothing is dropped."""
        if rng is None or not self.dropout:
            return []
        widths = [self.config.input_size, *[self.config.hidden_size] * (len(self.config.dilations) + 1)]
        drawn = (rng.random((*batch.counted.shape, width), np.float32) for width in widths)
        return [(d >= np.float32(self.dropout)).astype(dtype) / np.asarray(1 - self.dropout, dtype) for d in drawn]
