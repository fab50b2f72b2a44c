"""One use of a circuit breaker around a block, or the steps of a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.core.clock import CLOCK
from resilient.operation import Operation, Scope

if TYPE_CHECKING:
    from resilient.policies.circuit_breaker import CircuitBreaker


class CircuitScope(Scope):
    __slots__ = ("_breaker", "_operation", "_started", "_ticket")

    def __init__(self, breaker: CircuitBreaker, operation: Operation) -> None:
        self._breaker = breaker
        self._operation = operation

    def begin(self) -> None:
        self._started = CLOCK.now()
        self._ticket = self._breaker._admit(self._breaker._circuit, self._operation)

    def end(self, error: BaseException | None) -> None:
        if error is None:
            self._breaker._record(self._ticket, False, self._started)
        else:
            self._breaker._failed(self._ticket, error, self._started)
