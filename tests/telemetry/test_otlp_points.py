"""Families as OTLP's points, without a receiver: start times, deltas, requests."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint

from resilient.telemetry.catalogue import (
    CALL_DURATION,
    CIRCUIT_CALLS,
    CIRCUIT_TIME,
    RETRY_BACKOFF,
    TIMEOUT_ORPHANED,
    Metric,
)
from resilient.telemetry.collecting import Distribution, Family, Value
from resilient.telemetry.otlp_points import MAX_GONE, Batch, Points


def family(metric: Metric, **values: Value) -> Family:
    return Family(metric, {(("resilience.policy.name", name),): value for name, value in values.items()})


def shape(*counts: int, total: float = 0.0, bounds: tuple[float, ...] = (1.0, 2.0)) -> Distribution:
    return Distribution(bounds, counts, total)


def exported(points: Points, *families: Family, arrives: bool = True, limit: int = 10**6) -> dict[str, list[object]]:
    """The values that one export tells, by policy."""
    told: dict[str, list[object]] = {}
    for batch in points.batches(families, limit):
        for point in points_of(batch):
            name = str((point.attributes or {})["resilience.policy.name"])
            told.setdefault(name, []).append(getattr(point, "value", None) or getattr(point, "bucket_counts", 0))
        if arrives:
            points.arrived(batch)
    return told


def points_of(batch: Batch) -> list[NumberDataPoint | HistogramDataPoint]:
    return [point for metric in batch.metrics for point in metric.data.data_points]  # type: ignore[misc]


def one(points: Points, metric: Metric, **values: Value) -> NumberDataPoint | HistogramDataPoint:
    (batch,) = points.batches([family(metric, **values)])
    points.arrived(batch)
    (point,) = points_of(batch)
    return point


def test_a_delta_is_what_came_since_the_last_export_that_arrived() -> None:
    points = Points(delta=True)
    assert exported(points, family(CIRCUIT_CALLS, a=5)) == {"a": [5]}
    assert exported(points, family(CIRCUIT_CALLS, a=7), arrives=False) == {"a": [2]}
    assert exported(points, family(CIRCUIT_CALLS, a=8)) == {"a": [3]}
    assert exported(points, family(CIRCUIT_CALLS, a=8)) == {"a": [0]}


def test_histograms_have_deltas_of_their_buckets() -> None:
    points = Points(delta=True)
    exported(points, family(CALL_DURATION, a=shape(1, 0, 2, total=9.0)))
    point = one(points, CALL_DURATION, a=shape(2, 0, 2, total=9.5))
    assert isinstance(point, HistogramDataPoint)
    assert (point.count, point.sum, point.bucket_counts) == (1, 0.5, (1, 0, 0))


def test_a_restart_adds_to_what_had_not_arrived() -> None:
    points = Points(delta=True)
    exported(points, family(CIRCUIT_CALLS, a=5))
    exported(points, family(CIRCUIT_CALLS, a=9), arrives=False)
    assert exported(points, family(CIRCUIT_CALLS, a=2), arrives=False) == {"a": [6]}
    assert exported(points, family(CIRCUIT_CALLS, a=3)) == {"a": [7]}
    assert exported(points, family(CIRCUIT_CALLS, a=4)) == {"a": [1]}


def test_counts_of_a_removed_series_still_arrive_once() -> None:
    points = Points(delta=True)
    exported(points, family(CIRCUIT_CALLS, a=5), arrives=False)
    assert exported(points, arrives=False) == {"a": [5]}
    assert exported(points) == {"a": [5]}
    assert exported(points) == {}


def test_a_removed_series_that_is_back_counts_from_zero() -> None:
    points = Points(delta=True)
    exported(points, family(CIRCUIT_CALLS, a=5), arrives=False)
    exported(points, arrives=False)
    assert exported(points, family(CIRCUIT_CALLS, a=7)) == {"a": [12]}
    assert exported(points, family(CIRCUIT_CALLS, a=7)) == {"a": [0]}


def test_what_is_gone_is_kept_within_bounds() -> None:
    points = Points(delta=True)
    for number in range(MAX_GONE + 50):
        exported(points, family(CIRCUIT_CALLS, **{f"policy {number}": 1}), arrives=False)
    assert len(exported(points, arrives=False)) == MAX_GONE
    cumulative = Points(delta=False)
    exported(cumulative, family(CIRCUIT_CALLS, a=1))
    exported(cumulative)
    assert (cumulative._series, cumulative._gone) == ({}, {})


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(["on", "on", "on", "restart", "gone"])), max_size=30
    )
)
def test_deltas_that_arrive_add_up_whatever_happens(steps: list[tuple[int, bool, str]]) -> None:
    points, counted, value, arrived = Points(delta=True), 0, 0, 0
    there = True
    for more, arrives, event in [*steps, (0, True, "on"), (0, True, "gone")]:
        if event == "gone":
            there = False
            value = 0
        else:
            value = more if (event == "restart" and more < value) or not there else value + more
            counted += more
            there = True
        told = exported(points, *([family(CIRCUIT_CALLS, a=value)] if there else []), arrives=arrives)
        if arrives:
            arrived += sum(int(str(number)) for number in told.get("a", []))
    assert arrived == counted


def test_start_times_of_totals() -> None:
    points = Points(delta=False)
    first = one(points, CIRCUIT_CALLS, a=5)
    second = one(points, CIRCUIT_CALLS, a=6)
    restarted = one(points, CIRCUIT_CALLS, a=2)
    assert first.start_time_unix_nano == second.start_time_unix_nano < first.time_unix_nano
    assert restarted.start_time_unix_nano == second.time_unix_nano < restarted.time_unix_nano


def test_start_times_of_deltas_follow_each_other_over_failures() -> None:
    points = Points(delta=True)
    first = one(points, CIRCUIT_CALLS, a=5)
    exported(points, family(CIRCUIT_CALLS, a=6), arrives=False)
    later = [one(points, CIRCUIT_CALLS, a=value) for value in (7, 7, 9)]
    assert all(before.time_unix_nano == after.start_time_unix_nano for before, after in pairwise([first, *later]))


def test_a_wall_clock_set_back_turns_no_interval_round(monkeypatch: pytest.MonkeyPatch) -> None:
    points = Points(delta=True)
    first = one(points, CIRCUIT_CALLS, a=5)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    second = one(points, CIRCUIT_CALLS, a=6)
    assert second.start_time_unix_nano == second.time_unix_nano == first.time_unix_nano


def test_last_digits_are_no_restart() -> None:
    for delta in (False, True):
        points = Points(delta=delta)
        exported(points, family(CIRCUIT_TIME, a=0.30000000000000004))
        start = one(points, CIRCUIT_TIME, a=0.30000000000000004).start_time_unix_nano
        point = one(points, CIRCUIT_TIME, a=0.3)
        assert isinstance(point, NumberDataPoint)
        assert point.value == (0.0 if delta else 0.30000000000000004)
        assert delta or point.start_time_unix_nano == start


def test_what_goes_up_and_down_is_told_as_it_is() -> None:
    points = Points(delta=True)
    exported(points, family(TIMEOUT_ORPHANED, a=5))
    assert exported(points, family(TIMEOUT_ORPHANED, a=2), arrives=False) == {"a": [2]}
    assert exported(points) == {}


def test_other_buckets_are_another_series() -> None:
    points = Points(delta=True)
    exported(points, family(CALL_DURATION, a=shape(1, 1, 1)), arrives=False)
    assert exported(points, family(CALL_DURATION, a=shape(2, 2, bounds=(9.0,)))) == {"a": [(2, 2)]}


def test_requests_keep_to_their_size_and_lose_nothing() -> None:
    points = Points(delta=False)
    families = [
        family(CALL_DURATION, **{f"policy {number}": shape(1, 1, 1) for number in range(50)}),
        family(RETRY_BACKOFF, **{f"policy {number}": 1.0 for number in range(50)}),
    ]
    batches = list(points.batches(families, limit=2000))
    assert len(batches) > 4
    assert all(batch.size <= 2000 for batch in batches)
    assert sum(len(points_of(batch)) for batch in batches) == 100


def test_only_requests_that_arrive_are_settled() -> None:
    points = Points(delta=True)
    many = {f"policy {number}": 1 for number in range(40)}
    first, *_ = points.batches([family(CIRCUIT_CALLS, **many)], limit=2000)
    points.arrived(first)
    told = exported(points, family(CIRCUIT_CALLS, **many))
    assert sum(int(str(value)) for values in told.values() for value in values) == 40 - len(points_of(first))


def test_one_point_too_large_goes_by_itself() -> None:
    points = Points(delta=False)
    assert len(list(points.batches([family(CIRCUIT_CALLS, **{"x" * 5000: 1, "b": 1})], limit=100))) == 2
