"""Switches that tests throw: policies off, attempts capped, breakers open."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from resilient.core.checks import Checker
from resilient.operation import BYPASS, CAP
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry, registry


@contextmanager
def disabled() -> Generator[None]:
    """Let every policy of the process pass calls through for a block: no retries, rejections or timeouts.

    Example:
        >>> from resilient import circuit_breaker
        >>> from resilient.testing import disabled
        >>> breaker = circuit_breaker()
        >>> breaker.force_open()
        >>> with disabled():
        ...     breaker.call(len, "through")
        7
    """
    before = BYPASS.active
    BYPASS.set(True)
    try:
        yield
    finally:
        BYPASS.set(before)


def cap(*, attempts: int = 1) -> AbstractContextManager[None]:
    """Let every retry policy of the process make at most so many attempts for a block.

    Args:
        attempts: at least 1; policies that allow fewer keep their own.

    Raises:
        ConfigurationError: `attempts` is no whole number of at least 1.
    """
    return _capped(Checker("cap").whole("attempts", attempts))


@contextmanager
def _capped(attempts: int) -> Generator[None]:
    before = CAP.attempts
    CAP.attempts = attempts
    try:
        yield
    finally:
        CAP.attempts = before


class Tripped:
    """An open breaker; as a block, it is reset at the end."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker

    def __enter__(self) -> CircuitBreaker:
        return self.breaker

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.breaker.reset()


def trip(name: str, *, registry: Registry = registry) -> Tripped:
    """Open the registered circuit breaker of this name now; as a block, reset it at the end.

    Raises:
        LookupError: there is no such breaker; the message names those that there are.

    Example:
        >>> from resilient import CircuitOpenError, circuit_breaker
        >>> from resilient.testing import trip
        >>> payments = circuit_breaker("payments")
        >>> with trip("payments"):
        ...     payments.state.value
        'open'
        >>> payments.state.value
        'closed'
    """
    breaker = registry.find(CircuitBreaker, name)
    if breaker is None:
        known = ", ".join(repr(other.name) for other in registry.all(CircuitBreaker)) or "none"
        raise LookupError(f"there is no circuit breaker {name!r} in the registry; registered: {known}")
    breaker.trip()
    return Tripped(breaker)
