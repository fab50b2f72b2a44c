"""One state for each key, the least recently used forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any, Final, Generic, TypeVar

from resilient.core.fork import renew_lock

State = TypeVar("State")

MAX_LISTED: Final = 100


class Keyed(Generic[State]):
    """States by key, at most `limit` of them: the least recently used goes where there is no room for another.

    Calls under way keep the state that they began with. Where two states of one key would do harm, they `borrow` it:
    what is borrowed, or not `idle`, is never forgotten, and for so long there may be more than `limit`.
    """

    __slots__ = ("_borrowed", "_idle", "_limit", "_lock", "_make", "_states")

    # Those in use are at the other end, so a look at a few is enough; what is found in use is put there.
    _LOOKS = 16

    def __init__(
        self, make: Callable[[], State], limit: int, idle: Callable[[State], bool] = lambda state: True
    ) -> None:
        self._make = make
        self._limit = limit
        self._idle = idle
        self._states: OrderedDict[Hashable, State] = OrderedDict()
        self._borrowed: dict[Hashable, int] = {}
        # One that its thread may take again: the keys' own __eq__ runs under it, and so may the garbage collector,
        # which closes abandoned coroutines that give back what they have borrowed.
        self._lock = RLock()

    def after_fork(self, now: float) -> None:
        """Who has borrowed is in the parent; at most the thread that forked gives something back."""
        renew_lock(self._lock)
        self._borrowed.clear()
        for state in self.states():
            renew: Any = getattr(state, "after_fork", None)
            if renew is not None:
                renew(now)

    def get(self, key: Hashable) -> State:
        """The state of this key, made where there is none."""
        with self._lock:
            return self._get_locked(key)

    def borrow(self, key: Hashable) -> State:
        """The same, kept until `give_back`."""
        with self._lock:
            state = self._get_locked(key)
            self._borrowed[key] = self._borrowed.get(key, 0) + 1
            return state

    def give_back(self, key: Hashable) -> None:
        with self._lock:
            left = self._borrowed.pop(key, 1) - 1
            if left:
                self._borrowed[key] = left

    def states(self) -> list[State]:
        return [state for _, state in self.items()]

    def items(self) -> list[tuple[Hashable, State]]:
        """All keys and states, the least recently used first. Takes no lock that a call waits for."""
        while True:
            try:
                return list(self._states.items())
            except RuntimeError:
                continue  # a key's own __hash__ or __eq__ let another thread in between; it is soon done

    def __len__(self) -> int:
        return len(self._states)

    def _get_locked(self, key: Hashable) -> State:
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
            return state
        for _ in range(self._LOOKS):
            if len(self._states) < self._limit:
                break
            oldest, candidate = next(iter(self._states.items()))
            if oldest in self._borrowed or not self._idle(candidate):
                self._states.move_to_end(oldest)
            else:
                del self._states[oldest]
        state = self._states[key] = self._make()
        return state
