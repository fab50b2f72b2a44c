"""The one thread that looks at the clock for all the others."""

from __future__ import annotations

import threading
import weakref
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from resilient.core.clock import CLOCK

if TYPE_CHECKING:
    from queue import SimpleQueue

_LONGEST_WAIT: Final = 3600.0


class Watched(Protocol):
    """What the watchdog keeps an eye on: the open blocks of one thread."""

    def next_due(self) -> float:
        """The instant of the clock at which `serve` has something to do; infinity for none."""
        ...

    def serve(self, now: float) -> float:
        """Do what is due. The answer is the number of real seconds after which to call again at the latest."""
        ...


class Watchdog:
    """A daemon thread, started on first need, that calls `serve` on time.

    `next_wake` is the instant at which it looks next. Who becomes due earlier than that must call `wake`. Under virtual
    time it does not wait for any instant and must be woken whenever time has moved.
    """

    __slots__ = ("_pokes", "_start_lock", "_thread", "_watched", "next_wake")

    next_wake: float
    _pokes: SimpleQueue[None]

    def __init__(self) -> None:
        self._watched: dict[int, weakref.ref[Watched]] = {}
        self.forget_thread()

    def forget_thread(self) -> None:
        """Begin anew in a forked child, where the thread does not run."""
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self.next_wake = inf

    def watch(self, watched: Watched) -> bool:
        """Serve `watched` for as long as somebody else refers to it; False if no thread can be started."""
        key = id(watched)
        self._watched[key] = weakref.ref(watched, lambda _: self._watched.pop(key, None))
        return self._start()

    def forget_all_but(self, watched: Watched) -> None:
        self._watched = {key: kept for key, kept in self._watched.copy().items() if kept() is watched}

    def wake(self) -> None:
        """Look at everything now. May be called in a signal handler."""
        if self._thread is not None:
            self._pokes.put(None)
        elif self._watched:
            self._start()

    def _start(self) -> bool:
        from queue import SimpleQueue

        with self._start_lock:
            if self._thread is not None:
                return True
            pokes: SimpleQueue[None] = SimpleQueue()
            thread = threading.Thread(target=self._run, args=(pokes,), name="resilient-watchdog", daemon=True)
            # Set before it runs: its first signal may come while this thread waits for it to start, and call `wake`.
            self._pokes = pokes
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                self._thread = None
                return False
            return True

    def _run(self, pokes: SimpleQueue[None]) -> None:
        from queue import Empty

        while True:
            nag = self._serve_all(CLOCK.now())
            due = self._publish_next_wake()
            # What is due already and was put off is looked at again after `nag`; without one it became due just now.
            now = CLOCK.now()
            wait = nag if due <= now and nag < inf else min(nag, max(0.0, due - now), _LONGEST_WAIT)
            try:
                pokes.get(timeout=wait)
            except Empty:
                continue
            while not pokes.empty():
                pokes.get_nowait()

    def _serve_all(self, now: float) -> float:
        nag = inf
        for reference in self._watched.copy().values():
            watched = reference()
            if watched is not None:
                nag = min(nag, watched.serve(now))
        return nag

    def _publish_next_wake(self) -> float:
        if CLOCK.virtual is not None:
            self.next_wake = inf
            return inf
        due = self._earliest()
        while True:
            self.next_wake = due
            # Whoever read the earlier `next_wake` and saw no need to wake us has set its deadline by now.
            earlier = self._earliest()
            if earlier >= due:
                return due
            due = earlier

    def _earliest(self) -> float:
        return min(
            (seen.next_due() for ref in self._watched.copy().values() if (seen := ref()) is not None), default=inf
        )
