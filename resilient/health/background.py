"""An event loop of our own, for checks that are coroutines where a thread asks."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Coroutine
from contextvars import Context
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from resilient.core.fork import new_lock, renew_after_fork

if TYPE_CHECKING:
    import asyncio

_PATIENCE: Final = 1.0


class BackgroundLoop:
    """A loop of asyncio on a daemon thread, begun on first use and kept: clients of checks stay connected in it."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._tasks: set[object] = set()
        renew_after_fork(self)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine there, in a context of its own."""
        self._running().call_soon_threadsafe(self._start, work, context=Context())

    def stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_PATIENCE)

    def after_fork(self, now: float) -> None:
        """Its thread is in the parent."""
        self._loop = self._thread = None
        self._tasks = set()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                import asyncio

                loop = asyncio.new_event_loop()
                thread = Thread(target=_serve, args=(loop,), name="resilient-health-loop", daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
                atexit.unregister(self.stop)
                atexit.register(self.stop)
            return self._loop

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        import asyncio

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_PATIENCE / 2))
    finally:
        loop.close()


BACKGROUND: Final = BackgroundLoop()
