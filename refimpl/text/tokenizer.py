"""Tokenizers: the character tokenizer of the embedded model, and Hugging Face's library for all others.

A character tokenizer is a `tokenizer.json` whose model is a WordLevel vocabulary behind a pre-tokenizer that isolates every
character: one id a character, read here without the library. Whatever else a `tokenizer.json` describes is handed to the package
`tokenizers` (the extra `text`).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Protocol

from refimpl.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["CharacterTokenizer", "LibraryTokenizer", "Tokenizer", "open_tokenizer", "simplify"]

INSTALL = 'pip install tokenizers   (the extra "text")'


class Tokenizer(Protocol):
    """What a model needs to read and write text."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out."""


@functools.cache
def _opencc() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def simplify(text: str) -> str:
    """`text` in simplified script, by OpenCC's t2s dictionaries: the step that the embedded model's corpus went through."""
    return str(_opencc().convert(text))


class CharacterTokenizer:
    """One id for each character; a character outside the vocabulary becomes the id of `unknown`.

    Parameters
    ----------
    vocabulary : characters and special tokens -> ids
    special : the special tokens among them, which no text encodes to, and which decoding leaves out
    unknown : the special token that stands for other characters
    prepare : applied to a text before it is encoded, for instance `simplify`
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        special: Iterable[str],
        unknown: str,
        prepare: Callable[[str], str] | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.special = tuple(special)
        self.unknown = unknown
        self._prepare = prepare
        self._texts = {identity: token for token, identity in vocabulary.items()}

    @classmethod
    def from_json(cls, path: Path, prepare: Callable[[str], str] | None = None) -> CharacterTokenizer:
        """Read a `tokenizer.json` that describes a character tokenizer; raises TokenizerError for any other."""
        description = _read_json(path)
        if not _is_character_level(description):
            raise TokenizerError(
                "not a character tokenizer", where=path, expected="a WordLevel model that isolates every character"
            )
        model = description["model"]
        if not isinstance(model.get("vocab"), dict) or model.get("unk_token") not in model["vocab"]:
            expected = "a vocabulary of tokens to ids, which holds unk_token"
            raise TokenizerError("the character tokenizer is damaged", where=path, expected=expected)
        special = [token["content"] for token in description.get("added_tokens", []) if token.get("special")]
        return cls(model["vocab"], special, model["unk_token"], prepare)

    def encode(self, text: str) -> list[int]:
        """One id a character of the prepared text; special tokens written out in it are characters like any others."""
        prepared = self._prepare(text) if self._prepare else text
        unknown = self.vocabulary[self.unknown]
        return [self.vocabulary.get(character, unknown) for character in prepared]

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of `ids`. The unknown token is shown as written in the vocabulary; other special tokens are left out."""
        given = list(ids)
        lost = [identity for identity in given if identity not in self._texts]
        if lost:
            raise TokenizerError(
                "an id is not in the vocabulary", expected=f"0 <= id < {len(self._texts)}", got=lost[:5]
            )
        texts = [self._texts[identity] for identity in given]
        return "".join(text for text in texts if text == self.unknown or text not in self.special)


class LibraryTokenizer:
    """A tokenizer of the `tokenizers` library, behind the same two methods."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def open(cls, folder: Path) -> LibraryTokenizer:
        """Open `tokenizer.json`, or GPT-2's older pair `vocab.json` and `merges.txt`; raises TokenizerError."""
        try:
            import tokenizers
        except ImportError:
            raise TokenizerError(
                "this model's tokenizer needs the library `tokenizers`", where=folder, remedy=INSTALL
            ) from None
        try:
            if (folder / "tokenizer.json").is_file():
                return cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
            return cls(
                tokenizers.ByteLevelBPETokenizer.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
            )
        except Exception as error:  # the library raises Exception itself
            raise TokenizerError(
                "the tokenizer cannot be read", where=folder, got=f"{type(error).__name__}: {error}"
            ) from None

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens are left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TokenizerError(
            "tokenizer.json cannot be read", where=path, got=f"{type(error).__name__}: {error}"
        ) from None
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        raise TokenizerError("tokenizer.json describes no model", where=path)
    return description


def _is_character_level(description: dict[str, Any]) -> bool:
    """Whether the description says: no normalizer, isolate every single character, look each one up."""
    splitter = description.get("pre_tokenizer") or {}
    pattern = splitter.get("pattern") if isinstance(splitter, dict) else None
    pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
    return (
        description["model"].get("type") == "WordLevel"
        and description.get("normalizer") is None
        and splitter.get("type") == "Split"
        and splitter.get("behavior") == "Isolated"
        and pattern in ("[\\s\\S]", "[\\S\\s]", ".|\\n", "\\n|.", "(.|\\n)")
    )


def open_tokenizer(folder: Path, prepare: Callable[[str], str] | None = None) -> Tokenizer | None:
    """The tokenizer of a Hugging Face folder, or None where the folder has none.

    `prepare` is applied to every text before a character tokenizer sees it.
    """
    path = folder / "tokenizer.json"
    if path.is_file() and _is_character_level(_read_json(path)):
        return CharacterTokenizer.from_json(path, prepare)
    older = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return LibraryTokenizer.open(folder) if path.is_file() or older else None
