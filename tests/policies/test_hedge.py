"""Hedge on threads, asyncio and trio."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    ConfigurationError,
    Hedge,
    Registry,
    RejectedError,
    RetryBudget,
    TimeoutExceededError,
    bulkhead,
    circuit_breaker,
    current_deadline,
    fallback,
    hedge,
    percentile,
    pipeline,
    retry,
    timeout,
)
from resilient.testing import FakeClock, disabled, fake_clock, record_events
from tests.policies.hedge_kit import BACKENDS, LOOPS, PATIENCE, Attempts, Backend, raising, returning


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def registry() -> Registry:
    return Registry()


def counts(policy: Hedge) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and attempts, those that are not zero."""
    snapshot: Any = policy.snapshot()
    return tuple(  # type: ignore[return-value]
        {result: count for result, count in snapshot[what].items() if count} for what in ("calls", "attempts")
    )


def test_a_call_that_is_back_in_time_is_not_hedged(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, registry=registry)
    body = Attempts(lambda: backend.spend(clock, 0.19))

    async def main() -> None:
        await backend.guard(policy, body)()

    backend.run(main)
    assert body.begun == 1
    assert counts(policy) == ({"not_hedged": 1}, {"won": 1})


def test_a_late_call_is_hedged_and_the_hedge_may_win(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, registry=registry)

    async def main() -> None:
        release = backend.event()

        async def late() -> str:
            await backend.spend(clock, 0.2)
            await release.wait()
            return "primary"

        body = Attempts(late, returning("hedge"))
        assert await backend.guard(policy, body)() == "hedge"
        # On a loop the loser has been cancelled and awaited; a thread is left to end by itself.
        assert body.running == (1 if backend.plain else 0)
        release.set()
        await backend.until(lambda: body.running == 0)
        assert body.begun == 2

    with record_events(policy=policy) as events:
        backend.run(main)
    assert counts(policy) == ({"hedge_won": 1}, {"won": 1, "lost" if backend.plain else "cancelled": 1})
    assert [(event.kind, event.data) for event in events] == [
        ("hedge_started", {"attempt": 2, "after": pytest.approx(0.2)})
    ]


