"""What must hold for the bulkhead as for every policy."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
import trio

from resilient import (
    BulkheadFullError,
    Event,
    adaptive,
)
from tests.policies.bulkhead_kit import (
    Hold,
    Through,
    at_rest,
    by_block,
    by_call,
    by_decorator,
    by_generator,
    faces,
    fresh,
    until,
)


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# Invariants of all policies


@pytest.mark.parametrize("neutral", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("through", [by_call, by_decorator, by_block, by_generator])
def test_neutral_exceptions_pass_untouched_and_give_the_permit_back(
    through: Through, neutral: type[BaseException]
) -> None:
    policy = fresh(max_concurrent=1)
    thrown = neutral()

    def body() -> None:
        raise thrown

    with pytest.raises(neutral) as caught:
        through(policy, body)
    assert caught.value is thrown
    assert at_rest(policy)


def test_no_lock_is_held_while_bodies_run() -> None:
    policy = fresh(max_concurrent=5)
    barrier = threading.Barrier(5, timeout=10.0)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: policy.call(barrier.wait), range(5)))
    assert at_rest(policy)


def test_no_lock_is_held_while_calls_wait() -> None:
    policy = fresh(max_concurrent=1, max_queue=2, queue_timeout=5.0)
    with Hold(policy) as hold, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(policy.call, lambda: None) for _ in range(2)]
        until(lambda: policy.queued == 2)
        assert policy.snapshot()["queued"] == 2
        policy.resize(2)
        policy.resize(1)
        hold.leave()
        for future in waiting:
            future.result(10.0)


@faces
def test_the_exception_of_the_body_is_the_one_that_the_caller_sees(through: Through) -> None:
    policy = fresh()
    error = ValueError("mine")

    def body() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        through(policy, body)
    assert caught.value is error
    assert at_rest(policy)


def test_each_refusal_is_an_exception_of_its_own() -> None:
    policy = fresh(max_concurrent=1)
    seen: list[BaseException] = []
    with Hold(policy):
        for _ in range(2):
            try:
                policy.call(lambda: None)
            except BulkheadFullError as error:
                seen.append(error)
    assert seen[0] is not seen[1]


def test_ten_thousand_calls_leave_nothing_behind() -> None:
    policy = fresh(max_concurrent=1, max_queue=2, queue_timeout=60.0)

    async def one() -> None:
        async with policy:
            await asyncio.sleep(0)

    async def contended(rounds: int) -> int:
        for _ in range(rounds):
            await asyncio.gather(one(), one(), one())
        return len(asyncio.all_tasks())

    def run(rounds: int) -> int:
        assert asyncio.run(contended(rounds)) == 1
        for _ in range(3 * rounds):
            policy.call(lambda: None)
        gc.collect()
        return len(gc.get_objects())

    run(50)
    before, threads = run(50), threading.active_count()
    after = run(1_700)
    assert after - before < 100
    assert threading.active_count() <= threads
    assert at_rest(policy)


VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.parametrize("queued", [False, True])
def test_context_variables_go_in_and_come_out(queued: bool) -> None:
    policy = fresh(max_concurrent=1, max_queue=1)

    def body() -> None:
        assert VARIABLE.get() == "from the caller"
        VARIABLE.set("from the body")

    async def coroutine() -> None:
        body()

    async def main() -> None:
        VARIABLE.set("from the caller")
        if queued:
            assert policy._permits.try_acquire()
            asyncio.get_running_loop().call_soon(policy._permits.release)
        await policy.call_async(coroutine)
        assert VARIABLE.get() == "from the body"

    asyncio.run(main())
    token = VARIABLE.set("from the caller")
    policy.call(body)
    assert VARIABLE.get() == "from the body"
    VARIABLE.reset(token)


def test_the_wall_clock_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise AssertionError

    policy = fresh(max_concurrent=adaptive(initial=1, maximum=1), max_queue=1, queue_timeout=0.001)
    monkeypatch.setattr(time, "time", broken)
    with Hold(policy):
        with pytest.raises(BulkheadFullError):
            policy.call(lambda: None)


def test_listeners_change_nothing_and_may_call_back(caplog: pytest.LogCaptureFixture) -> None:
    policy = fresh(name="reports", max_concurrent=1)
    told: list[Event] = []

    def listener(event: Event) -> None:
        told.append(event)
        policy.snapshot()
        if event.kind == "call_rejected" and policy.limit == 1:
            policy.resize(2)
            policy.call(lambda: None)
        raise OSError

    policy.subscribe(listener)
    with Hold(policy):
        with pytest.raises(BulkheadFullError):
            policy.call(lambda: None)
    assert [event.kind for event in told] == ["call_rejected", "limit_changed"]
    rejected = told[0]
    assert (rejected.policy_kind, rejected.policy, rejected.operation) == ("bulkhead", "reports", "reports")
    assert rejected.data == {"reason": "full", "limit": 1, "in_flight": 1, "queued": 0, "retry_after": None}
    assert [record.name for record in caplog.records if record.exc_info] == ["resilient"]
    assert at_rest(policy)


def test_listeners_are_told_outside_all_locks() -> None:
    policy = fresh(max_concurrent=1)
    told: list[tuple[str, bool]] = []

    def listener(event: Event) -> None:
        # A lock that the teller held would be in the way of another thread.
        thread = threading.Thread(target=policy.resize, args=(policy.limit,), daemon=True)
        thread.start()
        thread.join(5.0)
        told.append((event.kind, thread.is_alive()))

    policy.subscribe(listener)
    with Hold(policy):
        with pytest.raises(BulkheadFullError):
            policy.call(lambda: None)
        policy.resize(2)
    assert told == [("call_rejected", False), ("limit_changed", False)]


@pytest.mark.usefixtures("_hasty_threads")
def test_every_call_counts_once_under_eight_threads() -> None:
    policy = fresh(max_concurrent=2, max_queue=3, queue_timeout=0.0005)
    outcomes: list[str] = []

    def work() -> None:
        for turn in range(400):
            try:
                policy.call(time.sleep, 0.0 if turn % 10 else 0.0005)
            except BulkheadFullError:
                outcomes.append("refused")
            else:
                outcomes.append("in")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals: Any = policy.snapshot()["totals"]
    assert totals["accepted"] + totals["queued"] == outcomes.count("in")
    assert totals["rejected"] + totals["queue_timeout"] == outcomes.count("refused")
    assert len(outcomes) == 3_200
    assert at_rest(policy)


@pytest.mark.usefixtures("_hasty_threads")
def test_no_count_is_lost_where_nobody_waits() -> None:
    policy, begin = fresh(max_concurrent=100), threading.Barrier(8)

    def work() -> None:
        begin.wait(10.0)
        for _ in range(5_000):
            policy.call(int)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert policy.snapshot()["totals"] == {"accepted": 40_000, "queued": 0, "rejected": 0, "queue_timeout": 0}
    assert at_rest(policy)


def test_threads_two_loops_and_trio_share_exact_counts() -> None:
    policy = fresh(max_concurrent=2, max_queue=100)

    async def on_loop() -> None:
        for _ in range(50):
            async with policy:
                await asyncio.sleep(0)

    async def in_nursery() -> None:
        for _ in range(50):
            async with policy:
                await trio.lowlevel.checkpoint()

    works: list[Callable[[], object]] = [
        lambda: [policy.call(time.sleep, 0) for _ in range(50)],
        lambda: asyncio.run(on_loop()),
        lambda: asyncio.run(on_loop()),
        lambda: trio.run(in_nursery),
    ]
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result(30.0)
    totals: Any = policy.snapshot()["totals"]
    assert totals["accepted"] + totals["queued"] == 200
    assert at_rest(policy)


def test_waiting_on_a_thread_with_a_loop_warns_once_and_names_the_async_form() -> None:
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=0.001)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="bulkhead blocks a thread .*use `async with`"):
            with pytest.raises(BulkheadFullError):
                policy.call(lambda: None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(BulkheadFullError):
                policy.call(lambda: None)

    with Hold(policy):
        asyncio.run(main())
    assert at_rest(policy)


def test_a_warning_made_an_error_leaves_no_waiter_behind() -> None:
    policy = fresh(max_concurrent=1, max_queue=1)

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning):
                policy.call(lambda: None)

    with Hold(policy):
        asyncio.run(main())
        assert policy.queued == 0
    assert at_rest(policy)
