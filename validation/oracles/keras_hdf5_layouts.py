"""Record HDF5 files that h5py writes directly, one topic a file, and what h5py reads from them.

    python -m pip install -r validation/oracles/requirements-keras3.txt
    python validation/oracles/keras_hdf5_layouts.py --out validation/recorded

Writes `keras_hdf5/layouts/` under `--out`, `TOPIC_earliest.h5` with the oldest structures that HDF5 can write and
`TOPIC_latest.h5` with the newest; `keras_hdf5_answers.py` says what stands beside each file:

* `dtypes`: integers and floats of every width in both byte orders, bool, enum, complex, bfloat16 as an own float type,
  scalars, empty and null dataspaces, special values of floats;
* `storage`: contiguous, compact, never written; chunks with every combination of gzip, shuffle and Fletcher-32, chunks
  that stick out at the edges in one to three dimensions, missing chunks and fill values, chunks whose filters were
  skipped;
* `chunk_indexes`: every way to index chunks, with few chunks and with enough for the next level of the structure;
* `links`: groups nested 10 deep, 300 members, creation order, long and UTF-8 names, soft, dangling and external links,
  one object under several names;
* `attributes`: strings of fixed and variable length, arrays, numbers, more than eight, larger than 64 KB, null;
* `strings`: datasets of strings;
* `unsupported`: beside one plain dataset, what a reader of weights may refuse one by one: compound, opaque, array,
  reference, variable length, integers of 20 bits, LZF, scale-offset, external and virtual storage;
* `cycle`: a group that holds itself; `times`: objects with the time of their making;
* `plain`: a little of everything, also as HDF5 1.8 and 1.10 wrote it (`plain_v108.h5`, `plain_v110.h5`; 1.12 and 1.14 give
  the same bytes as 1.10), and so `chunk_indexes_v110.h5`;
* the content of `plain` with other properties of the file: `userblock`: 512 bytes in front; `sizes_4`: offsets and lengths
  of four bytes; `btree_k`: B-trees of another width; `shared_messages`: messages of object headers kept once for the
  whole file; `paged`: paged file space (latest only).

`times_*.h5` hold the time of writing, as h5py does on demand, and nothing turns it off in the header
of the superblock's extension: a second run gives other bytes there in `btree_k_latest.h5`, `paged_latest.h5` and
`shared_messages_latest.h5`, eight each, and the same bytes in all other files.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from keras_hdf5_answers import write_answers
from tensorflow_recording import ANSWERS_FORM, write_provenance

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = "python validation/oracles/keras_hdf5_layouts.py --out validation/recorded"
PACKAGES = ("h5py", "numpy", "safetensors")
SEED = 20210304
LINKS = 300
BETWEEN = ("v108", "v110")


def stream(index: int) -> np.random.Generator:
    return np.random.default_rng([SEED, index])


# --- what h5py does not offer ------------------------------------------------------------------------------------------


def hdf5() -> ctypes.CDLL:
    """The HDF5 library that h5py brings along, for the few things that h5py does not offer."""
    (path,) = Path(h5py.__file__).parent.with_name("h5py.libs").glob("libhdf5-*.so*")
    return ctypes.CDLL(str(path))


def must(status: int) -> None:
    if status < 0:
        raise RuntimeError("HDF5 refused a property")


def commit_without_time(file: h5py.File, name: bytes, kind: h5py.h5t.TypeID) -> None:
    library, number = hdf5(), ctypes.c_int64
    library.H5Pcreate.restype = number
    untimed = number(library.H5Pcreate(number.in_dll(library, "H5P_CLS_DATATYPE_CREATE_ID_g")))
    must(library.H5Pset_obj_track_times(untimed, False))
    must(library.H5Tcommit2(number(file.id.id), name, number(kind.id), number(0), untimed, number(0)))


# --- topics -----------------------------------------------------------------------------------------------------------


def write_dtypes(file: h5py.File) -> None:
    rng = stream(0)
    for kind, sizes in (("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("f", (2, 4, 8)), ("c", (8, 16))):
        for size, order in itertools.product(sizes, "<>"):
            dtype = np.dtype(f"{order}{kind}{size}")
            values = np.frombuffer(rng.bytes(dtype.itemsize * 6), dtype).reshape(2, 3)
            name = f"{'little' if order == '<' else 'big'}/{kind}{8 * size}"
            file.create_dataset(name, data=values, dtype=dtype)
    for size in (2, 4, 8):
        finite = np.finfo(f"f{size}")
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, finite.smallest_subnormal, finite.tiny, finite.max]
        file.create_dataset(f"special/f{8 * size}", data=np.array(special, dtype=f"<f{size}"))
    file.create_dataset("bool", data=rng.integers(0, 2, (3, 2)).astype(bool))
    colour = h5py.enum_dtype({"RED": 0, "GREEN": 1, "BLUE": 42}, basetype="i2")
    file.create_dataset("enum", data=np.array([0, 42, 1]), dtype=colour)
    file.create_dataset("scalar", data=np.float32(1.5))
    file.create_dataset("scalar_big_endian", data=np.array(-7, dtype=">i8"))
    file.create_dataset("empty", data=np.zeros((0, 4), dtype="<f4"))
    file.create_dataset("empty_last", data=np.zeros((3, 0), dtype=">f8"))
    file.create_dataset("null", data=h5py.Empty("f4"))
    file.create_dataset("five", data=rng.standard_normal((2, 1, 3, 1, 2)).astype("<f4"))
    commit_without_time(file, b"named_type", h5py.h5t.IEEE_F32LE.copy())
    file.create_dataset("of_named_type", data=rng.standard_normal(3).astype("<f4"), dtype=file["named_type"])
    own_floats(file, rng)


def own_floats(file: h5py.File, rng: np.random.Generator) -> None:
    """Bfloat16 and FP8 E4M3 as HDF5 describes floats: bits of sign, exponent and mantissa, and the bias."""
    values = rng.standard_normal(5).astype(np.float32)
    for name, size, fields, bias in (
        ("bfloat16", 2, (15, 7, 8, 0, 7), 127),
        ("float8_e4m3", 1, (7, 3, 4, 0, 3), 7),
        ("bfloat16_big_endian", 2, (15, 7, 8, 0, 7), 127),
    ):
        kind = (h5py.h5t.IEEE_F16BE if name.endswith("big_endian") else h5py.h5t.IEEE_F16LE).copy()
        kind.set_fields(*fields)
        kind.set_size(size)
        kind.set_precision(8 * size)
        kind.set_ebias(bias)
        write_all(low_level(file, f"own/{name}", values.shape, kind), values, h5py.h5t.IEEE_F32LE)


def low_level(
    file: h5py.File,
    name: str,
    shape: tuple[int, ...],
    kind: h5py.h5t.TypeID = h5py.h5t.IEEE_F32LE,
    set_up: Callable[[h5py.h5p.PropDCID], None] = lambda plist: None,
) -> h5py.h5d.DatasetID:
    """A dataset of any type of HDF5 whose creation properties `set_up` changes."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    set_up(plist)
    parent, _, last = name.rpartition("/")
    place = file.require_group(parent or "/").id
    return h5py.h5d.create(place, last.encode(), kind, h5py.h5s.create_simple(shape), plist)


