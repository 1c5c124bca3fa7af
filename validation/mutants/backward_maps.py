"""Mutants of the backward passes of the other random feature maps, of exp's Taylor polynomials and of the copy loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from validation.backwards import joined
from validation.mutants.backward_attentions import FINER, NARROW
from validation.mutants.catalogue import EVERY, LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- what feature maps have in common -----------------------------------------------------------------------------------------


def _is_scaled(case: Case) -> bool:
    return bool(case.params["scaled"])


def _is_normalised(case: Case) -> bool:
    return bool(case.params["normalized"])


def _shifted(case: Case) -> bool:
    return bool(case.params["shift"] != "none")


def _several(case: Case) -> bool:
    return len(case.arrays[1]) > 1


def _fourth_root(x: Any, scaled: bool) -> float:
    return math.sqrt(math.sqrt(x.shape[-1])) if scaled else 1.0


def _flat(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


def _outer(u_bar: Any, y: Any) -> Any:
    """Σ ū x'ᵀ over all rows."""
    return _flat(u_bar).T @ _flat(y)


def _of_last_row(u_bar: Any, y: Any) -> Any:
    return np.outer(_flat(u_bar)[-1], _flat(y)[-1])


def _unscaled(x: Any, scaled: bool) -> float:
    return 1.0


def _halves(bar: Any) -> tuple[Any, Any]:
    m = bar.shape[-1] // 2
    return bar[..., :m], bar[..., m:]


def _alternate(bar: Any) -> tuple[Any, Any]:
    return bar[..., ::2], bar[..., 1::2]


def _at_largest(measure: Any) -> Any:
    """1/k at the k rows in which a number for each row (..., n, 1) is largest."""
    at = measure == measure.max(-2, keepdims=True)
    return at / at.sum(-2, keepdims=True)


def _common(
    of: Callable[..., Mutant], *, narrow: tuple[str, ...] = EVERY, places: Callable[[Case], bool]
) -> tuple[Mutant, ...]:
    """What can go wrong with any map."""
    return (
        of("d^-1/4 left out of x̄", "missing-scale", dtypes=narrow, seen=_is_scaled, outward=_unscaled),
        of("x not scaled", "missing-scale", dtypes=narrow, seen=_is_scaled, inward=_unscaled),
        of("projection gets nothing", "gradient-dropped", finish=lambda x, w: (x, 0 * w)),
        of("x gets nothing", "gradient-dropped", finish=lambda x, w: (0 * x, w)),
        of("projection: the last row's alone", "not-summed", seen=places, rows=_of_last_row),
        of(
            "projection: mean over the rows",
            "wrong-count",
            seen=places,
            finish=lambda x, w: (x, w * len(x[0]) / x[0].size),
        ),
        of(
            "1/√m left out",
            "missing-feature-count",
            seen=lambda c: _is_normalised(c) and _several(c),
            root=lambda m: 1.0,
        ),
        of("1/m for 1/√m", "missing-feature-count", seen=lambda c: _is_normalised(c) and _several(c), root=float),
    )


# --- trigonometric ------------------------------------------------------------------------------------------------------------


def _of_trigonometric(
    x: Any,
    projection: Any,
    cotangent: Any,
    scaled: bool,
    shift: str,
    normalized: bool,
    *,
    inward: Any = _fourth_root,
    outward: Any = _fourth_root,
    root: Any = math.sqrt,
    halves: Any = _halves,
    sign: int = 1,
    along: int = 1,
    largest: Any = _at_largest,
    rows: Any = _outer,
    finish: Any = None,
) -> Any:
    y = x / inward(x, scaled)
    u, h = y @ projection.T, (y * y).sum(-1, keepdims=True) / 2
    size = np.exp(h - (h.max(-2, keepdims=True) if shift == "head" else 0)) / (
        root(len(projection)) if normalized else 1
    )
    sines, cosines = size * np.sin(u), size * np.cos(u)
    of_sines, of_cosines = halves(cotangent)
    u_bar = cosines * of_sines - sign * sines * of_cosines
    h_bar = (sines * of_sines + cosines * of_cosines).sum(-1, keepdims=True)
    if shift == "head" and largest:
        h_bar = h_bar - largest(h) * h_bar.sum(-2, keepdims=True)
    bars = (u_bar @ projection + along * h_bar * y) / outward(x, scaled), rows(u_bar, y)
    return joined(finish(*bars) if finish else bars)


