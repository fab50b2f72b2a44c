"""Hedged plain functions: what is particular to attempts on helper threads."""

from __future__ import annotations

import _thread
import asyncio
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilient import (
    BulkheadFullError,
    Hedge,
    Registry,
    TimeoutExceededError,
    bulkhead,
    hedge,
    pipeline,
    timeout,
)
from resilient.drivers.helper_threads import ORPHANS
from resilient.testing import fake_clock

PATIENCE = 20.0


@pytest.fixture
def registry() -> Registry:
    return Registry()


def attempts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("resilient-attempt")]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def results(policy: Hedge, what: str) -> dict[str, int]:
    counts: Any = policy.snapshot()[what]
    return {result: count for result, count in counts.items() if count}


def test_keyboard_interrupt_ends_the_wait_and_leaves_the_attempt_to_itself(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)
    release = threading.Event()

    def body() -> str:
        _thread.interrupt_main()
        release.wait(PATIENCE)
        return "too late"

    with pytest.raises(KeyboardInterrupt):
        policy.call(body)
    assert results(policy, "calls") == {}
    assert results(policy, "attempts") == {"lost": 1}
    assert len(attempts()) == 1
    release.set()
    wait_for(lambda: not attempts())
    wait_for(lambda: not ORPHANS._running)


@pytest.mark.realtime
def test_a_timeout_outside_interrupts_the_wait_on_the_main_thread(registry: Registry) -> None:
    release = threading.Event()
    policy = hedge(delay=60, registry=registry)
    started = time.monotonic()
    with pytest.raises(TimeoutExceededError):
        pipeline(timeout(0.05, registry=registry), policy, registry=registry).call(release.wait, PATIENCE)
    assert time.monotonic() - started < PATIENCE / 2
    assert results(policy, "attempts") == {"lost": 1}
    release.set()
    wait_for(lambda: not attempts())


@pytest.mark.realtime
def test_a_late_call_is_hedged_in_real_time(registry: Registry) -> None:
    policy = hedge(delay=0.01, registry=registry)
    release = threading.Event()
    turns = iter([lambda: release.wait(PATIENCE) and "primary", lambda: "hedge"])
    assert policy.call(lambda: next(turns)()) == "hedge"
    release.set()
    assert results(policy, "calls") == {"hedge_won": 1}
    wait_for(lambda: not attempts())


@pytest.mark.parametrize("delay", [1e300, 5e9])
def test_a_delay_beyond_what_threads_can_wait_is_no_error(delay: float, registry: Registry) -> None:
    assert hedge(delay=delay, registry=registry).call(str, "far") == "far"


def test_a_late_result_is_dropped(registry: Registry) -> None:
    import weakref

    class Result:
        pass

    late: list[weakref.ref[Result]] = []
    release = threading.Event()
    lock = threading.Lock()
    begun = 0

    def body() -> str | Result:
        nonlocal begun
        with lock:
            begun += 1
            first = begun == 1
        if not first:
            return "hedge"
        release.wait(PATIENCE)
        result = Result()
        late.append(weakref.ref(result))
        return result

    assert hedge(delay=0, registry=registry).call(body) == "hedge"
    release.set()
    wait_for(lambda: late and late[0]() is None)


def test_a_bulkhead_outside_keeps_its_permit_until_the_loser_has_ended(registry: Registry) -> None:
    narrow = bulkhead(max_concurrent=1, registry=registry)
    policy = hedge(delay=0.2, registry=registry)
    release = threading.Event()
    with fake_clock() as clock:

        def late() -> str:
            clock.advance(0.2)
            release.wait(PATIENCE)
            return "primary"

        turns = iter([late, lambda: "hedge"])
        both = pipeline(narrow, policy, registry=registry)
        assert both.call(lambda: next(turns)()) == "hedge"
        assert narrow.in_flight == 1
        with pytest.raises(BulkheadFullError):
            both.call(str)
        release.set()
        wait_for(lambda: narrow.in_flight == 0)
        assert both.call(str, "free") == "free"


def test_orphans_of_an_attempt_are_handed_on(registry: Registry) -> None:
    """A bulkhead outside keeps its permit for the work of a helper thread that an attempt has left behind."""
    narrow = bulkhead(max_concurrent=1, registry=registry)
    policy = hedge(delay=60, max_hedges=1, registry=registry)
    release = threading.Event()
    with fake_clock() as clock:

        def body() -> None:
            clock.advance(1.0)
            release.wait(PATIENCE)

        limit = timeout(1.0, interrupt="thread", registry=registry)
        with pytest.raises(TimeoutExceededError):
            pipeline(narrow, policy, limit, registry=registry).call(body)
        assert narrow.in_flight == 2  # both attempts run on
        with pytest.raises(BulkheadFullError):
            narrow.call(str)
        release.set()
        wait_for(lambda: narrow.in_flight == 0)


def test_where_no_thread_can_be_started_the_attempts_that_run_go_on(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = hedge(delay=0.2, registry=registry)
    start = threading.Thread.start
    with fake_clock() as clock:

        def start_first_only(thread: threading.Thread) -> None:
            if thread.name == "resilient-attempt-2":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_first_only)

        def late() -> str:
            clock.advance(0.2)
            wait_for(lambda: results(policy, "attempts"))
            return "primary"

        assert policy.call(late) == "primary"
    assert results(policy, "attempts") == {"won": 1, "failed": 1}


def test_where_not_even_the_first_thread_can_be_started_the_error_is_raised(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        hedge(delay=60, registry=registry).call(str)


def test_waiting_on_the_thread_of_a_loop_warns_once(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="call_async"):
            policy.call(str)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            policy.call(str)

    asyncio.run(main())
    other = hedge(delay=60, registry=registry)

    async def on_trio() -> None:
        with pytest.warns(RuntimeWarning, match="trio"):
            other.call(str)

    trio.run(on_trio)


def test_an_old_timer_starts_no_hedge_of_a_later_attempt(registry: Registry) -> None:
    """The second attempt began because the first failed; it has a delay of its own before the third."""
    policy = hedge(delay=1.0, max_hedges=2, registry=registry)
    with fake_clock() as clock:

        def fails_half_way() -> str:
            clock.advance(0.5)
            raise ConnectionError

        def takes_less_than_the_delay() -> str:
            clock.advance(0.9)
            return "second"

        turns = iter([fails_half_way, takes_less_than_the_delay])
        assert policy.call(lambda: next(turns)()) == "second"
        assert [timer for _, _, timer in clock._timers if timer.fire is not None] == []
    assert results(policy, "attempts") == {"won": 1, "failed": 1}
