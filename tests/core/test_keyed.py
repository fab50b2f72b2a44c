"""One state a key, bounded."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.checks import key_of
from resilient.core.keyed import Keyed


class State:
    def __init__(self) -> None:
        self.busy = False


def idle(state: State) -> bool:
    return not state.busy


def test_a_key_keeps_its_state() -> None:
    keyed = Keyed(State, 10)
    assert keyed.get("a") is keyed.get("a")
    assert keyed.get("a") is not keyed.get("b")


def test_the_least_recently_used_is_forgotten() -> None:
    keyed = Keyed(State, 2)
    first, second = keyed.get("a"), keyed.get("b")
    keyed.get("a")
    keyed.get("c")
    assert [key for key, _ in keyed.items()] == ["a", "c"]
    assert keyed.get("a") is first
    assert keyed.get("b") is not second


def test_what_is_in_use_is_kept_while_something_idle_can_go() -> None:
    keyed = Keyed(State, 2, idle)
    busy = keyed.get("a")
    busy.busy = True
    keyed.get("b")
    keyed.get("c")
    assert [key for key, _ in keyed.items()] == ["a", "c"]


def test_what_is_in_use_is_never_forgotten_and_the_bound_holds_again_once_it_is_idle() -> None:
    keyed = Keyed(State, 2, idle)
    busy = [keyed.get(key) for key in "ab"]
    for state in busy:
        state.busy = True
    keyed.get("c").busy = True
    assert [keyed.get(key) for key in "ab"] == busy
    assert len(keyed) == 3
    for state in keyed.states():
        state.busy = False
    keyed.get("d")
    assert [key for key, _ in keyed.items()] == ["b", "d"]


def test_what_is_borrowed_is_kept_until_the_last_has_given_it_back() -> None:
    keyed = Keyed(State, 1)
    state = keyed.borrow("a")
    assert keyed.borrow("a") is state
    keyed.get("b")
    keyed.give_back("a")
    keyed.get("c")
    assert keyed.get("a") is state
    keyed.give_back("a")
    keyed.get("d")
    assert keyed.get("a") is not state


def test_many_in_use_are_looked_at_a_few_at_a_time_and_all_are_forgotten_in_the_end() -> None:
    keyed = Keyed(State, 2, idle)
    for key in range(100):
        keyed.get(key).busy = True
    assert len(keyed) == 100
    for state in keyed.states():
        state.busy = False
    for key in range(100, 110):
        keyed.get(key)
    assert len(keyed) == 2


@pytest.mark.parametrize("busy, kept", [(15, 16), (16, 18)])
def test_it_looks_at_sixteen_states_for_one_that_may_go(busy: int, kept: int) -> None:
    keyed = Keyed(State, busy + 1, idle)
    for key in range(busy + 1):
        keyed.get(key).busy = key < busy
    keyed.get("another")
    assert len(keyed) == kept


def test_states_that_can_begin_anew_do_so_after_a_fork_and_nothing_is_borrowed() -> None:
    begun: list[float] = []

    class Renewable(State):
        def after_fork(self, now: float) -> None:
            begun.append(now)

    keyed = Keyed(Renewable, 1)
    keyed.borrow("a")
    keyed.after_fork(7.0)
    assert begun == [7.0]
    keyed.get("b")
    assert [key for key, _ in keyed.items()] == ["b"]


def test_a_key_may_come_back_while_it_is_compared() -> None:
    class Talkative:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            keyed.get("other")
            return self is other

    keyed = Keyed(State, 10)
    first, second = Talkative(), Talkative()
    assert keyed.get(first) is not keyed.get(second)
    assert keyed.get(first) is keyed.get(first)


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60))
def test_it_is_a_least_recently_used_map(limit: int, keys: list[int]) -> None:
    keyed = Keyed(State, limit)
    model: dict[int, State] = {}
    for key in keys:
        known = model.pop(key, None)
        state = keyed.get(key)
        assert known is None or state is known
        model[key] = state
        while len(model) > limit:
            del model[next(iter(model))]
        assert keyed.items() == list(model.items())


def test_threads_share_the_state_of_a_key() -> None:
    keyed = Keyed(State, 4)
    found: set[int] = set()
    barrier = threading.Barrier(8)

    def look() -> None:
        barrier.wait()
        found.add(id(keyed.get("a")))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


def test_a_key_that_can_not_be_hashed_is_told_by_name() -> None:
    with pytest.raises(TypeError, match="circuit_breaker 'x': key= must give something hashable, not list"):
        key_of(list, (), {}, lambda: "circuit_breaker 'x'")
