"""The number systems that every definition runs on: how to get an array there and back, and what to expect of it.

numpy               plain C-ordered arrays
numpy-read-only     arrays that refuse to be written
numpy-fortran       Fortran-ordered arrays
numpy-strided       every second element of a larger array
strict              array-api-strict: nothing but the standard
strict-device1      the same on a device that refuses np.asarray and device mixing: a GPU simulator
strict-no-float64   the same on a device without float64, like some accelerators
balls               NumPy object arrays of flint.arb
cupy                a GPU; skipped with the diagnosis where there is none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import array_api_compat
import array_api_compat.numpy as numpy_namespace
import array_api_strict
import numpy as np
import pytest

from refimpl import backend
from validation import tolerance, truth

if TYPE_CHECKING:
    from collections.abc import Callable

ALL_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class System:
    """One number system: `to` moves a NumPy array there, `back` brings an array to NumPy (balls by their midpoints)."""

    name: str
    to: Callable[[Any], Any]
    back: Callable[[Any], Any]
    dtypes: tuple[str, ...]
    xp: Any
    device: Any

    @property
    def is_ball(self) -> bool:
        return self.name == "balls"

    def floats(self, values: Any, dtype: str) -> Any:
        """`values`, rounded to `dtype`, on this system."""
        return self.to(rounded(values, dtype))


def rounded(values: Any, dtype: str) -> Any:
    """Floating values as a NumPy array of `dtype` (one of ALL_DTYPES)."""
    return np.asarray(values, dtype=np.float64).astype(tolerance.DTYPES[dtype])


def read_only(array: Any) -> Any:
    array = np.array(array)
    array.flags.writeable = False
    return array


def strided(array: Any) -> Any:
    """A view of `array`'s values with gaps between them."""
    array = np.asarray(array)
    if array.ndim == 0:
        return array.copy()
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), dtype=array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def to_balls(array: Any) -> Any:
    """Floating values as exact balls; integers and booleans as they are."""
    array = np.asarray(array)
    return array.copy() if array.dtype.kind in "biu" else truth.balls(array)


def from_balls(array: Any) -> Any:
    return truth.midpoints(array) if array.dtype == object else np.asarray(array)


def _numpy(name: str, to: Callable[[Any], Any]) -> System:
    return System(name, to, np.asarray, ALL_DTYPES, numpy_namespace, "cpu")


def _strict(name: str, device_name: str, dtypes: tuple[str, ...]) -> System:
    device = array_api_strict.Device(device_name)
    host = array_api_strict.Device("CPU_DEVICE")

    def back(array: Any) -> Any:
        return np.asarray(array_api_compat.to_device(array, host))

    def to(array: Any) -> Any:
        return array_api_strict.asarray(np.array(array), device=device)

    return System(name, to, back, dtypes, array_api_strict, device)


def _cupy() -> Any:
    rungs = backend.diagnose()
    if not rungs[-1].ok:
        reason = f"{rungs[-1].step}: {rungs[-1].detail}"
        return pytest.param(None, id="cupy", marks=pytest.mark.skip(reason=f"no GPU: {reason}"))
    gpu = backend.get("cupy")
    return pytest.param(
        System("cupy", gpu.asarray, gpu.to_numpy, ("float16", "float32", "float64"), gpu.xp, gpu.device), id="cupy"
    )


HOST = [
    _numpy("numpy", np.array),
    _numpy("numpy-read-only", read_only),
    _numpy("numpy-fortran", lambda array: np.array(array, order="F")),
    _numpy("numpy-strided", strided),
    _strict("strict", "CPU_DEVICE", ("float32", "float64")),
    _strict("strict-device1", "device1", ("float32", "float64")),
    _strict("strict-no-float64", "no_float64", ("float32",)),
]
BALLS = System("balls", to_balls, from_balls, ("float64",), numpy_namespace, "cpu")
NUMPY = HOST[0]
FLOATING = [pytest.param(system, id=system.name) for system in HOST] + [_cupy()]
SYSTEMS = [*FLOATING, pytest.param(BALLS, id="balls")]


def unchanged(before: Any, after: Any) -> bool:
    """Whether two NumPy arrays hold the same bits, or the very same balls."""
    if before.dtype == object:
        return all(a is b for a, b in zip(before.ravel(), after.ravel(), strict=True))
    return before.dtype == after.dtype and before.tobytes() == after.tobytes()
