"""Mutants of a layer of GPT-2 and of a layer of BERT, with the parameters as arguments."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from validation.layers import PARAMETERS
from validation.mutants import layers as steps
from validation.mutants.catalogue import LONG, Mutant, family, in_bfloat16, in_float32, leaking, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.components import Case

__all__ = ["MUTANTS", "TWINS"]


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _pre(x: Any, norm: Any, layer: Any) -> Any:
    return x + layer(norm(x))


def _post(x: Any, norm: Any, layer: Any) -> Any:
    return norm(x + layer(x))


def _added(scores: Any, previous: Any, divisor: float) -> Any:
    return scores / divisor + previous


def _weights(scores: Any, seen: Any) -> Any:
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(highest == -np.inf, 0, highest))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def _plus_large(scores: Any, seen: Any) -> Any:
    """A mask that is added."""
    return _weights(scores + np.where(seen, 0, -10.0), np.ones_like(seen))


def _afterwards(scores: Any, seen: Any) -> Any:
    return np.where(seen, _weights(scores, np.ones_like(seen)), 0)


def _layer(
    x: Any,
    mask: Any,
    previous: Any,
    parameters: tuple[Any, ...],
    heads: int,
    eps: float,
    *,
    around: Any,
    triangle: Any,
    activation: Any,
    visible: Any = steps.keys,
    norm: Any = steps.norm,
    linear: Any = steps.linear,
    parts: Any = steps.parts,
    split: Any = steps.split,
    merge: Any = steps.merge,
    divisor: Any = steps.root,
    scores: Any = _added,
    weigh: Any = _weights,
    product: Any = np.matmul,
    order: Any = lambda first, second: (first, second),
    as_heads: Any = lambda heads: heads,
    at_padding: Any = lambda answer, mask: answer * mask[..., None],
) -> Any:
    w = {_dotted(name): array for name, array in zip(PARAMETERS, parameters, strict=True)}
    heads, seen = as_heads(heads), triangle(x.shape[1]) & visible(mask)

    def normed(name: str) -> Callable[[Any], Any]:
        return lambda a: norm(a, w[f"{name}.scale"], w[f"{name}.bias"], eps)

    def attention(a: Any) -> Any:
        q, k, v = (split(part, heads) for part in parts(linear(a, w, "query_key_value"), heads))
        raw = product(q, np.swapaxes(k, -1, -2))
        weights = weigh(scores(raw, previous, divisor(a.shape[-1], heads)), seen)
        return linear(merge(product(weights, v)), w, "attention_output")

    def feed_forward(a: Any) -> Any:
        return linear(activation(linear(a, w, "feed_forward_in")), w, "feed_forward_out")

    for name, layer in order(("attention_norm", attention), ("feed_forward_norm", feed_forward)):
        x = around(x, normed(name), layer)
    return at_padding(x, mask)


def _dotted(name: str) -> str:
    head, _, last = name.rpartition("_")
    return f"{head}.{last}"


def _gpt2(x: Any, mask: Any, *parameters: Any, heads: int, eps: float, **replaced: Any) -> Any:
    chosen = {"around": _pre, "triangle": steps.causal, "activation": steps.gelu} | replaced
    return _layer(x, mask, 0, parameters, heads, eps, **chosen)


def _bert(x: Any, mask: Any, previous_scores: Any, *parameters: Any, heads: int, eps: float, **replaced: Any) -> Any:
    chosen = {"around": _post, "triangle": steps.every, "activation": steps.erf_gelu} | replaced
    return _layer(x, mask, previous_scores, parameters, heads, eps, **chosen)


# --- what is replaced ---------------------------------------------------------------------------------------------------------


def _is_padded(case: Case) -> bool:
    return not bool(case.arrays[1].all())


def _is_long(case: Case) -> bool:
    return case.arrays[0].shape[1] > 1


def _has_scores(case: Case) -> bool:
    return bool(np.any(case.arrays[2]))


def _sum_in_bfloat16(a: Any, b: Any) -> Any:
    """Products summed in bfloat16, one after the other."""
    total = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    for i in range(a.shape[-1]):
        total = in_bfloat16(total + a[..., :, i : i + 1] * b[..., i : i + 1, :])
    return total


def _common(of: Any) -> tuple[Mutant, ...]:
    """The mistakes that can be made in either layer."""
    norm = steps.norm
    return (
        of("eps 1e-3", "wrong-eps", dtypes=LONG, norm=functools.partial(norm, used=1e-3)),
        of("eps outside the root", "eps-outside-root", dtypes=LONG, norm=functools.partial(norm, outside=True)),
        of("variance divided by d - 1", "biased-variance", norm=functools.partial(norm, ddof=1)),
        of(
            "no scale of the norms",
            "parameter-ignored",
            norm=lambda x, scale, bias, eps: norm(x, np.ones_like(scale), bias, eps),
        ),
        of("ReLU", "wrong-activation", activation=lambda x: np.maximum(x, 0)),
        of("quick GELU", "wrong-activation", dtypes=LONG, activation=lambda x: x / (1 + np.exp(-1.702 * x))),
        of("no residual", "missing-layer", around=lambda x, norm, layer: layer(norm(x))),
        of("no bias in attention", "missing-layer", linear=steps.without_bias("query_key_value", "attention_output")),
        of(
            "no bias in the feed-forward layer",
            "missing-layer",
            linear=steps.without_bias("feed_forward_in", "feed_forward_out"),
        ),
        of("feed-forward before attention", "layer-order", order=lambda first, second: (second, first)),
        of("heads innermost", "head-order", split=steps.split_innermost),
        of(
            "heads not turned back",
            "head-order",
            seen=lambda c: c.params["heads"] > 1 and _is_long(c),
            merge=lambda x: x.reshape(x.shape[0], x.shape[2], -1),
        ),
        of(
            "q and k exchanged",
            "exchanged",
            seen=_is_long,
            parts=lambda qkv, heads: [steps.parts(qkv, heads)[i] for i in (1, 0, 2)],
        ),
        of("v, k, q for q, k, v", "exchanged", parts=lambda qkv, heads: steps.parts(qkv, heads)[::-1]),
        of("q, k, v head by head", "interleaving", seen=lambda c: c.params["heads"] > 1, parts=steps.parts_by_head),
        of("output weight of attention transposed", "transposed", linear=steps.transposed_output),
        of("missing 1/√w", "missing-scale", seen=_is_long, divisor=lambda width, heads: 1),
        of("1/√d for 1/√w", "wrong-scale", seen=_is_long, divisor=lambda width, heads: math.sqrt(width)),
        of("padding not masked", "mask-ignored", seen=_is_padded, visible=lambda mask: steps.keys(np.ones_like(mask))),
        of("padding alone seen", "mask-inverted", visible=lambda mask: steps.keys(~mask)),
        of("a mask of -10 that is added", "additive-mask", weigh=_plus_large),
        of("weights masked after the softmax", "mask-after-softmax", weigh=_afterwards),
        of("scores summed in bfloat16", "low-precision-accumulation", dtypes=LONG, product=_sum_in_bfloat16),
        of("padding not set to zero", "mask-ignored", seen=_is_padded, at_padding=lambda answer, mask: answer),
    )


_of_gpt2 = family("gpt2_block", _gpt2)
_GPT2 = (
    *_common(_of_gpt2),
    _of_gpt2("erf GELU", "erf-for-tanh", dtypes=LONG, activation=steps.erf_gelu),
    _of_gpt2(
        "one head",
        "parameter-ignored",
        as_heads=lambda heads: 1,
        seen=lambda c: c.params["heads"] > 1 and _is_long(c),
    ),
    _of_gpt2("post-LN", "norm-placement", around=_post),
    _of_gpt2("residual from the norm", "norm-placement", around=lambda x, norm, layer: (y := norm(x)) + layer(y)),
    _of_gpt2("not causal", "future-leak", seen=_is_long, triangle=steps.every),
    _of_gpt2("sees the next token", "future-leak", seen=_is_long, triangle=lambda n: np.tril(steps.every(n), 1)),
    _of_gpt2("does not see itself", "mask-off-by-one", triangle=lambda n: np.tril(steps.every(n), -1)),
    _of_gpt2("sees itself and later", "mask-transposed", seen=_is_long, triangle=lambda n: steps.causal(n).T),
    _of_gpt2("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_gpt2)),
    _of_gpt2("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_gpt2)),
)

_of_bert = family("bert_block", _bert)
_BERT = (
    *_common(_of_bert),
    _of_bert("tanh GELU", "tanh-for-erf", dtypes=LONG, activation=steps.gelu),
    _of_bert("pre-LN", "norm-placement", around=_pre),
    _of_bert("residual around the norm", "norm-placement", around=lambda x, norm, layer: x + norm(layer(x))),
    _of_bert("causal", "mask-alignment", seen=_is_long, triangle=steps.causal),
    _of_bert(
        "previous scores not added",
        "scores-not-accumulated",
        seen=_has_scores,
        scores=lambda s, p, divisor: s / divisor,
    ),
    _of_bert(
        "previous scores divided too", "wrong-scale", seen=_has_scores, scores=lambda s, p, divisor: (s + p) / divisor
    ),
    _of_bert("the mean of both scores", "wrong-count", scores=lambda s, p, divisor: (s / divisor + p) / 2),
    _of_bert("previous scores subtracted", "sign", seen=_has_scores, scores=lambda s, p, divisor: s / divisor - p),
    _of_bert(
        "previous scores transposed",
        "transposed",
        seen=_has_scores,
        scores=lambda s, p, divisor: s / divisor + np.swapaxes(p, -1, -2),
    ),
    _of_bert("in float32", "low-precision", dtypes=("float64",), entire=in_float32(_bert)),
    _of_bert("answers in float64", "dtype-leak", dtypes=("float16", "bfloat16", "float32"), entire=leaking(_bert)),
)

MUTANTS: tuple[Mutant, ...] = _GPT2 + _BERT
TWINS = {"gpt2_block": wide(_gpt2), "bert_block": wide(_bert)}
