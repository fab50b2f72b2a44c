"""Resilience and observability for Python services, synchronous and asynchronous alike."""

# ruff: noqa: I001 - on one screen
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from resilient.core.adaptive import adaptive
from resilient.core.budget import RetryBudget
from resilient.core.circuit_plan import CircuitState
from resilient.core.deadline import Deadline, current_deadline
from resilient.core.events import Event

# fmt: off
from resilient.errors import (
    BulkheadFullError, CircuitOpenError, ConfigurationError, RateLimitedError, RejectedError, ResilienceError,
    RetryExhaustedError, ThrottledError, TimeoutExceededError,
)
from resilient.patching import patch, unpatch
from resilient.pipeline import Pipeline, pipeline
from resilient.policies.attempts import Attempt
from resilient.policies.base import Policy, subscribe
from resilient.policies.bulkhead import Bulkhead, bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.failover import Failover, failover
from resilient.policies.fallback import Fallback, fallback
from resilient.policies.hedge import Hedge, hedge
from resilient.policies.hedge_settings import percentile
from resilient.policies.rate_limiter import RateLimiter, rate_limiter
from resilient.policies.recover import Recover, recover
from resilient.policies.retry import Retry, retry
from resilient.policies.stale import Stale, stale
from resilient.policies.standard import standard_pipeline
from resilient.policies.throttle import Throttle, throttle
from resilient.policies.timeout import Timeout, timeout
from resilient.registry import Registry, registry
from resilient.telemetry import logs as _logs, spans as _spans
from resilient.telemetry.observed import observed

if TYPE_CHECKING:
    from resilient.degradation import Degradation
    from resilient.telemetry.app import counter, gauge, histogram, timer
    from resilient.telemetry.buckets import duration_buckets
    from resilient.telemetry.exporters import Exporter, register_exporter, shutdown, unregister_exporter
    from resilient.telemetry.log_setup import configure_logging
    from resilient.telemetry.otlp import OTLPExporter
    from resilient.telemetry.process import observe_process
    from resilient.telemetry.prometheus import PrometheusExporter

__version__ = "0.1.0"
_LOOKING_ON = _logs, _spans  # they have put themselves where policies look

__all__ = [
    "Attempt", "Bulkhead", "BulkheadFullError", "CircuitBreaker", "CircuitOpenError", "CircuitState",
    "ConfigurationError", "Deadline", "Degradation", "Event", "Exporter", "Failover", "Fallback", "Hedge",
    "OTLPExporter", "Pipeline", "Policy", "PrometheusExporter", "RateLimitedError", "RateLimiter", "Recover",
    "Registry", "RejectedError", "ResilienceError", "Retry", "RetryBudget", "RetryExhaustedError", "Stale", "Throttle",
    "ThrottledError", "Timeout", "TimeoutExceededError", "adaptive", "bulkhead", "circuit_breaker", "configure_logging",
    "counter", "current_deadline", "duration_buckets", "failover", "fallback", "gauge", "hedge", "histogram",
    "observe_process", "observed", "patch", "percentile", "pipeline", "rate_limiter", "recover", "register_exporter",
    "registry", "retry", "shutdown", "stale", "standard_pipeline", "subscribe", "throttle", "timeout", "timer",
    "unpatch", "unregister_exporter",
]
_LATER = {
    "Degradation": "degradation", "Exporter": "telemetry.exporters", "OTLPExporter": "telemetry.otlp",
    "PrometheusExporter": "telemetry.prometheus", "configure_logging": "telemetry.log_setup",
    "counter": "telemetry.app", "duration_buckets": "telemetry.buckets", "gauge": "telemetry.app",
    "histogram": "telemetry.app", "observe_process": "telemetry.process", "register_exporter": "telemetry.exporters",
    "shutdown": "telemetry.exporters", "timer": "telemetry.app", "unregister_exporter": "telemetry.exporters",
}
# fmt: on


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"resilient.{_LATER[name]}"), name)
    globals()[name] = value
    return value
