"""The queue before a bulkhead: its order, and waiters that are not there any more when their turn comes."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

from resilient import BulkheadFullError
from tests.policies.bulkhead_kit import Hold, at_rest, fresh, until


def test_first_come_first_served_between_threads_asyncio_and_trio() -> None:
    policy = fresh(max_concurrent=1, max_queue=8)
    order: list[int] = []

    async def enter(index: int) -> None:
        async with policy:
            order.append(index)

    def arrive(index: int) -> None:
        kind = index % 3
        if kind == 0:
            policy.call(order.append, index)
        elif kind == 1:
            asyncio.run(enter(index))
        else:
            trio.run(enter, index)

    hold = Hold(policy)
    threads = []
    for index in range(8):
        threads.append(threading.Thread(target=arrive, args=(index,)))
        threads[-1].start()
        until(lambda count=index + 1: policy.queued == count)  # type: ignore[misc]
    with pytest.raises(BulkheadFullError, match="and 8 calls wait already"):
        policy.call(order.append, 99)
    hold.leave()
    for thread in threads:
        thread.join(10.0)
    assert order == list(range(8))
    assert at_rest(policy)


def test_a_cancelled_waiter_never_stops_the_queue() -> None:
    policy = fresh(max_concurrent=1, max_queue=3)
    order: list[str] = []

    async def enter(name: str) -> None:
        async with policy:
            order.append(name)

    async def main() -> None:
        async with policy:
            tasks = [asyncio.create_task(enter(name)) for name in ("first", "second", "third")]
            while policy.queued < 3:
                await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.sleep(0)
        # The permit is on its way to the second, which is cancelled before it can use it.
        tasks[1].cancel()
        await asyncio.wait(tasks)

    asyncio.run(main())
    assert order == ["third"]
    assert at_rest(policy)


def test_a_permit_for_a_task_of_a_closed_loop_goes_to_the_next() -> None:
    policy = fresh(max_concurrent=1, max_queue=2)
    hold = Hold(policy)
    loop = asyncio.new_event_loop()

    async def enter() -> None:
        async with policy:
            raise AssertionError

    task = loop.create_task(enter())
    while policy.queued < 1:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(policy.call, lambda: "in")
        until(lambda: policy.queued == 2)
        hold.leave()
        assert waiting.result(10.0) == "in"
    assert at_rest(policy)
    # What is left of the task is thrown away at last: it has no permit to give back.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    coroutine.close()
    assert at_rest(policy)


def test_a_waiting_task_that_is_thrown_away_with_a_permit_on_its_way_gives_it_back() -> None:
    policy = fresh(max_concurrent=1, max_queue=2)
    hold = Hold(policy)
    loop = asyncio.new_event_loop()

    async def enter() -> None:
        async with policy:
            raise AssertionError

    task = loop.create_task(enter())
    while policy.queued < 1:
        loop.run_until_complete(asyncio.sleep(0))
    hold.leave()
    assert policy.in_flight == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    coroutine.close()
    loop.close()
    assert at_rest(policy)
