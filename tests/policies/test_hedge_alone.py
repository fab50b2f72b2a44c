"""What hedge counts of a call whose percentile is not warm: one attempt, where the caller is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient import Hedge, Registry, hedge, percentile
from resilient.testing import fake_clock


def counts(policy: Hedge) -> list[dict[str, int]]:
    snapshot: Any = policy.snapshot()
    return [{result: count for result, count in snapshot[what].items() if count} for what in ("calls", "attempts")]


@pytest.mark.parametrize(
    "error, expected",
    [
        (None, [{"not_hedged": 1}, {"won": 1}]),
        (ValueError, [{"failed": 1}, {"failed": 1}]),
        (KeyboardInterrupt, [{}, {"cancelled": 1}]),
    ],
)
@pytest.mark.parametrize("in_task", [False, True])
def test_it_counts_one_attempt_by_how_it_ended(
    error: type[BaseException] | None, expected: list[dict[str, int]], in_task: bool
) -> None:
    policy = hedge(delay=percentile(0.5, warmup=3), registry=Registry())

    def body() -> None:
        if error is not None:
            raise error

    async def async_body() -> None:
        body()

    def call() -> None:
        if in_task:
            asyncio.run(policy.call_async(async_body))
        else:
            policy.call(body)

    with fake_clock():
        if error is None:
            call()
        else:
            with pytest.raises(error):
                call()
    assert counts(policy) == expected
