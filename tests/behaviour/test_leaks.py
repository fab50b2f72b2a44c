"""After ten thousand calls nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    Registry,
    adaptive,
    bulkhead,
    circuit_breaker,
    failover,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    stale,
    throttle,
    timeout,
)
from resilient.core.events import EVERYTHING
from resilient.drivers import interrupts
from resilient.testing import FakeClock
from tests.behaviour.kit import CALL_FACES, PATIENCE, SCOPE_FACES, Backend, Body

CALLS = 10_000


def everything(registry: Registry) -> Any:
    return pipeline(
        "everything",
        timeout(60.0, registry=registry),
        retry(attempts=3, backoff=0.0, registry=registry),
        circuit_breaker(failure_rate=1.0, slow_call_duration=60, registry=registry),
        timeout(30.0, name="attempt", registry=registry),
        registry=registry,
    )


def limits(registry: Registry) -> Any:
    return pipeline(
        "everything",
        throttle(k=10**6, window=10**6, on=OSError, registry=registry),
        rate_limiter(limit=10**6, registry=registry),
        bulkhead(max_concurrent=1000, registry=registry),
        bulkhead("adaptive", max_concurrent=adaptive(initial=1000, maximum=1000), registry=registry),
        registry=registry,
    )


def substitutes(registry: Registry) -> Any:
    return pipeline(
        "everything", fallback(default=0, registry=registry), stale(0, 10**6, registry=registry), registry=registry
    )


def two_providers(registry: Registry) -> Any:
    return lambda function: failover(
        ("first", function), ("second", function), deadline=60.0, name="everything", registry=registry
    )


def hedged(registry: Registry) -> Any:
    return pipeline("everything", hedge(delay=60.0, registry=registry), registry=registry)


of_every_kind = pytest.mark.parametrize("make", [everything, limits, substitutes, two_providers, hedged])


def guarding(face: str, registry: Registry) -> list[Any]:
    """Policies of all kinds that have this face."""
    if face == "attempts":
        return [retry(attempts=2, backoff=0.0, attempt_timeout=30.0, registry=registry)]
    policies: list[Any] = [
        pipeline(timeout(60.0, registry=registry), circuit_breaker(window_calls=9, registry=registry)),
        limits(registry),
    ]
    if face in CALL_FACES:
        policies += [retry(attempts=2, backoff=0.0, attempt_timeout=30.0, registry=registry), hedged(registry)]
        policies += [stale(0, 10**6, max_size=8, registry=registry), fallback(fail, registry=registry)]
    return policies


def fail() -> Any:
    raise LookupError


def own_objects() -> Counter[str]:
    """What there is of the package's own types."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).partition(".")[0] == "resilient")


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} - {"resilient-watchdog"}


def flaky(backend: Backend) -> Body:
    """Every third call fails, every seventh is neutral."""
    calls = 0

    async def body() -> int:
        nonlocal calls
        calls += 1
        if calls % 16 == 0:
            await backend.checkpoint()
        if calls % 3 == 0:
            raise ConnectionError
        if calls % 7 == 0:
            raise KeyboardInterrupt
        return calls

    return body


def left_in_the_loop(backend: Backend) -> int:
    """Timers and tasks of the asyncio loop that runs."""
    if backend.name != "asyncio":
        return 0
    loop: Any = asyncio.get_running_loop()
    # Asyncio itself forgets cancelled timers, once there are some.
    assert len(loop._scheduled) <= 250
    timers = sum(not timer.cancelled() for timer in loop._scheduled)
    return timers + len(loop._ready) + len(asyncio.all_tasks())


@of_every_kind
def test_ten_thousand_calls_leave_no_timer_task_thread_or_object(
    backend: Backend, make: Callable[[Registry], Any], private: Registry
) -> None:
    call = backend.guard(make(private), flaky(backend))
    before_threads = threads()
    # A thread for each of them takes its time.
    calls = CALLS if make is not hedged or backend.name != "threads" else CALLS // 10

    async def some(count: int) -> None:
        for _ in range(count):
            try:
                await call()
            except (ConnectionError, KeyboardInterrupt):
                pass

    async def main() -> None:
        await some(500)
        objects, in_loop = own_objects(), left_in_the_loop(backend)
        blocks = sys.getallocatedblocks()
        await some(calls)
        gc.collect()
        # Coverage keeps something of each thread that it has measured.
        kept_by_coverage = make is hedged and backend.name == "threads" and sys.gettrace() is not None
        assert kept_by_coverage or sys.getallocatedblocks() - blocks < calls / 10
        assert own_objects() == objects
        # One timer for each duration, whatever the number of calls.
        assert left_in_the_loop(backend) == in_loop <= 3

    backend.run(main)
    assert threads() == before_threads
    assert private.snapshot()["pipeline"]["everything"]["active"] == 0


@pytest.mark.parametrize("face", [*SCOPE_FACES, "attempts"])
def test_every_face_leaves_nothing(backend: Backend, face: str, private: Registry) -> None:
    async def some(policy: Any, body: Body, count: int) -> None:
        for _ in range(count):
            try:
                await backend.use(face, policy, body)
            except (ConnectionError, LookupError, CircuitOpenError, KeyboardInterrupt):
                pass
        await backend.checkpoint()

    async def main() -> None:
        policies = [(policy, flaky(backend)) for policy in guarding(face, private)]
        for policy, body in policies:
            await some(policy, body, 20)
        # One look for all of them: it goes through every object that there is.
        objects, in_loop = own_objects(), left_in_the_loop(backend)
        for policy, body in policies:
            await some(policy, body, 300)
            assert left_in_the_loop(backend) <= in_loop, policy
            assert not policy._pipeline()._open._by_frame, policy
        assert own_objects() == objects

    backend.run(main)


