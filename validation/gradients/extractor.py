"""Cases of the network that chooses sentences, and of its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import bert
from refimpl.spaces.extractor import ExtractorConfig, ExtractorWeights
from validation.gradients.case import EVERY, Case, of

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = ExtractorConfig(2, 3, dilations=(1, 2))
MASK = np.array([[True] * 4, [True, True, True, False]])


def _model(rng: np.random.Generator, config: ExtractorConfig, rows: tuple[int, ...]) -> dict[str, Any]:
    """Parameters of ordinary size, scales near 1, and vectors."""
    arrays = {
        name: rng.normal(float(name.endswith("scale")), 0.5, shape)
        for name, shape in ExtractorWeights.shapes(config).items()
    }
    vectors = rng.normal(size=(*rows, config.input_size))
    return {"weights": ExtractorWeights.from_named(arrays, config), "config": config, "vectors": vectors}


@of("spaces.extractor.sentence_logits")
def _logits(rng: np.random.Generator) -> Iterator[Case]:
    yield Case(
        "one layer", "", _model(rng, ExtractorConfig(2, 3, 2, (1,), 1e-7), (3,)), dtypes=("float32",), sampled=True
    )
    given = _model(rng, CONFIG, (2, 4))
    yield Case("masked", "padding has no influence", given | {"mask": MASK})
    widths = (2, 3, 3, 3)
    factors = [2.0 * (rng.random((2, 4, width)) < 0.5) for width in widths]
    yield Case("dropout", "factors of 0 and 2, and a place without", given | {"dropout": [*factors[:3], None]})
    yield Case("dropout, masked", "the last place alone", given | {"mask": MASK, "dropout": [None] * 3 + factors[3:]})


@of("spaces.extractor.sentence_probabilities")
def _probabilities(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("masked", "padding has no probability", _model(rng, CONFIG, (2, 4)) | {"mask": MASK})


@of("spaces.extractor.extractor_loss")
def _losses(rng: np.random.Generator) -> Iterator[Case]:
    given = {"logits": rng.normal(size=(2, 4)), "labels": rng.random((2, 4)) < 0.5}
    yield Case("all", "no mask", given, dtypes=EVERY)
    yield Case("masked", "padding does not count", given | {"mask": MASK})
    yield Case("published", "padding counts in N", given | {"mask": MASK, "dialect": "published"})
    yield Case("piece", "a piece of a batch of ten", given | {"mask": MASK, "total": 10})
    sure = {"logits": np.array([40.0, -40, 800, -800, 0]), "labels": np.array([True, False, False, True, True])}
    yield Case("sure", "nearly certain, rightly and wrongly", sure)


@of("spaces.extractor.sentence_vectors")
def _vectors(rng: np.random.Generator) -> Iterator[Case]:
    config = bert.BertConfig(7, 4, 1, 2, 6, max_position_embeddings=6)
    shapes = bert.BertWeights.shapes(config, ())
    arrays = {name: rng.normal(float(name.endswith("scale")), 0.5, shape) for name, shape in shapes.items()}
    given = {"weights": bert.BertWeights.from_named(arrays, config), "config": config}
    ids = np.array([[3, 5, 1], [6, 4, 0]])
    yield Case("masked", "padding", given | {"token_ids": ids, "mask": np.array([[True] * 3, [True, True, False]])})