def write_all(dataset: h5py.h5d.DatasetID, data: np.ndarray, kind: h5py.h5t.TypeID | None = None) -> None:
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(data), kind)


def write_storage(file: h5py.File) -> None:
    rng = stream(1)
    cube = rng.standard_normal((5, 7, 4)).astype("<f4")
    file.create_dataset("contiguous", data=cube)

    def compact(plist: h5py.h5p.PropDCID) -> None:
        plist.set_layout(h5py.h5d.COMPACT)

    def early(plist: h5py.h5p.PropDCID) -> None:
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)

    write_all(low_level(file, "compact", (7, 4), set_up=compact), cube[0])
    write_all(low_level(file, "compact_vector", (1,), set_up=compact), cube[0, 0, :1])
    low_level(file, "never_written/compact", (2, 3), set_up=compact)
    low_level(file, "never_written/early", (3, 2), set_up=early)
    file.create_dataset("never_written/contiguous", shape=(3, 2), dtype="<f4")
    file.create_dataset("never_written/contiguous_fill", shape=(3, 2), dtype=">f4", fillvalue=1.25)
    file.create_dataset("never_written/chunked_fill", shape=(3, 5), dtype="<i4", chunks=(2, 2), fillvalue=-7)
    smooth = np.cumsum(rng.integers(0, 3, 300)).astype("<i4")
    for gzip, shuffle, fletcher in itertools.product((False, True), repeat=3):
        name = "_".join(n for n, on in (("gzip", gzip), ("shuffle", shuffle), ("fletcher32", fletcher)) if on) or "none"
        options = {"compression": "gzip" if gzip else None, "shuffle": shuffle, "fletcher32": fletcher}
        file.create_dataset(f"filters/{name}", data=smooth, chunks=(128,), **options)
        if gzip and fletcher:
            file.create_dataset(f"filters_3d/{name}", data=cube, chunks=(2, 3, 4), **options)
    for level in (0, 9):
        file.create_dataset(f"filters/gzip_level_{level}", data=smooth, chunks=(300,), compression=level)
    file.create_dataset("filters/big_endian", data=smooth.astype(">i8"), chunks=(100,), compression=4, shuffle=True)
    file.create_dataset(
        "filters/odd_size", data=np.array([b"abc", b"de", b"f"], dtype="S5"), chunks=(2,), shuffle=True, fletcher32=True
    )
    for size in (1, 3, 5):  # Fletcher-32 pads an odd number of bytes
        file.create_dataset(
            f"fletcher32_bytes/{size}", data=np.arange(200, 200 + size, dtype="u1"), chunks=(size,), fletcher32=True
        )
    for shape, chunks in (((10,), (4,)), ((7, 5), (3, 2)), ((5, 7, 4), (2, 3, 3)), ((3,), (8,)), ((2, 9), (2, 3))):
        data = rng.standard_normal(shape).astype("<f8")
        unlimited = (None,) * len(shape)
        name = f"edges/{len(shape)}d_{'x'.join(map(str, shape))}_by_{'x'.join(map(str, chunks))}"
        file.create_dataset(name, data=data, chunks=chunks, maxshape=unlimited)
        if len(shape) == 2:
            continue
        fixed = None if all(map(int.__le__, chunks, shape)) else unlimited
        file.create_dataset(f"{name}_gzip", data=data, chunks=chunks, maxshape=fixed, compression="gzip")
    for name, options in (("plain", {}), ("gzip", {"compression": "gzip"}), ("fill", {"fillvalue": 2.5})):
        sparse = file.create_dataset(f"missing_chunks/{name}", shape=(9, 9), dtype="<f4", chunks=(2, 4), **options)
        sparse[3, 5] = 1.0
        sparse[8, 8] = -1.0
    skipped = file.create_dataset("skipped_filters", shape=(12,), dtype="<i4", chunks=(4,), compression=6, shuffle=True)
    skipped[...] = smooth[:12]
    skipped.id.write_direct_chunk((4,), smooth[4:8].tobytes(), filter_mask=3)
    file.create_dataset("incompressible", data=np.frombuffer(rng.bytes(16), "u1"), chunks=(8,), compression=9)
    grown = file.create_dataset("grown", data=cube[:, :, 0], chunks=(2, 2), maxshape=(None, 20))
    grown.resize((8, 3))


