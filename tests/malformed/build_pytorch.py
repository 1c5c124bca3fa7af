"""Malformed PyTorch archives, from bytes: opcodes, and stored members with a descriptor behind them, as torch's own writer lays them out."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from malformed.case import Case

FILE = "model.pt"
FLOATS = struct.pack("<6f", 1, -2, 3, -4, 5, -6)

# --- Opcodes ----------------------------------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    """BINUNICODE."""
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    """BININT1, BININT, or LONG1."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def several(*parts: bytes) -> bytes:
    """A tuple: MARK ... TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def wholes(*values: int) -> bytes:
    """A tuple of integers."""
    return several(*map(whole, values))


def symbol(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *args: bytes) -> bytes:
    """REDUCE of a symbol with arguments."""
    return symbol(module, name) + several(*args) + b"R"


def dictionary(*pairs: tuple[bytes, bytes]) -> bytes:
    """EMPTY_DICT ... SETITEMS."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def listed(*items: bytes) -> bytes:
    """EMPTY_LIST ... APPENDS."""
    return b"](" + b"".join(items) + b"e"


HOOKS = symbol("collections", "OrderedDict") + b")R"
NONE, FALSE = b"N", b"\x89"


def storage(
    key: str = "0", kind: str = "FloatStorage", count: int = 6, module: str = "torch", more: tuple[bytes, ...] = ()
) -> bytes:
    """BINPERSID of a storage."""
    return several(text("storage"), symbol(module, kind), text(key), text("cpu"), whole(count), *more) + b"Q"


def tensor(
    place: bytes | None = None,
    offset: bytes = whole(0),
    size: bytes = wholes(2, 3),
    stride: bytes = wholes(3, 1),
    *more: bytes,
    version: int = 2,
    dtype: tuple[bytes, ...] = (),
) -> bytes:
    """_rebuild_tensor_v2 or v3 of a storage."""
    place = storage() if place is None else place
    return call("torch._utils", f"_rebuild_tensor_v{version}", place, offset, size, stride, FALSE, HOOKS, *dtype, *more)


def pickled(content: bytes, protocol: int = 2) -> bytes:
    """PROTO ... STOP."""
    return b"\x80" + bytes([protocol]) + content + b"."


def state(*pairs: tuple[str, bytes]) -> bytes:
    """A pickle of a dictionary."""
    return pickled(dictionary(*((text(name), value) for name, value in pairs)))


# --- The archive ------------------------------------------------------------------------------------------------------------

VERSION, ORDER = {"version": b"3\n"}, {"byteorder": b"little"}


def archive(
    members: dict[str, bytes], *, align: int = 64, root: str = "model/", packed: dict[str, bytes] | None = None
) -> bytes:
    """Members one after the other, then the directory; `packed` are those that are deflated, as they are stored."""
    data, directory = b"", b""
    for name, content in members.items():
        raw, stored = (root + name).encode(), (packed or {}).get(name, content)
        method = 8 if name in (packed or {}) else 0
        begin, crc = len(data), zlib.crc32(content)
        padding = -(begin + 30 + len(raw) + 4) % align
        extra = struct.pack("<2H", 0x4246, padding) + b"Z" * padding
        flags = 0x0808 if stored else 0x0800
        data += (
            struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, flags, method, 0, 0, 0, 0, 0, len(raw), len(extra)) + raw + extra
        )
        data += stored + (struct.pack("<4s3I", b"PK\x07\x08", crc, len(stored), len(content)) if stored else b"")
        directory += struct.pack(
            "<4s6H3I5H2I",
            b"PK\x01\x02",
            0,
            0,
            flags,
            method,
            0,
            0,
            crc,
            len(stored),
            len(content),
            len(raw),
            0,
            0,
            0,
            0,
            0,
            begin,
        )
        directory += raw
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(members), len(members), len(directory), len(data), 0)
    return data + directory + end


def file(
    pickle: bytes, *, storages: dict[str, bytes] | None = None, records: dict[str, bytes] | None = None, **more: Any
) -> bytes:
    """An archive with a pickle, one storage of six floats, and the records that torch writes."""
    data = {f"data/{key}": content for key, content in ({"0": FLOATS} if storages is None else storages).items()}
    return archive({"data.pkl": pickle} | ({**ORDER, **VERSION} if records is None else records) | data, **more)


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, read: str | None = None
) -> Case:
    return Case(name, rule, (words,) if isinstance(words, str) else words, {FILE: content}, FILE, read, why)


