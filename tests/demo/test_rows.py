"""The table of policies, read from snapshots of a real registry."""

from __future__ import annotations

import asyncio

import pytest

from resilient.demo.clients import ATTEMPTS, NAME, policies
from resilient.demo.rows import retries, rows, share, state_of, total
from resilient.demo.script import Pace
from resilient.errors import CircuitOpenError
from resilient.registry import Registry
from resilient.testing import fake_clock


async def fine() -> str:
    return "fine"


async def broken() -> str:
    raise ConnectionRefusedError


def test_before_the_first_call_there_is_nothing_to_tell() -> None:
    registry = Registry()
    policies(Pace.of(30.0), 1, registry)
    registry.call_meter(NAME)
    snapshot = registry.snapshot()

    table = rows(NAME, snapshot, snapshot, [], [])

    assert [row.label for row in table] == [
        "pipeline inventory",
        "timeout 2 s",
        "retry",
        "circuit breaker",
        "attempt timeout 0.25 s",
    ]
    assert {row.calls for row in table} == {0}
    assert {row.failing for row in table} == {None}
    assert (table[3].state, table[3].tone) == ("closed", "good")


def test_rows_show_calls_failures_retries_and_refusals_as_the_policies_count_them() -> None:
    registry = Registry()
    inventory = policies(Pace.of(30.0), 1, registry)

    async def calls() -> None:
        for _ in range(6):
            await inventory.call_async(fine)
        for _ in range(5):
            with pytest.raises((ConnectionRefusedError, CircuitOpenError)):
                await inventory.call_async(broken)

    with fake_clock():
        before = registry.snapshot() | {"pipeline": {NAME: registry.call_meter(NAME).snapshot()}}
        asyncio.run(calls())
        now = registry.snapshot()
        table = {row.label: row for row in rows(NAME, now, before, [0.1, 0.3], [0.02])}

    # The breaker opens at failure 24: the fifth of the broken calls gets four attempts, and then a refusal.
    assert table["pipeline inventory"].calls == 11
    assert table["pipeline inventory"].failing == pytest.approx(5 / 11)
    assert table["pipeline inventory"].p50 == 0.02
    assert table["retry"].retries == 4 * (ATTEMPTS - 1) + 4
    assert table["circuit breaker"].refused == 1
    assert table["circuit breaker"].tone == "bad"
    assert table["circuit breaker"].calls == 6 + 24 + 1
    assert table["attempt timeout 0.25 s"].calls == 6 + 24
    assert table["attempt timeout 0.25 s"].p99 == 0.3


def snapshot_of(**counts: int) -> dict[str, dict[str, dict[str, object]]]:
    return {"retry": {"a": {"calls": counts, "attempts": {"success": 9, "retryable_failure": 4, "failure": 0}}}}


def test_the_share_of_failures_is_that_of_the_time_between_two_snapshots() -> None:
    before = snapshot_of(first_try=100, exhausted=100)
    now = snapshot_of(first_try=103, exhausted=101)

    assert share(now, before, "retry", "a", ("first_try",)) == pytest.approx(0.25)
    assert share(now, now, "retry", "a", ("first_try",)) is None


def test_retries_are_the_attempts_after_the_first_of_each_call() -> None:
    assert retries(snapshot_of(first_try=7, recovered=2, exhausted=1), "a") == 3
    assert total(snapshot_of(first_try=7, recovered=2), "retry", "a") == 9


def test_an_open_circuit_shows_how_long_its_break_still_is() -> None:
    assert state_of({"state": "open", "retry_after": 0.84}) == "open 0.8 s"
    assert state_of({"state": "half_open", "retry_after": None}) == "half-open"
