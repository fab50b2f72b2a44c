"""The policies of the guarded client, on virtual time: who is asked, and what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from resilient.core.clock import CLOCK
from resilient.demo.clients import outcome_of
from resilient.demo.guards import ATTEMPTS, CONNECTIONS, PRIMARY, REPLICA, REPLICA_RATE, UNKNOWN, Ask
from resilient.demo.http import Answer, BadStatus
from resilient.demo.rows import Snapshot, counts, number, retries
from resilient.demo.users import Outcome
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limiter import RateLimiter
from resilient.registry import Registry
from resilient.testing import FakeClock, fake_clock
from tests.demo.kit import fine, guarded, refused


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


def outcomes(primary: Ask, replica: Ask, *items: int, at_once: bool = False) -> tuple[list[Outcome], Snapshot]:
    """What users got who asked for these items, and what the policies counted."""
    registry = Registry()
    stock = guarded(primary, replica, registry)

    async def ask(user: int, item: int) -> Outcome:
        asked = CLOCK.now()
        return outcome_of(await stock(item, user), asked)

    async def main() -> list[Outcome]:
        calls = [ask(user, item) for user, item in enumerate(items)]
        return list(await asyncio.gather(*calls)) if at_once else [await call for call in calls]

    return asyncio.run(main()), registry.snapshot()


def failing(times: int, error: Exception, clock: FakeClock, *, healthy_first: int = 0) -> Ask:
    """Fails so many times, after some good answers; takes a while either way."""
    asked: list[int] = []

    async def ask(item: int, user: int) -> Answer:
        asked.append(item)
        if healthy_first < len(asked) <= healthy_first + times:
            raise error
        answer = await fine(item, user)
        clock.advance(0.01)
        return answer

    return ask


def test_a_healthy_upstream_is_asked_once_and_nobody_else_is(clock: FakeClock) -> None:
    got, snapshot = outcomes(fine, refused, 1, 2, 1)

    assert got == ["answered"] * 3
    assert counts(snapshot, "failover", "inventory", "served") == {"primary": 3, "replica": 0}


def test_where_the_upstream_is_down_the_replica_answers(clock: FakeClock) -> None:
    got, snapshot = outcomes(refused, fine, 1, 2)

    assert got == ["answered"] * 2
    assert counts(snapshot, "failover", "inventory", "served") == {"primary": 0, "replica": 2}
    assert retries(snapshot) == 0


def test_where_both_are_down_the_memory_answers_or_else_the_default(clock: FakeClock) -> None:
    primary = failing(99, ConnectionRefusedError(), clock, healthy_first=1)

    got, _ = outcomes(primary, refused, 1, 1, 2)

    assert got == ["answered", "from_memory", "default"]


def test_a_503_is_retried_and_goes_to_no_replica(clock: FakeClock) -> None:
    got, snapshot = outcomes(failing(ATTEMPTS - 1, BadStatus(503, {}), clock), refused, 1)

    assert got == ["answered"]
    assert retries(snapshot) == ATTEMPTS - 1
    assert counts(snapshot, "failover", "inventory", "served")["replica"] == 0


def test_a_503_starts_no_hedge(clock: FakeClock) -> None:
    primary = failing(2, BadStatus(503, {}), clock, healthy_first=20)

    got, snapshot = outcomes(primary, refused, *range(21))

    assert got == ["answered"] * 21
    assert retries(snapshot) == 2
    assert counts(snapshot, "hedge", PRIMARY) == {"not_hedged": 21, "primary_won": 0, "hedge_won": 0, "failed": 2}


def test_more_calls_than_connections_go_to_the_replica(clock: FakeClock) -> None:
    async def slow(item: int, user: int) -> Answer:
        await asyncio.sleep(0)
        return await fine(item, user)

    got, snapshot = outcomes(slow, fine, *range(CONNECTIONS + 2), at_once=True)

    assert got == ["answered"] * (CONNECTIONS + 2)
    assert number(snapshot, "bulkhead", PRIMARY, "rejected") == 2
    assert counts(snapshot, "failover", "inventory", "served")["replica"] == 2


def test_calls_wait_for_their_turn_at_the_replica(clock: FakeClock) -> None:
    got, snapshot = outcomes(refused, fine, *range(5))

    assert got == ["answered"] * 5
    assert clock.sleeps == [pytest.approx(1 / REPLICA_RATE)] * 3
    assert counts(snapshot, "rate_limiter", REPLICA, "totals") == {"allowed": 2, "delayed": 3, "rejected": 0}


def test_what_the_replica_may_not_be_asked_counts_against_nobody(clock: FakeClock) -> None:
    registry = Registry()
    stock = guarded(refused, fine, registry)
    limiter, breaker = registry.find(RateLimiter, REPLICA), registry.find(CircuitBreaker, REPLICA)
    assert limiter is not None
    assert breaker is not None
    limiter._max_wait = 0.0

    async def main() -> list[Answer]:
        return [await stock(item, 0) for item in range(4)]

    assert [answer is UNKNOWN for answer in asyncio.run(main())] == [False, False, True, True]
    assert breaker.snapshot()["totals"] == {"success": 2, "failure": 0, "slow": 0, "ignored": 2, "rejected": 0}


def test_no_answer_of_a_healthy_upstream_is_late_enough_for_a_hedge(clock: FakeClock) -> None:
    async def slowest(item: int, user: int) -> Answer:
        clock.advance(0.06)
        return await fine(item, user)

    _, snapshot = outcomes(slowest, fine, *range(40))

    assert snapshot["hedge"][PRIMARY]["delay"] == 0.08
    assert counts(snapshot, "hedge", PRIMARY)["not_hedged"] == 40


def test_an_answer_is_fresh_only_where_it_was_given_after_the_question() -> None:
    assert outcome_of(Answer("", 5.0), asked=5.0) == "answered"
    assert outcome_of(Answer("", 4.9), asked=5.0) == "from_memory"
    assert outcome_of(UNKNOWN, asked=5.0) == "default"