@pytest.mark.parametrize("face", [*SCOPE_FACES, "attempts"])
def test_a_failure_makes_no_reference_cycle(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    """Frames that an error holds, and that hold the error, would live until the collector comes by."""
    alive: list[weakref.ref[BaseException]] = []

    class Failure(Exception):
        pass

    async def body() -> None:
        error = Failure()
        alive.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def failing(policy: Any) -> None:
        try:
            await backend.use(face, policy, body)
        except (Failure, LookupError):
            pass

    async def main() -> None:
        for policy in guarding(face, private):
            for _ in range(3):
                await failing(policy)
            await backend.checkpoint()
            assert [ref() for ref in alive if ref() is not None] == []

    gc.collect()
    gc.disable()
    try:
        backend.run(main)
    finally:
        gc.enable()
    assert alive


@of_every_kind
def test_tasks_that_are_cancelled_leave_nothing(
    loop: Backend, make: Callable[[Registry], Any], private: Registry
) -> None:
    call = loop.guard(make(private), lambda: loop.event().wait())  # type: ignore[arg-type, return-value]

    async def some(count: int) -> None:
        class Enough(Exception):
            pass

        async def stop() -> None:
            for _ in range(3):
                await loop.checkpoint()
            raise Enough

        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012
            async with loop.group() as spawn:
                for _ in range(count):
                    spawn(call)
                spawn(stop)
        assert isinstance(caught.value, Enough)
        del caught

    async def main() -> None:
        await some(10)
        objects = own_objects()
        await some(500)
        assert own_objects() == objects
        assert left_in_the_loop(loop) <= 4

    loop.run(main)
    meter = private.snapshot()["pipeline"]["everything"]
    assert (meter["active"], meter["calls"]["cancelled"]) == (0, 510)  # type: ignore[index]


def test_loops_that_have_ended_are_not_kept(loop: Backend, private: Registry) -> None:
    policy = everything(private)
    loops: list[weakref.ref[Any]] = []

    async def main() -> None:
        if loop.name == "asyncio":
            loops.append(weakref.ref(asyncio.get_running_loop()))
        await loop.called(policy, loop.checkpoint)

    for _ in range(20):
        loop.run(main)
    gc.collect()
    assert [ref() for ref in loops if ref() is not None] == []
    assert own_objects()["_Table"] == 0


def test_threads_that_have_ended_are_not_watched(private: Registry) -> None:
    limit = timeout(60.0, interrupt="always", registry=private)
    gc.collect()
    before = len(interrupts._WATCHDOG._watched)
    for _ in range(20):
        thread = threading.Thread(target=limit.call, args=[str])
        thread.start()
        thread.join(PATIENCE)
    gc.collect()
    assert len(interrupts._WATCHDOG._watched) <= before


@of_every_kind
def test_virtual_time_keeps_no_timer_of_a_call_that_has_ended(
    backend: Backend, make: Callable[[Registry], Any], fake_clock: FakeClock, private: Registry
) -> None:
    call = backend.guard(make(private), flaky(backend))

    async def main() -> None:
        for _ in range(200):
            try:
                await call()
            except (ConnectionError, KeyboardInterrupt):
                pass
        assert [timer for _, _, timer in fake_clock._timers if timer.fire is not None] == []

    backend.run(main)


def test_a_policy_that_nobody_holds_is_gone(backend: Backend) -> None:
    async def main() -> list[weakref.ref[Any]]:
        registry = Registry()
        policies = [
            retry(attempt_timeout=3.0, registry=registry),
            circuit_breaker(registry=registry),
            timeout(60.0, registry=registry),
            bulkhead(max_queue=3, registry=registry),
            rate_limiter(limit=9, registry=registry),
            throttle(registry=registry),
            fallback(default=0, registry=registry),
            stale(0, 60.0, registry=registry),
            hedge(delay=60.0, registry=registry),
            everything(registry),
        ]
        for policy in policies:
            await backend.called(policy, backend.checkpoint)
        return [weakref.ref(policy) for policy in policies]

    refs = backend.run(main)
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_a_listener_that_was_unsubscribed_is_gone(private: Registry) -> None:
    breaker = circuit_breaker(registry=private)
    before = EVERYTHING.active

    def listener(event: object) -> None: ...

    stop = breaker.subscribe(listener)
    ref = weakref.ref(listener)
    stop()
    del listener, stop
    gc.collect()
    assert ref() is None
    assert EVERYTHING.active == before


def test_a_generator_that_is_dropped_half_way_gives_back_what_it_held(fake_clock: FakeClock, private: Registry) -> None:
    breaker = circuit_breaker("probing", open_duration=20, registry=private)

    @pipeline("numbers", timeout(60.0, registry=private), breaker, registry=private)
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    breaker.trip()
    fake_clock.advance(20.0)
    started = numbers()
    assert next(started) == 1
    with pytest.raises(CircuitOpenError):
        next(numbers())
    del started
    gc.collect()
    assert private.snapshot()["pipeline"]["numbers"]["active"] == 0
    assert next(numbers()) == 1