def _pickle(name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str) -> Case:
    return _case(name, rule, words, file(content), why)


def _tensor(name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, **more: Any) -> Case:
    return _case(name, rule, words, file(state(("x", content)), **more), why)


# --- The machine ------------------------------------------------------------------------------------------------------------


def _beginnings() -> list[Case]:
    begin, good = "this is no binary pickle", state(("x", tensor()))
    return [
        _pickle("pickle-empty", "pickle.begin", begin, b"", "no bytes at all"),
        _pickle("pickle-protocol-0", "pickle.begin", begin, b"(dp0\n.", "a text pickle, without PROTO"),
        _pickle("pickle-protocol-1", "pickle.begin", begin, b"\x80\x01" + good[2:], "protocol 1 has no PROTO"),
        _pickle("pickle-protocol-6", "pickle.begin", begin, b"\x80\x06" + good[2:], "a protocol that there is not"),
        _pickle(
            "opcode-int", "pickle.opcode", ("this pickle opcode is not read", "INT"), pickled(b"I1\n"), "a text opcode"
        ),
        _pickle(
            "opcode-inst",
            "pickle.opcode",
            ("not read", "INST"),
            pickled(b"(ios\nsystem\n"),
            "calls a symbol in a text opcode",
        ),
        _pickle(
            "opcode-obj",
            "pickle.opcode",
            ("not read", "OBJ"),
            pickled(b"(" + symbol("os", "system") + b"o"),
            "calls a symbol",
        ),
        _pickle(
            "opcode-ext1",
            "pickle.opcode",
            ("not read", "EXT1"),
            pickled(b"\x82\x01"),
            "a symbol of the process's registry",
        ),
        _pickle(
            "opcode-buffer",
            "pickle.opcode",
            ("not read", "NEXT_BUFFER"),
            pickled(b"\x97", 5),
            "a buffer that is not in the file",
        ),
        _pickle("opcode-proto-again", "pickle.opcode", ("not read", "PROTO"), pickled(b"\x80\x02N"), "PROTO inside"),
        _pickle(
            "opcode-none", "pickle.opcode", ("this is no opcode", "0xff"), pickled(b"\xff"), "a byte that is no opcode"
        ),
        _pickle("no-stop", "pickle.truncated", "without STOP", good[:-1], "the last byte is missing"),
        _pickle(
            "text-beyond-the-end",
            "pickle.truncated",
            ("ends inside", "4294967295 bytes"),
            b"\x80\x02X\xff\xff\xff\xffab.",
            "4 GiB of text",
        ),
        _pickle(
            "bytes-2-to-the-62",
            "pickle.truncated",
            "ends inside",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"ab.",
            "4 EiB of bytes",
        ),
        _pickle(
            "bytearray-all-ones",
            "pickle.truncated",
            "ends inside",
            b"\x80\x05\x96" + b"\xff" * 8 + b"ab.",
            "wraps in a signed reader",
        ),
        _pickle(
            "frame-beyond-the-end",
            "pickle.truncated",
            "frame is longer",
            b"\x80\x04\x95" + struct.pack("<Q", 99) + b"N.",
            "a frame",
        ),
        _pickle("opcode-cut", "pickle.truncated", "ends inside", b"\x80\x02G\0\0", "the number of BINFLOAT is cut"),
        _case(
            "too-many-opcodes",
            "pickle.opcodes",
            "the pickle is too long",
            file(_repeated(2200)[0], packed={"data.pkl": _repeated(2200)[1]}),
            "half a million opcodes, deflated to a few kilobytes",
        ),
        _pickle(
            "after-stop",
            "pytorch.end",
            ("bytes after the pickle", "2 bytes"),
            good + b"N.",
            "a second pickle behind the first",
        ),
    ]


def _repeated(times: int) -> tuple[bytes, bytes]:
    """PROTO, NONE and POP 129 * `times` times, NONE, STOP; and a deflate stream of them, with the fixed codes."""
    literal = lambda byte: f"{0x30 + byte:08b}" if byte < 144 else f"{0x190 + byte - 144:09b}"  # noqa: E731
    bits = "1" + "10" + "".join(map(literal, b"\x80\x02N0"))
    bits += ("11000101" + "00001") * times  # 258 bytes from 2 bytes before
    bits += "".join(map(literal, b"N.")) + "0000000"
    bits += "0" * (-len(bits) % 8)
    packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    return b"\x80\x02" + b"N0" * (129 * times + 1) + b"N.", packed


