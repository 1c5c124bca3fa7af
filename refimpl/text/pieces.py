"""Text in pieces that can be put together again: a small vocabulary for English and Chinese side by side, which loses nothing.

    decode(encode(x)) = x      for every text x

A text is taken apart into units: a run of letters, of ASCII punctuation, or one digit, each with the space before it, if there is one; a run of
Han characters; any other character by itself. The space is written U+2581 (▁), and one is put before a text that does not begin with Han, so that a
word has the same pieces at the beginning as after a space; `decode` takes it away. A unit is cut from its beginning, always by the longest piece
there is. A character without a piece is spelled by its bytes in UTF-8, <0x00> to <0xFF>: line feeds are, rare characters, emoji, U+2581 itself.

Why not BERT's way (`refimpl.text.wordpiece`). A summary is to be read, and copies names: "libfoo-dev", "C++", "GNU/Linux", "e.g.". BERT's pieces do
not say where spaces were, so that it comes back as "libfoo - dev", and lower-casing makes "gnu" of GNU. Here spaces are part of pieces, and case is
kept: what is copied is what stood there. No token is unknown: a [UNK] can be replaced only where it is a copy, bytes can be generated too. [UNK] is
there all the same, for texts that are damaged on purpose while training. Measured on 1,800 descriptions of Debian packages and their synopses, with
8,000 tokens made from 16,300 others: of these pieces, 53 % of the characters of an English synopsis can be copied from its description token by
token, 65 % of a Chinese one, and every text comes back; of the library's cased WordPiece 55 % and 67 %, and 54 % and none come back; of lower-cased
WordPiece 60 % and 68 %, and 8 % and none. Where Han characters are merged as letters are, a Chinese text has three quarters of the tokens, but a
phrase is cut otherwise in another place, and 59 % can be copied: hence they are not, unless `train_vocabulary` is told to.

Bytes that a model generates need not be UTF-8: U+FFFD stands for what is none.

Reading the vocabulary and cutting need no library. Making one does: `train_vocabulary` counts units itself, and has `tokenizers` merge the pairs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from refimpl.errors import ConfigError, TokenizerError
from refimpl.text.framing import (
    CONFIG,
    FORMAT,
    SPECIAL,
    Encoded,
    FramingTokenizer,
    as_lines,
    check_characters,
    read_config,
    read_lines,
    write_texts,
)
from refimpl.text.wordpiece import pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["PieceTokenizer", "train_vocabulary"]

KIND, VOCABULARY = "pieces", "vocab.txt"
SPACE = "\u2581"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNITS = re.compile(
    rf" ?(?:[^\W\d_{HAN}]+|\d|[!-/:-@\[-`{{-~]+)"  # letters, a digit, ASCII punctuation
    rf"|[{HAN}]+|.",
    re.DOTALL,
)
BEGINS_WITH_HAN = re.compile(f"[{HAN}]")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MASK = "[MASK]"
CACHED, LONGEST_CACHED = 1 << 16, 32
INSTALL = 'pip install tokenizers   (the extra "text")'


class PieceTokenizer(FramingTokenizer):
    """Cased pieces with their spaces, and bytes for everything else: encoding loses nothing.

    Thread-safe, and can be pickled.

    Parameters
    ----------
    vocabulary : tokens -> ids, 0 to n - 1, with [PAD], [UNK], [CLS], [SEP], and <0x00> to <0xFF>

    Raises
    ------
    TokenizerError
        if a special token or a byte is missing, or the ids are others.
    """

    def __init__(self, vocabulary: dict[str, int]) -> None:
        super().__init__(vocabulary)
        missing = [token for token in BYTES if token not in vocabulary]
        if missing:
            raise TokenizerError("the vocabulary lacks bytes", expected="<0x00> to <0xFF>", got=f"no {missing[0]}")
        apart = {*SPECIAL, MASK, *BYTES}
        self._pieces = {token: identity for token, identity in vocabulary.items() if token not in apart}
        self._longest = max(map(len, self._pieces), default=1)
        self._bytes = [_meant(token, apart) for token in self._tokens]
        self._cut: dict[str, list[tuple[int, int, int]]] = {}

    def __repr__(self) -> str:
        return f"<PieceTokenizer with {self.size} tokens>"

    def encoded(self, text: str) -> Encoded:
        """The ids of `text`, without special tokens, and the characters of `text` that each was made from.

        A space before a word is in the word's token, but not among its characters. The token of a space that is not in the text has none: its
        beginning is its end. Raises TokenizerError for half a surrogate pair, which no file in UTF-8 can hold.
        """
        check_characters(text)
        ahead = 0 if not text or BEGINS_WITH_HAN.match(text) else 1
        ids, offsets = [], []
        for unit in UNITS.finditer(" " * ahead + text):
            start = unit.start() - ahead
            for identity, begin, end in self._unit(unit[0]):
                ids.append(identity)
                offsets.append((max(start + begin, 0), max(start + end, 0)))
        return Encoded(ids, offsets)

    def _unit(self, unit: str) -> list[tuple[int, int, int]]:
        """The ids of a unit, each with its place in it."""
        found = self._cut.get(unit)
        if found is None:
            found = list(self._spelled(unit))
            if len(unit) <= LONGEST_CACHED and len(self._cut) < CACHED:
                self._cut[unit] = found
        return found

    def _spelled(self, unit: str) -> Iterator[tuple[int, int, int]]:
        """The longest pieces, from the beginning; where there is none, bytes."""
        written = SPACE + unit[1:] if unit[0] == " " else unit
        spaced = written if unit != SPACE else ""
        for piece, begin, end in pieces(spaced, self._pieces, self._longest, mark=""):
            if piece is None:
                yield from self._in_bytes(unit, begin)
            else:
                yield self._pieces[piece], begin + (piece[0] == SPACE and piece != SPACE), end
        if not spaced:
            yield from self._in_bytes(unit, 0)

    def _in_bytes(self, unit: str, place: int) -> Iterator[tuple[int, int, int]]:
        """A character as the bytes of UTF-8."""
        for byte in unit[place].encode():
            yield self.vocabulary[BYTES[byte]], place, place + 1

    def decode(self, ids: Iterable[int], written: Sequence[str | None] | None = None) -> str:
        """The text of `ids`, exactly; special tokens are left out, and U+FFFD stands for bytes that are no UTF-8.

        Parameters
        ----------
        ids : of tokens
        written : accepted for the same call as `WordTokenizer.decode`; nothing is lost here that could be put in place

        Raises
        ------
        TokenizerError
            if an id is not in the vocabulary.
        """
        given = list(ids)
        self.tokens(given)
        return b"".join(self._bytes[identity] for identity in given).decode("utf-8", "replace").removeprefix(" ")

    # --- files ------------------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write `vocab.txt` and `words.json`; raises TokenizerError for a token with a line feed."""
        config = json.dumps({"format": FORMAT, "kind": KIND}, indent=2) + "\n"
        write_texts(Path(folder), {VOCABULARY: as_lines("token", self._tokens), CONFIG: config})

    @classmethod
    def load(cls, folder: Path | str) -> PieceTokenizer:
        """The tokenizer that `save` wrote; raises TokenizerError for files that are missing or damaged."""
        place = Path(folder)
        read_config(place, KIND)
        tokens = read_lines(place / VOCABULARY)
        if len(set(tokens)) < len(tokens):
            twice = Counter(tokens).most_common(1)[0][0]
            raise TokenizerError("a token is there twice", where=place / VOCABULARY, got=ascii(twice))
        return cls({token: number for number, token in enumerate(tokens)})


