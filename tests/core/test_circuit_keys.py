"""Circuits by key, without a policy around them."""

from __future__ import annotations

from resilient.core.circuit import Circuit
from resilient.core.circuit_keys import KeyedCircuits
from tests.core.circuit_kit import CLOSED, DISABLED, FORCED_OPEN, HALF_OPEN, OPEN, finish, plan


class Keys:
    """A clock and what it moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.circuits = KeyedCircuits(
            Circuit(plan(failure_rate=0.5, slow_call_rate=0.9, minimum_calls=4), 100.0), 10, lambda: self.now
        )

    def play(self, key: str, results: str) -> None:
        for result in results:
            ticket = self.circuits.of(key).admit(self.now)
            assert ticket is not None
            finish(ticket, result, self.now)
        self.circuits.note_state(self.now)


def test_rates_are_those_of_all_keys_together() -> None:
    keys = Keys()
    keys.play("a", "..")
    assert keys.circuits.report(100.0).failure_rate is None
    keys.play("b", "FS")
    report = keys.circuits.report(100.0)
    assert (report.state, report.calls, report.failures, report.slow_calls) == (CLOSED, 4, 1, 1)
    assert (report.failure_rate, report.slow_call_rate) == (0.25, 0.25)


def test_the_worst_state_of_any_key_is_that_of_all() -> None:
    keys = Keys()
    keys.play("a", "....")
    keys.play("b", "FFFF")
    keys.now = 110.0
    keys.play("c", "FFFF")
    report = keys.circuits.report(110.0)
    assert (keys.circuits.state, report.state, report.retry_after) == (OPEN, OPEN, 30.0)
    assert list(keys.circuits.unhealthy(110.0)) == ["c", "b"]
    keys.now = 200.0
    for key in "bc":
        assert keys.circuits.of(key).admit(200.0) is not None
    assert keys.circuits.state is HALF_OPEN


def test_a_master_that_was_moved_by_hand_decides_and_reports_for_all() -> None:
    keys = Keys()
    keys.play("a", "FFFF")
    for move, state in ((keys.circuits.master.force_open, FORCED_OPEN), (keys.circuits.master.disable, DISABLED)):
        move(100.0)
        assert keys.circuits.of("a") is keys.circuits.master
        assert keys.circuits.state is keys.circuits.report(100.0).state is state
    keys.circuits.reset(100.0)
    assert keys.circuits.of("a") is not keys.circuits.master
    assert keys.circuits.state is CLOSED


def test_time_is_charged_to_the_worst_state_of_that_time() -> None:
    keys = Keys()
    keys.now = 103.0
    keys.play("a", "FFFF")
    keys.now = 110.0
    keys.circuits.reset(110.0)
    keys.circuits.note_state(110.0)
    spent = {state: seconds for state, seconds in keys.circuits.time_by_state(112.0).items() if seconds}
    assert spent == {CLOSED: 5.0, OPEN: 7.0}
    # Read on another thread, a moment before the state changed.
    assert keys.circuits.time_by_state(109.5)[CLOSED] == 3.0


def test_the_child_of_a_fork_counts_its_own_time() -> None:
    keys = Keys()
    keys.now = 103.0
    keys.play("a", "FFFF")
    keys.circuits.after_fork(110.0)
    assert {state: seconds for state, seconds in keys.circuits.time_by_state(112.0).items() if seconds} == {OPEN: 2.0}
