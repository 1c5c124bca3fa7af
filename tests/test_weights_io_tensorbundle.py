"""TensorBundle: what TensorFlow wrote is read bit for bit, lazily; what is written is what TensorFlow writes; what is broken is named."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import json
import math
import mmap
import os
import random
import re
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fuzz import tensorbundle as fuzzed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from malformed import build_tensorbundle as build

import weights_io
from weights_io import checksum, leveldb_table, limits, protobuf, snappy, tensor_slices, tensorbundle
from weights_io.protobuf import Place
from weights_io.source import Source
from weights_io.tensorbundle_index import CODES, DTYPES
from weights_io.writing import Pending

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "validation" / "recorded" / "tensorbundle"
CASES = ["dtypes", "keras_weights", "object_based", "partitioned", "shards", "strings"]
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
PLACE = Place(Path("a test"))


def _index(folder: Path) -> Path:
    return next(folder.glob("*.index"))


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))


def _refused(rule: str, *words: str, kind: type[Exception] = weights_io.FormatError) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, [f"[{rule}]", *words])))


def _bits(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random bit patterns of a dtype; those that it does not use are 0."""
    largest = {"bool": 2, "int4": 16, "uint4": 16, "int2": 4, "uint2": 4, "float4_e2m1fn": 16}.get(dtype.name, 256)
    raw = np.random.default_rng(seed).integers(0, largest, math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def _flat(nested: Any) -> list[bytes]:
    return [nested] if isinstance(nested, bytes) else [element for part in nested for element in _flat(part)]


def _nested_shape(nested: Any) -> list[int]:
    return [] if isinstance(nested, bytes) else [len(nested), *(_nested_shape(nested[0]) if nested else [])]


# --- what TensorFlow wrote --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_what_tensorflow_wrote_is_read_as_tensorflow_reads_it(case: str) -> None:
    answers, about = (
        weights_io.open(RECORDED / case / "answers.safetensors"),
        json.loads((RECORDED / case / "answers.json").read_text()),
    )
    with weights_io.open(_index(RECORDED / case)) as opened:
        assert opened.format == "tensorbundle"
        assert set(opened) == set(answers)
        assert set(opened) | set(opened.metadata["strings"]) == set(about["tensors"])
        for name, array in opened.items():
            said, info = about["tensors"][name], opened.info(name)
            assert (list(array.shape), array.dtype.name) == (said["shape"], re.sub("^q", "", said["dtype"])), name
            assert array.tobytes() == answers[name].tobytes(), name
            assert (info.dtype, info.shape, info.nbytes) == (array.dtype, array.shape, array.nbytes)
            assert not array.flags.writeable
        for name, elements in about["strings"].items():
            found = opened.metadata["strings"][name]
            assert [element.hex() for element in _flat(found)] == elements
            assert _nested_shape(found) == about["tensors"][name]["shape"] or not elements


def test_names_over_several_blocks_are_read_in_order() -> None:
    about = json.loads((RECORDED / "many" / "answers.json").read_text())
    answers = weights_io.open(RECORDED / "many" / "answers.safetensors")
    opened = weights_io.open(_index(RECORDED / "many"))
    assert hashlib.sha256("\n".join(opened).encode()).hexdigest() == about["names_sha256"]
    assert np.concatenate([array.reshape(-1) for array in opened.values()]).tobytes() == answers["values"].tobytes()
    assert [len(array.shape) for array in opened.values()] == answers["ranks"].tolist()
    assert [size for array in opened.values() for size in array.shape] == answers["dimensions"].tolist()


def test_checkpoints_of_objects_keep_their_graph_and_the_names_of_their_variables() -> None:
    opened = weights_io.open(_index(RECORDED / "object_based"))
    graph = opened.metadata["strings"][GRAPH]
    assert isinstance(graph, bytes)
    about = json.loads((RECORDED / "object_based" / "answers.json").read_text())
    for key, full_name in about["full_names"].items():
        assert any(name.startswith(key) for name in [*opened, *opened.metadata["strings"]])
        assert full_name.encode() in graph
    assert "step/.ATTRIBUTES/VARIABLE_VALUE" in opened


@pytest.mark.parametrize("name", ["b4k_gpt2", "b4k_bert", "b4k_realformer"])
def test_checkpoints_of_bert4keras_are_found_by_prefix_index_data_and_folder(name: str, shared: Any) -> None:
    folder = shared(name)
    wanted = {key: array.tobytes() for key, array in weights_io.open(folder / "model.ckpt.index").items()}
    assert len(wanted) > 40
    for path in (folder / "model.ckpt", folder / "model.ckpt.data-00000-of-00001"):
        assert {key: array.tobytes() for key, array in weights_io.open(path).items()} == wanted
    assert tensorbundle.folder_prefix(folder) == folder / "model.ckpt.index"


def test_a_variant_is_refused_by_name_and_left_out_where_that_is_asked_for() -> None:
    path = _index(RECORDED / "variant")
    with _refused("tensorbundle.dtype", "'list'", "variant", "compat", kind=weights_io.UnsupportedError):
        weights_io.open(path)
    opened = weights_io.open(path, mode="compat")
    assert opened.metadata["unread"] == {"list": "variant"}
    answers = weights_io.open(RECORDED / "variant" / "answers.safetensors")
    assert {name: array.tobytes() for name, array in opened.items()} == {
        name: array.tobytes() for name, array in answers.items()
    }


# --- laziness, mapping, memory ----------------------------------------------------------------------------------------------


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int, int]]:
    """Every read and every mapping from now on: (what, file, offset, length)."""
    seen = []
    for what in ("read", "map"):
        original = getattr(Source, what)

        def spy(
            self: Source, offset: int, length: int, field: Any = None, what: str = what, original: Any = original
        ) -> Any:
            seen.append((what, self.path.name, offset, length))
            return original(self, offset, length, field)

        monkeypatch.setattr(Source, what, spy)
    return seen