def write_chunk_indexes(file: h5py.File) -> None:
    """`few` and `many` chunks; `gz` is filtered, so that the index also holds sizes and masks."""
    rng = stream(2)

    def put(
        name: str, data: np.ndarray, chunks: tuple[int, ...], maximum: tuple[int | None, ...] | None = None
    ) -> None:
        if file.libver[0] != "v110":
            file.create_dataset(name, data=data, chunks=chunks, maxshape=maximum)
        file.create_dataset(f"{name}_gz", data=data, chunks=chunks, maxshape=maximum, compression=1)

    small = rng.integers(-99, 99, (6, 4)).astype("<i2")
    long = rng.integers(-99, 99, 400).astype("i1")
    put("single", small, (6, 4))
    put("fixed_array/few", small, (2, 3))
    put("fixed_array/many", long, (2,))
    put("btree_2/few", small, (2, 3), (None, None))
    put("btree_2/many", long.reshape(20, 20), (1, 2), (None, None))
    if file.libver[0] == "earliest":
        return  # one B-tree is like another
    if file.libver[0] != "v110":  # without filters the newest structures are the same
        file.create_dataset("fixed_array/paged", data=rng.integers(-99, 99, 2100).astype("i1"), chunks=(1,))
    put("extensible_array/few", small, (2, 3), (None, 4))
    put("extensible_array/few_second_axis", small, (2, 3), (6, None))
    put("extensible_array/many", long, (2,), (None,))
    for name, shape, chunks in (("implicit/few", (6, 4), (2, 3)), ("implicit/edges", (5, 5), (2, 2))):

        def early(plist: h5py.h5p.PropDCID, chunks: tuple[int, ...] = chunks) -> None:
            plist.set_chunk(chunks)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)

        write_all(low_level(file, name, shape, set_up=early), rng.standard_normal(shape).astype("<f4"))


