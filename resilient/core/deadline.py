"""The deadline of the work at hand: an instant in a context variable, set by timeouts, read by whatever waits.

The variable holds the bare number: every timeout sets it, and few calls ask for it.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from math import inf
from typing import Final

from resilient.core.clock import CLOCK


class Deadline:
    """The instant at which the innermost enclosing timeout runs out.

    Example:
        >>> from resilient import current_deadline, timeout
        >>> with timeout(2.0):
        ...     deadline = current_deadline()
        ...     round(deadline.remaining())
        2
    """

    __slots__ = ("at",)

    at: Final[float]

    def __init__(self, at: float) -> None:
        self.at = at

    def remaining(self) -> float:
        """Seconds that are left; 0.0 once the deadline has passed. Hand it to clients as their timeout."""
        return max(0.0, self.at - CLOCK.now())

    @property
    def expired(self) -> bool:
        """Has the deadline passed?"""
        return CLOCK.now() >= self.at

    def __eq__(self, other: object) -> bool:
        return self.at == other.at if isinstance(other, Deadline) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.at)

    def __repr__(self) -> str:
        return f"<Deadline in {self.at - CLOCK.now():.3f} s>"


DEADLINE: Final[ContextVar[float]] = ContextVar("resilient_deadline", default=inf)


def current_deadline() -> Deadline | None:
    """The deadline of the enclosing timeouts, or None where there is none.

    It is inherited by tasks and by work that is given a copy of the context, as `asyncio.to_thread` does.
    """
    at = DEADLINE.get()
    return None if at == inf else Deadline(at)


def shorten_deadline(at: float) -> Token[float] | None:
    """Make `at` the current deadline, unless an enclosing one is nearer."""
    return None if DEADLINE.get() <= at else DEADLINE.set(at)


def deadline_at() -> float:
    """The current deadline as an instant of the clock; infinity where there is none."""
    return DEADLINE.get()
