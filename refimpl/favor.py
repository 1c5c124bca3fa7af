"""FAVOR+: softmax attention estimated by random features, in work and memory linear in the length.

    SM(x, y) = exp(x·y) = E φ(x)·φ(y),     w_1 .. w_m ~ N(0, I_d) the rows of the projection W,     u = W x,     h = |x|²/2
    φ_pos(x)  = exp(-h)/√m   [exp(u)]                                      positive: the features of the Performer                  (1)
    φ_hyp(x)  = exp(-h)/√2m  [exp(u), exp(-u)]                             hyperbolic                                               (2)
    φ_trig(x) = exp(h)/√m    [sin(u), cos(u)]                              trigonometric                                            (3)
    φ_relu(x) = 1/√m         [relu(u) + ε]                                 generalized: another kernel, positive too                (4)
    O = D⁻¹ Â V,   Â_ij = φ(q_i d^-1/4)·φ(k_j d^-1/4),   D = diag(Â 1)     bidirectional, or with j <= i                            (5)

Implementations subtract a maximum from the exponents, add an epsilon to features or denominators, and scale or do not: every such convention
is an argument, and `dialects` names the combinations that known implementations use. Without epsilons the maxima cancel in (5).

Backwards, with t = φ̄ · φ without its epsilon, for the exponential features,

    ū = t [of exp(u)] - t [of exp(-u)],     h̄ = c̄ = -Σ t,     x̄' = Wᵀ ū + h̄ x',     W̄ = Σ ū x'ᵀ                                    (6)

and c̄ goes to the entries that the maximum c was found in. In (5) it is 0 where nothing is added to what c divides, and then not computed.
Implementations differ: most differentiate their maximum, performer-pytorch holds it constant (`Features.detached`).

Projections come from `refimpl.projections`, whose functions are named here too.

References: K. Choromanski et al., "Rethinking attention with Performers", arXiv 2009.14794, section 2: (5) is its eq. (4), the general form of
the features its eq. (5), (1) and (2) its lemma 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl.activation import relu, relu_vjp
from refimpl.errors import ConfigError, DtypeError, ShapeError, UndecidedError
from refimpl.gradients import Pullback, products_summed, summed_to, total, vjp_of
from refimpl.linear_attention import (
    MapRule,
    check_key_mask,
    checked_chunk,
    linear_attention,
    sees_a_key,
    spans,
    swept,
    weighted_mean,
    weighted_mean_vjp,
)
from refimpl.number_system import (
    Array,
    check_floating,
    exact,
    is_ball,
    largest,
    namespace,
    rounded_once,
    sign_of,
    square_root,
)
from refimpl.projections import gaussian, orthogonal_gaussian, redraw, simplex_gaussian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "Dialect",
    "Features",
    "dialects",
    "favor_attention",
    "favor_attention_vjp",
    "gaussian",
    "hyperbolic_features",
    "hyperbolic_features_vjp",
    "named_dialect",
    "orthogonal_gaussian",
    "positive_features",
    "positive_features_vjp",
    "redraw",
    "relu_features",
    "relu_features_vjp",
    "simplex_gaussian",
    "trigonometric_features",
    "trigonometric_features_vjp",
]

Shift = Literal["none", "row", "head", "sequence", "norm"]
_AXES: dict[str, tuple[int, ...]] = {"row": (-1,), "head": (-2, -1), "sequence": (-3, -2, -1), "norm": (-2, -1)}


@dataclass(frozen=True)
class Features:
    """The conventions of one feature map inside attention; the names are those of the feature functions.

    `shift_of` says what the maximum of positive features is taken of: of u = W x', as implementations do, or of the whole exponent u - |x'|²/2, which
    leaves no exponent far below zero in every row. Without an epsilon both cancel.

    `detached` says that the implementation's backward pass holds the maximum constant. Where it does not cancel, that is another direction than the
    gradient of what the forward pass computes.
    """

    map: Literal["positive", "trigonometric", "hyperbolic", "relu"]
    scaled: bool = True
    query_shift: Shift = "none"
    key_shift: Shift = "none"
    epsilon: float = 0.0
    normalized: bool | Literal["inside"] = True
    shift_of: Literal["u", "exponent"] = "u"
    detached: bool = False


# --- features -----------------------------------------------------------------------------------------------------------------


def _check_features(x: Array, projection: Array | None) -> None:
    check_floating("x", x)
    if x.ndim < 1 or (projection is not None and (projection.ndim != 2 or projection.shape[-1] != x.shape[-1])):
        raise ShapeError(
            "the projection has the wrong width",
            where="projection",
            expected=f"(m, {x.shape[-1]}), for vectors of width {x.shape[-1]}" if x.ndim else "x (..., d)",
            got=tuple(projection.shape) if projection is not None else tuple(x.shape),
            remedy="draw it as orthogonal_gaussian(rng, n_features, width)",
        )
    if projection is not None and projection.shape[0] < 1:
        raise ShapeError("the projection has no rows", where="projection", expected="m >= 1 features", got=0)
    if projection is not None and projection.dtype != x.dtype:
        raise DtypeError(
            "the projection must have the dtype of what it projects",
            where="projection",
            expected=x.dtype,
            got=projection.dtype,
            remedy="projections are drawn in float64: round the projection to this dtype when it is moved",
        )


def _scaled(x: Array, scaled: bool) -> Array:  # (..., d) -> (..., d)
    """x d^-1/4, so that φ(q)·φ(k) estimates exp(q·k/√d); x itself where `scaled` is false."""
    return x / square_root(square_root(x.shape[-1], x), x) if scaled else x


def _projected(x: Array, projection: Array) -> Array:  # (..., d), (m, d) -> (..., m)
    xp = namespace(x, projection)
    return xp.matmul(x, xp.matrix_transpose(projection)) if x.ndim > 1 else xp.matmul(projection, x)


def _half_square(x: Array) -> Array:  # (..., d) -> (..., 1)
    return namespace(x).sum(x * x, axis=-1, keepdims=True) / 2


def _exponentials(features: Features, x: Array, projection: Array, shift: Array | None) -> Array:
    """exp(u - h - c), of positive features."""
    xp, u, h = namespace(x), _projected(x, projection), _half_square(x)
    part, rest = (u - h, None) if features.shift_of == "exponent" else (u, h)
    if shift is not None:  # a maximum: no exponent exceeds 0, and that of a masked key, which is 0 here, must not
        part = part - shift if is_ball(u) else xp.minimum(part - shift, 0.0)
    return xp.exp(part if rest is None else part - rest)


def _positive(features: Features, x: Array, projection: Array, shift: Array | None) -> Array:
    return _completed(features, _exponentials(features, x, projection, shift))


def _completed(features: Features, exponentials: Array) -> Array:
    """(exp(u - h - c) + ε)/√m."""
    x, m = exponentials, exponentials.shape[-1]
    exponentials = exponentials + exact(features.epsilon, x) if features.epsilon else exponentials
    return exponentials / square_root(m, x) if features.normalized else exponentials


def _trigonometric(features: Features, x: Array, projection: Array, shift: Array | None) -> Array:
    xp, u, h = namespace(x), _projected(x, projection), _half_square(x)
    waves = xp.exp(h if shift is None else h - shift) * xp.concat([xp.sin(u), xp.cos(u)], axis=-1)
    return waves / square_root(projection.shape[0], x) if features.normalized else waves


def _hyperbolic(features: Features, x: Array, projection: Array, shift: Array | None) -> Array:
    xp, u, h = namespace(x), _projected(x, projection), _half_square(x)
    offset = h if shift is None else h + shift
    exponentials = xp.exp(xp.concat([u - offset, -u - offset], axis=-1))
    return exponentials / square_root(2 * projection.shape[0], x) if features.normalized else exponentials


def _rectified(features: Features, x: Array, projection: Array | None, shift: Array | None) -> Array:
    u = x if projection is None else _projected(x, projection)
    root = square_root(u.shape[-1], x)
    rectified = relu(u / root if features.normalized == "inside" and projection is not None else u)
    rectified = rectified + exact(features.epsilon, x) if features.epsilon else rectified
    return rectified / root if features.normalized is True else rectified


_MAPS: dict[str, Any] = {
    "positive": _positive,
    "trigonometric": _trigonometric,
    "hyperbolic": _hyperbolic,
    "relu": _rectified,
}


def _measured(features: Features, shift: str, x: Array, projection: Array) -> Array:  # (..., d) -> (..., m) or (..., 1)
    """What the shift of a feature map is the maximum of: |x'|² for "norm"; else u, u - h, |u| (hyperbolic) or h (trigonometric)."""
    x = _scaled(x, features.scaled)
    if shift == "norm":
        return 2 * _half_square(x)
    if features.map == "trigonometric":
        return _half_square(x)
    u = _projected(x, projection)
    if features.map == "hyperbolic":
        return namespace(u).abs(u)
    return u - _half_square(x) if features.shift_of == "exponent" else u


