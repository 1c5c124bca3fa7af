"""Malformed NumPy arrays, from bytes: .npy files, and .npz archives whose members or whose record of dtypes are wrong."""

from __future__ import annotations

import json
from typing import Any

from malformed.build_zip import Entry, archive, blocks, zeros
from malformed.case import Case

NPY, NPZ = "array.npy", "arrays.npz"
RECORD = b"__weights_io__.npy"


def npy(text: str, data: bytes = b"12345678", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file with this header, padded to a multiple of 64 and ended by a newline, or as long as `length` says."""
    width = 2 if version[0] == 1 else 4
    if length is None:
        text += " " * (-(len(text) + 9 + width) % 64) + "\n"
    size = (len(text) if length is None else length).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin-1") + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)") -> str:
    """A header of these three values."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


GOOD = npy(header())


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, read: str | None = None
) -> Case:
    words = (words,) if isinstance(words, str) else words
    return Case(name, rule if "." in rule else f"npy.{rule}", words, {NPY: content}, NPY, read, why)


def _frames() -> list[Case]:
    long, version = "the header is too long", "a version that is not read"
    return [
        _case("magic-only", "length", long, GOOD[:6], "cut after the magic"),
        _case("cut-in-the-version", "length", long, GOOD[:7], "half a version"),
        _case("cut-in-the-length", "length", long, GOOD[:9], "half a length"),
        _case("cut-in-the-header", "length", (long, "118 bytes announced"), GOOD[:100], "half a header"),
        _case(
            "length-10001",
            "length",
            (long, "10001 bytes announced"),
            npy(header().ljust(10000) + "\n", length=10001),
            "longer than any array's",
        ),
        _case("length-all-ones", "length", (long, "65535"), npy(header(), length=65535), "more header than file"),
        _case(
            "length-all-ones-of-4",
            "length",
            (long, "4294967295"),
            npy(header(), version=(2, 0), length=2**32 - 1),
            "4 GB of header",
        ),
        _case("length-zero", "header", "not what NumPy writes", npy("", length=0), "no header"),
        _case(
            "length-cuts-the-header",
            "header",
            "not what NumPy writes",
            npy(header(), length=30),
            "the rest of the header would be values",
        ),
        _case(
            "length-in-two-bytes-of-four",
            "length",
            long,
            npy(header(), version=(1, 0))[:6] + b"\2\0" + GOOD[8:],
            "version 2.0 with version 1.0's length",
        ),
        _case("version-0-1", "version", version, npy(header(), version=(0, 1)), "never written"),
        _case("version-1-1", "version", version, npy(header(), version=(1, 1)), "no such minor version"),
        _case("version-4-0", "version", version, npy(header(), version=(4, 0)), "of the future"),
    ]


