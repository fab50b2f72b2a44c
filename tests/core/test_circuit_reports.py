"""What a circuit tells about itself, and what happens where the user's own code fails inside it."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.core import circuit as circuit_module
from resilient.core.circuit import Circuit, Closed
from resilient.core.circuit_plan import CircuitState, Transition
from tests.core.circuit_kit import CLOSED, HALF_OPEN, OPEN, driver, half_open, plan


def is_held(circuit: Circuit) -> bool:
    lock: Any = circuit.lock
    return bool(lock._is_owned())


class TestReport:
    def test_rates_are_unknown_below_the_minimum(self) -> None:
        drive = driver(failure_rate=0.9, slow_call_rate=0.9, minimum_calls=4)
        drive.play("FS.")
        report = drive.circuit.report(drive.now)
        assert (report.calls, report.failure_rate, report.slow_call_rate) == (3, None, None)
        drive.play(".")
        report = drive.circuit.report(drive.now)
        assert (report.calls, report.failure_rate, report.slow_call_rate) == (4, 0.25, 0.25)

    def test_rates_are_unknown_again_once_the_time_window_has_forgotten(self) -> None:
        drive = driver(failure_rate=0.9, window_duration=10.0, minimum_calls=2)
        drive.play("F.")
        assert drive.circuit.report(drive.now).failure_rate == 0.5
        assert drive.circuit.report(drive.now + 10.0).failure_rate is None

    def test_an_open_circuit_shows_the_window_that_opened_it(self) -> None:
        drive = driver(consecutive_failures=3, minimum_calls=4)
        drive.play(".FFF")
        drive.now += 12.0
        report = drive.circuit.report(drive.now)
        assert (report.state, report.since_seconds, report.retry_after) == (OPEN, 12.0, 18.0)
        assert (report.calls, report.failures, report.failure_rate) == (4, 3, 0.75)

    def test_windows_begin_empty_with_each_state(self) -> None:
        drive = driver(consecutive_failures=3, half_open_calls=2)
        drive.play(".FFF")
        drive.now += 30.0
        drive.succeed()
        report = drive.circuit.report(drive.now)
        assert (report.state, report.calls, report.failures) == (HALF_OPEN, 1, 0)
        drive.succeed()
        report = drive.circuit.report(drive.now)
        assert (report.state, report.calls) == (CLOSED, 0)

    def test_an_untouched_circuit_has_counted_nothing(self) -> None:
        report = driver().circuit.report(130.0)
        assert (report.state, report.calls, report.failure_rate, report.since_seconds) == (CLOSED, 0, None, 30.0)

    def test_transitions_are_listed_and_counted(self) -> None:
        drive = driver(consecutive_failures=1, open_duration=5.0)
        drive.fail()
        drive.now += 5.0
        drive.fail()
        drive.now += 6.0
        drive.succeed()
        assert drive.circuit.transitions == [
            Transition(CLOSED, OPEN, 100.0, "1 failures in a row", 5.0),
            Transition(OPEN, HALF_OPEN, 105.0, "the break is over", None),
            Transition(HALF_OPEN, OPEN, 105.0, "a probe failed", 5.0),
            Transition(OPEN, HALF_OPEN, 111.0, "the break is over", None),
            Transition(HALF_OPEN, CLOSED, 111.0, "1 of 1 probes succeeded", None),
        ]
        assert drive.circuit.transition_counts == {
            (CLOSED, OPEN): 1,
            (OPEN, HALF_OPEN): 2,
            (HALF_OPEN, OPEN): 1,
            (HALF_OPEN, CLOSED): 1,
        }

    def test_the_time_in_each_state_adds_up(self) -> None:
        drive = driver(consecutive_failures=1, open_duration=5.0)
        drive.now += 2.0
        drive.fail()
        drive.now += 7.0
        probe = drive.admitted()
        drive.now += 1.0
        probe.success(drive.now)
        drive.now += 3.0
        spent = drive.circuit.time_by_state(drive.now)
        assert spent == {**dict.fromkeys(CircuitState, 0.0), CLOSED: 5.0, OPEN: 7.0, HALF_OPEN: 1.0}

    def test_a_clock_that_a_thread_read_late_gives_no_negative_time(self) -> None:
        drive = driver()
        drive.circuit.force_open(105.0)
        report = drive.circuit.report(104.0)
        assert report.since_seconds == 0.0
        drive.circuit.disable(104.0)
        assert min(drive.circuit.time_by_state(103.0).values()) >= 0.0


class TestUserCodeThatFails:
    @pytest.mark.parametrize(
        "settings", [{}, {"half_open_calls": 3, "half_open_failure_rate": 0.1}, {"half_open_calls": 3}]
    )
    def test_an_open_duration_that_raises_in_half_open_leaves_it_probing(self, settings: dict[str, float]) -> None:
        broken = True

        def duration(turn: int) -> float:
            if broken:
                raise LookupError("no such setting")
            return 5.0

        drive = half_open(open_duration=duration, **settings)
        with pytest.raises(LookupError):
            drive.play("FFF")
        assert drive.state is HALF_OPEN
        broken = False
        drive.play("FFF"[: int(settings.get("half_open_calls", 1)) if "half_open_failure_rate" in settings else 1])
        assert drive.state is OPEN

    def test_an_open_duration_that_raises_leaves_it_closed_and_is_asked_again(self) -> None:
        asked: list[int] = []

        def duration(turn: int) -> float:
            asked.append(turn)
            raise LookupError("no such setting")

        drive = driver(open_duration=duration)
        drive.fail(2)
        for _ in range(2):
            with pytest.raises(LookupError):
                drive.fail()
        with pytest.raises(LookupError):
            drive.circuit.trip(drive.now, None)
        assert drive.state is CLOSED
        assert asked == [1, 1, 1]
        drive.circuit.trip(drive.now, 5.0)
        assert drive.state is OPEN

    def test_no_probe_is_lost_where_telling_of_half_open_is_interrupted(self) -> None:
        interrupts = [KeyboardInterrupt()]

        def published() -> None:
            if interrupts and drive.state is HALF_OPEN:
                raise interrupts.pop()

        drive = half_open()
        drive.circuit.published = published
        with pytest.raises(KeyboardInterrupt):
            drive.begin()
        drive.succeed()
        assert drive.state is CLOSED

    def test_what_is_told_is_told_outside_the_lock(self) -> None:
        held: list[bool] = []
        drive = driver(consecutive_failures=1)
        drive.circuit.published = lambda: held.append(is_held(drive.circuit))
        drive.fail()
        drive.now += 30.0
        drive.succeed()
        drive.circuit.trip(drive.now, 1.0)
        drive.circuit.force_open(drive.now)
        drive.circuit.disable(drive.now)
        drive.circuit.reset(drive.now)
        assert held == [False] * 7

    @pytest.mark.parametrize("control", ["force_open", "disable", "reset"])
    def test_a_state_set_by_hand_while_the_length_of_a_break_is_asked_stays(self, control: str) -> None:
        def duration(turn: int) -> float:
            getattr(drive.circuit, control)(drive.now)
            return 5.0

        drive = driver(consecutive_failures=1, open_duration=duration)
        drive.fail()
        assert drive.state is not OPEN

    def test_the_length_of_a_break_is_asked_outside_the_lock(self) -> None:
        held: list[bool] = []

        def duration(turn: int) -> float:
            held.append(is_held(drive.circuit))
            return 5.0

        drive = driver(consecutive_failures=1, open_duration=duration)
        drive.fail()
        drive.now += 5.0
        drive.fail()
        drive.circuit.trip(drive.now, None)
        assert held == [False] * 3


class TestWithoutTheInterpreterLock:
    def test_successes_are_counted_under_the_lock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(circuit_module, "GIL", False)
        drive = driver(consecutive_failures=2)
        drive.play("F....F..F")
        report = drive.circuit.report(drive.now)
        assert (report.state, report.calls, report.failures) == (CLOSED, 9, 3)


def test_a_circuit_that_is_never_called_makes_no_window() -> None:
    circuit = Circuit(plan(), 0.0)
    circuit.disable(1.0)
    circuit.reset(2.0)
    assert circuit.report(3.0).calls == 0
    assert isinstance(circuit.period, Closed)
    assert circuit.period.window is None


class TestLastError:
    def test_a_probe_tells_its_error_and_one_that_tells_none_keeps_the_last(self) -> None:
        drive = half_open(half_open_calls=3, half_open_failure_rate=1.0)
        for error, last in (("first", "first"), (None, "first"), ("second", "second")):
            drive.admitted().bad(drive.now, failure=True, slow=False, error=error)
            assert drive.circuit.last_error == last


class TestOpening:
    def test_a_period_that_is_over_opens_nothing(self) -> None:
        drive = driver()
        over = drive.circuit.period
        drive.circuit.reset(drive.now)
        assert not drive.circuit.open(over, drive.now, "too late")
        assert drive.state is CLOSED

    def test_a_period_that_ends_while_the_length_of_the_break_is_found_opens_nothing(self) -> None:
        def length(turn: int) -> float:
            drive.circuit.reset(drive.now)
            return 1.0

        drive = driver(open_duration=length)
        assert not drive.circuit.open(drive.circuit.period, drive.now, "too late")
        assert drive.state is CLOSED

    def test_what_admits_all_says_so(self) -> None:
        drive = driver()
        assert drive.circuit.period.open_to_all is True
        drive.circuit.disable(drive.now)
        assert drive.circuit.period.open_to_all is True
        drive.circuit.force_open(drive.now)
        assert drive.circuit.period.open_to_all is False
