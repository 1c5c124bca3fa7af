"""CRC-32 and CRC-32C (Castagnoli), the second plain and masked, of bytes wherever they lie: a mapped file is read once and never copied.

    masked(crc) = rotate right by 15 bits, then + 0xa282ead8, modulo 2^32

Files that hold checksums of data which itself holds checksums mask them, as the tables of LevelDB do.

CRC-32 is taken with carry-less multiplications by isal where it is installed, which costs a fifth of reading the bytes from memory, else by zlib, at
five times as much work: the same number.

References: RFC 1952, section 8 (CRC-32); RFC 3720, appendix B.4 (the polynomial of CRC-32C and its test vectors); LevelDB,
`doc/table_format.md` and `util/crc32c.h`.
"""

from __future__ import annotations

from typing import Any

import crc32c as _castagnoli

try:
    from isal.isal_zlib import crc32 as _crc32
except ImportError:  # no wheels for this machine
    from zlib import crc32 as _crc32

__all__ = ["crc32", "crc32c", "masked", "masked_crc32c"]

DELTA = 0xA282EAD8


def crc32(data: Any, before: int = 0) -> int:  # anything with a contiguous buffer -> [0, 2^32)
    """The CRC-32 of `data`; with `before`, of the bytes whose checksum that is, and then `data`."""
    return _crc32(data, before)


def crc32c(data: Any, before: int = 0) -> int:  # anything with a contiguous buffer -> [0, 2^32)
    """The CRC-32C of `data`; with `before`, of the bytes whose checksum that is, and then `data`."""
    return _castagnoli.crc32c(data, before)


def masked(crc: int) -> int:
    """A checksum as it is stored beside the data it is of."""
    return ((crc >> 15 | crc << 17) + DELTA) & 0xFFFFFFFF


def masked_crc32c(data: Any) -> int:
    """The checksum of `data` as it is stored beside it."""
    return masked(crc32c(data))
