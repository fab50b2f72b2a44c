"""`with policy:` and `async with policy:`, many at once on one policy object."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any

import pytest
import trio

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    timeout,
)
from resilient.blocks import OpenBlocks
from resilient.testing import FakeClock


@pytest.fixture
def private() -> Registry:
    return Registry()


@pytest.fixture
def breaker(private: Registry) -> CircuitBreaker:
    return circuit_breaker("shared", consecutive_failures=100, registry=private)


def totals(breaker: CircuitBreaker) -> dict[str, int]:
    counted: Any = breaker.snapshot()["totals"]
    return {key: count for key, count in counted.items() if count}


def open_blocks(policy: Any) -> int:
    return len(policy._pipeline()._open)


def half_open(private: Registry, probes: int) -> CircuitBreaker:
    """A breaker that has as many permits to give as a test needs, and shows how many are out."""
    breaker = circuit_breaker(half_open_calls=probes, success_threshold=1000, on=ZeroDivisionError, registry=private)
    breaker.trip(0.0)
    return breaker


def permits_out(breaker: CircuitBreaker) -> int:
    period: Any = breaker._circuit.period
    return len(period.out)


def test_a_block_counts_once_and_passes_what_the_body_raises(breaker: CircuitBreaker) -> None:
    error = LookupError("mine")
    with breaker as entered:
        assert entered is breaker
    with pytest.raises(LookupError) as caught:
        with breaker:
            raise error
    assert caught.value is error
    assert totals(breaker) == {"success": 1, "failure": 1}
    assert open_blocks(breaker) == 0


def test_what_is_neutral_passes_a_block_uncounted(breaker: CircuitBreaker) -> None:
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
        with pytest.raises(kind):
            with breaker:
                raise kind
    assert totals(breaker) == {"ignored": 4}


def test_a_refused_block_does_not_run_and_leaves_nothing_open(private: Registry) -> None:
    outer = circuit_breaker("outer", registry=private)
    inner = circuit_breaker("inner", registry=private)
    inner.force_open()
    line = pipeline(outer, inner, registry=private)
    with pytest.raises(CircuitOpenError):
        with line:
            raise AssertionError("not reached")
    assert totals(outer) == {"ignored": 1}
    assert open_blocks(line) == 0


def test_one_policy_in_nested_blocks_pairs_each_end_with_its_beginning(private: Registry) -> None:
    breaker = half_open(private, 10)
    with breaker:
        with contextlib.suppress(KeyboardInterrupt):
            with breaker:
                assert permits_out(breaker) == 2
                raise KeyboardInterrupt
        assert permits_out(breaker) == 1
        with breaker, breaker:
            assert permits_out(breaker) == 3
    assert permits_out(breaker) == 0
    assert totals(breaker) == {"success": 3, "ignored": 1}


def test_a_recursive_function_may_hold_a_block_at_each_level(private: Registry) -> None:
    breaker = half_open(private, 10)

    def descend(depth: int) -> int:
        with breaker:
            return descend(depth - 1) if depth else permits_out(breaker)

    assert descend(5) == 6
    assert permits_out(breaker) == 0


def test_concurrent_blocks_in_threads_do_not_leave_for_each_other(private: Registry) -> None:
    breaker = half_open(private, 8)
    barrier = threading.Barrier(8, timeout=10.0)
    wrong: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for _ in range(20):
                barrier.wait()
                with contextlib.suppress(KeyboardInterrupt):
                    with breaker:
                        barrier.wait()
                        if number % 2:
                            raise KeyboardInterrupt
        except BaseException as error:
            wrong.append(error)
            barrier.abort()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert wrong == []
    assert permits_out(breaker) == open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 80, "ignored": 80}


async def checkpoint() -> None:
    if "trio" in sys.modules and trio.lowlevel.in_trio_task():
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


async def cross(breaker: Any, number: int, seen: list[int]) -> None:
    """Enters in one order and leaves in another."""
    with contextlib.suppress(LookupError):
        async with breaker:
            for _ in range(number):
                await checkpoint()
            seen.append(open_blocks(breaker))
            if number % 2:
                raise LookupError


def test_concurrent_blocks_of_asyncio_tasks_do_not_leave_for_each_other(breaker: CircuitBreaker) -> None:
    seen: list[int] = []

    async def main() -> None:
        await asyncio.gather(*(cross(breaker, number, seen) for number in (5, 0, 3, 4, 1, 2)))

    asyncio.run(main())
    assert max(seen) > 1
    assert open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 3, "failure": 3}


def test_concurrent_blocks_of_trio_tasks_do_not_leave_for_each_other(breaker: CircuitBreaker) -> None:
    seen: list[int] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in (5, 0, 3, 4, 1, 2):
                nursery.start_soon(cross, breaker, number, seen)

    trio.run(main)
    assert max(seen) > 1
    assert open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 3, "failure": 3}


def test_a_sync_block_may_stay_open_over_an_await(breaker: CircuitBreaker) -> None:
    """A breaker interrupts nothing, so that `with` is as good as `async with`."""

    async def hold(number: int) -> None:
        with breaker:
            for _ in range(number):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(hold(number) for number in (4, 1, 3, 2)))

    asyncio.run(main())
    assert totals(breaker) == {"success": 4}


# Blocks that are entered and left by somebody else's frame


def test_exit_stacks_leave_in_reverse_whatever_they_hold(private: Registry) -> None:
    breaker, other = half_open(private, 10), half_open(private, 10)
    with contextlib.ExitStack() as stack:
        for policy in (breaker, other, breaker):
            assert stack.enter_context(policy) is policy
        assert (permits_out(breaker), permits_out(other)) == (2, 1)
        with breaker:
            assert permits_out(breaker) == 3
    assert permits_out(breaker) == permits_out(other) == 0
    assert open_blocks(breaker) == 0


def test_an_exit_stack_filled_in_one_function_and_closed_in_another(private: Registry) -> None:
    breaker = half_open(private, 10)

    def fill(stack: contextlib.ExitStack) -> None:
        stack.enter_context(breaker)

    stacks = [contextlib.ExitStack() for _ in range(5)]
    for stack in stacks:
        fill(stack)
    with breaker:
        for stack in stacks:
            stack.close()
    assert permits_out(breaker) == open_blocks(breaker) == 0


class Client:
    """A policy inside a context manager of the user's own."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __enter__(self) -> Client:
        self.policy.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.policy.__exit__(*exc_info)

    async def __aenter__(self) -> Client:
        await self.policy.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.policy.__aexit__(*exc_info)


