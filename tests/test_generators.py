"""A policy around a generator covers the whole iteration; only the generator's own code is ever interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
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
    retry,
    timeout,
)
from resilient.operation import Operation, Scope
from resilient.testing import FakeClock, disabled

STATE: contextvars.ContextVar[str] = contextvars.ContextVar("state", default="unset")


@pytest.fixture
def private() -> Registry:
    return Registry()


@pytest.fixture
def breaker(private: Registry) -> CircuitBreaker:
    return circuit_breaker("shared", consecutive_failures=100, registry=private)


def totals(breaker: CircuitBreaker) -> dict[str, int]:
    counted: Any = breaker.snapshot()["totals"]
    return {key: count for key, count in counted.items() if count}


def remaining() -> float | None:
    deadline = current_deadline()
    return None if deadline is None else deadline.remaining()


def run(running: str, main: Any) -> Any:
    return asyncio.run(main()) if running == "asyncio" else trio.run(main)


async def checkpoint() -> None:
    if trio.lowlevel.in_trio_task():
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


each_loop = pytest.mark.parametrize("running", ["asyncio", "trio"])


# Counting: once, at the end


def test_a_breaker_records_a_generator_once_and_at_its_end(breaker: CircuitBreaker) -> None:
    @breaker
    def items() -> Iterator[int]:
        yield from range(3)

    iteration = items()
    assert [next(iteration), next(iteration), next(iteration)] == [0, 1, 2]
    assert totals(breaker) == {}
    assert list(iteration) == []
    assert totals(breaker) == {"success": 1}


@each_loop
def test_a_breaker_records_an_async_generator_once_and_at_its_end(breaker: CircuitBreaker, running: str) -> None:
    @breaker
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await checkpoint()
            yield number

    async def main() -> None:
        iteration = items()
        assert await anext(iteration) == 0
        assert totals(breaker) == {}
        assert [item async for item in iteration] == [1, 2]

    run(running, main)
    assert totals(breaker) == {"success": 1}


def test_nothing_is_taken_before_the_first_step(breaker: CircuitBreaker) -> None:
    @breaker
    def items() -> Iterator[int]:
        yield 1

    breaker.force_open()
    iteration = items()
    with pytest.raises(CircuitOpenError):
        next(iteration)
    with pytest.raises(StopIteration):
        next(iteration)
    items().close()
    assert breaker.snapshot()["rejected"] == 1


def test_closing_early_is_neutral(breaker: CircuitBreaker) -> None:
    closed: list[str] = []

    @breaker
    def items() -> Iterator[int]:
        try:
            yield from range(3)
        finally:
            closed.append("cleaned up")

    iteration: Any = items()
    next(iteration)
    iteration.close()
    assert closed == ["cleaned up"]
    assert totals(breaker) == {"ignored": 1}
    for _ in items():
        break
    gc.collect()
    assert totals(breaker) == {"ignored": 2}


@each_loop
def test_closing_an_async_generator_early_is_neutral(breaker: CircuitBreaker, running: str) -> None:
    closed: list[str] = []

    @breaker
    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await checkpoint()
            closed.append("cleaned up")

    async def main() -> None:
        iteration = items()
        await anext(iteration)
        await iteration.aclose()
        assert closed == ["cleaned up"]

    run(running, main)
    assert totals(breaker) == {"ignored": 1}


def test_an_async_generator_may_be_closed_by_another_task(private: Registry, breaker: CircuitBreaker) -> None:
    @pipeline(timeout(9.0, registry=private), breaker, registry=private)
    async def items() -> AsyncGenerator[float | None, None]:
        try:
            yield remaining()
            yield remaining()
        finally:
            await asyncio.sleep(0)

    async def main() -> None:
        iteration = items()
        assert await anext(iteration) is not None
        await asyncio.create_task(close(iteration))
        assert current_deadline() is None

        iteration = items()
        await asyncio.create_task(step(iteration))
        assert current_deadline() is None
        await iteration.aclose()

    async def close(iteration: AsyncGenerator[Any, None]) -> None:
        await iteration.aclose()

    async def step(iteration: AsyncGenerator[Any, None]) -> None:
        await anext(iteration)

    asyncio.run(main())
    assert totals(breaker) == {"ignored": 2}


# The protocol of generators


def echo() -> Generator[object, object, str]:
    """Gives back what it is sent and what is thrown in; returns a word."""
    received: object = "first"
    while received != "stop":
        try:
            received = yield received
        except LookupError as thrown:
            received = f"caught {thrown}"
    return "returned"


async def echo_async() -> AsyncGenerator[object, object]:
    received: object = "first"
    while received != "stop":
        try:
            received = yield received
        except LookupError as thrown:
            await checkpoint()
            received = f"caught {thrown}"


def test_send_throw_close_and_the_return_value_work_as_without_policy(breaker: CircuitBreaker) -> None:
    iteration = breaker(echo)()
    assert next(iteration) == "first"
    assert iteration.send(3) == 3
    assert iteration.throw(LookupError("it")) == "caught it"
    assert next(iteration) is None
    with pytest.raises(StopIteration) as stopped:
        iteration.send("stop")
    assert stopped.value.value == "returned"
    assert totals(breaker) == {"success": 1}


def test_yield_from_a_guarded_generator_gives_its_return_value(breaker: CircuitBreaker) -> None:
    def delegating() -> Generator[object, object, object]:
        return (yield from breaker(echo)())

    iteration = delegating()
    next(iteration)
    with pytest.raises(StopIteration) as stopped:
        iteration.send("stop")
    assert stopped.value.value == "returned"


@each_loop
def test_asend_athrow_and_aclose_work_as_without_policy(breaker: CircuitBreaker, running: str) -> None:
    async def main() -> None:
        iteration = breaker(echo_async)()
        assert await anext(iteration) == "first"
        assert await iteration.asend(3) == 3
        assert await iteration.athrow(LookupError("it")) == "caught it"
        assert await anext(iteration) is None
        with pytest.raises(StopAsyncIteration):
            await iteration.asend("stop")
        with pytest.raises(StopAsyncIteration):
            await anext(iteration)
        await iteration.aclose()

    run(running, main)
    assert totals(breaker) == {"success": 1}


def test_what_the_consumer_throws_in_and_the_body_lets_out_is_the_same_object(breaker: CircuitBreaker) -> None:
    error = ValueError("from the consumer")
    iteration = breaker(echo)()
    next(iteration)
    with pytest.raises(ValueError, match="consumer") as caught:
        iteration.throw(error)
    assert caught.value is error
    assert error.__cause__ is None
    assert totals(breaker) == {"failure": 1}


def test_what_the_body_raises_is_the_same_object_and_a_failure(breaker: CircuitBreaker) -> None:
    error = LookupError("from the body")

    @breaker
    def items() -> Iterator[int]:
        yield 1
        raise error

    iteration = items()
    next(iteration)
    with pytest.raises(LookupError) as caught:
        next(iteration)
    assert caught.value is error
    assert error.__cause__ is None
    assert totals(breaker) == {"failure": 1}


@each_loop
def test_exceptions_of_async_generators_pass_both_ways(breaker: CircuitBreaker, running: str) -> None:
    error = LookupError("from the body")

    @breaker
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        raise error

    async def main() -> None:
        iteration = items()
        await anext(iteration)
        with pytest.raises(LookupError) as caught:
            await anext(iteration)
        assert caught.value is error
        thrown = ValueError("from the consumer")
        other = breaker(echo_async)()
        await anext(other)
        with pytest.raises(ValueError, match="consumer") as caught_too:
            await other.athrow(thrown)
        assert caught_too.value is thrown

    run(running, main)
    assert totals(breaker) == {"failure": 2}


def test_a_generator_that_ignores_being_closed_is_told_as_python_does(breaker: CircuitBreaker) -> None:
    @breaker
    def stubborn() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    iteration: Any = stubborn()
    next(iteration)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        iteration.close()
    assert totals(breaker) == {"failure": 1}


def test_kinds_that_run_the_body_again_refuse_generators(private: Registry) -> None:
    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> AsyncIterator[int]:
        yield 1

    for policy in (retry(registry=private), pipeline(circuit_breaker(registry=private), retry(registry=private))):
        for function in (items, async_items):
            with pytest.raises(TypeError, match="items already given out can't be taken back"):
                policy(function)


def test_switched_off_policies_pass_generators_through(breaker: CircuitBreaker) -> None:
    @breaker
    def items() -> Iterator[int]:
        yield 1

    breaker.force_open()
    with disabled():
        assert list(items()) == [1]
    with pytest.raises(CircuitOpenError):
        list(items())


# Timeouts


def test_time_running_out_in_the_generators_own_code_interrupts_it(private: Registry, fake_clock: FakeClock) -> None:
    reached: list[str] = []

    @timeout(3.0, registry=private)
    def items() -> Iterator[int]:
        yield 1
        fake_clock.advance(4.0)
        reached.append("not interrupted")
        yield 2

    iteration = items()
    assert next(iteration) == 1
    with pytest.raises(TimeoutExceededError) as caught:
        next(iteration)
    assert caught.value.seconds == 3.0
    assert reached == []


def test_time_running_out_while_the_consumer_has_control_makes_the_next_step_raise(
    private: Registry, fake_clock: FakeClock
) -> None:
    limit = timeout(3.0, registry=private)
    steps: list[str] = []

    @limit
    def items() -> Iterator[int]:
        try:
            yield 1
            steps.append("second step")
            yield 2
        finally:
            steps.append("cleaned up")

    iteration = items()
    assert next(iteration) == 1
    fake_clock.advance(2.0)
    fake_clock.advance(1.0)
    assert steps == []
    with pytest.raises(TimeoutExceededError):
        next(iteration)
    assert steps == ["cleaned up"]
    with pytest.raises(StopIteration):
        next(iteration)
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


def test_the_whole_iteration_is_bounded_and_not_each_step(private: Registry, fake_clock: FakeClock) -> None:
    given: list[int] = []

    @timeout(3.0, registry=private)
    def items() -> Iterator[int]:
        for number in range(10):
            fake_clock.advance(0.8)
            yield number

    def consume() -> None:
        for number in items():
            given.append(number)  # noqa: PERF402 - `extend` might keep nothing of an iteration that fails

    with pytest.raises(TimeoutExceededError):
        consume()
    assert given == [0, 1, 2]


@each_loop
def test_an_async_generator_is_ended_in_its_own_code(private: Registry, fake_clock: FakeClock, running: str) -> None:
    reached: list[str] = []
    limit = timeout(3.0, registry=private)

    @limit
    async def items() -> AsyncIterator[int]:
        yield 1
        fake_clock.advance(4.0)
        await checkpoint()
        await checkpoint()
        reached.append("not cancelled")
        yield 2

    async def main() -> None:
        iteration = items()
        assert await anext(iteration) == 1
        with pytest.raises(TimeoutExceededError):
            await anext(iteration)
        await checkpoint()
        task = asyncio.current_task() if running == "asyncio" else None
        assert task is None or task.cancelling() == 0

    run(running, main)
    assert reached == []
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


@each_loop
def test_the_consumer_of_an_async_generator_is_never_cancelled_for_it(
    private: Registry, fake_clock: FakeClock, running: str
) -> None:
    steps: list[str] = []

    @timeout(3.0, registry=private)
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            steps.append("second step")
            yield 2
        finally:
            await checkpoint()
            steps.append("cleaned up")

    async def main() -> None:
        iteration = items()
        assert await anext(iteration) == 1
        fake_clock.advance(4.0)
        await checkpoint()
        await checkpoint()
        steps.append("consumer")
        with pytest.raises(TimeoutExceededError):
            await anext(iteration)

    run(running, main)
    assert steps == ["consumer", "cleaned up"]


@pytest.mark.realtime
def test_in_real_time_only_the_generators_own_code_is_interrupted(private: Registry) -> None:
    @timeout(0.05, registry=private)
    def items(pause: float) -> Iterator[int]:
        yield 1
        time.sleep(pause)
        yield 2

    iteration = items(0.0)
    next(iteration)
    time.sleep(0.08)
    with pytest.raises(TimeoutExceededError):
        next(iteration)

    iteration = items(5.0)
    next(iteration)
    started = time.monotonic()
    with pytest.raises(TimeoutExceededError):
        next(iteration)
    assert time.monotonic() - started < 2.0


def test_a_consumer_that_stops_in_time_leaves_nothing_armed(private: Registry, fake_clock: FakeClock) -> None:
    @timeout(3.0, registry=private)
    def items() -> Iterator[int]:
        yield from range(10)

    for _ in items():
        break
    gc.collect()
    fake_clock.advance(10.0)
    assert current_deadline() is None


def test_cleaning_up_that_fails_after_the_time_ran_out_still_ends_every_scope(
    private: Registry, fake_clock: FakeClock
) -> None:
    breaker = circuit_breaker(half_open_calls=1, on=ZeroDivisionError, success_threshold=9, registry=private)
    breaker.trip(0.0)

    @pipeline(timeout(3.0, registry=private), breaker, registry=private)
    def items() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("while cleaning up")

    for _ in range(2):
        iteration = items()
        next(iteration)
        fake_clock.advance(4.0)
        with pytest.raises(LookupError, match="cleaning up"):
            next(iteration)
    assert breaker.snapshot()["rejected"] == 0, "the permit of the first is back"


def test_cleaning_up_that_fails_in_an_async_generator_still_ends_every_scope(
    private: Registry, fake_clock: FakeClock
) -> None:
    breaker = circuit_breaker(half_open_calls=1, on=ZeroDivisionError, success_threshold=9, registry=private)
    breaker.trip(0.0)

    @pipeline(timeout(3.0, registry=private), breaker, registry=private)
    async def items() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("while cleaning up")

    async def main() -> None:
        for _ in range(2):
            iteration = items()
            await anext(iteration)
            fake_clock.advance(4.0)
            with pytest.raises(LookupError, match="cleaning up"):
                await anext(iteration)

    asyncio.run(main())
    assert breaker.snapshot()["rejected"] == 0


class SlowToBegin(Scope):
    """A scope that waits before it lets the body in, as queues do."""

    def __init__(self, clock: FakeClock, ended: list[BaseException | None]) -> None:
        self.clock = clock
        self.ended = ended

    def begin(self) -> None:
        self.clock._elapsed += 4.0  # time passes, and no interrupt arrives yet

    def end(self, error: BaseException | None) -> None:
        self.ended.append(error)


def test_a_wait_on_the_way_in_that_took_all_the_time_gives_back_what_it_waited_for(
    private: Registry, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException | None] = []
    breaker = circuit_breaker(registry=private)
    monkeypatch.setattr(CircuitBreaker, "scope", lambda self, operation: SlowToBegin(fake_clock, ended))
    line = pipeline(timeout(3.0, interrupt="never", registry=private), breaker, registry=private)

    @line
    def items() -> Iterator[int]:
        yield 1

    @line
    async def async_items() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TimeoutExceededError):
        list(items())
    assert len(ended) == 1
    with pytest.raises(TimeoutExceededError):
        asyncio.run(collect(async_items()))
    assert len(ended) == 2
    assert private.snapshot()["pipeline"][f"{__name__}.{items.__qualname__}"]["active"] == 0


# Context


def test_the_deadline_is_set_only_while_the_generators_own_code_runs(private: Registry, fake_clock: FakeClock) -> None:
    @timeout(3.0, registry=private)
    def items() -> Iterator[float | None]:
        yield remaining()
        yield remaining()

    seen: list[object] = []
    for left in items():
        seen += [left, remaining()]
        fake_clock.advance(1.0)
    assert seen == [3.0, None, 2.0, None]
    assert current_deadline() is None


@each_loop
def test_the_deadline_is_set_only_while_the_async_generators_own_code_runs(
    private: Registry, fake_clock: FakeClock, running: str
) -> None:
    @timeout(3.0, registry=private)
    async def items() -> AsyncIterator[float | None]:
        yield remaining()
        await checkpoint()
        yield remaining()

    async def main() -> list[object]:
        seen: list[object] = []
        async for left in items():
            seen += [left, remaining()]
            fake_clock.advance(1.0)
            await checkpoint()
        assert current_deadline() is None
        return seen

    assert run(running, main) == [3.0, None, 2.0, None]


def test_interleaved_generators_each_see_their_own_deadline(private: Registry, fake_clock: FakeClock) -> None:
    def items() -> Iterator[float | None]:
        while True:
            yield remaining()

    short, long = timeout(3.0, registry=private)(items)(), timeout(9.0, registry=private)(items)()
    with timeout(5.0, registry=private):
        assert [next(short), next(long), next(short), next(long)] == [3.0, 5.0, 3.0, 5.0]
        assert remaining() == 5.0
    assert [next(short), next(long)] == [3.0, 9.0]


def test_context_variables_pass_both_ways_as_in_a_bare_generator(private: Registry) -> None:
    @pipeline(timeout(9.0, registry=private), circuit_breaker(registry=private), registry=private)
    def items() -> Iterator[str]:
        yield STATE.get()
        STATE.set("set in the body")
        yield STATE.get()
        yield STATE.get()

    def consume() -> None:
        STATE.set("set by the caller")
        iteration = items()
        assert next(iteration) == "set by the caller"
        assert next(iteration) == "set in the body"
        assert STATE.get() == "set in the body"
        STATE.set("set between the steps")
        assert next(iteration) == "set between the steps"

    contextvars.copy_context().run(consume)


@each_loop
def test_context_variables_pass_both_ways_in_an_async_generator(private: Registry, running: str) -> None:
    @pipeline(timeout(9.0, registry=private), circuit_breaker(registry=private), registry=private)
    async def items() -> AsyncGenerator[str, None]:
        yield STATE.get()
        await checkpoint()
        STATE.set("set in the body")
        yield STATE.get()
        yield STATE.get()

    async def main() -> None:
        STATE.set("set by the caller")
        iteration = items()
        assert await anext(iteration) == "set by the caller"
        assert await anext(iteration) == "set in the body"
        assert STATE.get() == "set in the body"
        STATE.set("set between the steps")
        assert await anext(iteration) == "set between the steps"
        await iteration.aclose()

    run(running, main)


def test_context_variables_pass_through_every_face(private: Registry) -> None:
    def policies() -> Any:
        return pipeline(
            "context",
            timeout(9.0, registry=private),
            circuit_breaker(registry=private),
            retry(registry=private, attempt_timeout=5.0),
            registry=private,
        )

    def body() -> None:
        assert STATE.get() == "set by the caller"
        STATE.set("set in the body")

    async def async_body() -> None:
        body()

    def seen_after(face: Any) -> str:
        STATE.set("set by the caller")
        face()
        return STATE.get()

    async def seen_after_async(face: Any) -> str:
        STATE.set("set by the caller")
        await face()
        return STATE.get()

    async def in_block() -> None:
        async with timeout(9.0, registry=private):
            body()

    line = policies()
    for face in (line(body), lambda: line.call(body)):
        assert contextvars.copy_context().run(seen_after, face) == "set in the body"
    for async_face in (line(async_body), lambda: line.call_async(async_body), in_block):
        assert asyncio.run(seen_after_async(async_face)) == "set in the body"
        assert trio.run(seen_after_async, async_face) == "set in the body"

    def with_block() -> None:
        with timeout(9.0, registry=private), circuit_breaker(registry=private):
            body()

    def attempts() -> None:
        for attempt in retry(registry=private, attempt_timeout=5.0):
            with attempt:
                body()

    for face in (with_block, attempts):
        assert contextvars.copy_context().run(seen_after, face) == "set in the body"


def test_a_guarded_generator_may_move_from_thread_to_thread(breaker: CircuitBreaker, private: Registry) -> None:
    @pipeline(timeout(9.0, registry=private), breaker, registry=private)
    def items() -> Iterator[int]:
        for number in range(6):
            assert remaining() is not None
            yield number

    iteration = items()
    taken: list[int] = []
    for _ in range(6):
        thread = threading.Thread(target=lambda: taken.append(next(iteration)))
        thread.start()
        thread.join(10.0)
    assert next(iteration, None) is None
    assert taken == [0, 1, 2, 3, 4, 5]
    assert totals(breaker) == {"success": 1}


def test_a_generator_counts_as_one_call_of_its_operation(private: Registry) -> None:
    @timeout(9.0, registry=private)
    def items() -> Iterator[int]:
        yield from range(3)

    iteration = items()
    next(iteration)
    (meter,) = private.snapshot()["pipeline"].values()
    assert meter["active"] == 1
    list(iteration)
    (meter,) = private.snapshot()["pipeline"].values()
    calls: Any = meter["calls"]
    assert (meter["active"], calls["success"]) == (0, 1)


def test_a_policy_that_runs_the_body_again_has_no_scope_to_offer(private: Registry) -> None:
    with pytest.raises(TypeError):
        retry(registry=private).scope(Operation("name", private.call_meter("name")))
