"""What every benchmark here times: a function that does nothing, called many times over, by threads or by a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter


def work() -> int:
    return 1


async def work_async() -> int:
    return 1


def time_sync(loops: int, call: Callable[[], object]) -> float:
    """Seconds for so many calls."""
    calls = range(loops)
    started = perf_counter()
    for _ in calls:
        call()
    return perf_counter() - started


async def time_awaited(loops: int, call: Callable[[], Awaitable[object]]) -> float:
    """Seconds for so many awaited calls, one after the other."""
    calls = range(loops)
    started = perf_counter()
    for _ in calls:
        await call()
    return perf_counter() - started


def time_async(loops: int, call: Callable[[], Awaitable[object]]) -> float:
    """The same in an event loop of its own."""
    return asyncio.run(time_awaited(loops, call))
