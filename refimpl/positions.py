"""More positions than a model was trained with, and NEZHA's relative positions.

Hierarchical positions make n² rows of a trained table of n, without training:

    u_i = (p_i - α p_1)/(1 - α)                  q_{(i-1)n+j} = α u_i + (1-α) u_j                i, j = 1..n

For j <= n this is p_j: u_1 = p_1, so q_j = α p_1 + p_j - α p_1 (claim HIERPOS-1); here those rows are selected, not computed, so they are the
table bit for bit. α = 1/2 gives (i, j) and (j, i) the same row, α = 0 gives i no part in it, and α = 1 has no u: they are refused.

NEZHA has no table. Its relative position embeddings are a fixed sinusoid of the distance, clipped at ±64,

    R_ij = e_{clip(j - i, -64, 64) + 64}         e_{t, 2k} = sin(t/10000^{2k/w}),  e_{t, 2k+1} = cos(t/10000^{2k/w})

which is how the released code and bert4keras have it (the paper's eqs. (6) and (7) write the sine of j - i itself, unclipped), and is added to
the key and to the value that query i sees at j (`refimpl.attention.scaled_dot_product_attention`).

References: Su Jianlin, "Hierarchical decomposition of position embeddings, so that BERT can handle longer texts" (in Chinese), 2020,
kexue.fm/archives/7947; J. Wei et al., "NEZHA: neural contextualized representation for Chinese language understanding", arXiv 1909.00204,
section 2.2.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, TypeVar

from refimpl.errors import ConfigError, ShapeError, TokenError
from refimpl.inputs import as_array, rows
from refimpl.number_system import Array, check_floating, device_of, exact, is_ball, namespace, rounded_once

__all__ = ["extend", "hierarchical_bases", "hierarchical_positions", "relative_positions"]

Weights = TypeVar("Weights")
_SPOILT = {
    0: "every row would repeat after n positions",
    Fraction(1, 2): "positions (i, j) and (j, i) would be the same",
}


def _check_alpha(alpha: Any) -> None:
    number = isinstance(alpha, int | float | Fraction) and not isinstance(alpha, bool) and math.isfinite(alpha)
    reason = {**_SPOILT, 1: "the bases divide by 1 - alpha"}.get(alpha) if number else "it is no finite number"
    if reason is not None:
        raise ConfigError(
            f"alpha = {alpha!r} does not do: {reason}",
            where="hierarchical positions",
            expected="a finite number other than 0, 1/2 and 1",
            got=repr(alpha),
            remedy="leave it at 0.4",
        )


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
        if the table is not floating, not a table, or alpha is one of those that do not do.
    """
    _check_alpha(alpha)
    _check_table(table)
    return (table - exact(alpha, table) * table[:1, :]) / exact(1 - Fraction(alpha), table)


@rounded_once
def hierarchical_positions(
    table: Array, positions: Any, alpha: float | Fraction = 0.4
) -> Array:  # (n, d), int (...) -> (..., d)
    """q_{(i-1)n+j} = α u_i + (1-α) u_j, where position t (from 0) has i - 1 = t div n and j - 1 = t mod n; the table's own row for t < n.

    Parameters
    ----------
    table : array, (n, d), floating or balls
    positions : int array of any shape, or (nested) list, 0 <= position < n²
    alpha : number other than 0, 1/2 and 1; a float means that binary double

    Returns
    -------
    array, (..., d), the dtype of `table`; rows of positions below n are the table's, bit for bit

    Raises
    ------
    DtypeError, ShapeError, ConfigError, TokenError
        as `hierarchical_bases`; and if a position is not a whole number, negative, or n² or above.
    """
    bases, at, n = hierarchical_bases(table, alpha), _checked_positions(positions, table), table.shape[0]
    xp = namespace(table, at)
    made = exact(alpha, table) * rows(bases, at // n) + exact(1 - Fraction(alpha), table) * rows(bases, at % n)
    return xp.where((at < n)[..., None], rows(table, at % n), made)


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
    if not isinstance(to, int) or isinstance(to, bool) or not n <= to <= n * n:
        raise ConfigError(
            f"a table of {n} positions can be extended to {n * n}",
            where="positions",
            expected=f"a whole number from {n} to {n}² = {n * n}",
            got=repr(to),
        )
    xp = namespace(table)
    longer = hierarchical_positions(table[offset:, :], xp.arange(to, device=device_of(table)), alpha)
    return weights._replace(position_embedding=xp.concat([table[:offset, :], longer], axis=0))  # type: ignore[attr-defined, no-any-return]


def _sinusoid(count: int, width: int, like: Array) -> Array:  # -> (count, width)
    """e_{t, 2k} = sin(t/10000^{2k/w}), e_{t, 2k+1} = cos of the same: computed as scalars, rounded once to the dtype of `like`."""
    inverse = [exact(10_000, like) ** exact(Fraction(-2 * k, width), like) for k in range(width // 2)]
    angles = [[t * each for each in inverse] for t in range(count)]
    if is_ball(like):
        table = [[value for angle in row for value in (angle.sin(), angle.cos())] for row in angles]
    else:
        table = [[value for angle in row for value in (math.sin(angle), math.cos(angle))] for row in angles]
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
    array, (n_query, n_key, width)

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
    if not isinstance(clip, int) or isinstance(clip, bool) or clip < 1:
        raise ConfigError("clip must be a distance", where="relative_positions", expected="from 1", got=repr(clip))
    xp, device = namespace(like), device_of(like)
    query = xp.arange(n_query, device=device)[:, None] + (n_key - n_query)
    distance = xp.clip(xp.arange(n_key, device=device)[None, :] - query, -clip, clip) + clip
    return rows(_sinusoid(2 * clip + 1, width, like), distance)
