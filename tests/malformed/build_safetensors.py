"""Malformed safetensors files, from bytes: a length, a JSON header, and data."""

from __future__ import annotations

import json
from typing import Any

from malformed.case import Case

FILE = "model.safetensors"


def _entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def _file(header: Any, data: bytes = b"8 bytes.", *, raw: bytes | None = None, length: int | None = None) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode() if raw is None else raw
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, read: str | None = None
) -> Case:
    words = (words,) if isinstance(words, str) else words
    return Case(
        name, f"safetensors.{rule}" if rule and "." not in rule else rule, words, {FILE: content}, FILE, read, why
    )


def _header(
    name: str, rule: str, words: str | tuple[str, ...], header: Any, why: str, data: bytes = b"8 bytes."
) -> Case:
    return _case(name, rule, words, _file(header, data), why)


ONE = '{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def _lengths() -> list[Case]:
    short, good = "not a safetensors file, or truncated", _file({"x": _entry()})
    return [
        _case("empty-file", "length", short, b"", "no bytes at all"),
        _case("seven-bytes", "length", short, b"\x36\0\0\0\0\0\0", "the length itself is cut"),
        _case(
            "length-beyond-the-file",
            "length",
            (short, "55 bytes announced"),
            _file(None, raw=ONE.encode(), length=55, data=b""),
            "one byte more of header than there is",
        ),
        _case(
            "length-2-to-the-63",
            "length",
            short,
            _file(None, raw=ONE.encode(), length=2**63),
            "negative in a signed reader",
        ),
        _case(
            "length-all-ones", "length", short, _file(None, raw=ONE.encode(), length=2**64 - 1), "wraps when 8 is added"
        ),
        _case(
            "length-cuts-the-header",
            "json",
            "header is not JSON",
            _file(None, raw=ONE.encode(), length=50),
            "the header ends inside the JSON",
        ),
        _case("length-zero", "begin", "must begin with {", _file(None, raw=b""), "an empty header"),
        _case(
            "truncated-data",
            "tiling",
            ("do not fill the file", "fetch it again"),
            good[:-1],
            "the last byte is missing",
        ),
        _case(
            "appended-byte",
            "tiling",
            "do not fill the file",
            good + b"\0",
            "a byte that belongs to no tensor: room for a polyglot",
        ),
        _case(
            "appended-zip",
            "tiling",
            "do not fill the file",
            good + b"PK\x05\x06" + bytes(18),
            "an empty zip archive behind the tensors",
        ),
    ]


def _json() -> list[Case]:
    def raw(name: str, rule: str, words: str | tuple[str, ...], text: str | bytes, why: str) -> Case:
        return _case(name, rule, words, _file(None, raw=text.encode() if isinstance(text, str) else text), why)

    return [
        raw(
            "leading-space",
            "begin",
            "must begin with {",
            " " + ONE,
            "white space first, which the format's own reader takes",
        ),
        raw("leading-byte-order-mark", "begin", "must begin with {", "\ufeff" + ONE, "a byte-order mark first"),
        raw("array", "begin", "must begin with {", "[1,2]", "JSON, but no object"),
        raw("two-values", "json", "header is not JSON", ONE + "{}", "two objects"),
        raw(
            "not-utf-8",
            "json",
            ("header is not JSON", "UnicodeDecodeError"),
            b'{"\xff":1}',
            "a byte that UTF-8 does not have",
        ),
        raw("overlong-utf-8", "json", "UnicodeDecodeError", b'{"\xc0\xaf":1}', "a slash in two bytes"),
        raw("utf-16", "json", "header is not JSON", "{}".encode("utf-16-le"), "another encoding"),
        raw(
            "lone-surrogate",
            "json",
            "header is not JSON",
            ONE.replace("x", "\\ud800"),
            "half a surrogate pair as a name",
        ),
        raw("single-quotes", "json", "header is not JSON", ONE.replace('"', "'"), "Python's quotes"),
        raw(
            "nan",
            "json",
            ("header is not JSON", "NaN"),
            ONE.replace("2", "NaN"),
            "a constant that Python's parser takes",
        ),
        raw(
            "infinity",
            "json",
            ("header is not JSON", "Infinity"),
            ONE.replace("2", "Infinity"),
            "a constant that Python's parser takes",
        ),
        raw("trailing-comma", "json", "header is not JSON", ONE[:-1] + ",}", "a comma before the brace"),
        raw("comment", "json", "header is not JSON", ONE[:-1] + "/**/}", "a comment"),
        raw(
            "control-character",
            "json",
            "header is not JSON",
            ONE.replace("x", "\n"),
            "a line feed in a name, not escaped",
        ),
        raw("nul-padding", "json", "header is not JSON", ONE + "\0\0", "padding with NUL instead of spaces"),
        raw(
            "deep",
            "json",
            ("header is not JSON", "RecursionError"),
            '{"x":' + "[" * 20_000 + "]" * 20_000 + "}",
            "nested to exhaust a stack",
        ),
        raw("long-number", "json", "header is not JSON", ONE.replace("2", "9" * 5000), "a number of 5,000 digits"),
        raw(
            "name-twice",
            "unique-names",
            ("a name occurs twice", "x"),
            ONE[:-1] + "," + ONE[1:],
            "which of the two is meant?",
        ),
        raw(
            "field-twice",
            "unique-names",
            ("a name occurs twice", "shape"),
            ONE.replace('"shape"', '"shape":[3],"shape"'),
            "a field twice",
        ),
        raw(
            "metadata-twice",
            "unique-names",
            "__metadata__",
            '{"__metadata__":{},"__metadata__":{},' + ONE[1:],
            "metadata twice",
        ),
        raw(
            "name-twice-escaped",
            "unique-names",
            "a name occurs twice",
            ONE[:-1] + "," + ONE[1:].replace("x", "\\u0078"),
            "one of them escaped",
        ),
    ]


