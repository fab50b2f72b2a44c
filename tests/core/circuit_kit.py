"""Circuits for tests: every setting has a default, and calls are one word each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resilient.core.circuit import Circuit, Ticket
from resilient.core.circuit_plan import CircuitPlan, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED = CircuitState.FORCED_OPEN, CircuitState.DISABLED

ONE_BY_ONE = [".", "F", "S", "B", "n"]
"""All that a call can come to."""


def plan(**settings: Any) -> CircuitPlan:
    """Trips after three failures in a row unless told otherwise."""
    values: dict[str, Any] = {
        "consecutive_failures": None,
        "failure_rate": None,
        "slow_call_rate": None,
        "window_calls": 10,
        "window_duration": None,
        "minimum_calls": 1,
        "open_duration": 30.0,
        "half_open_calls": 1,
        "half_open_failure_rate": None,
        "half_open_timeout": None,
        **settings,
    }
    if all(values[name] is None for name in ("consecutive_failures", "failure_rate", "slow_call_rate")):
        values["consecutive_failures"] = 3
    values.setdefault("success_threshold", values["half_open_calls"])
    return CircuitPlan(**values)


@dataclass
class Driver:
    """A circuit and the instant it is."""

    circuit: Circuit
    now: float = 100.0

    def begin(self) -> Ticket | None:
        return self.circuit.admit(self.now)

    def admitted(self) -> Ticket:
        ticket = self.begin()
        assert ticket is not None
        return ticket

    def succeed(self) -> None:
        self.admitted().success(self.now)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.admitted().bad(self.now, failure=True, slow=False)

    def slow(self) -> None:
        self.admitted().bad(self.now, failure=False, slow=True)

    def play(self, results: str) -> None:
        """`.` a success, `F` a failure, `S` a slow success, `B` a slow failure, `n` neutral."""
        for result in results:
            finish(self.admitted(), result, self.now)

    @property
    def state(self) -> CircuitState:
        return self.circuit.period.state

    @property
    def path(self) -> list[str]:
        """The transitions so far."""
        return [f"{change.before.value} -> {change.after.value}" for change in self.circuit.transitions]


def finish(ticket: Ticket, result: str, now: float) -> None:
    if result == "n":
        ticket.neutral()
    elif result == ".":
        ticket.success(now)
    else:
        ticket.bad(now, failure=result in "FB", slow=result in "SB")


def driver(**settings: Any) -> Driver:
    return Driver(Circuit(plan(**settings), 100.0))


def half_open(**settings: Any) -> Driver:
    """A circuit whose break is over; the next call is the first probe."""
    drive = driver(**settings)
    drive.circuit.trip(drive.now, 5.0)
    drive.now += 5.0
    drive.circuit.transitions.clear()
    return drive
