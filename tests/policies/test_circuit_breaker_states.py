"""The breaker through its calls: when it opens, probes and closes, what is told of it, and what hands may do."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from resilient import CircuitOpenError, CircuitState, ConfigurationError
from resilient.testing import FakeClock
from tests.policies.breaker_kit import breaker, call_and_fail, fail, rejection, shown, succeed, totals


class Slow:
    """Calls that take their time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def __call__(self, seconds: float, error: Exception | None = None) -> str:
        self.clock.advance(seconds)
        if error is not None:
            raise error
        return "late"


class TestWindows:
    def test_by_default_five_failures_in_a_row_open_it(self) -> None:
        policy = breaker()
        call_and_fail(policy, 4)
        policy.call(succeed)
        call_and_fail(policy, 4)
        assert policy.state is CircuitState.CLOSED
        call_and_fail(policy)
        assert policy.state is CircuitState.OPEN
        assert totals(policy) == {"success": 1, "failure": 9}

    def test_a_time_window_forgets(self, fake_clock: FakeClock) -> None:
        policy = breaker(failure_rate=0.5, window_duration=10, minimum_calls=4)
        call_and_fail(policy, 3)
        fake_clock.advance(10)
        assert shown(policy, "calls", "failures") == (0, 0)
        policy.call(succeed)
        call_and_fail(policy, 2)
        assert policy.state is CircuitState.CLOSED
        call_and_fail(policy)
        assert policy.state is CircuitState.OPEN

    def test_slow_calls_open_it_from_their_threshold_on(self, fake_clock: FakeClock) -> None:
        policy = breaker(slow_call_rate=0.5, slow_call_duration=2, minimum_calls=4)
        slow = Slow(fake_clock)
        for seconds in (0, 1.75, 2):
            assert policy.call(slow, seconds) == "late"
        assert shown(policy, "state", "slow_calls", "calls") == ("closed", 1, 3)
        policy.call(slow, 5)
        assert shown(policy, "state", "slow_call_rate", "failure_rate") == ("open", 0.5, 0.0)
        assert totals(policy) == {"success": 2, "slow": 2}

    def test_a_slow_failure_is_slow_and_a_failure(self, fake_clock: FakeClock) -> None:
        policy = breaker(slow_call_rate=1, slow_call_duration=2, minimum_calls=2)
        slow = Slow(fake_clock)
        with pytest.raises(ConnectionError):
            policy.call(slow, 3, ConnectionError())
        assert shown(policy, "calls", "failures", "slow_calls") == (1, 1, 1)
        assert totals(policy) == {"failure": 1}

    def test_only_the_time_of_the_body_is_slow(self, fake_clock: FakeClock) -> None:
        policy = breaker(slow_call_rate=1, slow_call_duration=2, minimum_calls=1)
        policy.subscribe(lambda event: fake_clock.advance(100))
        policy.trip(1)
        policy.reset()
        policy.call(succeed)
        assert policy.state is CircuitState.CLOSED

    def test_a_result_that_fails_counts_in_half_open_too(self, fake_clock: FakeClock) -> None:
        policy = breaker(on_result=lambda result: result is None)
        policy.trip(5)
        fake_clock.advance(5)
        assert policy.call(succeed, None) is None
        assert policy.state is CircuitState.OPEN