def test_a_policy_inside_a_context_manager_of_ones_own(private: Registry) -> None:
    breaker = half_open(private, 10)
    barrier = threading.Barrier(4, timeout=10.0)
    wrong: list[BaseException] = []

    def use(neutral: bool) -> None:
        try:
            for _ in range(50):
                with contextlib.suppress(KeyboardInterrupt):
                    with Client(breaker):
                        barrier.wait()
                        if neutral:
                            raise KeyboardInterrupt
        except BaseException as error:
            wrong.append(error)
            barrier.abort()

    threads = [threading.Thread(target=use, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert wrong == []
    assert permits_out(breaker) == open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 100, "ignored": 100}


def test_a_frame_that_gets_the_identity_of_one_that_is_gone_does_not_leave_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def enter_one() -> FrameType:
        return sys._getframe()

    def enter_two() -> FrameType:
        return sys._getframe()

    def leave() -> FrameType:
        return sys._getframe()

    identities = {"enter_one": 1, "enter_two": 2, "leave": 1}

    def identity(thing: Any) -> int:
        return identities[thing.f_code.co_name] if isinstance(thing, FrameType) else id(thing)

    monkeypatch.setattr("resilient.blocks.id", identity, raising=False)
    blocks: OpenBlocks[str] = OpenBlocks()
    other = threading.Thread(target=lambda: blocks.push(enter_one(), "one"))
    other.start()
    other.join()
    blocks.push(enter_two(), "two")
    assert blocks.pop(leave()) == "two"
    assert blocks.pop(leave()) is None, "that of the other thread stays"
    assert len(blocks) == 1


def test_of_two_owners_with_frames_of_one_identity_each_leaves_its_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilient.blocks.id", lambda thing: 1, raising=False)
    blocks: OpenBlocks[str] = OpenBlocks()
    blocks.push(sys._getframe(), "mine")
    other = threading.Thread(target=lambda: blocks.push(sys._getframe(), "of another thread"))
    other.start()
    other.join()
    assert blocks.pop(sys._getframe()) == "mine"
    assert len(blocks) == 1


def test_async_exit_stacks_and_own_context_managers(breaker: CircuitBreaker) -> None:
    async def main(number: int) -> None:
        async with contextlib.AsyncExitStack() as stack:
            assert await stack.enter_async_context(breaker) is breaker
            await stack.enter_async_context(Client(breaker))
            stack.enter_context(breaker)
            for _ in range(number):
                await asyncio.sleep(0)
            assert open_blocks(breaker) >= 3

    async def both() -> None:
        await asyncio.gather(*(main(number) for number in (3, 1, 2)))

    asyncio.run(both())
    assert open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 9}