def _stacks() -> list[Case]:
    rule = "pickle.stack"
    return [
        _pickle("stop-on-nothing", rule, "nothing is left", pickled(b""), "nothing to return"),
        _pickle(
            "left-on-the-stack", rule, ("something is left", "1 more objects"), pickled(b"NN"), "two objects at the end"
        ),
        _pickle("mark-at-the-end", rule, ("something is left", "1 marks"), b"\x80\x02N(0(N.", "a mark at the end"),
        _pickle("no-mark", rule, "there is no mark", pickled(b"Nt"), "TUPLE without MARK"),
        _pickle("tuple-of-too-few", rule, ("too few", "3"), pickled(b"NN\x87"), "TUPLE3 of two"),
        _pickle("tuple-across-a-mark", rule, ("too few", "2"), pickled(b"N(N\x86"), "TUPLE2 reaches below a mark"),
        _pickle("pop-of-nothing", rule, "nothing is left", pickled(b"0N"), "POP of an empty stack"),
        _pickle("put-of-nothing", rule, "nothing is on", pickled(b"q\x00N"), "BINPUT of an empty stack"),
        _pickle("append-to-nothing", rule, "nothing is on", pickled(b"Na"), "APPEND without a list"),
        _pickle("reduce-of-nothing", rule, "nothing is left", pickled(b")R"), "REDUCE without a function"),
        _pickle(
            "memo-unknown", "pickle.memo", ("memo has nothing", "memo 7"), pickled(b"h\x07"), "BINGET before BINPUT"
        ),
        _pickle(
            "memo-unknown-far",
            "pickle.memo",
            ("memo has nothing", "memo 4294967295"),
            pickled(b"Nj\xff\xff\xff\xff"),
            "an index near 2**32",
        ),
    ]