def _headers() -> list[Case]:
    def text(name: str, content: str, why: str, words: str = "not what NumPy writes", **more: Any) -> Case:
        return _case(name, "header", words, npy(content, **more), why)

    good = header()
    return [
        text("key-missing", "{'descr': '<f4', 'shape': (2,), }", "no fortran_order"),
        text("key-unknown", good.replace("'shape'", "'shapes'"), "shapes for shape"),
        text("key-more", good.replace("}", "'more': 1, }"), "a fourth key"),
        text("key-twice", good.replace("'descr'", "'descr': '<f8', 'descr'"), "readers differ in which they take"),
        text("key-of-bytes", good.replace("'descr'", "b'descr'"), "bytes for text"),
        text("key-with-an-escape", good.replace("'descr'", "'d\\x65scr'"), "an escape for a letter"),
        text("key-in-two-parts", good.replace("'descr'", "'des' 'cr'"), "Python joins them"),
        text("key-unquoted", good.replace("'descr'", "descr"), "JavaScript"),
        text("no-brace", good[1:], "no dictionary"),
        text("no-closing-brace", good[:-1], "a dictionary that does not end"),
        text("space-before-the-brace", " " + good, "an indented dictionary"),
        text("nothing", "", "spaces alone"),
        text("none", "None", "no dictionary"),
        text("list", "['<f4', False, (2,)]", "a list"),
        text("set", "{'descr', 'fortran_order', 'shape'}", "a set"),
        text("json", '{"descr": "<f4", "fortran_order": false, "shape": [2]}', "JSON"),
        text("two-dictionaries", good + good, "a second dictionary"),
        text("comment", good + " # comment", "a comment"),
        text("expression", good.replace("(2,)", "(1+1,)"), "a sum"),
        text("call", good.replace("(2,)", "__import__('os').sys.exit(1)"), "code, for readers that evaluate it"),
        text("lambda", good.replace("False", "(lambda: False)()"), "code, for readers that evaluate it"),
        text("comma-twice", good.replace("'<f4',", "'<f4',,"), "an empty item"),
        text("comma-missing", good.replace("'<f4',", "'<f4'"), "two values in a row"),
        text("colon-missing", good.replace("'descr':", "'descr'"), "a key without a value"),
        text("line-break-inside", good.replace(", 'shape'", ",\n'shape'"), "white space that NumPy does not write"),
        text("tab", good.replace(" ", "\t"), "white space that NumPy does not write"),
        text("newline-missing", good.ljust(118), "spaces to the end", length=118),
        text("newline-before-the-spaces", (good + "\n").ljust(118), "the newline is not last", length=118),
        text("newline-twice", good + "\n", "a newline and spaces before the last newline"),
        text("newlines-at-the-end", good + "\n\n", "two newlines at the end", length=len(good) + 2),
        text("nul-for-a-space", good + "\0", "a NUL in the padding"),
        text(
            "bytes-after-the-newline",
            (good + "\n" + good).ljust(200) + "\n",
            "a second header that some readers stop before",
            length=201,
        ),
        text("order-0", header(order="0"), "a number for False"),
        text("order-text", header(order="'True'"), "text that is true"),
        text("order-none", header(order="None"), "None"),
        text("descr-number", header("4"), "a number for a dtype"),
        text("descr-bytes", header("b'<f4'"), "bytes for text"),
        text("descr-raw", header("r'<f4'"), "a raw text"),
        text("descr-formatted", header("f'<f4'"), "a formatted text: code"),
        text("descr-in-two-parts", header("'<' 'f4'"), "Python joins them"),
        text("descr-with-an-escape", header("'\\x3cf4'"), "an escape for a letter"),
        text("descr-without-an-end", header("'<f4"), "a text that does not end"),
        text("descr-of-two-quotes", header("'<f4\""), "quotes that differ"),
        text("descr-class", header("numpy.float32"), "a name to look up"),
        text("shape-number", header(shape="2"), "a number for a tuple"),
        text("shape-in-brackets", header(shape="(2)"), "a number in brackets is a number"),
        text("shape-list", header(shape="[2]"), "a list for a tuple"),
        text("shape-negative", header(shape="(-2,)"), "a negative axis"),
        text("shape-plus", header(shape="(+2,)"), "a sign"),
        text("shape-float", header(shape="(2.0,)"), "a float"),
        text("shape-exponent", header(shape="(2e0,)"), "a float"),
        text("shape-bool", header(shape="(True, 2)"), "True for 1"),
        text("shape-none", header(shape="(None,)"), "any size"),
        text("shape-text", header(shape="('2',)"), "text"),
        text("shape-hexadecimal", header(shape="(0x2,)"), "another base"),
        text("shape-octal", header(shape="(02,)"), "octal in Python 2, an error in Python 3"),
        text("shape-underscore", header(shape="(1_0,)"), "an underscore"),
        text("shape-other-digits", header(shape="(\xb2,)"), "a superscript two"),
        text("shape-21-digits", header(shape=f"({'1' * 21},)"), "more digits than any size has"),
        text("shape-5000-digits", header(shape=f"({'1' * 5000},)"), "more digits than Python turns into a number"),
        text(
            "shape-of-python-2", header(shape="(2L,)"), "a long of Python 2, which mode compat takes", 'mode="compat"'
        ),
        text("shape-nested", header(shape="((2,),)"), "a tuple in a tuple"),
        text("shape-deep", header(shape="(" * 4000), "4000 brackets"),
        text("shape-comma-only", header(shape="(,)"), "a comma without a number"),
        text("shape-comma-first", header(shape="(,2)"), "a comma without a number"),
        text("shape-without-commas", header(shape="(1 2)"), "two numbers in a row"),
    ]


