"""NumPy's .npy and .npz: what NumPy writes comes back as NumPy reads it, what we write NumPy reads, and what is refused is refused by name."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from malformed import build_numpy, build_zip
from systems import read_only, strided

import weights_io
from weights_io import numpy_files as form
from weights_io import zip_archive
from weights_io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = [
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
ALL = [*map(np.dtype, NUMBERS), *form.VOIDS.values()]
SAVERS = [np.savez, np.savez_compressed]


def _bits(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random bit patterns, NaNs with payloads and subnormals among them; booleans are 0 or 1."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == np.bool_ else 256, count, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def _same(found: Any, expected: Any) -> None:
    """The same bits in this machine's byte order, and read-only."""
    expected = expected.astype(expected.dtype.newbyteorder("="))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert not found.flags.writeable


def _refused(rule: str, *words: str) -> Any:
    return pytest.raises(
        weights_io.WeightsError, match=f"(?s)\\[{re.escape(rule)}\\]" + ".*".join(map(re.escape, ("", *words)))
    )


def _npy(path: Path, array: Any, **more: Any) -> Path:
    np.save(path, array, **more)
    return path


# --- what NumPy writes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_that_numpy_writes_comes_back(
    name: str, order: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = _bits(np.dtype(name).newbyteorder(order), shape)
    opened = weights_io.open(_npy(tmp_path / "a.npy", array))
    assert (opened.format, list(opened), opened.metadata) == ("npy", ["array"], {})
    _same(opened["array"], array)
    info = opened.info("array")
    assert (info.dtype, info.shape, info.nbytes) == (np.dtype(name), shape, array.nbytes)
    raw = (tmp_path / "a.npy").read_bytes()
    assert raw[info.offset : info.offset + info.nbytes] == array.tobytes()


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("layout", [np.asfortranarray, strided, read_only, np.flip, np.transpose])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">c16", "|u1", "|b1", ">i2"])
def test_every_memory_layout_comes_back(dtype: str, layout: Any, save: Any, tmp_path: Path) -> None:
    array = layout(_bits(dtype, (3, 4, 5)))
    save(tmp_path / "a.npz", x=array)
    opened = weights_io.open(tmp_path / "a.npz")
    _same(opened["x"], array)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    assert opened["x"].flags.f_contiguous == fortran
    expected = "compressed" if save is np.savez_compressed else "strided" if fortran else "contiguous"
    assert opened.info("x").layout == expected