def write_links(file: h5py.File) -> None:
    rng = stream(3)
    deep = file
    for level in range(10):
        deep = deep.create_group(f"level_{level}")
        deep.create_dataset("value", data=np.int32(level))
    file.create_dataset("target", data=rng.standard_normal(3).astype("<f4"))
    members = file.create_group("members")
    for index in range(LINKS):
        members[f"member_{index:03d}_{'x' * (index % 7)}"] = file["target"]
    eight, nine = file.create_group("eight"), file.create_group("nine")
    for index in range(9):
        nine[f"m{index}"] = file["target"]
        if index < 8:
            eight[f"m{index}"] = file["target"]
    file.create_group("no_members")
    for name, count in (("tracked", 3), ("tracked_many", 12)):
        tracked = file.create_group(name, track_order=True)
        for index in reversed(range(count)):
            tracked.create_dataset(f"m{index:02d}", data=np.int8(index))
    names = file.create_group("names")
    for index, name in enumerate(("with space", "a:0", "..", "权重", "é", "e\u0301", "🙂", "n" * 300, "\n\t", "tail.")):
        if name != "..":
            names.create_dataset(name, data=np.int16(index))
    soft = file.create_group("soft")
    soft["absolute"] = h5py.SoftLink("/target")
    soft["relative"] = h5py.SoftLink("absolute")
    soft["to_group"] = h5py.SoftLink("/level_0/level_1")
    soft["through"] = h5py.SoftLink("/soft/to_group/level_2/value")
    soft["dangling"] = h5py.SoftLink("/nowhere/at/all")
    soft["around_1"] = h5py.SoftLink("/soft/around_2")
    soft["around_2"] = h5py.SoftLink("/soft/around_1")
    soft["other_file"] = h5py.ExternalLink("elsewhere.h5", "/there")
    removed = file.create_group("removed")
    for index in range(12):
        removed[f"m{index}"] = file["target"]
    for index in range(0, 12, 2):
        del removed[f"m{index}"]


def write_cycle(file: h5py.File) -> None:
    file.create_dataset("a/b/value", data=np.int16(5))
    file["a/b/up"] = file["a"]
    file["a/b/self"] = file["a/b"]
    file["root"] = file["/"]


def write_attributes(file: h5py.File) -> None:
    rng = stream(4)
    thing = file.create_group("strings").attrs
    thing["variable"] = "grüße 权重"
    thing.create("variable_ascii", "plain", dtype=h5py.string_dtype("ascii"))
    thing["fixed"] = np.bytes_(b"fixed")
    thing.create("fixed_utf8", "grü".encode(), dtype=h5py.string_dtype("utf-8", 8))
    thing["array_fixed"] = np.array([b"layer_1", b"", b"a_long_name"])
    thing.create("array_variable", ["layer_1", "", "权重"], dtype=h5py.string_dtype())
    thing.create("matrix_variable", [["a", "b"], ["c", "d"]], dtype=h5py.string_dtype())
    thing["empty_variable"] = ""
    thing.create("no_elements", np.zeros(0, dtype="S3"))
    thing.create("none_variable", np.zeros(0, dtype=object), dtype=h5py.string_dtype())
    thing["long_variable"] = "0123456789" * 500
    padded(file["strings"], "space_padded", b"abc", h5py.h5t.STR_SPACEPAD)
    padded(file["strings"], "null_terminated", b"abc", h5py.h5t.STR_NULLTERM)

    numbers = file.create_group("numbers").attrs
    numbers["int"] = 7
    numbers["float"] = 1.5
    numbers["float32"] = np.float32(0.1)
    numbers["big_endian"] = np.array([1, -2], dtype=">i2")
    numbers["matrix"] = rng.standard_normal((2, 3))
    numbers["bool"] = True
    numbers["empty"] = np.zeros((0,), dtype="<f8")
    numbers["null"] = h5py.Empty("f4")

    for count in (8, 9, 60):
        many = file.create_dataset(f"count_{count}", data=np.float32(count))
        for index in range(count):
            many.attrs[f"attribute_{index:02d}"] = np.int32(index)

    def soon_dense(plist: h5py.h5p.PropDCID) -> None:
        plist.set_attr_phase_change(3, 2)

    few = low_level(file, "dense_from_four", (2,), set_up=soon_dense)
    write_all(few, np.array([1.0, 2.0], "<f4"))
    for index in range(4):
        h5py.Dataset(few).attrs[f"a{index}"] = index
    if file.libver[0] != "earliest":
        large = file.create_group("large").attrs
        large["numbers"] = np.arange(8200, dtype="<i8")  # 65,600 bytes
        large["small"] = np.int8(1)
    ordered = file.create_group("ordered", track_order=True)
    for index in reversed(range(12)):
        ordered.attrs[f"a{index}"] = index
    file.create_dataset("on_dataset", data=rng.standard_normal(2)).attrs["é"] = "UTF-8 name"
    file.attrs["layer_names"] = np.array([b"on", b"root"])
    changed = file.create_dataset("changed", data=np.int8(0))
    for index in range(6):
        changed.attrs[f"a{index}"] = "x" * 20
    del changed.attrs["a2"]
    changed.attrs["a3"] = "y" * 200


