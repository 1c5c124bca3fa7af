"""What must hold for any bytes whatever, checked on one input at a time.

1. Nothing but a WeightsError comes out, and it names a known rule.
2. Nothing is imported, compiled or executed; no file but those given is opened, and none for writing.
3. Opening allocates at most 4 bytes for each byte of the files, plus 32 MB; reading a tensor that plus the tensor.
4. What opens and reads has the dtype and shape that were announced, and is not writable.
5. What an independent library reads of the same file is the same, where a differential is asked for.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import weights_io

SPARE = 32 << 20
FACTOR = 4
FORBIDDEN = (
    "compile",
    "exec",
    "pickle.",
    "ctypes.",
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
)
WRITING = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.",
)


class BrokenPropertyError(AssertionError):
    """One of the properties above does not hold for an input."""


class Watch:
    """Records what a reader does that it must not do, by the interpreter's own audit events."""

    def __init__(self) -> None:
        self.armed: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed is None:
            return
        if event == "open" and not self._allowed(*arguments):
            self.seen.append(f"open {arguments}")
        elif event == "import" and arguments[0] not in sys.modules:
            self.seen.append(f"import {arguments[0]}")
        elif event.startswith(FORBIDDEN + WRITING):
            self.seen.append(f"{event} {arguments}")

    def _allowed(self, path: Any, mode: str | None, flags: int) -> bool:
        inside = isinstance(path, (str, Path)) and os.path.realpath(path).startswith(f"{self.armed}{os.sep}")
        return inside and flags & 3 == 0 and not set(mode or "") & set("wax+")

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Within the block, only files in `folder` may be opened, for reading."""
        self.armed, self.seen = folder.resolve(), []
        try:
            yield
        finally:
            self.armed = None


WATCH = Watch()


@dataclass
class Tally:
    """What came of the inputs so far."""

    inputs: int = 0
    accepted: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds
    heaviest: float = 0.0  # of the allowed allocation, the largest share used
    compared: int = 0  # with an independent library
    stricter: Counter[str] = field(default_factory=Counter)  # rules of refusals of what the independent library reads

    def as_json(self) -> dict[str, Any]:
        """The tally as plain values."""
        return vars(self) | {name: dict(getattr(self, name).most_common()) for name in ("rules", "stricter")}


Differential = Callable[[Path], dict[str, Any] | None]


def prepare() -> None:
    """Import everything that reading can need, so that an import during a run is the reader's doing."""
    import ctypes  # noqa: F401 - numpy asks for it when an array's address is read
    import difflib  # noqa: F401

    weights_io.rules()
    for mode in ("strict", "compat"):
        with suppress(weights_io.WeightsError):
            weights_io.open(__file__, mode=mode)  # type: ignore[arg-type]
    np.zeros(1).ctypes.data  # noqa: B018
    if not tracemalloc.is_tracing():
        tracemalloc.start(1)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def examine(
    files: dict[str, bytes],
    folder: Path,
    tally: Tally,
    differential: Differential | None = None,
    accepts: Callable[[Path], bool] | None = None,
) -> None:
    """Check the properties for one input, whose first file is opened, or the folder if it is a rank of several; raises BrokenPropertyError.

    `accepts` tells whether the independent library reads a file that is refused here; it must be one that bad files cannot harm.
    """
    for left in folder.iterdir():
        left.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    first, size = next(iter(files)), sum(map(len, files.values()))
    path = folder if first.startswith("mp_rank_") else folder / first
    tally.inputs += 1
    began = time.perf_counter()
    refused: list[str] = []
    with WATCH.over(folder):
        found = _read_all(path, size, tally, refused)
    tally.slowest = max(tally.slowest, time.perf_counter() - began)
    if WATCH.seen:
        raise BrokenPropertyError(f"forbidden: {WATCH.seen[:5]}")
    if found is not None:
        tally.accepted += 1
        if differential:
            _compare(found, differential(path), tally)
    elif accepts and accepts(path):
        tally.stricter.update(refused)