class TestHalfOpen:
    def test_the_first_call_after_the_break_is_the_probe(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=1, open_duration=timedelta(seconds=10))
        call_and_fail(policy)
        fake_clock.advance(9.75)
        assert rejection(policy).retry_after == 0.25
        fake_clock.advance(0.25)
        assert policy.state is CircuitState.OPEN
        assert policy.call(lambda: policy.state) is CircuitState.HALF_OPEN
        assert policy.state is CircuitState.CLOSED

    def test_a_failed_probe_opens_it_again(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=1, open_duration=10)
        call_and_fail(policy)
        fake_clock.advance(10)
        call_and_fail(policy)
        assert shown(policy, "state", "retry_after") == ("open", 10.0)

    def test_several_probes_at_once(self, fake_clock: FakeClock) -> None:
        policy = breaker(half_open_calls=3)
        policy.trip(5)
        fake_clock.advance(5)

        def nested(depth: int) -> CircuitOpenError:
            return policy.call(nested, depth - 1) if depth else rejection(policy)

        assert nested(3).retry_after == 0.0
        assert policy.state is CircuitState.CLOSED

    def test_probes_may_be_judged_together(self, fake_clock: FakeClock) -> None:
        for failures, state in ((1, CircuitState.CLOSED), (2, CircuitState.OPEN)):
            policy = breaker(half_open_calls=4, half_open_failure_rate=0.5)
            policy.trip(5)
            fake_clock.advance(5)
            call_and_fail(policy, failures)
            for _ in range(4 - failures):
                assert policy.state is CircuitState.HALF_OPEN
                policy.call(succeed)
            assert policy.state is state

    def test_more_successes_may_be_asked_for(self, fake_clock: FakeClock) -> None:
        policy = breaker(success_threshold=3)
        policy.trip(5)
        fake_clock.advance(5)
        for _ in range(3):
            assert policy.state is not CircuitState.CLOSED
            policy.call(succeed)
        assert policy.state is CircuitState.CLOSED

    def test_a_hung_probe_does_not_block_it_for_ever(self, fake_clock: FakeClock) -> None:
        policy = breaker(half_open_timeout=7, open_duration=10)
        policy.trip(5)
        fake_clock.advance(5)

        def hang() -> None:
            assert rejection(policy).retry_after == 0.0
            fake_clock.advance(7)
            assert rejection(policy).retry_after == 10.0
            fake_clock.advance(10)
            policy.call(succeed)
            assert policy.state is CircuitState.CLOSED

        policy.call(hang)
        assert shown(policy, "state", "calls") == ("closed", 0)

    def test_the_break_may_grow(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=1, open_duration=lambda turn: min(60, 10 * 2 ** (turn - 1)))
        waits = []
        for _ in range(5):
            call_and_fail(policy)
            waits.append(rejection(policy).retry_after)
            fake_clock.advance(waits[-1] or 0)
        assert waits == [10, 20, 40, 60, 60]

    def test_an_open_duration_that_raises_is_heard(self) -> None:
        def broken(turn: int) -> float:
            raise LookupError("no setting")

        policy = breaker(consecutive_failures=1, open_duration=broken)
        error = ConnectionError()
        with pytest.raises(LookupError) as caught:
            policy.call(fail, error)
        assert caught.value.__context__ is error
        assert policy.state is CircuitState.CLOSED
        policy.trip(5)
        assert policy.state is CircuitState.OPEN


class TestLateResults:
    @pytest.mark.parametrize("error", [None, ConnectionError()])
    def test_what_began_before_the_break_says_nothing_after_it(
        self, fake_clock: FakeClock, error: Exception | None
    ) -> None:
        policy = breaker(consecutive_failures=1, open_duration=10)

        def late() -> None:
            call_and_fail(policy)
            fake_clock.advance(4)
            if error is not None:
                raise error

        with suppress(ConnectionError):
            policy.call(late)
        assert shown(policy, "state", "retry_after", "since_seconds") == ("open", 6.0, 4.0)

    @pytest.mark.parametrize("error", [None, ConnectionError(), ValueError()])
    @pytest.mark.parametrize(
        "control, state",
        [("force_open", "forced_open"), ("disable", "disabled"), ("reset", "closed"), ("trip", "open")],
    )
    def test_a_state_set_by_hand_outlives_them(
        self, fake_clock: FakeClock, control: str, state: str, error: Exception | None
    ) -> None:
        policy = breaker(consecutive_failures=1, ignore=ValueError)
        policy.trip(5)
        fake_clock.advance(5)

        def late() -> None:
            getattr(policy, control)()
            if error is not None:
                raise error

        with suppress(ConnectionError, ValueError):
            policy.call(late)
        assert shown(policy, "state", "failures") == (state, 0)


class TestByHand:
    def test_forced_open_stays_until_somebody_says_otherwise(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        policy.force_open()
        fake_clock.advance(1e6)
        rejection(policy)
        assert shown(policy, "state", "retry_after") == ("forced_open", None)
        policy.reset()
        assert policy.call(succeed) == "fine"

    def test_disabled_lets_all_through_and_counts(self) -> None:
        policy = breaker(consecutive_failures=1)
        policy.disable()
        call_and_fail(policy, 20)
        assert shown(policy, "state", "calls", "failures", "failure_rate") == ("disabled", 20, 20, 1.0)
        policy.reset()
        assert shown(policy, "state", "calls") == ("closed", 0)

    @pytest.mark.parametrize("duration, seconds", [(None, 30.0), (4, 4.0), (timedelta(minutes=2), 120.0), (0, 0.0)])
    def test_tripping_opens_it_for_as_long_as_said(self, fake_clock: FakeClock, duration: Any, seconds: float) -> None:
        for control in ("reset", "force_open", "disable", "trip"):
            policy = breaker()
            getattr(policy, control)()
            policy.trip(duration)
            assert shown(policy, "state", "retry_after") == ("open", seconds)

    @pytest.mark.parametrize("duration", [-1, "5", float("inf"), True])
    def test_a_wrong_duration_is_refused(self, duration: Any) -> None:
        policy = breaker()
        with pytest.raises(ConfigurationError, match="circuit_breaker 'payments': duration="):
            policy.trip(duration)
        assert policy.state is CircuitState.CLOSED