def _dtypes() -> list[Case]:
    def descr(name: str, rule: str, words: str | tuple[str, ...], text: str, why: str, quote: str = "'") -> Case:
        data = {"<V2": b"1234", "|V1": b"12"}.get(text, b"12345678")
        return _case(name, rule, words, npy(header(f"{quote}{text}{quote}"), data), why)

    return [
        descr("object", "object", ("Python objects", "'|O'", "a pickle"), "|O", "a pickle follows"),
        descr("object-with-an-order", "object", "Python objects", "<O8", "a pickle follows"),
        descr("structured", "structured", "an array of records", "[('a', '<f4')]", "two fields", ""),
        descr(
            "structured-with-an-object", "structured", "an array of records", "[('a', '|O')]", "a pickle in a field", ""
        ),
        descr("subarray", "structured", "an array of records", "('<f4', (2,))", "an array in each element", ""),
        descr("structured-as-text", "dtype", "a dtype that is not read", "f4,f4", "two fields, by NumPy's short form"),
        descr("text", "text", "an array of text", "<U2", "text"),
        descr("bytes", "text", "an array of text", "|S4", "bytes"),
        descr("date", "date", "an array of dates", "<M8[s]", "dates"),
        descr("time-span", "date", "an array of time spans", "<m8[ns]", "spans"),
        descr(
            "void-2",
            "void",
            ("bytes without a meaning", "|V2", "loses the names"),
            "<V2",
            "bfloat16, as NumPy writes it",
        ),
        descr("void-1", "void", "bytes without a meaning", "|V1", "a float8, as NumPy writes it"),
        descr("void-3", "void", ("bytes without a meaning", "|V3"), "|V3", "three bytes each"),
        descr("void-0", "void", "bytes without a meaning", "|V0", "elements of no bytes"),
        descr(
            "float8-as-float", "void", ("a float8", "<f1"), "<f1", "float8_e5m2, as NumPy writes it and cannot read it"
        ),
        descr("long-double", "longdouble", "long double", "<f16", "80 bits, on some machines"),
        descr("long-double-of-12", "longdouble", "long double", "<f12", "80 bits, on others"),
        descr("complex-long-double", "longdouble", "long double", "<c32", "two of them"),
        descr("int-3", "dtype", "a dtype that is not read", "<i3", "three bytes"),
        descr("int-16", "dtype", "a dtype that is not read", "<i16", "128 bits"),
        descr("int-0", "dtype", "a dtype that is not read", "<i0", "no bytes"),
        descr("bool-2", "dtype", "a dtype that is not read", "<b2", "a bool of two bytes"),
        descr("complex32", "dtype", "a dtype that is not read", "<c4", "two float16"),
        descr("no-order", "dtype", "a dtype that is not read", "f4", "the machine's order, whichever that is"),
        descr("native-order", "dtype", "a dtype that is not read", "=f4", "the machine's order, whichever that is"),
        descr(
            "no-order-for-four-bytes",
            "dtype",
            "a dtype that is not read",
            "|f4",
            "an order that only single bytes have",
        ),
        descr("name-of-a-dtype", "dtype", "a dtype that is not read", "float32", "NumPy's name of it"),
        descr("name-of-a-class", "dtype", "a dtype that is not read", "os.system", "some readers would look it up"),
        descr("size-of-20-digits", "dtype", "a dtype that is not read", "<i" + "9" * 20, "a huge element"),
        descr("letter-only", "dtype", "a dtype that is not read", "<f", "no size"),
        descr("empty-text", "dtype", "a dtype that is not read", "", "no dtype"),
        descr("line-break", "dtype", "a dtype that is not read", "<f4\n", "a newline after the dtype"),
    ]


def _shapes() -> list[Case]:
    def shape(
        name: str, rule: str, words: str | tuple[str, ...], text: str, why: str, data: bytes = b"12345678"
    ) -> Case:
        return _case(name, rule, words, npy(header(shape=text), data), why)

    cannot, wrong = "a shape that no array can have", "not as many as dtype and shape need"
    return [
        shape("65-axes", "shape", cannot, f"({'1, ' * 65})", "an axis too many"),
        shape("2-to-the-64-elements", "shape", cannot, "(4294967296, 4294967296)", "zero elements in 64 bits"),
        shape("2-to-the-62-floats", "shape", cannot, "(4611686018427387904,)", "zero bytes in 64 bits"),
        shape("2-to-the-64", "shape", cannot, "(18446744073709551616,)", "zero in 64 bits"),
        shape(
            "huge-axes-and-a-zero",
            "shape",
            cannot,
            "(0, 4294967296, 4294967296)",
            "no elements, but no array has these axes",
            b"",
        ),
        shape(
            "93-gigabytes",
            "size",
            (wrong, "100000000000 bytes", "8 bytes"),
            "(25000000000,)",
            "128 bytes that ask for 93 GiB",
        ),
        shape(
            "value-missing",
            "size",
            (wrong, "8 bytes", "7 bytes", "again"),
            "(2,)",
            "the last byte is missing",
            b"1234567",
        ),
        shape("no-values", "size", (wrong, "0 bytes"), "(2,)", "a header alone", b""),
        shape(
            "byte-too-many",
            "size",
            (wrong, "9 bytes", "more than one"),
            "(2,)",
            "a byte after the values",
            b"123456789",
        ),
        shape("values-for-no-elements", "size", wrong, "(2, 0)", "bytes where none are needed"),
        shape("scalar-of-two", "size", (wrong, "4 bytes"), "()", "two values for a scalar"),
        _case(
            "array-after-an-array",
            "size",
            (wrong, "more than one"),
            GOOD + GOOD,
            "two arrays: numpy.load gives the first",
        ),
        _case(
            "bool-2-of-8",
            "bool",
            ("neither 0 nor 1", "50"),
            npy(header("'|b1'", shape="(2,)"), b"\x012"),
            "a truth value of 50",
            "array",
        ),
    ]


