"""HDF5: seeds, files whose named fields are changed before their checksums are computed, and h5py in a limited child process."""

from __future__ import annotations

import base64
import json
import random
import select
import struct
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from malformed.build_hdf5 import FILES, lookup3, old

MAGIC = b"\x89HDF\r\n\x1a\n"
NOWHERE = 0xFFFFFFFFFFFFFFFF
FIELDS = {  # of each good file; not how many nodes it has
    name: {field: value for field, value in build(None).fields.items() if not field.endswith(("levels", "width"))}
    for name, build in FILES.items()
}
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    31,
    32,
    64,
    255,
    256,
    4096,
    65535,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    NOWHERE - 1,
    NOWHERE,
]


def seeds() -> list[dict[str, bytes]]:
    """Good files of every kind of structure, and one with a user block."""
    found = [{"a.h5": bytes(build(None).data)} for build in FILES.values()]
    return [*found, {"a.h5": bytes(512) + bytes(old(None, 512).data)}]


def _other(rng: random.Random, value: Any, fields: dict[str, Any]) -> Any:
    """Another value for a field: near, extreme, or that of a field elsewhere, so that structures meet that should not."""
    if isinstance(value, bytes):
        return rng.choice(
            [value[:-1], value + b"\0", value[::-1], b"", bytes(len(value)), value * 2, b"/", b".", b"\xff"]
        )
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    numbers = [other for other in fields.values() if isinstance(other, int)]
    near = [value + 1, value - 1, value + 8, value - 8, value * 2, value // 2, value ^ (1 << rng.randrange(32))]
    return rng.choice([rng.choice(near), rng.choice(NUMBERS), rng.choice(numbers), rng.randrange(2**64)])


def changed(seed: int, count: int) -> dict[str, bytes]:
    """A file of which `count` fields are changed, at random but the same for the same seed."""
    rng = random.Random(seed)
    name = rng.choice(sorted(FILES))
    build, fields = FILES[name], FIELDS[name]
    names = rng.sample(sorted(fields), min(count, len(fields)))
    try:
        return {"a.h5": bytes(build({name: _other(rng, fields[name], fields) for name in names}).data)}
    except (AssertionError, IndexError, KeyError, OverflowError, ValueError, MemoryError):  # no such file can be built
        return {"a.h5": bytes(build(None).data)}


def files() -> st.SearchStrategy[dict[str, bytes]]:
    """Good files of which one to four fields are changed, checksums right."""
    return st.builds(changed, st.integers(0, 2**32 - 1), st.sampled_from([1, 1, 1, 2, 3, 4]))


# --- checksums after mutation -----------------------------------------------------------------------------------------------


def repair(data: bytes) -> bytes:
    """The same bytes with the checksums put right of what still looks like a structure that has one."""
    whole = bytearray(data)
    base = max(0, data.find(MAGIC))
    sizes: dict[int, int] = {}
    if data[base + 8 : base + 9] in (b"\2", b"\3"):
        sizes[base] = 48
    for signature, found in FOUND.items():
        place = data.find(signature)
        while place >= 0:
            _note(found, data, base, place, sizes)
            place = data.find(signature, place + 4)
    for place, size in sorted(sizes.items(), reverse=True):  # those further back are inside of none
        if 8 <= size <= len(whole) - place:
            end = place + size
            whole[end - 4 : end] = lookup3(bytes(whole[place : end - 4])).to_bytes(4, "little")
    return bytes(whole)


def _note(found: Any, data: bytes, base: int, place: int, sizes: dict[int, int]) -> None:
    try:
        sizes.update(found(data, base, place))
    except (struct.error, IndexError, OverflowError):
        return


def _header(data: bytes, base: int, place: int) -> dict[int, int]:
    """An object header of version 2, and the continuation blocks that it has."""
    flags = data[place + 5]
    start = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0) + (1 << (flags & 3))
    size = int.from_bytes(data[place + start - (1 << (flags & 3)) : place + start], "little")
    sizes, at, end = {place: start + size + 4}, place + start, place + start + size
    while at + 4 <= min(end, len(data)):
        kind, length = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
        if kind == 16:
            address, more = struct.unpack_from("<QQ", data, at + 4)
            sizes[base + address] = more
        at += 4 + length + (2 if flags & 4 else 0)
    return sizes


