"""Degradable: a feature that serves something less while it is turned off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn, Protocol, TypeVar

from resilient.decorate import name_of
from resilient.operation import Args, AsyncCall, Call, Kwargs, Operation, Served, SyncCall
from resilient.policies.fallback import Fallback, FallbackSettings

D = TypeVar("D")

_NO_BLOCK: Final = (
    "a degradable feature can't be used as a block, because a block has no result to replace. Decorate a function, or "
    "ask: if degradation.is_active(...): ..."
)


class Features(Protocol):
    """What knows which features are turned on."""

    def is_active(self, feature: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class DegradableSettings(FallbackSettings):
    """What `Degradation.degradable(...)` was given, checked."""

    degradation: Features
    feature: str


class Degradable(Fallback[D]):
    """A feature with results of type `D` while it is off; made by `Degradation.degradable(...)`.

    The function is not called then. What it raises while the feature is on passes through.
    """

    __slots__ = ()

    kind: ClassVar[str] = "degradable"

    def __enter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def snapshot(self) -> dict[str, object]:
        """The feature, and calls by result, as totals; `applied` are those that were served the fallback."""
        return {"feature": self._settings.feature, **super().snapshot()}

    def refusal(self, use: str) -> str | None:
        return _NO_BLOCK if use.startswith("block") else super().refusal(use)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        operation.expect_fallback()
        meter, feature, is_active = self._meter, self._settings.feature, self._settings.degradation.is_active

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if not is_active(feature):
                return self._serve(None, args, kwargs, operation)
            meter.not_needed += 1
            return call(args, kwargs)

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        operation.expect_fallback()
        meter, feature, is_active = self._meter, self._settings.feature, self._settings.degradation.is_active

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if not is_active(feature):
                return await self._serve_async(None, args, kwargs, operation)
            meter.not_needed += 1
            return await call(args, kwargs)

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> None:
        """No line is straight here: a feature may be off before the call."""

    def _needs_async(self, handler: Any) -> str:
        return (
            f"{self._shown()}: the fallback {name_of(handler)} is async, but the guarded function is not, so nobody "
            f"would await it: give a plain function as the fallback, or guard an `async def`"
        )

    def _applied(self, value: object, error: Exception | None, operation: Operation) -> Served:
        # No event for each call: the change of level has told what there is to tell.
        self._meter.applied += 1
        return Served(value)
