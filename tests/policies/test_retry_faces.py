"""Retry as a loop over attempts; what it warns of; and the switches of the testing kit."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from resilient import (
    Registry,
    Retry,
    TimeoutExceededError,
    current_deadline,
    retry,
    timeout,
)
from resilient.testing import FakeClock, cap, disabled
from tests.policies.interrupting import interrupted_at
from tests.policies.retry_kit import Failing


class TestAttempts:
    def test_they_are_numbered_and_know_the_wait_that_would_follow(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        seen: list[tuple[int, float | None]] = []
        with pytest.raises(ConnectionError):  # noqa: PT012 - the block, or loop, is what is tested
            for attempt in retry(attempts=3, backoff=[1.0, 2.0], registry=private):
                with attempt:
                    seen.append((attempt.number, attempt.next_delay))
                    raise ConnectionError
        assert seen == [(1, 1.0), (2, 2.0), (3, None)]
        assert fake_clock.sleeps == [1.0, 2.0]

    def test_the_wait_foretold_is_the_wait_made_also_with_jitter(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        foretold: list[float | None] = []
        for attempt in retry(attempts=5, registry=private):
            with attempt:
                foretold.append(attempt.next_delay)
                assert attempt.next_delay == foretold[-1]
                if attempt.number < 4:
                    raise ConnectionError
        assert fake_clock.sleeps == pytest.approx(foretold[:-1])

    def test_the_loop_ends_with_the_first_that_succeeds(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=5, registry=private)
        numbers = []
        for attempt in policy:
            with attempt:
                numbers.append(attempt.number)
                if attempt.number < 2:
                    raise ConnectionError
        assert numbers == [1, 2]
        assert policy.snapshot()["calls"]["recovered"] == 1  # type: ignore[index]

    @pytest.mark.parametrize("how", ["return", "break", "continue"])
    def test_leaving_the_block_early_is_a_success(self, how: str, private: Registry) -> None:
        policy = retry(attempts=5, name="loop", registry=private)

        def loop() -> int:
            count = 0
            for attempt in policy:
                count += 1
                with attempt:
                    if how == "return":
                        return count
                    if how == "break":
                        break
                    continue
            return count

        assert loop() == 1
        assert policy.snapshot()["calls"]["first_try"] == 1  # type: ignore[index]
        assert private.snapshot()["pipeline"]["loop"]["active"] == 0

    @pytest.mark.parametrize("attempts", [1, 2])
    def test_a_loop_left_between_two_attempts_is_not_under_way_any_more(
        self, attempts: int, private: Registry, fake_clock: FakeClock
    ) -> None:
        def loop() -> None:
            for attempt in retry(attempts=5, name="loop", registry=private):
                if attempt.number == 2:
                    break
                with attempt:
                    raise ConnectionError
                if attempts == 1:
                    break

        loop()
        gc.collect()  # the error that the loop keeps holds the frame of the loop
        counted: Any = private.snapshot()["pipeline"]["loop"]
        assert counted["active"] == 0
        assert (counted["calls"]["failure"], counted["calls"]["cancelled"]) == ((1, 0) if attempts == 1 else (0, 1))

    def test_two_loops_over_one_policy_do_not_meet(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=2, registry=private)
        pairs = []
        for outer in policy:
            with outer:
                for inner in policy:
                    with inner:
                        pairs.append((outer.number, inner.number))
                        if inner.number == 1:
                            raise ConnectionError
                if outer.number == 1:
                    raise ConnectionError
        assert pairs == [(1, 1), (1, 2), (2, 1), (2, 2)]

    def test_a_body_outside_its_block_is_pointed_out(self, private: Registry) -> None:
        with pytest.raises(RuntimeError, match="belongs in `with attempt:`"):
            for _ in retry(registry=private):
                pass

    def test_an_attempt_is_entered_once(self, private: Registry) -> None:
        (attempt,) = (attempt for attempt in [next(iter(retry(registry=private)))])
        with attempt:
            pass
        with pytest.raises(RuntimeError, match="entered once"), attempt:
            pass

    def test_each_has_its_time_and_what_ran_out_of_it_is_retried(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=2, backoff=1.0, attempt_timeout=3.0, registry=private)
        seen = []
        for attempt in policy:
            with attempt:
                seen.append(attempt.number)
                if attempt.number == 1:
                    fake_clock.advance(5.0)
        assert seen == [1, 2]
        assert fake_clock.sleeps == [1.0]

    def test_each_has_its_time_in_tasks(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=2, backoff=1.0, attempt_timeout=3.0, registry=private)
        seen = []

        async def main() -> None:
            async for attempt in policy:
                with attempt:
                    seen.append(attempt.number)
                    if attempt.number == 1:
                        fake_clock.advance(5.0)
                        await asyncio.sleep(0)
                        raise AssertionError("not reached")

        asyncio.run(main())
        assert seen == [1, 2]
        assert policy.snapshot()["attempt_timeout"]["calls"] == {"completed": 1, "timed_out": 1}  # type: ignore[index]

    def test_the_last_that_runs_out_of_time_raises_the_timeouts_error(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        with pytest.raises(TimeoutExceededError) as caught:  # noqa: PT012 - the block, or loop, is what is tested
            for attempt in retry(attempts=2, attempt_timeout=3.0, name="payments", registry=private):
                with attempt:
                    fake_clock.advance(5.0)
        assert caught.value.policy == "payments"
        assert len(caught.value.__notes__) == 1
        assert private.snapshot()["pipeline"]["payments"]["calls"]["timeout"] == 1  # type: ignore[index]

    def test_an_outer_timeout_ends_the_loop_and_the_call_is_counted(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=9, attempt_timeout=5.0, name="loop", registry=private)

        def loop() -> None:
            for attempt in policy:
                with attempt:
                    fake_clock.advance(4.0)

        with pytest.raises(TimeoutExceededError) as caught:
            timeout(3.0, registry=private).call(loop)
        assert caught.value.seconds == 3.0
        counted = private.snapshot()["pipeline"]["loop"]
        assert counted["active"] == 0
        assert counted["calls"]["cancelled"] == 1  # type: ignore[index]

    def test_an_interrupt_at_any_instruction_of_the_loop_is_counted_once_and_never_escapes(
        self, fake_clock: FakeClock
    ) -> None:
        outcomes: set[str] = set()
        for instruction in count():
            registry = Registry()
            policy = retry(attempts=2, backoff=1.0, attempt_timeout=3.0, name="loop", registry=registry)

            def loop(policy: Retry = policy) -> str:
                for attempt in policy:
                    with attempt:
                        str(attempt)
                return "the end"

            try:
                reached = interrupted_at(instruction, loop, fake_clock)
            except TimeoutExceededError:
                outcomes.add("timed out")
            else:
                if not reached:
                    break
                outcomes.add("the end")
            fake_clock.advance(60.0)
            assert current_deadline() is None
            counted: Any = registry.snapshot()["pipeline"]["loop"]
            assert (counted["active"], sum(counted["calls"].values())) == (0, 1), instruction
        assert outcomes == {"timed out", "the end"}

    def test_with_a_time_limit_a_plain_loop_in_a_coroutine_or_generator_is_refused(self, private: Registry) -> None:
        policy = retry(attempt_timeout=3.0, name="loop", registry=private)

        async def coroutine() -> None:
            for attempt in policy:
                with attempt:
                    raise AssertionError("not reached")

        def generator() -> Iterator[None]:
            for attempt in policy:
                with attempt:
                    yield

        with pytest.raises(TypeError, match="async for"):
            asyncio.run(coroutine())
        with pytest.raises(TypeError, match="generator"):
            next(generator())
        meters = private.snapshot().get("pipeline", {})
        assert all(meter["active"] == 0 for meter in meters.values())

    def test_an_error_of_the_predicate_ends_the_loop_with_that(self, private: Registry) -> None:
        def on(error: Exception) -> bool:
            raise LookupError("in the predicate")

        with pytest.raises(LookupError, match="in the predicate"):  # noqa: PT012 - the block, or loop, is what is tested
            for attempt in retry(on=on, name="loop", registry=private):
                with attempt:
                    raise ConnectionError
        assert private.snapshot()["pipeline"]["loop"]["active"] == 0

    def test_loops_count_as_calls_do(self, private: Registry, fake_clock: FakeClock) -> None:
        looped = retry(attempts=3, backoff=1.0, name="looped", registry=private)
        called = retry(attempts=3, backoff=1.0, name="called", registry=private)
        for use in (called.call, lambda body: self.loop(looped, body)):
            for failures in (0, 1, 9):
                outcomes = iter([True] * failures + [False])

                def body(outcomes: Any = outcomes) -> None:
                    if next(outcomes):
                        raise ConnectionError

                try:
                    use(body)
                except ConnectionError:
                    assert failures == 9
        assert looped.snapshot() == called.snapshot()
        counted = private.snapshot()["pipeline"]
        assert counted["looped"]["calls"] == counted["called"]["calls"]

    def loop(self, policy: Retry, body: Any) -> None:
        for attempt in policy:
            with attempt:
                body()


class TestWarning:
    def test_waiting_on_a_thread_that_runs_a_loop_warns_once_for_each_policy(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        first = retry(attempts=3, backoff=1.0, name="first", registry=private)
        second = retry(attempts=2, backoff=1.0, name="second", registry=private)

        async def main() -> None:
            for policy in (first, second, first):
                with pytest.raises(ConnectionError):
                    policy.call(Failing())

        with pytest.warns(RuntimeWarning) as caught:
            asyncio.run(main())
        assert ["first" in str(warning.message) for warning in caught] == [True, False]
        assert all("call_async" in str(warning.message) for warning in caught)
        assert {warning.filename for warning in caught} == {__file__}

    def test_the_attempts_face_warns_too(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=2, backoff=1.0, registry=private)

        async def main() -> None:
            for attempt in policy:
                with attempt:
                    if attempt.number == 1:
                        raise ConnectionError

        with pytest.warns(RuntimeWarning, match="async for"):
            asyncio.run(main())

    def test_nobody_is_warned_who_does_not_wait_or_waits_elsewhere(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=2, backoff=1.0, registry=private)

        async def main() -> None:
            policy.call(str)
            with pytest.raises(ConnectionError):
                await policy.call_async(Failing().in_task)
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(policy.call, Failing())

        asyncio.run(main())


class TestSwitches:
    def test_disabled_retries_nothing_in_any_face(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=3, registry=private)
        failing = Failing()
        with disabled():
            with pytest.raises(ConnectionError):
                policy.call(failing)
            with pytest.raises(ConnectionError):  # noqa: PT012 - the block, or loop, is what is tested
                for attempt in policy:
                    with attempt:
                        failing()
        assert len(failing.raised) == 2

    def test_cap_bounds_the_attempts_of_every_face(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, registry=private)
        failing = Failing()
        with cap(attempts=2):
            with pytest.raises(ConnectionError):
                policy.call(failing)
            with pytest.raises(ConnectionError):  # noqa: PT012 - the block, or loop, is what is tested
                for attempt in policy:
                    with attempt:
                        failing()
        assert len(failing.raised) == 4