def _check_shift(kind: str, shift: str) -> None:
    known = {"relu": ("none",), "hyperbolic": ("none", *_AXES)}.get(kind, ("none", *list(_AXES)[:-1]))
    if shift not in known:
        raise ConfigError(
            "unknown shift", where=f"shift of {kind} features", expected=f"one of {', '.join(known)}", got=repr(shift)
        )


def _check_heads(shift: str, x: Array) -> None:
    """Refuse three axes, the first of which may be the heads, or a batch, whose members must not influence each other."""
    if shift == "sequence" and x.ndim == 3:
        raise ShapeError(
            "a maximum over the heads needs an axis for them",
            where='shift "sequence"',
            expected="(..., heads, length, width), or (length, width) for one head of one sequence",
            got=tuple(x.shape),
            remedy="x[:, None, :, :] for one head of each sequence, x[None, :, :, :] for the heads of one",
        )


def _shift(
    features: Features, shift: str, x: Array, projection: Array | None, mask: Array | None = None, chunk: int = 128
) -> Array | None:  # (..., n, d), bool (..., n) -> (..., n, 1), (..., 1, 1) or None
    """The maximum that is subtracted, over the rows that `mask` allows (0 where it allows none), from `chunk` rows at a time."""
    _check_shift(features.map, shift)
    _check_heads(shift, x)
    if shift == "none" or projection is None:
        return None
    xp, pieces = namespace(x), []
    low = exact(float("-inf"), x) if is_ball(x) else float(xp.finfo(x.dtype).min)
    for rows, allowed in _groups(shift, x, mask, chunk):
        measure = _measured(features, shift, rows, projection)
        pieces.append(largest(measure if allowed is None else xp.where(allowed, measure, low), _axes(shift, x)))
    if len(pieces) == 1 and mask is None:
        return pieces[0]
    found = largest(xp.concat(pieces, axis=-1), (-1,))
    return found if mask is None else xp.where(found > low, found, exact(0, x))


