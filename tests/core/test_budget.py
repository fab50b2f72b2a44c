from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import deque
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core import budget as budget_module
from resilient.core.budget import RetryBudget
from resilient.errors import ConfigurationError


def drain(budget: RetryBudget, now: float) -> int:
    """How many retries it allows at once."""
    granted = 0
    while budget.withdraw(now):
        granted += 1
    return granted


def deposit(budget: RetryBudget, calls: int, now: float) -> None:
    for _ in range(calls):
        budget.deposit(now)


class TestFrozenTime:
    @pytest.mark.parametrize(
        "ratio, min_per_second, window, calls, retries",
        [
            (0.2, 3.0, 10.0, 0, 30),
            (0.2, 3.0, 10.0, 100, 50),
            (0.2, 0.0, 10.0, 0, 0),
            (0.2, 0.0, 10.0, 4, 0),
            (0.2, 0.0, 10.0, 5, 1),
            (0.2, 0.0, 10.0, 9, 1),
            (0.29, 0.0, 10.0, 100, 29),
            (2.0, 0.0, 10.0, 3, 6),
            (0.0, 0.5, 4.0, 1_000, 2),
            (0.0, 0.3, 10.0, 0, 3),
            (0.5, 0.5, 1.0, 1, 1),
            (0.0, 0.0, 10.0, 1_000, 0),
        ],
    )
    def test_retries_are_the_ratio_of_the_calls_and_the_floor(
        self, ratio: float, min_per_second: float, window: float, calls: int, retries: int
    ) -> None:
        budget = RetryBudget(ratio, min_per_second=min_per_second, window=window)
        deposit(budget, calls, 1000.0)
        assert drain(budget, 1000.0) == retries

    def test_a_refused_retry_costs_nothing(self) -> None:
        budget = RetryBudget(0.2, min_per_second=0)
        assert drain(budget, 0.0) == 0
        deposit(budget, 5, 0.0)
        assert drain(budget, 0.0) == 1


class TestWindow:
    def test_a_window_of_a_millisecond_is_allowed(self) -> None:
        assert RetryBudget(window=0.001).window == 0.001

    def test_a_retry_is_forgotten_after_a_window_and_not_before(self) -> None:
        budget = RetryBudget(0.0, min_per_second=3.0, window=10.0)
        assert drain(budget, 0.0) == 30
        assert drain(budget, 9.999) == 0
        assert drain(budget, 10.0) == 30

    def test_a_call_is_forgotten_after_a_window(self) -> None:
        budget = RetryBudget(0.5, min_per_second=0.0, window=10.0)
        deposit(budget, 10, 100.0)
        assert budget.snapshot(now=109.99)["available"] == 5
        assert budget.snapshot(now=110.0)["available"] == 0
        deposit(budget, 2, 110.0)
        assert drain(budget, 110.0) == 1

    def test_retries_close_together_are_forgotten_with_the_last_of_them(self) -> None:
        budget = RetryBudget(0.0, min_per_second=0.2, window=10.0)
        assert [budget.withdraw(at) for at in (0.0, 0.15)] == [True, True]
        assert not budget.withdraw(10.14)
        assert drain(budget, 10.15) == 2

    def test_retries_come_back_one_after_the_other(self) -> None:
        budget = RetryBudget(0.0, min_per_second=1.0, window=3.0)
        assert [budget.withdraw(at) for at in (0.0, 1.0, 2.0, 2.5)] == [True, True, True, False]
        assert [budget.withdraw(at) for at in (3.0, 3.5, 4.0, 4.5)] == [True, False, True, False]

    def test_idle_time_is_forgotten_at_once(self) -> None:
        budget = RetryBudget(1.0, min_per_second=0.1, window=10.0)
        deposit(budget, 1_000, 0.0)
        assert drain(budget, 1e9) == 1

    def test_time_that_goes_back_begins_anew(self) -> None:
        budget = RetryBudget(1.0, min_per_second=0.1, window=10.0)
        deposit(budget, 100, 50_000.0)
        assert drain(budget, 50_000.0) == 101
        assert drain(budget, 0.0) == 1
        deposit(budget, 3, 0.0)
        assert drain(budget, 0.0) == 3

    def test_a_time_a_little_back_still_counts(self) -> None:
        budget = RetryBudget(1.0, min_per_second=0.0, window=10.0)
        budget.deposit(5.0)
        budget.deposit(4.999)
        assert drain(budget, 4.998) == 2

    def test_time_that_goes_back_by_just_a_window_does_not_begin_anew(self) -> None:
        budget = RetryBudget(1.0, min_per_second=0.0, window=10.0)
        budget.deposit(10.0)
        assert budget.withdraw(0.0)

    def test_calls_are_told_apart_that_are_a_fiftieth_of_the_window_apart(self) -> None:
        budget = RetryBudget(1.0, min_per_second=0.0, window=10.0)
        for at in (0.0, 0.199, 0.2):
            budget.deposit(at)
        assert budget.snapshot(now=9.999)["calls"] == 3
        assert budget.snapshot(now=10.0)["calls"] == 1

    def test_retries_are_told_apart_that_are_a_fiftieth_of_the_window_apart(self) -> None:
        budget = RetryBudget(0.0, min_per_second=0.4, window=10.0)
        for at in (0.0, 0.199, 0.2):
            assert budget.withdraw(at)
        assert budget.snapshot(now=10.198)["retries"] == 3
        assert budget.snapshot(now=10.1995)["retries"] == 1

    def test_what_counts_no_more_is_not_kept(self) -> None:
        budget = RetryBudget(1.0, min_per_second=1.0, window=10.0)
        for at in (0.0, 10.0):
            budget.deposit(at)
            assert budget.withdraw(at)
        assert len(budget._calls) == len(budget._retries) == 1

    def test_memory_stays_bounded(self) -> None:
        budget = RetryBudget(1.0, window=10.0)
        for step in range(20_000):
            now = step / 100 - step % 2 * 0.05
            budget.deposit(now)
            budget.withdraw(now)
        assert len(budget._calls) <= budget_module._PARTS + 1
        assert len(budget._retries) <= budget_module._PARTS + 1

    @given(
        ratio=st.floats(0, 3),
        floor=st.floats(0, 5),
        window=st.floats(0.5, 20),
        steps=st.lists(
            st.tuples(st.floats(0, 3) | st.floats(0, 0.3), st.integers(0, 8), st.integers(0, 8)), max_size=60
        ),
    )
    def test_no_window_holds_more_retries_than_allowed(
        self, ratio: float, floor: float, window: float, steps: list[tuple[float, int, int]]
    ) -> None:
        budget = RetryBudget(ratio, min_per_second=floor, window=window)
        now, calls, retries = 0.0, deque[float](), deque[float]()
        for pause, arriving, failing in steps:
            now += pause
            for _ in range(arriving):
                budget.deposit(now)
                calls.append(now)
            for _ in range(failing):
                within = sum(at > now - window for at in retries)
                earned = ratio * sum(at > now - window for at in calls) + floor * window
                if budget.withdraw(now):
                    assert within + 1 <= earned + 1e-6
                    retries.append(now)

    @given(
        floor=st.floats(0.2, 5),
        steps=st.lists(st.tuples(st.floats(0, 3) | st.floats(0, 0.3), st.integers(0, 8)), min_size=1, max_size=60),
    )
    def test_it_refuses_only_where_a_window_and_one_part_are_full(
        self, floor: float, steps: list[tuple[float, int]]
    ) -> None:
        budget = RetryBudget(0.0, min_per_second=floor, window=10.0)
        longer = 10.0 + 10.0 / budget_module._PARTS
        now, retries = 0.0, deque[float]()
        for pause, failing in steps:
            now += pause
            for _ in range(failing):
                if budget.withdraw(now):
                    retries.append(now)
                else:
                    assert sum(at > now - longer for at in retries) + 1 > floor * 10.0


