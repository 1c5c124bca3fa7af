"""The registry: a claim is declared once, and the declaration drives `refimpl claims`, `refimpl validate` and pytest.

Verdicts: *proved* (exhaustion, exact algebra, or enclosure), *refuted* (a counterexample is shown), *not refuted* (so many cases were
searched), *measured* (nothing is claimed but the figures that were recorded, and the check measures them again; elsewhere its verdict is
*refuted*). A claim holds if its check comes to the verdict that was declared, on at least as many cases as were announced: a published
statement that is false is declared `refuted`, and fails if its counterexample stops working.

A claim that `needs` something which is not everywhere, such as a model too large to come along, may come to *not run*, with the reason. That is
shown as such: it neither holds nor fails. No other claim may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from refimpl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from refimpl.backend import Backend

__all__ = ["CLAIMS", "Claim", "Outcome", "Setting", "claim", "select"]

Word = Literal["proved", "refuted", "not refuted", "measured"]


@dataclass(frozen=True)
class Setting:
    """What a check is run on."""

    backend: Backend
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    verdict: Word | Literal["not run"]
    cases: int
    worst: str  # the worst case and its margin, the counterexample, the figures, or why it was not run
    tightness: float | None = None  # worst case found / bound, for claims with a bound


@dataclass(frozen=True)
class Claim:
    """A statement somebody made, where, and how it is decided here."""

    id: str
    statement: str
    source: str
    method: str
    expected: Word
    cases: int
    check: Callable[[Setting], Outcome]
    needs: str | None = None  # what has to be there for it, and is not everywhere

    def holds(self, outcome: Outcome) -> bool:
        """Whether the outcome is the one declared, on no fewer cases than announced."""
        return outcome.verdict == self.expected and not outcome.cases < self.cases

    def excuses(self, outcome: Outcome) -> bool:
        """Whether it was not run, and may be: for want of what it needs."""
        return outcome.verdict == "not run" and self.needs is not None


CLAIMS: dict[str, Claim] = {}


def claim(
    identifier: str, statement: str, *, source: str, method: str, expected: Word, cases: int, needs: str | None = None
) -> Callable[[Callable[[Setting], Outcome]], Callable[[Setting], Outcome]]:
    """Register the decorated check as a claim. An identifier is used once and never again."""

    def register(check: Callable[[Setting], Outcome]) -> Callable[[Setting], Outcome]:
        if identifier in CLAIMS:
            raise ConfigError("a claim's identifier is used twice", where=check.__module__, got=identifier)
        CLAIMS[identifier] = Claim(identifier, statement, source, method, expected, cases, check, needs)
        return check

    return register


def select(only: list[str] | None = None) -> list[Claim]:
    """The claims whose identifier begins with one of the given prefixes (all, without any); unknown prefixes are refused."""
    if not only:
        return list(CLAIMS.values())
    lost = [prefix for prefix in only if not any(name.startswith(prefix) for name in CLAIMS)]
    if lost:
        raise ConfigError("no such claim", expected=", ".join(CLAIMS), got=", ".join(lost))
    return [claim for name, claim in CLAIMS.items() if any(name.startswith(prefix) for prefix in only)]
