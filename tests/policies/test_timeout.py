"""Timeout: what each kind of interrupt does, on which thread, and the deadline. The rest is in tests/behaviour."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import trio

from resilient import (
    ConfigurationError,
    Registry,
    Timeout,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    timeout,
)
from resilient.drivers.interrupts import TimeoutInterrupt
from resilient.testing import FakeClock, RecordedEvents, disabled
from tests.policies.interrupting import interrupted_at

PATIENCE = 20.0


@pytest.fixture
def private() -> Registry:
    return Registry()


def on_another_thread(call: Callable[[], Any]) -> Any:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def calls_of(limit: Timeout) -> tuple[int, int]:
    """Completed and timed out."""
    calls: Any = limit.snapshot()["calls"]
    return calls["completed"], calls["timed_out"]


class TestSettings:
    @pytest.mark.parametrize(
        "arguments, settings, named",
        [
            ((0,), {}, "seconds=0"),
            ((-1,), {}, "seconds=-1"),
            ((float("inf"),), {}, "seconds=inf"),
            ((True,), {}, "seconds=True"),
            (("2",), {}, "seconds='2'"),
            ((timedelta(0),), {}, "seconds="),
            ((1.0,), {"interrupt": "kill"}, "interrupt='kill'"),
            ((1.0,), {"interrupt": True}, "interrupt=True"),
            ((1.0,), {"name": " "}, "name=' '"),
            ((str,), {}, r"@timeout\(2.0\)"),
        ],
    )
    def test_a_wrong_one_is_refused_at_once_and_named(
        self, arguments: tuple[Any, ...], settings: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=named):
            timeout(*arguments, **settings)

    def test_a_timedelta_is_seconds(self, private: Registry) -> None:
        assert timeout(timedelta(minutes=1), registry=private).seconds == 60.0

    def test_one_name_is_one_policy(self, private: Registry) -> None:
        assert timeout(2, name="payments", registry=private) is timeout(2.0, name="payments", registry=private)
        with pytest.raises(ConfigurationError, match=r"seconds=3.0, registered with seconds=2.0"):
            timeout(3, name="payments", registry=private)

    def test_the_error_says_what_happened_and_what_to_do(self, private: Registry, fake_clock: FakeClock) -> None:
        with pytest.raises(TimeoutExceededError, match=r"^timeout 'payments': not finished within 1\.5 s\. Allow more"):
            timeout(1.5, name="payments", registry=private).call(fake_clock.advance, 2.0)


class TestOnTheMainThread:
    @pytest.mark.realtime
    @pytest.mark.parametrize("interrupt", ["auto", "always", "scope"])
    def test_a_blocking_system_call_is_broken(self, interrupt: Any, private: Registry) -> None:
        reader, writer = socket.socketpair()
        begun = time.monotonic()
        with reader, writer, pytest.raises(TimeoutExceededError):
            timeout(0.05, interrupt=interrupt, registry=private).call(reader.recv, 1)
        assert 0.04 < time.monotonic() - begun < 10.0

    @pytest.mark.realtime
    def test_a_queue_that_was_waited_for_is_not_left_locked(self, private: Registry) -> None:
        waited_for: queue.Queue[None] = queue.Queue()
        with pytest.raises(TimeoutExceededError), timeout(0.05, registry=private):
            waited_for.get()
        waited_for.put_nowait(None)
        assert waited_for.get_nowait() is None

    @pytest.mark.realtime
    def test_with_never_the_call_takes_as_long_as_it_takes(self, private: Registry) -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            timeout(0.02, interrupt="never", registry=private).call(time.sleep, 0.1)
        assert time.monotonic() - begun >= 0.1

    def test_inside_the_body_it_is_no_exception(self, private: Registry, fake_clock: FakeClock) -> None:
        seen: list[BaseException] = []

        def body() -> None:
            try:
                fake_clock.advance(5.0)
            except Exception:
                raise AssertionError("swallowed") from None
            except BaseException as error:
                seen.append(error)
                raise

        with pytest.raises(TimeoutExceededError) as caught:
            timeout(3.0, registry=private).call(body)
        assert type(seen[0]) is TimeoutInterrupt
        assert caught.value.__cause__ is seen[0]

    def test_a_body_that_swallows_it_all_the_same_is_late(self, private: Registry, fake_clock: FakeClock) -> None:
        def stubborn() -> str:
            try:
                fake_clock.advance(5.0)
            except BaseException:
                pass
            return "result"

        limit = timeout(3.0, registry=private)
        with pytest.raises(TimeoutExceededError):
            limit.call(stubborn)
        assert calls_of(limit) == (0, 1)

    def test_an_interrupt_at_any_instruction_of_a_block_never_escapes_it(self, fake_clock: FakeClock) -> None:
        outcomes: set[str] = set()
        for instruction in count():
            registry = Registry()
            limit = timeout(3.0, name="block", registry=registry)
            breaker = circuit_breaker("block", registry=registry)
            guarding = pipeline("block", breaker, limit, registry=registry)

            def block(guarding: Any = guarding) -> str:
                with guarding:
                    str(guarding)
                return "the end"

            try:
                reached = interrupted_at(instruction, block, fake_clock)
            except TimeoutExceededError:
                outcomes.add("timed out")
                assert calls_of(limit) == (0, 1)
            else:
                if not reached:
                    break
                outcomes.add("the end")
                assert calls_of(limit) == (1, 0)
            fake_clock.advance(60.0)
            assert current_deadline() is None
            counted: Any = registry.snapshot()["pipeline"]["block"]
            assert (counted["active"], sum(counted["calls"].values())) == (0, 1), instruction
            totals: Any = breaker.snapshot()["totals"]
            assert sum(totals.values()) == 1
        assert outcomes == {"timed out", "the end"}

    def test_a_block_works_in_an_exit_stack(self, private: Registry, fake_clock: FakeClock) -> None:
        with pytest.raises(TimeoutExceededError), ExitStack() as stack:
            stack.enter_context(timeout(3.0, interrupt="never", registry=private))
            fake_clock.advance(5.0)
        assert current_deadline() is None

    def test_where_the_application_has_the_signal_only_the_deadline_is_left(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        reached: list[str] = []

        def body() -> None:
            fake_clock.advance(5.0)
            reached.append("the end")

        def application(number: int, frame: object) -> None: ...

        child = os.fork()
        if child == 0:
            # A process of its own: what was found out about the main thread is kept.
            status = 1
            try:
                signal.signal(signal.SIGURG, application)
                try:
                    timeout(3.0, registry=private).call(body)
                except TimeoutExceededError:
                    status = 0 if reached == ["the end"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestOnOtherThreads:
    def test_auto_throws_nothing_into_the_body_and_a_late_result_raises(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        limit = timeout(3.0, registry=private)
        reached: list[str] = []

        def late() -> str:
            fake_clock.advance(3.0)
            reached.append("the end")
            return "late"

        with pytest.raises(TimeoutExceededError):
            on_another_thread(lambda: limit.call(late))
        assert reached == ["the end"]
        assert calls_of(limit) == (0, 1)

    def test_a_late_block_raises_at_its_end(self, private: Registry, fake_clock: FakeClock) -> None:
        reached: list[str] = []

        def block() -> None:
            with timeout(3.0, registry=private):
                fake_clock.advance(5.0)
                reached.append("the end")
            reached.append("after it")

        with pytest.raises(TimeoutExceededError):
            on_another_thread(block)
        assert reached == ["the end"]

    def test_a_late_error_of_the_bodys_own_stays_its_own(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, registry=private)
        own = ValueError("late")

        def late() -> None:
            fake_clock.advance(5.0)
            raise own

        def late_block() -> None:
            with limit:
                late()

        for call in (lambda: limit.call(late), late_block):
            with pytest.raises(ValueError, match="late") as caught:
                on_another_thread(call)
            assert caught.value is own
        assert calls_of(limit) == (2, 0)

    def test_the_deadline_is_there_to_read(self, private: Registry, fake_clock: FakeClock) -> None:
        def body() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining()

        assert on_another_thread(lambda: timeout(3.0, registry=private).call(body)) == 3.0

    @pytest.mark.realtime
    def test_always_interrupts_python_code_there(self, private: Registry) -> None:
        limit = timeout(0.05, interrupt="always", registry=private)

        def spin() -> None:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                pass

        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            on_another_thread(lambda: limit.call(spin))
        assert time.monotonic() - begun < PATIENCE / 2
        assert calls_of(limit) == (0, 1)

    @pytest.mark.realtime
    def test_always_lets_a_blocking_call_there_end_first(self, private: Registry) -> None:
        limit = timeout(0.02, interrupt="always", registry=private)
        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            on_another_thread(lambda: limit.call(time.sleep, 0.2))
        assert time.monotonic() - begun >= 0.2


class TestHelperThread:
    @contextmanager
    def body_that_runs_on(self) -> Iterator[tuple[Callable[[], str], threading.Event]]:
        """A body that ends when the test is over or sets the event."""
        end = threading.Event()

        def body() -> str:
            end.wait(PATIENCE)
            return "late"

        try:
            yield body, end
        finally:
            end.set()

    def advance_once_waiting(self, clock: FakeClock, seconds: float) -> threading.Thread:
        """Move virtual time as soon as somebody waits for it."""

        def move() -> None:
            until = time.monotonic() + PATIENCE
            while not any(timer.fire for _, _, timer in clock._timers) and time.monotonic() < until:
                time.sleep(0.0005)
            clock.advance(seconds)

        thread = threading.Thread(target=move, daemon=True)
        thread.start()
        return thread

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < until:
            time.sleep(0.0005)
        assert condition()

    def test_the_caller_gets_the_error_in_time_while_the_body_runs_on_and_counts(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)
        with self.body_that_runs_on() as (body, end):
            mover = self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError):
                limit.call(body)
            mover.join(PATIENCE)
            assert limit.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: limit.snapshot()["orphaned"] == 0)
        assert calls_of(limit) == (0, 1)

    def test_a_result_or_error_in_time_is_handed_over(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)
        own = ValueError("own")

        def fail() -> None:
            raise own

        assert limit.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ValueError, match="own") as caught:
            limit.call(fail)
        assert caught.value is own
        assert calls_of(limit) == (2, 0)
        assert limit.snapshot()["orphaned"] == 0

    def test_the_body_sees_a_copy_of_the_context(self, private: Registry, fake_clock: FakeClock) -> None:
        request: ContextVar[str] = ContextVar("request", default="none")

        def body() -> tuple[str, float]:
            deadline = current_deadline()
            assert deadline is not None
            seen = request.get()
            request.set("changed in the body")
            return seen, deadline.remaining()

        def call() -> None:
            request.set("number 1")
            assert timeout(3.0, interrupt="thread", registry=private).call(body) == ("number 1", 3.0)
            assert request.get() == "number 1"
            assert current_deadline() is None

        copy_context().run(call)

    def test_what_ends_the_wait_leaves_the_body_an_orphan(self, private: Registry, fake_clock: FakeClock) -> None:
        inner = timeout(30.0, name="inner", interrupt="thread", registry=private)
        outer = timeout(3.0, name="outer", interrupt="thread", registry=private)
        with self.body_that_runs_on() as (body, end):
            self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError) as caught:
                outer.call(inner.call, body)
            assert caught.value.policy == "outer"
            assert outer.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: outer.snapshot()["orphaned"] == 0)
        self.wait_until(lambda: calls_of(inner) == (1, 0))

    def test_an_interrupt_of_the_wait_leaves_the_body_an_orphan_and_no_timer(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        inner = timeout(30.0, name="inner", interrupt="thread", registry=private)
        outer = timeout(3.0, name="outer", registry=private)
        with self.body_that_runs_on() as (body, end):
            self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError) as caught:
                outer.call(inner.call, body)
            assert caught.value.policy == "outer"
            assert inner.snapshot()["orphaned"] == 1
            assert not [timer for _, _, timer in fake_clock._timers if timer.fire is not None]
            end.set()
            self.wait_until(lambda: inner.snapshot()["orphaned"] == 0)
        assert calls_of(inner) == (1, 0)

    @pytest.mark.realtime
    def test_in_real_time_too(self, private: Registry) -> None:
        limit = timeout(0.02, interrupt="thread", registry=private)

        @limit
        def guarded(function: Callable[[], str]) -> str:
            return function()

        with self.body_that_runs_on() as (body, end):
            begun = time.monotonic()
            with pytest.raises(TimeoutExceededError):
                guarded(body)
            assert time.monotonic() - begun < PATIENCE / 2
            assert limit.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: limit.snapshot()["orphaned"] == 0)
        assert guarded(lambda: "in time") == "in time"

    def test_no_thread_is_left_of_calls_that_ended(self, private: Registry) -> None:
        limit = timeout(PATIENCE, interrupt="thread", registry=private)
        for _ in range(50):
            limit.call(str)
        self.wait_until(lambda: "resilient-timeout-body" not in {thread.name for thread in threading.enumerate()})

    def test_it_guards_plain_functions_and_nothing_else(self, private: Registry) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)

        async def coroutine() -> None: ...

        def generator():  # type: ignore[no-untyped-def]
            yield

        async def async_generator():  # type: ignore[no-untyped-def]
            yield

        for function in (coroutine, generator, async_generator):
            with pytest.raises(TypeError, match="helper thread"):
                limit(function)
        with pytest.raises(TypeError, match="helper thread"), limit:
            pass
        with pytest.raises(TypeError, match="helper thread"):
            limit.call_async(coroutine)


class TestNested:
    @pytest.mark.parametrize("seconds", [(5.0, 3.0, 4.0), (3.0, 5.0, 4.0), (4.0, 5.0, 3.0), (3.0, 3.0, 3.0)])
    def test_the_one_that_is_due_first_raises_wherever_it_stands(
        self, seconds: tuple[float, float, float], private: Registry, fake_clock: FakeClock
    ) -> None:
        limits = [timeout(each, name=f"limit {index}", registry=private) for index, each in enumerate(seconds)]

        def body() -> None:
            deadline = current_deadline()
            assert deadline is not None
            assert deadline.remaining() == min(seconds)
            while True:
                fake_clock.advance(0.5)

        with pytest.raises(TimeoutExceededError) as caught, limits[0], limits[1], limits[2]:
            body()
        first = seconds.index(min(seconds))
        assert caught.value.policy == f"limit {first}"
        assert [calls_of(limit) for limit in limits] == [
            (0, 1) if index == first else (1, 0) for index in range(len(limits))
        ]

    def test_the_deadline_comes_back_when_an_inner_one_ends(self, private: Registry, fake_clock: FakeClock) -> None:
        def remaining() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining()

        with timeout(10.0, registry=private):
            with timeout(3.0, registry=private):
                assert remaining() == 3.0
                with timeout(5.0, registry=private):
                    assert remaining() == 3.0
            assert remaining() == 10.0
        assert current_deadline() is None

    def test_the_inner_one_runs_out_and_the_outer_goes_on(self, private: Registry, fake_clock: FakeClock) -> None:
        outer = timeout(10.0, name="outer", registry=private)
        with outer:
            with pytest.raises(TimeoutExceededError), timeout(3.0, name="inner", registry=private):
                fake_clock.advance(4.0)
            fake_clock.advance(5.0)
        assert calls_of(outer) == (1, 0)

    def test_one_object_may_be_entered_again_inside_itself(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, registry=private)
        with limit:
            fake_clock.advance(2.0)
            with limit:
                fake_clock.advance(0.5)
        assert calls_of(limit) == (2, 0)


class TestRefusals:
    def test_a_plain_block_in_a_coroutine_is_refused(self, private: Registry) -> None:
        limit = timeout(3.0, registry=private)

        async def coroutine() -> None:
            with limit:
                raise AssertionError("not reached")

        async def async_generator():  # type: ignore[no-untyped-def]
            with limit:
                yield

        async def step() -> None:
            await anext(async_generator())

        for main in (coroutine, step):
            with pytest.raises(TypeError, match="async with"):
                asyncio.run(main())

    def test_a_plain_block_in_a_generator_is_refused(self, private: Registry) -> None:
        limit = timeout(3.0, registry=private)

        def generator():  # type: ignore[no-untyped-def]
            with limit:
                yield

        with pytest.raises(TypeError, match="decorate the generator function"):
            next(generator())

    def test_a_pipeline_that_holds_one_is_refused_there_too(self, private: Registry) -> None:
        async def coroutine() -> None:
            with pipeline(circuit_breaker(registry=private), timeout(3.0, registry=private), registry=private):
                raise AssertionError("not reached")

        with pytest.raises(TypeError, match="async with"):
            asyncio.run(coroutine())
        assert all(not meter["active"] for meter in private.snapshot().get("pipeline", {}).values())

    def test_async_forms_outside_of_a_task_leave_no_deadline_behind(self, private: Registry) -> None:
        @timeout(3.0, registry=private)
        async def guarded() -> None: ...

        def drive() -> object:
            with pytest.raises(RuntimeError):
                guarded().send(None)
            return current_deadline()

        assert copy_context().run(drive) is None


class TestInTasks:
    def test_asyncio_counts_its_cancellations_as_before(self, private: Registry, fake_clock: FakeClock) -> None:
        async def hang() -> None:
            fake_clock.advance(5.0)
            await asyncio.sleep(PATIENCE)

        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None
            for interrupt in ("auto", "scope"):
                with pytest.raises(TimeoutExceededError):
                    await timeout(3.0, interrupt=interrupt, registry=private).call_async(hang)  # type: ignore[arg-type]
                assert task.cancelling() == 0

        asyncio.run(main())

    def test_inside_asyncios_own_timeout_the_first_wins(self, private: Registry) -> None:
        async def main() -> None:
            with pytest.raises(TimeoutExceededError):
                async with asyncio.timeout(PATIENCE):
                    await timeout(0.001, registry=private).call_async(asyncio.sleep, PATIENCE)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.001):
                    await timeout(PATIENCE, registry=private).call_async(asyncio.sleep, PATIENCE)
            assert not isinstance(caught.value, TimeoutExceededError)

        asyncio.run(main())

    def test_inside_trios_own_timeout_the_first_wins(self, private: Registry) -> None:
        async def main() -> None:
            with trio.fail_after(PATIENCE), pytest.raises(TimeoutExceededError):
                await timeout(0.001, registry=private).call_async(trio.sleep, PATIENCE)
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.001):
                await timeout(PATIENCE, registry=private).call_async(trio.sleep, PATIENCE)

        trio.run(main)

    def test_a_nursery_inside_is_ended_as_a_whole(self, private: Registry, fake_clock: FakeClock) -> None:
        ended: list[str] = []

        async def child(name: str) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(name)

        async def body() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child, "a")
                nursery.start_soon(child, "b")
                await trio.lowlevel.checkpoint()
                fake_clock.advance(5.0)

        async def main() -> None:
            with pytest.raises(TimeoutExceededError):
                await timeout(3.0, registry=private).call_async(body)

        trio.run(main)
        assert sorted(ended) == ["a", "b"]

    def test_a_task_group_inside_is_ended_as_a_whole(self, private: Registry, fake_clock: FakeClock) -> None:
        ended: list[str] = []

        async def child(name: str) -> None:
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                ended.append(name)

        async def body() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child("a"))
                group.create_task(child("b"))
                await asyncio.sleep(0)
                fake_clock.advance(5.0)

        async def main() -> None:
            with pytest.raises(TimeoutExceededError):
                await timeout(3.0, registry=private).call_async(body)

        asyncio.run(main())
        assert sorted(ended) == ["a", "b"]


class TestDeadline:
    def test_a_task_inherits_it_and_so_does_to_thread(self, private: Registry, fake_clock: FakeClock) -> None:
        def remaining() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining()

        async def in_task() -> float:
            return remaining()

        async def main() -> None:
            async with timeout(3.0, registry=private):
                assert await asyncio.to_thread(remaining) == 3.0
                assert await asyncio.create_task(in_task()) == 3.0
            assert current_deadline() is None
            assert await asyncio.to_thread(current_deadline) is None

        asyncio.run(main())

    def test_it_never_goes_below_zero(self, private: Registry, fake_clock: FakeClock) -> None:
        with pytest.raises(TimeoutExceededError), timeout(3.0, interrupt="never", registry=private):
            fake_clock.advance(5.0)
            deadline = current_deadline()
            assert deadline is not None
            assert (deadline.remaining(), deadline.expired) == (0.0, True)

    def test_tasks_side_by_side_have_each_their_own(self, private: Registry, fake_clock: FakeClock) -> None:
        async def one(seconds: float) -> float:
            async with timeout(seconds, registry=private):
                await asyncio.sleep(0)
                deadline = current_deadline()
                assert deadline is not None
                return deadline.remaining()

        async def main() -> list[float]:
            return await asyncio.gather(*(one(float(seconds)) for seconds in range(1, 6)))

        assert asyncio.run(main()) == [1.0, 2.0, 3.0, 4.0, 5.0]


class TestWhatItTells:
    def test_one_event_for_each_that_ran_out(
        self, private: Registry, fake_clock: FakeClock, resilience_events: RecordedEvents
    ) -> None:
        limit = timeout(3.0, name="payments", registry=private)
        limit.call(str)
        with pytest.raises(TimeoutExceededError):
            limit.call(fake_clock.advance, 5.0)
        (event,) = resilience_events
        assert (event.kind, event.policy, event.operation) == ("timed_out", "payments", "payments")
        assert event.data == {"seconds": 3.0}

    def test_every_call_is_completed_or_timed_out(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, registry=private)
        for seconds, error in ((1.0, None), (1.0, KeyError), (1.0, KeyboardInterrupt), (5.0, None)):

            def body(seconds: float = seconds, error: Any = error) -> None:
                fake_clock.advance(seconds)
                if error is not None:
                    raise error

            try:
                limit.call(body)
            except (KeyError, KeyboardInterrupt, TimeoutExceededError):
                pass
        assert calls_of(limit) == (3, 1)

    def test_disabled_lets_it_take_its_time(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, registry=private)
        with disabled():
            limit.call(fake_clock.advance, 5.0)
            with limit:
                fake_clock.advance(5.0)
                assert current_deadline() is None
        assert calls_of(limit) == (0, 0)
