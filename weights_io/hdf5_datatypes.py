"""HDF5's datatypes, dataspaces and attributes.

Tensors have fixed-point numbers of 1, 2, 4 or 8 bytes, floating-point numbers laid out as IEEE 754's half, single and double, as bfloat16 or as the
two 8-bit formats, or h5py's booleans (an enumeration of FALSE and TRUE). Keras writes bfloat16 as two opaque bytes beside an attribute "dtype"
that says so. Attributes may be text as well, of fixed or variable length; an attribute of any other type is an `Unread`.

Reference: HDF5 File Format Specification, version 3.0, sections IV.A.2.b, d and m.
"""

from __future__ import annotations

import math
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from weights_io.arrays import native, read_only
from weights_io.hdf5_heaps import global_object
from weights_io.hdf5_objects import read_shared_datatype

if TYPE_CHECKING:
    from weights_io.hdf5_bytes import Fields

__all__ = ["OPAQUE", "RULES", "Datatype", "Shape", "Unread", "read_attribute", "read_dataspace", "read_datatype"]

RULES = {
    "hdf5.attribute": "An attribute has a name, and as many values as its dataspace says.",
    "hdf5.dataspace": "A dataspace has at most 32 axes, none longer than its maximum, and a size that an array can have.",
    "hdf5.datatype": "A datatype's fields agree with each other.",
    "hdf5.datatype-kind": "A tensor is of whole numbers of 1, 2, 4 or 8 bytes, IEEE floats, bfloat16, float8 or booleans.",
    "hdf5.null": "A tensor has a shape: its dataspace is not null.",
}
FIXED, FLOAT, TIME, STRING, BITFIELD, OPAQUE_CLASS, COMPOUND, REFERENCE, ENUM, VARIABLE, ARRAY, COMPLEX = range(12)
CLASSES = {
    TIME: "time",
    STRING: "text",
    BITFIELD: "bit field",
    OPAQUE_CLASS: "opaque",
    COMPOUND: "compound",
    REFERENCE: "reference",
    ENUM: "enumeration",
    VARIABLE: "variable-length sequence",
    ARRAY: "array",
    COMPLEX: "complex",
}
FLOATS = {  # bytes, sign's bit, exponent's lowest bit and bits, mantissa's bits, bias
    (2, 15, 10, 5, 10, 15): np.dtype(np.float16),
    (4, 31, 23, 8, 23, 127): np.dtype(np.float32),
    (8, 63, 52, 11, 52, 1023): np.dtype(np.float64),
    (2, 15, 7, 8, 7, 127): np.dtype(ml_dtypes.bfloat16),
    (1, 7, 3, 4, 3, 7): np.dtype(ml_dtypes.float8_e4m3fn),
    (1, 7, 2, 5, 2, 15): np.dtype(ml_dtypes.float8_e5m2),
}
OPAQUE = {  # what an attribute "dtype" of opaque bytes may say
    name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
}
START, FLOATING, AXES = Struct("<II"), Struct("<HHBBBBI"), Struct("<BBB")  # of datatypes, floats, dataspaces
SIZES = Struct("<HHH")  # of an attribute's name, datatype and dataspace
BOOLEAN = {b"FALSE": 0, b"TRUE": 1}
MAX_AXES = 32
LONGEST = 8  # bytes of a name that are looked at; those of booleans are shorter
VALUE_COST = 100  # bytes of objects that a value of an attribute takes, besides its own


class Datatype(NamedTuple):
    """What the elements of a dataset or attribute are."""

    kind: str  # "number", "bool", "text", "variable text", or the name of a class that is not read
    size: int  # bytes of an element
    stored: Any = None  # numpy.dtype of the bytes as they lie: unsigned where `dtype` is none of NumPy's own
    dtype: Any = None  # numpy.dtype of the array, native byte order
    padding: int = 0  # of text: 0 ends with NUL, 1 is filled with NUL, 2 with spaces


class Shape(NamedTuple):
    """A dataspace that is not null."""

    shape: tuple[int, ...]
    maximum: tuple[int | None, ...]  # None: without limit

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


class Unread(NamedTuple):
    """Stands for an attribute of a datatype that is not read."""

    kind: str
    shape: tuple[int, ...]


# --- datatypes --------------------------------------------------------------------------------------------------------------


def read_datatype(fields: Fields, nested: bool = False) -> Datatype:
    """The datatype that a message describes; the properties of classes that are not read are not looked at, nor those of nested ones."""
    first, size = fields.numbers(START)
    version, kind, bits = first >> 4 & 15, first & 15, first >> 8
    if version not in (1, 2, 3, 4, 5):
        raise fields.unread("a structure is of a version that is not read", "hdf5.version", "1 to 5", version)
    if kind > COMPLEX:
        raise fields.broken("there is no such class of datatype", "hdf5.datatype", f"at most {COMPLEX}", kind)
    if size == 0:
        raise fields.broken("a datatype is of no bytes", "hdf5.datatype", "1 or more", 0)
    if kind == FIXED:
        return _fixed(fields, bits, size)
    if kind == FLOAT:
        return _float(fields, bits, size)
    if nested and kind in (ENUM, VARIABLE):
        return Datatype(CLASSES[kind], size)
    return _boolean(fields, version, bits, size) if kind == ENUM else _other(fields, kind, bits, size)


