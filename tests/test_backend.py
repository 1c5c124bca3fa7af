"""The backend switch: every rung of the ladder broken by a fake CuPy, and the promise that nothing falls back silently."""

from __future__ import annotations

import builtins
import pickle
import re
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import refimpl
from refimpl import backend, errors

STEPS = ["import of CuPy", "NVIDIA driver", "CUDA device", "NVRTC compiles a kernel", "cuBLAS multiplies"]


class _Square:
    """A 3 x 3 array whose product is chosen."""

    def __init__(self, product: Any) -> None:
        self.product = product

    def reshape(self, *_: int) -> _Square:
        return self

    def __matmul__(self, other: Any) -> Any:
        if isinstance(self.product, Exception):
            raise self.product
        return self.product


RIGHT = np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3)


def _fake(
    *, driver: Any = 12040, devices: Any = 1, kernel: Any = (1.0, 3.0, 5.0, 7.0), product: Any = RIGHT
) -> types.ModuleType:
    """A module `cupy` that works, except where told otherwise: a value, or an exception to raise."""

    def answer(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    cupy = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: answer(driver),
        getDeviceCount=lambda: answer(devices),
        getDeviceProperties=lambda _: {"name": b"Imaginary 9000"},
    )
    cupy.__dict__.update(
        __version__="14.0.0",
        float32="float32",
        float64="float64",
        cuda=types.SimpleNamespace(runtime=runtime, Device=lambda number: f"device {number}"),
        ElementwiseKernel=lambda *_: lambda _: np.array(answer(kernel)),
        arange=lambda count, dtype: _Square(product) if count == 9 else count,
        asnumpy=np.asarray,
    )
    return cupy


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """install(module) makes it what `import cupy` gives; install(None) makes the import fail."""
    original = builtins.__import__

    def put(cupy: Any) -> None:
        def importing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "cupy":
                if cupy is None:
                    msg = "No module named 'cupy'"
                    raise ModuleNotFoundError(msg)
                return cupy
            if name.startswith("array_api_compat.cupy"):
                return types.SimpleNamespace(cupy=types.SimpleNamespace(__name__="array_api_compat.cupy"))
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", importing)

    monkeypatch.delenv("REFIMPL_BACKEND", raising=False)
    return put


BROKEN = {
    "not installed": (None, 0, "ModuleNotFoundError: No module named 'cupy'", 'pip install "cupy-cuda12x[ctk]"'),
    "driver 0": (_fake(driver=0), 1, "no NVIDIA driver is visible (driver version 0)", "install the NVIDIA driver"),
    "driver call fails": (
        _fake(driver=OSError("libcuda.so.1")),
        1,
        "OSError: libcuda.so.1",
        "install the NVIDIA driver",
    ),
    "no device": (_fake(devices=0), 2, "no device, CUDA_VISIBLE_DEVICES=", "nvidia-smi"),
    "device call fails": (_fake(devices=RuntimeError("cudaErrorNoDevice")), 2, "cudaErrorNoDevice", "nvidia-smi"),
    "kernel fails": (
        _fake(kernel=RuntimeError("libnvrtc.so\nmore")),
        3,
        "RuntimeError: libnvrtc.so",
        "compiler library",
    ),
    "kernel wrong": (
        _fake(kernel=(0.0, 0.0, 0.0, 0.0)),
        3,
        "the kernel ran but answered [0.0, 0.0",
        "compiler library",
    ),
    "cuBLAS fails": (
        _fake(product=ImportError("libcublas.so.12")),
        4,
        "ImportError: libcublas.so.12",
        "cuBLAS library",
    ),
    "cuBLAS wrong": (_fake(product=RIGHT + 1e-3), 4, "its answer is wrong", "cuBLAS library"),
}
every_break = pytest.mark.parametrize(("cupy", "rung", "seen", "remedy"), BROKEN.values(), ids=BROKEN)


@every_break
def test_diagnosis_climbs_to_the_rung_that_breaks_and_stops(
    cupy: Any, rung: int, seen: str, remedy: str, install: Any
) -> None:
    install(cupy)
    rungs = backend.diagnose()
    assert [found.step for found in rungs] == STEPS[: rung + 1]
    assert [found.ok for found in rungs] == [True] * rung + [False]
    assert seen in rungs[-1].detail
    assert remedy in rungs[-1].remedy
    assert all(found.remedy == "" for found in rungs[:-1])


