"""Training: one step as a function of a state, and a loop that can stop anywhere and go on as if it never had.

    L, g = gradient(θ_s, batches_s, rng_s)        g ← clipped g        θ_{s+1}, m_{s+1} = optimizer(θ_s, g, m_s, η(s))             (1)

batches_s is a function of the corpus and (epoch, position), and rng_s, from which a gradient may draw (dropout), is seeded by the training's seed and
s: no state but `State` is carried from step to step. So n steps are k steps, a checkpoint, and n - k steps in another process, in every bit, on the
same machine with the same libraries and number of threads.

A *gradient* is any function of parameters, batches and a generator that returns the loss and its gradients in a tree of the parameters' form:
`refimpl.learning.gpt2.gradient`, made of the definitions' rules, the fast `refimpl.learning.session.Session`, or one's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from refimpl.errors import ConfigError, DivergenceError
from refimpl.learning.checkpoints import State, check_name, read_checkpoint, write_checkpoint
from refimpl.learning.optimizers import clipped, global_norm
from refimpl.number_system import namespace, whole_number
from refimpl.trees import Tree, mapped, named_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from refimpl.learning.optimizers import Optimizer
    from refimpl.learning.schedules import Schedule

__all__ = ["Gradient", "Steps", "Taken", "Training"]


class Steps(Protocol):
    """What a training goes through: batches, of whatever form its gradient reads, as a function of where it is."""

    def step(self, epoch: int, position: int) -> tuple[Any, ...]:
        """The batches of a step; each has `counted`, booleans that say which of its targets are trained."""

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """Where the step after this one is: (epoch, position)."""

    def described(self) -> dict[str, Any]:
        """Everything that decides what a step holds, as JSON can say it."""


class Gradient(Protocol):
    """L and ∂L/∂θ of the batches of one step."""

    def __call__(self, parameters: Tree, batches: tuple[Any, ...], rng: np.random.Generator) -> tuple[Any, Tree]:
        """The loss, a scalar, and gradients in a tree of the parameters' form."""


class Taken(NamedTuple):
    """What one step showed."""

    step: int  # steps taken, this one included
    epoch: int
    loss: float  # before the step, a mean over its targets in nats
    norm: float  # of the gradients, before clipping
    rate: float
    targets: int  # that counted


