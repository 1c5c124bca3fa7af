"""More positions than a model was trained with, and NEZHA's relative positions.

Hierarchical positions make n² rows of a trained table of n, without training:

    u_i = (p_i - α p_1)/(1 - α)                  q_{(i-1)n+j} = α u_i + (1-α) u_j                i, j = 1..n

For j <= n this is p_j: u_1 = p_1, so q_j = α p_1 + p_j - α p_1 (claim HIERPOS-1); here those rows are selected, not computed, so they are the
table bit for bit. The others are computed in the form

    q_{(i-1)n+j} = p_j + β (p_i - p_1)           β = α/(1-α)

which is the same number, and in which nothing large cancels (claim HIERPOS-2.error bounds its rounding). α = 0 (β = 0) gives i no part in it,
α = 1/2 (β = 1) gives (i, j) and (j, i) the same row, α = 1 has no β, and as α grows (β -> -1) all (i, i) tend to p_1: numbers α whose β rounds to one
of these in the dtype of the table are refused.

NEZHA has no table. Its relative position embeddings are a fixed sinusoid of the distance, clipped at ±64,

    R_ij = e_{clip(j - i, -64, 64) + 64}         e_{t, 2k} = sin(t/10000^{2k/w}),  e_{t, 2k+1} = cos(t/10000^{2k/w})

which is how the released code and bert4keras have it (the paper's eqs. (6) and (7) write the sine of j - i itself, unclipped), and is added to
the key and to the value that query i sees at j (`refimpl.attention.scaled_dot_product_attention`).

References: Su Jianlin, "Hierarchical decomposition of position embeddings, so that BERT can handle longer texts" (in Chinese), 2020,
kexue.fm/archives/7947; J. Wei et al., "NEZHA: neural contextualized representation for Chinese language understanding", arXiv 1909.00204,
section 2.2.
"""

from __future__ import annotations

import functools
import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any, TypeVar

from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.gradients import Pullback, filled, rows_summed, vjp_of
from refimpl.inputs import as_array, rows
from refimpl.number_system import (
    Array,
    check_floating,
    device_of,
    exact,
    is_ball,
    namespace,
    rounded_once,
    whole_number,
    widened,
)

__all__ = [
    "extend",
    "extend_vjp",
    "hierarchical_bases",
    "hierarchical_bases_vjp",
    "hierarchical_positions",
    "hierarchical_positions_vjp",
    "relative_positions",
]

Weights = TypeVar("Weights")
_SPOILT = {
    0: "every row would repeat after n positions",
    Fraction(1, 2): "positions (i, j) and (j, i) would be the same",
    1: "the bases divide by 1 - alpha",
}
_ENDLESS = "positions (i, i) would be p_1 for every i"


def _share(alpha: float | Fraction) -> Fraction:
    """β = α/(1-α)."""
    return Fraction(alpha) / (1 - Fraction(alpha))


def _spoilt(alpha: float | Fraction, table: Array) -> str | None:
    """What is wrong with a finite α: it is one of those that do not do, or β is theirs in the dtype of the table. Balls do not round."""
    if alpha in _SPOILT or is_ball(table):
        return _SPOILT.get(alpha)
    xp, share = namespace(table), _share(alpha)
    dtype, name = table.dtype, str(table.dtype).rpartition(".")[2]
    if abs(share) > Fraction(float(xp.finfo(dtype).max)):
        return f"in {name} it cannot be told from 1: {_SPOILT[1]}"
    rounded = float(xp.asarray(float(share), dtype=dtype, device=device_of(table)))
    known = {0.0: ("0", _SPOILT[0]), 1.0: ("1/2", _SPOILT[Fraction(1, 2)]), -1.0: ("infinity", _ENDLESS)}
    return "in {} it cannot be told from {}: {}".format(name, *known[rounded]) if rounded in known else None


def _checked_alpha(alpha: Any, table: Array) -> Any:
    whole = whole_number(alpha)
    alpha = alpha if whole is None else whole
    number = isinstance(alpha, int | float | Fraction) and not isinstance(alpha, bool) and math.isfinite(alpha)
    reason = _spoilt(alpha, table) if number else "it is no finite number"
    if reason is not None:
        raise ConfigError(
            f"alpha = {alpha!r} does not do: {reason}",
            where="hierarchical positions",
            expected="a finite number other than 0, 1/2 and 1, and none that rounds to them",
            got=repr(alpha),
            remedy="leave it at 0.4",
        )
    return alpha


