from __future__ import annotations

from math import nan

import pytest

from resilient.core.circuit import Ticket
from resilient.core.circuit_plan import CircuitState
from resilient.errors import ConfigurationError
from tests.core.circuit_kit import CLOSED, DISABLED, FORCED_OPEN, HALF_OPEN, ONE_BY_ONE, OPEN, driver, finish, half_open


class TestOpening:
    @pytest.mark.parametrize(
        "settings, results, state",
        [
            ({"consecutive_failures": 3}, "FF", CLOSED),
            ({"consecutive_failures": 3}, "FFF", OPEN),
            ({"consecutive_failures": 3}, "FF.FF", CLOSED),
            ({"consecutive_failures": 3}, "FFSFF", CLOSED),
            ({"consecutive_failures": 3}, "FnFnF", OPEN),
            ({"consecutive_failures": 3, "window_calls": 2, "minimum_calls": 2}, "FFF", OPEN),
            ({"consecutive_failures": 3, "minimum_calls": 50}, "FFF", OPEN),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "FFF", CLOSED),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "FFFF", OPEN),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "..FF", OPEN),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "...FF", CLOSED),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "FF..", CLOSED),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "FF..S", CLOSED),
            ({"failure_rate": 0.5, "minimum_calls": 4}, "FF..F", OPEN),
            ({"failure_rate": 0.5, "minimum_calls": 4, "window_calls": 4}, "FFn...", CLOSED),
            ({"failure_rate": 0.5, "minimum_calls": 4, "window_calls": 4}, "F....F.F", OPEN),
            ({"slow_call_rate": 0.5, "minimum_calls": 4}, "..SS", OPEN),
            ({"slow_call_rate": 0.5, "minimum_calls": 4}, "..SB", OPEN),
            ({"slow_call_rate": 0.5, "minimum_calls": 4}, "..SF", CLOSED),
            ({"slow_call_rate": 0.5, "failure_rate": 0.5, "minimum_calls": 4}, "..SF", CLOSED),
            ({"slow_call_rate": 0.5, "failure_rate": 0.5, "minimum_calls": 4}, "..BF", OPEN),
            ({"failure_rate": 1.0, "minimum_calls": 2}, ".FFFFFFFFF", CLOSED),
            ({"failure_rate": 1.0, "minimum_calls": 2}, ".FFFFFFFFFF", OPEN),
        ],
    )
    def test_it_opens_at_its_thresholds_and_not_before(
        self, settings: dict[str, float], results: str, state: CircuitState
    ) -> None:
        drive = driver(**settings)
        drive.play(results)
        assert drive.state is state

    @pytest.mark.parametrize("percent", range(1, 101))
    def test_thresholds_are_inclusive_whatever_their_binary_fraction(self, percent: int) -> None:
        drive = driver(failure_rate=percent / 100, minimum_calls=100, window_calls=100)
        drive.play("." * (100 - percent) + "F" * (percent - 1))
        assert drive.state is CLOSED
        drive.fail()
        assert drive.state is OPEN

    @pytest.mark.parametrize("percent", range(1, 101))
    def test_the_thresholds_of_slow_calls_are_inclusive_too(self, percent: int) -> None:
        drive = driver(slow_call_rate=percent / 100, minimum_calls=100, window_calls=100)
        drive.play("." * (100 - percent) + "S" * percent)
        assert drive.state is OPEN

    def test_a_fast_success_never_opens(self) -> None:
        drive = driver(failure_rate=0.5, minimum_calls=3)
        drive.play("FF.")
        assert drive.circuit.report(drive.now).failure_rate == pytest.approx(2 / 3)
        assert drive.state is CLOSED

    def test_failures_that_the_time_window_has_forgotten_do_not_count(self) -> None:
        drive = driver(failure_rate=0.5, window_duration=10.0, minimum_calls=4)
        drive.fail(3)
        drive.now += 10.0
        drive.fail(3)
        assert drive.state is CLOSED
        drive.fail()
        assert drive.state is OPEN

    def test_it_says_why(self) -> None:
        drive = driver(consecutive_failures=2, failure_rate=0.5, slow_call_rate=0.5, minimum_calls=3)
        drive.play("FF")
        drive.circuit.reset(drive.now)
        drive.play("F.F")
        drive.circuit.reset(drive.now)
        drive.play("S.S")
        assert [change.reason for change in drive.circuit.transitions if change.after is OPEN] == [
            "2 failures in a row",
            "2 of 3 calls failed",
            "2 of 3 calls were slow",
        ]


