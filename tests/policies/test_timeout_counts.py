"""What a timeout that interrupts nothing counts."""

from __future__ import annotations

import asyncio

import pytest

from resilient import Registry, TimeoutExceededError, timeout
from resilient.testing import FakeClock, fake_clock


@pytest.mark.parametrize("in_task", [False, True])
def test_each_call_counts_once_by_how_it_ended(in_task: bool) -> None:
    policy = timeout(1, interrupt="never", registry=Registry())

    def body(clock: FakeClock, seconds: float, error: type[Exception] | None) -> None:
        clock.advance(seconds)
        if error is not None:
            raise error

    async def async_body(clock: FakeClock, seconds: float, error: type[Exception] | None) -> None:
        body(clock, seconds, error)

    def call(clock: FakeClock, seconds: float, error: type[Exception] | None = None) -> dict[str, object]:
        if in_task:
            asyncio.run(policy.call_async(async_body, clock, seconds, error))
        else:
            policy.call(body, clock, seconds, error)
        return policy.snapshot()

    with fake_clock() as clock:
        before = call(clock, 0.5)
        after = call(clock, 0.5)
        with pytest.raises(ValueError):  # noqa: PT011 - it has no message
            call(clock, 2.0, ValueError)
        with pytest.raises(TimeoutExceededError):
            call(clock, 2.0)
    assert (before["calls"], after["calls"]) == (
        {"completed": 1, "timed_out": 0},
        {"completed": 2, "timed_out": 0},
    )
    assert policy.snapshot()["calls"] == {"completed": 3, "timed_out": 1}