@every_break
def test_explicit_cupy_never_falls_back(cupy: Any, rung: int, seen: str, remedy: str, install: Any) -> None:
    install(cupy)
    with pytest.raises(errors.BackendError) as caught:
        backend.get("cupy")
    text = str(caught.value)
    for part in ("the cupy backend does not work", STEPS[rung], seen, remedy):
        assert part in text


@every_break
def test_auto_takes_numpy_and_says_so_and_why(
    cupy: Any, rung: int, seen: str, remedy: str, install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install(cupy)
    assert backend.get("auto").name == "numpy"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"refimpl: backend auto chose numpy ({STEPS[rung]}: ")
    assert seen.splitlines()[0] in err
    assert err.count("\n") == 1
    del remedy


def test_a_working_ladder_is_climbed_to_the_top_and_auto_says_so(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install(_fake())
    rungs = backend.diagnose()
    assert [(found.step, found.ok) for found in rungs] == [(step, True) for step in STEPS]
    assert "cupy 14.0.0" in rungs[0].detail
    assert "12.4" in rungs[1].detail
    assert "1 device(s), first: Imaginary 9000" in rungs[2].detail
    chosen = backend.get("auto")
    assert (chosen.name, chosen.device) == ("cupy", "device 0")
    assert capsys.readouterr().err.startswith("refimpl: backend auto chose cupy (")
    assert backend.get("cupy").name == "cupy"
    assert capsys.readouterr().err == ""


def test_no_device_names_the_variable_that_may_hide_it(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(_fake(devices=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES=-1" in backend.diagnose()[-1].detail
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES=not set" in backend.diagnose()[-1].detail


def test_numpy_is_silent_and_needs_no_cupy(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def climbed() -> Any:
        pytest.fail("the ladder was climbed for numpy")

    install(None)
    assert backend.get("numpy").name == "numpy"
    assert capsys.readouterr() == ("", "")
    del climbed


def test_the_environment_replaces_auto_and_nothing_else(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(None)
    monkeypatch.setenv("REFIMPL_BACKEND", "numpy")
    assert backend.get().name == backend.get("auto").name == "numpy"
    assert capsys.readouterr().err == ""  # asked for by name: nothing was chosen
    monkeypatch.setenv("REFIMPL_BACKEND", "cupy")
    with pytest.raises(errors.BackendError, match="the cupy backend does not work"):
        backend.get("auto")
    assert backend.get("numpy").name == "numpy"
    monkeypatch.setenv("REFIMPL_BACKEND", "auto")
    assert backend.get("auto").name == "numpy"
    assert "auto chose numpy" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["torch", "", "NumPy", "auto "])
def test_unknown_backends_are_refused_with_their_origin(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(origin: str) -> Any:
        parts = ("unknown backend", origin, "numpy | cupy | auto", repr(value))
        return pytest.raises(errors.BackendError, match="(?s)" + ".*".join(map(re.escape, parts)))

    with refused("backend.get(name=...)"):
        backend.get(value)
    monkeypatch.setenv("REFIMPL_BACKEND", value)
    with refused("from REFIMPL_BACKEND"):
        backend.get("auto")


def test_bfloat16_on_cupy_is_refused_with_what_to_do() -> None:
    gpu = backend.Backend("cupy", np, None)
    with pytest.raises(errors.DtypeError) as caught:
        gpu.asarray(np.ones(2, ml_dtypes.bfloat16))
    for part in (
        "CuPy has no bfloat16",
        "float16, float32 or float64",
        "got:      bfloat16",
        'dtype="float32"',
        "numpy backend",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
def test_numpy_backend_keeps_dtypes_and_values_both_ways(dtype: str) -> None:
    chosen = backend.get("numpy")
    array = np.arange(4).astype(dtype)
    there = chosen.asarray(array)
    assert there.dtype == array.dtype
    assert np.array_equal(chosen.to_numpy(there), array)
    assert chosen.asarray([1, 2], dtype=chosen.xp.float32).dtype == np.float32
    assert chosen.asarray(np.ones(1, ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16
    assert chosen.device == "cpu"


def test_a_seed_is_that_of_numpys_default_generator() -> None:
    assert backend.generator(3).random(4).tolist() == np.random.default_rng(3).random(4).tolist()


def test_a_backend_and_a_model_on_it_can_be_pickled() -> None:
    """What a pool of processes needs; the array library itself is a module, which cannot be."""

    model = refimpl.load("tang", backend="numpy")
    again = pickle.loads(pickle.dumps(model))
    assert again.backend == model.backend
    assert again.generate("春", seed=1, max_new_tokens=5) == model.generate("春", seed=1, max_new_tokens=5)
