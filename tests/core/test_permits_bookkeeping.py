"""What permits count for themselves: debts, permits that come back, and when the lock is needed."""

from __future__ import annotations

import pytest

from resilient.core import permits as permits_module
from resilient.core.permits import Permits, _State
from tests.core.permits_kit import Sleeper


class Untouchable:
    def __enter__(self) -> None:
        raise AssertionError("the lock was taken")

    def __exit__(self, *details: object) -> None: ...


def take_all(permits: Permits) -> int:
    taken = 0
    while permits.try_acquire():
        taken += 1
    return taken


@pytest.mark.parametrize("gil", [True, False])
def test_permits_go_out_and_come_back_on_every_build_of_python(gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits_module, "GIL", gil)
    permits = Permits(2, 5)
    for _ in range(3):
        assert take_all(permits) == 2
        sleepers = [Sleeper(permits), Sleeper(permits)]
        for sleeper in sleepers:
            permits.release()
            assert sleeper.woken == 1
            assert permits.end_wait(sleeper.place)
        assert (permits.in_flight, permits.queued) == (2, 0)
        permits.release()
        permits.release()
        assert permits.in_flight == 0


@pytest.mark.parametrize("out", [0, 2])
@pytest.mark.parametrize("debt", [0, 1])
def test_all_are_free_after_a_fork_and_nobody_waits(out: int, debt: int) -> None:
    permits = Permits(3 + debt, 5)
    for _ in range(out + debt):
        assert permits.try_acquire()
    permits.resize(3, 0.0)
    permits.after_fork(0.0)
    assert (permits.in_flight, permits.queued) == (0, 0)
    assert permits.try_acquire()
    assert permits.in_flight == 1
    assert take_all(permits) == 2
    permits.release()
    assert permits.in_flight == 2


def test_who_forked_gives_its_permit_back_and_makes_no_more_of_them() -> None:
    permits = Permits(2, 5)
    assert permits.try_acquire()
    permits.after_fork(0.0)
    permits.release()
    assert take_all(permits) == 2
    assert permits.in_flight == 2


def test_a_rule_goes_on_from_the_limit_that_was_set_by_hand() -> None:
    class OneMore:
        limit = 5

        def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
            self.limit += 1
            return self.limit

    permits = Permits(5, 0, OneMore())
    permits.resize(50, 0.0)
    permits.adapt(0.1, 50, False, 0.0)
    assert permits.limit == 51


def test_a_permit_lent_while_another_comes_back_goes_to_who_waits() -> None:
    permits = Permits(1, 5)
    assert permits.try_acquire()
    sleepers = [Sleeper(permits), Sleeper(permits)]
    # Two have come back without the lock, and whoever brought them has not looked at the queue yet.
    permits.free += 2
    permits.lend(1)
    assert [sleeper.woken for sleeper in sleepers] == [1, 0]


def test_a_permit_for_a_place_that_is_over_while_it_is_taken_out_of_the_queue_stays() -> None:
    permits = Permits(1, 5)
    assert permits.try_acquire()
    over, waiting = Sleeper(permits), Sleeper(permits)
    # As the garbage collector leaves it that closes a coroutine in the middle of the hand-over.
    over.place._state = _State.OVER
    permits.release()
    assert (over.woken, waiting.woken) == (0, 1)
    assert permits.in_flight == 1


def test_once_nobody_waits_no_lock_is_taken() -> None:
    permits = Permits(1, 5)
    assert permits.try_acquire()
    sleeper = Sleeper(permits)
    permits.release()
    assert permits.end_wait(sleeper.place)
    permits._lock = Untouchable()  # type: ignore[assignment]
    permits.release()
    assert permits.try_acquire()
    assert not permits.try_acquire()
