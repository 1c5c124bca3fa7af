"""Keras 3: functions of `keras.ops` and a layer, on the backend that it is configured for (KERAS_BACKEND)."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import ops

from validation.targets.trial import ALL, NoSuchCallError, Trial

__all__ = ["trials"]

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_enable_x64", True)


def _gelu(x: Any, approximate: str) -> Any:
    return ops.gelu(x, approximate=approximate == "tanh")


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    return ops.layer_normalization(x, gamma=scale, beta=bias, epsilon=eps)


def _layer(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    layer = keras.layers.LayerNormalization(epsilon=eps, dtype=keras.backend.standardize_dtype(x.dtype))
    layer.build(x.shape)
    layer.set_weights([scale, bias])
    return layer(x)


def _attention(q: Any, k: Any, v: Any, mask: Any, bias: Any = None) -> Any:  # (b, h, n, d); there (b, n, h, d)
    q, k, v = (ops.transpose(each, (0, 2, 1, 3)) for each in (q, k, v))
    if mask is not None:
        mask = ops.reshape(mask, (*(1,) * (4 - len(mask.shape)), *mask.shape))
    return ops.transpose(ops.dot_product_attention(q, k, v, bias=bias, mask=mask), (0, 2, 1, 3))


def _residual(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    if mean_over != 1:
        raise NoSuchCallError("a bias is added, never averaged")
    return _attention(q, k, v, mask, previous_scores)


def trials() -> list[Trial]:
    """What is checked of Keras."""
    found = {
        "keras.ops.softmax": ("softmax", ops.softmax),
        "keras.ops.log_softmax": ("log_softmax", ops.log_softmax),
        "keras.ops.logsumexp": ("logsumexp", lambda x: ops.logsumexp(x, axis=-1)),
        "keras.ops.gelu": ("gelu", _gelu),
        "keras.ops.layer_normalization": ("layer_norm", _layer_norm),
        "keras.layers.LayerNormalization": ("layer_norm", _layer),
        "keras.ops.dot_product_attention": ("attention", _attention),
        "keras.ops.dot_product_attention, bias": ("residual_attention", _residual),
    }
    return [
        Trial(name, component, function, ALL, convert=ops.convert_to_tensor)
        for name, (component, function) in found.items()
    ]
