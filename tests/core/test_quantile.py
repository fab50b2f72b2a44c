"""The streaming quantile against its definition."""

from __future__ import annotations

import sys
import threading
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.quantile import RecentQuantile


@given(
    st.lists(st.floats(0, 1e6)),
    st.floats(0, 1, exclude_min=True),
    st.integers(1, 30),
    st.integers(1, 20),
)
def test_it_is_the_nearest_rank_of_the_last_values(values: list[float], share: float, size: int, warmup: int) -> None:
    quantile = RecentQuantile(share, warmup=warmup, size=size)
    for count, value in enumerate(values, 1):
        quantile.add(value)
        window = sorted(values[max(0, count - max(size, warmup)) : count])
        assert quantile.value == (window[max(1, ceil(share * len(window))) - 1] if count >= warmup else None)


def test_it_follows_when_the_values_change() -> None:
    quantile = RecentQuantile(0.95, warmup=20, size=100)
    for value in [1.0] * 100 + [9.0] * 100:
        quantile.add(value)
    assert quantile.value == 9.0
    for _ in range(94):
        quantile.add(1.0)
    assert quantile.value == 9.0
    quantile.add(1.0)
    assert quantile.value == 1.0


def test_a_lock_that_was_held_at_a_fork_is_free_in_the_child() -> None:
    quantile = RecentQuantile(0.5, warmup=1)
    assert quantile._lock.acquire()
    quantile.after_fork(0.0)
    assert not quantile._lock._is_owned()


@pytest.mark.parametrize("share, expected", [(0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100), (0.001, 1)])
def test_known_quantiles_of_one_to_a_hundred(share: float, expected: int) -> None:
    quantile = RecentQuantile(share, warmup=1)
    for value in range(100, 0, -1):
        quantile.add(value)
    assert quantile.value == expected


def test_the_window_is_bounded_under_threads() -> None:
    quantile = RecentQuantile(0.5, warmup=1, size=50)
    threads = [threading.Thread(target=lambda: [quantile.add(float(n % 7)) for n in range(2000)]) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(quantile._arrived) == len(quantile._sorted) == 50
    assert sorted(quantile._arrived) == quantile._sorted
