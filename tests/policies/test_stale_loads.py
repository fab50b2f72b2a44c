"""Stale: one load at a time for each key, over threads and tasks."""

from __future__ import annotations

import asyncio
import threading
import traceback
from functools import partial
from typing import Any

import pytest
import trio

from resilient import (
    Registry,
    stale,
)
from resilient.drivers import tasks
from resilient.testing import record_events
from tests.policies.fallback_kit import FACES, Face, cancel_at_every_step, run
from tests.policies.stale_kit import Caught, Gate, counts, in_threads, joined, until, waiting


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


class TestOneLoadAtATime:
    def test_threads_share_it(self, registry: Registry) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        guarded = policy(gate.sync)
        callers = [Caught(guarded) for _ in range(8)]
        threads = in_threads(*callers)
        until(lambda: waiting(policy) == 7)
        gate.open.set()
        joined(threads)
        assert [caller.result for caller in callers] == ["loaded"] * 8
        assert (gate.calls, policy.snapshot()["shared"], policy._cache.loads) == (1, 7, 0)

    def test_tasks_of_two_asyncio_loops_and_trio_share_it(self, registry: Registry) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        guarded = policy(gate.asynchronous)
        results: list[Any] = []

        async def keep() -> None:
            results.append(await guarded("a"))

        async def on_asyncio() -> None:
            await asyncio.gather(*[keep() for _ in range(5)])

        async def on_trio() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(keep)

        threads = in_threads(*[lambda: asyncio.run(on_asyncio())] * 2, lambda: trio.run(on_trio))
        until(lambda: waiting(policy) == 14)
        gate.open.set()
        joined(threads)
        assert results == ["loaded"] * 15
        assert (gate.calls, policy._cache.loads) == (1, 0)

    def test_other_keys_do_not_wait(self, registry: Registry) -> None:
        together = threading.Barrier(5, timeout=10.0)
        policy = stale(0, 60, registry=registry)
        guarded = policy(lambda key: together.wait())
        callers = [Caught(partial(guarded, key)) for key in range(5)]
        joined(in_threads(*callers))
        assert [caller.error for caller in callers] == [None] * 5

    def test_where_it_fails_all_are_served_the_last_good_result(self, registry: Registry) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        guarded = policy(gate.sync)
        gate.open.set()
        guarded()
        gate.open.clear()
        gate.outcome = ConnectionError("down")
        callers = [Caught(guarded) for _ in range(4)]
        with record_events() as events:
            threads = in_threads(*callers)
            until(lambda: waiting(policy) == 3)
            gate.open.set()
            joined(threads)
        assert [caller.result for caller in callers] == ["loaded"] * 4
        assert len(events) == 4
        assert gate.calls == 2
        assert counts(policy) == {"not_needed": 1, "applied": 4}

    def test_with_none_to_serve_each_gets_an_exception_of_its_own(self, registry: Registry) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        gate.outcome = error = ConnectionError("down")
        callers = [Caught(policy(gate.sync)) for _ in range(1)]
        guarded = callers[0]._call
        callers += [Caught(guarded) for _ in range(3)]
        threads = in_threads(*callers)
        until(lambda: waiting(policy) == 3)
        gate.open.set()
        joined(threads)
        raised = [caller.error for caller in callers]
        assert len({id(one) for one in raised}) == 4
        assert [(type(one), str(one)) for one in raised] == [(ConnectionError, "down")] * 4
        assert sum(one is error for one in raised) == 1
        assert sum(one is not None and one.__cause__ is error for one in raised) == 3
        assert all(len(traceback.extract_tb(one.__traceback__)) < 12 for one in raised if one is not None)
        assert gate.calls == 1
        assert counts(policy) == {"failed": 4}

    def test_where_the_error_can_not_be_copied_they_load_in_turn(self, registry: Registry) -> None:
        class Odd(Exception):
            def __str__(self) -> str:
                return f"at {id(self)}"

        gate, policy = Gate(), stale(0, 60, registry=registry)

        def body() -> Any:
            gate.sync()
            raise Odd

        guarded = policy(body)
        callers = [Caught(guarded) for _ in range(3)]
        threads = in_threads(*callers)
        until(lambda: waiting(policy) == 2)
        gate.open.set()
        joined(threads)
        raised = [caller.error for caller in callers]
        assert [type(one) for one in raised] == [Odd] * 3
        assert len({id(one) for one in raised}) == 3
        assert counts(policy) == {"failed": 3}

    @pytest.mark.parametrize("neutral", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_one_that_waits_takes_over_from_one_that_is_interrupted(
        self, neutral: type[BaseException], registry: Registry
    ) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        gate.outcome = neutral()

        def body() -> Any:
            try:
                return gate.sync()
            finally:
                gate.outcome = "loaded"

        guarded = policy(body)
        first = Caught(guarded)
        threads = in_threads(first)
        until(lambda: policy._cache.loads)
        others = [Caught(guarded) for _ in range(3)]
        threads += in_threads(*others)
        until(lambda: waiting(policy) == 3)
        gate.open.set()
        joined(threads)
        assert type(first.error) is neutral
        assert [other.result for other in others] == ["loaded"] * 3
        assert (gate.calls, policy._cache.loads) == (2, 0)
        assert counts(policy) == {"not_needed": 3}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_one_that_waits_takes_over_from_one_that_is_cancelled(self, backend: str, registry: Registry) -> None:
        gate, policy = Gate(), stale(0, 60, registry=registry)
        guarded = policy(gate.asynchronous)
        results: list[Any] = []

        async def keep() -> None:
            results.append(await guarded("a"))

        async def on_asyncio() -> None:
            first = asyncio.ensure_future(guarded("a"))
            await asyncio.sleep(0)
            others = [asyncio.ensure_future(keep()) for _ in range(3)]
            await asyncio.sleep(0)
            assert waiting(policy) == 3
            first.cancel()
            others[0].cancel()  # at the instant at which it takes over
            gate.open.set()
            await asyncio.gather(first, *others, return_exceptions=True)

        async def on_trio() -> None:
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as first:
                        first.start_soon(guarded, "a")
                        await trio.testing.wait_all_tasks_blocked(0.0)
                        for _ in range(2):
                            nursery.start_soon(keep)
                        while waiting(policy) < 2:
                            await trio.sleep(0)
                        scope.cancel()
                gate.open.set()

        run(backend, on_trio if backend == "trio" else on_asyncio)
        assert results == ["loaded"] * 2
        assert (gate.calls, policy._cache.loads) == (2, 0)
        assert counts(policy) == {"not_needed": 2}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_loader_cancelled_at_any_step_leaves_nothing_behind(self, backend: str, registry: Registry) -> None:
        policy = stale(0, 60, registry=registry)

        async def body() -> int:
            for _ in range(3):
                await tasks.sleep(0)
            return 1

        guarded = policy(body)

        def check() -> None:
            assert (policy._cache.loads, waiting(policy)) == (0, 0)

        assert cancel_at_every_step(backend, guarded, check) >= 3
        assert counts(policy) == {"not_needed": 1}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_one_that_waits_and_is_cancelled_at_any_step_leaves_nothing_behind(
        self, backend: str, registry: Registry
    ) -> None:
        policy = stale(0, 60, registry=registry)
        loading = threading.Event()

        async def body() -> int:
            loading.set()
            for _ in range(3):
                await tasks.sleep(0)
            return 1

        guarded = policy(body)

        async def both() -> None:
            loading.clear()
            if backend == "asyncio":
                first = asyncio.ensure_future(guarded())
                try:
                    await asyncio.sleep(0)
                    await guarded()
                finally:
                    await asyncio.gather(first, return_exceptions=True)
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guarded)
                while not loading.is_set():
                    await trio.sleep(0)
                await guarded()

        def check() -> None:
            assert (policy._cache.loads, waiting(policy)) == (0, 0)

        assert cancel_at_every_step(backend, both, check) >= 3
        shared: Any = policy.snapshot()["shared"]
        assert shared >= 1

    def test_a_call_of_the_same_key_from_within_does_not_wait_for_itself(self, face: Face, registry: Registry) -> None:
        policy = stale(60, 60, lambda *args: "all", registry=registry)
        if face.backend == "thread":

            def countdown(left: int) -> int:
                return left if not left else guarded(left - 1)

            guarded = face.guard(policy, countdown)
            assert guarded(3) == 0
            return

        async def async_countdown(left: int) -> int:
            if not left:
                return 0
            if face.backend == "trio":
                result: list[int] = []

                async def child() -> None:
                    result.append(await again(left - 1))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child)
                return result[0]
            return (await asyncio.gather(again(left - 1)))[0]

        again: Any = (
            policy(async_countdown) if face.form == "decorator" else partial(policy.call_async, async_countdown)
        )
        assert run(face.backend, partial(again, 3)) == 0
        assert policy._cache.loads == 0
