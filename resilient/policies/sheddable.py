"""Sheddable: work that is refused under pressure, the least important first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Protocol

from resilient.core.meters_load import ThrottleMeter
from resilient.errors import RejectedError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, Scope, SyncCall
from resilient.policies.base import Policy
from resilient.registry import Registry

Priority = Literal["critical", "standard", "best_effort", "bulk"]

PRIORITIES: Final = ("critical", "standard", "best_effort", "bulk")
"""From the most to the least important; the first is never refused."""


class Shedding(Protocol):
    """What knows which work is refused."""

    @property
    def level(self) -> str: ...

    def sheds(self, priority: Priority, /) -> bool: ...


def refused_at(level: int, highest: int) -> frozenset[str]:
    """The priorities that are refused at a level: in proportion, rounded up; at the highest all but the first."""
    count = -(-(len(PRIORITIES) - 1) * level // highest)
    return frozenset(PRIORITIES[len(PRIORITIES) - count :])


@dataclass(frozen=True, slots=True)
class SheddableSettings:
    """What `Degradation.sheddable(...)` was given, checked."""

    degradation: Shedding
    priority: Priority


class Sheddable(Policy):
    """Work of one priority; made by `Degradation.sheddable(...)`."""

    __slots__ = ("_meter",)

    kind: ClassVar[str] = "sheddable"

    def __init__(self, name: str | None, settings: SheddableSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._meter = ThrottleMeter()

    def snapshot(self) -> dict[str, object]:
        """The priority, and calls by what became of them, as totals."""
        return {
            "priority": self._settings.priority,
            "rejected": int(self._meter.rejected),
            "totals": self._meter.calls(),
        }

    def count_on(self, older: Sheddable, /) -> None:
        self._meter = older._meter

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            self._admit(operation)
            return call(args, kwargs)

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            self._admit(operation)
            return await call(args, kwargs)

        return guarded

    def scope(self, operation: Operation) -> Scope:
        return _SheddableScope(self, operation)

    def _admit(self, operation: Operation) -> None:
        settings = self._settings
        if not settings.degradation.sheds(settings.priority):
            self._meter.passed += 1
            return
        self._meter.rejected += 1
        level = settings.degradation.level
        self._tell("call_rejected", operation.name, {"priority": settings.priority, "level": level})
        raise RejectedError(
            f"{self._shown()} refused the call: at level {level!r} there is no room for {settings.priority} work. Do "
            f"without it, or try again later",
            policy=self._name or self.kind,
        )


class _SheddableScope(Scope):
    __slots__ = ("_operation", "_sheddable")

    def __init__(self, sheddable: Sheddable, operation: Operation) -> None:
        self._sheddable = sheddable
        self._operation = operation

    def begin(self) -> None:
        self._sheddable._admit(self._operation)
