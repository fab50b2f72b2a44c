"""The generic cell rate algorithm, with an orderly queue for those that may wait.

GCRA comes from ATM networks (ITU-T I.371, annex A) and is the leaky bucket as a meter: one number, the theoretical
arrival time of the next call, stands for the whole bucket. Here a call that may wait reserves its slot at once. A slot
given back is filled by those behind, each of whom moves up by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Final

from resilient.core.fork import renew_lock

# Times are sums of many intervals: a slot that is so little late is not late.
_ROUNDING: Final = 1e-9


class Slot:
    """The instant at which one waiting call may go. It only ever moves to an earlier one; `wake` is called then."""

    __slots__ = ("at", "wake")

    def __init__(self, at: float) -> None:
        self.at = at
        self.wake: Callable[[], object] | None = None


class Gcra:
    """At most `limit * T / period + burst` calls in any time T.

    Args:
        limit: calls a period.
        period: seconds.
        burst: so many calls may go at the same instant after a pause.
    """

    __slots__ = ("_arrival", "_interval", "_lock", "_tolerance", "_waiting", "burst")

    def __init__(self, limit: float, period: float, burst: int) -> None:
        self._interval = period / limit
        self._tolerance = self._interval * (burst - 1)
        self.burst = burst
        self._arrival = float("-inf")
        self._waiting: deque[Slot] = deque()
        self._lock = RLock()

    def after_fork(self, now: float) -> None:
        """Who waited for a slot waits in the parent."""
        renew_lock(self._lock)
        self._waiting.clear()

    def take(self, now: float) -> bool:
        """A slot at this very instant, where there is one."""
        with self._lock:
            arrival = self._arrival
            if arrival < now:
                arrival = now
            if arrival - self._tolerance - now > _ROUNDING:
                return False
            self._arrival = arrival + self._interval
            return True

    def reserve(self, now: float, longest: float) -> Slot | float:
        """A slot within the next `longest` seconds, or else the seconds after which a call could go."""
        with self._lock:
            arrival = max(self._arrival, now)
            wait = arrival - self._tolerance - now
            if wait <= _ROUNDING:
                self._arrival = arrival + self._interval
                return Slot(now)
            if wait > longest + _ROUNDING:
                return wait
            self._drop_past_locked(now)
            slot = Slot(now + wait)
            self._waiting.append(slot)
            self._arrival = arrival + self._interval
            return slot

    def give_back(self, slot: Slot, now: float) -> list[Slot]:
        """A call that waits for this slot does not take it. Gives the slots behind it, which have moved up.

        A slot whose time has come is spent: to let others have it late would let them through too close together.
        """
        with self._lock:
            self._drop_past_locked(now)
            try:
                place = self._waiting.index(slot)
            except ValueError:
                return []
            at = slot.at
            behind = list(self._waiting)[place + 1 :]
            for other in behind:
                other.at, at = at, other.at
            del self._waiting[place]
            self._arrival -= self._interval
            return behind

    def available(self, now: float) -> int:
        """Calls that could go at this instant."""
        behind = max(self._arrival - now, 0.0)
        return max(0, min(self.burst, int((self._tolerance + self._interval - behind) / self._interval + _ROUNDING)))

    @property
    def waiting(self) -> int:
        """Slots reserved for a later instant; some may have come in the meantime."""
        return len(self._waiting)

    def _drop_past_locked(self, now: float) -> None:
        while self._waiting and self._waiting[0].at <= now + _ROUNDING:
            self._waiting.popleft()
