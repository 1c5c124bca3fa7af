"""Tiny cases for the comparison of enclosures with scalar programs: every option of every component, and what its own cases leave out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import favor, parameters
from validation import components, logarithmic

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OWN", "own_cases"]

Case = components.Case
Cases = list[components.Case]


def _rows(rng: np.random.Generator) -> Cases:
    x = rng.normal(size=(2, 1, 3, 4))
    return [Case("vector", "one axis", (x[0, 0, 0],)), Case("four axes", "the last is the one summed over", (x,))]


def _layer_norm(rng: np.random.Generator) -> Cases:
    x, scale, bias = rng.normal(size=(2, 3, 4)), rng.normal(size=4), rng.normal(size=4)
    return [Case(f"eps {eps:g}", "three axes", (x, scale, bias), {"eps": eps}) for eps in (0.0, 1e-12, 0.5)]


def _masks(rng: np.random.Generator, n: int, m: int) -> dict[str, Any]:
    """Boolean masks over two batches and two heads, of every shape that broadcasts; each hides all keys from some query."""
    whole = rng.uniform(size=(2, 2, n, m)) < 0.6
    whole[1, 0, 1] = False
    return {
        "whole": whole,
        "heads": whole[1:],
        "keys": np.stack([np.zeros((1, 1, m), bool), whole[0, :1, :1]]),
        "queries": whole[1, 0][:, :1],
        "pairs": whole[1, 0],
    }


def _qkv(rng: np.random.Generator, n: int, m: int, d: int, e: int) -> tuple[Any, ...]:
    return rng.normal(size=(2, 2, n, d)), rng.normal(size=(2, 2, m, d)), rng.normal(size=(2, 2, m, e))


def _attention(rng: np.random.Generator) -> Cases:
    q, k, v = _qkv(rng, 3, 4, 2, 3)
    masked = [
        Case(f"mask of {name}", "some see nothing", (q, k, v), {"mask": mask})
        for name, mask in _masks(rng, 3, 4).items()
    ]
    return [*masked, Case("two axes", "neither batch nor heads", (q[0, 0], k[0, 0], v[0, 0]), {"mask": None})]


def _residual(rng: np.random.Generator) -> Cases:
    arrays = (*_qkv(rng, 3, 4, 2, 3), rng.normal(size=(2, 2, 3, 4)))
    return [
        Case(
            f"mask of {name}, {layers} layers", "sum, then mean, then mask", arrays, {"mask": mask, "mean_over": layers}
        )
        for name, mask in _masks(rng, 3, 4).items()
        for layers in (1, 3)
    ]


def _relative(rng: np.random.Generator) -> Cases:
    arrays = (*_qkv(rng, 3, 4, 2, 2), rng.normal(size=(3, 4, 2)))
    return [
        Case(f"mask of {name}", "an embedding for every pair", arrays, {"mask": mask})
        for name, mask in _masks(rng, 3, 4).items()
    ]


def _hierarchical(rng: np.random.Generator) -> Cases:
    table = rng.normal(size=(3, 2))
    return [Case(f"alpha {alpha}", "every row", (table, np.arange(9)), {"alpha": alpha}) for alpha in (-0.25, 0.75)]


def _exp_taylor(rng: np.random.Generator) -> Cases:
    x = np.array([[-4.0, -1.0, -0.5], [0.0, 0.1, 3.0]])
    return [Case(f"order {order}", "odd and zero too", (x,), {"order": order}) for order in (0, 1, 3, 5, 12, 25)]


def _taylor_softmax(rng: np.random.Generator) -> Cases:
    x = np.array([[-4.0, -1.0, -0.5, 2.0], [0.0, 0.1, 3.0, 1e4]])
    return [Case(f"order {order}", "large and negative", (x,), {"order": order}) for order in (0, 2, 8, 16)]


def _taylor_attention(rng: np.random.Generator) -> Cases:
    q, k, v = _qkv(rng, 3, 4, 2, 3)
    keys = np.array([[[True, False, True, True]], [[False, False, False, True]]])
    first = np.array([False, False, True, True])
    return [
        Case(
            f"{name}, {'causal' if causal else 'full'}", "some see nothing", (q, k, v), {"causal": causal, "mask": mask}
        )
        for name, mask in (("keys", keys), ("first hidden", first), ("nothing", ~np.ones(4, bool)))
        for causal in (False, True)
    ]


def _sparse(rng: np.random.Generator) -> Cases:
    x = np.stack([rng.integers(-1, 2, 6).astype(float) for _ in range(8)])
    return [Case(f"many ties, k = {k}", "three values only", (x,), {"k": k}) for k in (1, 2, 3, 4, 5, 6, 9)]


def _sparse_loss(rng: np.random.Generator) -> Cases:
    return [Case(case.id, case.hard, (case.arrays[0], rng.integers(0, 6, 8)), case.params) for case in _sparse(rng)]


def _features(**choices: tuple[Any, ...]) -> Callable[[np.random.Generator], Cases]:
    """Every combination of the options, on two batches of two heads of three vectors."""

    def cases(rng: np.random.Generator) -> Cases:
        x, projection = rng.normal(size=(2, 2, 3, 2)), rng.normal(size=(3, 2))
        options = [dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())]
        return [Case(f"{each}", "every set of options", (x, projection), each) for each in options]

    return cases


_FLAGS = {"scaled": (False, True), "normalized": (False, True)}
_SHIFTS = ("none", "row", "head", "sequence")


def _relu(rng: np.random.Generator) -> Cases:
    options = {"scaled": (False, True), "normalized": (False, True, "inside"), "epsilon": (0.0, 0.25)}
    cases = _features(**options)(rng)
    return cases + [Case(f"{case.id}, no W", case.hard, (case.arrays[0], None), case.params) for case in cases]


def _favor(rng: np.random.Generator) -> Cases:
    """Every kernel of every dialect: masked so that a batch sees nothing, causal, both, and so large that google-jax guards its denominators."""
    arrays = (*_qkv(rng, 2, 3, 2, 2), rng.normal(size=(3, 2)))
    large = (6 * arrays[0], 6 * arrays[1], *arrays[2:])
    keys = np.array([[[True, False, True]], [[False, False, False]]])
    by_head = np.array([[[False, True, True], [True, True, False]], [[False, False, True], [True, False, False]]])
    places = {
        "keys": (arrays, keys, False),
        "by head, causal": (arrays, by_head, True),
        "large": (large, None, False),
        "large, causal": (large, None, True),
    }
    return [
        Case(f"{name}, {dialect}, {kernel}", "every kernel of every dialect", given, params)
        for dialect, convention in favor.dialects.items()
        for kernel in convention.kernels
        for name, (given, mask, causal) in places.items()
        for params in ({"mask": mask, "causal": causal, "dialect": dialect, "kernel": kernel},)
    ]


def _gpt2(rng: np.random.Generator) -> Cases:
    ids = rng.integers(0, 61, (2, 5))
    padded = np.array([[False, False, True], [True, True, True]])
    return [
        Case("five tokens", "every layer's attention over up to five keys", (ids[:1], np.ones((1, 5), bool))),
        Case("left padding", "rows of one and three tokens", (ids[:, :3], padded)),
    ]


def _block(*, previous: bool) -> Callable[[np.random.Generator], Cases]:
    """Every number of heads of a layer of width 4, with padding on either side."""

    def cases(rng: np.random.Generator) -> Cases:
        x, sides = rng.normal(size=(2, 3, 4)), np.array([[True, True, False], [False, True, True]])
        found = []
        for heads in (1, 2, 4):
            drawn = [rng.normal(size=shape) for shape in parameters.Block.shapes(4, 3).values()]
            scores = (rng.normal(size=(2, heads, 3, 3)),) if previous else ()
            params = {"heads": heads, "eps": 0.125}
            found.append(Case(f"{heads} heads", "padding on either side", (x, sides, *scores, *drawn), params))
        return found

    return cases


def _dgcnn(rng: np.random.Generator) -> Cases:
    """Three channels, three taps: small enough for every parameter."""
    mask = np.array([[True] * 10, [True, False, True, True, *[False] * 6]])
    shapes = (2, 10, 2), None, (2, 3), (6, 3, 3, 6), (6, 6), (6, 3), (6, 3), (6,), (3, 1), (1,)
    arrays = tuple(mask if shape is None else rng.normal(size=shape) for shape in shapes)
    return [Case("three taps", "padding behind and between", arrays, {"eps": 0.125})]


def _block_backwards(*, previous: bool) -> Callable[[np.random.Generator], Cases]:
    """A layer so narrow that each of its parameters can be moved: width 2, one head, three tokens, the first of which is padding."""

    def cases(rng: np.random.Generator) -> Cases:
        x, cotangent = rng.normal(size=(2, 1, 3, 2))
        scores = (rng.normal(size=(1, 1, 3, 3)),) if previous else ()
        drawn = [rng.normal(size=shape) for shape in parameters.Block.shapes(2, 2).values()]
        arrays = (x, np.array([[False, True, True]]), *scores, *drawn, cotangent)
        return [Case("width 2", "every parameter of a layer", arrays, {"heads": 1, "eps": 0.125})]

    return cases


def _encoder(rng: np.random.Generator) -> Cases:
    """Every application once, with segments and padding: each case reads the model anew."""
    ids, halves, real = (
        rng.integers(1, 60, (2, 3)),
        np.array([[0, 0, 1], [0, 1, 1]]),
        np.array([[True] * 3, [True, False, False]]),
    )
    source, target = rng.integers(1, 60, (1, 6)), np.array([[0, 0, 1, 1, 1, 0]])
    return [
        Case("padding", "rows of three tokens and one", (ids, halves, real), {"application": "encoder"}),
        Case("lm", "each token sees those before it", (ids, halves, real), {"application": "lm"}),
        Case(
            "unilm",
            "what is behind the target has segment 0",
            (source, target, np.arange(6)[None] < 5),
            {"application": "unilm"},
        ),
    ]


def _pooled(rng: np.random.Generator) -> Cases:
    mask = np.array([[True, False, True], [False, False, True]])
    return [Case("holes", "padding anywhere", (rng.normal(size=(2, 3, 4)), mask))]


def _mitchell(rng: np.random.Generator) -> Cases:
    """Both sides of every boundary, and far from 1, in two axes that broadcast."""
    a = np.array([[1.0], [-1.5], [1.75], [0.375], [1e-30], [-3e25]])
    b = np.array([[1.0, 1.25, -1.5, 1.9999, 1e-9, 7e10]])
    return [
        Case(f"pairs, {dialect}", "both sides of a carry", (a, b), {"dialect": dialect}) for dialect in ("ieee", "pam")
    ]


def _mitchell_pairs(rng: np.random.Generator) -> Cases:
    return [Case("pairs", "both sides of a carry", _mitchell(rng)[0].arrays)]


def _pattern_quotients(rng: np.random.Generator) -> Cases:
    """The component's own cases in two parts, since they are longer than is tiny."""
    return [
        Case(f"{case.id}, part {part}", case.hard, tuple(a[part::2] for a in case.arrays), case.params)
        for case in logarithmic.divide_patterns_cases(rng, "float64")
        for part in (0, 1)
    ]


