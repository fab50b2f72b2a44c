"""The script: stages, arrivals, and the lot of each request."""

from __future__ import annotations

from itertools import pairwise

import pytest

from resilient.demo.script import CALLS_PER_SECOND, ITEMS, REPLICA, WORKERS, Health, Pace, Script


@pytest.mark.parametrize("seconds", [1.0, 3.0, 30.0, 3600.0])
def test_the_stages_fill_the_run_without_gaps(seconds: float) -> None:
    stages = Script(seconds, 1).stages

    assert stages[0].start == 0.0
    assert stages[-1].end == pytest.approx(seconds)
    assert all(before.end == after.start for before, after in pairwise(stages))
    assert all(stage.end > stage.start for stage in stages)


def test_the_upstream_is_healthy_slow_failing_down_hung_and_recovered_in_turn() -> None:
    script = Script(100.0, 1)

    assert [script.at(at).name for at in (0.0, 13.5, 38.0, 61.0, 69.5, 78.0)] == [
        "healthy",
        "slow",
        "failing",
        "down",
        "hung",
        "recovered",
    ]


def test_a_stage_begins_at_its_first_instant_and_the_last_one_goes_on() -> None:
    script = Script(100.0, 1)

    assert script.at(script.stages[1].start).name == script.stages[1].name
    assert script.at(1000.0).name == "recovered"
    assert script.recovery() == script.stages[-1].start


def test_users_come_in_order_within_the_run_and_at_the_rate_promised() -> None:
    arrivals = list(Script(30.0, 1).arrivals())

    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0.0
    assert arrivals[-1] < 30.0
    assert len(arrivals) == pytest.approx(30 * CALLS_PER_SECOND, rel=0.05)


def test_one_seed_gives_one_run_and_another_seed_another() -> None:
    sick = Health(slow_share=0.35)
    first, same, other = Script(5.0, 1), Script(5.0, 1), Script(5.0, 2)

    assert list(first.arrivals()) == list(same.arrivals()) != list(other.arrivals())
    lots = [[script.lot(sick, number, 1) for number in range(50)] for script in (first, same, other)]
    assert lots[0] == lots[1] != lots[2]


def test_some_items_are_asked_for_more_often_than_others() -> None:
    items = [Script(5.0, 1).item(number) for number in range(2000)]

    assert min(items) >= 0
    assert max(items) < ITEMS
    assert sum(item < ITEMS // 4 for item in items) == pytest.approx(1000, abs=80)
    assert items == [Script(60.0, 1).item(number) for number in range(2000)]


def test_the_replica_is_healthy_throughout_and_farther_away() -> None:
    script = Script(5.0, 1, REPLICA)

    assert [script.at(at).health for at in (0.0, 2.5, 4.9)] == [Health(distance=0.05)] * 3
    lots = [script.lot(script.at(1.0).health, number, 1) for number in range(500)]
    assert all(lot.status == 200 and 0.06 <= lot.latency <= 0.11 for lot in lots)


def test_a_request_that_comes_again_draws_again() -> None:
    script = Script(5.0, 1)

    assert script.lot(Health(), 3, 1) != script.lot(Health(), 3, 2)


def test_the_shares_of_the_script_are_the_shares_that_requests_get() -> None:
    script = Script(5.0, 1)
    slow = [script.lot(Health(slow_share=0.35), number, 1) for number in range(2000)]
    failing = [script.lot(Health(failing_share=0.4), number, 1) for number in range(2000)]
    refused = [lot for lot in failing if lot.status == 503]

    assert sum(lot.latency >= 1.5 for lot in slow) / 2000 == pytest.approx(0.35, abs=0.04)
    assert all(lot.status == 200 for lot in slow)
    assert len(refused) / 2000 == pytest.approx(0.4, abs=0.04)
    assert 0 < sum(lot.retry_after is not None for lot in refused) < len(refused) / 2
    assert all(lot.retry_after is None for lot in failing if lot.status == 200)


def test_a_healthy_upstream_answers_everything_at_once() -> None:
    lots = [Script(5.0, 1).lot(Health(), number, 1) for number in range(500)]

    assert all(lot.status == 200 and lot.latency <= 0.06 for lot in lots)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0, 600.0])
def test_guarded_calls_end_before_users_give_up_and_plain_ones_after(seconds: float) -> None:
    pace = Pace.of(seconds)

    assert pace.total_timeout < pace.patience < pace.plain_timeout


def test_slow_answers_are_more_than_the_workers_of_a_plain_client_can_hold() -> None:
    slow = next(stage for stage in Script(30.0, 1).stages if stage.name == "slow")
    seconds_per_call = slow.health.slow_share * 2.25

    assert WORKERS / seconds_per_call < CALLS_PER_SECOND
