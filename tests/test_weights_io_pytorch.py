"""PyTorch files: what torch wrote comes back bit for bit, lazily and mapped; what we write torch reads; names, views, budgets, refusals."""

from __future__ import annotations

import json
import os
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from malformed import build_pytorch as build
from malformed import build_pytorch_legacy as legacy
from malformed.build_pytorch import FLOATS, dictionary, listed, several, state, symbol, tensor, text, whole, wholes

import weights_io
from refimpl import files
from weights_io import pytorch, pytorch_legacy, zip_archive
from weights_io.limits import DEFAULT
from weights_io.pickle_machine import Inert, Symbol
from weights_io.pytorch_tensors import DTYPES, UNREAD
from weights_io.pytorch_tree import Reference
from weights_io.source import Source
from weights_io.writing import pending

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parent.parent / "validation" / "recorded" / "torch_files"
FACTS = json.loads((RECORDED / "facts.json").read_text("utf-8"))
EXPECTED = json.loads((RECORDED / "expected.json").read_text("utf-8"))
WITHOUT_CRC = {"tiny_zip_p2_no_crc.pt", "tiny_zip_p2_skip_data.pt"}  # read in compat mode only; the second has no data
OTHER = {"sparse_coo", "sparse_csr", "nested"}  # what is in them has names beyond those recorded


def _open(path: Path, mode: str = "strict") -> weights_io.Checkpoint:
    """By the reader of the container, whichever of the two that is."""
    source = Source(path)
    reader = zip_archive.open_source if source.read(0, 2) == b"PK" else pytorch_legacy.open_source
    return reader(source, DEFAULT, mode)


def _refused(rule: str, *words: str) -> Any:
    return pytest.raises(weights_io.WeightsError, match="(?s)" + ".*".join(map(re.escape, (f"[{rule}]", *words))))


def _file(path: Path, pickle: bytes, **more: Any) -> Path:
    path.write_bytes(build.file(pickle, **more))
    return path


# --- Files that torch wrote -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def answers() -> Any:
    return dict(weights_io.open(RECORDED / "answers.safetensors"))


def _text(key: Any) -> str:
    if isinstance(key, dict):
        ((kind, value),) = key.items()
        return str(value) if kind == "int" else repr(value)
    return str(key)


