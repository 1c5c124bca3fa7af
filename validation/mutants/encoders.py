"""Mutants of BERT and NEZHA: the recorded encoders in plain NumPy, whose steps are replaced one at a time. All compute and answer in float32."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation import components
from validation.mutants import layers as steps
from validation.mutants.catalogue import Mutant, in_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]

Names = dict[str, Any]


@functools.cache
def _model(name: str) -> tuple[Any, Names]:
    """The configuration and the parameters of a recorded encoder; read when the first mutant is called."""
    config, arrays = components.recorded_bert(name)
    return config, {key: np.asarray(array, np.float32) for key, array in arrays.items()}


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _in_order(mask: Any) -> Any:
    return np.arange(mask.shape[1]) + 0 * mask


def _of_words(weights: Names, ids: Any) -> Any:
    return weights["token_embedding"][ids]


def _of_places(weights: Names, places: Any) -> Any:
    table = weights.get("position_embedding")
    return 0 if table is None else table[places % len(table)]


def _of_segments(weights: Names, segments: Any) -> Any:
    return weights["segment_embedding"][segments]


def _before(n: int) -> Any:
    return np.tril(np.ones((n, n), bool))


def _source_and_target(segments: Any) -> Any:
    count = np.cumsum(segments, axis=-1)
    return count[:, None, None, :] <= count[:, None, :, None]


def _allowed(application: str, segments: Any) -> Any:
    n = segments.shape[1]
    if application == "encoder":
        return np.ones((n, n), bool)
    return _before(n) if application == "lm" else _source_and_target(segments)


def _hidden(mask: Any) -> Any:
    return mask[:, None, None, :]


def _rows(n: int, clip: int) -> Any:  # -> (n, n), the row of the table of distances: 64 + (j - i), clipped
    return 64 + np.clip(np.arange(n)[None, :] - np.arange(n)[:, None], -clip, clip)


def _sinusoid(row: Any, width: int) -> Any:  # (n, n) -> (n, n, width)
    angle = row[..., None] / 10000.0 ** (2 * np.arange(width // 2) / width)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(*row.shape, width).astype(np.float32)


def _halves(row: Any, width: int) -> Any:
    found = _sinusoid(row, width)
    return np.concatenate([found[..., 0::2], found[..., 1::2]], -1)


def _post(x: Any, norm: Any, layer: Any) -> Any:
    return norm(x + layer(x))


def _tied(x: Any, weights: Names) -> Any:
    return x @ weights["token_embedding"].T + weights["masked_lm.bias"]


def _attended(q: Any, k: Any, v: Any, seen: Any, divisor: float, keys: Any, values: Any) -> Any:
    """Attention with relative embeddings of keys and of values, each (n, n, w) or None."""
    scores = q @ np.swapaxes(k, -1, -2)
    if keys is not None:
        scores = scores + np.einsum("bhid,ijd->bhij", q, keys)
    scores = np.where(seen, scores / divisor, -np.inf)
    highest = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    total = e.sum(-1, keepdims=True)
    weights = e / np.where(total == 0, 1, total)
    mixed = weights @ v
    return mixed if values is None else mixed + np.einsum("bhij,ijd->bhid", weights, values)


def _same(scores: Any) -> Any:
    return scores


def _encoder(
    name: str,
    token_ids: Any,
    segment_ids: Any,
    mask: Any,
    application: str,
    *,
    heads: int | None = None,
    weigh: Any = _same,
    layers: Any = lambda count: range(count),
    read: Any = lambda application: application,
    words: Any = _of_words,
    place: Any = _in_order,
    places: Any = _of_places,
    segments: Any = _of_segments,
    embedded: Any = None,
    visible: Any = _hidden,
    allowed: Any = _allowed,
    norm: Any = steps.norm,
    head_norm: Any = None,
    linear: Any = steps.linear,
    parts: Any = steps.parts,
    split: Any = steps.split,
    merge: Any = steps.merge,
    divisor: Any = steps.root,
    activation: Any = steps.erf_gelu,
    head_activation: Any = None,
    around: Any = _post,
    head: Any = _tied,
    sinusoid: Any = _sinusoid,
    table_rows: Any = _rows,
    clip: int = 64,
    in_keys: Any = _same,
    in_values: Any = _same,
) -> Any:
    config, weights = _model(name)
    weights, heads, eps, n = weigh(weights), heads or config.num_attention_heads, 1e-12, token_ids.shape[1]
    seen = allowed(read(application), segment_ids) & visible(mask)
    relative = None
    if config.max_position_embeddings is None:
        relative = sinusoid(table_rows(n, clip), config.hidden_size // heads)

    def normed(name: str, form: Any = norm) -> Callable[[Any], Any]:
        return lambda x: form(x, weights[f"{name}.scale"], weights[f"{name}.bias"], eps)

    def attention(prefix: str) -> Callable[[Any], Any]:
        def layer(x: Any) -> Any:
            q, k, v = (split(part, heads) for part in parts(linear(x, weights, f"{prefix}query_key_value"), heads))
            keys, values = (None, None) if relative is None else (in_keys(relative), in_values(relative))
            mixed = _attended(q, k, v, seen, divisor(x.shape[-1], heads), keys, values)
            return linear(merge(mixed), weights, f"{prefix}attention_output")

        return layer

    def feed_forward(prefix: str) -> Callable[[Any], Any]:
        def layer(x: Any) -> Any:
            inner = activation(linear(x, weights, f"{prefix}feed_forward_in"))
            return linear(inner, weights, f"{prefix}feed_forward_out")

        return layer

    x = words(weights, token_ids) + segments(weights, segment_ids) + places(weights, place(mask))
    x = normed("embedding_norm")(x) if embedded is None else embedded(x)
    for i in layers(config.num_hidden_layers):
        x = around(x, normed(f"blocks.{i}.attention_norm"), attention(f"blocks.{i}."))
        x = around(x, normed(f"blocks.{i}.feed_forward_norm"), feed_forward(f"blocks.{i}."))
    transformed = (head_activation or activation)(linear(x, weights, "masked_lm.transform"))
    x = normed("masked_lm.norm", head_norm or norm)(transformed)
    return (head(x, weights) * mask[..., None]).astype(np.float32)


# --- what is replaced -------------------------------------------------------------------------------------------------------------


def _padding_last(case: Case) -> bool:
    return not bool(case.arrays[2].all())


def _long(case: Case) -> bool:
    return case.arrays[0].shape[1] > 1


def _two(case: Case) -> bool:
    return bool(case.arrays[1].any())


def _far(case: Case) -> bool:
    return case.arrays[0].shape[1] > 64


def _masked(application: str) -> Callable[[Case], bool]:
    return lambda case: case.params["application"] == application and _long(case)


def _not_encoder(case: Case) -> bool:
    return case.params["application"] != "encoder" and _long(case)


def _target_wide(application: str, segments: Any) -> Any:
    """UniLM with a target that sees itself whole."""
    if application != "unilm":
        return _allowed(application, segments)
    return segments[:, None, None, :] <= segments[:, None, :, None]


def _source_causal(application: str, segments: Any) -> Any:
    """UniLM with a source that sees only what is before."""
    return _before(segments.shape[1]) if application == "unilm" else _allowed(application, segments)


def _source_sees_target(application: str, segments: Any) -> Any:
    if application != "unilm":
        return _allowed(application, segments)
    return _source_and_target(segments) | (segments[:, None, :, None] == 0)


def _next_too(application: str, segments: Any) -> Any:
    n = segments.shape[1]
    return np.tril(np.ones((n, n), bool), 1) if application == "lm" else _allowed(application, segments)


def _own_not(application: str, segments: Any) -> Any:
    n = segments.shape[1]
    return np.tril(np.ones((n, n), bool), -1) if application == "lm" else _allowed(application, segments)


def _zero(weights: Names, ids: Any) -> Any:
    return 0


def _common(name: str) -> tuple[Mutant, ...]:
    def of(label: str, flag: str, *, seen: Callable[[Case], bool] | None = None, **replaced: Any) -> Mutant:
        return Mutant(name, label, flag, functools.partial(_encoder, name, **replaced), ("float32",), seen)

    norm = steps.norm
    return (
        of("eps 1e-5", "wrong-eps", norm=functools.partial(norm, used=1e-5)),
        of("eps outside the root, 1e-3", "eps-outside-root", norm=functools.partial(norm, used=1e-3, outside=True)),
        of("variance divided by d - 1", "biased-variance", norm=functools.partial(norm, ddof=1)),
        of("tanh GELU", "tanh-for-erf", activation=steps.gelu),
        of("tanh GELU in the head alone", "tanh-for-erf", head_activation=steps.gelu),
        of("ReLU", "wrong-activation", activation=lambda x: np.maximum(x, 0)),
        of("pre-LN", "norm-placement", around=lambda x, norm, layer: x + layer(norm(x))),
        of("no norm of the embedding", "norm-placement", embedded=lambda x: x),
        of("no norm in the head", "norm-placement", head_norm=lambda x, scale, bias, eps: x),
        of("no residual", "missing-layer", around=lambda x, norm, layer: norm(layer(x))),
        of(
            "no bias in attention",
            "missing-layer",
            linear=steps.without_bias("query_key_value", "attention_output"),
        ),
        of(
            "no bias in the feed-forward layer",
            "missing-layer",
            linear=steps.without_bias("feed_forward_in", "feed_forward_out"),
        ),
        of("no bias of the vocabulary", "missing-term", head=lambda x, weights: x @ weights["token_embedding"].T),
        of("no last layer", "missing-layer", layers=lambda count: range(count - 1)),
        of("layers reversed", "layer-order", layers=lambda count: reversed(range(count))),
        of("first layer throughout", "layer-order", layers=lambda count: [0] * count),
        of("no segment embedding", "missing-layer", segments=_zero),
        of("segment 0 throughout", "parameter-ignored", seen=_two, segments=lambda w, s: _of_segments(w, 0 * s)),
        of("segments exchanged", "exchanged", segments=lambda w, s: _of_segments(w, 1 - s)),
        of("one head", "head-order", heads=1),
        of("heads innermost", "head-order", split=steps.split_innermost),
        of("heads not turned back", "head-order", merge=lambda x: x.reshape(x.shape[0], x.shape[2], -1)),
        of(
            "q and k exchanged",
            "exchanged",
            seen=_long,
            parts=lambda qkv, heads: [steps.parts(qkv, heads)[i] for i in (1, 0, 2)],
        ),
        of("v, k, q for q, k, v", "exchanged", parts=lambda qkv, heads: steps.parts(qkv, heads)[::-1]),
        of("q, k, v head by head", "interleaving", parts=steps.parts_by_head),
        of("output weight of attention transposed", "transposed", linear=steps.transposed_output),
        of("missing 1/√w", "missing-scale", seen=_long, divisor=lambda width, heads: 1),
        of("1/√d for 1/√w", "wrong-scale", seen=_long, divisor=lambda width, heads: math.sqrt(width)),
        of(
            "embeddings times √d",
            "wrong-scale",
            words=lambda weights, ids: _of_words(weights, ids) * math.sqrt(weights["token_embedding"].shape[1]),
        ),
        of("padding not masked", "mask-ignored", seen=_padding_last, visible=lambda mask: _hidden(np.ones_like(mask))),
        of("padding alone seen", "mask-inverted", visible=lambda mask: _hidden(~mask)),
        of("encoder for every application", "mask-ignored", seen=_not_encoder, read=lambda application: "encoder"),
        of("lm for every application", "parameter-ignored", seen=_long, read=lambda application: "lm"),
        of("lm sees the next token", "future-leak", seen=_masked("lm"), allowed=_next_too),
        of("lm does not see itself", "mask-off-by-one", allowed=_own_not),
        of("the target sees itself whole", "future-leak", seen=_masked("unilm"), allowed=_target_wide),
        of("the source sees only what is before", "mask-alignment", seen=_masked("unilm"), allowed=_source_causal),
        of("the source sees the target", "future-leak", seen=_masked("unilm"), allowed=_source_sees_target),
        of(
            "token ids one too high",
            "off-by-one",
            words=lambda weights, ids: _of_words(weights, (ids + 1) % len(weights["token_embedding"])),
        ),
        of(
            "head drawn anew",
            "untied-head",
            head=lambda x, weights: (
                x @ np.random.default_rng(0).normal(0, 0.02, weights["token_embedding"].shape).astype(np.float32).T
                + weights["masked_lm.bias"]
            ),
        ),
        of(
            "weights in bfloat16",
            "low-precision",
            weigh=lambda weights: {key: in_bfloat16(a) for key, a in weights.items()},
        ),
    )


def _of(name: str, label: str, flag: str, *, seen: Callable[[Case], bool] | None = None, **replaced: Any) -> Mutant:
    return Mutant(name, label, flag, functools.partial(_encoder, name, **replaced), ("float32",), seen)


_BERT = (
    _of("bert", "no positions", "missing-layer", places=_zero),
    _of("bert", "positions from 1", "positions", place=lambda mask: _in_order(mask) + 1),
    _of("bert", "positions from 2, as RoBERTa's", "dialect", place=lambda mask: _in_order(mask) + 2),
    _of(
        "bert",
        "the last position forgotten",
        "off-by-one",
        places=lambda w, p: _of_places(w, np.minimum(p, 22)),
        seen=_long,
    ),
)
_NEZHA = (
    _of("nezha", "clipped at 63", "off-by-one", seen=_far, clip=63),
    _of("nezha", "distance 0 in row 0", "off-by-one", table_rows=lambda n, clip: _rows(n, clip) - 64),
    _of("nezha", "not clipped", "parameter-ignored", seen=_far, clip=1000),
    _of("nezha", "no relative positions", "relative-positions", in_keys=lambda r: 0 * r, in_values=lambda r: 0 * r),
    _of("nezha", "relative positions in the keys alone", "relative-positions", in_values=lambda r: 0 * r),
    _of("nezha", "relative positions in the values alone", "relative-positions", seen=_long, in_keys=lambda r: 0 * r),
    _of("nezha", "i - j for j - i", "sign", seen=_long, table_rows=lambda n, clip: 128 - _rows(n, clip)),
    _of("nezha", "sines before cosines", "interleaving", sinusoid=_halves),
)

MUTANTS: tuple[Mutant, ...] = _common("bert") + _BERT + _common("nezha") + _NEZHA
TWINS = {name: functools.partial(_encoder, name) for name in components.ENCODERS}