def _archive(
    name: str, rule: str, words: str | tuple[str, ...], why: str, *entries: Entry, read: str | None = None
) -> Case:
    words = (words,) if isinstance(words, str) else words
    return Case(name, rule, words, {NPZ: archive(*entries)}, NPZ, read, why)


def _record(text: str | bytes | dict[str, Any], descr: str = "'|u1'", shape: str = "({},)") -> Entry:
    raw = json.dumps(text).encode() if isinstance(text, dict) else text.encode() if isinstance(text, str) else text
    return Entry(RECORD, npy(header(descr, shape=shape.format(len(raw))), raw))


VOID = Entry(b"x.npy", npy(header("'|V2'"), b"1234"))


def _members() -> list[Case]:
    return [
        _archive(
            "member-without-magic",
            "npy.magic",
            ("no NumPy array", "hello"),
            "a text named .npy",
            Entry(b"x.npy", b"hello, hello"),
        ),
        _archive("member-empty", "npy.magic", "no NumPy array", "no bytes", Entry(b"x.npy", b"")),
        _archive(
            "member-cut",
            "npy.size",
            ("not as many", "7 bytes"),
            "the last byte is missing, before it was put into the archive",
            Entry(b"x.npy", GOOD[:-1]),
        ),
        _archive(
            "member-cut-and-deflated",
            "npy.size",
            ("not as many", "7 bytes"),
            "the same, deflated",
            Entry(b"x.npy", GOOD[:-1], 8),
        ),
        _archive(
            "second-member-wrong",
            "npy.object",
            ("Python objects", "'b.npy'"),
            "a pickle beside an array",
            Entry(b"a.npy", GOOD),
            Entry(b"b.npy", npy(header("'|O'"))),
        ),
        _archive(
            "member-with-an-object",
            "npy.object",
            "a pickle",
            "a pickle in an archive",
            Entry(b"x.npy", npy(header("'|O'"), b"\x80\x04cos\nsystem\n.")),
        ),
        _archive(
            "bool-in-a-stream",
            "npy.bool",
            "neither 0 nor 1",
            "a truth value of 3, deflated",
            Entry(b"x.npy", npy(header("'|b1'"), b"\1\3"), 8),
            read="x",
        ),
    ]


