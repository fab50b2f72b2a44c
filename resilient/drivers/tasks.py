"""Waiting and timeouts for tasks, on asyncio and on trio.

Importing this module imports no event loop: the loop that runs has been imported by whoever started it, and the code
that knows it is loaded at the first call made there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from resilient.core.clock import CLOCK, Timer

if TYPE_CHECKING:
    from resilient.drivers.asyncio_blocks import AsyncioTimeouts

T = TypeVar("T")

_modules = sys.modules


def running_backend() -> Literal["asyncio", "trio"] | None:
    """Name the event loop that runs in this thread at this moment; imports nothing.

    Where one is nested in the other (`trio.run` in a notebook's asyncio loop, trio's guest mode), a trio task wins.
    """
    # The names are looked up one by one: another thread may be in the middle of the first import of either library.
    in_trio_task: Callable[[], bool] | None = getattr(_modules.get("trio.lowlevel"), "in_trio_task", None)
    if in_trio_task is not None and in_trio_task():
        return "trio"
    get_running_loop: Callable[[], object] | None = getattr(_modules.get("asyncio.events"), "_get_running_loop", None)
    if get_running_loop is not None and get_running_loop() is not None:
        return "asyncio"
    return None


async def sleep(seconds: float) -> None:
    """Let other tasks run for `seconds`; a cancellation ends it at once.

    Under virtual time the wait is recorded and virtual time moves on, and then the loop takes one turn, so that
    timeouts which have become due, and cancellations, are delivered here as they would be in a real wait.
    """
    if seconds > 0.0 and CLOCK.virtual is not None:
        CLOCK.sleep(seconds)
        seconds = 0.0
    if running_backend() == "trio":
        import trio

        await trio.sleep(max(seconds, 0.0))
    else:
        import asyncio

        await asyncio.sleep(seconds)


async def in_thread(work: Callable[[], T]) -> T:
    """The result of a function that blocks, run on a thread. A cancellation leaves it behind."""
    import anyio

    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


async def ended_within(work: Callable[[], Awaitable[object]], seconds: float) -> bool:
    """Run an async function, and cancel it after so many seconds; False where it had to be.

    On asyncio it is not waited for then: it may refuse to end. Trio has no way to leave a task behind.
    """
    if running_backend() == "trio":
        import trio

        with trio.move_on_after(seconds) as scope:
            await work()
        return not scope.cancelled_caught
    import asyncio

    task = asyncio.ensure_future(work())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
    if not done:
        # One turn of the loop, for a task that does end when it is told to.
        await asyncio.sleep(0)
        return False
    await task
    return True


class TaskBlock(Protocol):
    """One timeout around one stretch of one task. A block is entered once, and left in the task that entered it."""

    def enter(self, seconds: float | None = None) -> None:
        """Start the time; `seconds` overrides the usual duration. Raises RuntimeError outside a task."""

    def exit(self, error: BaseException | None) -> bool:
        """Stop the time, and tell whether it ran out and ended the body with `error`.

        On True the caller raises its timeout error from `error`; on False the body's result or error stands.
        Called once, whatever happened. May raise: when an exception group holds both the cancellation and errors of
        the body, a cancel scope takes the cancellation out and raises what is left.
        """
        ...


class TaskTimeouts:
    """Timeouts of one duration, for tasks of any number of loops and threads at once.

    With `scoped` they go through anyio cancel scopes, which respect shielded anyio scopes in the body. Otherwise they
    use what the running loop has of its own: `Task.cancel` on asyncio, by the rules of `asyncio.timeout`, and a cancel
    scope on trio.
    """

    __slots__ = ("_asyncio", "_scoped", "_seconds", "open")

    open: Callable[[], TaskBlock]
    """Open a block of the usual duration for the task that runs now. Raises RuntimeError outside a task."""

    def __init__(self, seconds: float, *, scoped: bool = False) -> None:
        self._seconds = seconds
        self._scoped = scoped
        self._asyncio: AsyncioTimeouts | None = None
        self.open = self._open

    def block(self) -> TaskBlock:
        """Make a block for the task that runs now, to be entered there."""
        if self._scoped or "trio" in _modules:
            block = self._scope_block()
            if block is not None:
                return block
        timeouts = self._asyncio
        if timeouts is None:
            from resilient.drivers.asyncio_blocks import AsyncioTimeouts

            timeouts = self._asyncio = AsyncioTimeouts(self._seconds, self._open)
            self.open = timeouts.open
        return timeouts.block()

    def _open(self) -> TaskBlock:
        block = self.block()
        block.enter()
        return block

    def _scope_block(self) -> TaskBlock | None:
        if self._scoped:
            return _anyio_block(self._seconds)
        if running_backend() == "trio":
            return _trio_block(self._seconds)
        return None


class _Scope(Protocol):
    @property
    def cancelled_caught(self) -> bool: ...

    def cancel(self, reason: str | None = None) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool | None: ...


class _ScopeBlock:
    """A `TaskBlock` around a cancel scope, which is used by hand because a block is entered by a plain call."""

    __slots__ = ("_make_scope", "_now", "_scope", "_seconds", "_timer")

    def __init__(self, seconds: float, now: Callable[[], float], make_scope: Callable[[float], _Scope]) -> None:
        self._seconds = seconds
        self._now = now
        self._make_scope = make_scope
        self._timer: Timer | None = None

    def enter(self, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = self._seconds
        virtual = CLOCK.virtual
        if virtual is None or seconds <= 0.0:
            scope = self._make_scope(self._now() + seconds)
            scope.__enter__()
        else:
            scope = self._make_scope(math.inf)
            cancel = _cancel_from_anywhere(scope)
            scope.__enter__()
            self._timer = virtual.call_at(CLOCK.now() + seconds, cancel)
        self._scope = scope

    def exit(self, error: BaseException | None) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        scope = self._scope
        if error is None:
            scope.__exit__(None, None, None)
        else:
            scope.__exit__(type(error), error, error.__traceback__)
        return scope.cancelled_caught


def _trio_block(seconds: float) -> _ScopeBlock:
    import trio

    return _ScopeBlock(seconds, trio.current_time, lambda deadline: trio.CancelScope(deadline=deadline))


def _anyio_block(seconds: float) -> _ScopeBlock:
    import anyio

    return _ScopeBlock(seconds, anyio.current_time, lambda deadline: anyio.CancelScope(deadline=deadline))


def _cancel_from_anywhere(scope: _Scope) -> Callable[[], None]:
    """A function that cancels the scope, opened in this thread's loop, from whichever thread calls it."""
    if running_backend() == "trio":
        import trio

        token = trio.lowlevel.current_trio_token()

        def cancel_on_trio() -> None:
            if running_backend() == "trio" and trio.lowlevel.current_trio_token() is token:
                scope.cancel()
                return
            try:
                token.run_sync_soon(scope.cancel)
            except trio.RunFinishedError:
                pass

        return cancel_on_trio

    import asyncio

    loop = asyncio.get_running_loop()

    def cancel_on_asyncio() -> None:
        # Never from within a step of the task, for the reason given at AsyncioBlock.
        try:
            loop.call_soon_threadsafe(scope.cancel)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to be cancelled

    return cancel_on_asyncio
