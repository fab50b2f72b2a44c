"""Retry: its settings and its faces. What every back end has in common is in tests/behaviour."""

from __future__ import annotations

import asyncio
import http.client
import io
import subprocess
import sys
import textwrap
import threading
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Event,
    Registry,
    RejectedError,
    Retry,
    RetryBudget,
    RetryExhaustedError,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    retry,
    timeout,
)
from resilient.backoff import constant, exponential, linear
from resilient.core.clock import CLOCK
from resilient.testing import FakeClock, RecordedEvents, cap, disabled
from tests.policies.interrupting import interrupted_at


@pytest.fixture
def private() -> Registry:
    return Registry()


class Failing:
    """Fails every time, with an error of its own each time."""

    def __init__(self, make: Any = ConnectionError) -> None:
        self.make = make
        self.raised: list[BaseException] = []

    def __call__(self, *_: object) -> Any:
        self.raised.append(self.make())
        raise self.raised[-1]

    async def in_task(self) -> Any:
        self()


def waits_of(policy: Retry, clock: FakeClock, make: Any = ConnectionError) -> list[float]:
    """The waits of one call that fails throughout."""
    del clock.sleeps[:]
    with pytest.raises(Exception):  # noqa: B017, PT011
        policy.call(Failing(make))
    return clock.sleeps[:]


