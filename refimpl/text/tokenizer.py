"""Tokenizers: the character tokenizer of the embedded model, CPM-LM's (`refimpl.text.cpm`), and Hugging Face's library for all others.

A character tokenizer is a `tokenizer.json` whose model is a WordLevel vocabulary behind a pre-tokenizer that isolates every
character: one id a character, read here without the library. Whatever else a `tokenizer.json` describes is handed to the package
`tokenizers` (the extra `text`).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Protocol

from refimpl.errors import TokenizerError
from refimpl.text.cpm import CPMTokenizer, find_vocabulary, is_cpm
from refimpl.text.framing import CONFIG, Framed, read_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["CharacterTokenizer", "Framed", "LibraryTokenizer", "Tokenizer", "open_tokenizer", "simplify"]

INSTALL = 'pip install tokenizers   (the extra "text")'


FRAMES = (("[CLS]", "[SEP]"), ("<s>", "</s>"))  # BERT's, RoBERTa's


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

    def without_preparation(self) -> CharacterTokenizer:
        """The same for texts that have been prepared: to prepare a text a second time may change it."""
        return CharacterTokenizer(self.vocabulary, self.special, self.unknown)

    @property
    def unknown_id(self) -> int:
        """The id of characters outside the vocabulary."""
        return self.vocabulary[self.unknown]

    def encode(self, text: str) -> list[int]:
        """One id a character of the prepared text; special tokens written out in it are characters like any others."""
        prepared = self._prepare(text) if self._prepare else text
        unknown = self.unknown_id
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
    """A tokenizer of the `tokenizers` library, behind the same two methods, and `framed` for encoders.

    A tokenizer.json may also ask for truncation and padding to some length (those of sentence-transformers ask for 128 tokens): both are
    switched off, for nothing here is cut or filled up that the caller has not asked for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = getattr(tokenizer, "_tokenizer", tokenizer)  # the library's older classes wrap one of these
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def open(cls, folder: Path) -> LibraryTokenizer:
        """Open `tokenizer.json`, GPT-2's older pair `vocab.json` and `merges.txt`, or BERT's `vocab.txt`; raises TokenizerError."""
        try:
            import tokenizers
        except ImportError:
            raise TokenizerError(
                "this model's tokenizer needs the library `tokenizers`", where=folder, remedy=INSTALL
            ) from None
        try:
            if (folder / "tokenizer.json").is_file():
                return cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
            if (folder / "vocab.json").is_file():
                files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
                return cls(tokenizers.ByteLevelBPETokenizer.from_file(*files))
            options = _word_piece_options(folder)
            return cls(tokenizers.BertWordPieceTokenizer.from_file(str(folder / "vocab.txt"), **options))
        except TokenizerError:
            raise
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

    def _frame(self) -> None:
        """Give a tokenizer that adds no special tokens those of BERT or RoBERTa, whichever its vocabulary has."""
        if self._tokenizer.post_processor is not None and self._tokenizer.num_special_tokens_to_add(False):
            return
        from tokenizers import processors

        for number, (begin, end) in enumerate(FRAMES):
            first, last = self._tokenizer.token_to_id(begin), self._tokenizer.token_to_id(end)
            if first is not None and last is not None:
                made = (processors.BertProcessing, processors.RobertaProcessing)[number]
                self._tokenizer.post_processor = made((end, last), (begin, first))
                return
        raise TokenizerError(
            "the tokenizer does not say how a text begins and ends",
            where="LibraryTokenizer.framed",
            expected="a post-processor in tokenizer.json, or " + " or ".join(" and ".join(pair) for pair in FRAMES),
            remedy="pass token ids to encode yourself",
        )

    def framed(self, text: str, pair: str | None = None, longest: int | None = None) -> Framed:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], as ids and segments, cut to at most `longest` ids.

        What is cut is the end of the text; of a pair, first the end of the longer text until both are alike, then of both in turn.
        """
        self._frame()
        parts = [self._tokenizer.encode(each, add_special_tokens=False) for each in (text, pair) if each is not None]
        special = self._tokenizer.num_special_tokens_to_add(pair is not None)
        lengths = [len(part) for part in parts]
        whole = sum(lengths) + special
        if longest is not None and longest <= special:
            got, what = longest, "no room is left for the text"
            raise TokenizerError(what, where="longest", expected=f"more than the {special} special tokens", got=got)
        if longest is not None and whole > longest:
            for part, length in zip(parts, _cut(lengths, longest - special), strict=True):
                part.truncate(length)
        framed = self._tokenizer.post_process(*parts, add_special_tokens=True)
        return Framed(list(framed.ids), list(framed.type_ids), whole)

    @property
    def padding_id(self) -> int | None:
        """The id of [PAD] or <pad>, or None; which id fills up a row makes no difference where a mask says that it is padding."""
        found = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
        return next((identity for identity in found if identity is not None), None)


def _cut(lengths: list[int], room: int) -> list[int]:
    """The lengths that are left in `room`: of two, the shorter keeps what fits beside half the room; the odd token is the longer's."""
    if len(lengths) == 1:
        return [room]
    short = min(lengths)
    kept = (short, room - short) if short <= room // 2 else (room // 2, room - room // 2)
    return [kept[0], kept[1]] if lengths[0] <= lengths[1] else [kept[1], kept[0]]


