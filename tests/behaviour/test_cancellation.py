"""Cancellation and its like pass through every policy untouched, and everything taken is given back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Failover,
    Fallback,
    Hedge,
    RateLimiter,
    Registry,
    Retry,
    Stale,
    Throttle,
    Timeout,
    circuit_breaker,
    current_deadline,
    rate_limiter,
)
from resilient.core.clock import CLOCK
from resilient.testing import FakeClock
from tests.behaviour.cancelling import Run, cancelled_at
from tests.behaviour.kit import RETRY_FACES, SCOPE_FACES, Backend
from tests.behaviour.subjects import LIMIT, Body, Holder, Subject, every_subject, retrying


def probing(registry: Registry, clock: FakeClock) -> CircuitBreaker:
    breaker = circuit_breaker("subject", open_duration=20, registry=registry)
    breaker.trip()
    clock.advance(20.0)
    return breaker


def check_all_given_back(registry: Registry, clock: FakeClock, body: Body) -> None:
    """After one call that was neutral: nothing is counted as a failure, nothing is under way, nothing left behind."""
    snapshot: Any = registry.snapshot()
    (meter,) = snapshot["pipeline"].values()
    assert meter["active"] == 0
    assert meter["calls"] == {
        "success": 0,
        "failure": 0,
        "timeout": 0,
        "rejected": 0,
        "fallback": 0,
        "cancelled": 1,
    }
    assert body.running == 0
    assert current_deadline() is None
    assert not any(room.queued for room in registry.all(Bulkhead))
    let_those_go_who_hold_a_permit(clock)
    for retry in registry.all(Retry):
        assert not any(retry._meter.calls().values())
        assert retry._meter.attempts() == {"success": 0, "retryable_failure": body.raised, "failure": 0}
    for limit in registry.all(Timeout):
        assert limit._meter.timed_out == 0
    for room in registry.all(Bulkhead):
        assert (room.in_flight, room._permits.free) == (0, room.limit)
        assert room._keyed is None or not room._keyed._borrowed
        assert room.snapshot()["limit"] == room._permits.limit == initial_limit(room)
        assert room.snapshot()["rejected"] == 0
    for limiter in registry.all(RateLimiter):
        totals: Any = limiter.snapshot()["totals"]
        # Inside of retry each attempt takes a slot.
        assert totals["allowed"] + totals["delayed"] in (body.begun, min(body.begun, 1))
        assert totals["rejected"] == 0
        assert all(slot.at <= clock.now() for slot in limiter._gcra._waiting)
    for throttle in registry.all(Throttle):
        counted = throttle.snapshot()
        assert (counted["requests"], counted["accepts"], counted["rejected"]) == (0, 0, 0)
    of_fallbacks: list[Any] = [*registry.all(Fallback), *registry.all(Stale), *registry.all(Failover)]
    assert not any(any(policy._meter.calls().values()) for policy in of_fallbacks)
    for cache in registry.all(Stale):
        assert (cache._cache.loads, len(cache._cache)) == (0, 0)
    for hedge in registry.all(Hedge):
        attempts = hedge._meter.attempts()
        assert not any(hedge._meter.calls().values())
        assert (attempts["won"], attempts["failed"]) == (0, body.raised)
        # Asyncio cancels an attempt that has not begun without beginning it.
        assert attempts["cancelled"] + attempts["lost"] >= body.begun - body.raised
    check_breakers(registry, body)


def let_those_go_who_hold_a_permit(clock: FakeClock) -> None:
    """They are the only ones that may still wait for time to pass."""
    for timer in [timer for _, _, timer in clock._timers if timer.fire is not None]:
        assert isinstance(timer.fire, Holder)
        timer.fire()
        timer.cancel()


def initial_limit(room: Bulkhead) -> object:
    limit = room.settings["max_concurrent"]
    return getattr(limit, "initial", limit)


def check_breakers(registry: Registry, body: Body) -> None:
    breakers = registry.all(CircuitBreaker)
    counted: list[Any] = [breaker.snapshot()["totals"] for breaker in breakers]
    assert not any(totals["success"] or totals["slow"] or totals["rejected"] for totals in counted)
    assert all(breaker.state is CircuitState.CLOSED for breaker in breakers)
    if registry.all(Failover):
        for of_all in ("failure", "ignored"):
            assert (
                sum(totals[of_all] for totals in counted) == {"failure": body.raised, "ignored": body.neutral}[of_all]
            )
    else:
        for totals in counted:
            # Outside of retry, or without one, it saw one neutral call; inside of it, what the body did.
            assert (totals["failure"], totals["ignored"]) in ((0, 1), (body.raised, body.neutral))


class Scene:
    """A subject in a registry of its own, for one run of its body and for another one after that."""

    def __init__(self, loop: Backend, subject: Subject, face: str, clock: FakeClock) -> None:
        self.registry = Registry()
        self.body = Body(loop, subject.failures, subject.in_tasks)
        self._policy = subject.make(self.registry)
        self._use: Callable[[Any], Any] = lambda body: loop.use(face, self._policy, body)
        self._loop, self._subject, self._clock = loop, subject, clock

    def let_time_pass(self, seconds: float) -> None:
        if seconds and (self._subject.passing or self._subject.in_tasks) and self._loop.name == "trio":
            # As it suspends, a task of trio can be cancelled already, but not yet be woken from within its loop.
            thread = threading.Thread(target=self._clock.advance, args=[seconds])
            thread.start()
            thread.join()
        elif seconds:
            self._clock.advance(seconds)

    async def run(self, point: int | None, before: float = 0.0, after: float = 0.0) -> Run:
        """Let so many seconds pass at once before and after the cancellation."""
        return await self._cancelled_at(point, self._use(self.body), before, after)

    async def run_uncancelled(self, body: Callable[[], Any]) -> None:
        call = self._use(body)
        await (call if self._loop.name == "threads" else self._cancelled_at(None, call))

    async def _cancelled_at(self, point: int | None, call: Any, before: float = 0.0, after: float = 0.0) -> Run:
        return await cancelled_at(
            self._loop,
            point,
            call,
            before=lambda: self.let_time_pass(before),
            after=lambda: self.let_time_pass(after),
            otherwise=lambda: self.let_time_pass(self._subject.passing),
        )

    async def check(self, run: Run) -> None:
        if run.cancelled:
            check_all_given_back(self.registry, self._clock, self.body)
        else:
            # The last attempt had ended before trio came to deliver the cancellation.
            assert self._subject.in_tasks
            assert (self._loop.name, run.result, self.body.running) == ("trio", "result", 0)
            let_those_go_who_hold_a_permit(self._clock)
        self.body = Body(self._loop, self._subject.failures, self._subject.in_tasks)
        assert (await self.run(None)).result == "result"
        let_those_go_who_hold_a_permit(self._clock)


@every_subject
def test_a_cancellation_at_any_await_point_stays_one_and_gives_everything_back(
    loop: Backend, subject: Subject, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        whole = await Scene(loop, subject, face, fake_clock).run(None)
        assert whole.result == "result"
        assert whole.steps >= subject.steps
        let_those_go_who_hold_a_permit(fake_clock)
        for point in range(whole.steps + 1):
            scene = Scene(loop, subject, face, fake_clock)
            await scene.check(await scene.run(point))

    loop.run(main)


@every_subject
@pytest.mark.parametrize("order", ["first", "second"])
def test_a_cancellation_beats_a_timeout_of_the_same_instant(
    loop: Backend, subject: Subject, face: str, order: str, fake_clock: FakeClock
) -> None:
    seconds = {"after" if order == "first" else "before": LIMIT}

    async def main() -> None:
        whole = await Scene(loop, subject, face, fake_clock).run(None)
        let_those_go_who_hold_a_permit(fake_clock)
        for point in range(1, whole.steps + 1):
            scene = Scene(loop, subject, face, fake_clock)
            await scene.check(await scene.run(point, **seconds))

    loop.run(main)


@pytest.mark.parametrize("face", SCOPE_FACES)
@pytest.mark.parametrize("point", [0, 1])
def test_a_wait_for_a_rate_limiter_that_is_cancelled_gives_its_slot_back(loop: Backend, face: str, point: int) -> None:
    """In real time: where waits take none, a slot is spent as soon as the wait for it has begun."""
    limiter = rate_limiter("subject", limit=1, period=3600.0, max_wait=9999.0, registry=Registry())
    before = limiter._gcra.reserve(CLOCK.now(), 0.0), limiter._gcra._arrival

    async def main() -> None:
        body = Body(loop, 0)
        run = await cancelled_at(loop, point, loop.use(face, limiter, body))
        assert run.cancelled
        assert body.begun == 0

    loop.run(main)
    assert limiter._gcra._arrival == pytest.approx(before[1])
    assert limiter._gcra.waiting == 0
    assert not any(limiter._meter.calls().values())


@pytest.mark.parametrize("face", SCOPE_FACES)
def test_a_cancelled_probe_gives_its_permit_back_wherever_it_was(
    loop: Backend, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        for point in range(3):
            registry = Registry()
            breaker = probing(registry, fake_clock)
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
            scene, thrown = Scene(backend, subject, face, fake_clock), passing()
            scene.body.failures = attempt

            async def throwing(body: Body = scene.body, thrown: BaseException = thrown) -> None:
                await body()
                body.neutral += 1
                raise thrown

            with pytest.raises(passing) as caught:
                await scene.run_uncancelled(throwing)
            assert caught.value is thrown
            assert scene.body.raised == attempt
            # A hedge may have got there, too.
            assert scene.body.neutral == 1 or (subject.in_tasks and scene.body.neutral == 2)
            check_all_given_back(scene.registry, fake_clock, scene.body)
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
            breaker = probing(Registry(), fake_clock)
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
            await backend.use(face, retrying(registry), body)

    fake_clock.call_at(beginning + 1.5, ctrl_c)
    backend.run(main)
    assert fake_clock.now() - beginning == 1.5
    assert body.raised == 2
    check_all_given_back(registry, fake_clock, body)


def test_a_cancellation_in_a_wait_between_attempts_starts_no_other(loop: Backend, fake_clock: FakeClock) -> None:
    async def main() -> None:
        body = Body(loop, failures=9)
        run = await cancelled_at(loop, 3, loop.called(retrying(Registry()), body))
        assert run.cancelled
        assert (body.raised, body.neutral) == (1, 0)

    loop.run(main)
