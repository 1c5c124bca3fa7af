"""A training that takes milliseconds, for the tests: a bigram model, whose logits of the next token are a row of W, with dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import learning

TEXTS = [list(range(1, n)) for n in (3, 4, 4, 6, 7, 7, 7, 9, 9, 4, 5, 3)]


def made_corpus(form: Any = "grouped", **options: Any) -> learning.Corpus:
    return learning.Corpus(TEXTS, **({"length": 8, "form": form, "rows": 2, "targets": 9, "seed": 4} | options))


def bigram(weights: Any, batches: Any, rng: Any) -> Any:
    total, loss, slope = sum(int(b.counted.sum()) for b in batches), 0.0, np.zeros_like(weights["w"])
    for batch in batches:
        kept = (rng.random(batch.ids.shape) < 0.8).astype(slope.dtype)[..., None]
        part, back = learning.mean_cross_entropy_vjp(
            weights["w"][batch.ids] * kept + weights["b"], batch.targets, batch.counted, total
        )
        (bar,) = back(np.ones_like(part))
        loss = loss + part
        np.add.at(slope, batch.ids, bar * kept)
    return loss, {"w": slope, "b": np.sum(slope, axis=0)}


def made_training(optimizer: Any = None, **options: Any) -> learning.Training:
    schedule = learning.Schedule(0.1, "cosine", steps=30, warm_up=4)
    chosen = learning.AdamW(decay=0.1) if optimizer is None else optimizer
    return learning.Training(
        bigram, made_corpus(), chosen, schedule, **({"seed": 8, "about": {"kind": "bigram"}} | options)
    )


def made_parameters(dtype: Any = np.float32) -> Any:
    return {"w": np.random.default_rng(0).standard_normal((10, 10)).astype(dtype), "b": np.zeros(10, dtype)}
