"""Answers of other array libraries, brought to the host: with the real libraries where they are installed, with stand-ins everywhere."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from refimpl.errors import DtypeError
from validation import check
from validation.exchange import to_numpy

VALUES = [0.0, 1.5, -2.25, 3e4]
DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def same(got: Any, expected: Any) -> None:
    """Type, dtype, shape and bits."""
    assert type(got) is np.ndarray
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


# --- stand-ins, which run everywhere ---------------------------------------------------------------------------------------------


class WithArray:
    """What JAX and TensorFlow have: `__array__` that knows ml_dtypes."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class WithDLPack:
    """A library that speaks DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def of_library(name: str, module: str, **methods: Any) -> type:
    """A class as if it came out of a library that is not here."""
    return types.new_class(name, (), {}, lambda body: body.update({"__module__": module, **methods}))


@each_dtype
@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 4, 1)])
def test_whatever_has_array_comes_over_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.array(VALUES, DTYPES[dtype]).reshape(shape)
    same(to_numpy(WithArray(array)), array)
    same(to_numpy(array), array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whatever_speaks_dlpack_comes_over_bit_for_bit(dtype: str) -> None:
    array = np.array(VALUES, dtype)
    same(to_numpy(WithDLPack(array)), array)
    same(to_numpy(WithDLPack(array[::2])), array[::2])


def test_cupy_is_asked_for_its_array_on_the_host() -> None:
    array = np.array(VALUES, np.float32)

    def refuse(self: Any, *args: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    on_gpu = of_library("ndarray", "cupy", get=lambda self: array, __array__=refuse)
    same(to_numpy(on_gpu()), array)
    derived = type("derived", (on_gpu,), {"__module__": "my_module"})
    same(to_numpy(derived()), array)


def test_tensorflow_is_asked_for_numpy_because_its_array_refuses_bfloat16_without_axes() -> None:
    def refuse(self: Any, *args: Any) -> Any:
        return 2.5  # what numpy calls "not producing an array"

    scalar = ml_dtypes.bfloat16(2.5)
    tensor = of_library("Tensor", "tensorflow.python.framework.ops", numpy=lambda self: scalar, __array__=refuse)
    eager = type("EagerTensor", (tensor,), {"__module__": "tensorflow.python.framework.ops"})
    same(to_numpy(eager()), np.array(2.5, ml_dtypes.bfloat16))


def test_numbers_and_lists_of_numbers_are_arrays() -> None:
    same(to_numpy(1.5), np.array(1.5))
    same(to_numpy([[1.5, 2.0]]), np.array([[1.5, 2.0]]))
    same(to_numpy(np.float32(1.5)), np.array(1.5, np.float32))
    same(to_numpy([np.float32(1.5)]), np.array([1.5], np.float32))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (None, "NoneType"),
        ("text", "str"),
        ({"logits": np.zeros(2)}, "dict"),
        ((np.zeros(2), np.zeros(2)), "tuple of 2, some of them arrays"),
        ([np.zeros((2, 2)), None], "list of 2, some of them arrays"),
        ((WithArray(np.zeros(2)), np.zeros(2)), "tuple of 2, some of them arrays"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "a masked array, with 1 of 2 numbers masked"),
    ],
    ids=["nothing", "text", "dict", "tuple", "list", "other arrays", "masked"],
)
def test_what_is_no_array_is_refused(answer: Any, got: str) -> None:
    """Two arrays of one shape must not become one array of them: that would be told as a wrong shape."""
    with pytest.raises(DtypeError, match="an answer must be an array") as caught:
        to_numpy(answer)
    assert f"got:      {got}" in str(caught.value)
    assert "return the array itself" in str(caught.value)


def test_what_cannot_be_converted_says_why() -> None:
    def refuse(self: Any, *args: Any) -> Any:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!\nmore lines")

    with pytest.raises(DtypeError, match="does not become an array on the host") as caught:
        to_numpy(of_library("Lazy", "some.library", __array__=refuse)())
    assert "got:      some.library.Lazy: Cannot copy out of meta tensor; no data!\n" in str(caught.value)
    assert "more lines" not in str(caught.value)
    assert "return a dense array" in str(caught.value)


def test_a_report_tells_it_as_raised() -> None:
    report = check(lambda x: (x, x), "softmax")
    assert {row.verdict.word for row in report.rows} == {"raised"}
    assert "an answer must be an array" in str(report)


# --- the libraries themselves, where they are installed ----------------------------------------------------------------------------


def torch_module() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)


def tensor_of(torch: Any, dtype: str) -> Any:
    return torch.tensor(VALUES, dtype=getattr(torch, dtype))


@each_dtype
def test_torch(dtype: str) -> None:
    torch = torch_module()
    tensor, array = tensor_of(torch, dtype), np.array(VALUES, DTYPES[dtype])
    same(to_numpy(tensor), array)
    same(to_numpy(tensor[1]), array[1])
    same(to_numpy(tensor.reshape(2, 2).T), np.ascontiguousarray(array.reshape(2, 2).T))
    same(to_numpy(tensor[::2]), np.ascontiguousarray(array[::2]))
    same(to_numpy(tensor[:0].reshape(0, 3)), array[:0].reshape(0, 3))
    same(to_numpy(tensor[1:2].expand(3)), array[[1, 1, 1]])
    with torch.enable_grad():
        same(to_numpy(tensor.clone().requires_grad_()), array)
        same(to_numpy(tensor.clone().requires_grad_() * 2), (array * 2).astype(DTYPES[dtype]))
    with torch.inference_mode():
        same(to_numpy(tensor + 0), array + np.array(0, DTYPES[dtype]))


@each_dtype
def test_torch_of_a_derived_class(dtype: str) -> None:
    """Its class is of another module."""
    torch = torch_module()
    derived = type("Derived", (torch.Tensor,), {"__module__": "my_module"})
    same(to_numpy(tensor_of(torch, dtype).as_subclass(derived)), np.array(VALUES, DTYPES[dtype]))
    same(to_numpy(torch.nn.Parameter(tensor_of(torch, dtype))), np.array(VALUES, DTYPES[dtype]))


def test_torch_views_that_are_conjugated_or_negated_later() -> None:
    torch = torch_module()
    conjugated = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert conjugated.is_conj()
    same(to_numpy(conjugated), np.array([1 - 2j, 3 + 4j], np.complex64))
    assert conjugated.imag.is_neg()
    same(to_numpy(conjugated.imag), np.array([-2, 4], np.float32))
    same(to_numpy(conjugated.imag[0]), np.array(-2, np.float32))


def test_torch_without_numbers_or_dense_storage() -> None:
    torch = torch_module()
    for answer in (torch.eye(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2).to(torch.float8_e5m2)):
        with pytest.raises(DtypeError, match="does not become an array on the host"):
            to_numpy(answer)


@each_dtype
def test_jax(dtype: str) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        array = np.array(VALUES, DTYPES[dtype])
        moved = jax.numpy.asarray(array)
        same(to_numpy(moved), array)
        same(to_numpy(moved[1]), array[1])
        same(to_numpy(moved.reshape(2, 2).T), np.ascontiguousarray(array.reshape(2, 2).T))
        same(to_numpy(jax.jit(lambda x: x[::2])(moved)), np.ascontiguousarray(array[::2]))
        traced: list[Any] = []
        jax.jit(lambda x: traced.append(x) or x)(moved)
        with pytest.raises(DtypeError, match="does not become an array on the host"):
            to_numpy(traced[0])
    finally:
        jax.config.update("jax_enable_x64", before)


@each_dtype
def test_tensorflow(dtype: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    array = np.array(VALUES, DTYPES[dtype])
    tensor = tf.constant(array)
    same(to_numpy(tensor), array)
    same(to_numpy(tensor[1]), array[1])
    same(to_numpy(tf.transpose(tf.reshape(tensor, (2, 2)))), np.ascontiguousarray(array.reshape(2, 2).T))
    same(to_numpy(tf.Variable(tensor)), array)
    same(to_numpy(tf.function(lambda x: x[::2])(tensor)), np.ascontiguousarray(array[::2]))
    seen: list[Any] = []
    tf.function(lambda x: seen.append(x) or x)(tensor)
    with pytest.raises(DtypeError, match="does not become an array on the host"):
        to_numpy(seen[0])
    with pytest.raises(DtypeError, match="an answer must be an array"):
        to_numpy(tf.sparse.eye(2))


def test_exchange_imports_none_of_them() -> None:
    assert "validation.exchange" in sys.modules
    source = sys.modules["validation.exchange"].__file__
    assert source is not None
    with open(source, encoding="utf-8") as file:  # noqa: PTH123
        text = file.read()
    assert not [name for name in ("torch", "jax", "tensorflow", "cupy") if f"import {name}" in text]