OWN: dict[str, Callable[[np.random.Generator], Cases]] = {
    "softmax": _rows,
    "log_softmax": _rows,
    "logsumexp": _rows,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "residual_attention": _residual,
    "relative_attention": _relative,
    "hierarchical_positions": _hierarchical,
    "exp_taylor": _exp_taylor,
    "taylor_softmax": _taylor_softmax,
    "taylor_attention": _taylor_attention,
    "sparse_softmax": _sparse,
    "sparse_softmax_cross_entropy": _sparse_loss,
    "positive_features": _features(**_FLAGS, shift=_SHIFTS, epsilon=(0.0, 1e-4)),
    "trigonometric_features": _features(**_FLAGS, shift=_SHIFTS),
    "hyperbolic_features": _features(**_FLAGS, shift=(*_SHIFTS, "norm")),
    "relu_features": _relu,
    "favor_attention": _favor,
    "gpt2_block": _block(previous=False),
    "bert_block": _block(previous=True),
    "dgcnn": _dgcnn,
    "gpt2_block.vjp": _block_backwards(previous=False),
    "bert_block.vjp": _block_backwards(previous=True),
    "gpt2": _gpt2,
    "bert": _encoder,
    "nezha": _encoder,
    "mean_pooling": _pooled,
    "unit_length": _rows,
    "mitchell_multiply": _mitchell,
    "mitchell_divide": _mitchell,
    "mitchell_corrected": _mitchell_pairs,
    "mitchell_divide_patterns": _pattern_quotients,
}


def own_cases(name: str, rng: np.random.Generator) -> Cases:
    """The cases made here for a component; none where its own suffice."""
    return OWN[name](rng) if name in OWN else []
