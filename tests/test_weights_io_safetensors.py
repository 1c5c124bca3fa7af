"""safetensors: every dtype and layout comes back bit for bit, lazily; every rule of the format that a file breaks is named."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from malformed import build_safetensors as corpus
from systems import read_only, strided

import weights_io
from refimpl import files
from weights_io import safetensors as form
from weights_io import source

ROOT = Path(__file__).parent.parent
NAMES = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
EXOTIC = {
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}
ALL = {code: np.dtype(name) for code, name in (NAMES | EXOTIC).items()}
SIZE = {code: dtype.itemsize for code, dtype in ALL.items()}


def _bits(code: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random bit patterns, NaNs with payloads and subnormals among them; booleans are 0 or 1."""
    count = int(np.prod(shape, dtype=int))
    raw = np.random.default_rng(seed).integers(0, 2 if code == "BOOL" else 256, count * SIZE[code], dtype=np.uint8)
    return raw.view(ALL[code]).reshape(shape)


def _file(path: Path, header: Any, data: bytes = b"", *, raw: bytes | None = None) -> Path:
    text = json.dumps(header).encode() if raw is None else raw
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


# --- what comes back --------------------------------------------------------------------------------------------------------


def test_every_dtype_of_the_format_is_known() -> None:
    assert ALL == form.DTYPES


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("code", ALL)
def test_round_trip_is_bit_for_bit(code: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = _bits(code, shape)
    weights_io.save(tmp_path / "a.safetensors", {"x": array, "other": np.ones(3, np.uint8)})
    opened = weights_io.open(tmp_path / "a.safetensors")
    found = opened["x"]
    assert (found.dtype, found.shape) == (array.dtype, shape)
    assert found.tobytes() == array.tobytes()
    info = opened.info("x")
    assert (info.name, info.dtype, info.shape, info.nbytes) == ("x", array.dtype, shape, array.nbytes)
    raw = (tmp_path / "a.safetensors").read_bytes()
    assert raw[info.offset : info.offset + info.nbytes] == array.tobytes()


@pytest.mark.parametrize("layout", [np.asfortranarray, strided, read_only, np.flip, np.transpose])
@pytest.mark.parametrize("code", ["F32", "BF16", "I64", "BOOL", "F8_E5M2"])
def test_every_memory_layout_is_written_in_c_order(code: str, layout: Any, tmp_path: Path) -> None:
    array = layout(_bits(code, (3, 4)))
    weights_io.save(tmp_path / "a.safetensors", {"x": array})
    assert weights_io.open(tmp_path / "a.safetensors")["x"].tobytes() == array.tobytes(order="C")


@pytest.mark.parametrize("name", ["f2", "f4", "f8", "i2", "i4", "i8", "u2", "c8"])
def test_big_endian_values_are_written_little_endian(name: str, tmp_path: Path) -> None:
    array = np.array([1, 2, 300], dtype=f">{name}")
    weights_io.save(tmp_path / "a.safetensors", {"x": array})
    found = weights_io.open(tmp_path / "a.safetensors")["x"]
    assert found.dtype == np.dtype(f"<{name}")
    assert np.array_equal(found, array)
    assert (tmp_path / "a.safetensors").read_bytes().endswith(array.astype(f"<{name}").tobytes())


def test_python_scalars_lists_and_longlong_are_arrays_like_any_other(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.safetensors", {"s": 1.5, "l": [1, 2], "q": np.array([3], np.longlong)})
    opened = weights_io.open(tmp_path / "a.safetensors")
    assert opened["s"].shape == ()
    assert float(opened["s"]) == 1.5
    assert opened["l"].tolist() == [1, 2]
    assert opened["q"].dtype == np.int64


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda n: n != "__metadata__" and n.isprintable()),
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.uint8, np.float16]), hnp.array_shapes(max_dims=3, min_side=0)
        ),
        max_size=5,
    ),
    st.none() | st.dictionaries(st.text(max_size=4).filter(str.isprintable), st.text(max_size=4), max_size=3),
)
def test_any_names_and_metadata_come_back(tmp_path_factory: Any, tensors: Any, metadata: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    weights_io.save(path, tensors, metadata)
    opened = weights_io.open(path)
    assert set(opened) == set(tensors)
    assert len(opened) == len(tensors)
    assert opened.metadata == (metadata or {})
    for name, array in tensors.items():
        assert opened[name].dtype == array.dtype
        assert opened[name].shape == array.shape
        assert opened[name].tobytes() == array.tobytes()
    assert (int.from_bytes(path.read_bytes()[:8], "little") + 8) % 8 == 0


def test_files_written_by_the_safetensors_library_are_read_bit_for_bit() -> None:
    """The recorded answers were written by it; every value is where the header says."""
    found = sorted((ROOT / "validation" / "recorded").rglob("*.safetensors"))
    assert len(found) >= 6
    for path in found:
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        opened = weights_io.open(path)
        assert opened.format == "safetensors"
        assert opened.metadata == header.pop("__metadata__", {})
        assert set(opened) == set(header)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            assert opened[name].tobytes() == raw[start + begin : start + end]
            assert list(opened[name].shape) == entry["shape"]
            assert opened[name].dtype == ALL[entry["dtype"]]


# --- laziness ---------------------------------------------------------------------------------------------------------------


def _root(array: Any) -> Any:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_arrays_are_read_only_views_of_the_mapped_file(tmp_path: Path) -> None:
    import mmap

    weights_io.save(tmp_path / "a.safetensors", {"x": np.arange(6.0), "b": np.ones(3, np.uint8), "e": np.ones(0)})
    opened = weights_io.open(tmp_path / "a.safetensors")
    for name in ("x", "b"):
        assert isinstance(_root(opened[name]), mmap.mmap)
    for name in opened:
        assert not opened[name].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            opened[name][...] = 0
    assert opened["x"].flags.aligned


def test_unaligned_tensors_are_copied_and_right(tmp_path: Path) -> None:
    data = b"\x01" + np.array([1.5, -2.0]).tobytes()
    header = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "x": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    found = weights_io.open(_file(tmp_path / "a.safetensors", None, data, raw=raw))["x"]
    assert found.tolist() == [1.5, -2.0]
    assert found.flags.aligned
    assert not found.flags.writeable


def test_opening_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_io.save(tmp_path / "a.safetensors", {"x": np.arange(6.0)})

    def read(*_: Any, **__: Any) -> Any:
        pytest.fail("a tensor was read")

    monkeypatch.setattr(source.Source, "map", read)
    opened = weights_io.open(tmp_path / "a.safetensors")
    assert opened.info("x").shape == (6,)
    assert repr(opened) == "<Checkpoint safetensors: 1 tensors>"
    with pytest.raises(KeyError):
        opened["y"]
    with pytest.raises(KeyError):
        opened.info("y")


def test_asking_for_a_name_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_io.save(tmp_path / "a.safetensors", {"x": np.arange(6.0)})
    read: list[Any] = []
    original = form._read
    monkeypatch.setattr(form, "_read", lambda *details: read.append(details) or original(*details))
    opened = weights_io.open(tmp_path / "a.safetensors")
    assert "x" in opened
    assert "y" not in opened
    assert read == []


# --- hostile files ----------------------------------------------------------------------------------------------------------


def _entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


HOSTILE: dict[str, tuple[Any, bytes, tuple[str, ...]]] = {
    "unknown field": (
        {"x": _entry(extra=1)},
        b"8bytes..",
        ("wrong fields", "'x'", "dtype, shape, data_offsets", "extra"),
    ),
    "missing field": ({"x": {"dtype": "F32"}}, b"", ("wrong fields", "'x'", "['dtype']")),
    "entry no object": ({"x": [1]}, b"", ("wrong fields", "'x'", "list")),
    "negative shape": ({"x": _entry(shape=[-2])}, b"8bytes..", ("wrong shape", "'x'", "whole numbers", "[-2]")),
    "float shape": ({"x": _entry(shape=[2.0])}, b"8bytes..", ("wrong shape", "[2.0]")),
    "bool shape": ({"x": _entry("U8", [True], [0, 1])}, b"1", ("wrong shape", "[True]")),
    "shape no list": ({"x": _entry(shape=2)}, b"8bytes..", ("wrong shape", "got:      2")),
    "shape of text": ({"x": _entry(shape="2")}, b"8bytes..", ("wrong shape",)),
    "65 axes": ({"x": _entry(shape=[1] * 65, offsets=[0, 4])}, b"4444", ("wrong shape", "at most 64")),
    "huge shape": (
        {"x": _entry(shape=[2**62, 2**62])},
        b"8bytes..",
        ("wrong shape", "that an array can have as axes", str(2**62)),
    ),
    "offsets too long": ({"x": _entry(offsets=[0, 8, 9])}, b"8bytes..", ("offsets do not match", "[0, 8, 9]")),
    "offsets backwards": (
        {"x": _entry(offsets=[8, 0])},
        b"8bytes..",
        ("offsets do not match", "8 bytes for F32 [2]", "[8, 0]"),
    ),
    "offsets negative": ({"x": _entry(offsets=[-8, 0])}, b"8bytes..", ("offsets do not match", "[-8, 0]")),
    "offsets float": ({"x": _entry(offsets=[0.0, 8.0])}, b"8bytes..", ("offsets do not match", "[0.0, 8.0]")),
    "offsets bool": ({"x": _entry("U8", [1], [False, True])}, b"1", ("offsets do not match", "[False, True]")),
    "offsets one off": ({"x": _entry(offsets=[0, 7])}, b"8bytes..", ("offsets do not match", "8 bytes", "[0, 7]")),
    "gap": ({"x": _entry(offsets=[1, 9])}, b"9bytes...", ("gap in the data", "'x'")),
    "gap between": ({"x": _entry(), "y": _entry(offsets=[9, 17])}, b"." * 17, ("gap in the data", "'y'")),
    "overlap": ({"x": _entry(), "y": _entry(offsets=[4, 12])}, b"." * 12, ("overlap in the data", "'y'")),
    "twice the same bytes": ({"x": _entry(), "y": _entry()}, b"." * 8, ("overlap in the data",)),
    "trailing bytes": ({"x": _entry()}, b"." * 9, ("do not fill the file", "appended", "fetch it again")),
    "missing bytes": ({"x": _entry()}, b"." * 7, ("do not fill the file", "truncated")),
    "bytes without tensors": ({}, b"1", ("do not fill the file",)),
    "metadata number": ({"__metadata__": {"a": 1}}, b"", ("__metadata__ must map names to text", "{'a': 1}")),
    "metadata list": ({"__metadata__": ["a"]}, b"", ("__metadata__ must map names to text",)),
    "metadata null": ({"__metadata__": None}, b"", ("__metadata__ must map names to text",)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_breaks_a_rule_is_refused_by_that_rule(name: str, tmp_path: Path) -> None:
    header, data, words = HOSTILE[name]
    path = _file(tmp_path / "a.safetensors", header, data)
    with _refused(weights_io.FormatError, *words):
        weights_io.open(path)
    with _refused(weights_io.FormatError, str(path)):
        weights_io.open(path)


@pytest.mark.parametrize("dtype", ["F128", "f32", "", None, 3, ["F32"], {"F32": 1}])
def test_unknown_dtypes_are_unsupported_and_the_known_ones_listed(dtype: Any, tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", {"x": _entry(dtype)}, b"8bytes..")
    with _refused(
        weights_io.UnsupportedError,
        "unknown dtype",
        "'x'",
        "F16, F32, F64",
        "" if dtype is None else f"got:      {dtype}",
    ):
        weights_io.open(path)


RAW: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "array": (b"[]", ("must begin with {",)),
    "leading space": (b" {}", ("must begin with {",)),
    "number": (b"1", ("must begin with {",)),
    "empty": (b"", ("must begin with {",)),
    "cut": (b'{"x"', ("header is not JSON",)),
    "trailing text": (b"{} x", ("header is not JSON",)),
    "not utf-8": (b'{"\xff": 1}', ("header is not JSON", "UnicodeDecodeError")),
    "duplicate": (b'{"x":{}, "x":{}}', ("a name occurs twice", "unique names", "['x']")),
    "duplicate inside": (b'{"x":{"dtype":"F32","dtype":"F32"}}', ("a name occurs twice", "['dtype']")),
    "duplicate metadata": (b'{"__metadata__":{}, "__metadata__":{}}', ("a name occurs twice", "__metadata__")),
    "deep": (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", ("header is not JSON", "RecursionError")),
    "huge number": (b'{"x":' + b"9" * 5000 + b"}", ("header is not JSON",)),
}


@pytest.mark.parametrize("name", RAW)
def test_a_header_that_is_not_what_it_should_be_is_refused(name: str, tmp_path: Path) -> None:
    raw, words = RAW[name]
    path = _file(tmp_path / "a.safetensors", None, raw=raw)
    with _refused(weights_io.FormatError, *words):
        weights_io.open(path)


def test_a_header_in_utf_16_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", None, raw="{}".encode("utf-16-le"))
    with pytest.raises(weights_io.FormatError):
        weights_io.open(path)


@pytest.mark.parametrize(
    "content", [b"", b"1234567", (3).to_bytes(8, "little") + b"{}", (2**63).to_bytes(8, "little") + b"{}"]
)
def test_truncated_files_and_lengths_too_long_are_refused_before_reading(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    announced = int.from_bytes(content[:8], "little")
    got = f"{announced} bytes announced, {len(content)} bytes in the file"
    with _refused(weights_io.FormatError, "not a safetensors file, or truncated", "header of at most", got, "checksum"):
        weights_io.open(tmp_path / "a.safetensors")


def test_a_header_over_the_limit_is_refused_although_the_file_is_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "MAX_HEADER", 10)
    path = _file(tmp_path / "a.safetensors", {"x": _entry()}, b"8bytes..")
    with _refused(weights_io.FormatError, "a header of at most 10 bytes"):
        weights_io.open(path)


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0], [0, 2**62, 2**62], [0, 2**80]])
def test_an_empty_tensor_with_an_axis_too_long_for_numpy_is_refused(shape: list[int], tmp_path: Path) -> None:
    path = _file(tmp_path / "a.safetensors", {"x": _entry(shape=shape, offsets=[0, 0])})
    with _refused(weights_io.WeightsError, "'x'"):
        weights_io.open(path)["x"]


def _valid(path: Path) -> bytes:
    weights_io.save(
        path, {"x": np.arange(4, dtype=np.float32), "y": np.ones((2, 0)), "z": np.ones(3, np.uint8)}, {"a": "b"}
    )
    return path.read_bytes()


def _opens_or_refuses(path: Path) -> None:
    """Only WeightsError may come out; what opens must also read."""
    try:
        opened = weights_io.open(path)
        for name in opened:
            assert opened[name].shape == opened.info(name).shape
    except weights_io.WeightsError as error:
        assert str(path) in str(error)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_open(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "a.safetensors"
    path.write_bytes(content)
    _opens_or_refuses(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F64"]) | json_values,
        "shape": st.lists(st.integers(-1, 4) | st.integers(2**30, 2**65), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 12), min_size=2, max_size=2) | json_values,
    }
)


