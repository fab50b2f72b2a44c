"""What each kind of policy has to say to each metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from resilient.core.circuit_plan import CircuitState
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.throttle import Throttle
from resilient.policies.timeout import Timeout
from resilient.registry import Registry
from resilient.telemetry import catalogue as m
from resilient.telemetry.collecting import Reading, distribution

_USUAL_TRANSITIONS: Final = ("closed->open", "open->half_open", "half_open->open", "half_open->closed")


def readings(registry: Registry) -> Iterator[Reading]:
    """Every value of every policy and pipeline of a registry."""
    for name, meter in registry.call_meters().items():
        ended = 0
        for (outcome, error), histogram in meter.durations().items():
            durations = distribution(histogram)
            ended += durations.count
            yield m.CALL_DURATION, (name, outcome, error), durations
        yield m.CALL_ACTIVE, (name,), max(0, int(meter.started) - ended)
    for policy in registry:
        read = _READERS.get(policy.kind)
        if read is not None and policy.name is not None:
            yield from read(policy.name, policy)


def _retry(name: str, policy: Retry) -> Iterator[Reading]:
    meter = policy._meter
    for result, count in meter.attempts().items():
        yield m.RETRY_ATTEMPTS, (name, result), count
    for result, count in meter.calls().items():
        yield m.RETRY_CALLS, (name, result), count
    yield m.RETRY_BACKOFF, (name,), float(meter.waited)


def _circuit_breaker(name: str, policy: CircuitBreaker) -> Iterator[Reading]:
    snapshot: Any = policy.snapshot()
    for state in CircuitState:
        yield m.CIRCUIT_STATE, (name, state.value), int(snapshot["state"] == state.value)
    for result, count in snapshot["totals"].items():
        yield m.CIRCUIT_CALLS, (name, result), count
    for change, count in {**dict.fromkeys(_USUAL_TRANSITIONS, 0), **snapshot["transitions"]}.items():
        yield m.CIRCUIT_TRANSITIONS, (name, *change.split("->")), count
    if snapshot["failure_rate"] is not None:
        yield m.CIRCUIT_FAILURE_RATIO, (name,), snapshot["failure_rate"]
    for state, seconds in snapshot["time_in_state"].items():
        yield m.CIRCUIT_TIME, (name, state), seconds


def _timeout(name: str, policy: Timeout) -> Iterator[Reading]:
    for result, count in policy._meter.calls().items():
        yield m.TIMEOUT_CALLS, (name, result), count
    yield m.TIMEOUT_ORPHANED, (name,), int(policy._meter.orphaned)


def _bulkhead(name: str, policy: Bulkhead) -> Iterator[Reading]:
    for result, count in policy._meter.calls().items():
        yield m.BULKHEAD_CALLS, (name, result), count
    usage = policy.usage()
    yield m.BULKHEAD_USAGE, (name,), usage.in_flight
    yield m.BULKHEAD_LIMIT, (name,), usage.limit
    yield m.BULKHEAD_QUEUE_USAGE, (name,), usage.queued
    yield m.BULKHEAD_QUEUE_LIMIT, (name,), usage.max_queue
    yield m.BULKHEAD_QUEUE_DURATION, (name,), distribution(policy._meter.queue)


def _rate_limiter(name: str, policy: RateLimiter) -> Iterator[Reading]:
    snapshot: Any = policy.snapshot()
    for result, count in snapshot["totals"].items():
        yield m.RATE_LIMITER_CALLS, (name, result), count
    yield m.RATE_LIMITER_AVAILABLE, (name,), snapshot["available"]
    yield m.RATE_LIMITER_LIMIT, (name,), snapshot["limit"]
    yield m.RATE_LIMITER_QUEUE_DURATION, (name,), distribution(policy._meter.queue)


def _fallback(name: str, policy: Any) -> Iterator[Reading]:
    for result, count in policy._meter.calls().items():
        yield m.FALLBACK_CALLS, (name, result), count


def _hedge(name: str, policy: Any) -> Iterator[Reading]:
    for result, count in policy._meter.calls().items():
        yield m.HEDGE_CALLS, (name, result), count
    for result, count in policy._meter.attempts().items():
        yield m.HEDGE_ATTEMPTS, (name, result), count


def _throttle(name: str, policy: Throttle) -> Iterator[Reading]:
    snapshot: Any = policy.snapshot()
    for result, count in snapshot["totals"].items():
        yield m.THROTTLE_CALLS, (name, result), count
    yield m.THROTTLE_RATIO, (name,), snapshot["rejection_probability"]


def _degradation(name: str, policy: Any) -> Iterator[Reading]:
    # A scrape is a use: without it, a service that nobody calls would show its last level for ever.
    now = policy.level
    for level in policy.levels:
        yield m.DEGRADATION_LEVEL, (name, level), int(level == now)


_READERS: Final[dict[str, Callable[[str, Any], Iterator[Reading]]]] = {
    "retry": _retry,
    "circuit_breaker": _circuit_breaker,
    "timeout": _timeout,
    "bulkhead": _bulkhead,
    "rate_limiter": _rate_limiter,
    "fallback": _fallback,
    "stale": _fallback,
    "failover": _fallback,
    "hedge": _hedge,
    "throttle": _throttle,
    "degradation": _degradation,
}
