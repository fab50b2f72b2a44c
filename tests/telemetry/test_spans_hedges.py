"""The spans of attempts beside each other: only the policy knows which of them was the first to come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from resilient import Registry, hedge
from resilient.testing import FakeClock
from tests.behaviour.kit import Asyncio, Backend, Trio
from tests.telemetry.spans_kit import Seen, own, recording

PATIENCE = 20.0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


def failing(times: int) -> Callable[[], Any]:
    left = [ConnectionError] * times

    def body() -> Any:
        if left:
            raise left.pop()
        return "result"

    return body


class TestOverThreads:
    def hedged(self, seen: Seen, registry: Registry, first: Callable[[], Any], then: Callable[[], Any]) -> Any:
        attempts = iter([first, then])
        lock = threading.Lock()

        def body() -> Any:
            with lock:
                attempt = next(attempts)
            with seen.user():
                return attempt()

        return hedge(delay=0, name="pay", registry=registry).call(body)

    @pytest.mark.parametrize("winner", ["primary", "hedge"])
    def test_it_links_to_the_first_attempt_and_says_who_won(self, seen: Seen, registry: Registry, winner: str) -> None:
        begun, over = threading.Event(), threading.Event()

        def wins() -> str:
            begun.wait(PATIENCE)
            return "won"

        def loses() -> str:
            begun.set()
            over.wait(PATIENCE)
            return "lost"

        pair = (wins, loses) if winner == "primary" else (loses, wins)
        assert self.hedged(seen, registry, *pair) == "won"
        over.set()
        wait_for_the_last(seen)
        execute, part = seen.one("execute pay"), seen.one("attempt pay")
        assert own(part) == {
            "resilience.pipeline.name": "pay",
            "resilience.attempt.number": 2,
            "resilience.attempt.hedge": True,
            "resilience.attempt.result": "lost" if winner == "primary" else "won",
        }
        assert [link.context for link in part.links] == [execute.context]
        inside = next(span for span in seen.ended if span.parent == part.context)
        assert (part.end_time or 0) >= (inside.end_time or 0)
        assert ((part.end_time or 0) > (execute.end_time or 0)) == (winner == "primary")
        said = own(execute)
        assert (said["resilience.hedge.winner"], said["resilience.attempt.count"]) == (winner, 2)
        assert seen.tree() == [("execute pay", [("user", []), ("attempt pay", [("user", [])])])]

    def test_an_attempt_that_fails(self, seen: Seen, registry: Registry) -> None:
        assert hedge(delay=60, name="pay", registry=registry).call(failing(1)) == "result"
        assert seen.named("attempt pay")[0]["resilience.attempt.result"] == "won"
        with pytest.raises(ConnectionError):
            hedge(delay=60, name="pay2", registry=registry).call(failing(9))
        assert [span["resilience.attempt.result"] for span in seen.named("attempt pay2")] == ["failed"]
        assert seen.one("execute pay2").status.status_code is StatusCode.ERROR
        assert "resilience.hedge.winner" not in own(seen.one("execute pay2"))

    def test_one_that_comes_in_second_while_the_policy_is_busy_has_lost(self, seen: Seen, registry: Registry) -> None:
        """Both are back before the policy looks; it takes the one that came first."""
        policy = hedge(delay=0, max_hedges=2, name="pay", registry=registry)
        attempts = iter(range(1, 9))
        lock = threading.Lock()

        def body() -> int:
            with lock:
                number = next(attempts)
            if number == 1:
                first_may.wait(PATIENCE)
            elif number == 2:
                second_may.wait(PATIENCE)
            else:
                third_may.wait(PATIENCE)
            return number

        first_may, second_may, third_may = threading.Event(), threading.Event(), threading.Event()

        def busy(event: Any) -> None:
            if event.data["attempt"] == 3:
                first_may.set()
                wait_until_ended("resilient-attempt-1")
                second_may.set()
                wait_until_ended("resilient-attempt-2")

        stop = policy.subscribe(busy, kinds="hedge_started")
        try:
            assert policy.call(body) == 1
        finally:
            stop()
        third_may.set()
        wait_for_the_last(seen)
        results = {
            span["resilience.attempt.number"]: span["resilience.attempt.result"] for span in seen.named("attempt pay")
        }
        assert results == {2: "lost", 3: "lost"}
        assert policy.snapshot()["attempts"] == {"won": 1, "lost": 2, "failed": 0, "cancelled": 0}

    def test_a_success_that_comes_after_the_call_was_interrupted_has_lost(self, seen: Seen, registry: Registry) -> None:
        policy = hedge(delay=0, name="pay", registry=registry)
        both, over = threading.Barrier(3), threading.Event()

        def body() -> None:
            both.wait(PATIENCE)
            over.wait(PATIENCE)

        def interrupt(self: Any) -> Any:
            both.wait(PATIENCE)
            raise KeyboardInterrupt

        real = pytest.MonkeyPatch()
        calls = iter([lambda race: None, interrupt])
        real.setattr("resilient.drivers.races.ThreadRace.next", lambda race: next(calls)(race))
        try:
            with pytest.raises(KeyboardInterrupt):
                policy.call(body)
        finally:
            real.undo()
        over.set()
        wait_for_the_last(seen)
        assert seen.named("attempt pay")[0]["resilience.attempt.result"] == "lost"
        assert seen.named("execute pay")[0]["resilience.outcome"] == "cancelled"

    def test_one_that_finds_no_thread_leaves_no_span(
        self, seen: Seen, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        start = threading.Thread.start

        def only_one(thread: threading.Thread) -> None:
            if thread.name == "resilient-attempt-2":
                over.set()
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", only_one)
        assert hedge(delay=0, name="pay", registry=registry).call(lambda: over.wait(PATIENCE)) is True
        assert seen.tree() == [("execute pay", [])]


def wait_for_the_last(seen: Seen) -> None:
    stop = time.monotonic() + PATIENCE
    while len(seen.ended) < len(seen.started) and time.monotonic() < stop:
        threading.Event().wait(0.001)


def wait_until_ended(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE)


@pytest.mark.parametrize("loop", [Asyncio(), Trio()], ids=lambda loop: loop.name)
@pytest.mark.parametrize("winner", ["primary", "hedge"])
def test_over_tasks_the_loser_is_cancelled(
    seen: Seen, registry: Registry, loop: Backend, fake_clock: FakeClock, winner: str
) -> None:
    async def main() -> Any:
        second_is_there = loop.event()
        numbers = iter([1, 2])

        async def body() -> int:
            number = next(numbers)
            with seen.user(f"user {number}"):
                if number == 2:
                    second_is_there.set()
                if number != (1 if winner == "primary" else 2):
                    await loop.event().wait()
                await second_is_there.wait()
            return number

        async def pass_time() -> None:
            for _ in range(9):
                await loop.checkpoint()
            fake_clock.advance(1.0)

        with seen.user("request"):
            async with loop.group() as spawn:
                spawn(pass_time)
                return await hedge(delay=1, name="pay", registry=registry).call_async(body)

    assert loop.run(main) == (1 if winner == "primary" else 2)
    assert seen.tree() == [
        ("request", [("execute pay", [("user 1", []), ("attempt pay", [("user 2", [])])])]),
    ]
    execute, part = seen.one("execute pay"), seen.one("attempt pay")
    assert own(part)["resilience.attempt.result"] == ("cancelled" if winner == "primary" else "won")
    assert [link.context for link in part.links] == [execute.context]
    assert own(execute)["resilience.hedge.winner"] == winner


def test_over_tasks_two_that_come_back_at_once_are_told_as_they_are_counted(
    seen: Seen, registry: Registry, fake_clock: FakeClock
) -> None:
    policy = hedge(delay=1, name="pay", registry=registry)

    async def main() -> int:
        go = asyncio.Event()
        numbers = iter([1, 2])

        async def body() -> int:
            number = next(numbers)
            await go.wait()
            return number

        call = asyncio.create_task(policy.call_async(body))
        await asyncio.sleep(0)
        fake_clock.advance(1.0)
        while len(seen.started) < 2:
            await asyncio.sleep(0)
        go.set()
        return await call

    assert asyncio.run(main()) == 1
    assert seen.named("attempt pay")[0]["resilience.attempt.result"] == "cancelled"
    assert policy.snapshot()["attempts"] == {"won": 1, "lost": 0, "failed": 0, "cancelled": 1}


def test_over_tasks_one_that_is_cancelled_before_its_first_step_leaves_no_span(
    seen: Seen, registry: Registry, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        async def body() -> None:
            await asyncio.Event().wait()

        call = asyncio.create_task(hedge(delay=0, name="pay", registry=registry).call_async(body))
        while not any(task.get_name() == "resilient-attempt-2" for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
        (second,) = [task for task in asyncio.all_tasks() if task.get_name() == "resilient-attempt-2"]
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    assert seen.tree() == [("execute pay", [])]
