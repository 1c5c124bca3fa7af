"""Cases of Mitchell's arithmetic: its slopes, which are derivatives inside a piece. The other surrogates are those of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl import mitchell_gradients  # noqa: F401 - importing it registers its rules
from validation.gradients.case import EVERY, Case, of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np


def _factors(rng: np.random.Generator) -> tuple[Any, Any]:
    """Two times six numbers of 8 bits, which every dtype has: no sum or difference of two fractions is a kink, nor is one of them."""
    fractions = rng.choice([1, 3, 5, 7, 9, 11, 13, 15], 6) / 16, (2 * rng.integers(0, 64, 6) + 1) / 128
    signs, exponents = rng.choice([-1.0, 1.0], (2, 6)), rng.integers(-3, 4, (2, 6))
    one, other = ((1 + f) * s * 2.0**e for f, s, e in zip(fractions, signs, exponents, strict=True))
    return one, other


@of("mitchell.multiply", "mitchell.divide")
def _products(rng: np.random.Generator) -> Iterator[Case]:
    a, b = _factors(rng)
    yield Case("inside", "both signs, sums on both sides of the carry", {"a": a, "b": b}, dtypes=EVERY)
    yield Case("outer", "both are broadcast", {"a": a[None, :3], "b": b[:4, None]})
    yield Case("flush", "rules at the edges, none of which is met", {"a": a, "b": b, "dialect": "flush"})


@of("mitchell.matmul")
def _sums(rng: np.random.Generator) -> Iterator[Case]:
    a, b = _factors(rng)
    yield Case("plain", "a slope for each product", {"a": a.reshape(2, 3), "b": b.reshape(3, 2)}, dtypes=EVERY)
    yield Case("stacks", "one is broadcast", {"a": a.reshape(3, 1, 2), "b": b[:4].reshape(1, 2, 2)})


@of("mitchell.log2_approx")
def _logarithms(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("inside", "numbers of several binades", {"x": abs(_factors(rng)[0])}, dtypes=EVERY, terms=0.0)


@of("mitchell.exp2_approx")
def _powers(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("inside", "numbers of both signs", {"x": _factors(rng)[1]}, dtypes=EVERY, terms=0.0)
