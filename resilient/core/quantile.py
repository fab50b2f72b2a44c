"""A quantile of the last so many values, exact."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil
from threading import RLock

from resilient.core.fork import renew_lock


class RecentQuantile:
    """The quantile of the last `size` values by nearest rank, from `warmup` values on.

    The values are kept twice, in order of arrival and sorted; with a few hundred of them adding one costs a
    microsecond.

    Attributes:
        value: the quantile; None while there are fewer than `warmup` values. Read without a lock.
    """

    __slots__ = ("_arrived", "_lock", "_share", "_size", "_sorted", "_warmup", "value")

    def __init__(self, share: float, *, warmup: int, size: int = 500) -> None:
        self._share = share
        self._warmup = warmup
        self._size = max(size, warmup)
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []
        self._lock = RLock()
        self.value: float | None = None

    def after_fork(self, now: float) -> None:
        renew_lock(self._lock)

    def add(self, value: float) -> None:
        with self._lock:
            if len(self._arrived) == self._size:
                del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
            self._arrived.append(value)
            insort(self._sorted, value)
            count = len(self._sorted)
            if count >= self._warmup:
                self.value = self._sorted[max(0, ceil(self._share * count) - 1)]
