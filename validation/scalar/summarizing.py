"""The extractor of SPACES sentence by sentence.

    x_0 = v P        c_t = b + Σ_i x_{t + ir - l} W_i, l = ⌊(k-1) r/2⌋        x_t ← x_t + α LN((c_t1, ..) / (1 + exp(-gates)))        z = x w + b

What is padding is no neighbour of anything. Six layers, r = 1, 2, 4, 8, 1, 1.

Reference: J. Su, Scientific Spaces 8046 (2021), section on the extraction model.
"""

from __future__ import annotations

from typing import Any

from mpmath import mp, mpf

from validation.scalar.normalization import normalized
from validation.scalar.numbers import added, dot, scalar

__all__ = ["dgcnn"]

Vector = list[Any]


def _convolved(x: dict[int, Vector], t: int, kernel: Any, bias: Vector, distance: int) -> Vector:
    """The convolution at place t: every tap that meets a sentence adds its product."""
    total, first = bias, t - (len(kernel) - 1) * distance // 2
    for i, weight in enumerate(kernel):
        if first + i * distance in x:
            total = added(total, [dot(x[first + i * distance], list(column)) for column in zip(*weight, strict=True)])
    return total


@scalar
def dgcnn(vectors: Any, mask: Any, projection: Any, *parameters: Any, eps: float) -> Any:
    """The logit of every sentence; 0 at padding."""
    *stacked, alphas, head, offset = parameters
    answers = []
    for text, real in zip(vectors, mask, strict=True):
        x = {t: [dot(v, list(c)) for c in zip(*projection, strict=True)] for t, v in enumerate(text) if real[t]}
        for distance, kernel, bias, scale, shift, alpha in zip((1, 2, 4, 8, 1, 1), *stacked, alphas, strict=True):
            after = {}
            for t, own in x.items():
                both = _convolved(x, t, kernel, bias, distance)
                w = len(both) // 2
                gated = [a / (1 + mp.exp(-gate)) for a, gate in zip(both[:w], both[w:], strict=True)]
                after[t] = added(own, [alpha * each for each in normalized(gated, scale, shift, mpf(eps))])
            x = after
        column = [row[0] for row in head]
        answers.append([dot(x[t], column) + offset[0] if t in x else mpf(0) for t in range(len(text))])
    return answers
