"""The last good result for each key, and one load at a time for each: who loads, and what those who wait are told."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from copy import copy
from enum import Enum, auto
from threading import RLock
from typing import Any, Final

from resilient.core.fork import renew_lock


class Entry:
    """A good result, and the instant at which it came."""

    __slots__ = ("stored", "value")

    def __init__(self, value: Any, stored: float) -> None:
        self.value: Final = value
        self.stored: Final = stored


class Word(Enum):
    """What a call that waits is told."""

    NOTHING_YET = auto()
    LOAD = auto()
    """The call that loaded went away without a result: load yourself."""
    RESULT = auto()
    ERROR = auto()
    MISSED = auto()
    """The load ended before there was anybody to tell: ask again."""
    LEFT = auto()
    """It waits no more."""


class Seat:
    """A call that waits for the load of another. `wake` tells False where nobody is left to hear it."""

    __slots__ = ("content", "wake", "word")

    def __init__(self, wake: Callable[[], bool]) -> None:
        self.wake: Final = wake
        self.word = Word.NOTHING_YET
        self.content: Any = None


class Load:
    """One load that is under way. It ends once: with a result, with an error, or because nobody is left to do it.

    It is done by the call that began it, or by that whose seat it was handed over to.
    """

    __slots__ = ("ended", "handed_to", "key", "seats")

    def __init__(self, key: Hashable) -> None:
        self.key: Final = key
        self.seats: deque[Seat] = deque()
        self.handed_to: Seat | None = None
        self.ended = False


class Cache:
    """Results by key, at most `max_size` of them, the least recently used dropped first.

    A result is fresh for `ttl` seconds, and of use until it is `max_stale` seconds old; at these ages it no longer is.
    Keys are compared under the lock, as in `functools.lru_cache`; everything else of the user's stays outside.
    """

    __slots__ = ("_entries", "_loads", "_lock", "max_size", "max_stale", "ttl")

    def __init__(self, ttl: float, max_stale: float, max_size: int) -> None:
        self.ttl: Final = ttl
        self.max_stale: Final = max_stale
        self.max_size: Final = max_size
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._loads: dict[Hashable, Load] = {}
        self._lock = RLock()

    def after_fork(self, now: float) -> None:
        """Who was loading goes on in the parent."""
        renew_lock(self._lock)
        self._loads.clear()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def loads(self) -> int:
        """How many loads are under way."""
        return len(self._loads)

    def ask(self, key: Hashable, now: float) -> Entry | tuple[Load, bool]:
        """A fresh entry; or the load that is under way, and whether it is the asker who has to do it."""
        with self._lock:
            entry = self._get_locked(key, now)
            if entry is not None and now - entry.stored < self.ttl:
                return entry
            load = self._loads.get(key)
            if load is not None:
                return load, False
            load = self._loads[key] = Load(key)
            return load, True

    def last_good(self, key: Hashable, now: float) -> Entry | None:
        """The last good result, if it is still of use."""
        with self._lock:
            return self._get_locked(key, now)

    def join(self, load: Load, seat: Seat) -> bool:
        """Wait for this load; False where it has just ended."""
        with self._lock:
            if load.ended:
                seat.word = Word.MISSED
                return False
            load.seats.append(seat)
            return True

    def leave(self, load: Load, seat: Seat) -> None:
        """Stop waiting. A load that has just been handed over goes on to the next; a result or an error stays."""
        with self._lock:
            handed_over = seat.word is Word.LOAD
            if seat.word is Word.NOTHING_YET:
                load.seats.remove(seat)
                seat.word = Word.LEFT
        if handed_over:
            self.abandon(load, seat)
            seat.word = Word.LEFT

    def succeed(self, load: Load, result: Any, now: float, *, keep: bool = True) -> None:
        """The load has given a result. Without `keep` it is for those who wait, and not remembered."""
        with self._lock:
            if keep:
                self._entries[load.key] = Entry(result, now)
                self._entries.move_to_end(load.key)
                while len(self._entries) > self.max_size:
                    self._entries.popitem(last=False)
            seats = self._end_locked(load, Word.RESULT, result)
        _wake(seats)

    def fail(self, load: Load, error: Exception) -> None:
        """The load has failed, for all who wait for it."""
        with self._lock:
            seats = self._end_locked(load, Word.ERROR, error)
        _wake(seats)

    def abandon(self, load: Load, seat: Seat | None) -> None:
        """The call that loads goes away without a result: the first that waits takes over.

        `seat` is where the load was handed over to that call, None for the call that began it.
        """
        while True:
            with self._lock:
                if load.ended or load.handed_to is not seat:
                    return
                if not load.seats:
                    self._end_locked(load, Word.NOTHING_YET, None)
                    return
                seat = load.handed_to = load.seats.popleft()
                seat.word = Word.LOAD
            if seat.wake():
                return

    def clear(self) -> None:
        """Forget all results. Loads that are under way go on, and are remembered when they end."""
        with self._lock:
            self._entries.clear()

    def _get_locked(self, key: Hashable, now: float) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now - entry.stored >= self.max_stale:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def _end_locked(self, load: Load, word: Word, content: Any) -> deque[Seat]:
        if not load.ended:
            load.ended = True
            del self._loads[load.key]
        seats, load.seats = load.seats, deque()
        for seat in seats:
            seat.word, seat.content = word, content
        return seats


def _wake(seats: deque[Seat]) -> None:
    for seat in seats:
        seat.wake()


def another_like(error: Exception) -> Exception | None:
    """A new exception of the same class that says the same; None where the class doesn't let itself be copied.

    One exception object can't be raised by several callers: each would add its traceback to that of the others.
    """
    cls = type(error)
    try:
        if _native_base(cls).__basicsize__ == Exception.__basicsize__:
            # Not through `__init__`, which need not take what it handed on to its base class.
            again = cls.__new__(cls, *error.args)
            again.args = error.args
            again.__dict__.update(error.__dict__)
        else:
            again = copy(error)
        if type(again) is not cls or str(again) != str(error):
            return None
    except Exception:  # noqa: BLE001 - any code of the class may have run
        return None
    notes = getattr(error, "__notes__", None)
    if notes is not None:
        again.__notes__ = list(notes)
    return again


def _native_base(cls: type[Exception]) -> type:
    """The base class written in C: those larger than `Exception` keep state that only their own code can copy."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")
