"""At the very instant at which a deadline falls, it has passed."""

from __future__ import annotations

import asyncio

import pytest

from resilient import BulkheadFullError, Registry, TimeoutExceededError, adaptive, bulkhead, timeout
from resilient.core.deadline import DEADLINE, shorten_deadline
from resilient.testing import fake_clock


def test_a_call_whose_deadline_is_now_does_not_queue() -> None:
    policy = bulkhead(max_concurrent=1, max_queue=1, registry=Registry())
    with fake_clock() as clock, policy:
        token = shorten_deadline(clock.now())
        assert token is not None
        try:
            with pytest.raises(BulkheadFullError):
                policy.call(lambda: None)
        finally:
            DEADLINE.reset(token)
    assert policy.snapshot()["totals"] == {"accepted": 1, "queued": 0, "rejected": 0, "queue_timeout": 1}
    assert policy._meter.queue.count == 0


@pytest.mark.parametrize("block", [False, True])
def test_a_call_that_is_cancelled_at_its_deadline_shrinks_an_adaptive_limit(block: bool) -> None:
    policy = bulkhead(max_concurrent=adaptive(initial=30, algorithm="aimd"), registry=Registry())
    limit = timeout(1, registry=Registry())

    async def body() -> None:
        clock.advance(1.0)
        await asyncio.sleep(60)

    async def in_block() -> None:
        async with policy:
            await body()

    with fake_clock() as clock, pytest.raises(TimeoutExceededError):
        asyncio.run(limit.call_async(in_block if block else policy.call_async, *([] if block else [body])))
    assert policy.limit == 27