def _word_piece_options(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says of a WordPiece vocabulary; without one, what BERT's code does: lower case, no accents, Chinese split."""
    path = folder / "tokenizer_config.json"
    fields = _read_object(path) if path.is_file() else {}
    return {
        "lowercase": fields.get("do_lower_case", True),
        "strip_accents": fields.get("strip_accents"),
        "handle_chinese_chars": fields.get("tokenize_chinese_chars", True),
    }


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"{path.name} cannot be read", where=path, got=f"{type(error).__name__}: {error}"
        ) from None


def _read_object(path: Path) -> dict[str, Any]:
    description = _parsed(path)
    if not isinstance(description, dict):
        raise TokenizerError(f"{path.name} is no object", where=path, got=type(description).__name__)
    return description


def _read_json(path: Path) -> dict[str, Any]:
    description = _parsed(path)
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


def _may_be_gpt2(path: Path) -> bool:
    """Whether a config.json, if there is one, is of a GPT-2: other models' SentencePiece files have the name `spiece.model` too."""
    return not path.is_file() or _read_object(path).get("model_type", "gpt2") == "gpt2"


def _asks_for_cpm(path: Path) -> bool:
    return path.is_file() and str(_read_object(path).get("tokenizer_class")).startswith("CpmTokenizer")


def _of_the_summarizer(folder: Path) -> Tokenizer:
    """The tokenizer that `words.json` describes."""
    from refimpl.spaces.words import WordTokenizer
    from refimpl.text.pieces import PieceTokenizer

    kinds: dict[Any, Any] = {"words": WordTokenizer, "pieces": PieceTokenizer}
    kind = read_config(folder).get("kind")
    if kind not in kinds:
        expected = "kind: " + " or ".join(kinds)
        raise TokenizerError("no such tokenizer", where=folder / CONFIG, expected=expected, got=repr(kind))
    made: Tokenizer = kinds[kind].load(folder)
    return made


def open_tokenizer(folder: Path, prepare: Callable[[str], str] | None = None) -> Tokenizer | None:
    """The tokenizer of a folder of weights, or None where the folder has none; raises TokenizerError for one that cannot be read.

    A summarizer's, described by `words.json`, comes before all others.
    CPM-LM's comes before a tokenizer.json beside it: Hugging Face's conversion has one, which without jieba's segmentation gives other ids.
    `prepare` is applied to every text before a character tokenizer sees it.
    """
    if (folder / CONFIG).is_file():
        return _of_the_summarizer(folder)
    path = folder / "tokenizer.json"
    if path.is_file() and _is_character_level(_read_json(path)):
        return CharacterTokenizer.from_json(path, prepare)
    vocabulary = find_vocabulary(folder)
    if vocabulary is not None and is_cpm(vocabulary) and _may_be_gpt2(folder / "config.json"):
        return CPMTokenizer(vocabulary)
    if any(_asks_for_cpm(folder / name) for name in ("tokenizer_config.json", "config.json")):
        raise TokenizerError(
            "CPM's tokenizer is not here",
            where=folder,
            expected="its SentencePiece model, spiece.model or chinese_vocab.model: a tokenizer.json knows nothing of words and gives other ids",
            got=", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_file())),
            remedy="put the SentencePiece model beside the weights",
        )
    older = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    known = path.is_file() or older or (folder / "vocab.txt").is_file()
    return LibraryTokenizer.open(folder) if known else None
