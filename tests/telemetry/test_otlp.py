"""Metrics and spans as they arrive at a real receiver, over gRPC and HTTP."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import ClassVar

import pytest
from opentelemetry import context, trace
from prometheus_client import CollectorRegistry

from resilient import Registry, circuit_breaker
from resilient.core.meters import Exemplar
from resilient.telemetry.collecting import Collector, Family
from resilient.telemetry.exporters import register_exporter, unregister_exporter
from resilient.telemetry.otlp import OTLPExporter
from resilient.telemetry.prometheus import PrometheusExporter
from resilient.testing import FakeClock, fake_clock
from tests.receivers.otlp import DataPoint, OtlpReceiver
from tests.receivers.process import eventually
from tests.telemetry.exporting import (
    PROTOCOLS,
    endpoint_of,
    exporting,
    of_families,
    of_points,
    of_scrape,
    run,
    scripted_run,
)

pytestmark = pytest.mark.realtime

both = pytest.mark.parametrize("protocol", PROTOCOLS)

TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


@pytest.fixture(autouse=True)
def _an_application_with_a_tracer_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours would stay for the rest of the process."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


def point(points: list[DataPoint], metric: str, **attributes: str) -> DataPoint:
    """The last one of a metric that has these attributes, given by the last part of their names."""
    return [
        one
        for one in points
        if one.metric == metric
        and attributes.items() <= {name.rpartition(".")[2]: value for name, value in one.attributes.items()}.items()
    ][-1]


@both
def test_counts_sums_and_buckets_arrive_exactly(otlp: OtlpReceiver, protocol: str, clock: FakeClock) -> None:
    private = Registry()
    with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
        scripted_run(private, clock)
        assert exporter.flush(10)
    points = otlp.data_points()

    served = point(points, "resilience.call.duration", outcome="success", name="orders")
    assert served.count == 5
    assert served.sum == pytest.approx(20.8035)
    assert dict(zip(served.bounds, served.bucket_counts, strict=False)) == {
        **dict.fromkeys(served.bounds, 0),
        0.001: 1,
        0.005: 1,
        0.5: 2,
    }
    assert (len(served.bucket_counts), served.bucket_counts[-1]) == (len(served.bounds) + 1, 1)
    failed = point(points, "resilience.call.duration", outcome="failure", name="orders")
    assert (failed.count, failed.attributes["error.type"]) == (3, "ConnectionError")
    assert failed.sum == pytest.approx(3 * 1.25)
    assert point(points, "resilience.retry.attempts", result="success").value == 5
    assert point(points, "resilience.retry.attempts", result="retryable_failure").value == 6
    assert point(points, "resilience.retry.calls", result="exhausted").value == 3
    assert point(points, "resilience.retry.backoff.time").value == pytest.approx(0.75)
    assert point(points, "resilience.circuit_breaker.calls", result="failure").value == 6
    assert point(points, "resilience.bulkhead.limit").value == 3
    assert point(points, "resilience.rate_limiter.calls", result="allowed").value == 1


@both
def test_kinds_and_units_are_those_of_the_catalogue(otlp: OtlpReceiver, protocol: str, clock: FakeClock) -> None:
    private = Registry()
    with exporting(endpoint_of(otlp, protocol), protocol, private):
        scripted_run(private, clock)
    shown = {one.metric: (one.kind, one.unit, one.temporality, one.monotonic, one.scope) for one in otlp.data_points()}
    assert shown["resilience.retry.calls"] == ("sum", "{call}", "cumulative", True, "resilient")
    assert shown["resilience.call.active"] == ("sum", "{call}", "cumulative", False, "resilient")
    assert shown["resilience.call.duration"] == ("histogram", "s", "cumulative", False, "resilient")
    assert shown["resilience.retry.backoff.time"] == ("sum", "s", "cumulative", True, "resilient")


@both
def test_otlp_and_a_scrape_have_the_same_series(otlp: OtlpReceiver, protocol: str, clock: FakeClock) -> None:
    private, scraped = Registry(), CollectorRegistry()
    scripted_run(private, clock)
    prometheus = register_exporter(PrometheusExporter(registry=scraped), registry=private)
    try:
        with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
            assert exporter.flush(10)
            arrived = of_points(otlp.data_points())
            expected = of_families(Collector(private).collect())
            assert len(expected) > 100
            assert arrived == expected
            assert of_scrape(scraped.collect()) == expected
    finally:
        unregister_exporter(prometheus)


@both
def test_totals_start_when_the_series_did(otlp: OtlpReceiver, protocol: str, clock: FakeClock) -> None:
    private = Registry()
    with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
        circuit_breaker("old", registry=private).call(int)
        exporter.flush(10)
        circuit_breaker("new", registry=private).call(int)
        exporter.flush(10)
        exporter.flush(10)
    by_policy: dict[object, list[DataPoint]] = defaultdict(list)
    for one in otlp.data_points("resilience.circuit_breaker.calls"):
        if one.attributes["resilience.circuit_breaker.result"] == "success":
            by_policy[one.attributes["resilience.policy.name"]].append(one)
    old, new = by_policy["old"], by_policy["new"]
    assert [one.value for one in old] == [1, 1, 1, 1]
    assert len({one.start for one in old}) == len({one.start for one in new}) == 1
    assert old[0].start < old[0].time == new[0].start < new[0].time


@both
def test_a_policy_that_was_removed_and_made_again_starts_anew(
    otlp: OtlpReceiver, protocol: str, clock: FakeClock
) -> None:
    private = Registry()
    with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
        breaker = circuit_breaker("payments", registry=private)
        for _ in range(3):
            breaker.call(int)
        exporter.flush(10)
        private.remove(type(breaker), "payments")
        circuit_breaker("payments", registry=private).call(int)
        exporter.flush(10)
    first, second, *_ = (
        one
        for one in otlp.data_points("resilience.circuit_breaker.calls")
        if one.attributes["resilience.circuit_breaker.result"] == "success"
    )
    assert (first.value, second.value) == (3, 1)
    assert first.start < first.time == second.start


@both
def test_deltas_add_up_to_the_totals(
    otlp: OtlpReceiver, protocol: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEMPORALITY, "delta")
    private = Registry()
    with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
        for _ in range(3):
            scripted_run(private, clock)
            assert exporter.flush(10)
        totals = of_families(Collector(private).collect())
    points = otlp.data_points()
    temporalities = {(one.kind, one.monotonic): one.temporality for one in points}
    assert temporalities["sum", True] == temporalities["histogram", False] == "delta"
    assert temporalities["sum", False] == "cumulative"

    served = [
        one
        for one in points
        if one.metric == "resilience.call.duration" and one.attributes["resilience.outcome"] == "success"
        if one.attributes["resilience.pipeline.name"] == "orders"
    ]
    assert [one.count for one in served] == [5, 5, 5, 0]
    assert [one.bucket_counts[-1] for one in served] == [1, 1, 1, 0]
    assert [one.sum for one in served] == pytest.approx([20.8035, 20.8035, 20.8035, 0.0])
    assert all(before.time == after.start for before, after in pairwise(served))

    added: dict[object, float] = defaultdict(float)
    for one in points:
        for key, value in of_points([one]).items():
            added[key] = added[key] + value if one.temporality == "delta" else value
    for key, value in totals.items():
        if key[0] != "resilience_telemetry_export_failures_total":
            assert added[key] == pytest.approx(value), key


@both
def test_exemplars_lead_to_their_trace(otlp: OtlpReceiver, protocol: str) -> None:
    private = Registry()
    breaker = circuit_breaker("payments", registry=private)
    breaker.call(int)
    private.call_meter("payments").success.exemplify(Exemplar(0.00075, 0xAB << 120, 0xCD, 1_700_000_000_000_000_000))
    with exporting(endpoint_of(otlp, protocol), protocol, private):
        pass
    (exemplar,) = otlp.data_points("resilience.call.duration")[0].exemplars
    assert (exemplar.trace_id, exemplar.span_id, exemplar.value) == ("ab" + "0" * 30, "0" * 14 + "cd", 0.00075)


@both
@pytest.mark.parametrize("preference", ["cumulative", "delta"])
def test_what_is_too_much_for_one_request_goes_in_several(
    otlp: OtlpReceiver, protocol: str, preference: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEMPORALITY, preference)
    private = Registry()
    for number in range(300):
        circuit_breaker(f"policy {number} {'of a long name ' * 5}", registry=private).call(int)
    expected = of_families(Collector(private).collect())
    with exporting(endpoint_of(otlp, protocol), protocol, private) as exporter:
        assert exporter.flush(10)
        assert len(otlp.metrics()) > 2
        arrived = of_points(otlp.data_points())
        assert {key: arrived[key] for key in expected if "failures" not in key[0]} == {
            key: value for key, value in expected.items() if "failures" not in key[0]
        }


@both
def test_exports_come_by_themselves(otlp: OtlpReceiver, protocol: str) -> None:
    private = Registry()
    circuit_breaker("payments", registry=private).call(int)
    with exporting(endpoint_of(otlp, protocol), protocol, private, interval=0.05):
        eventually(lambda: len(otlp.metrics()) > 3)
    after = len(otlp.metrics())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("resilient-otlp")]
    assert len(otlp.metrics()) == after


@both
def test_the_process_says_who_it_is(otlp: OtlpReceiver, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from the environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,team=a")
    private = Registry()
    circuit_breaker("payments", registry=private).call(int)
    with exporting(endpoint_of(otlp, protocol), protocol, private, resource={"team": "b"}):
        pass
    resource = otlp.data_points()[0].resource
    assert resource["service.name"] == "from the environment"
    assert (resource["deployment.environment"], resource["team"]) == ("test", "b")
    assert resource["service.instance.id"]


def test_an_export_is_no_traffic_of_the_application(otlp: OtlpReceiver) -> None:
    seen: list[object] = []

    class Watching(Collector):
        def collect(self, sources: object = ()) -> list[Family]:
            seen.append(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))
            return super().collect()

    exporter = OTLPExporter(otlp.grpc_endpoint, interval=3600)
    exporter.start(Watching(Registry()))
    exporter.flush(10)
    exporter.shutdown(2)
    assert seen == [True, True]
    assert context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY) is None


def test_an_exporter_that_is_registered_again_goes_on_where_it_was(
    otlp: OtlpReceiver, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEMPORALITY, "delta")
    private = Registry()
    exporter = OTLPExporter(otlp.grpc_endpoint, interval=3600)
    for _ in range(2):
        register_exporter(exporter, registry=private)
        circuit_breaker("payments", registry=private).call(int)
        unregister_exporter(exporter, timeout=5)
    assert [
        one.value
        for one in otlp.data_points("resilience.circuit_breaker.calls")
        if one.attributes["resilience.circuit_breaker.result"] == "success"
    ] == [1, 1]


class _Catcher(http.server.BaseHTTPRequestHandler):
    caught: ClassVar[list[tuple[str, dict[str, str], bytes]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.caught.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def catching() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """An HTTP server that shows what the receiver does not: paths and headers."""

    class Handler(_Catcher):
        caught: ClassVar = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", Handler.caught
        finally:
            server.shutdown()


def test_arguments_win_over_variables_of_the_signal_which_win_over_general_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-general=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "X-Key=of%20the%20environment,x-other=2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip")
    with catching() as (endpoint, caught):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{endpoint}/own/path?key=1")
        for settings in ({}, {"endpoint": f"{endpoint}/base/", "headers": {"X-Key": "argument"}}):
            exporter = OTLPExporter(interval=3600, **settings)  # type: ignore[arg-type]
            exporter.start(Collector(Registry()))
            assert exporter.flush(10)
            exporter.shutdown(1)
    (path, headers, body), *_ = caught
    assert path == "/own/path?key=1"
    assert (headers["x-key"], headers["x-other"]) == ("of the environment", "2")
    assert "x-general" not in headers
    assert headers["content-encoding"] == "gzip"
    assert b"resilience.telemetry" in gzip.decompress(body)
    path, headers, body = caught[-1]
    assert path == "/base/v1/metrics"
    assert (headers["x-key"], headers["x-other"]) == ("argument", "2")


PROGRAM = """
import resilient
from opentelemetry import trace
from resilient import OTLPExporter, circuit_breaker, register_exporter