def test_opening_reads_no_tensor_and_reading_one_maps_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _spied(monkeypatch)
    opened = weights_io.open(_index(RECORDED / "dtypes"))
    assert {file for _, file, _, _ in seen} == {"model.ckpt.index"}
    seen.clear()
    info = opened.info("float64/vector")
    assert opened["float64/vector"].shape == (17,)
    assert seen == [("map", "model.ckpt.data-00000-of-00001", info.offset, info.nbytes)]


def test_slices_are_read_when_their_tensor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = weights_io.open(_index(RECORDED / "shards"))
    seen = _spied(monkeypatch)
    assert opened.info("sliced").layout == "partitioned"
    assert seen == []
    assert opened["sliced"].shape == (6, 2)
    assert {file for _, file, _, _ in seen} == {f"model.ckpt.data-{shard:05}-of-00003" for shard in range(3)}
    assert sum(length for *_, length in seen) == opened.info("sliced").nbytes


def _is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, mmap.mmap | memoryview):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


def test_aligned_tensors_are_views_of_the_file_and_others_are_copies(tmp_path: Path) -> None:
    weights_io.save(
        tmp_path / "a.ckpt",
        {"a": np.ones(3, np.float32), "b": np.ones(1, np.uint8), "c": np.ones(2), "d": np.ones(5, np.int8)},
    )
    opened = weights_io.open(tmp_path / "a.ckpt")
    assert {name: _is_mapped(array) for name, array in opened.items()} == {"a": True, "b": True, "c": False, "d": True}
    assert opened.info("c").offset % 8
    assert opened["c"].tolist() == [1, 1]


def test_the_checksum_is_of_the_mapped_bytes_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_io.save(tmp_path / "a.ckpt", {"a": np.arange(9.0)})
    seen = []
    monkeypatch.setattr(
        checksum, "_castagnoli", type("Spy", (), {"crc32c": staticmethod(lambda data, before: seen.append(data) or 0)})
    )
    with pytest.raises(weights_io.FormatError), weights_io.open(tmp_path / "a.ckpt") as opened:
        _ = opened["a"]
    assert all(_is_mapped(data) for data in seen)
    assert seen


