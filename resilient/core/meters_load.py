"""Meters of the policies that limit load: `resilience.rate_limiter.*` and what the throttle refused."""

from __future__ import annotations

from resilient.core.meters import Histogram, Meter, number


class RateLimiterMeter(Meter):
    """`resilience.rate_limiter.*` of one policy."""

    __slots__ = ("allowed", "delayed", "queue", "rejected")

    def __init__(self) -> None:
        self.allowed = number()
        self.delayed = number()
        self.rejected = number()
        self.queue = Histogram()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.rate_limiter.result`."""
        return {"allowed": int(self.allowed), "delayed": int(self.delayed), "rejected": int(self.rejected)}


class ThrottleMeter(Meter):
    """What a throttle let pass and what it refused."""

    __slots__ = ("passed", "rejected")

    def __init__(self) -> None:
        self.passed = number()
        self.rejected = number()

    def calls(self) -> dict[str, int]:
        return {"passed": int(self.passed), "rejected": int(self.rejected)}