def _values() -> list[Case]:
    x = text("x")
    encode = lambda value, name: call("_codecs", "encode", text(value), text(name))  # noqa: E731
    deep = whole(0) + b"\x85" * 64
    weak = b"".join(whole(i) + b"\x85" + NONE for i in range(1001))
    return [
        _pickle("text-not-utf-8", "pickle.text", "not UTF-8", pickled(text(b"\xff\xfe")), "bytes that are no text"),
        _pickle("text-overlong", "pickle.text", "not UTF-8", pickled(text(b"\xc0\xaf")), "a slash in two bytes"),
        _pickle(
            "integer-too-long",
            "pickle.integer",
            ("too long", "1025 bytes"),
            pickled(b"\x8b" + struct.pack("<I", 1025) + bytes(1025)),
            "LONG4",
        ),
        _pickle(
            "integer-all-ones",
            "pickle.integer",
            "too long",
            pickled(b"\x8b\xff\xff\xff\xff"),
            "LONG4 with a negative length, as CPython reads it",
        ),
        _pickle("symbol-empty", "pickle.symbol", "this is no symbol", pickled(b"c\nx\n"), "a symbol without a module"),
        _pickle(
            "symbol-not-ended", "pickle.symbol", "this is no symbol", pickled(b"ctorch"), "a symbol without an end"
        ),
        _pickle(
            "symbol-too-long",
            "pickle.symbol",
            "this is no symbol",
            pickled(symbol("a", "b" * 256)),
            "a name of 256 characters",
        ),
        _pickle(
            "symbol-control", "pickle.symbol", "this is no symbol", pickled(symbol("a", "b\0c")), "a NUL in the name"
        ),
        _pickle("symbol-not-utf-8", "pickle.symbol", "not UTF-8", pickled(b"c\xff\nx\n"), "a module that is no text"),
        _pickle(
            "symbol-of-numbers",
            "pickle.symbol",
            ("this is no symbol", "two texts"),
            pickled(x + whole(1) + b"\x93", 4),
            "STACK_GLOBAL of an integer",
        ),
        _pickle(
            "key-is-a-list",
            "pickle.key",
            ("cannot be a key", "list"),
            pickled(dictionary((b"]", NONE))),
            "a key without a hash",
        ),
        _pickle(
            "key-holds-a-list",
            "pickle.key",
            ("cannot be a key", "tuple"),
            pickled(dictionary((b"]\x85", NONE))),
            "a list within a tuple",
        ),
        _pickle(
            "key-too-large",
            "pickle.key",
            ("cannot be a key", "int"),
            pickled(dictionary((whole(2**65), NONE))),
            "integers of 64 bits collide less",
        ),
        _pickle(
            "key-too-deep",
            "pickle.key",
            ("cannot be a key", "tuple"),
            pickled(dictionary((deep, NONE))),
            "a hash that takes long",
        ),
        _pickle(
            "keys-that-collide",
            "pickle.key",
            "cannot be a key",
            pickled(b"}(" + weak + b"u"),
            "a thousand and one tuples of numbers",
        ),
        _pickle(
            "element-is-a-list", "pickle.key", ("cannot be a key", "list"), pickled(b"\x8f(]\x90", 4), "a set of a list"
        ),
        _pickle("append-to-a-tuple", "pickle.target", "lists only", pickled(b")Na"), "APPEND to a tuple"),
        _pickle("append-to-a-set", "pickle.target", "lists only", pickled(b"\x8fNa", 4), "APPEND to a set"),
        _pickle(
            "set-item-of-a-list",
            "pickle.target",
            "dictionaries only",
            pickled(b"]" + whole(0) + b"Ns"),
            "SETITEM of a list",
        ),
        _pickle("add-to-a-list", "pickle.target", "sets only", pickled(b"](N\x90", 4), "ADDITEMS to a list"),
        _pickle(
            "key-without-a-value", "pickle.target", "a key has no value", pickled(b"}(" + x + b"u"), "one key, no value"
        ),
        _pickle(
            "call-of-a-number",
            "pickle.call",
            ("only a symbol", "int"),
            pickled(whole(1) + b")R"),
            "an integer is called",
        ),
        _pickle(
            "call-with-a-list",
            "pickle.call",
            "must be a tuple",
            pickled(symbol("os", "system") + b"]R"),
            "arguments in a list",
        ),
        _pickle(
            "call-by-a-number",
            "pickle.call",
            "must be a dictionary",
            pickled(symbol("a", "b") + b")N\x92", 4),
            "NEWOBJ_EX without keywords",
        ),
        _pickle(
            "new-of-a-function",
            "pickle.call",
            "not made so",
            pickled(symbol("_codecs", "encode") + b")\x81"),
            "NEWOBJ of a function",
        ),
        _pickle(
            "new-of-a-full-dict",
            "pickle.call",
            "not made so",
            pickled(symbol("collections", "OrderedDict") + b"]\x85\x81"),
            "NEWOBJ initialises nothing",
        ),
        _pickle(
            "ordered-of-a-number",
            "pickle.call",
            "wrong arguments",
            pickled(call("collections", "OrderedDict", whole(1))),
            "a dictionary of 1",
        ),
        _pickle(
            "encode-rot13",
            "pickle.call",
            ("wrong arguments", "latin1"),
            pickled(encode("x", "rot13")),
            "an encoding that is code",
        ),
        _pickle(
            "encode-not-latin1",
            "pickle.call",
            ("wrong arguments", "U+00FF"),
            pickled(encode("Ā", "latin1")),
            "a character that is no byte",
        ),
        _pickle(
            "complex-of-texts",
            "pickle.call",
            "two floats",
            pickled(call("builtins", "complex", x, x)),
            "complex('x', 'x')",
        ),
        _pickle(
            "range-of-step-0",
            "pickle.call",
            "the third not 0",
            pickled(call("builtins", "range", *map(whole, (0, 9, 0)))),
            "range(0, 9, 0)",
        ),
        _pickle(
            "new-of-new",
            "pickle.call",
            "wrong arguments",
            pickled(call("copyreg", "__newobj__", symbol("copyreg", "__newobj__"))),
            "calls of calls",
        ),
        _pickle("build-of-a-list", "pickle.build", ("has no state", "list"), pickled(b"]Nb"), "BUILD on a list"),
        _pickle("build-of-a-storage", "pickle.build", "has no state", pickled(storage() + b"Nb"), "BUILD on a storage"),
        _pickle(
            "attributes-of-a-number",
            "pickle.build",
            "must be a dictionary",
            pickled(HOOKS + whole(1) + b"b"),
            "an OrderedDict with the state 1",
        ),
        _pickle(
            "copies-of-a-text",
            "budget.heap",
            "more than its size allows",
            pickled(_copies()),
            "3000 times the bytes of a text of 12000 characters",
        ),
    ]


