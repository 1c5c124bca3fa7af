"""The errors of `weights_io`: every refusal of a file is one of these, and says which rule the file breaks, and where.

    overlap in the data [safetensors.tiling]
      where:    model.safetensors, byte 4096, 'h.0.attn.c_attn.weight'
      expected: 4100
      got:      4096

The rule in brackets is an identifier that stays the same from version to version: `weights_io.rules` has the sentence for each, and
`tests/malformed` a file that breaks it.
"""

from __future__ import annotations

import reprlib

from refimpl.errors import RefimplError

__all__ = ["FormatError", "MissingTensorError", "UnsupportedError", "WeightsError", "clipped"]

SHOWN = 400  # characters of any one value in a message: what a hostile file says about itself is not repeated at length


def clipped(value: object) -> str | None:
    """`value` as text of at most `SHOWN` characters, without control characters; None stays None."""
    if value is None:
        return None
    if isinstance(value, (list, tuple, dict, set, frozenset, bytes)):
        short = reprlib.Repr()
        short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 12
        short.maxstring = short.maxother = 120
        value = short.repr(value)
    text = str(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class WeightsError(RefimplError, ValueError):
    """Base of all errors about checkpoint files.

    Attributes
    ----------
    rule : identifier of the rule that the file breaks, see `weights_io.rules`; None where no rule of a format is at stake
    offset : the byte of the file at which it breaks it, where there is one
    field : the part of the format, or the name of the tensor
    """

    def __init__(
        self,
        what: str,
        *,
        rule: str | None = None,
        where: object = None,
        offset: int | None = None,
        field: object = None,
        expected: object = None,
        got: object = None,
        remedy: object = None,
    ) -> None:
        self.rule, self.offset, self.field = rule, offset, field
        places = [
            clipped(where),
            None if offset is None else f"byte {offset}",
            clipped(field),
        ]
        place = ", ".join(part for part in places if part is not None)
        super().__init__(
            f"{what} [{rule}]" if rule else what,
            where=place or None,
            expected=clipped(expected),
            got=clipped(got),
            remedy=remedy,
        )


class FormatError(WeightsError):
    """The file breaks a rule of its format: it is damaged, truncated or hostile."""


class UnsupportedError(WeightsError):
    """The file may be fine, but this version does not read that format or feature."""


class MissingTensorError(WeightsError, KeyError):
    """There is no tensor of that name; also a KeyError, as every mapping's."""

    __str__ = Exception.__str__
