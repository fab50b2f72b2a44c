from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.backoff import Backoff, as_backoff, constant, exponential
from resilient.core.budget import RetryBudget
from resilient.core.checks import Matcher
from resilient.core.retry_after import default_retry_after
from resilient.core.retry_plan import RetryPlan, RetryRun, Stop
from resilient.errors import BulkheadFullError, CircuitOpenError, ConfigurationError, RateLimitedError, RejectedError


class Settings(TypedDict, total=False):
    on: Matcher
    attempts: int | None
    backoff: Backoff
    max_duration: float | None
    retry_after: Callable[[object], object] | None
    retry_after_max: float
    budget: RetryBudget | None


def plan(**settings: Unpack[Settings]) -> RetryPlan:
    return RetryPlan(
        on=settings.get("on", Exception),
        on_result=None,
        attempts=settings.get("attempts", 3),
        backoff=settings.get("backoff", constant(1)),
        max_duration=settings.get("max_duration"),
        retry_after=settings.get("retry_after", default_retry_after),
        retry_after_max=settings.get("retry_after_max", 60.0),
        budget=settings.get("budget"),
        on_exhausted="return",
    )


def run(started: float = 0.0, **settings: Unpack[Settings]) -> RetryRun:
    return RetryRun(plan(**settings), started)


class Wishing(Exception):
    def __init__(self, retry_after: object) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class TestAttempts:
    def test_the_first_one_counts(self) -> None:
        call = run(attempts=3)
        assert [call.after_error(OSError(), 0.0) for _ in range(3)] == [1.0, 1.0, Stop.EXHAUSTED]
        assert call.attempts == 3

    def test_one_attempt_means_no_retry(self) -> None:
        assert run(attempts=1).after_error(OSError(), 0.0) is Stop.EXHAUSTED

    def test_none_is_unlimited(self) -> None:
        call = run(attempts=None, max_duration=1e9)
        assert all(call.after_error(OSError(), 0.0) == 1.0 for _ in range(2_000))
        assert call.attempts == 2_001

    def test_results_and_errors_count_together(self) -> None:
        call = run(attempts=3)
        assert call.after_result(None, 0.0) == 1.0
        assert call.after_error(OSError(), 0.0) == 1.0
        assert call.after_result(None, 0.0) is Stop.EXHAUSTED

    def test_every_run_has_its_own(self) -> None:
        shared = plan(attempts=2)
        runs = [RetryRun(shared, 0.0) for _ in range(1_000)]
        assert all(call.after_error(OSError(), 0.0) == 1.0 for call in runs)
        assert all(call.attempts == 2 for call in runs)

    def test_the_last_delay_is_kept(self) -> None:
        call = run(backoff=as_backoff([1, 2]))
        assert call.delay is None
        for kept in (1.0, 2.0, 2.0):
            call.after_error(OSError(), 0.0)
            assert call.delay == kept


class TestOn:
    @pytest.mark.parametrize("on", [OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)])
    def test_a_class_a_tuple_or_a_predicate_selects(self, on: Matcher) -> None:
        assert run(on=on).after_error(ConnectionError(), 0.0) == 1.0
        assert run(on=on).after_error(ValueError(), 0.0) is Stop.NOT_RETRYABLE

    def test_an_error_not_to_retry_is_that_on_the_last_attempt_too(self) -> None:
        assert run(on=OSError, attempts=1).after_error(ValueError(), 0.0) is Stop.NOT_RETRYABLE

    @pytest.mark.parametrize("verdict, delay", [(2.5, 2.5), (4, 4.0), (0, 0.0), (timedelta(minutes=1), 60.0)])
    def test_a_number_from_the_predicate_is_the_delay(self, verdict: object, delay: float) -> None:
        call = run(on=lambda error: verdict, retry_after=lambda outcome: 30)
        assert call.after_error(OSError(), 0.0) == delay
        assert call.delay == delay

    def test_a_number_from_the_predicate_is_bound_by_attempts_and_deadline(self) -> None:
        assert run(on=lambda error: 5, attempts=1).after_error(OSError(), 0.0) is Stop.EXHAUSTED
        assert run(on=lambda error: 5).after_error(OSError(), 0.0, deadline=5.0) is Stop.DEADLINE
        assert run(on=lambda error: 5, max_duration=5.0).after_error(OSError(), 0.0) is Stop.MAX_DURATION

    @pytest.mark.parametrize("verdict", [True, "yes", [0]])
    def test_any_other_true_value_asks_for_the_backoff(self, verdict: object) -> None:
        assert run(on=lambda error: verdict).after_error(OSError(), 0.0) == 1.0

    @pytest.mark.parametrize("verdict", [False, None, "", []])
    def test_any_other_false_value_is_a_no(self, verdict: object) -> None:
        assert run(on=lambda error: verdict).after_error(OSError(), 0.0) is Stop.NOT_RETRYABLE

    @pytest.mark.parametrize("verdict", [-1, math.nan, math.inf, timedelta(seconds=-1)])
    def test_a_number_that_is_no_delay_names_the_predicate(self, verdict: object) -> None:
        def judge(error: BaseException) -> object:
            return verdict

        with pytest.raises(ConfigurationError, match=r"retry: on=.*judge returned .*, which is not allowed: "):
            run(on=judge).after_error(OSError(), 0.0)

    def test_an_error_of_the_predicate_passes(self) -> None:
        with pytest.raises(ZeroDivisionError):
            run(on=lambda error: 1 / 0).after_error(OSError(), 0.0)


