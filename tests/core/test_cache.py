"""The last good results: how long they are of use, which go first, and who loads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient.core.cache import Cache, Entry, Load, Seat, Word, another_like
from resilient.errors import CircuitOpenError, TimeoutExceededError


def begin(cache: Cache, key: object, now: float = 0.0) -> Load:
    found = cache.ask(key, now)
    assert not isinstance(found, Entry)
    load, mine = found
    assert mine
    return load


def fresh(cache: Cache, key: object, now: float) -> bool:
    """Is there a fresh result? A load that was begun for want of one is given up."""
    found = cache.ask(key, now)
    if isinstance(found, Entry):
        return True
    cache.abandon(found[0], None)
    return False


def sit(cache: Cache, load: Load, *, alive: bool = True) -> Seat:
    seat = Seat(lambda: alive)
    assert cache.join(load, seat)
    return seat


class TestAges:
    def test_a_result_is_fresh_until_it_is_ttl_seconds_old(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=10)
        cache.succeed(begin(cache, "a"), 1, 100.0)
        assert fresh(cache, "a", 104.999)
        assert not fresh(cache, "a", 105.0)

    def test_it_is_of_use_until_it_is_max_stale_seconds_old(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=10)
        cache.succeed(begin(cache, "a"), 1, 100.0)
        entry = cache.last_good("a", 159.999)
        assert entry is not None
        assert entry.value == 1
        assert cache.last_good("a", 160.0) is None
        assert len(cache) == 0

    def test_with_a_ttl_of_zero_nothing_is_ever_fresh(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=10)
        cache.succeed(begin(cache, "a", 1.0), 1, 1.0)
        assert not fresh(cache, "a", 1.0)

    def test_a_later_result_takes_the_place_of_an_earlier_one(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=10)
        cache.succeed(begin(cache, "a"), 1, 0.0)
        cache.succeed(begin(cache, "a"), 2, 59.0)
        entry = cache.last_good("a", 100.0)
        assert entry is not None
        assert entry.value == 2

    def test_a_result_that_is_not_to_be_kept_is_for_those_who_wait(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=10)
        load = begin(cache, "a")
        seat = sit(cache, load)
        cache.succeed(load, "instead", 0.0, keep=False)
        assert (seat.word, seat.content) == (Word.RESULT, "instead")
        assert cache.last_good("a", 0.0) is None


class TestBound:
    def test_the_least_recently_used_key_goes_first(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=2)
        for key in "ab":
            cache.succeed(begin(cache, key), key, 0.0)
        assert fresh(cache, "a", 1.0)
        cache.succeed(begin(cache, "c"), "c", 1.0)
        assert cache.last_good("b", 1.0) is None
        assert cache.last_good("a", 1.0) is not None

    def test_serving_a_stale_result_is_a_use(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        for key in "ab":
            cache.succeed(begin(cache, key), key, 0.0)
        assert cache.last_good("a", 1.0) is not None
        cache.succeed(begin(cache, "c"), "c", 1.0)
        assert cache.last_good("b", 1.0) is None


class TestLoads:
    def test_the_first_loads_and_the_others_wait(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        assert cache.ask("a", 0.0) == (load, False)
        begin(cache, "b")
        assert cache.loads == 2

    def test_who_waits_is_told_the_result_once(self) -> None:
        told: list[str] = []
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        seat = Seat(lambda: bool(told.append("woken")) or True)
        cache.join(load, seat)
        cache.succeed(load, 1, 0.0)
        assert (seat.word, seat.content, told) == (Word.RESULT, 1, ["woken"])
        assert cache.loads == 0

    def test_who_waits_is_told_the_error(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        seat = sit(cache, load)
        error = ValueError()
        cache.fail(load, error)
        assert seat.word is Word.ERROR
        assert seat.content is error

    def test_who_comes_when_it_has_just_ended_asks_again(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        cache.succeed(load, 1, 0.0)
        seat = Seat(lambda: True)
        assert not cache.join(load, seat)
        assert seat.word is Word.MISSED

    def test_an_abandoned_load_goes_to_the_first_that_waits(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        first, second = sit(cache, load), sit(cache, load)
        cache.abandon(load, None)
        assert (first.word, second.word) == (Word.LOAD, Word.NOTHING_YET)
        assert cache.ask("a", 0.0) == (load, False)
        cache.succeed(load, 1, 0.0)
        assert second.word is Word.RESULT

    def test_one_that_leaves_at_the_instant_of_the_handover_passes_it_on(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        first, second = sit(cache, load), sit(cache, load)
        cache.abandon(load, None)
        cache.leave(load, first)
        assert (first.word, second.word) == (Word.LEFT, Word.LOAD)

    def test_a_load_that_nobody_is_left_for_is_over(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        seat = sit(cache, load)
        cache.leave(load, seat)
        cache.abandon(load, None)
        assert cache.loads == 0
        assert begin(cache, "a") is not load

    def test_a_load_is_not_handed_to_a_task_whose_loop_is_closed(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        dead, alive = sit(cache, load, alive=False), sit(cache, load)
        cache.abandon(load, None)
        assert alive.word is Word.LOAD
        cache.leave(load, dead)
        assert (alive.word, cache.loads) == (Word.LOAD, 1)
        cache.leave(load, alive)
        assert cache.loads == 0

    def test_a_result_that_came_while_one_left_stays(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        load = begin(cache, "a")
        seat = sit(cache, load)
        cache.succeed(load, 1, 0.0)
        cache.leave(load, seat)
        assert (seat.word, seat.content) == (Word.RESULT, 1)

    def test_clearing_forgets_results_but_not_who_loads(self) -> None:
        cache = Cache(ttl=5.0, max_stale=60.0, max_size=2)
        cache.succeed(begin(cache, "a"), 1, 0.0)
        load = begin(cache, "b")
        cache.clear()
        assert (len(cache), cache.loads) == (0, 1)
        cache.succeed(load, 2, 0.0)
        assert fresh(cache, "b", 0.0)

    def test_of_threads_that_ask_at_once_one_loads(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        began: list[int] = []

        class Key(int):
            def __hash__(self) -> int:
                time.sleep(0)  # another thread may run
                return int(self)

        def ask() -> None:
            for key in range(50):
                found = cache.ask(Key(key), 0.0)
                assert not isinstance(found, Entry)
                if found[1]:
                    began.append(key)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(began) == list(range(50))
        assert cache.loads == 50

    def test_nobody_is_woken_while_the_lock_is_held(self) -> None:
        cache = Cache(ttl=0.0, max_stale=60.0, max_size=2)
        held: list[bool] = []

        def wake() -> bool:
            held.append(cache._lock._is_owned())
            return True

        load = begin(cache, "a")
        assert cache.join(load, Seat(wake))
        assert cache.join(load, Seat(wake))
        cache.abandon(load, None)
        cache.fail(load, ValueError())
        load = begin(cache, "a")
        assert cache.join(load, Seat(wake))
        cache.succeed(load, 1, 0.0)
        assert held == [False] * 3


class Model(RuleBasedStateMachine):
    """The cache against a list of results and a list of who waits, for each key."""

    TTL, MAX_STALE, MAX_SIZE = 3.0, 8.0, 3

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cache = Cache(self.TTL, self.MAX_STALE, self.MAX_SIZE)
        self.results: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.loads: dict[str, tuple[Load, Seat | None]] = {}
        self.seats: dict[str, list[Seat]] = {}
        self.turn = 0

    def known(self, key: str) -> tuple[int, float] | None:
        result = self.results.get(key)
        if result is not None and self.now - result[1] >= self.MAX_STALE:
            result = None
            del self.results[key]
        if result is not None:
            self.results.move_to_end(key)
        return result

    keys = st.sampled_from("abcde")

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys)
    def ask(self, key: str) -> None:
        found = self.cache.ask(key, self.now)
        result = self.known(key)
        if result is not None and self.now - result[1] < self.TTL:
            assert isinstance(found, Entry)
            assert (found.value, found.stored) == result
            return
        assert not isinstance(found, Entry)
        load, mine = found
        assert mine == (key not in self.loads)
        if mine:
            self.loads[key] = load, None
            self.seats[key] = []
        else:
            assert load is self.loads[key][0]
            seat = Seat(lambda: True)
            assert self.cache.join(load, seat)
            self.seats[key].append(seat)

    @rule(key=keys)
    def look_for_a_stale_one(self, key: str) -> None:
        entry = self.cache.last_good(key, self.now)
        result = self.known(key)
        assert (None if entry is None else (entry.value, entry.stored)) == result

    @precondition(lambda self: self.loads)
    @rule(data=st.data(), end=st.sampled_from(["succeed", "do not keep", "fail", "abandon", "leave"]))
    def end(self, data: Any, end: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.loads)))
        load, leader = self.loads[key]
        seats = self.seats[key]
        if end == "abandon":
            self.cache.abandon(load, leader)
            self.handed_over(key)
        elif end == "leave":
            if seats:
                seat = seats.pop(data.draw(st.integers(0, len(seats) - 1)))
                self.cache.leave(load, seat)
                assert seat.word is Word.LEFT
        else:
            self.turn += 1
            del self.loads[key], self.seats[key]
            if end == "fail":
                self.cache.fail(load, ValueError(self.turn))
            else:
                self.cache.succeed(load, self.turn, self.now, keep=end == "succeed")
            if end == "succeed":
                self.results[key] = self.turn, self.now
                self.results.move_to_end(key)
                while len(self.results) > self.MAX_SIZE:
                    self.results.popitem(last=False)
            assert {seat.word for seat in seats} <= {Word.ERROR if end == "fail" else Word.RESULT}

    def handed_over(self, key: str) -> None:
        load, _ = self.loads[key]
        if self.seats[key]:
            leader = self.seats[key].pop(0)
            assert leader.word is Word.LOAD
            self.loads[key] = load, leader
        else:
            del self.loads[key], self.seats[key]

    @invariant()
    def counts_agree(self) -> None:
        assert self.cache.loads == len(self.loads)
        assert len(self.cache) <= self.MAX_SIZE


TestModel = Model.TestCase


class OddInit(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class KeywordsOnly(Exception):
    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__("locked")

    def __str__(self) -> str:
        return f"locked at {id(self)}"


class TestAnotherLike:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("a", 1),
            KeyError("a"),
            FileNotFoundError(2, "No such file", "/etc/nowhere"),
            OSError("odd"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
            ImportError("no", name="module", path="there"),
            OddInit(404),
            KeywordsOnly("bad gateway", status=502),
            CircuitOpenError("open", policy="payments", retry_after=3.0, last_error="KeyError"),
            TimeoutExceededError("late", policy="payments", seconds=2.0),
            ExceptionGroup("all", [ValueError(1), KeyError(2)]),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_it_says_the_same_and_is_another(self, error: Exception) -> None:
        again = another_like(error)
        assert again is not None
        assert again is not error
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert again.__traceback__ is None

    def test_what_c_code_keeps_is_copied_too(self) -> None:
        again = another_like(FileNotFoundError(2, "No such file", "/etc/nowhere"))
        assert isinstance(again, FileNotFoundError)
        assert (again.errno, again.filename) == (2, "/etc/nowhere")

    def test_notes_are_its_own(self) -> None:
        error = ValueError()
        error.add_note("first")
        again = another_like(error)
        assert again is not None
        again.add_note("second")
        assert error.__notes__ == ["first"]

    def test_what_can_not_be_copied_is_left(self) -> None:
        assert another_like(Locked()) is None
