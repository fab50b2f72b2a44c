"""The panels of the Grafana dashboard: queries for the metrics of the catalogue, and how they are drawn."""

from __future__ import annotations

from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

from resilient.core.circuit_plan import CircuitState
from resilient.telemetry import catalogue as m
from resilient.telemetry.promql import (
    BOUND,
    JOB,
    PIPELINE_LABEL,
    POLICY_LABEL,
    Part,
    over,
    own_label,
    owner_label,
    rate,
    select,
)
from resilient.telemetry.rules import FAILED, JUDGED

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOW: Final = "$__rate_interval"
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6
HEIGHT: Final = 8

# A process that refuses calls outranks those that do not, so that the worst state shows.
STATES: Final = {
    CircuitState.CLOSED: "green",
    CircuitState.DISABLED: "blue",
    CircuitState.HALF_OPEN: "yellow",
    CircuitState.OPEN: "red",
    CircuitState.FORCED_OPEN: "dark-red",
}

Panel = Any
"""The builders of the SDK have no common class for panels."""


def series(metric: m.Metric, *chosen: tuple[str, ...], part: Part | None = None) -> str:
    """What the variables of the dashboard leave of a metric."""
    where = {JOB: "$job"}
    if m.PIPELINE in metric.attributes:
        where[PIPELINE_LABEL] = "$pipeline"
    if m.POLICY in metric.attributes:
        where[POLICY_LABEL] = "$policy"
    return select(metric, *chosen, part=part, where=where)


def rates(metric: m.Metric, *chosen: tuple[str, ...], by: tuple[str, ...] = (), part: Part | None = None) -> str:
    """How many a second, in all or for each value of the labels `by`."""
    each = rate(series(metric, *chosen, part=part), WINDOW)
    return over("sum", by, each) if by else f"sum({each})"


def quantile(share: float, metric: m.Metric, *by: str) -> str:
    return f"histogram_quantile({share}, {rates(metric, by=(*by, BOUND), part='bucket')})"


def share_of(metric: m.Metric, chosen: tuple[str, ...], *, by: tuple[str, ...] = ()) -> str:
    """The share of the chosen results in all, zero where none of them has ever been."""
    return _ratio(rates(metric, chosen, by=by), rates(metric, by=by))


def failure_ratio(*by: str) -> str:
    """The share of errors in what callers saw, as the alert has it."""
    failed, judged = (rates(m.CALL_DURATION, outcomes, by=by, part="count") for outcomes in (FAILED, JUDGED))
    return _ratio(failed, judged)


def _ratio(part: str, whole: str) -> str:
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def target(expression: str, legend: str, *, exemplars: bool = False) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).exemplar(exemplars)


def of(*labels: str) -> str:
    """A legend of the values of these labels."""
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def dressed(panel: Panel, title: str, description: str, width: int, *targets: prometheus.Dataquery) -> Panel:
    panel = panel.title(title).description(description).datasource(SOURCE).span(width).height(HEIGHT)
    for number, one in enumerate(targets):
        panel = panel.with_target(one.ref_id(chr(ord("A") + number)))
    return panel


def lines(
    title: str, description: str, unit: str, *targets: prometheus.Dataquery, width: int = THIRD, full: bool = False
) -> Panel:
    """Lines over time; `full` for shares, whose axis goes from nothing to all."""
    panel = timeseries.Panel().unit(unit).min(0).fill_opacity(10).show_points(options.VisibilityMode.NEVER)
    if full:
        panel = panel.axis_soft_max(1)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.LIST)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    return dressed(panel, title, description, width, *targets)


def by_result(metric: m.Metric, title: str, description: str, *, width: int = THIRD, part: Part | None = None) -> Panel:
    """Counts a second of each policy, by what became of the calls."""
    labels = (owner_label(metric), own_label(metric))
    return lines(
        title,
        description,
        "ops",
        target(rates(metric, by=labels, part=part), of(*labels)),
        width=width,
    )


def number(title: str, description: str, unit: str, expression: str, *limits: tuple[float, str]) -> Panel:
    """One figure, coloured from each limit on."""
    steps = [model.Threshold(None, "green"), *(model.Threshold(value, colour) for value, colour in limits)]
    panel = (
        stat.Panel()
        .unit(unit)
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        .graph_mode(options.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return dressed(panel, title, description, QUARTER, target(expression, title))


def states() -> Panel:
    ranks = list(STATES)
    shown = {
        str(rank): model.ValueMappingResult(text=state.value.replace("_", " "), color=STATES[state], index=rank)
        for rank, state in enumerate(ranks)
    }
    worst = " or ".join(
        f"({series(m.CIRCUIT_STATE, (state.value,))} > bool 0) * {rank}" for rank, state in enumerate(ranks) if rank
    )
    panel = (
        statetimeline.Panel()
        .mappings([model.ValueMap(shown)])
        .show_value(options.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .legend(common.VizLegendOptions().show_legend(False).placement(options.LegendPlacement.BOTTOM))
    )
    return dressed(
        panel,
        "State",
        "The state of each circuit breaker; of several processes, that of the worst.",
        WIDE,
        target(over("max", (JOB, POLICY_LABEL), worst), of(JOB, POLICY_LABEL)),
    )
