"""Both windows against lists that forget nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.core.windows import FAILURE, SLOW, CountWindow, TimeWindow, Window

codes = st.integers(0, FAILURE | SLOW)


def record(window: Window, now: float, code: int) -> None:
    if code:
        window.add_locked(now, code)
    else:
        window.success(now)


def summed(calls: list[int]) -> tuple[int, int, int]:
    failures = [code for code in calls if code in (FAILURE, FAILURE | SLOW)]
    slow = [code for code in calls if code in (SLOW, FAILURE | SLOW)]
    return len(calls), len(failures), len(slow)


def failures_in_a_row(calls: list[int]) -> int:
    streak = 0
    for code in calls:
        streak = streak + 1 if code in (FAILURE, FAILURE | SLOW) else 0
    return streak


@given(size=st.integers(1, 12), results=st.lists(st.tuples(codes, st.booleans()), max_size=80))
def test_a_window_of_calls_is_the_end_of_the_list(size: int, results: list[tuple[int, bool]]) -> None:
    window = CountWindow(size)
    calls: list[int] = []
    for code, looked_at in results:
        record(window, 0.0, code)
        calls.append(code)
        if looked_at:
            assert window.counts(0.0) == summed(calls[-size:])
        if code:
            assert (window.calls, window.failures, window.slow) == summed(calls[-size:])
            assert window.streak == failures_in_a_row(calls)
    assert window.counts(0.0) == summed(calls[-size:])


@given(
    duration=st.sampled_from([1.0, 12.5, 100.0]),
    results=st.lists(st.tuples(st.integers(0, 150) | st.just(0), codes, st.booleans()), max_size=80),
    start=st.integers(0, 10**6),
)
def test_a_window_of_time_is_exact_for_calls_a_hundredth_of_it_apart(
    duration: float, results: list[tuple[int, int, bool]], start: int
) -> None:
    # Durations, steps and starts are sums of powers of two, so that the instants are exact as well.
    step = max(0.125, duration / 100) if duration != 100.0 else 1.0
    window = TimeWindow(duration)
    calls: list[tuple[float, int]] = []
    now = float(start)
    for steps, code, looked_at in results:
        now += steps * step
        record(window, now, code)
        calls.append((now, code))
        within = [code for at, code in calls if at > now - duration]
        if looked_at:
            assert window.counts(now) == summed(within)
        if code:
            assert (window.calls, window.failures, window.slow) == summed(within)
            assert window.streak == failures_in_a_row([code for _, code in calls])
    for steps in range(0, 220, 7):
        later = now + steps * step
        assert window.counts(later) == summed([code for at, code in calls if at > later - duration])


@given(
    duration=st.floats(0.1, 1000),
    results=st.lists(st.tuples(st.floats(0, 0.02) | st.floats(0, 1.5), codes), max_size=80),
    start=st.floats(0, 1e6),
    looked_at=st.floats(0, 1.5),
)
def test_a_window_of_time_is_otherwise_exact_to_one_percent(
    duration: float, results: list[tuple[float, int]], start: float, looked_at: float
) -> None:
    window = TimeWindow(duration)
    calls: list[tuple[float, int]] = []
    now = start

    def check(at: float) -> None:
        slack = 1e-6 * duration + 1e-9 * at
        least = summed([code for when, code in calls if when > at - duration + slack])
        most = summed([code for when, code in calls if when > at - duration * 1.01 - slack])
        for low, found, high in zip(least, window.counts(at), most, strict=True):
            assert low <= found <= high

    for share, code in results:
        now += share * duration
        record(window, now, code)
        calls.append((now, code))
        check(now)
    check(now + looked_at * duration)
