"""Families as OTLP's metrics: with start times, as totals or as what came since the last export that arrived."""

from __future__ import annotations

# Loaded where an exporter begins to export, and by nothing else.
# ruff: noqa: TID253
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, cast

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from resilient.telemetry.catalogue import Metric as Entry
from resilient.telemetry.collecting import Attributes, Distribution, Family, Value

MAX_REQUEST_BYTES: Final = 512 * 1024
"""What a request may take, as estimated: receivers refuse 4 MiB, some of them 1 MiB."""

ROUNDING: Final = 1e-6
"""Seconds by which a total may seem to fall although it has not."""

MAX_GONE: Final = 1000
"""Series that are gone and whose last counts have not arrived: so many are kept, the newest."""


_Key = tuple[str, Attributes]
_Point = NumberDataPoint | HistogramDataPoint


@dataclass(slots=True)
class _Series:
    """What is known of one series. `sent` of it has arrived; `carried` had not when it last started anew."""

    entry: Entry
    start: int
    seen: Value
    sent: Value
    sent_at: int
    carried: Value | None = None


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is to be remembered of one series once its point has arrived."""

    key: _Key
    value: Value
    at: int


@dataclass(slots=True)
class Batch:
    """Metrics that go into one request, and what its arrival means."""

    metrics: list[Metric] = field(default_factory=list)
    marks: list[_Mark] = field(default_factory=list)
    size: int = 0


class Points:
    """The points of all series, export by export. Belongs to one thread.

    A series starts when it was last not there, and one whose numbers have fallen starts anew when it was last seen.
    """

    def __init__(self, *, delta: bool) -> None:
        self._delta = delta
        self._series: dict[_Key, _Series] = {}
        self._gone: dict[_Key, _Series] = {}
        self._last = time.time_ns()

    def batches(self, families: Iterable[Family], limit: int = MAX_REQUEST_BYTES) -> Iterator[Batch]:
        """Requests of at most `limit` bytes, as estimated; `arrived` may be called in between."""
        now = max(time.time_ns(), self._last)
        due = self._due(families)
        self._last = now
        batch = Batch()
        for key, series in due:
            point = self._point(key, series, now)
            size = _size(point)
            if batch.size and batch.size + size > limit:
                yield batch
                batch = Batch()
            entry = series.entry
            if not batch.metrics or batch.metrics[-1].name != entry.name:
                batch.metrics.append(self._metric(entry))
                batch.size += len(entry.name) + len(entry.meaning) + 32
            cast("list[_Point]", batch.metrics[-1].data.data_points).append(point)
            batch.size += size
            if self._tells_change(entry):
                batch.marks.append(_Mark(key, series.seen, now))
        if batch.metrics:
            yield batch

    def arrived(self, batch: Batch) -> None:
        """A request has arrived: its counts are not to be told again."""
        for mark in batch.marks:
            series = self._series.get(mark.key)
            if series is not None:
                series.sent, series.sent_at, series.carried = mark.value, mark.at, None
            else:
                self._gone.pop(mark.key, None)

    def _due(self, families: Iterable[Family]) -> list[tuple[_Key, _Series]]:
        """All series there are, then those that are gone with counts that have not arrived."""
        current: dict[_Key, _Series] = {}
        for family in families:
            for attributes, value in family.series.items():
                key = family.metric.name, attributes
                current[key] = self._followed(family.metric, key, value)
        for key, series in self._series.items():
            if key not in current and self._tells_change(series.entry) and _is_something(_unsent(series)):
                self._gone[key] = series
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._series = current
        return [*current.items(), *self._gone.items()]

    def _followed(self, entry: Entry, key: _Key, value: Value) -> _Series:
        series, restarted = self._series.get(key), False
        if series is None:
            # A removed one that is back counts from zero, however far it has come since.
            series, restarted = self._gone.pop(key, None), True
        if series is None:
            return _Series(entry, self._last, value, _nothing(value), self._last)
        if _is_counted(entry):
            if restarted or _has_fallen(series.seen, value):
                carried = _unsent(series)
                series.carried = carried if _shape(carried) == _shape(value) else None
                series.start, series.sent = self._last, _nothing(value)
            elif isinstance(value, float) and value < cast("float", series.seen):
                return series
        series.seen = value
        return series

    def _tells_change(self, entry: Entry) -> bool:
        return self._delta and _is_counted(entry)

    def _metric(self, entry: Entry) -> Metric:
        temporality = AggregationTemporality.DELTA if self._tells_change(entry) else AggregationTemporality.CUMULATIVE
        data: Histogram | Gauge | Sum
        if entry.kind == "histogram":
            data = Histogram([], temporality)
        elif entry.kind == "gauge":
            data = Gauge([])
        else:
            data = Sum([], temporality, entry.kind == "counter")
        return Metric(entry.name, entry.meaning, entry.unit, data)

    def _point(self, key: _Key, series: _Series, now: int) -> _Point:
        start, value, since = series.start, series.seen, 0
        if self._tells_change(series.entry):
            start = since = series.sent_at
            value = _unsent(series)
        if isinstance(value, Distribution):
            return _histogram(key[1], value, start, now, since)
        return NumberDataPoint(dict(key[1]), start, now, value)


def _histogram(attributes: Attributes, value: Distribution, start: int, now: int, since: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(attributes),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=value.count,
        sum=value.sum,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
        # Nobody has kept them, and OTLP does without.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
        exemplars=[
            Exemplar({}, one.value, one.at, one.span_id, one.trace_id)
            for one in value.exemplars
            if one is not None and one.at >= since
        ],
    )


def _is_counted(entry: Entry) -> bool:
    return entry.kind in {"counter", "histogram"}


def _shape(value: Value | None) -> tuple[float, ...] | None:
    return value.bounds if isinstance(value, Distribution) else None


def _nothing(value: Value) -> Value:
    if isinstance(value, Distribution):
        return Distribution(value.bounds, (0,) * len(value.counts), 0.0)
    return type(value)(0)


def _is_something(value: Value) -> bool:
    return bool(value.count if isinstance(value, Distribution) else value)


def _has_fallen(before: Value, after: Value) -> bool:
    if isinstance(before, Distribution) and isinstance(after, Distribution):
        return before.bounds != after.bounds or any(
            old > new for old, new in zip(before.counts, after.counts, strict=True)
        )
    if isinstance(before, Distribution) or isinstance(after, Distribution):
        return True
    # Seconds are summed up from parts, whose last digits need not agree.
    return before - after > (ROUNDING if isinstance(after, float) else 0)


def _unsent(series: _Series) -> Value:
    """What a series has counted since the last export that arrived."""
    seen, sent = series.seen, series.sent
    fresh: Value
    if isinstance(seen, Distribution) and isinstance(sent, Distribution):
        counts = tuple(new - old for new, old in zip(seen.counts, sent.counts, strict=True))
        fresh = replace(seen, counts=counts, sum=seen.sum - sent.sum)
    else:
        fresh = seen - sent  # type: ignore[operator]
    return fresh if series.carried is None else series.carried + fresh  # type: ignore[operator]


def _size(point: _Point) -> int:
    """About how many bytes a point takes in a request."""
    size = 48 + sum(len(key) + len(str(value).encode()) + 12 for key, value in (point.attributes or {}).items())
    if isinstance(point, HistogramDataPoint):
        size += 16 * len(point.bucket_counts) + 56 * len(point.exemplars)
    return size
