"""Virtual time for the tests of the drivers: a loop that jumps from timer to timer, a clock moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from resilient.core.clock import CLOCK

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(0.05)  # only another thread can end this wait
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that starts at 0.0 and, with nothing left to run, is at the time of its next timer at once."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Must be coarser than the gaps between floats, or a timer that is due is found to be early for ever.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now

    def timers(self) -> int:
        return len(self._scheduled)  # type: ignore[attr-defined]


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class _ManualTimer:
    def __init__(self, fire: Callable[[], object]) -> None:
        self.fire: Callable[[], object] | None = fire

    def cancel(self) -> None:
        self.fire = None


class ManualTime:
    """Virtual time that moves when told to, or when a policy waits."""

    def __init__(self) -> None:
        self.instant = 100.0
        self.waits: list[float] = []
        self._timers: list[tuple[float, int, _ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self.instant

    def call_at(self, when: float, fire: Callable[[], object]) -> _ManualTimer:
        timer = _ManualTimer(fire)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        end = self.instant + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self.instant = max(self.instant, when)
            if timer.fire is not None:
                timer.fire()
        self.instant = end

    def pending(self) -> int:
        return sum(timer.fire is not None for _, _, timer in self._timers)


@contextmanager
def manual_time() -> Iterator[ManualTime]:
    time = ManualTime()
    CLOCK.use_virtual_time(time.now, time)
    try:
        yield time
    finally:
        CLOCK.use_real_time()
