"""What counting costs: a guarded call against the same call with its meters taken out.

    python benchmarks/bench_metrics.py --fast

Compare the rows of one run: their difference is the price of `resilience.call.*`, which nobody can switch off. What
the policies count of themselves is in both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pyperf

from resilient import Registry, circuit_breaker, pipeline, retry, timeout
from resilient.decorate import bare_async, bare_sync
from resilient.operation import Operation


def work() -> int:
    return 1


async def work_async() -> int:
    return 1


def unmetered(guard: Any) -> Callable[[], object]:
    operation = operation_of(guard)
    guard._compile_sync(bare_sync(work), operation)
    call = operation.call

    def plain(*args: Any, **kwargs: Any) -> object:
        return call(args, kwargs)

    return plain


def unmetered_async(guard: Any) -> Callable[[], Awaitable[object]]:
    operation = operation_of(guard)
    guard._compile_async(bare_async(work_async), operation)
    call: Any = operation.call

    async def plain(*args: Any, **kwargs: Any) -> object:
        result: object = await call(args, kwargs)
        return result

    return plain


def operation_of(guard: Any) -> Operation:
    operation: Operation = guard._operation("work")
    return operation


def guards() -> dict[str, Any]:
    registry = Registry()
    return {
        "circuit_breaker": pipeline(circuit_breaker(registry=registry)),
        "retry + circuit_breaker + timeout": pipeline(
            retry(registry=registry), circuit_breaker(registry=registry), timeout(30.0, registry=registry)
        ),
    }


def time_sync(loops: int, call: Callable[[], object]) -> float:
    calls = range(loops)
    started = pyperf.perf_counter()
    for _ in calls:
        call()
    return pyperf.perf_counter() - started


def time_async(loops: int, call: Callable[[], Awaitable[object]]) -> float:
    async def run() -> float:
        calls = range(loops)
        started = pyperf.perf_counter()
        for _ in calls:
            await call()
        return pyperf.perf_counter() - started

    return asyncio.run(run())


def main() -> None:
    runner = pyperf.Runner()
    for name, guard in guards().items():
        runner.bench_time_func(f"sync: {name}", time_sync, guard(work))
        runner.bench_time_func(f"sync: {name}, no meters", time_sync, unmetered(guard))
    for name, guard in guards().items():
        runner.bench_time_func(f"async: {name}", time_async, guard(work_async))
        runner.bench_time_func(f"async: {name}, no meters", time_async, unmetered_async(guard))


if __name__ == "__main__":
    main()
