"""PyTorch archives: seeds, structure-aware pickles in sound archives, and torch.load in a process of its own.

The differential needs an interpreter that has torch: this one, or the one that the environment variable FUZZ_TORCH_PYTHON names.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from malformed import build_pytorch as build
from malformed.build_pytorch import (
    FALSE,
    FLOATS,
    HOOKS,
    NONE,
    dictionary,
    listed,
    several,
    symbol,
    tensor,
    text,
    whole,
    wholes,
)

RECORDED = Path(__file__).parent.parent.parent / "validation" / "recorded" / "torch_files"
SMALL = (
    *("tiny_zip_p2", "bare_zip_p2", "views_zip_p4", "parameters_zip_p2", "objects_zip_p4", "dtypes_own_zip_p5", "dtypes_own_zip_p2_big_endian"),
    *("numpy_exotic_zip_p2", "quantized_zip_p2", "sparse_coo_zip_p2", "storages_zip_p2", "module_zip_p2", "tiny_zip_p2_deflated"),
)  # fmt: skip


def recorded(names: tuple[str, ...], suffix: str, opened: str) -> list[dict[str, bytes]]:
    """Small files that torch wrote."""
    paths = [RECORDED / f"{name}{suffix}" for name in names]
    return [{opened: path.read_bytes()} for path in paths if path.is_file()]


def values() -> bytes:
    """An object of every kind that the machine builds, with tensors among them, in opcodes of all protocols."""
    float8 = (symbol("torch", "float8_e4m3fn"),)
    untyped = build.storage("1", "UntypedStorage", 4, "torch.storage")
    parts = {
        "texts": listed(text("é"), b"\x8c\x01a", b"\x8d\1\0\0\0\0\0\0\0b", b"U\1c", b"T\1\0\0\0\xff"),
        "numbers": several(
            whole(7), whole(-7), whole(300), b"M\1\2", whole(2**70), b"\x8b\2\0\0\0\1\1", b"G" + bytes(8)
        ),
        "bytes": listed(b"C\1a", b"B\1\0\0\0b", b"\x8e\1\0\0\0\0\0\0\0c", b"\x96\1\0\0\0\0\0\0\0d"),
        "sets": several(b"\x8f(K\1K\2\x90", b"(K\1\x91", build.call("builtins", "set", listed(whole(3)))),
        "tuples": several(b")", b"N\x85", b"NN\x86", b"NNN\x87"),
        "moved": b"](NNeq\x05" + b"0h\x05\x94" + b"0N0h\x05",
        "ordered": symbol("collections", "OrderedDict")
        + b")R("
        + text("w")
        + tensor()
        + b"u"
        + dictionary((text("_metadata"), NONE))
        + b"b",
        "counter": build.call("collections", "Counter", dictionary((text("a"), whole(2)))),
        "default": build.call("collections", "defaultdict", symbol("builtins", "list")),
        "slots": b"\x8c\x01m\x8c\x01n\x93)\x81N" + dictionary((text("s"), tensor())) + b"\x86b",
        "keyword": symbol("a", "b") + b")" + dictionary((text("k"), whole(1))) + b"\x92",
        "parameter": build.call("torch._utils", "_rebuild_parameter", tensor(), FALSE, HOOKS),
        "noted": build.call(
            "torch._utils",
            "_rebuild_parameter_with_state",
            tensor(),
            FALSE,
            HOOKS,
            dictionary((text("note"), whole(1))),
        ),
        "float8": tensor(untyped, size=wholes(4), stride=wholes(1), version=3, dtype=float8),
        "array": build.numpy_array(FLOATS, wholes(2, 3)),
        "encoded": build.call("_codecs", "encode", text("\xff"), text("latin1")),
        "complex": build.call("builtins", "complex", b"G" + bytes(8), b"G" + bytes(8)),
    }
    return dictionary(*((text(name), content) for name, content in parts.items()), (whole(3), tensor()))


def seeds() -> list[dict[str, bytes]]:
    """Good files: of the malformed corpus's builder, one with every kind of object, and small ones that torch wrote."""
    rich = {build.FILE: build.file(build.pickled(values(), 5), storages={"0": FLOATS, "1": b"abcd"})}
    return [case.files for case in build.good()] + [rich, rich, rich] + recorded(SMALL, ".pt", build.FILE)


# --- Structure --------------------------------------------------------------------------------------------------------------

