"""Async silently unprotected: the decorator takes the coroutine for the result, and every call for a success.

An `async def` that always fails. Ten calls through a breaker that opens at three failures, or one call with three
attempts, by the decorator that is for plain functions. Guarded is right, and so is a refusal before the body runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.peer_bugs.tables import OURS, Case, Verdict, judge, main

Decorator = Callable[[Any], Any]


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    async def function(self) -> None:
        self.calls += 1
        raise ConnectionError

    def shapes(self) -> dict[str, Callable[[], Awaitable[None]]]:
        async def plain() -> None:
            await self.function()

        async def with_argument(_: int) -> None:
            await self.function()

        def handing_back() -> Awaitable[None]:
            return self.function()

        return {
            "async def": plain,
            "partial": functools.partial(with_argument, 1),
            "object": Called(self),
            "def returning one": handing_back,
        }


class Called:
    def __init__(self, counted: Counted) -> None:
        self.counted = counted

    async def __call__(self) -> None:
        await self.counted.function()


def outcome(decorator: Decorator, shape: str, calls: int) -> str:
    counted = Counted()
    try:
        guarded = decorator(counted.shapes()[shape])
    except Exception as error:  # noqa: BLE001 - whatever says so is a refusal
        return f"refused ({type(error).__name__})"

    async def call() -> None:
        for _ in range(calls):
            with suppress(Exception):
                result = guarded()
                if inspect.isawaitable(result):
                    await result

    asyncio.run(call())
    if not counted.calls:
        return "refused when called"
    return "unguarded" if counted.calls == calls else "guarded"


def cases(shapes: tuple[str, ...]) -> list[Case]:
    return cases_of("breaker", 10, BREAKERS, shapes) + cases_of("retry", 1, RETRIES, shapes)


def cases_of(
    form: str, calls: int, decorators: dict[str, Callable[[], Decorator]], shapes: tuple[str, ...]
) -> list[Case]:
    def scenario(make: Callable[[], Decorator]) -> tuple[str, Verdict]:
        seen = {shape: outcome(make(), shape, calls) for shape in shapes}
        short: dict[str, list[str]] = {}
        for shape, what in seen.items():
            short.setdefault(what, []).append(shape)
        told = "; ".join(f"{what}: {', '.join(shapes)}" for what, shapes in short.items())
        return told if len(short) > 1 else next(iter(short)), judge("unguarded" not in seen.values())

    return [(library, form, partial(scenario, make)) for library, make in decorators.items()]


def ours_breaker() -> Decorator:
    from resilient import Registry, circuit_breaker

    return circuit_breaker(consecutive_failures=3, registry=Registry())


def pybreaker_() -> Decorator:
    from pybreaker import CircuitBreaker

    return CircuitBreaker(fail_max=3)


def circuitbreaker_() -> Decorator:
    from circuitbreaker import CircuitBreaker

    return CircuitBreaker(failure_threshold=3)


def aiobreaker_() -> Decorator:
    from aiobreaker import CircuitBreaker

    return CircuitBreaker(fail_max=3)


def purgatory_() -> Decorator:
    from purgatory import SyncCircuitBreakerFactory

    return SyncCircuitBreakerFactory(default_threshold=3)("peer")


def interlock_() -> Decorator:
    from interlock import CircuitBreaker, Config

    return CircuitBreaker(name="peer", config=Config(minimum_number_of_calls=3, window_size=3))


def pyresilience_() -> Decorator:
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig(failure_threshold=3))


def ours_retry() -> Decorator:
    from resilient import Registry, retry

    return retry(attempts=3, backoff=0, registry=Registry())


def tenacity_() -> Decorator:
    from tenacity import retry, stop_after_attempt

    return retry(stop=stop_after_attempt(3))


def stamina_() -> Decorator:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])  # its log is not what we look at
    return stamina.retry(on=ConnectionError, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0)


def backoff_() -> Decorator:
    import backoff

    return backoff.on_exception(backoff.constant, ConnectionError, interval=0, max_tries=3, jitter=None)


def pyresilience_retry() -> Decorator:
    from pyresilience import RetryConfig, resilient

    return resilient(retry=RetryConfig(max_attempts=3, delay=0))


BREAKERS = {
    OURS: ours_breaker,
    "pybreaker": pybreaker_,
    "circuitbreaker": circuitbreaker_,
    "aiobreaker": aiobreaker_,
    "purgatory": purgatory_,
    "interlock-cb": interlock_,
    "pyresilience": pyresilience_,
}
RETRIES = {
    OURS: ours_retry,
    "tenacity": tenacity_,
    "stamina": stamina_,
    "backoff": backoff_,
    "pyresilience": pyresilience_retry,
}

if __name__ == "__main__":
    main(__doc__, cases(("async def",)))
