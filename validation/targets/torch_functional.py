"""PyTorch: functions of `torch.nn.functional` on the processor; attention by each kernel that there is for it."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from validation import backwards
from validation.targets.torch_arrays import tensor
from validation.targets.trial import ALL, NoSuchCallError, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["trials"]


def _layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Any:
    return functional.layer_norm(x, x.shape[-1:], scale, bias, eps)


def _attention(q: Any, k: Any, v: Any, mask: Any, *, kernel: Any = None) -> Any:
    if kernel is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with sdpa_kernel(kernel):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _added(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The mask as a number that is added, minus infinity where it hides: the other form that the function takes."""
    if mask is not None:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _residual(q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int) -> Any:
    """Previous scores as the mask that is added, minus infinity where a key is hidden."""
    if mean_over != 1:
        raise NoSuchCallError("what is added to scores is not averaged with them")
    added = previous_scores if mask is None else previous_scores.masked_fill(~mask, float("-inf"))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


def _cross_entropy(logits: Any, targets: Any) -> Any:
    return functional.cross_entropy(logits, targets, reduction="none")


def _differentiated(function: Callable[..., Any], each: backwards.Backward) -> Callable[..., Any]:
    """The backward pass that torch has for a function of its own."""

    def backward(*arrays: Any, **params: Any) -> tuple[Any, ...]:
        *given, cotangent = arrays
        places = [each.given.index(name) for name in each.arguments]
        every = [a.clone().requires_grad_(i in places) for i, a in enumerate(given)]
        with torch.enable_grad():
            return tuple(torch.autograd.grad(function(*every, **params), [every[i] for i in places], cotangent))

    return backward


def trials() -> list[Trial]:
    """What is checked of PyTorch: its functions, and the backward pass of each."""
    attend = "scaled_dot_product_attention"
    found = {
        "softmax": ("softmax", lambda x: functional.softmax(x, -1)),
        "log_softmax": ("log_softmax", lambda x: functional.log_softmax(x, -1)),
        "logsumexp": ("logsumexp", lambda x: torch.logsumexp(x, -1)),
        "gelu": ("gelu", lambda x, approximate: functional.gelu(x, approximate=approximate)),
        "layer_norm": ("layer_norm", _layer_norm),
        attend: ("attention", _attention),
        f"{attend}, mask added": ("attention", _added),
        f"{attend}, math kernel": ("attention", functools.partial(_attention, kernel=SDPBackend.MATH)),
        f"{attend}, flash kernel": ("attention", functools.partial(_attention, kernel=SDPBackend.FLASH_ATTENTION)),
        f"{attend}, previous scores added": ("residual_attention", _residual),
    }
    forward = [Trial(name, component, function, ALL, convert=tensor) for name, (component, function) in found.items()]
    passes = {each.name: each for each in backwards.BACKWARDS}
    backward = [
        dataclasses.replace(
            each,
            name=f"{each.name}, backward",
            component=f"{each.component}.vjp",
            function=_differentiated(each.function, passes[f"{each.component}.vjp"]),
        )
        for each in (*forward, Trial("cross_entropy", "cross_entropy", _cross_entropy, ALL, convert=tensor))
    ]
    return [*forward, *backward]