def _axes(shift: str, x: Array) -> tuple[int, ...]:
    """The axes of `x` that a maximum is taken over: a vector is a row, whatever the shift."""
    return tuple(axis for axis in _AXES[shift] if -axis <= x.ndim)


def _groups(
    shift: str, x: Array, mask: Array | None, chunk: int
) -> Iterator[tuple[Array, Array | None]]:  # -> (..., c, d), bool (..., c, 1) or None
    """The rows that a maximum is taken over, `chunk` at a time, with those that are allowed; all of them, where rows have their own."""
    if shift == "row" or x.ndim < 2:
        yield x, None
        return
    for span in spans(0, x.shape[-2], chunk):
        allowed, rows = None if mask is None else mask[..., span, None], x[..., span, :]
        yield (rows if allowed is None else namespace(x).where(allowed, rows, exact(0, x))), allowed


def _mapped(features: Features, x: Array, projection: Array | None, shift: Array | None) -> Array:
    return _MAPS[features.map](features, _scaled(x, features.scaled), projection, shift)


def _alone(features: Features, x: Array, projection: Array | None) -> Array:
    """The features of `x` outside attention, with its own maximum."""
    _check_features(x, projection)
    return _mapped(features, x, projection, _shift(features, features.key_shift, x, projection))


@rounded_once
def positive_features(
    x: Array,
    projection: Array,
    *,
    scaled: bool = False,
    shift: Shift = "none",
    epsilon: float = 0.0,
    normalized: bool = True,
) -> Array:  # (..., n, d), (m, d) -> (..., n, m)
    """φ_pos(x) = (exp(u - h - c) + ε)/√m with u = W x', h = |x'|²/2; the paper's has x' = x, c = 0 and ε = 0.

    Parameters
    ----------
    x : array, (..., n, d), floating or balls
    projection : array, (m, d), the dtype of `x`
    scaled : x' = x d^-1/4 instead of x
    shift : which maximum c of u is subtracted: "none" (c = 0), "row" (over the features), "head" (over length and features),
        "sequence" (over heads, length and features: axes -3 to -1)
    epsilon : ε, added after the exponential and before the division by √m; on balls the binary double
    normalized : whether to divide by √m

    Returns
    -------
    array, (..., n, m), the dtype of `x`; every entry is >= 0, and > 0 unless it underflows

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `x` is not floating, the projection does not have its dtype or width, or the shift is unknown; for "sequence" and three axes,
        of which it is not known whether the first is the batch or the heads.
    """
    return _alone(Features("positive", scaled, shift, shift, epsilon, normalized), x, projection)


@rounded_once
def trigonometric_features(
    x: Array, projection: Array, *, scaled: bool = False, shift: Shift = "none", normalized: bool = True
) -> Array:  # (..., n, d), (m, d) -> (..., n, 2m)
    """φ_trig(x) = exp(h - c)/√m [sin u, cos u]; products of these features may be negative.

    Parameters, returns and errors as `positive_features`, but c is a maximum of h: over the length for "head" (Google's), over heads and
    length for "sequence", the row's own for "row".
    """
    return _alone(Features("trigonometric", scaled, shift, shift, 0.0, normalized), x, projection)


@rounded_once
def hyperbolic_features(
    x: Array, projection: Array, *, scaled: bool = False, shift: Shift = "none", normalized: bool = True
) -> Array:  # (..., n, d), (m, d) -> (..., n, 2m)
    """φ_hyp(x) = 1/√(2m) [exp(u - h - c), exp(-u - h - c)].

    Parameters, returns and errors as `positive_features`, but c is a maximum of |u|; for "norm", of |x'|² over the length (fast-transformers').
    """
    return _alone(Features("hyperbolic", scaled, shift, shift, 0.0, normalized), x, projection)


@rounded_once
def relu_features(
    x: Array,
    projection: Array | None,
    *,
    scaled: bool = False,
    epsilon: float = 1e-3,
    normalized: bool | Literal["inside"] = True,
) -> Array:  # (..., n, d), (m, d) -> (..., n, m)
    """φ_relu(x) = (relu(u) + ε)/√m with u = W x': the generalized attention kernel with f = relu.

    Parameters
    ----------
    x : array, (..., n, d), floating or balls
    projection : array, (m, d), the dtype of `x`; None for u = x' (then m = d)
    scaled : x' = x d^-1/4 instead of x
    epsilon : ε; on balls the binary double
    normalized : True: as above; "inside": relu(u/√m) + ε, but relu(x') + ε without a projection (Google's TensorFlow); False: relu(u) + ε

    Returns
    -------
    array, (..., n, m), the dtype of `x`

    Raises
    ------
    DtypeError, ShapeError
        if `x` is not floating, or the projection does not have its dtype or width.
    """
    return _alone(Features("relu", scaled, "none", "none", epsilon, normalized), x, projection)