def _fixed(fields: Fields, bits: int, size: int) -> Datatype:
    offset, precision = fields.unsigned(2), fields.unsigned(2)
    if not precision or offset + precision > 8 * size:
        got = f"{precision} bits at {offset} in {size} bytes"
        raise fields.broken("a whole number does not fit its bytes", "hdf5.datatype", "1 bit or more, within them", got)
    if offset or precision != 8 * size or size not in (1, 2, 4, 8):
        return Datatype(f"whole number of {precision} bits at {offset} in {size} bytes", size)
    dtype = np.dtype(f"{'<>'[bits & 1]}{'ui'[bits >> 3 & 1]}{size}")
    return Datatype("number", size, dtype, native(dtype))


def _float(fields: Fields, bits: int, size: int) -> Datatype:
    offset, precision, exponent_at, exponent, mantissa_at, mantissa, bias = fields.numbers(FLOATING)
    dtype = FLOATS.get((size, bits >> 8 & 255, exponent_at, exponent, mantissa, bias))
    usual = offset == 0 and precision == 8 * size and mantissa_at == 0 and bits & 0x40 == 0 and bits >> 4 & 3 == 2
    if dtype is None or not usual:
        return Datatype(f"float of {size} bytes with {exponent} bits of exponent and {mantissa} of mantissa", size)
    stored = np.dtype(f"{'<>'[bits & 1]}{'f' if dtype.kind == 'f' and size > 1 else 'u'}{size}")
    return Datatype("number", size, stored, dtype)


def _boolean(fields: Fields, version: int, bits: int, size: int) -> Datatype:
    other = Datatype(CLASSES[ENUM], size)
    if bits & 0xFFFF != len(BOOLEAN) or size != 1:
        return other
    base = read_datatype(fields, nested=True)
    if base.dtype is None or base.dtype.kind not in "iu":
        return other
    if base.size != size:
        raise fields.broken("an enumeration and its values differ in size", "hdf5.datatype", size, base.size)
    names = [_terminated(fields, version < 3) for _ in BOOLEAN]
    values = [fields.unsigned(1) for _ in BOOLEAN]
    if dict(zip(names, values, strict=True)) != BOOLEAN:
        return other
    return Datatype("bool", 1, np.dtype(np.uint8), np.dtype(np.bool_))


def _terminated(fields: Fields, padded: bool) -> bytes:
    """Bytes up to a NUL, or the first `LONGEST` of them; padded: then filled up to a multiple of eight."""
    name = bytearray()
    while len(name) < LONGEST and (byte := fields.take(1)) != b"\0":
        name += byte
    fields.take(-(len(name) + 1) % 8 if padded else 0)
    return bytes(name)


def _other(fields: Fields, kind: int, bits: int, size: int) -> Datatype:
    if kind == STRING and (bits & 15 > 2 or bits >> 4 & 15 > 1):
        raise fields.broken(
            "text is padded in no known way", "hdf5.datatype", "padding 0 to 2, character set 0 or 1", bits
        )
    if kind == STRING:
        return Datatype("text", size, padding=bits & 15)
    if kind == VARIABLE and bits & 15 == 1:
        base = read_datatype(fields.part(fields.left), nested=True)
        if size != 8 + fields.space.offset_size or base.size != 1 or base.kind not in ("text", "number"):
            expected, got = f"{8 + fields.space.offset_size} bytes, of bytes", f"{size} bytes, of {base.kind}"
            raise fields.broken("text of variable length is of a wrong type", "hdf5.datatype", expected, got)
        return Datatype("variable text", size, padding=bits >> 4 & 15)
    return Datatype(CLASSES[kind], size)


# --- dataspaces -------------------------------------------------------------------------------------------------------------