class TestSettings:
    @pytest.mark.parametrize(
        "settings, named",
        [
            ({"attempts": 0}, "attempts=0"),
            ({"attempts": True}, "attempts=True"),
            ({"attempts": 2.0}, "attempts=2.0"),
            ({"attempts": None}, "attempts and max_duration"),
            ({"on": ValueError()}, "on="),
            ({"on": ()}, r"on=\(\)"),
            ({"on": KeyboardInterrupt}, "on="),
            ({"on": (ValueError, asyncio.CancelledError)}, "on="),
            ({"on_result": "pending"}, "on_result='pending'"),
            ({"backoff": -1}, "backoff=-1"),
            ({"backoff": []}, r"backoff=\(\)"),
            ({"max_duration": 0}, "max_duration=0"),
            ({"max_duration": float("nan")}, "max_duration=nan"),
            ({"attempt_timeout": -1}, "attempt_timeout=-1"),
            ({"retry_after": 5}, "retry_after=5"),
            ({"retry_after_max": -1}, "retry_after_max=-1"),
            ({"budget": 0.2}, "budget=0.2"),
            ({"on_exhausted": "ignore"}, "on_exhausted='ignore'"),
            ({"name": ""}, "name=''"),
        ],
    )
    def test_a_wrong_one_is_refused_at_once_and_named(self, settings: dict[str, Any], named: str) -> None:
        with pytest.raises(ConfigurationError, match=named):
            retry(**settings)

    def test_the_defaults_are_three_attempts_with_full_jitter(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(registry=private)
        assert policy.settings["attempts"] == 3
        assert policy.settings["backoff"] == exponential(initial=0.1, factor=2.0, max=30.0, jitter="full")
        first, second = waits_of(policy, fake_clock)
        assert 0 <= first <= 0.1
        assert 0 <= second <= 0.2

    def test_a_bare_decorator_has_them_too(self, fake_clock: FakeClock) -> None:
        failing = Failing()

        @retry
        def guarded() -> None:
            failing()

        with pytest.raises(ConnectionError):
            guarded()
        assert len(failing.raised) == 3
        assert guarded.__resilient__.policies[0].name.endswith("guarded")  # type: ignore[attr-defined]

    @pytest.mark.parametrize("wrong", [ConnectionError, "payments", 3])
    def test_what_is_no_function_is_refused_with_a_hint(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"retry\(attempts=5\)|retry\(on=ConnectionError\)"):
            retry(wrong)

    @pytest.mark.parametrize(
        "backoff, waits",
        [
            (2, [2.0, 2.0, 2.0, 2.0]),
            (timedelta(seconds=1.5), [1.5] * 4),
            (constant(0.25), [0.25] * 4),
            (linear(1.0, max=2.5), [1.0, 2.0, 2.5, 2.5]),
            (exponential(initial=1.0, factor=3.0, max=10.0, jitter=None), [1.0, 3.0, 9.0, 10.0]),
            ([0.5, timedelta(seconds=1)], [0.5, 1.0, 1.0, 1.0]),
            (lambda attempt: attempt / 2, [0.5, 1.0, 1.5, 2.0]),
        ],
    )
    def test_a_backoff_has_many_forms(
        self, backoff: Any, waits: list[float], private: Registry, fake_clock: FakeClock
    ) -> None:
        assert waits_of(retry(attempts=5, backoff=backoff, registry=private), fake_clock) == waits

    def test_durations_may_be_timedeltas(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(
            attempts=None, max_duration=timedelta(seconds=5), backoff=timedelta(seconds=2), registry=private
        )
        assert waits_of(policy, fake_clock) == [2.0, 2.0]

    def test_two_thousand_attempts_do_not_overflow(self, private: Registry, fake_clock: FakeClock) -> None:
        waits = waits_of(retry(attempts=2000, backoff=exponential(max=30.0), registry=private), fake_clock)
        assert len(waits) == 1999 - waits.count(0.0)
        assert all(0 < wait <= 30.0 for wait in waits)

    def test_one_name_is_one_policy_and_other_settings_are_refused(self, private: Registry) -> None:
        first = retry(name="payments", attempts=5, registry=private)
        assert retry(name="payments", attempts=5, registry=private) is first
        with pytest.raises(ConfigurationError, match="attempts=4, registered with attempts=5"):
            retry(name="payments", attempts=4, registry=private)

    def test_a_cell_run_twice_pays_into_the_budget_that_it_takes_from(self, private: Registry) -> None:
        def cell() -> tuple[Retry, RetryBudget]:
            budget = RetryBudget(ratio=1.0, min_per_second=0.0)
            return retry(name="payments", attempts=2, backoff=0.0, budget=budget, registry=private), budget

        policy, budget = cell()

        @policy
        def guarded() -> None:
            raise ConnectionError

        again, _ = cell()
        assert again is policy
        with pytest.raises(ConnectionError):
            guarded()
        counted = budget.snapshot()
        assert (counted["calls"], counted["retries"]) == (1, 1)


class TestOn:
    def test_a_class_a_tuple_and_a_predicate_select(self, private: Registry, fake_clock: FakeClock) -> None:
        for on in (OSError, (KeyError, OSError), lambda error: isinstance(error, ConnectionError)):
            policy = retry(on=on, attempts=2, backoff=1.0, registry=private)
            assert waits_of(policy, fake_clock, ConnectionError) == [1.0]
            assert waits_of(policy, fake_clock, ValueError) == []

    def test_an_error_of_the_predicate_propagates(self, private: Registry) -> None:
        wrong = LookupError("in the predicate")

        def on(error: Exception) -> bool:
            raise wrong

        with pytest.raises(LookupError) as caught:
            retry(on=on, registry=private).call(Failing())
        assert caught.value is wrong

    @pytest.mark.parametrize("number, wait", [(0.75, 0.75), (2, 2.0), (timedelta(seconds=3), 3.0)])
    def test_a_number_of_the_predicate_is_the_wait(
        self, number: Any, wait: float, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(on=lambda error: number, attempts=3, backoff=9.0, registry=private)
        assert waits_of(policy, fake_clock) == [wait, wait]

    def test_true_and_one_are_not_the_same(self, private: Registry, fake_clock: FakeClock) -> None:
        assert waits_of(retry(on=lambda error: True, attempts=2, backoff=9.0, registry=private), fake_clock) == [9.0]
        assert waits_of(retry(on=lambda error: 1, attempts=2, backoff=9.0, registry=private), fake_clock) == [1.0]
        assert waits_of(retry(on=lambda error: 0, attempts=2, backoff=9.0, registry=private), fake_clock) == []
        assert waits_of(retry(on=lambda error: False, attempts=2, backoff=9.0, registry=private), fake_clock) == []

    def test_no_cancellation_is_ever_shown_to_the_predicate(self, private: Registry) -> None:
        asked: list[BaseException] = []

        class Neutral(BaseException):
            pass

        with pytest.raises(Neutral):
            retry(on=asked.append, registry=private).call(Failing(Neutral))
        assert asked == []


def _httpx_like(retry_after: str) -> Exception:
    class Headers(dict[str, str]):
        """Case does not matter, as in httpx and requests."""

        def get(self, key: str, default: Any = None) -> Any:
            return {name.lower(): value for name, value in self.items()}.get(key.lower(), default)

    class Response:
        status_code = 503
        headers = Headers({"Content-Length": "0", "Retry-After": retry_after})

    class HTTPStatusError(Exception):
        response = Response()

    return HTTPStatusError("503 Service Unavailable")


def _urllib_like(retry_after: str) -> Exception:
    from urllib.error import HTTPError

    headers = http.client.parse_headers(io.BytesIO(f"retry-after: {retry_after}\r\n\r\n".encode()))
    return HTTPError("http://localhost", 429, "Too Many Requests", headers, None)


def _aiohttp_like(retry_after: str) -> Exception:
    class ClientResponseError(Exception):
        headers = {"Retry-After": retry_after}  # noqa: RUF012

    return ClientResponseError()


class TestRetryAfter:
    @pytest.mark.parametrize("make", [_httpx_like, _urllib_like, _aiohttp_like])
    def test_the_wish_of_a_server_replaces_the_backoff(
        self, make: Any, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=3, backoff=0.5, registry=private)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            assert waits_of(policy, fake_clock, lambda: make("7")) == [7.0, 7.0]
            past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
            assert waits_of(policy, fake_clock, lambda: make(past)) == []
            assert waits_of(policy, fake_clock, lambda: make("soon")) == [0.5, 0.5]

    def test_a_date_is_a_wish_too(self, private: Registry, fake_clock: FakeClock) -> None:
        then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        (wait,) = waits_of(
            retry(attempts=2, backoff=0.5, registry=private), fake_clock, lambda: _httpx_like(then)
        )
        assert 25 < wait <= 30

    def test_a_wish_above_the_maximum_gives_up_rather_than_go_early(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=9, backoff=0.5, retry_after_max=10, registry=private)
        with pytest.raises(Exception, match="503") as caught:
            policy.call(Failing(lambda: _httpx_like("11")))
        assert "the wait asked for is longer than retry_after_max" in caught.value.__notes__[0]
        assert fake_clock.sleeps == []
        assert len(waits_of(policy, fake_clock, lambda: _httpx_like("10"))) == 8

    def test_a_result_may_have_a_wish(self, private: Registry, fake_clock: FakeClock) -> None:
        class Response:
            status_code = 429
            headers = {"retry-after": "4"}  # noqa: RUF012

        policy = retry(
            on_result=lambda response: response.status_code == 429, attempts=2, backoff=0.5, registry=private
        )
        assert policy.call(Response).status_code == 429
        assert fake_clock.sleeps == [4.0]

    def test_a_reader_of_ones_own_or_none(self, private: Registry, fake_clock: FakeClock) -> None:
        own = retry(attempts=2, backoff=0.5, retry_after=lambda outcome: 3, registry=private)
        none = retry(attempts=2, backoff=0.5, retry_after=None, registry=private)
        assert waits_of(own, fake_clock) == [3.0]
        assert waits_of(none, fake_clock, lambda: _httpx_like("7")) == [0.5]

    def test_a_wish_that_passes_max_duration_gives_up(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=0.5, max_duration=5, registry=private)
        assert waits_of(policy, fake_clock, lambda: _httpx_like("5")) == []


class TestGivingUp:
    def test_the_same_error_again_and_again_has_one_note_and_that_is_the_last(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        error = ConnectionError("always the same")
        error.add_note("the user's own")
        policy = retry(attempts=2, backoff=1.0, name="payments", registry=private)

        def fail() -> None:
            raise error

        for _ in range(3):
            with pytest.raises(ConnectionError) as caught:
                policy.call(fail)
            assert caught.value is error
        assert error.__notes__ == [
            "the user's own",
            "retry 'payments': gave up after 2 attempts in 1.00 s: attempts exhausted",
        ]

    def test_each_of_two_layers_adds_its_own_note(self, private: Registry, fake_clock: FakeClock) -> None:
        failing = Failing()
        inner = retry(attempts=2, name="inner", registry=private)
        outer = retry(attempts=2, name="outer", registry=private)
        with pytest.raises(ConnectionError) as caught:
            outer.call(lambda: inner.call(failing))
        assert [note.partition(":")[0] for note in caught.value.__notes__] == ["retry 'inner'", "retry 'outer'"]
        assert len(failing.raised) == 4

    def test_an_error_that_is_not_retried_after_others_tells_how_many_came_before(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        errors = iter([ConnectionError(), KeyError("own")])
        with pytest.raises(KeyError) as caught:
            retry(on=ConnectionError, registry=private).call(Failing(lambda: next(errors)))
        (note,) = caught.value.__notes__
        assert "gave up after 2 attempts" in note
        assert note.endswith("the error is not one to retry")

    def test_no_error_hangs_on_the_one_of_the_attempt_before(self, private: Registry, fake_clock: FakeClock) -> None:
        failing = Failing()
        with pytest.raises(ConnectionError):
            retry(attempts=3, registry=private).call(failing)
        assert [(error.__context__, error.__cause__) for error in failing.raised] == [(None, None)] * 3

    def test_an_unwanted_result_is_returned_by_default(self, private: Registry, fake_clock: FakeClock) -> None:
        results = iter("abc")
        policy = retry(on_result=lambda result: True, attempts=3, registry=private)
        assert policy.call(lambda: next(results)) == "c"

    def test_or_it_is_raised_with_the_result(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(
            on_result=lambda result: True, attempts=3, on_exhausted="raise", name="payments", registry=private
        )
        with pytest.raises(RetryExhaustedError, match="gave up after 3 attempts") as caught:
            policy.call(lambda: "pending")
        assert (caught.value.result, caught.value.attempts, caught.value.policy) == ("pending", 3, "payments")

    def test_on_exhausted_says_nothing_about_errors(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=2, on_exhausted="raise", registry=private)
        with pytest.raises(ConnectionError):
            policy.call(Failing())

    def test_an_error_after_an_unwanted_result_is_what_is_raised(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        outcomes: list[Any] = ["pending", ConnectionError("last")]

        def body() -> Any:
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        policy = retry(on_result=lambda result: True, attempts=2, registry=private)
        with pytest.raises(ConnectionError, match="last"):
            policy.call(body)

    def test_a_wait_that_took_too_long_starts_no_attempt_and_counts_none(
        self, private: Registry, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CLOCK, "sleep", lambda seconds: fake_clock.advance(seconds + 5.0))
        failing = Failing()
        policy = retry(attempts=5, backoff=1.0, name="payments", registry=private)
        with pytest.raises(ConnectionError) as caught, timeout(3.0, interrupt="never", registry=private):
            policy.call(failing)
        assert len(failing.raised) == 1
        (note,) = caught.value.__notes__
        assert note == (
            "retry 'payments': gave up after 1 attempt in 6.00 s: the wait lasted until after the deadline"
        )
        assert policy.snapshot()["calls"]["deadline"] == 1  # type: ignore[index]
        assert policy.snapshot()["attempts"] == {"success": 0, "retryable_failure": 1, "failure": 0}


class TestBudget:
    def test_two_policies_share_one(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.0, min_per_second=0.3, window=10)
        one = retry(attempts=9, budget=budget, name="one", registry=private)
        other = retry(attempts=9, budget=budget, name="other", registry=private)
        assert len(waits_of(one, fake_clock)) + len(waits_of(other, fake_clock)) == 3
        assert other.snapshot()["calls"]["budget"] == 1  # type: ignore[index]

    def test_nested_ones_do_not_multiply_beyond_it(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.0, min_per_second=0.5, window=10)
        failing = Failing()
        inner = retry(attempts=9, budget=budget, name="inner", registry=private)
        outer = retry(attempts=9, budget=budget, name="outer", registry=private)
        with pytest.raises(ConnectionError):
            outer.call(lambda: inner.call(failing))
        assert len(failing.raised) == 1 + 5

    def test_the_last_error_is_kept_and_told_why(self, private: Registry, fake_clock: FakeClock) -> None:
        failing = Failing()
        budget = RetryBudget(ratio=0.0, min_per_second=0.0)
        with pytest.raises(ConnectionError) as caught:
            retry(budget=budget, registry=private).call(failing)
        assert caught.value is failing.raised[0]
        assert caught.value.__notes__[0].endswith("the retry budget is spent")

    def test_a_success_pays_in(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.5, min_per_second=0.0)
        policy = retry(budget=budget, attempts=9, backoff=0.0, registry=private)
        for _ in range(3):
            policy.call(str)
        failing = Failing()
        with pytest.raises(ConnectionError):
            policy.call(failing)
        assert len(failing.raised) == 1 + 2  # four calls, this one included, pay for two retries


class TestAttempts:
    def test_they_are_numbered_and_know_the_wait_that_would_follow(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        seen: list[tuple[int, float | None]] = []
        with pytest.raises(ConnectionError):
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
        with pytest.raises(TimeoutExceededError) as caught:
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

        def generator():  # type: ignore[no-untyped-def]
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

        with pytest.raises(LookupError, match="in the predicate"):
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


class TestWhatItTells:
    def test_its_snapshot_adds_up(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(
            on=(ConnectionError, RejectedError), attempts=3, backoff=1.0, name="payments", registry=private
        )
        for errors in ([], [1], [1, 1, 1], [0], [1, 0]):
            outcomes = iter(errors)

            def body(outcomes: Any = outcomes) -> None:
                outcome = next(outcomes, None)
                if outcome is not None:
                    raise ConnectionError if outcome else KeyError

            try:
                policy.call(body)
            except (ConnectionError, KeyError):
                pass
        assert policy.snapshot() == {
            "calls": {
                "first_try": 1,
                "recovered": 1,
                "not_retryable": 2,
                "exhausted": 1,
                "budget": 0,
                "deadline": 0,
            },
            "attempts": {"success": 2, "retryable_failure": 1 + 3 + 1, "failure": 2},
            "backoff_seconds": 1.0 + 2.0 + 1.0,
        }

    def test_its_events_have_no_message_and_no_argument_in_them(
        self, private: Registry, fake_clock: FakeClock, resilience_events: RecordedEvents
    ) -> None:
        with pytest.raises(ConnectionError):
            retry(attempts=2, name="payments", registry=private).call(
                Failing(lambda: ConnectionError("card 4711")), "card 4711"
            )
        assert resilience_events.kinds() == ["retry_scheduled", "retry_exhausted"]
        assert "4711" not in repr(resilience_events)
        assert [event.operation for event in resilience_events] == ["payments", "payments"]

    def test_a_listener_that_fails_changes_nothing(self, private: Registry, fake_clock: FakeClock, caplog: Any) -> None:
        policy = retry(attempts=3, registry=private)
        failing = Failing()

        def listener(event: Event) -> None:
            raise LookupError("in the listener")

        policy.subscribe(listener)
        with pytest.raises(ConnectionError) as caught:
            policy.call(failing)
        assert caught.value is failing.raised[2]
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("budgeted", [False, True])
    def test_plain_and_async_calls_tell_the_same(
        self, budgeted: bool, fake_clock: FakeClock, resilience_events: RecordedEvents
    ) -> None:
        def told(use_async: bool) -> list[object]:
            registry = Registry()
            policy = retry(
                attempts=3,
                backoff=[1.0, 2.0],
                budget=RetryBudget(ratio=0.0, min_per_second=0.1) if budgeted else None,
                name="payments",
                registry=registry,
            )
            del resilience_events[:], fake_clock.sleeps[:]
            failing = Failing()
            with pytest.raises(ConnectionError) as caught:
                if use_async:
                    asyncio.run(policy.call_async(failing.in_task))
                else:
                    policy.call(failing)
            calls: Any = registry.snapshot()["pipeline"]["payments"]
            return [
                [(event.kind, event.operation, dict(event.data)) for event in resilience_events],
                fake_clock.sleeps[:],
                policy.snapshot(),
                caught.value.__notes__,
                calls["calls"],
            ]

        assert told(use_async=False) == told(use_async=True)


class TestSwitches:
    def test_disabled_retries_nothing_in_any_face(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=3, registry=private)
        failing = Failing()
        with disabled():
            with pytest.raises(ConnectionError):
                policy.call(failing)
            with pytest.raises(ConnectionError):
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
            with pytest.raises(ConnectionError):
                for attempt in policy:
                    with attempt:
                        failing()
        assert len(failing.raised) == 4


class TestDeadline:
    def test_no_wait_begins_that_would_end_after_it(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=4.0, registry=private)
        with timeout(10.0, registry=private), pytest.raises(ConnectionError) as caught:
            policy.call(Failing())
        assert fake_clock.sleeps == [4.0, 4.0]
        assert "the deadline" in caught.value.__notes__[0]
        assert policy.snapshot()["calls"]["deadline"] == 1  # type: ignore[index]

    def test_on_another_thread_no_attempt_begins_after_it(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=0.0, registry=private)
        attempts: list[None] = []
        outcome: list[BaseException] = []

        def late() -> None:
            attempts.append(None)
            fake_clock.advance(4.0)
            raise ConnectionError("late")

        def run() -> None:
            try:
                timeout(3.0, registry=private).call(policy.call, late)
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert len(attempts) == 1
        assert type(outcome[0]) is ConnectionError

    def test_an_attempt_cannot_outlive_it(self, private: Registry, fake_clock: FakeClock) -> None:
        remaining: list[float] = []

        def body() -> None:
            deadline = current_deadline()
            assert deadline is not None
            remaining.append(deadline.remaining())
            raise ConnectionError

        policy = retry(attempts=3, backoff=4.0, attempt_timeout=5.0, registry=private)
        with timeout(10.0, registry=private), pytest.raises(ConnectionError):
            policy.call(body)
        assert remaining == [5.0, 5.0, 2.0]


def test_retry_around_a_named_breaker_waits_for_the_circuit(private: Registry, fake_clock: FakeClock) -> None:
    breaker = circuit_breaker(open_duration=30, registry=private)
    breaker.trip()
    impatient = pipeline(
        retry(on=CircuitOpenError, retry_after_max=10, backoff=0.1, registry=private), breaker, registry=private
    )
    with pytest.raises(CircuitOpenError):
        impatient.call(str)
    patient = pipeline(retry(on=CircuitOpenError, backoff=0.1, registry=private), breaker, registry=private)
    assert patient.call(str) == ""
    assert fake_clock.sleeps == [30.0]


def test_plain_retries_import_no_event_loop() -> None:
    code = """
        import sys
        from resilient import retry
        @retry(attempts=2, backoff=0)
        def fail():
            raise ConnectionError
        try:
            fail()
        except ConnectionError:
            pass
        print([name for name in ("asyncio", "trio", "anyio") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