# --- dialects -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dialect:
    """The conventions of one implementation: its feature maps by kernel, and what it does to the denominator D_i = Σ_j Â_ij.

    "bare": D. "added": D + ε. "guarded": D + 2ε where |D| <= ε, else D. "keys": φ(q)·(Σ_j φ(k_j) + ε), ε added to every entry of the sum.
    """

    kernels: Mapping[str, Features]
    denominator: Literal["bare", "added", "guarded", "keys"] = "bare"
    causal_denominator: Literal["bare", "added", "guarded", "keys"] = "bare"
    epsilon: float = 0.0


_PAPER = Features("positive", query_shift="row", key_shift="head", shift_of="exponent")
_GOOGLE = Features("positive", query_shift="row", key_shift="head", epsilon=1e-6)

dialects: dict[str, Dialect] = {
    "paper": Dialect(
        {
            "softmax": _PAPER,
            "relu": Features("relu", scaled=False, epsilon=1e-3),
            "hyperbolic": Features("hyperbolic"),
            "trigonometric": Features("trigonometric"),
        }
    ),
    "performer-pytorch": Dialect(
        {
            "softmax": Features("positive", query_shift="row", key_shift="head", epsilon=1e-4, detached=True),
            "relu": Features("relu", epsilon=1e-3, normalized=False),
        },
        causal_denominator="keys",
        epsilon=1e-6,
    ),
    "google-jax": Dialect(
        {
            "softmax": _GOOGLE,
            "relu": Features("relu", scaled=False, epsilon=1e-3, normalized=False),
            "trigonometric": Features("trigonometric", query_shift="head", key_shift="head"),
        },
        denominator="guarded",
        causal_denominator="guarded",
        epsilon=1e-6,
    ),
    "google-tf": Dialect(
        {"softmax": _GOOGLE, "relu": Features("relu", scaled=False, epsilon=1e-3, normalized="inside")}
    ),
    "fast-transformers": Dialect(
        {
            "softmax": Features("hyperbolic"),
            "stabilized": Features("hyperbolic", query_shift="norm", key_shift="norm"),
            "relu": Features("relu", scaled=False, normalized=False),
        },
        denominator="added",
        causal_denominator="added",
        epsilon=1e-6,
    ),
    "tf-models": Dialect(
        {
            "softmax": Features("positive", query_shift="sequence", key_shift="sequence"),
            "relu": Features("relu", epsilon=1e-3),
        },
        denominator="added",
        causal_denominator="added",
        epsilon=1e-6,
    ),
}


def named_dialect(dialect: str | Dialect) -> Dialect:
    """The dialect of that name, or the dialect given; raises ConfigError that lists the names there are."""
    if isinstance(dialect, Dialect):
        return dialect
    if dialect not in dialects:
        raise ConfigError("unknown dialect", where="favor", expected=f"one of {', '.join(dialects)}", got=repr(dialect))
    return dialects[dialect]


def _features(dialect: Dialect, kernel: str, projection: Array | None) -> Features:
    if kernel not in dialect.kernels:
        raise ConfigError(
            "this dialect has no such kernel",
            where="favor_attention(kernel=...)",
            expected=f"one of {', '.join(dialect.kernels)}",
            got=repr(kernel),
        )
    features = dialect.kernels[kernel]
    if projection is None and features.map != "relu":
        raise ConfigError(
            "this kernel needs a projection",
            where="favor_attention(projection=None)",
            expected='a projection, or kernel="relu"',
            got=repr(kernel),
        )
    return features


# --- attention ----------------------------------------------------------------------------------------------------------------


def _check_attention(q: Array, k: Array, v: Array, projection: Array | None, mask: Array | None) -> None:
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            "query, key and value do not fit together",
            where="favor_attention",
            expected="q (..., n, d), k (..., m, d), v (..., m, e)",
            got=f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}",
        )
    _check_features(q, projection)
    for name, array in (("k", k), ("v", v)):
        check_floating(name, array)
        if array.dtype != q.dtype:
            what, where = "query, key and value must have one dtype", f"favor_attention({name})"
            raise DtypeError(what, where=where, expected=q.dtype, got=array.dtype)
    if mask is not None:
        check_key_mask("favor_attention", mask, k)


def _guarded(denominators: Array, epsilon: float) -> Array:  # (..., n, 1) -> (..., n, 1)
    """D + 2ε where |D| <= ε, else D; on balls that overlap ε the question is undecided, and the answer an error."""
    xp, limit = namespace(denominators), exact(epsilon, denominators)
    size = xp.abs(denominators)
    small = size <= limit
    if is_ball(denominators) and not xp.all(small | (size > limit)):
        raise UndecidedError(
            "undecided: a denominator may lie on either side of the guard",
            where="favor_attention",
            expected=f"|D| <= {epsilon} or |D| > {epsilon}",
            got="a ball that contains the bound",
            remedy="compute with more bits",
        )
    return xp.where(small, denominators + 2 * limit, denominators)


