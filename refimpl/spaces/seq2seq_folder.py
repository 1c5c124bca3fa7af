"""A generator in a folder: config.json and model.safetensors, with Hugging Face's names of a BERT, and tags.weight (3, d) and tags.bias (3,).

config.json has Hugging Face's fields of a BERT, and bos_token_id and eos_token_id, which begin and end a target; bert_dialect and
residual_attention as in `refimpl.bert`; of a NEZHA, model_type "nezha" and max_relative_position. Those of a NEZHA that Hugging Face's library wrote
are named otherwise: these are the names of a BERT without positions.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import weights_io
from refimpl import backend as backends
from refimpl.errors import ConfigError
from refimpl.files import replace_file
from refimpl.number_system import check_floating
from refimpl.positions import extend
from refimpl.spaces.seq2seq import TAGS, Seq2SeqConfig, Seq2SeqWeights
from refimpl.trees import mapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from refimpl.number_system import Array
    from weights_io.schemes import Scheme

__all__ = ["load_seq2seq", "save_seq2seq"]

DTYPES = ("float16", "float32", "float64")
ACTIVATIONS = {"none": "gelu", "tanh": "gelu_new"}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "type_vocab_size", "layer_norm_eps")
ENDS = ("bos_token_id", "eos_token_id")


def _scheme(nezha: bool) -> Scheme:
    """The names: Hugging Face's of a BERT; of a NEZHA, the same without positions."""
    from weights_io.schemes.hugging_face_bert import BERT

    if not nezha:
        return BERT
    table = {template: rule for template, rule in BERT.table.items() if rule.name != "position_embedding"}
    return dataclasses.replace(BERT, name="hugging-face-bert-without-positions", architecture="nezha", table=table)


def _on_host(array: Array) -> Any:
    return array.get() if hasattr(array, "get") else array


def save_seq2seq(folder: str | Path, weights: Seq2SeqWeights, config: Seq2SeqConfig) -> None:
    """Write config.json, then model.safetensors, in the dtype of the weights; each file is whole or not there.

    Parameters
    ----------
    folder : is made where it is not there; its files of these names are replaced
    weights, config : the model, on NumPy or CuPy

    Raises
    ------
    ConfigError, DtypeError, weights_io.WeightsError
        if the weights are not floating or not the configuration's, or the folder cannot be written to.
    """
    from weights_io.schemes import from_canonical

    folder, arrays = Path(folder), {name: _on_host(array) for name, array in weights.named().items()}
    Seq2SeqWeights.from_named(arrays, config)
    check_floating("weights", arrays["tags.bias"], "save_seq2seq")
    head = {"tags.weight": arrays["tags.weight"].T.copy(), "tags.bias": arrays["tags.bias"]}
    encoder = {name: array for name, array in arrays.items() if name not in TAGS}
    theirs = from_canonical(encoder, _scheme(config.bert.max_position_embeddings is None))
    data = (json.dumps(_fields(config, str(arrays["tags.bias"].dtype)), indent=1) + "\n").encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "config.json", lambda file: file.write(data))
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the model cannot be written", where=folder, got=got) from None
    tensors = {name: theirs[name] for name in theirs} | head
    weights_io.save(folder / "model.safetensors", tensors, {"format": "pt"})


def _fields(config: Seq2SeqConfig, dtype: str) -> dict[str, Any]:
    inner = config.bert
    rows = inner.max_position_embeddings
    positions = {"max_relative_position": inner.clip} if rows is None else {"max_position_embeddings": rows}
    return {
        "model_type": "nezha" if rows is None else "bert",
        **{name: getattr(inner, name) for name in SIZES},
        "intermediate_size": inner.inner,
        **positions,
        "hidden_act": ACTIVATIONS[inner.activation],
        "residual_attention": inner.residual_attention,
        "bert_dialect": config.bert_dialect,
        **dict(zip(ENDS, (config.start_token_id, config.end_token_id), strict=True)),
        "dtype": dtype,
    }


