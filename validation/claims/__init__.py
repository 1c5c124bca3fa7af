"""Every mathematical claim about the systems here: one file a system, one declaration a claim. Identifiers are never reused."""

from __future__ import annotations

from validation.claims import (
    copying,
    favor,
    gpt2,
    mitchell,
    path_kernel,
    positions,
    realformer,
    rouge,
    seq2seq,
    sparse,
    taylor,
)
from validation.claims.registry import CLAIMS, Claim, Outcome, Setting, claim, select

__all__ = [
    "CLAIMS",
    "Claim",
    "Outcome",
    "Setting",
    "claim",
    "copying",
    "favor",
    "gpt2",
    "mitchell",
    "path_kernel",
    "positions",
    "realformer",
    "rouge",
    "select",
    "seq2seq",
    "sparse",
    "taylor",
]
