"""Weights to begin with that copy already: an induction circuit in the first two layers of the generator.

Where a target's last token stands in the source, the token behind it is what a copy goes on with. Two layers of attention find it (Olsson et al.
2022, "In-context learning and induction heads"); from random weights a model of this size takes thousands of steps to learn so. Here the width is
cut in three, and the two layers are written down:

    a token's embedding    [ e | s | 0 ]      e random, s sines and cosines of its place                                             (1)
    layer 0, two heads     q_i = σ Rot(-1) s_i,  k_j = σ s_j:  Σ_f cos(ω_f (i - 1 - j)), the largest for the place before;
                           v_j = e_j Q, written to the last part: [ e_i | s_i | e_{i-1} Q ]                                           (2)
    layer 1, three heads   q_i = σ e_i Q,  k_j = the last part of j, e_{j-1} Q:  the places behind tokens like this one;
                           v_j = e_j, added to the first part                                                                         (3)
    masked-LM transform    I + what it was, so that tokens like the first part are likely                                             (4)

Q: random orthonormal columns; σ = 1.3; ω from 3 to 0.1, evenly in log ω. All of it is trained on, like everything else. Segments are drawn as ever
and disturb (3) at first; without them every token of a copied run is found (tests/test_training_summaries.py). After a hundred steps the loss of both
is the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.spaces.seq2seq import Seq2SeqConfig, Seq2SeqWeights, initial_seq2seq

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVIATION = 0.02  # of all parts of the embeddings
SHARPNESS = 1.3  # σ
FASTEST, SLOWEST = 3.0, 0.1  # radians a place
BEFORE, SAME = 2, 3  # heads of layer 0, of layer 1


def initial_copying(config: Seq2SeqConfig, seed: int) -> Seq2SeqWeights:
    """`initial_seq2seq` with (1) to (4) written into it."""
    d, w = config.bert.hidden_size, config.bert.hidden_size // config.bert.num_attention_heads
    if d != 2 * SAME * w:
        raise ValueError(f"six heads are needed, not {config.bert.num_attention_heads}")
    named = {name: np.array(array) for name, array in initial_seq2seq(config, seed).named().items()}
    token, place, last = slice(0, d // 2), slice(d // 2, d // 2 + w), d // 2 + w
    for name in ("token_embedding", "segment_embedding"):
        named[name][:, d // 2 :] = 0
    speeds = np.geomspace(FASTEST, SLOWEST, w // 2)
    named["position_embedding"][...] = 0
    named["position_embedding"][:, place] = math.sqrt(2) * DEVIATION * waves(config.context, speeds)
    drawn = np.random.default_rng([seed, 5]).normal(size=(d // 2, d // 2))
    matched = np.linalg.qr(drawn)[0][:, : BEFORE * w]  # Q

    for head, (query, key, value, out) in enumerate(heads(named, 0, BEFORE, w)):
        part = slice(head * w, (head + 1) * w)
        query[place], key[place] = SHARPNESS * back(speeds), SHARPNESS * np.eye(w)
        value[token] = matched[:, part]
        out[:, last + head * w : last + (head + 1) * w] = np.eye(w)
    for head, (query, key, value, out) in enumerate(heads(named, 1, SAME, w)):
        part, which = slice(head * w, (head + 1) * w), head % BEFORE * w
        query[token] = SHARPNESS * matched[:, which : which + w]
        key[last + which : last + which + w] = SHARPNESS * np.eye(w)
        value[part] = out[:, part] = np.eye(w)
    named["masked_lm.transform.weight"] += np.eye(d, dtype=np.float32)
    return Seq2SeqWeights.from_named(named, config)


def waves(count: int, speeds: Any) -> Any:  # int, (f,) -> (count, 2f)
    angles = np.arange(count)[:, None] * speeds
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def back(speeds: Any) -> Any:  # (f,) -> (2f, 2f)
    """The matrix that takes the waves of a place to those of the place before."""
    cosine, sine = np.diag(np.cos(speeds)), np.diag(np.sin(speeds))
    return np.block([[cosine, sine], [-sine, cosine]])


def heads(named: dict[str, Any], layer: int, count: int, width: int) -> Iterator[list[Any]]:
    """The first heads of a layer, emptied: views of their columns for queries, keys and values, and of their rows of the output."""
    columns = named[f"blocks.{layer}.query_key_value.weight"]
    rows = named[f"blocks.{layer}.attention_output.weight"]
    each = len(columns)
    for head in range(count):
        views = [columns[:, i * each + head * width : i * each + (head + 1) * width] for i in range(3)]
        views.append(rows[head * width : (head + 1) * width])
        for view in views:
            view[...] = 0
        yield views
