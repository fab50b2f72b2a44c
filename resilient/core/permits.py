"""Permits and the queue for them: first come, first served, between threads and tasks of any event loop.

A permit that comes back while somebody waits is handed over under the lock and is never free in between, so nobody can
overtake. Where nobody waits no lock is taken: with the GIL threads change over only at calls and at backward jumps, and
between the look at a number and its change there is neither. Whoever joins the queue first says so (`contended`) and
then looks once more for a permit; whoever gives one back first makes it free and then looks whether somebody said so.

The lock is one that its thread may take again: the garbage collector may run anywhere, also under the lock, and close a
guarded generator or an abandoned task, which gives its permit back. Only calls, and the objects they make, start it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, auto
from threading import RLock
from typing import NamedTuple, Protocol

from resilient.core.fork import renew_lock
from resilient.core.gil import GIL


class LimitRule(Protocol):
    """Finds the limit from what calls experience. Used under the lock of the permits."""

    limit: int

    def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
        """The limit after a call that took `duration` and began as one of `in_flight`."""
        ...


class LimitChange(NamedTuple):
    before: int
    after: int
    adapted: bool
    at: float


class Usage(NamedTuple):
    """What is in use of what there is."""

    in_flight: int
    limit: int
    queued: int
    max_queue: int


class _State(Enum):
    WAITING = auto()
    GRANTED = auto()
    OVER = auto()


class Place:
    """A place in the queue. `wake` is called once a permit is granted, outside all locks, and maybe more than once.

    It hands back False where nobody is there to be woken; the permit then goes to the next.
    """

    __slots__ = ("_state", "wake")

    def __init__(self, wake: Callable[[], bool]) -> None:
        self.wake = wake
        self._state = _State.WAITING

    @property
    def granted(self) -> bool:
        return self._state is _State.GRANTED


class Permits:
    """So many permits, and a queue of at most `max_queue` that wait for one.

    Who has got a permit, by `try_acquire` or because `end_wait` says so, gives it back with `release`, once.
    """

    __slots__ = (
        "contended",
        "_debt",
        "_forked",
        "free",
        "_lock",
        "_queue",
        "_rule",
        "changes",
        "limit",
        "max_queue",
    )

    def __init__(
        self, limit: int, max_queue: int, rule: LimitRule | None = None, changes: list[LimitChange] | None = None
    ) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.changes: list[LimitChange] = [] if changes is None else changes
        self._rule = rule
        self.free = limit
        # Permits that are out and will not become free when they come back.
        self._debt = 0
        self._queue: OrderedDict[Place, None] = OrderedDict()
        # Must be true while somebody waits or there is a debt; without the GIL, and after some forks, always.
        self.contended = not GIL
        self._forked = False
        self._lock = RLock()

    def after_fork(self, now: float) -> None:
        """All are free: the calls of other threads end in the parent. Who forked may still give its own back."""
        renew_lock(self._lock)
        self._forked = self._forked or self.in_flight > 0
        self.free = self.limit
        self._debt = 0
        self._queue.clear()
        self._update_contended_locked()

    @property
    def in_flight(self) -> int:
        """Permits that are out, those on their way to somebody who waited included."""
        return max(0, self.limit + self._debt - self.free)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def queue_is_full(self) -> bool:
        return len(self._queue) >= self.max_queue

    def try_acquire(self) -> bool:
        """Take a permit, if there is one that nobody waits for."""
        if self.contended:
            return self._try_acquire_slowly()
        if self.free > 0:
            self.free -= 1
            return True
        return False

    def release(self) -> None:
        """Give a permit back: to the longest waiting, or else it is free."""
        if GIL:
            self.free += 1
            if self.contended:
                self.settle(0)
        else:
            self.settle(1)

    def queue_up(self, wake: Callable[[], bool]) -> Place | None:
        """Take a place in the queue; one that may be granted at once. None where the queue is full."""
        place: Place | None = Place(wake)
        assert place is not None
        with self._lock:
            granted = self._settle_locked()
            if self.free > 0:
                self.free -= 1
                place._state = _State.GRANTED
            elif len(self._queue) < self.max_queue:
                self.contended = True
                self._queue[place] = None
                granted += self._settle_locked()
            else:
                place = None
        try:
            self._wake(granted)
        except BaseException:
            if place is not None and self.end_wait(place):
                self.release()
            raise
        return place

    def end_wait(self, place: Place) -> bool:
        """Leave the queue, whether woken or not; True where a permit was granted. It then belongs to the caller."""
        with self._lock:
            granted = place._state is _State.GRANTED
            if place._state is _State.WAITING:
                self._queue.pop(place, None)
                self._update_contended_locked()
            place._state = _State.OVER
        return granted

    def resize(self, limit: int, now: float) -> None:
        """Change the limit: more wakes those who wait; with less, permits that come back are not given out again."""
        with self._lock:
            if self._rule is not None:
                self._rule.limit = limit
            granted = self._resize_locked(limit, False, now)
        self._wake(granted)

    def adapt(self, duration: float, in_flight: int, dropped: bool, now: float) -> None:
        """Let the rule learn from a call that has ended."""
        if self._rule is None:
            return
        with self._lock:
            limit = self._rule.sample(duration, in_flight, dropped)
            granted = [] if limit == self.limit else self._resize_locked(limit, True, now)
        self._wake(granted)

    def lend(self, count: int) -> None:
        """Let so many calls run on that have no permit of their own; each ends with `release`."""
        if count:
            with self._lock:
                self._debt += count
                granted = self._settle_locked()
            self._wake(granted)

    def _try_acquire_slowly(self) -> bool:
        with self._lock:
            granted = self._settle_locked()
            acquired = self.free > 0
            if acquired:
                self.free -= 1
        try:
            self._wake(granted)
        except BaseException:
            if acquired:
                self.release()
            raise
        return acquired

    def settle(self, returned: int) -> None:
        with self._lock:
            self.free += returned
            granted = self._settle_locked()
        self._wake(granted)

    def _resize_locked(self, limit: int, adapted: bool, now: float) -> list[Place]:
        if limit != self.limit:
            self.changes.append(LimitChange(self.limit, limit, adapted, now))
        more = limit - self.limit
        self.limit = limit
        forgiven = more if more < self._debt else self._debt
        self._debt -= forgiven
        free = more - forgiven
        self.free += free
        return self._settle_locked()

    def _settle_locked(self) -> list[Place]:
        """Pay debts and hand permits over, as far as there are free ones. Tells whom to wake."""
        self.contended = True
        if self._forked and self.free > self.limit + self._debt:
            self.free = self.limit + self._debt
        while self._debt > 0 and self.free > 0:
            self.free -= 1
            self._debt -= 1
        granted: list[Place] = []
        while self._queue and self.free > 0:
            self.free -= 1
            place, _ = self._queue.popitem(last=False)
            if place._state is _State.WAITING:
                place._state = _State.GRANTED
                granted.append(place)
            else:
                self.free += 1
        self._update_contended_locked()
        return granted

    def _update_contended_locked(self) -> None:
        # Without a call between the look and the change: see above.
        if self._queue or self._debt > 0 or self._forked or not GIL:
            self.contended = True
        else:
            self.contended = False

    def _wake(self, granted: list[Place]) -> None:
        while granted:
            try:
                gone = _wake_all(granted)
            except BaseException:
                # Ctrl-C, or a timeout that finds us in the code of an event loop, in the middle of it: who has been
                # granted a permit must hear of it all the same.
                self._take_back(_wake_all(granted))
                raise
            granted = self._take_back(gone)

    def _take_back(self, gone: Iterable[Place]) -> list[Place]:
        with self._lock:
            for place in gone:
                # It may have left in the meantime, and then has the permit given back itself.
                if place._state is _State.GRANTED:
                    place._state = _State.OVER
                    self.free += 1
            return self._settle_locked()


def _wake_all(places: list[Place]) -> list[Place]:
    """Those of whom nobody is there any more."""
    return [place for place in places if not place.wake()]
