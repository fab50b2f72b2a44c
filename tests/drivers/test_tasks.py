"""Waiting in tasks, and timeouts of tasks, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from resilient.drivers.tasks import TaskTimeouts, running_backend, sleep
from tests.drivers.vloop import manual_time, run
from tests.drivers.within import TimeRanOut, within


def task_count() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def test_importing_the_driver_imports_no_event_loop() -> None:
    code = (
        "import sys, resilient.drivers.tasks, resilient.drivers.threads;"
        "print([name for name in ('asyncio', 'trio', 'anyio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_backend_is_that_of_the_thread_that_asks() -> None:
    seen: dict[str, object] = {"nothing": running_backend()}

    async def on_asyncio() -> None:
        seen["asyncio"] = running_backend()
        seen["helper thread"] = await asyncio.to_thread(running_backend)
        seen["trio inside asyncio"] = trio.run(on_trio)
        seen["asyncio again"] = running_backend()

    async def on_trio() -> object:
        return running_backend()

    asyncio.run(on_asyncio())  # a virtual loop would not wait for the helper thread
    assert seen == {
        "nothing": None,
        "asyncio": "asyncio",
        "helper thread": None,
        "trio inside asyncio": "trio",
        "asyncio again": "asyncio",
    }


# Sleeping


def test_sleep_lets_the_loop_of_either_library_run_for_that_long() -> None:
    async def on_asyncio() -> float:
        await sleep(2.5)
        return asyncio.get_running_loop().time()

    async def on_trio() -> float:
        start = trio.current_time()
        await sleep(2.5)
        return trio.current_time() - start

    assert run(on_asyncio()) == 2.5
    assert trio.run(on_trio, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(2.5)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_sleep_of_no_time_still_lets_other_tasks_run(seconds: float) -> None:
    async def main() -> list[str]:
        order: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(note, order)
            await sleep(seconds)
            await sleep(seconds)
            order.append("sleeper")
        return order

    async def note(order: list[str]) -> None:
        order.append("other")

    assert run(main()) == ["other", "sleeper"]
    assert trio.run(main) == ["other", "sleeper"]


def test_cancelling_ends_a_sleep_at_once() -> None:
    async def on_asyncio() -> float:
        task = asyncio.create_task(sleep(60.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time()

    async def on_trio() -> float:
        start = trio.current_time()
        with trio.move_on_after(1.0):
            await sleep(60.0)
        return trio.current_time() - start

    assert run(on_asyncio()) == 1.0
    assert trio.run(on_trio, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(1.0)


def test_a_sleep_under_virtual_time_is_recorded_and_delivers_a_cancellation() -> None:
    async def main() -> bool:
        ended = False
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sleep(30.0)
            ended = True
        return ended

    for runner in (run_main(main), trio_main(main)):
        with manual_time() as virtual:
            assert runner() is False
            assert virtual.waits == [30.0]
            assert virtual.now() == 130.0


def run_main(main: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: run(main())


def trio_main(main: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


BACKENDS = [pytest.param(run_main, id="asyncio"), pytest.param(trio_main, id="trio")]
SCOPED = [pytest.param(False, id="native"), pytest.param(True, id="scoped")]
Backend = Callable[[Callable[[], Any]], Callable[[], Any]]


# On every loop, native and scoped


@pytest.mark.parametrize("scoped", SCOPED)
@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryFlavour:
    def test_a_body_that_takes_too_long_is_ended_at_its_time(self, backend: Backend, scoped: bool) -> None:
        async def main() -> float:
            start = anyio.current_time()
            with pytest.raises(TimeRanOut):
                await within(TaskTimeouts(3.0, scoped=scoped), anyio.sleep_forever)
            if running_backend() == "asyncio":
                assert task_count() == 0
            return anyio.current_time() - start

        assert backend(main)() == pytest.approx(3.0)

    def test_a_shorter_time_for_one_entry_holds_for_that_entry(self, backend: Backend, scoped: bool) -> None:
        timeouts = TaskTimeouts(3.0, scoped=scoped)

        async def main() -> list[float]:
            taken: list[float] = []
            for seconds in (1.0, None, 0.0, -1.0):
                start = anyio.current_time()
                with pytest.raises(TimeRanOut):
                    await within(timeouts, anyio.sleep_forever, seconds)
                taken.append(anyio.current_time() - start)
            return taken

        assert backend(main)() == pytest.approx([1.0, 3.0, 0.0, 0.0])

    def test_a_result_in_time_is_handed_back(self, backend: Backend, scoped: bool) -> None:
        async def body() -> str:
            await anyio.sleep(2.0)
            return "result"

        async def main() -> Any:
            result = await within(TaskTimeouts(3.0, scoped=scoped), body)
            await anyio.sleep(60.0)
            return result

        assert backend(main)() == "result"

    def test_the_bodys_own_timeout_error_is_not_ours(self, backend: Backend, scoped: bool) -> None:
        own = TimeoutError("own")

        async def body() -> None:
            raise own

        async def main() -> None:
            with pytest.raises(TimeoutError) as caught:
                await within(TaskTimeouts(3.0, scoped=scoped), body)
            assert caught.value is own

        backend(main)()

    def test_what_the_body_raises_after_it_was_ended_passes(self, backend: Backend, scoped: bool) -> None:
        async def body() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("while cleaning up")

        async def main() -> None:
            with pytest.raises(ValueError, match="while cleaning up"):
                await within(TaskTimeouts(3.0, scoped=scoped), body)
            await anyio.sleep(1.0)

        backend(main)()

    def test_the_outer_of_two_wins_where_it_is_the_nearer(self, backend: Backend, scoped: bool) -> None:
        async def main() -> None:
            inner, outer = TaskTimeouts(5.0, scoped=scoped), TaskTimeouts(2.0, scoped=scoped)

            async def body() -> None:
                with pytest.raises(BaseException) as caught:  # noqa: PT011
                    await within(inner, anyio.sleep_forever)
                assert isinstance(caught.value, anyio.get_cancelled_exc_class())
                raise caught.value

            with pytest.raises(TimeRanOut):
                await within(outer, body)
            await anyio.sleep(60.0)

        backend(main)()

    @pytest.mark.parametrize("cancel_at", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    def test_a_cancellation_from_outside_stays_one_wherever_it_lands(
        self, backend: Backend, scoped: bool, cancel_at: float
    ) -> None:
        reached: list[str] = []

        async def body() -> None:
            await anyio.sleep(0)
            await anyio.sleep(1.0)
            try:
                await anyio.sleep(1.0)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.25)
            await anyio.sleep(1.0)

        async def guarded(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    await within(TaskTimeouts(3.0, scoped=scoped), body)
                except BaseException as error:
                    reached.append(type(error).__name__)
                    raise
            reached.append("scope closed")

        async def main() -> None:
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as group:
                group.start_soon(guarded, scope)
                await anyio.sleep(cancel_at)
                scope.cancel()
            await anyio.sleep(60.0)

        backend(main)()
        assert reached in (["CancelledError", "scope closed"], ["Cancelled", "scope closed"])

    def test_virtual_time_ends_a_waiting_body(self, backend: Backend, scoped: bool) -> None:
        outcome: list[str] = []

        async def guarded() -> None:
            with pytest.raises(TimeRanOut):
                await within(TaskTimeouts(3.0, scoped=scoped), anyio.sleep_forever)
            outcome.append("timed out")

        async def main() -> None:
            with manual_time() as virtual:
                async with anyio.create_task_group() as group:
                    group.start_soon(guarded)
                    await anyio.wait_all_tasks_blocked()
                    virtual.advance(2.9)
                    await anyio.wait_all_tasks_blocked()
                    assert outcome == []
                    virtual.advance(0.1)
                assert virtual.pending() == 0
            assert outcome == ["timed out"]

        backend(main)()

    @pytest.mark.realtime
    def test_virtual_time_may_be_moved_by_another_thread(self, backend: Backend, scoped: bool) -> None:
        async def main() -> float:
            with manual_time() as virtual:
                mover = threading.Timer(0.05, virtual.advance, [3.0])  # by then the loop waits for nothing else
                start = time.perf_counter()

                async def body() -> None:
                    mover.start()
                    with anyio.fail_after(10.0):
                        await anyio.sleep_forever()

                with pytest.raises(TimeRanOut):
                    await within(TaskTimeouts(3.0, scoped=scoped), body)
                mover.join()
                return time.perf_counter() - start

        assert (asyncio.run(main()) if backend is run_main else trio.run(main)) < 5.0

    @pytest.mark.parametrize("seconds", [0.0, -1.0])
    def test_under_virtual_time_too_no_time_left_ends_the_body_at_its_first_wait(
        self, backend: Backend, scoped: bool, seconds: float
    ) -> None:
        async def main() -> None:
            with manual_time() as virtual:
                with pytest.raises(TimeRanOut):
                    await within(TaskTimeouts(3.0, scoped=scoped), lambda: anyio.sleep(1.0), seconds)
                assert virtual.now() == 100.0

        backend(main)()

    def test_a_block_left_in_time_leaves_nothing_with_virtual_time(self, backend: Backend, scoped: bool) -> None:
        async def main() -> None:
            with manual_time() as virtual:
                await within(TaskTimeouts(3.0, scoped=scoped), lambda: anyio.sleep(0))
                assert virtual.pending() == 0
                virtual.advance(3.0)
                await anyio.sleep(0)

        backend(main)()

    def test_a_policys_own_sleep_under_virtual_time_is_ended_by_the_timeout(
        self, backend: Backend, scoped: bool
    ) -> None:
        async def main() -> None:
            with manual_time() as virtual:
                for _ in range(20):  # trio runs the tasks of one turn in random order
                    with pytest.raises(TimeRanOut):
                        await within(TaskTimeouts(3.0, scoped=scoped), lambda: sleep(10.0))
                assert virtual.waits == [10.0] * 20

        backend(main)()

    def test_a_result_wins_that_is_there_when_virtual_time_passes_the_deadline(
        self, backend: Backend, scoped: bool
    ) -> None:
        async def main() -> None:
            with manual_time() as virtual:

                async def body() -> str:
                    virtual.advance(10.0)
                    return "result"

                assert await within(TaskTimeouts(3.0, scoped=scoped), body) == "result"
                assert virtual.pending() == 0
                if running_backend() == "asyncio":
                    assert task_count() == 0
                # No cancellation of the block may reach what follows it.
                for _ in range(3):
                    await anyio.sleep(0)

        backend(main)()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scoped_timeout_waits_for_a_shielded_anyio_scope(backend: Backend) -> None:
    committed: list[float] = []

    async def body() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(5.0)
            committed.append(anyio.current_time())
        await anyio.sleep_forever()

    async def main() -> float:
        start = anyio.current_time()
        with pytest.raises(TimeRanOut):
            await within(TaskTimeouts(3.0, scoped=True), body)
        return anyio.current_time() - start

    assert backend(main)() == pytest.approx(5.0)
    assert len(committed) == 1


def test_errors_beside_the_cancellation_are_what_is_left_on_trio() -> None:
    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_ended)
            await trio.sleep_forever()

    async def fail_when_ended() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("child")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await within(TaskTimeouts(3.0), body)
        assert [type(error) for error in caught.value.exceptions] == [ValueError]

    trio_main(main)()
