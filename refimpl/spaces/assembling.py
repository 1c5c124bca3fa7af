"""What makes the vectors that an extractor learns from, and a summarizer put together of what was trained.

An extractor works with the vectors of the encoder that it was trained with and no others. Where that encoder is the generator itself, the summarizer
has one network (its settings' encoder is "seq2seq"); where it is another model, the summarizer has a copy of its folder. A generator that was trained
on since is another model: by the fingerprints of the folders, that is refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import weights_io
from refimpl import backend as backends
from refimpl.bert import BertConfig
from refimpl.errors import ConfigError
from refimpl.spaces.extractor import ExtractorConfig, initial_extractor
from refimpl.spaces.extractor_file import load_extractor
from refimpl.spaces.folder import fingerprint, save
from refimpl.spaces.seq2seq import TAGS
from refimpl.spaces.seq2seq_folder import load_seq2seq
from refimpl.spaces.summarizer import Settings, Summarizer
from refimpl.text import open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Embedder", "assemble", "embedder"]

ENCODER = "encoder"  # the sub-folder of a summarizer for an encoder of its own


class Embedder(NamedTuple):
    """Sentences to vectors."""

    embed: Callable[[list[str]], Any]  # (sentences) -> NumPy (n, width)
    width: int
    fingerprint: str  # of the folder


def _is_generator(folder: Path) -> bool:
    """Whether the folder's weights have a head of tags."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return False
    with weights_io.open(path) as checkpoint:
        return all(name in checkpoint for name in TAGS)


def embedder(folder: Path, *, backend: str = "numpy", tokens: int = Settings.sentence_tokens) -> Embedder:
    """What makes the vector of a sentence: the mean over its tokens, special ones included, of a model's last layer; as in a summarizer.

    Parameters
    ----------
    folder : of an encoder, which `refimpl.load` opens, or of a generator, which `refimpl.spaces.seq2seq_folder.load_seq2seq` does
    backend : "numpy", "cupy" or "auto"
    tokens : of a sentence, at most

    Raises
    ------
    ConfigError, TokenizerError, weights_io.WeightsError
        for a folder that holds neither.
    """
    if not folder.is_dir():
        raise ConfigError("there is no such folder", where=folder, expected="that of an encoder or a generator")
    chosen = backends.get(backend)
    if not _is_generator(folder):
        from refimpl.model import load

        model: Any = load(folder, backend=chosen.name, dtype="float32")
        if not isinstance(model.config, BertConfig):
            expected = "a BERT, RoBERTa or NEZHA"
            raise ConfigError("this model makes no vectors", where=folder, expected=expected, got=repr(model))
        options: dict[str, Any] = {"pooling": "mean", "normalize": False, "truncate": tokens}
        width = model.config.hidden_size
        return Embedder(lambda texts: chosen.to_numpy(model.embed(texts, **options)), width, fingerprint(folder))
    weights, config = load_seq2seq(folder, backend=chosen.name)
    sizes = ExtractorConfig(config.bert.hidden_size, 1, 1, (1,))
    settings = Settings(sentence_tokens=tokens)
    whole = Summarizer(weights, config, open_tokenizer(folder), initial_extractor(sizes), sizes, settings)
    return Embedder(lambda texts: chosen.to_numpy(whole.vectors(texts)), sizes.input_size, fingerprint(folder))


def assemble(
    out: Path, generator: Path, extractor: Path, run: Path, *, dtype: str = "float32", **settings: Any
) -> Summarizer:
    """Write a summarizer's folder.

    Parameters
    ----------
    out : the folder; it is not there yet
    generator : folder of the generator
    extractor : file of the extractor
    run : the record of the extractor's training: a JSON object with "encoder" (folder, fingerprint and tokens) and "settings" (threshold, sentences,
        rouge)
    dtype : of the written weights: "float16" or "float32"
    settings : of the summarizer, in place of those of the run and the defaults

    Raises
    ------
    ConfigError, TokenizerError, weights_io.WeightsError
        if the folder is there, the encoder's is not or has changed, parts do not fit together.
    """
    if out.exists():
        raise ConfigError("the folder is there already", where=out, remedy="name another folder")
    try:
        said = json.loads(run.read_text("utf-8"))
        encoder, of_run = said["encoder"], said["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("this is no record of an extractor's training", where=run, got=got) from None
    own = encoder["fingerprint"] != fingerprint(generator)
    model = _encoder(run.parent, encoder) if own else None
    weights, config = load_seq2seq(generator, backend="numpy")
    of_extractor, sizes = load_extractor(extractor, dtype="float32")
    whole = {"sentence_tokens": encoder["tokens"], "encoder": ENCODER if own else "seq2seq", **of_run, **settings}
    unknown = sorted(set(whole) - {field.name for field in dataclasses.fields(Settings)})
    if unknown:
        raise ConfigError("unknown settings", where="assemble", got=", ".join(unknown))
    tokenizer = open_tokenizer(generator)
    made = Summarizer(weights, config, tokenizer, of_extractor, sizes, Settings(**whole), model)
    if model is not None:
        shutil.copytree(model.folder, out / ENCODER)
    save(out, made, dtype)
    return made


def _encoder(run: Path, encoder: Any) -> Any:
    """The model of the run, which must still be what it was; not a generator."""
    from pathlib import Path

    from refimpl.model import load

    folder = Path(encoder["folder"])
    folder = folder if folder.is_absolute() else run / folder
    if not folder.is_dir() or fingerprint(folder) != encoder["fingerprint"]:
        got = "another model" if folder.is_dir() else "no folder"
        expected = f"the encoder {encoder['fingerprint'][:12]}"
        raise ConfigError("the encoder of the extractor is not there", where=folder, expected=expected, got=got)
    if _is_generator(folder):
        raise ConfigError(
            "the extractor was trained with the vectors of another generator",
            where=folder,
            expected="those of this one, or of an encoder that is no generator",
            remedy="train the extractor again, with this generator as the encoder",
        )
    return load(folder, backend="numpy", dtype="float32")
