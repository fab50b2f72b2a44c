"""What a circuit breaker remembers of its last calls: O(1) a call, bounded memory.

A window takes successes without a lock (they can't open a circuit) through `success`, a plain callable that the hot
path calls with the instant. Failures and slow calls go through `add_locked`, which first folds in what has gathered.
Without the GIL the breaker calls everything under its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

FAILURE = 1
SLOW = 2


class Window(Protocol):
    """Outcomes are codes: FAILURE and SLOW are bits, a plain success is 0.

    `streak` is the number of failures since the last success.
    """

    calls: int
    failures: int
    slow: int
    streak: int

    @property
    def success(self) -> Callable[[float], object]:
        """Record a success at an instant, without a lock. Windows of calls don't look at the instant."""
        ...

    def add_locked(self, now: float, code: int) -> None:
        """Record a failure or a slow call, and bring `calls`, `failures`, `slow`, `streak` up to date."""

    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow calls at this instant; changes nothing."""
        ...


class CountWindow:
    """The last `size` calls. Successes gather in a deque that forgets as the window does."""

    __slots__ = ("_inbox", "_next", "_ring", "calls", "failures", "size", "slow", "streak", "success")

    def __init__(self, size: int) -> None:
        self.size = size
        self._inbox: deque[float] = deque(maxlen=size)
        self.success = self._inbox.append
        self._ring = bytearray()
        self._next = 0
        self.calls = self.failures = self.slow = self.streak = 0

    def add_locked(self, now: float, code: int) -> None:
        for _ in range(len(self._inbox)):
            self._inbox.popleft()
            self._push(0)
        self._push(code)

    def _push(self, code: int) -> None:
        ring = self._ring
        if self.calls < self.size:
            ring.append(code)
            self.calls += 1
        else:
            old = ring[self._next]
            self.failures -= old & FAILURE
            self.slow -= old >> 1
            ring[self._next] = code
            self._next = (self._next + 1) % self.size
        self.failures += code & FAILURE
        self.slow += code >> 1
        self.streak = self.streak + 1 if code & FAILURE else 0

    def counts(self, now: float) -> tuple[int, int, int]:
        waiting = len(self._inbox)
        if not waiting:
            return self.calls, self.failures, self.slow
        total = self.calls + waiting
        # The oldest entries are those that the waiting successes will push out.
        dropped = min(max(total - self.size, 0), self.calls)
        ring, start = self._ring, self._next
        failures, slow = self.failures, self.slow
        for offset in range(dropped):
            old = ring[(start + offset) % len(ring)]
            failures -= old & FAILURE
            slow -= old >> 1
        return min(total, self.size), failures, slow


class _Cell:
    """Calls of one short stretch of time."""

    __slots__ = ("calls", "end", "failures", "newest", "slow")

    def __init__(self, now: float, width: float) -> None:
        self.end = now + width
        self.newest = now
        self.calls = self.failures = self.slow = 0


class TimeWindow:
    """The calls of the last `duration` seconds.

    Time is cut into cells of a hundredth of the window. A cell begins with a call, not on a grid, and is forgotten
    once its newest call is a window old: calls that are at least a cell apart are forgotten to the instant, denser
    ones at most 1 % of the window late. A pause costs nothing, however long.
    """

    __slots__ = ("_cell", "_cells", "_streak_broken", "_width", "calls", "duration", "failures", "slow", "streak")

    CELLS = 100

    def __init__(self, duration: float) -> None:
        self.duration = duration
        self._width = duration / self.CELLS
        self._cell = _Cell(float("-inf"), 0.0)
        # Threads that begin a cell at the same instant begin one each; the bound is far above what that can add.
        self._cells: deque[_Cell] = deque(maxlen=4 * self.CELLS)
        self._streak_broken = False
        self.calls = self.failures = self.slow = self.streak = 0

    def success(self, now: float) -> None:
        cell = self._cell
        if now >= cell.end:
            cell = self._begin_cell(now)
        cell.calls += 1
        cell.newest = now
        self._streak_broken = True

    def add_locked(self, now: float, code: int) -> None:
        cell = self._cell
        if now >= cell.end:
            cell = self._begin_cell(now)
        cell.calls += 1
        cell.newest = now
        cell.failures += code & FAILURE
        cell.slow += code >> 1
        if self._streak_broken or not code & FAILURE:
            self._streak_broken = False
            self.streak = 0
        self.streak += code & FAILURE
        self._forget_locked(now)
        self.calls, self.failures, self.slow = self.counts(now)

    def counts(self, now: float) -> tuple[int, int, int]:
        horizon = now - self.duration
        calls = failures = slow = 0
        # Not a tuple: making one may collect garbage, whose finalizers let other threads in to begin a cell.
        for cell in reversed(list(self._cells)):
            if cell.newest <= horizon:
                break
            calls += cell.calls
            failures += cell.failures
            slow += cell.slow
        return calls, failures, slow

    def _begin_cell(self, now: float) -> _Cell:
        cell = _Cell(now, self._width)
        self._cells.append(cell)
        self._cell = cell
        return cell

    def _forget_locked(self, now: float) -> None:
        horizon = now - self.duration
        cells = self._cells
        while cells and cells[0].newest <= horizon:
            cells.popleft()
