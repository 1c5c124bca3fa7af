"""CRC-32C (Castagnoli), plain and masked, of bytes wherever they lie: a mapped file is read once and never copied.

    masked(crc) = rotate right by 15 bits, then + 0xa282ead8, modulo 2^32

Files that hold checksums of data which itself holds checksums mask them, as the tables of LevelDB do.

Reference: RFC 3720, appendix B.4 (the polynomial and its test vectors); LevelDB, `doc/table_format.md` and `util/crc32c.h`.
"""

from __future__ import annotations

from typing import Any

import crc32c as _castagnoli

__all__ = ["crc32c", "masked", "masked_crc32c"]

DELTA = 0xA282EAD8


def crc32c(data: Any, before: int = 0) -> int:  # anything with a contiguous buffer -> [0, 2^32)
    """The CRC-32C of `data`; with `before`, of the bytes whose checksum that is, and then `data`."""
    return _castagnoli.crc32c(data, before)


def masked(crc: int) -> int:
    """A checksum as it is stored beside the data it is of."""
    return ((crc >> 15 | crc << 17) + DELTA) & 0xFFFFFFFF


def masked_crc32c(data: Any) -> int:
    """The checksum of `data` as it is stored beside it."""
    return masked(crc32c(data))
