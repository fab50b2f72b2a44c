"""Rules and dashboard over a real Prometheus that scrapes policies at work."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from resilient import Registry, retry
from resilient.telemetry import exporters
from resilient.telemetry.collecting import Collector
from resilient.telemetry.dashboard import grafana_dashboard
from resilient.telemetry.prometheus import PrometheusExporter
from resilient.telemetry.rules import ALERTS, RECORDINGS, prometheus_rules
from tests.receivers.process import eventually
from tests.receivers.prometheus import Prometheus
from tests.telemetry.every_policy import answer, run

pytestmark = pytest.mark.realtime

PANELS = [panel for panel in json.loads(grafana_dashboard())["panels"] if panel["type"] != "row"]
MAX_SERIES = 20
CHOICES = {"$__rate_interval": "1m", "$job": ".*", "$pipeline": "calls", "$policy": "upstream|calls"}


@dataclass
class Live:
    prometheus: Prometheus
    registry: Registry


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A Prometheus with the rules, and policies that are at work until the last test has ended."""
    rules = tmp_path_factory.mktemp("live") / "resilience.rules.yml"
    rules.write_text(prometheus_rules(), encoding="utf-8")
    registry, over = Registry(), threading.Event()
    collector = Collector(registry, max_series=MAX_SERIES)
    run(registry)
    for number in range(MAX_SERIES):
        retry(name=f"one too many {number}", registry=registry).call(answer)
    with pytest.MonkeyPatch.context() as patch, Prometheus.started(targets=1, rules=rules) as prometheus:
        exporter = PrometheusExporter(prometheus.target(), registry=CollectorRegistry())
        exporter.start(collector)
        patch.setattr(exporters, "_failures", {exporter.name: 0})

        def work() -> None:
            while not over.wait(0.3):
                run(registry)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            # Rates need two scrapes.
            prometheus.wait_for("rate(resilience_retry_calls_total[1m]) > 0")
            yield Live(prometheus, registry)
        finally:
            over.set()
            worker.join()
            exporter.shutdown(5.0)


def test_prometheus_evaluates_every_rule(live: Live) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in live.prometheus.api("rules")["groups"] for rule in group["rules"]]

    evaluated = eventually(rules, lambda found: all(rule["health"] == "ok" for rule in found))

    assert [rule["name"] for rule in evaluated] == [rule.name for rule in (*RECORDINGS, *ALERTS)]
    assert not any(rule.get("lastError") for rule in evaluated)


@pytest.mark.parametrize("name", [recording.name for recording in RECORDINGS])
def test_every_recorded_series_is_there(name: str, live: Live) -> None:
    assert live.prometheus.wait_for(f'{{__name__="{name}"}}')


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_every_panel_shows_something(panel: dict[str, Any], live: Live) -> None:
    for target in panel["targets"]:
        query = target["expr"]
        for choice, value in CHOICES.items():
            query = query.replace(choice, value)
        assert "$" not in query
        shown = live.prometheus.wait_for(query, timeout=5.0)
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert any(label in sample.labels for sample in shown)


def test_an_open_circuit_is_told_of(live: Live) -> None:
    def alerts() -> set[tuple[str, str]]:
        found = live.prometheus.api("alerts")["alerts"]
        return {(alert["labels"]["alertname"], alert["labels"].get("resilience_policy_name", "")) for alert in found}

    eventually(alerts, lambda found: ("ResilienceCircuitOpen", "upstream") in found)


def test_the_state_timeline_shows_the_state(live: Live) -> None:
    (panel,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    query = panel["targets"][0]["expr"].replace("$job", ".*").replace("$policy", "upstream")

    live.prometheus.wait_for(query, lambda found: [sample.value for sample in found] == [3.0])