def test_a_bundle_of_5_gb_opens_in_little_memory(tmp_path: Path) -> None:
    count = 50
    rows = [(b"", build.HEADER)]
    rows += [
        (b"layer_%03d" % at, build.entry(b"", 1, build.shaped(25_000_000), offset=at * 10**8, size=10**8))
        for at in range(count)
    ]
    path = _write(tmp_path, {build.INDEX: build.simple(rows)})
    with (tmp_path / build.DATA).open("wb") as data:
        data.truncate(count * 10**8)
    weights_io.open(path).close()
    tracemalloc.start()
    try:
        with weights_io.open(path) as opened:
            assert sum(opened.info(name).nbytes for name in opened) == 5 * 10**9
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "case", [case for case in build.cases() if case.rule == "budget.heap"], ids=lambda case: case.name
)
def test_what_would_expand_is_refused_before_it_does(case: Any, tmp_path: Path) -> None:
    path = _write(tmp_path, case.files)
    size = sum(map(len, case.files.values()))
    tracemalloc.start()
    try:
        with pytest.raises(weights_io.FormatError):
            weights_io.open(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * size + (32 << 20)
    finally:
        tracemalloc.stop()


def test_more_strings_than_the_file_is_large_enough_for_are_refused(tmp_path: Path) -> None:
    """Half a million of two bytes each, which take twenty times as much in memory."""
    count = 500_000
    lengths, elements, fixed = b"\2" * count, b"12" * count, b"\2\0\0\0" * count
    middle = checksum.masked_crc32c(fixed).to_bytes(4, "little")
    content, crc = lengths + middle + elements, checksum.masked_crc32c(fixed + middle + elements)
    path = _write(
        tmp_path,
        build.bundle((b"x", build.entry(b"", 7, build.shaped(count), size=len(content), crc=crc)), data=(content,)),
    )
    tracemalloc.start()
    try:
        with _refused("budget.heap", "'x'"):
            weights_io.open(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with (tmp_path / build.DATA).open("ab") as data:
        data.truncate(20_000_000)
    assert weights_io.open(path, mode="compat").metadata["strings"]["x"] == [b"12"] * count


@pytest.mark.parametrize("tensors", [1, 2])
def test_the_strings_of_all_tensors_are_counted_together(tensors: int, tmp_path: Path) -> None:
    count = 300_000
    lengths, elements, fixed = b"\2" * count, b"12" * count, b"\2\0\0\0" * count
    middle = checksum.masked_crc32c(fixed).to_bytes(4, "little")
    content, crc = lengths + middle + elements, checksum.masked_crc32c(fixed + middle + elements)
    entry = build.entry(b"", 7, build.shaped(count), size=len(content), crc=crc)
    path = _write(tmp_path, build.bundle(*((name, entry) for name in (b"x", b"y")[:tensors]), data=(content,)))
    if tensors == 1:
        tracemalloc.start()
        try:
            opened = weights_io.open(path)
            assert tracemalloc.get_traced_memory()[1] < 60 * count + 3 * len(content)
        finally:
            tracemalloc.stop()
        assert opened.metadata["strings"] == {"x": [b"12"] * count}
        return
    with _refused("budget.heap", "'y'"):
        weights_io.open(path, mode="compat")


@pytest.mark.parametrize("length", [10, 100])
def test_the_budget_counts_all_that_entries_cost(length: int, tmp_path: Path) -> None:
    """Of as many tensors as the budget allows, the objects take less than what was counted for them."""
    entry = build.entry(b"", 1, build.shaped(0, 2**40))
    rows = [build.row(b"", build.HEADER)]
    rows += [build.row(b"%010d" % at + "é".encode() * ((length - 10) // 2), entry, 0) for at in range(2000)]
    blocks = [
        (b"%010d\xff" % (at + 998), build.sealed(build.block(rows[at : at + 1000]))) for at in range(0, 2000, 1000)
    ]
    path = _write(tmp_path, build.files(build.table(blocks), b""))
    tracemalloc.start()
    try:
        opened = weights_io.open(path)
        assert len(opened) == 1999
        spent = 1999 * (800 + 6 * length + 160)
        assert tracemalloc.get_traced_memory()[1] < spent
    finally:
        tracemalloc.stop()


def test_a_file_that_changed_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.ckpt", {"a": np.arange(9.0)})
    opened = weights_io.open(tmp_path / "a.ckpt")
    data = tmp_path / "a.ckpt" / tensorbundle.DATA
    os.utime(data, ns=(1, 1))
    with _refused("file.changed", "data-00000"):
        _ = opened["a"]


def test_closing_closes_every_file(tmp_path: Path) -> None:
    with weights_io.open(_index(RECORDED / "shards")) as opened:
        kept = opened["block_5/kernel"]
    assert len(opened._sources) == 4
    for source in opened._sources:
        with pytest.raises(weights_io.WeightsError, match="closed"):
            source.read(0, 1)
    assert kept.sum() == kept.sum()


# --- writing ----------------------------------------------------------------------------------------------------------------

SHAPES = [(), (1,), (3,), (0,), (2, 0, 3), (2, 3), (2, 3, 4)]


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_every_dtype_is_written_and_read_bit_for_bit(dtype: np.dtype[Any], tmp_path: Path) -> None:
    arrays = {f"x{shape}": _bits(dtype, shape) for shape in SHAPES}
    weights_io.save(tmp_path / "a.ckpt", arrays)
    opened = weights_io.open(tmp_path / "a.ckpt")
    assert set(opened) == set(arrays)
    for name, array in arrays.items():
        assert (opened[name].dtype, opened[name].shape) == (array.dtype, array.shape)
        assert opened[name].tobytes() == array.tobytes()
    found = json.loads(json.dumps({key: value for key, value in opened.metadata.items() if key != "strings"}))
    assert found == {"version": 1, "num_shards": 1, "endianness": "little"}


@pytest.mark.parametrize("case", [*CASES, "many", "variant"])
def test_the_table_of_every_recorded_index_is_written_to_the_same_bytes(case: str) -> None:
    path = _index(RECORDED / case)
    source = Source(path)
    rows = [
        (record.key, record.value)
        for record in leveldb_table.records(source, leveldb_table.Budget(limits.DEFAULT, source))
    ]
    file = io.BytesIO()
    leveldb_table.write_table(file, rows)
    assert file.getvalue() == path.read_bytes()


def test_a_bundle_is_written_to_the_bytes_that_tensorflow_writes(tmp_path: Path) -> None:
    """The recorded data, whose tensors are not in the order of their names, in that order; the entries but for the offsets."""
    answers = weights_io.open(_index(RECORDED / "dtypes"))
    arrays = {name: answers[name] for name in answers if "q" not in name}
    weights_io.save(tmp_path / "a.ckpt", arrays)
    folder = tmp_path / "a.ckpt"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", tensorbundle.DATA, tensorbundle.INDEX]
    assert (folder / tensorbundle.DATA).read_bytes() == b"".join(arrays[name].tobytes() for name in sorted(arrays))
    state = (RECORDED / "keras_weights" / "checkpoint").read_text().replace("model.weights", "model.ckpt")
    assert (folder / "checkpoint").read_text() == state
    schema = {number: f"field {number}" for number in range(1, 8)}
    recorded, written = (
        {
            record.key: protobuf.parsed(
                record.value, {n: protobuf.Field(schema[n], kind) for n, kind in KINDS.items()}, PLACE
            )
            for record in _records(path)
        }
        for path in (_index(RECORDED / "dtypes"), folder / tensorbundle.INDEX)
    )
    assert recorded[b""] == written[b""]
    for name in arrays:
        theirs, ours = recorded[name.encode()], written[name.encode()]
        assert {key: value for key, value in theirs.items() if key != "field 4"} == {
            key: value for key, value in ours.items() if key != "field 4"
        }


KINDS = {1: 0, 2: 2, 3: 0, 4: 0, 5: 0, 6: 5}


def _records(path: Path) -> list[leveldb_table.Record]:
    source = Source(path)
    found = list(leveldb_table.records(source, leveldb_table.Budget(limits.DEFAULT, source)))
    return [record if record.key else record._replace(value=b"") for record in found]


def test_writing_does_not_depend_on_the_order_of_the_tensors_and_happens_twice_alike(tmp_path: Path) -> None:
    arrays = {f"layer_{at}/kernel": _bits(np.dtype(np.float32), (3,), at) for at in range(40)}
    weights_io.save(tmp_path / "a.ckpt", arrays)
    weights_io.save(tmp_path / "b.ckpt", dict(reversed(arrays.items())))
    for path in (tmp_path / "a.ckpt").iterdir():
        assert path.read_bytes() == (tmp_path / "b.ckpt" / path.name).read_bytes()


def test_tensors_are_written_one_at_a_time(tmp_path: Path) -> None:
    size, made = 4 << 20, []

    def get(at: int) -> Any:
        made.append(at)
        return np.full(size // 4, at, np.float32)

    items = [Pending(f"x{at}", np.dtype(np.float32), (size // 4,), lambda at=at: get(at)) for at in range(8)]
    tracemalloc.start()
    try:
        tensorbundle.save_items(tmp_path / "a.ckpt", items, {})
        assert tracemalloc.get_traced_memory()[1] < 2 * size + (1 << 20)
    finally:
        tracemalloc.stop()
    assert made == [*range(8), *range(8)]  # once to be written, once to be compared


def test_what_does_not_read_back_the_same_leaves_nothing(tmp_path: Path) -> None:
    values = itertools.count()
    items = [Pending("x", np.dtype(np.float32), (2,), lambda: np.full(2, next(values), np.float32))]
    with _refused("written.bits", "'x'"):
        tensorbundle.save_items(tmp_path / "a.ckpt", items, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "\0x"])
def test_names_that_mean_something_else_are_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError, match="name cannot be written"):
        weights_io.save(tmp_path / "a.ckpt", {name: np.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e8m0fnu, np.longdouble, "U3", object, "M8[s]"])
def test_dtypes_that_tensorflow_lacks_are_not_written(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(weights_io.UnsupportedError, match="dtype cannot be written"):
        weights_io.save(tmp_path / "a.ckpt", {"x": np.zeros(2, dtype)})
    assert list(tmp_path.iterdir()) == []


def test_metadata_is_refused_because_a_bundle_holds_none(tmp_path: Path) -> None:
    with pytest.raises(weights_io.UnsupportedError, match=r"(?s)no metadata.*'author'"):
        weights_io.save(tmp_path / "a.ckpt", {"x": np.ones(1)}, {"author": "me"})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(weights_io.WeightsError, match="exists"):
        weights_io.save(tmp_path / "a.ckpt", {"x": np.ones(1)})


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=30).filter(lambda name: name[0] != "\0" and name.isprintable())
        | st.sampled_from(["a" * 300, "a" * 299 + "b"]),
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.uint8, np.float16]), hnp.array_shapes(max_dims=3, min_side=0)
        ),
        max_size=40,
    )
)
def test_any_names_and_arrays_come_back(tmp_path_factory: Any, tensors: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "a.ckpt"
    weights_io.save(path, tensors)
    opened = weights_io.open(path)
    assert list(opened) == sorted(tensors, key=str.encode)
    for name, array in tensors.items():
        assert (opened[name].dtype, opened[name].shape) == (array.dtype, array.shape)
        assert opened[name].tobytes() == array.tobytes()


def test_what_was_recorded_in_slices_is_written_whole(tmp_path: Path) -> None:
    original = weights_io.open(_index(RECORDED / "partitioned"))
    weights_io.save(tmp_path / "a.ckpt", original)
    written = weights_io.open(tmp_path / "a.ckpt")
    assert {name: array.tobytes() for name, array in written.items()} == {
        name: array.tobytes() for name, array in original.items()
    }
    assert {written.info(name).layout for name in written} == {"contiguous"}


# --- byte order -------------------------------------------------------------------------------------------------------------


def _reversed(array: Any) -> bytes:
    """The bytes of an array, those of each number in reverse."""
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    return b"".join(array.tobytes()[at : at + width][::-1] for at in range(0, array.nbytes, width))


@pytest.mark.parametrize("code", DTYPES)
def test_big_endian_bundles_of_every_dtype_are_read_in_this_machines_order(code: int, tmp_path: Path) -> None:
    array = _bits(DTYPES[code], (2, 3))
    content = _reversed(array)
    header = build.HEADER + build.number(2, 1)
    path = _write(
        tmp_path, build.bundle((b"x", build.entry(content, code, build.shaped(2, 3))), header=header, data=(content,))
    )
    opened = weights_io.open(path)
    assert opened.metadata["endianness"] == "big"
    assert (opened["x"].dtype, opened["x"].dtype.isnative) == (array.dtype, True)
    assert opened["x"].tobytes() == array.tobytes()
    assert not opened["x"].flags.writeable


def test_big_endian_strings_have_the_checksums_of_big_endian_lengths(tmp_path: Path) -> None:
    parts = [b"one", b"", b"three" * 60]
    fixed = b"".join(len(part).to_bytes(4, "big") for part in parts)
    middle = build.masked(fixed).to_bytes(4, "big")
    content = b"".join(build.varint(len(part)) for part in parts) + middle + b"".join(parts)
    entry = build.entry(content, 7, build.shaped(3), crc=build.masked(fixed + middle + b"".join(parts)))
    for big, header in ((True, build.HEADER + build.number(2, 1)), (False, build.HEADER)):
        path = _write(tmp_path / str(big), build.bundle((b"x", entry), header=header, data=(content,)))
        if big:
            assert weights_io.open(path).metadata["strings"] == {"x": parts}
        else:
            with _refused("tensorbundle.strings", "'x'"):
                weights_io.open(path)


# --- slices -----------------------------------------------------------------------------------------------------------------


def test_the_keys_of_recorded_slices_are_those_that_are_made() -> None:
    """Numbers of one, two and three bytes, whole axes, and a name with bytes that are escaped."""
    expected = {
        tensor_slices.key(b"tall", ((start, length),))
        for start, length in [(0, 63), (63, 1), (64, 7), (71, 100), (171, 8020), (8191, 1), (8192, 809)]
    }
    expected |= {
        tensor_slices.key("name/with/slashes and \0ÿ".encode(), extents)
        for extents in (((0, 1), (0, -1)), ((1, 3), (0, -1)))
    }
    keys = {record.key for record in _records(_index(RECORDED / "partitioned"))}
    assert expected <= keys


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=2))
def test_keys_sort_as_the_numbers_in_them(pairs: Any) -> None:
    left, right = (tensor_slices.key(b"x", (pair,)) for pair in pairs)
    assert (left < right, left == right) == (pairs[0] < pairs[1], pairs[0] == pairs[1])


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_keys_sort_as_the_names_in_them(left: bytes, right: bytes) -> None:
    keys = [tensor_slices.key(name, ((0, 1),)) for name in (left, right)]
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (left < right, left == right)


@pytest.mark.parametrize("seed", range(8))
def test_random_tilings_are_assembled_into_the_array_they_were_cut_from(seed: int, tmp_path: Path) -> None:
    rng, dtype = random.Random(seed), np.dtype([np.float32, ml_dtypes.bfloat16, np.bool_, np.complex64][seed % 4])
    shape = tuple(rng.randint(2, 5) for _ in range(rng.randint(1, 4)))
    array, boxes = _bits(dtype, shape, seed), _random_tiling(shape, rng)
    rows, data, slices = {}, b"", b""
    for box in boxes:
        part = array[tuple(slice(start, start + length) for start, length in box)]
        named = tuple(
            (0, -1) if pair == (0, size) and rng.random() < 0.5 else pair for pair, size in zip(box, shape, strict=True)
        )
        named = box if all(pair == (0, -1) for pair in named) else named
        rows[tensor_slices.key(b"x", named)] = build.entry(
            part.tobytes(), CODES[dtype], build.shaped(*part.shape), offset=len(data)
        )
        slices += build.extents(*(None if pair == (0, -1) else pair for pair in named))
        data += part.tobytes()
    rows[b"x"] = build.number(1, CODES[dtype]) + build.message(2, build.shaped(*shape)) + slices
    opened = weights_io.open(_write(tmp_path, build.bundle(*sorted(rows.items()), data=(data,))))
    assert list(opened) == ["x"]
    assert opened["x"].tobytes() == array.tobytes()
    assert opened.info("x").layout == "partitioned"


def _random_tiling(shape: tuple[int, ...], rng: random.Random) -> list[tuple[tuple[int, int], ...]]:
    boxes = [tuple((0, size) for size in shape)]
    for _ in range(rng.randint(0, 9)):
        box = boxes.pop(rng.randrange(len(boxes)))
        axis = rng.randrange(len(shape))
        start, length = box[axis]
        at = rng.randint(1, max(1, length - 1)) if length > 1 else 0
        halves = [(start, at), (start + at, length - at)] if at else [(start, length)]
        boxes += [(*box[:axis], half, *box[axis + 1 :]) for half in halves]
    return boxes


@given(st.data())
def test_boxes_tile_if_and_only_if_every_element_is_in_one(data: Any) -> None:
    """Against counting: of arbitrary boxes, and of tilings with one box moved, removed or repeated."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    boxes = _random_tiling(shape, random.Random(data.draw(st.integers(0, 10**6))))
    change = data.draw(st.sampled_from(["none", "remove", "repeat", "replace"]))
    at = data.draw(st.integers(0, len(boxes) - 1))
    if change != "none":
        box = boxes.pop(at) if change != "repeat" else boxes[at]
        if change == "replace":
            starts = [data.draw(st.integers(0, size - 1)) for size in shape]
            box = tuple(
                (start, data.draw(st.integers(1, size - start))) for start, size in zip(starts, shape, strict=True)
            )
        boxes += [box] * (change != "remove")
    counts = np.zeros(shape, int)
    for box in boxes:
        counts[tuple(slice(start, start + length) for start, length in box)] += 1
    expected = (
        None
        if (counts == 1).all()
        else "an overlap and a hole"
        if counts.sum() == counts.size
        else "an overlap"
        if counts.sum() > counts.size
        else "a hole"
    )
    assert tensor_slices.misfit(boxes, shape) == (expected if boxes else "a hole")


def test_the_corners_of_slices_are_held_against_the_budget(tmp_path: Path) -> None:
    """Eight axes, 256 corners for each slice, hardly two of them the same."""
    rng = random.Random(0)
    boxes = [tuple((rng.randrange(1, 31), 1) for _ in range(8)) for _ in range(640)]
    files = build.partitioned((63,) * 8, *boxes)
    path = _write(tmp_path, files)
    tracemalloc.start()
    try:
        with _refused("budget.heap", "slices"):
            weights_io.open(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * sum(map(len, files.values())) + (16 << 20)
    finally:
        tracemalloc.stop()


def test_a_partitioned_tensor_is_where_its_first_slice_is() -> None:
    opened = weights_io.open(_index(RECORDED / "partitioned"))
    assert opened.shared() == []
    entries = {record.key: record.value for record in _records(_index(RECORDED / "partitioned"))}
    first = entries[tensor_slices.key(b"tall", ((0, 63),))]
    found = protobuf.parsed(first, {4: protobuf.Field("offset"), 3: protobuf.Field("shard")}, PLACE)
    info = opened.info("tall")
    assert (info.offset, info.file.name) == (
        found.get("offset", 0),
        f"model.ckpt.data-{found.get('shard', 0):05}-of-00002",
    )


def test_twenty_thousand_slices_are_checked_in_linear_time() -> None:
    """In a check of pairs these would be two hundred million."""
    side = 141
    boxes = [((row, 1), (column, 1)) for row in range(side) for column in range(side)]
    assert tensor_slices.misfit(boxes, (side, side)) is None
    assert tensor_slices.misfit(boxes[:-1], (side, side)) == "a hole"
    boxes[5] = boxes[6]
    assert tensor_slices.misfit(boxes, (side, side)) == "an overlap and a hole"


# --- what "compat" tolerates ------------------------------------------------------------------------------------------------

TOLERATED = {
    "overlapping-tensors": {"x": build.X, "y": build.X[4:] + build.X[:4]},
    "the-same-bytes-twice": {"x": build.X, "y": build.X},
    "one-byte-after-the-data": {"x": build.X},
    "a-page-of-zeros-after-the-data": {"x": build.X},
    "bytes-between-tensors": {"x": build.X, "y": build.X},
    "shard-that-nothing-is-in": {"x": build.X},
    "bool-of-2": {"x": b"\0\1\1"},
    "int4-of-16": {"x": b"\x0f\0"},
    "dtype-resource": {},
    "dtype-variant": {},
}


@pytest.mark.parametrize("case", build.cases(), ids=lambda case: case.name)
def test_compat_tolerates_what_is_listed_and_nothing_else(case: Any, tmp_path: Path) -> None:
    path = _write(tmp_path, case.files)
    if case.name not in TOLERATED:
        with (
            pytest.raises(weights_io.WeightsError, match=re.escape(f"[{case.rule}]")),
            weights_io.open(path, mode="compat") as opened,
        ):
            list(opened.values())
        return
    found = {name: array.tobytes() for name, array in weights_io.open(path, mode="compat").items()}
    assert found == TOLERATED[case.name]


def test_one_range_under_many_names_is_held_against_the_budget(tmp_path: Path) -> None:
    content = bytes(1 << 20)
    rows = [(b"%03d" % at, build.entry(b"", 4, build.shaped(1 << 20), size=1 << 20)) for at in range(250)]
    path = _write(tmp_path, build.bundle(*rows, data=(content,)))
    with _refused("budget.expansion"):
        weights_io.open(path, mode="compat")
    assert len(weights_io.open(path, mode="compat", limits=weights_io.Limits(expansion=400))) == 250


def test_the_slices_of_a_tensor_count_once_against_the_budget(tmp_path: Path) -> None:
    path = _write(tmp_path, build.partitioned((8192,), ((0, 4096),), ((4096, 4096),)))
    opened = weights_io.open(path, limits=weights_io.Limits(expansion=1, spare=0))
    assert opened["x"].nbytes == opened.info("x").nbytes == 32768


def test_alignment_between_tensors_is_no_gap(tmp_path: Path) -> None:
    case = next(case for case in build.good() if case.name == "aligned-tensors")
    opened = weights_io.open(_write(tmp_path, case.files))
    assert {name: array.tobytes() for name, array in opened.items()} == {"x": build.X, "y": build.X}


# --- the malformed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", build.cases(), ids=lambda case: case.name)
def test_every_malformed_bundle_is_refused_by_its_rule(case: Any, tmp_path: Path) -> None:
    opened = None
    if case.read is not None:
        opened = weights_io.open(_write(tmp_path, case.files))
    with pytest.raises(
        weights_io.FormatError | weights_io.UnsupportedError if False else weights_io.WeightsError
    ) as caught:
        _ = opened[case.read] if opened is not None else weights_io.open(_write(tmp_path, case.files))
    assert caught.value.rule == case.rule
    assert re.search("(?s)" + ".*".join(map(re.escape, case.words)), str(caught.value))


def test_every_rule_has_a_malformed_bundle() -> None:
    broken = {case.rule for case in build.cases()}
    assert set(tensorbundle.RULES) - broken == {"index.checkpoint-file"}  # of a folder: below
    assert broken - set(weights_io.rules()) == set()


@pytest.mark.parametrize("case", build.good(), ids=lambda case: case.name)
def test_every_good_bundle_of_the_builder_is_read(case: Any, tmp_path: Path) -> None:
    opened = weights_io.open(_write(tmp_path, case.files))
    assert len(opened) + len(opened.metadata["strings"]) == {
        "no-tensors": 0,
        "two-shards": 2,
        "aligned-tensors": 2,
        "snappy-with-copies": 12,
    }.get(case.name, 1)
    for name, array in opened.items():
        assert array.shape == opened.info(name).shape


def test_an_index_whose_name_leaves_no_room_for_that_of_its_data_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, {"n" * 249 + ".index": build.good()[0].files[build.INDEX]})
    with _refused("tensorbundle.files", "expected", "data-00000"):
        weights_io.open(path)


# --- the parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_published_values(data: bytes, crc: int) -> None:
    assert checksum.crc32c(data) == crc == build.crc32c(data)
    assert checksum.crc32c(np.frombuffer(data, np.uint8)) == crc
    assert checksum.crc32c(data[5:], checksum.crc32c(data[:5])) == crc


@pytest.mark.parametrize("taken_by", ["isal", "zlib"])
def test_crc32_gives_the_published_values(taken_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check value of CRC-32/ISO-HDLC, by both libraries; a machine without the first takes the second."""
    if taken_by == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    fresh = importlib.util.spec_from_file_location("fresh_checksum", checksum.__file__)
    module = importlib.util.module_from_spec(fresh)
    fresh.loader.exec_module(module)
    assert module._crc32.__module__.startswith(taken_by)
    data = np.random.default_rng(0).integers(0, 256, 100_001, np.uint8)
    assert module.crc32(b"123456789") == 0xCBF43926
    assert module.crc32(data) == zlib.crc32(data) == module.crc32(data[5:], module.crc32(data[:5]))


def test_masking_is_that_of_the_format() -> None:
    assert checksum.masked(0) == 0xA282EAD8
    assert checksum.masked(checksum.crc32c(b"foo")) not in (
        checksum.crc32c(b"foo"),
        checksum.masked(checksum.masked(checksum.crc32c(b"foo"))),
    )
    assert checksum.masked_crc32c(b"foo") == build.masked(b"foo")


@given(st.integers(0, 2**64 - 1))
def test_varints_come_back_and_are_the_shortest(value: int) -> None:
    raw = protobuf.to_varint(value)
    assert raw == build.varint(value)
    assert protobuf.varint(b"?" + raw + b"!", 1, PLACE) == (value, 1 + len(raw))
    with _refused("tensorbundle.varint"):
        protobuf.varint(raw[:-1] + bytes([raw[-1] | 0x80]) + b"\0", 0, PLACE)


@given(st.binary(max_size=80) | st.lists(st.sampled_from([b"layer", b"kernel", b"aaaa"]), max_size=60).map(b"".join))
def test_what_snappy_compressed_comes_back(content: bytes) -> None:
    assert snappy.decompressed(build.copying(content), PLACE) == content
    if content:
        assert snappy.decompressed(build.snappy(content), PLACE) == content


@pytest.mark.parametrize(
    ("size", "tag"), [(60, b"\xec"), (61, b"\xf0\x3c"), (70000, b"\xf8\x6f\x11\x01"), (300, b"\xfc\x2b\x01\0\0")]
)
def test_every_form_of_a_literal_is_read(size: int, tag: bytes) -> None:
    content = bytes(at % 251 for at in range(size))
    assert snappy.decompressed(build.varint(size) + tag + content, PLACE) == content


def test_no_more_is_decompressed_than_was_announced() -> None:
    content = build.varint(100) + b"\0x" + b"\xfe\1\0" * 100_000  # 64 bytes in each copy
    tracemalloc.start()
    try:
        with _refused("tensorbundle.snappy", "expected: 100"):
            snappy.decompressed(content, PLACE)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_copy_may_overlap_what_it_makes() -> None:
    assert snappy.decompressed(build.varint(10) + b"\4ab" + b"\x1e\2\0", PLACE) == b"ab" * 5


@given(st.binary(max_size=60))
def test_snappy_gives_bytes_or_the_rule(data: bytes) -> None:
    try:
        assert len(snappy.decompressed(data, PLACE)) == snappy.announced(data, PLACE)[0]
    except weights_io.FormatError as error:
        assert error.rule in ("tensorbundle.snappy", "tensorbundle.varint")


def test_an_entry_larger_than_a_block_has_one_of_its_own(tmp_path: Path) -> None:
    rows = [(b"a", b"1"), (b"b" * 600_000, b"2"), (b"d", b"3" * 600_000), (b"e", b"4")]
    path = tmp_path / "t.index"
    with path.open("wb") as file:
        leveldb_table.write_table(file, rows)
    source = Source(path)
    blocks = leveldb_table._index(source, leveldb_table.Budget(limits.DEFAULT, source))
    assert [key for key, _ in blocks] == [b"a", b"c", b"d", b"f"]  # short keys between theirs
    assert [(record.key, record.value) for record in _records(path)] == rows


@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=300_000 // 64), max_size=80))
def test_any_table_is_read_as_it_was_written(tmp_path_factory: Any, rows: dict[bytes, bytes]) -> None:
    path = tmp_path_factory.mktemp("table") / "t.index"
    with path.open("wb") as file:
        leveldb_table.write_table(file, sorted(rows.items()))
    source = Source(path)
    budget = leveldb_table.Budget(weights_io.Limits(), source)
    assert [(record.key, record.value) for record in leveldb_table.records(source, budget)] == sorted(rows.items())


def test_repairing_a_good_index_changes_nothing() -> None:
    for files in fuzzed.seeds():
        content = next(iter(files.values()))
        assert fuzzed.repair(content) == content
        assert fuzzed.repair(content[:20] + b"\xff" + content[21:]) != content[:20] + b"\xff" + content[21:]


# --- folders ----------------------------------------------------------------------------------------------------------------


def _folder(path: Path, *prefixes: str, state: str | bytes | None = None) -> Path:
    for prefix in prefixes:
        weights_io.save(
            path.parent / f"{prefix}.tmp", {"x": np.full(2, len(prefix), np.float32)}, format="tensorbundle"
        )
        path.mkdir(exist_ok=True)
        for file in (path.parent / f"{prefix}.tmp").iterdir():
            if file.name != "checkpoint":
                file.rename(path / file.name.replace("model.ckpt", prefix))
    path.mkdir(exist_ok=True)
    if state is not None:
        (path / "checkpoint").write_bytes(state if isinstance(state, bytes) else state.encode())
    return path


def test_a_folder_holds_the_checkpoint_that_its_file_names(tmp_path: Path) -> None:
    state = 'model_checkpoint_path: "model-20"\nall_model_checkpoint_paths: "model-3"\nall_model_checkpoint_paths: "model-20"\n'
    folder = _folder(tmp_path / "f", "model-3", "model-20", state=state)
    assert tensorbundle.folder_prefix(folder) == folder / "model-20.index"


@pytest.mark.parametrize(
    ("line", "prefix"),
    [
        (r'model_checkpoint_path: "a\303\251"', "aé"),
        ("model_checkpoint_path: 'b'", "b"),
        (r'model_checkpoint_path : "it\'s"', "it's"),
        ('all_model_checkpoint_paths: "x"\n  model_checkpoint_path:"b"  ', "b"),
    ],
)
def test_names_in_the_file_are_read_as_text_format(line: str, prefix: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "f", prefix, "other", state=line)
    assert tensorbundle.folder_prefix(folder) == folder / f"{prefix}.index"


@pytest.mark.parametrize(
    "prefix",
    ["/abs/model", "../f/model", "sub/model", "gone", "", "..", r"sub\\model", "model\\n", "model\\0", "n" * 300],
)
def test_a_name_that_leads_elsewhere_or_nowhere_is_refused(prefix: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "f", "model", state=f'model_checkpoint_path: "{prefix}"\n')
    _folder(folder / "sub", "model")
    with _refused("index.checkpoint-file", "checkpoint", "open the checkpoint by its prefix"):
        tensorbundle.folder_prefix(folder)


OTHER_STATES = {
    "absent": None,
    "empty": b"",
    "binary": b"\x80\2 binary \xff",
    "unquoted": b"model_checkpoint_path: model",
    "too-large": b" " * (2 << 20),
    "lines": b"\n" * (1 << 20),
    "spaces": b" " * (1 << 20),
    "quotes": b'model_checkpoint_path: "' * 40000,
}


@pytest.mark.parametrize("state", OTHER_STATES.values(), ids=OTHER_STATES)
def test_without_such_a_file_the_only_index_is_taken(state: bytes | None, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "f", "model", state=state)
    (folder / "words.index").write_bytes(b"not a table")
    (folder / "empty.index").write_bytes(b"")
    (folder / "folder.index").mkdir()
    assert tensorbundle.folder_prefix(folder) == folder / "model.index"


def test_several_indexes_are_listed_and_none_is_none(tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError, match=r"(?s)several checkpoints.*a\.index, b\.index"):
        tensorbundle.folder_prefix(_folder(tmp_path / "f", "a", "b"))
    assert tensorbundle.folder_prefix(_folder(tmp_path / "g")) is None


def test_what_was_saved_is_the_folder_s_checkpoint(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.ckpt", {"x": np.ones(2)})
    assert tensorbundle.folder_prefix(tmp_path / "a.ckpt") == tmp_path / "a.ckpt" / "model.ckpt.index"
