from __future__ import annotations

from typing import Any

import pytest

from resilient.core import circuit as circuit_module
from tests.policies.breaker_kit import breaker
from tests.policies.breaker_races import Hesitant, Ignored, count_calls, probe

pytestmark = pytest.mark.torture


@pytest.mark.parametrize(
    "settings",
    [
        {"consecutive_failures": 3, "window_calls": 10},
        {"failure_rate": 0.3, "window_calls": 20, "half_open_calls": 3, "on_result": lambda result: False},
        {"failure_rate": 0.3, "window_duration": 0.01, "half_open_calls": 4, "half_open_failure_rate": 0.3},
    ],
)
def test_every_call_is_counted_once(settings: dict[str, Any]) -> None:
    policy = breaker(open_duration=lambda turn: 0.00005, ignore=Ignored, **settings)
    count_calls(policy, threads=8, calls=100_000)


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_half_open_admits_no_more_than_its_probes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_module, "Probe", Hesitant)
    policy = breaker(half_open_calls=limit, success_threshold=100, ignore=Ignored)
    probe(policy, limit=limit, threads=8, rounds=2_000)
