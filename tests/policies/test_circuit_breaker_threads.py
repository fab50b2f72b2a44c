from __future__ import annotations

import threading
from typing import Any

import pytest

from resilient import CircuitOpenError, CircuitState, Event
from resilient.core import circuit as circuit_module
from resilient.testing import FakeClock
from tests.policies.breaker_kit import breaker, call_and_fail, succeed, totals
from tests.policies.breaker_races import Hesitant, HesitantHalfOpen, Ignored, count_calls, probe, run_threads


@pytest.mark.parametrize(
    "settings",
    [
        {"consecutive_failures": 3, "window_calls": 10},
        {"failure_rate": 0.3, "window_calls": 20, "half_open_calls": 3, "on_result": lambda result: False},
        {"failure_rate": 0.3, "window_duration": 0.01, "half_open_calls": 4, "half_open_failure_rate": 0.3},
    ],
)
def test_every_call_is_counted_once(settings: dict[str, Any]) -> None:
    policy = breaker(open_duration=lambda turn: 0.00005, ignore=Ignored, **settings)
    count_calls(policy, threads=8, calls=1_000)


@pytest.mark.parametrize("limit", [1, 3])
def test_half_open_admits_no_more_than_its_probes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_module, "Probe", Hesitant)
    # All that rush at it are probes: it takes more successes to close than there are threads.
    policy = breaker(half_open_calls=limit, success_threshold=100, ignore=Ignored)
    probe(policy, limit=limit, threads=8, rounds=50)


def test_concurrent_expiry_makes_one_transition_and_one_event(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_module, "HalfOpen", HesitantHalfOpen)
    policy = breaker(half_open_calls=2, success_threshold=100)
    events: list[Event] = []
    policy.subscribe(events.append, kinds="circuit_state_changed")
    gate = threading.Barrier(8)

    def work(lane: int) -> None:
        for _ in range(50):
            if gate.wait() == 0:
                events.clear()
                policy.reset()
                policy.trip(1)
                fake_clock.advance(1)
            gate.wait()
            try:
                policy.call(succeed)
            except CircuitOpenError:
                pass
            gate.wait()
            assert [event.data["to"] for event in events].count("half_open") == 1

    run_threads(work, 8)


def test_no_lock_is_held_while_the_body_runs() -> None:
    policy = breaker(half_open_calls=5)
    inside = threading.Barrier(5)

    def meet() -> None:
        inside.wait(10)

    policy.trip(0)
    run_threads(lambda lane: policy.call(meet), 5)
    assert policy.state is CircuitState.CLOSED
    run_threads(lambda lane: policy.call(meet), 5)
    assert totals(policy) == {"success": 10}


def test_a_slow_listener_holds_up_only_its_own_thread() -> None:
    policy = breaker(consecutive_failures=1)
    entered, go_on = threading.Event(), threading.Event()
    told: list[object] = []

    def slow(event: Event) -> None:
        told.append(event.data["to"])
        entered.set()
        assert go_on.wait(10)

    policy.subscribe(slow, kinds="circuit_state_changed")
    thread = threading.Thread(target=call_and_fail, args=(policy,))
    thread.start()
    assert entered.wait(10)
    policy.reset()
    assert policy.call(succeed) == "fine"
    policy.force_open()
    assert told == ["open"]
    go_on.set()
    thread.join()
    assert told == ["open", "closed", "forced_open"]


def test_an_open_duration_that_takes_its_time_holds_up_nobody() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def duration(turn: int) -> float:
        entered.set()
        assert go_on.wait(10)
        return 30.0

    policy = breaker(consecutive_failures=1, open_duration=duration)
    thread = threading.Thread(target=call_and_fail, args=(policy,))
    thread.start()
    assert entered.wait(10)
    assert policy.call(succeed) == "fine"
    assert policy.snapshot()["state"] == "closed"
    go_on.set()
    thread.join()
    assert policy.state is CircuitState.OPEN
