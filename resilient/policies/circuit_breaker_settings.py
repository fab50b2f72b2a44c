"""The settings of a circuit breaker, checked alone and against each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, cast

from resilient.core.checks import Checker, Matcher, contradiction, matches, names_rejections, refuse
from resilient.core.circuit_plan import DEFAULT_WINDOW_CALLS, CircuitPlan
from resilient.errors import RejectedError

DEFAULT_CONSECUTIVE_FAILURES: Final = 5
DEFAULT_MINIMUM_CALLS: Final = 10


@dataclass(frozen=True, slots=True)
class CircuitBreakerSettings(CircuitPlan):
    """What the factory was given, with the defaults that follow from it filled in."""

    slow_call_duration: float | None
    on: Matcher
    ignore: Matcher
    on_result: Callable[[Any], object] | None
    key: Callable[..., Hashable] | None
    max_keys: int

    @property
    def examines_success(self) -> bool:
        """Must a call that returned be looked at: timed, dated, or asked whether its result is a failure?"""
        unexamined = self.slow_call_duration is None and self.window_duration is None and self.on_result is None
        return not unexamined

    def verdict(self, error: BaseException) -> bool | None:
        """True: a failure. False: a success, for the circuit. None: neutral."""
        if not isinstance(error, Exception):
            return None
        if isinstance(error, RejectedError) and not names_rejections(self.on):
            return None
        if matches(self.ignore, error):
            return None
        return matches(self.on, error)


def check_settings(
    check: Checker,
    *,
    consecutive_failures: Any,
    failure_rate: Any,
    slow_call_rate: Any,
    slow_call_duration: Any,
    window_calls: Any,
    window_duration: Any,
    minimum_calls: Any,
    open_duration: Any,
    half_open_calls: Any,
    success_threshold: Any,
    half_open_failure_rate: Any,
    half_open_timeout: Any,
    on: Any,
    ignore: Any,
    on_result: Any,
    key: Any,
    max_keys: Any,
) -> CircuitBreakerSettings:
    """Settings in seconds and with their defaults, or a ConfigurationError that says which is wrong."""
    if window_calls is not None and window_duration is not None:
        contradiction(
            check.policy, "window_calls and window_duration", (window_calls, window_duration), "give one of the two"
        )
    if slow_call_rate is not None and slow_call_duration is None:
        contradiction(
            check.policy,
            "slow_call_rate and slow_call_duration",
            (slow_call_rate, None),
            "slow_call_rate needs slow_call_duration",
        )
    if success_threshold is not None and half_open_failure_rate is not None:
        contradiction(
            check.policy,
            "success_threshold and half_open_failure_rate",
            (success_threshold, half_open_failure_rate),
            "give one of the two",
        )
    if consecutive_failures is None and failure_rate is None and slow_call_rate is None:
        consecutive_failures = DEFAULT_CONSECUTIVE_FAILURES
    window_calls = check.optional_whole("window_calls", window_calls)
    largest = None if window_duration is not None else window_calls or DEFAULT_WINDOW_CALLS
    if minimum_calls is None:
        minimum_calls = DEFAULT_MINIMUM_CALLS if largest is None else min(DEFAULT_MINIMUM_CALLS, largest)
    check.whole("minimum_calls", minimum_calls)
    if largest is not None and minimum_calls > largest:
        refuse(check.policy, "minimum_calls", minimum_calls, f"at most the calls in the window, {largest}")
    check.whole("half_open_calls", half_open_calls)
    return CircuitBreakerSettings(
        consecutive_failures=check.optional_whole("consecutive_failures", consecutive_failures),
        failure_rate=check.optional_rate("failure_rate", failure_rate),
        slow_call_rate=check.optional_rate("slow_call_rate", slow_call_rate),
        slow_call_duration=check.optional_seconds("slow_call_duration", slow_call_duration),
        window_calls=window_calls,
        window_duration=check.optional_seconds("window_duration", window_duration),
        minimum_calls=minimum_calls,
        open_duration=_open_duration(check, open_duration),
        half_open_calls=half_open_calls,
        success_threshold=check.optional_whole("success_threshold", success_threshold) or half_open_calls,
        half_open_failure_rate=check.optional_rate("half_open_failure_rate", half_open_failure_rate),
        half_open_timeout=check.optional_seconds("half_open_timeout", half_open_timeout),
        on=check.matcher("on", on),
        ignore=check.matcher("ignore", ignore, empty=True),
        on_result=check.optional_function("on_result", on_result, "a function (result) -> bool"),
        key=check.optional_function("key", key, "a function of the call's arguments"),
        max_keys=check.whole("max_keys", max_keys),
    )


def _open_duration(check: Checker, value: Any) -> float | Callable[[int], float]:
    if callable(value):
        check.function("open_duration", value, "seconds above 0, or a function (times_opened_in_a_row) -> seconds")
        return cast("Callable[[int], float]", value)
    return check.seconds("open_duration", value)
