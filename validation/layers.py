"""Layers of a transformer as components: every parameter is an argument, so that no model file is needed.

`gpt2_block` is pre-LN, causal, with the tanh form of GELU; `bert_block` is post-LN, with the erf form, and with previous scores a layer of
RealFormer.
Weights are (in, out), so that a linear map is x W + b; the columns of `query_key_value_weight` are those of Q, then K, then V, each with the heads
side by side. What comes out at padding means nothing and is set to 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl.attention import causal_mask, merge_heads, scaled_dot_product_attention, split_heads
from refimpl.blocks import Form, feed_forward_vjp, pre_ln, pre_ln_vjp, realformer, realformer_vjp
from refimpl.normalization import layer_norm_vjp
from refimpl.number_system import Array, device_of, exact, namespace, rounded_once, square_root
from refimpl.parameters import Block, Linear, Norm, affine_vjp
from refimpl.softmax import masked_softmax
from refimpl.trees import leaves
from validation.case import Case

if TYPE_CHECKING:
    from refimpl.gradients import Pullback

__all__ = [
    "PARAMETERS",
    "bert_block",
    "bert_block_by_outputs",
    "bert_block_cases",
    "bert_block_vjp",
    "gpt2_block",
    "gpt2_block_by_outputs",
    "gpt2_block_cases",
    "gpt2_block_vjp",
]

PARAMETERS = tuple(name.replace(".", "_") for name in Block.shapes(1, 1))


def gpt2_block(
    x: Array,
    mask: Array,
    attention_norm_scale: Array,
    attention_norm_bias: Array,
    query_key_value_weight: Array,
    query_key_value_bias: Array,
    attention_output_weight: Array,
    attention_output_bias: Array,
    feed_forward_norm_scale: Array,
    feed_forward_norm_bias: Array,
    feed_forward_in_weight: Array,
    feed_forward_in_bias: Array,
    feed_forward_out_weight: Array,
    feed_forward_out_bias: Array,
    heads: int,
    eps: float,
) -> Array:  # (b, n, d), bool (b, n) -> (b, n, d)
    """z = y + FF(LN₂(y)), y = x + SA(LN₁(x)): pre-LN, causal over the real tokens, FF with the tanh form of GELU; zeros at padding."""
    layer = Block(
        Norm(attention_norm_scale, attention_norm_bias),
        Linear(query_key_value_weight, query_key_value_bias),
        Linear(attention_output_weight, attention_output_bias),
        Norm(feed_forward_norm_scale, feed_forward_norm_bias),
        Linear(feed_forward_in_weight, feed_forward_in_bias),
        Linear(feed_forward_out_weight, feed_forward_out_bias),
    )
    return _at_real(pre_ln(layer, x, Form(heads, eps, "tanh"), mask=_causal(mask))[0], mask)


def bert_block(
    x: Array,
    mask: Array,
    previous_scores: Array,
    attention_norm_scale: Array,
    attention_norm_bias: Array,
    query_key_value_weight: Array,
    query_key_value_bias: Array,
    attention_output_weight: Array,
    attention_output_bias: Array,
    feed_forward_norm_scale: Array,
    feed_forward_norm_bias: Array,
    feed_forward_in_weight: Array,
    feed_forward_in_bias: Array,
    feed_forward_out_weight: Array,
    feed_forward_out_bias: Array,
    heads: int,
    eps: float,
) -> Array:  # (b, n, d), bool (b, n), (b, heads, n, n) -> (b, n, d)
    """z = LN₂(y + FF(y)), y = LN₁(x + SA(x; S)): post-LN, SA = softmax(QKᵀ/√w + S) V over the real tokens, FF with erf GELU; zeros at padding."""
    layer = Block(
        Norm(attention_norm_scale, attention_norm_bias),
        Linear(query_key_value_weight, query_key_value_bias),
        Linear(attention_output_weight, attention_output_bias),
        Norm(feed_forward_norm_scale, feed_forward_norm_bias),
        Linear(feed_forward_in_weight, feed_forward_in_bias),
        Linear(feed_forward_out_weight, feed_forward_out_bias),
    )
    seen, form = mask[:, None, None, :], Form(heads, eps, "none")
    return _at_real(realformer(layer, x, form, mask=seen, previous_scores=previous_scores)[0], mask)


def gpt2_block_vjp(
    x: Array, mask: Array, *, heads: int, eps: float, **parameters: Array
) -> tuple[Array, Pullback]:  # (b, n, d), bool (b, n) -> (b, n, d), pullback
    """ȳ = z̄ + LN₂*(FF*(z̄)), x̄ = ȳ + LN₁*(SA*(ȳ)), f* the pullback of f, and of every parameter the sum over tokens; z̄ is 0 at padding."""
    layer = Block.from_named({_dotted(name): array for name, array in parameters.items()}, "")
    (z, _), pullback = pre_ln_vjp(layer, x, Form(heads, eps, "tanh"), mask=_causal(mask))

    def back(z_bar: Array) -> tuple[Array, ...]:
        layer_bar, x_bar, _ = pullback(_at_real(z_bar, mask))
        return x_bar, *leaves(layer_bar)

    return _at_real(z, mask), back


def bert_block_vjp(
    x: Array, mask: Array, previous_scores: Array, *, heads: int, eps: float, **parameters: Array
) -> tuple[Array, Pullback]:  # (b, n, d), bool (b, n), (b, heads, n, n) -> (b, n, d), pullback
    """s̄ = LN₂*(z̄), ȳ = s̄ + FF*(s̄), r̄ = LN₁*(ȳ), x̄ = r̄ + SA*(r̄), S̄ by SA*, f* the pullback of f, parameters' Σ over tokens; z̄ is 0 at padding."""
    layer = Block.from_named({_dotted(name): array for name, array in parameters.items()}, "")
    form, seen = Form(heads, eps, "none"), mask[:, None, None, :]
    (z, _), pullback = realformer_vjp(layer, x, form, mask=seen, previous_scores=previous_scores)

    def back(z_bar: Array) -> tuple[Array, ...]:
        layer_bar, x_bar, scores_bar, *_ = pullback(_at_real(z_bar, mask))
        return x_bar, scores_bar, *leaves(layer_bar)

    return _at_real(z, mask), back


