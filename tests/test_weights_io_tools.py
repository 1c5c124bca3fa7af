"""Looking into checkpoints, comparing them, converting them: what is counted, what differs, what is refused, what a kill leaves behind."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import weights_io
from weights_io.conversion import DTYPES, as_dtype, convert
from weights_io.inspection import Statistics, statistics, tree
from weights_io.verification import Difference, verify
from weights_io.writing import new_folder

ROOT = Path(__file__).parent.parent
TINY = ROOT / "validation" / "recorded" / "gpt2_tiny" / "model"


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def _checkpoint(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> weights_io.Checkpoint:
    weights_io.save(path, tensors, metadata)
    return weights_io.open(path)


# --- statistics -------------------------------------------------------------------------------------------------------------

finite = st.floats(-(2.0**40), 2.0**40, width=64)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=finite), st.integers(0, 40))
def test_statistics_are_those_of_the_whole_however_it_is_cut(values: Any, cut: int) -> None:
    """(n/(n+m)) weighting and the correction term are exact identities; what remains is rounding.

    The sums of n <= 40 values in float64 are wrong by at most n u max|x| (mean) and 2 n u max|x|^2 in the square root's argument, hence
    sqrt(2 n u) max|x| for a deviation that is 0 and less for every other: the bounds below, for two such computations.
    """
    joined = statistics(values[: cut % values.size]) + statistics(values[cut % values.size :])
    whole = statistics(values)
    size, unit = float(np.abs(values).max()), 2.0**-53
    assert joined[:5] == whole[:5] == (values.size, 0, int((values == 0).sum()), values.min(), values.max())
    exact = math.fsum(values) / values.size
    assert abs(whole.mean - exact) <= 40 * unit * size
    assert abs(joined.mean - exact) <= 80 * unit * size
    with np.errstate(under="ignore"):
        assume(size == 0 or size > 1e-150)  # below, the squares of numpy.std vanish; ours do not, see the next test
        assert abs(joined.deviation - np.std(values)) <= math.sqrt(4 * 40 * unit) * size


def test_statistics_of_what_is_not_finite() -> None:
    found = statistics(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 2.0], np.float32))
    assert found == Statistics(6, 3, 2, 0.0, 2.0, 2 / 3, pytest.approx(math.sqrt(8) / 3))
    assert statistics(np.full(3, np.nan)) == Statistics(3, 3, 0, None, None, None, None)
    assert statistics(np.ones((0, 3))) == Statistics(0, 0, 0, None, None, None, None)
    assert statistics(np.ones(0)) + statistics(np.ones(2)) == Statistics(2, 0, 0, 1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.uint64, np.bool_, np.float16]
)
def test_statistics_of_every_kind_of_dtype(dtype: Any) -> None:
    found = statistics(np.array([[0, 1], [1, 1]], dtype))
    assert found == Statistics(4, 0, 1, 0.0, 1.0, 0.75, pytest.approx(math.sqrt(3) / 4))


def test_statistics_see_both_parts_of_complex_values_and_every_memory_layout() -> None:
    assert statistics(np.array([1 + 2j, complex(0, np.inf)])) == Statistics(
        4, 1, 1, 0.0, 2.0, 1.0, pytest.approx(math.sqrt(2 / 3))
    )
    array = np.arange(12.0).reshape(3, 4)
    assert statistics(array.T) == statistics(array) == statistics(np.asfortranarray(array))
    assert statistics(array[:, ::2]).maximum == 10.0


def test_statistics_cross_block_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    from weights_io import inspection

    values = np.random.default_rng(0).normal(3, 2, 1000)
    whole = statistics(values)
    monkeypatch.setattr(inspection, "BLOCK", 7)
    cut = statistics(values)
    assert cut[:5] == whole[:5]
    assert cut.mean == pytest.approx(whole.mean, rel=1e-13)  # 1000 u = 1.1e-13
    assert cut.deviation == pytest.approx(whole.deviation, rel=1e-13)


# --- the tree ---------------------------------------------------------------------------------------------------------------


def _labels(nodes: Any) -> list[Any]:
    return [
        (node.label, node.alike, _labels(node.children)) if node.children else (node.label, node.alike)
        for node in nodes
    ]


def test_layers_that_are_alike_are_one(tmp_path: Path) -> None:
    tensors = {f"h.{i}.w": np.ones(2) for i in range(4)} | {
        "h.4.w": np.ones(3),
        "h.5.w": np.ones(3),
        "a/b": np.ones(1),
        "h.x": np.ones(1),
    }
    path = tmp_path / "a.safetensors"
    assert _labels(tree(_checkpoint(path, tensors))) == [
        ("a/", 1, [("b", 1)]),
        ("h.", 1, [("0. ... 3.", 4, [("w", 1)]), ("4. ... 5.", 2, [("w", 1)]), ("x", 1)]),
    ]
    (_, layers) = tree(weights_io.open(path), fold=False)
    assert [node.label for node in layers.children] == ["0.", "1.", "2.", "3.", "4.", "5.", "x"]


@given(st.lists(st.text("ab./0", max_size=6), unique=True, max_size=8))
def test_every_tensor_is_in_the_tree_once(tmp_path_factory: Any, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("tree") / "a.safetensors"
    found = tree(_checkpoint(path, {name: np.ones(1) for name in names}), fold=False)

    def tensors(nodes: Any) -> list[str]:
        own = [node.tensor.name for node in nodes if node.tensor]
        return own + [name for node in nodes for name in tensors(node.children)]

    assert sorted(tensors(found)) == sorted(names)


# --- verify -----------------------------------------------------------------------------------------------------------------


def _differences(a: Any, b: Any, tmp_path: Path, **tolerance: Any) -> list[Difference]:
    return verify(_checkpoint(tmp_path / "a.safetensors", a), _checkpoint(tmp_path / "b.safetensors", b), **tolerance)


def test_every_kind_of_difference_is_found(tmp_path: Path) -> None:
    a = {"same": np.ones(3), "shape": np.ones(3), "dtype": np.ones(2), "values": np.arange(4.0), "mine": np.ones(1)}
    b = {
        "same": np.ones(3),
        "shape": np.ones((3, 1)),
        "dtype": np.ones(2, np.float32),
        "values": np.array([0, 1, 5, 7.0]),
        "yours": np.ones(2),
    }
    found = {each.name: each for each in _differences(a, b, tmp_path)}
    assert {name: each.kind for name, each in found.items()} == {
        "mine": "only in A",
        "yours": "only in B",
        "shape": "shape",
        "dtype": "dtype",
        "values": "values",
    }
    assert found["values"].detail == "2 of 4 differ, the first at flat index 2: 2.0 and 5.0"
    assert found["shape"].detail == "[3] and [3, 1]"
    assert found["dtype"].detail == "float64 and float32"
    assert found["yours"].detail == "float64 [2]"


def test_bit_for_bit_means_the_bits(tmp_path: Path) -> None:
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert not _differences({"x": np.array([quiet])}, {"x": np.array([quiet])}, tmp_path)
    assert _differences({"x": np.array([quiet])}, {"x": np.array([other])}, tmp_path)
    assert _differences({"x": np.array([0.0])}, {"x": np.array([-0.0])}, tmp_path)
    assert not _differences({"x": np.array([0.0])}, {"x": np.array([-0.0])}, tmp_path, atol=0.0)


@pytest.mark.parametrize(
    ("x", "y", "tolerance", "same"),
    [
        (1.0, 1.5, {"atol": 0.5}, True),
        (1.0, 1.5, {"atol": 0.49}, False),
        (3.0, 2.0, {"rtol": 0.5}, True),
        (2.0, 3.0, {"rtol": 0.33}, False),
        (2.0, 3.0, {"rtol": 0.1, "atol": 0.7}, True),
        (np.nan, np.nan, {"atol": 0.0}, True),
        (np.nan, 1.0, {"atol": 1e300}, False),
        (1.0, np.nan, {"atol": 1e300}, False),
        (np.inf, np.inf, {"atol": 0.0}, True),
        (np.inf, -np.inf, {"atol": 1e300}, False),
        (1.0, np.inf, {"rtol": 1.0}, False),
        (np.inf, 1.0, {"rtol": 1.0}, False),
        (np.inf, 1.7e308, {"rtol": 2.0}, False),
        (-1.7e308, 1.7e308, {"rtol": 1.5}, False),
        (-1.7e308, 1.7e308, {"rtol": 2.0}, True),
        (5e-324, 0.0, {"atol": 0.0}, False),
        (5e-324, 0.0, {"atol": 5e-324}, True),
    ],
)
def test_tolerances(x: float, y: float, tolerance: Any, same: bool, tmp_path: Path) -> None:
    found = _differences({"x": np.array([0.0, x])}, {"x": np.array([0.0, y])}, tmp_path, **tolerance)
    assert (found == []) is same


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.int64(2**53), np.int64(2**53 + 1)),
        (np.uint64(2**64 - 1), np.uint64(2**64 - 2)),
        (np.int64(-1), np.uint64(2**64 - 1)),
        (np.int64(2**63 - 1), np.uint64(2**63)),
    ],
)
def test_integers_are_told_apart_however_large(x: Any, y: Any, tmp_path: Path) -> None:
    assert _differences({"x": np.array([x])}, {"x": np.array([y])}, tmp_path, atol=0.0)
    assert _differences({"x": np.array([x])}, {"x": np.array([y])}, tmp_path, atol=0.5)
    assert not _differences({"x": np.array([x])}, {"x": np.array([x])}, tmp_path, atol=0.0)
    if int(x) + 1 == int(y):
        assert not _differences({"x": np.array([x])}, {"x": np.array([y])}, tmp_path, atol=1.0)


def test_within_a_tolerance_dtypes_may_differ_and_the_worst_is_shown(tmp_path: Path) -> None:
    a, b = {"x": np.array([1.0, 2.0, 3.0])}, {"x": np.array([1.0, 2.5, 9.0], np.float16)}
    (found,) = _differences(a, b, tmp_path, atol=0.1)
    assert found.detail == "2 of 3 differ, the worst at flat index 2: 3.0 and 9.0"
    assert not _differences(a, b, tmp_path, atol=6.0)
    with_nan = {"x": np.array([1.0, np.nan, 9.0])}
    (found,) = _differences(a, with_nan, tmp_path, atol=0.1)
    assert "index 1: 2.0 and nan" in found.detail  # nothing is worse than not a number


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_signalling_nans_pass_without_a_warning(dtype: Any, tmp_path: Path) -> None:
    bits = {2: "u2", 4: "u4"}[np.dtype(dtype).itemsize]
    signalling = np.array([{np.float32: 0x7F800001, np.float16: 0x7C01}.get(dtype, 0x7F81)], bits).view(dtype)
    assert statistics(signalling).nonfinite == 1
    assert not _differences({"x": signalling}, {"x": signalling}, tmp_path, atol=0.0)
    source = weights_io.open(tmp_path / "a.safetensors")
    convert(source, tmp_path / "c.safetensors", dtype="float64" if dtype is np.float32 else "float32")
    assert statistics(weights_io.open(tmp_path / "c.safetensors")["x"]).nonfinite == 1


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_what_is_no_tolerance_is_refused(name: str, value: float, tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "not a tolerance", name, "0 <= value"):
        _differences({}, {}, tmp_path, **{name: value})


def test_differences_beyond_the_first_block_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weights_io import verification

    monkeypatch.setattr(verification, "BLOCK", 4)
    a, b = np.zeros(11), np.zeros(11)
    b[9] = 1
    for tolerance in ({}, {"atol": 0.5}):
        (found,) = _differences({"x": a}, {"x": b}, tmp_path, **tolerance)
        assert "1 of 11 differ" in found.detail
        assert "index 9" in found.detail


# --- convert ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_floats_are_rounded_once_and_integers_stay(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    source = _checkpoint(
        tmp_path / "a.safetensors", {"w": values, "i": np.arange(3), "b": np.array([True])}, {"k": "v"}
    )
    done = convert(source, tmp_path / "b.safetensors", dtype=name)
    back = weights_io.open(tmp_path / "b.safetensors")
    assert back["w"].dtype == DTYPES[name]
    assert back["w"].tobytes() == values.astype(DTYPES[name]).tobytes()
    assert back["i"].dtype == np.int64
    assert back["b"].dtype == np.bool_
    assert back.metadata == {"k": "v"}
    assert done == (3, back.info("w").nbytes + 24 + 1, ())


def test_a_value_that_would_become_infinite_is_refused(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "a.safetensors", {"w": np.array([1.0, 1e5, np.inf])})
    with _refused(
        weights_io.WeightsError, "become infinite", "'w'", "65504", "1 values beyond, the largest 100000.0", "wider"
    ):
        convert(source, tmp_path / "b.safetensors", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    infinite = as_dtype(np.array([np.inf, -np.inf, np.nan]), np.dtype(np.float16), "w")
    assert infinite[0] == np.inf
    assert np.isnan(infinite[2])


def _nearest(value: float, dtype: Any) -> Any:
    """The value of `dtype` nearest to a finite float64, ties to the one whose bits are even: exact, by trying all 256 or 65,536."""
    table = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    with np.errstate(invalid="ignore"):
        wide = table.astype(np.float64)
    good = np.flatnonzero(np.isfinite(wide) & (np.signbit(wide) == (math.copysign(1, value) < 0)))
    gap = min(abs(Fraction(float(wide[i])) - Fraction(value)) for i in good[_around(wide[good], value)])
    nearest = [i for i in good[_around(wide[good], value)] if abs(Fraction(float(wide[i])) - Fraction(value)) == gap]
    return table[min(nearest, key=lambda i: i % 2)]


def _around(values: Any, value: float) -> Any:  # (n,) -> indices of the 4 values nearest in float64
    return np.argsort(np.abs(values - value))[:4]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16"])
@given(st.data())
def test_float64_is_rounded_once_to_every_narrow_dtype(name: str, data: Any) -> None:
    """Midpoints of neighbours, and float64s next to them: where a rounding to float32 on the way would show."""
    dtype = DTYPES[name]
    bits = data.draw(st.integers(0, 2 ** (8 * dtype.itemsize) - 2))
    low, high = np.array([bits, bits + 1], f"u{dtype.itemsize}").view(dtype).astype(np.float64)
    assume(np.isfinite(low) and np.isfinite(high))
    for direction in (-np.inf, None, np.inf):
        middle = (low + high) / 2
        value = middle if direction is None else np.nextafter(middle, direction)
        found = as_dtype(np.array([value]), dtype, "w")[0]
        assert found.tobytes() == _nearest(float(value), dtype).tobytes()


def test_infinities_do_not_vanish_in_a_dtype_without_them() -> None:
    """float8_e4m3fn has no infinity: it would become NaN."""
    with _refused(weights_io.WeightsError, "become infinite or NaN", "1 values beyond, the largest inf"):
        as_dtype(np.array([np.inf, 1.0]), DTYPES["float8_e4m3fn"], "w")
    assert np.isnan(as_dtype(np.array([np.nan]), DTYPES["float8_e4m3fn"], "w").astype(np.float32))[0]


@pytest.mark.parametrize("source", [ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e5m2])
def test_narrow_dtypes_are_cast_by_way_of_float32(source: Any) -> None:
    assert as_dtype(np.array([1.0, 2.0], source), DTYPES["float8_e4m3fn"], "w").astype(float).tolist() == [1.0, 2.0]


def test_an_unknown_dtype_lists_the_known(tmp_path: Path) -> None:
    with _refused(weights_io.UnsupportedError, "no such floating-point dtype", "float16, float32", "int8"):
        convert(weights_io.open(TINY), tmp_path / "b.safetensors", dtype="int8")


def test_every_tensor_is_told_twice(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    source = weights_io.open(TINY)
    convert(source, tmp_path / "b.safetensors", advance=lambda *each: told.append(each))
    assert sorted(told) == sorted([(name, source.info(name).nbytes) for name in source] * 2)
    assert not verify(source, weights_io.open(tmp_path / "b.safetensors"))


def _sparse(path: Path, count: int, size: int) -> None:
    """A safetensors file of `count` float32 tensors of `size` bytes, zeros that take no room on the disk."""
    header = {
        f"w{i}": {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + count * size)


CHILD = """
import sys, weights_io
from weights_io.conversion import convert
convert(weights_io.open(sys.argv[1]), sys.argv[2], dtype=sys.argv[3] or None)
"""
PEAK = """
import resource
from pathlib import Path
status = Path("/proc/self/status")  # on Linux, ru_maxrss begins with the peak of the process that started this one
lines = status.read_text().splitlines() if status.exists() else []
found = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
print(found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_conversion_holds_one_tensor_at_a_time(dtype: str, tmp_path: Path) -> None:
    """Peak memory of the whole process, mapped pages and the interpreter included, for 16 tensors of 32 MB."""
    size = 32 << 20
    _sparse(tmp_path / "a.safetensors", 16, size)
    command = [
        sys.executable,
        "-c",
        CHILD + PEAK,
        str(tmp_path / "a.safetensors"),
        str(tmp_path / "b.safetensors"),
        dtype,
    ]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 16 << 20 < int(child.stdout) <= 2 * size + (200 << 20)


KILLED = """
import itertools, os, pathlib, shutil, signal, sys
import numpy as np, weights_io
from weights_io import conversion, numpy_files, pytorch, safetensors, tensorbundle, zip_archive

source, destination, left, armed = sys.argv[1], pathlib.Path(sys.argv[2]), 0, False
whole = destination.suffix == ".ckpt"  # a folder of its own, which must be new


def step(*_):
    global left
    left -= armed
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


def counted(function):
    return lambda *arguments, **named: (step(), function(*arguments, **named))[1]


os.fsync, os.replace, os.rename = counted(os.fsync), counted(os.replace), counted(os.rename)
events = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "mmap.__new__")
sys.addaudithook(lambda event, _: step() if event in events else None)
for steps in itertools.count():
    if not whole:
        weights_io.save(destination, {"old": np.ones(3)})
    elif destination.exists():
        shutil.rmtree(destination)
    child = os.fork()
    if child == 0:
        left, armed = steps, True
        conversion.convert(weights_io.open(source), destination)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, *(sorted(weights_io.open(destination)) if destination.exists() else ["old"]))
    if status != -signal.SIGKILL:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth", "ckpt"])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new(kind: str, tmp_path: Path) -> None:
    """Killed before each file that is opened, mapped, flushed, renamed or removed, one after the other, until none is left."""
    source, destination = tmp_path / "a.safetensors", tmp_path / f"b.{kind}"
    new = {f"w{i}": np.arange(40.0) + i for i in range(3)}
    weights_io.save(source, new)
    command = [sys.executable, "-c", KILLED, str(source), str(destination)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    outcomes = [line.split(maxsplit=1) for line in told]
    assert outcomes[-1] == ["0", "w0 w1 w2"]
    assert {status for status, _ in outcomes[:-1]} == {str(-signal.SIGKILL)}
    assert {names for _, names in outcomes} == {"old", "w0 w1 w2"}
    assert [names for _, names in outcomes] == sorted(names for _, names in outcomes)  # once it is new, it stays new
    assert len(outcomes) > 6
    assert all(weights_io.open(destination)[name].tobytes() == array.tobytes() for name, array in new.items())


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_bytes(b"1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "x").read_bytes() == b"1"

    def fail() -> None:
        with new_folder(tmp_path / "other") as folder:
            (folder / "x").write_bytes(b"1")
            raise OSError("planted")

    with pytest.raises(OSError, match="planted"):
        fail()
    with _refused(weights_io.WeightsError, "new folder", "exists"), new_folder(tmp_path / "out"):
        pytest.fail("an existing folder was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- one source -------------------------------------------------------------------------------------------------------------


def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    opened = _checkpoint(path, {"x": np.ones(4)})
    before = opened["x"]
    content = path.read_bytes()
    os.truncate(path, len(content) - 8)
    with _refused(weights_io.FormatError, "changed after it was opened", "[file.changed]", "a.safetensors"):
        opened["x"]
    assert before.shape == (4,)


def test_a_file_that_is_replaced_stays_the_one_that_was_opened(tmp_path: Path) -> None:
    opened = _checkpoint(tmp_path / "a.safetensors", {"x": np.ones(4)})
    weights_io.save(tmp_path / "a.safetensors", {"x": np.zeros(4)})
    assert opened["x"].tolist() == [1.0] * 4


def test_a_closed_checkpoint_says_so_and_its_arrays_stay(tmp_path: Path) -> None:
    with _checkpoint(tmp_path / "a.safetensors", {"x": np.ones(4)}) as opened:
        array = opened["x"]
    with _refused(weights_io.WeightsError, "was closed", "open it again"):
        opened["x"]
    assert array.sum() == 4
    opened.close()


def test_a_missing_name_is_a_key_error_that_suggests(tmp_path: Path) -> None:
    opened = _checkpoint(tmp_path / "a.safetensors", {"wte.weight": np.ones(4)})
    with pytest.raises(KeyError) as caught:
        opened["wte.wieght"]
    assert "wte.weight" in str(caught.value)
    assert "\n  expected: one of 1 names" in str(caught.value)
    assert isinstance(caught.value, weights_io.WeightsError)
    assert opened.get("nothing") is None
    with _refused(weights_io.WeightsError, "a checkpoint with tensors"):
        _checkpoint(tmp_path / "b.safetensors", {})["x"]


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with _refused(weights_io.WeightsError, "unknown mode", "strict or compat", "'loose'"):
        weights_io.open(TINY, mode="loose")  # type: ignore[arg-type]


def test_messages_repeat_hostile_text_neither_whole_nor_raw(tmp_path: Path) -> None:
    name = "x\n\x1b[31m" + "y" * 5000
    path = tmp_path / "a.safetensors"
    text = json.dumps({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"12345")
    with pytest.raises(weights_io.FormatError) as caught:
        weights_io.open(path)
    assert len(str(caught.value)) < 2000
    assert "\x1b" not in str(caught.value)
    assert caught.value.rule == "safetensors.offsets"


def test_a_five_gigabyte_file_opens_in_little_memory(tmp_path: Path) -> None:
    """Allocations that Python sees; benchmarks/ has the time and the whole process."""
    import tracemalloc

    path = tmp_path / "big.safetensors"
    _sparse(path, 600, (5 << 30) // 600 // 4 * 4)
    tracemalloc.start()
    try:
        with weights_io.open(path) as opened:
            assert tracemalloc.get_traced_memory()[1] < 100 << 20
            assert opened["w599"][-1] == 0.0
            assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_any_number_of_tensors_can_be_held_at_once(tmp_path: Path) -> None:
    """One file descriptor a file, whatever the number of arrays mapped from it."""
    import resource

    opened = _checkpoint(tmp_path / "a.safetensors", {f"t{i}": np.full(16, i, np.float32) for i in range(300)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 120), hard))
    try:
        held = [opened[f"t{i}"] for i in range(300)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [array[3] for array in held] == list(range(300))


def test_a_mapping_goes_with_the_last_array_of_it(tmp_path: Path) -> None:
    opened = _checkpoint(tmp_path / "a.safetensors", {"x": np.ones(4), "y": np.ones(4)})
    (source,) = opened._sources
    first, second = opened["x"], opened["y"]
    assert np.shares_memory(np.frombuffer(source._mapping(), np.uint8), first)  # type: ignore[misc]
    del first
    assert source._mapping() is not None  # type: ignore[misc]
    del second
    assert source._mapping() is None  # type: ignore[misc]


def test_who_always_holds_an_array_of_a_file_does_not_hold_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers at a time: one array is always in use, and no mapping serves more than a few."""
    monkeypatch.setattr("weights_io.source.SHARE", 100 * 8)
    opened = _checkpoint(tmp_path / "a.safetensors", {f"t{i}": np.full(30, i, np.float64) for i in range(64)})
    (source,) = opened._sources
    mappings, held = {}, []
    for i in range(64):
        held = [*held[-1:], opened[f"t{i}"]]
        mappings[id(source._mapping)] = source._mapping
    assert len(mappings) == 22  # three arrays of 240 bytes each, the last one
    assert [mapping() is not None for mapping in mappings.values()] == [False] * 20 + [True] * 2  # type: ignore[misc]
    assert [float(array[0]) for array in held] == [62.0, 63.0]


def test_too_little_memory_for_a_tensor_is_said(tmp_path: Path) -> None:
    """A file of four terabytes that takes no room on the disk, in the other byte order, so that it cannot be mapped."""
    header = b"{'descr': '>f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    header = header.ljust(117) + b"\n"
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        try:
            file.truncate(10 + len(header) + (4 << 40))
        except OSError:
            pytest.skip("the file system has no files of four terabytes")
    with _refused(weights_io.WeightsError, "memory", "'array'"):
        weights_io.open(tmp_path / "a.npy")["array"]


def test_paths_that_cannot_be_looked_at_are_refused_as_everything_else(tmp_path: Path) -> None:
    for path in ("a" * 300, tmp_path / ("b" * 300), "a\0b"):
        with _refused(weights_io.WeightsError):
            weights_io.open(path)
    (tmp_path / "..data-00000-of-00001").write_bytes(b"12345678 not a checkpoint")
    with _refused(weights_io.WeightsError, "no checkpoint format"):
        weights_io.open(tmp_path / "..data-00000-of-00001")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_where_nothing_can_be_written_it_is_said_before(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    with _refused(weights_io.WeightsError, "a folder of that name exists"):
        weights_io.save(tmp_path / f"folder{suffix}", {"x": np.ones(1)})
    for name in (f"a\0b{suffix}", "x" * 256 + suffix):
        with _refused(weights_io.WeightsError, "no file can have that name"):
            weights_io.save(tmp_path / name, {"x": np.ones(1)})
    longest = "\U0001f600" * 60 + suffix  # 240 bytes and the suffix
    weights_io.save(tmp_path / longest, {"x": np.ones(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"folder{suffix}", longest])


def test_a_hostile_path_is_not_repeated_raw(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\x1b[31mbad\n.npz")
    path.write_bytes(b"nothing that is known")
    with pytest.raises(weights_io.WeightsError) as caught:
        weights_io.open(path)
    str(caught.value).encode()
    assert "\x1b" not in str(caught.value)
    assert "bad\\n" in str(caught.value)


def test_many_small_tensors_are_saved_and_opened(tmp_path: Path) -> None:
    for suffix, count in ((".safetensors", 7000), (".npz", 7000), (".pth", 4000)):
        names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(count)]
        weights_io.save(tmp_path / f"a{suffix}", {name: np.ones(1, np.float32) for name in names})
        opened = weights_io.open(tmp_path / f"a{suffix}")
        assert len(opened) == count
        assert opened.get("model.layers.x.self_attn.q_proj.bias") is None


def test_a_tree_of_deep_names_is_neither_deep_nor_slow(tmp_path: Path) -> None:
    names = ["a." * 2000 + "w", *(f"{i}." + "0." * 220 + "w" for i in range(100))]
    found = tree(_checkpoint(tmp_path / "a.safetensors", {name: np.ones(1) for name in names}))

    def depth(nodes: Any) -> int:
        return 1 + max((depth(node.children) for node in nodes), default=0)

    assert depth(found) < 30
    assert [node.alike for node in found if node.label[0].isdigit()] == [100]
