"""Permits and their queue: every rule by itself."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator

import pytest

from resilient.core.permits import Permits, Place
from tests.core.permits_kit import Sleeper


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


def test_nobody_takes_a_permit_that_is_just_coming_back_before_those_who_wait() -> None:
    permits = full()
    waiter = Sleeper(permits)
    # As if the thread that gives it back had come no further yet.
    permits.free += 1
    assert not permits.try_acquire()
    assert waiter.place.granted


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


def test_who_queues_first_sees_a_permit_that_came_back_unlocked_meanwhile() -> None:
    permits = full()

    class Late(OrderedDict[Place, None]):
        def __setitem__(self, place: Place, value: None) -> None:
            super().__setitem__(place, value)
            # A thread that gave it back when nobody waited yet, and so took no lock.
            permits.free += 1

    permits._queue = Late()
    waiter = Sleeper(permits)
    assert waiter.place.granted
    assert (permits.in_flight, permits.queued) == (1, 0)


def test_everybody_is_woken_outside_the_lock() -> None:
    permits = full(limit=2)
    tried: list[bool] = []

    def wake() -> bool:
        # A lock that is held here would be in the way of another thread.
        thread = threading.Thread(target=permits.resize, args=(permits.limit, 0.0), daemon=True)
        thread.start()
        thread.join(5.0)
        tried.append(not thread.is_alive())
        return True

    permits.queue_up(wake)
    permits.release()
    permits.queue_up(wake)
    permits.resize(3, 0.0)
    assert tried == [True, True]


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
    permits.free += limit
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
    begin = threading.Barrier(8)

    def work(index: int) -> None:
        begin.wait(10.0)
        for _ in range(30_000):
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
