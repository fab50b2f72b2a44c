"""The rules for Prometheus: well-formed, about metrics that exist, and true to their word in promtool's tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from resilient.telemetry.catalogue import CALL_DURATION, CIRCUIT_STATE, CIRCUIT_TRANSITIONS, RETRY_BACKOFF
from resilient.telemetry.promql import all_but, sample, select
from resilient.telemetry.rules import ALERTS, RECORDINGS, Alert, prometheus_rules
from tests.receivers.prometheus import promtool
from tests.telemetry.alert_cases import CASES, Case
from tests.telemetry.promql_kit import ADDED_BY_PROMETHEUS, named, unknown

RECORDED = frozenset(recording.name for recording in RECORDINGS)
BY_NAME = {alert.name: alert for alert in ALERTS}
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rules") / "resilience.rules.yml"
    file.write_text(prometheus_rules(), encoding="utf-8")
    return file


def test_every_alert_that_was_promised_is_there() -> None:
    assert {alert.name: (alert.hold, alert.severity) for alert in ALERTS} == {
        "ResilienceCircuitOpen": ("1m", "critical"),
        "ResilienceCircuitFlapping": ("0s", "warning"),
        "ResilienceRetryStorm": ("5m", "warning"),
        "ResilienceHighFailureRatio": ("5m", "critical"),
        "ResilienceBulkheadSaturated": ("5m", "warning"),
        "ResilienceFallbackServing": ("10m", "warning"),
        "ResilienceTelemetryOverflow": ("0s", "warning"),
    }


def test_promtool_finds_nothing_wrong_with_the_rules(rule_file: Path) -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", rule_file)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(RECORDINGS) + len(ALERTS)} rules found" in checked.stdout


def test_the_text_is_the_yaml_of_the_rules() -> None:
    (group,) = yaml.safe_load(prometheus_rules())["groups"]
    recordings, alerts = group["rules"][: len(RECORDINGS)], group["rules"][len(RECORDINGS) :]

    assert recordings == [{"record": one.name, "expr": one.expression} for one in RECORDINGS]
    assert alerts == [
        {
            "alert": one.name,
            "expr": one.expression,
            "for": one.hold,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.summary, "description": one.description},
        }
        for one in ALERTS
    ]


def test_no_line_of_the_text_breaks_a_template() -> None:
    assert all(line.count("{{") == line.count("}}") for line in prometheus_rules().splitlines())
    assert prometheus_rules().isascii()


@pytest.mark.parametrize("rule", [*RECORDINGS, *ALERTS], ids=lambda rule: rule.name)
def test_rules_name_only_what_the_catalogue_has(rule: Any) -> None:
    assert list(unknown(rule.expression, RECORDED)) == []


@pytest.mark.parametrize(
    "expression, what",
    [
        ("sum(resilience_retry_call_total)", "metric resilience_retry_call_total"),
        ("sum by (policy) (resilience_retry_calls_total)", "kept label policy"),
        ('resilience_retry_calls_total{result="budget"}', "label result of resilience_retry_calls_total"),
        (
            'resilience_circuit_breaker_state{resilience_circuit_breaker_state=~"open|halfopen"}',
            "resilience_circuit_breaker_state='halfopen' of resilience_circuit_breaker_state",
        ),
        ("rate(resilience_call_duration_seconds[5m])", "metric resilience_call_duration_seconds"),
        ("sum by (le) (resilience_call_duration_seconds_count)", "kept label le"),
    ],
)
def test_what_the_catalogue_has_not_got_would_be_found(expression: str, what: str) -> None:
    assert list(unknown(expression)) == [what]


def labels_of_result(expression: str) -> set[str]:
    """What its outermost aggregation keeps, or that of the recorded series which it reads."""
    found = named(expression)
    if found.kept:
        return found.kept[0]
    return set.intersection(*(labels_of_result(one.expression) for one in RECORDINGS if one.name in found.samples))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_tell_only_of_labels_that_they_have_and_of_the_job_always(alert: Alert) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))

    assert used <= labels_of_result(alert.expression)
    assert "job" in re.findall(r"\$labels\.(\w+)", alert.summary)
    assert used - ADDED_BY_PROMETHEUS, "nobody would know which policy it is about"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_say_what_to_do(alert: Alert) -> None:
    assert len(alert.description) > 250
    assert len(alert.summary) < 200


def said(text: str, case: Case) -> str:
    assert case.value is not None
    told = {"job": "app", **dict(case.labels)}
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: told[found[1]], text)
    return re.sub(r"{{ \$value \| [^}]+ }}", case.value, text)


def complaints(rule_file: Path, case: Case, **more: object) -> str:
    """What promtool has to say against the case; empty if it is as it says."""
    expected = []
    if case.value is not None:
        alert = BY_NAME[case.alert]
        labels = {"severity": alert.severity, "job": "app", **dict(case.labels)}
        told = {"summary": said(alert.summary, case), "description": said(alert.description, case)}
        expected.append({"exp_labels": labels, "exp_annotations": told})
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    test = {
        "interval": "30s",
        "input_series": series,
        "alert_rule_test": [{"alertname": case.alert, "eval_time": case.at, "exp_alerts": expected}],
        **more,
    }
    file = rule_file.with_name("cases.yml")
    file.write_text(json.dumps({"rule_files": [rule_file.name], "evaluation_interval": "30s", "tests": [test]}))
    done = promtool("test", "rules", file)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.title}")
def test_alerts_fire_and_stay_silent(case: Case, rule_file: Path) -> None:
    assert complaints(rule_file, case) == ""


def test_each_alert_is_seen_firing_and_silent() -> None:
    assert {(case.alert, case.value is None) for case in CASES} == {
        (name, silent) for name in BY_NAME for silent in (True, False)
    }


def test_a_case_that_is_not_so_fails(rule_file: Path) -> None:
    fires = next(case for case in CASES if case.value is not None)

    assert "FAILED" in complaints(rule_file, Case(fires.title, fires.alert, fires.series, fires.at))


def test_the_summary_reads_as_a_sentence() -> None:
    case = next(case for case in CASES if case.title == "one call in ten fails")

    assert said(BY_NAME[case.alert].summary, case) == "10% of the calls through pay of app fail"


def test_a_pipeline_that_never_failed_has_a_ratio_of_zero(rule_file: Path) -> None:
    case = next(case for case in CASES if case.title == "nothing has ever failed")
    ratio = "pipeline:resilience_call_duration_seconds_count:failure_ratio_rate5m"
    expected = {"labels": f'{ratio}{{job="app",resilience_pipeline_name="pay"}}', "value": 0}

    asked = [{"expr": ratio, "eval_time": "10m", "exp_samples": [expected]}]
    assert complaints(rule_file, case, promql_expr_test=asked) == ""


def test_the_page_has_a_section_for_each_alert_and_a_row_for_each_recorded_series() -> None:
    page = (DOCS / "alerts.md").read_text(encoding="utf-8")

    assert re.findall(r"^### (\w+)\n\n(\w+)", page, re.MULTILINE) == [(one.name, one.severity) for one in ALERTS]
    assert re.findall(r"^\| `([\w:]+)` \|", page, re.MULTILINE) == [one.name for one in RECORDINGS]
    for part in ("What it means", "What to look at", "What to do"):
        assert page.count(f"*{part}.*") == len(ALERTS)


def test_an_expression_can_not_be_built_of_what_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"resilience\.circuit_breaker\.state .* is never \['opened'\]"):
        select(CIRCUIT_STATE, ("opened",))
    with pytest.raises(ValueError, match="has only"):
        select(RETRY_BACKOFF, ("open",))
    with pytest.raises(ValueError, match="is never"):
        select(CIRCUIT_STATE, ())
    with pytest.raises(ValueError, match="is one of"):
        all_but(CALL_DURATION, "canceled")
    with pytest.raises(ValueError, match="has no bucket"):
        sample(RETRY_BACKOFF, "bucket")
    with pytest.raises(ValueError, match="too many"):
        sample(CALL_DURATION)


def test_an_expression_may_leave_an_attribute_open() -> None:
    assert select(CIRCUIT_TRANSITIONS, None, ("open",)) == (
        'resilience_circuit_breaker_transitions_total{resilience_circuit_breaker_to="open"}'
    )
