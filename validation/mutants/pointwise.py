"""Mutants of GELU and of layer normalization."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- GELU ---------------------------------------------------------------------------------------------------------------------


def _tanh_form(
    x: Any, *, slope: float = math.sqrt(2 / math.pi), cubic: float = 0.044715, power: int = 3, tanh: Any = np.tanh
) -> Any:
    return x / 2 * (1 + tanh(slope * (x + cubic * x**power)))


def _erf_form(x: Any, *, root: float = math.sqrt(2), erf: Any = scipy.special.erf) -> Any:
    return x / 2 * (1 + erf(x / root))


def _gelu(x: Any, approximate: str, *, tanh_form: Any = _tanh_form, erf_form: Any = _erf_form) -> Any:
    return tanh_form(x) if approximate == "tanh" else erf_form(x)


def _tanh(case: Case) -> bool:
    return bool(case.params["approximate"] == "tanh")


def _exact(case: Case) -> bool:
    return bool(case.params["approximate"] == "none")


def _tanh_with(**constants: Any) -> dict[str, Any]:
    return {"seen": _tanh, "tanh_form": lambda x: _tanh_form(x, **constants)}


def _erf_with(**constants: Any) -> dict[str, Any]:
    return {"seen": _exact, "erf_form": lambda x: _erf_form(x, **constants)}


def _by_exponentials(x: Any) -> Any:
    """tanh as (exp(2x) - 1)/(exp(2x) + 1), which is inf/inf from 44 on in float32."""
    e = np.exp(2 * x)
    return (e - 1) / (e + 1)


def _five_terms(x: Any) -> Any:
    """Erf by the five-term rational fit of Abramowitz and Stegun, 7.1.26: within 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    fit = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - fit * np.exp(-x * x))


def _three_terms(x: Any) -> Any:
    """Erf by the three-term rational fit of Abramowitz and Stegun, 7.1.25: within 2.5e-5."""
    t = 1 / (1 + 0.47047 * np.abs(x))
    return np.sign(x) * (1 - t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * np.exp(-x * x))