class TestOpen:
    def test_it_rejects_until_the_break_is_over_to_the_instant(self) -> None:
        drive = driver(open_duration=30.0)
        drive.fail(3)
        assert drive.circuit.retry_after(drive.now) == 30.0
        drive.now += 29.999
        assert drive.begin() is None
        assert drive.circuit.retry_after(drive.now) == pytest.approx(0.001)
        drive.now = 130.0
        assert drive.state is OPEN
        assert drive.begin() is not None
        assert drive.state is HALF_OPEN

    def test_a_refused_call_does_not_prolong_the_break(self) -> None:
        drive = driver(open_duration=30.0)
        drive.fail(3)
        for _ in range(29):
            drive.now += 1.0
            assert drive.begin() is None
        drive.now += 1.0
        assert drive.begin() is not None

    def test_looking_never_changes_the_state(self) -> None:
        drive = driver(open_duration=30.0)
        drive.fail(3)
        drive.now += 1000.0
        report = drive.circuit.report(drive.now)
        assert (report.state, report.retry_after, report.since_seconds) == (OPEN, 0.0, 1000.0)
        assert drive.state is OPEN

    def test_the_length_of_the_break_may_depend_on_how_often_it_opened_in_a_row(self) -> None:
        asked: list[int] = []

        def duration(turn: int) -> float:
            asked.append(turn)
            return 10.0 * turn

        drive = driver(open_duration=duration)
        drive.fail(3)
        for turn in (2, 3):
            drive.now += 10.0 * (turn - 1)
            drive.fail()
            assert drive.circuit.retry_after(drive.now) == 10.0 * turn
        drive.now += 30.0
        drive.succeed()
        assert drive.state is CLOSED
        drive.fail(3)
        assert asked == [1, 2, 3, 1]

    @pytest.mark.parametrize("wrong", [-1.0, nan, float("inf"), True, "5", None])
    def test_a_length_that_is_none_is_refused_and_leaves_it_closed(self, wrong: object) -> None:
        drive = driver(open_duration=lambda turn: wrong)
        drive.fail(2)
        with pytest.raises(ConfigurationError, match=r"open_duration\(1\) gave"):
            drive.fail()
        assert drive.state is CLOSED

    def test_a_length_of_zero_goes_to_half_open_with_the_next_call(self) -> None:
        drive = driver(open_duration=lambda turn: 0)
        drive.fail(3)
        assert drive.state is OPEN
        probe = drive.admitted()
        assert drive.begin() is None
        probe.success(drive.now)
        assert drive.state is CLOSED