def test_the_first_success_wins_not_the_first_to_end(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    async def main() -> None:
        hedge_has_failed = backend.event()
        policy = hedge(delay=0.2, on=lambda error: hedge_has_failed.set() or True, registry=registry)

        async def late() -> str:
            await backend.spend(clock, 0.2)
            await hedge_has_failed.wait()
            return "primary"

        body = Attempts(late, raising(ConnectionError()))
        assert await backend.guard(policy, body)() == "primary"
        assert counts(policy) == ({"primary_won": 1}, {"won": 1, "failed": 1})

    backend.run(main)


def test_an_attempt_that_fails_starts_the_next_at_once(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, registry=registry)
    before = clock.now()

    async def main() -> None:
        assert await backend.call(policy, Attempts(raising(ConnectionError()), returning("second"))) == "second"

    backend.run(main)
    assert clock.now() == before
    assert counts(policy) == ({"hedge_won": 1}, {"won": 1, "failed": 1})


def test_when_all_fail_the_last_error_is_raised_itself(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, max_hedges=2, registry=registry)
    errors = [ConnectionError(str(number)) for number in range(3)]
    body = Attempts(*map(raising, errors))

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await backend.guard(policy, body)()
        assert caught.value is errors[2]

    backend.run(main)
    assert counts(policy) == ({"failed": 1}, {"failed": 3})


def test_further_hedges_start_a_delay_apart_and_no_more_than_allowed(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    policy = hedge(delay=0.5, max_hedges=3, registry=registry)
    begun: list[float] = []
    start = clock.now()

    async def main() -> None:
        release = backend.event()
        turn = [backend.event() for _ in range(4)]

        def attempt(number: int) -> Any:
            async def body() -> int:
                begun.append(clock.now() - start)
                turn[number].set()
                if number == 0:
                    # Each of the others begins before time goes on.
                    for following in (1, 2, 3):
                        await backend.spend(clock, 0.5)
                        await turn[following].wait()
                    await backend.spend(clock, 10)
                    return number
                await release.wait()
                return number

            return body

        assert await backend.guard(policy, Attempts(*map(attempt, range(4))))() == 0
        release.set()

    with record_events(policy=policy) as events:
        backend.run(main)
    assert begun == pytest.approx([0, 0.5, 1.0, 1.5])
    assert [event.data["attempt"] for event in events] == [2, 3, 4]
    assert counts(policy)[0] == {"primary_won": 1}
    assert sum(counts(policy)[1].values()) == 4


def test_a_delay_of_zero_starts_two_at_once(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)

    async def main() -> None:
        second = backend.event()

        async def first() -> None:
            await second.wait()

        async def other() -> None:
            second.set()

        await backend.guard(policy, Attempts(first, other))()

    backend.run(main)
    assert sum(counts(policy)[1].values()) == 2


def test_an_error_that_is_not_in_on_is_raised_at_once(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, max_hedges=5, on=ConnectionError, registry=registry)

    async def main() -> None:
        release = backend.event()

        async def late() -> None:
            await backend.spend(clock, 0.2)
            await release.wait()

        with pytest.raises(ValueError, match="no"):
            await backend.guard(policy, Attempts(late, raising(ValueError("no"))))()
        release.set()
        with pytest.raises(ValueError, match="never"):
            await backend.guard(policy, Attempts(raising(ValueError("never"))))()

    backend.run(main)
    assert counts(policy)[0] == {"failed": 2}


def test_the_error_of_a_predicate_ends_the_call(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    def broken(error: BaseException) -> bool:
        raise LookupError("in the predicate")

    policy = hedge(delay=0.2, on=broken, registry=registry)

    async def main() -> None:
        release = backend.event()

        async def late() -> None:
            await backend.spend(clock, 0.2)
            await release.wait()

        body = Attempts(late, raising(ConnectionError()))
        with pytest.raises(LookupError, match="in the predicate"):
            await backend.guard(policy, body)()
        assert backend.plain or body.running == 0
        release.set()

    backend.run(main)
    assert counts(policy)[0] == {"failed": 1}
    assert counts(policy)[1]["failed"] == 1


def test_a_hedge_that_is_refused_inside_leaves_the_first_attempt_its_chance(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    narrow = bulkhead(max_concurrent=1, registry=registry)
    policy = hedge(delay=0.2, registry=registry)

    async def main() -> None:
        async def late() -> str:
            await backend.spend(clock, 0.2)
            await backend.until(lambda: counts(policy)[1].get("failed"))
            return "primary"

        body = Attempts(late)
        assert await backend.guard(pipeline(policy, narrow, registry=registry), body)() == "primary"

    backend.run(main)
    assert counts(policy) == ({"primary_won": 1}, {"won": 1, "failed": 1})


def test_a_refusal_inside_starts_no_hedge(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    breaker = circuit_breaker(registry=registry)
    breaker.force_open()
    policy = hedge(delay=0.2, max_hedges=3, registry=registry)

    async def main() -> None:
        with pytest.raises(CircuitOpenError):
            await backend.guard(pipeline(policy, breaker, registry=registry), Attempts())()

    with record_events(policy=policy, kinds="hedge_started") as events:
        backend.run(main)
    assert events == []
    assert counts(policy) == ({"failed": 1}, {"failed": 1})


def test_a_refusal_starts_a_hedge_where_on_names_it(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, on=(ConnectionError, RejectedError), registry=registry)

    async def main() -> None:
        assert await backend.guard(policy, Attempts(raising(BulkheadFullError()), returning(2)))() == 2

    backend.run(main)


def test_after_twenty_fast_calls_one_slow_call_makes_exactly_one_hedge(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    policy = hedge(delay=percentile(0.95, minimum=0.01, warmup=20), registry=registry)
    begun: list[float] = []

    async def body(seconds: float) -> None:
        begun.append(seconds)
        await backend.spend(clock, seconds)

    async def main() -> None:
        call = backend.guard(policy, body)
        for number in range(25):
            assert (policy.snapshot()["delay"] is None) == (number < 20)
            await call(0.001)
        await call(0.2)
        # On a thread it may have been started only just before the first attempt came back.
        await backend.until(lambda: len(begun) == 27)

    with record_events(policy=policy) as events:
        backend.run(main)
    assert begun == [0.001] * 25 + [0.2] * 2
    assert events.kinds() == ["hedge_started"]


def test_before_the_warm_up_is_over_no_call_is_hedged(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=percentile(0.5, warmup=20), registry=registry)

    async def main() -> None:
        call = backend.guard(policy, lambda: backend.spend(clock, 5.0))
        for _ in range(20):
            await call()

    with record_events(policy=policy) as events:
        backend.run(main)
    assert events == []
    assert counts(policy) == ({"not_hedged": 20}, {"won": 20})
    assert policy.snapshot()["delay"] == pytest.approx(5.0)


def test_fast_failures_are_not_in_the_percentile(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=percentile(0.5, warmup=3), registry=registry)

    async def main() -> None:
        async def fail() -> None:
            raise ConnectionError

        call = backend.guard(policy, lambda broken: fail() if broken else backend.spend(clock, 2.0))
        for broken in [True] * 30 + [False] * 3 + [True] * 30:
            try:
                await call(broken)
            except ConnectionError:
                pass

    backend.run(main)
    assert policy.snapshot()["delay"] == pytest.approx(2.0)


def test_a_call_that_a_hedge_saved_is_in_the_percentile_from_its_beginning(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    policy = hedge(delay=percentile(1.0, warmup=1), registry=registry)

    async def main() -> None:
        release = backend.event()

        async def late() -> None:
            await backend.spend(clock, 1.0)
            await release.wait()

        body = Attempts(lambda: backend.spend(clock, 1.0), late, lambda: backend.spend(clock, 0.25))
        call = backend.guard(policy, body)
        await call()
        await call()
        release.set()

    backend.run(main)
    assert policy.snapshot()["delay"] == pytest.approx(1.25)


def test_a_spent_budget_starts_no_hedge_and_ends_no_attempt(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    budget = RetryBudget(ratio=0.0, min_per_second=0.1, window=10.0)
    policy = hedge(delay=0.2, budget=budget, registry=registry)

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.call(retry(attempts=2, backoff=0, budget=budget, registry=registry), fail)
        assert await backend.guard(policy, Attempts(late))() == "primary"
        with pytest.raises(ConnectionError, match="first"):
            await backend.guard(policy, Attempts(raising(ConnectionError("first"))))()

    async def fail() -> None:
        raise ConnectionError

    async def late() -> str:
        await backend.spend(clock, 0.3)
        return "primary"

    backend.run(main)
    assert counts(policy) == ({"not_hedged": 1, "failed": 1}, {"won": 1, "failed": 1})
    snapshot: Any = policy.snapshot()
    assert snapshot["budget"]["denied"] == 2


def test_calls_earn_hedges(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    budget = RetryBudget(ratio=0.5, min_per_second=0.0)
    policy = hedge(delay=9, budget=budget, registry=registry)

    async def main() -> None:
        call = backend.guard(policy, raising(ConnectionError()))
        for _ in range(6):
            with pytest.raises(ConnectionError):
                await call()

    backend.run(main)
    assert counts(policy) == ({"failed": 6}, {"failed": 6 + 3})


def test_retry_and_hedge_that_share_a_budget_do_not_multiply(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    budget = RetryBudget(ratio=0.0, min_per_second=0.5, window=10.0)
    both = pipeline(
        retry(attempts=10, backoff=0, budget=budget, registry=registry),
        hedge(delay=1, max_hedges=10, budget=budget, registry=registry),
        registry=registry,
    )
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.guard(both, fail)()

    backend.run(main)
    assert attempts == 1 + 5


def test_no_attempt_is_started_after_the_deadline(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    limit = timeout(1.0, interrupt="never", registry=registry)
    policy = hedge(delay=2.0, max_hedges=5, registry=registry)

    async def main() -> None:
        async def late() -> None:
            await backend.spend(clock, 2.0)
            raise ConnectionError

        body = Attempts(late)
        with pytest.raises(ConnectionError):
            await backend.guard(pipeline(limit, policy, registry=registry), body)()
        assert body.begun == 1

    backend.run(main)


def test_attempts_see_the_context_and_the_deadline_of_the_caller(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    who: ContextVar[str] = ContextVar("who")
    limit = timeout(9.0, registry=registry)
    policy = hedge(delay=0.2, registry=registry)
    seen: list[object] = []

    async def main() -> None:
        async def look() -> None:
            deadline = current_deadline()
            assert deadline is not None
            seen.append((who.get(), round(deadline.remaining())))
            who.set("an attempt")
            if len(seen) == 1:
                raise ConnectionError

        who.set("the caller")
        await backend.guard(pipeline(limit, policy, registry=registry), look)()
        assert who.get() == "the caller"

    backend.run(main)
    assert seen == [("the caller", 9)] * 2


def test_while_it_warms_up_the_body_runs_where_the_caller_is(backend: Backend, registry: Registry) -> None:
    seen: ContextVar[str] = ContextVar("seen")
    policy = hedge(delay=percentile(0.9), registry=registry)

    async def main() -> None:
        async def body() -> None:
            seen.set("set in the body")

        await backend.guard(policy, body)()
        assert seen.get() == "set in the body"

    backend.run(main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("delay", [5.0, percentile(0.9)], ids=["fixed", "percentile"])
def test_neutral_exceptions_of_the_body_pass_as_themselves(
    backend: Backend, kind: type[BaseException], delay: Any, clock: FakeClock, registry: Registry
) -> None:
    policy = hedge(delay=delay, max_hedges=3, on=BaseException, registry=registry)
    error = kind("from the body")

    async def main() -> None:
        with pytest.raises(kind) as caught:
            await backend.guard(policy, raising(error))()
        assert caught.value is error

    backend.run(main)
    assert counts(policy) == ({}, {"cancelled": 1})


def test_a_neutral_exception_ends_the_attempts_that_still_run(
    backend: Backend, clock: FakeClock, registry: Registry
) -> None:
    policy = hedge(delay=0.2, registry=registry)

    async def main() -> None:
        release = backend.event()

        async def late() -> None:
            await backend.spend(clock, 0.2)
            await release.wait()

        body = Attempts(late, raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            await backend.guard(policy, body)()
        assert backend.plain or body.running == 0
        release.set()
        await backend.until(lambda: body.running == 0)

    backend.run(main)
    assert sum(counts(policy)[1].values()) == 2


def test_what_is_wrong_with_the_function_itself_is_told_and_not_hedged(backend: Backend, registry: Registry) -> None:
    policy = hedge(delay=5, max_hedges=3, registry=registry)

    async def an_async_function() -> None: ...

    async def main() -> None:
        if backend.plain:
            with pytest.raises(TypeError, match="call_async"):
                policy.call(lambda: an_async_function())
        else:
            with pytest.raises(TypeError, match="is not async"):
                await policy.call_async(len, "abc")  # type: ignore[arg-type]

    with record_events(policy=policy) as events:
        backend.run(main)
    assert events == []


def test_a_fallback_inside_or_outside_serves_its_result(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    async def main() -> None:
        spare = fallback(default="spare", registry=registry)
        policy = hedge(delay=0.2, registry=registry)
        fail = raising(ConnectionError())
        assert await backend.guard(pipeline(policy, spare, registry=registry), fail)() == "spare"
        assert counts(policy)[0] == {"not_hedged": 1}
        spare, policy = fallback(default="spare", registry=registry), hedge(delay=0.2, registry=registry)
        assert await backend.guard(pipeline(spare, policy, registry=registry), fail)() == "spare"

    backend.run(main)


def test_a_listener_that_fails_changes_nothing(backend: Backend, clock: FakeClock, registry: Registry) -> None:
    policy = hedge(delay=0.2, registry=registry)

    def listener(event: object) -> None:
        policy.snapshot()
        raise RuntimeError("listener")

    policy.subscribe(listener)

    async def main() -> None:
        assert await backend.guard(policy, Attempts(raising(ConnectionError()), returning(2)))() == 2

    backend.run(main)


def test_a_hedge_that_is_switched_off_passes_calls_through(backend: Backend, registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)
    body = Attempts(returning(1))

    async def main() -> None:
        with disabled():
            assert await backend.guard(policy, body)() == 1

    backend.run(main)
    assert counts(policy) == ({}, {})


def test_one_policy_counts_exactly_over_threads_and_loops(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)
    each = 40

    def use(backend: Backend) -> None:
        async def body(number: int) -> None:
            await backend.checkpoint()
            if number % 4 == 0:
                raise ConnectionError

        async def main() -> None:
            call = backend.guard(policy, body)
            for number in range(each):
                try:
                    await call(number)
                except ConnectionError:
                    pass

        backend.run(main)

    users = [threading.Thread(target=use, args=[backend]) for backend in [*BACKENDS, *LOOPS]]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    calls = each * len(users)
    assert counts(policy) == (
        {"not_hedged": calls * 3 // 4, "failed": calls // 4},
        {"won": calls * 3 // 4, "failed": calls // 4 * 2},
    )


def test_no_lock_is_held_while_bodies_run(registry: Registry) -> None:
    """Five calls, each hedged once, are all in their bodies at the same time."""
    policy = hedge(delay=0, registry=registry)
    together = threading.Barrier(10)

    def body() -> None:
        together.wait(PATIENCE)

    callers = [threading.Thread(target=policy.call, args=[body]) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    assert not together.broken
    assert counts(policy)[0].keys() <= {"primary_won", "hedge_won"}


def test_nothing_is_left_of_many_calls(backend: Backend, registry: Registry) -> None:
    policy = hedge(delay=0.0, registry=registry)
    fixed = hedge(delay=60, registry=registry)
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise ConnectionError
        if calls % 7 == 0:
            raise KeyboardInterrupt

    def own_objects() -> int:
        gc.collect()
        return sum(str(type(thing).__module__).startswith("resilient") for thing in gc.get_objects())

    def attempts() -> int:
        return sum(thread.name.startswith("resilient-attempt") for thread in threading.enumerate())

    async def main() -> None:
        async def some(count: int) -> None:
            for turn in range(count):
                try:
                    await calls_of[turn % 2]()
                except (ConnectionError, KeyboardInterrupt):
                    pass
            await backend.until(lambda: attempts() == 0)
            await backend.checkpoint()

        calls_of = [backend.guard(policy, body), backend.guard(fixed, body)]
        await some(30)
        before = own_objects()
        await some(200)
        assert own_objects() == before

    backend.run(main)


@pytest.mark.parametrize("delay", [5.0, percentile(0.9)], ids=["fixed", "percentile"])
def test_a_failure_makes_no_reference_cycle(backend: Backend, delay: Any, clock: FakeClock, registry: Registry) -> None:
    class Failure(Exception):
        pass

    policy = hedge(delay=delay, registry=registry)
    alive: list[weakref.ref[BaseException]] = []

    async def body() -> None:
        error = Failure()
        alive.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def main() -> None:
        call = backend.guard(policy, body)
        for _ in range(3):
            try:
                await call()
            except Failure:
                pass
        await backend.checkpoint()
        await backend.until(lambda: not [ref for ref in alive if ref() is not None])

    gc.collect()
    gc.disable()
    try:
        backend.run(main)
    finally:
        gc.enable()
    assert len(alive) == (6 if delay == 5.0 else 3)


def test_blocks_are_refused_with_what_to_write_instead(registry: Registry) -> None:
    policy = hedge(delay=1, registry=registry)
    with pytest.raises(TypeError, match=r"\.call\(function"), policy:
        pass
    with pytest.raises(TypeError, match=r"\.call\(function"), pipeline(policy, timeout(1), registry=registry):
        pass

    async def main() -> None:
        async with policy:
            pass

    with pytest.raises(TypeError, match="decorate a function"):
        LOOPS[0].run(main)


def test_generators_are_refused_at_decoration(registry: Registry) -> None:
    policy = hedge(delay=1, registry=registry)

    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> Any:
        yield 1

    for function in (items, async_items):
        with pytest.raises(TypeError, match="can't be taken back"):
            policy(function)


@pytest.mark.parametrize(
    "make, setting",
    [
        (lambda: hedge(delay=-1), "delay"),
        (lambda: hedge(delay=math.inf), "delay"),
        (lambda: hedge(delay="1"), "delay"),  # type: ignore[arg-type]
        (lambda: hedge(delay=percentile), "delay"),  # type: ignore[arg-type]
        (lambda: hedge(delay=1, max_hedges=0), "max_hedges"),
        (lambda: hedge(delay=1, on="error"), "on"),  # type: ignore[arg-type]
        (lambda: hedge(delay=1, budget=3), "budget"),  # type: ignore[arg-type]
        (lambda: hedge(delay=1, name=""), "name"),
        (lambda: percentile(0), "share"),
        (lambda: percentile(95), "share"),
        (lambda: percentile(0.95, minimum=-1), "minimum"),
        (lambda: percentile(0.95, warmup=0), "warmup"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.setting == setting


def test_a_name_belongs_to_one_policy(registry: Registry) -> None:
    policy = hedge(delay=percentile(0.95), name="search", registry=registry)
    assert hedge(delay=percentile(0.95), name="search", registry=registry) is policy
    with pytest.raises(ConfigurationError, match="already registered"):
        hedge(delay=percentile(0.9), name="search", registry=registry)
    assert registry.find(Hedge, "search") is policy
    assert registry.snapshot()["hedge"]["search"]["delay"] is None


def test_a_timeout_outside_ends_the_attempts_of_a_loop(registry: Registry, clock: FakeClock) -> None:
    for loop in LOOPS:

        async def main(loop: Backend = loop) -> None:
            limit = timeout(1.0, registry=registry)
            policy = hedge(delay=0.2, registry=registry)

            async def late() -> None:
                await loop.spend(clock, 0.2)
                await loop.event().wait()

            async def later() -> None:
                await loop.spend(clock, 5.0)
                await loop.event().wait()

            body = Attempts(late, later)
            with pytest.raises(TimeoutExceededError):
                await loop.guard(pipeline(limit, policy, registry=registry), body)()
            assert (body.begun, body.running) == (2, 0)
            assert counts(policy) == ({}, {"cancelled": 2})

        loop.run(main)
        registry.clear()