def read_dataspace(fields: Fields) -> Shape | None:
    """The shape that a message describes; None for a null dataspace, which has no elements at all."""
    version, axes, flags, kind = fields.version(1, 2), *fields.numbers(AXES)
    kind = (1 if axes else 0) if version == 1 else kind
    fields.take(4 if version == 1 else 0)
    if axes > MAX_AXES or kind > 2 or (kind != 1 and axes) or (kind == 1 and not axes) or flags & ~1:
        expected = f"1 to {MAX_AXES} axes, or none, and flags 0 or 1"
        raise fields.broken(
            "a dataspace is wrong", "hdf5.dataspace", expected, f"{axes} axes, type {kind}, flags {flags}"
        )
    shape = tuple(fields.length() for _ in range(axes))
    unlimited = (1 << 8 * fields.space.length_size) - 1
    maximum = tuple(fields.length() for _ in range(axes)) if flags & 1 else shape
    if any(length > most for length, most in zip(shape, maximum, strict=True)):
        raise fields.broken("an axis is longer than its maximum", "hdf5.dataspace", f"at most {maximum}", shape)
    if math.prod(length or 1 for length in shape) >= 2**60:
        raise fields.broken("a dataspace is too large", "hdf5.dataspace", "fewer than 2^60 elements", shape)
    return None if kind == 2 else Shape(shape, tuple(None if most == unlimited else most for most in maximum))


# --- attributes -------------------------------------------------------------------------------------------------------------


def read_attribute(fields: Fields) -> tuple[str, Any]:
    """The name of an attribute, and its value: text, a number, a list of texts, a read-only array, None, or `Unread`."""
    version = fields.version(1, 2, 3)
    flags = fields.unsigned(1) if version > 1 else len(fields.take(1)) - 1
    if flags & ~3:
        raise fields.broken("an attribute has unknown flags", "hdf5.flags", "at most 3", flags)
    sizes = fields.numbers(SIZES)
    fields.take(1 if version == 3 else 0)
    name, datatype, dataspace = (_padded(fields, size, version == 1) for size in sizes)
    if flags & 2:
        raise dataspace.unread("a shared message is not read", "hdf5.shared", "a dataspace", "a shared dataspace")
    text = _name(name)
    fields.field = f"attribute {text!r}"
    described = read_datatype(read_shared_datatype(fields.space, datatype) if flags & 1 else datatype)
    shape = read_dataspace(dataspace)
    fields.space.charge(2 * VALUE_COST + 4 * len(text), fields.field)
    return text, None if shape is None else _value(fields, described, shape)


def _padded(fields: Fields, size: int, padded: bool) -> Fields:
    part = fields.part(size)
    fields.take(-size % 8 if padded else 0)
    return part


def _name(fields: Fields) -> str:
    raw = fields.take(fields.left)
    if raw[-1:] != b"\0" or b"\0" in raw[:-1] or len(raw) < 2:
        raise fields.broken(
            "an attribute's name is wrong", "hdf5.attribute", "text that ends with its only NUL", repr(raw[:40])
        )
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError:
        raise fields.broken("an attribute's name is wrong", "hdf5.attribute", "UTF-8", repr(raw[:40])) from None


def _value(fields: Fields, datatype: Datatype, shape: Shape) -> Any:
    if shape.elements * datatype.size > fields.left:
        got = f"{fields.left} bytes"
        raise fields.broken(
            "an attribute is too short", "hdf5.attribute", f"{shape.elements * datatype.size} bytes", got
        )
    if datatype.kind in ("text", "variable text"):
        return _texts(fields, datatype, shape)
    axes = len(shape.shape)
    fields.space.charge(VALUE_COST * (2 if axes else 1) + 48 * axes + shape.elements * datatype.size, fields.field)
    if datatype.stored is None:
        return Unread(datatype.kind, shape.shape)
    values = np.frombuffer(fields.view(shape.elements * datatype.size), datatype.stored)
    values = values.astype(native(datatype.stored)).reshape(shape.shape)
    values = values != 0 if datatype.kind == "bool" else values.view(datatype.dtype)
    return read_only(values) if shape.shape else values[()].item()


def _texts(fields: Fields, datatype: Datatype, shape: Shape) -> Any:
    """One text, or lists of texts as deep as the attribute has axes."""
    fields.space.charge((VALUE_COST + 64 * len(shape.shape)) * shape.elements, fields.field)
    values = [_text(fields, datatype) for _ in range(shape.elements)]
    if not shape.shape or not values:
        return values[0] if values else []
    for length in reversed(shape.shape[1:]):
        values = [values[i : i + length] for i in range(0, len(values), length)]  # type: ignore[misc]
    return values


def _text(fields: Fields, datatype: Datatype) -> str | bytes:
    """Text, or the bytes themselves where they are not UTF-8; the declared character set is often wrong, and is not looked at."""
    if datatype.kind == "text":
        fields.space.charge(4 * datatype.size, fields.field)
        raw = fields.take(datatype.size)
    else:
        length, address, index = fields.unsigned(4), fields.address(), fields.unsigned(4)
        fields.space.charge(4 * length, fields.field)
        raw = global_object(fields, address, index, length) if length or address else b""
    raw = (raw.rstrip(b" ") if datatype.padding == 2 else raw).rstrip(b"\0")
    raw = raw.split(b"\0", 1)[0] if datatype.padding == 0 else raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