# --- backwards by outputs: the other published form, which errs more ------------------------------------------------------------


def _attended(
    layer: Block, x: Array, heads: int, mask: Array, previous_scores: Array | None
) -> tuple[Array, Pullback]:  # (b, n, d) -> (b, n, d), pullback
    """SA, whose pullback takes Σ_j P_ij P̄_ij for Σ_e ō_ie o_ie, as kernels do that keep the output o."""
    xp = namespace(x)
    qkv, to_x = affine_vjp(x, *layer.query_key_value)
    width = qkv.shape[-1] // 3
    q, k, v = (split_heads(qkv[..., i * width : (i + 1) * width], heads) for i in range(3))
    mixed, scores = scaled_dot_product_attention(q, k, v, mask=mask, previous_scores=previous_scores)
    y, to_mixed = affine_vjp(merge_heads(mixed), *layer.attention_output)

    def back(y_bar: Array) -> tuple[Array, Array, list[Array]]:
        merged_bar, *output = to_mixed(y_bar)
        mixed_bar, weights = split_heads(merged_bar, heads), masked_softmax(scores, mask)
        weights_bar = xp.matmul(mixed_bar, xp.matrix_transpose(v))
        scores_bar = weights * (weights_bar - xp.sum(mixed_bar * mixed, axis=-1, keepdims=True))
        own = scores_bar / square_root(q.shape[-1], q)
        transposed = (xp.matmul(xp.matrix_transpose(each), of) for each, of in ((own, q), (weights, mixed_bar)))
        x_bar, *projections = to_x(xp.concat([merge_heads(e) for e in (xp.matmul(own, k), *transposed)], axis=-1))
        return x_bar, scores_bar, [*projections, *output]

    return y, back


