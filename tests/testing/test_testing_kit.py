"""The kit that applications test with: virtual time, switches, recorded events, and the pytest plugin."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import freezegun
import pytest
import trio

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    retry,
    subscribe,
    timeout,
)
from resilient import registry as default_registry
from resilient.backoff import constant
from resilient.core.clock import CLOCK
from resilient.testing import FakeClock, RecordedEvents, cap, disabled, fake_clock, record_events, trip

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning")


@pytest.fixture
def private() -> Registry:
    return Registry()


class Failing:
    """Fails `times` times and then gives its number of calls."""

    def __init__(self, times: int = 10**6) -> None:
        self.times = times
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise ConnectionError
        return self.calls

    async def later(self) -> int:
        return self()


# fake_clock


def test_policies_made_before_and_inside_are_on_virtual_time(private: Registry) -> None:
    old = circuit_breaker("old", open_duration=30.0, registry=private)
    with fake_clock() as clock:
        new = circuit_breaker("new", open_duration=30.0, registry=private)
        for breaker in (old, new):
            breaker.trip()
            clock.advance(29.9)
            with pytest.raises(CircuitOpenError) as caught:
                breaker.call(len, "four")
            assert caught.value.retry_after == pytest.approx(0.1)
            clock.advance(0.1)
            assert breaker.call(len, "four") == 4


def test_waits_return_at_once_and_are_listed(private: Registry) -> None:
    again = retry(attempts=4, backoff=[1.0, 2.0, 4.0], registry=private)
    with fake_clock() as clock:
        started = clock.now()
        assert again.call(Failing(3)) == 4
        assert clock.sleeps == [1.0, 2.0, 4.0]
        assert clock.now() - started == 7.0


@pytest.mark.parametrize(
    "runner", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)], ids=["asyncio", "trio"]
)
def test_async_waits_return_at_once_and_are_listed(private: Registry, runner: Any) -> None:
    again = retry(attempts=4, backoff=[1.0, 2.0, 4.0], registry=private)
    with fake_clock() as clock:
        assert runner(again.call_async(Failing(3).later)) == 4
        assert clock.sleeps == [1.0, 2.0, 4.0]


def test_a_timeout_of_plain_code_fires_when_time_passes_its_deadline(private: Registry) -> None:
    limit = timeout(3.0, registry=private)
    reached: list[float] = []
    with fake_clock() as clock:

        def body() -> None:
            for _ in range(10):
                clock.advance(1.0)
                deadline = current_deadline()
                assert deadline is not None
                reached.append(deadline.remaining())

        with pytest.raises(TimeoutExceededError):
            limit.call(body)
    assert reached == [2.0, 1.0]


def test_a_timeout_of_a_task_fires_when_time_passes_its_deadline(private: Registry) -> None:
    limit = timeout(3.0, registry=private)
    with fake_clock() as clock:

        async def body() -> None:
            clock.advance(3.0)
            await asyncio.get_running_loop().create_future()

        async def trio_body() -> None:
            clock.advance(3.0)
            await trio.sleep_forever()

        with pytest.raises(TimeoutExceededError):
            asyncio.run(limit.call_async(body))
        with pytest.raises(TimeoutExceededError):
            trio.run(limit.call_async, trio_body)


def test_timeouts_fire_in_the_order_of_their_deadlines(private: Registry) -> None:
    order: list[str] = []

    async def use(name: str, seconds: float) -> None:
        try:
            async with timeout(seconds, name=name, registry=private):
                await asyncio.get_running_loop().create_future()
        except TimeoutExceededError:
            order.append(name)

    async def main(clock: FakeClock) -> None:
        tasks = [
            asyncio.ensure_future(use(name, seconds))
            for name, seconds in (("third", 3.0), ("first", 1.0), ("second", 2.0))
        ]
        await asyncio.sleep(0)
        clock.advance(10.0)
        await asyncio.gather(*tasks)

    with fake_clock() as clock:
        asyncio.run(main(clock))
    assert order == ["first", "second", "third"]


def test_time_goes_on_where_an_inner_fake_clock_ends(private: Registry) -> None:
    with fake_clock() as outer:
        outer.advance(5.0)
        before = outer.now()
        with fake_clock() as inner:
            assert inner.now() >= before
            inner.advance(100.0)
            assert CLOCK.now() == inner.now()
            assert outer.now() == before
        assert CLOCK.now() == outer.now() == before
        outer.advance(1.0)
        assert CLOCK.now() == before + 1.0
        assert inner.sleeps == outer.sleeps == []


def test_real_time_is_back_afterwards_even_after_an_error() -> None:
    real = CLOCK.state()

    def failing() -> None:
        with fake_clock():
            assert CLOCK.virtual is not None
            raise LookupError

    with pytest.raises(LookupError):
        failing()
    assert CLOCK.state() == real


def test_a_clock_in_force_can_not_be_put_in_force_again() -> None:
    real = CLOCK.state()
    with fake_clock() as clock:
        with pytest.raises(RuntimeError, match="in force already"):
            clock.__enter__()
        with fake_clock(), pytest.raises(RuntimeError, match="in force already"):
            clock.__enter__()
    assert CLOCK.state() == real
    with clock:
        assert CLOCK.virtual is clock
    assert CLOCK.state() == real


def test_for_a_policy_time_never_goes_back_from_one_test_to_the_next(private: Registry) -> None:
    seen: list[float] = []
    for seconds in (1000.0, 0.5, 0.0):
        with fake_clock() as clock:
            seen.append(CLOCK.now())
            clock.advance(seconds)
            seen.append(CLOCK.now())
    assert seen == sorted(seen)


def test_ten_times_a_tenth_is_one_second() -> None:
    breaker = circuit_breaker(open_duration=1.0, registry=Registry())
    with fake_clock() as clock:
        breaker.trip()
        for _ in range(10):
            clock.advance(0.1)
        assert breaker.call(len, "four") == 4


def test_time_moved_by_another_thread_ends_a_timeout_on_a_helper_thread(private: Registry) -> None:
    limit = timeout(3.0, interrupt="thread", registry=private)
    begun, end = threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        end.wait(10.0)

    with fake_clock() as clock:

        def move() -> None:
            begun.wait(10.0)
            clock.advance(3.0)

        mover = threading.Thread(target=move)
        mover.start()
        with pytest.raises(TimeoutExceededError):
            limit.call(body)
        end.set()
        mover.join()


# With a frozen wall clock


@pytest.mark.realtime
def test_freezegun_freezes_no_timeout_of_plain_code(private: Registry) -> None:
    """Neither the deadline nor an interrupt that had to be put off: `Event.wait` is inside `threading`."""
    limit = timeout(0.05, registry=private)
    real_now = CLOCK.now
    started = real_now()
    with freezegun.freeze_time("2020-01-01"):
        with pytest.raises(TimeoutExceededError):
            limit.call(threading.Event().wait, 5.0)
    assert real_now() - started < 2.0


@pytest.mark.realtime
def test_freezegun_freezes_no_break_and_no_wait(private: Registry) -> None:
    again = retry(attempts=2, backoff=constant(0.02), registry=private)
    breaker = circuit_breaker(open_duration=0.02, registry=private)
    with freezegun.freeze_time("2020-01-01"):
        started = CLOCK.now()
        assert again.call(Failing(1)) == 2
        assert CLOCK.now() - started >= 0.02
        breaker.trip()
        CLOCK.sleep(0.03)
        assert breaker.call(len, "four") == 4


@pytest.mark.realtime
def test_freezegun_freezes_no_timeout_of_a_task_where_it_leaves_the_loop_its_time(private: Registry) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutExceededError):
            async with timeout(0.02, registry=private):
                await asyncio.get_running_loop().create_future()

    with freezegun.freeze_time("2020-01-01", real_asyncio=True):
        asyncio.run(main())


def test_a_wall_clock_that_jumps_changes_nothing(private: Registry) -> None:
    breaker = circuit_breaker(open_duration=30.0, registry=private)
    with fake_clock() as clock, freezegun.freeze_time("2020-01-01") as frozen:
        breaker.trip()
        for jump in ("2030-01-01", "1999-12-31"):
            frozen.move_to(jump)
            assert breaker.snapshot()["retry_after"] == 30.0
            with pytest.raises(CircuitOpenError):
                breaker.call(len, "four")
        clock.advance(30.0)
        assert breaker.call(len, "four") == 4


def test_virtual_time_moves_under_freezegun(private: Registry) -> None:
    with freezegun.freeze_time("2020-01-01"), fake_clock() as clock:
        with pytest.raises(TimeoutExceededError):
            timeout(3.0, registry=private).call(clock.advance, 4.0)


# Switches


def test_disabled_policies_pass_calls_through_in_every_face(private: Registry) -> None:
    breaker = circuit_breaker(registry=private)
    line = pipeline(retry(attempts=5, registry=private), breaker, timeout(1.0, registry=private), registry=private)
    failing = Failing()
    guarded, guarded_async = line(failing), line(failing.later)
    line.call(len, "four")
    breaker.force_open()
    with fake_clock() as clock, disabled():
        for face in (
            guarded,
            lambda: line.call(failing),
            lambda: asyncio.run(guarded_async()),
            lambda: asyncio.run(line.call_async(failing.later)),
        ):
            with pytest.raises(ConnectionError) as caught:
                face()
            assert not hasattr(caught.value, "__notes__")
        with breaker, timeout(1.0, registry=private):
            clock.advance(5.0)
            assert current_deadline() is None
        for attempt in line.policies[0]:  # type: ignore[attr-defined]
            with pytest.raises(ConnectionError):
                with attempt:
                    raise ConnectionError
        assert clock.sleeps == []
    assert failing.calls == 4
    with pytest.raises(CircuitOpenError):
        line.call(len, "four")


def test_what_is_guarded_while_disabled_is_guarded_afterwards(private: Registry) -> None:
    breaker = circuit_breaker(registry=private)
    breaker.force_open()
    with disabled():
        with disabled():
            guarded = breaker(lambda: "through")
        assert guarded() == "through", "the outer one is still in force"
    with pytest.raises(CircuitOpenError):
        guarded()


def test_a_cap_bounds_the_attempts_of_every_retry(private: Registry, fake_clock: FakeClock) -> None:
    generous, modest = retry(attempts=9, registry=private), retry(attempts=2, registry=private)
    unlimited = retry(attempts=None, max_duration=3600, backoff=constant(1), registry=private)
    for limit, expected in ((1, (1, 1, 1)), (3, (3, 2, 3))):
        with cap(attempts=limit):
            for policy, count in zip((generous, modest, unlimited), expected, strict=True):
                failing = Failing()
                with pytest.raises(ConnectionError):
                    policy.call(failing)
                assert failing.calls == count
    failing = Failing()
    with pytest.raises(ConnectionError):
        generous.call(failing)
    assert failing.calls == 9


def test_caps_nest(private: Registry, fake_clock: FakeClock) -> None:
    again = retry(attempts=9, registry=private)
    with cap(attempts=3):
        with cap():
            failing = Failing()
            with pytest.raises(ConnectionError):
                again.call(failing)
            assert failing.calls == 1
        failing = Failing()
        with pytest.raises(ConnectionError):
            again.call(failing)
        assert failing.calls == 3


def test_a_wrong_cap_is_refused_where_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match="attempts=0"):
        cap(attempts=0)


def test_trip_opens_a_breaker_by_name_and_resets_it_after_the_block(private: Registry) -> None:
    breaker = circuit_breaker("payments", registry=private)
    with trip("payments", registry=private) as tripped:
        assert tripped is breaker
        with pytest.raises(CircuitOpenError):
            breaker.call(len, "four")
    assert breaker.call(len, "four") == 4
    trip("payments", registry=private)
    assert breaker.state == "open", "without a block it stays so"


def test_trip_uses_the_default_registry() -> None:
    breaker = circuit_breaker("tests.testing.trip")
    try:
        with trip("tests.testing.trip"):
            assert breaker.state == "open"
    finally:
        default_registry.remove(type(breaker), "tests.testing.trip")


def test_trip_of_an_unknown_name_tells_the_known_ones(private: Registry) -> None:
    circuit_breaker("payments", registry=private)
    with pytest.raises(LookupError, match=r"no circuit breaker 'payment' .* registered: 'payments'"):
        trip("payment", registry=private)


# Events


def test_events_are_recorded_in_order_until_the_block_ends(private: Registry, fake_clock: FakeClock) -> None:
    line = pipeline(
        "payments",
        retry(attempts=3, backoff=constant(1), registry=private),
        circuit_breaker(consecutive_failures=3, registry=private),
        registry=private,
    )
    with record_events() as events:
        with pytest.raises(ConnectionError):
            line.call(Failing())
        with pytest.raises(CircuitOpenError):
            line.call(len, "four")
    with pytest.raises(CircuitOpenError):
        line.call(len, "four")
    assert events.kinds() == [
        "retry_scheduled",
        "retry_scheduled",
        "circuit_state_changed",
        "retry_exhausted",
        "call_rejected",
    ]
    assert {event.policy for event in events} == {"payments"}
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert events[0].data == {"attempt": 1, "delay": 1.0, "error": "ConnectionError"}


def test_events_are_chosen_by_policy_and_kind(private: Registry, fake_clock: FakeClock) -> None:
    payments, orders = (circuit_breaker(name, registry=private) for name in ("payments", "orders"))
    by_object, by_name, by_kind = (
        record_events(policy=payments),
        record_events(policy="orders"),
        record_events(kinds=["call_rejected", "timed_out"]),
    )
    for breaker in (payments, orders):
        breaker.trip()
        with pytest.raises(CircuitOpenError):
            breaker.call(len, "four")
    assert by_object.kinds() == by_name.kinds() == ["circuit_state_changed", "call_rejected"]
    assert {event.policy for event in by_name} == {"orders"}
    assert by_kind.kinds() == ["call_rejected", "call_rejected"]
    for recorded in (by_object, by_name, by_kind):
        recorded.stop()


def test_a_recording_that_nobody_holds_ends(private: Registry) -> None:
    from resilient.core.events import EVERYTHING

    before = len(EVERYTHING.active)
    recorded: RecordedEvents | None = record_events()
    assert len(EVERYTHING.active) == before + 1
    assert recorded == []
    recorded = None
    gc.collect()
    assert len(EVERYTHING.active) == before


def test_unsubscribing_twice_is_harmless(private: Registry) -> None:
    seen: list[object] = []
    stop = subscribe(seen.append)
    stop()
    stop()
    circuit_breaker(registry=private).trip()
    assert seen == []


# The plugin


def test_the_plugin_gives_both_fixtures_and_needs_no_import(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import resilient

        @resilient.retry(attempts=3, backoff=1.0)
        def fetch():
            raise ConnectionError

        def test_waits(fake_clock, resilience_events):
            with pytest.raises(ConnectionError):
                fetch()
            assert fake_clock.sleeps == [1.0, 1.0]
            assert resilience_events.kinds() == ["retry_scheduled", "retry_scheduled", "retry_exhausted"]

        def test_each_test_has_its_own(fake_clock, resilience_events):
            assert fake_clock.sleeps == resilience_events == []

        def test_real_time_is_back():
            from resilient.core.clock import CLOCK
            assert CLOCK.virtual is None
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)


def test_the_plugin_shows_its_fixtures(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["fake_clock*", "*Every policy on virtual time*", "resilience_events*"])
