"""JAX: functions of `jax.nn`, on the processor, compiled but for attention, which is tried both ways. 64-bit numbers are switched on."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import numpy as jnp

from validation.targets.trial import ALL, NoSuchCallError, Trial

__all__ = ["trials"]

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")


@functools.partial(jax.jit, static_argnames=("approximate",))
def _gelu(x: Any, approximate: str) -> Any:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@functools.partial(jax.jit, static_argnames=("eps", "algorithm"))
def _layer_norm(x: Any, scale: Any, bias: Any, eps: float, algorithm: str = "fast") -> Any:
    """`standardize` is the norm without scale and bias, which layers multiply and add."""
    return jax.nn.standardize(x, epsilon=eps, algorithm=algorithm) * scale + bias


def _attention(q: Any, k: Any, v: Any, mask: Any, bias: Any = None) -> Any:  # (b, h, n, d); there (b, n, h, d)
    q, k, v = (jnp.swapaxes(each, 1, 2) for each in (q, k, v))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*(1,) * (4 - mask.ndim), *mask.shape))
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask), 1, 2)


def _residual(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    if mean_over != 1:
        raise NoSuchCallError("a bias is added, never averaged")
    return _attention(q, k, v, mask, previous_scores)


def trials() -> list[Trial]:
    """What is checked of JAX."""
    found = {
        "jax.nn.softmax": ("softmax", jax.jit(jax.nn.softmax)),
        "jax.nn.log_softmax": ("log_softmax", jax.jit(jax.nn.log_softmax)),
        "jax.nn.logsumexp": ("logsumexp", jax.jit(functools.partial(jax.nn.logsumexp, axis=-1))),
        "jax.nn.gelu": ("gelu", _gelu),
        "jax.nn.standardize": ("layer_norm", _layer_norm),
        "jax.nn.standardize, stable": ("layer_norm", functools.partial(_layer_norm, algorithm="stable")),
        "jax.nn.dot_product_attention": ("attention", _attention),
        "jax.nn.dot_product_attention, compiled": ("attention", jax.jit(_attention)),
        "jax.nn.dot_product_attention, bias": ("residual_attention", _residual),
    }
    return [Trial(name, component, function, ALL, convert=jnp.asarray) for name, (component, function) in found.items()]
