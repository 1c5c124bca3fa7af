"""What models are given: token ids, masks, positions; checked on the host before any table is read.

x[b, t] = E[ids[b, t]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.errors import DtypeError, ShapeError, TokenError
from refimpl.gradients import Pullback, rows_summed, vjp_of
from refimpl.number_system import Array, device_of, namespace

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "as_array",
    "check_mask",
    "check_positions",
    "check_selected",
    "check_some_token",
    "check_token_ids",
    "rows",
    "rows_vjp",
]


def as_array(name: str, values: Any, like: Array) -> Array:
    """`values`, converted beside `like` unless it is an array already."""
    if hasattr(values, "dtype"):
        return values
    try:
        return namespace(like).asarray(values, device=device_of(like))
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"{name} is not a rectangular array of whole numbers",
            where=name,
            got=str(error),
            remedy="pad the rows to one length and pass mask=, true at the real tokens",
        ) from None


def check_token_ids(token_ids: Any, vocab_size: int, like: Array) -> Array:  # -> int (batch, length)
    """`token_ids` as an integer array beside `like`, refused before any gather if one of them is outside the vocabulary.

    The comparison matters on every backend: NumPy counts negative ids from the end, and a GPU wraps ids that are too large.
    """
    xp = namespace(like)
    ids = as_array("token_ids", token_ids, like)
    if ids.ndim != 2:
        remedy = "for a single sequence pass token_ids[None, :]"
        raise ShapeError(
            "token_ids must have two axes", expected="(batch, length)", got=tuple(ids.shape), remedy=remedy
        )
    if 0 in ids.shape:
        raise TokenError(
            "the prompt is empty", where="token_ids", expected="at least one token a row", got=tuple(ids.shape)
        )
    if "int" not in str(ids.dtype):
        raise TokenError(
            "token ids must be whole numbers", where="token_ids", expected="an integer dtype", got=ids.dtype
        )
    ids = xp.astype(ids, xp.int64)  # a narrow dtype may not hold the vocabulary's size
    outside = (ids < 0) | (ids >= vocab_size)
    if bool(xp.any(outside)):
        row, column = (int(axis[0]) for axis in xp.nonzero(outside))
        raise TokenError(
            "token id out of range",
            where=f"token_ids[{row}, {column}]",
            expected=f"0 <= id < {vocab_size}",
            got=int(ids[row, column]),
            remedy="encode the text with this model's own tokenizer",
        )
    return ids


def check_mask(mask: Any, ids: Array) -> Array:  # -> bool (batch, length)
    """`mask` as booleans beside `ids`, all true where it is None; raises ShapeError or DtypeError for what is no mask of them."""
    xp = namespace(ids)
    if mask is None:
        return xp.ones(ids.shape, dtype=xp.bool, device=device_of(ids))
    mask = as_array("mask", mask, ids)
    if tuple(mask.shape) != tuple(ids.shape):
        raise ShapeError("the mask must have the shape of token_ids", expected=tuple(ids.shape), got=tuple(mask.shape))
    if "bool" not in str(mask.dtype) and ("int" not in str(mask.dtype) or bool(xp.any((mask != 0) & (mask != 1)))):
        raise DtypeError(
            "the mask must say true or false",
            expected="booleans, or whole numbers 0 and 1; true (1) at real tokens",
            got=mask.dtype,
            remedy="an additive mask of 0 and -inf is the opposite: pass additive_mask == 0",
        )
    return xp.astype(mask, xp.bool)


def check_some_token(real: Array) -> None:  # bool (batch, length)
    """Raise TokenError for a row that is padding throughout: a text of no token has no answer, as an empty one has none."""
    xp = namespace(real)
    empty = ~xp.any(real, axis=-1)
    if bool(xp.any(empty)):
        raise TokenError(
            "the mask leaves a row without a token",
            where=f"mask[{int(xp.nonzero(empty)[0][0])}]",
            expected="a true in every row, at real tokens",
            got="false throughout",
            remedy="leave the row out",
        )


def check_positions(positions: Array, shape: tuple[int, ...]) -> None:
    """Raise TokenError or ShapeError unless positions are whole numbers that broadcast to `shape`, (batch, length)."""
    if "int" not in str(positions.dtype):
        raise TokenError(
            "positions must be whole numbers", where="positions", expected="an integer dtype", got=positions.dtype
        )
    if tuple(positions.shape) not in (shape, shape[-1:], (1, shape[-1])):
        raise ShapeError(
            "positions must fit token_ids",
            where="positions",
            expected=f"{shape} or {shape[-1:]}",
            got=tuple(positions.shape),
        )


def check_selected(selected: Iterable[int], batch: int) -> list[int]:
    """The rows of a batch that decoding goes on with, in their new order; TokenError unless there are some, each 0 <= row < batch."""
    found = [int(row) for row in selected]
    wrong = next((place for place, row in enumerate(found) if not 0 <= row < batch), None)
    if wrong is not None or not found:
        got = "none" if wrong is None else found[wrong]
        where = "select(rows)" if wrong is None else f"select(rows)[{wrong}]"
        raise TokenError("there is no such row", where=where, expected=f"some rows, each 0 <= row < {batch}", got=got)
    return found


def rows(table: Array, ids: Array) -> Array:  # (n, d), int (...) -> (..., d)
    """y[t] = table[ids[t]], for ids that have been checked."""
    xp = namespace(table, ids)
    return xp.reshape(xp.take(table, xp.reshape(ids, (-1,)), axis=0), (*ids.shape, table.shape[-1]))


@vjp_of(rows, "table")
def rows_vjp(table: Array, ids: Array) -> tuple[Array, Pullback]:  # (n, d), int (...) -> (..., d), pullback
    """table̅_r = Σ ȳ_t over the t with ids_t = r; rows that were not taken get exactly 0. Arguments as `rows`."""

    def pullback(y_bar: Array) -> tuple[Array]:  # (..., d) -> (n, d)
        return (rows_summed(y_bar, ids, table.shape[0]),)

    return rows(table, ids), pullback
