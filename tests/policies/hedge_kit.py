"""Hedged calls on threads, asyncio and trio from one text: bodies and tests are async functions on all three.

On threads nothing suspends: what is awaited blocks, and `finish` runs a coroutine to its end by hand.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import trio

from resilient.testing import FakeClock

Body = Callable[..., Coroutine[Any, Any, Any]]

PATIENCE = 20.0
"""Real seconds after which a test that waits for something has failed."""


def finish(body: Coroutine[Any, Any, Any]) -> Any:
    """Run a body to its end on this thread."""
    try:
        body.send(None)
    except StopIteration as stop:
        return stop.value
    body.close()
    raise AssertionError("a body suspended on a thread: it awaits something that is not of its backend")


class Event(Protocol):
    def set(self) -> object: ...

    def wait(self) -> Awaitable[object]: ...


class _ThreadEvent(threading.Event):
    async def wait(self) -> bool:  # type: ignore[override]
        if not super().wait(PATIENCE):
            raise AssertionError("nobody set the event")
        return True


class _AsyncioEvent(asyncio.Event):
    async def wait(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await super().wait()


class Backend:
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name

    @property
    def plain(self) -> bool:
        return self.name == "threads"

    def run(self, main: Body, *args: Any) -> Any:
        if self.plain:
            return finish(main(*args))
        return trio.run(main, *args) if self.name == "trio" else asyncio.run(main(*args))

    def event(self) -> Event:
        if self.plain:
            return _ThreadEvent()
        return trio.Event() if self.name == "trio" else _AsyncioEvent()

    async def checkpoint(self) -> None:
        """Let others run."""
        if self.name == "trio":
            await trio.lowlevel.checkpoint()
        elif self.name == "asyncio":
            await asyncio.sleep(0)

    async def spend(self, clock: FakeClock, seconds: float) -> None:
        """What a body does that takes time. A hedge that is due meanwhile begins before the body goes on."""
        clock.advance(seconds)
        for _ in range(6):
            await self.checkpoint()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what helper threads are about to do."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            if self.plain:
                time.sleep(0.001)
            await self.checkpoint()

    def guard(self, policy: Any, body: Body) -> Callable[..., Awaitable[Any]]:
        """The body as a function of this backend's kind, decorated."""
        if not self.plain:

            @policy
            async def guarded(*args: Any) -> Any:
                return await body(*args)

            return guarded  # type: ignore[no-any-return]

        @policy
        def plain(*args: Any) -> Any:
            return finish(body(*args))

        async def call(*args: Any) -> Any:
            return plain(*args)

        return call

    async def call(self, policy: Any, body: Body, *args: Any) -> Any:
        """The body through `.call` or `.call_async`."""
        if not self.plain:
            return await policy.call_async(body, *args)

        def plain(*args: Any) -> Any:
            return finish(body(*args))

        return policy.call(plain, *args)


LOOPS = [Backend("asyncio"), Backend("trio")]
BACKENDS = [Backend("threads"), *LOOPS]


class Attempts:
    """A body that does something else at each attempt, and knows which of them still run."""

    def __init__(self, *bodies: Body) -> None:
        self._bodies = bodies
        self._lock = threading.Lock()
        self.begun = 0
        self.running = 0

    async def __call__(self) -> Any:
        with self._lock:
            body = self._bodies[self.begun]
            self.begun += 1
            self.running += 1
        try:
            return await body()
        finally:
            with self._lock:
                self.running -= 1


def raising(error: BaseException) -> Body:
    async def body() -> None:
        raise error

    return body


def returning(value: object) -> Body:
    async def body() -> object:
        return value

    return body
