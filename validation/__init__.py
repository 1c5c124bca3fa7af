"""Checks for anyone's implementation: proved answers, derived tolerances, verdicts that zeros and NaN do not pass.

    import validation
    print(validation.check(my_softmax, "softmax", dtype="float32"))

`validation.components.COMPONENTS` lists what can be checked. The claims about the mathematics are in `validation.claims`, and the command
`refimpl validate` runs everything on the engine itself. Needs the extra `validation`.
"""

from __future__ import annotations

from validation.conformance import Report, assert_conforms, check

__all__ = ["Report", "assert_conforms", "check"]
