"""Lanes through all other policies and faces, and how many calls of the endurance run go through each lane."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

from resilient import (
    CircuitOpenError,
    RateLimitedError,
    TimeoutExceededError,
    bulkhead,
    circuit_breaker,
    failover,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    stale,
    throttle,
    timeout,
)
from tests.load.endurance_lane import Lane, Visit, visit, visit_async
from tests.load.endurance_shop import (
    KEYS,
    TASKS,
    Orders,
    OrdersAwaited,
    OrdersInTasks,
    OrdersOnThreads,
    OrdersUnderTrio,
    Tenants,
)

FOR_EVER = 10.0**6


class Outages(Lane):
    """Ten calls are one outage: five failures open the circuit, a probe closes it; it is tripped, refuses, is reset."""

    def prepare(self) -> None:
        self.policy = circuit_breaker(
            "outages", consecutive_failures=5, open_duration=lambda turn: 1e-9, registry=self.registry
        )

    def go(self, calls: int) -> None:
        for _ in range(calls // 10):
            for _ in range(5):
                with contextlib.suppress(OSError):
                    self.policy.call(_fail)
            self.policy.call(int)
            self.policy.trip(FOR_EVER)
            for _ in range(3):
                with contextlib.suppress(CircuitOpenError):
                    self.policy.call(int)
            self.policy.reset()
            with self.policy:
                pass

    async def go_async(self, calls: int) -> None:
        for _ in range(calls // 10):
            for _ in range(5):
                with contextlib.suppress(OSError):
                    await self.policy.call_async(_fail_async)
            await self.policy.call_async(_succeed)
            self.policy.trip(FOR_EVER)
            for _ in range(3):
                with contextlib.suppress(CircuitOpenError):
                    await self.policy.call_async(_succeed)
            self.policy.reset()
            async with self.policy:
                pass

    def expected(self) -> dict[str, int]:
        outages = self.calls // 10
        return {
            "circuit_breaker/outages/totals/success": 2 * outages,
            "circuit_breaker/outages/totals/failure": 5 * outages,
            "circuit_breaker/outages/totals/rejected": 3 * outages,
            "circuit_breaker/outages/transitions/closed->open": 2 * outages,
            "circuit_breaker/outages/transitions/open->half_open": outages,
            "circuit_breaker/outages/transitions/half_open->closed": outages,
            "circuit_breaker/outages/transitions/open->closed": outages,
            "events/circuit_state_changed": 5 * outages,
            "events/call_rejected": 3 * outages,
        }


class Memory(Lane):
    """A cache whose keys are asked for twice in a row and come again when they have been dropped."""

    def prepare(self) -> None:
        cache = stale(FOR_EVER, FOR_EVER, max_size=KEYS, key=_give_back, registry=self.registry)
        self.guarded = pipeline("memory", cache, registry=self.registry)(_give_back)

    def go(self, calls: int) -> None:
        for number in range(calls // 2):
            self.guarded(number)
            self.guarded(number)

    def expected(self) -> dict[str, int]:
        return {"stale/memory/calls/not_needed": self.calls, "stale/memory/keys": KEYS}


class Providers(Lane):
    def prepare(self) -> None:
        self.guarded = failover(
            ("primary", visit),
            ("replica", lambda one: one.number),
            deadline=600.0,
            name="providers",
            registry=self.registry,
        )

    def go(self, calls: int) -> None:
        for number in range(calls):
            self.guarded(Visit(number))

    def expected(self) -> dict[str, int]:
        return {
            "failover/providers/served/primary": self.calls // 10 * 8,
            "failover/providers/served/replica": self.calls // 10 * 2,
            "circuit_breaker/providers.primary/totals/failure": self.calls // 10 * 2,
            "events/fallback_applied": self.calls // 10 * 2,
        }


class Hedging(Lane):
    """The first attempt of a call in ten fails, and a hedge saves it; another's fail both."""

    name = "hedged"

    def prepare(self) -> None:
        self.policy = pipeline(self.name, hedge(delay=600.0, registry=self.registry), registry=self.registry)
        self.guarded: Callable[[Visit], int] = self.policy(visit)
        self.guarded_async: Callable[[Visit], Awaitable[int]] = self.policy(visit_async)

    def expected(self) -> dict[str, int]:
        tenth = self.calls // 10
        return {
            f"hedge/{self.name}/calls/not_hedged": 8 * tenth,
            f"hedge/{self.name}/calls/hedge_won": tenth,
            f"hedge/{self.name}/calls/failed": tenth,
            f"hedge/{self.name}/attempts/won": 9 * tenth,
            f"hedge/{self.name}/attempts/failed": 3 * tenth,
            f"pipeline/{self.name}/calls/success": 9 * tenth,
            f"pipeline/{self.name}/calls/failure": tenth,
            "events/hedge_started": 2 * tenth,
        }


class Hedged(Hedging):
    async def go_async(self, calls: int) -> None:
        for number in range(calls):
            try:
                await self.guarded_async(Visit(number))
            except ConnectionError:
                pass