def _exponential(of: Callable[..., Mutant]) -> tuple[Mutant, ...]:
    """What can go wrong with the factor exp(±|x|²/2 - c)."""
    return (
        of("maxima held constant", "gradient-dropped", dtypes=FINER, seen=_shifted, largest=None),
        of(
            "the maximum's cotangent to every row",
            "wrong-axis",
            dtypes=FINER,
            seen=_shifted,
            largest=lambda of_rows: np.full_like(of_rows, 1 / of_rows.shape[-2]),
        ),
        of("nothing through |x|²/2", "gradient-dropped", dtypes=FINER, along=0),
        of("|x|² for |x|²/2 going back", "missing-half-square", dtypes=FINER, along=2),
        of("h̄ of the other sign", "sign", dtypes=FINER, along=-1),
    )


def _rows_and_features(case: Case) -> bool:
    return case.arrays[0].shape[-2] > 1


_trigonometric_bug = family("trigonometric_features.vjp", _of_trigonometric)
_TRIGONOMETRIC = (
    *_common(_trigonometric_bug, narrow=FINER, places=_rows_and_features),
    *_exponential(_trigonometric_bug),
    _trigonometric_bug("cosine goes back as +sine", "sign", sign=-1),
    _trigonometric_bug("nothing through the cosines", "gradient-dropped", sign=0),
    _trigonometric_bug("cotangents of cosines first", "exchanged", halves=lambda bar: _halves(bar)[::-1]),
    _trigonometric_bug("cotangents alternate", "interleaving", seen=_several, halves=_alternate),
    _trigonometric_bug(
        "float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_trigonometric)
    ),
    _trigonometric_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_trigonometric)),
)


# --- hyperbolic ---------------------------------------------------------------------------------------------------------------


def _of_hyperbolic(
    x: Any,
    projection: Any,
    cotangent: Any,
    scaled: bool,
    shift: str,
    normalized: bool,
    *,
    inward: Any = _fourth_root,
    outward: Any = _fourth_root,
    root: Any = lambda m: math.sqrt(2 * m),
    halves: Any = _halves,
    sign: int = 1,
    along: int = 1,
    doubled: int = 2,
    largest: Any = _at_largest,
    rows: Any = _outer,
    finish: Any = None,
) -> Any:
    y = x / inward(x, scaled)
    u, square = y @ projection.T, (y * y).sum(-1, keepdims=True)
    offset = square / 2 + (square.max(-2, keepdims=True) if shift == "norm" else 0)
    by = root(len(projection)) if normalized else 1
    plus, minus = np.exp(u - offset) / by, np.exp(-u - offset) / by
    of_plus, of_minus = halves(cotangent)
    t, s = plus * of_plus, minus * of_minus
    total = (t + s).sum(-1, keepdims=True)
    h_bar = -along * total
    if shift == "norm" and largest:
        h_bar = h_bar - doubled * largest(square) * total.sum(-2, keepdims=True)
    u_bar = t - sign * s
    bars = (u_bar @ projection + h_bar * y) / outward(x, scaled), rows(u_bar, y)
    return joined(finish(*bars) if finish else bars)


_hyperbolic_bug = family("hyperbolic_features.vjp", _of_hyperbolic)
_HYPERBOLIC = (
    *(
        each
        for each in _common(_hyperbolic_bug, narrow=FINER, places=_rows_and_features)
        if each.name not in ("1/√m left out", "1/m for 1/√m")
    ),
    *_exponential(_hyperbolic_bug),
    _hyperbolic_bug("1/√2m left out", "missing-feature-count", seen=_is_normalised, root=lambda m: 1.0),
    _hyperbolic_bug("1/√m for 1/√2m", "missing-feature-count", seen=_is_normalised, root=math.sqrt),
    _hyperbolic_bug("maximum of |x|²/2 going back", "missing-half-square", dtypes=FINER, seen=_shifted, doubled=1),
    _hyperbolic_bug("negative half added", "sign", sign=-1),
    _hyperbolic_bug("nothing through the negative half", "gradient-dropped", sign=0),
    _hyperbolic_bug("cotangents of the negative half first", "exchanged", halves=lambda b: _halves(b)[::-1]),
    _hyperbolic_bug("cotangents alternate", "interleaving", seen=_several, halves=_alternate),
    _hyperbolic_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_hyperbolic)),
    _hyperbolic_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_hyperbolic)),
)


# --- rectified ----------------------------------------------------------------------------------------------------------------


def _step(u: Any, phi: Any, bar: Any) -> Any:
    return u > 0


def _of_rectified(
    x: Any,
    projection: Any,
    cotangent: Any,
    scaled: bool,
    epsilon: float,
    normalized: bool | str,
    *,
    inward: Any = _fourth_root,
    outward: Any = _fourth_root,
    root: Any = math.sqrt,
    slope: Any = _step,
    divided: Any = bool,
    rows: Any = _outer,
    finish: Any = None,
) -> Any:
    y = x / inward(x, scaled)
    u, by = y @ projection.T, root(len(projection)) if divided(normalized) else 1.0
    phi = np.maximum(u, 0) + epsilon
    u_bar = (cotangent * slope(u, phi, cotangent) / by).astype(x.dtype)
    bars = u_bar @ projection / outward(x, scaled), rows(u_bar, y)
    return joined(finish(*bars) if finish else bars)


