"""NumPy's .npy: seeds, structure-aware files, and NumPy itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "a.npy"
DESCRS = ["|b1", "|i1", "|u1", "<i2", ">i4", "<i8", "<u2", "<f2", "<f4", ">f8", "<c8", "<c16", "|V1", "|V2", "<i1"]


def header(descr: str = "<f4", order: str = "False", shape: str = "()") -> str:
    """A header's text."""
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"


def file(text: str, data: bytes, version: int = 1, length: int | None = None) -> bytes:
    """A .npy file."""
    width = 2 if version == 1 else 4
    text += " " * (-(len(text) + 9 + width) % 64) + "\n"
    size = (len(text) if length is None else length) % 256**width
    return (
        b"\x93NUMPY" + bytes((version, 0)) + size.to_bytes(width, "little") + text.encode("latin-1", "replace") + data
    )


def seeds() -> list[dict[str, bytes]]:
    """Good files: several dtypes, orders, shapes and versions."""
    contents = [
        file(header(shape="(2,)"), b"12345678"),
        file(header(">i2", "True", "(2, 3)"), bytes(range(12))),
        file(header("|b1", shape="(1, 4)"), b"\0\1\1\0", 2),
        file(header("<c16"), bytes(range(16)), 3),
        file(header("<i8", shape="(0, 9, 1)"), b""),
        file(header("|u1", shape="(300,)"), bytes(300)),
        file('{"shape":(1,1),"descr":"<f8","fortran_order":False}', bytes(8)),
    ]
    return [{NAME: content} for content in contents]


descrs = (
    st.sampled_from(DESCRS)
    | st.sampled_from(["|O", "<U2", "<f16", "<M8[s]", "f4", "=f4", "<f1", "|V9"])
    | st.text("<>|=bifucOVSU0123456789", max_size=5)
)
sizes = st.integers(0, 4) | st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**30])
records = st.dictionaries(
    st.sampled_from(["dtypes", "metadata", "more"]),
    st.dictionaries(
        st.sampled_from(["a", "b/c", "权"]) | st.text(max_size=2),
        st.sampled_from(["bfloat16", "float8_e5m2"]) | st.text(max_size=3),
        max_size=2,
    ),
    max_size=2,
)


@st.composite
def contents(draw: Any) -> bytes:
    """The bytes of an array whose header fits its values, but for what is wrong with one of them."""
    descr, shape = draw(st.sampled_from(DESCRS)), draw(st.lists(st.integers(0, 4), max_size=3))
    count = int(np.prod(shape, dtype=int)) * int(descr[2:])
    data = (
        draw(st.binary(min_size=count, max_size=count))
        if descr != "|b1"
        else bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    )
    wrong = draw(st.sampled_from(["nothing"] * 6 + ["descr", "shape", "order", "text", "data", "length", "bool"]))
    descr = draw(descrs) if wrong == "descr" else descr
    shape = draw(st.lists(sizes, max_size=3) | st.just([1] * 65)) if wrong == "shape" else shape
    order = (
        draw(st.sampled_from(["True", "False", "0", "None"]))
        if wrong == "order"
        else draw(st.sampled_from(["True", "False"]))
    )
    text = header(descr, order, str(tuple(shape)))
    if wrong == "text":
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text("{}()[]'\",: L0\\\n\té", max_size=4)) + text[at + draw(st.integers(0, 9)) :]
    data = draw(st.sampled_from([data[:-1], data + b"\0", data * 2])) if wrong == "data" else data
    data = b"\2" * len(data) if wrong == "bool" else data
    length = draw(st.integers(0, 2**32 - 1) | st.integers(0, 200)) if wrong == "length" else None
    return file(text, data, draw(st.sampled_from([1, 1, 2, 3])), length)


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """One such array in a file."""
    return {NAME: draw(contents())}


@contextmanager
def readable() -> Iterator[None]:
    """What is in the block must not raise: what we accept, NumPy must be able to read."""
    try:
        yield
    except Exception as error:
        from fuzz.harness import BrokenPropertyError

        raise BrokenPropertyError(f"NumPy refuses what was accepted: {type(error).__name__}: {error}") from error


def native(array: Any) -> Any:
    """The same values in this machine's byte order."""
    return array.astype(array.dtype.newbyteorder("="))


def differential(path: Path) -> dict[str, Any] | None:
    """What NumPy reads, which must be able to; only for files that were accepted, since NumPy allocates whatever is declared."""
    with readable():
        return {"array": native(np.load(path, allow_pickle=False))}
