"""Virtual time for every policy of the process."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from math import ceil
from types import TracebackType
from typing import Self

from resilient.core.checks import Checker, Seconds
from resilient.core.clock import CLOCK
from resilient.drivers import interrupts


class _Timer:
    __slots__ = ("fire",)

    def __init__(self, fire: Callable[[], object]) -> None:
        self.fire: Callable[[], object] | None = fire

    def cancel(self) -> None:
        self.fire = None


class FakeClock:
    """The clock of `fake_clock()`: time stands still until a test or a policy's wait moves it.

    Attributes:
        sleeps: the seconds of each wait of a policy, in order. The waits returned at once.
    """

    _latest = 0.0

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._turn = itertools.count()
        self._start = self._elapsed = 0.0
        self._before = CLOCK.state()
        self._entered = False

    def now(self) -> float:
        """Virtual seconds, as policies and events see them; only differences mean something."""
        # What was advanced is summed up apart from the start: ten times 0.1 make what they make from 0 on.
        return self._start + self._elapsed

    def advance(self, seconds: Seconds) -> None:
        """Move time on. Timeouts whose deadline it reaches fire, in the order of their deadlines.

        A timeout of plain code that runs on this thread is raised from here.

        Raises:
            ConfigurationError: not a duration of at least 0.
        """
        self._move(Checker("fake_clock").seconds("advance", seconds, zero=True))

    def wait(self, seconds: float) -> None:
        """A policy waits: note it and move time on."""
        # Differences between instants carry the rounding of the instants; nobody waits for parts of a nanosecond.
        self.sleeps.append(round(seconds, 9))
        self._move(seconds)

    def call_at(self, when: float, fire: Callable[[], object]) -> _Timer:
        """Call `fire` once time has reached `when`, on the thread that moves it there."""
        timer = _Timer(fire)
        with self._lock:
            # Another thread may have moved time there since the caller looked.
            due = when <= self.now()
            if not due:
                heapq.heappush(self._timers, (when, next(self._turn), timer))
        if due:
            fire()
        return timer

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this fake clock is in force already: use it as it is, or make another")
        self._entered = True
        self._before = CLOCK.state()
        self._start = _start_above(max(CLOCK.now(), FakeClock._latest))
        CLOCK.use_virtual_time(self.now, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        FakeClock._latest = max(FakeClock._latest, self.now())
        CLOCK.restore(self._before)
        self._entered = False

    def _move(self, seconds: float) -> None:
        with self._lock:
            target = self._elapsed + seconds
        while (fire := self._pop_due(target)) is not None:
            fire()
        interrupts.fire_due()

    def _pop_due(self, target: float) -> Callable[[], object] | None:
        """What fires next on the way to `target`; time moves as far."""
        with self._lock:
            while self._timers and self._timers[0][0] <= self._start + target:
                when, _, timer = heapq.heappop(self._timers)
                if timer.fire is not None:
                    self._elapsed = max(self._elapsed, when - self._start)
                    return timer.fire
            self._elapsed = max(self._elapsed, target)
        return None


def fake_clock() -> FakeClock:
    """Put every policy of the process, old and new, on virtual time for a block.

    Waits of policies return at once and move time on; timeouts fire when time passes their deadline.

    Example:
        >>> from resilient import circuit_breaker
        >>> from resilient.testing import fake_clock
        >>> with fake_clock() as clock:
        ...     breaker = circuit_breaker(open_duration=30)
        ...     breaker.trip()
        ...     clock.advance(30)
        ...     breaker.call(len, "back")
        4
    """
    return FakeClock()


def _start_above(instant: float) -> float:
    """A whole number above all instants that policies have seen, so that time never goes back for them.

    It lies in the upper half between two powers of two: adding seconds and fractions then rounds the same way
    throughout a test.
    """
    start = 1536.0
    while start < instant:
        start *= 2
    # The range below may have room left above its middle.
    return max(start / 2, float(ceil(instant))) if instant < start / 3 * 2 else start