def _stabilised(
    denominators: Array, rule: str, epsilon: float, q: Array, q_map: Callable[[Array], Array], chunk: int
) -> Array:  # (..., n, 1) -> (..., n, 1)
    """The denominators as a dialect has them."""
    if rule == "bare":
        return denominators
    if rule == "added":
        return denominators + exact(epsilon, denominators)
    if rule == "guarded":
        return _guarded(denominators, epsilon)
    xp = namespace(q)
    sums = [xp.sum(q_map(q[..., span, :]), axis=-1, keepdims=True) for span in spans(0, q.shape[-2], chunk)]
    return denominators + exact(epsilon, denominators) * xp.concat(sums, axis=-2)


@rounded_once
def favor_attention(
    q: Array,
    k: Array,
    v: Array,
    projection: Array | None,
    *,
    causal: bool = False,
    mask: Array | None = None,
    dialect: str | Dialect = "paper",
    kernel: str = "softmax",
    chunk: int = 128,
) -> Array:  # (..., n, d), (..., m, d), (..., m, e), (r, d) -> (..., n, e)
    """O_i = Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), over all keys j or over j <= i; for "softmax" an estimate of softmax(Q Kᵀ/√d) V.

    Features are made for `chunk` positions at a time, and sums over keys are running sums: memory beside inputs and output does not hold
    the features of all positions, nor anything of size n x m.

    Parameters
    ----------
    q, k, v : array, (..., n, d), (..., m, d), (..., m, e), floating or balls, one dtype
    projection : array, (r, d), the same dtype; None for kernel "relu" without one
    causal : query i sees the keys up to its own position; the n <= m queries are the last n of the m positions. Key maxima are nevertheless
        over the whole sequence, as in every implementation: with epsilon = 0 that cancels, otherwise the future shows by way of epsilon
    mask : boolean array that broadcasts to (..., m), true where the key takes part, or None. Masked keys and values have no influence at
        all, on maxima neither
    dialect : a name in `dialects`, or a `Dialect`
    kernel : one of the dialect's kernels: "softmax" and "relu" for all of them
    chunk : int >= 1, positions that are handled at once; the answer depends on it by rounding only

    Returns
    -------
    array, (..., n, e), the dtype of `q`; zeros for a query that sees no key. Features underflow where exponents are far below the maximum that is
        subtracted: a row whose terms are all subnormal or 0 loses digits, or is inf or NaN. The paper's dialect subtracts the maximum of
        the whole exponent, so that needs queries and keys far apart; maxima of u alone, as in the others, leave exp(-|x'|²/2)

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if arguments are not floating, do not fit, or the mask is not boolean; for an unknown dialect or kernel, or chunk < 1; in a dialect that
        takes maxima over the heads ("tf-models"), for queries or keys of three axes: of which it is not known whether the first is the heads.
    UndecidedError
        on balls, where a dialect compares a denominator with its epsilon and the ball contains both answers.
    """
    convention, features, chunk = _checked(q, k, v, projection, mask, dialect, kernel, chunk)
    q_map = _feature_map(features, features.query_shift, q, projection, None, chunk)
    k_map = _feature_map(features, features.key_shift, k, projection, mask, chunk)
    numerators, denominators = linear_attention(
        q, k, v, q_map=q_map, k_map=k_map, causal=causal, mask=mask, chunk=chunk
    )
    rule = convention.causal_denominator if causal else convention.denominator
    denominators = _stabilised(denominators, rule, convention.epsilon, q, q_map, chunk)
    seen = None if mask is None else sees_a_key(mask, q.shape[-2], causal=causal)
    return weighted_mean(numerators, denominators, seen)


def _checked(
    q: Array,
    k: Array,
    v: Array,
    projection: Array | None,
    mask: Array | None,
    dialect: str | Dialect,
    kernel: str,
    chunk: int,
) -> tuple[Dialect, Features, int]:
    """The conventions of a dialect and its kernel, and `chunk` as an int; raise unless the arguments fit together."""
    convention = named_dialect(dialect)
    features = _features(convention, kernel, projection)
    _check_attention(q, k, v, projection, mask)
    return convention, features, checked_chunk("favor_attention", chunk)


def _feature_map(
    features: Features, shift: Shift, x: Array, projection: Array | None, mask: Array | None, chunk: int
) -> Callable[[Array], Array]:
    """The feature map as a function of any rows of `x`; a maximum over all rows is taken here, beforehand."""
    if shift == "row":
        return lambda rows: _mapped(features, rows, projection, _shift(features, shift, rows, projection))
    found = _shift(features, shift, x, projection, mask, chunk)
    return lambda rows: _mapped(features, rows, projection, found)


# --- backwards: features ----------------------------------------------------------------------------------------------------------------


class _Exponents(NamedTuple):
    """Cotangents of u (..., m) and h (..., 1); None where nothing depends on them."""

    u: Array | None
    h: Array | None


def _positive_back(features: Features, x: Array, projection: Array, shift: Array | None) -> tuple[Array, Pullback]:
    exponentials = _exponentials(features, x, projection, shift)
    terms = exponentials / square_root(projection.shape[0], x) if features.normalized else exponentials

    def pullback(bar: Array) -> _Exponents:
        t = terms * bar
        return _Exponents(t, -namespace(t).sum(t, axis=-1, keepdims=True))

    return _completed(features, exponentials), pullback


