"""bert4keras (0.11.5 or 0.9.8, whichever is installed): GELUs, layer norm, hierarchical positions, attention, BERT and NEZHA whole.

Its layers are called as they are, eagerly, with arrays in place of what their linear maps would make. It needs tf.keras of the second Keras:
TensorFlow 2.21 with tf-keras, chosen by TF_USE_LEGACY_KERAS before TensorFlow is imported.
"""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ["TF_KERAS"] = os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

if not tf.keras.layers:  # what is lazy there must be loaded before bert4keras puts itself in its place
    raise ImportError("tf.keras has no layers")

import bert4keras
from bert4keras import backend, layers, models

from validation import components
from validation.targets.trial import LONG, NoSuchCallError, Trial

__all__ = ["trials"]

_CUMULATIVE = not bert4keras.__version__.startswith("0.11")


def _gelu(x: Any, approximate: str) -> Any:
    return (backend.gelu_tanh if approximate == "tanh" else backend.gelu_erf)(x)


def _floats(dtype: Any) -> None:
    backend.K.set_floatx(dtype.name)


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    _floats(x.dtype)
    layer = layers.LayerNormalization(epsilon=eps)
    layer.build(x.shape)
    layer.gamma.assign(scale)
    layer.beta.assign(bias)
    return layer.call(x)


def _hierarchical(table: Any, positions: Any, alpha: float) -> Any:
    _floats(table.dtype)
    layer = layers.PositionEmbedding(table.shape[0], table.shape[1], hierarchical=alpha, custom_position_ids=True)
    layer.build(table.shape)
    layer.embeddings.assign(table)
    return layer.call([tf.zeros((*positions.shape, table.shape[1]), table.dtype), tf.cast(positions, "int32")])


def _heads_inside(x: Any) -> Any:  # (b, h, n, d) <-> (b, n, h, d)
    return tf.transpose(x, (0, 2, 1, 3))


def _attention(q: Any, k: Any, v: Any, mask: Any, relative: Any = None) -> Any:
    """pay_attention_to on given heads: a mask of keys is its `v_mask`, one of queries and keys its `a_bias`."""
    _floats(q.dtype)
    if v.shape[-1] != q.shape[-1]:
        raise NoSuchCallError("keys and values have one width")
    layer = layers.MultiHeadAttention(q.shape[1], q.shape[-1])
    inputs, options, keys = [_heads_inside(each) for each in (q, k, v)], {}, None
    if mask is not None and len(mask.shape) == 4:
        keys = _keys(mask, *inputs[:2])
    elif mask is not None:
        options["a_bias"] = True
        inputs.append(_as_models_have_it(mask, q))
    if relative is not None:
        options["p_bias"] = "typical_relative"
        inputs.append(relative)
    return _heads_inside(layer.pay_attention_to(inputs, [None, keys], **options)[0])


def _as_models_have_it(mask: Any, q: Any) -> Any:
    """LM_Mask's form: booleans (1, n, m) in 0.11, (1, 1, n, m) with -1e12 where hidden before."""
    if not _CUMULATIVE:
        return mask[None]
    return tf.where(mask, tf.constant(0, q.dtype), tf.constant(-1e12, q.dtype))[None, None]


def _residual(
    q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int, *, handed_on: bool = False
) -> Any:
    """Previous scores as `a_bias`, which models with residual attention use; handed on by a layer before it whose own scores are all 0."""
    _floats(q.dtype)
    if mean_over != 1:
        raise NoSuchCallError("previous scores are added, never averaged")
    if mask is not None and len(mask.shape) != 4:
        raise NoSuchCallError("there is one a_bias, for previous scores or for a mask of queries and keys")
    layer = layers.MultiHeadAttention(q.shape[1], q.shape[-1])
    q, k, v = (_heads_inside(each) for each in (q, k, v))
    if handed_on:
        inputs = [tf.zeros_like(q), k, v, previous_scores]
        previous_scores = layer.pay_attention_to(inputs, [None, None], a_bias=True)[1]
    keys = None if mask is None else _keys(mask, q, k)
    return _heads_inside(layer.pay_attention_to([q, k, v, previous_scores], [None, keys], a_bias=True)[0])


def _keys(mask: Any, q: Any, k: Any) -> Any:
    """A mask of keys, (batch, m), as the package's layers hand it on; `q` and `k` are (b, n, h, d)."""
    return tf.cast(tf.broadcast_to(mask, (q.shape[0], 1, 1, k.shape[1]))[:, 0, 0], q.dtype if _CUMULATIVE else bool)


def _relative(q: Any, k: Any, v: Any, relative: Any, mask: Any) -> Any:
    return _attention(q, k, v, mask, relative)


_FOLDERS = {"bert": "hugging_face_bert", "nezha": "bert4keras/nezha"}


@functools.cache
def _model(kind: str, application: str, dtype: str) -> Any:
    backend.K.clear_session()
    backend.K.set_floatx(dtype)
    folder = components.RECORDED / _FOLDERS[kind]
    options = {"model": kind, "with_mlm": "linear", "application": application}
    return models.build_transformer_model(str(folder / "config.json"), str(folder / "model.ckpt"), **options)


def _nezha(token_ids: Any, segment_ids: Any, mask: Any, application: str, *, dtype: str) -> Any:
    """Whole; padding is id 0 there, so that masked places are given that id."""
    ids = tf.where(mask, token_ids, 0)
    return _model("nezha", application, dtype)([ids, segment_ids]) * tf.cast(mask, dtype)[..., None]


def trials() -> list[Trial]:
    """What is checked of bert4keras."""
    found: list[tuple[str, str, Any]] = [
        ("backend.gelu_erf, backend.gelu_tanh", "gelu", _gelu),
        ("layers.LayerNormalization", "layer_norm", _layer_norm),
        ("layers.PositionEmbedding, hierarchical", "hierarchical_positions", _hierarchical),
        ("layers.MultiHeadAttention", "attention", _attention),
        ("layers.MultiHeadAttention, a_bias", "residual_attention", _residual),
        (
            "layers.MultiHeadAttention, scores handed on",
            "residual_attention",
            functools.partial(_residual, handed_on=True),
        ),
        ("layers.MultiHeadAttention, typical_relative", "relative_attention", _relative),
    ]
    plain = [
        Trial(name, component, function, LONG, convert=tf.convert_to_tensor) for name, component, function in found
    ]
    whole = [
        Trial("NEZHA", "nezha", functools.partial(_nezha, dtype=dtype), (dtype,), convert=tf.convert_to_tensor)
        for dtype in LONG
    ]
    return plain + whole