numbers = st.integers(0, 7) | st.sampled_from([-1, 255, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30])
names = st.sampled_from(["0", "0", "0", "1", "x", "", "00", "../0"])
kinds = st.sampled_from(
    [
        *(
            f"{kind}Storage"
            for kind in (
                "Float",
                "Float",
                "Bool",
                "Long",
                "Half",
                "Byte",
                "BFloat16",
                "ComplexFloat",
                "QInt8",
                "Untyped",
            )
        ),
        "Size",
    ]
)
dtypes = st.sampled_from(["uint16", "float8_e5m2", "float32", "complex32", "bits8", "bool", "int7", "nothing"])
SIZES = {
    "Float": 4,
    "Bool": 1,
    "Long": 8,
    "Half": 2,
    "Byte": 1,
    "BFloat16": 2,
    "ComplexFloat": 8,
    "QInt8": 1,
    "Untyped": 1,
}
FRAGMENTS = [
    *(bytes([code]) for code in b"N)]}(0.tseaubRQ1" + bytes([0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8F, 0x90, 0x91, 0x92, 0x93, 0x94])),
    *(b"K\1", b"h\0", b"h\1", b"q\0", b"q\1", b"r\5\0\0\0", b"j\5\0\0\0", b"C\1a", b"\x8c\1a", b"X\1\0\0\0b", b"\x8a\1\xff", b"G" + bytes(8)),
    *(b"\x95\0\0\0\0\0\0\0\0", b"U\1c", b"I1\n", b"cos\nsystem\n", HOOKS, tensor(), build.storage(), build.numpy_dtype()),
    *(symbol("collections", name) for name in ("OrderedDict", "defaultdict", "Counter")),
    *(symbol("builtins", name) for name in ("set", "frozenset", "range", "slice", "complex", "bytearray", "bytes")),
    *(symbol("torch._utils", f"_rebuild_{name}") for name in ("tensor_v2", "tensor_v3", "parameter", "qtensor", "sparse_tensor", "nested_tensor")),
    *(symbol("torch._tensor", "_rebuild_from_type_v2"), symbol("torch", "FloatTensor"), symbol("torch", "Size"), symbol("_codecs", "encode")),
    *(symbol("numpy._core.multiarray", "_reconstruct"), symbol("numpy._core.multiarray", "scalar"), symbol("copyreg", "__newobj__")),
]  # fmt: skip


@st.composite
def tensors(draw: Any, place: Any = build.storage) -> bytes:
    """A tensor that is mostly right: shape and strides of six elements, a dtype that fits."""
    kind, shape = draw(kinds), draw(st.sampled_from([(6,), (2, 3), (3, 2), (1, 6), (), (0,), (2, 0, 3)]))
    strides = [int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape))]
    offset, count = 0, 6 if kind != "UntypedStorage" else 24
    if draw(st.integers(0, 3)) == 0:
        strides = [draw(numbers) for _ in shape]
    if draw(st.integers(0, 7)) == 0:
        shape, offset, count = tuple(draw(st.lists(numbers, max_size=3))), draw(numbers), draw(numbers)
    more = (
        (dictionary((text(draw(st.sampled_from(["conj", "neg", "x"]))), b"\x88")),)
        if draw(st.integers(0, 9)) == 0
        else ()
    )
    dtype = (symbol("torch", draw(dtypes)),) if kind == "UntypedStorage" else ()
    located = place(draw(names) if draw(st.integers(0, 5)) == 0 else "0", kind, count)
    return tensor(
        located, whole(offset), wholes(*shape), wholes(*strides), *more, version=3 if dtype else 2, dtype=dtype
    )


plain = st.sampled_from(
    [NONE, FALSE, b"\x88", whole(1), whole(2**70), text("t"), b"C\1a", b"G" + bytes(8), b")", b"]", b"}"]
)


def objects(leaves: Any) -> Any:
    """Containers, placeholders and arrays of leaves."""
    key = st.builds(text, st.text(max_size=2)) | st.builds(whole, st.integers(0, 9)) | plain
    return st.recursive(
        leaves | plain,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: listed(*items)),
            st.lists(inner, max_size=3).map(lambda items: several(*items)),
            st.lists(st.tuples(key, inner), max_size=3).map(lambda pairs: dictionary(*pairs)),
            st.tuples(inner, inner).map(lambda two: build.call("my.code", "Thing", two[0]) + two[1] + b"b"),
            st.tuples(inner, inner).map(lambda two: two[0] + b"q\0" + b"0" + two[1] + b"h\0\x86"),
            st.tuples(inner, key).map(lambda two: HOOKS + two[1] + two[0] + b"s"),
            inner.map(lambda one: build.call("torch._utils", "_rebuild_parameter", one, FALSE, HOOKS)),
            st.tuples(st.sampled_from(["f4", "<i2", "O8", "b1"]), inner).map(lambda two: build.numpy_array(FLOATS, two[1], two[0])),
        ),
        max_leaves=8,
    )  # fmt: skip


