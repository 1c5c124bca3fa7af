"""Answers from any array library, on the host: NumPy, CuPy, PyTorch, JAX, TensorFlow, and whatever speaks DLPack or `__array__`.

None of these libraries is imported here. A dtype that NumPy lacks (bfloat16, as PyTorch and TensorFlow hold it) comes over as it is, by bits.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from refimpl.errors import DtypeError

__all__ = ["to_numpy"]


def to_numpy(answer: Any) -> Any:
    """`answer` as a NumPy array with its own dtype and shape.

    Raises
    ------
    DtypeError
        for what is no array and does not become one: several arrays, arrays that are sparse, quantized, symbolic or without numbers, masked
        arrays of which something is masked, dtypes that neither NumPy nor ml_dtypes has.
    """
    if isinstance(answer, np.ma.MaskedArray) and np.ma.is_masked(answer):
        raise _no_array(f"a masked array, with {np.ma.count_masked(answer)} of {answer.size} numbers masked")
    if isinstance(answer, np.ndarray | np.generic):
        return np.asarray(answer)
    if isinstance(answer, list | tuple) and any(getattr(each, "shape", ()) for each in answer):
        raise _no_array(f"{type(answer).__name__} of {len(answer)}, some of them arrays")
    try:
        found = _converted(answer)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise DtypeError(
            "the answer does not become an array on the host",
            expected="a dense array with numbers in it",
            got=f"{type(answer).__module__}.{type(answer).__qualname__}: {reason}",
            remedy="return a dense array, computed, of a floating dtype that NumPy or ml_dtypes has",
        ) from error
    if found is None:
        raise _no_array(type(answer).__name__)
    return found


def _no_array(got: str) -> DtypeError:
    return DtypeError(
        "an answer must be an array",
        expected="a NumPy array, or anything with __array__ or __dlpack__",
        got=got,
        remedy="return the array itself, not a tuple of it and something else",
    )


def _is(answer: Any, library: str, name: str) -> bool:
    """Whether its class, or one that it is derived from, is `name` of that library."""
    return any(base.__name__ == name and base.__module__.partition(".")[0] == library for base in type(answer).__mro__)


def _converted(answer: Any) -> Any:
    """The answer on the host by the first way that there is; None if there is none."""
    if _is(answer, "cupy", "ndarray"):
        return answer.get()
    if _is(answer, "torch", "Tensor"):
        return _from_torch(answer.detach().cpu().resolve_conj().resolve_neg())
    if _is(answer, "tensorflow", "Tensor") and hasattr(answer, "numpy"):
        return np.asarray(answer.numpy())  # its __array__ refuses bfloat16 without axes
    if hasattr(answer, "__array__"):
        return np.asarray(answer)  # JAX uses ml_dtypes' bfloat16 itself
    if hasattr(answer, "__dlpack__"):
        return np.from_dlpack(answer)
    return np.asarray(answer) if isinstance(answer, int | float | list | tuple) else None


def _from_torch(tensor: Any) -> Any:
    """A tensor on the host; bfloat16 through the integers of its bits, since NumPy and DLPack refuse it."""
    torch = sys.modules["torch"]
    plain = tensor.as_subclass(torch.Tensor)  # without what a derived class does when it is used
    if plain.dtype is torch.bfloat16:
        return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()
