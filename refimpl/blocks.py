"""The layers of a transformer, side by side: pre-LN, post-LN and RealFormer.

    pre-LN       y = x + SA(LN₁(x))            z = y + FF(LN₂(y))            GPT-2
    post-LN      y = LN₁(x + SA(x))            z = LN₂(y + FF(y))            BERT
    RealFormer   as post-LN, but the scores in SA are S_l = Q_l K_lᵀ/√w + S_{l-1}, S_0 = 0, which are handed on

    SA(x) = W_o [heads of softmax(S) V] + b_o,  [Q, K, V] = W x + b            FF(x) = W_2 GELU(W_1 x + b_1) + b_2

All three have the same parameters. With the *running mean* that the authors of RealFormer found helpful from some 30 layers on,
the sum S_l is still what is handed on, and softmax(S_l/l) is what weighs the values. The mean M_l = S_l/l obeys
M_l = (Q_l K_lᵀ/√w + (l-1) M_{l-1})/l.

References: R. Xiong et al., "On layer normalization in the transformer architecture", arXiv 2002.04745, table 1 (pre-LN and post-LN);
R. He et al., "RealFormer: transformer likes residual attention", arXiv 2012.11747, section 3, and the code released with it (running mean).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from refimpl.activation import gelu, gelu_vjp
from refimpl.attention import (
    HandedOn,
    merge_heads,
    scaled_dot_product_attention,
    scaled_dot_product_attention_vjp,
    split_heads,
)
from refimpl.gradients import Pullback, total, vjp_of, zeros
from refimpl.normalization import layer_norm, layer_norm_vjp
from refimpl.number_system import Array, namespace
from refimpl.parameters import Block, Linear, Norm, affine_vjp

__all__ = [
    "Attended",
    "Form",
    "GELUForm",
    "feed_forward",
    "feed_forward_vjp",
    "post_ln",
    "post_ln_vjp",
    "pre_ln",
    "pre_ln_vjp",
    "realformer",
    "realformer_vjp",
    "self_attention",
    "self_attention_vjp",
]

GELUForm = Literal["tanh", "none"]


class Form(NamedTuple):
    """What a layer is besides its parameters."""

    heads: int
    eps: float  # of the layer norms
    activation: GELUForm = "none"


class Attended(NamedTuple):
    """What self-attention leaves besides its output."""

    scores: Array  # (batch, heads, n, m), those to hand on, in which no mask has left a trace
    keys: Array  # (batch, heads, m, w)
    values: Array  # (batch, heads, m, w)


def self_attention(
    layer: Block,
    x: Array,
    heads: int,
    *,
    mask: Array | None = None,
    before: tuple[Array, Array] | None = None,
    previous_scores: Array | None = None,
    relative: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Array, Attended]:  # (batch, n, d) -> (batch, n, d), scores, keys and values
    """SA(x) = W_o [softmax(Q Kᵀ/√w + S_previous) V, head by head] + b_o with [Q, K, V] = W x + b.

    Parameters
    ----------
    layer : the layer's parameters
    x : array, (batch, n, d)
    heads : into which d is split, each w = d/heads wide
    mask, previous_scores, relative, mean_over, hand_on : as `refimpl.attention.scaled_dot_product_attention`
    before : keys and values, each (batch, heads, m - n, w), that precede those of `x`; or None

    Returns
    -------
    array (batch, n, d), and the scores, all m keys and values
    """
    q, k, v = _heads(layer.query_key_value(x), heads, before)
    mixed, scores = scaled_dot_product_attention(
        q, k, v, mask=mask, previous_scores=previous_scores, relative=relative, mean_over=mean_over, hand_on=hand_on
    )
    return layer.attention_output(merge_heads(mixed)), Attended(scores, k, v)


def _heads(
    qkv: Array, heads: int, before: tuple[Array, Array] | None
) -> tuple[Array, Array, Array]:  # (batch, n, 3d) -> (batch, heads, n, w), (batch, heads, m, w), (batch, heads, m, w)
    """Queries, keys and values by heads, with the keys and values that precede them."""
    xp, d = namespace(qkv), qkv.shape[-1] // 3
    q, k, v = (split_heads(qkv[..., i * d : (i + 1) * d], heads) for i in range(3))
    if before is not None:
        k, v = xp.concat([before[0], k], axis=2), xp.concat([before[1], v], axis=2)
    return q, k, v


def feed_forward(layer: Block, x: Array, activation: GELUForm) -> Array:  # (batch, n, d) -> (batch, n, d)
    """FF(x) = W_2 GELU(W_1 x + b_1) + b_2."""
    return layer.feed_forward_out(gelu(layer.feed_forward_in(x), activation))


def pre_ln(
    layer: Block, x: Array, form: Form, *, mask: Array | None = None, before: tuple[Array, Array] | None = None
) -> tuple[Array, Attended]:  # (batch, n, d) -> (batch, n, d), scores, keys and values
    """y = x + SA(LN₁(x)), z = y + FF(LN₂(y)). Arguments as `self_attention`."""
    mixed, seen = self_attention(
        layer, layer_norm(x, *layer.attention_norm, form.eps), form.heads, mask=mask, before=before
    )
    y = x + mixed
    return y + feed_forward(layer, layer_norm(y, *layer.feed_forward_norm, form.eps), form.activation), seen


def post_ln(
    layer: Block, x: Array, form: Form, *, mask: Array | None = None, relative: Array | None = None
) -> tuple[Array, Attended]:  # (batch, n, d) -> (batch, n, d), scores, keys and values
    """y = LN₁(x + SA(x)), z = LN₂(y + FF(y)): RealFormer without previous scores. Arguments as `self_attention`."""
    return realformer(layer, x, form, mask=mask, relative=relative)


def realformer(
    layer: Block,
    x: Array,
    form: Form,
    *,
    mask: Array | None = None,
    before: tuple[Array, Array] | None = None,
    relative: Array | None = None,
    previous_scores: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Array, Attended]:  # (batch, n, d) -> (batch, n, d), scores, keys and values
    """y = LN₁(x + SA(x; S_{l-1})), z = LN₂(y + FF(y)); the scores S_l are the next layer's previous ones. Arguments as `self_attention`."""
    mixed, seen = self_attention(
        layer,
        x,
        form.heads,
        mask=mask,
        before=before,
        relative=relative,
        previous_scores=previous_scores,
        mean_over=mean_over,
        hand_on=hand_on,
    )
    y = layer_norm(x + mixed, *layer.attention_norm, form.eps)
    return layer_norm(y + feed_forward(layer, y, form.activation), *layer.feed_forward_norm, form.eps), seen


