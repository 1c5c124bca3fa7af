"""Which array library, on which device; and a diagnosis of what stands between a machine and its GPU.

`get("numpy")` and `get("cupy")` give just that or raise; `get("auto")` takes CuPy if a kernel compiles and a product runs, NumPy
otherwise, and says on standard error which and why. Nothing falls back silently. The environment variable REFIMPL_BACKEND
replaces "auto".
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refimpl.errors import BackendError, DtypeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.number_system import Array

__all__ = ["Backend", "Rung", "diagnose", "generator", "get"]

NAMES = ("numpy", "cupy", "auto")
INSTALL = 'pip install "cupy-cuda12x[ctk]"   (the extra "gpu": about 140 MB, and 1.7 GB of CUDA libraries)'


@dataclass(frozen=True)
class Backend:
    """An array library and a device."""

    name: str
    xp: Any  # array-API namespace
    device: Any

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: array libraries are modules, which cannot be."""
        return (get, (self.name,)) if self.name in NAMES else super().__reduce__()  # type: ignore[return-value]

    def asarray(self, a: Any, dtype: Any = None) -> Array:
        """`a` (a NumPy array, a nested list, an array already here) as an array of this backend, its dtype kept unless given."""
        if self.name == "cupy" and str(getattr(a, "dtype", "")) == "bfloat16":
            raise DtypeError(
                "CuPy has no bfloat16 arrays",
                expected="float16, float32 or float64 on the cupy backend",
                got="bfloat16",
                remedy='load with dtype="float32", or use the numpy backend',
            )
        return self.xp.asarray(a, dtype=dtype, device=self.device)

    def to_numpy(self, a: Array) -> Any:
        """`a` as a NumPy array on the host."""
        if self.name == "cupy":
            import cupy

            return cupy.asnumpy(a)
        import numpy

        return numpy.asarray(a)


@dataclass(frozen=True)
class Rung:
    """One step of the diagnosis: what was tried, whether it held, what was seen, and what to do if it did not."""

    step: str
    ok: bool
    detail: str
    remedy: str = ""


def _import_cupy() -> Any:
    import cupy

    return cupy


def _installed() -> str:
    return f"cupy {_import_cupy().__version__}"


def _driver() -> str:
    version = _import_cupy().cuda.runtime.driverGetVersion()
    if version == 0:
        msg = "no NVIDIA driver is visible (driver version 0)"
        raise RuntimeError(msg)
    return f"CUDA driver API {version // 1000}.{version % 1000 // 10}"


def _device() -> str:
    cupy = _import_cupy()
    count = cupy.cuda.runtime.getDeviceCount()
    if count == 0:
        msg = f"no device, CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"
        raise RuntimeError(msg)
    return f"{count} device(s), first: {cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}"


def _kernel() -> str:
    cupy = _import_cupy()
    kernel = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x * 2 + 1", "refimpl_diagnosis")
    result = cupy.asnumpy(kernel(cupy.arange(4, dtype=cupy.float32))).tolist()
    if result != [1.0, 3.0, 5.0, 7.0]:
        msg = f"the kernel ran but answered {result}"
        raise RuntimeError(msg)
    return "compiled and ran one kernel (NVRTC works)"


def _product() -> str:
    cupy = _import_cupy()
    square = cupy.arange(9, dtype=cupy.float64).reshape(3, 3)
    if cupy.asnumpy(square @ square).tolist() != [[15.0, 18.0, 21.0], [42.0, 54.0, 66.0], [69.0, 90.0, 111.0]]:
        msg = "the matrix product ran but its answer is wrong"
        raise RuntimeError(msg)
    return "ran one matrix product (cuBLAS works)"


LADDER: list[tuple[str, Callable[[], str], str]] = [
    ("import of CuPy", _installed, INSTALL),
    ("NVIDIA driver", _driver, "install the NVIDIA driver, or start the container with the GPU passed through"),
    ("CUDA device", _device, "check `nvidia-smi` and CUDA_VISIBLE_DEVICES"),
    ("NVRTC compiles a kernel", _kernel, f"the CUDA compiler library is missing or does not match: {INSTALL}"),
    ("cuBLAS multiplies", _product, f"the cuBLAS library is missing or does not match: {INSTALL}"),
]


def diagnose() -> list[Rung]:
    """Climb the ladder from "is CuPy installed" to "does a product come out right"; stops at the first rung that breaks."""
    rungs: list[Rung] = []
    for step, attempt, remedy in LADDER:
        try:
            rungs.append(Rung(step, True, attempt()))
        except Exception as error:
            rungs.append(Rung(step, False, f"{type(error).__name__}: {error}", remedy))
            break
    return rungs


def _numpy() -> Backend:
    import array_api_compat.numpy as xp

    return Backend("numpy", xp, "cpu")


def _cupy(rungs: list[Rung]) -> Backend:
    if not rungs[-1].ok:
        broken = rungs[-1]
        raise BackendError("the cupy backend does not work", where=broken.step, got=broken.detail, remedy=broken.remedy)
    import array_api_compat.cupy as xp
    import cupy

    return Backend("cupy", xp, cupy.cuda.Device(0))


def generator(seed: int) -> Any:
    """NumPy's default random generator: random numbers are drawn on the host, so that a seed means the same on every backend."""
    import numpy

    return numpy.random.default_rng(seed)


def get(name: str = "auto") -> Backend:
    """The backend called `name`: "numpy", "cupy", or "auto" (which the environment variable REFIMPL_BACKEND replaces).

    Raises
    ------
    BackendError
        for an unknown name, or when "cupy" is asked for and does not work; the message names the rung that broke and the remedy.
    """
    asked = os.environ.get("REFIMPL_BACKEND", "auto") if name == "auto" else name
    if asked not in NAMES:
        origin = 'backend.get(name="auto"), from REFIMPL_BACKEND' if name == "auto" else "backend.get(name=...)"
        raise BackendError("unknown backend", where=origin, expected=" | ".join(NAMES), got=repr(asked))
    if asked == "numpy":
        return _numpy()
    rungs = diagnose()
    if asked == "cupy" or rungs[-1].ok:
        backend, reason = _cupy(rungs), rungs[-2].detail if len(rungs) > 1 else ""
    else:
        backend, reason = _numpy(), f"{rungs[-1].step}: {rungs[-1].detail.splitlines()[0]}"
    if asked == "auto":
        print(f"refimpl: backend auto chose {backend.name} ({reason})", file=sys.stderr)  # noqa: T201 - the promise of "auto"
    return backend