@given(
    st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | json_values, max_size=3),
    st.binary(max_size=12),
)
def test_random_headers_are_refused_or_open(tmp_path_factory: Any, header: Any, data: bytes) -> None:
    path = _file(tmp_path_factory.mktemp("header") / "a.safetensors", header, data)
    _opens_or_refuses(path)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3), st.integers(-3, 3))
def test_mutated_files_are_refused_or_open(tmp_path_factory: Any, changes: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("mutated") / "a.safetensors"
    content = bytearray(_valid(path))
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(bytes(content[:cut]) if cut < 0 else bytes(content) + b"\0" * cut)
    _opens_or_refuses(path)


TOLERATED = {
    "leading-space",
    "name-twice",
    "name-twice-escaped",
    "extra-field",
    "metadata-null",
    "bool-of-2",
    "bool-of-255",
}
STRICTER = {"entry-is-a-list", "dtype-half-a-byte", "shape-65-axes", "shape-zero-and-huge"}


@pytest.mark.parametrize("case", [*corpus.cases(), *corpus.good()], ids=lambda case: case.name)
def test_compat_mode_takes_what_the_reference_reader_takes_and_no_more(case: Any, tmp_path: Path) -> None:
    """Every file of the corpus, with the package `safetensors`; what that takes and neither mode does is listed, and documented."""
    reference = pytest.importorskip("safetensors")
    content = case.files[case.open]
    (tmp_path / case.open).write_bytes(content)
    try:
        theirs = {name: (part["shape"], bytes(part["data"])) for name, part in reference.deserialize(content)}
    except reference.SafetensorError:
        theirs = None
    try:
        opened = weights_io.open(tmp_path / case.open, mode="compat")
        ours = {name: (list(opened[name].shape), opened[name].tobytes()) for name in opened}
    except weights_io.WeightsError:
        ours = None
    assert (theirs is not None) == (ours is not None or case.name in STRICTER)
    if ours is not None and not case.name.startswith("bool-of"):
        assert ours == theirs
    assert (ours is not None) == (case.rule == "" or case.name in TOLERATED)


def test_compat_mode_reads_any_byte_but_0_as_true(tmp_path: Path) -> None:
    (case,) = (case for case in corpus.cases() if case.name == "bool-of-2")
    (tmp_path / case.open).write_bytes(case.files[case.open])
    assert weights_io.open(tmp_path / case.open, mode="compat")["x"].tolist() == [False, True, True, False]


# --- writing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["text"]), np.ones(2, np.complex128), np.ones(2, np.longdouble)]
)
def test_dtypes_that_the_format_lacks_are_refused_before_writing(array: Any, tmp_path: Path) -> None:
    with _refused(weights_io.UnsupportedError, "dtype cannot be written", "'x'", "F16, F32", str(array.dtype)):
        weights_io.save(tmp_path / "a.safetensors", {"x": array})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.gguf", "a", "a.safetensors.bak"])