@dataclass(frozen=True)
class Training:
    """Everything about a training that is fixed throughout.

    Attributes
    ----------
    gradient : the function that is minimised
    corpus : a `refimpl.learning.data.Corpus`, a `refimpl.learning.seq2seq.PairCorpus`, or what has their `step`, `after` and `described`
    optimizer, schedule : of `refimpl.learning.optimizers` and `refimpl.learning.schedules`
    clip : the largest norm of the gradients, or None
    seed : of what the gradient draws; the corpus has its own
    about : what else a checkpoint is to be known by, as JSON can say it: the model's configuration, dropout
    """

    gradient: Gradient
    corpus: Steps
    optimizer: Optimizer
    schedule: Schedule
    clip: float | None = 1.0
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (seed := whole_number(self.seed)) is None or seed < 0:
            raise ConfigError(
                "that is no seed", where="Training", expected="a whole number from 0", got=repr(self.seed)
            )
        object.__setattr__(self, "seed", seed)  # JSON has no numbers of NumPy
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))

    def start(self, parameters: Tree) -> State:
        """The state before the first step; DtypeError for 16-bit parameters. Arrays that are not in C order, as a checkpoint's are, are copied."""
        parameters = mapped(_in_c_order, parameters)
        return State(parameters, self.optimizer.start(parameters), 0, 0, 0)

    def step(self, state: State) -> tuple[State, Taken]:
        """Equation (1). The arrays of `state` stay as they are.

        Raises
        ------
        DivergenceError
            if the loss, the gradients' norm or a new parameter is not finite: the state given is the last good one.
        """
        batches = self.corpus.step(state.epoch, state.position)
        rng = np.random.default_rng([self.seed, state.step])
        loss, gradients = self.gradient(state.parameters, batches, rng)
        gradients, norm = (gradients, global_norm(gradients)) if self.clip is None else clipped(gradients, self.clip)
        targets = sum(int(np.sum(batch.counted)) for batch in batches)
        rate = self.schedule(state.step)
        taken = Taken(state.step + 1, state.epoch, float(loss), float(norm), rate, targets)
        _check_finite(taken, {})
        parameters, moments = self.optimizer.step(state.parameters, gradients, state.moments, rate)
        _check_finite(taken, named_leaves(parameters))
        place = self.corpus.after(state.epoch, state.position)
        return State(parameters, moments, state.step + 1, *place), taken

    def run(
        self,
        state: State,
        steps: int,
        *,
        checkpoint: str | Path | None = None,
        every: int = 250,
        watch: Callable[[State, Taken], object] = lambda state, taken: None,
    ) -> State:
        """Take steps until `steps` have been taken in all; write a checkpoint after each `every` of them, and at the end.

        Parameters
        ----------
        state : of `start` or `resume`
        steps : in all, those before included
        checkpoint : a .safetensors file, or None
        every : steps between checkpoints
        watch : called after each step with the state and what the step showed

        Raises
        ------
        DivergenceError, ConfigError, weights_io.WeightsError
            as `step` and `save`.
        """
        if every < 1:
            raise ConfigError("checkpoints need a distance", where="run(every)", expected="at least 1", got=every)
        if checkpoint is not None:
            check_name(Path(checkpoint))
        while state.step < steps:
            state, taken = self.step(state)
            if checkpoint is not None and (state.step % every == 0 or state.step == steps):
                self.save(checkpoint, state)
            watch(state, taken)
        return state

    def save(self, path: str | Path, state: State) -> None:
        """Write a checkpoint (`refimpl.learning.checkpoints`)."""
        write_checkpoint(Path(path), state, self.described(state.parameters))

    def resume(self, path: str | Path, parameters: Tree, *, changed: Iterable[str] = ()) -> State:
        """The state in a checkpoint of this training.

        Parameters
        ----------
        path : of the file
        parameters : a tree of the form, on the library and device that the parameters are to have; their values do not matter
        changed : parts of `described` that may differ from the checkpoint's: "optimizer", "schedule", "corpus", ...

        Raises
        ------
        ConfigError, weights_io.WeightsError
            for a file that is no checkpoint of this training: all differences are listed.
        """
        return read_checkpoint(Path(path), self.start(parameters), self.described(parameters), changed)

    def described(self, parameters: Tree) -> dict[str, Any]:
        """Everything that decides what the steps do, but for the values of parameters and the gradient's code, as JSON can say it."""
        shapes = {
            name: [*leaf.shape, str(leaf.dtype).rpartition(".")[2]] for name, leaf in named_leaves(parameters).items()
        }
        return {
            "about": dict(self.about),
            "optimizer": self.optimizer.described(parameters),
            "schedule": self.schedule.described(),
            "corpus": self.corpus.described(),
            "clip": self.clip,
            "seed": self.seed,
            "parameters": shapes,
        }


def _in_c_order(x: Any) -> Any:
    """An array whose memory is as that of one that was read from a file: products of others may differ in the last bit."""
    flags = getattr(x, "flags", None)
    return x if flags is None or flags.c_contiguous else x.copy(order="C")


def _check_finite(taken: Taken, parameters: Mapping[str, Any]) -> None:
    wrong = [name for name, leaf in parameters.items() if not namespace(leaf).all(namespace(leaf).isfinite(leaf))]
    if wrong or not (math.isfinite(taken.loss) and math.isfinite(taken.norm)):
        got = f"loss {taken.loss}, norm of the gradients {taken.norm}"
        raise DivergenceError(
            "the training diverged",
            where=f"step {taken.step}",
            expected="a finite loss, finite gradients and finite parameters",
            got=got + (f"; numbers that are not finite in {', '.join(wrong)}" if wrong else ""),
            remedy="go on from the last checkpoint with a lower learning rate, a longer warm-up, or clipping",
        )
