"""Fast products against their definition, bit for bit: every dtype, dialect, layout and edge; and the GPU's kernel, compiled for the host."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import backend, errors, mitchell
from refimpl.inference import mitchell as fast
from refimpl.inference import mitchell_cupy
from validation import tolerance, truth

FLOATS = ("float16", "bfloat16", "float32", "float64")
WHOLES = ("uint8", "int8", "uint16", "int16")
DIALECTS = ("ieee", "flush", "pam", "semimul")


def _same(a: Any, b: Any) -> bool:
    """Equal bits; NaN equals every NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "iu":
        return bool(np.array_equal(a, b))
    nan, other = (np.isnan(x.astype(np.float64)) for x in (a, b))
    kind = f"u{a.dtype.itemsize}"
    return bool(np.all((nan & other) | (np.ascontiguousarray(a).view(kind) == np.ascontiguousarray(b).view(kind))))


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, wild: float) -> Any:
    """Ordinary numbers; a share of them any patterns, zeros, infinities, NaN, subnormals and ends of the range; if negative, what is small only."""
    kind = np.dtype(tolerance.DTYPES.get(dtype, dtype))
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True) * (rng.random(shape) > 0.1)
    tiny, top = (2.0**-14, 2.0**15) if dtype == "float16" else (2.0**-126, 2.0**127)
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 0.75 * tiny, 1.5 * tiny, tiny**0.5, 1.75 * top, top**0.5]
    words = rng.integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8).view(kind)[..., 0]
    if wild < 0:  # nothing that makes sums infinite or NaN: below 2 in magnitude
        ends = [x for x in ends if abs(x) < 2]
        words = (words.view(f"u{kind.itemsize}") & ~np.array(2.0, kind).view(f"u{kind.itemsize}")).view(kind)
    special = np.asarray(ends, np.float64).astype(kind)[rng.integers(0, len(ends), shape)]
    drawn = np.where(rng.random(shape) < 0.5, words, special)
    return np.where(rng.random(shape) < abs(wild), drawn, rng.normal(size=shape).astype(kind))


