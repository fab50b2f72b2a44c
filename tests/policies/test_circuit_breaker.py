from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConfigurationError,
    RateLimitedError,
    Registry,
    RejectedError,
    circuit_breaker,
)
from resilient.testing import FakeClock
from tests.policies.breaker_kit import TEN_KEYS, breaker, call_and_fail, fail, rejection, shown, succeed, totals


class TestSettings:
    @pytest.mark.parametrize(
        "settings, setting",
        [
            ({"consecutive_failures": 0}, "consecutive_failures"),
            ({"consecutive_failures": 2.0}, "consecutive_failures"),
            ({"failure_rate": 0}, "failure_rate"),
            ({"failure_rate": 1.1}, "failure_rate"),
            ({"failure_rate": True}, "failure_rate"),
            ({"slow_call_rate": 0.0, "slow_call_duration": 1}, "slow_call_rate"),
            ({"slow_call_duration": 0}, "slow_call_duration"),
            ({"slow_call_rate": 0.5}, "slow_call_rate and slow_call_duration"),
            ({"window_calls": 0}, "window_calls"),
            ({"window_duration": float("nan")}, "window_duration"),
            ({"window_calls": 10, "window_duration": 10}, "window_calls and window_duration"),
            ({"minimum_calls": 0}, "minimum_calls"),
            ({"minimum_calls": 21, "window_calls": 20}, "minimum_calls"),
            ({"minimum_calls": 101}, "minimum_calls"),
            ({"open_duration": 0}, "open_duration"),
            ({"open_duration": "30"}, "open_duration"),
            ({"half_open_calls": 0}, "half_open_calls"),
            ({"success_threshold": 0}, "success_threshold"),
            ({"half_open_failure_rate": 2}, "half_open_failure_rate"),
            ({"half_open_failure_rate": 0.5, "success_threshold": 2}, "success_threshold and half_open_failure_rate"),
            ({"half_open_timeout": -1}, "half_open_timeout"),
            ({"on": ()}, "on"),
            ({"on": "ValueError"}, "on"),
            ({"on": KeyboardInterrupt}, "on"),
            ({"ignore": [ValueError]}, "ignore"),
            ({"on_result": 3}, "on_result"),
        ],
    )
    def test_a_wrong_setting_is_refused_when_the_breaker_is_made(self, settings: dict[str, Any], setting: str) -> None:
        with pytest.raises(ConfigurationError, match="circuit_breaker 'payments'") as caught:
            breaker(**settings)
        assert (caught.value.policy, caught.value.setting) == ("payments", setting)
        assert caught.value.allowed
        assert setting.split(" and ", maxsplit=1)[0] in str(caught.value)

    @pytest.mark.parametrize("name", ["", " ", 3])
    def test_a_wrong_name_is_refused(self, name: Any) -> None:
        with pytest.raises(ConfigurationError, match="name="):
            breaker(name)

    def test_all_settings_but_the_name_go_by_keyword(self) -> None:
        with pytest.raises(TypeError):
            circuit_breaker("payments", 5)  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        "settings, expected",
        [
            (
                {},
                {
                    "consecutive_failures": 5,
                    "open_duration": 30.0,
                    "half_open_calls": 1,
                    "success_threshold": 1,
                    "minimum_calls": 10,
                    "on": Exception,
                    "ignore": (),
                },
            ),
            ({"failure_rate": 0.5}, {"consecutive_failures": None, "minimum_calls": 10}),
            ({"failure_rate": 0.5, "window_calls": 4}, {"minimum_calls": 4}),
            ({"failure_rate": 0.5, "window_duration": 4}, {"minimum_calls": 10, "window_duration": 4.0}),
            ({"slow_call_rate": 1, "slow_call_duration": timedelta(seconds=2)}, {"slow_call_duration": 2.0}),
            ({"half_open_calls": 3}, {"success_threshold": 3, "half_open_timeout": None}),
            ({"half_open_calls": 3, "success_threshold": 2}, {"success_threshold": 2}),
        ],
    )
    def test_defaults_follow_from_what_is_given(self, settings: dict[str, Any], expected: dict[str, object]) -> None:
        found = breaker(**settings).settings
        assert {key: found[key] for key in expected} == expected

    def test_a_name_is_one_breaker_and_other_settings_are_refused(self) -> None:
        registry = Registry()
        first = circuit_breaker("payments", failure_rate=0.5, registry=registry)
        assert circuit_breaker("payments", failure_rate=0.5, registry=registry) is first
        assert registry.find(CircuitBreaker, "payments") is first
        with pytest.raises(ConfigurationError, match=r"failure_rate=0\.6, registered with failure_rate=0\.5"):
            circuit_breaker("payments", failure_rate=0.6, registry=registry)

    def test_the_newer_callable_of_an_equal_breaker_is_used(self) -> None:
        registry = Registry()

        def made(seconds: float) -> Callable[[int], float]:
            return lambda turn: seconds

        first = circuit_breaker("payments", open_duration=made(10.0), registry=registry)
        circuit_breaker("payments", open_duration=made(20.0), registry=registry)
        first.trip()
        assert rejection(first).retry_after == pytest.approx(20.0, abs=1.0)


