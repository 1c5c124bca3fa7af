"""Cases of linear attention, Taylor features and FAVOR+."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import favor, softmax
from validation.gradients.case import EVERY, Case, of

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKED: dict[str, Any] = {"causal": True, "chunk": 2}  # of five queries: two whole chunks and a part


def _qkv(rng: np.random.Generator, heads: tuple[int, ...] = (), n: int = 3, m: int = 5) -> dict[str, Any]:
    return {name: rng.normal(size=(*heads, rows, w)) for name, rows, w in (("q", n, 3), ("k", m, 3), ("v", m, 2))}


def _positive(given: dict[str, Any]) -> dict[str, Any]:
    """With queries and keys that are features: no denominator is near 0."""
    return given | {name: 0.1 + np.abs(given[name]) for name in ("q", "k")}


# --- linear attention -----------------------------------------------------------------------------------------------------------------


@of("linear_attention.weighted_mean")
def _mean(rng: np.random.Generator) -> Iterator[Case]:
    given = {"numerators": rng.normal(size=(2, 3, 2)), "denominators": 1 + rng.random((2, 3, 1))}
    seen = np.array([True, False, True])[:, None]
    yield Case("all", "every query sees a key", given, dtypes=EVERY)
    blind = np.broadcast_to(~seen, (2, 3, 2))
    dead = given["denominators"] * seen
    yield Case(
        "blind",
        "a query that sees none, of denominator 0",
        given | {"denominators": dead, "seen": seen},
        unseen=(blind,),
    )


@of("linear_attention.linear_attention")
def _linear(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("full", "more keys than queries", _qkv(rng), dtypes=EVERY)
    yield Case("causal", "keys before the first query, chunks", _qkv(rng, n=3) | CHUNKED, dtypes=EVERY)
    yield Case("chunks", "chunks of a part", _qkv(rng, n=5) | {"chunk": 2})
    mask = np.array([False, False, True, False, True])
    early = np.broadcast_to(np.array([True, True, False, False, False])[:, None], (2, 5, 2))
    masked = _qkv(rng, (2,), n=5) | CHUNKED | {"mask": mask}
    yield Case("masked", "queries that see no key", masked, unseen=(early, early[..., :1]))
    nothing = np.stack([mask, ~mask & False])
    blind = np.broadcast_to(np.array([False, True])[:, None, None], (2, 3, 2))
    yield Case(
        "blind", "no key at all in one batch", _qkv(rng, (2,)) | {"mask": nothing}, unseen=(blind, blind[..., :1])
    )
    shared = _qkv(rng, (2,)) | {"k": rng.normal(size=(5, 3)), "mask": mask}
    yield Case("broadcast", "keys of all batches", shared)
    maps = {"q_map": softmax.softmax, "k_map": softmax.softmax}
    yield Case("maps", "feature maps with rules of their own", _qkv(rng, n=5) | CHUNKED | maps)


# --- Taylor ---------------------------------------------------------------------------------------------------------------------------


@of("taylor.exp_taylor")
def _series(rng: np.random.Generator) -> Iterator[Case]:
    for order in (2, 0, 1, 5, 8):
        x = rng.normal(size=(2, 4)) * 2
        given, terms = {"x": x, "order": order}, _powers(x, order)
        yield Case(f"order {order}", "both signs", given, dtypes=EVERY if order == 2 else (), terms=terms)
    x = np.array([8.0, -8.0, 0.0])
    yield Case("large", "the highest power alone", {"x": x, "order": 4}, terms=_powers(x, 4))


def _powers(x: Any, order: int) -> Any:
    """Σ |x|^k/k! over k < order: the sizes of the terms of the derivative."""
    return sum((np.abs(x) ** k / math.factorial(k) for k in range(order)), 0.0 * x)


@of("taylor.taylor_softmax")
def _taylor_rows(rng: np.random.Generator) -> Iterator[Case]:
    for order in (2, 4, 8):
        x = 2 * rng.normal(size=(2, 4))
        yield Case(f"order {order}", "both signs", {"x": x, "order": order}, dtypes=EVERY if order == 2 else ())
    wide = np.array([[40.0, -30.0, 0.0], [-1.0, -1.0, -1.0]])
    yield Case("wide", "at the minimum, and left of it", {"x": wide})
    yield Case("large", "squares overflow", {"x": np.array([[1e200, 1e199, -1e200]])})
    yield Case(
        "far",
        "the n-th powers' common factor and their sum, multiplied, overflow",
        {"x": np.array([[1e307, 1e306, -1e307]]), "order": 8},
    )
    yield Case(
        "sure",
        "one weight is nearly 1",
        {"x": np.array([1e5, 0.0, -1.0]), "order": 4},
        complex_step=4e-5 * 2.0**-50 / 2.4e-19,
        reason="as of softmax: terms f'/Σf, of size 4/x = 4e-5, are rounded by u; the answer is about f(0)/Σf, 24/x^4 = 2.4e-19",
    )
    yield Case("first axis", "not the last axis", {"x": rng.normal(size=(3, 2, 2)), "axis": 0})
    yield Case("single", "one element", {"x": rng.normal(size=(3, 1))})


@of("taylor.taylor_features")
def _taylor_features(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("rows", "", {"x": rng.normal(size=(2, 3))}, dtypes=EVERY)
    yield Case("vector", "one axis", {"x": rng.normal(size=2)})


@of("taylor.taylor_attention")
def _taylor_attention(rng: np.random.Generator) -> Iterator[Case]:
    mask = np.array([False, True, True, False, True])
    yield Case("full", "", _qkv(rng), dtypes=EVERY)
    blind = np.broadcast_to(np.arange(5)[:, None] < 1, (2, 5, 2))
    masked = _qkv(rng, (2,), n=5) | CHUNKED | {"mask": mask}
    yield Case("causal", "masked, chunks", masked, unseen=(blind,))
    yield Case("scale", "another scale", _qkv(rng) | {"scale": Fraction(1, 3), "chunk": 2})


# --- FAVOR+ ---------------------------------------------------------------------------------------------------------------------------


def _given(rng: np.random.Generator, heads: tuple[int, ...] = (2, 3)) -> dict[str, Any]:
    return {"x": rng.normal(size=(*heads, 3)), "projection": rng.normal(size=(4, 3))}


@of("favor.trigonometric_features")
def _features(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("paper", "no shift", _given(rng), dtypes=EVERY)
    yield Case("vector", "one axis", _given(rng, ()) | {"scaled": True, "normalized": False})
    for shift in ("row", "head", "sequence"):
        given = _given(rng, (1, 2, 3) if shift == "sequence" else (2, 3))
        yield Case(shift, "a maximum, which moves with its entry", given | {"shift": shift, "scaled": True})


@of("favor.positive_features")
def _positive_features(rng: np.random.Generator) -> Iterator[Case]:
    yield from _features(rng)
    yield Case("epsilon", "ε beside a maximum", _given(rng) | {"shift": "head", "epsilon": 1e-3})


@of("favor.hyperbolic_features")
def _hyperbolic_features(rng: np.random.Generator) -> Iterator[Case]:
    yield from _features(rng)
    yield Case("norm", "the maximum of the squares", _given(rng) | {"shift": "norm"})


@of("favor.relu_features")
def _relu_features(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("rows", "", _given(rng), dtypes=EVERY)
    for normalized in (False, "inside"):
        options = {"normalized": normalized, "scaled": True, "epsilon": 0.0}
        yield Case(f"normalized={normalized}", "no ε", _given(rng) | options)
    yield Case("bare", "no projection", _given(rng) | {"projection": None})


@of("favor.favor_attention")
def _favor(rng: np.random.Generator) -> Iterator[Case]:
    def given(name: str, kernel: str, n: int) -> dict[str, Any]:
        """Two heads where a maximum is taken over them; features that are not all 0, so that no denominator is near it."""
        shape = (1, 2) if (name, kernel) == ("tf-models", "softmax") else ()
        found = _qkv(rng, shape, n=n) | {"projection": rng.normal(size=(3, 3)), "dialect": name, "kernel": kernel}
        if kernel == "relu":
            apart = np.array([[1.0, 0.1, 0.2], [0.1, 0.2, 1.0], [-1.0, -0.5, -0.7]])
            found = _positive(found) | {"projection": apart + 0.1 * found["projection"]}
        return found

    causal = {"causal": True, "mask": np.array([False, True, True, False, True]), "chunk": 2}
    for name, dialect in favor.dialects.items():
        for kernel in dialect.kernels:
            dtypes = EVERY if (name, kernel) == ("paper", "softmax") else ()
            gradient: dict[str, Any] = {"more": {"detached": False}}
            if kernel != "relu" or dialect.denominator != dialect.causal_denominator:
                yield Case(f"{name}, {kernel}", "no mask", given(name, kernel, 3), dtypes=dtypes, **gradient)
            yield Case(f"{name}, {kernel}, causal", "masked, chunks", given(name, kernel, 5) | causal, **gradient)
