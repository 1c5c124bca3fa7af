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

from typing import TYPE_CHECKING, Literal, NamedTuple

from refimpl.activation import gelu
from refimpl.attention import HandedOn, merge_heads, scaled_dot_product_attention, split_heads
from refimpl.normalization import layer_norm
from refimpl.number_system import Array, namespace

if TYPE_CHECKING:
    from refimpl.parameters import Block

__all__ = ["Attended", "Form", "GELUForm", "feed_forward", "post_ln", "pre_ln", "realformer", "self_attention"]

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
    xp, d = namespace(x), x.shape[-1]
    qkv = layer.query_key_value(x)
    q, k, v = (split_heads(qkv[..., i * d : (i + 1) * d], heads) for i in range(3))
    if before is not None:
        k, v = xp.concat([before[0], k], axis=2), xp.concat([before[1], v], axis=2)
    mixed, scores = scaled_dot_product_attention(
        q, k, v, mask=mask, previous_scores=previous_scores, relative=relative, mean_over=mean_over, hand_on=hand_on
    )
    return layer.attention_output(merge_heads(mixed)), Attended(scores, k, v)


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
        relative=relative,
        previous_scores=previous_scores,
        mean_over=mean_over,
        hand_on=hand_on,
    )
    y = layer_norm(x + mixed, *layer.attention_norm, form.eps)
    return layer_norm(y + feed_forward(layer, y, form.activation), *layer.feed_forward_norm, form.eps), seen
