"""A body inside a timeout block, as policies put it there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from resilient.drivers.tasks import TaskTimeouts


class TimeRanOut(Exception):
    """What the caller of a block raises in these tests."""


async def within(timeouts: TaskTimeouts, body: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
    block = timeouts.block()
    block.enter(seconds)
    try:
        result = await body()
    except BaseException as error:
        if block.exit(error):
            raise TimeRanOut from error
        raise
    block.exit(None)
    return result
