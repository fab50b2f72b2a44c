"""A receiver that is down, hangs, or answers garbage: nobody but the numbers notices."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from opentelemetry import trace

from resilient import Registry, circuit_breaker
from resilient.telemetry import exporters
from resilient.telemetry.collecting import Collector, Family
from resilient.telemetry.exporters import register_exporter, unregister_exporter
from resilient.telemetry.otlp import OTLPExporter
from tests.receivers.misbehaving import GarbageServer, HangingServer
from tests.receivers.otlp import OtlpReceiver
from tests.receivers.process import HOST, eventually, reserved_ports
from tests.telemetry.exporting import PROTOCOLS, endpoint_of, exporting, run

pytestmark = pytest.mark.realtime

both = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(autouse=True)
def _an_application_with_a_tracer_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours would stay for the rest of the process."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())


@pytest.fixture(params=["refused", "hanging", "garbage"])
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    """The endpoint of a receiver that is of no use."""
    if request.param == "refused":
        with reserved_ports(1) as (port,):
            yield f"http://{HOST}:{port}"
    elif request.param == "hanging":
        with HangingServer.started() as hanging:
            yield hanging.endpoint
    else:
        with GarbageServer.started() as garbage:
            yield garbage.endpoint


def failures() -> int:
    return exporters._failures.get("otlp", 0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Every line that anybody has logged but policies."""
    return [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for record in caplog.records
        if record.name == "resilient.telemetry" or not record.name.startswith("resilient")
    ]


@both
def test_shutting_down_keeps_to_its_time(broken: str, protocol: str) -> None:
    private = Registry()
    circuit_breaker("payments", registry=private).call(int)
    exporter = register_exporter(OTLPExporter(broken, protocol=protocol, timeout=30), registry=private)  # type: ignore[arg-type]
    before = failures()
    begun = time.monotonic()
    unregister_exporter(exporter, timeout=2)
    assert time.monotonic() - begun < 2.5
    assert failures() == before + 1


