"""Decompression of Snappy's raw format.

    stream  = varint: length of the result; element, element, ...
    element = tag byte, whose low two bits are  0: literal   1, 2, 3: copy from before, with an offset of 11 bits, 2 bytes, 4 bytes

Nothing is allocated for a length that is only announced: the result grows by what the elements hold, and never beyond it.

Reference: `format_description.txt` of the Snappy project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_io.protobuf import varint

if TYPE_CHECKING:
    from weights_io.protobuf import Place

__all__ = ["RULES", "announced", "decompressed"]

RULES = {
    "tensorbundle.snappy": "A compressed block is literals and copies from before, which make up the announced length, less than 4 GiB."
}
OFFSET = {2: 2, 3: 4}  # bytes of offset after the tag


def announced(data: bytes, place: Place) -> tuple[int, int]:
    """(the length that the result is to have, where the elements begin)."""
    length, at = varint(data, 0, place)
    if length >> 32:
        raise place.broken(
            "the announced length is too large", "tensorbundle.snappy", expected="below 2^32", got=length
        )
    return length, at


def decompressed(data: bytes, place: Place) -> bytes:
    """The bytes that `data` stands for; FormatError (tensorbundle.snappy) if it is damaged."""
    length, at = announced(data, place)
    result = bytearray()
    while at < len(data):
        at = _literal(data, at, result, place) if data[at] & 3 == 0 else _copy(data, at, result, place)
        if len(result) > length:
            break
    if len(result) != length:
        raise place.broken(
            "not the announced length", "tensorbundle.snappy", expected=length, got=f"{len(result)} at byte {at}"
        )
    return bytes(result)


def _number(data: bytes, at: int, width: int, place: Place) -> int:
    if at + width > len(data):
        raise place.broken(
            "an element is cut off", "tensorbundle.snappy", expected=f"{width} bytes", got=len(data) - at
        )
    return int.from_bytes(data[at : at + width], "little")


def _literal(data: bytes, at: int, result: bytearray, place: Place) -> int:
    short = data[at] >> 2
    extra = max(0, short - 59)  # 60 to 63: so many bytes hold the length
    size = 1 + (_number(data, at + 1, extra, place) if extra else short)
    at += 1 + extra
    if size > len(data) - at:
        raise place.broken("a literal is cut off", "tensorbundle.snappy", expected=f"{size} bytes", got=len(data) - at)
    result += data[at : at + size]
    return at + size


def _copy(data: bytes, at: int, result: bytearray, place: Place) -> int:
    tag = data[at]
    if tag & 3 == 1:
        size, width = 4 + (tag >> 2 & 7), 1
        offset = tag >> 5 << 8 | _number(data, at + 1, 1, place)
    else:
        size, width = 1 + (tag >> 2), OFFSET[tag & 3]
        offset = _number(data, at + 1, width, place)
    if not 1 <= offset <= len(result):
        raise place.broken(
            "a copy from outside", "tensorbundle.snappy", expected=f"1 to {len(result)} bytes back", got=offset
        )
    start = len(result) - offset
    period = result[start : start + size]  # shorter than size where the copy overlaps itself
    result += (period * -(-size // len(period)))[:size]
    return at + 1 + width