def _has_zeros(case: Case) -> bool:
    return not bool(np.all(np.any(case.arrays[0], axis=-1)))


def _gelu_slope(u: Any, phi: Any, bar: Any) -> Any:
    return scipy.special.ndtr(u) + u * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)


_rectified_bug = family("relu_features.vjp", _of_rectified)
_RECTIFIED = (
    *_common(_rectified_bug, places=_rows_and_features),
    _rectified_bug(
        "everything passes: slope of φ > 0, which ε makes true", "gradient-dropped", slope=lambda u, phi, bar: phi > 0
    ),
    _rectified_bug("slope of the cotangent > 0", "exchanged", slope=lambda u, phi, bar: bar > 0),
    _rectified_bug("slope 1 at 0", "tie-rule", seen=_has_zeros, slope=lambda u, phi, bar: u >= 0),
    _rectified_bug("slope 1/2 at 0", "tie-rule", seen=_has_zeros, slope=lambda u, phi, bar: (np.sign(u) + 1) / 2),
    _rectified_bug("slope below 0", "sign", slope=lambda u, phi, bar: u < 0),
    _rectified_bug("leaky", "wrong-activation", slope=lambda u, phi, bar: np.where(u > 0, 1, 0.01)),
    _rectified_bug("of GELU", "wrong-activation", slope=_gelu_slope),
    _rectified_bug("of squares", "wrong-order", slope=lambda u, phi, bar: 2 * np.maximum(u, 0)),
    _rectified_bug("φ for its slope", "chain-rule", slope=lambda u, phi, bar: phi),
    _rectified_bug(
        "always divided by √m",
        "parameter-ignored",
        seen=lambda case: not _is_normalised(case) and _several(case),
        divided=lambda normalized: True,
    ),
    _rectified_bug(
        "divided after relu alone",
        "parameter-ignored",
        seen=lambda case: case.params["normalized"] == "inside" and _several(case),
        divided=lambda normalized: normalized is True,
    ),
    _rectified_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_rectified)),
    _rectified_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_rectified)),
)


# --- exp's Taylor polynomials ---------------------------------------------------------------------------------------------------


def _polynomial(x: Any, order: int) -> Any:
    """Σ x^k/k!, of float80, since terms cancel left of 0; rounded once."""
    wide_x = x.astype(np.longdouble)
    return sum((wide_x**k / math.factorial(k) for k in range(order + 1)), np.zeros_like(wide_x))


def _terms(x: Any, order: int) -> Any:
    """The same in the dtype of x, one term after the other."""
    total, term = np.zeros_like(x), np.ones_like(x)
    for k in range(order + 1):
        total, term = total + term, term * x / x.dtype.type(k + 1)
    return total


def _of_polynomial(x: Any, cotangent: Any, order: int, *, slope: Any = None, factor: Any = None) -> Any:
    steep = slope(x, order) if slope else _polynomial(x, order - 1)
    return (steep * (factor(cotangent) if factor else cotangent)).astype(x.dtype)


_polynomial_bug = family("exp_taylor.vjp", _of_polynomial)
_POLYNOMIAL = (
    _polynomial_bug("of exp: f' = f", "chain-rule", slope=_polynomial),
    _polynomial_bug("f' two orders below", "off-by-one", slope=lambda x, order: _polynomial(x, order - 2)),
    _polynomial_bug("exp for f'", "wrong-order", slope=lambda x, order: np.exp(x)),
    _polynomial_bug("|f'|", "sign", slope=lambda x, order: np.abs(_polynomial(x, order - 1))),
    _polynomial_bug("f' cut off at 0", "clipped", slope=lambda x, order: np.maximum(_polynomial(x, order - 1), 0)),
    _polynomial_bug("n f_{n-1}", "wrong-coefficient", slope=lambda x, order: order * _polynomial(x, order - 1)),
    _polynomial_bug(
        "order 2 throughout",
        "parameter-ignored",
        seen=lambda case: case.params["order"] != 2,
        slope=lambda x, order: _polynomial(x, 1),
    ),
    _polynomial_bug("cotangent ignored", "chain-rule", factor=lambda bar: 1),
    _polynomial_bug("term by term", "cancellation", dtypes=LONG, slope=lambda x, order: _terms(x, order - 1)),
    _polynomial_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_polynomial)),
    _polynomial_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_polynomial)),
)


