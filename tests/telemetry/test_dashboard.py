"""The dashboard: as its generator makes it, well laid out, and about metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.telemetry.catalogue import CATALOGUE
from resilient.telemetry.dashboard import grafana_dashboard
from tests.receivers.prometheus import promtool
from tests.telemetry.promql_kit import named, unknown

BOARD: dict[str, Any] = json.loads(grafana_dashboard())
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = {one["name"]: one for one in BOARD["templating"]["list"]}
TARGETS = [
    pytest.param(target, id=f"{number} {panel['title']} {target['refId']}")
    for number, panel in enumerate(PANELS)
    for target in panel["targets"]
]


def label_values() -> Iterator[tuple[str, str]]:
    """The series and the label of each variable that asks Prometheus."""
    for variable in VARIABLES.values():
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert found is not None
            yield found[1], found[2]


def test_the_shipped_file_is_what_the_generator_makes_now() -> None:
    from tools.dashboard import build

    assert grafana_dashboard() == build(), "run `python -m tools.dashboard`"


def test_each_part_has_its_row() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "Overview",
        "Circuit breakers",
        "Retries and budgets",
        "Timeouts",
        "Bulkheads and limiters",
        "Fallbacks and hedges",
        "Telemetry",
    ]


def test_it_can_be_narrowed_down_by_data_source_job_pipeline_and_policy() -> None:
    assert list(VARIABLES) == ["datasource", "job", "pipeline", "policy"]
    used = set(re.findall(r"\$\{?(\w+)", grafana_dashboard()))

    assert used == {*VARIABLES, "__rate_interval", "__all"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


@pytest.mark.parametrize("target", TARGETS)
def test_queries_name_only_what_the_catalogue_has(target: dict[str, Any]) -> None:
    assert list(unknown(target["expr"])) == []


@pytest.mark.parametrize("target", TARGETS)
def test_queries_follow_every_choice_that_there_is_for_their_metrics(target: dict[str, Any]) -> None:
    choices = {"job": "$job", "resilience_pipeline_name": "$pipeline", "resilience_policy_name": "$policy"}
    found = named(target["expr"])
    for name in found.samples:
        chosen = {label: value for one, label, value in found.matchers if one == name}
        owner = "resilience_pipeline_name" if name.startswith("resilience_call_") else "resilience_policy_name"
        if not name.startswith("resilience_telemetry_"):
            assert chosen[owner] == choices[owner]
        assert chosen["job"] == choices["job"]


@pytest.mark.parametrize("target", TARGETS)
def test_legends_have_the_labels_that_queries_keep(target: dict[str, Any]) -> None:
    kept = [labels - {"le"} for labels in named(target["expr"]).kept]
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))

    assert shown == (kept[0] if kept else set())


def test_variables_ask_for_what_the_catalogue_has() -> None:
    asked = list(label_values())

    assert [label for _, label in asked] == ["job", "resilience_pipeline_name", "resilience_policy_name"]
    for series, label in asked:
        assert list(unknown(f"sum by ({label}) ({series})")) == []


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    queries += [series for series, _ in label_values()]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))

    checked = promtool("check", "rules", file)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(queries)} rules found" in checked.stdout


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_every_metric_is_on_it(metric: Any) -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in named(target["expr"]).samples}

    assert shown & set(metric.prometheus_samples)


def test_panels_lie_side_by_side_and_not_upon_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
    height = 1 + max(y for _, y in taken)
    rows = sum(panel["type"] == "row" for panel in BOARD["panels"])
    assert height == rows + 8 * sum(panel["gridPos"]["x"] == 0 for panel in PANELS)


def test_panels_can_be_told_apart_and_say_what_they_show() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]

    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["description"].endswith(".")
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)
    for row in (panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"):
        assert row


def test_the_state_of_a_breaker_is_shown_by_its_name() -> None:
    (timeline,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    shown = {number: value["text"] for number, value in mapping["options"].items()}

    assert shown == {"0": "closed", "1": "disabled", "2": "half open", "3": "open", "4": "forced open"}
    (target,) = timeline["targets"]
    ranked = re.findall(r'circuit_breaker_state="(\w+)"} > bool 0\) \* (\d)', target["expr"])
    assert {number: state.replace("_", " ") for state, number in ranked} == {
        number: text for number, text in shown.items() if number != "0"
    }
