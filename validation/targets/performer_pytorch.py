"""performer-pytorch: its two feature maps, its attention, and its layer, which is where masks come in."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import torch

from validation.targets.torch_arrays import tensor
from validation.targets.trial import ALL, LONG, NoSuchCallError, Trial

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    from performer_pytorch import performer_pytorch as package

__all__ = ["trials"]


def _with_heads(x: Any) -> Any:  # (b, n, d) -> (b, 1, n, d)
    return x[:, None] if x.ndim == 3 else x


def _positive(x: Any, projection: Any, scaled: bool, shift: str, normalized: bool, epsilon: float) -> Any:
    if shift not in ("row", "head") or normalized is not True:
        raise NoSuchCallError("softmax_kernel always subtracts a maximum, and always divides by √m")
    options = {"projection_matrix": projection, "is_query": shift == "row", "normalize_data": scaled, "eps": epsilon}
    return package.softmax_kernel(_with_heads(x), **options).reshape(*x.shape[:-1], -1)


def _relu(x: Any, projection: Any, scaled: bool, epsilon: float, normalized: Any) -> Any:
    if normalized:
        raise NoSuchCallError("generalized_kernel never divides by √m")
    options = {"projection_matrix": projection, "normalize_data": scaled, "kernel_epsilon": epsilon}
    return package.generalized_kernel(_with_heads(x), **options).reshape(*x.shape[:-1], -1)


def _quietly(make: Any, *args: Any, **options: Any) -> Any:
    """The module without the line that it prints where its CUDA code is missing."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make(*args, **options)


def _attention(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str) -> Any:
    if mask is not None:
        raise NoSuchCallError("FastAttention takes no mask; its layer does")
    if causal and q.shape[-2] != k.shape[-2]:
        raise NoSuchCallError("causal attention needs as many keys as queries")
    module = _quietly(package.FastAttention, q.shape[-1], nb_features=len(projection), causal=causal)
    module.projection_matrix = projection
    return module(q, k, v)


def _layer(q: Any, k: Any, v: Any, projection: Any, mask: Any, causal: bool, dialect: str) -> Any:
    """SelfAttention whose linear maps pick q, k and v out of one input that holds them side by side."""
    batch, heads, length, width = q.shape
    if k.shape != q.shape or v.shape != q.shape:
        raise NoSuchCallError("the layer's q, k and v have one shape")
    inner = heads * width
    options = {"heads": heads, "dim_head": width, "nb_features": len(projection), "causal": causal}
    layer = _quietly(package.SelfAttention, 3 * inner, **options).to(q.dtype).eval()
    eye = torch.eye(3 * inner, dtype=q.dtype)
    for i, each in enumerate((layer.to_q, layer.to_k, layer.to_v)):
        each.weight.copy_(eye[i * inner : (i + 1) * inner])
    layer.to_out.weight.copy_(eye[:, :inner])
    if layer.to_out.bias is not None:
        layer.to_out.bias.zero_()
    layer.fast_attention.projection_matrix = projection
    x = torch.cat([each.transpose(1, 2).reshape(batch, length, inner) for each in (q, k, v)], dim=-1)
    seen = None if mask is None else mask.expand(batch, 1, length)[:, 0]
    return layer(x, mask=seen)[..., :inner].reshape(batch, length, heads, width).transpose(1, 2)


def trials() -> list[Trial]:
    """What is checked of performer-pytorch; attention as its own dialect, and as the paper's."""
    found = [
        Trial("softmax_kernel", "positive_features", _positive, ALL, convert=tensor),
        Trial("generalized_kernel", "relu_features", _relu, ALL, convert=tensor),
    ]
    for dialect in ("performer-pytorch", "paper"):
        found.append(Trial("FastAttention", "favor_attention", _attention, LONG, dialect, tensor))
        found.append(Trial("SelfAttention", "favor_attention", _layer, LONG, dialect, tensor))
    return found