def _trigonometric_back(features: Features, x: Array, projection: Array, shift: Array | None) -> tuple[Array, Pullback]:
    waves, m = _trigonometric(features, x, projection, shift), projection.shape[0]

    def pullback(bar: Array) -> _Exponents:
        u_bar = waves[..., m:] * bar[..., :m] - waves[..., :m] * bar[..., m:]
        return _Exponents(u_bar, namespace(bar).sum(waves * bar, axis=-1, keepdims=True))

    return waves, pullback


def _hyperbolic_back(features: Features, x: Array, projection: Array, shift: Array | None) -> tuple[Array, Pullback]:
    exponentials, m = _hyperbolic(features, x, projection, shift), projection.shape[0]

    def pullback(bar: Array) -> _Exponents:
        t = exponentials * bar
        return _Exponents(t[..., :m] - t[..., m:], -namespace(t).sum(t, axis=-1, keepdims=True))

    return exponentials, pullback


def _rectified_back(
    features: Features, x: Array, projection: Array | None, shift: Array | None
) -> tuple[Array, Pullback]:
    u = x if projection is None else _projected(x, projection)
    root = square_root(u.shape[-1], x)
    inside = features.normalized == "inside" and projection is not None
    _, back = relu_vjp(u / root if inside else u)

    def pullback(bar: Array) -> _Exponents:
        (u_bar,) = back(bar / root if features.normalized is True else bar)
        return _Exponents(u_bar / root if inside else u_bar, None)

    return _rectified(features, x, projection, shift), pullback


_BACK: dict[str, Any] = {
    "positive": _positive_back,
    "trigonometric": _trigonometric_back,
    "hyperbolic": _hyperbolic_back,
    "relu": _rectified_back,
}


def _exponents_back(
    features: Features, x: Array, projection: Array | None, bars: _Exponents
) -> tuple[Array, Array | None]:  # (..., d), (m, d), ū and h̄ -> (..., d), (m, d)
    """x̄ = (Wᵀ ū + h̄ x') d^-1/4 and W̄ = Σ ū x'ᵀ over the rows; without d^-1/4 where features are not scaled."""
    y, xp, x_bar, projection_bar = _scaled(x, features.scaled), namespace(x), None, None
    if bars.u is not None and projection is None:
        x_bar = bars.u
    elif bars.u is not None:
        x_bar = xp.matmul(bars.u, projection)
        projection_bar = products_summed(bars.u, y)
    if bars.h is not None:
        x_bar = bars.h * y if x_bar is None else x_bar + bars.h * y
    return _scaled(x_bar, features.scaled), projection_bar


def _mapped_vjp(
    features: Features, x: Array, projection: Array | None, shift: Array | None
) -> tuple[Array, Pullback]:  # (..., d), (m, d) -> (..., r), pullback
    """x̄, W̄ and c̄ of (6): the feature map as a function of its shift too, of which c̄ has the shape (None without a shift)."""
    phi, back = _BACK[features.map](features, _scaled(x, features.scaled), projection, shift)

    def pullback(bar: Array) -> tuple[Array, Array | None, Array | None]:
        bars = back(bar)
        shift_bar = None if shift is None else summed_to(bars.h, shift.shape)
        if shift_bar is not None and features.map == "trigonometric":
            shift_bar = -shift_bar
        return *_exponents_back(features, x, projection, bars), shift_bar

    return phi, pullback


# --- backwards: the maximum -------------------------------------------------------------------------------------------------------------


def _measure_back(features: Features, shift: str, x: Array, projection: Array, bar: Array) -> _Exponents:
    """Cotangents of u and h from that of what is measured (`_measured`)."""
    if shift == "norm":
        return _Exponents(None, 2 * bar)
    if features.map == "trigonometric":
        return _Exponents(None, bar)
    if features.map == "hyperbolic":
        return _Exponents(sign_of(_projected(_scaled(x, features.scaled), projection)) * bar, None)
    below = -namespace(bar).sum(bar, axis=-1, keepdims=True) if features.shift_of == "exponent" else None
    return _Exponents(bar, below)


def _attained(measure: Array, allowed: Array | None, found: Array) -> Array:
    """Where the maximum is attained; on balls, wherever it may be."""
    reached = namespace(measure).astype(measure < found, bool) if is_ball(measure) else measure != found
    return ~reached if allowed is None else ~reached & allowed


def _share(measure: Array, count: Array, found: Array) -> Array:
    """1/count, of the entries that attain the maximum; on balls all of [0, 1] where it is open which of several do."""
    if not is_ball(measure):
        return 1 / namespace(measure).astype(count, measure.dtype)
    one, xp = exact(1, measure), namespace(measure)
    settled = (count == 1) | xp.astype(measure == found, bool)  # the same number, exactly
    return xp.where(settled, one / xp.astype(count, measure.dtype), one.union(exact(0, measure)))


