"""What a breaker tells, who may answer, and what it holds on to."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, CircuitState, Event, subscribe
from resilient.testing import FakeClock
from tests.policies.breaker_kit import breaker, call_and_fail, finishes, rejection, shown, succeed


def moves(events: list[Event]) -> list[str]:
    return [f"{event.data['from']} -> {event.data['to']}" for event in events if event.kind == "circuit_state_changed"]


class TestEvents:
    def test_every_change_is_told_in_order_with_its_reason(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=2, open_duration=10)
        events: list[Event] = []
        policy.subscribe(events.append, kinds="circuit_state_changed")
        call_and_fail(policy, 2)
        fake_clock.advance(10)
        call_and_fail(policy)
        fake_clock.advance(10)
        policy.call(succeed)
        policy.force_open()
        assert moves(events) == [
            "closed -> open",
            "open -> half_open",
            "half_open -> open",
            "open -> half_open",
            "half_open -> closed",
            "closed -> forced_open",
        ]
        first = events[0]
        assert (first.policy_kind, first.policy, first.operation) == ("circuit_breaker", "payments", None)
        assert first.data == {
            "from": "closed",
            "to": "open",
            "reason": "2 failures in a row",
            "retry_after": 10.0,
            "last_error": "ConnectionError",
        }
        assert [event.at - first.at for event in events] == [0, 10, 10, 20, 20, 20]

    def test_a_rejection_is_told_with_the_operation(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        events: list[Event] = []
        policy.subscribe(events.append, kinds=["call_rejected"])

        @policy
        def pay() -> None: ...

        policy.trip(5)
        fake_clock.advance(1)
        with pytest.raises(CircuitOpenError):
            pay()
        [event] = events
        assert event.operation == f"{pay.__module__}.{pay.__qualname__}"
        assert event.data == {"state": "open", "retry_after": 4.0, "last_error": None}

    def test_without_listeners_nothing_gathers(self) -> None:
        policy = breaker()
        for _ in range(100):
            policy.trip()
            policy.reset()
        assert len(policy._circuit.transitions) == 0

    def test_what_a_listener_raises_changes_no_outcome(
        self, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = breaker(consecutive_failures=1)

        def broken(event: Event) -> None:
            raise ValueError("broken")

        policy.subscribe(broken)
        with caplog.at_level(logging.ERROR):
            call_and_fail(policy)
            rejection(policy)
            fake_clock.advance(30)
            assert policy.call(succeed) == "fine"
        assert policy.state is CircuitState.CLOSED
        assert len(caplog.records) == 1

    @pytest.mark.parametrize(
        "react, path",
        [
            (lambda policy: policy.reset(), ["closed -> open", "open -> closed"]),
            (lambda policy: policy.force_open(), ["closed -> open", "open -> forced_open"]),
            (lambda policy: policy.disable(), ["closed -> open", "open -> disabled"]),
            (lambda policy: rejection(policy), ["closed -> open"]),
            (lambda policy: policy.snapshot(), ["closed -> open"]),
            (lambda policy: policy.subscribe(print), ["closed -> open"]),
        ],
    )
    def test_a_listener_may_call_back_into_the_policy(
        self, react: Callable[[CircuitBreaker], object], path: list[str]
    ) -> None:
        policy = breaker(consecutive_failures=1)
        events: list[Event] = []
        reactions = [react]

        def call_back(event: Event) -> None:
            if reactions:
                reactions.pop()(policy)

        policy.subscribe(call_back)
        policy.subscribe(events.append, kinds="circuit_state_changed")
        finishes(lambda: call_and_fail(policy))
        assert moves(events) == path

    def test_a_listener_may_trip_it_again_out_of_half_open(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        events: list[Event] = []

        def no_probes(event: Event) -> None:
            if event.data.get("to") == "half_open":
                policy.trip(60)

        policy.subscribe(events.append)
        policy.subscribe(no_probes)
        policy.trip(5)
        fake_clock.advance(5)
        finishes(lambda: policy.call(succeed))
        assert moves(events) == ["closed -> open", "open -> half_open", "half_open -> open"]
        assert shown(policy, "state", "retry_after") == ("open", 60.0)

    def test_a_probe_is_not_lost_where_a_listener_is_interrupted(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        interrupts = [KeyboardInterrupt()]

        def interrupted(event: Event) -> None:
            if event.data.get("to") == "half_open" and interrupts:
                raise interrupts.pop()

        policy.subscribe(interrupted)
        policy.trip(5)
        fake_clock.advance(5)
        with pytest.raises(KeyboardInterrupt):
            policy.call(succeed)
        policy.call(succeed)
        assert policy.state is CircuitState.CLOSED

    def test_listeners_to_all_policies_hear_too(self) -> None:
        events: list[Event] = []
        policy = breaker("told-everywhere")
        stop = subscribe(events.append, policy="told-everywhere", kinds="circuit_state_changed")
        try:
            policy.trip()
        finally:
            stop()
        policy.reset()
        assert moves(events) == ["closed -> open"]


class TestGarbage:
    def test_a_breaker_that_nobody_holds_goes(self) -> None:
        policy = breaker(None)
        call_and_fail(policy, 5)
        gone = weakref.ref(policy)
        del policy
        gc.collect()
        assert gone() is None

    def test_errors_and_results_are_not_kept(self) -> None:
        class Failure(Exception):
            pass

        policy = breaker(consecutive_failures=1)
        error = Failure()
        gone = weakref.ref(error)
        call_and_fail(policy, error=error)
        del error
        gc.collect()
        assert gone() is None
        assert shown(policy, "state", "last_error") == ("open", "Failure")

    def test_a_probe_in_a_generator_that_is_collected_while_its_thread_takes_the_lock_blocks_nobody(
        self, fake_clock: FakeClock
    ) -> None:
        policy = breaker(half_open_calls=2)

        @policy
        def items() -> Any:
            yield 1
            yield 2

        def abandon() -> None:
            steps = items()
            next(steps)
            cycle: list[Any] = [steps]
            cycle.append(cycle)

        def play() -> None:
            for turn in range(40):
                policy.reset()
                policy.trip(1)
                fake_clock.advance(1)
                abandon()
                gc.set_threshold(1 + turn)
                policy.call(succeed)
                gc.set_threshold(100_000)

        threshold = gc.get_threshold()
        gc.collect()
        gc.set_threshold(100_000)
        try:
            finishes(play)
        finally:
            gc.set_threshold(*threshold)
