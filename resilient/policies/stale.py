"""Stale: keep the last good result, and serve it where the call fails."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn

from resilient.core.cache import Cache, Entry, Load, Seat, Word, another_like
from resilient.core.checks import Checker, Matcher, Seconds, contradiction, matches, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.meters_fallback import CacheMeter
from resilient.core.tracing import trace_fallback
from resilient.drivers import threads
from resilient.drivers.waiters import ThreadWaiter, task_waiter
from resilient.errors import TimeoutExceededError
from resilient.operation import Args, AsyncCall, Kwargs, Misuse, Operation, Served, SyncCall
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

_NO_BLOCK: Final = (
    "stale can't be used as `with stale(...):`, because a block has no result to keep. Decorate a function with it, or "
    "write `stale(...).call(function)`"
)

_LOADS: Final[ContextVar[tuple[Load, ...]]] = ContextVar("resilient_loads", default=())


_AGAIN: Final = object()


@dataclass(frozen=True, slots=True)
class StaleSettings:
    """What the factory was given, checked and in seconds."""

    ttl: float
    max_stale: float
    key: Callable[..., Hashable] | None
    max_size: int
    on: Matcher


class Stale(Policy):
    """A cache of last good results; made by `stale(...)`."""

    __slots__ = ("_cache", "_meter", "_warned")

    kind: ClassVar[str] = "stale"

    def __init__(self, name: str | None, settings: StaleSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._cache = Cache(settings.ttl, settings.max_stale, settings.max_size)
        self._meter = CacheMeter()
        self._warned = False

    def snapshot(self) -> dict[str, object]:
        """Calls by result, those served from memory and those that shared the load of another, as totals; keys held."""
        return {
            "calls": self._meter.calls(),
            "from_memory": int(self._meter.from_memory),
            "shared": int(self._meter.shared),
            "keys": len(self._cache),
        }

    def clear(self) -> None:
        """Forget all results."""
        self._cache.clear()

    def count_on(self, older: Stale, /) -> None:
        self._meter = older._meter

    def refusal(self, use: str) -> str | None:
        if use.startswith("block"):
            return _NO_BLOCK
        if use in ("generator", "async generator"):
            return (
                f"{self._shown()} can't guard {use} functions: what they give can be gone through only once. Guard a "
                f"function that returns all items as a list"
            )
        return None

    def __enter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        operation.expect_fallback()
        cache, clock = self._cache, CLOCK

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(args, kwargs, operation)
            while True:
                now = clock.now()
                found = cache.ask(key, now)
                if isinstance(found, Entry):
                    return self._from_memory(found)
                load, mine = found
                if mine:
                    return self._load(call, args, kwargs, load, None, operation)
                if load in _LOADS.get():
                    return call(args, kwargs)
                seat = self._wait(load)
                if seat.word is Word.LOAD:
                    return self._load(call, args, kwargs, load, seat, operation)
                answer = self._answer(seat, load, now, operation)
                if answer is not _AGAIN:
                    return answer

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        operation.expect_fallback()
        cache, clock = self._cache, CLOCK

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            key = self._key(args, kwargs, operation)
            while True:
                now = clock.now()
                found = cache.ask(key, now)
                if isinstance(found, Entry):
                    return self._from_memory(found)
                load, mine = found
                if mine:
                    return await self._load_async(call, args, kwargs, load, None, operation)
                if load in _LOADS.get():
                    return await call(args, kwargs)
                seat = await self._wait_async(load)
                if seat.word is Word.LOAD:
                    return await self._load_async(call, args, kwargs, load, seat, operation)
                answer = self._answer(seat, load, now, operation)
                if answer is not _AGAIN:
                    return answer

        return guarded

    def _load(
        self, call: SyncCall, args: Args, kwargs: Kwargs, load: Load, seat: Seat | None, operation: Operation
    ) -> Any:
        # A call of the same key from within would wait for itself: this tells it that the load is its own.
        token = _LOADS.set((*_LOADS.get(), load))
        try:
            result = call(args, kwargs)
        except BaseException as error:
            instead = self._failed(load, seat, error, operation)
            if instead is None:
                raise
            return instead
        finally:
            _LOADS.reset(token)
        self._loaded(load, result)
        return result

    async def _load_async(
        self, call: AsyncCall, args: Args, kwargs: Kwargs, load: Load, seat: Seat | None, operation: Operation
    ) -> Any:
        token = _LOADS.set((*_LOADS.get(), load))
        try:
            result = await call(args, kwargs)
        except BaseException as error:
            instead = self._failed(load, seat, error, operation)
            if instead is None:
                raise
            return instead
        finally:
            _LOADS.reset(token)
        self._loaded(load, result)
        return result

    def _wait(self, load: Load) -> Seat:
        if not self._warned:
            self._warned = threads.warn_if_loop_runs(self._shown(), "`async def` or call_async")
        waiter = ThreadWaiter()
        seat = Seat(waiter.wake)
        if self._cache.join(load, seat):
            woken = False
            try:
                woken = waiter.wait_until(deadline_at())
            finally:
                if not woken:
                    self._cache.leave(load, seat)
        return seat

    async def _wait_async(self, load: Load) -> Seat:
        waiter = task_waiter()
        seat = Seat(waiter.wake)
        if self._cache.join(load, seat):
            woken = False
            try:
                woken = await waiter.wait_until(deadline_at())
            finally:
                if not woken:
                    self._cache.leave(load, seat)
        return seat

    def _key(self, args: Args, kwargs: Kwargs, operation: Operation) -> Hashable:
        """What the user tells results apart by, together with the function: a policy may guard several."""
        by_user = self._settings.key
        key: Hashable
        if by_user is None:
            key = operation, args, frozenset(kwargs.items()) if kwargs else None
        else:
            first = operation.user_args
            try:
                key = operation, args[:first], by_user(*args[first:], **kwargs)
            except Exception:
                self._meter.failed += 1
                raise
        try:
            hash(key)
        except TypeError as error:
            what = "the arguments" if by_user is None else "what `key` returned"
            raise Misuse(
                TypeError(
                    f"{self._shown()}: results are told apart by {what}, which must be hashable ({error}). Give it "
                    f"key=, a function of the arguments that returns, say, a string or a tuple of strings"
                )
            ) from None
        return key

    def _from_memory(self, entry: Entry) -> Any:
        self._meter.from_memory += 1
        self._meter.not_needed += 1
        return entry.value

    def _loaded(self, load: Load, result: Any) -> None:
        # What a fallback inside has served is no good result.
        self._cache.succeed(load, result, CLOCK.now(), keep=type(result) is not Served)
        self._meter.not_needed += 1

    def _failed(self, load: Load, seat: Seat | None, error: BaseException, operation: Operation) -> Served | None:
        if not isinstance(error, Exception):
            self._cache.abandon(load, seat)
            return None
        self._cache.fail(load, error)
        selected = self._selects(error)
        instead = self._stand_in(error, load, operation) if selected else None
        if instead is None:
            self._count_error(selected)
        return instead

    def _answer(self, seat: Seat, load: Load, asked: float, operation: Operation) -> Any:
        """What the load of another means for a call that has waited for it."""
        if seat.word is Word.MISSED:
            return _AGAIN
        content = seat.content
        if seat.word is Word.RESULT:
            self._meter.shared += 1
            self._meter.not_needed += 1
            return content
        if seat.word is Word.LEFT:
            content = self._too_late(asked)
        selected = self._selects(content)
        instead = self._stand_in(content, load, operation) if selected else None
        if instead is not None:
            return instead
        own = content if seat.word is Word.LEFT else another_like(content)
        try:
            if own is None:
                return _AGAIN
            self._count_error(selected)
            if own is content:
                raise own
            raise own from content
        finally:
            del own, content

    def _too_late(self, asked: float) -> TimeoutExceededError:
        waited = CLOCK.now() - asked
        return TimeoutExceededError(
            f"{self._shown()}: {waited:.3g} s, until the deadline, were spent waiting for another call that loads the "
            f"same key. Allow more time, or look at what that call was waiting for",
            policy=self._name or self.kind,
            seconds=waited,
        )

    def _selects(self, error: Exception) -> bool:
        try:
            return matches(self._settings.on, error)
        except Exception:
            self._meter.failed += 1
            raise

    def _count_error(self, selected: bool) -> None:
        if selected:
            self._meter.failed += 1
        else:
            self._meter.not_needed += 1

    def _stand_in(self, error: Exception, load: Load, operation: Operation) -> Served | None:
        """The last good result, if it is not too old."""
        now = CLOCK.now()
        entry = self._cache.last_good(load.key, now)
        if entry is None:
            return None
        with trace_fallback():
            self._meter.applied += 1
        age = now - entry.stored
        self._tell("fallback_applied", operation.name, {"error": type(error).__name__, "age": age}, now)
        return Served(entry.value)


def stale(
    ttl: Seconds,
    max_stale: Seconds,
    key: Callable[..., Hashable] | None = None,
    max_size: int = 1024,
    *,
    on: Matcher = Exception,
    name: str | None = None,
    registry: Registry = registry,
) -> Stale:
    """Keep the last good result for each key in memory; serve it while it is fresh, and where the call fails.

    One load at a time for each key, over threads and tasks: other calls for the key wait for it, until their deadline,
    and share its result. Where it fails and there is no result to serve, each of them gets an exception of its own, a
    copy of the loader's with that as its `__cause__`. Where the loader is cancelled, one of those who wait takes over.

    Args:
        ttl: seconds for which a result is served without calling the function; 0: never.
        max_stale: age in seconds up to which a result is served where the call fails; at least `ttl`, above 0.
        key: a function of the arguments that returns what results are told apart by. Default: all arguments, for a
            method `self` included; they are then kept alive with the result. Anything that the result depends on must
            be in it, such as the user who may see it.
        max_size: so many results at most, at least 1; the least recently used go first.
        on: errors of the call in the place of which a kept result is served. Others are raised.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    Every caller is given the same object: do not change it, and do not guard what can be read only once.

    Example:
        >>> from resilient import stale
        >>> rates = [1.08]
        >>> @stale(ttl=0, max_stale=3600)
        ... def rate(currency: str) -> float:
        ...     return rates.pop()
        >>> rate("USD")
        1.08
        >>> rate("USD")
        1.08
    """
    check = Checker("stale", name)
    if callable(ttl) or isinstance(ttl, (staticmethod, classmethod)):
        refuse(check.policy, "ttl", ttl, "seconds of at least 0, as in @stale(ttl=60, max_stale=3600)")
    settings = StaleSettings(
        ttl=check.seconds("ttl", ttl, zero=True),
        max_stale=check.seconds("max_stale", max_stale),
        key=check.optional_function("key", key, "a function of the arguments that returns something hashable"),
        max_size=check.whole("max_size", max_size),
        on=check.matcher("on", on),
    )
    if settings.max_stale < settings.ttl:
        contradiction(check.policy, "ttl and max_stale", (ttl, max_stale), "max_stale must be at least ttl")
    check.instance("registry", registry, Registry)
    if name is None:
        return Stale(None, settings, registry)
    return registry.obtain(Stale.kind, name, lambda: Stale(name, settings, registry))
