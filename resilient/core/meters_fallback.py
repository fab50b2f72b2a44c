"""Meters of the policies that serve something else in the place of a failed call: `resilience.fallback.*`."""

from __future__ import annotations

from resilient.core.meters import Meter, number


class FallbackMeter(Meter):
    """`resilience.fallback.calls` of one policy. A call that ends in an error which `on` leaves alone needs none."""

    __slots__ = ("applied", "failed", "not_needed")

    def __init__(self) -> None:
        self.not_needed = number()
        self.applied = number()
        self.failed = number()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.fallback.result`."""
        return {"not_needed": int(self.not_needed), "applied": int(self.applied), "failed": int(self.failed)}


class CacheMeter(FallbackMeter):
    """The same for a cache of last good results, and how often the function was spared."""

    __slots__ = ("from_memory", "shared")

    def __init__(self) -> None:
        super().__init__()
        self.from_memory = number()
        self.shared = number()


class FailoverMeter(FallbackMeter):
    """The same for providers that stand in for each other, and how many calls each of them served."""

    __slots__ = ("served",)

    def __init__(self, providers: tuple[str, ...]) -> None:
        super().__init__()
        self.served: dict[str, int] = {}
        self.add(providers)

    def add(self, providers: tuple[str, ...]) -> None:
        for provider in providers:
            self.served.setdefault(provider, number())
