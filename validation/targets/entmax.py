"""entmax, for contrast: it keeps the k largest entries too, but weighs them by other functions, so that it departs."""

from __future__ import annotations

from typing import Any

import entmax

from validation.targets.torch_arrays import tensor
from validation.targets.trial import Trial

__all__ = ["trials"]


def _sparsemax(x: Any, k: int) -> Any:
    return entmax.sparsemax(x, dim=-1)


def _entmax15(x: Any, k: int) -> Any:
    return entmax.entmax15(x, dim=-1)


def trials() -> list[Trial]:
    """What is checked of entmax."""
    named = {"sparsemax": _sparsemax, "entmax15": _entmax15}
    return [Trial(name, "sparse_softmax", function, convert=tensor) for name, function in named.items()]