def _fed(layer: Block, x: Array, activation: Any) -> tuple[Array, Pullback]:  # (b, n, d) -> (b, n, d), pullback
    y, back = feed_forward_vjp(layer, x, activation)

    def pullback(y_bar: Array) -> tuple[Array, list[Array]]:
        layer_bar, x_bar = back(y_bar)
        return x_bar, [*layer_bar.feed_forward_in, *layer_bar.feed_forward_out]

    return y, pullback


def gpt2_block_by_outputs(x: Array, mask: Array, *rest: Array, heads: int, eps: float) -> Array:  # -> (numbers,)
    """What the backward pass of `gpt2_block` answers, flattened and joined; arguments as its, the cotangent last."""
    *parameters, z_bar = rest
    layer = Block.from_named({_dotted(n): a for n, a in zip(PARAMETERS, parameters, strict=True)}, "")
    normed, to_x = layer_norm_vjp(x, *layer.attention_norm, eps)
    mixed, to_normed = _attended(layer, normed, heads, _causal(mask), None)
    second, to_y = layer_norm_vjp(x + mixed, *layer.feed_forward_norm, eps)
    _, to_second = _fed(layer, second, "tanh")
    z_bar = _at_real(z_bar, mask)
    second_bar, feed = to_second(z_bar)
    through, *second_norm = to_y(second_bar)
    y_bar = z_bar + through
    normed_bar, _, attention = to_normed(y_bar)
    through, *norm = to_x(normed_bar)
    return _flattened([y_bar + through, *norm, *attention, *second_norm, *feed])


def bert_block_by_outputs(
    x: Array, mask: Array, previous_scores: Array, *rest: Array, heads: int, eps: float
) -> Array:  # -> (numbers,)
    """What the backward pass of `bert_block` answers, flattened and joined; arguments as its, the cotangent last."""
    *parameters, z_bar = rest
    layer = Block.from_named({_dotted(n): a for n, a in zip(PARAMETERS, parameters, strict=True)}, "")
    mixed, to_x = _attended(layer, x, heads, mask[:, None, None, :], previous_scores)
    y, to_residual = layer_norm_vjp(x + mixed, *layer.attention_norm, eps)
    fed, to_y = _fed(layer, y, "none")
    _, to_sum = layer_norm_vjp(y + fed, *layer.feed_forward_norm, eps)
    sum_bar, *second_norm = to_sum(_at_real(z_bar, mask))
    through, feed = to_y(sum_bar)
    residual_bar, *norm = to_residual(sum_bar + through)
    through, scores_bar, attention = to_x(residual_bar)
    return _flattened([residual_bar + through, scores_bar, *norm, *attention, *second_norm, *feed])


def _flattened(parts: list[Array]) -> Array:  # -> (numbers,)
    xp = namespace(*parts)
    return xp.concat([xp.reshape(part, (-1,)) for part in parts])


def _dotted(name: str) -> str:
    """The name of a parameter in a `Block`."""
    return ".".join(name.rsplit("_", 1))


def _causal(mask: Array) -> Array:  # bool (b, n) -> bool (b, 1, n, n)
    """The real tokens up to each."""
    n = mask.shape[1]
    return mask[:, None, None, :] & causal_mask(n, n, xp=namespace(mask), device=device_of(mask))


@rounded_once
def _at_real(x: Array, mask: Array) -> Array:  # (b, n, d), bool (b, n) -> (b, n, d)
    """x where the mask is true, 0 elsewhere."""
    return namespace(x).where(mask[..., None], x, exact(0, x))


# --- cases --------------------------------------------------------------------------------------------------------------------


def _parameters(rng: np.random.Generator, d: int, inner: int, sharp: float = 1.0) -> tuple[Any, ...]:
    """Weights that keep the size of what passes through them; queries and keys `sharp` times as long."""
    found = []
    for name, shape in Block.shapes(d, inner).items():
        drawn = rng.normal(size=shape)
        if name.endswith("scale"):
            drawn = 1 + drawn / 4
        elif name.endswith("weight"):
            drawn = drawn / shape[0] ** 0.5
        else:
            drawn = drawn / 2
        if name == "query_key_value.weight":
            drawn[:, : 2 * d] *= sharp
        found.append(drawn)
    return tuple(found)


