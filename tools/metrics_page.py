"""Builds the page of all metrics in the documentation: `python -m tools.metrics_page` writes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from resilient.core.meters import DURATION_BOUNDS, MAX_ERROR_TYPES, OTHER
from resilient.telemetry.catalogue import (
    CATALOGUE,
    OVERFLOW,
    PIPELINE,
    POLICY,
    TELEMETRY_OVERFLOW,
    Metric,
    prometheus_label,
)
from resilient.telemetry.collecting import MAX_SERIES
from resilient.telemetry.values import own_attributes, values_of

DOCS: Final = Path(__file__).parents[1] / "docs"
BUILT: Final = DOCS / "metrics.md"

KINDS: Final = {"counter": "counter", "updown": "up-down counter", "gauge": "gauge", "histogram": "histogram"}

INTRODUCTION: Final = f"""\
<!-- Made by `python -m tools.metrics_page` from resilient/telemetry/catalogue.py. -->
# Metrics

Every metric that the exporters send, by its name in OpenTelemetry and in Prometheus. Both have the same series and the
same values.

Metrics of calls carry the attribute `{PIPELINE}`, those of policies `{POLICY}`; the tables tell what
they have besides. In Prometheus these are the labels `{prometheus_label(PIPELINE)}` and `{prometheus_label(POLICY)}`,
and so on; Prometheus itself adds `job` and `instance`. `stale` and `failover` count as fallbacks.

Series of a policy are there with value 0 from the moment that the policy is. Those of an error begin with the first
one, so that a ratio needs `or ... * 0`.

In Prometheus an up-down counter is a gauge, and a histogram has the samples `_bucket`, `_count` and `_sum`. The upper
bounds of its buckets are {", ".join(f"{bound:g}" for bound in DURATION_BOUNDS)}
seconds; `duration_buckets` sets others.

[Alerts and dashboard](alerts.md) are made from the same table.
"""

CLOSING: Final = f"""\
## Bounds

`error.type` is the qualified name of the exception's class: the first {MAX_ERROR_TYPES} classes of a pipeline, then
`{OTHER}`. A metric has at most {MAX_SERIES:,} series. The surplus is added up in one with the attribute
`{OVERFLOW}="true"` (`{prometheus_label(OVERFLOW)}`), and counted in `{TELEMETRY_OVERFLOW.name}`.
"""


def build() -> str:
    """The page as MyST Markdown."""
    parts: dict[str, list[Metric]] = {}
    for metric in CATALOGUE:
        parts.setdefault(metric.name.split(".")[1], []).append(metric)
    sections = ["\n".join(_section(part, metrics)) for part, metrics in parts.items()]
    return "\n".join([INTRODUCTION, *sections, CLOSING])


def _section(part: str, metrics: list[Metric]) -> Iterator[str]:
    yield f"## {part.replace('_', ' ').capitalize()}"
    yield ""
    if (DOCS / "policies" / f"{part}.md").is_file():
        yield f"Of each [{part.replace('_', ' ')}](policies/{part}.md)."
        yield ""
    yield "| OpenTelemetry | Prometheus | kind, unit | attributes | meaning |"
    yield "|---|---|---|---|---|"
    for metric in metrics:
        cells = (
            f"`{metric.name}`",
            f"`{metric.prometheus_samples[0] if len(metric.prometheus_samples) == 1 else metric.prometheus_name}`",
            f"{KINDS[metric.kind]}, `{metric.unit}`",
            "; ".join(_attribute(metric, attribute) for attribute in own_attributes(metric)),
            metric.meaning,
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _attribute(metric: Metric, attribute: str) -> str:
    values = values_of(metric, attribute)
    if values is None:
        return f"`{attribute}`"
    return f"`{attribute}`: {', '.join(f'`{value}`' for value in values)}"


if __name__ == "__main__":
    BUILT.write_text(build(), encoding="utf-8")
