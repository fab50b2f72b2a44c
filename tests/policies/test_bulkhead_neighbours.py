"""The bulkhead among other policies, and work that runs on after a timeout."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Registry,
    TimeoutExceededError,
    pipeline,
    retry,
    timeout,
)
from resilient.testing import FakeClock
from tests.policies.bulkhead_kit import (
    at_rest,
    fresh,
    until,
)

# Among other policies


def test_a_retry_outside_gives_the_permit_back_while_it_waits_and_joins_at_the_end(fake_clock: FakeClock) -> None:
    policy = fresh(max_concurrent=1)
    attempts: list[int] = []
    during_waits: list[int] = []
    fake_clock.call_at(fake_clock.now() + 0.5, lambda: during_waits.append(policy.in_flight))

    def body() -> str:
        attempts.append(policy.in_flight)
        if len(attempts) < 2:
            raise OSError
        return "done"

    assert pipeline(retry(attempts=2, backoff=1.0), policy).call(body) == "done"
    assert attempts == [1, 1]
    assert during_waits == [0]


def test_a_retry_that_waits_outside_joins_the_queue_at_its_end() -> None:
    policy = fresh(max_concurrent=1, max_queue=5)
    order: list[str] = []
    gate = threading.Event()

    def flaky() -> None:
        order.append("flaky")
        if order.count("flaky") == 1:
            gate.wait(10.0)
            raise OSError

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(pipeline(retry(attempts=2, backoff=[0]), policy).call, flaky)
        until(lambda: order == ["flaky"])
        others = []
        for count in (1, 2):
            others.append(pool.submit(policy.call, lambda count=count: order.append(f"other {count}")))
            until(lambda count=count: policy.queued == count)  # type: ignore[misc]
        gate.set()
        for future in (first, *others):
            future.result(10.0)
    assert order == ["flaky", "other 1", "other 2", "flaky"]


def test_a_retry_inside_keeps_the_permit_while_it_waits(fake_clock: FakeClock) -> None:
    policy = fresh(max_concurrent=1)
    during_waits: list[int] = []
    fake_clock.call_at(fake_clock.now() + 0.5, lambda: during_waits.append(policy.in_flight))
    attempts: list[None] = []

    def body() -> str:
        attempts.append(None)
        if len(attempts) < 2:
            raise OSError
        return "done"

    assert pipeline(policy, retry(attempts=2, backoff=1.0)).call(body) == "done"
    assert during_waits == [1]
    assert at_rest(policy)


def test_a_retry_tries_a_full_bulkhead_again_only_where_asked(fake_clock: FakeClock) -> None:
    policy = fresh(max_concurrent=1)
    assert policy._permits.try_acquire()
    fake_clock.call_at(fake_clock.now() + 0.5, policy._permits.release)
    with pytest.raises(BulkheadFullError):
        pipeline(retry(backoff=1.0), policy).call(lambda: "in")
    assert pipeline(retry(on=BulkheadFullError, backoff=1.0), policy).call(lambda: "in") == "in"


# Work that runs on after a timeout


class Stuck:
    """A body that can't be interrupted."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.running = 0

    def __call__(self) -> str:
        self.running += 1
        try:
            self.end.wait(10.0)
        finally:
            self.running -= 1
        return "late"


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    body = Stuck()
    yield body
    body.end.set()


def preempting(seconds: float = 0.01) -> Any:
    return timeout(seconds, interrupt="thread", registry=Registry())


def test_work_that_runs_on_after_a_timeout_keeps_its_permit_until_it_ends(stuck: Stuck) -> None:
    policy = fresh(max_concurrent=1)
    guarded = pipeline(policy, preempting())
    with pytest.raises(TimeoutExceededError):
        guarded.call(stuck)
    until(lambda: stuck.running == 1)
    assert policy.in_flight == 1
    with pytest.raises(BulkheadFullError):
        guarded.call(lambda: None)
    stuck.end.set()
    until(lambda: policy.in_flight == 0)
    assert stuck.running == 0
    assert at_rest(policy)
    assert guarded.call(lambda: "in") == "in"


