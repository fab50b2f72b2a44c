"""Lanes through the five usual policies, from everywhere that calls come from, and through policies with keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import trio

from resilient import bulkhead, circuit_breaker, fallback, pipeline, rate_limiter, retry, timeout
from tests.load.endurance_lane import Lane, Visit, visit, visit_and_wait, visit_async

THREADS = 4
TASKS = 50
KEYS = 100


class Shop(Lane):
    """The usual five around one function; all who share the registry share them."""

    def prepare(self) -> None:
        registry = self.registry
        self.policy = pipeline(
            "orders",
            fallback(default=-1, on=ConnectionError, registry=registry),
            retry(attempts=2, backoff=0.0, on=ConnectionError, registry=registry),
            circuit_breaker(failure_rate=0.9, registry=registry),
            bulkhead(max_concurrent=TASKS, registry=registry),
            timeout(600.0, registry=registry),
            registry=registry,
        )
        self.guarded: Callable[[Visit], int] = self.policy(visit)
        self.guarded_async: Callable[[Visit], Awaitable[int]] = self.policy(visit_async)
        self.guarded_waiting: Callable[[Visit], Awaitable[int]] = self.policy(visit_and_wait)

    def expected(self) -> dict[str, int]:
        tenth = self.calls // 10
        return {
            "fallback/orders/calls/applied": tenth,
            "fallback/orders/calls/not_needed": 9 * tenth,
            "retry/orders/calls/first_try": 8 * tenth,
            "retry/orders/calls/recovered": tenth,
            "retry/orders/calls/exhausted": tenth,
            "retry/orders/attempts/success": 9 * tenth,
            "retry/orders/attempts/retryable_failure": 3 * tenth,
            "circuit_breaker/orders/totals/success": 9 * tenth,
            "circuit_breaker/orders/totals/failure": 3 * tenth,
            "bulkhead/orders/totals/accepted": 12 * tenth,
            "timeout/orders/calls/completed": 12 * tenth,
            "pipeline/orders/calls/success": 9 * tenth,
            "pipeline/orders/calls/fallback": tenth,
            "events/retry_scheduled": 2 * tenth,
            "events/retry_exhausted": tenth,
            "events/fallback_applied": tenth,
        }


class Orders(Shop):
    """On the main thread."""

    def go(self, calls: int) -> None:
        for number in range(calls):
            self.guarded(Visit(number))


class OrdersOnThreads(Shop):
    def go(self, calls: int) -> None:
        def work() -> None:
            for number in range(calls // THREADS):
                self.guarded(Visit(number))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class OrdersAwaited(Shop):
    async def go_async(self, calls: int) -> None:
        for number in range(calls):
            await self.guarded_async(Visit(number))


class OrdersInTasks(Shop):
    async def go_async(self, calls: int) -> None:
        for start in range(0, calls, TASKS):
            await asyncio.gather(*(self.guarded_waiting(Visit(number)) for number in range(start, start + TASKS)))


class OrdersUnderTrio(Shop):
    def go(self, calls: int) -> None:
        async def work() -> None:
            for number in range(calls):
                await self.guarded_async(Visit(number))

        trio.run(work)


class Tenants(Lane):
    """State by key, with a new key for each call."""

    def prepare(self) -> None:
        registry = self.registry
        self.policy = pipeline(
            "tenants",
            circuit_breaker(key=self._key, max_keys=KEYS, registry=registry),
            bulkhead(max_concurrent=1, key=self._key, max_keys=KEYS, registry=registry),
            rate_limiter(limit=10**9, key=self._key, max_keys=KEYS, registry=registry),
            registry=registry,
        )
        self.guarded: Callable[[Visit], int] = self.policy(visit)
        self.guarded_async: Callable[[Visit], Awaitable[int]] = self.policy(visit_async)
        self._next = 0

    def _key(self, one: Visit) -> str:
        return f"tenant-{one.number}"

    def go(self, calls: int) -> None:
        for _ in range(calls):
            self._next += 1
            try:
                self.guarded(Visit(self._next))
            except ConnectionError:
                pass

    async def go_async(self, calls: int) -> None:
        for _ in range(calls):
            self._next += 1
            try:
                await self.guarded_async(Visit(self._next))
            except ConnectionError:
                pass

    def expected(self) -> dict[str, int]:
        fifth = self.calls // 5
        return {
            "circuit_breaker/tenants/totals/success": 4 * fifth,
            "circuit_breaker/tenants/totals/failure": fifth,
            "bulkhead/tenants/totals/accepted": 5 * fifth,
            "rate_limiter/tenants/totals/allowed": 5 * fifth,
            "pipeline/tenants/calls/success": 4 * fifth,
            "pipeline/tenants/calls/failure": fifth,
        }