def _records() -> list[Case]:
    def wrong(name: str, words: str | tuple[str, ...], why: str, record: Entry, *others: Entry) -> Case:
        return _archive(name, "npz.record", words, why, *(others or (VOID,)), record)

    bad, unfit = "a wrong record", "a recorded dtype does not fit"
    spaces = b" " * 700_000
    inner = npy(header("'|u1'", shape=f"({1 + 258 * 2800},)"), b"")
    heavy = Entry(RECORD, inner + bytes(1 + 258 * 2800), 8, blocks(inner, last=False) + zeros(2800))
    assert len(spaces) < 258 * 2800
    return [
        _archive(
            "void-without-a-record",
            "npy.void",
            ("bytes without a meaning", "loses the names"),
            "bfloat16, as numpy.savez writes it",
            VOID,
        ),
        _archive(
            "void-not-in-the-record",
            "npy.void",
            "bytes without a meaning",
            "a record that leaves it out",
            VOID,
            _record({"metadata": {}}),
        ),
        wrong("record-not-json", (bad, "JSONDecodeError"), "no JSON", _record("dtypes")),
        wrong("record-empty", (bad, "JSONDecodeError"), "no bytes", _record("")),
        wrong("record-not-utf-8", (bad, "UnicodeDecodeError"), "a byte that UTF-8 does not have", _record(b"\xff")),
        wrong("record-list", bad, "a list", _record("[]")),
        wrong("record-nested", bad, "100000 brackets", _record("[" * 100_000)),
        wrong("record-huge-number", bad, "a number of 5000 digits", _record('{"metadata": {"a": ' + "1" * 5000 + "}}")),
        wrong(
            "record-lone-surrogate",
            (bad, "UnicodeEncodeError"),
            "half a character",
            _record('{"metadata": {"a": "\\ud800"}}'),
        ),
        wrong(
            "record-key-twice",
            ("a name occurs twice", "dtypes"),
            "readers differ in which they take",
            _record('{"dtypes": {}, "dtypes": {}}'),
        ),
        wrong("record-key-unknown", (bad, "more"), "a third key", _record({"dtypes": {}, "more": {}})),
        wrong("record-metadata-number", bad, "a number for text", _record({"metadata": {"a": 1}})),
        wrong("record-metadata-list", bad, "a list for names and texts", _record({"metadata": []})),
        wrong("record-dtypes-text", bad, "text for names and texts", _record({"dtypes": "bfloat16"})),
        wrong("record-of-int8", (bad, "|i1"), "another dtype than uint8", _record({"dtypes": {}}, "'|i1'")),
        wrong(
            "record-of-uint16",
            (bad, "<u2"),
            "another dtype than uint8",
            Entry(RECORD, npy(header("'<u2'", shape="(1,)"), b"{}")),
        ),
        wrong("record-of-a-scalar", bad, "a single byte", Entry(RECORD, npy(header("'|u1'", shape="()"), b"1"))),
        wrong("dtype-unknown", (unfit, "'float7' for |V2"), "no such dtype", _record({"dtypes": {"x": "float7"}})),
        wrong(
            "dtype-of-numpy",
            (unfit, "'float16' for |V2"),
            "a dtype that needs no record",
            _record({"dtypes": {"x": "float16"}}),
        ),
        wrong(
            "dtype-of-another-size",
            (unfit, "'float8_e5m2' for |V2"),
            "one byte for two",
            _record({"dtypes": {"x": "float8_e5m2"}}),
        ),
        wrong(
            "dtype-for-numbers",
            (unfit, "'bfloat16' for <f4"),
            "floats that would be read as something else",
            _record({"dtypes": {"x": "bfloat16"}}),
            Entry(b"x.npy", GOOD),
        ),
        wrong(
            "dtype-for-no-array",
            (unfit, "no array"),
            "a name that is not in the archive",
            _record({"dtypes": {"y": "bfloat16", "x": "bfloat16"}}),
        ),
        wrong(
            "dtype-for-the-record",
            (unfit, "no array"),
            "the record describes itself",
            _record({"dtypes": {"__weights_io__": "bfloat16"}}),
            Entry(b"x.npy", GOOD),
        ),
        _archive(
            "record-too-heavy",
            "budget.heap",
            ("more than its size allows", "__weights_io__"),
            "700 kB of record in less than a kilobyte",
            heavy,
        ),
    ]


def cases() -> list[Case]:
    """Arrays that break one rule each."""
    parts = (_frames, _headers, _dtypes, _shapes, _members, _records)
    return [case for part in parts for case in part()]


def good() -> list[Case]:
    """Arrays that keep all rules, by the same builder."""
    arrays = {
        "float32": GOOD,
        "version-2": npy(header(), version=(2, 0)),
        "version-3": npy(header(), version=(3, 0)),
        "without-commas-at-the-end": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}"),
        "without-spaces": npy("{'descr':'<f4','fortran_order':False,'shape':(2,)}"),
        "keys-in-another-order": npy("{'shape': (2,), 'fortran_order': False, 'descr': '<f4'}"),
        "double-quotes": npy('{"descr": "<f4", "fortran_order": False, "shape": (2,)}'),
        "unpadded": npy(header() + "\n", length=len(header()) + 1),
        "single-byte-with-an-order": npy(header("'<i1'", shape="(8,)")),
        "big-endian": npy(header("'>f4'")),
        "fortran-order": npy(header("'|u1'", "True", "(2, 4)")),
        "scalar": npy(header("'<f8'", shape="()")),
        "empty": npy(header(shape="(3, 0, 2)"), b""),
        "64-axes": npy(header("'<f8'", shape=f"({'1, ' * 64})")),
        "complex": npy(header("'<c8'", shape="(1,)")),
        "bool": npy(header("'|b1'"), b"\0\1"),
    }
    archives = {
        "recorded-dtypes": (VOID, _record({"dtypes": {"x": "bfloat16"}, "metadata": {"made": "by hand"}})),
        "recorded-metadata": (Entry(b"x.npy", GOOD), _record({"metadata": {"a": "b"}})),
        "big-endian-fortran-deflated": (Entry(b"x.npy", npy(header("'>u2'", "True", "(2, 2)")), 8),),
    }
    return [Case(name, "", (), {NPY: content}, NPY) for name, content in arrays.items()] + [
        Case(name, "", (), {NPZ: archive(*entries)}, NPZ) for name, entries in archives.items()
    ]
