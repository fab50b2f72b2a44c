"""Retry over threads, asyncio and trio, through every face that it has."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    Registry,
    RetryBudget,
    RetryExhaustedError,
    TimeoutExceededError,
    circuit_breaker,
    pipeline,
    retry,
)
from resilient.testing import FakeClock, RecordedEvents
from tests.behaviour.kit import CALL_FACES, RETRY_FACES, Backend, Body

every_face = pytest.mark.parametrize("face", RETRY_FACES)
call_faces = pytest.mark.parametrize("face", CALL_FACES)


class Flaky:
    """A body that fails a number of times, each time with an error of its own, and then succeeds."""

    def __init__(self, backend: Backend, failures: int) -> None:
        self.backend = backend
        self.raised: list[ConnectionError] = []
        self.failures = failures
        self.attempts = 0

    async def body(self) -> str:
        self.attempts += 1
        await self.backend.checkpoint()
        if self.attempts > self.failures:
            return "result"
        self.raised.append(ConnectionError(f"number {self.attempts}"))
        raise self.raised[-1]


def raising(error: BaseException, attempts: list[None]) -> Body:
    async def body() -> None:
        attempts.append(None)
        raise error

    return body


@every_face
def test_what_succeeds_is_called_once(backend: Backend, face: str, fake_clock: FakeClock, private: Registry) -> None:
    flaky = Flaky(backend, failures=0)
    policy = retry(attempts=3, registry=private)

    async def main() -> None:
        assert await backend.use(face, policy, flaky.body) == "result"

    backend.run(main)
    assert flaky.attempts == 1
    assert fake_clock.sleeps == []
    assert policy.snapshot()["attempts"] == {"success": 1, "retryable_failure": 0, "failure": 0}


@every_face
def test_what_fails_twice_is_called_three_times_with_the_waits_between(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    flaky = Flaky(backend, failures=2)
    policy = retry(attempts=3, backoff=[1.0, 2.5], registry=private)

    async def main() -> None:
        assert await backend.use(face, policy, flaky.body) == "result"

    backend.run(main)
    assert flaky.attempts == 3
    assert fake_clock.sleeps == [1.0, 2.5]
    assert policy.snapshot()["backoff_seconds"] == 3.5
    assert policy.snapshot()["calls"] == {
        "first_try": 0,
        "recovered": 1,
        "not_retryable": 0,
        "exhausted": 0,
        "budget": 0,
        "deadline": 0,
    }


@every_face
def test_the_last_error_itself_is_raised_with_one_note(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    flaky = Flaky(backend, failures=9)
    policy = retry(attempts=3, backoff=1.0, name="payments", registry=private)

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await backend.use(face, policy, flaky.body)
        assert caught.value is flaky.raised[-1]

    backend.run(main)
    assert flaky.attempts == 3
    assert flaky.raised[-1].__notes__ == ["retry 'payments': gave up after 3 attempts in 2.00 s: attempts exhausted"]
    assert [getattr(error, "__notes__", None) for error in flaky.raised[:-1]] == [None, None]
    assert flaky.raised[-1].__context__ is None
    assert flaky.raised[-1].__cause__ is None


@every_face
def test_an_error_that_on_does_not_name_passes_at_once(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    error = KeyError("own")
    attempts: list[None] = []

    async def main() -> None:
        with pytest.raises(KeyError) as caught:
            await backend.use(face, retry(on=ConnectionError, registry=private), raising(error, attempts))
        assert caught.value is error

    backend.run(main)
    assert len(attempts) == 1
    assert fake_clock.sleeps == []
    assert not hasattr(error, "__notes__")


@every_face
def test_a_rejection_is_retried_only_by_name_and_after_its_wish(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    attempts: list[None] = []
    closed_soon = raising(CircuitOpenError("open", retry_after=7.0), attempts)

    async def main() -> None:
        with pytest.raises(CircuitOpenError):
            await backend.use(face, retry(attempts=3, backoff=1.0, registry=private), closed_soon)
        assert len(attempts) == 1
        named = retry(on=(ConnectionError, CircuitOpenError), attempts=3, backoff=1.0, registry=private)
        with pytest.raises(CircuitOpenError):
            await backend.use(face, named, closed_soon)

    backend.run(main)
    assert len(attempts) == 4
    assert fake_clock.sleeps == [7.0, 7.0]


@every_face
def test_a_wait_that_would_pass_max_duration_is_not_begun(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    flaky = Flaky(backend, failures=9)

    async def main() -> None:
        with pytest.raises(ConnectionError, match="number 3") as caught:
            await backend.use(face, retry(attempts=None, max_duration=10.0, backoff=4.0, registry=private), flaky.body)
        assert "max_duration" in caught.value.__notes__[0]

    backend.run(main)
    assert fake_clock.sleeps == [4.0, 4.0]


@every_face
def test_a_number_from_the_predicate_is_the_wait(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    waits = iter([0.5, True, 3, False])
    policy = retry(on=lambda error: next(waits), attempts=9, backoff=1.0, registry=private)

    async def main() -> None:
        with pytest.raises(ConnectionError, match="number 4"):
            await backend.use(face, policy, Flaky(backend, failures=9).body)

    backend.run(main)
    assert fake_clock.sleeps == [0.5, 1.0, 3.0]


@every_face
def test_a_spent_budget_ends_it_with_the_last_error(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    flaky = Flaky(backend, failures=9)
    budget = RetryBudget(ratio=0.0, min_per_second=0.2, window=10.0)
    policy = retry(attempts=9, backoff=0.0, budget=budget, registry=private)

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await backend.use(face, policy, flaky.body)
        assert caught.value is flaky.raised[-1]
        assert caught.value.__notes__[0].endswith("the retry budget is spent")

    backend.run(main)
    assert flaky.attempts == 3
    assert budget.snapshot()["denied"] == 1


@every_face
def test_each_attempt_has_its_own_time(backend: Backend, face: str, fake_clock: FakeClock, private: Registry) -> None:
    policy = retry(attempts=2, backoff=1.0, attempt_timeout=3.0, registry=private)
    started: list[float] = []

    async def main() -> None:
        async def slow() -> None:
            started.append(fake_clock.now())
            await backend.spend(fake_clock, 5.0)

        with pytest.raises(TimeoutExceededError) as caught:
            await backend.use(face, policy, slow)
        assert caught.value.seconds == 3.0
        assert len(caught.value.__notes__) == 1

    backend.run(main)
    assert len(started) == 2
    assert policy.snapshot()["attempt_timeout"] == {
        "seconds": 3.0,
        "calls": {"completed": 0, "timed_out": 2},
        "orphaned": 0,
    }


@every_face
def test_what_it_tells_is_the_same_everywhere(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry, resilience_events: RecordedEvents
) -> None:
    policy = retry(attempts=3, backoff=[1.0, 2.0], name="payments", registry=private)
    beginning = fake_clock.now()

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.use(face, policy, Flaky(backend, failures=9).body)

    backend.run(main)
    assert [(event.kind, event.policy, event.at - beginning, dict(event.data)) for event in resilience_events] == [
        ("retry_scheduled", "payments", 0.0, {"attempt": 1, "delay": 1.0, "error": "ConnectionError"}),
        ("retry_scheduled", "payments", 1.0, {"attempt": 2, "delay": 2.0, "error": "ConnectionError"}),
        (
            "retry_exhausted",
            "payments",
            3.0,
            {"attempts": 3, "reason": "attempts exhausted", "result": "exhausted", "error": "ConnectionError"},
        ),
    ]


@every_face
def test_context_variables_pass_in_and_out(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    seen: ContextVar[int] = ContextVar("seen", default=0)

    async def main() -> None:
        async def body() -> None:
            seen.set(seen.get() + 1)
            if seen.get() < 13:
                raise ConnectionError

        seen.set(10)
        await backend.use(face, retry(attempts=3, attempt_timeout=5.0, registry=private), body)
        assert seen.get() == 13

    backend.run(main)


@call_faces
def test_an_unwanted_result_is_asked_for_again(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    results = iter(["pending", "pending", "done"])
    policy = retry(on_result=lambda result: result == "pending", attempts=5, backoff=2.0, registry=private)

    async def main() -> None:
        async def body() -> str:
            return next(results)

        assert await backend.use(face, policy, body) == "done"

    backend.run(main)
    assert fake_clock.sleeps == [2.0, 2.0]


@call_faces
@pytest.mark.parametrize("on_exhausted", ["return", "raise"])
def test_the_last_unwanted_result_is_not_lost(
    backend: Backend, face: str, on_exhausted: Any, fake_clock: FakeClock, private: Registry
) -> None:
    result = ["pending"]
    policy = retry(on_result=lambda result: True, attempts=2, backoff=1.0, on_exhausted=on_exhausted, registry=private)

    async def main() -> None:
        async def body() -> list[str]:
            return result

        if on_exhausted == "return":
            assert await backend.use(face, policy, body) is result
            return
        with pytest.raises(RetryExhaustedError) as caught:
            await backend.use(face, policy, body)
        assert caught.value.result is result
        assert caught.value.attempts == 2

    backend.run(main)


@call_faces
def test_arguments_are_those_of_the_call_in_every_attempt(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    seen: list[tuple[object, ...]] = []
    order = object()

    async def main() -> None:
        async def body(*args: object) -> None:
            seen.append(args)
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await backend.use(face, retry(attempts=3, registry=private), body, order, 2)

    backend.run(main)
    assert seen == [(order, 2)] * 3


@call_faces
def test_the_call_counts_once_however_often_it_was_tried(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    payments = pipeline("payments", retry(attempts=4, registry=private), registry=private)

    async def main() -> None:
        await backend.use(face, payments, Flaky(backend, failures=3).body)

    backend.run(main)
    counted = private.snapshot()["pipeline"]["payments"]
    assert counted["calls"] == {
        "success": 1,
        "failure": 0,
        "timeout": 0,
        "rejected": 0,
        "fallback": 0,
        "cancelled": 0,
    }
    assert counted["active"] == 0


def test_a_block_of_retry_says_what_to_write_instead(backend: Backend, private: Registry) -> None:
    holding_one = pipeline(retry(registry=private), circuit_breaker(registry=private), registry=private)

    async def main() -> None:
        async def body() -> None:
            raise AssertionError("it must not run")

        for policy in (retry(registry=private), holding_one):
            with pytest.raises(TypeError, match="for attempt in retry"):
                await backend.block(policy, body)
            with pytest.raises(TypeError, match="items already given out"):
                await backend.generator(policy, body)

    backend.run(main)