def test_whoever_waits_gets_the_permit_when_the_work_really_ends(stuck: Stuck) -> None:
    policy = fresh(max_concurrent=1, max_queue=1)
    with pytest.raises(TimeoutExceededError):
        pipeline(policy, preempting()).call(stuck)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(policy.call, lambda: stuck.running)
        until(lambda: policy.queued == 1)
        stuck.end.set()
        assert waiting.result(10.0) == 0
    assert at_rest(policy)


def _in_a_block(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    with policy:
        return work()


def _in_a_function(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    return policy.call(work)


def _in_a_generator(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    def steps() -> Iterator[Any]:
        yield None
        yield work()

    return list(policy(steps)())


def _in_a_task(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    async def coroutine() -> Any:
        return work()

    return asyncio.run(policy.call_async(coroutine))


def _in_two(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    return pipeline(policy, fresh()).call(work)


def _in_a_helper_thread(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    return pipeline(policy, preempting(10.0)).call(work)


def _in_an_abandoned_helper_thread(policy: Bulkhead, work: Callable[[], Any]) -> Any:
    def twice() -> None:
        try:
            work()
        finally:
            time.sleep(0.1)

    return pipeline(policy, preempting(0.05)).call(twice)


@pytest.mark.parametrize(
    "inside",
    [
        _in_a_block,
        _in_a_function,
        _in_a_generator,
        _in_a_task,
        _in_two,
        _in_a_helper_thread,
        _in_an_abandoned_helper_thread,
    ],
)
def test_it_does_so_wherever_inside_the_bulkhead_the_timeout_is(inside: Any, stuck: Stuck) -> None:
    policy = fresh(max_concurrent=1)
    guarded = preempting()(lambda: stuck())
    with pytest.raises(TimeoutExceededError):
        inside(policy, guarded)
    time.sleep(0.12 if inside is _in_an_abandoned_helper_thread else 0.0)
    until(lambda: stuck.running == 1)
    assert policy.in_flight == 1
    stuck.end.set()
    until(lambda: policy.in_flight == 0)
    assert at_rest(policy)


def test_every_attempt_that_runs_on_keeps_a_permit(stuck: Stuck) -> None:
    policy = fresh(max_concurrent=4)
    with pytest.raises(TimeoutExceededError):
        pipeline(policy, retry(attempts=3, backoff=[0]), preempting()).call(stuck)
    until(lambda: stuck.running == 3)
    assert policy.in_flight == 3
    stuck.end.set()
    until(lambda: policy.in_flight == 0)
    assert at_rest(policy)


def test_a_success_after_an_attempt_that_runs_on_keeps_the_permit_for_that(stuck: Stuck) -> None:
    policy = fresh(max_concurrent=1)
    bodies: list[Callable[[], str]] = [stuck, lambda: "second"]
    guarded = pipeline(policy, retry(attempts=2, backoff=[0]), preempting(0.25))
    assert guarded.call(lambda: bodies.pop(0)()) == "second"
    assert policy.in_flight == 1
    stuck.end.set()
    until(lambda: policy.in_flight == 0)
    assert at_rest(policy)


def test_a_body_that_was_late_but_has_ended_keeps_nothing() -> None:
    policy = fresh(max_concurrent=1)
    guarded = pipeline(policy, preempting(0.005))
    for _ in range(20):
        try:
            guarded.call(time.sleep, 0.005)
        except (TimeoutExceededError, BulkheadFullError):
            pass
    until(lambda: policy.in_flight == 0)
    assert at_rest(policy)


def test_work_of_others_on_the_same_thread_keeps_no_permit_of_ours(stuck: Stuck) -> None:
    policy = fresh(max_concurrent=1)

    @policy
    def items() -> Iterator[int]:
        yield 1
        yield 2

    for _ in items():
        # The consumer's work, not the generator's.
        with pytest.raises(TimeoutExceededError):
            preempting().call(stuck)
    assert policy.in_flight == 0

    async def ours() -> None:
        async with policy:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def theirs() -> None:
        with pytest.raises(TimeoutExceededError):
            preempting().call(stuck)

    async def main() -> None:
        await asyncio.gather(ours(), theirs())

    asyncio.run(main())
    assert policy.in_flight == 0