@pytest.mark.parametrize("running", ["asyncio", "trio"])
def test_an_async_exit_stack_bounds_its_body(private: Registry, running: str, fake_clock: FakeClock) -> None:
    limit = timeout(3.0, registry=private)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(limit)
            fake_clock.advance(4.0)
            await checkpoint()
            await checkpoint()
            raise AssertionError("not reached")

    with pytest.raises(TimeoutExceededError):
        asyncio.run(main()) if running == "asyncio" else trio.run(main)
    assert open_blocks(limit) == 0


def test_a_timeout_in_an_exit_stack_raises_at_its_end(private: Registry, fake_clock: FakeClock) -> None:
    limit = timeout(3.0, registry=private)
    reached: list[str] = []

    def body() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(limit)
            deadline = current_deadline()
            assert deadline is not None
            assert deadline.remaining() == 3.0
            fake_clock.advance(4.0)
            reached.append("end of the body")

    with pytest.raises(TimeoutExceededError):
        body()
    assert reached
    assert current_deadline() is None
    assert open_blocks(limit) == 0


@pytest.mark.realtime
def test_a_timeout_in_an_exit_stack_breaks_nothing_else_in_real_time(private: Registry) -> None:
    import time

    limit = timeout(0.02, registry=private)

    def body() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(limit)
            time.sleep(0.05)

    with pytest.raises(TimeoutExceededError):
        body()
    assert open_blocks(limit) == 0
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


@pytest.mark.realtime
def test_a_timeout_inside_a_context_manager_of_ones_own_is_not_masked(private: Registry) -> None:
    import time

    limit = timeout(0.02, registry=private)
    with pytest.raises(TimeoutExceededError):
        with Client(limit):
            time.sleep(1.0)
    assert open_blocks(limit) == 0


def test_a_plain_timeout_block_in_a_coroutine_or_generator_is_refused(private: Registry) -> None:
    limit = timeout(3.0, registry=private)

    async def coroutine() -> None:
        with limit:
            raise AssertionError("not reached")

    async def coroutine_with_stack() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(limit)
            raise AssertionError("not reached")

    def generator() -> Iterator[int]:
        with limit:
            yield 1

    async def async_generator() -> AsyncIterator[int]:
        with limit:
            yield 1

    for function in (coroutine, coroutine_with_stack):
        with pytest.raises(TypeError, match="write `async with`, or decorate the function"):
            asyncio.run(function())
    with pytest.raises(TypeError, match="decorate the generator function"):
        next(generator())
    with pytest.raises(TypeError, match="in an async function"):
        asyncio.run(async_generator().__anext__())  # type: ignore[arg-type]
    assert open_blocks(limit) == 0
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 0}


def test_leaving_what_was_not_entered_is_an_error(breaker: CircuitBreaker) -> None:
    with pytest.raises(RuntimeError, match=r"shared.*not entered"):
        breaker.__exit__(None, None, None)


# Generators of the user's own with a block inside