def _copies() -> bytes:
    args = text("x" * 12_000) + text("latin1") + b"\x86q\x00" + symbol("_codecs", "encode") + b"q\x01"
    return b"]" + args + b"00(" + b"h\x01h\x00R" * 3000 + b"e"


# --- Tensors ----------------------------------------------------------------------------------------------------------------


def _storages() -> list[Case]:
    rule, words = "pytorch.persistent", "identifies no storage"
    kind = symbol("torch", "FloatStorage")
    identity = lambda *parts: tensor(several(*parts) + b"Q")  # noqa: E731
    good = (text("storage"), kind, text("0"), text("cpu"), whole(6))
    return [
        _tensor("identity-is-a-number", rule, words, tensor(whole(5) + b"Q"), "a persistent identifier of old"),
        _tensor("identity-of-four", rule, words, identity(*good[:4]), "without a count"),
        _tensor(
            "identity-of-a-module",
            rule,
            words,
            identity(text("module"), *good[1:]),
            "only the legacy container has these",
        ),
        _tensor(
            "class-not-a-storage",
            rule,
            words,
            identity(good[0], symbol("os", "system"), *good[2:]),
            "a symbol that is no storage",
        ),
        _tensor(
            "class-of-elsewhere",
            rule,
            words,
            identity(good[0], symbol("evil", "FloatStorage"), *good[2:]),
            "a known name in another module",
        ),
        _tensor("key-with-a-path", rule, words, tensor(storage("../0")), "a key that leaves the folder"),
        _tensor("key-of-other-digits", rule, words, tensor(storage("٠")), "a digit that is not ASCII"),
        _tensor("count-negative", rule, words, tensor(storage(count=-6)), "minus six elements"),
        _tensor("count-true", rule, words, identity(*good[:4], b"\x88"), "a truth value counts"),
        _tensor("count-2-to-the-63", rule, words, tensor(storage(count=2**63)), "does not fit in 64 bits with a sign"),
        _tensor(
            "storage-missing",
            "pytorch.missing",
            ("a storage is missing", "data/1"),
            tensor(storage("1")),
            "no member of that key",
        ),
        _tensor(
            "storage-smaller",
            "pytorch.storage",
            ("another size", "28 bytes", "24 bytes"),
            tensor(storage(count=7)),
            "one element too many",
        ),
        _tensor(
            "storage-larger",
            "pytorch.storage",
            ("another size", "20 bytes", "24 bytes"),
            tensor(storage(count=5)),
            "one element too few",
        ),
        _case(
            "storage-of-two-dtypes",
            "pytorch.storage",
            "disagree",
            file(state(("x", tensor()), ("y", tensor(storage(kind="IntStorage"))))),
            "the same bytes as floats and as integers",
        ),
        _case(
            "storage-of-two-counts",
            "pytorch.storage",
            "disagree",
            file(state(("x", tensor()), ("y", tensor(storage(count=3), size=wholes(3), stride=wholes(1))))),
            "six elements, and then three",
        ),
    ]