# --- backwards ------------------------------------------------------------------------------------------------------------------------


@vjp_of(self_attention, "layer", "x", "before", "previous_scores", "relative")
def self_attention_vjp(
    layer: Block,
    x: Array,
    heads: int,
    *,
    mask: Array | None = None,
    before: tuple[Array, Array] | None = None,
    previous_scores: Array | None = None,
    relative: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Any, Pullback]:  # (batch, n, d) -> ((batch, n, d), Attended), pullback
    """[Q̄, K̄, V̄] from W_oᵀ ȳ through the heads, W̄ = Σ xᵀ [Q̄, K̄, V̄], x̄ = [Q̄, K̄, V̄] Wᵀ; norms and feed-forward layer get 0.

    The cotangent of what is left besides the output is an `Attended`, whose fields may be None. Arguments as `self_attention`.
    """
    qkv, qkv_pullback = affine_vjp(x, *layer.query_key_value)
    q, k, v = _heads(qkv, heads, before)
    options: dict[str, Any] = {"previous_scores": previous_scores, "relative": relative}
    (mixed, scores), attention_pullback = scaled_dot_product_attention_vjp(
        q, k, v, mask=mask, mean_over=mean_over, hand_on=hand_on, **options
    )
    y, output_pullback = affine_vjp(merge_heads(mixed), *layer.attention_output)

    def pullback(y_bar: Array | None, seen_bar: Attended | None = None) -> tuple[Any, ...]:
        seen = Attended(None, None, None) if seen_bar is None else seen_bar
        merged_bar, *output = output_pullback(zeros(y) if y_bar is None else y_bar)
        q_bar, k_bar, v_bar, *rest = attention_pullback(split_heads(merged_bar, heads), seen.scores)
        qkv_bar, before_bar = _heads_bars(q_bar, total(k_bar, seen.keys), total(v_bar, seen.values), before is not None)
        x_bar, *qkv_layer = qkv_pullback(qkv_bar)
        layer_bar = zeros(layer)._replace(query_key_value=Linear(*qkv_layer), attention_output=Linear(*output))
        return layer_bar, x_bar, before_bar, *rest

    return (y, Attended(scores, k, v)), pullback


def _heads_bars(
    q_bar: Array, k_bar: Array, v_bar: Array, preceded: bool
) -> tuple[Array, Any]:  # (batch, heads, n, w), 2 times (batch, heads, m, w) -> (batch, n, 3d), before
    """The heads of the last n queries, keys and values side by side; the m - n keys and values before them: the pullback of `_heads`."""
    first = k_bar.shape[2] - q_bar.shape[2]
    bars = (q_bar, k_bar[:, :, first:, :], v_bar[:, :, first:, :])
    before_bar = (k_bar[:, :, :first, :], v_bar[:, :, :first, :]) if preceded else None
    return namespace(q_bar, k_bar).concat([merge_heads(bar) for bar in bars], axis=-1), before_bar


@vjp_of(feed_forward, "layer", "x")
def feed_forward_vjp(
    layer: Block, x: Array, activation: GELUForm
) -> tuple[Array, Pullback]:  # (batch, n, d) -> (batch, n, d), pullback
    """x̄ = (GELU'(h) ∘ ȳ W_2ᵀ) W_1ᵀ with h = W_1 x + b_1; norms and attention get 0. Arguments as `feed_forward`."""
    wide, in_pullback = affine_vjp(x, *layer.feed_forward_in)
    active, gelu_pullback = gelu_vjp(wide, activation)
    y, out_pullback = affine_vjp(active, *layer.feed_forward_out)

    def pullback(y_bar: Array) -> tuple[Block, Array]:  # (batch, n, d) -> layer, (batch, n, d)
        active_bar, *last = out_pullback(y_bar)
        x_bar, *first = in_pullback(*gelu_pullback(active_bar))
        return zeros(layer)._replace(feed_forward_in=Linear(*first), feed_forward_out=Linear(*last)), x_bar

    return y, pullback


