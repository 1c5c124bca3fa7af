"""The wire format of protocol buffers, as far as a few small messages need it: no descriptors, no nesting but what a caller asks for.

    message = field, field, ...
    field   = varint (number * 8 + kind), then for kind  0: a varint   1: 8 bytes   2: a varint, so many bytes   5: 4 bytes

A varint holds 7 bits a byte, the lowest first; the top bit says that more follow. Numbers are signed by their 64-bit two's complement.
Fields that a schema does not know are skipped; a known one of another kind, or one that occurs twice where once is meant, is refused.

Reference: "Encoding" in the documentation of protocol buffers, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from weights_io.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "BYTES",
    "FIXED32",
    "RULES",
    "VARINT",
    "Field",
    "Place",
    "encoded",
    "parsed",
    "signed",
    "to_varint",
    "varint",
]

RULES = {
    "tensorbundle.varint": "A varint has at most 64 bits, and no byte more than its number needs.",
    "tensorbundle.proto": "A message is a row of whole fields, each of its own kind, once if it is not repeated; groups are not used.",
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTH = {FIXED64: 8, FIXED32: 4}


class Place(NamedTuple):
    """What is being read, for the errors about it."""

    path: Path
    field: str | bytes | None = None  # a part of the format, or the key of an entry
    offset: int | None = None

    @property
    def shown(self) -> str | None:
        """The field in words: a key as the name that it is, if it is one."""
        if isinstance(self.field, bytes):
            return repr(
                self.field[:200] if self.field[:1] == b"\0" else self.field[:200].decode("utf-8", "backslashreplace")
            )
        return self.field

    def broken(self, what: str, rule: str, **parts: Any) -> FormatError:
        """The error that says what breaks a rule of the format here."""
        parts = {"where": self.path, "offset": self.offset, "field": self.shown} | parts
        return FormatError(what, rule=rule, **parts)

    def unsupported(self, what: str, rule: str, **parts: Any) -> UnsupportedError:
        """The error that says what is not read here."""
        parts = {"where": self.path, "offset": self.offset, "field": self.shown} | parts
        return UnsupportedError(what, rule=rule, **parts)


class Field(NamedTuple):
    """One field of a message, as a schema names it: number -> Field."""

    name: str
    kind: int = VARINT
    repeated: bool = False


def varint(data: bytes, at: int, place: Place) -> tuple[int, int]:
    """(the varint at `at`, where it ends)."""
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for count, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if byte == 0 or value >> 64:
                break
            return value, at + count + 1
    expected = "at most 64 bits, in as few bytes as they need"
    raise place.broken(
        "not a varint", "tensorbundle.varint", expected=expected, got=data[at : at + 11].hex(" ") or "the end"
    )


def to_varint(value: int) -> bytes:
    """The shortest varint of a number in [0, 2^64)."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def signed(value: int) -> int:
    """The number whose 64-bit two's complement a varint holds."""
    return value - (1 << 64) if value >> 63 else value


def parsed(data: bytes, schema: Mapping[int, Field], place: Place) -> dict[str, Any]:
    """The fields of a message by name: numbers in [0, 2^64) or bytes, lists of them for the repeated ones; what is absent is left out."""
    found: dict[str, Any] = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at, place)
        value, at = varint(data, at, place) if tag & 7 == VARINT else _value(data, at, tag & 7, place)
        field = schema.get(tag >> 3)
        if field is None:
            _check_number(tag >> 3, place)
        elif tag & 7 != field.kind:
            raise place.broken(
                f"wrong kind of field {field.name}", "tensorbundle.proto", expected=field.kind, got=tag & 7
            )
        elif field.repeated:
            found.setdefault(field.name, []).append(value)
        elif field.name in found:
            raise place.broken(f"field {field.name} occurs twice", "tensorbundle.proto", expected="once")
        else:
            found[field.name] = value
    return found


def _check_number(number: int, place: Place) -> None:
    if not 1 <= number < 1 << 29:
        raise place.broken("not the number of a field", "tensorbundle.proto", expected="1 to 2^29 - 1", got=number)


def _value(data: bytes, at: int, kind: int, place: Place) -> tuple[Any, int]:
    """(the value of a field that is no varint, where it ends)."""
    if kind not in (FIXED64, BYTES, FIXED32):
        got = "a group" if kind in (3, 4) else kind
        raise place.broken("not a kind of field", "tensorbundle.proto", expected="0, 1, 2 or 5", got=got)
    length, at = varint(data, at, place) if kind == BYTES else (WIDTH[kind], at)
    if length > len(data) - at:
        expected = f"at most {len(data) - at} bytes"
        raise place.broken("a field is longer than its message", "tensorbundle.proto", expected=expected, got=length)
    raw = data[at : at + length]
    return raw if kind == BYTES else int.from_bytes(raw, "little"), at + length


def encoded(number: int, value: int | bytes, *, fixed32: bool = False) -> bytes:
    """One field as it is written; nothing for the number 0, which is what an absent field means."""
    if isinstance(value, bytes):
        return to_varint(number << 3 | BYTES) + to_varint(len(value)) + value
    if value == 0:
        return b""
    if fixed32:
        return to_varint(number << 3 | FIXED32) + value.to_bytes(4, "little")
    return to_varint(number << 3 | VARINT) + to_varint(value % (1 << 64))
