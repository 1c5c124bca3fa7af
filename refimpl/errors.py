"""One family of errors: what is wrong, where, what was expected, what was found, and what to do about it.

Every message is laid out in the same way, so that it can be read at a glance and tested as text::

    token id out of range
      where:    token_ids[0, 3]
      expected: 0 <= id < 4500
      got:      4711
      to do:    encode the text with this model's own tokenizer
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ConfigError",
    "DivergenceError",
    "DtypeError",
    "IntegerError",
    "NotBuiltYetError",
    "RefimplError",
    "ShapeError",
    "TextError",
    "TokenError",
    "TokenizerError",
    "UndecidedError",
    "VectorError",
    "explain",
]


def explain(
    what: str, *, where: object = None, expected: object = None, got: object = None, remedy: object = None
) -> str:
    """Lay out one problem as text: `what`, then one indented line for each thing that is known about it."""
    labelled = {"where:": where, "expected:": expected, "got:": got, "to do:": remedy}
    return "\n".join([what, *(f"  {label:<9} {value}" for label, value in labelled.items() if value is not None)])


class RefimplError(Exception):
    """Base of every error that `refimpl` raises on purpose; the arguments are those of `explain`."""

    def __init__(
        self, what: str, *, where: object = None, expected: object = None, got: object = None, remedy: object = None
    ) -> None:
        super().__init__(explain(what, where=where, expected=expected, got=got, remedy=remedy))


class ShapeError(RefimplError, ValueError):
    """An array has the wrong number of axes or the wrong length along one of them."""


class DtypeError(RefimplError, TypeError):
    """An array has a dtype on which the operation is not defined."""


class IntegerError(RefimplError, ArithmeticError):
    """An operation on whole numbers has no answer in their dtype: division by zero, or a quotient beyond its range."""


class TokenError(RefimplError, ValueError):
    """Token ids are empty, out of the vocabulary's range, or run past the position table."""


class ConfigError(RefimplError, ValueError):
    """A configuration or an option contradicts itself, the weights, or what is implemented."""


class DivergenceError(RefimplError, ArithmeticError):
    """A training has left the finite numbers."""


class BackendError(RefimplError, RuntimeError):
    """An array library or its device is missing or does not work."""


class TokenizerError(RefimplError, ValueError):
    """A tokenizer file cannot be read, or needs a library that is not installed."""


class TextError(RefimplError, ValueError):
    """A text cannot be scored or continued as it stands."""


class UndecidedError(RefimplError, ArithmeticError):
    """An answer depends on numbers that are not known well enough: overlapping balls have no order, wide ones no value."""


class VectorError(RefimplError, ValueError):
    """A file or stream of golden vectors, or of answers to them, is not what it should be."""


class NotBuiltYetError(RefimplError, NotImplementedError):
    """A documented feature that this version does not have."""
