"""Waiting for somebody else's word, on threads and in tasks of either library."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, cast

import pytest
import trio

from resilient.core.clock import CLOCK
from resilient.drivers.tasks import running_backend
from resilient.drivers.waiters import TaskWaiter, ThreadWaiter, task_waiter
from tests.drivers.vloop import manual_time, run

Runner = Callable[[Callable[[], Awaitable[Any]]], Any]


def on_asyncio(main: Callable[[], Any]) -> Any:
    return asyncio.run(main())


def on_trio(main: Callable[[], Any]) -> Any:
    return trio.run(main)


async def pause() -> None:
    if running_backend() == "trio":
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


both = pytest.mark.parametrize("run_tasks", [on_asyncio, on_trio])


def test_importing_the_driver_imports_no_event_loop() -> None:
    code = (
        "import sys, resilient.drivers.waiters;"
        "print([name for name in ('asyncio', 'trio', 'anyio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Threads


def test_a_thread_is_woken_by_another() -> None:
    waiter = ThreadWaiter()
    other = threading.Thread(target=waiter.wake)
    other.start()
    assert waiter.wait_until(inf) is True
    other.join()


def test_a_word_before_the_wait_is_heard_and_one_after_another_does_no_harm() -> None:
    waiter = ThreadWaiter()
    assert [waiter.wake(), waiter.wake()] == [True, True]
    assert waiter.wait_until(inf) is True
    assert waiter.wake() is True


def test_a_wait_that_ends_in_the_past_is_none() -> None:
    assert ThreadWaiter().wait_until(CLOCK.now() - 1.0) is False
    assert ThreadWaiter().wait_until(-inf) is False


@pytest.mark.realtime
def test_a_thread_waits_as_long_as_it_may() -> None:
    started = time.monotonic()
    assert ThreadWaiter().wait_until(CLOCK.now() + 0.02) is False
    assert time.monotonic() - started >= 0.02


def test_under_virtual_time_a_thread_waits_until_somebody_moves_it() -> None:
    with manual_time() as clock:
        waiter = ThreadWaiter()
        result: list[bool] = []
        thread = threading.Thread(target=lambda: result.append(waiter.wait_until(105.0)))
        thread.start()
        while not clock.pending():
            time.sleep(0)
        clock.advance(4.9)
        thread.join(0.01)
        assert thread.is_alive()
        clock.advance(0.1)
        thread.join()
        assert result == [False]


def test_under_virtual_time_a_woken_thread_leaves_no_timer_behind() -> None:
    with manual_time() as clock:
        waiter = ThreadWaiter()
        waiter.wake()
        assert waiter.wait_until(105.0) is True
        assert clock.pending() == 0


# Tasks


@both
def test_a_task_is_woken_by_another_task_of_its_loop(run_tasks: Runner) -> None:
    async def main() -> bool:
        waiter = task_waiter()
        if running_backend() == "trio":
            async with trio.open_nursery() as nursery:

                async def wake() -> None:
                    waiter.wake()

                nursery.start_soon(wake)
                return await waiter.wait_until(inf)
        asyncio.get_running_loop().call_soon(waiter.wake)
        return await waiter.wait_until(inf)

    assert run_tasks(main) is True


@both
def test_a_task_is_woken_by_a_thread(run_tasks: Runner) -> None:
    async def main() -> bool:
        waiter = task_waiter()
        thread = threading.Thread(target=waiter.wake)
        thread.start()
        woken = await waiter.wait_until(inf)
        thread.join()
        return woken

    assert run_tasks(main) is True


@both
def test_a_task_hears_a_word_that_came_before_the_wait(run_tasks: Runner) -> None:
    async def main() -> bool:
        waiter = task_waiter()
        waiter.wake()
        waiter.wake()
        return await waiter.wait_until(inf)

    assert run_tasks(main) is True


@both
@pytest.mark.parametrize("already", [0.0, 1.0])
def test_a_task_waits_no_longer_than_it_may(run_tasks: Runner, already: float) -> None:
    async def main() -> bool:
        return await task_waiter().wait_until(CLOCK.now() - already)

    assert run_tasks(main) is False


def test_a_task_waits_as_long_as_it_may() -> None:
    async def main() -> tuple[bool, float]:
        woken = await task_waiter().wait_until(CLOCK.now() + 2.5)
        return woken, asyncio.get_running_loop().time()

    woken, now = run(main())
    assert not woken
    assert now == pytest.approx(2.5, abs=0.1)


@both
def test_under_virtual_time_a_task_waits_until_somebody_moves_it(run_tasks: Runner) -> None:
    async def main() -> tuple[bool, float]:
        with manual_time() as clock:

            def move() -> None:
                while not clock.pending():
                    time.sleep(0)
                clock.advance(5.0)

            thread = threading.Thread(target=move)
            thread.start()
            woken = await task_waiter().wait_until(105.0)
            thread.join()
            return woken, clock.now()

    assert run_tasks(main) == (False, 105.0)


@both
def test_under_virtual_time_a_woken_task_leaves_no_timer_behind(run_tasks: Runner) -> None:
    async def main() -> tuple[bool, int]:
        with manual_time() as clock:
            waiter = task_waiter()
            waiter.wake()
            return await waiter.wait_until(105.0), clock.pending()

    assert run_tasks(main) == (True, 0)


def test_a_cancellation_ends_the_wait_of_an_asyncio_task_and_leaves_no_timer() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(task_waiter().wait_until(CLOCK.now() + 60.0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]

    assert asyncio.run(main()) == 0


def test_a_cancellation_ends_the_wait_of_a_trio_task() -> None:
    async def main() -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await task_waiter().wait_until(inf)
        return scope.cancelled_caught

    assert trio.run(main) is True


def test_a_word_and_a_cancellation_at_once_leave_a_cancelled_task() -> None:
    async def main() -> bool:
        waiter = task_waiter()
        task: asyncio.Future[bool] = asyncio.ensure_future(cast("Any", waiter.wait_until(inf)))
        await asyncio.sleep(0)
        waiter.wake()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main()) is True


@both
def test_nobody_hears_a_word_after_the_end_of_the_loop(run_tasks: Runner) -> None:
    kept: list[TaskWaiter] = []

    async def main() -> None:
        kept.append(task_waiter())
        await pause()

    run_tasks(main)
    assert kept[0].wake() is False


def test_without_a_loop_there_is_no_task_to_wait() -> None:
    with pytest.raises(RuntimeError):
        task_waiter()


def test_a_waiter_of_one_loop_is_woken_from_within_another() -> None:
    async def main() -> bool:
        waiter = task_waiter()

        async def elsewhere() -> None:
            waiter.wake()

        # In a notebook trio runs inside a callback of asyncio's loop.
        trio.run(elsewhere)
        threading.Thread(target=asyncio.run, args=(elsewhere(),)).start()
        return await waiter.wait_until(inf)

    assert asyncio.run(main()) is True
