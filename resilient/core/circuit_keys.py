"""A circuit for each key, and one above them all that is moved by hand only."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from resilient.core.circuit import Circuit
from resilient.core.circuit_plan import CircuitPlan, CircuitReport, CircuitState
from resilient.core.keyed import MAX_LISTED, Keyed

_BY_SEVERITY: Final = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED)


class KeyedCircuits:
    """While the `master` is closed, as it is unless somebody moved it, each key has a circuit of its own."""

    __slots__ = ("_keyed", "_now", "_since", "_time_in", "_was", "master")

    def __init__(self, master: Circuit, max_keys: int, now: Callable[[], float]) -> None:
        self.master = master
        self._keyed = Keyed(self._another, max_keys)
        self._now = now
        self._was = CircuitState.CLOSED
        self._since = now()
        self._time_in = dict.fromkeys(CircuitState, 0.0)

    def after_fork(self, now: float) -> None:
        """The parent goes on counting the time so far."""
        self._time_in = dict.fromkeys(CircuitState, 0.0)
        self._since = now
        self._keyed.after_fork(now)

    def _another(self) -> Circuit:
        now = self._now()
        if self._was is not CircuitState.CLOSED:
            # The one that had to go may have been the last that was open.
            self.note_state(now)
        return Circuit(self.master.plan, now, self.master.published, self.master)

    def of(self, key: Hashable) -> Circuit:
        """The circuit that decides on this key."""
        if self.master.period.state is not CircuitState.CLOSED:
            return self.master
        return self._keyed.get(key)

    @property
    def state(self) -> CircuitState:
        """That of the master, or the worst of any key."""
        if self.master.period.state is not CircuitState.CLOSED:
            return self.master.period.state
        states = {circuit.period.state for circuit in self._keyed.states()}
        return next((state for state in _BY_SEVERITY if state in states), CircuitState.CLOSED)

    def note_state(self, now: float) -> None:
        """Charge the time since the last change to the state of that time; after each change of any circuit."""
        with self.master.lock:
            state = self.state
            if state is not self._was:
                self._time_in[self._was] += max(0.0, now - self._since)
                self._was, self._since = state, now

    def time_by_state(self, now: float) -> dict[CircuitState, float]:
        was, since = self._was, self._since
        spent = self._time_in.copy()
        spent[was] += max(0.0, now - since)
        return spent

    def reset(self, now: float) -> None:
        for circuit in (self.master, *self._keyed.states()):
            circuit.reset(now)

    def replan(self, plan: CircuitPlan) -> None:
        for circuit in (self.master, *self._keyed.states()):
            circuit.plan = plan

    def report(self, now: float) -> CircuitReport:
        """The counts of all keys together, and the worst of their states, as it is for the key that waits longest."""
        master = self.master.report(now)
        if master.state is not CircuitState.CLOSED:
            return master
        reports = [circuit.report(now) for circuit in self._keyed.states()]
        if not reports:
            return master
        worst = max(reports, key=_severity)
        calls = sum(report.calls for report in reports)
        failures = sum(report.failures for report in reports)
        slow_calls = sum(report.slow_calls for report in reports)
        known = calls >= self.master.plan.minimum_calls
        return worst._replace(
            calls=calls,
            failures=failures,
            slow_calls=slow_calls,
            failure_rate=failures / calls if known else None,
            slow_call_rate=slow_calls / calls if known else None,
        )

    def unhealthy(self, now: float) -> dict[str, dict[str, object]]:
        """The keys whose circuits are not closed, the worst first and only so many."""
        reports = [(key, circuit.report(now)) for key, circuit in self._keyed.items()]
        bad = [(key, report) for key, report in reports if report.state is not CircuitState.CLOSED]
        bad.sort(key=lambda item: _severity(item[1]), reverse=True)
        return {str(key): {**report.plain(), "last_error": report.last_error} for key, report in bad[:MAX_LISTED]}


def _severity(report: CircuitReport) -> tuple[int, float]:
    return -_BY_SEVERITY.index(report.state), report.retry_after or 0.0