@both
def test_spans_that_wait_do_not_hold_up_the_end(broken: str, protocol: str) -> None:
    shown = run(
        """
        import time
        import resilient
        from resilient import OTLPExporter, circuit_breaker, register_exporter
        from resilient.telemetry import exporters

        register_exporter(OTLPExporter(timeout=30))
        breaker = circuit_breaker("payments")
        for _ in range(1500):
            breaker.call(int)
        begun = time.monotonic()
        resilient.shutdown(timeout=1)
        print(time.monotonic() - begun, exporters._failures["otlp"])
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=broken,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    took, counted = shown.split()
    assert float(took) < 1.5
    assert int(counted) >= 2


def test_what_hangs_is_cut_short_at_the_end(hanging: HangingServer) -> None:
    exporter = register_exporter(OTLPExporter(hanging.endpoint, interval=0.01, timeout=30), registry=Registry())
    eventually(lambda: hanging.connections)
    unregister_exporter(exporter, timeout=0.1)
    eventually(lambda: not any("resilient-otlp" in thread.name for thread in threading.enumerate()), timeout=5)


def test_metrics_are_not_sent_again_at_once(refused_port: int) -> None:
    with exporting(f"http://{HOST}:{refused_port}", "grpc", Registry(), timeout=5) as exporter:
        begun = time.monotonic()
        assert not exporter.flush(5)
        assert time.monotonic() - begun < 0.7


@both
def test_a_fork_in_the_middle_of_an_export_harms_nobody(hanging: HangingServer, protocol: str) -> None:
    """gRPC aborts a child that was forked while it was at work."""
    shown = run(
        """
        import os, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import resilient
        from resilient import OTLPExporter, register_exporter

        register_exporter(OTLPExporter(interval=0.05, timeout=3))
        time.sleep(0.5)
        for _ in range(3):
            begun = time.monotonic()
            child = os.fork()
            if child == 0:
                time.sleep(0.2)
                resilient.shutdown(timeout=0.3)
                os._exit(0)
            assert time.monotonic() - begun < 0.5
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        resilient.shutdown(timeout=0.5)
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=hanging.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert shown.split() == ["0", "0", "0"]


@both
def test_failures_are_counted_and_told_once(broken: str, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = failures()
    with exporting(broken, protocol, Registry(), timeout=0.2) as exporter:
        for _ in range(3):
            assert not exporter.flush(5)
        assert failures() == before + 3
    (line,) = (line for line in told(caplog) if "OTLP" in line or "opentelemetry" in line)
    assert line.startswith("DEBUG resilient.telemetry: OTLP export of metrics fails: ")


@both
def test_calls_do_not_notice(broken: str, protocol: str) -> None:
    private = Registry()
    breaker = circuit_breaker("payments", registry=private)

    def late() -> float:
        """The 99th percentile of two thousand calls."""
        took = []
        for _ in range(2000):
            begun = time.perf_counter()
            breaker.call(int)
            took.append(time.perf_counter() - begun)
        return sorted(took)[-20]

    # Neighbours on the machine disturb some rounds of both; a call that waits for an export would be late in all.
    extra = []
    for _ in range(5):
        alone = late()
        with exporting(broken, protocol, private, timeout=0.2, interval=0.01):
            extra.append(late() - alone)
    assert min(extra) < 0.001


@both
def test_what_recovers_is_told_as_well(otlp: OtlpReceiver, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "resilient.telemetry")

    class Broken(Collector):
        down = True

        def collect(self, sources: object = ()) -> list[Family]:
            if self.down:
                raise ValueError("secret")
            return super().collect()

    collector = Broken(Registry())
    exporter = OTLPExporter(endpoint_of(otlp, protocol), protocol=protocol, interval=3600)  # type: ignore[arg-type]
    exporter.start(collector)
    assert not exporter.flush(10)
    collector.down = False
    assert exporter.flush(10)
    exporter.shutdown(5)
    assert told(caplog) == [
        "DEBUG resilient.telemetry: OTLP export of metrics fails: ValueError",
        "DEBUG resilient.telemetry: OTLP export of metrics works again",
    ]


def test_deltas_that_did_not_arrive_come_with_the_next_export(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta")
    from resilient.telemetry import otlp_sdk

    private = Registry()
    breaker = circuit_breaker("payments", registry=private)
    send = otlp_sdk.MetricSender.send
    with exporting(otlp.grpc_endpoint, "grpc", private) as exporter:
        for arrives in (True, False, False, True):
            for _ in range(5):
                breaker.call(int)
            monkeypatch.setattr(otlp_sdk.MetricSender, "send", send if arrives else lambda *_: False)
            assert exporter.flush(10) == arrives
    points = [
        one
        for one in otlp.data_points("resilience.circuit_breaker.calls")
        if one.attributes["resilience.circuit_breaker.result"] == "success"
    ]
    assert [one.value for one in points] == [5, 15, 0]
    assert all(before.time == after.start for before, after in pairwise(points))


@both
def test_memory_is_bounded_while_nothing_arrives(
    refused_port: int, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    private = Registry()

    def export(times: int) -> int:
        for number in range(times):
            breaker = circuit_breaker(f"policy {number % 3}", registry=private)
            breaker.call(int)
            private.remove(type(breaker), f"policy {number % 3}")
            exporter.flush(5)
        gc.collect()
        return len(gc.get_objects())

    with exporting(f"http://{HOST}:{refused_port}", protocol, private, timeout=0.02) as exporter:
        export(20)
        before = export(10)
        assert export(40) - before < 100


def test_secrets_of_the_endpoint_stay_out_of_the_log(refused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = f"http://user:password@{HOST}:{refused_port}"
    for protocol in PROTOCOLS:
        with exporting(endpoint, protocol, Registry(), timeout=0.05) as exporter:
            exporter.flush(5)
            assert "password" not in repr(exporter)
    assert any("OTLP" in line for line in told(caplog))
    assert "password" not in caplog.text


def test_the_sdk_still_logs_what_the_applications_own_exporters_do(
    refused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import MetricsData

    with exporting(f"http://{HOST}:{refused_port}", "grpc", Registry(), timeout=0.05) as exporter:
        exporter.flush(5)
    own = OTLPMetricExporter(endpoint=f"http://{HOST}:{refused_port}", timeout=0.05)
    own.export(MetricsData([]))
    own.shutdown()
    assert [record.levelname for record in caplog.records if record.name.startswith("opentelemetry")] == ["ERROR"]


def test_a_receiver_that_comes_up_late_is_found(otlp: OtlpReceiver, hanging: HangingServer) -> None:
    """A first export that hung does not keep the exporter from the next one."""
    private = Registry()
    with exporting(hanging.endpoint, "grpc", private, timeout=0.1, interval=0.05):
        eventually(lambda: hanging.connections)
        before = failures()
        eventually(lambda: failures() > before + 2)
