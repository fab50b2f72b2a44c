"""What the tests of OTLP share: exporters that end with their block, and series in a form that can be compared."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric as ScrapedFamily

from resilient import Registry, bulkhead, circuit_breaker, pipeline, rate_limiter, retry, timeout
from resilient.telemetry.catalogue import CATALOGUE, Metric, prometheus_label
from resilient.telemetry.collecting import Distribution, Family
from resilient.telemetry.exporters import register_exporter, unregister_exporter
from resilient.telemetry.otlp import OTLPExporter
from resilient.testing import FakeClock
from tests.forking import unmeasured
from tests.receivers.otlp import DataPoint, OtlpReceiver

ROOT = Path(__file__).parents[2]
PROTOCOLS = ("grpc", "http/protobuf")
BY_NAME = {metric.name: metric for metric in CATALOGUE}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def endpoint_of(receiver: OtlpReceiver, protocol: str) -> str:
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


@contextmanager
def exporting(endpoint: str, protocol: str, registry: Registry, **settings: Any) -> Iterator[OTLPExporter]:
    """An exporter that exports when it is told to, and at the end."""
    settings = {"interval": 3600, "timeout": 10, **settings}
    exporter = OTLPExporter(endpoint, protocol=protocol, **settings)  # type: ignore[arg-type]
    register_exporter(exporter, registry=registry)
    try:
        yield exporter
    finally:
        unregister_exporter(exporter, timeout=2)


def scripted_run(registry: Registry, clock: FakeClock) -> None:
    """Calls of all outcomes, whose numbers the tests know."""
    guarded = pipeline(
        "orders",
        retry(on=ConnectionError, attempts=2, backoff=[0.25], registry=registry),
        circuit_breaker(consecutive_failures=100, registry=registry),
        registry=registry,
    )
    rate_limiter("mails", limit=5, registry=registry).call(int)
    bulkhead("files", max_concurrent=3, registry=registry).call(int)
    timeout(5.0, name="reports", registry=registry).call(int)

    def take(seconds: float) -> None:
        clock.advance(seconds)

    def fail() -> None:
        clock.advance(0.5)
        raise ConnectionError

    for seconds in (0.0005, 0.003, 0.4, 0.4, 20.0):
        guarded.call(take, seconds)
    for _ in range(3):
        try:
            guarded.call(fail)
        except ConnectionError:
            pass


def of_families(families: Iterable[Family]) -> Series:
    """Samples as a scrape has them."""
    return {
        sample: value
        for family in families
        for attributes, number in family.series.items()
        for sample, value in _samples(family.metric, dict(attributes), number)
    }


def of_points(points: Iterable[DataPoint]) -> Series:
    """The same of what has arrived."""
    samples: Series = {}
    for point in points:
        labels = {name: str(value) for name, value in point.attributes.items()}
        if point.kind == "histogram":
            number: float | Distribution = Distribution(point.bounds, point.bucket_counts, point.sum)
        else:
            assert point.value is not None
            number = point.value
        samples.update(_samples(BY_NAME[point.metric], labels, number))
    return samples


def of_scrape(families: Iterable[ScrapedFamily]) -> Series:
    return {
        (sample.name, frozenset(_labels(sample.labels).items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _labels(labels: dict[str, str]) -> dict[str, str]:
    return {name: str(float(value)) if name == "le" else value for name, value in labels.items()}


def _samples(
    metric: Metric, attributes: dict[str, str], value: float | Distribution
) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    labels = {prometheus_label(name): text for name, text in attributes.items()}
    if not isinstance(value, Distribution):
        yield (metric.prometheus_samples[0], frozenset(labels.items())), value
        return
    bucket, count, total = metric.prometheus_samples
    seen = 0
    for bound, inside in zip((*value.bounds, float("inf")), value.counts, strict=True):
        seen += inside
        yield (bucket, frozenset({**labels, "le": str(bound)}.items())), seen
    yield (count, frozenset(labels.items())), seen
    yield (total, frozenset(labels.items())), value.sum


def run(code: str, *, timeout: float = 25.0, **environment: str) -> str:
    """What a program of its own prints; tracer providers are set once in the life of a process."""
    clean = {name: value for name, value in unmeasured().items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout.strip()