def _shift_back(
    features: Features,
    shift: str,
    x: Array,
    projection: Array,
    found: Array,
    bar: Array,
    mask: Array | None = None,
    chunk: int = 128,
) -> tuple[Array, Array | None]:  # (..., n, d), (m, d), c and c̄ (..., n or 1, 1) -> (..., n, d), (m, d)
    """x̄ and W̄ by way of the maximum `found`: its cotangent goes in equal parts to the entries that attain it. Arguments as `_shift`."""
    xp, axes, count, pieces = namespace(x), _axes(shift, x), 0, []
    for rows, allowed in _groups(shift, x, mask, chunk):
        reached = _attained(_measured(features, shift, rows, projection), allowed, found)
        count = count + xp.sum(xp.astype(reached, xp.int64), axis=axes, keepdims=True)
    for rows, allowed in _groups(shift, x, mask, chunk):
        measure = _measured(features, shift, rows, projection)
        reached, share = _attained(measure, allowed, found), _share(measure, xp.where(count > 0, count, 1), found)
        bars = _measure_back(features, shift, rows, projection, xp.where(reached, share * bar, exact(0, x)))
        pieces.append(_exponents_back(features, rows, projection, bars))
    x_bars = [x_bar for x_bar, _ in pieces]
    return (x_bars[0] if len(x_bars) == 1 else xp.concat(x_bars, axis=-2)), total(*(more for _, more in pieces))


def _shifted_vjp(
    features: Features, shift: str, x: Array, projection: Array | None, *, held: bool
) -> tuple[Array, Pullback]:  # (..., n, d), (m, d) -> (..., n, r), pullback
    """The features of `x` with its own maximum, and their pullback to x̄ and W̄. `held`: the maximum is a constant."""
    found = _shift(features, shift, x, projection)
    phi, back = _mapped_vjp(features, x, projection, found)

    def pullback(bar: Array) -> tuple[Array, Array | None]:
        x_bar, projection_bar, shift_bar = back(bar)
        if held or shift_bar is None:
            return x_bar, projection_bar
        more = _shift_back(features, shift, x, projection, found, shift_bar)
        return x_bar + more[0], total(projection_bar, more[1])

    return phi, pullback


def _alone_vjp(
    features: Features, x: Array, projection: Array | None, *, detached: bool = False
) -> tuple[Array, Pullback]:
    """The features of `x` outside attention, and their pullback."""
    _check_features(x, projection)
    return _shifted_vjp(features, features.key_shift, x, projection, held=detached)


@vjp_of(positive_features, "x", "projection")
def positive_features_vjp(
    x: Array,
    projection: Array,
    *,
    scaled: bool = False,
    shift: Shift = "none",
    epsilon: float = 0.0,
    normalized: bool = True,
    detached: bool = False,
) -> tuple[Array, Pullback]:  # (..., n, d), (m, d) -> (..., n, m), pullback
    """x̄' = Wᵀ ū - x' Σ_r t_r, W̄ = Σ ū x'ᵀ with t = φ̄ exp(u - h - c)/√m, ū = t + c̄ ∂c/∂u, c̄ = -Σ t over what c is the maximum of.

    ∂c/∂u is 1/k at the k entries that attain the maximum and 0 elsewhere: the subgradient in which equal entries count alike. Balls that may
    attain it get [0, 1], so that nothing is undecided. `detached` holds the maximum constant, c̄ = 0, which is not the gradient of the function but
    what some implementations compute. Other arguments and errors as `positive_features`.
    """
    return _alone_vjp(Features("positive", scaled, shift, shift, epsilon, normalized), x, projection, detached=detached)


@vjp_of(trigonometric_features, "x", "projection")
def trigonometric_features_vjp(
    x: Array,
    projection: Array,
    *,
    scaled: bool = False,
    shift: Shift = "none",
    normalized: bool = True,
    detached: bool = False,
) -> tuple[Array, Pullback]:  # (..., n, d), (m, d) -> (..., n, 2m), pullback
    """x̄' = Wᵀ ū + x' (Σ_r φ̄_r φ_r + c̄ ∂c/∂h), W̄ = Σ ū x'ᵀ with ū = φ̄_sin φ_cos - φ̄_cos φ_sin, c̄ = -Σ φ̄ φ.

    Arguments and errors as `trigonometric_features`; ties and `detached` as in `positive_features_vjp`.
    """
    return _alone_vjp(
        Features("trigonometric", scaled, shift, shift, 0.0, normalized), x, projection, detached=detached
    )


@vjp_of(hyperbolic_features, "x", "projection")
def hyperbolic_features_vjp(
    x: Array,
    projection: Array,
    *,
    scaled: bool = False,
    shift: Shift = "none",
    normalized: bool = True,
    detached: bool = False,
) -> tuple[Array, Pullback]:  # (..., n, d), (m, d) -> (..., n, 2m), pullback
    """x̄' = Wᵀ ū - x' Σ_r t_r, W̄ = Σ ū x'ᵀ with t = φ̄ φ, ū = t₊ - t₋ + c̄ sign(u) ∂c/∂|u|, c̄ = -Σ t; for "norm", c̄ to |x'|² instead.

    Arguments and errors as `hyperbolic_features`; ties and `detached` as in `positive_features_vjp`; sign(0) = 0.
    """
    return _alone_vjp(Features("hyperbolic", scaled, shift, shift, 0.0, normalized), x, projection, detached=detached)