breaker = circuit_breaker("payments")
"""


@both
def test_spans_arrive_where_the_application_has_no_provider(otlp: OtlpReceiver, protocol: str) -> None:
    run(
        PROGRAM
        + """
        register_exporter(OTLPExporter(interval=3600))
        with trace.get_tracer("app").start_as_current_span("app"):
            breaker.call(int)
        resilient.shutdown(timeout=10)
        breaker.call(int)  # not exported any more, and no error
        """.replace("\n        ", "\n"),
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint_of(otlp, protocol),
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_SERVICE_NAME="shop",
    )
    inner, outer = otlp.spans()
    assert (inner.name, inner.parent_id, outer.name) == ("execute payments", outer.span_id, "app")
    metrics = {str(one.resource) for one in otlp.data_points()}
    assert metrics == {str(inner.resource)}
    assert inner.resource["service.name"] == "shop"


def test_an_applications_own_provider_is_used_and_never_shut_down(otlp: OtlpReceiver) -> None:
    shown = run(
        PROGRAM
        + """
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

memory = InMemorySpanExporter()
own = TracerProvider(resource=Resource.create({"service.name": "the application"}))
own.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(own)
register_exporter(OTLPExporter(interval=3600, sample_ratio=0.0))
breaker.call(int)
resilient.shutdown(timeout=10)
breaker.call(int)
print(trace.get_tracer_provider() is own, len(memory.get_finished_spans()))
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.grpc_endpoint,
    )
    assert shown == "True 2"
    assert otlp.spans() == []
    assert otlp.data_points()[0].resource["service.name"] == "the application"


