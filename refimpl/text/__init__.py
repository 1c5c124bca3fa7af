"""Text to token ids and back: one small reader of our own for character models, well-kept libraries for everything else."""

from __future__ import annotations

from refimpl.text.cpm import CPMTokenizer
from refimpl.text.stopping import StopText
from refimpl.text.tokenizer import CharacterTokenizer, Framed, LibraryTokenizer, Tokenizer, open_tokenizer, simplify

__all__ = [
    "CPMTokenizer",
    "CharacterTokenizer",
    "Framed",
    "LibraryTokenizer",
    "StopText",
    "Tokenizer",
    "open_tokenizer",
    "simplify",
]
