"""NumPy arrays as torch tensors, for the targets that run on it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

__all__ = ["tensor"]

torch.set_grad_enabled(False)


def tensor(array: Any) -> Any:
    """The array's numbers in a tensor; bfloat16 by its bits, since torch does not know ml_dtypes."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))  # a copy that may be written to
