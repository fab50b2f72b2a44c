"""Spans through every face, over threads, asyncio and trio: current while user code runs, and never after."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

from resilient import Registry, bulkhead, circuit_breaker, pipeline, retry, timeout
from resilient.testing import FakeClock, fake_clock
from tests.behaviour.kit import RETRY_FACES, SCOPE_FACES, Asyncio, Backend, Threads, Trio
from tests.telemetry.spans_kit import Seen, Tree, own, recording

PATIENCE = 20.0
TASKS: list[Backend] = [Asyncio(), Trio()]

over_all = pytest.mark.parametrize("loop", [Threads(), *TASKS], ids=lambda loop: loop.name)
over_tasks = pytest.mark.parametrize("loop", TASKS, ids=lambda loop: loop.name)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


def current() -> str | None:
    return getattr(trace.get_current_span(), "name", None)


@over_all
@pytest.mark.parametrize("face", SCOPE_FACES)
def test_a_users_spans_stand_around_and_inside(seen: Seen, registry: Registry, loop: Backend, face: str) -> None:
    pay = pipeline("pay", circuit_breaker(registry=registry), bulkhead(registry=registry), registry=registry)

    async def main() -> None:
        async def body() -> str:
            with seen.user("inside"):
                await loop.checkpoint()
                with seen.user("further inside"):
                    await loop.checkpoint()
            return "result"

        with seen.user("around"):
            assert await loop.use(face, pay, body) == "result"
            assert current() == "around"
            with seen.user("after"):
                pass

    loop.run(main)
    ((around, (execute, after)),) = seen.tree()
    assert (around, execute[1], after) == ("around", [("inside", [("further inside", [])])], ("after", []))
    assert execute[0].startswith("execute ")


@over_all
@pytest.mark.parametrize("face", RETRY_FACES)
def test_attempts_through_every_face_of_retry(
    seen: Seen, registry: Registry, loop: Backend, face: str, fake_clock: FakeClock
) -> None:
    policy = retry(name="pay", attempts=4, backoff=[1.0, 2.0], attempt_timeout=30, registry=registry)
    failures = 2

    async def body() -> str:
        nonlocal failures
        with seen.user():
            await loop.checkpoint()
            if failures:
                failures -= 1
                raise ConnectionError
        return "result"

    async def main() -> None:
        with seen.user("around"):
            assert await loop.use(face, policy, body) == "result"
            assert current() == "around"

    loop.run(main)
    user: tuple[str, Tree] = ("user", [])
    ((_, ((_, below),)),) = seen.tree()
    assert [user if name == "user" else (name[:7], rest) for name, rest in below] == [
        user,
        ("attempt", [user]),
        ("attempt", [user]),
    ]
    attempts = seen.named(next(span.name for span in seen.ended if span.name.startswith("attempt")))
    assert attempts == [
        {
            "resilience.attempt.number": 2,
            "resilience.retry.backoff": 1.0,
            "resilience.attempt.result": "retryable_failure",
        },
        {"resilience.attempt.number": 3, "resilience.retry.backoff": 2.0, "resilience.attempt.result": "success"},
    ]
    (execute,) = [own(span) for span in seen.ended if span.name.startswith("execute")]
    assert (execute["resilience.attempt.count"], execute["resilience.retry.result"]) == (3, "recovered")


class TestLoopsOfAttempts:
    def test_the_loops_own_code_and_its_waits_are_no_part_of_the_trace(self, seen: Seen, registry: Registry) -> None:
        outside: list[str | None] = []
        for attempt in retry(name="pay", backoff=0, registry=registry):
            outside.append(current())
            with attempt:
                if attempt.number < 3:
                    raise ConnectionError
            outside.append(current())
        assert outside == [None] * 6
        assert seen.tree() == [("execute pay", [("attempt pay", []), ("attempt pay", [])])]

    def test_one_whose_wait_passes_the_deadline_says_so_on_its_own_span(self, seen: Seen, registry: Registry) -> None:
        with fake_clock() as clock:

            def oversleep(event: Any) -> None:
                clock.advance(60.0)

            policy = retry(name="pay", backoff=1.0, registry=registry)
            policy.subscribe(oversleep, kinds="retry_scheduled")

            def body() -> None:
                for attempt in policy:
                    with attempt:
                        raise ConnectionError

            with pytest.raises(ConnectionError):
                timeout(30, name="outer", interrupt="never", registry=registry).call(body)
        assert seen.named("execute pay")[0]["resilience.retry.result"] == "deadline"
        assert "resilience.retry.result" not in seen.named("execute outer")[0]

    @pytest.mark.parametrize("at", ["block", "between"])
    def test_one_that_is_left_by_a_break(self, seen: Seen, registry: Registry, at: str) -> None:
        for attempt in retry(name="pay", backoff=0, registry=registry):
            if attempt.number == 2 and at == "between":
                break
            with attempt:
                if attempt.number == 1:
                    raise ConnectionError
                break
        del attempt
        gc.collect()
        assert [span.name for span in seen.ended] == ["attempt pay", "execute pay"][at == "between" :]

    def test_a_question_to_the_user_that_fails(self, seen: Seen, registry: Registry) -> None:
        def on(error: Exception) -> bool:
            if isinstance(error, LookupError):
                raise ZeroDivisionError
            return True

        errors = iter([ConnectionError(), LookupError()])

        def loop() -> None:
            for attempt in retry(name="pay", on=on, backoff=0, registry=registry):
                with attempt:
                    raise next(errors)

        with pytest.raises(ZeroDivisionError):
            loop()
        assert seen.named("attempt pay")[0]["resilience.attempt.result"] == "failure"

    def test_a_block_that_can_not_be_entered(self, seen: Seen, registry: Registry) -> None:
        """An `async for` driven by hand, where no event loop runs to time its attempts."""
        steps = retry(name="pay", attempt_timeout=5, registry=registry).__aiter__()
        step = steps.__anext__()
        with pytest.raises(StopIteration) as made:
            step.send(None)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            made.value.value.__enter__()
        assert current() is None
        assert seen.tree() == [("execute pay", [])]
        snapshot: Any = registry.snapshot()
        assert snapshot["pipeline"]["pay"]["active"] == 0


@over_tasks
def test_calls_of_many_tasks_at_once_do_not_mix(seen: Seen, registry: Registry, loop: Backend) -> None:
    async def main() -> None:
        async def body(number: int) -> None:
            for _ in range(3):
                await loop.checkpoint()
                with seen.user(f"user {number}"):
                    await loop.checkpoint()

        async def call(number: int) -> None:
            with seen.user(f"task {number}"):
                await retry(name="pay", registry=registry).call_async(body, number)

        async with loop.group() as spawn:
            for number in range(20):
                spawn(call, number)

    loop.run(main)
    assert sorted(seen.tree()) == sorted(
        (f"task {number}", [("execute pay", [(f"user {number}", [])] * 3)]) for number in range(20)
    )


def test_calls_of_many_threads_at_once_do_not_mix(seen: Seen, registry: Registry) -> None:
    everybody = threading.Barrier(8)

    def body(number: int) -> None:
        everybody.wait(PATIENCE)
        with seen.user(f"user {number}"):
            everybody.wait(PATIENCE)

    def call(number: int) -> None:
        with seen.user(f"thread {number}"):
            retry(name="pay", registry=registry).call(body, number)

    threads = [threading.Thread(target=call, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(seen.tree()) == [
        (f"thread {number}", [("execute pay", [(f"user {number}", [])])]) for number in range(8)
    ]


def test_a_body_on_a_helper_thread_is_inside(seen: Seen, registry: Registry) -> None:
    def body() -> str:
        with seen.user():
            return threading.current_thread().name

    policies = timeout(30, interrupt="thread", registry=registry), retry(backoff=0, registry=registry)
    assert pipeline("pay", *policies, registry=registry).call(body) != threading.current_thread().name
    assert seen.tree() == [("execute pay", [("user", [])])]


@pytest.mark.realtime
def test_a_body_that_is_left_to_itself_on_a_helper_thread_is_inside_to_its_end(seen: Seen, registry: Registry) -> None:
    go, done = threading.Event(), threading.Event()

    def body() -> None:
        try:
            with seen.user():
                go.wait(PATIENCE)
            with seen.user("late"):
                pass
        finally:
            done.set()

    with pytest.raises(TimeoutError):
        timeout(0.01, name="pay", interrupt="thread", registry=registry).call(body)
    assert seen.named("execute pay")[0]["resilience.outcome"] == "timeout"
    go.set()
    done.wait(PATIENCE)
    assert seen.tree() == [("execute pay", [("user", []), ("late", [])])]
