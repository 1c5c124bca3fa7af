"""Numbers from one floating-point format to another in pieces that stay in the cache, float16 to float32 by shifts.

A float16 of sign s, exponent e and fraction m is (-1)^s 2^(e-15) (1 + m/2¹⁰), or (-1)^s 2⁻¹⁴ m/2¹⁰ where e = 0. The same bits in the places of
a float32,

    s → bit 31,   e → bits 23 to 27,   m → bits 13 to 22,

are that number times 2⁻¹¹² (15 - 127), where e = 0 too: a subnormal number becomes one. One product with 2¹¹² gives the number itself, exactly, -0
included. Only e = 31 is another matter, which stands for infinity and NaN: it gives magnitudes from 65,536 on, where float16 has no finite values, so
that these are found by the largest magnitude of a piece, and their exponents set to 255.

As integers: the sign is carried along (int16 to int32), 13 places to the left brings exponent and fraction where they belong, and a mask clears the
copies of the sign in bits 28 to 30. Three passes over integers and a product, each with vector instructions, on numbers in the cache.

Reference: IEEE 754-2019, section 3.4 (binary interchange formats).
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["convert", "is_finite", "shifted", "widen"]

# Numbers of a piece: 4 MiB as float32, in the last-level cache; with smaller ones threads of Python wait for each other.
PIECE = 1 << 20
PLACES = 13
SIGN_AND_REST = np.int32(-0x70000001)  # 0x8fffffff: without bits 28 to 30
SCALE = np.float32(2.0**112)
BEYOND = 65536.0  # what the exponent of infinity and NaN stands for as an ordinary one
ENDLESS = np.uint16(0x7C00)  # the exponent of infinity and NaN


def shifted(half: Any, out: Any) -> None:  # float16 (...), float32 (...) -> written
    """out = half, exactly, where `half` is finite; (-1)^s 65536 (1 + m/2¹⁰) where its exponent is that of infinity and NaN."""
    bits = out.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    np.left_shift(bits, PLACES, out=bits)
    np.bitwise_and(bits, SIGN_AND_REST, out=bits)
    np.multiply(out, SCALE, out=out)


def _pieces(out: Any, *others: Any) -> Iterator[tuple[Any, ...]]:  # each (n,) or (n, m)
    """Views of the same places of all arrays, of at most `PIECE` numbers, in the order in which `out` lies in memory."""
    arrays = [array.reshape(1, -1) if array.ndim < 2 else array for array in (out, *others)]
    if arrays[0].strides[0] < arrays[0].strides[1]:
        arrays = [array.T for array in arrays]
    rows, columns = arrays[0].shape
    step = max(1, PIECE // max(columns, 1))
    for i in range(0, rows, step):
        for j in range(0, columns, PIECE):
            yield tuple(array[i : i + step, j : j + PIECE] for array in arrays)


def widen(half: Any, out: Any) -> bool:  # float16 (n,) or (n, m), float32 -> written
    """out = half, exactly: subnormal numbers, signed zeros, infinities and NaN with sign and fraction too. Returns whether all numbers are finite."""
    finite = True
    for piece, source in _pieces(out, half):
        shifted(source, piece)
        if max(piece.max(initial=0), -piece.min(initial=0)) >= BEYOND:
            finite, bits = False, piece.view(np.int32)
            endless = np.abs(piece) >= BEYOND
            bits[endless] = bits[endless] & np.int32(-0x7F800001) | np.int32(0x7F800000)
    return finite


def _converted(out: Any, array: Any) -> bool:
    """out = array, rounded to the dtype of `out`; whether all of it is finite. One thread."""
    if array.dtype == np.float16 and out.dtype == np.float32:
        return widen(array, out)
    finite = True
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for piece, source in _pieces(out, array):
            np.copyto(piece, source, casting="unsafe")
            finite = finite and _finite(piece)
    return finite


def _finite(piece: Any) -> bool:
    if piece.dtype == np.float16:
        return not bool(np.any(np.bitwise_and(piece.view(np.uint16), ENDLESS) == ENDLESS))
    return bool(np.isfinite(piece).all())


def is_finite(array: Any) -> bool:  # float16, float32 or float64 (n,) or (n, m)
    """Whether all numbers are; looked at in the order in which they lie in memory."""
    return all(_finite(piece) for (piece,) in _pieces(array))


def convert(array: Any, out: Any, threads: int = 1) -> bool:  # any float (...), float (...) -> written
    """out = array, each number rounded once to the dtype of `out`, in its memory order; whether all of `out` is finite.

    What does not fit becomes infinite. `threads` threads write a part each; the numbers do not depend on how many there are.
    """
    if out.ndim > 2:
        return False not in [convert(source, part, threads) for source, part in zip(array, out, strict=True)]
    lengthwise = out.ndim < 2 or out.strides[0] >= out.strides[1]
    length = out.shape[0 if lengthwise else 1] if out.ndim else 1
    if threads == 1 or length < threads or out.size < 2 * PIECE:
        return _converted(out, array)
    bounds = [length * i // threads for i in range(threads + 1)]
    places = [np.s_[a:b] if lengthwise else np.s_[:, a:b] for a, b in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        return all([*pool.map(lambda place: _converted(out[place], array[place]), places)])
