"""Every metric of the package: the one table from which exporters, the documentation, rules and dashboard are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "updown", "gauge", "histogram"]

PIPELINE: Final = "resilience.pipeline.name"
POLICY: Final = "resilience.policy.name"
OVERFLOW: Final = "otel.metric.overflow"

_UNIT_SUFFIXES: Final = {"s": "seconds", "By": "bytes"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its OpenTelemetry name, kind and unit, its attributes in the order of their values, its meaning."""

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    meaning: str

    @property
    def prometheus_name(self) -> str:
        """The name of the family in Prometheus, by the rules for OpenTelemetry's names; without `_total`."""
        name = self.name.replace(".", "_")
        suffix = _UNIT_SUFFIXES.get(self.unit)
        if self.unit == "1" and self.kind == "gauge":
            suffix = "ratio"
        return name if suffix is None or name.endswith(f"_{suffix}") else f"{name}_{suffix}"

    @property
    def prometheus_samples(self) -> tuple[str, ...]:
        """The names of its samples in a scrape."""
        name = self.prometheus_name
        if self.kind == "counter":
            return (f"{name}_total",)
        if self.kind == "histogram":
            return f"{name}_bucket", f"{name}_count", f"{name}_sum"
        return (name,)


def prometheus_label(attribute: str) -> str:
    return attribute.replace(".", "_")


def _of_policy(name: str, kind: Kind, unit: str, meaning: str, *attributes: str) -> Metric:
    return Metric(f"resilience.{name}", kind, unit, (POLICY, *attributes), meaning)


CALL_DURATION: Final = Metric(
    "resilience.call.duration",
    "histogram",
    "s",
    (PIPELINE, "resilience.outcome", "error.type"),
    "How long guarded calls took, all attempts and waits included, by how they ended",
)
CALL_ACTIVE: Final = Metric("resilience.call.active", "updown", "{call}", (PIPELINE,), "Guarded calls under way")

_ATTEMPT_RESULT: Final = "resilience.attempt.result"
RETRY_ATTEMPTS: Final = _of_policy(
    "retry.attempts", "counter", "{attempt}", "Attempts by how they ended", _ATTEMPT_RESULT
)
RETRY_CALLS: Final = _of_policy(
    "retry.calls", "counter", "{call}", "Calls by what became of them", "resilience.retry.result"
)
RETRY_BACKOFF: Final = _of_policy("retry.backoff.time", "counter", "s", "Time spent waiting for the next attempt")

_CIRCUIT: Final = "resilience.circuit_breaker"
CIRCUIT_STATE: Final = _of_policy(
    "circuit_breaker.state", "updown", "1", "1 for the state it is in, 0 for the others", f"{_CIRCUIT}.state"
)
CIRCUIT_CALLS: Final = _of_policy(
    "circuit_breaker.calls", "counter", "{call}", "Calls by what the breaker made of them", f"{_CIRCUIT}.result"
)
CIRCUIT_TRANSITIONS: Final = _of_policy(
    "circuit_breaker.transitions",
    "counter",
    "{transition}",
    "Changes from one state to another",
    f"{_CIRCUIT}.from",
    f"{_CIRCUIT}.to",
)
CIRCUIT_FAILURE_RATIO: Final = _of_policy(
    "circuit_breaker.failure_ratio",
    "gauge",
    "1",
    "Share of failures in the window; absent below the minimum of calls",
)
CIRCUIT_TIME: Final = _of_policy(
    "circuit_breaker.time", "counter", "s", "Time spent in each state", f"{_CIRCUIT}.state"
)

TIMEOUT_CALLS: Final = _of_policy(
    "timeout.calls", "counter", "{call}", "Calls by whether they were back in time", "resilience.timeout.result"
)
TIMEOUT_ORPHANED: Final = _of_policy(
    "timeout.orphaned", "updown", "{call}", "Bodies that run on after their timeout, on helper threads"
)