@pytest.mark.parametrize(
    "argument, environment, spans",
    [
        ("sample_ratio=0.0", {}, 0),
        ("sample_ratio=1.0", {"OTEL_TRACES_SAMPLER": "always_off"}, 1),
        ("", {"OTEL_TRACES_SAMPLER": "always_off"}, 0),
        ("", {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 0),
    ],
)
def test_the_share_of_traces(otlp: OtlpReceiver, argument: str, environment: dict[str, str], spans: int) -> None:
    shown = run(
        PROGRAM
        + f"""
register_exporter(OTLPExporter(interval=3600, {argument}))
breaker.call(int)
resilient.shutdown(timeout=10)
print(trace.get_tracer_provider().sampler.get_description())
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.grpc_endpoint,
        **environment,  # type: ignore[arg-type]
    )
    assert len(otlp.spans()) == spans
    assert shown.startswith("ParentBased{root:TraceIdRatioBased{") == bool(argument)


def test_two_exporters_share_the_provider_that_one_of_them_set_up(otlp: OtlpReceiver) -> None:
    shown = run(
        PROGRAM
        + f"""
first = register_exporter(OTLPExporter(interval=3600))
provider = trace.get_tracer_provider()
second = register_exporter(OTLPExporter("{otlp.http_endpoint}", protocol="http/protobuf", interval=3600))
breaker.call(int)
resilient.unregister_exporter(first)
breaker.call(int)
resilient.shutdown(timeout=10)
print(trace.get_tracer_provider() is provider, provider.processors.all)
try:
    register_exporter(OTLPExporter(sample_ratio=0.5))
except resilient.ConfigurationError as error:
    print(error)
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.grpc_endpoint,
    )
    assert len(otlp.spans()) == 3
    same, refused = shown.splitlines()
    assert same == "True ()"
    assert refused.startswith("OTLPExporter: sample_ratio")


def test_a_disabled_sdk_is_left_alone(otlp: OtlpReceiver) -> None:
    shown = run(
        PROGRAM
        + """
import sys, threading
exporter = register_exporter(OTLPExporter())
breaker.call(int)
print(exporter.flush(5), threading.active_count(), isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider))
print("opentelemetry.sdk.trace" in sys.modules)
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.grpc_endpoint,
        OTEL_SDK_DISABLED="TRUE",
    )
    assert shown.split() == ["True", "1", "True", "False"]
    assert otlp.metrics() == otlp.traces() == []


@both
def test_what_an_application_forgets_is_exported_when_it_ends(otlp: OtlpReceiver, protocol: str) -> None:
    run(
        PROGRAM + "register_exporter(OTLPExporter())\nbreaker.call(int)\n",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint_of(otlp, protocol),
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert point(otlp.data_points(), "resilience.circuit_breaker.calls", result="success").value == 1
    assert [span.name for span in otlp.spans()] == ["execute payments"]


@both
@pytest.mark.parametrize("used_before", [False, True])
def test_a_forked_child_exports_for_itself(otlp: OtlpReceiver, protocol: str, used_before: bool) -> None:
    forked_at = run(
        PROGRAM
        + f"""
import os, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks with threads
exporter = register_exporter(OTLPExporter(interval=3600, resource={{"service.instance.id": "parent"}}))
breaker.call(int)
if {used_before}:
    assert exporter.flush(10)
print(time.time_ns())
for _ in range(2):
    child = os.fork()
    if child == 0:
        circuit_breaker("of the child").call(int)
        begun = time.monotonic()
        resilient.shutdown(timeout=10)
        os._exit(time.monotonic() - begun > 0.9)
    assert os.waitpid(child, 0)[1] == 0
breaker.call(int)
resilient.shutdown(timeout=10)
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint_of(otlp, protocol),
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    totals: dict[object, dict[object, int | float | None]] = defaultdict(dict)
    for one in otlp.data_points("resilience.circuit_breaker.calls"):
        if one.attributes["resilience.circuit_breaker.result"] == "success":
            totals[one.resource["service.instance.id"]][one.attributes["resilience.policy.name"]] = one.value
    children = {one.start for one in otlp.data_points() if one.resource["service.instance.id"] != "parent"}
    assert min(children - {0}) > int(forked_at)
    parent = totals.pop("parent")
    assert parent == {"payments": 2}
    assert [values["of the child"] for values in totals.values()] == [1, 1]
    spans = [(span.name, span.resource["service.instance.id"]) for span in otlp.spans()]
    assert sorted(spans) == sorted(
        [("execute payments", "parent")] * 2 + [("execute of the child", child) for child in totals]
    )