class TestErrors:
    def test_a_rejection_tells_who_why_and_how_long(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=2)
        call_and_fail(policy, 2)
        fake_clock.advance(10)
        error = rejection(policy)
        assert isinstance(error, RejectedError)
        assert (error.policy, error.retry_after, error.last_error) == ("payments", 20.0, "ConnectionError")
        assert (
            str(error) == "circuit_breaker 'payments' is open; the last failure was ConnectionError. Try again in 20 s"
        )

    def test_forced_open_there_is_nothing_to_wait_for(self) -> None:
        policy = breaker()
        policy.force_open()
        error = rejection(policy)
        assert (error.retry_after, error.last_error) == (None, None)
        assert str(error) == "circuit_breaker 'payments' is forced open. It stays so until reset() is called"

    def test_half_open_it_says_that_the_probes_are_under_way(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        policy.trip(5)
        fake_clock.advance(5)
        error = policy.call(rejection, policy)
        assert error.retry_after == 0.0
        assert str(error) == (
            "circuit_breaker 'payments' is half-open and all its probes are under way. Try again when one is back"
        )

    def test_every_rejection_is_an_error_of_its_own_and_pickles(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        policy.trip()
        first, second = rejection(policy), rejection(policy)
        assert first is not second
        assert second.__context__ is None
        copy = pickle.loads(pickle.dumps(first))
        assert (str(copy), copy.policy, copy.retry_after) == (str(first), "payments", 30.0)

    def test_an_unnamed_breaker_is_called_after_its_kind(self) -> None:
        policy = breaker(None)
        policy.trip()
        error = rejection(policy)
        assert error.policy == "circuit_breaker"
        assert str(error).startswith("circuit_breaker is open. Try again in 30 s")

    def test_the_error_of_the_body_is_the_same_object(self) -> None:
        policy = breaker()
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught:
            policy.call(fail, error)
        assert caught.value is error
        assert error.__cause__ is None
        assert not hasattr(error, "__notes__")


class TestVerdicts:
    def test_what_on_does_not_select_is_a_success(self) -> None:
        policy = breaker(on=ConnectionError, consecutive_failures=2)
        call_and_fail(policy)
        call_and_fail(policy, error=ValueError())
        call_and_fail(policy)
        assert policy.state is CircuitState.CLOSED
        assert totals(policy) == {"success": 1, "failure": 2}

    def test_what_ignore_selects_is_not_counted(self) -> None:
        policy = breaker(ignore=(ValueError, KeyError), consecutive_failures=2)
        call_and_fail(policy)
        call_and_fail(policy, error=ValueError())
        assert shown(policy, "calls", "failures") == (1, 1)
        call_and_fail(policy)
        assert policy.state is CircuitState.OPEN
        assert totals(policy) == {"failure": 2, "ignored": 1}

    def test_ignore_goes_before_on(self) -> None:
        policy = breaker(on=OSError, ignore=lambda error: error.args == (404,), consecutive_failures=1)
        call_and_fail(policy, error=OSError(404))
        assert policy.state is CircuitState.CLOSED
        call_and_fail(policy, error=OSError(500))
        assert policy.state is CircuitState.OPEN

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), BaseExceptionGroup("", [KeyboardInterrupt()])]
    )
    @pytest.mark.parametrize("on", [Exception, BaseException, lambda error: True])
    def test_what_is_no_exception_is_neutral(self, error: BaseException, on: Any) -> None:
        policy = breaker(on=on, consecutive_failures=1)
        call_and_fail(policy, error=error)
        assert shown(policy, "state", "calls", "last_error") == ("closed", 0, None)
        assert totals(policy) == {"ignored": 1}

    @pytest.mark.parametrize("error", [CircuitOpenError(), BulkheadFullError(), RateLimitedError()])
    def test_rejections_from_within_are_neutral(self, error: RejectedError) -> None:
        for on in (Exception, lambda error: True, (ValueError, OSError)):
            policy = breaker(on=on, consecutive_failures=1)
            with pytest.raises(RejectedError):
                policy.call(fail, error)
            assert totals(policy) == {"ignored": 1}

    @pytest.mark.parametrize("on", [RejectedError, BulkheadFullError, (ValueError, BulkheadFullError)])
    def test_rejections_from_within_count_where_on_names_them(self, on: Any) -> None:
        policy = breaker(on=on, consecutive_failures=1)
        with pytest.raises(BulkheadFullError):
            policy.call(fail, BulkheadFullError())
        assert policy.state is CircuitState.OPEN

    def test_a_result_may_be_a_failure(self) -> None:
        policy = breaker(on_result=lambda result: result == 503, consecutive_failures=2)
        assert [policy.call(succeed, status) for status in (503, 200, 503, 503)] == [503, 200, 503, 503]
        assert policy.state is CircuitState.OPEN
        assert totals(policy) == {"success": 1, "failure": 3}

    @pytest.mark.parametrize("setting", ["on", "ignore"])
    def test_what_a_predicate_raises_is_raised_and_the_call_is_not_counted(self, setting: str) -> None:
        def broken(error: BaseException) -> bool:
            raise LookupError("broken")

        policy = breaker(consecutive_failures=1, **{setting: broken})
        error = ConnectionError("refused")
        with pytest.raises(LookupError, match="broken") as caught:
            policy.call(fail, error)
        assert caught.value.__context__ is error
        assert totals(policy) == {"ignored": 1}

    def test_what_on_result_raises_is_raised_and_the_permit_is_given_back(self, fake_clock: FakeClock) -> None:
        policy = breaker(on_result=lambda result: result.missing)
        policy.trip(5)
        fake_clock.advance(5)
        for _ in range(2):
            with pytest.raises(AttributeError):
                policy.call(succeed)
        assert totals(policy) == {"ignored": 2}

    def test_a_permit_is_given_back_whatever_is_neutral(self, fake_clock: FakeClock) -> None:
        policy = breaker(ignore=ValueError)
        policy.trip(5)
        fake_clock.advance(5)
        for error in (ValueError(), KeyboardInterrupt(), BulkheadFullError(), GeneratorExit()):
            with pytest.raises(type(error)):
                policy.call(fail, error)
        assert policy.state is CircuitState.HALF_OPEN
        policy.call(succeed)
        assert policy.state is CircuitState.CLOSED