BULKHEAD_CALLS: Final = _of_policy(
    "bulkhead.calls", "counter", "{call}", "Calls by how they came to a permit", "resilience.bulkhead.result"
)
BULKHEAD_USAGE: Final = _of_policy("bulkhead.usage", "updown", "{call}", "Calls that hold a permit")
BULKHEAD_LIMIT: Final = _of_policy("bulkhead.limit", "updown", "{call}", "So many calls at once are let in")
BULKHEAD_QUEUE_USAGE: Final = _of_policy("bulkhead.queue.usage", "updown", "{call}", "Calls that wait for a permit")
BULKHEAD_QUEUE_LIMIT: Final = _of_policy("bulkhead.queue.limit", "updown", "{call}", "So many calls may wait")
BULKHEAD_QUEUE_DURATION: Final = _of_policy(
    "bulkhead.queue.duration", "histogram", "s", "How long calls waited for a permit, those refused in the end included"
)

RATE_LIMITER_CALLS: Final = _of_policy(
    "rate_limiter.calls", "counter", "{call}", "Calls by what the limiter did", "resilience.rate_limiter.result"
)
RATE_LIMITER_AVAILABLE: Final = _of_policy("rate_limiter.available", "updown", "{permit}", "Calls that could pass now")
RATE_LIMITER_LIMIT: Final = _of_policy("rate_limiter.limit", "updown", "{permit}", "Calls a period")
RATE_LIMITER_QUEUE_DURATION: Final = _of_policy(
    "rate_limiter.queue.duration", "histogram", "s", "How long calls waited for their turn"
)

FALLBACK_CALLS: Final = _of_policy(
    "fallback.calls",
    "counter",
    "{call}",
    "Calls by whether something stood in for the result",
    "resilience.fallback.result",
)

HEDGE_CALLS: Final = _of_policy(
    "hedge.calls", "counter", "{call}", "Calls by which attempt won", "resilience.hedge.result"
)
HEDGE_ATTEMPTS: Final = _of_policy(
    "hedge.attempts", "counter", "{attempt}", "Attempts by how they ended", _ATTEMPT_RESULT
)

THROTTLE_CALLS: Final = _of_policy(
    "throttle.calls", "counter", "{call}", "Calls by what the throttle did", "resilience.throttle.result"
)
THROTTLE_RATIO: Final = _of_policy(
    "throttle.rejection_ratio", "gauge", "1", "The probability with which a call is refused now"
)

DEGRADATION_LEVEL: Final = _of_policy(
    "degradation.level", "updown", "1", "1 for the level it is at, 0 for the others", "resilience.degradation.level"
)

EXPORT_FAILURES: Final = Metric(
    "resilience.telemetry.export.failures",
    "counter",
    "{export}",
    ("resilience.exporter.name",),
    "Exports that did not arrive",
)
TELEMETRY_OVERFLOW: Final = Metric(
    "resilience.telemetry.overflow",
    "counter",
    "{measurement}",
    ("resilience.metric.name",),
    "What went into the overflow series because a metric had too many",
)

CATALOGUE: Final = (
    CALL_DURATION,
    CALL_ACTIVE,
    RETRY_ATTEMPTS,
    RETRY_CALLS,
    RETRY_BACKOFF,
    CIRCUIT_STATE,
    CIRCUIT_CALLS,
    CIRCUIT_TRANSITIONS,
    CIRCUIT_FAILURE_RATIO,
    CIRCUIT_TIME,
    TIMEOUT_CALLS,
    TIMEOUT_ORPHANED,
    BULKHEAD_CALLS,
    BULKHEAD_USAGE,
    BULKHEAD_LIMIT,
    BULKHEAD_QUEUE_USAGE,
    BULKHEAD_QUEUE_LIMIT,
    BULKHEAD_QUEUE_DURATION,
    RATE_LIMITER_CALLS,
    RATE_LIMITER_AVAILABLE,
    RATE_LIMITER_LIMIT,
    RATE_LIMITER_QUEUE_DURATION,
    FALLBACK_CALLS,
    HEDGE_CALLS,
    HEDGE_ATTEMPTS,
    THROTTLE_CALLS,
    THROTTLE_RATIO,
    DEGRADATION_LEVEL,
    EXPORT_FAILURES,
    TELEMETRY_OVERFLOW,
)
