"""Mutants of softmax, log-softmax and log-sum-exp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTANTS", "TWINS"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _maximum(x: Any, axis: int) -> Any:
    return x.max(axis, keepdims=True)


def _nothing(x: Any, axis: int) -> Any:
    return 0


def _sum(e: Any, axis: int) -> Any:
    return e.sum(axis, keepdims=True)


def _all_but_last(e: Any, axis: int) -> Any:
    return e[..., :-1].sum(axis, keepdims=True)


def _bfloat16_sum(e: Any, axis: int) -> Any:
    total = np.zeros_like(e[..., :1])
    for j in range(e.shape[-1]):
        total = in_bfloat16(total + e[..., j : j + 1])
    return total


def _float32_sum(e: Any, axis: int) -> Any:
    return e.astype(np.float32).sum(axis, keepdims=True).astype(e.dtype)


def _plus(small: float) -> Callable[[Any, int], Any]:
    return lambda e, axis: e.sum(axis, keepdims=True) + small


# --- softmax ------------------------------------------------------------------------------------------------------------------


def _softmax(x: Any, *, shift: Any = _maximum, exp: Any = np.exp, total: Any = _sum, axis: int = -1) -> Any:
    e = exp(x - shift(x, axis))
    return e / total(e, axis)


def _not_rescaled(x: Any, block: int = 4) -> Any:
    """The online form, in which the sum so far should be multiplied by exp(old maximum - new maximum)."""
    highest, total = np.full_like(x[..., :1], -np.inf), np.zeros_like(x[..., :1])
    for start in range(0, x.shape[-1], block):
        part = x[..., start : start + block]
        highest = np.maximum(highest, part.max(-1, keepdims=True))
        total = total + np.exp(part - highest).sum(-1, keepdims=True)
    return np.exp(x - highest) / total


def _whole_blocks(x: Any, block: int = 4) -> Any:
    done = x.shape[-1] // block * block
    e = np.exp(x - x.max(-1, keepdims=True))
    e[..., done:] = 0
    return e / e.sum(-1, keepdims=True)


_of_softmax = family("softmax", _softmax)
_SOFTMAX = (
    _of_softmax("un-shifted", "unshifted-exp", shift=_nothing),
    _of_softmax("the maximum of all rows subtracted", "wrong-shift", shift=lambda x, axis: x.max()),
    _of_softmax(
        "the row's mean subtracted",
        "wrong-shift",
        dtypes=("float16", *LONG),
        shift=lambda x, axis: x.mean(axis, keepdims=True),
    ),
    _of_softmax("the row's sum subtracted", "wrong-shift", shift=lambda x, axis: x.sum(axis, keepdims=True)),
    _of_softmax("clipped to ±50", "clipped", shift=_nothing, exp=lambda x: np.exp(np.clip(x, -50, 50))),
    _of_softmax("down the columns", "wrong-axis", axis=0),
    _of_softmax("over everything", "wrong-axis", total=lambda e, axis: e.sum()),
    _of_softmax("not divided by the sum", "not-normalised", total=lambda e, axis: 1),
    _of_softmax("denominator + 1e-6", "eps-in-denominator", dtypes=LONG, total=_plus(1e-6)),
    _of_softmax("powers of two", "wrong-base", exp=np.exp2),
    _of_softmax("last element not in the sum", "off-by-one", total=_all_but_last),
    _of_softmax("online, not rescaled", "not-rescaled", function=_not_rescaled),
    _of_softmax("whole blocks of four only", "ragged-tail", function=_whole_blocks),
    _of_softmax("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_bfloat16_sum),
    _of_softmax("sums in float32", "low-precision-accumulation", dtypes=("float64",), total=_float32_sum),
    _of_softmax("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_softmax)),
    _of_softmax("answers float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_softmax)),
)


# --- log-softmax --------------------------------------------------------------------------------------------------------------


def _log_softmax(x: Any, *, shift: Any = _maximum, total: Any = _sum, log: Any = np.log, axis: int = -1) -> Any:
    shifted = x - shift(x, axis)
    return shifted - log(total(np.exp(shifted), axis))


_of_log = family("log_softmax", _log_softmax)
_LOG_SOFTMAX = (
    _of_log("logarithm of softmax", "log-of-softmax", function=lambda x: np.log(_softmax(x))),
    _of_log("logarithm of softmax + 1e-9", "log-of-softmax", function=lambda x: np.log(_softmax(x) + 1e-9)),
    _of_log("un-shifted", "unshifted-exp", shift=_nothing),
    _of_log("the maximum of all rows subtracted", "wrong-shift", shift=lambda x, axis: x.max()),
    _of_log(
        "maximum not subtracted from x",
        "missing-term",
        function=lambda x: x - np.log(_sum(np.exp(x - _maximum(x, -1)), -1)),
    ),
    _of_log("down the columns", "wrong-axis", axis=0),
    _of_log("binary logarithm", "wrong-base", log=np.log2),
    _of_log("last element not in the sum", "off-by-one", total=_all_but_last),
    _of_log("negated", "sign", function=lambda x: -_log_softmax(x)),
    _of_log("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_bfloat16_sum),
    _of_log("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_log_softmax)),
)


# --- log-sum-exp --------------------------------------------------------------------------------------------------------------


def _logsumexp(x: Any, *, shift: Any = _maximum, total: Any = _sum, log: Any = np.log, back: bool = True) -> Any:
    c = shift(x, -1)
    result = log(total(np.exp(x - c), -1)) + (c if back else 0)
    return result[..., 0]


_of_sum = family("logsumexp", _logsumexp)
_LOGSUMEXP = (
    _of_sum("un-shifted", "unshifted-exp", shift=_nothing),
    _of_sum("the maximum of all rows subtracted", "wrong-shift", shift=lambda x, axis: x.max()),
    _of_sum("the smallest entry subtracted", "wrong-shift", shift=lambda x, axis: x.min(axis, keepdims=True)),
    _of_sum("the maximum alone", "missing-term", function=lambda x: x.max(-1)),
    _of_sum("maximum not added back", "missing-term", back=False),
    _of_sum("logarithm of the mean", "wrong-count", total=lambda e, axis: e.mean(axis, keepdims=True)),
    _of_sum("the maximum counted twice", "off-by-one", log=np.log1p),
    _of_sum("last element not in the sum", "off-by-one", total=_all_but_last),
    _of_sum("binary logarithm", "wrong-base", log=np.log2),
    _of_sum("keeps the axis", "wrong-shape", function=lambda x: _logsumexp(x)[..., None]),
    _of_sum("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_bfloat16_sum),
    _of_sum("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_logsumexp)),
)

MUTANTS: tuple[Mutant, ...] = _SOFTMAX + _LOG_SOFTMAX + _LOGSUMEXP
TWINS = {"softmax": wide(_softmax), "log_softmax": wide(_log_softmax), "logsumexp": wide(_logsumexp)}
