"""What a Prometheus sees of the policies: a real one where it scrapes, prometheus_client's parsers elsewhere."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest, openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import CircuitBreaker, Registry, bulkhead, circuit_breaker
from resilient.core.meters import Exemplar
from resilient.telemetry.catalogue import CATALOGUE, Metric
from resilient.telemetry.collecting import SOURCES, Collector, Reading
from resilient.testing import FakeClock, fake_clock
from tests.receivers.process import eventually
from tests.receivers.prometheus import Prometheus, promtool
from tests.telemetry.prometheus_kit import (
    COUNTS,
    DURATIONS,
    OPEN_METRICS,
    Series,
    expected,
    exported,
    scrape,
    scripted,
    series_of,
)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def shown() -> CollectorRegistry:
    return CollectorRegistry()


def seen_by(prometheus: Prometheus, port: int) -> Series:
    """All series of ours that it has scraped at this port."""
    chosen = f'{{__name__=~"resilience_.+", instance="{prometheus.instance_of(port)}"}}'
    found: Series = {}
    for sample in prometheus.query(chosen):
        labels = sorted(
            (name, text) for name, text in sample.labels.items() if name not in {"__name__", "instance", "job"}
        )
        found[sample.name, tuple(labels)] = sample.value
    return found


def own(series: Series) -> Series:
    """Without what belongs to the process: failures of exporters that other tests have had."""
    return {key: value for key, value in series.items() if not key[0].startswith("resilience_telemetry_export")}


@pytest.mark.realtime
def test_a_run_over_all_policies_arrives_exactly(prometheus: Prometheus, registry: Registry, clock: FakeClock) -> None:
    scripted(registry, clock)
    port = prometheus.target()
    with exported(registry, port=port):
        found = eventually(lambda: seen_by(prometheus, port))
        assert own(found) == own(expected(registry))

    for name, counts in COUNTS.items():
        arrived = {
            (dict(labels).get("resilience_policy_name"), *(text for key, text in labels if "policy_name" not in key)): (
                value
            )
            for (sample, labels), value in found.items()
            if sample == name
        }
        assert arrived == counts, name
    for (pipeline, outcome, error), durations in DURATIONS.items():
        labels = {"resilience_pipeline_name": pipeline, "resilience_outcome": outcome}
        labels |= {"error_type": error} if error else {}
        key = tuple(sorted(labels.items()))
        assert found["resilience_call_duration_seconds_sum", key] == sum(durations)
        assert found["resilience_call_duration_seconds_count", key] == len(durations)
        for bound in (0.1, 0.25, 0.5, 0.75, 1.0, 2.5):
            bucket = tuple(sorted([*key, ("le", str(bound))]))
            below = sum(duration <= bound for duration in durations)
            assert found["resilience_call_duration_seconds_bucket", bucket] == below


@pytest.mark.realtime
def test_series_of_a_removed_policy_vanish(prometheus: Prometheus, registry: Registry) -> None:
    port = prometheus.target()
    for name in ("kept", "gone"):
        circuit_breaker(name, registry=registry)
    chosen = f'resilience_circuit_breaker_state{{instance="{prometheus.instance_of(port)}", %s}}'
    with exported(registry, port=port):
        prometheus.wait_for(chosen % 'resilience_policy_name="gone"', lambda found: len(found) == 5)
        registry.remove(CircuitBreaker, "gone")
        prometheus.wait_for(chosen % 'resilience_policy_name="gone"', lambda found: not found)
        assert len(prometheus.query(chosen % 'resilience_policy_name="kept"')) == 5


@pytest.mark.realtime
def test_exemplars_come_back_from_prometheus(prometheus: Prometheus, registry: Registry) -> None:
    port = prometheus.target()
    histogram = registry.call_meter("orders").success
    at = time.time_ns()
    for value, trace in ((0.02, 0xA), (0.021, 0xB), (30.0, 0xC)):
        histogram.observe(value)
        histogram.exemplify(Exemplar(value, trace, trace << 4, at))
    chosen = f'resilience_call_duration_seconds_bucket{{instance="{prometheus.instance_of(port)}"}}'
    with exported(registry, port=port):
        found = eventually(lambda: prometheus.exemplars(chosen))
    assert {(one.series["le"], one.value, one.labels["trace_id"], one.labels["span_id"]) for one in found} == {
        ("0.025", 0.021, f"{0xB:032x}", f"{0xB0:016x}"),
        ("+Inf", 30.0, f"{0xC:032x}", f"{0xC0:016x}"),
    }
    assert all(one.timestamp == pytest.approx(at / 1e9, abs=0.01) for one in found)


def test_both_formats_of_a_scrape_say_the_same(registry: Registry, clock: FakeClock) -> None:
    scripted(registry, clock)
    with exported(registry, port=0) as exporter:
        text = list(parse_text(scrape(exporter.port)))
        metrics = list(parse_openmetrics(scrape(exporter.port, OPEN_METRICS)))
    assert own(series_of(text)) == own(series_of(metrics)) == own(expected(registry))

    entries = {entry.prometheus_name: entry for entry in CATALOGUE}
    types = {"counter": "counter", "histogram": "histogram", "updown": "gauge", "gauge": "gauge"}
    units = {"s": "seconds"}
    for metric in metrics:
        entry = entries[metric.name]
        assert (metric.type, metric.documentation) == (types[entry.kind], entry.meaning)
        assert metric.unit == ("ratio" if metric.name.endswith("_ratio") else units.get(entry.unit, ""))
    assert {metric.name: (metric.type, metric.documentation) for metric in text} == {
        metric.name: (metric.type, metric.documentation) for metric in metrics
    }
    assert {metric.unit for metric in metrics} == {"", "seconds", "ratio"}


def test_labels_are_those_of_the_catalogue_and_absent_where_they_do_not_apply(
    registry: Registry, clock: FakeClock
) -> None:
    scripted(registry, clock)
    with exported(registry, port=0) as exporter:
        families = list(parse_text(scrape(exporter.port)))
    entries = {entry.prometheus_name: entry for entry in CATALOGUE}
    bare: set[bool] = set()
    for metric in families:
        allowed = {attribute.replace(".", "_") for attribute in entries[metric.name].attributes}
        for sample in metric.samples:
            labels = set(sample.labels) - {"le"}
            assert labels <= allowed
            assert all(sample.labels.values())
            if metric.name == "resilience_call_duration_seconds":
                assert ("error_type" in labels) == (sample.labels["resilience_outcome"] not in ("success", "fallback"))
                bare.add("error_type" in labels)
            else:
                assert labels == allowed
    assert bare == {True, False}


@pytest.mark.realtime
def test_promtool_finds_nothing_wrong_with_a_scrape(registry: Registry, clock: FakeClock) -> None:
    scripted(registry, clock)
    with exported(registry, port=0) as exporter:
        checked = promtool("check", "metrics", stdin=scrape(exporter.port))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_thousandth_series_takes_all_that_come_after_it(registry: Registry) -> None:
    for number in range(1003):
        registry.call_meter(f"p{number}").success.observe(0.5)
    with exported(registry, port=0) as exporter:
        found = series_of(parse_openmetrics(scrape(exporter.port, OPEN_METRICS)))
    counts = {key[1]: value for key, value in found.items() if key[0] == "resilience_call_duration_seconds_count"}
    assert len(counts) == 1000
    assert counts[(("otel_metric_overflow", "true"),)] == 4
    assert sum(counts.values()) == 1003
    overflow = ("resilience_metric_name", "resilience.call.duration")
    assert found["resilience_telemetry_overflow_total", (overflow,)] == 4


def test_series_of_creation_only_where_asked_for(registry: Registry, shown: CollectorRegistry) -> None:
    limit = bulkhead("files", registry=registry)
    limit.call(len, "")
    with exported(registry, port=0) as exporter:
        assert "_created" not in scrape(exporter.port, OPEN_METRICS)
    before = time.time()
    with exported(registry, registry=shown, created=True):
        first = created(shown)
        assert before <= min(first.values()) <= max(first.values()) <= time.time()
        limit.call(len, "")
        assert created(shown) == first
        assert set(first) == {
            "resilience_bulkhead_calls_created",
            "resilience_bulkhead_queue_duration_seconds_created",
            "resilience_call_duration_seconds_created",
            "resilience_telemetry_export_failures_created",
        }
        registry.clear()
        created(shown)
        bulkhead("files", registry=registry)
        assert created(shown)["resilience_bulkhead_calls_created"] > first["resilience_bulkhead_calls_created"]


def created(shown: CollectorRegistry) -> dict[str, float]:
    families = parse_openmetrics(openmetrics.exposition.generate_latest(shown).decode())
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if sample.name.endswith("_created")
    }


def test_counting_anew_is_a_new_creation(registry: Registry, shown: CollectorRegistry) -> None:
    with exported(registry, registry=shown, created=True):
        registry.call_meter("orders").success.observe(0.5)
        first = created(shown)["resilience_call_duration_seconds_created"]
        registry.clear()
        registry.call_meter("orders")
        assert created(shown)["resilience_call_duration_seconds_created"] > first


def test_one_metric_can_be_asked_for_by_name(registry: Registry) -> None:
    bulkhead("files", registry=registry)
    with exported(registry, port=0) as exporter:
        text = scrape(exporter.port, query="?name[]=resilience_bulkhead_limit")
    assert [family.name for family in parse_text(text)] == ["resilience_bulkhead_limit"]


def broken() -> Iterator[Reading]:
    raise ZeroDivisionError("secret")
    yield


def unreadable() -> Iterator[Reading]:
    yield Metric("made.up", "counter", "1", (), "Made up."), (), "seven"  # type: ignore[misc]


@pytest.mark.parametrize("source, ours", [(broken, False), (unreadable, True)])
def test_a_scrape_that_fails_inside_spares_the_metrics_of_others(
    source: Any,
    ours: bool,
    registry: Registry,
    shown: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "resilient.prometheus")
    bulkhead("files", registry=registry)
    Counter("theirs", "Theirs.", registry=shown).inc()

    with exported(registry, registry=shown):
        before = failures_of(registry)
        monkeypatch.setattr("resilient.telemetry.collecting.SOURCES", [*SOURCES, source])
        for _ in range(3):
            text = generate_latest(shown).decode()
            assert ("theirs_total 1.0" in text, "resilience_bulkhead_limit" in text) == (True, ours)
        monkeypatch.undo()
        assert failures_of(registry) == before + 3
        caplog.set_level(logging.DEBUG, "resilient.prometheus")
        for _ in range(3):
            assert b"resilience_bulkhead_limit" in generate_latest(shown)
    messages = [record.getMessage() for record in caplog.records if record.name == "resilient.prometheus"]
    assert len(messages) == 2
    assert "secret" not in messages[0]
    assert messages[1] == "metrics are shown again"


def failures_of(registry: Registry) -> int:
    (family,) = [one for one in Collector(registry).collect() if one.metric.name.endswith("export.failures")]
    value = family.series[(("resilience.exporter.name", "prometheus"),)]
    assert isinstance(value, int)
    return value


def test_a_name_that_utf_8_can_not_hold_breaks_no_scrape(registry: Registry) -> None:
    bulkhead("fi\udc80les", registry=registry)
    bulkhead('Dörte "\\\n', registry=registry)
    with exported(registry, port=0) as exporter:
        for parse, accept in ((parse_text, "text/plain"), (parse_openmetrics, OPEN_METRICS)):
            (family,) = [one for one in parse(scrape(exporter.port, accept)) if one.name == "resilience_bulkhead_limit"]
            assert {sample.labels["resilience_policy_name"] for sample in family.samples} == {"fi?les", 'Dörte "\\\n'}


PAGE = Path(__file__).parents[2] / "docs" / "prometheus.md"


@pytest.mark.realtime
@pytest.mark.parametrize("expression", re.findall(r"```promql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_what_the_page_asks_prometheus_can_answer(prometheus: Prometheus, expression: str) -> None:
    prometheus.query(expression)
    known = {name for entry in CATALOGUE for name in entry.prometheus_samples}
    known |= {name.replace(".", "_") for entry in CATALOGUE for name in entry.attributes}
    assert set(re.findall(r"\b(?:resilience|error)_\w+", expression)) <= known
