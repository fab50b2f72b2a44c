"""Running attempts side by side, and hearing of them as they end: on threads, and in tasks of asyncio and trio.

    with ThreadRace(owner) as race:             # in a task: async with task_race() as race:
        race.start(1, work, due)
        finish = race.next()                    # in a task: await race.next()

`next()` gives the attempts as they end, and None once the clock is at `due`, the instant given with the latest start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from resilient.core.clock import CLOCK, Timer
from resilient.drivers.helper_threads import HelperCall
from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.drivers.tasks import running_backend
from resilient.drivers.waiters import TaskWaiter, task_waiter

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractAsyncContextManager

    import trio


class Finish(NamedTuple):
    """How one attempt ended."""

    number: int
    error: BaseException | None
    result: Any


class ThreadRace:
    """Attempts on helper threads, each in a copy of the caller's context.

    A thread can't be stopped: attempts that still run at the end of the block are left to themselves, and are then
    orphans of `owner`, the task or thread that waits.
    """

    __slots__ = ("_due", "_heard", "_owner", "_running", "_timer", "_turn")

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._running: dict[int, HelperCall | RuntimeError] = {}
        # Numbers of attempts, and whether this one ended or its time to be alone is over.
        self._heard: SimpleQueue[tuple[int, bool]] = SimpleQueue()
        self._due = inf
        self._turn = 0
        self._timer: Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._wake_at(inf)
        while self._running:
            _, call = self._running.popitem()
            if isinstance(call, HelperCall):
                call.abandon()

    def start(self, number: int, work: Callable[[], Any], due: float) -> None:
        self._turn = number
        self._wake_at(due)
        try:
            self._running[number] = HelperCall(
                partial(copy_context().run, work),
                _nothing,
                self._owner,
                on_end=partial(self._heard.put, (number, True)),
                name=f"resilient-attempt-{number}",
            )
        except RuntimeError as error:
            # No more threads: the attempts that run already may do without this one.
            self._running[number] = error
            self._heard.put((number, True))

    def next(self) -> Finish | None:
        while True:
            try:
                number, ended = _hear(self._heard, self._longest_wait())
            except Empty:
                if CLOCK.now() < self._due:
                    continue
                number, ended = self._turn, False
            if ended:
                return self._finish(number)
            if number == self._turn:
                self._due = inf
                return None

    def _longest_wait(self) -> float | None:
        if self._due == inf or CLOCK.virtual is not None:
            return None
        return min(max(0.0, self._due - CLOCK.now()), TIMEOUT_MAX)

    def _wake_at(self, due: float) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._due = due
        virtual = CLOCK.virtual
        if virtual is None or due == inf:
            return
        # Before the attempt starts: it may be what moves virtual time.
        if due > CLOCK.now():
            self._timer = virtual.call_at(due, partial(self._heard.put, (self._turn, False)))
        else:
            self._heard.put((self._turn, False))

    def _finish(self, number: int) -> Finish:
        call = self._running.pop(number)
        if not isinstance(call, HelperCall):
            return Finish(number, call, None)
        try:
            return Finish(number, None, call.result())
        except BaseException as error:  # noqa: BLE001 - the caller decides what it means
            return Finish(number, error, None)


def _hear(heard: SimpleQueue[tuple[int, bool]], longest: float | None) -> tuple[int, bool]:
    return heard.get(timeout=longest)


# What it takes out of the queue may be lost: the race is over then.
INTERRUPTIBLE.add(_hear.__code__)


class TaskRace(ABC):
    """Attempts in tasks of their own. At the end of the block those that still run are cancelled and awaited."""

    __slots__ = ("_due", "_finishes", "_waiter")

    def __init__(self) -> None:
        self._finishes: deque[Finish] = deque()
        self._due = inf
        self._waiter: TaskWaiter | None = None

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    @abstractmethod
    def start(self, number: int, work: Callable[[], Awaitable[Any]], due: float) -> None: ...

    async def next(self) -> Finish | None:
        if not self._finishes:
            self._waiter = task_waiter()
            await self._waiter.wait_until(self._due)
        if self._finishes:
            return self._finishes.popleft()
        self._due = inf
        return None

    def _tell(self, finish: Finish) -> None:
        self._finishes.append(finish)
        if self._waiter is not None:
            self._waiter.wake()


def task_race() -> TaskRace:
    """A race for the task that runs now."""
    return _TrioRace() if running_backend() == "trio" else _AsyncioRace()


class _AsyncioRace(TaskRace):
    """By the loop's own means. A task group would cancel the caller's task to wake it up, and wrap what it raises."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        super().__init__()
        self._tasks: list[asyncio.Task[Finish]] = []

    async def __aenter__(self) -> Self:
        return self

    def start(self, number: int, work: Callable[[], Awaitable[Any]], due: float) -> None:
        import asyncio

        self._due = due
        task = asyncio.get_running_loop().create_task(_attempt(number, work), name=f"resilient-attempt-{number}")
        self._tasks.append(task)
        task.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, task: asyncio.Task[Finish]) -> None:
        if task.cancelled():
            # By somebody else, before its first step.
            import asyncio

            self._tell(Finish(number, asyncio.CancelledError(), None))
        else:
            self._tell(task.result())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        import asyncio

        tasks, self._tasks = self._tasks, []
        outside: asyncio.CancelledError | None = None
        try:
            # A coroutine that is being closed can't await anything any more.
            while (running := _cancel(tasks)) and not isinstance(error, GeneratorExit):
                try:
                    await asyncio.wait(running)
                except asyncio.CancelledError as raised:
                    outside = raised
            if outside is not None and not isinstance(error, asyncio.CancelledError):
                raise outside
        finally:
            del outside
            self._finishes.clear()


async def _attempt(number: int, work: Callable[[], Awaitable[Any]]) -> Finish:
    """Nothing may leave the task as an exception: the loop would stop for some of them."""
    try:
        return Finish(number, None, await work())
    except BaseException as error:  # noqa: BLE001 - the caller decides what it means
        return Finish(number, error, None)


def _cancel(tasks: list[asyncio.Task[Finish]]) -> list[asyncio.Task[Finish]]:
    """Those that still run, each of them told to stop."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        try:
            task.cancel()
        except RuntimeError:
            pass  # the loop is closed, and will not run it any more
    return running


class _TrioRace(TaskRace):
    __slots__ = ("_manager", "_nursery")

    _manager: AbstractAsyncContextManager[trio.Nursery]
    _nursery: trio.Nursery

    async def __aenter__(self) -> Self:
        import trio

        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    def start(self, number: int, work: Callable[[], Awaitable[Any]], due: float) -> None:
        self._due = due
        self._nursery.start_soon(self._run, number, work, name=f"resilient-attempt-{number}")

    async def _run(self, number: int, work: Callable[[], Awaitable[Any]]) -> None:
        import trio

        finish = await _attempt(number, work)
        # A cancellation comes from this race's end, or from outside; then the caller gets its own.
        if not isinstance(finish.error, trio.Cancelled):
            self._tell(finish)
        # From Python 3.12 on the frames of the error hold this one.
        del finish

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if isinstance(error, GeneratorExit):
            return
        self._nursery.cancel_scope.cancel()
        try:
            # The attempts raise nothing, and the nursery would wrap the error of its own body into a group.
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._finishes.clear()


def _nothing() -> None: ...
