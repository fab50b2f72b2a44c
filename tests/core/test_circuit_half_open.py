from __future__ import annotations

from collections.abc import Callable

import pytest

from resilient.core.circuit_plan import CircuitState
from tests.core.circuit_kit import CLOSED, HALF_OPEN, ONE_BY_ONE, OPEN, driver, finish, half_open


class TestHalfOpen:
    @pytest.mark.parametrize(
        "settings, results, state",
        [
            ({}, ".", CLOSED),
            ({}, "F", OPEN),
            ({}, "B", OPEN),
            ({}, "S", CLOSED),
            ({}, "nnn", HALF_OPEN),
            ({"slow_call_rate": 0.5}, "S", OPEN),
            ({"half_open_calls": 3}, "..", HALF_OPEN),
            ({"half_open_calls": 3}, "...", CLOSED),
            ({"half_open_calls": 3}, "..F", OPEN),
            ({"half_open_calls": 3, "success_threshold": 1}, ".", CLOSED),
            ({"half_open_calls": 1, "success_threshold": 4}, "...", HALF_OPEN),
            ({"half_open_calls": 1, "success_threshold": 4}, ".n.n..", CLOSED),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "F..", HALF_OPEN),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "FFF", HALF_OPEN),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "F...", CLOSED),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "F.F.", OPEN),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "FnF..", OPEN),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5}, "FS..", CLOSED),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5, "slow_call_rate": 0.5}, "FS..", OPEN),
            ({"half_open_calls": 4, "half_open_failure_rate": 0.5, "slow_call_rate": 0.5}, "B...", CLOSED),
            ({"half_open_calls": 1, "half_open_failure_rate": 1.0}, "F", OPEN),
        ],
    )
    def test_its_probes_decide(self, settings: dict[str, float], results: str, state: CircuitState) -> None:
        drive = half_open(**settings)
        drive.play(results)
        assert drive.state is state

    @pytest.mark.parametrize("percent", range(1, 101))
    def test_the_threshold_of_the_probes_is_inclusive(self, percent: int) -> None:
        drive = half_open(half_open_calls=100, half_open_failure_rate=percent / 100)
        drive.play("F" * percent + "." * (100 - percent))
        assert drive.state is OPEN

    @pytest.mark.parametrize("rate", [None, 0.5])
    def test_it_admits_so_many_at_once_and_no_more(self, rate: float | None) -> None:
        drive = half_open(half_open_calls=3, half_open_failure_rate=rate)
        assert [drive.begin() is not None for _ in range(5)] == [True, True, True, False, False]
        assert drive.circuit.retry_after(drive.now) == 0.0

    def test_a_success_makes_room_for_the_next_probe(self) -> None:
        drive = half_open(half_open_calls=2, success_threshold=5)
        first, _ = drive.admitted(), drive.admitted()
        first.success(drive.now)
        assert [drive.begin() is not None for _ in range(2)] == [True, False]

    def test_judged_together_the_probes_are_so_many_in_all(self) -> None:
        drive = half_open(half_open_calls=2, half_open_failure_rate=0.5)
        first, second = drive.admitted(), drive.admitted()
        first.success(drive.now)
        assert drive.begin() is None
        second.success(drive.now)
        assert drive.state is CLOSED

    @pytest.mark.parametrize("rate", [None, 0.5])
    def test_a_neutral_probe_gives_its_permit_back(self, rate: float | None) -> None:
        drive = half_open(half_open_calls=1, half_open_failure_rate=rate)
        probe = drive.admitted()
        assert drive.begin() is None
        probe.neutral()
        assert drive.state is HALF_OPEN
        assert drive.begin() is not None
        assert drive.begin() is None

    def test_a_permit_given_back_belongs_to_the_state_that_granted_it(self) -> None:
        drive = half_open(half_open_calls=1)
        old = drive.admitted()
        drive.circuit.trip(drive.now, 5.0)
        drive.now += 5.0
        drive.admitted()
        old.neutral()
        assert drive.begin() is None

    @pytest.mark.parametrize("second", ONE_BY_ONE)
    def test_a_probe_reports_once(self, second: str) -> None:
        drive = half_open(half_open_calls=2, success_threshold=4)
        probe, other = drive.admitted(), drive.admitted()
        probe.success(drive.now)
        finish(probe, second, drive.now)
        assert drive.state is HALF_OPEN
        assert drive.circuit.report(drive.now).calls == 1
        other.success(drive.now)
        assert drive.circuit.report(drive.now).calls == 2

    def test_a_slow_failure_shows_as_both_and_counts_as_one(self) -> None:
        drive = half_open(half_open_calls=4, half_open_failure_rate=0.5, slow_call_rate=0.9)
        drive.play("B..")
        report = drive.circuit.report(drive.now)
        assert (report.calls, report.failures, report.slow_calls) == (3, 1, 1)


