"""Bulkhead: so many calls at once and no more, with an orderly queue before the door."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from types import FrameType
from typing import Any, ClassVar, Final, NoReturn, overload

from resilient.blocks import current_owner
from resilient.core.adaptive import AdaptiveLimit
from resilient.core.checks import Checker, Seconds, contradiction, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.events import Outbox
from resilient.core.meters import BulkheadMeter
from resilient.core.permits import LimitChange, Permits, Place
from resilient.drivers import threads
from resilient.drivers.helper_threads import ORPHANS, HelperCall
from resilient.drivers.waiters import ThreadWaiter, task_waiter
from resilient.errors import BulkheadFullError, RejectedError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, Scope, SyncCall
from resilient.pipeline import F
from resilient.policies.base import Policy
from resilient.registry import Registry, registry


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """What the factory was given, checked and in seconds."""

    max_concurrent: int | AdaptiveLimit
    max_queue: int
    queue_timeout: float | None


class Bulkhead(Policy):
    """A bulkhead; made by `bulkhead(...)`."""

    __slots__ = ("_adaptive", "_meter", "_outbox", "_permits", "_queue_timeout", "_warned")

    kind: ClassVar[str] = "bulkhead"

    def __init__(self, name: str | None, settings: BulkheadSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        limit = settings.max_concurrent
        self._adaptive: Final = limit if isinstance(limit, AdaptiveLimit) else None
        initial, rule = (limit.initial, limit.rule()) if isinstance(limit, AdaptiveLimit) else (limit, None)
        self._permits = Permits(initial, settings.max_queue, rule)
        self._queue_timeout: Final = inf if settings.queue_timeout is None else settings.queue_timeout
        self._meter = BulkheadMeter()
        self._outbox = Outbox(self._permits.changes, self._tell_change)
        self._warned = False

    @property
    def in_flight(self) -> int:
        """Calls that hold a permit, those whose work runs on after a timeout included."""
        return self._permits.in_flight

    @property
    def queued(self) -> int:
        """Calls that wait for a permit."""
        return self._permits.queued

    @property
    def limit(self) -> int:
        """So many calls at once, as it was set, resized or found."""
        return self._permits.limit

    def resize(self, max_concurrent: int) -> None:
        """Change the limit. More lets waiting calls in at once; fewer lets those inside finish first.

        An adaptive limit goes on from there.

        Raises:
            ConfigurationError: no whole number of at least 1, or outside the bounds of an adaptive limit.
        """
        check = Checker(self.kind, self.name)
        check.whole("max_concurrent", max_concurrent)
        bounds = self._adaptive
        if bounds is not None and not bounds.minimum <= max_concurrent <= bounds.maximum:
            allowed = f"from {bounds.minimum} to {bounds.maximum}, the bounds of its adaptive limit"
            refuse(check.policy, "max_concurrent", max_concurrent, allowed)
        self._permits.resize(max_concurrent, CLOCK.now())
        self._outbox.flush()

    def snapshot(self) -> dict[str, object]:
        """The limit, what is in use, and totals. Takes no lock and changes nothing."""
        permits = self._permits
        return {
            "limit": permits.limit,
            "in_flight": permits.in_flight,
            "max_queue": permits.max_queue,
            "queued": permits.queued,
            "queue_seconds": float(self._meter.queue.sum),
            "rejected": int(self._meter.rejected) + int(self._meter.queue_timeout),
            "totals": self._meter.calls(),
            "algorithm": None if self._adaptive is None else self._adaptive.algorithm,
        }

    def count_on(self, older: Bulkhead, /) -> None:
        self._meter = older._meter

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        permits, meter, orphans = self._permits, self._meter, ORPHANS
        if self._adaptive is not None:
            call = self._measured(call)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if permits.try_acquire():
                meter.accepted += 1
            else:
                self._wait(operation)
            left = orphans.left
            try:
                return call(args, kwargs)
            finally:
                if orphans.left == left:
                    permits.release()
                else:
                    self._release_after(orphans.since(left, current_owner()))

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        permits, meter, orphans = self._permits, self._meter, ORPHANS
        if self._adaptive is not None:
            call = self._measured_async(call)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if permits.try_acquire():
                meter.accepted += 1
            else:
                await self._wait_async(operation)
            left = orphans.left
            try:
                return await call(args, kwargs)
            finally:
                if orphans.left == left:
                    permits.release()
                else:
                    self._release_after(orphans.since(left, current_owner()))

        return guarded

    def scope(self, operation: Operation) -> Scope:
        return _BulkheadScope(self, operation)

    def _enter(self) -> bool:
        if entered := self._permits.try_acquire():
            self._meter.accepted += 1
        return entered

    def _measured(self, call: SyncCall) -> SyncCall:
        def measured(args: Args, kwargs: Kwargs) -> Any:
            with _Sample(self._permits, self._outbox):
                return call(args, kwargs)

        return measured

    def _measured_async(self, call: AsyncCall) -> AsyncCall:
        async def measured(args: Args, kwargs: Kwargs) -> Any:
            with _Sample(self._permits, self._outbox):
                return await call(args, kwargs)

        return measured

    def _wait(self, operation: Operation) -> None:
        started = CLOCK.now()
        end = self._end_of_wait(operation, started)
        waiter = ThreadWaiter()
        place = self._permits.queue_up(waiter.wake) or self._refuse_full(operation, started)
        try:
            if not place.granted:
                if not self._warned:
                    self._warned = threads.warn_if_loop_runs(self._shown(), "`async with`, `async def` or call_async")
                waiter.wait_until(end)
        except BaseException:
            self._give_up(place)
            raise
        self._waited(operation, place, started)

    async def _wait_async(self, operation: Operation) -> None:
        started = CLOCK.now()
        end = self._end_of_wait(operation, started)
        waiter = task_waiter()
        place = self._permits.queue_up(waiter.wake) or self._refuse_full(operation, started)
        try:
            if not place.granted:
                await waiter.wait_until(end)
        except BaseException:
            self._give_up(place)
            raise
        self._waited(operation, place, started)

    def _end_of_wait(self, operation: Operation, now: float) -> float:
        if self._permits.queue_is_full:
            self._refuse_full(operation, now)
        end = min(now + self._queue_timeout, deadline_at())
        if now >= end:
            self._refuse_late(operation, now, now)
        return end

    def _give_up(self, place: Place) -> None:
        if self._permits.end_wait(place):
            self._permits.release()

    def _waited(self, operation: Operation, place: Place, started: float) -> None:
        """Let the call in, or refuse it. A permit that came as the wait ended is used, but not past the deadline."""
        granted = self._permits.end_wait(place)
        now = CLOCK.now()
        self._meter.queue.observe(now - started)
        if granted and now < deadline_at():
            self._meter.queued += 1
            return
        if granted:
            self._permits.release()
        self._refuse_late(operation, started, now)

    def _refuse_full(self, operation: Operation, now: float) -> NoReturn:
        self._meter.rejected += 1
        limit, places = self._permits.limit, self._permits.max_queue
        taken = f"all {limit} permits are taken" if limit > 1 else "its only permit is taken"
        queue = f", and {places} calls wait already (max_queue)" if places else ""
        more = "allow more with max_concurrent" + ("" if places else " or let calls wait (max_queue)")
        self._reject(f"{self._shown()} is full: {taken}{queue}. Try again later, or {more}", "full", operation, now)

    def _refuse_late(self, operation: Operation, started: float, now: float) -> NoReturn:
        self._meter.queue_timeout += 1
        at_deadline = now >= deadline_at()
        what = "before the deadline" if at_deadline else f"within {self._queue_timeout:g} s (queue_timeout)"
        tried = f"no permit came free {what}, after a wait of {now - started:.3g} s"
        message = f"{self._shown()} is full: {tried}. Try again later, or allow more with max_concurrent"
        self._reject(message, "deadline" if at_deadline else "queue_timeout", operation, now)

    def _reject(self, message: str, reason: str, operation: Operation, now: float) -> NoReturn:
        permits = self._permits
        data = {"reason": reason, "limit": permits.limit, "in_flight": permits.in_flight, "queued": permits.queued}
        self._tell("call_rejected", operation.name, {**data, "retry_after": None}, now)
        raise BulkheadFullError(message, policy=self._name or self.kind)

    def _release_after(self, orphans: list[HelperCall]) -> None:
        """Give the permit back once the work is over that a timeout has left running, of each of its attempts."""
        try:
            self._permits.lend(len(orphans) - 1) if orphans else self._permits.release()
        finally:
            for orphan in orphans:
                orphan.after_end(self._permits.release)

    def _tell_change(self, change: LimitChange) -> None:
        data = {"from": change.before, "to": change.after, "reason": "adapted" if change.adapted else "resized"}
        self._tell("limit_changed", None, data, change.at)


class _Sample:
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


class _BulkheadScope(Scope):
    __slots__ = ("_bulkhead", "_left", "_operation", "_orphans", "_sample")

    def __init__(self, bulkhead: Bulkhead, operation: Operation) -> None:
        self._bulkhead = bulkhead
        self._operation = operation
        self._sample: _Sample | None = None
        self._left = 0
        self._orphans: list[HelperCall] = []

    def begin(self) -> None:
        if not self._bulkhead._enter():
            self._bulkhead._wait(self._operation)
        self._start()

    async def begin_async(self) -> None:
        if not self._bulkhead._enter():
            await self._bulkhead._wait_async(self._operation)
        self._start()

    def _start(self) -> None:
        bulkhead = self._bulkhead
        if bulkhead._adaptive is not None:
            self._sample = _Sample(bulkhead._permits, bulkhead._outbox)

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
            self._bulkhead._release_after(self._orphans)


@overload
def bulkhead(function: F, /) -> F: ...
@overload
def bulkhead(
    name: str | None = None,
    *,
    max_concurrent: int | AdaptiveLimit = 10,
    max_queue: int = 0,
    queue_timeout: Seconds | None = None,
    registry: Registry = ...,
) -> Bulkhead: ...
def bulkhead(
    name: Any = None,
    *,
    max_concurrent: int | AdaptiveLimit = 10,
    max_queue: int = 0,
    queue_timeout: Seconds | None = None,
    registry: Registry = registry,
) -> Any:
    """Let so many calls run at once and no more, so that one slow dependency can't take all threads or connections.

    Whoever finds no permit waits in a queue, first come, first served between threads and tasks, or is refused at once
    where the queue is full. By default there is none. The wait also ends at the deadline of an enclosing timeout.

    Args:
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        max_concurrent: so many calls at once, at least 1; or `adaptive(...)`, a limit that finds itself.
        max_queue: so many calls may wait for a permit, from 0 on.
        queue_timeout: seconds that a call waits at most, above 0; needs `max_queue`. Default: until the deadline.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, two contradict each other, or the name has other settings already.

    A refused call raises `BulkheadFullError`, which is a `RejectedError`. Work that runs on after a timeout, on a
    thread that can't be interrupted, keeps its permit until it ends.

    Example:
        >>> from resilient import bulkhead
        >>> @bulkhead("reports", max_concurrent=2, max_queue=5, queue_timeout=1.0)
        ... def report(month: str) -> str:
        ...     return f"report of {month}"
        >>> report("May")
        'report of May'
    """
    if callable(name) or isinstance(name, (staticmethod, classmethod)):
        return bulkhead()(name)
    check = Checker("bulkhead", name)
    if not isinstance(max_concurrent, AdaptiveLimit):
        if not isinstance(max_concurrent, int):
            refuse(check.policy, "max_concurrent", max_concurrent, "a whole number of at least 1, or adaptive(...)")
        check.whole("max_concurrent", max_concurrent)
    check.whole("max_queue", max_queue, minimum=0)
    if queue_timeout is not None and max_queue == 0:
        contradiction(
            check.policy,
            "queue_timeout and max_queue",
            (queue_timeout, 0),
            "queue_timeout needs max_queue of at least 1",
        )
    settings = BulkheadSettings(
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        queue_timeout=check.optional_seconds("queue_timeout", queue_timeout),
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Bulkhead(None, settings, registry)
    return registry.obtain(Bulkhead.kind, name, lambda: Bulkhead(name, settings, registry))
