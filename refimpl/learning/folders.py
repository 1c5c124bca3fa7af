"""A trained model as a folder that `refimpl.load` opens, and transformers too: Hugging Face's names, a tokenizer of one id a character.

config.json     tokenizer.json     generation_config.json     model.safetensors, written last
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import weights_io
from refimpl.errors import ConfigError
from refimpl.files import replace_file
from refimpl.learning.checkpoints import on_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from refimpl import gpt2

__all__ = ["END", "UNKNOWN", "character_vocabulary", "save_character_gpt2"]

END, UNKNOWN = "<|endoftext|>", "<unk>"


def character_vocabulary(texts: Iterable[str], size: int | None = None) -> list[str]:
    """The start and end token, the unknown one, then the characters, most frequent first, equally frequent ones by code point.

    `size` limits the vocabulary; rarer characters become the unknown token. Raises ConfigError unless it leaves room for one.
    """
    if size is not None and size < 3:
        raise ConfigError("the vocabulary has no room for a character", where="size", expected="at least 3", got=size)
    counts = Counter(character for text in texts for character in text)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return [END, UNKNOWN, *ranked[: None if size is None else size - 2]]


def save_character_gpt2(
    folder: Path, weights: gpt2.GPT2Weights, config: gpt2.GPT2Config, vocabulary: Sequence[str], unknown: str = UNKNOWN
) -> None:
    """Write a model whose tokens are characters; each file is whole or not there.

    Parameters
    ----------
    folder : is made where it is not there; its files of these names are replaced
    weights, config : the model, on NumPy or CuPy; bos_token_id and eos_token_id give the special tokens
    vocabulary : the text of each id: special tokens, and single characters
    unknown : the special token for all other characters

    Raises
    ------
    ConfigError, weights_io.WeightsError
        if the vocabulary is not the model's, or the folder cannot be written to.
    """
    from weights_io.schemes import from_canonical
    from weights_io.schemes.hugging_face_gpt2 import SCHEME

    if len(vocabulary) != config.vocab_size or len(set(vocabulary)) != len(vocabulary) or unknown not in vocabulary:
        expected, got = f"{config.vocab_size} different tokens, {unknown!r} among them", f"{len(set(vocabulary))}"
        raise ConfigError("the vocabulary is not the model's", where="vocabulary", expected=expected, got=got)
    arrays = {name: on_host(array) for name, array in weights.named().items()}
    files = {
        "config.json": _configuration(config, str(weights.token_embedding.dtype)),
        "generation_config.json": {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id},
        "tokenizer.json": _tokenizer(vocabulary, config, unknown),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": unknown,
            "model_max_length": config.n_positions,
            "clean_up_tokenization_spaces": False,
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, fields in files.items():
            data = (json.dumps(fields, ensure_ascii=False, indent=1) + "\n").encode()
            replace_file(folder / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("the model cannot be written", where=folder, got=got) from None
    weights_io.save(folder / "model.safetensors", from_canonical(arrays, SCHEME), {"format": "pt"})


def _configuration(config: gpt2.GPT2Config, dtype: str) -> dict[str, Any]:
    sizes = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **sizes,
        "n_inner": config.n_inner,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "activation_function": {"tanh": "gelu_new", "none": "gelu"}[config.activation],
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "dtype": dtype,
    }


def _tokenizer(vocabulary: Sequence[str], config: gpt2.GPT2Config, unknown: str) -> dict[str, Any]:
    """A tokenizer.json that isolates every character and looks each one up."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ends = {vocabulary[token] for token in (config.bos_token_id, config.eos_token_id) if token is not None}
    added = [{"id": i, "content": text, **flags} for i, text in enumerate(vocabulary) if text in ends | {unknown}]
    splitter = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(vocabulary)}, "unk_token": unknown},
    }
