"""The rate limiters of all libraries behind one face: so many calls in so many seconds, and a call that may not pass is
refused at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peer_bugs.tables import OURS

Limiter = Callable[[], Awaitable[bool]]
Maker = Callable[[int, int], Limiter]


def of_policy(policy: Any, refusal: Callable[[], type[Exception]]) -> Limiter:
    async def admit() -> bool:
        try:
            policy()
        except refusal():
            return False
        return True

    return admit


def ours(limit: int, period: int) -> Limiter:
    from resilient import RateLimitedError, Registry, rate_limiter

    return of_policy(
        rate_limiter(limit=limit, period=period, registry=Registry())(lambda: None), lambda: RateLimitedError
    )


def pyresilience_(limit: int, period: int) -> Limiter:
    from pyresilience import RateLimiterConfig, RateLimitExceededError, resilient

    config = RateLimiterConfig(max_calls=limit, period=period)
    return of_policy(resilient(rate_limiter=config)(lambda: None), lambda: RateLimitExceededError)


def hyx_(limit: int, period: int) -> Limiter:
    from hyx.ratelimit import tokenbucket
    from hyx.ratelimit.exceptions import RateLimitExceeded

    bucket = tokenbucket(max_executions=limit, per_time_secs=period)

    async def admit() -> bool:
        try:
            async with bucket:
                return True
        except RateLimitExceeded:
            return False

    return admit


def aiolimiter_(limit: int, period: int) -> Limiter:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(limit, period)

    async def admit() -> bool:
        if not limiter.has_capacity():
            return False
        await limiter.acquire()
        return True

    return admit


def limits_(strategy: str) -> Maker:
    def make(limit: int, period: int) -> Limiter:
        from limits import RateLimitItemPerSecond, storage, strategies

        limiter = getattr(strategies, strategy)(storage.MemoryStorage())
        item = RateLimitItemPerSecond(limit, period)

        async def admit() -> bool:
            return bool(limiter.hit(item, "peer"))

        return admit

    return make


def pyrate_(limit: int, period: int) -> Limiter:
    from pyrate_limiter import Duration, Limiter, Rate

    limiter = Limiter(Rate(limit, Duration.SECOND * period))

    async def admit() -> bool:
        return bool(limiter.try_acquire("peer", blocking=False))

    return admit


LIMITERS: dict[tuple[str, str], Maker] = {
    (OURS, "rate_limiter"): ours,
    ("hyx", "tokenbucket"): hyx_,
    ("pyresilience", "rate_limiter"): pyresilience_,
    ("aiolimiter", "AsyncLimiter"): aiolimiter_,
    ("limits", "FixedWindow"): limits_("FixedWindowRateLimiter"),
    ("limits", "MovingWindow"): limits_("MovingWindowRateLimiter"),
    ("pyrate-limiter", "Limiter"): pyrate_,
}
