"""Somebody who waits for a permit."""

from __future__ import annotations

from resilient.core.permits import Permits


class Sleeper:
    """Somebody who waits: knows how often it was woken, and may have gone away."""

    def __init__(self, permits: Permits, *, gone: bool = False) -> None:
        self.woken = 0
        self.gone = gone
        place = permits.queue_up(self.wake)
        assert place is not None
        self.place = place

    def wake(self) -> bool:
        self.woken += 1
        return not self.gone
