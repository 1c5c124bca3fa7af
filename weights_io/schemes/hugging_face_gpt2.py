"""Hugging Face's names for the parameters of a GPT-2, and its config.json.

The table below is the whole scheme; `{i}` is the layer. GPT2LMHeadModel puts "transformer." before every name but the head's, GPT2Model
does not: both are read. The files keep linear weights as (in, out), as this project does, so nothing is transposed. Old files carry the causal
mask as the buffers "attn.bias" and "attn.masked_bias": they hold no parameters and are left out by name.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError
from refimpl.gpt2 import GPT2Config

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["BUFFERS", "NAMES", "TIED_HEAD", "file_names", "read_config", "read_object"]

NAMES: dict[str, str] = {
    "wte.weight": "token_embedding",
    "wpe.weight": "position_embedding",
    "h.{i}.ln_1.weight": "blocks.{i}.attention_norm.scale",
    "h.{i}.ln_1.bias": "blocks.{i}.attention_norm.bias",
    "h.{i}.attn.c_attn.weight": "blocks.{i}.query_key_value.weight",
    "h.{i}.attn.c_attn.bias": "blocks.{i}.query_key_value.bias",
    "h.{i}.attn.c_proj.weight": "blocks.{i}.attention_output.weight",
    "h.{i}.attn.c_proj.bias": "blocks.{i}.attention_output.bias",
    "h.{i}.ln_2.weight": "blocks.{i}.feed_forward_norm.scale",
    "h.{i}.ln_2.bias": "blocks.{i}.feed_forward_norm.bias",
    "h.{i}.mlp.c_fc.weight": "blocks.{i}.feed_forward_in.weight",
    "h.{i}.mlp.c_fc.bias": "blocks.{i}.feed_forward_in.bias",
    "h.{i}.mlp.c_proj.weight": "blocks.{i}.feed_forward_out.weight",
    "h.{i}.mlp.c_proj.bias": "blocks.{i}.feed_forward_out.bias",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.bias",
    "lm_head.weight": "output_embedding",
}
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
TIED_HEAD = "lm_head.weight"
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
REFUSED = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "add_cross_attention": True}


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Our name of each parameter -> its name in the file. Buffers are left out; a name not in the table maps from itself.

    Raises ConfigError where two tensors claim one parameter.
    """
    ours: dict[str, str] = {}
    for name in names:
        bare = name.removeprefix("transformer.")
        if BUFFERS.fullmatch(bare):
            continue
        layer = re.match(r"h\.(\d+)\.", bare)
        number = layer[1] if layer else ""
        template = re.sub(r"^h\.\d+\.", "h.{i}.", bare)
        field = NAMES[template].replace("{i}", number) if template in NAMES else name
        if field in ours:
            raise ConfigError("two tensors claim one parameter", where=field, got=f"{ours[field]}, {name}")
        ours[field] = name
    return ours


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ConfigError for anything else."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path.name} must hold an object", where=path, expected="{...}", got=type(fields).__name__)
    return fields


def read_config(path: Path) -> GPT2Config:
    """The configuration in a Hugging Face config.json; raises ConfigError for what is missing, unknown or not implemented."""
    fields = read_object(path)
    if fields.get("model_type", "gpt2") != "gpt2":
        raise ConfigError("not a GPT-2", where=path, expected='model_type "gpt2"', got=fields["model_type"])
    needed = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    absent = [name for name in needed if name not in fields]
    if absent:
        raise ConfigError(
            "config.json lacks sizes", where=path, expected=", ".join(needed), got=f"without {', '.join(absent)}"
        )
    _refuse(path, fields)
    return GPT2Config(
        **{name: fields[name] for name in needed},
        n_inner=fields.get("n_inner"),
        layer_norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        activation=ACTIVATIONS[fields.get("activation_function", "gelu_new")],  # type: ignore[arg-type]
        tie_word_embeddings=fields.get("tie_word_embeddings", True),
        bos_token_id=_single(fields.get("bos_token_id")),
        eos_token_id=_single(fields.get("eos_token_id")),
    )


def _single(token: Any) -> int | None:
    if isinstance(token, list) and len(token) != 1:
        raise ConfigError(
            "several start or end tokens are not implemented",
            where="config.json, bos_token_id or eos_token_id",
            expected="one id or null",
            got=token,
            remedy="keep one in config.json, and pass the others as stop=",
        )
    first = token[0] if isinstance(token, list) else token
    if first is not None and (not isinstance(first, int) or isinstance(first, bool)):
        raise ConfigError(
            "a token id must be a whole number", where="config.json, bos_token_id or eos_token_id", got=repr(first)
        )
    return first


def _refuse(path: Path, fields: dict[str, Any]) -> None:
    activation = fields.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ConfigError("unknown activation_function", where=path, expected=", ".join(ACTIVATIONS), got=activation)
    set_wrong = [f"{name} = {value}" for name, value in REFUSED.items() if fields.get(name) is value]
    if set_wrong:
        raise ConfigError(
            "the configuration asks for a variant that is not implemented", where=path, got=", ".join(set_wrong)
        )