@st.composite
def pickles(draw: Any, place: Any = build.storage) -> bytes:
    """A pickle of a dictionary of objects; or opcodes in any order."""
    if draw(st.integers(0, 3)) == 0:
        return build.pickled(b"".join(draw(st.lists(st.sampled_from(FRAGMENTS), max_size=30))), draw(st.integers(2, 5)))
    leaves = tensors(place)
    pairs = draw(st.lists(st.tuples(st.builds(text, st.text(max_size=3)), leaves | objects(leaves)), max_size=4))
    return build.pickled(dictionary(*pairs), draw(st.integers(2, 5)))


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """A sound archive around such a pickle, with a record or a storage that is not as it should be now and then."""
    pickle = draw(pickles())
    size = next((SIZES[kind] for kind in SIZES if kind.encode() + b"Storage" in pickle), 4)
    raw = (
        draw(st.binary(min_size=6 * size, max_size=6 * size))
        if size > 1
        else bytes([0, 1] * 12)[: 24 if b"Untyped" in pickle else 6]
    )
    records = {
        "byteorder": draw(st.sampled_from([b"little", b"little", b"big", b"small"])),
        "version": draw(st.sampled_from([b"3\n", b"3\n", b"3\n", b"11"])),
    }
    more = {"1": b"more"} if draw(st.booleans()) else {}
    return {
        build.FILE: build.file(
            pickle, storages={"0": raw[: draw(st.sampled_from([None, None, None, -1]))], **more}, records=records
        )
    }


def members(data: bytes) -> dict[str, bytes]:
    """What lies behind each local header, by whatever can be found."""
    found: dict[str, bytes] = {}
    for part in data.partition(b"PK\x01\x02")[0].split(b"PK\x03\x04")[1:]:
        if len(part) < 26:
            continue
        name, extra = struct.unpack_from("<2H", part, 22)
        content = part[26 + name + extra :].rpartition(b"PK\x07\x08")
        found[part[26 : 26 + name].decode("latin-1")] = content[0] or content[2]
    return found


def repair(data: bytes) -> bytes:
    """A sound archive of the same members: what was changed in one of them stays changed."""
    found = {name.encode("latin-1").decode("utf-8", "replace"): content for name, content in members(data).items()}
    return build.archive(found, root="")


# --- torch.load -------------------------------------------------------------------------------------------------------------