class TestRejections:
    @pytest.mark.parametrize(
        "on", [Exception, (Exception, OSError), lambda error: True, CircuitOpenError, (CircuitOpenError, Exception)]
    )
    def test_one_that_no_class_names_is_not_retried(self, on: Matcher) -> None:
        assert run(on=on).after_error(RateLimitedError(), 0.0) is Stop.NOT_RETRYABLE

    @pytest.mark.parametrize("on", [RejectedError, CircuitOpenError, (OSError, CircuitOpenError)])
    def test_one_that_a_class_names_is_retried(self, on: Matcher) -> None:
        assert run(on=on).after_error(CircuitOpenError(), 0.0) == 1.0

    def test_a_predicate_is_not_asked(self) -> None:
        asked: list[BaseException] = []
        run(on=asked.append).after_error(BulkheadFullError(), 0.0)
        assert asked == []

    @pytest.mark.parametrize(
        "asked, delay", [(None, 2.0), (0.5, 2.0), (2.5, 2.5), (60.0, 60.0), (-1.0, 2.0), (math.nan, 2.0)]
    )
    def test_the_wait_is_at_least_its_retry_after(self, asked: float | None, delay: float) -> None:
        call = run(on=RejectedError, backoff=constant(2))
        assert call.after_error(CircuitOpenError(retry_after=asked), 0.0) == delay

    @pytest.mark.parametrize("asked", [60.1, math.inf])
    def test_one_that_asks_for_longer_than_the_maximum_stops(self, asked: float) -> None:
        assert run(on=RejectedError).after_error(CircuitOpenError(retry_after=asked), 0.0) is Stop.RETRY_AFTER

    @pytest.mark.parametrize("reader", [None, lambda outcome: 0])
    def test_what_reads_the_wish_of_servers_is_not_asked(self, reader: Callable[[object], object] | None) -> None:
        call = run(on=RejectedError, retry_after=reader)
        assert call.after_error(CircuitOpenError(retry_after=7.0), 0.0) == 7.0

    def test_a_subclass_without_the_attribute_waits_for_the_backoff(self) -> None:
        class Bare(RejectedError):
            def __init__(self) -> None:
                Exception.__init__(self, "no")

        assert run(on=RejectedError).after_error(Bare(), 0.0) == 1.0


class TestRetryAfter:
    @pytest.mark.parametrize("asked", [0, 0.25, 30, 60])
    def test_the_wish_replaces_the_backoff(self, asked: float) -> None:
        assert run(backoff=constant(10)).after_error(Wishing(asked), 0.0) == asked

    @pytest.mark.parametrize("asked", [60.1, 1e300, math.inf])
    def test_a_wish_above_the_maximum_stops_instead_of_going_early(self, asked: float) -> None:
        call = run()
        assert call.after_error(Wishing(asked), 0.0) is Stop.RETRY_AFTER
        assert (call.attempts, call.delay) == (1, None)

    @pytest.mark.parametrize("answer", [None, -3, timedelta(seconds=-1)])
    def test_no_wish_leaves_the_backoff(self, answer: object) -> None:
        assert run(retry_after=lambda outcome: answer).after_error(OSError(), 0.0) == 1.0

    def test_without_a_reader_nothing_is_read(self) -> None:
        assert run(retry_after=None).after_error(Wishing(500), 0.0) == 1.0

    def test_results_have_wishes_too(self) -> None:
        assert run().after_result(Wishing(12), 0.0) == 12.0
        assert run().after_result(Wishing(61), 0.0) is Stop.RETRY_AFTER

    @pytest.mark.parametrize("answer", ["30", math.nan, True, object()])
    def test_an_answer_that_is_no_duration_names_the_reader(self, answer: object) -> None:
        def read(outcome: object) -> object:
            return answer

        with pytest.raises(ConfigurationError, match=r"retry: retry_after=.*read returned .* not allowed: ") as caught:
            run(retry_after=read).after_error(OSError(), 0.0)
        assert caught.value.setting == "retry_after"

    def test_nothing_is_read_after_the_last_attempt(self) -> None:
        def read(outcome: object) -> object:
            raise AssertionError("there is no attempt to delay")

        assert run(attempts=1, retry_after=read).after_error(OSError(), 0.0) is Stop.EXHAUSTED


