"""Waiting for somebody else's word: on a thread, in a task of any asyncio loop, in a trio task.

    waiter = ThreadWaiter()                 # made by who is going to wait; in a task: waiter = task_waiter()
    queue.append(waiter.wake)               # for whoever will have the word; `wake` may come before the wait
    woken = waiter.wait_until(at)           # in a task: woken = await waiter.wait_until(at)

`wake()` may be called from any thread or task, and more than once. It tells False where nobody is left to hear it,
because the event loop of the task is closed.

`wait_until(at)` waits until `wake` or until the clock is at `at` (an instant of `CLOCK`, infinity for no end), and
tells whether `wake` was called. Cancellation, Ctrl-C and the like pass through. A wake at the very end of a wait may
find it just over: who has got what was handed over must be decided elsewhere, under a lock of the owner's.

A waiter is good for one wait. Under virtual time a wait takes as long as it takes somebody else to call `wake` or to
move time to `at`.
"""

from __future__ import annotations

from _thread import allocate_lock
from math import inf
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Protocol

from resilient.core.clock import CLOCK, Timer
from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.drivers.tasks import running_backend

if TYPE_CHECKING:
    import asyncio

    import trio


class ThreadWaiter:
    """A thread that waits for a word."""

    __slots__ = ("_bell", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._bell = allocate_lock()
        self._bell.acquire()

    def wake(self) -> bool:
        self._woken = True
        self._ring()
        return True

    def wait_until(self, at: float) -> bool:
        virtual = CLOCK.virtual
        if virtual is None:
            while (left := at - CLOCK.now()) > 0.0 and not self._bell.acquire(True, min(left, TIMEOUT_MAX)):
                pass
        else:
            timer = virtual.call_at(at, self._ring)
            try:
                # Another thread may have moved time before the timer was there.
                if CLOCK.now() < at:
                    self._bell.acquire()
            finally:
                timer.cancel()
        return self._woken

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # it has been rung


# What has come meanwhile, its owner finds out under a lock of its own.
INTERRUPTIBLE.add(ThreadWaiter.wait_until.__code__)


class TaskWaiter(Protocol):
    """A task that waits for a word."""

    def wake(self) -> bool: ...

    async def wait_until(self, at: float) -> bool: ...


def task_waiter() -> TaskWaiter:
    """A waiter for the task that runs now.

    Raises:
        RuntimeError: no event loop runs here.
    """
    if running_backend() == "trio":
        return _TrioWaiter()
    return _AsyncioWaiter()


class _AsyncioWaiter:
    __slots__ = ("_future", "_loop", "_woken")

    def __init__(self) -> None:
        import asyncio

        self._woken = False
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        self._woken = True
        return self._ring()

    async def wait_until(self, at: float) -> bool:
        timer: Timer | None = None
        if at < inf:
            if CLOCK.virtual is None:
                timer = self._loop.call_at(self._loop.time() + at - CLOCK.now(), self._end)
            else:
                timer = CLOCK.virtual.call_at(at, self._ring)
                if CLOCK.now() >= at:
                    self._end()
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
        return self._woken

    def _ring(self) -> bool:
        import asyncio

        try:
            if asyncio._get_running_loop() is self._loop:
                self._end()
            else:
                self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            return False  # the loop is closed
        return True

    def _end(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class _TrioWaiter:
    __slots__ = ("_event", "_token", "_woken")

    def __init__(self) -> None:
        import trio

        self._woken = False
        self._token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self._event: trio.Event = trio.Event()

    def wake(self) -> bool:
        self._woken = True
        return self._ring()

    async def wait_until(self, at: float) -> bool:
        import trio

        timer: Timer | None = None
        deadline = inf
        if at < inf:
            if CLOCK.virtual is None:
                deadline = trio.current_time() + at - CLOCK.now()
            else:
                timer = CLOCK.virtual.call_at(at, self._ring)
                if CLOCK.now() >= at:
                    self._event.set()
        try:
            with trio.CancelScope(deadline=deadline):
                await self._event.wait()
        finally:
            if timer is not None:
                timer.cancel()
        return self._woken

    def _ring(self) -> bool:
        import trio

        try:
            if running_backend() == "trio" and trio.lowlevel.current_trio_token() is self._token:
                self._event.set()
            else:
                self._token.run_sync_soon(self._event.set)
        except trio.RunFinishedError:
            return False
        return True
