"""Sums over processes: what an ordinary MultiProcessCollector makes of the files that our workers write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import prometheus_client.values
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.values import MultiProcessValue, MutexValue

from resilient import Bulkhead, ConfigurationError, Registry, bulkhead, circuit_breaker
from resilient.telemetry import catalogue
from resilient.telemetry.collecting import Collector
from resilient.telemetry.exporters import register_exporter
from resilient.telemetry.prometheus import PrometheusExporter
from resilient.telemetry.prometheus_multiprocess import gauge_mode
from resilient.testing import FakeClock, fake_clock
from tests.receivers.process import eventually
from tests.telemetry.prometheus_kit import (
    ACCEPTED,
    POLICY,
    accepted_calls,
    expected,
    exported,
    scrape,
    scripted,
    summed,
    value,
)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


@pytest.fixture
def pid() -> list[int]:
    """What prometheus_client takes for the pid of this process."""
    return [os.getpid()]


@pytest.fixture
def files(folder: Path, pid: list[int], monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process writes into files, as if the variable had been there when prometheus_client was imported."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    monkeypatch.setattr(prometheus_client.values, "ValueClass", MultiProcessValue(lambda: pid[0]))
    return folder


def test_one_process_shows_what_a_scrape_shows(files: Path, registry: Registry, clock: FakeClock) -> None:
    scripted(registry, clock)
    with exported(registry) as exporter:
        assert exporter.flush(5.0)
        assert summed(files) == expected(registry)


def test_nothing_is_shown_twice_by_the_registry_of_the_application(files: Path, registry: Registry) -> None:
    bulkhead("files", registry=registry)
    shown = CollectorRegistry()
    with exported(registry, registry=shown):
        assert list(shown.collect()) == []


def test_at_shutdown_counts_stay_and_gauges_go_to_zero(files: Path, registry: Registry) -> None:
    limit = bulkhead("files", max_concurrent=7, registry=registry)
    breaker = circuit_breaker("payments", registry=registry)
    with exported(registry) as exporter:
        exporter.flush(5.0)
        assert value(files, "resilience_bulkhead_limit", **{POLICY: "files"}) == 7
        limit.call(len, "")
        breaker.trip()
    found = summed(files)
    assert (
        found["resilience_bulkhead_calls_total", (("resilience_bulkhead_result", "accepted"), (POLICY, "files"))] == 1
    )
    assert found["resilience_bulkhead_limit", ((POLICY, "files"),)] == 0
    states = [number for (name, _), number in found.items() if name == "resilience_circuit_breaker_state"]
    assert states == [0] * 5


def test_gauges_are_added_up_unless_they_are_ratios() -> None:
    gauges = [entry for entry in catalogue.CATALOGUE if entry.kind in ("gauge", "updown")]
    assert {entry.name: gauge_mode(entry) for entry in gauges if gauge_mode(entry) != "livesum"} == {
        "resilience.circuit_breaker.failure_ratio": "livemax",
        "resilience.throttle.rejection_ratio": "livemax",
    }


@pytest.mark.parametrize("first, second", [(0.75, 0.25), (0.25, 0.75), (None, 0.75), (0.75, None)])
def test_of_ratios_the_worst_is_shown(
    first: float | None, second: float | None, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        for number, share in ((1, first), (2, second)):
            private = Registry()
            breaker = circuit_breaker(
                "payments", failure_rate=1.0, minimum_calls=4, open_duration=1000, registry=private
            )
            for call in range(0 if share is None else 4):
                with suppress(OSError):
                    breaker.call(fail if call < 4 * (share or 0) else len, "")
            assert stack.enter_context(worker(number, private, monkeypatch)).flush(5.0)
        assert value(files, "resilience_circuit_breaker_failure_ratio", **{POLICY: "payments"}) == 0.75


def fail(_: object) -> int:
    raise OSError


@contextmanager
def worker(pid: int, counted: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrometheusExporter]:
    """An exporter as another process would have it."""
    monkeypatch.setattr(prometheus_client.values, "ValueClass", MultiProcessValue(lambda: pid))
    exporter = PrometheusExporter(registry=CollectorRegistry())
    exporter.start(Collector(counted))
    try:
        yield exporter
    finally:
        exporter.shutdown(5.0)


def test_two_workers_are_one(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        for number in (1, 2):
            private = Registry()
            limit = bulkhead("files", max_concurrent=10, registry=private)
            breaker = circuit_breaker("payments", registry=private)
            for _ in range(number):
                limit.call(len, "")
                private.call_meter("orders").success.observe(0.5)
            breaker.trip()
            assert stack.enter_context(worker(number, private, monkeypatch)).flush(5.0)
        found = summed(files)
    assert found[ACCEPTED] == 3
    assert found["resilience_bulkhead_limit", ((POLICY, "files"),)] == 20
    state = "resilience_circuit_breaker_state"
    assert {dict(key)[state]: number for (name, key), number in found.items() if name == state} == {
        "closed": 0,
        "open": 2,
        "half_open": 0,
        "forced_open": 0,
        "disabled": 0,
    }
    success = ("resilience_outcome", "success"), ("resilience_pipeline_name", "orders")
    for bound, count in (("0.25", 0), ("0.5", 3), ("+Inf", 3)):
        bucket = tuple(sorted([*success, ("le", bound)]))
        assert found["resilience_call_duration_seconds_bucket", bucket] == count
    assert found["resilience_call_duration_seconds_count", success] == 3
    assert found["resilience_call_duration_seconds_sum", success] == 1.5


def test_what_ended_workers_have_counted_stays(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in (1, 2, 1):  # a pid comes round again
        private = Registry()
        limit = bulkhead("files", registry=private)
        with worker(pid, private, monkeypatch):
            limit.call(len, "")
            private.call_meter("orders").success.observe(0.5)
    found = summed(files)
    assert found[ACCEPTED] == 3
    success = ("resilience_outcome", "success"), ("resilience_pipeline_name", "orders")
    assert found["resilience_call_duration_seconds_sum", success] == 1.5


@pytest.mark.parametrize("seen_between", [True, False])
def test_counts_go_on_where_a_policy_is_removed_and_made_again(
    seen_between: bool, files: Path, registry: Registry
) -> None:
    with exported(registry) as exporter:
        for calls in (3, 2):
            limit = bulkhead("files", registry=registry)
            for _ in range(calls):
                limit.call(len, "")
            exporter.flush(5.0)
            registry.remove(Bulkhead, "files")
            if seen_between:
                exporter.flush(5.0)
                assert value(files, "resilience_bulkhead_limit", **{POLICY: "files"}) == 0
        assert accepted_calls(files) == 5


def test_an_exporter_that_comes_later_goes_on_from_what_is_written(files: Path, registry: Registry) -> None:
    limit = bulkhead("files", registry=registry)
    for number in (1, 2, 3):
        with exported(registry):
            limit.call(len, "")
        assert accepted_calls(files) == number


def test_two_exporters_count_once(files: Path, registry: Registry) -> None:
    shown = CollectorRegistry()
    bulkhead("files", registry=registry).call(len, "")
    with exported(registry, registry=shown) as first, exported(registry, registry=shown) as second:
        assert second.flush(5.0)
        assert first.flush(5.0)
        assert accepted_calls(files) == 1
        assert value(files, "resilience_bulkhead_limit", **{POLICY: "files"}) == 10


def test_a_second_exporter_of_a_process_is_refused(files: Path, registry: Registry) -> None:
    with exported(registry), pytest.raises(ConfigurationError, match="another exporter writes them already"):
        register_exporter(PrometheusExporter(registry=CollectorRegistry()), registry=Registry())


def test_policies_that_another_exporter_had_stay_counted_once(files: Path, registry: Registry) -> None:
    other = Registry()
    bulkhead("files", registry=registry).call(len, "")
    bulkhead("others", registry=other).call(len, "")
    for counted in (registry, other, registry, other):
        with exported(counted):
            pass
        assert accepted_calls(files) == 1


def test_what_has_not_changed_is_not_written_again(
    files: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = registry.call_meter("orders").success
    orders.observe(0.5)
    written: list[float] = []
    with exported(registry) as exporter:
        exporter.flush(5.0)
        own = prometheus_client.values.ValueClass
        write = own.set
        with monkeypatch.context() as patched:
            patched.setattr(own, "set", lambda cell, number: written.append(number) or write(cell, number))
            exporter.flush(5.0)
            assert written == []
            orders.observe(0.5)
            exporter.flush(5.0)
            assert sorted(written) == [1.0, 2.0]  # the sum, and the bucket that it fell into


def test_what_can_not_be_read_costs_no_memory(files: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    bulkhead("files", registry=registry)
    made: list[object] = []
    with exported(registry) as exporter:
        assert exporter.flush(5.0)
        own = prometheus_client.values.ValueClass
        initialize = own.__init__
        with monkeypatch.context() as patched:
            patched.setattr(own, "__init__", lambda *args, **kwargs: made.append(initialize(*args, **kwargs)))
            patched.setattr(registry, "call_meters", lambda: 1 / 0)
            assert not exporter.flush(5.0)
            patched.undo()
            patched.setattr(own, "__init__", lambda *args, **kwargs: made.append(initialize(*args, **kwargs)))
            assert exporter.flush(5.0)
    assert made == []


def test_an_overflow_that_shrinks_is_no_new_beginning(files: Path, registry: Registry) -> None:
    for number in range(6):
        bulkhead(f"b{number}", registry=registry).call(len, "")
    exporter = PrometheusExporter(registry=CollectorRegistry())
    exporter.start(Collector(registry, max_series=12))  # b3 to b5 overflow, with one accepted call each
    overflow = "resilience_bulkhead_calls_total", (("otel_metric_overflow", "true"),)
    try:
        exporter.flush(5.0)
        assert summed(files)[overflow] == 3
        for number in (5, 4, 3, 2):
            registry.remove(Bulkhead, f"b{number}")
            exporter.flush(5.0)
            assert summed(files)[overflow] == 3
        for number in (2, 3, 4, 5):
            bulkhead(f"b{number}", registry=registry).call(len, "")
        exporter.flush(5.0)
        assert summed(files)[overflow] == 6
    finally:
        exporter.shutdown(5.0)


def test_files_that_were_closed_meanwhile_are_opened_again(files: Path, registry: Registry) -> None:
    limit = bulkhead("files", registry=registry)
    with exported(registry) as exporter:
        limit.call(len, "")
        assert exporter.flush(5.0)
        prometheus_client.values.ValueClass.close_all_files()  # type: ignore[union-attr]
        limit.call(len, "")
        assert not exporter.flush(5.0)
        assert exporter.flush(5.0)
        assert accepted_calls(files) == 2


def test_a_name_that_utf_8_can_not_hold_breaks_no_endpoint(files: Path, registry: Registry) -> None:
    bulkhead("fi\udc80les", registry=registry)
    with exported(registry, port=0) as exporter:
        exporter.flush(5.0)
        assert 'resilience_bulkhead_limit{resilience_policy_name="fi?les"} 10.0' in scrape(exporter.port)


@pytest.mark.realtime
def test_a_thread_writes_each_second(files: Path, registry: Registry) -> None:
    limit = bulkhead("files", registry=registry)
    with exported(registry):
        limit.call(len, "")
        eventually(lambda: accepted_calls(files) == 1, timeout=5.0)


@pytest.mark.realtime
def test_one_worker_serves_for_all_and_another_takes_over(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = [Registry(), Registry()]
    for one in private:
        bulkhead("files", registry=one).call(len, "")
    with worker(1, private[0], monkeypatch) as silent:
        assert silent.port is None
    first = PrometheusExporter(port=0, registry=CollectorRegistry())
    first.start(Collector(private[0]))
    monkeypatch.setattr(prometheus_client.values, "ValueClass", MultiProcessValue(lambda: 2))
    second = PrometheusExporter(port=first.port, registry=CollectorRegistry())
    second.start(Collector(private[1]))
    try:
        assert second.port is None
        port = first.port
        first.shutdown(5.0)
        assert eventually(lambda: second.port, timeout=10.0) == port
        assert "resilience_bulkhead_calls_total" in scrape(port)
    finally:
        first.shutdown(5.0)
        second.shutdown(5.0)
    assert second.port is None


def test_a_directory_that_is_not_there_is_told(
    files: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(files / "none"))
    with pytest.raises(ConfigurationError, match="is no directory: make it"):
        register_exporter(PrometheusExporter(registry=CollectorRegistry()), registry=registry)


def test_a_variable_that_came_too_late_is_told(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_client.values, "ValueClass", MutexValue)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    with pytest.raises(ConfigurationError, match="set after prometheus_client was imported"):
        register_exporter(PrometheusExporter(registry=CollectorRegistry()), registry=registry)
