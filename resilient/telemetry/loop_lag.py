"""How late an event loop is, asked from a thread, which sees it while it is blocked, too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event, Thread, current_thread
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient.core.clock import CLOCK
from resilient.core.fork import renew_after_fork
from resilient.core.meters import Histogram
from resilient.drivers.tasks import running_backend

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_PATIENCE: Final = 1.0


class Loop(Protocol):
    """What is asked of an event loop, from another thread."""

    name: str

    def is_over(self) -> bool:
        """Will it never run again?"""
        ...

    def runs(self) -> bool: ...

    def post(self, callback: Callable[[], object]) -> None:
        """Have it call this; RuntimeError where it is over."""
        ...


class Token(Protocol):
    """What trio knows a run by; `trio.lowlevel.TrioToken` is one."""

    def run_sync_soon(self, sync_fn: Any, *args: Any, idempotent: bool = False) -> None: ...


class _AsyncioLoop:
    def __init__(self, loop: AbstractEventLoop) -> None:
        self.name = "asyncio"
        self._loop = loop

    def is_over(self) -> bool:
        return bool(self._loop.is_closed())

    def runs(self) -> bool:
        return bool(self._loop.is_running())

    def post(self, callback: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(callback)


class _TrioLoop:
    def __init__(self, token: Token) -> None:
        self.name = "trio"
        self._token = token

    def is_over(self) -> bool:
        try:
            self._token.run_sync_soon(_nothing, idempotent=True)
        except RuntimeError:
            return True
        return False

    def runs(self) -> bool:
        return True

    def post(self, callback: Callable[[], object]) -> None:
        self._token.run_sync_soon(callback)


def _nothing() -> None: ...


def loop_of(event_loop: object) -> Loop | None:
    """The loop that this is, or that runs here where it is None; None: it is none, or none runs."""
    if event_loop is None:
        backend = running_backend()
        if backend == "trio":
            return _TrioLoop(sys.modules["trio"].lowlevel.current_trio_token())
        if backend == "asyncio":
            return _AsyncioLoop(sys.modules["asyncio"].get_running_loop())
        return None
    if hasattr(event_loop, "run_sync_soon"):
        return _TrioLoop(cast("Token", event_loop))
    if all(hasattr(event_loop, name) for name in ("call_soon_threadsafe", "is_running", "is_closed")):
        return _AsyncioLoop(cast("AbstractEventLoop", event_loop))
    return None


class _Question:
    __slots__ = ("asked",)

    def __init__(self, asked: float) -> None:
        self.asked = asked


class LoopWatch:
    """Asks a loop again and again. One question at most is under way, however long the loop takes.

    Attributes:
        name: how the loop is called in the metrics.
        delays: how long its answers took.
        over: the loop is, or the watch was stopped.
    """

    def __init__(self, name: str, loop: Loop, interval: float) -> None:
        self.name = name
        self.delays = Histogram()
        self.over = False
        self._loop = loop
        self._interval = interval
        self._question: _Question | None = None
        self._newest: float | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="resilient-loop-lag", daemon=True)
        renew_after_fork(self)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.over = True
        self._stopped.set()
        if self._thread.ident is not None and self._thread is not current_thread():
            self._thread.join(_PATIENCE)

    def lag(self) -> float | None:
        """The newest delay, or how long the loop owes an answer by now if that is more; None while it does not run."""
        question, newest = self._question, self._newest
        if self.over or not self._loop.runs():
            return None
        if question is None:
            return newest
        return max(CLOCK.now() - question.asked, newest or 0.0)

    def ask(self) -> bool:
        """Ask, unless an answer is due still. False: the loop is over, and nobody needs to ask again."""
        if self._loop.is_over():
            self.over = True
            return False
        if not self._loop.runs():
            # Between two runs it answers nothing, and is not late with that.
            self._question = self._newest = None
            return True
        if self._question is not None:
            return True
        question = self._question = _Question(CLOCK.now())
        try:
            self._loop.post(lambda: self._answered(question))
        except RuntimeError:
            self.over = True
            return False
        return True

    def after_fork(self, now: float) -> None:
        """Neither the thread nor the loop is in the child."""
        self.over = True

    def _answered(self, question: _Question) -> None:
        delay = CLOCK.now() - question.asked
        if self._question is question:
            self._question = None
            self._newest = delay
            self.delays.observe(delay)

    def _run(self) -> None:
        while self.ask() and not self._stopped.wait(self._interval):
            pass
