"""The number systems that one source runs on, as conversions from and to NumPy.

NumPy and, where there is one, CuPy compute in floats; array-api-strict refuses everything that the standard does not promise, and its
`device1` also refuses what a GPU would (NumPy conversions, mixing devices); `no_float64` has no doubles. Balls are in `validation.truth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import array_api_strict as strict
import numpy as np
from array_api_compat import to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.backend import Backend

__all__ = ["NumberSystem", "float_systems"]


@dataclass(frozen=True)
class NumberSystem:
    """Where arrays live: `to` brings a NumPy array there, `back` returns it; `dtypes` are those it computes in."""

    name: str
    dtypes: tuple[str, ...]
    to: Callable[[Any], Any]
    back: Callable[[Any], Any]

    def run(self, definition: Callable[..., Any]) -> Callable[..., Any]:
        """`definition` as a function of NumPy arrays that computes here."""

        def moved(value: Any) -> Any:
            return self.to(value) if isinstance(value, np.ndarray) else value

        def function(*arrays: Any, **params: Any) -> Any:
            return self.back(definition(*map(moved, arrays), **{name: moved(value) for name, value in params.items()}))

        return function


def _strict(device: str, dtypes: tuple[str, ...]) -> NumberSystem:
    place = strict.Device(device)

    def back(array: Any) -> Any:
        return np.asarray(to_device(array, strict.Device("CPU_DEVICE")))

    return NumberSystem(f"strict {device}", dtypes, lambda array: strict.asarray(array, device=place), back)


def float_systems(backend: Backend) -> list[NumberSystem]:
    """NumPy, the given backend if that is another, and array-api-strict on three devices."""
    systems = [NumberSystem("numpy", ("float16", "bfloat16", "float32", "float64"), lambda a: a, np.asarray)]
    if backend.name != "numpy":
        systems.append(NumberSystem(backend.name, ("float16", "float32", "float64"), backend.asarray, backend.to_numpy))
    systems.append(_strict("CPU_DEVICE", ("float32", "float64")))
    systems.append(_strict("device1", ("float32", "float64")))
    systems.append(_strict("no_float64", ("float32",)))
    return systems