class TestBackoffOfARun:
    def test_it_is_told_the_attempt_and_its_own_last_delay(self) -> None:
        told: list[tuple[int, float | None]] = []

        class Spy(Backoff):
            def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
                told.append((attempt, previous))
                return attempt * 2.0

        call = run(attempts=9, backoff=Spy())
        call.after_error(OSError(), 0.0)
        call.after_error(Wishing(50), 0.0)
        call.after_error(OSError(), 0.0)
        assert told == [(1, None), (3, 2.0)]
        assert call.delay == 6.0

    def test_the_random_numbers_are_those_given(self) -> None:
        call = RetryRun(plan(backoff=exponential(8, jitter="full")), 0.0, random=lambda: 0.25)
        assert call.after_error(OSError(), 0.0) == 2.0

    def test_by_default_two_runs_do_not_wait_in_step(self) -> None:
        shared = plan(backoff=exponential(8, jitter="full"))
        assert len({RetryRun(shared, 0.0).after_error(OSError(), 0.0) for _ in range(50)}) == 50

    @pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
    def test_a_backoff_of_ones_own_that_gives_no_delay_is_named(self, wrong: float) -> None:
        class Broken(Backoff):
            def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
                return wrong

        with pytest.raises(ConfigurationError, match=r"retry: backoff=.*Broken.* returned"):
            run(backoff=Broken()).after_error(OSError(), 0.0)


class TestLimits:
    @pytest.mark.parametrize("deadline, expected", [(10.9, Stop.DEADLINE), (11.0, Stop.DEADLINE), (11.1, 1.0)])
    def test_a_wait_up_to_the_deadline_stops_at_once(self, deadline: float, expected: float | Stop) -> None:
        assert run().after_error(OSError(), 10.0, deadline) == expected

    @pytest.mark.parametrize("now, expected", [(103.9, 1.0), (104.0, Stop.MAX_DURATION), (200.0, Stop.MAX_DURATION)])
    def test_max_duration_counts_from_the_start_of_the_call(self, now: float, expected: float | Stop) -> None:
        assert run(100.0, max_duration=5.0).after_error(OSError(), now) == expected

    def test_no_attempt_starts_at_or_after_the_deadline_without_a_wait_either(self) -> None:
        call = run(backoff=constant(0))
        assert call.after_error(OSError(), 5.0, deadline=5.0) is Stop.DEADLINE

    def test_a_servers_wish_past_the_deadline_stops_instead_of_going_early(self) -> None:
        assert run().after_error(Wishing(30), 0.0, deadline=20.0) is Stop.DEADLINE

    @given(
        backoffs=st.sampled_from(
            [exponential(), exponential(jitter="decorrelated"), constant(0), as_backoff([3, 0.1])]
        ),
        max_duration=st.none() | st.floats(0.001, 100),
        budget=st.floats(0, 100) | st.just(math.inf),
        started=st.floats(0, 1e6),
        work=st.lists(st.floats(0, 10), min_size=1, max_size=40),
        wishes=st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=5),
    )
    def test_no_wait_ends_at_or_after_a_limit(
        self,
        backoffs: Backoff,
        max_duration: float | None,
        budget: float,
        started: float,
        work: list[float],
        wishes: list[float | None],
    ) -> None:
        call = run(started, attempts=None, backoff=backoffs, max_duration=max_duration)
        now, deadline = started, started + budget
        for step, spent in enumerate(work):
            now += spent
            delay = call.after_error(Wishing(wishes[step % len(wishes)]), now, deadline)
            if isinstance(delay, Stop):
                return
            now += delay
            assert now < deadline
            assert max_duration is None or now < started + max_duration

    @given(
        jitter=st.sampled_from(["full", "equal", "decorrelated", None]) | st.floats(0, 1),
        cap=st.floats(0.1, 1e308),
        share=st.floats(0, 1, exclude_max=True),
    )
    def test_two_thousand_attempts_never_overflow_nor_pass_the_cap(
        self, jitter: str | float | None, cap: float, share: float
    ) -> None:
        backoff = exponential(max=cap, jitter=jitter)  # type: ignore[arg-type]
        call = RetryRun(plan(attempts=2_001, backoff=backoff), 0.0, random=lambda: share)
        for _ in range(2_000):
            delay = call.after_error(OSError(), 0.0)
            assert isinstance(delay, float)
            assert 0.0 <= delay <= cap
        assert call.after_error(OSError(), 0.0) is Stop.EXHAUSTED


