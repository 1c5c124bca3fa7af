"""Mutants of FAVOR+ attention: the explicit form, whose n x m weights are products of features, in each dialect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, tf32, wide
from validation.mutants.random_features import half_square, project, read_flat, scale

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


@dataclass(frozen=True)
class Form:
    """What a dialect's "softmax" kernel subtracts from exponents, and where its epsilons are."""

    hyperbolic: bool = False
    query_axes: tuple[int, ...] | None = (-1,)  # of the maximum that is subtracted; None: nothing is
    key_axes: tuple[int, ...] | None = (-2, -1)
    whole: bool = False  # the maximum of W x - |x|²/2, not of W x
    epsilon: float = 0.0  # added to exponentials
    guard: str = "none"  # what is done to the denominator
    causal_guard: str = "none"


_FORMS = {
    "paper": Form(whole=True),
    "performer-pytorch": Form(epsilon=1e-4, causal_guard="keys"),
    "google-jax": Form(epsilon=1e-6, guard="small", causal_guard="small"),
    "google-tf": Form(epsilon=1e-6),
    "fast-transformers": Form(hyperbolic=True, query_axes=None, key_axes=None, guard="added", causal_guard="added"),
    "tf-models": Form(query_axes=(-3, -2, -1), key_axes=(-3, -2, -1), guard="added", causal_guard="added"),
}


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _form(dialect: str) -> Form:
    return _FORMS[dialect]


def _largest(of: Any, axes: tuple[int, ...] | None, mask: Any) -> Any:
    if axes is None:
        return 0
    return (of if mask is None else np.where(mask[..., None], of, -np.inf)).max(axes, keepdims=True)


def _after_exp(e: Any, epsilon: float, m: int) -> Any:
    return (e + epsilon) / math.sqrt(m)


def _at_or_before(n: int, m: int) -> Any:
    return np.tril(np.ones((n, m), bool), m - n)


def _visible_sum(weights: Any, everything: Any) -> Any:
    return weights.sum(-1, keepdims=True)


def _guarded(total: Any, rule: str, features: Any, epsilon: float = 1e-6) -> Any:
    if rule == "added":
        return total + epsilon
    if rule == "small":
        return np.where(np.abs(total) <= epsilon, total + 2 * epsilon, total)
    return total + epsilon * features.sum(-1, keepdims=True) if rule == "keys" else total


def _favor(
    q: Any,
    k: Any,
    v: Any,
    projection: Any,
    mask: Any,
    causal: bool,
    dialect: str,
    *,
    form: Callable[[str], Form] = _form,
    query_scale: Any = scale,
    key_scale: Any = scale,
    projected: Any = project,
    half: Any = half_square,
    largest: Any = _largest,
    finish: Any = _after_exp,
    triangle: Any = _at_or_before,
    allowed: Any = lambda mask: mask,
    products: Any = lambda f, g: f @ np.swapaxes(g, -1, -2),
    total: Any = _visible_sum,
    guard: Any = _guarded,
) -> Any:
    used, mask = form(dialect), None if mask is None else allowed(mask)

    def features(x: Any, scaling: Any, axes: Any, keys: Any) -> Any:
        small = scaling(x)
        u, h = projected(small, projection), half(small, x)
        if used.hyperbolic:
            return finish(np.exp(np.concatenate([u, -u], axis=-1) - h), used.epsilon, 2 * len(projection))
        return finish(np.exp(u - h - largest(u - h if used.whole else u, axes, keys)), used.epsilon, len(projection))

    f = features(q, query_scale, used.query_axes, None)
    g = features(k if mask is None else np.where(mask[..., None], k, 0), key_scale, used.key_axes, mask)
    everything = products(f, g)
    if mask is not None:
        everything = np.where(mask[..., None, :], everything, 0)
    weights = np.where(triangle(q.shape[-2], k.shape[-2]), everything, 0) if causal else everything
    denominator = guard(total(weights, everything), used.causal_guard if causal else used.guard, f)
    return weights @ v / denominator


def _zero_keys_counted(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str) -> Any:
    """Masked keys and values set to 0 before the features, which are 1 and not 0 there."""
    if mask is not None:
        k, v = np.where(mask[..., None], k, 0), np.where(mask[..., None], v, 0)
    return _favor(q, k, v, projection, None, causal, dialect)


