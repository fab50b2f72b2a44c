"""A budget that keeps retries and hedges from multiplying the load.

The idea is that of Finagle's RetryBudget (https://twitter.github.io/finagle/guide/Clients.html#retries).
"""

from __future__ import annotations

from math import inf
from typing import Final

from resilient.core.backoff import as_number
from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.core.fork import new_rlock
from resilient.core.gil import GIL

# Calls and retries are counted in this many parts of the window.
_PARTS: Final = 50
_SHORTEST: Final = 0.001

# 0.29 * 100 is a little less than 29.
_ROUNDING: Final = 1e-9


class _Part:
    """What was counted in one part of the window.

    A part of calls covers start <= t < end; for a part of retries, `end` is the instant of its last retry.
    """

    __slots__ = ("count", "end", "start")

    def __init__(self, start: float, end: float, count: int) -> None:
        self.start = start
        self.end = end
        self.count = count


class RetryBudget:
    """How many retries and hedges the policies that share it may make.

    Over the last `window` seconds at most `ratio` * calls + `min_per_second` * `window` retries are allowed. When it is
    spent, retry policies give up with the last error, and hedge policies start no further attempt; attempts that
    run already are never stopped.

    A budget may be shared by any number of policies, threads and event loops. Nested retries that share one do not
    multiply beyond it.

    Args:
        ratio: retries for each call, at least 0; 0.2 is one retry for five calls.
        min_per_second: retries allowed each second however few calls there are, at least 0.
        window: how far back calls and retries count; seconds or a timedelta, at least 0.001.

    Raises:
        ConfigurationError: a setting is not as described.

    Example:
        >>> from resilient import RetryBudget, retry
        >>> budget = RetryBudget(ratio=0.1)
        >>> read = retry(attempts=5, budget=budget)
        >>> write = retry(attempts=2, budget=budget)
        >>> read.call(len, "read")
        4
        >>> budget.snapshot()["calls"]
        1
    """

    __slots__ = ("__weakref__", "_calls", "_denied", "_lock", "_part", "_retries", "min_per_second", "ratio", "window")

    def __init__(self, ratio: float = 0.2, *, min_per_second: float = 3.0, window: Seconds = 10.0) -> None:
        self.ratio: Final = _share("ratio", ratio)
        self.min_per_second: Final = _share("min_per_second", min_per_second)
        self.window: Final = Checker("RetryBudget").seconds("window", window)
        if self.window < _SHORTEST:
            refuse(
                "RetryBudget", "window", window, f"seconds of at least {_SHORTEST:g} (a finite number or a timedelta)"
            )
        self._lock = new_rlock()
        self._part = _Part(-inf, -inf, 0)
        # Replaced as a whole and never changed in place, so that a snapshot reads them without the lock.
        self._calls: tuple[_Part, ...] = ()
        self._retries: tuple[_Part, ...] = ()
        self._denied = 0

    def settings_key(self) -> tuple[float, float, float]:
        """What two budgets of equal settings have in common; the budgets themselves are equal only to themselves."""
        return self.ratio, self.min_per_second, self.window

    def deposit(self, now: float) -> None:
        """Count a call: its first attempt, not its retries. Without a lock in nearly all cases."""
        part = self._part
        if GIL and part.start <= now < part.end:
            part.count += 1
        else:
            with self._lock:
                self._current_part_locked(now).count += 1

    def withdraw(self, now: float) -> bool:
        """Take one retry; False where the budget is spent."""
        with self._lock:
            self._current_part_locked(now)
            if self._left(now) < 1.0 - _ROUNDING:
                self._denied += 1
                return False
            self._count_retry_locked(now)
            return True

    def snapshot(self, now: float | None = None) -> dict[str, float]:
        """The settings, and what was counted in the window; `denied` is a total. Takes no lock and changes nothing."""
        at = CLOCK.now() if now is None else now
        return {
            "ratio": self.ratio,
            "min_per_second": self.min_per_second,
            "window": self.window,
            "calls": self._calls_since(at - self.window),
            "retries": self._retries_since(at - self.window),
            "available": max(0, int(self._left(at) + _ROUNDING)),
            "denied": self._denied,
        }

    def __repr__(self) -> str:
        return f"RetryBudget(ratio={self.ratio!r}, min_per_second={self.min_per_second!r}, window={self.window!r})"

    # Where a part lies across the edge of the window its calls are left out and its retries kept: the limit
    # holds for every window, wherever it begins.
    def _calls_since(self, edge: float) -> int:
        return sum(part.count for part in self._calls if part.start > edge)

    def _retries_since(self, edge: float) -> int:
        return sum(part.count for part in self._retries if part.end > edge)

    def _left(self, now: float) -> float:
        edge = now - self.window
        earned = self.ratio * self._calls_since(edge) + self.min_per_second * self.window
        return earned - self._retries_since(edge)

    def _current_part_locked(self, now: float) -> _Part:
        part = self._part
        edge = now - self.window
        if part.start - self.window > now:
            # Time went back by more than a window: a test has put the process on virtual time.
            self._calls = self._retries = ()
        elif now < part.end:
            # A thread that read the time just before another one began this part counts here as well.
            return part
        part = _Part(now, now + self.window / _PARTS, 0)
        self._calls = (*(old for old in self._calls if old.start > edge), part)
        self._part = part
        return part

    def _count_retry_locked(self, now: float) -> None:
        last = self._retries[-1] if self._retries else None
        if last is not None and now < last.start + self.window / _PARTS:
            last.count += 1
            last.end = max(last.end, now)
        else:
            edge = now - self.window
            self._retries = (*(old for old in self._retries if old.end > edge), _Part(now, now, 1))


def _share(setting: str, value: object) -> float:
    number = as_number(value)
    if number is None or not 0.0 <= number < inf:
        refuse("RetryBudget", setting, value, "a finite number of at least 0")
    return number
