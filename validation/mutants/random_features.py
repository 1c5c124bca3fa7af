"""Mutants of the four random feature maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, tf32, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS", "half_square", "project", "read_flat", "scale"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def scale(x: Any) -> Any:
    """x d^-1/4."""
    return x / math.sqrt(math.sqrt(x.shape[-1]))


def project(x: Any, projection: Any) -> Any:
    """W x for every row."""
    return x @ projection.T


def read_flat(x: Any, projection: Any) -> Any:
    """The projection (m, d), read as if it lay in memory as (d, m)."""
    return x @ projection.reshape(projection.shape[::-1])


def half_square(x: Any, given: Any) -> Any:
    """|x|²/2 of the scaled rows; `given` are the rows before they were scaled."""
    return (x * x).sum(-1, keepdims=True) / 2


def _unscaled_half_square(x: Any, given: Any) -> Any:
    return half_square(given, given)


def _full_square(x: Any, given: Any) -> Any:
    return 2 * half_square(x, given)


def _no_square(x: Any, given: Any) -> Any:
    return np.zeros_like(x[..., :1])


_AXES = {"row": (-1,), "head": (-2, -1), "norm": (-2, -1)}


def _largest(of: Any, shift: str) -> Any:
    return 0 if shift == "none" else of.max(_AXES[shift], keepdims=True)


def _of_columns(of: Any, shift: str) -> Any:
    """The maximum over the length, each feature by itself."""
    return 0 if shift == "none" else of.max(-2, keepdims=True)


def _of_the_other(of: Any, shift: str) -> Any:
    return _largest(of, {"row": "head", "head": "row", "norm": "row"}.get(shift, shift))


def _of_everything(of: Any, shift: str) -> Any:
    return 0 if shift == "none" else of.max()


def _none(of: Any, shift: str) -> Any:
    return 0


def _root(m: int) -> float:
    return math.sqrt(m)


def _unit_rows(x: Any, projection: Any) -> Any:
    return project(x, projection / np.linalg.norm(projection, axis=-1, keepdims=True))


def _is_scaled(case: Case) -> bool:
    return bool(case.params["scaled"])


def _is_shifted(case: Case) -> bool:
    return bool(case.params["shift"] != "none")


def _has_epsilon(case: Case) -> bool:
    return bool(case.params["epsilon"] > 0)


def _is_normalised(case: Case) -> bool:
    return bool(case.params["normalized"])


def _shared(of: Callable[..., Mutant], *, precise: tuple[str, ...] = LONG) -> tuple[Mutant, ...]:
    """What can go wrong with any map."""
    return (
        of("x not scaled", "missing-scale", seen=_is_scaled, scaling=lambda x: x),
        of("d^-1/2 for d^-1/4", "wrong-scale", seen=_is_scaled, scaling=lambda x: x / math.sqrt(x.shape[-1])),
        of("projection read transposed", "transposed", seen=lambda case: len(case.arrays[1]) > 1, projected=read_flat),
        of("projection's rows of length 1", "wrong-scale", projected=_unit_rows),
        of("TF32 projection", "low-precision", dtypes=precise, projected=lambda x, w: project(tf32(x), tf32(w))),
    )


def _exponential(of: Callable[..., Mutant]) -> tuple[Mutant, ...]:
    """What can go wrong with maps that have the factor exp(±|x|²/2)."""
    return (
        of("no |x|²/2", "missing-half-square", half=_no_square),
        of("|x|² for |x|²/2", "missing-half-square", half=_full_square),
        of("|x|²/2 before scaling", "missing-half-square", seen=_is_scaled, half=_unscaled_half_square),
        of("exponent of the other sign", "sign", half=lambda x, given: -half_square(x, given)),
        of("maximum not subtracted", "wrong-shift", seen=_is_shifted, largest=_none),
        of("maximum of all heads", "wrong-shift", dtypes=("float16", *LONG), seen=_is_shifted, largest=_of_everything),
        of("not divided by √m", "missing-feature-count", seen=_is_normalised, root=lambda m: 1.0),
        of("1/m for 1/√m", "missing-feature-count", seen=_is_normalised, root=float),
    )


# --- positive -------------------------------------------------------------------------------------------------------------------


def _after_exp(e: Any, epsilon: float, root: float) -> Any:
    return (e + epsilon) / root


def _positive(
    x: Any,
    projection: Any,
    scaled: bool,
    shift: str,
    epsilon: float,
    normalized: bool,
    *,
    scaling: Any = scale,
    projected: Any = project,
    half: Any = half_square,
    largest: Any = _largest,
    finish: Any = _after_exp,
    root: Any = _root,
) -> Any:
    small = scaling(x) if scaled else x
    u = projected(small, projection)
    e = np.exp(u - half(small, x) - largest(u, shift))
    return finish(e, epsilon, root(len(projection)) if normalized else 1.0)


def _shifted_whole(x: Any, projection: Any, scaled: bool, shift: str, epsilon: float, normalized: bool) -> Any:
    """The maximum of the whole exponent, where that of W x is meant."""
    small = scale(x) if scaled else x
    exponent = project(small, projection) - half_square(small, x)
    return _after_exp(np.exp(exponent - _largest(exponent, shift)), epsilon, _root(len(projection)))


def _other_epsilon(case: Case) -> bool:
    return bool(case.params["epsilon"] == 1e-6)


_of_positive = family("positive_features", _positive)
_POSITIVE = (
    *_shared(_of_positive),
    *_exponential(_of_positive),
    _of_positive("maximum over the other axes", "wrong-axis", seen=_is_shifted, largest=_of_the_other),
    _of_positive("maximum over the length only", "wrong-axis", seen=_is_shifted, largest=_of_columns),
    _of_positive("maximum of the whole exponent", "wrong-shift", seen=_is_shifted, function=_shifted_whole),
    _of_positive("no epsilon", "wrong-eps", seen=_has_epsilon, finish=lambda e, epsilon, root: e / root),
    _of_positive(
        "epsilon 1e-4 throughout",
        "wrong-eps",
        finish=lambda e, epsilon, root: (e + 1e-4) / root,
        seen=lambda case: case.params["epsilon"] != 1e-4,
    ),
    _of_positive(
        "epsilon after 1/√m",
        "eps-outside-bracket",
        seen=_has_epsilon,
        finish=lambda e, epsilon, root: e / root + epsilon,
    ),
    _of_positive(
        "epsilon in the exponent",
        "eps-outside-bracket",
        seen=_has_epsilon,
        finish=lambda e, epsilon, root: e * math.exp(epsilon) / root,
    ),
    _of_positive("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_positive)),
)


# --- trigonometric ----------------------------------------------------------------------------------------------------------------


def _sines_first(u: Any) -> Any:
    return np.concatenate([np.sin(u), np.cos(u)], axis=-1)


def _trigonometric(
    x: Any,
    projection: Any,
    scaled: bool,
    shift: str,
    normalized: bool,
    *,
    scaling: Any = scale,
    projected: Any = project,
    half: Any = half_square,
    largest: Any = _largest,
    waves: Any = _sines_first,
    root: Any = _root,
) -> Any:
    small = scaling(x) if scaled else x
    h = half(small, x)
    e = np.exp(h - largest(h, shift)) * waves(projected(small, projection))
    return e / (root(len(projection)) if normalized else 1.0)


def _alternating(u: Any) -> Any:
    return np.stack([np.sin(u), np.cos(u)], axis=-1).reshape(*u.shape[:-1], -1)


_of_trigonometric = family("trigonometric_features", _trigonometric)
_TRIGONOMETRIC = (
    *_shared(_of_trigonometric),
    *_exponential(_of_trigonometric),
    _of_trigonometric("cosines first", "exchanged", waves=lambda u: np.concatenate([np.cos(u), np.sin(u)], axis=-1)),
    _of_trigonometric(
        "sines and cosines alternating", "interleaving", seen=lambda case: len(case.arrays[1]) > 1, waves=_alternating
    ),
    _of_trigonometric("sines twice", "missing-term", waves=lambda u: np.concatenate([np.sin(u), np.sin(u)], axis=-1)),
    _of_trigonometric("1/√2m for 1/√m", "missing-feature-count", root=lambda m: math.sqrt(2 * m)),
    _of_trigonometric("the row's own maximum", "wrong-axis", seen=_is_shifted, largest=_of_the_other),
    _of_trigonometric("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_trigonometric)),
)


# --- hyperbolic -------------------------------------------------------------------------------------------------------------------


def _both_signs(u: Any) -> Any:
    return np.concatenate([u, -u], axis=-1)


def _measure(small: Any, u: Any, shift: str) -> Any:
    return (small * small).sum(-1, keepdims=True) if shift == "norm" else np.abs(u)


def _root_of_both(m: int) -> float:
    return math.sqrt(2 * m)


def _hyperbolic(
    x: Any,
    projection: Any,
    scaled: bool,
    shift: str,
    normalized: bool,
    *,
    scaling: Any = scale,
    projected: Any = project,
    half: Any = half_square,
    measure: Any = _measure,
    largest: Any = _largest,
    signs: Any = _both_signs,
    root: Any = _root_of_both,
) -> Any:
    small = scaling(x) if scaled else x
    u = projected(small, projection)
    e = np.exp(signs(u) - half(small, x) - largest(measure(small, u, shift), shift))
    return e / (root(len(projection)) if normalized else 1.0)


_of_hyperbolic = family("hyperbolic_features", _hyperbolic)
_HYPERBOLIC = (
    *_shared(_of_hyperbolic),
    *_exponential(_of_hyperbolic),
    _of_hyperbolic("1/√m for 1/√2m", "missing-feature-count", root=_root),
    _of_hyperbolic("negative half first", "exchanged", signs=lambda u: np.concatenate([-u, u], axis=-1)),
    _of_hyperbolic("both halves positive", "sign", signs=lambda u: np.concatenate([u, u], axis=-1)),
    _of_hyperbolic(
        "signs alternating",
        "interleaving",
        seen=lambda case: len(case.arrays[1]) > 1,
        signs=lambda u: np.stack([u, -u], axis=-1).reshape(*u.shape[:-1], -1),
    ),
    _of_hyperbolic(
        "maximum of |x|²/2", "wrong-shift", seen=_is_shifted, measure=lambda small, u, shift: half_square(small, small)
    ),
    _of_hyperbolic("maximum of |W x|", "wrong-shift", seen=_is_shifted, measure=lambda small, u, shift: np.abs(u)),
    _of_hyperbolic("each row its own maximum", "wrong-axis", seen=_is_shifted, largest=_of_the_other),
    _of_hyperbolic("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_hyperbolic)),
)


# --- rectified --------------------------------------------------------------------------------------------------------------------


def _relu(u: Any) -> Any:
    return np.maximum(u, 0)


def _rectified_features(
    x: Any,
    projection: Any,
    scaled: bool,
    epsilon: float,
    normalized: bool | str,
    *,
    scaling: Any = scale,
    projected: Any = project,
    rectified: Any = _relu,
    root: Any = _root,
    small: float | None = None,
) -> Any:
    u = projected(scaling(x) if scaled else x, projection)
    by, epsilon = root(len(projection)), epsilon if small is None else small
    if normalized == "inside":
        return rectified(u / by) + epsilon
    return (rectified(u) + epsilon) / (by if normalized else 1.0)


def _with_normalized(value: bool | str) -> Callable[..., Any]:
    def function(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: bool | str) -> Any:
        return _rectified_features(x, projection, scaled, epsilon, value)

    return function


def _inside_divided(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: bool | str) -> Any:
    """(relu(u) + ε)/√m where relu(u/√m) + ε is meant."""
    return _rectified_features(x, projection, scaled, epsilon, True if normalized == "inside" else normalized)


def _always_inside(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: bool | str) -> Any:
    """relu(u/√m) + ε where (relu(u) + ε)/√m is meant."""
    return _rectified_features(x, projection, scaled, epsilon, "inside" if normalized is True else normalized)


def _before_relu(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: bool | str) -> Any:
    return _rectified_features(x, projection, scaled, 0.0, normalized, rectified=lambda u: np.maximum(u + epsilon, 0))


def _is_not(value: bool | str) -> Callable[[Case], bool]:
    return lambda case: case.params["normalized"] != value and len(case.arrays[1]) > 1


_of_relu = family("relu_features", _rectified_features)
_RELU = (
    *_shared(_of_relu),
    _of_relu("no epsilon", "wrong-eps", small=0.0),
    _of_relu("epsilon 1e-6", "wrong-eps", small=1e-6),
    _of_relu("epsilon before relu", "eps-outside-bracket", dtypes=("float16", *LONG), function=_before_relu),
    _of_relu(
        "epsilon after 1/√m",
        "eps-outside-bracket",
        seen=lambda case: case.params["normalized"] is True and len(case.arrays[1]) > 1,
        function=_always_inside,
    ),
    _of_relu(
        "epsilon divided by √m too",
        "eps-outside-bracket",
        seen=lambda case: case.params["normalized"] == "inside" and len(case.arrays[1]) > 1,
        function=_inside_divided,
    ),
    _of_relu("not divided by √m", "missing-feature-count", seen=_is_normalised, function=_with_normalized(False)),
    _of_relu("always divided by √m", "parameter-ignored", seen=_is_not(True), function=_with_normalized(True)),
    _of_relu("1/m for 1/√m", "missing-feature-count", seen=_is_normalised, root=float),
    _of_relu("leaky", "wrong-activation", dtypes=("float16", *LONG), rectified=lambda u: np.maximum(u, 0.01 * u)),
    _of_relu("ELU + 1", "wrong-activation", rectified=lambda u: np.where(u > 0, u + 1, np.exp(np.minimum(u, 0)))),
    _of_relu("GELU", "wrong-activation", rectified=lambda u: u * scipy.special.ndtr(u)),
    _of_relu("absolute value", "wrong-activation", rectified=np.abs),
    _of_relu("squares", "wrong-order", rectified=lambda u: np.maximum(u, 0) ** 2),
    _of_relu("features in bfloat16", "low-precision", dtypes=LONG, rectified=lambda u: in_bfloat16(_relu(u))),
    _of_relu("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_rectified_features)),
)

MUTANTS: tuple[Mutant, ...] = _POSITIVE + _TRIGONOMETRIC + _HYPERBOLIC + _RELU
TWINS = {
    "positive_features": wide(_positive),
    "trigonometric_features": wide(_trigonometric),
    "hyperbolic_features": wide(_hyperbolic),
    "relu_features": wide(_rectified_features),
}
