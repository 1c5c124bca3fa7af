"""Mutants of mean pooling and of unit length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- the mean -----------------------------------------------------------------------------------------------------------------


def _masked(hidden: Any, mask: Any) -> Any:
    return np.where(mask[..., None], hidden, 0)


def _number(mask: Any) -> Any:
    return mask.sum(1)


def _up_to_the_last(mask: Any) -> Any:
    return mask.shape[1] - np.argmax(mask[:, ::-1], 1)


def _sum(x: Any) -> Any:
    return x.sum(1)


def _in_sequence(x: Any) -> Any:
    """A sum in bfloat16, term by term."""
    total = np.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        total = in_bfloat16(total + x[:, t])
    return total


def _mean(hidden: Any, mask: Any, *, taken: Any = _masked, count: Any = _number, total: Any = _sum) -> Any:
    return total(taken(hidden, mask)) / np.asarray(count(mask), hidden.dtype)[:, None]


def _is_padded(case: Case) -> bool:
    return not bool(case.arrays[1].all())


def _has_holes(case: Case) -> bool:
    return bool((_up_to_the_last(case.arrays[1]) != _number(case.arrays[1])).any())


def _first_real(hidden: Any, mask: Any) -> Any:
    return np.take_along_axis(hidden, np.argmax(mask, 1)[:, None, None], 1)[:, 0]


def _largest(hidden: Any, mask: Any) -> Any:
    return np.where(mask[..., None], hidden, -np.inf).max(1)


_of_mean = family("mean_pooling", _mean)
_MEAN = (
    _of_mean("padding counted", "wrong-count", seen=_is_padded, count=lambda mask: np.full(len(mask), mask.shape[1])),
    _of_mean("padding in the sum", "mask-ignored", seen=_is_padded, taken=lambda hidden, mask: hidden),
    _of_mean("no mask", "mask-ignored", seen=_is_padded, function=lambda hidden, mask: hidden.mean(1)),
    _of_mean("padding instead of tokens", "mask-inverted", taken=lambda hidden, mask: _masked(hidden, ~mask)),
    _of_mean(
        "multiplied with the mask plus a large negative number",
        "additive-mask",
        seen=_is_padded,
        taken=lambda hidden, mask: hidden - 1e4 * ~mask[..., None],
    ),
    _of_mean("count up to the last token", "wrong-count", seen=_has_holes, count=_up_to_the_last),
    _of_mean("one more counted", "off-by-one", count=lambda mask: _number(mask) + 1),
    _of_mean("the count not divided by", "not-normalised", count=lambda mask: np.ones(len(mask))),
    _of_mean("divided by √ of the count", "wrong-scale", count=lambda mask: np.sqrt(_number(mask))),
    _of_mean("1e-4 added to the count", "eps-in-denominator", dtypes=LONG, count=lambda mask: _number(mask) + 1e-4),
    _of_mean("first token", "parameter-ignored", function=lambda hidden, mask: hidden[:, 0]),
    _of_mean("first real token", "parameter-ignored", function=_first_real),
    _of_mean("largest instead of the mean", "wrong-activation", function=_largest),
    _of_mean(
        "over the width", "wrong-axis", function=lambda hidden, mask: np.resize(hidden.mean(-1), hidden[:, 0].shape)
    ),
    _of_mean("an axis kept", "wrong-shape", entire=wide(lambda hidden, mask: _mean(hidden, mask)[:, None])),
    _of_mean("summed in bfloat16", "low-precision-accumulation", dtypes=LONG, total=_in_sequence),
    _of_mean("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_mean)),
    _of_mean("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_mean)),
)


# --- unit length --------------------------------------------------------------------------------------------------------------


def _largest_magnitude(x: Any) -> Any:
    return np.abs(x).max(-1, keepdims=True)


def _squares(x: Any) -> Any:
    return (x * x).sum(-1, keepdims=True)


def _squares_in_bfloat16(x: Any) -> Any:
    total = np.zeros_like(x[..., :1])
    for j in range(x.shape[-1]):
        total = in_bfloat16(total + x[..., j : j + 1] ** 2)
    return total


def _unit(
    x: Any, *, scale: Any = _largest_magnitude, squares: Any = _squares, root: Any = np.sqrt, divisor: Any = None
) -> Any:
    scaled = x / scale(x)
    return scaled / (root(squares(scaled)) if divisor is None else divisor(scaled))


def _without_scale(x: Any) -> Any:
    return np.ones_like(x[..., :1])


def _is_tiny(case: Case) -> bool:
    return bool(np.abs(np.asarray(case.arrays[0], np.float64)).max(-1).min() < 1e-2)


_of_unit = family("unit_length", _unit)
_UNIT = (
    _of_unit(
        "length at least 1e-5",
        "wrong-eps",
        seen=_is_tiny,
        scale=_without_scale,
        divisor=lambda x: np.maximum(np.sqrt(_squares(x)), 1e-5),
        dtypes=LONG,
    ),
    _of_unit("eps 1e-4 under the root", "wrong-eps", scale=_without_scale, root=lambda s: np.sqrt(s + 1e-4)),
    _of_unit("eps 1e-4 beside the root", "eps-outside-root", scale=_without_scale, root=lambda s: np.sqrt(s) + 1e-4),
    _of_unit("sum of magnitudes", "wrong-scale", divisor=lambda x: np.abs(x).sum(-1, keepdims=True)),
    _of_unit("largest magnitude", "wrong-scale", divisor=_without_scale),
    _of_unit("mean square for the sum", "wrong-count", squares=lambda x: (x * x).mean(-1, keepdims=True)),
    _of_unit("not divided by the root", "missing-term", scale=_without_scale, root=lambda s: s),
    _of_unit("all rows together", "wrong-axis", scale=np.max, squares=lambda x: (x * x).sum()),
    _of_unit("the last element left out", "ragged-tail", squares=lambda x: _squares(x[..., : max(1, x.shape[-1] - 1)])),
    _of_unit("left as it is", "not-normalised", function=lambda x: x),
    _of_unit("the mean subtracted", "dialect", function=lambda x: _unit(x - x.mean(-1, keepdims=True) + 0 * x)),
    _of_unit(
        "squares of what was not scaled",
        "overflow",
        dtypes=("float16",),
        entire=lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
    ),
    _of_unit("squares summed in bfloat16", "low-precision-accumulation", dtypes=LONG, squares=_squares_in_bfloat16),
    _of_unit("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_unit)),
    _of_unit("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_unit)),
)

MUTANTS: tuple[Mutant, ...] = _MEAN + _UNIT
TWINS = {"mean_pooling": wide(_mean), "unit_length": wide(_unit)}
