"""Malformed PyTorch files of the legacy container, from bytes: five pickles, and then the storages."""

from __future__ import annotations

import struct

from malformed.build_pytorch import (
    FALSE,
    FLOATS,
    NONE,
    dictionary,
    listed,
    pickled,
    several,
    state,
    symbol,
    tensor,
    text,
    whole,
    wholes,
)
from malformed.build_pytorch import storage as zip_storage
from malformed.case import Case

FILE = "model.pth"
MAGIC = pickled(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")
VERSION = pickled(b"M\xe9\x03")
SYSTEM = state(
    ("protocol_version", whole(1001)),
    ("little_endian", b"\x88"),
    ("type_sizes", dictionary((text("short"), whole(2)), (text("int"), whole(4)), (text("long"), whole(4)))),
)


def storage(key: str = "94001", kind: str = "FloatStorage", count: int = 6, view: bytes = NONE) -> bytes:
    """BINPERSID of a storage of this container."""
    return zip_storage(key, kind, count, more=(view,))


X = tensor(storage())


def elements(count: int = 6, raw: bytes = FLOATS) -> bytes:
    """A storage as it lies at the end."""
    return struct.pack("<q", count) + raw


def file(
    pickle: bytes | None = None,
    *,
    keys: bytes | None = None,
    end: bytes | None = None,
    magic: bytes = MAGIC,
    version: bytes = VERSION,
    system: bytes = SYSTEM,
) -> bytes:
    """A file with one storage of six floats."""
    pickle = state(("x", X)) if pickle is None else pickle
    keys = pickled(listed(text("94001"))) if keys is None else keys
    return magic + version + system + pickle + keys + (elements() if end is None else end)


def _case(
    name: str, rule: str, words: str | tuple[str, ...], content: bytes, why: str, read: str | None = None
) -> Case:
    return Case(name, rule, (words,) if isinstance(words, str) else words, {FILE: content}, FILE, read, why)


def _heads() -> list[Case]:
    magic, system = "legacy.magic", "legacy.system"
    return [
        _case("magic-in-a-tuple", magic, "wrong magic number", file(magic=MAGIC[:-1] + b"\x85."), "(magic number,)"),
        _case(
            "magic-of-eleven-bytes",
            "format.unknown",
            "no checkpoint format",
            file(magic=pickled(b"\x8a\x0b" + MAGIC[4:-1] + b"\0")),
            "the same number, one byte more",
        ),
        _case("magic-without-stop", "pickle.opcode", "PROTO", file(magic=MAGIC[:-1]), "the first pickle does not end"),
        _case(
            "version-1002",
            magic,
            ("wrong protocol version", "1002"),
            file(version=pickled(b"M\xea\x03")),
            "a version later",
        ),
        _case("version-true", magic, ("wrong protocol version", "True"), file(version=pickled(b"\x88")), "no number"),
        _case(
            "version-cut",
            "pickle.truncated",
            "ends inside",
            (MAGIC + VERSION)[:-2],
            "the file ends in the second pickle",
        ),
        _case("system-a-list", system, "nothing about the machine", file(system=pickled(b"]")), "a list"),
        _case(
            "system-without-endian",
            system,
            "nothing about the machine",
            file(system=state(("protocol_version", whole(1001)))),
            "little_endian is missing",
        ),
        _case(
            "system-endian-1",
            system,
            "nothing about the machine",
            file(system=state(("little_endian", whole(1)))),
            "1 for True",
        ),
        _case(
            "only-three-pickles",
            "pickle.begin",
            "no binary pickle",
            MAGIC + VERSION + SYSTEM,
            "the file ends after the third",
        ),
        _case("only-magic", "pickle.begin", "no binary pickle", MAGIC, "the file ends after the first"),
        _case(
            "a-persistent-magic",
            "pytorch.persistent",
            "identifies no storage",
            file(magic=MAGIC[:-1] + b"Q."),
            "the number identifies a storage",
        ),
    ]


def _keys() -> list[Case]:
    rule, words = "legacy.keys", "no list of keys"
    two = state(("x", X), ("y", tensor(storage("94002"))))
    keys = lambda *names: pickled(listed(*map(text, names)))  # noqa: E731
    return [
        _case("keys-a-tuple", rule, words, file(keys=pickled(several(text("94001")))), "a tuple of keys"),
        _case("keys-of-numbers", rule, words, file(keys=pickled(listed(whole(94001)))), "an integer for a text"),
        _case("keys-twice", rule, words, file(keys=keys("94001", "94001"), end=elements() * 2), "one storage twice"),
        _case(
            "key-without-a-storage",
            rule,
            ("not those", "94002"),
            file(keys=keys("94001", "94002"), end=elements() * 2),
            "torch.load asserts this, too",
        ),
        _case(
            "storage-without-a-key",
            rule,
            ("not those", "94002"),
            file(two),
            "torch.load leaves such a tensor as it finds the memory",
        ),
        _case("keys-empty", rule, ("not those", "94001"), file(keys=pickled(b"]"), end=b""), "no keys at all"),
        _case(
            "keys-missing", "pickle.begin", "no binary pickle", file(keys=b""), "the storages where the keys should be"
        ),
        _case(
            "keys-not-ended",
            "pickle.truncated",
            "",
            file(keys=keys("94001")[:-1], end=b""),
            "the last pickle has no STOP",
        ),
    ]


def _data() -> list[Case]:
    count, cut = "legacy.count", "file.truncated"
    short = "too short for its storages"
    return [
        _case(
            "count-too-small",
            count,
            ("another count", "94001", "6", "5"),
            file(end=elements(5)),
            "five of six elements",
        ),
        _case("count-negative", count, ("another count", "-1"), file(end=elements(-1)), "minus one element"),
        _case("count-huge", count, "another count", file(end=elements(2**62)), "4 EiB of floats"),
        _case("count-in-bytes", count, ("another count", "24"), file(end=elements(24)), "bytes for elements"),
        _case(
            "count-big-endian",
            count,
            "another count",
            file(end=struct.pack(">q", 6) + FLOATS),
            "the count's bytes reversed",
        ),
        _case("storages-missing", cut, short, file(end=b""), "the file ends after the keys"),
        _case("count-cut", cut, short, file(end=elements()[:7]), "the file ends in the count"),
        _case(
            "elements-cut", cut, (short, "fetch the file again"), file(end=elements()[:-1]), "the last byte is missing"
        ),
        _case("elements-missing", cut, short, file(end=elements()[:8]), "a count, and no elements"),
        _case(
            "huge-and-missing",
            cut,
            short,
            file(state(("x", tensor(storage(count=2**61)))), end=elements(2**61)),
            "8 EiB announced twice",
        ),
        _case(
            "a-byte-more",
            "legacy.end",
            ("bytes after the last storage",),
            file() + b"\0",
            "one byte behind the last storage",
        ),
        _case(
            "a-file-more",
            "legacy.end",
            "bytes after the last storage",
            file() + file(),
            "a second file behind the first",
        ),
    ]


def _objects() -> list[Case]:
    view, persistent = "legacy.view", "pytorch.persistent"
    part = lambda *parts: file(state(("x", tensor(storage(view=several(*parts)), size=wholes(2), stride=wholes(1)))))  # noqa: E731
    key = text("v1")
    two = state(
        ("x", tensor(storage(view=several(key, whole(0), whole(2))), size=wholes(2), stride=wholes(1))),
        ("y", tensor(storage(view=several(key, whole(2), whole(2))), size=wholes(2), stride=wholes(1))),
    )
    module = lambda *parts: file(state(("x", X), ("m", several(*parts) + b"Q")))  # noqa: E731
    sizes = lambda size, stride: file(state(("x", tensor(storage(), size=size, stride=stride))))  # noqa: E731
    return [
        _case(
            "view-beyond",
            view,
            ("no view", "6 of float32"),
            part(key, whole(5), whole(2)),
            "the last element is outside",
        ),
        _case("view-negative", view, "no view", part(key, whole(-1), whole(2)), "begins before the storage"),
        _case("view-of-two-parts", view, "no view", part(key, whole(2)), "without a count"),
        _case("view-of-a-number", view, "no view", part(whole(1), whole(0), whole(2)), "a key that is a number"),
        _case("view-in-two-places", "pytorch.storage", "disagree", file(two), "one key, two offsets"),
        _case(
            "view-too-small",
            "pytorch.bounds",
            "beyond its storage",
            file(state(("x", tensor(storage(view=several(key, whole(0), whole(5))))))),
            "six of five",
        ),
        _case(
            "identity-of-the-archive",
            persistent,
            "identifies no storage",
            file(state(("x", tensor(zip_storage("94001"))))),
            "five parts, as in an archive",
        ),
        _case(
            "identity-with-a-path",
            persistent,
            "identifies no storage",
            file(state(("x", tensor(storage("../x"))))),
            "a key that is a path",
        ),
        _case(
            "module-of-a-text",
            persistent,
            "identifies no storage",
            module(text("module"), text("os.system"), NONE, NONE),
            "a text for a class",
        ),
        _case(
            "module-of-two",
            persistent,
            "identifies no storage",
            module(text("module"), symbol("os", "system")),
            "a class alone",
        ),
        _case(
            "storage-of-two-counts",
            "pytorch.storage",
            "disagree",
            file(state(("x", X), ("y", tensor(storage(count=3))))),
            "six elements, and then three",
        ),
        _case(
            "storage-of-two-dtypes",
            "pytorch.storage",
            "disagree",
            file(state(("x", X), ("y", tensor(storage(kind="IntStorage"))))),
            "floats, and then integers",
        ),
        _case(
            "stride-beyond",
            "pytorch.bounds",
            "beyond its storage",
            sizes(wholes(2, 3), wholes(4, 1)),
            "the second row ends outside",
        ),
        _case("size-negative", "pytorch.shape", "wrong size", sizes(wholes(-2), wholes(1)), "an axis of length -2"),
        _case(
            "expanded-too-far",
            "budget.expansion",
            "far larger",
            sizes(wholes(2**20, 2**10), wholes(0, 0)),
            "4 GiB of one float",
        ),
        _case("bool-of-2", "pytorch.bool", ("neither 0 nor 1", "'x'"), _bools(), "a truth value of 2", "x"),
        _case(
            "text-opcode",
            "pickle.opcode",
            ("not read", "INST"),
            file(pickled(b"(ios\nsystem\n")),
            "calls a symbol in a text opcode",
        ),
        _case(
            "memo-of-another-pickle",
            "pickle.memo",
            "memo has nothing",
            file(pickled(b"h\x00"), magic=MAGIC[:-1] + b"q\x00."),
            "each pickle has a memo of its own",
        ),
        _case("stack-of-two", "pickle.stack", "something is left", file(pickled(X + X)), "two objects"),
        _case(
            "names-collide",
            "pytorch.names",
            "same name",
            file(state(("a/b", X), ("a", dictionary((text("b"), X))))),
            "two tensors a/b",
        ),
        _case(
            "dtype-int4",
            "pytorch.dtype",
            ("no such dtype", "torch.quint4x2"),
            _quantised(),
            "two integers in a byte",
            "x/integers",
        ),
    ]


def _bools() -> bytes:
    return file(state(("x", tensor(storage(kind="BoolStorage")))), end=elements(6, b"\0\1\2\0\1\0"))


def _quantised() -> bytes:
    place = storage(kind="QUInt4x2Storage", count=3) + whole(0) + wholes(3) + wholes(1)
    quantiser = several(symbol("torch", "per_tensor_affine"), b"G" + struct.pack(">d", 0.5), whole(0))
    hooks = symbol("collections", "OrderedDict") + b")R"
    rebuilt = symbol("torch._utils", "_rebuild_qtensor") + b"(" + place + quantiser + FALSE + hooks + b"tR"
    return file(state(("x", rebuilt)), end=elements(3, b"abc"))


def cases() -> list[Case]:
    """Each breaks one rule."""
    return [*_heads(), *_keys(), *_data(), *_objects()]


def good() -> list[Case]:
    """Well-formed files of the same builder."""
    part = storage(view=several(text("v1"), whole(2), whole(3)))
    module = several(text("module"), symbol("my.nets", "Net"), text("net.py"), text("class Net: ...")) + b"Q"
    net = module + b")\x81" + dictionary((text("weight"), X)) + b"b"
    old = symbol("torch", "FloatTensor") + b")R" + several(storage(), whole(0), wholes(6), wholes(1)) + b"b"
    files = {
        "tensor": file(),
        "view": file(state(("x", X), ("y", tensor(part, size=wholes(3), stride=wholes(1))))),
        "module": file(pickled(net)),
        "tensor-of-2017": file(state(("x", old))),
        "nothing": file(state(), keys=pickled(b"]"), end=b""),
        "two-storages": file(
            state(("x", X), ("y", tensor(storage("14002", "LongStorage", 1), size=b")", stride=b")"))),
            keys=pickled(listed(text("14002"), text("94001"))),
            end=elements(1, bytes(range(8))) + elements(),
        ),
        "python-2-text": file(pickled(b"}U\x01x" + X + b"s")),
        "big-endian-machine": file(system=state(("little_endian", FALSE))),
    }
    return [_case(name, "", (), content, "") for name, content in files.items()]
