"""Mutants of hierarchical positions, of the Taylor polynomials of exp, their softmax and their attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, tf32, wide

if TYPE_CHECKING:
    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- hierarchical positions -----------------------------------------------------------------------------------------------------


def _bases(table: Any, alpha: float) -> Any:
    return (table - alpha * table[:1]) / (1 - alpha)


def _split(t: Any, n: int) -> tuple[Any, Any]:
    return t // n, t % n


def _mixed(u: Any, i: Any, j: Any, alpha: float) -> Any:
    return alpha * u[i] + (1 - alpha) * u[j]


def _hierarchical(
    table: Any, at: Any, alpha: float, *, bases: Any = _bases, split: Any = _split, mix: Any = _mixed
) -> Any:
    i, j = split(at, len(table))
    return mix(bases(table, alpha), i, j, alpha)


def _last(case: Case) -> int:
    return len(case.arrays[0]) ** 2 - 1


def _longer(case: Case) -> bool:
    return len(case.arrays[0]) > 1


def _off_by_one(t: Any, n: int) -> tuple[Any, Any]:
    return _split(np.minimum(t + 1, n * n - 1), n)


def _in_float32(table: Any, at: Any, alpha: float) -> Any:
    return _hierarchical(table, at, float(np.float32(alpha)))


_of_positions = family("hierarchical_positions", _hierarchical)
_POSITIONS = (
    _of_positions("i and j exchanged", "exchanged", seen=_longer, split=lambda t, n: (t % n, t // n)),
    _of_positions(
        "alpha and 1 - alpha exchanged", "exchanged", seen=_longer, mix=lambda u, i, j, a: (1 - a) * u[i] + a * u[j]
    ),
    _of_positions(
        "the table repeated", "positions", seen=_longer, function=lambda table, at, alpha: table[at % len(table)]
    ),
    _of_positions(
        "the last row repeated",
        "positions",
        seen=_longer,
        function=lambda table, at, alpha: table[np.minimum(at, len(table) - 1)],
    ),
    _of_positions("one position too far", "off-by-one", seen=_longer, split=_off_by_one),
    _of_positions("i from 1", "off-by-one", seen=_longer, split=lambda t, n: (np.minimum(t // n + 1, n - 1), t % n)),
    _of_positions(
        "blocks of n - 1",
        "off-by-one",
        seen=_longer,
        split=lambda t, n: (np.minimum(t // max(n - 1, 1), n - 1), t % max(n - 1, 1)),
    ),
    _of_positions(
        "alpha 0.4 throughout",
        "parameter-ignored",
        seen=lambda case: case.params["alpha"] != 0.4,
        function=lambda table, at, alpha: _hierarchical(table, at, 0.4),
    ),
    _of_positions(
        "bases not divided by 1 - alpha", "missing-scale", bases=lambda table, alpha: table - alpha * table[:1]
    ),
    _of_positions("the table for its bases", "missing-term", seen=_longer, bases=lambda table, alpha: table),
    _of_positions(
        "bases from the last row",
        "off-by-one",
        seen=_longer,
        bases=lambda table, alpha: (table - alpha * table[-1:]) / (1 - alpha),
    ),
    _of_positions(
        "bases from the mean row",
        "missing-term",
        seen=_longer,
        bases=lambda table, alpha: (table - alpha * table.mean(0)) / (1 - alpha),
    ),
    _of_positions("bases + alpha p₁", "sign", bases=lambda table, alpha: (table + alpha * table[:1]) / (1 - alpha)),
    _of_positions("equal shares", "wrong-coefficient", seen=_longer, mix=lambda u, i, j, alpha: (u[i] + u[j]) / 2),
    _of_positions("alpha in float32", "truncated-constant", dtypes=("float64",), seen=_longer, function=_in_float32),
    _of_positions(
        "bases in bfloat16", "low-precision", dtypes=LONG, bases=lambda table, alpha: in_bfloat16(_bases(table, alpha))
    ),
    _of_positions("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_hierarchical)),
)


# --- Taylor polynomials -----------------------------------------------------------------------------------------------------------


def _polynomial(x: Any, order: int) -> Any:
    """Σ_i w_i (x + s_i)^n / n! with the nodes and weights of Gauss and Laguerre: no term is negative for even n."""
    nodes, weights = scipy.special.roots_laguerre(order // 2 + 1)
    return sum(float(w) * (x + float(s)) ** order / math.factorial(order) for s, w in zip(nodes, weights, strict=True))


def _terms(x: Any, order: int, coefficient: Any) -> Any:
    return sum(coefficient(k) * x**k for k in range(order + 1))


def _inverse_factorial(k: int) -> float:
    return 1 / math.factorial(k)


def _horner(x: Any, order: int) -> Any:
    total = np.ones_like(x)
    for k in range(order, 0, -1):
        total = 1 + x / k * total
    return total


def _odd(case: Case) -> bool:
    return bool(case.params["order"] % 2)


_of_polynomial = family("exp_taylor", _polynomial)
_POLYNOMIAL = (
    _of_polynomial("exp", "wrong-order", function=lambda x, order: np.exp(x)),
    _of_polynomial("one order less", "off-by-one", function=lambda x, order: _polynomial(x, order - 1)),
    _of_polynomial("one order more", "off-by-one", function=lambda x, order: _polynomial(x, order + 1)),
    _of_polynomial(
        "order 2 throughout",
        "parameter-ignored",
        seen=lambda case: case.params["order"] != 2,
        function=lambda x, order: _polynomial(x, 2),
    ),
    _of_polynomial(
        "1/k for 1/k!",
        "wrong-coefficient",
        seen=lambda case: case.params["order"] > 2,
        function=lambda x, order: _terms(x, order, lambda k: 1 / max(k, 1)),
    ),
    _of_polynomial("no factorials", "wrong-coefficient", function=lambda x, order: _terms(x, order, lambda k: 1.0)),
    _of_polynomial("no constant term", "missing-term", function=lambda x, order: _polynomial(x, order) - 1),
    _of_polynomial("alternating signs", "sign", function=lambda x, order: _polynomial(-x, order)),
    _of_polynomial(
        "term by term", "cancellation", dtypes=LONG, function=lambda x, order: _terms(x, order, _inverse_factorial)
    ),
    _of_polynomial("Horner", "cancellation", dtypes=LONG, function=_horner),
    _of_polynomial(
        "negative values cut off", "clipped", function=lambda x, order: np.where(x < -order, 0, _polynomial(x, order))
    ),
    _of_polynomial("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_polynomial)),
)


# --- Taylor softmax ---------------------------------------------------------------------------------------------------------------


def _row_sum(weights: Any) -> Any:
    return weights.sum(-1, keepdims=True)


def _taylor_softmax(x: Any, order: int, *, weigh: Any = _polynomial, total: Any = _row_sum) -> Any:
    weights = weigh(x, order)
    return weights / total(weights)


def _shifted(x: Any, order: int) -> Any:
    return _polynomial(x - x.max(-1, keepdims=True), order)


_of_softmax = family("taylor_softmax", _taylor_softmax)
_SOFTMAX = (
    _of_softmax("softmax", "wrong-order", weigh=lambda x, order: np.exp(x - x.max(-1, keepdims=True))),
    _of_softmax(
        "order 2 throughout",
        "parameter-ignored",
        seen=lambda case: case.params["order"] != 2,
        weigh=lambda x, order: _polynomial(x, 2),
    ),
    _of_softmax("one order less", "off-by-one", weigh=lambda x, order: _polynomial(x, order - 1)),
    _of_softmax("two orders more", "wrong-order", weigh=lambda x, order: _polynomial(x, order + 2)),
    _of_softmax("the maximum subtracted", "wrong-shift", weigh=_shifted),
    _of_softmax("cut off left of 0", "clipped", weigh=lambda x, order: _polynomial(np.maximum(x, 0), order)),
    _of_softmax("no factorials", "wrong-coefficient", weigh=lambda x, order: _terms(x, order, lambda k: 1.0)),
    _of_softmax("no constant term", "missing-term", weigh=lambda x, order: _polynomial(x, order) - 1),
    _of_softmax("down the columns", "wrong-axis", total=lambda weights: weights.sum(0, keepdims=True)),
    _of_softmax("not divided by the sum", "not-normalised", total=lambda weights: 1),
    _of_softmax("last element not in the sum", "off-by-one", total=lambda weights: _row_sum(weights[..., :-1])),
    _of_softmax(
        "denominator + 1e-3", "eps-in-denominator", dtypes=LONG, total=lambda weights: _row_sum(weights) + 1e-3
    ),
    _of_softmax(
        "weights in bfloat16", "low-precision", dtypes=LONG, weigh=lambda x, order: in_bfloat16(_polynomial(x, order))
    ),
    _of_softmax("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_taylor_softmax)),
)


# --- Taylor attention -------------------------------------------------------------------------------------------------------------


def _scores(q: Any, k: Any) -> Any:
    return q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])


def _square(scores: Any) -> Any:
    return 1 + scores + scores * scores / 2


def _at_or_before(n: int, m: int) -> Any:
    return np.tril(np.ones((n, m), bool), m - n)


def _weights_sum(weights: Any, everything: Any) -> Any:
    return weights.sum(-1, keepdims=True)


def _attention(
    q: Any,
    k: Any,
    v: Any,
    causal: bool,
    *,
    scores: Any = _scores,
    weigh: Any = _square,
    triangle: Any = _at_or_before,
    total: Any = _weights_sum,
) -> Any:
    everything = weigh(scores(q, k))
    weights = np.where(triangle(q.shape[-2], k.shape[-2]), everything, 0) if causal else everything
    return weights @ v / total(weights, everything)


def _scaled_features(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """φ(q)·φ(k) with the features of first and second order divided by √d: the squares should be divided by d."""
    return _attention(q, k, v, causal, weigh=lambda s: 1 + s + math.sqrt(q.shape[-1]) * s * s / 2)


def _triangle(offset: int) -> Any:
    return lambda n, m: np.tril(np.ones((n, m), bool), m - n + offset)


def _last_chunk(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """Each query sees its own chunk of 64 only, as if the running sum were thrown away."""
    n, m = q.shape[-2], k.shape[-2]
    place, key = np.arange(n)[:, None] + m - n, np.arange(m)[None, :]
    seen = (place // 64 == key // 64) & (key <= place) if causal else np.ones((n, m), bool)
    weights = np.where(seen, _square(_scores(q, k)), 0)
    return weights @ v / weights.sum(-1, keepdims=True)


def _softmax_weights(scores: Any) -> Any:
    return np.exp(scores - scores.max(-1, keepdims=True))


def _is_causal(case: Case) -> bool:
    return bool(case.params["causal"])


_of_attention = family("taylor_attention", _attention)
_ATTENTION = (
    _of_attention("missing 1/√d", "missing-scale", scores=lambda q, k: q @ np.swapaxes(k, -1, -2)),
    _of_attention("1/d for 1/√d", "wrong-scale", scores=lambda q, k: _scores(q, k) / math.sqrt(q.shape[-1])),
    _of_attention(
        "1/√d on the features, not before", "wrong-scale", dtypes=("float16", *LONG), function=_scaled_features
    ),
    _of_attention("softmax", "wrong-order", weigh=_softmax_weights),
    _of_attention("order 1", "wrong-order", weigh=lambda s: 1 + s),
    _of_attention(
        "no 1/√2 on the squares", "wrong-coefficient", dtypes=("float16", *LONG), weigh=lambda s: 1 + s + s * s
    ),
    _of_attention(
        "1/2 for 1/√2 on the squares", "wrong-coefficient", dtypes=("float16", *LONG), weigh=lambda s: 1 + s + s * s / 4
    ),
    _of_attention("no constant feature", "missing-term", weigh=lambda s: s + s * s / 2),
    _of_attention("sees the next key", "future-leak", seen=_is_causal, triangle=_triangle(1)),
    _of_attention("prefix sum without the query's own key", "off-by-one", seen=_is_causal, triangle=_triangle(-1)),
    _of_attention("not causal", "mask-ignored", seen=_is_causal, triangle=lambda n, m: np.ones((n, m), bool)),
    _of_attention(
        "aligned to the first key",
        "mask-alignment",
        seen=_is_causal,
        triangle=lambda n, m: np.tril(np.ones((n, m), bool)),
    ),
    _of_attention(
        "denominator over all keys",
        "future-leak",
        seen=_is_causal,
        total=lambda weights, everything: everything.sum(-1, keepdims=True),
    ),
    _of_attention(
        "denominator over queries",
        "wrong-axis",
        total=lambda weights, everything: weights.sum(-1, keepdims=True).mean(-2, keepdims=True),
    ),
    _of_attention("not divided", "not-normalised", total=lambda weights, everything: 1),
    _of_attention(
        "divided by the number of keys", "not-normalised", total=lambda weights, everything: everything.shape[-1]
    ),
    _of_attention(
        "denominator + 1e-3",
        "eps-in-denominator",
        dtypes=LONG,
        total=lambda weights, everything: weights.sum(-1, keepdims=True) + 1e-3,
    ),
    _of_attention("chunks forget", "ragged-tail", seen=_is_causal, function=_last_chunk),
    _of_attention("weights in bfloat16", "low-precision", dtypes=LONG, weigh=lambda s: in_bfloat16(_square(s))),
    _of_attention("TF32 products", "low-precision", dtypes=LONG, scores=lambda q, k: _scores(tf32(q), tf32(k))),
    _of_attention("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_attention)),
)

MUTANTS: tuple[Mutant, ...] = _POSITIONS + _POLYNOMIAL + _SOFTMAX + _ATTENTION
TWINS = {
    "hierarchical_positions": wide(_hierarchical),
    "exp_taylor": wide(_polynomial),
    "taylor_softmax": wide(_taylor_softmax),
    "taylor_attention": wide(_attention),
}
