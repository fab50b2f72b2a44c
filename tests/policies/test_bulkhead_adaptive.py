"""Bulkheads whose limit finds itself."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient import (
    Bulkhead,
    ConfigurationError,
    Event,
    RateLimitedError,
    TimeoutExceededError,
    adaptive,
    pipeline,
    timeout,
)
from resilient.testing import fake_clock
from tests.policies.bulkhead_kit import (
    Body,
    Hold,
    Through,
    at_rest,
    faces,
    fresh,
    until,
)

# Adaptive limits


def drop() -> None:
    raise TimeoutError


def reject() -> None:
    raise RateLimitedError("slow down")


def fail() -> None:
    raise OSError


def cancel() -> None:
    raise asyncio.CancelledError


def adaptive_aimd() -> Bulkhead:
    return fresh(max_concurrent=adaptive(initial=30, algorithm="aimd"))


@faces
@pytest.mark.parametrize(
    "body, limit",
    [(drop, 27), (reject, 27), (fail, 30), (cancel, 30)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_drops_shrink_an_adaptive_limit_and_other_failures_tell_nothing(
    through: Through, body: Body, limit: int
) -> None:
    policy = adaptive_aimd()
    with pytest.raises((BaseExceptionGroup, OSError, RateLimitedError, asyncio.CancelledError)):
        through(policy, body)
    assert policy.limit == limit
    assert at_rest(policy)


@faces
def test_an_adaptive_limit_grows_only_where_it_is_used(through: Through) -> None:
    policy = fresh(max_concurrent=adaptive(initial=3, algorithm="aimd"))
    through(policy, lambda: None)
    assert policy.limit == 3
    with Hold(policy):
        through(policy, lambda: None)
    # 2 of 3; and then the one that held on, which had begun as 1 of 3
    assert policy.limit == 4
    assert at_rest(policy)


def test_an_enclosing_timeout_that_cancels_shrinks_an_adaptive_limit() -> None:
    policy = adaptive_aimd()

    async def main() -> None:
        await pipeline(timeout(0.005), policy).call_async(asyncio.sleep, 10.0)

    with pytest.raises(TimeoutExceededError):
        asyncio.run(main())
    assert policy.limit == 27
    assert at_rest(policy)


def test_an_adaptive_limit_learns_from_durations() -> None:
    policy = fresh(max_concurrent=adaptive(initial=10, algorithm="vegas"))
    told: list[Event] = []
    policy.subscribe(told.append, kinds="limit_changed")
    with fake_clock() as clock:
        with Hold(policy), Hold(policy), Hold(policy), Hold(policy):
            # Binary fractions: whatever the clock begins at, both take exactly as long.
            policy.call(clock.advance, 1 / 128)
            policy.call(clock.advance, 1 / 128)
            assert policy.limit == 16
            for _ in range(4):
                policy._permits.try_acquire()
            policy.call(clock.advance, 0.050)
            assert policy.limit == 15
            for _ in range(4):
                policy._permits.release()
    assert [(e.data["from"], e.data["to"], e.data["reason"]) for e in told[:2]] == [
        (10, 16, "adapted"),
        (16, 15, "adapted"),
    ]


def test_an_adaptive_limit_that_grows_wakes_those_who_wait() -> None:
    policy = fresh(max_concurrent=adaptive(initial=2, algorithm="aimd"), max_queue=2, queue_timeout=10.0)
    with Hold(policy):
        second = Hold(policy)
        with ThreadPoolExecutor(2) as pool:
            gate = threading.Event()
            waiting = [pool.submit(policy.call, gate.wait, 10.0) for _ in range(2)]
            until(lambda: policy.queued == 2)
            second.leave()  # gives its permit back, and makes room for one more
            until(lambda: policy.queued == 0)
            assert (policy.limit, policy.in_flight) == (3, 3)
            gate.set()
            assert [future.result(5.0) for future in waiting] == [True, True]
    assert at_rest(policy)


def test_an_adaptive_limit_is_resized_within_its_bounds() -> None:
    policy = fresh(max_concurrent=adaptive(initial=20, minimum=5, maximum=50))
    policy.resize(50)
    assert policy.limit == 50
    for limit in (4, 51):
        with pytest.raises(ConfigurationError, match="from 5 to 50"):
            policy.resize(limit)
    assert policy.limit == 50
