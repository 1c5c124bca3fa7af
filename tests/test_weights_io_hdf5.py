"""HDF5: what Keras and h5py wrote comes back bit for bit; hand-built files of every structure; laziness, budgets, and what is said of a bad file."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import time
import tracemalloc
import zlib
from importlib import util
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fuzz import hdf5 as fuzz
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from malformed import build_hdf5 as build

import weights_io
from weights_io import hdf5, hdf5_bytes, hdf5_chunks, hdf5_filters
from weights_io.hdf5_bytes import Space
from weights_io.hdf5_datatypes import Unread
from weights_io.hdf5_filters import Filter, unfiltered
from weights_io.source import Source

RECORDED = Path(__file__).parent.parent / "validation" / "recorded" / "keras_hdf5"
FILES = sorted(RECORDED.rglob("*.h5"))
REFUSED = {  # by topic, in strict mode
    "cycle": "hdf5.one-path",
    "dtypes": "hdf5.datatype-kind",
    "links": "hdf5.external-link",
    "shared_messages": "hdf5.shared",
    "storage": "hdf5.datatype-kind",
    "strings": "hdf5.datatype-kind",
    "unsupported": "hdf5.datatype-kind",
}
ALWAYS = {  # in compat mode too
    "cycle": "hdf5.one-path",
    "links": "hdf5.external-link",
    "shared_messages": "hdf5.shared",
    "unsupported": "hdf5.external-storage",
}


def _write(path: Path, content: bytes | bytearray) -> Path:
    path.write_bytes(content)
    return path


def _good(name: str, tmp_path: Path) -> Path:
    return _write(tmp_path / f"{name}.h5", build.FILES[name](None).data)


def _changed(name: str, tmp_path: Path, **changes: Any) -> Path:
    named = {field.replace("__", "."): value for field, value in changes.items()}
    return _write(tmp_path / f"{name}.h5", build.FILES[name](named).data)


def _refused(rule: str, *words: str) -> Any:
    import re

    return pytest.raises(
        weights_io.WeightsError, match="(?s)" + ".*".join(re.escape(word) for word in (*words[:1], rule, *words[1:]))
    )


# --- what Keras and h5py wrote ----------------------------------------------------------------------------------------------


def _topic(path: Path) -> str:
    return path.stem.rpartition("_")[0]


def _answers(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(path.with_suffix(".json").read_text("utf-8")), dict(
        weights_io.open(path.with_suffix(".safetensors"))
    )


def test_the_recorded_files_are_here() -> None:
    assert len(FILES) >= 40
    assert {_topic(path) for path in FILES} >= set(REFUSED)


@pytest.mark.parametrize("mode", ["strict", "compat"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECORDED).as_posix())
def test_recorded_files_open_or_are_refused_by_a_rule(path: Path, mode: Any) -> None:
    rule = (REFUSED if mode == "strict" else ALWAYS).get(_topic(path)) if path.parent.name == "layouts" else None
    if rule is None:
        assert weights_io.open(path, mode=mode).format == "hdf5"
        return
    with pytest.raises(weights_io.FormatError if rule == "hdf5.one-path" else weights_io.UnsupportedError) as caught:
        weights_io.open(path, mode=mode)
    assert caught.value.rule == rule


def _compat() -> list[Path]:
    return [path for path in FILES if _topic(path) not in ALWAYS or path.parent.name != "layouts"]


@pytest.mark.parametrize("path", _compat(), ids=lambda path: path.relative_to(RECORDED).as_posix())
def test_recorded_tensors_come_back_bit_for_bit(path: Path) -> None:
    told, answers = _answers(path)
    with weights_io.open(path, mode="compat") as checkpoint:
        left_out = checkpoint.metadata["unread"]
        datasets = {name[1:] for name, thing in told["objects"].items() if _describe(told, name)["kind"] == "dataset"}
        assert set(checkpoint) | set(left_out) == datasets
        assert not set(checkpoint) & set(left_out)
        for name in checkpoint:
            array, said = checkpoint[name], _describe(told, f"/{name}")
            assert list(array.shape) == said["shape"] == list(checkpoint.info(name).shape)
            assert _bits(array, answers[_first(told, f"/{name}")]) == answers[_first(told, f"/{name}")].tobytes()
            assert array.dtype == checkpoint.info(name).dtype == array.dtype.newbyteorder("=")
            assert not array.flags.writeable
        for name, why in left_out.items():
            assert not _readable(_describe(told, f"/{name}")), (name, why)


def _bits(array: Any, answer: Any) -> bytes:
    """The bits of an array, of a float that NumPy lacks in the wider one that h5py makes of it."""
    return (array if array.itemsize == answer.itemsize else array.astype(answer.dtype)).tobytes()


def _describe(told: dict[str, Any], name: str) -> dict[str, Any]:
    thing = told["objects"][name]
    return told["objects"][thing["of"]] if thing["kind"] == "another name" else thing


def _first(told: dict[str, Any], name: str) -> str:
    thing = told["objects"][name]
    return (thing["of"] if thing["kind"] == "another name" else name)[1:]


def _readable(thing: dict[str, Any]) -> bool:
    """Whether a dataset is of a type and filters that are read; what NumPy lacks is told by its absence among the left out."""
    plain = {f"{order}{kind}{size}" for order in "<>|" for kind, size in (("i", 1), ("u", 1), ("b", 1))}
    plain |= {f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)}
    plain |= {f"{order}f{size}" for order in "<>" for size in (2, 4, 8)}
    return thing["dtype"] in plain and thing["shape"] is not None and set(thing.get("filters", [])) <= {1, 2, 3}


@pytest.mark.parametrize("path", _compat(), ids=lambda path: path.relative_to(RECORDED).as_posix())
def test_recorded_attributes_come_back(path: Path) -> None:
    told, _ = _answers(path)
    attributes = weights_io.open(path, mode="compat").metadata["attributes"]
    for name, thing in told["objects"].items():
        for key, said in thing.get("attributes", {}).items():
            _same(attributes[name[1:]][key], said)


def _same(value: Any, said: dict[str, Any]) -> None:
    if "sha256" in said:
        raw = "\n".join(value).encode() if isinstance(value, list) else value.tobytes()
        assert hashlib.sha256(raw).hexdigest() == said["sha256"]
    elif isinstance(value, np.ndarray):
        assert value.reshape(-1).tolist() == said["value"]
        assert not value.flags.writeable
    else:
        assert (_flat(value) if isinstance(value, list) else value) == said.get("value")


def _flat(value: Any) -> list[Any]:
    return [one for each in value for one in _flat(each)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", ["attributes_earliest", "attributes_latest"])
def test_attributes_are_plain_values(name: str) -> None:
    numbers = weights_io.open(RECORDED / "layouts" / f"{name}.h5").metadata["attributes"]["numbers"]
    assert type(numbers["bool"]) is bool
    assert type(numbers["float"]) is float
    assert numbers["null"] is None


def test_a_whole_model_of_keras_2_has_all_its_weights_and_its_configuration() -> None:
    checkpoint = weights_io.open(RECORDED / "keras_2" / "model.h5")
    root = checkpoint.metadata["attributes"][""]
    assert json.loads(root["model_config"])["class_name"]
    assert any(name.startswith("model_weights/") for name in checkpoint)
    assert any(name.startswith("optimizer_weights/") for name in checkpoint)
    weights = checkpoint.metadata["keras"]
    assert list(weights) == checkpoint.metadata["attributes"]["model_weights"]["layer_names"]
    assert {name for names in weights.values() for name in names} <= set(checkpoint)


def test_the_layers_of_keras_2_come_in_keras_order_with_their_weights() -> None:
    checkpoint = weights_io.open(RECORDED / "keras_2" / "weights.h5")
    weights = checkpoint.metadata["keras"]
    assert list(weights)[:3] == ["ids", "embedding", "inner"]
    assert weights["ids"] == []
    assert weights["batch_norm"][0] == "batch_norm/batch_norm/gamma:0"
    assert weights["inner"][0].startswith("inner/first/")
    assert weights["scope/with/slashes"][0].startswith("scope/with/slashes/scope/with/slashes/")
    assert {name for names in weights.values() for name in names} == set(checkpoint)


def test_lists_of_names_that_keras_splits_are_joined() -> None:
    checkpoint = weights_io.open(RECORDED / "keras_2" / "long_names.h5")
    root = checkpoint.metadata["attributes"][""]
    assert root["layer_names"] == root["layer_names0"] + root["layer_names1"]
    assert list(checkpoint.metadata["keras"]) == root["layer_names"]


def test_keras_3_lists_no_layers() -> None:
    checkpoint = weights_io.open(RECORDED / "keras_3" / "model.weights.h5")
    assert checkpoint.metadata["keras"] == {}
    assert "layers/lstm/cell/vars/0" in checkpoint
    assert any(
        checkpoint.info(name).dtype == ml_dtypes.bfloat16 for name in checkpoint
    )  # two opaque bytes, and an attribute


def test_the_shared_fixture_opens(shared: Any) -> None:
    folder = shared("spaces")
    checkpoint = weights_io.open(folder / "dgcnn_weights.h5")
    told = np.load(folder / "dgcnn.npz")
    weights = [name for names in checkpoint.metadata["keras"].values() for name in names]
    assert weights
    assert set(weights) == set(checkpoint)
    assert all(np.isfinite(checkpoint[name]).all() for name in weights)
    assert len(told.files) > 0


# --- structures, built by hand ----------------------------------------------------------------------------------------------

VALUES = np.array(build.F4, np.float32).reshape(2, 3)


def test_old_structures(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("old", tmp_path))
    assert list(checkpoint) == ["a", "g/d", "g/e"]
    assert np.array_equal(checkpoint["a"], VALUES)
    assert checkpoint["g/d"].tolist() == [258, -2]
    assert checkpoint.info("g/d").dtype == np.int16
    assert checkpoint.shared() == [["a", "g/e"]]
    assert checkpoint.metadata["links"] == {"s": "/g/d"}
    assert checkpoint.metadata["keras"] == {"g": ["g/d", "g/e"]}
    assert checkpoint.metadata["unread"] == {}


def test_a_user_block_shifts_every_address(tmp_path: Path) -> None:
    for size in (512, 1024, 4096):
        content = bytes(size) + bytes(build.old(None, size).data)
        checkpoint = weights_io.open(_write(tmp_path / "a.h5", content))
        assert np.array_equal(checkpoint["g/e"], VALUES)
        assert checkpoint.info("a").offset == size + 96


def test_compact_booleans_and_chunks_of_which_one_is_missing(tmp_path: Path) -> None:
    plain = weights_io.open(_good("plain", tmp_path))
    assert plain["b"].tolist() == [True, False, True]
    assert plain["b"].dtype == np.bool_
    chunks = weights_io.open(_good("chunks", tmp_path))
    assert chunks["c"].tolist() == [1.5, -2.0, 2.5, 2.5, np.float32(1e-40)]
    assert chunks.info("c").layout == "compressed"


def test_new_structures(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("new", tmp_path))
    assert list(checkpoint) == ["a", "c", "g/d"]
    assert checkpoint["c"].tolist() == [1.5, -2.0, 3.25]
    assert checkpoint.metadata["links"] == {"s": "nowhere/at/all"}
    assert checkpoint.metadata["attributes"] == {"a": {"name": "first"}, "g/d": {"name": "first"}}


def test_links_and_attributes_in_heaps(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("dense", tmp_path))
    assert list(checkpoint) == ["u", "v", "w", "x", "y", "z"]
    assert checkpoint.metadata["attributes"]["z"] == {"n0": 0, "n1": 1, "n2": 2}
    assert checkpoint.shared() == [list(checkpoint)]


def test_every_index_of_chunks(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("arrays", tmp_path))
    for name in checkpoint:
        array = checkpoint[name]
        assert array.dtype == np.uint16
        assert array.reshape(-1).tolist() == list(range(array.size)), name
        assert checkpoint.info(name).layout == "chunked"


def test_bits_of_pages_follow_one_another_over_bytes() -> None:
    rng = np.random.default_rng(0)
    flags = rng.integers(0, 2, 70_000, dtype=np.uint8)
    bits = np.packbits(flags).tobytes()
    for skip, count in ((0, 70_000), (3, 5), (8, 8), (13, 40_000), (33_001, 36_999)):
        expected = np.flatnonzero(flags[skip : skip + count]).tolist()
        assert list(hdf5_chunks._set_bits(bits, skip, count)) == expected


def test_uninitialised_pages_and_missing_blocks_are_the_fill_value(tmp_path: Path) -> None:
    path = _changed(
        "arrays",
        tmp_path,
        extensible__far1__pages=0x0080,
        extensible__far0__data0__address=build.NOWHERE,
        paged__block__pages=0xA0,
    )
    checkpoint = weights_io.open(path)
    extensible, paged = checkpoint["extensible"].tolist(), checkpoint["paged"].tolist()
    assert extensible[:14] == list(range(14))
    assert extensible[14:22] == [0] * 8  # the missing block's entries 7 to 10
    assert extensible[22:30] == list(range(22, 30))
    assert extensible[30:38] == list(range(30, 38))  # the only page in use, entries 15 to 18
    assert extensible[38:] == [0] * 22
    assert paged == [0, 1, 2, 3, 0, 0, 0, 0, 8]


def test_text_of_variable_length(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("text", tmp_path))
    assert checkpoint.metadata["attributes"] == {"": {"layer_names": ["first", "the second"]}}
    assert len(checkpoint) == 0
    assert checkpoint.metadata["keras"] == {"first": [], "the second": []}


@pytest.mark.skipif(util.find_spec("h5py") is None, reason="h5py is not installed")
@pytest.mark.parametrize("name", build.FILES)
def test_h5py_reads_the_hand_built_files_alike(name: str, tmp_path: Path) -> None:
    path = _good(name, tmp_path)
    told = fuzz.differential(path)
    checkpoint = weights_io.open(path)
    assert told is not None
    assert set(told) == set(checkpoint)
    assert all(told[each].tobytes() == checkpoint[each].tobytes() for each in checkpoint)


@pytest.mark.skipif(util.find_spec("h5py") is None, reason="h5py is not installed")
def test_what_is_accepted_of_changed_files_h5py_reads_alike(tmp_path: Path) -> None:
    path, accepted = tmp_path / "a.h5", 0
    for seed in range(300):
        path.write_bytes(fuzz.changed(seed, 1)["a.h5"])
        try:
            with weights_io.open(path) as checkpoint:
                ours = {name: checkpoint[name] for name in checkpoint}
        except weights_io.WeightsError:
            continue
        told = fuzz.differential(path)
        if told is not None:
            assert set(told) == set(ours), seed
            assert all(told[name].tobytes() == ours[name].tobytes() for name in ours), seed
            accepted += 1
    fuzz.ORACLE.close()
    assert accepted > 30


# --- any array --------------------------------------------------------------------------------------------------------------


def _root(b: build.Builder, header: int) -> bytes:
    b_root = build.header2(
        b, "root", [(2, "info", build.link_info(b, "info")), (6, "x", build.link(b, "x", b"x", header))]
    )
    build.superblock2(b, b_root)
    return bytes(b.data)


BITS = {
    "float16": (5, 10),
    "float32": (8, 23),
    "float64": (11, 52),
    "bfloat16": (8, 7),
    "float8_e4m3fn": (4, 3),
    "float8_e5m2": (5, 2),
}


def _kind(dtype: np.dtype[Any]) -> bytes:
    """The datatype message of a NumPy dtype, or one of ml_dtypes."""
    big = dtype.byteorder == ">"
    if dtype.kind in "iu":
        return struct.pack(
            "<BBHIHH", 0x10, big | (8 if dtype.kind == "i" else 0), 0, dtype.itemsize, 0, 8 * dtype.itemsize
        )
    size = dtype.itemsize
    exponent, mantissa = BITS[dtype.newbyteorder("=").name]
    properties = struct.pack("<HHBBBBI", 0, 8 * size, mantissa, exponent, 0, mantissa, (1 << (exponent - 1)) - 1)
    return struct.pack("<BBBBI", 0x11, 0x20 | big, 8 * size - 1, 0, size) + properties


def _contiguous(array: np.ndarray[Any, Any]) -> bytes:
    b = build.Builder()
    b.reserve(48 + 1)  # odd, so that not every tensor is aligned
    address = len(b.data)
    b.data += array.tobytes()
    messages = [
        (1, "space", build.dataspace(b, "space", array.shape, version=2)),
        (3, "type", _kind(array.dtype)),
        (8, "layout", build.contiguous(b, "layout", address if array.size else build.NOWHERE, array.nbytes)),
    ]
    return _root(b, build.header2(b, "set", messages))


NUMBERS = [
    f"{order}{kind}" for order in "<>" for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
]


@given(hnp.arrays(st.sampled_from(NUMBERS), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_any_contiguous_array_comes_back_in_native_order(tmp_path_factory: Any, array: np.ndarray[Any, Any]) -> None:
    path = _write(tmp_path_factory.mktemp("any") / "a.h5", _contiguous(array))
    found = weights_io.open(path)["x"]
    native = array.astype(array.dtype.newbyteorder("="))
    assert (found.dtype, found.shape) == (native.dtype, native.shape)
    assert found.tobytes() == native.tobytes()
    assert not found.flags.writeable


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_floats_that_numpy_lacks(name: str, tmp_path: Path) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    array = np.arange(256, dtype=f"u{dtype.itemsize}").view(dtype).reshape(16, 16)
    found = weights_io.open(_write(tmp_path / "a.h5", _contiguous(array)))["x"]
    assert found.dtype == dtype
    assert found.tobytes() == array.tobytes()


def _filtered(raw: bytes, kinds: tuple[int, ...], mask: int, size: int) -> bytes:
    """The bytes of a chunk through the filters whose bit is not in `mask`."""
    for i, kind in enumerate(kinds):
        if mask >> i & 1:
            continue
        if kind == 1:
            raw = zlib.compress(raw)
        elif kind == 2:
            whole = len(raw) // size * size
            raw = b"".join(raw[:whole][j::size] for j in range(size)) + raw[whole:]
        else:
            raw += build.fletcher32(raw).to_bytes(4, "little")
    return raw


def _indexed(
    array: np.ndarray[Any, Any],
    chunk: tuple[int, ...],
    kinds: tuple[int, ...],
    missing: set[int],
    masks: dict[int, int],
    whole_edges: bool = False,
) -> bytes:
    """An array in chunks, in a version 2 tree; `missing` chunks are left out, `masks` say which filters, edges may have none."""
    b = build.Builder({"layout.width": (max(*chunk, array.dtype.itemsize).bit_length() + 7) // 8})
    b.reserve(48)
    grid = tuple(-(-length // size) for length, size in zip(array.shape, chunk, strict=True))
    nbytes = array.dtype.itemsize * int(np.prod(chunk))
    width, records = min(8, 1 + (nbytes.bit_length() + 7) // 8), []
    for number, place in enumerate(np.ndindex(*grid)):
        if number in missing:
            continue
        part = np.zeros(chunk, array.dtype)
        inside = array[tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, chunk, strict=True))]
        part[tuple(slice(length) for length in inside.shape)] = inside
        plain = whole_edges and inside.shape != chunk
        raw = _filtered(part.tobytes(), () if plain else kinds, masks.get(number, 0), array.dtype.itemsize)
        entry = struct.pack("<Q", b.add(raw))
        if kinds:
            entry += len(raw).to_bytes(width, "little") + struct.pack("<I", masks.get(number, 0))
        records.append(entry + struct.pack(f"<{len(place)}Q", *place))
    size = 8 + (width + 4 if kinds else 0) + 8 * array.ndim
    node = 10 + max(size * ((len(records) + 1) // 2), 2 * size + 18)
    tree = build.tree2(b, "tree", 11 if kinds else 10, records, node) if records else build.NOWHERE
    more = struct.pack("<IBB", node, 100, 40)
    messages = [
        (1, "space", build.dataspace(b, "space", array.shape, (build.NOWHERE,) * array.ndim, version=2)),
        (3, "type", _kind(array.dtype)),
        (8, "layout", build.indexed(b, "layout", tree, chunk, array.dtype.itemsize, 5, more, int(whole_edges))),
    ]
    if kinds:
        messages.append((11, "filters", build.filters(b, "filters", array.dtype.itemsize, kinds)))
    return _root(b, build.header2(b, "set", messages))


@given(
    hnp.arrays(st.sampled_from(["<i2", ">f4", "<f8", "<u1"]), hnp.array_shapes(max_dims=3, max_side=5)),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.lists(st.sampled_from([1, 2, 3]), max_size=3, unique=True),
    st.sets(st.integers(0, 10)),
    st.dictionaries(st.integers(0, 20), st.integers(0, 7)),
    st.booleans(),
)
def test_any_chunked_array_comes_back(
    tmp_path_factory: Any, array: Any, chunk: Any, kinds: Any, missing: set[int], masks: dict[int, int], edges: bool
) -> None:
    shape = tuple(chunk[: array.ndim])
    content = _indexed(array, shape, tuple(kinds), missing, masks if kinds else {}, edges)
    found = weights_io.open(_write(tmp_path_factory.mktemp("any") / "a.h5", content))["x"]
    expected = array.astype(array.dtype.newbyteorder("="))
    grid = tuple(-(-length // size) for length, size in zip(array.shape, shape, strict=True))
    for number, place in enumerate(np.ndindex(*grid)):
        if number in missing:
            expected[tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, shape, strict=True))] = 0
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.skipif(util.find_spec("h5py") is None, reason="h5py is not installed")
def test_h5py_reads_chunks_at_the_edge_alike(tmp_path: Path) -> None:
    array = np.arange(35, dtype=np.float32).reshape(7, 5)
    for edges in (False, True):
        path = _write(tmp_path / "a.h5", _indexed(array, (2, 3), (2, 1, 3), {1}, {3: 2}, edges))
        told = fuzz.differential(path)
        assert told is not None
        assert told["x"].tobytes() == weights_io.open(path)["x"].tobytes()
    fuzz.ORACLE.close()


@given(st.binary(max_size=300))
def test_checksums_are_those_of_an_independent_form(data: bytes) -> None:
    assert hdf5_bytes.lookup3(data) == build.lookup3(data)
    assert hdf5_bytes.fletcher32(np.frombuffer(data, np.uint8)) == build.fletcher32(data)


def test_checksums_of_known_texts() -> None:
    assert hdf5_bytes.lookup3(b"") == 0xDEADBEEF
    assert hdf5_bytes.lookup3(b"Four score and seven years ago") == 0x17770551
    assert hdf5_bytes.fletcher32(np.zeros(10, np.uint8)) == 0
    assert hdf5_bytes.fletcher32(np.full(4, 0xFF, np.uint8)) == 0xFFFFFFFF  # sums that are multiples of 65535 are not 0
    long = np.random.default_rng(0).integers(0, 256, 300_001, dtype=np.uint8)  # more than one block, an odd number
    assert hdf5_bytes.fletcher32(long) == build.fletcher32(long.tobytes())


# --- laziness ---------------------------------------------------------------------------------------------------------------


def _owner(array: Any) -> Any:
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def test_contiguous_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("old", tmp_path))
    first, again = checkpoint["a"], checkpoint["g/e"]
    assert isinstance(getattr(_owner(first), "obj", _owner(first)), mmap.mmap)
    assert not first.flags.writeable
    assert np.array_equal(first, again)
    info = checkpoint.info("a")
    assert (info.offset, info.nbytes, info.layout) == (96, 24, "contiguous")
    assert first.ctypes.data % mmap.PAGESIZE == 96


def test_opening_reads_no_values_and_walks_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        pytest.fail("opening looked at a tensor's values")

    monkeypatch.setattr(weights_io.source.Source, "map", never)
    for name in ("children", "records", "unfiltered"):
        monkeypatch.setattr(hdf5_chunks, name, never)
    for name in build.FILES:
        checkpoint = weights_io.open(_good(name, tmp_path))
        assert all(checkpoint.info(each).nbytes for each in checkpoint)


def test_a_large_sparse_file_costs_nothing_to_open(tmp_path: Path) -> None:
    b = build.Builder()
    b.reserve(48)
    size = 5 << 30
    header = build.header2(b, "set", [
        (1, "space", build.dataspace(b, "space", (size // 4,), version=2)),
        (3, "type", build.f4(b, "type")),
        (8, "layout", build.contiguous(b, "layout", 4096, size)),
    ])  # fmt: skip
    b.changes["superblock.end"] = 4096 + size
    path = _write(tmp_path / "a.h5", _root(b, header))
    os.truncate(path, 4096 + size)
    tracemalloc.start()
    try:
        checkpoint = weights_io.open(path)
        array = checkpoint["x"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert array.shape == (size // 4,)
    assert array[-1] == 0


def test_arrays_stay_valid_when_the_checkpoint_is_closed(tmp_path: Path) -> None:
    with weights_io.open(_good("old", tmp_path)) as checkpoint:
        array = checkpoint["a"]
    assert np.array_equal(array, VALUES)
    with pytest.raises(weights_io.WeightsError, match="closed"):
        checkpoint["a"]


def test_a_file_that_is_changed_after_opening_is_refused(tmp_path: Path) -> None:
    path = _good("chunks", tmp_path)
    checkpoint = weights_io.open(path)
    time.sleep(0.01)
    path.write_bytes(path.read_bytes() + b"\0")
    with _refused("file.changed"):
        checkpoint["c"]


def test_a_dataset_without_bytes_is_its_fill_value(tmp_path: Path) -> None:
    path = _changed("chunks", tmp_path, c__layout__address=build.NOWHERE)
    checkpoint = weights_io.open(path)
    assert checkpoint["c"].tolist() == [2.5] * 5
    assert checkpoint.info("c").layout == "filled"
    assert checkpoint.info("c").offset == build.chunks(None).fields["root.c.address"]


# --- strict and compat ------------------------------------------------------------------------------------------------------


def test_compat_leaves_out_what_it_cannot_read_and_says_why(tmp_path: Path) -> None:
    path = _changed("chunks", tmp_path, c__filters__filter1=32000)
    with _refused("hdf5.filter-kind", "a filter is not read", "LZF", 'mode="compat"'):
        weights_io.open(path)
    checkpoint = weights_io.open(path, mode="compat")
    assert list(checkpoint) == []
    assert "LZF" in checkpoint.metadata["unread"]["c"]
    path = _changed("old", tmp_path, a__type__class=0x16)
    assert set(weights_io.open(path, mode="compat").metadata["unread"]) == {"a", "g/e"}


@pytest.mark.parametrize("changes", [{"a__layout__class": 3, "a__layout__version": 4}, {"a__extra": [(7, bytes(8))]}])
def test_compat_follows_nothing_out_of_the_file(changes: dict[str, Any], tmp_path: Path) -> None:
    path = _changed("plain", tmp_path, **changes)
    with pytest.raises(weights_io.UnsupportedError) as caught:
        weights_io.open(path, mode="compat")
    assert caught.value.rule in {"hdf5.virtual", "hdf5.external-storage"}


def test_a_boolean_that_is_neither_is_refused_or_true(tmp_path: Path) -> None:
    path = _changed("plain", tmp_path, b__values=b"\1\0\2")
    with _refused("hdf5.bool", "neither 0 nor 1", "'b'"):
        weights_io.open(path)["b"]
    array = weights_io.open(path, mode="compat")["b"]
    assert array.tolist() == [True, False, True]
    assert not array.flags.writeable


def test_opaque_bytes_are_bfloat16_only_where_an_attribute_says_so(tmp_path: Path) -> None:
    kind = bytes([0x15, 0, 0, 0, 2, 0, 0, 0])
    for text, good in ((b"bfloat16", True), (b"float64", False)):
        b = build.Builder()
        b.reserve(48)
        address = b.add(b"\x80\x3f\0\xc0")
        says = build.attribute(
            b,
            "s",
            b"dtype",
            build.datatype(b, "t", "text", len(text), 1),
            build.dataspace(b, "d", (), version=2),
            text,
            3,
        )
        header = build.header2(b, "set", [
            (1, "space", build.dataspace(b, "space", (2,), version=2)),
            (3, "type", kind),
            (8, "layout", build.contiguous(b, "layout", address, 4)),
            (12, "says", says),
        ])  # fmt: skip
        path = _write(tmp_path / "a.h5", _root(b, header))
        if good:
            assert weights_io.open(path)["x"].tolist() == [1.0, -2.0]
            assert weights_io.open(path).info("x").dtype == ml_dtypes.bfloat16
        else:
            with _refused("hdf5.datatype-kind", "type that is not read", "opaque"):
                weights_io.open(path)


def test_attributes_of_other_types_are_placeholders(tmp_path: Path) -> None:
    path = _changed("plain", tmp_path, root__names__type__class=0x17)
    assert weights_io.open(path).metadata["attributes"][""]["names"] == Unread("reference", (2,))


def test_text_that_is_not_utf_8_stays_bytes(tmp_path: Path) -> None:
    kind = build.datatype(build.Builder(), "t", "text", 2, 1)
    says = build.attribute(
        build.Builder(), "s", b"x", kind, build.dataspace(build.Builder(), "d", (2,)), b"\xff\xfe\xc3\xa9"
    )
    path = _changed("plain", tmp_path, a__extra=[(12, says)])
    assert weights_io.open(path).metadata["attributes"]["a"]["x"] == [b"\xff\xfe", "é"]


# --- budgets ----------------------------------------------------------------------------------------------------------------


def test_a_compressed_tensor_takes_little_more_memory_than_itself(tmp_path: Path) -> None:
    array = np.zeros((1024, 1024), np.float64)
    array[::7, ::5] = 3.5
    path = _write(tmp_path / "a.h5", _indexed(array, (256, 256), (2, 1, 3), set(), {}))
    checkpoint = weights_io.open(path)
    tracemalloc.start()
    try:
        found = checkpoint["x"]
        assert tracemalloc.get_traced_memory()[1] < array.nbytes + (4 << 20)
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, array)


def test_one_text_named_many_times_is_refused_before_it_is_built(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", build.many_texts())
    tracemalloc.start()
    try:
        with _refused("budget.heap", "more than its size allows"):
            weights_io.open(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + (32 << 20)
    finally:
        tracemalloc.stop()


def test_fill_values_far_larger_than_the_file_are_refused_unless_allowed(tmp_path: Path) -> None:
    path = _changed("chunks", tmp_path, c__space__axis0=1 << 25, c__space__most0=1 << 25)
    with _refused("budget.expansion", "far larger than the file"):
        weights_io.open(path)
    assert weights_io.open(path, limits=weights_io.Limits(expansion=1 << 30)).info("c").nbytes == 1 << 27


def test_a_bomb_stops_at_the_size_of_a_chunk(tmp_path: Path) -> None:
    path = _changed("chunks", tmp_path, c__chunk0__stream=zlib.compress(bytes(1 << 24), 9))
    checkpoint = weights_io.open(path)
    tracemalloc.start()
    try:
        with _refused("hdf5.deflate", "not one zlib stream", "more"):
            checkpoint["c"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kinds", [(1,), (2, 1), (3, 2, 1), (1, 3)])
def test_reading_takes_memory_for_two_chunks(kinds: tuple[int, ...], tmp_path: Path) -> None:
    """The array, a chunk that comes out of a filter and the one that goes in; steps of inflating, and arrays of Fletcher-32, besides."""
    array = np.zeros((1, 1 << 20), "<f8")
    path = _write(tmp_path / "a.h5", _indexed(array, array.shape, kinds, set(), {}))
    checkpoint = weights_io.open(path)
    tracemalloc.start()
    try:
        assert not checkpoint["x"].any()
        assert tracemalloc.get_traced_memory()[1] < 3 * array.nbytes + (6 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000, 3_000_000])
@pytest.mark.parametrize("level", [0, 9])
def test_inflating_in_steps_gives_the_whole(size: int, level: int, tmp_path: Path) -> None:
    array = np.random.default_rng(size).integers(0, 4, size + 1, np.uint8)
    _write(tmp_path / "a.h5", b"")
    stream = np.frombuffer(zlib.compress(array.tobytes(), level), np.uint8)
    space = Space(Source(tmp_path / "a.h5"), weights_io.Limits())
    found = unfiltered(space, stream, (Filter(1),), 0, size + 1, 0, "x")
    assert found.tobytes() == array.tobytes()
    for wrong, what in (
        (stream[:-1], "and 0 after"),
        (np.append(stream, np.zeros(1, np.uint8)), "1 after"),
        (np.append(stream, np.zeros(1 << 17, np.uint8)), "after"),
    ):
        with _refused("hdf5.deflate", "not one zlib stream", what):
            unfiltered(space, wrong, (Filter(1),), 0, size + 1, 0, "x")
    with _refused("hdf5.deflate", "not one zlib stream", "more"):
        unfiltered(space, stream, (Filter(1),), 0, size, 0, "x")


def _twins(size: int) -> bytes:
    """Two datasets of `size` bytes, with an index each, whose only chunk is the same."""
    b = build.Builder({f"{name}.layout.width": (size.bit_length() + 7) // 8 for name in "xy"})
    b.reserve(48)
    chunk, links = b.add(bytes(size)), []
    for name in ("x", "y"):
        tree = build.tree2(b, f"{name}.tree", 10, [struct.pack("<2Q", chunk, 0)], 64)
        messages = [
            (1, "space", build.dataspace(b, f"{name}.space", (size,), (build.NOWHERE,), version=2)),
            (3, "type", _kind(np.dtype("<u1"))),
            (8, "layout", build.indexed(b, f"{name}.layout", tree, (size,), 1, 5, struct.pack("<IBB", 64, 100, 40))),
        ]
        links.append((6, name, build.link(b, name, name.encode(), build.header2(b, f"{name}.set", messages))))
    build.superblock2(b, build.header2(b, "root", [(2, "info", build.link_info(b, "info")), *links]))
    return bytes(b.data)


def test_datasets_that_share_chunks_are_refused_when_there_are_more_than_bytes(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_write(tmp_path / "a.h5", _twins(200_000)))
    for _ in range(3):  # one dataset may be read as often as one likes
        assert checkpoint["x"].nbytes == 200_000
    with _refused("hdf5.overlap", "structures overlap", "chunk"):
        checkpoint["y"]
    assert checkpoint["x"].nbytes == 200_000


def _many(count: int) -> bytes:
    """A dataset of `count` bytes, each a chunk of its own, in a fixed array of one page."""
    b = build.Builder({"layout.width": 1})
    b.reserve(48)
    chunks = b.add(bytes(range(256)) * (count // 256))
    header = b.reserve(28)
    body = (
        b"FADB" + bytes([0, 0]) + struct.pack("<Q", header) + np.arange(chunks, chunks + count, dtype="<u8").tobytes()
    )
    block = b.add(body + struct.pack("<I", hdf5_bytes.lookup3(body)))
    head = b"FAHD" + bytes([0, 0, 8, 30]) + struct.pack("<2Q", count, block)
    b.put(header, head + struct.pack("<I", hdf5_bytes.lookup3(head)))
    messages = [
        (1, "space", build.dataspace(b, "space", (count,), (count,), version=2)),
        (3, "type", _kind(np.dtype("<u1"))),
        (8, "layout", build.indexed(b, "layout", header, (1,), 1, 3, bytes([30]))),
    ]
    return _root(b, build.header2(b, "set", messages))


def test_an_index_of_many_chunks_is_refused_before_it_is_built(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", _many(1 << 15))
    checkpoint = weights_io.open(path, limits=weights_io.Limits(objects=1 << 16))
    tracemalloc.start()
    try:
        with _refused("budget.heap", "more than its size allows"):
            checkpoint["x"]
        assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + (1 << 20)
    finally:
        tracemalloc.stop()


def test_chunks_of_one_byte_are_read(tmp_path: Path) -> None:
    """More than are looked at together."""
    count = hdf5_chunks.AT_A_TIME + 512
    found = weights_io.open(_write(tmp_path / "a.h5", _many(count)))["x"]
    assert found.tobytes() == bytes(range(256)) * (count // 256)


# --- costs: what a small file can make a reader do --------------------------------------------------------------------------


def _group(*messages: tuple[int, str, bytes]) -> bytes:
    """A file whose root group has these messages."""
    b = build.Builder({})
    b.reserve(48)
    build.superblock2(b, build.header2(b, "root", [(2, "info", build.link_info(b, "info")), *messages]))
    return bytes(b.data)


def _attribute(
    b: build.Builder, name: str, kind: bytes, shape: tuple[int, ...], value: bytes
) -> tuple[int, str, bytes]:
    space = build.dataspace(b, name, shape, version=2)
    return 12, name, build.attribute(b, name, name.encode(), kind, space, value, 3)


def _peak(path: Path, rule: str) -> int:
    """Bytes that were allocated until the file was refused."""
    tracemalloc.start()
    try:
        with _refused(rule):
            weights_io.open(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_names_of_weights_are_counted_before_they_are_joined(tmp_path: Path) -> None:
    """One layer with a name of 30,000 characters and 2,000 weights: 60 MB of paths in a file of 62 kB."""
    b = build.Builder({})
    b.reserve(48)
    long, count = b"l" * 30_000, 2_000
    weights = _attribute(b, "weight_names", build.datatype(b, "t", "text", 1), (count,), b"w" * count)
    layer = build.header2(b, "layer", [(2, "info", build.link_info(b, "info")), weights])
    b.changes["link.length"] = 0  # the builder's links have names of up to 255 bytes: this one is written by hand
    link = bytes([1, 0x19, 0, 1]) + struct.pack("<H", len(long)) + long + struct.pack("<Q", layer)
    layers = _attribute(b, "layer_names", build.datatype(b, "u", "text", len(long)), (1,), long)
    root = build.header2(b, "root", [(2, "info", build.link_info(b, "info")), (6, "link", link), layers])
    build.superblock2(b, root)
    path = _write(tmp_path / "a.h5", b.data)
    assert _peak(path, "budget.heap") < 4 << 20


def test_text_that_is_all_padding_is_counted_by_its_length(tmp_path: Path) -> None:
    b = build.Builder({})
    b.reserve(48)
    size = 1 << 16
    raw = struct.pack("<HHIQ", 1, 1, 0, size) + bytes(size)
    address = b.add(b"GCOL\1\0\0\0" + struct.pack("<Q", len(raw) + 16) + raw)
    kind = build.datatype(b, "t", "variable", 16, 1)
    some = [_attribute(b, f"a{i}", kind, (500,), struct.pack("<IQI", size, address, 1) * 500) for i in range(8)]
    build.superblock2(b, build.header2(b, "root", [(2, "info", build.link_info(b, "info")), *some]))
    assert _peak(_write(tmp_path / "a.h5", b.data), "budget.heap") < 4 << 20


def test_attributes_with_many_axes_stay_within_the_budget(tmp_path: Path) -> None:
    b = build.Builder({})
    kind = build.datatype(b, "t", "fixed", 1)
    path = _write(tmp_path / "a.h5", _group(*(_attribute(b, f"a{i}", kind, (1,) * 32, b"x") for i in range(300))))
    tight = weights_io.Limits(objects=1 << 16)
    tracemalloc.start()
    try:
        with _refused("budget.heap"):
            weights_io.open(path, limits=tight)
        assert tracemalloc.get_traced_memory()[1] < tight.heap(path.stat().st_size) + path.stat().st_size
    finally:
        tracemalloc.stop()


def test_names_of_an_enumeration_are_looked_at_as_far_as_booleans_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    b = build.Builder({})
    base = build.datatype(b, "base", "fixed", 1)
    kind = struct.pack("<II", 0x38 | 2 << 8, 1) + base + b"F" * 9_000 + b"\0" + b"T" * 9_000 + b"\0\0\1"
    path = _write(tmp_path / "a.h5", _group(_attribute(b, "a", kind, (), b"\0")))
    taken: list[int] = []
    take = hdf5_bytes.Fields.take
    monkeypatch.setattr(hdf5_bytes.Fields, "take", lambda self, length: taken.append(length) or take(self, length))
    assert isinstance(weights_io.open(path).metadata["attributes"][""]["a"], Unread)
    assert len(taken) < 200


def _linked(names: int) -> bytes:
    """A dataset of one chunk, in a tree, under several names."""
    b = build.Builder({})
    b.reserve(48)
    tree = build.tree2(b, "tree", 10, [struct.pack("<2Q", b.add(bytes(8)), 0)], 64)
    messages = [
        (1, "space", build.dataspace(b, "space", (8,), (build.NOWHERE,), version=2)),
        (3, "type", _kind(np.dtype("<u1"))),
        (8, "layout", build.indexed(b, "layout", tree, (8,), 1, 5, struct.pack("<IBB", 64, 100, 40))),
        *(_attribute(b, f"layer_names{i}", build.datatype(b, "t", "text", 1), (0,), b"") for i in range(5)),
    ]
    dataset = build.header2(b, "set", messages)
    links = [(6, f"x{i}", build.link(b, f"x{i}", f"x{i}".encode(), dataset)) for i in range(names)]
    build.superblock2(b, build.header2(b, "root", [(2, "info", build.link_info(b, "info")), *links]))
    return bytes(b.data)


def test_what_hard_links_share_is_done_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []
    for function in ("locate", "_join_split"):
        original = getattr(hdf5, function)
        monkeypatch.setattr(hdf5, function, lambda *a, f=function, original=original: done.append(f) or original(*a))
    checkpoint = weights_io.open(_write(tmp_path / "a.h5", _linked(20)))
    assert {checkpoint[name].tobytes() for name in checkpoint} == {bytes(8)}
    assert done == ["_join_split", "locate"]
    assert len(checkpoint) == 20


def test_chunks_under_many_names_count_against_the_budget(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", _linked(40))
    assert len(weights_io.open(path)) == 40
    with _refused("budget.expansion", "far larger than the file"):
        weights_io.open(path, limits=weights_io.Limits(expansion=1, spare=30 * 4096))


def test_a_dataset_that_was_never_written_may_have_any_chunks(tmp_path: Path) -> None:
    path = _changed("chunks", tmp_path, c__layout__address=build.NOWHERE, c__layout__chunk0=1 << 28)
    assert weights_io.open(path)["c"].tolist() == [2.5] * 5


@pytest.mark.parametrize("skip", [0, 2, 7, 9])
@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_bits_are_counted_from_the_highest_of_the_first_byte(skip: int, count: int) -> None:
    bits = bytes(np.random.default_rng(count).integers(0, 256, 9000, np.uint8))
    told = [i for i in range(count) if bits[(skip + i) // 8] >> (7 - (skip + i) % 8) & 1]
    assert list(hdf5_chunks._set_bits(bits, skip, count)) == told


def test_only_the_bits_of_a_block_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    original = np.unpackbits
    monkeypatch.setattr(np, "unpackbits", lambda block: unpacked.append(len(block)) or original(block))
    assert list(hdf5_chunks._set_bits(b"\xff" * 100_000, 80_000, 3)) == [0, 1, 2]
    assert unpacked == [1]


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 300)), max_size=30), st.integers(1, 20))
def test_entries_keep_their_numbers_when_blocks_are_put_together(blocks: list[tuple[int, int]], entry: int) -> None:
    given_ = [(first, bytes(np.arange(count * entry, dtype=np.uint8))) for first, count in blocks]
    told = [(first + i, raw[i * entry : (i + 1) * entry]) for first, raw in given_ for i in range(len(raw) // entry)]
    found = []
    for numbers, raw in hdf5_chunks._batches(iter(given_), entry):
        found += [(int(n), raw[i * entry : (i + 1) * entry]) for i, n in enumerate(numbers)]
    assert found == told


def test_every_read_starts_with_a_ledger_of_its_own(tmp_path: Path) -> None:
    checkpoint = weights_io.open(_good("chunks", tmp_path))
    assert checkpoint["c"].tobytes() == checkpoint["c"].tobytes()


# --- what is said -----------------------------------------------------------------------------------------------------------


def test_a_message_names_rule_place_and_values(tmp_path: Path) -> None:
    path = _changed("new", tmp_path, a__checksum=0)
    with pytest.raises(weights_io.FormatError) as caught:
        weights_io.open(path)
    error = caught.value
    assert (error.rule, error.offset, error.field) == ("hdf5.checksum", 72, "a")
    assert str(path) in str(error)
    assert "0x00000000" in str(error)


def test_every_rule_has_a_sentence_and_a_case() -> None:
    cases = build.cases()
    assert {case.rule for case in cases if case.rule.startswith("hdf5.")} == set(hdf5.RULES)
    assert all(sentence.endswith(".") for sentence in hdf5.RULES.values())
    assert len(cases) >= 40
    assert sum(len(case.files["a.h5"]) for case in cases) < 500_000
    assert hdf5.RULES.items() <= weights_io.rules().items()


@pytest.mark.parametrize("case", build.cases(), ids=lambda case: case.name)
def test_every_malformed_file_is_refused_by_its_rule(case: Any, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", case.files["a.h5"])
    if case.read is not None:
        checkpoint = weights_io.open(path)
        assert case.read in checkpoint
    with _refused(case.rule, *case.words) as caught:
        checkpoint = weights_io.open(path)
        checkpoint[case.read]
    assert isinstance(caught.value, weights_io.FormatError | weights_io.UnsupportedError)


def test_shuffle_leaves_what_does_not_fill_an_element() -> None:
    raw = np.arange(11, dtype=np.uint8)
    found = hdf5_filters._unshuffled(raw, 4)
    assert found.tolist() == [0, 2, 4, 6, 1, 3, 5, 7, 8, 9, 10]
