"""What all exporters export: every series of every metric, with its value, read from the meters without a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from resilient.core.meters import Exemplar, Histogram
from resilient.registry import Registry, registry
from resilient.telemetry.catalogue import OVERFLOW, TELEMETRY_OVERFLOW, Metric

MAX_SERIES: Final = 1000

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram holds: counts of each bucket by itself, the last without an upper bound.

    `exemplars` is empty, or has one or None for each bucket.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    exemplars: tuple[Exemplar | None, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.counts)

    def __add__(self, other: Distribution) -> Distribution:
        """Two of the same bounds as one."""
        return Distribution(
            self.bounds,
            tuple(one + another for one, another in zip(self.counts, other.counts, strict=True)),
            self.sum + other.sum,
            other.exemplars or self.exemplars,
        )


Value = int | float | Distribution


@dataclass(slots=True)
class Family:
    """One metric and its series: what each has is its attributes, without those that do not apply to it."""

    metric: Metric
    series: dict[Attributes, Value] = field(default_factory=dict)

    def add(self, values: tuple[str | None, ...], value: Value) -> None:
        """Add to a series; values are in the order of the metric's attributes, None: it has not got this one."""
        key = tuple((name, text) for name, text in zip(self.metric.attributes, values, strict=True) if text is not None)
        known = self.series.get(key)
        self.series[key] = value if known is None else known + value  # type: ignore[operator]

    def bounded(self, limit: int) -> tuple[Family, int]:
        """The same with at most `limit` series; the surplus is one series, and how many measurements went into it."""
        if len(self.series) <= limit:
            return self, 0
        kept, surplus = Family(self.metric), 0
        overflow: Attributes = ((OVERFLOW, "true"),)
        for number, (key, value) in enumerate(self.series.items()):
            if number < limit - 1:
                kept.series[key] = value
                continue
            known = kept.series.get(overflow)
            kept.series[overflow] = value if known is None else known + value  # type: ignore[operator]
            surplus += value.count if isinstance(value, Distribution) else int(value)
        return kept, surplus


Reading = tuple[Metric, tuple[str | None, ...], Value]
Source = Callable[[], Iterable[Reading]]


def distribution(histogram: Histogram) -> Distribution:
    """The state of a histogram. A count that is just being added may be in the buckets and not yet in the sum."""
    counts = tuple(int(count) for count in histogram.counts)
    return Distribution(histogram.bounds, counts, float(histogram.sum), tuple(histogram.exemplars))


class Collector:
    """Everything that is to be exported: the policies of a registry, and what other sources read."""

    def __init__(self, registry: Registry = registry, *, max_series: int = MAX_SERIES) -> None:
        self.registry = registry
        self._max_series = max_series
        self._overflow: dict[str, int] = {}

    def collect(self, sources: Iterable[Source] = ()) -> list[Family]:
        """All families that have series, in the order of the catalogue, the application's own last."""
        from resilient.telemetry.readings import readings

        families: dict[str, Family] = {}
        for source in (lambda: readings(self.registry), *SOURCES, *sources):
            for metric, values, value in source():
                family = families.get(metric.name)
                if family is None:
                    family = families[metric.name] = Family(metric)
                family.add(values, value)
        return list(self._bounded(families.values()))

    def _bounded(self, families: Iterable[Family]) -> Iterator[Family]:
        for family in families:
            kept, surplus = family.bounded(self._max_series)
            if surplus:
                # What overflows may shrink where policies are removed; a counter must not.
                self._overflow[family.metric.name] = max(surplus, self._overflow.get(family.metric.name, 0))
            yield kept
        if self._overflow:
            told = Family(TELEMETRY_OVERFLOW)
            for name, count in self._overflow.items():
                told.add((name,), count)
            yield told


SOURCES: Final[list[Source]] = []
"""What is read beside the policies: the application's own metrics, the process, the exporters themselves."""
