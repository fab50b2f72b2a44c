"""Where this package blocks a thread, an interrupt need not wait for a better place."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Registry, circuit_breaker
from resilient.drivers import threads
from resilient.drivers.safe_points import _Hold, _hold
from resilient.drivers.waiters import ThreadWaiter

BLOCKED = threading.Lock()


def sleep_between_attempts() -> None:
    threads.sleep(30.0)


def wait_for_a_permit() -> None:
    ThreadWaiter().wait_until(time.monotonic() + 30.0)


def call_what_is_written_in_c() -> None:
    circuit_breaker(registry=Registry()).call(BLOCKED.acquire)


def guard_what_is_written_in_c() -> None:
    circuit_breaker(registry=Registry())(BLOCKED.acquire)()


@pytest.mark.realtime
@pytest.mark.parametrize(
    "block",
    [sleep_between_attempts, wait_for_a_permit, call_what_is_written_in_c, guard_what_is_written_in_c],
)
def test_an_interrupt_is_let_in_at_once(block: Callable[[], None]) -> None:
    seen: list[_Hold] = []

    def look(signum: int, frame: Any) -> None:
        seen.append(_hold(frame, ()))
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, look)
    BLOCKED.acquire()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(InterruptedError):
            block()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        BLOCKED.release()
    assert seen == [_Hold.GO]
