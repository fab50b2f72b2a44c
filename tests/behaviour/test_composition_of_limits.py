"""Policies that limit, spare, repeat or replace calls, next to each other, over threads, asyncio and trio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    CircuitState,
    Registry,
    TimeoutExceededError,
    bulkhead,
    circuit_breaker,
    current_deadline,
    failover,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    stale,
    throttle,
    timeout,
)
from resilient.errors import RateLimitedError, ThrottledError
from resilient.testing import FakeClock, record_events
from tests.behaviour.kit import CALL_FACES, Backend, finish

call_faces = pytest.mark.parametrize("face", CALL_FACES)


async def fail() -> None:
    raise ConnectionError


async def succeed() -> str:
    return "result"


def _open_circuit(registry: Registry) -> Any:
    breaker = circuit_breaker(registry=registry)
    breaker.trip()
    return breaker


def _full(registry: Registry) -> Any:
    room = bulkhead(max_concurrent=1, registry=registry)
    assert room._permits.try_acquire()
    return room


def _used_up(registry: Registry) -> Any:
    limiter = rate_limiter(limit=1, period=3600, registry=registry)
    limiter.call(str)
    return limiter


def _refusing(registry: Registry) -> Any:
    policy = throttle(k=1.0, max_rejection=1.0, registry=registry)
    policy._draw = lambda: 0.0
    with pytest.raises(ConnectionError):
        policy.call(finish, fail())
    return policy


def _late(registry: Registry) -> Any:
    return timeout(1.0, registry=registry)


@pytest.mark.parametrize(
    "make, error",
    [
        pytest.param(_open_circuit, "CircuitOpenError", id="open"),
        pytest.param(_full, "BulkheadFullError", id="full"),
        pytest.param(_used_up, "RateLimitedError", id="limited"),
        pytest.param(_refusing, "ThrottledError", id="throttled"),
        pytest.param(_late, "TimeoutExceededError", id="late"),
    ],
)
@call_faces
def test_a_fallback_outside_sees_every_refusal(
    backend: Backend,
    face: str,
    make: Callable[[Registry], Any],
    error: str,
    fake_clock: FakeClock,
    private: Registry,
) -> None:
    async def body() -> str:
        await backend.spend(fake_clock, 2.0)
        return "result"

    async def main() -> None:
        inside = make(private)
        guarded = pipeline("search", fallback(default="instead", registry=private), inside, registry=private)
        with record_events(kinds="fallback_applied") as events:
            assert await backend.use(face, guarded, body) == "instead"
        assert [event.data["error"] for event in events] == [error]

    backend.run(main)
    calls: Any = private.snapshot()["pipeline"]["search"]["calls"]
    assert {outcome: count for outcome, count in calls.items() if count} == {"fallback": 1}


@call_faces
def test_a_retry_waits_without_its_permit(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    room = bulkhead(max_concurrent=1, registry=private)
    guarded = pipeline("search", retry(attempts=3, backoff=1.0, registry=private), room, registry=private)
    in_flight: list[tuple[str, int]] = []
    for wait in (0.5, 1.5):
        fake_clock.call_at(fake_clock.now() + wait, lambda: in_flight.append(("wait", room.in_flight)))

    async def body() -> None:
        in_flight.append(("attempt", room.in_flight))
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.use(face, guarded, body)

    backend.run(main)
    assert in_flight == [("attempt", 1), ("wait", 0), ("attempt", 1), ("wait", 0), ("attempt", 1)]


@call_faces
def test_a_retry_of_a_task_joins_the_queue_at_its_end(loop: Backend, face: str, private: Registry) -> None:
    room = bulkhead(max_concurrent=1, max_queue=5, registry=private)
    guarded = pipeline("search", retry(attempts=2, backoff=[0], registry=private), room, registry=private)
    order: list[str] = []

    async def flaky() -> None:
        order.append("flaky")
        if order.count("flaky") == 1:
            while room.queued < 2:
                await loop.checkpoint()
            raise ConnectionError

    async def other(name: str) -> None:
        while room.queued != int(name) - 1 or not room.in_flight:
            await loop.checkpoint()

        async def body() -> None:
            order.append(name)

        await loop.use(face, room, body)

    async def main() -> None:
        async with loop.group() as spawn:
            spawn(loop.use, face, guarded, flaky)
            spawn(other, "1")
            spawn(other, "2")

    loop.run(main)
    assert order == ["flaky", "1", "2", "flaky"]


@call_faces
def test_a_body_that_a_timeout_cancels_keeps_its_permit_until_it_has_cleaned_up(
    loop: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    """Of plain code that runs on, `tests/policies/test_bulkhead_neighbours.py` tells."""
    room = bulkhead(max_concurrent=1, registry=private)
    guarded = pipeline("search", room, timeout(1.0, registry=private), registry=private)
    in_flight: list[int] = []

    async def body() -> None:
        try:
            await loop.spend(fake_clock, 2.0)
        finally:
            if loop.name == "asyncio":  # trio allows no await in here without a shield
                await loop.checkpoint()
                await loop.checkpoint()
            in_flight.append(room.in_flight)

    async def main() -> None:
        with pytest.raises(TimeoutExceededError):
            await loop.use(face, guarded, body)

    loop.run(main)
    assert in_flight == [1]
    assert room.in_flight == 0


@call_faces
def test_a_rate_limiter_inside_retry_takes_a_slot_for_each_attempt(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limiter = rate_limiter(limit=2, period=60.0, registry=private)
    guarded = pipeline("search", retry(attempts=5, backoff=1.0, registry=private), limiter, registry=private)
    attempts: list[None] = []

    async def body() -> None:
        attempts.append(None)
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(RateLimitedError):
            await backend.use(face, guarded, body)

    backend.run(main)
    assert len(attempts) == 2
    assert limiter.snapshot()["totals"] == {"allowed": 2, "delayed": 0, "rejected": 1}


@call_faces
def test_a_rate_limiter_outside_retry_takes_one_slot_for_all_attempts(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limiter = rate_limiter(limit=1, period=60.0, registry=private)
    guarded = pipeline("search", limiter, retry(attempts=5, backoff=1.0, registry=private), registry=private)

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.use(face, guarded, fail)

    backend.run(main)
    assert limiter.snapshot()["totals"] == {"allowed": 1, "delayed": 0, "rejected": 0}


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_a_breaker_counts_what_stale_leaves_of_the_failures(
    backend: Backend, order: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(consecutive_failures=2, registry=private)
    kept = stale(0, 600.0, registry=private)
    parts = (kept, breaker) if order == "outside" else (breaker, kept)
    works = True

    async def body() -> str:
        if not works:
            raise ConnectionError
        return "good"

    async def main() -> None:
        nonlocal works
        call = backend.guard(pipeline("search", *parts, registry=private), body)
        assert await call() == "good"
        works = False
        assert [await call() for _ in range(4)] == ["good"] * 4

    backend.run(main)
    totals: Any = breaker.snapshot()["totals"]
    if order == "outside":
        assert breaker.state is CircuitState.OPEN
        assert (totals["success"], totals["failure"], totals["rejected"]) == (1, 2, 2)
    else:
        assert breaker.state is CircuitState.CLOSED
        assert (totals["success"], totals["failure"], totals["rejected"]) == (5, 0, 0)
    assert kept.snapshot()["calls"] == {"not_needed": 1, "applied": 4, "failed": 0}


@call_faces
def test_a_throttle_counts_its_refusals_of_each_attempt_as_requests(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    policy = _refusing(private)
    again = retry(on=ThrottledError, attempts=3, backoff=1.0, registry=private)

    async def main() -> None:
        with pytest.raises(ThrottledError):
            await backend.use(face, pipeline("search", again, policy, registry=private), succeed)

    backend.run(main)
    counted = policy.snapshot()
    assert (counted["requests"], counted["accepts"], counted["rejected"]) == (1 + 3, 0, 3)
    assert counted["rejection_probability"] == 4 / 5


@call_faces
def test_a_hedge_outside_a_bulkhead_takes_a_permit_for_each_attempt(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    room = bulkhead(max_concurrent=2, registry=private)
    policy = hedge(delay=1.0, max_hedges=2, registry=private)
    in_flight: list[int] = []
    both_are_in = backend.event()

    async def body() -> str:
        in_flight.append(room.in_flight)
        if len(in_flight) == 2:
            both_are_in.set()
        else:
            fake_clock.advance(1.0)
            await both_are_in.wait()
        return "result"

    async def main() -> None:
        nonlocal both_are_in
        both_are_in = backend.event()
        assert await backend.use(face, pipeline("search", policy, room, registry=private), body) == "result"

    backend.run(main)
    assert in_flight == [1, 2]
    totals: Any = room.snapshot()["totals"]
    assert totals["accepted"] == 2


@call_faces
def test_a_hedge_inside_a_bulkhead_takes_one_permit_for_all_attempts(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    room = bulkhead(max_concurrent=1, registry=private)
    policy = hedge(delay=1.0, registry=private)
    attempts: list[int] = []

    async def body() -> str:
        attempts.append(room.in_flight)
        if len(attempts) == 1:
            raise ConnectionError
        return "result"

    async def main() -> None:
        assert await backend.use(face, pipeline("search", room, policy, registry=private), body) == "result"

    backend.run(main)
    assert attempts == [1, 1]
    assert room.in_flight == 0


@pytest.mark.parametrize("own", [None, 60.0])
def test_failover_inside_a_timeout_honours_the_one_deadline(
    backend: Backend, own: float | None, fake_clock: FakeClock, private: Registry
) -> None:
    remaining: list[float] = []

    async def slow() -> None:
        deadline = current_deadline()
        assert deadline is not None
        remaining.append(deadline.remaining())
        fake_clock.advance(2.0)
        raise ConnectionError

    def provider() -> Any:
        if backend.name == "threads":
            return lambda: finish(slow())
        return slow

    async def main() -> None:
        search: Any = failover(*[(name, provider()) for name in "abc"], deadline=own, name="search", registry=private)

        async def body() -> None:
            result = search()
            if result is not None:
                await result

        # Only the deadline: nothing ends the body.
        limit = timeout(3.0, interrupt="never", registry=private)
        with pytest.raises(ExceptionGroup) as caught:
            await backend.called(limit, body)
        assert [type(error).__name__ for error in caught.value.exceptions] == ["ConnectionError"] * 2 + [
            "TimeoutExceededError"
        ]

    backend.run(main)
    assert remaining == [3.0, 1.0]
