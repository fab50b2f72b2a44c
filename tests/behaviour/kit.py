"""One vocabulary for threads, asyncio and trio, so that a test is written once and runs over all three.

The bodies of the tests are async functions, and whatever waits is awaited through a `Backend`. On asyncio and trio that
is what it looks like. On threads nothing ever suspends: what is awaited blocks, and `finish` runs a body to its end by
hand, so that policies see plain functions and plain blocks.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from resilient.testing import FakeClock

Body = Callable[..., Coroutine[Any, Any, Any]]
Spawn = Callable[..., None]

PATIENCE = 20.0
"""Real seconds after which a test that waits for something has failed."""

RETRY_FACES = ("decorated", "called", "attempts")
SCOPE_FACES = ("decorated", "called", "block", "generator")
CALL_FACES = ("decorated", "called")


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


class Backend(ABC):
    """How to run, wait and guard on one of the three."""

    name: str

    @abstractmethod
    def run(self, main: Body, *args: Any) -> Any:
        """Run the async function to its end, from plain code."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """Let others run, and let a cancellation or a timeout that is due arrive."""

    @abstractmethod
    def event(self) -> Event: ...

    @abstractmethod
    def group(self) -> Any:
        """`async with backend.group() as spawn:` waits at its end for all bodies that `spawn(body, *args)` started."""

    @abstractmethod
    def guard(self, policy: Any, body: Body) -> Callable[..., Awaitable[Any]]:
        """The body as a function of this backend's kind, decorated once, to be called many times."""

    @abstractmethod
    async def called(self, policy: Any, body: Body, *args: Any) -> Any: ...

    @abstractmethod
    async def block(self, policy: Any, body: Body, *args: Any) -> Any: ...

    @abstractmethod
    async def generator(self, policy: Any, body: Body, *args: Any) -> Any:
        """The body inside a guarded generator function, which gives its result as the only item."""

    @abstractmethod
    async def attempts(self, policy: Any, body: Body, *args: Any) -> Any: ...

    async def decorated(self, policy: Any, body: Body, *args: Any) -> Any:
        return await self.guard(policy, body)(*args)

    async def use(self, face: str, policy: Any, body: Body, *args: Any) -> Any:
        """Run the body through one of the faces of a policy."""
        return await getattr(self, face)(policy, body, *args)

    async def spend(self, clock: FakeClock, seconds: float) -> None:
        """What a body does that takes time."""
        clock.advance(seconds)
        await self.checkpoint()

    async def all_at_once(self, count: int, enter: Callable[[Body], Coroutine[Any, Any, Any]]) -> None:
        """Fail unless `count` bodies are inside `enter(body)` at the same time."""
        inside: list[None] = []
        everybody = self.event()

        async def body() -> None:
            inside.append(None)
            if len(inside) == count:
                everybody.set()
            await everybody.wait()

        async with self.group() as spawn:
            for _ in range(count):
                spawn(enter, body)
        assert len(inside) == count


class _ThreadEvent:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        if not self._event.wait(PATIENCE):
            raise AssertionError("nobody set the event: somebody who should be inside waits outside")


class Threads(Backend):
    name = "threads"

    def run(self, main: Body, *args: Any) -> Any:
        return finish(main(*args))

    async def checkpoint(self) -> None: ...

    def event(self) -> Event:
        return _ThreadEvent()

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Spawn]:
        threads: list[threading.Thread] = []
        errors: list[BaseException] = []

        def spawn(body: Body, *args: Any) -> None:
            def run() -> None:
                try:
                    finish(body(*args))
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=run, daemon=True)
            threads.append(thread)
            thread.start()

        try:
            yield spawn
        finally:
            for thread in threads:
                thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        if errors:
            raise errors[0]

    def guard(self, policy: Any, body: Body) -> Callable[..., Awaitable[Any]]:
        @policy
        def guarded(*args: Any) -> Any:
            return finish(body(*args))

        async def call(*args: Any) -> Any:
            return guarded(*args)

        return call

    async def called(self, policy: Any, body: Body, *args: Any) -> Any:
        def plain(*args: Any) -> Any:
            return finish(body(*args))

        return policy.call(plain, *args)

    async def block(self, policy: Any, body: Body, *args: Any) -> Any:
        def in_block() -> Any:
            with policy:
                return finish(body(*args))

        return in_block()

    async def generator(self, policy: Any, body: Body, *args: Any) -> Any:
        @policy
        def items() -> Generator[Any, None, None]:
            yield finish(body(*args))

        (item,) = items()
        return item

    async def attempts(self, policy: Any, body: Body, *args: Any) -> Any:
        def in_loop() -> Any:
            for attempt in policy:
                with attempt:
                    return finish(body(*args))
            raise AssertionError("the loop ended without result and without error")

        return in_loop()


class _Tasks(Backend):
    """What asyncio and trio have in common: their async functions, blocks and loops."""

    def guard(self, policy: Any, body: Body) -> Callable[..., Awaitable[Any]]:
        @policy
        async def guarded(*args: Any) -> Any:
            return await body(*args)

        return guarded  # type: ignore[no-any-return]

    async def called(self, policy: Any, body: Body, *args: Any) -> Any:
        return await policy.call_async(body, *args)

    async def block(self, policy: Any, body: Body, *args: Any) -> Any:
        async with policy:
            return await body(*args)

    async def generator(self, policy: Any, body: Body, *args: Any) -> Any:
        @policy
        async def items() -> AsyncIterator[Any]:
            yield await body(*args)

        (item,) = [item async for item in items()]
        return item

    async def attempts(self, policy: Any, body: Body, *args: Any) -> Any:
        async for attempt in policy:
            with attempt:
                return await body(*args)
        raise AssertionError("the loop ended without result and without error")


class _AsyncioEvent(asyncio.Event):
    async def wait(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await super().wait()


class Asyncio(_Tasks):
    name = "asyncio"

    def run(self, main: Body, *args: Any) -> Any:
        return asyncio.run(main(*args))

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def event(self) -> Event:
        return _AsyncioEvent()

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Spawn]:
        try:
            async with asyncio.TaskGroup() as group:
                yield lambda body, *args: group.create_task(body(*args))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


class _TrioEvent:
    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        with trio.fail_after(PATIENCE):
            await self._event.wait()


class Trio(_Tasks):
    name = "trio"

    def run(self, main: Body, *args: Any) -> Any:
        return trio.run(main, *args)

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    def event(self) -> Event:
        return _TrioEvent()

    @asynccontextmanager
    async def group(self) -> AsyncIterator[Spawn]:
        try:
            async with trio.open_nursery() as nursery:
                yield nursery.start_soon
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
