"""Configurations of BERT, RoBERTa and NEZHA: config.json as Hugging Face or bert4keras writes it; what it leaves out, the weights show.

bert4keras calls the rows of the position table max_position, and may leave out the number of segments, both of which are shapes. RoBERTa is known
by its names or its model_type: its first position has row pad_token_id + 1. Residual attention (RealFormer) leaves no trace in weights:
bert4keras may name it, residual_attention_scores; otherwise the caller has to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.bert import BertConfig
from refimpl.errors import ConfigError
from weights_io.schemes.config import read_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from weights_io.schemes.scheme import Scheme

__all__ = ["bert_config"]

ACTIVATIONS = {"gelu": "none", "gelu_erf": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_tanh": "tanh"}
NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SAME_AS = {"embedding_size": "hidden_size"}  # must equal, where given
REFUSED: dict[str, tuple[Any, ...]] = {  # name -> what is implemented
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "attention_head_size": (None,),
    "attention_key_size": (None,),
    "hierarchical_position": (None, False),
}
ROBERTA_PADDING = 1


def _refuse(path: Path, fields: Mapping[str, Any]) -> None:
    absent = [name for name in NEEDED if name not in fields]
    if absent:
        raise ConfigError(
            "config.json lacks sizes", where=path, expected=", ".join(NEEDED), got=f"without {', '.join(absent)}"
        )
    other = [f"{name} = {fields[name]!r}" for name, known in REFUSED.items() if fields.get(name) not in known]
    other += [
        f"{name} = {fields[name]}" for name, same in SAME_AS.items() if fields.get(name) not in (None, fields[same])
    ]
    if other:
        raise ConfigError(
            "the configuration asks for a variant that is not implemented", where=path, got=", ".join(other)
        )
    activation = fields.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ConfigError("unknown hidden_act", where=path, expected=", ".join(ACTIVATIONS), got=activation)


def _residual(path: Path, fields: Mapping[str, Any], asked: str | None) -> Any:
    """Which residual attention: what the caller or the file says, "none" where neither does; refused where they disagree."""
    says = fields.get("residual_attention_scores")
    if says not in (None, False, True):
        expected = "true or false, which is all that bert4keras knows"
        raise ConfigError("not a choice", where=f"{path}, residual_attention_scores", expected=expected, got=repr(says))
    named = None if says is None else "sum" if says else "none"
    if None not in (asked, named) and asked != named:
        raise ConfigError(
            "config.json and the caller disagree about residual attention",
            where="refimpl.load(residual_attention=...)",
            expected=f'"{named}", because of residual_attention_scores in {path}',
            got=repr(asked),
            remedy="leave the argument out, or mend config.json",
        )
    return asked or named or "none"


def bert_config(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    scheme: Scheme,
    residual_attention: str | None = None,
) -> BertConfig:
    """The configuration in a config.json, completed from canonical shapes, and the residual attention that the caller asks for.

    Raises ConfigError for a file that is not there or lacks sizes (the number of heads does not show in weights), or asks for what is not
    implemented; or where file and caller disagree about residual attention.
    """
    fields = read_object(path)
    _refuse(path, fields)
    roberta = scheme.name == "hugging-face-roberta" or fields.get("model_type") in (
        "roberta",
        "xlm-roberta",
        "camembert",
    )
    padding = fields.get("pad_token_id", ROBERTA_PADDING) if roberta else None
    rows = shapes.get("position_embedding", (None,))[0]
    asked = fields.get("max_position", fields.get("max_position_embeddings", rows))
    return BertConfig(
        **{name: fields[name] for name in NEEDED},
        max_position_embeddings=None if scheme.architecture == "nezha" else asked,
        type_vocab_size=fields.get("type_vocab_size", shapes.get("segment_embedding", (0,))[0]),
        layer_norm_eps=fields.get("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[fields.get("hidden_act", "gelu")],  # type: ignore[arg-type]
        position_offset=0 if padding is None else padding + 1,
        pad_token_id=padding,
        residual_attention=_residual(path, fields, residual_attention),
    )
