"""The buckets of durations, set once for the whole process."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilient import ConfigurationError, Registry, bulkhead, duration_buckets
from resilient.core import meters
from resilient.core.meters import DURATION_BOUNDS
from resilient.telemetry.collecting import Collector, Distribution


@pytest.fixture(autouse=True)
def _nothing_counted_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters.DURATIONS, "bounds", DURATION_BOUNDS)
    monkeypatch.setattr(meters.DURATIONS, "in_use", False)


def test_all_durations_are_counted_in_them() -> None:
    duration_buckets([0.5, 1, 60])
    registry = Registry()
    bulkhead("files", registry=registry).call(int)
    found = {
        family.metric.name: value.bounds
        for family in Collector(registry).collect()
        for value in family.series.values()
        if isinstance(value, Distribution) and family.metric.name.startswith("resilience.")
    }
    assert found == dict.fromkeys(("resilience.call.duration", "resilience.bulkhead.queue.duration"), (0.5, 1.0, 60.0))


def test_once_there_are_policies_only_the_same_are_allowed() -> None:
    bulkhead(registry=Registry())
    duration_buckets(DURATION_BOUNDS)
    with pytest.raises(ConfigurationError, match="call it before them"):
        duration_buckets([1.0])


@pytest.mark.parametrize(
    "bounds", [[], [1, 1], [2, 1], [0, 1], [-1], [math.inf], [math.nan], ["1"], [True], "1", 5, None]
)
def test_what_does_not_rise_is_refused(bounds: Any) -> None:
    with pytest.raises(ConfigurationError, match="each above the one before"):
        duration_buckets(bounds)
