"""Calls on helper threads: left behind or not, and when they are really over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from resilient.drivers.helper_threads import ORPHANS, HelperCall
from tests.drivers.vloop import manual_time

ME, SOMEBODY = 1, 2


def call(work: Callable[[], Any], owner: int = ME) -> HelperCall:
    return HelperCall(work, lambda: None, owner)


def test_a_body_that_moves_virtual_time_past_the_deadline_before_the_wait_begins_is_late() -> None:
    end = threading.Event()
    with manual_time() as clock:
        late = call(end.wait)
        clock.advance(5.0)
        assert late.wait_until(clock.now() - 1.0) is False
        assert clock.pending() == 0
    end.set()


def test_what_comes_after_the_end_comes_once_the_body_has_ended() -> None:
    end, over = threading.Event(), threading.Event()
    left = call(end.wait)
    assert left.abandon()
    left.after_end(over.set)
    assert not over.wait(0.01)
    end.set()
    assert over.wait(10.0)


def test_what_comes_after_an_end_that_was_comes_at_once() -> None:
    done = call(lambda: None)
    over = threading.Event()
    done.after_end(over.set)
    assert over.wait(10.0)
    again: list[None] = []
    done.after_end(lambda: again.append(None))
    assert again == [None]


def test_calls_left_behind_are_told_to_who_left_them_and_since_when() -> None:
    end = threading.Event()
    first = call(end.wait)
    before = ORPHANS.left
    assert first.abandon()
    between = ORPHANS.left
    second, others = call(end.wait), call(end.wait, SOMEBODY)
    assert second.abandon()
    assert others.abandon()
    assert ORPHANS.since(before, ME) == [first, second]
    assert ORPHANS.since(between, ME) == [second]
    assert ORPHANS.since(between, SOMEBODY) == [others]
    over = [threading.Event() for _ in range(3)]
    for left, event in zip((first, second, others), over, strict=True):
        left.after_end(event.set)
    end.set()
    assert all(event.wait(10.0) for event in over)
    assert ORPHANS.since(before, ME) == ORPHANS.since(before, SOMEBODY) == []


def test_a_call_that_ended_in_time_hands_over_what_it_has_left_behind() -> None:
    end = threading.Event()
    inner: list[HelperCall] = []

    def body() -> None:
        inner.append(call(end.wait, threading.get_ident()))
        assert inner[0].abandon()

    before = ORPHANS.left
    outer = call(body)
    assert outer._ended.wait(10.0)
    outer.result()
    assert ORPHANS.since(before, ME) == inner
    end.set()
