"""A traced call goes through the policies one by one, others through one function made of them: both do the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import opentelemetry.trace
import pytest

from resilient import (
    Registry,
    RetryBudget,
    adaptive,
    bulkhead,
    circuit_breaker,
    current_deadline,
    fallback,
    pipeline,
    rate_limiter,
    retry,
    timeout,
)
from resilient.core import tracing
from resilient.core.tracing import UNTRACED, Part
from resilient.testing import FakeClock, fake_clock


class Silent:
    """A trace that nobody sees."""

    def attach(self) -> None: ...
    def detach(self) -> None: ...
    def end(self, *of_the_call: object) -> None: ...
    def note(self, attribute: str, value: object) -> None: ...

    def retry(self, number: int, backoff: float) -> Part:
        return UNTRACED

    def hedge(self, number: int, over_as: object) -> Part:
        return UNTRACED

    def fallback(self) -> Part:
        return UNTRACED


class Opened(Exception):
    """What no policy here is set to look at."""


def budgeted(registry: Registry) -> Any:
    budget = RetryBudget(0.5, min_per_second=0.01, window=1000)
    return retry(on=ConnectionError, attempts=3, backoff=1, budget=budget, registry=registry)


MAKERS: dict[str, Callable[[Registry], Any]] = {
    "retry": lambda registry: retry(on=ConnectionError, attempts=3, backoff=1, registry=registry),
    "retry, by result": lambda registry: retry(
        on_result=lambda result: result == "again", backoff=1, registry=registry
    ),
    "retry, budgeted": budgeted,
    "retry, each in time": lambda registry: retry(attempt_timeout=1, backoff=1, registry=registry),
    "circuit breaker": lambda registry: circuit_breaker(consecutive_failures=2, open_duration=1, registry=registry),
    "circuit breaker, by rate": lambda registry: circuit_breaker(
        failure_rate=0.5, window_duration=60, minimum_calls=4, open_duration=1, registry=registry
    ),
    "circuit breaker, slow": lambda registry: circuit_breaker(
        failure_rate=0.9, slow_call_duration=1, slow_call_rate=0.3, minimum_calls=2, open_duration=1, registry=registry
    ),
    "timeout": lambda registry: timeout(1, registry=registry),
    "timeout, at the end": lambda registry: timeout(1, interrupt="never", registry=registry),
    "bulkhead": lambda registry: bulkhead(max_concurrent=2, registry=registry),
    "bulkhead, adaptive": lambda registry: bulkhead(
        max_concurrent=adaptive(initial=2, algorithm="aimd"), registry=registry
    ),
    "rate limiter": lambda registry: rate_limiter(limit=1, period=3, registry=registry),
    "rate limiter, patient": lambda registry: rate_limiter(limit=1, period=3, max_wait=60, registry=registry),
    "fallback": lambda registry: fallback(default="instead", on=ConnectionError, registry=registry),
    "a slow breaker behind a patient rate limiter": lambda registry: pipeline(
        "line",
        rate_limiter(limit=1, period=3, max_wait=60, registry=registry),
        circuit_breaker(slow_call_duration=1.5, slow_call_rate=0.9, minimum_calls=2, registry=registry),
        registry=registry,
    ),
    "a timeout behind a patient rate limiter": lambda registry: pipeline(
        "line",
        rate_limiter(limit=1, period=3, max_wait=60, registry=registry),
        timeout(1, registry=registry),
        registry=registry,
    ),
    "everything": lambda registry: pipeline(
        "line",
        fallback(default="instead", on=ConnectionError, registry=registry),
        retry(on=ConnectionError, attempts=2, backoff=1, registry=registry),
        circuit_breaker(consecutive_failures=3, open_duration=1, registry=registry),
        bulkhead(max_concurrent=2, registry=registry),
        timeout(1.5, registry=registry),
        registry=registry,
    ),
    "fallback, function": lambda registry: fallback(lambda error: str(error), pass_error=True, registry=registry),
}

STEPS: list[tuple[object, float]] = [
    ("again", 0.1),
    ("good", 0.1),
    (ConnectionError("1"), 0.1),
    ("again", 0.1),
    ("good", 2.0),
    (ConnectionError("2"), 0.0),
    (ConnectionError("3"), 0.0),
    (ConnectionError("4"), 3.0),
    (Opened("5"), 0.1),
    (KeyboardInterrupt(), 0.1),
    ("good", 0.1),
    ("good", 1.0),
    (ConnectionError("6"), 1.0),
    ("good", 0.0),
]
"""What each attempt comes to, and how long it takes."""


def told(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, str(error)


def rounded(value: object) -> object:
    """Instants are sums, and a fake clock begins where the real one is."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def watch(maker: Callable[[Registry], Any], in_task: bool, clock: FakeClock) -> list[object]:
    registry = Registry()
    policy = maker(registry)
    began = clock.now()
    steps = iter(STEPS * 2)
    seen: list[object] = []

    def step() -> object:
        outcome, seconds = next(steps)
        clock.advance(seconds)
        if isinstance(outcome, BaseException):
            raise type(outcome)(*outcome.args)
        return outcome

    async def async_step() -> object:
        try:
            return step()
        finally:
            await asyncio.sleep(0)

    async def awaited(guarded: Any) -> object:
        try:
            return await guarded()
        finally:
            seen.append(current_deadline())

    def call(guarded: Any) -> object:
        try:
            return asyncio.run(awaited(guarded)) if in_task else guarded()
        except StopIteration:
            raise
        except BaseException as error:
            return told(error)
        finally:
            seen.append(current_deadline())

    guarded = policy(async_step if in_task else step)
    for _ in range(12):
        seen.append(call(guarded))
        seen += [clock.now() - began, [*clock.sleeps], registry.snapshot()]
    return [rounded(one) for one in seen]


@pytest.mark.parametrize("in_task", [False, True], ids=["plain", "task"])
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_results_waits_and_counts_are_the_same(
    maker: Callable[[Registry], Any], in_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_clock() as clock:
        straight = watch(maker, in_task, clock)
    opened: list[object] = []

    def open_one(operation: object) -> Silent:
        opened.append(operation)
        return Silent()

    # Nobody looks for a trace before there is a provider.
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", object())
    monkeypatch.setattr(tracing.TRACING, "api", opentelemetry.trace)
    monkeypatch.setattr(tracing.TRACING, "open", open_one)
    with fake_clock() as clock:
        one_by_one = watch(maker, in_task, clock)
    assert len(opened) == 12
    assert one_by_one == straight
