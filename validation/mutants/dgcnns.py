"""Mutants of the extractor of SPACES: six gated, dilated, residual convolutions over sentence vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants import layers as steps
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide
from validation.summarizing import DILATIONS

if TYPE_CHECKING:
    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1, e) / (1 + e)


def _before(taps: int, distance: int) -> int:
    """How many zeros stand before the sequence."""
    return (taps - 1) * distance // 2


def _convolution(x: Any, kernel: Any, bias: Any, distance: int, before: Any = _before) -> Any:
    reach, n = (len(kernel) - 1) * distance, x.shape[1]
    front = before(len(kernel), distance)
    padded = np.pad(x, ((0, 0), (front, reach - front), (0, 0)))
    return sum(padded[:, i * distance :][:, :n] @ tap for i, tap in enumerate(kernel)) + bias


def _around(x: Any, kernel: Any, bias: Any, distance: int) -> Any:
    """A sequence that goes on at its other end."""
    front = _before(len(kernel), distance)
    return sum(np.roll(x, front - i * distance, axis=1) @ tap for i, tap in enumerate(kernel)) + bias


def _glu(x: Any) -> Any:
    a, gate = np.split(x, 2, axis=-1)
    return a * _sigmoid(gate)


def _hidden(x: Any, mask: Any) -> Any:
    """0 at padding, whatever stands there."""
    return np.where(mask[..., None], x, 0)


def _dgcnn(
    vectors: Any,
    mask: Any,
    projection: Any,
    kernels: Any,
    biases: Any,
    norm_scales: Any,
    norm_biases: Any,
    alphas: Any,
    head_weight: Any,
    head_bias: Any,
    eps: float,
    *,
    dilations: tuple[int, ...] = DILATIONS,
    given: Any = _hidden,
    between: Any = _hidden,
    at_padding: Any = lambda z, mask: np.where(mask, z, 0),
    projected: Any = lambda v, p, bias: v @ p,
    convolution: Any = _convolution,
    norm: Any = steps.norm,
    glu: Any = _glu,
    gated: Any = None,
    order: Any = lambda i: i,
    added: Any = lambda x, y, alpha, gates: x + alpha * y,
    head: Any = lambda x, w, b: x @ w + b,
) -> Any:
    x = projected(given(vectors, mask), projection, biases[0])
    for i, distance in enumerate(dilations):
        at = order(i)
        both = convolution(between(x, mask), kernels[at], biases[at], distance)

        def normed(y: Any, at: int = at) -> Any:
            return norm(y, norm_scales[at], norm_biases[at], eps)

        y = normed(glu(both)) if gated is None else gated(both, normed)
        x = added(between(x, mask), y, alphas[at], both[..., both.shape[-1] // 2 :])
    return at_padding(head(x, head_weight, head_bias)[..., 0], mask)


def _norm_first(both: Any, norm: Any) -> Any:
    """The values are normalised, then gated."""
    a, gate = np.split(both, 2, axis=-1)
    return norm(a) * _sigmoid(gate)


def _mixed(x: Any, y: Any, alpha: Any, gates: Any) -> Any:
    """x and what is new share the gate: the residual form of the older DGCNN."""
    weight = _sigmoid(gates)
    return x * (1 - weight) + alpha * y * weight


def _uncentred(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale + bias


def _in_pairs(x: Any) -> Any:
    """Values and gates alternate."""
    return x[..., ::2] * _sigmoid(x[..., 1::2])


def _flipped(x: Any, kernel: Any, bias: Any, distance: int) -> Any:
    return _convolution(x, kernel[::-1], bias, distance)


def _from(before: Any) -> Any:
    return lambda x, kernel, bias, distance: _convolution(x, kernel, bias, distance, before)


def _summed_in_bfloat16(x: Any, kernel: Any, bias: Any, distance: int) -> Any:
    return in_bfloat16(_convolution(x, kernel, bias, distance))


# --- what is replaced ---------------------------------------------------------------------------------------------------------


def _is_padded(case: Case) -> bool:
    return not bool(case.arrays[1].all())


def _is_long(case: Case) -> bool:
    return case.arrays[0].shape[1] > 1


def _has_large_eps(case: Case) -> bool:
    return float(case.params["eps"]) > 1e-3


def _as_given(x: Any, mask: Any) -> Any:
    return x


_of = family("dgcnn", _dgcnn)
MUTANTS: tuple[Mutant, ...] = (
    _of("all dilations 1", "parameter-ignored", seen=_is_long, dilations=(1,) * 6),
    _of("dilations in reverse", "layer-order", seen=_is_long, dilations=DILATIONS[::-1]),
    _of("dilations 4 and 8 exchanged", "exchanged", seen=_is_long, dilations=(1, 2, 8, 4, 1, 1)),
    _of("dilations go on doubling", "layer-order", seen=_is_long, dilations=(1, 2, 4, 8, 16, 32)),
    _of("the last layer left out", "missing-layer", dilations=DILATIONS[:-1]),
    _of("layers in reverse", "layer-order", order=lambda i: 5 - i),
    _of("the first layer's parameters in every layer", "layer-order", order=lambda i: 0),
    _of("sees only what is before", "mask-alignment", convolution=_from(lambda taps, r: (taps - 1) * r)),
    _of("sees only what comes after", "future-leak", convolution=_from(lambda taps, r: 0)),
    _of(
        "one zero more before than behind",
        "off-by-one",
        seen=lambda c: c.arrays[3].shape[1] == 2,
        convolution=_from(lambda taps, r: ((taps - 1) * r + 1) // 2),
    ),
    _of("the kernel flipped", "transposed", convolution=_flipped),
    _of("the text is a ring", "ragged-tail", convolution=_around),
    _of("no bias in the convolutions", "missing-layer", convolution=lambda x, k, b, r: _convolution(x, k, 0 * b, r)),
    _of("padding not masked", "mask-ignored", seen=_is_padded, given=_as_given, between=_as_given),
    _of("padding masked once, in front", "mask-ignored", seen=_is_padded, between=_as_given),
    _of("padding alone seen", "mask-inverted", given=lambda x, mask: _hidden(x, ~mask)),
    _of("padding not set to zero", "mask-ignored", seen=_is_padded, at_padding=lambda z, mask: z),
    _of("values and gates exchanged", "exchanged", glu=lambda x: _glu(np.roll(x, x.shape[-1] // 2, axis=-1))),
    _of("values and gates alternate", "interleaving", glu=_in_pairs),
    _of("tanh for the gate's sigmoid", "wrong-activation", glu=lambda x: (p := np.split(x, 2, -1))[0] * np.tanh(p[1])),
    _of("tanh of the values", "wrong-activation", glu=lambda x: np.tanh((p := np.split(x, 2, -1))[0]) * _sigmoid(p[1])),
    _of("no gate", "missing-term", glu=lambda x: np.split(x, 2, -1)[0]),
    _of("the norm before the gate", "norm-placement", gated=_norm_first),
    _of("no norm", "missing-layer", norm=lambda x, scale, bias, eps: x),
    _of("root mean square for the norm", "missing-term", norm=_uncentred),
    _of("unbiased variance", "biased-variance", norm=lambda x, s, b, eps: steps.norm(x, s, b, eps, ddof=1)),
    _of("eps 1e-3", "wrong-eps", dtypes=LONG, norm=lambda x, s, b, eps: steps.norm(x, s, b, eps, used=1e-3)),
    _of(
        "eps always 1e-12",
        "parameter-ignored",
        seen=_has_large_eps,
        norm=lambda x, s, b, eps: steps.norm(x, s, b, eps, used=1e-12),
    ),
    _of(
        "eps outside the root",
        "eps-outside-root",
        seen=_has_large_eps,
        norm=lambda x, s, b, eps: steps.norm(x, s, b, eps, outside=True),
    ),
    _of("mixed by the gate, not added", "missing-term", added=_mixed),
    _of("no residual", "missing-layer", added=lambda x, y, alpha, gates: alpha * y),
    _of("alpha times the residual", "exchanged", added=lambda x, y, alpha, gates: alpha * x + y),
    _of("alpha squared", "wrong-coefficient", added=lambda x, y, alpha, gates: x + alpha**2 * y),
    _of("alpha left out", "missing-term", added=lambda x, y, alpha, gates: x + y),
    _of("the first layer's bias in the projection", "missing-term", projected=lambda v, p, b: v @ p + b[: p.shape[1]]),
    _of("no bias in the head", "missing-layer", head=lambda x, w, b: x @ w),
    _of("probabilities for logits", "wrong-activation", head=lambda x, w, b: _sigmoid(x @ w + b)),
    _of("convolutions in bfloat16", "low-precision-accumulation", dtypes=LONG, convolution=_summed_in_bfloat16),
    _of("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_dgcnn)),
    _of("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_dgcnn)),
)
TWINS = {"dgcnn": wide(_dgcnn)}
