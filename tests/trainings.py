"""What tests of trainings share: the parameters after each step, and their exponential mean."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from refimpl import learning
from refimpl.trees import leaves

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def recorded_steps() -> Iterator[list[Any]]:
    """A list that gets the parameters after each step of a training."""
    states: list[Any] = []
    step = learning.Training.step

    def kept(self: Any, state: Any) -> Any:
        found = step(self, state)
        states.append(found[0].parameters)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning.Training, "step", kept)
        yield states


def assert_mean(weights: Any, states: list[Any], momentum: float) -> None:
    """The weights are the corrected exponential mean of the states, the last one counting most."""
    share = momentum ** np.arange(len(states) - 1, -1, -1)
    for each, *of in zip(leaves(weights), *(leaves(state) for state in states), strict=True):
        mean = sum(w * a.astype(np.float64) for w, a in zip(share / share.sum(), of, strict=True))
        np.testing.assert_allclose(each, mean, rtol=1e-5, atol=1e-8)
