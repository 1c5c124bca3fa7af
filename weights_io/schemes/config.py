"""Configurations of a GPT-2: config.json as Hugging Face or as bert4keras writes it, or the shapes of the weights where there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError
from refimpl.gpt2 import GPT2Config, named_dialect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from refimpl.gpt2 import Dialect
    from weights_io.schemes.scheme import Scheme

__all__ = ["gpt2_from_shapes", "is_bert4keras", "read_gpt2", "read_object"]

# Hugging Face: what the configuration calls each activation
HUGGING_FACE_ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
REFUSED = {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "add_cross_attention": True}

# bert4keras: its name -> ours; "gelu" is the form with erf unless a program calls set_gelu("tanh")
BERT4KERAS_ACTIVATIONS = {"gelu": "none", "gelu_erf": "none", "gelu_tanh": "tanh"}
BERT4KERAS_SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
}
BERT4KERAS_POSITIONS = 512  # where the configuration does not say
SAME_AS = {"embedding_size": "hidden_size"}  # must equal, where given


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ConfigError for anything else."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path.name} must hold an object", where=path, expected="{...}", got=type(fields).__name__)
    return fields


def read_gpt2(path: Path) -> GPT2Config:
    """The configuration in a config.json, Hugging Face's or bert4keras'; raises ConfigError for what is missing, unknown or not implemented."""
    fields = read_object(path)
    return _bert4keras(path, fields) if _of_bert4keras(fields) else _hugging_face(path, fields)


def is_bert4keras(path: Path) -> bool:
    """Whether a config.json is bert4keras' kind: a BERT's fields for a GPT-2."""
    return _of_bert4keras(read_object(path))


def _of_bert4keras(fields: Mapping[str, Any]) -> bool:
    return "hidden_size" in fields and "n_embd" not in fields and fields.get("model_type", "gpt2") == "gpt2"


def _needed(path: Path, fields: Mapping[str, Any], names: list[str]) -> None:
    absent = [name for name in names if name not in fields]
    if absent:
        raise ConfigError(
            "config.json lacks sizes", where=path, expected=", ".join(names), got=f"without {', '.join(absent)}"
        )


def _hugging_face(path: Path, fields: Mapping[str, Any]) -> GPT2Config:
    if fields.get("model_type", "gpt2") != "gpt2":
        raise ConfigError("not a GPT-2", where=path, expected='model_type "gpt2"', got=fields["model_type"])
    needed = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"]
    _needed(path, fields, needed)
    _refuse(path, fields)
    return GPT2Config(
        **{name: fields[name] for name in needed},
        n_inner=fields.get("n_inner"),
        layer_norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        activation=HUGGING_FACE_ACTIVATIONS[fields.get("activation_function", "gelu_new")],  # type: ignore[arg-type]
        tie_word_embeddings=fields.get("tie_word_embeddings", True),
        bos_token_id=_single(fields.get("bos_token_id")),
        eos_token_id=_single(fields.get("eos_token_id")),
    )


def _bert4keras(path: Path, fields: Mapping[str, Any]) -> GPT2Config:
    """bert4keras' model="gpt2": the layer norms' epsilon is 1e-5, whatever the file says of a BERT's."""
    _needed(path, fields, [*BERT4KERAS_SIZES.values()])
    activation = fields.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in BERT4KERAS_ACTIVATIONS:
        raise ConfigError("unknown hidden_act", where=path, expected=", ".join(BERT4KERAS_ACTIVATIONS), got=activation)
    other = [
        f"{name} = {fields[name]}" for name, same in SAME_AS.items() if fields.get(name) not in (None, fields[same])
    ]
    other += [f"{name} = {fields[name]}" for name in ("attention_head_size", "attention_key_size") if fields.get(name)]
    if other:
        raise ConfigError(
            "the configuration asks for a variant that is not implemented", where=path, got=", ".join(other)
        )
    return GPT2Config(
        **{ours: fields[theirs] for ours, theirs in BERT4KERAS_SIZES.items()},
        n_positions=fields.get("max_position", fields.get("max_position_embeddings", BERT4KERAS_POSITIONS)),
        activation=BERT4KERAS_ACTIVATIONS[activation],  # type: ignore[arg-type]
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


def _refuse(path: Path, fields: Mapping[str, Any]) -> None:
    activation = fields.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in HUGGING_FACE_ACTIVATIONS:
        raise ConfigError(
            "unknown activation_function", where=path, expected=", ".join(HUGGING_FACE_ACTIVATIONS), got=activation
        )
    set_wrong = [f"{name} = {value}" for name, value in REFUSED.items() if fields.get(name) is value]
    if set_wrong:
        raise ConfigError(
            "the configuration asks for a variant that is not implemented", where=path, got=", ".join(set_wrong)
        )


def gpt2_from_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    scheme: Scheme,
    heads: int | None,
    where: object,
    dialect: str | Dialect | None = None,
) -> GPT2Config:
    """The configuration that canonical shapes show; only the number of heads does not show in them.

    Parameters
    ----------
    shapes : canonical name -> shape
    scheme : whose released models are known by their width where `heads` is None
    heads : attention heads of a layer
    where : for messages
    dialect : whose activation is taken where it names one; None is the scheme's
    """
    needed = ["token_embedding", "position_embedding", "blocks.0.feed_forward_in.weight"]
    absent = [name for name in needed if len(shapes.get(name, ())) != 2]
    if absent:
        raise ConfigError(
            "the weights do not show the sizes of a model", where=where, got=f"without {', '.join(absent)}"
        )
    vocabulary, width = shapes["token_embedding"]
    known = heads or scheme.heads.get(width)
    if known is None:
        sizes = ", ".join(f"{width}: {heads}" for width, heads in scheme.heads.items())
        raise ConfigError(
            "there is no config.json, and the number of attention heads does not show in the weights",
            where=where,
            expected=f"a width of a released model ({sizes})" if sizes else "config.json beside the weights",
            got=f"width {width}",
            remedy="pass heads=, or write a config.json beside the weights",
        )
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=shapes["position_embedding"][0],
        n_embd=width,
        n_layer=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        n_head=known,
        n_inner=shapes["blocks.0.feed_forward_in.weight"][1],
        activation=named_dialect(dialect or scheme.dialect).activation or "tanh",
        tie_word_embeddings="output_embedding" not in shapes,
    )
