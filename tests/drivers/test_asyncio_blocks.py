"""Timeouts of asyncio tasks: whose cancellation it was, and what a call leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable
from typing import Any

import pytest

from resilient.drivers.tasks import TaskTimeouts
from tests.drivers.vloop import VirtualLoop, manual_time, run
from tests.drivers.within import TimeRanOut, within


def virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def task_count() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def test_a_block_outside_a_task_is_refused() -> None:
    async def main() -> list[str]:
        refused: list[str] = []

        def callback() -> None:
            with pytest.raises(RuntimeError, match="needs a task"):
                TaskTimeouts(1.0).block().enter()
            refused.append("refused")

        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
        return refused

    assert run(main()) == ["refused"]


def test_a_body_that_swallows_the_cancellation_keeps_its_result() -> None:
    async def body() -> str:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)
        return "result"

    async def main() -> None:
        assert await within(TaskTimeouts(3.0), body) == "result"
        assert task_count() == 0
        await asyncio.sleep(60.0)

    run(main())


@pytest.mark.parametrize("scoped", [False, True])
def test_outside_cancellation_at_the_very_instant_of_the_timeout_wins(scoped: bool) -> None:
    async def guarded() -> None:
        await within(TaskTimeouts(3.0, scoped=scoped), lambda: asyncio.sleep(60.0))

    async def main(first: str) -> int:
        loop = virtual_loop()
        task: asyncio.Task[None]
        if first == "cancel":
            loop.call_at(3.0, lambda: task.cancel())
        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        if first == "timeout":
            loop.call_at(3.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelling()

    assert run(main("cancel")) == 1
    assert run(main("timeout")) == 1


def test_the_count_of_cancellations_is_as_before_where_some_were_pending_already() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        assert task.cancelling() == 1
        with pytest.raises(TimeRanOut):
            await within(TaskTimeouts(3.0), lambda: asyncio.sleep(60.0))
        assert task.cancelling() == 1
        task.uncancel()

    run(main())


def test_tasks_of_one_duration_end_each_at_its_own_time() -> None:
    timeouts = TaskTimeouts(10.0)
    ended: dict[int, float] = {}

    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.25)
        body = 60.0 if number % 3 else 1.0
        try:
            await within(timeouts, lambda: asyncio.sleep(body))
        except TimeRanOut:
            ended[number] = virtual_loop().time()

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(200)))

    run(main())
    assert ended == {number: number * 0.25 + 10.0 for number in range(200) if number % 3}


def test_a_loop_with_a_coarse_clock_is_not_kept_spinning() -> None:
    async def main(body: Awaitable[Any]) -> float:
        loop = virtual_loop()
        loop._clock_resolution = 1.0
        waker = asyncio.create_task(asyncio.sleep(2.5))  # here the loop runs what is due before 3.5
        with pytest.raises((TimeRanOut, TimeoutError)):
            await body
        await waker
        return loop.time()

    async def with_asyncio() -> None:
        async with asyncio.timeout(3.0):
            await asyncio.sleep(60.0)

    assert run(main(with_asyncio())) == 2.5
    assert run(main(within(TaskTimeouts(3.0), lambda: asyncio.sleep(60.0)))) == 2.5


def test_ten_thousand_calls_leave_one_timer_and_nothing_else() -> None:
    timeouts = TaskTimeouts(30.0)

    async def quick() -> None:
        return None

    async def main() -> None:
        loop = virtual_loop()
        for _ in range(10_000):
            await within(timeouts, quick)
        assert loop.timers() == 1
        assert await within(timeouts, open_blocks) == 1
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(31.0)
        assert loop.timers() == 0
        await within(timeouts, quick)
        assert loop.timers() == 1

    async def open_blocks() -> int:
        (table,) = tables_of(timeouts)
        return len(table.blocks)

    run(main())


def tables_of(timeouts: TaskTimeouts) -> list[Any]:
    per_loop = timeouts._asyncio
    assert per_loop is not None
    return list(per_loop._tables.values())


def test_an_idle_table_goes_when_its_timer_has_run() -> None:
    timeouts = TaskTimeouts(30.0)

    async def main() -> None:
        await within(timeouts, lambda: asyncio.sleep(0))
        assert len(tables_of(timeouts)) == 1
        await asyncio.sleep(31.0)
        assert tables_of(timeouts) == []
        with pytest.raises(TimeRanOut):
            await within(timeouts, lambda: asyncio.sleep(60.0))

    run(main())


def test_a_loop_that_is_dropped_takes_its_table_along_even_with_calls_open() -> None:
    timeouts = TaskTimeouts(30.0)
    loop = VirtualLoop()
    task = loop.create_task(within(timeouts, lambda: asyncio.sleep(60.0)))
    loop.run_until_complete(asyncio.sleep(1.0))
    assert len(tables_of(timeouts)) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    gone = weakref.ref(loop), weakref.ref(task)
    del loop, task
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert tables_of(timeouts) == []


def test_a_block_that_was_left_keeps_no_task_alive() -> None:
    timeouts = TaskTimeouts(30.0)
    blocks: list[Any] = []

    async def guarded() -> None:
        block = timeouts.block()
        block.enter()
        blocks.append(block)
        block.exit(None)

    async def main() -> weakref.ref[asyncio.Task[None]]:
        task = asyncio.create_task(guarded())
        await task
        return weakref.ref(task)

    task = run(main())
    gc.collect()
    assert len(blocks) == 1
    assert task() is None


def test_the_timer_keeps_no_context_variable_of_a_call_alive() -> None:
    class Request:
        pass

    current: contextvars.ContextVar[Request] = contextvars.ContextVar("current")
    timeouts = TaskTimeouts(30.0)

    async def handle(request: Request) -> None:
        current.set(request)
        await within(timeouts, lambda: asyncio.sleep(0))

    async def main() -> None:
        request = Request()
        reference = weakref.ref(request)
        task = asyncio.create_task(handle(request))
        await task
        del task, request
        await asyncio.sleep(0)  # the turn in which a task ends still holds its context
        gc.collect()
        assert virtual_loop().timers() == 1
        assert reference() is None

    run(main())


def test_two_loops_on_two_threads_share_one_object() -> None:
    timeouts = TaskTimeouts(2.0)
    outcomes: list[tuple[int, int]] = []

    async def one(number: int) -> bool:
        try:
            await within(timeouts, lambda: asyncio.sleep(1.0 if number % 2 else 60.0))
        except TimeRanOut:
            assert virtual_loop().time() % 2.0 == 0.0
            return True
        return False

    async def main() -> tuple[int, int]:
        for _ in range(50):
            results = await asyncio.gather(*(one(number) for number in range(20)))
            assert results == [number % 2 == 0 for number in range(20)]
            assert task_count() == 0
        return 50 * 20, virtual_loop().timers()

    threads = [threading.Thread(target=lambda: outcomes.append(run(main()))) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [count for count, _ in outcomes] == [1000, 1000]


def test_a_late_message_from_virtual_time_hits_no_later_block() -> None:
    async def main() -> None:
        with manual_time() as virtual:
            timeouts = TaskTimeouts(3.0)

            async def body() -> str:
                virtual.advance(3.0)
                return "result"

            await within(timeouts, body)
            await within(timeouts, lambda: asyncio.sleep(0))
            assert task_count() == 0
            assert virtual.pending() == 0

    run(main())
