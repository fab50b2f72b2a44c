"""Every error says what happened, survives a trip to another process, and is what people already catch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    ConfigurationError,
    RateLimitedError,
    Registry,
    RejectedError,
    ResilienceError,
    RetryExhaustedError,
    ThrottledError,
    TimeoutExceededError,
    circuit_breaker,
    retry,
    timeout,
)
from resilient.testing import FakeClock

FAMILY: dict[type[BaseException], tuple[type[BaseException], ...]] = {
    ResilienceError: (Exception,),
    ConfigurationError: (ResilienceError, ValueError),
    RejectedError: (ResilienceError,),
    CircuitOpenError: (RejectedError,),
    BulkheadFullError: (RejectedError,),
    RateLimitedError: (RejectedError,),
    ThrottledError: (RejectedError,),
    TimeoutExceededError: (ResilienceError, TimeoutError),
    RetryExhaustedError: (ResilienceError,),
}

FILLED: list[ResilienceError] = [
    ResilienceError("message", policy="p"),
    ConfigurationError("message", policy="p", setting="attempts", value=-1, allowed="at least 1"),
    RejectedError("message", policy="p", retry_after=1.5),
    CircuitOpenError("message", policy="p", retry_after=1.5, last_error="ConnectionError"),
    BulkheadFullError("message", policy="p", retry_after=None),
    RateLimitedError("message", policy="p", retry_after=0.2),
    ThrottledError("message", policy="p"),
    TimeoutExceededError("message", policy="p", seconds=2.0),
    RetryExhaustedError("message", policy="p", result={"state": "pending"}, attempts=3),
]

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


class OwnRejection(CircuitOpenError):
    """A user's subclass with a constructor of its own."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is down", policy=host, retry_after=3.0)
        self.host = host


@pytest.mark.parametrize("cls", FAMILY, ids=lambda cls: cls.__name__)
def test_the_family_is_as_documented(cls: type[BaseException]) -> None:
    assert cls.__bases__ == FAMILY[cls]


def test_rejections_and_timeouts_are_not_confused() -> None:
    assert not issubclass(TimeoutExceededError, (RejectedError, ValueError))
    assert not issubclass(RejectedError, (TimeoutError, OSError, ValueError))


def test_no_error_takes_part_in_cancellation() -> None:
    assert all(issubclass(cls, Exception) for cls in FAMILY)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("error", FILLED, ids=lambda error: type(error).__name__)
def test_errors_are_copied_and_pickled_with_all_they_carry(error: ResilienceError, how: str) -> None:
    error.__dict__.pop("__notes__", None)
    error.add_note("a note")
    twin = COPIES[how](error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error) == "message"
    assert twin.args == error.args
    assert vars(twin) == vars(error)
    assert twin.__notes__ == ["a note"]


def test_a_subclass_with_a_constructor_of_its_own_pickles() -> None:
    twin = pickle.loads(pickle.dumps(OwnRejection("db")))
    assert type(twin) is OwnRejection
    assert (twin.host, twin.policy, twin.retry_after, str(twin)) == ("db", "db", 3.0, "db is down")


def test_a_timeout_is_caught_as_the_builtin_one(fake_clock: FakeClock) -> None:
    with pytest.raises(TimeoutError) as caught:
        timeout(2.0, registry=Registry()).call(fake_clock.advance, 3.0)
    assert isinstance(caught.value, TimeoutExceededError)
    assert caught.value.seconds == 2.0
    assert caught.value.errno is None
    assert str(caught.value).startswith("timeout")


def test_a_wrong_setting_is_caught_as_a_value_error() -> None:
    with pytest.raises(ValueError, match="attempts"):
        retry(attempts=0)


def test_what_policies_raise_survives_the_trip_to_another_process(fake_clock: FakeClock) -> None:
    private = Registry()
    breaker = circuit_breaker("payments", consecutive_failures=1, registry=private)
    polling = retry(name="polling", on_result=lambda result: True, attempts=2, on_exhausted="raise", registry=private)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)

    def raised(call: Callable[[], object]) -> Any:
        with pytest.raises(ResilienceError) as caught:
            call()
        return pickle.loads(pickle.dumps(caught.value))

    rejected = raised(lambda: breaker.call(len, "four"))
    assert (rejected.policy, rejected.retry_after, rejected.last_error) == ("payments", 30.0, "ZeroDivisionError")
    exhausted = raised(lambda: polling.call(len, "four"))
    assert (exhausted.policy, exhausted.result, exhausted.attempts) == ("polling", 4, 2)
    late = raised(lambda: timeout(2.0, name="slow", registry=private).call(fake_clock.advance, 3.0))
    assert (late.policy, late.seconds) == ("slow", 2.0)


def test_a_rejection_is_raised_afresh_each_time(fake_clock: FakeClock) -> None:
    breaker = circuit_breaker("payments", registry=Registry())
    breaker.force_open()
    seen: list[BaseException] = []
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(len, "four")
        seen.append(caught.value)
    assert seen[0] is not seen[1]


def test_messages_name_the_policy_and_say_what_to_do(fake_clock: FakeClock) -> None:
    private = Registry()
    breaker = circuit_breaker("payments", consecutive_failures=1, registry=private)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    with pytest.raises(CircuitOpenError, match=r"'payments' is open.*ZeroDivisionError.*Try again in 30 s"):
        breaker.call(len, "four")
    breaker.force_open()
    with pytest.raises(CircuitOpenError, match=r"forced open.*until reset\(\) is called"):
        breaker.call(len, "four")
    with pytest.raises(TimeoutExceededError, match="'slow': not finished within 2 s"):
        timeout(2.0, name="slow", registry=private).call(fake_clock.advance, 3.0)
