"""Attempts side by side on threads; hedge's own tests cover the rest."""

from __future__ import annotations

import threading
import time

from resilient.core.clock import CLOCK
from resilient.drivers.races import Finish, ThreadRace
from resilient.testing import fake_clock


def test_a_timer_that_fired_for_an_earlier_attempt_is_not_heard_for_a_later_one() -> None:
    release = threading.Event()
    with fake_clock() as clock, ThreadRace(0) as race:
        race.start(1, str, CLOCK.now() + 1)
        end = time.monotonic() + 20
        while race._heard.empty():
            assert time.monotonic() < end
        clock.advance(1)  # the attempt has ended, but nobody has asked yet
        assert race.next() == Finish(1, None, "")
        race.start(2, lambda: release.wait(20), CLOCK.now() + 5)
        release.set()
        assert race.next() == Finish(2, None, True)


def test_the_time_of_an_attempt_is_over_once() -> None:
    release = threading.Event()
    with fake_clock() as clock, ThreadRace(0) as race:
        race.start(1, lambda: release.wait(20), CLOCK.now() + 1)
        clock.advance(1)
        assert race.next() is None
        release.set()
        assert race.next() == Finish(1, None, True)


def test_in_real_time_an_attempt_that_has_ended_comes_before_the_end_of_its_time() -> None:
    with ThreadRace(0) as race:
        race.start(1, str, CLOCK.now())
        end = time.monotonic() + 20
        while race._heard.empty():
            assert time.monotonic() < end
        assert race.next() == Finish(1, None, "")
