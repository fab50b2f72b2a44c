"""Timeout: settings, nesting, refusals, the deadline. What every back end has in common is in tests/behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import pytest
import trio

from resilient import (
    ConfigurationError,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    timeout,
)
from resilient.testing import FakeClock, RecordedEvents, disabled
from tests.policies.timeout_kit import PATIENCE, calls_of


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

        async def async_generator() -> AsyncIterator[None]:
            with limit:
                yield

        async def step() -> None:
            await anext(async_generator())

        for main in (coroutine, step):
            with pytest.raises(TypeError, match="async with"):
                asyncio.run(main())

    def test_a_plain_block_in_a_generator_is_refused(self, private: Registry) -> None:
        limit = timeout(3.0, registry=private)

        def generator() -> Iterator[None]:
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
        with pytest.raises(TimeoutExceededError), timeout(3.0, interrupt="never", registry=private):  # noqa: PT012 - the block, or loop, is what is tested
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
