"""The policies of the guarded client: some around its calls, some around each of the two servers that it may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import Final

from resilient.core.budget import RetryBudget
from resilient.demo.http import Answer, BadStatus
from resilient.demo.script import ATTEMPT_TIMEOUT, WORKERS, Pace
from resilient.errors import RejectedError
from resilient.pipeline import pipeline
from resilient.policies.bulkhead import bulkhead
from resilient.policies.circuit_breaker import circuit_breaker
from resilient.policies.failover import failover
from resilient.policies.fallback import fallback
from resilient.policies.hedge import hedge
from resilient.policies.hedge_settings import percentile
from resilient.policies.rate_limiter import rate_limiter
from resilient.policies.retry import retry
from resilient.policies.stale import stale
from resilient.policies.throttle import throttle
from resilient.policies.timeout import timeout
from resilient.registry import Registry

NAME: Final = "inventory"
PRIMARY: Final = f"{NAME}.primary"
REPLICA: Final = f"{NAME}.replica"

ATTEMPTS: Final = 5
CONNECTIONS: Final = 8
REPLICA_RATE: Final = 10

UNKNOWN: Final = Answer("nobody knows", inf)
"""What the fallback serves."""

Ask = Callable[[int, int], Awaitable[Answer]]


def guard(primary: Ask, replica: Ask, pace: Pace, seed: int, registry: Registry) -> Ask:
    """A function that asks the primary, or else the replica, with every policy around it."""
    budget = RetryBudget(ratio=0.2, min_per_second=3.0, window=pace.window)
    either = failover(
        ("primary", _to_primary(primary, pace, budget, registry)),
        ("replica", _to_replica(replica, pace, registry)),
        on=(OSError, RejectedError),
        name=NAME,
        registry=registry,
    )
    around = pipeline(
        NAME,
        fallback(default=UNKNOWN, on=(OSError, BadStatus, RejectedError, ExceptionGroup), registry=registry),
        stale(ttl=0, max_stale=pace.memory, key=_item, registry=registry),
        throttle(window=pace.window, registry=registry),
        timeout(pace.total_timeout, registry=registry),
        # Where both servers failed there is nobody left to ask again.
        retry(on=BadStatus, attempts=ATTEMPTS, backoff=_backoff(seed), budget=budget, registry=registry),
        registry=registry,
    )
    return around(either)


def _to_primary(ask: Ask, pace: Pace, budget: RetryBudget, registry: Registry) -> Ask:
    circuit_breaker(
        PRIMARY,
        # More than the workers could bring about at once, if this process stands still for a moment.
        consecutive_failures=2 * WORKERS,
        failure_rate=0.6,
        window_calls=100,
        minimum_calls=50,
        open_duration=pace.open_duration,
        half_open_calls=2,
        registry=registry,
    )
    return pipeline(
        PRIMARY,
        # A third of the answers may be slow: a delay that they have a part in would grow with them. No answer of a
        # healthy upstream takes as long as the minimum. A 503 is for the retry, which waits before it asks again.
        hedge(delay=percentile(0.6, minimum=0.08), on=TimeoutError, budget=budget, registry=registry),
        bulkhead(max_concurrent=CONNECTIONS, registry=registry),
        timeout(ATTEMPT_TIMEOUT, registry=registry),
        registry=registry,
    )(ask)


def _to_replica(ask: Ask, pace: Pace, registry: Registry) -> Ask:
    circuit_breaker(REPLICA, consecutive_failures=2 * WORKERS, open_duration=pace.open_duration, registry=registry)
    return pipeline(
        REPLICA,
        rate_limiter(limit=REPLICA_RATE, burst=2, max_wait=0.1, registry=registry),
        timeout(ATTEMPT_TIMEOUT, registry=registry),
        registry=registry,
    )(ask)


def _item(item: int, user: int) -> int:
    """Stock is the same for every user."""
    return item


def _backoff(seed: int) -> Callable[[int], float]:
    random = Random(f"{seed} backoff")

    def backoff(attempt: int) -> float:
        """`exponential(initial=0.05, max=0.4)`, its jitter drawn from the seed."""
        return random.uniform(0.0, min(0.4, 0.05 * 2.0 ** (attempt - 1)))

    return backoff
