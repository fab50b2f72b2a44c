"""Resilience and observability for Python services, synchronous and asynchronous alike."""

from __future__ import annotations

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
from resilient.pipeline import Pipeline, pipeline
from resilient.policies.attempts import Attempt
from resilient.policies.base import Policy, subscribe
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.retry import Retry, retry
from resilient.policies.standard import standard_pipeline
from resilient.policies.timeout import Timeout, timeout
from resilient.registry import Registry, registry

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "BulkheadFullError",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "ConfigurationError",
    "Deadline",
    "Event",
    "Pipeline",
    "Policy",
    "RateLimitedError",
    "Registry",
    "RejectedError",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "RetryExhaustedError",
    "ThrottledError",
    "Timeout",
    "TimeoutExceededError",
    "circuit_breaker",
    "current_deadline",
    "pipeline",
    "registry",
    "retry",
    "standard_pipeline",
    "subscribe",
    "timeout",
]
