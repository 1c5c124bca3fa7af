"""Hugging Face transformers: GPT-2 and BERT whole, their two attention functions, and their GELUs."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertForMaskedLM, GPT2LMHeadModel
from transformers.activations import ACT2FN
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import eager_attention_forward as bert_eager
from transformers.models.gpt2.modeling_gpt2 import eager_attention_forward as gpt2_eager
from transformers.utils import logging

from validation import components
from validation.targets.torch_arrays import tensor
from validation.targets.trial import ALL, NoSuchCallError, Trial

__all__ = ["trials"]

logging.set_verbosity_error()
logging.disable_progress_bar()
_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@functools.cache
def _model(kind: Any, folder: str, dtype: str, implementation: str) -> Any:
    path = components.RECORDED / folder / "model"
    return kind.from_pretrained(path, dtype=_TORCH[dtype], attn_implementation=implementation).eval()


def _gpt2(token_ids: Any, mask: Any, *, dtype: str, implementation: str) -> Any:
    """Logits, zero at padding as the component has them; positions as `generate` counts them."""
    places = (mask.long().cumsum(-1) - 1).clamp(min=0)
    model = _model(GPT2LMHeadModel, "gpt2_tiny", dtype, implementation)
    return model(token_ids, attention_mask=mask.long(), position_ids=places).logits * mask[..., None]


def _bert(token_ids: Any, segment_ids: Any, mask: Any, application: str, *, dtype: str, implementation: str) -> Any:
    if application != "encoder":
        raise NoSuchCallError("BertForMaskedLM is an encoder; it has no prefix masks")
    model = _model(BertForMaskedLM, "hugging_face_bert", dtype, implementation)
    return model(token_ids, attention_mask=mask.long(), token_type_ids=segment_ids).logits * mask[..., None]


def _attention(q: Any, k: Any, v: Any, mask: Any, *, forward: Any, added: bool) -> Any:
    """An attention function of the package with the mask it is given in its models: eager ones add the dtype's lowest number, sdpa gets booleans."""
    module = SimpleNamespace(training=False, is_causal=False)
    if mask is not None and added:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
    return forward(module, q, k, v, mask, scaling=q.shape[-1] ** -0.5, dropout=0.0)[0].transpose(1, 2)


def _activation(x: Any, approximate: str, *, name: str, form: str) -> Any:
    if approximate != form:
        raise NoSuchCallError(f"{name} is one function")
    return ACT2FN[name](x)


_ACTIVATIONS = {
    "none": ("gelu", "gelu_python", "gelu_10"),
    "tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate", "quick_gelu"),
}


def trials() -> list[Trial]:
    """What is checked of transformers."""
    found = []
    for implementation in ("eager", "sdpa"):
        for dtype in ALL:
            gpt2, bert = (functools.partial(f, dtype=dtype, implementation=implementation) for f in (_gpt2, _bert))
            found.append(Trial(f"GPT2LMHeadModel, {implementation}", "gpt2", gpt2, (dtype,), convert=tensor))
            found.append(Trial(f"BertForMaskedLM, {implementation}", "bert", bert, (dtype,), convert=tensor))
    for name, forward, added in (
        ("eager_attention_forward of GPT-2", gpt2_eager, True),
        ("eager_attention_forward of BERT", bert_eager, True),
        ("sdpa_attention_forward", sdpa_attention_forward, False),
    ):
        function = functools.partial(_attention, forward=forward, added=added)
        found.append(Trial(name, "attention", function, ALL, convert=tensor))
    for form, names in _ACTIVATIONS.items():
        for name in names:
            function = functools.partial(_activation, name=name, form=form)
            found.append(Trial(f'ACT2FN["{name}"]', "gelu", function, ALL, form, tensor))
    return found
