"""Bulkhead: so many calls at once and no more, with an orderly queue before the door."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf
from typing import Any, ClassVar, Final, NoReturn, overload

from resilient.blocks import current_owner
from resilient.core.adaptive import AdaptiveLimit
from resilient.core.checks import Checker, Seconds, key_of, refuse, refuse_keyed
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.events import Outbox
from resilient.core.keyed import MAX_LISTED, Keyed
from resilient.core.meters import BulkheadMeter
from resilient.core.permits import LimitChange, Permits, Place, Usage
from resilient.core.tracing import BULKHEAD_QUEUE, note
from resilient.drivers import threads
from resilient.drivers.helper_threads import ORPHANS
from resilient.drivers.waiters import ThreadWaiter, task_waiter
from resilient.errors import BulkheadFullError
from resilient.fused import Fragment
from resilient.operation import Args, AsyncCall, Call, Kwargs, Operation, Scope, SyncCall
from resilient.pipeline import F
from resilient.policies import straight
from resilient.policies.base import Policy
from resilient.policies.bulkhead_settings import BulkheadSettings, check_settings
from resilient.policies.bulkhead_use import BulkheadScope, Sample, release_after
from resilient.registry import Registry, registry


class Bulkhead(Policy):
    """A bulkhead; made by `bulkhead(...)`."""

    __slots__ = (
        "_adaptive",
        "_changes",
        "_keyed",
        "_limit",
        "_meter",
        "_outbox",
        "_permits",
        "_queue_timeout",
        "_warned",
    )

    kind: ClassVar[str] = "bulkhead"

    def __init__(self, name: str | None, settings: BulkheadSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        limit = settings.max_concurrent
        self._adaptive: Final = limit if isinstance(limit, AdaptiveLimit) else None
        self._changes: list[LimitChange] = []
        self._limit = settings.initial
        self._permits = self._new_permits()
        self._keyed = None if settings.key is None else Keyed(self._new_permits, settings.max_keys, _is_idle)
        self._queue_timeout: Final = inf if settings.queue_timeout is None else settings.queue_timeout
        self._meter = BulkheadMeter()
        self._outbox = Outbox(self._changes, self._tell_change)
        self._warned = False

    @property
    def in_flight(self) -> int:
        """Calls that hold a permit, those whose work runs on after a timeout included."""
        return sum(permits.in_flight for permits in self._all())

    @property
    def queued(self) -> int:
        """Calls that wait for a permit."""
        return sum(permits.queued for permits in self._all())

    @property
    def limit(self) -> int:
        """So many calls at once, as it was set, resized or found; with `key`, so many of one key."""
        return self._permits.limit if self._keyed is None else self._limit

    def resize(self, max_concurrent: int) -> None:
        """Change the limit. More lets waiting calls in at once; fewer lets those inside finish first.

        An adaptive limit goes on from there; with `key`, that of every key.

        Raises:
            ConfigurationError: no whole number of at least 1, or outside the bounds of an adaptive limit.
        """
        check = Checker(self.kind, self.name)
        check.whole("max_concurrent", max_concurrent)
        bounds = self._adaptive
        if bounds is not None and not bounds.minimum <= max_concurrent <= bounds.maximum:
            allowed = f"from {bounds.minimum} to {bounds.maximum}, the bounds of its adaptive limit"
            refuse(check.policy, "max_concurrent", max_concurrent, allowed)
        self._limit = max_concurrent
        for permits in self._all():
            permits.resize(max_concurrent, CLOCK.now())
        self._outbox.flush()

    def snapshot(self) -> dict[str, object]:
        """The limit, what is in use, and totals. Takes no lock and changes nothing."""
        snapshot: dict[str, object] = {
            "limit": self.limit,
            "in_flight": self.in_flight,
            "max_queue": self._settings.max_queue,
            "queued": self.queued,
            "queue_seconds": float(self._meter.queue.sum),
            "rejected": int(self._meter.rejected) + int(self._meter.queue_timeout),
            "totals": self._meter.calls(),
            "algorithm": None if self._adaptive is None else self._adaptive.algorithm,
        }
        if self._keyed is not None:
            full = [(key, permits) for key, permits in self._keyed.items() if permits.in_flight >= permits.limit]
            snapshot["keys"] = {
                str(key): {"limit": permits.limit, "in_flight": permits.in_flight, "queued": permits.queued}
                for key, permits in full[-MAX_LISTED:]
            }
        return snapshot

    def usage(self) -> Usage:
        """What is in use of what there is, over all keys that are kept."""
        every = self._all() or [self._permits]
        return Usage(
            in_flight=sum(permits.in_flight for permits in every),
            limit=sum(permits.limit for permits in every),
            queued=sum(permits.queued for permits in every),
            max_queue=sum(permits.max_queue for permits in every),
        )

    def count_on(self, older: Bulkhead, /) -> None:
        self._meter = older._meter

    def refusal(self, use: str) -> str | None:
        return None if self._keyed is None else refuse_keyed(self._shown(), use)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        if self._keyed is None:
            return self._guard(self._permits, call, operation)
        keyed = self._keyed

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key_of(args, kwargs, operation)
            permits = keyed.borrow(key)
            try:
                return self._guard(permits, call, operation)(args, kwargs)
            finally:
                keyed.give_back(key)

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        if self._keyed is None:
            return self._guard_async(self._permits, call, operation)
        keyed = self._keyed

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key_of(args, kwargs, operation)
            permits = keyed.borrow(key)
            try:
                return await self._guard_async(permits, call, operation)(args, kwargs)
            finally:
                keyed.give_back(key)

        return guarded

    def _guard(self, permits: Permits, call: SyncCall, operation: Operation) -> SyncCall:
        meter, orphans = self._meter, ORPHANS
        if self._adaptive is not None:
            call = self._measured(permits, call)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if permits.try_acquire():
                meter.accepted += 1
            else:
                self._wait(permits, operation)
            left = orphans.left
            try:
                return call(args, kwargs)
            finally:
                if orphans.left == left:
                    permits.release()
                else:
                    release_after(permits, orphans.since(left, current_owner()))

        return guarded

    def _guard_async(self, permits: Permits, call: AsyncCall, operation: Operation) -> AsyncCall:
        meter, orphans = self._meter, ORPHANS
        if self._adaptive is not None:
            call = self._measured_async(permits, call)

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if permits.try_acquire():
                meter.accepted += 1
            else:
                await self._wait_async(permits, operation)
            left = orphans.left
            try:
                return await call(args, kwargs)
            finally:
                if orphans.left == left:
                    permits.release()
                else:
                    release_after(permits, orphans.since(left, current_owner()))

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_bulkhead(self, asynchronous)

    def scope(self, operation: Operation) -> Scope:
        return BulkheadScope(self, operation)

    def _new_permits(self) -> Permits:
        return self._settings.permits(self._limit, self._changes)  # type: ignore[no-any-return]

    def _all(self) -> list[Permits]:
        return [self._permits] if self._keyed is None else self._keyed.states()

    def _key_of(self, args: Args, kwargs: Kwargs, operation: Operation) -> Hashable:
        return key_of(self._settings.key, args[operation.user_args :], kwargs, self._shown)

    def _enter(self) -> bool:
        if entered := self._permits.try_acquire():
            self._meter.accepted += 1
        return entered

    def _measured(self, permits: Permits, call: SyncCall) -> SyncCall:
        def measured(args: Args, kwargs: Kwargs) -> Any:
            with Sample(permits, self._outbox):
                return call(args, kwargs)

        return measured

    def _measured_async(self, permits: Permits, call: AsyncCall) -> AsyncCall:
        async def measured(args: Args, kwargs: Kwargs) -> Any:
            with Sample(permits, self._outbox):
                return await call(args, kwargs)

        return measured

    def _wait(self, permits: Permits, operation: Operation) -> None:
        started = CLOCK.now()
        end = self._end_of_wait(permits, operation, started)
        waiter = ThreadWaiter()
        place = permits.queue_up(waiter.wake) or self._refuse_full(permits, operation, started)
        try:
            if not place.granted:
                if not self._warned:
                    self._warned = threads.warn_if_loop_runs(self._shown(), "`async with`, `async def` or call_async")
                waiter.wait_until(end)
        except BaseException:
            if permits.end_wait(place):
                permits.release()
            raise
        self._waited(permits, operation, place, started)

    async def _wait_async(self, permits: Permits, operation: Operation) -> None:
        started = CLOCK.now()
        end = self._end_of_wait(permits, operation, started)
        waiter = task_waiter()
        place = permits.queue_up(waiter.wake) or self._refuse_full(permits, operation, started)
        try:
            if not place.granted:
                await waiter.wait_until(end)
        except BaseException:
            if permits.end_wait(place):
                permits.release()
            raise
        self._waited(permits, operation, place, started)

    def _end_of_wait(self, permits: Permits, operation: Operation, now: float) -> float:
        if permits.queue_is_full:
            self._refuse_full(permits, operation, now)
        end = min(now + self._queue_timeout, deadline_at())
        if now >= end:
            self._refuse_late(permits, operation, now, now)
        return end

    def _waited(self, permits: Permits, operation: Operation, place: Place, started: float) -> None:
        """Let the call in, or refuse it. A permit that came as the wait ended is used, but not past the deadline."""
        granted = permits.end_wait(place)
        now = CLOCK.now()
        self._meter.queue.observe(now - started)
        note(BULKHEAD_QUEUE, now - started)
        if granted and now < deadline_at():
            self._meter.queued += 1
            return
        if granted:
            permits.release()
        self._refuse_late(permits, operation, started, now)

    def _refuse_full(self, permits: Permits, operation: Operation, now: float) -> NoReturn:
        self._meter.rejected += 1
        limit, places = permits.limit, permits.max_queue
        taken = f"all {limit} permits are taken" if limit > 1 else "its only permit is taken"
        queue = f", and {places} calls wait already (max_queue)" if places else ""
        more = "allow more with max_concurrent" + ("" if places else " or let calls wait (max_queue)")
        message = f"{self._shown_for(permits)} is full: {taken}{queue}. Try again later, or {more}"
        self._reject(permits, message, "full", operation, now)

    def _refuse_late(self, permits: Permits, operation: Operation, started: float, now: float) -> NoReturn:
        self._meter.queue_timeout += 1
        at_deadline = now >= deadline_at()
        what = "before the deadline" if at_deadline else f"within {self._queue_timeout:g} s (queue_timeout)"
        tried = f"no permit came free {what}, after a wait of {now - started:.3g} s"
        full = f"{self._shown_for(permits)} is full: {tried}"
        message = f"{full}. Try again later, or allow more with max_concurrent"
        self._reject(permits, message, "deadline" if at_deadline else "queue_timeout", operation, now)

    def _shown_for(self, permits: Permits) -> str:
        return self._shown() if permits is self._permits else f"{self._shown()}, for the key of this call,"

    def _reject(self, permits: Permits, message: str, reason: str, operation: Operation, now: float) -> NoReturn:
        data = {"reason": reason, "limit": permits.limit, "in_flight": permits.in_flight, "queued": permits.queued}
        self._tell("call_rejected", operation.name, {**data, "retry_after": None}, now)
        raise BulkheadFullError(message, policy=self._name or self.kind)

    def _tell_change(self, change: LimitChange) -> None:
        data = {"from": change.before, "to": change.after, "reason": "adapted" if change.adapted else "resized"}
        self._tell("limit_changed", None, data, change.at)


def _is_idle(permits: Permits) -> bool:
    return not permits.in_flight and not permits.queued


@overload
def bulkhead(function: F, /) -> F: ...
@overload
def bulkhead(
    name: str | None = None,
    *,
    max_concurrent: int | AdaptiveLimit = 10,
    max_queue: int = 0,
    queue_timeout: Seconds | None = None,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 1000,
    registry: Registry = ...,
) -> Bulkhead: ...
def bulkhead(
    name: Any = None,
    *,
    max_concurrent: int | AdaptiveLimit = 10,
    max_queue: int = 0,
    queue_timeout: Seconds | None = None,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 1000,
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
        key: a function of the call's arguments: each key has permits and a queue of its own. Not for blocks and
            generators.
        max_keys: so many keys are kept, at least 1; the least recently used goes that has no call inside.
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
    settings = check_settings(
        check,
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        queue_timeout=queue_timeout,
        key=key,
        max_keys=max_keys,
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Bulkhead(None, settings, registry)
    return registry.obtain(Bulkhead.kind, name, lambda: Bulkhead(name, settings, registry))
