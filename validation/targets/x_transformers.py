"""x-transformers: its attention, with previous scores too, and its softmax over the k largest."""

from __future__ import annotations

import functools
from typing import Any

import torch
from x_transformers.attend import Attend, sparse_topk_attn

from validation.targets.torch_arrays import tensor
from validation.targets.trial import ALL, NoSuchCallError, Trial

__all__ = ["trials"]


def _attention(
    q: Any, k: Any, v: Any, mask: Any, previous_scores: Any = None, mean_over: int = 1, *, options: dict[str, Any]
) -> Any:
    if mean_over != 1:
        raise NoSuchCallError("previous scores are added, never averaged")
    seen = mask if mask is None or mask.ndim == 4 else mask.expand(1, 1, *mask.shape[-2:])
    return Attend(**options)(q, k, v, mask=seen, prev_attn=previous_scores)[0]


def _residual(
    q: Any, k: Any, v: Any, previous_scores: Any, mask: Any, mean_over: int, *, options: dict[str, Any]
) -> Any:
    return _attention(q, k, v, mask, previous_scores, mean_over, options=options)


def _top_k(x: Any, k: int) -> Any:
    if k > x.shape[-1]:
        raise NoSuchCallError("no more entries can be kept than there are")
    return sparse_topk_attn(x, k)


def trials() -> list[Trial]:
    """What is checked of x-transformers."""
    own_softmax = {"custom_attn_fn": functools.partial(torch.softmax, dim=-1)}
    forms: dict[str, dict[str, Any]] = {"": {}, ", softmax in the dtype of its input": own_softmax}
    found = []
    for label, options in forms.items():
        plain, residual = (functools.partial(each, options=options) for each in (_attention, _residual))
        found.append(Trial(f"Attend{label}", "attention", plain, ALL, convert=tensor))
        found.append(Trial(f"Attend, prev_attn{label}", "residual_attention", residual, ALL, convert=tensor))
    flash = functools.partial(_attention, options={"flash": True})
    found.append(Trial("Attend, flash", "attention", flash, ALL, convert=tensor))
    found.append(Trial("sparse_topk_attn", "sparse_softmax", _top_k, ALL, convert=tensor))
    return found