class HedgedOnThreads(Hedging):
    name = "hedged_on_threads"

    def go(self, calls: int) -> None:
        for number in range(calls):
            try:
                self.guarded(Visit(number))
            except ConnectionError:
                pass


class Faces(Lane):
    """Of five calls two as blocks, one as a loop of attempts, two as generators."""

    def prepare(self) -> None:
        registry = self.registry
        self.policy = pipeline(
            "faces",
            throttle(k=10.0**6, window=FOR_EVER, registry=registry),
            circuit_breaker(registry=registry),
            bulkhead(max_concurrent=1, registry=registry),
            timeout(600.0, registry=registry),
            registry=registry,
        )
        self.attempts = retry(attempts=2, backoff=0.0, attempt_timeout=600.0, name="attempts", registry=registry)
        self.items = self.policy(_items)
        self.items_async = self.policy(_items_async)

    def go(self, calls: int) -> None:
        for number in range(calls // 5):
            for _ in range(2):
                with self.policy:
                    pass
            one = Visit(1 if number % 10 else 5)
            for attempt in self.attempts:
                with attempt:
                    one.made()
            for _ in range(2):
                list(self.items())

    async def go_async(self, calls: int) -> None:
        for number in range(calls // 5):
            for _ in range(2):
                async with self.policy:
                    pass
            one = Visit(1 if number % 10 else 5)
            async for attempt in self.attempts:
                with attempt:
                    one.made()
            for _ in range(2):
                async for _ in self.items_async():
                    pass

    def expected(self) -> dict[str, int]:
        fifth = self.calls // 5
        counted = (
            "circuit_breaker/faces/totals/success",
            "bulkhead/faces/totals/accepted",
            "pipeline/faces/calls/success",
        )
        return {
            **dict.fromkeys(counted, 4 * fifth),
            "throttle/faces/totals/passed": 4 * fifth,
            "timeout/faces/calls/completed": 4 * fifth,
            "retry/attempts/calls/first_try": 9 * fifth // 10,
            "retry/attempts/calls/recovered": fifth // 10,
            "events/retry_scheduled": fifth // 10,
        }


class Refused(Lane):
    """A rate limiter that lets one call through in the whole run."""

    def prepare(self) -> None:
        self.policy = rate_limiter("refused", limit=1, period=FOR_EVER, registry=self.registry)

    def go(self, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(RateLimitedError):
                self.policy.call(int)

    async def go_async(self, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(RateLimitedError):
                await self.policy.call_async(_succeed)

    def expected(self) -> dict[str, int]:
        return {
            "rate_limiter/refused/totals/allowed": 1,
            "rate_limiter/refused/totals/rejected": self.calls - 1,
            "events/call_rejected": self.calls - 1,
        }


class Ended(Lane):
    """Bodies that a timeout ends, on the main thread and in tasks, and tasks that are cancelled in a queue."""

    def prepare(self) -> None:
        self.late = timeout(0.001, name="late", registry=self.registry)
        self.queue = bulkhead("queue", max_concurrent=1, max_queue=TASKS, registry=self.registry)

    def go(self, calls: int) -> None:
        for _ in range(calls):
            with contextlib.suppress(TimeoutExceededError):
                self.late.call(time.sleep, 600.0)

    async def go_async(self, calls: int) -> None:
        for _ in range(calls // 10):
            ends = await asyncio.gather(*(self.late.call_async(_hang) for _ in range(5)), return_exceptions=True)
            assert [type(end) for end in ends] == [TimeoutExceededError] * 5
            tasks = [asyncio.create_task(self.queue.call_async(_hang)) for _ in range(5)]
            await asyncio.sleep(0)
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def expected(self) -> dict[str, int]:
        return {
            "timeout/late/calls/timed_out": self.calls // 4 * 3,
            "bulkhead/queue/totals/accepted": self.calls // 20,
            "pipeline/queue/calls/cancelled": self.calls // 4,
            "events/timed_out": self.calls // 4 * 3,
        }


# How many of ten thousand calls go through each.
SHARES: dict[type[Lane], int] = {
    Orders: 3_400,
    OrdersOnThreads: 1_000,
    OrdersAwaited: 2_000,
    OrdersInTasks: 1_000,
    OrdersUnderTrio: 400,
    Tenants: 800,
    Outages: 300,
    Memory: 300,
    Providers: 300,
    Hedged: 100,
    HedgedOnThreads: 20,
    Faces: 200,
    Refused: 160,
    Ended: 20,
}
assert sum(SHARES.values()) == 10_000


def _items() -> Iterator[int]:
    yield 1
    yield 2


async def _items_async() -> Any:
    yield 1
    yield 2


def _give_back(number: int) -> int:
    return number


def _fail() -> NoReturn:
    raise ConnectionError


async def _fail_async() -> NoReturn:
    raise ConnectionError


async def _succeed() -> None:
    pass


async def _hang() -> None:
    await asyncio.sleep(600.0)
