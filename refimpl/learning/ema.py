"""Exponential moving averages of parameters: the mean of where a training was, which is often a better model than where it is.

    a_{s+1} = β a_s + (1 - β) θ_{s+1}                                                                                            (1)

    corrected         a_0 = 0         θ̄_s = a_s/(1 - βˢ) = Σ_{r=1}^{s} β^{s-r} θ_r / Σ_{r=1}^{s} β^{s-r}     a mean of s points          (2)
    not corrected     a_0 = θ_0       θ̄_s = a_s = βˢ θ_0 + (1 - βˢ) · (2)                                  that remembers the start     (3)

(2) is what bert4keras puts in the weights' place from version 0.8.2 on, SPACES' among them, whose β is 0.9999; before, it was a_s alone. With that
β and fewer than seven thousand steps (3) is for the most part θ_0.

a is kept in float64, unless told otherwise, whatever the parameters' dtype: in float32 what (1) adds is lost where θ is within 2⁻²⁵/(1 - β) of a, as
a part of it: 3 in ten thousand for β = 0.9999. θ̄ is rounded once to the dtype of the parameters.

References: B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30 (1992), for means with
equal weights; D. P. Kingma and J. Ba, "Adam", arXiv 1412.6980, section 3, for the correction, and 7.2, for (2) of parameters; bert4keras'
`extend_with_exponential_moving_average`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError
from refimpl.gradients import zeros
from refimpl.number_system import Array, exact, is_ball, namespace
from refimpl.trees import Tree, mapped

if TYPE_CHECKING:
    from refimpl.learning.optimizers import Optimizer

__all__ = ["EMA", "EMAState", "moving_average"]


def moving_average(average: Array, x: Array, momentum: float) -> Array:  # (...), (...) -> (...)
    """a ← β a + (1 - β) θ; the dtype of `average`."""
    beta = exact(momentum, average)
    return beta * average + (exact(1, average) - beta) * _as(x, average)


def _as(x: Array, like: Array) -> Array:  # (...) -> (...)
    """The numbers of `x` in the dtype of `like`."""
    return x if is_ball(x) else namespace(x, like).astype(x, like.dtype)


class EMAState(NamedTuple):
    """What the optimizer remembers, and the average."""

    optimizer: Tree  # the state of the one that takes the steps
    steps: int  # averaged
    average: Tree  # a, of the parameters' form


@dataclass(frozen=True)
class EMA:
    """An optimizer whose steps are averaged: its own steps, bit for bit, and equation (1) after each.

    Attributes
    ----------
    optimizer : the one that takes the steps
    momentum : β, 0 <= β < 1; 0 is the last point
    corrected : equation (2), or (3)
    wide : whether a is in float64; False: in the dtype of the parameters, for devices that have no float64

    Raises
    ------
    ConfigError
        if the momentum is out of range.
    """

    optimizer: Optimizer
    momentum: float = 0.9999
    corrected: bool = True
    wide: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            expected = "0 <= momentum < 1"
            raise ConfigError("there is no such average", where="EMA(momentum)", expected=expected, got=self.momentum)
        object.__setattr__(self, "momentum", float(self.momentum))
        for name in ("corrected", "wide"):
            object.__setattr__(self, name, bool(getattr(self, name)))

    def start(self, parameters: Tree) -> EMAState:
        """a = 0, or θ where it is not corrected; DtypeError for 16-bit parameters."""
        inner = self.optimizer.start(parameters)
        average = mapped(self._widened, parameters)
        return EMAState(inner, 0, zeros(average) if self.corrected else average)

    def _widened(self, x: Array) -> Array:  # (...) -> (...)
        return namespace(x).astype(x, namespace(x).float64) if self.wide and not is_ball(x) else x

    def step(self, parameters: Tree, gradients: Tree, state: EMAState, rate: float) -> tuple[Tree, EMAState]:
        """The optimizer's step, then equation (1) for every leaf."""
        parameters, inner = self.optimizer.step(parameters, gradients, state.optimizer, rate)
        average = mapped(lambda a, x: moving_average(a, x, self.momentum), state.average, parameters)
        return parameters, EMAState(inner, state.steps + 1, average)

    def averaged(self, parameters: Tree, state: EMAState) -> Tree:
        """θ̄: equation (2) or (3), in the dtypes of the parameters, whose values do not matter.

        Parameters
        ----------
        parameters, state : of a training's state, `state.parameters` and `state.moments`

        Raises
        ------
        ConfigError
            if it is corrected and no step was taken: of no points there is no mean.
        """
        if not self.corrected:
            return mapped(_as, state.average, parameters)
        if state.steps == 0:
            remedy = "take a step first, or take the parameters themselves"
            raise ConfigError(
                "there is nothing to average", where="EMA.averaged", expected="1 step or more", got=0, remedy=remedy
            )

        def mean(a: Array, x: Array) -> Array:  # (...), (...) -> (...)
            one = exact(1, a)
            return _as(a / (one - exact(self.momentum, a) ** state.steps), x)

        return mapped(mean, state.average, parameters)

    def described(self, parameters: Tree) -> dict[str, Any]:
        """The constants, and the description of the optimizer."""
        inner = self.optimizer.described(parameters)
        constants = {name: getattr(self, name) for name in ("momentum", "corrected", "wide")}
        return {"kind": "EMA"} | constants | {"optimizer": inner}