def _fields() -> list[Case]:
    lacking = {"dtype": "F32", "shape": [2]}
    return [
        _header("no-offsets", "fields", ("wrong fields", "data_offsets"), {"x": lacking}, "a field is missing"),
        _header(
            "extra-field",
            "fields",
            ("wrong fields", "extra"),
            {"x": _entry(extra=1)},
            "a field more, which the format's own reader takes",
        ),
        _header(
            "field-in-capitals",
            "fields",
            "wrong fields",
            {"x": {"DTYPE": "F32", "shape": [2], "data_offsets": [0, 8]}},
            "a field's name in capitals",
        ),
        _header("entry-is-a-list", "fields", ("wrong fields", "list"), {"x": ["F32", [2], [0, 8]]}, "not an object"),
        _header("entry-is-null", "fields", "wrong fields", {"x": None}, "not an object"),
        _header(
            "metadata-number",
            "metadata",
            "__metadata__ must map",
            {"__metadata__": {"a": 1}, "x": _entry()},
            "metadata that is not text",
        ),
        _header(
            "metadata-list",
            "metadata",
            "__metadata__ must map",
            {"__metadata__": [], "x": _entry()},
            "metadata that is no object",
        ),
        _header(
            "metadata-null",
            "metadata",
            "__metadata__ must map",
            {"__metadata__": None, "x": _entry()},
            "metadata that is null",
        ),
        _header(
            "metadata-nested",
            "metadata",
            "__metadata__ must map",
            {"__metadata__": {"a": {}}, "x": _entry()},
            "an object in metadata",
        ),
    ]


def _dtypes() -> list[Case]:
    return [
        _header("dtype-unknown", "dtype", ("unknown dtype", "F128"), {"x": _entry("F128")}, "no such dtype"),
        _header("dtype-lower-case", "dtype", ("unknown dtype", "f32"), {"x": _entry("f32")}, "dtypes are in capitals"),
        _header("dtype-number", "dtype", "unknown dtype", {"x": _entry(4)}, "a number for a dtype"),
        _header("dtype-null", "dtype", "unknown dtype", {"x": _entry(None)}, "null for a dtype"),
        _header("dtype-list", "dtype", "unknown dtype", {"x": _entry(["F32"])}, "a list for a dtype"),
        _header("dtype-empty", "dtype", "unknown dtype", {"x": _entry("")}, "no text for a dtype"),
        _header(
            "dtype-half-a-byte",
            "dtype",
            ("unknown dtype", "F4"),
            {"x": _entry("F4", [16])},
            "two values a byte, which this reader does not unpack",
        ),
    ]


def _shapes() -> list[Case]:
    def shape(name: str, value: Any, why: str) -> Case:
        return _header(name, "shape", ("wrong shape", "'x'"), {"x": _entry(shape=value)}, why)

    def empty(name: str, value: Any, why: str) -> Case:
        return _case(
            name, "safetensors.shape", "wrong shape", _file({"x": _entry(shape=value, offsets=[0, 0])}, b""), why
        )

    return [
        shape("shape-negative", [-2], "a negative axis"),
        shape("shape-negative-twice", [-1, -2], "two negative axes whose product fits"),
        shape("shape-minus-zero", [-0.0, 2], "a zero with a sign"),
        shape("shape-float", [2.0], "an axis that is no whole number"),
        shape("shape-bool", [True, 2], "true for 1"),
        shape("shape-text", ["2"], "text for a number"),
        shape("shape-number", 2, "a number for a list"),
        shape("shape-null", None, "null for a list"),
        shape("shape-nested", [[2]], "a list in the list"),
        shape("shape-65-axes", [1] * 64 + [2], "more axes than an array can have"),
        empty("shape-zero-and-huge", [0, 2**62], "empty, but with an axis that no array can have"),
        empty("shape-zero-and-beyond", [2**80, 0], "empty, but with an axis beyond 64 bits"),
    ]


