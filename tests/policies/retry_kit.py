"""What the tests of retry call, and what they ask it afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import (
    Retry,
)
from resilient.testing import FakeClock


class Failing:
    """Fails every time, with an error of its own each time."""

    def __init__(self, make: Any = ConnectionError) -> None:
        self.make = make
        self.raised: list[BaseException] = []

    def __call__(self, *_: object) -> Any:
        self.raised.append(self.make())
        raise self.raised[-1]

    async def in_task(self) -> Any:
        self()


def waits_of(policy: Retry, clock: FakeClock, make: Any = ConnectionError) -> list[float]:
    """The waits of one call that fails throughout."""
    del clock.sleeps[:]
    with pytest.raises(Exception):  # noqa: B017, PT011
        policy.call(Failing(make))
    return clock.sleeps[:]
