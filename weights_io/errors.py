"""The errors of `weights_io`: every refusal of a file is one of these, and says which rule the file breaks."""

from __future__ import annotations

from refimpl.errors import RefimplError

__all__ = ["FormatError", "UnsupportedError", "WeightsError"]


class WeightsError(RefimplError, ValueError):
    """Base of all errors about checkpoint files."""


class FormatError(WeightsError):
    """The file breaks a rule of its format: it is damaged, truncated or hostile."""


class UnsupportedError(WeightsError):
    """The file may be fine, but this version does not read that format or feature."""
