"""The arithmetic of the throttle, against hand-computed values and a model that remembers every call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.throttle import Throttle, rejection_probability


@pytest.mark.parametrize(
    "requests, accepts, expected",
    [(0, 0, 0.0), (10, 5, 0.0), (10, 4, 0.1818), (100, 25, 0.4950), (100, 0, 0.9901), (5, 9, 0.0)],
)
def test_the_probability_for_k_2(requests: int, accepts: int, expected: float) -> None:
    assert rejection_probability(requests, accepts, 2.0) == pytest.approx(expected, abs=5e-5)


def counted(requests: int, accepts: int, cap: float = 1.0) -> Throttle:
    throttle = Throttle(2.0, 120.0, cap)
    for number in range(requests):
        throttle.record(0.0, accepted=number < accepts)
    return throttle


@pytest.mark.parametrize("requests, accepts", [(10, 5), (10, 4), (100, 25), (100, 0)])
def test_a_draw_below_the_probability_refuses(requests: int, accepts: int) -> None:
    probability = rejection_probability(requests, accepts, 2.0)
    assert counted(requests, accepts).report(0.0) == (probability, requests, accepts)
    assert counted(requests, accepts).refuses(0.0, probability) is None
    if probability:
        assert counted(requests, accepts).refuses(0.0, probability - 1e-9) == probability


def test_the_cap_holds() -> None:
    throttle = counted(100, 0, cap=0.9)
    assert throttle.report(0.0)[0] == 0.9
    assert throttle.refuses(0.0, 0.9) is None
    assert throttle.refuses(0.0, 0.89) == 0.9


def test_refused_calls_count_as_requests_and_calls_let_go_only_when_they_end() -> None:
    throttle = counted(10, 4)
    assert throttle.refuses(0.0, 0.0) is not None
    assert throttle.report(0.0)[1:] == (11, 4)
    assert throttle.refuses(0.0, 0.99) is None
    assert throttle.report(0.0)[1:] == (11, 4)


def test_what_is_a_window_old_is_forgotten() -> None:
    throttle = Throttle(2.0, 120.0, 0.9)
    throttle.record(0.0, accepted=False)
    throttle.record(60.0, accepted=True)
    assert throttle.report(119.9)[1:] == (2, 1)
    assert throttle.report(120.0)[1:] == (1, 1)
    assert throttle.report(180.0)[1:] == (0, 0)
    throttle.record(500.0, accepted=True)
    assert len(throttle._parts) == 1
    assert throttle.report(500.0)[1:] == (1, 1)


def test_it_never_keeps_more_than_a_hundred_parts_or_so() -> None:
    throttle = Throttle(2.0, 10.0, 0.9)
    for step in range(5000):
        throttle.record(step * 0.01, accepted=step % 2 == 0)
        assert len(throttle._parts) <= 101


def test_time_that_goes_back_by_more_than_a_window_begins_anew() -> None:
    throttle = Throttle(2.0, 10.0, 0.9)
    for _ in range(50):
        throttle.record(5000.0, accepted=False)
    assert throttle.refuses(1.0, 0.0) is None
    assert throttle.report(1.0)[1:] == (0, 0)


Steps = st.lists(
    st.tuples(st.floats(0, 30), st.sampled_from(["ask", "accepted", "refused there"]), st.floats(0, 0.999))
)


@given(Steps)
def test_it_does_what_the_formula_says_of_the_calls_of_the_window(steps: list[tuple[float, str, float]]) -> None:
    """Whole windows back nothing is left; a hundredth of a window on either side may be counted late."""
    window, now = 120.0, 0.0
    throttle = Throttle(2.0, window, 0.9)
    calls: list[tuple[float, bool]] = []
    for wait, what, draw in steps:
        now += wait
        if what == "ask":
            probability, requests, accepts = throttle.report(now)
            assert probability == min(0.9, rejection_probability(requests, accepts, 2.0))
            refused = throttle.refuses(now, draw)
            assert refused == (probability if draw < probability else None)
            if refused is not None:
                calls.append((now, False))
        else:
            throttle.record(now, accepted=what == "accepted")
            calls.append((now, what == "accepted"))
        _, requests, accepts = throttle.report(now)
        slack = window / 100
        assert (
            sum(at > now - window for at, _ in calls) <= requests <= sum(at > now - window - slack for at, _ in calls)
        )
        assert (
            sum(ok and at > now - window for at, ok in calls)
            <= accepts
            <= sum(ok and at > now - window - slack for at, ok in calls)
        )


def test_forgotten_accepts_and_requests_let_nothing_pass() -> None:
    throttle = Throttle(2.0, 120.0, 1.0)
    for _ in range(10):
        throttle.record(0.0, accepted=True)
    for _ in range(4):
        throttle.record(60.0, accepted=False)
    assert throttle.refuses(119.9, 0.0) is None
    assert throttle.refuses(120.0, 0.79) == pytest.approx(4 / 5)
    assert throttle.refuses(120.0, 0.84) is None  # 5 requests by now: 5 / 6


@pytest.mark.parametrize("refused_here", [False, True])
def test_no_call_is_lost_where_threads_begin_parts_at_the_same_time(refused_here: bool) -> None:
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            throttle = Throttle(2.0, 1e6, 0.9)
            instants = iter(range(0, 10**6, 10**4))

            def record(throttle: Throttle = throttle, instants: Iterator[int] = instants) -> None:
                for _ in range(12):
                    if refused_here:
                        throttle.refuses(float(next(instants)), -1.0)
                    else:
                        throttle.record(float(next(instants)), accepted=True)

            threads = [threading.Thread(target=record) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert throttle.report(96e4)[1:] == (96, 0 if refused_here else 96)
    finally:
        sys.setswitchinterval(switching)
