"""Retry object shared by two calls: one that keeps the state of a call in itself mixes them up.

Two tasks go through one retry object at the same time, with three attempts each and waits of 1, 2 and 3 ms. Both fail
until their third attempt. Each must have its own attempts, and its own waits: 1 ms and 2 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, judge, main

WAITS = [0.001, 0.002, 0.003]
Body = Callable[[], Awaitable[None]]


def ours_decorator() -> Callable[[Body], Awaitable[Any]]:
    from resilient import Registry, retry

    return retry(attempts=3, backoff=WAITS, registry=Registry()).call_async


def ours_loop() -> Callable[[Body], Awaitable[Any]]:
    from resilient import Registry, retry

    shared = retry(attempts=3, backoff=WAITS, registry=Registry())

    async def run(body: Body) -> None:
        async for attempt in shared:
            with attempt:
                await body()

    return run


def tenacity_loop() -> Callable[[Body], Awaitable[Any]]:
    from tenacity import AsyncRetrying, stop_after_attempt, wait_chain, wait_fixed

    shared = AsyncRetrying(stop=stop_after_attempt(3), wait=wait_chain(*map(wait_fixed, WAITS)), reraise=True)

    async def run(body: Body) -> None:
        async for attempt in shared:
            with attempt:
                await body()

    return run


def tenacity_decorator() -> Callable[[Body], Awaitable[Any]]:
    from tenacity import retry, stop_after_attempt, wait_chain, wait_fixed

    @retry(stop=stop_after_attempt(3), wait=wait_chain(*map(wait_fixed, WAITS)), reraise=True)
    async def run(body: Body) -> None:
        await body()

    return run


def stamina_loop() -> Callable[[Body], Awaitable[Any]]:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])
    shared = stamina.retry_context(
        on=ConnectionError, attempts=3, wait_initial=0.001, wait_max=1, wait_exp_base=2, wait_jitter=0
    )

    async def run(body: Body) -> None:
        async for attempt in shared:
            with attempt:
                await body()

    return run


def stamina_decorator() -> Callable[[Body], Awaitable[Any]]:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])

    @stamina.retry(on=ConnectionError, attempts=3, wait_initial=0.001, wait_max=1, wait_exp_base=2, wait_jitter=0)
    async def run(body: Body) -> None:
        await body()

    return run


def backoff_decorator() -> Callable[[Body], Awaitable[Any]]:
    import backoff

    @backoff.on_exception(backoff.expo, ConnectionError, factor=0.001, max_tries=3, jitter=None)
    async def run(body: Body) -> None:
        await body()

    return run


def hyx_decorator() -> Callable[[Body], Awaitable[Any]]:
    from hyx.retry import retry

    @retry(on=ConnectionError, attempts=3, backoff=WAITS)
    async def run(body: Body) -> None:
        await body()

    return run


def pyfailsafe_run() -> Callable[[Body], Awaitable[Any]]:
    from datetime import timedelta

    from failsafe import Backoff, Failsafe, RetryPolicy

    waits = Backoff(timedelta(milliseconds=1), timedelta(seconds=1), factor=2)
    return Failsafe(retry_policy=RetryPolicy(allowed_retries=2, backoff=waits)).run


def interlock_pipeline() -> Callable[[Body], Awaitable[Any]]:
    from interlock import Pipeline
    from tenacity import wait_chain, wait_fixed

    @Pipeline.builder().retry(attempts=3, wait=wait_chain(*map(wait_fixed, WAITS))).build()
    async def run(body: Body) -> None:
        await body()

    return run


def pyresilience_decorator() -> Callable[[Body], Awaitable[Any]]:
    from pyresilience import RetryConfig, resilient

    @resilient(retry=RetryConfig(max_attempts=3, delay=0.001, backoff_factor=2, jitter=False))
    async def run(body: Body) -> None:
        await body()

    return run


def scenario(make: Callable[[], Callable[[Body], Awaitable[Any]]]) -> Seen:
    really_sleep = asyncio.sleep
    waits: dict[str, list[float]] = {"first": [], "second": []}
    attempts = {"first": 0, "second": 0}

    async def sleep(seconds: float, *_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        waits[task.get_name()].append(round(seconds, 6))
        await really_sleep(0)

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        attempts[name] += 1
        await really_sleep(0)
        if attempts[name] < 3:
            raise ConnectionError

    async def both() -> list[Any]:
        run = make()
        tasks = [asyncio.create_task(run(body), name=name) for name in attempts]  # type: ignore[arg-type]
        return await asyncio.gather(*tasks, return_exceptions=True)

    with mock.patch("asyncio.sleep", sleep):
        results = asyncio.run(both())
    errors = [type(result).__name__ for result in results if isinstance(result, Exception)]
    if errors:
        return f"after {' and '.join(map(str, attempts.values()))} attempts: {', '.join(errors)}", judge(False)
    if list(attempts.values()) != [3, 3]:
        return f"{' and '.join(map(str, attempts.values()))} attempts", judge(False)
    if any(own != [0.001, 0.002] for own in waits.values()):
        told = " and ".join(", ".join(f"{1000 * wait:g}" for wait in own) for own in waits.values())
        return f"waits of {told} ms", judge(False)
    return "each has its own", judge(True)


MAKERS = [
    (OURS, "call", ours_decorator),
    (OURS, "async for", ours_loop),
    ("tenacity", "decorator", tenacity_decorator),
    ("tenacity", "async for", tenacity_loop),
    ("stamina", "decorator", stamina_decorator),
    ("stamina", "async for", stamina_loop),
    ("backoff", "decorator", backoff_decorator),
    ("hyx", "decorator", hyx_decorator),
    ("pyfailsafe", "run", pyfailsafe_run),
    ("interlock-cb", "pipeline", interlock_pipeline),
    ("pyresilience", "decorator", pyresilience_decorator),
]
CASES: list[Case] = [(name, form, partial(scenario, make)) for name, form, make in MAKERS]

if __name__ == "__main__":
    main(__doc__, CASES)
