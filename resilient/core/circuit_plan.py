"""When a circuit opens and closes, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from resilient.core.checks import describe
from resilient.core.windows import CountWindow, TimeWindow, Window

DEFAULT_WINDOW_CALLS: Final = 100


class CircuitState(StrEnum):
    """The states of a circuit breaker; each equals its name as metrics and snapshots show it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class CircuitPlan:
    """When a circuit opens and closes. Values are checked by the policy."""

    consecutive_failures: int | None
    failure_rate: float | None
    slow_call_rate: float | None
    window_calls: int | None
    window_duration: float | None
    minimum_calls: int
    open_duration: float | Callable[[int], float]
    half_open_calls: int
    success_threshold: int
    half_open_failure_rate: float | None
    half_open_timeout: float | None

    def window(self) -> Window:
        """An empty window."""
        if self.window_duration is not None:
            return TimeWindow(self.window_duration)
        return CountWindow(self.window_calls or DEFAULT_WINDOW_CALLS)

    def trips(self, window: Window) -> str | None:
        """Why this window opens the circuit, or None."""
        if self.consecutive_failures is not None and window.streak >= self.consecutive_failures:
            return f"{window.streak} failures in a row"
        calls = window.calls
        if calls < self.minimum_calls:
            return None
        # Not the threshold times the calls: 0.07 * 100 is above 7.
        if self.failure_rate is not None and window.failures / calls >= self.failure_rate:
            return f"{window.failures} of {calls} calls failed"
        if self.slow_call_rate is not None and window.slow / calls >= self.slow_call_rate:
            return f"{window.slow} of {calls} calls were slow"
        return None


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state. `retry_after` is the length of the break where it leads to an open state."""

    before: CircuitState
    after: CircuitState
    at: float
    reason: str
    retry_after: float | None
    last_error: str | None = None


class CircuitReport(NamedTuple):
    """What a breaker is doing at one instant."""

    state: CircuitState
    since_seconds: float
    retry_after: float | None
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float | None
    slow_call_rate: float | None
    last_error: str | None

    def plain(self) -> dict[str, object]:
        """State, rates and counts, as a snapshot shows them."""
        state, since_seconds, retry_after, calls, failures, slow_calls, failure_rate, slow_call_rate, _ = self
        return {
            "state": state._value_,
            "since_seconds": since_seconds,
            "retry_after": retry_after,
            "failure_rate": failure_rate,
            "slow_call_rate": slow_call_rate,
            "calls": calls,
            "failures": failures,
            "slow_calls": slow_calls,
        }


def why_rejected(
    policy: str, one_of_many: bool, state: CircuitState, retry_after: float | None, last_error: str | None
) -> str:
    """What a circuit in this state says to a call, and what to do."""
    shown = describe("circuit_breaker", policy) + (", for the key of this call," if one_of_many else "")
    return f"{shown} {_why(state, retry_after, last_error)}"


def _why(state: CircuitState, retry_after: float | None, last_error: str | None) -> str:
    last = f"; the last failure was {last_error}" if last_error else ""
    if state is CircuitState.FORCED_OPEN:
        return f"is forced open{last}. It stays so until reset() is called"
    if state is CircuitState.HALF_OPEN:
        return f"is half-open and all its probes are under way{last}. Try again when one is back"
    return f"is open{last}. Try again in {retry_after or 0.0:.3g} s"