# --- the copy loss --------------------------------------------------------------------------------------------------------------


def _before_the_last(segments: Any) -> Any:
    """Whether a token of the target comes after a position."""
    return (np.cumsum(segments[:, ::-1], axis=1)[:, ::-1] > 0)[:, 1:]


def _softmax(x: Any, *, shift: bool = True) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True) if shift else x)
    return e / e.sum(-1, keepdims=True)


def _said(labels: Any) -> Any:
    return labels[..., None] == np.arange(3)


def _one_mean(kept: Any) -> Any:
    return kept.sum()


def _of_loss(
    tag_logits: Any,
    labels: Any,
    segment_ids: Any,
    cotangent: Any,
    *,
    trained: Any = _before_the_last,
    weights: Any = _softmax,
    said: Any = _said,
    number: Any = _one_mean,
    factor: Any = None,
    late: bool = False,
    hidden: bool = True,
) -> Any:
    kept = trained(segment_ids)
    given = tag_logits[:, 1:] if late else tag_logits[:, :-1]
    share = (factor(cotangent) if factor else cotangent) / number(kept).astype(tag_logits.dtype)
    bar = (weights(given) - said(labels)) * share
    bar = np.where(kept[..., None], bar, 0) if hidden else bar
    nothing = np.zeros_like(tag_logits[:, :1])
    return np.concatenate([nothing, bar] if late else [bar, nothing], axis=1)


def _some_hidden(case: Case) -> bool:
    return not bool(np.all(_before_the_last(case.arrays[2])))


_loss_bug = family("copy_loss.vjp", _of_loss)
_LOSS = (
    _loss_bug("positions behind the target get cotangents", "mask-ignored", seen=_some_hidden, hidden=False),
    _loss_bug(
        "positions behind the target trained",
        "wrong-count",
        seen=_some_hidden,
        trained=lambda s: np.ones_like(s[:, 1:], bool),
    ),
    _loss_bug("the target alone trained", "missing-term", trained=lambda s: (s[:, 1:] > 0) & (s[:, :-1] > 0)),
    _loss_bug(
        "the mask not shifted",
        "mask-off-by-one",
        seen=_some_hidden,
        trained=lambda s: (np.cumsum(s[:, ::-1], axis=1)[:, ::-1] > 0)[:, :-1],
    ),
    _loss_bug("summed from the front", "mask-transposed", trained=lambda s: (np.cumsum(s, axis=1) > 0)[:, 1:]),
    _loss_bug("a sum, not a mean", "not-normalised", number=lambda kept: np.ones(())),
    _loss_bug("divided by all positions", "wrong-count", seen=_some_hidden, number=lambda kept: np.asarray(kept.size)),
    _loss_bug("divided by the batch", "wrong-count", number=lambda kept: np.asarray(len(kept))),
    _loss_bug(
        "the mean of the rows' means",
        "wrong-count",
        seen=lambda case: len(set(_before_the_last(case.arrays[2]).sum(1).tolist())) > 1,
        number=lambda kept: len(kept) * kept.sum(1)[:, None, None],
    ),
    _loss_bug("cotangent ignored", "chain-rule", factor=lambda bar: np.ones_like(bar)),
    _loss_bug("one-hot minus softmax", "sign", factor=lambda bar: -bar),
    _loss_bug("one-hot left out", "missing-term", said=lambda labels: 0),
    _loss_bug("B and I exchanged", "exchanged", said=lambda labels: _said(np.array([0, 2, 1])[labels])),
    _loss_bug("one position late", "off-by-one", late=True),
    _loss_bug(
        "softmax without maximum",
        "unshifted-exp",
        dtypes=("float32",),
        weights=lambda x: _softmax(x, shift=False),
    ),
    _loss_bug("p kept in bfloat16", "low-precision", dtypes=LONG, weights=lambda x: in_bfloat16(_softmax(x))),
    _loss_bug("float32 throughout", "low-precision", dtypes=("float64",), entire=in_float32(_of_loss)),
    _loss_bug("answers float64", "dtype-leak", dtypes=NARROW, entire=leaking(_of_loss)),
)


MUTANTS: tuple[Mutant, ...] = _TRIGONOMETRIC + _HYPERBOLIC + _RECTIFIED + _POLYNOMIAL + _LOSS
TWINS: dict[str, Callable[..., Any]] = {
    "trigonometric_features.vjp": wide(_of_trigonometric),
    "hyperbolic_features.vjp": wide(_of_hyperbolic),
    "relu_features.vjp": wide(_of_rectified),
    "exp_taylor.vjp": wide(_of_polynomial),
    "copy_loss.vjp": wide(_of_loss),
}
