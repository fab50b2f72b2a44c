"""The rate limiter's arithmetic, by hand-computed tables and by properties."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.gcra import Gcra, Slot


def waits(gcra: Gcra, arrivals: list[float], longest: float = 100.0) -> list[float | None]:
    """How long each arrival has to wait; None: refused."""
    answers = []
    for now in arrivals:
        answer = gcra.reserve(now, longest)
        answers.append(answer.at - now if isinstance(answer, Slot) else None)
    return answers


@pytest.mark.parametrize(
    "limit, period, burst, arrivals, expected",
    [
        (5, 1.0, 1, [0, 0, 0], [0, 0.2, 0.4]),
        (5, 1.0, 1, [0, 0.1, 0.3, 1.0, 1.2], [0, 0.1, 0.1, 0, 0]),
        (5, 1.0, 5, [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.2, 0.4]),
        (2, 10.0, 2, [0, 0, 0, 5, 20], [0, 0, 5, 5, 0]),
        (1, 60.0, 3, [0, 0, 0, 0, 60], [0, 0, 0, 60, 60]),
    ],
)
def test_waits_are_those_of_the_table(
    limit: int, period: float, burst: int, arrivals: list[float], expected: list[float]
) -> None:
    assert waits(Gcra(limit, period, burst), arrivals) == pytest.approx(expected)


def test_a_call_that_can_not_pass_in_time_is_told_the_wait_and_takes_nothing() -> None:
    gcra = Gcra(5, 1.0, 1)
    gcra.reserve(0.0, 0.0)
    assert gcra.reserve(0.0, 0.1) == pytest.approx(0.2)
    assert gcra.reserve(0.0, 0.1) == pytest.approx(0.2)
    slot = gcra.reserve(0.2, 0.0)
    assert isinstance(slot, Slot)
    assert slot.at == pytest.approx(0.2)


def test_a_wait_of_exactly_the_longest_is_allowed() -> None:
    gcra = Gcra(10, 1.0, 1)
    for turn in range(4):
        slot = gcra.reserve(0.0, turn * 0.1)
        assert isinstance(slot, Slot)


def test_a_slot_given_back_is_filled_by_those_behind_it() -> None:
    gcra = Gcra(5, 1.0, 1)
    first, second, third, fourth = (gcra.reserve(0.0, 10.0) for _ in range(4))
    assert all(isinstance(slot, Slot) for slot in (first, second, third, fourth))
    moved = gcra.give_back(second, 0.1)  # type: ignore[arg-type]
    assert moved == [third, fourth]
    assert [slot.at for slot in moved] == pytest.approx([0.2, 0.4])
    assert waits(gcra, [0.1]) == pytest.approx([0.5])


def test_the_last_slot_given_back_goes_to_the_next_call() -> None:
    gcra = Gcra(5, 1.0, 1)
    gcra.reserve(0.0, 10.0)
    last = gcra.reserve(0.0, 10.0)
    assert gcra.give_back(last, 0.0) == []  # type: ignore[arg-type]
    assert waits(gcra, [0.0]) == pytest.approx([0.2])


def test_a_slot_whose_time_has_come_is_spent() -> None:
    gcra = Gcra(5, 1.0, 1)
    _, second, third = (gcra.reserve(0.0, 10.0) for _ in range(3))
    assert gcra.give_back(second, 0.2) == []  # type: ignore[arg-type]
    assert third.at == pytest.approx(0.4)  # type: ignore[union-attr]


def test_available_counts_what_could_go_at_once() -> None:
    gcra = Gcra(5, 1.0, 5)
    assert gcra.available(0.0) == 5
    waits(gcra, [0.0] * 5)
    assert gcra.available(0.0) == 0
    assert gcra.available(0.2) == 1
    assert gcra.available(100.0) == 5


def test_none_is_available_and_those_that_wait_are_counted_while_calls_wait() -> None:
    gcra = Gcra(5, 1.0, 1)
    waits(gcra, [0.0] * 4)
    assert (gcra.available(0.0), gcra.waiting) == (0, 3)


steps = st.lists(
    st.tuples(st.floats(0, 2), st.sampled_from(["call", "call", "call", "cancel"]), st.floats(0, 3)), max_size=60
)


@given(
    limit=st.integers(1, 20),
    period=st.sampled_from([0.5, 1.0, 7.0]),
    burst=st.integers(1, 8),
    steps=steps,
    seed=st.integers(0, 100),
)
def test_in_any_window_at_most_limit_and_burst_pass(
    limit: int, period: float, burst: int, steps: list[tuple[float, str, float]], seed: int
) -> None:
    gcra = Gcra(limit, period, burst)
    choice = random.Random(seed)
    now = 0.0
    slots: list[Slot] = []
    for pause, step, longest in steps:
        now += pause
        if step == "call":
            answer = gcra.reserve(now, longest)
            if isinstance(answer, Slot):
                slots.append(answer)
            else:
                assert answer > longest
        else:
            waiting = [slot for slot in slots if slot.at > now + 1e-6]
            if waiting:
                victim = choice.choice(waiting)
                gcra.give_back(victim, now)
                slots.remove(victim)
    passed = sorted(slot.at for slot in slots)
    for begin, first in enumerate(passed):
        for end in range(begin, len(passed)):
            duration = passed[end] - first
            assert end - begin + 1 <= limit * duration / period + burst + 1e-6
    # First come, first served: slots are handed out in the order in which they were asked for.
    assert [slot.at for slot in slots] == pytest.approx(passed)
