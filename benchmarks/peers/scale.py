"""Ten thousand policies, and ten thousand callers in one queue."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.peers.case import Case, Goal
from benchmarks.peers.measuring import Timer
from benchmarks.timing import time_sync, work
from resilient import PrometheusExporter, Registry, bulkhead, circuit_breaker, registry
from resilient.telemetry.collecting import MAX_SERIES, Collector
from resilient.telemetry.prometheus import ResilienceCollector

MANY = 10_000
PARTS = 31


def populate(policies: Registry) -> list[Any]:
    """Breakers with a function each, called once, so that all their series are there."""
    guarded = [circuit_breaker(f"upstream {number}", registry=policies)(work) for number in range(MANY)]
    for call in guarded:
        call()
    return guarded


class Population:
    """Ten thousand policies beside those that are measured, made when they are first needed."""

    def __init__(self) -> None:
        self._guarded: list[Any] = []

    def set(self, wanted: bool) -> None:
        if wanted and not self._guarded:
            self._guarded = populate(registry)
        elif not wanted and self._guarded:
            self._guarded = []
            registry.clear()
            gc.collect()


POPULATION = Population()


def snapshot() -> Timer:
    def time(loops: int) -> float:
        POPULATION.set(True)
        return time_sync(loops, registry.snapshot)

    return time


def scrape(series: int) -> Timer:
    """With at most so many series a metric."""
    from prometheus_client import CollectorRegistry, generate_latest

    POPULATION.set(True)
    target = CollectorRegistry()
    exporter = PrometheusExporter(registry=CollectorRegistry())
    target.register(ResilienceCollector(exporter, Collector(max_series=series), created=False, silent=False))
    if generate_latest(target).count(b"upstream ") < min(series, MANY):
        raise SystemExit("the scrape does not show the policies")

    def time(loops: int) -> float:
        POPULATION.set(True)
        return time_sync(loops, lambda: generate_latest(target))

    return time


def bytes_of(make: Callable[[Registry, int], object]) -> Timer:
    """Bytes that each of many takes, its name and its place in the registry included."""

    def measure(loops: int) -> float:
        POPULATION.set(False)
        policies = Registry()
        make(policies, -1)
        kept: list[object] = [None] * MANY
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(MANY):
                kept[number] = make(policies, number)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        policies.clear()
        return (after - before) / MANY

    return measure


def named(policies: Registry, number: int) -> object:
    return circuit_breaker(f"upstream {number}", registry=policies)


def in_use(policies: Registry, number: int) -> object:
    breaker = circuit_breaker(f"upstream {number}", registry=policies)
    guarded = breaker(work)
    guarded()
    return guarded


def call_among(many: bool) -> Timer:
    call = circuit_breaker("one of them", registry=Registry())(work)

    def time(loops: int) -> float:
        POPULATION.set(many)
        # The caches of the processor are full of what was just made. To make it takes so long that a slice can't be
        # taken again; the median of many short ones stands for it.
        time_sync(5_000, call)
        part = max(1, loops // PARTS)
        return median(time_sync(part, call) for _ in range(PARTS)) / part * loops

    return time


def bare_call_among() -> Timer:
    return lambda loops: time_sync(loops, work)


def turns(make: Callable[[], Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]], waiting: int) -> Timer:
    """Calls through one permit, with always so many others in the queue.

    Each task queues up again as soon as it has been served, so every call joins the end of the queue, waits, and is
    woken by the one before.
    """

    async def run(loops: int) -> float:
        through = make()
        served = started = ended = 0.0
        first = float(waiting + 1)

        async def body() -> None:
            nonlocal served, started, ended
            served += 1
            if served == first:
                started = perf_counter()
            elif served == first + loops:
                ended = perf_counter()
            await asyncio.sleep(0)

        async def caller() -> None:
            while not ended:
                await through(body)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(waiting + 1):
                tasks.create_task(caller())
        return ended - started

    return lambda loops: asyncio.run(run(max(loops, 1)))


def our_permit() -> Any:
    queue = bulkhead(max_concurrent=1, max_queue=2 * MANY, registry=Registry())

    @queue
    async def through(body: Callable[[], Awaitable[None]]) -> None:
        await body()

    return through


def permit_of_semaphore() -> Any:
    semaphore = asyncio.Semaphore(1)

    async def through(body: Callable[[], Awaitable[None]]) -> None:
        async with semaphore:
            await body()

    return through


CASES = (
    Case(
        "waiters",
        "Bulkhead, a call through its queue",
        "timers",
        {
            "1 waiter": lambda: turns(our_permit, 1),
            "10,000 waiters": lambda: turns(our_permit, MANY),
            "asyncio.Semaphore, 1 waiter": lambda: turns(permit_of_semaphore, 1),
            "asyncio.Semaphore, 10,000 waiters": lambda: turns(permit_of_semaphore, MANY),
        },
        (
            Goal(("1 waiter",), 1.10, "10,000 waiters"),
            Goal(("asyncio.Semaphore, 10,000 waiters",), None, "10,000 waiters"),
            # What the memory of ten thousand tasks costs anybody.
            Goal(("asyncio.Semaphore, 1 waiter",), None, "asyncio.Semaphore, 10,000 waiters"),
        ),
        # Twice through a full queue.
        fixed_loops=2 * MANY,
        rounds=5,
        last=True,
    ),
    Case(
        "policies",
        "Closed breaker among other policies",
        "timers",
        {"1 policy": lambda: call_among(False), "10,000 policies": lambda: call_among(True)},
        (Goal(("1 policy",), 1.10, "10,000 policies"),),
        bare=bare_call_among,
        rounds=5,
        slice_seconds=0.03,
        last=True,
    ),
    Case(
        "10,000 policies",
        "10,000 breakers in use",
        "numbers",
        {
            "snapshot": snapshot,
            "scrape": lambda: scrape(MAX_SERIES),
            "scrape without its bound on series": lambda: scrape(MANY),
        },
        (
            Goal((), 0.040, "snapshot", "itself"),
            Goal((), 0.500, "scrape", "itself"),
            Goal((), None, "scrape without its bound on series", "itself"),
        ),
        rounds=5,
        last=True,
    ),
    Case(
        "memory",
        "Memory of a breaker",
        "numbers",
        {"named": lambda: bytes_of(named), "in use, with its function": lambda: bytes_of(in_use)},
        (Goal((), 2_000, "named", "itself"), Goal((), None, "in use, with its function", "itself")),
        unit="byte",
        rounds=1,
        last=True,
    ),
)
