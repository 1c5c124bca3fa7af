"""Mutants of GPT-2: the recorded tiny model in plain NumPy, whose steps are replaced one at a time. All compute and answer in float32."""

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
def _model() -> tuple[Any, Names]:
    """The configuration and the parameters of the recorded model; read when the first mutant is called."""
    config, arrays, _ = components.recorded_gpt2("gpt2_tiny")
    return config, {name: np.asarray(array, np.float32) for name, array in arrays.items()}


# --- the steps, right and wrong -----------------------------------------------------------------------------------------------


def _counted(mask: Any) -> Any:
    return np.maximum(np.cumsum(mask, axis=-1) - 1, 0)


def _embedded(weights: Names, ids: Any, places: Any) -> Any:
    return weights["token_embedding"][ids] + weights["position_embedding"][places]


def _causal(n: int) -> Any:
    return np.tril(np.ones((n, n), bool))


def _in_order(count: int) -> list[int]:
    return list(range(count))


def _pre(x: Any, norm: Any, layer: Any) -> Any:
    return x + layer(norm(x))


def _tied(x: Any, weights: Names) -> Any:
    return x @ weights["token_embedding"].T


def _everybody(ids: Any, mask: Any) -> Any:
    return mask


def _gpt2(
    token_ids: Any,
    mask: Any,
    *,
    heads: int | None = None,
    weigh: Any = lambda weights: weights,
    layers: Any = _in_order,
    place: Any = _counted,
    embed: Any = _embedded,
    visible: Any = _everybody,
    triangle: Any = _causal,
    norm: Any = steps.norm,
    final_norm: Any = None,
    linear: Any = steps.linear,
    parts: Any = steps.parts,
    split: Any = steps.split,
    merge: Any = steps.merge,
    divisor: Any = steps.root,
    activation: Any = steps.gelu,
    around: Any = _pre,
    head: Any = _tied,
) -> Any:
    config, weights = _model()
    weights, heads, eps = weigh(weights), heads or config.n_head, config.layer_norm_epsilon
    seen = triangle(token_ids.shape[1]) & visible(token_ids, mask)[:, None, None, :]

    def normed(name: str) -> Callable[[Any], Any]:
        return lambda x: norm(x, weights[f"{name}.scale"], weights[f"{name}.bias"], eps)

    def attention(prefix: str) -> Callable[[Any], Any]:
        def layer(x: Any) -> Any:
            q, k, v = (split(part, heads) for part in parts(linear(x, weights, f"{prefix}query_key_value"), heads))
            mixed = steps.attend(q, k, v, seen, divisor(x.shape[-1], heads))
            return linear(merge(mixed), weights, f"{prefix}attention_output")

        return layer

    def feed_forward(prefix: str) -> Callable[[Any], Any]:
        def layer(x: Any) -> Any:
            inner = activation(linear(x, weights, f"{prefix}feed_forward_in"))
            return linear(inner, weights, f"{prefix}feed_forward_out")

        return layer

    x = embed(weights, token_ids, place(mask))
    for i in layers(config.n_layer):
        x = around(x, normed(f"blocks.{i}.attention_norm"), attention(f"blocks.{i}."))
        x = around(x, normed(f"blocks.{i}.feed_forward_norm"), feed_forward(f"blocks.{i}."))
    x = normed("final_norm")(x) if final_norm is None else final_norm(x)
    return (head(x, weights) * mask[..., None]).astype(np.float32)


# --- what is replaced -------------------------------------------------------------------------------------------------------------


def _restarted(mask: Any) -> Any:
    """Positions of the second half counted from 0, as if a cache did not say how much was read."""
    counted, half = _counted(mask), mask.shape[1] // 2
    return np.concatenate([counted[:, :half], _counted(mask[:, half:])], axis=1)


def _from_the_start(n: int) -> Any:
    """Queries of the second half, read after a cache, placed at the first keys."""
    triangle, half = _causal(n), n // 2
    return np.concatenate([triangle[:half], triangle[: n - half]], axis=0)


def _forgets_the_last(n: int) -> Any:
    """Queries of the second half do not see the last key of the first: the cache is read one entry short."""
    triangle, half = _causal(n).copy(), n // 2
    triangle[half:, max(half - 1, 0) : half] = False
    return triangle


def _is_padded(case: Case) -> bool:
    return not bool(case.arrays[1].all())


def _is_long(case: Case) -> bool:
    return case.arrays[0].shape[1] > 1


def _of(name: str, flag: str, *, seen: Callable[[Case], bool] | None = None, **replaced: Any) -> Mutant:
    return Mutant("gpt2", name, flag, functools.partial(_gpt2, **replaced), ("float32",), seen)


def _drawn_head(x: Any, weights: Names) -> Any:
    return x @ np.random.default_rng(0).normal(0, 0.02, weights["token_embedding"].shape).astype(np.float32).T


