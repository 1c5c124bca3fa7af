"""TensorFlow: functions of `tf.nn` and `tf.math`, eager, on the processor."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from validation.targets.trial import ALL, Trial

__all__ = ["trials"]


def _gelu(x: Any, approximate: str) -> Any:
    return tf.nn.gelu(x, approximate=approximate == "tanh")


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    """`tf.nn.moments` and `tf.nn.batch_normalization` along the last axis, as layers of TensorFlow compose it."""
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, bias, scale, eps)


def trials() -> list[Trial]:
    """What is checked of TensorFlow."""
    found = {
        "tf.nn.softmax": ("softmax", tf.nn.softmax),
        "tf.nn.log_softmax": ("log_softmax", tf.nn.log_softmax),
        "tf.reduce_logsumexp": ("logsumexp", lambda x: tf.reduce_logsumexp(x, axis=-1)),
        "tf.nn.gelu": ("gelu", _gelu),
        "tf.nn.moments, tf.nn.batch_normalization": ("layer_norm", _layer_norm),
    }
    return [
        Trial(name, component, function, ALL, convert=tf.convert_to_tensor)
        for name, (component, function) in found.items()
    ]
