"""Where a text stops: at the first of some stop strings, whatever tokens they came in.

    end(text) = the least e such that some stop string s ends there: text[e - |s| : e] = s
    kept(text) = text[: least beginning of a stop string that ends at end(text)]

A text is read character by character, and stops as soon as one of the strings has been read: of two that end at the same character the longer
one counts. So the answer depends on the text alone, not on how it was cut into tokens: a newline is a newline as a token of its own, within a
token, as one of two in a token, or as the last byte of several.

A text that is still growing ends in characters that may belong to a stop string, or in half a character (U+FFFD, as byte-level tokenizers
decode one): both are held back until they are decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from refimpl.text.tokenizer import Tokenizer

__all__ = ["Cut", "StopText", "stop_strings"]

HALF = "\ufffd"  # what half a character decodes to


def stop_strings(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """The stop strings of an option: one string, several, or None for none. Raises ConfigError for an empty one, and for what is no string."""
    if given is None:
        return ()
    strings = (given,) if isinstance(given, str) else tuple(given)
    wrong = [each for each in strings if not isinstance(each, str) or not each or HALF in each]
    if wrong:
        raise ConfigError(
            "a stop text must be a string of at least one character",
            where="stop_text",
            expected=r'for instance "\n", or several: ["\n", "。"]; without U+FFFD, which stands for half a character',
            got=", ".join(map(repr, wrong)),
        )
    return tuple(dict.fromkeys(strings))


class Cut(NamedTuple):
    """A text, cut where it stops."""

    text: str  # before the stop string, or all of it
    stopped: bool  # whether there was one


class StopText:
    """A stop rule on text: `stop_text` as for `stop_strings`. Without a string nothing stops, and only half a character is held back."""

    def __init__(self, stop_text: str | Iterable[str] | None = None) -> None:
        self.strings = stop_strings(stop_text)

    def __bool__(self) -> bool:
        return bool(self.strings)

    def cut(self, text: str) -> Cut:
        """The text before the first stop string, and whether there was one."""
        found = [(text.find(each) + len(each), text.find(each)) for each in self.strings if each in text]
        return Cut(text[: min(found)[1]], True) if found else Cut(text, False)

    def settled(self, text: str) -> str:
        """What of a text that may still grow is final: all but half a character, and what may be the beginning of a stop string."""
        whole = text.rstrip(HALF)
        lengths = (length for each in self.strings for length in range(1, len(each)) if whole.endswith(each[:length]))
        return whole[: len(whole) - max(lengths, default=0)]

    def stops(self, tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
        """Whether the text of `ids` has a stop string."""
        return bool(self) and self.cut(tokenizer.decode(ids)).stopped

    def before(self, tokenizer: Any, ids: Sequence[int]) -> list[int]:
        """The longest beginning of `ids` whose text ends where the stop string begins, or before it; all of them where there is none."""
        kept = self.cut(tokenizer.decode(ids))
        if not kept.stopped:
            return list(ids)
        ends = (count for count in range(len(ids), 0, -1) if kept.text.startswith(tokenizer.decode(ids[:count])))
        return list(ids[: next(ends, 0)])