def _exact_softmax(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str) -> Any:
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    seen = np.ones(scores.shape, bool) if mask is None else np.broadcast_to(mask[..., None, :], scores.shape)
    seen = seen & _at_or_before(*scores.shape[-2:]) if causal else seen
    hidden = np.where(seen, scores, -np.inf)
    e = np.exp(hidden - hidden.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


def _relu_kernel(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str) -> Any:
    f, g = (np.maximum(project(x, projection), 0) + 1e-3 for x in (q, k))
    weights = f @ np.swapaxes(g, -1, -2)
    weights = weights if mask is None else np.where(mask[..., None, :], weights, 0)
    weights = np.where(_at_or_before(*weights.shape[-2:]), weights, 0) if causal else weights
    return weights @ v / weights.sum(-1, keepdims=True)


# --- where a mutant differs at all ------------------------------------------------------------------------------------------------


def _form_of(case: Case) -> Form:
    return _FORMS[case.params["dialect"]]


def _guard_of(case: Case) -> str:
    return _form_of(case).causal_guard if case.params["causal"] else _form_of(case).guard


def _is_causal(case: Case) -> bool:
    return bool(case.params["causal"])


def _is_masked(case: Case) -> bool:
    return case.params["mask"] is not None


def _has_epsilon(case: Case) -> bool:
    return _form_of(case).epsilon > 0


def _is_positive(case: Case) -> bool:
    return not _form_of(case).hyperbolic


def _weighs_size(case: Case) -> bool:
    """Whether a common factor of all features shows: where something is added to them or to the denominator."""
    return _guard_of(case) != "none" or _has_epsilon(case)


def _triangle(offset: int) -> Any:
    return lambda n, m: np.tril(np.ones((n, m), bool), m - n + offset)


def _directions(x: Any, projection: Any) -> Any:
    return project(x, projection / np.linalg.norm(projection, axis=-1, keepdims=True))


def _always(dialect: str) -> Any:
    return lambda given: _FORMS[dialect]


_of = family("favor_attention", _favor)
_DIALECTS = tuple(
    _of(
        f"{dialect} throughout",
        "dialect",
        seen=lambda case, dialect=dialect: case.params["dialect"] != dialect,
        form=_always(dialect),
    )
    for dialect in _FORMS
)
_SCALES = (
    _of("missing d^-1/4", "missing-scale", query_scale=lambda x: x, key_scale=lambda x: x),
    _of("queries only scaled", "missing-scale", key_scale=lambda x: x),
    _of(
        "d^-1/2 for d^-1/4",
        "wrong-scale",
        query_scale=lambda x: x / math.sqrt(x.shape[-1]),
        key_scale=lambda x: x / math.sqrt(x.shape[-1]),
    ),
    _of("projection's rows of length 1", "wrong-scale", projected=_directions),
    _of("projection read transposed", "transposed", projected=read_flat),
    _of("no |x|²/2", "missing-half-square", half=lambda x, given: np.zeros_like(x[..., :1])),
    _of("|x|² for |x|²/2", "missing-half-square", half=lambda x, given: 2 * half_square(x, given)),
    _of("|x|²/2 before scaling", "missing-half-square", half=lambda x, given: half_square(given, given)),
)
_MASKS = (
    _of("no mask", "mask-ignored", seen=_is_masked, allowed=np.ones_like),
    _of(
        "masked keys set to 0 but counted",
        "mask-ignored",
        dtypes=("float16", *LONG),
        seen=_is_masked,
        function=_zero_keys_counted,
    ),
    _of("true hides", "mask-inverted", seen=_is_masked, allowed=np.logical_not),
    _of("one key too many", "mask-off-by-one", seen=_is_masked, allowed=lambda mask: mask | np.roll(mask, 1, axis=-1)),
    _of("sees the next key", "future-leak", seen=_is_causal, triangle=_triangle(1)),
    _of("not causal", "mask-ignored", seen=_is_causal, triangle=lambda n, m: np.ones((n, m), bool)),
    _of(
        "denominator over all keys",
        "future-leak",
        seen=_is_causal,
        total=lambda weights, everything: everything.sum(-1, keepdims=True),
    ),
    _of("prefix sum without the query's own key", "off-by-one", seen=_is_causal, triangle=_triangle(-1)),
    _of(
        "aligned to the first key",
        "mask-alignment",
        seen=lambda case: _is_causal(case) and case.arrays[0].shape[-2] < case.arrays[1].shape[-2],
        triangle=lambda n, m: np.tril(np.ones((n, m), bool)),
    ),
)
_EPSILONS = (
    _of(
        "each key its own maximum",
        "wrong-shift",
        seen=_is_positive,
        largest=lambda of, axes, mask: _largest(of, axes and (-1,), None),
    ),
    _of(
        "maximum of all heads",
        "wrong-shift",
        dtypes=LONG,
        seen=lambda case: _is_positive(case) and _weighs_size(case),
        largest=lambda of, axes, mask: _largest(of, axes and (-4, -3, -2, -1), mask),
    ),
    _of(
        "no epsilon on features",
        "wrong-eps",
        dtypes=("float16", *LONG),
        seen=_has_epsilon,
        finish=lambda e, epsilon, m: e / math.sqrt(m),
    ),
    _of(
        "epsilon after 1/√m",
        "eps-outside-bracket",
        dtypes=LONG,
        seen=_has_epsilon,
        finish=lambda e, epsilon, m: e / math.sqrt(m) + epsilon,
    ),
    _of(
        "epsilon 1e-3 on features",
        "wrong-eps",
        dtypes=("float16", *LONG),
        finish=lambda e, epsilon, m: (e + 1e-3) / math.sqrt(m),
    ),
    _of(
        "features not divided by √m",
        "missing-feature-count",
        dtypes=LONG,
        seen=lambda case: _guard_of(case) != "none",
        finish=lambda e, epsilon, m: e + epsilon,
    ),
    _of(
        "no epsilon in the denominator",
        "eps-in-denominator",
        dtypes=("float16", *LONG),
        seen=lambda case: _guard_of(case) != "none",
        guard=lambda total, rule, features: total,
    ),
    _of(
        "denominator + 1e-3",
        "eps-in-denominator",
        dtypes=("float16", *LONG),
        guard=lambda total, rule, features: total + 1e-3,
    ),
    _of("not divided", "not-normalised", guard=lambda total, rule, features: 1),
)
_FAVOR = (
    *_DIALECTS,
    *_SCALES,
    *_MASKS,
    *_EPSILONS,
    _of("softmax itself", "approximate-function", function=_exact_softmax),
    _of("relu features", "wrong-activation", function=_relu_kernel),
    _of(
        "products in bfloat16",
        "low-precision",
        dtypes=LONG,
        products=lambda f, g: in_bfloat16(f @ np.swapaxes(g, -1, -2)),
    ),
    _of("TF32 projection", "low-precision", dtypes=LONG, projected=lambda x, w: project(tf32(x), tf32(w))),
    _of("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_favor)),
)

MUTANTS: tuple[Mutant, ...] = _FAVOR
TWINS = {"favor_attention": wide(_favor)}