_of_gelu = family("gelu", _gelu)
_GELU = (
    _of_gelu("tanh for erf", "tanh-for-erf", dtypes=LONG, seen=_exact, erf_form=_tanh_form),
    _of_gelu("erf for tanh", "erf-for-tanh", dtypes=LONG, seen=_tanh, tanh_form=_erf_form),
    _of_gelu(
        "quick: x/(1 + exp(-1.702 x))",
        "wrong-activation",
        dtypes=("float16", *LONG),
        function=lambda x, approximate: x / (1 + np.exp(-1.702 * x)),
    ),
    _of_gelu("SiLU", "wrong-activation", function=lambda x, approximate: x / (1 + np.exp(-x))),
    _of_gelu("ReLU", "wrong-activation", function=lambda x, approximate: np.maximum(x, 0)),
    _of_gelu("0.0447 for 0.044715", "truncated-constant", dtypes=LONG, **_tanh_with(cubic=0.0447)),
    _of_gelu("0.045 for 0.044715", "truncated-constant", dtypes=LONG, **_tanh_with(cubic=0.045)),
    _of_gelu("0.79788 for √(2/π)", "truncated-constant", dtypes=LONG, **_tanh_with(slope=0.79788)),
    _of_gelu("0.7978845608 for √(2/π)", "truncated-constant", dtypes=("float64",), **_tanh_with(slope=0.7978845608)),
    _of_gelu("1.4142 for √2", "truncated-constant", dtypes=LONG, **_erf_with(root=1.4142)),
    _of_gelu("√(2/π) left out", "missing-scale", **_tanh_with(slope=1.0)),
    _of_gelu("√2 left out", "missing-scale", **_erf_with(root=1.0)),
    _of_gelu("no cubic term", "missing-term", dtypes=("float16", *LONG), **_tanh_with(cubic=0.0)),
    _of_gelu("square for cube", "wrong-order", **_tanh_with(power=2)),
    _of_gelu("tanh by exponentials", "overflow", **_tanh_with(tanh=_by_exponentials)),
    _of_gelu("erf within 1.5e-7", "approximate-function", dtypes=("float64",), **_erf_with(erf=_five_terms)),
    _of_gelu("erf within 2.5e-5", "approximate-function", dtypes=LONG, **_erf_with(erf=_three_terms)),
    _of_gelu("twice as large", "wrong-coefficient", function=lambda x, approximate: 2 * _gelu(x, approximate)),
    _of_gelu(
        "constant of type float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_gelu)
    ),
    _of_gelu("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_gelu)),
)


# --- layer normalization --------------------------------------------------------------------------------------------------------


def _mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


def _variance(x: Any) -> Any:
    return _mean((x - _mean(x)) ** 2)


def _root(variance: Any, eps: float) -> Any:
    return np.sqrt(variance + eps)


def _affine(y: Any, scale: Any, bias: Any) -> Any:
    return y * scale + bias


def _layer_norm(
    x: Any,
    scale: Any,
    bias: Any,
    eps: float,
    *,
    mean: Any = _mean,
    variance: Any = _variance,
    root: Any = _root,
    affine: Any = _affine,
) -> Any:
    return affine((x - mean(x)) / root(variance(x), eps), scale, bias)


def _with_eps(used: float) -> Any:
    return lambda variance, eps: np.sqrt(variance + used)


def _fewer_bits(x: Any) -> Any:
    total = np.zeros_like(x[..., :1])
    for j in range(x.shape[-1]):
        total = in_bfloat16(total + x[..., j : j + 1])
    return total / x.shape[-1]


def _squares_in_float16(x: Any) -> Any:
    centred = (x - _mean(x)).astype(np.float16)
    total = np.zeros_like(centred[..., :1])
    for j in range(x.shape[-1]):
        total = total + centred[..., j : j + 1] ** 2
    return total.astype(x.dtype) / x.shape[-1]


def _twice(case: Case) -> bool:
    return bool(case.params["eps"] == 1e-12)


_of_norm = family("layer_norm", _layer_norm)
_LAYER_NORM = (
    _of_norm("eps outside the root", "eps-outside-root", root=lambda variance, eps: np.sqrt(variance) + eps),
    _of_norm("eps squared inside the root", "wrong-eps", root=lambda variance, eps: np.sqrt(variance + eps * eps)),
    _of_norm("no eps", "wrong-eps", root=lambda variance, eps: np.sqrt(variance)),
    _of_norm("eps 1e-6 throughout", "wrong-eps", root=_with_eps(1e-6)),
    _of_norm("eps 1e-12 throughout", "wrong-eps", root=_with_eps(1e-12), seen=lambda case: not _twice(case)),
    _of_norm("eps 1e-5 throughout", "wrong-eps", root=_with_eps(1e-5), seen=_twice),
    _of_norm("eps as a floor", "wrong-eps", root=lambda variance, eps: np.sqrt(np.maximum(variance, eps))),
    _of_norm(
        "variance divided by d - 1",
        "biased-variance",
        variance=lambda x: _variance(x) * x.shape[-1] / max(x.shape[-1] - 1, 1),
    ),
    _of_norm(
        "mean of squares minus square of the mean",
        "cancellation",
        dtypes=LONG,
        variance=lambda x: _mean(x * x) - _mean(x) ** 2,
    ),
    _of_norm("variance not centred", "missing-term", variance=lambda x: _mean(x * x)),
    _of_norm("RMSNorm", "missing-term", mean=lambda x: 0, variance=lambda x: _mean(x * x)),
    _of_norm("no bias", "missing-term", affine=lambda y, scale, bias: y * scale),
    _of_norm("no scale", "missing-term", affine=lambda y, scale, bias: y + bias),
    _of_norm("bias before scale", "exchanged", affine=lambda y, scale, bias: (y + bias) * scale),
    _of_norm("scale and bias exchanged", "exchanged", affine=lambda y, scale, bias: y * bias + scale),
    _of_norm("scale stored as scale - 1", "dialect", affine=lambda y, scale, bias: y * (1 + scale) + bias),
    _of_norm("divided by the variance", "wrong-order", root=lambda variance, eps: variance + eps),
    _of_norm(
        "down the columns",
        "wrong-axis",
        mean=lambda x: x.mean(0, keepdims=True),
        variance=lambda x: x.var(0, keepdims=True),
    ),
    _of_norm("one variance for all rows", "wrong-axis", variance=lambda x: np.mean((x - _mean(x)) ** 2)),
    _of_norm(
        "last element not in the mean", "off-by-one", mean=lambda x: x[..., :-1].sum(-1, keepdims=True) / x.shape[-1]
    ),
    _of_norm("mean in bfloat16", "low-precision-accumulation", dtypes=LONG, mean=_fewer_bits),
    _of_norm("squares summed in float16", "overflow", variance=_squares_in_float16),
    _of_norm("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_layer_norm)),
)

MUTANTS: tuple[Mutant, ...] = _GELU + _LAYER_NORM
TWINS = {"gelu": wide(_gelu), "layer_norm": wide(_layer_norm)}
