"""The circuit against a plain model of what the documentation says: lists, no windows, no permits, no tricks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient.core.circuit import Circuit, HalfOpen, Ticket
from resilient.core.circuit_plan import CircuitState
from tests.core.circuit_kit import CLOSED, DISABLED, FORCED_OPEN, HALF_OPEN, OPEN, finish, plan


@dataclass(frozen=True)
class Result:
    at: float
    failed: bool
    slow: bool


@dataclass(eq=False)
class Call:
    """A call that was let through, and the state, by its number, that let it."""

    granted_by: int
    started: float


class Model:
    def __init__(self, plan: dict[str, Any], now: float) -> None:
        self.plan = plan
        self.state = CLOSED
        self.number = 0
        self.since = now
        self.until = 0.0
        self.results: list[Result] = []
        self.frozen = (0, 0, 0)
        self.out: list[Call] = []
        self.opened = 0
        self.usual_break = 30.0
        self.transitions: list[tuple[CircuitState, CircuitState, float, float | None]] = []
        self.time_in: dict[CircuitState, float] = dict.fromkeys(CircuitState, 0.0)

    def go(self, state: CircuitState, now: float, retry_after: float | None = None) -> None:
        self.frozen = self.counts(now)
        self.transitions.append((self.state, state, now, retry_after))
        self.time_in[self.state] += now - self.since
        self.state = state
        self.number += 1
        self.since = now
        self.results = []
        self.out = []

    def open(self, now: float, duration: float | None = None) -> None:
        self.opened += 1
        if duration is None:
            given = self.plan["open_duration"]
            duration = given(self.opened) if callable(given) else given
            self.usual_break = duration
        self.go(OPEN, now, duration)
        self.until = now + duration

    def close(self, now: float) -> None:
        self.opened = 0
        self.go(CLOSED, now)

    def begin(self, now: float) -> Call | None:
        if self.state is FORCED_OPEN:
            return None
        if self.state is OPEN:
            if now < self.until:
                return None
            self.go(HALF_OPEN, now)
        if self.state is HALF_OPEN:
            if self.out and now >= min(call.started for call in self.out) + self.half_open_timeout():
                self.open(now)
                return self.begin(now)
            taken = len(self.out)
            if self.plan["half_open_failure_rate"] is not None:
                taken += len(self.results)
            if taken >= self.plan["half_open_calls"]:
                return None
        call = Call(self.number, now)
        if self.state is HALF_OPEN:
            self.out.append(call)
        return call

    def half_open_timeout(self) -> float:
        timeout = self.plan["half_open_timeout"]
        if timeout is None:
            given = self.plan["open_duration"]
            timeout = self.usual_break if callable(given) else given
        return float(timeout)

    def end(self, call: Call, result: str, now: float) -> None:
        if call.granted_by != self.number:
            return
        if self.state is HALF_OPEN:
            self.out.remove(call)
        if result == "n":
            return
        self.results.append(Result(now, failed=result in "FB", slow=result in "SB"))
        if self.state is HALF_OPEN:
            self.judge(now)
        elif self.state is CLOSED and result != "." and self.trips(now):
            self.open(now)

    def window(self, now: float) -> list[Result]:
        if self.state is HALF_OPEN:
            return self.results
        if self.plan["window_duration"] is not None:
            return [result for result in self.results if result.at > now - self.plan["window_duration"]]
        return self.results[-self.plan["window_calls"] :]

    def counts(self, now: float) -> tuple[int, int, int]:
        if self.state in (OPEN, FORCED_OPEN):
            return self.frozen
        window = self.window(now)
        return len(window), sum(result.failed for result in window), sum(result.slow for result in window)

    def trips(self, now: float) -> bool:
        in_a_row = 0
        for result in reversed(self.results):
            if not result.failed:
                break
            in_a_row += 1
        if self.plan["consecutive_failures"] is not None and in_a_row >= self.plan["consecutive_failures"]:
            return True
        calls, failures, slow = self.counts(now)
        if calls < self.plan["minimum_calls"]:
            return False
        return reaches(failures, calls, self.plan["failure_rate"]) or reaches(slow, calls, self.plan["slow_call_rate"])

    def judge(self, now: float) -> None:
        slow_is_bad = self.plan["slow_call_rate"] is not None
        bad = sum(result.failed or (result.slow and slow_is_bad) for result in self.results)
        if self.plan["half_open_failure_rate"] is None:
            if bad:
                self.open(now)
            elif len(self.results) >= self.plan["success_threshold"]:
                self.close(now)
        elif len(self.results) == self.plan["half_open_calls"]:
            if reaches(bad, len(self.results), self.plan["half_open_failure_rate"]):
                self.open(now)
            else:
                self.close(now)

    def force_open(self, now: float) -> None:
        if self.state is not FORCED_OPEN:
            self.go(FORCED_OPEN, now)

    def disable(self, now: float) -> None:
        if self.state is not DISABLED:
            self.go(DISABLED, now)

    def reset(self, now: float) -> None:
        if self.state is not CLOSED:
            self.close(now)
            return
        self.opened = 0
        self.number += 1
        self.results = []


def reaches(count: int, calls: int, rate: float | None) -> bool:
    """Exactly, with the rate as it was written down."""
    return rate is not None and Fraction(count, calls) >= Fraction(str(rate))


rates = st.none() | st.integers(1, 100).map(lambda percent: percent / 100) | st.sampled_from([0.5, 1.0])
# Sums of powers of two, so that every instant is exact; none between two calls is shorter than a hundredth of a window.
durations = st.integers(1, 40).map(lambda eighths: eighths / 8)


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    window_calls = draw(st.integers(1, 8))
    half_open_calls = draw(st.integers(1, 4))
    return {
        "consecutive_failures": draw(st.none() | st.integers(1, 5)),
        "failure_rate": draw(rates),
        "slow_call_rate": draw(rates),
        "window_calls": window_calls,
        "window_duration": draw(st.none() | durations),
        "minimum_calls": draw(st.integers(1, window_calls)),
        "open_duration": draw(durations | st.sampled_from([lambda turn: turn / 4, lambda turn: 2.0**turn])),
        "half_open_calls": half_open_calls,
        "success_threshold": draw(st.just(half_open_calls) | st.integers(1, 5)),
        "half_open_failure_rate": draw(st.none() | rates),
        "half_open_timeout": draw(st.none() | durations),
    }


class Circuits(RuleBasedStateMachine):
    @initialize(chosen=plans(), start=st.integers(0, 10**6))
    def make(self, chosen: dict[str, Any], start: int) -> None:
        if all(chosen[name] is None for name in ("consecutive_failures", "failure_rate", "slow_call_rate")):
            chosen["consecutive_failures"] = 3
        self.now = float(start)
        self.circuit = Circuit(plan(**chosen), self.now)
        self.model = Model(chosen, self.now)
        self.under_way: list[tuple[Ticket, Call]] = []

    def begin(self) -> tuple[Ticket, Call] | None:
        ticket, call = self.circuit.admit(self.now), self.model.begin(self.now)
        assert (ticket is None) == (call is None)
        return None if ticket is None or call is None else (ticket, call)

    def end(self, pair: tuple[Ticket, Call], result: str) -> None:
        ticket, call = pair
        finish(ticket, result, self.now)
        self.model.end(call, result, self.now)

    @rule(calls=st.integers(1, 4))
    def begin_calls(self, calls: int) -> None:
        for _ in range(calls):
            pair = self.begin()
            if pair is not None:
                self.under_way.append(pair)

    @rule(which=st.integers(0, 10**6), result=st.sampled_from("..FFSBn"))
    def end_one_of_them(self, which: int, result: str) -> None:
        if self.under_way:
            self.end(self.under_way.pop(which % len(self.under_way)), result)

    @rule(results=st.text("..FFFSBn", min_size=1, max_size=8))
    def make_whole_calls(self, results: str) -> None:
        for result in results:
            pair = self.begin()
            if pair is not None:
                self.end(pair, result)

    @rule(eighths=st.integers(1, 12) | st.integers(1, 400))
    def wait(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule()
    def wait_for_the_end_of_the_break(self) -> None:
        self.now = max(self.now, self.model.until)

    @rule(eighths=st.lists(st.integers(0, 8), min_size=1, max_size=5))
    def begin_probes_one_after_the_other(self, eighths: list[int]) -> None:
        self.trip(0.5)
        self.now += 0.5
        for pause in eighths:
            self.begin_calls(1)
            self.now += pause / 8

    @rule(duration=st.none() | durations | st.just(0.0))
    def trip(self, duration: float | None) -> None:
        self.circuit.trip(self.now, duration)
        self.model.open(self.now, duration)

    @rule(control=st.sampled_from(["force_open", "disable", "reset", "reset"]))
    def set_by_hand(self, control: str) -> None:
        getattr(self.circuit, control)(self.now)
        getattr(self.model, control)(self.now)

    @invariant()
    def tells_the_same_state(self) -> None:
        assert self.circuit.period.state is self.model.state

    @invariant()
    def tells_the_same_window_and_rates(self) -> None:
        report = self.circuit.report(self.now)
        calls, failures, slow = self.model.counts(self.now)
        assert (report.calls, report.failures, report.slow_calls) == (calls, failures, slow)
        known = calls >= self.model.plan["minimum_calls"]
        assert report.failure_rate == (failures / calls if known else None)
        assert report.slow_call_rate == (slow / calls if known else None)
        assert report.since_seconds == self.now - self.model.since

    @invariant()
    def tells_the_same_wait(self) -> None:
        left = max(0.0, self.model.until - self.now) if self.model.state is OPEN else None
        assert self.circuit.report(self.now).retry_after == left
        expected = left if self.model.state in (OPEN, FORCED_OPEN) else 0.0
        assert self.circuit.retry_after(self.now) == expected

    @invariant()
    def made_the_same_transitions(self) -> None:
        made = [(step.before, step.after, step.at, step.retry_after) for step in self.circuit.transitions]
        assert made == self.model.transitions
        pairs = [(before, after) for before, after, _, _ in made]
        assert self.circuit.transition_counts == {pair: pairs.count(pair) for pair in pairs}

    @invariant()
    def spent_the_same_time_in_each_state(self) -> None:
        spent = self.circuit.time_by_state(self.now)
        expected = dict(self.model.time_in)
        expected[self.model.state] += self.now - self.model.since
        assert spent == expected

    @invariant()
    def has_as_many_probes_out(self) -> None:
        assert len(self.model.out) <= self.model.plan["half_open_calls"]
        if isinstance(self.circuit.period, HalfOpen):
            assert len(self.circuit.period.out) == len(self.model.out)


TestCircuits = Circuits.TestCase
TestCircuits.settings = settings(
    max_examples=100, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
