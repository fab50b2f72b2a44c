"""Resilience and observability for Python services, synchronous and asynchronous alike."""

from __future__ import annotations

from resilient.core.adaptive import adaptive
from resilient.core.budget import RetryBudget
from resilient.core.circuit_plan import CircuitState
from resilient.core.deadline import Deadline, current_deadline
from resilient.core.events import Event
from resilient.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConfigurationError,
    RateLimitedError,
    RejectedError,
    ResilienceError,
    RetryExhaustedError,
    ThrottledError,
    TimeoutExceededError,
)
from resilient.patching import patch, unpatch
from resilient.pipeline import Pipeline, pipeline
from resilient.policies.attempts import Attempt
from resilient.policies.base import Policy, subscribe
from resilient.policies.bulkhead import Bulkhead, bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.failover import Failover, failover
from resilient.policies.fallback import Fallback, fallback
from resilient.policies.hedge import Hedge, hedge, percentile
from resilient.policies.rate_limiter import RateLimiter, rate_limiter
from resilient.policies.retry import Retry, retry
from resilient.policies.stale import Stale, stale
from resilient.policies.standard import standard_pipeline
from resilient.policies.throttle import Throttle, throttle
from resilient.policies.timeout import Timeout, timeout
from resilient.registry import Registry, registry

__version__ = "0.1.0"

# On one screen.
# fmt: off
__all__ = [
    "Attempt", "Bulkhead", "BulkheadFullError", "CircuitBreaker", "CircuitOpenError", "CircuitState",
    "ConfigurationError", "Deadline", "Event", "Failover", "Fallback", "Hedge", "Pipeline", "Policy",
    "RateLimitedError", "RateLimiter", "Registry", "RejectedError", "ResilienceError", "Retry", "RetryBudget",
    "RetryExhaustedError", "Stale", "Throttle", "ThrottledError", "Timeout", "TimeoutExceededError", "adaptive",
    "bulkhead", "circuit_breaker", "current_deadline", "failover", "fallback", "hedge", "patch", "percentile",
    "pipeline", "rate_limiter", "registry", "retry", "stale", "standard_pipeline", "subscribe", "throttle", "timeout",
    "unpatch",
]
# fmt: on