def _tensors() -> list[Case]:
    rebuild, shape, bounds = "pytorch.rebuild", "pytorch.shape", "pytorch.bounds"
    untyped = storage(kind="UntypedStorage", count=24, module="torch.storage")
    metadata = lambda name: dictionary((text(name), b"\x88"))  # noqa: E731
    utils = "torch._utils"
    sizes = lambda *values: tensor(size=wholes(*values), stride=wholes(*[1] * len(values)))  # noqa: E731
    return [
        _tensor(
            "rebuild-too-few",
            rebuild,
            "wrong arguments",
            call(utils, "_rebuild_tensor_v2", storage()),
            "a storage alone",
        ),
        _tensor("rebuild-of-a-number", rebuild, "a typed storage", tensor(whole(6)), "6 is no storage"),
        _tensor("rebuild-untyped", rebuild, "a typed storage", tensor(untyped), "v2 of a storage without a dtype"),
        _tensor(
            "rebuild-typed",
            rebuild,
            "a typed storage",
            tensor(version=3, dtype=(symbol("torch", "uint16"),)),
            "v3 of a storage with one",
        ),
        _tensor(
            "conj-of-floats",
            rebuild,
            "metadata of a tensor",
            tensor(None, whole(0), wholes(2), wholes(1), metadata("conj")),
            "no complex numbers",
        ),
        _tensor(
            "metadata-unknown",
            rebuild,
            "metadata of a tensor",
            tensor(None, whole(0), wholes(2), wholes(1), metadata("bits")),
            "a flag unknown",
        ),
        _tensor(
            "parameter-of-a-number",
            rebuild,
            "wrong arguments",
            call(utils, "_rebuild_parameter", whole(1), FALSE, HOOKS),
            "1 is no tensor",
        ),
        _tensor(
            "from-type-of-a-text",
            rebuild,
            "wrong arguments",
            call("torch._tensor", "_rebuild_from_type_v2", *[text("x")] * 4),
            "four texts",
        ),
        _tensor(
            "quantised-by-nothing",
            rebuild,
            "wrong arguments",
            call(utils, "_rebuild_qtensor", storage()),
            "no quantiser",
        ),
        _tensor("size-negative", shape, "wrong size or stride", sizes(-2, 3), "an axis of length -2"),
        _tensor(
            "size-true",
            shape,
            "wrong size or stride",
            tensor(size=several(b"\x88"), stride=wholes(1)),
            "an axis of length True",
        ),
        _tensor(
            "stride-negative", shape, "wrong size or stride", tensor(None, whole(5), wholes(2), wholes(-1)), "backwards"
        ),
        _tensor("stride-missing", shape, "wrong size or stride", tensor(stride=wholes(1)), "two axes, one stride"),
        _tensor("size-of-65-axes", shape, "wrong size or stride", sizes(*[1] * 65), "more axes than an array can have"),
        _tensor(
            "size-overflows", shape, "wrong size or stride", sizes(2**31, 2**31, 2**31), "a product beyond 64 bits"
        ),
        _tensor("size-overflows-and-is-0", shape, "wrong size or stride", sizes(0, 2**62), "empty, but no array"),
        _tensor("size-is-a-number", shape, "wrong size or stride", tensor(size=whole(6)), "6 for (6,)"),
        _tensor(
            "offset-beyond",
            bounds,
            ("beyond its storage", "offset 1"),
            tensor(offset=whole(1)),
            "the last element is outside",
        ),
        _tensor(
            "offset-negative", bounds, "beyond its storage", tensor(offset=whole(-1)), "the first element is outside"
        ),
        _tensor("offset-2-to-the-64", bounds, "beyond its storage", tensor(offset=whole(2**64)), "wraps to 0"),
        _tensor(
            "stride-beyond",
            bounds,
            ("beyond its storage", "(4, 1)"),
            tensor(stride=wholes(4, 1)),
            "the second row ends outside",
        ),
        _tensor(
            "stride-overflows",
            bounds,
            "beyond its storage",
            tensor(stride=wholes(2**62, 1)),
            "wraps to 0 when multiplied by the itemsize",
        ),
        _tensor(
            "storage-empty",
            bounds,
            "beyond its storage",
            tensor(storage(count=0)),
            "six of no elements",
            storages={"0": b""},
        ),
        _tensor(
            "expanded-too-far",
            "budget.expansion",
            "far larger than the file",
            tensor(size=wholes(2**20, 2**10), stride=wholes(0, 0)),
            "4 GiB of one float",
        ),
        _tensor(
            "dtype-unknown",
            "pytorch.dtype",
            ("unknown dtype", "torch.float128"),
            tensor(untyped, version=3, dtype=(symbol("torch", "float128"),)),
            "a dtype that torch has not",
        ),
        _tensor(
            "dtype-of-elsewhere",
            "pytorch.dtype",
            "unknown dtype",
            tensor(untyped, version=3, dtype=(symbol("os", "uint8"),)),
            "os.uint8",
        ),
        _case(
            "dtype-complex32",
            "pytorch.dtype",
            ("no such dtype", "'x'", "torch.complex32"),
            file(state(("x", tensor(untyped, version=3, dtype=(symbol("torch", "complex32"),))))),
            "a dtype that NumPy has not",
            "x",
        ),
        _case(
            "bool-of-7",
            "pytorch.bool",
            ("neither 0 nor 1", "'x'"),
            file(state(("x", tensor(storage(kind="BoolStorage")))), storages={"0": b"\0\1\1\0\7\1"}),
            "a truth value of 7",
            "x",
        ),
    ]


# --- NumPy, names, records --------------------------------------------------------------------------------------------------


def numpy_dtype(code: str = "f4", order: str = "<") -> bytes:
    """numpy.dtype, with BUILD."""
    built = several(whole(3), text(order), NONE, NONE, NONE, whole(-1), whole(-1), whole(0))
    return call("numpy", "dtype", text(code), FALSE, b"\x88") + built + b"b"


