"""Checks for anyone's implementation: proved answers, derived tolerances, verdicts that zeros and NaN do not pass.

    import validation
    print(validation.check(my_softmax, "softmax", dtype="float32"))

`validation.components.COMPONENTS` lists what can be checked. The claims about the mathematics are in `validation.claims`, and the command
`refimpl validate` runs everything on the engine itself. Needs the extra `validation`.

The names below are imported when they are first used, so that pytest, which imports `refimpl_pytest` in every run, pays nothing for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.conformance import Report, assert_conforms, check

__all__ = ["Report", "assert_conforms", "check"]


def __getattr__(name: str) -> Any:
    conformance = importlib.import_module("validation.conformance") if name in (*__all__, "conformance") else None
    if name == "conformance":
        return conformance
    if conformance is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(conformance, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
