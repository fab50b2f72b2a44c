"""Where the exporter registers, what it replaces, what it refuses, and the endpoint that it opens and closes."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

import resilient.telemetry.prometheus as module
from resilient import ConfigurationError, Registry, bulkhead, retry
from resilient.telemetry.exporters import register_exporter, shutdown, unregister_exporter
from resilient.telemetry.prometheus import PrometheusExporter
from tests.forking import unmeasured
from tests.receivers.process import HOST, eventually
from tests.telemetry.prometheus_kit import (
    exported,
    scrape,
)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def shown() -> CollectorRegistry:
    return CollectorRegistry()


def test_registering_reads_no_meters(
    registry: Registry, shown: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[bool] = []
    monkeypatch.setattr(registry, "call_meters", lambda: reads.append(True) or {})
    with exported(registry, registry=shown):
        assert reads == []
        generate_latest(shown)
        assert reads == [True]


def test_registering_twice_replaces_ours(registry: Registry, shown: CollectorRegistry) -> None:
    other = Registry()
    bulkhead("first", registry=registry)
    bulkhead("second", registry=other)
    with exported(registry, registry=shown, port=0) as first, exported(other, registry=shown, port=0) as second:
        assert first.port is None
        text = scrape(second.port)
        assert ('"second"' in text, '"first"' in text) == (True, False)
        unregister_exporter(first)
        assert '"second"' in generate_latest(shown).decode()
    assert generate_latest(shown) == b""


def test_the_port_of_the_exporter_that_it_replaces_is_free_for_it(registry: Registry, shown: CollectorRegistry) -> None:
    with exported(registry, registry=shown, port=0) as first:
        port = first.port
        with exported(registry, registry=shown, port=port) as second:
            assert (first.port, second.port) == (None, port)


@pytest.mark.parametrize("whole", [False, True])
def test_it_replaces_what_an_older_load_of_the_module_has_left(
    whole: bool, registry: Registry, shown: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulkhead("files", registry=registry)
    with exported(registry, registry=shown, port=0) as older:
        if whole:
            monkeypatch.delitem(sys.modules, module.__name__)
        else:
            for name in vars(module):
                monkeypatch.setattr(module, name, getattr(module, name))
        newer = (importlib.import_module if whole else importlib.reload)(
            module.__name__ if whole else module  # type: ignore[arg-type]
        )
        assert newer.PrometheusExporter is not type(older)
        again = register_exporter(newer.PrometheusExporter(registry=shown), registry=registry)
        try:
            assert older.port is None
            assert generate_latest(shown).decode().count("# TYPE resilience_bulkhead_limit ") == 1
        finally:
            unregister_exporter(again)


@pytest.mark.parametrize("name", ["resilience_retry_attempts", "resilience_call_duration_seconds_bucket"])
def test_a_metric_of_the_application_is_never_replaced(name: str, registry: Registry, shown: CollectorRegistry) -> None:
    theirs = Gauge(name, "Theirs.", registry=shown)
    theirs.set(7)
    exporter = PrometheusExporter(registry=shown, port=0)
    with pytest.raises(ConfigurationError, match=rf"Gauge '{name}' .* rename it, or .* registry=CollectorRegistry\(\)"):
        register_exporter(exporter, registry=registry)
    assert exporter.port is None
    assert shown.get_sample_value(name) == 7


def test_an_exporter_of_ours_stays_where_a_metric_of_the_application_is_in_the_way(
    registry: Registry, shown: CollectorRegistry
) -> None:
    bulkhead("files", registry=registry)
    with exported(registry, registry=shown):
        # As it is where prometheus_client learns new names of its own for a metric that the application has.
        shown._names_to_collectors["resilience_throttle_calls_created"] = Gauge("theirs", "Theirs.", registry=None)
        with pytest.raises(ConfigurationError, match="'resilience_throttle_calls_created'"):
            register_exporter(PrometheusExporter(registry=shown), registry=registry)
        assert b"resilience_bulkhead_limit" in generate_latest(shown)


def test_an_application_may_empty_its_registry(registry: Registry, shown: CollectorRegistry) -> None:
    exporter = register_exporter(PrometheusExporter(registry=shown), registry=registry)
    for collector in list(shown._collector_to_names):
        shown.unregister(collector)
    assert unregister_exporter(exporter)


@pytest.mark.parametrize(
    "settings",
    [{"port": -1}, {"port": 65536}, {"port": True}, {"port": "9464"}, {"addr": ""}, {"registry": 7}, {"created": 1}],
)
def test_a_wrong_setting_is_told_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"PrometheusExporter: {next(iter(settings))}="):
        PrometheusExporter(**settings)


def test_a_port_that_is_taken_is_told_and_nothing_is_left_behind(registry: Registry, shown: CollectorRegistry) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        exporter = PrometheusExporter(registry=shown, port=port)
        with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{port} .*: give another port="):
            register_exporter(exporter, registry=registry)
    assert generate_latest(shown) == b""
    register_exporter(exporter, registry=registry)
    assert exporter.port == port
    unregister_exporter(exporter)


def test_an_address_that_is_none_of_this_machine_is_told(registry: Registry, shown: CollectorRegistry) -> None:
    with pytest.raises(ConfigurationError, match=r"can't listen on 192\.0\.2\.1:0"):
        register_exporter(PrometheusExporter(port=0, addr="192.0.2.1", registry=shown), registry=registry)


def test_shutdown_closes_the_endpoint_and_leaves_no_thread(registry: Registry, shown: CollectorRegistry) -> None:
    before = set(threading.enumerate())
    exporter = register_exporter(PrometheusExporter(port=0, registry=shown), registry=registry)
    port = exporter.port
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    assert exporter.flush(1.0)
    shutdown(timeout=5.0)
    assert exporter.port is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=5.0)
    eventually(lambda: set(threading.enumerate()) <= before, timeout=5.0)
    assert generate_latest(shown) == b""


@pytest.mark.realtime
def test_shutdown_keeps_to_its_time_although_the_server_takes_longer(registry: Registry) -> None:
    with exported(registry, port=0) as exporter:
        scrape(exporter.port)
        started = time.monotonic()
        exporter.shutdown(0.05)
        assert time.monotonic() - started < 0.3


def test_it_can_be_registered_again(registry: Registry, shown: CollectorRegistry) -> None:
    retry(name="again", registry=registry)
    exporter = PrometheusExporter(port=0, registry=shown)
    for _ in range(2):
        register_exporter(exporter, registry=registry)
        assert "resilience_retry_calls_total" in scrape(exporter.port)
        unregister_exporter(exporter)


FORKING = """
import os, signal, socket, sys
from prometheus_client import generate_latest
from resilient import Registry, bulkhead
from resilient.telemetry.exporters import register_exporter, shutdown
from resilient.telemetry.prometheus import PrometheusExporter
registry = Registry()
bulkhead("files", registry=registry)
exporter = register_exporter(PrometheusExporter(port=0, created=True), registry=registry)
port = exporter.port
ready, go = os.pipe()
lock = exporter._bridge._lock
lock.acquire()  # as a thread has it in the middle of a scrape
child = os.fork()
if not child:
    signal.alarm(10)
    os.close(go)
    assert b"resilience_bulkhead_limit" in generate_latest()
    os.read(ready, 1)  # until the parent has let go of the port
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5.0)
    except ConnectionRefusedError:
        os._exit(0 if exporter.port is None else 1)
    os._exit(2)
lock.release()
shutdown(timeout=5)
os.close(go)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_does_not_serve_and_holds_no_port() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
