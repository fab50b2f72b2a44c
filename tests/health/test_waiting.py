"""Waiting at startup: until all is there, or until it can be said what is missing."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from resilient import ConfigurationError, ResilienceError
from resilient.backoff import constant, exponential
from resilient.health import Check, Health, NotHealthyError, Progress, wait_until_healthy, wait_until_healthy_async
from resilient.testing import FakeClock

Wait = Callable[..., None]


def on_asyncio(*args: Any, **kwargs: Any) -> None:
    asyncio.run(wait_until_healthy_async(*args, **kwargs))


def on_trio(*args: Any, **kwargs: Any) -> None:
    async def main() -> None:
        await wait_until_healthy_async(*args, **kwargs)

    trio.run(main)


@pytest.fixture(params=[wait_until_healthy, on_asyncio, on_trio], ids=["thread", "asyncio", "trio"])
def wait(request: pytest.FixtureRequest) -> Any:
    return request.param


def after(failures: int) -> Callable[[], bool]:
    turns = iter([False] * failures)
    return lambda: next(turns, True)


def refused() -> None:
    raise ConnectionError("http://api:hunter2@host/?hunter2 refused")


def test_it_ends_at_once_where_all_is_there(wait: Wait, clock: FakeClock) -> None:
    wait([after(0), Check("db", after(0))], timeout=5)
    assert clock.sleeps == []


def test_it_asks_again_after_a_backoff_and_what_has_passed_no_more(wait: Wait, clock: FakeClock) -> None:
    calls: list[str] = []

    def once() -> None:
        calls.append("once")

    third = after(2)

    def later() -> bool:
        calls.append("later")
        return third()

    wait([once, later], timeout=60, backoff=exponential(initial=1, factor=2, max=30, jitter=None))

    assert clock.sleeps == [1.0, 2.0]
    assert sorted(calls) == ["later"] * 3 + ["once"]


def test_it_tells_how_far_it_is(wait: Wait, clock: FakeClock) -> None:
    told: list[Progress] = []
    checks = [Check("db", after(2)), Check("cache", after(1))]
    wait(checks, timeout=60, backoff=constant(5), on_progress=told.append)

    missing = "the check returned False"
    assert told == [
        Progress(1, 0.0, 60.0, (), {"db": missing, "cache": missing}),
        Progress(2, 5.0, 55.0, ("cache",), {"db": missing}),
        Progress(3, 10.0, 50.0, ("db", "cache"), {}),
    ]


def test_it_says_what_is_missing(wait: Wait, clock: FakeClock) -> None:
    checks = [Check("db", refused), Check("cache", after(0)), Check("api", lambda: False)]
    with pytest.raises(NotHealthyError) as caught:
        wait(checks, timeout=12, backoff=constant(5))

    error = caught.value
    assert str(error) == (
        "not healthy after 12 s: db (ConnectionError: http://[redacted]@host/?[redacted] refused); "
        "api (the check returned False)"
    )
    assert list(error.missing) == ["db", "api"]
    assert error.seconds == 12.0
    assert isinstance(error, (ResilienceError, TimeoutError))
    # The last wait ends where the time does.
    assert clock.sleeps == [5.0, 5.0, 2.0]


def test_the_error_pickles(clock: FakeClock) -> None:
    error = NotHealthyError("not healthy", missing={"db": "refused"}, seconds=3.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.missing, again.seconds) == ("not healthy", {"db": "refused"}, 3.0)


def test_a_tolerated_failure_is_no_health(wait: Wait, clock: FakeClock) -> None:
    with pytest.raises(NotHealthyError):
        wait(Check("db", lambda: False, fail_after=10), timeout=1)


def test_reports_from_before_don_t_count(wait: Wait, clock: FakeClock) -> None:
    check = Check("db", after(1), ttl=3600)
    assert not check.run().passed

    wait(check, timeout=1)


def test_the_checks_of_a_service(wait: Wait, clock: FakeClock) -> None:
    health = Health()
    health.add("db", after(1))
    health.add("cache", lambda: False, critical=False)
    with pytest.raises(NotHealthyError) as caught:
        wait(health, timeout=10)
    assert list(caught.value.missing) == ["cache"]


def test_what_hangs_is_not_waited_for_beyond_the_time(wait: Wait, clock: FakeClock) -> None:
    opened, inside = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        opened.wait(10)

    def move_time() -> None:
        inside.wait(10)
        time.sleep(0.02)
        clock.advance(3.0)

    thread = threading.Thread(target=move_time)
    thread.start()
    with pytest.raises(NotHealthyError) as caught:
        wait(Check("db", hang, timeout=60), timeout=3)
    thread.join()
    opened.set()
    assert caught.value.missing == {"db": "no answer yet"}


def test_what_the_callback_raises_ends_the_wait(wait: Wait, clock: FakeClock) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait(lambda: False, timeout=10, on_progress=stop)


@pytest.mark.realtime
def test_a_port_that_opens_late_is_found(wait: Wait) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        timer = threading.Timer(0.1, listener.listen)
        timer.start()
        told: list[Progress] = []
        wait([url], timeout=10, backoff=constant(0.03), on_progress=told.append)
        timer.join()
        # The server has the right to see its connection before it closes.
        listener.accept()[0].close()

    assert len(told) > 1
    assert told[0].missing == {url: "ConnectionRefusedError: [Errno 111] Connection refused"}
    assert told[-1].healthy == (url,)


def test_a_url_is_named_without_its_secrets(wait: Wait, clock: FakeClock) -> None:
    with pytest.raises(NotHealthyError) as caught:
        wait("http://me:hunter2@127.0.0.1:1/health?key=hunter2", timeout=0.001)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *("db:5432", "tcp://db", "tcp://db:99999", "tcp://:1", "tcp://db:1/path", "http://", "ftp://me:hunter2@db", ""),
        *(3, [], [None]),
    ],
)
def test_what_is_no_check_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wait_until_healthy(wrong, timeout=1)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"check_timeout": 0}, {"backoff": 1}, {"on_progress": "print"}])
def test_a_wrong_setting_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wait_until_healthy(print, **wrong)
    assert caught.value.setting == next(iter(wrong))


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has one of its own"):
        wait_until_healthy([Check("db", print), Check("db", dict)])


def test_blocking_a_loop_is_warned_of(clock: FakeClock) -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="wait_until_healthy_async"):
            wait_until_healthy(after(0))

    asyncio.run(main())
