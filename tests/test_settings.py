"""A wrong setting is refused when the policy is made, in words that tell what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from resilient import (
    CircuitBreaker,
    ConfigurationError,
    Registry,
    Retry,
    RetryBudget,
    circuit_breaker,
    pipeline,
    retry,
    standard_pipeline,
    subscribe,
    timeout,
)
from resilient import deadline as deadline_headers
from resilient.backoff import constant, exponential, linear
from resilient.testing import cap, fake_clock

NAN, INF, HUGE = math.nan, math.inf, 10**400


class Wrong(NamedTuple):
    """One refused value."""

    make: Callable[[], object]
    policy: str
    setting: str
    value: object


def one(factory: Callable[..., object], setting: str, value: object, policy: str | None = None) -> Wrong:
    name = policy or getattr(factory, "__name__", "")
    return Wrong(lambda: factory(**{setting: value}), name, setting, value)


def first(factory: Callable[..., object], setting: str, value: object, policy: str | None = None) -> Wrong:
    return Wrong(lambda: factory(value), policy or getattr(factory, "__name__", ""), setting, value)


async def ask_async(anything: object) -> bool:
    """Its coroutine would be taken for True."""
    return False


NO_NAMES = ["", "  ", 3, b"bytes", True]
NO_WHOLE = [0, -1, 1.5, 2.0, True, False, "3", NAN]
NO_SECONDS = [-1, -0.001, NAN, INF, -INF, HUGE, True, "3", timedelta(seconds=-1), [1]]
NO_POSITIVE = [0, 0.0, timedelta(0), *NO_SECONDS]
NO_RATE = [0, -0.5, 1.01, NAN, INF, True, "0.5", HUGE]
NO_SELECTION = [ask_async, (), 3, "ValueError", None, (ValueError, 3), [ValueError], ValueError(), int]
NEUTRAL = [KeyboardInterrupt, SystemExit, GeneratorExit]


def named_retry(**settings: Any) -> Retry:
    return retry(name="fetch", registry=Registry(), **settings)


def named_breaker(**settings: Any) -> CircuitBreaker:
    return circuit_breaker("payments", registry=Registry(), **settings)


TABLE = [
    # of retry policies
    *(one(retry, "name", value) for value in NO_NAMES),
    *(one(named_retry, "attempts", value, "fetch") for value in NO_WHOLE),
    *(one(named_retry, "max_duration", value, "fetch") for value in NO_POSITIVE),
    *(one(named_retry, "attempt_timeout", value, "fetch") for value in (0, -1, NAN, INF, True, "3")),
    *(one(named_retry, "retry_after_max", value, "fetch") for value in (-1, NAN, INF, True, "3", None)),
    *(one(named_retry, "on", value, "fetch") for value in [*NO_SELECTION, *NEUTRAL]),
    *(one(named_retry, "on_result", value, "fetch") for value in (3, "x", False, ask_async)),
    *(one(named_retry, "retry_after", value, "fetch") for value in (3, "x", True, ask_async)),
    *(one(named_retry, "budget", value, "fetch") for value in (0.2, True, RetryBudget)),
    *(one(named_retry, "on_exhausted", value, "fetch") for value in ("fail", None, True, "")),
    *(
        one(retry, "backoff", value)
        for value in (-1, NAN, INF, True, "fast", None, (), (1, -1), (NAN,), ("1",), ask_async)
    ),
    *(one(retry, "registry", value) for value in (None, "default", Registry)),
    *(first(retry, "first argument", value, "retry") for value in (3, "fetch", ValueError, [1])),
    # and of circuit breakers
    *(first(circuit_breaker, "name", value) for value in NO_NAMES),
    *(one(named_breaker, "consecutive_failures", value, "payments") for value in NO_WHOLE),
    *(one(named_breaker, "failure_rate", value, "payments") for value in NO_RATE),
    *(one(named_breaker, "half_open_failure_rate", value, "payments") for value in NO_RATE),
    *(one(named_breaker, "slow_call_duration", value, "payments") for value in NO_POSITIVE),
    *(one(named_breaker, "window_calls", value, "payments") for value in NO_WHOLE),
    *(one(named_breaker, "window_duration", value, "payments") for value in NO_POSITIVE),
    *(one(named_breaker, "minimum_calls", value, "payments") for value in NO_WHOLE),
    *(one(named_breaker, "open_duration", value, "payments") for value in [*NO_POSITIVE, None, ask_async]),
    *(one(named_breaker, "half_open_calls", value, "payments") for value in [*NO_WHOLE, None]),
    *(one(named_breaker, "success_threshold", value, "payments") for value in NO_WHOLE),
    *(one(named_breaker, "half_open_timeout", value, "payments") for value in NO_POSITIVE),
    *(one(named_breaker, "on", value, "payments") for value in [*NO_SELECTION, *NEUTRAL]),
    *(one(named_breaker, "ignore", value, "payments") for value in [3, "x", None, (3,), [ValueError], *NEUTRAL]),
    *(one(named_breaker, "on_result", value, "payments") for value in (3, "x", False, ask_async)),
    *(one(circuit_breaker, "registry", value) for value in (None, "default", Registry)),
    Wrong(lambda: named_breaker(slow_call_rate=1.5, slow_call_duration=1.0), "payments", "slow_call_rate", 1.5),
    Wrong(lambda: named_breaker(minimum_calls=101), "payments", "minimum_calls", 101),
    Wrong(lambda: named_breaker(minimum_calls=6, window_calls=5), "payments", "minimum_calls", 6),
    # of timeouts
    *(first(timeout, "seconds", value) for value in [*NO_POSITIVE, None, len]),
    *(one(lambda **given: timeout(1.0, **given), "name", value, "timeout") for value in NO_NAMES),
    *(one(lambda **given: timeout(1.0, **given), "interrupt", value, "timeout") for value in ("kill", None, True, 1)),
    *(one(lambda **given: timeout(1.0, **given), "registry", value, "timeout") for value in (None, "default")),
    # of pipelines
    *(first(pipeline, "policies", value) for value in (None, 3, retry, [retry()], Retry)),
    Wrong(lambda: pipeline(), "pipeline", "policies", ()),
    Wrong(lambda: pipeline("payments"), "payments", "policies", ()),
    Wrong(lambda: pipeline(""), "pipeline", "name", ""),
    Wrong(lambda: pipeline(retry(), registry=3), "pipeline", "registry", 3),  # type: ignore[arg-type]
    *(first(standard_pipeline, "name", value) for value in [*NO_NAMES, None]),
    *(
        one(lambda **given: standard_pipeline("payments", registry=Registry(), **given), setting, value, "payments")
        for setting in ("total_timeout", "attempt_timeout")
        for value in (0, -1, NAN, INF, True, "3")
    ),
    *(
        one(lambda **given: standard_pipeline("payments", registry=Registry(), **given), setting, value, "payments")
        for setting in ("retry", "circuit_breaker")
        for value in (3, retry, timeout(1.0), circuit_breaker)
    ),
    Wrong(
        lambda: standard_pipeline("payments", total_timeout=1.0, attempt_timeout=2.0, registry=Registry()),
        "payments",
        "attempt_timeout",
        2.0,
    ),
    # of backoffs
    *(first(constant, "d", value) for value in NO_SECONDS),
    *(first(linear, "d", value) for value in NO_POSITIVE),
    *(one(lambda **given: linear(1.0, **given), "max", value, "linear") for value in NO_POSITIVE),
    Wrong(lambda: linear(2.0, max=1.0), "linear", "d", 2.0),
    *(first(exponential, "initial", value) for value in NO_POSITIVE),
    *(one(exponential, "factor", value) for value in (0, 0.5, -1, NAN, INF, True, "2", None, HUGE)),
    *(one(exponential, "max", value) for value in NO_POSITIVE),
    *(one(exponential, "jitter", value) for value in ("none", "FULL", -0.1, 1.1, NAN, True, [], HUGE)),
    Wrong(lambda: exponential(2.0, max=1.0), "exponential", "initial", 2.0),
    # of budgets
    *(first(RetryBudget, "ratio", value) for value in (-0.1, NAN, INF, True, "0.2", None, HUGE)),
    *(one(RetryBudget, "min_per_second", value) for value in (-0.1, NAN, INF, True, "3", None)),
    *(one(RetryBudget, "window", value) for value in NO_POSITIVE),
    # of subscriptions
    *(first(subscribe, "listener", value) for value in (None, 3, "print")),
    *(one(lambda **given: subscribe(print, **given), "policy", value, "subscribe") for value in (3, retry, Retry, ())),
    *(
        one(lambda **given: subscribe(print, **given), "kinds", value, "subscribe")
        for value in ("opened", 3, (), ("timed_out", "opened"), [[]], "")
    ),
    # of the testing kit and of headers
    *(one(cap, "attempts", value) for value in NO_WHOLE),
    *(first(fake_clock().advance, "advance", value, "fake_clock") for value in NO_SECONDS),
    *(
        one(lambda **given: deadline_headers.from_headers({}, **given), "maximum", value, "from_headers")
        for value in NO_POSITIVE
    ),
]


@pytest.mark.parametrize("make", [named_retry, named_breaker])
def test_of_a_tuple_the_class_at_fault_is_named(make: Callable[..., object]) -> None:
    with pytest.raises(ConfigurationError, match=r"KeyboardInterrupt.*subclass of Exception") as caught:
        make(on=(ValueError, KeyboardInterrupt))
    assert caught.value.value is KeyboardInterrupt


def test_the_table_is_long() -> None:
    assert len(TABLE) > 300


@pytest.mark.parametrize(
    "wrong",
    TABLE,
    ids=lambda wrong: f"{wrong.policy}-{wrong.setting}-{getattr(wrong.value, '__name__', str(wrong.value)[:30])}",
)
def test_a_wrong_setting_is_refused_when_the_policy_is_made(wrong: Wrong) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong.make()
    error = caught.value
    assert error.policy == wrong.policy
    assert error.setting == wrong.setting
    assert error.value is wrong.value or error.value == wrong.value
    assert error.allowed
    message = str(error)
    assert wrong.policy in message
    assert wrong.setting in message
    assert repr(wrong.value)[:200] in message
    assert error.allowed in message
    assert "\n" not in message


CONTRADICTIONS: list[tuple[Callable[[], object], str, tuple[str, ...]]] = [
    (lambda: named_retry(attempts=None), "fetch", ("attempts", "max_duration")),
    (lambda: named_breaker(window_calls=5, window_duration=5.0), "payments", ("window_calls", "window_duration")),
    (lambda: named_breaker(slow_call_rate=0.5), "payments", ("slow_call_rate", "slow_call_duration")),
    (
        lambda: named_breaker(success_threshold=2, half_open_failure_rate=0.5),
        "payments",
        ("success_threshold", "half_open_failure_rate"),
    ),
    (
        lambda: standard_pipeline(
            "payments",
            attempt_timeout=10.0,
            circuit_breaker=circuit_breaker(failure_rate=0.5, window_duration=19.0),
            registry=Registry(),
        ),
        "payments",
        ("window_duration", "attempt_timeout"),
    ),
]


@pytest.mark.parametrize("make, policy, settings", CONTRADICTIONS, ids=["-".join(case[2]) for case in CONTRADICTIONS])
def test_settings_that_contradict_each_other_are_refused_together(
    make: Callable[[], object], policy: str, settings: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="contradict each other") as caught:
        make()
    error = caught.value
    assert error.policy == policy
    assert error.allowed
    assert error.allowed in str(error)
    assert error.value is not None
    for setting in settings:
        assert setting in str(error)
        assert setting in str(error.setting)


DEFINED_TWICE: list[tuple[Callable[[Registry], object], Callable[[Registry], object], str, str]] = [
    (
        lambda private: retry(name="twice", attempts=3, registry=private),
        lambda private: retry(name="twice", attempts=4, registry=private),
        "attempts=4",
        "attempts=3",
    ),
    (
        lambda private: circuit_breaker("twice", open_duration=1, registry=private),
        lambda private: circuit_breaker("twice", open_duration=timedelta(seconds=2), registry=private),
        "open_duration=2.0",
        "open_duration=1.0",
    ),
    (
        lambda private: timeout(1, name="twice", registry=private),
        lambda private: timeout(2, name="twice", registry=private),
        "seconds=2.0",
        "seconds=1.0",
    ),
    (
        lambda private: standard_pipeline("twice", attempt_timeout=1, registry=private),
        lambda private: standard_pipeline("twice", attempt_timeout=2, registry=private),
        "seconds=2.0",
        "seconds=1.0",
    ),
]


@pytest.mark.parametrize("make, again, newer, older", DEFINED_TWICE, ids=["retry", "breaker", "timeout", "standard"])
def test_two_definitions_of_one_name_are_shown_side_by_side(
    make: Callable[[Registry], object], again: Callable[[Registry], object], newer: str, older: str
) -> None:
    private = Registry()
    made = make(private)
    with pytest.raises(ConfigurationError, match="already registered with other settings") as caught:
        again(private)
    error = caught.value
    assert newer in str(error)
    assert older in str(error)
    assert "twice" in str(error.policy)
    assert error.setting
    assert error.allowed
    assert error.value is not None
    del made


@pytest.mark.parametrize(
    "factory", [retry, circuit_breaker, standard_pipeline, pipeline, RetryBudget, exponential, cap]
)
def test_an_unknown_setting_is_a_type_error(factory: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        factory(attemps=3)


def test_a_refused_policy_leaves_no_name_behind() -> None:
    private = Registry()
    for make in (
        lambda: retry(name="x", attempts=0, registry=private),
        lambda: circuit_breaker("x", failure_rate=2, registry=private),
        lambda: timeout(0, name="x", registry=private),
        lambda: pipeline("x", registry=private),
    ):
        with pytest.raises(ConfigurationError):
            make()
    assert len(private) == 0
    assert private.snapshot() == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: retry(attempts=1),
        lambda: retry(attempts=None, max_duration=1),
        lambda: retry(on=(ValueError, KeyError), backoff=0),
        lambda: retry(on=BaseException),
        lambda: retry(backoff=[0, 1, 2.5], retry_after=None, retry_after_max=0),
        lambda: retry(backoff=lambda attempt: attempt, attempt_timeout=timedelta(seconds=1)),
        lambda: retry(budget=RetryBudget(0, min_per_second=0)),
        lambda: circuit_breaker(ignore=(), failure_rate=1, window_calls=1),
        lambda: circuit_breaker(slow_call_rate=1.0, slow_call_duration=timedelta(milliseconds=5)),
        lambda: circuit_breaker(window_duration=timedelta(minutes=1), minimum_calls=1000),
        lambda: circuit_breaker(open_duration=lambda turn: turn * 10.0),
        lambda: timeout(timedelta(milliseconds=1)),
        lambda: exponential(1, factor=1, max=1, jitter=0),
        lambda: exponential(jitter=1),
        lambda: constant(0),
    ],
)
def test_what_is_at_the_edge_of_what_is_allowed_is_allowed(make: Callable[[], object]) -> None:
    assert make() is not None