def _laid_out(x: Any, layout: str) -> Any:
    """The same numbers in another layout."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    if layout == "gaps":
        wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1]), x.dtype)
        wide[..., ::3] = x
        return wide[..., ::3]
    return x


LAYOUTS = st.sampled_from(["plain", "fortran", "reversed", "gaps"])
WILD = st.sampled_from([0.0, 0.03, 0.4, 1.0, -0.03, -0.3, -1.0])
STACKS = st.sampled_from([((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,)), ((4,), ()), ((1, 3, 2), (2, 1, 1))])


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


def _sum(a: Any, b: Any) -> Any:
    """Corrected products, added up in order: 16-bit floats in float32, whole numbers in 64 bits."""
    if a.dtype.kind in "iu":
        wide: Any = np.uint64 if a.dtype.kind == "u" else np.int64
        return sum(mitchell.corrected_multiply(a[..., :, [k]], b[..., [k], :]).astype(wide) for k in range(a.shape[-1]))
    x, y = (each.astype(np.float32) if each.itemsize == 2 else each for each in (a, b))
    total = mitchell.corrected_multiply(x[..., :, [0]], y[..., [0], :])
    for k in range(1, a.shape[-1]):
        total = total + mitchell.corrected_multiply(x[..., :, [k]], y[..., [k], :])
    return total.astype(a.dtype)


# --- matrices -------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(FLOATS + WHOLES),
    st.sampled_from(DIALECTS),
    st.tuples(*[st.sampled_from([1, 2, 5, 9])] * 2, st.sampled_from([1, 2, 7, 40])),
    STACKS,
    st.tuples(LAYOUTS, LAYOUTS),
    WILD,
    st.integers(1, 3),
)
def test_matmul_is_the_definition(
    seed: int, dtype: str, dialect: str, size: Any, stacks: Any, layouts: Any, wild: float, threads: int
) -> None:
    rng, (n, m, depth) = np.random.default_rng(seed), size
    dialect = "ieee" if dtype in WHOLES else dialect
    a = _laid_out(_numbers(rng, (*stacks[0], n, depth), dtype, wild), layouts[0])
    b = _laid_out(_numbers(rng, (*stacks[1], depth, m), dtype, wild), layouts[1])
    answer = fast.matmul(a, b, dialect=dialect, threads=threads)
    assert _same(answer, mitchell.matmul(a, b, dialect=dialect))
    if dialect == "ieee":
        assert _same(fast.matmul(a, b, corrected=True, threads=threads), _sum(a, b))


@pytest.mark.parametrize(("dtype", "dialect"), [("float32", "ieee"), ("float32", "flush"), ("float64", "pam")])
def test_blocks_pieces_and_groups_of_any_size_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, dtype: str, dialect: str
) -> None:
    """Blocks smaller than the matrices, on every side, and a narrow product, which is computed as a transpose."""
    rng, depth = np.random.default_rng(3), 6 if dialect == "pam" else 17
    a, b = _numbers(rng, (2, 11, depth), dtype, 0.02), _numbers(rng, (depth, 20), dtype, 0.02)
    a[:, 3], b[:, 4] = 0, np.inf
    whole = mitchell.matmul(a, b, dialect=dialect)
    for products, columns, steps, group, narrow in ((64, 8, 5, 1, 0), (220, 20, 17, 900, 0), (50, 7, 4, 150, 99)):
        for name, value in (
            *(("PRODUCTS", products), ("COLUMNS", columns), ("STEPS", steps)),
            *(("GROUP", group), ("NARROW", narrow), ("PIECE", 60)),
        ):
            monkeypatch.setattr(fast, name, value)
        assert _same(fast.matmul(a, b, dialect=dialect), whole)
        assert _same(fast.matmul(a, b, dialect=dialect, threads=3), whole)
        if dialect == "ieee":
            assert _same(fast.matmul(a, b, corrected=True), _sum(a, np.broadcast_to(b, (2, depth, 20))))


def test_products_in_range_are_not_computed_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are those of zeros, infinities and NaN, and of float32 none at all."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError

    rng = np.random.default_rng(0)
    wild = _numbers(rng, (20, 30), "float32", 0.3), _numbers(rng, (30, 40), "float32", 0.3)
    tame = [x.astype(np.float64) for x in (rng.normal(size=(20, 30)), rng.normal(size=(30, 40)))]
    tame[0][2:5], tame[1][0, 0] = 0, np.nan
    expected = [mitchell.matmul(*wild, dialect="flush"), mitchell.matmul(*tame)]
    monkeypatch.setattr(mitchell, "multiply", refused)
    monkeypatch.setattr(mitchell, "corrected_multiply", refused)
    assert _same(fast.matmul(*wild, dialect="flush"), expected[0])
    assert _same(fast.matmul(*tame), expected[1])
    fast.matmul(*tame, corrected=True)
    with pytest.raises(AssertionError):
        fast.matmul(tame[0] * 2.0**-600, tame[1] * 2.0**-600)


@pytest.mark.parametrize("ordered", [True, False])
def test_sums_of_zeros_have_the_sign_of_the_definition(monkeypatch: pytest.MonkeyPatch, ordered: bool) -> None:
    """-0 only where all products are -0; also if NumPy's own sums were not in order, and steps are added one by one."""
    assert fast._sums_in_order()
    monkeypatch.setattr(fast, "_sums_in_order", lambda: ordered)
    rng = np.random.default_rng(0)
    a, b = rng.choice([0.0, -0.0, -(2.0**-140)], (30, 3)), rng.choice([0.0, -0.0, 2.0**-140], (3, 40))
    for x, y in ((a, b), (np.zeros((5, 9)), -np.ones((9, 40)))):
        u, v = x.astype(np.float32), y.astype(np.float32)
        for options in ({}, {"dialect": "flush"}, {"corrected": True}):
            expected = _sum(u, v) if options.get("corrected") else mitchell.matmul(u, v, **options)
            assert _same(fast.matmul(u, v, **options), expected)
            assert np.any(np.signbit(expected))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (4, 4), (1, 90)])
