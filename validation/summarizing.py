"""What SPACES is made of, as components: the network that chooses sentences, with its parameters as arguments.

`dgcnn` is an extractor of six gated convolutions, dilations 1, 2, 4, 8, 1, 1. The parameters of the layers are stacked: `kernels` (6, k, w, 2w), the
gates last, `biases` (6, 2w), `norm_scales` and `norm_biases` (6, w), `alphas` (6,). `projection` is (in, w) and has no bias, `head_weight` (w, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.parameters import Linear, Norm
from refimpl.spaces import extractor
from validation.case import Case

if TYPE_CHECKING:
    from refimpl.number_system import Array

__all__ = ["DILATIONS", "PARAMETERS", "dgcnn", "dgcnn_cases"]

DILATIONS = (1, 2, 4, 8, 1, 1)
PARAMETERS = ("projection", "kernels", "biases", "norm_scales", "norm_biases", "alphas", "head_weight", "head_bias")


def dgcnn(
    vectors: Array,
    mask: Array,
    projection: Array,
    kernels: Array,
    biases: Array,
    norm_scales: Array,
    norm_biases: Array,
    alphas: Array,
    head_weight: Array,
    head_bias: Array,
    eps: float,
) -> Array:  # (b, n, in), bool (b, n), (in, w), (6, k, w, 2w), (6, 2w), (6, w), (6, w), (6,), (w, 1), (1,) -> (b, n)
    """z = x_6 w + b, x_l = x_{l-1} + α_l LN(GLU(conv_l(x_{l-1}))), x_0 = v P; zeros at padding."""
    layers = tuple(
        extractor.GatedLayer(
            kernels[i, :, :, :],
            biases[i, :],
            Norm(norm_scales[i, :], norm_biases[i, :]),
            alphas[i : i + 1],
        )
        for i in range(len(DILATIONS))
    )
    weights = extractor.ExtractorWeights(projection, layers, Linear(head_weight, head_bias))
    taps, width = kernels.shape[1:3]
    config = extractor.ExtractorConfig(vectors.shape[-1], width, taps, DILATIONS, eps)
    return extractor.sentence_logits(weights, config, vectors, mask)


def _right(n: int, *length: int) -> Any:  # -> bool (b, n)
    return np.arange(n) < np.array(length)[:, None]


def dgcnn_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Trials of `dgcnn`; as long that the widest convolution reaches from end to end of a text, and no further."""

    def case(name: str, hard: str, mask: Any, taps: int = 3, eps: float = 1e-12, by: float = 1.0) -> Case:
        into, w, layers = 4, 3, len(DILATIONS)
        arrays = (
            rng.normal(size=(into, w)) / into**0.5,
            rng.normal(size=(layers, taps, w, 2 * w)) / w**0.5,
            rng.normal(size=(layers, 2 * w)) / 2,
            1 + rng.normal(size=(layers, w)) / 4,
            rng.normal(size=(layers, w)) / 2,
            np.array([0.75, -0.5, 1.25, 0.875, -1.5, 0.5]),
            rng.normal(size=(w, 1)),
            rng.normal(size=1),
        )
        return Case(name, hard, (by * rng.normal(size=(*mask.shape, into)), mask, *arrays), {"eps": eps})

    holes = np.arange(12) % 5 != np.array([4, 2])[:, None]
    padded = case("loud padding", "what stands at padding is 100; the second text is shorter by 6", _right(12, 12, 6))
    loud = np.where(padded.arrays[1][..., None], padded.arrays[0], 100.0)
    return [
        case("full", "20 sentences, no padding: dilation 8 reaches across", _right(20, 20)),
        Case(padded.id, padded.hard, (loud, *padded.arrays[1:]), padded.params),
        case("holes", "padding between sentences counts as a place, and as zeros", holes),
        case("one sentence", "every tap but one finds zeros", _right(1, 1, 1)),
        case("two taps", "one zero more behind than before where the dilation is odd", _right(10, 10), taps=2),
        case("large eps", "eps 1/4: all six norms have it inside the root", _right(12, 12), eps=0.25),
    ]