def _joined(attention: Block, norm: list[Array], feed_forward: Block, second_norm: list[Array]) -> Block:
    """The cotangents of a layer, from those of its two parts and their norms."""
    return feed_forward._replace(
        attention_norm=Norm(*norm),
        query_key_value=attention.query_key_value,
        attention_output=attention.attention_output,
        feed_forward_norm=Norm(*second_norm),
    )


@vjp_of(pre_ln, "layer", "x", "before")
def pre_ln_vjp(
    layer: Block, x: Array, form: Form, *, mask: Array | None = None, before: tuple[Array, Array] | None = None
) -> tuple[Any, Pullback]:  # (batch, n, d) -> ((batch, n, d), Attended), pullback
    """ȳ = z̄ + LN₂*(FF*(z̄)), x̄ = ȳ + LN₁*(SA*(ȳ)), where f* is the pullback of f. Arguments as `pre_ln`, cotangents as `self_attention_vjp`."""
    normed, norm_pullback = layer_norm_vjp(x, *layer.attention_norm, form.eps)
    (mixed, seen), attention_pullback = self_attention_vjp(layer, normed, form.heads, mask=mask, before=before)
    y = x + mixed
    second, second_norm_pullback = layer_norm_vjp(y, *layer.feed_forward_norm, form.eps)
    fed, feed_pullback = feed_forward_vjp(layer, second, form.activation)
    z = y + fed

    def pullback(z_bar: Array | None, seen_bar: Attended | None = None) -> tuple[Any, ...]:
        z_bar = zeros(z) if z_bar is None else z_bar
        feed, second_bar = feed_pullback(z_bar)
        through, *second_norm = second_norm_pullback(second_bar)
        y_bar = z_bar + through
        attention, normed_bar, before_bar, *_ = attention_pullback(y_bar, seen_bar)
        through, *norm = norm_pullback(normed_bar)
        return _joined(attention, norm, feed, second_norm), y_bar + through, before_bar

    return (z, seen), pullback


@vjp_of(post_ln, "layer", "x", "relative")
def post_ln_vjp(
    layer: Block, x: Array, form: Form, *, mask: Array | None = None, relative: Array | None = None
) -> tuple[Any, Pullback]:  # (batch, n, d) -> ((batch, n, d), Attended), pullback
    """RealFormer's without previous scores. Arguments as `post_ln`, cotangents as `self_attention_vjp`."""
    value, realformer_pullback = realformer_vjp(layer, x, form, mask=mask, relative=relative)

    def pullback(z_bar: Array | None, seen_bar: Attended | None = None) -> tuple[Any, ...]:
        layer_bar, x_bar, _, relative_bar, _ = realformer_pullback(z_bar, seen_bar)
        return layer_bar, x_bar, relative_bar

    return value, pullback


@vjp_of(realformer, "layer", "x", "previous_scores", "relative", "before")
def realformer_vjp(
    layer: Block,
    x: Array,
    form: Form,
    *,
    mask: Array | None = None,
    before: tuple[Array, Array] | None = None,
    relative: Array | None = None,
    previous_scores: Array | None = None,
    mean_over: int = 1,
    hand_on: HandedOn = "sum",
) -> tuple[Any, Pullback]:  # (batch, n, d) -> ((batch, n, d), Attended), pullback
    """s̄ = LN₂*(z̄), ȳ = s̄ + FF*(s̄), r̄ = LN₁*(ȳ), x̄ = r̄ + SA*(r̄, S̄_l), where f* is the pullback of f; S̄_{l-1} comes from SA* too.

    Arguments as `realformer`, cotangents as `self_attention_vjp`.
    """
    options: dict[str, Any] = {"previous_scores": previous_scores, "relative": relative}
    (mixed, seen), attention_pullback = self_attention_vjp(
        layer, x, form.heads, mask=mask, before=before, mean_over=mean_over, hand_on=hand_on, **options
    )
    y, norm_pullback = layer_norm_vjp(x + mixed, *layer.attention_norm, form.eps)
    fed, feed_pullback = feed_forward_vjp(layer, y, form.activation)
    z, second_norm_pullback = layer_norm_vjp(y + fed, *layer.feed_forward_norm, form.eps)

    def pullback(z_bar: Array | None, seen_bar: Attended | None = None) -> tuple[Any, ...]:
        sum_bar, *second_norm = second_norm_pullback(zeros(z) if z_bar is None else z_bar)
        feed, through = feed_pullback(sum_bar)
        residual_bar, *norm = norm_pullback(sum_bar + through)
        attention, through, before_bar, *rest = attention_pullback(residual_bar, seen_bar)
        return _joined(attention, norm, feed, second_norm), residual_bar + through, *rest, before_bar

    return (z, seen), pullback