def _read_all(path: Path, size: int, tally: Tally, refused: list[str]) -> dict[str, Any] | None:
    """The arrays of a file that is accepted whole; None for one that is refused, whose rule is added to `refused`."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        with weights_io.open(path) as checkpoint:
            _within(before, FACTOR * size + SPARE, tally, "opening")
            return {name: _read(checkpoint, name, size, tally) for name in checkpoint}
    except weights_io.WeightsError as error:
        _within(before, FACTOR * size + SPARE + tally_largest(error), tally, "refusing")
        if isinstance(error, weights_io.FormatError | weights_io.UnsupportedError):
            tally.rules[str(error.rule)] += 1
            refused.append(str(error.rule))
            if error.rule not in weights_io.rules():
                raise BrokenPropertyError(f"a refusal without a known rule: {error}") from error
        else:
            tally.rules["-"] += 1
        return None
    except Exception as error:
        raise BrokenPropertyError(f"foreign exception {type(error).__name__}: {error}") from error


def tally_largest(error: weights_io.WeightsError) -> int:
    """Bytes that a tensor may have taken whose reading was refused after it was allocated, as its info says."""
    return int(getattr(error, "declared", 0))


def _read(checkpoint: weights_io.Checkpoint, name: str, size: int, tally: Tally) -> Any:
    info = checkpoint.info(name)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    try:
        array = checkpoint[name]
    except weights_io.WeightsError as error:
        error.declared = info.nbytes  # type: ignore[attr-defined]
        raise
    _within(before, FACTOR * size + SPARE + info.nbytes, tally, f"reading {name!r}")
    if (array.dtype, array.shape) != (info.dtype, info.shape) or array.flags.writeable:
        raise BrokenPropertyError(
            f"{name!r}: {array.dtype} {array.shape} writeable={array.flags.writeable}, announced {info}"
        )
    return array


def _within(before: int, allowed: int, tally: Tally, what: str) -> None:
    used = tracemalloc.get_traced_memory()[1] - before
    tally.heaviest = max(tally.heaviest, used / allowed)
    if used > allowed:
        raise BrokenPropertyError(f"{what} allocated {used:,} bytes, allowed {allowed:,}")


def _compare(ours: dict[str, Any], theirs: dict[str, Any] | None, tally: Tally) -> None:
    if theirs is None:
        return
    tally.compared += 1
    if set(ours) != set(theirs):
        raise BrokenPropertyError(f"names differ from the independent reader's: {sorted(set(ours) ^ set(theirs))[:5]}")
    for name, array in ours.items():
        other = np.asarray(theirs[name])
        if array.shape != other.shape or np.ascontiguousarray(array).tobytes() != np.ascontiguousarray(other).tobytes():
            raise BrokenPropertyError(f"{name!r} differs from what the independent reader reads")


# --- mutation ---------------------------------------------------------------------------------------------------------------

INTERESTING = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
]


def mutated(content: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """`content` after one to six random changes: bits, bytes, numbers of 2, 4 and 8 bytes, ranges removed, repeated, moved, cut, spliced."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(CHANGES)(data, rng, other)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(len(data)) if data else 0


def _flip(data: bytearray, rng: random.Random, _: bytes) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random, _: bytes) -> None:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random, _: bytes) -> None:
    width, place = rng.choice((2, 4, 8)), _place(data, rng)
    value = rng.choice([*INTERESTING, len(data), rng.randrange(2**64)])
    value += rng.choice((-1, 0, 0, 1))
    data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "little", "big")))


def _near(data: bytearray, rng: random.Random, _: bytes) -> None:
    """A number already there, a little more or less."""
    width, place = rng.choice((1, 2, 4, 8)), _place(data, rng)
    value = int.from_bytes(data[place : place + width], "little") + rng.choice((-8, -2, -1, 1, 2, 8))
    data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def _range(data: bytearray, rng: random.Random) -> slice:
    start = _place(data, rng)
    return slice(start, start + rng.choice((1, 2, 4, 8, 16, rng.randrange(1, len(data) + 2))))


def _remove(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[_range(data, rng)]


def _repeat(data: bytearray, rng: random.Random, _: bytes) -> None:
    part, place = data[_range(data, rng)], _place(data, rng)
    data[place:place] = part * rng.choice((1, 1, 2, 50))


def _move(data: bytearray, rng: random.Random, _: bytes) -> None:
    part, place = data[_range(data, rng)], _place(data, rng)
    data[place : place + len(part)] = part


def _cut(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[_place(data, rng) :]


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    part = bytearray(other)[_range(bytearray(other), rng)] if other else b""
    place = _place(data, rng)
    data[place : place + len(part)] = part


CHANGES = [_flip, _flip, _byte, _byte, _number, _number, _near, _near, _remove, _repeat, _move, _cut, _splice]


def mutants(module: Any, seed: int) -> Iterator[dict[str, bytes]]:
    """Endless mutants of a format's good files; where the format has checksums, half of them with the checksums put right again."""
    rng, seeds = random.Random(seed), module.seeds()
    repair = getattr(module, "repair", None)
    while True:
        files, other = dict(rng.choice(seeds)), rng.choice(seeds)
        name = rng.choice(list(files))
        files[name] = mutated(files[name], rng, rng.choice(list(other.values())))
        if repair and rng.random() < 0.5:
            files[name] = repair(files[name])
        yield files