def test_one_axis_in_fortran_order_is_contiguous(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(build_numpy.npy(build_numpy.header(order="True")))
    assert weights_io.open(tmp_path / "a.npy").info("array").layout == "contiguous"


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\\\0/"), max_size=8).filter(
            lambda n: n not in ("file", "self", form.RECORD)
        ),
        hnp.arrays(st.sampled_from(NUMBERS).map(np.dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)),
        max_size=4,
    ),
    st.sampled_from(SAVERS),
)
def test_any_archive_that_numpy_writes_is_read_as_numpy_reads_it(tmp_path_factory: Any, arrays: Any, save: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "a.npz"
    save(path, **arrays)
    opened, theirs = weights_io.open(path), np.load(path)
    assert (opened.format, opened.metadata) == ("npz", {})
    assert list(opened) == list(theirs.files)
    for name in theirs.files:
        _same(opened[name], theirs[name])
    theirs.close()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(version: tuple[int, int], tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    _same(weights_io.open(tmp_path / "a.npy")["array"], array)


def test_names_are_those_of_numpy_with_folders_and_dots(tmp_path: Path) -> None:
    arrays = {"layer/0/w": np.zeros(1), "a.npy": np.ones(1), "": np.ones(2), "权重": np.ones(3)}
    np.savez(tmp_path / "a.npz", **arrays)
    opened = weights_io.open(tmp_path / "a.npz")
    assert {name: opened[name].size for name in opened} == {"layer/0/w": 1, "a.npy": 1, "": 2, "权重": 3}


def test_the_fixtures_outside_the_repository_are_read_as_numpy_reads_them(shared: Any) -> None:
    found = sorted(shared("spaces").parent.glob("*/*.npz"))
    assert found
    for path in found:
        with np.load(path) as theirs, weights_io.open(path) as opened:
            assert list(opened) == theirs.files
            for name in theirs.files:
                _same(opened[name], theirs[name])


def test_the_name_of_a_file_is_not_the_name_of_its_tensor(tmp_path: Path) -> None:
    """The content decides: two files of the same bytes are the same checkpoint."""
    for name in ("wte.npy", "other.bin"):
        np.save(tmp_path / "a.npy", np.ones(2))
        (tmp_path / "a.npy").rename(tmp_path / name)
        assert list(weights_io.open(tmp_path / name)) == ["array"]


# --- what is written --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_every_dtype_is_written_and_comes_back(dtype: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = _bits(dtype, shape)
    weights_io.save(tmp_path / "a.npz", {"x": array, "y": np.ones(3, np.uint8)})
    opened = weights_io.open(tmp_path / "a.npz")
    assert list(opened) == ["x", "y"]
    _same(opened["x"], array)
    with np.load(tmp_path / "a.npz") as theirs:
        assert theirs["x"].shape == shape
        assert theirs["x"].tobytes() == array.tobytes()
        assert theirs["x"].view(dtype).dtype == dtype
        assert (form.RECORD in theirs.files) == (dtype in form.VOIDS.values())


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\\\0"), max_size=8).filter(
            lambda n: n != form.RECORD and not n.startswith("/") and ".." not in f"{n}.npy".split("/")
        ),
        st.builds(
            _bits, st.sampled_from(ALL), hnp.array_shapes(max_dims=3, max_side=4, min_side=0), st.integers(0, 99)
        ),
        max_size=4,
    ),
    st.none()
    | st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=4), st.text(st.characters(codec="utf-8"), max_size=4), max_size=3
    ),
)
def test_any_names_and_metadata_come_back_and_numpy_reads_the_file(
    tmp_path_factory: Any, tensors: Any, metadata: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.npz"
    weights_io.save(path, tensors, metadata)
    opened = weights_io.open(path)
    assert list(opened) == list(tensors)
    assert opened.metadata == (metadata or {})
    with np.load(path) as theirs:
        for name, array in tensors.items():
            _same(opened[name], array)
            assert theirs[name].tobytes() == array.tobytes()
    first = path.read_bytes()
    weights_io.save(path, tensors, metadata)
    assert path.read_bytes() == first


def test_the_record_is_json_that_anybody_can_read(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.npz", {"a": np.zeros(2, ml_dtypes.bfloat16), "b": np.zeros(2)}, {"made": "here"})
    with np.load(tmp_path / "a.npz") as theirs:
        record = json.loads(theirs["__weights_io__"].tobytes())
        assert record == {"dtypes": {"a": "bfloat16"}, "metadata": {"made": "here"}}
        assert theirs.files[-1] == "__weights_io__"
        again = dict(theirs)
    np.savez_compressed(tmp_path / "b.npz", **again)  # and survives NumPy
    opened = weights_io.open(tmp_path / "b.npz")
    assert opened["a"].dtype == ml_dtypes.bfloat16
    assert opened.metadata == {"made": "here"}


def test_without_anything_to_record_the_file_holds_the_arrays_alone(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.npz", {"a": np.zeros(2)})
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        assert file.namelist() == ["a.npy"]
        theirs, ours = io.BytesIO(), file.read("a.npy")
    np.save(theirs, np.zeros(2))
    assert ours == theirs.getvalue()  # byte for byte what NumPy writes


@pytest.mark.parametrize("layout", [np.asfortranarray, strided, np.flip, np.transpose])
def test_every_memory_layout_is_written_in_c_order(layout: Any, tmp_path: Path) -> None:
    array = layout(_bits("f4", (3, 4)))
    weights_io.save(tmp_path / "a.npz", {"x": array})
    _same(weights_io.open(tmp_path / "a.npz")["x"], array)


@pytest.mark.parametrize("dtype", [np.longdouble, "U3", "M8[s]", "O", "i4,f4", ml_dtypes.int4, "V2"])
def test_a_dtype_that_is_not_written_leaves_nothing_behind(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(weights_io.UnsupportedError, match="dtype cannot be written"):
        weights_io.save(tmp_path / "a.npz", {"x": np.zeros(2, dtype)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [form.RECORD, "/a", "../a", "a\\b", "a\0"])
def test_a_name_that_would_not_be_read_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError, match=r"name cannot be written|cannot have this name"):
        weights_io.save(tmp_path / "a.npz", {name: np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [{"a": "\ud800"}, {"a": 1}, {"a": b"b"}])
def test_metadata_that_is_no_text_is_not_written(metadata: Any, tmp_path: Path) -> None:
    with pytest.raises(weights_io.WeightsError):
        weights_io.save(tmp_path / "a.npz", {"a": np.zeros(2)}, metadata)
    assert list(tmp_path.iterdir()) == []


def test_writing_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.safetensors", {str(number): np.zeros(1 << 20, np.float32) for number in range(8)})
    tracemalloc.start()
    with weights_io.open(tmp_path / "a.safetensors") as opened:
        weights_io.save(tmp_path / "a.npz", opened)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * (4 << 20) + (1 << 20)


# --- reading late, and without copies ---------------------------------------------------------------------------------------


def test_opening_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", **{str(number): np.zeros(1 << 17) for number in range(8)})
    np.save(tmp_path / "a.npy", np.zeros(1 << 20))
    read: list[int] = []
    original = Source.read
    monkeypatch.setattr(Source, "read", lambda self, at, n, field=None: read.append(n) or original(self, at, n, field))
    monkeypatch.setattr(Source, "map", lambda *_: pytest.fail("mapped while opening"))
    weights_io.open(tmp_path / "a.npy")
    assert sum(read) < 2000
    weights_io.open(tmp_path / "a.npz")
    assert sum(read) < 80_000


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_are_views_of_the_mapped_file(suffix: str, order: str, tmp_path: Path) -> None:
    array = np.asarray(np.random.default_rng(0).random((1000, 500)), order=order)  # type: ignore[call-overload]
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    elif order == "C":
        weights_io.save(path, {"array": array})  # aligned, which NumPy's are not always
    else:
        path.write_bytes(_aligned(array))
    opened = weights_io.open(path)
    tracemalloc.start()
    found = opened["array"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    _same(found, array)
    base = found
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert np.shares_memory(base, found)
    assert type(base.base).__name__ in ("mmap", "memoryview")


def _aligned(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return build_zip.archive(
        build_zip.Entry(b"array.npy", file.getvalue(), local_extra=build_zip.extra(0x4246, bytes(21)))
    )


def test_an_array_that_is_not_aligned_is_copied_and_right(tmp_path: Path) -> None:
    array = _bits("<f8", (5, 7))
    np.savez(tmp_path / "a.npz", xyz=array)
    opened = weights_io.open(tmp_path / "a.npz")
    assert opened.info("xyz").offset % 8 != 0
    _same(opened["xyz"], array)


@pytest.mark.parametrize("dtype", [">f8", ">c16", "|b1", "<f4"])
def test_unpacking_needs_the_tensor_and_a_little(dtype: str, tmp_path: Path) -> None:
    array = np.zeros((1 << 25) // np.dtype(dtype).itemsize, dtype)
    np.savez_compressed(tmp_path / "a.npz", x=array)
    opened = weights_io.open(tmp_path / "a.npz", limits=weights_io.Limits(expansion=2000))
    tracemalloc.start()
    found = opened["x"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    _same(found, array)
    assert peak < (1 << 25) + (4 << 20)


def test_unpacking_places_the_values_where_they_need_not_be_copied(tmp_path: Path) -> None:
    """Behind a header whose length is odd, the values would lie so that a view cannot be had."""
    text = build_numpy.header("'<f8'", shape=f"({1 << 21},)") + "\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", build_numpy.npy(text, bytes(1 << 24), length=len(text)))
    assert (10 + len(text)) % 8 != 0
    opened = weights_io.open(tmp_path / "a.npz")
    tracemalloc.start()
    opened["x"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1 << 24) + (4 << 20)


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "rule", "words"),
    [
        (np.array([None, 1]), "npy.object", "pickle"),
        (np.zeros(2, "i4,f4"), "npy.structured", "[('f0', '<i4')"),
        (np.array(["text"]), "npy.text", "'<U4'"),
        (np.array([b"text"]), "npy.text", "'|S4'"),
        (np.zeros(2, "M8[s]"), "npy.date", "int64"),
        (np.zeros(2, "m8[s]"), "npy.date", "int64"),
        (np.zeros(2, "V3"), "npy.void", "'|V3'"),
        (np.zeros(2, ml_dtypes.bfloat16), "npy.void", "weights_io.save"),
        (np.zeros(2, ml_dtypes.float8_e4m3fn), "npy.void", "weights_io.save"),
        (np.zeros(2, ml_dtypes.float8_e5m2), "npy.void", "weights_io.save"),
        (np.zeros(2, ml_dtypes.int4), "npy.void", "|V1"),
        (np.zeros(2, np.clongdouble), "npy.longdouble", "complex128"),
        (np.zeros(2, np.longdouble), "npy.longdouble", "float64"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_what_holds_no_numbers_is_refused_by_name(
    array: Any, rule: str, words: str, suffix: str, tmp_path: Path
) -> None:
    if rule == "npy.longdouble" and array.dtype.itemsize <= 16 // (2 - (array.dtype.kind == "c")):
        pytest.skip("long double is double here")
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
    with _refused(rule, words) as caught:
        weights_io.open(path)
    assert caught.type is weights_io.UnsupportedError


def test_a_hostile_header_is_not_evaluated(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('pathlib').Path({str(target)!r}).touch() or 2,), }}"
    (tmp_path / "a.npy").write_bytes(build_numpy.npy(text))
    with _refused("npy.header"):
        weights_io.open(tmp_path / "a.npy")
    assert not target.exists()


def test_a_declared_size_allocates_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(build_numpy.npy(build_numpy.header(shape="(25000000000,)")))
    tracemalloc.start()
    with _refused("npy.size", "100000000000 bytes"):
        weights_io.open(tmp_path / "a.npy")
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def _tiny(count: int) -> bytes:
    """An archive of as many arrays as can be in so few bytes."""
    text = "{'descr':'|u1','fortran_order':False,'shape':(1,)}\n"
    content, file = build_numpy.npy(text, b"1", length=len(text)), io.BytesIO()
    writer = zip_archive.ZipWriter(file)
    for number in range(count):
        writer.add(f"{number:x}.npy", len(content), [content], align=1)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize(("count", "allowed"), [(8000, True), (20000, False)])
def test_as_many_arrays_as_the_size_allows_cost_less_than_was_counted(
    count: int, allowed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(_tiny(count))
    tracemalloc.start()
    if allowed:
        assert len(weights_io.open(path)) == count
    else:
        with _refused("budget.heap"):
            weights_io.open(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weights_io.Limits().heap(path.stat().st_size)


def test_a_header_is_parsed_in_time_that_grows_with_its_length(tmp_path: Path) -> None:
    """Ten thousand spaces, brackets, commas or digits where a pattern could look back."""
    for filler in (" ", "(", "1,", "1 ,", "1L ", "'", "',", "{'descr':"):
        for text in (
            filler * (9900 // len(filler)),
            build_numpy.header(shape="(1" + filler * (9000 // len(filler)) + ")"),
        ):
            (tmp_path / "a.npy").write_bytes(build_numpy.npy(text[:9900]))
            with pytest.raises(weights_io.WeightsError):
                weights_io.open(tmp_path / "a.npy")


def test_mode_compat_takes_what_numpy_takes_from_python_2_and_others(tmp_path: Path) -> None:
    """Longs, no newline at the end of the header, and truth values other than 1."""
    good = build_numpy.header(shape="(2L, 1L)")
    cases = {
        "long": (build_numpy.npy(good), "npy.header"),
        "newline": (build_numpy.npy(build_numpy.header(shape="(2, 1)").ljust(118), length=118), "npy.header"),
        "bool": (build_numpy.npy(build_numpy.header("'|b1'", shape="(2, 4)"), b"\0\1\2\3\0\1\2\xff"), "npy.bool"),
    }
    for name, (content, rule) in cases.items():
        (tmp_path / name).write_bytes(content)
        with _refused(rule):
            weights_io.open(tmp_path / name)["array"]
        found = weights_io.open(tmp_path / name, mode="compat")["array"]
        with warnings.catch_warnings(action="ignore"):  # NumPy's, that Python 2 wrote it
            theirs = np.load(tmp_path / name)
        _same(found, theirs if name != "bool" else theirs.view(np.uint8) != 0)
    (tmp_path / "long").write_bytes(build_numpy.npy(good, version=(3, 0)))
    with _refused("npy.header"):  # which Python 2 never wrote
        weights_io.open(tmp_path / "long", mode="compat")


def test_a_truth_value_of_2_in_a_compressed_archive_in_mode_compat(tmp_path: Path) -> None:
    content = build_numpy.npy(build_numpy.header("'|b1'"), b"\2\0")
    (tmp_path / "a.npz").write_bytes(build_zip.archive(build_zip.Entry(b"x.npy", content, 8)))
    found = weights_io.open(tmp_path / "a.npz", mode="compat")["x"]
    _same(found, np.array([True, False]))


# --- NumPy beside it --------------------------------------------------------------------------------------------------------

STRICTER = {  # what NumPy reads and we do not: every rule of which a file of the corpus is one
    "budget.expansion": "compressed zeros, more than the budget",
    "budget.heap": "a record out of proportion; to NumPy it is an array",
    "npy.bool": "NumPy gives bytes other than 0 and 1 as bool",
    "npy.dtype": "no byte order, or names of dtypes: what they mean depends on the machine",
    "npy.header": "any Python literal of these keys: twice, escaped, commented, with a sign or in hexadecimal",
    "npy.magic": "members that are no arrays are given as bytes",
    "npy.size": "bytes after the values are ignored",
    "npy.structured": "records",
    "npy.text": "text",
    "npy.void": "bytes without a meaning",
    "npz.record": "to NumPy the record is an array like any other",
    "zip.content": "members that are no arrays are given as bytes",
    "zip.deflate": "what follows the bytes that were announced is ignored",
    "zip.descriptor": "descriptors are not looked at",
    "zip.directory": "entries that are cut, not counted, or of an archive that another precedes",
    "zip.disks": "numbers of disks are not looked at",
    "zip.encryption": "the flag of an encrypted directory is not looked at",
    "zip.end": "bytes after the archive, comments of another length",
    "zip.extra": "fields that are cut, repeated, or give another name",
    "zip.flags": "reserved flags",
    "zip.folder": "only names tell folders from files",
    "zip.local": "of the local header only the name and the lengths are looked at",
    "zip.name": "absolute paths, parents, backslashes, names cut at a NUL, and names of no encoding",
    "zip.sizes": "sizes that cannot be, where another number is used",
    "zip.small": "to NumPy the record is an array like any other",
    "zip.tiling": "overlaps, gaps, and members that are not listed",
    "zip.unique-names": "the last one wins",
    "zip.zip64": "ZIP64 records and fields that disagree or are not needed",
}

CHILD = """
import resource, sys, warnings
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
warnings.simplefilter("ignore")
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        found = np.load(path, allow_pickle=False)
        [found[name] for name in getattr(found, "files", ())]
    except BaseException:
        continue
    print(path.name)
"""


def _numpy_reads(folder: Path) -> set[str]:
    """The files in a folder that NumPy reads whole, in a process with 4 GiB."""
    pytest.importorskip("resource", reason="limits of a process are those of POSIX")
    found = subprocess.run(
        [sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=True, timeout=300
    )
    return set(found.stdout.split())


def test_whatever_numpy_reads_and_we_refuse_is_a_documented_rule(tmp_path: Path) -> None:
    rules = {}
    for builder in (build_zip, build_numpy):
        for case in builder.cases():
            (tmp_path / f"{case.name}.bin").write_bytes(case.files[case.open])
            rules[f"{case.name}.bin"] = case.rule
    assert {rules[name] for name in _numpy_reads(tmp_path)} == set(STRICTER)
    assert set(STRICTER) <= set(weights_io.rules())


@pytest.mark.parametrize("case", [*build_zip.good(), *build_numpy.good()], ids=lambda case: case.name)
def test_what_the_corpus_calls_good_is_read_as_numpy_reads_it(case: Any, tmp_path: Path) -> None:
    path = tmp_path / case.open
    path.write_bytes(case.files[case.open])
    theirs = np.load(path)
    arrays = (
        {"array": theirs}
        if isinstance(theirs, np.ndarray)
        else {n: theirs[n] for n in theirs.files if n != form.RECORD}
    )
    opened = weights_io.open(path)
    assert set(opened) == set(arrays)
    for name, array in arrays.items():
        _same(opened[name], array.view(opened[name].dtype) if array.dtype.kind == "V" else array)
