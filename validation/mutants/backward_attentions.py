"""Mutants of the backward passes of attention: plain, with residual scores, with relative positions, by Taylor polynomials, and FAVOR+."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.backwards import joined
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["FINER", "MUTANTS", "NARROW", "TWINS", "Features"]

NARROW = ("float16", "bfloat16", "float32")
FINER = ("float16", *LONG)


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _swap(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _weights(scores: Any, mask: Any, *, shift: bool = True) -> Any:
    hidden = scores if mask is None else np.where(mask, scores, -np.inf)
    highest = hidden.max(-1, keepdims=True)
    e = np.exp(hidden - np.where(highest == -np.inf, 0, highest)) if shift else np.exp(hidden)
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _uniform_for_nothing(scores: Any, mask: Any) -> Any:
    p = _weights(scores, mask)
    return p if mask is None else np.where(mask.any(-1, keepdims=True), p, 1 / scores.shape[-1])


def _later(mask: Any) -> Any:
    """A key more for every query."""
    return mask | np.concatenate([mask[..., :1], mask[..., :-1]], axis=-1)


def _inner(p: Any, p_bar: Any) -> Any:
    return (p * p_bar).sum(-1, keepdims=True)


def _root(q: Any) -> float:
    return math.sqrt(q.shape[-1])


def _one(q: Any) -> float:
    return 1.0


def _width(q: Any) -> float:
    return float(q.shape[-1])


def _swapped_if_square(x: Any) -> Any:
    return x if x.shape[-1] == x.shape[-2] else _swap(x)


def _bfloat16_product(a: Any, b: Any) -> Any:
    """The product, its sums kept in bfloat16."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    for j in range(a.shape[-1]):
        total = in_bfloat16(total + a[..., j : j + 1] * b[..., j : j + 1, :])
    return total


def _of_attention(
    q: Any,
    k: Any,
    v: Any,
    cotangent: Any,
    mask: Any,
    *,
    previous: Any = None,
    relative: Any = None,
    mean_over: int = 1,
    forward: Any = _weights,
    hide: Any = None,
    centre: Any = _inner,
    of_weights: Any = None,
    q_root: Any = _root,
    k_root: Any = _root,
    across: Any = _swap,
    across_values: Any = _swap,
    product: Any = np.matmul,
    saved: Any = None,
    divided: bool = True,
    finish: Any = None,
    values: bool = True,
    keys: bool = True,
    heads: Any = None,
) -> Any:
    scores = q @ _swap(k)
    if relative is not None:
        scores = scores + (q[..., :, None, :] * relative).sum(-1)
    scores = scores / _root(q)
    scores = (scores if previous is None else scores + previous) / mean_over
    used = mask if mask is None or hide is None else hide(mask)
    p = forward(scores, used)
    p = saved(p) if saved else p
    p_bar = cotangent @ _swap(v)
    if relative is not None and values:
        p_bar = p_bar + (cotangent[..., :, None, :] * relative).sum(-1)
    s_bar = of_weights(p, p_bar) if of_weights else p * (p_bar - centre(p, p_bar))
    s_bar = s_bar / mean_over if divided else s_bar
    q_bar = product(s_bar, k) / q_root(q)
    bars = [q_bar, product(across(s_bar), q) / k_root(q), product(across_values(p), cotangent)]
    if relative is not None:
        if keys:
            bars[0] = bars[0] + (s_bar[..., None] * relative).sum(-2) / q_root(q)
        both = [s_bar[..., None] * q[..., :, None, :] / k_root(q)] if keys else []
        both += [p[..., None] * cotangent[..., :, None, :]] if values else []
        bars.append((heads or _all_heads)(sum(both)))
    if previous is not None:
        bars.append(s_bar)
    return joined(finish(*bars) if finish else bars)


def _all_heads(pairs: Any) -> Any:
    return pairs.sum((0, 1))


def _hidden(case: Case) -> bool:
    mask = case.params["mask"]
    return mask is not None and not bool(np.all(mask))