class TestHungProbes:
    @pytest.mark.parametrize(
        "settings, seconds",
        [
            ({"half_open_timeout": 7.0}, 7.0),
            ({"open_duration": 9.0}, 9.0),
            ({"open_duration": 9.0, "half_open_timeout": 2.0}, 2.0),
            ({"half_open_timeout": 7.0, "half_open_calls": 2, "half_open_failure_rate": 0.5}, 7.0),
        ],
    )
    def test_a_probe_that_never_comes_back_opens_it_again(self, settings: dict[str, float], seconds: float) -> None:
        drive = half_open(**settings)
        drive.begin()
        if drive.circuit.plan.half_open_calls > 1:
            drive.succeed()
        drive.now += seconds - 0.25
        assert drive.begin() is None
        assert drive.state is HALF_OPEN
        drive.now += 0.25
        assert drive.begin() is None
        assert drive.state is OPEN
        assert drive.circuit.transitions[-1].reason == "a probe did not come back"
        drive.now += 60.0
        assert drive.begin() is not None

    def test_what_the_hung_probe_says_later_is_dropped(self) -> None:
        drive = half_open(half_open_timeout=7.0)
        hung = drive.admitted()
        drive.now += 7.0
        assert drive.begin() is None
        hung.success(drive.now)
        assert drive.state is OPEN

    def test_the_oldest_probe_counts(self) -> None:
        drive = half_open(half_open_calls=3, half_open_timeout=7.0)
        drive.begin()
        drive.now += 5.0
        drive.begin()
        drive.now += 2.0
        assert drive.begin() is None
        assert drive.state is OPEN

    def test_a_probe_that_is_back_no_longer_counts(self) -> None:
        drive = half_open(half_open_calls=2, half_open_timeout=7.0, success_threshold=9)
        first = drive.admitted()
        drive.now += 5.0
        drive.admitted()
        first.success(drive.now)
        drive.now += 5.0
        assert drive.begin() is not None
        assert drive.state is HALF_OPEN

    def test_probes_that_are_back_do_not_hang(self) -> None:
        drive = half_open(half_open_timeout=7.0, success_threshold=9)
        drive.succeed()
        drive.now += 1000.0
        assert drive.begin() is not None
        assert drive.state is HALF_OPEN

    @pytest.mark.parametrize("duration", [lambda turn: 20.0, lambda turn: 0.0])
    def test_a_break_of_a_length_given_by_hand_leaves_probes_their_time(self, duration: Callable[[int], float]) -> None:
        drive = half_open(open_duration=duration)
        probe = drive.admitted()
        assert drive.begin() is None
        assert drive.state is HALF_OPEN
        probe.success(drive.now)
        assert drive.state is CLOSED

    def test_the_timeout_is_the_last_break_where_that_is_a_function(self) -> None:
        drive = driver(open_duration=lambda turn: 4.0 * turn)
        drive.fail(3)
        drive.now += 4.0
        drive.fail()
        drive.now += 8.0
        drive.begin()
        drive.now += 7.75
        assert drive.begin() is None
        assert drive.state is HALF_OPEN
        drive.now += 0.25
        assert drive.begin() is None
        assert drive.state is OPEN
