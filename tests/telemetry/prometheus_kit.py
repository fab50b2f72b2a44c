"""A run over all kinds of policies whose numbers are known, and ways to look at what a scrape makes of it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from resilient import (
    Registry,
    bulkhead,
    circuit_breaker,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    throttle,
    timeout,
)
from resilient.backoff import constant
from resilient.telemetry.collecting import Collector, Distribution
from resilient.telemetry.exporters import register_exporter, unregister_exporter
from resilient.telemetry.prometheus import PrometheusExporter
from resilient.testing import FakeClock

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
POLICY = "resilience_policy_name"
ACCEPTED = "resilience_bulkhead_calls_total", (("resilience_bulkhead_result", "accepted"), (POLICY, "files"))
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def scripted(registry: Registry, clock: FakeClock) -> None:
    """Calls of every kind of policy. What takes time takes binary fractions of seconds, so that sums are exact."""

    def take(seconds: float) -> float:
        clock.advance(seconds)
        return seconds

    def fail(error: type[Exception], seconds: float = 0.0) -> None:
        clock.advance(seconds)
        raise error

    again = retry(on=ConnectionError, attempts=3, backoff=constant(0.5), registry=registry)
    breaker = circuit_breaker(consecutive_failures=4, registry=registry)
    payments = pipeline("payments", again, breaker, registry=registry)
    for _ in range(4):
        payments.call(take, 0.25)
    flaky = iter([ConnectionError])
    payments.call(lambda: fail(next(flaky)) if flaky.__length_hint__() else take(0.25))
    with suppress(ValueError):
        payments.call(fail, ValueError, 0.125)
    with suppress(ConnectionError):
        payments.call(fail, ConnectionError)
    for _ in range(3):
        with suppress(Exception):
            payments.call(take, 1.0)

    limit = timeout(1.0, interrupt="never", name="slow", registry=registry)
    limit.call(take, 0.5)
    with suppress(TimeoutError):
        limit.call(take, 1.5)

    files = bulkhead("files", max_concurrent=1, registry=registry)
    with suppress(Exception):
        files.call(files.call, take, 1.0)

    api = rate_limiter("api", limit=2, period=1.0, max_wait=0.5, registry=registry)
    for _ in range(4):
        with suppress(Exception):
            api.call(take, 0.0)

    stand_in = fallback(default=0.0, on=KeyError, name="cache", registry=registry)
    stand_in.call(take, 0.0)
    stand_in.call(fail, KeyError)

    twice = hedge(delay=60, name="search", registry=registry)
    first = iter([OSError])
    twice.call(lambda: fail(next(first)) if first.__length_hint__() else take(0.0))
    with suppress(OSError):
        twice.call(fail, OSError)

    throttle("shop", registry=registry).call(take, 0.0)


# What `scripted` leaves, counted by hand.
COUNTS: dict[str, dict[tuple[str, ...], float]] = {
    "resilience_retry_calls_total": {
        ("payments", "first_try"): 4,
        ("payments", "recovered"): 1,
        ("payments", "not_retryable"): 4,
        ("payments", "exhausted"): 1,
        ("payments", "budget"): 0,
        ("payments", "deadline"): 0,
    },
    "resilience_retry_attempts_total": {
        ("payments", "success"): 5,
        ("payments", "retryable_failure"): 4,
        ("payments", "failure"): 4,
    },
    "resilience_retry_backoff_time_seconds_total": {("payments",): 1.5},
    "resilience_circuit_breaker_calls_total": {
        ("payments", "success"): 5,
        ("payments", "failure"): 5,
        ("payments", "slow"): 0,
        ("payments", "ignored"): 0,
        ("payments", "rejected"): 3,
    },
    "resilience_circuit_breaker_state": {
        ("payments", "closed"): 0,
        ("payments", "open"): 1,
        ("payments", "half_open"): 0,
        ("payments", "forced_open"): 0,
        ("payments", "disabled"): 0,
    },
    "resilience_timeout_calls_total": {("slow", "completed"): 1, ("slow", "timed_out"): 1},
    "resilience_bulkhead_calls_total": {
        ("files", "accepted"): 1,
        ("files", "queued"): 0,
        ("files", "rejected"): 1,
        ("files", "queue_timeout"): 0,
    },
    "resilience_bulkhead_limit": {("files",): 1},
    "resilience_bulkhead_usage": {("files",): 0},
    "resilience_rate_limiter_calls_total": {("api", "allowed"): 2, ("api", "delayed"): 2, ("api", "rejected"): 0},
    "resilience_fallback_calls_total": {("cache", "not_needed"): 1, ("cache", "applied"): 1, ("cache", "failed"): 0},
    "resilience_hedge_calls_total": {
        ("search", "not_hedged"): 0,
        ("search", "primary_won"): 0,
        ("search", "hedge_won"): 1,
        ("search", "failed"): 1,
    },
    "resilience_hedge_attempts_total": {
        ("search", "won"): 1,
        ("search", "lost"): 0,
        ("search", "failed"): 3,
        ("search", "cancelled"): 0,
    },
    "resilience_throttle_calls_total": {("shop", "passed"): 1, ("shop", "rejected"): 0},
    "resilience_throttle_rejection_ratio": {("shop",): 0},
}
DURATIONS: dict[tuple[str, str, str | None], list[float]] = {
    ("payments", "success", None): [0.25, 0.25, 0.25, 0.25, 0.75],
    ("payments", "failure", "ValueError"): [0.125],
    ("payments", "failure", "ConnectionError"): [1.0],
    ("payments", "rejected", "resilient.errors.CircuitOpenError"): [0.0, 0.0, 0.0],
    ("slow", "success", None): [0.5],
    ("slow", "timeout", "resilient.errors.TimeoutExceededError"): [1.5],
}


@contextmanager
def exported(counted: Registry, /, **settings: Any) -> Iterator[PrometheusExporter]:
    """Registered for a while, with a prometheus_client registry of its own unless one is given."""
    settings.setdefault("registry", CollectorRegistry())
    exporter = register_exporter(PrometheusExporter(**settings), registry=counted)
    try:
        yield exporter
    finally:
        unregister_exporter(exporter)


def series_of(metrics: Iterable[Metric]) -> Series:
    """All samples of families, however they came; no series twice."""
    found: Series = {}
    for metric in metrics:
        for sample in metric.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def expected(registry: Registry) -> Series:
    """The samples that a scrape has to have, made from the catalogue's names alone."""
    found: Series = {}
    for family in Collector(registry).collect():
        samples = family.metric.prometheus_samples
        for attributes, value in family.series.items():
            labels = [(name.replace(".", "_"), text) for name, text in attributes]
            if not isinstance(value, Distribution):
                found[samples[0], tuple(sorted(labels))] = value
                continue
            for number, bound in enumerate((*map(str, value.bounds), "+Inf"), start=1):
                bucket = tuple(sorted([*labels, ("le", bound)]))
                found[samples[0], bucket] = sum(value.counts[:number])
            found[samples[1], tuple(sorted(labels))] = value.count
            found[samples[2], tuple(sorted(labels))] = value.sum
    return found


def scrape(port: int | None, accept: str = "text/plain", query: str = "") -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics{query}", headers={"Accept": accept})
    with opener.open(request, timeout=10.0) as answer:
        text: str = answer.read().decode()
        return text


def summed(folder: Path) -> Series:
    """What an endpoint of the application's shows of us."""
    collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    return {key: value for key, value in series_of(collector.collect()).items() if key[0].startswith("resilience_")}


def value(folder: Path, name: str, **labels: str) -> float | None:
    return summed(folder).get((name, tuple(sorted(labels.items()))))


def accepted_calls(folder: Path) -> float:
    """Calls that the bulkhead `files` has let in, in all processes."""
    return summed(folder).get(ACCEPTED, 0)