def test_other_suffixes_are_not_written(name: str, tmp_path: Path) -> None:
    with _refused(weights_io.UnsupportedError, "no format is written with this suffix", name, ".safetensors"):
        weights_io.save(tmp_path / name, {"x": np.ones(1)})


@pytest.mark.parametrize("where", ["fsync", "replace", "read back"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    weights_io.save(path, {"x": np.ones(2)})
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> Any:
        msg = "planted"
        raise OSError(msg)

    if where == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    elif where == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(form, "compare", fail)
    with pytest.raises(OSError, match="planted"):
        weights_io.save(path, {"x": np.zeros(2)})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_compared_with_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that changes a byte is caught before the old file is replaced."""
    original = os.fsync

    def spoil(descriptor: int) -> None:
        original(descriptor)
        (temporary,) = tmp_path.glob("*.part")
        content = bytearray(temporary.read_bytes())
        content[-1] ^= 1
        temporary.write_bytes(bytes(content))

    monkeypatch.setattr(files.os, "fsync", spoil)
    with _refused(weights_io.FormatError, "does not read back the same", "'x'"):
        weights_io.save(tmp_path / "a.safetensors", {"x": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_saving_reads_back_before_it_renames(tmp_path: Path) -> None:
    """Metadata that is not text would be refused on reading: it is refused on writing."""
    with _refused(weights_io.FormatError, "__metadata__ must map names to text"):
        weights_io.save(tmp_path / "a.safetensors", {"x": np.ones(2)}, {"a": 1})  # type: ignore[dict-item]
    with pytest.raises(weights_io.WeightsError):
        weights_io.save(tmp_path / "a.safetensors", {"__metadata__": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_a_saved_file_has_the_permissions_of_any_new_file(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        weights_io.save(tmp_path / "a.safetensors", {"x": np.ones(1)})
        (tmp_path / "ordinary").touch()  # after saving, which must leave the process's mask alone
    finally:
        left = os.umask(before)
    assert left == mask
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "a.safetensors")]
    assert modes == [0o666 & ~mask] * 2


def test_saving_twice_gives_the_same_bytes_whatever_the_order_of_the_names(tmp_path: Path) -> None:
    a, b = np.ones(2), np.arange(3, dtype=np.int8)
    weights_io.save(tmp_path / "1.safetensors", {"a": a, "b": b})
    weights_io.save(tmp_path / "2.safetensors", {"b": b, "a": a})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


@pytest.mark.parametrize(
    "tensors", [{0: np.ones(1)}, {"a": np.ones(1), 1: np.ones(1)}, {"\ud800": np.ones(1)}, {"__metadata__": np.ones(1)}]
)
def test_names_that_cannot_be_written_are_refused(tensors: Any, tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "name cannot be written", "UTF-8"):
        weights_io.save(tmp_path / "a.safetensors", tensors)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "folder to write to does not exist", "nowhere", "make it first"):
        weights_io.save(tmp_path / "nowhere" / "a.safetensors", {"a": np.ones(1)})


def test_a_bool_byte_other_than_0_and_1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights_io.save(path, {"x": np.array([True, False])})
    raw = bytearray(path.read_bytes())
    raw[-1] = 2
    path.write_bytes(raw)
    with _refused(weights_io.FormatError, "neither 0 nor 1", "'x'"):
        weights_io.open(path)["x"]
