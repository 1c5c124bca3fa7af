"""Texts of strangers, such as what a function raised, made fit to be shown: visible, legal in HTML and XML, and not endless."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["LONGEST", "cut", "figure", "visible"]

LONGEST = 2000  # characters of one text that are kept
_MARK = 40  # more than the mark of a cut has, so that a text is cut once
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def cut(text: str, longest: int = LONGEST) -> str:
    """`text`, or its first `longest` characters and how many more there were; what has been cut is not cut again."""
    return text if len(text) <= longest + _MARK else f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def visible(text: str, longest: int = LONGEST) -> str:
    """`text`, cut at `longest` characters, with [U+001B] for control characters, what reorders text, and what is no character."""
    return _UNSEEN.sub(_code_point, cut(text, longest))


def _code_point(found: re.Match[str]) -> str:
    return f"[U+{ord(found.group()):04X}]"


def figure(value: Any, digits: int = 3) -> str:
    """A number as people read it; "∞" and "not a number" for what `content.plain` writes as text; an empty text for None."""
    words = {"inf": "∞", "-inf": "-∞", "nan": "not a number"}
    if value is None:
        return ""
    if isinstance(value, str):
        return words.get(value, value)
    if 1 - 0.5 * 10.0**-digits <= value < 1:
        return f">{1 - 10.0 ** (1 - digits):g}"  # never rounded to the limit itself, on which a verdict depends
    if 1 < value < 1 + 0.5 * 10.0 ** (1 - digits):
        return ">1"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