def _no_zeroes(ids: Any, mask: Any) -> Any:
    """Token id 0 taken for padding wherever it stands but at the beginning, as bert4keras does."""
    return mask & ((ids != 0) | (np.arange(ids.shape[1]) == 0))


MUTANTS: tuple[Mutant, ...] = (
    _of("eps 1e-6", "wrong-eps", norm=functools.partial(steps.norm, used=1e-6)),
    _of("eps 1e-12", "wrong-eps", norm=functools.partial(steps.norm, used=1e-12)),
    _of("eps outside the root", "eps-outside-root", norm=functools.partial(steps.norm, outside=True)),
    _of("variance divided by d - 1", "biased-variance", norm=functools.partial(steps.norm, ddof=1)),
    _of("erf GELU", "erf-for-tanh", activation=steps.erf_gelu),
    _of(
        "0.0447 for 0.044715",
        "truncated-constant",
        activation=lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3))),
    ),
    _of("quick GELU", "wrong-activation", activation=lambda x: x / (1 + np.exp(-1.702 * x))),
    _of("ReLU", "wrong-activation", activation=lambda x: np.maximum(x, 0)),
    _of("post-LN", "norm-placement", around=lambda x, norm, layer: norm(x + layer(x))),
    _of("residual from the norm", "norm-placement", around=lambda x, norm, layer: (y := norm(x)) + layer(y)),
    _of("no final norm", "norm-placement", final_norm=lambda x: x),
    _of("no residual", "missing-layer", around=lambda x, norm, layer: layer(norm(x))),
    _of("no bias in attention", "missing-layer", linear=steps.without_bias("query_key_value", "attention_output")),
    _of(
        "no bias in the feed-forward layer",
        "missing-layer",
        linear=steps.without_bias("feed_forward_in", "feed_forward_out"),
    ),
    _of("no last layer", "missing-layer", layers=lambda count: list(range(count - 1))),
    _of("no positions", "missing-layer", embed=lambda weights, ids, places: weights["token_embedding"][ids]),
    _of("layers reversed", "layer-order", layers=lambda count: list(range(count))[::-1]),
    _of("first layer throughout", "layer-order", layers=lambda count: [0] * count),
    _of("positions from 1", "positions", place=lambda mask: _counted(mask) + 1),
    _of(
        "positions count padding", "positions", seen=_is_padded, place=lambda mask: np.arange(mask.shape[1]) + 0 * mask
    ),
    _of("positions restart after a cache", "positions", seen=_is_long, place=_restarted),
    _of("one head", "head-order", heads=1),
    _of("heads innermost", "head-order", split=steps.split_innermost),
    _of("heads not turned back", "head-order", merge=lambda x: x.reshape(x.shape[0], x.shape[2], -1)),
    _of(
        "q and k exchanged",
        "exchanged",
        seen=_is_long,
        parts=lambda qkv, heads: [steps.parts(qkv, heads)[i] for i in (1, 0, 2)],
    ),
    _of("v, k, q for q, k, v", "exchanged", parts=lambda qkv, heads: steps.parts(qkv, heads)[::-1]),
    _of("q, k, v head by head", "interleaving", parts=steps.parts_by_head),
    _of("output weight of attention transposed", "transposed", linear=steps.transposed_output),
    _of("missing 1/√w", "missing-scale", seen=_is_long, divisor=lambda width, heads: 1),
    _of("1/√d for 1/√w", "wrong-scale", seen=_is_long, divisor=lambda width, heads: math.sqrt(width)),
    _of(
        "embeddings times √d",
        "wrong-scale",
        embed=lambda weights, ids, places: _embedded(
            {**weights, "token_embedding": weights["token_embedding"] * math.sqrt(weights["token_embedding"].shape[1])},
            ids,
            places,
        ),
    ),
    _of("padding not masked", "mask-ignored", seen=_is_padded, visible=lambda ids, mask: np.ones_like(mask)),
    _of("not causal", "future-leak", seen=_is_long, triangle=lambda n: np.ones((n, n), bool)),
    _of("sees the next token", "future-leak", seen=_is_long, triangle=lambda n: np.tril(np.ones((n, n), bool), 1)),
    _of("does not see itself", "mask-off-by-one", triangle=lambda n: np.tril(np.ones((n, n), bool), -1)),
    _of("queries after a cache placed at the start", "mask-alignment", seen=_is_long, triangle=_from_the_start),
    _of("cache read one entry short", "off-by-one", seen=_is_long, triangle=_forgets_the_last),
    _of(
        "token ids one too high",
        "off-by-one",
        embed=lambda weights, ids, places: _embedded(weights, (ids + 1) % len(weights["token_embedding"]), places),
    ),
    _of("token id 0 masked, erf GELU", "dialect", visible=_no_zeroes, activation=steps.erf_gelu),
    _of("head drawn anew", "untied-head", head=_drawn_head),
    _of(
        "weights in bfloat16",
        "low-precision",
        weigh=lambda weights: {name: in_bfloat16(a) for name, a in weights.items()},
    ),
)
TWINS = {"gpt2": _gpt2}
