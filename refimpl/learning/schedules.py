"""Learning rates as functions of the step, which is counted from 0.

    η(s) = peak (s + 1)/w                                          for s < w: warm-up in w steps, of which the last has the peak          (1)
    η(s) = peak                                                    "constant"
    η(s) = peak (f + (1 - f) (1 - p))                              "linear",  p = (s - w)/(n - w) limited to 1                            (2)
    η(s) = peak (f + (1 - f) (1 + cos πp)/2)                       "cosine"                                                               (3)

n is the number of steps, f the floor as a part of the peak, reached at s = n: the last step, s = n - 1, is just above it. Steps past n stay at the
floor.

Reference: I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", arXiv 1608.03983, equation (5), without restarts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from refimpl.errors import ConfigError
from refimpl.number_system import whole_number

__all__ = ["Schedule"]

SHAPES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """η(s) = peak · (s + 1)/w in the warm-up, then peak · (f + (1 - f) · shape(p)).

    Parameters
    ----------
    peak : the largest learning rate, > 0 and finite
    shape : "constant", "linear" or "cosine"
    steps : n, in all, warm-up included; needed unless the shape is "constant"
    warm_up : w, of them
    floor : f, 0 <= f <= 1, what is left at the end, as a part of the peak
    """

    peak: float
    shape: Literal["constant", "linear", "cosine"] = "constant"
    steps: int | None = None
    warm_up: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            got, expected = repr(self.shape), ", ".join(SHAPES)
            raise ConfigError("unknown shape of a schedule", where="Schedule(shape)", expected=expected, got=got)
        counts = {"warm_up": self.warm_up} | ({} if self.steps is None else {"steps": self.steps})
        for name, count in counts.items():
            if (whole := whole_number(count)) is None:
                got, expected = repr(count), "a whole number of steps"
                raise ConfigError("the schedule makes no sense", where=f"Schedule({name})", expected=expected, got=got)
            object.__setattr__(self, name, whole)  # JSON has no numbers of NumPy
        for name in ("peak", "floor"):
            object.__setattr__(self, name, float(getattr(self, name)))
        ends = self.shape == "constant" or (self.steps is not None and self.steps > self.warm_up)
        if not (0 < self.peak < math.inf and self.warm_up >= 0 and 0 <= self.floor <= 1 and ends):
            raise ConfigError(
                "the schedule makes no sense",
                where="Schedule",
                expected="peak > 0 and finite, warm_up >= 0, 0 <= floor <= 1, and steps > warm_up unless it is constant",
                got=self.described(),
            )

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        if self.shape == "constant" or self.steps is None:
            return self.peak
        p = min(1.0, (step - self.warm_up) / (self.steps - self.warm_up))
        left = 1 - p if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * p))
        return self.peak * (self.floor + (1 - self.floor) * left)

    def described(self) -> dict[str, Any]:
        """The constants, as JSON can say them."""
        return asdict(self)
