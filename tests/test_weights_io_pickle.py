"""The pickle machine: what Python writes comes back without Python's unpickler; nothing is imported or called; every budget holds."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import enum
import math
import pathlib
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import weights_io
from weights_io import pickle_machine
from weights_io.limits import DEFAULT
from weights_io.pickle_machine import OPCODES, REFUSED, SYMBOLS, Inert, Items, Machine, Symbol, shown
from weights_io.pytorch_tensors import TORCH, Array
from weights_io.pytorch_tree import Reference, walk

PROTOCOLS = [2, 3, 4, 5]
SIZE = 100_000


def _machine(data: bytes, size: int = SIZE, symbols: Any = SYMBOLS) -> Machine:
    return Machine(data, Path("x.pkl"), 0, DEFAULT, size, symbols, lambda _, identity: identity)


def _read(data: bytes, size: int = SIZE, symbols: Any = SYMBOLS) -> Any:
    return _machine(data, size, symbols).run()


def _refused(rule: str, *words: str) -> Any:
    return pytest.raises(weights_io.WeightsError, match="(?s)" + ".*".join(map(re.escape, (*words, f"[{rule}]"))))


def _same(left: Any, right: Any) -> bool:
    """Equal, of the same types, NaN equal to NaN and -0.0 not to 0.0."""
    if isinstance(left, Items):
        left = dict(left)
        right = dict(right)
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, complex):
        return _same(left.real, right.real) and _same(left.imag, right.imag)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return _same(list(left), list(right)) and _same(list(left.values()), list(right.values()))
    return bool(left == right)


# --- What Python writes -----------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.integers(2**2000, 2**2100)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=8)
    | st.binary(max_size=8).map(bytearray)
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
    | st.builds(slice, st.none() | st.integers(), st.integers())
)
keys = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=3)
)
keys |= st.tuples(keys, keys)
values = st.recursive(
    scalars | st.sets(keys, max_size=4) | st.frozensets(keys, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(keys, inner, max_size=3).map(lambda pairs: collections.defaultdict(list, pairs))
    ),
    max_leaves=20,
)


@given(values, st.sampled_from(PROTOCOLS), st.booleans())
def test_plain_values_come_back(value: Any, protocol: int, optimised: bool) -> None:
    data = pickle.dumps(value, protocol)
    data = pickletools.optimize(data) if optimised else data
    machine = _machine(data + b"something behind it")
    assert _same(machine.run(), value)
    assert machine.position == len(data)


@given(st.lists(st.integers(0, 9), max_size=30), st.sampled_from(PROTOCOLS))
def test_sharing_and_cycles_come_back(order: list[int], protocol: int) -> None:
    """Ten lists that hold each other as `order` says, in a tuple and within themselves."""
    lists: list[Any] = [[] for _ in range(10)]
    for index, other in enumerate(order):
        lists[index % 10].append(lists[other])
    found = _read(pickle.dumps(tuple(lists), protocol))
    numbers = {id(item): index for index, item in enumerate(found)}
    assert [[numbers[id(item)] for item in part] for part in found] == [
        [other for index, other in enumerate(order) if index % 10 == number] for number in range(10)
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_and_wide_values_come_back(protocol: int) -> None:
    """Batches of more than 1000, memo indices of four bytes, texts of every length class, integers of every opcode."""
    value = [
        list(range(2500)), dict.fromkeys(range(1100)), [f"name {i}" for i in range(400)] * 2, "é" * 300, "\U0001f600" * 80, b"a" * 300,
        [2**bits + change for bits in (7, 8, 15, 16, 31, 32, 63, 64, 1000, 2100) for change in (-1, 0, 1)],
        [-(2**bits) for bits in (7, 8, 15, 16, 31, 32, 63, 64, 1000, 2100)], set(range(3000)), {"half": "\ud800"},
    ]  # fmt: skip
    assert _same(_read(pickle.dumps(value, protocol), 10**6), value)


def test_a_tuple_that_holds_itself_comes_back() -> None:
    """The pickler takes what it began back with POP and gets the tuple from the memo."""
    inner: list[Any] = []
    value = (inner, 1)
    inner.append(value)
    for protocol in PROTOCOLS:
        found = _read(pickle.dumps(value, protocol))
        assert found[0][0] is found


class Colour(enum.Enum):
    RED = "r"


class Pair(NamedTuple):
    first: int
    second: str


class Slotted:
    __slots__ = ("left", "right")


class Sub(list):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_else_becomes_a_placeholder(protocol: int) -> None:
    slotted, sub = Slotted(), Sub([1, 2])
    slotted.left, sub.note = 1, "n"  # type: ignore[attr-defined]
    objects = [
        argparse.Namespace(lr=0.5, name="x"),
        Colour.RED,
        Pair(1, "b"),
        slotted,
        sub,
        pathlib.PurePosixPath("a/b"),
        datetime.timedelta(1),
        len,
    ]
    found = _read(pickle.dumps(objects, protocol))
    assert [str(node).replace(__name__, "m") for node in found] == [
        "argparse.Namespace(lr=0.5, name='x')", "m.Colour('r')", "m.Pair(1, 'b')", "m.Slotted(left=1)", "m.Sub(note='n', [1, 2])",
        "pathlib.PurePosixPath('a', 'b')", "datetime.timedelta(1, 0, 0)", "builtins.len",
    ]  # fmt: skip
    assert found[0].state == {"lr": 0.5, "name": "x"}
    assert isinstance(found[-1], Symbol)


def test_instances_of_old_protocols_are_placeholders_too() -> None:
    data = b"\x80\x02" + b"ccopy_reg\n_reconstructor\n(cmy.code\nThing\nc__builtin__\nobject\nNtR}U\x01aK\x01sb."
    assert str(_read(data)) == "my.code.Thing(a=1)"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(
    array=hnp.arrays(
        hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufc" and dtype.itemsize <= 16),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_numpy_arrays_and_scalars_come_back(protocol: int, array: Any) -> None:
    if array.dtype.char in "gG":
        return  # long double has no meaning on another machine
    for layout in (array, np.asfortranarray(array), array[..., ::2] if array.ndim else array):
        found = _read(pickle.dumps(layout, protocol), symbols=TORCH)
        assert isinstance(found, Array)
        assert found.array.tobytes() == layout.tobytes()
        assert (found.array.shape, found.array.dtype) == (layout.shape, layout.dtype)
    for scalar in array.reshape(-1)[:2]:
        found = _read(pickle.dumps(scalar, protocol), symbols=TORCH)
        assert (
            np.array(found, array.dtype.newbyteorder("=")).tobytes()
            == np.array(scalar, array.dtype.newbyteorder("=")).tobytes()
            or scalar != scalar
        )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_arrays_of_ml_dtypes_come_back(dtype: Any, protocol: int) -> None:
    found = _read(pickle.dumps(np.arange(4).astype(dtype), protocol), symbols=TORCH)
    assert found.array.dtype == dtype
    assert found.array.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([None]),
        np.array([(1, 2.0)], "i4,f8"),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1], "g"),
    ],
)
def test_other_arrays_are_placeholders(array: Any) -> None:
    found = _read(pickle.dumps(array, 2), symbols=TORCH)
    assert found.array is None
    assert "numpy.dtype" in str(found)


# --- The tables -------------------------------------------------------------------------------------------------------------


def test_every_opcode_of_python_is_read_or_refused_by_its_name() -> None:
    known = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    ours = {code: opcode.name for code, opcode in OPCODES.items()} | {pickle_machine.STOP: "STOP"}
    assert not set(ours) & set(REFUSED)
    assert ours | REFUSED == known


def test_every_opcode_that_torch_takes_is_read() -> None:
    taken = "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE"
    taken += " GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWOBJ NEWTRUE NONE REDUCE SETITEM SETITEMS SHORT_BINSTRING TUPLE"
    taken += " TUPLE1 TUPLE2 TUPLE3"
    assert set(taken.split()) <= {opcode.name for opcode in OPCODES.values()}


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_an_opcode_that_is_not_read_is_named(code: int) -> None:
    with pytest.raises(
        weights_io.UnsupportedError, match=rf"not read \[pickle.opcode\](?s:.*)byte 2(?s:.*){REFUSED[code]}"
    ):
        _read(b"\x80\x02" + bytes([code]) + b"\n\n\n\n.")


def test_the_closed_table_is_what_it_is() -> None:
    """Nothing in it calls anything but code of this package: the list is short enough to be read."""
    assert {str(symbol) for symbol in SYMBOLS} == {
        "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.set", "builtins.frozenset", "builtins.range",
        "builtins.slice", "builtins.complex", "builtins.bytearray", "builtins.bytes", "_codecs.encode", "copyreg.__newobj__", "copyreg.__newobj_ex__",
        "copyreg._reconstructor",
    }  # fmt: skip
    assert all(known.run.__module__.startswith("weights_io.") for known in TORCH.values())


# --- Nothing happens --------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit(1)",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_is_a_name_and_its_arguments(protocol: int) -> None:
    found = _read(pickle.dumps({"a": Evil(), "b": 1}, protocol))
    assert str(found["a"]) == "builtins.exec('raise SystemExit(1)')"
    assert isinstance(found["a"].function, Symbol)


READER = """
import sys
from weights_io.limits import DEFAULT
from weights_io.pickle_machine import SYMBOLS, Machine
before = set(sys.modules)
machine = Machine(bytes.fromhex(sys.argv[1]), "x.pkl", 0, DEFAULT, 1000, SYMBOLS, lambda _, identity: identity)
print(machine.run(), *(set(sys.modules) - before))
"""


@pytest.mark.parametrize("module", ["antigravity", "this", "torch", "my.own.module"])
def test_no_module_is_imported(module: str) -> None:
    stack_global = b"\x8c" + bytes([len(module)]) + module.encode() + b"\x8c\1f\x93"
    for name in (b"c" + module.encode() + b"\nf\n", stack_global):
        stream = b"\x80\x04" + name + b")R."
        child = subprocess.run([sys.executable, "-c", READER, stream.hex()], capture_output=True, text=True, check=True)
        assert child.stdout == f"{module}.f()\n"


def test_a_class_with_hooks_is_not_asked() -> None:
    """What copyreg knows of a class is Python's affair, not the machine's."""
    copyreg.pickle(Slotted, lambda _: (Evil, ()))
    try:
        assert str(_read(pickle.dumps(Slotted(), 2))) == f"{__name__}.Evil()"
    finally:
        del copyreg.dispatch_table[Slotted]


def test_a_symbol_that_is_only_nearly_known_is_not_known() -> None:
    for module, name in (
        ("collections.evil", "OrderedDict"),
        ("collections", "OrderedDict.x"),
        ("Collections", "OrderedDict"),
    ):
        assert isinstance(_read(b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."), Inert)


# --- Messages ---------------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_file_the_byte_and_the_rule() -> None:
    with pytest.raises(weights_io.FormatError) as caught:
        Machine(b"....\x80\x02NK", Path("some.pt"), 1000, DEFAULT, SIZE, SYMBOLS, lambda *_: None, position=4).run()
    assert (caught.value.rule, caught.value.offset) == ("pickle.truncated", 1007)
    with pytest.raises(weights_io.FormatError) as caught:
        Machine(b"\x80\x02N\x86.", Path("some.pt"), 1000, DEFAULT, SIZE, SYMBOLS, lambda *_: None).run()
    assert (caught.value.rule, caught.value.offset) == ("pickle.stack", 1003)
    assert "some.pt, byte 1003" in str(caught.value)


@given(
    st.recursive(
        st.text() | st.integers() | st.binary(),
        lambda inner: st.lists(inner) | st.builds(lambda a: Inert(Symbol("a", "b"), (a,), state={"k": a}), inner),
    )
)
def test_what_is_shown_of_a_value_is_bounded(value: Any) -> None:
    assert len(shown(value)) <= pickle_machine.SHOWN + 3


def test_what_is_shown_of_shared_deep_and_cyclic_values_is_bounded() -> None:
    node: Any = Inert(Symbol("a", "b"), (1,))
    for _ in range(2000):
        node = Inert(Symbol("a", "b"), (node, node), state={"x": node})
    cycle: list[Any] = []
    cycle.extend([cycle, node, {"k": cycle}])
    assert len(repr(node)) + len(shown(cycle)) < 1000


# --- Budgets ----------------------------------------------------------------------------------------------------------------


def _peak(data: bytes, size: int) -> int:
    tracemalloc.start()
    try:
        machine = _machine(data, size, TORCH)
        base = tracemalloc.get_traced_memory()[0]
        with suppress(weights_io.WeightsError):
            walk(machine, machine.run())
        return tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()


UNITS = {
    "none": b"N", "list": b"]", "dict": b"}", "set": b"\x8f", "float": b"G\x3f\xf1\1\1\1\1\1\1", "int": b"M\xff\xfe", "text": b"\x8c\1z",
    "long": b"\x8a\x08\1\2\3\4\5\6\7\x08", "tuple": b"N\x85", "memo": b"]\x94", "inert": b"ca\nb\n)R", "bytes": b"C\1a", "nested": b"](Ne",
    "frozenset": b"(N\x91", "item": b"}NNs", "marks": b"((t", "bytearray": b"\x96\1\0\0\0\0\0\0\0a", "wide": b"\x8c\x0aaaaaaa\xf0\x9f\x98\x80",
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_many_of_anything_stay_within_the_budget(unit: str) -> None:
    data = b"\x80\x04](" + UNITS[unit] * (150_000 // len(UNITS[unit])) + b"e."
    assert _peak(data, len(data)) < 4 * len(data) + (32 << 20)


@pytest.mark.parametrize(
    "data",
    [
        b"\x8e" + struct.pack("<Q", 2**62), b"\x96" + struct.pack("<Q", 2**62), b"\x8d" + struct.pack("<Q", 2**62), b"B\xff\xff\xff\xff",
        b"X\xff\xff\xff\xff", b"T\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x95" + struct.pack("<Q", 2**63), b"Nr\xff\xff\xff\xff0(((((((((",
    ],
)  # fmt: skip
def test_what_is_announced_and_not_there_costs_nothing(data: bytes) -> None:
    assert _peak(b"\x80\x04" + data + b"abc", 100) < 1 << 20


def _bomb(levels: int) -> bytes:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return pickle.dumps(value, 2)


def test_a_structure_of_2_to_the_200_leaves_is_a_small_tree() -> None:
    machine = _machine(_bomb(200), 1000)
    tensors, metadata = walk(machine, machine.run())
    assert tensors == {}
    node, depth = metadata["root"], 0
    while node and isinstance(node[1], Reference):
        node, depth = node[0], depth + 1
    assert depth == 199  # the innermost pair holds two small lists, which are repeated


def test_keys_that_collide_are_few() -> None:
    """Integers of more than 64 bits, and tuples of numbers, have hashes that a file can choose."""
    keys = [b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") for i in range(8000)]
    for weak in (keys[10:], [b"K" + bytes([i % 256]) + b"M" + struct.pack("<H", i) + b"\x86" for i in range(8000)]):
        with _refused("pickle.key"):
            _read(b"\x80\x02}(" + b"N".join(weak) + b"Nu.")
    assert len(_read(pickle.dumps(dict.fromkeys((f"{i}", "b") for i in range(8000)), 2))) == 8000


def test_depth_costs_no_recursion() -> None:
    data = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    machine = _machine(data, len(data))
    root = machine.run()
    with _refused("pytorch.depth", "too deep"):
        walk(machine, root)


@given(st.binary(max_size=60), st.sampled_from(PROTOCOLS))
def test_random_bytes_are_read_or_refused(data: bytes, protocol: int) -> None:
    try:
        machine = _machine(b"\x80" + bytes([protocol]) + data, symbols=TORCH)
        walk(machine, machine.run())
    except weights_io.WeightsError as error:
        assert error.rule in weights_io.rules()


@given(
    values,
    st.sampled_from(PROTOCOLS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_mutated_pickles_are_read_or_refused(value: Any, protocol: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(pickle.dumps(value, protocol))
    for place, byte in changes:
        data[place % len(data)] = byte
    try:
        machine = _machine(bytes(data), symbols=TORCH)
        walk(machine, machine.run())
    except weights_io.WeightsError as error:
        assert error.rule in weights_io.rules()