class TestBudget:
    def test_a_spent_budget_stops(self) -> None:
        budget = RetryBudget(0.0, min_per_second=0.2, window=10)
        call = run(attempts=9, budget=budget)
        assert [call.after_error(OSError(), 0.0) for _ in range(3)] == [1.0, 1.0, Stop.BUDGET]
        assert call.attempts == 3

    @pytest.mark.parametrize(
        "settings, error, deadline, stop",
        [
            (Settings(on=OSError), ValueError(), math.inf, Stop.NOT_RETRYABLE),
            (Settings(attempts=1), OSError(), math.inf, Stop.EXHAUSTED),
            (Settings(), Wishing(61), math.inf, Stop.RETRY_AFTER),
            (Settings(), OSError(), 1.0, Stop.DEADLINE),
            (Settings(max_duration=1.0), OSError(), math.inf, Stop.MAX_DURATION),
        ],
    )
    def test_a_stop_for_another_reason_costs_nothing(
        self, settings: Settings, error: Exception, deadline: float, stop: Stop
    ) -> None:
        budget = RetryBudget()
        full: Settings = {**settings, "budget": budget}
        assert run(**full).after_error(error, 0.0, deadline) is stop
        found = budget.snapshot(now=0.0)
        assert (found["retries"], found["denied"]) == (0, 0)

    @given(
        calls=st.integers(1, 60),
        outer=st.integers(1, 6),
        inner=st.integers(1, 6),
        ratio=st.floats(0, 0.5),
        floor=st.floats(0, 1),
    )
    def test_two_layers_that_share_one_do_not_multiply_beyond_it(
        self, calls: int, outer: int, inner: int, ratio: float, floor: float
    ) -> None:
        budget = RetryBudget(ratio, min_per_second=floor, window=10)
        reached = deposits = retries = 0

        def call_inner() -> None:
            nonlocal reached, deposits, retries
            budget.deposit(0.0)
            deposits += 1
            attempt = run(attempts=inner, backoff=constant(0), budget=budget)
            while True:
                reached += 1
                if isinstance(attempt.after_error(OSError(), 0.0), Stop):
                    return
                retries += 1

        for _ in range(calls):
            budget.deposit(0.0)
            deposits += 1
            attempt = run(attempts=outer, backoff=constant(0), budget=budget)
            while True:
                call_inner()
                if isinstance(attempt.after_error(OSError(), 0.0), Stop):
                    break
                retries += 1

        allowed = ratio * deposits + floor * 10 + 1e-6
        assert retries <= allowed
        assert reached == calls + retries
        # Each layer sees every call once and the outer retries once more.
        assert retries <= (2 * ratio * calls + floor * 10) / (1 - ratio) + 1e-6


class TestStop:
    @pytest.mark.parametrize(
        "stop, result",
        [
            (Stop.NOT_RETRYABLE, "not_retryable"),
            (Stop.EXHAUSTED, "exhausted"),
            (Stop.RETRY_AFTER, "exhausted"),
            (Stop.BUDGET, "budget"),
            (Stop.DEADLINE, "deadline"),
            (Stop.LATE, "deadline"),
            (Stop.MAX_DURATION, "deadline"),
        ],
    )
    def test_each_has_the_value_that_metrics_show(self, stop: Stop, result: str) -> None:
        assert stop.result == result

    def test_all_are_distinct(self) -> None:
        assert len(Stop) == len({stop.reason for stop in Stop}) == 7

    def test_the_note_tells_attempts_time_and_reason(self) -> None:
        call = run(100.0, attempts=3)
        for _ in range(3):
            call.after_error(OSError(), 100.0)
        assert (
            call.note(Stop.EXHAUSTED, 101.25, "payments")
            == "retry 'payments': gave up after 3 attempts in 1.25 s: attempts exhausted"
        )
        assert (
            run().note(Stop.NOT_RETRYABLE, 0.0)
            == "retry: gave up after 1 attempt in 0.00 s: the error is not one to retry"
        )
