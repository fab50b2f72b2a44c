"""What must hold for the rate limiter as for every policy."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import Event, RateLimitedError, Registry
from resilient.core.clock import CLOCK
from resilient.core.gcra import Slot
from resilient.policies.rate_limiter import RateLimiter, rate_limiter
from resilient.testing import FakeClock
from tests.behaviour.cancelling import cancelled_at
from tests.behaviour.kit import SCOPE_FACES, Asyncio, Backend, Threads, Trio

LOOPS: list[Backend] = [Asyncio(), Trio()]

each_face = pytest.mark.parametrize("face", SCOPE_FACES)
on_loops = pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
everywhere = pytest.mark.parametrize("backend", [Threads(), *LOOPS], ids=lambda backend: backend.name)


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def fresh(**settings: Any) -> RateLimiter:
    return rate_limiter("geocoder", registry=Registry(), **settings)


def used_up(**settings: Any) -> RateLimiter:
    """A limiter that has let its first call pass and so makes the next one wait."""
    limiter = fresh(limit=1, burst=1, **settings)
    limiter.call(int)
    return limiter


def totals(limiter: RateLimiter) -> tuple[int, int, int]:
    counts: Any = limiter.snapshot()["totals"]
    return counts["allowed"], counts["delayed"], counts["rejected"]


# 1: cancellation and its like


@on_loops
@each_face
def test_a_cancellation_at_any_await_point_stays_one_and_leaves_nobody_waiting(
    loop: Backend, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        points, cancelled = 0, True
        while cancelled:
            limiter = used_up(max_wait=60.0)
            began: list[None] = []

            async def body(began: list[None] = began) -> str:
                began.append(None)
                await loop.checkpoint()
                return "result"

            run = await cancelled_at(loop, points, loop.use(face, limiter, body))
            cancelled = run.cancelled
            assert cancelled or run.result == "result"
            assert limiter._gcra.waiting == 0 or began
            assert totals(limiter) == (1, len(began), 0)
            points += cancelled
        # Before it begins, in the wait, in the body.
        assert points >= 3

    loop.run(main)


@on_loops
@each_face
def test_a_call_cancelled_in_a_real_wait_gives_its_slot_back(loop: Backend, face: str) -> None:
    async def main() -> None:
        for point in (0, 1):
            limiter = used_up(period=60.0, max_wait=100.0)
            run = await cancelled_at(loop, point, loop.use(face, limiter, loop.checkpoint))
            assert run.cancelled
            assert limiter._gcra.waiting == 0
            # The next would have its turn after one minute, not two.
            slot = limiter._gcra.reserve(CLOCK.now(), 100.0)
            assert isinstance(slot, Slot)
            assert 50.0 < slot.at - CLOCK.now() <= 60.0

    loop.run(main)


@everywhere
@each_face
@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_from_the_body_as_the_same_object(
    backend: Backend, face: str, passing: type[BaseException], fake_clock: FakeClock
) -> None:
    limiter, thrown = used_up(max_wait=60.0), passing()

    async def throwing() -> None:
        raise thrown

    async def main() -> None:
        with pytest.raises(passing) as caught:
            await backend.use(face, limiter, throwing)
        assert caught.value is thrown
        assert totals(limiter) == (1, 1, 0)

    backend.run(main)


# 2: locks


def test_no_lock_is_held_while_bodies_run() -> None:
    limiter = fresh(limit=5)
    together = threading.Barrier(5, timeout=10.0)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: limiter.call(together.wait), range(5)))
    for loop in LOOPS:
        limiter = fresh(limit=5)
        loop.run(loop.all_at_once, 5, lambda body, loop=loop, limiter=limiter: loop.called(limiter, body))


@everywhere
@each_face
def test_no_lock_is_held_while_calls_wait(backend: Backend, face: str, fake_clock: FakeClock) -> None:
    limiter = used_up(max_wait=1.5)
    refused: list[bool] = []

    def another() -> None:
        with pytest.raises(RateLimitedError):
            limiter.call(int)
        refused.append(limiter.snapshot()["available"] == 0)

    def during_the_wait() -> None:
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        thread.join(5.0)

    fake_clock.call_at(fake_clock.now() + 0.25, during_the_wait)
    backend.run(backend.use, face, limiter, backend.checkpoint)
    assert refused == [True]


# 4: errors


@everywhere
@each_face
def test_the_exception_of_the_body_arrives_as_the_same_object(backend: Backend, face: str) -> None:
    limiter, error = fresh(limit=5), ValueError("mine")

    async def failing() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(ValueError, match="mine") as caught:
            await backend.use(face, limiter, failing)
        assert caught.value is error

    backend.run(main)


def test_each_refusal_is_an_exception_of_its_own() -> None:
    limiter, seen = used_up(period=60.0), []
    for _ in range(2):
        with pytest.raises(RateLimitedError) as caught:
            limiter.call(int)
        seen.append(caught.value)
    assert seen[0] is not seen[1]


# 5: nothing is left


def test_ten_thousand_calls_leave_nothing_behind() -> None:
    limiter = fresh(limit=5_000, burst=1, max_wait=60.0)

    async def main(calls: int) -> tuple[int, int]:
        loop: Any = asyncio.get_running_loop()
        for _ in range(calls // 2):
            await asyncio.gather(limiter.call_async(asyncio.sleep, 0), limiter.call_async(asyncio.sleep, 0))
        # A timer that was cancelled stays until the loop comes by.
        return len(asyncio.all_tasks()), sum(not handle.cancelled() for handle in loop._scheduled)

    def run(calls: int) -> int:
        assert asyncio.run(main(calls)) == (1, 0)
        for _ in range(calls):
            limiter.call(int)
        gc.collect()
        return len(gc.get_objects())

    run(50)
    before, threads = run(50), threading.active_count()
    after = run(5_000)
    assert after - before < 100
    assert threading.active_count() <= threads
    assert totals(limiter)[1] > 0


# 7: context variables

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@everywhere
@each_face
@pytest.mark.parametrize("waits", [False, True])
def test_context_variables_go_in_and_come_out(backend: Backend, face: str, waits: bool, fake_clock: FakeClock) -> None:
    limiter = used_up(max_wait=60.0) if waits else fresh(limit=1)

    async def body() -> None:
        assert VARIABLE.get() == "from the caller"
        VARIABLE.set("from the body")

    async def main() -> None:
        token = VARIABLE.set("from the caller")
        await backend.use(face, limiter, body)
        assert VARIABLE.get() == "from the body"
        VARIABLE.reset(token)

    backend.run(main)
    assert totals(limiter)[1] == waits


# 8: time


@pytest.mark.realtime
@everywhere
def test_the_wall_clock_plays_no_part(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise AssertionError

    limiter = fresh(limit=100, burst=1, max_wait=1.0)

    async def main() -> None:
        monkeypatch.setattr(time, "time", broken)
        for _ in range(2):
            await backend.called(limiter, backend.checkpoint)
        monkeypatch.undo()

    backend.run(main)
    assert sum(totals(limiter)) == 2


# 9: listeners


def test_listeners_change_nothing_and_may_call_back(caplog: pytest.LogCaptureFixture, fake_clock: FakeClock) -> None:
    limiter = used_up(period=60.0)
    told: list[Event] = []

    def listener(event: Event) -> None:
        told.append(event)
        if len(told) == 1:
            # On a thread of its own: a lock that the teller held would be in the way.
            thread = threading.Thread(target=call_back, daemon=True)
            thread.start()
            thread.join(5.0)
            assert not thread.is_alive()
        raise OSError

    def call_back() -> None:
        limiter.snapshot()
        with pytest.raises(RateLimitedError):
            limiter.call(int)

    limiter.subscribe(listener)
    with pytest.raises(RateLimitedError):
        limiter.call(int)
    assert [(event.kind, event.data) for event in told] == [("call_rejected", {"retry_after": 60.0})] * 2
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError]


# 3, 10: counts


@pytest.mark.usefixtures("_hasty_threads", "fake_clock")
def test_where_threads_meet_as_many_pass_as_may_and_each_call_counts() -> None:
    limiter, begin = fresh(limit=1, burst=20_000), threading.Barrier(8)

    def work() -> None:
        begin.wait(10.0)
        for _ in range(5_000):
            try:
                limiter.call(int)
            except RateLimitedError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(limiter) == (20_000, 0, 20_000)


@pytest.mark.usefixtures("_hasty_threads")
def test_every_call_counts_once_under_eight_threads(fake_clock: FakeClock) -> None:
    limiter = fresh(limit=1000, burst=20, max_wait=0.002)
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(300):
            try:
                limiter.call(int)
            except RateLimitedError:
                outcomes.append("refused")
            else:
                outcomes.append("in")

    began = fake_clock.now()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    allowed, delayed, rejected = totals(limiter)
    assert (allowed + delayed, rejected) == (outcomes.count("in"), outcomes.count("refused"))
    assert len(outcomes) == 2_400
    assert min(allowed, delayed) > 0
    assert outcomes.count("in") <= 20 + 1000 * (fake_clock.now() - began) + 1e-3
