"""Permits and their queue: every rule by itself, and at random against a plain model."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from resilient.core.permits import Permits, Place


class Sleeper:
    """Somebody who waits: knows how often it was woken, and may have gone away."""

    def __init__(self, permits: Permits, *, gone: bool = False) -> None:
        self.woken = 0
        self.gone = gone
        place = permits.queue_up(self.wake)
        assert place is not None
        self.place = place

    def wake(self) -> bool:
        self.woken += 1
        return not self.gone


def full(limit: int = 1, max_queue: int = 10) -> Permits:
    permits = Permits(limit, max_queue)
    for _ in range(limit):
        assert permits.try_acquire()
    return permits


def test_there_are_as_many_permits_as_the_limit_says() -> None:
    permits = Permits(2, 0)
    assert [permits.try_acquire() for _ in range(3)] == [True, True, False]
    assert permits.in_flight == 2
    permits.release()
    assert permits.in_flight == 1
    assert permits.try_acquire()


def test_the_queue_takes_no_more_than_it_may() -> None:
    permits = full(max_queue=1)
    Sleeper(permits)
    assert permits.queue_is_full
    assert permits.queue_up(lambda: True) is None
    assert permits.queued == 1


def test_a_queue_of_no_places_takes_nobody() -> None:
    assert full(max_queue=0).queue_up(lambda: True) is None


def test_a_permit_that_is_free_is_granted_to_who_wants_to_queue() -> None:
    permits = Permits(1, 0)
    place = permits.queue_up(lambda: True)
    assert place is not None
    assert place.granted
    assert permits.in_flight == 1


def test_first_come_first_served() -> None:
    permits = full()
    first, second, third = (Sleeper(permits) for _ in range(3))
    permits.release()
    assert [s.place.granted for s in (first, second, third)] == [True, False, False]
    permits.release()
    permits.release()
    assert [s.woken for s in (first, second, third)] == [1, 1, 1]


def test_a_permit_on_its_way_to_a_waiter_can_not_be_taken_by_another() -> None:
    permits = full()
    waiter = Sleeper(permits)
    permits.release()
    assert not permits.try_acquire()
    assert permits.end_wait(waiter.place)
    assert permits.in_flight == 1


def test_nobody_overtakes_the_queue() -> None:
    permits = full(limit=2)
    first = Sleeper(permits)
    seen: list[bool] = []

    def try_to_overtake() -> bool:
        seen.append(permits.try_acquire())
        return True

    first.place.wake = try_to_overtake
    permits.release()
    assert seen == [False]


def test_a_waiter_that_leaves_does_not_stop_the_queue() -> None:
    permits = full()
    first, second = Sleeper(permits), Sleeper(permits)
    assert not permits.end_wait(first.place)
    permits.release()
    assert second.place.granted
    assert first.woken == 0


def test_the_last_to_leave_the_queue_leaves_the_door_open() -> None:
    permits = full()
    permits.end_wait(Sleeper(permits).place)
    permits.release()
    assert permits.try_acquire()


def test_a_permit_granted_to_one_who_leaves_at_that_instant_belongs_to_it_once() -> None:
    permits = full()
    first, second = Sleeper(permits), Sleeper(permits)
    permits.release()
    assert permits.end_wait(first.place)
    assert not permits.end_wait(first.place)
    permits.release()
    assert second.place.granted
    assert permits.in_flight == 1


def test_a_permit_for_one_who_is_gone_goes_to_the_next() -> None:
    permits = full()
    gone, alive = Sleeper(permits, gone=True), Sleeper(permits)
    permits.release()
    assert alive.place.granted
    assert not permits.end_wait(gone.place)
    assert permits.in_flight == 1


def test_thousands_who_are_gone_are_no_trouble() -> None:
    permits = full(max_queue=5_000)
    for _ in range(4_000):
        Sleeper(permits, gone=True)
    alive = Sleeper(permits)
    permits.release()
    assert alive.place.granted
    assert permits.queued == 0


def test_one_who_is_gone_and_leaves_while_it_is_being_woken_gives_its_permit_back_once() -> None:
    permits = full()
    place: list[Place] = []

    def wake() -> bool:
        # A task of a closed loop is thrown away at this moment.
        if permits.end_wait(place[0]):
            permits.release()
        return False

    queued = permits.queue_up(wake)
    assert queued is not None
    place.append(queued)
    permits.release()
    assert permits.in_flight == 0
    assert permits.try_acquire()
    assert not permits.try_acquire()


def test_everybody_granted_a_permit_is_woken_though_the_first_wake_is_interrupted() -> None:
    permits = full(limit=2)
    woken: list[str] = []

    def interrupted() -> bool:
        woken.append("first")
        if len(woken) == 1:
            raise KeyboardInterrupt
        return True

    permits.queue_up(interrupted)
    second = Sleeper(permits)
    with pytest.raises(KeyboardInterrupt):
        permits.resize(4, 0.0)
    assert (woken, second.woken) == (["first", "first"], 1)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("how", ["queue_up", "try_acquire"])
def test_whoever_is_interrupted_while_it_wakes_another_leaves_nothing_behind(how: str, limit: int) -> None:
    permits = full(limit)
    woken: list[None] = []

    def interrupted() -> bool:
        woken.append(None)
        if len(woken) == 1:
            raise KeyboardInterrupt
        return True

    first = permits.queue_up(interrupted)
    assert first is not None
    # As if the threads that give them back had come no further yet.
    permits._free += limit
    with pytest.raises(KeyboardInterrupt):
        permits.queue_up(lambda: True) if how == "queue_up" else permits.try_acquire()
    assert permits.end_wait(first)
    assert (permits.in_flight, permits.queued) == (1, 0)


# Resizing


def test_a_larger_limit_wakes_those_who_wait() -> None:
    permits = full()
    waiters = [Sleeper(permits) for _ in range(3)]
    permits.resize(3, 0.0)
    assert [waiter.woken for waiter in waiters] == [1, 1, 0]
    assert permits.in_flight == 3


def test_a_smaller_limit_is_reached_as_calls_end() -> None:
    permits = full(limit=3)
    permits.resize(1, 0.0)
    assert (permits.limit, permits.in_flight) == (1, 3)
    permits.release()
    permits.release()
    assert not permits.try_acquire()
    permits.release()
    assert permits.in_flight == 0
    assert [permits.try_acquire(), permits.try_acquire()] == [True, False]


def test_with_a_smaller_limit_those_who_wait_go_on_waiting_until_it_is_kept() -> None:
    permits = full(limit=2)
    waiter = Sleeper(permits)
    permits.resize(1, 0.0)
    permits.release()
    assert not waiter.place.granted
    permits.release()
    assert waiter.place.granted


def test_smaller_and_larger_again_is_as_before() -> None:
    permits = full(limit=3)
    permits.resize(1, 0.0)
    permits.release()
    permits.resize(3, 0.0)
    assert permits.in_flight == 2
    assert [permits.try_acquire(), permits.try_acquire()] == [True, False]


def test_free_permits_go_first_when_the_limit_shrinks() -> None:
    permits = Permits(4, 0)
    permits.try_acquire()
    permits.resize(2, 0.0)
    assert permits.in_flight == 1
    assert [permits.try_acquire(), permits.try_acquire()] == [True, False]


def test_changes_of_the_limit_are_noted_in_order_and_only_changes() -> None:
    permits = Permits(4, 0)
    for limit in (4, 6, 6, 5):
        permits.resize(limit, 1.5)
    assert list(permits.changes) == [(4, 6, False, 1.5), (6, 5, False, 1.5)]


def test_a_lent_permit_is_paid_for_by_the_next_that_comes_back() -> None:
    permits = full(limit=2)
    permits.lend(1)
    assert permits.in_flight == 3
    permits.release()
    assert not permits.try_acquire()
    permits.release()
    assert permits.try_acquire()
    permits.release()
    permits.release()
    assert permits.in_flight == 0


def test_a_permit_may_come_back_under_the_lock_of_the_permits() -> None:
    """The garbage collector runs where it likes, and closes guarded generators."""

    class Rule:
        limit = 2

        def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
            permits.release()
            return self.limit

    permits = Permits(2, 5, Rule())
    assert permits.try_acquire()
    assert permits.try_acquire()
    waiter = Sleeper(permits)
    learner = threading.Thread(target=permits.adapt, args=(1.0, 2, False, 0.0), daemon=True)
    learner.start()
    learner.join(5.0)
    assert not learner.is_alive()
    assert waiter.place.granted
    assert permits.in_flight == 2


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hasty_threads")
def test_eight_threads_without_a_queue_never_hold_more_than_the_limit() -> None:
    permits = Permits(3, 0)
    held: deque[None] = deque()
    most: list[int] = [0] * 8
    got: list[int] = [0] * 8

    def work(index: int) -> None:
        for _ in range(4_000):
            if permits.try_acquire():
                held.append(None)
                most[index] = max(most[index], len(held))
                got[index] += 1
                held.pop()
                permits.release()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert sum(got) > 0
    assert permits.in_flight == 0
    assert [permits.try_acquire() for _ in range(4)] == [True, True, True, False]


# At random, against a model


class PermitsMachine(RuleBasedStateMachine):
    """The model: how many hold a permit, who waits in which order, who has been granted one and not taken it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2
        self.max_queue = 3
        self.permits = Permits(self.limit, self.max_queue)
        self.holders = 0
        self.waiting: list[Sleeper] = []
        self.granted: list[Sleeper] = []

    sleepers = Bundle("sleepers")

    def hand_out(self) -> None:
        while self.waiting and self.holders < self.limit:
            sleeper = self.waiting.pop(0)
            if not sleeper.gone:
                self.holders += 1
                self.granted.append(sleeper)

    @rule()
    def acquire(self) -> None:
        possible = self.holders < self.limit and not self.waiting
        assert self.permits.try_acquire() is possible
        self.holders += possible

    @precondition(lambda self: self.holders > len(self.granted))
    @rule()
    def release(self) -> None:
        self.permits.release()
        self.holders -= 1
        self.hand_out()

    @rule(target=sleepers, gone=st.booleans())
    def queue_up(self, gone: bool) -> object:
        if self.holders >= self.limit and len(self.waiting) >= self.max_queue:
            assert self.permits.queue_up(lambda: True) is None
            return None
        sleeper = Sleeper(self.permits, gone=gone)
        if self.holders < self.limit:
            # It is there to be asked, and needs no waking.
            assert sleeper.place.granted
            self.holders += 1
            self.granted.append(sleeper)
        else:
            self.waiting.append(sleeper)
        return sleeper

    @rule(sleeper=sleepers)
    def end_wait(self, sleeper: Sleeper | None) -> None:
        if sleeper is None:
            return
        assert self.permits.end_wait(sleeper.place) is (sleeper in self.granted)
        if sleeper in self.granted:
            self.granted.remove(sleeper)
        elif sleeper in self.waiting:
            self.waiting.remove(sleeper)

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.permits.resize(limit, 0.0)
        self.limit = limit
        self.hand_out()

    @rule(count=st.integers(0, 2))
    def lend(self, count: int) -> None:
        self.permits.lend(count)
        self.holders += count

    @invariant()
    def both_agree(self) -> None:
        assert self.permits.limit == self.limit
        assert self.permits.in_flight == self.holders
        assert self.permits.queued == len(self.waiting)
        for sleeper in self.granted:
            assert sleeper.place.granted
        for sleeper in self.waiting:
            assert not sleeper.place.granted
            assert sleeper.woken == 0


TestPermitsMachine = PermitsMachine.TestCase