def _check_table(table: Array) -> None:
    check_floating("table", table)
    if table.ndim != 2 or 0 in table.shape:
        raise ShapeError(
            "a position table must have two axes, neither empty", expected="(n, d)", got=tuple(table.shape)
        )


def _checked_positions(positions: Any, table: Array) -> Array:  # -> int (...)
    """`positions` as an integer array beside `table`, refused before any gather where there is no such position."""
    where, n = "hierarchical_positions(positions)", table.shape[0]
    given = as_array("positions", positions, table)
    if "int" not in str(given.dtype):
        raise TokenError("positions must be whole numbers", where=where, expected="an integer dtype", got=given.dtype)
    xp = namespace(table, given)
    if 0 in given.shape:
        return xp.astype(given, xp.int64)
    lowest, highest = int(xp.min(given)), int(xp.max(given))
    if lowest < 0:
        raise TokenError("a position is negative", where=where, expected="positions from 0", got=lowest)
    if highest >= n * n:
        raise TokenError(
            f"a table of {n} rows gives {n * n} positions",
            where=where,
            expected=f"0 <= position < {n}² = {n * n}",
            got=f"positions up to {highest}",
            remedy="shorten the text, or begin with a model of more positions",
        )
    return xp.astype(given, xp.int64)


@rounded_once
def hierarchical_bases(table: Array, alpha: float | Fraction = 0.4) -> Array:  # (n, d) -> (n, d)
    """u_i = (p_i - α p_1)/(1 - α), the vectors of which n² positions are made.

    Parameters
    ----------
    table : array, (n, d), floating or balls: the rows p_1 .. p_n
    alpha : number other than 0, 1/2 and 1; a float means that binary double

    Returns
    -------
    array, (n, d), the dtype of `table`

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if the table is not floating, not a table, or alpha is one of those that do not do, in this dtype.
    """
    _check_table(table)
    alpha = _checked_alpha(alpha, table)
    return (table - exact(alpha, table) * table[:1, :]) / exact(1 - Fraction(alpha), table)