def _common(of: Callable[..., Mutant]) -> tuple[Mutant, ...]:
    """What can go wrong with any of the three."""
    return (
        of("1/√d left out of q̄ and k̄", "missing-scale", dtypes=FINER, q_root=_one, k_root=_one),
        of("1/√d left out of q̄", "missing-scale", dtypes=FINER, q_root=_one),
        of("1/√d left out of k̄", "missing-scale", dtypes=FINER, k_root=_one),
        of("1/d for 1/√d", "wrong-scale", dtypes=FINER, q_root=_width, k_root=_width),
        of("Σ P P̄ left out", "missing-term", centre=lambda p, p_bar: 0),
        of("Σ P̄, without weights", "chain-rule", centre=lambda p, p_bar: p_bar.sum(-1, keepdims=True)),
        of("Σ P P̄ over queries", "wrong-axis", centre=lambda p, p_bar: (p * p_bar).sum(-2, keepdims=True)),
        of("Σ P P̄ added", "sign", centre=lambda p, p_bar: -_inner(p, p_bar)),
        of("P left out of S̄", "chain-rule", of_weights=lambda p, p_bar: p_bar - _inner(p, p_bar)),
        of(
            "diagonal of softmax's Jacobian",
            "gradient-dropped",
            dtypes=FINER,
            of_weights=lambda p, p_bar: p * (1 - p) * p_bar,
        ),
        of("mask off by one", "mask-off-by-one", seen=_hidden, hide=_later),
        of("mask ignored", "mask-ignored", seen=_hidden, hide=lambda mask: None),
        of("an empty row is uniform", "fully-masked-row", seen=_hidden, forward=_uniform_for_nothing),
        of("scores without maximum", "unshifted-exp", dtypes=LONG, forward=functools.partial(_weights, shift=False)),
        of("P kept in bfloat16", "low-precision", dtypes=LONG, saved=in_bfloat16),
        of("sums in bfloat16", "low-precision-accumulation", dtypes=LONG, product=_bfloat16_product),
    )


def _first_dropped(*bars: Any) -> Any:
    return (0 * bars[0], *bars[1:])


def _second_dropped(*bars: Any) -> Any:
    return (bars[0], 0 * bars[1], *bars[2:])


def _third_dropped(*bars: Any) -> Any:
    return (*bars[:2], 0 * bars[2], *bars[3:])


def _last_dropped(*bars: Any) -> Any:
    return (*bars[:-1], 0 * bars[-1])


_attention_bug = family("attention.vjp", _of_attention)
_ATTENTION = (
    *_common(_attention_bug),
    _attention_bug("k̄ by S̄, not S̄ᵀ", "transposed", seen=lambda case: _square(case), across=_swapped_if_square),
    _attention_bug("v̄ by P, not Pᵀ", "transposed", seen=lambda case: _square(case), across_values=_swapped_if_square),
    _attention_bug("k̄ of the last query alone", "not-summed", dtypes=FINER, across=lambda s: _swap(_last_query(s))),
    _attention_bug("v̄ of the last query alone", "not-summed", across_values=lambda p: _swap(_last_query(p))),
    _attention_bug("q gets nothing", "gradient-dropped", dtypes=FINER, finish=_first_dropped),
    _attention_bug("k gets nothing", "gradient-dropped", finish=_second_dropped),
    _attention_bug("v gets nothing", "gradient-dropped", finish=_third_dropped),
    _attention_bug("k̄ and v̄ exchanged", "exchanged", finish=lambda q, k, v: (q, v, k)),
    _attention_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_attention)),
    _attention_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_attention)),
)


def _square(case: Case) -> bool:
    return bool(case.arrays[0].shape[-2] == case.arrays[1].shape[-2])


def _last_query(x: Any) -> Any:
    return np.where(np.arange(x.shape[-2])[:, None] == x.shape[-2] - 1, x, 0)


def _of_residual(
    q: Any, k: Any, v: Any, previous_scores: Any, cotangent: Any, mask: Any, mean_over: int, **steps: Any
) -> Any:
    return _of_attention(q, k, v, cotangent, mask, **({"previous": previous_scores, "mean_over": mean_over} | steps))


def _has_previous(case: Case) -> bool:
    return bool(np.any(case.arrays[3] != 0))


_residual_bug = family("residual_attention.vjp", _of_residual)
_RESIDUAL = (
    *_common(_residual_bug),
    _residual_bug("previous scores get nothing", "gradient-dropped", finish=_last_dropped),
    _residual_bug(
        "previous scores get S̄/√d", "wrong-scale", dtypes=FINER, finish=lambda q, k, v, s: (q, k, v, s / _root(q))
    ),
    _residual_bug(
        "previous scores not added in the recomputed forward",
        "scores-not-accumulated",
        seen=_has_previous,
        function=lambda q, k, v, s, bar, mask, mean_over: _of_residual(q, k, v, 0 * s, bar, mask, mean_over),
    ),
    _residual_bug(
        "mean_over left out of S̄", "wrong-count", seen=lambda case: case.params["mean_over"] != 1, divided=False
    ),
    _residual_bug(
        "mean_over ignored",
        "parameter-ignored",
        seen=lambda case: case.params["mean_over"] != 1,
        function=lambda q, k, v, s, bar, mask, mean_over: _of_residual(q, k, v, s, bar, mask, 1),
    ),
    _residual_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_residual)),
    _residual_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_residual)),
)