def test_small_products_of_long_sums_are_added_up_in_order(shape: tuple[int, int]) -> None:
    """NumPy adds numbers that lie side by side in pairs."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        a, b = (rng.normal(size=size).astype(dtype) for size in ((shape[0], 300), (300, shape[1])))
        assert _same(fast.matmul(a, b), mitchell.matmul(a, b))


def test_only_the_rows_or_columns_that_leave_the_range_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, again = np.random.default_rng(0), []
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((9, 8), (8, 20)))
    a[4, 3], b[5, 7] = 2.0**-126, 2.0**-126
    guarded = fast._guarded
    monkeypatch.setattr(fast, "_guarded", lambda x, y, form: again.append((x.shape, y.shape)) or guarded(x, y, form))
    assert _same(fast.matmul(a, b), mitchell.matmul(a, b))
    assert again == [((1, 1), (1, 20)), ((1, 1), (1, 9))]


def test_long_sums_of_whole_numbers_are_exact() -> None:
    """More terms than float32 and one sum hold, all of the largest size."""
    for dtype in WHOLES:
        low = np.iinfo(dtype).min or np.iinfo(dtype).max
        a, b = np.full((2, 1025), low, dtype), np.full((1025, 3), low, dtype)
        for corrected in (False, True):
            one = (mitchell.corrected_multiply if corrected else mitchell.multiply)(a[0, 0], b[0, 0])
            assert fast.matmul(a, b, corrected=corrected).tolist() == [[1025 * int(one)] * 3] * 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_out_is_written_and_returned(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(fast, "PRODUCTS", 8)
    monkeypatch.setattr(fast, "COLUMNS", 4)  # several blocks, the first of which is written before the last is read
    rng = np.random.default_rng(1)
    a, b = _numbers(rng, (4, 6, 6), dtype, 0.1), _numbers(rng, (6, 6), dtype, 0.1)
    expected = mitchell.matmul(a, b)
    space = np.zeros((4, 6, 12), expected.dtype)[..., ::-2]
    assert fast.matmul(a, b, out=space) is space
    assert _same(space.copy(), expected)
    if dtype != "int8":
        assert fast.matmul(a, b, out=a) is a  # written only after it has been read
        assert _same(a, expected)


def test_numpys_settings_are_left_as_they_were() -> None:
    x = np.zeros((40, 50))
    with np.errstate(all="raise"):
        before = np.getbufsize(), np.geterr(), threading.active_count()
        assert fast.matmul(x - np.inf, x.T, threads=2).shape == (40, 40)
        fast.multiply(x - np.inf, x)
        assert (np.getbufsize(), np.geterr(), threading.active_count()) == before


def test_empty_products_have_their_shape() -> None:
    for shape in ((0, 4), (3, 0, 4), (0, 2, 4)):
        assert fast.matmul(np.ones(shape, np.float32), np.ones((4, 5), np.float32)).shape == (*shape[:-1], 5)
        assert fast.multiply(np.ones(shape), np.ones(1)).shape == shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dialect", [*DIALECTS, "corrected"])
def test_just_within_and_just_beyond_the_range_of_plain_additions(dtype: str, dialect: str) -> None:
    """Pairs of operands whose patterns' sums are around both bounds, each pair alone; and zeros with their signs."""
    corrected = dialect == "corrected"
    form = fast._form(dtype, "ieee" if corrected else dialect, corrected)
    options = {"corrected": True} if corrected else {"dialect": dialect}
    sums = [int(bound) + step for bound in (form.low, form.high) for step in (-2, -1, 0, 1)]
    pairs = [(total // 2 + 12345, total - total // 2 - 12345) for total in sums]
    pairs += [(int(form.least) - step, int(form.one)) for step in (0, 1)]
    a, b = np.array(pairs, form.unsigned).T.view(form.dtype)
    zeros = np.array([0.0, -0.0, 0.0, -0.0], form.dtype), np.array([-1.5, -1.5, -0.0, 2.5], form.dtype)
    for x, y in zip(np.append(a, zeros[0]), np.append(-b, zeros[1]), strict=True):
        for u, v in ((x, y), (y, x)):
            u, v = u.reshape(1, 1), v.reshape(1, 1)
            expected = mitchell.corrected_multiply(u, v) if corrected else mitchell.multiply(u, v, dialect=dialect)
            assert _same(fast.matmul(u, v, **options), expected)
            assert _same(fast.multiply(u, v, **options), expected)


# --- single products ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from((*FLOATS, *WHOLES, "int64")), st.sampled_from(DIALECTS), LAYOUTS, WILD
)
def test_multiply_is_the_definition(seed: int, dtype: str, dialect: str, layout: str, wild: float) -> None:
    rng = np.random.default_rng(seed)
    dialect = "ieee" if "int" in dtype else dialect
    a, b = _laid_out(_numbers(rng, (6, 7, 5), dtype, wild), layout), _numbers(rng, (7, 1), dtype, wild)
    for pair in ((a, b), (b, a), (a[0, 0, 0], b), (a[0, 0, 0], b[0, 0])):
        answers = fast.multiply(*pair, dialect=dialect), mitchell.multiply(*pair, dialect=dialect)
        if dtype == "int64":
            assert all(_same(*words) for words in zip(*answers, strict=True))
            continue
        assert _same(*map(np.asarray, answers))
        if dialect == "ieee":
            answers = fast.multiply(*pair, corrected=True), mitchell.corrected_multiply(*pair)
            assert _same(*map(np.asarray, answers))


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def _message(function: Any, *args: Any, **options: Any) -> tuple[type[Exception], str]:
    with pytest.raises(errors.RefimplError) as raised:
        function(*args, **options)
    return raised.type, str(raised.value)


def test_what_the_definition_refuses_is_refused_in_its_words() -> None:
    x, n = np.ones((2, 2), np.float32), np.ones((2, 2), np.int8)
    for args, options in (
        ((x, x.astype(np.float64)), {}),
        ((x, n), {}),
        ((n > 0, n > 0), {}),
        ((n.astype(np.int32), n.astype(np.int32)), {}),
        ((x[0], x), {}),
        ((x, np.ones((3, 2), np.float32)), {}),
        ((x[:, :0], x[:0]), {}),
        ((np.ones((2, 3, 3)), np.ones((3, 3, 3))), {}),
        ((1.5, x), {}),
        ((x, None), {}),
        ((x.astype(np.longdouble), x.astype(np.longdouble)), {}),
        ((x, x), {"dialect": "mogami"}),
        ((n, n), {"dialect": "pam"}),
    ):
        assert _message(fast.matmul, *args, **options) == _message(mitchell.matmul, *args, **options)
    for args, options in (((x, n), {}), ((x, x), {"dialect": "mogami"}), ((n, n), {"dialect": "pam"})):
        assert _message(fast.multiply, *args, **options) == _message(mitchell.multiply, *args, **options)


def _refused(kind: type[Exception], *words: str) -> Any:
    return pytest.raises(kind, match="(?s)" + ".*".join(re.escape(word) for word in words))


def test_what_only_the_fast_form_refuses() -> None:
    x = np.ones((2, 3, 3), np.float32)
    with _refused(errors.ShapeError, "do not broadcast", "multiply", "equal or 1", "(2, 3, 3), (3, 2)", "axes"):
        fast.multiply(x, x[0, :, :2])
    for pair, name, got in (((1.5, x), "a", "float"), ((x, [[1.0]]), "b", "list"), ((x, None), "b", "NoneType")):
        with _refused(errors.DtypeError, f"{name} is no array", f"multiply({name})", got, f"xp.asarray({name})"):
            fast.multiply(*pair)
    with _refused(errors.DtypeError, "unknown floating-point format", "multiply(a)", "float64", "xp.float64"):
        fast.multiply(x.astype(np.longdouble), x.astype(np.longdouble))
    with _refused(errors.DtypeError, "out is no array", "matmul(out)", "or None", "list"):
        fast.matmul(x, x, out=[[0.0]])
    with _refused(errors.ShapeError, "another shape", "out=", "(2, 3, 3)", "(3, 3)"):
        fast.matmul(x, x, out=x[0].copy())
    with _refused(errors.DtypeError, "another dtype", "out=", "int64", "float32"):
        fast.matmul(x.astype(np.int8), x.astype(np.int8), out=x.copy())
    for function in (fast.matmul, fast.multiply):
        with _refused(errors.ConfigError, "one set of edges", 'dialect="ieee"', "'flush'"):
            function(x, x, dialect="flush", corrected=True)
    for threads in (0, -1, 1.5, None):
        with _refused(errors.ConfigError, "counted from 1", repr(threads)):
            fast.matmul(x, x, threads=threads)
    for other in (array_api_strict.asarray(x), truth.balls(x)):
        with _refused(errors.DtypeError, "NumPy and CuPy", "refimpl.mitchell.matmul"):
            fast.matmul(other, other)
    for dtype, options, words in (
        ("float64", {}, "float16, bfloat16, float32"),
        ("float32", {"dialect": "pam"}, "'pam'"),
    ):
        with _refused(errors.RefimplError, "no kernel", words, "refimpl.mitchell.matmul"):
            mitchell_cupy.matmul(x.astype(dtype), x.astype(dtype), **options)


# --- the kernel for GPUs, on the host ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernel, compiled for the host: called as CuPy's are, with NumPy arrays."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernel with")
    folder = tmp_path_factory.mktemp("kernel")
    shim = (Path(__file__).parent / "mitchell_kernel_host.cpp").read_text()
    (folder / "kernel.cpp").write_text(shim + mitchell_cupy.SOURCE)
    command = [compiler, "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", "kernel.so", "kernel.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "kernel.so"))

    def launched(grid: Any, block: Any, arguments: Any) -> None:
        kinds = [np.float32] * 3 + [np.int64] + [np.int32] * 3 + [np.int64] * 4 + [np.int32]
        assert [x.dtype for x in arguments] == kinds
        assert block == (16, 16, 1)
        assert grid[1] <= mitchell_cupy.TILES
        assert grid[2] <= mitchell_cupy.PAIRS
        assert arguments[2].flags.c_contiguous
        numbers = np.array([int(x) for x in (*arguments[4:], *grid)], np.int64)
        library.run(*(ctypes.c_void_p(x.ctypes.data) for x in (*arguments[:4], numbers)))

    return launched


@pytest.fixture
def on_the_host(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The matrix product for GPUs with NumPy in place of CuPy."""

    def compiled(source: str, name: str, **_: Any) -> Any:
        assert (source, name) == (mitchell_cupy.SOURCE, "mitchell_matmul")
        return kernel

    cupy = SimpleNamespace(empty=np.empty, asarray=np.asarray, RawKernel=compiled)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    mitchell_cupy._kernel.cache_clear()
    yield lambda a, b, form, **options: mitchell_cupy.matmul(
        a, b, dialect="ieee" if form == "corrected" else form, corrected=form == "corrected", **options
    )
    mitchell_cupy._kernel.cache_clear()


def _defined(a: Any, b: Any, form: str) -> Any:
    return _sum(a, b) if form == "corrected" else mitchell.matmul(a, b, dialect=form)


@pytest.mark.parametrize("form", mitchell_cupy.FORMS)
@pytest.mark.parametrize(
    ("shapes", "wild"),
    [
        (((1, 1), (1, 1)), 1.0),
        (((65, 33), (33, 70)), 0.01),
        (((30, 50), (50, 130)), 1.0),
        (((2, 1, 9, 17), (3, 17, 20)), 0.1),
        (((64, 16), (16, 64)), 0.0),
    ],
)
def test_the_kernel_gives_the_bits_of_the_definition(on_the_host: Any, shapes: Any, wild: float, form: str) -> None:
    rng = np.random.default_rng(len(shapes[0]))
    a, b = (_numbers(rng, shape, "float32", wild) for shape in shapes)
    expected = _defined(a, b, form)
    for layout in ("plain", "fortran", "reversed", "gaps") if a.ndim > 2 else ("plain",):
        assert _same(on_the_host(_laid_out(a, layout), _laid_out(b, layout), form), expected)


def test_stacks_of_many_matrices_take_several_launches_and_other_dtypes_are_rounded_once(
    on_the_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mitchell_cupy, "PAIRS", 4)
    rng = np.random.default_rng(2)
    for dtype in ("float16", "bfloat16", "float32"):
        a, b = _numbers(rng, (2, 1, 3, 5), dtype, 0.1), _numbers(rng, (5, 5, 4), dtype, 0.1)
        out = np.zeros((2, 5, 3, 4), a.dtype)
        assert on_the_host(a, b, "ieee", out=out) is out
        assert _same(out, mitchell.matmul(a, b))
    assert on_the_host(np.ones((0, 2, 3), np.float32), np.ones((3, 4), np.float32), "flush").shape == (0, 2, 4)


def test_matrices_of_many_rows_take_several_launches(on_the_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid's second length is that of its third: 65,535 tiles of 64 rows, here one and two."""
    assert mitchell_cupy.TILES == mitchell_cupy.PAIRS == 65535
    rng = np.random.default_rng(4)
    for tiles, pairs, shape in (
        (1, 65535, (150, 5)),
        (1, 2, (3, 1, 65, 5)),
        (2, 4, (3, 1, 128, 5)),
        (2, 4, (3, 1, 129, 5)),
    ):
        monkeypatch.setattr(mitchell_cupy, "TILES", tiles)
        monkeypatch.setattr(mitchell_cupy, "PAIRS", pairs)
        a, b = _numbers(rng, shape, "float32", 0.1), _numbers(rng, (2, 5, 3), "float32", 0.1)
        for layout in ("plain", "fortran", "reversed", "gaps"):
            assert _same(on_the_host(_laid_out(a, layout), b, "ieee"), mitchell.matmul(a, b))


def test_single_products_of_the_kernel_are_those_of_the_definition(on_the_host: Any) -> None:
    """All pairs of 450 patterns: the edges, the neighbours of 2^-149 to 2^-120 and of the largest numbers, and any."""
    rng = np.random.default_rng(5)
    ends = np.array(
        [0, 1, 2, 3, 0x7FFFFF, 0x800000, 0x800001, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x3F800000], np.uint32
    )
    near = (np.arange(100, dtype=np.uint32) * np.uint32(0x151515)) & np.uint32(0x03FFFFFF)
    x = np.concatenate([ends, ends | np.uint32(1 << 31), near, rng.integers(0, 2**32, 228, dtype=np.uint32)])
    x = np.concatenate([x, (near & np.uint32(0xFFFF)) + np.uint32(0x3F7FF000)]).view(np.float32)
    for form in mitchell_cupy.FORMS:
        assert _same(on_the_host(x[:, None], x[None, :], form), _defined(x[:, None], x[None, :], form))


def test_on_a_gpu_the_bits_are_those_of_numpy() -> None:
    try:
        there = backend.get("cupy")
    except errors.BackendError as error:
        pytest.skip(f"no GPU: {str(error).splitlines()[0]}")
    rng = np.random.default_rng(0)
    for dtype, dialect in (("float32", "ieee"), ("float32", "flush"), ("float16", "ieee")):
        for wild in (0.0, 0.05, 1.0):
            a, b = _numbers(rng, (3, 1, 65, 40), dtype, wild), _numbers(rng, (2, 40, 130), dtype, wild)
            answer = there.to_numpy(fast.matmul(there.asarray(a), there.asarray(b), dialect=dialect))
            assert _same(answer, mitchell.matmul(a, b, dialect=dialect))
            assert _same(answer, fast.matmul(a, b, dialect=dialect))