def _left(n: int, *padding: int) -> Any:  # -> bool (b, n)
    return np.arange(n) >= np.array(padding)[:, None]


def _right(n: int, *length: int) -> Any:  # -> bool (b, n)
    return np.arange(n) < np.array(length)[:, None]


def gpt2_block_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Trials of `gpt2_block`."""

    def case(name: str, hard: str, x: Any, mask: Any, heads: int = 2, eps: float = 1e-5, sharp: float = 1.0) -> Case:
        return Case(name, hard, (x, mask, *_parameters(rng, x.shape[2], 12, sharp)), {"heads": heads, "eps": eps})

    x = rng.normal(size=(2, 5, 8))
    offset = 50.0 if dtype in ("float32", "float64") else 2.0
    loud = np.where(_left(5, 0, 2)[..., None], x, 100.0)
    return [
        case("full", "no padding; heads of width 4", x, _left(5, 0, 0)),
        case("left padding", "rows of five and of three tokens", x, _left(5, 0, 2)),
        case(
            "loud padding", "what stands at padding is 100: it must not enter the mean over keys", loud, _left(5, 0, 2)
        ),
        case("one token", "attention over one key", x[:, :1], _left(1, 0, 0)),
        case("one head", "scores of the whole width", x, _left(5, 0, 0), heads=1),
        case("narrow heads", "four heads of width 2", x, _left(5, 0, 0), heads=4),
        case(
            "offset",
            f"the residual stream is offset by {offset:g}: layer norm subtracts it",
            x + offset,
            _left(5, 0, 0),
        ),
        case("sharp", "scores of size 10: one key takes almost all", x, _left(5, 0, 0), sharp=3.0),
        case(
            "large eps",
            "eps 1/4, beside a variance near 1: both norms have it inside the root",
            x,
            _left(5, 0, 0),
            eps=0.25,
        ),
        case("flat", "the stream is small: eps decides", 2e-3 * x, _left(5, 0, 0)),
    ]


def bert_block_cases(rng: np.random.Generator, dtype: str) -> list[Case]:
    """Trials of `bert_block`."""

    def case(
        name: str,
        hard: str,
        x: Any,
        mask: Any,
        size: float = 0.0,
        heads: int = 2,
        eps: float = 1e-12,
        sharp: float = 1.0,
    ) -> Case:
        b, n, d = x.shape
        scores = size * rng.normal(size=(b, heads, n, n)) if size else np.zeros((b, heads, n, n))
        return Case(name, hard, (x, mask, scores, *_parameters(rng, d, 12, sharp)), {"heads": heads, "eps": eps})

    x = rng.normal(size=(2, 5, 8))
    loud = np.where(_right(5, 5, 3)[..., None], x, 100.0)
    return [
        case("full", "no padding, no previous scores", x, _right(5, 5, 5)),
        case("padding", "rows of five and of three tokens", x, _right(5, 5, 3)),
        case(
            "loud padding", "what stands at padding is 100: it must not enter the mean over keys", loud, _right(5, 5, 3)
        ),
        case("one token", "attention over one key", x[:, :1], _right(1, 1, 1)),
        case("one head", "scores of the whole width", x, _right(5, 5, 5), heads=1),
        case("narrow heads", "four heads of width 2", x, _right(5, 5, 5), heads=4),
        case("residual scores", "the scores of the layers before are added, after 1/√w", x, _right(5, 5, 5), 1.0),
        case("deep", "previous scores of size 4, as after many layers; padding", x, _right(5, 5, 3), 4.0),
        case("sharp", "scores of size 10: one key takes almost all", x, _right(5, 5, 5), sharp=3.0),
        case(
            "large eps",
            "eps 1/4, beside a variance near 1: both norms have it inside the root",
            x,
            _right(5, 5, 5),
            eps=0.25,
        ),
    ]
