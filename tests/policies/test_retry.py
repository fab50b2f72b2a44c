"""Retry: its settings and what it does. What every back end has in common is in tests/behaviour."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from resilient import (
    ConfigurationError,
    Event,
    Registry,
    RejectedError,
    Retry,
    RetryBudget,
    RetryExhaustedError,
    retry,
    timeout,
)
from resilient.backoff import constant, exponential, linear
from resilient.core.clock import CLOCK
from resilient.testing import FakeClock, RecordedEvents
from tests.policies.retry_kit import Failing, waits_of


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
        policy = retry(attempts=None, max_duration=timedelta(seconds=5), backoff=timedelta(seconds=2), registry=private)
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
        assert note == ("retry 'payments': gave up after 1 attempt in 6.00 s: the wait lasted until after the deadline")
        assert policy.snapshot()["calls"]["deadline"] == 1  # type: ignore[index]
        assert policy.snapshot()["attempts"] == {"success": 0, "retryable_failure": 1, "failure": 0}


class TestWhatItTells:
    def test_its_snapshot_adds_up(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(on=(ConnectionError, RejectedError), attempts=3, backoff=1.0, name="payments", registry=private)
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
        assert len([record for record in caplog.records if record.name == "resilient"]) == 1

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
            with pytest.raises(ConnectionError) as caught:  # noqa: PT012 - the block, or loop, is what is tested
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
