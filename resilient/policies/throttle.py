"""Throttle: refuse calls on this side in step with how many the other side refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Final, overload

from resilient.core.checks import Checker, Matcher, Seconds, matches, names_rejections, refuse
from resilient.core.clock import CLOCK
from resilient.core.meters_load import ThrottleMeter
from resilient.core.throttle import Throttle as Shares
from resilient.errors import RejectedError, ThrottledError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, Scope, SyncCall
from resilient.pipeline import F
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

_SOURCE: Final = Random()
if hasattr(os, "register_at_fork"):
    # Workers forked from one process must not refuse in step.
    os.register_at_fork(after_in_child=_SOURCE.seed)


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """What the factory was given, checked and in seconds."""

    k: float
    window: float
    max_rejection: float
    on: Matcher


class Throttle(Policy):
    """A client-side throttle; made by `throttle(...)`."""

    __slots__ = ("_draw", "_meter", "_shares")

    kind: ClassVar[str] = "throttle"

    def __init__(
        self,
        name: str | None,
        settings: ThrottleSettings,
        registry: Registry,
        draw: Callable[[], float] = _SOURCE.random,
    ) -> None:
        super().__init__(name, settings, registry)
        self._shares = Shares(settings.k, settings.window, settings.max_rejection)
        self._meter = ThrottleMeter()
        self._draw = draw

    def snapshot(self) -> dict[str, object]:
        """The probability in force, and requests and accepts in the window; `rejected` is a total."""
        probability, requests, accepts = self._shares.report(CLOCK.now())
        return {
            "rejection_probability": probability,
            "requests": requests,
            "accepts": accepts,
            "rejected": int(self._meter.rejected),
            "totals": self._meter.calls(),
        }

    def count_on(self, older: Throttle, /) -> None:
        self._meter = older._meter

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            self._admit(operation)
            try:
                result = call(args, kwargs)
            except BaseException as error:
                self._failed(error)
                raise
            self._shares.record(CLOCK.now(), accepted=True)
            return result

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            self._admit(operation)
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                self._failed(error)
                raise
            self._shares.record(CLOCK.now(), accepted=True)
            return result

        return guarded

    def scope(self, operation: Operation) -> Scope:
        return _ThrottleScope(self, operation)

    def _admit(self, operation: Operation) -> None:
        now = CLOCK.now()
        probability = self._shares.refuses(now, self._draw())
        if probability is None:
            self._meter.passed += 1
            return
        self._meter.rejected += 1
        self._tell("call_rejected", operation.name, {"rejection_probability": probability}, now)
        raise ThrottledError(
            f"{self._shown()} refused the call: the other side takes on too few of them, so {probability:.0%} are "
            f"refused here. Do without it, or try again later",
            policy=self._name or self.kind,
        )

    def _failed(self, error: BaseException) -> None:
        on = self._settings.on
        if not isinstance(error, Exception) or (isinstance(error, RejectedError) and not names_rejections(on)):
            return
        refused = matches(on, error)
        self._shares.record(CLOCK.now(), accepted=not refused)


class _ThrottleScope(Scope):
    __slots__ = ("_operation", "_throttle")

    def __init__(self, throttle: Throttle, operation: Operation) -> None:
        self._throttle = throttle
        self._operation = operation

    def begin(self) -> None:
        self._throttle._admit(self._operation)

    def end(self, error: BaseException | None) -> None:
        if error is None:
            self._throttle._shares.record(CLOCK.now(), accepted=True)
        else:
            self._throttle._failed(error)


@overload
def throttle(function: F, /) -> F: ...
@overload
def throttle(
    name: str | None = None,
    *,
    k: float = 2.0,
    window: Seconds = 120.0,
    max_rejection: float = 0.9,
    on: Matcher = Exception,
    registry: Registry = ...,
) -> Throttle: ...
def throttle(
    name: Any = None,
    *,
    k: float = 2.0,
    window: Seconds = 120.0,
    max_rejection: float = 0.9,
    on: Matcher = Exception,
    registry: Registry = registry,
) -> Any:
    """Refuse a share of the calls on this side while the other side refuses many.

    A call is refused with probability max(0, (requests - k * accepts) / (requests + 1)), at most `max_rejection`, where
    requests are the calls that ended in the last `window` seconds, those refused here included, and accepts those
    that the other side took on. The rule is that of Google's "Site Reliability Engineering", chapter 21, "Handling
    Overload".

    Unlike a circuit breaker it never stops all calls: enough get through to see that the other side is back.

    Args:
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        k: so many times the calls that the other side accepts may be sent to it, at least 1. Lower refuses more
            eagerly.
        window: seconds over which calls are counted, above 0.
        max_rejection: no greater share is refused, above 0 and at most 1.
        on: exceptions by which the other side refuses; others count as accepted. Rejections by policies inside
            (`RejectedError`) don't count at all, unless `on` is or holds a class of rejections.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    A refused call raises `ThrottledError`, which is a `RejectedError`.

    Example:
        >>> from resilient import throttle
        >>> @throttle(k=1.5)
        ... def recommend(user: str) -> list[str]:
        ...     return ["a book"]
        >>> recommend("anna")
        ['a book']
    """
    if callable(name) or isinstance(name, (staticmethod, classmethod)):
        return throttle()(name)
    check = Checker("throttle", name)
    if isinstance(k, bool) or not isinstance(k, (int, float)) or not 1 <= k < float("inf"):
        refuse(check.policy, "k", k, "a finite number of at least 1")
    settings = ThrottleSettings(
        k=float(k),
        window=check.seconds("window", window),
        max_rejection=check.rate("max_rejection", max_rejection),
        on=check.matcher("on", on),
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Throttle(None, settings, registry)
    return registry.obtain(Throttle.kind, name, lambda: Throttle(name, settings, registry))
