"""How far another arithmetic moves a language model: its perplexity, and the divergence of its distributions from the exact ones.

    KL(p || q) = Σ_i p_i (log p_i - log q_i)          p exact, q approximate, both after the same tokens; in nats a token

Perplexity alone is no measure of this: it may fall, where errors happen to act like another temperature. Logits are compared on the host, in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refimpl.arithmetic import KINDS, PRODUCTS, Arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from refimpl.model import Model

__all__ = ["OF_A_NETWORK", "Divergence", "Variant", "as_json", "by_kind", "compare", "divergences", "together"]

OF_A_NETWORK = tuple(kind for kind in PRODUCTS if kind != "other")


class Variant(NamedTuple):
    """An arithmetic and what it is there to show."""

    label: str  # "all products", "head alone", "all but head", ...
    arithmetic: Arithmetic


class Divergence(NamedTuple):
    """What became of the distributions of a text's tokens, or of several texts'."""

    tokens: int
    exact: float  # negative log-likelihood in exact arithmetic, in nats
    approximate: float
    divergences: list[float]  # KL(exact || approximate) of each token
    agreeing: int  # tokens for which the most probable one is the same

    @property
    def perplexity(self) -> float:
        """exp(negative log-likelihood / tokens) in the approximate arithmetic."""
        return math.exp(self.approximate / self.tokens)

    @property
    def exact_perplexity(self) -> float:
        """exp(negative log-likelihood / tokens) in exact arithmetic."""
        return math.exp(self.exact / self.tokens)

    @property
    def mean(self) -> float:
        """The mean divergence, in nats a token."""
        return math.fsum(self.divergences) / self.tokens

    @property
    def largest(self) -> float:
        """The largest divergence of a token."""
        return max(self.divergences)

    def as_json(self) -> dict[str, Any]:
        """The figures, without those of single tokens."""
        return {
            "tokens": self.tokens,
            "perplexity": self.perplexity,
            "exact_perplexity": self.exact_perplexity,
            "divergence_mean": self.mean,
            "divergence_max": self.largest,
            "same_best_token": self.agreeing / self.tokens,
        }


def by_kind(form: str) -> list[Variant]:
    """All products, each kind alone, all but each kind, and exponentials: alone and with all products."""
    everything = frozenset(PRODUCTS)
    kinds = [Variant(f"{kind} alone", Arithmetic(form, frozenset({kind}))) for kind in OF_A_NETWORK]
    kinds += [Variant(f"all but {kind}", Arithmetic(form, everything - {kind})) for kind in OF_A_NETWORK]
    others = [
        Variant("exponentials alone", Arithmetic(form, frozenset({"exponential"}))),
        Variant("all and exponentials", Arithmetic(form, frozenset(KINDS))),
    ]
    return [Variant("all products", Arithmetic(form)), *kinds, *others]


def _log_probabilities(model: Model, window: list[int], first: int) -> Any:  # -> float64 (tokens, vocab)
    logits = np.asarray(model.backend.to_numpy(model.logits([window[:-1]])), np.float64)[0, first - 1 :, :]
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def _divergence(exact: Any, approximate: Any, targets: Sequence[int]) -> Divergence:
    """Of one window; where p is 0 the term is 0, and where an approximate logit is no number the divergence is infinite."""
    p, rows = np.exp(exact), np.arange(len(targets))
    with np.errstate(invalid="ignore"):
        terms = np.sum(np.where(p > 0, p * (exact - approximate), 0.0), axis=-1)
    values = [float(value) if math.isfinite(value) else math.inf for value in terms]
    same = int(np.sum(np.argmax(exact, axis=-1) == np.argmax(approximate, axis=-1)))
    likely, found = (float(-np.sum(each[rows, targets])) for each in (exact, approximate))
    return Divergence(len(targets), likely, found if math.isfinite(found) else math.inf, values, same)


def together(parts: Iterable[Divergence]) -> Divergence:
    """Several texts as one."""
    every = list(parts)
    return Divergence(
        sum(each.tokens for each in every),
        math.fsum(each.exact for each in every),
        math.fsum(each.approximate for each in every),
        [value for each in every for value in each.divergences],
        sum(each.agreeing for each in every),
    )


def divergences(
    model: Model, text: str, variants: Sequence[Arithmetic], *, advance: Callable[[], object] = lambda: None
) -> list[Divergence]:
    """How far each arithmetic moves the model on a text; the exact distributions are computed once.

    Parameters
    ----------
    model : a language model; its own arithmetic does not matter
    text : as for `Model.score`
    variants : the arithmetics
    advance : called after each of them

    Raises
    ------
    TextError, TokenizerError
        as `Model.score`.
    """
    exact, found = model.with_arithmetic(None), []
    windows = model.windows(text)
    truth = [_log_probabilities(exact, *each) for each in windows]
    for arithmetic in variants:
        other = model.with_arithmetic(arithmetic)
        parts = [
            _divergence(p, _log_probabilities(other, window, first), window[first:])
            for p, (window, first) in zip(truth, windows, strict=True)
        ]
        found.append(together(parts))
        advance()
    return found


def compare(
    model: Model, texts: Sequence[str], variants: Sequence[Arithmetic], *, advance: Callable[[], object] = lambda: None
) -> list[list[Divergence]]:
    """`divergences` of every text: for each arithmetic, a list with one entry a text."""
    rows = [divergences(model, text, variants, advance=advance) for text in texts]
    return [list(column) for column in zip(*rows, strict=True)]


def as_json(
    model: Model, texts: Sequence[str], variants: Sequence[Variant], found: Sequence[Sequence[Divergence]]
) -> dict[str, Any]:
    """The whole comparison: exact figures once, and for each arithmetic those of all texts together and of each."""
    whole = together(found[0])
    rows = []
    for variant, parts in zip(variants, found, strict=True):
        kinds = [kind for kind in KINDS if kind in variant.arithmetic.kinds]
        row = {"label": variant.label, "arithmetic": variant.arithmetic.form, "kinds": kinds}
        each = [{"text": text} | part.as_json() for text, part in zip(texts, parts, strict=True)]
        rows.append(row | together(parts).as_json() | {"texts": each})
    return {"model": repr(model), "tokens": whole.tokens, "exact_perplexity": whole.exact_perplexity, "variants": rows}
