"""Limits, fallbacks and caches, shared by threads, two asyncio loops and trio at once.

Of hedge and failover `tests/policies/test_hedge.py` and `test_failover_invariants.py` tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Registry, bulkhead, fallback, pipeline, rate_limiter, stale, throttle
from tests.behaviour.kit import Backend
from tests.behaviour.sharing import CALLS, WORKERS, Neutral, on_all_at_once


@pytest.mark.parametrize("face", ["decorated", "called"])
def test_every_count_of_limits_and_fallbacks_is_exact(face: str, private: Registry) -> None:
    substitute = fallback(default="instead", registry=private)
    # Were the first of all to end a failure, the throttle would refuse with a probability of one half.
    throttling = throttle(k=10**6, window=10**6, max_rejection=1e-12, registry=private)
    limiter = rate_limiter(limit=10**6, registry=private)
    room = bulkhead(max_concurrent=3, max_queue=1000, registry=private)
    shared = pipeline("shared", substitute, throttling, limiter, room, registry=private)
    guarded = {backend: backend.guard(shared, lambda body: body()) for backend in WORKERS}
    lock = threading.Lock()
    inside = peak = 0

    async def work(backend: Backend, number: int) -> None:
        async def body() -> str:
            nonlocal inside, peak
            with lock:
                inside += 1
                peak = max(peak, inside)
            await backend.checkpoint()
            with lock:
                inside -= 1
            if number % 4 == 3:
                raise Neutral
            if number % 4 == 2:
                raise ConnectionError
            return "result"

        try:
            call = guarded[backend](body) if face == "decorated" else backend.called(shared, body)
            assert await call == ("instead" if number % 4 == 2 else "result")
        except Neutral:
            assert number % 4 == 3

    on_all_at_once(work)
    quarter = CALLS // 4 * len(WORKERS)
    assert 1 <= peak <= 3
    assert substitute.snapshot()["calls"] == {"not_needed": 2 * quarter, "applied": quarter, "failed": 0}
    counted: Any = throttling.snapshot()
    assert counted["totals"] == {"passed": 4 * quarter, "rejected": 0}
    assert (counted["requests"], counted["accepts"]) == (3 * quarter, 2 * quarter)
    assert limiter.snapshot()["totals"] == {"allowed": 4 * quarter, "delayed": 0, "rejected": 0}
    totals: Any = room.snapshot()["totals"]
    assert totals["accepted"] + totals["queued"] == sum(totals.values()) == 4 * quarter
    assert (room.in_flight, room.queued, room._permits.free) == (0, 0, 3)
    meter: Any = private.snapshot()["pipeline"]["shared"]
    assert meter["active"] == 0
    assert {outcome: count for outcome, count in meter["calls"].items() if count} == {
        "success": 2 * quarter,
        "fallback": quarter,
        "cancelled": quarter,
    }


def test_each_key_is_loaded_once_for_all_of_them(private: Registry) -> None:
    cache = stale(3600, 3600, name="shared", registry=private)
    loads: list[int] = []

    def guard(backend: Backend) -> Callable[..., Any]:
        async def load(key: int) -> int:
            loads.append(key)
            await backend.checkpoint()
            return key

        return backend.guard(cache, load)

    guarded = {backend: guard(backend) for backend in WORKERS}

    async def work(backend: Backend, number: int) -> None:
        assert await guarded[backend](number % 8) == number % 8

    on_all_at_once(work)
    counted: Any = cache.snapshot()
    # A cache tells functions apart, and these are six.
    assert sorted(loads) == sorted([*range(8)] * len(WORKERS))
    assert counted["calls"] == {"not_needed": CALLS * len(WORKERS), "applied": 0, "failed": 0}
    assert counted["from_memory"] + counted["shared"] + len(loads) == CALLS * len(WORKERS)
    assert cache._cache.loads == 0
