"""Mutants of backward passes: of the softmax family, cross-entropy, GELU and layer normalization."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.backwards import joined
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]

NARROW = ("float16", "bfloat16", "float32")


# --- softmax and its relatives --------------------------------------------------------------------------------------------------


def _softmax(x: Any, *, shift: bool = True, axis: int = -1) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True)) if shift else np.exp(x)
    return e / e.sum(axis, keepdims=True)


_UNSHIFTED = functools.partial(_softmax, shift=False)
_DOWN = functools.partial(_softmax, axis=0)


def _sum(terms: Any) -> Any:
    return terms.sum(-1, keepdims=True)


def _all_but_last(terms: Any) -> Any:
    return terms[..., :-1].sum(-1, keepdims=True)


def _bfloat16_sum(terms: Any) -> Any:
    total = np.zeros_like(terms[..., :1])
    for j in range(terms.shape[-1]):
        total = in_bfloat16(total + terms[..., j : j + 1])
    return total


def _of_softmax(
    x: Any, cotangent: Any, *, weights: Any = _softmax, total: Any = _sum, centre: Any = None, saved: Any = None
) -> Any:
    p = weights(x)
    p = saved(p) if saved else p
    return p * (cotangent - (centre(p, cotangent) if centre else total(p * cotangent)))


_softmax_bug = family("softmax.vjp", _of_softmax)
_SOFTMAX = (
    _softmax_bug("centring term left out", "missing-term", centre=lambda p, bar: 0),
    _softmax_bug(
        "diagonal of the Jacobian only", "gradient-dropped", function=lambda x, cotangent: _diagonal(x, cotangent)
    ),
    _softmax_bug("centred by Σ p̄, without weights", "chain-rule", centre=lambda p, bar: _sum(bar)),
    _softmax_bug("centred by the mean of p̄", "chain-rule", centre=lambda p, bar: bar.mean(-1, keepdims=True)),
    _softmax_bug("centring term added", "sign", centre=lambda p, bar: -_sum(p * bar)),
    _softmax_bug("centred down the columns", "wrong-axis", centre=lambda p, bar: (p * bar).sum(0, keepdims=True)),
    _softmax_bug("centred over everything", "wrong-axis", centre=lambda p, bar: (p * bar).sum()),
    _softmax_bug("softmax down the columns", "wrong-axis", weights=_DOWN),
    _softmax_bug("p twice", "chain-rule", function=lambda x, cotangent: _softmax(x) * _of_softmax(x, cotangent)),
    _softmax_bug(
        "of log-softmax", "chain-rule", function=lambda x, cotangent: cotangent - _softmax(x) * _sum(cotangent)
    ),
    _softmax_bug("un-shifted", "unshifted-exp", dtypes=("float16", *LONG), weights=_UNSHIFTED),
    _softmax_bug("last element not in the sum", "off-by-one", total=_all_but_last),
    _softmax_bug("p kept in bfloat16", "low-precision", dtypes=LONG, saved=in_bfloat16),
    _softmax_bug("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_bfloat16_sum),
    _softmax_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_softmax)),
    _softmax_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_softmax)),
)


def _diagonal(x: Any, cotangent: Any) -> Any:
    p = _softmax(x)
    return p * (1 - p) * cotangent


def _of_log(x: Any, cotangent: Any, *, weights: Any = _softmax, total: Any = _sum) -> Any:
    return cotangent - weights(x) * total(cotangent)


_log_bug = family("log_softmax.vjp", _of_log)
_LOG_SOFTMAX = (
    _log_bug("Σ ȳ left out", "chain-rule", total=lambda bar: 1),
    _log_bug("softmax left out", "chain-rule", weights=np.ones_like),
    _log_bug("ȳ alone", "missing-term", total=lambda bar: 0),
    _log_bug("mean of ȳ for its sum", "wrong-count", total=lambda bar: bar.mean(-1, keepdims=True)),
    _log_bug("of softmax", "chain-rule", function=_of_softmax),
    _log_bug("log-softmax for softmax", "exchanged", weights=lambda x: np.log(_softmax(x) + 1e-30)),
    _log_bug("Σ ȳ down the columns", "wrong-axis", total=lambda bar: bar.sum(0, keepdims=True)),
    _log_bug("softmax down the columns", "wrong-axis", weights=_DOWN),
    _log_bug("the sum added", "sign", total=lambda bar: -_sum(bar)),
    _log_bug("un-shifted", "unshifted-exp", weights=_UNSHIFTED),
    _log_bug("last element not in the sum", "off-by-one", total=_all_but_last),
    _log_bug("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_bfloat16_sum),
    _log_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_log)),
    _log_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_log)),
)


def _of_sum(x: Any, cotangent: Any, *, weights: Any = _softmax, factor: Any = None) -> Any:
    return weights(x) * (factor(cotangent) if factor else cotangent[..., None])


_sum_bug = family("logsumexp.vjp", _of_sum)
_LOGSUMEXP = (
    _sum_bug("cotangent ignored", "chain-rule", factor=lambda bar: 1),
    _sum_bug("one-hot of the largest", "gradient-dropped", weights=lambda x: x == x.max(-1, keepdims=True)),
    _sum_bug(
        "exponentials not divided by their sum", "not-normalised", weights=lambda x: np.exp(x - x.max(-1)[..., None])
    ),
    _sum_bug("of the logarithm of the mean, twice", "wrong-count", weights=lambda x: _softmax(x) / x.shape[-1]),
    _sum_bug("log-softmax for softmax", "exchanged", weights=lambda x: np.log(_softmax(x) + 1e-30)),
    _sum_bug("softmax down the columns", "wrong-axis", weights=_DOWN),
    _sum_bug("rows in reverse order", "exchanged", factor=lambda bar: bar[::-1, None]),
    _sum_bug("cotangents summed over the batch", "wrong-axis", factor=lambda bar: bar.sum()),
    _sum_bug("negated", "sign", factor=lambda bar: -bar[..., None]),
    _sum_bug("un-shifted", "unshifted-exp", weights=_UNSHIFTED),
    _sum_bug("p kept in bfloat16", "low-precision", dtypes=LONG, weights=lambda x: in_bfloat16(_softmax(x))),
    _sum_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_sum)),
    _sum_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_sum)),
)


def _one_hot(logits: Any, targets: Any, *, off: int = 0) -> Any:
    return np.arange(logits.shape[-1]) == targets[..., None] + off


def _of_loss(
    logits: Any, targets: Any, cotangent: Any, *, weights: Any = _softmax, said: Any = _one_hot, factor: Any = None
) -> Any:
    return (weights(logits) - said(logits, targets)) * (factor(cotangent) if factor else cotangent[..., None])


_loss_bug = family("cross_entropy.vjp", _of_loss)
_CROSS_ENTROPY = (
    _loss_bug("averaged over the batch", "wrong-count", factor=lambda bar: bar[..., None] / bar.size),
    _loss_bug("cotangent ignored", "chain-rule", factor=lambda bar: 1),
    _loss_bug("averaged, cotangent ignored", "wrong-count", factor=lambda bar: 1 / bar.size),
    _loss_bug("one-hot minus softmax", "sign", factor=lambda bar: -bar[..., None]),
    _loss_bug("one-hot added", "sign", said=lambda s, t: -1.0 * _one_hot(s, t)),
    _loss_bug("one-hot one place on", "off-by-one", said=functools.partial(_one_hot, off=1)),
    _loss_bug("one-hot of the largest logit", "exchanged", said=lambda s, t: _one_hot(s, s.argmax(-1))),
    _loss_bug("softmax alone", "missing-term", said=lambda s, t: 0),
    _loss_bug("one-hot alone", "missing-term", weights=np.zeros_like),
    _loss_bug("target alone", "gradient-dropped", function=lambda s, t, bar: _at_target(s, t, bar)),
    _loss_bug("softmax down the columns", "wrong-axis", weights=_DOWN),
    _loss_bug("softmax without maximum", "unshifted-exp", weights=_UNSHIFTED),
    _loss_bug("of softmax, once more", "chain-rule", function=lambda s, t, bar: _of_softmax(s, _of_loss(s, t, bar))),
    _loss_bug("labels smoothed by 1e-3", "parameter-ignored", dtypes=LONG, said=lambda s, t: _smoothed(s, t)),
    _loss_bug("p kept in bfloat16", "low-precision", dtypes=LONG, weights=lambda x: in_bfloat16(_softmax(x))),
    _loss_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_loss)),
    _loss_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_loss)),
)


def _at_target(logits: Any, targets: Any, cotangent: Any) -> Any:
    return _of_loss(logits, targets, cotangent) * _one_hot(logits, targets)


def _smoothed(logits: Any, targets: Any) -> Any:
    return 0.999 * _one_hot(logits, targets) + 0.001 / logits.shape[-1]


# --- GELU -----------------------------------------------------------------------------------------------------------------------


def _tanh_slope(
    x: Any,
    *,
    slope: float = math.sqrt(2 / math.pi),
    cubic: float = 0.044715,
    inner: float = 3.0,
    through: bool = True,
    halves: bool = True,
    bell: Any = lambda t: 1 - t**2,
) -> Any:
    """(1 + tanh z)/2 + x z' (1 - tanh² z)/2, through z' = slope (1 + 3·0.044715 x²)."""
    t = np.tanh(slope * (x + cubic * x**3))
    steep = slope * (1 + inner * cubic * x**2)
    return (1 + t) / (2 if halves else 1) + (x * steep * bell(t) / 2 if through else 0)


def _erf_slope(
    x: Any, *, root: float = math.sqrt(2 * math.pi), half: float = 2.0, through: bool = True, share: bool = True
) -> Any:
    """Φ(x) + x φ(x)."""
    return (scipy.special.ndtr(x) if share else 0) + (x * np.exp(-x * x / half) / root if through else 0)


def _of_gelu(
    x: Any, cotangent: Any, approximate: str, *, tanh_slope: Any = _tanh_slope, erf_slope: Any = _erf_slope
) -> Any:
    return (tanh_slope(x) if approximate == "tanh" else erf_slope(x)) * cotangent


def _tanh(case: Case) -> bool:
    return bool(case.params["approximate"] == "tanh")


def _exact(case: Case) -> bool:
    return bool(case.params["approximate"] == "none")


def _tanh_with(**constants: Any) -> dict[str, Any]:
    return {"seen": _tanh, "tanh_slope": functools.partial(_tanh_slope, **constants)}


def _erf_with(**constants: Any) -> dict[str, Any]:
    return {"seen": _exact, "erf_slope": functools.partial(_erf_slope, **constants)}


def _quick(x: Any, cotangent: Any, approximate: str) -> Any:
    s = scipy.special.expit(1.702 * x)
    return (s + 1.702 * x * s * (1 - s)) * cotangent


_gelu_bug = family("gelu.vjp", _of_gelu)
_GELU = (
    _gelu_bug("derivative of the tanh form for erf", "tanh-for-erf", dtypes=LONG, seen=_exact, erf_slope=_tanh_slope),
    _gelu_bug("derivative of the erf form for tanh", "erf-for-tanh", dtypes=LONG, seen=_tanh, tanh_slope=_erf_slope),
    _gelu_bug("3·0.044715 x² left out of z'", "chain-rule", dtypes=("float16", *LONG), **_tanh_with(inner=0.0)),
    _gelu_bug("0.044715 x² in z', not three times", "chain-rule", dtypes=LONG, **_tanh_with(inner=1.0)),
    _gelu_bug("z' left out", "chain-rule", dtypes=("float16", *LONG), **_tanh_with(slope=1.0)),
    _gelu_bug("1 - tanh for 1 - tanh²", "chain-rule", **_tanh_with(bell=lambda t: 1 - t)),
    _gelu_bug("no derivative of tanh", "gradient-dropped", **_tanh_with(through=False)),
    _gelu_bug("1 + tanh not halved", "wrong-coefficient", **_tanh_with(halves=False)),
    _gelu_bug("0.0447 for 0.044715", "truncated-constant", dtypes=LONG, **_tanh_with(cubic=0.0447)),
    _gelu_bug("0.79788 for √(2/π)", "truncated-constant", dtypes=("float64",), **_tanh_with(slope=0.79788)),
    _gelu_bug("x φ(x) left out", "gradient-dropped", **_erf_with(through=False)),
    _gelu_bug("Φ(x) left out", "missing-term", **_erf_with(share=False)),
    _gelu_bug("φ without 1/√(2π)", "missing-scale", **_erf_with(root=1.0)),
    _gelu_bug("φ with 1/√2", "wrong-coefficient", **_erf_with(root=math.sqrt(2))),
    _gelu_bug("exp(-x²) for exp(-x²/2)", "missing-half-square", **_erf_with(half=1.0)),
    _gelu_bug("quick GELU's", "wrong-activation", dtypes=("float16", *LONG), function=_quick),
    _gelu_bug("ReLU's", "wrong-activation", function=lambda x, cotangent, approximate: (x > 0) * cotangent),
    _gelu_bug(
        "cotangent ignored", "chain-rule", function=lambda x, cotangent, approximate: _of_gelu(x, 1, approximate)
    ),
    _gelu_bug("negated", "sign", function=lambda x, cotangent, approximate: -_of_gelu(x, cotangent, approximate)),
    _gelu_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_gelu)),
    _gelu_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_gelu)),
)


# --- layer normalization ----------------------------------------------------------------------------------------------------------


def _mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


def _over_rows(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1]).sum(0)


def _of_norm(
    x: Any,
    scale: Any,
    bias: Any,
    cotangent: Any,
    eps: float,
    *,
    ddof: int = 0,
    used: float | None = None,
    outside: bool = False,
    centre: Any = _mean,
    along: Any = _mean,
    late: bool = False,
    inverse: bool = True,
    saved: Any = None,
    rows: Any = _over_rows,
    parts: Any = None,
    product: Any = None,
) -> Any:
    centred = x - _mean(x)
    variance = (centred**2).sum(-1, keepdims=True) / (x.shape[-1] - ddof)
    eps = eps if used is None else used
    deviation = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
    z = saved(centred / deviation) if saved else centred / deviation
    g = cotangent if late else cotangent * scale
    x_bar = (g - centre(g) - z * along(g * z)) / (deviation if inverse else 1)
    found = (x_bar * scale if late else x_bar, rows(cotangent * (product(x, z) if product else z)), rows(cotangent))
    return joined(parts(*found) if parts else found)


def _nothing(x: Any) -> Any:
    return 0


_norm_bug = family("layer_norm.vjp", _of_norm)
_LAYER_NORM = (
    _norm_bug("mean of g left out: the mean is a constant", "gradient-dropped", centre=_nothing),
    _norm_bug("projection left out: the variance is a constant", "gradient-dropped", along=_nothing),
    _norm_bug("both left out", "missing-term", centre=_nothing, along=_nothing),
    _norm_bug("sums for means", "wrong-count", centre=_sum, along=_sum),
    _norm_bug("projection added", "sign", along=lambda gz: -_mean(gz)),
    _norm_bug("scale after, not before", "norm-placement", late=True),
    _norm_bug(
        "scale ignored",
        "parameter-ignored",
        function=lambda x, s, b, bar, eps: _of_norm(x, np.ones_like(s), b, bar, eps),
    ),
    _norm_bug("not divided by the deviation", "missing-scale", inverse=False),
    _norm_bug("unbiased variance", "biased-variance", dtypes=("float16", *LONG), ddof=1),
    _norm_bug("no eps", "wrong-eps", used=0.0),
    _norm_bug("eps 1e-6", "wrong-eps", used=1e-6),
    _norm_bug("eps after the root", "eps-outside-root", outside=True),
    _norm_bug("bias: mean over the rows", "wrong-count", parts=lambda x, s, b: (x, s, b / 3)),
    _norm_bug("scale and bias: the last row's alone", "not-summed", rows=lambda a: a.reshape(-1, a.shape[-1])[-1]),
    _norm_bug(
        "scale and bias: summed over one axis of two",
        "not-summed",
        rows=lambda a: a.sum(0) if a.ndim == 2 else a[0].sum(0),
    ),
    _norm_bug("scale: ȳ x, not normalised", "not-normalised", product=lambda x, z: x),
    _norm_bug("scale: ȳ (x - mean)", "chain-rule", product=lambda x, z: x - _mean(x)),
    _norm_bug("cotangents of scale and bias exchanged", "exchanged", parts=lambda x, s, b: (x, b, s)),
    _norm_bug("scale gets nothing", "gradient-dropped", parts=lambda x, s, b: (x, 0 * s, b)),
    _norm_bug("bias gets nothing", "gradient-dropped", parts=lambda x, s, b: (x, s, 0 * b)),
    _norm_bug("x gets ȳ · scale/√(σ² + ε) of the mean row", "wrong-axis", centre=lambda g: g.mean(0, keepdims=True)),
    _norm_bug("z kept in bfloat16", "low-precision", dtypes=LONG, saved=in_bfloat16),
    _norm_bug("means in bfloat16", "low-precision-accumulation", dtypes=LONG, along=lambda gz: in_bfloat16(_mean(gz))),
    _norm_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_norm)),
    _norm_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_norm)),
)


MUTANTS: tuple[Mutant, ...] = _SOFTMAX + _LOG_SOFTMAX + _LOGSUMEXP + _CROSS_ENTROPY + _GELU + _LAYER_NORM
TWINS: dict[str, Callable[..., Any]] = {
    "softmax.vjp": wide(_of_softmax),
    "log_softmax.vjp": wide(_of_log),
    "logsumexp.vjp": wide(_of_sum),
    "cross_entropy.vjp": wide(_of_loss),
    "gelu.vjp": wide(_of_gelu),
    "layer_norm.vjp": wide(_of_norm),
}