def _offsets() -> list[Case]:
    def wrong(name: str, value: Any, why: str) -> Case:
        return _header(name, "offsets", ("offsets do not match", "'x'"), {"x": _entry(offsets=value)}, why)

    product = {"x": _entry("U8", [2**32, 2**32], [0, 8])}
    return [
        wrong("offsets-one", [8], "one offset"),
        wrong("offsets-three", [0, 8, 8], "three offsets"),
        wrong("offsets-text", ["0", "8"], "text for numbers"),
        wrong("offsets-float", [0.0, 8.0], "numbers that are not whole"),
        wrong("offsets-bool", [False, 8], "false for 0"),
        wrong("offsets-reversed", [8, 0], "the end before the beginning"),
        wrong("offsets-negative", [-8, 0], "bytes of the header as data"),
        wrong("offsets-too-far-apart", [0, 9], "a byte more than the shape needs"),
        wrong("offsets-too-near", [0, 7], "a byte less than the shape needs"),
        wrong("offsets-object", {"0": 8}, "an object for a list"),
        _header("shape-product-wraps", "shape", "wrong shape", product, "a product that is 0 in 64 bits"),
        _header(
            "shape-product-huge",
            "offsets",
            "offsets do not match",
            {"x": _entry("F32", [2**40], [0, 8])},
            "4 TiB announced, 8 bytes there",
        ),
    ]


def _layouts() -> list[Case]:
    def laid(name: str, kind: str, header: Any, data: bytes, why: str) -> Case:
        return _case(name, "tiling", kind, _file(header, data), why)

    return [
        laid(
            "gap",
            "gap in the data",
            {"x": _entry(), "y": _entry(offsets=[9, 17])},
            bytes(17),
            "a byte between two tensors",
        ),
        laid(
            "gap-at-the-start",
            "gap in the data",
            {"x": _entry(offsets=[1, 9])},
            bytes(9),
            "a byte before the first tensor",
        ),
        laid(
            "overlap",
            "overlap in the data",
            {"x": _entry(), "y": _entry(offsets=[4, 12])},
            bytes(12),
            "two tensors share bytes",
        ),
        laid(
            "same-bytes-twice",
            "overlap in the data",
            {"x": _entry(), "y": _entry()},
            bytes(8),
            "two names for one range: small files that unpack to large ones",
        ),
        laid(
            "one-inside-another",
            "overlap in the data",
            {"x": _entry("U8", [8], [0, 8]), "y": _entry("U8", [2], [2, 4])},
            bytes(8),
            "a tensor within another",
        ),
        laid(
            "empty-outside",
            "gap in the data",
            {"x": _entry(), "y": _entry(shape=[0], offsets=[99, 99])},
            bytes(8),
            "an empty tensor that lies behind the end",
        ),
        laid(
            "beyond-the-end",
            "do not fill the file",
            {"x": _entry(shape=[4], offsets=[0, 16])},
            bytes(8),
            "data that the file does not have",
        ),
        laid("no-tensors-but-data", "do not fill the file", {}, bytes(8), "data that belongs to nothing"),
    ]


def _content() -> list[Case]:
    flags = _file({"x": _entry("BOOL", [4], [0, 4])}, b"\0\1\2\0")
    many = {f"{number:06}": {} for number in range(95_000)}
    return [
        _case("bool-of-2", "bool", ("neither 0 nor 1", "'x'"), flags, "a truth value of 2", read="x"),
        _case(
            "bool-of-255",
            "bool",
            ("neither 0 nor 1", "255"),
            flags.replace(b"\0\1\2\0", b"\xff\0\1\1"),
            "a truth value of 255",
            read="x",
        ),
        _case(
            "header-is-the-file",
            "budget.heap",
            "describes more than its size allows",
            _file(many, b""),
            "95,000 names and no data: what takes more to read than the file has",
        ),
    ]


def cases() -> list[Case]:
    """Every kind; only append."""
    return [*_lengths(), *_json(), *_fields(), *_dtypes(), *_shapes(), *_offsets(), *_layouts(), *_content()]


def good() -> list[Case]:
    """Well-formed files of the same builder."""
    whole = {
        "__metadata__": {"a": "b"},
        "x": _entry(),
        "": _entry("BF16", [0, 3], [8, 8]),
        "../y": _entry("F8_E4M3", [], [8, 9]),
    }
    return [
        _case("one-tensor", "", (), _file({"x": _entry()}), "the file that most cases differ from in one thing"),
        _case("no-tensor", "", (), _file({}, b""), "an empty checkpoint"),
        _case("padded", "", (), _file(None, raw=ONE.encode() + b" " * 10), "spaces after the header"),
        _case(
            "all-sorts",
            "",
            (),
            _file(whole, b"9 bytes.."),
            "metadata, an empty name, an empty tensor, a scalar, a name that is a path",
        ),
    ]
