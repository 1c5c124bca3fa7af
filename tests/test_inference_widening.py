"""float16 to float32 by shifts: every pattern there is, wherever it lies; and the number of threads of products, put back as it was."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest

from refimpl.errors import ConfigError
from refimpl.inference import threads, widening
from refimpl.inference.widening import convert, shifted, widen

PIECE = 4096  # in place of the million numbers: many pieces of small arrays
ALL = np.arange(65536, dtype=np.uint16).view(np.float16)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "PIECE", PIECE)


def _meant(pattern: int) -> int:
    """The pattern of the float32 of a float16's value, from the definition of both formats, in whole numbers."""
    sign, exponent, fraction = pattern >> 15, pattern >> 10 & 31, pattern & 1023
    if exponent == 31:
        return sign << 31 | 255 << 23 | fraction << 13
    value = math.ldexp(fraction, -24) if exponent == 0 else math.ldexp(1024 + fraction, exponent - 25)
    return sign << 31 | int(np.float32(value).view(np.uint32))  # both are sums of at most 11 bits: float32 has them


def test_every_pattern_is_widened_exactly() -> None:
    """All 65,536: normal and subnormal numbers, both zeros, both infinities, and NaN with its sign and fraction."""
    out = np.empty(65536, np.float32)
    assert not widen(ALL, out)
    assert out.view(np.uint32).tolist() == [_meant(pattern) for pattern in range(65536)]


def test_finite_patterns_need_the_shifts_alone() -> None:
    out, finite = np.empty(65536, np.float32), np.isfinite(ALL)
    shifted(ALL, out)
    assert np.array_equal(out[finite].view(np.uint32), [_meant(int(p)) for p in ALL[finite].view(np.uint16)])
    assert np.abs(out[~finite]).min() == 65536.0 > np.abs(out[finite]).max()
    assert widen(ALL[finite], np.empty(finite.sum(), np.float32))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("source", ["float16", "float32"])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(source: str, dtype: str, bad: float) -> None:
    array = np.ones((5, PIECE // 2), source)
    for place in ((0, 0), (4, PIECE // 2 - 1), (2, 7)):
        array[place] = bad
        for order in ("C", "F"):
            for count in (1, 2):
                out = np.empty(array.shape, dtype, order=order)  # type: ignore[call-overload]
                assert not convert(array, out, count)
                assert np.array_equal(out, array, equal_nan=True)
        array[place] = 1
    assert convert(array, np.empty(array.shape, dtype))


@pytest.mark.parametrize(
    "shape", [(), (1,), (0,), (0, 3), (3, 0), (7, 3), (2 * PIECE + 5,), (3, PIECE + 1), (700, 301), (2, 3, 4)]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_shape_and_order_is_what_astype_makes_of_it(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    for source in ("float16", "float32", "float64"):
        array = rng.normal(size=shape).astype(source)
        for given in (array, np.asfortranarray(array), np.repeat(array, 2, axis=-1)[..., ::2] if shape else array):
            for order in ("C", "F"):
                out: Any = np.empty(shape, dtype, order=order)  # type: ignore[call-overload]
                assert convert(given, out, 2)
                assert np.array_equal(out, array.astype(dtype))


def test_what_does_not_fit_becomes_infinite_and_is_said() -> None:
    out = np.empty(2, np.float16)
    assert not convert(np.array([1e5, 1.0]), out)
    assert out.tolist() == [math.inf, 1.0]


def test_threads_of_products_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads.blas_threads()
    if before is None:
        pytest.skip("NumPy's products are not OpenBLAS's")
    with pytest.raises(RuntimeError), threads.products_on(before + 1):
        assert threads.blas_threads() == before + 1
        with threads.products_on(1):
            assert threads.blas_threads() == 1
        with threads.products_on(None):
            assert threads.blas_threads() == before + 1
        raise RuntimeError
    assert threads.blas_threads() == before
    monkeypatch.setattr(threads, "_functions", lambda: None)
    assert threads.blas_threads() is None
    with threads.products_on(None), pytest.raises(ConfigError, match="not OpenBLAS's"), threads.products_on(2):
        pass


def test_two_threads_put_back_what_was_before_both() -> None:
    """The second block begins while the first runs, and would end after it: it waits, and what is usual is known meanwhile."""
    before = threads.blas_threads()
    if before is None:
        pytest.skip("NumPy's products are not OpenBLAS's")
    inside, seen = threading.Event(), list[Any]()

    def other() -> None:
        inside.wait()
        seen.append(threads.usual_threads())
        with threads.products_on(before + 2):
            seen.append(threads.blas_threads())

    thread = threading.Thread(target=other)
    thread.start()
    with threads.products_on(before + 1):
        inside.set()
        thread.join(0.1)
        seen.append(threads.blas_threads())
    thread.join()
    assert seen == [before, before + 1, before + 2]
    assert threads.blas_threads() == before
