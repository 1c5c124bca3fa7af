"""One malformed file of the corpus: what it breaks, and what a reader of this project says about it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """Files of which one is opened and refused; or, with no rule, a well-formed file of the same builder."""

    name: str  # short, of lower-case words joined by hyphens
    rule: str  # the rule that the refusal names; "" for a good file
    words: tuple[str, ...]  # occur in the message, in this order
    files: dict[str, bytes]  # file name -> content
    open: str  # the file that is opened
    read: str | None = None  # the tensor whose reading is refused, where opening is not
    why: str = ""  # what is wrong with it, in a sentence