@vjp_of(relu_features, "x", "projection")
def relu_features_vjp(
    x: Array,
    projection: Array | None,
    *,
    scaled: bool = False,
    epsilon: float = 1e-3,
    normalized: bool | Literal["inside"] = True,
) -> tuple[Array, Pullback]:  # (..., n, d), (m, d) -> (..., n, m), pullback
    """x̄' = Wᵀ ū, W̄ = Σ ū x'ᵀ with ū = φ̄/√m where u > 0, and 0 elsewhere (at 0 too); W̄ is None without a projection.

    Arguments and errors as `relu_features`, and UndecidedError where a ball holds 0 and a number above.
    """
    return _alone_vjp(Features("relu", scaled, "none", "none", epsilon, normalized), x, projection)


# --- backwards: attention ---------------------------------------------------------------------------------------------------------------


def _cancels(features: Features, rule: str, *, of_queries: bool) -> bool:
    """Whether a maximum that is subtracted cancels in N/D: nothing may be added to what it divides."""
    return features.epsilon == 0 and (rule == "bare" or (rule == "keys" and of_queries))


def _map_rule(
    features: Features,
    shift: Shift,
    x: Array,
    projection: Array | None,
    mask: Array | None,
    chunk: int,
    *,
    held: bool,
) -> tuple[MapRule, Callable[..., tuple[Array, Array | None]]]:
    """The feature map with its rule, and what turns x̄ and the sums of W̄ and c̄ over the chunks into x̄ and W̄. `held`: c̄ is left out."""
    if shift == "row":
        row_map = _feature_map(features, shift, x, projection, mask, chunk)
        rule = MapRule(row_map, lambda rows: _shifted_vjp(features, shift, rows, projection, held=held))
        return rule, lambda x_bar, projection_bar: (x_bar, projection_bar)
    found = _shift(features, shift, x, projection, mask, chunk)

    def completed(x_bar: Array, projection_bar: Array | None, shift_bar: Array | None) -> tuple[Array, Array | None]:
        if held or shift_bar is None:
            return x_bar, projection_bar
        more = _shift_back(features, shift, x, projection, found, shift_bar, mask, chunk)
        return x_bar + more[0], total(projection_bar, more[1])

    rule = MapRule(
        lambda rows: _mapped(features, rows, projection, found),
        lambda rows: _mapped_vjp(features, rows, projection, found),
    )
    return rule, completed


@vjp_of(favor_attention, "q", "k", "v", "projection")
def favor_attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    projection: Array | None,
    *,
    causal: bool = False,
    mask: Array | None = None,
    dialect: str | Dialect = "paper",
    kernel: str = "softmax",
    chunk: int = 128,
    detached: bool | None = None,
) -> tuple[Array, Pullback]:  # (..., n, d), (..., m, d), (..., m, e), (r, d) -> (..., n, e), pullback
    """q̄, k̄, v̄, W̄: `weighted_mean_vjp`, `linear_attention_vjp`, the pullbacks of the features and of their maxima; masked keys exactly 0.

    Work and memory are linear in the length: features and their cotangents are made for `chunk` positions at a time, up to three times each.

    Parameters
    ----------
    q, k, v, projection, causal, mask, dialect, kernel, chunk : as `favor_attention`
    detached : whether maxima are held constant. None: as the dialect's implementation does (`Features.detached`): performer-pytorch holds them,
        the others do not. False gives the gradient of what `favor_attention` computes, for every dialect. Where maxima cancel (epsilon = 0, and
        nothing added to the denominator, as in the paper), both are the same and the path through the maximum is not computed

    Returns
    -------
    output, and its pullback, which returns q̄, k̄, v̄, W̄; W̄ is None without a projection. (The paper draws W and does not learn it.) A maximum's
        cotangent goes in equal parts to the entries that attain it, ReLU has slope 0 at 0, and the guard of "google-jax" the slope 1 on both sides

    Raises
    ------
    DtypeError, ShapeError, ConfigError, UndecidedError
        as `favor_attention`, and UndecidedError where ReLU's argument is a ball that holds 0 and a number above.
    """
    convention, features, chunk = _checked(q, k, v, projection, mask, dialect, kernel, chunk)
    held = features.detached if detached is None else detached
    how = convention.causal_denominator if causal else convention.denominator
    (q_rule, q_completed), (k_rule, k_completed) = (
        _map_rule(
            features, shift, x, projection, allowed, chunk, held=held or _cancels(features, how, of_queries=first)
        )
        for first, shift, x, allowed in (
            (True, features.query_shift, q, None),
            (False, features.key_shift, k, mask),
        )
    )
    added = convention.epsilon if how == "keys" else 0.0
    (numerators, denominators), swept_back = swept(
        q, k, v, q_rule, k_rule, causal=causal, mask=mask, chunk=chunk, added=added
    )
    denominators = _stabilised(denominators, how, convention.epsilon, q, q_rule.map, chunk)
    seen = None if mask is None else sees_a_key(mask, q.shape[-2], causal=causal)
    output, mean_back = weighted_mean_vjp(numerators, denominators, seen)

    def pullback(o_bar: Array) -> tuple[Array, Array, Array, Array | None]:
        q_bar, k_bar, v_bar, q_rest, k_rest = swept_back(*mean_back(o_bar))
        (q_bar, by_queries), (k_bar, by_keys) = q_completed(q_bar, *q_rest), k_completed(k_bar, *k_rest)
        return q_bar, k_bar, v_bar, total(by_queries, by_keys)

    return output, pullback