def _meant(token: str, apart: set[str]) -> bytes:
    """What a token writes: a byte, nothing, or its characters."""
    if token not in apart:
        return token.replace(SPACE, " ").encode()
    return bytes([BYTES.index(token)]) if token in BYTES else b""


# --- making a vocabulary --------------------------------------------------------------------------------------------------------------


def train_vocabulary(
    texts: Iterable[str], size: int = 8000, *, rare: int = 4, longest: int = 16, han: bool = False
) -> PieceTokenizer:
    """Special tokens, bytes, every character that is not rare, and the pairs of pieces that are most frequent, merged until there are `size`.

    The same texts give the same vocabulary, in any order, on any number of threads.

    Parameters
    ----------
    texts : what it is made for, sources and summaries
    size : how many tokens there are to be
    rare : characters that occur less often are spelled by bytes; printable ASCII never is
    longest : the most characters of a piece
    han : whether Han characters are merged too

    Raises
    ------
    ConfigError, TokenizerError
        if there is no room for the characters; if the library `tokenizers` is missing.
    """
    counts = Counter(unit[0] for text in texts for unit in UNITS.finditer(_begun(text)))
    characters = Counter[str]()
    for unit, count in counts.items():
        for character in _written(unit):
            characters[character] += count
    kept = {chr(code) for code in range(33, 127)} | {SPACE}
    kept |= {character for character, count in characters.items() if count >= rare and not character.isspace()}
    fixed = [*SPECIAL, MASK, *BYTES]
    if len(fixed) + len(kept) > size:
        what, expected = "the vocabulary has no room for the characters", f"at least {len(fixed) + len(kept)}"
        raise ConfigError(what, where="size", expected=expected, got=size, remedy="raise size, or rare")
    merged = _merged(_split_han(counts, han), kept, size - len(fixed), longest)
    return PieceTokenizer({token: number for number, token in enumerate([*fixed, *merged])})


def _split_han(counts: Counter[str], together: bool) -> Counter[str]:
    """The same units, or Han characters one by one."""
    if together:
        return counts
    found = Counter[str]()
    for unit, count in counts.items():
        for part in unit if BEGINS_WITH_HAN.match(unit) else (unit,):
            found[part] += count
    return found


def _begun(text: str) -> str:
    return text if not text or BEGINS_WITH_HAN.match(text) else " " + text


def _written(unit: str) -> str:
    return "" if unit == SPACE else SPACE + unit[1:] if unit[0] == " " else unit


def _merged(counts: Counter[str], kept: set[str], size: int, longest: int) -> list[str]:
    """`kept`, in the order of their codes, and what the library merges of them; units are cut at every other character."""
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError("making a vocabulary needs the library `tokenizers`", remedy=INSTALL) from None
    parts = Counter[str]()
    for unit, count in counts.items():
        for part in re.findall(f"[{re.escape(''.join(sorted(kept)))}]+", _written(unit)):
            parts[part] += count
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "removed")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=sorted(kept), max_token_length=longest
    )
    lines = ("\n".join([part] * count) for part, count in sorted(parts.items()))
    model.train_from_iterator(lines, trainer)
    found = model.get_vocab()
    return sorted(found, key=lambda token: found[token])