def _tree(data: bytes, base: int, place: int) -> dict[int, int]:
    """A version 2 tree of depth 0 or 1."""
    _, record, depth = struct.unpack_from("<IHH", data, place + 6)
    root, count = struct.unpack_from("<QH", data, place + 16)
    sizes = {place: 38}
    if depth == 0:
        return sizes | {base + root: 10 + count * record}
    at = base + root + 6 + count * record
    for i in range(min(count + 1, 64)):
        address, number = struct.unpack_from("<QB", data, at + 9 * i)
        sizes[base + address] = 10 + number * record
    return sizes | {base + root: 10 + count * record + (count + 1) * 9}


def _fixed(data: bytes, base: int, place: int) -> dict[int, int]:
    entry, bits, count, address = struct.unpack_from("<BBQQ", data, place + 6)
    page = 1 << min(bits, 32)
    if count <= page:
        return {place: 28, base + address: 18 + count * entry}
    pages = min(-(-count // page), 64)
    start = base + address + 18 + (pages + 7) // 8
    sizes = {place: 28, base + address: start - base - address}
    return sizes | {start + i * (page * entry + 4): min(page, count - i * page) * entry + 4 for i in range(pages)}


def _extensible(data: bytes, base: int, place: int) -> dict[int, int]:
    """The header and the index block of an extensible array, with the numbers of `build_hdf5`."""
    (address,) = struct.unpack_from("<Q", data, place + 60)
    return {place: 72, base + address: 14 + 8 + 4 * 8 + 12 * 8 + 4}


FOUND: dict[bytes, Any] = {
    b"OHDR": _header,
    b"BTHD": _tree,
    b"FRHP": lambda data, base, place: {place: 146},
    b"FHIB": lambda data, base, place: {place: 53},
    b"FAHD": _fixed,
    b"EAHD": _extensible,
    b"EASB": lambda data, base, place: {place: 36},
}


# --- h5py -------------------------------------------------------------------------------------------------------------------


class Oracle:
    """h5py in a child process: limited, begun again when it crashes, and now and then anyway."""

    def __init__(self, wait: float = 20, most: int = 400) -> None:
        self.wait, self.most = wait, most
        self.child: subprocess.Popen[str] | None = None
        self.answered = self.crashes = 0

    def ask(self, path: Path) -> dict[str, Any]:
        """What h5py says of one file; {"error": ...} where it refuses, crashes or hangs."""
        if self.child is None or self.answered >= self.most:
            self.close()
            script = str(Path(__file__).with_name("hdf5_oracle.py"))
            self.child = subprocess.Popen(
                [sys.executable, "-I", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.answered = 0
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{path}\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], self.wait)
        line = self.child.stdout.readline() if ready else ""
        self.answered += 1
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        self.crashes += 1
        self.close()
        return {"error": "h5py crashed" if ready else "h5py hung"}

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


ORACLE = Oracle()


def unpacked(value: list[Any]) -> Any:
    """An array from its dtype, shape and bytes in base64."""
    code, shape, raw = value
    return np.frombuffer(base64.b64decode(raw), np.dtype(code)).reshape(shape)


def accepts(path: Path) -> bool:
    """Whether h5py reads the file, in a process of its own."""
    return util.find_spec("h5py") is not None and "error" not in ORACLE.ask(path)


def differential(path: Path) -> dict[str, Any] | None:
    """What h5py reads, in the dtypes of our own reader; None where h5py refuses, crashes or is not installed."""
    import weights_io

    if util.find_spec("h5py") is None:
        return None
    answer = ORACLE.ask(path)
    if "error" in answer:
        return None
    with weights_io.open(path) as checkpoint:
        dtypes = {name: checkpoint.info(name).dtype for name in checkpoint}
    return {name: _as(unpacked(value), dtypes.get(name)) for name, value in answer["tensors"].items()}


def _as(array: Any, dtype: Any) -> Any:
    """h5py's array in our dtype: it gives bfloat16 and float8 as wider floats, or as opaque bytes, and keeps the byte order."""
    if dtype is None or array.dtype == dtype:
        return array
    return array.view(dtype) if array.dtype.kind == "V" else array.astype(dtype)