def padded(thing: h5py.Group, name: str, value: bytes, padding: int) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(8)
    kind.set_strpad(padding)
    attribute = h5py.h5a.create(thing.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.array(value, dtype="S8"))


def write_strings(file: h5py.File) -> None:
    file.create_dataset("fixed", data=np.array([[b"a", b"bc"], [b"", b"defg"]]))
    file.create_dataset("variable", data=["one", "", "grüße", "x" * 300], dtype=h5py.string_dtype())
    file.create_dataset("scalar", data="scalar")
    file.create_dataset("chunked", data=["one", "two", "three"], dtype=h5py.string_dtype(), chunks=(2,), compression=1)
    file.create_dataset("never_written", shape=(2,), dtype=h5py.string_dtype())
    file.create_dataset("many", data=[f"text {index} " * 20 for index in range(60)], dtype=h5py.string_dtype("ascii"))
    file.create_dataset("number", data=np.arange(3.0))


def write_unsupported(file: h5py.File) -> None:
    rng = stream(5)
    file.create_dataset("plain", data=rng.standard_normal(4).astype("<f4"))
    file.create_dataset("compound", data=np.zeros(2, dtype=[("a", "<f4"), ("b", "<i2", (2,)), ("c", "S3")]))
    file.create_dataset("opaque", data=np.frombuffer(rng.bytes(12), "V3"))
    file.create_dataset("opaque_with_tag", data=np.array(["2020-01-01"], "M8[D]").astype(h5py.opaque_dtype("M8[D]")))
    file.create_dataset("array", shape=(2,), dtype=np.dtype(("<f4", (2, 2))))[...] = np.ones((2, 2, 2))
    file.create_dataset("reference", data=file["plain"].ref, dtype=h5py.ref_dtype)
    file.create_dataset("region", data=file["plain"].regionref[1:3], dtype=h5py.regionref_dtype)
    vlen = file.create_dataset("variable_length", shape=(2,), dtype=h5py.vlen_dtype(np.dtype("<f4")))
    vlen[0], vlen[1] = [1.0], [2.0, 3.0]
    file.create_dataset("lzf", data=np.zeros(64, "<i4"), chunks=(32,), compression="lzf")
    file.create_dataset("scale_offset", data=np.arange(64, dtype="<i4"), chunks=(32,), scaleoffset=0)
    file.create_dataset("external", shape=(4,), dtype="<f4", external=[("elsewhere.bin", 0, 16)])
    space = h5py.h5s.create_simple((4,))
    low_level(file, "virtual", (4,), set_up=lambda plist: plist.set_virtual(space, b".", b"plain", space))
    odd = h5py.h5t.STD_I32LE.copy()
    odd.set_precision(20)
    odd.set_offset(3)
    write_all(low_level(file, "twenty_bits", (3,), odd), np.array([1, -2, 3], "<i4"), h5py.h5t.STD_I32LE)


def write_times(file: h5py.File) -> None:
    group = file.create_group("group", track_times=True)
    group.create_dataset("value", data=np.arange(3, dtype="<f4"), track_times=True)
    group.attrs["backend"] = "none"


