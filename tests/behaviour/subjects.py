"""Every policy as the subject of a cancellation, and the body that it guards. A new policy joins with one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Hedge,
    RateLimiter,
    Registry,
    Retry,
    RetryBudget,
    Timeout,
    adaptive,
    bulkhead,
    circuit_breaker,
    failover,
    fallback,
    hedge,
    percentile,
    pipeline,
    rate_limiter,
    retry,
    stale,
    standard_pipeline,
    throttle,
    timeout,
)
from resilient.core.clock import CLOCK
from resilient.drivers.tasks import running_backend
from tests.behaviour.cancelling import stepped
from tests.behaviour.kit import CALL_FACES, PATIENCE, RETRY_FACES, SCOPE_FACES, Backend

LIMIT = 60.0
STAY = 1.0

Made = Callable[[Registry], Any]


@dataclass(frozen=True)
class Subject:
    """A policy, or pipeline of them, under the name "subject".

    Attributes:
        failures: so many times the body fails before it succeeds; the policy then calls it once more.
        steps: the call suspends at least so often.
        passing: seconds that pass each time it suspends.
        in_tasks: the body runs in tasks of its own.
    """

    name: str
    faces: tuple[str, ...]
    make: Made
    failures: int = 0
    steps: int = 2
    passing: float = 0.0
    in_tasks: bool = False


class Body:
    """Suspends, fails as often as its subject wants to call it again, then succeeds; counts what became of it."""

    def __init__(self, backend: Backend, failures: int, in_tasks: bool = False) -> None:
        self.backend = backend
        self.failures = failures
        self.in_tasks = in_tasks
        self.begun = self.running = self.raised = self.neutral = 0

    async def __call__(self) -> object:
        return await (stepped(self._run()) if self.in_tasks else self._run())

    async def _run(self) -> str:
        self.begun += 1
        needed = self.begun <= self.failures + 1
        self.running += 1
        try:
            for _ in range(5 if self.in_tasks else 2):
                await self.backend.checkpoint()
            if self.in_tasks and not needed:
                # It ends when it is told to, and not before.
                await self.backend.event().wait()
        except Exception:
            raise
        except BaseException:
            self.neutral += 1
            raise
        finally:
            self.running -= 1
        if self.raised < self.failures:
            self.raised += 1
            raise ConnectionError
        return "result"


class Holder:
    """Somebody who holds the only permit of a bulkhead until virtual time has passed."""

    def __init__(self, held: Bulkhead, stay: float) -> None:
        self._held = held
        assert held._permits.try_acquire()
        clock: Any = CLOCK.virtual
        self._clock = clock
        self._clock.call_at(CLOCK.now() + stay, self)
        if running_backend() is None:
            # A thread that waits moves no time itself.
            threading.Thread(target=self._pass_time, args=[stay], daemon=True).start()

    def __call__(self) -> None:
        self._held._permits.release()

    def _pass_time(self, stay: float) -> None:
        give_up = time.monotonic() + PATIENCE
        while not self._held.queued and time.monotonic() < give_up:
            time.sleep(0.0005)
        self._clock.advance(stay)


def retrying(registry: Registry, **settings: Any) -> Retry:
    return retry(name="subject", attempts=4, backoff=1.0, registry=registry, **settings)


def breaking(registry: Registry, **settings: Any) -> CircuitBreaker:
    return circuit_breaker("subject", consecutive_failures=9, registry=registry, **settings)


def limiting(registry: Registry, **settings: Any) -> Timeout:
    return timeout(LIMIT, name="subject", registry=registry, **settings)


def queueing(registry: Registry, stay: float, **settings: Any) -> Bulkhead:
    """A bulkhead whose permit is taken, so that the call has to queue."""
    narrow = bulkhead("subject", max_concurrent=1, max_queue=3, registry=registry, **settings)
    Holder(narrow, stay)
    return narrow


def delaying(registry: Registry) -> RateLimiter:
    """A rate limiter through which somebody has just gone, so that the call has to wait."""
    limiter = rate_limiter("subject", limit=1, period=STAY, max_wait=LIMIT, registry=registry)
    limiter._gcra.reserve(CLOCK.now(), 0.0)
    return limiter


def hedging(registry: Registry, **settings: Any) -> Hedge:
    return hedge(name="subject", registry=registry, **settings)


def warmed_up(registry: Registry) -> Hedge:
    policy = hedging(registry, delay=percentile(0.9, minimum=STAY, warmup=1))
    policy._learn(0.0)
    return policy


def falling_back(registry: Registry) -> Callable[[Any], Any]:
    """A fallback to the guarded function itself: its body is better the second time."""
    return lambda function: fallback(function, name="subject", registry=registry)(function)


def failing_over(registry: Registry) -> Callable[[Any], Any]:
    """Failover is no policy but makes a function; here both providers are the guarded one."""
    return lambda function: failover(
        ("primary", function), ("replica", function), deadline=LIMIT, name="subject", registry=registry
    )


def _timeout_retry_breaker_timeout(registry: Registry) -> Any:
    return pipeline(
        "subject",
        limiting(registry),
        retrying(registry, budget=RetryBudget()),
        breaking(registry),
        timeout(LIMIT, name="attempt", registry=registry),
        registry=registry,
    )


def _all_of_them(registry: Registry) -> Any:
    return pipeline(
        "subject",
        fallback(default="instead", registry=registry),
        stale(0, LIMIT, registry=registry),
        throttle(registry=registry),
        retrying(registry),
        breaking(registry),
        rate_limiter(limit=9, registry=registry),
        bulkhead(max_concurrent=2, registry=registry),
        timeout(LIMIT, registry=registry),
        registry=registry,
    )


def _recommended(registry: Registry) -> Any:
    standard = standard_pipeline("subject", retry=retrying(registry), total_timeout=LIMIT, registry=registry)
    return pipeline("subject", delaying(registry), *standard.policies, registry=registry)


def _in(*makers: Made) -> Made:
    return lambda registry: pipeline("subject", *(make(registry) for make in makers), registry=registry)


SUBJECTS = [
    Subject("retry", RETRY_FACES, retrying, failures=2, steps=8),
    Subject(
        "retry with attempt_timeout",
        RETRY_FACES,
        lambda registry: retrying(registry, attempt_timeout=5),
        failures=2,
        steps=8,
    ),
    Subject("breaker", SCOPE_FACES, breaking),
    Subject("breaker that times calls", SCOPE_FACES, lambda registry: breaking(registry, slow_call_duration=5)),
    Subject("timeout", SCOPE_FACES, limiting),
    Subject("timeout by scope", SCOPE_FACES, lambda registry: limiting(registry, interrupt="scope")),
    Subject("timeout that never interrupts", SCOPE_FACES, lambda registry: limiting(registry, interrupt="never")),
    Subject("bulkhead", SCOPE_FACES, lambda registry: bulkhead("subject", registry=registry)),
    Subject(
        "bulkhead with a queue", SCOPE_FACES, lambda registry: queueing(registry, stay=STAY), steps=3, passing=STAY
    ),
    Subject(
        "bulkhead whose permit comes as the wait ends",
        SCOPE_FACES,
        lambda registry: queueing(registry, stay=LIMIT, queue_timeout=LIMIT),
        steps=3,
        passing=LIMIT,
    ),
    Subject(
        "adaptive bulkhead",
        SCOPE_FACES,
        lambda registry: bulkhead("subject", max_concurrent=adaptive(initial=5, maximum=9), registry=registry),
    ),
    Subject("rate limiter", SCOPE_FACES, lambda registry: rate_limiter("subject", limit=9, registry=registry)),
    Subject("rate limiter with a wait", SCOPE_FACES, delaying, steps=3),
    Subject("breaker by key", CALL_FACES, lambda registry: breaking(registry, key=lambda: "key")),
    Subject("bulkhead by key", CALL_FACES, lambda registry: bulkhead("subject", key=lambda: "key", registry=registry)),
    Subject(
        "rate limiter by key",
        CALL_FACES,
        lambda registry: rate_limiter("subject", limit=9, key=lambda: "key", registry=registry),
    ),
    Subject("throttle", SCOPE_FACES, lambda registry: throttle("subject", registry=registry)),
    Subject(
        "fallback to a default", CALL_FACES, lambda registry: fallback(default=0, name="subject", registry=registry)
    ),
    Subject("fallback to a handler", ("decorated",), falling_back, failures=1, steps=4),
    Subject("stale", CALL_FACES, lambda registry: stale(0, LIMIT, name="subject", registry=registry)),
    Subject("failover", ("decorated",), failing_over, failures=1, steps=4),
    Subject(
        "hedge",
        CALL_FACES,
        lambda registry: hedging(registry, delay=STAY),
        steps=10,
        passing=STAY,
        in_tasks=True,
    ),
    Subject(
        "hedge after a failure",
        CALL_FACES,
        lambda registry: hedging(registry, delay=LIMIT, budget=RetryBudget()),
        failures=1,
        steps=10,
        in_tasks=True,
    ),
    Subject("hedge by percentile", CALL_FACES, warmed_up, steps=10, passing=STAY, in_tasks=True),
    Subject("hedge that warms up", CALL_FACES, lambda registry: hedging(registry, delay=percentile(0.9))),
    Subject("breaker, timeout", SCOPE_FACES, _in(breaking, limiting)),
    Subject("timeout, breaker", SCOPE_FACES, _in(limiting, breaking)),
    Subject("breaker, retry", CALL_FACES, _in(breaking, retrying), failures=2, steps=8),
    Subject("timeout, retry, breaker, timeout", CALL_FACES, _timeout_retry_breaker_timeout, failures=2, steps=8),
    Subject("limiter and the standard pipeline", CALL_FACES, _recommended, failures=2, steps=9),
    Subject(
        "fallback, stale, throttle, retry, breaker, limiter, bulkhead, timeout",
        CALL_FACES,
        _all_of_them,
        failures=2,
        steps=8,
    ),
    Subject(
        "timeout, bulkhead with a queue",
        SCOPE_FACES,
        _in(limiting, lambda registry: queueing(registry, stay=STAY)),
        steps=3,
        passing=STAY,
    ),
    Subject(
        "timeout, hedge, bulkhead",
        CALL_FACES,
        _in(
            limiting,
            lambda registry: hedging(registry, delay=STAY),
            lambda registry: bulkhead("subject", max_concurrent=2, registry=registry),
        ),
        steps=10,
        passing=STAY,
        in_tasks=True,
    ),
]
every_subject = pytest.mark.parametrize(
    "subject, face",
    [
        pytest.param(subject, face, id=f"{subject.name}-{face}".replace(",", "").replace(" ", "_"))
        for subject in SUBJECTS
        for face in subject.faces
    ],
)
