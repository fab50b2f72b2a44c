"""Policies inside policies, over threads, asyncio and trio."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    CircuitState,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    retry,
    standard_pipeline,
    timeout,
)
from resilient.testing import FakeClock, record_events
from tests.behaviour.kit import CALL_FACES, Backend, Body

call_faces = pytest.mark.parametrize("face", CALL_FACES)


def failing(attempts: list[float], clock: FakeClock) -> Body:
    async def body() -> None:
        attempts.append(clock.now())
        raise ConnectionError(f"number {len(attempts)}")

    return body


@call_faces
def test_a_breaker_outside_retry_counts_one_call_for_all_attempts(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    attempts: list[float] = []
    breaker = circuit_breaker(consecutive_failures=2, registry=private)
    payments = pipeline("payments", breaker, retry(attempts=3, registry=private), registry=private)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await backend.use(face, payments, failing(attempts, fake_clock))
        with pytest.raises(CircuitOpenError):
            await backend.use(face, payments, failing(attempts, fake_clock))

    backend.run(main)
    assert len(attempts) == 6
    assert breaker.snapshot()["totals"] == {"success": 0, "failure": 2, "slow": 0, "ignored": 0, "rejected": 1}


@call_faces
def test_retry_outside_a_breaker_stops_at_the_open_circuit(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    attempts: list[float] = []
    retrying = retry(attempts=9, backoff=1.0, registry=private)
    breaker = circuit_breaker(consecutive_failures=2, registry=private)
    payments = pipeline("payments", retrying, breaker, registry=private)

    async def main() -> None:
        with pytest.raises(CircuitOpenError) as caught:
            await backend.use(face, payments, failing(attempts, fake_clock))
        assert caught.value.last_error == "ConnectionError"
        assert "the error is not one to retry" in caught.value.__notes__[0]

    backend.run(main)
    assert len(attempts) == 2
    assert fake_clock.sleeps == [1.0, 1.0]
    assert retrying.snapshot()["attempts"] == {"success": 0, "retryable_failure": 2, "failure": 1}
    assert breaker.snapshot()["totals"] == {"success": 0, "failure": 2, "slow": 0, "ignored": 0, "rejected": 1}


@call_faces
def test_retry_that_names_the_open_circuit_waits_for_the_probe(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    attempts: list[float] = []
    retrying = retry(on=(ConnectionError, CircuitOpenError), attempts=3, backoff=1.0, registry=private)
    breaker = circuit_breaker(consecutive_failures=1, open_duration=30, registry=private)
    payments = pipeline("payments", retrying, breaker, registry=private)

    async def main() -> None:
        async def body() -> str:
            attempts.append(fake_clock.now())
            if len(attempts) == 1:
                raise ConnectionError
            return "back"

        assert await backend.use(face, payments, body) == "back"

    backend.run(main)
    assert fake_clock.sleeps == [1.0, 29.0]
    assert breaker.state is CircuitState.CLOSED


@call_faces
def test_retry_inside_a_timeout_begins_no_wait_that_the_deadline_would_end(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    attempts: list[float] = []
    total = timeout(10.0, registry=private)
    payments = pipeline("payments", total, retry(attempts=9, backoff=4.0, registry=private), registry=private)
    beginning = fake_clock.now()

    async def main() -> None:
        with pytest.raises(ConnectionError, match="number 3") as caught:
            await backend.use(face, payments, failing(attempts, fake_clock))
        assert caught.value.__notes__ == [
            "retry 'payments': gave up after 3 attempts in 8.00 s: the next attempt would start after the deadline"
        ]

    backend.run(main)
    assert [attempt - beginning for attempt in attempts] == [0.0, 4.0, 8.0]
    assert fake_clock.now() - beginning == 8.0
    assert total.snapshot()["calls"] == {"completed": 1, "timed_out": 0}


@call_faces
def test_a_timeout_inside_retry_bounds_each_attempt(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    seen: list[float] = []
    attempt_limit = timeout(1.0, registry=private)
    payments = pipeline("payments", retry(attempts=3, backoff=5.0, registry=private), attempt_limit, registry=private)

    async def main() -> None:
        async def hang() -> None:
            deadline = current_deadline()
            assert deadline is not None
            seen.append(deadline.remaining())
            await backend.spend(fake_clock, 2.0)

        with pytest.raises(TimeoutExceededError):
            await backend.use(face, payments, hang)

    backend.run(main)
    assert seen == [1.0, 1.0, 1.0]
    assert attempt_limit.snapshot()["calls"] == {"completed": 0, "timed_out": 3}
    assert private.snapshot()["pipeline"]["payments"]["calls"]["timeout"] == 1  # type: ignore[index]


@call_faces
def test_the_total_timeout_ends_the_attempt_that_is_under_way_and_no_other_follows(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    remaining: list[float] = []
    total = timeout(2.5, name="total", registry=private)
    retrying = retry(attempts=9, backoff=0.0, attempt_timeout=1.0, registry=private)
    payments = pipeline("payments", total, retrying, registry=private)

    async def main() -> None:
        async def hang() -> None:
            deadline = current_deadline()
            assert deadline is not None
            remaining.append(deadline.remaining())
            while True:
                await backend.spend(fake_clock, 0.25)

        with pytest.raises(TimeoutExceededError) as caught:
            await backend.use(face, payments, hang)
        assert caught.value.policy == "total"

    backend.run(main)
    assert remaining == [1.0, 1.0, 0.5]
    assert retrying.snapshot()["attempt_timeout"] == {
        "seconds": 1.0,
        "calls": {"completed": 1, "timed_out": 2},
        "orphaned": 0,
    }


@call_faces
def test_a_breaker_outside_a_timeout_counts_it_and_one_inside_does_not(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    outside = circuit_breaker("outside", registry=private)
    inside = circuit_breaker("inside", registry=private)
    payments = pipeline("payments", outside, timeout(1.0, registry=private), inside, registry=private)

    async def main() -> None:
        async def hang() -> None:
            await backend.spend(fake_clock, 2.0)

        with pytest.raises(TimeoutExceededError):
            await backend.use(face, payments, hang)

    backend.run(main)
    assert outside.snapshot()["totals"] == {"success": 0, "failure": 1, "slow": 0, "ignored": 0, "rejected": 0}
    assert inside.snapshot()["totals"] == {"success": 0, "failure": 0, "slow": 0, "ignored": 1, "rejected": 0}


def test_stacked_decorators_are_one_pipeline(backend: Backend, fake_clock: FakeClock) -> None:
    def parts(registry: Registry) -> tuple[Any, Any, Any]:
        return (
            retry(attempts=3, backoff=1.0, attempt_timeout=9.0, registry=registry),
            circuit_breaker(consecutive_failures=2, registry=registry),
            timeout(2.0, registry=registry),
        )

    async def records(stacked: bool) -> list[Any]:
        registry = Registry()
        outer, middle, inner = parts(registry)
        attempts: list[float] = []
        body = failing(attempts, fake_clock)
        if stacked and backend.name == "threads":

            def plain() -> None:
                backend.run(body)

            call = outer(middle(inner(plain)))
        elif stacked:
            call = outer(middle(inner(body)))
        else:
            call = backend.guard(pipeline(outer, middle, inner, registry=registry), body)
        with record_events() as events, pytest.raises(CircuitOpenError) as caught:  # noqa: PT012 - the block, or loop, is what is tested
            result = call()
            if result is not None:
                await result
        names = {(event.policy, event.operation) for event in events}
        assert len({operation for _, operation in names if operation}) == 1
        counted = registry.snapshot()
        assert len(counted["pipeline"]) == 1
        (meter,) = counted["pipeline"].values()
        return [
            events.kinds(),
            len(attempts),
            caught.value.last_error,
            meter["calls"],
            [policy.kind for policy in (outer, middle, inner)],
            {kind: list(policies.values()) for kind, policies in counted.items() if kind in ("retry", "timeout")},
        ]

    async def main() -> None:
        assert await records(stacked=True) == await records(stacked=False)

    backend.run(main)


@call_faces
def test_the_standard_pipeline_survives_a_flaky_service(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    inventory = standard_pipeline("inventory", total_timeout=60.0, attempt_timeout=2.0, registry=private)
    attempts: list[float] = []

    async def main() -> None:
        async def body() -> str:
            attempts.append(fake_clock.now())
            if len(attempts) == 1:
                raise ConnectionError
            if len(attempts) == 2:
                await backend.spend(fake_clock, 5.0)
            return "in stock"

        assert await backend.use(face, inventory, body) == "in stock"

    backend.run(main)
    counted = private.snapshot()
    assert len(attempts) == 3
    assert counted["circuit_breaker"]["inventory"]["failures"] == 2
    assert counted["retry"]["inventory"]["calls"]["recovered"] == 1  # type: ignore[index]
    assert counted["timeout"]["inventory.attempt"]["calls"] == {"completed": 2, "timed_out": 1}
    assert counted["timeout"]["inventory"]["calls"] == {"completed": 1, "timed_out": 0}
