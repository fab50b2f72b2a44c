"""One state for each key, the least recently used forgotten."""

from __future__ import annotations

from _thread import allocate_lock
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

State = TypeVar("State")


class Keyed(Generic[State]):
    """States by key, at most `limit` of them.

    Where there is no room for another, the least recently used goes whose state is `idle`; where none is, the least
    recently used of all: calls under way keep the state that they began with.
    """

    __slots__ = ("_idle", "_limit", "_lock", "_make", "_states")

    # A look at a few is enough: those in use are at the other end.
    _LOOKS = 16

    def __init__(self, make: Callable[[], State], limit: int, idle: Callable[[State], bool] = lambda _: True) -> None:
        self._make = make
        self._limit = limit
        self._idle = idle
        self._states: OrderedDict[Hashable, State] = OrderedDict()
        self._lock = allocate_lock()

    def get(self, key: Hashable) -> State:
        """The state of this key, made where there is none."""
        with self._lock:
            state = self._states.get(key)
            if state is not None:
                self._states.move_to_end(key)
                return state
            if len(self._states) >= self._limit:
                self._forget_one_locked()
            state = self._states[key] = self._make()
            return state

    def items(self) -> list[tuple[Hashable, State]]:
        """All keys and states, the least recently used first. Takes no lock that a call waits for."""
        while True:
            try:
                return list(self._states.items())
            except RuntimeError:
                continue  # a key's own __hash__ or __eq__ let another thread in between; it is soon done

    def __len__(self) -> int:
        return len(self._states)

    def _forget_one_locked(self) -> None:
        for looks, (key, state) in enumerate(self._states.items()):
            if looks == self._LOOKS:
                break
            if self._idle(state):
                del self._states[key]
                return
        self._states.popitem(last=False)
