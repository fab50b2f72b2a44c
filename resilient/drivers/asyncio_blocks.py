"""Timeouts of asyncio tasks. Imported at the first timeout in an asyncio loop, never by `import resilient`.

Calls with one duration expire in the order in which they began. So a loop keeps them in a dict, in that order, and one
timer for the oldest; entering and leaving a block costs two dict operations, and no timer is ever cancelled.

Who holds whom: a loop holds its table through the armed timer and the blocks that are entered, the policy only weakly.
A loop that is dropped takes its table, and all that hangs on it, with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio import current_task, get_running_loop
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakValueDictionary, ref

from resilient.core.clock import CLOCK, Timer

if TYPE_CHECKING:
    from resilient.drivers.tasks import TaskBlock


class _Table:
    """The blocks of one duration that are entered in one loop, oldest first. Used in the loop's thread only."""

    __slots__ = ("__weakref__", "_context", "armed", "blocks", "loop", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # The clock of asyncio's own loops, without a Python function around it.
        self.time = _monotonic if getattr(type(loop), "time", None) is _LOOP_TIME else loop.time
        self.blocks: dict[AsyncioBlock, float] = {}
        self.armed: float | None = None
        # A timer armed by a call, and by the timers after it, would keep that call's context variables alive for as
        # long as there is traffic.
        self._context = Context()

    def arm(self, deadline: float) -> None:
        self.armed = deadline
        self.loop.call_at(deadline, self._expire, context=self._context)

    def _expire(self) -> None:
        now = self.time()
        if self.armed is not None and self.armed > now:
            # Loops run a timer up to one tick of their clock early.
            now = self.armed
        self.armed = None
        due: list[AsyncioBlock] = []
        for block, deadline in self.blocks.items():
            if deadline > now:
                self.arm(deadline)
                break
            due.append(block)
        for block in due:
            if self.blocks.pop(block, None) is not None:
                block.expire()


_modules = sys.modules
_LOOP_TIME = asyncio.BaseEventLoop.time
_monotonic = time.monotonic  # noqa: TID251 - what the loop reads


def _no_task() -> RuntimeError:
    return RuntimeError("a timeout needs a task to cancel, and none is running here")


def _no_table() -> None:
    return None


class AsyncioTimeouts:
    """Timeouts of one duration in any number of asyncio loops."""

    __slots__ = ("_elsewhere", "_tables", "latest", "seconds")

    def __init__(self, seconds: float, elsewhere: Callable[[], TaskBlock]) -> None:
        self.seconds = seconds
        self._elsewhere = elsewhere
        self.latest: Callable[[], _Table | None] | ReferenceType[_Table] = _no_table
        # A table holds its loop, so the id of a loop that has a table here is not given to another.
        self._tables: WeakValueDictionary[int, _Table] = WeakValueDictionary()

    def block(self) -> AsyncioBlock:
        block = AsyncioBlock()
        block.timeouts = self
        return block

    def open(self) -> TaskBlock:
        """What `TaskTimeouts.open` does, for a task of asyncio in real time; others are sent `elsewhere`."""
        if "trio" in _modules or CLOCK.virtual is not None:
            return self._elsewhere()
        loop = get_running_loop()
        task = current_task(loop)
        if task is None:
            raise _no_task()
        block = AsyncioBlock()
        block.timeouts = self
        block._task = task
        block._expired = False
        block._before = task.cancelling()
        # As in `note`: a call would cost more than what is in it.
        table = self.latest()
        if table is None or table.loop is not loop:
            table = self.table_of(loop)
        block._table = table
        table.blocks[block] = deadline = table.time() + self.seconds
        if table.armed is None:
            table.arm(deadline)
        return block

    def note(self, block: AsyncioBlock, loop: asyncio.AbstractEventLoop) -> None:
        """Put a block into the table of its loop."""
        block._table = table = self.table_of(loop)
        table.blocks[block] = deadline = table.time() + self.seconds
        if table.armed is None:
            table.arm(deadline)

    def table_of(self, loop: asyncio.AbstractEventLoop) -> _Table:
        table = self._tables.get(id(loop))
        if table is None:
            table = self._tables[id(loop)] = _Table(loop)
        self.latest = ref(table)
        return table


class AsyncioBlock:
    """A `TaskBlock` that decides as `asyncio.timeout` does.

    A cancellation is counted with the task (`Task.cancelling`) and the count is as before after every exit. The task is
    cancelled only between its steps, never from within one: a request that is not delivered by the end of the block
    could not be taken back before Python 3.13, and would end the next await of the caller.
    """

    __slots__ = ("_before", "_expired", "_table", "_task", "_timer", "timeouts")

    # Without an __init__: on Python 3.11 it would be an eighth of what a block costs.
    timeouts: AsyncioTimeouts
    _before: int
    _expired: bool
    _table: _Table | None
    _task: asyncio.Task[Any] | None
    _timer: Timer

    def enter(self, seconds: float | None = None) -> None:
        loop = get_running_loop()
        task = current_task(loop)
        if task is None:
            raise _no_task()
        self._task = task
        self._expired = False
        self._before = task.cancelling()
        if seconds is None and CLOCK.virtual is None:
            self.timeouts.note(self, loop)
        else:
            self._table = None
            self._timer = self._arm(loop, self.timeouts.seconds if seconds is None else seconds)

    def exit(self, error: BaseException | None) -> bool:
        task = self._task
        self._task = None
        if not self._expired:
            table = self._table
            if table is not None:
                del table.blocks[self]
            else:
                self._timer.cancel()
            return False
        assert task is not None
        # A count that is still above what it was means that others asked for a cancellation too: theirs stands.
        return task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError)

    def expire(self) -> None:
        task = self._task
        if task is not None:
            self._expired = True
            task.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> Timer:
        if seconds <= 0.0:
            return loop.call_soon(self.expire)
        virtual = CLOCK.virtual
        if virtual is None:
            return loop.call_at(loop.time() + seconds, self.expire)

        def expire_between_steps() -> None:
            try:
                loop.call_soon_threadsafe(self.expire)
            except RuntimeError:
                pass  # the loop is closed: nobody is left to be cancelled

        return virtual.call_at(CLOCK.now() + seconds, expire_between_steps)
