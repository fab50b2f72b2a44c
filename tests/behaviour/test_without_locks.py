"""No lock is held while the user's code runs: bodies, predicates and listeners of many callers are inside at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    CircuitState,
    Event,
    Registry,
    adaptive,
    bulkhead,
    circuit_breaker,
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
from resilient.core.clock import CLOCK
from tests.behaviour.kit import CALL_FACES, PATIENCE, RETRY_FACES, SCOPE_FACES, Backend, Body


def _shared_policies(registry: Registry) -> list[Any]:
    retrying = retry(attempts=2, registry=registry, attempt_timeout=60.0)
    breaker = circuit_breaker(slow_call_rate=1.0, slow_call_duration=60, registry=registry)
    probing = circuit_breaker("probing", half_open_calls=5, registry=registry)
    probing.trip(0)
    limit = timeout(60.0, registry=registry)
    both = pipeline("both", timeout(60.0, registry=registry), circuit_breaker(registry=registry), registry=registry)
    room = bulkhead(max_queue=5, registry=registry)
    adapting = bulkhead("adapting", max_concurrent=adaptive(), registry=registry)
    limiter = rate_limiter(limit=100, registry=registry)
    throttling = throttle(registry=registry)
    substitute = fallback(default=0, registry=registry)
    cache = stale(0, 60.0, registry=registry)
    hedging = hedge(delay=60.0, registry=registry)
    return [
        *((retrying, face) for face in RETRY_FACES),
        *((policy, face) for policy in (breaker, probing, limit, both) for face in SCOPE_FACES),
        *((policy, face) for policy in (room, adapting, limiter, throttling) for face in SCOPE_FACES),
        *((policy, face) for policy in (substitute, hedging) for face in CALL_FACES),
        # Decorated, each body is a function of its own, with a result of its own.
        (cache, "decorated"),
        (lambda function: failover(("first", function), ("second", function), registry=registry), "decorated"),
    ]


def test_five_bodies_are_inside_every_policy_at_once(backend: Backend, private: Registry) -> None:
    async def main() -> None:
        for policy, face in _shared_policies(private):

            async def enter(body: Body, policy: Any = policy, face: str = face) -> None:
                await backend.use(face, policy, body)

            await backend.all_at_once(5, enter)

    backend.run(main)


def five_threads(call: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except ConnectionError:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not errors, errors


def fail() -> None:
    raise ConnectionError


def succeed() -> str:
    return "result"


def test_five_threads_are_inside_every_callable_of_the_users_at_once(private: Registry) -> None:
    def meeting(answer: object) -> Any:
        """A function that returns only where five threads are in it at once."""
        barrier = threading.Barrier(5)

        def function(*_: object) -> object:
            barrier.wait(PATIENCE)
            return answer

        return function

    for policy, function in (
        (retry(on=meeting(False), registry=private), fail),
        (retry(on_result=meeting(False), registry=private), succeed),
        (retry(retry_after=meeting(0.0), attempts=2, registry=private), fail),
        (retry(backoff=meeting(0.0), attempts=2, registry=private), fail),
        (circuit_breaker(on=meeting(True), registry=private), fail),
        (circuit_breaker(ignore=meeting(True), registry=private), fail),
        (circuit_breaker(on_result=meeting(False), registry=private), succeed),
        (circuit_breaker(consecutive_failures=1, open_duration=meeting(9.0), registry=private), fail),
        (circuit_breaker(key=meeting("key"), registry=private), succeed),
        (bulkhead(key=meeting("key"), registry=private), succeed),
        (rate_limiter(limit=9, key=meeting("key"), registry=private), succeed),
        (throttle(on=meeting(True), registry=private), fail),
        (fallback(meeting("instead"), registry=private), fail),
        (fallback(default=0, on=meeting(True), registry=private), fail),
        (fallback(default=0, on_result=meeting(True), registry=private), succeed),
        (stale(0, 60.0, key=meeting("key"), registry=private), succeed),
        (stale(0, 60.0, on=meeting(True), registry=private), fail),
        (hedge(delay=60.0, on=meeting(True), registry=private), fail),
    ):
        five_threads(lambda policy=policy, function=function: policy.call(function))  # type: ignore[misc]


def test_five_threads_are_inside_what_tells_failover_to_go_on(private: Registry) -> None:
    barrier = threading.Barrier(5)
    search = failover(
        ("first", fail), ("second", succeed), on=lambda error: barrier.wait(PATIENCE) >= 0, registry=private
    )
    five_threads(search)
    assert not barrier.broken


def test_five_threads_are_inside_a_listener_at_once(private: Registry) -> None:
    barrier = threading.Barrier(5)
    policy = retry(attempts=2, backoff=0.0, registry=private)
    policy.subscribe(lambda event: barrier.wait(PATIENCE), kinds="retry_scheduled")
    five_threads(lambda: policy.call(fail))
    assert not barrier.broken


def test_a_listener_that_hangs_holds_no_call_up(private: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=1, open_duration=0.0001, registry=private)
    hanging, done = threading.Event(), threading.Event()

    def listener(event: Event) -> None:
        hanging.set()
        done.wait(PATIENCE)

    breaker.subscribe(listener)
    teller = threading.Thread(target=breaker.trip, daemon=True)
    teller.start()
    assert hanging.wait(PATIENCE)
    breaker.reset()
    assert breaker.call(succeed) == "result"
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    done.set()
    teller.join(PATIENCE)
    assert not teller.is_alive()


def test_a_listener_may_call_back_into_the_policy(private: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=1, registry=private)
    seen: list[object] = []

    def listener(event: Event) -> None:
        seen.append((event.data["to"], breaker.snapshot()["state"]))
        breaker.reset()

    breaker.subscribe(listener, kinds="circuit_state_changed")
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    assert breaker.state is CircuitState.CLOSED
    assert seen == [("open", "open"), ("closed", "closed")]


def test_five_threads_wait_for_their_next_attempt_at_once(private: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(5)
    policy = retry(attempts=2, backoff=1.0, registry=private)
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: barrier.wait(PATIENCE))
    five_threads(lambda: policy.call(fail))
    assert not barrier.broken
