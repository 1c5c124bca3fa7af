"""Text as BERT reads it: normalized, taken apart at punctuation and Han characters, and put together again.

    normalized(x) = NFD(lower(x)) without marks (category Mn)
    words(x)      what white space separates; punctuation and Han characters stand alone; control and format characters vanish
    pieces(w)     the longest piece of the vocabulary at the beginning of w, then the longest ##piece of the rest, and so on

Everything here knows where its characters come from: `origins[k]` is the place in the text of character k of the normalized text. Lower-casing
and decomposition make a fixed number of characters from each, and exchange no more than the order of marks on one letter; origins never go back.

A character of which the vocabulary has no piece is one unknown token (bert4keras before 0.9.9), or makes its whole word one (later versions,
Google's code, and the library `tokenizers`). The first keeps the rest of the word; a copy mechanism wants that.

`joined` is bert4keras' way back. It cannot know where spaces were: Han characters and what follows them are joined, Latin words and other
punctuation get a space, some punctuation loses the one behind it.

References: google-research/bert, `tokenization.py`; bert4keras 0.9.7, `bert4keras/tokenizers.py`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

__all__ = ["is_han", "is_punctuation", "is_special", "joined", "normalized", "pieces", "stem", "words"]

HAN = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
APART, SPACE, NOTHING, LETTER = range(4)
BEFORE = (  # what loses the space behind it: punctuation of Han text, and some of ASCII's
    "\u3000·–—‘’‛“”„‟…‧、。〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "﹏﹑﹔！＂＃＄％＆＇（）＊＋，－／：；＜＝＞？＠［＼］＾＿｀｛｜｝～｟｠｡｢｣､+-/={(<["
)
LOSING = re.compile(f"([{re.escape(BEFORE)}]) ")
SHORTENED = re.compile("' (re|m|s|t|ve|d|ll) ")
DECIMAL = re.compile(r"(\d\.) (\d)")


def is_han(character: str) -> bool:
    """Whether a character is of the blocks of Han ideographs that BERT sets apart."""
    return any(first <= ord(character) <= last for first, last in HAN)


def is_punctuation(character: str) -> bool:
    """ASCII other than letters, digits and white space, and Unicode's categories P."""
    return character in ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def is_special(token: str) -> bool:
    """Whether a token stands in brackets, as [CLS] does: no text encodes to such a token, and decoding leaves it out."""
    return token[:1] == "[" and token[-1:] == "]"


def stem(token: str) -> str:
    """The characters of a piece: without the ## of one that continues a word."""
    return token.removeprefix("##")


@functools.lru_cache(maxsize=65536)
def _kind(character: str) -> int:
    """What becomes of a character; in doubt, the first of these holds."""
    if is_punctuation(character) or is_han(character):
        return APART
    if character in "\n\r\t":  # control characters otherwise
        return SPACE
    if unicodedata.category(character) in ("Cc", "Cf") or character == "\ufffd":
        return NOTHING
    return SPACE if character.isspace() else LETTER


def _decomposed(text: str) -> str:
    """NFD(lower(text)) without marks."""
    lowered = unicodedata.normalize("NFD", text.lower())
    return "".join(character for character in lowered if unicodedata.category(character) != "Mn")


@functools.lru_cache(maxsize=65536)
def _count(character: str) -> int:
    """How many characters `_decomposed` makes of one."""
    return len(_decomposed(character))


def normalized(text: str, lower: bool = True) -> tuple[str, list[int]]:  # str -> str (n characters), int (n)
    """NFD(lower(text)) without marks, and for each of its characters the place in `text` that it comes from; as it is without `lower`."""
    if not lower or text.isascii():
        return text.lower() if lower else text, list(range(len(text)))
    return _decomposed(text), [place for place, character in enumerate(text) for _ in range(_count(character))]


def words(text: str, begin: int, end: int) -> Iterator[list[int]]:  # str -> places of each word's characters
    """The words of text[begin:end]: what punctuation, Han characters and white space leave together, and the first two one by one."""
    word: list[int] = []
    for place in range(begin, end):
        kind = _kind(text[place])
        if kind == LETTER:
            word.append(place)
        elif kind != NOTHING:
            yield from [word] if word else []
            yield from [[place]] if kind == APART else []
            word = []
    yield from [word] if word else []


def pieces(
    word: str, vocabulary: Container[str], longest: int, mark: str = "##"
) -> Iterator[tuple[str | None, int, int]]:
    """The longest piece at each place, word[begin:end], or None for a character without one; `longest` is the most characters a piece has."""
    begin = 0
    while begin < len(word):
        before = mark if begin else ""
        ends = range(min(len(word), begin + longest), begin, -1)
        end = next((end for end in ends if before + word[begin:end] in vocabulary), None)
        yield (None, begin, begin + 1) if end is None else (before + word[begin:end], begin, end)
        begin = begin + 1 if end is None else end


def joined(tokens: Sequence[str]) -> str:
    """The text that tokens stand for, as bert4keras writes it; special tokens must have been left out."""
    text = ""
    for token in tokens:
        if token.startswith("##"):
            text += token[2:]
        elif len(token) == 1 and is_han(token):
            text += token
        elif len(token) == 1 and is_punctuation(token):
            text += token + " "
        elif text and is_han(text[-1]):
            text += token
        else:
            text += " " + token
    text = SHORTENED.sub(r"'\1 ", re.sub(" +", " ", text))
    return DECIMAL.sub(r"\1\2", LOSING.sub(r"\1", text)).strip()
