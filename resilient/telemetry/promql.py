"""PromQL made from the catalogue: what a metric has not got is refused when an expression is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from resilient.telemetry.catalogue import PIPELINE, POLICY, Metric, prometheus_label
from resilient.telemetry.values import own_attributes, values_of

Part = Literal["bucket", "count", "sum"]

JOB: Final = "job"
INSTANCE: Final = "instance"
BOUND: Final = "le"
PIPELINE_LABEL: Final = prometheus_label(PIPELINE)
POLICY_LABEL: Final = prometheus_label(POLICY)


def owner_label(metric: Metric) -> str:
    """The label that says whose it is: that of the pipeline or of the policy."""
    return next(prometheus_label(attribute) for attribute in metric.attributes if attribute in {PIPELINE, POLICY})


def own_label(metric: Metric, number: int = 0) -> str:
    """The label by which it is counted beside whose it is."""
    return prometheus_label(own_attributes(metric)[number])


def sample(metric: Metric, part: Part | None = None) -> str:
    """The name of a sample; of a histogram one has to say which."""
    if part is None:
        (name,) = metric.prometheus_samples
        return name
    name = f"{metric.prometheus_name}_{part}"
    if name not in metric.prometheus_samples:
        raise ValueError(f"{metric.name} has no {part}")
    return name


def select(
    metric: Metric, *chosen: Sequence[str] | None, part: Part | None = None, where: Mapping[str, str] | None = None
) -> str:
    """The series whose own attributes have one of the `chosen` values each, in their order; None leaves one open.

    `where` are further matchers: a regular expression for each label.
    """
    own = own_attributes(metric)
    if len(chosen) > len(own):
        raise ValueError(f"{metric.name} has only {own}")
    matchers = [f'{label}=~"{pattern}"' for label, pattern in (where or {}).items()]
    for attribute, values in zip(own, chosen, strict=False):
        if values is None:
            continue
        unknown = set(values) - set(values_of(metric, attribute) or ())
        if unknown or not values:
            raise ValueError(f"{attribute} of {metric.name} is never {sorted(unknown)}")
        sign = "=" if len(values) == 1 else "=~"
        matchers.append(f'{prometheus_label(attribute)}{sign}"{"|".join(values)}"')
    name = sample(metric, part)
    return f"{name}{{{','.join(matchers)}}}" if matchers else name


def all_but(metric: Metric, *values: str, number: int = 0) -> tuple[str, ...]:
    """The other values of one of its own attributes."""
    every = values_of(metric, own_attributes(metric)[number]) or ()
    if not set(values) <= set(every):
        raise ValueError(f"{own_attributes(metric)[number]} of {metric.name} is one of {every}")
    return tuple(value for value in every if value not in values)


def rate(series: str, window: str) -> str:
    return f"rate({series}[{window}])"


def over(function: str, labels: Sequence[str], expression: str) -> str:
    """An aggregation that keeps these labels."""
    return f"{function} by ({', '.join(labels)}) ({expression})"
