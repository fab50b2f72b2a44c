"""Stale: the last good result for each key."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    ConfigurationError,
    Registry,
    Stale,
    TimeoutExceededError,
    current_deadline,
    fallback,
    stale,
    timeout,
)
from resilient.testing import FakeClock, record_events
from tests.policies.fallback_kit import FACES, Face, run
from tests.policies.stale_kit import Caught, Gate, Source, counts, in_threads, joined, until, waiting


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


class TestAges:
    def test_a_fresh_result_comes_from_memory(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        source = Source()
        policy = stale(5, 60, registry=registry)
        guarded = face.guard(policy, source)
        assert guarded("a") == 1
        fake_clock.advance(4.999)
        assert guarded("a") == 1
        fake_clock.advance(0.001)
        assert guarded("a") == 2
        assert counts(policy) == {"not_needed": 3}
        assert policy.snapshot()["from_memory"] == 1

    def test_a_ttl_of_zero_calls_each_time(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        guarded = face.guard(stale(0, 60, registry=registry), Source())
        assert [guarded("a"), guarded("a")] == [1, 2]

    def test_where_the_call_fails_the_last_good_result_is_served(
        self, face: Face, registry: Registry, fake_clock: FakeClock
    ) -> None:
        source = Source()
        policy = stale(5, 60, registry=registry)
        guarded = face.guard(policy, source)
        guarded("a")
        source.error = ConnectionError("down")
        fake_clock.advance(59.999)
        assert guarded("a") == 1
        assert source.calls == 2
        fake_clock.advance(0.001)
        with pytest.raises(ConnectionError) as raised:
            guarded("a")
        assert raised.value is source.error
        assert counts(policy) == {"not_needed": 1, "applied": 1, "failed": 1}

    def test_the_event_tells_how_old_it_is(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        source = Source()
        guarded = face.guard(stale(5, 60, name="rates", registry=registry), source)
        guarded("a")
        source.error = ConnectionError("down")
        fake_clock.advance(7.5)
        with record_events() as events:
            guarded("a")
        assert [(event.kind, event.policy_kind, event.policy, dict(event.data)) for event in events] == [
            ("fallback_applied", "stale", "rates", {"error": "ConnectionError", "age": 7.5})
        ]

    def test_the_age_counts_from_when_the_result_came(self, registry: Registry, fake_clock: FakeClock) -> None:
        policy = stale(5, 60, registry=registry)

        def slow() -> int:
            fake_clock.advance(4)
            return 1

        guarded = policy(slow)
        guarded()
        fake_clock.advance(4.9)
        guarded()
        assert policy.snapshot()["from_memory"] == 1

    def test_a_wall_clock_that_jumps_changes_nothing(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Source()
        guarded = stale(60, 60, registry=registry)(source)
        guarded()
        for jump in (-1e9, 1e9):
            monkeypatch.setattr(time, "time", lambda jump=jump: jump)
            assert guarded() == 1

    def test_other_errors_are_raised_although_there_is_a_result(
        self, face: Face, registry: Registry, fake_clock: FakeClock
    ) -> None:
        source = Source()
        policy = stale(0, 60, on=ConnectionError, registry=registry)
        guarded = face.guard(policy, source)
        guarded("a")
        source.error = ValueError("bad currency")
        with pytest.raises(ValueError, match="bad currency") as raised:
            guarded("a")
        assert raised.value is source.error
        assert counts(policy) == {"not_needed": 2}

    def test_what_a_fallback_inside_serves_is_not_kept(self, registry: Registry, fake_clock: FakeClock) -> None:
        source = Source()
        source.error = ConnectionError("down")
        guarded = stale(60, 60, registry=registry)(fallback(default=-1, registry=registry)(source))
        assert guarded() == -1
        source.error = None
        assert guarded() == 2
        assert guarded() == 2

    def test_clear_forgets(self, registry: Registry, fake_clock: FakeClock) -> None:
        policy = stale(60, 60, registry=registry)
        guarded = policy(Source())
        guarded()
        policy.clear()
        assert guarded() == 2


class TestKeys:
    def test_each_set_of_arguments_has_its_own_result(self, face: Face, registry: Registry) -> None:
        guarded = face.guard(stale(60, 60, registry=registry), Source())
        assert [guarded(1), guarded(2), guarded(1, x=1), guarded(1, x=2)] == [1, 2, 3, 4]
        assert [guarded(1), guarded(2), guarded(1, x=1), guarded(1, x=2)] == [1, 2, 3, 4]

    def test_the_order_of_keyword_arguments_does_not_matter(self, registry: Registry) -> None:
        guarded = stale(60, 60, registry=registry)(Source())
        assert guarded(a=1, b=2) == guarded(b=2, a=1)

    def test_key_is_given_the_arguments_of_the_call(self, face: Face, registry: Registry) -> None:
        policy = stale(60, 60, lambda request, **rest: request["id"], registry=registry)
        guarded = face.guard(policy, Source())
        assert [guarded({"id": 1}), guarded({"id": 1, "trace": 5}, deadline=3), guarded({"id": 2})] == [1, 1, 2]

    def test_functions_that_share_a_policy_share_no_results(self, registry: Registry) -> None:
        policy = stale(60, 60, registry=registry)
        one, other = policy(lambda x: "one"), policy(lambda x: "other")
        assert [one(1), other(1), one(1)] == ["one", "other", "one"]
        assert policy.call(str, 1) == "1"
        assert policy.call(repr, "1") == "'1'"
        assert policy.call(str, "1") == "1"

    @pytest.mark.parametrize("key", [None, lambda x: [x]])
    def test_without_a_hashable_key_it_says_what_to_do(self, key: Any, face: Face, registry: Registry) -> None:
        policy = stale(60, 60, key, registry=registry)
        guarded = face.guard(policy, Source())
        with pytest.raises(TypeError, match=r"unhashable type: 'list'.*Give it key="):
            guarded([1])
        if face.form == "decorator" and face.backend == "thread":
            with pytest.raises(TypeError, match="Give it key="):
                fallback(default=1, registry=registry)(guarded)([1])

    def test_errors_of_the_key_function_propagate(self, face: Face, registry: Registry) -> None:
        policy = stale(60, 60, lambda x: x.missing, registry=registry)
        with pytest.raises(AttributeError):
            face.guard(policy, Source())(1)
        assert counts(policy) == {"failed": 1}

    def test_no_more_keys_than_max_size(self, face: Face, registry: Registry) -> None:
        policy = stale(60, 60, max_size=3, registry=registry)
        guarded = face.guard(policy, Source())
        for key in range(10):
            guarded(key)
        assert policy.snapshot()["keys"] == 3


class TestRefused:
    @pytest.mark.parametrize(
        "make, says",
        [
            (lambda: stale(-1, 5), "ttl=-1"),
            (lambda: stale(0, 0), "max_stale=0"),
            (lambda: stale(10, 5), "max_stale must be at least ttl"),
            (lambda: stale(1, 5, "key"), "key='key'"),  # type: ignore[arg-type]
            (lambda: stale(1, 5, max_size=0), "max_size=0"),
            (lambda: stale(1, 5, on=SystemExit), "subclass of Exception"),
            (lambda: stale(1, 5, name=" "), "name=' '"),
            (lambda: stale(len, 5), "@stale(ttl=60, max_stale=3600)"),  # type: ignore[arg-type]
        ],
    )
    def test_wrong_settings_when_it_is_made(self, make: Callable[[], object], says: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            make()
        assert says in str(raised.value)

    def test_the_same_name_with_other_settings(self, registry: Registry) -> None:
        policy = stale(1, 5, name="rates", registry=registry)
        assert stale(1, 5, name="rates", registry=registry) is policy
        with pytest.raises(ConfigurationError, match="ttl=2"):
            stale(2, 5, name="rates", registry=registry)

    def test_generators_and_blocks(self, registry: Registry) -> None:
        def generator() -> Any:
            yield 1

        async def async_generator() -> Any:
            yield 1

        policy = stale(1, 5, registry=registry)
        for function in (generator, async_generator):
            with pytest.raises(TypeError, match="only once"):
                policy(function)
        with pytest.raises(TypeError, match="Decorate a function"):
            with policy:
                pass
        with pytest.raises(TypeError, match="Decorate a function"):
            with policy._pipeline():
                pass


class TestDeadlines:
    def hung(self, policy: Stale) -> tuple[Gate, Callable[[], Any], list[threading.Thread]]:
        gate = Gate()
        guarded = policy(gate.sync)
        threads = in_threads(Caught(guarded))
        until(lambda: policy._cache.loads)
        return gate, guarded, threads

    def test_a_thread_waits_no_longer_than_its_deadline(self, registry: Registry, fake_clock: FakeClock) -> None:
        policy = stale(0, 60, name="rates", registry=registry)
        gate, guarded, threads = self.hung(policy)
        caller = Caught(timeout(2.0, interrupt="never", registry=registry)(lambda: guarded()))
        threads += in_threads(caller)
        until(lambda: waiting(policy) == 1)
        fake_clock.advance(1.999)
        time.sleep(0.01)
        assert waiting(policy) == 1
        fake_clock.advance(0.001)
        until(lambda: caller.error is not None)
        assert type(caller.error) is TimeoutExceededError
        assert (caller.error.policy, caller.error.seconds) == ("rates", 2.0)
        assert "waiting for another call that loads the same key" in str(caller.error)
        assert waiting(policy) == 0
        gate.open.set()
        joined(threads)
        assert counts(policy) == {"failed": 1, "not_needed": 1}

    def test_at_its_deadline_it_is_served_a_stale_result(self, registry: Registry, fake_clock: FakeClock) -> None:
        policy = stale(0, 60, registry=registry)
        gate = Gate()
        guarded = policy(gate.sync)
        gate.open.set()
        guarded()
        gate.open.clear()
        threads = in_threads(Caught(guarded))
        until(lambda: policy._cache.loads)

        def within_a_deadline() -> Any:
            deadline = current_deadline()
            assert deadline is not None
            try:
                return guarded()
            finally:
                served.append(fake_clock.now() >= deadline.at)

        served: list[bool] = []
        caller = Caught(timeout(2.0, interrupt="never", registry=registry)(within_a_deadline))
        threads += in_threads(caller)
        until(lambda: waiting(policy) == 1)
        fake_clock.advance(2.0)
        until(lambda: served)
        assert served == [True]
        gate.open.set()
        joined(threads)
        assert counts(policy) == {"not_needed": 2, "applied": 1}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_task_waits_no_longer_than_its_deadline(
        self, backend: str, registry: Registry, fake_clock: FakeClock
    ) -> None:
        policy = stale(0, 60, registry=registry)
        gate = Gate()
        guarded = policy(gate.asynchronous)
        threads = in_threads(Caught(lambda: asyncio.run(guarded())))
        until(lambda: policy._cache.loads)

        @timeout(2.0, interrupt="never", registry=registry)
        async def caller_in_time() -> Any:
            return await guarded()

        caller = Caught(lambda: run(backend, caller_in_time))
        threads += in_threads(caller)
        until(lambda: waiting(policy) == 1)
        fake_clock.advance(2.0)
        until(lambda: caller.error is not None)
        assert type(caller.error) is TimeoutExceededError
        gate.open.set()
        joined(threads)

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_timeout_around_one_that_waits_cancels_it(
        self, backend: str, registry: Registry, fake_clock: FakeClock
    ) -> None:
        policy = stale(0, 60, registry=registry)
        gate = Gate()
        guarded = policy(gate.asynchronous)
        threads = in_threads(Caught(lambda: asyncio.run(guarded())))
        until(lambda: policy._cache.loads)

        @timeout(2.0, registry=registry)
        async def caller_in_time() -> Any:
            return await guarded()

        caller = Caught(lambda: run(backend, caller_in_time))
        threads += in_threads(caller)
        until(lambda: waiting(policy) == 1)
        fake_clock.advance(2.0)
        until(lambda: caller.error is not None)
        assert type(caller.error) is TimeoutExceededError
        assert waiting(policy) == 0
        gate.open.set()
        joined(threads)

    def test_waiting_on_the_thread_of_a_loop_warns_once(self, registry: Registry) -> None:
        policy = stale(0, 60, name="rates", registry=registry)
        gate, guarded, threads = self.hung(policy)

        async def main() -> None:
            with pytest.warns(RuntimeWarning, match=r"stale 'rates' blocks a thread .* use `async def` or call_async"):
                guarded()

        opening = in_threads(lambda: (until(lambda: waiting(policy) == 1), gate.open.set()))
        asyncio.run(main())
        joined(threads + opening)
        assert policy._warned