def load_seq2seq(
    folder: str | Path, *, backend: str = "auto", dtype: str = "float32", positions: int | None = None
) -> tuple[Seq2SeqWeights, Seq2SeqConfig]:
    """The model in a folder that `save_seq2seq` wrote.

    Parameters
    ----------
    folder : with config.json and model.safetensors
    backend : "numpy", "cupy" or "auto" (see `refimpl.backend.get`)
    dtype : "float16", "float32" or "float64", in which weights are kept and computed with
    positions : how many positions the model is to have: a learned table of n is extended hierarchically (`refimpl.positions.extend`), up to n²;
        None leaves it. A NEZHA has no table, and no end

    Raises
    ------
    ConfigError, DtypeError, weights_io.WeightsError, BackendError
        for a folder that is not there or lacks a file or a field, tensors of no floating-point numbers, and tensors that do not fit: every missing,
        extra, misshaped and non-finite one is listed.
    """
    if dtype not in DTYPES:
        where = "load_seq2seq(dtype=...)"
        raise ConfigError("unknown dtype", where=where, expected=", ".join(DTYPES), got=repr(dtype))
    folder, made = Path(folder), backends.get(backend).asarray
    arrays, config = _read(folder, dtype)
    weights = mapped(made, Seq2SeqWeights.from_named(arrays, config))
    if positions is None:
        return weights, config
    longer = weights._replace(bert=extend(weights.bert, to=positions))
    inner = dataclasses.replace(config.bert, max_position_embeddings=positions)
    return longer, dataclasses.replace(config, bert=inner)


def _read(folder: Path, dtype: str) -> tuple[dict[str, Any], Seq2SeqConfig]:
    """The arrays by canonical names, rounded to `dtype`, and the configuration."""
    from weights_io.schemes import to_canonical
    from weights_io.schemes.config import read_object

    fields = read_object(folder / "config.json")
    scheme = _scheme(_checked(folder, fields) == "nezha")
    with weights_io.open(folder / "model.safetensors") as checkpoint:
        absent = [name for name in TAGS if name not in checkpoint]
        if absent:
            expected, got = ", ".join(TAGS), f"without {', '.join(absent)}"
            raise ConfigError("the model has no head of tags", where=folder, expected=expected, got=got)
        ours = to_canonical({name: checkpoint[name] for name in checkpoint if name not in TAGS}, scheme)
        given = {name: ours[name] for name in ours}
        given |= {"tags.weight": checkpoint["tags.weight"].T.copy(), "tags.bias": checkpoint["tags.bias"]}
        for name, array in given.items():
            check_floating(name, array, "load_seq2seq")
        with np.errstate(over="ignore"):  # infinity is found when arrays are put in their places, with its name
            arrays = {name: array.astype(dtype) for name, array in given.items()}
        config = _config(folder, fields, {name: array.shape for name, array in arrays.items()}, scheme)
    return arrays, config


def _checked(folder: Path, fields: Mapping[str, Any]) -> str:
    """The model's type; ConfigError for another, and for fields that are not there."""
    kind, absent = fields.get("model_type"), [name for name in ENDS if name not in fields]
    if kind not in ("bert", "nezha") or absent:
        raise ConfigError(
            "this is no generator's configuration",
            where=folder / "config.json",
            expected=f'model_type "bert" or "nezha", {" and ".join(ENDS)}',
            got=f"model_type {kind!r}" + (f", no {', '.join(absent)}" if absent else ""),
        )
    return str(kind)


def _config(folder: Path, fields: Mapping[str, Any], shapes: dict[str, Any], scheme: Scheme) -> Seq2SeqConfig:
    from weights_io.schemes.bert_config import bert_config

    inner = bert_config(folder / "config.json", shapes, scheme, fields.get("residual_attention"))
    clip = fields.get("max_relative_position", inner.clip)
    start, end = (fields[name] for name in ENDS)
    return Seq2SeqConfig(dataclasses.replace(inner, clip=clip), start, end, fields.get("bert_dialect", "huggingface"))