def test_interleaved_generators_each_leave_their_own_block(private: Registry) -> None:
    breaker = half_open(private, 10)

    def items(neutral: bool) -> Iterator[int]:
        with breaker:
            yield 1
            if neutral:
                raise KeyboardInterrupt

    generators = [items(neutral) for neutral in (True, False, True, False)]
    for generator in generators:
        next(generator)
    assert permits_out(breaker) == 4
    for generator in reversed(generators):
        with contextlib.suppress(KeyboardInterrupt):
            next(generator, None)
    assert permits_out(breaker) == open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 2, "ignored": 2}


def test_a_generator_resumed_by_another_thread_leaves_its_own_block(private: Registry) -> None:
    breaker = half_open(private, 10)

    def items() -> Iterator[int]:
        with breaker:
            yield 1
            raise KeyboardInterrupt

    generator = items()
    next(generator)

    def resume() -> None:
        with breaker:
            with contextlib.suppress(KeyboardInterrupt):
                next(generator)

    thread = threading.Thread(target=resume)
    thread.start()
    thread.join(10.0)
    assert permits_out(breaker) == open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 1, "ignored": 1}


def test_an_abandoned_generator_gives_its_permit_back(private: Registry) -> None:
    breaker = half_open(private, 10)

    def items() -> Iterator[int]:
        with breaker:
            yield 1

    generator = items()
    next(generator)
    assert permits_out(breaker) == 1
    del generator
    gc.collect()
    assert permits_out(breaker) == open_blocks(breaker) == 0


def test_an_async_generator_closed_by_another_task_leaves_its_own_block(private: Registry) -> None:
    breaker = half_open(private, 10)

    async def items() -> AsyncIterator[int]:
        async with breaker:
            yield 1

    async def main() -> None:
        generator: Any = items()
        await anext(generator)
        assert permits_out(breaker) == 1

        async def close() -> None:
            async with breaker:
                await generator.aclose()
                assert permits_out(breaker) == 1

        await asyncio.create_task(close())

    asyncio.run(main())
    assert permits_out(breaker) == open_blocks(breaker) == 0
    assert totals(breaker) == {"success": 1, "ignored": 1}


# What goes wrong on the way in


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("predicate")])
def test_an_error_in_the_middle_of_entering_gives_back_what_was_taken(
    private: Registry, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    outer, inner = half_open(private, 3), circuit_breaker("inner", registry=private)
    limit = timeout(3.0, registry=private)
    line = pipeline(limit, outer, inner, registry=private)

    def fail(*args: object) -> None:
        assert permits_out(outer) == 1
        raise error

    monkeypatch.setattr(CircuitBreaker, "_admit", fail_for(inner, fail))
    with pytest.raises(type(error)) as caught:
        with line:
            raise AssertionError("not reached")
    assert caught.value is error
    assert permits_out(outer) == 0
    assert open_blocks(line) == 0
    assert current_deadline() is None

    async def in_async_block() -> None:
        async with line:
            raise AssertionError("not reached")

    with pytest.raises(type(error)):
        asyncio.run(in_async_block())
    assert permits_out(outer) == 0
    assert open_blocks(line) == 0


def fail_for(breaker: CircuitBreaker, fail: Any) -> Any:
    admit = CircuitBreaker._admit
    return lambda self, circuit, operation: fail() if self is breaker else admit(self, circuit, operation)


def test_an_error_on_the_way_out_still_leaves_the_scopes_further_out(private: Registry) -> None:
    outer = half_open(private, 3)
    oops = ValueError("predicate")

    def predicate(error: BaseException) -> bool:
        raise oops

    inner = circuit_breaker(on=predicate, registry=private)
    line = pipeline(outer, inner, registry=private)
    with pytest.raises(ValueError, match="predicate") as caught:
        with line:
            raise LookupError
    assert caught.value is oops
    assert isinstance(oops.__cause__, LookupError)
    assert permits_out(outer) == open_blocks(line) == 0


def test_the_deadline_is_set_inside_and_as_before_outside(private: Registry, fake_clock: FakeClock) -> None:
    with timeout(5.0, registry=private):
        outer = current_deadline()
        with timeout(2.0, registry=private):
            inner = current_deadline()
            assert inner is not None
            assert inner.remaining() == 2.0
        with timeout(9.0, registry=private):
            assert current_deadline() == outer
        assert current_deadline() == outer
    assert current_deadline() is None