def write_plain(file: h5py.File) -> None:
    rng = stream(6)
    file.create_dataset("group/kernel", data=rng.standard_normal((3, 4)).astype("<f4"))
    file.create_dataset("group/chunked", data=rng.standard_normal((9, 4)), chunks=(2, 3), compression=4, shuffle=True)
    if file.id.get_create_plist().get_sizes() == (8, 8):  # HDF5 does not find an unlimited axis again in four bytes
        file.create_dataset("unlimited", data=np.arange(40), chunks=(3,), maxshape=(None,))
    file["group"].attrs["weight_names"] = np.array([b"kernel", b"chunked"])
    file.attrs["backend"] = "tensorflow"
    many = file.create_group("many")
    for index in range(40):
        many[f"m{index:02d}"] = file["group/kernel"]


# --- files ------------------------------------------------------------------------------------------------------------


def create(path: Path, version: str, set_up: Callable[[h5py.h5p.PropFCID], None]) -> h5py.File:
    """A file whose creation properties `set_up` changes."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    set_up(creation)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    newest = h5py.h5f.LIBVER_LATEST
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST if version == "earliest" else newest, newest)
    return h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, creation, access))


TOPICS = {
    "dtypes": write_dtypes,
    "storage": write_storage,
    "chunk_indexes": write_chunk_indexes,
    "links": write_links,
    "cycle": write_cycle,
    "attributes": write_attributes,
    "strings": write_strings,
    "unsupported": write_unsupported,
}


def set_btree_widths(creation: h5py.h5p.PropFCID) -> None:
    must(hdf5().H5Pset_sym_k(ctypes.c_int64(creation.id), 3, 2))
    must(hdf5().H5Pset_istore_k(ctypes.c_int64(creation.id), 5))


def set_shared_messages(creation: h5py.h5p.PropFCID) -> None:
    """Every message of more than 8 bytes that can be shared is kept once for the whole file."""
    all_kinds = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 11 | 1 << 12
    must(hdf5().H5Pset_shared_mesg_nindexes(ctypes.c_int64(creation.id), 1))
    must(hdf5().H5Pset_shared_mesg_index(ctypes.c_int64(creation.id), 0, all_kinds, 8))


def record(folder: Path, version: str) -> None:
    def path(topic: str) -> Path:
        return folder / f"{topic}_{version}.h5"

    for topic, write in TOPICS.items():
        with h5py.File(path(topic), "w", libver=version) as file:
            write(file)
    with h5py.File(path("plain"), "w", libver=version) as file:
        write_plain(file)
    with h5py.File(path("userblock"), "w", libver=version, userblock_size=512) as file:
        write_plain(file)
    with path("userblock").open("r+b") as raw:
        raw.write(b"a text in front of the file\n" * 18)
    with h5py.File(path("times"), "w", libver=version, track_times=True) as file:
        write_times(file)
    with create(path("sizes_4"), version, lambda creation: creation.set_sizes(4, 4)) as file:
        write_plain(file)
    with create(path("btree_k"), version, set_btree_widths) as file:
        write_plain(file)
    with create(path("shared_messages"), version, set_shared_messages) as file:
        write_plain(file)
    if version == "latest":
        with h5py.File(path("paged"), "w", libver=version, fs_strategy="page", fs_page_size=512) as file:
            write_plain(file)


WHAT = {
    "TOPIC_earliest.h5, TOPIC_latest.h5": "what the script's own text says of TOPIC, in the oldest and the newest structures",
    "times": "objects with the time of their making",
    "plain, userblock, sizes_4, btree_k, shared_messages, paged": "one small content under several properties of the file",
    "form": ANSWERS_FORM.replace("answers.", "NAME."),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives keras_hdf5/layouts")
    folder: Path = parser.parse_args().out / "keras_hdf5" / "layouts"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "layouts"
        work.mkdir()
        for version in ("earliest", "latest"):
            record(work, version)
        for version in BETWEEN:
            topics = {"plain": write_plain} | ({"chunk_indexes": write_chunk_indexes} if version == "v110" else {})
            for topic, write in topics.items():
                with h5py.File(work / f"{topic}_{version}.h5", "w", libver=(version, version)) as file:
                    write(file)
        for path in sorted(work.glob("*.h5")):
            write_answers(path)
        shutil.copytree(work, folder, dirs_exist_ok=True)
    facts = {"oracle": "h5py writes and reads", "seed": SEED, "hdf5": h5py.version.hdf5_version, "what": WHAT}
    write_provenance(folder, COMMAND, facts, PACKAGES)


if __name__ == "__main__":
    main()
