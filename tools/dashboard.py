"""Builds the Grafana dashboard that `resilient dashboard` prints: `python -m tools.dashboard` writes it anew."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from resilient.telemetry import catalogue as m
from resilient.telemetry.promql import INSTANCE, JOB, PIPELINE_LABEL, POLICY_LABEL, all_but, over, own_label, sample
from resilient.telemetry.rules import FAILED
from tools.panels import (
    HALF,
    SOURCE,
    WIDE,
    Panel,
    by_result,
    failure_ratio,
    lines,
    number,
    of,
    quantile,
    rates,
    series,
    share_of,
    states,
    target,
)

BUILT: Final = Path(__file__).parents[1] / "resilient" / "telemetry" / "dashboard.json"


def overview() -> list[Panel]:
    calls, outcome = m.CALL_DURATION, own_label(m.CALL_DURATION)
    return [
        number("Calls", "Guarded calls that ended, a second.", "reqps", rates(calls, part="count")),
        number(
            "Failure ratio",
            "Share of the calls whose caller got an error: failures, timeouts, rejections.",
            "percentunit",
            failure_ratio(),
            (0.01, "yellow"),
            (0.05, "red"),
        ),
        number("Latency p99", "All attempts and waits included.", "s", quantile(0.99, calls)),
        number("Active", m.CALL_ACTIVE.meaning + ".", "short", f"sum({series(m.CALL_ACTIVE)})"),
        lines(
            "Calls by outcome",
            "What the callers saw, a second.",
            "reqps",
            target(rates(calls, by=(outcome,), part="count"), of(outcome)),
            width=HALF,
        ),
        lines(
            "Failure ratio by pipeline",
            "Share of failures, timeouts and rejections.",
            "percentunit",
            target(failure_ratio(PIPELINE_LABEL), of(PIPELINE_LABEL)),
            width=HALF,
            full=True,
        ),
        lines(
            "Latency",
            m.CALL_DURATION.meaning + ".",
            "s",
            *(target(quantile(share, calls), f"p{share * 100:g}", exemplars=True) for share in (0.5, 0.95, 0.99)),
            width=HALF,
        ),
        lines(
            "Errors by type",
            "The exceptions that reached the callers, a second.",
            "reqps",
            target(
                rates(calls, FAILED, by=(PIPELINE_LABEL, own_label(calls, 1)), part="count"),
                of(PIPELINE_LABEL, own_label(calls, 1)),
            ),
            width=HALF,
        ),
    ]


def circuit_breakers() -> list[Panel]:
    changes = (POLICY_LABEL, own_label(m.CIRCUIT_TRANSITIONS), own_label(m.CIRCUIT_TRANSITIONS, 1))
    not_closed = ("open", "half_open", "forced_open")
    return [
        states(),
        by_result(m.CIRCUIT_CALLS, "Calls by result", m.CIRCUIT_CALLS.meaning + ", a second.", width=HALF),
        lines(
            "Failures in the window",
            m.CIRCUIT_FAILURE_RATIO.meaning + ".",
            "percentunit",
            target(over("max", (POLICY_LABEL,), series(m.CIRCUIT_FAILURE_RATIO)), of(POLICY_LABEL)),
            width=HALF,
            full=True,
        ),
        lines(
            "Changes of state",
            m.CIRCUIT_TRANSITIONS.meaning + ", a second.",
            "ops",
            target(rates(m.CIRCUIT_TRANSITIONS, by=changes), of(*changes)),
            width=HALF,
        ),
        lines(
            "Time not closed",
            "Share of the time in which a process did not let normal traffic through.",
            "percentunit",
            target(share_of(m.CIRCUIT_TIME, not_closed, by=(POLICY_LABEL,)), of(POLICY_LABEL)),
            width=HALF,
            full=True,
        ),
    ]


def retries() -> list[Panel]:
    attempts = rates(m.RETRY_ATTEMPTS, by=(POLICY_LABEL,))
    return [
        lines(
            "Attempts per call",
            "How much the retries multiply the load; 1 is none.",
            "none",
            target(f"{attempts} / ({rates(m.RETRY_CALLS, by=(POLICY_LABEL,))} > 0)", of(POLICY_LABEL)),
        ),
        by_result(m.RETRY_CALLS, "Calls by result", m.RETRY_CALLS.meaning + ", a second."),
        by_result(m.RETRY_ATTEMPTS, "Attempts by result", m.RETRY_ATTEMPTS.meaning + ", a second."),
        lines(
            "Given up for want of budget or time",
            "Calls a second that had attempts left, but no budget, or no time before the deadline.",
            "ops",
            target(
                rates(m.RETRY_CALLS, ("budget", "deadline"), by=(POLICY_LABEL, own_label(m.RETRY_CALLS))),
                of(POLICY_LABEL, own_label(m.RETRY_CALLS)),
            ),
            width=HALF,
        ),
        lines(
            "Calls in backoff",
            "How many calls wait for their next attempt, on average.",
            "short",
            target(rates(m.RETRY_BACKOFF, by=(POLICY_LABEL,)), of(POLICY_LABEL)),
            width=HALF,
        ),
    ]


def timeouts() -> list[Panel]:
    return [
        by_result(m.TIMEOUT_CALLS, "Calls by result", m.TIMEOUT_CALLS.meaning + ", a second."),
        lines(
            "Timed out",
            "Share of the calls that were not back in time.",
            "percentunit",
            target(share_of(m.TIMEOUT_CALLS, ("timed_out",), by=(POLICY_LABEL,)), of(POLICY_LABEL)),
            full=True,
        ),
        lines(
            "Orphaned",
            m.TIMEOUT_ORPHANED.meaning + ".",
            "short",
            target(over("sum", (POLICY_LABEL,), series(m.TIMEOUT_ORPHANED)), of(POLICY_LABEL)),
        ),
    ]


def limits() -> list[Panel]:
    process = (JOB, INSTANCE, POLICY_LABEL)

    def fill(usage: m.Metric, limit: m.Metric) -> str:
        parts = (over("sum", process, series(usage)), over("sum", process, series(limit)))
        return over("max", (POLICY_LABEL,), f"{parts[0]} / ({parts[1]} > 0)")

    used = f"1 - {over('min', (POLICY_LABEL,), f'{series(m.RATE_LIMITER_AVAILABLE)} / {series(m.RATE_LIMITER_LIMIT)}')}"
    return [
        lines(
            "Bulkhead saturation",
            "Permits in use and places in the queue taken, as a share of all, in the fullest process.",
            "percentunit",
            target(fill(m.BULKHEAD_USAGE, m.BULKHEAD_LIMIT), of(POLICY_LABEL)),
            target(fill(m.BULKHEAD_QUEUE_USAGE, m.BULKHEAD_QUEUE_LIMIT), of(POLICY_LABEL) + " queue"),
            full=True,
        ),
        by_result(m.BULKHEAD_CALLS, "Bulkhead calls by result", m.BULKHEAD_CALLS.meaning + ", a second."),
        lines(
            "Wait for a permit, p95",
            m.BULKHEAD_QUEUE_DURATION.meaning + ".",
            "s",
            target(quantile(0.95, m.BULKHEAD_QUEUE_DURATION, POLICY_LABEL), of(POLICY_LABEL)),
        ),
        lines(
            "Rate limiter saturation",
            "How much of a period's limit is used up, in the busiest process.",
            "percentunit",
            target(used, of(POLICY_LABEL)),
            full=True,
        ),
        by_result(m.RATE_LIMITER_CALLS, "Rate limiter calls by result", m.RATE_LIMITER_CALLS.meaning + ", a second."),
        lines(
            "Wait for a turn, p95",
            m.RATE_LIMITER_QUEUE_DURATION.meaning + ".",
            "s",
            target(quantile(0.95, m.RATE_LIMITER_QUEUE_DURATION, POLICY_LABEL), of(POLICY_LABEL)),
        ),
        lines(
            "Throttle",
            m.THROTTLE_RATIO.meaning + ".",
            "percentunit",
            target(over("max", (POLICY_LABEL,), series(m.THROTTLE_RATIO)), of(POLICY_LABEL)),
            width=HALF,
            full=True,
        ),
        by_result(m.THROTTLE_CALLS, "Throttle calls by result", m.THROTTLE_CALLS.meaning + ", a second.", width=HALF),
    ]


def second_choices() -> list[Panel]:
    return [
        by_result(m.FALLBACK_CALLS, "Fallback calls by result", m.FALLBACK_CALLS.meaning + ", a second.", width=HALF),
        lines(
            "Served by a fallback",
            "Share of the calls that got a second-best answer.",
            "percentunit",
            target(share_of(m.FALLBACK_CALLS, ("applied",), by=(POLICY_LABEL,)), of(POLICY_LABEL)),
            width=HALF,
            full=True,
        ),
        by_result(m.HEDGE_CALLS, "Hedged calls by result", m.HEDGE_CALLS.meaning + ", a second."),
        by_result(m.HEDGE_ATTEMPTS, "Hedged attempts by result", m.HEDGE_ATTEMPTS.meaning + ", a second."),
        lines(
            "Hedged",
            "Share of the calls for which more than one attempt was started.",
            "percentunit",
            target(share_of(m.HEDGE_CALLS, all_but(m.HEDGE_CALLS, "not_hedged"), by=(POLICY_LABEL,)), of(POLICY_LABEL)),
            full=True,
        ),
        lines(
            "Degradation",
            "Processes at each level.",
            "short",
            target(
                over("sum", (POLICY_LABEL, own_label(m.DEGRADATION_LEVEL)), series(m.DEGRADATION_LEVEL)),
                of(POLICY_LABEL, own_label(m.DEGRADATION_LEVEL)),
            ),
            width=WIDE,
        ),
    ]


def telemetry() -> list[Panel]:
    return [
        lines(
            "Failed exports",
            m.EXPORT_FAILURES.meaning + ", a second.",
            "ops",
            target(
                rates(m.EXPORT_FAILURES, by=(JOB, own_label(m.EXPORT_FAILURES))), of(JOB, own_label(m.EXPORT_FAILURES))
            ),
            width=HALF,
        ),
        lines(
            "Overflow",
            m.TELEMETRY_OVERFLOW.meaning + ".",
            "short",
            target(
                over("sum", (JOB, own_label(m.TELEMETRY_OVERFLOW)), series(m.TELEMETRY_OVERFLOW)),
                of(JOB, own_label(m.TELEMETRY_OVERFLOW)),
            ),
            width=HALF,
        ),
    ]


ROWS: Final = {
    "Overview": overview,
    "Circuit breakers": circuit_breakers,
    "Retries and budgets": retries,
    "Timeouts": timeouts,
    "Bulkheads and limiters": limits,
    "Fallbacks and hedges": second_choices,
    "Telemetry": telemetry,
}


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice of several values or all, asked for afresh when the time range changes."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(text="All", value="$__all", selected=True))
    )


def policies_query() -> str:
    """Every policy has series of the first metric of its kind."""
    first: dict[str, str] = {}
    for metric in m.CATALOGUE:
        if m.POLICY in metric.attributes:
            first.setdefault(metric.name.split(".")[1], metric.prometheus_samples[-1])
    return f'label_values({{__name__=~"{"|".join(first.values())}",{JOB}=~"$job"}}, {POLICY_LABEL})'


def build() -> str:
    """The dashboard as the text of a JSON file."""
    calls = sample(m.CALL_DURATION, "count")
    board = (
        dashboard.Dashboard("Resilience")
        .uid("resilience")
        .description("What the policies of the resilient SDK do. Made by `resilient dashboard`.")
        .tags(["resilience"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", f"label_values({calls}, {JOB})"))
        .with_variable(variable("pipeline", "Pipeline", f'label_values({calls}{{{JOB}=~"$job"}}, {PIPELINE_LABEL})'))
        .with_variable(variable("policy", "Policy", policies_query()))
    )
    ids = count(1)
    for title, panels in ROWS.items():
        board = board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels():
            board = board.with_panel(panel.id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


if __name__ == "__main__":
    BUILT.write_text(build(), encoding="utf-8")