class TestLateResults:
    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_call_of_the_closed_state_says_nothing_to_the_open_one(self, result: str) -> None:
        drive = driver(consecutive_failures=1)
        late = drive.admitted()
        drive.fail()
        drive.now += 10.0
        finish(late, result, drive.now)
        assert drive.path == ["closed -> open"]
        assert drive.circuit.retry_after(drive.now) == 20.0

    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_call_of_the_closed_state_says_nothing_to_the_half_open_one(self, result: str) -> None:
        drive = driver(consecutive_failures=1)
        late = drive.admitted()
        drive.fail()
        drive.now += 30.0
        drive.admitted()
        finish(late, result, drive.now)
        assert drive.state is HALF_OPEN
        assert drive.circuit.report(drive.now).calls == 0
        assert drive.begin() is None

    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_call_of_an_earlier_closed_state_says_nothing_to_a_later_one(self, result: str) -> None:
        drive = driver(consecutive_failures=1)
        late = drive.admitted()
        drive.fail()
        drive.now += 30.0
        drive.succeed()
        finish(late, result, drive.now)
        assert drive.state is CLOSED
        assert drive.circuit.report(drive.now).calls == 0

    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_call_from_before_a_reset_says_nothing_after_it(self, result: str) -> None:
        drive = driver(consecutive_failures=1)
        late = drive.admitted()
        drive.circuit.reset(drive.now)
        finish(late, result, drive.now)
        assert drive.state is CLOSED
        assert drive.circuit.report(drive.now).calls == 0

    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_probe_of_an_earlier_half_open_state_says_nothing_to_a_later_one(self, result: str) -> None:
        drive = half_open(half_open_calls=2, success_threshold=1)
        late = drive.admitted()
        drive.fail()
        drive.now += 30.0
        drive.admitted()
        finish(late, result, drive.now)
        assert drive.state is HALF_OPEN
        assert drive.circuit.report(drive.now).calls == 0


class TestByHand:
    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_forced_open_outlives_timers_and_late_results(self, result: str) -> None:
        drive = driver(consecutive_failures=1)
        late = drive.admitted()
        drive.circuit.force_open(drive.now)
        finish(late, result, drive.now)
        drive.now += 1e9
        assert drive.begin() is None
        assert (drive.state, drive.circuit.retry_after(drive.now)) == (FORCED_OPEN, None)

    @pytest.mark.parametrize("result", ONE_BY_ONE)
    def test_a_probe_does_not_move_what_was_set_by_hand(self, result: str) -> None:
        for control, state in (("force_open", FORCED_OPEN), ("disable", DISABLED), ("reset", CLOSED)):
            drive = half_open()
            late = drive.admitted()
            getattr(drive.circuit, control)(drive.now)
            finish(late, result, drive.now)
            assert drive.state is state

    def test_disabled_lets_all_through_and_counts(self) -> None:
        drive = driver(consecutive_failures=1)
        drive.circuit.disable(drive.now)
        drive.play("FFBS.n")
        report = drive.circuit.report(drive.now)
        assert (report.state, report.calls, report.failures, report.slow_calls) == (DISABLED, 5, 3, 2)

    def test_tripping_begins_a_break_of_its_own_length(self) -> None:
        drive = driver(open_duration=30.0)
        drive.circuit.trip(drive.now, 5.0)
        assert drive.circuit.retry_after(drive.now) == 5.0
        drive.circuit.trip(drive.now, None)
        assert drive.circuit.retry_after(drive.now) == 30.0

    def test_tripping_is_not_lost_where_the_state_changes_meanwhile(self) -> None:
        probes: list[Ticket] = []

        def duration(turn: int) -> float:
            for probe in probes:
                probe.success(drive.now)
            return 5.0

        drive = half_open(open_duration=duration)
        probes.append(drive.admitted())
        drive.circuit.trip(drive.now, None)
        assert drive.path == ["open -> half_open", "half_open -> closed", "closed -> open"]

    def test_a_reset_empties_the_window_and_forgets_the_breaks(self) -> None:
        drive = driver(open_duration=lambda turn: 10.0 * turn)
        drive.fail(3)
        drive.circuit.reset(drive.now)
        drive.fail(2)
        drive.circuit.reset(drive.now)
        drive.fail(2)
        assert drive.state is CLOSED
        drive.fail()
        assert drive.circuit.retry_after(drive.now) == 10.0

    @pytest.mark.parametrize("control", ["force_open", "disable", "reset"])
    def test_twice_is_once(self, control: str) -> None:
        drive = driver()
        getattr(drive.circuit, control)(drive.now)
        before = drive.path
        drive.now += 5.0
        getattr(drive.circuit, control)(drive.now)
        assert drive.path == before
        assert drive.circuit.report(drive.now).since_seconds == 5.0