def _recorded(case: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names and recorded tensors of a case, walked through its tree as names are made."""
    tensors = EXPECTED[case]["tensors"]
    known = {json.dumps(entry["path"]): entry for entry in tensors}

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, list):
            return
        kind, *_ = node if isinstance(node, dict) and node else [None]
        if kind == "tensor":
            yield "/".join(path) or "tensor", tensors[node["tensor"]]
            yield from walk(tensors[node["tensor"]].get("state"), path)
        elif kind == "numpy_array":
            yield "/".join(path), node["numpy_array"]
        elif kind == "same" and json.dumps(node["same"]) in known:
            yield "/".join(path), known[json.dumps(node["same"])]
        elif kind == "opaque":
            for part in ("integers", "scales", "zero_points"):
                yield from walk(node.get(part), (*path, part))
        for key, child in _children(node):
            yield from walk(child, (*path, key))

    return walk(EXPECTED[case]["tree"], ())


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        return
    for kind in ("dict", "list", "tuple", "items"):
        for index, item in enumerate(node.get(kind, [])):
            pair = kind == "dict" or (kind == "items" and isinstance(item, list))
            yield (_text(item[0]), item[1]) if pair else (str(index), item)
    yield from node.get("state", {}).items() if isinstance(node.get("state"), dict) else ()


@pytest.mark.parametrize("name", [name for name in FACTS if not name.startswith("hub_") and name not in WITHOUT_CRC])
def test_every_recorded_file_holds_the_recorded_bits(name: str, answers: Any) -> None:
    case = FACTS[name]["case"]
    with _open(RECORDED / name) as opened:
        expected = dict(_recorded(case))
        ours = set(opened) - ({"typed", "untyped"} if case == "storages" else set())
        assert set(expected) <= ours if case in OTHER else set(expected) == ours
        for key, entry in expected.items():
            info = opened.info(key)
            assert info.shape == tuple(entry["shape"])
            assert info.nbytes == answers[entry["answer"]].nbytes
            if entry["dtype"] in UNREAD:
                with _refused("pytorch.dtype", "torch." + entry["dtype"]):
                    opened[key]
                continue
            assert info.dtype == DTYPES.get(
                entry["dtype"], np.dtype(entry["dtype"].replace(">", "<")) if "storage" not in entry else None
            )
            found = opened[key]
            assert (found.dtype, found.shape) == (info.dtype, info.shape)
            assert found.tobytes() == answers[entry["answer"]].tobytes(), key
            assert not found.flags.writeable


@pytest.mark.parametrize("name", [name for name in FACTS if not name.startswith("hub_") and name not in WITHOUT_CRC])
def test_every_recorded_file_has_the_recorded_values_beside_its_tensors(name: str, answers: Any) -> None:
    tree = EXPECTED[FACTS[name]["case"]]["tree"]
    with _open(RECORDED / name) as opened:
        root = opened.metadata if "dict" in tree else opened.metadata.get("root")
        assert list(_differences(tree, root, answers, "")) == []


TAKEN = {"tensor", "numpy_array", "opaque", "storage", "same"}


def _differences(tree: Any, value: Any, answers: Any, path: str) -> Iterator[str]:
    """Where a value of the metadata is not what was recorded."""
    kind, inner = next(iter(tree.items())) if isinstance(tree, dict) else (None, tree)
    if kind in TAKEN or isinstance(value, Reference):
        return
    if kind in ("list", "tuple", "dict"):
        if (type(value).__name__, len(value)) != (kind, len(inner)) and kind != "dict":
            yield f"{path}: {value!r}, not {tree!r}"
            return
        parts = inner if kind == "dict" else enumerate(inner)
        for key, item in parts:
            plain = _plain(key)
            if not any(isinstance(part, dict) and TAKEN & set(part) for part in (key, item)):
                yield from _differences(item, value[plain], answers, f"{path}/{plain}")
    elif kind == "object" and isinstance(value, Inert):
        if str(value.function) != inner:
            yield f"{path}: {value!r}, not {inner}"
        for key, item in tree.get("state", {}).items():
            found = {**(value.slots or {}), **(value.state or {})}
            yield from _differences(item, found.get(key, Reference("tensor", "")), answers, f"{path}/{key}")
    elif kind in ("value", "global", "object"):
        if type(value) in (set, frozenset, range, slice, Symbol) and repr(value) != inner:
            yield f"{path}: {value!r}, not {inner}"
    elif kind == "numpy_scalar":
        dtype = np.dtype(inner["dtype"]).newbyteorder("<")
        if (
            type(value) not in (bool, int, float, complex)
            or np.array(value, dtype).tobytes() != answers[inner["answer"]].tobytes()
        ):
            yield f"{path}: {value!r}, not {answers[inner['answer']]}"
    elif (type(value), repr(value)) != (type(_plain(tree)), repr(_plain(tree))):
        yield f"{path}: {value!r}, not {tree!r}"


def _plain(tree: Any) -> Any:
    """The value that a leaf of a recorded tree, or a key, stands for."""
    kind, inner = next(iter(tree.items())) if isinstance(tree, dict) else (None, tree)
    if kind == "int":
        return int(inner, 0)
    if kind == "float":
        return float.fromhex(inner)
    if kind == "complex":
        return complex(*map(float.fromhex, inner))
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(inner) if kind == "bytes" else bytearray.fromhex(inner)
    return tuple(map(_plain, inner)) if kind == "tuple" else inner


@pytest.mark.parametrize("name", sorted(WITHOUT_CRC))
def test_files_without_checksums_are_read_in_compat_mode(name: str, answers: Any) -> None:
    with _refused("zip.crc", 'mode="compat"'):
        dict(_open(RECORDED / name))
    with _open(RECORDED / name, "compat") as opened:
        for key, entry in _recorded("tiny"):
            written = answers[entry["answer"]].tobytes()
            assert opened[key].tobytes() == (written if "no_crc" in name else bytes(len(written)))


def test_a_folder_of_the_hub_is_read_whole_and_in_shards(answers: Any) -> None:
    whole_model, shards = weights_io.open(RECORDED / "hub_whole"), weights_io.open(RECORDED / "hub_sharded")
    assert (whole_model.format, shards.format) == ("pytorch", "pytorch (sharded)")
    for key, entry in _recorded("hub"):
        assert whole_model[key].tobytes() == shards[key].tobytes() == answers[entry["answer"]].tobytes()


def test_the_shared_model_is_that_of_its_safetensors(shared: Any) -> None:
    folder = shared("hf_gpt2")
    theirs, ours = weights_io.open(folder / "model_f16.safetensors"), weights_io.open(folder / "pytorch_model_f16.bin")
    assert set(theirs) <= set(ours)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


# --- Where the bytes are ----------------------------------------------------------------------------------------------------


def test_the_place_of_a_tensor_is_that_of_its_first_element() -> None:
    for name in ("views_zip_p2.pt", "views_legacy_p2.pth"):
        opened, raw = _open(RECORDED / name), (RECORDED / name).read_bytes()
        base = opened.info("base").offset
        assert raw[base : base + 96] == opened["base"].tobytes()
        for entry in EXPECTED["views"]["tensors"]:
            info = opened.info(entry["path"][0])
            if entry["storage"] == 0 and info.nbytes:
                assert info.offset == base + 4 * entry["offset"]
        assert ["base", "matrix", "transposed"] in opened.shared()
        assert ["tied", "tied_again", "tied_other_object"] in opened.shared()
        layouts = {name: opened.info(name).layout for name in opened}
        assert layouts["base"] == layouts["matrix"] == layouts["scalar_view"] == layouts["size_one"] == "contiguous"
        assert layouts["transposed"] == layouts["expanded"] == layouts["overlapping"] == layouts["column"] == "strided"


def test_views_are_views_and_nothing_is_copied(tmp_path: Path) -> None:
    """A transposed tensor of 8 MB costs no memory; an expanded one costs what one row does."""
    raw = np.arange(2 << 20, dtype=np.float32).tobytes()
    big = lambda size, stride: tensor(build.storage(count=2 << 20), size=wholes(*size), stride=wholes(*stride))  # noqa: E731
    pickle = state(
        ("x", big((2048, 1024), (1024, 1))), ("t", big((1024, 2048), (1, 1024))), ("e", big((50, 1024), (0, 1)))
    )
    opened = weights_io.open(_file(tmp_path / "a.pt", pickle, storages={"0": raw}))
    tracemalloc.start()
    try:
        arrays = {name: opened[name] for name in opened}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert np.array_equal(arrays["t"], arrays["x"].T)
    assert arrays["e"].strides == (0, 4)
    assert arrays["e"].nbytes == opened.info("e").nbytes == 50 * 4096
    assert not any(array.flags.writeable for array in arrays.values())
    assert not any(array.flags.owndata for array in arrays.values())
    with pytest.raises(ValueError, match="read-only"):
        arrays["t"][0, 0] = 1


def test_what_is_not_aligned_is_copied_and_no_more_than_that(tmp_path: Path) -> None:
    """A column of a legacy storage that begins at an odd byte: the column is copied, not the matrix."""
    raw = np.arange(1 << 20, dtype=np.float64)
    column = tensor(legacy.storage(kind="DoubleStorage", count=1 << 20), size=wholes(1024), stride=wholes(1024))
    for pad in ("", "x", "xx", "xxx"):
        content = legacy.file(state(("x", column), (f"pad{pad}", b"N")), end=legacy.elements(1 << 20, raw.tobytes()))
        (tmp_path / "a.pth").write_bytes(content)
        opened = weights_io.open(tmp_path / "a.pth")
        tracemalloc.start()
        try:
            found = opened["x"]
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()
        assert np.array_equal(found, raw[::1024])
        assert found.flags.aligned


def test_opening_reads_no_storage_and_reading_one_reads_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    weights_io.save(tmp_path / "a.pt", {name: rng.random(50_000) for name in "abc"})
    touched: list[tuple[int, int]] = []
    for way in ("read", "map"):
        original = getattr(Source, way)

        def spy(self: Source, offset: int, length: int, field: object = None, original: Any = original) -> Any:
            touched.append((offset, length))
            return original(self, offset, length, field)

        monkeypatch.setattr(Source, way, spy)
    opened = weights_io.open(tmp_path / "a.pt")
    assert (
        sum(length for _, length in touched) < 100_000
    )  # of 1.2 MB; the end of the file is looked through for its end record
    touched.clear()
    assert opened["b"].shape == (50_000,)
    assert touched == [(opened.info("b").offset, 400_000)]


def test_a_checksum_is_compared_once_and_when_the_storage_is_first_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights_io.save(tmp_path / "a.pt", {"x": np.zeros(100_000)})
    opened, sizes = weights_io.open(tmp_path / "a.pt"), []
    original = zip_archive.crc32
    monkeypatch.setattr(
        zip_archive, "crc32", lambda data, *more: sizes.append(memoryview(data).nbytes) or original(data, *more)
    )
    for _ in range(3):
        opened["x"]
    assert sizes == [800_000]


def test_small_storages_are_read_and_need_no_mapping_of_their_own(tmp_path: Path) -> None:
    """A mapping takes a file descriptor, of which a process has about a thousand."""
    weights_io.save(tmp_path / "a.pt", {f"t{i}": np.full(3, i) for i in range(3000)})
    opened = weights_io.open(tmp_path / "a.pt")
    arrays = {name: opened[name] for name in opened}
    assert all(array[0] == i for i, array in enumerate(arrays.values()))


def test_a_deflated_storage_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            "data.pkl": state(("x", tensor()), ("y", tensor(stride=wholes(1, 2)))),
            "version": b"3",
            "data/0": FLOATS,
        }.items():
            archive.writestr(f"r/{name}", content)
    opened = weights_io.open(tmp_path / "a.pt")
    assert opened.info("x").layout == "compressed"
    assert opened["x"].tolist() == [[1, -2, 3], [-4, 5, -6]]
    assert opened["y"].tolist() == [[1, 3, 5], [-2, -4, -6]] or opened["y"].shape == (2, 3)


# --- Names and metadata -----------------------------------------------------------------------------------------------------


def _names(path: Path, pickle: bytes) -> tuple[list[str], dict[Any, Any]]:
    opened = weights_io.open(_file(path / "a.pt", pickle))
    return list(opened), opened.metadata


X = tensor()


def test_names_are_the_keys_joined(tmp_path: Path) -> None:
    pickle = state(
        ("flat.name", X), ("", X), ("a", dictionary((whole(0), X), (whole(-5), X), (b"\x88", X), (b"N", X), (b"C\2b\xff", X))),
        ("list", listed(whole(7), X, several(X, X))), ("deep", dictionary((text("b"), dictionary((text("c"), X))))),
    )  # fmt: skip
    names, metadata = _names(tmp_path, pickle)
    assert names == [
        "flat.name",
        "",
        "a/0",
        "a/-5",
        "a/True",
        "a/None",
        "a/b\\xff",
        "list/1",
        "list/2/0",
        "list/2/1",
        "deep/b/c",
    ]
    assert (
        str(metadata)
        == "{'a': {}, 'list': [7, <tensor 'list/1'>, (<tensor 'list/2/0'>, <tensor 'list/2/1'>)], 'deep': {'b': {}}}"
    )


def test_a_whole_object_that_is_no_dictionary_has_a_name(tmp_path: Path) -> None:
    assert _names(tmp_path, build.pickled(X)) == (["tensor"], {})
    assert _names(tmp_path, build.pickled(listed(X, whole(5))))[0] == ["0"]
    assert str(_names(tmp_path, build.pickled(listed(X, whole(5))))[1]) == "{'root': [<tensor '0'>, 5]}"
    assert _names(tmp_path, build.pickled(whole(5)))[1]["root"] == 5


def test_a_placeholder_names_what_is_in_it(tmp_path: Path) -> None:
    net = build.call("my.nets", "Net", X, whole(3)) + dictionary((text("weight"), X), (text("scale"), whole(2))) + b"b"
    slotted = symbol("my", "Slotted") + b")\x81" + several(b"N", dictionary((text("left"), X))) + b"b"
    sub = symbol("my", "List") + b")\x81(" + X + whole(1) + b"e"
    table = symbol("my", "Dict") + b")\x81(" + text("k") + X + b"u"
    names, metadata = _names(tmp_path, state(("net", net), ("slotted", slotted), ("sub", sub), ("table", table)))
    assert names == ["net/args/0", "net/weight", "slotted/left", "sub/0", "table/k"]
    assert str(metadata["net"]) == "my.nets.Net(<tensor 'net/args/0'>, 3, scale=2)"
    assert metadata["net"].state == {"scale": 2}
    assert str(metadata["sub"]) == "my.List([<tensor 'sub/0'>, 1])"


def test_a_tensor_has_all_its_names_and_a_container_its_first(tmp_path: Path) -> None:
    shared = b"}q\5" + text("w") + X + b"q\6" + b"s"
    pickle = state(("far", dictionary((text("inner"), shared))), ("near", b"h\5"), ("tied", b"h\6"), ("again", b"h\5"))
    names, metadata = _names(tmp_path, pickle)
    assert names == ["near/w", "tied"]
    assert str(metadata) == "{'far': {'inner': <same as 'near'>}, 'near': {}, 'again': <same as 'near'>}"


def test_a_cycle_is_cut_where_it_closes(tmp_path: Path) -> None:
    names, metadata = _names(tmp_path, state(("loop", b"}q\5" + text("me") + b"h\5s" + text("x") + X + b"s")))
    assert names == ["loop/x"]
    assert str(metadata) == "{'loop': {'me': <same as 'loop'>}}"


def test_small_plain_containers_are_repeated(tmp_path: Path) -> None:
    _, metadata = _names(
        tmp_path, state(("a", listed(whole(1), whole(2)) + b"q\5"), ("b", b"h\5"), ("c", b")"), ("d", b")"))
    )
    assert str(metadata).startswith("{'a': [1, 2], 'b': [1, 2], 'c': (), 'd': ()")
    assert metadata["a"] is not metadata["b"]


def test_attributes_of_dictionaries_and_tensors_are_kept(tmp_path: Path) -> None:
    note = dictionary((text("note"), whole(1)), (text("mask"), X))
    ordered = (
        symbol("collections", "OrderedDict")
        + b")R("
        + text("w")
        + X
        + b"u"
        + dictionary((text("_metadata"), dictionary((text("v"), whole(1)))))
        + b"b"
    )
    parameter = build.call("torch._utils", "_rebuild_parameter_with_state", X, b"\x89", build.HOOKS, note)
    names, metadata = _names(tmp_path, state(("model", ordered), ("p", parameter)))
    assert names == ["model/w", "p", "p/mask"]
    assert metadata == {"model": {"_metadata": {"v": 1}}, "p": {"note": 1}}


def test_unreferenced_storages_are_noted(tmp_path: Path) -> None:
    opened = weights_io.open(_file(tmp_path / "a.pt", state(("x", X)), storages={"0": FLOATS, "1": b"lost"}))
    assert opened.metadata == {"unreferenced records": ["1"]}


def test_a_training_checkpoint_opens_with_everything_in_it() -> None:
    opened = weights_io.open(RECORDED / "checkpoint_zip_p2.pt")
    assert opened.metadata["args"].state["hidden_size"] == 6
    assert opened.metadata["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert opened.metadata["iteration"] == 80000
    assert opened["np_rng_state/1"].shape == (624,)
    assert opened.info("np_rng_state/1").layout == "pickled"


# --- The corpus of malformed files ------------------------------------------------------------------------------------------

CASES = [(f"pytorch-{case.name}", case) for case in build.cases()] + [
    (f"legacy-{case.name}", case) for case in legacy.cases()
]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_a_malformed_file_is_refused_by_its_rule(name: str, case: Any, tmp_path: Path) -> None:
    (tmp_path / case.open).write_bytes(case.files[case.open])
    with pytest.raises(weights_io.WeightsError, match="(?s)" + ".*".join(map(re.escape, case.words))) as caught:
        opened = weights_io.open(tmp_path / case.open)
        opened[case.read]
    assert caught.value.rule == case.rule
    assert case.rule in weights_io.rules()
    assert str(tmp_path / case.open) in str(caught.value)


def test_a_message_in_full(tmp_path: Path) -> None:
    path = _file(tmp_path / "model.pt", state(("x", tensor(offset=whole(1)))))
    with pytest.raises(weights_io.FormatError) as caught:
        weights_io.open(path)
    assert str(caught.value) == (
        "the tensor reaches beyond its storage [pytorch.bounds]\n"
        f"  where:    {path}, byte {caught.value.offset}\n"
        "  expected: 6 elements from 0\n"
        "  got:      offset 1, size (2, 3), stride (3, 1)"
    )
    assert path.read_bytes()[caught.value.offset :].startswith(b"Rus") or path.read_bytes()[caught.value.offset] == ord(
        "R"
    )


def test_compat_mode_tolerates_what_torch_does(tmp_path: Path) -> None:
    after = _file(tmp_path / "after.pt", state(("x", X)) + b"more")
    (tmp_path / "after.pth").write_bytes(legacy.file() + b"more")
    bools = _file(
        tmp_path / "bool.pt", state(("x", tensor(build.storage(kind="BoolStorage")))), storages={"0": b"\0\1\2\7\0\1"}
    )
    for path in (after, tmp_path / "after.pth", bools):
        assert weights_io.open(path, mode="compat")["x"].shape == (2, 3)
    assert weights_io.open(bools, mode="compat")["x"].tolist() == [[False, True, True], [True, False, True]]


def test_code_in_a_torchscript_archive_is_not_looked_at(tmp_path: Path) -> None:
    """Its pickle has classes of its own, which are placeholders, and typed lists."""
    typed = build.call("torch.jit._pickle", "restore_type_tag", listed(X), text("List[Tensor]"))
    numbers = build.call("torch.jit._pickle", "build_intlist", listed(whole(1)))
    net = (
        symbol("__torch__", "Net")
        + b")\x81"
        + dictionary((text("weight"), X), (text("rest"), typed), (text("kernel"), numbers))
        + b"b"
    )
    members = {
        "data.pkl": build.pickled(net),
        "code/__torch__.py": b"import os; os.abort()",
        "constants.pkl": b"\x80\x02).",
        "version": b"3\n",
        "data/0": FLOATS,
    }
    (tmp_path / "a.pt").write_bytes(build.archive(members))
    opened = weights_io.open(tmp_path / "a.pt")
    assert list(opened) == ["weight", "rest/0"]
    assert opened.metadata["root"].state["kernel"] == [1]


# --- Writing ----------------------------------------------------------------------------------------------------------------

WRITTEN = [*pytorch.OWN_STORAGE, *pytorch.UNTYPED]


def _bits(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> Any:
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == np.bool_ else 256, count, dtype=np.uint8)
    return raw.view(dtype).reshape(shape) if count else np.empty(shape, dtype)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("dtype", WRITTEN, ids=str)
def test_round_trip_is_bit_for_bit(dtype: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = _bits(dtype, shape)
    weights_io.save(tmp_path / "a.pt", {"x": array, "other": np.ones(3)})
    opened = weights_io.open(tmp_path / "a.pt")
    assert (opened["x"].dtype, opened["x"].shape) == (dtype, shape)
    assert opened["x"].tobytes() == array.tobytes()
    assert opened.info("x").offset % 64 == 0
    assert opened.metadata == {}


def test_every_dtype_that_is_read_is_written() -> None:
    assert {np.dtype(dtype) for dtype in DTYPES.values()} == set(WRITTEN)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.bool_, np.uint16]), hnp.array_shapes(max_dims=3, min_side=0)
        ),
        max_size=5,
    ),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
def test_any_names_and_metadata_come_back(tmp_path_factory: Any, tensors: Any, metadata: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "a.pt"
    weights_io.save(path, tensors, metadata)
    with weights_io.open(path) as opened:
        assert list(opened) == list(tensors)
        assert opened.metadata == metadata
        for name, array in tensors.items():
            assert (opened[name].dtype, opened[name].shape, opened[name].tobytes()) == (
                array.dtype,
                array.shape,
                array.tobytes(),
            )


def test_names_can_be_written_as_dictionaries_in_dictionaries(tmp_path: Path) -> None:
    items = pending({"module/a/b": np.ones(2), "module/c": np.zeros(3), "top": np.arange(2)})
    pytorch.save_items(tmp_path / "a.pt", items, {}, nested=True)
    opened = weights_io.open(tmp_path / "a.pt")
    assert list(opened) == ["module/a/b", "module/c", "top"]
    assert opened.metadata == {"module": {"a": {}}}
    for names in (["a", "a/b"], ["a/b", "a"]):
        with pytest.raises(weights_io.WeightsError, match="cannot be nested"):
            pytorch.save_items(tmp_path / "b.pt", pending({name: np.ones(1) for name in names}), {}, nested=True)
    deep = "/".join("a" * 5000)
    pytorch.save_items(tmp_path / "c.pt", pending({deep: np.ones(1)}), {}, nested=True)
    assert list(weights_io.open(tmp_path / "c.pt")) == [deep]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "b.bin"):
        weights_io.save(tmp_path / name, {"x": np.arange(3), "y": np.ones(2, np.float16)}, {"k": "v"})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_the_pickle_that_is_written_is_small_and_plain(tmp_path: Path) -> None:
    weights_io.save(tmp_path / "a.pt", {"x": np.ones((2, 3), np.float32)})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            f"archive/{name}" for name in ("data.pkl", "byteorder", "data/0", "version", ".data/serialization_id")
        ]
        assert archive.read("archive/data.pkl") == (
            b"\x80\x02ccollections\nOrderedDict\n)R(X\1\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
            b"X\1\0\0\x000X\3\0\0\0cpuK\6tQK\0(K\2K\3t(K\3K\1t\x89ccollections\nOrderedDict\n)RtRu."
        )


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["text"]),
        np.ones(2, np.longdouble),
        np.zeros(2, ml_dtypes.int4),
        np.array(["2020"], "M8[D]"),
    ],
)
def test_dtypes_that_torch_lacks_are_refused_before_writing(array: Any, tmp_path: Path) -> None:
    with pytest.raises(weights_io.UnsupportedError, match="dtype cannot be written"):
        weights_io.save(tmp_path / "a.pt", {"x": array})
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_is_not_text_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with _refused("pytorch.metadata"):
        weights_io.save(tmp_path / "a.pt", {"x": np.ones(1)}, {"a": 1})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_compared_with_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def spoil(descriptor: int) -> None:
        original(descriptor)
        (temporary,) = tmp_path.glob("*.part")
        content = temporary.read_bytes()
        temporary.write_bytes(content.replace(struct.pack("<d", 1.5), struct.pack("<d", 2.5)))

    monkeypatch.setattr(files.os, "fsync", spoil)
    with pytest.raises(weights_io.FormatError, match=r"checksum is wrong|does not read back"):
        weights_io.save(tmp_path / "a.pt", {"x": np.array([1.5])})
    assert list(tmp_path.iterdir()) == []
