"""The async bulkheads of all libraries: so many calls at once, and room for others to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peer_bugs.tables import OURS

Body = Callable[[], Awaitable[Any]]
Bulkhead = Callable[[Body], Awaitable[Any]]
Maker = Callable[[int, int], Bulkhead]
"""From the calls at once, and the calls that may wait."""


def in_block(block: Any) -> Bulkhead:
    async def run(body: Body) -> Any:
        async with block:
            return await body()

    return run


def ours(at_once: int, waiting: int) -> Any:
    from resilient import Registry, bulkhead

    return bulkhead(max_concurrent=at_once, max_queue=waiting, registry=Registry())


def hyx_(at_once: int, waiting: int) -> Any:
    from hyx.bulkhead import bulkhead

    return bulkhead(max_concurrency=at_once, max_capacity=at_once + waiting)


def hyx_decorator(at_once: int, waiting: int) -> Bulkhead:
    @hyx_(at_once, waiting)
    async def run(body: Body) -> Any:
        return await body()

    return run  # type: ignore[no-any-return]


def interlock_(at_once: int, waiting: int) -> Bulkhead:
    from interlock import Pipeline

    @Pipeline.builder().bulkhead(at_once, max_wait=5.0).build()
    async def run(body: Body) -> Any:
        return await body()

    return run


def pyresilience_(at_once: int, waiting: int) -> Bulkhead:
    from pyresilience import BulkheadConfig, resilient

    @resilient(bulkhead=BulkheadConfig(max_concurrent=at_once, max_wait=5.0))
    async def run(body: Body) -> Any:
        return await body()

    return run


BULKHEADS: dict[tuple[str, str], Maker] = {
    (OURS, "call"): lambda at_once, waiting: ours(at_once, waiting).call_async,
    (OURS, "async with"): lambda at_once, waiting: in_block(ours(at_once, waiting)),
    ("hyx", "decorator"): hyx_decorator,
    ("hyx", "async with"): lambda at_once, waiting: in_block(hyx_(at_once, waiting)),
    ("interlock-cb", "pipeline"): interlock_,
    ("pyresilience", "decorator"): pyresilience_,
}
