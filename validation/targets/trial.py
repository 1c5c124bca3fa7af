"""What a target's module is made of: one trial for each function of the package that claims to compute a component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALL", "LONG", "NoSuchCallError", "Trial"]

LONG = ("float32", "float64")
ALL = ("float16", "bfloat16", *LONG)


class NoSuchCallError(Exception):
    """The package has no way to be asked this: a parameter that it lacks, a shape that it does not take."""


@dataclass(frozen=True)
class Trial:
    """A function of the package, by the name that its users call it by, and the component it is held against."""

    name: str
    component: str
    function: Callable[..., Any]
    dtypes: tuple[str, ...] = LONG
    dialect: str | None = None
    convert: Callable[[Any], Any] | None = None
