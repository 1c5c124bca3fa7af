"""What is trained: the first parameters of a GPT-2, and its loss and gradients by the definitions' rules.

    E, P, W ~ N(0, 0.02²)        W of the two residual branches ~ N(0, 0.02²/2L)        biases 0, scales 1                       (1)
    L = mean cross-entropy of the targets that count, over all rectangles of a step                                              (2)

Reference: A. Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3, and "Improving language understanding by
generative pre-training" (2018), section 4.1: 0.02, and 1/√N for N residual layers, of which there are two in each of L blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from refimpl import gpt2
from refimpl.backend import generator
from refimpl.errors import ConfigError
from refimpl.learning.losses import mean_cross_entropy_vjp
from refimpl.number_system import Array, device_of, namespace
from refimpl.trees import added

if TYPE_CHECKING:
    from refimpl.gradients import Pullback
    from refimpl.learning.data import Batch

__all__ = ["GPT2Gradient", "counted_targets", "gpt2_loss_vjp", "initial_gpt2"]

BRANCHES = ("attention_output.weight", "feed_forward_out.weight")


def initial_gpt2(config: gpt2.GPT2Config, seed: int = 0, dtype: str = "float32") -> gpt2.GPT2Weights:
    """Equation (1), drawn by NumPy's default generator in float64, in the order of `GPT2Weights.shapes`, and rounded to `dtype`.

    Raises ConfigError unless the dtype is float32 or float64.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError("parameters cannot learn in that dtype", expected="float32 or float64", got=repr(dtype))
    rng, arrays = generator(seed), {}
    for name, shape in gpt2.GPT2Weights.shapes(config).items():
        deviation = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith(BRANCHES) else 0.02
        drawn = rng.normal(0.0, deviation, shape) if len(shape) == 2 else np.full(shape, float(name.endswith("scale")))
        arrays[name] = drawn.astype(dtype)
    return gpt2.GPT2Weights.from_named(arrays, config)


def counted_targets(batches: tuple[Batch, ...]) -> int:
    """N: how many targets of a step count; ConfigError where none does."""
    total = sum(int(np.sum(batch.counted)) for batch in batches)
    if total == 0:
        raise ConfigError("no target of the step counts", where="batches", expected="at least one", got=0)
    return total


def gpt2_loss_vjp(
    weights: gpt2.GPT2Weights,
    config: gpt2.GPT2Config,
    ids: Array,
    targets: Array,
    counted: Array,
    total: int,
    *,
    mask: Array | None = None,
    dialect: str | gpt2.Dialect = "openai",
) -> tuple[Array, Pullback]:  # int (b, n), int (b, n), bool (b, n) -> (), pullback to the weights
    """L = 1/N Σ_i c_i (-log p(target_i)), and L̄ -> (θ̄,): `gpt2.logits_vjp` under `mean_cross_entropy_vjp`, whose arguments and errors these are."""
    logits, back = gpt2.logits_vjp(weights, config, ids, mask=mask, dialect=dialect)
    loss, back_of_loss = mean_cross_entropy_vjp(logits, targets, counted, total)
    return loss, lambda loss_bar: back(*back_of_loss(loss_bar))


class GPT2Gradient:
    """Equation (2) and its gradients, by the rules of `refimpl.gpt2` and `refimpl.learning.losses`; on any array library.

    Parameters
    ----------
    config : the model's sizes
    dialect : as `refimpl.gpt2.logits`
    """

    def __init__(self, config: gpt2.GPT2Config, dialect: str | gpt2.Dialect = "openai") -> None:
        self.config, self.dialect = config, gpt2.named_dialect(dialect)

    def __call__(
        self, weights: gpt2.GPT2Weights, batches: tuple[Batch, ...], rng: np.random.Generator | None = None
    ) -> tuple[Array, gpt2.GPT2Weights]:
        """The loss, and its gradients in the form of the weights; a rectangle at a time, whose gradients are added."""
        total = counted_targets(batches)
        loss, gradients = self._of(weights, batches[0], total)
        for batch in batches[1:]:
            part, bars = self._of(weights, batch, total)
            loss, gradients = loss + part, added(gradients, bars)
        return loss, gradients

    def _of(self, weights: gpt2.GPT2Weights, batch: Batch, total: int) -> tuple[Array, gpt2.GPT2Weights]:
        table = weights.token_embedding
        xp, device = namespace(table), device_of(table)
        ids, targets, counted, real = (xp.asarray(part, device=device) for part in batch)
        loss, back = gpt2_loss_vjp(weights, self.config, ids, targets, counted, total, mask=real, dialect=self.dialect)
        return loss, back(xp.ones_like(loss))[0]
