"""Limits that find themselves: the published vectors, and what holds for all of them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.adaptive import AdaptiveLimit, Aimd, Algorithm, Gradient2, Vegas, adaptive
from resilient.core.permits import LimitRule, Permits
from resilient.errors import ConfigurationError

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


def rules(initial: int = 20, minimum: int = 1, maximum: int = 200) -> list[LimitRule]:
    return [AdaptiveLimit(initial, minimum, maximum, algorithm).rule() for algorithm in ALGORITHMS]


def vegas(limit: int, maximum: int = 20) -> Vegas:
    return Vegas(limit, 1, maximum, draw=lambda low, high: high)


# Vectors of Netflix's own tests


def test_aimd_adds_one_after_a_success_with_the_limit_in_use() -> None:
    assert Aimd(20, 1, 200).sample(0.010, 10, False) == 21


def test_aimd_takes_a_tenth_off_after_a_drop() -> None:
    assert Aimd(30, 1, 200).sample(0.0, 0, True) == 27


def test_aimd_stays_below_its_maximum() -> None:
    assert Aimd(21, 1, 21).sample(0.010, 21, False) == 21


def test_vegas_leaps_while_nothing_queues() -> None:
    rule = vegas(10)
    assert rule.sample(0.010, 10, False) == 10
    assert rule.sample(0.010, 11, False) == 16


def test_vegas_backs_off_when_calls_queue() -> None:
    rule = vegas(10)
    assert rule.sample(0.010, 10, False) == 10
    assert rule.sample(0.050, 11, False) == 9


def test_vegas_stays_between_its_thresholds() -> None:
    rule = vegas(10)
    assert rule.sample(0.010, 10, False) == 10
    assert rule.sample(0.014, 14, False) == 10


def test_vegas_takes_larger_steps_with_larger_limits() -> None:
    rule = vegas(10_000, maximum=20_000)
    assert rule.sample(10.0, 5_000, False) == 10_000
    assert rule.sample(10.0, 6_000, False) == 10_024


# By hand


def test_vegas_creeps_up_while_few_calls_queue() -> None:
    rule = vegas(10)
    rule.sample(0.010, 10, False)
    assert rule.sample(0.012, 10, False) == 11  # ceil(10 * (1 - 10 / 12)) = 2: above 1, below 3


def test_vegas_measures_the_fastest_anew_after_a_while() -> None:
    rule = vegas(10)
    rule.sample(0.010, 10, False)
    for _ in range(298):
        rule.sample(0.014, 10, False)
    assert rule.limit == 10
    assert rule.sample(0.050, 10, False) == 10  # the 300th: 30 for each of 10
    assert rule.sample(0.050, 10, False) == 16  # nothing queues, by the new measure


def test_vegas_does_not_take_the_duration_of_a_drop_for_the_fastest() -> None:
    rule = vegas(10)
    assert rule.sample(0.00001, 10, True) == 9
    rule.sample(0.010, 10, False)
    assert rule.sample(0.010, 10, False) == 15


def test_gradient2_allows_for_some_queueing_as_long_as_durations_are_what_they_were() -> None:
    rule = Gradient2(20, 1, 200)
    # 20 * 0.8 + (20 * 1 + 4) * 0.2 = 20.8; then 20.8 * 0.8 + 24.8 * 0.2 = 21.6
    assert [rule.sample(0.010, 20, False) for _ in range(2)] == [20, 21]


def test_gradient2_shrinks_by_how_much_longer_a_call_takes_than_on_average() -> None:
    rule = Gradient2(100, 1, 200)
    for _ in range(10):
        rule.sample(0.010, 0, False)
    assert rule.limit == 100
    # The average moves to 0.010 + 0.015 * 2 / 601; 1.5 * 0.010050 / 0.025 = 0.603; 80 + (60.3 + 4) * 0.2 = 92.86
    assert rule.sample(0.025, 100, False) == 92


def test_gradient2_never_takes_more_than_half_at_a_time() -> None:
    rule = Gradient2(100, 1, 200)
    for _ in range(10):
        rule.sample(0.010, 0, False)
    assert rule.sample(60.0, 100, False) == 90  # 80 + (50 + 4) * 0.2 = 90.8


def test_gradient2_forgets_a_time_of_overload_sooner_than_its_average_would() -> None:
    rule = Gradient2(20, 1, 200)
    for _ in range(10):
        rule.sample(1.0, 0, False)
    for _ in range(60):
        rule.sample(0.010, 0, False)
    # Without the decay the average would still be 0.82, and a call of 0.1 would count as fast.
    before = rule.limit
    for _ in range(3):
        rule.sample(0.1, 20, False)
    assert rule.limit < before


def test_vegas_asks_for_as_much_patience_after_each_measurement() -> None:
    asked: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    rule = Vegas(1, 1, 1, draw)
    for _ in range(30):
        rule.sample(0.010, 1, False)
    assert asked == [(0.5, 1.0)] * 3


@pytest.mark.parametrize(
    "duration, limit",
    [
        (0.0105, 16),  # ceil(10 * (1 - 100 / 105)) = 1: no more than a step
        (0.0140, 10),  # 3: no longer few
        (0.0240, 10),  # 6: not yet too many
        (0.0260, 9),  # 7
    ],
)
def test_vegas_changes_its_ways_at_exactly_one_three_and_six_queued_calls(duration: float, limit: int) -> None:
    rule = vegas(10)
    rule.sample(0.010, 10, False)
    assert rule.sample(duration, 10, False) == limit


@pytest.mark.parametrize("rule", [Vegas(10, 1, 20), Gradient2(10, 1, 20)], ids=["vegas", "gradient2"])
def test_calls_that_take_no_time_at_all_grow_the_limit(rule: LimitRule) -> None:
    assert [rule.sample(0.0, 10, False) for _ in range(9)][-1] > 10


def test_gradient2_grows_once_half_of_the_limit_is_in_use() -> None:
    rule = Gradient2(20, 1, 200)
    rule.sample(0.010, 10, False)
    assert rule._estimate == pytest.approx(20.8)  # 20 * 0.8 + (20 * 1 + 4) * 0.2


def test_gradient2_averages_as_over_six_hundred_calls() -> None:
    rule = Gradient2(100, 1, 200)
    for _ in range(10):
        rule.sample(0.010, 0, False)
    assert rule._long == pytest.approx(0.010, rel=1e-12)
    rule.sample(0.025, 0, False)
    assert rule._long == pytest.approx(0.010 + 0.015 * 2 / 601, rel=1e-12)


def test_gradient2_forgets_only_what_is_more_than_twice_as_long_as_now() -> None:
    rule = Gradient2(100, 1, 200)
    rule.sample(3.0, 0, False)
    rule.sample(1.0, 0, False)
    assert rule._long == 2.0
    rule = Gradient2(100, 1, 200)
    rule.sample(3.0, 0, False)
    rule.sample(0.9, 0, False)
    assert rule._long == pytest.approx(1.95 * 0.95)


# All of them


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_none_grows_while_less_than_half_of_the_limit_is_in_use(algorithm: Algorithm) -> None:
    rule = AdaptiveLimit(20, 1, 200, algorithm).rule()
    assert [rule.sample(0.010, 9, False) for _ in range(100)] == [20] * 100
    assert [rule.sample(0.010, 12, False) for _ in range(100)][-1] > 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_drops_shrink_the_limit_to_the_minimum_and_no_further(algorithm: Algorithm) -> None:
    rule = AdaptiveLimit(50, 3, 200, algorithm).rule()
    limits = [rule.sample(0.0, 1, True) for _ in range(100)]
    assert limits[0] < 50
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_set_by_hand_is_gone_on_from(algorithm: Algorithm) -> None:
    permits = Permits(20, 0, AdaptiveLimit(20, 1, 200, algorithm).rule())
    permits.resize(100, 0.0)
    permits.adapt(0.0, 100, True, 0.0)
    assert 90 <= permits.limit < 100


@given(
    samples=st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(0, 300), st.booleans()), max_size=60),
    bounds=st.tuples(st.integers(1, 50), st.integers(50, 100), st.integers(100, 200)),
)
def test_whatever_happens_the_limit_keeps_within_its_bounds(
    samples: list[tuple[float, int, bool]], bounds: tuple[int, int, int]
) -> None:
    minimum, initial, maximum = bounds
    for rule in rules(initial, minimum, maximum):
        for duration, in_flight, dropped in samples:
            before = rule.limit
            after = rule.sample(duration, in_flight, dropped)
            assert after == rule.limit
            assert minimum <= after <= maximum
            if dropped:
                assert after <= before
            if in_flight < before / 2:
                assert after <= before


# The value


def test_equal_settings_make_equal_values() -> None:
    assert adaptive(maximum=50) == adaptive(20, 1, 50, "gradient2")
    assert adaptive() != adaptive(algorithm="aimd")
    assert hash(adaptive()) == hash(adaptive())


@pytest.mark.parametrize("initial, minimum, maximum", [(5, 5, 5), (5, 5, 6), (6, 5, 6), (1, 1, 1)])
def test_the_bounds_themselves_are_allowed(initial: int, minimum: int, maximum: int) -> None:
    assert adaptive(initial, minimum, maximum).initial == initial


def test_rules_of_one_value_are_independent() -> None:
    value = adaptive(algorithm="aimd")
    value.rule().sample(0.0, 0, True)
    assert value.rule().limit == 20


@pytest.mark.parametrize(
    "settings, setting",
    [
        ({"minimum": 0}, "minimum"),
        ({"minimum": 10, "maximum": 9}, "maximum"),
        ({"initial": 201}, "initial"),
        ({"initial": 4, "minimum": 5}, "initial"),
        ({"initial": True}, "initial"),
        ({"initial": 2.5}, "initial"),
        ({"algorithm": "reno"}, "algorithm"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        adaptive(**settings)  # type: ignore[arg-type]
    assert caught.value.setting == setting
