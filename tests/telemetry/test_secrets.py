"""A password goes through every place of failing calls, and is found in nothing that leaves the process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import StringIO
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from resilient import (
    OTLPExporter,
    PrometheusExporter,
    Registry,
    bulkhead,
    circuit_breaker,
    configure_logging,
    context,
    failover,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    register_exporter,
    retry,
    stale,
    throttle,
    timeout,
    unregister_exporter,
)
from resilient.testing import record_events
from tests.receivers.otlp import OtlpReceiver
from tests.telemetry.untouched import untouched_logging

PASSWORD = "hunter2-5ecret"


class Refused(ConnectionError):
    def __init__(self) -> None:
        super().__init__(f"https://bob:{PASSWORD}@db.example/?token={PASSWORD}")
        self.headers = {"Authorization": f"Bearer {PASSWORD}", "Retry-After": PASSWORD}


def ask(password: str, *, headers: dict[str, str], works: bool = False) -> str:
    if not works:
        raise Refused
    return f"your password is {password}"


async def ask_async(password: str, *, headers: dict[str, str], works: bool = False) -> str:
    return ask(password, headers=headers, works=works)


def key(password: str, **rest: object) -> str:
    return password


def policies(registry: Registry) -> list[Any]:
    quick = retry(attempts=2, backoff=0.001, name="retry", registry=registry)
    return [
        pipeline(
            "line", quick, circuit_breaker(consecutive_failures=2, registry=registry), timeout(5, registry=registry)
        ),
        circuit_breaker("keyed", key=key, consecutive_failures=1, registry=registry),
        bulkhead("room", key=key, registry=registry),
        rate_limiter("limiter", limit=1, period=60, key=key, registry=registry),
        throttle("throttle", k=1.0, registry=registry),
        fallback(default=PASSWORD, name="default", registry=registry),
        fallback(ask, name="handler", registry=registry),
        stale(0, 60, key=key, name="stale", registry=registry),
        hedge(delay=0.001, name="hedge", registry=registry),
    ]


def run(guarded: Callable[..., Any], *args: Any, **kwargs: Any) -> object:
    return asyncio.run(guarded(*args, **kwargs))


def call_everything(registry: Registry) -> None:
    secrets: dict[str, Any] = {"headers": {"Authorization": PASSWORD}}
    calls: list[Callable[..., object]] = [
        failover(("one", ask), ("two", ask), name="failover", registry=registry),
    ]
    for policy in policies(registry):
        calls += [policy(ask), partial(run, policy(ask_async))]
    for call in calls:
        for works in (True, False, False, True):
            with suppress(Exception):
                call(PASSWORD, works=works, **secrets)


@pytest.mark.realtime
def test_a_password_leaves_by_no_door(otlp: OtlpReceiver) -> None:
    registry, scraped, written = Registry(), CollectorRegistry(), StringIO()
    exporters = [PrometheusExporter(registry=scraped), OTLPExporter(otlp.http_endpoint, protocol="http/protobuf")]
    with untouched_logging():
        configure_logging(service="shop", level="DEBUG", stream=written)
        for exporter in exporters:
            register_exporter(exporter, registry=registry)
        with record_events() as events, context.bind(request_id=context.from_headers({"X-Request-ID": "r-1"})):
            call_everything(registry)
        scrape = generate_latest(scraped).decode() + openmetrics(scraped).decode()
        for exporter in exporters:
            unregister_exporter(exporter, timeout=5)

    spans, points = otlp.spans(), otlp.data_points()
    log = written.getvalue()
    told = {
        "the scrape": scrape,
        "spans": repr(spans) + json.dumps(otlp.traces()),
        "points": repr(points) + json.dumps(otlp.metrics()),
        "the log": log,
        "events": repr(events),
        "the snapshot, without the keys, which only the owner of the process sees": json.dumps(without_keys(registry)),
    }
    for door, text in told.items():
        assert PASSWORD not in text, door
    assert len(spans) > 20, "there was something to see"
    assert len(log.splitlines()) > 10
    assert {"line", "keyed", "room", "default"} <= {
        dict(point.attributes).get("resilience.policy.name") for point in points
    }


def without_keys(registry: Registry) -> dict[str, Any]:
    snapshot: dict[str, Any] = registry.snapshot()
    for kind in ("circuit_breaker", "bulkhead", "rate_limiter"):
        for shown in snapshot[kind].values():
            shown.pop("keys", None)
    return snapshot
