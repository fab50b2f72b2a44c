"""The receivers themselves, driven by plain prometheus_client and the plain OpenTelemetry SDK."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from tests.receivers import install
from tests.receivers.misbehaving import GarbageServer, HangingServer
from tests.receivers.otlp import OtlpReceiver
from tests.receivers.process import HOST, eventually, reserved_ports, running
from tests.receivers.prometheus import Prometheus, promtool

pytestmark = pytest.mark.realtime

RESOURCE = Resource({"service.name": "kit", "service.instance.id": "one"})
PROTOCOLS = ("grpc", "http")


@contextmanager
def served(registry: CollectorRegistry, port: int) -> Iterator[None]:
    server, thread = start_http_server(port, HOST, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def metric_exporter(receiver: OtlpReceiver, protocol: str) -> MetricExporter:
    if protocol == "grpc":
        return GrpcMetricExporter(endpoint=receiver.grpc_endpoint, insecure=True, timeout=10)
    return HttpMetricExporter(endpoint=f"{receiver.http_endpoint}/v1/metrics", timeout=10)


def span_exporter(receiver: OtlpReceiver, protocol: str) -> SpanExporter:
    if protocol == "grpc":
        return GrpcSpanExporter(endpoint=receiver.grpc_endpoint, insecure=True, timeout=10)
    return HttpSpanExporter(endpoint=f"{receiver.http_endpoint}/v1/traces", timeout=10)


def test_prometheus_scrapes_a_server_and_answers_promql_with_exemplars(prometheus: Prometheus) -> None:
    registry = CollectorRegistry()
    port = prometheus.target()
    chosen = f'instance="{prometheus.instance_of(port)}"'
    calls = Counter("kit_calls", "Calls.", ["result"], registry=registry)
    duration = Histogram("kit_duration_seconds", "Durations.", buckets=(0.1, 1.0), registry=registry)
    calls.labels("success").inc(3)
    calls.labels("failure").inc()
    for seconds in (0.05, 0.5, 0.5, 5.0):
        duration.observe(seconds, {"trace_id": "a" * 32, "span_id": "b" * 16})

    with served(registry, port):
        prometheus.wait_for(f"up{{{chosen}}}", lambda found: [sample.value for sample in found] == [1.0])
        results = prometheus.wait_for(f"sum by (result) (kit_calls_total{{{chosen}}})")
        buckets = prometheus.query(f"kit_duration_seconds_bucket{{{chosen}}}")
        exemplars = eventually(lambda: prometheus.exemplars(f"kit_duration_seconds_bucket{{{chosen}}}"))

        assert {sample.labels["result"]: sample.value for sample in results} == {"success": 3.0, "failure": 1.0}
        assert {sample.labels["le"]: sample.value for sample in buckets} == {"0.1": 1.0, "1.0": 3.0, "+Inf": 4.0}
        assert {sample.name for sample in buckets} == {"kit_duration_seconds_bucket"}
        assert prometheus.query(f"scalar(kit_duration_seconds_sum{{{chosen}}})")[0].value == pytest.approx(6.05)
        assert {(one.series["le"], one.value) for one in exemplars} == {("0.1", 0.05), ("1.0", 0.5), ("+Inf", 5.0)}
        assert {one.labels["trace_id"] for one in exemplars} == {"a" * 32}

    prometheus.wait_for(f"kit_calls_total{{{chosen}}}", lambda found: found == [])


def test_every_target_is_handed_out_once(prometheus: Prometheus) -> None:
    assert prometheus.target() != prometheus.target()


def test_a_query_that_prometheus_refuses_says_why(prometheus: Prometheus) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        prometheus.query("sum(")
    assert "parse error" in refused.value.__notes__[0]


def test_prometheus_evaluates_rules_over_a_port_that_it_is_given(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(
        "groups:\n- name: kit\n  rules:\n  - {record: kit:calls, expr: kit_calls_total * 2}\n"
        "  - {alert: KitCalled, expr: kit_calls_total > 1}\n"
    )
    registry = CollectorRegistry()
    Counter("kit_calls", "Calls.", registry=registry).inc(21)
    with reserved_ports(1) as (port,), served(registry, port):
        with Prometheus.started([port], interval=0.2, rules=rules) as prometheus:
            assert prometheus.wait_for("kit:calls")[0].value == 42.0
            (alert,) = eventually(lambda: prometheus.api("alerts")["alerts"])
            assert (alert["labels"]["alertname"], alert["state"]) == ("KitCalled", "firing")


def test_promtool_checks_rules_and_metrics(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: kit, rules: [{record: 'kit:up', expr: up}]}]")
    assert promtool("check", "rules", rules).returncode == 0
    rules.write_text("groups: [{name: kit, rules: [{record: 'kit:up', expr: 'up('}]}]")
    refused = promtool("check", "rules", rules)
    assert (refused.returncode, "parse error" in refused.stderr) == (1, True)
    assert (
        promtool("check", "metrics", stdin="# HELP kit_total Kit.\n# TYPE kit_total counter\nkit_total 1\n").returncode
        == 0
    )
    assert "no help text" in promtool("check", "metrics", stdin="# TYPE kit_total counter\nkit_total 1\n").stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_arrive_exactly_as_they_were_recorded(otlp: OtlpReceiver, protocol: str) -> None:
    reader = PeriodicExportingMetricReader(metric_exporter(otlp, protocol), export_interval_millis=600_000)
    view = View(instrument_name="kit.duration", aggregation=ExplicitBucketHistogramAggregation((0.1, 1.0)))
    provider = MeterProvider([reader], resource=RESOURCE, views=[view], shutdown_on_exit=False)
    meter = provider.get_meter("kit")
    calls = meter.create_counter("kit.calls", "{call}", "Calls.")
    active = meter.create_up_down_counter("kit.active")
    duration = meter.create_histogram("kit.duration", "s")
    meter.create_gauge("kit.ratio").set(0.25)

    calls.add(3, {"result": "success"})
    active.add(1)
    active.add(-1)
    with TracerProvider(shutdown_on_exit=False).get_tracer("kit").start_as_current_span("sampled") as span:
        for seconds in (0.05, 0.5, 0.5, 5.0):
            duration.record(seconds)
    provider.force_flush()
    calls.add(2, {"result": "success"})
    provider.shutdown()

    assert len(otlp.metrics()) == 2
    first, last = otlp.data_points("kit.calls")
    assert (first.value, last.value) == (3, 5)
    assert (last.kind, last.unit, last.description, last.attributes) == (
        "sum",
        "{call}",
        "Calls.",
        {"result": "success"},
    )
    assert (last.temporality, last.monotonic, last.scope) == ("cumulative", True, "kit")
    assert last.resource["service.name"] == "kit"
    assert 0 < first.start == last.start < first.time < last.time
    nothing = otlp.data_points("kit.active")[-1]
    assert (nothing.value, nothing.monotonic) == (0, False)
    ratio = otlp.data_points("kit.ratio")[-1]
    assert (ratio.kind, ratio.value, ratio.temporality) == ("gauge", 0.25, None)
    histogram = otlp.data_points("kit.duration")[-1]
    assert (histogram.kind, histogram.count) == ("histogram", 4)
    assert histogram.sum == pytest.approx(6.05)
    assert (histogram.bounds, histogram.bucket_counts) == ((0.1, 1.0), (1, 2, 1))
    context = span.get_span_context()
    assert {(one.trace_id, one.span_id, one.value) for one in otlp.data_points("kit.duration")[0].exemplars} == {
        (f"{context.trace_id:032x}", f"{context.span_id:016x}", seconds) for seconds in (0.05, 0.5, 5.0)
    }
    assert {point.metric for point in otlp.data_points()} == {"kit.calls", "kit.active", "kit.ratio", "kit.duration"}

    otlp.clear()
    assert otlp.metrics() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_arrive_with_their_tree(otlp: OtlpReceiver, protocol: str) -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(span_exporter(otlp, protocol)))
    tracer = provider.get_tracer("kit")
    with tracer.start_as_current_span("outer", kind=SpanKind.CLIENT) as outer:
        outer.set_attributes({"text": "", "number": 0, "ratio": 0.5, "flag": False, "list": ["a", "b"]})
        link = Link(outer.get_span_context(), {"why": "hedge"})
        with tracer.start_as_current_span("inner", links=[link]) as inner:
            inner.add_event("happened", {"n": 1})
            inner.set_status(StatusCode.ERROR, "broken")
    provider.shutdown()

    child, parent = otlp.spans()
    assert (child.name, child.kind, child.status, child.description) == ("inner", "internal", "error", "broken")
    assert (parent.name, parent.kind, parent.status, parent.description) == ("outer", "client", "unset", "")
    assert parent.trace_id == f"{outer.get_span_context().trace_id:032x}" == child.trace_id
    assert (parent.parent_id, child.parent_id) == ("", parent.span_id)
    assert parent.attributes == {"text": "", "number": 0, "ratio": 0.5, "flag": False, "list": ["a", "b"]}
    assert parent.attributes["flag"] is False
    ((trace_id, span_id, attributes),) = [(one.trace_id, one.span_id, one.attributes) for one in child.links]
    assert (trace_id, span_id, attributes) == (parent.trace_id, parent.span_id, {"why": "hedge"})
    assert [(event.name, event.attributes) for event in child.events] == [("happened", {"n": 1})]
    assert (parent.scope, parent.resource["service.instance.id"]) == ("kit", "one")
    assert parent.start <= child.start <= child.end <= parent.end


def test_a_hanging_server_accepts_and_says_nothing(hanging: HangingServer) -> None:
    with socket.create_connection((HOST, hanging.port), timeout=0.2) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert hanging.connections == 1


def test_a_hanging_server_lets_go_at_the_end() -> None:
    with HangingServer.started() as server:
        client = socket.create_connection((HOST, server.port), timeout=5.0)
        eventually(lambda: server.connections)
    with client:
        assert client.recv(1) == b""


def test_a_garbage_server_speaks_no_http(garbage: GarbageServer) -> None:
    with pytest.raises(http.client.BadStatusLine):
        urllib.request.urlopen(garbage.endpoint, timeout=5.0)
    garbage.garbage = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd"
    with urllib.request.urlopen(garbage.endpoint, timeout=5.0) as answer:
        assert answer.read() == b"\xff\xfe\xfd"
    assert garbage.connections == 2


def test_a_refused_port_refuses_although_it_is_held(refused_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, refused_port), timeout=5.0)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((HOST, refused_port))


def test_a_receiver_that_cannot_start_shows_what_it_printed(tmp_path: Path, refused_port: int) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such setting')"]
    with pytest.raises(RuntimeError, match="ended with 1") as failed:
        with running(command, tmp_path, f"http://{HOST}:{refused_port}"):
            pass
    assert "no such setting" in failed.value.__notes__[0]


def test_no_receiver_survives_a_failing_test() -> None:
    with pytest.raises(ZeroDivisionError):
        with OtlpReceiver.started() as receiver:
            raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError):
        receiver.clear()


def test_no_receiver_survives_tests_that_are_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom tests.receivers.otlp import OtlpReceiver\n"
        "with OtlpReceiver.started() as receiver:\n"
        "    print(receiver.http_endpoint, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, timeout=60.0, check=False)
    port = int(killed.stdout.rpartition(b":")[2])

    def is_gone() -> bool:
        try:
            socket.create_connection((HOST, port), timeout=5.0).close()
        except ConnectionRefusedError:
            return True
        return False

    assert eventually(is_gone, timeout=5.0)


def test_whoever_comes_second_waits_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_TOOLS", str(tmp_path))
    built: list[Path] = []

    def build(home: Path) -> None:
        built.append(home)
        time.sleep(0.1)
        (home / "tool").write_text("#!/bin/sh\n")
        os.chmod(home / "tool", 0o755)

    def installed(what: str) -> Path:
        return install._installed("kit", what, build, "tool")

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(installed, ["kit==1"] * 4))
    assert (found, len(built)) == ({tmp_path / "kit/tool"}, 1)
    assert (installed("kit==1"), len(built)) == (tmp_path / "kit/tool", 1)

    assert (installed("kit==2"), len(built)) == (tmp_path / "kit/tool", 2)
    (tmp_path / "kit/complete").unlink()  # as a process leaves it that is killed in the middle
    assert (installed("kit==2"), len(built)) == (tmp_path / "kit/tool", 3)