def _of_relative(q: Any, k: Any, v: Any, relative: Any, cotangent: Any, mask: Any, **steps: Any) -> Any:
    return _of_attention(q, k, v, cotangent, mask, **({"relative": relative} | steps))


_relative_bug = family("relative_attention.vjp", _of_relative)
_RELATIVE = (
    *(
        each
        for each in _common(_relative_bug)
        if each.name not in ("an empty row is uniform", "scores without maximum")
    ),
    _relative_bug("relative positions get nothing", "gradient-dropped", finish=_last_dropped),
    _relative_bug("nothing through the values", "gradient-dropped", values=False),
    _relative_bug("nothing through the keys", "gradient-dropped", dtypes=FINER, keys=False),
    _relative_bug("of the first head alone", "not-summed", heads=lambda pairs: pairs[0, 0]),
    _relative_bug("averaged over heads", "wrong-count", dtypes=FINER, heads=lambda pairs: pairs.mean((0, 1))),
    _relative_bug(
        "pairs transposed",
        "transposed",
        seen=lambda case: _square(case),
        heads=lambda pairs: _pairs_swapped(_all_heads(pairs)),
    ),
    _relative_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_relative)),
    _relative_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_relative)),
)


def _pairs_swapped(pairs: Any) -> Any:
    return np.swapaxes(pairs, 0, 1) if pairs.shape[0] == pairs.shape[1] else pairs


# --- Taylor attention -----------------------------------------------------------------------------------------------------------


def _kernel(s: Any) -> Any:
    return (1 + (1 + s) ** 2) / 2


def _of_taylor(
    q: Any,
    k: Any,
    v: Any,
    cotangent: Any,
    causal: bool,
    *,
    slope: Any = lambda s: 1 + s,
    kernel: Any = _kernel,
    centre: Any = None,
    q_root: Any = _root,
    k_root: Any = _root,
    divided: bool = True,
    finish: Any = None,
    triangle: bool = True,
) -> Any:
    s = q @ _swap(k) / _root(q)
    seen = np.tril(np.ones(s.shape[-2:], bool), s.shape[-1] - s.shape[-2]) if causal and triangle else True
    a = np.where(seen, kernel(s), 0)
    total = a.sum(-1, keepdims=True)
    p, p_bar = a / total, cotangent @ _swap(v)
    inner = centre(p, p_bar) if centre else _inner(p, p_bar)
    s_bar = np.where(seen, slope(s) / (total if divided else 1) * (p_bar - inner), 0)
    bars = (s_bar @ k / q_root(q), _swap(s_bar) @ q / k_root(q), _swap(p) @ cotangent)
    return joined(finish(*bars) if finish else bars)


_taylor_bug = family("taylor_attention.vjp", _of_taylor)
_TAYLOR = (
    _taylor_bug("denominator a constant", "gradient-dropped", dtypes=FINER, centre=lambda p, p_bar: 0),
    _taylor_bug("not divided by the sum", "not-normalised", divided=False),
    _taylor_bug("derivative of exp: f₂ itself", "chain-rule", dtypes=FINER, slope=_kernel),
    _taylor_bug("derivative s for 1 + s", "missing-term", dtypes=FINER, slope=lambda s: s),
    _taylor_bug("derivative 1 for 1 + s", "wrong-order", dtypes=FINER, slope=np.ones_like),
    _taylor_bug(
        "s² for s²/2", "wrong-coefficient", dtypes=FINER, kernel=lambda s: 1 + s + s * s, slope=lambda s: 1 + 2 * s
    ),
    _taylor_bug("1/√d left out of q̄", "missing-scale", dtypes=FINER, q_root=_one),
    _taylor_bug("1/√d left out of k̄", "missing-scale", dtypes=FINER, k_root=_one),
    _taylor_bug("the future leaks", "future-leak", seen=lambda case: case.params["causal"], triangle=False),
    _taylor_bug("q gets nothing", "gradient-dropped", dtypes=FINER, finish=_first_dropped),
    _taylor_bug("k gets nothing", "gradient-dropped", dtypes=FINER, finish=_second_dropped),
    _taylor_bug("v gets nothing", "gradient-dropped", finish=_third_dropped),
    _taylor_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_taylor)),
    _taylor_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_taylor)),
)