def numpy_array(raw: bytes, shape: bytes, code: str = "f4", order: str = "<", columns: bytes = FALSE) -> bytes:
    """An array as NumPy pickles it."""
    made = call("numpy._core.multiarray", "_reconstruct", symbol("numpy", "ndarray"), wholes(0), text("b"))
    content = call("_codecs", "encode", text(raw.decode("latin-1")), text("latin1"))
    return made + several(whole(1), shape, numpy_dtype(code, order), columns, content) + b"b"


def _objects() -> list[Case]:
    array = "pytorch.array"
    scalar = call(
        "numpy._core.multiarray", "scalar", numpy_dtype("f8"), call("_codecs", "encode", text("1234"), text("latin1"))
    )
    nested = b"}" + text("x") + tensor() + b"s"
    deep = b"]" * 260 + nested + b"a" * 260
    return [
        _pickle(
            "array-too-short",
            array,
            "not the bytes that it needs",
            pickled(numpy_array(FLOATS[:-1], wholes(6))),
            "23 bytes for six floats",
        ),
        _pickle(
            "array-shape-negative",
            array,
            "not the bytes",
            pickled(numpy_array(FLOATS, wholes(-6))),
            "minus six elements",
        ),
        _pickle(
            "array-shape-overflows",
            array,
            "not the bytes",
            pickled(numpy_array(b"", wholes(0, 2**62))),
            "empty, but no array",
        ),
        _pickle("scalar-too-short", array, "a scalar", pickled(scalar), "four bytes for a float64"),
        _pickle(
            "frombuffer-of-a-text",
            "pytorch.rebuild",
            "wrong arguments",
            pickled(call("numpy._core.numeric", "_frombuffer", *[text("C")] * 4)),
            "a text",
        ),
        _pickle(
            "names-collide",
            "pytorch.names",
            ("same name", "a/b"),
            state(("a/b", tensor()), ("a", dictionary((text("b"), tensor())))),
            "two tensors a/b",
        ),
        _pickle(
            "names-of-1-and-1",
            "pytorch.names",
            "same name",
            pickled(dictionary((text("1"), tensor()), (whole(1), tensor()))),
            "the keys '1' and 1",
        ),
        _pickle(
            "name-half-a-pair",
            "pytorch.names",
            "not text",
            pickled(dictionary((text(b"\xed\xa0\x80"), tensor()))),
            "half of a surrogate pair",
        ),
        _pickle("too-deep", "pytorch.depth", "too deep", pickled(deep), "a tensor in 260 lists"),
    ]


def _records() -> list[Case]:
    good = state(("x", tensor()))
    member = {"data/0": FLOATS}
    root = "not one checkpoint"

    def records(**more: bytes) -> bytes:
        return file(
            good, records={**ORDER, **VERSION, **{name.replace("__", "."): value for name, value in more.items()}}
        )

    return [
        _case(
            "no-folder",
            "pytorch.root",
            root,
            archive({"data.pkl": good, **VERSION, **member}, root=""),
            "data.pkl lies in no folder",
        ),
        _case(
            "two-pickles",
            "pytorch.root",
            root,
            archive({"a/data.pkl": good, "b/data.pkl": good}, root=""),
            "two folders with a data.pkl",
        ),
        _case(
            "member-outside",
            "pytorch.root",
            (root, "other/x"),
            archive({"m/data.pkl": good, "m/version": b"3", "other/x": b"1"}, root=""),
            "a second folder",
        ),
        _case("version-missing", "pytorch.version", "wrong version", file(good, records=ORDER), "no version"),
        _case(
            "version-twice",
            "pytorch.version",
            "wrong version",
            file(good, records={**VERSION, ".data/version": b"3"}),
            "two records",
        ),
        _case(
            "version-11", "pytorch.version", ("wrong version", "11"), records(version=b"11\n"), "later than any reader"
        ),
        _case("version-not-a-number", "pytorch.version", "wrong version", records(version=b"3.0"), "3.0"),
        _case(
            "byteorder-middle",
            "pytorch.byteorder",
            "wrong byte order",
            records(byteorder=b"middle"),
            "a byte order of its own",
        ),
        _case("byteorder-long", "zip.small", "too large", records(byteorder=b"little" * 3), "more than the words"),
        _case(
            "format-version-text",
            "pytorch.record",
            ("no number", ".format_version"),
            records(__format_version=b"one"),
            "one",
        ),
        _case(
            "alignment-negative",
            "pytorch.record",
            ("no number", ".storage_alignment"),
            records(__storage_alignment=b"-64"),
            "-64",
        ),
        _case(
            "metadata-not-json", "pytorch.metadata", "no metadata", records(__weights_io__json=b"{"), "half an object"
        ),
        _case(
            "metadata-of-numbers",
            "pytorch.metadata",
            "no metadata",
            records(__weights_io__json=b'{"metadata": {"a": 1}}'),
            "a number for a text",
        ),
        _case(
            "metadata-twice",
            "pytorch.metadata",
            "twice",
            records(__weights_io__json=b'{"metadata": {"a": "1", "a": "2"}}'),
            "a name twice",
        ),
        _case(
            "storage-spoiled",
            "zip.crc",
            "checksum",
            file(good).replace(FLOATS, FLOATS[::-1]),
            "the bytes of the storage are others",
            "x",
        ),
    ]


