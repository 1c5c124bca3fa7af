r"""Text cut into clauses after marks that are tried in turn, and joined again while short: what SPACES calls sentences.

With ℓ the longest length, s₁ s₂ ... the marks and σ(x) the text without white space, and then without the characters `strips`, at its two ends,

    split(x; s₁ s₂ ...) = [σ(x)]                                              if |σ(x)| <= ℓ or no mark is left
                        = split(y₁; s₂ ...) + split(y₂; s₂ ...) + ...         else, with y₁ + y₂ + ... = σ(x):             (1)

σ(x) is cut after every s₁, and its parts are joined from the left: the next part, p and its mark, begins a new y if p is not empty and the
y so far would have more than ℓ characters with it. (The last part, which has no mark, is counted as if it had one.)            (2)

With ℓ = 1, as in SPACES, no two parts that are not empty are joined, and a y is one part with the marks that follow it. What the text loses is what
σ takes away: there are g₀, ..., gₙ of white space and of `strips` only, with x = g₀ + piece₁ + g₁ + ... + pieceₙ + gₙ. A piece can be empty: of
"a\n \nb", one line is a space. A piece that is longer than ℓ has, without the marks at its end, at most ℓ characters, or cannot be cut: of the
parts between its marks of any one kind, at most one is not empty.

Reference: `text_segmentate` of bert4keras 0.9.7 to 0.11.5, and its use in github.com/bojone/SPACES at a545db3, `extract_convert.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LIMIT", "SEPARATORS", "split", "split_document"]

SEPARATORS = "\n。；：，"
LIMIT = 256  # SPACES reads the last so many sentences of a document


def split(text: str, longest: int = 1, separators: str = SEPARATORS, strips: str | None = None) -> list[str]:
    """split(x; s₁ s₂ ...) = [σ(x)] if |σ(x)| <= longest or no mark is left, else split(y₁; s₂ ...) + split(y₂; s₂ ...) + ....

    Parameters
    ----------
    text : str
    longest : int >= 1, how long pieces may be and are still joined; 1 cuts after every mark
    separators : str, the marks, of which the first is tried first
    strips : str or None, characters that both ends of a piece lose, after the white space there; None for white space alone

    Returns
    -------
    list of at least one str; the empty text is one piece, the empty one

    Raises
    ------
    ConfigError
        if `longest` is not a whole number of at least 1.
    """
    _at_least_one("longest", longest)
    return _split(text, longest, separators, strips)


def split_document(
    text: str, limit: int = LIMIT, *, longest: int = 1, separators: str = SEPARATORS, strips: str | None = None
) -> list[str]:
    """The last `limit` pieces of `split(text, longest, separators, strips)`: what a judgment ends with matters most.

    Parameters
    ----------
    text, longest, separators, strips : as `split`
    limit : int >= 1

    Returns
    -------
    list of 1 to `limit` str

    Raises
    ------
    ConfigError
        if `limit` or `longest` is not a whole number of at least 1.
    """
    _at_least_one("limit", limit)
    return split(text, longest, separators, strips)[-limit:]


def _split(text: str, longest: int, separators: str, strips: str | None) -> list[str]:
    text = text.strip().strip(strips)
    if len(text) <= longest or not separators:
        return [text]
    return [
        piece for run in _runs(text, longest, separators[0]) for piece in _split(run, longest, separators[1:], strips)
    ]


def _runs(text: str, longest: int, separator: str) -> Iterator[str]:
    """y₁, y₂, ...: they join to the text, which is not empty, and all but the last end in the separator."""
    begin = end = 0
    for part in text.split(separator):
        if part and end > begin and end + len(part) + 1 - begin > longest:
            yield text[begin:end]
            begin = end
        end += len(part) + 1
    yield text[begin:]


def _at_least_one(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            f"`{name}` must be at least 1",
            where="refimpl.text.sentences",
            expected="a whole number >= 1",
            got=repr(value),
        )
