"""One use of a bulkhead: what an adaptive limit learns from it, and how its permit is given back."""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING

from resilient.blocks import current_owner
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.events import Outbox
from resilient.core.permits import LimitChange, Permits
from resilient.drivers.helper_threads import ORPHANS, HelperCall
from resilient.errors import RejectedError
from resilient.operation import Operation, Scope

if TYPE_CHECKING:
    from resilient.policies.bulkhead import Bulkhead


class Sample:
    """One call as an adaptive limit sees it. What is cancelled, or fails by itself, says nothing about the load."""

    __slots__ = ("_in_flight", "_outbox", "_permits", "_started")

    def __init__(self, permits: Permits, outbox: Outbox[LimitChange]) -> None:
        self._permits = permits
        self._outbox = outbox
        self._in_flight = permits.in_flight
        self._started = CLOCK.now()

    def end(self, error: BaseException | None) -> None:
        now = CLOCK.now()
        if error is None:
            dropped = False
        elif isinstance(error, Exception):
            dropped = isinstance(error, (TimeoutError, RejectedError))
        else:
            # It is an enclosing timeout that cancels once the deadline has passed.
            dropped = now >= deadline_at()
        if dropped or error is None:
            self._permits.adapt(now - self._started, self._in_flight, dropped, now)
            if self._permits.changes:
                self._outbox.flush()

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.end(error)


def release_after(permits: Permits, orphans: list[HelperCall]) -> None:
    """Give the permit back once the work is over that a timeout has left running, of each of its attempts."""
    try:
        permits.lend(len(orphans) - 1) if orphans else permits.release()
    finally:
        for orphan in orphans:
            orphan.after_end(permits.release)


class BulkheadScope(Scope):
    __slots__ = ("_bulkhead", "_left", "_operation", "_orphans", "_sample")

    def __init__(self, bulkhead: Bulkhead, operation: Operation) -> None:
        self._bulkhead = bulkhead
        self._operation = operation
        self._sample: Sample | None = None
        self._left = 0
        self._orphans: list[HelperCall] = []

    def begin(self) -> None:
        if not self._bulkhead._enter():
            self._bulkhead._wait(self._bulkhead._permits, self._operation)
        self._start()

    async def begin_async(self) -> None:
        if not self._bulkhead._enter():
            await self._bulkhead._wait_async(self._bulkhead._permits, self._operation)
        self._start()

    def _start(self) -> None:
        bulkhead = self._bulkhead
        if bulkhead._adaptive is not None:
            self._sample = Sample(bulkhead._permits, bulkhead._outbox)

    def resume(self, frame: FrameType) -> None:
        self._left = ORPHANS.left

    def resume_async(self) -> None:
        self._left = ORPHANS.left

    def pause(self, error: BaseException | None) -> None:
        if ORPHANS.left != self._left:
            self._orphans += ORPHANS.since(self._left, current_owner())

    def pause_async(self, error: BaseException | None) -> None:
        self.pause(error)

    def end(self, error: BaseException | None) -> None:
        try:
            if self._sample is not None:
                self._sample.end(error)
        finally:
            release_after(self._bulkhead._permits, self._orphans)
