"""TensorFlow bundles: seeds, structure-aware files, checksums put right, and TensorFlow itself where there is one.

TensorFlow crashes on some malformed bundles, so it reads in a process of its own, forked anew for each: `validation/oracles/tensorflow_server.py`,
run by the interpreter that the environment variable TENSORFLOW_PYTHON names.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from malformed import build_tensorbundle as build

SERVER = Path(__file__).parents[2] / "validation" / "oracles" / "tensorflow_server.py"
SIZES = {1: 4, 2: 8, 3: 4, 4: 1, 8: 8, 9: 8, 10: 1, 12: 1, 14: 2, 18: 16, 19: 2, 25: 1, 29: 1}


def _content(code: int, count: int) -> bytes:
    """Bytes of `count` numbers that every dtype takes: 0 and 1."""
    return bytes(at % 2 for at in range(count * SIZES[code]))


def _every_dtype() -> dict[str, bytes]:
    rows, data = [], b""
    for code, size in SIZES.items():
        shape = [(2,), (), (0, 3), (1, 2, 1)][code % 4]
        content = _content(code, int(np.prod(shape, dtype=int)))
        rows.append(
            (f"layer_{code:02}/kernel".encode(), build.entry(content, code, build.shaped(*shape), offset=len(data)))
        )
        data += content
        assert len(content) % size == 0
    return build.bundle(*rows, data=(data,))


def _objects() -> dict[str, bytes]:
    graph, crc = build.strings(b"\n\x0c\n\x08\x08\x01\x12\x04step\n\0")
    words, words_crc = build.strings(b"one", b"", b"\xe8\x8b\x8f")
    rows = [
        (b"_CHECKPOINTABLE_OBJECT_GRAPH", build.entry(graph, 7, b"", crc=crc)),
        (b"step/.ATTRIBUTES/VARIABLE_VALUE", build.entry(build.X, 9, b"", offset=len(graph))),
        (
            b"words/.ATTRIBUTES/table-keys",
            build.entry(words, 7, build.shaped(3, 1), offset=len(graph) + 8, crc=words_crc),
        ),
    ]
    return build.bundle(*rows, data=(graph + build.X + words,))


def seeds() -> list[dict[str, bytes]]:
    """Good files: those of the corpus, every kind of dtype, and a checkpoint of objects with strings."""
    return [case.files for case in build.good()] + [_every_dtype(), _objects()]


# --- structure-aware --------------------------------------------------------------------------------------------------------

EXTREME = st.sampled_from([-1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]) | st.integers(-3, 9)
ordinary = st.text("abc/é", min_size=1, max_size=4)
names = st.one_of(ordinary, ordinary, ordinary, st.sampled_from(["a" * 200, "a" * 200 + "b", "\0a", ""]))
bad_fields = st.builds(build.number, st.integers(0, 9), EXTREME) | st.builds(
    build.message, st.integers(0, 9), st.binary(max_size=6)
)


@st.composite
def _tensor(draw: Any, shard: int, offset: int) -> tuple[bytes, bytes]:
    """(an entry, its data), once in a while with something wrong."""
    code = draw(st.sampled_from(list(SIZES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    content = _content(code, int(np.prod(shape, dtype=int)))
    wrong = draw(st.sampled_from(["none"] * 12 + ["size", "offset", "dtype", "shard", "crc", "shape", "field"]))
    parts: dict[str, Any] = {"dtype": code, "offset": offset, "shard": shard}
    if wrong in ("size", "offset", "dtype", "shard"):
        parts[wrong] = draw(EXTREME)
    parts["shape"] = build.shaped(*[*shape, draw(EXTREME)] if wrong == "shape" else shape)
    more: dict[str, Any] = {"crc": draw(st.integers(0, 2**32 - 1))} if wrong == "crc" else {}
    more |= {"after": draw(bad_fields)} if wrong == "field" else {}
    return build.entry(content, **parts, **more), content


@st.composite
def _strings(draw: Any, shard: int, offset: int) -> tuple[bytes, bytes]:
    parts = draw(st.lists(st.binary(max_size=5), max_size=4))
    lengths = draw(st.none() | st.binary(max_size=4)) if draw(st.integers(0, 7)) == 0 else None
    content, crc = build.strings(*parts, lengths=lengths)
    shape = draw(st.sampled_from([(len(parts),), (1, len(parts)), (len(parts), 0, 2**40)])) if len(parts) != 1 else ()
    return build.entry(content, 7, build.shaped(*shape), shard, offset, crc=crc), content


@st.composite
def _cut(draw: Any, shape: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """A tiling of a shape: it is cut in two along an axis, and so are its parts."""
    boxes = [tuple((0, size) for size in shape)]
    for _ in range(draw(st.integers(1, 4))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        start, length = box[axis]
        at = draw(st.integers(1, length - 1)) if length > 1 else draw(st.sampled_from([0, length]))
        boxes += [
            (*box[:axis], (start, at), *box[axis + 1 :]),
            (*box[:axis], (start + at, length - at), *box[axis + 1 :]),
        ]
    return boxes


@st.composite
def _partitioned(draw: Any) -> dict[str, bytes]:
    """A partitioned tensor whose slices tile it, but for one that is wrong in one file of four."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 2, 3, 4, 5]), min_size=1, max_size=3)))
    boxes: list[Any] = draw(_cut(shape))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(boxes) - 1))
        boxes[at] = tuple(
            (start + draw(st.integers(-1, 1)), size + draw(st.integers(-1, 1))) for start, size in boxes[at]
        )
    whole = draw(st.booleans())
    slices = [
        tuple(None if whole and part == (0, size) else part for part, size in zip(box, shape, strict=True))
        for box in boxes
    ]
    return build.partitioned(shape, *slices, dtype=draw(st.sampled_from([1, 1, 1, 7, 20])))


