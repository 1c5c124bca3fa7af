"""Hugging Face's names for the parameters of a GPT-2: GPT2LMHeadModel, and GPT2Model, which has neither prefix nor head.

The files keep linear weights as (in, out) (their class is Conv1D), as this project does, so nothing is transposed. Old files carry the causal
mask as buffers: they hold no parameters. The head is in the file only sometimes, and then mostly the token embedding again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refimpl.errors import ConfigError
from weights_io.schemes.config import read_gpt2 as read_config
from weights_io.schemes.config import read_object
from weights_io.schemes.scheme import Rule, Scheme, explain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SCHEME", "TIED_HEAD", "file_names", "read_config", "read_object"]

TIED_HEAD = "lm_head.weight"
SCHEME = Scheme(
    name="hugging-face-gpt2",
    architecture="gpt2",
    title="Hugging Face GPT-2",
    reference="transformers, models/gpt2/modeling_gpt2.py",
    dialect="openai",
    table={
        "[transformer.]wte.weight": Rule("token_embedding"),
        "[transformer.]wpe.weight": Rule("position_embedding"),
        "[transformer.]h.{i}.ln_1.weight": Rule("blocks.{i}.attention_norm.scale"),
        "[transformer.]h.{i}.ln_1.bias": Rule("blocks.{i}.attention_norm.bias"),
        "[transformer.]h.{i}.attn.c_attn.weight": Rule("blocks.{i}.query_key_value.weight"),
        "[transformer.]h.{i}.attn.c_attn.bias": Rule("blocks.{i}.query_key_value.bias"),
        "[transformer.]h.{i}.attn.c_proj.weight": Rule("blocks.{i}.attention_output.weight"),
        "[transformer.]h.{i}.attn.c_proj.bias": Rule("blocks.{i}.attention_output.bias"),
        "[transformer.]h.{i}.ln_2.weight": Rule("blocks.{i}.feed_forward_norm.scale"),
        "[transformer.]h.{i}.ln_2.bias": Rule("blocks.{i}.feed_forward_norm.bias"),
        "[transformer.]h.{i}.mlp.c_fc.weight": Rule("blocks.{i}.feed_forward_in.weight"),
        "[transformer.]h.{i}.mlp.c_fc.bias": Rule("blocks.{i}.feed_forward_in.bias"),
        "[transformer.]h.{i}.mlp.c_proj.weight": Rule("blocks.{i}.feed_forward_out.weight"),
        "[transformer.]h.{i}.mlp.c_proj.bias": Rule("blocks.{i}.feed_forward_out.bias"),
        "[transformer.]ln_f.weight": Rule("final_norm.scale"),
        "[transformer.]ln_f.bias": Rule("final_norm.bias"),
        TIED_HEAD: Rule("output_embedding"),
    },
    ignored={
        "[transformer.]h.{i}.attn.bias": "the causal mask, a buffer",
        "[transformer.]h.{i}.attn.masked_bias": "the number -10000 that old versions mask with, a buffer",
    },
)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Our name of each parameter -> its name in the file. Buffers are left out; a name not in the table maps from itself.

    Raises ConfigError where two tensors claim one parameter.
    """
    explanation = explain(names, SCHEME)
    for ours, theirs in explanation.clashes.items():
        raise ConfigError("two tensors claim one parameter", where=ours, got=", ".join(theirs))
    known = {ours: pieces[0].name for ours, pieces in explanation.pieces.items()}
    return known | {name: name for name in explanation.unexplained}
