"""The slices of partitioned tensors in a TensorBundle: the keys they are stored under, and whether they make up the whole.

A slice has an extent for each axis: (start, length), or (0, -1) for the whole axis. Its key is, in OrderedCode, which sorts as its parts do,

    number 0; text: the tensor's name; number: how many axes; for each axis signed number start, signed number length

    text          bytes, 00 as 00 ff, ff as ff 00; then 00 01
    number        one byte: how many follow; the number, big endian, no leading zeros
    signed number n bytes of big-endian two's complement, whose first n bits tell n: they are inverted, as is the next

Reference: TensorFlow, `tensorflow/core/util/saved_tensor_slice_util.h` and `tensorflow/core/lib/strings/ordered_code.h`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MOST_SPLIT", "Box", "Extents", "box", "key", "misfit", "split_axes"]

Extents = tuple[tuple[int, int], ...]  # as stored: (start, length), or (0, -1) for the whole axis
Box = tuple[tuple[int, int], ...]  # (start, length) of each axis
ESCAPES = {b"\0": b"\0\xff", b"\xff": b"\xff\0"}
MOST_SPLIT = 8  # axes along which a tensor may be split: each doubles the corners that are counted


def _number(value: int) -> bytes:
    raw = value.to_bytes(-(-value.bit_length() // 8), "big")
    return bytes([len(raw)]) + raw


def _signed(value: int) -> bytes:
    size = (~value if value < 0 else value).bit_length() // 7 + 1
    first = ((1 << size) - 1) << 7 * size  # as many ones as bytes, at the top
    return (value % (1 << 8 * size) ^ first).to_bytes(size, "big")


def key(name: bytes, extents: Extents) -> bytes:
    """The key under which a slice of the tensor `name` is stored."""
    text = re.sub(rb"[\0\xff]", lambda found: ESCAPES[found[0]], name) + b"\0\1"
    parts = [_signed(number) for extent in extents for number in extent]
    return _number(0) + text + _number(len(extents)) + b"".join(parts)


def box(extents: Extents, shape: tuple[int, ...]) -> Box | None:
    """The extents with their real lengths; None unless they are a part of `shape`, not all of it by -1, and of a tensor with elements some."""
    if len(extents) != len(shape) or all(length == -1 for _, length in extents):
        return None
    found = tuple(
        (start, size if length == -1 else length) for (start, length), size in zip(extents, shape, strict=True)
    )
    inside = all(
        min(start, length) >= 0 and start + length <= size for (start, length), size in zip(found, shape, strict=True)
    )
    empty = math.prod(length for _, length in found) == 0 < math.prod(shape)
    return found if inside and not empty else None


def split_axes(boxes: Sequence[Box], shape: tuple[int, ...]) -> list[int]:
    """The axes of which some box has only a part."""
    return [axis for axis, size in enumerate(shape) if any(part[axis] != (0, size) for part in boxes)]


def _corners(part: Box, axes: list[int]) -> Iterator[tuple[int, ...]]:
    """The corners of a box along some axes: of each the start, or the end."""
    return itertools.product(*((part[axis][0], sum(part[axis])) for axis in axes))


def misfit(boxes: Sequence[Box], shape: tuple[int, ...]) -> str | None:
    """None if the boxes cover every element of `shape` exactly once; otherwise what they leave or cover twice.

    Exact, and linear in the number of boxes: the mixed difference of a function that is 0 far away determines it, so the boxes' indicator
    functions add up to that of the whole if and only if their signed corners do.
    """
    axes, counts = split_axes(boxes, shape), Counter[tuple[int, ...]]()
    signs = [(-1) ** sum(ends) for ends in itertools.product((0, 1), repeat=len(axes))]
    for part in boxes:
        for corner, sign in zip(_corners(part, axes), signs, strict=True):
            counts[corner] += sign
    for corner, sign in zip(_corners(tuple((0, size) for size in shape), axes), signs, strict=True):
        counts[corner] -= sign
    if boxes and not any(counts.values()):
        return None
    covered, whole = sum(math.prod(length for _, length in part) for part in boxes), math.prod(shape)
    if covered == whole:
        return "an overlap and a hole"
    return "an overlap" if covered > whole else "a hole"
