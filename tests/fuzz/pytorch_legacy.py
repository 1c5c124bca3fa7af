"""PyTorch's legacy container: seeds, structure-aware pickles one after the other, and torch.load in a process of its own."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from malformed import build_pytorch_legacy as build
from malformed.build_pytorch import FLOATS, NONE, listed, pickled, several, text, whole

from fuzz import pytorch

SMALL = (
    *("tiny_legacy_p2", "tiny_legacy_p3", "bare_legacy_p2", "views_legacy_p2", "parameters_legacy_p2", "objects_legacy_p2"),
    *("dtypes_own_legacy_p2", "module_legacy_p2", "sparse_coo_legacy_p2", "quantized_legacy_p2"),
)  # fmt: skip
accepts, differential = pytorch.accepts, pytorch.differential


def _place(key: str = "0", kind: str = "FloatStorage", count: int = 6) -> bytes:
    return build.storage(key, kind, count)


def seeds() -> list[dict[str, bytes]]:
    """Good files: of the malformed corpus's builder, and small ones that torch wrote."""
    return [case.files for case in build.good()] + pytorch.recorded(SMALL, ".pth", build.FILE)


@st.composite
def files(draw: Any) -> dict[str, bytes]:
    """Five pickles and a storage, one of which is not as it should be now and then."""
    view = (
        several(text("v"), whole(draw(pytorch.numbers)), whole(draw(pytorch.numbers)))
        if draw(st.integers(0, 9)) == 0
        else NONE
    )
    pickle = draw(pytorch.pickles(lambda key, kind, count: build.storage(key, kind, count, view)))
    size = next((pytorch.SIZES[kind] for kind in pytorch.SIZES if kind.encode() + b"Storage" in pickle), 4)
    count = 24 if b"Untyped" in pickle else 6
    raw = draw(st.sampled_from([(FLOATS * 2)[: count * size], bytes([0, 1] * 24)[: count * size]]))
    keys = draw(st.sampled_from([["0"], ["0"], ["0"], [], ["0", "1"], ["1"]]))
    content = build.file(
        pickle,
        keys=pickled(listed(*map(text, keys if b"X\1\0\0\x000" in pickle else keys[1:]))),
        end=build.elements(count if draw(st.integers(0, 5)) else draw(st.integers(0, 30)), raw)
        * len(keys if b"X\1\0\0\x000" in pickle else keys[1:]),
        system=draw(st.sampled_from([build.SYSTEM, build.SYSTEM, build.SYSTEM, pickled(b"]")])),
    )
    return {build.FILE: content + b"\0" * draw(st.sampled_from([0, 0, 0, 1]))}