CHILD = r"""
import json, resource, signal, sys, warnings
import numpy as np
import torch
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
out = sys.stdout.buffer

def edges(node):
    if isinstance(node, dict):
        pairs = list(node.items())
        state = getattr(node, "__dict__", None)
        return pairs + ([(None, state)] if state else [])
    return list(enumerate(node))

def text(key, index):
    if type(key) is str:
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return f"#{index}" if isinstance(key, (frozenset, torch.Tensor)) else repr(key)

def parts(value):
    if isinstance(value, torch.storage.TypedStorage) or torch.is_storage(value):
        typed = isinstance(value, torch.storage.TypedStorage)
        whole = torch.empty(0, dtype=value.dtype if typed else torch.uint8)
        whole.set_(value._untyped_storage if typed else value, 0, (value.size(),), (1,))
        return {"": whole}
    if not isinstance(value, torch.Tensor):
        return None
    if value.device.type == "meta":
        return {}
    if value.is_quantized:
        result = {"/integers": value.int_repr()}
        if value.qscheme() != torch.per_tensor_affine:
            result |= {"/scales": value.q_per_channel_scales(), "/zero_points": value.q_per_channel_zero_points()}
        return result
    if value.layout == torch.sparse_coo:
        return {"/indices": value._indices(), "/values": value._values()}
    if value.layout != torch.strided or value.is_nested:
        raise ValueError("not compared")
    return {"": value}

def flat(root):
    found = {}
    first = parts(root)
    if first is not None:
        return {"tensor" + name if name else "tensor": value for name, value in first.items()}
    if not isinstance(root, (dict, list, tuple)):
        return {}
    homes, level = {id(root): None}, [(None, root)]
    kept = [root]
    while level:
        later = []
        for path, node in level:
            for index, (key, child) in enumerate(edges(node)):
                inner = path if key is None else text(key, index) if path is None else path + "/" + text(key, index)
                tensors = parts(child)
                if tensors is not None:
                    found.update({inner + name: value for name, value in tensors.items()})
                    child = getattr(child, "__dict__", None) if isinstance(child, torch.Tensor) else None
                if isinstance(child, (dict, list, tuple)) and child and id(child) not in homes:
                    homes[id(child)] = inner
                    kept.append(child)
                    later.append((inner, child))
        level = later
    return found

def raw(value):
    value = value.detach().resolve_conj().resolve_neg()
    if value.numel() == 0:
        return b""
    size = value.element_size()
    storage = value.untyped_storage()
    data = np.ndarray((storage.nbytes(),), np.uint8, (np.ctypeslib.ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr()))
    return np.ndarray(tuple(value.shape), f"V{size}", data, value.storage_offset() * size, [s * size for s in value.stride()]).tobytes()

def late(*_):
    raise TimeoutError("too slow")

signal.signal(signal.SIGALRM, late)
for line in sys.stdin:
    signal.alarm(20)
    try:
        loaded = torch.load(json.loads(line), weights_only=True, map_location="cpu")
        rows = [(n, str(v.dtype).removeprefix("torch."), list(v.shape), raw(v)) for n, v in flat(loaded).items()]
        head, body = {"tensors": [(n, d, s, len(b)) for n, d, s, b in rows]}, b"".join(b for *_, b in rows)
    except BaseException as error:
        head, body = {"refused": f"{type(error).__name__}: {error}"[:300]}, b""
    signal.alarm(0)
    loaded = rows = None
    out.write(json.dumps(head).encode() + b"\n" + body)
    out.flush()
"""


def torch_python() -> str | None:
    """An interpreter that has torch."""
    named = os.environ.get("FUZZ_TORCH_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("torch") else None)


class Oracle:
    """torch.load(weights_only=True) in a process of its own, which is started again where it dies."""

    def __init__(self, python: str) -> None:
        self.python, self.deaths = python, 0
        self.child: Any = None
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the process."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def ask(self, path: Path) -> dict[str, Any]:
        """{"refused": why}, or {"tensors": {name: (dtype, shape, bytes)}}."""
        if self.child is None:
            self.child = subprocess.Popen(
                [self.python, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        try:
            self.child.stdin.write(json.dumps(str(path)).encode() + b"\n")
            self.child.stdin.flush()
            if not select.select([self.child.stdout], [], [], 120)[0]:
                self.child.kill()
            head = json.loads(self.child.stdout.readline())
            rows = {
                name: (dtype, shape, self.child.stdout.read(size))
                for name, dtype, shape, size in head.get("tensors", [])
            }
        except (OSError, ValueError):
            self.deaths += 1
            self.stop()
            return {"refused": "torch died"}
        return head | {"tensors": rows} if "tensors" in head else head


ORACLES: list[Oracle] = []


def oracle() -> Oracle | None:
    """The one process, started when it is first asked."""
    python = torch_python()
    if python and not ORACLES:
        ORACLES.append(Oracle(python))
    return ORACLES[0] if ORACLES else None


def as_array(dtype: str, shape: list[int], raw: bytes) -> Any:
    """The array that torch read."""
    known = np.dtype(
        getattr(ml_dtypes, dtype, None)
        or (dtype if hasattr(np, dtype) else f"V{max(1, len(raw) // max(1, int(np.prod(shape))))}")
    )
    return np.frombuffer(raw, known).reshape(shape) if raw else np.empty(shape, known)


def accepts(path: Path) -> bool:
    """Whether torch.load(weights_only=True) reads the file, in a process of its own."""
    asked = oracle()
    return asked is not None and "tensors" in asked.ask(path)


def differential(path: Path) -> dict[str, Any] | None:
    """What torch.load(weights_only=True) reads; None where it refuses or is not installed."""
    asked = oracle()
    answer = asked.ask(path) if asked else {}
    if "tensors" not in answer:
        return None
    return {name: as_array(*row) for name, row in answer["tensors"].items()}
