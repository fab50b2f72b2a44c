"""Adaptive throttling on the client's side.

The rule is that of Google's "Site Reliability Engineering", chapter 21, "Handling Overload": a client whose calls are
refused by the other side begins to refuse them itself, with probability

    max(0, (requests - k * accepts) / (requests + 1))

over the last minutes, where requests are all calls made and accepts those that the other side took on.
"""

from __future__ import annotations

from threading import RLock
from typing import Final

from resilient.core.fork import renew_lock

_PARTS: Final = 100


def rejection_probability(requests: int, accepts: int, k: float) -> float:
    """The formula, without a cap."""
    return max(0.0, (requests - k * accepts) / (requests + 1))


class _Part:
    """What was counted from its start until its end; forgotten once the last of it is a window old."""

    __slots__ = ("accepts", "end", "newest", "requests")

    def __init__(self, now: float, width: float) -> None:
        self.end = now + width
        self.newest = now
        self.requests = self.accepts = 0


class Throttle:
    """Requests and accepts of the last `window` seconds, counted in parts of a hundredth of the window.

    A call counts once it is known what became of it, and is then a request and maybe an accept at the same time. Were
    calls under way requests already, the first burst of calls to a healthy service would be refused.
    """

    __slots__ = ("_accepts", "_k", "_lock", "_max_rejection", "_parts", "_requests", "_window")

    def __init__(self, k: float, window: float, max_rejection: float) -> None:
        self._k = k
        self._window = window
        self._max_rejection = max_rejection
        # Replaced as a whole and never changed in place, so that a report reads them without the lock.
        self._parts: tuple[_Part, ...] = ()
        self._requests = self._accepts = 0
        self._lock = RLock()

    def after_fork(self, now: float) -> None:
        renew_lock(self._lock)

    def report(self, now: float) -> tuple[float, int, int]:
        """Probability, requests and accepts at this instant; takes no lock and changes nothing."""
        live = [part for part in self._parts if part.newest > now - self._window]
        requests, accepts = sum(part.requests for part in live), sum(part.accepts for part in live)
        return self._probability(requests, accepts), requests, accepts

    def refuses(self, now: float, draw: float) -> float | None:
        """None: the call may go. Else it is refused, with this probability, and counted. `draw` is from [0, 1)."""
        with self._lock:
            part = self._current_part_locked(now)
            probability = self._probability(self._requests, self._accepts)
            if draw >= probability:
                return None
            part.requests += 1
            self._requests += 1
            return probability

    def record(self, now: float, *, accepted: bool) -> None:
        """A call that was let go has ended. Those that end without a verdict are not recorded."""
        with self._lock:
            part = self._current_part_locked(now)
            part.requests += 1
            self._requests += 1
            if accepted:
                part.accepts += 1
                self._accepts += 1

    def _probability(self, requests: int, accepts: int) -> float:
        return min(rejection_probability(requests, accepts, self._k), self._max_rejection)

    def _current_part_locked(self, now: float) -> _Part:
        """The part that counts at this instant; forgets those that are too old."""
        parts = self._parts
        if parts and parts[-1].newest - self._window > now:
            # Time went back by more than a window: a test has put the process on virtual time.
            parts = ()
        if parts and parts[0].newest <= now - self._window:
            parts = tuple(part for part in parts if part.newest > now - self._window)
        if not parts or now >= parts[-1].end:
            parts = (*parts, _Part(now, self._window / _PARTS))
        if parts is not self._parts:
            self._parts = parts
            self._requests = sum(part.requests for part in parts)
            self._accepts = sum(part.accepts for part in parts)
        part = parts[-1]
        part.newest = max(part.newest, now)
        return part
