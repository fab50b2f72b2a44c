"""The circuit breaker's states, without clock, sleep or I/O.

Every period of a state is an object of its own. A call is admitted by one period and reports to that period, so a
result that comes back after the state has changed has nowhere to count. The closed period is its own ticket: on the
hot path a call reads one attribute, and tells its success to a plain callable that takes no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from threading import RLock
from typing import Final, Literal

from resilient.core.circuit_plan import CircuitPlan, CircuitReport, CircuitState, Transition
from resilient.core.fork import renew_lock
from resilient.core.gil import GIL
from resilient.core.windows import FAILURE, SLOW, Window
from resilient.errors import ConfigurationError

# How long a probe may be out where `open_duration` is a function that has given nothing, or 0, so far.
DEFAULT_BREAK: Final = 30.0

_NO_TIME: Final = dict.fromkeys(CircuitState, 0.0)


class Closed:
    """All calls pass. Also the disabled state, which never opens."""

    __slots__ = ("circuit", "open_to_all", "since", "state", "success", "window")

    open_to_all: Literal[True]
    until: Final = -inf

    def __init__(self, circuit: Circuit, since: float, state: CircuitState = CircuitState.CLOSED) -> None:
        self.circuit = circuit
        self.open_to_all = True
        self.since = since
        self.state = state
        self.window: Window | None = None
        self.success: Callable[[float], object] = self._first_success

    def _window_locked(self) -> Window:
        # Many breakers of a large registry are never called; a window takes more memory than all the rest.
        if self.window is None:
            self.window = self.circuit.plan.window()
        return self.window

    def _first_success(self, now: float) -> None:
        with self.circuit.lock:
            success = self._window_locked().success
            self.success = success if GIL else self._locked_success
        self.success(now)

    def _locked_success(self, now: float) -> None:
        with self.circuit.lock:
            self._window_locked().success(now)

    def bad(self, now: float, *, failure: bool, slow: bool, error: str | None = None) -> None:
        """A failure, a slow call, or both: the only results that can open the circuit."""
        circuit = self.circuit
        with circuit.lock:
            if circuit.period is not self:
                return
            circuit.last_error = error or circuit.last_error
            window = self._window_locked()
            window.add_locked(now, failure * FAILURE | slow * SLOW)
            reason = None if self.state is CircuitState.DISABLED else circuit.plan.trips(window)
        if reason is not None:
            circuit.open(self, now, reason)

    def neutral(self) -> None:
        """No verdict: nothing was taken, so nothing is given back."""

    def counts(self, now: float) -> tuple[int, int, int]:
        window = self.window
        return (0, 0, 0) if window is None else window.counts(now)


class Open:
    """No call passes: until `until`, or, forced open, until somebody changes it."""

    __slots__ = ("final", "open_to_all", "since", "state", "until")

    open_to_all: Literal[False]

    def __init__(self, since: float, until: float, state: CircuitState, final: tuple[int, int, int]) -> None:
        self.open_to_all = False
        self.since = since
        self.until = until
        self.state = state
        self.final = final

    def counts(self, now: float) -> tuple[int, int, int]:
        return self.final


class HalfOpen:
    """A few calls pass to find out whether the other side is back."""

    __slots__ = ("bad", "calls", "circuit", "failures", "judged", "open_to_all", "out", "since", "slow", "state")

    open_to_all: Literal[False]
    until: Final = -inf

    def __init__(self, circuit: Circuit, since: float) -> None:
        self.circuit = circuit
        self.open_to_all = False
        self.since = since
        self.state = CircuitState.HALF_OPEN
        # In order of admission, so that the first is the one longest under way.
        self.out: dict[Probe, None] = {}
        self.calls = self.failures = self.slow = self.bad = 0
        self.judged = False

    def admit_locked(self, now: float) -> Probe | None:
        plan = self.circuit.plan
        taken = len(self.out) if plan.half_open_failure_rate is None else len(self.out) + self.calls
        if self.judged or taken >= plan.half_open_calls:
            return None
        probe = Probe(self, now)
        self.out[probe] = None
        return probe

    def hangs(self, now: float) -> bool:
        """Is a probe out for so long that nobody should wait for it any more?"""
        # A copy, because probes give their permits back without the lock.
        for probe in list(self.out):
            return now >= probe.started + self.circuit.half_open_timeout()
        return False

    def judge_locked(self) -> tuple[bool, str] | None:
        """Once the probes have answered: whether to close, and why."""
        plan = self.circuit.plan
        if plan.half_open_failure_rate is None:
            if self.bad:
                return False, "a probe failed" if self.failures else "a probe was slow"
            if self.calls >= plan.success_threshold:
                return True, f"{self.calls} of {self.calls} probes succeeded"
            return None
        if self.calls < plan.half_open_calls:
            return None
        closes = self.bad / self.calls < plan.half_open_failure_rate
        return closes, f"{self.calls - self.bad} of {self.calls} probes succeeded"

    def counts(self, now: float) -> tuple[int, int, int]:
        return self.calls, self.failures, self.slow


class Probe:
    """The ticket of one call that a half-open circuit let through."""

    __slots__ = ("period", "started", "state")

    def __init__(self, period: HalfOpen, started: float) -> None:
        self.period = period
        self.started = started
        self.state = CircuitState.HALF_OPEN

    def success(self, now: float) -> None:
        self._report(now, failure=False, slow=False)

    def bad(self, now: float, *, failure: bool, slow: bool, error: str | None = None) -> None:
        self._report(now, failure=failure, slow=slow, error=error)

    def neutral(self) -> None:
        # No lock: an abandoned generator ends here, and may be collected while its own thread holds the lock.
        self.period.out.pop(self, None)

    def _report(self, now: float, *, failure: bool, slow: bool, error: str | None = None) -> None:
        period = self.period
        circuit = period.circuit
        with circuit.lock:
            if period.out.pop(self, self) is not None or circuit.period is not period:
                return
            circuit.last_error = error or circuit.last_error
            period.calls += 1
            period.failures += failure
            period.slow += slow
            period.bad += failure or (slow and circuit.plan.slow_call_rate is not None)
            verdict = period.judge_locked()
            if verdict is None:
                return
            closes, reason = verdict
            if closes:
                circuit.close_locked(now, reason)
            period.judged = True
        if closes:
            circuit.published()
            return
        try:
            circuit.open(period, now, reason)
        except BaseException:
            # The user's open_duration failed: the period, where it is still in force, must go on probing.
            with circuit.lock:
                period.calls = period.failures = period.slow = period.bad = 0
                period.judged = False
            raise


Period = Closed | Open | HalfOpen
Ticket = Closed | Probe


class Circuit:
    """The breaker itself: the period in force, and how one leads to the next.

    `period` is replaced as a whole under `lock`; whoever reads it without the lock sees one period or the next, never
    a mixture. `published` is called outside the lock after a change; the changes themselves wait in `transitions`.
    Circuits of one `master` share its lock and have their changes told and counted there.
    """

    __slots__ = (
        "__weakref__",
        "last_error",
        "lock",
        "opened_in_a_row",
        "period",
        "plan",
        "published",
        "time_in",
        "transition_counts",
        "transitions",
        "_break",
    )

    def __init__(
        self,
        plan: CircuitPlan,
        now: float,
        published: Callable[[], None] = lambda: None,
        master: Circuit | None = None,
    ) -> None:
        self.plan = plan
        self.published = published
        self.last_error: str | None = None
        self.opened_in_a_row = 0
        self._break = 0.0
        self.time_in: dict[CircuitState, float] = {}
        if master is None:
            # The garbage collector may run anywhere, and with it the finalizers of users, who call through breakers.
            self.lock = RLock()
            self.transitions: list[Transition] = []
            self.transition_counts: dict[tuple[CircuitState, CircuitState], int] = {}
        else:
            self.lock = master.lock
            self.transitions = master.transitions
            self.transition_counts = master.transition_counts
        self.period: Period = Closed(self, now)

    def after_fork(self, now: float) -> None:
        """The parent goes on counting its transitions and the time in its states."""
        renew_lock(self.lock)
        self.transition_counts.clear()
        self.time_in = {self.period.state: min(0.0, self.period.since - now)}

    def admit(self, now: float) -> Ticket | None:
        """A ticket to report the result to, or None: rejected."""
        while True:
            period = self.period
            if isinstance(period, Closed):
                return period
            if isinstance(period, Open):
                if now < period.until:
                    return None
                with self.lock:
                    if self.period is not period:
                        continue
                    half_open = HalfOpen(self, now)
                    ticket = half_open.admit_locked(now)
                    self._change_locked(half_open, now, "the break is over")
                try:
                    self.published()
                except BaseException:
                    if ticket is not None:
                        ticket.neutral()
                    raise
                return ticket
            with self.lock:
                if self.period is not period:
                    continue
                if not period.hangs(now):
                    return period.admit_locked(now)
            self.open(period, now, "a probe did not come back")

    def open(self, expected: Period, now: float, reason: str, duration: float | None = None) -> bool:
        """Open the circuit if `expected` is still in force; True if so. The length may be user code: no lock."""
        while self.period is expected:
            turn = self.opened_in_a_row + 1
            length = self._break_length(turn) if duration is None else duration
            with self.lock:
                if self.period is not expected:
                    return False
                if self.opened_in_a_row + 1 != turn:
                    continue
                self.opened_in_a_row = turn
                if duration is None:
                    self._break = length
                opened = Open(now, now + length, CircuitState.OPEN, expected.counts(now))
                self._change_locked(opened, now, reason, length)
            self.published()
            return True
        return False

    def close_locked(self, now: float, reason: str) -> None:
        self.opened_in_a_row = 0
        self._change_locked(Closed(self, now), now, reason)

    def trip(self, now: float, duration: float | None) -> None:
        """Open by hand, whatever the state."""
        while not self.open(self.period, now, "tripped by hand", duration):
            pass

    def force_open(self, now: float) -> None:
        with self.lock:
            if self.period.state is CircuitState.FORCED_OPEN:
                return
            forced = Open(now, inf, CircuitState.FORCED_OPEN, self.period.counts(now))
            self._change_locked(forced, now, "forced open by hand")
        self.published()

    def disable(self, now: float) -> None:
        with self.lock:
            if self.period.state is CircuitState.DISABLED:
                return
            self._change_locked(Closed(self, now, CircuitState.DISABLED), now, "disabled by hand")
        self.published()

    def reset(self, now: float) -> None:
        """Closed, with an empty window, whatever the state."""
        with self.lock:
            if self.period.state is CircuitState.CLOSED:
                self.opened_in_a_row = 0
                self.period = Closed(self, self.period.since)
                return
            self.close_locked(now, "reset by hand")
        self.published()

    def retry_after(self, now: float) -> float | None:
        """Seconds until the next call has a chance; None where only a hand can open the way."""
        period = self.period
        if isinstance(period, Open):
            return None if period.until == inf else max(0.0, period.until - now)
        return 0.0

    def half_open_timeout(self) -> float:
        plan = self.plan
        if plan.half_open_timeout is not None:
            return plan.half_open_timeout
        return self._break or DEFAULT_BREAK if callable(plan.open_duration) else plan.open_duration

    def report(self, now: float) -> CircuitReport:
        """Takes no lock and changes nothing: what it reads is one period."""
        period = self.period
        calls, failures, slow = period.counts(now)
        known = calls >= self.plan.minimum_calls
        left = period.until - now
        # By position, which takes half as long: a registry may have ten thousand of these to show.
        return CircuitReport(
            period.state,
            max(0.0, now - period.since),
            None if left == inf or not isinstance(period, Open) else max(0.0, left),
            calls,
            failures,
            slow,
            failures / calls if known else None,
            slow / calls if known else None,
            self.last_error,
        )

    def time_by_state(self, now: float) -> dict[CircuitState, float]:
        """Seconds spent in each state so far, the one in force included."""
        period = self.period
        spent = _NO_TIME | self.time_in
        spent[period.state] += max(0.0, now - period.since)
        return spent

    def _break_length(self, turn: int) -> float:
        duration = self.plan.open_duration
        if not callable(duration):
            return duration
        length = duration(turn)
        if isinstance(length, bool) or not isinstance(length, (int, float)) or not isfinite(length) or length < 0:
            raise ConfigurationError(
                f"circuit_breaker: open_duration({turn}) gave {length!r}: it must give seconds of at least 0",
                setting="open_duration",
                value=length,
                allowed="seconds of at least 0",
            )
        return float(length)

    def _change_locked(self, period: Period, now: float, reason: str, length: float | None = None) -> None:
        before, after = self.period.state, period.state
        self.time_in[before] = self.time_in.get(before, 0.0) + max(0.0, now - self.period.since)
        self.transition_counts[before, after] = self.transition_counts.get((before, after), 0) + 1
        self.period = period
        self.transitions.append(Transition(before, after, now, reason, length, self.last_error))