class TestSnapshot:
    def test_it_has_the_documented_shape(self, fake_clock: FakeClock) -> None:
        policy = breaker(failure_rate=0.6, window_calls=20)
        for turn in range(20):
            if turn < 8:
                policy.call(succeed)
            else:
                call_and_fail(policy)
        for _ in range(3):
            rejection(policy)
        fake_clock.advance(3.25)
        snapshot = policy.snapshot()
        assert list(snapshot)[:10] == TEN_KEYS
        assert {key: snapshot[key] for key in TEN_KEYS} == {
            "state": "open",
            "since_seconds": 3.25,
            "retry_after": 26.75,
            "failure_rate": 0.6,
            "slow_call_rate": 0.0,
            "calls": 20,
            "failures": 12,
            "slow_calls": 0,
            "rejected": 3,
            "last_error": "ConnectionError",
        }
        assert policy._registry.snapshot()["circuit_breaker"]["payments"] == snapshot
        assert json.loads(json.dumps(snapshot)) == snapshot

    def test_beyond_the_documented_it_has_the_totals_for_exporters(self, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=1)
        fake_clock.advance(2)
        call_and_fail(policy)
        fake_clock.advance(30)
        policy.call(succeed)
        snapshot = policy.snapshot()
        assert set(snapshot) - set(TEN_KEYS) == {"totals", "transitions", "time_in_state"}
        assert snapshot["totals"] == {"success": 1, "failure": 1, "slow": 0, "ignored": 0, "rejected": 0}
        assert snapshot["transitions"] == {"closed->open": 1, "open->half_open": 1, "half_open->closed": 1}
        assert snapshot["time_in_state"] == {
            "closed": 2.0,
            "open": 30.0,
            "half_open": 0.0,
            "forced_open": 0.0,
            "disabled": 0.0,
        }

    def test_rates_are_null_below_the_minimum(self) -> None:
        policy = breaker(failure_rate=0.5, minimum_calls=3)
        call_and_fail(policy, 2)
        assert shown(policy, "failure_rate", "slow_call_rate", "calls") == (None, None, 2)
        policy.call(succeed)
        assert shown(policy, "failure_rate", "slow_call_rate") == (pytest.approx(2 / 3), 0.0)

    def test_looking_takes_no_lock_and_changes_nothing(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        policy.trip(5)
        fake_clock.advance(50)
        with policy._circuit.lock:
            assert shown(policy, "state", "retry_after") == ("open", 0.0)
            assert policy.state is CircuitState.OPEN

    def test_a_breaker_at_rest_takes_less_than_two_thousand_bytes(self) -> None:
        registry = Registry()
        names = [f"payments-{turn}" for turn in range(500)]
        circuit_breaker("first", registry=registry)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for name in names:
                circuit_breaker(name, registry=registry)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (after - before) / len(names) < 2_000
