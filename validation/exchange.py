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
        for what is no array and does not become one.
    """
    if isinstance(answer, np.ndarray | np.generic):
        return np.asarray(answer)
    library = type(answer).__module__.partition(".")[0]
    if library == "cupy":
        return answer.get()
    if library == "torch":
        return _from_torch(answer.detach().cpu().resolve_conj().resolve_neg())
    if hasattr(answer, "__array__"):
        return np.asarray(answer)  # JAX and TensorFlow use ml_dtypes' bfloat16 themselves
    if hasattr(answer, "__dlpack__"):
        return np.from_dlpack(answer)
    if isinstance(answer, int | float | list | tuple):
        return np.asarray(answer)
    raise DtypeError(
        "an answer must be an array",
        expected="a NumPy array, or anything with __array__ or __dlpack__",
        got=type(answer).__name__,
        remedy="return the array itself, not a tuple of it and something else",
    )


def _from_torch(tensor: Any) -> Any:
    """A tensor on the host; bfloat16 through the integers of its bits, since NumPy and DLPack refuse it."""
    torch = sys.modules["torch"]
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
