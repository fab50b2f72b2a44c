"""What must hold for the throttle as for every policy."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import Event, Registry, Throttle, ThrottledError, throttle
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


def fresh(draw: float = 1.0, requests: int = 0, **settings: Any) -> Throttle:
    """A throttle with loaded dice, after so many calls that the other side refused."""
    policy = throttle("search", registry=Registry(), **settings)
    policy._draw = lambda: draw
    for _ in range(requests):
        policy._shares.record(time.monotonic(), accepted=False)
    return policy


def window(policy: Throttle) -> tuple[object, object]:
    snapshot = policy.snapshot()
    return snapshot["requests"], snapshot["accepts"]


# 1: cancellation and its like


@on_loops
@each_face
def test_a_cancellation_at_any_await_point_stays_one_and_does_not_count(loop: Backend, face: str) -> None:
    async def body() -> str:
        await loop.checkpoint()
        await loop.checkpoint()
        return "result"

    async def main() -> None:
        whole = await cancelled_at(loop, None, loop.use(face, fresh(), body))
        assert (whole.result, whole.steps >= 2) == ("result", True)
        for point in range(whole.steps + 1):
            policy = fresh(on=BaseException)
            run = await cancelled_at(loop, point, loop.use(face, policy, body))
            assert run.cancelled
            assert window(policy) == (0, 0)

    loop.run(main)


@everywhere
@each_face
@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_as_the_same_object_and_does_not_count(
    backend: Backend, face: str, passing: type[BaseException]
) -> None:
    policy, thrown = fresh(on=BaseException), passing()

    async def throwing() -> None:
        raise thrown

    async def main() -> None:
        with pytest.raises(passing) as caught:
            await backend.use(face, policy, throwing)
        assert caught.value is thrown

    backend.run(main)
    assert window(policy) == (0, 0)


# 2: locks


def test_no_lock_is_held_while_bodies_run() -> None:
    policy = fresh()
    together = threading.Barrier(5, timeout=10.0)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: policy.call(together.wait), range(5)))
    for loop in LOOPS:
        loop.run(loop.all_at_once, 5, lambda body, loop=loop: loop.called(policy, body))
    assert window(policy) == (15, 15)


# 4: errors


@everywhere
@each_face
def test_the_exception_of_the_body_arrives_as_the_same_object(backend: Backend, face: str) -> None:
    policy, error = fresh(), ConnectionError("theirs")

    async def failing() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await backend.use(face, policy, failing)
        assert caught.value is error

    backend.run(main)
    assert window(policy) == (1, 0)


# 5: nothing is left


@everywhere
def test_ten_thousand_calls_leave_nothing_behind(backend: Backend) -> None:
    policy = fresh(draw=0.5, window=1.0)
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise ConnectionError

    async def some(count: int) -> int:
        for _ in range(count):
            try:
                await backend.called(policy, body)
            except (ConnectionError, ThrottledError):
                pass
        # Parts of the window come and go.
        policy._shares._parts = ()
        gc.collect()
        return len(gc.get_objects())

    async def main() -> None:
        await some(100)
        before, threads = await some(100), threading.active_count()
        assert await some(10_000) - before < 50
        assert threading.active_count() <= threads

    backend.run(main)
    assert policy.snapshot()["rejected"] != 0


# 7: context variables

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@everywhere
@each_face
def test_context_variables_go_in_and_come_out(backend: Backend, face: str) -> None:
    async def body() -> None:
        assert VARIABLE.get() == "from the caller"
        VARIABLE.set("from the body")

    async def main() -> None:
        token = VARIABLE.set("from the caller")
        await backend.use(face, fresh(), body)
        assert VARIABLE.get() == "from the body"
        VARIABLE.reset(token)

    backend.run(main)


# 8: time


@everywhere
@each_face
def test_the_wall_clock_plays_no_part(backend: Backend, face: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise AssertionError

    policy = fresh()

    async def failing() -> None:
        raise ConnectionError

    async def main() -> None:
        monkeypatch.setattr(time, "time", broken)
        await backend.use(face, policy, backend.checkpoint)
        with pytest.raises(ConnectionError):
            await backend.use(face, policy, failing)
        assert policy.snapshot()["requests"] == 2
        monkeypatch.undo()

    backend.run(main)


# 9: listeners


def test_a_listener_may_call_back_from_another_thread_and_fail(caplog: pytest.LogCaptureFixture) -> None:
    policy = fresh(draw=0.0, requests=10)
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
        with pytest.raises(ThrottledError):
            policy.call(int)

    policy.subscribe(listener)
    with pytest.raises(ThrottledError):
        policy.call(int)
    assert [event.kind for event in told] == ["call_rejected"] * 2
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError]
    assert window(policy) == (12, 0)


# 3, 10: counts


@pytest.mark.usefixtures("_hasty_threads")
@pytest.mark.parametrize("draw", [1.0, 0.0])
def test_no_count_is_lost_where_threads_meet_in_the_shortest_of_calls(draw: float) -> None:
    policy, begin = fresh(draw, requests=100), threading.Barrier(8)

    def work() -> None:
        begin.wait(10.0)
        for _ in range(5_000):
            try:
                policy.call(int)
            except ThrottledError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = 40_000 if draw else 0
    assert policy.snapshot()["totals"] == {"passed": passed, "rejected": 40_000 - passed}
    assert window(policy) == (40_100, passed)


@pytest.mark.usefixtures("_hasty_threads")
def test_every_call_counts_once_under_eight_threads_and_three_loops(fake_clock: FakeClock) -> None:
    policy = fresh()
    policy._draw = random.Random(1).random
    outcomes: list[str] = []
    begin = threading.Barrier(11)

    def fail() -> None:
        raise ConnectionError

    def work() -> None:
        begin.wait(10.0)
        for turn in range(1_000):
            try:
                policy.call(fail if turn % 3 else int)
            except ThrottledError:
                outcomes.append("rejected")
            except ConnectionError:
                outcomes.append("failed")
            else:
                outcomes.append("accepted")

    async def in_a_task() -> None:
        begin.wait(10.0)
        for turn in range(1_000):
            try:
                async with policy:
                    if turn % 3:
                        raise ConnectionError
            except ThrottledError:
                outcomes.append("rejected")
            except ConnectionError:
                outcomes.append("failed")
            else:
                outcomes.append("accepted")

    threads = [threading.Thread(target=work) for _ in range(8)]
    threads += [threading.Thread(target=loop.run, args=(in_a_task,)) for loop in (*LOOPS, Asyncio())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {kind: outcomes.count(kind) for kind in ("accepted", "failed", "rejected")}
    assert sum(counts.values()) == 11_000
    assert min(counts.values()) > 0
    assert window(policy) == (11_000, counts["accepted"])
    assert policy.snapshot()["totals"] == {
        "passed": counts["accepted"] + counts["failed"],
        "rejected": counts["rejected"],
    }
