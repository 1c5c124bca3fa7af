"""Ids between special tokens: what tokenizers of the summarizer share.

    one text:    [CLS] a [SEP]
    two texts:   [CLS] a [SEP] [CLS] b [SEP]   ("S*ES*E")      or   [CLS] a [SEP] b [SEP]   ("S*E*E")

Segment 0 is the first text with its special tokens, segment 1 the second with its own. Where both are longer than there is room for, tokens are
taken off the ends, one at a time: of the first part where it is the longer, else of the second; the special tokens count and stay.

Reference: bert4keras 0.9.7, `bert4keras/tokenizers.py`: `TokenizerBase.encode`, whose names of the patterns these are.
"""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from refimpl.errors import ConfigError, TokenizerError
from refimpl.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Encoded",
    "Framed",
    "FramingTokenizer",
    "Pattern",
    "as_lines",
    "check_characters",
    "read_config",
    "read_lines",
    "write_texts",
]

PADDING, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PADDING, UNKNOWN, BEGIN, END)
Pattern = Literal["S*ES*E", "S*E*E"]
PATTERNS = ("S*ES*E", "S*E*E")
CONFIG, FORMAT = "words.json", 1  # what is in a folder with such a tokenizer, and its version


class Encoded(NamedTuple):
    """The tokens of a text, and the characters of the text that each is made of."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # text[begin:end]; neither begin nor end ever goes back from a token to the next


class Framed(NamedTuple):
    """A text or a pair of texts as a model reads it, special tokens included."""

    ids: list[int]
    segments: list[int]
    whole: int  # how many ids there would be had nothing been cut off


class FramingTokenizer:
    """A vocabulary with [PAD], [UNK], [CLS] and [SEP], and texts between them; `encoded` and `decode` are a subclass's.

    Parameters
    ----------
    vocabulary : tokens -> ids, which are 0 to n - 1

    Raises
    ------
    TokenizerError
        if a special token is missing, or the ids are others.
    """

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary
        self._tokens = _inverse(vocabulary)
        self.padding_id, self.unknown_id, self.start_id, self.end_id = (vocabulary[name] for name in SPECIAL)

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self.vocabulary)

    def encoded(self, text: str) -> Encoded:
        """The ids of `text`, without special tokens, and where each is in it."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self.encoded(text).ids

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of `ids`; raises TokenizerError for an id that is not in the vocabulary."""
        given = [operator.index(identity) for identity in ids]
        lost = [identity for identity in given if not 0 <= identity < self.size]
        if lost:
            raise TokenizerError("an id is not in the vocabulary", expected=f"0 <= id < {self.size}", got=lost[:5])
        return [self._tokens[identity] for identity in given]

    def framed(
        self, text: str, pair: str | None = None, longest: int | None = None, *, pattern: Pattern = "S*ES*E"
    ) -> Framed:
        """[CLS] text [SEP], or [CLS] text [SEP] [CLS] pair [SEP] (`pattern`: without the second [CLS]), cut to at most `longest` ids."""
        if pattern not in PATTERNS:
            raise ConfigError("no such pattern", where="pattern", expected=" or ".join(PATTERNS), got=repr(pattern))
        parts = [[self.start_id, *self.encode(text), self.end_id]]
        if pair is not None:
            parts.append([self.start_id] * (pattern == "S*ES*E") + [*self.encode(pair), self.end_id])
        whole = sum(map(len, parts))
        kept = [len(part) for part in parts] if longest is None else _kept([len(part) for part in parts], longest)
        if sum(kept) < 2 * len(parts) - (pair is not None and pattern == "S*E*E"):
            what, expected = (
                "no room is left for the special tokens",
                "as many ids as there are special tokens, or more",
            )
            raise TokenizerError(what, where="longest", expected=expected, got=longest)
        cut = [part[: length - 1] + part[-1:] for part, length in zip(parts, kept, strict=True)]
        ids = [identity for part in cut for identity in part]
        return Framed(ids, [number for number, part in enumerate(cut) for _ in part], whole)

    def encode_pair(self, text: str, pair: str, longest: int | None = None, *, pattern: Pattern = "S*ES*E") -> Framed:
        """`framed` of a source and its target."""
        return self.framed(text, pair, longest, pattern=pattern)


def _kept(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each part stays: the longer is cut until both are alike, then the second and the first in turn."""
    excess = max(sum(lengths) - room, 0)
    if len(lengths) == 1:
        return [lengths[0] - excess]
    first, second = lengths
    uneven = min(excess, abs(first - second))
    rest = excess - uneven
    first -= (uneven if first > second else 0) + rest // 2
    return [first, lengths[1] - (uneven if lengths[0] <= lengths[1] else 0) - (rest + 1) // 2]


def _inverse(vocabulary: dict[str, int]) -> list[str]:
    """The tokens in the order of their ids."""
    missing = [name for name in SPECIAL if name not in vocabulary]
    if missing:
        raise TokenizerError(
            "the vocabulary lacks special tokens", expected=", ".join(SPECIAL), got=f"no {', '.join(missing)}"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise TokenizerError("the ids of a vocabulary are 0 to n - 1, each once", expected=f"n = {len(vocabulary)}")
    return sorted(vocabulary, key=lambda token: vocabulary[token])


def _text(path: Path) -> str:
    """The text of a file; raises TokenizerError where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise TokenizerError("a file of the tokenizer cannot be read", where=path, got=got) from None


def read_lines(path: Path) -> list[str]:
    """The lines of a file, which only a line feed ends."""
    text = _text(path)
    return text.removesuffix("\n").split("\n") if text else []


def as_lines(what: str, lines: Sequence[str]) -> str:
    """Lines of a file that `read_lines` reads back as they are; raises TokenizerError for one with a line feed, or half a surrogate pair."""
    for number, line in enumerate(lines):
        if "\n" in line or any("\ud800" <= character <= "\udfff" for character in line):
            expected = "no line feed in it, and no half of a surrogate pair"
            where = f"{what} {number}"
            raise TokenizerError(f"a {what} cannot be written", where=where, expected=expected, got=ascii(line)[:80])
    return "".join(f"{line}\n" for line in lines)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write each text to the file of its name in the folder, which is made where there is none; TokenizerError where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            content = text.encode()
            replace_file(folder / name, operator.methodcaller("write", content))
    except OSError as error:
        got = f"{type(error).__name__}: {error}"
        raise TokenizerError("the tokenizer cannot be written", where=folder, got=got) from None


def read_config(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """What `words.json` says; raises TokenizerError where it is none, of another version or of another kind of tokenizer."""
    path = folder / CONFIG
    try:
        config = json.loads(_text(path))
    except ValueError as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{CONFIG} cannot be read", where=path, got=f"{type(error).__name__}: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT or kind not in (None, config.get("kind")):
        expected = f"an object with format {FORMAT}" + (f" and kind {kind}" if kind else "")
        raise TokenizerError(f"{CONFIG} is of another kind", where=path, expected=expected, got=str(config)[:200])
    return config


def check_characters(text: str) -> None:
    """Raise TokenizerError for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            "the text has half a surrogate pair, which is no character",
            where=f"text[{error.start}]",
            expected="Unicode text",
            got=ascii(text[error.start]),
            remedy='put U+FFFD in its place: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from None
