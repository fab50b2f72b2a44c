"""Rate limiter: so many calls a period and no more, evenly, with an orderly wait where one is allowed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from resilient.core.checks import Checker, Seconds, key_of, refuse_keyed
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.gcra import Gcra, Slot
from resilient.core.keyed import Keyed
from resilient.core.meters_load import RateLimiterMeter
from resilient.core.tracing import RATE_LIMITER_QUEUE, note
from resilient.drivers import tasks, threads
from resilient.drivers.waiters import ThreadWaiter, task_waiter
from resilient.errors import RateLimitedError
from resilient.fused import Fragment
from resilient.operation import Args, AsyncCall, Call, Kwargs, Operation, Scope, SyncCall
from resilient.policies import straight
from resilient.policies.base import Policy
from resilient.registry import Registry, registry


@dataclass(frozen=True, slots=True)
class RateLimiterSettings:
    """What the factory was given, checked and in seconds."""

    limit: int
    period: float
    burst: int
    max_wait: float
    key: Callable[..., Hashable] | None
    max_keys: int

    def gcra(self) -> Gcra:
        return Gcra(self.limit, self.period, self.burst)


class RateLimiter(Policy):
    """A rate limiter; made by `rate_limiter(...)`."""

    __slots__ = ("_gcra", "_keyed", "_max_wait", "_meter", "_warned")

    kind: ClassVar[str] = "rate_limiter"

    def __init__(self, name: str | None, settings: RateLimiterSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._gcra = settings.gcra()
        self._keyed = None if settings.key is None else Keyed(settings.gcra, settings.max_keys)
        self._max_wait = settings.max_wait
        self._meter = RateLimiterMeter()
        self._warned = False

    def snapshot(self) -> dict[str, object]:
        """The limit, what could go at once, and totals. Takes no lock and changes nothing."""
        now = CLOCK.now()
        snapshot: dict[str, object] = {
            "limit": self._settings.limit,
            "period": self._settings.period,
            "burst": self._settings.burst,
            "available": self._gcra.available(now),
            "rejected": int(self._meter.rejected),
            "queue_seconds": float(self._meter.queue.sum),
            "totals": self._meter.calls(),
        }
        if self._keyed is not None:
            left = {str(key): gcra.available(now) for key, gcra in self._keyed.items()}
            snapshot["keys"] = {key: {"available": count} for key, count in left.items() if not count}
        return snapshot

    def count_on(self, older: RateLimiter, /) -> None:
        self._meter = older._meter

    def refusal(self, use: str) -> str | None:
        return None if self._keyed is None else refuse_keyed(self._shown(), use)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            gcra = self._gcra if self._keyed is None else self._gcra_of(args, kwargs, operation)
            slot = self._reserve(gcra, operation)
            if slot is not None:
                self._wait(gcra, slot)
            return call(args, kwargs)

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            gcra = self._gcra if self._keyed is None else self._gcra_of(args, kwargs, operation)
            slot = self._reserve(gcra, operation)
            if slot is not None:
                await self._wait_async(gcra, slot)
            return await call(args, kwargs)

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_rate_limiter(self, asynchronous)

    def scope(self, operation: Operation) -> Scope:
        return _RateLimiterScope(self, operation)

    def _gcra_of(self, args: Args, kwargs: Kwargs, operation: Operation) -> Gcra:
        assert self._keyed is not None
        key = key_of(self._settings.key, args[operation.user_args :], kwargs, self._shown)
        return self._keyed.get(key)

    def _reserve(self, gcra: Gcra, operation: Operation) -> Slot | None:
        """A slot to wait for, or None: the call may go. What would have to wait too long is refused."""
        now = CLOCK.now()
        longest = self._max_wait
        if longest > 0.0:
            longest = min(longest, deadline_at() - now)
        answer = gcra.reserve(now, longest)
        if not isinstance(answer, Slot):
            raise self._refusal(answer, operation, now)
        if answer.at <= now:
            self._meter.allowed += 1
            return None
        return answer

    def _refusal(self, wait: float, operation: Operation, now: float) -> RateLimitedError:
        self._meter.rejected += 1
        self._tell("call_rejected", operation.name, {"retry_after": wait}, now)
        settings = self._settings
        if not self._max_wait:
            cause = "they have passed"
        elif wait > self._max_wait:
            cause = f"the wait would be longer than max_wait, {self._max_wait:g} s"
        else:
            cause = "the deadline would pass during the wait"
        return RateLimitedError(
            f"{self._shown()} lets {settings.limit} calls pass in {settings.period:g} s, and {cause}. "
            f"Try again in {wait:.3g} s",
            policy=self._name or self.kind,
            retry_after=wait,
        )

    def _wait(self, gcra: Gcra, slot: Slot) -> None:
        started = CLOCK.now()
        try:
            if not self._warned:
                self._warned = threads.warn_if_loop_runs(self._shown(), "`async with`, `async def` or call_async")
            while (left := _time_left(slot)) > 0.0:
                if CLOCK.virtual is not None:
                    threads.sleep(left)
                    continue
                waiter = ThreadWaiter()
                slot.wake = waiter.wake
                waiter.wait_until(slot.at)
        except BaseException:
            _give_back(gcra, slot)
            raise
        self._waited(started)

    async def _wait_async(self, gcra: Gcra, slot: Slot) -> None:
        started = CLOCK.now()
        try:
            while (left := _time_left(slot)) > 0.0:
                if CLOCK.virtual is not None:
                    await tasks.sleep(left)
                    continue
                waiter = task_waiter()
                slot.wake = waiter.wake
                await waiter.wait_until(slot.at)
        except BaseException:
            _give_back(gcra, slot)
            raise
        self._waited(started)

    def _waited(self, started: float) -> None:
        self._meter.delayed += 1
        waited = CLOCK.now() - started
        self._meter.queue.observe(waited)
        note(RATE_LIMITER_QUEUE, waited)


def _time_left(slot: Slot) -> float:
    return slot.at - CLOCK.now()


def _give_back(gcra: Gcra, slot: Slot) -> None:
    for moved in gcra.give_back(slot, CLOCK.now()):
        if moved.wake is not None:
            moved.wake()


class _RateLimiterScope(Scope):
    __slots__ = ("_limiter", "_operation")

    def __init__(self, limiter: RateLimiter, operation: Operation) -> None:
        self._limiter = limiter
        self._operation = operation

    def begin(self) -> None:
        limiter = self._limiter
        slot = limiter._reserve(limiter._gcra, self._operation)
        if slot is not None:
            limiter._wait(limiter._gcra, slot)

    async def begin_async(self) -> None:
        limiter = self._limiter
        slot = limiter._reserve(limiter._gcra, self._operation)
        if slot is not None:
            await limiter._wait_async(limiter._gcra, slot)


def rate_limiter(
    name: str | None = None,
    *,
    limit: int,
    period: Seconds = 1.0,
    burst: int | None = None,
    max_wait: Seconds = 0.0,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 1000,
    registry: Registry = registry,
) -> RateLimiter:
    """Let at most `limit` calls pass in a `period`, spread evenly, and up to `burst` at once after a pause.

    In any time T at most limit * T / period + burst calls pass. The algorithm is GCRA (ITU-T I.371, annex A), the
    leaky bucket as a meter.

    Args:
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        limit: calls a period, at least 1.
        period: seconds, above 0.
        burst: calls at once, at least 1. Default: `limit`.
        max_wait: seconds that a call may wait for its turn, at least 0. Calls wait in the order in which they came; one
            that would have to wait longer, or past the current deadline, is refused at once.
        key: a function of the call's arguments: each key has a limit of its own. Not for blocks and generators.
        max_keys: so many keys are kept, at least 1; the least recently used goes.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    A refused call raises `RateLimitedError`, which tells in `retry_after` when its turn would have come.

    Example:
        >>> from resilient import rate_limiter
        >>> @rate_limiter("geocoder", limit=50, period=1.0, max_wait=0.5)
        ... def geocode(address: str) -> tuple[float, float]:
        ...     return 52.5, 13.4
        >>> geocode("Alexanderplatz 1")
        (52.5, 13.4)
    """
    check = Checker("rate_limiter", name)
    settings = RateLimiterSettings(
        limit=check.whole("limit", limit),
        period=check.seconds("period", period),
        burst=check.whole("burst", limit if burst is None else burst),
        max_wait=check.seconds("max_wait", max_wait, zero=True),
        key=check.optional_function("key", key, "a function of the call's arguments"),
        max_keys=check.whole("max_keys", max_keys),
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return RateLimiter(None, settings, registry)
    return registry.obtain(RateLimiter.kind, name, lambda: RateLimiter(name, settings, registry))
