"""Cases of losses: cross-entropy in its forms, and those of SPACES."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.learning import losses  # noqa: F401 - importing it registers its rule
from validation.gradients.case import EVERY, Case, of
from validation.gradients.rows import hard_rows

if TYPE_CHECKING:
    from collections.abc import Iterator


@of("softmax.sparse_softmax_cross_entropy")
def _sparse_losses(rng: np.random.Generator) -> Iterator[Case]:
    x, mask = rng.normal(size=(3, 6)), rng.random((3, 6)) < 0.7
    targets = np.argmin(x, axis=-1)
    mask[1], mask[np.arange(3), targets] = False, True
    mask[1] = False
    for k in (2, 1, 6, 9):
        yield Case(
            f"k = {k}", "targets outside", {"logits": x, "targets": targets, "k": k}, dtypes=EVERY if k == 2 else ()
        )
    best = {"logits": x, "targets": np.argmax(x, axis=-1), "k": 2}
    yield Case("best", "targets within", best)
    blind = (~mask.any(-1),)
    yield Case("masked", "a row without entries", {"logits": x, "targets": targets, "k": 2, "mask": mask}, unseen=blind)
    ties = {"logits": np.array([[1.0, 3, 3, 3, 0], [2, 2, 2, 2, 2]]), "targets": np.array([2, 4]), "k": 2}
    yield Case("ties", "of equal entries the first", ties, steps_only="the last of the k largest is tied")
    large = {"logits": np.array([[1e4, 1e4 - 1, -1e4, 9e3]]), "targets": np.array([1]), "k": 2}
    yield Case("large", "exp overflows unless shifted", large)


@of("softmax.cross_entropy")
def _losses(rng: np.random.Generator) -> Iterator[Case]:
    for label, (hard, x) in hard_rows(rng).items():
        targets = rng.integers(0, x.shape[-1], x.shape[:-1])
        yield Case(label, hard, {"logits": x, "targets": targets}, dtypes=EVERY if label == "ordinary" else ())
    x = rng.normal(size=(2, 2, 4))
    yield Case("batch", "three axes", {"logits": x, "targets": rng.integers(0, 4, (2, 2))})
    sure = np.array([[40.0, 0, 1], [0, 45, 2]])
    yield Case(
        "sure",
        "the target has nearly all the weight",
        {"logits": sure, "targets": np.array([0, 1])},
        complex_step=2.0**-52 / math.exp(-39.5),
        reason="the definition's derivative is t_k - Σ p_j t_j, of terms of size 1, each rounded by u; the answer is about exp(-39)",
    )


@of("learning.losses.mean_cross_entropy")
def _mean_losses(rng: np.random.Generator) -> Iterator[Case]:
    given = {"logits": rng.normal(size=(2, 3, 4)), "targets": rng.integers(0, 4, (2, 3))}
    counted = np.array([[True, True, False], [False, False, False]])
    yield Case("some", "targets that do not count", given | {"counted": counted}, dtypes=EVERY)
    yield Case("piece", "a piece of a batch of ten", given | {"counted": ~counted, "total": 10})
    outside = given | {"targets": np.where(counted, given["targets"], -100), "counted": counted}
    yield Case("outside", "ids out of range, which do not count", outside)


@of("softmax.clipped_cross_entropy")
def _clipped_losses(rng: np.random.Generator) -> Iterator[Case]:
    x, targets = rng.normal(size=(3, 4)), np.array([0, 3, 1])
    yield Case("inside", "no probability is clipped", {"logits": x, "targets": targets}, dtypes=EVERY)
    low = {"logits": x, "targets": np.argmin(x, axis=-1), "clip": 0.12}
    high = {"logits": x + 3 * (np.arange(4) == targets[:, None]), "targets": targets, "clip": 0.12}
    yield Case("low", "some are, the targets among them", low)
    yield Case("high", "targets that are nearly certain", high)
    yield Case("all", "all of them: nothing is learned", {"logits": 40.0 * x, "targets": targets, "clip": 0.3})


# --- SPACES ---------------------------------------------------------------------------------------------------------------------------


def _spaces(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Token ids and segments of a source and a target with padding; and the logits of tokens, and of tags with their labels."""
    segments = {"segment_ids": np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])}
    tokens = {"logits": rng.normal(size=(2, 5, 4)), "token_ids": rng.integers(0, 4, (2, 5))}
    return segments, tokens, {"tag_logits": rng.normal(size=(2, 5, 3)), "labels": rng.integers(0, 3, (2, 4))}


@of("copying.copy_loss")
def _copy_losses(rng: np.random.Generator) -> Iterator[Case]:
    segments, _, tags = _spaces(rng)
    yield Case("corrected", "the last positions are not trained", segments | tags, dtypes=EVERY)
    yield Case("bert4keras-spaces", "clipped at 1e-7", segments | tags | {"dialect": "bert4keras-spaces"})
    yield Case("clipped", "probabilities that are clipped", segments | tags | {"clip": 0.2})


@of("copying.sequence_loss")
def _sequence_losses(rng: np.random.Generator) -> Iterator[Case]:
    segments, tokens, _ = _spaces(rng)
    yield Case("plain", "all tokens", segments | tokens, dtypes=EVERY)
    yield Case("sparse", "the two largest alone", segments | tokens | {"k": 2})


@of("copying.spaces_loss")
def _spaces_losses(rng: np.random.Generator) -> Iterator[Case]:
    segments, tokens, tags = _spaces(rng)
    yield Case("both", "", segments | tokens | tags, dtypes=EVERY)
    yield Case(
        "weighted", "another weight, clipped", segments | tokens | tags | {"copy_weight": 0.3, "k": 2, "clip": 0.01}
    )
