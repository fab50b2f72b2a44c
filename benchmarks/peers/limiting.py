"""Bulkheads, rate limiters and timeouts that let the call through."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.peers import by_hand, by_hand_timeouts
from benchmarks.peers.case import BY_HAND, OURS, Call, Case, Goal
from benchmarks.timing import work, work_async
from resilient import Registry, bulkhead, rate_limiter, timeout

Body = Callable[[], Any]

# So many calls a second that nobody is ever refused.
PLENTY = 1_000_000_000
SEMAPHORE = "asyncio.Semaphore"
ASYNCIO_TIMEOUT = "asyncio.timeout"
SETITIMER = "setitimer"


def semaphore_async() -> Call:
    semaphore = asyncio.Semaphore(10)

    async def call() -> object:
        async with semaphore:
            return await work_async()

    return call


def semaphore_sync() -> Call:
    semaphore = threading.Semaphore(10)

    def call() -> object:
        with semaphore:
            return work()

    return call


def pyresilience_bulkhead(body: Body) -> Call:
    from pyresilience import BulkheadConfig, resilient

    return resilient(bulkhead=BulkheadConfig(max_concurrent=10))(body)


def interlock_bulkhead(body: Body) -> Call:
    from interlock import Pipeline

    guarded: Call = Pipeline.builder().bulkhead(10).build()(body)
    return guarded


def hyx_bulkhead() -> Call:
    from hyx.bulkhead import bulkhead as of_hyx

    return of_hyx(max_concurrency=10, max_capacity=10)(work_async)


def pyresilience_limiter(body: Body) -> Call:
    from pyresilience import RateLimiterConfig, resilient

    return resilient(rate_limiter=RateLimiterConfig(max_calls=PLENTY))(body)


def limits_limiter() -> Call:
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    # The cheapest of its strategies; a moving window keeps an entry for each call of the last second.
    limiter, item = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(PLENTY)

    def call() -> object:
        if not limiter.hit(item, "upstream"):
            raise RuntimeError("too many calls")
        return work()

    return call


def pyrate_limiter() -> Any:
    from pyrate_limiter import Duration, Limiter, Rate, StateBucket, TokenBucket

    # The same algorithm as ours; its default keeps an entry for each call of the last second.
    return Limiter(StateBucket([Rate(PLENTY, Duration.SECOND)], algorithm=TokenBucket()))


def pyrate_limiter_sync() -> Call:
    limiter = pyrate_limiter()

    def call() -> object:
        if not limiter.try_acquire("upstream", blocking=False):
            raise RuntimeError("too many calls")
        return work()

    return call


def pyrate_limiter_async() -> Call:
    limiter = pyrate_limiter()

    async def call() -> object:
        if not await limiter.try_acquire_async("upstream", blocking=False):
            raise RuntimeError("too many calls")
        return await work_async()

    return call


def aiolimiter_limiter() -> Call:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(PLENTY, 1.0)

    async def call() -> object:
        async with limiter:
            return await work_async()

    return call


def hyx_limiter() -> Call:
    from hyx.ratelimit import tokenbucket

    return tokenbucket(PLENTY, 1.0)(work_async)


def asyncio_timeout() -> Call:
    async def call() -> object:
        async with asyncio.timeout(30.0):
            return await work_async()

    return call


def hyx_timeout() -> Call:
    from hyx.timeout import timeout as of_hyx

    return of_hyx(30.0)(work_async)


def pyresilience_timeout(body: Body) -> Call:
    from pyresilience import TimeoutConfig, resilient

    return resilient(timeout=TimeoutConfig(seconds=30.0))(body)


def interlock_timeout(body: Body) -> Call:
    from interlock import Pipeline

    guarded: Call = Pipeline.builder().timeout(30.0).build()(body)
    return guarded


def setitimer() -> Call:
    signal.signal(signal.SIGALRM, by_hand_timeouts.expire)
    arm, timer = signal.setitimer, signal.ITIMER_REAL

    def call() -> object:
        arm(timer, 30.0)
        try:
            return work()
        finally:
            arm(timer, 0.0)

    return call


CASES = (
    Case(
        "bulkhead, async",
        "Bulkhead, async",
        "async",
        {
            OURS: lambda: bulkhead(registry=Registry())(work_async),
            SEMAPHORE: semaphore_async,
            "hyx": hyx_bulkhead,
            "interlock": lambda: interlock_bulkhead(work_async),
            "pyresilience": lambda: pyresilience_bulkhead(work_async),
            BY_HAND: by_hand.bulkhead_async,
        },
        (Goal((SEMAPHORE,), 0.8),),
        shown=True,
    ),
    Case(
        "bulkhead, sync",
        "Bulkhead, sync",
        "sync",
        {
            OURS: lambda: bulkhead(registry=Registry())(work),
            "threading.Semaphore": semaphore_sync,
            "interlock": lambda: interlock_bulkhead(work),
            "pyresilience": lambda: pyresilience_bulkhead(work),
            BY_HAND: by_hand.bulkhead,
        },
    ),
    Case(
        "rate limiter, sync",
        "Rate limiter, sync",
        "sync",
        {
            OURS: lambda: rate_limiter(limit=PLENTY, registry=Registry())(work),
            "pyresilience": lambda: pyresilience_limiter(work),
            "limits": limits_limiter,
            "pyrate-limiter": pyrate_limiter_sync,
            BY_HAND: by_hand.rate_limiter,
        },
        (Goal(("pyresilience",), 0.2),),
        shown=True,
    ),
    Case(
        "rate limiter, async",
        "Rate limiter, async",
        "async",
        {
            OURS: lambda: rate_limiter(limit=PLENTY, registry=Registry())(work_async),
            "pyresilience": lambda: pyresilience_limiter(work_async),
            "aiolimiter": aiolimiter_limiter,
            "pyrate-limiter": pyrate_limiter_async,
            "hyx": hyx_limiter,
            BY_HAND: by_hand.rate_limiter_async,
        },
    ),
    Case(
        "timeout, async",
        "Timeout, async, not fired",
        "async",
        {
            OURS: lambda: timeout(30.0, registry=Registry())(work_async),
            ASYNCIO_TIMEOUT: asyncio_timeout,
            "hyx": hyx_timeout,
            "interlock": lambda: interlock_timeout(work_async),
            "pyresilience": lambda: pyresilience_timeout(work_async),
            BY_HAND: by_hand_timeouts.timeout_async,
        },
        (Goal((ASYNCIO_TIMEOUT,), 0.35),),
        shown=True,
    ),
    Case(
        "timeout, sync",
        "Timeout, sync, not fired, on the main thread",
        "sync",
        {
            OURS: lambda: timeout(30.0, registry=Registry())(work),
            SETITIMER: setitimer,
            # These two run the body on another thread, and can't stop it.
            "interlock": lambda: interlock_timeout(work),
            "pyresilience": lambda: pyresilience_timeout(work),
            BY_HAND: by_hand_timeouts.timeout,
        },
        (Goal((SETITIMER,), 1.0),),
        shown=True,
    ),
)