@st.composite
def _plain(draw: Any) -> dict[str, bytes]:
    """Tensors and strings in one or two shards, in blocks of some size, compressed or not."""
    shards = draw(st.sampled_from([1, 1, 1, 2]))
    rows, data = {b"": build.number(1, shards) + build.message(3, build.number(1, 1))}, [b""] * shards
    for shard in [*range(shards), *draw(st.lists(st.integers(0, shards - 1), max_size=4))]:
        kind, name = draw(st.sampled_from([_tensor, _tensor, _strings])), draw(names).encode()
        made, content = draw(kind(shard, len(data[shard])))
        if name not in rows:
            rows[name] = made
            data[shard] += content
    if draw(st.integers(0, 9)) == 0:
        rows[b""] += draw(bad_fields)
    return build.files(draw(_table(rows)), *data)


@st.composite
def _table(draw: Any, rows: dict[bytes, bytes]) -> bytes:
    ordered = sorted(rows.items())
    cut = draw(st.integers(1, len(ordered)))
    blocks = []
    for part in (ordered[:cut], ordered[cut:]):
        if part:
            made = [build.row(key, value) for key, value in part]
            restarts = [sum(map(len, made[:at])) for at in range(len(made))] if draw(st.booleans()) else [0]
            if draw(st.integers(0, 19)) == 0:
                restarts.append(draw(st.integers(0, 60)))
            content = build.block(made, restarts)
            packed = draw(st.integers(0, 4)) == 0
            sealed = build.sealed(build.snappy(content), 1) if packed else build.sealed(content)
            blocks.append((part[-1][0] + draw(st.sampled_from([b"", b"", b"\0"])), sealed))
    return build.table(blocks, more=draw(st.sampled_from([b""] * 19 + [b"\0"])))


def files() -> st.SearchStrategy[dict[str, bytes]]:
    """Bundles with right checksums, mostly right otherwise."""
    return st.one_of(_plain(), _plain(), _partitioned())


# --- checksums --------------------------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _handles(block: bytes) -> list[tuple[bytes, int]]:
    """The keys and offsets in an index block, as far as they can be read."""
    found, at, key = [], 0, b""
    while at < len(block) - 4 - 4 * int.from_bytes(block[-4:], "little"):
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        found.append((key, _varint(block, at + own)[0]))
        at += own + size
    return found


def repair(data: bytes) -> bytes:
    """An index whose blocks end where the next begins, with the checksums of what they hold now; anything else as it is."""
    try:
        at = len(data) - 48
        for _ in range(3):
            at = _varint(data, at)[1]
        size = _varint(data, at)[0]
        end = len(data) - 53 - size
        if data[-8:] != build.MAGIC or end < 13:
            return data
        handles = _handles(data[end : end + size])
        starts = [start for _, start in handles] + [end - 13]
        blocks = [
            (key, build.sealed(data[start : stop - 5], data[stop - 5]))
            for (key, start), stop in zip(handles, starts[1:], strict=True)
        ]
        return build.table(blocks)
    except IndexError:
        return data


# --- TensorFlow -------------------------------------------------------------------------------------------------------------


@cache
def server() -> subprocess.Popen[str] | None:
    """The process that reads with TensorFlow; None where TENSORFLOW_PYTHON names no interpreter."""
    python = os.environ.get("TENSORFLOW_PYTHON")
    if not python:
        return None
    process = subprocess.Popen([python, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def asked(path: Path) -> dict[str, Any] | None:
    """What the server says of a bundle: its tensors and strings, or that TensorFlow refused it or crashed."""
    process = server()
    if process is None or process.stdin is None or process.stdout is None:
        return None
    process.stdin.write(json.dumps(str(path)) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def accepts(path: Path) -> bool:
    """Whether TensorFlow reads the file, in a process of its own."""
    return "tensors" in (asked(path) or {})


def differential(path: Path) -> dict[str, Any] | None:
    """The arrays that TensorFlow reads; None if it refuses, crashes, or is not there."""
    answer = asked(path)
    if answer is None or "tensors" not in answer:
        return None
    return {
        name: np.frombuffer(bytes.fromhex(content), _dtype(dtype)).reshape(shape)
        for name, (dtype, shape, content) in answer["tensors"].items()
    }


def _dtype(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name, name))
