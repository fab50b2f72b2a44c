"""Cancellation and its like pass through every policy untouched, and everything taken is given back.

A new policy joins with one line in `SUBJECTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    CircuitState,
    Registry,
    Retry,
    RetryBudget,
    Timeout,
    circuit_breaker,
    current_deadline,
    pipeline,
    retry,
    timeout,
)
from resilient.testing import FakeClock
from tests.behaviour.cancelling import Run, cancelled_at
from tests.behaviour.kit import CALL_FACES, RETRY_FACES, SCOPE_FACES, Backend

LIMIT = 60.0


@dataclass(frozen=True)
class Subject:
    """A policy, or pipeline of them, under the name "subject"; its retries, if any, are needed twice."""

    name: str
    faces: tuple[str, ...]
    make: Callable[[Registry], Any]
    failures: int = 0


def _retrying(registry: Registry, **settings: Any) -> Retry:
    return retry(name="subject", attempts=4, backoff=1.0, registry=registry, **settings)


def _breaking(registry: Registry, **settings: Any) -> CircuitBreaker:
    return circuit_breaker("subject", consecutive_failures=9, registry=registry, **settings)


def _probing(registry: Registry, clock_moves: Callable[[float], object]) -> CircuitBreaker:
    breaker = circuit_breaker("subject", open_duration=20, registry=registry)
    breaker.trip()
    clock_moves(20.0)
    return breaker


def _limiting(registry: Registry, **settings: Any) -> Timeout:
    return timeout(LIMIT, name="subject", registry=registry, **settings)


def _all_of_them(registry: Registry) -> Any:
    return pipeline(
        "subject",
        _limiting(registry),
        _retrying(registry, budget=RetryBudget()),
        _breaking(registry),
        timeout(LIMIT, name="attempt", registry=registry),
        registry=registry,
    )


SUBJECTS = [
    Subject("retry", RETRY_FACES, _retrying, failures=2),
    Subject(
        "retry with attempt_timeout", RETRY_FACES, lambda registry: _retrying(registry, attempt_timeout=5), failures=2
    ),
    Subject("breaker", SCOPE_FACES, _breaking),
    Subject("breaker that times calls", SCOPE_FACES, lambda registry: _breaking(registry, slow_call_duration=5)),
    Subject("timeout", SCOPE_FACES, _limiting),
    Subject("timeout by scope", SCOPE_FACES, lambda registry: _limiting(registry, interrupt="scope")),
    Subject("timeout that never interrupts", SCOPE_FACES, lambda registry: _limiting(registry, interrupt="never")),
    Subject(
        "breaker, timeout",
        SCOPE_FACES,
        lambda registry: pipeline("subject", _breaking(registry), _limiting(registry), registry=registry),
    ),
    Subject(
        "timeout, breaker",
        SCOPE_FACES,
        lambda registry: pipeline("subject", _limiting(registry), _breaking(registry), registry=registry),
    ),
    Subject(
        "breaker, retry",
        CALL_FACES,
        lambda registry: pipeline("subject", _breaking(registry), _retrying(registry), registry=registry),
        failures=2,
    ),
    Subject("timeout, retry, breaker, timeout", CALL_FACES, _all_of_them, failures=2),
]
EACH = [
    pytest.param(subject, face, id=f"{subject.name}-{face}".replace(" ", "_"))
    for subject in SUBJECTS
    for face in subject.faces
]
every_subject = pytest.mark.parametrize("subject, face", EACH)


class Body:
    """Suspends, fails as often as its subject wants to retry, then succeeds; counts what it raised."""

    def __init__(self, backend: Backend, failures: int) -> None:
        self.backend = backend
        self.failures = failures
        self.raised = self.neutral = 0

    async def __call__(self) -> str:
        try:
            await self.backend.checkpoint()
            await self.backend.checkpoint()
        except Exception:
            raise
        except BaseException:
            self.neutral += 1
            raise
        if self.raised < self.failures:
            self.raised += 1
            raise ConnectionError
        return "result"


def check_all_given_back(registry: Registry, clock: FakeClock, body: Body) -> None:
    """After one call that was neutral: nothing is counted as a failure, nothing is under way, nothing left behind."""
    (meter,) = registry.snapshot()["pipeline"].values()
    assert meter["active"] == 0
    assert meter["calls"] == {
        "success": 0,
        "failure": 0,
        "timeout": 0,
        "rejected": 0,
        "fallback": 0,
        "cancelled": 1,
    }
    for policy in registry.all(Retry):
        assert not any(policy._meter.calls().values())
        assert policy._meter.attempts() == {"success": 0, "retryable_failure": body.raised, "failure": 0}
    for breaker in registry.all(CircuitBreaker):
        totals: Any = breaker.snapshot()["totals"]
        assert totals["success"] == totals["slow"] == totals["rejected"] == 0
        # Outside of retry, or without one, it saw one neutral call; inside of it, what the body did.
        assert (totals["failure"], totals["ignored"]) in ((0, 1), (body.raised, body.neutral))
        assert breaker.state is CircuitState.CLOSED
    for limit in registry.all(Timeout):
        assert limit._meter.timed_out == 0
    assert current_deadline() is None
    assert not [timer for _, _, timer in clock._timers if timer.fire is not None]


async def _run_to_its_end(loop: Backend, subject: Subject, face: str) -> Run:
    body = Body(loop, subject.failures)
    return await cancelled_at(loop, None, loop.use(face, subject.make(Registry()), body))


@every_subject
def test_a_cancellation_at_any_await_point_stays_one_and_gives_everything_back(
    loop: Backend, subject: Subject, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        whole = await _run_to_its_end(loop, subject, face)
        assert whole.result == "result"
        assert whole.steps >= 2 * (1 + subject.failures) + subject.failures
        for point in range(whole.steps + 1):
            registry, body = Registry(), Body(loop, subject.failures)
            run = await cancelled_at(loop, point, loop.use(face, subject.make(registry), body))
            assert run.cancelled, (point, run)
            check_all_given_back(registry, fake_clock, body)

    loop.run(main)


@every_subject
@pytest.mark.parametrize("order", ["first", "second"])
def test_a_cancellation_beats_a_timeout_of_the_same_instant(
    loop: Backend, subject: Subject, face: str, order: str, fake_clock: FakeClock
) -> None:
    def time_is_up() -> None:
        fake_clock.advance(LIMIT)

    def nothing() -> None: ...

    async def main() -> None:
        whole = await _run_to_its_end(loop, subject, face)
        for point in range(1, whole.steps + 1):
            registry, body = Registry(), Body(loop, subject.failures)
            run = await cancelled_at(
                loop,
                point,
                loop.use(face, subject.make(registry), body),
                before=nothing if order == "first" else time_is_up,
                after=time_is_up if order == "first" else nothing,
            )
            assert run.cancelled, (point, run)
            check_all_given_back(registry, fake_clock, body)

    loop.run(main)


@pytest.mark.parametrize("face", SCOPE_FACES)
def test_a_cancelled_probe_gives_its_permit_back_wherever_it_was(
    loop: Backend, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        for point in range(3):
            registry = Registry()
            breaker = _probing(registry, fake_clock.advance)
            run = await cancelled_at(loop, point, loop.use(face, breaker, Body(loop, 0)))
            assert run.cancelled
            assert breaker.state is CircuitState.HALF_OPEN
            # There is one permit; were it still out, this call would be refused.
            assert await loop.use(face, breaker, Body(loop, 0)) == "result"
            assert breaker.state is CircuitState.CLOSED

    loop.run(main)


PASSING = [KeyboardInterrupt, SystemExit, GeneratorExit]


@every_subject
@pytest.mark.parametrize("passing", PASSING)
def test_what_is_no_exception_passes_from_the_body_as_the_same_object(
    backend: Backend, subject: Subject, face: str, passing: type[BaseException], fake_clock: FakeClock
) -> None:
    async def main() -> None:
        for attempt in range(subject.failures + 1):
            registry, body, thrown = Registry(), Body(backend, attempt), passing()

            async def throwing(body: Body = body, thrown: BaseException = thrown) -> None:
                await body()
                body.neutral += 1
                raise thrown

            with pytest.raises(passing) as caught:
                await backend.use(face, subject.make(registry), throwing)
            assert caught.value is thrown
            assert (body.raised, body.neutral) == (attempt, 1)
            check_all_given_back(registry, fake_clock, body)
            assert not hasattr(thrown, "__notes__")

    backend.run(main)


@pytest.mark.parametrize("passing", PASSING)
def test_what_is_no_exception_passes_from_a_probe_which_gives_its_permit_back(
    backend: Backend, passing: type[BaseException], fake_clock: FakeClock
) -> None:
    async def throwing() -> None:
        raise passing

    async def main() -> None:
        for face in SCOPE_FACES:
            breaker = _probing(Registry(), fake_clock.advance)
            with pytest.raises(passing):
                await backend.use(face, breaker, throwing)
            assert breaker.state is CircuitState.HALF_OPEN
            assert await backend.use(face, breaker, Body(backend, 0)) == "result"
            assert breaker.state is CircuitState.CLOSED

    backend.run(main)


@pytest.mark.parametrize("face", RETRY_FACES)
def test_ctrl_c_in_a_wait_between_attempts_ends_it_at_once(backend: Backend, face: str, fake_clock: FakeClock) -> None:
    registry, body = Registry(), Body(backend, failures=9)
    beginning = fake_clock.now()

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await backend.use(face, _retrying(registry), body)

    fake_clock.call_at(beginning + 1.5, ctrl_c)
    backend.run(main)
    assert fake_clock.now() - beginning == 1.5
    assert body.raised == 2
    check_all_given_back(registry, fake_clock, body)


def test_a_cancellation_in_a_wait_between_attempts_starts_no_other(loop: Backend, fake_clock: FakeClock) -> None:
    async def main() -> None:
        body = Body(loop, failures=9)
        run = await cancelled_at(loop, 3, loop.called(_retrying(Registry()), body))
        assert run.cancelled
        assert (body.raised, body.neutral) == (1, 0)

    loop.run(main)
