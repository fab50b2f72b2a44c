"""The recommended pipeline: its order, and what it refuses to put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    RateLimitedError,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    rate_limiter,
    retry,
    standard_pipeline,
    timeout,
)
from resilient.backoff import constant
from resilient.testing import FakeClock


@pytest.fixture
def private() -> Registry:
    return Registry()


def remaining() -> float:
    deadline = current_deadline()
    assert deadline is not None
    return deadline.remaining()


def test_the_order_is_total_timeout_retry_breaker_attempt_timeout(private: Registry) -> None:
    line = standard_pipeline("inventory", registry=private)
    assert [(policy.kind, policy.name) for policy in line.policies] == [
        ("timeout", "inventory"),
        ("retry", "inventory"),
        ("circuit_breaker", "inventory"),
        ("timeout", "inventory.attempt"),
    ]
    assert set(private) == set(line.policies)


def test_it_has_the_documented_defaults(private: Registry) -> None:
    total, again, breaker, attempt = standard_pipeline("inventory", registry=private).policies
    assert (total.settings["seconds"], attempt.settings["seconds"]) == (30.0, 10.0)
    assert again.settings["attempts"] == 3
    assert breaker.settings["failure_rate"] == 0.5
    assert breaker.settings["window_duration"] == 30.0
    assert breaker.settings["minimum_calls"] == 10
    assert breaker.settings["open_duration"] == 30.0


def test_the_window_of_its_own_breaker_grows_with_the_attempt_timeout(private: Registry) -> None:
    line = standard_pipeline("slow", total_timeout=90.0, attempt_timeout=40.0, registry=private)
    assert line.policies[2].settings["window_duration"] == 80.0


def test_a_short_total_timeout_bounds_the_attempts_too(private: Registry) -> None:
    line = standard_pipeline("quick", total_timeout=2.0, registry=private)
    assert line.policies[3].settings["seconds"] == 2.0


def test_given_policies_take_their_places(private: Registry) -> None:
    mine = retry(attempts=7, registry=private), circuit_breaker("mine", consecutive_failures=2, registry=private)
    line = standard_pipeline("inventory", retry=mine[0], circuit_breaker=mine[1], registry=private)
    assert line.policies[1:3] == mine
    assert (mine[0].name, mine[1].name) == ("inventory", "mine")


def test_a_rate_limiter_stands_outside_all_others(private: Registry) -> None:
    limiter = rate_limiter(limit=5, registry=private)
    line = standard_pipeline("inventory", rate_limiter=limiter, registry=private)
    assert [policy.kind for policy in line.policies] == [
        "rate_limiter",
        "timeout",
        "retry",
        "circuit_breaker",
        "timeout",
    ]
    assert line.policies[0] is limiter
    assert limiter.name == "inventory"
    assert len(standard_pipeline("unlimited", rate_limiter=None, registry=private).policies) == 4


def test_made_twice_it_is_made_of_the_same_policies(private: Registry) -> None:
    first, second = (standard_pipeline("inventory", total_timeout=5, attempt_timeout=1, registry=private) for _ in "ab")
    assert first.policies == second.policies
    with pytest.raises(ConfigurationError, match="already registered"):
        standard_pipeline("inventory", total_timeout=6, attempt_timeout=1, registry=private)


@pytest.mark.parametrize("window", [19.9, 1.0])
def test_a_window_shorter_than_two_attempts_is_refused(private: Registry, window: float) -> None:
    short = circuit_breaker(failure_rate=0.5, window_duration=window, registry=private)
    with pytest.raises(ConfigurationError, match="at least twice the attempt timeout") as caught:
        standard_pipeline("inventory", circuit_breaker=short, registry=private)
    assert caught.value.value == (window, 10.0)
    assert caught.value.policy == "inventory"


def test_a_window_of_exactly_two_attempts_and_windows_of_calls_are_fine(private: Registry) -> None:
    for number, breaker in enumerate(
        (
            circuit_breaker(failure_rate=0.5, window_duration=20.0, registry=private),
            circuit_breaker(failure_rate=0.5, window_calls=10, registry=private),
            circuit_breaker(consecutive_failures=3, registry=private),
        )
    ):
        assert standard_pipeline(f"inventory {number}", circuit_breaker=breaker, registry=private)


def test_an_attempt_longer_than_the_whole_is_refused(private: Registry) -> None:
    assert standard_pipeline("equal", total_timeout=5.0, attempt_timeout=5.0, registry=private)
    with pytest.raises(ConfigurationError, match=r"attempt_timeout=5\.1 is not allowed: at most total_timeout, 5 s"):
        standard_pipeline("longer", total_timeout=5.0, attempt_timeout=5.1, registry=private)


@pytest.mark.parametrize("setting", ["rate_limiter", "retry", "circuit_breaker"])
@pytest.mark.parametrize("wrong", [50, "fast", timeout(1.0), timeout])
def test_what_is_no_policy_of_the_kind_is_refused(private: Registry, setting: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"'inventory': {setting}=.* what {setting}\(\.\.\.\) makes, or None"):
        standard_pipeline("inventory", registry=private, **{setting: wrong})


@pytest.mark.parametrize("own", [0.5, 10.0, 20.0, 40.0])
def test_a_retry_with_an_attempt_timeout_of_its_own_is_refused(private: Registry, own: float) -> None:
    with pytest.raises(ConfigurationError, match="retry's attempt_timeout and attempt_timeout contradict") as caught:
        standard_pipeline("inventory", retry=retry(attempt_timeout=own, registry=private), registry=private)
    assert caught.value.value == (own, 10.0)


def test_an_attempt_timeout_of_the_retry_would_hide_hung_attempts_from_the_breaker(
    private: Registry, fake_clock: FakeClock
) -> None:
    again = retry(attempts=2, attempt_timeout=2.0, backoff=constant(0.0), registry=private)
    breaker = circuit_breaker(consecutive_failures=1, registry=private)
    line = pipeline("inventory", timeout(30.0, registry=private), again, breaker, registry=private)

    with pytest.raises(TimeoutExceededError):
        call_through(line, "asyncio", lambda: fake_clock.advance(3.0))

    assert breaker.snapshot()["totals"] == {"success": 0, "failure": 0, "slow": 0, "ignored": 2, "rejected": 0}


def test_a_retry_that_may_go_on_after_the_total_timeout_is_refused(private: Registry) -> None:
    equal = retry(attempts=None, max_duration=5.0, registry=private)
    assert standard_pipeline("equal", total_timeout=5.0, retry=equal, registry=private)

    longer = retry(attempts=None, max_duration=5.1, registry=private)
    with pytest.raises(ConfigurationError, match="retry's max_duration and total_timeout contradict") as caught:
        standard_pipeline("longer", total_timeout=5.0, retry=longer, registry=private)
    assert caught.value.value == (5.1, 5.0)


def call_through(line: Any, running: str, body: Callable[[], Any]) -> Any:
    async def async_body() -> Any:
        result = body()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return result

    return line.call(body) if running == "threads" else asyncio.run(line.call_async(async_body))


each_way = pytest.mark.parametrize("running", ["threads", "asyncio"])


@each_way
def test_each_attempt_has_its_own_time_within_the_total(private: Registry, fake_clock: FakeClock, running: str) -> None:
    line = standard_pipeline(
        "inventory",
        total_timeout=10.25,
        attempt_timeout=4.0,
        retry=retry(attempts=5, backoff=constant(0.5), registry=private),
        registry=private,
    )
    seen: list[float] = []

    def body() -> None:
        seen.append(remaining())
        fake_clock.advance(3.0)
        raise ConnectionError

    with pytest.raises(ConnectionError) as caught:
        call_through(line, running, body)
    assert seen == [4.0, 4.0, 3.25], "the third attempt has what is left of the total"
    assert "deadline" in caught.value.__notes__[0]


@each_way
def test_a_slow_attempt_is_ended_and_retried(private: Registry, fake_clock: FakeClock, running: str) -> None:
    line = standard_pipeline("inventory", total_timeout=30.0, attempt_timeout=4.0, registry=private)
    durations = iter((9.0, 9.0, 1.0))

    def body() -> str:
        fake_clock.advance(next(durations))
        return "done"

    assert call_through(line, running, body) == "done"
    calls: Any = private.snapshot()["timeout"]["inventory.attempt"]["calls"]
    assert calls == {"completed": 1, "timed_out": 2}


def test_an_open_breaker_is_not_retried(private: Registry, fake_clock: FakeClock) -> None:
    line = standard_pipeline("inventory", registry=private)
    line.policies[2].force_open()  # type: ignore[attr-defined]
    with pytest.raises(CircuitOpenError):
        line.call(len, "four")
    assert fake_clock.sleeps == []


def test_failing_attempts_open_the_breaker(private: Registry, fake_clock: FakeClock) -> None:
    line = standard_pipeline("inventory", registry=private)
    for _ in range(4):
        with pytest.raises((ZeroDivisionError, CircuitOpenError)):
            line.call(lambda: 1 / 0)
    assert line.policies[2].state == "open"  # type: ignore[attr-defined]


def test_the_total_timeout_raises_under_the_name_of_the_pipeline(private: Registry, fake_clock: FakeClock) -> None:
    line = standard_pipeline("inventory", total_timeout=3.0, attempt_timeout=3.0, registry=private)
    with pytest.raises(TimeoutExceededError) as caught:
        line.call(fake_clock.advance, 5.0)
    assert caught.value.policy == "inventory"


@each_way
def test_the_wait_for_the_rate_limiter_is_not_taken_from_the_total(
    private: Registry, fake_clock: FakeClock, running: str
) -> None:
    limiter = rate_limiter(limit=1, period=4.0, max_wait=4.0, registry=private)
    line = standard_pipeline(
        "inventory", rate_limiter=limiter, total_timeout=5.0, attempt_timeout=5.0, registry=private
    )

    assert [call_through(line, running, remaining) for _ in range(2)] == [5.0, 5.0]
    assert fake_clock.sleeps == [4.0]


def test_the_rate_limiter_counts_calls_and_not_attempts(private: Registry, fake_clock: FakeClock) -> None:
    line = standard_pipeline("inventory", rate_limiter=rate_limiter(limit=2, registry=private), registry=private)
    bodies = []

    def body() -> None:
        bodies.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        line.call(body)
    assert len(bodies) == 3


def test_a_call_above_the_rate_is_refused_and_seen_by_no_other_policy(private: Registry, fake_clock: FakeClock) -> None:
    line = standard_pipeline("inventory", rate_limiter=rate_limiter(limit=1, registry=private), registry=private)
    line.call(len, "four")
    with pytest.raises(RateLimitedError) as caught:
        line.call(len, "four")
    assert caught.value.policy == "inventory"
    assert fake_clock.sleeps == [], "a refusal is not retried"
    totals: Any = private.snapshot()["circuit_breaker"]["inventory"]["totals"]
    assert sum(totals.values()) == 1


def test_each_key_of_the_rate_limiter_has_a_rate_of_its_own(private: Registry, fake_clock: FakeClock) -> None:
    limiter = rate_limiter(limit=1, key=lambda tenant: tenant, registry=private)

    @standard_pipeline("inventory", rate_limiter=limiter, registry=private)
    def stock(tenant: str) -> str:
        return tenant

    assert [stock("a"), stock("b")] == ["a", "b"]
    with pytest.raises(RateLimitedError):
        stock("a")


def test_it_guards_no_generators_and_opens_no_blocks(private: Registry) -> None:
    line = standard_pipeline("inventory", registry=private)

    def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        line(items)
    with pytest.raises(TypeError, match="for attempt in"):
        with line:
            raise AssertionError("not reached")
