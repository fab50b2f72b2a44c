"""The newest events, of each kind so many: what comes with every call must not drive out what comes once a day."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from resilient.core.clock import CLOCK
from resilient.core.events import EVERYTHING, KINDS, Event
from resilient.health.responses import timestamp
from resilient.telemetry.redaction import REDACTOR

KEPT: Final = 100


class RecentEvents:
    """A bounded ring of events for each kind."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: dict[str, deque[tuple[Event, str]]] = {kind: deque(maxlen=KEPT) for kind in KINDS}

    def listen(self) -> Callable[[], None]:
        """Keep all events from now on; gives back what ends it."""
        return EVERYTHING.add(self.keep, None, None)

    def keep(self, event: Event) -> None:
        self._rings[event.kind].append((event, timestamp()))

    def newest(self, count: int) -> list[dict[str, object]]:
        """The newest events, in plain values, the newest first."""
        kept = [entry for ring in self._rings.values() for entry in ring.copy()]
        kept.sort(key=lambda entry: entry[0].at, reverse=True)
        now = CLOCK.now()
        return [
            {
                "kind": event.kind,
                "policy_kind": event.policy_kind,
                "policy": event.policy,
                "operation": event.operation,
                "timestamp": at,
                "seconds_ago": round(max(0.0, now - event.at), 3),
                "data": REDACTOR.fields(event.data),
            }
            for event, at in kept[:count]
        ]
