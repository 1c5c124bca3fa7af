"""PyTorch files made to be misread or to cost much: nothing is said twice, nothing is dropped unsaid, and time and memory are bounded."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from malformed import build_pytorch_legacy as legacy
from malformed.build_pytorch import (
    FALSE,
    FLOATS,
    HOOKS,
    NONE,
    call,
    dictionary,
    file,
    listed,
    pickled,
    several,
    state,
    storage,
    symbol,
    tensor,
    text,
    whole,
    wholes,
)

import weights_io
from weights_io import zip_archive
from weights_io.limits import Limits
from weights_io.pickle_machine import Inert, Symbol, shown
from weights_io.pytorch_tree import Reference

if TYPE_CHECKING:
    from pathlib import Path

OTHER = struct.pack("<6f", *range(10, 16))
BOTH = {"0": FLOATS, "1": OTHER}
PLACE = several(storage("1"), whole(0), wholes(2, 3), wholes(3, 1))
TRUE = b"\x88"


def _open(path: Path, content: bytes, mode: str = "strict") -> weights_io.Checkpoint:
    where = path / "model.pt"
    where.write_bytes(content)
    return weights_io.open(where, mode=mode)


def _refused(rule: str) -> Any:
    return pytest.raises(weights_io.WeightsError, match=rf"\[{rule}\]")


def _deflated(pickle: bytes, **more: Any) -> bytes:
    return file(pickle, packed={"data.pkl": _packed(pickle)}, **more)


def _packed(raw: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(raw) + packer.flush()


def _numbers() -> bytes:
    """A NumPy array of six floats."""
    order = several(whole(3), text("<"), NONE, NONE, NONE, whole(-1), whole(-1), whole(0))
    dtype = call("numpy", "dtype", text("f4"), FALSE, TRUE) + order + b"b"
    made = call("numpy._core.multiarray", "_reconstruct", symbol("numpy", "ndarray"), wholes(0), b"C\1b")
    return made + several(whole(1), wholes(6), dtype, FALSE, b"C" + bytes([24]) + FLOATS) + b"b"


def _from_type(*pairs: tuple[bytes, bytes]) -> bytes:
    """A tensor with attributes."""
    args = several(storage(), whole(0), wholes(2, 3), wholes(3, 1), FALSE, HOOKS)
    parts = (symbol("torch._utils", "_rebuild_tensor_v2"), symbol("torch", "Tensor"), args, dictionary(*pairs))
    return call("torch._tensor", "_rebuild_from_type_v2", *parts)


# --- What a file says twice -------------------------------------------------------------------------------------------------

PARAMETER = call("torch._utils", "_rebuild_parameter", tensor(), FALSE, HOOKS)
DATA = (text("data"), tensor(storage("1")))
PLACED_TWICE = {
    "tensor": tensor() + PLACE + b"b",
    "parameter": PARAMETER + PLACE + b"b",
    "five": PARAMETER + several(tensor(storage("1")), NONE, HOOKS, FALSE, FALSE) + b"b",
    "five-of-none": symbol("torch", "FloatTensor") + b")R" + several(tensor(), NONE, HOOKS, FALSE, FALSE) + b"b",
    "one": symbol("torch", "FloatTensor") + b")R" + several(storage("1")) + b"b",
    "two": tensor() + several(storage("1"), whole(0)) + b"b",
    "twice": symbol("torch", "FloatTensor") + b")R" + PLACE + b"b" + PLACE + b"b",
    "data": call("torch._utils", "_rebuild_parameter_with_state", tensor(), FALSE, HOOKS, dictionary(DATA)),
    "data-of-type": _from_type(DATA),
    "data-in-slots": tensor() + several(NONE, dictionary(DATA)) + b"b",
    "real": tensor() + dictionary((text("real"), tensor(storage("1")))) + b"b",
}


@pytest.mark.parametrize("name", PLACED_TWICE)
def test_a_tensor_cannot_be_placed_a_second_time(tmp_path: Path, name: str) -> None:
    with _refused("pickle.build"):
        _open(tmp_path, file(state(("x", PLACED_TWICE[name])), storages=BOTH))


def test_what_old_versions_kept_about_gradients_changes_nothing(tmp_path: Path) -> None:
    opened = _open(tmp_path, file(state(("x", PARAMETER + several(TRUE, FALSE, HOOKS) + b"b"))))
    assert opened["x"].tobytes() == FLOATS


def test_a_parameter_of_an_empty_tensor_is_another_tensor(tmp_path: Path) -> None:
    empty = symbol("torch", "FloatTensor") + b")Rq\0"
    parameter = symbol("torch._utils", "_rebuild_parameter") + several(b"h\0", FALSE, HOOKS) + b"R" + PLACE + b"b"
    opened = _open(tmp_path, file(state(("a", empty), ("p", parameter)), storages=BOTH))
    assert (opened["a"].shape, opened["p"].tobytes()) == ((0,), OTHER)


def test_a_cast_leaves_the_array_as_it_was(tmp_path: Path) -> None:
    cast = several(b"h\0", symbol("torch", "bfloat16"), text("cpu"), FALSE)
    cast = symbol("torch._utils", "_rebuild_device_tensor_from_numpy") + cast + b"R"
    opened = _open(tmp_path, file(state(("a", _numbers() + b"q\0"), ("t", cast))))
    assert (opened["a"].dtype, opened["t"].dtype) == (np.float32, ml_dtypes.bfloat16)
    assert opened["a"].tobytes() == FLOATS


def test_a_counter_is_made_from_a_dictionary_only(tmp_path: Path) -> None:
    pairs = listed(several(text("a"), whole(1)), several(text("a"), whole(1)))
    with _refused("pickle.call"):
        _open(tmp_path, file(state(("x", call("collections", "Counter", pairs)), ("y", tensor()))))
    counted = call("collections", "Counter", dictionary((text("a"), whole(2))))
    assert _open(tmp_path, file(state(("x", counted), ("y", tensor())))).metadata == {"x": {"a": 2}}


def test_strings_of_python_2_are_text_where_they_are_utf_8(tmp_path: Path) -> None:
    accent = "é".encode()
    opened = _open(tmp_path, file(pickled(b"}U\2" + accent + tensor() + b"sU\1a" + b"U\1\xe9sU\1bU\2" + accent + b"s")))
    assert (list(opened), opened.metadata) == (["é"], {"a": b"\xe9", "b": "é"})
    with _refused("pytorch.names"):
        _open(
            tmp_path,
            file(pickled(b"}U\2" + accent + b"}" + text("x") + tensor() + b"ss" + text("é/x") + tensor() + b"s")),
        )


def test_the_bytes_of_an_array_of_python_2_may_be_utf_8(tmp_path: Path) -> None:
    raw = "éa".encode()
    made = call("numpy._core.multiarray", "_reconstruct", symbol("numpy", "ndarray"), wholes(0), b"U\1b")
    dtype = call("numpy", "dtype", text("u1"), FALSE, TRUE)
    opened = _open(tmp_path, file(state(("x", made + several(whole(1), wholes(3), dtype, FALSE, b"U\3" + raw) + b"b"))))
    assert opened["x"].tobytes() == raw


# --- Tensors without a storage, and odd strides -------------------------------------------------------------------------------


def test_the_class_of_all_tensors_is_one(tmp_path: Path) -> None:
    opened = _open(tmp_path, file(state(("x", symbol("torch", "Tensor") + b")R" + PLACE + b"b")), storages=BOTH))
    assert (opened["x"].shape, opened["x"].tobytes()) == ((2, 3), OTHER)
    with _refused("pytorch.rebuild"):
        _open(tmp_path, file(state(("x", call("torch", "Tensor", listed(whole(1)))))))


@pytest.mark.parametrize(("kind", "dtype"), [("Double", "f8"), ("Long", "i8"), ("Bool", "?"), ("", "f4")])
def test_a_tensor_without_a_storage_is_empty(tmp_path: Path, kind: str, dtype: str) -> None:
    empty = symbol("torch", f"{kind}Tensor") + b")R"
    for content in (file(state(("x", tensor()), ("y", empty))), legacy.file(state(("x", legacy.X), ("y", empty)))):
        opened = _open(tmp_path, content)
        assert (opened["y"].shape, opened["y"].dtype) == ((0,), np.dtype(dtype))
        assert opened.info("y").nbytes == 0


def test_the_step_of_an_axis_of_one_is_nothing(tmp_path: Path) -> None:
    place = storage(), whole(0), wholes(1, 2, 3), wholes(2**62, 1, 2)
    opened = _open(tmp_path, file(state(("x", tensor(*place)))))
    assert opened["x"].tolist() == [[[1, 3, 5], [-2, -4, -6]]]


# --- Time -------------------------------------------------------------------------------------------------------------------


def _deep(count: int) -> bytes:
    return b"}" + (text("k") + b"}") * count + b"s" * count


def _doubling(count: int, begin: int) -> bytes:
    """A dictionary of two that are the same one, and so on: 2**count paths."""
    content = b"}q" + bytes([begin]) + b"0"
    for index in range(begin, begin + count):
        here = b"h" + bytes([index])
        content += b"}(" + text("a") + here + text("b") + here + b"uq" + bytes([index + 1]) + b"0"
    return content + b"h" + bytes([begin + count])


@pytest.mark.parametrize("build", [lambda _: _deep(3000), lambda begin: _doubling(60, begin)], ids=["deep", "doubling"])
def test_showing_a_placeholder_compares_nothing(tmp_path: Path, build: Any) -> None:
    made = symbol("a", "b") + b")" + build(0) + b"\x92" + build(100) + b"b"
    with _refused("pytorch.persistent"):
        _open(tmp_path, file(pickled(made + b"Q")))


def test_opcodes_are_counted_by_the_size_of_the_file(tmp_path: Path) -> None:
    content = _deflated(pickled(b"N0" * 70_000 + state(("x", tensor()))[2:-1]))
    with _refused("pickle.opcodes"):
        _open(tmp_path, content)


def test_calls_are_counted(tmp_path: Path) -> None:
    args = several(_numbers(), symbol("torch", "bfloat16"), text("cpu"), FALSE)
    pre = args + b"q\0" + symbol("torch._utils", "_rebuild_device_tensor_from_numpy") + b"q\1"
    where = tmp_path / "model.pt"
    where.write_bytes(file(pickled(b"](" + pre + b"h\1h\0R" * 3_000 + b"e" + b"0" + tensor())))
    with _refused("budget.heap"):
        weights_io.open(where, limits=Limits(objects=900_000))


def _keys(keys: list[int], one: bytes = NONE) -> bytes:
    return pickled(b"}(" + b"".join(whole(key) + one for key in keys) + text("x") + tensor() + b"u")


def test_keys_that_a_file_can_choose_are_few(tmp_path: Path) -> None:
    spread = [(index * 0x9E3779B97F4A7C15) % 2**62 for index in range(1, 15_000)]
    with _refused("pickle.key"):
        _open(tmp_path, file(_keys(spread)))
    with _refused("pickle.key"):
        _open(tmp_path, file(_keys(sorted(spread))))
    floats = b"".join(b"G" + struct.pack(">d", key) + NONE for key in spread)
    with _refused("pickle.key"):
        _open(tmp_path, file(pickled(b"}(" + floats + text("x") + tensor() + b"u")))
    assert len(_open(tmp_path, file(_keys(spread[:5_000]))).metadata) == 5_000
    assert len(_open(tmp_path, file(_keys(list(range(20_000))))).metadata) == 20_000


def test_places_in_the_memo_that_a_file_can_choose_are_few(tmp_path: Path) -> None:
    puts = b"".join(b"r" + struct.pack("<I", index * 0x9E3779B1 % 2**32) for index in range(1, 3000))
    with _refused("pickle.memo"):
        _open(tmp_path, file(pickled(tensor() + puts)))
    puts = b"".join(b"r" + struct.pack("<I", index) for index in range(1, 3000))
    assert list(_open(tmp_path, file(pickled(tensor() + puts)))) == ["tensor"]


def test_a_deflated_storage_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bulk, unpacked = bytes(5_000_000), []
    place = storage(kind="ByteStorage", count=len(bulk)) + b"q\0"
    parts = [(str(i), tensor(b"h\0" if i else place, whole(i), wholes(1), wholes(1))) for i in range(20)]
    opened = _open(tmp_path, file(state(*parts), storages={"0": bulk}, packed={"data/0": _packed(bulk)}))
    original = zip_archive.Archive.array

    def array(self: Any, name: str) -> Any:
        unpacked.append(name)
        return original(self, name)

    monkeypatch.setattr(zip_archive.Archive, "array", array)
    held = [opened[name] for name in opened]
    assert unpacked == ["model/data/0"]
    assert all(array.base is None or array.base.nbytes < 100 for array in held)
    assert not any(array.flags.writeable for array in held)


# --- Memory -----------------------------------------------------------------------------------------------------------------


def _peak(run: Any) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_texts_that_are_the_bytes_of_arrays_are_counted(tmp_path: Path) -> None:
    long, count = 100_000, 1500
    made = call("numpy._core.multiarray", "_reconstruct", symbol("numpy", "ndarray"), wholes(0), b"C\1b")
    pre = text("A" * long) + b"q\0" + call("numpy", "dtype", text("u1"), FALSE, TRUE) + b"q\1"
    filled = several(whole(1), wholes(long), b"h\1", FALSE, b"h\0")
    content = file(pickled(b"](" + pre + (made + filled + b"b") * count + b"e"))

    def run() -> None:
        with _refused("budget.heap"):
            _open(tmp_path, content)

    assert _peak(run) < 4 * len(content) + 32_000_000


def test_long_keys_are_counted_before_they_are_named(tmp_path: Path) -> None:
    key = text("\0" * 250_000 + "\U0001f600") + b"q\0" + b"h\0" * 13 + whole(1)
    content = file(pickled(b"}" + several(key) + b"}" + text("x") + tensor() + b"ss"))
    opened: list[Any] = []
    assert _peak(lambda: opened.append(_open(tmp_path, content))) < 4 * len(content) + 32_000_000
    assert list(opened[0]) == ["#0/x"]
    short = file(pickled(b"}" + several(text("a"), whole(1)) + tensor() + b"s"))
    assert list(_open(tmp_path, short)) == ["('a', 1)"]


@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize("pad", range(4))
def test_what_is_misaligned_and_changed_is_copied_once(tmp_path: Path, pad: int, stride: int) -> None:
    values = np.arange(50_000) + 1j
    count = 2_000_000 if stride == 0 else len(values)
    place = legacy.storage(kind="ComplexDoubleStorage", count=len(values))
    conj = dictionary((text("conj"), TRUE))
    x = call("torch._utils", "_rebuild_tensor_v2", place, whole(0), wholes(count), wholes(stride), FALSE, HOOKS, conj)
    content = legacy.file(state(("x", x), ("p" * (pad + 1), NONE)), end=legacy.elements(len(values), values.tobytes()))
    opened = _open(tmp_path, content)
    assert _peak(lambda: opened["x"]) < 16 * count + 1_000_000
    assert opened["x"][:3].tolist() == ([-1j] * 3 if stride == 0 else [-1j, 1 - 1j, 2 - 1j])


# --- Nothing vanishes ---------------------------------------------------------------------------------------------------------


def test_a_root_tensor_keeps_its_attributes(tmp_path: Path) -> None:
    root = _from_type((text("scale"), tensor(storage("1"))), (text("note"), text("hello")))
    opened = _open(tmp_path, file(pickled(root), storages=BOTH))
    assert sorted(opened) == ["tensor", "tensor/scale"]
    assert opened.metadata == {"tensor": {"note": "hello"}}
    assert opened["tensor/scale"].tobytes() == OTHER


def test_tensors_in_a_placeholder_that_was_called_are_listed(tmp_path: Path) -> None:
    opened = _open(tmp_path, file(state(("x", call("a", "b", tensor()) + b")R"))))
    assert list(opened) == ["x/function/args/0"]
    called = opened.metadata["x"]
    assert isinstance(called, Inert)
    assert isinstance(called.function, Inert)
    assert called.function.function == Symbol("a", "b")
    assert "x/function/args/0" in shown(called)


def test_a_tensor_that_is_a_state_keeps_its_attributes(tmp_path: Path) -> None:
    held = _from_type((text("note"), text("hello")))
    opened = _open(tmp_path, file(state(("x", call("a", "b") + held + b"b"))))
    assert list(opened) == ["x/state"]
    assert opened.metadata["x"].state == {"note": "hello"}


@pytest.mark.parametrize("more", [dictionary((text("note"), tensor())) + b"b", b"(" + tensor() + b"e"])
def test_an_array_hides_nothing(tmp_path: Path, more: bytes) -> None:
    with _refused("pickle.build"):
        _open(tmp_path, file(state(("x", _numbers() + more))))


def test_a_file_within_the_file_is_refused(tmp_path: Path) -> None:
    content = file(state(("x", call("torch.storage", "_load_from_bytes", b"C\3abc")), ("y", tensor())))
    with pytest.raises(weights_io.UnsupportedError, match=r"\[pytorch.rebuild\]"):
        _open(tmp_path, content)


def _attributes(*pairs: tuple[bytes, bytes]) -> bytes:
    return dictionary(*pairs) + b"b"


def test_an_attribute_with_the_key_of_an_item_is_kept_beside_it(tmp_path: Path) -> None:
    root = HOOKS + text("w") + tensor() + b"s" + text("note") + text("item") + b"s"
    root += _attributes((text("note"), text("attribute")), (text("other"), text("more")))
    opened = _open(tmp_path, file(pickled(root)))
    assert opened.metadata == {"note": "item", "note (2)": "attribute", "other": "more"}


def test_attributes_of_two_dictionaries_are_kept_in_both(tmp_path: Path) -> None:
    weights = HOOKS + text("w") + tensor() + b"s"
    shared = dictionary((text("_metadata"), listed(whole(1), b"}", b"}"))) + b"q\0"
    opened = _open(tmp_path, file(state(("a", weights + shared + b"b"), ("b", weights + b"h\0b"))))
    assert opened.metadata["a"] == {"_metadata": [1, {}, {}]}
    reference = opened.metadata["b"]["attributes"]
    assert isinstance(reference, Reference)
    assert reference.name == "a"


def test_a_symbol_is_no_tuple(tmp_path: Path) -> None:
    root = b"}" + symbol("a", "b") + whole(1) + b"s" + several(text("a"), text("b")) + whole(2) + b"s"
    opened = _open(tmp_path, file(pickled(root + text("x") + tensor() + b"s")))
    assert sorted(opened.metadata.values()) == [1, 2]
    assert opened.metadata[Symbol("a", "b")] == 1
    assert opened.metadata["a", "b"] == 2
    assert Symbol("a", "b") != Symbol("a", "c")


def test_what_the_pickle_says_is_not_replaced(tmp_path: Path) -> None:
    records = {"version": b"3\n", ".weights_io.json": b'{"metadata": {"a": "text", "unreferenced records": "mine"}}'}
    root = state(("x", tensor()), ("unreferenced records", text("pickle")), ("a", text("pickle")))
    opened = _open(tmp_path, file(root, storages={"0": FLOATS, "7": b"abcd"}, records=records))
    assert opened.metadata == {
        "unreferenced records": "pickle",
        "a": "pickle",
        "a (2)": "text",
        "unreferenced records (2)": "mine",
        "unreferenced records (2) (2)": ["7"],
    }


def test_hostile_files_open_in_time(tmp_path: Path) -> None:
    begin = time.process_time()
    with _refused("pickle.key"):
        _open(tmp_path, file(_keys([index << 17 for index in range(15_000)])))
    assert time.process_time() - begin < 3