@rounded_once
def hierarchical_positions(
    table: Array, positions: Any, alpha: float | Fraction = 0.4
) -> Array:  # (n, d), int (...) -> (..., d)
    """q_{(i-1)n+j} = α u_i + (1-α) u_j = p_j + α/(1-α) (p_i - p_1), position t (from 0) having i - 1 = t div n, j - 1 = t mod n; p_j for t < n.

    Parameters
    ----------
    table : array, (n, d), floating or balls
    positions : int array of any shape, or (nested) list, 0 <= position < n²
    alpha : number other than 0, 1/2 and 1; a float means that binary double

    Returns
    -------
    array, (..., d), the dtype of `table`; rows of positions below n are the table's, bit for bit. A number of another row is off by at most
        u |q| + ((1+u)⁵ - 1) |β (p_i - p_1)|, u the unit roundoff: where |β| is small or large beside 1/u, one of the two indices is lost

    Raises
    ------
    DtypeError, ShapeError, ConfigError, TokenError
        as `hierarchical_bases`; and if a position is not a whole number, negative, or n² or above.
    """
    _check_table(table)
    alpha = _checked_alpha(alpha, table)
    at, n = _checked_positions(positions, table), table.shape[0]
    xp, share, own = namespace(table, at), exact(_share(alpha), table), rows(table, at % n)
    return xp.where((at < n)[..., None], own, own + share * (rows(table, at // n) - table[0, :]))


def extend(weights: Weights, *, to: int, alpha: float | Fraction = 0.4, offset: int = 0) -> Weights:
    """The same weights with `to` positions: row offset + t of the new table is q_t, the first offset + n rows are unchanged.

    Parameters
    ----------
    weights : a model's parameters with a learned table `position_embedding`, (offset + n, d)
    to : int, n <= to <= n²; the configuration must be told as well
    alpha : as `hierarchical_positions`
    offset : int, the rows that precede position 0 in the table: 2 in RoBERTa's, otherwise 0

    Returns
    -------
    the same type as `weights`

    Raises
    ------
    ConfigError, ShapeError
        if there is no such table, `offset` leaves nothing of it, or `to` is not in the range.
    """
    table = getattr(weights, "position_embedding", None)
    if table is None:
        expected, got = "weights with a position_embedding", type(weights).__name__
        raise ConfigError("the model has no learned position table", where="extend", expected=expected, got=got)
    _check_table(table)
    n = table.shape[0] - offset
    if offset < 0 or n < 1:
        raise ConfigError("offset leaves no positions", where="extend(offset=...)", expected="n >= 1", got=offset)
    whole = whole_number(to)
    if whole is None or not n <= whole <= n * n:
        raise ConfigError(
            f"a table of {n} positions can be extended to {n * n}",
            where="positions",
            expected=f"a whole number from {n} to {n}² = {n * n}",
            got=repr(to),
        )
    xp = namespace(table)
    longer = hierarchical_positions(table[offset:, :], xp.arange(whole, device=device_of(table)), alpha)
    return weights._replace(position_embedding=xp.concat([table[:offset, :], longer], axis=0))  # type: ignore[attr-defined, no-any-return]


def _waves(angle: Decimal) -> tuple[float, float]:
    """sin and cos of a + b with a = angle to a double and b the rest: sin a + b cos a, cos a - b sin a; terms in b², below 2^-90, are left out."""
    near = float(angle)
    rest = float(angle - Decimal(near))
    return math.sin(near) + rest * math.cos(near), math.cos(near) - rest * math.sin(near)


@functools.lru_cache(maxsize=16)
def _double_sinusoid(count: int, width: int) -> tuple[tuple[float, ...], ...]:
    """The table in doubles. A double for the angle would cost its sine up to 128 u: it has 40 digits."""
    with localcontext(Context(prec=40)):
        inverse = [Decimal(10_000) ** (Decimal(-2 * k) / width) for k in range(width // 2)]
        return tuple(tuple(wave for each in inverse for wave in _waves(t * each)) for t in range(count))


def _sinusoid(count: int, width: int, like: Array) -> Array:  # -> (count, width)
    """e_{t, 2k} = sin(t/10000^{2k/w}), e_{t, 2k+1} = cos of the same: computed as scalars, rounded once to the dtype of `like`."""
    table: Any
    if is_ball(like):
        inverse = [exact(10_000, like) ** exact(Fraction(-2 * k, width), like) for k in range(width // 2)]
        angles = [[t * each for each in inverse] for t in range(count)]
        table = [[wave for angle in row for wave in (angle.sin(), angle.cos())] for row in angles]
    else:
        table = _double_sinusoid(count, width)
    return namespace(like).asarray(table, dtype=like.dtype, device=device_of(like))


def relative_positions(n_query: int, n_key: int, width: int, *, like: Array, clip: int = 64) -> Array:  # -> (n, m, w)
    """R_ij = e_{clip(j - i, -c, c) + c}, e_{t, 2k} = sin(t/10000^{2k/w}), e_{t, 2k+1} = cos(t/10000^{2k/w}).

    Parameters
    ----------
    n_query, n_key : int, n_query <= n_key: the queries are the last `n_query` of the `n_key` positions
    width : int, even: w, of one head
    like : array, floating or balls: whose dtype, namespace and device the result has
    clip : int from 1, the distance c beyond which all are alike

    Returns
    -------
    array, (n_query, n_key, width); in float64 within the error of the library's sine and cosine and half a unit in the last place more, in other
        dtypes that rounded once

    Raises
    ------
    DtypeError, ShapeError, ConfigError
        if `like` is not floating, there are more queries than keys, the width is odd, or clip is no distance.
    """
    check_floating("like", like)
    if n_query > n_key:
        raise ShapeError("more queries than keys", where="relative_positions", expected=f"<= {n_key}", got=n_query)
    if width < 2 or width % 2:
        raise ShapeError("a sine and a cosine each: the head width must be even", where="relative_positions", got=width)
    whole = whole_number(clip)
    if whole is None or whole < 1:
        raise ConfigError("clip must be a distance", where="relative_positions", expected="from 1", got=repr(clip))
    xp, device = namespace(like), device_of(like)
    query = xp.arange(n_query, device=device)[:, None] + (n_key - n_query)
    distance = xp.clip(xp.arange(n_key, device=device)[None, :] - query, -whole, whole) + whole
    return rows(_sinusoid(2 * whole + 1, width, like), distance)


# --- backwards ------------------------------------------------------------------------------------------------------------------------
#
# α is a constant. `relative_positions` has no parameters, and so no rule: what it is added to has one.


def _with_first(first: Array, others: Array) -> Array:  # (d,), (n, d) -> (n, d)
    """`others` with `first` in the place of its first row."""
    return namespace(others).concat([first[None, :], others[1:, :]], axis=0)


@vjp_of(hierarchical_bases, "table")
def hierarchical_bases_vjp(
    table: Array, alpha: float | Fraction = 0.4
) -> tuple[Array, Pullback]:  # (n, d) -> (n, d), pullback
    """p̄_i = ū_i/(1-α) for i > 1, p̄_1 = ū_1 - α/(1-α) Σ_{i>1} ū_i, since u_1 = p_1. Arguments and errors as `hierarchical_bases`."""
    bases, constant = hierarchical_bases(table, alpha), Fraction(_checked_alpha(alpha, table))

    def pullback(u_bar: Array) -> tuple[Array]:  # (n, d) -> (n, d)
        rest = namespace(u_bar).sum(u_bar[1:, :], axis=0)
        first = u_bar[0, :] - exact(_share(constant), u_bar) * rest
        return (_with_first(first, u_bar / exact(1 - constant, u_bar)),)

    return bases, pullback


@rounded_once
def _table_cotangent(q_bar: Array, at: Array, n: int, share: Any) -> Array:  # (..., d), int (...) -> (n, d)
    """p̄_j = Σ over t of row j of q̄_t, and β q̄_t of later t added to row i, subtracted from row 1."""
    xp = namespace(q_bar, at)
    later = xp.where((at >= n)[..., None], q_bar, exact(0, q_bar))
    by_group = rows_summed(later, at // n, n)  # whose first row is 0
    total = xp.sum(xp.reshape(later, (-1, later.shape[-1])), axis=0)
    return rows_summed(q_bar, at % n, n) + share * _with_first(-total, by_group)


@vjp_of(hierarchical_positions, "table")
def hierarchical_positions_vjp(
    table: Array, positions: Any, alpha: float | Fraction = 0.4
) -> tuple[Array, Pullback]:  # (n, d), int (...) -> (..., d), pullback
    """p̄_r = Σ_{j(t)=r} q̄_t + β Σ_{i(t)=r, t>=n} q̄_t - β [r=1] Σ_{t>=n} q̄_t, β = α/(1-α). Arguments and errors as `hierarchical_positions`.

    A position that occurs several times counts as often.
    """
    value, share = hierarchical_positions(table, positions, alpha), _share(_checked_alpha(alpha, table))

    def pullback(q_bar: Array) -> tuple[Array]:  # (..., d) -> (n, d)
        at = _checked_positions(positions, table)
        return (_table_cotangent(q_bar, at, table.shape[0], exact(share, q_bar)),)

    return value, pullback


@vjp_of(extend, "weights")
def extend_vjp(
    weights: Weights, *, to: int, alpha: float | Fraction = 0.4, offset: int = 0
) -> tuple[Weights, Pullback]:  # weights -> weights, pullback
    """p̄ of the first offset + n rows, as `hierarchical_positions_vjp` has it; other cotangents are handed through. Arguments as `extend`."""
    longer, table = extend(weights, to=to, alpha=alpha, offset=offset), weights.position_embedding  # type: ignore[attr-defined]
    share, n = _share(_checked_alpha(alpha, widened(table))), table.shape[0] - offset

    def pullback(longer_bar: Weights) -> tuple[Weights]:
        longer_bar = filled(longer_bar, longer)
        q_bar = longer_bar.position_embedding  # type: ignore[attr-defined]
        xp, later = namespace(q_bar), q_bar[offset:, :]
        at = xp.arange(later.shape[0], device=device_of(q_bar))
        bar = xp.concat([q_bar[:offset, :], _table_cotangent(later, at, n, exact(share, q_bar))], axis=0)
        return (longer_bar._replace(position_embedding=bar),)  # type: ignore[attr-defined]

    return longer, pullback