def _later() -> list[Case]:
    """Cases that came after the others: the numbers of files do not change."""
    scattered = (b"M\xff\xffNM\xfd\xffN") * 5_200
    return [
        _pickle(
            "memo-of-gaps",
            "pickle.memo",
            ("too many gaps", "memo 2002"),
            pickled(b"N" + b"".join(b"r" + struct.pack("<I", 2 * i) for i in range(1, 1005))),
            "a thousand places and more, with nothing between them: CPython's memo is an array as long as the last",
        ),
        _pickle(
            "keys-scattered",
            "pickle.key",
            "cannot be a key",
            pickled(b"}(" + scattered + b"u"),
            "ten thousand numbers that do not follow each other, so that a file can choose them to collide",
        ),
        _pickle(
            "file-within-the-file",
            "pytorch.rebuild",
            ("a file within the file", "_load_from_bytes"),
            state(("x", call("torch.storage", "_load_from_bytes", b"C\x04\x80\x02N."))),
            "a pickle within a pickle, as torch writes storages that are pickled without torch.save",
        ),
    ]


def cases() -> list[Case]:
    """Each breaks one rule."""
    return [*_beginnings(), *_stacks(), *_values(), *_storages(), *_tensors(), *_objects(), *_records(), *_later()]


# --- Good files -------------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A list of a list twice, of a list twice, ... : 2^30 leaves in a few hundred bytes."""
    levels = (b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) + b"0" for i in range(30))
    return b"]q\x000" + b"".join(levels) + b"h\x1e"


def good() -> list[Case]:
    """Well-formed files of the same builder."""
    cycle = b"]q\x00h\x00ah\x00" + tensor() + b"a0"
    array = numpy_array(FLOATS, wholes(2, 3))
    untyped = storage(kind="UntypedStorage", count=24, module="torch.storage")
    e5m2 = tensor(untyped, size=wholes(24), stride=wholes(1), version=3, dtype=(symbol("torch", "float8_e5m2"),))
    unknown = (
        call("argparse", "Namespace")
        + dictionary((text("lr"), b"G" + struct.pack(">d", 0.5)), (text("w"), tensor()))
        + b"b"
    )
    files = {
        "tensor": file(state(("x", tensor()))),
        "transposed-tied-expanded": file(
            state(
                ("x", tensor()),
                ("y", tensor(size=wholes(3, 2), stride=wholes(1, 3))),
                ("z", tensor(size=wholes(4, 1), stride=wholes(0, 1))),
            )
        ),
        "bare": file(pickled(tensor())),
        "empty": file(state(), storages={}),
        "untyped": file(state(("x", e5m2))),
        "big-endian": file(state(("x", tensor())), records={"byteorder": b"big", **VERSION}),
        "no-byteorder": file(state(("x", tensor())), records=VERSION),
        "array": file(state(("x", array), ("y", numpy_array(FLOATS, wholes(2, 3), "f4", ">", b"\x88"))), storages={}),
        "cycle": file(pickled(cycle)),
        "bomb": file(pickled(bomb()), storages={}),
        "placeholder": file(state(("args", unknown), ("x", tensor()))),
        "os-system-is-a-name": file(state(("x", tensor()), ("y", call("os", "system", text("echo no"))))),
        "unreferenced": file(state(("x", tensor())), storages={"0": FLOATS, "1": b"more"}),
    }
    return [_case(name, "", (), content, "") for name, content in files.items()]
