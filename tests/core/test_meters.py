from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core import meters
from resilient.core.meters import (
    DURATION_BOUNDS,
    MAX_ERROR_TYPES,
    OTHER,
    CallMeter,
    CircuitBreakerMeter,
    Exemplar,
    Histogram,
    LockedNumber,
    RetryMeter,
    TimeoutMeter,
    error_type,
    number,
    outcome_of,
)
from resilient.errors import BulkheadFullError, CircuitOpenError, RejectedError, TimeoutExceededError


@contextmanager
def switching_at_every_chance() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def on_eight_threads(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(8)]
    with switching_at_every_chance():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class TestNumbers:
    @pytest.mark.parametrize("gil", [True, False])
    def test_threads_lose_no_count(self, gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(meters, "GIL", gil)
        meter = CircuitBreakerMeter()
        assert isinstance(meter.success, LockedNumber) is not gil

        def work() -> None:
            for _ in range(2_000):
                meter.success += 1
                meter.failure += 2

        on_eight_threads(work)
        assert meter.calls()["success"] == 16_000
        assert meter.calls()["failure"] == 32_000

    def test_a_locked_number_is_a_number_where_it_is_read(self) -> None:
        value = LockedNumber()
        same = value
        value += 2.5
        value -= 1
        assert same is value
        assert (int(value), float(value)) == (1, 1.5)
        assert (value + 1, 1 + value, value - 1) == (2.5, 2.5, 0.5)

    def test_with_the_interpreter_lock_it_is_an_int(self) -> None:
        assert number() == 0


class TestHistogram:
    def test_bounds_belong_to_the_bucket_below_them(self) -> None:
        histogram = Histogram((1.0, 2.0))
        for value in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 1e9):
            histogram.observe(value)
        assert histogram.counts == [3, 2, 2]
        assert histogram.count == 7
        assert histogram.sum == 1e9 + 7.5

    @pytest.mark.parametrize(
        "share, bound", [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.51, 3.0), (0.75, 3.0), (0.8, float("inf"))]
    )
    def test_a_quantile_is_the_bound_of_its_bucket(self, share: float, bound: float) -> None:
        histogram = Histogram((1.0, 2.0, 3.0))
        for value in (0.5, 0.6, 2.5, 99.0):
            histogram.observe(value)
        assert histogram.quantile(share) == bound

    def test_without_values_there_is_no_quantile(self) -> None:
        assert Histogram().quantile(0.5) is None

    @given(st.lists(st.floats(0, 20), max_size=50))
    def test_every_value_is_in_one_bucket(self, values: list[float]) -> None:
        histogram = Histogram()
        for value in values:
            histogram.observe(value)
        assert histogram.count == len(values)
        assert histogram.sum == pytest.approx(sum(values))
        for index, bound in enumerate(DURATION_BOUNDS):
            assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)

    @pytest.mark.parametrize("gil", [True, False])
    def test_threads_lose_no_value(self, gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(meters, "GIL", gil)
        histogram = Histogram()

        def work() -> None:
            for step in range(1_000):
                histogram.observe(step % 8)

        on_eight_threads(work)
        assert histogram.count == 8_000
        assert float(histogram.sum) == 8 * 1_000 * 3.5

    def test_each_bucket_keeps_its_newest_exemplar(self) -> None:
        histogram = Histogram((1.0, 2.0))
        assert histogram.exemplars == []
        first, second, third = (Exemplar(value, 1, 2, at) for at, value in enumerate((0.5, 1.0, 9.0)))
        histogram.exemplify(first)
        assert histogram.exemplars == [first, None, None]
        histogram.exemplify(second)
        histogram.exemplify(third)
        assert histogram.exemplars == [second, None, third]

    def test_the_bounds_are_settled_by_the_first_that_takes_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        durations = meters._Durations()
        monkeypatch.setattr(meters, "DURATIONS", durations)
        assert not durations.in_use
        assert Histogram((1.0,)).bounds == (1.0,)
        assert not durations.in_use
        assert Histogram().bounds == DURATION_BOUNDS
        assert durations.in_use


class TestOutcomes:
    @pytest.mark.parametrize(
        "error, outcome, kind",
        [
            (ValueError("x"), "failure", "ValueError"),
            (TimeoutError(), "failure", "TimeoutError"),
            (TimeoutExceededError(), "timeout", "resilient.errors.TimeoutExceededError"),
            (CircuitOpenError(), "rejected", "resilient.errors.CircuitOpenError"),
            (BulkheadFullError(), "rejected", "resilient.errors.BulkheadFullError"),
            (asyncio.CancelledError(), "cancelled", "asyncio.exceptions.CancelledError"),
            (KeyboardInterrupt(), "cancelled", "KeyboardInterrupt"),
            (json.JSONDecodeError("", "", 0), "failure", "json.decoder.JSONDecodeError"),
        ],
    )
    def test_an_error_has_an_outcome_and_a_type(self, error: BaseException, outcome: str, kind: str) -> None:
        assert outcome_of(error) == outcome
        assert error_type(error) == kind


class TestCallMeter:
    def test_calls_are_counted_by_outcome_and_error(self) -> None:
        meter = CallMeter()
        meter.started += 6
        meter.success.observe(0.1)
        for error in (ValueError(), ValueError(), CircuitOpenError(), KeyboardInterrupt()):
            meter.raised(error, 0.1)
        found = meter.snapshot()
        assert found["calls"] == {
            "success": 1,
            "failure": 2,
            "timeout": 0,
            "rejected": 1,
            "fallback": 0,
            "cancelled": 1,
        }
        assert found["errors"] == {"ValueError": 2, "resilient.errors.CircuitOpenError": 1}
        assert found["active"] == 1
        assert found["seconds"] == pytest.approx(0.5)
        json.dumps(found)

    def test_the_types_of_errors_are_bounded(self) -> None:
        meter = CallMeter()
        for index in range(MAX_ERROR_TYPES + 30):
            meter.raised(type(f"Error{index}", (Exception,), {})(), 0.1)
        errors = meter.snapshot()["errors"]
        assert isinstance(errors, dict)
        assert len(errors) == MAX_ERROR_TYPES + 1
        assert errors[OTHER] == 30
        assert sum(errors.values()) == MAX_ERROR_TYPES + 30

    def test_a_type_that_is_known_stays_known(self) -> None:
        meter = CallMeter()
        meter.raised(ValueError(), 0.1)
        for index in range(MAX_ERROR_TYPES + 30):
            meter.raised(type(f"Error{index}", (Exception,), {})(), 0.1)
        meter.raised(ValueError(), 0.1)
        errors = meter.snapshot()["errors"]
        assert isinstance(errors, dict)
        assert errors["ValueError"] == 2

    def test_neither_cancellations_nor_the_surplus_count_among_the_types(self) -> None:
        meter = CallMeter()
        meter.raised(KeyboardInterrupt(), 0.1)
        for index in range(MAX_ERROR_TYPES):
            meter.raised(type(f"Error{index}", (Exception,), {})(), 0.1)
        errors = meter.snapshot()["errors"]
        assert isinstance(errors, dict)
        assert OTHER not in errors
        meter.raised(ValueError(), 0.1)
        assert meter.snapshot()["errors"] == {**errors, OTHER: 1}

    def test_a_type_that_is_known_is_so_in_every_outcome(self) -> None:
        meter = CallMeter()
        kinds = [type("Same", (base,), {}) for base in (Exception, RejectedError)]
        meter.raised(kinds[0](), 0.1)
        for index in range(MAX_ERROR_TYPES):
            meter.raised(type(f"Error{index}", (Exception,), {})(), 0.1)
        meter.raised(kinds[1](), 0.1)
        assert ("rejected", error_type(kinds[1]())) in meter.durations()

    def test_classes_that_are_made_anew_for_each_error_are_not_kept(self) -> None:
        meter = CallMeter()
        for _ in range(50 * MAX_ERROR_TYPES):
            meter.raised(type("Same", (Exception,), {})(), 0.1)
        assert meter.snapshot()["errors"] == {"tests.core.test_meters.Same": 50 * MAX_ERROR_TYPES}
        assert len(meter._of_class) == 2 * MAX_ERROR_TYPES

    def test_nothing_is_under_way_before_the_first_call_and_after_the_last(self) -> None:
        meter = CallMeter()
        assert (meter.active, meter.snapshot()["active"]) == (0, 0)
        meter.started += 1
        assert (meter.active, meter.snapshot()["active"]) == (1, 1)
        meter.success.observe(0.1)
        assert (meter.active, meter.snapshot()["active"]) == (0, 0)
        # Seen by another thread between the two counters.
        meter.success.observe(0.1)
        assert (meter.active, meter.snapshot()["active"]) == (0, 0)

    @pytest.mark.parametrize("gil", [True, False])
    def test_all_is_at_zero_after_a_fork(self, gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(meters, "GIL", gil)
        meter = CallMeter()
        meter.started += 3
        buckets = meter.success.counts
        for histogram in (meter.success, meter.expect_fallback(), meter.raised(ValueError(), 0.1)):
            histogram.observe(0.1)
            histogram.exemplify(Exemplar(0.1, 1, 2, 3))
        meter.after_fork(0.0)
        assert int(meter.started) == 0
        assert meter.success.counts is buckets
        assert set(meter.durations()) == {("success", None), ("fallback", None), ("failure", "ValueError")}
        for histogram in meter.durations().values():
            assert (histogram.count, float(histogram.sum), histogram.exemplars) == (0, 0.0, [])

    def test_the_histogram_of_a_class_is_found_again_by_the_class(self) -> None:
        meter = CallMeter()
        histogram = meter.raised(ValueError(), 0.1)
        assert meter._of_class == {ValueError: histogram}
        assert meter.raised(ValueError(), 0.2) is histogram

    def test_threads_that_raise_lose_no_call(self) -> None:
        meter = CallMeter()

        def work() -> None:
            for step in range(500):
                meter.raised((ValueError, OSError, KeyError, CircuitOpenError)[step % 4](), 0.1)

        on_eight_threads(work)
        assert {key: histogram.count for key, histogram in meter.durations().items()} == {
            ("success", None): 0,
            ("failure", "ValueError"): 1_000,
            ("failure", "OSError"): 1_000,
            ("failure", "KeyError"): 1_000,
            ("rejected", "resilient.errors.CircuitOpenError"): 1_000,
        }


class TestPolicyMeters:
    def test_results_are_named_as_the_metrics_are(self) -> None:
        breaker = CircuitBreakerMeter()
        breaker.slow += 3
        assert breaker.calls() == {"success": 0, "failure": 0, "slow": 3, "ignored": 0, "rejected": 0}
        timeouts = TimeoutMeter()
        timeouts.timed_out += 1
        assert timeouts.calls() == {"completed": 0, "timed_out": 1}

    @pytest.mark.parametrize(
        "result, late, slot",
        [
            ("not_retryable", False, "not_retryable"),
            ("budget", False, "budget"),
            ("deadline", False, "deadline"),
            ("deadline", True, "late"),
            ("exhausted", False, "exhausted"),
        ],
    )
    def test_a_retry_that_gives_up_counts_once_in_its_slot(self, result: str, late: bool, slot: str) -> None:
        meter = RetryMeter()
        meter.gave_up(result, late=late)
        assert {name: getattr(meter, name) for name in meter.__slots__ if getattr(meter, name)} == {slot: 1}
        assert {name: count for name, count in meter.calls().items() if count} == {result: 1}

    def test_a_call_that_succeeds_counts_by_its_attempts(self) -> None:
        meter = RetryMeter()
        for attempts in (1, 1, 2, 3):
            meter.succeeded(attempts)
        assert (meter.first_try, meter.recovered) == (2, 2)

    def test_attempts_follow_from_calls(self) -> None:
        meter = RetryMeter()
        meter.first_try += 5
        meter.recovered += 2
        meter.not_retryable += 1
        meter.exhausted += 1
        meter.budget += 1
        meter.deadline += 1
        meter.retries += 6
        assert meter.calls() == {
            "first_try": 5,
            "recovered": 2,
            "not_retryable": 1,
            "exhausted": 1,
            "budget": 1,
            "deadline": 1,
        }
        assert meter.attempts() == {"success": 7, "retryable_failure": 9, "failure": 1}
        assert sum(meter.attempts().values()) == sum(meter.calls().values()) + int(meter.retries)
