"""Hugging Face transformers: GPT-2 and BERT whole, a layer of each, their two attention functions, and their GELUs."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
from transformers.activations import ACT2FN
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.bert.modeling_bert import eager_attention_forward as bert_eager
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
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


def _seen(mask: Any, causal: bool, q: Any, implementation: str) -> Any:
    """The mask (b, 1, n, n) as models hand it to their layers: booleans for sdpa, the lowest number added for eager attention."""
    n = mask.shape[1]
    seen = mask[:, None, None, :].expand(-1, 1, n, n)
    seen = seen & torch.ones(n, n, dtype=torch.bool).tril() if causal else seen
    if implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)


def _filled(layer: Any, x: Any, names: tuple[str, ...], parameters: list[Any]) -> Any:
    """The layer with these weights and biases, pair by pair."""
    keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    layer.to(x.dtype).load_state_dict(dict(zip(keys, parameters, strict=True)))
    return layer.eval()


def _gpt2_block(x: Any, mask: Any, *parameters: Any, heads: int, eps: float, implementation: str) -> Any:
    sizes = {"n_embd": x.shape[-1], "n_head": heads, "n_inner": parameters[8].shape[1], "layer_norm_epsilon": eps}
    config = GPT2Config(**sizes, attn_implementation=implementation)
    names = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    block = _filled(GPT2Block(config, layer_idx=0), x, names, list(parameters))
    answer = block(x, attention_mask=_seen(mask, True, x, implementation))
    answer = answer[0] if isinstance(answer, tuple) else answer
    return answer.masked_fill(~mask[..., None], 0)


def _bert_block(
    x: Any, mask: Any, previous_scores: Any, *parameters: Any, heads: int, eps: float, implementation: str
) -> Any:
    if bool((previous_scores != 0).any()):
        raise NoSuchCallError("a layer takes no previous scores")
    norm, (qkv, qkv_bias), rest = parameters[:2], parameters[2:4], parameters[4:]
    sizes = {"hidden_size": x.shape[-1], "num_attention_heads": heads, "intermediate_size": rest[4].shape[1]}
    config = BertConfig(**sizes, layer_norm_eps=eps, attn_implementation=implementation)
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    names += ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    thirds = zip(qkv.T.chunk(3), qkv_bias.chunk(3), strict=True)
    given = [each for pair in thirds for each in pair]
    given += [rest[0].T, rest[1], *norm, rest[4].T, rest[5], rest[6].T, rest[7], *rest[2:4]]
    answer = _filled(BertLayer(config), x, names, given)(x, _seen(mask, False, x, implementation))
    answer = answer[0] if isinstance(answer, tuple) else answer
    return answer.masked_fill(~mask[..., None], 0)


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
        layers = {"GPT2Block": ("gpt2_block", _gpt2_block), "BertLayer": ("bert_block", _bert_block)}
        for name, (component, layer) in layers.items():
            function = functools.partial(layer, implementation=implementation)
            found.append(Trial(f"{name}, {implementation}", component, function, ALL, convert=tensor))
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