class TestSharing:
    @pytest.mark.parametrize("gil", [True, False])
    def test_threads_lose_no_call_and_gain_no_retry(self, gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget_module, "GIL", gil)
        # So many that each step of the test begins a new one, which is where updates could get lost.
        monkeypatch.setattr(budget_module, "_PARTS", 10_000)
        interval = sys.getswitchinterval()
        budget = RetryBudget(0.5, min_per_second=0.0, window=1000.0)
        granted: list[int] = []

        def work(lane: int) -> None:
            mine = 0
            for step in range(300):
                budget.deposit(step * 0.1)
                mine += budget.withdraw(step * 0.1)
            granted.append(mine)

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(8)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        found = budget.snapshot(now=30.0)
        assert found["calls"] == 2_400
        assert found["retries"] == sum(granted) <= 1_200
        assert found["retries"] + found["denied"] == 2_400

    def test_threads_never_take_more_than_is_left(self) -> None:
        class Unhurried(RetryBudget):
            def _left(self, now: float) -> float:
                left = super()._left(now)
                time.sleep(0)  # another thread may run
                return left

        budget = Unhurried(0.0, min_per_second=1.0, window=10.0)
        granted: list[bool] = []
        threads = [
            threading.Thread(target=lambda: granted.extend([budget.withdraw(0.0) for _ in range(20)])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert granted.count(True) == 10
        assert budget.snapshot(now=0.0)["denied"] == 150


class TestFace:
    def test_a_snapshot_is_json_and_changes_nothing(self) -> None:
        budget = RetryBudget(0.5, min_per_second=0.0, window=timedelta(seconds=10))
        deposit(budget, 7, 1.0)
        assert budget.withdraw(1.0)
        expected = {
            "ratio": 0.5,
            "min_per_second": 0.0,
            "window": 10.0,
            "calls": 7,
            "retries": 1,
            "available": 2,
            "denied": 0,
        }
        assert budget.snapshot(now=1.0) == expected
        assert json.loads(json.dumps(budget.snapshot(now=1.0))) == expected
        assert budget.snapshot(now=500.0)["calls"] == 0
        assert drain(budget, 1.0) == 2
        assert budget.snapshot(now=1.0)["denied"] == 1

    def test_a_snapshot_waits_for_no_lock(self) -> None:
        budget = RetryBudget()
        with budget._lock:
            assert budget.snapshot()["available"] == 30

    def test_repr_shows_the_settings(self) -> None:
        assert repr(RetryBudget(0.1)) == "RetryBudget(ratio=0.1, min_per_second=3.0, window=10.0)"

    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 10**400, True, None, "1", timedelta(1)])
    def test_wrong_numbers_are_refused(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"RetryBudget: ratio=.* is not allowed: ") as caught:
            RetryBudget(value)  # type: ignore[arg-type]
        assert caught.value.setting == "ratio"
        with pytest.raises(ConfigurationError, match=r"RetryBudget: min_per_second=.* is not allowed: "):
            RetryBudget(min_per_second=value)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [0, -1, 0.0005, math.nan, math.inf, True, None, "1", timedelta(0)])
    def test_wrong_windows_are_refused(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"RetryBudget: window=.* is not allowed: seconds") as caught:
            RetryBudget(window=value)  # type: ignore[arg-type]
        assert caught.value.setting == "window"