# --- FAVOR+ -----------------------------------------------------------------------------------------------------------------------

_CONVENTIONS: dict[
    str, tuple[Any, Any, float, str, str]
] = {  # axes of the maxima, epsilon of features, of denominators
    "paper": ((-1,), (-2, -1), 0.0, "none", "none"),
    "performer-pytorch": ((-1,), (-2, -1), 1e-4, "none", "keys"),
    "google-jax": ((-1,), (-2, -1), 1e-6, "small", "small"),
    "google-tf": ((-1,), (-2, -1), 1e-6, "none", "none"),
    "fast-transformers": (None, None, 0.0, "added", "added"),
    "tf-models": ((-3, -2, -1), (-3, -2, -1), 0.0, "added", "added"),
}


def _at_largest(of: Any, axes: Any) -> Any:
    """One-hot of the maximum over axes; in equal parts where several attain it."""
    here = of == of.max(axes, keepdims=True)
    return here / here.sum(axes, keepdims=True)


class Features:
    """exp(u - h - c)/√m + ε/√m with u = W x', h = |x'|²/2, and how a cotangent goes back through it."""

    def __init__(
        self, x: Any, w: Any, axes: Any, epsilon: float, mask: Any, *, doubled: bool, scaled: bool = True
    ) -> None:
        self.width, self.w, self.axes, self.doubled = (
            math.sqrt(math.sqrt(x.shape[-1])) if scaled else 1.0,
            w,
            axes,
            doubled,
        )
        self.root = math.sqrt(len(w) * (2 if doubled else 1))
        seen = True if mask is None else mask[..., None]
        self.x = np.where(seen, x, 0).astype(x.dtype) / self.width
        u = self.x @ w.T
        self.u = np.where(seen, np.concatenate([u, -u], axis=-1) if doubled else u, -np.inf)
        h = (self.x**2).sum(-1, keepdims=True) / 2
        c = 0 if axes is None else self.u.max(axes, keepdims=True)
        self.e = np.exp(self.u - h - c) / self.root
        self.epsilon = np.where(seen, epsilon / self.root, 0).astype(x.dtype)
        self.phi = self.e + self.epsilon

    def back(
        self,
        bar: Any,
        *,
        largest: bool = True,
        half: bool = True,
        outward: bool = True,
        twice: bool = False,
        with_epsilon: bool = False,
    ) -> tuple[Any, Any]:
        """x̄ and W̄."""
        t = bar * (self.phi if with_epsilon else self.e)
        u_bar, h_bar = t, t.sum(-1, keepdims=True)
        if self.axes is not None and largest:
            u_bar = t - t.sum(self.axes, keepdims=True) * _at_largest(self.u, self.axes)
        if self.doubled:
            u_bar = u_bar[..., : len(self.w)] - u_bar[..., len(self.w) :]
        x_bar = u_bar @ self.w - (self.x * h_bar * (2 if twice else 1) if half else 0)
        rows = u_bar.reshape(-1, u_bar.shape[-1]).T @ self.x.reshape(-1, self.x.shape[-1])
        return x_bar / (self.width if outward else 1), rows


