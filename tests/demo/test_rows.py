"""The table of policies, read from snapshots of a real registry."""

from __future__ import annotations

import asyncio

from resilient.demo.guards import NAME
from resilient.demo.rows import retries, rows, state_of, total
from resilient.registry import Registry
from resilient.testing import fake_clock
from tests.demo.kit import fine, guarded, refused, snapshot


def test_before_the_first_call_there_is_nothing_to_tell() -> None:
    assert [(row.label, row.doing) for row in rows(snapshot())] == [
        ("pipeline", "0 calls active"),
        ("fallback", "0 defaults"),
        ("stale cache", "0 from memory"),
        ("throttle", "refuses 0 %"),
        ("total timeout", "0 ended"),
        ("retry", "0 retries"),
        ("failover", "0 by the replica"),
        ("circuit breaker", "closed"),
        ("hedge", "0 won"),
        ("bulkhead", "0 of 8 in use"),
        ("attempt timeout", "0 cut off"),
        ("rate limiter", "0 refused"),
    ]


def test_every_policy_that_there_is_has_a_row() -> None:
    kinds = set(snapshot()) - {"pipeline"}

    assert kinds == {
        "fallback",
        "stale",
        "throttle",
        "timeout",
        "retry",
        "failover",
        "circuit_breaker",
        "hedge",
        "bulkhead",
        "rate_limiter",
    }
    # The timeout has two: one for the call, one for each attempt.
    assert len(rows(snapshot())) == 1 + len(kinds) + 1


def test_rows_show_what_the_policies_have_counted() -> None:
    registry = Registry()
    stock = guarded(refused, fine, registry)

    async def calls() -> None:
        for user in range(30):
            await stock(user, user)

    with fake_clock():
        asyncio.run(calls())
        table = {row.label: row for row in rows(registry.snapshot())}

    # The breaker opens at failure 24; the replica goes on answering, as often as it may be asked.
    assert table["circuit breaker"].doing.startswith("open 0.")
    assert table["circuit breaker"].tone == "bad"
    assert table["failover"].doing == "30 by the replica"
    assert table["rate limiter"].doing == "0 refused"


def snapshot_of(**counts: int) -> dict[str, dict[str, dict[str, object]]]:
    return {"retry": {NAME: {"calls": counts, "attempts": {"success": 9, "retryable_failure": 4, "failure": 0}}}}


def test_retries_are_the_attempts_after_the_first_of_each_call() -> None:
    assert retries(snapshot_of(first_try=7, recovered=2, exhausted=1)) == 3
    assert total(snapshot_of(first_try=7, recovered=2), "retry", NAME) == 9


def test_an_open_circuit_shows_how_long_its_break_still_is() -> None:
    assert state_of({"state": "open", "retry_after": 0.84}) == "open 0.8 s"
    assert state_of({"state": "half_open", "retry_after": None}) == "half-open"
