"""Stale: the rules of the house."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import pytest
import trio

from resilient import (
    Registry,
    stale,
)
from resilient.drivers import tasks
from resilient.testing import FakeClock, disabled
from tests.policies.fallback_kit import FACES, Face, as_async, run
from tests.policies.stale_kit import Caught, Gate, Source, counts, in_threads, joined, until, waiting


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


class TestHouseRules:
    def test_context_variables_pass_both_ways(self, face: Face, registry: Registry) -> None:
        variable: ContextVar[int] = ContextVar("variable", default=0)
        policy = stale(0, 60, registry=registry)

        def body() -> None:
            variable.set(variable.get() + 1)

        async def async_body() -> None:
            body()

        async def main() -> int:
            variable.set(5)
            await policy(async_body)()
            return variable.get()

        if face.backend == "thread":
            variable.set(5)
            face.guard(policy, body)()
            assert variable.get() == 6
        else:
            assert run(face.backend, main) == 6

    def test_a_listener_may_call_the_policy(self, registry: Registry, fake_clock: FakeClock) -> None:
        source = Source()
        policy = stale(0, 60, registry=registry)
        guarded = policy(source)
        guarded()
        source.error = ConnectionError("down")

        def listener(event: object) -> None:
            source.error = None
            guarded()
            raise RuntimeError

        policy.subscribe(listener)
        assert guarded() == 1
        assert counts(policy) == {"not_needed": 2, "applied": 1}

    def test_disabled_calls_each_time(self, face: Face, registry: Registry) -> None:
        guarded = face.guard(stale(60, 60, registry=registry), Source())
        guarded()
        with disabled():
            assert guarded() == 2

    def test_ten_thousand_calls_leave_nothing_behind(self, registry: Registry) -> None:
        class Error(Exception):
            pass

        left: list[weakref.ref[Error]] = []

        def new() -> Error:
            error = Error()
            left.append(weakref.ref(error))
            return error

        def body(x: int) -> int:
            if x % 2:
                raise new()
            return x

        policy = stale(0, 60, max_size=4, registry=registry)
        guarded = policy(body)
        gc.disable()
        try:
            for x in range(10_000):
                try:
                    guarded(x)
                except Error:
                    pass
            assert [reference for reference in left if reference() is not None] == []
        finally:
            gc.enable()
        assert (len(policy._cache), policy._cache.loads) == (4, 0)

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_async_calls_leave_nothing_behind(self, backend: str, registry: Registry) -> None:
        class Error(Exception):
            pass

        left: list[weakref.ref[Error]] = []
        policy = stale(0, 60, max_size=4, registry=registry)

        async def body(x: int) -> int:
            await tasks.sleep(0)
            if x % 2 == 0:
                return x
            error = Error()
            left.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        async def main() -> list[Error | None]:
            guarded = policy(body)
            for x in range(100):
                try:
                    await guarded(x)
                except Error:
                    pass
            return [reference() for reference in left]

        gc.disable()
        try:
            assert run(backend, main) == [None] * 50
        finally:
            gc.enable()
        assert (len(policy._cache), policy._cache.loads) == (4, 0)

    def test_an_error_that_was_waited_for_is_not_kept(self, registry: Registry) -> None:
        class Error(Exception):
            pass

        gate, policy = Gate(), stale(0, 60, registry=registry)
        left: list[weakref.ref[Error]] = []

        def body() -> None:
            gate.sync()
            error = Error()
            left.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        guarded = policy(body)

        def swallow() -> None:
            try:
                guarded()
            except Error:
                pass

        threads = in_threads(*[swallow] * 4)
        until(lambda: waiting(policy) == 3)
        gc.disable()
        try:
            gate.open.set()
            joined(threads)
            assert [reference() for reference in left] == [None]
        finally:
            gc.enable()

    def test_counts_are_exact_under_eight_threads(self, registry: Registry) -> None:
        policy = stale(0, 60, lambda worker, x: (worker, x % 7), on=ConnectionError, registry=registry)

        def body(worker: int, x: int) -> int:
            if x % 3 == 0:
                raise ConnectionError
            if x % 3 == 1 and x % 7 == 0:
                raise KeyError
            return x

        guarded = policy(body)

        def work(worker: int) -> None:
            for x in range(420):
                try:
                    guarded(worker, x)
                except (ConnectionError, KeyError):
                    pass

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            joined(in_threads(*[partial(work, worker) for worker in range(8)]))
        finally:
            sys.setswitchinterval(before)
        assert sum(counts(policy).values()) == 8 * 420
        one = Registry()
        alone = stale(0, 60, lambda worker, x: (worker, x % 7), on=ConnectionError, registry=one)
        guarded = alone(body)
        work(0)
        assert counts(policy) == {result: 8 * count for result, count in counts(alone).items()}

    def test_counts_are_exact_over_threads_asyncio_and_trio(self, registry: Registry) -> None:
        policy = stale(0, 60, on=ConnectionError, registry=registry)

        def body(worker: int, x: int) -> int:
            if turns[worker] % 3 == 2:
                raise ConnectionError
            return x

        turns = dict.fromkeys(range(4), 0)
        plain, asynchronous = policy(body), policy(as_async(body))

        def in_thread(worker: int) -> None:
            for turn in range(300):
                turns[worker] = turn
                plain(worker, 1)

        async def in_task(worker: int) -> None:
            for turn in range(300):
                turns[worker] = turn
                await asynchronous(worker, 1)

        works: list[Callable[[], object]] = [
            partial(in_thread, 0),
            lambda: asyncio.run(in_task(1)),
            lambda: asyncio.run(in_task(2)),
            lambda: trio.run(in_task, 3),
        ]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            joined(in_threads(*works))
        finally:
            sys.setswitchinterval(before)
        assert counts(policy) == {"not_needed": 4 * 200, "applied": 4 * 100}

    @pytest.mark.parametrize("rounds", [150])
    def test_no_call_is_lost_whatever_becomes_of_the_loaders(self, rounds: int, registry: Registry) -> None:
        policy = stale(0, 60, lambda *_: "one", registry=registry)
        at_once = [0, 0]

        async def body(turn: int) -> int:
            at_once[0] += 1
            at_once[1] = max(at_once)
            try:
                await tasks.sleep(0)
                if turn % 4 == 0:
                    raise ConnectionError
                await tasks.sleep(0)
                return turn
            finally:
                at_once[0] -= 1

        guarded = policy(body)

        async def on_asyncio() -> None:
            for turn in range(rounds):
                calls = [asyncio.ensure_future(guarded(turn + i)) for i in range(6)]
                for step in range(turn % 5):
                    await asyncio.sleep(0)
                    calls[(turn + step) % 6].cancel()
                await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10.0)

        async def on_trio() -> None:
            async def one(turn: int, steps: int) -> None:
                with trio.CancelScope() as scope, trio.fail_after(10.0):
                    async with trio.open_nursery() as nursery:

                        async def cancel() -> None:
                            for _ in range(steps):
                                await trio.sleep(0)
                            scope.cancel()

                        nursery.start_soon(cancel)
                        try:
                            await guarded(turn)
                        except ConnectionError:
                            pass

            for turn in range(rounds):
                async with trio.open_nursery() as nursery:
                    for i in range(6):
                        nursery.start_soon(one, turn + i, (turn + i) % 9)

        callers = [Caught(lambda: asyncio.run(on_asyncio()))] * 2 + [Caught(lambda: trio.run(on_trio))]
        threads = in_threads(*callers)
        for thread in threads:
            thread.join(60.0)
            assert not thread.is_alive()
        assert [caller.error for caller in callers] == [None] * 3
        assert (policy._cache.loads, waiting(policy)) == (0, 0)
        assert at_once == [0, 1]