def _of_favor(
    q: Any,
    k: Any,
    v: Any,
    projection: Any,
    cotangent: Any,
    mask: Any,
    causal: bool,
    dialect: str,
    *,
    options: dict[str, bool] | None = None,
    query_options: dict[str, bool] | None = None,
    inner: Any = None,
    triangle: bool = True,
    guarded: bool = True,
    epsilon: float | None = None,
    hide: bool = True,
    finish: Any = None,
) -> Any:
    query_axes, key_axes, small, *guards = _CONVENTIONS[dialect]
    guard, small = guards[int(causal)], small if epsilon is None else epsilon
    hidden = mask if hide else None
    doubled = dialect == "fast-transformers"
    f = Features(q, projection, query_axes, small, None, doubled=doubled)
    g = Features(k, projection, key_axes, small, hidden, doubled=doubled)
    seen = (
        np.tril(np.ones((q.shape[-2], k.shape[-2]), bool), k.shape[-2] - q.shape[-2]) if causal and triangle else True
    )
    everything = f.phi @ _swap(g.phi)
    a = np.where(seen, everything, 0)
    total = a.sum(-1, keepdims=True)
    if guard == "added" and guarded:
        total = total + 1e-6
    elif guard == "small" and guarded:
        total = np.where(np.abs(total) <= 1e-6, total + 2e-6, total)
    elif guard == "keys" and guarded:
        total = total + 1e-6 * f.phi.sum(-1, keepdims=True)
    o = a @ v / total
    n_bar = cotangent / total
    d_bar = -(n_bar * o).sum(-1, keepdims=True) if inner is None else inner(n_bar, o)
    a_bar = np.where(seen, n_bar @ _swap(v) + d_bar, 0)
    f_bar = a_bar @ g.phi
    if guard == "keys" and guarded:
        f_bar = f_bar + 1e-6 * d_bar
    q_bar, by_queries = f.back(f_bar, **(query_options or options or {}))
    k_bar, by_keys = g.back(_swap(a_bar) @ f.phi, **(options or {}))
    k_bar = k_bar if hidden is None else np.where(hidden[..., None], k_bar, 0)
    bars = (q_bar, k_bar, _swap(a) @ n_bar, by_queries + by_keys)
    return joined(finish(*bars, by_queries, by_keys) if finish else bars)


def _in_dialects(*names: str) -> Callable[[Case], bool]:
    return lambda case: case.params["dialect"] in names


def _is_masked(case: Case) -> bool:
    return case.params["mask"] is not None


_favor_bug = family("favor_attention.vjp", _of_favor)
_FAVOR = (
    _favor_bug(
        "maxima held constant",
        "gradient-dropped",
        dtypes=LONG,
        seen=_in_dialects("performer-pytorch", "google-jax", "google-tf", "tf-models"),
        options={"largest": False},
    ),
    _favor_bug("nothing through |x|²/2", "gradient-dropped", dtypes=LONG, options={"half": False}),
    _favor_bug("nothing through the denominator", "gradient-dropped", inner=lambda n_bar, o: 0),
    _favor_bug("denominator's cotangent added", "sign", inner=lambda n_bar, o: (n_bar * o).sum(-1, keepdims=True)),
    _favor_bug("d^-1/4 left out of q̄ and k̄", "missing-scale", dtypes=LONG, options={"outward": False}),
    _favor_bug("d^-1/4 left out of q̄", "missing-scale", dtypes=LONG, query_options={"outward": False}),
    _favor_bug("the future leaks", "future-leak", seen=lambda case: case.params["causal"], triangle=False),
    _favor_bug("mask ignored", "mask-ignored", dtypes=LONG, seen=_is_masked, hide=False),
    _favor_bug(
        "W̄ of the queries alone", "not-summed", dtypes=LONG, finish=lambda q, k, v, w, by_q, by_k: (q, k, v, by_q)
    ),
    _favor_bug("W̄ of the keys alone", "not-summed", dtypes=LONG, finish=lambda q, k, v, w, by_q, by_k: (q, k, v, by_k)),
    _favor_bug(
        "projection gets nothing",
        "gradient-dropped",
        dtypes=LONG,
        finish=lambda q, k, v, w, by_q, by_k: (q, k, v, 0 * w),
    ),
    _favor_bug(
        "q gets nothing", "gradient-dropped", dtypes=LONG, finish=lambda q, k, v, w, by_q, by_k: (0 * q, k, v, w)
    ),
    _favor_bug(
        "k gets nothing", "gradient-dropped", dtypes=LONG, finish=lambda q, k, v, w, by_q, by_k: (q, 0 * k, v, w)
    ),
    _favor_bug("v gets nothing", "gradient-dropped", finish=lambda q, k, v, w, by_q, by_k: (q, k, 0 * v, w)),
    _favor_bug("epsilon 1e-3", "wrong-eps", dtypes=LONG, epsilon=1e-3),
    _favor_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_favor)),
    _favor_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_favor)),
)


MUTANTS: tuple[Mutant, ...] = _ATTENTION + _RESIDUAL + _RELATIVE + _TAYLOR + _FAVOR
TWINS: dict[str, Callable[..., Any]] = {
    "attention.vjp": wide(_of_attention),
    "residual_attention.vjp": wide(_of_residual),
    "relative_attention.vjp": wide(_of_relative),
    "taylor_attention.vjp": wide(_of_taylor),
    "favor_attention.vjp": wide(_of_favor),
}
